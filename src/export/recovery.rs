//! What earlier runs left in the journal: the files that are still missing are downloaded, and every
//! segment is published. There is no other way of recovery than the way that everything goes.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::{self, Instant};

use super::{
    Tell,
    media_stage::{Job, MediaStage, News, Wanted},
    publish::{Publication, publish},
};
use crate::{
    archive::HeldArchive,
    blocking::blocking,
    error::Result,
    event::Event,
    journal::{self, Leftover, Record, Segment},
};

/// Tasks whose files are asked for at once.
const MOST_AT_ONCE: usize = 256;

/// Brings everything that earlier runs left into the archive, as far as there is time; the journal keeps
/// the rest.
pub(crate) async fn recover(
    held: &Arc<HeldArchive>,
    media: &mut MediaStage,
    stop_at: Option<Instant>,
    tell: Tell<'_>,
) -> Result<()> {
    let folder = held.archive.journal_folder();
    for leftover in blocking(move || journal::leftovers(&folder)).await? {
        if !leftover.unsettled.is_empty() {
            let run_id = Segment::open(&leftover.segment.path)?.run_id;
            tell(Event::Resuming { run_id, tasks: leftover.unsettled.len() as u64 });
            let settling = settle(&leftover, media, tell);
            let settled = match stop_at {
                Some(stop_at) => time::timeout_at(stop_at, settling).await,
                None => Ok(settling.await),
            };
            match settled {
                Ok(settled) => settled?,
                Err(_time_is_up) => {
                    media.abort();
                    continue;
                }
            }
        }
        let Publication { run_id, published, damaged } = publish(held, leftover.segment).await?;
        let (tasks, assets_failed) = (published.rows.tasks, published.assets.failed);
        tell(Event::Recovered { run_id, tasks, damaged, assets_failed });
    }
    Ok(())
}

/// Downloads what the tasks of a segment miss, and adds what became of it to the segment.
async fn settle(leftover: &Leftover, media: &mut MediaStage, tell: Tell<'_>) -> Result<()> {
    let mut segment = leftover.reopen()?;
    let mut waiting: VecDeque<_> = leftover.unsettled.iter().collect();
    let mut under_way = 0;
    while !waiting.is_empty() || under_way > 0 {
        while under_way < MOST_AT_ONCE
            && let Some(task) = waiting.pop_front()
        {
            let wanted = Wanted::of(&task.data, &task.assets);
            media.settle(Job { task_id: task.task_id.clone(), part: 0, wanted });
            under_way += 1;
        }
        let mut records = Vec::new();
        while let Some(news) = next(media, records.is_empty()).await {
            match news {
                News::Happened(event) => tell(event),
                News::Unsettled => under_way -= 1,
                News::Settled { task_id, assets, .. } => records.push(Record::Assets { task_id, assets }),
            }
        }
        if records.is_empty() && under_way > 0 {
            // Why the stage has ended, it says itself.
            return media.ended().await;
        }
        under_way -= records.len();
        segment = blocking(move || segment.append(&records).map(|()| segment)).await?;
    }
    Ok(())
}

/// The next news; those after the first only if they are there already.
async fn next(media: &mut MediaStage, wait: bool) -> Option<News> {
    if wait { media.news.recv().await } else { media.news.try_recv().ok() }
}
