//! The one owner of a run's state: it decides what is asked when, sees every answer, and is the only
//! one that says what happened. Everything reaches it through a single `select!`.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    DOWN, EventSink, GRACE, Plan,
    forecast::{EtaEstimate, downloads_left},
    journal_stage::{Acknowledged, Entry, JournalStage},
    ledger::Ledger,
    media_stage::{AssetRequest, DownloadEvent, Job, MediaStage, RetryBudget},
    publish::PublishStage,
    queue::{Next, PendingRequest, Queue},
};
use crate::{
    api::{Client, Pace, Reply, TaskResponse},
    archive::LockedArchive,
    asset::{AssetKind, AssetKinds},
    backoff::Backoff,
    config::Rate,
    error::{Error, Result},
    event::{Downloads, Event, Progress, Published},
    exit::ExitStatus,
    journal::{JournalWriter, Record},
    status::FinalStatus,
    task::TaskIndex,
    timestamp,
};

/// How often a run says how it stands.
const TICK: Duration = Duration::from_secs(1);

/// After this many answers that are all 404, something is said, long before the end.
const SUSPICIOUS: usize = 20;

/// Tasks whose assets may be outstanding before no further task is asked for. Of each there are some
/// addresses in memory, and in the journal its answer.
const MOST_UNSETTLED: usize = 2000;

/// What a run is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) assets: AssetKinds,
    pub(crate) rate: Rate,
    pub(crate) reserve: u32,
    pub(crate) concurrency: u16,
    pub(crate) wait: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) retries: u32,
    /// When the run is to end, whatever is left.
    pub(crate) stop_at: Option<Instant>,
}

/// A signal that ends a run in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: the terminal or the session is gone.
    HangUp,
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// What the process ends with.
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

/// Why a run stopped asking.
#[derive(Debug)]
pub(crate) enum Ending {
    /// There is nothing left to ask, or no time left to wait for it.
    Done,
    /// The provider refused the key.
    KeyRefused,
    /// The time that the run was given is over.
    TimeIsUp,
    /// A signal came.
    Signal(Signal),
    /// Something that no further request would mend.
    Failed(Error),
}

/// What the asking came to.
pub(crate) struct Asked {
    pub(crate) ending: Ending,
    pub(crate) ledger: Ledger,
}

/// A run under way.
pub(crate) struct Coordinator<'a> {
    settings: Settings,
    plan: &'a Plan,
    client: Client,
    pace: Pace,
    backoff: Backoff,
    queue: Queue,
    ledger: Ledger,
    asking: JoinSet<(PendingRequest, Reply)>,
    journal: JournalStage,
    publish: PublishStage,
    media: MediaStage,
    discovery: Discovery,
    tell: EventSink<'a>,
    /// Answers that the journal has not acknowledged yet.
    unacknowledged: usize,
    /// Tasks whose assets are the media stage's business.
    unsettled: usize,
    downloads: Downloads,
    /// Tasks whose first question has neither been answered nor given up.
    first_pass_left: usize,
    polling_ends: Option<Instant>,
    started: Instant,
    answers: u64,
    given_up_in_a_row: u32,
    refused_in_a_row: u32,
    /// Whether the last thing that came of a request was that there was no connection.
    unconnected: bool,
    ending: Option<Ending>,
}

/// Whether any task of the run was found. Until one is, a 404 says nothing: perhaps the key is another
/// account's. So the 404s wait here.
enum Discovery {
    NoneYet(Vec<(TaskIndex, Timestamp, Option<String>)>),
    Found,
}

/// Whether a question has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// It is sent again.
    NotYet,
}

impl<'a> Coordinator<'a> {
    /// Starts the stages of a run.
    pub(crate) fn new(
        settings: Settings,
        plan: &'a Plan,
        client: Client,
        writer: JournalWriter,
        held: Arc<LockedArchive>,
        media: MediaStage,
        tell: EventSink<'a>,
    ) -> Self {
        let (segments, publish) = PublishStage::start(held);
        let (to_ask, mut ledger) = (plan.to_ask(), Ledger::new(plan.tasks.len()));
        plan.kept.iter().for_each(|task| ledger.journalled(*task));
        Self {
            plan,
            client,
            pace: Pace::new(settings.rate, settings.reserve),
            backoff: Backoff::new(settings.retries, fastrand::Rng::new()),
            settings,
            first_pass_left: to_ask.len(),
            queue: Queue::new(to_ask),
            ledger,
            asking: JoinSet::new(),
            journal: JournalStage::start(writer, segments),
            publish,
            media,
            discovery: Discovery::NoneYet(Vec::new()),
            tell,
            unacknowledged: 0,
            unsettled: 0,
            downloads: Downloads::default(),
            polling_ends: None,
            started: Instant::now(),
            answers: 0,
            given_up_in_a_row: 0,
            refused_in_a_row: 0,
            unconnected: false,
            ending: None,
        }
    }

