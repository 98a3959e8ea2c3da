//! Classifies API responses. This module performs no I/O: it converts a status, a `Retry-After` value and a body to a
//! [`TaskResponse`].
//!
//! The provider documents the format `{"code":200,"data":{…}}` and a few errors, but a proxy in front of the API may
//! send any other response. A response that is not JSON therefore counts as a transient failure.

use std::{str, time::Duration};

use crate::{
    http::{self, excerpt},
    json::{self, Object},
    status::FinalStatus,
    task::{self, TaskId},
    timestamp::MicrosTimestamp,
};

/// The pause after a 429 that specifies no wait time. The pause equals the length of the provider's rate-limit window.
const DEFAULT_PAUSE: Duration = Duration::from_secs(60);

/// The minimum pause after a 429. A wait time of 0 seconds must not cause a request storm.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The outcome of one API request.
#[derive(Debug, PartialEq)]
pub(crate) enum TaskResponse {
    /// The task has ended. `data` is the JSON object of the task, byte for byte as received. If the response contains
    /// lone surrogates, they are replaced in `data`, and `original_body` is the body as received.
    Final { status: FinalStatus, data: String, original_body: Option<String> },
    /// The task is in progress. A task with an unknown or missing status also counts as unfinished.
    Unfinished { status: Option<String>, created_at: Option<MicrosTimestamp> },
    /// The provider responded with 404.
    NotFound { message: Option<String> },
    /// The provider responded with 401 or 403.
    KeyRejected { reason: String },
    /// The provider responded with 429.
    RateLimited { pause: Duration },
    /// The request failed with a transient error.
    Transient { reason: String },
    /// The body begins like JSON but is not valid JSON. A retry may succeed. If every retry fails, `body` is the only
    /// data available for the task.
    Malformed { reason: String, body: String },
    /// The provider responded with another error that a retry would not resolve.
    Rejected { reason: String },
    /// The body is JSON, but it does not contain the requested task.
    Unreadable { reason: String, body: String },
    /// The connection was established, but no response arrived.
    NoResponse { reason: String },
    /// No connection could be established.
    ConnectionFailed { reason: String },
    /// The server's certificate is not trusted.
    UntrustedCertificate { reason: String },
}

/// The account's usage. A field that is absent or not a number is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    pub(crate) tasks_created: Option<f64>,
    pub(crate) credits_used: Option<f64>,
    pub(crate) credits_topped_up: Option<f64>,
}

/// Classifies a response to a request for the task `requested`.
pub(crate) fn classify(requested: TaskId<'_>, status: u16, retry_after: Option<Duration>, body: &[u8]) -> TaskResponse {
    let mut repaired = None;
    match parse_body(status, retry_after, body, &mut repaired) {
        Ok(TaskData { text, envelope, original_body }) => task(requested, text, envelope, original_body),
        Err(response) => response,
    }
}

/// Interprets the response to a request for the account's usage.
pub(crate) fn usage(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Usage, TaskResponse> {
    let mut repaired = None;
    let TaskData { text, envelope, .. } = parse_body(status, retry_after, body, &mut repaired)?;
    let Some((_, usage)) = data(text, envelope) else {
        return Err(TaskResponse::Rejected { reason: "the response contains no usage data".into() });
    };
    Ok(Usage {
        tasks_created: usage.number("tasks_created"),
        credits_used: usage.number("credits_used"),
        credits_topped_up: usage.number("credits_topped_up"),
    })
}

/// The JSON body of a response without an error code.
struct TaskData<'a> {
    text: &'a str,
    /// The members of the body, or `None` if the body is not an object.
    envelope: Option<Object<'a>>,
    /// The original body, if `text` is a repaired copy.
    original_body: Option<String>,
}

/// Parses the body of a response. If the body contains lone surrogates, `repaired` receives a copy in which they are
/// replaced.
fn parse_body<'a>(
    status: u16,
    retry_after: Option<Duration>,
    body: &'a [u8],
    repaired: &'a mut Option<String>,
) -> Result<TaskData<'a>, TaskResponse> {
    if !(200..300).contains(&status) {
        return Err(error_response(status, retry_after, &String::from_utf8_lossy(body)));
    }
    let Ok(original_body) = str::from_utf8(body) else {
        return Err(TaskResponse::Transient { reason: "the response is not UTF-8".into() });
    };
    let text = original_body.trim_start_matches('\u{feff}');
    *repaired = json::replace_surrogates(text);
    let original_body = repaired.is_some().then(|| original_body.to_owned());
    let text = repaired.as_deref().unwrap_or(text);
    let envelope = Object::try_parse(text).map_err(|error| not_json(text, &error))?;
    match envelope.as_ref().and_then(code) {
        Some(code) if !(200..300).contains(&code) => Err(error_response(code, retry_after, text)),
        _ => Ok(TaskData { text, envelope, original_body }),
    }
}

