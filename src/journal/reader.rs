//! Reads segments back, and tells a write cut short from damage.

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

/// The segments in a folder, oldest first.
pub(crate) fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder, &error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(|error| Error::io("read", folder, &error))?;
    paths.retain(|path| named(path).is_some());
    paths.sort_by_cached_key(|path| (named(path), path.clone()));
    Ok(paths)
}

/// A segment being read, record by record: memory holds one at a time.
#[derive(Debug)]
pub(crate) struct Segment<R = BufReader<File>> {
    path: PathBuf,
    lines: R,
    line: Vec<u8>,
    /// The run that wrote it.
    pub(crate) run_id: RunId,
    /// Its number in the run, from 1.
    pub(crate) part: u32,
    /// The command of the run.
    pub(crate) command: RunCommand,
    /// Records so far that are not what was written.
    pub(crate) damaged: u64,
    /// Bytes so far that are whole lines.
    pub(super) whole: u64,
}

impl Segment {
    /// Opens a segment and reads its header; if it is damaged, the file's name gives the same values.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let refused = |reason: &str| Error::Storage {
            action: "read",
            path: path.display().to_string(),
            reason: reason.to_owned(),
            advice: Advice::None,
        };
        let (run_id, part) = named(path).ok_or_else(|| refused("its name is not a segment's"))?;
        let file = filesystem::open_regular(path).map_err(|error| Error::io("open", path, &error))?;
        let lines = BufReader::new(file);
        let mut segment = Self {
            path: path.to_owned(),
            lines,
            line: Vec::new(),
            run_id,
            part,
            command: RunCommand::Export,
            damaged: 0,
            whole: 0,
        };
        match segment.next_line()? {
            Line::Record(Record::Segment { version, .. }) if version > VERSION => {
                Err(refused("a newer version of this program wrote it; use that one"))
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

impl<R: BufRead> Segment<R> {
    /// A segment that is in no file.
    #[cfg(fuzzing)]
    pub(crate) fn of_bytes(lines: R, run_id: RunId, part: u32) -> Self {
        Self {
            path: PathBuf::new(),
            lines,
            line: Vec::new(),
            run_id,
            part,
            command: RunCommand::Export,
            damaged: 0,
            whole: 0,
        }
    }

    /// The next record that is whole; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
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
        // A line without a line feed was interrupted while it was written, and never acknowledged.
        let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(Line::End) };
        self.whole += self.line.len() as u64;
        Ok(Record::from_line(line).map_or(Line::Damaged, Line::Record))
    }
}

enum Line {
    Record(Record),
    Damaged,
    End,
}

/// Whether a file is a segment, by its name.
pub(crate) fn is_segment(path: &Path) -> bool {
    named(path).is_some()
}

/// The run and the number in a segment's name; `None` for any other file.
fn named(path: &Path) -> Option<(RunId, u32)> {
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

    /// A closed segment of `count` records in a folder of its own.
    fn written(count: usize) -> (tempfile::TempDir, ClosedSegment) {
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
        let mut reader = Segment::open(&segment.path).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            records.push(record);
        }
        (records, reader.damaged)
    }

    #[test]
    fn what_was_appended_is_read_in_order() {
        let (folder, segment) = written(5);
        assert_eq!(read(&segment), ((0..5).map(record).collect(), 0));
        assert_eq!(segments(folder.path()).unwrap(), std::slice::from_ref(&segment.path));
        let reader = Segment::open(&segment.path).unwrap();
        assert_eq!((reader.run_id.as_str(), reader.part), ("20260101T000000000Z-abcdef", 1));
    }

    #[test]
    fn cut_at_any_byte_all_whole_records_are_read_and_nothing_counts_as_damage() {
        let (_folder, segment) = written(4);
        let whole = fs::read(&segment.path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&segment.path, &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().map(|byte| usize::from(*byte == b'\n')).sum::<usize>();
            let expected: Vec<Record> = (0..lines.saturating_sub(1)).map(record).collect();
            assert_eq!(read(&segment), (expected, 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_byte_flipped_anywhere_loses_only_its_own_record_and_is_counted() {
        let (_folder, segment) = written(4);
        let whole = fs::read(&segment.path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x04;
            fs::write(&segment.path, &bytes).unwrap();
            let (records, damaged) = read(&segment);
            // A flipped line feed joins two records, a new one splits one: both spoil at most two.
            assert!((1..=2).contains(&damaged), "flipped at {at}: {damaged}");
            assert!(records.len() >= 2, "flipped at {at}: {}", records.len());
            assert!(records.iter().all(|found| (0..4).any(|n| record(n) == *found)));
        }
    }

    #[test]
    fn a_full_segment_is_closed_and_the_next_part_begins() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SegmentLimits { records: 2, bytes: u64::MAX };
        let mut writer = JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, limits);
        let closed = (0..5).map(|n| {
            writer.append([&record(n)]).unwrap();
            writer.take_complete().len()
        });
        assert_eq!(closed.collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
        writer.close().unwrap();
        let parts: Vec<u32> = segments(folder.path()).unwrap().iter().map(|s| Segment::open(s).unwrap().part).collect();
        assert_eq!(parts, [1, 2, 3]);
    }

    #[test]
    fn a_segment_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("20260101T000000000Z-abcdef-0001.journal");
        let header =
            Record::Segment { version: VERSION + 1, run_id: RunId::example(), part: 1, command: RunCommand::Export };
        fs::write(&path, header.to_line()).unwrap();
        assert!(Segment::open(&path).unwrap_err().to_string().contains("newer version"));
    }
}
