//! Publishes closed journal segments to the archive. The output depends only on the segment: the same segment always
//! produces the same files with the same names. Publishing a segment again after a crash is therefore harmless.
//! Recovery publishes leftover segments in the same way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    raw::RawBodies,
    replace::{self, ReplacedTasks},
};
use crate::{
    archive::{FileSink, LockedArchive, PartName, RunFile, StoredFile, VIEWS},
    asset::{Asset, AssetStatus},
    blocking::blocking,
    error::Result,
    event::{Published, RowCounts},
    journal::{ClosedSegment, Record, SegmentReader},
    run_id::RunId,
    run_summary::RunCommand,
    status::FinalStatus,
    tables::{
        self, ASSETS, AssetRow, CLIPS, ClipRow, FetchInfo, LYRICS, LyricsRow, PartEncoder, RowGroups, Rows, TASKS,
        Table, TaskRow,
    },
};

/// The maximum number of closed segments that are queued for publication. If the queue is full, the journal stage
/// blocks until a segment is published.
const MAX_QUEUED_SEGMENTS: usize = 2;

/// The coordinator's handle to the publish stage.
pub(super) struct PublishStage {
    /// Receives the result of each publication until the stage ends.
    pub(super) published: mpsc::UnboundedReceiver<Published>,
    /// The result of the stage.
    pub(super) handle: JoinHandle<Result<()>>,
}

impl PublishStage {
    /// Starts the publish stage, and returns it with the sender for closed segments. Dropping the sender ends the
    /// stage.
    pub(super) fn start(archive: Arc<LockedArchive>) -> (mpsc::Sender<ClosedSegment>, Self) {
        let (segments, mut incoming) = mpsc::channel(MAX_QUEUED_SEGMENTS);
        let (emit, published) = mpsc::unbounded_channel();
        // A single thread publishes all segments, because the allocator retains the freed memory of each thread that
        // encodes a part.
        let handle = tokio::task::spawn_blocking(move || {
            while let Some(segment) = incoming.blocking_recv() {
                let publication = publish_segment(&archive, segment)?;
                let _ = emit.send(publication.published.clone());
                publication.release(&archive)?;
            }
            Ok(())
        });
        (segments, Self { published, handle })
    }
}

/// Rewrites `views.sql` if the SQL of the DuckDB views has changed. Performs blocking I/O.
pub(crate) fn write_views(archive: &LockedArchive) -> Result<()> {
    let mut with_parts = Vec::new();
    for table in tables::TABLES {
        if !archive.parts(table)?.is_empty() {
            with_parts.push(table);
        }
    }
    let sql = tables::views_sql(archive.format, |table| with_parts.contains(&table));
    match archive.store.get(VIEWS)? {
        Some(written) if written == sql.as_bytes() => Ok(()),
        _ => archive.put(VIEWS, sql),
    }
}

/// A segment that is published but still in the journal.
pub(super) struct Publication {
    pub(super) run_id: RunId,
    pub(super) published: Published,
    /// The number of records in the segment that could not be read.
    pub(super) damaged: u64,
    /// The command that started the run.
    pub(super) command: RunCommand,
    segment: ClosedSegment,
}

impl Publication {
    /// Removes the segment from the journal, or quarantines it if some of its records could not be read.
    pub(super) fn release(self, archive: &LockedArchive) -> Result<()> {
        if self.damaged > 0 { archive.quarantine_segment(&self.segment.path) } else { self.segment.remove() }
    }
}

/// Publishes the files of a segment in this order: raw bodies, the parts of the lyrics, clips, assets and tasks tables,
/// and the manifest.
pub(super) async fn publish(archive: &Arc<LockedArchive>, closed: ClosedSegment) -> Result<Publication> {
    let archive = archive.clone();
    blocking(move || publish_segment(&archive, closed)).await
}

fn publish_segment(archive: &Arc<LockedArchive>, closed: ClosedSegment) -> Result<Publication> {
    let segment = SegmentReader::open(&closed.path)?;
    let (run_id, command) = (segment.run_id.clone(), segment.command);
    let encoded = SegmentEncoder::new(archive, &segment, &closed).encode(segment)?;
    if let Some(raw) = encoded.raw {
        archive.publish_with_checksum(raw)?;
    }
    replace::remove_rows(archive, encoded.replaced, &encoded.paths)?;
    let mut files = encoded.media;
    for part in encoded.parts {
        files.push(part.publish()?);
    }
    if !files.is_empty() {
        archive.add_to_manifest(&RunFile::Manifest.path(&run_id), &files)?;
        write_views(archive)?;
    }
    Ok(Publication { run_id, published: encoded.published, damaged: encoded.damaged, command, segment: closed })
}

