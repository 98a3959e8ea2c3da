//! Checks that the files listed in rows and manifests, mainly media files, exist and have the recorded size and
//! SHA-256. Several threads read files in parallel, because a disk or a network file system may be slow.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use super::{
    depth::Depth,
    finding::{Finding, FindingKind, Findings, Subject},
    manifests,
    media_set::{ChecksumMatch, MediaRow, MediaSet, is_media},
    progress::CheckProgress,
    rows::{ASSET_COLUMNS, TableCheck},
    snapshot::stale_staging_file,
};
use crate::{
    archive::{Archive, MEDIA},
    checksum,
    error::{Error, Result},
    journal, tables,
};

/// The number of reader threads. A disk is fastest with a few concurrent reads, and each thread uses one CPU core for
/// hashing.
const READERS: usize = 4;

/// The maximum number of queued files that are waiting for a reader thread.
const QUEUE_CAPACITY: usize = 256;

/// A file to check.
struct Job {
    path: String,
    sha256: String,
    /// The expected size, if a row records the size.
    bytes: Option<u64>,
    subject: Subject,
}

/// The result of checking a file: the number of bytes read, and the finding, if any.
struct CheckResult {
    path: String,
    outcome: Result<(u64, Option<Finding>)>,
}

/// Checks every file that a row or a manifest lists, except parts. Returns the number of checked files.
pub(super) fn check(
    archive: &Archive,
    depth: Depth,
    check: &mut TableCheck,
    findings: &mut Findings,
    progress: &mut CheckProgress<'_>,
) -> Result<u64> {
    progress.start_phase("files", check.media.len());
    let (jobs, job_receiver) = mpsc::sync_channel(QUEUE_CAPACITY);
    let (result_sender, results) = mpsc::channel();
    let job_receiver = Mutex::new(job_receiver);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (result_sender, job_receiver) = (result_sender.clone(), &job_receiver);
            scope.spawn(move || read_all(archive, depth, job_receiver, &result_sender));
        }
        drop(result_sender);
        let mut dispatcher = Dispatcher { jobs, results, findings, progress, files: 0 };
        dispatcher.enqueue_unreferenced(archive, &mut check.media)?;
        dispatcher.enqueue_from_rows(archive, check)?;
        dispatcher.finish()
    })
}

/// Queues files for the reader threads and collects the results.
struct Dispatcher<'a, 't> {
    jobs: SyncSender<Job>,
    results: Receiver<CheckResult>,
    findings: &'a mut Findings,
    progress: &'a mut CheckProgress<'t>,
    files: u64,
}

impl Dispatcher<'_, '_> {
    /// Queues the files that are listed in a manifest but not in any row.
    fn enqueue_unreferenced(&mut self, archive: &Archive, media: &mut MediaSet) -> Result<()> {
        // Findings about manifests are collected separately, because the callback already borrows `self` mutably.
        let mut manifest_findings = self.findings.empty();
        manifests::for_each_line(archive, &mut manifest_findings, &mut |manifest_findings, manifest, digest, path| {
            if manifests::table_for(path).is_some() {
                return Ok(());
            }
            match media.add_manifest_line(path, digest) {
                ChecksumMatch::Same => Ok(()),
                ChecksumMatch::Different => {
                    let what =
                        format!("lists {path} with a SHA-256 that does not match the assets table or another manifest");
                    manifest_findings.add(manifests::damaged_manifest(manifest, what));
                    Ok(())
                }
                ChecksumMatch::Unknown => self.enqueue(Job {
                    path: path.to_owned(),
                    sha256: digest.to_owned(),
                    bytes: None,
                    subject: Subject::File,
                }),
            }
        })?;
        self.findings.merge(manifest_findings);
        Ok(())
    }

    /// Queues every file that a row lists. A file that is listed in several rows is queued only once.
    fn enqueue_from_rows(&mut self, archive: &Archive, check: &mut TableCheck) -> Result<()> {
        let TableCheck { snapshot, media, damaged_parts, .. } = check;
        for part in snapshot.assets.iter().filter(|part| !damaged_parts.contains(*part)) {
            let mut enqueued = Ok(());
            let scanned = archive.read(part).and_then(|file| {
                tables::catch_panic(|| {
                    tables::scan(file, archive.format, &ASSET_COLUMNS, &mut |cells| {
                        if let Some(Ok(row)) = MediaRow::from_cells(cells)
                            && enqueued.is_ok()
                            && media.mark_queued(row.path)
                        {
                            self.report_unlisted(&row, media, snapshot.is_pending(part));
                            enqueued = self.enqueue(Job {
                                path: row.path.to_owned(),
                                sha256: row.sha256.to_owned(),
                                bytes: Some(row.bytes),
                                subject: row.subject(),
                            });
                        }
                    })
                })
            });
            // The check of the tables has already reported parts that cannot be read.
            let _ = archive.separate_damage(part, scanned)?;
            enqueued?;
        }
        Ok(())
    }

