//! The coordinator owns a run's state, schedules requests, processes every response, and emits events. All input
//! reaches the coordinator through a single `select!`. [`responses`] handles the provider's responses, and [`archived`]
//! handles stored responses.

mod archived;
mod responses;

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{self, Instant, MissedTickBehavior},
};

use self::archived::StoredTask;
use super::{
    EventSink, GRACE_PERIOD, Plan, RowEffect,
    forecast::{EtaInputs, remaining_downloads},
    journal_stage::{Acknowledged, Entry, JournalStage},
    ledger::Ledger,
    media_stage::{DeferPolicy, DownloadEvent, MediaJob, MediaStage},
    publish::PublishStage,
    queue::{NextRequest, PendingRequest, Queue},
    stored::{StoredResponse, StoredStage},
};
use crate::{
    api::{Client, Reply, RequestLimiter},
    archive::LockedArchive,
    backoff::Backoff,
    config::RunConfig,
    error::{Error, Result},
    event::{Downloads, Event, Progress, Published},
    exit::ExitStatus,
    journal::{JournalWriter, Record, SegmentLimits},
    run_id::RunId,
    run_summary::RunCommand,
    task::TaskIndex,
};

/// The interval between progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The first pass pauses when this many tasks have pending assets. For each of these tasks, a few URLs are held in
/// memory, and the response is in the journal.
const MAX_UNSETTLED_TASKS: usize = 2000;

/// The maximum number of tasks with a stored response and pending assets. The responses for these tasks are held in
/// memory.
const MAX_STORED_TASKS: usize = 500;

/// The number of unacknowledged journal records at which the coordinator stops accepting stored responses.
const MAX_UNACKNOWLEDGED: usize = 256;

/// The configuration and resources of a run.
pub(crate) struct RunContext<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) run_id: &'a RunId,
    pub(crate) plan: &'a Plan,
    pub(crate) archive: &'a Arc<LockedArchive>,
    /// The time at which the run ends, even if work is left.
    pub(crate) stop_at: Option<Instant>,
    /// The command that started the run.
    pub(crate) command: RunCommand,
    /// The size limits of a journal segment.
    pub(crate) segments: SegmentLimits,
}

/// A signal that ends a run cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: the terminal or the session was closed.
    HangUp,
    /// SIGINT, for example from Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// Returns the exit status for a run that this signal ends.
    #[must_use]
    pub fn exit_status(self) -> ExitStatus {
        match self {
            Self::HangUp => ExitStatus::HungUp,
            Self::Interrupt => ExitStatus::Interrupted,
            Self::Terminate => ExitStatus::Terminated,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HangUp => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The reason why a run stops sending requests.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// No requests are left, or the time limit for polling was reached.
    Done,
    /// The provider rejected the API key.
    KeyRejected,
    /// The time limit given with `--stop-after` was reached.
    DeadlineReached,
    /// The process received a signal.
    Signal(Signal),
    /// The run failed with this error.
    Failed(Error),
}

/// The result of executing a plan.
pub(crate) struct RunResult {
    pub(crate) stop_reason: StopReason,
    pub(crate) ledger: Ledger,
}

/// The state of a run in progress.
pub(crate) struct Coordinator<'a> {
    run: RunContext<'a>,
    client: Client,
    limiter: RequestLimiter,
    backoff: Backoff,
    queue: Queue,
    ledger: Ledger,
    in_flight: JoinSet<(PendingRequest, Reply)>,
    /// The stage that reads stored responses, or `None` once all stored responses are read.
    stored: Option<StoredStage>,
    /// Tasks with a stored response and pending assets.
    stored_unsettled: HashMap<TaskIndex, StoredTask>,
    /// Tasks with a stored response and failed assets. A request for fresh URLs is pending for each of these tasks.
    refreshing: HashMap<TaskIndex, StoredTask>,
    /// Whether the run is reading quarantined parts. The run reads these parts after its last request.
    is_salvaging: bool,
    journal: JournalStage,
    publish: PublishStage,
    media: MediaStage,
    discovery: Discovery,
    emit: EventSink<'a>,
    /// The number of records that the journal has not acknowledged yet.
    unacknowledged: usize,
    /// The number of tasks with pending assets, including tasks with a stored response.
    unsettled: usize,
    downloads: Downloads,
    /// The number of tasks whose initial request has neither received a response nor permanently failed.
    first_pass_remaining: usize,
    polling_deadline: Option<Instant>,
    started: Instant,
    responses: u64,
    consecutive_failures: u32,
    consecutive_rate_limits: u32,
    /// Whether the last request failed to connect.
    last_connect_failed: bool,
    interruptions: Interruptions,
    stop_reason: Option<StopReason>,
}

