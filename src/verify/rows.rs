//! Checks the tables. Every part must be listed in a manifest, have the recorded SHA-256 and be readable, and the rows
//! of different tables must be consistent.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use super::{
    depth::Depth,
    finding::{AffectedTasks, Finding, FindingKind, Findings, Subject, count_of},
    manifests::{self, Parts},
    media_set::{MediaRow, MediaSet},
    progress::CheckProgress,
    snapshot::Snapshot,
    task_set::{self, RowKind, TaskSet},
};
use crate::{
    archive::Archive,
    asset::AssetKind,
    checksum,
    error::Result,
    event::RowCounts,
    ranged::RangedFile,
    tables::{self, ASSETS, CLIPS, ColumnDiff, LYRICS, TASKS, TableSchema},
};

/// The columns that identify an asset and describe its file.
pub(super) const ASSET_COLUMNS: [&str; 7] = ["task_id", "clip_id", "kind", "status", "path", "bytes", "sha256"];

/// The maximum number of inconsistent tasks whose IDs are looked up for findings.
const MAX_LOOKUPS: usize = 100_000;

/// The result of checking the tables.
pub(super) struct TableCheck {
    pub(super) findings: Findings,
    pub(super) snapshot: Snapshot,
    pub(super) media: MediaSet,
    pub(super) rows: RowCounts,
    pub(super) parts: u64,
    /// The paths of damaged parts. Media files are compared with the manifests, but not with the rows of damaged parts.
    pub(super) damaged_parts: HashSet<String>,
    /// Whether a part was removed during the check, for example because another process was compacting the archive.
    pub(super) part_vanished: bool,
}

/// The state of a check of the tables.
struct TableScan<'a, 't> {
    archive: &'a Archive,
    depth: Depth,
    /// Whether a newer version of the program may have added columns to the tables.
    is_newer: bool,
    progress: &'a mut CheckProgress<'t>,
    manifest_checksums: Parts,
    tasks: TaskSet,
    findings: Findings,
    snapshot: Snapshot,
    media: MediaSet,
    rows: RowCounts,
    parts: u64,
    damaged_parts: HashSet<String>,
    part_vanished: bool,
}

/// Checks all tables of an archive.
pub(super) fn check_tables(
    archive: &Archive,
    depth: Depth,
    limit: usize,
    is_newer: bool,
    progress: &mut CheckProgress<'_>,
) -> Result<TableCheck> {
    let mut findings = Findings::new(limit, depth);
    let mut snapshot = Snapshot::capture(archive, &mut findings)?;
    // The journal is read before the manifests, because a run lists the parts of a segment in its manifest before it
    // removes the segment from the journal.
    snapshot.add_pending(archive)?;
    // Damaged manifests are reported later, when the manifests are read again for the media files.
    let manifest_checksums = manifests::read_part_checksums(archive, &mut Findings::new(0, depth))?;
    let mut scan = TableScan {
        archive,
        depth,
        is_newer,
        progress,
        manifest_checksums,
        tasks: TaskSet::default(),
        findings,
        snapshot,
        media: MediaSet::default(),
        rows: RowCounts::default(),
        parts: 0,
        damaged_parts: HashSet::new(),
        part_vanished: false,
    };
    scan.check()?;
    let TableScan { findings, snapshot, media, rows, parts, damaged_parts, part_vanished, .. } = scan;
    Ok(TableCheck { findings, snapshot, media, rows, parts, damaged_parts, part_vanished })
}

impl TableScan<'_, '_> {
    fn check(&mut self) -> Result<()> {
        self.progress
            .start_phase("parts", tables::TABLES.iter().map(|table| self.snapshot.parts(table).len() as u64).sum());
        self.report_missing_parts()?;
        self.check_parts(&TASKS.schema(), &mut Self::scan_tasks_part)?;
        let duplicates = self.tasks.finish();
        self.check_parts(&CLIPS.schema(), &mut |scan, path| scan.count_rows(path, CLIPS.name, RowKind::Clip))?;
        self.check_parts(&LYRICS.schema(), &mut |scan, path| scan.count_rows(path, LYRICS.name, RowKind::Lyrics))?;
        self.check_parts(&ASSETS.schema(), &mut Self::scan_assets_part)?;
        self.report_duplicate_tasks(&duplicates)?;
        self.report_tasks(
            &self.tasks.with_wrong_clip_count(),
            FindingKind::ClipCountMismatch,
            "whose number of clips does not match `clip_count`",
        )?;
        self.report_tasks(
            &self.tasks.with_duplicate_rows(),
            FindingKind::DuplicateRows,
            "with duplicate rows of lyrics or assets",
        )
    }

