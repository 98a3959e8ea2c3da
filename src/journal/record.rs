//! Journal records and their line format.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    asset::{Asset, AssetKind},
    run_id::RunId,
    run_summary::RunCommand,
    status::FinalStatus,
};

/// The version of the journal format. A segment with a newer version is rejected. Version 2 added
/// [`Record::AddedAssets`], and version 3 added the command to the header.
pub(crate) const VERSION: u32 = 3;

/// A journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// The header, which is the first record of every segment.
    Segment {
        version: u32,
        run_id: RunId,
        part: u32,
        #[serde(default)]
        command: RunCommand,
    },
    /// A task in a final state. `data` is the task object as JSON. `original_body` is the original response body, and
    /// is present only if the body had to be repaired. `assets` lists the requested kinds of assets. If `assets` is not
    /// empty, a later [`Record::Assets`] contains the outcomes of these assets.
    Task {
        task_id: String,
        status: FinalStatus,
        fetched_at: Timestamp,
        data: String,
        #[serde(rename = "sent")]
        original_body: Option<String>,
        #[serde(default)]
        assets: Vec<AssetKind>,
        /// Whether the rows of the task replace existing rows.
        #[serde(default)]
        replaces: bool,
    },
    /// The outcomes of all assets of the task in an earlier [`Record::Task`].
    Assets { task_id: String, assets: Vec<Asset> },
    /// Assets of additional kinds for an archived task. The existing rows of the task are not changed.
    AddedAssets { task_id: String, assets: Vec<Asset> },
    /// The API reported that the task does not exist.
    NotFound {
        task_id: String,
        fetched_at: Timestamp,
        message: Option<String>,
        /// Whether the row of the task replaces existing rows.
        #[serde(default)]
        replaces: bool,
        /// The number of existing rows of the task in the clips table. The field is set if the existing rows of the
        /// task in the clips, lyrics and assets tables are kept because no response for the task is available.
        #[serde(default, skip_serializing_if = "Option::is_none", rename = "clips_left")]
        remaining_clips: Option<i32>,
    },
    /// A response body that is not a task. The body is saved in the `-raw.jsonl` file of the run, but the task is not
    /// archived.
    Unreadable { task_id: String, body: String },
    /// The last record of a segment that was split. `tasks` lists the tasks with pending assets, which moved to the
    /// segment with the part number `part`.
    Moved { part: u32, tasks: HashSet<String> },
}

/// The length, in bytes, of the checksum at the start of a line and the space after the checksum.
const CHECKSUM_PREFIX_LENGTH: usize = 9;

impl Record {
    /// Appends the record as a line: its checksum, a space, and its JSON.
    pub(crate) fn append_line(&self, lines: &mut Vec<u8>) {
        let start = lines.len();
        lines.extend_from_slice(&[b' '; CHECKSUM_PREFIX_LENGTH]);
        serde_json::to_writer(&mut *lines, self).expect("a record can always be serialized");
        let (checksum, json) = lines.split_at_mut(start).1.split_at_mut(CHECKSUM_PREFIX_LENGTH);
        checksum.copy_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
        lines.push(b'\n');
    }

    /// Returns the record as a single line.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        self.append_line(&mut line);
        line
    }

    /// Parses a line without its line feed. Returns `None` if the line is damaged.
    pub(crate) fn from_line(line: &[u8]) -> Option<Self> {
        let (checksum, json) = line.split_at_checked(CHECKSUM_PREFIX_LENGTH)?;
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
        fn a_record_round_trips_and_a_flipped_bit_is_detected(
            data in any::<String>(),
            message in any::<Option<String>>(),
            flip in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let fetched_at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
            for record in [
                Record::Task { task_id: data.clone(), status: FinalStatus::Failure, fetched_at, data: data.clone(), original_body: message.clone(), assets: vec![AssetKind::Audio], replaces: true },
                Record::Moved { part: 2, tasks: [data.clone()].into() },
                Record::AddedAssets { task_id: data.clone(), assets: Vec::new() },
                Record::NotFound { task_id: data.clone(), fetched_at, message: message.clone(), replaces: false, remaining_clips: None },
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
