//! Replaces rows of archived tasks. A task's old rows are removed just before its new rows are published. The journal
//! holds the new rows until they are published.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    archive::{Archive, LockedArchive, Swap},
    error::Result,
    rows,
    run_id::RunId,
    tables::{self, PartCopier, TASK_ID, TASKS, TableSchema},
};

/// Tasks whose new rows replace existing rows.
#[derive(Debug, Default)]
pub(super) struct ReplacedTasks {
    /// Tasks whose rows are replaced in all tables.
    pub(super) all_tables: HashSet<String>,
    /// Tasks whose rows are replaced in the tasks table only. Their rows in the clips, lyrics and assets tables stay
    /// unchanged.
    pub(super) tasks_only: HashSet<String>,
}

/// Removes the rows of these tasks from all parts except `own_parts`, which contain the new rows. The tasks table is
/// rewritten first: a task without a row in that table counts as not archived, so an interrupted removal leaves no
/// incomplete task that counts as archived. Performs blocking I/O.
pub(super) fn remove_rows(archive: &Arc<LockedArchive>, replaced: ReplacedTasks, own_parts: &[String]) -> Result<()> {
    let ReplacedTasks { all_tables: mut tasks, tasks_only } = replaced;
    for schema in tables::schemas().into_iter().rev() {
        if schema.name == TASKS.name {
            tasks.extend(tasks_only.iter().cloned());
        } else {
            tasks.retain(|task| !tasks_only.contains(task));
        }
        if tasks.is_empty() {
            continue;
        }
        let mut parts = archive.parts(schema.name)?;
        parts.retain(|path| !own_parts.contains(path));
        remove_from(archive, schema, parts, &tasks)?;
    }
    Ok(())
}

/// Merges the parts that contain rows of these tasks into one part without those rows.
fn remove_from(
    archive: &Arc<LockedArchive>,
    schema: TableSchema,
    parts: Vec<String>,
    tasks: &HashSet<String>,
) -> Result<()> {
    let mut affected = Vec::new();
    for path in parts {
        if has_rows_of(archive, &path, tasks)? {
            affected.push(path);
        }
    }
    if affected.is_empty() {
        return Ok(());
    }
    let table = schema.name;
    // A new run ID ensures that the part's name does not clash with later parts of this run.
    let mut swap = Swap::begin(archive, table, &RunId::new(Timestamp::now()))?;
    let part = swap.begin_part()?;
    let failed = |error: std::io::Error| archive.store.storage_error("write", table, &error);
    let mut copier = PartCopier::new(schema, archive.format, part).map_err(failed)?;
    for path in &affected {
        archive.read_part(path, |file| copier.copy(file, &mut |task| !tasks.contains(task)))?;
    }
    let (part, rows) = copier.finish().map_err(failed)?;
    if rows > 0 {
        swap.add(part)?;
    } else {
        part.discard()?;
    }
    swap.commit(&affected)
}

fn has_rows_of(archive: &Archive, path: &str, tasks: &HashSet<String>) -> Result<bool> {
    let mut found = false;
    let mut check_row = |cells: &[Option<&str>]| found |= cells.iter().flatten().any(|task| tasks.contains(*task));
    // The scan reads every row without a filter, because a missed row would leave the task with both old and new rows.
    rows::scan_part(archive, path, &[TASK_ID], &mut check_row)?;
    Ok(found)
}
