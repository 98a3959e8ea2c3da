//! The media stage downloads assets. The stage receives tasks and reports the outcome of each task's assets. A slow
//! host delays only the downloads from that host.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read, Seek},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

use super::keyed_mutex::KeyedMutex;
use crate::{
    archive::{LockedArchive, MediaName},
    asset::{Asset, AssetKind, AssetStatus},
    blocking::blocking,
    checksum::{self, FileDigest},
    error::{Error, Result},
    event::Event,
    media::{
        self, Access, ClipState, Content, Download, DownloadUpdate, Downloader, Failure, Limits, Outcome, Scheme,
        Source, Traffic,
    },
    ranged::RangedFile,
    tables, timestamp,
};

/// The maximum number of existing files that are read concurrently.
const MAX_CONCURRENT_READS: usize = 4;

/// The delay before clips with identical audio are downloaded again. The CDN may need this time to become consistent.
const IDENTICAL_REFETCH_DELAY: Duration = Duration::from_secs(10);

/// A wanted asset of a task.
#[derive(Clone, Debug)]
pub(super) struct AssetRequest {
    clip_id: Option<String>,
    clip_index: i32,
    kind: AssetKind,
    url: Option<String>,
    source: Source,
}

impl AssetRequest {
    /// Returns a request for each asset of these kinds in a response.
    fn from_data(data: &str, kinds: &[AssetKind], scheme: Scheme) -> Vec<Self> {
        let request = |clip: &tables::ClipUrls<'_>, kind| {
            let url = clip.url(kind);
            Self {
                clip_id: clip.clip_id.clone(),
                clip_index: clip.clip_index,
                kind,
                url: url.map(str::to_owned),
                source: Source::classify(url, &ClipState::from_clip(clip.clip), scheme),
            }
        };
        let clips = if kinds.is_empty() { Vec::new() } else { tables::clip_urls(data) };
        clips.iter().flat_map(|clip| kinds.iter().map(move |kind| request(clip, *kind))).collect()
    }

    /// Whether the asset should have a file, according to the response.
    pub(super) fn is_expected(&self) -> bool {
        !matches!(self.source, Source::Absent(_))
    }

    /// Returns the reason why the asset is still in progress, or `None` if it is not in progress.
    pub(super) fn in_progress(&self) -> Option<&str> {
        match &self.source {
            Source::InProgress(reason) => Some(reason),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> AssetKind {
        self.kind
    }

    fn asset(&self, status: AssetStatus) -> Asset {
        Asset::new(self.clip_id.clone(), self.kind, self.url.clone(), status)
    }

    /// Returns the name of the asset's media file.
    pub(super) fn name(&self, task_id: &str) -> MediaName {
        MediaName::new(self.kind, self.clip_id.as_deref(), task_id, self.clip_index)
    }
}

/// A task whose assets need to be downloaded.
#[derive(Clone, Debug)]
pub(super) struct MediaJob {
    pub(super) task_id: String,
    /// The number of the part whose segment contains the response, or `None` for a stored or recovered response.
    pub(super) part: Option<u32>,
    pub(super) asset_requests: Vec<AssetRequest>,
    pub(super) defer_policy: DeferPolicy,
}

/// Whether files on a host that is down or unreachable are left for the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeferPolicy {
    /// For a task that the current run fetched. Files on a host that is already marked as down are left for the next
    /// run. If a host is unreachable but not yet marked as down, its files are marked as failed.
    HostDownOnly,
    /// For a task whose downloads were not completed by a recent run. Files on a host that is down or unreachable are
    /// again left for the next run.
    Always,
    /// Files on a host that is down or unreachable are marked as failed, because no later run retries them.
    Never,
}

/// An event that the media stage sends to the coordinator.
#[derive(Debug)]
pub(super) enum DownloadEvent {
    /// Every asset of a task has a final outcome.
    Settled { task_id: String, part: Option<u32>, assets: Vec<Asset> },
    /// The task's assets are left for the next run, because the current run is ending or a host is down.
    Unsettled { task_id: String },
    /// An event that the coordinator emits unchanged.
    Forward(Event),
}

/// The coordinator's handle to the media stage.
pub(crate) struct MediaStage {
    jobs: mpsc::UnboundedSender<MediaJob>,
    pub(super) events: mpsc::UnboundedReceiver<DownloadEvent>,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
    offline: Arc<AtomicBool>,
    worker_task: Option<JoinHandle<Result<()>>>,
    scheme: Scheme,
}

