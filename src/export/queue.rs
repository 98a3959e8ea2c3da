//! Determines the order of requests. Callers pass the current time, so the order is deterministic.
//!
//! Retries that are due come first, since their tasks are the oldest. The first pass over all IDs comes next. Polls
//! follow the first pass, because most unfinished tasks have finished by then. Among the polls that are due, the poll
//! of the oldest task comes first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    vec::IntoIter,
};

use tokio::time::Instant;

use crate::{event::RequestKind, task::TaskIndex, timestamp::Moment};

/// A request that has not been sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PendingRequest {
    pub(super) task: TaskIndex,
    /// Whether an earlier response reported the task as unfinished.
    pub(super) poll: bool,
    /// Whether the request is a retry.
    pub(super) repeated: bool,
    /// The number of failures that count against the retry limit.
    pub(super) failures: u32,
}

impl PendingRequest {
    pub(super) fn kind(&self) -> RequestKind {
        match self {
            Self { repeated: true, .. } => RequestKind::Retry,
            Self { poll: true, .. } => RequestKind::Poll,
            Self { .. } => RequestKind::First,
        }
    }
}

/// The requests that have not been sent yet.
#[derive(Debug)]
pub(super) struct Queue {
    fresh: IntoIter<TaskIndex>,
    /// Tasks that were added to the first pass during the run.
    added: VecDeque<TaskIndex>,
    retries: BinaryHeap<Reverse<(Instant, PendingRequest)>>,
    refused: VecDeque<PendingRequest>,
    polls: BinaryHeap<Reverse<(Instant, Age, PendingRequest)>>,
    due_polls: BinaryHeap<Reverse<(Age, PendingRequest)>>,
    /// The time at which polling ends.
    polls_end: Option<Instant>,
}

/// The sort key for the age of a task. Tasks without a creation time come last.
type Age = (bool, Option<Moment>);

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A request is due now.
    Now,
    /// The next request is due at this time.
    At(Instant),
    /// No request is left to send.
    Never,
}

impl Queue {
    pub(super) fn new(selected: Vec<TaskIndex>) -> Self {
        let fresh = selected.into_iter();
        Self {
            fresh,
            added: VecDeque::new(),
            retries: BinaryHeap::new(),
            refused: VecDeque::new(),
            polls: BinaryHeap::new(),
            due_polls: BinaryHeap::new(),
            polls_end: None,
        }
    }

    /// Sends no polls from `end` on.
    pub(super) fn end_polls_at(&mut self, end: Instant) {
        self.polls_end = Some(end);
    }

    fn may_poll(&self, at: Instant) -> bool {
        self.polls_end.is_none_or(|end| at < end)
    }

    /// Adds a task to the first pass.
    pub(super) fn add(&mut self, task: TaskIndex) {
        self.added.push_back(task);
    }

    /// Schedules a retry of the request for `due`.
    pub(super) fn retry(&mut self, request: PendingRequest, due: Instant) {
        if !request.poll || self.may_poll(due) {
            self.retries.push(Reverse((due, PendingRequest { repeated: true, ..request })));
        }
    }

    /// Schedules a retry of a request that received a 429. The retry follows the first pass, so that a task that
    /// always receives a 429 does not delay other tasks.
    pub(super) fn refused(&mut self, request: PendingRequest) {
        if !request.poll || self.polls_end.is_none() {
            self.refused.push_back(PendingRequest { repeated: true, ..request });
        }
    }

    /// Schedules a poll of the task for `due`.
    pub(super) fn poll(&mut self, task: TaskIndex, created_at: Option<Moment>, due: Instant) {
        let request = PendingRequest { task, poll: true, repeated: false, failures: 0 };
        self.polls.push(Reverse((due, (created_at.is_none(), created_at), request)));
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        let has_due_poll = !self.due_polls.is_empty() && self.may_poll(now);
        if self.fresh() > 0 || !self.refused.is_empty() || has_due_poll {
            return Next::Now;
        }
        let retry = self.retries.peek().map(|Reverse((due, _))| *due);
        let poll = self.polls.peek().map(|Reverse((due, ..))| *due).filter(|due| self.may_poll(now.max(*due)));
        match retry.into_iter().chain(poll).min() {
            Some(due) if due <= now => Next::Now,
            Some(due) => Next::At(due),
            None => Next::Never,
        }
    }