    /// Reports parts that are listed in a manifest but do not exist. A part that is not in the snapshot is looked up
    /// again, because it may have been added after the snapshot was taken.
    fn report_missing_parts(&mut self) -> Result<()> {
        for path in self.manifest_checksums.keys() {
            let Some(table) = manifests::table_for(path) else { continue };
            let seen = self.snapshot.parts(table).binary_search(path).is_ok();
            if !seen && self.part_size(path)?.is_none() {
                let subject = Subject::Part { table };
                self.findings.add(Finding::new(FindingKind::PartMissing, path, "is missing", subject));
            }
        }
        Ok(())
    }

    fn part_size(&self, path: &str) -> Result<Option<u64>> {
        self.archive.size(path).map_err(|error| self.archive.store.storage_error("read", path, &error))
    }

    /// Checks each part of a table: first the file, then the rows.
    fn check_parts(
        &mut self,
        schema: &TableSchema,
        rows: &mut dyn FnMut(&mut Self, &str) -> Result<io::Result<u64>>,
    ) -> Result<()> {
        for path in self.snapshot.parts(schema.name).to_owned() {
            let mut reason = self.check_part(schema, &path)?;
            if reason.is_some() {
                self.damaged_parts.insert(path.clone());
            }
            let counted = rows(self, &path)?;
            match counted {
                Ok(count) => self.add_count(schema.name, count),
                Err(error) => reason = reason.or(Some(unreadable(&error))),
            }
            if let Some(reason) = reason {
                let subject = Subject::Part { table: schema.name };
                self.findings.add(Finding::new(FindingKind::PartDamaged, &path, reason, subject));
            }
            self.parts += 1;
            self.progress.finish_file(&path);
        }
        Ok(())
    }

    fn add_count(&mut self, table: &str, rows: u64) {
        let count = match table {
            "tasks" => &mut self.rows.tasks,
            "clips" => &mut self.rows.clips,
            "lyrics" => &mut self.rows.lyrics,
            _ => &mut self.rows.assets,
        };
        *count += rows;
    }

    /// Checks the file of a part. Returns a description of the damage, if any.
    fn check_part(&mut self, schema: &TableSchema, path: &str) -> Result<Option<String>> {
        let listed = self.manifest_checksums.get(path).cloned().unwrap_or_default();
        if listed.is_empty() && !self.snapshot.is_pending(path) {
            let subject = Subject::Part { table: schema.name };
            self.findings.add(Finding::new(FindingKind::PartUnlisted, path, "is not listed in any manifest", subject));
        }
        let verify_contents = self.depth.selects(path);
        if verify_contents && let Some(reason) = self.check_checksum(path, &listed)? {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.check_columns(schema, path)? {
            return Ok(Some(reason));
        }
        if verify_contents { self.decode_values(schema, path) } else { Ok(None) }
    }

    /// Compares the SHA-256 of a part with the SHA-256 in the manifests.
    fn check_checksum(&mut self, path: &str, listed: &[String]) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        Ok(match self.archive.separate_damage(path, file.and_then(|mut file| checksum::digest(&mut file)))? {
            Ok(read) => {
                self.progress.add_bytes(read.bytes);
                let differs = listed.iter().any(|digest| *digest != read.sha256);
                differs.then(|| "is damaged: its SHA-256 does not match the manifest".into())
            }
            Err(error) => Some(unreadable(&error)),
        })
    }

