//! `summary`: what an archive holds, how its runs went, and how much of the account that is.

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

/// How often the tables are counted while their parts change places.
const MOST_LOOKS: u32 = 10;

/// The options of `summary`.
#[derive(Clone, Debug)]
pub struct SummaryOptions {
    /// The archive's folder.
    pub archive: Location,
    /// The run to show instead of the archive as it stands.
    pub run: Option<String>,
    /// The account to set it against.
    pub account: Option<Access>,
    /// For whom.
    pub style: Style,
}

/// For whom a summary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A table to read.
    Words,
    /// A JSON document.
    Json,
}

/// One run, or with `run` absent the archive as it stands, as the text to print.
///
/// # Errors
/// [`Error::Usage`] if there is no such archive or run, [`Error::Storage`] if it cannot be read;
/// [`Error::KeyRefused`] or [`Error::Unreachable`] if the provider does not tell about the account.
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
    // Requested first, so that a rejected key is reported before the slow counting.
    let usage = match &options.account {
        Some(access) => Some(account::usage(access).await?),
        None => None,
    };
    let mut standing = steady(archive)?;
    standing.archive.waiting_runs = journal::waiting_runs(archive)?;
    standing.account = usage.map(|usage| {
        // What the provider does not know is not a copy of anything.
        let archived = standing.last.tasks.archived() - standing.last.tasks.not_found;
        Account::new(usage.tasks_created, usage.credits_used, usage.credits_topped_up, archived)
    });
    let name = &archive.name;
    Ok(match options.style {
        Style::Words => {
            let mut words = report::archive_table(&standing, name, archive.format, Timestamp::now());
            let under_way = archive.holder().map(|holder| format!("\nA run is under way: {holder}\n"));
            words.extend(under_way);
            words
        }
        Style::Json => json(&standing),
    })
}

/// Counts, and again if other parts have taken the place of those that were listed: so does `compact`.
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
        _ => Err(Error::usage(format!("{} has no run `{run}`; its runs are the files {RUNS}/*.json", archive.name))),
    }
}

fn parse_run(archive: &Archive, path: &str, text: &[u8]) -> Result<RunSummary> {
    serde_json::from_slice(text).map_err(|error| archive.store.failed("read", path, &error))
}
