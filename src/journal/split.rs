//! At the end of a run, splits each segment in which only some of the tasks have pending assets. The tasks without
//! pending assets are published. The tasks with pending assets move to a new segment, which the next run recovers.
//!
//! The last record of the old segment lists the tasks that move to the new segment. Once this record is durable, the
//! tasks are copied from the old segment to the new segment. If a crash interrupts the copy, the next run writes the
//! new segment again. The old segment is removed before any record is appended to the new segment.

use std::{fs::File, io::Write, path::Path};

use super::{
    reader::SegmentReader,
    record::{Record, VERSION},
    segment::{ClosedSegment, segment_path, sync_folder},
};
use crate::{
    error::{Error, Result},
    filesystem,
    run_id::RunId,
};

/// Writes a new segment with the tasks that moved out of `from`. Overwrites the new segment if it already exists.
pub(super) fn write_split_segment(from: &ClosedSegment, run_id: &RunId, part: u32) -> Result<()> {
    let folder = from.path.parent().unwrap_or(Path::new("."));
    let path = segment_path(folder, run_id, part);
    let failed = |error| Error::io("write", &path, &error);
    let mut file = File::create(&path).map_err(failed)?;
    let mut segment = SegmentReader::open(&from.path)?;
    let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part, command: segment.command };
    file.write_all(&header.to_line()).map_err(failed)?;
    while let Some(record) = segment.next_record()? {
        if matches!(&record, Record::Task { task_id, .. } if from.excluded.contains(task_id)) {
            file.write_all(&record.to_line()).map_err(failed)?;
        }
    }
    filesystem::sync_file(&file).map_err(failed)?;
    sync_folder(folder)
}
