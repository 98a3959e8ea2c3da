//! `summary --account`: one request, and what it says about the whole account.

use std::time::Duration;

use url::Url;

use crate::{
    api::{Client, TaskResponse, Usage},
    config::ApiKey,
    error::{Error, Result},
    proxies::Proxies,
};

/// A person waits for it, and it is sent once.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The account to ask about.
#[derive(Clone, Debug)]
pub struct Access {
    /// The API's root.
    pub base_url: Url,
    /// The account's key.
    pub key: ApiKey,
    /// The proxies on the way.
    pub proxies: Proxies,
}

/// Asks once.
pub(super) async fn usage(access: &Access) -> Result<Usage> {
    let client = Client::new(&access.base_url, access.key.clone(), &access.proxies, TIMEOUT)?;
    client.usage().await.map_err(|answer| error(&client.host(), answer))
}

fn error(host: &str, answer: TaskResponse) -> Error {
    let reason = match answer {
        TaskResponse::KeyRefused { reason } => return Error::KeyRefused(reason),
        TaskResponse::RateLimited { pause } => {
            format!("its rate limit is reached (429); retry in {}", humantime::format_duration(pause))
        }
        TaskResponse::Untrusted { reason } => {
            format!("{reason}; if the certificate is your own, name its authority in SSL_CERT_FILE")
        }
        TaskResponse::Unconnected { reason } | TaskResponse::Silent { reason } => {
            format!("{reason}; check the network, the proxy settings and --base-url")
        }
        TaskResponse::NotFound { .. } => "not found; check --base-url".into(),
        TaskResponse::Transient { reason }
        | TaskResponse::Malformed { reason, .. }
        | TaskResponse::Rejected { reason }
        | TaskResponse::Unreadable { reason, .. } => reason,
        TaskResponse::Final { .. } | TaskResponse::Unfinished { .. } => "the response is not about usage".into(),
    };
    Error::Unreachable(format!("cannot read the account's usage from {host}: {reason}"))
}
