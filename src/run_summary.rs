//! The summary of a run, stored in `runs/<run_id>.json`. The summary is a fold over the events of the run.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{AssetCounts, Event, InputCounts, MissingReason, Published, RequestKind, RowCounts},
    run_id::RunId,
    status::FinalStatus,
};

/// The task types that every summary lists, even with a count of zero.
const TYPES: [&str; 4] = ["music", "lyrics", "upload", "concat"];

/// The summary of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    /// The ID of the run, or an empty string before the run starts.
    pub run_id: String,
    /// The command that was run.
    #[serde(default)]
    pub command: RunCommand,
    /// The version of the program.
    pub version: String,
    /// The start time of the run.
    pub started_at: Option<Timestamp>,
    /// The end time of the run.
    pub finished_at: Option<Timestamp>,
    /// The duration of the run in seconds, measured with a monotonic clock. The duration is absent for a killed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_seconds: Option<f64>,
    /// The exit status of the run.
    pub exit_code: u8,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// Whether the run recovered segments of an earlier, interrupted run.
    pub recovered: bool,
    /// The numbers of the parts that later runs have recovered from this run's journal and added to this summary. This
    /// list ensures that no part is counted twice.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered_parts: BTreeSet<u32>,
    /// The number of input rows, by category.
    pub input: InputCounts,
    /// The number of selected tasks, by outcome.
    pub tasks: TaskCounts,
    /// The number of archived tasks, by type.
    pub by_type: BTreeMap<String, u64>,
    /// The number of rows that the run added, by table.
    pub rows: RowCounts,
    /// The number of assets, by outcome.
    pub assets: AssetCounts,
    /// The total credit cost of the successful tasks that the run archived.
    pub credits_cost: f64,
    /// The number of API requests, by kind.
    pub requests: RequestCounts,
}

/// A command that writes a run summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCommand {
    /// The `export` command.
    #[default]
    Export,
    /// The `repair` command.
    Repair,
    /// The `compact` command.
    Compact,
    /// The `rebuild` command.
    Rebuild,
}

impl RunCommand {
    /// Whether the command archives tasks. `compact` and `rebuild` only rewrite tables, so their counts are not added
    /// to the totals.
    #[must_use]
    pub fn is_archiving(self) -> bool {
        matches!(self, Self::Export | Self::Repair)
    }

    /// The name of the command on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Repair => "repair",
            Self::Compact => "compact",
            Self::Rebuild => "rebuild",
        }
    }
}

/// The number of tasks, by outcome. Only tasks that succeeded, failed, timed out or were not found are archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Tasks that succeeded.
    pub success: u64,
    /// Tasks that failed at the provider.
    pub failure: u64,
    /// Tasks that timed out at the provider.
    pub timeout: u64,
    /// Tasks that the provider did not find.
    pub not_found: u64,
    /// Tasks that were unfinished, or not yet archived, when the run ended.
    pub unfinished: u64,
    /// Tasks whose response did not contain a valid task.
    pub unreadable: u64,
    /// Tasks whose requests failed.
    pub errors: u64,
}

/// The number of API requests, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// The total number of requests.
    pub total: u64,
    /// The number of retries.
    pub retries: u64,
    /// The number of polls.
    pub polls: u64,
    /// The number of requests that received a 429.
    pub rate_limited: u64,
}

