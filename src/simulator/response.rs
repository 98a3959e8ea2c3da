//! Response builders for the API and the CDN.

use std::{convert::Infallible, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER},
};

/// A response body. If the body yields an error, the connection breaks.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Returns a response with this status and an HTML body, like the error page of a proxy.
pub(super) fn status_page(status: StatusCode) -> Response<Body> {
    let page =
        format!("<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>");
    body(status, "text/html", page)
}

/// Returns a response with this status, an HTML body and a `Retry-After` header of this many seconds.
pub(super) fn retry_later(status: StatusCode, seconds: u64) -> Response<Body> {
    with_header(status_page(status), RETRY_AFTER, &seconds.to_string())
}

/// Converts a status code from the fault plan. An invalid code is replaced with 500.
pub(super) fn status_code(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn body(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let full = Full::new(content.into()).map_err(|infallible: Infallible| match infallible {});
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    response.body(full.boxed()).expect("the status and headers are valid")
}

pub(super) fn redirect(address: &str) -> Response<Body> {
    with_header(status_page(StatusCode::FOUND), LOCATION, address)
}

pub(super) fn with_header(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
    response
}
