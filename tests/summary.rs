//! Tests of `summary`: archive contents, recent runs and account coverage.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use common::{API_KEY, CommandOutput, TestEnv, ids, wait_until};
use serde_json::{Value, json};
use sunor_archive::simulator::{FaultFilter, FaultKind, FaultPlan};

fn summary(env: &TestEnv, arguments: &[&str]) -> Value {
    let printed = env.run(&[&["summary", "library", "--json"], arguments].concat()).expect_status(0).stdout;
    serde_json::from_str(&printed).unwrap()
}

/// Starts a provider that sends the same response to every request and counts the requests.
fn serve_response(status: &str, body: &str) -> (String, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let length = body.len();
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let requested = thread::spawn(move || {
        let mut requests = 0;
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            if !request.starts_with("GET /api/v1/account/usage ") {
                return requests;
            }
            requests += 1;
            stream.write_all(response.as_bytes()).unwrap();
        }
        requests
    });
    (base_url, requested)
}

/// Stops a provider that [`serve_response`] started, and returns the number of requests that it received.
fn stop_and_count(base_url: &str, provider: thread::JoinHandle<usize>) -> usize {
    std::net::TcpStream::connect(base_url.trim_start_matches("http://")).unwrap().write_all(b"bye").unwrap();
    provider.join().unwrap()
}

/// The archive contains two runs. The test covers both table formats.
#[test]
fn summary_counts_table_contents_and_keeps_its_json_keys() {
    let mut summaries = Vec::new();
    for format in ["csv", "parquet"] {
        let env = TestEnv::new();
        for prefix in ["a", "b"] {
            env.write_list(ids(prefix, 30));
            env.export(&["--format", format, "--assets", "image"]).expect_status(0);
        }
        let archive = summary(&env, &[]);
        let mut expected: BTreeSet<String> = env.summary().as_object().unwrap().keys().cloned().collect();
        expected.extend(["runs", "archive"].map(String::from));
        assert_eq!(archive.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), expected);
        assert_eq!((&archive["runs"], &archive["rows"]["tasks"]), (&json!(2), &json!(60)));
        assert!(archive["assets"]["ok"].as_u64() > Some(0));
        let last = &archive["archive"]["last_runs"][0];
        assert_eq!((&last["run_id"], &last["tasks"], &last["requests"]), (&archive["run_id"], &json!(30), &json!(30)));
        let mut contents = archive["archive"].clone();
        contents["last_runs"] = Value::Null;
        summaries.push((contents, archive["credits_cost"].clone()));
        if format == "csv" {
            check_totals(&env, &archive);
        }
        let text = env.run(&["summary", "library"]).expect_status(0);
        text.expect_output("60 tasks")
            .expect_output("suno")
            .expect_output("hours")
            .expect_output("USD)")
            .expect_output("none")
            .expect_output("ago: complete (exit status 0)")
            .expect_output("archived   requests");
    }
    assert_eq!(summaries[0], summaries[1]);
}

/// Asserts that the totals in a summary equal the totals computed from the rows.
fn check_totals(env: &TestEnv, archive: &Value) {
    let (tasks, clips, contents) = (env.rows("tasks"), env.rows("clips"), &archive["archive"]);
    for model in ["suno", "udio"] {
        let count = tasks.iter().filter(|row| row["model"] == model).count();
        assert_eq!(contents["by_model"][model], count);
    }
    let seconds: f64 = clips.iter().filter_map(|row| row["duration_seconds"].parse::<f64>().ok()).sum();
    assert!((contents["audio_seconds"].as_f64().unwrap() - seconds).abs() < 1e-6 && seconds > 0.0);
    let created: BTreeSet<&str> =
        tasks.iter().map(|row| row["created_at"].as_str()).filter(|time| !time.is_empty()).collect();
    assert_eq!(contents["created_from"].as_str(), created.first().copied());
    assert_eq!(contents["created_to"].as_str(), created.last().copied());
    let usd = archive["credits_cost"].as_f64().unwrap() / 100.0;
    assert_eq!(contents["usd"].as_f64(), Some(usd));
}

