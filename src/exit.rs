//! The exit statuses, and the one of each error.

use crate::error::Error;

/// A command's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Everything requested is archived in a final state.
    Complete = 0,
    /// Stopped by an error: full disk, unreadable archive, unreachable provider.
    Failed = 1,
    /// Wrong usage: a bad option, an unreadable or empty input, no key, or an archive in another format.
    Usage = 2,
    /// Finished, but something is missing.
    Incomplete = 3,
    /// The provider refused the key.
    KeyRefused = 4,
    /// Another run holds the archive.
    Held = 5,
    /// Stopped by SIGHUP, after keeping all that was fetched.
    HungUp = 129,
    /// Stopped by SIGINT, after keeping all that was fetched.
    Interrupted = 130,
    /// Stopped by SIGTERM, after keeping all that was fetched.
    Terminated = 143,
}

impl ExitStatus {
    /// Whether a signal ended the run.
    #[must_use]
    pub fn is_signal(self) -> bool {
        matches!(self, Self::HungUp | Self::Interrupted | Self::Terminated)
    }

    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<&Error> for ExitStatus {
    fn from(error: &Error) -> Self {
        match error {
            Error::Usage(_) => Self::Usage,
            Error::Held { .. } => Self::Held,
            Error::KeyRefused(_) => Self::KeyRefused,
            Error::Unreachable(_) | Error::Storage { .. } | Error::Internal(_) => Self::Failed,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
