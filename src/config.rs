//! The validated configuration. The rest of the program uses these types instead of command-line options. Each default
//! is a constant with a comment that explains its value.

#![expect(clippy::disallowed_methods, reason = "checks paths given by the user")]

use std::{
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use reqwest::header::HeaderValue;
use url::Url;

use crate::{
    archive::Location,
    asset::AssetKinds,
    error::{Error, Result},
    format::TableFormat,
    http::excerpt,
    input::InputOptions,
    proxies::Proxies,
};

/// The root URL of the provider's API.
pub const DEFAULT_BASE_URL: &str = "https://sunor.cc";

/// The provider allows each key 120 requests per minute.
pub const DEFAULT_RATE: &str = "120/m";

/// Sixteen requests in flight sustain two requests per second at response times of up to eight seconds.
pub const DEFAULT_CONCURRENCY: u16 = 16;

/// The provider states that a task takes 30 seconds to 5 minutes, so nearly all tasks finish within ten minutes.
pub const DEFAULT_WAIT: &str = "10m";

/// The provider recommends an interval of 5 to 10 seconds between polls.
pub const DEFAULT_POLL_INTERVAL: &str = "5s";

/// The provider requests that clients poll at most once per second.
pub const MIN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum wait before a retry starts at half a second and doubles with each retry, so five retries can outlast a
/// proxy restart of up to 15 seconds.
pub const DEFAULT_RETRIES: u32 = 5;

/// The provider queries an upstream provider about each running task, so responses can be slow.
pub const DEFAULT_TIMEOUT: &str = "30s";

/// The music and its cover are downloaded by default, because users paid for them.
pub const DEFAULT_ASSETS: &str = "audio,image";

/// Eight concurrent downloads saturate an ordinary connection, and few servers reject that many.
pub const DEFAULT_ASSET_CONCURRENCY: u16 = 8;

/// A song takes up about 1 MB per minute. A limit of 1 GiB protects against a server that never stops sending.
pub const DEFAULT_MAX_ASSET_SIZE: &str = "1GiB";

/// The maximum duration that an option accepts. A longer duration is rejected as a probable typo.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// The configuration of an export.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// The options that exports and repairs share.
    pub run: RunConfig,
    /// The options for reading the list of task IDs.
    pub input: InputOptions,
    /// The table format. `None` selects the format of an existing archive, or Parquet for a new archive.
    pub format: Option<TableFormat>,
    /// Whether tasks that are archived as not found are requested again.
    pub retry_not_found: bool,
}

/// The configuration of a run, either an export or a repair.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The location of the archive.
    pub archive: Location,
    /// The options for media downloads.
    pub media: MediaConfig,
    /// The provider to fetch tasks from.
    pub provider: Provider,
    /// The maximum request rate.
    pub rate: Rate,
    /// The number of requests per rate-limit window that are reserved for other users of the key.
    pub reserve: u32,
    /// The maximum number of requests in flight.
    pub concurrency: u16,
    /// The maximum time to poll unfinished tasks after the first pass.
    pub poll_limit: Duration,
    /// The minimum interval between two polls of one task.
    pub poll_interval: Duration,
    /// The maximum number of retries after a transient failure.
    pub retries: u32,
    /// The timeout of one API request.
    pub timeout: Duration,
    /// The time after which the run stops, measured from its start.
    pub stop_after: Option<Duration>,
    /// The file to which the run's metrics are written, in the Prometheus text format.
    pub metrics_file: Option<PathBuf>,
}

/// The options for media downloads.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// The kinds of assets to download.
    pub kinds: AssetKinds,
    /// The maximum number of concurrent downloads.
    pub concurrency: u16,
    /// The maximum size of an asset in bytes.
    pub max_size: u64,
    /// Whether assets may be downloaded from private addresses. `None` allows this only if the API's host has a
    /// private address.
    pub allow_private_hosts: Option<bool>,
    /// The maximum number of retries after a transient failure.
    pub retries: u32,
    /// The maximum time that a download waits for data before it fails. It equals the timeout of an API request.
    pub idle_timeout: Duration,
}

/// The provider that serves the tasks.
#[derive(Clone, Debug)]
pub enum Provider {
    /// A remote server.
    Remote {
        /// The root URL of the API.
        base_url: Url,
        /// The API key.
        key: ApiKey,
        /// The proxies for API requests and media downloads.
        proxies: Box<Proxies>,
    },
    /// The embedded simulator, which recognizes every task ID in the user's list.
    Simulated,
}

/// An API key. It never appears in output, not even in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Validates a key after trimming surrounding whitespace.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the key is empty or cannot be sent in an HTTP header. The message does not contain
    /// the key.
    pub fn new(text: &str) -> Result<Self> {
        let key = text.trim_start_matches('\u{feff}').trim();
        if key.is_empty() {
            return Err(Error::usage("the API key is empty; set SUNOR_API_KEY or use --api-key-file"));
        }
        if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Error::usage(
                "the API key contains whitespace, control or non-ASCII characters; check SUNOR_API_KEY or --api-key-file",
            ));
        }
        Ok(Self(key.to_owned()))
    }

    /// Returns the key as a header value, which is marked as sensitive so that no log shows it.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).expect("printable ASCII is a valid header value");
        value.set_sensitive(true);
        value
    }

    /// Returns `text` with the key replaced by a placeholder, in case a server echoes the key.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey([hidden])")
    }
}

