//! Resumes partial downloads. A validator (`ETag` or `Last-Modified`) shows whether the file on the server has changed
//! since the last attempt. The response status and `Content-Range` show which part of the file the body contains. Bytes
//! of two versions of a file must never be mixed.

use reqwest::{
    Response,
    header::{CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED},
};
use serde::{Deserialize, Serialize};

/// A value that identifies a version of a file on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validator {
    /// A strong `ETag`, or otherwise the `Last-Modified` date (RFC 9110, 13.1.5).
    #[serde(rename = "validator")]
    pub(super) value: String,
    /// The file size in bytes, if the server reported it.
    pub(super) length: Option<u64>,
}

impl Validator {
    /// Reads the validator of a file from the response headers, if present.
    pub(super) fn from_response(response: &Response) -> Option<Self> {
        let strong = header(response, &ETAG).filter(|etag| etag.starts_with('"'));
        let validator = strong.or_else(|| header(response, &LAST_MODIFIED))?.to_owned();
        Some(Self { value: validator, length: response.content_length() })
    }

    /// Whether a partial response belongs to this version of the file. RFC 9110, 15.3.7, requires the server to repeat
    /// the `ETag`, but a response without an `ETag` is also accepted.
    fn matches(&self, response: &Response) -> bool {
        let name = if self.value.starts_with('"') { ETAG } else { LAST_MODIFIED };
        header(response, &name).is_none_or(|current| current == self.value)
    }
}

/// The missing part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MissingRange {
    /// The number of bytes received so far.
    pub(super) offset: u64,
    pub(super) validator: Validator,
}

/// What the body of a response contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeResponse {
    /// The body contains the whole file.
    Full,
    /// The body begins where the existing bytes end. The value is the size of the whole file, if known.
    Partial(Option<u64>),
    /// The body contains no part of the file, because the partial file is already complete (RFC 9110, 15.5.17).
    AlreadyComplete,
    /// The body does not contain the requested bytes.
    Unexpected,
}

impl RangeResponse {
    /// Interprets the response to a request for a file or for its missing part.
    pub(super) fn from_response(response: &Response, requested: Option<&MissingRange>) -> Self {
        let range = header(response, &CONTENT_RANGE).and_then(Range::parse);
        match (response.status().as_u16(), requested, range) {
            // A proxy that transforms responses sends 203 instead of 200 (RFC 9110, 15.3.4).
            (200 | 203, ..) => Self::Full,
            (206, _, Some(range)) if range.is_complete_file() => Self::Full,
            (206, Some(missing), Some(range))
                if missing.is_resumed_by(range) && missing.validator.matches(response) =>
            {
                Self::Partial(range.length.or(missing.validator.length))
            }
            (416, Some(missing), Some(Range { bytes: None, length })) if length == Some(missing.offset) => {
                Self::AlreadyComplete
            }
            _ => Self::Unexpected,
        }
    }
}

impl MissingRange {
    fn is_resumed_by(&self, range: Range) -> bool {
        range.bytes.is_some_and(|(first, _)| first == self.offset)
            && (range.length.is_none() || range.length == self.validator.length)
    }
}

/// A `Content-Range` header: `bytes 5-9/20`, `bytes 5-9/*` or `bytes */20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    /// The offsets of the first and the last byte, or `None` for `*`.
    bytes: Option<(u64, u64)>,
    /// The size of the whole file, or `None` for `*`.
    length: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        // Range units are case-insensitive (RFC 9110, 14.1).
        let (unit, range) = text.trim().split_at_checked("bytes".len())?;
        let (range, length) = Some(range).filter(|_| unit.eq_ignore_ascii_case("bytes"))?.trim().split_once('/')?;
        let bytes = match range.split_once('-') {
            Some((first, last)) => Some((first.trim().parse().ok()?, last.trim().parse().ok()?)),
            None => None,
        };
        Some(Self { bytes, length: length.trim().parse().ok() })
    }

    /// Whether the range covers the whole file.
    fn is_complete_file(self) -> bool {
        matches!((self.bytes, self.length), (Some((0, last)), Some(length)) if last.checked_add(1) == Some(length))
    }
}

fn header<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Response {
        let response = hyper::Response::builder().status(status);
        let response = headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        response.body("").unwrap().into()
    }

    fn range_response(validator: &str, status: u16, headers: &[(&str, &str)]) -> RangeResponse {
        let missing = MissingRange { offset: 5, validator: Validator { value: validator.into(), length: Some(20) } };
        RangeResponse::from_response(&response(status, headers), Some(&missing))
    }

    #[test]
    fn a_range_is_accepted_only_for_the_same_version() {
        let (tag, date) = ("\"v1\"", "Wed, 01 Jan 2025 00:00:00 GMT");
        for (validator, headers, expected) in [
            (tag, vec![("content-range", "bytes 5-19/20"), ("etag", tag)], RangeResponse::Partial(Some(20))),
            (tag, vec![("content-range", "bytes 5-9/20"), ("etag", tag)], RangeResponse::Partial(Some(20))),
            (tag, vec![("content-range", "Bytes 5-19/20"), ("etag", tag)], RangeResponse::Partial(Some(20))),
            (tag, vec![("content-range", "bytes 5-19/*"), ("etag", tag)], RangeResponse::Partial(Some(20))),
            (date, vec![("content-range", "bytes 5-19/20")], RangeResponse::Partial(Some(20))),
            (tag, vec![("content-range", "bytes 5-19/20")], RangeResponse::Partial(Some(20))),
            (tag, vec![("content-range", "bytes 5-24/25")], RangeResponse::Unexpected),
            (tag, vec![("content-range", "bytes 5-19/20"), ("etag", "\"v2\"")], RangeResponse::Unexpected),
            (tag, vec![("content-range", "bytes 5-20/21"), ("etag", tag)], RangeResponse::Unexpected),
            (tag, vec![("content-range", "bytes 4-19/20"), ("etag", tag)], RangeResponse::Unexpected),
            (tag, vec![("etag", tag)], RangeResponse::Unexpected),
            (date, vec![("content-range", "bytes 5-19/20"), ("last-modified", "another")], RangeResponse::Unexpected),
        ] {
            assert_eq!(range_response(validator, 206, &headers), expected, "{validator} {headers:?}");
        }
        assert_eq!(range_response(tag, 416, &[("content-range", "bytes */5")]), RangeResponse::AlreadyComplete);
        assert_eq!(range_response(tag, 416, &[("content-range", "bytes */20")]), RangeResponse::Unexpected);
        assert_eq!(range_response(tag, 200, &[]), RangeResponse::Full);
        assert_eq!(range_response(tag, 203, &[]), RangeResponse::Full);
        for (range, expected) in [("bytes 0-19/20", RangeResponse::Full), ("bytes 0-18/20", RangeResponse::Unexpected)]
        {
            assert_eq!(RangeResponse::from_response(&response(206, &[("content-range", range)]), None), expected);
            assert_eq!(range_response(tag, 206, &[("content-range", range)]), expected);
        }
    }
}
