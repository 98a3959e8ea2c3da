//! A segment some of whose tasks are settled, and some not, when a run ends: the settled ones are
//! published, the others move to a segment of their own and wait for the next run.
//!
//! The last record of the old segment says what moves, and is what counts: the new segment is written
//! from the old one after it, and again if a crash comes first. The old one goes before anything is added
//! to the new one.

use std::{fs::File, io::Write, path::Path};

use super::{
    reader::Segment,
    record::{Record, VERSION},
    segment::{ClosedSegment, path_of, sync_folder},
};
use crate::{
    error::{Error, Result},
    filesystem,
    run_id::RunId,
};

/// Writes the segment of the tasks that moved out of another one, whether it is there already or not.
pub(super) fn write_moved(from: &ClosedSegment, run_id: &RunId, part: u32) -> Result<()> {
    let folder = from.path.parent().unwrap_or(Path::new("."));
    let path = path_of(folder, run_id, part);
    let failed = |error| Error::io("write", &path, &error);
    let mut file = File::create(&path).map_err(failed)?;
    let mut segment = Segment::open(&from.path)?;
    let header = Record::Segment { version: VERSION, run_id: run_id.clone(), part, command: segment.command };
    file.write_all(&header.to_line()).map_err(failed)?;
    while let Some(record) = segment.next()? {
        if matches!(&record, Record::Task { task_id, .. } if from.moved.contains(task_id)) {
            file.write_all(&record.to_line()).map_err(failed)?;
        }
    }
    filesystem::sync_file(&file).map_err(failed)?;
    sync_folder(folder)
}
