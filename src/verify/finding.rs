//! The findings of a check, for users, scripts and `repair`.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::depth::Depth;
use crate::asset::AssetKind;

/// The maximum number of findings of one kind, and of tasks in one finding, that a report lists. Findings beyond this
/// limit are counted but not listed.
pub(super) const MAX_LISTED: usize = 10_000;

/// The maximum number of findings of one kind, and of tasks in one finding, that a check lists for `repair`. A million
/// findings take a few hundred megabytes of memory.
pub(crate) const MAX_LISTED_FOR_REPAIR: usize = 1_000_000;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Archived data is missing or has changed, or readers return incorrect data.
    Damage,
    /// Information for the user. No data is lost.
    Note,
}

/// The kind of a finding. Scripts depend on the names of the kinds in the JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// `archive.json` is invalid or does not match its checksum.
    MetadataDamaged,
    /// A part that a manifest lists is missing.
    PartMissing,
    /// A part cannot be read, or its contents have changed.
    PartDamaged,
    /// The columns of a part do not match the columns of its table.
    #[serde(rename = "part_columns")]
    PartColumnsDiffer,
    /// A file in a table's folder is not listed in any manifest, but readers treat the file as a part.
    PartUnlisted,
    /// A task has more than one row in `tasks`.
    #[serde(rename = "task_repeated")]
    DuplicateTask,
    /// Rows in `clips`, `lyrics` or `assets` belong to a task that has no row in `tasks`.
    RowsWithoutTask,
    /// The number of clips of a task does not match `clip_count` in the task's row.
    #[serde(rename = "clip_count")]
    ClipCountMismatch,
    /// A task has more than one lyrics row, or more assets of one kind than clips.
    #[serde(rename = "rows_repeated")]
    DuplicateRows,
    /// The row of an asset with the status `ok` lacks a valid path, size or SHA-256, or another required value.
    #[serde(rename = "asset_row")]
    InvalidAssetRow,
    /// Two rows in `assets` list the same file with different sizes or checksums.
    #[serde(rename = "assets_disagree")]
    ConflictingAssetRows,
    /// A media file is missing.
    MediaMissing,
    /// A media file cannot be read, or its size or SHA-256 does not match the recorded value.
    MediaDamaged,
    /// A media file is listed in a row, but not in any manifest.
    MediaUnlisted,
    /// A manifest cannot be read, has invalid lines, or contradicts the assets table or another manifest.
    ManifestDamaged,
    /// A file that is neither a part nor a media file is missing, although a manifest lists it.
    FileMissing,
    /// A file that is neither a part nor a media file cannot be read, or does not match its checksum.
    FileDamaged,
    /// A run summary, a `-raw.jsonl` file or an `-unfinished.csv` file is invalid or does not match its checksum.
    RunFileDamaged,
    /// The checksum file is invalid.
    ChecksumsDamaged,
    /// `views.sql` is missing, or does not match the views that this version of the program writes.
    ViewsDamaged,
    /// A crash left a staging file behind.
    #[serde(rename = "half_finished")]
    StagingFile,
    /// The archive format is newer than the formats that this version of the program supports.
    NewerFormat,
    /// A part lacks columns that a later version of the program added to its table.
    OlderColumns,
    /// `views.sql` was written by another version of the program.
    #[serde(rename = "other_views")]
    OutdatedViews,
    /// A media file is not listed in any row or manifest.
    StrayMedia,
    /// The archive contains a file that the program did not create.
    StrayFile,
    /// The journal contains responses of an interrupted run.
    #[serde(rename = "journal_left")]
    PendingJournal,
    /// A journal segment with damaged records was quarantined.
    #[serde(rename = "damaged_kept")]
    QuarantinedSegment,
}

