//! The `-raw.jsonl` file, which contains response bodies that could not be archived unchanged. Publishing a segment
//! rewrites the whole file and adds the segment's bodies, one per line. Lines that the file already contains are not
//! added again, so publishing a segment twice is harmless.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    archive::{FileSink, LockedArchive, RunFile},
    error::Result,
    run_id::RunId,
};

/// The `-raw.jsonl` file of one run. The staging file is created when the first body is added. One hash per line is
/// held in memory. All methods perform blocking I/O.
pub(super) struct RawBodies {
    archive: Arc<LockedArchive>,
    path: String,
    file: Option<(FileSink, HashSet<u64>)>,
    hasher: RandomState,
}

#[derive(Serialize)]
struct Line<'a> {
    task_id: &'a str,
    reason: &'a str,
    body: &'a str,
}

impl RawBodies {
    pub(super) fn new(archive: &Arc<LockedArchive>, run_id: &RunId) -> Self {
        Self { archive: archive.clone(), path: RunFile::Raw.path(run_id), file: None, hasher: RandomState::new() }
    }

    pub(super) fn add(&mut self, task_id: &str, reason: &str, body: &str) -> Result<()> {
        let mut line =
            serde_json::to_vec(&Line { task_id, reason, body }).expect("a struct of strings serializes to JSON");
        line.push(b'\n');
        let (sink, seen) = match &mut self.file {
            Some(file) => file,
            None => {
                let file = self.create()?;
                self.file.insert(file)
            }
        };
        if !seen.insert(self.hasher.hash_one(line.as_slice())) {
            return Ok(());
        }
        sink.write_all(&line).map_err(|error| self.archive.store.storage_error("write", &self.path, &error))
    }

    /// Returns the staging file, or `None` if no body was added.
    pub(super) fn finish(self) -> Option<FileSink> {
        self.file.map(|(sink, _)| sink)
    }

    /// Creates the staging file and copies the lines of the published `-raw.jsonl` file, if any, into it.
    fn create(&self) -> Result<(FileSink, HashSet<u64>)> {
        let (store, mut sink, mut seen) = (&self.archive.store, self.archive.sink(&self.path)?, HashSet::new());
        if store.exists(&self.path)? {
            let copied = copy_lines(store.open(&self.path)?, &mut sink, |line| {
                seen.insert(self.hasher.hash_one(line));
            });
            copied.map_err(|error| store.storage_error("write", &self.path, &error))?;
        }
        Ok((sink, seen))
    }
}

fn copy_lines(from: impl Read, to: &mut impl Write, mut on_line: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut lines, mut line) = (BufReader::new(from), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        on_line(&line);
        to.write_all(&line)?;
        line.clear();
    }
    Ok(())
}
