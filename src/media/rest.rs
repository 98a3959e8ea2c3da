//! Resumption: how a file is known to be unchanged, and what a server returns for the rest of it. Two versions of a
//! file must never be mixed.

use reqwest::{
    Response,
    header::{CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED},
};
use serde::{Deserialize, Serialize};

/// The validator of a version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validator {
    /// A strong `ETag`, else the date of its last change (RFC 9110, 13.1.5).
    pub(super) validator: String,
    /// How long it is, if the server said so.
    pub(super) length: Option<u64>,
}

impl Validator {
    /// The validator of the file in a response, if it has one.
    pub(super) fn of(response: &Response) -> Option<Self> {
        let strong = header(response, &ETAG).filter(|etag| etag.starts_with('"'));
        let validator = strong.or_else(|| header(response, &LAST_MODIFIED))?.to_owned();
        Some(Self { validator, length: response.content_length() })
    }

    /// Whether a partial response is of this version. It should repeat the `ETag` (RFC 9110, 15.3.7); if it does not,
    /// the length must match.
    fn is_of(&self, response: &Response) -> bool {
        let name = if self.validator.starts_with('"') { ETAG } else { LAST_MODIFIED };
        header(response, &name).is_none_or(|repeated| repeated == self.validator)
    }
}

/// The missing rest of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// The number of bytes so far.
    pub(super) from: u64,
    pub(super) mark: Validator,
}

/// How the body of a response extends the existing bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeResponse {
    /// The file from its beginning.
    All,
    /// The missing rest; the whole length, if that is known.
    Rest(Option<u64>),
    /// Nothing, since the file is complete (RFC 9110, 15.5.17).
    Nothing,
    /// Something that was not requested.
    Other,
}

impl RangeResponse {
    /// Interprets the response to a request for a file, or for its rest.
    pub(super) fn of(response: &Response, asked: Option<&Rest>) -> Self {
        let range = header(response, &CONTENT_RANGE).and_then(Range::parse);
        match (response.status().as_u16(), asked, range) {
            (200, ..) => Self::All,
            (206, _, Some(range)) if range.is_whole() => Self::All,
            (206, Some(rest), Some(range)) if rest.is_resumed_by(range) && rest.mark.is_of(response) => {
                Self::Rest(range.length.or(rest.mark.length))
            }
            (416, Some(rest), Some(Range { bytes: None, length })) if length == Some(rest.from) => Self::Nothing,
            _ => Self::Other,
        }
    }
}

impl Rest {
    fn is_resumed_by(&self, range: Range) -> bool {
        range.bytes.is_some_and(|(first, _)| first == self.from)
            && (range.length.is_none() || range.length == self.mark.length)
    }
}

/// A `Content-Range`: `bytes 5-9/20`, `bytes 5-9/*` or `bytes */20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    /// The first and the last byte.
    bytes: Option<(u64, u64)>,
    /// Of the whole file.
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

    /// Whether it is all of the file.
    fn is_whole(self) -> bool {
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
        let rest = Rest { from: 5, mark: Validator { validator: validator.into(), length: Some(20) } };
        RangeResponse::of(&response(status, headers), Some(&rest))
    }

    #[test]
    fn the_rest_is_only_that_of_the_same_file() {
        let (tag, date) = ("\"v1\"", "Wed, 01 Jan 2025 00:00:00 GMT");
        for (validator, headers, expected) in [
            (tag, vec![("content-range", "bytes 5-19/20"), ("etag", tag)], RangeResponse::Rest(Some(20))),
            (tag, vec![("content-range", "bytes 5-9/20"), ("etag", tag)], RangeResponse::Rest(Some(20))),
            (tag, vec![("content-range", "Bytes 5-19/20"), ("etag", tag)], RangeResponse::Rest(Some(20))),
            (tag, vec![("content-range", "bytes 5-19/*"), ("etag", tag)], RangeResponse::Rest(Some(20))),
            (date, vec![("content-range", "bytes 5-19/20")], RangeResponse::Rest(Some(20))),
            (tag, vec![("content-range", "bytes 5-19/20")], RangeResponse::Rest(Some(20))),
            (tag, vec![("content-range", "bytes 5-24/25")], RangeResponse::Other),
            (tag, vec![("content-range", "bytes 5-19/20"), ("etag", "\"v2\"")], RangeResponse::Other),
            (tag, vec![("content-range", "bytes 5-20/21"), ("etag", tag)], RangeResponse::Other),
            (tag, vec![("content-range", "bytes 4-19/20"), ("etag", tag)], RangeResponse::Other),
            (tag, vec![("etag", tag)], RangeResponse::Other),
            (date, vec![("content-range", "bytes 5-19/20"), ("last-modified", "another")], RangeResponse::Other),
        ] {
            assert_eq!(range_response(validator, 206, &headers), expected, "{validator} {headers:?}");
        }
        assert_eq!(range_response(tag, 416, &[("content-range", "bytes */5")]), RangeResponse::Nothing);
        assert_eq!(range_response(tag, 416, &[("content-range", "bytes */20")]), RangeResponse::Other);
        assert_eq!(range_response(tag, 200, &[]), RangeResponse::All);
        for (range, expected) in [("bytes 0-19/20", RangeResponse::All), ("bytes 0-18/20", RangeResponse::Other)] {
            assert_eq!(RangeResponse::of(&response(206, &[("content-range", range)]), None), expected);
            assert_eq!(range_response(tag, 206, &[("content-range", range)]), expected);
        }
    }
}
