//! What a file system may lack: each step that makes something durable or safe, and that not every file system
//! supports, is here. A step that is not supported is skipped, and named once for the process; an I/O error
//! never is.

#![expect(clippy::disallowed_methods, reason = "what a file system may lack")]

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Something that a file system does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limitation {
    /// Folders cannot be synced.
    FolderSync,
    /// Files cannot be locked.
    Locks,
    /// Permissions cannot be set.
    Permissions,
}

impl fmt::Display for Limitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FolderSync => {
                "the file system does not support syncing a folder: the last files may be lost in a power failure"
            }
            Self::Locks => "the file system does not support locks: a lock file is used instead",
            Self::Permissions => "the file system does not support permissions: new files have its default ones",
        })
    }
}

static FOUND: Mutex<BTreeSet<Limitation>> = Mutex::new(BTreeSet::new());

/// What this process has found unsupported so far.
#[must_use]
pub fn limitations() -> Vec<Limitation> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// Notes that a step was skipped.
pub(crate) fn note(limitation: Limitation) {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).insert(limitation);
}

/// Whether an error says that the file system has no such operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    /// `ENOLCK` of Linux and the BSDs: no locks available, as network file systems without a lock service say.
    const NO_LOCKS: [i32; 2] = [37, 77];
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || error.raw_os_error().is_some_and(|code| NO_LOCKS.contains(&code))
}

/// Makes the names in a folder survive a power failure. Only Unix lets a folder be opened for it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    skip_if_unsupported(File::open(folder)?.sync_all())
}

fn skip_if_unsupported(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if is_unsupported(&error) => {
            note(Limitation::FolderSync);
            Ok(())
        }
        synced => synced,
    }
}

/// Copies a file's content, durably. Its permissions are those that a new file gets: not every disk has others.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    target.sync_all()
}

/// Gives a file the permissions of another, if the file system has any.
pub(crate) fn copy_permissions(from: &Path, to: &Path) -> io::Result<()> {
    match fs::set_permissions(to, fs::metadata(from)?.permissions()) {
        Err(error) if is_unsupported(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            note(Limitation::Permissions);
            Ok(())
        }
        set => set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_skipped_and_an_io_error_is_not() {
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput] {
            assert!(skip_if_unsupported(Err(kind.into())).is_ok(), "{kind}");
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::Other] {
            assert!(skip_if_unsupported(Err(kind.into())).is_err(), "{kind}");
        }
        assert!(limitations().contains(&Limitation::FolderSync));
    }
}
