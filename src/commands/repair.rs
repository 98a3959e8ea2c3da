//! The `repair` command: repairs the damage that `verify` finds, and retries failed downloads.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Outcome,
    run::{Log, Run, reached},
    start_media,
};
use crate::{
    archive::{Archive, Location, LockedArchive, RunFile, StoredFile, Swap},
    blocking::blocking,
    config::RunConfig,
    error::{Error, Result},
    event::Event,
    exit::ExitStatus,
    export::{self, Ending, Known, RunResult, Signal},
    repair::{self, Interruption, Plan, RepairOutcome},
    report::{self, Reporter},
    run_id::RunId,
    run_summary::{RunCommand, RunSummary},
    simulator::SimulatedProvider,
    tables::{self, TASKS},
    verify::{self, Depth, Report},
};

/// The capacity of the channel that carries events from the check to the reporter.
const MOST_WAITING: usize = 256;

/// Plans a repair, and returns the plan as a message for the user. Planning sends no request and changes no file.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, and [`Error::Storage`] if the archive cannot
/// be read.
pub async fn plan(config: &RunConfig, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let mut log = Log::new(reporter);
    let plan = look(config, verify::check_to_plan, &mut log).await?;
    let words = report::repair_plan_table(&plan, &config.archive.to_string());
    Ok(Outcome { summary: RunSummary::default(), status: ExitStatus::Complete, error: None, words })
}

