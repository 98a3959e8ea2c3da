//! The responses of the simulated CDN: generated files, sent in full or by range, as an object store sends them.

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
    media::{CHUNK, File, Make},
    range::Part,
    response::{Body, body, html, later, redirect, status_of, with_header},
    state::State,
    tracked_body::TrackedBody,
};

/// The delay before a connection breaks, so that all bytes written before the break reach the client.
const LAST_GASP: Duration = Duration::from_millis(50);

/// The way in which a file is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// Sends the file as fast as the client reads it.
    Steady,
    /// Breaks the connection after this many bytes.
    Broken(u64),
    /// Pauses for this many seconds after the first bytes.
    Halting(f64),
    /// Sends this many bytes per second.
    Dripping(u32),
}

/// Responds to a CDN request. An error closes the connection without a response.
pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let path = request.uri().path().trim_start_matches('/');
    let (mut flight, nth) = TrackedBody::new(state.clone(), path, request.headers());
    let name = path.rsplit('/').next().unwrap_or_default();
    let luck = hash(state.world.seed, path) as f64 / u64::MAX as f64;
    let trouble = state.world.faults.for_file(name, nth, luck);
    let response = match *request.method() {
        Method::GET => state.file(name, request.headers(), trouble, &mut flight).await?,
        // The HTTP server omits the body of a HEAD response. Ranges apply only to GET.
        Method::HEAD => state.file(name, &HeaderMap::new(), trouble, &mut flight).await?,
        _ => xml(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    };
    Ok(flight.carry(response))
}

impl State {
    async fn file(
        &self,
        name: &str,
        headers: &HeaderMap,
        trouble: Option<FaultKind>,
        flight: &mut TrackedBody,
    ) -> io::Result<Response<Body>> {
        let (mut make, mut manner, mut hang_up) = (Make::Fair, Manner::Steady, false);
        match trouble {
            Some(FaultKind::Reset) => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            Some(FaultKind::Status(403)) => return Ok(xml(StatusCode::FORBIDDEN, "AccessDenied")),
            Some(FaultKind::Status(status)) => return Ok(html(status_of(status))),
            Some(FaultKind::TooMany(seconds)) => return Ok(later(StatusCode::TOO_MANY_REQUESTS, seconds)),
            Some(FaultKind::Busy(seconds)) => return Ok(later(StatusCode::SERVICE_UNAVAILABLE, seconds)),
            Some(FaultKind::Body(text)) => return Ok(instead(text)),
            Some(FaultKind::Redirect(address)) => {
                return Ok(redirect(&address.replace("{cdn}", &self.cdn).replace("{file}", name)));
            }
            Some(FaultKind::Packed(encoding)) => return self.packed(name, encoding, flight),
            Some(FaultKind::Stall(seconds)) => time::sleep(Duration::from_secs_f64(seconds)).await,
            Some(FaultKind::Truncated(bytes)) => manner = Manner::Broken(bytes as u64),
            Some(FaultKind::StallBody(seconds)) => manner = Manner::Halting(seconds),
            Some(FaultKind::Drip(bytes)) => manner = Manner::Dripping(bytes),
            Some(FaultKind::Padding(bytes)) => make = Make::Longer(bytes as u64),
            Some(FaultKind::Identical) => make = Make::Identical,
            Some(FaultKind::Changed) => make = Make::Changed,
            Some(FaultKind::HangUp) => hang_up = true,
            None => {}
        }
        let Some(file) = self.made(name, make) else { return Ok(missing()) };
        let response = self.part(&file, headers, manner, flight);
        Ok(if hang_up { with_header(response, CONNECTION, "close") } else { response })
    }

    fn made(&self, name: &str, make: Make) -> Option<File> {
        File::new(self.world.seed, name, make, &self.world.faults)
    }