    /// Compares the columns of a part with the columns of its table.
    fn check_columns(&mut self, schema: &TableSchema, path: &str) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let columns = file.and_then(|file| tables::compare_columns(file, self.archive.format, schema));
        let (kind, what) = match self.archive.separate_damage(path, columns)? {
            Ok(ColumnDiff::Same) => return Ok(None),
            Ok(ColumnDiff::Extra(_)) if self.is_newer => return Ok(None),
            Ok(ColumnDiff::Extra(more)) => {
                let columns = count_of(more as u64, "column");
                (FindingKind::PartColumnsDiffer, format!("has {columns} that its table does not have"))
            }
            Ok(ColumnDiff::Mismatch(text)) => {
                (FindingKind::PartColumnsDiffer, format!("does not have the columns of its table: {text}"))
            }
            Ok(ColumnDiff::Missing(missing_columns)) => {
                let columns = count_of(missing_columns as u64, "column");
                let what = format!("is missing {columns}; it was written by an older version of the program");
                (FindingKind::OlderColumns, what)
            }
            Err(error) => return Ok(Some(unreadable(&error))),
        };
        if kind == FindingKind::PartColumnsDiffer {
            self.damaged_parts.insert(path.to_owned());
        }
        self.findings.add(Finding::new(kind, path, what, Subject::Part { table: schema.name }));
        Ok(None)
    }

    /// Decodes every value of a part.
    fn decode_values(&mut self, schema: &TableSchema, path: &str) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let decoded = file.and_then(|file| tables::decode(file, self.archive.format, schema));
        Ok(self.archive.separate_damage(path, decoded)?.err().map(|error| unreadable(&error)))
    }

    /// Opens a part. If the part was removed after it was listed, sets `part_vanished` and returns `None`.
    fn open(&mut self, path: &str) -> Result<Option<io::Result<RangedFile>>> {
        match self.archive.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.part_vanished = true;
                Ok(None)
            }
            opened => self.archive.separate_damage(path, opened).map(Some),
        }
    }

    /// Calls `row` for each row of a part, up to the first row that cannot be read.
    fn scan(
        &mut self,
        path: &str,
        columns: &[&str],
        row: &mut dyn FnMut(&mut Self, &[Option<&str>]),
    ) -> Result<io::Result<u64>> {
        let Some(file) = self.open(path)? else { return Ok(Ok(0)) };
        let format = self.archive.format;
        let mut rows = 0;
        let scanned = file.and_then(|file| {
            tables::catch_panic(|| {
                tables::scan(file, format, columns, &mut |cells| {
                    rows += 1;
                    row(self, cells);
                })
            })
        });
        Ok(self.archive.separate_damage(path, scanned)?.map(|()| rows))
    }

    fn scan_tasks_part(&mut self, path: &str) -> Result<io::Result<u64>> {
        let other_rows_are_listed = self.snapshot.was_listed_before(path);
        self.scan(path, &["task_id", "clip_count"], &mut |scan, cells| {
            let [Some(task_id), clips] = cells else { return };
            let expected_clips = clips.and_then(|clips| clips.parse().ok()).filter(|_| other_rows_are_listed);
            scan.tasks.add(task_id, expected_clips.unwrap_or(task_set::UNKNOWN_CLIP_COUNT));
        })
    }

    /// Counts the rows of a part by task, and reports rows whose task does not exist.
    fn count_rows(&mut self, path: &str, table: &'static str, row: RowKind) -> Result<io::Result<u64>> {
        let mut orphans = AffectedTasks::new(self.findings.limit());
        let is_intact = !self.damaged_parts.contains(path);
        let scanned = self.scan(path, &["task_id"], &mut |scan, cells| {
            let task_id = cells.first().copied().flatten().unwrap_or_default();
            // Clip rows of a damaged part are counted, because their tasks would otherwise appear to lack clips. Lyrics
            // rows of a damaged part are not counted, because a damaged task ID could make another task appear to have
            // two lyrics rows.
            let counts = is_intact || row == RowKind::Clip;
            if !(if counts { scan.tasks.count(task_id, row) } else { scan.tasks.contains(task_id) }) {
                orphans.add(task_id);
            }
        })?;
        self.report_orphans(path, table, orphans);
        Ok(scanned)
    }

    fn scan_assets_part(&mut self, path: &str) -> Result<io::Result<u64>> {
        let is_intact = !self.damaged_parts.contains(path);
        let mut orphans = AffectedTasks::new(self.findings.limit());
        let scanned = self.scan(path, &ASSET_COLUMNS, &mut |scan, cells| {
            let task_id = cells.first().copied().flatten().unwrap_or_default();
            let kind = cells.get(2).copied().flatten().filter(|_| is_intact).and_then(AssetKind::parse);
            if !scan.tasks.count(task_id, RowKind::Asset(kind)) {
                orphans.add(task_id);
            }
            if is_intact {
                scan.check_asset_row(path, cells);
            }
        })?;
        self.report_orphans(path, ASSETS.name, orphans);
        Ok(scanned)
    }

    /// Records the size and checksum of an asset's file. Reports the row if it is incomplete or contradicts another
    /// row.
    fn check_asset_row(&mut self, part: &str, cells: &[Option<&str>]) {
        match MediaRow::from_cells(cells) {
            Some(Ok(row)) if !self.media.add(&row) => {
                let what = "has different sizes or checksums in two rows";
                self.findings.add(Finding::new(FindingKind::ConflictingAssetRows, row.path, what, row.subject()));
            }
            None | Some(Ok(_)) => {}
            Some(Err(what)) => {
                let [task_id, clip_id, kind, ..] = cells else { return };
                let kind = kind.and_then(AssetKind::parse);
                let subject = match (task_id, kind) {
                    (Some(task_id), Some(kind)) => {
                        Subject::Asset { task_id: (*task_id).to_owned(), clip_id: clip_id.map(str::to_owned), kind }
                    }
                    _ => Subject::Part { table: ASSETS.name },
                };
                self.findings.add(Finding::new(FindingKind::InvalidAssetRow, part, what, subject));
            }
        }
    }

    fn report_orphans(&mut self, path: &str, table: &'static str, orphans: AffectedTasks) {
        // The tasks of a pending part are still in the journal, so the rows of the part are not reported.
        if orphans.rows > 0 && !self.snapshot.is_pending(path) {
            let what =
                format!("has {} whose task is not in `tasks`: {}", count_of(orphans.rows, "row"), orphans.preview());
            self.report_rows(FindingKind::RowsWithoutTask, path, table, what, orphans);
        }
    }

    fn report_rows(&mut self, kind: FindingKind, path: &str, table: &'static str, what: String, tasks: AffectedTasks) {
        let subject = Subject::Rows { table, rows: tasks.rows, task_ids: tasks.task_ids };
        self.findings.add(Finding::new(kind, path, what, subject));
    }

    /// Reports tasks that have more than one row in `tasks`. Adds a finding for each part that contains a second or
    /// later row of a task.
    fn report_duplicate_tasks(&mut self, hashes: &[u64]) -> Result<()> {
        let limit = self.findings.limit();
        let mut first: HashMap<String, String> = HashMap::new();
        let mut duplicates: BTreeMap<String, (AffectedTasks, String)> = BTreeMap::new();
        self.look_up_tasks(hashes, &mut |path, task_id| match first.get(task_id) {
            Some(earlier) => {
                let entry =
                    duplicates.entry(path.to_owned()).or_insert_with(|| (AffectedTasks::new(limit), earlier.clone()));
                entry.0.add(task_id);
            }
            None => drop(first.insert(task_id.to_owned(), path.to_owned())),
        })?;
        for (path, (tasks, earlier)) in duplicates {
            let duplicates = if earlier == path {
                "with more than one row".into()
            } else {
                format!("that also {} a row in {earlier}", if tasks.rows == 1 { "has" } else { "have" })
            };
            let what = format!("has {} {duplicates}: {}", count_of(tasks.rows, "task"), tasks.preview());
            self.report_rows(FindingKind::DuplicateTask, &path, TASKS.name, what, tasks);
        }
        Ok(())
    }

    /// Looks up tasks by their hashes, and adds a finding for each part of `tasks` that contains their rows.
    fn report_tasks(&mut self, hashes: &[u64], kind: FindingKind, problem: &str) -> Result<()> {
        let limit = self.findings.limit();
        let mut mismatched: BTreeMap<String, AffectedTasks> = BTreeMap::new();
        self.look_up_tasks(hashes, &mut |path, task_id| {
            mismatched.entry(path.to_owned()).or_insert_with(|| AffectedTasks::new(limit)).add(task_id);
        })?;
        for (path, tasks) in mismatched {
            let what = format!("has {} {problem}: {}", count_of(tasks.rows, "task"), tasks.preview());
            self.report_rows(kind, &path, TASKS.name, what, tasks);
        }
        Ok(())
    }

    /// Calls `found` with the part and the task ID of every row in `tasks` whose task ID has one of the given hashes.
    fn look_up_tasks(&mut self, hashes: &[u64], found: &mut dyn FnMut(&str, &str)) -> Result<()> {
        let hashes = hashes.get(..MAX_LOOKUPS).unwrap_or(hashes).to_owned();
        if hashes.is_empty() {
            return Ok(());
        }
        for path in self.snapshot.tasks.clone() {
            // A part that cannot be read has already been reported.
            let _ = self.scan(&path, &["task_id"], &mut |scan, cells| {
                if let [Some(task_id)] = cells
                    && hashes.binary_search(&scan.tasks.hash(task_id)).is_ok()
                {
                    found(&path, task_id);
                }
            })?;
        }
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}
