//! Downloads individual files, with retries, resumption and content checks. Only bytes that have not yet been written
//! to the disk are held in memory.

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
    client::{Access, Client, Failure, RetryDecision, transport_failure},
    content::{self, Content},
    hosts::{Host, HostStatusChange, Hosts},
    partial::Partial,
    resume::{RangeResponse, Validator},
    retry::{RetryState, Traffic},
};
use crate::{
    asset::AssetKind,
    blocking::blocking,
    body::{Body, BodyError},
    checksum::FileDigest,
    error::{Error, Result},
};

/// The approximate size of a write to the partial file, in bytes.
const CHUNK_SIZE: usize = 256 << 10;

/// The time without new data after which all buffered bytes are written to the disk. A killed run loses at most one
/// unwritten chunk per download.
const FLUSH_IDLE: Duration = Duration::from_millis(200);

/// The minimum transfer rate, in bytes per second. A slower transfer counts as stalled.
const MIN_BYTES_PER_SECOND: u64 = 1024;

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
    pub(crate) idle_timeout: Duration,
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
    Complete { file: FileDigest, content: Content, http_status: u16, traffic: Traffic },
    /// The download failed.
    Failed { failure: Failure, traffic: Traffic },
    /// The host is marked as down.
    HostDown,
    /// The downloader was stopped. The partial file is kept for the next run.
    Stopped,
}

/// An update about a download in progress.
#[derive(Clone, Debug)]
pub(crate) enum DownloadUpdate {
    /// An attempt failed, and the download will be retried after `wait`.
    Retry { reason: String, wait: Duration },
    /// A host was marked as down and receives no more requests.
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
    /// Creates a downloader. Cancelling `stop` ends all waits, but transfers in progress continue. `received` counts
    /// the received bytes.
    pub(crate) fn new(
        access: &Access,
        limits: Limits,
        stop: CancellationToken,
        received: Arc<AtomicU64>,
    ) -> Result<Self> {
        Ok(Self {
            client: Client::new(access, limits.idle_timeout)?,
            hosts: Hosts::new(limits.slots),
            limits,
            stop,
            received,
        })
    }

    /// Downloads one file. `report` is called with each [`DownloadUpdate`].
    ///
    /// # Errors
    /// Returns an error only if an operation on the local disk fails. A server failure is reported in the [`Outcome`].
    pub(crate) async fn download(
        &self,
        download: &Download,
        report: &(dyn Fn(DownloadUpdate) + Sync),
    ) -> Result<Outcome> {
        let mut retry_state = RetryState::new(self.limits.retries);
        let mut previous = None;
        let name = download.url.host_str().unwrap_or_default();
        let host = self.hosts.host(name);
        loop {
            let slot = match self.run_until_stopped(self.hosts.acquire_slot(&host)).await {
                Some(Some(slot)) => slot,
                Some(None) => return Ok(Outcome::HostDown),
                None => return Ok(Outcome::Stopped),
            };
            // Open the partial file only after acquiring a slot, because many downloads wait for a slot and the number
            // of open files is limited.
            let partial = SharedPartial::open(&download.partial, &download.url).await?;
            let result = self.attempt(download, &partial, &mut previous, &mut retry_state.traffic).await?;
            let length = partial.lock().len();
            drop((partial, slot));
            let failure = match result {
                Ok(outcome) => {
                    host.record_success();
                    return Ok(outcome);
                }
                Err(failure) => failure,
            };
            let wait = retry_state.next_wait(&failure, length);
            if record_failed_attempt(&host, &failure, wait) == HostStatusChange::MarkedDown {
                report(DownloadUpdate::HostDown { host: name.into(), reason: failure.reason.clone() });
            }
            let Some(wait) = wait else {
                let path = download.partial.clone();
                blocking(move || Partial::discard(&path).map_err(|error| Error::io("remove", &path, &error))).await?;
                return Ok(Outcome::Failed { failure, traffic: retry_state.traffic });
            };
            report(DownloadUpdate::Retry { reason: failure.reason, wait });
            if self.run_until_stopped(time::sleep(wait)).await.is_none() {
                return Ok(Outcome::Stopped);
            }
        }
    }

