//! Appends records, syncs, and only then acknowledges: one owner of the open segments.

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

impl SegmentLimits {
    /// A repair publishes more often, so that some of the lost rows are back soon.
    pub(crate) const REPAIR: Self = Self { records: 5_000, bytes: 64 << 20 };
}

/// Writes the segments of one run: answers into the one that is being filled, and what became of a
/// task's assets into the one that holds the task.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    folder: PathBuf,
    run_id: RunId,
    command: RunCommand,
    limits: SegmentLimits,
    next_part: u32,
    filling: Option<u32>,
    open: BTreeMap<u32, OpenSegment>,
}

impl JournalWriter {
    /// Writes into `folder`, which is there. No file is made before the first record.
    pub(crate) fn new(folder: &Path, run_id: RunId, command: RunCommand, limits: SegmentLimits) -> Self {
        Self { folder: folder.to_owned(), run_id, command, limits, next_part: 1, filling: None, open: BTreeMap::new() }
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
        segments
            .map(|segment| ClosedSegment { path: segment.path, moved: HashSet::new(), outdated: HashMap::new() })
            .collect()
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
                let segment = ClosedSegment { path: segment.path, moved, outdated: HashMap::new() };
                split::write_moved(&segment, &self.run_id, into)?;
                closed.push(segment);
            }
        }
        Ok(closed)
    }

    /// Creates the first segment before the first response arrives: a run that is killed until then leaves a trace.
    pub(crate) fn begin_run(&mut self) -> Result<()> {
        self.filling = Some(self.begin()?);
        Ok(())
    }

    fn begin(&mut self) -> Result<u32> {
        let part = self.next_part;
        let segment = OpenSegment::create(&self.folder, &self.run_id, part, self.command)?;
        self.next_part += 1;
        self.open.insert(part, segment);
        Ok(part)
    }
}
