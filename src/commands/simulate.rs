//! The `simulate` command: runs a simulated provider on the loopback interface until the user stops it.

#![expect(clippy::disallowed_methods, reason = "reads a file that the user specifies")]

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    simulator::{FaultPlan, KnownTasks, SimulatedProvider, Simulator, Window},
    task::{TaskId, TaskList},
};

/// The options of `simulate`.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    /// The port on the loopback interface; 0 picks a free port.
    pub port: u16,
    /// The number of tasks that the provider has. `None` means that the provider has a task for every requested ID.
    pub tasks: Option<u32>,
    /// The seed for the generated task IDs and responses.
    pub seed: u64,
    /// The path of the fault plan. `None` simulates no faults, only the provider's documented rate limit.
    pub faults: Option<PathBuf>,
}

/// Runs the simulator until `stop` resolves. Calls `ready` with the base URL once the simulator accepts requests.
///
/// # Errors
/// Returns [`Error::Usage`] if the fault plan cannot be read or is invalid, and [`Error::Storage`] if the port is
/// unavailable.
pub async fn simulate(options: SimulateOptions, stop: impl Future, ready: impl FnOnce(&str)) -> Result<()> {
    let faults = match &options.faults {
        Some(path) => read_fault_plan(path)?,
        None => FaultPlan { window: Some(Window::default()), ..FaultPlan::default() },
    };
    let tasks = match options.tasks {
        Some(count) => KnownTasks::Listed(Arc::new(task_list(count, options.seed))),
        None => KnownTasks::Any,
    };
    let simulated_provider = SimulatedProvider { tasks, seed: options.seed, faults, ..SimulatedProvider::default() };
    let simulator = Simulator::start_on(simulated_provider, options.port).await?;
    ready(simulator.base_url().as_str());
    stop.await;
    Ok(())
}

fn read_fault_plan(path: &Path) -> Result<FaultPlan> {
    let text =
        fs::read_to_string(path).map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    text.parse().map_err(|error| Error::usage(format!("{}: {error}", path.display())))
}

/// Generates the IDs of the simulated tasks.
fn task_list(count: u32, seed: u64) -> TaskList {
    let mut tasks = TaskList::default();
    for n in 1..=count {
        let name = format!("task-{seed}-{n:06}");
        tasks.insert(TaskId::parse(&name).expect("a valid ID"));
    }
    tasks
}
