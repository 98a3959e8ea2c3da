//! `--metrics-file`: what a run leaves for Prometheus, whatever its ending was.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    archive::{Archive, RUNS, RunFile},
    error::{Error, Result},
    report,
    run_summary::RunSummary,
};

/// What it takes to know whether a run went well.
#[derive(Deserialize)]
struct Ended {
    exit_code: u8,
    finished_at: Option<Timestamp>,
}

/// Leaves the figures of a run that is over.
pub(super) async fn leave(file: &Path, archive: &Archive, run: &RunSummary) -> Result<()> {
    let text = report::metrics(run, last_success(archive).await);
    replace(file, text.as_bytes()).map_err(|error| Error::io("write", file, &error))
}

/// When a run of the archive last ended with exit status 0, by the runs' own words. What cannot be read
/// counts as no success, since its outcome is unknown.
async fn last_success(archive: &Archive) -> Option<Timestamp> {
    for path in archive.store.list(RUNS, RunFile::Summary.ending()).await.ok()?.iter().rev() {
        let text = archive.store.get(path).await.ok().flatten().unwrap_or_default();
        if let Ok(Ended { exit_code: 0, finished_at: Some(at) }) = serde_json::from_slice(&text) {
            return Some(at);
        }
    }
    None
}

/// Writes a staging file and renames it, so that a collector reads either the old or the new file. The staging
/// name has another extension, which collectors ignore, and the process ID.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!("#{}", std::process::id()));
    let written = File::create(&aside)
        .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
        .and_then(|()| fs::rename(&aside, file));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}
