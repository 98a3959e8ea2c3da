//! One request to the API.
//!
//! The client carries the key, so it follows no redirect and repeats nothing on its own: every
//! request that leaves is one that the pace has let through.

use std::time::Duration;

use reqwest::{
    Response,
    header::{HeaderMap, RETRY_AFTER},
    redirect,
};
use url::Url;

use super::{
    response::{self, Answer},
    window::Allowance,
};
use crate::{
    config::ApiKey,
    error::{Error, Result},
    http,
    task::TaskId,
};

/// The largest body read. A task of two clips takes some 5 kB; this is a guard against a server
/// that never stops sending.
const MAX_BODY: usize = 64 << 20;

/// The longest wait for a connection, within the limit of the whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of one request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    /// What the provider said about its rate window on the way.
    pub(crate) allowance: Allowance,
}

/// Asks the API, as the owner of one key.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    tasks: Url,
    key: ApiKey,
    timeout: Duration,
}

impl Client {
    /// A client for the API below `base_url`; `timeout` is the limit of one request, its body included.
    pub(crate) fn new(base_url: &Url, key: ApiKey, timeout: Duration) -> Result<Self> {
        http::prepare_tls();
        let client = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([("x-api-key".parse().expect("a header's name"), key.header())]))
            .user_agent(http::USER_AGENT)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .build()
            .map_err(|error| Error::usage(format!("cannot set up HTTPS: {}", http::root_cause(&error))))?;
        let mut tasks = base_url.clone();
        tasks
            .path_segments_mut()
            .map_err(|()| Error::usage("--base-url cannot have paths below it"))?
            .pop_if_empty()
            .extend(["api", "v1", "task"]);
        Ok(Self { http: client, tasks, key, timeout })
    }

    /// Asks for one task. Whatever happens is a [`Reply`].
    pub(crate) async fn ask(&self, id: TaskId<'_>) -> Reply {
        match self.http.get(self.url(id)).send().await {
            Ok(response) => {
                let allowance = Allowance::of(response.headers());
                Reply { answer: self.read(id, response).await, allowance }
            }
            Err(error) => {
                let reason = self.explain(&error);
                let answer = match () {
                    () if http::is_untrusted(&error) => Answer::Untrusted { reason },
                    () if error.is_connect() => Answer::Unconnected { reason },
                    () => Answer::Silent { reason },
                };
                Reply { answer, allowance: Allowance::default() }
            }
        }
    }

    async fn read(&self, id: TaskId<'_>, response: Response) -> Answer {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Whoever says for how long to be silent is not listened to any longer.
        if status == 429 && retry_after.is_some() {
            return response::classify(id, status, retry_after.as_deref(), b"");
        }
        match self.body(response).await {
            Ok(body) => self.scrub(response::classify(id, status, retry_after.as_deref(), &body)),
            Err(reason) if (200..300).contains(&status) => Answer::Transient { reason },
            // A refusal stands, whatever became of the page that came with it.
            Err(_) => response::classify(id, status, retry_after.as_deref(), b""),
        }
    }

    /// Whom it asks, for a person.
    pub(crate) fn host(&self) -> String {
        let port = self.tasks.port().map_or(String::new(), |port| format!(":{port}"));
        format!("{}{port}", self.tasks.host_str().unwrap_or_default())
    }

    fn url(&self, id: TaskId<'_>) -> Url {
        let mut url = self.tasks.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id.as_str());
        }
        url
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.explain(&error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(format!("the body is larger than {} MiB", MAX_BODY >> 20));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn explain(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() && error.is_connect() {
            return "no connection in time".into();
        }
        if error.is_timeout() {
            return format!("no whole answer within {}", humantime::format_duration(self.timeout));
        }
        self.key.scrub(&http::excerpt(&http::root_cause(error)))
    }

    /// A provider may echo the key in its message; it goes no further.
    fn scrub(&self, answer: Answer) -> Answer {
        let scrub = |text: String| self.key.scrub(&text);
        match answer {
            Answer::NotFound { message } => Answer::NotFound { message: message.map(scrub) },
            Answer::Unfinished { status, created_at } => Answer::Unfinished { status: status.map(scrub), created_at },
            Answer::KeyRefused { reason } => Answer::KeyRefused { reason: scrub(reason) },
            Answer::Transient { reason } => Answer::Transient { reason: scrub(reason) },
            Answer::Rejected { reason } => Answer::Rejected { reason: scrub(reason) },
            Answer::Unreadable { reason, body } => Answer::Unreadable { reason: scrub(reason), body },
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn client(base_url: &str) -> Client {
        Client::new(&config::base_url(base_url).unwrap(), ApiKey::new("secret-1").unwrap(), Duration::from_secs(1))
            .unwrap()
    }

    #[test]
    fn an_id_is_one_segment_of_the_path_whatever_it_holds() {
        let id = TaskId::parse("a %2e&é").unwrap();
        for base in ["http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            assert_eq!(client(base).url(id).as_str(), "http://127.0.0.1:1/api/v1/task/a%20%252e&%C3%A9");
        }
        assert_eq!(client("http://h/p/").url(id).path(), "/p/api/v1/task/a%20%252e&%C3%A9");
    }

    #[test]
    fn the_key_does_not_show() {
        assert!(!format!("{:?}", client("http://127.0.0.1:1")).contains("secret-1"));
    }

    #[tokio::test]
    async fn a_closed_port_is_silence() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let answer = client(&format!("http://127.0.0.1:{port}")).ask(TaskId::parse("t").unwrap()).await.answer;
        assert!(matches!(&answer, Answer::Unconnected { reason } if reason.contains("refused")), "{answer:?}");
    }
}
