//! Small text files that grow a line at a time and are put in place whole each time: a run's manifest
//! and its raw bodies. Adding the same lines twice changes nothing, so a publication can be repeated.

use std::collections::BTreeMap;

use super::store::{Store, StoredFile};
use crate::{archive::RunFile, error::Result, run_id::RunId};

/// Adds files to the run's manifest, in the form that `sha256sum -c` reads from inside the archive.
pub(crate) async fn add_to_manifest(store: &Store, run_id: &RunId, files: &[StoredFile]) -> Result<()> {
    let path = RunFile::Manifest.path(run_id);
    let text = store.get(&path).await?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut digests: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once("  ")).map(|(digest, path)| (path, digest)).collect();
    digests.extend(files.iter().map(|file| (file.path.as_str(), file.sha256.as_str())));
    let lines: Vec<String> = digests.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
    store.put(&path, lines.concat()).await
}

/// Adds the lines that are not there yet.
pub(crate) async fn add_lines(store: &Store, path: &str, lines: &[String]) -> Result<()> {
    let text = store.get(path).await?.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&text).into_owned();
    let known: std::collections::HashSet<String> = text.lines().map(str::to_owned).collect();
    for line in lines.iter().filter(|line| !known.contains(*line)) {
        text.push_str(line);
        text.push('\n');
    }
    store.put(path, text).await
}
