//! The `rebuild` command: regenerates the clips and lyrics tables from the `tasks.response` column, offline.

use std::{io, sync::Arc, time::Instant};

use jiff::Timestamp;

use super::run::record_rewrite;
use crate::{
    archive::{Archive, Location, LockedArchive, NewPart, Swap},
    error::{Error, Result},
    event::Event,
    export,
    report::{self, RebuiltTable, Reporter},
    rewrite::{self, Checksums, EventSink, MAX_PART_ROWS, ProgressTicker},
    rows,
    run_id::RunId,
    run_summary::RunCommand,
    status::FinalStatus,
    tables::{self, CLIPS, ClipRow, FetchInfo, LYRICS, LyricsRow, PartEncoder, RowGroups, Rows, TASKS, Table},
    timestamp::MicrosTimestamp,
};

/// Regenerates the clips and lyrics tables, and returns a report for the user.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, [`Error::Locked`] if another process holds the
/// lock, and [`Error::Storage`] if a part of the tasks table is damaged or the disk is full. After an error, each
/// table is either unchanged or fully regenerated.
pub fn rebuild(archive: &Location, reporter: &mut dyn Reporter) -> Result<String> {
    let start = (Timestamp::now(), Instant::now());
    let emit = &mut |event: &Event| reporter.observe(event);
    let locked = Arc::new(LockedArchive::open(archive, &tables::TABLES, start.0)?);
    let run_id = RunId::new(start.0);
    let done = rebuild_tables(&locked, &run_id, &mut *emit);
    let (done, tasks) = record_rewrite(RunCommand::Rebuild, &locked, &run_id, start, done)?;
    emit(&rewrite::finished(start.1));
    Ok(report::rebuild_table(&done, &archive.to_string(), tasks, false))
}

fn rebuild_tables(
    archive: &Arc<LockedArchive>,
    run_id: &RunId,
    emit: EventSink<'_>,
) -> Result<([RebuiltTable; 2], u64)> {
    let source = RebuildSource::open(archive)?;
    let mut lyrics = TableRebuild::<LyricsRow>::begin(&LYRICS, archive, run_id)?;
    let mut clips = TableRebuild::<ClipRow>::begin(&CLIPS, archive, run_id)?;
    let tasks = source.read(archive, emit, &mut |rows| {
        rows.lyrics.iter().try_for_each(|row| lyrics.push(row))?;
        rows.clips.iter().try_for_each(|row| clips.push(row))
    })?;
    let done = [lyrics.finish()?, clips.finish()?];
    export::write_views(archive)?;
    Ok((done, tasks))
}

/// Returns the dry-run report of a rebuild. A dry run writes nothing and needs no lock.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, and [`Error::Storage`] if the archive cannot
/// be read.
pub fn dry_run(archive: &Location, reporter: &mut dyn Reporter) -> Result<String> {
    let clock = Instant::now();
    let emit = &mut |event: &Event| reporter.observe(event);
    let archive = Archive::open(archive)?;
    let source = RebuildSource::open(&archive)?;
    let (mut lyrics, mut clips) = (0, 0);
    let tasks = source.read(&archive, emit, &mut |rows| {
        lyrics += u64::from(rows.lyrics.is_some());
        clips += rows.clips.len() as u64;
        Ok(())
    })?;
    let mut planned = Vec::new();
    for (table, rows_after) in [(LYRICS.name, lyrics), (CLIPS.name, clips)] {
        let parts = published_parts(&archive, table)?;
        planned.push(RebuiltTable { table, rows: count_rows(&archive, &parts)?, rows_after });
    }
    emit(&rewrite::finished(clock));
    Ok(report::rebuild_table(&planned, &archive.location, tasks, true))
}

/// Returns the parts of a table, except parts that recovery will publish again because their segments are still in the
/// journal.
fn published_parts(archive: &Archive, table: &str) -> Result<Vec<String>> {
    let unpublished = rewrite::unpublished_stems(archive)?;
    let mut parts = archive.parts(table)?;
    parts.retain(|path| !unpublished.contains(rewrite::stem(path)));
    Ok(parts)
}

/// Counts the rows of the parts that a rebuild replaces. A damaged part counts as zero rows and is not an error,
/// because the rebuild regenerates its rows.
fn count_rows(archive: &Archive, parts: &[String]) -> Result<u64> {
    let rows = parts.iter().map(|path| {
        let part = archive.store.open(path)?;
        Ok(tables::catch_panic(|| tables::count_rows(part, archive.format)).unwrap_or_default())
    });
    rows.sum()
}

/// The source of a rebuild: the tasks table, whose responses contain the data of the clips and lyrics tables.
struct RebuildSource {
    parts: Vec<String>,
    checksums: Checksums,
}

