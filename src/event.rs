//! The events of a run. The summary, the progress bars, the plain lines and the NDJSON stream are all folds over
//! these events, so nothing is counted in two places.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    asset::{AssetKind, AssetStatus},
    run_id::RunId,
    status::FinalStatus,
};

/// An event of a command. `--progress json` prints each event as one line, such as `{"event":"answered",…}`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The only column of the list has an unusual name, which may be a task ID in a list without a header.
    #[serde(rename = "doubtful_header")]
    AmbiguousHeader,
    /// The delimiter of the list is not a comma, according to a `sep=` line or the first rows.
    Delimiter {
        /// The delimiter.
        delimiter: char,
    },
    /// The list has no rows except the header.
    EmptyList,
    /// Bytes after the end of a gzip stream were ignored.
    TrailingGarbage,
    /// A row of the list has no valid ID and is skipped.
    #[serde(rename = "bad_row")]
    InvalidRow {
        /// The line number of the row, starting from 1.
        line: u64,
        /// A description of the problem.
        reason: String,
    },
    /// A run has started and holds the lock on the archive.
    Started {
        /// The ID of the run.
        run_id: RunId,
        /// The location of the archive as given by the user.
        archive: String,
        /// The time when the run started.
        at: Timestamp,
    },
    /// An earlier run was interrupted before it had downloaded the files of some tasks. The current run downloads
    /// these files.
    Resuming {
        /// The ID of the interrupted run.
        run_id: RunId,
        /// The number of tasks whose files will be downloaded.
        tasks: u64,
    },
    /// The responses in the journal of an interrupted run were published.
    Recovered {
        /// The ID of the interrupted run.
        run_id: RunId,
        /// The number of tasks that were archived from the journal.
        tasks: u64,
        /// The number of damaged records in the journal, whose tasks are requested again.
        damaged: u64,
        /// The number of failed assets of the recovered tasks.
        assets_failed: u64,
    },
    /// The plan of the run is ready.
    Planned(InputCounts),
    /// A request was sent.
    Requested {
        /// The purpose of the request.
        kind: RequestKind,
    },
    /// The final response for a task was received and is in the journal.
    #[serde(rename = "answered")]
    ResponseReceived {
        /// The ID of the task.
        task_id: String,
        /// The final status of the task.
        status: FinalStatus,
    },
    /// An asset is settled: downloaded, failed or skipped.
    AssetSettled {
        /// The ID of the task.
        task_id: String,
        /// The ID of the clip, if the clip has an ID.
        clip_id: Option<String>,
        /// The kind of the asset.
        kind: AssetKind,
        /// The outcome of the asset.
        status: AssetStatus,
        /// The file size in bytes.
        bytes: Option<u64>,
        /// The number of requests for the asset, which is 0 if the file already existed.
        attempts: u32,
        /// The reason why there is no file.
        error: Option<String>,
    },
    /// A download failed with a transient error and will be retried.
    AssetRetrying {
        /// The ID of the task.
        task_id: String,
        /// The ID of the clip, if the clip has an ID.
        clip_id: Option<String>,
        /// The kind of the asset.
        kind: AssetKind,
        /// The error message.
        reason: String,
        /// The time in seconds until the retry.
        wait_seconds: f64,
    },
    /// A media host is down, or requests too long a pause before the next request. The run sends no more requests to
    /// the host and leaves its remaining files for the next run.
    HostDown {
        /// The name of the host.
        host: String,
        /// The last error from the host.
        reason: String,
    },
    /// Several clips of one task have the same audio, even after a second download.
    #[serde(rename = "identical_takes")]
    IdenticalAudio {
        /// The ID of the task.
        task_id: String,
        /// The IDs of the clips with the same audio.
        clips: Vec<String>,
    },
    /// A task is not finished and will be polled.
    Unfinished {
        /// The ID of the task.
        task_id: String,
        /// The status of the task, if the response contains a status.
        status: Option<String>,
    },
    /// A request failed with a transient error and will be retried.
    Retrying {
        /// The ID of the task.
        task_id: String,
        /// The error message.
        reason: String,
        /// The time in seconds until the retry.
        wait_seconds: f64,
    },
    /// The provider responded with status 429, so the run pauses all API requests.
    RateLimited {
        /// The length of the pause in seconds.
        wait_seconds: f64,
    },
    /// Every response so far had status 404. This event is emitted after many responses with this status, and at the
    /// end of the run.
    NoneFound {
        /// The number of responses so far.
        #[serde(rename = "answers")]
        responses: u64,
    },
    /// Tasks that were requested again are still not found. Their rows remain in the archive.
    StillNotFound {
        /// The number of tasks that are still not found.
        tasks: u64,
    },
    /// Some archived tasks have no rows in the assets table for kinds of assets that the run downloads. The missing
    /// assets are downloaded from the URLs in the stored responses.
    #[serde(rename = "assets_lacking")]
    MissingAssets {
        /// The number of tasks that lack assets.
        tasks: u64,
    },
    /// The provider has no response for a task whose row was damaged. The readable values of the row are kept.
    Salvaged {
        /// The ID of the task.
        task_id: String,
        /// The reason why there is no response.
        reason: String,
    },
    /// The run stops sending requests.
    Stopping {
        /// The reason, as a message for the user.
        reason: String,
    },
    /// The run ended without archiving a task.
    Missing {
        /// The ID of the task.
        task_id: String,
        /// The reason why the task is not archived, as written in `runs/<run_id>-unfinished.csv`.
        reason: MissingReason,
        /// A detailed reason, as a message for the user.
        detail: String,
    },
    /// The progress of a run, emitted about once per second.
    Progress(Progress),
    /// A segment was published as one part of each table for which it has rows. The tasks in the segment are now
    /// archived.
    Published(Published),
    /// `verify` has checked a file.
    Checked {
        /// The path of the file in the archive.
        path: String,
    },
    /// The progress of `verify`, emitted about once per second.
    Checking(Checking),
    /// The progress of a table rewrite, emitted about once per second.
    Rewriting(Rewriting),
    /// New parts of a table have replaced old parts.
    Rewritten {
        /// The name of the table.
        table: &'static str,
        /// The number of old parts that were removed.
        removed: u64,
        /// The number of new parts.
        parts: u64,
    },
    /// The run has finished.
    Finished {
        /// The time when the run finished.
        at: Timestamp,
        /// The duration of the run in seconds, measured on a monotonic clock.
        run_seconds: f64,
        /// The exit status of the process.
        exit_code: u8,
        /// Whether a signal ended the run.
        interrupted: bool,
    },
}

