//! The faults of a simulated provider, and when they occur: in code, or in a TOML file.
//!
//! ```toml
//! unfinished = 0.3            # the share of tasks that are in progress at the start
//! revoke_after = 500          # the key is refused after this many requests
//! media_seconds = 3.0         # how long the songs are
//! media_bytes = 200_000_000   # the minimum size of a song
//! validators = false          # the CDN sends no ETag and no date, and ignores ranges
//!
//! [window]                    # the rate window; without it there is no limit
//! allowance = 120
//! seconds = 60
//! kind = "moving"             # or "fixed"
//!
//! [[faults]]                  # the first that matches a request for a task applies
//! status = 502                # what: one of status, too_many, busy, body, truncated, reset, stall,
//! first = 2                   #   stall_body, redirect, encoding, padding, hang_up
//! share = 0.3                 # to which: first requests, task, share of the tasks; all of them if absent
//!
//! [[media]]                   # the same for requests to the CDN
//! drip = 1000                 # what: any of the above, or identical, changed, drip
//! task = ".mp3"               # to which: files whose names contain this
//! ```

use std::str::FromStr;

use serde::Deserialize;

use super::window::Window;

/// The faults of a simulated provider. By default there are none, and no rate limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// The rate window; absent: no limit.
    pub window: Option<Window>,
    /// The only valid key; absent: any key is valid.
    pub key: Option<String>,
    /// After this many requests the key is refused.
    pub revoke_after: Option<u64>,
    /// The share of tasks that are in progress at the start, from 0 to 1; absent: 0.12.
    pub unfinished: Option<f64>,
    /// How long those stay in progress at most, in seconds; absent: 10.
    pub unfinished_seconds: Option<f64>,
    /// Faults of single requests; the first that matches applies.
    pub faults: Vec<Fault>,
    /// The same for requests to the CDN.
    pub media: Vec<Fault>,
    /// How long a song is, in seconds; absent: 12.
    pub media_seconds: Option<f64>,
    /// The minimum size of a song in bytes: its melody is repeated.
    pub media_bytes: Option<u64>,
    /// Whether the CDN sends `ETag` and `Last-Modified`, and supports ranges; absent: it does.
    pub validators: Option<bool>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "FaultText")]
pub struct Fault {
    /// What happens.
    pub trouble: FaultKind,
    /// To which requests.
    pub when: When,
}

/// A fault of a request for a document, or for a file of the CDN.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// An HTTP status with an HTML body, as from a proxy; from the CDN, a 403 is XML.
    Status(u16),
    /// A 429 that names this many seconds in `Retry-After`.
    TooMany(u64),
    /// A 503 that names this many seconds in `Retry-After`.
    Busy(u64),
    /// Status 200 with this text instead of the requested content; from the CDN, with the content type of HTML if it is.
    Body(String),
    /// Status 200, and the connection breaks after this many bytes.
    Truncated(usize),
    /// The connection breaks before any answer.
    Reset,
    /// The response starts after this many seconds.
    Stall(f64),
    /// The first bytes are sent at once, the rest after this many seconds.
    StallBody(f64),
    /// A redirect to this URL, in which `{cdn}` stands for the CDN's root and `{file}` for a file's name.
    Redirect(String),
    /// The document or the whole file, compressed.
    Packed(Encoding),
    /// The document with this many bytes in an additional field; the song with as many in additional frames.
    Padding(usize),
    /// The document or file, after which the connection closes without notice.
    HangUp,
    /// The bytes and the `ETag` of a file that is the same for all names of its kind; only of the CDN.
    Identical,
    /// Different bytes, `ETag` and date than without faults; only of the CDN.
    Changed,
    /// This many bytes a second; only of the CDN.
    Drip(u32),
}

/// How a document is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// The same under its old name, in a different case.
    XGzip,
    /// RFC 1950, as the standard defines `deflate`.
    Deflate,
    /// RFC 1951, as many servers send `deflate`.
    RawDeflate,
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
}

/// Which requests a fault applies to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When {
    /// The first requests for each task, or for each path of the CDN; absent: all of them.
    pub first: Option<u32>,
    /// Only requests for this task, or for files whose names contain this.
    pub task: Option<String>,
    /// Only this share of the tasks or paths, chosen by the seed, from 0 to 1.
    pub share: Option<f64>,
}

impl When {
    /// Every request.
    pub const ALWAYS: Self = Self { first: None, task: None, share: None };

    /// The first `requests` for each task.
    #[must_use]
    pub fn first(requests: u32) -> Self {
        Self { first: Some(requests), ..Self::ALWAYS }
    }

