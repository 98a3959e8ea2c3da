//! What a run has to ask for: the list, minus what is archived. Pure.

use std::sync::Arc;

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
    /// Those to ask for, in the input's order.
    pub(crate) selected: Vec<TaskIndex>,
    /// What became of the input's rows.
    pub(crate) counts: InputCounts,
}

impl Plan {
    /// Leaves out what is known already.
    pub(crate) fn new(input: Input, known: &Known) -> Self {
        let selected: Vec<TaskIndex> = input.tasks.indices().filter(|index| !known.has(index.get())).collect();
        let counts = InputCounts {
            rows: input.rows,
            invalid: input.invalid,
            duplicates: input.duplicates,
            other_shards: 0,
            already_archived: (input.tasks.len() - selected.len()) as u64,
            selected: selected.len() as u64,
        };
        Self { tasks: Arc::new(input.tasks), selected, counts }
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
        let known = Known::nothing(&tasks).with(&tasks, "b");
        let plan = Plan::new(Input { tasks, rows: 6, invalid: 1, duplicates: 2 }, &known);
        let ids: Vec<&str> = plan.selected.iter().map(|index| plan.tasks.id(*index).as_str()).collect();
        assert_eq!(ids, ["a", "c"]);
        let counts = plan.counts;
        let sum = counts.invalid + counts.duplicates + counts.other_shards + counts.already_archived + counts.selected;
        assert_eq!((sum, counts.selected), (counts.rows, 2));
    }
}
