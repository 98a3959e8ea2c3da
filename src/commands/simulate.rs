//! `simulate`: the provider's stand-in, on loopback, until it is stopped.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
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
    /// What goes wrong; `None`: nothing, within the provider's rate window.
    pub weather: Option<PathBuf>,
}

/// Serves until `stop` is ready. `ready` gets the base URL once it answers.
///
/// # Errors
/// [`Error::Usage`] if the weather file cannot be read or makes no sense,
/// [`Error::Storage`] if the port cannot be had.
pub async fn simulate(options: SimulateOptions, stop: impl Future, ready: impl FnOnce(&str)) -> Result<()> {
    let weather = match &options.weather {
        Some(path) => read_weather(path)?,
        None => Weather { window: Some(Window::default()), ..Weather::default() },
    };
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

fn read_weather(path: &Path) -> Result<Weather> {
    let text =
        fs::read_to_string(path).map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    text.parse().map_err(|error| Error::usage(format!("{}: {error}", path.display())))
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
