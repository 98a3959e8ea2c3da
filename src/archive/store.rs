//! Access to the files of an archive. The internal files in `.sunor` are always stored in a local folder, and all other
//! files are stored in the backend of the archive. All methods block.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Entry,
    backend::{Backend, StagingFile},
    layout::{self, METADATA, RUNS, STATE, VIEWS},
    local::{LocalBackend, none_if_missing},
};
use crate::{
    checksum::Hasher,
    error::{Advice, Error, Result},
    format::TableFormat,
    ranged::RangedFile,
};

/// The files of one archive. All paths are relative to the archive.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    files: Arc<dyn Backend>,
    state: Arc<dyn Backend>,
    /// The local folder that contains `.sunor`.
    state_root: PathBuf,
}

impl Store {
    /// Creates a store for an archive in a local folder.
    pub(super) fn local(folder: &Path) -> Self {
        let files: Arc<dyn Backend> = Arc::new(LocalBackend::new(folder));
        Self { state: files.clone(), files, state_root: folder.to_owned() }
    }

    /// Creates a store for an archive in the given backend, with `.sunor` in a local folder.
    #[cfg(test)]
    pub(crate) fn with_files(files: Arc<dyn Backend>, state_root: &Path) -> Self {
        Self { files, ..Self::local(state_root) }
    }

    /// Returns the store with each of its backends wrapped by `wrap`.
    #[cfg(test)]
    pub(crate) fn wrap_backends(self, wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Self {
        Self { files: wrap(self.files), state: wrap(self.state), ..self }
    }

    fn backend(&self, path: &str) -> &dyn Backend {
        let is_state_path = path.strip_prefix(STATE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_state_path { self.state.as_ref() } else { self.files.as_ref() }
    }

    /// Returns the local path of a file in `.sunor`.
    pub(super) fn state_path(&self, path: &str) -> PathBuf {
        self.state_root.join(path)
    }

    /// Converts the local path of a file in `.sunor` to its path in the archive.
    pub(super) fn archive_path(&self, path: &Path) -> String {
        path.strip_prefix(&self.state_root).unwrap_or(path).display().to_string()
    }

    /// Opens a file for reading.
    pub(crate) fn open(&self, path: &str) -> Result<RangedFile> {
        self.try_open(path).map_err(|error| self.storage_error("open", path, &error))
    }

    /// Opens a file that may be damaged.
    pub(super) fn try_open(&self, path: &str) -> io::Result<RangedFile> {
        self.backend(path).open(path)
    }

    /// Reads a small file that may be damaged.
    pub(super) fn try_read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.try_open(path)?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Reads a small file. Returns `None` if the file does not exist.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        none_if_missing(self.try_read(path)).map_err(|error| self.storage_error("read", path, &error))
    }

    /// Returns the size of a file in bytes, or `None` if the file does not exist.
    pub(super) fn try_size(&self, path: &str) -> io::Result<Option<u64>> {
        self.backend(path).size(path)
    }

    /// Returns whether a file exists.
    pub(crate) fn exists(&self, path: &str) -> Result<bool> {
        let size = self.try_size(path).map_err(|error| self.storage_error("read", path, &error))?;
        Ok(size.is_some())
    }

    /// Lists the entries of a folder, sorted by path. The list is empty if the folder does not exist.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let listed = self.backend(folder).list(folder);
        let mut entries = listed.map_err(|error| self.storage_error("list", folder, &error))?;
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// Lists the files that `is_wanted` selects in a folder, sorted by path.
    pub(super) fn files(&self, folder: &str, is_wanted: impl Fn(&Entry) -> bool) -> Result<Vec<String>> {
        let entries = self.list(folder)?.into_iter();
        Ok(entries.filter(|entry| !entry.is_folder && is_wanted(entry)).map(|entry| entry.path).collect())
    }

    /// Lists the parts of a table, sorted by path. Files without a valid part name are ignored.
    pub(super) fn parts(&self, table: &str, format: TableFormat) -> Result<Vec<String>> {
        self.files(table, |entry| layout::is_part(&entry.path, table, format))
    }

    /// Writes a small file durably and atomically.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut sink = self.create(path)?;
        sink.write_all(bytes).map_err(|error| self.storage_error("write", path, &error))?;
        sink.publish().map(drop)
    }

    /// Creates a staging file for the final path `path`. The returned [`FileSink`] writes to the staging file.
    pub(super) fn create(&self, path: &str) -> Result<FileSink> {
        let file = self.backend(path).create(path).map_err(|error| self.storage_error("write", path, &error))?;
        Ok(FileSink { store: self.clone(), path: path.to_owned(), file, hasher: Hasher::default() })
    }

    /// Atomically rewrites a text file. `write` reads the old content, writes the new content, and returns the number
    /// of lines written. If the new content has no lines, the file is removed. The caller must sync the folder of the
    /// file.
    pub(super) fn rewrite(
        &self,
        path: &str,
        write: impl FnOnce(&mut dyn BufRead, &mut dyn Write) -> io::Result<u64>,
    ) -> Result<()> {
        let existing =
            none_if_missing(self.try_open(path)).map_err(|error| self.storage_error("read", path, &error))?;
        let mut existing: Box<dyn BufRead> = match existing {
            Some(file) => Box::new(BufReader::new(file)),
            None => Box::new(io::empty()),
        };
        let mut file = self.backend(path).create(path).map_err(|error| self.storage_error("write", path, &error))?;
        let written = write(&mut existing, &mut file).and_then(|lines| match lines {
            0 => self.backend(path).remove(path),
            _ => file.publish(),
        });
        written.map_err(|error| self.storage_error("write", path, &error))
    }

