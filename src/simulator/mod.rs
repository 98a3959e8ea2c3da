//! A simulated provider: its documented API on loopback, with tasks of every type and status, realistic lifecycles, its
//! rate window, and faults on request.
//!
//! Its CDN, at another address, serves the clips' songs and covers: valid files, generated as they are sent, with
//! faults of their own.
//!
//! New users try the program with it, and every test injects its faults through it. It is a real server on a random
//! port, and it counts requests.

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

pub use faults::{Encoding, Fault, FaultKind, FaultPlan, When};
pub use server::Simulator;
pub use stats::{MediaStats, Stats};
pub use window::{Window, WindowKind};

use std::{collections::HashMap, sync::Arc};

use crate::task::TaskList;

/// A key that the simulator accepts, like any other, unless the fault plan names one.
pub const KEY: &str = "simulator";

/// The CDN's port for a provider that lives for one run: the next run can resume its downloads.
const CDN_PORT: u16 = 8643;

/// The default seed.
pub const DEFAULT_SEED: u64 = 1;

/// The tasks and faults of a simulated provider.
#[derive(Clone, Debug)]
pub struct SimulatedProvider {
    /// Which tasks exist.
    pub tasks: Known,
    /// The seed of the documents: the same seed and ID give the same document.
    pub seed: u64,
    /// Verbatim documents, by task ID: the whole body of a response, in which `{cdn}` stands for the CDN's root.
    pub documents: HashMap<String, String>,
    /// Its faults.
    pub faults: FaultPlan,
    /// The CDN's port, if it is free: then files have the same URLs as in an earlier run. 0 is a random port.
    pub cdn_port: u16,
}

/// Which tasks exist.
#[derive(Clone, Debug)]
pub enum Known {
    /// Any requested ID.
    Every,
    /// Those of a list.
    Listed(Arc<TaskList>),
    /// Only those whose documents are given.
    Given,
}

impl SimulatedProvider {
    /// A provider that knows every task, with the documented rate window, for one run.
    #[must_use]
    pub fn every() -> Self {
        let faults = FaultPlan { window: Some(Window::default()), ..FaultPlan::default() };
        Self { faults, cdn_port: CDN_PORT, ..Self::default() }
    }

    /// A provider that knows the tasks of a list, with the documented rate window.
    #[must_use]
    pub fn knowing(tasks: Arc<TaskList>) -> Self {
        let faults = FaultPlan { window: Some(Window::default()), ..FaultPlan::default() };
        Self { tasks: Known::Listed(tasks), faults, cdn_port: CDN_PORT, ..Self::default() }
    }
}

impl Default for SimulatedProvider {
    fn default() -> Self {
        Self {
            tasks: Known::Every,
            seed: DEFAULT_SEED,
            documents: HashMap::new(),
            faults: FaultPlan::default(),
            cdn_port: 0,
        }
    }
}
