//! The final statuses of a task. A task with a final status no longer changes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The final status of a task, as stored in the `status` column of the `tasks` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatus {
    /// The task succeeded.
    Success,
    /// The task failed at the provider.
    Failure,
    /// The task timed out at the provider.
    Timeout,
    /// The provider did not find the task (404). A response never contains this status.
    NotFound,
}

impl FinalStatus {
    const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Timeout, Self::NotFound];

    /// The value that represents the status in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::NotFound => "not_found",
        }
    }

    /// Parses a status value from the tables.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Parses the status of a task in a response, where `not_found` is not a valid status.
    #[must_use]
    pub fn parse_response(text: &str) -> Option<Self> {
        Self::parse(text).filter(|status| *status != Self::NotFound)
    }
}

impl fmt::Display for FinalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