    /// Adds a finding if no manifest lists the media file of a row. Rows in a pending part are excluded, because the
    /// run has not yet listed the files of these rows in its manifest.
    fn report_unlisted(&mut self, row: &MediaRow<'_>, media: &MediaSet, is_pending: bool) {
        if !is_pending && !media.is_listed(row.path) {
            self.findings.add(Finding::new(
                FindingKind::MediaUnlisted,
                row.path,
                "is not listed in any manifest",
                row.subject(),
            ));
        }
    }

    fn enqueue(&mut self, job: Job) -> Result<()> {
        self.files += 1;
        while let Ok(result) = self.results.try_recv() {
            self.collect(result)?;
        }
        self.progress.tick();
        self.jobs.send(job).map_err(|_| Error::Internal("all reader threads have stopped".into()))
    }

    fn collect(&mut self, result: CheckResult) -> Result<()> {
        let (bytes, finding) = result.outcome?;
        self.progress.add_bytes(bytes);
        self.progress.finish_file(&result.path);
        self.findings.extend(finding);
        Ok(())
    }

    /// Waits for the reader threads, and reports progress while waiting.
    fn finish(mut self) -> Result<u64> {
        let (closed, _) = mpsc::sync_channel(0);
        drop(std::mem::replace(&mut self.jobs, closed));
        loop {
            match self.results.recv_timeout(Duration::from_millis(200)) {
                Ok(result) => self.collect(result)?,
                Err(RecvTimeoutError::Timeout) => self.progress.tick(),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.files),
            }
        }
    }
}

fn read_all(archive: &Archive, depth: Depth, job_receiver: &Mutex<Receiver<Job>>, result_sender: &Sender<CheckResult>) {
    loop {
        let job = job_receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let outcome = check_file(archive, depth, &job);
        if result_sender.send(CheckResult { path: job.path, outcome }).is_err() {
            return;
        }
    }
}

/// Checks a file. Returns the number of bytes read, and the finding, if any.
fn check_file(archive: &Archive, depth: Depth, job: &Job) -> Result<(u64, Option<Finding>)> {
    let (missing, damaged) = if is_media(&job.path) {
        (FindingKind::MediaMissing, FindingKind::MediaDamaged)
    } else {
        (FindingKind::FileMissing, FindingKind::FileDamaged)
    };
    let finding = |kind, what: String| Some(Finding::new(kind, &job.path, what, job.subject.clone()));
    let size = match archive.separate_damage(&job.path, archive.size(&job.path))? {
        Ok(Some(size)) => size,
        Ok(None) => return Ok((0, finding(missing, "is missing".into()))),
        Err(error) => return Ok((0, finding(damaged, format!("cannot be read: {error}")))),
    };
    if let Some(expected) = job.bytes.filter(|expected| *expected != size) {
        return Ok((0, finding(damaged, format!("has {size} bytes instead of {expected}"))));
    }
    if !depth.selects(&job.path) {
        return Ok((0, None));
    }
    let read = archive.read(&job.path).and_then(|mut file| checksum::digest(&mut file));
    match archive.separate_damage(&job.path, read)? {
        Ok(read) if read.sha256 == job.sha256 => Ok((read.bytes, None)),
        Ok(read) => Ok((read.bytes, finding(damaged, "is damaged: its SHA-256 does not match".into()))),
        Err(error) => Ok((0, finding(damaged, format!("cannot be read: {error}")))),
    }
}

/// Finds media files that neither a row nor a manifest lists. Unlisted files are not reported while a run is in
/// progress or while the journal contains segments, because rows for these files may be added later.
pub(super) fn find_stray_media(archive: &Archive, check: &TableCheck, findings: &mut Findings) -> Result<()> {
    let mut unknown = BTreeSet::new();
    let mut folders = vec![MEDIA.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in archive.store.list(&folder)? {
            if entry.is_folder {
                folders.push(entry.path);
            } else if entry.is_staging_file() {
                findings.extend(stale_staging_file(archive, &entry));
            } else if !check.media.contains(&entry.path) {
                unknown.insert(entry.path);
            }
        }
    }
    if archive.holder().is_some() || !journal::segments(&archive.journal_folder())?.is_empty() {
        return Ok(());
    }
    if !unknown.is_empty() {
        // If a run has started and finished since the tables were read, its manifest lists the files that it added.
        manifests::for_each_line(archive, &mut Findings::new(0, Depth::Full), &mut |_, _, _, path| {
            unknown.remove(path);
            Ok(())
        })?;
    }
    findings.extend(
        unknown.iter().map(|path| Finding::file(FindingKind::StrayMedia, path, "is not listed in any row or manifest")),
    );
    Ok(())
}
