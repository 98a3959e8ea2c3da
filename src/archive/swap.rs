//! Replaces parts of a table with new parts. The replacement is atomic if the backend can exchange folders.
//!
//! New parts are written to a local staging folder, and the parts to keep are hard-linked into the staging folder. The
//! staging folder is then exchanged with the table folder ([`Backend::exchange`](super::backend::Backend::exchange)). A
//! reader that lists the table sees either all old parts or all new parts. If a part no longer exists when the reader
//! opens it, the reader lists the table again. If the backend cannot exchange folders, the new parts are moved to the
//! table folder one at a time, and the old parts are removed afterwards. During a swap without an exchange of folders,
//! a reader can see duplicate rows but never misses a row.
//!
//! The plan of a swap is written before the first change that readers can see. After a crash, the next process that
//! opens the archive for writing recovers the swap: it completes the swap if readers can already see a change, and
//! undoes the swap otherwise. A manifest must list only files that exist. The manifest lines of the old parts are
//! therefore removed before the exchange, and the manifest lines of the new parts are added after the exchange.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    LockedArchive, StoredFile,
    layout::{PartName, RUNS, RunFile, STATE, SWAP, SWAP_PLAN},
    local,
    manifest::{self, ManifestLine},
    store::Store,
};
use crate::{
    checksum::Hasher,
    error::{Error, Result},
    filesystem,
    ranged::RangedFile,
    run_id::RunId,
};

/// A set of new parts that will replace existing parts of a table. The new parts are discarded if the swap is dropped
/// before [`Swap::commit`] is called. At most one swap per table can be in progress. All methods block.
pub(crate) struct Swap {
    archive: Arc<LockedArchive>,
    table: String,
    run_id: RunId,
    added: Vec<StoredFile>,
    part: u32,
    /// Whether the plan, which [`recover`] requires to complete or undo the swap, has been written.
    plan_written: bool,
}

/// A new part that is being written.
pub(crate) struct NewPart {
    path: String,
    staging_path: PathBuf,
    file: BufWriter<File>,
    hasher: Hasher,
}

/// A new part that is complete but not yet in the table folder.
pub(crate) struct StagedPart {
    staging_path: PathBuf,
    bytes: u64,
}

impl Swap {
    /// Begins a swap. The names of the new parts contain the given run ID.
    pub(crate) fn begin(archive: &Arc<LockedArchive>, table: &str, run_id: &RunId) -> Result<Self> {
        let store = &archive.store;
        if store.exists(SWAP_PLAN)? {
            // An earlier swap failed, and this process could not recover it.
            recover(store)?;
        }
        let staging = staging(store, table);
        remove_folder(&staging)?;
        local::create_folder(&staging).map_err(|error| Error::io("create", &staging, &error))?;
        store.copy_folder_attributes(table, &staging);
        let (table, run_id) = (table.to_owned(), run_id.clone());
        Ok(Self { archive: archive.clone(), table, run_id, added: Vec::new(), part: 0, plan_written: false })
    }

    /// Returns a function that creates empty scratch files on the same disk as the new parts. A scratch file is
    /// unlinked immediately, so that the operating system deletes it when it is closed. If the operating system cannot
    /// unlink an open file, the scratch file is removed when the archive is next opened for writing.
    pub(crate) fn scratch_files(&self) -> impl FnMut() -> io::Result<File> + use<> {
        let (folder, table, mut files) = (self.store().state_path(SWAP), self.table.clone(), 0);
        move || {
            files += 1;
            let path = folder.join(format!("{table}#{files}"));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            let _ = fs::remove_file(&path);
            Ok(file)
        }
    }

    /// Begins a new part with the next unused part number.
    pub(crate) fn begin_part(&mut self) -> Result<NewPart> {
        let path = loop {
            self.part += 1;
            let name = PartName { run_id: &self.run_id, part: self.part, format: self.archive.format };
            let path = name.path(&self.table);
            if !self.store().exists(&path)? {
                break path;
            }
        };
        let staging_path = staging(self.store(), &path);
        let file = File::create(&staging_path).map_err(|error| Error::io("write", &staging_path, &error))?;
        Ok(NewPart { path, staging_path, file: BufWriter::with_capacity(1 << 20, file), hasher: Hasher::default() })
    }

