//! The plan of a run, which consists of items. `export` derives a plan from a list, and `repair` derives a plan from
//! the findings of `verify`. The same engine executes both kinds of plans. This module performs no I/O.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use super::{Item, ListState, ResponseSource, RowEffect};
use crate::{
    asset::AssetKinds,
    event::InputCounts,
    input::Input,
    task::{TaskId, TaskIndex, TaskList},
};

/// The tasks of one run and the work for each task.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Every task ID in the input.
    pub(crate) tasks: Arc<TaskList>,
    /// The tasks that the run is to archive, in input order.
    pub(crate) selected: Vec<TaskIndex>,
    /// The selected tasks whose responses are already in the journal, but whose assets are still pending.
    pub(crate) in_journal: Vec<TaskIndex>,
    /// The tasks whose responses are read from the tables, whether or not `selected` contains them.
    pub(crate) stored: Vec<TaskIndex>,
    /// The items, keyed by task. A task without an entry has the item [`Item::NEW`].
    items: HashMap<TaskIndex, Item>,
    /// Quarantined parts of the tasks table, which are a fallback source of responses.
    pub(crate) quarantined: BTreeSet<PathBuf>,
    /// The row counts of the input.
    pub(crate) counts: InputCounts,
}

impl Plan {
    /// Creates a plan that fetches the unarchived tasks in a list and adds missing kinds of assets to archived tasks.
    pub(crate) fn from_list(
        input: Input,
        archived: &ListState,
        journalled: &ListState,
        missing_assets: Vec<(TaskIndex, AssetKinds)>,
    ) -> Self {
        let selected: Vec<TaskIndex> = input.tasks.indices().filter(|index| !archived.is_done(index.get())).collect();
        let not_found = selected.iter().filter(|index| archived.is_replaceable(index.get()));
        let replacing = Item { rows: RowEffect::ReplaceNotFound, ..Item::NEW };
        let mut items: HashMap<TaskIndex, Item> = not_found.map(|task| (*task, replacing.clone())).collect();
        let stored = missing_assets.iter().map(|(task, _)| *task).collect();
        items.extend(missing_assets.into_iter().map(|(task, kinds)| (task, Item::for_missing_assets(kinds))));
        let counts = InputCounts {
            rows: input.rows,
            invalid: input.invalid,
            duplicates: input.duplicates,
            other_shards: 0,
            already_archived: (input.tasks.len() - selected.len()) as u64,
            selected: selected.len() as u64,
        };
        let in_journal = selected.iter().copied().filter(|index| journalled.is_done(index.get())).collect();
        Self { tasks: Arc::new(input.tasks), selected, in_journal, stored, items, counts, ..Self::default() }
    }

    /// Creates a plan from task IDs and their items. Also returns the invalid task IDs.
    pub(crate) fn from_items(items: impl IntoIterator<Item = (String, Item)>) -> (Self, Vec<String>) {
        let (mut tasks, mut planned, mut invalid) = (TaskList::default(), Vec::new(), Vec::new());
        for (id, item) in items {
            match TaskId::parse(&id) {
                Ok(parsed) if tasks.insert(parsed) => planned.push(item),
                Ok(_) => {}
                Err(_) => invalid.push(id),
            }
        }
        let selected: Vec<TaskIndex> = tasks.indices().collect();
        let items: HashMap<TaskIndex, Item> = selected.iter().copied().zip(planned).collect();
        let is_stored = |task: &TaskIndex| items.get(task).is_some_and(|item| item.source == ResponseSource::Tables);
        let stored = selected.iter().copied().filter(is_stored).collect();
        let count = selected.len() as u64;
        let counts = InputCounts { rows: count, selected: count, ..InputCounts::default() };
        (Self { tasks: Arc::new(tasks), selected, stored, items, counts, ..Self::default() }, invalid)
    }

