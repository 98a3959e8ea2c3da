//! Finds the tasks in a list that need no request, because their responses are in the archive or in the journal. Also
//! finds the kinds of assets that archived tasks lack, and counts failed assets. Memory use grows with the size of the
//! list, not with the size of the archive.

use std::collections::BTreeMap;

use crate::{
    archive::Archive,
    asset::{AssetKind, AssetKinds, AssetStatus},
    config::ExportConfig,
    error::Result,
    journal::{self, Record, SegmentReader},
    rows,
    tables::{ASSETS, CLIPS, TASK_ID, TASKS},
    task::{TaskIndex, TaskList},
};

/// Counts the failed assets in the archive. Only `repair` retries failed assets.
pub(crate) fn failed_assets(archive: &Archive) -> Result<u64> {
    let mut failed = 0;
    let filter = ("status", [AssetStatus::Failed.as_str()].into_iter());
    rows::search_table(archive, ASSETS.name, &["status"], &filter, &mut |cells| {
        failed += u64::from(cells == [Some(AssetStatus::Failed.as_str())]);
    })?;
    Ok(failed)
}

/// Finds archived tasks in the list that have clips but lack asset rows for some of these kinds. The run that archived
/// such a task was not configured to download the missing kinds.
pub(crate) fn tasks_lacking_assets(
    archive: &Archive,
    tasks: &TaskList,
    kinds: &AssetKinds,
) -> Result<Vec<(TaskIndex, AssetKinds)>> {
    if tasks.is_empty() || kinds.is_empty() || has_all(archive, kinds)? {
        return Ok(Vec::new());
    }
    let mut seen = vec![SeenRows::default(); tasks.len()];
    for (table, column) in [(TASKS.name, "clip_count"), (ASSETS.name, "kind")] {
        let filter = (TASK_ID, tasks.indices().map(|task| tasks.id(task).as_str()));
        rows::search_table(archive, table, &[TASK_ID, column], &filter, &mut |cells| {
            let [Some(id), Some(cell)] = cells else { return };
            if let Some(seen) = tasks.find(id).and_then(|task| seen.get_mut(task.get())) {
                seen.record(column, cell);
            }
        })?;
    }
    let missing_kinds = |task: TaskIndex| {
        let seen = seen.get(task.get()).filter(|seen| seen.has_clips)?;
        let kinds: AssetKinds = kinds.iter().filter(|kind| seen.kinds & kind_bit(*kind) == 0).collect();
        (!kinds.is_empty()).then_some((task, kinds))
    };
    Ok(tasks.indices().filter_map(missing_kinds).collect())
}

/// The clips and assets that the tables contain for a task.
#[derive(Clone, Copy, Debug, Default)]
struct SeenRows {
    has_clips: bool,
    /// The kinds of the task's assets, one bit per kind.
    kinds: u8,
}

impl SeenRows {
    fn record(&mut self, column: &str, cell: &str) {
        match AssetKind::parse(cell) {
            Some(kind) => self.kinds |= kind_bit(kind),
            None => self.has_clips |= column == "clip_count" && cell != "0",
        }
    }
}

fn kind_bit(kind: AssetKind) -> u8 {
    match kind {
        AssetKind::Audio => 1,
        AssetKind::Image => 2,
        AssetKind::Video => 4,
    }
}

/// Whether the assets table has a row of each of these kinds for every clip. If so, no archived task lacks assets of
/// these kinds.
fn has_all(archive: &Archive, kinds: &AssetKinds) -> Result<bool> {
    let counts = asset_rows(archive)?;
    let clips = rows::count_rows(archive, CLIPS.name)?;
    Ok(kinds.iter().all(|kind| counts.get(&kind).copied().unwrap_or_default() == clips))
}

