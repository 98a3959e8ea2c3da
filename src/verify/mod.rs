//! Checks the integrity of an archive, and returns findings that users can read and `repair` can act on. A check needs
//! no lock and writes nothing, so it also works on a read-only disk and during a run.
//!
//! An archive records its own expected contents. Manifests list the SHA-256 of every part and media file. A row in
//! `assets` contains the path, size and SHA-256 of a media file. Every row in a table contains a task ID, and a row in
//! `tasks` also contains the number of the task's clips. If another process holds the lock, damage in the tables is
//! reported only if a repeated check finds it again.

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

/// The maximum number of times that the tables are checked while another process holds the lock.
const MAX_TABLE_CHECKS: u32 = 5;

/// The time between two checks of the tables, which is enough for a run to list newly published parts in its manifest.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The depth and duration of a check, and the numbers of parts, rows, files and bytes that were checked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// The depth of the check: whether the contents of all, some or none of the files were verified.
    pub depth: Depth,
    /// The number of checked parts.
    pub parts: u64,
    /// The number of checked rows in each table.
    pub rows: RowCounts,
    /// The number of checked files other than parts. Most of these files are media files.
    pub files: u64,
    /// The number of bytes that were read to verify checksums.
    pub bytes: u64,
    /// The duration of the check, in seconds.
    pub seconds: f64,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The location of the archive, as specified by the user.
    pub archive: String,
    /// What was checked, and how long the check took.
    pub checked: Checked,
    /// The findings, with damage first. A report of [`check`] lists at most 10,000 findings of each kind.
    pub findings: Vec<Finding>,
    /// The number of findings of each kind, including findings that are not listed.
    pub kinds: BTreeMap<FindingKind, u64>,
    /// The number of findings with the severity [`Severity::Damage`].
    pub damage: u64,
    /// The number of findings with the severity [`Severity::Note`].
    pub notes: u64,
    /// The exit status of the process: 3 if there is damage, otherwise 0.
    pub exit_code: u8,
}

impl Report {
    /// Returns the exit status of the process.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        if self.damage > 0 { ExitStatus::Incomplete } else { ExitStatus::Complete }
    }
}

/// Checks an archive. This function blocks.
///
/// # Errors
/// Returns [`Error::Usage`](crate::error::Error::Usage) if the location does not contain an archive, and
/// [`Error::Storage`](crate::error::Error::Storage) if the archive cannot be accessed.
pub fn check(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    run_check(check_tables_until_stable, MAX_LISTED, location, depth, emit)
}

/// Checks an archive in the same way as [`check`], but lists more findings of each kind, because `repair` needs them to
/// plan its work.
pub(crate) fn check_for_repair(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    run_check(check_tables_until_stable, MAX_LISTED_FOR_REPAIR, location, depth, emit)
}

/// Checks an archive in the same way as [`check_for_repair`], for a caller that holds the lock. The tables are checked
/// only once, because no other process can change them.
pub(crate) fn check_locked(location: &Location, depth: Depth, emit: &mut dyn FnMut(&Event)) -> Result<Report> {
    run_check(rows::check_tables, MAX_LISTED_FOR_REPAIR, location, depth, emit)
}

type TableChecker = fn(&Archive, Depth, usize, bool, &mut CheckProgress<'_>) -> Result<TableCheck>;

fn run_check(
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
    let mut findings = std::mem::replace(&mut check.findings, Findings::new(0, depth));
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

/// Checks the tables. Repeats the check if a part was removed during the check, or if the check found damage while
/// another process held the lock.
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
