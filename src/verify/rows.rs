//! Checks the tables. Every part must be in a manifest, have the recorded SHA-256 and be readable. The rows of
//! different tables must be consistent.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use super::{
    depth::Depth,
    finding::{Finding, Findings, Kind, Named, Subject},
    manifests::{self, Parts},
    media_set::{MediaRow, MediaSet},
    snapshot::Snapshot,
    tally::Tally,
    task_set::{self, Row, TaskSet},
};
use crate::{
    archive::Archive,
    asset::AssetKind,
    checksum,
    error::Result,
    event::RowCounts,
    ranged::RangedFile,
    tables::{self, ASSETS, CLIPS, Columns, LYRICS, Outline, TASKS},
};

/// The columns that identify an asset and describe its file.
pub(super) const ASSET_COLUMNS: [&str; 7] = ["task_id", "clip_id", "kind", "status", "path", "bytes", "sha256"];

/// The maximum number of tasks with repeated or miscounted rows whose IDs are looked up.
const MOST_LOOKED_UP: usize = 100_000;

/// The result of a pass over the tables.
pub(super) struct Seen {
    pub(super) findings: Findings,
    pub(super) snapshot: Snapshot,
    pub(super) media: MediaSet,
    pub(super) rows: RowCounts,
    pub(super) parts: u64,
    /// The paths of damaged parts. Media files are not compared with the rows of these parts, only with the
    /// manifests.
    pub(super) distrusted: HashSet<String>,
    /// Whether a part disappeared during the check, for example because another process is compacting the archive.
    pub(super) shifted: bool,
}

/// One pass over the tables.
struct Pass<'a, 't> {
    archive: &'a Archive,
    depth: Depth,
    /// Whether a newer version of the program may have added columns.
    is_newer: bool,
    tally: &'a mut Tally<'t>,
    listed: Parts,
    tasks: TaskSet,
    findings: Findings,
    snapshot: Snapshot,
    media: MediaSet,
    rows: RowCounts,
    parts: u64,
    distrusted: HashSet<String>,
    shifted: bool,
}

/// Checks all tables of an archive.
pub(super) fn look(
    archive: &Archive,
    depth: Depth,
    most: usize,
    is_newer: bool,
    tally: &mut Tally<'_>,
) -> Result<Seen> {
    let mut findings = Findings::new(most);
    let mut snapshot = Snapshot::take(archive, &mut findings)?;
    // A run lists a part in its manifest before it removes the segment from the journal. The journal is therefore
    // read before the manifests.
    snapshot.note_pending(archive)?;
    // Damaged manifests are reported later, when the manifests are read again for the media files.
    let listed = manifests::parts(archive, &mut Findings::new(0))?;
    let mut pass = Pass {
        archive,
        depth,
        is_newer,
        tally,
        listed,
        tasks: TaskSet::default(),
        findings,
        snapshot,
        media: MediaSet::default(),
        rows: RowCounts::default(),
        parts: 0,
        distrusted: HashSet::new(),
        shifted: false,
    };
    pass.check()?;
    let Pass { findings, snapshot, media, rows, parts, distrusted, shifted, .. } = pass;
    Ok(Seen { findings, snapshot, media, rows, parts, distrusted, shifted })
}

impl Pass<'_, '_> {
    fn check(&mut self) -> Result<()> {
        self.tally.expect("parts", tables::TABLES.iter().map(|table| self.snapshot.parts(table).len() as u64).sum());
        self.missing_parts()?;
        self.each_part(&TASKS.outline(), &mut Self::tasks_part)?;
        let repeated = self.tasks.finish();
        self.each_part(&CLIPS.outline(), &mut |pass, path| pass.rows_with_tasks(path, CLIPS.name, Row::Clip))?;
        self.each_part(&LYRICS.outline(), &mut |pass, path| pass.rows_with_tasks(path, LYRICS.name, Row::Lyrics))?;
        self.each_part(&ASSETS.outline(), &mut Self::assets_part)?;
        self.repeated_tasks(&repeated)?;
        self.note_tasks(&self.tasks.miscounted(), Kind::ClipCount, "a number of clips other than `clip_count`")?;
        self.note_tasks(&self.tasks.overcounted(), Kind::RowsRepeated, "duplicate rows of lyrics or assets")
    }

    /// Finds parts that a manifest lists but that do not exist. A part that is not in the snapshot is looked up
    /// again, because it may have been added later.
    fn missing_parts(&mut self) -> Result<()> {
        for path in self.listed.keys() {
            let Some(table) = manifests::table_of(path) else { continue };
            let seen = self.snapshot.parts(table).binary_search(path).is_ok();
            if !seen && self.size(path)?.is_none() {
                let about = Subject::Part { table };
                self.findings.add(Finding::new(Kind::PartMissing, path, "is missing", about));
            }
        }
        Ok(())
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        self.archive.size(path).map_err(|error| self.archive.store.failed("read", path, &error))
    }

