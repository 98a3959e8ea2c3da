//! The stage that makes responses durable: records in, acknowledgements and full segments out. It runs on a
//! thread of its own, and syncs all records since the last sync at once.

use std::collections::BTreeMap;

use tokio::{sync::mpsc, task::JoinHandle};

use super::media_stage::AssetRequest;
use crate::{
    error::Result,
    journal::{ClosedSegment, JournalWriter, Record},
    status::FinalStatus,
    task::TaskIndex,
};

/// Capacity for records that wait for a sync. The coordinator stays below it.
const MOST_WAITING: usize = 256;

/// A record on its way to the journal.
#[derive(Debug)]
pub(super) enum Entry {
    /// The provider's response for a task.
    TaskResponse {
        task: TaskIndex,
        /// The final status, if the record is final.
        status: Option<FinalStatus>,
        record: Record,
        /// Its assets, to be settled once the record is durable.
        wanted: Vec<AssetRequest>,
    },
    /// The outcome of a task's assets, for the segment of that part.
    Assets { task: TaskIndex, part: u32, record: Record },
    /// The complete records of a task with a stored response.
    Settled { task: TaskIndex, records: Vec<Record> },
}

/// A record that is on stable storage.
#[derive(Debug)]
pub(super) enum Acknowledged {
    /// A response, in the segment that becomes that part.
    TaskResponse { task: TaskIndex, status: Option<FinalStatus>, part: u32, wanted: Vec<AssetRequest> },
    /// The outcome of a task's assets.
    Assets { task: TaskIndex, part: u32 },
    /// The complete records of a task.
    Settled { task: TaskIndex, part: u32 },
}

/// The coordinator's end of the stage.
pub(super) struct JournalStage {
    /// Takes records; closed by dropping it.
    pub(super) records: mpsc::Sender<Entry>,
    /// Acknowledges them; ends when the stage does.
    pub(super) acknowledged: mpsc::UnboundedReceiver<Acknowledged>,
    /// Its result.
    pub(super) ended: JoinHandle<Result<()>>,
}

impl JournalStage {
    /// Starts the stage; full segments, and the last one, go to `segments`.
    pub(super) fn start(mut writer: JournalWriter, segments: mpsc::Sender<ClosedSegment>) -> Self {
        let (records, mut incoming) = mpsc::channel::<Entry>(MOST_WAITING);
        let (acknowledge, acknowledged) = mpsc::unbounded_channel();
        let ended = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            while incoming.blocking_recv_many(&mut batch, MOST_WAITING) > 0 {
                for entry in keep(&mut writer, std::mem::take(&mut batch))? {
                    // A closed channel means that the run has ended; the segments remain for the next one.
                    let _ = acknowledge.send(entry);
                }
                for segment in writer.take_complete() {
                    let _ = segments.blocking_send(segment);
                }
            }
            for segment in writer.close()? {
                let _ = segments.blocking_send(segment);
            }
            Ok(())
        });
        Self { records, acknowledged, ended }
    }
}

/// Appends a batch, with one sync for each segment it touches.
fn keep(writer: &mut JournalWriter, batch: Vec<Entry>) -> Result<Vec<Acknowledged>> {
    let mut answers = Vec::new();
    let mut settled: BTreeMap<u32, Vec<&Record>> = BTreeMap::new();
    for entry in &batch {
        match entry {
            Entry::TaskResponse { record, .. } => answers.push(record),
            Entry::Settled { records, .. } => answers.extend(records),
            Entry::Assets { part, record, .. } => settled.entry(*part).or_default().push(record),
        }
    }
    for (part, records) in settled {
        writer.append_to(part, records)?;
    }
    let filled = if answers.is_empty() { 0 } else { writer.append(answers)? };
    let acknowledged = batch.into_iter().map(|entry| match entry {
        Entry::TaskResponse { task, status, wanted, .. } => {
            Acknowledged::TaskResponse { task, status, part: filled, wanted }
        }
        Entry::Assets { task, part, .. } => Acknowledged::Assets { task, part },
        Entry::Settled { task, .. } => Acknowledged::Settled { task, part: filled },
    });
    Ok(acknowledged.collect())
}
