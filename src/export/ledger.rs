//! The state of each task of a run. Memory use is a few bytes per task, plus the reason string of each unfinished or
//! failed task.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{event::MissingReason, task::TaskIndex};

/// The state of every task in the plan.
#[derive(Debug)]
pub(crate) struct Ledger {
    states: Vec<TaskState>,
    progress: HashMap<TaskIndex, TaskProgress>,
    /// Tasks that the provider no longer has, but whose responses can be salvaged from a damaged part.
    deleted_by_provider: HashSet<TaskIndex>,
    /// The part numbers of all published parts.
    published: BTreeSet<u32>,
    settled: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    NotRequested,
    Requested,
    /// The task was already archived, and its rows are unchanged.
    Archived,
    /// The journal contains the final response, but some assets are still pending.
    Journalled,
    /// The segment with this part number contains all records of the task.
    Complete(u32),
}

/// The last known state of a task without a final response.
#[derive(Clone, Debug)]
enum TaskProgress {
    /// The last response reported the task as unfinished, with this detail.
    Unfinished(String),
    /// The last request failed for this reason, and a retry is pending.
    Retrying(String),
    Failed(String),
    Unreadable(String),
}

/// A task that is not archived, with its values for the `reason` and `detail` columns of `-unfinished.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingTask {
    pub(crate) task: TaskIndex,
    pub(crate) reason: MissingReason,
    pub(crate) detail: String,
}

impl Ledger {
    pub(super) fn new(tasks: usize) -> Self {
        Self {
            states: vec![TaskState::NotRequested; tasks],
            progress: HashMap::new(),
            deleted_by_provider: HashSet::new(),
            published: BTreeSet::new(),
            settled: 0,
        }
    }

