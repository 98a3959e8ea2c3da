//! `--metrics-file`: writes the metrics of a run for Prometheus, regardless of how the run ended.

#![expect(clippy::disallowed_methods, reason = "writes a file that the user specifies")]

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

/// The fields of a run's summary that show whether the run succeeded.
#[derive(Deserialize)]
struct RunEnd {
    #[serde(default)]
    command: RunCommand,
    exit_code: u8,
    finished_at: Option<Timestamp>,
}

/// Writes the metrics of a finished run.
pub(super) fn write(file: &Path, archive: &Archive, run: &RunSummary) -> Result<()> {
    let text = report::metrics(run, last_success(archive, run.command));
    replace(file, text.as_bytes()).map_err(|error| Error::io("write", file, &error))
}

/// Returns the time at which a run of this command last ended with exit status 0, according to the run summaries. An
/// unreadable run summary does not count as a success, because the outcome of its run is unknown.
fn last_success(archive: &Archive, command: RunCommand) -> Option<Timestamp> {
    for path in archive.run_files(RunFile::Summary).ok()?.iter().rev() {
        let text = archive.store.get(path).ok().flatten().unwrap_or_default();
        match serde_json::from_slice(&text) {
            Ok(RunEnd { exit_code: 0, finished_at: Some(at), command: ended }) if ended == command => return Some(at),
            _ => {}
        }
    }
    None
}

/// Writes a staging file and renames it, so that a metrics collector reads either the old file or the new one. The name
/// of the staging file ends with `#` and the process ID, so that collectors do not mistake it for a metrics file. The
/// new file keeps the permissions of the file that it replaces.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staging = file.as_os_str().to_owned();
    staging.push(format!("#{}", std::process::id()));
    let staging = Path::new(&staging);
    let write = || {
        let mut out = File::create(staging)?;
        if file.exists() {
            filesystem::copy_permissions(file, staging)?;
        }
        out.write_all(bytes)?;
        filesystem::sync_file(&out)?;
        fs::rename(staging, file)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(staging);
    }
    written
}
