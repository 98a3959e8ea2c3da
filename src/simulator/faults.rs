//! The faults that a simulated provider injects, and the filters that select the affected requests. A fault plan is
//! built in code or parsed from a TOML file.
//!
//! ```toml
//! unfinished = 0.3            # fraction of tasks in progress when the simulator starts
//! revoke_after = 500          # number of requests after which the API key is refused
//! media_seconds = 3.0         # duration of each song in seconds
//! media_bytes = 200_000_000   # minimum size of each song in bytes
//! validators = false          # the CDN sends no ETag or Last-Modified and ignores Range
//!
//! # The rate limit. Without this table, requests are not limited.
//! [window]
//! allowance = 120
//! seconds = 60
//! kind = "moving"             # or "fixed"
//!
//! # A fault for task requests. The first entry that matches a request applies.
//! # Faults: status, too_many, busy, body, truncated, reset, stall, stall_body,
//! #   redirect, encoding, padding, hang_up
//! # Filters (optional): first (requests per task), task (ID), share (fraction of tasks)
//! [[faults]]
//! status = 502
//! first = 2
//! share = 0.3
//!
//! # A fault for CDN requests. Additional faults: identical, changed, drip
//! [[media]]
//! drip = 1000
//! task = ".mp3"               # files whose names contain this text
//! ```

use std::str::FromStr;

use serde::Deserialize;

use super::window::Window;

/// The faults that a simulated provider injects. The default plan has no faults and no rate limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// The rate limit. If absent, requests are not limited.
    pub window: Option<Window>,
    /// The only valid key. If absent, any key is valid.
    pub key: Option<String>,
    /// The number of requests after which the key is refused.
    pub revoke_after: Option<u64>,
    /// The fraction of tasks that are in progress when the simulator starts, from 0 to 1. The default is 0.12.
    pub unfinished: Option<f64>,
    /// The maximum time until a task in progress finishes, in seconds. The default is 10.
    pub unfinished_seconds: Option<f64>,
    /// Faults for task requests. The first fault that matches a request is injected.
    pub faults: Vec<Fault>,
    /// Faults for CDN requests. The first fault that matches a request is injected.
    pub media: Vec<Fault>,
    /// The duration of a song in seconds. The default is 12.
    pub media_seconds: Option<f64>,
    /// The minimum size of a song in bytes. The melody repeats until the song reaches this size.
    pub media_bytes: Option<u64>,
    /// Whether the CDN sends `ETag` and `Last-Modified` and supports range requests. The default is true.
    pub validators: Option<bool>,
}

/// A fault and the requests that it applies to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawFault")]
pub struct Fault {
    /// The fault to inject.
    pub kind: FaultKind,
    /// The requests that the fault applies to.
    pub filter: FaultFilter,
}

/// A fault in the response to a task request or a CDN request.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// This HTTP status with an HTML body, like the error page of a proxy. For status 403, the CDN sends an XML body
    /// instead, as S3 does.
    Status(u16),
    /// Status 429 with this many seconds in `Retry-After`.
    RateLimited(u64),
    /// Status 503 with this many seconds in `Retry-After`.
    Unavailable(u64),
    /// Status 200 with this text instead of the requested content. The CDN sends text that starts with `<html` as
    /// `text/html`.
    Body(String),
    /// The connection breaks after this many bytes of the body.
    Truncated(usize),
    /// The connection breaks before the response starts.
    Reset,
    /// The response is delayed by this many seconds.
    Stall(f64),
    /// The response pauses for this many seconds after the first bytes of its body.
    StallBody(f64),
    /// A redirect to this URL. `{cdn}` is replaced with the CDN's root URL. For a CDN request, `{file}` is replaced
    /// with the file name.
    Redirect(String),
    /// The complete document or file, compressed with this encoding.
    Compressed(Encoding),
    /// A document with an additional field of this many bytes, or a file with this many additional bytes. A song is
    /// extended by whole frames.
    Padding(usize),
    /// The complete document or file with the header `Connection: close`. The connection closes after the response.
    HangUp,
    /// The same bytes and `ETag` for every file with the same extension. Only the CDN supports this fault.
    Identical,
    /// Bytes, `ETag` and `Last-Modified` that differ from those of the original file. Only the CDN supports this
    /// fault.
    Changed,
    /// The complete file, sent at this many bytes per second. Only the CDN supports this fault.
    Throttle(u32),
}

/// The compression format of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// The gzip format (RFC 1952).
    Gzip,
    /// The gzip format under its legacy name, in mixed case: `X-GZip`.
    XGzip,
    /// The zlib format (RFC 1950), which the HTTP standard calls `deflate`.
    Deflate,
    /// The raw deflate format (RFC 1951), which many servers call `deflate`.
    RawDeflate,
    /// The Zstandard format (RFC 8878).
    Zstd,
    /// The Brotli format (RFC 7932).
    Brotli,
}

/// The requests that a fault applies to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultFilter {
    /// Limits the fault to this many requests for each task or CDN path, counted from the first. If absent, the fault
    /// applies to all requests.
    pub first: Option<u32>,
    /// Limits the fault to the task with this ID, or to CDN files whose names contain this text.
    pub task: Option<String>,
    /// Limits the fault to this fraction of the tasks or CDN paths, from 0 to 1. The seed determines which tasks or
    /// paths are affected.
    pub share: Option<f64>,
}

impl FaultFilter {
    /// A filter that matches every request.
    pub const ALWAYS: Self = Self { first: None, task: None, share: None };

    /// Returns a filter that matches the first `requests` requests for each task.
    #[must_use]
    pub fn first(requests: u32) -> Self {
        Self { first: Some(requests), ..Self::ALWAYS }
    }

