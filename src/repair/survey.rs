//! Finds the tasks that have lost rows, from the tables. Memory holds a hash per task.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
};

use tokio::runtime::Handle;

use super::Plan;
use crate::{
    archive::Archive,
    asset::{AssetKind, AssetKinds, AssetStatus},
    error::Result,
    export,
    ranged::RangedFile,
    status::FinalStatus,
    tables::{self, ASSETS, CLIPS, LYRICS, TASK_ID, TASKS},
    task::TaskId,
};

/// Which tasks have rows in which table. For ten million tasks, the chance that two share a hash is one in a
/// quarter of a million.
pub(super) struct Survey {
    hasher: RandomState,
    rows: HashMap<&'static str, HashSet<u64>>,
}

impl Survey {
    pub(super) fn of(archive: &Archive, plan: &Plan) -> Result<Self> {
        let mut survey = Self { hasher: RandomState::new(), rows: HashMap::new() };
        for table in tables::TABLES {
            let mut tasks = HashSet::new();
            each(archive, plan, table, &["task_id"], &mut |cells| {
                tasks.extend(cells.iter().flatten().map(|task| survey.hasher.hash_one(*task)));
            })?;
            survey.rows.insert(table, tasks);
        }
        Ok(survey)
    }

    fn has(&self, table: &str, task: &str) -> bool {
        self.rows.get(table).is_some_and(|tasks| tasks.contains(&self.hasher.hash_one(task)))
    }

    /// Drops tasks that only damaged parts name while the tasks table is intact: their IDs are results of the
    /// damage.
    pub(super) fn drop_invented(&self, plan: &mut Plan) {
        if !plan.has_lost(TASKS.name) {
            plan.tasks.retain(|task| tables::TABLES.into_iter().any(|table| self.has(table, task)));
        }
    }

    /// Adds the tasks that have lost rows, those with failed assets or missing files, and the kinds of assets that
    /// they should have.
    pub(super) fn complete(&self, archive: &Archive, plan: &mut Plan) -> Result<()> {
        let mut found = salvaged_ids(archive, plan);
        found.retain(|task| !self.has(TASKS.name, task));
        for table in [CLIPS.name, LYRICS.name, ASSETS.name] {
            each(archive, plan, table, &["task_id"], &mut |cells| {
                let orphans = cells.iter().flatten().filter(|task| !self.has(TASKS.name, task));
                found.extend(orphans.map(|task| (*task).to_owned()));
            })?;
        }
        each(archive, plan, TASKS.name, &["task_id", "type", "status", "clip_count"], &mut |cells| {
            let [Some(task), kind, status, clips] = cells else { return };
            let has_clips = clips.is_some_and(|clips| clips != "0");
            let lacks = |table| plan.has_lost(table) && !self.has(table, task);
            let is_lyrics = *kind == Some("lyrics") && *status == Some(FinalStatus::Success.as_str());
            let lost = has_clips && (lacks(CLIPS.name) || lacks(ASSETS.name)) || is_lyrics && lacks(LYRICS.name);
            if lost {
                found.insert((*task).to_owned());
            }
        })?;
        let mut failed = 0;
        each(archive, plan, ASSETS.name, &["task_id", "status", "path"], &mut |cells| {
            let [Some(task), status, path] = cells else { return };
            let has_failed = *status == Some(AssetStatus::Failed.as_str());
            failed += u64::from(has_failed);
            if has_failed || path.is_some_and(|path| plan.media.contains(path)) {
                found.insert((*task).to_owned());
            }
        })?;
        plan.failed_assets = failed;
        plan.tasks.extend(found);
        plan.lost = plan.tasks.iter().filter(|task| !self.has(TASKS.name, task)).cloned().collect();
        kinds(archive, plan)?;
        left(archive, plan)
    }
}

/// Counts the rows that the tasks to repair have in other tables.
fn left(archive: &Archive, plan: &mut Plan) -> Result<()> {
    let mut left: HashMap<String, i32> = HashMap::new();
    for (table, clips) in [(CLIPS.name, 1), (LYRICS.name, 0), (ASSETS.name, 0)] {
        each(archive, plan, table, &[TASK_ID], &mut |cells| {
            for task in cells.iter().flatten().filter(|task| plan.tasks.contains(**task)) {
                *left.entry((*task).to_owned()).or_default() += clips;
            }
        })?;
    }
    plan.clips_left = left;
    Ok(())
}

/// The kinds of assets of the tasks to repair, and which tasks may have lost their asset rows.
fn kinds(archive: &Archive, plan: &mut Plan) -> Result<()> {
    let mut kinds: HashMap<String, AssetKinds> = HashMap::new();
    each(archive, plan, ASSETS.name, &["task_id", "kind"], &mut |cells| {
        let [Some(task), Some(kind)] = cells else { return };
        if plan.tasks.contains(*task)
            && let Some(kind) = AssetKind::parse(kind)
        {
            kinds.entry((*task).to_owned()).or_default().insert(kind);
        }
    })?;
    if plan.has_lost(ASSETS.name) || plan.has_lost(TASKS.name) {
        plan.without_assets = plan.tasks.iter().filter(|task| !kinds.contains_key(*task)).cloned().collect();
    }
    plan.kinds = kinds;
    Ok(())
}

/// The tasks of damaged parts, as far as those can be read. A part that cannot be read to its end may have held
/// others. If a response names another task than its row, the ID in the row is damaged.
fn salvaged_ids(archive: &Archive, plan: &mut Plan) -> HashSet<String> {
    let (mut found, mut contradicted) = (HashSet::new(), HashSet::new());
    for path in plan.parts.get(TASKS.name).into_iter().flatten() {
        let Ok(file) = archive.read(path) else {
            plan.unknown.insert(path.clone());
            continue;
        };
        let mut note = |cells: &[Option<&str>]| {
            let ids = cells.iter().flatten().filter_map(|id| TaskId::parse(id).ok());
            found.extend(ids.map(|id| id.to_string()));
        };
        if tables::guarded(|| tables::scan(file, archive.format, &[TASK_ID], &mut note)).is_err() {
            plan.unknown.insert(path.clone());
        }
        contradicted.extend(export::contradicted_ids(archive, path));
    }
    for (id, named) in contradicted {
        found.remove(&id);
        found.extend(TaskId::parse(&named).ok().map(|id| id.to_string()));
    }
    found
}

/// Calls `row` with these columns of each row of a table's intact parts.
fn each(
    archive: &Archive,
    plan: &Plan,
    table: &str,
    columns: &[&str],
    row: &mut dyn FnMut(&[Option<&str>]),
) -> Result<()> {
    each_part(archive, plan, table, &mut |file| tables::scan(file, archive.format, columns, row))
}

/// Calls `read` with each intact part of a table.
fn each_part(
    archive: &Archive,
    plan: &Plan,
    table: &str,
    read: &mut dyn FnMut(RangedFile) -> io::Result<()>,
) -> Result<()> {
    let runtime = Handle::current();
    for path in runtime.block_on(archive.parts(table))?.into_iter().filter(|path| plan.trusts(table, path)) {
        let file = runtime.block_on(archive.store.open(&path))?;
        read(file).map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(())
}
