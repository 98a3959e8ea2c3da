//! The media stage downloads assets. The stage receives tasks and reports the outcome of all assets of each task. A
//! slow host delays only its own downloads.

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

use super::in_flight::InFlight;
use crate::{
    archive::{LockedArchive, MediaName},
    asset::{Asset, AssetKind, AssetStatus},
    blocking::blocking,
    checksum::{self, Digested},
    error::{Error, Result},
    event::Event,
    media::{
        self, Access, ClipState, Content, Download, DownloadUpdate, Downloader, Failure, Limits, Outcome, Scheme, Sent,
        Source,
    },
    ranged::RangedFile,
    tables, timestamp,
};

/// The maximum number of existing files that are read at once.
const LOOKING: usize = 4;

/// The wait before clips with identical audio are downloaded again. The CDN may need this time to become consistent.
const TWINS_WAIT: Duration = Duration::from_secs(10);

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
    /// Returns the requests for the assets of these kinds in a response.
    fn of(data: &str, kinds: &[AssetKind], scheme: Scheme) -> Vec<Self> {
        let wanted = |clip: &tables::ClipLinks<'_>, kind| {
            let url = clip.url(kind);
            Self {
                clip_id: clip.clip_id.clone(),
                clip_index: clip.clip_index,
                kind,
                url: url.map(str::to_owned),
                source: Source::of(url, &ClipState::of(clip.clip), scheme),
            }
        };
        let clips = tables::clip_links(data);
        clips.iter().flat_map(|clip| kinds.iter().map(move |kind| wanted(clip, *kind))).collect()
    }

    /// Whether the asset is expected to have a file.
    pub(super) fn is_expected(&self) -> bool {
        !matches!(self.source, Source::Nothing(_))
    }

    /// Returns the reason if the asset is still in progress.
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

/// A task whose assets need to be settled.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) task_id: String,
    /// The number of the part whose segment contains the response, or `None` for a stored or recovered response.
    pub(super) part: Option<u32>,
    pub(super) wanted: Vec<AssetRequest>,
    pub(super) retry_budget: RetryBudget,
}

/// Whether a later run may retry files on a host that is down or unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryBudget {
    /// The current run fetched the task. Files on an unreachable host fail. Files are left to the next run if their
    /// host went down before the first attempt.
    First,
    /// A recent run left the files to the next run. The current run may do so again.
    Another,
    /// Files on a host that is down or unreachable are marked as failed, because no later run retries them.
    Last,
}

/// An event of the media stage.
#[derive(Debug)]
pub(super) enum DownloadEvent {
    /// All assets of a task are settled.
    Settled { task_id: String, part: Option<u32>, assets: Vec<Asset> },
    /// The task's assets are left to the next run, because the current run has ended or a host is down.
    Unsettled { task_id: String },
    /// An event for the coordinator to emit.
    Happened(Event),
}

/// The coordinator's handle for the media stage.
pub(crate) struct MediaStage {
    jobs: mpsc::UnboundedSender<Job>,
    pub(super) events: mpsc::UnboundedReceiver<DownloadEvent>,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
    offline: Arc<AtomicBool>,
    working: Option<JoinHandle<Result<()>>>,
    scheme: Scheme,
}

