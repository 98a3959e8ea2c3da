//! The statuses after which a task does not change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a task ended: the `status` of an archived one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatus {
    /// It succeeded.
    Success,
    /// It failed at the provider.
    Failure,
    /// It timed out at the provider.
    Timeout,
    /// The provider does not know it (404). A task itself never has this status.
    NotFound,
}

impl FinalStatus {
    const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Timeout, Self::NotFound];

    /// The word in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::NotFound => "not_found",
        }
    }

    /// Parses a word of the tables.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Parses the status of a task in a response.
    #[must_use]
    pub fn of_task(word: &str) -> Option<Self> {
        Self::parse(word).filter(|status| *status != Self::NotFound)
    }
}

impl fmt::Display for FinalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
