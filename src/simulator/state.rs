//! The state that all responses of a simulator share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{SimulatedProvider, stats::Counts};

/// A provider, its start, and its statistics.
#[derive(Debug)]
pub(super) struct State {
    pub(super) world: SimulatedProvider,
    pub(super) start: Timestamp,
    /// The CDN's root, without the slash at its end.
    pub(super) cdn: String,
    counts: Mutex<Counts>,
}

impl State {
    pub(super) fn new(world: SimulatedProvider, cdn: String) -> Self {
        Self { world, start: Timestamp::now(), cdn, counts: Mutex::default() }
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
