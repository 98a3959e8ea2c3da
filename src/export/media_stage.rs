//! The stage that downloads what the clips name: tasks in, and what became of all their assets out. A
//! slow host holds up nobody but those who wait for it.

use std::{
    collections::HashMap,
    io::Seek,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

use super::in_flight::InFlight;
use crate::{
    archive::{HeldArchive, MediaName},
    asset::{Asset, AssetKind, AssetStatus},
    blocking::blocking,
    error::{Error, Result},
    event::Event,
    media::{self, ClipState, Digested, Download, Downloader, Limits, Outcome, Reach, Retry, Sent, Source},
    moment, tables,
};

/// Two takes of a task with the same bytes: how long to give the CDN before they are fetched again.
const TWINS_WAIT: Duration = Duration::from_secs(10);

/// One asset that a task's answer names, or should.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    clip_id: Option<String>,
    clip_index: i32,
    kind: AssetKind,
    url: Option<String>,
    source: Source,
}

impl Wanted {
    /// What is wanted of an answer, of these kinds.
    pub(super) fn of(data: &str, kinds: &[AssetKind]) -> Vec<Self> {
        let wanted = |clip: &tables::ClipLinks<'_>, kind| {
            let url = clip.url(kind);
            Self {
                clip_id: clip.clip_id.clone(),
                clip_index: clip.clip_index,
                kind,
                url: url.map(str::to_owned),
                source: Source::of(url, &ClipState::of(clip.clip)),
            }
        };
        let clips = tables::clip_links(data);
        clips.iter().flat_map(|clip| kinds.iter().map(move |kind| wanted(clip, *kind))).collect()
    }

    /// Whether there should be a file.
    pub(super) fn is_expected(&self) -> bool {
        !matches!(self.source, Source::Nothing(_))
    }

    fn asset(&self, status: AssetStatus) -> Asset {
        Asset::new(self.clip_id.clone(), self.kind, self.url.clone(), status)
    }

    fn name(&self, task_id: &str) -> MediaName {
        MediaName::new(self.kind, self.clip_id.as_deref(), task_id, self.clip_index)
    }
}

/// A task whose assets are to be settled.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) task_id: String,
    /// The part of the journal that holds the task.
    pub(super) part: u32,
    pub(super) wanted: Vec<Wanted>,
}

/// What the stage has to say.
#[derive(Debug)]
pub(super) enum News {
    /// All assets of a task are there, or known not to be had.
    Settled { task_id: String, part: u32, assets: Vec<Asset> },
    /// The run is over before they were.
    Unsettled,
    /// Something happened on the way.
    Happened(Event),
}

/// The stage, as those see it who give it work.
pub(crate) struct MediaStage {
    jobs: mpsc::UnboundedSender<Job>,
    pub(super) news: mpsc::UnboundedReceiver<News>,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
    working: JoinHandle<Result<()>>,
}

impl MediaStage {
    /// Starts the stage.
    pub(crate) fn start(held: Arc<HeldArchive>, reach: Reach, limits: Limits) -> Result<Self> {
        held.prepare_partials()?;
        let (jobs, incoming) = mpsc::unbounded_channel();
        let (tell, news) = mpsc::unbounded_channel();
        let (stop, received) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let downloader = Downloader::new(reach, limits, stop.clone(), received.clone())?;
        let worker = Arc::new(Worker { held, downloader, in_flight: InFlight::default(), stop: stop.clone(), tell });
        let working = tokio::spawn(work(worker, incoming));
        Ok(Self { jobs, news, stop, received, working })
    }

    /// Gives it a task.
    pub(super) fn settle(&self, job: Job) {
        // It fails only after the stage has ended, whose own error is reported then.
        let _ = self.jobs.send(job);
    }

    /// Begins nothing any more; what is under way goes on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends what is under way, too. What came of it is kept for the next run.
    pub(super) fn abort(&self) {
        self.working.abort();
    }

