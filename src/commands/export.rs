//! `export`: from a list of task IDs to an archive.

use std::{future::Future, sync::Arc};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{connect_to, metrics, missing_csv, start_media};
use crate::{
    api::Client,
    archive::{Archive, LockedArchive, RunFile},
    config::ExportConfig,
    error::{Error, Result},
    event::{Event, MissingReason},
    exit::ExitStatus,
    export::{
        self, Asked, Coordinator, Ending, EventSink, Known, Ledger, MediaStage, Missing, NotFound, Plan, Settings,
        Signal,
    },
    input::{self, Input},
    journal::{self, JournalWriter, SegmentLimits},
    report::{self, Reporter, RunNotes},
    run_id::RunId,
    run_summary::RunSummary,
    simulator::SimulatedProvider,
    tables,
};

/// How an export ended.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, as in `runs/<run_id>.json`.
    pub summary: RunSummary,
    /// What the process should end with.
    pub status: ExitStatus,
    /// What stopped the run, if it was an error.
    pub error: Option<Error>,
    /// The closing words for a person.
    pub words: String,
}

/// Exports a list: asks for every task that the archive lacks, and archives the answers.
///
/// `stop` ends the run in good order when it is ready: what was fetched is kept.
///
/// # Errors
/// What stops a run before its first request. An error after that is part of the [`Outcome`], because
/// such a run has something to report all the same.
pub async fn export(
    config: &ExportConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let mut log = Log {
        summary: RunSummary::default(),
        none_found: false,
        missing_named: true,
        recovered_failed: 0,
        left: 0,
        failed_before: 0,
        reporter,
    };
    let (started, clock) = (Timestamp::now(), Instant::now());
    let run_id = RunId::new(started);

    let input = input::read(&config.input, &mut |event| log.tell(&event))?;
    let held = LockedArchive::open_or_create(&config.archive, config.format, &tables::TABLES, started).await?;
    let held = Arc::new(held);
    log.tell(&Event::Started { run_id: run_id.clone(), archive: config.archive.display().to_string(), at: started });
    let stop_at = config.stop_after.map(|limit| clock + limit);
    let ended = run(config, &run_id, input, &held, stop_at, stop, &mut log).await;
    let measured = log.leave_metrics(config, &held.archive, ended.as_ref()).await;
    let (mut status, mut error) = ended?;
    if let Err(failed) = measured {
        (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
    }
    Ok(log.outcome(&held.archive, status, error))
}

/// The run from the moment that it holds the archive.
async fn run(
    config: &ExportConfig,
    run_id: &RunId,
    input: Input,
    held: &Arc<LockedArchive>,
    stop_at: Option<Instant>,
    stop: impl Future<Output = Signal>,
    log: &mut Log<'_>,
) -> Result<(ExitStatus, Option<Error>)> {
    export::write_views(held).await?;
    let mut media = start_media(&config.media, &config.provider, held).await?;
    log.left = export::recover(held, &mut media, stop_at, &mut |event| log.tell(&event)).await?;
    log.failed_before = export::failed_assets(&held.archive).await?;
    let known = Known::archived(&held.archive, &input.tasks, NotFound::of(config)).await?;
    // What recovery could not bring to its end is answered all the same.
    let kept = Known::journalled(&held.archive, &input.tasks)?;
    let plan = Plan::new(input, &known, &kept);
    log.tell(&Event::Planned(plan.counts.clone()));

    let world = SimulatedProvider::knowing(plan.tasks.clone());
    let (client, simulator) = connect_to(&config.provider, config.timeout, world).await?;
    let run = Run { id: run_id, plan: &plan, held, stop_at };
    let asked = run.ask(config, client, media, stop, &mut |event| log.tell(&event)).await;
    drop(simulator);
    Ok(run.finish(asked, log).await)
}

/// One run on a held archive.
struct Run<'a> {
    id: &'a RunId,
    plan: &'a Plan,
    held: &'a Arc<LockedArchive>,
    stop_at: Option<Instant>,
}

