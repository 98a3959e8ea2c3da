//! Reads journal segments, and distinguishes incomplete writes from damaged records.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::record::{Record, VERSION};
use crate::{
    error::{Advice, Error, Result},
    filesystem,
    run_id::RunId,
    run_summary::RunCommand,
};

/// Lists the segments in a folder, oldest first.
pub(crate) fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder, &error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(|error| Error::io("read", folder, &error))?;
    paths.retain(|path| parse_segment_name(path).is_some());
    paths.sort_by_cached_key(|path| (parse_segment_name(path), path.clone()));
    Ok(paths)
}

/// A reader for a segment. Only one record at a time is held in memory.
#[derive(Debug)]
pub(crate) struct SegmentReader<R = BufReader<File>> {
    path: PathBuf,
    lines: R,
    line: Vec<u8>,
    /// The ID of the run that wrote the segment.
    pub(crate) run_id: RunId,
    /// The number of the segment within the run, starting at 1.
    pub(crate) part: u32,
    /// The command of the run, or `export` if the header is damaged.
    pub(crate) command: RunCommand,
    /// The number of damaged records found so far.
    pub(crate) damaged: u64,
    /// The number of bytes in the complete lines read so far.
    pub(super) complete_bytes: u64,
}

impl SegmentReader {
    /// Opens a segment and reads its header. If the header is damaged, the run ID and the part number from the file
    /// name are used.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let rejection = |reason: &str| Error::Storage {
            action: "read",
            path: path.display().to_string(),
            reason: reason.to_owned(),
            advice: Advice::None,
        };
        let (run_id, part) = parse_segment_name(path).ok_or_else(|| rejection("invalid segment name"))?;
        let file = filesystem::open_regular(path).map_err(|error| Error::io("open", path, &error))?;
        let lines = BufReader::new(file);
        let mut segment = Self::new(path.to_owned(), lines, run_id, part);
        match segment.next_line()? {
            Line::Record(Record::Segment { version, .. }) if version > VERSION => {
                Err(rejection("written by a newer version of sunor-archive; upgrade sunor-archive"))
            }
            Line::Record(Record::Segment { run_id, part, command, .. })
                if run_id == segment.run_id && part == segment.part =>
            {
                segment.command = command;
                Ok(segment)
            }
            Line::Damaged | Line::Record(_) => {
                segment.damaged += 1;
                Ok(segment)
            }
            Line::End => Ok(segment),
        }
    }
}

impl<R: BufRead> SegmentReader<R> {
    fn new(path: PathBuf, lines: R, run_id: RunId, part: u32) -> Self {
        let command = RunCommand::Export;
        Self { path, lines, line: Vec::new(), run_id, part, command, damaged: 0, complete_bytes: 0 }
    }

    /// Creates a reader for a segment that is held in memory.
    #[cfg(fuzzing)]
    pub(crate) fn from_bytes(lines: R, run_id: RunId, part: u32) -> Self {
        Self::new(PathBuf::new(), lines, run_id, part)
    }

    /// Returns the next intact record, or `None` at the end of the segment.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            match self.next_line()? {
                Line::Record(record) => return Ok(Some(record)),
                Line::Damaged => self.damaged += 1,
                Line::End => return Ok(None),
            }
        }
    }

    fn next_line(&mut self) -> Result<Line> {
        self.line.clear();
        self.lines.read_until(b'\n', &mut self.line).map_err(|error| Error::io("read", &self.path, &error))?;
        // A line without a line feed is an incomplete write that was never acknowledged.
        let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(Line::End) };
        self.complete_bytes += self.line.len() as u64;
        Ok(Record::from_line(line).map_or(Line::Damaged, Line::Record))
    }
}

enum Line {
    Record(Record),
    Damaged,
    End,
}

/// Returns whether a file has a valid segment name.
pub(crate) fn is_segment(path: &Path) -> bool {
    parse_segment_name(path).is_some()
}

