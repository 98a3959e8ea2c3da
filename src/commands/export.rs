//! The `export` command: fetches the tasks in a list and archives them.

use std::future::Future;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Outcome,
    run::{Run, RunRecorder},
    start_media,
};
use crate::{
    archive::LockedArchive,
    config::ExportConfig,
    error::{Error, Result},
    event::Event,
    exit::ExitStatus,
    export::{self, ListState, NotFoundPolicy, Plan, Signal},
    input::{self, Input},
    report::{self, ClosingNotes, Reporter},
    run_summary::RunCommand,
    simulator::SimulatedProvider,
    tables,
};

/// Exports the tasks in a list: fetches every task that the archive lacks, and archives the responses.
///
/// When `stop` resolves, the run ends cleanly and keeps everything that it has fetched.
///
/// # Errors
/// Returns any error that occurs before the first request of the run. An error after the first request is part of the
/// [`Outcome`], which also contains the results of the run up to the error.
pub async fn export(
    config: &ExportConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let mut recorder = RunRecorder::new(reporter);
    let start = (Timestamp::now(), Instant::now());
    let input = input::read(&config.input, &mut |event| recorder.emit(&event))?;
    let archive = LockedArchive::open_or_create(&config.run.archive, config.format, &tables::TABLES, start.0)?;
    let run = Run::begin(RunCommand::Export, &config.run, archive, start, &mut recorder);
    let ended = export_list(config, &run, input, stop, &mut recorder).await;
    let metrics_result = run.write_metrics(&ended, &mut recorder);
    let ExportResult { mut status, mut error, still_journalled, failed_before, refetched_count } = ended?;
    if let Err(failed) = metrics_result {
        (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
    }
    let archive = &run.archive;
    let notes = ClosingNotes {
        archive: &archive.location,
        format: archive.format,
        none_found: recorder.none_found,
        missing_list_written: recorder.missing_list_written,
        still_journalled,
        failed_before,
        refetched: refetched_count,
    };
    let message = report::run_table(&recorder.summary, &notes);
    Ok(Outcome { summary: recorder.summary, status, error, message })
}

/// The result of an export.
struct ExportResult {
    status: ExitStatus,
    error: Option<Error>,
    /// The number of tasks that earlier runs fetched and that are still in the journal.
    still_journalled: u64,
    /// The number of failed assets in the archive before the first request of this run.
    failed_before: u64,
    /// The number of tasks that were archived as not found and that this run requested again.
    refetched_count: u64,
}

/// Exports the tasks in a list to a locked archive.
async fn export_list(
    config: &ExportConfig,
    run: &Run<'_>,
    input: Input,
    stop: impl Future<Output = Signal>,
    recorder: &mut RunRecorder<'_>,
) -> Result<ExportResult> {
    let archive = &run.archive;
    export::write_views(archive)?;
    let mut media = start_media(&config.run.media, &config.run.provider, archive).await?;
    let still_journalled =
        export::recover(archive, &mut media, run.stop_at, &mut |event| recorder.emit(&event)).await?;
    let failed_before = export::failed_assets(archive)?;
    let archived = ListState::archived(archive, &input.tasks, NotFoundPolicy::from_config(config))?;
    // Tasks whose recovery is incomplete already have a response in the journal, so the run does not request them.
    let journalled_tasks = ListState::journalled(archive, &input.tasks)?;
    let missing_assets = export::tasks_lacking_assets(archive, &input.tasks, &config.run.media.kinds)?;
    let plan = Plan::from_list(input, &archived, &journalled_tasks, missing_assets);
    recorder.emit(&Event::Planned(plan.counts.clone()));
    if !plan.stored.is_empty() {
        recorder.emit(&Event::MissingAssets { tasks: plan.stored.len() as u64 });
    }

    let simulated_provider = SimulatedProvider::with_tasks(plan.tasks.clone());
    let result = run.execute(&plan, simulated_provider, media, stop, recorder).await?;
    let is_incomplete = |recorder: &RunRecorder<'_>| {
        let summary = &recorder.summary;
        summary.missing() + summary.input.invalid + summary.assets.failed + recorder.recovered_failed + still_journalled
            > 0
    };
    let (status, error) = run.finish(&plan, result, recorder, is_incomplete);
    Ok(ExportResult { status, error, still_journalled, failed_before, refetched_count: plan.refetched_count() })
}
