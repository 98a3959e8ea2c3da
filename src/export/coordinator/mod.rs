//! The coordinator owns a run's state, schedules requests, processes every response, and emits events. All input
//! reaches the coordinator through a single `select!`. [`answers`] handles the provider's responses, and [`archived`]
//! handles stored responses.

mod answers;
mod archived;

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{self, Instant, MissedTickBehavior},
};

use self::archived::StoredTask;
use super::{
    EventSink, GRACE, Plan, RowEffect,
    forecast::{EtaEstimate, downloads_left},
    journal_stage::{Acknowledged, Entry, JournalStage},
    ledger::Ledger,
    media_stage::{DownloadEvent, Job, MediaStage, RetryBudget},
    publish::PublishStage,
    queue::{Next, PendingRequest, Queue},
    stored::{StoredAnswer, StoredStage},
};
use crate::{
    api::{Client, Pace, Reply},
    archive::LockedArchive,
    backoff::Backoff,
    config::RunConfig,
    error::{Error, Result},
    event::{Downloads, Event, Progress, Published},
    exit::ExitStatus,
    journal::{JournalWriter, Record, SegmentLimits},
    run_id::RunId,
    task::TaskIndex,
};

/// The interval between progress events.
const TICK: Duration = Duration::from_secs(1);

/// The number of tasks with unsettled assets at which the first pass pauses. For each such task, memory holds a few
/// URLs and the journal holds the response.
const MOST_UNSETTLED: usize = 2000;

/// The maximum number of tasks with a stored response and unsettled assets. Memory holds the responses of these
/// tasks.
const MOST_STORED: usize = 500;

/// The number of unacknowledged journal records at which the coordinator stops accepting stored responses.
const MOST_UNACKNOWLEDGED: usize = 256;

/// The configuration and resources of a run.
pub(crate) struct RunContext<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) run_id: &'a RunId,
    pub(crate) plan: &'a Plan,
    pub(crate) held: &'a Arc<LockedArchive>,
    /// The time at which the run ends, even if work is left.
    pub(crate) stop_at: Option<Instant>,
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
pub(crate) enum Ending {
    /// No requests are left, or the time for polls has expired.
    Done,
    /// The provider rejected the API key.
    KeyRefused,
    /// The time given with `--stop-after` has expired.
    TimeIsUp,
    /// The process received a signal.
    Signal(Signal),
    /// An error that additional requests cannot resolve.
    Failed(Error),
}

/// The result of executing a plan.
pub(crate) struct RunResult {
    pub(crate) ending: Ending,
    pub(crate) ledger: Ledger,
}

/// The state of a run in progress.
pub(crate) struct Coordinator<'a> {
    run: RunContext<'a>,
    client: Client,
    pace: Pace,
    backoff: Backoff,
    queue: Queue,
    ledger: Ledger,
    asking: JoinSet<(PendingRequest, Reply)>,
    /// The stage that reads stored responses, or `None` once all stored responses are read.
    stored: Option<StoredStage>,
    /// Tasks with a stored response whose assets are not settled yet.
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
    /// The number of tasks with unsettled assets, including tasks with a stored response.
    unsettled: usize,
    downloads: Downloads,
    /// The number of tasks whose initial request has neither received a response nor permanently failed.
    first_pass_left: usize,
    polling_ends: Option<Instant>,
    started: Instant,
    answers: u64,
    given_up_in_a_row: u32,
    refused_in_a_row: u32,
    /// Whether the last request failed to connect.
    unconnected: bool,
    interruptions: Interruptions,
    ending: Option<Ending>,
}

/// The interruptions that the run has received so far.
#[derive(Debug, Default)]
struct Interruptions {
    has_signalled: bool,
    is_time_up: bool,
    /// The time at which in-flight requests and downloads are aborted.
    grace: Option<Instant>,
}

/// Whether the run has found any task. Before the first task is found, a 404 is inconclusive, because the key may
/// belong to a different account. `NoneYet` holds the 404 responses received so far.
enum Discovery {
    NoneYet(Vec<(TaskIndex, Timestamp, Option<String>)>),
    Found,
}

/// Whether a request is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// The request is retried.
    NotYet,
}

