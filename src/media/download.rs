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

/// What came is handed to the disk in pieces of about this size.
const PIECE: usize = 256 << 10;

/// When nothing more comes for this long, what came is handed over as it is: a killed run loses no more
/// than a piece of each download.
const LULL: Duration = Duration::from_millis(200);

/// A server that sends less than this, in bytes a second, is as good as silent.
const SLOWEST: u64 = 1024;

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
    Failed { failure: Failure, sent: Sent },
    /// Its host is down, as other files have shown.
    HostDown,
    /// The run is over; what came is kept for the next.
    Stopped,
}

/// What is worth telling on the way.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// A try failed, and there will be another.
    Retry { reason: String, wait: Duration },
    /// A host is down, and is not asked any more.
    HostDown { host: String, reason: String },
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
    pub(crate) fn new(
        access: &Access,
        limits: Limits,
        stop: CancellationToken,
        received: Arc<AtomicU64>,
    ) -> Result<Self> {
        Ok(Self { client: Client::new(access, limits.idle)?, hosts: Hosts::new(limits.places), limits, stop, received })
    }

    /// Downloads one file. `tell` hears of each try that is repeated.
    ///
    /// # Errors
    /// Only those of the local disk: whatever the server does is an [`Outcome`].
    pub(crate) async fn download(&self, wanted: &Download, tell: &(dyn Fn(Told) + Sync)) -> Result<Outcome> {
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
            // Opened only now: those that wait for a place are many, and open files are few.
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
                tell(Told::HostDown { host: name.into(), reason: failure.reason.clone() });
            }
            let Some(wait) = wait else {
                let path = wanted.partial.clone();
                blocking(move || Partial::discard(&path).map_err(|error| Error::io("remove", &path, &error))).await?;
                return Ok(Outcome::Failed { failure, sent: tries.sent });
            };
            tell(Told::Retry { reason: failure.reason, wait });
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

    /// One request, and what of its body there is. `before` is what the last try brought whose end nobody
    /// could tell.
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
        let brings = RangeResponse::of(&response, rest.as_ref());
        let (end, mark) = (End::of(&response, brings), Validator::of(&response));
        let body = match Body::of(response) {
            Ok(body) => body,
            Err(error) => return Ok(Err(cut_off(&error).of(&head))),
        };
        // A part of a packed body is no part of the file, and its length is not the file's.
        let (brings, end, mark) = match (body.is_packed(), brings) {
            (false, _) => (brings, end, mark),
            (true, RangeResponse::All) => (RangeResponse::All, End::Marked, None),
            (true, _) => (RangeResponse::Other, end, mark),
        };
        if brings == RangeResponse::All {
            partial.run(|partial| partial.begin(mark)).await?;
        }
        let came = match brings {
            RangeResponse::All | RangeResponse::Rest(_) => self.body(body, end, partial, sent).await?,
            RangeResponse::Nothing => Ok(()),
            RangeResponse::Other => {
                Err(Rejected::Wrong(Failure::new(Next::Again, "not the part of the file that was asked for")))
            }
        };
        let rejected = match came.and_then(|()| recognise(wanted.kind, partial)) {
            Ok(content) => {
                let file = partial.run(|partial| partial.finish()).await?;
                if end != End::Unknown || before.as_ref() == Some(&file) {
                    return Ok(Ok(Outcome::Whole { file, content, http_status: head.status, sent: *sent }));
                }
                // The connection was closed: at the end of the file, or in its middle. Twice the same is an answer.
                *before = Some(file);
                Rejected::Wrong(Failure::new(Next::Again, "the server does not say where the file ends"))
            }
            Err(rejected) => rejected,
        };
        Ok(Err(match rejected {
            Rejected::Incomplete(failure) => failure.of(&head),
            // Those bytes are no beginning of anything.
            Rejected::Wrong(failure) => {
                partial.run(|partial| partial.begin(None)).await?;
                failure.of(&head)
            }
        }))
    }

    /// Takes the body to the file, as far as it comes.
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
                break Err(Rejected::Incomplete(Failure::new(Next::Again, "slower than 1 KiB a second")));
            }
            chunks.push(chunk);
            if waiting >= PIECE {
                partial.write(std::mem::take(&mut chunks)).await?;
                waiting = 0;
            }
        };
        partial.write(chunks).await?;
        Ok(ended.and_then(|()| match end {
            End::At(whole) if length != whole => Err(Rejected::Incomplete(Failure::new(Next::Again, "cut short"))),
            _ => Ok(()),
        }))
    }

    fn too_large(&self) -> Failure {
        let limit = bytesize::ByteSize::b(self.limits.max_bytes).display().iec();
        Failure::new(Next::GiveUp, format!("larger than --max-asset-size, {limit}"))
    }
}

/// Why a body did not come to its end.
fn cut_off(error: &BodyError) -> Failure {
    match error {
        BodyError::Connection(error) => broken(error),
        BodyError::Encoding(reason) => Failure::new(Next::Again, reason.as_str()),
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

/// Where the file ends that a response brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After so many bytes of the whole file.
    At(u64),
    /// Where the encoding of the body says so.
    Marked,
    /// Where the connection is closed, for whatever reason.
    Unknown,
}

impl End {
    fn of(response: &Response, brings: RangeResponse) -> Self {
        match (brings, response.content_length()) {
            (RangeResponse::Rest(Some(length)), _) | (RangeResponse::All, Some(length)) => Self::At(length),
            (RangeResponse::Nothing, _) => Self::Marked,
            _ if response.headers().contains_key(TRANSFER_ENCODING) => Self::Marked,
            _ => Self::Unknown,
        }
    }
}

/// What a failure says of the file's host. `wait` is the time to the file's next try, if there is one.
fn judge(host: &Host, failure: &Failure, wait: Option<Duration>) -> Verdict {
    match (failure.next, wait) {
        (Next::After(silence), _) => host.silence(silence),
        (Next::Again, None) => host.gave_up(),
        (Next::GiveUp | Next::Twice, _) => {
            host.answered();
            Verdict::AsBefore
        }
        (Next::Again, Some(_)) => Verdict::AsBefore,
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
