//! The archive: its layout, its lock, and the one step that publishes a file.
//!
//! An [`Archive`] reads. Only a [`LockedArchive`] writes: opening one takes the lock, and the lock lasts
//! as long as the value lives, so that no writer outlives it. This module does not know what the files hold.

#![expect(clippy::disallowed_methods, reason = "the local backend, and the program's own local files")]

mod attributes;
mod backend;
#[cfg(test)]
mod conformance;
mod document_checksums;
#[cfg(test)]
pub(crate) mod failing;
mod inspect;
mod layout;
mod local;
mod location;
mod lock;
mod manifest;
mod media;
#[cfg(test)]
pub(crate) mod objects;
mod quarantine;
mod store;
mod swap;

use std::{io, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use location::Location;

pub(crate) use document_checksums::DocumentChecksums;
pub(crate) use inspect::{Entry, MetadataState, is_inside, manifest_line};
pub(crate) use layout::{CHECKSUMS, MEDIA, METADATA, PartName, RUNS, RunFile, STATE, VIEWS, is_part, is_state_name};
pub(crate) use lock::Holder;
pub(crate) use manifest::ManifestLine;
pub(crate) use media::MediaName;
pub(crate) use quarantine::open_quarantined;
pub(crate) use store::{FileSink, Store, StoredFile};
pub(crate) use swap::{NewPart, StagedPart, Swap};

use self::lock::Lock;
use crate::{
    checksum,
    error::{Advice, Error, Result},
    format::TableFormat,
    ranged::RangedFile,
};

/// The version of the archive's format that this program writes.
const FORMAT_VERSION: u32 = 1;

/// `archive.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ArchiveMetadata {
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

/// An existing archive, for reading. Its calls block.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The archive, as the user named it.
    pub(crate) name: String,
    /// Its tables' format.
    pub(crate) format: TableFormat,
    /// Its files.
    pub(crate) store: Store,
}

/// An archive that no other process writes as long as this value lives.
#[derive(Debug)]
pub(crate) struct LockedArchive {
    /// The archive, for reading.
    pub(crate) archive: Archive,
    _lock: Lock,
}

impl Archive {
    /// Opens an archive for reading, also one of a newer format.
    pub(crate) fn open(location: &Location) -> Result<Self> {
        match read_metadata(location)? {
            Some(metadata) => Ok(Self::with(location, metadata.table_format)),
            None if has_tasks(&location.store())? => Err(Error::usage(format!(
                "{location} has no {METADATA}, but it has tables: restore the file, or the next export regenerates it"
            ))),
            None => Err(Error::usage(format!("{location} is not an archive: it has no {METADATA}"))),
        }
    }

    /// Opens the archive that a run would add to, without touching anything; `None` if it would be a new one.
    pub(crate) fn open_if_present(location: &Location, format: Option<TableFormat>) -> Result<Option<Self>> {
        Ok(metadata_for(location, format)?.map(|metadata| Self::with(location, metadata.table_format)))
    }

    fn with(location: &Location, format: TableFormat) -> Self {
        Self { name: location.to_string(), format, store: location.store() }
    }

    /// The parts of a table, oldest first.
    pub(crate) fn parts(&self, table: &str) -> Result<Vec<String>> {
        self.store.parts(table, self.format)
    }

    /// Reads a part.
    pub(crate) fn read_part<T>(&self, path: &str, read: impl FnOnce(RangedFile) -> io::Result<T>) -> Result<T> {
        read(self.store.open(path)?).map_err(|error| self.store.failed("read", path, &error))
    }

    /// The files of that kind that runs left, oldest first.
    pub(crate) fn run_files(&self, kind: RunFile) -> Result<Vec<String>> {
        self.store.files(RUNS, |entry| RunFile::parse(entry.name()).is_some_and(|(named, _)| named == kind))
    }

    /// Refuses an `archive.json` that names one format while all parts have the other.
    fn check_format(&self, tables: &[&str]) -> Result<()> {
        let mut others = false;
        for table in tables {
            if !self.store.parts(table, self.format)?.is_empty() {
                return Ok(());
            }
            others |= !self.store.parts(table, self.format.other())?.is_empty();
        }
        if !others {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} says that the tables are {}, and all their parts are {}: restore it from a copy, or move it away, and the next export writes it by the parts",
            self.store.display(METADATA),
            self.format,
            self.format.other()
        )))
    }

    /// Where the journal is.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.store.state_path(layout::JOURNAL)
    }

    /// Where journal segments with damaged records are quarantined.
    pub(crate) fn damaged_folder(&self) -> PathBuf {
        self.store.state_path(layout::DAMAGED)
    }

    /// The lines, in any run's manifest, of the files that are wanted.
    pub(crate) fn manifest_lines(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ManifestLine>> {
        manifest::find(&self.store, wanted)
    }

    /// Who holds the archive at the moment, if anybody does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        lock::holder(&self.store.state_path(layout::LOCK))
    }
}

impl LockedArchive {
    /// Opens an archive for writing that is there already.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, or one of a newer version; [`Error::Held`] if another process has it.
    pub(crate) fn open(location: &Location, tables: &[&str], now: Timestamp) -> Result<Self> {
        Archive::open(location)?;
        Self::open_or_create(location, None, tables, now)
    }