impl<'a> Coordinator<'a> {
    /// Starts the stages of a run.
    pub(crate) fn new(run: RunContext<'a>, client: Client, media: MediaStage, emit: EventSink<'a>) -> Self {
        let RunContext { config, run_id, plan, held, segments, .. } = run;
        let folder = held.archive.journal_folder();
        let writer = JournalWriter::new(&folder, run_id.clone(), segments);
        let (closed, publish) = PublishStage::start(held.clone());
        let (to_ask, mut ledger) = (plan.to_ask(), Ledger::new(plan.tasks.len()));
        plan.kept.iter().for_each(|task| ledger.journalled(*task));
        let stored = plan.stored.clone();
        Self {
            client,
            pace: Pace::new(config.rate, config.reserve),
            backoff: Backoff::new(config.retries, fastrand::Rng::new()),
            first_pass_left: to_ask.len(),
            queue: Queue::new(to_ask),
            ledger,
            asking: JoinSet::new(),
            stored: (!stored.is_empty()).then(|| StoredStage::of_tables(held.clone(), plan, stored)),
            stored_unsettled: HashMap::new(),
            refreshing: HashMap::new(),
            is_salvaging: false,
            journal: JournalStage::start(writer, closed),
            publish,
            media,
            discovery: Discovery::NoneYet(Vec::new()),
            emit,
            unacknowledged: 0,
            unsettled: 0,
            downloads: Downloads::default(),
            polling_ends: None,
            started: Instant::now(),
            answers: 0,
            given_up_in_a_row: 0,
            refused_in_a_row: 0,
            unconnected: false,
            interruptions: Interruptions::default(),
            ending: None,
            run,
        }
    }

    /// Executes the plan until no work is left or `stop` resolves, and publishes the responses.
    pub(crate) async fn run(mut self, stop: impl Future<Output = Signal>) -> RunResult {
        let mut stop = std::pin::pin!(stop);
        self.work(stop.as_mut()).await;
        if self.unconnected && self.is_running() {
            self.unreachable("the connection was lost", "fetched data is kept, rerun when the network is back");
        }
        self.settle_not_found();
        if self.begin_salvage() {
            self.work(stop).await;
        }
        self.journal_unrefreshed().await;
        self.shut_down().await
    }

    /// Shuts down the stages and processes their remaining events.
    async fn shut_down(self) -> RunResult {
        let Self { run, stored, journal, mut publish, mut media, mut ledger, emit, mut ending, .. } = self;
        media.abort();
        if let Err(error) = media.ended().await {
            ending = Some(Ending::Failed(error));
        }
        let JournalStage { records, mut acknowledged, ended } = journal;
        drop(records);
        while let Some(entry) = acknowledged.recv().await {
            let _not_settled = record_acknowledged(entry, run.plan, &mut ledger, emit);
        }
        while let Some(published) = publish.published.recv().await {
            record_published(published, &mut ledger, emit);
        }
        // The stage that reads stored responses ends when its channel closes.
        let reading = stored.map(|stage| stage.ended);
        for stage in [Some(ended), Some(publish.ended), reading].into_iter().flatten() {
            if let Err(error) = outcome(stage).await {
                ending = Some(Ending::Failed(error));
            }
        }
        RunResult { ending: ending.unwrap_or(Ending::Done), ledger }
    }

