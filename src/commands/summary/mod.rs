//! The `summary` command: reports the contents of an archive, its recent runs, and the share of the account's tasks
//! that are archived.

mod account;
mod archive_counts;
mod journal;

use jiff::Timestamp;

pub use self::account::AccountAccess;
use crate::{
    archive::{Archive, Location, RUNS, RunFile},
    error::{Error, Result},
    report::{self, Account, ArchiveSummary, ClosingNotes},
    run_id::RunId,
    run_summary::RunSummary,
    tables,
};

/// The maximum number of attempts to count the rows of the tables while another process replaces parts.
const MAX_ATTEMPTS: u32 = 10;

/// The options of `summary`.
#[derive(Clone, Debug)]
pub struct SummaryOptions {
    /// The location of the archive.
    pub archive: Location,
    /// The ID of the run to show. `None` selects the whole archive.
    pub run: Option<String>,
    /// The account to compare the archive with.
    pub account: Option<AccountAccess>,
    /// The output format.
    pub output_format: OutputFormat,
}

/// The output format of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Human-readable text.
    Text,
    /// A JSON document.
    Json,
}

/// Returns the summary of the selected run, or the summary of the whole archive if the options select no run.
///
/// # Errors
/// Returns [`Error::Usage`] if the archive or the run does not exist, and [`Error::Storage`] if the archive cannot be
/// read. Returns [`Error::KeyRejected`] or [`Error::Unreachable`] if the usage of the account cannot be read from the
/// API.
pub async fn summary(options: &SummaryOptions) -> Result<String> {
    let archive = Archive::open(&options.archive)?;
    match &options.run {
        Some(run) => summarize_run(&archive, run, options.output_format),
        None => summarize_archive(&archive, options).await,
    }
}

fn summarize_run(archive: &Archive, run: &str, output_format: OutputFormat) -> Result<String> {
    let summary = read_run(archive, run)?;
    let notes = ClosingNotes {
        archive: &archive.location,
        format: archive.format,
        none_found: false,
        missing_list_written: true,
        still_journalled: 0,
        failed_before: 0,
        refetched: 0,
    };
    Ok(match output_format {
        OutputFormat::Text => report::run_table(&summary, &notes),
        OutputFormat::Json => json(&summary),
    })
}

async fn summarize_archive(archive: &Archive, options: &SummaryOptions) -> Result<String> {
    // The account usage is requested first, so that a rejected API key is reported before the slow scan of the tables.
    let usage = match &options.account {
        Some(access) => Some(account::usage(access).await?),
        None => None,
    };
    let mut summary = summarize_with_retries(archive)?;
    summary.archive.unpublished_runs = journal::unpublished_runs(archive)?;
    summary.account = usage.map(|usage| {
        // Tasks archived as not found are excluded, because the archive has no data for them.
        let archived = summary.last.tasks.archived() - summary.last.tasks.not_found;
        Account::new(usage.tasks_created, usage.credits_used, usage.credits_topped_up, archived)
    });
    let name = &archive.location;
    Ok(match options.output_format {
        OutputFormat::Text => {
            let mut message = report::archive_table(&summary, name, archive.format, Timestamp::now());
            let in_progress = archive.holder().map(|holder| format!("\nA run is in progress: {holder}\n"));
            message.extend(in_progress);
            message
        }
        OutputFormat::Json => json(&summary),
    })
}

/// Summarizes the archive. Retries after a failure if the list of parts has changed since the attempt began, for
/// example because `compact` has replaced parts.
fn summarize_with_retries(archive: &Archive) -> Result<ArchiveSummary> {
    for _ in 1..MAX_ATTEMPTS {
        let before = parts(archive)?;
        let summary = archive_counts::summarize(archive);
        if summary.is_ok() || parts(archive)? == before {
            return summary;
        }
    }
    archive_counts::summarize(archive)
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
    let path = RunId::parse(run).map(|id| RunFile::Summary.path(&id));
    let text = match &path {
        Some(path) => archive.store.get(path)?,
        None => None,
    };
    match (path, text) {
        (Some(path), Some(text)) => parse_run(archive, &path, &text),
        _ => Err(Error::usage(format!("{} has no run `{run}`; see {RUNS}/*.json for its runs", archive.location))),
    }
}

fn parse_run(archive: &Archive, path: &str, text: &[u8]) -> Result<RunSummary> {
    serde_json::from_slice(text).map_err(|error| archive.store.storage_error("read", path, &error))
}
