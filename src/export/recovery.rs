//! Recovery of what earlier runs left in the journal: missing files are downloaded, and every segment is
//! published, as in any run.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{self, Instant};

use super::{
    EventSink,
    media_stage::{DownloadEvent, Job, MediaStage, RetryBudget},
    publish::publish,
    recovered_run,
    superseded::superseded_tasks,
};
use crate::{
    archive::LockedArchive,
    blocking::blocking,
    error::{Error, Result},
    event::{Downloads, Event, Progress},
    journal::{self, Leftover, Record, Segment},
};

/// Tasks whose files are downloaded at once.
const MOST_AT_ONCE: usize = 256;

/// A file without a connection is left to the next run again, until its task's response is this old; then it
/// fails.
const MAX_RETRY_AGE: SignedDuration = SignedDuration::from_hours(72);

/// The interval of progress events.
const TICK: Duration = Duration::from_secs(1);

/// Publishes everything that earlier runs left, as far as time allows; the rest stays in the journal. Returns
/// how many tasks stay.
pub(crate) async fn recover(
    held: &Arc<LockedArchive>,
    media: &mut MediaStage,
    stop_at: Option<Instant>,
    emit: EventSink<'_>,
) -> Result<u64> {
    let folder = held.archive.journal_folder();
    let (mut left, mut time_is_up) = (0, false);
    for leftover in blocking(move || journal::leftovers(&folder)).await? {
        let leftover = without_superseded(held, leftover).await?;
        let leftover = without_lost_files(held, leftover).await?;
        let mut unsettled = leftover.unsettled.len() as u64;
        if unsettled > 0 && !time_is_up {
            let run_id = Segment::open(&leftover.segment.path)?.run_id;
            emit(Event::Resuming { run_id, tasks: unsettled });
            let settling = settle(&leftover, media, emit);
            match stop_at {
                None => unsettled = settling.await?,
                Some(stop_at) => match time::timeout_at(stop_at, settling).await {
                    Ok(left) => unsettled = left?,
                    Err(_elapsed) => time_is_up = true,
                },
            }
        }
        if unsettled > 0 {
            left += unsettled;
            continue;
        }
        let publication = publish(held, leftover.segment).await?;
        let (run_id, damaged) = (publication.run_id.clone(), publication.damaged);
        // A part that was recovered before, from a journal that was since restored, adds nothing.
        let is_new = recovered_run::record(held, &publication)?;
        let (tasks, assets_failed) = (publication.published.rows.tasks, publication.published.assets.failed);
        if (is_new && tasks > 0) || damaged > 0 {
            emit(Event::Recovered { run_id, tasks, damaged, assets_failed });
        }
        publication.release(held)?;
    }
    Ok(left)
}

/// Drops tasks from a leftover that the archive already has.
async fn without_superseded(held: &Arc<LockedArchive>, mut leftover: Leftover) -> Result<Leftover> {
    let held = held.clone();
    blocking(move || {
        let superseded = superseded_tasks(&held, &leftover.segment)?;
        leftover.unsettled.retain(|task| !superseded.contains(&task.task_id));
        leftover.segment.moved.extend(superseded);
        Ok(leftover)
    })
    .await
}

/// The same with tasks to settle again whose files are missing or have another size: someone removed them since, or
/// the journal was restored from a copy. The remains of such files are quarantined.
async fn without_lost_files(held: &Arc<LockedArchive>, mut leftover: Leftover) -> Result<Leftover> {
    let held = held.clone();
    blocking(move || {
        let mut lost = HashSet::new();
        leftover.unsettle(|asset| {
            let Some(path) = &asset.path else { return Ok(false) };
            let size = held.archive.size(path).map_err(|error| held.archive.store.failed("read", path, &error))?;
            let is_lost = size != asset.bytes;
            if is_lost {
                lost.insert(path.clone());
            }
            Ok(is_lost)
        })?;
        if !lost.is_empty() {
            held.quarantine(&lost)?;
        }
        Ok(leftover)
    })
    .await
}

/// Downloads the missing files of a segment's tasks, and adds their outcome to the segment. Returns how many
/// tasks remain unsettled.
async fn settle(leftover: &Leftover, media: &mut MediaStage, emit: EventSink<'_>) -> Result<u64> {
    let mut segment = leftover.reopen()?;
    let mut waiting = leftover.unsettled.iter();
    let (mut under_way, mut left) = (0, 0);
    let mut downloads = Downloads::default();
    let mut tick = time::interval(TICK);
    loop {
        for task in waiting.by_ref().take(MOST_AT_ONCE - under_way) {
            let wanted = media.requests(&task.data, &task.assets);
            downloads.wanted += wanted.iter().filter(|wanted| wanted.is_expected()).count() as u64;
            let is_young = Timestamp::now().duration_since(task.fetched_at) < MAX_RETRY_AGE;
            let retry_budget = if is_young { RetryBudget::Another } else { RetryBudget::Last };
            media.settle(Job { task_id: task.task_id.clone(), part: None, wanted, retry_budget });
            under_way += 1;
        }
        if under_way == 0 {
            return Ok(left);
        }
        tokio::select! {
            events = media.events.recv() => match events {
                Some(DownloadEvent::Happened(event)) => {
                    downloads.note(&event);
                    emit(event);
                }
                Some(DownloadEvent::Settled { task_id, assets, .. }) => {
                    under_way -= 1;
                    let record = Record::Assets { task_id, assets };
                    segment = blocking(move || segment.append([&record]).map(|()| segment)).await?;
                }
                Some(DownloadEvent::Unsettled { .. }) => {
                    under_way -= 1;
                    left += 1;
                }
                // The stage was not told to stop, so an error ended it, which it reports itself.
                None => {
                    media.ended().await?;
                    return Err(Error::Internal("the downloads of an earlier run ended too soon".into()));
                }
            },
            _ = tick.tick() => {
                downloads.receive(media.received(), TICK);
                emit(Event::Progress(Progress { downloads: downloads.clone(), ..Progress::default() }));
            }
        }
    }
}