/// Some tasks are unfinished in every run.
#[test]
fn summary_shows_what_is_missing_and_the_ten_latest_runs() {
    let faults = FaultPlan { unfinished: Some(0.3), unfinished_seconds: Some(3600.0), ..FaultPlan::default() };
    let env = TestEnv::with_faults(faults);
    env.write_list(ids("t", 10));
    for _ in 0..12 {
        env.export(&["--wait", "0s"]).expect_status(3);
    }
    let archive = summary(&env, &[]);
    assert_eq!(archive["runs"], 12);
    let runs = archive["archive"]["last_runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["run_id"]), (10, &archive["run_id"]));
    assert!(runs.windows(2).all(|pair| pair[0]["started_at"].as_str() > pair[1]["started_at"].as_str()));
    let missing = archive["tasks"]["unfinished"].as_u64().unwrap();
    let text = env.run(&["summary", "library"]).expect_status(0);
    let lines = text.stdout.lines().filter(|line| line.starts_with("  20")).count();
    assert_eq!(lines, 10, "{}", text.stdout);
    text.expect_output(&format!("{missing} tasks, listed in runs/*-unfinished.csv"))
        .expect_output("incomplete (exit status 3)");
}

/// The request for the only task stalls, and the first run is therefore still in progress.
#[test]
fn summary_reports_an_empty_archive_during_the_first_run() {
    let env = TestEnv::with_fault(FaultKind::Stall(60.0), FaultFilter::ALWAYS);
    env.write_list(["t1"]);
    let mut run = env.export_command(&[]).spawn().unwrap();
    wait_until(|| env.stats().requests == 1);
    let archive = summary(&env, &[]);
    assert_eq!((&archive["runs"], &archive["run_id"], &archive["rows"]["tasks"]), (&json!(0), &json!(""), &json!(0)));
    let nothing = json!({"by_model": {}, "usd": 0.0, "audio_seconds": 0.0, "created_from": null, "created_to": null, "last_runs": []});
    assert_eq!(archive["archive"], nothing);
    env.run(&["summary", "library"]).expect_status(0).expect_output("A run is in progress");
    run.kill().unwrap();
    run.wait().unwrap();
}

/// The provider reports that the account has created 42 tasks.
#[test]
fn account_coverage_requires_one_request() {
    let env = TestEnv::new();
    env.write_list(ids("t", 40));
    env.export(&["--format", "csv"]).expect_status(0);
    let before = env.stats().requests;
    let archive = summary(&env, &["--account"]);
    assert_eq!(env.stats().requests, before + 1);
    let found = env.rows("tasks").iter().filter(|row| row["status"] != "not_found").count();
    assert!(found < 40, "every task was found");
    let coverage = (10_000.0 * found as f64 / 42.0).floor() / 100.0;
    let account = json!({
        "tasks_created": 42, "credits_used": 350.0, "credits_topped_up": 1000.0, "archived": found, "coverage": coverage,
    });
    assert_eq!(archive["account"], account);
    let text = env.run(&["summary", "library", "--account"]).expect_status(0);
    text.expect_output(&format!("{found} of 42 created tasks archived ({coverage} %)"))
        .expect_output("350 credits used");
    assert_eq!(summary(&env, &[])["account"], Value::Null);
}

/// The provider rejects the key, is unreachable, or returns an invalid response.
#[test]
fn a_failed_account_request_is_explained_and_never_shows_the_key() {
    let mut env = TestEnv::with_faults(FaultPlan { key: Some(API_KEY.into()), ..FaultPlan::default() });
    env.write_list(["t1"]);
    env.export(&[]).expect_status(0);
    let account = ["summary", "library", "--account"];
    let assert_key_hidden = |finished: CommandOutput| {
        assert!(!finished.stdout.contains(API_KEY) && !finished.stderr.contains(API_KEY));
        assert_eq!(finished.stdout, "");
        finished
    };
    let spawned = |command: &mut std::process::Command| CommandOutput::wait_for(command.args(account).spawn().unwrap());

    spawned(env.program().env_remove("SUNOR_API_KEY")).expect_status(2).expect_output("no API key");
    env.write_file("key", b" another-key\n");
    let wrong = env.run(&[&account[..], &["--api-key-file", "key"]].concat()).expect_status(4);
    assert!(
        !assert_key_hidden(wrong.expect_output("refused the API key (HTTP 401: Invalid API key)"))
            .stderr
            .contains("another-key")
    );
    env.run(&["summary", "library", "--api-key-file", "key"]).expect_status(2).expect_output("--account");
    env.run(&["summary", "library", "--account", "--run", "x"]).expect_status(2).expect_output("--run");
    env.run(&["summary", "elsewhere", "--account"]).expect_status(2).expect_output("is not an archive");

    for (status, body, text) in [
        ("429 Too Many Requests", r#"{"message":"Try again in 30 seconds."}"#, "retry in 30s"),
        ("502 Bad Gateway", "<html>", "HTTP 502"),
        ("404 Not Found", "", "not found; check --base-url"),
        ("301 Moved\r\nLocation: http://127.0.0.1:1/", "", "HTTP 301"),
        ("200 OK", "<html>", "HTML instead of JSON"),
        ("200 OK", "[]", "contains no usage data"),
    ] {
        let (base_url, provider) = serve_response(status, body);
        assert_key_hidden(spawned(env.program().env("SUNOR_BASE_URL", &base_url)).expect_status(1).expect_output(text));
        assert_eq!(stop_and_count(&base_url, provider), 1, "{status}");
    }
    let echo = format!(r#"{{"code":403,"message":"bad key {API_KEY}"}}"#);
    let (base_url, provider) = serve_response("200 OK", &echo);
    assert_key_hidden(
        env.run(&[&account[..], &["--base-url", &base_url]].concat()).expect_status(4).expect_output("bad key [key]"),
    );
    assert_eq!(stop_and_count(&base_url, provider), 1);

    env.stop_simulator();
    assert_key_hidden(env.run(&account).expect_status(1).expect_output("check the network"));
    env.run(&["summary", "library"]).expect_status(0);
}

/// Fields in the usage response have unexpected types or are missing.
#[test]
fn the_usage_response_is_parsed_leniently() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.export(&[]).expect_status(0);
    for (body, created, coverage, text) in [
        (
            r#"{"data":{"tasks_created":"4","credits_used":null}}"#,
            json!(4),
            json!(25.0),
            "1 of 4 created tasks archived (25 %)",
        ),
        (r#"{"tasks_created":1}"#, json!(1), json!(100.0), "1 of 1 created task archived (100 %)"),
        (r#"{"data":{"tasks_created":0}}"#, json!(0), Value::Null, "no tasks created; 1 task archived"),
        (r#"{"data":{"tasks_created":{}}}"#, Value::Null, Value::Null, "does not report the number of created tasks"),
    ] {
        let (base_url, provider) = serve_response("200 OK", body);
        let account = summary(&env, &["--account", "--base-url", &base_url])["account"].clone();
        assert_eq!((&account["tasks_created"], &account["coverage"]), (&created, &coverage), "{body}");
        env.run(&["summary", "library", "--account", "--base-url", &base_url]).expect_status(0).expect_output(text);
        assert_eq!(stop_and_count(&base_url, provider), 2);
    }
    assert!(!fs::read_to_string(env.archive().join("archive.json")).unwrap().contains(API_KEY));
}

/// The test runs every command that changes an archive.
#[test]
fn every_writing_command_leaves_a_record_and_only_archiving_commands_count_as_runs() {
    let env = TestEnv::new();
    for night in [6, 12] {
        env.write_list(ids("t", night));
        env.export(&["--assets", "audio"]).expect_status(0);
    }
    let last_export = summary(&env, &[])["run_id"].clone();
    for verb in ["compact", "rebuild"] {
        env.run(&[verb, "library"]).expect_status(0);
    }
    let archive = summary(&env, &[]);
    assert_eq!((&archive["runs"], &archive["run_id"]), (&json!(2), &last_export));
    let runs = archive["archive"]["last_runs"].as_array().unwrap().clone();
    let commands: Vec<&str> = runs.iter().map(|run| run["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["rebuild", "compact", "export", "export"]);
    assert!(runs.iter().all(|run| run["exit_code"] == 0 && run["run_seconds"].as_f64().is_some()));

    let song = common::walk(&env.archive().join("media")).pop().unwrap();
    std::fs::remove_file(song).unwrap();
    let repaired = env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(0);
    repaired
        .expect_output("1 media file")
        .expect_output(".sunor/damaged")
        .expect_output("repaired  1 task")
        .expect_output("downloads 1 file");
    let archive = summary(&env, &[]);
    assert_eq!((&archive["runs"], &archive["command"]), (&json!(3), &json!("repair")));
    env.run(&["summary", "library"])
        .expect_status(0)
        .expect_output("repair complete")
        .expect_output("compact")
        .expect_output("rebuild");
    env.run(&["verify", "library"]).expect_status(0);
    // A compaction that merges no parts writes no run summary.
    env.run(&["compact", "library"]).expect_status(0);
    env.run(&["compact", "library"]).expect_status(0).expect_output("Nothing to compact");
}

/// The archive contains no covers and no videos.
#[test]
fn missing_kinds_are_reported() {
    let env = TestEnv::new();
    env.write_list(ids("t", 12));
    env.export(&["--assets", "audio"]).expect_status(0);
    let lacking = summary(&env, &[])["archive"]["lacking_assets"].clone();
    let clips = env.rows("clips").len();
    assert_eq!(lacking, json!({ "image": clips, "video": clips }));
    env.run(&["summary", "library"])
        .expect_status(0)
        .expect_output(&format!("image of {clips} clips, video of {clips} clips"));
    env.export(&["--assets", "all"]).expect_status(0);
    assert_eq!(summary(&env, &[])["archive"]["lacking_assets"], Value::Null);
}