impl RebuildSource {
    fn open(archive: &Archive) -> Result<Self> {
        let parts = published_parts(archive, TASKS.name)?;
        // If a part of the tasks table is missing, the rows of its tasks in the clips and lyrics tables are the only
        // remaining record of these tasks, and a rebuild would remove these rows.
        let listed = archive.manifest_lines(&|path| path.starts_with(TASKS.name))?;
        if let Some(lost) = listed.iter().find(|line| !matches!(archive.size(&line.path), Ok(Some(_)))) {
            let reason = io::Error::other("listed in a manifest but missing; run `repair` first");
            return Err(archive.store.storage_error("read", &lost.path, &reason));
        }
        let checksums = Checksums::read(archive, parts.iter().map(String::as_str))?;
        Ok(Self { parts, checksums })
    }

    /// Calls `visit` with the rows of each task that has a response. Returns the total number of tasks, including
    /// tasks without a response.
    fn read(&self, archive: &Archive, emit: EventSink<'_>, visit: &mut dyn FnMut(&Rows) -> Result<()>) -> Result<u64> {
        let (mut progress, mut tasks) = (ProgressTicker::new(TASKS.name), 0);
        for (done, path) in self.parts.iter().enumerate() {
            self.checksums.check(archive, path)?;
            let damaged = |task_id: &str| -> Error {
                let reason = io::Error::other(format!("the row of {task_id} is damaged"));
                archive.store.storage_error("read", path, &reason)
            };
            let mut result = Ok(());
            let columns = ["task_id", "status", "fetched_at", "run_id", "response"];
            let mut row = |cells: &[Option<&str>]| {
                tasks += 1;
                if let ([Some(task_id), status, Some(fetched_at), Some(run_id), Some(response)], Ok(())) =
                    (cells, &result)
                {
                    let info = fetch_info(task_id, status.unwrap_or_default(), fetched_at, run_id);
                    let info = info.ok_or_else(|| damaged(task_id));
                    result = info.and_then(|info| visit(&tables::flatten(&info, response)));
                }
            };
            rows::scan_part(archive, path, &columns, &mut row)?;
            result?;
            emit(&Event::Checked { path: path.clone() });
            progress.report(emit, "parts read", done as u64 + 1, self.parts.len() as u64);
        }
        Ok(tasks)
    }
}

/// Builds the columns that all rows of a task share, from the task's row in the tasks table. Returns `None` if
/// `fetched_at` or `run_id` is invalid.
fn fetch_info(task_id: &str, status: &str, fetched_at: &str, run_id: &str) -> Option<FetchInfo> {
    Some(FetchInfo {
        task_id: task_id.into(),
        // The clips and lyrics tables do not contain the status, so the fallback status does not affect their rows.
        status: FinalStatus::parse(status).unwrap_or(FinalStatus::Success),
        fetched_at: MicrosTimestamp::parse(fetched_at)?,
        run_id: RunId::parse(run_id)?,
    })
}

/// A table that is being regenerated.
struct TableRebuild<R: 'static> {
    table: &'static Table<R>,
    archive: Arc<LockedArchive>,
    swap: Swap,
    encoder: Option<PartEncoder<R, NewPart>>,
    /// The parts that the new parts will replace: every part that a manifest lists or that the table's folder contains.
    replaced_parts: Vec<String>,
    rows_before: u64,
    rows: u64,
}

impl<R> TableRebuild<R> {
    fn begin(table: &'static Table<R>, archive: &Arc<LockedArchive>, run_id: &RunId) -> Result<Self> {
        let mut replaced_parts = published_parts(archive, table.name)?;
        let rows_before = count_rows(archive, &replaced_parts)?;
        let (folder, unpublished) = (format!("{}/", table.name), rewrite::unpublished_stems(archive)?);
        let lines =
            archive.manifest_lines(&|path| path.starts_with(&folder) && !unpublished.contains(rewrite::stem(path)))?;
        replaced_parts.extend(lines.into_iter().map(|line| line.path));
        replaced_parts.sort();
        replaced_parts.dedup();
        let swap = Swap::begin(archive, table.name, run_id)?;
        Ok(Self { table, archive: archive.clone(), swap, encoder: None, replaced_parts, rows_before, rows: 0 })
    }

    fn push(&mut self, row: &R) -> Result<()> {
        let storage_error = |error| self.archive.store.storage_error("write", self.table.name, &error);
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => {
                let format = self.archive.format;
                let encoder = PartEncoder::new(self.table, format, RowGroups::Large, self.swap.begin_part()?);
                self.encoder.insert(encoder.map_err(storage_error)?)
            }
        };
        encoder.push(row).map_err(storage_error)?;
        if encoder.rows() >= MAX_PART_ROWS { self.end_part() } else { Ok(()) }
    }

    fn end_part(&mut self) -> Result<()> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let (part, rows) =
            encoder.finish().map_err(|error| self.archive.store.storage_error("write", self.table.name, &error))?;
        self.swap.add(part)?;
        self.rows += rows;
        Ok(())
    }

    fn finish(mut self) -> Result<RebuiltTable> {
        self.end_part()?;
        self.swap.commit(&self.replaced_parts)?;
        Ok(RebuiltTable { table: self.table.name, rows: self.rows_before, rows_after: self.rows })
    }
}