    /// Adds a new part to the swap and makes its contents durable. Before the commit, the part can be read through the
    /// returned [`StagedPart`].
    pub(crate) fn add(&mut self, part: NewPart) -> Result<StagedPart> {
        let NewPart { path, staging_path, file, hasher } = part;
        let synced =
            file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| filesystem::sync_file(&file));
        synced.map_err(|error| Error::io("write", &staging_path, &error))?;
        let digest = hasher.digest();
        self.added.push(StoredFile { path, sha256: digest.sha256 });
        Ok(StagedPart { staging_path, bytes: digest.bytes })
    }

    /// Replaces the parts at the paths in `removed` with the new parts. If a part in `removed` does not exist, only its
    /// manifest lines are removed. After an error, this function tries to recover the swap immediately. If the recovery
    /// also fails, the swap is completed or undone when the archive is next opened for writing.
    pub(crate) fn commit(mut self, removed: &[String]) -> Result<()> {
        let store = self.store().clone();
        let removed_paths: HashSet<&str> = removed.iter().map(String::as_str).collect();
        let lines = manifest::find_lines(&store, &|path| removed_paths.contains(path))?;
        let existing: HashSet<String> =
            store.files(&self.table, |entry| removed_paths.contains(entry.path.as_str()))?.into_iter().collect();
        let removed = removed.iter().filter(|path| existing.contains(*path)).cloned().collect();
        let added = std::mem::take(&mut self.added);
        let plan = Plan { table: self.table.clone(), run_id: self.run_id.clone(), removed, lines, added };
        let staging = staging(&store, &self.table);
        filesystem::sync_folder(&staging).map_err(|error| Error::io("sync", &staging, &error))?;
        self.plan_written = true;
        match plan.write(&store).and_then(|()| plan.execute(&store)) {
            // The swap failed, but the process is still running, so it can recover the swap immediately.
            Err(error) => match recover(&store) {
                Ok(RecoveryOutcome::Completed) => Ok(()),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn store(&self) -> &Store {
        &self.archive.store
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if !self.plan_written {
            // If the staging folder cannot be removed now, it is removed when the archive is next opened for writing.
            let _ = remove_folder(&staging(self.store(), &self.table));
        }
        // This removal is expected to fail if the folder still contains staged parts of another table.
        let _ = fs::remove_dir(self.store().state_path(SWAP));
    }
}

impl NewPart {
    /// Removes a new part that turned out to have no rows.
    pub(crate) fn discard(self) -> Result<()> {
        drop(self.file);
        fs::remove_file(&self.staging_path).map_err(|error| Error::io("remove", &self.staging_path, &error))
    }
}

impl Write for NewPart {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagedPart {
    /// Returns the size of the part in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens the part for reading.
    pub(crate) fn open(&self) -> Result<RangedFile> {
        File::open(&self.staging_path)
            .map(RangedFile::new)
            .map_err(|error| Error::io("read", &self.staging_path, &error))
    }
}

/// The outcome of a swap recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecoveryOutcome {
    NoSwap,
    RolledBack,
    Completed,
}

/// Recovers an interrupted swap. Completes the swap if any of its changes is visible to readers, and undoes it
/// otherwise. The caller must hold the archive lock.
pub(super) fn recover(store: &Store) -> Result<RecoveryOutcome> {
    let plan = store.get(SWAP_PLAN)?.map(|text| serde_json::from_slice::<Plan>(&text)).transpose();
    let recovered = match plan.map_err(|error| store.storage_error("read", SWAP_PLAN, &error))? {
        Some(plan) if plan.is_visible(store)? => plan.complete(store).map(|()| RecoveryOutcome::Completed)?,
        Some(plan) => plan.roll_back(store).map(|()| RecoveryOutcome::RolledBack)?,
        None => RecoveryOutcome::NoSwap,
    };
    remove_folder(&store.state_path(SWAP))?;
    Ok(recovered)
}

/// The information that is required to complete or undo a swap.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    table: String,
    run_id: RunId,
    /// The existing parts that the swap removes.
    removed: Vec<String>,
    /// The manifest lines that the swap removes, including lines for parts that no longer exist.
    lines: Vec<ManifestLine>,
    added: Vec<StoredFile>,
}

impl Plan {
    fn write(&self, store: &Store) -> Result<()> {
        store.put(SWAP_PLAN, &serde_json::to_vec_pretty(self).expect("a swap plan can always be serialized"))
    }

    fn execute(&self, store: &Store) -> Result<()> {
        for manifest in self.manifests() {
            let lines = self.lines.iter().filter(|line| line.manifest == *manifest);
            let removed_paths: HashSet<&str> = lines.map(|line| line.path.as_str()).collect();
            store.rewrite(manifest, |existing, out| {
                manifest::remove_lines(existing, &|path| removed_paths.contains(path), out)
            })?;
        }
        self.sync_manifests(store)?;
        // If the folders cannot be exchanged, `complete` moves the new parts one at a time.
        store.exchange(&self.table, &staging(store, &self.table), &|name| !self.removes(name))?;
        self.complete(store)
    }

    fn removes(&self, name: &str) -> bool {
        self.removed
            .iter()
            .any(|path| path.strip_prefix(&self.table).and_then(|rest| rest.strip_prefix('/')) == Some(name))
    }

    /// Returns the manifests from which the swap removes lines.
    fn manifests(&self) -> Vec<&String> {
        let mut manifests: Vec<&String> = self.lines.iter().map(|line| &line.manifest).collect();
        manifests.dedup();
        manifests
    }

    /// Syncs the folder of the manifests, so that all rewritten manifests survive a crash. A single sync is sufficient,
    /// even if a swap rewrites hundreds of manifests.
    fn sync_manifests(&self, store: &Store) -> Result<()> {
        if self.lines.is_empty() { Ok(()) } else { store.sync(RUNS) }
    }

    /// Returns whether any change made by the swap is visible to readers.
    fn is_visible(&self, store: &Store) -> Result<bool> {
        let existing: BTreeSet<String> = store.files(&self.table, |_| true)?.into_iter().collect();
        Ok(self.added.iter().any(|file| existing.contains(&file.path))
            || self.removed.iter().any(|path| !existing.contains(path)))
    }

    /// Completes the swap. The lines of the old parts must already have been removed from the manifests.
    fn complete(&self, store: &Store) -> Result<()> {
        for file in &self.added {
            if !store.exists(&file.path)? {
                store.move_in(&staging(store, &file.path), &file.path)?;
            }
        }
        store.sync(&self.table)?;
        for path in &self.removed {
            store.remove(path)?;
        }
        store.sync(&self.table)?;
        if !self.added.is_empty() {
            let manifest = RunFile::Manifest.path(&self.run_id);
            store.rewrite(&manifest, |existing, out| manifest::merge(existing, &self.added, out))?;
            store.sync(RUNS)?;
        }
        self.move_remaining(store)?;
        self.remove(store)
    }

    /// Moves the entries that could not be hard-linked, such as subfolders, from the old table folder to the new table
    /// folder.
    fn move_remaining(&self, store: &Store) -> Result<()> {
        let existing: HashSet<String> = store.list(&self.table)?.into_iter().map(|entry| entry.path).collect();
        for entry in fs::read_dir(staging(store, &self.table)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{}/{name}", self.table);
            if !self.removes(&name) && !existing.contains(&path) {
                store.move_in(&entry.path(), &path)?;
            }
        }
        Ok(())
    }

    /// Undoes a swap that has not made any visible change, by restoring the removed manifest lines.
    fn roll_back(&self, store: &Store) -> Result<()> {
        for manifest in self.manifests() {
            let lines = self.lines.iter().filter(|line| line.manifest == *manifest);
            let files: Vec<StoredFile> =
                lines.map(|line| StoredFile { path: line.path.clone(), sha256: line.sha256.clone() }).collect();
            store.rewrite(manifest, |existing, out| manifest::merge(existing, &files, out))?;
        }
        self.sync_manifests(store)?;
        self.remove(store)
    }

    /// Removes the plan, then the staging folder.
    fn remove(&self, store: &Store) -> Result<()> {
        store.remove(SWAP_PLAN)?;
        store.sync(STATE)?;
        remove_folder(&staging(store, &self.table))
    }
}

/// Returns the staging path for a table folder or for a new part.
fn staging(store: &Store, path: &str) -> PathBuf {
    store.state_path(SWAP).join(path)
}

fn remove_folder(path: &Path) -> Result<()> {
    let removed = local::none_if_missing(fs::remove_dir_all(path));
    removed.map(drop).map_err(|error| Error::io("remove", path, &error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{
            Location,
            failing::{FailingBackend, FaultBudget},
        },
        *,
    };
    use crate::{archive::CHECKSUMS, checksum, format::TableFormat, tables::TABLES};

    /// Returns a location whose backends fail after the given number of changes, which simulates a crash.
    fn failing_location(folder: &Path, changes: usize, can_exchange: bool) -> Location {
        let budget = FaultBudget::new(changes);
        let wrap = |backend| Arc::new(FailingBackend { backend, budget: budget.clone(), can_exchange }) as _;
        Store::local(folder).wrap_backends(wrap).into()
    }

    fn run(name: &str) -> RunId {
        RunId::parse(name).unwrap()
    }

    fn open(location: &Location) -> Result<Arc<LockedArchive>> {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        LockedArchive::open_or_create(location, Some(TableFormat::Csv), &TABLES, now).map(Arc::new)
    }

    /// Creates an archive with three parts (`a`, `b` and `c`) of the tasks table, and a user file in a subfolder of the
    /// table folder. The first manifest lists only part `a`, and the second manifest lists part `b` and a song. No test
    /// replaces part `c`.
    fn test_archive() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        open(&folder.path().into()).unwrap();
        let path = |name: &str| folder.path().join(name);
        for folder in ["tasks/notes", "media", "runs"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for name in [
            "tasks/20260101T000000000Z-a-0001.csv",
            "tasks/20260101T000000000Z-b-0001.csv",
            "tasks/20260101T000000000Z-c-0001.csv",
            "tasks/notes/x",
            "media/song",
        ] {
            fs::write(path(name), name).unwrap();
        }
        for (run, names) in [
            ("20260101T000000000Z-a", vec!["tasks/20260101T000000000Z-a-0001.csv"]),
            ("20260101T000000000Z-b", vec!["media/song", "tasks/20260101T000000000Z-b-0001.csv"]),
        ] {
            let lines: Vec<String> = names.iter().map(|name| format!("{}  {name}\n", checksum::sha256(name))).collect();
            fs::write(path(&format!("runs/{run}.sha256")), lines.concat()).unwrap();
        }
        folder
    }

    fn replace(archive: &Arc<LockedArchive>) -> Result<()> {
        let mut swap = Swap::begin(archive, "tasks", &run("20260101T000000000Z-n"))?;
        for text in ["first", "second"] {
            let mut part = swap.begin_part()?;
            part.write_all(text.as_bytes()).unwrap();
            let staged = swap.add(part)?;
            assert_eq!(
                (io::read_to_string(staged.open().unwrap()).unwrap().as_str(), staged.bytes()),
                (text, text.len() as u64)
            );
        }
        swap.commit(&["tasks/20260101T000000000Z-a-0001.csv".into(), "tasks/20260101T000000000Z-b-0001.csv".into()])
    }

    /// Reads all files except the lock file, `archive.json` and the checksum file.
    fn contents(folder: &Path) -> BTreeMap<String, String> {
        fn walk(folder: &Path, name: &str, found: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                let name = format!("{name}/{}", entry.file_name().display());
                match fs::read_to_string(entry.path()) {
                    Ok(text) => drop(found.insert(name.trim_start_matches('/').to_owned(), text)),
                    Err(_) => walk(&entry.path(), &name, found),
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(folder, "", &mut found);
        found.retain(|name, _| !["archive.json", ".sunor/lock", CHECKSUMS].contains(&name.as_str()));
        found
    }

    /// Returns the names of the parts that a reader would find.
    fn parts(folder: &Path) -> Vec<String> {
        let names = contents(folder).into_keys();
        names.filter_map(|name| Some(name.strip_prefix("tasks/")?.strip_suffix(".csv")?.to_owned())).collect()
    }

    fn assert_manifests_match(folder: &Path) {
        for line in manifest::find_lines(&Store::local(folder), &|_| true).unwrap() {
            let bytes = fs::read(folder.join(&line.path)).unwrap_or_else(|_| panic!("missing file: {line:?}"));
            assert_eq!(checksum::sha256(bytes), line.sha256, "{line:?}");
        }
    }

    const OLD: [&str; 3] = ["20260101T000000000Z-a-0001", "20260101T000000000Z-b-0001", "20260101T000000000Z-c-0001"];
    const NEW: [&str; 3] = ["20260101T000000000Z-c-0001", "20260101T000000000Z-n-0001", "20260101T000000000Z-n-0002"];

    #[test]
    fn new_parts_replace_old_parts_and_manifests_are_updated() {
        let folder = test_archive();
        replace(&open(&folder.path().into()).unwrap()).unwrap();
        let remaining = contents(folder.path());
        let names: Vec<&str> = remaining.keys().map(String::as_str).collect();
        let expected = [
            "media/song",
            "runs/20260101T000000000Z-b.sha256",
            "runs/20260101T000000000Z-n.sha256",
            "tasks/20260101T000000000Z-c-0001.csv",
            "tasks/20260101T000000000Z-n-0001.csv",
            "tasks/20260101T000000000Z-n-0002.csv",
            "tasks/notes/x",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            (
                remaining["tasks/20260101T000000000Z-n-0002.csv"].as_str(),
                remaining["runs/20260101T000000000Z-n.sha256"].lines().count()
            ),
            ("second", 2)
        );
        assert!(remaining["runs/20260101T000000000Z-b.sha256"].ends_with("  media/song\n"));
        assert_manifests_match(folder.path());
    }

    #[test]
    fn a_crash_at_any_step_of_a_swap_or_its_recovery_leaves_it_completed_or_undone() {
        for can_exchange in [true, false] {
            let before = contents(test_archive().path());
            let folder = test_archive();
            replace(&open(&folder.path().into()).unwrap()).unwrap();
            let after = contents(folder.path());
            let (mut rolled_back, mut completed, mut steps) = (0, 0, 0);
            loop {
                let mut recovery_steps = 0;
                let succeeded = loop {
                    let folder = test_archive();
                    let succeeded = open(&failing_location(folder.path(), steps, can_exchange))
                        .and_then(|archive| replace(&archive))
                        .is_ok();
                    assert_invariants(folder.path(), can_exchange);
                    let recovered = open(&failing_location(folder.path(), recovery_steps, can_exchange)).is_ok();
                    assert_invariants(folder.path(), can_exchange);
                    open(&folder.path().into()).unwrap();
                    let remaining = contents(folder.path());
                    assert!(
                        remaining == before || remaining == after,
                        "{steps}, {recovery_steps}: {:?}",
                        remaining.keys()
                    );
                    *(if remaining == before { &mut rolled_back } else { &mut completed }) += 1;
                    if recovered {
                        break succeeded;
                    }
                    recovery_steps += 1;
                };
                if succeeded {
                    break;
                }
                steps += 1;
            }
            assert!(
                steps > 10 && rolled_back > 10 && completed > 10,
                "{steps} steps: {rolled_back} swaps undone, {completed} completed"
            );
        }
    }

    /// Asserts that the manifests match the files and that readers find either all old parts or all new parts. If the
    /// folders cannot be exchanged, readers may find old and new parts at the same time.
    fn assert_invariants(folder: &Path, can_exchange: bool) {
        assert_manifests_match(folder);
        let parts = parts(folder);
        let has = |all: &[&str]| all.iter().all(|part| parts.iter().any(|found| found == part));
        if can_exchange {
            assert!(parts == OLD || parts == NEW, "{parts:?}");
        } else {
            assert!(has(&OLD) || has(&NEW), "{parts:?}");
        }
    }

    #[test]
    fn a_failed_swap_is_recovered_immediately() {
        let folder = test_archive();
        let before = contents(folder.path());
        let archive = open(&folder.path().into()).unwrap();
        // A folder at the path of the manifest's staging file prevents the manifest from being written, as a full disk
        // would.
        fs::create_dir(folder.path().join("runs/20260101T000000000Z-a.sha256#0")).unwrap();
        replace(&archive).unwrap_err();
        fs::remove_dir(folder.path().join("runs/20260101T000000000Z-a.sha256#0")).unwrap();
        recover(&Store::local(folder.path())).unwrap();
        assert_eq!(contents(folder.path()), before);
        replace(&archive).unwrap();
        assert_eq!(parts(folder.path()), NEW);
    }

    #[test]
    fn parts_can_be_added_to_an_empty_table_and_removed_without_replacement() {
        let folder = test_archive();
        let archive = open(&folder.path().into()).unwrap();
        let mut swap = Swap::begin(&archive, "clips", &run("20260101T000000000Z-n")).unwrap();
        let mut part = swap.begin_part().unwrap();
        part.write_all(b"x").unwrap();
        swap.add(part).unwrap();
        swap.commit(&["clips/lost.csv".into()]).unwrap();
        assert_eq!(contents(folder.path())["clips/20260101T000000000Z-n-0001.csv"], "x");

        Swap::begin(&archive, "tasks", &run("20260101T000000000Z-n"))
            .unwrap()
            .commit(&["tasks/20260101T000000000Z-b-0001.csv".into()])
            .unwrap();
        assert_eq!(parts(folder.path()), ["20260101T000000000Z-a-0001", "20260101T000000000Z-c-0001"]);
        assert_manifests_match(folder.path());
    }
}
