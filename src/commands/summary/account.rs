//! `summary --account`: gets the usage of the whole account with a single request.

use std::time::Duration;

use url::Url;

use crate::{
    api::{Client, TaskResponse, Usage},
    config::ApiKey,
    error::{Error, Result},
    proxies::Proxies,
};

/// The timeout of the usage request, which is short because the user is waiting for the response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The API key of an account, and how to connect to the API.
#[derive(Clone, Debug)]
pub struct AccountAccess {
    /// The base URL of the API.
    pub base_url: Url,
    /// The API key of the account.
    pub key: ApiKey,
    /// The proxies to use for the request.
    pub proxies: Proxies,
}

/// Requests the usage of the account, without retries.
pub(super) async fn usage(access: &AccountAccess) -> Result<Usage> {
    let client = Client::new(&access.base_url, access.key.clone(), &access.proxies, TIMEOUT)?;
    client.usage().await.map_err(|response| usage_error(&client.host(), response))
}

fn usage_error(host: &str, response: TaskResponse) -> Error {
    let reason = match response {
        TaskResponse::KeyRejected { reason } => return Error::KeyRejected(reason),
        TaskResponse::RateLimited { pause } => {
            format!("rate limited (HTTP 429); retry in {}", humantime::format_duration(pause))
        }
        TaskResponse::UntrustedCertificate { reason } => {
            format!("{reason}; for a private CA, set SSL_CERT_FILE to its certificate")
        }
        TaskResponse::ConnectionFailed { reason } | TaskResponse::NoResponse { reason } => {
            format!("{reason}; check the network, the proxy settings and --base-url")
        }
        TaskResponse::NotFound { .. } => "not found; check --base-url".into(),
        TaskResponse::Transient { reason }
        | TaskResponse::Malformed { reason, .. }
        | TaskResponse::Rejected { reason }
        | TaskResponse::Unreadable { reason, .. } => reason,
        TaskResponse::Final { .. } | TaskResponse::Unfinished { .. } => "the response contains no usage data".into(),
    };
    Error::Unreachable(format!("cannot read the account's usage from {host}: {reason}"))
}
