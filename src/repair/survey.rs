//! What the tables tell of tasks that have lost rows. Memory holds a hash a task.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    hash::{BuildHasher, RandomState},
    io,
    path::PathBuf,
};

use tokio::runtime::Handle;

use super::Plan;
use crate::{
    archive::Archive,
    asset::{AssetKind, AssetStatus},
    error::Result,
    export::Stored,
    format::TableFormat,
    status::FinalStatus,
    tables::{self, ASSETS, CLIPS, LYRICS, TASK_ID, TASKS},
    task::TaskId,
};

/// Which tasks have rows in which table. Two tasks of one hash are as good as impossible: of ten million, the
/// chance is one in a quarter of a million.
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

    /// Adds the tasks that have lost rows, those with assets that failed or whose files are gone, and what
    /// assets they should have.
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

/// What is left, in other tables than their own, of the tasks to be mended.
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

/// The kinds of assets that the tasks to be mended have, and which of them may have lost theirs.
fn kinds(archive: &Archive, plan: &mut Plan) -> Result<()> {
    let mut kinds: HashMap<String, BTreeSet<AssetKind>> = HashMap::new();
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

/// The tasks of parts that are there and cannot be trusted, as far as they can be read. Of one that cannot be
/// read to its end nobody knows all.
fn salvaged_ids(archive: &Archive, plan: &mut Plan) -> HashSet<String> {
    let mut found = HashSet::new();
    for path in plan.parts.get(TASKS.name).into_iter().flatten() {
        let Ok(file) = File::open(archive.folder.join(path)) else {
            plan.unknown.insert(path.clone());
            continue;
        };
        let mut note = |cells: &[Option<&str>]| {
            let ids = cells.iter().flatten().filter_map(|id| TaskId::parse(id).ok());
            found.extend(ids.map(|id| id.to_string()));
        };
        if tables::guarded(|| tables::scan(file, archive.format, &["task_id"], &mut note)).is_err() {
            plan.unknown.insert(path.clone());
        }
    }
    found
}

/// What damaged parts of tasks say of these tasks, as far as they can be read, and make sense. Blocks.
pub(crate) fn salvaged(
    format: TableFormat,
    parts: &BTreeSet<PathBuf>,
    tasks: &HashSet<String>,
) -> HashMap<String, Stored> {
    let mut salvaged = HashMap::new();
    for file in parts.iter().filter_map(|path| File::open(path).ok()) {
        let mut note = |cells: &[Option<&str>]| {
            salvaged.extend(answer(cells).filter(|(task, answer)| tasks.contains(task) && answer.is_of(task)));
        };
        let _ = tables::guarded(|| tables::scan(file, format, &ANSWER, &mut note));
    }
    salvaged
}

/// The columns that an answer can be had from.
const ANSWER: [&str; 5] = ["task_id", "status", "fetched_at", "response", "error"];

fn answer(cells: &[Option<&str>]) -> Option<(String, Stored)> {
    let [Some(task), Some(status), Some(fetched_at), response, error] = cells else { return None };
    let (status, fetched_at) = (FinalStatus::parse(status)?, fetched_at.parse().ok()?);
    let (response, error) = (response.map(str::to_owned), error.map(str::to_owned));
    Some(((*task).to_owned(), Stored { status, fetched_at, response, error }))
}

/// The tasks to be mended in the order of their rows, so that those that are mended at once stand together;
/// then those that have none. Blocks.
pub(crate) fn in_order(archive: &Archive, plan: &Plan) -> Result<Vec<String>> {
    let (mut left, mut ordered) = (plan.tasks.clone(), Vec::new());
    each(archive, plan, TASKS.name, &[TASK_ID], &mut |cells| {
        ordered.extend(cells.iter().flatten().filter_map(|task| left.take(*task)));
    })?;
    ordered.extend(left);
    Ok(ordered)
}

/// What the archive has of these tasks. Blocks.
pub(crate) fn stored(archive: &Archive, plan: &Plan, tasks: &HashSet<String>) -> Result<HashMap<String, Stored>> {
    let mut stored = HashMap::new();
    let mut note = |cells: &[Option<&str>]| {
        let Some((task, answer)) = answer(cells).filter(|(task, _)| tasks.contains(task)) else { return };
        // Of a task that is there twice, the row that says most, then the newest.
        match stored.get(&task) {
            Some(other) if !answer.is_better_than(other) => {}
            _ => drop(stored.insert(task, answer)),
        }
    };
    each_part(archive, plan, TASKS.name, &mut |file| {
        let sought = (TASK_ID, tasks.iter().map(String::as_str));
        tables::scan_for(file, archive.format, &ANSWER, sought, &mut note)
    })?;
    Ok(stored)
}

/// Calls `row` with these columns of each row of a table, in the parts that can be trusted.
fn each(
    archive: &Archive,
    plan: &Plan,
    table: &str,
    columns: &[&str],
    row: &mut dyn FnMut(&[Option<&str>]),
) -> Result<()> {
    each_part(archive, plan, table, &mut |file| tables::scan(file, archive.format, columns, row))
}

/// Calls `read` with each part of a table that can be trusted.
fn each_part(archive: &Archive, plan: &Plan, table: &str, read: &mut dyn FnMut(File) -> io::Result<()>) -> Result<()> {
    let runtime = Handle::current();
    for path in runtime.block_on(archive.parts(table))?.into_iter().filter(|path| plan.trusts(table, path)) {
        let file = runtime.block_on(archive.store.open(&path))?;
        read(file).map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(())
}