    /// Asks until nothing is left or `stop` says so, and puts every answer in place.
    pub(crate) async fn run(mut self, stop: impl Future<Output = Signal>) -> Asked {
        self.ask_all(stop).await;
        if self.unconnected && self.is_running() {
            self.unreachable("no connection any more", "what was fetched is kept, run again when it is back");
        }
        self.settle_unfound();
        let Self { journal, mut publish, mut media, mut ledger, tell, mut ending, .. } = self;
        media.abort();
        if let Err(error) = media.ended().await {
            ending = Some(Ending::Failed(error));
        }
        let JournalStage { records, mut acknowledged, ended } = journal;
        drop(records);
        while let Some(entry) = acknowledged.recv().await {
            let _not_settled = note_acknowledged(entry, self.plan, &mut ledger, tell);
        }
        while let Some(published) = publish.published.recv().await {
            note_published(published, &mut ledger, tell);
        }
        for stage in [ended, publish.ended] {
            if let Err(error) = outcome(stage).await {
                ending = Some(Ending::Failed(error));
            }
        }
        Asked { ending: ending.unwrap_or(Ending::Done), ledger }
    }

    async fn ask_all(&mut self, stop: impl Future<Output = Signal>) {
        let mut stop = pin!(stop);
        let stop_at = self.settings.stop_at;
        let (mut signalled, mut time_is_up) = (false, false);
        let mut grace = None;
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next = self.next();
            if next == Next::Never && self.asking.is_empty() && self.unacknowledged + self.unsettled == 0 {
                return;
            }
            let due = if let Next::At(due) = next { Some(due) } else { None };
            tokio::select! {
                biased;
                signal = &mut stop, if !signalled => {
                    signalled = true;
                    grace = grace.or(Some(Instant::now() + GRACE));
                    self.ending.take_if(|ending| matches!(ending, Ending::TimeIsUp));
                    self.media.stop();
                    self.end(Ending::Signal(signal), format!("{signal}: no further requests; keeping what was fetched"));
                }
                () = until(stop_at), if !time_is_up => {
                    time_is_up = true;
                    grace = grace.or(Some(Instant::now() + GRACE));
                    self.media.stop();
                    self.end(Ending::TimeIsUp, "the time given with --stop-after is over: no further requests".into());
                }
                Some(answered) = self.asking.join_next() => self.take(answered).await,
                entry = self.journal.acknowledged.recv(), if self.unacknowledged > 0 => self.acknowledged(entry),
                published = self.publish.published.recv(), if self.is_running() => self.published(published),
                news = self.media.news.recv(), if self.unsettled > 0 => self.media_said(news).await,
                () = self.pace.permit(), if next == Next::Now => self.ask(),
                () = until(due), if due.is_some() => {}
                () = until(grace), if grace.is_some() => {
                    grace = None;
                    self.asking.abort_all();
                    self.abandon_media();
                }
                _ = tick.tick() => self.tell_progress(),
            }
        }
    }

    fn is_running(&self) -> bool {
        self.ending.is_none()
    }

    /// What to do about sending; [`Next::Never`] also while there is no room. An answer that the journal
    /// does not hold yet takes as much room as a request in flight: a crash would cost either.
    fn next(&self) -> Next {
        let no_room = self.asking.len() + self.unacknowledged >= usize::from(self.settings.concurrency);
        // Polls go on: the time for them is limited, and they are few.
        let too_much_unsettled = self.unsettled >= MOST_UNSETTLED && self.first_pass_left > 0;
        if !self.is_running() || no_room || too_much_unsettled {
            return Next::Never;
        }
        let next = self.queue.next(Instant::now());
        // With the first pass over only polls are left, and the time for those is limited.
        match (next, self.polling_ends) {
            (Next::At(due), Some(end)) if due >= end => Next::Never,
            (Next::Now, Some(end)) if Instant::now() >= end => Next::Never,
            (next, _) => next,
        }
    }

    fn ask(&mut self) {
        let Some(question) = self.queue.pop(Instant::now()) else { return };
        let (client, tasks) = (self.client.clone(), self.plan.tasks.clone());
        self.ledger.asked(question.task);
        (self.tell)(Event::Requested { kind: question.kind() });
        self.asking.spawn(async move { (question, client.ask(tasks.id(question.task)).await) });
    }

    async fn take(&mut self, answered: Result<(PendingRequest, Reply), JoinError>) {
        match answered {
            Ok((question, reply)) => {
                self.pace.observe(&reply.allowance);
                if self.settle(question, reply.answer).await == Settled::Yes {
                    self.end_of_question(question);
                }
            }
            // After the grace period; the ledger knows that it was asked.
            Err(aborted) if aborted.is_cancelled() => {}
            Err(panic) => self.fail(Error::Internal(format!("a request failed: {panic}"))),
        }
    }

    async fn settle(&mut self, question: PendingRequest, answer: TaskResponse) -> Settled {
        let task = question.task;
        self.unconnected = matches!(answer, TaskResponse::Unconnected { .. });
        match answer {
            TaskResponse::RateLimited { silence } => {
                self.rate_limited(question, silence);
                return Settled::NotYet;
            }
            TaskResponse::Transient { reason } => {
                self.answers += 1;
                return self.retry_or_give_up(question, reason);
            }
            TaskResponse::Silent { reason } | TaskResponse::Unconnected { reason } => {
                let settled = self.retry_or_give_up(question, reason.clone());
                // A passing fault, had there ever been an answer; perhaps the wrong address, as there was none.
                if settled == Settled::Yes && self.answers == 0 {
                    self.unreachable(&reason, "check the network, the proxy settings and --base-url, and run again");
                }
                return settled;
            }
            TaskResponse::Untrusted { reason } => {
                self.ledger.gave_up(task, reason.clone());
                self.unreachable(&reason, "if the certificate is your own, name its authority in SSL_CERT_FILE");
            }
            TaskResponse::KeyRefused { reason } => {
                self.answered();
                self.ledger.gave_up(task, reason.clone());
                self.end(
                    Ending::KeyRefused,
                    format!("the provider refused the key ({reason}); nothing further is sent"),
                );
            }
            TaskResponse::Rejected { reason } => {
                self.answered();
                self.ledger.gave_up(task, reason);
            }
            TaskResponse::Final { .. }
            | TaskResponse::Unfinished { .. }
            | TaskResponse::NotFound { .. }
            | TaskResponse::Unreadable { .. } => {
                self.answered();
                self.keep(task, answer).await;
            }
        }
        Settled::Yes
    }

    /// Takes an answer that says something about the task.
    async fn keep(&mut self, task: TaskIndex, answer: TaskResponse) {
        let fetched_at = timestamp::now();
        let task_id = self.plan.tasks.id(task).to_string();
        match answer {
            TaskResponse::Final { status, data, sent } => {
                self.found().await;
                let kinds: Vec<AssetKind> = self.settings.assets.iter().collect();
                let wanted = AssetRequest::of(&data, &kinds);
                let assets = if wanted.is_empty() { Vec::new() } else { kinds };
                let replaces = self.plan.replaces(task);
                let record = Record::Task { task_id, status, fetched_at, data, sent, assets, replaces };
                self.journal(Entry::TaskResponse { task, status: Some(status), record, wanted }).await;
            }
            TaskResponse::Unfinished { status, created_at } => {
                self.found().await;
                self.ledger.unfinished(task, status.clone());
                (self.tell)(Event::Unfinished { task_id, status });
                self.queue.poll(task, created_at, Instant::now() + self.poll_interval());
            }
            TaskResponse::NotFound { message } => match &mut self.discovery {
                Discovery::Found => self.not_found(task, fetched_at, message).await,
                Discovery::NoneYet(waiting) => {
                    waiting.push((task, fetched_at, message));
                    if waiting.len() == SUSPICIOUS {
                        (self.tell)(Event::NoneFound { answers: SUSPICIOUS as u64 });
                    }
                }
            },
            TaskResponse::Unreadable { reason, body } => {
                self.ledger.unreadable(task, reason);
                let record = Record::Unreadable { task_id, body };
                self.journal(Entry::TaskResponse { task, status: None, record, wanted: Vec::new() }).await;
            }
            _ => {}
        }
    }

    /// The provider is there, and says something.
    fn answered(&mut self) {
        self.answers += 1;
        self.given_up_in_a_row = 0;
        self.refused_in_a_row = 0;
    }

    /// 429: everybody waits, and it costs no retry. But a provider that says nothing else is as good as down.
    fn rate_limited(&mut self, question: PendingRequest, silence: Duration) {
        self.answers += 1;
        self.refused_in_a_row += 1;
        self.pace.silence(silence);
        self.ledger.failing(question.task, "refused with 429".into());
        (self.tell)(Event::RateLimited { wait_seconds: silence.as_secs_f64() });
        self.queue.refused(question);
        if self.refused_in_a_row == DOWN {
            let host = self.client.host();
            self.fail(Error::Unreachable(format!(
                "{host} has refused {DOWN} requests in a row with 429; what was fetched is kept, run again later"
            )));
        }
    }

    fn end_of_question(&mut self, question: PendingRequest) {
        if question.poll {
            return;
        }
        self.first_pass_left -= 1;
        if self.first_pass_left == 0 {
            self.polling_ends = Some(Instant::now() + self.settings.wait);
        }
    }

    fn retry_or_give_up(&mut self, question: PendingRequest, reason: String) -> Settled {
        let failures = question.failures + 1;
        let Some(wait) = self.backoff.wait(failures) else {
            self.ledger.gave_up(question.task, format!("{reason}; requests sent: {failures}"));
            self.given_up_in_a_row += 1;
            if self.given_up_in_a_row == DOWN && self.first_pass_left > 1 {
                self.provider_is_down(&reason);
            }
            return Settled::Yes;
        };
        self.ledger.failing(question.task, reason.clone());
        let task_id = self.plan.tasks.id(question.task).to_string();
        (self.tell)(Event::Retrying { task_id, reason, wait_seconds: wait.as_secs_f64() });
        self.queue.retry(PendingRequest { failures, ..question }, Instant::now() + wait);
        Settled::NotYet
    }

    fn provider_is_down(&mut self, reason: &str) {
        let host = self.client.host();
        self.fail(Error::Unreachable(format!(
            "{host} has failed {DOWN} tasks in a row, the last with: {reason}; what was fetched is kept, run again when it is back"
        )));
    }

    /// Says that there is no provider to ask, and what to do.
    fn unreachable(&mut self, reason: &str, advice: &str) {
        let host = self.client.host();
        self.media.go_offline();
        self.fail(Error::Unreachable(format!("{host} cannot be reached: {reason}; {advice}")));
    }

    async fn not_found(&mut self, task: TaskIndex, fetched_at: Timestamp, message: Option<String>) {
        let task_id = self.plan.tasks.id(task).to_string();
        let replaces = self.plan.replaces(task);
        let (status, record) = (
            Some(FinalStatus::NotFound),
            Record::NotFound { task_id, fetched_at, message, replaces, clips_left: None },
        );
        self.journal(Entry::TaskResponse { task, status, record, wanted: Vec::new() }).await;
    }

    /// A task was found: the key is this account's, and the 404s so far are answers.
    async fn found(&mut self) {
        let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) else { return };
        for (task, fetched_at, message) in waiting {
            self.not_found(task, fetched_at, message).await;
        }
    }

    fn settle_unfound(&mut self) {
        let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) else { return };
        if !waiting.is_empty() {
            (self.tell)(Event::NoneFound { answers: waiting.len() as u64 });
        }
        let (archived, unknown): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(task, ..)| self.plan.replaces(*task));
        if !archived.is_empty() {
            // Their rows say the same as ever.
            (self.tell)(Event::StillNotFound { tasks: archived.len() as u64 });
        }
        for (task, ..) in archived {
            self.ledger.archived(task);
        }
        for (task, ..) in unknown {
            self.ledger.gave_up(
                task,
                "not found, like every task of the run; does the key belong to a different account?".into(),
            );
        }
    }

    /// Hands a record to the journal; what it holds counts once that has acknowledged it.
    async fn journal(&mut self, entry: Entry) {
        // It fails only after the stage has ended, whose own error is reported then.
        if self.journal.records.send(entry).await.is_ok() {
            self.unacknowledged += 1;
        }
    }

    fn acknowledged(&mut self, entry: Option<Acknowledged>) {
        match entry {
            Some(entry) => {
                self.unacknowledged -= 1;
                if let Some(job) = note_acknowledged(entry, self.plan, &mut self.ledger, self.tell) {
                    self.unsettled += 1;
                    self.downloads.wanted += job.wanted.iter().filter(|wanted| wanted.is_expected()).count() as u64;
                    self.media.settle(job);
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
            Some(published) => note_published(published, &mut self.ledger, self.tell),
            None => self.a_stage_ended(),
        }
    }

    async fn media_said(&mut self, news: Option<DownloadEvent>) {
        match news {
            Some(DownloadEvent::Happened(event)) => {
                self.downloads.note(&event);
                (self.tell)(event);
            }
            Some(DownloadEvent::Unsettled) => self.unsettled -= 1,
            Some(DownloadEvent::Settled { task_id, part, assets }) => {
                self.unsettled -= 1;
                if let Some(task) = self.plan.tasks.find(&task_id) {
                    self.journal(Entry::Assets { task, part, record: Record::Assets { task_id, assets } }).await;
                }
            }
            None => self.a_stage_ended(),
        }
    }

    /// A stage ends before the run only by an error, which it says itself at the end.
    fn a_stage_ended(&mut self) {
        self.ending.get_or_insert(Ending::Done);
        self.abandon_media();
    }

    fn abandon_media(&mut self) {
        self.media.abort();
        self.unsettled = 0;
    }

    /// The wait between two polls of a task. With many unfinished tasks it stretches, so that polls
    /// never take more than half of the pace: the key is shared, and most of those tasks need minutes.
    fn poll_interval(&self) -> Duration {
        let unfinished = self.queue.polls() + 1;
        let stretched = Duration::try_from_secs_f64(unfinished as f64 / (self.requests_per_second() / 2.0));
        self.settings.poll_interval.max(stretched.unwrap_or_default())
    }

    fn requests_per_second(&self) -> f64 {
        Pace::requests_per_second(self.settings.rate, self.settings.reserve)
    }

    fn tell_progress(&mut self) {
        let outlook = EtaEstimate {
            questions: self.queue.fresh() + self.queue.retries() + self.asking.len(),
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
        let left = outlook.left().and_then(|left| Some(left.max(downloads_left(&self.downloads, elapsed)?)));
        (self.tell)(Event::Progress(Progress {
            settled: self.ledger.settled(),
            selected: self.plan.selected.len() as u64,
            unfinished: self.queue.polls() as u64,
            first_pass_over: self.first_pass_left == 0,
            seconds_left: left.map(|left| left.as_secs_f64()),
            downloads: self.downloads.clone(),
        }));
    }

    fn end(&mut self, ending: Ending, reason: String) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            (self.tell)(Event::Stopping { reason });
        }
    }

    fn fail(&mut self, error: Error) {
        if self.ending.is_none() {
            self.ending = Some(Ending::Failed(error));
        }
    }
}

