//! The archive layout, the archive lock, and the publication of files.
//!
//! An [`Archive`] provides read access, and a [`LockedArchive`] also provides write access. A [`LockedArchive`] holds
//! the archive lock until it is dropped, so only one process at a time can write to the archive. This module does not
//! interpret the contents of tables or media files.

#![expect(clippy::disallowed_methods, reason = "the local backend and the files in `.sunor` use the local file system")]

mod attributes;
mod backend;
mod checksum_file;
#[cfg(test)]
mod conformance;
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
pub(crate) mod object_store;
mod quarantine;
mod store;
mod swap;

use std::{io, ops::Deref, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use location::Location;

pub(crate) use checksum_file::ChecksumFile;
pub(crate) use inspect::{Entry, MetadataState, is_inside, parse_manifest_line};
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

/// The version of the archive format that this program writes.
const FORMAT_VERSION: u32 = 1;

/// The content of `archive.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ArchiveMetadata {
    format_version: u32,
    table_format: TableFormat,
    created_at: Timestamp,
    created_by: String,
}

/// The only field of `archive.json` that every format version has.
#[derive(Deserialize)]
struct FormatVersion {
    format_version: u32,
}

/// An existing archive, opened for reading. All methods block.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The location of the archive, as the user specified it.
    pub(crate) location: String,
    /// The format of the tables.
    pub(crate) format: TableFormat,
    /// The files of the archive.
    pub(crate) store: Store,
}

/// An archive that no other process can write to until this value is dropped.
#[derive(Debug)]
pub(crate) struct LockedArchive {
    /// Read access to the archive.
    pub(crate) inner: Archive,
    _lock: Lock,
}

impl Archive {
    /// Opens an archive for reading. Accepts a newer format version if `archive.json` contains all fields of the
    /// current format version.
    pub(crate) fn open(location: &Location) -> Result<Self> {
        match read_metadata(location)? {
            Some(metadata) => Ok(Self::with_format(location, metadata.table_format)),
            None if has_tasks(&location.store())? => Err(Error::usage(format!(
                "{location} has tables but no {METADATA}; restore the file, or run `export` to regenerate it"
            ))),
            None => Err(Error::usage(format!("{location} is not an archive: it has no {METADATA}"))),
        }
    }

    /// Opens the archive that a run would write to, without changing any file. Returns `None` if the run would create a
    /// new archive.
    pub(crate) fn open_if_present(location: &Location, format: Option<TableFormat>) -> Result<Option<Self>> {
        Ok(load_metadata(location, format)?.map(|metadata| Self::with_format(location, metadata.table_format)))
    }

    fn with_format(location: &Location, format: TableFormat) -> Self {
        Self { location: location.to_string(), format, store: location.store() }
    }

    /// Lists the parts of a table, oldest first.
    pub(crate) fn parts(&self, table: &str) -> Result<Vec<String>> {
        self.store.parts(table, self.format)
    }

    /// Opens a part and passes it to `read`.
    pub(crate) fn read_part<T>(&self, path: &str, read: impl FnOnce(RangedFile) -> io::Result<T>) -> Result<T> {
        read(self.store.open(path)?).map_err(|error| self.store.storage_error("read", path, &error))
    }

    /// Lists the run files of the given kind, oldest first.
    pub(crate) fn run_files(&self, kind: RunFile) -> Result<Vec<String>> {
        self.store.files(RUNS, |entry| RunFile::parse(entry.name()).is_some_and(|(named, _)| named == kind))
    }

    /// Returns an error if the archive has parts, but none in the table format that `archive.json` specifies.
    fn check_format(&self, tables: &[&str]) -> Result<()> {
        let mut has_other_format = false;
        for table in tables {
            if !self.store.parts(table, self.format)?.is_empty() {
                return Ok(());
            }
            has_other_format |= !self.store.parts(table, self.format.other())?.is_empty();
        }
        if !has_other_format {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} specifies {} tables, but all parts are {}; restore it from a backup, or move it away and run `export` to regenerate it from the parts",
            self.store.display(METADATA),
            self.format,
            self.format.other()
        )))
    }

    /// Returns the local folder of the journal.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.store.state_path(layout::JOURNAL)
    }

    /// Returns the local quarantine folder, which also contains journal segments with damaged records.
    pub(crate) fn quarantine_folder(&self) -> PathBuf {
        self.store.state_path(layout::QUARANTINE)
    }

    /// Searches all manifests for the lines of the files that `wanted` selects.
    pub(crate) fn manifest_lines(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ManifestLine>> {
        manifest::find_lines(&self.store, wanted)
    }

    /// Returns the process that currently holds the archive lock, if any.
    pub(crate) fn holder(&self) -> Option<Holder> {
        lock::holder(&self.store.state_path(layout::LOCK))
    }
}

impl Deref for LockedArchive {
    type Target = Archive;

    fn deref(&self) -> &Archive {
        &self.inner
    }
}

impl LockedArchive {
    /// Opens an existing archive for writing.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the archive does not exist or has a newer format version. Returns [`Error::Locked`]
    /// if another process holds the lock.
    pub(crate) fn open(location: &Location, tables: &[&str], now: Timestamp) -> Result<Self> {
        Archive::open(location)?;
        Self::open_or_create(location, None, tables, now)
    }

