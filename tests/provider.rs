//! Tests of `export`. The tests run the built program with injected API faults.

mod common;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    time::{Duration, Instant, SystemTime},
};

use common::{CommandOutput, TestEnv, ids, wait_until};
use sunor_archive::simulator::{
    Encoding, Fault, FaultFilter, FaultKind, FaultPlan, KnownTasks, SimulatedProvider, Window, WindowKind,
};
use tokio::net::TcpSocket;

/// The first two requests for each task fail with a transient error.
#[test]
fn transient_failures_are_retried_and_nothing_is_lost() {
    for fault in [
        FaultKind::Status(500),
        FaultKind::Status(502),
        FaultKind::Status(524),
        FaultKind::Status(408),
        FaultKind::Status(425),
        FaultKind::Body(String::new()),
        FaultKind::Body("<html>busy</html>".into()),
        FaultKind::Body(r#"{"code":500,"message":"Internal error"}"#.into()),
        FaultKind::Body(r#"{"code":200,"data":{"task_id":"#.into()),
        FaultKind::Truncated(40),
        FaultKind::Reset,
    ] {
        let env = TestEnv::with_fault(fault.clone(), FaultFilter::first(2));
        env.write_list(ids("t", 4));
        env.export(&["--format", "csv"]).expect_status(0);
        let summary = env.summary();
        assert_eq!((env.archived_ids().len(), &summary["requests"]["retries"]), (4, &8.into()), "{fault:?}");
    }
}

/// The provider compresses, pads or delays its responses, or closes the connection after each response.
#[test]
fn a_complete_response_is_accepted_in_any_encoding() {
    for fault in [
        FaultKind::Compressed(Encoding::Gzip),
        FaultKind::Compressed(Encoding::XGzip),
        FaultKind::Compressed(Encoding::Deflate),
        FaultKind::Compressed(Encoding::RawDeflate),
        FaultKind::Compressed(Encoding::Zstd),
        FaultKind::Compressed(Encoding::Brotli),
        FaultKind::Padding(20 << 20),
        FaultKind::StallBody(0.5),
        FaultKind::HangUp,
    ] {
        let env = TestEnv::with_fault(fault.clone(), FaultFilter::ALWAYS);
        env.write_list(["t1", "t2"]);
        env.export(&["--format", "csv"]).expect_status(0);
        assert_eq!((env.archived_ids().len(), env.stats().requests), (2, 2), "{fault:?}");
    }
}

/// The first response stalls in the middle for longer than the timeout.
#[test]
fn a_stalled_response_times_out_and_is_retried() {
    let env = TestEnv::with_fault(FaultKind::StallBody(60.0), FaultFilter::first(1));
    env.write_list(["t1"]);
    env.export(&["--timeout", "2s", "--retries", "1"]).expect_status(0);
    assert_eq!(env.stats().by_task["t1"], 2);
}

/// The provider redirects the request for one task to another server.
#[test]
fn a_redirect_is_not_followed_with_the_key() {
    let redirected = TestEnv::new();
    let env = TestEnv::with_fault(FaultKind::Redirect(redirected.base_url().to_owned()), FaultFilter::task("t1"));
    env.write_list(["t1", "t2"]);
    env.export(&[]).expect_status(3);
    assert_eq!((env.stats().by_task["t1"], redirected.stats().requests), (1, 0));
}

/// Every request for one task fails with 503.
#[test]
fn permanent_failures_are_listed_after_all_retries() {
    let env = TestEnv::with_fault(FaultKind::Status(503), FaultFilter::task("bad"));
    env.write_list(["good", "bad", "fine"]);
    env.export(&["--format", "csv", "--retries", "2"]).expect_status(3).expect_output("1 with errors");
    assert_eq!(env.stats().by_task["bad"], 3);
    assert_eq!(env.unfinished(), [("bad".to_owned(), "error".to_owned())]);
    assert_eq!(env.archived_ids(), ["fine", "good"]);
}

/// The first request for each task stalls for longer than the timeout.
#[test]
fn a_slow_request_times_out_and_is_retried() {
    let env = TestEnv::with_fault(FaultKind::Stall(30.0), FaultFilter::first(1));
    env.write_list(["t1", "t2"]);
    env.export(&["--timeout", "2s", "--retries", "1"]).expect_status(0);
    assert_eq!(env.stats().by_task["t1"], 2);
}

/// Requests for one task fail with a client error that a retry would not resolve.
#[test]
fn other_client_errors_are_not_retried() {
    for status in [400, 402, 410, 302, 307] {
        let env = TestEnv::with_fault(FaultKind::Status(status), FaultFilter::task("bad"));
        env.write_list(["good", "bad"]);
        env.export(&[]).expect_status(3);
        assert_eq!(env.stats().by_task["bad"], 1, "{status}");
        assert_eq!(env.unfinished(), [("bad".to_owned(), "error".to_owned())]);
    }
}

/// The provider rejects the key, from the start or after 50 requests.
#[test]
fn a_rejected_key_stops_the_run_and_keeps_fetched_tasks() {
    let env = TestEnv::with_faults(FaultPlan { key: Some("another".into()), ..FaultPlan::default() });
    env.write_list(ids("t", 300));
    env.export(&["--concurrency", "4"]).expect_status(4).expect_output("Invalid API key");
    assert!(env.stats().requests <= 4);
    assert_eq!(env.unfinished().len(), 300);

    let env = TestEnv::with_faults(FaultPlan { revoke_after: Some(50), ..FaultPlan::default() });
    env.write_list(ids("t", 300));
    env.export(&["--format", "csv", "--concurrency", "4"]).expect_status(4);
    let archived = env.archived_ids().len();
    assert_eq!(archived, 50);
    assert_eq!(archived + env.unfinished().len(), 300);
    assert!(env.stats().requests <= 54);
}

/// The first request for the second task gets a 429 with a `Retry-After` of three seconds.
#[test]
fn a_429_pauses_all_requests_and_does_not_count_as_a_retry() {
    let env = TestEnv::with_fault(
        FaultKind::RateLimited(3),
        FaultFilter { task: Some("t2".into()), ..FaultFilter::first(1) },
    );
    env.write_list(ids("t", 30));
    let run =
        env.export(&["--retries", "0", "--format", "csv", "--rate", "20/s", "--progress", "json"]).expect_status(0);
    assert_eq!(env.archived_ids().len(), 30);
    let requests = &env.summary()["requests"];
    assert_eq!((&requests["rate_limited"], &requests["retries"]), (&1.into(), &1.into()));
    // No request is sent during the three seconds after the 429.
    let events: Vec<serde_json::Value> =
        run.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let refused = events.iter().position(|event| event["event"] == "rate_limited").unwrap_or(0);
    let silence = events.iter().skip(refused).take_while(|event| event["event"] != "requested");
    assert!(silence.filter(|event| event["event"] == "progress").count() >= 2);
}

/// The provider has only one of the four tasks.
#[test]
fn a_missing_task_is_archived_as_not_found_and_not_refetched() {
    let known = r#"{"code":200,"data":{"task_id":"known","type":"lyrics","status":"success"}}"#;
    let given = HashMap::from([("known".to_owned(), known.to_owned())]);
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents: given,
        ..SimulatedProvider::default()
    });
    env.write_list(["lost1", "lost2", "known", "lost3"]);
    env.export(&["--format", "csv"])
        .expect_status(0)
        .expect_output("3 not found")
        .expect_output("More than half of the tasks were not found");
    let rows = env.rows("tasks");
    let lost =
        rows.iter().find(|row| row["task_id"] == "lost1").map(|row| (row["status"].as_str(), row["error"].as_str()));
    assert_eq!(lost, Some(("not_found", "Task not found")));
    env.export(&[]).expect_status(0);
    assert_eq!(env.stats().requests, 4);
}

