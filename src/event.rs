//! Everything a run can say. The summary, the bars, the plain lines and the NDJSON stream are folds
//! over these; nothing is counted in two places.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    asset::{AssetKind, AssetStatus},
    run_id::RunId,
    status::FinalStatus,
};

/// One thing that happened. With `--progress json` each is a line: `{"event":"answered",…}`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The list's only column has an unusual name: perhaps it is an ID, and the list has no headers.
    DoubtfulHeader {
        /// What stands in the first row.
        title: String,
    },
    /// The list's fields are not separated by commas, as a `sep=` line or its first rows show.
    Delimiter {
        /// What separates them.
        delimiter: char,
    },
    /// The list holds no row but its header.
    EmptyList,
    /// Bytes behind the end of a gzip stream were ignored.
    TrailingGarbage,
    /// A row of the list has no ID, or a bad one; it is skipped.
    BadRow {
        /// Its line in the file, from 1.
        line: u64,
        /// What is wrong.
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
    /// An earlier run was cut short before the files of some of its tasks were there: they are downloaded.
    Resuming {
        /// The run that was cut short.
        run_id: RunId,
        /// How many tasks.
        tasks: u64,
    },
    /// Answers that an earlier run had journalled were published.
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
    /// What is to be done.
    Planned(InputCounts),
    /// A request was sent.
    Requested {
        /// What for.
        kind: RequestKind,
    },
    /// A task has its final answer, and the journal holds it.
    Answered {
        /// The task.
        task_id: String,
        /// How it ended.
        status: FinalStatus,
    },
    /// An asset is there, or known unavailable.
    AssetSettled {
        /// The task.
        task_id: String,
        /// The clip, if it has an ID.
        clip_id: Option<String>,
        /// What it is.
        kind: AssetKind,
        /// What became of it.
        status: AssetStatus,
        /// How large it is.
        bytes: Option<u64>,
        /// Requests that were sent for it; none for a file that was there already.
        attempts: u32,
        /// Why it is not there.
        error: Option<String>,
    },
    /// A download failed in a way that may pass; it is tried again.
    AssetRetrying {
        /// The task.
        task_id: String,
        /// The clip, if it has an ID.
        clip_id: Option<String>,
        /// What it is.
        kind: AssetKind,
        /// What happened.
        reason: String,
        /// How long until the next try.
        wait_seconds: f64,
    },
    /// A host of media is down, or asks for a pause for too long: it is not asked any more, and its
    /// files are left to the next run.
    HostDown {
        /// Whose name it has.
        host: String,
        /// What it did last.
        reason: String,
    },
    /// Takes of one task have the same bytes, also when they were fetched again.
    IdenticalTakes {
        /// The task.
        task_id: String,
        /// The clips.
        clips: Vec<String>,
    },
    /// A task is not finished yet; it is requested again.
    Unfinished {
        /// The task.
        task_id: String,
        /// The status it has, if any.
        status: Option<String>,
    },
    /// A request failed in a way that may pass; it is sent again.
    Retrying {
        /// The task.
        task_id: String,
        /// What happened.
        reason: String,
        /// How long until the next try.
        wait_seconds: f64,
    },
    /// The provider said 429: nothing is sent for a while.
    RateLimited {
        /// How long.
        wait_seconds: f64,
    },
    /// All answers so far were 404: said after many of them, and at the end.
    NoneFound {
        /// How many.
        answers: u64,
    },
    /// Tasks that were requested again are not found still; their rows stay as they are.
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
    /// The provider gave no answer about a task whose row was damaged; what could be read of the row is kept.
    Salvaged {
        /// The task.
        task_id: String,
        /// Why there is no answer.
        reason: String,
    },
    /// The run will not ask further, and why.
    Stopping {
        /// What a person should know.
        reason: String,
    },
    /// A task of the run that is not archived, known at its end.
    Missing {
        /// The task.
        task_id: String,
        /// Why.
        reason: MissingReason,
        /// What a person should know.
        detail: String,
    },
    /// How things stand, about once a second.
    Progress(Progress),
    /// A part of each table that has rows is in place, and its tasks are archived.
    Published(Published),
    /// A check of an archive is done with a file.
    Checked {
        /// Its path in the archive.
        path: String,
    },
    /// How a check of an archive stands, about once a second.
    Checking(Checking),
    /// How it stands with a table that is written anew, about once a second.
    Rewriting(Rewriting),
    /// New parts of a table are in the place of others.
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
        /// How long it took, on a clock that nobody sets.
        run_seconds: f64,
        /// The exit status.
        exit_code: u8,
        /// Whether a signal ended it.
        interrupted: bool,
    },
}

