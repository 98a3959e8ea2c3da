//! The responses of the simulated CDN. Like an object store, the CDN serves whole files and byte ranges.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{
        ACCEPT_RANGES, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
    },
};
use tokio::time;

use super::{
    documents::hash,
    faults::{Encoding, FaultKind},
    media::{CHUNK, File, FileVariant},
    range::RequestedRange,
    response::{Body, body, redirect, retry_later, status_code, status_page, with_header},
    state::State,
    tracked_body::ResponseTracker,
};

/// The delay before the server breaks a connection. The delay gives the client time to receive the bytes that were
/// already sent.
const FLUSH_DELAY: Duration = Duration::from_millis(50);

/// How a file is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Delivery {
    /// Sends the file as fast as the client reads it.
    Full,
    /// Breaks the connection after this many bytes.
    Truncated(u64),
    /// Pauses for this many seconds after the first bytes.
    Stalled(f64),
    /// Sends this many bytes per second.
    Throttled(u32),
}

/// Responds to a CDN request. If this function returns an error, the connection closes without a response.
pub(super) async fn handle(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let path = request.uri().path().trim_start_matches('/');
    let (mut tracker, nth) = ResponseTracker::new(state.clone(), path, request.headers());
    let name = path.rsplit('/').next().unwrap_or_default();
    let sample = hash(state.provider.seed, path) as f64 / u64::MAX as f64;
    let fault = state.provider.faults.for_file(name, nth, sample);
    let response = match *request.method() {
        Method::GET => state.file(name, request.headers(), fault, &mut tracker).await?,
        // The HTTP server omits the body of a HEAD response. The request headers are ignored, because `Range` is
        // defined only for GET.
        Method::HEAD => state.file(name, &HeaderMap::new(), fault, &mut tracker).await?,
        _ => xml_error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    };
    Ok(tracker.wrap(response))
}

impl State {
    async fn file(
        &self,
        name: &str,
        headers: &HeaderMap,
        fault: Option<FaultKind>,
        tracker: &mut ResponseTracker,
    ) -> io::Result<Response<Body>> {
        let (mut variant, mut delivery, mut hang_up) = (FileVariant::Original, Delivery::Full, false);
        match fault {
            Some(FaultKind::Reset) => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            Some(FaultKind::Status(403)) => return Ok(xml_error(StatusCode::FORBIDDEN, "AccessDenied")),
            Some(FaultKind::Status(status)) => return Ok(status_page(status_code(status))),
            Some(FaultKind::RateLimited(seconds)) => return Ok(retry_later(StatusCode::TOO_MANY_REQUESTS, seconds)),
            Some(FaultKind::Unavailable(seconds)) => return Ok(retry_later(StatusCode::SERVICE_UNAVAILABLE, seconds)),
            Some(FaultKind::Body(text)) => return Ok(replacement_response(text)),
            Some(FaultKind::Redirect(address)) => {
                return Ok(redirect(&address.replace("{cdn}", &self.cdn).replace("{file}", name)));
            }
            Some(FaultKind::Compressed(encoding)) => return self.compressed(name, encoding, tracker),
            Some(FaultKind::Stall(seconds)) => time::sleep(Duration::from_secs_f64(seconds)).await,
            Some(FaultKind::Truncated(bytes)) => delivery = Delivery::Truncated(bytes as u64),
            Some(FaultKind::StallBody(seconds)) => delivery = Delivery::Stalled(seconds),
            Some(FaultKind::Throttle(bytes)) => delivery = Delivery::Throttled(bytes),
            Some(FaultKind::Padding(bytes)) => variant = FileVariant::Extended(bytes as u64),
            Some(FaultKind::Identical) => variant = FileVariant::Identical,
            Some(FaultKind::Changed) => variant = FileVariant::Changed,
            Some(FaultKind::HangUp) => hang_up = true,
            None => {}
        }
        let Some(file) = self.generate_file(name, variant) else { return Ok(not_found()) };
        let response = self.file_response(&file, headers, delivery, tracker);
        Ok(if hang_up { with_header(response, CONNECTION, "close") } else { response })
    }

    fn generate_file(&self, name: &str, variant: FileVariant) -> Option<File> {
        File::new(self.provider.seed, name, variant, &self.provider.faults)
    }

