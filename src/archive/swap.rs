//! Swaps parts of a table for others, in one step for readers.
//!
//! The new parts are written to a staging folder, together with links to those that stay; then the two folders
//! are exchanged. A reader that lists the table sees either all old parts or all new ones; if a listed file is
//! gone, it lists again. Where the file system cannot exchange folders or link files, the new parts are moved in
//! one by one and the old ones removed after that: a reader may then see rows twice, never too few.
//!
//! A swap in progress is described by a plan, written before the first visible step. The next process that opens
//! the archive for writing undoes a swap that is not visible yet, and completes one that is. Manifests name a
//! file only while it exists: the old parts' lines are removed before the exchange, the new ones' added after it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    LockedArchive, StoredFile, attributes, layout,
    layout::{PartName, RUNS, RunFile},
    manifest::{self, ManifestLine},
};
use crate::{
    checksum::Hasher,
    error::{Error, Result},
    filesystem,
    ranged::RangedFile,
    run_id::RunId,
};

/// New parts of one table that will replace others. Dropped before [`Swap::commit`], they are discarded. There may
/// be one swap per table at a time. All of it blocks.
pub(crate) struct Swap {
    held: Arc<LockedArchive>,
    table: String,
    run_id: RunId,
    added: Vec<StoredFile>,
    part: u32,
    /// Whether the plan is written: from then on, recovery decides.
    is_planned: bool,
}

/// A new part that is being written.
pub(crate) struct NewPart {
    path: String,
    place: PathBuf,
    file: BufWriter<File>,
    hasher: Hasher,
}

/// A new part that is written, and not yet in its table.
pub(crate) struct StagedPart {
    place: PathBuf,
    bytes: u64,
}

impl Swap {
    /// Begins a swap without new parts. The new ones will be named after that run.
    pub(crate) fn begin(held: &Arc<LockedArchive>, table: &str, run_id: &RunId) -> Result<Self> {
        let folder = &held.archive.folder;
        if layout::swap_plan(folder).exists() {
            // A swap that this process could not complete.
            recover(folder)?;
        }
        let staging = staging(folder, table);
        remove_folder(&staging)?;
        layout::create(&staging)?;
        // New files inherit from it. If the attributes cannot be copied, the folders are not exchanged.
        let _ = attributes::copy(&folder.join(table), &staging);
        let (table, run_id) = (table.to_owned(), run_id.clone());
        Ok(Self { held: held.clone(), table, run_id, added: Vec::new(), part: 0, is_planned: false })
    }

    /// Makes empty scratch files, on the disk where the new parts will be. They go by themselves
    /// once they are closed, or else, where an open file cannot be removed, when the archive is next opened for
    /// writing.
    pub(crate) fn scratch(&self) -> impl FnMut() -> io::Result<File> + use<> {
        let (folder, table, mut files) = (layout::swap(&self.held.archive.folder), self.table.clone(), 0);
        move || {
            files += 1;
            let path = folder.join(format!("{table}#{files}"));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            let _ = fs::remove_file(&path);
            Ok(file)
        }
    }

    /// Begins a new part, under the next name that no part of the table has.
    pub(crate) fn part(&mut self) -> Result<NewPart> {
        let archive = &self.held.archive;
        let path = loop {
            self.part += 1;
            let name = PartName { run_id: &self.run_id, part: self.part, format: archive.format };
            let path = name.path(&self.table);
            if !archive.folder.join(&path).exists() {
                break path;
            }
        };
        let place = staged(&archive.folder, &path);
        let file = File::create(&place).map_err(|error| Error::io("write", &place, &error))?;
        Ok(NewPart { path, place, file: BufWriter::with_capacity(1 << 20, file), hasher: Hasher::default() })
    }

    /// Takes a written part, durably. Until the swap it can be read as a [`StagedPart`].
    pub(crate) fn add(&mut self, part: NewPart) -> Result<StagedPart> {
        let NewPart { path, place, file, hasher } = part;
        let synced = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        synced.map_err(|error| Error::io("write", &place, &error))?;
        let digested = hasher.digested();
        self.added.push(StoredFile { path, sha256: digested.sha256 });
        Ok(StagedPart { place, bytes: digested.bytes })
    }

