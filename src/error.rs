//! The one public error, sorted by what the caller can do about it.
//!
//! An error is what stops a run. A task that could not be fetched is not an error but data: it is
//! counted, and named in the run's `-unfinished.csv`.

use std::{fmt::Display, io, path::Path};

/// An error that stops a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command was used wrongly; nothing was sent and nothing was written.
    #[error("{0}")]
    Usage(String),

    /// Another run holds the archive.
    #[error("another run holds {archive}: {holder}; wait for it to end, or stop it")]
    Held {
        /// The archive as the user named it.
        archive: String,
        /// Who holds it: process, host and since when.
        holder: String,
    },

    /// The program itself is at fault, or the system would not let it start.
    #[error("{0}; this should not happen, please report it")]
    Internal(String),

    /// The provider refused the key.
    #[error("the provider refused the key ({0})")]
    KeyRefused(String),

    /// The provider cannot be reached, or has been down for too long.
    #[error("{0}")]
    Unreachable(String),

    /// A file or folder cannot be read or written: a full disk, a missing permission, damage.
    #[error("cannot {action} {path}: {reason}{}", .advice.words())]
    Storage {
        /// The action: "write", "read", …
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's message.
        reason: String,
        /// The advice for the user.
        advice: Advice,
    },
}

/// The result of an operation that can stop a run.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Advice about a file that cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// None: the system's message says it all.
    None,
    /// The disk, or a quota of it, is full.
    FreeSpace,
    /// The file would exceed the process's size limit.
    RaiseFileSize,
    /// A part of the archive is damaged.
    Repair,
    /// A file that an export regenerates is damaged.
    MoveAway,
}

impl Advice {
    fn words(self) -> &'static str {
        match self {
            Self::None => "",
            Self::FreeSpace => "; free some space and rerun; the run will resume",
            Self::RaiseFileSize => "; raise the file-size limit (ulimit -f) and rerun; the run will resume",
            Self::MoveAway => "; it is damaged: move it away, and the next export regenerates it",
            Self::Repair => "; it is damaged: run `sunor-archive repair` on the archive",
        }
    }
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// An error of the local file system.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: &io::Error) -> Self {
        Self::storage(action, path.display(), source)
    }

    /// An error of storage. If it has an [`io::Error`] as a source, that one's message is used.
    pub(crate) fn storage(
        action: &'static str,
        path: impl Display,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        let chain = || std::iter::successors(Some(source), |error| error.source());
        // An encoder may have wrapped the system's error.
        let io = chain().filter_map(|error| error.downcast_ref::<io::Error>()).last();
        let advice = match io.map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Advice::FreeSpace,
            Some(io::ErrorKind::FileTooLarge) => Advice::RaiseFileSize,
            _ => Advice::None,
        };
        let reason = io.map_or_else(|| source.to_string(), ToString::to_string);
        Self::Storage { action, path: path.to_string(), reason, advice }
    }

    /// Adds this advice, unless the error already has some.
    pub(crate) fn advising(self, advice: Advice) -> Self {
        match self {
            Self::Storage { action, path, reason, advice: Advice::None } => {
                Self::Storage { action, path, reason, advice }
            }
            other => other,
        }
    }

    /// An error of standard output: no advice about the archive applies.
    #[must_use]
    pub fn stdout(source: &io::Error) -> Self {
        let (action, path) = ("write", "standard output".into());
        Self::Storage { action, path, reason: source.to_string(), advice: Advice::None }
    }
}
