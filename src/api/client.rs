//! The HTTP client for the API.
//!
//! The client follows no redirects, because every request contains the API key. The client does not retry requests
//! either, because every retry needs its own permit from `RequestLimiter`.

use std::time::Duration;

use reqwest::{
    Response,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use url::Url;

use super::{
    response::{self, TaskResponse, Usage},
    window::RateLimitStatus,
};
use crate::{
    body::{self, Body, BodyError},
    config::ApiKey,
    error::{Error, Result},
    http,
    proxies::Proxies,
    task::TaskId,
};

/// The maximum size of a response body, in bytes, as protection against a server that never stops sending. The response
/// for a task with two clips has a size of about 5 kB.
const MAX_BODY: usize = 64 << 20;

/// The maximum time to establish a connection, which counts toward the timeout of the request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of one API request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: TaskResponse,
    /// The state of the rate-limit window, as reported by the provider.
    pub(crate) rate_limit: RateLimitStatus,
}

/// A response, with its body if the body was needed.
struct ReceivedResponse {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// An API client that uses one key.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// The root URL of the API, including the version.
    root: Url,
    key: ApiKey,
    timeout: Duration,
}

impl Client {
    /// Creates a client for the API below `base_url`. `timeout` is the maximum time for a request and its response
    /// body.
    pub(crate) fn new(base_url: &Url, key: ApiKey, proxies: &Proxies, timeout: Duration) -> Result<Self> {
        let set_up = || {
            let client = reqwest::Client::builder()
                .default_headers(HeaderMap::from_iter([
                    (HeaderName::from_static("x-api-key"), key.header()),
                    (ACCEPT_ENCODING, HeaderValue::from_static(body::ACCEPT_ENCODING)),
                ]))
                .user_agent(http::USER_AGENT)
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .timeout(timeout)
                .connect_timeout(CONNECT_TIMEOUT.min(timeout));
            proxies.apply(client)
        };
        let client = http::build_client(set_up, base_url.scheme() == "http")?;
        let mut root = base_url.clone();
        root.path_segments_mut()
            .map_err(|()| Error::usage("--base-url must be an https:// or http:// URL"))?
            .pop_if_empty()
            .extend(["api", "v1"]);
        Ok(Self { http: client, root, key, timeout })
    }

    /// Requests one task. A failed request is also returned as a [`Reply`].
    pub(crate) async fn fetch_task(&self, id: TaskId<'_>) -> Reply {
        match self.http.get(self.url(&["task", id.as_str()])).send().await {
            Ok(response) => {
                let rate_limit = RateLimitStatus::from_headers(response.headers());
                let response = match self.receive(response).await {
                    Ok(ReceivedResponse { status, retry_after, body }) => {
                        self.redact(response::classify(id, status, retry_after, &body))
                    }
                    Err(response) => response,
                };
                Reply { response, rate_limit }
            }
            Err(error) => Reply { response: self.failed_request(&error), rate_limit: RateLimitStatus::default() },
        }
    }

    /// Requests the account's usage. If the response contains no usage data, the error gives the reason.
    pub(crate) async fn usage(&self) -> Result<Usage, TaskResponse> {
        let result = self.http.get(self.url(&["account", "usage"])).send().await;
        let response = result.map_err(|error| self.failed_request(&error))?;
        let ReceivedResponse { status, retry_after, body } = self.receive(response).await?;
        response::usage(status, retry_after, &body).map_err(|response| self.redact(response))
    }

    /// Reads a response. The body is read only if it is needed.
    async fn receive(&self, response: Response) -> Result<ReceivedResponse, TaskResponse> {
        let status = response.status().as_u16();
        let retry_after = http::retry_after(response.headers());
        // The body of a 429 response is not needed if the response has a `Retry-After` header.
        if status == 429 && retry_after.is_some() {
            return Ok(ReceivedResponse { status, retry_after, body: Vec::new() });
        }
        let body = match self.read_body(response).await {
            Err(reason) if (200..300).contains(&status) => return Err(TaskResponse::Transient { reason }),
            // An error status is reported even if the body cannot be read completely.
            body => body.unwrap_or_default(),
        };
        Ok(ReceivedResponse { status, retry_after, body })
    }