impl MediaStage {
    /// Starts the stage.
    pub(crate) fn start(held: Arc<LockedArchive>, access: &Access, limits: Limits) -> Result<Self> {
        held.prepare_partials()?;
        let (jobs, incoming) = mpsc::unbounded_channel();
        let (emit, events) = mpsc::unbounded_channel();
        let (stop, received) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let downloader = Downloader::new(access, limits, stop.clone(), received.clone())?;
        let offline = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            held,
            downloader,
            in_flight: InFlight::default(),
            looking: Semaphore::new(LOOKING),
            adopted: Mutex::default(),
            stop: stop.clone(),
            offline: offline.clone(),
            emit,
        };
        let working = Some(tokio::spawn(work(Arc::new(worker), incoming)));
        Ok(Self { jobs, events, stop, received, offline, working, scheme: access.scheme })
    }

    /// Returns the requests for the assets of these kinds in a response.
    pub(super) fn requests(&self, data: &str, kinds: &[AssetKind]) -> Vec<AssetRequest> {
        AssetRequest::of(data, kinds, self.scheme)
    }

    /// Sends a task to the stage.
    pub(super) fn settle(&self, job: Job) {
        // Sending fails only after the media stage has ended. The stage then reports its own error.
        let _ = self.jobs.send(job);
    }

    /// Starts no new downloads. Downloads in progress continue.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Aborts downloads in progress. Partial files are kept for the next run.
    pub(super) fn abort(&self) {
        self.working.iter().for_each(JoinHandle::abort);
    }

    /// Records that the network may be down. Files on an unreachable host are then left to the next run.
    pub(super) fn go_offline(&self) {
        self.offline.store(true, Ordering::Relaxed);
    }

    /// Returns the number of bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until the stage ends, and returns its error, if any.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let Some(working) = self.working.take() else { return Ok(()) };
        match working.await {
            Ok(ended) => ended,
            Err(aborted) if aborted.is_cancelled() => Ok(()),
            Err(panic) => Err(Error::Internal(format!("a stage of the run failed: {panic}"))),
        }
    }
}

async fn work(worker: Arc<Worker>, mut incoming: mpsc::UnboundedReceiver<Job>) -> Result<()> {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            job = incoming.recv() => match job {
                Some(job) => {
                    running.spawn(worker.clone().settle(job));
                }
                None => break,
            },
            Some(done) = running.join_next() => finished(done)?,
        }
    }
    while let Some(done) = running.join_next().await {
        finished(done)?;
    }
    Ok(())
}

fn finished(done: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    done.unwrap_or_else(|panic| Err(Error::Internal(format!("a download failed: {panic}"))))
}

struct Worker {
    held: Arc<LockedArchive>,
    downloader: Downloader,
    in_flight: InFlight,
    looking: Semaphore,
    /// Existing files that rows of this run refer to. These files are not replaced.
    adopted: Mutex<HashSet<MediaName>>,
    stop: CancellationToken,
    offline: Arc<AtomicBool>,
    emit: mpsc::UnboundedSender<DownloadEvent>,
}

impl Worker {
    /// Settles all assets of a task. Only local disk errors are returned as errors.
    async fn settle(self: Arc<Self>, job: Job) -> Result<()> {
        let assets = try_join_all(job.wanted.iter().map(|wanted| self.asset(&job, wanted))).await?;
        let assets = match assets.into_iter().collect::<Option<Vec<Asset>>>() {
            Some(assets) => self.told_apart(&job, assets).await?,
            None => None,
        };
        let Job { task_id, part, .. } = job;
        self.say(match assets {
            Some(assets) => DownloadEvent::Settled { task_id, part, assets },
            None => DownloadEvent::Unsettled { task_id },
        });
        Ok(())
    }

    fn say(&self, events: DownloadEvent) {
        // A closed channel means that the run has ended.
        let _ = self.emit.send(events);
    }

