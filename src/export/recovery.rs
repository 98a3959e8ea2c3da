//! Recovers segments that earlier runs left in the journal. Recovery downloads missing files and publishes every
//! segment, in the same way as a normal run.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{self, Instant};

use super::{
    EventSink,
    media_stage::{DownloadEvent, Job, MediaStage, RetryBudget},
    publish::{Publication, publish},
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

/// The maximum number of tasks whose files are downloaded at once.
const MOST_AT_ONCE: usize = 256;

/// The age of a response up to which files on an unreachable host are left to the next run. Files of a task with an
/// older response fail.
const MAX_RETRY_AGE: SignedDuration = SignedDuration::from_hours(72);

/// The interval between progress events.
const TICK: Duration = Duration::from_secs(1);

/// Publishes the segments that earlier runs left, and downloads their missing files until `stop_at`. Segments with
/// unsettled tasks stay in the journal. Returns the number of unsettled tasks.
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
        let Publication { run_id, published, damaged } = publish(held, leftover.segment).await?;
        let (tasks, assets_failed) = (published.rows.tasks, published.assets.failed);
        recovered_run::record(held, &run_id, &published)?;
        emit(Event::Recovered { run_id, tasks, damaged, assets_failed });
    }
    Ok(left)
}

/// Removes tasks from a leftover segment if the archive already contains their rows.
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

/// Marks tasks of a leftover segment as unsettled if their files are missing or have a different size. Files can be
/// missing because a user removed them or because the journal was restored from a copy. Files with a wrong size are
/// quarantined.
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

/// Downloads the missing files of a segment's tasks, and appends the outcomes to the segment. Returns the number of
/// tasks that remain unsettled.
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
                // The media stage was not told to stop, so it ended because of an error. `ended` returns the error.
                None => {
                    media.ended().await?;
                    return Err(Error::Internal("the media stage ended while recovering an earlier run".into()));
                }
            },
            _ = tick.tick() => {
                downloads.receive(media.received(), TICK);
                emit(Event::Progress(Progress { downloads: downloads.clone(), ..Progress::default() }));
            }
        }
    }
}
