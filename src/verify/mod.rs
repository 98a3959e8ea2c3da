//! Checks the integrity of an archive. Findings are values that a user can read and `repair` can act on. A check
//! needs no lock and writes nothing, so it also works on a read-only disk and during a run.
//!
//! The archive records its expected contents. Manifests list parts and media files with their SHA-256. A row in
//! `assets` contains the path, size and SHA-256 of a file. Every row contains its task ID, and a row in `tasks`
//! contains the number of clips. If another process holds the lock, damage in the tables is reported only if a
//! repeated check finds it again.

mod depth;
mod files;
mod finding;
mod manifests;
mod media_set;
mod progress;
mod rows;
mod small_files;
mod snapshot;
mod task_set;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

pub use depth::{Depth, SampleShare, Slice};
pub use finding::{Finding, FindingKind, Severity, Subject};

pub(crate) use self::finding::MAX_LISTED_FOR_REPAIR;
use self::{
    finding::{Findings, MAX_LISTED},
    progress::CheckProgress,
    rows::TableCheck,
};
use crate::{
    archive::{Archive, Location, METADATA, MetadataState},
    error::Result,
    event::{Event, RowCounts},
    exit::ExitStatus,
};

/// The maximum number of checks of the tables while another process holds the lock.
const MAX_TABLE_CHECKS: u32 = 5;

/// The time between two checks of the tables. Within this time, a run lists its published parts in its manifest.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The numbers of checked files and rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// The depth of the check, which determines the files whose contents were verified.
    pub depth: Depth,
    /// The number of parts.
    pub parts: u64,
    /// The number of rows in each table.
    pub rows: RowCounts,
    /// The number of checked media files and other files, not counting parts.
    pub files: u64,
    /// The number of bytes that were read and compared by SHA-256.
    pub bytes: u64,
    /// The duration of the check in seconds.
    pub seconds: f64,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The archive, as specified by the user.
    pub archive: String,
    /// The numbers of checked files and rows.
    pub checked: Checked,
    /// The findings, with damage first. At most 10,000 findings of each kind are listed.
    pub findings: Vec<Finding>,
    /// The number of findings of each kind.
    pub kinds: BTreeMap<FindingKind, u64>,
    /// The number of findings that are damage.
    pub damage: u64,
    /// The number of findings that are notes.
    pub notes: u64,
    /// The exit status of the process, which is 3 if there is damage.
    pub exit_code: u8,
}

impl Report {
    /// Returns the exit status of the process.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        if self.damage > 0 { ExitStatus::Incomplete } else { ExitStatus::Complete }
    }
}

/// Checks an archive. Blocks.
///
/// # Errors
/// Returns [`Error::Usage`](crate::error::Error::Usage) if the location does not contain an archive, and
/// [`Error::Storage`](crate::error::Error::Storage) if the archive cannot be accessed.
pub fn check(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_with(check_tables_until_stable, MAX_LISTED, location, depth, emit)
}

/// Checks an archive like [`check`], but lists more findings of each kind, to plan a repair.
pub(crate) fn check_for_repair(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_with(check_tables_until_stable, MAX_LISTED_FOR_REPAIR, location, depth, emit)
}

/// Checks an archive like [`check_for_repair`], for a caller that holds the lock. The tables are checked only once,
/// because no other process can change them.
pub(crate) fn check_locked(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_with(rows::check_tables, MAX_LISTED_FOR_REPAIR, location, depth, emit)
}

type TableChecker = fn(&Archive, Depth, usize, bool, &mut CheckProgress<'_>) -> Result<TableCheck>;

fn check_with(
    check_tables: TableChecker,
    limit: usize,
    location: &Location,
    depth: Depth,
    emit: &mut dyn FnMut(&Event),
) -> Result<Report> {
    let clock = Instant::now();
    let (archive, metadata) = Archive::open_for_verify(location)?;
    let mut progress = CheckProgress::new(emit);
    let is_newer = matches!(metadata, MetadataState::Unsupported(_));
    let mut check = check_tables(&archive, depth, limit, is_newer, &mut progress)?;
    let mut findings = std::mem::replace(&mut check.findings, Findings::new(0));
    findings.extend(metadata_finding(metadata));
    let files = files::check(&archive, depth, &mut check, &mut findings, &mut progress)?;
    files::find_stray_media(&archive, &check, &mut findings)?;
    small_files::check(&archive, &check, &mut findings)?;
    let checked = Checked {
        depth,
        parts: check.parts,
        rows: check.rows,
        files,
        bytes: progress.bytes(),
        seconds: clock.elapsed().as_secs_f64(),
    };
    Ok(report(location, checked, findings))
}

/// Checks the tables. Repeats the check if another process may have changed the tables and the check found damage or
/// a part that was removed.
fn check_tables_until_stable(
    archive: &Archive,
    depth: Depth,
    limit: usize,
    is_newer: bool,
    progress: &mut CheckProgress<'_>,
) -> Result<TableCheck> {
    for _ in 1..MAX_TABLE_CHECKS {
        let check = rows::check_tables(archive, depth, limit, is_newer, progress)?;
        let may_have_changed = check.part_vanished || check.snapshot.is_locked || archive.holder().is_some();
        if !may_have_changed || (!check.part_vanished && check.findings.count(Severity::Damage) == 0) {
            return Ok(check);
        }
        thread::sleep(RECHECK_INTERVAL);
    }
    rows::check_tables(archive, depth, limit, is_newer, progress)
}

fn metadata_finding(metadata: MetadataState) -> Option<Finding> {
    match metadata {
        MetadataState::Intact => None,
        MetadataState::Unsupported(version) => {
            let what = format!("has format version {version}, which this version of the program does not support");
            Some(Finding::file(FindingKind::NewerFormat, METADATA, what))
        }
        MetadataState::Damaged(reason) => {
            Some(Finding::file(FindingKind::MetadataDamaged, METADATA, format!("is damaged: {reason}")))
        }
    }
}

fn report(location: &Location, checked: Checked, findings: Findings) -> Report {
    let (damage, notes) = (findings.count(Severity::Damage), findings.count(Severity::Note));
    let (findings, kinds) = findings.into_parts();
    let archive = location.to_string();
    let mut report = Report { archive, checked, findings, kinds, damage, notes, exit_code: 0 };
    report.exit_code = report.status().code();
    report
}
