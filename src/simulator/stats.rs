//! Request statistics of the simulator.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::window::Meter;

/// Statistics about the requests to a simulator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// The number of API requests.
    pub requests: u64,
    /// The number of requests for tasks whose final response had already been sent.
    pub asked_again: u64,
    /// The number of requests answered with 429.
    pub rate_limited: u64,
    /// The number of requests for each task.
    pub by_task: HashMap<String, u32>,
    /// Statistics about the CDN requests.
    pub media: MediaStats,
}

/// Statistics about the requests to a simulator's CDN. A file is identified by its URL path without the leading
/// slash. For files of simulated tasks, this path is the file name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MediaStats {
    /// The number of CDN requests.
    pub requests: u64,
    /// The number of requests with a `Range` header.
    pub ranges: u64,
    /// The total size of all bodies sent, in bytes.
    pub bytes: u64,
    /// The maximum number of concurrent responses. A response is in progress from its request to its last byte.
    pub most_at_once: u32,
    /// The number of requests for each file.
    pub by_path: HashMap<String, u32>,
    /// The number of responses for each file that reached the last byte of the file, with or without a range.
    pub whole: HashMap<String, u32>,
    /// The names of headers that the CDN received although they must be sent only to the API.
    pub leaks: Vec<String>,
}

/// The request statistics, and the state that responses depend on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) meters: HashMap<String, Meter>,
    pub(super) answered: HashSet<String>,
    /// The number of CDN responses in progress.
    pub(super) in_flight: u32,
}