/// Counts the rows of the assets table by kind.
fn asset_rows(archive: &Archive) -> Result<BTreeMap<AssetKind, u64>> {
    let mut counts = BTreeMap::new();
    rows::scan_table(archive, ASSETS.name, &["kind"], &mut |cells| {
        if let Some(kind) = cells.first().copied().flatten().and_then(AssetKind::parse) {
            *counts.entry(kind).or_default() += 1;
        }
    })?;
    Ok(counts)
}

/// Whether tasks that are archived with the status `not_found` are requested again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFoundPolicy {
    /// Keep the `not_found` rows, and do not request the tasks again.
    Keep,
    /// Request the tasks again, and replace their `not_found` rows.
    Refetch,
}

impl NotFoundPolicy {
    pub(crate) fn from_config(config: &ExportConfig) -> Self {
        if config.retry_not_found { Self::Refetch } else { Self::Keep }
    }
}

/// The state of each task in a list: whether the task's response is in the archive or in the journal.
#[derive(Debug)]
pub(crate) struct ListState(Vec<TaskState>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    Unknown,
    Done,
    /// The task is archived as `not_found` and is requested again.
    Replaceable,
}

impl ListState {
    /// Finds the tasks in the list that have a row in the tasks table.
    pub(crate) fn archived(archive: &Archive, tasks: &TaskList, not_found: NotFoundPolicy) -> Result<Self> {
        let mut states = Self::empty(tasks);
        if tasks.is_empty() {
            return Ok(states);
        }
        let columns: &[&str] = if not_found == NotFoundPolicy::Keep { &[TASK_ID] } else { &[TASK_ID, "status"] };
        let filter = (TASK_ID, tasks.indices().map(|index| tasks.id(index).as_str()));
        rows::search_table(archive, TASKS.name, columns, &filter, &mut |cells| match cells {
            [Some(id), Some("not_found")] => states.mark(tasks, id, TaskState::Replaceable),
            [Some(id), ..] => states.mark(tasks, id, TaskState::Done),
            _ => {}
        })?;
        Ok(states)
    }

    /// Returns a state in which every task in the list is unknown.
    pub(crate) fn empty(tasks: &TaskList) -> Self {
        Self(vec![TaskState::Unknown; tasks.len()])
    }

    /// Finds the tasks in the list whose responses were left in the journal by an earlier run. These tasks are archived
    /// without another request.
    pub(crate) fn journalled(archive: &Archive, tasks: &TaskList) -> Result<Self> {
        let mut states = Self::empty(tasks);
        for closed in journal::segments(&archive.journal_folder())? {
            let mut segment = SegmentReader::open(&closed)?;
            while let Some(record) = segment.next_record()? {
                if let Record::Task { task_id, .. } | Record::NotFound { task_id, .. } = record {
                    states.mark(tasks, &task_id, TaskState::Done);
                }
            }
        }
        Ok(states)
    }

    /// Merges the task states in `other` into `self`. A state in `other` takes precedence unless it is `Unknown`.
    pub(crate) fn merge(mut self, other: &Self) -> Self {
        for (state, other) in self.0.iter_mut().zip(&other.0).filter(|(_, other)| **other != TaskState::Unknown) {
            *state = *other;
        }
        self
    }

    /// Whether the response for the task at `index` is in the archive or in the journal.
    pub(super) fn is_done(&self, index: usize) -> bool {
        self.0.get(index) == Some(&TaskState::Done)
    }

    /// Whether the task at `index` is archived as `not_found` and is requested again.
    pub(super) fn is_replaceable(&self, index: usize) -> bool {
        self.0.get(index) == Some(&TaskState::Replaceable)
    }

    #[cfg(test)]
    pub(super) fn with_done(mut self, tasks: &TaskList, id: &str) -> Self {
        self.mark(tasks, id, TaskState::Done);
        self
    }

    fn mark(&mut self, tasks: &TaskList, id: &str, state: TaskState) {
        if let Some(slot) = tasks.find(id).and_then(|index| self.0.get_mut(index.get())) {
            // If a task has two rows, the row with a response takes precedence over the `not_found` row.
            if *slot != TaskState::Done {
                *slot = state;
            }
        }
    }
}
