//! Reports the [`Event`]s of a run as progress bars, plain lines, NDJSON, and metrics for Prometheus. Each report is
//! derived from the same stream of events. A reporter only receives events and never affects the run.

mod archive_messages;
mod bars;
mod contents;
mod event_messages;
mod findings;
mod lines;
mod maintenance;
mod messages;
mod metrics;
mod ndjson;
mod repairs;

use std::io::IsTerminal;

use crate::event::Event;

pub(crate) use archive_messages::archive_table;
pub use contents::{Account, ArchiveContents, ArchiveSummary, RunRow, UnpublishedRun};
pub(crate) use findings::verify_table;
pub(crate) use maintenance::{CompactedTable, RebuiltTable, compact_table, rebuild_table};
pub(crate) use messages::{ClosingNotes, plan_table, run_table};
pub(crate) use metrics::metrics;
pub(crate) use repairs::{repair_plan_table, repair_table};

/// How progress is shown on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressStyle {
    /// Progress bars on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Plain lines at intervals.
    Plain,
    /// One line of JSON per event.
    Json,
    /// Warnings only.
    Off,
}

/// The amount of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// No output on success.
    Quiet,
    /// Milestones and warnings.
    #[default]
    Normal,
    /// Milestones, warnings, and one line per task.
    Verbose,
}

/// Shows the events of a run as they happen.
pub trait Reporter: Send {
    /// Handles one event.
    fn observe(&mut self, event: &Event);
}

/// Creates the reporter for the selected progress style and verbosity.
#[must_use]
pub fn reporter(progress: ProgressStyle, verbosity: Verbosity) -> Box<dyn Reporter> {
    match progress {
        _ if verbosity == Verbosity::Quiet => Box::new(lines::Quiet::default()),
        ProgressStyle::Json => Box::new(ndjson::Ndjson),
        ProgressStyle::Off => Box::new(lines::Lines::new(lines::Detail::Warnings)),
        _ if verbosity == Verbosity::Verbose => Box::new(lines::Lines::new(lines::Detail::Everything)),
        ProgressStyle::Auto if std::io::stderr().is_terminal() => Box::new(bars::Bars::new()),
        ProgressStyle::Auto | ProgressStyle::Plain => Box::new(lines::Lines::new(lines::Detail::Milestones)),
    }
}