/// The signal and the deadline that can interrupt a run, and the end of the grace period.
#[derive(Debug, Default)]
struct Interruptions {
    signal_received: bool,
    deadline_reached: bool,
    /// The time at which in-flight requests and downloads are aborted.
    grace_deadline: Option<Instant>,
}

/// Whether the provider has found at least one task in this run. Before the first task is found, a 404 is inconclusive,
/// because the key may belong to a different account. `NoneYet` holds the 404 responses received so far.
enum Discovery {
    NoneYet(Vec<(TaskIndex, Timestamp, Option<String>)>),
    Found,
}

/// Whether a request is complete or will be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Settled,
    /// The request will be retried.
    Retrying,
}

impl<'a> Coordinator<'a> {
    /// Starts the stages of a run.
    ///
    /// # Errors
    /// [`Error::Storage`] if the journal cannot be created. No request has been sent in this case.
    pub(crate) fn new(run: RunContext<'a>, client: Client, media: MediaStage, emit: EventSink<'a>) -> Result<Self> {
        let RunContext { config, run_id, plan, archive, command, segments, .. } = run;
        let folder = archive.journal_folder();
        let mut writer = JournalWriter::new(&folder, run_id.clone(), command, segments);
        let (segments_sender, publish) = PublishStage::start(archive.clone());
        let (tasks_to_fetch, mut ledger) = (plan.tasks_to_fetch(), Ledger::new(plan.tasks.len()));
        plan.in_journal.iter().for_each(|task| ledger.mark_journalled(*task));
        let stored = plan.stored.clone();
        if !tasks_to_fetch.is_empty() {
            writer.begin_run()?;
        }
        Ok(Self {
            client,
            limiter: RequestLimiter::new(config.rate, config.reserve),
            backoff: Backoff::new(config.retries, fastrand::Rng::new()),
            first_pass_remaining: tasks_to_fetch.len(),
            queue: Queue::new(tasks_to_fetch),
            ledger,
            in_flight: JoinSet::new(),
            stored: (!stored.is_empty()).then(|| StoredStage::read_tables(archive.clone(), plan, stored)),
            stored_unsettled: HashMap::new(),
            refreshing: HashMap::new(),
            is_salvaging: false,
            journal: JournalStage::start(writer, segments_sender),
            publish,
            media,
            discovery: Discovery::NoneYet(Vec::new()),
            emit,
            unacknowledged: 0,
            unsettled: 0,
            downloads: Downloads::default(),
            polling_deadline: None,
            started: Instant::now(),
            responses: 0,
            consecutive_failures: 0,
            consecutive_rate_limits: 0,
            last_connect_failed: false,
            interruptions: Interruptions::default(),
            stop_reason: None,
            run,
        })
    }

    /// Executes the plan until no work is left or `stop` resolves, and publishes the responses.
    pub(crate) async fn run(mut self, stop: impl Future<Output = Signal>) -> RunResult {
        let mut stop = std::pin::pin!(stop);
        self.work(stop.as_mut()).await;
        if self.last_connect_failed && self.is_running() {
            self.fail_unreachable(
                "the connection was lost",
                "fetched data is kept; rerun when the network is available",
            );
        }
        self.settle_not_found();
        if self.begin_salvage() {
            self.work(stop).await;
        }
        self.journal_tasks_without_refresh().await;
        self.shut_down().await
    }

    /// Shuts down the stages and processes their remaining events.
    async fn shut_down(self) -> RunResult {
        let Self { run, stored, journal, mut publish, mut media, mut ledger, emit, mut stop_reason, .. } = self;
        media.abort();
        if let Err(error) = media.join().await {
            stop_reason = Some(StopReason::Failed(error));
        }
        let JournalStage { records, mut acknowledged, handle } = journal;
        drop(records);
        while let Some(entry) = acknowledged.recv().await {
            let _job = record_acknowledged(entry, run.plan, &mut ledger, emit);
        }
        while let Some(published) = publish.published.recv().await {
            record_published(published, &mut ledger, emit);
        }
        // The stage that reads stored responses ends when its channel closes.
        let read_handle = stored.map(|stage| stage.handle);
        for stage in [Some(handle), Some(publish.handle), read_handle].into_iter().flatten() {
            if let Err(error) = outcome(stage).await {
                stop_reason = Some(StopReason::Failed(error));
            }
        }
        RunResult { stop_reason: stop_reason.unwrap_or(StopReason::Done), ledger }
    }