    /// Every request for one task.
    #[must_use]
    pub fn task(id: &str) -> Self {
        Self { task: Some(id.into()), ..Self::ALWAYS }
    }

    /// Whether it applies to the `nth` request, from 1, for a task or file. `luck`, from 0 to 1, is fixed for the task or
    /// file, and `named` says whether a name selects it.
    fn meets(&self, nth: u32, luck: f64, named: impl Fn(&str) -> bool) -> bool {
        self.first.is_none_or(|first| nth <= first)
            && self.task.as_deref().is_none_or(named)
            && self.share.is_none_or(|share| luck < share)
    }
}

impl FaultPlan {
    /// The fault of a task's `nth` request, from 1.
    pub(super) fn for_task(&self, id: &str, nth: u32, luck: f64) -> Option<FaultKind> {
        first(&self.faults, |when| when.meets(nth, luck, |task| task == id))
    }

    /// The fault of the `nth` request, from 1, for a file's path.
    pub(super) fn for_file(&self, name: &str, nth: u32, luck: f64) -> Option<FaultKind> {
        first(&self.media, |when| when.meets(nth, luck, |part| name.contains(part)))
    }
}

fn first(faults: &[Fault], met: impl Fn(&When) -> bool) -> Option<FaultKind> {
    faults.iter().find(|fault| met(&fault.when)).map(|fault| fault.trouble.clone())
}

impl FromStr for FaultPlan {
    type Err = String;

    /// Parses a fault plan.
    fn from_str(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

/// A fault in TOML: one field says what happens, the others to which requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultText {
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

impl TryFrom<FaultText> for Fault {
    type Error = String;

    fn try_from(text: FaultText) -> Result<Self, String> {
        let named = [
            text.status.map(FaultKind::Status),
            text.too_many.map(FaultKind::TooMany),
            text.busy.map(FaultKind::Busy),
            text.body.map(FaultKind::Body),
            text.truncated.map(FaultKind::Truncated),
            text.reset.filter(|yes| *yes).map(|_| FaultKind::Reset),
            text.stall.map(FaultKind::Stall),
            text.stall_body.map(FaultKind::StallBody),
            text.redirect.map(FaultKind::Redirect),
            text.encoding.map(FaultKind::Packed),
            text.padding.map(FaultKind::Padding),
            text.hang_up.filter(|yes| *yes).map(|_| FaultKind::HangUp),
            text.identical.filter(|yes| *yes).map(|_| FaultKind::Identical),
            text.changed.filter(|yes| *yes).map(|_| FaultKind::Changed),
            text.drip.map(FaultKind::Drip),
        ];
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(trouble), None) => {
                Ok(Self { trouble, when: When { first: text.first, task: text.task, share: text.share } })
            }
            (None, _) => {
                Err("a fault does not say what happens: status, too_many, body, truncated, reset, stall, …".into())
            }
            (Some(_), Some(_)) => Err("a fault says two things that happen; write two faults".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_have_faults_of_their_own() {
        let text = "validators = false\nmedia_bytes = 1_000\n[[media]]\nidentical = true\ntask = \".mp3\"\n\
                    [[media]]\nbusy = 2\nfirst = 1\n[[faults]]\ndrip = 5\n";
        let faults: FaultPlan = text.parse().unwrap();
        assert_eq!((faults.validators, faults.media_bytes), (Some(false), Some(1_000)));
        assert_eq!(faults.for_file("a.mp3", 2, 0.5), Some(FaultKind::Identical));
        assert_eq!(faults.for_file("a.png", 1, 0.5), Some(FaultKind::Busy(2)));
        assert_eq!(faults.for_file("a.png", 2, 0.5), None);
        assert_eq!(faults.for_task("a.mp3", 1, 0.5), Some(FaultKind::Drip(5)));
    }

    #[test]
    fn a_fault_plan_is_parsed_and_a_typo_is_refused() {
        let text = "unfinished = 0.5\n[window]\nallowance = 10\nseconds = 2\nkind = \"moving\"\n\
                    [[faults]]\nstatus = 502\nfirst = 2\nshare = 0.3\n[[faults]]\nreset = true\n";
        let faults: FaultPlan = text.parse().unwrap();
        assert_eq!(faults.window.map(|window| window.allowance), Some(10));
        let first = Fault { trouble: FaultKind::Status(502), when: When { share: Some(0.3), ..When::first(2) } };
        assert_eq!(faults.faults, [first, Fault { trouble: FaultKind::Reset, when: When::ALWAYS }]);
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