    /// Returns the whole file or the range that the client requested.
    fn part(&self, file: &File, headers: &HeaderMap, manner: Manner, flight: &mut TrackedBody) -> Response<Body> {
        let validators = self.world.faults.validators.unwrap_or(true);
        let part = if validators { Part::asked(headers, file.len, [&file.etag, file.modified]) } else { Part::Whole };
        let mut response = Response::builder().header(CONTENT_TYPE, file.content_type);
        if validators {
            response = response.header(ETAG, &file.etag).header(LAST_MODIFIED, file.modified);
            response = response.header(ACCEPT_RANGES, "bytes");
        }
        let range = match part {
            Part::Whole => 0..file.len,
            Part::Bytes(range) => {
                let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, file.len);
                response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, content_range);
                range
            }
            Part::Beyond => {
                let refusal = xml(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
                return with_header(refusal, CONTENT_RANGE, &format!("bytes */{}", file.len));
            }
        };
        flight.whole = range.end == file.len;
        let response = response.header(CONTENT_LENGTH, range.end - range.start);
        response.body(manner.body(file, range)).expect("the status and headers are valid")
    }

    /// Returns the whole file, compressed in memory.
    fn packed(&self, name: &str, encoding: Encoding, flight: &mut TrackedBody) -> io::Result<Response<Body>> {
        let Some(file) = self.made(name, Make::Fair) else { return Ok(missing()) };
        let whole: Vec<u8> = file.chunks(0..file.len, CHUNK).flatten().collect();
        let response = body(StatusCode::OK, file.content_type, encoding.pack(&whole)?);
        flight.whole = true;
        Ok(with_header(response, CONTENT_ENCODING, encoding.name()))
    }
}

impl Manner {
    /// Returns a body that sends the bytes of `range` in this manner.
    fn body(self, file: &File, range: Range<u64>) -> Body {
        let length = range.end - range.start;
        let chunks = |range, most| stream::iter(file.chunks(range, most).map(Ok));
        let (bytes, pause) = match self {
            Self::Steady => return streamed(chunks(range, CHUNK)),
            Self::Dripping(rate) => return streamed(dripping(file.chunks(range, u64::from(rate / 10).max(1)), rate)),
            Self::Broken(bytes) => (bytes.min(length.saturating_sub(1)), LAST_GASP),
            Self::Halting(seconds) => ((length / 2).min(32 << 10), Duration::from_secs_f64(seconds)),
        };
        let middle = range.start + bytes;
        let start = chunks(range.start..middle, CHUNK);
        let rest = match self {
            Self::Broken(_) => stream::iter(vec![Err(io::Error::from(io::ErrorKind::ConnectionReset))]).left_stream(),
            _ => chunks(middle..range.end, CHUNK).right_stream(),
        };
        let late = async move {
            time::sleep(pause).await;
            rest
        };
        streamed(start.chain(stream::once(late).flatten()))
    }
}

/// Streams the chunks at `rate` bytes per second.
fn dripping(chunks: impl Iterator<Item = Bytes>, rate: u32) -> impl Stream<Item = io::Result<Bytes>> {
    stream::iter(chunks).then(move |chunk| async move {
        time::sleep(Duration::from_secs_f64(chunk.len() as f64 / f64::from(rate.max(1)))).await;
        Ok(chunk)
    })
}

fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks.map_ok(Frame::data)))
}

/// Returns a response with this text in place of the file.
fn instead(text: String) -> Response<Body> {
    let content_type = if text.starts_with("<html") { "text/html" } else { "application/octet-stream" };
    body(StatusCode::OK, content_type, text)
}

fn missing() -> Response<Body> {
    xml(StatusCode::NOT_FOUND, "NoSuchKey")
}

