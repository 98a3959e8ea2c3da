//! Appends records, syncs, and only then acknowledges: one owner of the open segment.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::record::{Record, VERSION};
use crate::{
    error::{Error, Result},
    run_id::RunId,
};

/// When a segment is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    /// Records, which is about rows of the tasks table.
    pub(crate) records: u32,
    /// Bytes, which bounds what a publication reads and what a crash leaves to do.
    pub(crate) bytes: u64,
}

impl Default for SegmentLimits {
    /// 100,000 tasks make a row group of the size that DuckDB reads best; 256 MiB hold nearly as many.
    fn default() -> Self {
        Self { records: 100_000, bytes: 256 << 20 }
    }
}

/// Writes the segments of one run.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    folder: PathBuf,
    run_id: RunId,
    limits: SegmentLimits,
    next_part: u32,
    open: Option<OpenSegment>,
}

/// A segment that nothing is added to any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClosedSegment(pub(crate) PathBuf);

/// Where records went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The part that their segment becomes.
    pub(crate) part: u32,
    /// The segment, closed, if it is full by now.
    pub(crate) full: Option<ClosedSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    part: u32,
    path: PathBuf,
    file: File,
    bytes: u64,
    records: u32,
}

impl JournalWriter {
    /// Writes into `folder`, which is there. No file is made before the first record.
    pub(crate) fn new(folder: &Path, run_id: RunId, limits: SegmentLimits) -> Self {
        Self { folder: folder.to_owned(), run_id, limits, next_part: 1, open: None }
    }

    /// Appends the records. When this returns they are on stable storage; if it fails, none of them may
    /// be taken as kept.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<Appended> {
        let segment = match &mut self.open {
            Some(segment) => segment,
            None => {
                let segment = OpenSegment::create(&self.folder, &self.run_id, self.next_part)?;
                self.next_part += 1;
                self.open.insert(segment)
            }
        };
        segment.append(records)?;
        let part = segment.part;
        let is_full = segment.records >= self.limits.records || segment.bytes >= self.limits.bytes;
        Ok(Appended { part, full: if is_full { self.close() } else { None } })
    }

    /// Closes the open segment, if there is one.
    pub(crate) fn close(&mut self) -> Option<ClosedSegment> {
        self.open.take().map(|segment| ClosedSegment(segment.path))
    }
}

impl OpenSegment {
    fn create(folder: &Path, run_id: &RunId, part: u32) -> Result<Self> {
        let path = folder.join(format!("{run_id}-{part:04}.journal"));
        let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part };
        let file = File::create_new(&path).map_err(|error| Error::io("create", &path, &error))?;
        let mut segment = Self { part, path, file, bytes: 0, records: 0 };
        segment.append([&header])?;
        segment.records = 0;
        sync_folder(folder)?;
        Ok(segment)
    }

    fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            lines.extend(record.to_line());
            self.records += 1;
        }
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io("write", &self.path, &error))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

/// Makes a new file's name survive a power loss. Only Unix lets a folder be opened for it.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", folder, &error))?;
    }
    Ok(())
}

impl ClosedSegment {
    /// Removes it, once what it holds stands in the archive.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.0).map_err(|error| Error::io("remove", &self.0, &error))
    }
}
