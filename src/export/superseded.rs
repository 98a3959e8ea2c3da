//! Finds the records of a leftover segment that must not be published, because the archive already contains their rows.
//! A segment contains such records if an old `.sunor` folder was restored into an archive with newer tables. Skipping
//! these records ensures that each task has exactly one row in the tasks table.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    archive::{Archive, LockedArchive, PartName},
    asset::AssetKinds,
    error::Result,
    journal::{ClosedSegment, Record, SegmentReader},
    rows,
    tables::{ASSETS, TASK_ID, TASKS},
};

/// The rows that a segment would add to the tables.
#[derive(Debug, Default)]
struct Additions {
    /// Tasks for which the segment adds a row to the tasks table.
    tasks: HashMap<String, TaskRecord>,
    /// Tasks for which the segment adds asset rows, with the kinds of the added assets.
    assets: HashMap<String, AssetKinds>,
}

#[derive(Clone, Copy, Debug)]
struct TaskRecord {
    fetched_at: Timestamp,
    replaces: bool,
}

/// Finds the tasks that must not be published from a segment, because the archive already contains their rows. Performs
/// blocking I/O.
pub(super) fn superseded_tasks(archive: &Arc<LockedArchive>, segment: &ClosedSegment) -> Result<HashSet<String>> {
    let reader = SegmentReader::open(&segment.path)?;
    let name = PartName { run_id: &reader.run_id.clone(), part: reader.part, format: archive.format };
    let additions = Additions::read(reader, &segment.excluded)?;
    let mut superseded = HashSet::new();
    for_each_row(archive, (TASKS.name, "fetched_at"), &name, &additions.tasks.keys(), &mut |task, fetched_at| {
        let Some(record) = additions.tasks.get(task) else { return };
        let is_older = || fetched_at.parse().is_ok_and(|archived: Timestamp| archived < record.fetched_at);
        if !(record.replaces && is_older()) {
            superseded.insert(task.to_owned());
        }
    })?;
    for_each_row(archive, (ASSETS.name, "kind"), &name, &additions.assets.keys(), &mut |task, kind| {
        let kinds = additions.assets.get(task);
        if kinds.is_some_and(|kinds| kinds.iter().any(|known| known.as_str() == kind)) {
            superseded.insert(task.to_owned());
        }
    })?;
    Ok(superseded)
}

impl Additions {
    fn read(mut segment: SegmentReader, excluded: &HashSet<String>) -> Result<Self> {
        let mut additions = Self::default();
        while let Some(record) = segment.next_record()? {
            match record {
                Record::Task { task_id, fetched_at, replaces, .. }
                | Record::NotFound { task_id, fetched_at, replaces, .. }
                    if !excluded.contains(&task_id) =>
                {
                    additions.tasks.insert(task_id, TaskRecord { fetched_at, replaces });
                }
                Record::AddedAssets { task_id, assets } => {
                    let kinds: AssetKinds = assets.iter().map(|asset| asset.kind).collect();
                    additions.assets.insert(task_id, kinds);
                }
                _ => {}
            }
        }
        Ok(additions)
    }
}

/// Calls `row` with the task ID and the `column` value of each row of these tasks, in all parts of the table except the
/// segment's own part.
fn for_each_row<'a>(
    archive: &Archive,
    (table, column): (&str, &str),
    own_name: &PartName<'_>,
    tasks: &(impl ExactSizeIterator<Item = &'a String> + Clone),
    row: &mut dyn FnMut(&str, &str),
) -> Result<()> {
    if tasks.len() == 0 {
        return Ok(());
    }
    let own_name = own_name.path(table);
    for path in archive.parts(table)?.into_iter().filter(|path| *path != own_name) {
        let filter = (TASK_ID, tasks.clone().map(String::as_str));
        rows::search_part(archive, &path, &[TASK_ID, column], &filter, &mut |cells| {
            if let [Some(task), Some(cell)] = cells {
                row(task, cell);
            }
        })?;
    }
    Ok(())
}
