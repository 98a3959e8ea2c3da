//! Replacement of rows: a task's old rows are removed just before its new ones are published. The journal holds
//! the new ones meanwhile.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    archive::{Archive, LockedArchive, Swap},
    error::Result,
    rows,
    run_id::RunId,
    tables::{self, Outline, PartCopier, TASK_ID, TASKS},
};

/// Tasks whose new rows replace old ones.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// In all tables.
    pub(super) everywhere: HashSet<String>,
    /// In the tasks table: their other rows stay.
    pub(super) in_tasks: HashSet<String>,
}

/// Removes the rows of these tasks, except those in the `own` parts, which are the new ones. The tasks table
/// goes first: a task without its row is not archived. Blocks.
pub(super) fn remove_rows(held: &Arc<LockedArchive>, replaced: Replaced, own: &[String]) -> Result<()> {
    let Replaced { everywhere: mut tasks, in_tasks } = replaced;
    for outline in tables::outlines().into_iter().rev() {
        if outline.name == TASKS.name {
            tasks.extend(in_tasks.iter().cloned());
        } else {
            tasks.retain(|task| !in_tasks.contains(task));
        }
        if tasks.is_empty() {
            continue;
        }
        let mut parts = held.archive.parts(outline.name)?;
        parts.retain(|path| !own.contains(path));
        remove_from(held, outline, parts, &tasks)?;
    }
    Ok(())
}

/// Replaces the parts that have any of these rows by one with their other rows.
fn remove_from(held: &Arc<LockedArchive>, outline: Outline, parts: Vec<String>, tasks: &HashSet<String>) -> Result<()> {
    let archive = &held.archive;
    let mut touched = Vec::new();
    for path in parts {
        if has_rows_of(archive, &path, tasks)? {
            touched.push(path);
        }
    }
    if touched.is_empty() {
        return Ok(());
    }
    let table = outline.name;
    // A run ID of its own, so that the name cannot clash with this run's next parts.
    let mut swap = Swap::begin(held, table, &RunId::new(Timestamp::now()))?;
    let part = swap.part()?;
    let failed = |error: std::io::Error| archive.store.failed("write", table, &error);
    let mut copier = PartCopier::new(outline, archive.format, part).map_err(failed)?;
    for path in &touched {
        archive.read_part(path, |file| copier.copy(file, &mut |task| !tasks.contains(task)))?;
    }
    let (part, rows) = copier.finish().map_err(failed)?;
    if rows > 0 {
        swap.add(part)?;
    } else {
        part.discard()?;
    }
    swap.commit(&touched)
}

fn has_rows_of(archive: &Archive, path: &str, tasks: &HashSet<String>) -> Result<bool> {
    let mut found = false;
    let mut look = |cells: &[Option<&str>]| found |= cells.iter().flatten().any(|task| tasks.contains(*task));
    // Every row is read, whatever a filter says: an old row that stays would duplicate its task.
    rows::scan_part(archive, path, &[TASK_ID], &mut look)?;
    Ok(found)
}
