//! A segment as a file: one that records are added to, and one that is closed.

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
    /// Tasks in it that belong to another segment, or that the archive has already.
    pub(crate) moved: HashSet<String>,
    /// Tasks whose assets were settled more than once, and how many of their outcomes a later one replaces.
    pub(crate) outdated: HashMap<String, u32>,
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(super) path: PathBuf,
    file: File,
    pub(super) bytes: u64,
    pub(super) answers: u32,
    /// Tasks in it whose assets are not settled.
    pub(super) unsettled: HashSet<String>,
}

/// The name of a segment.
pub(super) fn path_of(folder: &Path, run_id: &RunId, part: u32) -> PathBuf {
    folder.join(format!("{run_id}-{part:04}.journal"))
}

impl OpenSegment {
    pub(super) fn create(folder: &Path, run_id: &RunId, part: u32, command: RunCommand) -> Result<Self> {
        let path = path_of(folder, run_id, part);
        let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part, command };
        let file = File::create_new(&path).map_err(|error| Error::io("create", &path, &error))?;
        let mut segment = Self { path, file, bytes: 0, answers: 0, unsettled: HashSet::new() };
        segment.append([&header])?;
        sync_folder(folder)?;
        Ok(segment)
    }

    /// Reopens a segment with that many bytes of complete records.
    pub(super) fn reopen(path: &Path, whole: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        // A torn record at the end must not run into the next one.
        let file = file.and_then(|file| file.set_len(whole).map(|()| file));
        let file = file.map_err(|error| Error::io("open", path, &error))?;
        Ok(Self { path: path.to_owned(), file, bytes: whole, answers: 0, unsettled: HashSet::new() })
    }

    /// Appends the records. When this returns they are on stable storage.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            record.append_line(&mut lines);
            self.note(record);
        }
        let written = self.file.write_all(&lines).and_then(|()| filesystem::sync_data(&self.file));
        written.map_err(|error| Error::io("write", &self.path, &error))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn note(&mut self, record: &Record) {
        match record {
            Record::Task { task_id, assets, .. } => {
                self.answers += 1;
                if !assets.is_empty() {
                    self.unsettled.insert(task_id.clone());
                }
            }
            Record::Assets { task_id, .. } => {
                self.unsettled.remove(task_id);
            }
            Record::NotFound { .. } | Record::Unreadable { .. } | Record::AddedAssets { .. } => self.answers += 1,
            Record::Segment { .. } | Record::Moved { .. } => {}
        }
    }
}

/// Makes a new file's name survive a power loss.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    filesystem::sync_folder(folder).map_err(|error| Error::io("sync", folder, &error))
}

impl ClosedSegment {
    /// Removes it, once its rows are published.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io("remove", &self.path, &error))
    }
}
