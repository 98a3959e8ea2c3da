//! `compact`: many small parts become few large ones, row for row the same.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    archive::{Archive, HeldArchive, NewPart, Swap},
    error::{Error, Result},
    report::{self, Compacted},
    rewrite::{self, Checksums, PART_BYTES, PART_ROWS, Part, Pulse, Tell},
    run_id::RunId,
    tables::{self, Digest, Outline, PartCopier},
};

/// Merges the small parts of each table, and gives the words for a person. `tell` gets a line now and then.
///
/// # Errors
/// [`Error::Usage`] if there is no archive, [`Error::Held`] if another process writes it,
/// [`Error::Storage`] if a part is damaged or the disk is full; each table is then as it was or merged.
pub async fn compact(folder: &Path, tell: &mut dyn FnMut(&str)) -> Result<String> {
    let now = Timestamp::now();
    let held = Arc::new(HeldArchive::open(folder, &tables::TABLES, now).await?);
    let plans = plans(&held.archive).await?;
    let merged = plans.iter().flat_map(|plan| &plan.small).map(|part| part.path.as_str());
    let checksums = Checksums::of(&held.archive, merged)?;
    let run_id = RunId::new(now);
    let mut done = Vec::new();
    for plan in plans {
        done.push(if plan.small.is_empty() { plan.outlook() } else { plan.merge(&held, &run_id, &checksums, tell)? });
    }
    Ok(report::compact_table(&done, &folder.display().to_string(), false))
}

/// What a compaction would do. It writes nothing and needs no lock.
///
/// # Errors
/// [`Error::Usage`] if there is no archive, [`Error::Storage`] if it cannot be read.
pub async fn dry_run(folder: &Path) -> Result<String> {
    let plans = plans(&Archive::open(folder)?).await?;
    let outlook: Vec<Compacted> = plans.iter().map(Plan::outlook).collect();
    Ok(report::compact_table(&outlook, &folder.display().to_string(), true))
}

async fn plans(archive: &Archive) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for outline in tables::outlines() {
        let (parts, waiting) = rewrite::parts(archive, outline.name).await?;
        let (large, mut small): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(Part::is_large);
        let mut left = large.len() as u64 + waiting;
        if small.len() < 2 {
            left += small.len() as u64;
            small.clear();
        }
        plans.push(Plan { outline, small, left });
    }
    Ok(plans)
}

/// What is to be done with one table.
struct Plan {
    outline: Outline,
    /// The parts to merge, oldest first; none, or two and more.
    small: Vec<Part>,
    /// How many parts are left alone.
    left: u64,
}

impl Plan {
    /// How it would end, as far as that can be told beforehand.
    fn outlook(&self) -> Compacted {
        let (mut parts_after, mut open_rows, mut open_bytes) = (0, 0, 0);
        for part in &self.small {
            parts_after += u64::from(open_rows + open_bytes == 0);
            (open_rows, open_bytes) = (open_rows + part.rows(), open_bytes + part.bytes);
            if is_full(open_rows, open_bytes) {
                (open_rows, open_bytes) = (0, 0);
            }
        }
        let bytes = self.small.iter().map(|part| part.bytes).sum();
        Compacted {
            table: self.outline.name,
            merged: self.small.len() as u64,
            rows: self.small.iter().map(Part::rows).sum(),
            bytes,
            parts_after,
            bytes_after: bytes,
            left: self.left,
        }
    }

    /// Writes the new parts, holds them against the old ones, and only then lets them change places.
    fn merge(
        self,
        held: &Arc<HeldArchive>,
        run_id: &RunId,
        checksums: &Checksums,
        tell: Tell<'_>,
    ) -> Result<Compacted> {
        let (archive, table) = (&held.archive, self.outline.name);
        let mut pulse = Pulse::new();
        let mut merge = Merge::new(Swap::begin(held, table, run_id)?, &self.outline);
        let mut before = Digest::default();
        for (count, part) in self.small.iter().enumerate() {
            checksums.check(archive, &part.path)?;
            rewrite::add(&mut before, &archive.folder.join(&part.path), archive.format, &self.outline)?;
            merge.copy(archive, &part.path)?;
            pulse.tell(tell, || format!("{table}: {} of {} parts read", count + 1, self.small.len()));
        }
        merge.end_part(archive)?;
        let mut after = Digest::default();
        for file in &merge.written {
            rewrite::add(&mut after, file, archive.format, &self.outline)?;
            pulse.tell(tell, || format!("{table}: {} of {} rows compared", after.rows, before.rows));
        }
        if before != after {
            return Err(Error::Internal(format!("the new parts of {table} do not hold the rows of the old ones")));
        }
        let outlook = self.outlook();
        let (mut parts_after, mut bytes_after) = (0, 0);
        for file in &merge.written {
            parts_after += 1;
            bytes_after += file.metadata().map_err(|error| Error::io("read", file, &error))?.len();
        }
        let removed: Vec<String> = self.small.into_iter().map(|part| part.path).collect();
        merge.swap.commit(&removed)?;
        tell(&format!("{table}: {} parts are {parts_after} now", removed.len()));
        Ok(Compacted { parts_after, bytes_after, ..outlook })
    }
}

fn is_full(rows: u64, bytes: u64) -> bool {
    rows >= PART_ROWS || bytes >= PART_BYTES
}

/// The new parts of one table while they are written.
struct Merge<'a> {
    swap: Swap,
    outline: &'a Outline,
    copier: Option<PartCopier<NewPart>>,
    written: Vec<PathBuf>,
}

impl<'a> Merge<'a> {
    fn new(swap: Swap, outline: &'a Outline) -> Self {
        Self { swap, outline, copier: None, written: Vec::new() }
    }

    fn copy(&mut self, archive: &Archive, path: &str) -> Result<()> {
        let failed = |error| archive.store.failed("copy", path, &error);
        let mut copier = match self.copier.take() {
            Some(copier) => copier,
            None => PartCopier::new(self.outline.clone(), archive.format, self.swap.part()?).map_err(failed)?,
        };
        copier.copy(rewrite::open(archive, path)?, &mut |_| true).map_err(failed)?;
        let is_full = is_full(copier.rows(), copier.bytes());
        self.copier = Some(copier);
        if is_full { self.end_part(archive) } else { Ok(()) }
    }

    fn end_part(&mut self, archive: &Archive) -> Result<()> {
        let Some(copier) = self.copier.take() else { return Ok(()) };
        let (part, _) = copier.finish().map_err(|error| archive.store.failed("write", self.outline.name, &error))?;
        self.written.push(self.swap.add(part)?);
        Ok(())
    }
}
