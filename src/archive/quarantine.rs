//! The quarantine: damaged files are moved to `.sunor/damaged`, where no reader looks; nothing is deleted.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Archive, LockedArchive, RunFile, SEALS, document_checksums, inspect::is_inside, layout, manifest, swap};
use crate::{
    checksum,
    error::{Error, Result},
    filesystem,
    ranged::RangedFile,
};

impl LockedArchive {
    /// Moves files to the quarantine, and removes their lines from every manifest; of a missing file, only the lines
    /// are removed. Blocks.
    pub(crate) fn quarantine(&self, paths: &HashSet<String>) -> Result<()> {
        let folder = &self.archive.folder;
        let lines = manifest::find(folder, &|path| paths.contains(path))?;
        let manifests: BTreeSet<&str> = lines.iter().map(|line| line.manifest.as_str()).collect();
        for manifest in manifests {
            let gone = |path: &str| paths.contains(path);
            swap::rewrite(&folder.join(manifest), |known, out| manifest::without(known, &gone, out))?;
        }
        if !lines.is_empty() {
            layout::sync(&folder.join(layout::RUNS))?;
        }
        let damaged = layout::damaged(folder);
        layout::create(&damaged)?;
        for path in paths {
            move_to_quarantine(&folder.join(path), &damaged, path)?;
        }
        layout::sync(&damaged)
    }
}

impl Archive {
    /// The plan of a repair that was cut short.
    pub(crate) fn begun_repair<P: DeserializeOwned>(&self) -> Result<Option<P>> {
        let path = layout::repair_plan(&self.folder);
        match fs::read(&path) {
            Ok(plan) => {
                serde_json::from_slice(&plan).map(Some).map_err(|error| Error::storage("read", path.display(), &error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, &error)),
        }
    }
}

impl LockedArchive {
    /// Stores the plan of a repair, so that the next one can complete it.
    pub(crate) fn note_repair(&self, plan: &impl Serialize) -> Result<()> {
        let plan = serde_json::to_vec(plan).expect("a plan has string keys only");
        let path = layout::repair_plan(&self.archive.folder);
        let staging = path.with_extension("json#0");
        let written =
            fs::File::create(&staging).and_then(|mut file| file.write_all(&plan).and_then(|()| file.sync_all()));
        written.and_then(|()| fs::rename(&staging, &path)).map_err(|error| Error::io("write", &path, &error))?;
        layout::sync(path.parent().unwrap_or(&self.archive.folder))
    }

    /// Removes the plan: the repair is complete.
    pub(crate) fn end_repair(&self) -> Result<()> {
        let path = layout::repair_plan(&self.archive.folder);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Copies existing parts that are about to be removed, and returns the copies' paths. Blocks.
    pub(crate) fn quarantine_copies(&self, parts: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
        let folder = &self.archive.folder;
        let damaged = layout::damaged(folder);
        layout::create(&damaged)?;
        let mut kept = Vec::new();
        for path in parts.iter().filter(|path| folder.join(path).exists()) {
            let (from, to) = (folder.join(path), free_name(&damaged, path));
            // Not every disk has links.
            let copied = fs::hard_link(&from, &to).or_else(|_| filesystem::copy(&from, &to));
            copied.map_err(|error| Error::io("copy", &from, &error))?;
            kept.push(to);
        }
        layout::sync(&damaged)?;
        Ok(kept)
    }

    /// Regenerates a manifest: each file that it lists and that exists, with its present SHA-256. A copy of the
    /// old one goes to the quarantine. Blocks.
    pub(crate) fn regenerate_manifest(&self, manifest: &str) -> Result<()> {
        let folder = &self.archive.folder;
        self.quarantine_copies(&BTreeSet::from([manifest.to_owned()]))?;
        let path = folder.join(manifest);
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, &error))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let files: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once("  ").map(|(_, path)| path))
            .filter(|path| is_inside(path))
            .collect();
        swap::rewrite(&path, |_, out| {
            let mut lines = 0;
            for file in files {
                let Ok(mut opened) = fs::File::open(folder.join(file)) else { continue };
                writeln!(out, "{}  {file}", checksum::digest(&mut opened)?.sha256)?;
                lines += 1;
            }
            Ok(lines)
        })?;
        layout::sync(&folder.join(layout::RUNS))
    }
}

impl LockedArchive {
    /// Regenerates the checksum file from the small files that no manifest lists. The old one goes to the
    /// quarantine. Blocks.
    pub(crate) fn regenerate_checksums(&self) -> Result<()> {
        let archive = &self.archive;
        self.quarantine(&HashSet::from([SEALS.to_owned()]))?;
        let runs = archive.entries(layout::RUNS)?.into_iter().filter(|entry| !entry.is_folder).map(|entry| entry.path);
        let is_listed = |path: &str| path.ends_with(RunFile::Manifest.ending());
        for path in runs.filter(|path| !is_listed(path)).chain([layout::PASSPORT.to_owned()]) {
            let text = archive.read_small(&path).map_err(|error| archive.store.failed("read", &path, &error))?;
            document_checksums::add(&archive.folder, &path, &checksum::sha256(text))?;
        }
        Ok(())
    }
}

impl LockedArchive {
    /// Moves a segment with damaged records to the quarantine, where it is not published again.
    pub(crate) fn quarantine_segment(&self, segment: &Path) -> Result<()> {
        let folder = layout::damaged(&self.archive.folder);
        let moved = fs::create_dir_all(&folder)
            .and_then(|()| fs::rename(segment, folder.join(segment.file_name().unwrap_or_default())));
        moved.map_err(|error| Error::io("move", segment, &error))
    }
}

/// Opens a quarantined copy, to read what it still holds.
pub(crate) fn open_quarantined(path: &Path) -> Option<RangedFile> {
    fs::File::open(path).ok().map(RangedFile::new)
}

fn move_to_quarantine(from: &Path, folder: &Path, path: &str) -> Result<()> {
    match fs::rename(from, free_name(folder, path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("move", from, &error)),
        Ok(()) => layout::sync(from.parent().unwrap_or(folder)),
    }
}

/// A free name that shows where a file was.
fn free_name(folder: &Path, path: &str) -> PathBuf {
    let flat = path.replace('/', "_");
    let mut place = folder.join(&flat);
    let mut n = 1;
    while fs::symlink_metadata(&place).is_ok() {
        n += 1;
        place = folder.join(format!("{n}_{flat}"));
    }
    place
}
