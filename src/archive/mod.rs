//! The archive: where everything is, who may write, and the one step that puts a file in place.
//!
//! Opening an archive for writing takes its lock; only the value that holds it can put files. What the
//! files hold is not known here.

mod known;
mod layout;
mod lock;
mod manifest;
mod store;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use known::mark_archived;
pub(crate) use layout::{PartName, RUNS, RunFile};
pub use lock::Holder;
pub(crate) use manifest::{add_lines, add_to_manifest};
pub(crate) use store::{FileSink, Store};

use self::lock::Lock;
use crate::{
    error::{Error, Result},
    tables::{self, TableFormat},
};

/// The version of the archive's format that this program writes.
const FORMAT_VERSION: u32 = 1;

/// `archive.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Passport {
    format_version: u32,
    table_format: TableFormat,
    created_at: Timestamp,
    created_by: String,
}

/// The one field of `archive.json` that every version has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// An archive that is there, for reading.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The folder, as the user named it.
    pub(crate) folder: PathBuf,
    /// Its tables' format.
    pub(crate) format: TableFormat,
    /// Its files.
    pub(crate) store: Store,
}

/// An archive that nobody else writes: it is held as long as this value lives.
#[derive(Debug)]
pub(crate) struct HeldArchive {
    pub(crate) archive: Arc<Archive>,
    _lock: Lock,
}

impl Archive {
    /// Opens an archive for reading, also one of a newer format.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let passport = read_passport(folder)?.ok_or_else(|| {
            Error::usage(format!("{} is no archive: there is no {} in it", folder.display(), layout::PASSPORT))
        })?;
        Self::with(folder, &passport)
    }

    fn with(folder: &Path, passport: &Passport) -> Result<Self> {
        let store = Store::local(folder)?;
        Ok(Self { folder: folder.to_owned(), format: passport.table_format, store })
    }

    /// The parts of a table, oldest first.
    pub(crate) async fn parts(&self, table: &str) -> Result<Vec<String>> {
        self.store.list(table, &format!(".{}", self.format.extension())).await
    }

    /// Writes the DuckDB views anew, if what they should say has changed.
    pub(crate) async fn write_views(&self) -> Result<()> {
        let mut with_parts = HashSet::new();
        for table in tables::TABLES {
            if !self.parts(table).await?.is_empty() {
                with_parts.insert(table);
            }
        }
        let sql = tables::views_sql(self.format, |table| with_parts.contains(table));
        match self.store.get(layout::VIEWS).await? {
            Some(written) if written == sql => Ok(()),
            _ => self.store.put(layout::VIEWS, sql).await,
        }
    }

    /// Where the journal is.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        layout::journal(&self.folder)
    }

    /// Where journal segments with damaged records are kept aside.
    pub(crate) fn damaged_folder(&self) -> PathBuf {
        layout::damaged(&self.folder)
    }

    /// Who holds the archive at the moment, if anybody does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        lock::holder(&layout::lock(&self.folder))
    }
}

impl HeldArchive {
    /// Opens an archive for writing, and creates it if there is none. `format` is what the user asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if the path is a file, the archive has another format, or one of a newer version;
    /// [`Error::Held`] if another process has it.
    pub(crate) async fn open_or_create(folder: &Path, format: Option<TableFormat>, now: Timestamp) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(Error::usage(format!("--out {} is a file; an archive is a folder", folder.display())));
        }
        // What would be refused leaves nothing behind.
        let known = read_passport(folder)?;
        if let Some(passport) = &known {
            check(passport, folder, format)?;
        }
        create_folder(&layout::journal(folder))?;
        let lock = Lock::take(&layout::lock(folder), folder, now)?;
        let passport = match read_passport(folder)? {
            Some(passport) => passport,
            None => create(folder, format.unwrap_or_default(), now).await?,
        };
        check(&passport, folder, format)?;
        let archive = Arc::new(Archive::with(folder, &passport)?);
        archive.store.sweep_staging()?;
        Ok(Self { archive, _lock: lock })
    }
}

fn check(passport: &Passport, folder: &Path, format: Option<TableFormat>) -> Result<()> {
    if passport.format_version > FORMAT_VERSION {
        return Err(newer(folder, passport.format_version));
    }
    match format {
        Some(wanted) if wanted != passport.table_format => Err(Error::usage(format!(
            "{} has {} tables, and --format asks for {wanted}: leave the option out, or begin another archive",
            folder.display(),
            passport.table_format
        ))),
        _ => Ok(()),
    }
}

async fn create(folder: &Path, table_format: TableFormat, now: Timestamp) -> Result<Passport> {
    let passport = Passport {
        format_version: FORMAT_VERSION,
        table_format,
        created_at: now,
        created_by: concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).into(),
    };
    let mut text = serde_json::to_vec_pretty(&passport).expect("a passport has string keys only");
    text.push(b'\n');
    Store::local(folder)?.put(layout::PASSPORT, text).await?;
    Ok(passport)
}

fn read_passport(folder: &Path) -> Result<Option<Passport>> {
    let path = folder.join(layout::PASSPORT);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path, &error)),
    };
    match serde_json::from_slice(&text) {
        Ok(passport) => Ok(Some(passport)),
        // A newer passport may have changed in every other way.
        Err(error) => match serde_json::from_slice::<Version>(&text) {
            Ok(Version { format_version }) if format_version > FORMAT_VERSION => Err(newer(folder, format_version)),
            _ => Err(Error::storage("read", path.display(), &error)),
        },
    }
}

fn newer(folder: &Path, version: u32) -> Error {
    Error::usage(format!(
        "{} has the archive format {version}, and this program knows {FORMAT_VERSION}: use a newer version of it",
        folder.display()
    ))
}

fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, &error))
}
