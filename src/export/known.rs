//! What an archive holds already, as far as a run has to know: which tasks of a list need not be asked
//! for, since they are archived or wait in the journal, and how many files are missing. Memory grows with
//! the list, not with the archive.

use crate::{
    archive::Archive,
    asset::AssetStatus,
    error::Result,
    journal::{self, Record, Segment},
    tables::{self, ASSETS, TASKS},
    task::TaskList,
};

/// How many assets of the archive are failed: nobody tries those again unasked.
pub(crate) async fn failed_assets(archive: &Archive) -> Result<u64> {
    let mut failed = 0;
    for path in archive.parts(ASSETS.name).await? {
        let file = archive.store.open(&path).await?;
        let mut count = |cells: &[Option<&str>]| {
            failed += u64::from(cells == [Some(AssetStatus::Failed.as_str())]);
        };
        tables::scan(file, archive.format, &["status"], &mut count)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(failed)
}

/// For each place of a list, whether the answer is had.
#[derive(Debug)]
pub(crate) struct Known(Vec<bool>);

impl Known {
    /// Those tasks of the list that have their row in the archive.
    pub(crate) async fn archived(archive: &Archive, tasks: &TaskList) -> Result<Self> {
        let mut known = Self::nothing(tasks);
        if tasks.is_empty() {
            return Ok(known);
        }
        for path in archive.parts(TASKS.name).await? {
            let file = archive.store.open(&path).await?;
            let mut mark = |cells: &[Option<&str>]| {
                cells.iter().flatten().for_each(|id| known.mark(tasks, id));
            };
            tables::scan(file, archive.format, &["task_id"], &mut mark)
                .map_err(|error| archive.store.failed("read", &path, &error))?;
        }
        Ok(known)
    }

    /// None of them.
    pub(crate) fn nothing(tasks: &TaskList) -> Self {
        Self(vec![false; tasks.len()])
    }

    /// Those that an earlier run left in the journal: they are archived without asking.
    pub(crate) fn journalled(archive: &Archive, tasks: &TaskList) -> Result<Self> {
        let mut known = Self::nothing(tasks);
        for closed in journal::segments(&archive.journal_folder())? {
            let mut segment = Segment::open(&closed)?;
            while let Some(record) = segment.next()? {
                if let Record::Task { task_id, .. } | Record::NotFound { task_id, .. } = record {
                    known.mark(tasks, &task_id);
                }
            }
        }
        Ok(known)
    }

    /// These, and those as well.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(known, other)| *known |= other);
        self
    }

    /// Whether the answer for that place is had.
    pub(super) fn has(&self, place: usize) -> bool {
        self.0.get(place).copied().unwrap_or(false)
    }

    #[cfg(test)]
    pub(super) fn with(mut self, tasks: &TaskList, id: &str) -> Self {
        self.mark(tasks, id);
        self
    }

    fn mark(&mut self, tasks: &TaskList, id: &str) {
        if let Some(slot) = tasks.find(id).and_then(|index| self.0.get_mut(index.get())) {
            *slot = true;
        }
    }
}
