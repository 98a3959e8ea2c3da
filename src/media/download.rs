//! Downloads of single files: tries, waits, resumes, and checks, until the file is whole or known not to
//! be had. Nothing of a file is in memory but what is on its way to the disk.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Response,
    header::{CONTENT_RANGE, ETAG, LAST_MODIFIED},
};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    client::{Client, Failure, Next, broken},
    content::{self, Content},
    guard::Reach,
    hosts::Hosts,
    partial::{Digested, Partial},
};
use crate::{
    asset::AssetKind,
    backoff::Backoff,
    blocking::blocking,
    error::{Error, Result},
};

/// What came is handed to the disk in pieces of about this size.
const PIECE: usize = 256 << 10;

/// When nothing more comes for this long, what came is handed over as it is: a killed run loses no more
/// than a piece of each download.
const LULL: Duration = Duration::from_millis(200);

/// A server that sends less than this, in bytes a second, is as good as silent.
const SLOWEST: u64 = 1024;

/// A try that brings a file this much further costs nothing: a line that breaks now and then must not
/// make a long file impossible.
const PROGRESS: u64 = 1 << 20;

/// How often a file is refused at the first touch before that is an answer.
const DENIALS: u32 = 2;

/// How often a host may ask to be left alone before that is an answer.
const SILENCES: u32 = 20;

/// What downloads may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Downloads under way at once.
    pub(crate) places: usize,
    /// A larger file is refused.
    pub(crate) max_bytes: u64,
    /// Further tries after a failure that may pass.
    pub(crate) retries: u32,
    /// How long a server may send nothing.
    pub(crate) idle: Duration,
}

/// A file to download.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    pub(crate) url: Url,
    pub(crate) kind: AssetKind,
    /// Where it is written.
    pub(crate) partial: PathBuf,
}

/// What came of a download.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The file is whole, and is what it should be.
    Whole { file: Digested, content: Content, http_status: u16, sent: Sent },
    /// It is not to be had.
    Failed { reason: String, http_status: Option<u16>, content_type: Option<String>, sent: Sent },
    /// The run is over; what came is kept for the next.
    Stopped,
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Tries.
    pub(crate) attempts: u32,
    /// Bytes that came, those of no use included.
    pub(crate) received: u64,
}

/// A try failed, and there will be another.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) reason: String,
    pub(crate) wait: Duration,
}

/// Downloads files, as many at once as it may.
#[derive(Debug)]
pub(crate) struct Downloader {
    client: Client,
    hosts: Hosts,
    limits: Limits,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
}

impl Downloader {
    /// `stop` ends all waiting: what is under way goes on. `received` counts the bytes that came.
    pub(crate) fn new(reach: Reach, limits: Limits, stop: CancellationToken, received: Arc<AtomicU64>) -> Result<Self> {
        Ok(Self { client: Client::new(reach, limits.idle)?, hosts: Hosts::new(limits.places), limits, stop, received })
    }

    /// Downloads one file. `tell` hears of each try that is repeated.
    ///
    /// # Errors
    /// Only those of the local disk: whatever the server does is an [`Outcome`].
    pub(crate) async fn download(&self, wanted: &Download, tell: &(dyn Fn(Retry) + Sync)) -> Result<Outcome> {
        let partial = SharedPartial::open(&wanted.partial, &wanted.url).await?;
        let mut tries = Tries::new(self.limits.retries);
        let host = wanted.url.host_str().unwrap_or_default();
        loop {
            let Some(place) = self.unless_stopped(self.hosts.enter(host)).await else { return Ok(Outcome::Stopped) };
            let tried = self.attempt(wanted, &partial, &mut tries.sent).await?;
            drop(place);
            let failure = match tried {
                Ok(whole) => return Ok(whole),
                Err(failure) => failure,
            };
            let Some(wait) = tries.wait(&failure, partial.lock().len()) else {
                partial.run(Partial::discard).await?;
                let Failure { reason, http_status, content_type, .. } = failure;
                return Ok(Outcome::Failed { reason, http_status, content_type, sent: tries.sent });
            };
            if let Next::After(silence) = failure.next {
                self.hosts.silence(host, silence);
            }
            tell(Retry { reason: failure.reason, wait });
            if self.unless_stopped(time::sleep(wait)).await.is_none() {
                return Ok(Outcome::Stopped);
            }
        }
    }

