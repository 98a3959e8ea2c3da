//! A backend for a folder in the local file system. A file is written as a staging file, `<name>#0`, then synced and
//! renamed. A crash can leave a staging file behind. The file patterns of readers do not match staging files, and the
//! next run removes them.

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
const BUFFER: usize = 256 << 10;

/// A backend that stores files in a local folder.
#[derive(Debug)]
pub(super) struct LocalFolder(PathBuf);

impl LocalFolder {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Returns the local path of a listed file. A name that is not valid UTF-8 is listed with replacement characters,
    /// so the folder is searched for the original name.
    fn named(&self, path: &str) -> io::Result<PathBuf> {
        let place = self.0.join(path);
        if !path.contains(char::REPLACEMENT_CHARACTER) || place.symlink_metadata().is_ok() {
            return Ok(place);
        }
        let (folder, name) = (place.parent().unwrap_or(&self.0), place.file_name().unwrap_or_default());
        for entry in unless_missing(fs::read_dir(folder))?.into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().to_string_lossy() == name.to_string_lossy() {
                return Ok(entry.path());
            }
        }
        Ok(place)
    }

    /// Returns the local path of a file. Creates the parent folder if it does not exist.
    fn place_for(&self, path: &str) -> io::Result<PathBuf> {
        let place = self.0.join(path);
        create_folder(place.parent().unwrap_or(&self.0))?;
        Ok(place)
    }
}

impl Backend for LocalFolder {
    fn display(&self, path: &str) -> String {
        self.0.join(path).display().to_string()
    }

    fn open(&self, path: &str) -> io::Result<RangedFile> {
        let place = self.0.join(path);
        match fs::metadata(&place) {
            // Opening a named pipe would block until another process opens it for writing.
            Ok(metadata) if !metadata.is_file() => Err(io::Error::other("not a regular file")),
            // `NotFound` would indicate that the part was just replaced, but the link still exists in the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound && place.is_symlink() => {
                Err(io::Error::other("broken symbolic link"))
            }
            _ => File::open(place).map(RangedFile::new),
        }
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let metadata = unless_missing(fs::metadata(self.0.join(path)))?;
        Ok(metadata.filter(fs::Metadata::is_file).map(|metadata| metadata.len()))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let place = self.0.join(folder);
        let Some(listed) = unless_missing(fs::read_dir(&place))? else { return Ok(Vec::new()) };
        let entry = |entry: io::Result<fs::DirEntry>| {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_folder = place.join(&name).is_dir();
            Ok(Entry { path: if folder.is_empty() { name } else { format!("{folder}/{name}") }, is_folder })
        };
        listed.map(entry).collect()
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>> {
        let place = self.place_for(path)?;
        let staging = staging_path(&place);
        let file = BufWriter::with_capacity(BUFFER, File::create(&staging)?);
        Ok(Box::new(LocalFile { file, staging, place, is_published: false }))
    }

    fn place(&self, from: &Path, path: &str) -> io::Result<()> {
        let place = self.place_for(path)?;
        if !from.is_dir() {
            File::options().write(true).open(from)?.sync_all()?;
        }
        rename(from, &place)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        let from = self.0.join(path);
        // Not every file system supports hard links.
        fs::hard_link(&from, to).or_else(|_| filesystem::copy(&from, to))
    }

    fn take(&self, path: &str, to: &Path) -> io::Result<()> {
        rename(&self.named(path)?, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        unless_missing(fs::remove_file(self.named(path)?)).map(drop)
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        unless_missing(filesystem::sync_folder(&self.0.join(folder))).map(drop)
    }

    fn inherit(&self, folder: &str, to: &Path) {
        // The error is ignored because `exchange` copies the attributes again and returns `false` if that fails.
        let _ = attributes::copy(&self.0.join(folder), to);
    }

    fn exchange(&self, folder: &str, other: &Path, stays: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        let place = self.0.join(folder);
        let is_exchanged = link_rest(&place, other, stays)
            .and_then(|()| filesystem::sync_folder(other))
            .and_then(|()| exchange(&place, other));
        if is_exchanged.is_err() {
            return Ok(false);
        }
        filesystem::sync_folder(&self.0)?;
        filesystem::sync_folder(other.parent().unwrap_or(other))?;
        Ok(true)
    }
}

/// A file that is being written next to its final path.
struct LocalFile {
    file: BufWriter<File>,
    staging: PathBuf,
    place: PathBuf,
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
        self.file.get_ref().sync_all()?;
        fs::rename(&self.staging, &self.place)?;
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
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    create_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => filesystem::sync_folder(above),
    }
}

/// Returns `Ok(None)` if the operation failed because the file or folder does not exist.
pub(super) fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        result => result.map(Some),
    }
}

/// Returns the path of the staging file for a final path.
fn staging_path(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push("#0");
    name.into()
}

/// Moves a file. If the target is on another file system, the file is copied to a staging file, which is then
/// renamed.
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

/// Hard-links the files that `stays` selects from `folder` into `other`, and copies the folder attributes.
fn link_rest(folder: &Path, other: &Path, stays: &dyn Fn(&str) -> bool) -> io::Result<()> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Other entries, such as subfolders, are moved after the exchange.
        if entry.file_type()?.is_file() && stays(&entry.file_name().to_string_lossy()) {
            fs::hard_link(entry.path(), other.join(entry.file_name()))?;
        }
    }
    attributes::copy(folder, other)
}

/// Atomically exchanges two folders.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Fails, because the atomic exchange of folders is implemented only on Linux.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
