//! The one owner of a run's state: it decides what is asked when, sees every answer, and is the only
//! one that says what happened. Everything reaches it through a single `select!`.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    Plan, Tell,
    forecast::Outlook,
    journal_stage::{Entry, JournalStage},
    ledger::Ledger,
    publish::PublishStage,
    queue::{Next, Question, Queue},
};
use crate::{
    api::{Answer, Backoff, Client, FinalStatus, Pace, Reply},
    archive::Archive,
    config::Rate,
    error::{Error, Result},
    event::{Event, MissingReason, Progress},
    exit::ExitStatus,
    journal::{JournalWriter, Record},
    task::TaskIndex,
};

/// After a signal, how long requests in flight may still take: their answers are paid for.
const GRACE: Duration = Duration::from_secs(5);

/// How often a run says how it stands.
const TICK: Duration = Duration::from_secs(1);

/// After this many answers that are all 404, something is said, long before the end.
const SUSPICIOUS: usize = 20;

/// What a run is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) rate: Rate,
    pub(crate) reserve: u32,
    pub(crate) concurrency: u16,
    pub(crate) wait: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) retries: u32,
}

/// A signal that ends a run in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
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
            Self::Interrupt => ExitStatus::Interrupted,
            Self::Terminate => ExitStatus::Terminated,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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
    /// A signal came.
    Signal(Signal),
    /// Something that no further request would mend.
    Failed(Error),
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
    asking: JoinSet<(Question, Reply)>,
    journal: JournalStage,
    publish: PublishStage,
    discovery: Discovery,
    tell: Tell<'a>,
    /// Tasks whose first question has neither been answered nor given up.
    first_pass_left: usize,
    polling_ends: Option<Instant>,
    started: Instant,
    answers: u64,
    sent: u64,
    ending: Option<Ending>,
}

/// Whether any task of the run was found. Until one is, a 404 says nothing: perhaps the key is another
/// account's. So the 404s wait here.
enum Discovery {
    NoneYet(Vec<(TaskIndex, Timestamp, Option<String>)>),
    Found,
}

impl<'a> Coordinator<'a> {
    /// Starts the stages of a run.
    pub(crate) fn new(
        settings: Settings,
        plan: &'a Plan,
        client: Client,
        writer: JournalWriter,
        archive: Arc<Archive>,
        tell: Tell<'a>,
    ) -> Self {
        let (segments, publish) = PublishStage::start(archive);
        Self {
            settings,
            plan,
            client,
            pace: Pace::new(settings.rate, settings.reserve),
            backoff: Backoff::new(settings.retries, fastrand::Rng::new()),
            queue: Queue::new(plan.selected.clone()),
            ledger: Ledger::new(plan.tasks.len()),
            asking: JoinSet::new(),
            journal: JournalStage::start(writer, segments),
            publish,
            discovery: Discovery::NoneYet(Vec::new()),
            tell,
            first_pass_left: plan.selected.len(),
            polling_ends: None,
            started: Instant::now(),
            answers: 0,
            sent: 0,
            ending: None,
        }
    }

    /// Asks until nothing is left or `stop` says so, and puts every answer in place. Gives how it ended,
    /// what became of the tasks, and how many requests were sent.
    pub(crate) async fn run(mut self, stop: impl Future<Output = Signal>) -> (Ending, Ledger, u64) {
        self.ask_all(stop).await;
        self.settle_unfound();
        let Self { journal, mut publish, mut ledger, tell, mut ending, sent, .. } = self;
        let JournalStage { records, mut acknowledged, ended } = journal;
        drop(records);
        while let Some(entries) = acknowledged.recv().await {
            acknowledge(entries, &mut ledger, tell);
        }
        while let Some(published) = publish.published.recv().await {
            tell(Event::Published(published));
        }
        for stage in [ended, publish.ended] {
            if let Err(error) = outcome(stage).await {
                ending = Some(Ending::Failed(error));
            }
        }
        (ending.unwrap_or(Ending::Done), ledger, sent)
    }

