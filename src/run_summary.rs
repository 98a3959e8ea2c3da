//! The summary of a run, `runs/<run_id>.json`: a fold over its events.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{AssetCounts, Event, InputCounts, MissingReason, Published, RequestKind, RowCounts},
    run_id::RunId,
    status::FinalStatus,
};

/// The types that every summary lists, with zero if there were none.
const TYPES: [&str; 4] = ["music", "lyrics", "upload", "concat"];

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its name; empty before it began.
    pub run_id: String,
    /// The command.
    #[serde(default)]
    pub command: RunCommand,
    /// The program's version.
    pub version: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How long it took, on a monotonic clock; absent for a killed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_seconds: Option<f64>,
    /// The exit status.
    pub exit_code: u8,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Whether it first published leftovers of an earlier run.
    pub recovered: bool,
    /// The parts that a later run recovered from its journal and counted here, so that none is counted twice.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered_parts: BTreeSet<u32>,
    /// The input's rows.
    pub input: InputCounts,
    /// The selected tasks, by outcome.
    pub tasks: Tasks,
    /// The archived tasks by type.
    pub by_type: BTreeMap<String, u64>,
    /// The rows that were added.
    pub rows: RowCounts,
    /// The assets.
    pub assets: AssetCounts,
    /// The credits of the archived successes.
    pub credits_cost: f64,
    /// The API requests.
    pub requests: Requests,
}

/// A command that leaves a record of its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCommand {
    /// `export`.
    #[default]
    Export,
    /// `repair`.
    Repair,
    /// `compact`.
    Compact,
    /// `rebuild`.
    Rebuild,
}

impl RunCommand {
    /// Whether it archives tasks. The others rewrite tables; their counts are not summed.
    #[must_use]
    pub fn is_archiving(self) -> bool {
        matches!(self, Self::Export | Self::Repair)
    }

    /// Its name on the command line.
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

/// Tasks by outcome. The first four are archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// It succeeded.
    pub success: u64,
    /// It failed at the provider.
    pub failure: u64,
    /// It timed out at the provider.
    pub timeout: u64,
    /// The provider does not know it.
    pub not_found: u64,
    /// It was not finished, or there was no time to request it.
    pub unfinished: u64,
    /// The response is not a task.
    pub unreadable: u64,
    /// Its requests failed.
    pub errors: u64,
}

/// API requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All of them.
    pub total: u64,
    /// Retries.
    pub retries: u64,
    /// Polls.
    pub polls: u64,
    /// Answered with 429.
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
            tasks: Tasks::default(),
            by_type: TYPES.iter().map(|kind| ((*kind).into(), 0)).collect(),
            rows: RowCounts::default(),
            assets: AssetCounts::default(),
            credits_cost: 0.0,
            requests: Requests::default(),
        }
    }
}

impl RunSummary {
    /// Counts an event.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::Started { run_id, at, .. } => self.start(run_id, *at),
            Event::Recovered { .. } => self.recovered = true,
            Event::Planned(counts) => self.input = counts.clone(),
            Event::Requested { kind } => {
                self.requests.total += 1;
                match kind {
                    RequestKind::First => {}
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

    /// The same run with the tasks that a later run has published from its journal: they counted as unfinished, or, if the
    /// run was killed, not at all.
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

    /// How long it took, in seconds; by the wall clock if it is another process's run.
    #[must_use]
    pub fn took(&self) -> Option<f64> {
        let by_wall_clock = || Some(self.finished_at?.duration_since(self.started_at?).as_secs_f64());
        self.run_seconds.or_else(by_wall_clock).filter(|seconds| *seconds >= 0.0)
    }

    /// Tasks of the run that are not archived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.tasks.missing()
    }
}

impl Requests {
    /// Adds another run's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.retries += other.retries;
        self.polls += other.polls;
        self.rate_limited += other.rate_limited;
    }
}

impl Tasks {
    /// Counts archived tasks by their status.
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
        for kind in [RequestKind::First, RequestKind::Retry, RequestKind::Poll, RequestKind::Retry] {
            summary.observe(&Event::Requested { kind });
        }
        assert_eq!(summary.requests, Requests { total: 4, retries: 2, polls: 1, rate_limited: 0 });
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