impl MediaStage {
    /// Starts the media stage.
    pub(crate) fn start(archive: Arc<LockedArchive>, access: &Access, limits: Limits) -> Result<Self> {
        archive.create_partial_folder()?;
        let (jobs, incoming) = mpsc::unbounded_channel();
        let (emit, events) = mpsc::unbounded_channel();
        let (stop, received) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let downloader = Downloader::new(access, limits, stop.clone(), received.clone())?;
        let offline = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            archive,
            downloader,
            locks: KeyedMutex::default(),
            read_slots: Semaphore::new(MAX_CONCURRENT_READS),
            reused_files: Mutex::default(),
            stop: stop.clone(),
            offline: offline.clone(),
            emit,
        };
        let worker_task = Some(tokio::spawn(work(Arc::new(worker), incoming)));
        Ok(Self { jobs, events, stop, received, offline, worker_task, scheme: access.scheme })
    }

    /// Returns a request for each asset of these kinds in a response.
    pub(super) fn requests(&self, data: &str, kinds: &[AssetKind]) -> Vec<AssetRequest> {
        AssetRequest::from_data(data, kinds, self.scheme)
    }

    /// Sends a task to the media stage.
    pub(super) fn settle(&self, job: MediaJob) {
        // Sending fails only after the media stage has ended. `join` then returns the stage's error.
        let _ = self.jobs.send(job);
    }

    /// Stops new downloads from starting. Downloads in progress continue.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Aborts downloads in progress. Partial files are kept for the next run.
    pub(super) fn abort(&self) {
        self.worker_task.iter().for_each(JoinHandle::abort);
    }

    /// Records that the network may be down. From then on, files on an unreachable host are left for the next run.
    pub(super) fn go_offline(&self) {
        self.offline.store(true, Ordering::Relaxed);
    }

    /// Returns the number of bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until the stage ends, and returns its error, if any.
    pub(super) async fn join(&mut self) -> Result<()> {
        let Some(worker_task) = self.worker_task.take() else { return Ok(()) };
        match worker_task.await {
            Ok(ended) => ended,
            Err(aborted) if aborted.is_cancelled() => Ok(()),
            Err(panic) => Err(Error::Internal(format!("a stage of the run panicked: {panic}"))),
        }
    }
}

async fn work(worker: Arc<Worker>, mut incoming: mpsc::UnboundedReceiver<MediaJob>) -> Result<()> {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            job = incoming.recv() => match job {
                Some(job) => {
                    running.spawn(worker.clone().settle(job));
                }
                None => break,
            },
            Some(done) = running.join_next() => join_result(done)?,
        }
    }
    while let Some(done) = running.join_next().await {
        join_result(done)?;
    }
    Ok(())
}

fn join_result(done: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    done.unwrap_or_else(|panic| Err(Error::Internal(format!("a download panicked: {panic}"))))
}

struct Worker {
    archive: Arc<LockedArchive>,
    downloader: Downloader,
    locks: KeyedMutex,
    read_slots: Semaphore,
    /// The existing files that rows of this run refer to. The run must not replace these files.
    reused_files: Mutex<HashSet<MediaName>>,
    stop: CancellationToken,
    offline: Arc<AtomicBool>,
    emit: mpsc::UnboundedSender<DownloadEvent>,
}

impl Worker {
    /// Downloads all assets of a task. Returns an error only if a local file cannot be read or written. A failed
    /// download is recorded in the asset.
    async fn settle(self: Arc<Self>, job: MediaJob) -> Result<()> {
        let assets = try_join_all(job.asset_requests.iter().map(|request| self.asset(&job, request))).await?;
        let assets = match assets.into_iter().collect::<Option<Vec<Asset>>>() {
            Some(assets) => self.refetch_identical_audio(&job, assets).await?,
            None => None,
        };
        let MediaJob { task_id, part, .. } = job;
        self.send_event(match assets {
            Some(assets) => DownloadEvent::Settled { task_id, part, assets },
            None => DownloadEvent::Unsettled { task_id },
        });
        Ok(())
    }

    fn send_event(&self, event: DownloadEvent) {
        // A closed channel means that the run has ended.
        let _ = self.emit.send(event);
    }