    async fn work(&mut self, mut stop: Pin<&mut impl Future<Output = Signal>>) {
        let mut tick = time::interval(PROGRESS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next = self.next();
            if next == NextRequest::Never && self.is_idle() {
                return;
            }
            let due = if let NextRequest::At(due) = next { Some(due) } else { None };
            let (stop_at, grace_deadline) = (self.run.stop_at, self.interruptions.grace_deadline);
            tokio::select! {
                biased;
                signal = &mut stop, if !self.interruptions.signal_received => self.handle_signal(signal),
                () = sleep_until(stop_at), if !self.interruptions.deadline_reached => self.handle_deadline(),
                Some(reply) = self.in_flight.join_next() => self.handle_reply(reply).await,
                entry = self.journal.acknowledged.recv(), if self.unacknowledged > 0 => self.handle_acknowledged(entry),
                published = self.publish.published.recv(), if self.is_running() => self.handle_published(published),
                events = self.media.events.recv(), if self.unsettled > 0 => self.handle_media_event(events).await,
                () = self.limiter.permit(), if next == NextRequest::Now => self.send_next_request(),
                response = next_stored(&mut self.stored), if self.can_accept_stored_response() => {
                    self.handle_stored(response).await;
                }
                () = sleep_until(due), if due.is_some() => {}
                () = sleep_until(grace_deadline), if grace_deadline.is_some() => {
                    self.interruptions.grace_deadline = None;
                    self.in_flight.abort_all();
                    self.abandon_media();
                }
                _ = tick.tick() => self.emit_progress(),
            }
        }
    }

