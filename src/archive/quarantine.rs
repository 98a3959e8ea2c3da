//! The quarantine folder `.sunor/damaged`. Damaged files are moved to the quarantine folder instead of being deleted,
//! and readers ignore this folder.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Archive, CHECKSUMS, LockedArchive, RunFile, checksum_file,
    inspect::is_inside,
    layout::{METADATA, QUARANTINE, REPAIR_PLAN, RUNS},
    local, manifest,
};
use crate::{
    checksum,
    error::{Error, Result},
    filesystem,
    ranged::RangedFile,
};

impl Archive {
    /// Reads the plan of an interrupted repair, if there is one.
    pub(crate) fn load_repair_plan<P: DeserializeOwned>(&self) -> Result<Option<P>> {
        let plan = self.store.get(REPAIR_PLAN)?;
        let parsed = plan.map(|plan| serde_json::from_slice(&plan)).transpose();
        parsed.map_err(|error| self.store.storage_error("read", REPAIR_PLAN, &error))
    }
}

impl LockedArchive {
    /// Saves the plan of a repair, so that the repair can be completed later if it is interrupted.
    pub(crate) fn save_repair_plan(&self, plan: &impl Serialize) -> Result<()> {
        self.put(REPAIR_PLAN, serde_json::to_vec(plan).expect("a repair plan can always be serialized"))
    }

    /// Removes the repair plan after the repair has been completed.
    pub(crate) fn remove_repair_plan(&self) -> Result<()> {
        self.store.remove(REPAIR_PLAN)
    }

    /// Moves files to the quarantine folder and removes their lines from all manifests. For a missing file, only the
    /// manifest lines are removed. This function blocks.
    pub(crate) fn quarantine(&self, paths: &HashSet<String>) -> Result<()> {
        let store = &self.store;
        let lines = manifest::find_lines(store, &|path| paths.contains(path))?;
        let manifests: BTreeSet<&str> = lines.iter().map(|line| line.manifest.as_str()).collect();
        for manifest in manifests {
            store.rewrite(manifest, |existing, out| {
                manifest::remove_lines(existing, &|path| paths.contains(path), out)
            })?;
        }
        if !lines.is_empty() {
            store.sync(RUNS)?;
        }
        let folder = self.create_quarantine_folder()?;
        for path in paths {
            store.move_out(path, &unused_path(&folder, path))?;
        }
        sync(&folder)
    }

    /// Copies files to the quarantine folder before they are changed or removed, and returns the paths of the copies.
    /// Files that do not exist are skipped. This function blocks.
    pub(crate) fn copy_to_quarantine(&self, parts: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
        let store = &self.store;
        let folder = self.create_quarantine_folder()?;
        let mut copies = Vec::new();
        for path in parts {
            if store.exists(path)? {
                let to = unused_path(&folder, path);
                store.copy_out(path, &to)?;
                copies.push(to);
            }
        }
        sync(&folder)?;
        Ok(copies)
    }

    /// Moves a journal segment with damaged records to the quarantine folder, so that the segment is not published
    /// again.
    pub(crate) fn quarantine_segment(&self, segment: &Path) -> Result<()> {
        let to = self.create_quarantine_folder()?.join(segment.file_name().unwrap_or_default());
        fs::rename(segment, to).map_err(|error| Error::io("move", segment, &error))
    }

    fn create_quarantine_folder(&self) -> Result<PathBuf> {
        let folder = self.store.state_path(QUARANTINE);
        local::create_folder(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        Ok(folder)
    }

    /// Regenerates a manifest with the current SHA-256 of each listed file that exists. The old manifest is copied to
    /// the quarantine folder. This function blocks.
    pub(crate) fn regenerate_manifest(&self, manifest: &str) -> Result<()> {
        let store = &self.store;
        self.copy_to_quarantine(&BTreeSet::from([manifest.to_owned()]))?;
        let text = store.try_read(manifest).map_err(|error| store.storage_error("read", manifest, &error))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let listed = text.lines().filter_map(|line| line.split_once("  ").map(|(_, path)| path));
        let files: BTreeSet<&str> = listed.filter(|path| is_inside(path)).collect();
        store.rewrite(manifest, |_, out| {
            let mut lines = 0;
            for file in files {
                let Ok(mut opened) = store.try_open(file) else { continue };
                writeln!(out, "{}  {file}", checksum::digest(&mut opened)?.sha256)?;
                lines += 1;
            }
            Ok(lines)
        })?;
        store.sync(RUNS)
    }

    /// Regenerates the checksum file from the small files that no manifest lists. The old checksum file is moved to the
    /// quarantine folder. This function blocks.
    pub(crate) fn regenerate_checksums(&self) -> Result<()> {
        let store = &self.store;
        self.quarantine(&HashSet::from([CHECKSUMS.to_owned()]))?;
        let is_listed = |name: &str| name.ends_with(RunFile::Manifest.suffix());
        for path in store.files(RUNS, |entry| !is_listed(entry.name()))?.into_iter().chain([METADATA.to_owned()]) {
            let text = store.try_read(&path).map_err(|error| store.storage_error("read", &path, &error))?;
            checksum_file::add(store, &path, &checksum::sha256(text))?;
        }
        Ok(())
    }
}

/// Opens a quarantined copy of a part, so that its readable rows can be salvaged.
pub(crate) fn open_quarantined(path: &Path) -> Option<RangedFile> {
    fs::File::open(path).ok().map(RangedFile::new)
}

fn sync(folder: &Path) -> Result<()> {
    filesystem::sync_folder(folder).map_err(|error| Error::io("sync", folder, &error))
}

/// Returns an unused path in `folder` for a quarantined file. The new file name contains the original path.
fn unused_path(folder: &Path, path: &str) -> PathBuf {
    let flat_name = path.replace('/', "_");
    let mut path = folder.join(&flat_name);
    let mut n = 1;
    while fs::symlink_metadata(&path).is_ok() {
        n += 1;
        path = folder.join(format!("{n}_{flat_name}"));
    }
    path
}