    /// Determines the outcome of one asset, and downloads the file if necessary. Returns `None` if the asset is left
    /// for the next run.
    async fn asset(&self, job: &MediaJob, request: &AssetRequest) -> Result<Option<Asset>> {
        let settled = match &request.source {
            Source::Absent(reason) => Asset { error: Some(reason.clone()), ..request.asset(AssetStatus::Skipped) },
            Source::Unusable(reason) | Source::InProgress(reason) => {
                Asset { error: Some(reason.clone()), ..request.asset(AssetStatus::Failed) }
            }
            Source::File(_) => {
                let name = request.name(&job.task_id);
                let _lock = self.locks.lock(&name).await;
                let found = match self.find_existing(request, &name).await? {
                    Some(existing) => Some(existing),
                    None => self.fetch(job, request, &name).await?,
                };
                let Some(asset) = found else { return Ok(None) };
                asset
            }
        };
        self.send_event(DownloadEvent::Forward(Event::AssetSettled {
            task_id: job.task_id.clone(),
            clip_id: settled.clip_id.clone(),
            kind: settled.kind,
            status: settled.status,
            bytes: settled.bytes,
            attempts: settled.attempts,
            error: settled.error.clone(),
        }));
        Ok(Some(settled))
    }

    /// Returns the asset if its file already exists, because another task has the same clip or because an interrupted
    /// run has downloaded the file.
    async fn find_existing(&self, request: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        let (archive, found_name, name, kind) = (self.archive.clone(), name.clone(), name.clone(), request.kind);
        let _slot = self.read_slots.acquire().await;
        let found = blocking(move || {
            let Some((path, file)) = archive.open_media(&name, media::extensions(kind)) else { return Ok(None) };
            // An unreadable file, or a file of the wrong type, is replaced.
            Ok(read_media(kind, file).ok().flatten().map(|existing| (path, existing)))
        });
        let Some((path, (content, modified, file))) = found.await? else { return Ok(None) };
        self.reused_files.lock().unwrap_or_else(PoisonError::into_inner).insert(found_name);
        let content_type = Some(content.mime.to_owned());
        let asset = Asset { content_type, downloaded_at: modified, ..request.asset(AssetStatus::Ok) };
        Ok(Some(with_file(asset, path, file)))
    }

