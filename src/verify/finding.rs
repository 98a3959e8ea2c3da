//! What a check finds, as values: for people, for scripts and for repair.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::asset::AssetKind;

/// So many findings of one kind, and tasks in one finding, are listed in reports; the others are
/// counted.
pub(super) const MOST_SHOWN: usize = 10_000;

/// The limit for repair: a few hundred megabytes at worst.
pub(crate) const MOST_MENDED: usize = 1_000_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something that was archived is missing or is not what it was, or readers are misled.
    Damage,
    /// Worth knowing; nothing is lost.
    Note,
}

/// What is wrong. The words in JSON stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `archive.json` is not what a program wrote.
    PassportDamaged,
    /// A part that a manifest lists is not there.
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
    /// Tasks that have not as many clips as their row says.
    ClipCount,
    /// Tasks that have their lyrics twice, or more assets of a kind than clips.
    RowsRepeated,
    /// The row of an asset that is `ok` does not say where it is.
    AssetRow,
    /// Two rows name one file and differ about it.
    AssetsDisagree,
    /// A media file is not there.
    MediaMissing,
    /// A media file has another size, or other bytes.
    MediaDamaged,
    /// A media file that a row names is in no manifest.
    MediaUnlisted,
    /// A manifest cannot be read, or says of a file what the assets table does not.
    ManifestDamaged,
    /// Another file that a manifest lists is not there.
    FileMissing,
    /// Another file that a manifest lists has other bytes.
    FileDamaged,
    /// A run's summary or list does not read as what was written.
    RunFileDamaged,
    /// The seals of the runs' own files are not what was written.
    SealsDamaged,
    /// `views.sql` is not what this version wrote.
    ViewsDamaged,
    /// A write that was cut short left its beginning.
    HalfFinished,
    /// The archive's format is newer than this program.
    NewerFormat,
    /// A part lacks columns that were added later.
    OlderColumns,
    /// `views.sql` is as another version writes it.
    OtherViews,
    /// A media file that no row names.
    StrayMedia,
    /// A file of another kind where only the program's should be.
    StrayFile,
    /// A run was cut short, and the journal holds what it fetched.
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

    /// What to do about it. The one place for these words.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::PassportDamaged => {
                "Restore it from a copy, or move it away: the next export regenerates it from the existing parts."
            }
            Self::PartMissing | Self::PartDamaged | Self::PartColumns => {
                "Restore it from a copy, or run repair: it sets aside what is damaged, and brings the rows back."
            }
            Self::PartUnlisted => {
                "Readers read it as a part. If you did not put it there, run repair: it keeps each row once."
            }
            Self::TaskRepeated
            | Self::RowsWithoutTask
            | Self::ClipCount
            | Self::RowsRepeated
            | Self::AssetRow
            | Self::AssetsDisagree => "Run repair: it puts the rows of these tasks in order.",
            Self::MediaMissing | Self::MediaDamaged => "Restore it from a copy, or run repair: it downloads it again.",
            Self::MediaUnlisted => "Run repair: it lists it again.",
            Self::ManifestDamaged => "Restore it from a copy, or run repair, which rewrites it.",
            Self::FileMissing => {
                "Restore it from a copy, or run repair: it takes it off the manifest, and nothing reads it."
            }
            Self::FileDamaged => "Restore it from a copy.",
            Self::RunFileDamaged => {
                "Restore it from a copy, or run repair: it sets it aside, and the tables do not depend on it."
            }
            Self::SealsDamaged => "Restore it from a copy, or run repair: it seals the runs' files as they are now.",
            Self::ViewsDamaged | Self::OtherViews => "The next export rewrites it.",
            Self::HalfFinished => "Nothing is lost; the next export sweeps it away, or move it out of the archive.",
            Self::NewerFormat => "Use a newer version of this program; what this one knows was checked.",
            Self::OlderColumns => "Nothing is lost: what the columns would hold stands in `response`.",
            Self::StrayMedia => "Nothing reads it: move it away, or leave it.",
            Self::StrayFile => "The program did not put it there: move it away, or leave it.",
            Self::JournalLeft => "The next export recovers it without a request.",
            Self::DamagedKept => "Their tasks were asked again; look at them, or remove them.",
        }
    }
}

/// What a finding is about, for repair.
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
    /// Rows in the part at the finding's path.
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
    /// What is wrong.
    pub kind: Kind,
    /// Where, relative to the archive.
    pub path: String,
    /// The same in words.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
    /// What it is about.
    pub about: Subject,
}

impl Finding {
    pub(super) fn new(kind: Kind, path: &str, what: impl Into<String>, about: Subject) -> Self {
        Self { severity: kind.severity(), kind, path: path.to_owned(), what: what.into(), advice: kind.advice(), about }
    }

    /// One about a file as such.
    pub(super) fn file(kind: Kind, path: &str, what: impl Into<String>) -> Self {
        Self::new(kind, path, what, Subject::File)
    }
}

/// What was found so far. At most this many of each kind are kept in memory; the rest are counted.
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

    /// Adds what was gathered elsewhere.
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

    /// Whether there is any of that kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.counts.contains_key(&kind)
    }

    /// How many there are of that severity.
    pub(super) fn count(&self, severity: Severity) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.severity() == severity).map(|(_, count)| count).sum()
    }

    /// All that were kept, damage first, and how many there were of each kind.
    pub(super) fn into_parts(self) -> (Vec<Finding>, BTreeMap<Kind, u64>) {
        let mut findings: Vec<Finding> = self.kept.into_values().flatten().collect();
        findings
            .sort_by(|one, other| (one.severity, one.kind, &one.path).cmp(&(other.severity, other.kind, &other.path)));
        (findings, self.counts)
    }
}

/// Tasks that a finding is about: each is named once, as far as there is room.
#[derive(Debug)]
pub(super) struct Named {
    most: usize,
    pub(super) rows: u64,
    pub(super) task_ids: Vec<String>,
    /// The same, to look them up.
    known: HashSet<String>,
}

impl Named {
    /// None yet, of which so many will be named.
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

    /// The first of them, in words.
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
    fn memory_holds_the_first_of_a_kind_and_counts_all() {
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
    fn a_finding_is_json_with_words_that_stay() {
        let about = Subject::Asset { task_id: "t".into(), clip_id: None, kind: AssetKind::Audio };
        let finding = Finding::new(Kind::MediaMissing, "media/audio/ab/x.mp3", "is missing", about);
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["severity"], &json["kind"]), (&"damage".into(), &"media_missing".into()));
        assert_eq!(json["about"]["asset"]["kind"], "audio");
    }
}
