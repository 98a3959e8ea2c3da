//! Operations that not every file system supports: syncing files and folders, locking files and setting permissions. An
//! unsupported operation is skipped, and the user is warned once per process. An I/O error is never ignored.

#![expect(clippy::disallowed_methods, reason = "wraps operations that a file system may not support")]

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// An operation that a file system does not support.
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
                "the file system does not support syncing files; recently written files may be lost in a power failure"
            }
            Self::FolderSync => {
                "the file system does not support syncing folders; recently written files may be lost in a power failure"
            }
            Self::Locks => "the file system does not support locks; a lock file is used instead",
            Self::Permissions => "the file system does not support permissions; new files have default permissions",
        })
    }
}

static LIMITATIONS: Mutex<BTreeSet<Limitation>> = Mutex::new(BTreeSet::new());

/// Returns the limitations that this process has encountered so far.
#[must_use]
pub fn limitations() -> Vec<Limitation> {
    LIMITATIONS.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// Records a limitation that this process has encountered.
pub(crate) fn record(limitation: Limitation) {
    LIMITATIONS.lock().unwrap_or_else(PoisonError::into_inner).insert(limitation);
}

/// Whether an error means that the file system does not support the operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    /// The values of `ENOLCK` on Linux and the BSDs. Network file systems without a lock service fail with this error.
    const ENOLCK: [i32; 2] = [37, 77];
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || error.raw_os_error().is_some_and(|code| ENOLCK.contains(&code))
}

/// Whether an error from reading a file shows that the file is damaged. Other errors are system problems, such as too
/// many open files or an unreachable file server.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    /// The values of `EIO`, of `ELOOP` on Linux and the BSDs, and of the checksum errors `EBADMSG` and `EUCLEAN`.
    const DAMAGE: [i32; 5] = [5, 40, 62, 74, 117];
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let code = chain.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error()).last();
    code.is_none_or(|code| {
        let kind = io::Error::from_raw_os_error(code).kind();
        DAMAGE.contains(&code)
            || matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory)
    })
}

/// Opens a regular file for reading. Rejects any other kind of file, because opening a named pipe, for example, blocks
/// until another process opens it for writing.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::Error::other("not a regular file")) }
}

/// Makes the directory entries in a folder durable. Does nothing on systems other than Unix, because they cannot sync a
/// folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    skip_unsupported_sync(Limitation::FolderSync, File::open(folder)?.sync_all())
}

/// Makes the content and the metadata of a file durable.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    skip_unsupported_sync(Limitation::FileSync, file.sync_all())
}

/// Makes the content of a file durable.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    skip_unsupported_sync(Limitation::FileSync, file.sync_data())
}

fn skip_unsupported_sync(limitation: Limitation, synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if is_unsupported(&error) => {
            record(limitation);
            Ok(())
        }
        synced => synced,
    }
}

/// Copies the contents of a file and syncs the copy. The copy has the default permissions of a new file, because not
/// every file system supports setting permissions.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    sync_file(&target)
}

/// Copies the permissions of the file `from` to the file `to`, if the file system supports permissions. Also copies the
/// owner and the group, if the process is allowed to set them.
pub(crate) fn copy_permissions(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let owner = fs::metadata(from)?;
        let _ = chown(to, Some(owner.uid()), Some(owner.gid()));
    }
    match fs::set_permissions(to, fs::metadata(from)?.permissions()) {
        Err(error) if is_unsupported(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            record(Limitation::Permissions);
            Ok(())
        }
        set => set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_operation_is_skipped_and_an_io_error_is_not() {
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput] {
            assert!(skip_unsupported_sync(Limitation::FolderSync, Err(kind.into())).is_ok(), "{kind}");
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::Other] {
            assert!(skip_unsupported_sync(Limitation::FolderSync, Err(kind.into())).is_err(), "{kind}");
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
