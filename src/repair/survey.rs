//! Scans the tables to find the tasks that have lost rows. The scan keeps one hash per task and table in memory.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use super::Plan;
use crate::{
    archive::Archive,
    asset::{AssetKind, AssetKinds, AssetStatus},
    error::Result,
    export, rows,
    status::FinalStatus,
    tables::{self, ASSETS, CLIPS, LYRICS, RowCallback, TASK_ID, TASKS},
    task::{TaskId, is_same_id},
};

/// For each table, the hashed IDs of the tasks that have rows in the table. For ten million tasks, the probability that
/// any two task IDs have the same hash is less than 1 in 250,000.
pub(super) struct Survey {
    hasher: RandomState,
    rows: HashMap<&'static str, HashSet<u64>>,
}

impl Survey {
    pub(super) fn read(archive: &Archive, plan: &Plan) -> Result<Self> {
        let mut survey = Self { hasher: RandomState::new(), rows: HashMap::new() };
        for table in tables::TABLES {
            let mut tasks = HashSet::new();
            scan_intact_parts(archive, plan, table, &["task_id"], &mut |cells| {
                tasks.extend(cells.iter().flatten().map(|task| survey.hasher.hash_one(*task)));
            })?;
            survey.rows.insert(table, tasks);
        }
        Ok(survey)
    }

    fn has_rows(&self, table: &str, task: &str) -> bool {
        self.rows.get(table).is_some_and(|tasks| tasks.contains(&self.hasher.hash_one(task)))
    }

    /// Drops corrupted task IDs: if the tasks table is intact, an ID that occurs only in damaged parts of other tables
    /// is corrupted.
    pub(super) fn drop_corrupted_ids(&self, plan: &mut Plan) {
        if !plan.has_damaged_part(TASKS.name) {
            plan.tasks.retain(|task| tables::TABLES.into_iter().any(|table| self.has_rows(table, task)));
        }
    }

    /// Adds to the plan the tasks with lost rows, with failed assets, or with damaged or missing media files. Also adds
    /// the kinds of assets that the tasks to repair should have.
    pub(super) fn add_affected_tasks(&self, archive: &Archive, plan: &mut Plan) -> Result<()> {
        let mut found = salvaged_ids(archive, plan);
        found.retain(|task| !self.has_rows(TASKS.name, task));
        for table in [CLIPS.name, LYRICS.name, ASSETS.name] {
            scan_intact_parts(archive, plan, table, &["task_id"], &mut |cells| {
                let orphans = cells.iter().flatten().filter(|task| !self.has_rows(TASKS.name, task));
                found.extend(orphans.map(|task| (*task).to_owned()));
            })?;
        }
        scan_intact_parts(archive, plan, TASKS.name, &["task_id", "type", "status", "clip_count"], &mut |cells| {
            let [Some(task), kind, status, clips] = cells else { return };
            let has_clips = clips.is_some_and(|clips| clips != "0");
            let lost_rows = |table| plan.has_damaged_part(table) && !self.has_rows(table, task);
            let is_lyrics = *kind == Some("lyrics") && *status == Some(FinalStatus::Success.as_str());
            let lost =
                has_clips && (lost_rows(CLIPS.name) || lost_rows(ASSETS.name)) || is_lyrics && lost_rows(LYRICS.name);
            if lost {
                found.insert((*task).to_owned());
            }
        })?;
        let mut failed = 0;
        scan_intact_parts(archive, plan, ASSETS.name, &["task_id", "status", "path"], &mut |cells| {
            let [Some(task), status, path] = cells else { return };
            let has_failed = *status == Some(AssetStatus::Failed.as_str());
            failed += u64::from(has_failed);
            if has_failed || path.is_some_and(|path| plan.media.contains(path)) {
                found.insert((*task).to_owned());
            }
        })?;
        plan.failed_assets = failed;
        plan.tasks.extend(found);
        plan.lost = plan.tasks.iter().filter(|task| !self.has_rows(TASKS.name, task)).cloned().collect();
        find_asset_kinds(archive, plan)?;
        count_remaining_clips(archive, plan)
    }
}

/// Counts the remaining clip rows of each task to repair. The count is zero for a task that has rows only in the
/// lyrics or assets table.
fn count_remaining_clips(archive: &Archive, plan: &mut Plan) -> Result<()> {
    let mut remaining_clips: HashMap<String, i32> = HashMap::new();
    for (table, clips) in [(CLIPS.name, 1), (LYRICS.name, 0), (ASSETS.name, 0)] {
        scan_intact_parts(archive, plan, table, &[TASK_ID], &mut |cells| {
            for task in cells.iter().flatten().filter(|task| plan.tasks.contains(**task)) {
                *remaining_clips.entry((*task).to_owned()).or_default() += clips;
            }
        })?;
    }
    plan.remaining_clips = remaining_clips;
    Ok(())
}

/// Finds the kinds of assets of the tasks to repair, and the tasks that may have lost their asset rows.
fn find_asset_kinds(archive: &Archive, plan: &mut Plan) -> Result<()> {
    let mut kinds: HashMap<String, AssetKinds> = HashMap::new();
    scan_intact_parts(archive, plan, ASSETS.name, &["task_id", "kind"], &mut |cells| {
        let [Some(task), Some(kind)] = cells else { return };
        if plan.tasks.contains(*task)
            && let Some(kind) = AssetKind::parse(kind)
        {
            kinds.entry((*task).to_owned()).or_default().insert(kind);
        }
    })?;
    if plan.has_damaged_part(ASSETS.name) || plan.has_damaged_part(TASKS.name) {
        plan.may_lack_asset_rows = plan.tasks.iter().filter(|task| !kinds.contains_key(*task)).cloned().collect();
    }
    plan.kinds = kinds;
    Ok(())
}

