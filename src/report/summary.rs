//! How a run went: `runs/<run_id>.json`, a fold over the run's events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, MissingReason, Published, RequestKind},
    run_id::RunId,
};

/// The types that every summary names, at zero if there were none.
const TYPES: [&str; 4] = ["music", "lyrics", "upload", "concat"];

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its name; empty before it began.
    pub run_id: String,
    /// The program's version.
    pub version: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The exit status.
    pub exit_code: u8,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Whether it first published what an earlier run had left in the journal.
    pub recovered: bool,
    /// What became of the input's rows.
    pub input: Input,
    /// What became of the tasks that were selected; their sum.
    pub tasks: Tasks,
    /// What was archived, by type.
    pub by_type: BTreeMap<String, u64>,
    /// The rows that were added.
    pub rows: RowCounts,
    /// What became of the assets.
    pub assets: Assets,
    /// The credits of the archived successes.
    pub credits_cost: f64,
    /// The API requests.
    pub requests: Requests,
}

/// What became of the input's data rows; `rows` is the sum of the others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Input {
    /// All of them, without blank lines.
    pub rows: u64,
    /// The ID is absent or bad.
    pub invalid: u64,
    /// The ID came before.
    pub duplicates: u64,
    /// Another shard takes it.
    pub other_shards: u64,
    /// It is in the archive.
    pub already_archived: u64,
    /// It is asked for.
    pub selected: u64,
}

/// What became of tasks. The first four are archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// It ended well.
    pub success: u64,
    /// It failed at the provider.
    pub failure: u64,
    /// It timed out at the provider.
    pub timeout: u64,
    /// The provider does not know it.
    pub not_found: u64,
    /// It was not finished, or there was no time to ask.
    pub unfinished: u64,
    /// What came is no task.
    pub unreadable: u64,
    /// Its requests failed.
    pub errors: u64,
}

/// Rows by table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// One a task.
    pub tasks: u64,
    /// One a clip.
    pub clips: u64,
    /// One a lyrics.
    pub lyrics: u64,
    /// One an asset.
    pub assets: u64,
}

/// What became of assets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assets {
    /// In the archive.
    pub ok: u64,
    /// Could not be had.
    pub failed: u64,
    /// There was nothing to have.
    pub skipped: u64,
    /// Of those in the archive.
    pub bytes: u64,
}

/// API requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All of them.
    pub total: u64,
    /// Questions sent again.
    pub retries: u64,
    /// Questions after a task's first answer.
    pub polls: u64,
    /// Answered with 429.
    pub rate_limited: u64,
}

/// An archive as it stands, in the same words as a run.
#[derive(Clone, Debug, Serialize)]
pub struct ArchiveSummary {
    /// The last run, its counts replaced by the archive's.
    #[serde(flatten)]
    pub last: RunSummary,
    /// How many runs there were.
    pub runs: u64,
}

impl Default for RunSummary {
    fn default() -> Self {
        Self {
            run_id: String::new(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            interrupted: false,
            recovered: false,
            input: Input::default(),
            tasks: Tasks::default(),
            by_type: TYPES.iter().map(|kind| ((*kind).into(), 0)).collect(),
            rows: RowCounts::default(),
            assets: Assets::default(),
            credits_cost: 0.0,
            requests: Requests::default(),
        }
    }
}

impl RunSummary {
    /// Takes one event in.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Started { run_id, at, .. } => self.start(run_id, *at),
            Event::Recovered { .. } => self.recovered = true,
            Event::Planned(planned) => {
                self.input = Input {
                    rows: planned.rows,
                    invalid: planned.invalid,
                    duplicates: planned.duplicates,
                    other_shards: planned.other_shards,
                    already_archived: planned.already_archived,
                    selected: planned.selected,
                };
            }
            Event::Requested { kind } => {
                self.requests.total += 1;
                match kind {
                    RequestKind::First => {}
                    RequestKind::Poll => self.requests.polls += 1,
                    RequestKind::Retry => self.requests.retries += 1,
                }
            }
            Event::RateLimited { .. } => self.requests.rate_limited += 1,
            Event::Missing { reason, .. } => match reason {
                MissingReason::Unfinished | MissingReason::Interrupted => self.tasks.unfinished += 1,
                MissingReason::Unreadable => self.tasks.unreadable += 1,
                MissingReason::Error => self.tasks.errors += 1,
            },
            Event::Published(published) => self.add(published),
            Event::Finished { at, exit_code, interrupted } => {
                self.finished_at = Some(*at);
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

    fn add(&mut self, published: &Published) {
        let rows = |table| published.rows.get(table).copied().unwrap_or(0);
        self.rows.tasks += rows("tasks");
        self.rows.clips += rows("clips");
        self.rows.lyrics += rows("lyrics");
        for (status, count) in &published.by_status {
            self.tasks.add(status, *count);
        }
        for (kind, count) in &published.by_type {
            *self.by_type.entry(kind.clone()).or_default() += count;
        }
        self.credits_cost += published.credits_cost;
    }

    /// Tasks of the run that are not archived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.tasks.missing()
    }
}

impl Input {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.invalid += other.invalid;
        self.duplicates += other.duplicates;
        self.other_shards += other.other_shards;
        self.already_archived += other.already_archived;
        self.selected += other.selected;
    }
}

impl Requests {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.retries += other.retries;
        self.polls += other.polls;
        self.rate_limited += other.rate_limited;
    }
}

impl Tasks {
    /// Counts archived tasks by their status.
    pub fn add(&mut self, status: &str, count: u64) {
        match status {
            "success" => self.success += count,
            "failure" => self.failure += count,
            "timeout" => self.timeout += count,
            "not_found" => self.not_found += count,
            _ => {}
        }
    }

    /// Those that are archived.
    #[must_use]
    pub fn archived(&self) -> u64 {
        self.success + self.failure + self.timeout + self.not_found
    }

    /// Those that are not.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.unfinished + self.unreadable + self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_after_the_first_answer_is_a_poll_and_a_repeated_one_a_retry() {
        let mut summary = RunSummary::default();
        for kind in [RequestKind::First, RequestKind::Retry, RequestKind::Poll, RequestKind::Retry] {
            summary.observe(&Event::Requested { kind });
        }
        assert_eq!(summary.requests, Requests { total: 4, retries: 2, polls: 1, rate_limited: 0 });
    }

    #[test]
    fn it_has_the_keys_that_scripts_rely_on() {
        let json = serde_json::to_value(RunSummary::default()).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        for key in ["run_id", "version", "started_at", "finished_at", "exit_code", "interrupted", "recovered"] {
            assert!(keys.contains(&key), "{key}");
        }
        assert_eq!(json["by_type"], serde_json::json!({"music": 0, "lyrics": 0, "upload": 0, "concat": 0}));
    }
}
