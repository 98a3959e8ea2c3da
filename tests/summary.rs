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

use common::{Finished, KEY, Scene, ids, wait_until};
use serde_json::{Value, json};
use sunor_archive::simulator::{FaultFilter, FaultKind, FaultPlan};

fn summary(scene: &Scene, arguments: &[&str]) -> Value {
    let printed = scene.run(&[&["summary", "library", "--json"], arguments].concat()).expect(0).stdout;
    serde_json::from_str(&printed).unwrap()
}

/// Starts a provider that sends the same response to every request and counts the requests.
fn answering(status: &str, body: &str) -> (String, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let asked = thread::spawn(move || {
        let mut requests = 0;
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            if !request.starts_with("GET /api/v1/account/usage ") {
                return requests;
            }
            requests += 1;
            stream.write_all(answer.as_bytes()).unwrap();
        }
        requests
    });
    (base_url, asked)
}

/// Stops a provider that [`answering`] started, and returns the number of its requests.
fn asked(base_url: &str, provider: thread::JoinHandle<usize>) -> usize {
    std::net::TcpStream::connect(base_url.trim_start_matches("http://")).unwrap().write_all(b"bye").unwrap();
    provider.join().unwrap()
}

/// The archive has two runs, in either table format.
#[test]
fn summary_counts_table_contents_and_keeps_its_json_keys() {
    let mut summaries = Vec::new();
    for format in ["csv", "parquet"] {
        let scene = Scene::fair();
        for prefix in ["a", "b"] {
            scene.list(ids(prefix, 30));
            scene.export(&["--format", format, "--assets", "image"]).expect(0);
        }
        let archive = summary(&scene, &[]);
        let mut expected: BTreeSet<String> = scene.summary().as_object().unwrap().keys().cloned().collect();
        expected.extend(["runs", "archive"].map(String::from));
        assert_eq!(archive.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), expected);
        assert_eq!((&archive["runs"], &archive["rows"]["tasks"]), (&json!(2), &json!(60)));
        assert!(archive["assets"]["ok"].as_u64() > Some(0));
        let last = &archive["archive"]["last_runs"][0];
        assert_eq!((&last["run_id"], &last["tasks"], &last["requests"]), (&archive["run_id"], &json!(30), &json!(30)));
        let mut held = archive["archive"].clone();
        held["last_runs"] = Value::Null;
        summaries.push((held, archive["credits_cost"].clone()));
        if format == "csv" {
            judged(&scene, &archive);
        }
        let words = scene.run(&["summary", "library"]).expect(0);
        words
            .says("60 tasks")
            .says("suno")
            .says("hours")
            .says("USD)")
            .says("none")
            .says("ago: complete (exit status 0)")
            .says("archived   requests");
    }
    assert_eq!(summaries[0], summaries[1]);
}

/// Compares the totals in a summary with totals computed from the rows.
fn judged(scene: &Scene, archive: &Value) {
    let (tasks, clips, held) = (scene.rows("tasks"), scene.rows("clips"), &archive["archive"]);
    for model in ["suno", "udio"] {
        let count = tasks.iter().filter(|row| row["model"] == model).count();
        assert_eq!(held["by_model"][model], count);
    }
    let seconds: f64 = clips.iter().filter_map(|row| row["duration_seconds"].parse::<f64>().ok()).sum();
    assert!((held["audio_seconds"].as_f64().unwrap() - seconds).abs() < 1e-6 && seconds > 0.0);
    let created: BTreeSet<&str> =
        tasks.iter().map(|row| row["created_at"].as_str()).filter(|time| !time.is_empty()).collect();
    assert_eq!(held["created_from"].as_str(), created.first().copied());
    assert_eq!(held["created_to"].as_str(), created.last().copied());
    let usd = archive["credits_cost"].as_f64().unwrap() / 100.0;
    assert_eq!(held["usd"].as_f64(), Some(usd));
}

