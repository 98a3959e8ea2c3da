//! The interface between an archive and its storage, which can be a folder or an object store.
//! An operation that a storage may lack is a method with a default.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

use super::Entry;
use crate::ranged::RangedFile;

/// A place for files, named by paths with `/`. Every call blocks.
///
/// A file is complete under its final name, or it is not there. Replacing a file is atomic.
/// After [`Backend::sync`] the names in a folder survive a power failure; their contents do so before.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// The full name of a file, for messages.
    fn display(&self, path: &str) -> String;

    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<RangedFile>;

    /// The size of a file in bytes; `None` if there is none.
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// The entries of a folder, in any order. A missing folder is empty.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;

    /// Begins a file, and creates its folder.
    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>>;

    /// Moves a complete local file, or a folder of the user's, to its final name.
    fn place(&self, from: &Path, path: &str) -> io::Result<()>;

    /// Copies a file to a local path.
    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()>;

    /// Moves a file to a local path.
    fn take(&self, path: &str, to: &Path) -> io::Result<()> {
        self.copy_out(path, to)?;
        self.remove(path)
    }

    /// Removes a file, if there is one.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    /// Gives a local folder what new files inherit from a folder of the archive, as far as that is possible.
    fn inherit(&self, _folder: &str, _to: &Path) {}

    /// Lets a local folder take the place of a folder of the archive, together with those of its files that stay:
    /// a reader sees all of the old or all of the new. The old folder is then where the new one was. Returns whether
    /// that was possible; if not, nothing has changed.
    fn exchange(&self, _folder: &str, _other: &Path, _stays: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        Ok(false)
    }
}

/// A file that is being written. Dropped before it is published, it is discarded.
pub(crate) trait StagingFile: Write + Send {
    /// Moves the file to its final name, content first.
    fn publish(self: Box<Self>) -> io::Result<()>;
}