    /// Checks the file of each part of a table, and then its rows.
    fn each_part(
        &mut self,
        outline: &Outline,
        rows: &mut dyn FnMut(&mut Self, &str) -> Result<io::Result<u64>>,
    ) -> Result<()> {
        for path in self.snapshot.parts(outline.name).to_owned() {
            let mut reason = self.part(outline, &path)?;
            if reason.is_some() {
                self.distrusted.insert(path.clone());
            }
            let counted = rows(self, &path)?;
            match counted {
                Ok(count) => self.count(outline.name, count),
                Err(error) => reason = reason.or(Some(unreadable(&error))),
            }
            if let Some(reason) = reason {
                let about = Subject::Part { table: outline.name };
                self.findings.add(Finding::new(Kind::PartDamaged, &path, reason, about));
            }
            self.parts += 1;
            self.tally.done(&path);
        }
        Ok(())
    }

    fn count(&mut self, table: &str, rows: u64) {
        let count = match table {
            "tasks" => &mut self.rows.tasks,
            "clips" => &mut self.rows.clips,
            "lyrics" => &mut self.rows.lyrics,
            _ => &mut self.rows.assets,
        };
        *count += rows;
    }

    /// Checks the file of a part. Returns a description of the damage, if any.
    fn part(&mut self, outline: &Outline, path: &str) -> Result<Option<String>> {
        let listed = self.listed.get(path).cloned().unwrap_or_default();
        if listed.is_empty() && !self.snapshot.is_pending(path) {
            let about = Subject::Part { table: outline.name };
            self.findings.add(Finding::new(Kind::PartUnlisted, path, "is not listed in any manifest", about));
        }
        let reads = self.depth.reads(path);
        if reads && let Some(reason) = self.bytes(path, &listed)? {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.columns(outline, path)? {
            return Ok(Some(reason));
        }
        if reads { self.values(outline, path) } else { Ok(None) }
    }

    /// Compares the SHA-256 of a part with the manifests.
    fn bytes(&mut self, path: &str, listed: &[String]) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        Ok(match file.and_then(|mut file| checksum::digest(&mut file)) {
            Ok(read) => {
                self.tally.read(read.bytes);
                let differs = listed.iter().any(|digest| *digest != read.sha256);
                differs.then(|| "is damaged: its SHA-256 does not match the manifest".into())
            }
            Err(error) => Some(unreadable(&error)),
        })
    }

