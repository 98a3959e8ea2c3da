//! Every path of an archive.

use crate::{format::TableFormat, run_id::RunId};

/// The file that marks a folder as an archive.
pub(crate) const METADATA: &str = "archive.json";

/// The DuckDB views.
pub(crate) const VIEWS: &str = "views.sql";

/// The folder of the runs' own files.
pub(crate) const RUNS: &str = "runs";

/// The folder of audio, covers and videos.
pub(crate) const MEDIA: &str = "media";

/// The program's own folder.
pub(crate) const STATE: &str = ".sunor";

/// Whether the program gives that name to something in its own folder.
pub(crate) fn is_state_name(name: &str) -> bool {
    let name = name.split_once('#').map_or(name, |(name, _)| name);
    ["lock", "journal", "partial", "repair.json", "damaged", "swap", "swap.json", "checksums"].contains(&name)
}

/// The SHA-256 of small files that no manifest lists.
pub(crate) const CHECKSUMS: &str = ".sunor/checksums";

pub(super) const LOCK: &str = ".sunor/lock";

pub(super) const JOURNAL: &str = ".sunor/journal";

/// Downloads in progress.
pub(super) const PARTIAL: &str = ".sunor/partial";

/// The plan of a repair in progress.
pub(super) const REPAIR_PLAN: &str = ".sunor/repair.json";

/// The quarantine.
pub(super) const DAMAGED: &str = ".sunor/damaged";

/// Where new parts wait for their swap, in a folder for each table.
pub(super) const SWAP: &str = ".sunor/swap";

/// The plan of a swap in progress.
pub(super) const SWAP_PLAN: &str = ".sunor/swap.json";

/// The folder of a file.
pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The part of each table that one journal segment becomes.
#[derive(Clone, Debug)]
pub(crate) struct PartName<'a> {
    pub(crate) run_id: &'a RunId,
    pub(crate) part: u32,
    pub(crate) format: TableFormat,
}

/// Whether a path in a table's folder is a valid part name for that format.
pub(crate) fn is_part(path: &str, table: &str, format: TableFormat) -> bool {
    let name = path.strip_prefix(table).and_then(|rest| rest.strip_prefix('/'));
    let stem = name.and_then(|name| name.strip_suffix(format.extension())?.strip_suffix('.'));
    stem.and_then(RunId::parse_numbered).is_some()
}

/// Whether a path is a part's, of any table and format.
pub(super) fn is_any_part(path: &str) -> bool {
    let table = path.split_once('/').map(|(table, _)| table);
    table.is_some_and(|table| {
        [TableFormat::Parquet, TableFormat::Csv].iter().any(|format| is_part(path, table, *format))
    })
}

impl PartName<'_> {
    /// Its path in a table's folder.
    pub(crate) fn path(&self, table: &str) -> String {
        format!("{table}/{}-{:04}.{}", self.run_id, self.part, self.format.extension())
    }
}

/// A file that belongs to one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunFile {
    /// How the run went.
    Summary,
    /// The SHA-256 of every file it added.
    Manifest,
    /// Bodies as sent that could not be archived as they are.
    Raw,
    /// The tasks that it did not archive.
    Unfinished,
}

impl RunFile {
    /// Its path.
    pub(crate) fn path(self, run_id: &RunId) -> String {
        format!("{RUNS}/{run_id}{}", self.ending())
    }

    /// Which of a run's files a name is, and the run; `None` if the archive gives no such name.
    pub(crate) fn parse(name: &str) -> Option<(Self, RunId)> {
        let kinds = [Self::Unfinished, Self::Raw, Self::Manifest, Self::Summary];
        let (kind, run) = kinds.into_iter().find_map(|kind| Some((kind, name.strip_suffix(kind.ending())?)))?;
        Some((kind, RunId::parse(run)?))
    }

    /// The end of its name.
    pub(crate) fn ending(self) -> &'static str {
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
    fn a_file_is_the_archives_only_if_its_whole_name_is() {
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
