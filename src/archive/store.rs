//! The files of an archive, and the one step that publishes a file.
//!
//! A file is complete under its final name or not there at all: it is written to a staging file, synced, renamed,
//! and its folder synced, in that order, by `object_store`. A crash leaves `<name>#<n>`, which no reader's pattern
//! matches, and the next run removes it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{
    GetResultPayload, ObjectStore, ObjectStoreExt, buffered::BufWriter, local::LocalFileSystem, path::Path as Location,
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, runtime::Handle};
use tokio_util::io::SyncIoBridge;

use super::layout;
use crate::{
    blocking::blocking,
    checksum::{self, Hasher},
    error::{Advice, Error, Result},
    filesystem::{self, Limitation},
    format::TableFormat,
    http,
    ranged::RangedFile,
};

/// A part is written to the store in pieces of this size, one at a time.
const PIECE: usize = 4 << 20;

/// The files of one archive, named relative to it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    files: Arc<dyn ObjectStore>,
}

impl Store {
    /// The files of a folder that exists.
    pub(super) fn local(folder: &Path) -> Result<Self> {
        let files = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| Error::storage("open", folder.display(), &error))?
            .with_fsync(true);
        Ok(Self { folder: folder.to_owned(), files: Arc::new(files) })
    }

    /// The files of a folder over another store, in which a test injects faults.
    #[cfg(test)]
    pub(super) fn over(folder: &Path, files: Arc<dyn ObjectStore>) -> Self {
        Self { folder: folder.to_owned(), files }
    }

    /// Writes a small file, durably and atomically.
    pub(super) async fn put(&self, path: &str, bytes: bytes::Bytes) -> Result<()> {
        self.create_folder(path)?;
        let put = self.files.put(&Location::from(path), bytes.clone().into()).await.map(drop);
        match put {
            Err(error) if lacks_folder_sync(&error) && self.get(path).await?.is_some_and(|there| there == bytes) => {
                Ok(())
            }
            put => put.map_err(|error| self.failed("write", path, &error)),
        }
    }

    /// Removes a file.
    pub(super) async fn remove(&self, path: &str) -> Result<()> {
        self.files.delete(&Location::from(path)).await.map_err(|error| self.failed("remove", path, &error))
    }

    /// Reads a small file; `None` if there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<bytes::Bytes>> {
        match self.files.get(&Location::from(path)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(|error| self.failed("read", path, &error)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", path, &error)),
        }
    }

    /// Whether there is such a file.
    pub(crate) async fn exists(&self, path: &str) -> Result<bool> {
        match self.files.head(&Location::from(path)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("read", path, &error)),
        }
    }

    /// Whether there is a file of these bytes.
    async fn has(&self, path: &str, sha256: &str) -> Result<bool> {
        if !self.exists(path).await? {
            return Ok(false);
        }
        let mut file = self.open(path).await?;
        let digested = blocking(move || Ok(checksum::digest(&mut file))).await?;
        digested.map(|there| there.sha256 == sha256).map_err(|error| self.failed("read", path, &error))
    }

    /// Opens a file for reading in blocking code.
    pub(crate) async fn open(&self, path: &str) -> Result<RangedFile> {
        match self.files.get(&Location::from(path)).await.map(|found| found.payload) {
            Ok(GetResultPayload::File(file, _)) => Ok(RangedFile::new(file)),
            Ok(GetResultPayload::Stream(_)) => {
                Err(self.failed("open", path, &io::Error::other("the store gives no file")))
            }
            Err(error) => Err(self.failed("open", path, &error)),
        }
    }

    /// The paths in one folder that end with `ending`, sorted. A folder that is not there is empty.
    pub(crate) async fn list(&self, folder: &str, ending: &str) -> Result<Vec<String>> {
        let listed = self.files.list_with_delimiter(Some(&Location::from(folder))).await;
        let listed = listed.map_err(|error| self.failed("list", folder, &error))?;
        let mut paths: Vec<String> = listed.objects.into_iter().map(|object| object.location.to_string()).collect();
        paths.retain(|path| path.ends_with(ending));
        paths.sort();
        Ok(paths)
    }

    /// The parts of a table, sorted: files with another name than the archive gives are not part of it.
    pub(super) async fn parts(&self, table: &str, format: TableFormat) -> Result<Vec<String>> {
        let mut paths = self.list(table, format.extension()).await?;
        paths.retain(|path| layout::is_part(path, table, format));
        Ok(paths)
    }

    /// Begins a file of any size, to be written by blocking code outside the runtime's own threads.
    pub(super) fn sink(&self, path: &str) -> Result<FileSink> {
        self.create_folder(path)?;
        let writer = BufWriter::with_capacity(self.files.clone(), Location::from(path), PIECE).with_max_concurrency(1);
        Ok(FileSink {
            store: self.clone(),
            path: path.to_owned(),
            writer: SyncIoBridge::new_with_handle(writer, Handle::current()),
            hasher: Hasher::default(),
        })
    }

    /// Creates the folder of a file that is about to be written.
    fn create_folder(&self, path: &str) -> Result<()> {
        layout::create(self.folder.join(path).parent().unwrap_or(&self.folder))
    }

    /// The full path, for messages.
    pub(crate) fn display(&self, path: &str) -> String {
        self.folder.join(path).display().to_string()
    }

    /// Removes staging files that a crash left. The lock must be held. In the archive's top folder, which may hold
    /// other files too, only those of the archive's own two files are removed.
    pub(super) fn sweep_staging(&self, tables: &[&str]) -> Result<()> {
        let owned = tables.iter().chain(&[layout::RUNS]).flat_map(|folder| self.staged_in(folder));
        let top = self.staged_in("").into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            [layout::PASSPORT, layout::VIEWS].iter().any(|file| name.starts_with(&format!("{file}#")))
        });
        for path in owned.chain(top) {
            fs::remove_file(&path).map_err(|error| Error::io("remove", &path, &error))?;
        }
        Ok(())
    }

    fn staged_in(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| is_staging(path) && path.is_file()).collect()
    }

    /// An error about one of the files.
    pub(crate) fn failed(&self, action: &'static str, path: &str, error: &(dyn std::error::Error + 'static)) -> Error {
        let failed = Error::storage(action, self.display(path), error);
        let is_of_system = std::iter::successors(Some(error), |error| error.source())
            .any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()));
        // A part that the system can read and this program cannot decode is damaged.
        if layout::is_any_part(path) && !is_of_system { failed.advising(Advice::Repair) } else { failed }
    }
}

