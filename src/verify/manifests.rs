//! Reads manifests line by line.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
};

use super::finding::{Finding, FindingKind, Findings, count_of};
use crate::{
    archive::{Archive, Entry, RUNS, RunFile, parse_manifest_line},
    error::Result,
};

/// The parts that are listed in manifests, each with the SHA-256 from every manifest line that lists the part.
pub(super) type Parts = BTreeMap<String, Vec<String>>;

/// Calls `line` for each valid line of each manifest, with the path of the manifest and the SHA-256 and path from the
/// line. Adds a finding for each manifest that has invalid lines or cannot be read.
pub(super) fn for_each_line(
    archive: &Archive,
    findings: &mut Findings,
    line: &mut dyn FnMut(&mut Findings, &str, &str, &str) -> Result<()>,
) -> Result<()> {
    let entries = archive.store.list(RUNS)?;
    for entry in entries.iter().filter(|entry| is_manifest(entry)) {
        let manifest = &entry.path;
        let read = read_lines(archive, manifest, &mut |digest, path| line(findings, manifest, digest, path))?;
        match read {
            Ok(0) => {}
            Ok(invalid) => {
                findings.add(damaged_manifest(manifest, format!("has {}", count_of(invalid, "invalid line"))));
            }
            Err(error) => findings.add(damaged_manifest(manifest, format!("cannot be read: {error}"))),
        }
    }
    Ok(())
}

fn is_manifest(entry: &Entry) -> bool {
    !entry.is_folder && RunFile::parse(entry.name()).is_some_and(|(kind, _)| kind == RunFile::Manifest)
}

/// Returns the number of invalid lines. An empty manifest counts as one invalid line, because no run writes an empty
/// manifest.
fn read_lines(
    archive: &Archive,
    manifest: &str,
    line: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<io::Result<u64>> {
    let mut lines = match archive.separate_damage(manifest, archive.read(manifest))? {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(0)),
        Err(error) => return Ok(Err(error)),
    };
    let (mut text, mut invalid, mut valid) = (Vec::new(), 0, 0_u64);
    loop {
        text.clear();
        match archive.separate_damage(manifest, lines.read_until(b'\n', &mut text))? {
            Ok(0) => return Ok(Ok(if invalid + valid == 0 { 1 } else { invalid })),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let parsed =
            text.strip_suffix(b"\n").and_then(|text| std::str::from_utf8(text).ok()).and_then(parse_manifest_line);
        match parsed {
            Some((digest, path)) => {
                valid += 1;
                line(digest, path)?;
            }
            None => invalid += 1,
        }
    }
}

pub(super) fn damaged_manifest(manifest: &str, what: impl Into<String>) -> Finding {
    Finding::file(FindingKind::ManifestDamaged, manifest, what)
}

/// Returns the table whose folder contains the path.
pub(super) fn table_for(path: &str) -> Option<&'static str> {
    let (folder, _) = path.split_once('/')?;
    crate::tables::TABLES.into_iter().find(|table| *table == folder)
}

/// Reads the checksums of all parts from the manifests.
pub(super) fn read_part_checksums(archive: &Archive, findings: &mut Findings) -> Result<Parts> {
    let mut parts = Parts::new();
    for_each_line(archive, findings, &mut |_, _, digest, path| {
        if table_for(path).is_some() {
            parts.entry(path.to_owned()).or_default().push(digest.to_owned());
        }
        Ok(())
    })?;
    Ok(parts)
}
