//! The findings of a check, as values: for people, for scripts and for repair.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::asset::AssetKind;

/// The most findings of one kind, and tasks in one finding, that a report lists; the others are counted.
pub(super) const MOST_SHOWN: usize = 10_000;

/// The same limit for repair: a few hundred megabytes at worst.
pub(crate) const MOST_REPAIRED: usize = 1_000_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something that was archived is missing or is not what it was, or readers are misled.
    Damage,
    /// Worth knowing; nothing is lost.
    Note,
}

/// The kind of damage. Scripts rely on the names in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `archive.json` is not what this program wrote.
    MetadataDamaged,
    /// A part that a manifest lists is missing.
    PartMissing,
    /// A part cannot be read, or is not what was written.
    PartDamaged,
    /// A part has other columns than its table.
    PartColumns,
    /// A file that readers of the table take for a part, and no manifest lists.
    PartUnlisted,
    /// A task has more than one row.
    TaskRepeated,
    /// Rows of clips, lyrics or assets whose task has no row.
    RowsWithoutTask,
    /// Tasks with more or fewer clips than their row says.
    ClipCount,
    /// Tasks with lyrics twice, or with more assets of a kind than clips.
    RowsRepeated,
    /// The row of an asset that is `ok` does not say where its file is.
    AssetRow,
    /// Two rows name one file, with different sizes or checksums.
    AssetsDisagree,
    /// A media file is missing.
    MediaMissing,
    /// A media file has another size, or other bytes.
    MediaDamaged,
    /// A media file that a row names is in no manifest.
    MediaUnlisted,
    /// A manifest cannot be read, or contradicts the assets table.
    ManifestDamaged,
    /// Another file that a manifest lists is missing.
    FileMissing,
    /// Another file that a manifest lists has other bytes.
    FileDamaged,
    /// A run's summary or list is not what a run writes.
    RunFileDamaged,
    /// The checksum file is not what was written.
    ChecksumsDamaged,
    /// `views.sql` is not what this version wrote.
    ViewsDamaged,
    /// A staging file that a crash left.
    HalfFinished,
    /// The archive's format is newer than this program.
    NewerFormat,
    /// A part lacks columns that were added later.
    OlderColumns,
    /// `views.sql` is what another version writes.
    OtherViews,
    /// A media file that no row names.
    StrayMedia,
    /// A foreign file where only the program's should be.
    StrayFile,
    /// A run was cut short: the journal holds its responses.
    JournalLeft,
    /// Journal segments with damaged records were quarantined.
    DamagedKept,
}

impl Kind {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::NewerFormat
            | Self::OlderColumns
            | Self::OtherViews
            | Self::StrayMedia
            | Self::StrayFile
            | Self::JournalLeft
            | Self::DamagedKept => Severity::Note,
            _ => Severity::Damage,
        }
    }

    /// The advice for the user.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::MetadataDamaged => {
                "Restore it from a copy, or move it away: the next export regenerates it from the existing parts."
            }
            Self::PartMissing | Self::PartDamaged | Self::PartColumns => {
                "Restore it from a copy, or run repair: it quarantines what is damaged, and restores the rows."
            }
            Self::PartUnlisted => {
                "Readers take it for a part. If you did not put it there, run repair: it keeps each row once."
            }
            Self::TaskRepeated
            | Self::RowsWithoutTask
            | Self::ClipCount
            | Self::RowsRepeated
            | Self::AssetRow
            | Self::AssetsDisagree => "Run repair: it rewrites the rows of these tasks.",
            Self::MediaMissing | Self::MediaDamaged => "Restore it from a copy, or run repair: it downloads it again.",
            Self::MediaUnlisted => "Run repair: it adds it to a manifest.",
            Self::ManifestDamaged => "Restore it from a copy, or run repair, which rewrites it.",
            Self::FileMissing => {
                "Restore it from a copy, or run repair: it removes its line from the manifest. Nothing reads the file."
            }
            Self::FileDamaged => "Restore it from a copy.",
            Self::RunFileDamaged => {
                "Restore it from a copy, or run repair: it quarantines it. The tables do not depend on it."
            }
            Self::ChecksumsDamaged => {
                "Restore it from a copy, or run repair: it regenerates it from the runs' files as they are now."
            }
            Self::ViewsDamaged | Self::OtherViews => "The next export rewrites it.",
            Self::HalfFinished => "Nothing is lost; the next export removes it.",
            Self::NewerFormat => "Use a newer version of this program; this one checked what it knows.",
            Self::OlderColumns => "Nothing is lost: `response` holds the values of the missing columns.",
            Self::StrayMedia => "Nothing reads it. Move it away, or leave it.",
            Self::StrayFile => "The program did not put it there. Move it away, or leave it.",
            Self::JournalLeft => "The next export recovers it without a request.",
            Self::DamagedKept => "Their tasks were fetched again. Inspect them, or remove them.",
        }
    }
}

