//! Which tasks of a list are archived already. Memory grows with the list, not with the archive.

use super::Archive;
use crate::{
    error::Result,
    tables::{self, TASKS},
    task::TaskList,
};

/// Marks, for each place of the list, whether that task has its row.
pub(crate) async fn mark_archived(archive: &Archive, tasks: &TaskList) -> Result<Vec<bool>> {
    let mut archived = vec![false; tasks.len()];
    if tasks.is_empty() {
        return Ok(archived);
    }
    for path in archive.parts(TASKS.name).await? {
        let file = archive.store.open(&path).await?;
        let mut mark = |cells: &[Option<&str>]| {
            let known = cells.first().copied().flatten().and_then(|id| tasks.find(id));
            if let Some(slot) = known.and_then(|index| archived.get_mut(index.get())) {
                *slot = true;
            }
        };
        tables::scan(file, archive.format, &["task_id"], &mut mark)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(archived)
}
