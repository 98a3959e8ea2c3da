//! The manifest of a run contains the SHA-256 of every file that the run added. A manifest has the output format of
//! `sha256sum`, so the files can be verified by running `sha256sum -c` in the archive folder.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    layout::{RUNS, RunFile},
    store::{Store, StoredFile},
};
use crate::{error::Result, ranged::RangedFile};

/// A line of a manifest, with the path of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestLine {
    /// The path of the manifest in the archive.
    pub(crate) manifest: String,
    /// The path of the listed file in the archive.
    pub(crate) path: String,
    pub(crate) sha256: String,
}

/// Searches all manifests for the lines of the files that `wanted` selects. Only matching lines are held in memory.
/// This function blocks.
pub(super) fn find_lines(store: &Store, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ManifestLine>> {
    let is_manifest = |name: &str| RunFile::parse(name).is_some_and(|(kind, _)| kind == RunFile::Manifest);
    let mut found = Vec::new();
    for path in store.files(RUNS, |entry| is_manifest(entry.name()))? {
        find_lines_in(store.open(&path)?, &path, wanted, &mut found)
            .map_err(|error| store.storage_error("read", &path, &error))?;
    }
    Ok(found)
}

fn find_lines_in(
    file: RangedFile,
    manifest: &str,
    wanted: &dyn Fn(&str) -> bool,
    found: &mut Vec<ManifestLine>,
) -> io::Result<()> {
    for line in BufReader::new(file).split(b'\n') {
        // A line that is not valid UTF-8 is damaged and cannot match a wanted file.
        let Ok(line) = String::from_utf8(line?) else { continue };
        if let Some((sha256, path)) = line.split_once("  ").filter(|(_, path)| wanted(path)) {
            found.push(ManifestLine { manifest: manifest.into(), path: path.into(), sha256: sha256.into() });
        }
    }
    Ok(())
}

/// Copies a manifest to `out` without the lines for the files that `is_removed` selects. Returns the number of lines
/// written.
pub(super) fn remove_lines(
    existing: impl BufRead,
    is_removed: &dyn Fn(&str) -> bool,
    mut out: impl Write,
) -> io::Result<u64> {
    let mut count = 0;
    for line in existing.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if !line.split_once("  ").is_some_and(|(_, path)| is_removed(path)) {
            writeln!(out, "{line}")?;
            count += 1;
        }
    }
    Ok(count)
}

/// Merges `files` into a manifest and writes the result to `out`. A new line replaces an existing line for the same
/// path. The existing lines must be sorted by path, and the merged lines are written in the same order. Only the new
/// lines and one existing line are held in memory. Returns the number of lines written.
pub(super) fn merge(existing: impl BufRead, files: &[StoredFile], mut out: impl Write) -> io::Result<u64> {
    let mut lines = 0;
    let added: BTreeMap<&str, &str> = files.iter().map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
    let mut added = added.into_iter().peekable();
    let mut write = |digest: &str, path: &str| {
        lines += 1;
        writeln!(out, "{digest}  {path}")
    };
    for line in existing.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let Some((digest, path)) = line.split_once("  ") else { continue };
        while let Some((path, digest)) = added.next_if(|(added, _)| *added < path) {
            write(digest, path)?;
        }
        let (path, digest) = added.next_if(|(added, _)| *added == path).unwrap_or((path, digest));
        write(digest, path)?;
    }
    added.try_for_each(|(path, digest)| write(digest, path))?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(existing: &str, files: &[(&str, &str)]) -> String {
        let file = |(path, sha256): &(&str, &str)| StoredFile { path: (*path).into(), sha256: (*sha256).into() };
        let files: Vec<StoredFile> = files.iter().map(file).collect();
        let mut out = Vec::new();
        merge(existing.as_bytes(), &files, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn files_are_added_once_and_in_order() {
        let first = merged("", &[("tasks/b", "02"), ("clips/a", "01")]);
        assert_eq!(first, "01  clips/a\n02  tasks/b\n");
        assert_eq!(merged(&first, &[("tasks/b", "03")]), "01  clips/a\n03  tasks/b\n");
        assert_eq!(
            merged(&first, &[("d", "04"), ("z", "05"), ("a", "06")]),
            "06  a\n01  clips/a\n04  d\n02  tasks/b\n05  z\n"
        );
        assert_eq!(merged(&first, &[]), first);
    }
}
