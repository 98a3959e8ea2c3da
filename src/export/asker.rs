//! Questions to the provider for some tasks, within the pace and some at once: each is sent until it has an
//! answer, or for as long as that makes sense.

use std::{collections::VecDeque, panic, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::{self, Instant},
};

use super::{DOWN, EventSink};
use crate::{
    api::{Client, Pace, Reply, TaskResponse},
    backoff::Backoff,
    event::{Event, RequestKind},
    status::FinalStatus,
    task::TaskId,
};

/// How tasks are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Further tries after a failure that may pass.
    pub(crate) retries: u32,
    /// The most requests in flight.
    pub(crate) concurrency: usize,
    /// How long to poll a task that is not finished.
    pub(crate) wait: Duration,
    /// Between two polls of one task.
    pub(crate) poll_interval: Duration,
}

/// What the provider says of a task.
pub(super) enum Told {
    /// It has ended: its status, the `data` object, and the body if that is not the same.
    Final { status: FinalStatus, data: String, sent: Option<String> },
    /// It does not know it.
    NotFound { message: Option<String> },
    /// Something that is no task.
    Unreadable { reason: String, body: String },
}

/// What all questions so far came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests to the API.
    pub(super) requests: u64,
    /// The provider refused the key.
    pub(super) key_refused: bool,
    /// Why the provider is not asked any more: it does not answer.
    pub(super) unreachable: Option<String>,
    /// Whether it knows any of the tasks: else the key may be another account's.
    pub(super) knows_any: bool,
    /// Whether it has said anything at all.
    has_answered: bool,
    given_up_in_a_row: u32,
    refused_in_a_row: u32,
}

impl Tally {
    /// The provider is there, and says something of a task.
    fn answered(&mut self) {
        (self.has_answered, self.given_up_in_a_row, self.refused_in_a_row) = (true, 0, 0);
    }

    /// The provider is as good as down after so many of these in a row.
    fn count(in_a_row: &mut u32, unreachable: &mut Option<String>, reason: &str) {
        *in_a_row += 1;
        if *in_a_row == DOWN {
            *unreachable = Some(reason.to_owned());
        }
    }
}

/// Asks for tasks.
pub(crate) struct Asker {
    client: Client,
    pace: Pace,
    manners: Manners,
    ready: VecDeque<PendingRequest>,
    in_flight: JoinSet<(PendingRequest, Reply)>,
    resting: Vec<(Instant, PendingRequest)>,
    pub(super) tally: Tally,
}

/// A task that is asked for.
struct PendingRequest {
    task_id: String,
    kind: RequestKind,
    backoff: Backoff,
    failures: u32,
    /// Polled no longer than until then, once it was found unfinished.
    until: Option<Instant>,
}

/// What becomes of a question.
enum Next {
    Done(Result<Told, String>),
    /// The same once more, after a wait if there is one.
    Again(Duration),
}

impl Asker {
    pub(crate) fn new(client: Client, pace: Pace, manners: Manners) -> Self {
        let (ready, in_flight, resting) = (VecDeque::new(), JoinSet::new(), Vec::new());
        Self { client, pace, manners, ready, in_flight, resting, tally: Tally::default() }
    }

    /// Another task to ask for.
    pub(super) fn add(&mut self, task_id: String) {
        let backoff = Backoff::new(self.manners.retries, fastrand::Rng::new());
        self.ready.push_back(PendingRequest { task_id, kind: RequestKind::First, backoff, failures: 0, until: None });
    }

    /// The next task of which it is known what the provider says, or why it says nothing; `None` when all are.
    pub(super) async fn next(&mut self, tell: EventSink<'_>) -> Option<(String, Result<Told, String>)> {
        loop {
            if let Some(reason) = self.closed() {
                // What is in flight may still be an answer.
                self.ready.extend(self.resting.drain(..).map(|(_, question)| question));
                if let Some(question) = self.ready.pop_front() {
                    return Some((question.task_id, Err(reason)));
                }
            }
            let has_place = !self.ready.is_empty() && self.in_flight.len() < self.manners.concurrency;
            let rested = self.resting.iter().map(|(until, _)| *until).min();
            tokio::select! {
                () = self.pace.permit(), if has_place => {
                    if let Some(task_id) = self.send(tell) {
                        return Some((task_id, Err("its ID cannot be asked for".into())));
                    }
                }
                Some(replied) = self.in_flight.join_next() => {
                    if let Some(done) = self.take(replied, tell) {
                        return Some(done);
                    }
                }
                () = time::sleep_until(rested.unwrap_or_else(Instant::now)), if rested.is_some() => self.wake(),
                else => return None,
            }
        }
    }

