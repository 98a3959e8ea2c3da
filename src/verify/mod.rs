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
mod own;
mod rows;
mod snapshot;
mod tally;
mod task_set;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

pub use depth::{Depth, SampleShare, Slice};
pub use finding::{Finding, Kind, Severity, Subject};

pub(crate) use self::finding::MOST_REPAIRED;
use self::{
    finding::{Findings, MOST_SHOWN},
    rows::Seen,
    tally::Tally,
};
use crate::{
    archive::{Archive, Location, METADATA, MetadataState},
    error::Result,
    event::{Event, RowCounts},
    exit::ExitStatus,
};

/// The maximum number of checks of the tables while another process holds the lock.
const MOST_LOOKS: u32 = 5;

/// The time between two checks of the tables. Within this time, a run lists its published parts in its manifest.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

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
    pub kinds: BTreeMap<Kind, u64>,
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
pub fn check(location: &Location, depth: Depth, tell: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_by(look_until_settled, MOST_SHOWN, location, depth, tell)
}

/// Checks an archive like [`check`], but lists more findings of each kind, to plan a repair.
pub(crate) fn check_to_plan(location: &Location, depth: Depth, tell: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_by(look_until_settled, MOST_REPAIRED, location, depth, tell)
}

/// Checks an archive like [`check_to_plan`], for a caller that holds the lock. The tables are checked only once,
/// because no other process can change them.
pub(crate) fn check_held(location: &Location, depth: Depth, tell: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_by(rows::look, MOST_REPAIRED, location, depth, tell)
}

type Inspector = fn(&Archive, Depth, usize, bool, &mut Tally<'_>) -> Result<Seen>;

fn check_by(
    look: Inspector,
    most: usize,
    location: &Location,
    depth: Depth,
    tell: &mut dyn FnMut(&Event),
) -> Result<Report> {
    let clock = Instant::now();
    let (archive, metadata) = Archive::open_to_check(location)?;
    let mut tally = Tally::new(tell);
    let is_newer = matches!(metadata, MetadataState::Newer(_));
    let mut seen = look(&archive, depth, most, is_newer, &mut tally)?;
    let mut findings = std::mem::replace(&mut seen.findings, Findings::new(0));
    findings.extend(metadata_finding(metadata));
    let files = files::check(&archive, depth, &mut seen, &mut findings, &mut tally)?;
    files::strays(&archive, &seen, &mut findings)?;
    own::check(&archive, &seen, &mut findings)?;
    let checked = Checked {
        depth,
        parts: seen.parts,
        rows: seen.rows,
        files,
        bytes: tally.bytes(),
        seconds: clock.elapsed().as_secs_f64(),
    };
    Ok(report(location, checked, findings))
}

/// Checks the tables. Repeats the check if another process may have changed the tables and the check found damage or
/// a part that was removed.
fn look_until_settled(
    archive: &Archive,
    depth: Depth,
    most: usize,
    is_newer: bool,
    tally: &mut Tally<'_>,
) -> Result<Seen> {
    for _ in 1..MOST_LOOKS {
        let seen = rows::look(archive, depth, most, is_newer, tally)?;
        let moving = seen.shifted || seen.snapshot.held || archive.holder().is_some();
        if !moving || (!seen.shifted && seen.findings.count(Severity::Damage) == 0) {
            return Ok(seen);
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    rows::look(archive, depth, most, is_newer, tally)
}

fn metadata_finding(metadata: MetadataState) -> Option<Finding> {
    match metadata {
        MetadataState::Whole => None,
        MetadataState::Newer(version) => {
            let what = format!("has format version {version}, which this version of the program does not support");
            Some(Finding::file(Kind::NewerFormat, METADATA, what))
        }
        MetadataState::Damaged(reason) => {
            Some(Finding::file(Kind::MetadataDamaged, METADATA, format!("is damaged: {reason}")))
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
