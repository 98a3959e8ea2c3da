//! The responses of the simulated API.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, RETRY_AFTER},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::{
    KnownTasks,
    documents::Task,
    faults::{Encoding, FaultKind},
    response::{Body, body, redirect, retry_later, status_code, status_page, with_header},
    state::State,
    window::Admission,
};

/// Responds to an API request. If this function returns an error, the connection closes without a response.
pub(super) async fn handle(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let key = request.headers().get("x-api-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    match path.as_str() {
        "/simulator/stats" => return Ok(json_response(StatusCode::OK, &json!(state.counts().stats))),
        "/simulator/tasks.csv" => return Ok(body(StatusCode::OK, "text/csv", state.task_list())),
        _ => {}
    }
    if request.method() != Method::GET {
        return Ok(error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"));
    }
    let (admission, rejection) = state.admit(key.as_deref());
    let response = match (rejection, path.strip_prefix("/api/v1/task/"), path.as_str()) {
        (Some(rejection), ..) => rejection,
        (None, Some(id), _) => state.task(&decode_id(id)).await?,
        (None, None, "/api/v1/account/balance") => {
            json_response(StatusCode::OK, &json!({"code": 200, "data": {"available": 950, "frozen": 10, "total": 960}}))
        }
        (None, None, "/api/v1/account/usage") => json_response(
            StatusCode::OK,
            &json!({"code": 200, "data": {"tasks_created": state.tasks_created(), "credits_used": 350, "credits_topped_up": 1000}}),
        ),
        (None, None, _) => error(StatusCode::NOT_FOUND, "No such page"),
    };
    Ok(with_rate_limit_headers(response, &state, admission))
}

impl State {
    /// Returns the task list as CSV, in the format that `export` reads.
    fn task_list(&self) -> String {
        let mut csv = String::from("task_id\n");
        if let KnownTasks::Listed(tasks) = &self.provider.tasks {
            for index in tasks.indices() {
                csv.push_str(tasks.id(index).as_str());
                csv.push('\n');
            }
        }
        csv
    }

    /// Returns the number of tasks that the account has created. This is the number of listed tasks that exist. Without
    /// a task list, it is the example value from the API documentation.
    fn tasks_created(&self) -> usize {
        match &self.provider.tasks {
            KnownTasks::Listed(tasks) => tasks.indices().filter(|index| self.exists(tasks.id(*index).as_str())).count(),
            KnownTasks::Any | KnownTasks::Documents => 42,
        }
    }

    fn exists(&self, id: &str) -> bool {
        let task = Task::new(self.provider.seed, id, self.start, &self.provider.faults, &self.cdn);
        task.document(Timestamp::now()).is_some()
    }

    /// Checks the API key of a request, and counts the request against the rate limit of the key. Returns an error
    /// response if the key is invalid or the limit is reached.
    fn admit(&self, key: Option<&str>) -> (Option<Admission>, Option<Response<Body>>) {
        let faults = &self.provider.faults;
        let mut counts = self.counts();
        counts.stats.requests += 1;
        let Some(key) = key else {
            return (None, Some(error(StatusCode::UNAUTHORIZED, "Missing x-api-key header")));
        };
        let is_wrong_key = faults.key.as_ref().is_some_and(|only| only != key);
        let is_revoked = faults.revoke_after.is_some_and(|after| counts.stats.requests > after);
        if is_wrong_key || is_revoked {
            return (None, Some(error(StatusCode::UNAUTHORIZED, "Invalid API key")));
        }
        let Some(window) = &faults.window else { return (None, None) };
        let admission = counts.windows_by_key.entry(key.to_owned()).or_default().admit(window, Instant::now());
        let rejection = match admission {
            Admission::Granted { .. } => None,
            Admission::Refused { retry_after } => {
                counts.stats.rate_limited += 1;
                Some(too_many_requests(retry_after.as_secs_f64().ceil() as u64))
            }
        };
        (Some(admission), rejection)
    }

    async fn task(&self, id: &str) -> io::Result<Response<Body>> {
        let task = Task::new(self.provider.seed, id, self.start, &self.provider.faults, &self.cdn);
        let fault = self.next_fault(id, task.fault_sample);
        if let Some(FaultKind::Stall(seconds)) = fault {
            time::sleep(Duration::from_secs_f64(seconds)).await;
        }
        let (document, last) = self.document(id, &task);
        let response = match fault {
            Some(FaultKind::Reset) => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            Some(FaultKind::Status(status)) => return Ok(status_page(status_code(status))),
            Some(FaultKind::RateLimited(seconds)) => {
                self.counts().stats.rate_limited += 1;
                return Ok(too_many_requests(seconds));
            }
            Some(FaultKind::Unavailable(seconds)) => return Ok(retry_later(StatusCode::SERVICE_UNAVAILABLE, seconds)),
            Some(FaultKind::Body(text)) => return Ok(body(StatusCode::OK, "application/json", text)),
            Some(FaultKind::Redirect(address)) => return Ok(redirect(&address.replace("{cdn}", &self.cdn))),
            Some(FaultKind::Truncated(bytes)) => return Ok(partial_response(&document.text, bytes, None)),
            Some(FaultKind::StallBody(seconds)) => {
                partial_response(&document.text, 10, Some(Duration::from_secs_f64(seconds)))
            }
            Some(FaultKind::Compressed(encoding)) => compressed(&document, encoding)?,
            Some(FaultKind::Padding(bytes)) => document.with_padding(bytes).into(),
            Some(FaultKind::HangUp) => with_header(document.into(), CONNECTION, "close"),
            Some(FaultKind::Stall(_) | FaultKind::Identical | FaultKind::Changed | FaultKind::Throttle(_)) | None => {
                document.into()
            }
        };
        if last {
            self.counts().final_sent.insert(id.to_owned());
        }
        Ok(response)
    }

    /// Counts a request for a task and returns the fault to inject, if any.
    fn next_fault(&self, id: &str, sample: f64) -> Option<FaultKind> {
        let mut counts = self.counts();
        let is_repeated = counts.final_sent.contains(id);
        counts.stats.repeated += u64::from(is_repeated);
        let nth = counts.stats.by_task.entry(id.to_owned()).or_default();
        *nth += 1;
        self.provider.faults.for_task(id, *nth, sample)
    }

    /// Returns the response for a task before any fault is applied, and whether the response is final.
    fn document(&self, id: &str, task: &Task) -> (Document, bool) {
        if let Some(text) = self.provider.documents.get(id) {
            return (Document { status: StatusCode::OK, text: text.replace("{cdn}", &self.cdn) }, true);
        }
        let exists = match &self.provider.tasks {
            KnownTasks::Any => true,
            KnownTasks::Listed(tasks) => tasks.find(id).is_some(),
            KnownTasks::Documents => false,
        };
        match task.document(Timestamp::now()).filter(|_| exists) {
            Some((document, last)) => (Document { status: StatusCode::OK, text: document.to_string() }, last),
            None => {
                let text = json!({ "code": 404, "message": "Task not found" }).to_string();
                (Document { status: StatusCode::NOT_FOUND, text }, true)
            }
        }
    }
}

/// The response for a task before any fault is applied.
struct Document {
    status: StatusCode,
    text: String,
}

impl Document {
    /// Adds a padding field of `bytes` bytes to the JSON document.
    fn with_padding(mut self, bytes: usize) -> Self {
        if self.text.pop() == Some('}') {
            self.text.push_str(",\"padding\":\"");
            self.text.extend(std::iter::repeat_n('x', bytes));
            self.text.push_str("\"}");
        }
        self
    }
}

impl From<Document> for Response<Body> {
    fn from(document: Document) -> Self {
        body(document.status, "application/json", document.text)
    }
}

/// Decodes the percent-encoded task ID in a path segment.
fn decode_id(segment: &str) -> String {
    let bytes: Vec<u8> =
        url::form_urlencoded::parse(format!("x={}", segment.replace('+', "%2B").replace('&', "%26")).as_bytes())
            .next()
            .map(|(_, id)| id.into_owned().into_bytes())
            .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn with_rate_limit_headers(
    mut response: Response<Body>,
    state: &State,
    admission: Option<Admission>,
) -> Response<Body> {
    if let (Some(window), Some(admission)) = (&state.provider.faults.window, admission) {
        let (remaining, reset) = match admission {
            Admission::Granted { remaining, reset } => (remaining, reset),
            Admission::Refused { retry_after } => (0, retry_after),
        };
        let reset = Timestamp::now().as_second() + reset.as_secs_f64().ceil() as i64;
        let headers = response.headers_mut();
        headers.insert("x-ratelimit-limit", window.limit.into());
        headers.insert("x-ratelimit-remaining", remaining.into());
        headers.insert("x-ratelimit-reset", reset.into());
    }
    response
}

fn too_many_requests(seconds: u64) -> Response<Body> {
    let message = format!("Rate limit exceeded. Try again in {seconds} seconds.");
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, &message);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json_response(status, &json!({ "code": status.as_u16(), "message": message }))
}

fn json_response(status: StatusCode, document: &Value) -> Response<Body> {
    body(status, "application/json", document.to_string())
}

fn compressed(document: &Document, encoding: Encoding) -> io::Result<Response<Body>> {
    let bytes = encoding.compress(document.text.as_bytes())?;
    let full = Full::new(Bytes::from(bytes)).map_err(|infallible: Infallible| match infallible {});
    let response = Response::builder().status(document.status).header(CONTENT_ENCODING, encoding.name());
    Ok(response.body(full.boxed()).expect("the status and headers are valid"))
}

/// Returns a response whose body pauses after `bytes` bytes. If `pause` is `None`, the connection breaks at this point
/// instead. The `Content-Length` is always that of the complete body.
fn partial_response(text: &str, bytes: usize, pause: Option<Duration>) -> Response<Body> {
    let (start, rest) = text.as_bytes().split_at(bytes.min(text.len().saturating_sub(1)));
    let start = stream::iter([Ok(Frame::data(Bytes::copy_from_slice(start)))]);
    let rest = Bytes::copy_from_slice(rest);
    let end = stream::once(async move {
        match pause {
            Some(pause) => {
                time::sleep(pause).await;
                Ok(Frame::data(rest))
            }
            None => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        }
    });
    let response = Response::builder().header(CONTENT_LENGTH, text.len());
    response.body(BodyExt::boxed(StreamBody::new(start.chain(end)))).expect("the status and headers are valid")
}