    /// Settles one asset. Returns `None` if the asset is left to the next run.
    async fn asset(&self, job: &Job, wanted: &AssetRequest) -> Result<Option<Asset>> {
        let settled = match &wanted.source {
            Source::Nothing(reason) => Asset { error: Some(reason.clone()), ..wanted.asset(AssetStatus::Skipped) },
            Source::Unusable(reason) | Source::InProgress(reason) => {
                Asset { error: Some(reason.clone()), ..wanted.asset(AssetStatus::Failed) }
            }
            Source::File(_) => {
                let name = wanted.name(&job.task_id);
                let _turn = self.in_flight.turn(&name).await;
                let found = match self.found(wanted, &name).await? {
                    Some(there) => Some(there),
                    None => self.fetch(job, wanted, &name).await?,
                };
                let Some(asset) = found else { return Ok(None) };
                asset
            }
        };
        self.say(DownloadEvent::Happened(Event::AssetSettled {
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

    /// Returns the asset if its file already exists. The file belongs to another task with the same clip, or was
    /// downloaded by an interrupted run.
    async fn found(&self, wanted: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        let (held, found_name, name, kind) = (self.held.clone(), name.clone(), name.clone(), wanted.kind);
        let _looking = self.looking.acquire().await;
        let found = blocking(move || {
            let Some((path, file)) = held.media(&name, media::endings(kind)) else { return Ok(None) };
            // An unreadable file, or a file of the wrong type, is replaced.
            Ok(read_media(kind, file).ok().flatten().map(|there| (path, there)))
        });
        let Some((path, (content, modified, file))) = found.await? else { return Ok(None) };
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).insert(found_name);
        let content_type = Some(content.mime.to_owned());
        let asset = Asset { content_type, downloaded_at: modified, ..wanted.asset(AssetStatus::Ok) };
        Ok(Some(with_file(asset, path, file)))
    }

    /// Downloads the asset and moves the file to its final path.
    async fn fetch(&self, job: &Job, wanted: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        match self.download(job, wanted, name).await? {
            Some(asset) => self.place(asset, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// Downloads the asset to a partial file. Returns `None` if the asset is left to the next run.
    async fn download(&self, job: &Job, wanted: &AssetRequest, name: &MediaName) -> Result<Option<Asset>> {
        let Source::File(url) = &wanted.source else { return Ok(None) };
        let download = Download { url: url.clone(), kind: wanted.kind, partial: self.held.partial(name) };
        let outcome = self.downloader.download(&download, &|told| self.pass_on(job, wanted, told)).await?;
        Ok(match outcome {
            Outcome::Stopped => None,
            Outcome::HostDown if job.retry_budget != RetryBudget::Last => None,
            Outcome::HostDown => {
                Some(Asset { error: Some("the host is down".into()), ..wanted.asset(AssetStatus::Failed) })
            }
            Outcome::Failed { failure, .. } if !failure.connected && self.may_be_left(job) => None,
            Outcome::Failed { failure, sent } => {
                let Failure { reason, http_status, content_type, .. } = failure;
                let failed = wanted.asset(AssetStatus::Failed);
                Some(with_sent(Asset { error: Some(reason), http_status, content_type, ..failed }, sent))
            }
            Outcome::Whole { file, content, http_status, sent } => {
                let asset = Asset {
                    content_type: Some(content.mime.into()),
                    http_status: Some(http_status),
                    downloaded_at: Some(timestamp::now()),
                    ..wanted.asset(AssetStatus::Ok)
                };
                Some(with_file(with_sent(asset, sent), name.path(content.extension), file))
            }
        })
    }

    /// Whether a file on an unreachable host is left to the next run.
    fn may_be_left(&self, job: &Job) -> bool {
        job.retry_budget == RetryBudget::Another || self.offline.load(Ordering::Relaxed)
    }

    /// Moves a downloaded file to its final path.
    async fn place(&self, asset: Asset, name: &MediaName) -> Result<Asset> {
        if let Some(path) = asset.path.clone() {
            let (held, partial) = (self.held.clone(), self.held.partial(name));
            blocking(move || held.place_media(&partial, &path)).await?;
        }
        Ok(asset)
    }

    /// Removes the old file if the new file has a different extension.
    fn remove_other(&self, before: Option<String>, now: Option<&str>) -> Result<()> {
        match before.filter(|before| Some(before.as_str()) != now) {
            Some(before) => self.held.remove(&before),
            None => Ok(()),
        }
    }

    fn pass_on(&self, job: &Job, wanted: &AssetRequest, told: DownloadUpdate) {
        self.say(DownloadEvent::Happened(match told {
            DownloadUpdate::Retry { reason, wait } => Event::AssetRetrying {
                task_id: job.task_id.clone(),
                clip_id: wanted.clip_id.clone(),
                kind: wanted.kind,
                reason,
                wait_seconds: wait.as_secs_f64(),
            },
            DownloadUpdate::HostDown { host, reason } => Event::HostDown { host, reason },
        }));
    }

    /// Downloads clips with identical audio again, since a CDN may temporarily serve the same bytes for all clips of
    /// a task. Files that this run downloaded are downloaded again once, after a short wait. Clips that remain
    /// identical are reported. Returns `None` if the run ends before the assets are settled.
    async fn told_apart(&self, job: &Job, mut assets: Vec<Asset>) -> Result<Option<Vec<Asset>>> {
        let suspects = twins(&assets);
        let fresh = |asset: &Asset| asset.attempts > 0;
        if suspects.keys().any(|place| assets.get(*place).is_some_and(fresh)) {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = time::sleep(TWINS_WAIT) => {}
            }
        }
        for place in suspects.keys() {
            let (Some(wanted), Some(asset)) = (job.wanted.get(*place), assets.get_mut(*place)) else { continue };
            if fresh(asset) && !self.fetch_again(job, wanted, asset).await? {
                return Ok(None);
            }
        }
        let twins = twins(&assets);
        if !twins.is_empty() {
            let clips = twins.keys().filter_map(|place| assets.get(*place)?.clip_id.clone()).collect();
            self.say(DownloadEvent::Happened(Event::IdenticalTakes { task_id: job.task_id.clone(), clips }));
        }
        for (place, twin) in twins {
            if let Some(asset) = assets.get_mut(place) {
                asset.error = Some(format!("identical to clip {twin}, even after another download"));
            }
        }
        Ok(Some(assets))
    }

    /// Downloads an asset again, and keeps the new file if it differs. Returns false if the run ends before the
    /// download is complete.
    async fn fetch_again(&self, job: &Job, wanted: &AssetRequest, asset: &mut Asset) -> Result<bool> {
        let name = wanted.name(&job.task_id);
        let _turn = self.in_flight.turn(&name).await;
        if self.adopted.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return Ok(true);
        }
        let Some(again) = self.download(job, wanted, &name).await? else { return Ok(false) };
        asset.attempts += again.attempts;
        asset.received += again.received;
        if again.status == AssetStatus::Ok && again.sha256 != asset.sha256 {
            let again = self.place(again, &name).await?;
            self.remove_other(asset.path.take(), again.path.as_deref())?;
            let (attempts, received) = (asset.attempts, asset.received);
            *asset = Asset { attempts, received, ..again };
        }
        Ok(true)
    }
}

/// Finds audio files of a task with identical bytes. Maps the index of each such asset to the clip ID of an asset
/// with the same bytes.
fn twins(assets: &[Asset]) -> BTreeMap<usize, String> {
    let audio = |asset: &Asset| asset.kind == AssetKind::Audio && asset.status == AssetStatus::Ok;
    let mut by_bytes: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
    for (place, asset) in assets.iter().enumerate().filter(|(_, asset)| audio(asset)) {
        if let (Some(sha256), Some(path)) = (&asset.sha256, &asset.path) {
            by_bytes.entry(sha256).or_default().entry(path).or_insert(place);
        }
    }
    let clip = |place: usize| assets.get(place).and_then(|asset| asset.clip_id.clone()).unwrap_or_default();
    let mut twins = BTreeMap::new();
    for same in by_bytes.into_values().filter(|files| files.len() > 1) {
        let places: Vec<usize> = same.into_values().collect();
        for (place, twin) in places.iter().zip(places.iter().cycle().skip(1)) {
            twins.insert(*place, clip(*twin));
        }
    }
    twins
}

/// Returns a media file's content type, modification time and checksum, or `None` if the file is not media of this
/// kind. Performs blocking I/O.
fn read_media(kind: AssetKind, mut file: RangedFile) -> io::Result<Option<(Content, Option<Timestamp>, Digested)>> {
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(media::HEAD).read_to_end(&mut head)?;
    let Ok(content) = media::recognise(kind, &head) else { return Ok(None) };
    file.rewind()?;
    let modified = file.modified();
    Ok(Some((content, modified, checksum::digest(&mut file)?)))
}

fn with_sent(asset: Asset, sent: Sent) -> Asset {
    Asset { attempts: sent.attempts, received: sent.received, ..asset }
}

fn with_file(asset: Asset, path: String, file: Digested) -> Asset {
    Asset { path: Some(path), bytes: Some(file.bytes), sha256: Some(file.sha256), ..asset }
}
