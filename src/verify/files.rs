//! Checks the files that rows and manifests list, mainly media files: whether each file exists and has the recorded
//! size and SHA-256. Several threads read the files, because a disk or a network file system may be slow.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use super::{
    depth::Depth,
    finding::{Finding, Findings, Kind, Subject},
    manifests,
    media_set::{Match, MediaRow, MediaSet, is_media},
    rows::{ASSET_COLUMNS, Seen},
    snapshot::half_finished,
    tally::Tally,
};
use crate::{
    archive::{Archive, MEDIA},
    checksum,
    error::{Error, Result},
    journal, tables,
};

/// The number of reader threads. A disk is fastest with a few concurrent requests, and hashing takes one core per
/// thread.
const READERS: usize = 4;

/// The maximum number of files in the queue.
const WAITING: usize = 256;

/// A file to check.
struct Job {
    path: String,
    sha256: String,
    /// The expected size, if a row records the size.
    bytes: Option<u64>,
    about: Subject,
}

/// The result for a checked file: the number of bytes read, and the finding, if any.
struct Done {
    path: String,
    read: Result<(u64, Option<Finding>)>,
}

/// Checks every file that a row or a manifest lists, except parts. Returns the number of checked files.
pub(super) fn check(
    archive: &Archive,
    depth: Depth,
    seen: &mut Seen,
    findings: &mut Findings,
    tally: &mut Tally<'_>,
) -> Result<u64> {
    tally.expect("files", seen.media.len());
    let (jobs, waiting) = mpsc::sync_channel(WAITING);
    let (tell, told) = mpsc::channel();
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (tell, waiting) = (tell.clone(), &waiting);
            scope.spawn(move || read_all(archive, depth, waiting, &tell));
        }
        drop(tell);
        let mut dispatcher = Dispatcher { jobs, told, findings, tally, files: 0 };
        dispatcher.hand_out_listed(archive, &mut seen.media)?;
        dispatcher.hand_out_rows(archive, seen)?;
        dispatcher.finish()
    })
}

/// Queues files for the reader threads and collects the results.
struct Dispatcher<'a, 't> {
    jobs: SyncSender<Job>,
    told: Receiver<Done>,
    findings: &'a mut Findings,
    tally: &'a mut Tally<'t>,
    files: u64,
}

impl Dispatcher<'_, '_> {
    /// Queues the files that a manifest lists but no row does.
    fn hand_out_listed(&mut self, archive: &Archive, media: &mut MediaSet) -> Result<()> {
        // Findings about manifests are collected separately, because the callback mutably borrows the dispatcher and
        // its findings.
        let mut bad_lines = Findings::new(self.findings.most());
        manifests::each_line(archive, &mut bad_lines, &mut |bad_lines, manifest, digest, path| {
            if manifests::table_of(path).is_some() {
                return Ok(());
            }
            match media.list(path, digest) {
                Match::Same => Ok(()),
                Match::Different => {
                    let what = format!("lists {path} with a different SHA-256 than the assets table or another manifest");
                    bad_lines.add(manifests::damaged(manifest, what));
                    Ok(())
                }
                Match::Unknown => self.hand_out(Job {
                    path: path.to_owned(),
                    sha256: digest.to_owned(),
                    bytes: None,
                    about: Subject::File,
                }),
            }
        })?;
        self.findings.merge(bad_lines);
        Ok(())
    }

    /// Queues every file that a row lists. Each file is queued only once.
    fn hand_out_rows(&mut self, archive: &Archive, seen: &mut Seen) -> Result<()> {
        let Seen { snapshot, media, distrusted, .. } = seen;
        for part in snapshot.assets.iter().filter(|part| !distrusted.contains(*part)) {
            let mut handed = Ok(());
            // An unreadable part has already been reported.
            let _ = archive.read(part).and_then(|file| {
                tables::guarded(|| {
                    tables::scan(file, archive.format, &ASSET_COLUMNS, &mut |cells| {
                        if let Some(Ok(row)) = MediaRow::of(cells)
                            && handed.is_ok()
                            && media.take(row.path)
                        {
                            self.note_unlisted(&row, media, snapshot.is_pending(part));
                            handed = self.hand_out(Job {
                                path: row.path.to_owned(),
                                sha256: row.sha256.to_owned(),
                                bytes: Some(row.bytes),
                                about: row.about(),
                            });
                        }
                    })
                })
            });
            handed?;
        }
        Ok(())
    }