    async fn unless_stopped<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            done = waiting => Some(done),
        }
    }

    /// One request, and what of its body there is.
    async fn attempt(
        &self,
        wanted: &Download,
        partial: &SharedPartial,
        sent: &mut Sent,
    ) -> Result<Result<Outcome, Failure>> {
        sent.attempts += 1;
        let rest = partial.lock().resumable();
        let (head, response) = match self.client.get(&wanted.url, rest.as_ref()).await {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let part = rest.as_ref().map_or(Part::Other, |rest| Part::of(&response, rest));
        let (came, continues) = match (head.status, part) {
            (200, _) => (None, false),
            (206, Part::Rest) => (None, true),
            (416, Part::Nothing) => (Some(Ok(())), true),
            _ => {
                partial.run(|partial| partial.begin(None)).await?;
                return Ok(Err(Failure::new(Next::Again, "another part of the file than was asked for").of(&head)));
            }
        };
        if !continues {
            let validator = validator(&response);
            partial.run(|partial| partial.begin(validator)).await?;
        }
        let came = match came {
            Some(already) => already,
            None => self.body(response, partial, sent).await?,
        };
        Ok(match came.and_then(|()| recognise(wanted.kind, partial)) {
            Ok(content) => {
                let file = partial.run(|partial| partial.finish()).await?;
                Ok(Outcome::Whole { file, content, http_status: head.status, sent: *sent })
            }
            Err(Rejected::Incomplete(failure)) => Err(failure.of(&head)),
            // Those bytes are no beginning of anything.
            Err(Rejected::Wrong(failure)) => {
                partial.run(|partial| partial.begin(None)).await?;
                Err(failure.of(&head))
            }
        })
    }

    /// Takes the body to the file, as far as it comes.
    async fn body(
        &self,
        mut response: Response,
        partial: &SharedPartial,
        sent: &mut Sent,
    ) -> Result<Result<(), Rejected>> {
        let before = partial.lock().len();
        let whole = response.content_length().map(|length| before + length);
        if whole.is_some_and(|whole| whole > self.limits.max_bytes) {
            return Ok(Err(Rejected::Wrong(self.too_large())));
        }
        let (mut chunks, mut waiting, mut length) = (Vec::new(), 0, before);
        let mut floor = Floor::new(self.limits.idle);
        let ended = loop {
            let chunk = match time::timeout(LULL, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(Rejected::Incomplete(broken(&error))),
                Err(_lull) => {
                    partial.write(std::mem::take(&mut chunks)).await?;
                    waiting = 0;
                    continue;
                }
            };
            sent.received += chunk.len() as u64;
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            length += chunk.len() as u64;
            waiting += chunk.len();
            if length > self.limits.max_bytes {
                return Ok(Err(Rejected::Wrong(self.too_large())));
            }
            if floor.is_missed(chunk.len() as u64) {
                break Err(Rejected::Incomplete(Failure::new(Next::Again, "slower than 1 KiB a second")));
            }
            chunks.push(chunk);
            if waiting >= PIECE {
                partial.write(std::mem::take(&mut chunks)).await?;
                waiting = 0;
            }
        };
        partial.write(chunks).await?;
        Ok(ended.and_then(|()| match whole {
            Some(whole) if length != whole => Err(Rejected::Incomplete(Failure::new(Next::Again, "cut short"))),
            _ => Ok(()),
        }))
    }

    fn too_large(&self) -> Failure {
        let limit = bytesize::ByteSize::b(self.limits.max_bytes).display().iec();
        Failure::new(Next::GiveUp, format!("larger than --max-asset-size, {limit}"))
    }
}

/// Why what came is not the file.
enum Rejected {
    /// It is the beginning of it, perhaps.
    Incomplete(Failure),
    /// It is something else.
    Wrong(Failure),
}

