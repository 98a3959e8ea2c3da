//! What became of each task of a run: a byte a task, and words only for those that went wrong.

use std::collections::HashMap;

use crate::{event::MissingReason, task::TaskIndex};

/// The standing of every task of the list.
#[derive(Debug)]
pub(crate) struct Ledger {
    answered: Vec<bool>,
    notes: HashMap<TaskIndex, (MissingReason, String)>,
    settled: u64,
}

impl Ledger {
    pub(super) fn new(tasks: usize) -> Self {
        Self { answered: vec![false; tasks], notes: HashMap::new(), settled: 0 }
    }

    /// The journal holds the task's final answer.
    pub(super) fn answered(&mut self, task: TaskIndex) {
        if let Some(slot) = self.answered.get_mut(task.get()) {
            *slot = true;
        }
        self.notes.remove(&task);
        self.settled += 1;
    }

    /// Nothing more will be asked about the task in this run.
    pub(super) fn gave_up(&mut self, task: TaskIndex, reason: MissingReason, detail: String) {
        self.note(task, reason, detail);
        self.settled += 1;
    }

    /// Why the task would be missing if the run ended now.
    pub(super) fn note(&mut self, task: TaskIndex, reason: MissingReason, detail: String) {
        self.notes.insert(task, (reason, detail));
    }

    /// Tasks that need no further request.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Those of `selected` that have no final answer, each with what is known of why.
    pub(crate) fn missing<'a>(
        &'a self,
        selected: &'a [TaskIndex],
    ) -> impl Iterator<Item = (TaskIndex, Option<&'a (MissingReason, String)>)> {
        let open = selected.iter().filter(|task| !self.answered.get(task.get()).copied().unwrap_or(false));
        open.map(|task| (*task, self.notes.get(task)))
    }
}
