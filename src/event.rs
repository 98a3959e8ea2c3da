//! The events of a run. The summary, the bars, the plain lines and the NDJSON stream are folds over them; nothing is
//! counted in two places.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    asset::{AssetKind, AssetStatus},
    run_id::RunId,
    status::FinalStatus,
};

/// An event. With `--progress json`, each is a line: `{"event":"answered",…}`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The list's only column has an unusual name: perhaps it is an ID, and the list has no headers.
    DoubtfulHeader,
    /// The list's delimiter is not a comma, as a `sep=` line or its first rows show.
    Delimiter {
        /// The delimiter.
        delimiter: char,
    },
    /// The list has no rows but its header.
    EmptyList,
    /// Bytes after the end of a gzip stream were ignored.
    TrailingGarbage,
    /// A row of the list has no valid ID; it is skipped.
    BadRow {
        /// Its line number, from 1.
        line: u64,
        /// A description of the problem.
        reason: String,
    },
    /// A run began and holds the archive.
    Started {
        /// Its name.
        run_id: RunId,
        /// Where the archive is, as the user named it.
        archive: String,
        /// When.
        at: Timestamp,
    },
    /// An earlier run was cut short before it had downloaded the files of some tasks: this run downloads them.
    Resuming {
        /// The run that was cut short.
        run_id: RunId,
        /// How many tasks.
        tasks: u64,
    },
    /// Responses in the journal of an earlier run were published.
    Recovered {
        /// The run that was cut short.
        run_id: RunId,
        /// How many tasks were archived from its journal.
        tasks: u64,
        /// How many damaged records were found; their tasks are requested again.
        damaged: u64,
        /// How many of their assets could not be downloaded.
        assets_failed: u64,
    },
    /// The plan of the run.
    Planned(InputCounts),
    /// A request was sent.
    Requested {
        /// Its purpose.
        kind: RequestKind,
    },
    /// A task has its final response, and it is in the journal.
    Answered {
        /// The task.
        task_id: String,
        /// How it ended.
        status: FinalStatus,
    },
    /// An asset is settled: downloaded, failed or skipped.
    AssetSettled {
        /// The task.
        task_id: String,
        /// The clip, if it has an ID.
        clip_id: Option<String>,
        /// What it is.
        kind: AssetKind,
        /// The outcome.
        status: AssetStatus,
        /// How large it is.
        bytes: Option<u64>,
        /// Requests for it; none for a file that existed already.
        attempts: u32,
        /// The reason why there is no file.
        error: Option<String>,
    },
    /// A download failed with a transient error; it will be retried.
    AssetRetrying {
        /// The task.
        task_id: String,
        /// The clip, if it has an ID.
        clip_id: Option<String>,
        /// What it is.
        kind: AssetKind,
        /// The error.
        reason: String,
        /// The time until the retry.
        wait_seconds: f64,
    },
    /// A media host is down, or requests too long a pause: it gets no further requests, and its files are left to the next
    /// run.
    HostDown {
        /// Its name.
        host: String,
        /// Its last error.
        reason: String,
    },
    /// Clips of one task have the same audio, even after it was fetched again.
    IdenticalTakes {
        /// The task.
        task_id: String,
        /// The clips.
        clips: Vec<String>,
    },
    /// A task is not finished; it will be polled.
    Unfinished {
        /// The task.
        task_id: String,
        /// Its status, if it has one.
        status: Option<String>,
    },
    /// A request failed with a transient error; it will be retried.
    Retrying {
        /// The task.
        task_id: String,
        /// The error.
        reason: String,
        /// The time until the retry.
        wait_seconds: f64,
    },
    /// The provider responded 429: no request is sent for a while.
    RateLimited {
        /// How long.
        wait_seconds: f64,
    },
    /// All responses so far were 404: reported after many of them, and at the end.
    NoneFound {
        /// How many.
        answers: u64,
    },
    /// Tasks that were requested again are still not found; their rows stay.
    StillNotFound {
        /// How many.
        tasks: u64,
    },
    /// Archived tasks lack rows of kinds of assets that the run wants: they are downloaded from the URLs in the
    /// stored responses.
    AssetsLacking {
        /// How many tasks.
        tasks: u64,
    },
    /// The provider has no response for a task whose row was damaged; what could be read of the row is kept.
    Salvaged {
        /// The task.
        task_id: String,
        /// The reason why there is no response.
        reason: String,
    },
    /// The run sends no further requests.
    Stopping {
        /// The reason, as a message.
        reason: String,
    },
    /// A task that was still not archived when the run ended.
    Missing {
        /// The task.
        task_id: String,
        /// Why.
        reason: MissingReason,
        /// The reason, as a message.
        detail: String,
    },
    /// The run's progress, about once a second.
    Progress(Progress),
    /// A segment is published: a part of each table that has rows. Its tasks are archived.
    Published(Published),
    /// A file has been checked.
    Checked {
        /// Its path in the archive.
        path: String,
    },
    /// The progress of a check, about once a second.
    Checking(Checking),
    /// The progress of a table that is rewritten, about once a second.
    Rewriting(Rewriting),
    /// New parts of a table have replaced others.
    Rewritten {
        /// The table.
        table: &'static str,
        /// How many parts there were.
        removed: u64,
        /// How many there are now.
        parts: u64,
    },
    /// The run is over.
    Finished {
        /// When.
        at: Timestamp,
        /// How long it took, on a monotonic clock.
        run_seconds: f64,
        /// The exit status.
        exit_code: u8,
        /// Whether a signal ended it.
        interrupted: bool,
    },
}