/// The row counts of the task list, excluding the header row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCounts {
    /// The total number of rows, excluding blank lines. The total is the sum of the other row counts.
    pub rows: u64,
    /// The number of rows with a missing or invalid ID.
    pub invalid: u64,
    /// The number of rows with a duplicate ID.
    pub duplicates: u64,
    /// The number of rows whose task belongs to another shard.
    pub other_shards: u64,
    /// The number of rows whose task is already archived.
    pub already_archived: u64,
    /// The number of rows whose task the run will request.
    pub selected: u64,
}

impl InputCounts {
    /// Adds the counts of another run to these counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.invalid += other.invalid;
        self.duplicates += other.duplicates;
        self.other_shards += other.other_shards;
        self.already_archived += other.already_archived;
        self.selected += other.selected;
    }
}

/// The number of rows in each table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// The number of rows in the tasks table, one per task.
    pub tasks: u64,
    /// The number of rows in the clips table, one per clip.
    pub clips: u64,
    /// The number of rows in the lyrics table, one per set of lyrics.
    pub lyrics: u64,
    /// The number of rows in the assets table, one per asset.
    pub assets: u64,
}

/// The progress of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// The number of tasks that need no more requests in this run.
    pub settled: u64,
    /// The number of tasks to request in this run.
    pub selected: u64,
    /// The number of tasks that have been requested but are not finished.
    pub unfinished: u64,
    /// Whether every task has been requested at least once.
    #[serde(rename = "first_pass_over")]
    pub first_pass_done: bool,
    /// The estimated time in seconds until the last request and download are complete, if known.
    pub seconds_left: Option<f64>,
    /// The progress of the downloads.
    pub downloads: Downloads,
}

