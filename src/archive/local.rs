//! A folder of the local file system. A file is written to a staging file, `<name>#0`, synced, and renamed. A crash
//! leaves the staging file, which no reader's pattern matches, and which the next run removes.

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

/// The files of a folder.
#[derive(Debug)]
pub(super) struct LocalFolder(PathBuf);

impl LocalFolder {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The place of a listed file. A name that is not UTF-8 is listed with replacement characters.
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

    /// The place of a file, whose folder exists.
    fn place_for(&self, path: &str) -> io::Result<PathBuf> {
        let place = self.0.join(path);
        create_folder(place.parent().unwrap_or(&self.0))?;
        Ok(place)
    }
}

/// Whether a path is a symbolic link whose target is missing, or that leads back to itself.
fn is_broken_link(path: &Path) -> bool {
    path.is_symlink() && fs::metadata(path).is_err()
}

impl Backend for LocalFolder {
    fn display(&self, path: &str) -> String {
        self.0.join(path).display().to_string()
    }

    fn open(&self, path: &str) -> io::Result<RangedFile> {
        let place = self.0.join(path);
        match filesystem::open_regular(&place) {
            // The link is still in its folder: it must not pass for a part that was just replaced.
            Err(_) if is_broken_link(&place) => Err(io::Error::other("it is a broken symbolic link")),
            opened => opened.map(RangedFile::new),
        }
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let place = self.0.join(path);
        match unless_missing(fs::metadata(&place)) {
            Err(_) if is_broken_link(&place) => Ok(None),
            metadata => Ok(metadata?.filter(fs::Metadata::is_file).map(|metadata| metadata.len())),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let place = self.0.join(folder);
        let listed = match unless_missing(fs::read_dir(&place))? {
            Some(listed) => listed,
            // The folder is on a disk that is not mounted: it must not pass for an empty one.
            None if is_broken_link(&place) => return Err(io::Error::other("it is a broken symbolic link")),
            None => return Ok(Vec::new()),
        };
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
            filesystem::sync_file(&File::options().write(true).open(from)?)?;
        }
        rename(from, &place)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        let from = self.0.join(path);
        // Not every disk has links.
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
        // If the attributes cannot be copied, the folders are not exchanged.
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

/// A file that is being written beside its place.
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
        filesystem::sync_file(self.file.get_ref())?;
        fs::rename(&self.staging, &self.place)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.is_published {
            // The next run sweeps what cannot be removed now.
            let _ = fs::remove_file(&self.staging);
        }
    }
}

/// Creates a folder and its missing parents, each durably.
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
        // Another process may have created the folder. A file of that name is an error.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ => filesystem::sync_folder(above),
    }
}

/// The result; `None` if the file or folder is missing.
pub(super) fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        result => result.map(Some),
    }
}

/// The name of a file while it is written.
fn staging_path(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push("#0");
    name.into()
}

/// Moves a file, also to another disk: there it is copied under a staging name, and then renamed.
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

/// Links the files that stay into another folder, which gets the attributes of the first.
fn link_rest(folder: &Path, other: &Path, stays: &dyn Fn(&str) -> bool) -> io::Result<()> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Anything else, such as a folder, is moved afterwards.
        if entry.file_type()?.is_file() && stays(&entry.file_name().to_string_lossy()) {
            fs::hard_link(entry.path(), other.join(entry.file_name()))?;
        }
    }
    attributes::copy(folder, other)
}

/// Exchanges two folders, in one step or not at all.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Only Linux is known to do it.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