    /// Downloads the asset and moves the file to its final path.
    async fn fetch(&self, job: &MediaJob, request: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        match self.download(job, request, name).await? {
            Some(asset) => self.store_media(asset, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// Downloads the asset to a partial file. Returns `None` if the asset is left for the next run.
    async fn download(&self, job: &MediaJob, request: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        let Source::File(url) = &request.source else { return Ok(None) };
        let download = Download { url: url.clone(), kind: request.kind, partial: self.archive.partial(name) };
        let outcome = self.downloader.download(&download, &|update| self.forward_update(job, request, update)).await?;
        Ok(match outcome {
            Outcome::Stopped => None,
            Outcome::HostDown if job.defer_policy != DeferPolicy::Never => None,
            Outcome::HostDown => {
                Some(Asset { error: Some("the host is down".into()), ..request.asset(AssetStatus::Failed) })
            }
            Outcome::Failed { failure, .. } if !failure.connected && self.may_defer(job) => None,
            Outcome::Failed { failure, traffic } => {
                let Failure { reason, http_status, content_type, .. } = failure;
                let failed = request.asset(AssetStatus::Failed);
                Some(with_traffic(Asset { error: Some(reason), http_status, content_type, ..failed }, traffic))
            }
            Outcome::Complete { file, content, http_status, traffic } => {
                let asset = Asset {
                    content_type: Some(content.mime.into()),
                    http_status: Some(http_status),
                    downloaded_at: Some(timestamp::now()),
                    ..request.asset(AssetStatus::Ok)
                };
                Some(with_file(with_traffic(asset, traffic), name.path(content.extension), file))
            }
        })
    }

    /// Whether a file on an unreachable host is left for the next run.
    fn may_defer(&self, job: &MediaJob) -> bool {
        job.defer_policy == DeferPolicy::Always || self.offline.load(Ordering::Relaxed)
    }

    /// Moves a downloaded file to its final path.
    async fn store_media(&self, asset: Asset, name: &MediaName) -> Result<Asset> {
        if let Some(path) = asset.path.clone() {
            let (archive, partial) = (self.archive.clone(), self.archive.partial(name));
            blocking(move || archive.store_media(&partial, &path)).await?;
        }
        Ok(asset)
    }

    /// Removes an asset's old file if the asset's new file has a different path.
    fn remove_replaced_file(&self, old: Option<String>, new: Option<&str>) -> Result<()> {
        match old.filter(|old| Some(old.as_str()) != new) {
            Some(old) => self.archive.remove(&old),
            None => Ok(()),
        }
    }

    fn forward_update(&self, job: &MediaJob, request: &AssetRequest, update: DownloadUpdate) {
        self.send_event(DownloadEvent::Forward(match update {
            DownloadUpdate::Retry { reason, wait } => Event::AssetRetrying {
                task_id: job.task_id.clone(),
                clip_id: request.clip_id.clone(),
                kind: request.kind,
                reason,
                wait_seconds: wait.as_secs_f64(),
            },
            DownloadUpdate::HostDown { host, reason } => Event::HostDown { host, reason },
        }));
    }

    /// Downloads clips with identical audio once more after a short delay, because a CDN may temporarily serve the same
    /// bytes for all clips of a task. Files that this run did not download are not downloaded again. Clips whose audio
    /// is still identical are reported. Returns `None` if the run ends before the second downloads are complete.
    async fn refetch_identical_audio(&self, job: &MediaJob, mut assets: Vec<Asset>) -> Result<Option<Vec<Asset>>> {
        let candidates = find_identical_audio(&assets);
        let was_downloaded = |asset: &Asset| asset.attempts > 0;
        if candidates.keys().any(|index| assets.get(*index).is_some_and(was_downloaded)) {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = time::sleep(IDENTICAL_REFETCH_DELAY) => {}
            }
        }
        for index in candidates.keys() {
            let (Some(request), Some(asset)) = (job.asset_requests.get(*index), assets.get_mut(*index)) else {
                continue;
            };
            if was_downloaded(asset) && !self.refetch(job, request, asset).await? {
                return Ok(None);
            }
        }
        let identical = find_identical_audio(&assets);
        if !identical.is_empty() {
            let clips = identical.keys().filter_map(|index| assets.get(*index)?.clip_id.clone()).collect();
            self.send_event(DownloadEvent::Forward(Event::IdenticalAudio { task_id: job.task_id.clone(), clips }));
        }
        for (index, other) in identical {
            if let Some(asset) = assets.get_mut(index) {
                asset.error = Some(format!("identical to clip {other}, even after a second download"));
            }
        }
        Ok(Some(assets))
    }

    /// Downloads an asset again, and replaces its file if the new file differs. Returns `false` if the run ends before
    /// the download is complete.
    async fn refetch(&self, job: &MediaJob, request: &AssetRequest, asset: &mut Asset) -> Result<bool> {
        let name = request.name(&job.task_id);
        let _lock = self.locks.lock(&name).await;
        if self.reused_files.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return Ok(true);
        }
        let Some(refetched) = self.download(job, request, &name).await? else { return Ok(false) };
        asset.attempts += refetched.attempts;
        asset.received += refetched.received;
        if refetched.status == AssetStatus::Ok && refetched.sha256 != asset.sha256 {
            let refetched = self.store_media(refetched, &name).await?;
            self.remove_replaced_file(asset.path.take(), refetched.path.as_deref())?;
            let (attempts, received) = (asset.attempts, asset.received);
            *asset = Asset { attempts, received, ..refetched };
        }
        Ok(true)
    }
}

/// Finds the audio assets of a task whose files have identical bytes. Returns a map from the index of each such asset
/// to the clip ID of another asset with the same bytes.
fn find_identical_audio(assets: &[Asset]) -> BTreeMap<usize, String> {
    let audio = |asset: &Asset| asset.kind == AssetKind::Audio && asset.status == AssetStatus::Ok;
    let mut by_bytes: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
    for (index, asset) in assets.iter().enumerate().filter(|(_, asset)| audio(asset)) {
        if let (Some(sha256), Some(path)) = (&asset.sha256, &asset.path) {
            by_bytes.entry(sha256).or_default().entry(path).or_insert(index);
        }
    }
    let clip = |index: usize| assets.get(index).and_then(|asset| asset.clip_id.clone()).unwrap_or_default();
    let mut identical = BTreeMap::new();
    for identical_files in by_bytes.into_values().filter(|files| files.len() > 1) {
        let indices: Vec<usize> = identical_files.into_values().collect();
        for (index, other) in indices.iter().zip(indices.iter().cycle().skip(1)) {
            identical.insert(*index, clip(*other));
        }
    }
    identical
}

/// Returns the content type, modification time and checksum of a media file, or `None` if the file is not of this kind.
/// Performs blocking I/O.
fn read_media(kind: AssetKind, mut file: RangedFile) -> io::Result<Option<(Content, Option<Timestamp>, FileDigest)>> {
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(media::SNIFF_LENGTH).read_to_end(&mut head)?;
    let Ok(content) = media::detect(kind, &head) else { return Ok(None) };
    file.rewind()?;
    let modified = file.modified();
    Ok(Some((content, modified, checksum::digest(&mut file)?)))
}

fn with_traffic(asset: Asset, traffic: Traffic) -> Asset {
    Asset { attempts: traffic.attempts, received: traffic.received, ..asset }
}

fn with_file(asset: Asset, path: String, file: FileDigest) -> Asset {
    Asset { path: Some(path), bytes: Some(file.bytes), sha256: Some(file.sha256), ..asset }
}
