//! Checks an archive's integrity. Findings are values that a person can read and `repair` can act on. A check takes no
//! lock and writes nothing, so that the archive may be on a read-only disk, and a run may be adding to it.
//!
//! The archive itself says what it should hold: manifests list parts and media with their SHA-256, rows of assets have
//! a path, a size and a SHA-256, rows name their task, and tasks count their clips. While another process holds the
//! archive, damage in the tables counts only if it is found again.

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

/// How often the tables are checked again while another process holds the archive.
const MOST_LOOKS: u32 = 5;

/// The time between two such checks: a run lists the parts that it has published within it.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The numbers of checked files and rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// Which files' bytes were read.
    pub depth: Depth,
    /// Parts of tables.
    pub parts: u64,
    /// Their rows.
    pub rows: RowCounts,
    /// Media files, and others that manifests list.
    pub files: u64,
    /// Bytes that were read and compared by SHA-256.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The archive, as the user named it.
    pub archive: String,
    /// The numbers of checked files and rows.
    pub checked: Checked,
    /// The findings, damage first; of one kind at most the first 10,000.
    pub findings: Vec<Finding>,
    /// How many there are of each kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// How many of them are damage.
    pub damage: u64,
    /// How many are notes.
    pub notes: u64,
    /// The process's exit status: 3 if there is damage.
    pub exit_code: u8,
}

impl Report {
    /// The process's exit status.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        if self.damage > 0 { ExitStatus::Incomplete } else { ExitStatus::Complete }
    }
}

/// Checks an archive. Blocks.
///
/// # Errors
/// [`Error::Usage`](crate::error::Error::Usage) if there is not an archive,
/// [`Error::Storage`](crate::error::Error::Storage) if it may not be read.
pub fn check(location: &Location, depth: Depth, tell: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_by(look_until_settled, MOST_SHOWN, location, depth, tell)
}

/// The same, for planning a repair.
pub(crate) fn check_to_plan(location: &Location, depth: Depth, tell: &mut dyn FnMut(&Event)) -> Result<Report> {
    check_by(look_until_settled, MOST_REPAIRED, location, depth, tell)
}

/// The same, for a repair that holds the lock, so that no other process changes the archive.
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

/// Checks the tables, and again if there is damage and another process may have changed them meanwhile.
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
            let what = format!("names the archive format {version}, which this version of the program does not know");
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
