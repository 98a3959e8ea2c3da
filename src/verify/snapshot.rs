//! Which parts exist, listed in an order that is correct even while a run adds parts.
//!
//! A run puts the parts of a segment in place as lyrics, clips, assets, tasks, then lists them in its
//! manifest, and removes the segment from the journal last. So tasks are listed first: their other rows exist by the
//! time that the other tables are listed. Rows of the other tables whose tasks do not exist yet belong to a segment
//! that is in the journal when that is listed next. Tasks parts that are added in the meantime count as tasks, but
//! need not have all of their rows.

use std::{collections::HashSet, path::Path};

use super::finding::{Finding, Findings, Kind};
use crate::{
    archive::{Archive, Entry, is_part},
    error::Result,
    journal,
    tables::{ASSETS, CLIPS, LYRICS, TASKS},
};

/// Advice about a file that readers mistake for a part.
const STRAY_ADVICE: &str = "Move it out of the table's folder, or run repair: it moves it to .sunor/damaged.";

/// The entries of the tables' folders.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) tasks: Vec<String>,
    pub(super) clips: Vec<String>,
    pub(super) lyrics: Vec<String>,
    pub(super) assets: Vec<String>,
    /// Tasks parts that were added while the other tables were listed.
    fresh: HashSet<String>,
    /// The names, without extensions, of parts that a run is about to add, or was when it was cut short.
    pending: HashSet<String>,
    /// Whether a process held the archive.
    pub(super) held: bool,
}

impl Snapshot {
    /// Lists the folders, and finds what is not a part.
    pub(super) fn take(archive: &Archive, findings: &mut Findings) -> Result<Self> {
        let held = archive.holder().is_some();
        let mut others = Vec::new();
        let mut parts = |table: &str| -> Result<Vec<String>> {
            let entries = archive.store.list(table)?;
            let (parts, rest): (Vec<Entry>, _) =
                entries.into_iter().partition(|entry| !entry.is_folder && is_part(&entry.path, table, archive.format));
            others.extend(rest);
            Ok(parts.into_iter().map(|entry| entry.path).collect())
        };
        let before: HashSet<String> = parts(TASKS.name)?.into_iter().collect();
        let (lyrics, clips, assets) = (parts(LYRICS.name)?, parts(CLIPS.name)?, parts(ASSETS.name)?);
        let mut snapshot = Self { clips, lyrics, assets, held, ..Self::default() };
        snapshot.note_pending(archive)?;
        snapshot.tasks = parts(TASKS.name)?;
        snapshot.fresh = snapshot.tasks.iter().filter(|path| !before.contains(*path)).cloned().collect();
        snapshot.held |= archive.holder().is_some();
        others.sort_by(|one, other| one.path.cmp(&other.path));
        others.dedup();
        findings.extend(others.iter().filter_map(|entry| Self::finding_for(archive, entry)));
        Ok(snapshot)
    }

    /// Lists the journal: parts of its segments are not damage.
    pub(super) fn note_pending(&mut self, archive: &Archive) -> Result<()> {
        let segments = journal::segments(&archive.journal_folder())?;
        self.pending.extend(segments.iter().map(|segment| stem(segment)));
        Ok(())
    }

    /// Whether a part is one of those that a run is about to add.
    pub(super) fn is_pending(&self, part: &str) -> bool {
        self.pending.contains(&stem(Path::new(part)))
    }

    /// Whether the other tables were listed after this tasks part, so that the rows of its tasks must exist.
    pub(super) fn is_settled(&self, tasks_part: &str) -> bool {
        !self.fresh.contains(tasks_part)
    }

    /// The parts of a table.
    pub(super) fn parts(&self, table: &str) -> &[String] {
        match table {
            "tasks" => &self.tasks,
            "clips" => &self.clips,
            "lyrics" => &self.lyrics,
            _ => &self.assets,
        }
    }

    /// The finding about an entry in a table's folder that is not a part.
    fn finding_for(archive: &Archive, entry: &Entry) -> Option<Finding> {
        if entry.is_half_finished() {
            return half_finished(archive, entry);
        }
        let is_taken_for_one = !entry.is_folder && ["parquet", "csv"].iter().any(|ending| has_ending(entry, ending));
        Some(if is_taken_for_one {
            let what = "is not a part of this archive, and readers take it for one";
            Finding { advice: STRAY_ADVICE, ..Finding::file(Kind::PartUnlisted, &entry.path, what) }
        } else {
            Finding::file(Kind::StrayFile, &entry.path, "is not a part")
        })
    }
}

/// A file that another process is writing is ignored. It is left over if it still exists
/// when no process holds the archive.
pub(super) fn half_finished(archive: &Archive, entry: &Entry) -> Option<Finding> {
    let is_left = archive.holder().is_none() && matches!(archive.size(&entry.path), Ok(Some(_)));
    let finding = || Finding::file(Kind::HalfFinished, &entry.path, "is the beginning of a file, left by a crash");
    is_left.then(finding)
}

/// Whether a reader's pattern, `*.parquet` or `*.csv`, matches the file.
fn has_ending(entry: &Entry, ending: &str) -> bool {
    entry.name().strip_suffix(ending).is_some_and(|stem| stem.ends_with('.'))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
