//! The `repair` command: repairs the damage that `verify` finds, and retries failed downloads.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Outcome,
    run::{Run, RunRecorder, sleep_until_or_forever},
    start_media,
};
use crate::{
    archive::{Archive, Location, LockedArchive, RunFile, StoredFile, Swap},
    blocking::blocking,
    config::RunConfig,
    error::{Error, Result},
    event::Event,
    exit::ExitStatus,
    export::{self, ListState, RunResult, Signal, StopReason},
    repair::{self, Interruption, Plan, RepairOutcome},
    report::{self, Reporter},
    run_id::RunId,
    run_summary::{RunCommand, RunSummary},
    simulator::SimulatedProvider,
    tables::{self, TASKS},
    verify::{self, Depth, Report},
};

/// The capacity of the channel through which the check sends events to the reporter.
const EVENT_CHANNEL_CAPACITY: usize = 256;

/// Plans a repair, and returns the plan as a message for the user. Planning sends no request and changes no file.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, and [`Error::Storage`] if the archive cannot
/// be read.
pub async fn plan(config: &RunConfig, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let mut recorder = RunRecorder::new(reporter);
    let plan = check_and_plan(config, verify::check_for_repair, &mut recorder).await?;
    let message = report::repair_plan_table(&plan, &config.archive.to_string());
    Ok(Outcome { summary: RunSummary::default(), status: ExitStatus::Complete, error: None, message })
}

