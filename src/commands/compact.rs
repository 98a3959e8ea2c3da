//! The `compact` command: merges the small parts of each table into fewer large parts, without changing any row.

use std::{io, sync::Arc, time::Instant};

use jiff::Timestamp;

use super::run::record_rewrite;
use crate::{
    archive::{Archive, Location, LockedArchive, NewPart, StagedPart, Swap},
    error::{Error, Result},
    event::Event,
    format::TableFormat,
    ranged::RangedFile,
    report::{self, CompactedTable, Reporter},
    rewrite::{self, Checksums, EventSink, MAX_PART_ROWS, Part, ProgressTicker, TARGET_PART_BYTES},
    run_id::RunId,
    run_summary::RunCommand,
    tables::{self, Chunk, Digest, PartCopier, TableSchema, TimeSorter},
};

/// Merges the small parts of each table, and returns a report for the user.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, [`Error::Locked`] if another process holds the
/// lock, and [`Error::Storage`] if a part is damaged or the disk is full. After an error, each table is either
/// unchanged or fully merged.
pub fn compact(archive: &Location, reporter: &mut dyn Reporter) -> Result<String> {
    let start = (Timestamp::now(), Instant::now());
    let emit = &mut |event: &Event| reporter.observe(event);
    let locked = Arc::new(LockedArchive::open(archive, &tables::TABLES, start.0)?);
    let run_id = RunId::new(start.0);
    let plans = plans(&locked)?;
    if plans.iter().all(|plan| plan.small_parts.is_empty()) {
        let empty: Vec<CompactedTable> = plans.iter().map(Plan::estimate).collect();
        emit(&rewrite::finished(start.1));
        return Ok(report::compact_table(&empty, &archive.to_string(), false));
    }
    let done = merge_all(&locked, plans, &run_id, &mut *emit);
    let done = record_rewrite(RunCommand::Compact, &locked, &run_id, start, done)?;
    emit(&rewrite::finished(start.1));
    Ok(report::compact_table(&done, &archive.to_string(), false))
}

fn merge_all(
    archive: &Arc<LockedArchive>,
    plans: Vec<Plan>,
    run_id: &RunId,
    emit: EventSink<'_>,
) -> Result<Vec<CompactedTable>> {
    let merged = plans.iter().flat_map(|plan| &plan.small_parts).map(|part| part.path.as_str());
    let checksums = Checksums::read(archive, merged)?;
    let mut done = Vec::new();
    for plan in plans {
        done.push(if plan.small_parts.is_empty() {
            plan.estimate()
        } else {
            plan.merge(archive, run_id, &checksums, emit)?
        });
    }
    Ok(done)
}

/// Returns the dry-run report of a compaction. A dry run writes nothing and needs no lock.
///
/// # Errors
/// Returns [`Error::Usage`] if the location does not contain an archive, and [`Error::Storage`] if the archive cannot
/// be read.
pub fn dry_run(archive: &Location) -> Result<String> {
    let plans = plans(&Archive::open(archive)?)?;
    let estimate: Vec<CompactedTable> = plans.iter().map(Plan::estimate).collect();
    Ok(report::compact_table(&estimate, &archive.to_string(), true))
}

fn plans(archive: &Archive) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for schema in tables::schemas() {
        let (parts, unpublished_count) = rewrite::parts(archive, schema.name)?;
        let (large, mut small_parts): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(Part::is_large);
        let mut unchanged = large.len() as u64 + unpublished_count;
        if small_parts.len() < 2 {
            unchanged += small_parts.len() as u64;
            small_parts.clear();
        }
        plans.push(Plan { schema, small_parts, unchanged });
    }
    Ok(plans)
}

/// The compaction plan for one table.
struct Plan {
    schema: TableSchema,
    /// The parts to merge, oldest first: either none, or at least two.
    small_parts: Vec<Part>,
    /// The number of parts that stay unchanged.
    unchanged: u64,
}

impl Plan {
    /// Estimates the result of the compaction.
    fn estimate(&self) -> CompactedTable {
        let (mut parts_after, mut open_rows, mut open_bytes) = (0, 0, 0);
        for part in &self.small_parts {
            parts_after += u64::from(open_rows + open_bytes == 0);
            (open_rows, open_bytes) = (open_rows + part.rows(), open_bytes + part.bytes);
            if is_full(open_rows, open_bytes) {
                (open_rows, open_bytes) = (0, 0);
            }
        }
        let bytes = self.small_parts.iter().map(|part| part.bytes).sum();
        CompactedTable {
            table: self.schema.name,
            merged: self.small_parts.len() as u64,
            rows: self.small_parts.iter().map(Part::rows).sum(),
            bytes,
            parts_after,
            bytes_after: bytes,
            unchanged: self.unchanged,
        }
    }

