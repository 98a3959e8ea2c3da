//! The steps that exports and repairs share. A run holds the lock on its archive, executes a plan, and writes a run
//! summary, a list of missing tasks and metrics.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use tokio::time::{self, Instant};

use super::{connect_to, metrics, missing::MissingList};
use crate::{
    archive::{LockedArchive, RunFile},
    asset::AssetStatus,
    config::RunConfig,
    error::{Error, Result},
    event::{Event, MissingReason},
    exit::ExitStatus,
    export::{
        Coordinator, Ledger, MediaStage, MissingTask, Plan, ResponseSource, RunContext, RunResult, Signal, StopReason,
    },
    journal::{self, SegmentLimits},
    repair::Failures,
    report::Reporter,
    run_id::RunId,
    run_summary::{RunCommand, RunSummary},
    simulator::SimulatedProvider,
};

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The run's summary, as stored in `runs/<run_id>.json`.
    pub summary: RunSummary,
    /// The exit status of the process.
    pub status: ExitStatus,
    /// The error that stopped the run, if any.
    pub error: Option<Error>,
    /// The closing message for the user.
    pub message: String,
}

/// A run that holds the lock on its archive.
pub(super) struct Run<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) id: RunId,
    pub(super) archive: Arc<LockedArchive>,
    /// The deadline from `--stop-after`, at which the run ends even if work is pending.
    pub(super) stop_at: Option<Instant>,
    command: RunCommand,
    /// The start time of the run on the monotonic clock.
    clock: Instant,
}

impl<'a> Run<'a> {
    /// Begins a run. `started` is the start time of the run on the wall clock, and `clock` is the start time on the
    /// monotonic clock.
    pub(super) fn begin(
        command: RunCommand,
        config: &'a RunConfig,
        archive: LockedArchive,
        (started, clock): (Timestamp, Instant),
        recorder: &mut RunRecorder<'_>,
    ) -> Self {
        let (id, name) = (RunId::new(started), config.archive.to_string());
        recorder.summary.command = command;
        recorder.emit(&Event::Started { run_id: id.clone(), archive: name, at: started });
        Self {
            config,
            id,
            archive: Arc::new(archive),
            stop_at: config.stop_after.map(|limit| clock + limit),
            command,
            clock,
        }
    }

    /// Executes the plan until it is complete or `stop` resolves.
    pub(super) async fn execute(
        &self,
        plan: &Plan,
        simulated_provider: SimulatedProvider,
        media: MediaStage,
        stop: impl Future<Output = Signal>,
        recorder: &mut RunRecorder<'_>,
    ) -> Result<RunResult> {
        let (client, simulator) = connect_to(&self.config.provider, self.config.timeout, simulated_provider).await?;
        let Self { config, id: run_id, archive, stop_at, command, .. } = self;
        let segments = if *command == RunCommand::Repair { SegmentLimits::REPAIR } else { SegmentLimits::default() };
        let context = RunContext { config, run_id, plan, archive, stop_at: *stop_at, command: *command, segments };
        let mut emit = |event| recorder.emit(&event);
        let result = Coordinator::new(context, client, media, &mut emit)?.run(stop).await;
        drop(simulator);
        Ok(result)
    }