/// The files of a segment in the order of publication. Each file is complete, but not published yet.
struct EncodedSegment {
    raw: Option<FileSink>,
    parts: Vec<FileSink>,
    /// The final paths of the parts.
    paths: Vec<String>,
    /// Tasks whose new rows replace existing rows.
    replaced: ReplacedTasks,
    /// The media files that the segment's rows refer to.
    media: Vec<StoredFile>,
    published: Published,
    damaged: u64,
}

/// Encodes a segment's records into parts. Performs blocking I/O.
struct SegmentEncoder {
    run_id: RunId,
    tasks: Part<TaskRow>,
    clips: Part<ClipRow>,
    lyrics: Part<LyricsRow>,
    assets: Part<AssetRow>,
    raw: RawBodies,
    media: BTreeMap<String, String>,
    published: Published,
    /// Tasks that are not published from this segment, because they were moved to another segment or are already
    /// archived.
    excluded: HashSet<String>,
    /// For each task, the number of asset outcomes to skip because a later outcome replaces them.
    superseded_outcomes: HashMap<String, u32>,
    /// Tasks whose asset records have not been read yet.
    pending_assets: HashSet<String>,
    replaced: ReplacedTasks,
}

impl SegmentEncoder {
    fn new(archive: &Arc<LockedArchive>, segment: &SegmentReader, closed: &ClosedSegment) -> Self {
        let name = PartName { run_id: &segment.run_id, part: segment.part, format: archive.format };
        Self {
            run_id: segment.run_id.clone(),
            tasks: Part::new(&TASKS, archive, &name),
            clips: Part::new(&CLIPS, archive, &name),
            lyrics: Part::new(&LYRICS, archive, &name),
            assets: Part::new(&ASSETS, archive, &name),
            raw: RawBodies::new(archive, &segment.run_id),
            media: BTreeMap::new(),
            published: Published { part: segment.part, ..Published::default() },
            excluded: closed.excluded.clone(),
            superseded_outcomes: closed.superseded_outcomes.clone(),
            pending_assets: HashSet::new(),
            replaced: ReplacedTasks::default(),
        }
    }

    fn encode(mut self, mut segment: SegmentReader) -> Result<EncodedSegment> {
        while let Some(record) = segment.next_record()? {
            self.add(record)?;
        }
        let Self { tasks, clips, lyrics, assets, raw, media, mut published, replaced, .. } = self;
        let paths = [lyrics.path.clone(), clips.path.clone(), assets.path.clone(), tasks.path.clone()].into();
        let (lyrics, clips, assets, tasks) = (lyrics.finish()?, clips.finish()?, assets.finish()?, tasks.finish()?);
        let rows = |part: &Option<(FileSink, u64)>| part.as_ref().map_or(0, |(_, rows)| *rows);
        published.rows =
            RowCounts { tasks: rows(&tasks), clips: rows(&clips), lyrics: rows(&lyrics), assets: rows(&assets) };
        let parts = [lyrics, clips, assets, tasks].into_iter().flatten().map(|(sink, _)| sink).collect();
        let media = media.into_iter().map(|(path, sha256)| StoredFile { path, sha256 }).collect();
        Ok(EncodedSegment { raw: raw.finish(), parts, paths, replaced, media, published, damaged: segment.damaged })
    }