/// Takes in what the journal holds now, and gives the task's assets, if there are any to be settled.
fn note_acknowledged(
    entry: Acknowledged,
    plan: &Plan,
    ledger: &mut Ledger,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Option<Job> {
    match entry {
        Acknowledged::TaskResponse { status: None, .. } => None,
        Acknowledged::TaskResponse { task, status: Some(status), part, wanted } => {
            let task_id = plan.tasks.id(task).to_string();
            ledger.journalled(task);
            tell(Event::Answered { task_id: task_id.clone(), status });
            if wanted.is_empty() {
                ledger.complete(task, part);
            }
            (!wanted.is_empty()).then_some(Job { task_id, part, wanted, chances: RetryBudget::First })
        }
        Acknowledged::Assets { task, part } => {
            ledger.complete(task, part);
            None
        }
    }
}

fn note_published(published: Published, ledger: &mut Ledger, tell: &mut (dyn FnMut(Event) + Send)) {
    ledger.published(published.part);
    tell(Event::Published(published));
}

async fn outcome(stage: JoinHandle<Result<()>>) -> Result<()> {
    stage.await.unwrap_or_else(|panic| Err(Error::Internal(format!("a stage of the run failed: {panic}"))))
}

/// Waits for a moment; for one that never comes it waits for ever.
async fn until(timestamp: Option<Instant>) {
    match timestamp {
        Some(timestamp) => time::sleep_until(timestamp).await,
        None => std::future::pending().await,
    }
}
