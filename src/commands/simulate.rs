//! `simulate`: the provider's stand-in, on loopback, until it is stopped.

#![expect(clippy::disallowed_methods, reason = "a file of the user's")]

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    simulator::{FaultPlan, Known, SimulatedProvider, Simulator, Window},
    task::{TaskId, TaskList},
};

/// The options of the simulator.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    /// The port on loopback; 0 is one of the system's choice.
    pub port: u16,
    /// How many tasks there are; `None` means any requested ID.
    pub tasks: Option<u32>,
    /// The seed of the documents.
    pub seed: u64,
    /// The faults; `None`: no faults, and the provider's rate window.
    pub faults: Option<PathBuf>,
}

/// Serves until `stop` is ready. `ready` gets the base URL once it answers.
///
/// # Errors
/// [`Error::Usage`] if the fault plan cannot be read or is invalid,
/// [`Error::Storage`] if the port are unavailable.
pub async fn simulate(options: SimulateOptions, stop: impl Future, ready: impl FnOnce(&str)) -> Result<()> {
    let faults = match &options.faults {
        Some(path) => read_fault_plan(path)?,
        None => FaultPlan { window: Some(Window::default()), ..FaultPlan::default() },
    };
    let tasks = match options.tasks {
        Some(count) => Known::Listed(Arc::new(task_list(count, options.seed))),
        None => Known::Every,
    };
    let world = SimulatedProvider { tasks, seed: options.seed, faults, ..SimulatedProvider::default() };
    let simulator = Simulator::start_on(world, options.port).await?;
    ready(simulator.base_url().as_str());
    stop.await;
    Ok(())
}

fn read_fault_plan(path: &Path) -> Result<FaultPlan> {
    let text =
        fs::read_to_string(path).map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    text.parse().map_err(|error| Error::usage(format!("{}: {error}", path.display())))
}

/// Task IDs for a simulator without a task list.
fn task_list(count: u32, seed: u64) -> TaskList {
    let mut tasks = TaskList::default();
    for n in 1..=count {
        let name = format!("task-{seed}-{n:06}");
        tasks.insert(TaskId::parse(&name).expect("a valid ID"));
    }
    tasks
}
