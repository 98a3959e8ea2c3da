//! What the simulator counts.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::window::Meter;

/// What a simulator was asked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// All API requests.
    pub requests: u64,
    /// Those for tasks that had already been answered for good.
    pub asked_again: u64,
    /// Those answered with 429.
    pub rate_limited: u64,
    /// Requests by task.
    pub by_task: HashMap<String, u32>,
}

/// That, and what the answers depend on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) meters: HashMap<String, Meter>,
    pub(super) answered: HashSet<String>,
}