/// Returns the task IDs that can be read from damaged parts of the tasks table. Adds a part to `plan.truncated_parts`
/// if the part cannot be read to its end or if damage has changed IDs, because such a part may have contained more
/// tasks.
fn salvaged_ids(archive: &Archive, plan: &mut Plan) -> HashSet<String> {
    let mut found = HashSet::new();
    for path in plan.parts.get(TASKS.name).into_iter().flatten() {
        let (ids, is_complete) = read_ids(archive, path);
        found.extend(ids);
        if !is_complete {
            plan.truncated_parts.insert(path.clone());
        }
    }
    found
}

/// Returns the task IDs in a damaged part, and whether the set of IDs is complete. Corrupted IDs are excluded: an ID
/// is corrupted if the response in its row contains a different task ID, or if the part's Bloom filter does not contain
/// the ID.
fn read_ids(archive: &Archive, path: &str) -> (HashSet<String>, bool) {
    let Ok(file) = archive.read(path) else { return (HashSet::new(), false) };
    let (mut ids, mut rows) = (HashSet::new(), 0);
    let mut on_row = |cells: &[Option<&str>]| {
        let parsed = cells.iter().flatten().filter_map(|id| TaskId::parse(id).ok());
        ids.extend(parsed.map(|id| id.to_string()));
        rows += 1;
    };
    let scanned = tables::catch_panic(|| tables::scan(file.clone(), archive.format, &[TASK_ID], &mut on_row));
    let ids_by_response = export::ids_in_responses(archive, path);
    let unconfirmed = ids.iter().map(String::as_str).filter(|id| !ids_by_response.contains_key(*id)).collect();
    let changed =
        tables::catch_panic(|| tables::absent_values(file, archive.format, TASK_ID, unconfirmed)).unwrap_or_default();
    ids.retain(|id| {
        !changed.contains(id) && ids_by_response.get(id).is_none_or(|response_id| is_same_id(response_id, id))
    });
    ids.extend(
        ids_by_response.into_values().filter_map(|response_id| Some(TaskId::parse(&response_id).ok()?.to_string())),
    );
    let is_complete = scanned.is_ok() && ids.len() == rows;
    (ids, is_complete)
}

/// Calls `row` with the given columns of each row in the intact parts of a table.
fn scan_intact_parts(
    archive: &Archive,
    plan: &Plan,
    table: &str,
    columns: &[&str],
    row: RowCallback<'_>,
) -> Result<()> {
    let parts = archive.parts(table)?;
    let mut intact = parts.iter().filter(|path| plan.is_intact(table, path));
    intact.try_for_each(|path| rows::scan_part(archive, path, columns, row))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test damages a file")]
mod tests {
    use super::*;
    use crate::{
        archive::LockedArchive,
        format::TableFormat,
        run_id::RunId,
        tables::{FetchInfo, PartEncoder, RowGroups},
    };

    /// Encodes a part whose rows have no response, so that no response can confirm their IDs.
    fn part(ids: &[String]) -> Vec<u8> {
        let mut part = PartEncoder::new(&TASKS, TableFormat::Parquet, RowGroups::Small, Vec::new()).unwrap();
        for task_id in ids.iter().cloned() {
            let fetched_at = "2026-01-02T03:04:05Z".parse::<jiff::Timestamp>().unwrap().into();
            let info = FetchInfo { task_id, status: FinalStatus::NotFound, fetched_at, run_id: RunId::example() };
            part.push(&tables::not_found_row(&info, None, 0).task).unwrap();
        }
        part.finish().unwrap().0
    }

    #[test]
    fn a_corrupted_id_is_not_salvaged() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let archive = LockedArchive::open_or_create(&folder.path().into(), None, &tables::TABLES, now).unwrap();
        let ids: Vec<String> = (0..40).map(|n| format!("{:x}", n * 0x9e37_79b9_7f4a_u64)).collect();
        let (intact, path) = (part(&ids), "tasks/20260101T000000000Z-a-0001.parquet");
        std::fs::create_dir(folder.path().join("tasks")).unwrap();
        let mut changed = 0;
        for offset in (0..intact.len()).step_by(2) {
            let mut damaged = intact.clone();
            damaged[offset] ^= 4;
            std::fs::write(folder.path().join(path), damaged).unwrap();
            let (salvaged, is_complete) = read_ids(&archive, path);
            let is_corrupted = |id: &&String| !ids.contains(id);
            assert_eq!(salvaged.iter().find(is_corrupted), None, "byte {offset}");
            assert!(!is_complete || salvaged.len() == ids.len(), "byte {offset}");
            let mut read = HashSet::new();
            let mut on_row = |cells: &[Option<&str>]| read.extend(cells.iter().flatten().map(|id| (*id).to_owned()));
            let file = archive.read(path).unwrap();
            let _ = tables::catch_panic(|| tables::scan(file, TableFormat::Parquet, &[TASK_ID], &mut on_row));
            changed += u32::from(read.iter().any(|id| !ids.contains(id)));
        }
        assert!(changed > 10, "{changed}");
    }
}