    /// Adds a finding if no manifest lists the file, unless the file belongs to a pending part. The task of such a
    /// file is still in the journal, and a run is about to list the file.
    fn note_unlisted(&mut self, row: &MediaRow<'_>, media: &MediaSet, is_pending: bool) {
        if !is_pending && !media.is_listed(row.path) {
            self.findings.add(Finding::new(Kind::MediaUnlisted, row.path, "is not listed in any manifest", row.about()));
        }
    }

    fn hand_out(&mut self, job: Job) -> Result<()> {
        self.files += 1;
        while let Ok(done) = self.told.try_recv() {
            self.collect(done)?;
        }
        self.tally.tick();
        self.jobs.send(job).map_err(|_| Error::Internal("all reader threads have stopped".into()))
    }

    fn collect(&mut self, done: Done) -> Result<()> {
        let (bytes, finding) = done.read?;
        self.tally.read(bytes);
        self.tally.done(&done.path);
        self.findings.extend(finding);
        Ok(())
    }

    /// Waits for the reader threads, and reports progress while waiting.
    fn finish(mut self) -> Result<u64> {
        let (closed, _) = mpsc::sync_channel(0);
        drop(std::mem::replace(&mut self.jobs, closed));
        loop {
            match self.told.recv_timeout(Duration::from_millis(200)) {
                Ok(done) => self.collect(done)?,
                Err(RecvTimeoutError::Timeout) => self.tally.tick(),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.files),
            }
        }
    }
}

fn read_all(archive: &Archive, depth: Depth, waiting: &Mutex<Receiver<Job>>, tell: &Sender<Done>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let read = check_file(archive, depth, &job);
        if tell.send(Done { path: job.path, read }).is_err() {
            return;
        }
    }
}

/// Checks a file. Returns the number of bytes read, and the finding, if any.
fn check_file(archive: &Archive, depth: Depth, job: &Job) -> Result<(u64, Option<Finding>)> {
    let (missing, damaged) = if is_media(&job.path) {
        (Kind::MediaMissing, Kind::MediaDamaged)
    } else {
        (Kind::FileMissing, Kind::FileDamaged)
    };
    let finding = |kind, what: String| Some(Finding::new(kind, &job.path, what, job.about.clone()));
    let failed = |error: &io::Error| archive.store.failed("read", &job.path, error);
    let size = match archive.size(&job.path) {
        Ok(Some(size)) => size,
        Ok(None) => return Ok((0, finding(missing, "is missing".into()))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(&error)),
        Err(error) => return Ok((0, finding(damaged, format!("cannot be read: {error}")))),
    };
    if let Some(due) = job.bytes.filter(|due| *due != size) {
        return Ok((0, finding(damaged, format!("has {size} bytes instead of {due}"))));
    }
    if !depth.reads(&job.path) {
        return Ok((0, None));
    }
    match archive.read(&job.path).and_then(|mut file| checksum::digest(&mut file)) {
        Ok(read) if read.sha256 == job.sha256 => Ok((read.bytes, None)),
        Ok(read) => Ok((read.bytes, finding(damaged, "is damaged: its SHA-256 does not match".into()))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(&error)),
        Err(error) => Ok((0, finding(damaged, format!("cannot be read: {error}")))),
    }
}

/// Finds media files that no row and no manifest lists. Reports no such files while a run is in progress or the
/// journal contains tasks of an interrupted run, because rows for these files may be added later.
pub(super) fn strays(archive: &Archive, seen: &Seen, findings: &mut Findings) -> Result<()> {
    let mut unknown = BTreeSet::new();
    let mut folders = vec![MEDIA.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in archive.store.list(&folder)? {
            if entry.is_folder {
                folders.push(entry.path);
            } else if entry.is_half_finished() {
                findings.extend(half_finished(archive, &entry));
            } else if !seen.media.has(&entry.path) {
                unknown.insert(entry.path);
            }
        }
    }
    if archive.holder().is_some() || !journal::segments(&archive.journal_folder())?.is_empty() {
        return Ok(());
    }
    if !unknown.is_empty() {
        // A run may have started and finished after the tables were read. The files that it added are in its
        // manifest.
        manifests::each_line(archive, &mut Findings::new(0), &mut |_, _, _, path| {
            unknown.remove(path);
            Ok(())
        })?;
    }
    findings.extend(unknown.iter().map(|path| Finding::file(Kind::StrayMedia, path, "is not listed in any row or manifest")));
    Ok(())
}