/// Parses the run ID and the part number from the file name of a segment. Returns `None` if the file name is not a
/// valid segment name.
fn parse_segment_name(path: &Path) -> Option<(RunId, u32)> {
    RunId::parse_numbered(path.file_name()?.to_str()?.strip_suffix(".journal")?)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{segment::ClosedSegment, writer::*},
        *,
    };

    fn record(n: usize) -> Record {
        Record::Unreadable { task_id: format!("t{n}"), body: "x\n".repeat(n) }
    }

    /// Writes a closed segment with `count` records to a new temporary folder.
    fn write_segment(count: usize) -> (tempfile::TempDir, ClosedSegment) {
        let folder = tempfile::tempdir().unwrap();
        let run_id = RunId::parse("20260101T000000000Z-abcdef").unwrap();
        let mut writer = JournalWriter::new(folder.path(), run_id, RunCommand::Export, SegmentLimits::default());
        for n in 0..count {
            assert_eq!(writer.append([&record(n)]).unwrap(), 1);
        }
        let segment = writer.close().unwrap().remove(0);
        (folder, segment)
    }

    fn read(segment: &ClosedSegment) -> (Vec<Record>, u64) {
        let mut reader = SegmentReader::open(&segment.path).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            records.push(record);
        }
        (records, reader.damaged)
    }

    #[test]
    fn records_are_read_in_append_order() {
        let (folder, segment) = write_segment(5);
        assert_eq!(read(&segment), ((0..5).map(record).collect(), 0));
        assert_eq!(segments(folder.path()).unwrap(), std::slice::from_ref(&segment.path));
        let reader = SegmentReader::open(&segment.path).unwrap();
        assert_eq!((reader.run_id.as_str(), reader.part), ("20260101T000000000Z-abcdef", 1));
    }

    #[test]
    fn a_truncated_segment_yields_all_complete_records_without_damage() {
        let (_folder, segment) = write_segment(4);
        let content = fs::read(&segment.path).unwrap();
        for cut in 0..=content.len() {
            fs::write(&segment.path, &content[..cut]).unwrap();
            let lines = content[..cut].iter().map(|byte| usize::from(*byte == b'\n')).sum::<usize>();
            let expected: Vec<Record> = (0..lines.saturating_sub(1)).map(record).collect();
            assert_eq!(read(&segment), (expected, 0), "truncated to {cut} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_damages_at_most_two_records_and_they_are_counted() {
        let (_folder, segment) = write_segment(4);
        let content = fs::read(&segment.path).unwrap();
        for at in 0..content.len() - 1 {
            let mut bytes = content.clone();
            bytes[at] ^= 0x04;
            fs::write(&segment.path, &bytes).unwrap();
            let (records, damaged) = read(&segment);
            // The flipped bit can remove a line feed, which joins two lines, or create a line feed, which splits a line
            // into two damaged lines.
            assert!((1..=2).contains(&damaged), "bit flipped in byte {at}: {damaged} damaged records");
            assert!(records.len() >= 2, "bit flipped in byte {at}: {} intact records", records.len());
            assert!(records.iter().all(|found| (0..4).any(|n| record(n) == *found)));
        }
    }

    #[test]
    fn a_full_segment_is_closed_and_the_next_part_begins() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SegmentLimits { responses: 2, bytes: u64::MAX };
        let mut writer = JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, limits);
        let closed = (0..5).map(|n| {
            writer.append([&record(n)]).unwrap();
            writer.take_settled_segments().len()
        });
        assert_eq!(closed.collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
        writer.close().unwrap();
        let parts: Vec<u32> =
            segments(folder.path()).unwrap().iter().map(|s| SegmentReader::open(s).unwrap().part).collect();
        assert_eq!(parts, [1, 2, 3]);
    }

    #[test]
    fn a_segment_of_a_newer_version_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("20260101T000000000Z-abcdef-0001.journal");
        let header =
            Record::Segment { version: VERSION + 1, run_id: RunId::example(), part: 1, command: RunCommand::Export };
        fs::write(&path, header.to_line()).unwrap();
        assert!(SegmentReader::open(&path).unwrap_err().to_string().contains("newer version"));
    }
}
