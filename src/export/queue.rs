//! Determines the order of requests. The current time is an argument, so the order is deterministic.
//!
//! Retries that are due are sent first, because their tasks have waited the longest. The initial requests for all tasks
//! are sent next. Polls are sent after all initial requests, because most unfinished tasks have finished by then. Among
//! the polls that are due, the poll of the oldest task is sent first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    vec::IntoIter,
};

use tokio::time::Instant;

use crate::{event::RequestKind, task::TaskIndex, timestamp::MicrosTimestamp};

/// A request that has not been sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PendingRequest {
    pub(super) task: TaskIndex,
    /// Whether an earlier response reported the task as unfinished.
    pub(super) is_poll: bool,
    /// Whether the request is a retry.
    pub(super) is_retry: bool,
    /// The number of failures that count against the retry limit.
    pub(super) failures: u32,
}

impl PendingRequest {
    pub(super) fn kind(&self) -> RequestKind {
        match self {
            Self { is_retry: true, .. } => RequestKind::Retry,
            Self { is_poll: true, .. } => RequestKind::Poll,
            Self { .. } => RequestKind::Initial,
        }
    }
}

/// The requests that have not been sent yet.
#[derive(Debug)]
pub(super) struct Queue {
    initial: IntoIter<TaskIndex>,
    /// Tasks that were added to the first pass during the run.
    added: VecDeque<TaskIndex>,
    retries: BinaryHeap<Reverse<(Instant, PendingRequest)>>,
    rate_limited: VecDeque<PendingRequest>,
    polls: BinaryHeap<Reverse<(Instant, CreationOrder, PendingRequest)>>,
    due_polls: BinaryHeap<Reverse<(CreationOrder, PendingRequest)>>,
    /// The time at which polling ends.
    polling_deadline: Option<Instant>,
}

/// The sort key that orders polls by the creation time of their tasks. Tasks without a creation time come last.
type CreationOrder = (bool, Option<MicrosTimestamp>);

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextRequest {
    /// A request is due now.
    Now,
    /// The next request is due at this time.
    At(Instant),
    /// No request is left to send.
    Never,
}

impl Queue {
    pub(super) fn new(selected: Vec<TaskIndex>) -> Self {
        let initial = selected.into_iter();
        Self {
            initial,
            added: VecDeque::new(),
            retries: BinaryHeap::new(),
            rate_limited: VecDeque::new(),
            polls: BinaryHeap::new(),
            due_polls: BinaryHeap::new(),
            polling_deadline: None,
        }
    }

    /// Sets the time after which no more polls are sent.
    pub(super) fn set_polling_deadline(&mut self, end: Instant) {
        self.polling_deadline = Some(end);
    }

    fn may_poll(&self, at: Instant) -> bool {
        self.polling_deadline.is_none_or(|end| at < end)
    }

    /// Adds a task to the first pass.
    pub(super) fn add(&mut self, task: TaskIndex) {
        self.added.push_back(task);
    }

    /// Schedules a retry of the request at the time `due`. A poll that would be due after the polling deadline is
    /// dropped.
    pub(super) fn schedule_retry(&mut self, request: PendingRequest, due: Instant) {
        if !request.is_poll || self.may_poll(due) {
            self.retries.push(Reverse((due, PendingRequest { is_retry: true, ..request })));
        }
    }

    /// Schedules a retry of a request that received a 429 response. The retry is sent after all initial requests, so
    /// that a task that always receives a 429 response does not delay other tasks.
    pub(super) fn requeue_rate_limited(&mut self, request: PendingRequest) {
        if !request.is_poll || self.polling_deadline.is_none() {
            self.rate_limited.push_back(PendingRequest { is_retry: true, ..request });
        }
    }

    /// Schedules a poll of the task at the time `due`.
    pub(super) fn schedule_poll(&mut self, task: TaskIndex, created_at: Option<MicrosTimestamp>, due: Instant) {
        let request = PendingRequest { task, is_poll: true, is_retry: false, failures: 0 };
        self.polls.push(Reverse((due, (created_at.is_none(), created_at), request)));
    }

