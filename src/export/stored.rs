//! Reads stored responses from the tables and from quarantined parts. Responses are read in batches of a few hundred,
//! so that memory use does not grow with the size of the plan.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Plan, Salvage};
use crate::{
    archive::{self, Archive, LockedArchive},
    error::{Error, Result},
    format::TableFormat,
    json::Object,
    ranged::RangedFile,
    status::FinalStatus,
    tables::{self, TASK_ID, TASKS},
    task::{TaskIndex, is_same_id},
};

/// The number of responses in a batch. One batch is held in memory at a time.
const BATCH_SIZE: usize = 500;

/// The maximum number of responses that are queued for the coordinator, in addition to the current batch.
const CHANNEL_CAPACITY: usize = 16;

/// The maximum number of attempts to read the tasks table. An attempt can fail because parts are replaced during the
/// read.
const MAX_READ_ATTEMPTS: u32 = 10;

/// The columns of the tasks table that make up a stored response.
const COLUMNS: [&str; 5] = [TASK_ID, "status", "fetched_at", "response", "error"];

/// A response from the tables or from a quarantined part.
#[derive(Clone, Debug)]
pub(crate) struct StoredResponse {
    pub(super) status: FinalStatus,
    pub(super) fetched_at: Timestamp,
    /// The response, or `None` for a task with the status `not_found`.
    pub(super) response: Option<String>,
    pub(super) error: Option<String>,
}

impl StoredResponse {
    fn from_cells(cells: &[Option<&str>]) -> Option<(String, Self)> {
        let [Some(task), Some(status), Some(fetched_at), response, error] = cells else { return None };
        let (status, fetched_at) = (FinalStatus::parse(status)?, fetched_at.parse().ok()?);
        let (response, error) = (response.map(str::to_owned), error.map(str::to_owned));
        Some(((*task).to_owned(), Self { status, fetched_at, response, error }))
    }

    /// Whether this row is preferred to another row of the same task. Rows with a response are preferred, then rows
    /// with the status `success`, then newer rows.
    fn is_better_than(&self, other: &Self) -> bool {
        let rank =
            |stored: &Self| (stored.response.is_some(), stored.status == FinalStatus::Success, stored.fetched_at);
        rank(self) > rank(other)
    }

    /// Whether the row belongs to the task with this ID. In a damaged part, the task ID of a row may be wrong.
    fn belongs_to(&self, task_id: &str) -> bool {
        match &self.response {
            None => self.status == FinalStatus::NotFound,
            Some(_) => self.task_id().is_some_and(|id| is_same_id(&id, task_id)),
        }
    }

    /// Returns the task ID that the response contains.
    fn task_id(&self) -> Option<String> {
        Object::parse(self.response.as_deref()?)?.text("task_id")
    }
}

/// The coordinator's handle to the stage that reads stored responses.
pub(super) struct StoredStage {
    /// Receives each task with its stored response, or with `None` if the stored response could not be read.
    pub(super) responses: mpsc::Receiver<(TaskIndex, Option<StoredResponse>)>,
    /// The result of the stage.
    pub(super) handle: JoinHandle<Result<()>>,
}

impl StoredStage {
    /// Reads the responses of these tasks from the tasks table, in row order.
    pub(super) fn read_tables(archive: Arc<LockedArchive>, plan: &Plan, tasks: Vec<TaskIndex>) -> Self {
        let list = plan.tasks.clone();
        let ids = move |tasks: &[TaskIndex]| tasks.iter().map(|task| list.id(*task).to_string()).collect::<Vec<_>>();
        let list = plan.tasks.clone();
        Self::start(move |send| {
            let wanted = ids(&tasks).into_iter().collect();
            for chunk in sort_by_row_order(&archive, wanted)?.chunks(BATCH_SIZE) {
                let mut stored = read(&archive, &chunk.iter().cloned().collect())?;
                for task in chunk.iter().filter_map(|id| list.find(id)) {
                    send(task, stored.remove(list.id(task).as_str()));
                }
            }
            Ok(())
        })
    }

    /// Reads the responses of these tasks from quarantined parts.
    pub(super) fn read_quarantine(format: TableFormat, plan: &Plan, tasks: Vec<TaskIndex>) -> Self {
        let (list, parts) = (plan.tasks.clone(), plan.quarantined.clone());
        Self::start(move |send| {
            for chunk in tasks.chunks(BATCH_SIZE) {
                let wanted = chunk.iter().map(|task| list.id(*task).to_string()).collect();
                let mut salvaged = salvage(format, &parts, &wanted);
                for task in chunk {
                    send(*task, salvaged.remove(list.id(*task).as_str()));
                }
            }
            Ok(())
        })
    }