    /// Whether no work is in progress.
    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.unacknowledged + self.unsettled == 0 && self.stored.is_none()
    }

    fn handle_signal(&mut self, signal: Signal) {
        self.interruptions.signal_received = true;
        self.stop_reason.take_if(|stop_reason| matches!(stop_reason, StopReason::DeadlineReached));
        self.interrupt(
            StopReason::Signal(signal),
            format!("{signal}: no more requests will be sent; fetched data is kept"),
        );
    }

    fn handle_deadline(&mut self) {
        self.interruptions.deadline_reached = true;
        self.interrupt(
            StopReason::DeadlineReached,
            "the --stop-after limit was reached; no more requests will be sent".into(),
        );
    }

    /// Stops new work from starting, and gives in-flight requests and downloads a grace period.
    fn interrupt(&mut self, stop_reason: StopReason, reason: String) {
        self.interruptions.grace_deadline = self.interruptions.grace_deadline.or(Some(Instant::now() + GRACE_PERIOD));
        self.media.stop();
        self.stop_accepting_stored();
        self.begin_stopping(stop_reason, reason);
    }

    fn is_running(&self) -> bool {
        self.stop_reason.is_none()
    }

    /// Returns the time at which the next request may be sent, or [`NextRequest::Never`] if no request may be sent for
    /// now. A response that the journal has not acknowledged counts towards the concurrency limit like an in-flight
    /// request, because a crash would lose the response in both cases.
    fn next(&self) -> NextRequest {
        let concurrency_reached =
            self.in_flight.len() + self.unacknowledged >= usize::from(self.run.config.concurrency);
        // After the first pass, this limit does not apply: the remaining polls are few, and polling has a deadline.
        let too_many_unsettled = self.unsettled >= MAX_UNSETTLED_TASKS && self.first_pass_remaining > 0;
        if !self.is_running() || concurrency_reached || too_many_unsettled {
            return NextRequest::Never;
        }
        self.queue.next(Instant::now())
    }

    fn send_next_request(&mut self) {
        let Some(request) = self.queue.pop(Instant::now()) else { return };
        let (client, tasks) = (self.client.clone(), self.run.plan.tasks.clone());
        self.ledger.mark_requested(request.task);
        (self.emit)(Event::Requested { kind: request.kind() });
        self.in_flight.spawn(async move { (request, client.fetch_task(tasks.id(request.task)).await) });
    }

    async fn handle_reply(&mut self, reply: Result<(PendingRequest, Reply), JoinError>) {
        match reply {
            Ok((request, reply)) => {
                self.limiter.observe(&reply.rate_limit);
                if self.handle_response(request, reply.response).await == RequestState::Settled {
                    self.finish_initial_request(request);
                }
            }
            // The request was aborted at the end of the grace period. The ledger already records that the task was
            // requested.
            Err(aborted) if aborted.is_cancelled() => {}
            Err(panic) => self.fail(Error::Internal(format!("a request panicked: {panic}"))),
        }
    }

    /// Sends an entry to the journal. The task counts as answered only after the journal acknowledges the entry.
    async fn journal(&mut self, entry: Entry) {
        // Sending fails only after the journal stage has ended. `shut_down` then collects the stage's error.
        if self.journal.records.send(entry).await.is_ok() {
            self.unacknowledged += 1;
        }
    }

    fn handle_acknowledged(&mut self, entry: Option<Acknowledged>) {
        match entry {
            Some(entry) => {
                self.unacknowledged -= 1;
                if let Some(job) = record_acknowledged(entry, self.run.plan, &mut self.ledger, self.emit) {
                    self.download(job);
                }
            }
            None => {
                self.unacknowledged = 0;
                self.stop_after_stage_exit();
            }
        }
    }

    fn handle_published(&mut self, published: Option<Published>) {
        match published {
            Some(published) => record_published(published, &mut self.ledger, self.emit),
            None => self.stop_after_stage_exit(),
        }
    }

    async fn handle_media_event(&mut self, event: Option<DownloadEvent>) {
        match event {
            Some(DownloadEvent::Forward(event)) => {
                self.downloads.record(&event);
                (self.emit)(event);
            }
            Some(DownloadEvent::Unsettled { task_id }) => {
                self.unsettled -= 1;
                let task = self.run.plan.tasks.find(&task_id);
                task.map(|task| self.stored_unsettled.remove(&task));
            }
            Some(DownloadEvent::Settled { task_id, part, assets }) => {
                self.unsettled -= 1;
                let Some(task) = self.run.plan.tasks.find(&task_id) else { return };
                match part {
                    Some(part) => {
                        self.journal(Entry::Assets { task, part, record: Record::Assets { task_id, assets } }).await;
                    }
                    None => self.handle_stored_settled(task, assets).await,
                }
            }
            None => self.stop_after_stage_exit(),
        }
    }

    /// Sends a task to the media stage.
    fn download(&mut self, job: MediaJob) {
        self.unsettled += 1;
        self.downloads.expected += job.asset_requests.iter().filter(|request| request.is_expected()).count() as u64;
        self.media.settle(job);
    }

    /// Ends the run after a stage has ended early. A stage ends early only because of an error, which `shut_down`
    /// collects.
    fn stop_after_stage_exit(&mut self) {
        self.stop_reason.get_or_insert(StopReason::Done);
        self.stop_accepting_stored();
        self.abandon_media();
    }

    fn abandon_media(&mut self) {
        self.media.abort();
        self.unsettled = 0;
        self.stored_unsettled.clear();
    }

    /// Returns the interval between two polls of a task. The interval grows with the number of unfinished tasks, so
    /// that polls use at most half of the request rate: other users may share the key, and most unfinished tasks take
    /// minutes to finish.
    fn poll_interval(&self) -> Duration {
        let unfinished = self.queue.polls() + 1;
        let fair_interval = Duration::try_from_secs_f64(unfinished as f64 / (self.requests_per_second() / 2.0));
        self.run.config.poll_interval.max(fair_interval.unwrap_or_default())
    }

    fn requests_per_second(&self) -> f64 {
        RequestLimiter::requests_per_second(self.run.config.rate, self.run.config.reserve)
    }

    /// Records that the initial request for a task has received a response or has permanently failed. Does nothing if
    /// the request is a poll.
    fn finish_initial_request(&mut self, request: PendingRequest) {
        if request.is_poll {
            return;
        }
        self.first_pass_remaining -= 1;
        if self.first_pass_remaining == 0 && self.polling_deadline.is_none() {
            let end = Instant::now() + self.run.config.poll_limit;
            self.polling_deadline = Some(end);
            self.queue.set_polling_deadline(end);
        }
    }

    /// Ends the run with an error message that reports the provider as unreachable and includes advice for the user.
    fn fail_unreachable(&mut self, reason: &str, advice: &str) {
        let host = self.client.host();
        self.media.go_offline();
        self.fail(Error::Unreachable(format!("{host} cannot be reached: {reason}; {advice}")));
    }

    fn emit_progress(&mut self) {
        let estimate = EtaInputs {
            requests: self.queue.initial() + self.queue.retries() + self.in_flight.len(),
            unfinished: self.queue.polls(),
            wait: match self.queue.next(Instant::now()) {
                NextRequest::At(due) => {
                    due.saturating_duration_since(Instant::now()).max(self.limiter.remaining_pause())
                }
                NextRequest::Now | NextRequest::Never => self.limiter.remaining_pause(),
            },
            rate: self.requests_per_second(),
            responses: self.responses,
            elapsed: self.started.elapsed(),
            polling_remaining: self.polling_deadline.map(|end| end.saturating_duration_since(Instant::now())),
        };
        let elapsed = self.started.elapsed();
        self.downloads.update_speed(self.media.received(), PROGRESS_INTERVAL);
        let remaining = estimate
            .remaining()
            .and_then(|remaining| Some(remaining.max(remaining_downloads(&self.downloads, elapsed)?)));
        (self.emit)(Event::Progress(Progress {
            settled: self.ledger.settled(),
            selected: self.run.plan.selected.len() as u64,
            unfinished: self.queue.polls() as u64,
            first_pass_done: self.first_pass_remaining == 0,
            seconds_left: remaining.map(|remaining| remaining.as_secs_f64()),
            downloads: self.downloads.clone(),
        }));
    }

    fn begin_stopping(&mut self, stop_reason: StopReason, reason: String) {
        if self.stop_reason.is_none() {
            self.stop_reason = Some(stop_reason);
            (self.emit)(Event::Stopping { reason });
        }
    }

    fn fail(&mut self, error: Error) {
        if self.stop_reason.is_none() {
            self.stop_reason = Some(StopReason::Failed(error));
        }
    }
}

