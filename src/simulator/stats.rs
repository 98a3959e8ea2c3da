//! Request statistics of the simulator.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::window::WindowCounter;

/// Statistics about the requests to a simulator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// The number of API requests.
    pub requests: u64,
    /// The number of requests for tasks whose final response had already been sent.
    #[serde(rename = "asked_again")]
    pub repeated: u64,
    /// The number of requests answered with status 429.
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
    #[serde(rename = "ranges")]
    pub range_requests: u64,
    /// The total size of all bodies sent, in bytes.
    pub bytes: u64,
    /// The maximum number of concurrent responses. A response is in progress from the arrival of its request until its
    /// last byte is sent.
    #[serde(rename = "most_at_once")]
    pub max_concurrent: u32,
    /// The number of requests for each file.
    pub by_path: HashMap<String, u32>,
    /// For each file, the number of responses that included the last byte of the file and were sent completely.
    #[serde(rename = "whole")]
    pub completed: HashMap<String, u32>,
    /// The names of headers that clients must send only to the API but that the CDN received.
    pub leaks: Vec<String>,
}

/// The request statistics, and the state that responses depend on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) windows_by_key: HashMap<String, WindowCounter>,
    pub(super) final_sent: HashSet<String>,
    /// The number of CDN responses in progress.
    pub(super) in_flight: u32,
}