impl FindingKind {
    /// Returns the severity of findings of this kind.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::NewerFormat
            | Self::OlderColumns
            | Self::OutdatedViews
            | Self::StrayMedia
            | Self::StrayFile
            | Self::PendingJournal
            | Self::QuarantinedSegment => Severity::Note,
            _ => Severity::Damage,
        }
    }

    /// Returns the advice that a report gives for findings of this kind.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::MetadataDamaged => {
                "Restore it from a backup, or move it out of the archive; the next export regenerates it from the existing parts."
            }
            Self::PartMissing | Self::PartDamaged | Self::PartColumnsDiffer => {
                "Restore it from a backup, or run `repair`, which quarantines damaged parts and restores their rows."
            }
            Self::PartUnlisted => {
                "Readers treat it as a part. If you did not add it, run `repair`, which keeps only one copy of each row."
            }
            Self::DuplicateTask
            | Self::RowsWithoutTask
            | Self::ClipCountMismatch
            | Self::DuplicateRows
            | Self::InvalidAssetRow
            | Self::ConflictingAssetRows => "Run `repair`, which rewrites the rows of these tasks.",
            Self::MediaMissing | Self::MediaDamaged => {
                "Restore it from a backup, or run `repair`, which downloads it again."
            }
            Self::MediaUnlisted => "Run `repair`, which adds it to a manifest.",
            Self::ManifestDamaged => "Restore it from a backup, or run `repair`, which rewrites it.",
            Self::FileMissing => {
                "Restore it from a backup, or run `repair`, which removes it from the manifest. The archive can be read without this file."
            }
            Self::FileDamaged => "Restore it from a backup.",
            Self::RunFileDamaged => {
                "Restore it from a backup, or run `repair`, which quarantines it. The tables do not depend on it."
            }
            Self::ChecksumsDamaged => {
                "Restore it from a backup, or run `repair`, which regenerates it from the current run files."
            }
            Self::ViewsDamaged | Self::OutdatedViews => "The next export rewrites the views.",
            Self::StagingFile => "No data is lost; the next export removes the file.",
            Self::NewerFormat => {
                "Upgrade sunor-archive. This version can check only the features of the format that it supports."
            }
            Self::OlderColumns => "No data is lost; the `response` column contains the values of the missing columns.",
            Self::StrayMedia => "The archive does not use it. Move it out of the archive, or ignore it.",
            Self::StrayFile => "The program did not create it. Move it out of the archive, or ignore it.",
            Self::PendingJournal => "The next export recovers the segment without requesting its tasks again.",
            Self::QuarantinedSegment => "The affected tasks were fetched again. Inspect the files, or delete them.",
        }
    }
}

/// The subject of a finding, which `repair` acts on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The file at the finding's path.
    File,
    /// The part at the finding's path.
    Part {
        /// The table of the part.
        table: &'static str,
    },
    /// Some rows of the part at the finding's path.
    Rows {
        /// The table of the part.
        table: &'static str,
        /// The number of affected rows.
        rows: u64,
        /// The task IDs of the affected rows, without duplicates. A report lists at most the first 10,000 task IDs.
        task_ids: Vec<String>,
    },
    /// The file or the row of an asset. The path of the finding is either the path of the asset's file, under `media/`,
    /// or the path of the part that contains the asset's row.
    Asset {
        /// The ID of the asset's task.
        task_id: String,
        /// The ID of the asset's clip, if the clip has an ID.
        clip_id: Option<String>,
        /// The kind of the asset.
        kind: AssetKind,
    },
}

/// A single finding of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity of the finding.
    pub severity: Severity,
    /// The kind of the finding.
    pub kind: FindingKind,
    /// The path of the affected file, relative to the archive.
    pub path: String,
    /// The description of the problem, which messages show after the path.
    #[serde(rename = "what")]
    pub description: String,
    /// The advice for the user.
    pub advice: &'static str,
    /// The subject of the finding.
    #[serde(rename = "about")]
    pub subject: Subject,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, path: &str, description: impl Into<String>, subject: Subject) -> Self {
        Self {
            severity: kind.severity(),
            kind,
            path: path.to_owned(),
            description: description.into(),
            advice: kind.advice(),
            subject,
        }
    }

    /// Creates a finding about an entire file.
    pub(super) fn file(kind: FindingKind, path: &str, description: impl Into<String>) -> Self {
        Self::new(kind, path, description, Subject::File)
    }
}

