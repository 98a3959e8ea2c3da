//! The counts that `summary` reports for an archive.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    asset::AssetKind,
    run_summary::{RunCommand, RunSummary},
};

/// An archive's state, with the keys of a run's summary: from the first run's start to the last one's end.
#[derive(Clone, Debug, Serialize)]
pub struct ArchiveSummary {
    /// The last run's summary, with the archive's counts.
    #[serde(flatten)]
    pub last: RunSummary,
    /// How many runs there were.
    pub runs: u64,
    /// Counts that a run's summary does not have.
    pub archive: ArchiveContents,
    /// The share of the account that is archived, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
}

/// Counts of the tables that a run's summary does not have, and the last runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArchiveContents {
    /// Tasks by model; those without one are left out.
    pub by_model: BTreeMap<String, u64>,
    /// The value of the successes' credits, at the provider's documented rate.
    pub usd: f64,
    /// The total duration of all clips whose duration is known.
    pub audio_seconds: f64,
    /// When the oldest task was created.
    pub created_from: Option<String>,
    /// When the newest one was.
    pub created_to: Option<String>,
    /// Damaged summaries and lists of runs, which are not counted.
    #[serde(skip_serializing_if = "is_none")]
    pub unreadable_run_files: u64,
    /// Runs whose responses are in the journal, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_runs: Vec<WaitingRun>,
    /// The kinds of assets that clips lack, and how many clips lack them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lacking_assets: BTreeMap<AssetKind, u64>,
    /// The last runs, the newest first.
    pub last_runs: Vec<RunRow>,
}

/// A run whose responses are in the journal: the next export archives them without a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingRun {
    /// Its name.
    pub run_id: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// How many responses are in the journal.
    pub answers: u64,
    /// Whether it ended normally, and left them because time was up or a host was down; otherwise it was killed.
    pub has_ended: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// One run in a line.
#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// Its name.
    pub run_id: String,
    /// The command.
    pub command: RunCommand,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How long it took.
    pub run_seconds: Option<f64>,
    /// The exit status.
    pub exit_code: u8,
    /// Tasks that it archived.
    pub tasks: u64,
    /// Requests that it sent.
    pub requests: u64,
}

/// The provider's figures for the whole account, and what is archived.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// Tasks that the account has created, if the provider says.
    pub tasks_created: Option<u64>,
    /// Credits that it has used.
    pub credits_used: Option<f64>,
    /// Credits that it has topped up.
    pub credits_topped_up: Option<f64>,
    /// Tasks that are archived, without those that the provider does not know.
    pub archived: u64,
    /// The percentage that is archived, to two decimals; 100 only if nothing is missing.
    pub coverage: Option<f64>,
}

impl From<&RunSummary> for RunRow {
    fn from(run: &RunSummary) -> Self {
        Self {
            run_id: run.run_id.clone(),
            command: run.command,
            started_at: run.started_at,
            finished_at: run.finished_at,
            run_seconds: run.run_seconds,
            exit_code: run.exit_code,
            tasks: run.rows.tasks,
            requests: run.requests.total,
        }
    }
}

impl Account {
    /// Compares what the account has created with what is archived.
    pub(crate) fn new(
        tasks_created: Option<f64>,
        credits_used: Option<f64>,
        credits_topped_up: Option<f64>,
        archived: u64,
    ) -> Self {
        let tasks_created = tasks_created.filter(|count| *count >= 0.0).map(|count| count as u64);
        let share = |created: u64| (10_000.0 * archived as f64 / created as f64).floor() / 100.0;
        let coverage = tasks_created.filter(|created| *created > 0).map(share);
        Self { tasks_created, credits_used, credits_topped_up, archived, coverage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_a_hundred_only_if_nothing_is_missing() {
        let coverage = |created, archived| Account::new(created, None, None, archived).coverage;
        assert_eq!(coverage(Some(42.0), 24), Some(57.14));
        assert_eq!(coverage(Some(100_000.0), 99_999), Some(99.99));
        assert_eq!(coverage(Some(42.0), 42), Some(100.0));
        assert_eq!(coverage(Some(0.0), 0), None);
        assert_eq!(coverage(Some(-1.0), 1), None);
        assert_eq!(coverage(None, 1), None);
    }
}
