//! What the simulator counts.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::window::Meter;

/// What a simulator was asked.
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
    /// What its CDN was asked.
    pub media: MediaStats,
}

/// What a simulator's CDN was asked. Files are named by their path without its first slash, which is
/// the bare name for the files of simulated tasks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MediaStats {
    /// All requests.
    pub requests: u64,
    /// Those with a `Range`.
    pub ranges: u64,
    /// The bytes of all bodies that were handed out.
    pub bytes: u64,
    /// The most responses that were under way at once, each from its request to its last byte.
    pub most_at_once: u32,
    /// Requests by file.
    pub by_path: HashMap<String, u32>,
    /// How often a file was sent to its last byte, from its first or from where a range began.
    pub whole: HashMap<String, u32>,
    /// The headers that are no business of the CDN's, and came all the same.
    pub leaks: Vec<String>,
}

/// That, and what the answers depend on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) meters: HashMap<String, Meter>,
    pub(super) answered: HashSet<String>,
    /// The CDN's responses that are under way.
    pub(super) in_flight: u32,
}
