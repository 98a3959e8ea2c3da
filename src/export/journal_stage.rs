//! The stage that makes answers safe: records in, acknowledgements and full segments out. It runs on a
//! thread of its own, and syncs whatever has come together since the last sync at once.

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    error::Result,
    journal::{ClosedSegment, JournalWriter, Record},
    task::TaskIndex,
};

/// Records that may wait for a sync. More would only be more to ask again after a crash.
const WAITING: usize = 256;

/// A record on its way, and the task it is about.
pub(super) type Entry = (TaskIndex, Record);

/// The coordinator's end of the stage.
pub(super) struct JournalStage {
    /// Takes records; closed by dropping it.
    pub(super) records: mpsc::Sender<Entry>,
    /// Gives them back once they are on stable storage; ends when the stage does.
    pub(super) acknowledged: mpsc::UnboundedReceiver<Vec<Entry>>,
    /// What ended it.
    pub(super) ended: JoinHandle<Result<()>>,
}

impl JournalStage {
    /// Starts the stage; full segments, and the last one, go to `segments`.
    pub(super) fn start(mut writer: JournalWriter, segments: mpsc::Sender<ClosedSegment>) -> Self {
        let (records, mut incoming) = mpsc::channel::<Entry>(WAITING);
        let (acknowledge, acknowledged) = mpsc::unbounded_channel();
        let ended = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            while incoming.blocking_recv_many(&mut batch, WAITING) > 0 {
                let full = writer.append(batch.iter().map(|(_, record)| record))?;
                // Whoever no longer listens has ended the run; the segments are there for the next one.
                let _ = acknowledge.send(std::mem::take(&mut batch));
                if let Some(segment) = full {
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