    /// Puts the new parts in the place of `removed`, which are paths in the archive; of one that is not there
    /// only its line in a manifest goes. After an error the table is as it was, at the latest when the
    /// archive is next opened for writing.
    pub(crate) fn commit(mut self, removed: &[String]) -> Result<()> {
        let folder = self.held.archive.folder.clone();
        let gone: HashSet<&str> = removed.iter().map(String::as_str).collect();
        let lines = manifest::find(&folder, &|path| gone.contains(path))?;
        let removed = removed.iter().filter(|path| folder.join(path).exists()).cloned().collect();
        let added = std::mem::take(&mut self.added);
        let plan = Plan { table: self.table.clone(), run_id: self.run_id.clone(), removed, lines, added };
        layout::create(&folder.join(&plan.table))?;
        let can_exchange = plan.complete_staging(&folder)?;
        self.is_planned = true;
        let done = plan.write(&folder).and_then(|()| plan.carry_out(&folder, can_exchange));
        match done {
            // A process that lives sets it right at once, if the disk lets it.
            Err(error) => match recover(&folder) {
                Ok(Recovered::Finished) => Ok(()),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if !self.is_planned {
            // The next writer sweeps what cannot be removed now.
            let _ = remove_folder(&staging(&self.held.archive.folder, &self.table));
        }
        // Unless another table is in it.
        let _ = fs::remove_dir(layout::swap(&self.held.archive.folder));
    }
}

impl NewPart {
    /// Takes it back, since it has turned out to be empty.
    pub(crate) fn discard(self) -> Result<()> {
        drop(self.file);
        remove_file(&self.place)
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
    /// How large it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> Result<RangedFile> {
        File::open(&self.place).map(RangedFile::new).map_err(|error| Error::io("read", &self.place, &error))
    }
}

/// What recovery found, and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovered {
    Nothing,
    Undone,
    Finished,
}

/// Ends what a crash interrupted: what had become visible is finished, anything else undone. The lock
/// must be held.
pub(super) fn recover(folder: &Path) -> Result<Recovered> {
    let recovered = match Plan::read(folder)? {
        Some(plan) if plan.is_visible(folder) => plan.finish(folder).map(|()| Recovered::Finished)?,
        Some(plan) => plan.undo(folder).map(|()| Recovered::Undone)?,
        None => Recovered::Nothing,
    };
    remove_folder(&layout::swap(folder))?;
    remove_file(&staging_path(&layout::swap_plan(folder)))?;
    Ok(recovered)
}

/// All that is needed to finish an exchange, or to undo it.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    table: String,
    run_id: RunId,
    /// Parts that are there and will not be.
    removed: Vec<String>,
    /// What manifests say of them, and of others that are not there any more.
    lines: Vec<ManifestLine>,
    added: Vec<StoredFile>,
}

