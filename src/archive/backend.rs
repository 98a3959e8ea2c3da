//! The interface between an archive and its storage, which is a local folder or an object store. Operations that some
//! backends do not support have default implementations.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

use super::Entry;
use crate::ranged::RangedFile;

/// Storage for the files of an archive. Paths use `/` as the separator. All methods block.
///
/// A file appears at its final path only once it is complete. Replacing a file is atomic. File contents are durable
/// once [`StagingFile::publish`] or [`Backend::move_in`] has returned. The entries of a folder are durable once
/// [`Backend::sync`] has returned.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// Returns the full path of a file, for messages.
    fn display(&self, path: &str) -> String;

    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<RangedFile>;

    /// Returns the size of a file in bytes, or `None` if the file does not exist.
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// Lists the entries of a folder, in any order. The list is empty if the folder does not exist.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;

    /// Creates a staging file for the final path `path`. Creates the parent folder if it does not exist.
    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>>;

    /// Moves a complete local file to its final path in the archive. The local backend can also move a folder, for
    /// example a subfolder that the user created in a table folder.
    fn move_in(&self, from: &Path, path: &str) -> io::Result<()>;

    /// Copies a file to a local path.
    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()>;

    /// Moves a file to a local path.
    fn move_out(&self, path: &str, to: &Path) -> io::Result<()> {
        self.copy_out(path, to)?;
        self.remove(path)
    }

    /// Removes a file if it exists.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the entries of a folder durable.
    fn sync(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    /// Copies the attributes of an archive folder, such as the access control list that new files inherit, to a local
    /// folder. Errors are ignored.
    fn copy_folder_attributes(&self, _folder: &str, _to: &Path) {}

    /// Atomically exchanges an archive folder and a local folder. Before the exchange, the files that `keep` selects
    /// are hard-linked from the archive folder into the local folder. Readers see either all old files or all new
    /// files. After the exchange, the old archive folder is at the path of the local folder. Returns `false` and leaves
    /// the archive folder unchanged if the folders cannot be exchanged.
    fn exchange(&self, _folder: &str, _staging: &Path, _keep: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        Ok(false)
    }
}

/// A file that is being written. The file is discarded if it is dropped before [`StagingFile::publish`] is called.
pub(crate) trait StagingFile: Write + Send {
    /// Makes the contents of the file durable, then moves the file to its final path.
    fn publish(self: Box<Self>) -> io::Result<()>;
}
