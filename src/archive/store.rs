//! The files of an archive. The program's own files, in `.sunor`, are always local; the others are where the archive
//! is. All of it blocks.

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
    local::{LocalFolder, unless_missing},
};
use crate::{
    checksum::Hasher,
    error::{Advice, Error, Result},
    format::TableFormat,
    ranged::RangedFile,
};

/// The files of one archive, named relative to it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    files: Arc<dyn Backend>,
    state: Arc<dyn Backend>,
    /// The local folder that the program's own folder is in.
    state_root: PathBuf,
}

impl Store {
    /// The files of a folder.
    pub(super) fn local(folder: &Path) -> Self {
        let files: Arc<dyn Backend> = Arc::new(LocalFolder::new(folder));
        Self { state: files.clone(), files, state_root: folder.to_owned() }
    }

    /// Files elsewhere, with the program's own in a local folder.
    #[cfg(test)]
    pub(crate) fn over(files: Arc<dyn Backend>, state_root: &Path) -> Self {
        Self { files, ..Self::local(state_root) }
    }

    /// The same with a change to its backends.
    #[cfg(test)]
    pub(crate) fn wrapped(self, wrap: impl Fn(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Self {
        Self { files: wrap(self.files), state: wrap(self.state), ..self }
    }

    fn backend(&self, path: &str) -> &dyn Backend {
        let is_own = path.strip_prefix(STATE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_own { self.state.as_ref() } else { self.files.as_ref() }
    }

    /// The local path of one of the program's own files.
    pub(super) fn state_path(&self, path: &str) -> PathBuf {
        self.state_root.join(path)
    }

    /// The path in the archive of one of the program's own files.
    pub(super) fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.state_root).unwrap_or(path).display().to_string()
    }

    /// Opens a file for reading.
    pub(crate) fn open(&self, path: &str) -> Result<RangedFile> {
        self.try_open(path).map_err(|error| self.failed("open", path, &error))
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

    /// Reads a small file; `None` if there is none.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        unless_missing(self.try_read(path)).map_err(|error| self.failed("read", path, &error))
    }

    /// The size of a file; `None` if there is none.
    pub(super) fn try_size(&self, path: &str) -> io::Result<Option<u64>> {
        self.backend(path).size(path)
    }

    /// Whether there is such a file.
    pub(crate) fn exists(&self, path: &str) -> Result<bool> {
        let size = self.try_size(path).map_err(|error| self.failed("read", path, &error))?;
        Ok(size.is_some())
    }

    /// The entries of a folder, sorted. A missing folder is empty.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let listed = self.backend(folder).list(folder);
        let mut entries = listed.map_err(|error| self.failed("list", folder, &error))?;
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// The files in a folder with a path like that, sorted.
    pub(super) fn files(&self, folder: &str, is_wanted: impl Fn(&Entry) -> bool) -> Result<Vec<String>> {
        let entries = self.list(folder)?.into_iter();
        Ok(entries.filter(|entry| !entry.is_folder && is_wanted(entry)).map(|entry| entry.path).collect())
    }

    /// The parts of a table, sorted: files with another name than the archive gives are not part of it.
    pub(super) fn parts(&self, table: &str, format: TableFormat) -> Result<Vec<String>> {
        self.files(table, |entry| layout::is_part(&entry.path, table, format))
    }

    /// Writes a small file, durably and in one step.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut sink = self.create(path)?;
        sink.write_all(bytes).map_err(|error| self.failed("write", path, &error))?;
        sink.publish().map(drop)
    }

    /// Starts a new file, to be written as a stream.
    pub(super) fn create(&self, path: &str) -> Result<FileSink> {
        let file = self.backend(path).create(path).map_err(|error| self.failed("write", path, &error))?;
        Ok(FileSink { store: self.clone(), path: path.to_owned(), file, hasher: Hasher::default() })
    }

    /// Rewrites a file of lines in one step. `write` returns how many lines it has then; a file without any is removed.
    /// The folder is still to be synced.
    pub(super) fn rewrite(
        &self,
        path: &str,
        write: impl FnOnce(&mut dyn BufRead, &mut dyn Write) -> io::Result<u64>,
    ) -> Result<()> {
        let known = unless_missing(self.try_open(path)).map_err(|error| self.failed("read", path, &error))?;
        let mut known: Box<dyn BufRead> = match known {
            Some(file) => Box::new(BufReader::new(file)),
            None => Box::new(io::empty()),
        };
        let mut file = self.backend(path).create(path).map_err(|error| self.failed("write", path, &error))?;
        let written = write(&mut known, &mut file).and_then(|lines| match lines {
            0 => self.backend(path).remove(path),
            _ => file.publish(),
        });
        written.map_err(|error| self.failed("write", path, &error))
    }

