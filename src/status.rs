//! The statuses after which a task does not change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a task ended: the `status` of an archived one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatus {
    /// It ended well.
    Success,
    /// It failed at the provider.
    Failure,
    /// It timed out at the provider.
    Timeout,
    /// The provider does not know it. This is the API's word (404), never a task's own.
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

    /// The status that a word in the tables stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The status that a task itself may have.
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