    /// Writes the new parts and compares their rows with the rows of the old parts. The new parts replace the old parts
    /// only if they contain the same rows.
    fn merge(
        self,
        archive: &Arc<LockedArchive>,
        run_id: &RunId,
        checksums: &Checksums,
        emit: EventSink<'_>,
    ) -> Result<CompactedTable> {
        let table = self.schema.name;
        let mut progress = ProgressTicker::new(table);
        let mut merge = Merge::new(archive, Swap::begin(archive, table, run_id)?, &self.schema);
        let mut sorter = TimeSorter::new(self.schema.clone(), merge.swap.scratch_files());
        let mut before = Digest::default();
        for (count, part) in self.small_parts.iter().enumerate() {
            checksums.check(archive, &part.path)?;
            rewrite::add_part(&mut before, archive, &part.path, &self.schema)?;
            let file = archive.store.open(&part.path)?;
            match archive.format {
                TableFormat::Parquet => {
                    sorter.add(file).map_err(|error| archive.store.storage_error("sort", &part.path, &error))?;
                }
                // A CSV file has no statistics that would benefit from sorting, so its rows keep their order.
                TableFormat::Csv => merge.copy(file, &part.path)?,
            }
            emit(&Event::Checked { path: part.path.clone() });
            progress.report(emit, "parts read", count as u64 + 1, self.small_parts.len() as u64);
        }
        let storage_error = |error: io::Error| archive.store.storage_error("sort", table, &error);
        for chunk in sorter.finish().map_err(storage_error)? {
            merge.push(chunk.map_err(storage_error)?)?;
            progress.report(emit, "rows sorted", merge.rows, before.rows);
        }
        merge.end_part()?;
        let mut after = Digest::default();
        for part in &merge.written {
            rewrite::add_staged_part(&mut after, archive, part, &self.schema)?;
            progress.report(emit, "rows compared", after.rows, before.rows);
        }
        if before != after {
            return Err(Error::Internal(format!("the merged parts of {table} differ from the original parts")));
        }
        let estimate = self.estimate();
        let parts_after = merge.written.len() as u64;
        let bytes_after = merge.written.iter().map(StagedPart::bytes).sum();
        let removed: Vec<String> = self.small_parts.into_iter().map(|part| part.path).collect();
        merge.swap.commit(&removed)?;
        emit(&Event::Rewritten { table, removed: removed.len() as u64, parts: parts_after });
        Ok(CompactedTable { parts_after, bytes_after, ..estimate })
    }
}

fn is_full(rows: u64, bytes: u64) -> bool {
    rows >= MAX_PART_ROWS || bytes >= TARGET_PART_BYTES
}

/// Writes the new parts of one table.
struct Merge<'a> {
    archive: &'a Archive,
    swap: Swap,
    schema: &'a TableSchema,
    copier: Option<PartCopier<NewPart>>,
    written: Vec<StagedPart>,
    rows: u64,
}

impl<'a> Merge<'a> {
    fn new(archive: &'a Archive, swap: Swap, schema: &'a TableSchema) -> Self {
        Self { archive, swap, schema, copier: None, written: Vec::new(), rows: 0 }
    }

    /// Copies the rows of an old part in their original order.
    fn copy(&mut self, file: RangedFile, path: &str) -> Result<()> {
        let archive = self.archive;
        let copied = self.part_copier()?.copy(file, &mut |_| true);
        self.finish_part_if_full(copied.map_err(|error| archive.store.storage_error("copy", path, &error))?)
    }

    /// Adds the rows of a chunk. If the current part becomes full, the remaining rows are added to a new part.
    fn push(&mut self, chunk: Chunk) -> Result<()> {
        let mut rest = Some(chunk);
        while let Some(chunk) = rest.take() {
            let (archive, table, copier) = (self.archive, self.schema.name, self.part_copier()?);
            let (first, others) = chunk.split((MAX_PART_ROWS - copier.rows()) as usize);
            copier.push(&first).map_err(|error| archive.store.storage_error("write", table, &error))?;
            self.finish_part_if_full(first.rows() as u64)?;
            rest = others;
        }
        Ok(())
    }

    /// Returns the copier that writes the current part. Starts a new part if none is open.
    fn part_copier(&mut self) -> Result<&mut PartCopier<NewPart>> {
        let storage_error = |error| self.archive.store.storage_error("write", self.schema.name, &error);
        let copier = match self.copier.take() {
            Some(copier) => copier,
            None => PartCopier::new(self.schema.clone(), self.archive.format, self.swap.begin_part()?)
                .map_err(storage_error)?,
        };
        Ok(self.copier.insert(copier))
    }

    fn finish_part_if_full(&mut self, rows: u64) -> Result<()> {
        self.rows += rows;
        let is_full = self.copier.as_ref().is_some_and(|copier| is_full(copier.rows(), copier.bytes()));
        if is_full { self.end_part() } else { Ok(()) }
    }

    fn end_part(&mut self) -> Result<()> {
        let Some(copier) = self.copier.take() else { return Ok(()) };
        let written = copier.finish();
        let (part, _) = written.map_err(|error| self.archive.store.storage_error("write", self.schema.name, &error))?;
        self.written.push(self.swap.add(part)?);
        Ok(())
    }
}