    /// Moves a complete local file to its final name, durably.
    pub(super) fn place(&self, from: &Path, path: &str) -> Result<()> {
        self.backend(path).place(from, path).map_err(|error| self.failed("write", path, &error))?;
        self.sync(layout::folder_of(path))
    }

    /// Copies a file to a local path.
    pub(super) fn copy_out(&self, path: &str, to: &Path) -> Result<()> {
        self.backend(path).copy_out(path, to).map_err(|error| self.failed("copy", path, &error))
    }

    /// Moves a file to a local path, durably, if there is one.
    pub(super) fn take(&self, path: &str, to: &Path) -> Result<()> {
        let taken = unless_missing(self.backend(path).take(path, to));
        match taken.map_err(|error| self.failed("move", path, &error))? {
            Some(()) => self.sync(layout::folder_of(path)),
            None => Ok(()),
        }
    }

    /// Removes a file, if there is one.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        self.backend(path).remove(path).map_err(|error| self.failed("remove", path, &error))
    }

    /// Makes the names in a folder durable.
    pub(super) fn sync(&self, folder: &str) -> Result<()> {
        self.backend(folder).sync(folder).map_err(|error| self.failed("sync", folder, &error))
    }

    /// See [`Backend::inherit`].
    pub(super) fn inherit(&self, folder: &str, to: &Path) {
        self.backend(folder).inherit(folder, to);
    }

    /// See [`Backend::exchange`].
    pub(super) fn exchange(&self, folder: &str, other: &Path, stays: &dyn Fn(&str) -> bool) -> Result<bool> {
        let exchanged = self.backend(folder).exchange(folder, other, stays);
        exchanged.map_err(|error| self.failed("exchange", folder, &error))
    }

    /// Removes staging files that a crash left. The lock must be held. In the archive's top folder, which may hold
    /// other files too, only those of the archive's own two files are removed.
    pub(super) fn sweep_staging(&self, tables: &[&str]) -> Result<()> {
        for folder in tables.iter().copied().chain([RUNS, STATE, ""]) {
            let is_own = |entry: &Entry| {
                let of = |file: &str| entry.path.strip_prefix(file).is_some_and(|rest| rest.starts_with('#'));
                !folder.is_empty() || [METADATA, VIEWS].into_iter().any(of)
            };
            for path in self.files(folder, |entry| entry.is_half_finished() && is_own(entry))? {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// The full name of a file, for messages.
    pub(crate) fn display(&self, path: &str) -> String {
        self.backend(path).display(path)
    }

    /// An error about one of the files.
    pub(crate) fn failed(&self, action: &'static str, path: &str, error: &(dyn std::error::Error + 'static)) -> Error {
        let failed = Error::storage(action, self.display(path), error);
        let is_of_system = std::iter::successors(Some(error), |error| error.source())
            .any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()));
        // A file that the system can read and this program cannot decode is damaged.
        match path {
            _ if is_of_system => failed,
            _ if layout::is_any_part(path) => failed.advising(Advice::Repair),
            METADATA | VIEWS => failed.advising(Advice::MoveAway),
            _ => failed,
        }
    }
}

/// A staging file. Dropped before [`FileSink::publish`], it is discarded.
pub(crate) struct FileSink {
    store: Store,
    path: String,
    file: Box<dyn StagingFile>,
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
    pub(crate) fn publish(self) -> Result<StoredFile> {
        let Self { store, path, file, hasher } = self;
        file.publish().map_err(|error| store.failed("write", &path, &error))?;
        store.sync(layout::folder_of(&path))?;
        Ok(StoredFile { path, sha256: hasher.digested().sha256 })
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
    fn the_sweep_removes_staging_files_and_no_user_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("tasks")).unwrap();
        fs::create_dir_all(path("Mix #1")).unwrap();
        for name in ["tasks/a.parquet", "tasks/a.parquet#1", "views.sql#12", "take#3", "archive.json"] {
            fs::write(path(name), "x").unwrap();
        }
        Store::local(folder.path()).sweep_staging(&["tasks", "clips"]).unwrap();
        let left = |name: &str| path(name).exists();
        assert!(["tasks/a.parquet", "take#3", "Mix #1", "archive.json"].into_iter().all(left));
        assert!(!["tasks/a.parquet#1", "views.sql#12"].into_iter().any(left));
    }
}