    fn start(
        read: impl FnOnce(&mut dyn FnMut(TaskIndex, Option<StoredResponse>)) -> Result<()> + Send + 'static,
    ) -> Self {
        let (send, responses) = mpsc::channel(CHANNEL_CAPACITY);
        let handle = tokio::task::spawn_blocking(move || {
            read(&mut |task, stored_response| {
                // Sending fails only if the coordinator has stopped accepting stored responses.
                let _ = send.blocking_send((task, stored_response));
            })
        });
        Self { responses, handle }
    }
}

/// Sorts task IDs by the position of their rows in the tasks table, so that each batch reads adjacent rows. Tasks
/// without a row come last.
fn sort_by_row_order(archive: &Archive, mut remaining: BTreeSet<String>) -> Result<Vec<String>> {
    let mut ordered = Vec::new();
    for_each_part(archive, &mut |file| {
        tables::scan(file, archive.format, &[TASK_ID], &mut |cells| {
            ordered.extend(cells.iter().flatten().filter_map(|task| remaining.take(*task)));
        })
    })?;
    ordered.extend(remaining);
    Ok(ordered)
}

/// Reads the stored responses of these tasks from the tasks table.
fn read(archive: &Archive, tasks: &HashSet<String>) -> Result<HashMap<String, StoredResponse>> {
    let mut stored: HashMap<String, StoredResponse> = HashMap::new();
    for_each_part(archive, &mut |file| {
        let filter = (TASK_ID, tasks.iter().map(String::as_str));
        tables::scan_matching(file, archive.format, &COLUMNS, filter, &mut |cells| {
            let Some((task, stored_response)) = StoredResponse::from_cells(cells) else { return };
            // If a task has several rows, the preferred row is kept.
            let is_better = stored.get(&task).is_none_or(|other| stored_response.is_better_than(other));
            if tasks.contains(&task) && is_better {
                stored.insert(task, stored_response);
            }
        })
    })?;
    Ok(stored)
}

/// Calls `read` with each part of the tasks table. If a read fails because parts were replaced in the meantime, all
/// parts are read again.
fn for_each_part(archive: &Archive, read: &mut dyn FnMut(RangedFile) -> io::Result<()>) -> Result<()> {
    let parts = || archive.parts(TASKS.name);
    let mut last = None;
    for _ in 0..MAX_READ_ATTEMPTS {
        let listed = parts()?;
        match listed.iter().try_for_each(|path| archive.read_part(path, &mut *read)) {
            Ok(()) => return Ok(()),
            Err(error) if parts()? == listed => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Internal("the tasks table was not read".into())))
}

/// Salvages the responses of these tasks from quarantined parts. Each part is read until the first read error, and rows
/// with a wrong task ID are skipped. Performs blocking I/O.
fn salvage(format: TableFormat, parts: &BTreeSet<PathBuf>, tasks: &HashSet<String>) -> HashMap<String, StoredResponse> {
    let mut salvaged = HashMap::new();
    for_each_salvaged(format, parts, &mut |task, stored_response| {
        if tasks.contains(&task) {
            salvaged.insert(task, stored_response);
        }
    });
    salvaged
}

/// Finds the tasks whose rows can be salvaged from damaged parts. Performs blocking I/O.
pub(crate) fn salvageable(format: TableFormat, parts: &BTreeSet<PathBuf>) -> HashMap<String, Salvage> {
    let mut found = HashMap::new();
    for_each_salvaged(format, parts, &mut |task, stored_response| {
        let salvage = if stored_response.response.is_some() { Salvage::Response } else { Salvage::NotFound };
        found.insert(task, salvage);
    });
    found
}

fn for_each_salvaged(format: TableFormat, parts: &BTreeSet<PathBuf>, visit: &mut dyn FnMut(String, StoredResponse)) {
    for path in parts {
        for_each_readable(format, archive::open_quarantined(path), &mut |task, stored_response| {
            if stored_response.belongs_to(&task) {
                visit(task, stored_response);
            }
        });
    }
}

/// Returns a map from the task ID of each row in a damaged part to the task ID in that row's response. Performs
/// blocking I/O.
pub(crate) fn ids_in_responses(archive: &Archive, part: &str) -> HashMap<String, String> {
    let mut ids = HashMap::new();
    for_each_readable(archive.format, archive.read(part).ok(), &mut |task, stored_response| {
        if let Some(id) = stored_response.task_id() {
            ids.insert(task, id);
        }
    });
    ids
}

/// Calls `visit` with each row of a damaged part until the first read error.
fn for_each_readable(format: TableFormat, part: Option<RangedFile>, visit: &mut dyn FnMut(String, StoredResponse)) {
    let Some(file) = part else { return };
    let mut on_row = |cells: &[Option<&str>]| {
        if let Some((task, stored_response)) = StoredResponse::from_cells(cells) {
            visit(task, stored_response);
        }
    };
    let _ = tables::catch_panic(|| tables::scan(file, format, &COLUMNS, &mut on_row));
}
