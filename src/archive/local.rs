//! A backend for a folder in the local file system. A file is written as a staging file, `<name>#0`, then synced and
//! renamed. A crash can leave a staging file behind. Readers use file name patterns that do not match staging files,
//! and the next run removes leftover staging files.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    Entry, attributes,
    backend::{Backend, StagingFile},
};
use crate::{filesystem, ranged::RangedFile};

/// The size of the write buffer in bytes.
const BUFFER_SIZE: usize = 256 << 10;

/// A backend that stores files in a local folder.
#[derive(Debug)]
pub(super) struct LocalBackend(PathBuf);

impl LocalBackend {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Returns the local path of a listed file. A name that is not valid UTF-8 is listed with replacement characters,
    /// so the folder is searched for the original name.
    fn resolve_listed_path(&self, path: &str) -> io::Result<PathBuf> {
        let local_path = self.0.join(path);
        if !path.contains(char::REPLACEMENT_CHARACTER) || local_path.symlink_metadata().is_ok() {
            return Ok(local_path);
        }
        let (folder, name) = (local_path.parent().unwrap_or(&self.0), local_path.file_name().unwrap_or_default());
        for entry in none_if_missing(fs::read_dir(folder))?.into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().to_string_lossy() == name.to_string_lossy() {
                return Ok(entry.path());
            }
        }
        Ok(local_path)
    }

    /// Returns the local path of a file. Creates the parent folder if it does not exist.
    fn path_with_parent_created(&self, path: &str) -> io::Result<PathBuf> {
        let local_path = self.0.join(path);
        create_folder(local_path.parent().unwrap_or(&self.0))?;
        Ok(local_path)
    }
}

/// Returns whether a path is a symbolic link that cannot be resolved, for example because its target is missing.
fn is_broken_link(path: &Path) -> bool {
    path.is_symlink() && fs::metadata(path).is_err()
}

impl Backend for LocalBackend {
    fn display(&self, path: &str) -> String {
        self.0.join(path).display().to_string()
    }

    fn open(&self, path: &str) -> io::Result<RangedFile> {
        let local_path = self.0.join(path);
        match filesystem::open_regular(&local_path) {
            // A broken link is not reported as `NotFound`, because readers would assume that the file has just been
            // replaced.
            Err(_) if is_broken_link(&local_path) => Err(io::Error::other("broken symbolic link")),
            opened => opened.map(RangedFile::new),
        }
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let local_path = self.0.join(path);
        match none_if_missing(fs::metadata(&local_path)) {
            Err(_) if is_broken_link(&local_path) => Ok(None),
            metadata => Ok(metadata?.filter(fs::Metadata::is_file).map(|metadata| metadata.len())),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let local_path = self.0.join(folder);
        let listed = match none_if_missing(fs::read_dir(&local_path))? {
            Some(listed) => listed,
            // A link to a folder on an unmounted disk must not be treated as an empty folder.
            None if is_broken_link(&local_path) => return Err(io::Error::other("broken symbolic link")),
            None => return Ok(Vec::new()),
        };
        let entry = |entry: io::Result<fs::DirEntry>| {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_folder = local_path.join(&name).is_dir();
            Ok(Entry { path: if folder.is_empty() { name } else { format!("{folder}/{name}") }, is_folder })
        };
        listed.map(entry).collect()
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>> {
        let local_path = self.path_with_parent_created(path)?;
        let staging = staging_path(&local_path);
        let file = BufWriter::with_capacity(BUFFER_SIZE, File::create(&staging)?);
        Ok(Box::new(LocalFile { file, staging, target: local_path, is_published: false }))
    }

    fn move_in(&self, from: &Path, path: &str) -> io::Result<()> {
        let local_path = self.path_with_parent_created(path)?;
        if !from.is_dir() {
            filesystem::sync_file(&File::options().write(true).open(from)?)?;
        }
        rename(from, &local_path)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        let from = self.0.join(path);
        // If the file system does not support hard links, the file is copied.
        fs::hard_link(&from, to).or_else(|_| filesystem::copy(&from, to))
    }

    fn move_out(&self, path: &str, to: &Path) -> io::Result<()> {
        rename(&self.resolve_listed_path(path)?, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        none_if_missing(fs::remove_file(self.resolve_listed_path(path)?)).map(drop)
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        none_if_missing(filesystem::sync_folder(&self.0.join(folder))).map(drop)
    }

    fn copy_folder_attributes(&self, folder: &str, to: &Path) {
        // The error is ignored because `exchange` copies the attributes again and returns `false` if that copy fails.
        let _ = attributes::copy(&self.0.join(folder), to);
    }

    fn exchange(&self, folder: &str, staging: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        let local_path = self.0.join(folder);
        let is_exchanged = link_kept_files(&local_path, staging, keep)
            .and_then(|()| filesystem::sync_folder(staging))
            .and_then(|()| exchange(&local_path, staging));
        if is_exchanged.is_err() {
            return Ok(false);
        }
        filesystem::sync_folder(&self.0)?;
        filesystem::sync_folder(staging.parent().unwrap_or(staging))?;
        Ok(true)
    }
}

/// A staging file in the same folder as its final path.
struct LocalFile {
    file: BufWriter<File>,
    staging: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Write for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagingFile for LocalFile {
    fn publish(mut self: Box<Self>) -> io::Result<()> {
        self.file.flush()?;
        filesystem::sync_file(self.file.get_ref())?;
        fs::rename(&self.staging, &self.target)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.is_published {
            // If the staging file cannot be removed now, the next run removes it.
            let _ = fs::remove_file(&self.staging);
        }
    }
}

/// Creates a folder and its missing parents, and makes each new folder durable.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match fs::create_dir(folder) {
        // Another process may have created the folder in the meantime, but a file at this path is an error.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ => filesystem::sync_folder(parent),
    }
}

/// Returns `Ok(None)` if the operation failed because the file or folder does not exist.
pub(super) fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        result => result.map(Some),
    }
}

/// Returns the path of the staging file for a final path.
fn staging_path(local_path: &Path) -> PathBuf {
    let mut name = local_path.as_os_str().to_owned();
    name.push("#0");
    name.into()
}

/// Moves a file. If the target is on a different file system, copies the file to a staging file, renames the staging
/// file, and removes the original file.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let staging = staging_path(to);
            let moved = filesystem::copy(from, &staging).and_then(|()| fs::rename(&staging, to));
            if moved.is_err() {
                let _ = fs::remove_file(&staging);
            }
            moved.and_then(|()| fs::remove_file(from))
        }
        moved => moved,
    }
}

/// Hard-links the files that `keep` selects from `folder` into `staging`, and copies the folder attributes.
fn link_kept_files(folder: &Path, staging: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Entries that are not regular files, such as subfolders, are moved after the exchange.
        if entry.file_type()?.is_file() && keep(&entry.file_name().to_string_lossy()) {
            fs::hard_link(entry.path(), staging.join(entry.file_name()))?;
        }
    }
    attributes::copy(folder, staging)
}

/// Atomically exchanges two folders.
#[cfg(target_os = "linux")]
fn exchange(first: &Path, second: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE)?)
}

/// Always fails, because the atomic exchange of folders is implemented only on Linux.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
