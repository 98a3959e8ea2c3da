//! Range requests for files (RFC 9110, section 14).

use std::ops::Range;

use hyper::{
    HeaderMap,
    header::{HeaderName, IF_RANGE, RANGE},
};

/// The part of a file that a client requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    /// The whole file.
    Full,
    /// This range of bytes.
    Bytes(Range<u64>),
    /// No bytes, because the requested range starts at or after the end of the file.
    Unsatisfiable,
}

impl RequestedRange {
    /// Returns the part of a file that a GET request with these headers asks for. `len` is the size of the file in
    /// bytes, and `validators` are its `ETag` and `Last-Modified`.
    pub(super) fn from_headers(headers: &HeaderMap, len: u64, validators: [&str; 2]) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let current = text(IF_RANGE).is_none_or(|etag| validators.contains(&etag));
        match text(RANGE).filter(|_| current).and_then(parse_range) {
            None => Self::Full,
            Some((first, _)) if first >= len => Self::Unsatisfiable,
            Some((first, last)) => Self::Bytes(first..last.map_or(len, |last| len.min(last.saturating_add(1)))),
        }
    }
}

/// Parses a range of the form `bytes=a-` or `bytes=a-b`. Returns `None` for any other form, which a server may ignore.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    last.is_none_or(|last| first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_applies_only_if_if_range_matches() {
        let requested = |range: &str, etag: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, range.parse().unwrap());
            headers.extend(etag.map(|etag| (IF_RANGE, etag.parse().unwrap())));
            RequestedRange::from_headers(&headers, 100, ["\"etag\"", "date"])
        };
        assert_eq!(requested("bytes=0-", None), RequestedRange::Bytes(0..100));
        assert_eq!(requested("bytes=40-", Some("\"etag\"")), RequestedRange::Bytes(40..100));
        assert_eq!(requested("bytes=40-49", Some("date")), RequestedRange::Bytes(40..50));
        assert_eq!(requested("bytes=99-1000", None), RequestedRange::Bytes(99..100));
        assert_eq!(requested("bytes=100-", None), RequestedRange::Unsatisfiable);
        for (range, etag) in [("bytes=40-", Some("\"old\"")), ("bytes=100-", Some("another date"))] {
            assert_eq!(requested(range, etag), RequestedRange::Full);
        }
        for faulty in ["bytes=9-8", "bytes=-5", "bytes=0-1,5-6", "lines=1-2", "bytes=x-", "bytes="] {
            assert_eq!(requested(faulty, None), RequestedRange::Full, "{faulty}");
        }
    }
}