impl Run<'_> {
    async fn ask(
        &self,
        config: &ExportConfig,
        client: Client,
        media: MediaStage,
        stop: impl Future<Output = Signal>,
        tell: EventSink<'_>,
    ) -> Asked {
        let settings = Settings {
            assets: config.media.kinds.clone(),
            rate: config.rate,
            reserve: config.reserve,
            concurrency: config.concurrency,
            wait: config.wait,
            poll_interval: config.poll_interval,
            retries: config.retries,
            stop_at: self.stop_at,
        };
        let folder = self.held.archive.journal_folder();
        let writer = JournalWriter::new(&folder, self.id.clone(), SegmentLimits::default());
        Coordinator::new(settings, self.plan, client, writer, self.held.clone(), media, tell).run(stop).await
    }

    /// Leaves the run's own files, whatever the ending was.
    async fn finish(&self, asked: Asked, log: &mut Log<'_>) -> (ExitStatus, Option<Error>) {
        let Asked { ending, ledger } = asked;
        let missing = self.missing_csv(&ledger, &ending, log);
        let mut status = match &ending {
            Ending::Signal(signal) => signal.exit_status(),
            Ending::KeyRefused => ExitStatus::KeyRefused,
            Ending::Failed(_) => ExitStatus::Failed,
            Ending::Done | Ending::TimeIsUp if log.is_incomplete() => ExitStatus::Incomplete,
            Ending::Done | Ending::TimeIsUp => ExitStatus::Complete,
        };
        let mut error = if let Ending::Failed(error) = ending { Some(error) } else { None };
        if log.summary.requests.total + log.summary.missing() > 0
            && let Err(failed) = self.held.put_sealed(&RunFile::Unfinished.path(self.id), missing).await
        {
            log.missing_named = false;
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
        }
        if let Err(failed) = self.sweep() {
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
        }
        let mut end = finished(status);
        log.summary.observe(&end);
        let mut text = serde_json::to_vec_pretty(&log.summary).expect("a summary has string keys only");
        text.push(b'\n');
        if let Err(failed) = self.held.put_sealed(&RunFile::Summary.path(self.id), text).await {
            (status, error) = (ExitStatus::Failed, error.or(Some(failed)));
            end = finished(status);
        }
        log.tell(&end);
        (status, error)
    }

    /// With an empty journal, no partial download will be resumed.
    fn sweep(&self) -> Result<()> {
        let waiting = journal::segments(&self.held.archive.journal_folder())?;
        if waiting.is_empty() { self.held.sweep_partials() } else { Ok(()) }
    }

    /// Names each task that is not archived, in a list that is itself an input.
    fn missing_csv(&self, ledger: &Ledger, ending: &Ending, log: &mut Log<'_>) -> Vec<u8> {
        let cut_short = match ending {
            Ending::Signal(Signal::Interrupt) => (MissingReason::Interrupted, "SIGINT came first"),
            Ending::Signal(Signal::HangUp) => (MissingReason::Interrupted, "SIGHUP came first"),
            Ending::Signal(Signal::Terminate) => (MissingReason::Interrupted, "SIGTERM came first"),
            Ending::KeyRefused => (MissingReason::Unfinished, "the provider refused the key"),
            Ending::Failed(_) => (MissingReason::Unfinished, "an error stopped the run"),
            Ending::TimeIsUp => (MissingReason::Unfinished, "the time given with --stop-after was over"),
            Ending::Done => (MissingReason::Unfinished, "the run was over"),
        };
        missing_csv(ledger.missing(&self.plan.selected, &cut_short).map(|Missing { task, reason, detail }| {
            let task_id = self.plan.tasks.id(task).to_string();
            log.tell(&Event::Missing { task_id: task_id.clone(), reason, detail: detail.clone() });
            (task_id, reason, detail)
        }))
    }
}

fn finished(status: ExitStatus) -> Event {
    Event::Finished { at: Timestamp::now(), exit_code: status.code(), interrupted: status.is_signal() }
}

/// The run's events on their way to the summary and the reporter.
struct Log<'a> {
    summary: RunSummary,
    none_found: bool,
    missing_named: bool,
    /// Failed assets of tasks that earlier runs had fetched, and this one archived.
    recovered_failed: u64,
    /// Tasks of earlier runs that wait in the journal still.
    left: u64,
    /// Failed assets in the archive before the first request of this run.
    failed_before: u64,
    reporter: &'a mut dyn Reporter,
}

impl Log<'_> {
    /// Whether anything is missing that this run was to bring.
    fn is_incomplete(&self) -> bool {
        let summary = &self.summary;
        summary.missing() + summary.input.invalid + summary.assets.failed + self.recovered_failed + self.left > 0
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::NoneFound { .. } => self.none_found = true,
            Event::Recovered { assets_failed, .. } => self.recovered_failed += assets_failed,
            Event::Answered { .. } | Event::Unfinished { .. } => self.none_found = false,
            _ => {}
        }
        self.summary.observe(event);
        self.reporter.observe(event);
    }

    /// Writes the Prometheus metrics, if requested, also of a run that an error stopped before
    /// its first request.
    async fn leave_metrics<T>(
        &mut self,
        config: &ExportConfig,
        archive: &Archive,
        ended: Result<&T, &Error>,
    ) -> Result<()> {
        let Some(file) = &config.metrics_file else { return Ok(()) };
        if let Err(error) = ended {
            self.summary.observe(&finished(error.into()));
        }
        metrics::leave(file, archive, &self.summary).await
    }

    fn outcome(self, archive: &Archive, status: ExitStatus, error: Option<Error>) -> Outcome {
        let folder = archive.folder.display().to_string();
        let notes = RunNotes {
            archive: &folder,
            format: archive.format,
            none_found: self.none_found,
            missing_named: self.missing_named,
            left: self.left,
            failed_before: self.failed_before,
        };
        let words = report::run_table(&self.summary, &notes);
        Outcome { summary: self.summary, status, error, words }
    }
}
