//! `--metrics-file`: what a run leaves for Prometheus, whatever its ending was.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    archive::{Archive, RunFile},
    error::{Error, Result},
    filesystem, report,
    run_summary::{RunCommand, RunSummary},
};

/// What it takes to know whether a run went well.
#[derive(Deserialize)]
struct Ended {
    #[serde(default)]
    command: RunCommand,
    exit_code: u8,
    finished_at: Option<Timestamp>,
}

/// Leaves the figures of a run that is over.
pub(super) async fn leave(file: &Path, archive: &Archive, run: &RunSummary) -> Result<()> {
    let text = report::metrics(run, last_success(archive, run.command).await);
    replace(file, text.as_bytes()).map_err(|error| Error::io("write", file, &error))
}

/// When a run of that command last ended with exit status 0, by the runs' own words. What cannot be read
/// counts as no success, since nobody knows.
async fn last_success(archive: &Archive, command: RunCommand) -> Option<Timestamp> {
    for path in archive.run_files(RunFile::Summary).await.ok()?.iter().rev() {
        let text = archive.store.get(path).await.ok().flatten().unwrap_or_default();
        match serde_json::from_slice(&text) {
            Ok(Ended { exit_code: 0, finished_at: Some(at), command: ended }) if ended == command => return Some(at),
            _ => {}
        }
    }
    None
}

/// Writes aside and renames: whoever collects the file finds the old one or the new one, whole. The name
/// aside has another ending, which no collector takes, and the process's number. An existing file keeps its mode.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!("#{}", std::process::id()));
    let aside = Path::new(&aside);
    let write = || {
        let mut out = File::create(aside)?;
        if file.exists() {
            filesystem::copy_permissions(file, aside)?;
        }
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(aside, file)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(aside);
    }
    written
}
