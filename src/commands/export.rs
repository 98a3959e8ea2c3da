//! The `export` command: fetches the tasks in a list and archives them.

use std::future::Future;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Outcome,
    run::{Log, Run},
    start_media,
};
use crate::{
    archive::LockedArchive,
    config::ExportConfig,
    error::{Error, Result},
    event::Event,
    exit::ExitStatus,
    export::{self, Known, NotFound, Plan, Signal},
    input::{self, Input},
    report::{self, Reporter, RunNotes},
    run_summary::RunCommand,
    simulator::SimulatedProvider,
    tables,
};

/// Exports a list: fetches every task that the archive lacks, and archives the responses.
///
/// When `stop` resolves, the run ends cleanly and keeps everything that it has fetched.
///
/// # Errors
/// Returns an error that stops the run before its first request. A later error is part of the [`Outcome`], because the
/// run then has results to report as well.
pub async fn export(
    config: &ExportConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let mut log = Log::new(reporter);
    let start = (Timestamp::now(), Instant::now());
    let input = input::read(&config.input, &mut |event| log.emit(&event))?;
    let held = LockedArchive::open_or_create(&config.run.archive, config.format, &tables::TABLES, start.0)?;
    let run = Run::begin(RunCommand::Export, &config.run, held, start, &mut log);
    let ended = export_list(config, &run, input, stop, &mut log).await;
    let measured = run.leave_metrics(&ended, &mut log);
    let Exported { mut status, mut error, left, failed_before, requested_again } = ended?;
    if let Err(failed) = measured {
        (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
    }
    let archive = &run.held.archive;
    let notes = RunNotes {
        archive: &archive.name,
        format: archive.format,
        none_found: log.none_found,
        missing_named: log.missing_named,
        left,
        failed_before,
        asked_again: requested_again,
    };
    let words = report::run_table(&log.summary, &notes);
    Ok(Outcome { summary: log.summary, status, error, words })
}

/// The result of an export.
struct Exported {
    status: ExitStatus,
    error: Option<Error>,
    /// The number of tasks from earlier runs that remain in the journal.
    left: u64,
    /// The number of failed assets in the archive before the first request of this run.
    failed_before: u64,
    /// The number of tasks archived as not found that this run requested again.
    requested_again: u64,
}

/// Exports a list to a locked archive.
async fn export_list(
    config: &ExportConfig,
    run: &Run<'_>,
    input: Input,
    stop: impl Future<Output = Signal>,
    log: &mut Log<'_>,
) -> Result<Exported> {
    let held = &run.held;
    export::write_views(held)?;
    let mut media = start_media(&config.run.media, &config.run.provider, held).await?;
    let left = export::recover(held, &mut media, run.stop_at, &mut |event| log.emit(&event)).await?;
    let archive = &held.archive;
    let failed_before = export::failed_assets(archive)?;
    let known = Known::archived(archive, &input.tasks, NotFound::of(config))?;
    // Tasks that recovery could not complete already have a response in the journal.
    let kept = Known::journalled(archive, &input.tasks)?;
    let lacking = export::tasks_lacking_assets(archive, &input.tasks, &config.run.media.kinds)?;
    let plan = Plan::of_list(input, &known, &kept, lacking);
    log.emit(&Event::Planned(plan.counts.clone()));
    if !plan.stored.is_empty() {
        log.emit(&Event::AssetsLacking { tasks: plan.stored.len() as u64 });
    }

    let world = SimulatedProvider::knowing(plan.tasks.clone());
    let asked = run.carry_out(&plan, world, media, stop, log).await?;
    let is_incomplete = |log: &Log<'_>| {
        let summary = &log.summary;
        summary.missing() + summary.input.invalid + summary.assets.failed + log.recovered_failed + left > 0
    };
    let (status, error) = run.finish(&plan, asked, log, is_incomplete);
    Ok(Exported { status, error, left, failed_before, requested_again: plan.requested_again() })
}
