//! A simulated provider, for tests and for trying the program without a key. It serves the documented API on a loopback
//! address, with tasks of every type and status, realistic task lifecycles, the provider's rate limit and configurable
//! faults.
//!
//! The simulated CDN listens on a separate address and serves the audio and covers of the clips. The CDN generates
//! valid media files on the fly, and its faults are configured separately.
//!
//! The simulator is a real HTTP server that counts its requests, so tests can check which requests the program sends.

mod api;
mod cdn;
mod compression;
mod cover;
mod documents;
mod faults;
mod media;
mod mp3;
mod range;
mod response;
mod server;
mod state;
mod stats;
mod tracked_body;
mod window;

pub use faults::{Encoding, Fault, FaultFilter, FaultKind, FaultPlan};
pub use server::Simulator;
pub use stats::{MediaStats, Stats};
pub use window::{Window, WindowKind};

use std::{collections::HashMap, sync::Arc};

use crate::task::TaskList;

/// An API key for the simulator, which accepts any key unless the fault plan specifies one.
pub const API_KEY: &str = "simulator";

/// The CDN port of an embedded simulator. A fixed port keeps media URLs valid across runs, so the next run can resume
/// interrupted downloads.
const CDN_PORT: u16 = 8643;

/// The default random seed.
pub const DEFAULT_SEED: u64 = 1;

/// The configuration of a simulated provider.
#[derive(Clone, Debug)]
pub struct SimulatedProvider {
    /// The task IDs that the provider recognizes.
    pub tasks: KnownTasks,
    /// The random seed for documents and media files. The same seed and task ID always give the same document.
    pub seed: u64,
    /// Complete response bodies by task ID, sent verbatim except that `{cdn}` is replaced with the CDN's root URL.
    pub documents: HashMap<String, String>,
    /// The faults to inject.
    pub faults: FaultPlan,
    /// The preferred port of the CDN, or 0 for a random port. If the preferred port is free, files have the same URLs
    /// in every run.
    pub cdn_port: u16,
}

/// The task IDs that a simulated provider recognizes.
#[derive(Clone, Debug)]
pub enum KnownTasks {
    /// The provider recognizes every task ID.
    Any,
    /// The provider recognizes only the task IDs in this list.
    Listed(Arc<TaskList>),
    /// The provider recognizes only the task IDs in [`SimulatedProvider::documents`].
    Documents,
}

impl SimulatedProvider {
    /// Returns a provider that recognizes every task ID and applies the documented rate limit, for use within a single
    /// run.
    #[must_use]
    pub fn accepting_any_task() -> Self {
        let faults = FaultPlan { window: Some(Window::default()), ..FaultPlan::default() };
        Self { faults, cdn_port: CDN_PORT, ..Self::default() }
    }

    /// Returns a provider that recognizes only the tasks in `tasks` and applies the documented rate limit.
    #[must_use]
    pub fn with_tasks(tasks: Arc<TaskList>) -> Self {
        let faults = FaultPlan { window: Some(Window::default()), ..FaultPlan::default() };
        Self { tasks: KnownTasks::Listed(tasks), faults, cdn_port: CDN_PORT, ..Self::default() }
    }
}

impl Default for SimulatedProvider {
    fn default() -> Self {
        Self {
            tasks: KnownTasks::Any,
            seed: DEFAULT_SEED,
            documents: HashMap::new(),
            faults: FaultPlan::default(),
            cdn_port: 0,
        }
    }
}