/// Returns an error response in the XML format of S3.
fn xml(status: StatusCode, code: &str) -> Response<Body> {
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
    use crate::simulator::{Fault, FaultPlan, Known, SimulatedProvider, Simulator, When};

    /// A running simulator and the runtime that drives it.
    struct Scene {
        simulator: Simulator,
        _runtime: Runtime,
    }

    impl Scene {
        fn new(faults: FaultPlan) -> Self {
            Self::world(SimulatedProvider { faults, ..SimulatedProvider::default() })
        }

        fn world(world: SimulatedProvider) -> Self {
            let runtime = Runtime::new().unwrap();
            let simulator = runtime.block_on(Simulator::start(world)).unwrap();
            Self { simulator, _runtime: runtime }
        }

        fn trouble(trouble: FaultKind) -> Self {
            let media = vec![Fault { trouble, when: When::task("odd") }];
            Self::new(FaultPlan { media, ..FaultPlan::default() })
        }

        /// Sends a request. Returns the response head in lower case, and all body bytes received before the
        /// connection closes.
        fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
            let host = self.simulator.cdn_url().authority();
            let mut stream = TcpStream::connect(host).unwrap();
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |start| start + 4);
            let body = answer.split_off(end);
            (String::from_utf8(answer).unwrap().to_lowercase(), body)
        }

        fn get(&self, path: &str) -> (String, Vec<u8>) {
            self.ask("GET", path, "")
        }
    }

    /// Returns the value of the header `name`.
    fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[test]
    fn get_sends_a_file_or_range_and_head_sends_the_same_headers() {
        let scene = Scene::new(FaultPlan::default());
        let (head, whole) = scene.get("/a.mp3");
        let length = whole.len().to_string();
        assert_eq!(value(&head, "content-length"), Some(length.as_str()));
        let (promise, nothing) = scene.ask("HEAD", "/a.mp3", "Range: bytes=5-\r\n");
        assert!(promise.starts_with("http/1.1 200") && nothing.is_empty());
        for name in ["content-length", "content-type", "etag", "last-modified", "accept-ranges"] {
            assert!(value(&head, name).is_some() && value(&head, name) == value(&promise, name), "{name}");
        }
        let etag = value(&head, "etag").unwrap();
        let (head, rest) = scene.ask("GET", "/a.mp3", &format!("Range: bytes=100-\r\nIf-Range: {etag}\r\n"));
        assert!(head.starts_with("http/1.1 206"), "{head}");
        assert_eq!(value(&head, "content-range"), Some(format!("bytes 100-{}/{length}", whole.len() - 1).as_str()));
        assert!(rest == whole[100..]);
        let (head, body) = scene.ask("GET", "/a.mp3", "Range: bytes=100-\r\nIf-Range: \"old\"\r\n");
        assert!(head.starts_with("http/1.1 200") && body == whole);
        let (head, _) = scene.ask("GET", "/a.mp3", &format!("Range: bytes={length}-\r\n"));
        assert!(head.starts_with("http/1.1 416"));
        assert_eq!(value(&head, "content-range"), Some(format!("bytes */{length}").as_str()));
        let (head, body) = scene.get("/a.txt");
        assert!(head.starts_with("http/1.1 404") && String::from_utf8(body).unwrap().contains("NoSuchKey"));
    }

    #[test]
    fn a_cdn_without_validators_ignores_ranges() {
        let scene = Scene::new(FaultPlan { validators: Some(false), ..FaultPlan::default() });
        let (head, body) = scene.ask("GET", "/a.mp3", "Range: bytes=100-\r\n");
        assert!(head.starts_with("http/1.1 200") && body.starts_with(b"ID3"));
        assert!(["etag", "last-modified", "accept-ranges"].iter().all(|name| value(&head, name).is_none()), "{head}");
    }

    #[test]
    fn each_fault_has_its_status() {
        let odd = |trouble| Scene::trouble(trouble).get("/odd.mp3");
        for (trouble, status, says) in [
            (FaultKind::Status(403), "403", "AccessDenied"),
            (FaultKind::Status(502), "502", "<html>"),
            (FaultKind::TooMany(7), "429", "<html>"),
            (FaultKind::Busy(7), "503", "<html>"),
            (FaultKind::Redirect("{cdn}/x/{file}".into()), "302", "<html>"),
            (FaultKind::Body("<html>no</html>".into()), "200", "no"),
            (FaultKind::Body(String::new()), "200", ""),
        ] {
            let (head, body) = odd(trouble.clone());
            let body = String::from_utf8(body).unwrap();
            assert!(head.starts_with(&format!("http/1.1 {status}")) && body.contains(says), "{trouble:?} {head}{body}");
            let later = matches!(trouble, FaultKind::TooMany(_) | FaultKind::Busy(_));
            assert_eq!(value(&head, "retry-after").is_some(), later);
        }
        let scene = Scene::trouble(FaultKind::Redirect("{cdn}/x/{file}".into()));
        let target = format!("{}x/odd.mp3", scene.simulator.cdn_url());
        assert_eq!(value(&scene.get("/odd.mp3").0, "location"), Some(target.as_str()));
        assert!(odd(FaultKind::Reset).0.is_empty());
    }

    #[test]
    fn each_fault_has_its_effect_on_a_file() {
        let fair = Scene::new(FaultPlan::default()).get("/odd.mp3");
        let odd = |trouble| Scene::trouble(trouble).get("/odd.mp3");
        let cut = odd(FaultKind::Truncated(30_000));
        assert!(value(&cut.0, "content-length") == value(&fair.0, "content-length") && cut.1 == fair.1[..30_000]);
        let scene = Scene::trouble(FaultKind::Truncated(10));
        assert!(scene.ask("GET", "/odd.mp3", "Range: bytes=50-\r\n").1 == fair.1[50..60]);
        for slow in [FaultKind::Stall(0.2), FaultKind::StallBody(0.2), FaultKind::Drip(200_000)] {
            let begun = Instant::now();
            assert!(odd(slow.clone()).1 == fair.1 && begun.elapsed() > Duration::from_millis(190), "{slow:?}");
        }
        let changed = odd(FaultKind::Changed);
        assert!(["etag", "last-modified"].iter().all(|name| value(&changed.0, name) != value(&fair.0, name)));
        assert!(changed.1.len() == fair.1.len() && changed.1 != fair.1);
        assert!(odd(FaultKind::Padding(1000)).1.starts_with(&fair.1));
        let scene = Scene::trouble(FaultKind::Identical);
        assert!(scene.get("/odd.mp3").1 == scene.get("/odd-too.mp3").1);
        let packed = odd(FaultKind::Packed(Encoding::Zstd));
        assert!(value(&packed.0, "content-encoding") == Some("zstd"));
        assert!(zstd::decode_all(packed.1.as_slice()).unwrap() == fair.1);
    }

    #[test]
    fn requests_are_counted() {
        let media = vec![Fault { trouble: FaultKind::Truncated(1000), when: When::first(1) }];
        let scene = Scene::new(FaultPlan { media, ..FaultPlan::default() });
        let cut = scene.ask("GET", "/a.mp3", "x-api-key: k\r\n").1.len();
        let rest = scene.ask("GET", "/a.mp3", "Range: bytes=1000-\r\nReferer: r\r\n").1.len();
        let stats = scene.simulator.stats().media;
        assert_eq!((stats.requests, stats.ranges, stats.bytes, cut), (2, 1, (cut + rest) as u64, 1000));
        assert_eq!((&stats.by_path["a.mp3"], &stats.whole["a.mp3"]), (&2, &1));
        assert_eq!((stats.most_at_once, stats.leaks), (1, vec!["x-api-key".into(), "referer".into()]));
    }

    #[test]
    fn responses_in_progress_are_counted() {
        let scene = Scene::trouble(FaultKind::StallBody(0.5));
        let both = ["/odd.mp3", "/odd.png"];
        std::thread::scope(|scope| {
            let asked = both.map(|path| scope.spawn(|| scene.get(path)));
            for answer in asked {
                answer.join().unwrap();
            }
        });
        scene.get("/odd.mp3");
        let stats = scene.simulator.stats().media;
        assert_eq!((stats.most_at_once, stats.whole.values().sum::<u32>()), (2, 3));
    }

    #[test]
    fn documents_may_refer_to_the_cdn() {
        let documents = HashMap::from([("t".into(), "\"{cdn}/x.mp3\"".into())]);
        let scene = Scene::world(SimulatedProvider { tasks: Known::Given, documents, ..SimulatedProvider::default() });
        let cdn = scene.simulator.cdn_url();
        let mut stream = TcpStream::connect(scene.simulator.base_url().authority()).unwrap();
        write!(stream, "GET /api/v1/task/t HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("\"{cdn}x.mp3\"")), "{answer}");
        assert_ne!(cdn.authority(), scene.simulator.base_url().authority());
    }
}