    /// Classifies a request that received no response.
    fn failed_request(&self, error: &reqwest::Error) -> TaskResponse {
        let reason = self.explain(error);
        match () {
            () if http::is_untrusted(error) => TaskResponse::UntrustedCertificate { reason },
            () if error.is_connect() => TaskResponse::ConnectionFailed { reason },
            () => TaskResponse::NoResponse { reason },
        }
    }

    /// The host and port of the API, for messages.
    pub(crate) fn host(&self) -> String {
        let port = self.root.port().map_or(String::new(), |port| format!(":{port}"));
        format!("{}{port}", self.root.host_str().unwrap_or_default())
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.root.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    async fn read_body(&self, response: Response) -> Result<Vec<u8>, String> {
        let explain = |error: BodyError| match error {
            BodyError::Connection(error) => self.explain(&error),
            BodyError::Encoding(reason) => reason,
        };
        let (mut body, mut content) = (Body::from_response(response).map_err(explain)?, Vec::new());
        while let Some(chunk) = body.chunk().await.map_err(explain)? {
            if content.len() + chunk.len() > MAX_BODY {
                return Err(format!("the response is larger than {} MiB", MAX_BODY >> 20));
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    fn explain(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() && error.is_connect() {
            return "connection timed out".into();
        }
        if error.is_timeout() {
            return format!("no complete response within {}", humantime::format_duration(self.timeout));
        }
        self.key.redact(&http::excerpt(&http::root_cause(error)))
    }

    /// Redacts the API key in a response, because the provider may quote the key in a message.
    fn redact(&self, response: TaskResponse) -> TaskResponse {
        let redact = |text: String| self.key.redact(&text);
        match response {
            TaskResponse::NotFound { message } => TaskResponse::NotFound { message: message.map(redact) },
            TaskResponse::Unfinished { status, created_at } => {
                TaskResponse::Unfinished { status: status.map(redact), created_at }
            }
            TaskResponse::KeyRejected { reason } => TaskResponse::KeyRejected { reason: redact(reason) },
            TaskResponse::Transient { reason } => TaskResponse::Transient { reason: redact(reason) },
            TaskResponse::Rejected { reason } => TaskResponse::Rejected { reason: redact(reason) },
            TaskResponse::Malformed { reason, body } => TaskResponse::Malformed { reason: redact(reason), body },
            TaskResponse::Unreadable { reason, body } => TaskResponse::Unreadable { reason: redact(reason), body },
            response => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn client(base_url: &str) -> Client {
        Client::new(
            &config::parse_base_url(base_url).unwrap(),
            ApiKey::new("secret-1").unwrap(),
            &Proxies::none(),
            Duration::from_secs(1),
        )
        .unwrap()
    }

    #[test]
    fn an_id_is_escaped_into_a_single_path_segment() {
        let task = ["task", TaskId::parse("a %2e&é").unwrap().as_str()];
        for base in ["http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            assert_eq!(client(base).url(&task).as_str(), "http://127.0.0.1:1/api/v1/task/a%20%252e&%C3%A9");
        }
        assert_eq!(client("http://h/p/").url(&task).path(), "/p/api/v1/task/a%20%252e&%C3%A9");
    }

    #[test]
    fn debug_output_does_not_contain_the_key() {
        assert!(!format!("{:?}", client("http://127.0.0.1:1")).contains("secret-1"));
    }

    #[tokio::test]
    async fn a_closed_port_is_a_connection_failure() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let response =
            client(&format!("http://127.0.0.1:{port}")).fetch_task(TaskId::parse("t").unwrap()).await.response;
        assert!(
            matches!(&response, TaskResponse::ConnectionFailed { reason } if reason.contains("refused")),
            "{response:?}"
        );
    }
}