impl Plan {
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = layout::swap_plan(folder);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|error| Error::storage("read", path.display(), &error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, &error)),
        }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("a plan has string keys only");
        let path = layout::swap_plan(folder);
        write_staged(&path, |file| file.write_all(&text))?;
        put_in_place(&path)?;
        sync_above(&path)
    }

    /// Links the parts that stay beside the new ones. Says whether the folder is now the table as it will be.
    fn complete_staging(&self, folder: &Path) -> Result<bool> {
        let (table, staging) = (folder.join(&self.table), staging(folder, &self.table));
        let is_linked = fs::symlink_metadata(&table).is_ok_and(|metadata| metadata.is_dir())
            && self.link_rest(&table, &staging).is_ok();
        layout::sync(&staging)?;
        layout::sync(&layout::swap(folder))?;
        Ok(is_linked)
    }

    fn link_rest(&self, table: &Path, staging: &Path) -> io::Result<()> {
        for entry in fs::read_dir(table)? {
            let entry = entry?;
            // What else may stand there, say a folder, is moved afterwards.
            if entry.file_type()?.is_file() && !self.removes(&entry.file_name().to_string_lossy()) {
                fs::hard_link(entry.path(), staging.join(entry.file_name()))?;
            }
        }
        attributes::copy(table, staging)
    }

    fn removes(&self, name: &str) -> bool {
        self.removed
            .iter()
            .any(|path| path.strip_prefix(&self.table).and_then(|rest| rest.strip_prefix('/')) == Some(name))
    }

    fn carry_out(&self, folder: &Path, can_exchange: bool) -> Result<()> {
        for manifest in self.manifests() {
            let of_it = self.lines.iter().filter(|line| line.manifest == *manifest);
            let gone: HashSet<&str> = of_it.map(|line| line.path.as_str()).collect();
            rewrite(&folder.join(manifest), |known, out| manifest::without(known, &|path| gone.contains(path), out))?;
        }
        self.sync_manifests(folder)?;
        let (table, staging) = (folder.join(&self.table), staging(folder, &self.table));
        // One that is refused is done one by one.
        if can_exchange && change("exchange", &table, |table| exchange(table, &staging)).is_ok() {
            layout::sync(folder)?;
            layout::sync(&layout::swap(folder))?;
        }
        self.finish(folder)
    }

    /// The manifests that lose lines.
    fn manifests(&self) -> Vec<&String> {
        let mut manifests: Vec<&String> = self.lines.iter().map(|line| &line.manifest).collect();
        manifests.dedup();
        manifests
    }

    /// Makes their names durable, all at once: there may be one for each night of a year.
    fn sync_manifests(&self, folder: &Path) -> Result<()> {
        if self.lines.is_empty() { Ok(()) } else { layout::sync(&folder.join(RUNS)) }
    }

    /// Whether a reader may have seen any of it.
    fn is_visible(&self, folder: &Path) -> bool {
        self.added.iter().any(|file| folder.join(&file.path).exists())
            || self.removed.iter().any(|path| !folder.join(path).exists())
    }

    /// Goes on from wherever it stands once the exchange is done, or its first part moved in.
    fn finish(&self, folder: &Path) -> Result<()> {
        let (table, staging) = (folder.join(&self.table), staging(folder, &self.table));
        for file in &self.added {
            let place = folder.join(&file.path);
            if !place.exists() {
                move_in(&staged(folder, &file.path), &place)?;
            }
        }
        layout::sync(&table)?;
        for path in &self.removed {
            remove_file(&folder.join(path))?;
        }
        layout::sync(&table)?;
        if !self.added.is_empty() {
            layout::create(&folder.join(RUNS))?;
            let path = folder.join(RunFile::Manifest.path(&self.run_id));
            rewrite(&path, |known, out| manifest::merge(known, &self.added, out).map(|()| 1))?;
            sync_above(&path)?;
        }
        self.bring_rest(&table, &staging)?;
        remove_plan(folder)?;
        remove_folder(&staging)
    }

    /// Moves what is no part of the exchange and could not be linked.
    fn bring_rest(&self, table: &Path, staging: &Path) -> Result<()> {
        for entry in fs::read_dir(staging).into_iter().flatten().flatten() {
            let place = table.join(entry.file_name());
            if !self.removes(&entry.file_name().to_string_lossy()) && fs::symlink_metadata(&place).is_err() {
                move_in(&entry.path(), &place)?;
            }
        }
        layout::sync(table)
    }

    /// Nothing of it was to be seen yet but the lines that manifests miss.
    fn undo(&self, folder: &Path) -> Result<()> {
        remove_folder(&staging(folder, &self.table))?;
        for manifest in self.manifests() {
            let of_it = self.lines.iter().filter(|line| line.manifest == *manifest);
            let files: Vec<StoredFile> =
                of_it.map(|line| StoredFile { path: line.path.clone(), sha256: line.sha256.clone() }).collect();
            rewrite(&folder.join(manifest), |known, out| manifest::merge(known, &files, out).map(|()| 1))?;
        }
        self.sync_manifests(folder)?;
        remove_plan(folder)
    }
}

/// Where a new part waits.
fn staged(folder: &Path, path: &str) -> PathBuf {
    layout::swap(folder).join(path)
}

fn staging(folder: &Path, table: &str) -> PathBuf {
    staged(folder, table)
}

/// What a file is called before it is whole; the sweep knows such names.
fn staging_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("#0");
    name.into()
}

/// Every change of an existing file passes here, so that a test can let the process die before any.
fn change<T>(action: &'static str, path: &Path, change: impl FnOnce(&Path) -> io::Result<T>) -> Result<T> {
    #[cfg(test)]
    tests::live(path)?;
    change(path).map_err(|error| Error::io(action, path, &error))
}

/// Lets two folders change places, in one step or not at all.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    #[cfg(test)]
    tests::can_exchange()?;
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Only Linux is known to do it.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Moves what is whole to its place, also where that is on another disk.
fn move_in(from: &Path, to: &Path) -> Result<()> {
    change("move", from, |from| match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            filesystem::copy(from, &staging_path(to))?;
            fs::rename(staging_path(to), to)
        }
        moved => moved,
    })
}

