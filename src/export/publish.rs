//! From a closed journal segment to the archive: a function of the segment alone. The same segment
//! gives the same files under the same names, so that publishing it again after a crash is harmless,
//! and recovery is nothing but publishing what is still there.

use std::{fs, path::Path, sync::Arc};

use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};

use super::Tell;
use crate::{
    archive::{self, Archive, FileSink, PartName, RunFile, Store},
    error::{Error, Result},
    event::{Event, Published},
    journal::{self, ClosedSegment, Record, Segment},
    run_id::RunId,
    tables::{self, CLIPS, LYRICS, PartEncoder, Rows, Stamp, TASKS, Table, TableFormat},
};

/// Full segments that may wait for their publication before the journal, and with it the run, waits too.
const WAITING: usize = 2;

/// The coordinator's end of the stage.
pub(super) struct PublishStage {
    /// Tells what is in place; ends when the stage does.
    pub(super) published: mpsc::UnboundedReceiver<Published>,
    /// What ended it.
    pub(super) ended: JoinHandle<Result<()>>,
}

impl PublishStage {
    /// Starts the stage, and gives the sender that it takes closed segments from until it is dropped.
    pub(super) fn start(archive: Arc<Archive>) -> (mpsc::Sender<ClosedSegment>, Self) {
        let (segments, mut incoming) = mpsc::channel(WAITING);
        let (tell, published) = mpsc::unbounded_channel();
        let ended = tokio::spawn(async move {
            while let Some(segment) = incoming.recv().await {
                let _ = tell.send(publish(&archive, segment).await?.published);
            }
            Ok(())
        });
        (segments, Self { published, ended })
    }
}

/// Publishes what earlier runs left in the journal. The archive must be held.
pub(crate) async fn recover(archive: &Archive, tell: Tell<'_>) -> Result<()> {
    for segment in journal::segments(&archive.journal_folder())? {
        let Publication { run_id, published, damaged } = publish(archive, segment).await?;
        let tasks = published.rows.get(TASKS.name).copied().unwrap_or(0);
        tell(Event::Recovered { run_id, tasks, damaged });
    }
    Ok(())
}

struct Publication {
    run_id: RunId,
    published: Published,
    damaged: u64,
}

/// Raw bodies first, then lyrics, clips and tasks, then the manifest; the segment goes when all stand.
async fn publish(archive: &Archive, closed: ClosedSegment) -> Result<Publication> {
    let segment = Segment::open(&closed)?;
    let run_id = segment.run_id.clone();
    let store = &archive.store;
    let encoder = SegmentEncoder::new(store, archive.format, &run_id, segment.part);
    let encoded = tokio::task::spawn_blocking(move || encoder.encode(segment)).await;
    let encoded = encoded.map_err(|panic| Error::storage("publish", store.display(""), &panic))??;

    if !encoded.raw.is_empty() {
        archive::add_lines(store, &RunFile::Raw.path(&run_id), &encoded.raw).await?;
    }
    let mut files = Vec::new();
    for part in encoded.parts {
        files.push(part.publish().await?);
    }
    if !files.is_empty() {
        archive::add_to_manifest(store, &run_id, &files).await?;
    }
    if encoded.damaged > 0 {
        set_aside(&closed.0, &archive.damaged_folder())?;
    } else {
        closed.remove()?;
    }
    Ok(Publication { run_id, published: encoded.published, damaged: encoded.damaged })
}

/// Moves a segment with damaged records where nobody publishes it again and everybody can look at it.
fn set_aside(segment: &Path, folder: &Path) -> Result<()> {
    let moved = fs::create_dir_all(folder)
        .and_then(|()| fs::rename(segment, folder.join(segment.file_name().unwrap_or_default())));
    moved.map_err(|error| Error::io("move", segment, &error))
}

/// A segment's parts, written and not yet in place, in the order in which they are to be.
struct Encoded {
    parts: Vec<FileSink>,
    raw: Vec<String>,
    published: Published,
    damaged: u64,
}

struct SegmentEncoder {
    run_id: RunId,
    tasks: Part<tables::TaskRow>,
    clips: Part<tables::ClipRow>,
    lyrics: Part<tables::LyricsRow>,
    raw: Vec<String>,
    published: Published,
}