/// Updates the ledger with an acknowledged entry. Returns a download job if the task has pending assets.
fn record_acknowledged(
    entry: Acknowledged,
    plan: &Plan,
    ledger: &mut Ledger,
    emit: &mut (dyn FnMut(Event) + Send),
) -> Option<MediaJob> {
    match entry {
        Acknowledged::TaskResponse { status: None, .. } => None,
        Acknowledged::TaskResponse { task, status: Some(status), part, asset_requests } => {
            let task_id = plan.tasks.id(task).to_string();
            ledger.mark_journalled(task);
            emit(Event::ResponseReceived { task_id: task_id.clone(), status });
            if asset_requests.is_empty() {
                ledger.mark_complete(task, part);
            }
            (!asset_requests.is_empty()).then_some(MediaJob {
                task_id,
                part: Some(part),
                asset_requests,
                defer_policy: DeferPolicy::HostDownOnly,
            })
        }
        // Adding assets to an archived task does not change the task's state.
        Acknowledged::Settled { task, .. } if plan.item(task).rows == RowEffect::AddAssets => None,
        Acknowledged::Settled { task, part } => {
            ledger.mark_journalled(task);
            ledger.mark_complete(task, part);
            None
        }
        Acknowledged::Assets { task, part } => {
            ledger.mark_complete(task, part);
            None
        }
    }
}

fn record_published(published: Published, ledger: &mut Ledger, emit: &mut (dyn FnMut(Event) + Send)) {
    ledger.mark_published(published.part);
    emit(Event::Published(published));
}

/// Receives the next stored response. The future never resolves if `stage` is `None`.
async fn next_stored(stage: &mut Option<StoredStage>) -> Option<(TaskIndex, Option<StoredResponse>)> {
    match stage {
        Some(stage) => stage.responses.recv().await,
        None => std::future::pending().await,
    }
}

async fn outcome(stage: JoinHandle<Result<()>>) -> Result<()> {
    stage.await.unwrap_or_else(|panic| Err(Error::Internal(format!("a stage of the run panicked: {panic}"))))
}

/// Waits until `deadline`, or forever if `deadline` is `None`.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