    /// Records that a request for the task was sent.
    pub(super) fn mark_requested(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Requested);
    }

    /// Records that the journal contains the task's final response.
    pub(super) fn mark_journalled(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Journalled);
        let is_settled =
            matches!(self.progress.remove(&task), Some(TaskProgress::Failed(_) | TaskProgress::Unreadable(_)));
        self.settled += u64::from(!is_settled);
    }

    /// Records that the segment with the part number `part` contains the task's response and the outcome of the task's
    /// assets.
    pub(super) fn mark_complete(&mut self, task: TaskIndex, part: u32) {
        self.set(task, TaskState::Complete(part));
    }

    /// Records that the task is archived and that its rows are unchanged.
    pub(super) fn mark_archived(&mut self, task: TaskIndex) {
        self.set(task, TaskState::Archived);
        self.progress.remove(&task);
        self.settled += 1;
    }

    /// Records that the part is published.
    pub(super) fn mark_published(&mut self, part: u32) {
        self.published.insert(part);
    }

    /// Records that the last response reported the task as unfinished.
    pub(super) fn mark_unfinished(&mut self, task: TaskIndex, detail: String) {
        self.progress.insert(task, TaskProgress::Unfinished(detail));
    }

    /// Records that a request for the task failed and will be retried.
    pub(super) fn mark_retrying(&mut self, task: TaskIndex, reason: String) {
        // The status in the last response is more informative than the reason why a later request failed.
        if !matches!(self.progress.get(&task), Some(TaskProgress::Unfinished(_))) {
            self.progress.insert(task, TaskProgress::Retrying(reason));
        }
    }

    /// Records that the task failed for this reason and will not be requested again in this run.
    pub(super) fn mark_failed(&mut self, task: TaskIndex, reason: String) {
        self.progress.insert(task, TaskProgress::Failed(reason));
        self.settled += 1;
    }

    /// Records that the provider no longer has the task, but a damaged part still contains its response.
    pub(super) fn mark_deleted_by_provider(&mut self, task: TaskIndex) {
        self.mark_failed(task, "the provider no longer has this task".into());
        self.deleted_by_provider.insert(task);
    }

    /// Whether the provider no longer has the task, but a damaged part still contains its response.
    pub(crate) fn is_deleted_by_provider(&self, task: TaskIndex) -> bool {
        self.deleted_by_provider.contains(&task)
    }

    /// Whether the task's rows are in the archive.
    pub(crate) fn is_published(&self, task: TaskIndex) -> bool {
        match self.states.get(task.get()) {
            Some(TaskState::Archived) => true,
            Some(TaskState::Complete(part)) => self.published.contains(part),
            _ => false,
        }
    }

    /// Whether the task's response is in the journal or in the archive.
    pub(super) fn is_answered(&self, task: TaskIndex) -> bool {
        !matches!(self.states.get(task.get()), None | Some(TaskState::NotRequested | TaskState::Requested))
    }

    /// Returns the reason why the run has no response for the task.
    pub(super) fn describe_missing(&self, task: TaskIndex) -> String {
        let default = (MissingReason::Unfinished, "the run ended");
        self.find_missing_reason(task, &default).map(|(_, detail)| detail).unwrap_or_default()
    }

    /// Records that the response for the task is not a valid task document.
    pub(super) fn mark_unreadable(&mut self, task: TaskIndex, reason: String) {
        self.progress.insert(task, TaskProgress::Unreadable(reason));
        self.settled += 1;
    }

    /// Returns the number of tasks that need no more requests.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Returns the tasks in `selected` that are not archived. `interruption` is the reason to report for tasks that
    /// were pending when the run ended.
    pub(crate) fn missing<'a>(
        &'a self,
        selected: &'a [TaskIndex],
        interruption: &'a (MissingReason, &'static str),
    ) -> impl Iterator<Item = MissingTask> + 'a {
        selected.iter().filter_map(move |task| {
            let (reason, detail) = self.find_missing_reason(*task, interruption)?;
            Some(MissingTask { task: *task, reason, detail })
        })
    }

    fn find_missing_reason(
        &self,
        task: TaskIndex,
        interruption: &(MissingReason, &'static str),
    ) -> Option<(MissingReason, String)> {
        let (reason, cause) = interruption;
        match (self.states.get(task.get()).copied().unwrap_or(TaskState::NotRequested), self.progress.get(&task)) {
            (TaskState::Archived, _) => None,
            (TaskState::Complete(part), _) if self.published.contains(&part) => None,
            (TaskState::Complete(_), _) => {
                let detail = "the response is in the journal; the next run will archive it without a new request";
                Some((MissingReason::Interrupted, detail.into()))
            }
            (TaskState::Journalled, _) => {
                let detail = "the response is in the journal; the next run will resume the downloads";
                Some((MissingReason::Interrupted, detail.into()))
            }
            (_, Some(TaskProgress::Unfinished(detail))) => Some((MissingReason::Unfinished, detail.clone())),
            (_, Some(TaskProgress::Retrying(failure))) => Some((*reason, format!("{failure}; not retried: {cause}"))),
            (_, Some(TaskProgress::Failed(reason))) => Some((MissingReason::Error, reason.clone())),
            (_, Some(TaskProgress::Unreadable(reason))) => Some((MissingReason::Unreadable, reason.clone())),
            (TaskState::NotRequested, None) => Some((*reason, format!("not requested: {cause}"))),
            (TaskState::Requested, None) => Some((*reason, format!("requested, but no response: {cause}"))),
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
    fn only_published_tasks_are_archived() {
        let mut list = TaskList::default();
        for id in ["published", "complete", "unfinished", "failed", "requested", "not requested", "journalled"] {
            list.insert(TaskId::parse(id).unwrap());
        }
        let tasks: Vec<TaskIndex> = list.indices().collect();
        let mut ledger = Ledger::new(list.len());
        for (task, part) in [(0, 2), (1, 1)] {
            ledger.mark_journalled(tasks[task]);
            ledger.mark_complete(tasks[task], part);
        }
        ledger.mark_published(2);
        ledger.mark_unfinished(tasks[2], "its status is running".into());
        ledger.mark_failed(tasks[3], "HTTP 502".into());
        ledger.mark_requested(tasks[4]);
        ledger.mark_journalled(tasks[6]);
        let interruption = (MissingReason::Interrupted, "interrupted by SIGINT");
        let missing: Vec<_> =
            ledger.missing(&tasks, &interruption).map(|missing| (missing.task.get(), missing.reason)).collect();
        assert_eq!(
            missing,
            [(1, Interrupted), (2, Unfinished), (3, Error), (4, Interrupted), (5, Interrupted), (6, Interrupted)]
        );
        assert_eq!(ledger.settled(), 4);
    }
}