/// What became of the input's data rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCounts {
    /// All of them, without blank lines; the sum of the five below.
    pub rows: u64,
    /// The ID is absent or bad.
    pub invalid: u64,
    /// The ID came before.
    pub duplicates: u64,
    /// Another shard takes the task.
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
    /// One a task.
    pub tasks: u64,
    /// One a clip.
    pub clips: u64,
    /// One a lyrics.
    pub lyrics: u64,
    /// One an asset.
    pub assets: u64,
}

/// How things stand.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// Tasks that need no further request in this run.
    pub settled: u64,
    /// Tasks to ask for in this run.
    pub selected: u64,
    /// Tasks that were asked and are not finished.
    pub unfinished: u64,
    /// Whether every task has been asked once.
    pub first_pass_over: bool,
    /// How long until the last request or download, as things stand, if that can be told.
    pub seconds_left: Option<f64>,
    /// The downloads.
    pub downloads: Downloads,
}

/// How a check of an archive stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checking {
    /// What is being checked: parts, then files.
    pub what: &'static str,
    /// Those that are done.
    pub done: u64,
    /// All that are known of.
    pub of: u64,
    /// Bytes read since the start.
    pub bytes: u64,
}

/// How it stands with a table that is written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewriting {
    /// The table.
    pub table: &'static str,
    /// What is done with it, as `parts read`.
    pub what: &'static str,
    /// Those that are done.
    pub done: u64,
    /// All that are known of.
    pub of: u64,
}

/// How the downloads stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Downloads {
    /// Files that are there, or known unavailable.
    pub settled: u64,
    /// Files that answers have named so far.
    pub wanted: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes a second, of late.
    pub bytes_per_second: f64,
}

impl Downloads {
    /// Takes in that an asset is settled; those that were never there do not count.
    pub(crate) fn note(&mut self, event: &Event) {
        let is_expected = matches!(event, Event::AssetSettled { status, .. } if *status != AssetStatus::Skipped);
        self.settled += u64::from(is_expected);
    }

    /// Takes in how many bytes have come, `since` it was last told: half of the speed is that time's, a
    /// quarter the one's before, and so on.
    pub(crate) fn receive(&mut self, bytes: u64, since: Duration) {
        let lately = bytes.saturating_sub(self.bytes) as f64 / since.as_secs_f64();
        (self.bytes, self.bytes_per_second) = (bytes, f64::midpoint(self.bytes_per_second, lately));
    }
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// A task's first question.
    First,
    /// A further question, after an answer that it was not finished.
    Poll,
    /// A question sent again, whatever it was.
    Retry,
}

/// Why a task of a run is not archived: the `reason` of `-unfinished.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingReason {
    /// It was not finished when the run ended, or there was no time to ask.
    Unfinished,
    /// Its requests failed.
    Error,
    /// What came is no task.
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

/// What one publication added to the archive.
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
    /// What became of the assets.
    pub assets: AssetCounts,
}

/// What became of assets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetCounts {
    /// Downloaded, and whole.
    pub ok: u64,
    /// Unavailable.
    pub failed: u64,
    /// Not there in the first place.
    pub skipped: u64,
    /// The size of all that was downloaded.
    pub bytes: u64,
    /// Bytes that came and were of no use: sent again, or not what was wanted.
    #[serde(skip)]
    pub wasted: u64,
    /// Why those that failed did.
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