fn remove_file(path: &Path) -> Result<()> {
    change("remove", path, |path| match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}

fn remove_folder(path: &Path) -> Result<()> {
    change("remove", path, |path| match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}

fn remove_plan(folder: &Path) -> Result<()> {
    let path = layout::swap_plan(folder);
    remove_file(&path)?;
    sync_above(&path)
}

fn sync_above(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), layout::sync)
}

/// Writes a file beside its place, durably.
fn write_staged<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>) -> Result<T> {
    change("write", path, |path| {
        let mut file = BufWriter::new(File::create(staging_path(path))?);
        let written = write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(written)
    })
}

/// Gives what was written beside its place the place; the folder is still to be synced.
fn put_in_place(path: &Path) -> Result<()> {
    change("write", path, |path| fs::rename(staging_path(path), path))
}

/// Rewrites a manifest from its present lines. `write` returns how many lines it has then; one without
/// any is removed. The folder is still to be synced.
pub(super) fn rewrite(
    path: &Path,
    write: impl FnOnce(&mut dyn io::BufRead, &mut BufWriter<File>) -> io::Result<u64>,
) -> Result<()> {
    let mut known: Box<dyn io::BufRead> = match File::open(path) {
        Ok(file) => Box::new(BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    if write_staged(path, |file| write(&mut known, file))? > 0 {
        return put_in_place(path);
    }
    remove_file(path)?;
    remove_file(&staging_path(path))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use super::*;
    use crate::{archive::SEALS, checksum, format::TableFormat, tables::TABLES};

    thread_local! {
        /// The changes that this thread lives to make.
        static STEPS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
        static CAN_EXCHANGE: Cell<bool> = const { Cell::new(true) };
    }

    pub(super) fn live(path: &Path) -> Result<()> {
        let left = STEPS_LEFT.get();
        STEPS_LEFT.set(left.saturating_sub(1));
        if left > 0 { Ok(()) } else { Err(Error::io("write", path, &io::Error::other("dead"))) }
    }

    pub(super) fn can_exchange() -> io::Result<()> {
        if CAN_EXCHANGE.get() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn die_after(steps: usize) {
        STEPS_LEFT.set(steps);
    }

    fn run(name: &str) -> RunId {
        RunId::parse(name).unwrap()
    }

    async fn open(folder: &Path) -> Result<Arc<LockedArchive>> {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        LockedArchive::open_or_create(folder, Some(TableFormat::Csv), &TABLES, now).await.map(Arc::new)
    }

    /// Three parts of tasks, of which the first is alone in its manifest, the second stands beside a song,
    /// and the third stays; a file of the user's beside them; and a line of a part that is lost.
    async fn scene() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).await.unwrap();
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

    fn replace(held: &Arc<LockedArchive>) -> Result<()> {
        let mut swap = Swap::begin(held, "tasks", &run("20260101T000000000Z-n"))?;
        for text in ["first", "second"] {
            let mut part = swap.part()?;
            part.write_all(text.as_bytes()).unwrap();
            let place = swap.add(part)?;
            assert_eq!(
                (io::read_to_string(place.open().unwrap()).unwrap().as_str(), place.bytes()),
                (text, text.len() as u64)
            );
        }
        swap.commit(&["tasks/20260101T000000000Z-a-0001.csv".into(), "tasks/20260101T000000000Z-b-0001.csv".into()])
    }

    /// Every file but the lock, `archive.json` and its checksum.
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
        found.retain(|name, _| !["archive.json", ".sunor/lock", SEALS].contains(&name.as_str()));
        found
    }

    /// The parts that a reader's pattern matches.
    fn parts(folder: &Path) -> Vec<String> {
        let names = contents(folder).into_keys();
        names.filter_map(|name| Some(name.strip_prefix("tasks/")?.strip_suffix(".csv")?.to_owned())).collect()
    }

    fn assert_manifests_hold(folder: &Path) {
        for line in manifest::find(folder, &|_| true).unwrap() {
            let bytes = fs::read(folder.join(&line.path)).unwrap_or_else(|_| panic!("{line:?} is not there"));
            assert_eq!(checksum::sha256(bytes), line.sha256, "{line:?}");
        }
    }

    const OLD: [&str; 3] = ["20260101T000000000Z-a-0001", "20260101T000000000Z-b-0001", "20260101T000000000Z-c-0001"];
    const NEW: [&str; 3] = ["20260101T000000000Z-c-0001", "20260101T000000000Z-n-0001", "20260101T000000000Z-n-0002"];

    #[tokio::test]
    async fn new_parts_take_the_place_of_old_ones_and_manifests_follow() {
        let folder = scene().await;
        replace(&open(folder.path()).await.unwrap()).unwrap();
        let left = contents(folder.path());
        let names: Vec<&str> = left.keys().map(String::as_str).collect();
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
                left["tasks/20260101T000000000Z-n-0002.csv"].as_str(),
                left["runs/20260101T000000000Z-n.sha256"].lines().count()
            ),
            ("second", 2)
        );
        assert!(left["runs/20260101T000000000Z-b.sha256"].ends_with("  media/song\n"));
        assert_manifests_hold(folder.path());
    }

    #[tokio::test]
    async fn dead_before_any_step_and_before_any_step_of_recovery_it_is_all_done_or_all_undone() {
        for can_exchange in [true, false] {
            CAN_EXCHANGE.set(can_exchange);
            let before = contents(scene().await.path());
            let folder = scene().await;
            replace(&open(folder.path()).await.unwrap()).unwrap();
            let after = contents(folder.path());
            let (mut undone, mut finished, mut steps) = (0, 0, 0);
            loop {
                let mut recovery_steps = 0;
                let survived = loop {
                    let folder = scene().await;
                    let held = open(folder.path()).await.unwrap();
                    die_after(steps);
                    let survived = replace(&held).is_ok();
                    drop(held);
                    assert_visible(folder.path(), can_exchange);
                    die_after(recovery_steps);
                    let recovered = open(folder.path()).await.is_ok();
                    assert_visible(folder.path(), can_exchange);
                    die_after(usize::MAX);
                    open(folder.path()).await.unwrap();
                    let left = contents(folder.path());
                    assert!(left == before || left == after, "{steps}, {recovery_steps}: {:?}", left.keys());
                    *(if left == before { &mut undone } else { &mut finished }) += 1;
                    if recovered {
                        break survived;
                    }
                    recovery_steps += 1;
                };
                if survived {
                    break;
                }
                steps += 1;
            }
            CAN_EXCHANGE.set(true);
            assert!(steps > 10 && undone > 10 && finished > 10, "{steps} steps: {undone} undone, {finished} finished");
        }
    }

    /// What holds at every instant.
    fn assert_visible(folder: &Path, can_exchange: bool) {
        assert_manifests_hold(folder);
        let parts = parts(folder);
        let has = |all: &[&str]| all.iter().all(|part| parts.iter().any(|found| found == part));
        if can_exchange {
            assert!(parts == OLD || parts == NEW, "{parts:?}");
        } else {
            assert!(has(&OLD) || has(&NEW), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_in_a_living_process_is_set_right_at_once() {
        let folder = scene().await;
        let before = contents(folder.path());
        let held = open(folder.path()).await.unwrap();
        // A manifest that cannot be written, as on a full disk.
        fs::create_dir(folder.path().join("runs/20260101T000000000Z-a.sha256#0")).unwrap();
        replace(&held).unwrap_err();
        fs::remove_dir(folder.path().join("runs/20260101T000000000Z-a.sha256#0")).unwrap();
        recover(folder.path()).unwrap();
        assert_eq!(contents(folder.path()), before);
        replace(&held).unwrap();
        assert_eq!(parts(folder.path()), NEW);
    }

    #[tokio::test]
    async fn parts_may_come_where_there_were_none_and_go_without_successors() {
        let folder = scene().await;
        let held = open(folder.path()).await.unwrap();
        let mut swap = Swap::begin(&held, "clips", &run("20260101T000000000Z-n")).unwrap();
        let mut part = swap.part().unwrap();
        part.write_all(b"x").unwrap();
        swap.add(part).unwrap();
        swap.commit(&["clips/lost.csv".into()]).unwrap();
        assert_eq!(contents(folder.path())["clips/20260101T000000000Z-n-0001.csv"], "x");

        Swap::begin(&held, "tasks", &run("20260101T000000000Z-n"))
            .unwrap()
            .commit(&["tasks/20260101T000000000Z-b-0001.csv".into()])
            .unwrap();
        assert_eq!(parts(folder.path()), ["20260101T000000000Z-a-0001", "20260101T000000000Z-c-0001"]);
        assert_manifests_hold(folder.path());
    }
}
