//! Downloads single files, with retries, resumption and content checks. A download ends when the file is complete or
//! has failed. Memory holds only the bytes that are about to be written to the disk.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, header::TRANSFER_ENCODING};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    client::{Access, Client, Failure, Next, broken},
    content::{self, Content},
    hosts::{Host, Hosts, Verdict},
    partial::Partial,
    rest::{RangeResponse, Validator},
    tries::{RetryState, Sent},
};
use crate::{
    asset::AssetKind,
    blocking::blocking,
    body::{Body, BodyError},
    checksum::Digested,
    error::{Error, Result},
};

/// The approximate size of the chunks in which received bytes are written to the disk, in bytes.
const CHUNK: usize = 256 << 10;

/// The time without data after which received bytes are written to the disk immediately. A killed run loses at most
/// one chunk of each download.
const LULL: Duration = Duration::from_millis(200);

/// The minimum transfer rate, in bytes per second. A slower transfer counts as stalled.
const SLOWEST: u64 = 1024;

/// The limits for downloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The maximum number of concurrent downloads.
    pub(crate) slots: usize,
    /// The maximum file size, in bytes.
    pub(crate) max_bytes: u64,
    /// The maximum number of retries after transient failures.
    pub(crate) retries: u32,
    /// The maximum time without data from a server.
    pub(crate) idle: Duration,
}

/// A file to download.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    pub(crate) url: Url,
    pub(crate) kind: AssetKind,
    /// The path of the partial file.
    pub(crate) partial: PathBuf,
}

/// The outcome of a download.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The file is complete and has the expected kind of content.
    Whole { file: Digested, content: Content, http_status: u16, sent: Sent },
    /// The download failed.
    Failed { failure: Failure, sent: Sent },
    /// The host is down, as downloads of other files have shown.
    HostDown,
    /// The run has ended. The partial file is kept for the next run.
    Stopped,
}

/// A progress update of a download.
#[derive(Clone, Debug)]
pub(crate) enum DownloadUpdate {
    /// An attempt failed and will be retried.
    Retry { reason: String, wait: Duration },
    /// A host is down and receives no more requests.
    HostDown { host: String, reason: String },
}

/// Downloads files within the configured limits.
#[derive(Debug)]
pub(crate) struct Downloader {
    client: Client,
    hosts: Hosts,
    limits: Limits,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
}

impl Downloader {
    /// Creates a downloader. `stop` cancels all waits, but transfers in progress continue. `received` counts the
    /// received bytes.
    pub(crate) fn new(
        access: &Access,
        limits: Limits,
        stop: CancellationToken,
        received: Arc<AtomicU64>,
    ) -> Result<Self> {
        Ok(Self { client: Client::new(access, limits.idle)?, hosts: Hosts::new(limits.slots), limits, stop, received })
    }

