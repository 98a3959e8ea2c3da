//! Reads the manifests line by line.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
};

use super::finding::{Finding, Findings, Kind};
use crate::{
    archive::{Archive, Entry, RUNS, RunFile, manifest_line},
    error::Result,
};

/// The parts that manifests list, and each digest that one gives.
pub(super) type Parts = BTreeMap<String, Vec<String>>;

/// Calls `line` with each manifest, digest and path; finds what is not a manifest's line.
pub(super) fn each_line(
    archive: &Archive,
    findings: &mut Findings,
    line: &mut dyn FnMut(&mut Findings, &str, &str, &str) -> Result<()>,
) -> Result<()> {
    let entries = archive.store.list(RUNS)?;
    for entry in entries.iter().filter(|entry| is_manifest(entry)) {
        let manifest = &entry.path;
        let read = each_line_of(archive, manifest, &mut |digest, path| line(findings, manifest, digest, path))?;
        match read {
            Ok(0) => {}
            Ok(bad) => findings.add(damaged(manifest, format!("has lines that no run wrote ({bad})"))),
            Err(error) => findings.add(damaged(manifest, format!("cannot be read: {error}"))),
        }
    }
    Ok(())
}

fn is_manifest(entry: &Entry) -> bool {
    !entry.is_folder && RunFile::parse(entry.name()).is_some_and(|(kind, _)| kind == RunFile::Manifest)
}

/// How many lines make no sense. An empty manifest is one such line: no run writes it.
fn each_line_of(
    archive: &Archive,
    manifest: &str,
    line: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<io::Result<u64>> {
    let mut lines = match archive.damage(manifest, archive.read(manifest))? {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(0)),
        Err(error) => return Ok(Err(error)),
    };
    let (mut text, mut bad, mut good) = (Vec::new(), 0, 0_u64);
    loop {
        text.clear();
        match archive.damage(manifest, lines.read_until(b'\n', &mut text))? {
            Ok(0) => return Ok(Ok(if bad + good == 0 { 1 } else { bad })),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let whole = text.strip_suffix(b"\n").and_then(|text| std::str::from_utf8(text).ok()).and_then(manifest_line);
        match whole {
            Some((digest, path)) => {
                good += 1;
                line(digest, path)?;
            }
            None => bad += 1,
        }
    }
}

pub(super) fn damaged(manifest: &str, what: impl Into<String>) -> Finding {
    Finding::file(Kind::ManifestDamaged, manifest, what)
}

/// The table whose folder a path is in.
pub(super) fn table_of(path: &str) -> Option<&'static str> {
    let (folder, _) = path.split_once('/')?;
    crate::tables::TABLES.into_iter().find(|table| *table == folder)
}

/// Reads what the manifests say of parts.
pub(super) fn parts(archive: &Archive, findings: &mut Findings) -> Result<Parts> {
    let mut parts = Parts::new();
    each_line(archive, findings, &mut |_, _, digest, path| {
        if table_of(path).is_some() {
            parts.entry(path.to_owned()).or_default().push(digest.to_owned());
        }
        Ok(())
    })?;
    Ok(parts)
}