impl SegmentEncoder {
    fn new(store: &Store, format: TableFormat, run_id: &RunId, part: u32) -> Self {
        let name = PartName { run_id, part, format };
        Self {
            run_id: run_id.clone(),
            tasks: Part::new(&TASKS, store, &name),
            clips: Part::new(&CLIPS, store, &name),
            lyrics: Part::new(&LYRICS, store, &name),
            raw: Vec::new(),
            published: Published::default(),
        }
    }

    fn encode(mut self, mut segment: Segment) -> Result<Encoded> {
        while let Some(record) = segment.next()? {
            self.add(record)?;
        }
        let Self { tasks, clips, lyrics, raw, mut published, .. } = self;
        let mut parts = Vec::new();
        for (table, finished) in
            [(LYRICS.name, lyrics.finish()?), (CLIPS.name, clips.finish()?), (TASKS.name, tasks.finish()?)]
        {
            if let Some((sink, rows)) = finished {
                published.rows.insert(table, rows);
                parts.push(sink);
            }
        }
        Ok(Encoded { parts, raw, published, damaged: segment.damaged })
    }

    fn add(&mut self, record: Record) -> Result<()> {
        let run_id = self.run_id.clone();
        match record {
            Record::Segment { .. } => Ok(()),
            Record::Task { task_id, fetched_at, data, sent, .. } => {
                if let Some(body) = &sent {
                    self.raw.push(raw_line(&task_id, "lone surrogates", body));
                }
                self.push(&tables::flatten(&Stamp { task_id, fetched_at, run_id }, &data))
            }
            Record::NotFound { task_id, fetched_at, message } => {
                self.push(&tables::not_found(&Stamp { task_id, fetched_at, run_id }, message))
            }
            Record::Unreadable { task_id, body } => {
                self.raw.push(raw_line(&task_id, "unreadable", &body));
                Ok(())
            }
        }
    }

    fn push(&mut self, rows: &Rows) -> Result<()> {
        self.count(rows);
        self.tasks.push(&rows.task)?;
        for clip in &rows.clips {
            self.clips.push(clip)?;
        }
        rows.lyrics.iter().try_for_each(|lyrics| self.lyrics.push(lyrics))
    }

    fn count(&mut self, rows: &Rows) {
        let task = &rows.task;
        *self.published.by_status.entry(task.status.clone()).or_default() += 1;
        if let Some(kind) = &task.r#type {
            *self.published.by_type.entry(kind.clone()).or_default() += 1;
        }
        if task.status == "success" {
            self.published.credits_cost += task.credits_cost.unwrap_or(0.0);
        }
    }
}

fn raw_line(task_id: &str, reason: &str, body: &str) -> String {
    #[derive(Serialize)]
    struct Raw<'a> {
        task_id: &'a str,
        reason: &'a str,
        body: &'a str,
    }
    serde_json::to_string(&Raw { task_id, reason, body }).expect("texts are JSON")
}

/// A part that begins with its first row: a table without rows gets none.
struct Part<R: 'static> {
    table: &'static Table<R>,
    format: TableFormat,
    path: String,
    store: Store,
    encoder: Option<PartEncoder<R, FileSink>>,
}

impl<R> Part<R> {
    fn new(table: &'static Table<R>, store: &Store, name: &PartName<'_>) -> Self {
        Self { table, format: name.format, path: name.path(table.name), store: store.clone(), encoder: None }
    }

    fn push(&mut self, row: &R) -> Result<()> {
        let encoder = match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            None => PartEncoder::new(self.table, self.format, self.store.sink(&self.path))
                .map(|encoder| self.encoder.insert(encoder)),
        };
        encoder.and_then(|encoder| encoder.push(row)).map_err(|error| self.store.failed("write", &self.path, &error))
    }

    /// What was written, if anything: the sink, and how many rows.
    fn finish(self) -> Result<Option<(FileSink, u64)>> {
        let finished = self.encoder.map(PartEncoder::finish).transpose();
        finished.map_err(|error| self.store.failed("write", &self.path, &error))
    }
}
