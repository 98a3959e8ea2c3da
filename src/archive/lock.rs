//! The archive lock, which is an operating system lock on a file. The operating system releases the lock when the
//! process ends. The lock file contains the process ID and the host name of the holder.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Location;
use crate::{
    error::{Error, Result},
    filesystem::{self, Limitation},
};

/// The process that holds the archive lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The ID of the process.
    pid: u32,
    /// The name of the machine that the process runs on.
    host: String,
    /// The time at which the process acquired the lock.
    since: Option<Timestamp>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("an unknown process");
        }
        write!(f, "process {} on {}", self.pid, self.host)?;
        self.since.map_or(Ok(()), |since| write!(f, ", since {since:.0}"))
    }
}

/// The archive lock. Dropping this value releases the lock.
#[derive(Debug)]
pub(super) enum Lock {
    /// An operating system lock on an open file.
    Os { _file: File },
    /// A lock file that only one process can create, for file systems that do not support locks.
    LockFile { path: PathBuf },
}

impl Lock {
    pub(super) fn acquire(path: &Path, archive: &Location, now: Timestamp) -> Result<Self> {
        let opened = open_or_create(path);
        let mut file = opened.map_err(|error| Error::io("open", path, &error))?;
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let holder = Holder { pid: std::process::id(), host, since: Some(now) };
        let locked_error = |holder: &Holder| Error::Locked { archive: archive.to_string(), holder: holder.to_string() };
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked_error(&read_holder(path))),
            Err(TryLockError::Error(error)) if filesystem::is_unsupported(&error) => {
                filesystem::record(Limitation::Locks);
                return create_lock_file(&fallback_lock_path(path), &holder)?.map_err(|other| locked_error(&other));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, &error)),
        }
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&holder.to_json()));
        written.map_err(|error| Error::io("write", path, &error))?;
        Ok(Self::Os { _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Self::LockFile { path } = self {
            // If the lock file cannot be removed, the next run detects that its holder is no longer running.
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens or creates the lock file. Rejects a path that is not a regular file, because opening a named pipe, for
/// example, would block.
fn open_or_create(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("not a regular file; remove it")),
        _ => OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path),
    }
}

/// Returns the path of the fallback lock file for file systems that do not support locks.
fn fallback_lock_path(path: &Path) -> PathBuf {
    path.with_file_name("lock#exclusive")
}

/// Creates the fallback lock file, or returns the current holder of the lock. Replaces the lock file of a holder that
/// is no longer running.
fn create_lock_file(path: &Path, holder: &Holder) -> Result<Result<Lock, Holder>> {
    for _ in 0..2 {
        match File::create_new(path) {
            Ok(mut file) => {
                file.write_all(&holder.to_json()).map_err(|error| Error::io("write", path, &error))?;
                return Ok(Ok(Lock::LockFile { path: path.to_owned() }));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let other = read_holder(path);
                if other.host != holder.host || other.may_be_running() {
                    return Ok(Err(other));
                }
                fs::remove_file(path).map_err(|error| Error::io("remove", path, &error))?;
            }
            Err(error) => return Err(Error::io("create", path, &error)),
        }
    }
    Ok(Err(read_holder(path)))
}

impl Holder {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a lock holder can always be serialized")
    }

    /// Returns whether the holder, a process on this machine, may still be running. On systems without `/proc`, every
    /// process except the current process counts as running.
    fn may_be_running(&self) -> bool {
        let processes = Path::new("/proc");
        self.pid != std::process::id() && (!processes.is_dir() || processes.join(self.pid.to_string()).exists())
    }
}

/// Tries for up to 200 ms to lock the file, because [`holder`] briefly acquires the lock to check whether another
/// process holds it.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..10 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
    file.try_lock()
}

/// Returns the current holder of the lock, if any.
pub(super) fn holder(path: &Path) -> Option<Holder> {
    let file = filesystem::open_regular(path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => Some(read_holder(path)),
        Err(TryLockError::Error(_)) => {
            let lock_file = fallback_lock_path(path);
            lock_file.exists().then(|| read_holder(&lock_file)).filter(Holder::may_be_running)
        }
    }
}

/// Reads the holder from a lock file. Returns a placeholder if the lock file is incomplete, for example because the
/// holder is still writing it.
fn read_holder(path: &Path) -> Holder {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Holder { pid: 0, host: "an unknown host".into(), since: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_archive_reports_its_holder_and_can_be_locked_after_release() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let lock = Lock::acquire(&path, &folder.path().into(), now).unwrap();
        let refused = Lock::acquire(&path, &folder.path().into(), now).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("since 2026-01-02T03:04:05Z"), "{refused}");
        assert_eq!(holder(&path).unwrap().pid, std::process::id());
        drop(lock);
        assert_eq!(holder(&path), None);
        Lock::acquire(&path, &folder.path().into(), now).unwrap();
    }

    #[test]
    fn without_os_locks_a_lock_file_is_used_and_a_stale_lock_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock#exclusive");
        let holder_of = |pid, host: &str| Holder { pid, host: host.into(), since: None };
        let lock = create_lock_file(&path, &holder_of(1, "here")).unwrap().unwrap();
        assert_eq!(
            create_lock_file(&path, &holder_of(2, "here")).unwrap().unwrap_err(),
            holder_of(1, "here"),
            "process 1 is running"
        );
        assert_eq!(create_lock_file(&path, &holder_of(2, "there")).unwrap().unwrap_err(), holder_of(1, "here"));
        drop(lock);
        assert!(!path.exists());
        fs::write(&path, holder_of(u32::MAX, "here").to_json()).unwrap();
        assert!(create_lock_file(&path, &holder_of(2, "there")).unwrap().is_err(), "the holder is on another machine");
        create_lock_file(&path, &holder_of(2, "here")).unwrap().unwrap();
    }
}