    /// Returns a filter that matches every request for one task.
    #[must_use]
    pub fn task(id: &str) -> Self {
        Self { task: Some(id.into()), ..Self::ALWAYS }
    }

    /// Whether the fault applies to the `nth` request for a task or file, counted from 1. `sample` is a value from 0 to
    /// 1 that is fixed for the task or file. `matches_name` checks the `task` filter against the task ID or the file
    /// name.
    fn matches(&self, nth: u32, sample: f64, matches_name: impl Fn(&str) -> bool) -> bool {
        self.first.is_none_or(|first| nth <= first)
            && self.task.as_deref().is_none_or(matches_name)
            && self.share.is_none_or(|share| sample < share)
    }
}

impl FaultPlan {
    /// Returns the fault for the `nth` request for a task, counted from 1, or `None` if no fault applies.
    pub(super) fn for_task(&self, id: &str, nth: u32, sample: f64) -> Option<FaultKind> {
        first_match(&self.faults, |filter| filter.matches(nth, sample, |task| task == id))
    }

    /// Returns the fault for the `nth` request for a file, counted from 1, or `None` if no fault applies.
    pub(super) fn for_file(&self, name: &str, nth: u32, sample: f64) -> Option<FaultKind> {
        first_match(&self.media, |filter| filter.matches(nth, sample, |part| name.contains(part)))
    }
}

fn first_match(faults: &[Fault], matches: impl Fn(&FaultFilter) -> bool) -> Option<FaultKind> {
    faults.iter().find(|fault| matches(&fault.filter)).map(|fault| fault.kind.clone())
}

impl FromStr for FaultPlan {
    type Err = String;

    /// Parses a fault plan from TOML.
    fn from_str(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

/// A fault as written in TOML. One field specifies the kind of fault, and `first`, `task` and `share` select the
/// requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    status: Option<u16>,
    too_many: Option<u64>,
    busy: Option<u64>,
    body: Option<String>,
    truncated: Option<usize>,
    reset: Option<bool>,
    stall: Option<f64>,
    stall_body: Option<f64>,
    redirect: Option<String>,
    encoding: Option<Encoding>,
    padding: Option<usize>,
    hang_up: Option<bool>,
    identical: Option<bool>,
    changed: Option<bool>,
    drip: Option<u32>,
    first: Option<u32>,
    task: Option<String>,
    share: Option<f64>,
}

impl TryFrom<RawFault> for Fault {
    type Error = String;

    fn try_from(raw: RawFault) -> Result<Self, String> {
        let kinds = [
            raw.status.map(FaultKind::Status),
            raw.too_many.map(FaultKind::RateLimited),
            raw.busy.map(FaultKind::Unavailable),
            raw.body.map(FaultKind::Body),
            raw.truncated.map(FaultKind::Truncated),
            raw.reset.filter(|yes| *yes).map(|_| FaultKind::Reset),
            raw.stall.map(FaultKind::Stall),
            raw.stall_body.map(FaultKind::StallBody),
            raw.redirect.map(FaultKind::Redirect),
            raw.encoding.map(FaultKind::Compressed),
            raw.padding.map(FaultKind::Padding),
            raw.hang_up.filter(|yes| *yes).map(|_| FaultKind::HangUp),
            raw.identical.filter(|yes| *yes).map(|_| FaultKind::Identical),
            raw.changed.filter(|yes| *yes).map(|_| FaultKind::Changed),
            raw.drip.map(FaultKind::Throttle),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(fault), None) => {
                Ok(Self { kind: fault, filter: FaultFilter { first: raw.first, task: raw.task, share: raw.share } })
            }
            (None, _) => Err(
                "a fault entry specifies no fault; add e.g. status, too_many, busy, body, truncated, reset or stall"
                    .into(),
            ),
            (Some(_), Some(_)) => {
                Err("a fault entry specifies more than one fault; write a separate entry for each".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cdn_requests_have_separate_faults() {
        let text = "validators = false\nmedia_bytes = 1_000\n[[media]]\nidentical = true\ntask = \".mp3\"\n\
                    [[media]]\nbusy = 2\nfirst = 1\n[[faults]]\ndrip = 5\n";
        let faults: FaultPlan = text.parse().unwrap();
        assert_eq!((faults.validators, faults.media_bytes), (Some(false), Some(1_000)));
        assert_eq!(faults.for_file("a.mp3", 2, 0.5), Some(FaultKind::Identical));
        assert_eq!(faults.for_file("a.png", 1, 0.5), Some(FaultKind::Unavailable(2)));
        assert_eq!(faults.for_file("a.png", 2, 0.5), None);
        assert_eq!(faults.for_task("a.mp3", 1, 0.5), Some(FaultKind::Throttle(5)));
    }

    #[test]
    fn a_fault_plan_is_parsed_and_a_typo_is_rejected() {
        let text = "unfinished = 0.5\n[window]\nallowance = 10\nseconds = 2\nkind = \"moving\"\n\
                    [[faults]]\nstatus = 502\nfirst = 2\nshare = 0.3\n[[faults]]\nreset = true\n";
        let faults: FaultPlan = text.parse().unwrap();
        assert_eq!(faults.window.map(|window| window.limit), Some(10));
        let first =
            Fault { kind: FaultKind::Status(502), filter: FaultFilter { share: Some(0.3), ..FaultFilter::first(2) } };
        assert_eq!(faults.faults, [first, Fault { kind: FaultKind::Reset, filter: FaultFilter::ALWAYS }]);
        for bad in [
            "unfinshed = 1",
            "[[faults]]\nfirst = 1",
            "[[faults]]\nstatus = 1\nreset = true",
            "[[faults]]\nstaus = 502",
        ] {
            assert!(bad.parse::<FaultPlan>().is_err(), "{bad}");
        }
    }
}