/// Some tasks stay unfinished during all runs.
#[test]
fn summary_shows_what_is_missing_and_the_ten_latest_runs() {
    let faults = FaultPlan { unfinished: Some(0.3), unfinished_seconds: Some(3600.0), ..FaultPlan::default() };
    let scene = Scene::faults(faults);
    scene.list(ids("t", 10));
    for _ in 0..12 {
        scene.export(&["--wait", "0s"]).expect(3);
    }
    let archive = summary(&scene, &[]);
    assert_eq!(archive["runs"], 12);
    let runs = archive["archive"]["last_runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["run_id"]), (10, &archive["run_id"]));
    assert!(runs.windows(2).all(|pair| pair[0]["started_at"].as_str() > pair[1]["started_at"].as_str()));
    let missing = archive["tasks"]["unfinished"].as_u64().unwrap();
    let words = scene.run(&["summary", "library"]).expect(0);
    let lines = words.stdout.lines().filter(|line| line.starts_with("  20")).count();
    assert_eq!(lines, 10, "{}", words.stdout);
    words.says(&format!("{missing} tasks, listed in runs/*-unfinished.csv")).says("incomplete (exit status 3)");
}

/// The only task stalls, so that the first run is still in progress.
#[test]
fn an_archive_is_empty_during_its_first_run() {
    let scene = Scene::trouble(FaultKind::Stall(60.0), FaultFilter::ALWAYS);
    scene.list(["t1"]);
    let mut run = scene.export_command(&[]).spawn().unwrap();
    wait_until(|| scene.stats().requests == 1);
    let archive = summary(&scene, &[]);
    assert_eq!((&archive["runs"], &archive["run_id"], &archive["rows"]["tasks"]), (&json!(0), &json!(""), &json!(0)));
    let nothing = json!({"by_model": {}, "usd": 0.0, "audio_seconds": 0.0, "created_from": null, "created_to": null, "last_runs": []});
    assert_eq!(archive["archive"], nothing);
    scene.run(&["summary", "library"]).expect(0).says("A run is in progress");
    run.kill().unwrap();
    run.wait().unwrap();
}

/// The provider reports that the account has created 42 tasks.
#[test]
fn account_coverage_requires_one_request() {
    let scene = Scene::fair();
    scene.list(ids("t", 40));
    scene.export(&["--format", "csv"]).expect(0);
    let before = scene.stats().requests;
    let archive = summary(&scene, &["--account"]);
    assert_eq!(scene.stats().requests, before + 1);
    let found = scene.rows("tasks").iter().filter(|row| row["status"] != "not_found").count();
    assert!(found < 40, "every task was found");
    let coverage = (10_000.0 * found as f64 / 42.0).floor() / 100.0;
    let account = json!({
        "tasks_created": 42, "credits_used": 350.0, "credits_topped_up": 1000.0, "archived": found, "coverage": coverage,
    });
    assert_eq!(archive["account"], account);
    let words = scene.run(&["summary", "library", "--account"]).expect(0);
    words.says(&format!("{found} of 42 created tasks archived ({coverage} %)")).says("350 credits used");
    assert_eq!(summary(&scene, &[])["account"], Value::Null);
}

/// The provider rejects the key, is unreachable, or sends an invalid response.
#[test]
fn a_failed_account_request_is_explained_and_never_shows_the_key() {
    let mut scene = Scene::faults(FaultPlan { key: Some(KEY.into()), ..FaultPlan::default() });
    scene.list(["t1"]);
    scene.export(&[]).expect(0);
    let account = ["summary", "library", "--account"];
    let hushed = |finished: Finished| {
        assert!(!finished.stdout.contains(KEY) && !finished.stderr.contains(KEY));
        assert_eq!(finished.stdout, "");
        finished
    };
    let spawned = |command: &mut std::process::Command| Finished::of(command.args(account).spawn().unwrap());

    spawned(scene.program().env_remove("SUNOR_API_KEY")).expect(2).says("no API key");
    scene.file("key", b" another-key\n");
    let wrong = scene.run(&[&account[..], &["--api-key-file", "key"]].concat()).expect(4);
    assert!(!hushed(wrong.says("refused the key (HTTP 401: Invalid API key)")).stderr.contains("another-key"));
    scene.run(&["summary", "library", "--api-key-file", "key"]).expect(2).says("--account");
    scene.run(&["summary", "library", "--account", "--run", "x"]).expect(2).says("--run");
    scene.run(&["summary", "elsewhere", "--account"]).expect(2).says("is not an archive");

    for (status, body, words) in [
        ("429 Too Many Requests", r#"{"message":"Try again in 30 seconds."}"#, "retry in 30s"),
        ("502 Bad Gateway", "<html>", "HTTP 502"),
        ("404 Not Found", "", "not found; check --base-url"),
        ("301 Moved\r\nLocation: http://127.0.0.1:1/", "", "HTTP 301"),
        ("200 OK", "<html>", "HTML instead of JSON"),
        ("200 OK", "[]", "contains no usage data"),
    ] {
        let (base_url, provider) = answering(status, body);
        hushed(spawned(scene.program().env("SUNOR_BASE_URL", &base_url)).expect(1).says(words));
        assert_eq!(asked(&base_url, provider), 1, "{status}");
    }
    let echo = format!(r#"{{"code":403,"message":"bad key {KEY}"}}"#);
    let (base_url, provider) = answering("200 OK", &echo);
    hushed(scene.run(&[&account[..], &["--base-url", &base_url]].concat()).expect(4).says("bad key [key]"));
    assert_eq!(asked(&base_url, provider), 1);

    scene.end_simulator();
    hushed(scene.run(&account).expect(1).says("check the network"));
    scene.run(&["summary", "library"]).expect(0);
}

/// Fields in the usage response have unexpected types or are missing.
#[test]
fn the_usage_response_is_parsed_leniently() {
    let scene = Scene::fair();
    scene.list(["t1"]);
    scene.export(&[]).expect(0);
    for (body, created, coverage, words) in [
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
        let (base_url, provider) = answering("200 OK", body);
        let account = summary(&scene, &["--account", "--base-url", &base_url])["account"].clone();
        assert_eq!((&account["tasks_created"], &account["coverage"]), (&created, &coverage), "{body}");
        scene.run(&["summary", "library", "--account", "--base-url", &base_url]).expect(0).says(words);
        assert_eq!(asked(&base_url, provider), 2);
    }
    assert!(!fs::read_to_string(scene.archive().join("archive.json")).unwrap().contains(KEY));
}

/// Runs every command that changes the archive, one after another.
#[test]
fn every_writing_command_leaves_a_record_and_only_archiving_commands_count_as_runs() {
    let scene = Scene::fair();
    for night in [6, 12] {
        scene.list(ids("t", night));
        scene.export(&["--assets", "audio"]).expect(0);
    }
    let last_export = summary(&scene, &[])["run_id"].clone();
    for verb in ["compact", "rebuild"] {
        scene.run(&[verb, "library"]).expect(0);
    }
    let archive = summary(&scene, &[]);
    assert_eq!((&archive["runs"], &archive["run_id"]), (&json!(2), &last_export));
    let runs = archive["archive"]["last_runs"].as_array().unwrap().clone();
    let commands: Vec<&str> = runs.iter().map(|run| run["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["rebuild", "compact", "export", "export"]);
    assert!(runs.iter().all(|run| run["exit_code"] == 0 && run["run_seconds"].as_f64().is_some()));

    let song = common::walk(&scene.archive().join("media")).pop().unwrap();
    std::fs::remove_file(song).unwrap();
    let repaired = scene.run(&["repair", "library", "--rate", "unlimited"]).expect(0);
    repaired.says("1 media file").says(".sunor/damaged").says("repaired  1 task").says("downloads 1 file");
    let archive = summary(&scene, &[]);
    assert_eq!((&archive["runs"], &archive["command"]), (&json!(3), &json!("repair")));
    scene.run(&["summary", "library"]).expect(0).says("repair complete").says("compact").says("rebuild");
    scene.run(&["verify", "library"]).expect(0);
    // A compaction that merges no parts leaves no record.
    scene.run(&["compact", "library"]).expect(0);
    scene.run(&["compact", "library"]).expect(0).says("Nothing to compact");
}

/// The archive was exported without covers and videos.
#[test]
fn missing_kinds_are_reported() {
    let scene = Scene::fair();
    scene.list(ids("t", 12));
    scene.export(&["--assets", "audio"]).expect(0);
    let lacking = summary(&scene, &[])["archive"]["lacking_assets"].clone();
    let clips = scene.rows("clips").len();
    assert_eq!(lacking, json!({ "image": clips, "video": clips }));
    scene.run(&["summary", "library"]).expect(0).says(&format!("image of {clips} clips, video of {clips} clips"));
    scene.export(&["--assets", "all"]).expect(0);
    assert_eq!(summary(&scene, &[])["archive"]["lacking_assets"], Value::Null);
}
