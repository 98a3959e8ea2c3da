//! The journal writer, which owns the open segments and syncs appended records before it acknowledges them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    record::Record,
    segment::{ClosedSegment, OpenSegment},
    split,
};
use crate::{
    error::{Error, Result},
    run_id::RunId,
    run_summary::RunCommand,
};

/// The limits at which a segment is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    /// The number of responses at which a segment is full. Most responses add one row to the tasks table, so this limit
    /// is also the approximate maximum number of rows in a part of the tasks table.
    pub(crate) responses: u32,
    /// The size, in bytes, at which a segment is full. This limit bounds the amount of data that must be read to
    /// publish the segment or to recover it after a crash.
    pub(crate) bytes: u64,
}

impl Default for SegmentLimits {
    /// DuckDB reads a part with about 100,000 rows efficiently. A segment of 256 MiB contains almost 100,000 tasks.
    fn default() -> Self {
        Self { responses: 100_000, bytes: 256 << 20 }
    }
}

impl SegmentLimits {
    /// The limits for a repair. Smaller segments are published more often, so lost rows are restored sooner.
    pub(crate) const REPAIR: Self = Self { responses: 5_000, bytes: 64 << 20 };
}

/// Writes the segments of one run. Responses are appended to the current segment. The outcomes of a task's assets are
/// appended to the segment that contains the task.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    folder: PathBuf,
    run_id: RunId,
    command: RunCommand,
    limits: SegmentLimits,
    next_part: u32,
    current_part: Option<u32>,
    open: BTreeMap<u32, OpenSegment>,
}

impl JournalWriter {
    /// Creates a writer for an existing folder. No file is created until the first response is appended or
    /// [`begin_run`](Self::begin_run) is called.
    pub(crate) fn new(folder: &Path, run_id: RunId, command: RunCommand, limits: SegmentLimits) -> Self {
        let (folder, open) = (folder.to_owned(), BTreeMap::new());
        Self { folder, run_id, command, limits, next_part: 1, current_part: None, open }
    }

    /// Appends responses and returns the part number of their segment. When this function returns successfully, the
    /// responses are on stable storage. After an error, the caller must treat all of these responses as lost.
    pub(crate) fn append<'a>(&mut self, responses: impl IntoIterator<Item = &'a Record>) -> Result<u32> {
        let part = match self.current_part {
            Some(part) => part,
            None => self.open_segment()?,
        };
        self.append_to(part, responses)?;
        let limits = self.limits;
        let is_full = |segment: &OpenSegment| segment.responses >= limits.responses || segment.bytes >= limits.bytes;
        self.current_part = Some(part).filter(|part| !self.open.get(part).is_some_and(is_full));
        Ok(part)
    }

    /// Appends records to the segment with the given part number. When this function returns successfully, the records
    /// are on stable storage.
    pub(crate) fn append_to<'a>(&mut self, part: u32, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let segment = self.open.get_mut(&part);
        segment.ok_or_else(|| Error::Internal(format!("the journal has no segment {part}")))?.append(records)
    }

    /// Removes and returns the full segments without pending assets.
    pub(crate) fn take_settled_segments(&mut self) -> Vec<ClosedSegment> {
        let current_part = self.current_part;
        let complete = |(part, segment): (&u32, &OpenSegment)| {
            (Some(*part) != current_part && segment.unsettled.is_empty()).then_some(*part)
        };
        let parts: Vec<u32> = self.open.iter().filter_map(complete).collect();
        let segments = parts.iter().filter_map(|part| self.open.remove(part));
        segments
            .map(|segment| ClosedSegment {
                path: segment.path,
                excluded: HashSet::new(),
                superseded_outcomes: HashMap::new(),
            })
            .collect()
    }

    /// Closes all segments and returns the segments that can be published. Tasks with pending assets stay in the
    /// journal, in segments that contain only such tasks.
    pub(crate) fn close(&mut self) -> Result<Vec<ClosedSegment>> {
        self.current_part = None;
        let mut closed = self.take_settled_segments();
        for (_, mut segment) in std::mem::take(&mut self.open) {
            if segment.responses as usize > segment.unsettled.len() {
                let split_target = self.next_part;
                self.next_part += 1;
                let moved = std::mem::take(&mut segment.unsettled);
                segment.append([&Record::Moved { part: split_target, tasks: moved.clone() }])?;
                let segment =
                    ClosedSegment { path: segment.path, excluded: moved, superseded_outcomes: HashMap::new() };
                split::write_split_segment(&segment, &self.run_id, split_target)?;
                closed.push(segment);
            }
        }
        Ok(closed)
    }

    /// Creates the first segment at the start of a run, so that the run leaves a trace even if it is killed before the
    /// first response arrives.
    pub(crate) fn begin_run(&mut self) -> Result<()> {
        self.current_part = Some(self.open_segment()?);
        Ok(())
    }

    fn open_segment(&mut self) -> Result<u32> {
        let part = self.next_part;
        let segment = OpenSegment::create(&self.folder, &self.run_id, part, self.command)?;
        self.next_part += 1;
        self.open.insert(part, segment);
        Ok(part)
    }
}