    /// Opens an archive for writing, and creates it if there is none. `format` is what the user asked
    /// for, `tables` are the names of the tables' folders. What a crash left of an exchange of parts is
    /// finished or undone.
    ///
    /// # Errors
    /// [`Error::Usage`] if the path is a file, or the archive has another format or one of a newer version;
    /// [`Error::Held`] if another process has it.
    pub(crate) fn open_or_create(
        location: &Location,
        format: Option<TableFormat>,
        tables: &[&str],
        now: Timestamp,
    ) -> Result<Self> {
        // An archive that is refused is not touched.
        metadata_for(location, format)?;
        let store = location.store();
        let journal = store.state_path(layout::JOURNAL);
        local::create_folder(&journal).map_err(|error| Error::io("create", &journal, &error))?;
        let lock = Lock::take(&store.state_path(layout::LOCK), location, now)?;
        let table_format = match metadata_for(location, format)? {
            Some(metadata) => metadata.table_format,
            None => create(location, format, tables, now)?,
        };
        let archive = Archive::with(location, table_format);
        archive.check_format(tables)?;
        store.sweep_staging(tables)?;
        swap::recover(&store)?;
        Ok(Self { archive, _lock: lock })
    }

    /// Writes a small file, durably and in one step.
    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.archive.store.put(path, bytes.as_ref())
    }

    /// The same for a file that no manifest lists: its checksum is recorded first.
    pub(crate) fn put_with_checksum(&self, path: &str, bytes: &[u8]) -> Result<()> {
        document_checksums::add(&self.archive.store, path, &checksum::sha256(bytes))?;
        self.put(path, bytes)
    }

    /// Publishes a file that no manifest lists: its checksum is recorded first.
    pub(crate) fn publish_with_checksum(&self, file: FileSink) -> Result<()> {
        document_checksums::add(&self.archive.store, file.path(), &file.sha256())?;
        file.publish().map(drop)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        self.archive.store.remove(path)
    }

    /// Starts a new file, to be written as a stream.
    pub(crate) fn sink(&self, path: &str) -> Result<FileSink> {
        self.archive.store.create(path)
    }

    /// Adds files to a run's manifest. Adding them again changes nothing.
    pub(crate) fn add_to_manifest(&self, path: &str, files: &[StoredFile]) -> Result<()> {
        let store = &self.archive.store;
        store.rewrite(path, |known, out| manifest::merge(known, files, out))?;
        store.sync(RUNS)
    }
}

/// The metadata of an archive that a run may write, if it exists.
fn metadata_for(location: &Location, format: Option<TableFormat>) -> Result<Option<ArchiveMetadata>> {
    location.check()?;
    let metadata = read_metadata(location)?;
    metadata.iter().try_for_each(|metadata| check(metadata, location, format))?;
    Ok(metadata)
}

fn check(metadata: &ArchiveMetadata, location: &Location, format: Option<TableFormat>) -> Result<()> {
    if metadata.format_version > FORMAT_VERSION {
        return Err(newer(location, metadata.format_version));
    }
    match format {
        Some(wanted) if wanted != metadata.table_format => Err(Error::usage(format!(
            "{} has {} tables, and --format asks for {wanted}: leave the option out, or begin another archive",
            location, metadata.table_format
        ))),
        _ => Ok(()),
    }
}

/// Writes the metadata of a new archive, or of one that has lost it: then the parts tell the format.
fn create(location: &Location, format: Option<TableFormat>, tables: &[&str], now: Timestamp) -> Result<TableFormat> {
    let store = location.store();
    let mut table_format = format.unwrap_or_default();
    for known in [TableFormat::Parquet, TableFormat::Csv] {
        for table in tables {
            if !store.parts(table, known)?.is_empty() {
                table_format = known;
            }
        }
    }
    let metadata = ArchiveMetadata {
        format_version: FORMAT_VERSION,
        table_format,
        created_at: now,
        created_by: concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).into(),
    };
    check(&metadata, location, format)?;
    let mut text = serde_json::to_vec_pretty(&metadata).expect("metadata has string keys only");
    text.push(b'\n');
    document_checksums::add(&store, METADATA, &checksum::sha256(&text))?;
    store.put(METADATA, &text)?;
    Ok(table_format)
}

/// The folders of an archive.
const FOLDERS: [&str; 6] = ["tasks", "clips", "lyrics", "assets", MEDIA, RUNS];

/// Whether a folder without metadata has the tasks table of an archive.
fn has_tasks(store: &Store) -> Result<bool> {
    Ok(store.list("tasks")?.iter().any(|entry| layout::is_any_part(&entry.path)))
}

fn read_metadata(location: &Location) -> Result<Option<ArchiveMetadata>> {
    let store = location.store();
    let Some(text) = store.get(METADATA)? else { return Ok(None) };
    // The files in a folder that is a link to a disk that is not mounted would seem missing.
    for folder in FOLDERS {
        store.list(folder)?;
    }
    match serde_json::from_slice(&text) {
        Ok(metadata) => Ok(Some(metadata)),
        // A newer version may have changed every other field.
        Err(error) => match serde_json::from_slice::<Version>(&text) {
            Ok(Version { format_version }) if format_version > FORMAT_VERSION => Err(newer(location, format_version)),
            _ => Err(store.failed("read", METADATA, &error).advising(Advice::MoveAway)),
        },
    }
}

fn newer(location: &Location, version: u32) -> Error {
    Error::usage(format!(
        "{location} has archive format {version}; this version supports {FORMAT_VERSION}: upgrade sunor-archive",
    ))
}
