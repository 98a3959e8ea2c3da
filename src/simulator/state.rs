//! The state that all requests to a simulator share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{SimulatedProvider, stats::Counts};

/// The simulated provider, its start time and its statistics.
#[derive(Debug)]
pub(super) struct State {
    pub(super) provider: SimulatedProvider,
    pub(super) start: Timestamp,
    /// The root URL of the CDN, without a trailing slash.
    pub(super) cdn: String,
    counts: Mutex<Counts>,
}

impl State {
    pub(super) fn new(provider: SimulatedProvider, cdn: String) -> Self {
        Self { provider, start: Timestamp::now(), cdn, counts: Mutex::default() }
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