impl Default for RunSummary {
    fn default() -> Self {
        Self {
            run_id: String::new(),
            command: RunCommand::default(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: None,
            finished_at: None,
            run_seconds: None,
            exit_code: 0,
            interrupted: false,
            recovered: false,
            recovered_parts: BTreeSet::new(),
            input: InputCounts::default(),
            tasks: TaskCounts::default(),
            by_type: TYPES.iter().map(|kind| ((*kind).into(), 0)).collect(),
            rows: RowCounts::default(),
            assets: AssetCounts::default(),
            credits_cost: 0.0,
            requests: RequestCounts::default(),
        }
    }
}

impl RunSummary {
    /// Updates the summary with an event.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::Started { run_id, at, .. } => self.start(run_id, *at),
            Event::Recovered { .. } => self.recovered = true,
            Event::Planned(counts) => self.input = counts.clone(),
            Event::Requested { kind } => {
                self.requests.total += 1;
                match kind {
                    RequestKind::Initial => {}
                    RequestKind::Poll => self.requests.polls += 1,
                    RequestKind::Retry => self.requests.retries += 1,
                }
            }
            Event::StillNotFound { tasks } => self.tasks.not_found += tasks,
            Event::RateLimited { .. } => self.requests.rate_limited += 1,
            Event::Missing { reason, .. } => match reason {
                MissingReason::Unfinished | MissingReason::Interrupted => self.tasks.unfinished += 1,
                MissingReason::Unreadable => self.tasks.unreadable += 1,
                MissingReason::Error => self.tasks.errors += 1,
            },
            Event::Published(published) => self.add(published),
            Event::Finished { at, run_seconds, exit_code, interrupted } => {
                self.finished_at = Some(*at);
                self.run_seconds = Some(*run_seconds);
                self.exit_code = *exit_code;
                self.interrupted = *interrupted;
            }
            _ => {}
        }
    }

    fn start(&mut self, run_id: &RunId, at: Timestamp) {
        self.run_id = run_id.to_string();
        self.started_at = Some(at);
    }

    /// Adds tasks that a later run has published from this run's journal. If this run ended cleanly, its summary
    /// already counts these tasks as unfinished. If this run was killed, its summary does not count these tasks yet.
    pub(crate) fn with_recovered(mut self, published: &Published) -> Self {
        self.add(published);
        self.tasks.unfinished = self.tasks.unfinished.saturating_sub(published.rows.tasks);
        self.input.selected = self.tasks.archived() + self.tasks.missing();
        let input = &mut self.input;
        input.rows = input.invalid + input.duplicates + input.other_shards + input.already_archived + input.selected;
        self
    }

    fn add(&mut self, published: &Published) {
        self.rows.tasks += published.rows.tasks;
        self.rows.clips += published.rows.clips;
        self.rows.lyrics += published.rows.lyrics;
        self.rows.assets += published.rows.assets;
        self.assets.add(&published.assets);
        for (status, count) in &published.by_status {
            self.tasks.add(*status, *count);
        }
        for (kind, count) in &published.by_type {
            *self.by_type.entry(kind.clone()).or_default() += count;
        }
        self.credits_cost += published.credits_cost;
    }

    /// The duration of the run in seconds. If the monotonic measurement is absent, the duration is the difference
    /// between the end time and the start time.
    #[must_use]
    pub fn duration_seconds(&self) -> Option<f64> {
        let wall_clock_seconds = || Some(self.finished_at?.duration_since(self.started_at?).as_secs_f64());
        self.run_seconds.or_else(wall_clock_seconds).filter(|seconds| *seconds >= 0.0)
    }

    /// The number of selected tasks that the run did not archive.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.tasks.missing()
    }
}

impl RequestCounts {
    /// Adds the counts of another run.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.retries += other.retries;
        self.polls += other.polls;
        self.rate_limited += other.rate_limited;
    }
}

impl TaskCounts {
    /// Adds `count` archived tasks with this status.
    pub(crate) fn add(&mut self, status: FinalStatus, count: u64) {
        match status {
            FinalStatus::Success => self.success += count,
            FinalStatus::Failure => self.failure += count,
            FinalStatus::Timeout => self.timeout += count,
            FinalStatus::NotFound => self.not_found += count,
        }
    }

    /// The number of archived tasks.
    #[must_use]
    pub fn archived(&self) -> u64 {
        self.success + self.failure + self.timeout + self.not_found
    }

    /// The number of tasks that are not archived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.unfinished + self.unreadable + self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_as_initial_polls_and_retries() {
        let mut summary = RunSummary::default();
        for kind in [RequestKind::Initial, RequestKind::Retry, RequestKind::Poll, RequestKind::Retry] {
            summary.observe(&Event::Requested { kind });
        }
        assert_eq!(summary.requests, RequestCounts { total: 4, retries: 2, polls: 1, rate_limited: 0 });
    }

    #[test]
    fn a_run_summary_has_the_keys_that_scripts_rely_on() {
        let expected = serde_json::json!({
            "run_id": "", "command": "export", "version": env!("CARGO_PKG_VERSION"), "started_at": null, "finished_at": null, "exit_code": 0,
            "interrupted": false, "recovered": false,
            "input": { "rows": 0, "invalid": 0, "duplicates": 0, "other_shards": 0, "already_archived": 0, "selected": 0 },
            "tasks": { "success": 0, "failure": 0, "timeout": 0, "not_found": 0, "unfinished": 0, "unreadable": 0, "errors": 0 },
            "by_type": { "music": 0, "lyrics": 0, "upload": 0, "concat": 0 },
            "rows": { "tasks": 0, "clips": 0, "lyrics": 0, "assets": 0 },
            "assets": { "ok": 0, "failed": 0, "skipped": 0, "bytes": 0 },
            "credits_cost": 0.0,
            "requests": { "total": 0, "retries": 0, "polls": 0, "rate_limited": 0 },
        });
        assert_eq!(serde_json::to_value(RunSummary::default()).unwrap(), expected);
    }
}