/// Formats a count with its noun in the singular or plural.
pub(super) fn count_of(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Collects findings. All findings are counted, but only a limited number of findings of each kind is stored.
#[derive(Debug)]
pub(super) struct Findings {
    limit: usize,
    depth: Depth,
    stored: BTreeMap<FindingKind, Vec<Finding>>,
    counts: BTreeMap<FindingKind, u64>,
}

impl Findings {
    /// Creates an empty collection that stores at most `limit` findings of each kind. A check of one slice reports only
    /// findings for files in the slice, so each finding is reported by exactly one slice.
    pub(super) fn new(limit: usize, depth: Depth) -> Self {
        Self { limit, depth, stored: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Creates an empty collection with the same limit and depth.
    pub(super) fn empty(&self) -> Self {
        Self::new(self.limit, self.depth)
    }

    /// The maximum number of stored findings of each kind, and of listed tasks in each finding.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if !self.depth.reports(&finding.path) {
            return;
        }
        *self.counts.entry(finding.kind).or_default() += 1;
        let stored = self.stored.entry(finding.kind).or_default();
        if stored.len() < self.limit {
            stored.push(finding);
        }
    }

    /// Adds the findings of another collection.
    pub(super) fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (kind, findings) in other.stored {
            let stored = self.stored.entry(kind).or_default();
            stored.extend(findings);
            stored.truncate(self.limit);
        }
    }

    /// Adds the given findings.
    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    /// Whether there is a finding of the given kind.
    pub(super) fn contains(&self, kind: FindingKind) -> bool {
        self.counts.contains_key(&kind)
    }

    /// The number of findings with the given severity.
    pub(super) fn count(&self, severity: Severity) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.severity() == severity).map(|(_, count)| count).sum()
    }

    /// Returns the stored findings, with damage first, and the total number of findings of each kind.
    pub(super) fn into_parts(self) -> (Vec<Finding>, BTreeMap<FindingKind, u64>) {
        let mut findings: Vec<Finding> = self.stored.into_values().flatten().collect();
        findings
            .sort_by(|one, other| (one.severity, one.kind, &one.path).cmp(&(other.severity, other.kind, &other.path)));
        (findings, self.counts)
    }
}

/// The number of rows that a finding affects, and the IDs of their tasks, without duplicates and up to a limit.
#[derive(Debug)]
pub(super) struct AffectedTasks {
    limit: usize,
    pub(super) rows: u64,
    pub(super) task_ids: Vec<String>,
    /// The IDs in `task_ids` as a set, for fast lookup.
    seen_ids: HashSet<String>,
}

impl AffectedTasks {
    /// Creates an empty collection that lists at most `limit` task IDs.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, rows: 0, task_ids: Vec::new(), seen_ids: HashSet::new() }
    }

    /// Counts a row and adds its task ID.
    pub(super) fn add(&mut self, task_id: &str) {
        self.rows += 1;
        if self.task_ids.len() < self.limit && !self.seen_ids.contains(task_id) {
            self.seen_ids.insert(task_id.to_owned());
            self.task_ids.push(task_id.to_owned());
        }
    }

    /// Returns the first three task IDs, formatted for a message.
    pub(super) fn preview(&self) -> String {
        let preview: Vec<&str> = self.task_ids.iter().map(String::as_str).take(3).collect();
        let more = if self.task_ids.len() > preview.len() { ", …" } else { "" };
        format!("{}{more}", preview.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_findings_of_a_kind_are_listed_and_all_are_counted() {
        let limit = 3;
        let mut findings = Findings::new(limit, Depth::Full);
        for n in 0..limit + 5 {
            findings.add(Finding::file(FindingKind::StrayMedia, &format!("media/{n}"), "stray"));
        }
        findings.add(Finding::file(FindingKind::MediaMissing, "media/x", "is missing"));
        let names = [Severity::Damage, Severity::Note].map(|severity| serde_json::to_value(severity).unwrap());
        assert_eq!(names, ["damage", "note"], "scripts depend on these names");
        assert_eq!((findings.count(Severity::Damage), findings.count(Severity::Note)), (1, limit as u64 + 5));
        let (listed, counts) = findings.into_parts();
        assert_eq!((listed.len(), counts[&FindingKind::StrayMedia]), (limit + 1, limit as u64 + 5));
        assert_eq!(listed[0].kind, FindingKind::MediaMissing);
    }

    #[test]
    fn a_finding_in_json_has_stable_names() {
        let subject = Subject::Asset { task_id: "t".into(), clip_id: None, kind: AssetKind::Audio };
        let finding = Finding::new(FindingKind::MediaMissing, "media/audio/ab/x.mp3", "is missing", subject);
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["severity"], &json["kind"]), (&"damage".into(), &"media_missing".into()));
        assert_eq!(json["about"]["asset"]["kind"], "audio");
    }
}
