//! One record of the journal, and its line.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    asset::{Asset, AssetKind},
    run_id::RunId,
    run_summary::RunCommand,
    status::FinalStatus,
};

/// The version of the format. A segment of a newer one is refused, not guessed at; version 2 added
/// [`Record::AddedAssets`].
pub(crate) const VERSION: u32 = 3;

/// A journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// The first record of every segment.
    Segment {
        version: u32,
        run_id: RunId,
        part: u32,
        #[serde(default)]
        command: RunCommand,
    },
    /// A task in a final state: its `data` object, and the body as sent where the two must differ. With
    /// `assets` it is settled only by an [`Record::Assets`] that follows: these kinds are wanted of it.
    Task {
        task_id: String,
        status: FinalStatus,
        fetched_at: Timestamp,
        data: String,
        sent: Option<String>,
        #[serde(default)]
        assets: Vec<AssetKind>,
        /// Whether its rows replace existing ones.
        #[serde(default)]
        replaces: bool,
    },
    /// The outcome of all assets of an earlier task record.
    Assets { task_id: String, assets: Vec<Asset> },
    /// Assets of additional kinds for an archived task; its other rows are left alone.
    AddedAssets { task_id: String, assets: Vec<Asset> },
    /// The API knows no such task.
    NotFound {
        task_id: String,
        fetched_at: Timestamp,
        message: Option<String>,
        /// As above.
        #[serde(default)]
        replaces: bool,
        /// Rows of the other tables stay, since no better source exists: this many of them are clips.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clips_left: Option<i32>,
    },
    /// A body that is not a task. It is kept, but the task is not archived.
    Unreadable { task_id: String, body: String },
    /// The last record of a segment that was split: these tasks, whose assets are not settled, are now
    /// the business of that part.
    Moved { part: u32, tasks: HashSet<String> },
}

/// The length of a line's checksum, the blank after it included.
const CHECKSUM: usize = 9;

impl Record {
    /// Appends the record as a line: its checksum, a blank, and its JSON.
    pub(crate) fn append_line(&self, lines: &mut Vec<u8>) {
        let start = lines.len();
        lines.extend_from_slice(&[b' '; CHECKSUM]);
        serde_json::to_writer(&mut *lines, self).expect("a record has string keys only");
        let (checksum, json) = lines.split_at_mut(start).1.split_at_mut(CHECKSUM);
        checksum.copy_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
        lines.push(b'\n');
    }

    /// The record as a line of its own.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        self.append_line(&mut line);
        line
    }

    /// Reads a line without its line feed. `None` if it is not what was written.
    pub(crate) fn from_line(line: &[u8]) -> Option<Self> {
        let (checksum, json) = line.split_at_checked(CHECKSUM)?;
        let written = format!("{:08x} ", crc32fast::hash(json));
        (checksum == written.as_bytes()).then(|| serde_json::from_slice(json).ok())?
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_went_and_a_flipped_bit_is_noticed(
            data in any::<String>(),
            message in any::<Option<String>>(),
            flip in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let fetched_at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
            for record in [
                Record::Task { task_id: data.clone(), status: FinalStatus::Failure, fetched_at, data: data.clone(), sent: message.clone(), assets: vec![AssetKind::Audio], replaces: true },
                Record::Moved { part: 2, tasks: [data.clone()].into() },
                Record::AddedAssets { task_id: data.clone(), assets: Vec::new() },
                Record::NotFound { task_id: data.clone(), fetched_at, message: message.clone(), replaces: false, clips_left: None },
                Record::Unreadable { task_id: data.clone(), body: data.clone() },
            ] {
                let mut line = record.to_line();
                prop_assert_eq!(line.pop(), Some(b'\n'));
                prop_assert!(!line.contains(&b'\n'));
                prop_assert_eq!(Record::from_line(&line), Some(record.clone()));
                let at = flip.index(line.len());
                line[at] ^= 1u8 << bit;
                prop_assert_eq!(Record::from_line(&line), None);
            }
        }
    }
}
