//! The `summary` command: reports the contents of an archive, its recent runs, and the share of the account that is
//! archived.

mod account;
mod journal;
mod standing;

use jiff::Timestamp;

pub use self::account::Access;
use crate::{
    archive::{Archive, Location, RUNS, RunFile},
    error::{Error, Result},
    report::{self, Account, ArchiveSummary, RunNotes},
    run_id::RunId,
    run_summary::RunSummary,
    tables,
};

/// The maximum number of attempts to count the tables while another process replaces their parts.
const MOST_LOOKS: u32 = 10;

/// The options of `summary`.
#[derive(Clone, Debug)]
pub struct SummaryOptions {
    /// The location of the archive.
    pub archive: Location,
    /// The ID of the run to show. `None` shows the whole archive.
    pub run: Option<String>,
    /// The account to compare the archive with.
    pub account: Option<Access>,
    /// The output format.
    pub style: Style,
}

/// The output format of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Human-readable text.
    Words,
    /// A JSON document.
    Json,
}

/// Returns the summary of one run as text, or the summary of the whole archive if the options select no run.
///
/// # Errors
/// Returns [`Error::Usage`] if the archive or the run does not exist, and [`Error::Storage`] if the archive cannot be
/// read. Returns [`Error::KeyRefused`] or [`Error::Unreachable`] if the usage of the account cannot be requested.
pub async fn summary(options: &SummaryOptions) -> Result<String> {
    let archive = Archive::open(&options.archive)?;
    match &options.run {
        Some(run) => one_run(&archive, run, options.style),
        None => whole_archive(&archive, options).await,
    }
}

fn one_run(archive: &Archive, run: &str, style: Style) -> Result<String> {
    let summary = read_run(archive, run)?;
    let notes = RunNotes {
        archive: &archive.name,
        format: archive.format,
        none_found: false,
        missing_named: true,
        left: 0,
        failed_before: 0,
        asked_again: 0,
    };
    Ok(match style {
        Style::Words => report::run_table(&summary, &notes),
        Style::Json => json(&summary),
    })
}

async fn whole_archive(archive: &Archive, options: &SummaryOptions) -> Result<String> {
    // The usage is requested first, so that a refused key is reported before the slow count of the tables.
    let usage = match &options.account {
        Some(access) => Some(account::usage(access).await?),
        None => None,
    };
    let mut standing = steady(archive)?;
    standing.archive.waiting_runs = journal::waiting_runs(archive)?;
    standing.account = usage.map(|usage| {
        // Tasks archived as not found are excluded, because the archive has no data for them.
        let archived = standing.last.tasks.archived() - standing.last.tasks.not_found;
        Account::new(usage.tasks_created, usage.credits_used, usage.credits_topped_up, archived)
    });
    let name = &archive.name;
    Ok(match options.style {
        Style::Words => {
            let mut words = report::archive_table(&standing, name, archive.format, Timestamp::now());
            let under_way = archive.holder().map(|holder| format!("\nA run is in progress: {holder}\n"));
            words.extend(under_way);
            words
        }
        Style::Json => json(&standing),
    })
}

/// Counts the tables. Repeats a failed count if the list of parts has changed meanwhile, for example because `compact`
/// has replaced parts.
fn steady(archive: &Archive) -> Result<ArchiveSummary> {
    for _ in 1..MOST_LOOKS {
        let before = parts(archive)?;
        let standing = standing::standing(archive);
        if standing.is_ok() || parts(archive)? == before {
            return standing;
        }
    }
    standing::standing(archive)
}

fn parts(archive: &Archive) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for table in tables::TABLES {
        parts.extend(archive.parts(table)?);
    }
    Ok(parts)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a summary has string keys only") + "\n"
}

fn read_run(archive: &Archive, run: &str) -> Result<RunSummary> {
    let known = RunId::parse(run).map(|id| RunFile::Summary.path(&id));
    let text = match &known {
        Some(path) => archive.store.get(path)?,
        None => None,
    };
    match (known, text) {
        (Some(path), Some(text)) => parse_run(archive, &path, &text),
        _ => Err(Error::usage(format!("{} has no run `{run}`; see {RUNS}/*.json for its runs", archive.name))),
    }
}

fn parse_run(archive: &Archive, path: &str, text: &[u8]) -> Result<RunSummary> {
    serde_json::from_slice(text).map_err(|error| archive.store.failed("read", path, &error))
}