/// The progress of `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checking {
    /// The type of files that are being checked: first parts, then media files.
    #[serde(rename = "what")]
    pub phase: &'static str,
    /// The number of files checked so far.
    pub done: u64,
    /// The total number of files of this type to check.
    #[serde(rename = "of")]
    pub total: u64,
    /// The number of bytes read so far.
    pub bytes: u64,
}

/// The progress of a table rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewriting {
    /// The name of the table.
    pub table: &'static str,
    /// A label that describes what is counted, such as `parts read`.
    #[serde(rename = "what")]
    pub label: &'static str,
    /// The number of parts or rows counted so far.
    pub done: u64,
    /// The total number of parts or rows to process.
    #[serde(rename = "of")]
    pub total: u64,
}

/// The progress of downloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Downloads {
    /// The number of downloads that have succeeded or failed.
    pub settled: u64,
    /// The number of files to download, as listed in the responses received so far.
    #[serde(rename = "wanted")]
    pub expected: u64,
    /// The number of bytes received.
    pub bytes: u64,
    /// The recent download speed in bytes per second.
    pub bytes_per_second: f64,
}

impl Downloads {
    /// Counts the asset in an [`Event::AssetSettled`], unless the asset was skipped.
    pub(crate) fn record(&mut self, event: &Event) {
        let is_expected = matches!(event, Event::AssetSettled { status, .. } if *status != AssetStatus::Skipped);
        self.settled += u64::from(is_expected);
    }

    /// Updates the download speed. `bytes` is the total number of bytes received, and `elapsed` is the time since the
    /// last update. The speed is an exponential moving average in which the latest interval has a weight of one half.
    pub(crate) fn update_speed(&mut self, bytes: u64, elapsed: Duration) {
        let recent = bytes.saturating_sub(self.bytes) as f64 / elapsed.as_secs_f64();
        (self.bytes, self.bytes_per_second) = (bytes, f64::midpoint(self.bytes_per_second, recent));
    }
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// The initial request for a task.
    #[serde(rename = "first")]
    Initial,
    /// A poll of an unfinished task.
    Poll,
    /// A retry of an initial request or a poll.
    Retry,
}

/// The reason why a run did not archive a task, as written in the `reason` column of `runs/<run_id>-unfinished.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingReason {
    /// The task was not finished when the run ended, or the run had no time to request the task.
    Unfinished,
    /// The requests for the task failed.
    Error,
    /// The response for the task is not a valid task document.
    Unreadable,
    /// A signal ended the run before the task was archived.
    Interrupted,
}

impl MissingReason {
    /// Returns the value for the `reason` column of `runs/<run_id>-unfinished.csv`.
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

/// The rows and files that are added to the archive when a segment is published.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Published {
    /// The sequence number of the part within its run.
    pub part: u32,
    /// The number of rows in each table.
    pub rows: RowCounts,
    /// The number of tasks by status.
    pub by_status: BTreeMap<FinalStatus, u64>,
    /// The number of tasks by type. Tasks without a type are not counted.
    pub by_type: BTreeMap<String, u64>,
    /// The credits spent on successful tasks.
    pub credits_cost: f64,
    /// Counts of the assets by outcome.
    pub assets: AssetCounts,
}

/// Counts of assets by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetCounts {
    /// The number of downloaded assets.
    pub ok: u64,
    /// The number of failed assets.
    pub failed: u64,
    /// The number of skipped assets, which have no file.
    pub skipped: u64,
    /// The total size of all downloaded files in bytes.
    pub bytes: u64,
    /// The number of bytes that were received but discarded.
    #[serde(skip)]
    pub discarded_bytes: u64,
    /// The number of failed assets by reason.
    #[serde(skip)]
    pub reasons: BTreeMap<String, u64>,
}

impl AssetCounts {
    /// Adds the counts in `other` to these counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.bytes += other.bytes;
        self.discarded_bytes += other.discarded_bytes;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}
