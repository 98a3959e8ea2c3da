//! Counts the CDN responses in progress and the bytes sent.

use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Response,
    body::{Body as _, Frame, SizeHint},
    header::{CONTENT_LENGTH, RANGE},
};

use super::{response::Body, state::State};

/// Request headers that must be sent only to the API.
const SECRETS: [&str; 4] = ["x-api-key", "authorization", "cookie", "referer"];

/// Tracks a response in progress. The response counts as finished when its last byte is sent or when this value is
/// dropped.
#[derive(Debug)]
pub(super) struct ResponseTracker {
    state: Arc<State>,
    path: String,
    /// Whether the response includes the last byte of the file.
    pub(super) includes_end: bool,
    finished: bool,
}

impl ResponseTracker {
    /// Counts a request. Returns the tracker for its response, and the number of requests for the path so far.
    pub(super) fn new(state: Arc<State>, path: &str, headers: &HeaderMap) -> (Self, u32) {
        let mut counts = state.counts();
        counts.in_flight += 1;
        let in_flight = counts.in_flight;
        let media = &mut counts.stats.media;
        media.requests += 1;
        media.range_requests += u64::from(headers.contains_key(RANGE));
        media.max_concurrent = media.max_concurrent.max(in_flight);
        for secret in SECRETS.into_iter().filter(|name| headers.contains_key(*name)) {
            if !media.leaks.iter().any(|leak| leak == secret) {
                media.leaks.push(secret.into());
            }
        }
        let nth = media.by_path.entry(path.to_owned()).or_default();
        *nth += 1;
        let nth = *nth;
        drop(counts);
        (Self { state, path: path.to_owned(), includes_end: false, finished: false }, nth)
    }

    /// Wraps a response so that its bytes are counted while they are sent.
    pub(super) fn wrap(self, response: Response<Body>) -> Response<Body> {
        let content_length =
            response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let remaining = content_length.or(response.body().size_hint().exact()).unwrap_or(u64::MAX);
        response.map(|body| TrackedBody { body, remaining, tracker: self }.boxed())
    }

    fn record_sent(&mut self, bytes: u64, last: bool) {
        self.state.counts().stats.media.bytes += bytes;
        if last {
            self.finish();
            if self.includes_end {
                let mut counts = self.state.counts();
                *counts.stats.media.completed.entry(mem::take(&mut self.path)).or_default() += 1;
            }
        }
    }

    fn finish(&mut self) {
        if !mem::replace(&mut self.finished, true) {
            self.state.counts().in_flight -= 1;
        }
    }
}

impl Drop for ResponseTracker {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A response body that counts the bytes sent.
struct TrackedBody {
    body: Body,
    remaining: u64,
    tracker: ResponseTracker,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &polled {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.remaining = self.remaining.saturating_sub(bytes);
            // Mark the response as complete before its last byte is sent, because the client may request the next
            // file immediately.
            let last = self.remaining == 0;
            self.tracker.record_sent(bytes, last);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