/// Repairs an archive. A repair quarantines damaged files, and restores the affected tasks from stored responses or
/// with new requests.
///
/// When `stop` resolves, the repair ends cleanly, but not before the check has finished. Completed repairs are kept,
/// and the next repair resumes the pending work.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, [`Error::Held`] if another process holds the
/// lock, and [`Error::Storage`] if the archive cannot be read or written.
pub async fn repair(
    config: &RunConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let mut log = Log::new(reporter);
    let start = (Timestamp::now(), Instant::now());
    let held = LockedArchive::open(&config.archive, &tables::TABLES, start.0)?;
    let run = Run::begin(RunCommand::Repair, config, held, start, &mut log);
    let ended = repair_archive(&run, stop, &mut log).await;
    let measured = run.leave_metrics(&ended, &mut log);
    let (ended, mut status, mut error) = ended?;
    if let Err(failed) = measured {
        (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
    }
    let words = report::repair_table(&ended, &log.summary, &config.archive.to_string());
    Ok(Outcome { summary: log.summary, status, error, words })
}

/// Repairs a locked archive.
async fn repair_archive(
    run: &Run<'_>,
    stop: impl Future<Output = Signal>,
    log: &mut Log<'_>,
) -> Result<(RepairOutcome, ExitStatus, Option<Error>)> {
    let (held, config) = (&run.held, run.config);
    let mut media = start_media(&config.media, &config.provider, held).await?;
    let left = export::recover(held, &mut media, run.stop_at, &mut |event| log.emit(&event)).await?;
    let plan = tokio::select! {
        looked = look(config, verify::check_held, log) => looked?,
        () = reached(run.stop_at) => return Ok((RepairOutcome::out_of_time(left), ExitStatus::Incomplete, None)),
    };
    let (preparing, run_id) = (held.clone(), run.id.clone());
    let plan = blocking(move || prepare(&preparing, plan, &run_id)).await?;
    let tasks = plan_tasks(held, &plan, log).await?;
    let asked = run.carry_out(&tasks, SimulatedProvider::every(), media, stop, log).await?;
    export::write_views(held)?;
    let (restored, interruption) = (note_rest(held, &plan, &tasks, &asked, log)?, interruption(&asked.ending));
    let is_incomplete = |log: &Log<'_>| RepairOutcome::is_incomplete(&plan, log.failures.as_ref(), left);
    let (status, error) = run.finish(&tasks, asked, log, is_incomplete);
    let list = (log.missing_named && log.summary.missing() > 0).then(|| RunFile::Unfinished.path(&run.id));
    let failed = log.failures.take().map(|failures| failures.into_reasons(interruption.is_some())).unwrap_or_default();
    let (recovered, downloaded) = (log.recovered, log.downloaded);
    Ok((RepairOutcome { plan, restored, failed, recovered, downloaded, left, interruption, list }, status, error))
}

fn interruption(ending: &Ending) -> Option<Interruption> {
    match ending {
        Ending::Signal(signal) => Some(Interruption::Signal(*signal)),
        Ending::TimeIsUp => Some(Interruption::TimeIsUp),
        Ending::Done | Ending::KeyRefused | Ending::Failed(_) => None,
    }
}

/// The plan of the run that restores the tasks.
async fn plan_tasks(held: &Arc<LockedArchive>, plan: &Arc<Plan>, log: &mut Log<'_>) -> Result<export::Plan> {
    let (reading, kept) = (held.clone(), plan.kept.clone());
    let salvage = blocking(move || Ok(export::salvageable(reading.archive.format, &kept))).await?;
    let (tasks, invalid) = export::Plan::of_items(plan.items(&salvage));
    let mut failures = plan.failures(&salvage);
    for task in invalid {
        failures.add_invalid(task);
    }
    log.failures = Some(failures);
    // A task whose response is already in the journal is not requested again.
    let journalled = Known::journalled(&held.archive, &tasks.tasks)?;
    let tasks = tasks.resuming(&journalled, plan.kept.clone());
    log.summary.observe(&Event::Planned(tasks.counts.clone()));
    Ok(tasks)
}

/// Saves the pending work for the next repair, and returns the number of restored tasks.
fn note_rest(held: &LockedArchive, plan: &Plan, tasks: &export::Plan, asked: &RunResult, log: &Log<'_>) -> Result<u64> {
    let ledger = &asked.ledger;
    let is_salvaged = |task: &str| log.failures.as_ref().is_some_and(|failures| failures.is_salvaged(task));
    let is_restored =
        |task: &str| tasks.tasks.find(task).is_some_and(|task| ledger.is_published(task)) && !is_salvaged(task);
    let is_done =
        |task: &str| is_restored(task) || tasks.tasks.find(task).is_some_and(|task| ledger.is_forgotten(task));
    let rest = plan.rest(is_done, is_salvaged);
    if rest.tasks.is_empty() { held.end_repair() } else { held.note_repair(&rest) }?;
    let is_whole =
        |task: &&String| is_restored(task) && !log.failures.as_ref().is_some_and(|failures| failures.has(task));
    Ok(plan.tasks.iter().filter(is_whole).count() as u64)
}

/// Saves the plan, so that the next repair can complete it. Also quarantines damaged files, and adds unlisted files to
/// this run's manifest. Performs blocking I/O.
fn prepare(held: &Arc<LockedArchive>, mut plan: Plan, run_id: &RunId) -> Result<Arc<Plan>> {
    // The manifests are regenerated first, because later steps read them.
    plan.manifests.iter().try_for_each(|manifest| held.regenerate_manifest(manifest))?;
    held.quarantine(&plan.run_files.iter().chain(&plan.strays).cloned().collect())?;
    if plan.checksums {
        held.regenerate_checksums()?;
    }
    if let Some(parts) = plan.parts.get(TASKS.name) {
        plan.kept.extend(held.quarantine_copies(parts)?);
    }
    if !plan.is_empty() {
        held.note_repair(&plan)?;
    }
    held.quarantine(&plan.media)?;
    for (table, parts) in &plan.parts {
        if table != TASKS.name {
            held.quarantine_copies(parts)?;
        }
        let parts: Vec<String> = parts.iter().cloned().collect();
        Swap::begin(held, table, run_id)?.commit(&parts)?;
    }
    let listed = plan.unlisted.iter().map(|path| repair::listed(&held.archive, path));
    let files: Vec<StoredFile> = listed.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if !files.is_empty() {
        held.add_to_manifest(&RunFile::Manifest.path(run_id), &files)?;
    }
    Ok(Arc::new(plan))
}

/// A function that checks an archive.
type Check = fn(&Location, Depth, &mut dyn FnMut(&Event)) -> Result<Report>;

/// Checks the archive, and plans the repair.
async fn look(config: &RunConfig, check: Check, log: &mut Log<'_>) -> Result<Plan> {
    let location = config.archive.clone();
    let (send, mut told) = mpsc::channel(MOST_WAITING);
    let looking = tokio::spawn(blocking(move || {
        // If the repair has ended, the channel is closed and the event is dropped.
        let report = check(&location, Depth::Full, &mut |event| drop(send.blocking_send(event.clone())))?;
        let archive = Archive::open(&location)?;
        let begun = archive.begun_repair()?;
        Plan::new(&archive, &report, begun)
    }));
    while let Some(event) = told.recv().await {
        log.emit(&event);
    }
    looking.await.unwrap_or_else(|panic| Err(Error::Internal(format!("the check before the repair failed: {panic}"))))
}
