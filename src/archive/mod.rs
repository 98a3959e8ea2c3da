//! The archive: its layout, its lock, and the one step that publishes a file.
//!
//! An [`Archive`] reads. Only a [`LockedArchive`] writes: opening one takes the lock, and the lock lasts
//! as long as the value lives, so that no writer outlives it. This module does not know what the files hold.

#![expect(clippy::disallowed_methods, reason = "the local backend of the archive")]

mod attributes;
mod document_checksums;
mod inspect;
mod layout;
mod lock;
mod manifest;
mod media;
mod quarantine;
mod store;
mod swap;

use std::{
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use document_checksums::DocumentChecksums;
pub(crate) use inspect::{Entry, MetadataState, is_inside, manifest_line};
pub(crate) use layout::{MEDIA, PASSPORT, PartName, RUNS, RunFile, SEALS, STATE, VIEWS, is_part, is_state_name};
pub(crate) use lock::Holder;
pub(crate) use manifest::ManifestLine;
pub(crate) use media::MediaName;
pub(crate) use quarantine::open_quarantined;
pub(crate) use store::{FileSink, Store, StoredFile};
pub(crate) use swap::{NewPart, StagedPart, Swap};

use self::lock::Lock;
use crate::{
    blocking::blocking,
    checksum,
    error::{Error, Result},
    format::TableFormat,
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

/// An existing archive, for reading.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The folder, as the user named it.
    pub(crate) folder: PathBuf,
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
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let metadata = read_metadata(folder)?.ok_or_else(|| {
            Error::usage(format!("{} is not an archive: it has no {}", folder.display(), layout::PASSPORT))
        })?;
        Self::with(folder, metadata.table_format)
    }

    /// Opens the archive that a run would add to, without touching anything; `None` if it would be a new one.
    pub(crate) fn open_if_present(folder: &Path, format: Option<TableFormat>) -> Result<Option<Self>> {
        let Some(metadata) = metadata_for(folder, format)? else { return Ok(None) };
        Self::with(folder, metadata.table_format).map(Some)
    }

    fn with(folder: &Path, format: TableFormat) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), format, store: Store::local(folder)? })
    }

    /// The parts of a table, oldest first.
    pub(crate) async fn parts(&self, table: &str) -> Result<Vec<String>> {
        self.store.parts(table, self.format).await
    }

    /// The files of that kind that runs left, oldest first.
    pub(crate) async fn run_files(&self, kind: RunFile) -> Result<Vec<String>> {
        let mut paths = self.store.list(RUNS, kind.ending()).await?;
        let named = |path: &String| path.rsplit('/').next().and_then(RunFile::parse);
        paths.retain(|path| named(path).is_some_and(|(named, _)| named == kind));
        Ok(paths)
    }

    /// Refuses an `archive.json` that names one format while all parts have the other.
    async fn check_format(&self, tables: &[&str]) -> Result<()> {
        let mut others = false;
        for table in tables {
            if !self.store.parts(table, self.format).await?.is_empty() {
                return Ok(());
            }
            others |= !self.store.parts(table, self.format.other()).await?.is_empty();
        }
        if !others {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} says that the tables are {}, and all their parts are {}: restore it from a copy, or move it away, and the next export writes it by the parts",
            self.store.display(PASSPORT),
            self.format,
            self.format.other()
        )))
    }

    /// Where the journal is.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        layout::journal(&self.folder)
    }

    /// Where journal segments with damaged records are quarantined.
    pub(crate) fn damaged_folder(&self) -> PathBuf {
        layout::damaged(&self.folder)
    }

    /// The lines, in any run's manifest, of the files that are wanted. Blocks.
    pub(crate) fn manifest_lines(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ManifestLine>> {
        manifest::find(&self.folder, wanted)
    }

    /// Who holds the archive at the moment, if anybody does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        lock::holder(&layout::lock(&self.folder))
    }
}

impl LockedArchive {
    /// Opens an archive for writing that is there already.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, or one of a newer version; [`Error::Held`] if another process has it.
    pub(crate) async fn open(folder: &Path, tables: &[&str], now: Timestamp) -> Result<Self> {
        Archive::open(folder)?;
        Self::open_or_create(folder, None, tables, now).await
    }

    /// Opens an archive for writing, and creates it if there is none. `format` is what the user asked
    /// for, `tables` are the names of the tables' folders. What a crash left of an exchange of parts is
    /// finished or undone.
    ///
    /// # Errors
    /// [`Error::Usage`] if the path is a file, or the archive has another format or one of a newer version;
    /// [`Error::Held`] if another process has it.
    pub(crate) async fn open_or_create(
        folder: &Path,
        format: Option<TableFormat>,
        tables: &[&str],
        now: Timestamp,
    ) -> Result<Self> {
        // An archive that is refused is not touched.
        metadata_for(folder, format)?;
        layout::create(&layout::journal(folder))?;
        let lock = Lock::take(&layout::lock(folder), folder, now)?;
        let table_format = match metadata_for(folder, format)? {
            Some(metadata) => metadata.table_format,
            None => create(folder, format, tables, now).await?,
        };
        let archive = Archive::with(folder, table_format)?;
        archive.check_format(tables).await?;
        archive.store.sweep_staging(tables)?;
        swap::recover(folder)?;
        Ok(Self { archive, _lock: lock })
    }

