//! The stage that makes answers safe: records in, acknowledgements and full segments out. It runs on a
//! thread of its own, and syncs whatever has come together since the last sync at once.

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    error::Result,
    journal::{ClosedSegment, JournalWriter, Record},
    status::FinalStatus,
    task::TaskIndex,
};

/// Records that may wait for a sync; the coordinator never lets it come to that.
const MOST_WAITING: usize = 256;

/// A record on its way to the journal.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: TaskIndex,
    /// The final status, if the record is a final answer.
    pub(super) status: Option<FinalStatus>,
    pub(super) record: Record,
}

/// A record that is on stable storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) task: TaskIndex,
    pub(super) status: Option<FinalStatus>,
    /// The part that its segment becomes.
    pub(super) part: u32,
}

/// The coordinator's end of the stage.
pub(super) struct JournalStage {
    /// Takes records; closed by dropping it.
    pub(super) records: mpsc::Sender<Entry>,
    /// Acknowledges them; ends when the stage does.
    pub(super) acknowledged: mpsc::UnboundedReceiver<Acknowledged>,
    /// What ended it.
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
                let appended = writer.append(batch.iter().map(|entry| &entry.record))?;
                for Entry { task, status, .. } in batch.drain(..) {
                    // Whoever no longer listens has ended the run; the segments are there for the next one.
                    let _ = acknowledge.send(Acknowledged { task, status, part: appended.part });
                }
                if let Some(segment) = appended.full {
                    let _ = segments.blocking_send(segment);
                }
            }
            if let Some(segment) = writer.close() {
                let _ = segments.blocking_send(segment);
            }
            Ok(())
        });
        Self { records, acknowledged, ended }
    }
}