    /// Returns a response with the whole file or the requested range.
    fn file_response(
        &self,
        file: &File,
        headers: &HeaderMap,
        delivery: Delivery,
        tracker: &mut ResponseTracker,
    ) -> Response<Body> {
        let validators = self.provider.faults.validators.unwrap_or(true);
        let part = if validators {
            RequestedRange::from_headers(headers, file.len, [&file.etag, file.modified])
        } else {
            RequestedRange::Full
        };
        let mut response = Response::builder().header(CONTENT_TYPE, file.content_type);
        if validators {
            response = response.header(ETAG, &file.etag).header(LAST_MODIFIED, file.modified);
            response = response.header(ACCEPT_RANGES, "bytes");
        }
        let range = match part {
            RequestedRange::Full => 0..file.len,
            RequestedRange::Bytes(range) => {
                let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, file.len);
                response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, content_range);
                range
            }
            RequestedRange::Unsatisfiable => {
                let rejection = xml_error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
                return with_header(rejection, CONTENT_RANGE, &format!("bytes */{}", file.len));
            }
        };
        tracker.includes_end = range.end == file.len;
        let response = response.header(CONTENT_LENGTH, range.end - range.start);
        response.body(delivery.body(file, range)).expect("the status and headers are valid")
    }

    /// Returns a response with the whole file, compressed in memory.
    fn compressed(&self, name: &str, encoding: Encoding, tracker: &mut ResponseTracker) -> io::Result<Response<Body>> {
        let Some(file) = self.generate_file(name, FileVariant::Original) else { return Ok(not_found()) };
        let full_body: Vec<u8> = file.chunks(0..file.len, CHUNK).flatten().collect();
        let response = body(StatusCode::OK, file.content_type, encoding.compress(&full_body)?);
        tracker.includes_end = true;
        Ok(with_header(response, CONTENT_ENCODING, encoding.name()))
    }
}

impl Delivery {
    /// Returns a response body with the bytes in `range`, delivered as `self` specifies.
    fn body(self, file: &File, range: Range<u64>) -> Body {
        let length = range.end - range.start;
        let chunks = |range, max_len| stream::iter(file.chunks(range, max_len).map(Ok));
        let (bytes, pause) = match self {
            Self::Full => return streamed(chunks(range, CHUNK)),
            Self::Throttled(rate) => return streamed(throttled(file.chunks(range, u64::from(rate / 10).max(1)), rate)),
            Self::Truncated(bytes) => (bytes.min(length.saturating_sub(1)), FLUSH_DELAY),
            Self::Stalled(seconds) => ((length / 2).min(32 << 10), Duration::from_secs_f64(seconds)),
        };
        let middle = range.start + bytes;
        let start = chunks(range.start..middle, CHUNK);
        let rest = match self {
            Self::Truncated(_) => {
                stream::iter(vec![Err(io::Error::from(io::ErrorKind::ConnectionReset))]).left_stream()
            }
            _ => chunks(middle..range.end, CHUNK).right_stream(),
        };
        let delayed = async move {
            time::sleep(pause).await;
            rest
        };
        streamed(start.chain(stream::once(delayed).flatten()))
    }
}

/// Streams chunks at `rate` bytes per second.
fn throttled(chunks: impl Iterator<Item = Bytes>, rate: u32) -> impl Stream<Item = io::Result<Bytes>> {
    stream::iter(chunks).then(move |chunk| async move {
        time::sleep(Duration::from_secs_f64(chunk.len() as f64 / f64::from(rate.max(1)))).await;
        Ok(chunk)
    })
}

fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks.map_ok(Frame::data)))
}

/// Returns a response that contains `text` instead of the requested file.
fn replacement_response(text: String) -> Response<Body> {
    let content_type = if text.starts_with("<html") { "text/html" } else { "application/octet-stream" };
    body(StatusCode::OK, content_type, text)
}

fn not_found() -> Response<Body> {
    xml_error(StatusCode::NOT_FOUND, "NoSuchKey")
}

