//! The journal stage writes responses durably to the journal. The stage acknowledges each record once it is on stable
//! storage, and sends closed segments to the publish stage. The stage runs on a dedicated thread and syncs waiting
//! records in batches.

use std::collections::BTreeMap;

use tokio::{sync::mpsc, task::JoinHandle};

use super::media_stage::AssetRequest;
use crate::{
    error::Result,
    journal::{ClosedSegment, JournalWriter, Record},
    status::FinalStatus,
    task::TaskIndex,
};

/// The capacity of the channel for entries that are waiting to be synced.
const CHANNEL_CAPACITY: usize = 256;

/// An entry to write to the journal: one or more records of a task.
#[derive(Debug)]
pub(super) enum Entry {
    /// The provider's response for a task.
    TaskResponse {
        task: TaskIndex,
        /// The task's final status, or `None` if the response is unreadable.
        status: Option<FinalStatus>,
        record: Record,
        /// The assets to download once the record is on stable storage.
        asset_requests: Vec<AssetRequest>,
    },
    /// The outcome of a task's assets, to be written to the segment with the part number `part`.
    Assets { task: TaskIndex, part: u32, record: Record },
    /// All records of a task with a stored response.
    Settled { task: TaskIndex, records: Vec<Record> },
}

/// An entry that is on stable storage.
#[derive(Debug)]
pub(super) enum Acknowledged {
    /// A response in the segment with the part number `part`.
    TaskResponse { task: TaskIndex, status: Option<FinalStatus>, part: u32, asset_requests: Vec<AssetRequest> },
    /// The outcome of a task's assets.
    Assets { task: TaskIndex, part: u32 },
    /// All records of a task with a stored response.
    Settled { task: TaskIndex, part: u32 },
}

/// The coordinator's handle to the journal stage.
pub(super) struct JournalStage {
    /// Sends records to the stage. Dropping the sender ends the stage.
    pub(super) records: mpsc::Sender<Entry>,
    /// Receives acknowledgements until the stage ends.
    pub(super) acknowledged: mpsc::UnboundedReceiver<Acknowledged>,
    /// The result of the stage.
    pub(super) handle: JoinHandle<Result<()>>,
}

impl JournalStage {
    /// Starts the journal stage, which sends closed segments to `segments`.
    pub(super) fn start(mut writer: JournalWriter, segments: mpsc::Sender<ClosedSegment>) -> Self {
        let (records, mut incoming) = mpsc::channel::<Entry>(CHANNEL_CAPACITY);
        let (acknowledge, acknowledged) = mpsc::unbounded_channel();
        let handle = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            while incoming.blocking_recv_many(&mut batch, CHANNEL_CAPACITY) > 0 {
                for entry in append_batch(&mut writer, std::mem::take(&mut batch))? {
                    // If the channel is closed, the run has ended, and the next run publishes the remaining segments.
                    let _ = acknowledge.send(entry);
                }
                for segment in writer.take_settled_segments() {
                    let _ = segments.blocking_send(segment);
                }
            }
            for segment in writer.close()? {
                let _ = segments.blocking_send(segment);
            }
            Ok(())
        });
        Self { records, acknowledged, handle }
    }
}

/// Appends a batch of entries, with one sync per segment.
fn append_batch(writer: &mut JournalWriter, batch: Vec<Entry>) -> Result<Vec<Acknowledged>> {
    let mut responses = Vec::new();
    let mut settled: BTreeMap<u32, Vec<&Record>> = BTreeMap::new();
    for entry in &batch {
        match entry {
            Entry::TaskResponse { record, .. } => responses.push(record),
            Entry::Settled { records, .. } => responses.extend(records),
            Entry::Assets { part, record, .. } => settled.entry(*part).or_default().push(record),
        }
    }
    for (part, records) in settled {
        writer.append_to(part, records)?;
    }
    let current_part = if responses.is_empty() { 0 } else { writer.append(responses)? };
    let acknowledged = batch.into_iter().map(|entry| match entry {
        Entry::TaskResponse { task, status, asset_requests, .. } => {
            Acknowledged::TaskResponse { task, status, part: current_part, asset_requests }
        }
        Entry::Assets { task, part, .. } => Acknowledged::Assets { task, part },
        Entry::Settled { task, .. } => Acknowledged::Settled { task, part: current_part },
    });
    Ok(acknowledged.collect())
}
