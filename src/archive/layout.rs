//! Every path of an archive.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    format::TableFormat,
    run_id::RunId,
};

/// Makes a folder and those above it that are not there, each durably.
pub(super) fn create(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    create(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", folder, &error)),
        _ => sync(above),
    }
}

/// Makes the names in a folder survive a power loss. Only Unix lets a folder be opened for it.
pub(super) fn sync(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", folder, &error))?;
    }
    Ok(())
}

/// What makes a folder an archive.
pub(crate) const PASSPORT: &str = "archive.json";

/// The DuckDB views.
pub(crate) const VIEWS: &str = "views.sql";

/// The folder of the runs' own files.
pub(crate) const RUNS: &str = "runs";

/// The folder of audio, covers and videos.
pub(crate) const MEDIA: &str = "media";

/// The program's own folder.
const STATE: &str = ".sunor";

/// The SHA-256 of small files that no manifest lists.
pub(crate) const SEALS: &str = ".sunor/seals";

pub(super) fn lock(folder: &Path) -> PathBuf {
    folder.join(STATE).join("lock")
}

pub(super) fn journal(folder: &Path) -> PathBuf {
    folder.join(STATE).join("journal")
}

/// Downloads in progress.
pub(super) fn partial(folder: &Path) -> PathBuf {
    folder.join(STATE).join("partial")
}

/// What a repair has begun to do.
pub(super) fn repair_plan(folder: &Path) -> PathBuf {
    folder.join(STATE).join("repair.json")
}

pub(super) fn damaged(folder: &Path) -> PathBuf {
    folder.join(STATE).join("damaged")
}

/// Where new parts wait for their exchange, in a folder for each table.
pub(super) fn swap(folder: &Path) -> PathBuf {
    folder.join(STATE).join("swap")
}

/// What an exchange of parts is about.
pub(super) fn swap_plan(folder: &Path) -> PathBuf {
    folder.join(STATE).join("swap.json")
}

/// The part of each table that one journal segment becomes.
#[derive(Clone, Debug)]
pub(crate) struct PartName<'a> {
    pub(crate) run_id: &'a RunId,
    pub(crate) part: u32,
    pub(crate) format: TableFormat,
}

impl PartName<'_> {
    /// Its path in a table's folder.
    pub(crate) fn path(&self, table: &str) -> String {
        format!("{table}/{}-{:04}.{}", self.run_id, self.part, self.format.extension())
    }
}

/// A file that belongs to one run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RunFile {
    /// How the run went.
    Summary,
    /// The SHA-256 of every file it added.
    Manifest,
    /// Bodies as sent that could not be archived as they are.
    Raw,
    /// What it did not archive.
    Unfinished,
}

impl RunFile {
    /// Its path.
    pub(crate) fn path(self, run_id: &RunId) -> String {
        format!("{RUNS}/{run_id}{}", self.ending())
    }

    /// What its name ends with.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Summary => ".json",
            Self::Manifest => ".sha256",
            Self::Raw => "-raw.jsonl",
            Self::Unfinished => "-unfinished.csv",
        }
    }
}