    /// Durably moves a complete local file to its final path.
    pub(super) fn move_in(&self, from: &Path, path: &str) -> Result<()> {
        self.backend(path).move_in(from, path).map_err(|error| self.storage_error("write", path, &error))?;
        self.sync(layout::parent_folder(path))
    }

    /// Copies a file to a local path.
    pub(super) fn copy_out(&self, path: &str, to: &Path) -> Result<()> {
        self.backend(path).copy_out(path, to).map_err(|error| self.storage_error("copy", path, &error))
    }

    /// Moves a file to a local path if the file exists, and syncs the folder that contained the file.
    pub(super) fn move_out(&self, path: &str, to: &Path) -> Result<()> {
        let moved = none_if_missing(self.backend(path).move_out(path, to));
        match moved.map_err(|error| self.storage_error("move", path, &error))? {
            Some(()) => self.sync(layout::parent_folder(path)),
            None => Ok(()),
        }
    }

    /// Removes a file if it exists.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        self.backend(path).remove(path).map_err(|error| self.storage_error("remove", path, &error))
    }

    /// Makes the entries of a folder durable.
    pub(super) fn sync(&self, folder: &str) -> Result<()> {
        self.backend(folder).sync(folder).map_err(|error| self.storage_error("sync", folder, &error))
    }

    /// See [`Backend::copy_folder_attributes`].
    pub(super) fn copy_folder_attributes(&self, folder: &str, to: &Path) {
        self.backend(folder).copy_folder_attributes(folder, to);
    }

    /// See [`Backend::exchange`].
    pub(super) fn exchange(&self, folder: &str, staging: &Path, keep: &dyn Fn(&str) -> bool) -> Result<bool> {
        let exchanged = self.backend(folder).exchange(folder, staging, keep);
        exchanged.map_err(|error| self.storage_error("exchange", folder, &error))
    }

    /// Removes staging files that were left behind by a crash. The caller must hold the archive lock. The top-level
    /// folder of the archive may contain unrelated files, so only the staging files of `archive.json` and `views.sql`
    /// are removed from the top-level folder.
    pub(super) fn remove_staging_files(&self, tables: &[&str]) -> Result<()> {
        for folder in tables.iter().copied().chain([RUNS, STATE, ""]) {
            let belongs_to_archive = |entry: &Entry| {
                let is_staging_of =
                    |file: &str| entry.path.strip_prefix(file).is_some_and(|rest| rest.starts_with('#'));
                !folder.is_empty() || [METADATA, VIEWS].into_iter().any(is_staging_of)
            };
            for path in self.files(folder, |entry| entry.is_staging_file() && belongs_to_archive(entry))? {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Returns the full path of a file, for messages.
    pub(crate) fn display(&self, path: &str) -> String {
        self.backend(path).display(path)
    }

    /// Creates the error for a failed operation on a file.
    pub(crate) fn storage_error(
        &self,
        action: &'static str,
        path: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Error {
        let storage_error = Error::storage(action, self.display(path), error);
        let is_os_error = std::iter::successors(Some(error), |error| error.source())
            .any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()));
        // A file is damaged if the operating system can read it but this program cannot decode it.
        match path {
            _ if is_os_error => storage_error,
            _ if layout::is_any_part(path) => storage_error.with_advice(Advice::Repair),
            METADATA | VIEWS => storage_error.with_advice(Advice::MoveAway),
            _ => storage_error,
        }
    }
}

/// A staging file. The staging file is discarded if it is dropped before [`FileSink::publish`] is called.
pub(crate) struct FileSink {
    store: Store,
    path: String,
    file: Box<dyn StagingFile>,
    hasher: Hasher,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    /// The path of the file in the archive.
    pub(crate) path: String,
    /// The SHA-256 of the file, in hex.
    pub(crate) sha256: String,
}

impl FileSink {
    /// Returns the final path of the file.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the SHA-256, in hex, of the bytes written so far.
    pub(super) fn sha256(&self) -> String {
        self.hasher.digest().sha256
    }

    /// Durably moves the file to its final path.
    pub(crate) fn publish(self) -> Result<StoredFile> {
        let Self { store, path, file, hasher } = self;
        file.publish().map_err(|error| store.storage_error("write", &path, &error))?;
        store.sync(layout::parent_folder(&path))?;
        Ok(StoredFile { path, sha256: hasher.digest().sha256 })
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn staging_files_are_removed_and_user_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("tasks")).unwrap();
        fs::create_dir_all(path("Mix #1")).unwrap();
        for name in ["tasks/a.parquet", "tasks/a.parquet#1", "views.sql#12", "take#3", "archive.json"] {
            fs::write(path(name), "x").unwrap();
        }
        Store::local(folder.path()).remove_staging_files(&["tasks", "clips"]).unwrap();
        let remaining = |name: &str| path(name).exists();
        assert!(["tasks/a.parquet", "take#3", "Mix #1", "archive.json"].into_iter().all(remaining));
        assert!(!["tasks/a.parquet#1", "views.sql#12"].into_iter().any(remaining));
    }
}