    /// Removes and returns the request to send now, if a request is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<PendingRequest> {
        if self.retries.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            return self.retries.pop().map(|Reverse((_, request))| request);
        }
        if let Some(task) = self.fresh.next().or_else(|| self.added.pop_front()) {
            return Some(PendingRequest { task, poll: false, repeated: false, failures: 0 });
        }
        if let Some(request) = self.refused.pop_front() {
            return Some(request);
        }
        if !self.may_poll(now) {
            return None;
        }
        while self.polls.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            self.due_polls.extend(self.polls.pop().map(|Reverse((_, age, request))| Reverse((age, request))));
        }
        self.due_polls.pop().map(|Reverse((_, request))| request)
    }

    /// The number of initial requests that have not been sent yet.
    pub(super) fn fresh(&self) -> usize {
        self.fresh.len() + self.added.len()
    }

    /// The number of pending retries.
    pub(super) fn retries(&self) -> usize {
        self.retries.len() + self.refused.len()
    }

    /// The number of tasks that wait for their next poll.
    pub(super) fn polls(&self) -> usize {
        self.polls.len() + self.due_polls.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        event::RequestKind::{First, Poll, Retry},
        task::{TaskId, TaskList},
    };

    fn indices(count: usize) -> Vec<TaskIndex> {
        let mut list = TaskList::default();
        for n in 0..count {
            list.insert(TaskId::parse(&n.to_string()).unwrap());
        }
        list.indices().collect()
    }

    fn order(queue: &mut Queue, now: Instant) -> Vec<(usize, RequestKind)> {
        std::iter::from_fn(|| queue.pop(now)).map(|request| (request.task.get(), request.kind())).collect()
    }

    #[test]
    fn the_order_is_retries_first_pass_polls_by_age() {
        let now = Instant::now();
        let tasks = indices(6);
        let mut queue = Queue::new(tasks[..2].to_vec());
        queue.poll(tasks[2], None, now);
        queue.poll(tasks[3], Moment::parse("2026-01-02T00:00:00Z"), now);
        queue.poll(tasks[4], Moment::parse("2026-01-01T00:00:00Z"), now);
        queue.refused(PendingRequest { task: tasks[5], poll: false, repeated: false, failures: 0 });
        queue.retry(PendingRequest { task: tasks[5], poll: false, repeated: false, failures: 1 }, now);
        assert_eq!(
            order(&mut queue, now),
            [(5, Retry), (0, First), (1, First), (5, Retry), (4, Poll), (3, Poll), (2, Poll)]
        );
        assert_eq!(queue.next(now), Next::Never);
    }

    #[test]
    fn only_polls_stop_at_the_polling_deadline() {
        let now = Instant::now();
        let (later, tasks) = (now + Duration::from_secs(5), indices(2));
        let mut queue = Queue::new(Vec::new());
        queue.poll(tasks[0], None, now);
        queue.end_polls_at(later);
        assert_eq!((queue.next(now), queue.next(later)), (Next::Now, Next::Never));
        queue.add(tasks[1]);
        assert_eq!(order(&mut queue, later), [(1, First)]);
    }

    #[test]
    fn nothing_is_sent_before_it_is_due() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut queue = Queue::new(Vec::new());
        queue.poll(indices(1)[0], None, later);
        assert_eq!((queue.pop(now), queue.next(now)), (None, Next::At(later)));
        assert_eq!(queue.next(later), Next::Now);
        assert_eq!(order(&mut queue, later).len(), 1);
    }
}
