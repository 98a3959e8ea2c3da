//! Steps that not every file system supports: syncing a folder, locks, permissions. An unsupported step is skipped, with
//! one warning for the process. An I/O error is never skipped.

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
    /// Files cannot be synced.
    FileSync,
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
            Self::FileSync => {
                "the file system does not support syncing a file: the last files may be lost in a power failure"
            }
            Self::FolderSync => {
                "the file system does not support syncing a folder: the last files may be lost in a power failure"
            }
            Self::Locks => "the file system does not support locks: a lock file is used instead",
            Self::Permissions => "the file system does not support permissions: new files have its default ones",
        })
    }
}

static FOUND: Mutex<BTreeSet<Limitation>> = Mutex::new(BTreeSet::new());

/// The limitations that this process has met so far.
#[must_use]
pub fn limitations() -> Vec<Limitation> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// Notes that a step was skipped.
pub(crate) fn note(limitation: Limitation) {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).insert(limitation);
}

/// Whether an error says that the file system does not support the operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    /// `ENOLCK` of Linux and the BSDs: no locks available, as network file systems without a lock service say.
    const NO_LOCKS: [i32; 2] = [37, 77];
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || error.raw_os_error().is_some_and(|code| NO_LOCKS.contains(&code))
}

/// Whether an error in reading a file is about the file itself, so that the file counts as damaged. Any other error of
/// the system, such as too many open files or an unreachable file server, says nothing about the file.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    /// `EIO`, `ELOOP` of Linux and the BSDs, and the checksum errors of file systems, `EBADMSG` and `EUCLEAN`.
    const DAMAGE: [i32; 5] = [5, 40, 62, 74, 117];
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let code = chain.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error()).last();
    code.is_none_or(|code| {
        let kind = io::Error::from_raw_os_error(code).kind();
        DAMAGE.contains(&code)
            || matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory)
    })
}

/// Opens a regular file for reading. Anything else is an error: opening a pipe would wait for its writer.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Makes the names in a folder durable. Only Unix can sync a folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    skip_if_unsupported(Limitation::FolderSync, File::open(folder)?.sync_all())
}

/// Makes a file durable, its size included.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    skip_if_unsupported(Limitation::FileSync, file.sync_all())
}

/// Makes the content of a file durable.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    skip_if_unsupported(Limitation::FileSync, file.sync_data())
}

fn skip_if_unsupported(limitation: Limitation, synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if is_unsupported(&error) => {
            note(limitation);
            Ok(())
        }
        synced => synced,
    }
}

/// Copies a file's content, durably. The copy has the permissions of a new file: not every disk supports others.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    sync_file(&target)
}

/// Gives a file the permissions of another, if the file system has any, and its owner and group, if the process may
/// set them.
pub(crate) fn copy_permissions(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let owner = fs::metadata(from)?;
        let _ = chown(to, Some(owner.uid()), Some(owner.gid()));
    }
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
    fn an_unsupported_step_is_skipped_and_an_io_error_is_not() {
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput] {
            assert!(skip_if_unsupported(Limitation::FolderSync, Err(kind.into())).is_ok(), "{kind}");
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::Other] {
            assert!(skip_if_unsupported(Limitation::FolderSync, Err(kind.into())).is_err(), "{kind}");
        }
        assert!(limitations().contains(&Limitation::FolderSync));
    }

    #[test]
    fn only_an_error_about_the_file_itself_is_damage() {
        let (io_error, too_many_files, no_permission) = (5, 24, 13);
        assert!(is_damage(&io::Error::from_raw_os_error(io_error)));
        assert!(is_damage(&io::Error::other("the footer is corrupt")));
        for code in [too_many_files, no_permission] {
            assert!(!is_damage(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
