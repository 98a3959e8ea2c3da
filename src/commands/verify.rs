//! The `verify` command: checks the integrity of an archive.

use std::time::Instant;

use jiff::Timestamp;

use super::summary::OutputFormat;
use crate::{
    archive::Location,
    error::Result,
    event::Event,
    exit::ExitStatus,
    report::{self, Reporter},
    verify::{self, Depth, Report},
};

/// The outcome of an integrity check.
#[derive(Debug)]
pub struct Outcome {
    /// The findings, and the numbers of checked files and rows.
    pub report: Report,
    /// The exit status of the process.
    pub status: ExitStatus,
    /// The text to print.
    pub message: String,
}

/// Checks the integrity of an archive. The archive may be read-only, and a run may add files to the archive during the
/// check. Performs blocking I/O.
///
/// # Errors
/// Returns [`Error::Usage`](crate::error::Error::Usage) if the location does not contain an archive, and
/// [`Error::Storage`](crate::error::Error::Storage) if the archive cannot be read.
pub fn verify(
    archive: &Location,
    depth: Depth,
    output_format: OutputFormat,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let clock = Instant::now();
    let report = verify::check(archive, depth, &mut |event| reporter.observe(event))?;
    let status = report.status();
    reporter.observe(&Event::Finished {
        at: Timestamp::now(),
        run_seconds: clock.elapsed().as_secs_f64(),
        exit_code: status.code(),
        interrupted: false,
    });
    let message = match output_format {
        OutputFormat::Text => report::verify_table(&report),
        OutputFormat::Json => json(&report),
    };
    Ok(Outcome { report, status, message })
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report has string keys only") + "\n"
}
