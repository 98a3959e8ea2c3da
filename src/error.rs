//! The public error type. Callers handle each variant differently.
//!
//! An error stops the command. A task that could not be fetched is not an error: it is counted, and listed in
//! `runs/<run_id>-unfinished.csv`.

use std::{fmt::Display, io, path::Path};

/// An error that stops a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command was used incorrectly. Nothing was sent or written.
    #[error("{0}")]
    Usage(String),

    /// Another run holds the lock on the archive.
    #[error("another run has locked {archive}: {holder}; wait for it to finish, or stop it")]
    Locked {
        /// The location of the archive as given by the user.
        archive: String,
        /// The process that holds the lock, its host, and the time when it took the lock.
        holder: String,
    },

    /// A bug in the program, or a system failure at startup.
    #[error("{0}; this should not happen, please report it")]
    Internal(String),

    /// The provider refused the API key.
    #[error("the provider refused the API key ({0})")]
    KeyRejected(String),

    /// The provider is unreachable, or has been down for too long.
    #[error("{0}")]
    Unreachable(String),

    /// A file or folder cannot be read or written, for example because the disk is full, a permission is missing, or
    /// the file is damaged.
    #[error("cannot {action} {path}: {reason}{}", .advice.message())]
    Storage {
        /// The failed action, such as "write" or "read".
        action: &'static str,
        /// The path of the file or folder.
        path: String,
        /// The error message from the system.
        reason: String,
        /// The advice for the user.
        advice: Advice,
    },
}

/// A result with [`Error`] as the default error type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Advice about a file that cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// No advice, because the error message is sufficient.
    None,
    /// Free some space: the disk is full, or a disk quota is exceeded.
    FreeSpace,
    /// Raise the file-size limit of the process: the file would exceed it.
    RaiseFileSizeLimit,
    /// Run `repair`: a file of the archive is damaged.
    Repair,
    /// Move the file away: it is damaged, and the next export regenerates it.
    MoveAway,
}

impl Advice {
    fn message(self) -> &'static str {
        match self {
            Self::None => "",
            Self::FreeSpace => "; free some space and rerun; the run will resume",
            Self::RaiseFileSizeLimit => "; raise the file-size limit (ulimit -f) and rerun; the run will resume",
            Self::MoveAway => "; the file is damaged: move it away, and the next export regenerates it",
            Self::Repair => "; the file is damaged: run `sunor-archive repair` on the archive",
        }
    }
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Creates an error for an operation on the local file system.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: &io::Error) -> Self {
        Self::storage(action, path.display(), source)
    }

    /// Creates a storage error. Its reason is the message of the innermost [`io::Error`] in the source chain, or the
    /// message of `source` if the chain contains no [`io::Error`].
    pub(crate) fn storage(
        action: &'static str,
        path: impl Display,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        let chain = || std::iter::successors(Some(source), |error| error.source());
        // An encoder may wrap the system's error in another I/O error.
        let io = chain().filter_map(|error| error.downcast_ref::<io::Error>()).last();
        let advice = match io.map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Advice::FreeSpace,
            Some(io::ErrorKind::FileTooLarge) => Advice::RaiseFileSizeLimit,
            _ => Advice::None,
        };
        let reason = io.map_or_else(|| source.to_string(), ToString::to_string);
        Self::Storage { action, path: path.to_string(), reason, advice }
    }

    /// Adds advice, unless the error already has advice.
    pub(crate) fn with_advice(self, advice: Advice) -> Self {
        match self {
            Self::Storage { action, path, reason, advice: Advice::None } => {
                Self::Storage { action, path, reason, advice }
            }
            other => other,
        }
    }

    /// Creates an error for a failed write to standard output. It has no advice, because no file of the archive is
    /// affected.
    #[must_use]
    pub fn stdout(source: &io::Error) -> Self {
        let (action, path) = ("write", "standard output".into());
        Self::Storage { action, path, reason: source.to_string(), advice: Advice::None }
    }
}