fn recognise(kind: AssetKind, partial: &SharedPartial) -> Result<Content, Rejected> {
    content::recognise(kind, partial.lock().head()).map_err(|reason| Rejected::Wrong(Failure::new(Next::Again, reason)))
}

/// What a response to a question for the rest of a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The rest of the file that was begun.
    Rest,
    /// Nothing, since the file was whole (RFC 9110, 15.5.17).
    Nothing,
    /// Something else.
    Other,
}

impl Part {
    fn of(response: &Response, (from, validator): &(u64, String)) -> Self {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let changed = header(ETAG).is_some_and(|etag| validator.starts_with('"') && etag != validator);
        let range = header(CONTENT_RANGE).and_then(|range| range.trim().strip_prefix("bytes "));
        let (Some(range), false) = (range, changed) else { return Self::Other };
        let begins = range.split('-').next().and_then(|begin| begin.trim().parse().ok());
        let length = range.strip_prefix("*/").and_then(|length| length.trim().parse().ok());
        match from {
            from if begins == Some(*from) => Self::Rest,
            from if length == Some(*from) => Self::Nothing,
            _ => Self::Other,
        }
    }
}

/// By what the server can tell later whether the file is the same: a strong `ETag`, else its date
/// (RFC 9110, 13.1.5).
fn validator(response: &Response) -> Option<String> {
    let header = |name| response.headers().get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    header(ETAG).filter(|etag| etag.starts_with('"')).or_else(|| header(LAST_MODIFIED))
}

/// Counts what went wrong with one file, and says what to do.
struct Tries {
    backoff: Backoff,
    failures: u32,
    denials: u32,
    silences: u32,
    /// The most of the file that was ever there.
    reached: u64,
    sent: Sent,
}

impl Tries {
    fn new(retries: u32) -> Self {
        let backoff = Backoff::new(retries, fastrand::Rng::new());
        Self { backoff, failures: 0, denials: 0, silences: 0, reached: 0, sent: Sent::default() }
    }

    /// How long to wait before the next try; `None` if there is none. `length` of the file is there.
    fn wait(&mut self, failure: &Failure, length: u64) -> Option<Duration> {
        if length >= self.reached + PROGRESS {
            self.failures = 0;
        }
        self.reached = self.reached.max(length);
        match failure.next {
            Next::GiveUp => None,
            Next::After(silence) => {
                self.silences += 1;
                (self.silences <= SILENCES).then_some(silence)
            }
            Next::Twice if self.denials == DENIALS => None,
            next => {
                self.denials += u32::from(next == Next::Twice);
                self.failures += 1;
                self.backoff.wait(self.failures)
            }
        }
    }
}

/// Watches that enough comes in each span of time.
struct Floor {
    span: Duration,
    since: Instant,
    bytes: u64,
}

impl Floor {
    fn new(span: Duration) -> Self {
        Self { span, since: Instant::now(), bytes: 0 }
    }

    fn is_missed(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.span {
            return false;
        }
        let missed = self.bytes < (elapsed.as_secs_f64() * SLOWEST as f64) as u64;
        (self.since, self.bytes) = (Instant::now(), 0);
        missed
    }
}

/// A partial file, whose work is done on threads that may block.
#[derive(Clone)]
struct SharedPartial {
    path: Arc<PathBuf>,
    partial: Arc<Mutex<Partial>>,
}

impl SharedPartial {
    async fn open(path: &Path, url: &Url) -> Result<Self> {
        let (path, url) = (Arc::new(path.to_owned()), url.clone());
        let open = {
            let path = path.clone();
            move || Partial::open(&path, &url).map_err(|error| Error::io("write", &path, &error))
        };
        let partial = blocking(open).await?;
        Ok(Self { path, partial: Arc::new(Mutex::new(partial)) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Partial> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, chunks: Vec<Bytes>) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.run(move |partial| partial.write(&chunks)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Partial) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.clone();
        blocking(move || work(&mut shared.lock()).map_err(|error| Error::io("write", &shared.path, &error))).await
    }
}