/// The key belongs to another account, which has none of the tasks.
#[test]
fn a_run_in_which_every_task_is_missing_records_no_task_as_not_found() {
    let env =
        TestEnv::with_provider(SimulatedProvider { tasks: KnownTasks::Documents, ..SimulatedProvider::default() });
    env.write_list(ids("t", 30));
    env.export(&[]).expect_status(3).expect_output("different account?").expect_output("30 with errors");
    assert!(!env.archive().join("tasks").exists());
    assert_eq!(env.unfinished().len(), 30);
}

/// The response to the request for one task contains a different task.
#[test]
fn an_unreadable_body_is_stored_and_listed_but_not_archived() {
    let env =
        TestEnv::with_fault(FaultKind::Body(r#"{"code":200,"data":{"task_id":"x"}}"#.into()), FaultFilter::task("odd"));
    env.write_list(["odd", "fine"]);
    env.export(&["--format", "csv"]).expect_status(3).expect_output("1 unreadable");
    assert_eq!(env.unfinished(), [("odd".to_owned(), "unreadable".to_owned())]);
    let raw = common::files(&env.archive().join("runs"), "-raw.jsonl").pop().map(std::fs::read_to_string);
    assert!(raw.is_some_and(|raw| raw.is_ok_and(|raw| raw.contains(r#""task_id":"odd","reason":"unreadable""#))));
    assert_eq!(env.archived_ids(), ["fine"]);
}

/// The provider returns invalid JSON for three tasks, either once or permanently. It returns a truncated body for a
/// fourth task, and HTML for a fifth.
#[test]
fn malformed_json_is_kept_and_reported_after_its_retries() {
    let body = |task: &str, body: &str, first| Fault {
        kind: FaultKind::Body(body.into()),
        filter: FaultFilter { task: Some(task.into()), first, ..FaultFilter::ALWAYS },
    };
    let nan = r#"{"code":200,"data":{"task_id":"nan","status":"success","x":NaN}}"#;
    let raw_tab = "{\"data\":{\"task_id\":\"tab\",\"status\":\"success\",\"x\":\"a\tb\"}}";
    let cut = r#"{"code":200,"data":{"task_id":"cut","#;
    let faults = vec![
        body("nan", nan, None),
        body("tab", raw_tab, None),
        body("once", "{\"x\":NaN}", Some(1)),
        body("cut", cut, None),
        body("html", "<html>", None),
    ];
    let env = TestEnv::with_faults(FaultPlan { faults, ..FaultPlan::default() });
    env.write_list(["nan", "tab", "once", "cut", "html"]);
    env.export(&["--format", "csv", "--retries", "1"]).expect_status(3).expect_output("2 unreadable, 2 with errors");
    let mut unfinished = env.unfinished();
    unfinished.sort();
    let expected = [("cut", "error"), ("html", "error"), ("nan", "unreadable"), ("tab", "unreadable")];
    assert_eq!(unfinished, expected.map(|(task, reason)| (task.to_owned(), reason.to_owned())));
    let raw = common::files(&env.archive().join("runs"), "-raw.jsonl").pop().unwrap();
    let raw = std::fs::read_to_string(raw).unwrap();
    let mut kept: Vec<serde_json::Value> = raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    kept.sort_by_key(|line| line["task_id"].to_string());
    assert_eq!(kept.len(), 2);
    assert_eq!((&kept[0]["body"], &kept[1]["body"]), (&nan.into(), &raw_tab.into()));
    assert_eq!(env.archived_ids(), ["once"]);
    assert_eq!(env.stats().requests, 10);
    env.run(&["verify", "library"]).expect_status(0);
    let run = env.summary()["run_id"].as_str().unwrap().to_owned();
    env.run(&["summary", "library", "--run", &run]).expect_status(0).expect_output("Archived 1 of 5 tasks in ");
}

/// Tasks that are archived as `not_found` are requested again, and the provider still does not have them.
#[test]
fn repeated_not_found_responses_do_not_blame_the_key() {
    let missing = |task: &str| Fault {
        kind: FaultKind::Body(r#"{"code":404,"message":"Task not found"}"#.into()),
        filter: FaultFilter::task(task),
    };
    let deleted = ids("gone", 25);
    let faults = deleted.iter().map(|task| missing(task)).collect();
    let env = TestEnv::with_faults(FaultPlan { faults, ..FaultPlan::default() });
    env.write_list(ids("here", 30).into_iter().chain(deleted));
    env.export(&["--format", "csv"]).expect_status(0);
    let not_found = || env.rows("tasks").iter().filter(|row| row["status"] == "not_found").count();
    let before = not_found();
    let again = env
        .export(&["--retry-not-found", "-v"])
        .expect_status(0)
        .expect_output(&format!("still not found: {before} tasks"));
    assert!(!format!("{}{}", again.stdout, again.stderr).contains("account"), "{}\n{}", again.stdout, again.stderr);
    assert!(before >= 25 && not_found() == before, "{before}");
}

/// No server listens on the provider's address. The test binds the port, so no other process can use it.
#[test]
fn an_unreachable_provider_stops_the_run_with_an_explanation() {
    let env = TestEnv::new();
    env.write_list(ids("t", 1000));
    let archive = TcpSocket::new_v4().unwrap();
    archive.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let base_url = format!("http://{}", archive.local_addr().unwrap());
    let run = env.export(&["--base-url", &base_url, "--retries", "1"]).expect_status(1);
    run.expect_output("cannot be reached").expect_output("check the network");
    assert_eq!(env.unfinished().len(), 1000);
    assert_eq!(env.stats().requests, 0);
}

/// Every request fails with 502, except requests for the first task.
#[test]
fn a_provider_outage_trips_the_circuit_breaker() {
    let good = "t1".to_owned();
    let document = r#"{"code":200,"data":{"task_id":"t1","type":"lyrics","status":"success"}}"#.to_owned();
    let fault = |n: usize| Fault { kind: FaultKind::Status(502), filter: FaultFilter::task(&format!("t{n}")) };
    let faults = FaultPlan { faults: (2..=2000).map(fault).collect(), ..FaultPlan::default() };
    let env = TestEnv::with_provider(SimulatedProvider {
        documents: HashMap::from([(good, document)]),
        faults,
        ..SimulatedProvider::default()
    });
    env.write_list(ids("t", 2000));
    // With a fixed rate, the speed of the machine does not affect how many tasks are in flight at the first failure.
    env.export(&["--retries", "1", "--format", "csv", "--rate", "500/s"])
        .expect_status(1)
        .expect_output("100 tasks in a row failed")
        .expect_output("HTTP 502");
    assert_eq!((env.archived_ids(), env.unfinished().len()), (vec!["t1".to_owned()], 1999));
    assert!(env.stats().requests < 1000, "{}", env.stats().requests);
}

/// The provider becomes unreachable after 30 requests.
#[test]
fn a_lost_network_is_an_error() {
    let mut env = TestEnv::new();
    env.write_list(ids("t", 60));
    let run = env.export_command(&["--format", "csv", "--rate", "40/s", "--retries", "1"]).spawn().unwrap();
    wait_until(|| env.stats().requests >= 30);
    env.stop_simulator();
    CommandOutput::wait_for(run).expect_status(1).expect_output("cannot be reached");
    assert!(env.archived_ids().len() >= 28);
    assert_eq!(env.archived_ids().len() + env.unfinished().len(), 60);
}

/// The provider responds to every request with 429.
#[test]
fn permanent_429s_stop_the_run_and_every_task_is_listed() {
    let env = TestEnv::with_fault(FaultKind::RateLimited(1), FaultFilter::ALWAYS);
    env.write_list(ids("t", 40));
    env.export(&[]).expect_status(1).expect_output("rate limited 100 requests in a row (HTTP 429)");
    assert_eq!(env.unfinished().len(), 40);
}

/// Every request for the last 100 tasks in the list fails.
#[test]
fn failures_at_the_end_of_the_list_do_not_trip_the_circuit_breaker() {
    let fault = |n: usize| Fault { kind: FaultKind::Status(502), filter: FaultFilter::task(&format!("t{n}")) };
    let env = TestEnv::with_faults(FaultPlan { faults: (11..=110).map(fault).collect(), ..FaultPlan::default() });
    env.write_list(ids("t", 110));
    env.export(&["--retries", "0"]).expect_status(3).expect_output("100 with errors");
}

/// The provider allows 60 requests per 3 seconds. During the export, another client with the same key sends ten
/// requests per second.
#[test]
fn reserved_requests_are_left_to_other_users_of_the_key() {
    let window = Window { limit: 60, seconds: 3.0, kind: WindowKind::Fixed };
    let env = TestEnv::with_faults(FaultPlan { window: Some(window), ..FaultPlan::default() });
    env.write_list(ids("t", 60));
    let mut run = env
        .export_command(&["--rate", "unlimited", "--reserve", "35", "--concurrency", "2", "--format", "csv"])
        .spawn()
        .unwrap();
    while run.try_wait().unwrap().is_none() {
        env.send_request("/api/v1/account/balance");
        std::thread::sleep(Duration::from_millis(100));
    }
    CommandOutput::wait_for(run).expect_status(0);
    assert_eq!((env.archived_ids().len(), env.stats().rate_limited), (60, 0));
}

/// For about 30 % of the tasks, the first request fails with 502.
#[test]
fn failing_tasks_do_not_affect_the_others() {
    let fault =
        Fault { kind: FaultKind::Status(502), filter: FaultFilter { share: Some(0.3), ..FaultFilter::first(1) } };
    let env = TestEnv::with_faults(FaultPlan { faults: vec![fault], ..FaultPlan::default() });
    env.write_list(ids("t", 200));
    env.export(&["--format", "csv"]).expect_status(0);
    let retries = env.summary()["requests"]["retries"].as_u64();
    assert!(retries.is_some_and(|retries| (30..=90).contains(&retries)), "{retries:?}");
    assert_eq!((env.archived_ids().len(), env.stats().repeated), (200, 0));
}

/// A provider whose clock is an hour behind sends a date in `Retry-After`.
#[test]
fn a_date_in_retry_after_uses_the_provider_clock() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let requested = std::thread::spawn(move || {
        let date = |seconds: u64| {
            let slow_clock = SystemTime::now() - Duration::from_secs(3600);
            httpdate::fmt_http_date(slow_clock + Duration::from_secs(seconds))
        };
        let document = r#"{"code":200,"data":{"task_id":"t1","status":"success"}}"#;
        let limited = format!("429 Busy\r\nDate: {}\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n", date(0), date(2));
        let found = format!("200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len());
        [limited, found].map(|response| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let at = Instant::now();
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            write!(stream.get_mut(), "HTTP/1.1 {}", response.replacen("\r\n", "\r\nConnection: close\r\n", 1)).unwrap();
            at
        })
    });
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.export(&["--base-url", &base_url]).expect_status(0).expect_output("1 rate limited (HTTP 429)");
    let [first, second] = requested.join().unwrap();
    assert!(second - first >= Duration::from_secs(2), "{:?}", second - first);
}

/// Starts a provider that responds to the first request with a 429 that has the given headers and body, and to later
/// requests with the task. Returns the base URL and a channel that receives the times of the requests.
#[expect(clippy::unwrap_used, reason = "a test")]
fn server_refusing_once(
    headers: &'static str,
    body: &'static str,
) -> (String, std::sync::mpsc::Receiver<std::time::Instant>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let (report, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") && stream.read_line(&mut request).is_ok_and(|read| read > 0) {}
            let _ = report.send(std::time::Instant::now());
            let id = request.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
            let task = format!(r#"{{"code":200,"data":{{"task_id":"{id}","status":"success"}}}}"#);
            let (status, headers, body) = if n == 0 { ("429", headers, body) } else { ("200 OK", "", task.as_str()) };
            let length = body.len();
            let response =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.get_mut().write_all(response.as_bytes());
        }
    });
    (base_url, requests)
}

/// Either the rate-limit headers state a much longer delay than `Retry-After`, or only the body states the delay.
#[test]
fn retry_after_overrides_the_rate_limit_window() {
    let window = "X-RateLimit-Limit: 120\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 55\r\n";
    let named: &'static str = Box::leak(format!("Retry-After: 2\r\n{window}").into_boxed_str());
    let in_body = r#"{"code":429,"message":"rate limit exceeded, retry in 2 seconds"}"#;
    for (headers, body) in [(named, "{}"), ("", in_body)] {
        let (base_url, requests) = server_refusing_once(headers, body);
        let env = TestEnv::new();
        env.write_list(["t1", "t2"]);
        env.export(&["--base-url", &base_url, "--concurrency", "1"])
            .expect_status(0)
            .expect_output("1 rate limited (HTTP 429)");
        let times: Vec<std::time::Instant> = requests.try_iter().collect();
        let waited = times[1] - times[0];
        assert!(waited >= std::time::Duration::from_secs(2), "{waited:?}");
        assert!(waited < std::time::Duration::from_secs(30), "the run waited too long: {waited:?}");
        assert_eq!(times.len(), 3);
    }
}
