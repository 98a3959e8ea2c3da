//! A snapshot of the existing parts. The folders of the tables are listed in an order that makes the snapshot
//! consistent even while a run adds parts.
//!
//! A run publishes the parts of a segment in the order `lyrics`, `clips`, `assets`, `tasks`. The run then lists the
//! parts in its manifest, and finally removes the segment from the journal.
//!
//! The snapshot therefore lists the folder `tasks` first. For each part of `tasks` in this listing, the lyrics, clips
//! and assets of its tasks have already been published. The snapshot then lists the folders `lyrics`, `clips` and
//! `assets`, followed by the journal. If a listed part contains rows of a task that is not yet in `tasks`, the journal
//! still contains the segment of the part. Finally, the snapshot lists `tasks` again. If a part of `tasks` appears only
//! in this second listing, the snapshot may lack the lyrics, clips and assets of its tasks.

use std::{collections::HashSet, path::Path};

use super::finding::{Finding, FindingKind, Findings};
use crate::{
    archive::{Archive, Entry, is_part},
    error::Result,
    journal,
    tables::{ASSETS, CLIPS, LYRICS, TASKS},
};

/// The advice for a file that readers mistake for a part.
const STRAY_ADVICE: &str = "Move it out of the table's folder, or run `repair`, which moves it to .sunor/damaged.";

/// The parts in the folders of the tables.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) tasks: Vec<String>,
    pub(super) clips: Vec<String>,
    pub(super) lyrics: Vec<String>,
    pub(super) assets: Vec<String>,
    /// The parts of `tasks` that were added while `lyrics`, `clips` and `assets` were listed.
    added_during_listing: HashSet<String>,
    /// The file names, without extensions, of parts whose segments are in the journal. A run is still publishing these
    /// parts, or was interrupted before publishing them.
    pending: HashSet<String>,
    /// Whether a process held the lock while the folders were listed.
    pub(super) is_locked: bool,
}

impl Snapshot {
    /// Lists the folders of the tables, and adds findings for entries that are not parts.
    pub(super) fn capture(archive: &Archive, findings: &mut Findings) -> Result<Self> {
        let is_locked = archive.holder().is_some();
        let mut other_entries = Vec::new();
        let mut parts = |table: &str| -> Result<Vec<String>> {
            let entries = archive.store.list(table)?;
            let (parts, rest): (Vec<Entry>, _) =
                entries.into_iter().partition(|entry| !entry.is_folder && is_part(&entry.path, table, archive.format));
            other_entries.extend(rest);
            Ok(parts.into_iter().map(|entry| entry.path).collect())
        };
        let before: HashSet<String> = parts(TASKS.name)?.into_iter().collect();
        let (lyrics, clips, assets) = (parts(LYRICS.name)?, parts(CLIPS.name)?, parts(ASSETS.name)?);
        let mut snapshot = Self { clips, lyrics, assets, is_locked, ..Self::default() };
        snapshot.add_pending(archive)?;
        snapshot.tasks = parts(TASKS.name)?;
        snapshot.added_during_listing = snapshot.tasks.iter().filter(|path| !before.contains(*path)).cloned().collect();
        snapshot.is_locked |= archive.holder().is_some();
        other_entries.sort_by(|one, other| one.path.cmp(&other.path));
        other_entries.dedup();
        findings.extend(other_entries.iter().filter_map(|entry| Self::finding_for(archive, entry)));
        Ok(snapshot)
    }

    /// Lists the segments in the journal, and marks their parts as pending. A pending part that is not listed in any
    /// manifest is not reported as damage.
    pub(super) fn add_pending(&mut self, archive: &Archive) -> Result<()> {
        let segments = journal::segments(&archive.journal_folder())?;
        self.pending.extend(segments.iter().map(|segment| stem(segment)));
        Ok(())
    }

    /// Whether the segment of a part is still in the journal.
    pub(super) fn is_pending(&self, part: &str) -> bool {
        self.pending.contains(&stem(Path::new(part)))
    }

    /// Whether a part of `tasks` existed before `lyrics`, `clips` and `assets` were listed. If the part existed before,
    /// the snapshot contains all rows of the part's tasks.
    pub(super) fn was_listed_before(&self, part: &str) -> bool {
        !self.added_during_listing.contains(part)
    }

    /// Returns the parts of a table.
    pub(super) fn parts(&self, table: &str) -> &[String] {
        match table {
            "tasks" => &self.tasks,
            "clips" => &self.clips,
            "lyrics" => &self.lyrics,
            _ => &self.assets,
        }
    }

    /// Returns the finding for an entry in a table's folder that is not a part.
    fn finding_for(archive: &Archive, entry: &Entry) -> Option<Finding> {
        if entry.is_staging_file() {
            return stale_staging_file(archive, entry);
        }
        let looks_like_part =
            !entry.is_folder && ["parquet", "csv"].iter().any(|extension| has_extension(entry, extension));
        Some(if looks_like_part {
            let what = "does not belong to this archive, but readers treat it as a part";
            Finding { advice: STRAY_ADVICE, ..Finding::file(FindingKind::PartUnlisted, &entry.path, what) }
        } else {
            Finding::file(FindingKind::StrayFile, &entry.path, "is not a part")
        })
    }
}

/// Returns a finding for a staging file that a crash left behind. While a process holds the lock, staging files are
/// ignored, because the process may be writing them.
pub(super) fn stale_staging_file(archive: &Archive, entry: &Entry) -> Option<Finding> {
    let is_stale = archive.holder().is_none() && matches!(archive.size(&entry.path), Ok(Some(_)));
    let finding = || Finding::file(FindingKind::StagingFile, &entry.path, "is an incomplete file left by a crash");
    is_stale.then(finding)
}

/// Whether a file name has the given extension. Readers select parts by patterns such as `*.parquet`.
fn has_extension(entry: &Entry, extension: &str) -> bool {
    entry.name().strip_suffix(extension).is_some_and(|stem| stem.ends_with('.'))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