    /// Compares the columns of a part with those of its table.
    fn columns(&mut self, outline: &Outline, path: &str) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let (kind, what) = match file.and_then(|file| tables::columns(file, self.archive.format, outline)) {
            Ok(Columns::Same) => return Ok(None),
            Ok(Columns::More(_)) if self.is_newer => return Ok(None),
            Ok(Columns::More(more)) => (Kind::PartColumns, format!("has columns that its table lacks ({more})")),
            Ok(Columns::Other(words)) => (Kind::PartColumns, format!("does not have the columns of its table: {words}")),
            Ok(Columns::Older(lacking)) => {
                (Kind::OlderColumns, format!("lacks columns of its table ({lacking}); an older version wrote it"))
            }
            Err(error) => return Ok(Some(unreadable(&error))),
        };
        if kind == Kind::PartColumns {
            self.distrusted.insert(path.to_owned());
        }
        self.findings.add(Finding::new(kind, path, what, Subject::Part { table: outline.name }));
        Ok(None)
    }

    /// Decodes every value of a part.
    fn values(&mut self, outline: &Outline, path: &str) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let decoded = file.and_then(|file| tables::decode(file, self.archive.format, outline));
        Ok(decoded.err().map(|error| unreadable(&error)))
    }

    /// Opens a part. If the part was removed after it was listed, sets `shifted` and returns `None`.
    fn open(&mut self, path: &str) -> Result<Option<io::Result<RangedFile>>> {
        match self.archive.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.shifted = true;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(self.archive.store.failed("read", path, &error))
            }
            opened => Ok(Some(opened)),
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
            tables::guarded(|| {
                tables::scan(file, format, columns, &mut |cells| {
                    rows += 1;
                    row(self, cells);
                })
            })
        });
        Ok(scanned.map(|()| rows))
    }

    fn tasks_part(&mut self, path: &str) -> Result<io::Result<u64>> {
        let settled = self.snapshot.is_settled(path);
        self.scan(path, &["task_id", "clip_count"], &mut |pass, cells| {
            let [Some(task_id), clips] = cells else { return };
            let due = clips.and_then(|clips| clips.parse().ok()).filter(|_| settled);
            pass.tasks.add(task_id, due.unwrap_or(task_set::ANY));
        })
    }

    /// Counts each row of a part for its task, and reports rows whose task does not exist.
    fn rows_with_tasks(&mut self, path: &str, table: &'static str, row: Row) -> Result<io::Result<u64>> {
        let mut orphans = Named::new(self.findings.most());
        let is_trusted = !self.distrusted.contains(path);
        let scanned = self.scan(path, &["task_id"], &mut |pass, cells| {
            let task_id = cells.first().copied().flatten().unwrap_or_default();
            // Clips of a damaged part are counted, because their tasks would otherwise appear to lack clips. Lyrics
            // of a damaged part are not counted, because a damaged task ID could make another task appear to have two
            // rows.
            let counts = is_trusted || row == Row::Clip;
            if !(if counts { pass.tasks.count(task_id, row) } else { pass.tasks.has(task_id) }) {
                orphans.add(task_id);
            }
        })?;
        self.note_orphans(path, table, orphans);
        Ok(scanned)
    }

    fn assets_part(&mut self, path: &str) -> Result<io::Result<u64>> {
        let is_trusted = !self.distrusted.contains(path);
        let mut orphans = Named::new(self.findings.most());
        let scanned = self.scan(path, &ASSET_COLUMNS, &mut |pass, cells| {
            let task_id = cells.first().copied().flatten().unwrap_or_default();
            let kind = cells.get(2).copied().flatten().filter(|_| is_trusted).and_then(AssetKind::parse);
            if !pass.tasks.count(task_id, Row::Asset(kind)) {
                orphans.add(task_id);
            }
            if is_trusted {
                pass.asset(path, cells);
            }
        })?;
        self.note_orphans(path, ASSETS.name, orphans);
        Ok(scanned)
    }

    /// Records the size and checksum of an asset's file. Reports an incomplete or contradictory row.
    fn asset(&mut self, part: &str, cells: &[Option<&str>]) {
        match MediaRow::of(cells) {
            Some(Ok(row)) if !self.media.add(&row) => {
                let what = "has different sizes or checksums in two rows";
                self.findings.add(Finding::new(Kind::AssetsDisagree, row.path, what, row.about()));
            }
            None | Some(Ok(_)) => {}
            Some(Err(what)) => {
                let [task_id, clip_id, kind, ..] = cells else { return };
                let kind = kind.and_then(AssetKind::parse);
                let about = match (task_id, kind) {
                    (Some(task_id), Some(kind)) => {
                        Subject::Asset { task_id: (*task_id).to_owned(), clip_id: clip_id.map(str::to_owned), kind }
                    }
                    _ => Subject::Part { table: ASSETS.name },
                };
                self.findings.add(Finding::new(Kind::AssetRow, part, what, about));
            }
        }
    }

    fn note_orphans(&mut self, path: &str, table: &'static str, orphans: Named) {
        // The tasks of a pending part are still in the journal, so its rows are not orphans.
        if orphans.rows > 0 && !self.snapshot.is_pending(path) {
            let what = format!("has rows without their task ({}): {}", orphans.rows, orphans.words());
            self.note_rows(Kind::RowsWithoutTask, path, table, what, orphans);
        }
    }

    fn note_rows(&mut self, kind: Kind, path: &str, table: &'static str, what: String, named: Named) {
        let about = Subject::Rows { table, rows: named.rows, task_ids: named.task_ids };
        self.findings.add(Finding::new(kind, path, what, about));
    }

    /// Reports tasks with more than one row. A finding is added for every part that contains a second or later row of
    /// a task.
    fn repeated_tasks(&mut self, hashes: &[u64]) -> Result<()> {
        let most = self.findings.most();
        let mut first: HashMap<String, String> = HashMap::new();
        let mut repeated: BTreeMap<String, (Named, String)> = BTreeMap::new();
        self.look_up(hashes, &mut |path, task_id| match first.get(task_id) {
            Some(before) => {
                let entry = repeated.entry(path.to_owned()).or_insert_with(|| (Named::new(most), before.clone()));
                entry.0.add(task_id);
            }
            None => drop(first.insert(task_id.to_owned(), path.to_owned())),
        })?;
        for (path, (named, before)) in repeated {
            let duplicates =
                if before == path { "more than one row".into() } else { format!("a row in {before} too") };
            let what = format!("has tasks with {duplicates} ({}): {}", named.rows, named.words());
            self.note_rows(Kind::TaskRepeated, &path, TASKS.name, what, named);
        }
        Ok(())
    }

    /// Looks up tasks by their hashes, and adds a finding for each part that contains rows of these tasks.
    fn note_tasks(&mut self, hashes: &[u64], kind: Kind, have: &str) -> Result<()> {
        let most = self.findings.most();
        let mut odd: BTreeMap<String, Named> = BTreeMap::new();
        self.look_up(hashes, &mut |path, task_id| {
            odd.entry(path.to_owned()).or_insert_with(|| Named::new(most)).add(task_id);
        })?;
        for (path, named) in odd {
            let what = format!("has tasks with {have} ({}): {}", named.rows, named.words());
            self.note_rows(kind, &path, TASKS.name, what, named);
        }
        Ok(())
    }

    /// Calls `found` with the part and the task ID of every row in `tasks` whose task has one of the given hashes.
    fn look_up(&mut self, hashes: &[u64], found: &mut dyn FnMut(&str, &str)) -> Result<()> {
        let hashes = hashes.get(..MOST_LOOKED_UP).unwrap_or(hashes).to_owned();
        if hashes.is_empty() {
            return Ok(());
        }
        for path in self.snapshot.tasks.clone() {
            // A part that cannot be read already has a finding.
            let _ = self.scan(&path, &["task_id"], &mut |pass, cells| {
                if let [Some(task_id)] = cells
                    && hashes.binary_search(&pass.tasks.hash(task_id)).is_ok()
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
