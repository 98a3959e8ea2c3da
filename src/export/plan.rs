//! What a run has to ask for: the list, minus what is archived. Pure.

use std::{collections::HashSet, sync::Arc};

use super::Known;
use crate::{
    event::InputCounts,
    input::Input,
    task::{TaskIndex, TaskList},
};

/// The tasks of one run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Every ID of the input.
    pub(crate) tasks: Arc<TaskList>,
    /// Those that are not archived, in the input's order.
    pub(crate) selected: Vec<TaskIndex>,
    /// Those of them that the journal holds: they are answered, and wait for their files.
    pub(crate) kept: Vec<TaskIndex>,
    /// Those of them that are archived as not found, and whose rows new ones take the place of.
    replaced: HashSet<TaskIndex>,
    /// What became of the input's rows.
    pub(crate) counts: InputCounts,
}

impl Plan {
    /// Leaves out what is archived already.
    pub(crate) fn new(input: Input, archived: &Known, journalled: &Known) -> Self {
        let selected: Vec<TaskIndex> = input.tasks.indices().filter(|index| !archived.has(index.get())).collect();
        let replaced = selected.iter().copied().filter(|index| archived.is_to_be_replaced(index.get())).collect();
        let kept = selected.iter().copied().filter(|index| journalled.has(index.get())).collect();
        let counts = InputCounts {
            rows: input.rows,
            invalid: input.invalid,
            duplicates: input.duplicates,
            other_shards: 0,
            already_archived: (input.tasks.len() - selected.len()) as u64,
            selected: selected.len() as u64,
        };
        Self { tasks: Arc::new(input.tasks), selected, kept, replaced, counts }
    }

    /// Whether the task's new rows take the place of old ones.
    pub(super) fn replaces(&self, task: TaskIndex) -> bool {
        self.replaced.contains(&task)
    }

    /// Those to ask for.
    pub(super) fn to_ask(&self) -> Vec<TaskIndex> {
        let kept: HashSet<TaskIndex> = self.kept.iter().copied().collect();
        self.selected.iter().copied().filter(|task| !kept.contains(task)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskId;

    #[test]
    fn the_rows_are_the_sum_of_what_became_of_them() {
        let mut tasks = TaskList::default();
        for id in ["a", "b", "c"] {
            tasks.insert(TaskId::parse(id).unwrap());
        }
        let [archived, journalled] = ["b", "c"].map(|id| Known::nothing(&tasks).with(&tasks, id));
        let plan = Plan::new(Input { tasks, rows: 6, invalid: 1, duplicates: 2 }, &archived, &journalled);
        let ids = |chosen: Vec<TaskIndex>| -> Vec<String> {
            chosen.iter().map(|index| plan.tasks.id(*index).to_string()).collect()
        };
        assert_eq!(
            (ids(plan.selected.clone()), ids(plan.kept.clone())),
            (vec!["a".into(), "c".into()], vec!["c".into()])
        );
        assert_eq!(ids(plan.to_ask()), ["a"]);
        let counts = &plan.counts;
        let sum = counts.invalid + counts.duplicates + counts.other_shards + counts.already_archived + counts.selected;
        assert_eq!((sum, counts.selected), (counts.rows, 2));
    }
}