    async fn ask_all(&mut self, stop: impl Future<Output = Signal>) {
        let mut stop = pin!(stop);
        let mut grace = None;
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next = self.next();
            if self.asking.is_empty() && matches!(next, Next::Never) {
                return;
            }
            tokio::select! {
                biased;
                signal = &mut stop, if grace.is_none() => {
                    grace = Some(Instant::now() + GRACE);
                    self.end(Ending::Signal(signal), format!("{signal}: no further requests; keeping what was fetched"));
                }
                Some(answered) = self.asking.join_next() => match answered {
                    Ok((question, reply)) => {
                        self.pace.observe(&reply.allowance);
                        self.take(question, reply.answer).await;
                    }
                    Err(panic) => self.fail(Error::storage("ask", "the provider", &panic)),
                },
                entries = self.journal.acknowledged.recv(), if self.is_running() => match entries {
                    Some(entries) => acknowledge(entries, &mut self.ledger, self.tell),
                    None => self.end(Ending::Done, "the journal cannot be written".into()),
                },
                published = self.publish.published.recv(), if self.is_running() => match published {
                    Some(published) => (self.tell)(Event::Published(published)),
                    None => self.end(Ending::Done, "the archive cannot be written".into()),
                },
                () = self.pace.permit(), if next == Next::Now => self.ask(),
                () = until(next), if matches!(next, Next::At(_)) => {}
                () = time::sleep_until(grace.unwrap_or(self.started)), if grace.is_some() => {
                    self.asking.abort_all();
                    while self.asking.join_next().await.is_some() {}
                }
                _ = tick.tick() => self.tell_progress(),
            }
        }
    }

    fn is_running(&self) -> bool {
        self.ending.is_none()
    }

    /// What to do about sending; [`Next::Never`] also while there is no room for a request in flight.
    fn next(&self) -> Next {
        if !self.is_running() || self.asking.len() >= usize::from(self.settings.concurrency) {
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
        self.sent += 1;
        (self.tell)(Event::Requested { kind: question.kind() });
        self.asking.spawn(async move { (question, client.ask(tasks.id(question.task)).await) });
    }

    async fn take(&mut self, question: Question, answer: Answer) {
        let fetched_at = now();
        let task = question.task;
        let task_id = self.id(task);
        let silent = matches!(answer, Answer::Silent { .. } | Answer::Untrusted { .. });
        self.answers += u64::from(!silent);
        match answer {
            Answer::Final { status, data, sent } => {
                self.found().await;
                let status = status.as_str().to_owned();
                self.keep(task, Record::Task { task_id, status, fetched_at, data, sent }).await;
            }
            Answer::Unfinished { status, created_at } => {
                self.found().await;
                let detail =
                    status.as_ref().map_or("it has no status".into(), |status| format!("its status is {status}"));
                self.ledger.note(task, MissingReason::Unfinished, detail);
                (self.tell)(Event::Unfinished { task_id, status });
                self.queue.poll(task, created_at, Instant::now() + self.poll_interval());
            }
            Answer::NotFound { message } => self.not_found(task, fetched_at, message).await,
            Answer::KeyRefused { reason } => {
                self.ledger.gave_up(task, MissingReason::Error, reason.clone());
                self.end(
                    Ending::KeyRefused,
                    format!("the provider refused the key ({reason}); nothing further is sent"),
                );
            }
            Answer::RateLimited { silence } => {
                self.pace.silence(silence);
                (self.tell)(Event::RateLimited { wait_seconds: silence.as_secs_f64() });
                self.queue.retry(question, Instant::now());
                return;
            }
            Answer::Transient { reason } => {
                if self.retry_or_give_up(question, &task_id, reason) {
                    return;
                }
            }
            Answer::Silent { reason } => {
                if self.retry_or_give_up(question, &task_id, reason.clone()) {
                    return;
                }
                // A passing fault, had there ever been an answer; perhaps the wrong address, as there was none.
                if self.answers == 0 {
                    self.unreachable(&reason, "check the network, the proxy settings and --base-url, and run again");
                }
            }
            Answer::Untrusted { reason } => {
                self.ledger.gave_up(task, MissingReason::Error, reason.clone());
                self.unreachable(&reason, "if the certificate is your own, name its authority in SSL_CERT_FILE");
            }
            Answer::Rejected { reason } => self.ledger.gave_up(task, MissingReason::Error, reason),
            Answer::Unreadable { reason, body } => {
                self.ledger.gave_up(task, MissingReason::Unreadable, reason);
                self.write(task, Record::Unreadable { task_id, body }).await;
            }
        }
        self.end_of_question(question);
    }

    fn end_of_question(&mut self, question: Question) {
        if question.poll {
            return;
        }
        self.first_pass_left -= 1;
        if self.first_pass_left == 0 {
            self.polling_ends = Some(Instant::now() + self.settings.wait);
        }
    }

    /// Whether the question is sent again.
    fn retry_or_give_up(&mut self, question: Question, task_id: &str, reason: String) -> bool {
        let failures = question.failures + 1;
        let Some(wait) = self.backoff.wait(failures) else {
            self.ledger.gave_up(question.task, MissingReason::Error, format!("{reason} ({failures} requests)"));
            return false;
        };
        let detail = format!("the run ended before it was asked again; {reason}");
        self.ledger.note(question.task, MissingReason::Error, detail);
        (self.tell)(Event::Retrying { task_id: task_id.to_owned(), reason, wait_seconds: wait.as_secs_f64() });
        self.queue.retry(Question { failures, ..question }, Instant::now() + wait);
        true
    }

    /// Says that there is no provider to ask, and what to do.
    fn unreachable(&mut self, reason: &str, advice: &str) {
        let host = self.client.host();
        self.fail(Error::Unreachable(format!("{host} cannot be reached: {reason}; {advice}")));
    }

    async fn not_found(&mut self, task: TaskIndex, fetched_at: Timestamp, message: Option<String>) {
        match &mut self.discovery {
            Discovery::Found => {
                let task_id = self.id(task);
                self.keep(task, Record::NotFound { task_id, fetched_at, message }).await;
            }
            Discovery::NoneYet(waiting) => {
                waiting.push((task, fetched_at, message));
                if waiting.len() == SUSPICIOUS {
                    (self.tell)(Event::NoneFound { answers: SUSPICIOUS as u64 });
                }
            }
        }
    }

    /// A task was found: the key is this account's, and the 404s so far are answers.
    async fn found(&mut self) {
        let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) else { return };
        for (task, fetched_at, message) in waiting {
            let task_id = self.id(task);
            self.keep(task, Record::NotFound { task_id, fetched_at, message }).await;
        }
    }

    fn settle_unfound(&mut self) {
        if let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) {
            if !waiting.is_empty() {
                (self.tell)(Event::NoneFound { answers: waiting.len() as u64 });
            }
            for (task, ..) in waiting {
                let detail = "not found, like every task of the run: is the key another account's?";
                self.ledger.gave_up(task, MissingReason::Error, detail.into());
            }
        }
    }

    /// Hands a final answer to the journal; the task counts as answered once that has acknowledged it.
    async fn keep(&mut self, task: TaskIndex, record: Record) {
        let detail = "answered, and kept in the journal: the next run archives it without asking";
        self.ledger.note(task, MissingReason::Interrupted, detail.into());
        self.write(task, record).await;
    }

    async fn write(&mut self, task: TaskIndex, record: Record) {
        // It fails only after the stage has ended, whose own error is reported then.
        let _ = self.journal.records.send((task, record)).await;
    }

    /// The wait between two polls of a task. With many unfinished tasks it stretches, so that polls
    /// never take more than half of the pace: the key is shared, and most of those tasks need minutes.
    fn poll_interval(&self) -> Duration {
        let unfinished = self.queue.polls() + 1;
        let stretched = Duration::try_from_secs_f64(unfinished as f64 / (self.settings.rate.per_second() / 2.0));
        self.settings.poll_interval.max(stretched.unwrap_or_default())
    }

    fn tell_progress(&mut self) {
        let outlook = Outlook {
            questions: self.queue.fresh() + self.queue.retries() + self.asking.len(),
            unfinished: self.queue.polls(),
            idle: match self.queue.next(Instant::now()) {
                Next::At(due) => due.saturating_duration_since(Instant::now()).max(self.pace.silent_for()),
                Next::Now | Next::Never => self.pace.silent_for(),
            },
            pace: self.settings.rate.per_second(),
            answers: self.answers,
            elapsed: self.started.elapsed(),
            polling_left: self.polling_ends.map(|end| end.saturating_duration_since(Instant::now())),
        };
        (self.tell)(Event::Progress(Progress {
            settled: self.ledger.settled(),
            selected: self.plan.selected.len() as u64,
            unfinished: self.queue.polls() as u64,
            first_pass_over: self.first_pass_left == 0,
            seconds_left: outlook.left().as_secs_f64(),
        }));
    }

    fn end(&mut self, ending: Ending, reason: String) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            (self.tell)(Event::Stopping { reason });
        }
    }

    fn fail(&mut self, error: Error) {
        let reason = error.to_string();
        self.end(Ending::Failed(error), reason);
    }

    fn id(&self, task: TaskIndex) -> String {
        self.plan.tasks.id(task).to_string()
    }
}

fn acknowledge(entries: Vec<Entry>, ledger: &mut Ledger, tell: &mut (dyn FnMut(Event) + Send)) {
    for (task, record) in entries {
        let (task_id, status) = match record {
            Record::Task { task_id, status, .. } => (task_id, status),
            Record::NotFound { task_id, .. } => (task_id, FinalStatus::NotFound.as_str().to_owned()),
            Record::Segment { .. } | Record::Unreadable { .. } => continue,
        };
        ledger.answered(task);
        tell(Event::Answered { task_id, status });
    }
}

async fn outcome(stage: JoinHandle<Result<()>>) -> Result<()> {
    stage.await.unwrap_or_else(|panic| Err(Error::storage("run", "a stage of the run", &panic)))
}

async fn until(next: Next) {
    if let Next::At(due) = next {
        time::sleep_until(due).await;
    }
}

/// The time to the microsecond, which is what the tables keep.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
