//! The state of each task of a run: a few bytes per task, and text only for those that failed.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{event::MissingReason, task::TaskIndex};

/// The state of every task of the list.
#[derive(Debug)]
pub(crate) struct Ledger {
    states: Vec<TaskState>,
    notes: HashMap<TaskIndex, TaskProgress>,
    /// Tasks that the provider no longer knows, and that are salvaged from a damaged part.
    forgotten: HashSet<TaskIndex>,
    /// The parts that are in the archive.
    published: BTreeSet<u32>,
    settled: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    NotRequested,
    Requested,
    /// It is archived and unchanged.
    Archived,
    /// The journal holds the final response; the assets are not settled.
    Journalled,
    /// The journal's segment of that part holds its complete records.
    Complete(u32),
}

/// The last known state of a task without a final response.
#[derive(Clone, Debug)]
enum TaskProgress {
    /// It was unfinished at its last request, with the reason.
    Unfinished(String),
    /// A request failed, and a retry was due.
    Failing(String),
    GaveUp(String),
    Unreadable(String),
}

/// A task that is not archived: the `reason` and `detail` of `-unfinished.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) task: TaskIndex,
    pub(crate) reason: MissingReason,
    pub(crate) detail: String,
}

impl Ledger {
    pub(super) fn new(tasks: usize) -> Self {
        Self {
            states: vec![TaskState::NotRequested; tasks],
            notes: HashMap::new(),
            forgotten: HashSet::new(),
            published: BTreeSet::new(),
            settled: 0,
        }
    }