    /// The same archive over another store, in which a test injects faults.
    #[cfg(test)]
    pub(crate) fn over(mut self, files: Arc<dyn object_store::ObjectStore>) -> Self {
        self.archive.store = Store::over(&self.archive.folder, files);
        self
    }

    /// Writes a small file, durably and atomically.
    pub(crate) async fn put(&self, path: &str, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        self.archive.store.put(path, bytes.into()).await
    }

    /// The same for a file that no manifest lists: its checksum is recorded first.
    pub(crate) async fn put_with_checksum(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.add_checksum(path, checksum::sha256(&bytes)).await?;
        self.put(path, bytes).await
    }

    /// Publishes a file that no manifest lists: its checksum is recorded first.
    pub(crate) async fn publish_with_checksum(&self, file: FileSink) -> Result<()> {
        self.add_checksum(file.path(), file.sha256()).await?;
        file.publish().await.map(drop)
    }

    async fn add_checksum(&self, path: &str, sha256: String) -> Result<()> {
        let (folder, path) = (self.archive.folder.clone(), path.to_owned());
        blocking(move || document_checksums::add(&folder, &path, &sha256)).await
    }

    /// Removes a file.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        self.archive.store.remove(path).await
    }

    /// Begins a file of any size, to be written by blocking code outside the runtime's own threads.
    pub(crate) fn sink(&self, path: &str) -> Result<FileSink> {
        self.archive.store.sink(path)
    }

    /// Adds files to a run's manifest. Adding them again changes nothing.
    pub(crate) async fn add_to_manifest(self: &Arc<Self>, path: &str, files: Vec<store::StoredFile>) -> Result<()> {
        let store = &self.archive.store;
        let known = if store.exists(path).await? { Some(store.open(path).await?) } else { None };
        let (held, path) = (self.clone(), path.to_owned());
        let writing = move || {
            let mut sink = held.sink(&path)?;
            let known: Box<dyn BufRead> =
                known.map_or_else(|| Box::new(io::empty()) as _, |file| Box::new(BufReader::new(file)) as _);
            let mut out = BufWriter::new(&mut sink);
            let merged = manifest::merge(known, &files, &mut out).and_then(|()| out.flush());
            drop(out);
            merged.map(|()| sink).map_err(|error| held.archive.store.failed("write", &path, &error))
        };
        blocking(writing).await?.publish().await.map(drop)
    }
}

/// The metadata of an archive that a run may write, if it exists.
fn metadata_for(folder: &Path, format: Option<TableFormat>) -> Result<Option<ArchiveMetadata>> {
    if let Some(file) = folder.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()) {
        return Err(Error::usage(format!(
            "--out {}: {} is a file; an archive is a folder",
            folder.display(),
            file.display()
        )));
    }
    let metadata = read_metadata(folder)?;
    metadata.iter().try_for_each(|metadata| check(metadata, folder, format))?;
    Ok(metadata)
}

fn check(metadata: &ArchiveMetadata, folder: &Path, format: Option<TableFormat>) -> Result<()> {
    if metadata.format_version > FORMAT_VERSION {
        return Err(newer(folder, metadata.format_version));
    }
    match format {
        Some(wanted) if wanted != metadata.table_format => Err(Error::usage(format!(
            "{} has {} tables, and --format asks for {wanted}: leave the option out, or begin another archive",
            folder.display(),
            metadata.table_format
        ))),
        _ => Ok(()),
    }
}

/// Writes the metadata of a new archive, or of one that has lost it: then the parts tell the format.
async fn create(folder: &Path, format: Option<TableFormat>, tables: &[&str], now: Timestamp) -> Result<TableFormat> {
    let store = Store::local(folder)?;
    let mut table_format = format.unwrap_or_default();
    for known in [TableFormat::Parquet, TableFormat::Csv] {
        for table in tables {
            if !store.parts(table, known).await?.is_empty() {
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
    check(&metadata, folder, format)?;
    let mut text = serde_json::to_vec_pretty(&metadata).expect("metadata has string keys only");
    text.push(b'\n');
    document_checksums::add(folder, layout::PASSPORT, &checksum::sha256(&text))?;
    store.put(layout::PASSPORT, text.into()).await?;
    Ok(table_format)
}

fn read_metadata(folder: &Path) -> Result<Option<ArchiveMetadata>> {
    let path = folder.join(layout::PASSPORT);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io("read", &path, &error)),
    };
    match serde_json::from_slice(&text) {
        Ok(metadata) => Ok(Some(metadata)),
        // A newer version may have changed every other field.
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