/// Whether an error says that a file's folder cannot be synced. That step is the last: the file is in place.
fn lacks_folder_sync(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = http::chain(error);
    let is_lacking = chain.any(|cause| cause.downcast_ref().is_some_and(filesystem::is_unsupported));
    if is_lacking {
        filesystem::note(Limitation::FolderSync);
    }
    is_lacking
}

pub(super) fn is_staging(path: &Path) -> bool {
    let number = path.file_name().and_then(|name| name.to_str()?.rsplit_once('#'));
    number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A staging file. Dropped before [`FileSink::publish`], it is discarded.
pub(crate) struct FileSink {
    store: Store,
    path: String,
    writer: SyncIoBridge<BufWriter>,
    hasher: Hasher,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    /// Its path in the archive.
    pub(crate) path: String,
    /// Its SHA-256 in hex.
    pub(crate) sha256: String,
}

impl FileSink {
    /// Its final path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The SHA-256, in hex, of what was written.
    pub(super) fn sha256(&self) -> String {
        self.hasher.digested().sha256
    }

    /// Moves the file to its final name, durably.
    pub(crate) async fn publish(self) -> Result<StoredFile> {
        let sha256 = self.sha256();
        match self.writer.into_inner().shutdown().await {
            Err(error) if lacks_folder_sync(&error) && self.store.has(&self.path, &sha256).await? => {}
            put => put.map_err(|error| self.store.failed("write", &self.path, &error))?,
        }
        Ok(StoredFile { path: self.path, sha256 })
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_removes_staging_files_and_nothing_of_the_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("tasks")).unwrap();
        fs::create_dir_all(path("Mix #1")).unwrap();
        for name in ["tasks/a.parquet", "tasks/a.parquet#1", "views.sql#12", "take#3", "archive.json"] {
            fs::write(path(name), "x").unwrap();
        }
        Store::local(folder.path()).unwrap().sweep_staging(&["tasks", "clips"]).unwrap();
        let left = |name: &str| path(name).exists();
        assert!(["tasks/a.parquet", "take#3", "Mix #1", "archive.json"].into_iter().all(left));
        assert!(!["tasks/a.parquet#1", "views.sql#12"].into_iter().any(left));
    }
}