/// The subject of a finding, for repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The file at the finding's path.
    File,
    /// The part at the finding's path.
    Part {
        /// Its table.
        table: &'static str,
    },
    /// Rows of the part at the finding's path.
    Rows {
        /// Its table.
        table: &'static str,
        /// How many rows.
        rows: u64,
        /// Their tasks, each once; the first 10,000 of them.
        task_ids: Vec<String>,
    },
    /// An asset, whose file is at the finding's path if that is under `media/`, and whose row is there if not.
    Asset {
        /// Its task.
        task_id: String,
        /// Its clip, if that has an ID.
        clip_id: Option<String>,
        /// What it is.
        kind: AssetKind,
    },
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A description of the problem.
    pub kind: Kind,
    /// Where, relative to the archive.
    pub path: String,
    /// A description.
    pub what: String,
    /// The advice for the user.
    pub advice: &'static str,
    /// The subject.
    pub about: Subject,
}

impl Finding {
    pub(super) fn new(kind: Kind, path: &str, what: impl Into<String>, about: Subject) -> Self {
        Self { severity: kind.severity(), kind, path: path.to_owned(), what: what.into(), advice: kind.advice(), about }
    }

    /// A finding about a file as a whole.
    pub(super) fn file(kind: Kind, path: &str, what: impl Into<String>) -> Self {
        Self::new(kind, path, what, Subject::File)
    }
}

/// The findings so far. At most this many of each kind are kept in memory; the rest are counted.
#[derive(Debug)]
pub(super) struct Findings {
    most: usize,
    kept: BTreeMap<Kind, Vec<Finding>>,
    counts: BTreeMap<Kind, u64>,
}

impl Findings {
    /// An empty collection that keeps at most this many of each kind.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// The maximum number of tasks listed per finding.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn add(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        let kept = self.kept.entry(finding.kind).or_default();
        if kept.len() < self.most {
            kept.push(finding);
        }
    }

    /// Adds the findings of another collection.
    pub(super) fn merge(&mut self, others: Self) {
        for (kind, count) in others.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (kind, findings) in others.kept {
            let kept = self.kept.entry(kind).or_default();
            kept.extend(findings);
            kept.truncate(self.most);
        }
    }

    /// Adds all of them.
    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    /// Whether there is a finding of that kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.counts.contains_key(&kind)
    }

    /// How many findings have that severity.
    pub(super) fn count(&self, severity: Severity) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.severity() == severity).map(|(_, count)| count).sum()
    }

    /// The listed findings, damage first, and how many there are of each kind.
    pub(super) fn into_parts(self) -> (Vec<Finding>, BTreeMap<Kind, u64>) {
        let mut findings: Vec<Finding> = self.kept.into_values().flatten().collect();
        findings
            .sort_by(|one, other| (one.severity, one.kind, &one.path).cmp(&(other.severity, other.kind, &other.path)));
        (findings, self.counts)
    }
}

/// The tasks of a finding: each is named once, up to a limit.
#[derive(Debug)]
pub(super) struct Named {
    most: usize,
    pub(super) rows: u64,
    pub(super) task_ids: Vec<String>,
    /// The same, for lookup.
    known: HashSet<String>,
}

impl Named {
    /// An empty collection that names at most this many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, rows: 0, task_ids: Vec::new(), known: HashSet::new() }
    }

    /// Adds a row's task.
    pub(super) fn add(&mut self, task_id: &str) {
        self.rows += 1;
        if self.task_ids.len() < self.most && !self.known.contains(task_id) {
            self.known.insert(task_id.to_owned());
            self.task_ids.push(task_id.to_owned());
        }
    }

    /// The first of them, for a message.
    pub(super) fn words(&self) -> String {
        let some: Vec<&str> = self.task_ids.iter().map(String::as_str).take(3).collect();
        let more = if self.task_ids.len() > some.len() { ", …" } else { "" };
        format!("{}{more}", some.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_findings_of_a_kind_are_listed_and_all_are_counted() {
        let most = 3;
        let mut findings = Findings::new(most);
        for n in 0..most + 5 {
            findings.add(Finding::file(Kind::StrayMedia, &format!("media/{n}"), "stray"));
        }
        findings.add(Finding::file(Kind::MediaMissing, "media/x", "is missing"));
        let words = [Severity::Damage, Severity::Note].map(|severity| serde_json::to_value(severity).unwrap());
        assert_eq!(words, ["damage", "note"], "scripts rely on them");
        assert_eq!((findings.count(Severity::Damage), findings.count(Severity::Note)), (1, most as u64 + 5));
        let (kept, counts) = findings.into_parts();
        assert_eq!((kept.len(), counts[&Kind::StrayMedia]), (most + 1, most as u64 + 5));
        assert_eq!(kept[0].kind, Kind::MediaMissing);
    }

    #[test]
    fn a_finding_in_json_has_stable_names() {
        let about = Subject::Asset { task_id: "t".into(), clip_id: None, kind: AssetKind::Audio };
        let finding = Finding::new(Kind::MediaMissing, "media/audio/ab/x.mp3", "is missing", about);
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["severity"], &json["kind"]), (&"damage".into(), &"media_missing".into()));
        assert_eq!(json["about"]["asset"]["kind"], "audio");
    }
}