    async fn run_until_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            done = future => Some(done),
        }
    }

    /// Makes one download attempt: sends a request, and writes the received bytes to the partial file. `previous` is
    /// the digest of the file from the last attempt whose response did not mark the end of the file.
    async fn attempt(
        &self,
        download: &Download,
        partial: &SharedPartial,
        previous: &mut Option<FileDigest>,
        traffic: &mut Traffic,
    ) -> Result<Result<Outcome, Failure>> {
        traffic.attempts += 1;
        let missing = partial.lock().missing_range();
        let (head, response) = match self.client.get(&download.url, missing.as_ref()).await {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let range = RangeResponse::from_response(&response, missing.as_ref());
        let (end, validator) = (BodyEnd::from_response(&response, range), Validator::from_response(&response));
        let body = match Body::from_response(response) {
            Ok(body) => body,
            Err(error) => return Ok(Err(body_failure(&error).with_response(&head))),
        };
        // A range of a compressed body is not a range of the file, and the length of the body is not the length of the
        // file.
        let (range, end, validator) = match (body.is_compressed(), range) {
            (false, _) => (range, end, validator),
            (true, RangeResponse::Full) => (RangeResponse::Full, BodyEnd::Delimited, None),
            (true, _) => (RangeResponse::Unexpected, end, validator),
        };
        if range == RangeResponse::Full {
            partial.run(|partial| partial.restart(validator)).await?;
        }
        let received = match range {
            RangeResponse::Full | RangeResponse::Partial(_) => self.receive_body(body, end, partial, traffic).await?,
            RangeResponse::AlreadyComplete => Ok(Vec::new()),
            RangeResponse::Unexpected => Err(Rejected::Invalid(Failure::new(
                RetryDecision::Retry,
                "the server sent a different range than requested",
            ))),
        };
        let completed = match received {
            Ok(last_chunks) => partial.complete(download.kind, last_chunks).await?,
            Err(rejected) => Err(rejected),
        };
        let rejected = match completed {
            Ok((file, content)) => {
                if end != BodyEnd::Unknown || previous.as_ref() == Some(&file) {
                    return Ok(Ok(Outcome::Complete { file, content, http_status: head.status, traffic: *traffic }));
                }
                // Without a known length, a closed connection may mean a truncated file. The file is therefore accepted
                // only after two attempts have returned the same bytes.
                *previous = Some(file);
                Rejected::Invalid(Failure::new(RetryDecision::Retry, "the server does not report the file size"))
            }
            Err(rejected) => rejected,
        };
        Ok(Err(match rejected {
            Rejected::Incomplete(failure) => failure.with_response(&head),
            // Discard the received bytes, because they are not the beginning of the file.
            Rejected::Invalid(failure) => {
                partial.run(|partial| partial.restart(None)).await?;
                failure.with_response(&head)
            }
        }))
    }

    /// Writes the body to the partial file as data arrives. Returns the last chunks without writing them, so that a
    /// small file is written and completed in one blocking call.
    async fn receive_body(
        &self,
        mut body: Body,
        end: BodyEnd,
        partial: &SharedPartial,
        traffic: &mut Traffic,
    ) -> Result<Result<Vec<Bytes>, Rejected>> {
        if matches!(end, BodyEnd::AtLength(length) if length > self.limits.max_bytes) {
            return Ok(Err(Rejected::Invalid(self.too_large())));
        }
        let (mut chunks, mut buffered, mut length) = (Vec::new(), 0, partial.lock().len());
        let mut stall_detector = StallDetector::new(self.limits.idle_timeout);
        let result = loop {
            let chunk = match time::timeout(FLUSH_IDLE, body.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(Rejected::Incomplete(body_failure(&error))),
                Err(_idle) => {
                    partial.write(std::mem::take(&mut chunks)).await?;
                    buffered = 0;
                    continue;
                }
            };
            traffic.received += chunk.len() as u64;
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            length += chunk.len() as u64;
            buffered += chunk.len();
            if length > self.limits.max_bytes {
                return Ok(Err(Rejected::Invalid(self.too_large())));
            }
            if stall_detector.is_stalled(chunk.len() as u64) {
                break Err(Rejected::Incomplete(Failure::new(
                    RetryDecision::Retry,
                    "the transfer is slower than 1 KiB/s",
                )));
            }
            chunks.push(chunk);
            if buffered >= CHUNK_SIZE {
                partial.write(std::mem::take(&mut chunks)).await?;
                buffered = 0;
            }
        };
        let rejected = match (result, end) {
            (Ok(()), BodyEnd::AtLength(expected)) if length != expected => {
                Rejected::Incomplete(Failure::new(RetryDecision::Retry, "the response is truncated"))
            }
            (Ok(()), _) => return Ok(Ok(chunks)),
            (Err(rejected), _) => rejected,
        };
        partial.write(chunks).await?;
        Ok(Err(rejected))
    }

    fn too_large(&self) -> Failure {
        let limit = bytesize::ByteSize::b(self.limits.max_bytes).display().iec();
        Failure::new(RetryDecision::GiveUp, format!("the file is larger than --max-asset-size ({limit})"))
    }
}

