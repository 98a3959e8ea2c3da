//! Appends records, syncs, and only then acknowledges: one owner of the open segments.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    record::{Record, VERSION},
    split,
};
use crate::{
    error::{Error, Result},
    run_id::RunId,
};

/// When a segment is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    /// Answers, which is about rows of the tasks table.
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

/// Writes the segments of one run: answers into the one that is being filled, and what became of a
/// task's assets into the one that holds the task.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    folder: PathBuf,
    run_id: RunId,
    limits: SegmentLimits,
    next_part: u32,
    filling: Option<u32>,
    open: BTreeMap<u32, OpenSegment>,
}

/// A segment that nothing is added to any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClosedSegment {
    pub(crate) path: PathBuf,
    /// Tasks in it that are another segment's business.
    pub(crate) moved: HashSet<String>,
}

/// A segment that records are added to.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    path: PathBuf,
    file: File,
    bytes: u64,
    answers: u32,
    /// Tasks in it whose assets are not settled.
    unsettled: HashSet<String>,
}

impl JournalWriter {
    /// Writes into `folder`, which is there. No file is made before the first record.
    pub(crate) fn new(folder: &Path, run_id: RunId, limits: SegmentLimits) -> Self {
        Self { folder: folder.to_owned(), run_id, limits, next_part: 1, filling: None, open: BTreeMap::new() }
    }

    /// Appends answers, and tells the part that they will be in. When this returns they are on stable
    /// storage; if it fails, none of them may be taken as kept.
    pub(crate) fn append<'a>(&mut self, answers: impl IntoIterator<Item = &'a Record>) -> Result<u32> {
        let part = match self.filling {
            Some(part) => part,
            None => self.begin()?,
        };
        self.append_to(part, answers)?;
        let limits = self.limits;
        let is_full = |segment: &OpenSegment| segment.answers >= limits.records || segment.bytes >= limits.bytes;
        self.filling = Some(part).filter(|part| !self.open.get(part).is_some_and(is_full));
        Ok(part)
    }

    /// Appends records to the segment of that part, as durably.
    pub(crate) fn append_to<'a>(&mut self, part: u32, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let segment = self.open.get_mut(&part);
        segment.ok_or_else(|| Error::Internal(format!("the journal has no segment {part}")))?.append(records)
    }

    /// Takes the segments that are full, and whose tasks are all settled.
    pub(crate) fn take_complete(&mut self) -> Vec<ClosedSegment> {
        let filling = self.filling;
        let complete = |(part, segment): (&u32, &OpenSegment)| {
            (Some(*part) != filling && segment.unsettled.is_empty()).then_some(*part)
        };
        let parts: Vec<u32> = self.open.iter().filter_map(complete).collect();
        let segments = parts.iter().filter_map(|part| self.open.remove(part));
        segments.map(|segment| ClosedSegment { path: segment.path, moved: HashSet::new() }).collect()
    }

    /// Closes everything, and gives what can be published. Tasks that are not settled stay in the journal,
    /// in segments without any others.
    pub(crate) fn close(&mut self) -> Result<Vec<ClosedSegment>> {
        self.filling = None;
        let mut closed = self.take_complete();
        for (_, mut segment) in std::mem::take(&mut self.open) {
            if segment.answers as usize > segment.unsettled.len() {
                let into = self.next_part;
                self.next_part += 1;
                let moved = std::mem::take(&mut segment.unsettled);
                segment.append([&Record::Moved { part: into, tasks: moved.clone() }])?;
                let segment = ClosedSegment { path: segment.path, moved };
                split::write_moved(&segment, &self.run_id, into)?;
                closed.push(segment);
            }
        }
        Ok(closed)
    }

    fn begin(&mut self) -> Result<u32> {
        let part = self.next_part;
        let segment = OpenSegment::create(&self.folder, &self.run_id, part)?;
        self.next_part += 1;
        self.open.insert(part, segment);
        Ok(part)
    }
}

/// The name of a segment.
pub(super) fn path_of(folder: &Path, run_id: &RunId, part: u32) -> PathBuf {
    folder.join(format!("{run_id}-{part:04}.journal"))
}

impl OpenSegment {
    fn create(folder: &Path, run_id: &RunId, part: u32) -> Result<Self> {
        let path = path_of(folder, run_id, part);
        let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part };
        let file = File::create_new(&path).map_err(|error| Error::io("create", &path, &error))?;
        let mut segment = Self { path, file, bytes: 0, answers: 0, unsettled: HashSet::new() };
        segment.append([&header])?;
        sync_folder(folder)?;
        Ok(segment)
    }

    /// Goes on with a segment of which that many bytes are whole records.
    pub(super) fn reopen(path: &Path, whole: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        // What was cut short while it was written must not run into the next record.
        let file = file.and_then(|file| file.set_len(whole).map(|()| file));
        let file = file.map_err(|error| Error::io("open", path, &error))?;
        Ok(Self { path: path.to_owned(), file, bytes: whole, answers: 0, unsettled: HashSet::new() })
    }

    /// Appends the records. When this returns they are on stable storage.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            lines.extend(record.to_line());
            self.note(record);
        }
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
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
            Record::NotFound { .. } | Record::Unreadable { .. } => self.answers += 1,
            Record::Segment { .. } | Record::Moved { .. } => {}
        }
    }
}

/// Makes a new file's name survive a power loss. Only Unix lets a folder be opened for it.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", folder, &error))?;
    }
    Ok(())
}

impl ClosedSegment {
    /// Removes it, once what it holds stands in the archive.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io("remove", &self.path, &error))
    }
}