/// Parses the root URL of the API.
///
/// # Errors
/// Returns [`Error::Usage`] unless `text` is an http or https URL without credentials, query or fragment.
pub fn parse_base_url(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    let Some(url) = url else {
        return Err(Error::usage(format!("--base-url must be an https:// or http:// URL{}", suggest_url(text))));
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::usage("--base-url must not contain `?` or `#`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::usage("--base-url must not contain a user name or password; the API accepts only a key"));
    }
    Ok(url)
}

/// Suggests the URL that the user probably meant, if `text` lacks a scheme. Makes no suggestion if `text` may contain a
/// password, because the suggestion would show it.
fn suggest_url(text: &str) -> String {
    if text.contains("://") || text.contains('@') {
        return String::new();
    }
    let host = text.split(['/', ':']).next().unwrap_or_default();
    let is_local = host == "localhost" || host.starts_with("127.") || text.starts_with("[::1]");
    let url = format!("{}://{text}", if is_local { "http" } else { "https" });
    if Url::parse(&url).is_ok_and(|url| url.has_host()) {
        format!("; did you mean {}?", excerpt(&url))
    } else {
        String::new()
    }
}

/// Validates the path of the metrics file, which is replaced at the end of each run.
///
/// # Errors
/// Returns [`Error::Usage`] if the folder does not exist, or if the path exists and is not a regular file. A device or
/// a symbolic link must not be replaced.
pub fn validate_metrics_file(path: &Path) -> Result<PathBuf> {
    let invalid = |reason: String| Err(Error::usage(format!("--metrics-file {}: {reason}", path.display())));
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return invalid(format!("the folder {} does not exist", folder.display()));
    }
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => invalid("not a regular file".into()),
        _ if path.file_name().is_none() => invalid("the path does not end in a file name".into()),
        _ => Ok(path.to_owned()),
    }
}

/// The maximum request rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// No limit other than the maximum number of requests in flight.
    Unlimited,
    /// At most `count` requests in any period of length `period`.
    Limited {
        /// The maximum number of requests in a period.
        count: NonZeroU32,
        /// The length of the period.
        period: Duration,
    },
}

impl Rate {
    /// Returns the maximum number of requests per second, which is infinite if the rate is unlimited.
    #[must_use]
    pub fn per_second(self) -> f64 {
        match self {
            Self::Unlimited => f64::INFINITY,
            Self::Limited { count, period } => f64::from(count.get()) / period.as_secs_f64(),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let invalid = || format!("invalid rate `{text}`; use e.g. 120/m, 2/s, 7200/h or unlimited");
        let (count, unit) = text.split_once('/').ok_or_else(invalid)?;
        let period = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(invalid()),
        };
        let count = count.parse().map_err(|_| invalid())?;
        if count > NonZeroU32::MIN.saturating_add(999_999) {
            return Err(format!("the rate `{text}` is too high; use `unlimited` for no limit"));
        }
        Ok(Self::Limited { count, period: Duration::from_secs(period) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Limited { count, period } => match period.as_secs() {
                1 => write!(f, "{count}/s"),
                60 => write!(f, "{count}/m"),
                _ => write!(f, "{count}/h"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_unit() {
        for text in ["120/m", "2/s", "7200/h", "unlimited"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["120", "0/m", "1.5/s", "-1/s", "5/d", "/m", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_trimmed_and_never_shown() {
        let key = ApiKey::new(" secret-1\n").unwrap();
        assert_eq!(key.header().to_str().unwrap(), "secret-1");
        assert!(!format!("{key:?} {:?}", key.header()).contains("secret"));
        assert_eq!(key.redact("bad key secret-1!"), "bad key [key]!");
        let error_message = ApiKey::new("sec ret").unwrap_err().to_string();
        assert!(!error_message.contains("sec ret"));
        assert!(ApiKey::new(" \n").is_err());
    }

    #[test]
    fn a_base_url_is_http_and_without_credentials() {
        assert!(parse_base_url("https://sunor.cc").is_ok());
        for bad in ["sunor.cc", "ftp://x", "http://", "https://u:p@sunor.cc", "https://x?y", "https://x#y"] {
            assert!(parse_base_url(bad).is_err(), "{bad}");
        }
        let error_message = |text: &str| parse_base_url(text).unwrap_err().to_string();
        assert!(error_message("localhost:8611").ends_with("did you mean http://localhost:8611?"));
        assert!(error_message("127.0.0.1:8611/x").ends_with("did you mean http://127.0.0.1:8611/x?"));
        assert!(error_message("sunor.cc").ends_with("did you mean https://sunor.cc?"));
        assert!(!error_message("u:hush@sunor.cc").contains("hush"));
        assert!(!parse_base_url("https://u:hush@sunor.cc").unwrap_err().to_string().contains("hush"));
    }
}
