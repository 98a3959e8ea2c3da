//! A local stand-in for the provider: its documented API on loopback, with tasks of every type and
//! fate, real lifecycles, its rate window, and faults on request.
//!
//! Beside the API it has a CDN with the clips' songs and covers, at another address, as the real ones
//! have: real files, made while they are sent, with faults of their own.
//!
//! New users try the program with it, and every test injects its faults through it. It is
//! a real server on a port of the system's choice, and it counts what it is asked.

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

/// A key that the simulator takes, like any other, unless the fault plan names one.
pub const KEY: &str = "simulator";

/// The port of the CDN of a world that is there for one run: the next run may go on with its files.
const CDN_PORT: u16 = 8643;

/// The default seed.
pub const DEFAULT_SEED: u64 = 1;

/// What the simulator knows.
#[derive(Clone, Debug)]
pub struct SimulatedProvider {
    /// Which tasks exist.
    pub tasks: Known,
    /// What their documents are made from: the same seed and ID give the same document.
    pub seed: u64,
    /// Documents given as they are, by task ID: the whole body of an answer, in which `{cdn}` stands for
    /// the CDN's root.
    pub documents: HashMap<String, String>,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// The port of the CDN, if it is free: the addresses of files are those of an earlier start then. 0 is
    /// one of the system's choice.
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
    /// A world that knows every task, with the provider's documented rate window, for one run.
    #[must_use]
    pub fn every() -> Self {
        let faults = FaultPlan { window: Some(Window::default()), ..FaultPlan::default() };
        Self { faults, cdn_port: CDN_PORT, ..Self::default() }
    }

    /// A world that knows the tasks of a list, with the provider's documented rate window.
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
