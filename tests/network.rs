//! Tests of TLS and proxies: system root certificates, `SSL_CERT_FILE`, `HTTPS_PROXY` and `NO_PROXY`. The tests create
//! their own certificate authority and proxy.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use common::{CommandOutput, TestEnv};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A simulated HTTPS provider that has every task, and the certificate of its certificate authority.
struct HttpsServer {
    base_url: String,
    authority: String,
    requests: Arc<AtomicU32>,
}

fn https_server() -> HttpsServer {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        ServerConfig::builder_with_provider(ring::default_provider().into()).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (config, requests) = (Arc::new(config), Arc::new(AtomicU32::new(0)));
    let request_count = requests.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let request_count = request_count.clone();
            thread::spawn(move || serve(tls, &request_count));
        }
    });
    HttpsServer { base_url, authority: authority.pem(), requests }
}

/// Serves a connection. The response to each request is a successful task with the requested ID.
fn serve(stream: impl Read + Write, requests: &AtomicU32) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut first = String::new();
        let mut line = String::new();
        while stream.read_line(&mut line)? > 2 {
            if first.is_empty() {
                first.clone_from(&line);
            }
            line.clear();
        }
        let Some(id) = first.split(['/', ' ']).nth_back(2) else { return Ok(()) };
        requests.fetch_add(1, Ordering::SeqCst);
        let body = format!(r#"{{"code":200,"data":{{"task_id":"{id}","status":"success"}}}}"#);
        write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        stream.get_mut().flush()?;
    }
}

/// Starts a proxy that tunnels connections. Returns its address and the number of connections.
fn proxy() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = Arc::new(AtomicU32::new(0));
    let request_count = tunnels.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            request_count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || tunnel(&client));
        }
    });
    (address, tunnels)
}

fn tunnel(client: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut request, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        request.push_str(&std::mem::take(&mut line));
    }
    let target = request.split(' ').nth(1).unwrap_or_default().replace("localhost", "127.0.0.1");
    let server = TcpStream::connect(target)?;
    let (mut to_client, mut from_server) = (client.try_clone()?, server.try_clone()?);
    to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    thread::spawn(move || io::copy(&mut from_server, &mut to_client));
    io::copy(&mut reader, &mut &server).map(drop)
}

/// The provider's certificate was issued by an unknown authority.
#[test]
fn an_untrusted_certificate_stops_the_run_at_once_with_advice() {
    let (env, server) = (TestEnv::new(), https_server());
    env.write_list(["t1", "t2"]);
    let run = env.export(&["--base-url", &server.base_url]).expect_status(1);
    run.expect_output("certificate").expect_output("SSL_CERT_FILE");
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
}

/// `SSL_CERT_FILE` is set to a file that contains the certificate of the provider's certificate authority.
#[test]
fn an_authority_in_ssl_cert_file_is_trusted() {
    let (env, server) = (TestEnv::new(), https_server());
    let authority = env.write_file("authority.pem", server.authority.as_bytes());
    env.write_list(["t1", "t2"]);
    let mut export = env.export_command(&["--base-url", &server.base_url]);
    CommandOutput::wait_for(export.env("SSL_CERT_FILE", authority).spawn().unwrap()).expect_status(0);
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
}

/// Connections use the proxy unless `NO_PROXY` lists the host.
#[test]
fn https_proxy_is_used_unless_no_proxy_lists_the_host() {
    for (no_proxy, through) in [("", true), ("localhost", false)] {
        let (env, server, (address, tunnels)) = (TestEnv::new(), https_server(), proxy());
        let authority = env.write_file("authority.pem", server.authority.as_bytes());
        env.write_list(["t1", "t2"]);
        let mut export = env.export_command(&["--base-url", &server.base_url]);
        export.env("SSL_CERT_FILE", authority).env("HTTPS_PROXY", address).env("NO_PROXY", no_proxy);
        CommandOutput::wait_for(export.spawn().unwrap()).expect_status(0);
        assert_eq!((tunnels.load(Ordering::SeqCst) > 0, server.requests.load(Ordering::SeqCst)), (through, 2));
    }
}

/// The provider's host name cannot be resolved.
#[test]
fn an_unresolvable_host_name_is_reported() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.export(&["--base-url", "http://unknown.invalid", "--retries", "0"])
        .expect_status(1)
        .expect_output("unknown.invalid cannot be reached");
}

/// Starts a proxy that responds to requests itself. Returns its address and the number of requests.
fn answering_proxy() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requested = Arc::new(AtomicU32::new(0));
    let request_count = requested.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &request_count);
        }
    });
    (address, requested)
}

#[test]
fn plain_http_needs_no_certificates_and_the_simulator_ignores_proxies() {
    let env = TestEnv::new();
    env.write_list(["t1", "t2"]);
    for arguments in [vec!["--simulate"], vec![]] {
        let mut export = env.export_command(&[&["--assets", "audio"], arguments.as_slice()].concat());
        export.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        if !arguments.is_empty() {
            export.env("http_proxy", "http://127.0.0.1:9").env("ALL_PROXY", "nonsense://");
        }
        CommandOutput::wait_for(export.spawn().unwrap()).expect_status(0);
    }
}

#[test]
fn an_invalid_proxy_variable_is_rejected_before_any_request() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    for value in ["http://p:1 ", "http://p:1\r", "'http://p:1'", "htp://p:1", "http://u:hush@p:port"] {
        for name in ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            let mut export = env.export_command(&[]);
            let refused =
                CommandOutput::wait_for(export.env(name, value).spawn().unwrap()).expect_status(2).expect_output(name);
            assert!(!refused.stderr.contains("hush"), "{}", refused.stderr);
        }
    }
    assert_eq!(env.stats().requests, 0);
    assert!(!env.archive().exists());
}

#[test]
fn a_proxy_is_used_for_plain_http_unless_no_proxy_matches() {
    for (no_proxy, through) in
        [("", true), ("*", false), ("127.0.0.1", false), ("foo 127.0.0.1 bar", false), ("127.0.0.0/8", false)]
    {
        let (env, (address, requested)) = (TestEnv::new(), answering_proxy());
        env.write_list(["t1"]);
        let mut export = env.export_command(&[]);
        CommandOutput::wait_for(export.env("http_proxy", address).env("NO_PROXY", no_proxy).spawn().unwrap())
            .expect_status(0);
        assert_eq!((requested.load(Ordering::SeqCst), env.stats().requests), if through { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_socks_proxy_is_supported() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let greeting = thread::spawn(move || {
        let mut greeting = [0; 1];
        listener.accept().unwrap().0.read_exact(&mut greeting).unwrap();
        greeting
    });
    let mut export = env.export_command(&["--retries", "0", "--timeout", "2s"]);
    CommandOutput::wait_for(export.env("ALL_PROXY", format!("socks5h://{address}")).spawn().unwrap()).expect_status(1);
    assert_eq!(greeting.join().unwrap(), [5], "the greeting must be SOCKS version 5");
    assert_eq!(env.stats().requests, 0);
}