/// Converts a [`BodyError`] to a [`Failure`].
fn body_failure(error: &BodyError) -> Failure {
    match error {
        BodyError::Connection(error) => transport_failure(error),
        BodyError::Encoding(reason) => Failure::new(RetryDecision::Retry, reason.as_str()),
    }
}

/// Why the received bytes are not accepted as the complete file.
enum Rejected {
    /// The received bytes may be the beginning of the file.
    Incomplete(Failure),
    /// The received bytes are not valid content of the file.
    Invalid(Failure),
}

/// How a response marks the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyEnd {
    /// The file has this length, in bytes.
    AtLength(u64),
    /// The encoding of the body marks the end of the file.
    Delimited,
    /// Only the closing of the connection marks the end of the file, but an error may also close the connection.
    Unknown,
}

impl BodyEnd {
    fn from_response(response: &Response, range: RangeResponse) -> Self {
        match (range, response.content_length()) {
            (RangeResponse::Partial(Some(length)), _) | (RangeResponse::Full, Some(length)) => Self::AtLength(length),
            (RangeResponse::AlreadyComplete, _) => Self::Delimited,
            _ if response.headers().contains_key(TRANSFER_ENCODING) => Self::Delimited,
            _ => Self::Unknown,
        }
    }
}

/// Records a failed attempt in the state of the host. `wait` is the time until the next attempt, or `None` after the
/// last attempt.
fn record_failed_attempt(host: &Host, failure: &Failure, wait: Option<Duration>) -> HostStatusChange {
    match (failure.retry_decision, wait) {
        (RetryDecision::RetryAfter(pause), _) => host.record_pause(pause),
        (RetryDecision::Retry, None) => host.record_failure(),
        (RetryDecision::GiveUp | RetryDecision::RetryLimited, _) => {
            host.record_success();
            HostStatusChange::Unchanged
        }
        (RetryDecision::Retry, Some(_)) => HostStatusChange::Unchanged,
    }
}

/// Detects stalled transfers. A transfer is stalled if its average rate during a time window is below
/// [`MIN_BYTES_PER_SECOND`].
struct StallDetector {
    window: Duration,
    window_start: Instant,
    bytes: u64,
}

impl StallDetector {
    fn new(window: Duration) -> Self {
        Self { window, window_start: Instant::now(), bytes: 0 }
    }

    fn is_stalled(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let elapsed = self.window_start.elapsed();
        if elapsed < self.window {
            return false;
        }
        let is_slow = self.bytes < (elapsed.as_secs_f64() * MIN_BYTES_PER_SECOND as f64) as u64;
        (self.window_start, self.bytes) = (Instant::now(), 0);
        is_slow
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

    /// Writes the last chunks, and checks that the file contains media of the expected kind.
    async fn complete(
        &self,
        kind: AssetKind,
        last_chunks: Vec<Bytes>,
    ) -> Result<Result<(FileDigest, Content), Rejected>> {
        let invalid = |reason| Rejected::Invalid(Failure::new(RetryDecision::Retry, reason));
        self.run(move |partial| {
            partial.append(&last_chunks)?;
            match content::detect(kind, partial.head()) {
                Ok(content) => Ok(Ok((partial.finish()?, content))),
                Err(reason) => Ok(Err(invalid(reason))),
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