    /// A request for the task was sent.
    pub(super) fn requested(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Requested);
    }

    /// The journal holds the task's final response.
    pub(super) fn journalled(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Journalled);
        let is_settled =
            matches!(self.notes.remove(&task), Some(TaskProgress::GaveUp(_) | TaskProgress::Unreadable(_)));
        self.settled += u64::from(!is_settled);
    }

    /// The journal holds the response and the outcome of its assets, in the segment of that part.
    pub(super) fn complete(&mut self, task: TaskIndex, part: u32) {
        self.set(task, TaskState::Complete(part));
    }

    /// The task is archived and unchanged.
    pub(super) fn archived(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Archived);
        self.notes.remove(&task);
        self.settled += 1;
    }

    /// That part is published.
    pub(super) fn published(&mut self, part: u32) {
        self.published.insert(part);
    }

    /// The task was unfinished at its last request.
    pub(super) fn unfinished(&mut self, task: TaskIndex, detail: String) {
        self.notes.insert(task, TaskProgress::Unfinished(detail));
    }

    /// A request for the task failed, and is retried.
    pub(super) fn failing(&mut self, task: TaskIndex, reason: String) {
        // The task's own last status says more.
        if !matches!(self.notes.get(&task), Some(TaskProgress::Unfinished(_))) {
            self.notes.insert(task, TaskProgress::Failing(reason));
        }
    }

    /// The task's requests failed, and none is retried.
    pub(super) fn gave_up(&mut self, task: TaskIndex, reason: String) {
        self.notes.insert(task, TaskProgress::GaveUp(reason));
        self.settled += 1;
    }

    /// The provider no longer knows the task, and a damaged part still holds its response.
    pub(super) fn forgotten(&mut self, task: TaskIndex) {
        self.gave_up(task, "the provider does not know it any more".into());
        self.forgotten.insert(task);
    }

    /// Whether the provider no longer knows the task, and a damaged part still holds its response.
    pub(crate) fn is_forgotten(&self, task: TaskIndex) -> bool {
        self.forgotten.contains(&task)
    }

    /// Whether the task's rows are in the archive.
    pub(crate) fn is_published(&self, task: TaskIndex) -> bool {
        match self.states.get(task.get()) {
            Some(TaskState::Archived) => true,
            Some(TaskState::Complete(part)) => self.published.contains(part),
            _ => false,
        }
    }

    /// Whether the journal holds the task's response.
    pub(super) fn is_answered(&self, task: TaskIndex) -> bool {
        !matches!(self.states.get(task.get()), None | Some(TaskState::NotRequested | TaskState::Requested))
    }

    /// The reason why the task has no response.
    pub(super) fn why(&self, task: TaskIndex) -> String {
        let nothing = (MissingReason::Unfinished, "the run ended before");
        self.why_missing(task, &nothing).map(|(_, detail)| detail).unwrap_or_default()
    }

    /// The response is not a task.
    pub(super) fn unreadable(&mut self, task: TaskIndex, reason: String) {
        self.notes.insert(task, TaskProgress::Unreadable(reason));
        self.settled += 1;
    }

    /// Tasks that need no further request.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Those of `selected` that are not archived; `cut_short` is the reason of those that were not finished when
    /// the run ended.
    pub(crate) fn missing<'a>(
        &'a self,
        selected: &'a [TaskIndex],
        interruption: &'a (MissingReason, &'static str),
    ) -> impl Iterator<Item = Missing> + 'a {
        selected.iter().filter_map(move |task| {
            let (reason, detail) = self.why_missing(*task, interruption)?;
            Some(Missing { task: *task, reason, detail })
        })
    }

    fn why_missing(
        &self,
        task: TaskIndex,
        interruption: &(MissingReason, &'static str),
    ) -> Option<(MissingReason, String)> {
        let (reason, because) = interruption;
        match (self.states.get(task.get()).copied().unwrap_or(TaskState::NotRequested), self.notes.get(&task)) {
            (TaskState::Archived, _) => None,
            (TaskState::Complete(part), _) if self.published.contains(&part) => None,
            (TaskState::Complete(_), _) => {
                let words = "answered, and kept in the journal: the next run archives it without a request";
                Some((MissingReason::Interrupted, words.into()))
            }
            (TaskState::Journalled, _) => {
                let words = "answered, and kept in the journal: the next run resumes its downloads";
                Some((MissingReason::Interrupted, words.into()))
            }
            (_, Some(TaskProgress::Unfinished(detail))) => Some((MissingReason::Unfinished, detail.clone())),
            (_, Some(TaskProgress::Failing(failure))) => Some((*reason, format!("{failure}; not retried: {because}"))),
            (_, Some(TaskProgress::GaveUp(reason))) => Some((MissingReason::Error, reason.clone())),
            (_, Some(TaskProgress::Unreadable(reason))) => Some((MissingReason::Unreadable, reason.clone())),
            (TaskState::NotRequested, None) => Some((*reason, format!("not requested: {because}"))),
            (TaskState::Requested, None) => Some((*reason, format!("requested, and not answered in time: {because}"))),
        }
    }

    fn set(&mut self, task: TaskIndex, state: TaskState) {
        if let Some(slot) = self.states.get_mut(task.get()) {
            *slot = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::MissingReason::{Error, Interrupted, Unfinished},
        task::{TaskId, TaskList},
    };

    #[test]
    fn only_what_is_published_is_archived() {
        let mut list = TaskList::default();
        for id in ["published", "complete", "unfinished", "failed", "asked", "not asked", "journalled"] {
            list.insert(TaskId::parse(id).unwrap());
        }
        let tasks: Vec<TaskIndex> = list.indices().collect();
        let mut ledger = Ledger::new(list.len());
        for (task, part) in [(0, 2), (1, 1)] {
            ledger.journalled(tasks[task]);
            ledger.complete(tasks[task], part);
        }
        ledger.published(2);
        ledger.unfinished(tasks[2], "its status is running".into());
        ledger.gave_up(tasks[3], "HTTP 502".into());
        ledger.requested(tasks[4]);
        ledger.journalled(tasks[6]);
        let interruption = (MissingReason::Interrupted, "SIGINT came first");
        let missing: Vec<_> =
            ledger.missing(&tasks, &interruption).map(|missing| (missing.task.get(), missing.reason)).collect();
        assert_eq!(
            missing,
            [(1, Interrupted), (2, Unfinished), (3, Error), (4, Interrupted), (5, Interrupted), (6, Interrupted)]
        );
        assert_eq!(ledger.settled(), 4);
    }
}
