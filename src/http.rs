//! Code shared by the API client and the media client: client setup, error handling and `Retry-After`.

use std::{
    error::Error as StdError,
    io,
    time::{Duration, SystemTime},
};

use reqwest::{
    ClientBuilder,
    header::{DATE, HeaderMap, RETRY_AFTER},
};

use crate::{
    error::{Error, Result},
    task::is_invisible,
};

/// The maximum length of an [`excerpt`], in characters.
const MAX_EXCERPT_CHARS: usize = 200;

/// The `User-Agent` of the API client and the media client.
pub(crate) const USER_AGENT: &str = concat!("sunor-archive/", env!("CARGO_PKG_VERSION"));

/// Installs the process-wide TLS provider.
fn prepare_tls() {
    // An error means that a TLS provider is already installed, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Builds an HTTP client. If `is_http_only` is true and the machine has no root certificates, the client supports only
/// plain HTTP.
pub(crate) fn build_client(set_up: impl Fn() -> ClientBuilder, is_http_only: bool) -> Result<reqwest::Client> {
    prepare_tls();
    let built = match set_up().build() {
        Err(_) if is_http_only => set_up().tls_certs_only([]).build(),
        built => built,
    };
    built.map_err(|error| Error::usage(format!("cannot set up HTTPS: {}", root_cause(&error))))
}

/// The wait time that a `Retry-After` header requests. The value is a number of seconds, or a date (RFC 9110, 10.2.3)
/// according to the server's clock.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let header = text(RETRY_AFTER)?.trim();
    let now = || text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
    seconds(header).or_else(|| time_until(header, now()))
}

/// Parses a number of seconds.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

fn time_until(date: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(date).ok()?;
    // An HTTP date has a resolution of one second, so wait until the end of that second.
    Some(date.duration_since(now).unwrap_or_default() + Duration::from_secs(1))
}

/// Returns an excerpt of third-party text that is safe to print on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let sanitize =
        |c: char| if c.is_control() || is_invisible(c) || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
    let line: String = text.chars().take(MAX_EXCERPT_CHARS).map(sanitize).collect();
    if text.chars().nth(MAX_EXCERPT_CHARS).is_some() { format!("{line}…") } else { line }
}

/// Iterates over an error and its sources.
pub(crate) fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // The `source()` method of an `io::Error` skips the wrapped error.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

/// The root cause of a reqwest error, which is the most informative part of the error and contains no URL.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    chain(error).skip(1).last().map_or_else(|| "the request failed".into(), ToString::to_string)
}

/// Whether a request failed because the server's certificate is not trusted.
pub(crate) fn is_untrusted(error: &reqwest::Error) -> bool {
    chain(error).any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        )
    })
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    #[test]
    fn an_excerpt_contains_no_control_characters() {
        assert_eq!(excerpt("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(excerpt(&"x".repeat(300)).chars().count(), 201);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |headers: &[(HeaderName, String)]| {
            let value = |(name, value): &(HeaderName, String)| (name.clone(), value.parse().unwrap());
            retry_after(&headers.iter().map(value).collect()).map(|wait| wait.as_secs())
        };
        let date = |offset: u64| {
            httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600) + Duration::from_secs(offset))
        };
        assert_eq!(parse(&[(RETRY_AFTER, " 7 ".into())]), Some(7));
        assert_eq!(parse(&[(RETRY_AFTER, "soon".into())]), None);
        assert!((99..=101).contains(&parse(&[(RETRY_AFTER, date(3700))]).unwrap()));
        // The server's clock is an hour behind.
        assert!((100..=102).contains(&parse(&[(RETRY_AFTER, date(100)), (DATE, date(0))]).unwrap()));
        assert_eq!(parse(&[(RETRY_AFTER, date(0)), (DATE, date(100))]), Some(1));
    }
}
