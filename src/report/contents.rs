//! The counts that `summary` reports for an archive.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    asset::AssetKind,
    run_summary::{RunCommand, RunSummary},
};

/// The summary of an archive, with the same JSON keys as the summary of a run. The summary covers the time from the
/// start of the first run to the end of the last run.
#[derive(Clone, Debug, Serialize)]
pub struct ArchiveSummary {
    /// The summary of the last run, with the counts of the whole archive instead of the counts of the run.
    #[serde(flatten)]
    pub last: RunSummary,
    /// The number of exports and repairs.
    pub runs: u64,
    /// Counts that the summary of a run does not contain.
    pub archive: ArchiveContents,
    /// The usage of the account and the share of its tasks that are archived, if the user requested them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
}

/// Counts that the summary of a run does not contain, and a list of the most recent runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArchiveContents {
    /// The number of tasks for each model. Tasks without a model are omitted.
    pub by_model: BTreeMap<String, u64>,
    /// The value in US dollars of the credits spent on successful tasks, at the provider's documented price.
    pub usd: f64,
    /// The total duration, in seconds, of all clips with a known duration.
    pub audio_seconds: f64,
    /// The time at which the oldest task was created.
    pub created_from: Option<String>,
    /// The time at which the newest task was created.
    pub created_to: Option<String>,
    /// The number of run summaries and lists of missing tasks that are damaged and therefore not fully counted.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable_run_files: u64,
    /// Runs with unpublished responses in the journal, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "waiting_runs")]
    pub unpublished_runs: Vec<UnpublishedRun>,
    /// For each kind of asset, the number of clips that lack an asset of this kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(rename = "lacking_assets")]
    pub clips_lacking_assets: BTreeMap<AssetKind, u64>,
    /// The most recent runs, newest first.
    pub last_runs: Vec<RunRow>,
}

/// A run with unpublished responses in the journal. The next export archives these responses without requesting them
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnpublishedRun {
    /// The ID of the run.
    pub run_id: String,
    /// The start time of the run.
    pub started_at: Option<Timestamp>,
    /// The number of the run's responses that are still in the journal.
    #[serde(rename = "answers")]
    pub responses: u64,
    /// Whether the run ended cleanly but left responses in the journal, for example because a media host was down.
    /// `false` means that the run was killed.
    pub has_ended: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A row in the table of recent runs.
#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// The ID of the run.
    pub run_id: String,
    /// The command that started the run.
    pub command: RunCommand,
    /// The start time of the run.
    pub started_at: Option<Timestamp>,
    /// The end time of the run.
    pub finished_at: Option<Timestamp>,
    /// The duration of the run in seconds.
    pub run_seconds: Option<f64>,
    /// The exit status of the run.
    pub exit_code: u8,
    /// The number of tasks that the run archived.
    pub tasks: u64,
    /// The number of requests that the run sent.
    pub requests: u64,
}

/// The usage of the account as reported by the provider, and the share of the account's tasks that are archived.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// The number of tasks that the account has created, if the provider reports this number.
    pub tasks_created: Option<u64>,
    /// The number of credits that the account has used.
    pub credits_used: Option<f64>,
    /// The number of credits that have been bought for the account.
    pub credits_topped_up: Option<f64>,
    /// The number of archived tasks, excluding tasks that the provider did not find.
    pub archived: u64,
    /// The percentage of the account's tasks that are archived, rounded down to two decimals. The percentage is
    /// 100 only if no task is missing.
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
    /// Computes the coverage from the numbers of created and archived tasks.
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
    fn coverage_is_100_percent_only_if_nothing_is_missing() {
        let coverage = |created, archived| Account::new(created, None, None, archived).coverage;
        assert_eq!(coverage(Some(42.0), 24), Some(57.14));
        assert_eq!(coverage(Some(100_000.0), 99_999), Some(99.99));
        assert_eq!(coverage(Some(42.0), 42), Some(100.0));
        assert_eq!(coverage(Some(0.0), 0), None);
        assert_eq!(coverage(Some(-1.0), 1), None);
        assert_eq!(coverage(None, 1), None);
    }
}