    /// Downloads one file. `tell` receives each progress update.
    ///
    /// # Errors
    /// Returns only errors of the local disk. Server failures are part of the [`Outcome`].
    pub(crate) async fn download(&self, wanted: &Download, tell: &(dyn Fn(DownloadUpdate) + Sync)) -> Result<Outcome> {
        let mut tries = RetryState::new(self.limits.retries);
        let mut before = None;
        let name = wanted.url.host_str().unwrap_or_default();
        let host = self.hosts.host(name);
        loop {
            let place = match self.unless_stopped(self.hosts.enter(&host)).await {
                Some(Some(place)) => place,
                Some(None) => return Ok(Outcome::HostDown),
                None => return Ok(Outcome::Stopped),
            };
            // Open the partial file only after acquiring a slot: many downloads wait for a slot, and open files are
            // limited.
            let partial = SharedPartial::open(&wanted.partial, &wanted.url).await?;
            let tried = self.attempt(wanted, &partial, &mut before, &mut tries.sent).await?;
            let length = partial.lock().len();
            drop((partial, place));
            let failure = match tried {
                Ok(whole) => {
                    host.answered();
                    return Ok(whole);
                }
                Err(failure) => failure,
            };
            let wait = tries.wait(&failure, length);
            if judge(&host, &failure, wait) == Verdict::NowDown {
                tell(DownloadUpdate::HostDown { host: name.into(), reason: failure.reason.clone() });
            }
            let Some(wait) = wait else {
                let path = wanted.partial.clone();
                blocking(move || Partial::discard(&path).map_err(|error| Error::io("remove", &path, &error))).await?;
                return Ok(Outcome::Failed { failure, sent: tries.sent });
            };
            tell(DownloadUpdate::Retry { reason: failure.reason, wait });
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

    /// Sends one request and receives as much of the body as arrives. `before` is the result of the last attempt in
    /// which the response did not mark the end of the file.
    async fn attempt(
        &self,
        wanted: &Download,
        partial: &SharedPartial,
        before: &mut Option<Digested>,
        sent: &mut Sent,
    ) -> Result<Result<Outcome, Failure>> {
        sent.attempts += 1;
        let rest = partial.lock().rest();
        let (head, response) = match self.client.get(&wanted.url, rest.as_ref()).await {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let range = RangeResponse::of(&response, rest.as_ref());
        let (end, mark) = (End::of(&response, range), Validator::of(&response));
        let body = match Body::of(response) {
            Ok(body) => body,
            Err(error) => return Ok(Err(cut_off(&error).of(&head))),
        };
        // A part of a compressed body is not a part of the file, and the body's length is not the file's length.
        let (range, end, mark) = match (body.is_packed(), range) {
            (false, _) => (range, end, mark),
            (true, RangeResponse::All) => (RangeResponse::All, End::Marked, None),
            (true, _) => (RangeResponse::Other, end, mark),
        };
        if range == RangeResponse::All {
            partial.run(|partial| partial.begin(mark)).await?;
        }
        let received = match range {
            RangeResponse::All | RangeResponse::Rest(_) => self.body(body, end, partial, sent).await?,
            RangeResponse::Nothing => Ok(()),
            RangeResponse::Other => {
                Err(Rejected::Wrong(Failure::new(Next::Again, "the server sent a different range than requested")))
            }
        };
        let rejected = match received.and_then(|()| recognise(wanted.kind, partial)) {
            Ok(content) => {
                let file = partial.run(|partial| partial.finish()).await?;
                if end != End::Unknown || before.as_ref() == Some(&file) {
                    return Ok(Ok(Outcome::Whole { file, content, http_status: head.status, sent: *sent }));
                }
                // The connection was closed, possibly in the middle of the file. The file is accepted once two
                // attempts return the same bytes.
                *before = Some(file);
                Rejected::Wrong(Failure::new(Next::Again, "the server does not report the file size"))
            }
            Err(rejected) => rejected,
        };
        Ok(Err(match rejected {
            Rejected::Incomplete(failure) => failure.of(&head),
            // Discard the received bytes, because they are not the beginning of the file.
            Rejected::Wrong(failure) => {
                partial.run(|partial| partial.begin(None)).await?;
                failure.of(&head)
            }
        }))
    }

    /// Writes the body to the partial file as it arrives.
    async fn body(
        &self,
        mut body: Body,
        end: End,
        partial: &SharedPartial,
        sent: &mut Sent,
    ) -> Result<Result<(), Rejected>> {
        if matches!(end, End::At(length) if length > self.limits.max_bytes) {
            return Ok(Err(Rejected::Wrong(self.too_large())));
        }
        let (mut chunks, mut waiting, mut length) = (Vec::new(), 0, partial.lock().len());
        let mut floor = Floor::new(self.limits.idle);
        let ended = loop {
            let chunk = match time::timeout(LULL, body.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(Rejected::Incomplete(cut_off(&error))),
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
                break Err(Rejected::Incomplete(Failure::new(Next::Again, "slower than 1 KiB/s")));
            }
            chunks.push(chunk);
            if waiting >= CHUNK {
                partial.write(std::mem::take(&mut chunks)).await?;
                waiting = 0;
            }
        };
        partial.write(chunks).await?;
        Ok(ended.and_then(|()| match end {
            End::At(whole) if length != whole => Err(Rejected::Incomplete(Failure::new(Next::Again, "the response is truncated"))),
            _ => Ok(()),
        }))
    }

    fn too_large(&self) -> Failure {
        let limit = bytesize::ByteSize::b(self.limits.max_bytes).display().iec();
        Failure::new(Next::GiveUp, format!("larger than --max-asset-size ({limit})"))
    }
}

/// The reason why a body is incomplete.
fn cut_off(error: &BodyError) -> Failure {
    match error {
        BodyError::Connection(error) => broken(error),
        BodyError::Encoding(reason) => Failure::new(Next::Again, reason.as_str()),
    }
}

/// The reason why the received bytes are not the complete file.
enum Rejected {
    /// The bytes may be the beginning of the file.
    Incomplete(Failure),
    /// The bytes do not belong to the file.
    Wrong(Failure),
}

fn recognise(kind: AssetKind, partial: &SharedPartial) -> Result<Content, Rejected> {
    content::recognise(kind, partial.lock().head()).map_err(|reason| Rejected::Wrong(Failure::new(Next::Again, reason)))
}

/// The way in which a response marks the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The file has this length, in bytes.
    At(u64),
    /// The encoding of the body marks the end of the file.
    Marked,
    /// The file ends when the connection closes, which may also happen after an error.
    Unknown,
}

impl End {
    fn of(response: &Response, range: RangeResponse) -> Self {
        match (range, response.content_length()) {
            (RangeResponse::Rest(Some(length)), _) | (RangeResponse::All, Some(length)) => Self::At(length),
            (RangeResponse::Nothing, _) => Self::Marked,
            _ if response.headers().contains_key(TRANSFER_ENCODING) => Self::Marked,
            _ => Self::Unknown,
        }
    }
}

/// Records a failure for the host of a file. `wait` is the time until the next attempt, or `None` after the last
/// attempt.
fn judge(host: &Host, failure: &Failure, wait: Option<Duration>) -> Verdict {
    match (failure.next, wait) {
        (Next::After(pause), _) => host.pause(pause),
        (Next::Again, None) => host.gave_up(),
        (Next::GiveUp | Next::Twice, _) => {
            host.answered();
            Verdict::AsBefore
        }
        (Next::Again, Some(_)) => Verdict::AsBefore,
    }
}

/// Detects a stalled transfer, which receives too few bytes in a span of time.
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

/// A shared partial file, whose blocking operations run on tokio's blocking threads.
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