/// Returns an error response in the XML format of S3.
fn xml_error(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code></Error>");
    body(status, "application/xml", text)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::{Read, Write},
        net::TcpStream,
        time::Instant,
    };

    use tokio::runtime::Runtime;

    use super::*;
    use crate::simulator::{Fault, FaultFilter, FaultPlan, KnownTasks, SimulatedProvider, Simulator};

    /// A running simulator and the runtime that drives it.
    struct TestServer {
        simulator: Simulator,
        _runtime: Runtime,
    }

    impl TestServer {
        fn new(faults: FaultPlan) -> Self {
            Self::with_provider(SimulatedProvider { faults, ..SimulatedProvider::default() })
        }

        fn with_provider(provider: SimulatedProvider) -> Self {
            let runtime = Runtime::new().unwrap();
            let simulator = runtime.block_on(Simulator::start(provider)).unwrap();
            Self { simulator, _runtime: runtime }
        }

        fn with_fault(kind: FaultKind) -> Self {
            let media = vec![Fault { kind, filter: FaultFilter::task("odd") }];
            Self::new(FaultPlan { media, ..FaultPlan::default() })
        }

        /// Sends a request, and returns the response head in lower case and the body bytes received until the
        /// connection closes.
        fn send_request(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
            let host = self.simulator.cdn_url().authority();
            let mut stream = TcpStream::connect(host).unwrap();
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
            let mut response = Vec::new();
            stream.read_to_end(&mut response).unwrap();
            let end = response.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |start| start + 4);
            let body = response.split_off(end);
            (String::from_utf8(response).unwrap().to_lowercase(), body)
        }

        fn get(&self, path: &str) -> (String, Vec<u8>) {
            self.send_request("GET", path, "")
        }
    }

    /// Returns the value of the header `name` in a response head.
    fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[test]
    fn get_sends_a_file_or_range_and_head_sends_the_same_headers() {
        let server = TestServer::new(FaultPlan::default());
        let (head, full_body) = server.get("/a.mp3");
        let length = full_body.len().to_string();
        assert_eq!(value(&head, "content-length"), Some(length.as_str()));
        let (head_only, nothing) = server.send_request("HEAD", "/a.mp3", "Range: bytes=5-\r\n");
        assert!(head_only.starts_with("http/1.1 200") && nothing.is_empty());
        for name in ["content-length", "content-type", "etag", "last-modified", "accept-ranges"] {
            assert!(value(&head, name).is_some() && value(&head, name) == value(&head_only, name), "{name}");
        }
        let etag = value(&head, "etag").unwrap();
        let (head, rest) = server.send_request("GET", "/a.mp3", &format!("Range: bytes=100-\r\nIf-Range: {etag}\r\n"));
        assert!(head.starts_with("http/1.1 206"), "{head}");
        assert_eq!(value(&head, "content-range"), Some(format!("bytes 100-{}/{length}", full_body.len() - 1).as_str()));
        assert!(rest == full_body[100..]);
        let (head, body) = server.send_request("GET", "/a.mp3", "Range: bytes=100-\r\nIf-Range: \"old\"\r\n");
        assert!(head.starts_with("http/1.1 200") && body == full_body);
        let (head, _) = server.send_request("GET", "/a.mp3", &format!("Range: bytes={length}-\r\n"));
        assert!(head.starts_with("http/1.1 416"));
        assert_eq!(value(&head, "content-range"), Some(format!("bytes */{length}").as_str()));
        let (head, body) = server.get("/a.txt");
        assert!(head.starts_with("http/1.1 404") && String::from_utf8(body).unwrap().contains("NoSuchKey"));
    }

    #[test]
    fn a_cdn_without_validators_ignores_ranges() {
        let server = TestServer::new(FaultPlan { validators: Some(false), ..FaultPlan::default() });
        let (head, body) = server.send_request("GET", "/a.mp3", "Range: bytes=100-\r\n");
        assert!(head.starts_with("http/1.1 200") && body.starts_with(b"ID3"));
        assert!(["etag", "last-modified", "accept-ranges"].iter().all(|name| value(&head, name).is_none()), "{head}");
    }

    #[test]
    fn each_fault_has_its_status() {
        let faulty = |fault| TestServer::with_fault(fault).get("/odd.mp3");
        for (fault, status, expected_text) in [
            (FaultKind::Status(403), "403", "AccessDenied"),
            (FaultKind::Status(502), "502", "<html>"),
            (FaultKind::RateLimited(7), "429", "<html>"),
            (FaultKind::Unavailable(7), "503", "<html>"),
            (FaultKind::Redirect("{cdn}/x/{file}".into()), "302", "<html>"),
            (FaultKind::Body("<html>no</html>".into()), "200", "no"),
            (FaultKind::Body(String::new()), "200", ""),
        ] {
            let (head, body) = faulty(fault.clone());
            let body = String::from_utf8(body).unwrap();
            assert!(
                head.starts_with(&format!("http/1.1 {status}")) && body.contains(expected_text),
                "{fault:?} {head}{body}"
            );
            let has_retry_after = matches!(fault, FaultKind::RateLimited(_) | FaultKind::Unavailable(_));
            assert_eq!(value(&head, "retry-after").is_some(), has_retry_after);
        }
        let server = TestServer::with_fault(FaultKind::Redirect("{cdn}/x/{file}".into()));
        let target = format!("{}x/odd.mp3", server.simulator.cdn_url());
        assert_eq!(value(&server.get("/odd.mp3").0, "location"), Some(target.as_str()));
        assert!(faulty(FaultKind::Reset).0.is_empty());
    }

    #[test]
    fn each_fault_has_its_effect_on_a_file() {
        let original = TestServer::new(FaultPlan::default()).get("/odd.mp3");
        let faulty = |fault| TestServer::with_fault(fault).get("/odd.mp3");
        let cut = faulty(FaultKind::Truncated(30_000));
        assert!(
            value(&cut.0, "content-length") == value(&original.0, "content-length") && cut.1 == original.1[..30_000]
        );
        let server = TestServer::with_fault(FaultKind::Truncated(10));
        assert!(server.send_request("GET", "/odd.mp3", "Range: bytes=50-\r\n").1 == original.1[50..60]);
        for slow in [FaultKind::Stall(0.2), FaultKind::StallBody(0.2), FaultKind::Throttle(200_000)] {
            let started = Instant::now();
            assert!(faulty(slow.clone()).1 == original.1 && started.elapsed() > Duration::from_millis(190), "{slow:?}");
        }
        let changed = faulty(FaultKind::Changed);
        assert!(["etag", "last-modified"].iter().all(|name| value(&changed.0, name) != value(&original.0, name)));
        assert!(changed.1.len() == original.1.len() && changed.1 != original.1);
        assert!(faulty(FaultKind::Padding(1000)).1.starts_with(&original.1));
        let server = TestServer::with_fault(FaultKind::Identical);
        assert!(server.get("/odd.mp3").1 == server.get("/odd-too.mp3").1);
        let compressed = faulty(FaultKind::Compressed(Encoding::Zstd));
        assert!(value(&compressed.0, "content-encoding") == Some("zstd"));
        assert!(zstd::decode_all(compressed.1.as_slice()).unwrap() == original.1);
    }

    #[test]
    fn requests_are_counted() {
        let media = vec![Fault { kind: FaultKind::Truncated(1000), filter: FaultFilter::first(1) }];
        let server = TestServer::new(FaultPlan { media, ..FaultPlan::default() });
        let cut = server.send_request("GET", "/a.mp3", "x-api-key: k\r\n").1.len();
        let rest = server.send_request("GET", "/a.mp3", "Range: bytes=1000-\r\nReferer: r\r\n").1.len();
        let stats = server.simulator.stats().media;
        assert_eq!((stats.requests, stats.range_requests, stats.bytes, cut), (2, 1, (cut + rest) as u64, 1000));
        assert_eq!((&stats.by_path["a.mp3"], &stats.completed["a.mp3"]), (&2, &1));
        assert_eq!((stats.max_concurrent, stats.leaks), (1, vec!["x-api-key".into(), "referer".into()]));
    }

    #[test]
    fn responses_in_progress_are_counted() {
        let server = TestServer::with_fault(FaultKind::StallBody(0.5));
        let both = ["/odd.mp3", "/odd.png"];
        std::thread::scope(|scope| {
            let requested = both.map(|path| scope.spawn(|| server.get(path)));
            for response in requested {
                response.join().unwrap();
            }
        });
        server.get("/odd.mp3");
        let stats = server.simulator.stats().media;
        assert_eq!((stats.max_concurrent, stats.completed.values().sum::<u32>()), (2, 3));
    }

    #[test]
    fn documents_may_refer_to_the_cdn() {
        let documents = HashMap::from([("t".into(), "\"{cdn}/x.mp3\"".into())]);
        let server = TestServer::with_provider(SimulatedProvider {
            tasks: KnownTasks::Documents,
            documents,
            ..SimulatedProvider::default()
        });
        let cdn = server.simulator.cdn_url();
        let mut stream = TcpStream::connect(server.simulator.base_url().authority()).unwrap();
        write!(stream, "GET /api/v1/task/t HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.ends_with(&format!("\"{cdn}x.mp3\"")), "{response}");
        assert_ne!(cdn.authority(), server.simulator.base_url().authority());
    }
}