    fn add(&mut self, record: Record) -> Result<()> {
        let run_id = self.run_id.clone();
        match record {
            Record::Task { task_id, .. } if self.excluded.contains(&task_id) => Ok(()),
            Record::Task { task_id, status, fetched_at, data, original_body, assets, replaces } => {
                self.record_replaced(&task_id, replaces);
                if let Some(body) = &original_body {
                    self.raw.add(&task_id, "lone surrogates", body)?;
                }
                if !assets.is_empty() {
                    self.pending_assets.insert(task_id.clone());
                }
                self.push(&tables::flatten(
                    &FetchInfo { task_id, status, fetched_at: fetched_at.into(), run_id },
                    &data,
                ))
            }
            Record::NotFound { task_id, .. } if self.excluded.contains(&task_id) => Ok(()),
            Record::NotFound { task_id, fetched_at, message, replaces, remaining_clips } => {
                match remaining_clips {
                    None => self.record_replaced(&task_id, replaces),
                    Some(_) => drop(self.replaced.tasks_only.insert(task_id.clone())),
                }
                let info = FetchInfo { task_id, status: FinalStatus::NotFound, fetched_at: fetched_at.into(), run_id };
                self.push(&tables::not_found_row(&info, message, remaining_clips.unwrap_or_default()))
            }
            Record::AddedAssets { task_id, .. } if self.excluded.contains(&task_id) => Ok(()),
            Record::AddedAssets { task_id, assets } => {
                assets.into_iter().try_for_each(|asset| self.push_asset(task_id.clone(), asset))
            }
            Record::Unreadable { task_id, body } => self.raw.add(&task_id, "unreadable", &body),
            Record::Assets { task_id, .. } if self.is_superseded(&task_id) => Ok(()),
            // The assets of a task are ignored if its task record is damaged.
            Record::Assets { task_id, assets } if self.pending_assets.remove(&task_id) => {
                assets.into_iter().try_for_each(|asset| self.push_asset(task_id.clone(), asset))
            }
            Record::Assets { .. } | Record::Segment { .. } | Record::Moved { .. } => Ok(()),
        }
    }

    /// Whether a later outcome of the task's assets replaces the current outcome. Must be called once per outcome.
    fn is_superseded(&mut self, task_id: &str) -> bool {
        let remaining = self.superseded_outcomes.get_mut(task_id).filter(|remaining| **remaining > 0);
        remaining.map(|remaining| *remaining -= 1).is_some()
    }

    fn record_replaced(&mut self, task_id: &str, replaces: bool) {
        if replaces {
            self.replaced.all_tables.insert(task_id.to_owned());
        }
    }

    fn push_asset(&mut self, task_id: String, asset: Asset) -> Result<()> {
        let counts = &mut self.published.assets;
        match asset.status {
            AssetStatus::Ok => counts.ok += 1,
            AssetStatus::Skipped => counts.skipped += 1,
            AssetStatus::Failed => {
                counts.failed += 1;
                *counts.reasons.entry(asset.error.clone().unwrap_or_default()).or_default() += 1;
            }
        }
        let (bytes, mut used_bytes) = (asset.bytes.unwrap_or_default(), 0);
        if let (Some(path), Some(sha256)) = (&asset.path, &asset.sha256)
            && self.media.insert(path.clone(), sha256.clone()).is_none()
        {
            counts.bytes += bytes;
            used_bytes = bytes;
        }
        counts.discarded_bytes += asset.received.saturating_sub(used_bytes);
        self.assets.push(&AssetRow::new(task_id, self.run_id.clone(), asset))
    }

    fn push(&mut self, rows: &Rows) -> Result<()> {
        self.count_rows(rows);
        self.tasks.push(&rows.task)?;
        for clip in &rows.clips {
            self.clips.push(clip)?;
        }
        rows.lyrics.iter().try_for_each(|lyrics| self.lyrics.push(lyrics))
    }

    fn count_rows(&mut self, rows: &Rows) {
        let task = &rows.task;
        *self.published.by_status.entry(task.status).or_default() += 1;
        if let Some(kind) = &task.r#type {
            *self.published.by_type.entry(kind.clone()).or_default() += 1;
        }
        if task.status == FinalStatus::Success {
            self.published.credits_cost += task.credits_cost.unwrap_or(0.0);
        }
    }
}

/// A part whose file is created when its first row is added. If no row is added, no file is created.
struct Part<R: 'static> {
    table: &'static Table<R>,
    path: String,
    archive: Arc<LockedArchive>,
    encoder: Option<PartEncoder<R, FileSink>>,
}

impl<R> Part<R> {
    fn new(table: &'static Table<R>, archive: &Arc<LockedArchive>, name: &PartName<'_>) -> Self {
        Self { table, path: name.path(table.name), archive: archive.clone(), encoder: None }
    }