    async fn work(&mut self, mut stop: Pin<&mut impl Future<Output = Signal>>) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next = self.next();
            if next == Next::Never && self.is_idle() {
                return;
            }
            let due = if let Next::At(due) = next { Some(due) } else { None };
            let (stop_at, grace) = (self.run.stop_at, self.interruptions.grace);
            tokio::select! {
                biased;
                signal = &mut stop, if !self.interruptions.has_signalled => self.signalled(signal),
                () = until(stop_at), if !self.interruptions.is_time_up => self.time_is_up(),
                Some(answered) = self.asking.join_next() => self.take(answered).await,
                entry = self.journal.acknowledged.recv(), if self.unacknowledged > 0 => self.acknowledged(entry),
                published = self.publish.published.recv(), if self.is_running() => self.published(published),
                events = self.media.events.recv(), if self.unsettled > 0 => self.media_event(events).await,
                () = self.pace.permit(), if next == Next::Now => self.ask(),
                answer = next_stored(&mut self.stored), if self.has_room_for_stored() => self.take_stored(answer).await,
                () = until(due), if due.is_some() => {}
                () = until(grace), if grace.is_some() => {
                    self.interruptions.grace = None;
                    self.asking.abort_all();
                    self.abandon_media();
                }
                _ = tick.tick() => self.emit_progress(),
            }
        }
    }

    /// Whether no work is in progress.
    fn is_idle(&self) -> bool {
        self.asking.is_empty() && self.unacknowledged + self.unsettled == 0 && self.stored.is_none()
    }

    fn signalled(&mut self, signal: Signal) {
        self.interruptions.has_signalled = true;
        self.ending.take_if(|ending| matches!(ending, Ending::TimeIsUp));
        self.interrupt(Ending::Signal(signal), format!("{signal}: no more requests will be sent; fetched data is kept"));
    }

    fn time_is_up(&mut self) {
        self.interruptions.is_time_up = true;
        self.interrupt(Ending::TimeIsUp, "the --stop-after limit was reached; no more requests will be sent".into());
    }

    /// Starts no new work, and gives in-flight requests and downloads a grace period.
    fn interrupt(&mut self, ending: Ending, reason: String) {
        self.interruptions.grace = self.interruptions.grace.or(Some(Instant::now() + GRACE));
        self.media.stop();
        self.stop_reading();
        self.end(ending, reason);
    }

    fn is_running(&self) -> bool {
        self.ending.is_none()
    }

    /// Returns when the next request may be sent, or [`Next::Never`] while a limit is reached. A response that the
    /// journal has not acknowledged counts towards the concurrency limit like an in-flight request, because a crash
    /// would lose either one.
    fn next(&self) -> Next {
        let no_room = self.asking.len() + self.unacknowledged >= usize::from(self.run.config.concurrency);
        // Polls continue, because they are few and the time for polls is limited.
        let too_much_unsettled = self.unsettled >= MOST_UNSETTLED && self.first_pass_left > 0;
        if !self.is_running() || no_room || too_much_unsettled {
            return Next::Never;
        }
        self.queue.next(Instant::now())
    }

    fn ask(&mut self) {
        let Some(request) = self.queue.pop(Instant::now()) else { return };
        let (client, tasks) = (self.client.clone(), self.run.plan.tasks.clone());
        self.ledger.requested(request.task);
        (self.emit)(Event::Requested { kind: request.kind() });
        self.asking.spawn(async move { (request, client.ask(tasks.id(request.task)).await) });
    }

    async fn take(&mut self, answered: Result<(PendingRequest, Reply), JoinError>) {
        match answered {
            Ok((request, reply)) => {
                self.pace.observe(&reply.allowance);
                if self.settle(request, reply.answer).await == Settled::Yes {
                    self.end_of_request(request);
                }
            }
            // The grace period has ended. The ledger has already recorded the request.
            Err(aborted) if aborted.is_cancelled() => {}
            Err(panic) => self.fail(Error::Internal(format!("a request failed: {panic}"))),
        }
    }

    /// Sends an entry to the journal. The entry takes effect when the journal acknowledges it.
    async fn journal(&mut self, entry: Entry) {
        // Sending fails only after the journal stage has ended. The stage then reports its own error.
        if self.journal.records.send(entry).await.is_ok() {
            self.unacknowledged += 1;
        }
    }

    fn acknowledged(&mut self, entry: Option<Acknowledged>) {
        match entry {
            Some(entry) => {
                self.unacknowledged -= 1;
                if let Some(job) = record_acknowledged(entry, self.run.plan, &mut self.ledger, self.emit) {
                    self.download(job);
                }
            }
            None => {
                self.unacknowledged = 0;
                self.a_stage_ended();
            }
        }
    }

    fn published(&mut self, published: Option<Published>) {
        match published {
            Some(published) => record_published(published, &mut self.ledger, self.emit),
            None => self.a_stage_ended(),
        }
    }

    async fn media_event(&mut self, events: Option<DownloadEvent>) {
        match events {
            Some(DownloadEvent::Happened(event)) => {
                self.downloads.note(&event);
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
                    None => self.stored_settled(task, assets).await,
                }
            }
            None => self.a_stage_ended(),
        }
    }

    /// Sends a task to the media stage.
    fn download(&mut self, job: Job) {
        self.unsettled += 1;
        self.downloads.wanted += job.wanted.iter().filter(|wanted| wanted.is_expected()).count() as u64;
        self.media.settle(job);
    }

    /// Ends the run after a stage has ended early. A stage ends early only because of an error, which `shut_down`
    /// collects.
    fn a_stage_ended(&mut self) {
        self.ending.get_or_insert(Ending::Done);
        self.stop_reading();
        self.abandon_media();
    }

    fn abandon_media(&mut self) {
        self.media.abort();
        self.unsettled = 0;
        self.stored_unsettled.clear();
    }

    /// Returns the interval between two polls of a task. The interval grows with the number of unfinished tasks, so
    /// that polls use at most half of the request rate. The key is shared with other users, and most unfinished tasks
    /// take minutes to finish.
    fn poll_interval(&self) -> Duration {
        let unfinished = self.queue.polls() + 1;
        let stretched = Duration::try_from_secs_f64(unfinished as f64 / (self.requests_per_second() / 2.0));
        self.run.config.poll_interval.max(stretched.unwrap_or_default())
    }

    fn requests_per_second(&self) -> f64 {
        Pace::requests_per_second(self.run.config.rate, self.run.config.reserve)
    }

    /// Records that the initial request for a task has received a response or has permanently failed. Polls are
    /// ignored.
    fn end_of_request(&mut self, request: PendingRequest) {
        if request.poll {
            return;
        }
        self.first_pass_left -= 1;
        if self.first_pass_left == 0 && self.polling_ends.is_none() {
            let end = Instant::now() + self.run.config.wait;
            self.polling_ends = Some(end);
            self.queue.end_polls_at(end);
        }
    }

    /// Ends the run with an error that the provider is unreachable, including advice for the user.
    fn unreachable(&mut self, reason: &str, advice: &str) {
        let host = self.client.host();
        self.media.go_offline();
        self.fail(Error::Unreachable(format!("{host} cannot be reached: {reason}; {advice}")));
    }

    fn emit_progress(&mut self) {
        let estimate = EtaEstimate {
            requests: self.queue.fresh() + self.queue.retries() + self.asking.len(),
            unfinished: self.queue.polls(),
            idle: match self.queue.next(Instant::now()) {
                Next::At(due) => due.saturating_duration_since(Instant::now()).max(self.pace.silent_for()),
                Next::Now | Next::Never => self.pace.silent_for(),
            },
            pace: self.requests_per_second(),
            answers: self.answers,
            elapsed: self.started.elapsed(),
            polling_left: self.polling_ends.map(|end| end.saturating_duration_since(Instant::now())),
        };
        let elapsed = self.started.elapsed();
        self.downloads.receive(self.media.received(), TICK);
        let left = estimate.left().and_then(|left| Some(left.max(downloads_left(&self.downloads, elapsed)?)));
        (self.emit)(Event::Progress(Progress {
            settled: self.ledger.settled(),
            selected: self.run.plan.selected.len() as u64,
            unfinished: self.queue.polls() as u64,
            first_pass_over: self.first_pass_left == 0,
            seconds_left: left.map(|left| left.as_secs_f64()),
            downloads: self.downloads.clone(),
        }));
    }

    fn end(&mut self, ending: Ending, reason: String) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            (self.emit)(Event::Stopping { reason });
        }
    }

    fn fail(&mut self, error: Error) {
        if self.ending.is_none() {
            self.ending = Some(Ending::Failed(error));
        }
    }
}

