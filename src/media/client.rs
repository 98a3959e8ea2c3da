//! The HTTP client for media files. The client sends no API key, no cookies and no `Referer` header. The client follows
//! a limited number of redirects, checks the target of each redirect, and leaves retries to the caller.

use std::{borrow::Cow, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE},
    redirect,
};
use url::Url;

use super::{
    guard::{Guard, HostPolicy, Refused},
    resume::MissingRange,
    source::Scheme,
};
use crate::{error::Result, http, proxies::Proxies};

/// The maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of redirects. A CDN typically uses one or two redirects.
const MAX_REDIRECTS: usize = 8;

/// How long to pause requests to a host after a 429 without a valid `Retry-After` header.
const DEFAULT_PAUSE: Duration = Duration::from_secs(10);

/// The reason why a download attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) http_status: Option<u16>,
    pub(crate) content_type: Option<String>,
    /// Whether a connection to the server was established.
    pub(crate) connected: bool,
    pub(super) retry_decision: RetryDecision,
}

/// What to do after a failed download attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Give up, because another attempt would fail in the same way.
    GiveUp,
    /// Retry after a backoff.
    Retry,
    /// Retry at most twice. Some CDNs refuse the first request for a file.
    RetryLimited,
    /// Pause all requests to the host for this duration, then retry.
    RetryAfter(Duration),
}

impl Failure {
    pub(super) fn new(decision: RetryDecision, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), http_status: None, content_type: None, connected: true, retry_decision: decision }
    }

    /// Adds the status and content type of the response to the failure.
    pub(super) fn with_response(self, response: &ResponseHead) -> Self {
        Self { http_status: Some(response.status), content_type: response.content_type.clone(), ..self }
    }
}

/// The status and content type of a response.
#[derive(Clone, Debug)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
}

impl ResponseHead {
    fn from_response(response: &Response) -> Self {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self { status: response.status().as_u16(), content_type: content_type.map(http::excerpt) }
    }
}

/// The network settings for media downloads.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The addresses to which downloads may connect.
    pub(crate) hosts: HostPolicy,
    /// The scheme of the API's URL.
    pub(crate) scheme: Scheme,
    pub(crate) proxies: Proxies,
}

/// The HTTP client for media files.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    guard: Guard,
}

impl Client {
    /// Creates a client with these network settings. `idle_timeout` is the maximum time without data from a server.
    pub(super) fn new(access: &Access, idle_timeout: Duration) -> Result<Self> {
        let guard = Guard::new(access.hosts, access.proxies.hosts());
        let set_up = || {
            let client = reqwest::Client::builder()
                .user_agent(http::USER_AGENT)
                // Request an uncompressed body, because the length and checksum of a file refer to the bytes as stored
                // on the server.
                .default_headers(HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .dns_resolver(guard.clone())
                .connect_timeout(CONNECT_TIMEOUT.min(idle_timeout))
                .read_timeout(idle_timeout);
            access.proxies.apply(client)
        };
        let client = http::build_client(set_up, access.scheme == Scheme::Http)?;
        Ok(Self { http: client, guard })
    }

    /// Requests a file, or only its missing part if the file on the server has not changed. Returns an error unless the
    /// status is 200, 203, 206 or, for a range request, 416.
    pub(super) async fn get(
        &self,
        url: &Url,
        missing: Option<&MissingRange>,
    ) -> Result<(ResponseHead, Response), Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, missing).await?;
            let head = ResponseHead::from_response(&response);
            match location(&response) {
                Some(location) => {
                    url = redirect_target(&url, &location).map_err(|failure| failure.with_response(&head))?;
                }
                None => {
                    return check_status(&response, missing.is_some())
                        .map(|()| (head.clone(), response))
                        .map_err(|failure| failure.with_response(&head));
                }
            }
        }
        Err(Failure::new(RetryDecision::GiveUp, format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn send(&self, url: &Url, missing: Option<&MissingRange>) -> Result<Response, Failure> {
        let refused = |refused: &Refused| Failure::new(RetryDecision::GiveUp, refused.to_string());
        self.guard.check_host(url).await.map_err(|error| refused(&error))?;
        let mut request = self.http.get(url.clone());
        if let Some(MissingRange { offset: from, validator }) = missing {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, &validator.value);
        }
        request.send().await.map_err(|error| {
            let guard_error = http::chain(&error).find_map(|cause| cause.downcast_ref::<Refused>());
            guard_error.map_or_else(|| transport_failure(&error), refused)
        })
    }
}

/// Returns the `Location` of a redirect, or `None` if the response is not a redirect. If the header is not valid UTF-8,
/// its non-ASCII bytes are percent-encoded.
fn location(response: &Response) -> Option<Cow<'_, str>> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| moved)?.as_bytes();
    let escape = |byte: &u8| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    Some(str::from_utf8(location).map_or_else(|_| location.iter().map(escape).collect(), Cow::Borrowed))
}

fn redirect_target(from: &Url, location: &str) -> Result<Url, Failure> {
    match from.join(location) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(url) => Err(Failure::new(
            RetryDecision::GiveUp,
            format!("redirected to an unsupported URL scheme: {}", url.scheme()),
        )),
        Err(_) => Err(Failure::new(RetryDecision::GiveUp, "redirected to an invalid URL")),
    }
}

/// Returns an error unless the status is 200, 203, 206 or, for a range request, 416.
fn check_status(response: &Response, is_range_request: bool) -> Result<(), Failure> {
    let status = response.status();
    let retry_after = http::retry_after(response.headers());
    let decision = match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::PARTIAL_CONTENT => return Ok(()),
        StatusCode::RANGE_NOT_SATISFIABLE if is_range_request => return Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RetryDecision::RetryLimited,
        StatusCode::TOO_MANY_REQUESTS => RetryDecision::RetryAfter(retry_after.unwrap_or(DEFAULT_PAUSE)),
        StatusCode::SERVICE_UNAVAILABLE => retry_after.map_or(RetryDecision::Retry, RetryDecision::RetryAfter),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => RetryDecision::Retry,
        status if status.is_server_error() || status.is_success() => RetryDecision::Retry,
        _ => RetryDecision::GiveUp,
    };
    Err(Failure::new(decision, format!("HTTP {}", status.as_u16())))
}

/// Converts a transport error to a [`Failure`].
pub(super) fn transport_failure(error: &reqwest::Error) -> Failure {
    if http::is_untrusted(error) {
        return Failure::new(
            RetryDecision::GiveUp,
            format!("untrusted certificate: {}", http::excerpt(&http::root_cause(error))),
        );
    }
    let cause = || http::excerpt(&http::root_cause(error));
    let reason = match () {
        () if error.is_timeout() && error.is_connect() => "connection timed out".into(),
        () if error.is_timeout() => "no data within the timeout".into(),
        () if error.is_connect() => format!("connection failed: {}", cause()),
        () if error.is_body() || error.is_decode() => "the response is truncated".into(),
        () => cause(),
    };
    Failure { connected: !error.is_connect(), ..Failure::new(RetryDecision::Retry, reason) }
}
