//! The paths of the files and folders in an archive.

use crate::{format::TableFormat, run_id::RunId};

/// The file that marks a folder as an archive.
pub(crate) const METADATA: &str = "archive.json";

/// The file that defines the DuckDB views.
pub(crate) const VIEWS: &str = "views.sql";

/// The folder for the summaries, manifests and other files of runs.
pub(crate) const RUNS: &str = "runs";

/// The folder for audio, cover and video files.
pub(crate) const MEDIA: &str = "media";

/// The folder for the program's internal files.
pub(crate) const STATE: &str = ".sunor";

/// Returns whether the program uses `name` for a file or folder in `.sunor`.
pub(crate) fn is_state_name(name: &str) -> bool {
    let name = name.split_once('#').map_or(name, |(name, _)| name);
    ["lock", "journal", "partial", "repair.json", "damaged", "swap", "swap.json", "checksums"].contains(&name)
}

/// The checksum file, which contains the SHA-256 of small files that no manifest lists.
pub(crate) const CHECKSUMS: &str = ".sunor/checksums";

pub(super) const LOCK: &str = ".sunor/lock";

pub(super) const JOURNAL: &str = ".sunor/journal";

/// The folder for downloads in progress.
pub(super) const PARTIAL: &str = ".sunor/partial";

/// The file that contains the plan of a repair in progress.
pub(super) const REPAIR_PLAN: &str = ".sunor/repair.json";

/// The quarantine folder.
pub(super) const QUARANTINE: &str = ".sunor/damaged";

/// The staging folder for the new parts of a swap, with one subfolder per table.
pub(super) const SWAP: &str = ".sunor/swap";

/// The file that contains the plan of a swap in progress.
pub(super) const SWAP_PLAN: &str = ".sunor/swap.json";

/// Returns the parent folder of a path.
pub(super) fn parent_folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The name of a part. A journal segment is published as one part per table, and all of these parts have the same file
/// name.
#[derive(Clone, Debug)]
pub(crate) struct PartName<'a> {
    pub(crate) run_id: &'a RunId,
    pub(crate) part: u32,
    pub(crate) format: TableFormat,
}

/// Returns whether `path` is a valid path for a part of `table` in the given format.
pub(crate) fn is_part(path: &str, table: &str, format: TableFormat) -> bool {
    let name = path.strip_prefix(table).and_then(|rest| rest.strip_prefix('/'));
    let stem = name.and_then(|name| name.strip_suffix(format.extension())?.strip_suffix('.'));
    stem.and_then(RunId::parse_numbered).is_some()
}

/// Returns whether `path` is a valid part path, regardless of the table and the format.
pub(super) fn is_any_part(path: &str) -> bool {
    let table = path.split_once('/').map(|(table, _)| table);
    table.is_some_and(|table| {
        [TableFormat::Parquet, TableFormat::Csv].iter().any(|format| is_part(path, table, *format))
    })
}

impl PartName<'_> {
    /// Returns the path of the part in the folder of `table`.
    pub(crate) fn path(&self, table: &str) -> String {
        format!("{table}/{}-{:04}.{}", self.run_id, self.part, self.format.extension())
    }
}

/// A kind of file in the `runs` folder. Each file in this folder belongs to one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunFile {
    /// The summary of the run.
    Summary,
    /// The manifest, which contains the SHA-256 of every file that the run added.
    Manifest,
    /// Response bodies that could not be archived unchanged.
    Raw,
    /// The list of tasks that the run did not archive.
    Unfinished,
}

impl RunFile {
    /// Returns the path of this kind of file for the given run.
    pub(crate) fn path(self, run_id: &RunId) -> String {
        format!("{RUNS}/{run_id}{}", self.suffix())
    }

    /// Parses a file name into the kind of run file and the run ID. Returns `None` if `name` is not the name of a run
    /// file.
    pub(crate) fn parse(name: &str) -> Option<(Self, RunId)> {
        let kinds = [Self::Unfinished, Self::Raw, Self::Manifest, Self::Summary];
        let (kind, run) = kinds.into_iter().find_map(|kind| Some((kind, name.strip_suffix(kind.suffix())?)))?;
        Some((kind, RunId::parse(run)?))
    }

    /// Returns the file name suffix that follows the run ID.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Summary => ".json",
            Self::Manifest => ".sha256",
            Self::Raw => "-raw.jsonl",
            Self::Unfinished => "-unfinished.csv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_archive_only_if_its_full_name_is_valid() {
        let run = "20260101T000000000Z-abcdef";
        let is_part = |name: &str| is_part(name, "tasks", TableFormat::Parquet);
        assert!(is_part(&format!("tasks/{run}-0001.parquet")) && is_part(&format!("tasks/{run}-12345.parquet")));
        for foreign in [
            format!("tasks/._{run}-0001.parquet"),
            format!("tasks/{run}-0001 (conflict).parquet"),
            format!("tasks/{run}-0001.sync-conflict.parquet"),
            format!("tasks/{run}-001.parquet"),
            format!("tasks/{run}.parquet"),
            format!("tasks/{run}-0001.csv"),
            format!("tasks/x/{run}-0001.parquet"),
            "tasks/backup.parquet".into(),
        ] {
            assert!(!is_part(&foreign), "{foreign}");
        }
        let run_id = RunId::example();
        for file in [RunFile::Summary, RunFile::Manifest, RunFile::Raw, RunFile::Unfinished] {
            let name = file.path(&run_id).replace("runs/", "");
            assert_eq!(RunFile::parse(&name).map(|(_, run)| run), Some(run_id.clone()));
            assert!(RunFile::parse(&format!("._{name}")).is_none());
        }
        assert!(RunFile::parse(&format!("{run} (1).json")).is_none());
    }
}