/// Repairs an archive. A repair quarantines damaged files, and restores the affected tasks from stored responses or
/// with new requests.
///
/// When `stop` resolves, the repair ends cleanly, but not before the check has finished. Completed repairs are kept,
/// and the next repair resumes the pending work.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, [`Error::Locked`] if another process holds the
/// lock, and [`Error::Storage`] if the archive cannot be read or written.
pub async fn repair(
    config: &RunConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let mut recorder = RunRecorder::new(reporter);
    let start = (Timestamp::now(), Instant::now());
    let archive = LockedArchive::open(&config.archive, &tables::TABLES, start.0)?;
    let run = Run::begin(RunCommand::Repair, config, archive, start, &mut recorder);
    let ended = repair_archive(&run, stop, &mut recorder).await;
    let metrics_result = run.write_metrics(&ended, &mut recorder);
    let (ended, mut status, mut error) = ended?;
    if let Err(failed) = metrics_result {
        (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
    }
    let message = report::repair_table(&ended, &recorder.summary, &config.archive.to_string());
    Ok(Outcome { summary: recorder.summary, status, error, message })
}

/// Repairs a locked archive.
async fn repair_archive(
    run: &Run<'_>,
    stop: impl Future<Output = Signal>,
    recorder: &mut RunRecorder<'_>,
) -> Result<(RepairOutcome, ExitStatus, Option<Error>)> {
    let (archive, config) = (&run.archive, run.config);
    let mut media = start_media(&config.media, &config.provider, archive).await?;
    let still_journalled =
        export::recover(archive, &mut media, run.stop_at, &mut |event| recorder.emit(&event)).await?;
    let plan = tokio::select! {
        planned = check_and_plan(config, verify::check_locked, recorder) => planned?,
        () = sleep_until_or_forever(run.stop_at) => {
            return Ok((RepairOutcome::deadline_reached(still_journalled), ExitStatus::Incomplete, None));
        }
    };
    let (locked, run_id) = (archive.clone(), run.id.clone());
    let plan = blocking(move || quarantine_damage(&locked, plan, &run_id)).await?;
    let tasks = plan_tasks(archive, &plan, recorder).await?;
    let result = run.execute(&tasks, SimulatedProvider::accepting_any_task(), media, stop, recorder).await?;
    export::write_views(archive)?;
    let (restored, interruption) =
        (save_pending_work(archive, &plan, &tasks, &result, recorder)?, interruption(&result.stop_reason));
    let is_incomplete =
        |recorder: &RunRecorder<'_>| RepairOutcome::is_incomplete(&plan, recorder.failures.as_ref(), still_journalled);
    let (status, error) = run.finish(&tasks, result, recorder, is_incomplete);
    let missing_list_path =
        (recorder.missing_list_written && recorder.missing_list_len > 0).then(|| RunFile::Unfinished.path(&run.id));
    let failed =
        recorder.failures.take().map(|failures| failures.into_reasons(interruption.is_some())).unwrap_or_default();
    let (recovered, downloaded) = (recorder.recovered, recorder.downloaded);
    Ok((
        RepairOutcome {
            plan,
            restored,
            failed,
            recovered,
            downloaded,
            still_journalled,
            interruption,
            missing_list_path,
        },
        status,
        error,
    ))
}

fn interruption(stop_reason: &StopReason) -> Option<Interruption> {
    match stop_reason {
        StopReason::Signal(signal) => Some(Interruption::Signal(*signal)),
        StopReason::DeadlineReached => Some(Interruption::DeadlineReached),
        StopReason::Done | StopReason::KeyRejected | StopReason::Failed(_) => None,
    }
}

/// Creates the plan of the run that restores the affected tasks.
async fn plan_tasks(
    archive: &Arc<LockedArchive>,
    plan: &Arc<Plan>,
    recorder: &mut RunRecorder<'_>,
) -> Result<export::Plan> {
    let (locked, copies) = (archive.clone(), plan.quarantined_copies.clone());
    let salvage = blocking(move || Ok(export::salvageable(locked.format, &copies))).await?;
    let (tasks, invalid) = export::Plan::from_items(plan.items(&salvage));
    let mut failures = plan.failures(&salvage);
    for task in invalid {
        failures.add_invalid(task);
    }
    recorder.failures = Some(failures);
    // A task whose response is already in the journal is not requested again.
    let journalled = ListState::journalled(archive, &tasks.tasks)?;
    let tasks = tasks.resume_from_journal(&journalled, plan.quarantined_copies.clone());
    recorder.summary.observe(&Event::Planned(tasks.counts.clone()));
    Ok(tasks)
}

/// Saves the pending work for the next repair, and returns the number of restored tasks.
fn save_pending_work(
    archive: &LockedArchive,
    plan: &Plan,
    tasks: &export::Plan,
    result: &RunResult,
    recorder: &RunRecorder<'_>,
) -> Result<u64> {
    let ledger = &result.ledger;
    let is_salvaged = |task: &str| recorder.failures.as_ref().is_some_and(|failures| failures.is_salvaged(task));
    let is_restored =
        |task: &str| tasks.tasks.find(task).is_some_and(|task| ledger.is_published(task)) && !is_salvaged(task);
    let is_done = |task: &str| {
        is_restored(task) || tasks.tasks.find(task).is_some_and(|task| ledger.is_deleted_by_provider(task))
    };
    let remaining = plan.remaining(is_done, is_salvaged);
    if remaining.tasks.is_empty() { archive.remove_repair_plan() } else { archive.save_repair_plan(&remaining) }?;
    let is_fully_restored = |task: &&String| {
        is_restored(task) && !recorder.failures.as_ref().is_some_and(|failures| failures.contains(task))
    };
    Ok(plan.tasks.iter().filter(is_fully_restored).count() as u64)
}

/// Saves the repair plan, so that the next repair can resume this repair if it is interrupted. Also quarantines damaged
/// files, and adds unlisted files to the manifest of this run. Performs blocking I/O.
fn quarantine_damage(archive: &Arc<LockedArchive>, mut plan: Plan, run_id: &RunId) -> Result<Arc<Plan>> {
    // Damaged manifests are regenerated first, because the later steps read manifests.
    plan.manifests.iter().try_for_each(|manifest| archive.regenerate_manifest(manifest))?;
    archive.quarantine(&plan.run_files.iter().chain(&plan.strays).cloned().collect())?;
    if plan.rewrite_checksums {
        archive.regenerate_checksums()?;
    }
    if let Some(parts) = plan.parts.get(TASKS.name) {
        plan.quarantined_copies.extend(archive.copy_to_quarantine(parts)?);
    }
    if !plan.is_empty() {
        archive.save_repair_plan(&plan)?;
    }
    archive.quarantine(&plan.media)?;
    for (table, parts) in &plan.parts {
        if table != TASKS.name {
            archive.copy_to_quarantine(parts)?;
        }
        let parts: Vec<String> = parts.iter().cloned().collect();
        Swap::begin(archive, table, run_id)?.commit(&parts)?;
    }
    let listed = plan.unlisted.iter().map(|path| repair::manifest_entry(archive, path));
    let files: Vec<StoredFile> = listed.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if !files.is_empty() {
        archive.add_to_manifest(&RunFile::Manifest.path(run_id), &files)?;
    }
    Ok(Arc::new(plan))
}

/// A function that checks an archive.
type Check = fn(&Location, Depth, &mut dyn FnMut(&Event)) -> Result<Report>;

/// Checks the archive, and plans the repair.
async fn check_and_plan(config: &RunConfig, check: Check, recorder: &mut RunRecorder<'_>) -> Result<Plan> {
    let location = config.archive.clone();
    let (event_sender, mut events) = mpsc::channel(EVENT_CHANNEL_CAPACITY);
    let checking = tokio::spawn(blocking(move || {
        // If the repair has ended, the channel is closed, and the check drops the event.
        let report = check(&location, Depth::Full, &mut |event| drop(event_sender.blocking_send(event.clone())))?;
        let archive = Archive::open(&location)?;
        let interrupted = archive.load_repair_plan()?;
        Plan::new(&archive, &report, interrupted)
    }));
    while let Some(event) = events.recv().await {
        recorder.emit(&event);
    }
    checking.await.unwrap_or_else(|panic| Err(Error::Internal(format!("the check before the repair failed: {panic}"))))
}
