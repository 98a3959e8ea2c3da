//! Readers of [`Event`]: the bars of a terminal, plain lines, NDJSON, and figures for
//! Prometheus. Each is a fold over the same stream; the run never reads anything from them.

mod archive_messages;
mod bars;
mod contents;
mod findings;
mod lines;
mod maintenance;
mod messages;
mod metrics;
mod ndjson;
mod repairs;
mod sentence;

use std::io::IsTerminal;

use crate::event::Event;

pub(crate) use archive_messages::archive_table;
pub use contents::{Account, ArchiveContents, ArchiveSummary, RunRow, WaitingRun};
pub(crate) use findings::verify_table;
pub(crate) use maintenance::{Compacted, Rebuilt, compact_table, rebuild_table};
pub(crate) use messages::{RunNotes, plan_table, run_table};
pub(crate) use metrics::metrics;
pub(crate) use repairs::{repair_plan_table, repair_table};

/// How progress is shown, on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressStyle {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Lines at intervals.
    Plain,
    /// Each event as a line of JSON.
    Json,
    /// Warnings only.
    Off,
}

/// How much is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing on success.
    Quiet,
    /// Milestones and warnings.
    #[default]
    Normal,
    /// One line per task as well.
    Verbose,
}

/// Shows events while they happen.
pub trait Reporter: Send {
    /// Takes one event.
    fn observe(&mut self, event: &Event);
}

/// The reporter that the user selected.
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