    /// The same for requests that are in flight; nothing further is sent.
    pub(super) async fn next_in_flight(&mut self, tell: EventSink<'_>) -> Option<(String, Result<Told, String>)> {
        while let Some(replied) = self.in_flight.join_next().await {
            if let Some(done) = self.take(replied, tell) {
                return Some(done);
            }
        }
        None
    }

    /// Why nobody is asked any more, if so.
    fn closed(&self) -> Option<String> {
        let refused = self.tally.key_refused.then(|| "the provider refused the key".to_owned());
        refused.or_else(|| self.tally.unreachable.clone())
    }

    /// Sends the next question, or gives back the ID that no request can carry.
    fn send(&mut self, tell: EventSink<'_>) -> Option<String> {
        let question = self.ready.pop_front()?;
        if TaskId::parse(&question.task_id).is_err() {
            return Some(question.task_id);
        }
        self.tally.requests += 1;
        tell(Event::Requested { kind: question.kind });
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let id = TaskId::parse(&question.task_id).expect("it was parsed a moment ago");
            let reply = client.ask(id).await;
            (question, reply)
        });
        None
    }

    fn take(
        &mut self,
        replied: Result<(PendingRequest, Reply), JoinError>,
        tell: EventSink<'_>,
    ) -> Option<(String, Result<Told, String>)> {
        let (mut question, reply) = replied.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
        self.pace.observe(&reply.allowance);
        match self.judge(&mut question, reply.answer, tell) {
            Next::Done(told) => Some((question.task_id, told)),
            Next::Again(Duration::ZERO) => {
                self.ready.push_front(question);
                None
            }
            Next::Again(wait) => {
                self.resting.push((Instant::now() + wait, question));
                None
            }
        }
    }

    fn judge(&mut self, question: &mut PendingRequest, answer: TaskResponse, tell: EventSink<'_>) -> Next {
        let tally = &mut self.tally;
        match answer {
            TaskResponse::Final { status, data, sent } => {
                tally.answered();
                tally.knows_any = true;
                Next::Done(Ok(Told::Final { status, data, sent }))
            }
            TaskResponse::NotFound { message } => {
                tally.answered();
                Next::Done(Ok(Told::NotFound { message }))
            }
            TaskResponse::Unfinished { .. } => {
                tally.answered();
                tally.knows_any = true;
                let now = Instant::now();
                let until = *question.until.get_or_insert(now + self.manners.wait);
                (question.kind, question.failures) = (RequestKind::Poll, 0);
                if now + self.manners.poll_interval > until {
                    return Next::Done(Err("the provider says that it is not finished".into()));
                }
                Next::Again(self.manners.poll_interval)
            }
            TaskResponse::Unreadable { reason, body } => {
                tally.answered();
                Next::Done(Ok(Told::Unreadable { reason, body }))
            }
            TaskResponse::Rejected { reason } => {
                tally.answered();
                Next::Done(Err(reason))
            }
            TaskResponse::KeyRefused { reason } => {
                tally.key_refused = true;
                Next::Done(Err(format!("the provider refused the key ({reason})")))
            }
            TaskResponse::Untrusted { reason } => {
                tally.unreachable = Some(reason.clone());
                Next::Done(Err(reason))
            }
            TaskResponse::RateLimited { silence } => {
                question.kind = RequestKind::Retry;
                tally.has_answered = true;
                Tally::count(&mut tally.refused_in_a_row, &mut tally.unreachable, "the provider says nothing but 429");
                tell(Event::RateLimited { wait_seconds: silence.as_secs_f64() });
                self.pace.silence(silence);
                Next::Again(Duration::ZERO)
            }
            TaskResponse::Transient { reason } => {
                tally.has_answered = true;
                self.retry_or_give_up(question, reason)
            }
            TaskResponse::Silent { reason } | TaskResponse::Unconnected { reason } => {
                self.retry_or_give_up(question, reason)
            }
        }
    }

    /// A passing fault, had there ever been an answer; perhaps nobody is there, if there was none.
    fn retry_or_give_up(&mut self, question: &mut PendingRequest, reason: String) -> Next {
        (question.kind, question.failures) = (RequestKind::Retry, question.failures + 1);
        if let Some(wait) = question.backoff.wait(question.failures) {
            return Next::Again(wait);
        }
        let tally = &mut self.tally;
        if !tally.has_answered {
            tally.unreachable = Some(reason.clone());
        }
        Tally::count(&mut tally.given_up_in_a_row, &mut tally.unreachable, &reason);
        Next::Done(Err(reason))
    }

    /// Those that have rested are next; polls wait until all others have had their turn.
    fn wake(&mut self) {
        let now = Instant::now();
        for (until, question) in std::mem::take(&mut self.resting) {
            match question.kind {
                _ if until > now => self.resting.push((until, question)),
                RequestKind::Poll => self.ready.push_back(question),
                RequestKind::First | RequestKind::Retry => self.ready.push_front(question),
            }
        }
    }
}
