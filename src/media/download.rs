//! Downloads of single files, with retries, resumption and content checks, until the file is complete or has
//! failed. Memory holds only the bytes on their way to the disk.

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

/// Received bytes are written to the disk in chunks of about this size.
const CHUNK: usize = 256 << 10;

/// After this long without data, received bytes are written as they are: a killed run loses at most a chunk of each
/// download.
const LULL: Duration = Duration::from_millis(200);

/// A server that sends fewer bytes per second counts as stalled.
const SLOWEST: u64 = 1024;

/// The limits of downloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Downloads in progress at once.
    pub(crate) slots: usize,
    /// A larger file is refused.
    pub(crate) max_bytes: u64,
    /// Retries after a transient failure.
    pub(crate) retries: u32,
    /// How long a server may send nothing.
    pub(crate) idle: Duration,
}

/// A file to download.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    pub(crate) url: Url,
    pub(crate) kind: AssetKind,
    /// Its partial file.
    pub(crate) partial: PathBuf,
}

/// The outcome of a download.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The file is complete and of the right kind.
    Whole { file: Digested, content: Content, http_status: u16, sent: Sent },
    /// It failed.
    Failed { failure: Failure, sent: Sent },
    /// Its host is down, as other files showed.
    HostDown,
    /// The run is over; the partial file is kept for the next one.
    Stopped,
}

/// A progress update of a download.
#[derive(Clone, Debug)]
pub(crate) enum DownloadUpdate {
    /// An attempt failed, and a retry is due.
    Retry { reason: String, wait: Duration },
    /// A host is down, and gets no further requests.
    HostDown { host: String, reason: String },
}

/// Downloads files, within the limits.
#[derive(Debug)]
pub(crate) struct Downloader {
    client: Client,
    hosts: Hosts,
    limits: Limits,
    stop: CancellationToken,
    received: Arc<AtomicU64>,
}

impl Downloader {
    /// `stop` ends all waiting; transfers in progress continue. `received` counts received bytes.
    pub(crate) fn new(
        access: &Access,
        limits: Limits,
        stop: CancellationToken,
        received: Arc<AtomicU64>,
    ) -> Result<Self> {
        Ok(Self { client: Client::new(access, limits.idle)?, hosts: Hosts::new(limits.slots), limits, stop, received })
    }

    /// Downloads one file. `tell` receives each retry.
    ///
    /// # Errors
    /// Only those of the local disk: whatever the server does is an [`Outcome`].
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
            // Opened only now: many downloads wait for a slot, and open files are limited.
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

    /// One request, and as much of its body as arrives. `before` is the result of the last attempt whose end was not
    /// marked.
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
        // A part of a compressed body is not a part of the file, and its length is not the file's.
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
            RangeResponse::Nothing => Ok(Vec::new()),
            RangeResponse::Other => {
                Err(Rejected::Wrong(Failure::new(Next::Again, "not the part of the file that was asked for")))
            }
        };
        let completed = match received {
            Ok(last) => partial.complete(wanted.kind, last).await?,
            Err(rejected) => Err(rejected),
        };
        let rejected = match completed {
            Ok((file, content)) => {
                if end != End::Unknown || before.as_ref() == Some(&file) {
                    return Ok(Ok(Outcome::Whole { file, content, http_status: head.status, sent: *sent }));
                }
                // The connection was closed, perhaps in the middle of the file. Twice the same bytes are accepted.
                *before = Some(file);
                Rejected::Wrong(Failure::new(Next::Again, "the server does not say where the file ends"))
            }
            Err(rejected) => rejected,
        };
        Ok(Err(match rejected {
            Rejected::Incomplete(failure) => failure.of(&head),
            // These bytes are not the beginning of the file.
            Rejected::Wrong(failure) => {
                partial.run(|partial| partial.begin(None)).await?;
                failure.of(&head)
            }
        }))
    }

    /// Writes the body to the partial file, as far as it arrives. Returns the last chunks, which are not written yet: a
    /// small file takes one step from the network to its complete partial file.
    async fn body(
        &self,
        mut body: Body,
        end: End,
        partial: &SharedPartial,
        sent: &mut Sent,
    ) -> Result<Result<Vec<Bytes>, Rejected>> {
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
                break Err(Rejected::Incomplete(Failure::new(Next::Again, "slower than 1 KiB a second")));
            }
            chunks.push(chunk);
            if waiting >= CHUNK {
                partial.write(std::mem::take(&mut chunks)).await?;
                waiting = 0;
            }
        };
        let rejected = match (ended, end) {
            (Ok(()), End::At(whole)) if length != whole => Rejected::Incomplete(Failure::new(Next::Again, "cut short")),
            (Ok(()), _) => return Ok(Ok(chunks)),
            (Err(rejected), _) => rejected,
        };
        partial.write(chunks).await?;
        Ok(Err(rejected))
    }

    fn too_large(&self) -> Failure {
        let limit = bytesize::ByteSize::b(self.limits.max_bytes).display().iec();
        Failure::new(Next::GiveUp, format!("larger than --max-asset-size, {limit}"))
    }
}

/// The reason why a body is incomplete.
fn cut_off(error: &BodyError) -> Failure {
    match error {
        BodyError::Connection(error) => broken(error),
        BodyError::Encoding(reason) => Failure::new(Next::Again, reason.as_str()),
    }
}

/// The reason why the received bytes are not the file.
enum Rejected {
    /// They may be its beginning.
    Incomplete(Failure),
    /// They are something else.
    Wrong(Failure),
}

/// Where the file in a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After this many bytes of the whole file.
    At(u64),
    /// Where the encoding of the body marks it.
    Marked,
    /// Where the connection is closed, for any reason.
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

/// Records a failure for the file's host. `wait` is the time to the file's next attempt, if there is one.
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

/// Detects a stalled transfer: too few bytes in a span of time.
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

    /// Writes the last chunks, and checks that the file is media of that kind.
    async fn complete(&self, kind: AssetKind, last: Vec<Bytes>) -> Result<Result<(Digested, Content), Rejected>> {
        let wrong = |reason| Rejected::Wrong(Failure::new(Next::Again, reason));
        self.run(move |partial| {
            partial.append(&last)?;
            match content::recognise(kind, partial.head()) {
                Ok(content) => Ok(Ok((partial.finish()?, content))),
                Err(reason) => Ok(Err(wrong(reason))),
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Partial) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.clone();
        blocking(move || work(&mut shared.lock()).map_err(|error| Error::io("write", &shared.path, &error))).await
    }
}