    /// Writes the run's summary and its list of missing tasks, regardless of how the run ended.
    pub(super) fn finish(
        &self,
        plan: &Plan,
        result: RunResult,
        recorder: &mut RunRecorder<'_>,
        is_incomplete: impl Fn(&RunRecorder<'_>) -> bool,
    ) -> (ExitStatus, Option<Error>) {
        let RunResult { stop_reason, ledger } = result;
        let listed = self.list_missing(plan, &ledger, &stop_reason, recorder);
        let mut status = match &stop_reason {
            StopReason::Signal(signal) => signal.exit_status(),
            StopReason::KeyRejected => ExitStatus::KeyRejected,
            StopReason::Failed(_) => ExitStatus::Failed,
            StopReason::Done | StopReason::DeadlineReached if is_incomplete(recorder) => ExitStatus::Incomplete,
            StopReason::Done | StopReason::DeadlineReached => ExitStatus::Complete,
        };
        let is_complete = matches!(stop_reason, StopReason::Done);
        let mut error = if let StopReason::Failed(error) = stop_reason { Some(error) } else { None };
        if let Err(failed) = listed {
            recorder.missing_list_written = false;
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
        }
        if is_complete && let Err(failed) = self.sweep() {
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
        }
        let mut end = self.finished(status);
        recorder.summary.observe(&end);
        let mut text = serde_json::to_vec_pretty(&recorder.summary).expect("a summary has string keys only");
        text.push(b'\n');
        if let Err(failed) = self.archive.put_with_checksum(&RunFile::Summary.path(&self.id), &text) {
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
            end = self.finished(status);
        }
        recorder.emit(&end);
        (status, error)
    }

    /// Writes the list of missing tasks, unless the run sent no request and no task is missing. Also emits
    /// [`Event::Missing`] for each task that the run did not archive, even if the list cannot be written.
    fn list_missing(
        &self,
        plan: &Plan,
        ledger: &Ledger,
        stop_reason: &StopReason,
        recorder: &mut RunRecorder<'_>,
    ) -> Result<()> {
        let default_reason = default_missing_reason(stop_reason);
        let mut missing = ledger.missing(&plan.selected, &default_reason).peekable();
        if recorder.summary.requests.total == 0 && missing.peek().is_none() {
            return Ok(());
        }
        let mut list = MissingList::create(&self.archive, &self.id);
        for MissingTask { task, reason, detail } in missing {
            let task_id = plan.tasks.id(task).to_string();
            // A task with a stored response is already archived, even if this run did not finish it.
            if plan.item(task).source == ResponseSource::Provider {
                recorder.missing_list_len += 1;
                list = list.and_then(|mut list| list.add(&task_id, reason, &detail).map(|()| list));
            }
            recorder.emit(&Event::Missing { task_id, reason, detail });
        }
        list.and_then(MissingList::publish)
    }

    /// Writes the metrics file if the user requested one, even if an error stopped the run before its first request.
    pub(super) fn write_metrics<T>(&self, ended: &Result<T>, recorder: &mut RunRecorder<'_>) -> Result<()> {
        let Some(file) = &self.config.metrics_file else { return Ok(()) };
        if let Err(error) = ended {
            recorder.summary.observe(&self.finished(error.into()));
        }
        metrics::write(file, &self.archive, &recorder.summary)
    }

    fn finished(&self, status: ExitStatus) -> Event {
        Event::Finished {
            at: Timestamp::now(),
            run_seconds: self.clock.elapsed().as_secs_f64(),
            exit_code: status.code(),
            interrupted: status.is_signal(),
        }
    }

    /// Removes partial downloads if the journal is empty, because no later run would resume these downloads.
    fn sweep(&self) -> Result<()> {
        let waiting = journal::segments(&self.archive.journal_folder())?;
        if waiting.is_empty() { self.archive.remove_partials() } else { Ok(()) }
    }
}

/// Writes the run summary of a command that rewrites tables, and returns the result of the command.
pub(super) fn record_rewrite<T>(
    command: RunCommand,
    archive: &LockedArchive,
    run_id: &RunId,
    (started, clock): (Timestamp, std::time::Instant),
    done: Result<T>,
) -> Result<T> {
    let exit_code = done.as_ref().map_or_else(|error| ExitStatus::from(error).code(), |_| 0);
    let record = RunSummary {
        run_id: run_id.to_string(),
        command,
        started_at: Some(started),
        finished_at: Some(Timestamp::now()),
        run_seconds: Some(clock.elapsed().as_secs_f64()),
        exit_code,
        ..RunSummary::default()
    };
    let mut text = serde_json::to_vec_pretty(&record).expect("a summary has string keys only");
    text.push(b'\n');
    let recorded = archive.put_with_checksum(&RunFile::Summary.path(run_id), &text);
    // An error from the command takes precedence over an error that occurs while writing the run summary.
    let done = done?;
    recorded.map(|()| done)
}

/// Waits until the given instant, or forever if the instant is `None`.
pub(super) async fn sleep_until_or_forever(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Returns the default reason, which applies to missing tasks for which the run recorded no specific reason.
fn default_missing_reason(stop_reason: &StopReason) -> (MissingReason, &'static str) {
    match stop_reason {
        StopReason::Signal(Signal::Interrupt) => (MissingReason::Interrupted, "interrupted by SIGINT"),
        StopReason::Signal(Signal::HangUp) => (MissingReason::Interrupted, "interrupted by SIGHUP"),
        StopReason::Signal(Signal::Terminate) => (MissingReason::Interrupted, "interrupted by SIGTERM"),
        StopReason::KeyRejected => (MissingReason::Unfinished, "the provider refused the API key"),
        StopReason::Failed(_) => (MissingReason::Unfinished, "an error stopped the run"),
        StopReason::DeadlineReached => (MissingReason::Unfinished, "the --stop-after limit was reached"),
        StopReason::Done => (MissingReason::Unfinished, "the run ended"),
    }
}

/// Passes the events of a run to its summary and its reporter, and collects data for the closing message.
pub(super) struct RunRecorder<'a> {
    pub(super) summary: RunSummary,
    /// Whether the provider has found none of the requested tasks so far.
    pub(super) none_found: bool,
    /// Whether the list of missing tasks could be written.
    pub(super) missing_list_written: bool,
    /// The number of tasks in the list of missing tasks.
    pub(super) missing_list_len: u64,
    /// The number of failed assets among the tasks that this run recovered from earlier runs.
    pub(super) recovered_failed: u64,
    /// The number of tasks that this run recovered from earlier runs.
    pub(super) recovered: u64,
    /// The number of downloaded files, and their total size in bytes.
    pub(super) downloaded: (u64, u64),
    /// The tasks and files that a repair could not restore. `None` if the run is an export.
    pub(super) failures: Option<Failures>,
    reporter: &'a mut dyn Reporter,
}

impl<'a> RunRecorder<'a> {
    pub(super) fn new(reporter: &'a mut dyn Reporter) -> Self {
        let summary = RunSummary::default();
        Self {
            summary,
            none_found: false,
            missing_list_written: true,
            missing_list_len: 0,
            recovered_failed: 0,
            recovered: 0,
            downloaded: (0, 0),
            failures: None,
            reporter,
        }
    }

    pub(super) fn emit(&mut self, event: &Event) {
        match event {
            Event::NoneFound { .. } => self.none_found = true,
            Event::Recovered { tasks, assets_failed, .. } => {
                self.recovered += tasks;
                self.recovered_failed += assets_failed;
            }
            Event::AssetSettled { status: AssetStatus::Ok, attempts: 1.., bytes, .. } => {
                let (files, total) = self.downloaded;
                self.downloaded = (files + 1, total + bytes.unwrap_or_default());
            }
            Event::ResponseReceived { .. } | Event::Unfinished { .. } => self.none_found = false,
            _ => {}
        }
        if let Some(failures) = &mut self.failures {
            failures.observe(event);
        }
        self.summary.observe(event);
        self.reporter.observe(event);
    }
}