    /// Opens an archive for writing, or creates it if it does not exist. `format` is the table format that the user
    /// requested. `tables` contains the names of the table folders. Completes or undoes a swap that was interrupted by
    /// a crash.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the location is a file, or if the archive has a different table format or a newer
    /// format version. Returns [`Error::Locked`] if another process holds the lock.
    pub(crate) fn open_or_create(
        location: &Location,
        format: Option<TableFormat>,
        tables: &[&str],
        now: Timestamp,
    ) -> Result<Self> {
        // The metadata is checked before the first write, so that a rejected archive is not changed.
        load_metadata(location, format)?;
        let store = location.store();
        let journal = store.state_path(layout::JOURNAL);
        local::create_folder(&journal).map_err(|error| Error::io("create", &journal, &error))?;
        let lock = Lock::acquire(&store.state_path(layout::LOCK), location, now)?;
        let table_format = match load_metadata(location, format)? {
            Some(metadata) => metadata.table_format,
            None => create(location, format, tables, now)?,
        };
        let archive = Archive::with_format(location, table_format);
        archive.check_format(tables)?;
        store.remove_staging_files(tables)?;
        swap::recover(&store)?;
        Ok(Self { inner: archive, _lock: lock })
    }

    /// Writes a small file durably and atomically.
    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.store.put(path, bytes.as_ref())
    }

    /// Writes a small file that no manifest lists. Records the checksum before writing the file.
    pub(crate) fn put_with_checksum(&self, path: &str, bytes: &[u8]) -> Result<()> {
        checksum_file::add(&self.store, path, &checksum::sha256(bytes))?;
        self.put(path, bytes)
    }

    /// Publishes a file that no manifest lists. Records the checksum before publishing the file.
    pub(crate) fn publish_with_checksum(&self, file: FileSink) -> Result<()> {
        checksum_file::add(&self.store, file.path(), &file.sha256())?;
        file.publish().map(drop)
    }

    /// Removes a file if it exists.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        self.store.remove(path)
    }

    /// Creates a staging file for the final path `path`. The returned [`FileSink`] writes to the staging file.
    pub(crate) fn sink(&self, path: &str) -> Result<FileSink> {
        self.store.create(path)
    }

    /// Adds files to the manifest of a run. Adding the same files again has no effect.
    pub(crate) fn add_to_manifest(&self, path: &str, files: &[StoredFile]) -> Result<()> {
        let store = &self.store;
        store.rewrite(path, |existing, out| manifest::merge(existing, files, out))?;
        store.sync(RUNS)
    }
}

/// Reads and checks the metadata of an archive that a run will write to. Returns `None` if the archive does not exist.
fn load_metadata(location: &Location, format: Option<TableFormat>) -> Result<Option<ArchiveMetadata>> {
    location.check()?;
    let metadata = read_metadata(location)?;
    metadata.iter().try_for_each(|metadata| check_compatible(metadata, location, format))?;
    Ok(metadata)
}

fn check_compatible(metadata: &ArchiveMetadata, location: &Location, format: Option<TableFormat>) -> Result<()> {
    if metadata.format_version > FORMAT_VERSION {
        return Err(unsupported_version(location, metadata.format_version));
    }
    match format {
        Some(wanted) if wanted != metadata.table_format => Err(Error::usage(format!(
            "{} has {} tables, but --format is {wanted}; omit --format or create a new archive",
            location, metadata.table_format
        ))),
        _ => Ok(()),
    }
}

/// Writes the metadata of a new archive, or of an archive whose `archive.json` is missing. If the archive already has
/// parts, the format of these parts becomes the table format.
fn create(location: &Location, format: Option<TableFormat>, tables: &[&str], now: Timestamp) -> Result<TableFormat> {
    let store = location.store();
    let mut table_format = format.unwrap_or_default();
    for candidate in [TableFormat::Parquet, TableFormat::Csv] {
        for table in tables {
            if !store.parts(table, candidate)?.is_empty() {
                table_format = candidate;
            }
        }
    }
    let metadata = ArchiveMetadata {
        format_version: FORMAT_VERSION,
        table_format,
        created_at: now,
        created_by: concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).into(),
    };
    check_compatible(&metadata, location, format)?;
    let mut text = serde_json::to_vec_pretty(&metadata).expect("the metadata can always be serialized");
    text.push(b'\n');
    checksum_file::add(&store, METADATA, &checksum::sha256(&text))?;
    store.put(METADATA, &text)?;
    Ok(table_format)
}

/// The folders of an archive, except `.sunor`.
const FOLDERS: [&str; 10] =
    ["tasks", "clips", "lyrics", "assets", MEDIA, "media/audio", "media/image", "media/video", RUNS, STATE];

/// Returns whether a folder without `archive.json` contains parts of the tasks table.
fn has_tasks(store: &Store) -> Result<bool> {
    Ok(store.list("tasks")?.iter().any(|entry| layout::is_any_part(&entry.path)))
}

fn read_metadata(location: &Location) -> Result<Option<ArchiveMetadata>> {
    let store = location.store();
    let Some(text) = store.get(METADATA)? else { return Ok(None) };
    // Listing a folder that is a link to an unmounted disk fails. Without this check, the files in such a folder would
    // appear to be missing.
    for folder in FOLDERS {
        store.list(folder)?;
    }
    match serde_json::from_slice(&text) {
        Ok(metadata) => Ok(Some(metadata)),
        // A newer format version may have changed any field except `format_version`.
        Err(error) => match serde_json::from_slice::<FormatVersion>(&text) {
            Ok(FormatVersion { format_version }) if format_version > FORMAT_VERSION => {
                Err(unsupported_version(location, format_version))
            }
            _ => Err(store.storage_error("read", METADATA, &error).with_advice(Advice::MoveAway)),
        },
    }
}

fn unsupported_version(location: &Location, version: u32) -> Error {
    Error::usage(format!(
        "{location} has archive format {version}, but this version of sunor-archive supports only format {FORMAT_VERSION}; upgrade sunor-archive",
    ))
}