/// Updates the ledger with an acknowledged entry. Returns a job if the task has assets to settle.
fn record_acknowledged(
    entry: Acknowledged,
    plan: &Plan,
    ledger: &mut Ledger,
    emit: &mut (dyn FnMut(Event) + Send),
) -> Option<Job> {
    match entry {
        Acknowledged::TaskResponse { status: None, .. } => None,
        Acknowledged::TaskResponse { task, status: Some(status), part, wanted } => {
            let task_id = plan.tasks.id(task).to_string();
            ledger.journalled(task);
            emit(Event::Answered { task_id: task_id.clone(), status });
            if wanted.is_empty() {
                ledger.complete(task, part);
            }
            (!wanted.is_empty()).then_some(Job { task_id, part: Some(part), wanted, retry_budget: RetryBudget::First })
        }
        // Added assets do not change the task's state.
        Acknowledged::Settled { task, .. } if plan.item(task).rows == RowEffect::AddAssets => None,
        Acknowledged::Settled { task, part } => {
            ledger.journalled(task);
            ledger.complete(task, part);
            None
        }
        Acknowledged::Assets { task, part } => {
            ledger.complete(task, part);
            None
        }
    }
}

fn record_published(published: Published, ledger: &mut Ledger, emit: &mut (dyn FnMut(Event) + Send)) {
    ledger.published(published.part);
    emit(Event::Published(published));
}

/// Receives the next stored response. The future never resolves if `stage` is `None`.
async fn next_stored(stage: &mut Option<StoredStage>) -> Option<(TaskIndex, Option<StoredAnswer>)> {
    match stage {
        Some(stage) => stage.answers.recv().await,
        None => std::future::pending().await,
    }
}

async fn outcome(stage: JoinHandle<Result<()>>) -> Result<()> {
    stage.await.unwrap_or_else(|panic| Err(Error::Internal(format!("a stage of the run failed: {panic}"))))
}

/// Waits until `timestamp`, or forever if `timestamp` is `None`.
async fn until(timestamp: Option<Instant>) {
    match timestamp {
        Some(timestamp) => time::sleep_until(timestamp).await,
        None => std::future::pending().await,
    }
}