    /// Ensures that tasks with a response in the journal are not requested again, and sets the quarantined parts as a
    /// fallback source of responses.
    pub(crate) fn resume_from_journal(mut self, journalled: &ListState, quarantined: BTreeSet<PathBuf>) -> Self {
        self.quarantined = quarantined;
        self.in_journal = self.selected.iter().copied().filter(|task| journalled.is_done(task.get())).collect();
        let in_journal: HashSet<TaskIndex> = self.in_journal.iter().copied().collect();
        self.stored.retain(|task| !in_journal.contains(task));
        self
    }

    /// Returns the item of a task.
    pub(crate) fn item(&self, task: TaskIndex) -> &Item {
        self.items.get(&task).unwrap_or(&Item::NEW)
    }

    /// Whether the task is archived as `not_found` and is requested again.
    pub(super) fn is_refetched(&self, task: TaskIndex) -> bool {
        self.item(task).rows == RowEffect::ReplaceNotFound
    }

    /// Counts the tasks that are archived as `not_found` and are requested again.
    pub(crate) fn refetched_count(&self) -> u64 {
        self.selected.iter().filter(|task| self.is_refetched(**task)).count() as u64
    }

    /// Returns the tasks to request from the provider.
    pub(super) fn tasks_to_fetch(&self) -> Vec<TaskIndex> {
        let in_journal: HashSet<TaskIndex> = self.in_journal.iter().copied().collect();
        let is_fetched =
            |task: &TaskIndex| !in_journal.contains(task) && self.item(*task).source == ResponseSource::Provider;
        self.selected.iter().copied().filter(is_fetched).collect()
    }

    /// Returns the selected tasks for which a damaged part still contains data.
    pub(super) fn salvageable(&self) -> impl Iterator<Item = TaskIndex> + '_ {
        self.selected.iter().copied().filter(|task| self.item(*task).salvage.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asset::AssetKind;

    fn list(ids: &[&str]) -> TaskList {
        let mut tasks = TaskList::default();
        for id in ids {
            tasks.insert(TaskId::parse(id).unwrap());
        }
        tasks
    }

    fn ids(plan: &Plan, selected: &[TaskIndex]) -> Vec<String> {
        selected.iter().map(|index| plan.tasks.id(*index).to_string()).collect()
    }

    #[test]
    fn row_counts_add_up() {
        let tasks = list(&["a", "b", "c"]);
        let [archived, journalled] = ["b", "c"].map(|id| ListState::empty(&tasks).with_done(&tasks, id));
        let plan = Plan::from_list(Input { tasks, rows: 6, invalid: 1, duplicates: 2 }, &archived, &journalled, vec![]);
        assert_eq!(
            (ids(&plan, &plan.selected), ids(&plan, &plan.in_journal)),
            (vec!["a".into(), "c".into()], vec!["c".into()])
        );
        assert_eq!(ids(&plan, &plan.tasks_to_fetch()), ["a"]);
        let counts = &plan.counts;
        let sum = counts.invalid + counts.duplicates + counts.other_shards + counts.already_archived + counts.selected;
        assert_eq!((sum, counts.selected), (counts.rows, 2));
    }

    #[test]
    fn an_archived_task_with_missing_assets_is_not_requested() {
        let tasks = list(&["a", "b"]);
        let archived = ListState::empty(&tasks).with_done(&tasks, "b");
        let b = tasks.find("b").unwrap();
        let missing_assets = vec![(b, AssetKinds::from_iter([AssetKind::Video]))];
        let empty = ListState::empty(&tasks);
        let plan =
            Plan::from_list(Input { tasks, rows: 2, invalid: 0, duplicates: 0 }, &archived, &empty, missing_assets);
        assert_eq!(
            (ids(&plan, &plan.tasks_to_fetch()), ids(&plan, &plan.stored)),
            (vec!["a".into()], vec!["b".into()])
        );
        assert_eq!((plan.counts.selected, plan.item(b).rows), (1, RowEffect::AddAssets));
    }
}