fn task(
    requested: TaskId<'_>,
    text: &str,
    envelope: Option<Object<'_>>,
    original_body: Option<String>,
) -> TaskResponse {
    let unreadable = |reason: String| TaskResponse::Unreadable {
        reason,
        body: original_body.clone().unwrap_or_else(|| text.to_owned()),
    };
    let Some((data, task)) = data(text, envelope) else {
        return unreadable("the response contains no task".into());
    };
    match task.text("task_id") {
        Some(id) if task::is_same_id(&id, requested.as_str()) => {}
        Some(other) => return unreadable(format!("the response is for a different task, {}", excerpt(&other))),
        None => return unreadable("the response contains no task_id".into()),
    }
    let status = task.text("status");
    match status.as_deref().and_then(FinalStatus::parse_response) {
        Some(status) => TaskResponse::Final { status, data: data.to_owned(), original_body },
        None => TaskResponse::Unfinished { status, created_at: task.time("created_at") },
    }
}

/// Returns the payload as text and as an object. The payload is the `data` member, or the whole body if that member is
/// absent.
fn data<'a>(text: &'a str, envelope: Option<Object<'a>>) -> Option<(&'a str, Object<'a>)> {
    let envelope = envelope?;
    match envelope.get("data") {
        Some(data) => Some((data.get(), Object::from_raw(data)?)),
        None => Some((text.trim(), envelope)),
    }
}

/// Returns the `code` member of the envelope, if it is a possible HTTP status. Other codes, such as 0 or "ok", are
/// ignored.
fn code(envelope: &Object<'_>) -> Option<u16> {
    let code: f64 = envelope.get("code")?.get().parse().ok()?;
    let is_valid = code.fract() == 0.0 && (200.0..600.0).contains(&code);
    is_valid.then_some(code as u16)
}

fn error_response(code: u16, retry_after: Option<Duration>, body: &str) -> TaskResponse {
    let message = message(body);
    let reason = match &message {
        Some(message) => format!("HTTP {code}: {}", excerpt(message)),
        None => format!("HTTP {code}"),
    };
    match code {
        401 | 403 => TaskResponse::KeyRejected { reason },
        404 => TaskResponse::NotFound { message },
        429 => TaskResponse::RateLimited { pause: pause_after_429(retry_after, message.as_deref().unwrap_or(body)) },
        408 | 425 | 500.. => TaskResponse::Transient { reason },
        _ => TaskResponse::Rejected { reason },
    }
}

fn message(body: &str) -> Option<String> {
    Object::parse(&json::replace_surrogates(body).unwrap_or_else(|| body.to_owned()))?.non_empty_text("message")
}

fn not_json(text: &str, error: &serde_json::Error) -> TaskResponse {
    let transient = |reason: &str| TaskResponse::Transient { reason: reason.into() };
    match text.trim_start().as_bytes().first() {
        None => transient("the response is empty"),
        Some(b'<') => transient("the response is HTML instead of JSON"),
        Some(_) if error.is_eof() => transient("the response is truncated"),
        Some(b'{' | b'[' | b'"') => TaskResponse::Malformed {
            reason: format!("the response is not valid JSON: {error}"),
            body: text.to_owned(),
        },
        Some(_) => transient("the response is not JSON"),
    }
}

/// Returns the pause after a 429: the value of `Retry-After`, or otherwise the number of seconds in the message.
fn pause_after_429(retry_after: Option<Duration>, text: &str) -> Duration {
    retry_after.or_else(|| parse_seconds(text)).unwrap_or(DEFAULT_PAUSE).max(MIN_PAUSE)
}

