//! The exit statuses of the program, and the exit status for each error.

use crate::error::Error;

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The command succeeded, and nothing is missing.
    Complete = 0,
    /// The command was stopped by an error, such as a full disk, an unreadable archive or an unreachable provider.
    Failed = 1,
    /// The command was used incorrectly, for example with an invalid option, an unreadable or empty list, no API key,
    /// or an archive in a different format.
    Usage = 2,
    /// The command finished, but something is missing or damaged.
    Incomplete = 3,
    /// The provider refused the API key.
    KeyRejected = 4,
    /// Another run holds the lock on the archive.
    Locked = 5,
    /// SIGHUP stopped the run. Everything fetched so far is kept.
    HungUp = 129,
    /// SIGINT stopped the run. Everything fetched so far is kept.
    Interrupted = 130,
    /// SIGTERM stopped the run. Everything fetched so far is kept.
    Terminated = 143,
}

impl ExitStatus {
    /// Whether a signal ended the run.
    #[must_use]
    pub fn is_signal(self) -> bool {
        matches!(self, Self::HungUp | Self::Interrupted | Self::Terminated)
    }

    /// Returns the exit code of the process.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<&Error> for ExitStatus {
    fn from(error: &Error) -> Self {
        match error {
            Error::Usage(_) => Self::Usage,
            Error::Locked { .. } => Self::Locked,
            Error::KeyRejected(_) => Self::KeyRejected,
            Error::Unreachable(_) | Error::Storage { .. } | Error::Internal(_) => Self::Failed,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
