//! The list of the tasks that a run did not archive: `runs/<run_id>-unfinished.csv`, which `export` accepts as input.

use csv::Writer;

use crate::{
    archive::{FileSink, LockedArchive, RunFile},
    error::{Error, Result},
    event::MissingReason,
    run_id::RunId,
};

/// A list that is being written. The list is streamed, because it can have as many rows as the input.
pub(super) struct MissingList<'a> {
    archive: &'a LockedArchive,
    path: String,
    csv: Writer<FileSink>,
}

impl<'a> MissingList<'a> {
    /// Creates the list with its header.
    pub(super) fn create(archive: &'a LockedArchive, run_id: &RunId) -> Result<Self> {
        let path = RunFile::Unfinished.path(run_id);
        let csv = Writer::from_writer(archive.sink(&path)?);
        let mut list = Self { archive, path, csv };
        list.write(["task_id", "reason", "detail"])?;
        Ok(list)
    }

    /// Adds a task.
    pub(super) fn add(&mut self, task_id: &str, reason: MissingReason, detail: &str) -> Result<()> {
        self.write([task_id, reason.as_str(), detail])
    }

    /// Publishes the list under its final name.
    pub(super) fn publish(self) -> Result<()> {
        let Self { archive, path, csv } = self;
        let sink = csv.into_inner().map_err(|error| storage_error(archive, &path, &error.into_error()))?;
        archive.publish_with_checksum(sink)
    }

    fn write(&mut self, row: [&str; 3]) -> Result<()> {
        self.csv.write_record(row).map_err(|error| storage_error(self.archive, &self.path, &error.into()))
    }
}

fn storage_error(archive: &LockedArchive, path: &str, error: &std::io::Error) -> Error {
    archive.store.storage_error("write", path, error)
}
