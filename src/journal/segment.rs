//! Journal segment files, which are either open for appending or closed.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use super::record::{Record, VERSION};
use crate::{
    error::{Error, Result},
    filesystem,
    run_id::RunId,
    run_summary::RunCommand,
};

/// A closed segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClosedSegment {
    pub(crate) path: PathBuf,
    /// The tasks that are not published from this segment, because they moved to another segment or are already
    /// archived.
    pub(crate) excluded: HashSet<String>,
    /// Maps a task ID to the number of its [`Record::Assets`] records that are superseded by a later record.
    pub(crate) superseded_outcomes: HashMap<String, u32>,
}

/// A segment that is open for appending.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(super) path: PathBuf,
    file: File,
    pub(super) bytes: u64,
    pub(super) responses: u32,
    /// The tasks with pending assets in the segment.
    pub(super) unsettled: HashSet<String>,
}

/// Returns the path of a segment.
pub(super) fn segment_path(folder: &Path, run_id: &RunId, part: u32) -> PathBuf {
    folder.join(format!("{run_id}-{part:04}.journal"))
}

impl OpenSegment {
    pub(super) fn create(folder: &Path, run_id: &RunId, part: u32, command: RunCommand) -> Result<Self> {
        let path = segment_path(folder, run_id, part);
        let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part, command };
        let file = File::create_new(&path).map_err(|error| Error::io("create", &path, &error))?;
        let mut segment = Self { path, file, bytes: 0, responses: 0, unsettled: HashSet::new() };
        segment.append([&header])?;
        sync_folder(folder)?;
        Ok(segment)
    }

    /// Reopens a segment for appending. `complete_bytes` is the total length of the complete records, in bytes.
    pub(super) fn reopen(path: &Path, complete_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        // An incomplete record at the end of the file is removed, so that the next record starts on a new line.
        let file = file.and_then(|file| file.set_len(complete_bytes).map(|()| file));
        let file = file.map_err(|error| Error::io("open", path, &error))?;
        Ok(Self { path: path.to_owned(), file, bytes: complete_bytes, responses: 0, unsettled: HashSet::new() })
    }

    /// Appends records. When this function returns successfully, the records are on stable storage.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            record.append_line(&mut lines);
            self.track(record);
        }
        let written = self.file.write_all(&lines).and_then(|()| filesystem::sync_data(&self.file));
        written.map_err(|error| Error::io("write", &self.path, &error))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn track(&mut self, record: &Record) {
        match record {
            Record::Task { task_id, assets, .. } => {
                self.responses += 1;
                if !assets.is_empty() {
                    self.unsettled.insert(task_id.clone());
                }
            }
            Record::Assets { task_id, .. } => {
                self.unsettled.remove(task_id);
            }
            Record::NotFound { .. } | Record::Unreadable { .. } | Record::AddedAssets { .. } => self.responses += 1,
            Record::Segment { .. } | Record::Moved { .. } => {}
        }
    }
}

/// Makes the entries of the folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    filesystem::sync_folder(folder).map_err(|error| Error::io("sync", folder, &error))
}

impl ClosedSegment {
    /// Removes the segment file after its rows have been published.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io("remove", &self.path, &error))
    }
}
