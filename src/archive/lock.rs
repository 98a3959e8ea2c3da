//! The archive's lock: a file that the operating system locks for the process, so that a dead holder
//! holds nothing. Who holds it stands in the file.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek, Write},
    path::Path,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The process that holds an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Its process ID.
    pid: u32,
    /// The machine it runs on.
    host: String,
    /// Since when.
    since: Option<Timestamp>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)?;
        self.since.map_or(Ok(()), |since| write!(f, ", since {since:.0}"))
    }
}

/// The lock, held while this lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path, archive: &Path, now: Timestamp) -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|error| Error::io("open", path, &error))?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = named_in(path).to_string();
                return Err(Error::Held { archive: archive.display().to_string(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, &error)),
        }
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let holder = Holder { pid: std::process::id(), host, since: Some(now) };
        let text = serde_json::to_vec(&holder).expect("a holder has string keys only");
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
        written.map_err(|error| Error::io("write", path, &error))?;
        Ok(Self { _file: file })
    }
}

/// Tries for a moment: [`holder`] takes the lock for an instant to see whether anybody has it.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..10 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
            taken => return taken,
        }
    }
    file.try_lock()
}

/// Who holds the lock now, if anybody does.
pub(super) fn holder(path: &Path) -> Option<Holder> {
    let file = File::open(path).ok()?;
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| named_in(path))
}

/// Whom the file names; its holder may be writing it at this moment.
fn named_in(path: &Path) -> Holder {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Holder { pid: 0, host: "an unknown host".into(), since: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_archive_names_its_holder_and_a_released_one_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let lock = Lock::take(&path, folder.path(), now).unwrap();
        let refused = Lock::take(&path, folder.path(), now).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("since 2026-01-02T03:04:05Z"), "{refused}");
        assert_eq!(holder(&path).unwrap().pid, std::process::id());
        drop(lock);
        assert_eq!(holder(&path), None);
        Lock::take(&path, folder.path(), now).unwrap();
    }
}
