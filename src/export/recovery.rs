//! Recovers segments that earlier runs left in the journal. Recovery downloads missing files and publishes the segments
//! in the same way as a normal run.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{self, Instant};

use super::{
    EventSink,
    media_stage::{DeferPolicy, DownloadEvent, MediaJob, MediaStage},
    publish::publish,
    recovered_run,
    superseded::superseded_tasks,
};
use crate::{
    archive::LockedArchive,
    blocking::blocking,
    error::{Error, Result},
    event::{Downloads, Event, Progress},
    journal::{self, Leftover, Record, SegmentReader},
};

/// The maximum number of tasks whose files are downloaded concurrently.
const MAX_UNSETTLED: usize = 256;

/// The maximum age of a task's response at which files on an unreachable host are left for the next run. If the
/// response is older, such files are marked as failed.
const MAX_RETRY_AGE: SignedDuration = SignedDuration::from_hours(72);

/// The interval between progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Downloads the missing files of leftover segments until `stop_at`, and publishes the segments without pending assets.
/// Segments with pending assets stay in the journal. Returns the number of tasks with pending assets.
pub(crate) async fn recover(
    archive: &Arc<LockedArchive>,
    media: &mut MediaStage,
    stop_at: Option<Instant>,
    emit: EventSink<'_>,
) -> Result<u64> {
    let folder = archive.journal_folder();
    let (mut remaining, mut deadline_reached) = (0, false);
    for leftover in blocking(move || journal::leftovers(&folder)).await? {
        let leftover = without_superseded(archive, leftover).await?;
        let leftover = without_lost_files(archive, leftover).await?;
        let mut unsettled = leftover.unsettled.len() as u64;
        if unsettled > 0 && !deadline_reached {
            let run_id = SegmentReader::open(&leftover.segment.path)?.run_id;
            emit(Event::Resuming { run_id, tasks: unsettled });
            let settling = settle(&leftover, media, emit);
            match stop_at {
                None => unsettled = settling.await?,
                Some(stop_at) => match time::timeout_at(stop_at, settling).await {
                    Ok(remaining) => unsettled = remaining?,
                    Err(_elapsed) => deadline_reached = true,
                },
            }
        }
        if unsettled > 0 {
            remaining += unsettled;
            continue;
        }
        let publication = publish(archive, leftover.segment).await?;
        let (run_id, damaged) = (publication.run_id.clone(), publication.damaged);
        // If the journal was restored from a copy, an earlier run may already have recovered this part.
        let is_new = recovered_run::write_summary(archive, &publication)?;
        let (tasks, assets_failed) = (publication.published.rows.tasks, publication.published.assets.failed);
        if (is_new && tasks > 0) || damaged > 0 {
            emit(Event::Recovered { run_id, tasks, damaged, assets_failed });
        }
        publication.release(archive)?;
    }
    Ok(remaining)
}

/// Excludes tasks from a leftover segment if the archive already contains their rows.
async fn without_superseded(archive: &Arc<LockedArchive>, mut leftover: Leftover) -> Result<Leftover> {
    let archive = archive.clone();
    blocking(move || {
        let superseded = superseded_tasks(&archive, &leftover.segment)?;
        leftover.unsettled.retain(|task| !superseded.contains(&task.task_id));
        leftover.segment.excluded.extend(superseded);
        Ok(leftover)
    })
    .await
}

/// Marks assets of tasks in a leftover segment as pending again if their files are missing or have the wrong size.
/// Files can be missing because a user removed them or because the journal was restored from a copy. Files with the
/// wrong size are quarantined.
async fn without_lost_files(archive: &Arc<LockedArchive>, mut leftover: Leftover) -> Result<Leftover> {
    let archive = archive.clone();
    blocking(move || {
        let mut lost = HashSet::new();
        leftover.mark_unsettled_if_lost(|asset| {
            let Some(path) = &asset.path else { return Ok(false) };
            let size = archive.size(path).map_err(|error| archive.store.storage_error("read", path, &error))?;
            let is_lost = size != asset.bytes;
            if is_lost {
                lost.insert(path.clone());
            }
            Ok(is_lost)
        })?;
        if !lost.is_empty() {
            archive.quarantine(&lost)?;
        }
        Ok(leftover)
    })
    .await
}

/// Downloads the missing files of a segment's tasks, and appends the outcome of each task's assets to the segment.
/// Returns the number of tasks that still have pending assets.
async fn settle(leftover: &Leftover, media: &mut MediaStage, emit: EventSink<'_>) -> Result<u64> {
    let mut segment = leftover.reopen()?;
    let mut pending = leftover.unsettled.iter();
    let (mut in_progress, mut remaining) = (0, 0);
    let mut downloads = Downloads::default();
    let mut tick = time::interval(PROGRESS_INTERVAL);
    loop {
        for task in pending.by_ref().take(MAX_UNSETTLED - in_progress) {
            let asset_requests = media.requests(&task.data, &task.assets);
            downloads.expected += asset_requests.iter().filter(|request| request.is_expected()).count() as u64;
            let is_recent = Timestamp::now().duration_since(task.fetched_at) < MAX_RETRY_AGE;
            let defer_policy = if is_recent { DeferPolicy::Always } else { DeferPolicy::Never };
            media.settle(MediaJob { task_id: task.task_id.clone(), part: None, asset_requests, defer_policy });
            in_progress += 1;
        }
        if in_progress == 0 {
            return Ok(remaining);
        }
        tokio::select! {
            events = media.events.recv() => match events {
                Some(DownloadEvent::Forward(event)) => {
                    downloads.record(&event);
                    emit(event);
                }
                Some(DownloadEvent::Settled { task_id, assets, .. }) => {
                    in_progress -= 1;
                    let record = Record::Assets { task_id, assets };
                    segment = blocking(move || segment.append([&record]).map(|()| segment)).await?;
                }
                Some(DownloadEvent::Unsettled { .. }) => {
                    in_progress -= 1;
                    remaining += 1;
                }
                // The media stage was not told to stop, so it ended because of an error. `join` returns the error.
                None => {
                    media.join().await?;
                    return Err(Error::Internal("the media stage ended during the recovery of an earlier run".into()));
                }
            },
            _ = tick.tick() => {
                downloads.update_speed(media.received(), PROGRESS_INTERVAL);
                emit(Event::Progress(Progress { downloads: downloads.clone(), ..Progress::default() }));
            }
        }
    }
}