    fn push(&mut self, row: &R) -> Result<()> {
        let encoder = match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            None => {
                let sink = self.archive.sink(&self.path)?;
                PartEncoder::new(self.table, self.archive.format, RowGroups::Small, sink)
                    .map(|encoder| self.encoder.insert(encoder))
            }
        };
        let pushed = encoder.and_then(|encoder| encoder.push(row));
        pushed.map_err(|error| self.archive.store.storage_error("write", &self.path, &error))
    }

    /// Returns the sink and the number of rows, or `None` if no row was added.
    fn finish(self) -> Result<Option<(FileSink, u64)>> {
        let finished = self.encoder.map(PartEncoder::finish).transpose();
        finished.map_err(|error| self.archive.store.storage_error("write", &self.path, &error))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads and writes files")]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;
    use crate::{
        archive::failing::{FailingBackend, FaultBudget},
        asset::AssetKind,
        journal::{self, JournalWriter, SegmentLimits},
    };

    fn record(task_id: &str, data: &str) -> Record {
        let fetched_at = "2026-01-02T03:04:05Z".parse().unwrap();
        let assets = if task_id == "song" { vec![AssetKind::Image] } else { Vec::new() };
        let original_body = data.contains("repaired").then(|| format!("{data} as sent"));
        let status = FinalStatus::Success;
        Record::Task {
            task_id: task_id.into(),
            status,
            fetched_at,
            data: data.into(),
            original_body,
            assets,
            replaces: false,
        }
    }

    /// Creates an archive with one unpublished segment in its journal.
    fn archive_with_segment() -> (tempfile::TempDir, LockedArchive) {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let archive = LockedArchive::open_or_create(&folder.path().into(), None, &tables::TABLES, now).unwrap();
        let run_id = RunId::parse("20260102T030405000Z-abcdef").unwrap();
        let mut writer =
            JournalWriter::new(&archive.journal_folder(), run_id, RunCommand::Export, SegmentLimits::default());
        let cover = Asset {
            path: Some("media/image/ca/a.png".into()),
            sha256: Some("00".into()),
            bytes: Some(7),
            ..Asset::new(Some("a".into()), AssetKind::Image, None, AssetStatus::Ok)
        };
        let records = [
            record("song", r#"{"type":"music","output":{"result":[{"id":"a"},{"id":"b"}]}}"#),
            Record::Assets { task_id: "song".into(), assets: vec![cover] },
            Record::Assets { task_id: "damaged".into(), assets: Vec::new() },
            record("words", r#"{"type":"lyrics","output":{"result":{"title":"repaired"}}}"#),
            Record::Unreadable { task_id: "odd".into(), body: "[]".into() },
        ];
        writer.append(&records).unwrap();
        (folder, archive)
    }

    fn publish_all(archive: &Arc<LockedArchive>) -> Result<()> {
        for leftover in journal::leftovers(&archive.journal_folder())? {
            publish_segment(archive, leftover.segment)?.release(archive)?;
        }
        Ok(())
    }

    /// Reads the files in an archive's table folders and in `runs/`.
    fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for name in ["tasks", "clips", "lyrics", "assets", "runs"] {
            for entry in fs::read_dir(folder.join(name)).into_iter().flatten().flatten() {
                found.insert(format!("{name}/{}", entry.file_name().display()), fs::read(entry.path()).unwrap());
            }
        }
        found
    }

    #[test]
    fn publishing_after_a_crash_at_any_step_yields_the_same_files() {
        let (undisturbed, archive) = archive_with_segment();
        publish_all(&Arc::new(archive)).unwrap();
        let expected = contents(undisturbed.path());
        assert_eq!(expected.len(), 6, "{:?}", expected.keys());

        let mut crashes = 0;
        for changes in 0.. {
            let (folder, mut archive) = archive_with_segment();
            let budget = FaultBudget::new(changes);
            let wrap = |backend| Arc::new(FailingBackend { backend, budget: budget.clone(), can_exchange: true }) as _;
            archive.inner.store = archive.inner.store.wrap_backends(wrap);
            let archive = Arc::new(archive);
            let succeeded = publish_all(&archive).is_ok();
            let remaining = contents(folder.path());
            // A row in the tasks table exists only if the task's rows in the clips, lyrics and assets tables exist.
            let has = |table: &str| remaining.keys().any(|path| path.starts_with(table));
            assert!(
                !has("tasks/") || (has("clips/") && has("lyrics/") && has("assets/") && has("runs/")),
                "{:?}",
                remaining.keys()
            );
            drop(archive);
            let now = "2026-01-02T03:04:06Z".parse().unwrap();
            let archive = LockedArchive::open_or_create(&folder.path().into(), None, &tables::TABLES, now).unwrap();
            publish_all(&Arc::new(archive)).unwrap();
            assert_eq!(contents(folder.path()), expected, "the run crashed after {changes} changes");
            if succeeded {
                break;
            }
            crashes += 1;
        }
        // The test publishes eight files, and each file requires two changes: creation and publication.
        assert_eq!(crashes, 16);
    }
}