/// The input's data rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCounts {
    /// All of them, without blank lines; the sum of the five below.
    pub rows: u64,
    /// The ID is missing or invalid.
    pub invalid: u64,
    /// The ID is a duplicate.
    pub duplicates: u64,
    /// The task belongs to another shard.
    pub other_shards: u64,
    /// The task is archived already.
    pub already_archived: u64,
    /// The task is requested.
    pub selected: u64,
}

impl InputCounts {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.invalid += other.invalid;
        self.duplicates += other.duplicates;
        self.other_shards += other.other_shards;
        self.already_archived += other.already_archived;
        self.selected += other.selected;
    }
}

/// Rows by table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// One per task.
    pub tasks: u64,
    /// One per clip.
    pub clips: u64,
    /// One per text of lyrics.
    pub lyrics: u64,
    /// One per asset.
    pub assets: u64,
}

/// The progress of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// Tasks that need no further request in this run.
    pub settled: u64,
    /// Tasks to request in this run.
    pub selected: u64,
    /// Tasks that were requested and are not finished.
    pub unfinished: u64,
    /// Whether every task has been requested once.
    pub first_pass_over: bool,
    /// The estimated time until the last request or download, if it is known.
    pub seconds_left: Option<f64>,
    /// The downloads.
    pub downloads: Downloads,
}

/// The progress of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checking {
    /// The files that are being checked: parts, then media.
    pub what: &'static str,
    /// The number done.
    pub done: u64,
    /// The known total.
    pub of: u64,
    /// Bytes read since the start.
    pub bytes: u64,
}

/// The progress of a table that is rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewriting {
    /// The table.
    pub table: &'static str,
    /// The phase, such as `parts read`.
    pub what: &'static str,
    /// The number done.
    pub done: u64,
    /// The known total.
    pub of: u64,
}

/// The progress of downloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Downloads {
    /// Files that are settled.
    pub settled: u64,
    /// Files that responses have named so far.
    pub wanted: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Recent bytes per second.
    pub bytes_per_second: f64,
}

impl Downloads {
    /// Counts a settled asset; skipped ones do not count.
    pub(crate) fn note(&mut self, event: &Event) {
        let is_expected = matches!(event, Event::AssetSettled { status, .. } if *status != AssetStatus::Skipped);
        self.settled += u64::from(is_expected);
    }

    /// Updates the speed with the bytes received in the time `since` the last update: the last interval has a weight of one
    /// half, the one before a quarter, and so on.
    pub(crate) fn receive(&mut self, bytes: u64, since: Duration) {
        let lately = bytes.saturating_sub(self.bytes) as f64 / since.as_secs_f64();
        (self.bytes, self.bytes_per_second) = (bytes, f64::midpoint(self.bytes_per_second, lately));
    }
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// A task's initial request.
    First,
    /// A poll of an unfinished task.
    Poll,
    /// A retry of either.
    Retry,
}

/// The reason why a task of a run is not archived: the `reason` of `-unfinished.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingReason {
    /// It was not finished when the run ended, or there was no time to request it.
    Unfinished,
    /// Its requests failed.
    Error,
    /// The response is not a task.
    Unreadable,
    /// A signal ended the run first.
    Interrupted,
}

impl MissingReason {
    /// The word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Error => "error",
            Self::Unreadable => "unreadable",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The rows and files of one publication.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Published {
    /// The part's number in its run.
    pub part: u32,
    /// Rows by table.
    pub rows: RowCounts,
    /// Tasks by status.
    pub by_status: BTreeMap<FinalStatus, u64>,
    /// Tasks by type; those without one are left out.
    pub by_type: BTreeMap<String, u64>,
    /// The credits of the successes.
    pub credits_cost: f64,
    /// The assets.
    pub assets: AssetCounts,
}

/// Counts of assets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetCounts {
    /// Downloaded.
    pub ok: u64,
    /// Failed.
    pub failed: u64,
    /// Without a file.
    pub skipped: u64,
    /// The bytes of all downloaded files.
    pub bytes: u64,
    /// Bytes received and discarded.
    #[serde(skip)]
    pub wasted: u64,
    /// The failures by reason.
    #[serde(skip)]
    pub reasons: BTreeMap<String, u64>,
}

impl AssetCounts {
    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.bytes += other.bytes;
        self.wasted += other.wasted;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}
