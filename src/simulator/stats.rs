//! Statistics of the simulator.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::window::Meter;

/// The requests to a simulator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// All API requests.
    pub requests: u64,
    /// Those for tasks that had already been answered permanently.
    pub asked_again: u64,
    /// Those answered with 429.
    pub rate_limited: u64,
    /// Requests by task.
    pub by_task: HashMap<String, u32>,
    /// The requests to its CDN.
    pub media: MediaStats,
}

/// The requests to a simulator's CDN. Files are named by their path without its first slash: for the files of simulated
/// tasks, the bare name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MediaStats {
    /// All requests.
    pub requests: u64,
    /// Those with a `Range`.
    pub ranges: u64,
    /// The bytes of all bodies that were sent.
    pub bytes: u64,
    /// The most responses that were in progress at once, each from its request to its last byte.
    pub most_at_once: u32,
    /// Requests by file.
    pub by_path: HashMap<String, u32>,
    /// How often a file was sent to its last byte, from its first byte or the start of a range.
    pub whole: HashMap<String, u32>,
    /// Headers that must not reach the CDN and did.
    pub leaks: Vec<String>,
}

/// The statistics, and the state that responses depend on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) meters: HashMap<String, Meter>,
    pub(super) answered: HashSet<String>,
    /// The CDN's responses in progress.
    pub(super) in_flight: u32,
}
