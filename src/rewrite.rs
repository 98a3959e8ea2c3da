//! Code shared by the commands that rewrite tables. This module determines which parts may be rewritten, whether these
//! parts are intact, and how large new parts are.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    archive::{Archive, StagedPart},
    checksum,
    error::Result,
    event::{Event, Rewriting},
    exit::ExitStatus,
    journal,
    tables::{self, Digest, TableSchema},
};

/// The maximum number of rows in a new part, which is the number of rows in four large row groups.
pub(crate) const MAX_PART_ROWS: u64 = 4 * 122_880;

/// The file size, in bytes, at which a new part is complete.
pub(crate) const TARGET_PART_BYTES: u64 = 512 << 20;

/// The interval between progress events.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A callback that receives events.
pub(crate) type EventSink<'a> = &'a mut dyn FnMut(&Event);

/// An existing part of a table.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The path of the part in the archive.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// The number of rows, or `None` if the part is classified as large by its file size.
    rows: Option<u64>,
}

impl Part {
    /// The number of rows, or 0 if the part is classified as large by its file size.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.unwrap_or_default()
    }

    /// Whether the part is large enough to remain unchanged. A part that was written up to a size limit is always large
    /// enough.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes >= TARGET_PART_BYTES / 2 || self.rows.is_none_or(|rows| rows >= MAX_PART_ROWS / 2)
    }
}

/// The parts of a table, oldest first, and the number of excluded parts. A part whose segment is still in the journal
/// is excluded, because the segment will be published again under the same name.
pub(crate) fn parts(archive: &Archive, table: &str) -> Result<(Vec<Part>, u64)> {
    let unpublished = unpublished_stems(archive)?;
    let (mut parts, mut excluded) = (Vec::new(), 0);
    for path in archive.parts(table)? {
        if unpublished.contains(stem(&path)) {
            excluded += 1;
            continue;
        }
        let bytes = archive.size(&path).map_err(|error| archive.store.storage_error("read", &path, &error))?;
        let bytes = bytes.unwrap_or_default();
        let rows = if bytes >= TARGET_PART_BYTES / 2 {
            None
        } else {
            Some(archive.read_part(&path, |file| tables::count_rows(file, archive.format))?)
        };
        parts.push(Part { path, bytes, rows });
    }
    Ok((parts, excluded))
}

/// The names, without extensions, of parts whose segments are still in the journal.
pub(crate) fn unpublished_stems(archive: &Archive) -> Result<HashSet<String>> {
    let segments = journal::segments(&archive.journal_folder())?;
    Ok(segments.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
}

/// The name of a part without its folder and extension.
pub(crate) fn stem(path: &str) -> &str {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// The checksums of parts, as listed in the manifests. A part is checked before its rows are copied, so that damaged
/// rows are not given a new, matching checksum.
pub(crate) struct Checksums(HashMap<String, String>);

impl Checksums {
    /// Reads the checksums of the given parts from the manifests.
    pub(crate) fn read<'a>(archive: &Archive, paths: impl Iterator<Item = &'a str>) -> Result<Self> {
        let paths: HashSet<&str> = paths.collect();
        let lines = archive.manifest_lines(&|path| paths.contains(path))?;
        Ok(Self(lines.into_iter().map(|line| (line.path, line.sha256)).collect()))
    }

    /// Returns an error if a part does not match its checksum. A part that no manifest lists is accepted.
    pub(crate) fn check(&self, archive: &Archive, path: &str) -> Result<()> {
        let Some(expected) = self.0.get(path) else { return Ok(()) };
        let found = archive.read_part(path, |mut file| checksum::digest(&mut file))?;
        if found.sha256 == *expected {
            return Ok(());
        }
        let damaged =
            io::Error::other("it is damaged: the SHA-256 checksum does not match the manifest; no changes were made");
        Err(archive.store.storage_error("use", path, &damaged))
    }
}

/// Adds the rows of a part to a digest.
pub(crate) fn add_part(digest: &mut Digest, archive: &Archive, path: &str, schema: &TableSchema) -> Result<()> {
    archive.read_part(path, |file| digest.add(file, archive.format, schema))
}

/// Adds the rows of a staged part, which is not yet in its table, to a digest.
pub(crate) fn add_staged_part(
    digest: &mut Digest,
    archive: &Archive,
    part: &StagedPart,
    schema: &TableSchema,
) -> Result<()> {
    let added = digest.add(part.open()?, archive.format, schema);
    added.map_err(|error| archive.store.storage_error("read", schema.name, &error))
}

/// Reports the progress of a table rewrite at regular intervals.
pub(crate) struct ProgressTicker {
    table: &'static str,
    due: Instant,
}

impl ProgressTicker {
    pub(crate) fn new(table: &'static str) -> Self {
        Self { table, due: Instant::now() }
    }

    /// Reports progress if [`REPORT_INTERVAL`] has passed since the last report.
    pub(crate) fn report(&mut self, emit: EventSink<'_>, label: &'static str, done: u64, total: u64) {
        if Instant::now() >= self.due {
            self.due = Instant::now() + REPORT_INTERVAL;
            emit(&Event::Rewriting(Rewriting { table: self.table, label, done, total }));
        }
    }
}

/// The event that reports the successful end of a command that rewrites tables.
pub(crate) fn finished(started: Instant) -> Event {
    let exit_code = ExitStatus::Complete.code();
    let run_seconds = started.elapsed().as_secs_f64();
    Event::Finished { at: Timestamp::now(), run_seconds, exit_code, interrupted: false }
}