    pub(super) fn next(&self, now: Instant) -> NextRequest {
        let has_due_poll = !self.due_polls.is_empty() && self.may_poll(now);
        if self.initial() > 0 || !self.rate_limited.is_empty() || has_due_poll {
            return NextRequest::Now;
        }
        let retry = self.retries.peek().map(|Reverse((due, _))| *due);
        let poll = self.polls.peek().map(|Reverse((due, ..))| *due).filter(|due| self.may_poll(now.max(*due)));
        match retry.into_iter().chain(poll).min() {
            Some(due) if due <= now => NextRequest::Now,
            Some(due) => NextRequest::At(due),
            None => NextRequest::Never,
        }
    }

    /// Removes and returns the next request that is due, if any.
    pub(super) fn pop(&mut self, now: Instant) -> Option<PendingRequest> {
        if self.retries.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            return self.retries.pop().map(|Reverse((_, request))| request);
        }
        if let Some(task) = self.initial.next().or_else(|| self.added.pop_front()) {
            return Some(PendingRequest { task, is_poll: false, is_retry: false, failures: 0 });
        }
        if let Some(request) = self.rate_limited.pop_front() {
            return Some(request);
        }
        if !self.may_poll(now) {
            return None;
        }
        while self.polls.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            self.due_polls.extend(self.polls.pop().map(|Reverse((_, order, request))| Reverse((order, request))));
        }
        self.due_polls.pop().map(|Reverse((_, request))| request)
    }

    /// The number of initial requests that have not been sent yet.
    pub(super) fn initial(&self) -> usize {
        self.initial.len() + self.added.len()
    }

    /// The number of pending retries.
    pub(super) fn retries(&self) -> usize {
        self.retries.len() + self.rate_limited.len()
    }

    /// The number of tasks that are waiting for their next poll.
    pub(super) fn polls(&self) -> usize {
        self.polls.len() + self.due_polls.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        event::RequestKind::{Initial, Poll, Retry},
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
    fn the_order_is_retries_then_first_pass_then_polls_oldest_first() {
        let now = Instant::now();
        let tasks = indices(6);
        let mut queue = Queue::new(tasks[..2].to_vec());
        queue.schedule_poll(tasks[2], None, now);
        queue.schedule_poll(tasks[3], MicrosTimestamp::parse("2026-01-02T00:00:00Z"), now);
        queue.schedule_poll(tasks[4], MicrosTimestamp::parse("2026-01-01T00:00:00Z"), now);
        queue.requeue_rate_limited(PendingRequest { task: tasks[5], is_poll: false, is_retry: false, failures: 0 });
        queue.schedule_retry(PendingRequest { task: tasks[5], is_poll: false, is_retry: false, failures: 1 }, now);
        assert_eq!(
            order(&mut queue, now),
            [(5, Retry), (0, Initial), (1, Initial), (5, Retry), (4, Poll), (3, Poll), (2, Poll)]
        );
        assert_eq!(queue.next(now), NextRequest::Never);
    }

    #[test]
    fn only_polls_stop_at_the_polling_deadline() {
        let now = Instant::now();
        let (later, tasks) = (now + Duration::from_secs(5), indices(2));
        let mut queue = Queue::new(Vec::new());
        queue.schedule_poll(tasks[0], None, now);
        queue.set_polling_deadline(later);
        assert_eq!((queue.next(now), queue.next(later)), (NextRequest::Now, NextRequest::Never));
        queue.add(tasks[1]);
        assert_eq!(order(&mut queue, later), [(1, Initial)]);
    }

    #[test]
    fn nothing_is_sent_before_it_is_due() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut queue = Queue::new(Vec::new());
        queue.schedule_poll(indices(1)[0], None, later);
        assert_eq!((queue.pop(now), queue.next(now)), (None, NextRequest::At(later)));
        assert_eq!(queue.next(later), NextRequest::Now);
        assert_eq!(order(&mut queue, later).len(), 1);
    }
}
