//! The `verify` command: checks the integrity of an archive.

use std::time::Instant;

use jiff::Timestamp;

use super::summary::Style;
use crate::{
    archive::Location,
    error::Result,
    event::Event,
    exit::ExitStatus,
    report::{self, Reporter},
    verify::{self, Depth, Report},
};

/// The outcome of a check.
#[derive(Debug)]
pub struct Outcome {
    /// The findings, and the numbers of checked files and rows.
    pub report: Report,
    /// The exit status of the process.
    pub status: ExitStatus,
    /// The text to print.
    pub words: String,
}

/// Checks an archive. The archive may be on a read-only disk, and a run may add to it during the check. Performs
/// blocking I/O.
///
/// # Errors
/// Returns [`Error::Usage`](crate::error::Error::Usage) if the location does not contain an archive, and
/// [`Error::Storage`](crate::error::Error::Storage) if the archive cannot be read.
pub fn verify(archive: &Location, depth: Depth, style: Style, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let clock = Instant::now();
    let report = verify::check(archive, depth, &mut |event| reporter.observe(event))?;
    let status = report.status();
    reporter.observe(&Event::Finished {
        at: Timestamp::now(),
        run_seconds: clock.elapsed().as_secs_f64(),
        exit_code: status.code(),
        interrupted: false,
    });
    let words = match style {
        Style::Words => report::verify_table(&report),
        Style::Json => json(&report),
    };
    Ok(Outcome { report, status, words })
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report has string keys only") + "\n"
}