    /// Bytes that came so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits for the stage's end, which is an error or an abort: what it failed with, if it did.
    pub(super) async fn ended(&mut self) -> Result<()> {
        match (&mut self.working).await {
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
    held: Arc<HeldArchive>,
    downloader: Downloader,
    in_flight: InFlight,
    stop: CancellationToken,
    tell: mpsc::UnboundedSender<News>,
}

impl Worker {
    /// Settles all assets of a task. The only errors are those of the local disk.
    async fn settle(self: Arc<Self>, job: Job) -> Result<()> {
        let assets = try_join_all(job.wanted.iter().map(|wanted| self.asset(&job, wanted))).await?;
        let assets = match assets.into_iter().collect::<Option<Vec<Asset>>>() {
            Some(assets) => self.told_apart(&job, assets).await?,
            None => None,
        };
        let Job { task_id, part, .. } = job;
        self.say(assets.map_or(News::Unsettled, |assets| News::Settled { task_id, part, assets }));
        Ok(())
    }

    fn say(&self, news: News) {
        // Whoever no longer listens has ended the run.
        let _ = self.tell.send(news);
    }

    /// Settles one asset; `None` if the run is over before.
    async fn asset(&self, job: &Job, wanted: &Wanted) -> Result<Option<Asset>> {
        let settled = match &wanted.source {
            Source::Nothing(reason) => Asset { error: Some(reason.clone()), ..wanted.asset(AssetStatus::Skipped) },
            Source::Unusable(reason) => Asset { error: Some(reason.clone()), ..wanted.asset(AssetStatus::Failed) },
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
        self.say(News::Happened(Event::AssetSettled {
            task_id: job.task_id.clone(),
            clip_id: settled.clip_id.clone(),
            kind: settled.kind,
            status: settled.status,
            bytes: settled.bytes,
            error: settled.error.clone(),
        }));
        Ok(Some(settled))
    }

    /// The asset, if its file is there already: of another task with the same clip, or of a run that was
    /// cut short before it could say so.
    async fn found(&self, wanted: &Wanted, name: &MediaName) -> Result<Option<Asset>> {
        let (held, name) = (self.held.clone(), name.clone());
        let found = blocking(move || {
            let Some(mut there) = held.media(&name)? else { return Ok(None) };
            let read = media::mime_of(&mut there.file).and_then(|mime| {
                there.file.rewind()?;
                Ok((mime, media::digest(&mut there.file)?))
            });
            let (mime, digested) = read.map_err(|error| held.archive.store.failed("read", &there.path, &error))?;
            Ok(Some((there.path, there.modified, mime, digested)))
        });
        let Some((path, modified, mime, file)) = found.await? else { return Ok(None) };
        let asset =
            Asset { content_type: mime.map(str::to_owned), downloaded_at: modified, ..wanted.asset(AssetStatus::Ok) };
        Ok(Some(with_file(asset, path, file)))
    }

    /// Downloads the asset and puts it in its place.
    async fn fetch(&self, job: &Job, wanted: &Wanted, name: &MediaName) -> Result<Option<Asset>> {
        let Source::File(url) = &wanted.source else { return Ok(None) };
        let download = Download { url: url.clone(), kind: wanted.kind, partial: self.held.partial(name) };
        let outcome = self.downloader.download(&download, &|retry| self.say_retry(job, wanted, retry)).await?;
        let with_sent = |asset: Asset, sent: Sent| Asset { attempts: sent.attempts, received: sent.received, ..asset };
        Ok(match outcome {
            Outcome::Stopped => None,
            Outcome::Failed { reason, http_status, content_type, sent } => {
                let failed =
                    Asset { error: Some(reason), http_status, content_type, ..wanted.asset(AssetStatus::Failed) };
                Some(with_sent(failed, sent))
            }
            Outcome::Whole { file, content, http_status, sent } => {
                let path = name.path(content.extension);
                let (held, partial, place) = (self.held.clone(), download.partial, path.clone());
                blocking(move || held.place_media(&partial, &place)).await?;
                let asset = Asset {
                    content_type: Some(content.mime.into()),
                    http_status: Some(http_status),
                    downloaded_at: Some(moment::now()),
                    ..wanted.asset(AssetStatus::Ok)
                };
                Some(with_file(with_sent(asset, sent), path, file))
            }
        })
    }

    /// Removes the file that another, of another ending, has taken the place of.
    async fn remove_other(&self, before: Option<String>, now: Option<&str>) -> Result<()> {
        match before.filter(|before| Some(before.as_str()) != now) {
            Some(before) => self.held.remove(&before).await,
            None => Ok(()),
        }
    }

    fn say_retry(&self, job: &Job, wanted: &Wanted, retry: Retry) {
        self.say(News::Happened(Event::AssetRetrying {
            task_id: job.task_id.clone(),
            clip_id: wanted.clip_id.clone(),
            kind: wanted.kind,
            reason: retry.reason,
            wait_seconds: retry.wait.as_secs_f64(),
        }));
    }

    /// The takes of a task sometimes come with the same bytes from a CDN for a while. They are fetched
    /// again once, a little later; if it stays so, it is said.
    async fn told_apart(&self, job: &Job, mut assets: Vec<Asset>) -> Result<Option<Vec<Asset>>> {
        let suspects = twins(&assets);
        if suspects.is_empty() {
            return Ok(Some(assets));
        }
        tokio::select! {
            () = self.stop.cancelled() => return Ok(None),
            () = time::sleep(TWINS_WAIT) => {}
        }
        for place in suspects.keys() {
            let (Some(wanted), Some(asset)) = (job.wanted.get(*place), assets.get_mut(*place)) else { continue };
            let name = wanted.name(&job.task_id);
            let _turn = self.in_flight.turn(&name).await;
            let Some(again) = self.fetch(job, wanted, &name).await? else { return Ok(None) };
            let (attempts, received) = (asset.attempts + again.attempts, asset.received + again.received);
            if again.status == AssetStatus::Ok {
                self.remove_other(asset.path.take(), again.path.as_deref()).await?;
                *asset = again;
            }
            (asset.attempts, asset.received) = (attempts, received);
        }
        let twins = twins(&assets);
        if !twins.is_empty() {
            let clips = twins.keys().filter_map(|place| assets.get(*place)?.clip_id.clone()).collect();
            self.say(News::Happened(Event::IdenticalTakes { task_id: job.task_id.clone(), clips }));
        }
        for (place, twin) in twins {
            if let Some(asset) = assets.get_mut(place) {
                asset.error = Some(format!("the same bytes as clip {twin}, also when it was fetched again"));
            }
        }
        Ok(Some(assets))
    }
}

/// The places of those audio files of a task that have the same bytes as another, with the other's clip.
fn twins(assets: &[Asset]) -> HashMap<usize, String> {
    let audio = |asset: &&Asset| asset.kind == AssetKind::Audio && asset.status == AssetStatus::Ok;
    let twin_of = |asset: &Asset| {
        let same = |other: &&Asset| other.sha256 == asset.sha256 && other.path != asset.path;
        assets.iter().filter(audio).find(same).map(|twin| twin.clip_id.clone().unwrap_or_default())
    };
    let places = assets.iter().enumerate().filter(|(_, asset)| audio(asset));
    places.filter_map(|(place, asset)| Some((place, twin_of(asset)?))).collect()
}

fn with_file(asset: Asset, path: String, file: Digested) -> Asset {
    Asset { path: Some(path), bytes: Some(file.bytes), sha256: Some(file.sha256), ..asset }
}
