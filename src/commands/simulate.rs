//! `simulate`: the provider's stand-in, on loopback, until it is stopped.

use std::{future::Future, sync::Arc};

use crate::{
    error::Result,
    simulator::{Known, Simulator, Weather, Window, World},
    task::{TaskId, TaskList},
};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    /// The port on loopback; 0 is one of the system's choice.
    pub port: u16,
    /// How many tasks there are; `None`: whatever is asked for.
    pub tasks: Option<u32>,
    /// What the documents are made from.
    pub seed: u64,
}

/// Serves until `stop` is ready. `ready` gets the base URL once it answers.
///
/// # Errors
/// [`Error::Storage`](crate::error::Error::Storage) if the port cannot be had.
pub async fn simulate(options: SimulateOptions, stop: impl Future, ready: impl FnOnce(&str)) -> Result<()> {
    let weather = Weather { window: Some(Window::default()), ..Weather::default() };
    let tasks = match options.tasks {
        Some(count) => Known::Listed(Arc::new(task_list(count, options.seed))),
        None => Known::Every,
    };
    let world = World { tasks, seed: options.seed, weather, ..World::default() };
    let simulator = Simulator::start_on(world, options.port).await?;
    ready(simulator.base_url().as_str());
    stop.await;
    Ok(())
}

/// Names for tasks of a world that nobody brought a list to.
fn task_list(count: u32, seed: u64) -> TaskList {
    let mut tasks = TaskList::default();
    for n in 1..=count {
        let name = format!("task-{seed}-{n:06}");
        tasks.insert(TaskId::parse(&name).expect("a valid ID"));
    }
    tasks
}