/// Finds the first duration in seconds in `text`, such as `30 seconds`, `30 sec` or `30s`.
fn parse_seconds(text: &str) -> Option<Duration> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let mut tokens = text.split(|c| !is_part(c)).map(|word| word.trim_matches('.')).filter(|word| !word.is_empty());
    let mut number = None;
    tokens.find_map(|word| {
        let (digits, unit) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len()));
        let count = if digits.is_empty() { number.take() } else { http::seconds(digits) };
        number = count.filter(|_| unit.is_empty());
        count.filter(|_| matches!(unit.to_ascii_lowercase().as_str(), "s" | "sec" | "secs" | "second" | "seconds"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderMap;

    use super::*;

    fn classify_ok(body: &str) -> TaskResponse {
        classify(TaskId::parse("t1").unwrap(), 200, None, body.as_bytes())
    }

    fn classify_status(status: u16, retry_after: Option<&str>, body: &str) -> TaskResponse {
        let header = |text: &str| ("retry-after".parse().unwrap(), text.parse().unwrap());
        let retry_after = retry_after.and_then(|text| http::retry_after(&HeaderMap::from_iter([header(text)])));
        classify(TaskId::parse("t1").unwrap(), status, retry_after, body.as_bytes())
    }

    #[test]
    fn a_finished_task_is_final_and_its_data_is_kept_byte_for_byte() {
        let data = r#"{ "task_id":"t1" , "status":"success", "x":[1.0,  1e5] }"#;
        for body in [
            format!(r#"{{"code":200,"data":{data}}}"#),
            format!("\u{feff} {{\"data\":{data},\"code\":0}} "),
            format!(r#"{{"code":"ok","data":{data}}}"#),
            format!(" {data} "),
        ] {
            let expected = TaskResponse::Final { status: FinalStatus::Success, data: data.into(), original_body: None };
            assert_eq!(classify_ok(&body), expected, "{body}");
        }
    }

    #[test]
    fn every_other_status_is_unfinished() {
        for status in [r#""pending""#, r#""running""#, r#""SUCCESS""#, r#""not_found""#, "null", "7", "{}"] {
            let body = format!(r#"{{"data":{{"task_id":"t1","status":{status}}}}}"#);
            assert!(matches!(classify_ok(&body), TaskResponse::Unfinished { .. }), "{status}");
        }
    }

    #[test]
    fn a_response_for_another_task_is_unreadable_and_kept() {
        for body in
            ["[]", "7", r#"{"code":200}"#, r#"{"data":null}"#, r#"{"data":{"task_id":"t2","status":"success"}}"#]
        {
            assert!(
                matches!(classify_ok(body), TaskResponse::Unreadable { body: kept_body, .. } if kept_body == body),
                "{body}"
            );
        }
    }

    #[test]
    fn uuids_are_compared_case_insensitively() {
        let requested = TaskId::parse("F47AC10B-58CC-4372-A567-0E02B2C3D479").unwrap();
        let body = br#"{"data":{"task_id":"f47ac10b-58cc-4372-a567-0e02b2c3d479","status":"success"}}"#;
        assert!(matches!(classify(requested, 200, None, body), TaskResponse::Final { .. }));
        assert!(matches!(
            classify_ok(r#"{"data":{"task_id":"T1","status":"success"}}"#),
            TaskResponse::Unreadable { .. }
        ));
    }

    #[test]
    fn a_numeric_task_id_is_converted_to_text() {
        let id = TaskId::parse("42").unwrap();
        let response = classify(id, 200, None, br#"{"data":[{"task_id":42,"status":"timeout"}]}"#);
        assert!(matches!(response, TaskResponse::Final { status: FinalStatus::Timeout, .. }));
    }

    #[test]
    fn text_that_is_not_json_is_a_transient_failure() {
        for (body, expected) in [
            ("", "the response is empty"),
            ("<html>", "the response is HTML instead of JSON"),
            (r#"{"data":{"task_id":"#, "the response is truncated"),
            ("upstream down", "the response is not JSON"),
        ] {
            assert_eq!(classify_ok(body), TaskResponse::Transient { reason: expected.into() });
        }
        let binary = classify(TaskId::parse("t1").unwrap(), 200, None, b"\"\xff\"");
        assert_eq!(binary, TaskResponse::Transient { reason: "the response is not UTF-8".into() });
    }

    #[test]
    fn the_body_of_malformed_json_is_kept() {
        for body in [r#"{"data":{"task_id":"t1","x":NaN}}"#, "{\"x\":\"a\tb\"}", "[1,]", "\"a\tb\"", "{'data':1}"] {
            assert!(
                matches!(classify_ok(body), TaskResponse::Malformed { body: kept_body, .. } if kept_body == body),
                "{body}"
            );
        }
    }

    #[test]
    fn a_code_in_the_body_counts_like_the_status() {
        assert!(matches!(classify_ok(r#"{"code":500,"message":"x"}"#), TaskResponse::Transient { .. }));
        assert!(matches!(classify_ok(r#"{"code":401.0}"#), TaskResponse::KeyRejected { .. }));
        assert_eq!(
            classify_ok(r#"{"code":404,"message":"no"}"#),
            TaskResponse::NotFound { message: Some("no".into()) }
        );
        assert!(matches!(classify_ok(r#"{"code":302}"#), TaskResponse::Rejected { .. }));
    }

    #[test]
    fn statuses_are_classified_by_whether_a_retry_can_help() {
        for status in [408, 425, 500, 502, 503, 504, 520, 524, 599] {
            assert!(matches!(classify_status(status, None, "<html>"), TaskResponse::Transient { .. }), "{status}");
        }
        for status in [301, 302, 307, 400, 402, 410, 418, 422] {
            assert!(matches!(classify_status(status, None, ""), TaskResponse::Rejected { .. }), "{status}");
        }
        for status in [401, 403] {
            assert!(matches!(classify_status(status, None, ""), TaskResponse::KeyRejected { .. }), "{status}");
        }
    }

    #[test]
    fn the_pause_after_a_429_comes_from_the_header_or_the_message() {
        let limited = |header, body: &str| match classify_status(429, header, body) {
            TaskResponse::RateLimited { pause } => pause.as_secs(),
            other => panic!("{other:?}"),
        };
        let body = r#"{"code":429,"message":"Rate limit exceeded. Try again in 30 seconds."}"#;
        assert_eq!(limited(Some("7"), body), 7);
        assert_eq!(limited(None, body), 30);
        assert_eq!(limited(Some("soon"), body), 30);
        for (body, seconds) in [
            ("slow down: 12 s.", 12),
            (r#"{"message":"wait (45s)"}"#, 45),
            (r#"{"message":"120 per minute; in 9 sec"}"#, 9),
            (r#"{"message":"limit 2 sets"}"#, 60),
            ("<html>", 60),
        ] {
            assert_eq!(limited(None, body), seconds, "{body}");
        }
        assert_eq!(limited(Some("soon"), ""), 60);
        assert_eq!(limited(Some("0"), ""), 1);
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100));
        assert!((99..=101).contains(&limited(Some(&date), "")));
    }

    #[test]
    fn lone_surrogates_are_replaced_and_the_original_body_is_kept() {
        let body = r#"{"data":{"task_id":"t1","status":"success","t":"\ud800"}}"#;
        let TaskResponse::Final { data, original_body, .. } = classify_ok(body) else { panic!() };
        assert_eq!(data, r#"{"task_id":"t1","status":"success","t":"\ufffd"}"#);
        assert_eq!(original_body.as_deref(), Some(body));
    }

    #[test]
    fn the_usage_response_is_parsed_leniently() {
        let read = |body: &str| usage(200, None, body.as_bytes()).map(|usage| usage.tasks_created);
        for (body, expected) in [
            (r#"{"code":200,"data":{"tasks_created":42}}"#, Some(42.0)),
            (r#"{"tasks_created":"42"}"#, Some(42.0)),
            (r#"{"data":[{"tasks_created":null}]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(read(body), Ok(expected), "{body}");
        }
        assert!(matches!(read("[]"), Err(TaskResponse::Rejected { .. })));
        assert!(matches!(read(r#"{"code":401,"message":"no"}"#), Err(TaskResponse::KeyRejected { .. })));
        assert!(matches!(usage(429, Some(Duration::from_secs(7)), b""), Err(TaskResponse::RateLimited { .. })));
    }

    proptest! {
        #[test]
        fn no_response_body_causes_a_panic(body in prop::collection::vec(any::<u8>(), 0..200), status in 200u16..600) {
            let _ = classify(TaskId::parse("t1").unwrap(), status, None, &body);
            let _ = usage(status, None, &body);
        }
    }
}
