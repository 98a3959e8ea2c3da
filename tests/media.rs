//! Tests of downloads of songs, covers and videos. The tests run the built program with injected CDN faults.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{CommandOutput, TestEnv, files, ids, wait_until, walk};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan, KnownTasks, MediaStats, SimulatedProvider};

type Row = HashMap<String, String>;

/// Returns a clip with a song and a cover on the CDN.
fn clip(id: &str) -> Value {
    json!({ "id": id, "audio_url": format!("{{cdn}}/{id}.mp3"), "image_url": format!("{{cdn}}/{id}.jpeg") })
}

/// Returns a clip with a song at the given URL, and without a cover.
fn song(id: &str, url: impl Into<Value>) -> Value {
    json!({ "id": id, "audio_url": url.into() })
}

/// Creates a provider with the given faults, tasks and clips, and a list of all tasks.
fn library<'a>(faults: FaultPlan, tasks: impl IntoIterator<Item = (&'a str, Vec<Value>)>) -> TestEnv {
    let document = |(id, clips): (&str, Vec<Value>)| {
        let data = json!({ "task_id": id, "type": "music", "status": "success", "output": { "result": clips } });
        (id.to_owned(), json!({ "code": 200, "data": data }).to_string())
    };
    let documents: BTreeMap<String, String> = tasks.into_iter().map(document).collect();
    let list: Vec<String> = documents.keys().cloned().collect();
    let documents = documents.into_iter().collect();
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents,
        faults,
        ..SimulatedProvider::default()
    });
    env.write_list(list);
    env
}

/// Creates a provider with the given faults and one task per clip. The songs and covers of the clips are on the CDN.
fn music_env<S: AsRef<str>>(clips: impl IntoIterator<Item = S>, faults: FaultPlan) -> TestEnv {
    let clips: Vec<S> = clips.into_iter().collect();
    library(faults, clips.iter().map(AsRef::as_ref).map(|id| (id, vec![clip(id)])))
}

/// Returns a fault that affects every request for one song.
fn fault_for(id: &str, fault: FaultKind) -> Fault {
    Fault { kind: fault, filter: FaultFilter::task(&format!("{id}.mp3")) }
}

/// Returns a fault that affects the first requests for one song.
fn first_fault(requests: u32, id: &str, fault: FaultKind) -> Fault {
    Fault { kind: fault, filter: FaultFilter { task: Some(format!("{id}.mp3")), ..FaultFilter::first(requests) } }
}

fn media(faults: impl IntoIterator<Item = Fault>) -> FaultPlan {
    FaultPlan { media: faults.into_iter().collect(), ..FaultPlan::default() }
}

/// Returns a command that exports to CSV tables. Without `--assets`, the command downloads only songs.
fn command(env: &TestEnv, arguments: &[&str]) -> Command {
    let mut all = vec!["--format", "csv"];
    if !arguments.contains(&"--assets") {
        all.extend(["--assets", "audio"]);
    }
    all.extend(arguments);
    env.export_command(&all)
}

fn start_export(env: &TestEnv, arguments: &[&str]) -> Child {
    command(env, arguments).spawn().unwrap()
}

fn export(env: &TestEnv, arguments: &[&str]) -> CommandOutput {
    CommandOutput::wait_for(start_export(env, arguments))
}

/// Returns the asset rows of songs, keyed by clip ID.
fn audio_rows_by_clip(env: &TestEnv) -> BTreeMap<String, Row> {
    let rows = env.rows("assets").into_iter().filter(|row| row["kind"] == "audio");
    rows.map(|row| (row["clip_id"].clone(), row)).collect()
}

fn media_stats(env: &TestEnv) -> MediaStats {
    env.stats().media
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(bytes)))
}

fn field(row: &Row, column: &str) -> u64 {
    row[column].parse().unwrap()
}

/// Asserts the invariants that hold after every run: each row with status `ok` has a complete file, no task has two
/// rows, and the manifests are correct. If the journal is empty, each file under `media/` must also have a row.
#[track_caller]
fn assert_media_intact(env: &TestEnv) {
    let archive = env.archive();
    let mut referenced_files = BTreeSet::new();
    for row in env.rows("assets") {
        match row["status"].as_str() {
            "ok" => {
                let bytes = fs::read(archive.join(&row["path"])).unwrap();
                assert_eq!((field(&row, "bytes"), &row["sha256"]), (bytes.len() as u64, &sha256(&bytes)), "{row:?}");
                assert!(field(&row, "bytes") > 0 && !row["content_type"].is_empty(), "{row:?}");
                referenced_files.insert(archive.join(&row["path"]));
            }
            _ => assert!(row["path"].is_empty() && row["sha256"].is_empty() && !row["error"].is_empty(), "{row:?}"),
        }
    }
    let files_on_disk: BTreeSet<_> = walk(&archive.join("media")).into_iter().collect();
    assert!(referenced_files.is_subset(&files_on_disk));
    if files(&archive.join(".sunor/journal"), "").is_empty() {
        assert_eq!(files_on_disk, referenced_files);
        assert!(files(&archive.join(".sunor/partial"), "").is_empty());
    }
    let archived = env.archived_ids();
    assert_eq!(archived.iter().collect::<BTreeSet<_>>().len(), archived.len());
    if !files(&archive.join("runs"), ".sha256").is_empty() {
        let check = ["-c", "sha256sum --quiet --strict --check runs/*.sha256"];
        let checked = Command::new("bash").args(check).current_dir(&archive).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}

fn signal(run: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success());
}

#[test]
fn every_song_and_cover_is_complete_and_requested_once() {
    let env = TestEnv::new();
    env.write_list(ids("t", 40));
    export(&env, &["--assets", "audio,image"]).expect_status(0);
    let stats = media_stats(&env);
    assert_media_intact(&env);
    assert_eq!(stats.leaks, [""; 0]);
    assert!(stats.by_path.values().all(|requests| *requests == 1), "{stats:?}");

    let (rows, summary) = (env.rows("assets"), env.summary());
    assert_eq!(rows.len(), 2 * env.rows("clips").len());
    let [start, end] = ["started_at", "finished_at"].map(|key| summary[key].as_str().unwrap().parse().unwrap());
    let within = |time: &str| (start..=end).contains(&time.parse::<Timestamp>().unwrap());
    let ok: Vec<&Row> = rows.iter().filter(|row| row["status"] == "ok").collect();
    assert_eq!(ok.len(), stats.by_path.len());
    for row in &ok {
        assert_eq!([&row["http_status"], &row["attempts"], &row["error"]], ["200", "1", ""], "{row:?}");
        assert!(within(&row["downloaded_at"]), "{row:?}");
        let name = row["url"].rsplit('/').next().unwrap();
        assert_eq!(row["sha256"], sha256(&env.download_from_cdn(name)), "{row:?}");
        let (id, kind) = (&row["clip_id"], &row["kind"]);
        let (ending, content_type) = match name.rsplit('.').next().unwrap() {
            "mp3" => ("mp3", "audio/mpeg"),
            "jpeg" => ("jpeg", "image/jpeg"),
            _ => ("png", "image/png"),
        };
        assert_eq!(row["path"], format!("media/{kind}/{}/{id}.{ending}", &sha256(id.as_bytes())[..2]));
        assert_eq!(row["content_type"], content_type);
    }
    // Uploads and concatenated songs have no cover.
    let skipped: Vec<&Row> = rows.iter().filter(|row| row["status"] == "skipped").collect();
    assert!(!skipped.is_empty() && skipped.iter().all(|row| row["kind"] == "image" && row["url"].is_empty()));
    let bytes: u64 = ok.iter().map(|row| field(row, "bytes")).sum();
    let counts = json!({ "ok": ok.len(), "failed": 0, "skipped": skipped.len(), "bytes": bytes });
    assert_eq!((&summary["assets"], &summary["rows"]["assets"]), (&counts, &json!(rows.len())));

    export(&env, &[]).expect_status(0);
    assert_eq!(media_stats(&env).requests, stats.requests + ok.len() as u64, "files were requested again");
}

/// Returns clip IDs, responses that are not songs, and the expected errors.
fn non_audio_responses() -> Vec<(&'static str, FaultKind, &'static str)> {
    vec![
        ("html", FaultKind::Body("<html><body>busy</body></html>".into()), "an HTML page instead of media"),
        ("doctype", FaultKind::Body("\u{feff}\n<!DOCTYPE html>\n<p>".into()), "an HTML page instead of media"),
        ("empty", FaultKind::Body(String::new()), "the response is empty"),
        (
            "denied",
            FaultKind::Body("<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>".into()),
            "an XML document instead of media (AccessDenied)",
        ),
        ("json", FaultKind::Body(r#"{"error":"expired"}"#.into()), "a JSON document instead of media"),
        ("noise", FaultKind::Body("\u{1}\u{2}noise\u{3}".repeat(100)), "not a recognized audio format"),
        ("cover", FaultKind::Redirect("{cdn}/x.png".into()), "not a recognized audio format"),
    ]
}

/// For some songs, the CDN responds to every request with status 200 and a body that is not a song.
#[test]
fn a_response_that_is_not_audio_is_discarded_and_its_task_still_archived() {
    let wrong = non_audio_responses();
    let env = music_env(
        wrong.iter().map(|(id, ..)| *id).chain(["fine"]),
        media(wrong.iter().map(|(id, fault, _)| fault_for(id, fault.clone()))),
    );
    let run = export(&env, &["--retries", "1", "--assets", "audio,image"]).expect_status(3);
    run.expect_output("Archived 8 of 8 tasks")
        .expect_output("Not downloaded: 7 assets")
        .expect_output("2 × an HTML page instead of media");
    assert_media_intact(&env);
    assert_eq!((env.archived_ids().len(), env.unfinished()), (8, vec![]));
    let (rows, requested) = (audio_rows_by_clip(&env), media_stats(&env).by_path);
    for (id, _, text) in wrong {
        let row = &rows[id];
        assert_eq!(
            [&row["status"], &row["error"], &row["http_status"], &row["attempts"]],
            ["failed", text, "200", "2"]
        );
        assert_eq!(requested[&format!("{id}.mp3")], 2);
    }
    assert_eq!(rows["fine"]["status"], "ok");
    assert_eq!(env.summary()["assets"]["failed"], 7);
    assert!(env.rows("assets").iter().all(|row| row["kind"] == "audio" || row["status"] == "ok"));
}

/// For each song, the CDN responds to the first two requests with status 200 and a body that is not a song.
#[test]
fn a_response_that_is_not_audio_is_retried() {
    let wrong = non_audio_responses();
    let env = music_env(
        wrong.iter().map(|(id, ..)| *id),
        media(wrong.iter().map(|(id, fault, _)| first_fault(2, id, fault.clone()))),
    );
    export(&env, &["--retries", "2"]).expect_status(0);
    assert_media_intact(&env);
    assert!(audio_rows_by_clip(&env).values().all(|row| [&row["status"], &row["attempts"]] == ["ok", "3"]));
}

/// Some URLs have an extension that does not match the type of the file.
#[test]
fn a_file_extension_matches_the_content() {
    let to = |name: &str| FaultKind::Redirect(format!("{{cdn}}/{name}"));
    let env = library(
        media([
            Fault { kind: to("x.png"), filter: FaultFilter::task("a.jpeg") },
            Fault { kind: to("x.mp3"), filter: FaultFilter::task("a.wav") },
            Fault { kind: to("y.jpg"), filter: FaultFilter::task("b") },
            Fault { kind: to("y.mp4"), filter: FaultFilter::task("c") },
        ]),
        [(
            "t1",
            vec![
                json!({ "id": "a", "audio_url": "{cdn}/a.wav", "image_url": "{cdn}/a.jpeg" }),
                json!({ "id": "b", "audio_url": "{cdn}/z.mp3?x=.html", "image_url": "{cdn}/b" }),
                json!({ "id": "d", "audio_url": "{cdn}/c", "image_url": "{cdn}/d.png#.jpeg" }),
            ],
        )],
    );
    export(&env, &["--assets", "audio,image"]).expect_status(0);
    assert_media_intact(&env);
    let referenced_files: BTreeSet<(String, String)> = env
        .rows("assets")
        .into_iter()
        .map(|row| (row["path"].rsplit('/').next().unwrap().to_owned(), row["content_type"].clone()))
        .collect();
    let expected = [
        ("a.mp3", "audio/mpeg"),
        ("a.png", "image/png"),
        ("b.mp3", "audio/mpeg"),
        ("b.jpeg", "image/jpeg"),
        ("d.mp4", "video/mp4"),
        ("d.png", "image/png"),
    ];
    assert_eq!(referenced_files, expected.map(|(name, mime)| (name.to_owned(), mime.to_owned())).into());
    let row = |kind: &str| env.rows("assets").into_iter().find(|row| row["clip_id"] == "a" && row["kind"] == kind);
    assert_eq!(
        row("image").unwrap()["url"],
        format!("{}/a.jpeg", env.cdn_url()),
        "the stored URL differs from the URL that the provider sent"
    );
}

const SIZE: u64 = 300_000;

/// Returns a fault plan with the given faults and with songs of [`SIZE`] bytes, rounded up to a whole number of MP3
/// frames.
fn large_songs(faults: impl IntoIterator<Item = Fault>) -> FaultPlan {
    FaultPlan { media_bytes: Some(SIZE), ..media(faults) }
}

/// The CDN truncates each song twice, each time after 100 kB.
#[test]
fn a_truncated_download_resumes_if_the_server_confirms_the_same_version() {
    let cut = || ids("s", 5).into_iter().map(|id| first_fault(2, &id, FaultKind::Truncated(100_000)));
    for validators in [true, false] {
        let env = music_env(ids("s", 5), FaultPlan { validators: Some(validators), ..large_songs(cut()) });
        export(&env, &["--retries", "2"]).expect_status(0);
        let stats = media_stats(&env);
        assert_media_intact(&env);
        for (id, row) in audio_rows_by_clip(&env) {
            assert_eq!(
                (row["sha256"].clone(), field(&row, "attempts")),
                (sha256(&env.download_from_cdn(&format!("{id}.mp3"))), 3)
            );
            assert_eq!(row["http_status"], if validators { "206" } else { "200" });
        }
        let (ranges, sent) = if validators { (10, 0) } else { (0, 5 * 200_000) };
        assert_eq!(stats.range_requests, ranges);
        let sent = 5 * SIZE + sent..5 * SIZE + sent + 100_000;
        assert!(sent.contains(&stats.bytes), "{} of {sent:?}", stats.bytes);
    }
}

/// The CDN truncates the songs on every request.
#[test]
fn a_permanently_truncated_file_is_not_kept() {
    let env = music_env(
        ["at-once", "halfway"],
        FaultPlan {
            validators: Some(false),
            ..large_songs([
                fault_for("at-once", FaultKind::Truncated(0)),
                fault_for("halfway", FaultKind::Truncated(100_000)),
            ])
        },
    );
    export(&env, &["--retries", "1"]).expect_status(3).expect_output("the response is truncated");
    assert_media_intact(&env);
    for row in audio_rows_by_clip(&env).values() {
        assert_eq!([&row["status"], &row["error"], &row["attempts"]], ["failed", "the response is truncated", "2"]);
    }
    assert!(walk(&env.archive().join("media")).is_empty());
}

/// The CDN truncates each song, and serves a new version when the rest of the song is requested.
#[test]
fn a_file_that_changes_during_a_download_is_never_a_mix_of_versions() {
    let faults = || {
        let faults =
            |id: String| [first_fault(1, &id, FaultKind::Truncated(100_000)), fault_for(&id, FaultKind::Changed)];
        ids("s", 3).into_iter().flat_map(faults)
    };
    for validators in [true, false] {
        let env = music_env(ids("s", 3), FaultPlan { validators: Some(validators), ..large_songs(faults()) });
        export(&env, &[]).expect_status(0);
        assert_media_intact(&env);
        assert_eq!(media_stats(&env).range_requests, if validators { 3 } else { 0 });
        for (id, row) in audio_rows_by_clip(&env) {
            // After the first request for a song, the CDN sends the new version.
            assert_eq!(row["sha256"], sha256(&env.download_from_cdn(&format!("{id}.mp3"))));
        }
    }
}

/// Some downloads stall before the first byte or in the middle, and some are too slow, either once or permanently.
#[test]
fn a_stalled_server_times_out() {
    let stalled =
        [("late", FaultKind::Stall(60.0)), ("halting", FaultKind::StallBody(60.0)), ("drip", FaultKind::Throttle(300))];
    let transient = stalled.iter().map(|(id, fault)| first_fault(1, id, fault.clone()));
    let permanent = stalled.iter().map(|(id, fault)| fault_for(&format!("{id}-ever"), fault.clone()));
    let ids = stalled.iter().flat_map(|(id, _)| [(*id).to_owned(), format!("{id}-ever")]);
    let env = music_env(ids, large_songs(transient.chain(permanent)));
    let started = Instant::now();
    export(&env, &["--timeout", "1s", "--retries", "1", "--asset-concurrency", "16"]).expect_status(3);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_media_intact(&env);
    let rows = audio_rows_by_clip(&env);
    for (id, error) in [
        ("late", "no data within the timeout"),
        ("halting", "no data within the timeout"),
        ("drip", "the transfer is slower than 1 KiB/s"),
    ] {
        assert_eq!([&rows[id]["status"], &rows[id]["attempts"]], ["ok", "2"], "{id}");
        let ever = &rows[&format!("{id}-ever")];
        assert_eq!([&ever["status"], &ever["error"], &ever["attempts"]], ["failed", error, "2"], "{id}");
    }
}

/// The CDN responds with various error statuses, either to the first requests or to all requests.
#[test]
fn each_status_is_retried_according_to_its_policy() {
    use FaultKind::Status;
    let ever = u32::MAX;
    let table = [
        ("gone", Status(404), ever, 1, "HTTP 404"),
        ("gone-for-good", Status(410), ever, 1, "HTTP 410"),
        ("odd", Status(400), ever, 1, "HTTP 400"),
        ("law", Status(451), ever, 1, "HTTP 451"),
        ("denied", Status(403), ever, 3, "HTTP 403"),
        ("denied-once", Status(403), 1, 2, ""),
        ("denied-twice", Status(403), 2, 3, ""),
        ("unknown", Status(401), ever, 3, "HTTP 401"),
        ("broken", Status(500), ever, 4, "HTTP 500"),
        ("broken-once", Status(500), 1, 2, ""),
        ("bad-gateway", Status(502), 3, 4, ""),
        ("busy", Status(503), 2, 3, ""),
        ("early", Status(425), 1, 2, ""),
        ("slow", Status(408), 1, 2, ""),
        ("bare-redirect", Status(302), ever, 1, "HTTP 302"),
        ("nothing", Status(204), 1, 2, ""),
        ("reset", FaultKind::Reset, 2, 3, ""),
    ];
    let env = music_env(
        table.iter().map(|(id, ..)| *id),
        media(table.iter().map(|(id, fault, first, ..)| first_fault(*first, id, fault.clone()))),
    );
    export(&env, &["--retries", "3"]).expect_status(3);
    assert_media_intact(&env);
    let (rows, requested) = (audio_rows_by_clip(&env), media_stats(&env).by_path);
    for (id, fault, _, requests, error) in table {
        let (row, status) = (&rows[id], if error.is_empty() { "ok" } else { "failed" });
        assert_eq!((requested[&format!("{id}.mp3")], field(row, "attempts")), (requests, requests.into()), "{id}");
        assert_eq!([&row["status"], &row["error"]], [status, error], "{id}");
        if let (Status(code), "failed") = (fault, status) {
            assert_eq!(field(row, "http_status"), u64::from(code));
        }
    }
    assert_eq!(env.archived_ids().len(), rows.len());
}

/// The CDN responds with a `Retry-After` of one day.
#[test]
fn a_host_with_a_retry_after_of_a_day_is_skipped_until_the_next_run() {
    for fault in [FaultKind::RateLimited(86_400), FaultKind::Unavailable(86_400)] {
        let env = music_env(ids("s", 20), media([Fault { kind: fault, filter: FaultFilter::first(1) }]));
        export(&env, &["--asset-concurrency", "1"])
            .expect_status(3)
            .expect_output("the next run will download its files");
        assert_eq!((media_stats(&env).requests, env.archived_ids().len(), env.unfinished().len()), (1, 0, 20));
        assert!(env.unfinished().iter().all(|(_, reason)| reason == "interrupted"));
        let faults = export(&env, &["--asset-concurrency", "1"]);
        assert_eq!((faults.status, env.stats().requests), (Some(3), 20), "{}", faults.stderr);
        assert_media_intact(&env);
    }
}

/// The first request for each song gets a `Retry-After` of one second. The export uses one connection at a time.
#[test]
fn a_host_with_retry_after_gets_no_requests_and_consumes_no_retry() {
    for fault in [FaultKind::RateLimited(1), FaultKind::Unavailable(1)] {
        let env = music_env(ids("s", 4), media([Fault { kind: fault, filter: FaultFilter::first(1) }]));
        let started = Instant::now();
        export(&env, &["--retries", "0", "--asset-concurrency", "1"]).expect_status(0);
        // After each refused request, all downloads wait for one second.
        assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
        assert_eq!(media_stats(&env).requests, 8);
        assert!(audio_rows_by_clip(&env).values().all(|row| [&row["status"], &row["attempts"]] == ["ok", "2"]));
    }
}

/// The CDN redirects requests to songs, to invalid targets, or in a loop.
#[test]
fn redirects_are_followed_only_to_http_and_up_to_a_limit() {
    let to = |address: &str| FaultKind::Redirect(address.to_owned());
    let table = [
        ("moved", to("{cdn}/elsewhere/other.mp3"), 1, ""),
        ("beside", to("other/x.mp3?x"), 1, ""),
        ("round", to("{cdn}/{file}"), 9, "more than 8 redirects"),
        ("ftp", to("ftp://127.0.0.2/x.mp3"), 1, "redirected to an unsupported URL scheme: ftp"),
        ("disk", to("file:///etc/passwd"), 1, "redirected to an unsupported URL scheme: file"),
        ("data", to("data:audio/mpeg,ID3"), 1, "redirected to an unsupported URL scheme: data"),
        ("broken", to("http://[::1"), 1, "redirected to an invalid URL"),
        ("no-host", to("http://0.0.0.0/x.mp3"), 1, "0.0.0.0"),
        ("everybody", to("http://224.0.0.1/x.mp3"), 1, "224.0.0.1"),
    ];
    let env = music_env(
        table.iter().map(|(id, ..)| *id),
        media(table.iter().map(|(id, fault, ..)| fault_for(id, fault.clone()))),
    );
    export(&env, &["--retries", "2"]).expect_status(3);
    assert_media_intact(&env);
    let (rows, requested) = (audio_rows_by_clip(&env), media_stats(&env));
    assert_eq!(requested.leaks, [""; 0]);
    for (id, _, requests, error) in table {
        assert_eq!(
            (requested.by_path[&format!("{id}.mp3")], &rows[id]["attempts"]),
            (requests, &"1".to_owned()),
            "{id}"
        );
        assert!(
            rows[id]["error"].contains(error) && rows[id]["error"].is_empty() == error.is_empty(),
            "{:?}",
            rows[id]
        );
    }
    assert_eq!(rows["moved"]["sha256"], sha256(&env.download_from_cdn("elsewhere/other.mp3")));
}

/// The URLs point to private addresses.
#[test]
fn private_addresses_are_refused_unless_allowed() {
    let port = |env: &TestEnv| env.cdn_url().rsplit(':').next().unwrap().to_owned();
    let cdn = music_env(["x"], FaultPlan::default());
    let port = port(&cdn);
    let hosts = [
        "127.0.0.2",
        "127.0.0.1",
        "localhost",
        "127.1",
        "127.2",
        "2130706433",
        "0x7f.2",
        "0177.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "[::]",
        "0.0.0.0",
        "0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "[fd00::1]",
        "[fe80::1]",
        "[64:ff9b::7f00:2]",
        "[2002:7f00:2::]",
        "100.64.0.1",
        "255.255.255.255",
        "user:secret@127.0.0.2",
    ];
    let clips = hosts.map(|host| song(host, format!("http://{host}:{port}/x.mp3")));
    let env = library(FaultPlan::default(), [("t1", clips.into()), ("t2", vec![clip("x")])]);
    export(&env, &["--assets", "audio,image", "--allow-private-hosts=false"]).expect_status(3);
    assert_media_intact(&env);
    let rows = env.rows("assets");
    let (failed, skipped): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["status"] == "failed");
    assert_eq!((failed.len(), skipped.len()), (hosts.len() + 2, hosts.len()));
    let is_refused = |row: &&Row| {
        row["error"].contains("--allow-private-hosts")
            || row["error"].contains("has no usable address (reserved or multicast)")
    };
    assert!(failed.iter().all(is_refused), "{failed:?}");
    assert_eq!((media_stats(&env).requests, media_stats(&cdn).requests), (0, 0));
    assert_eq!(env.archived_ids().len(), 2);

    let allowed = library(FaultPlan::default(), [("t1", vec![clip("x")])]);
    export(&allowed, &["--allow-private-hosts"]).expect_status(0);
    assert_eq!(media_stats(&allowed).requests, 1);
}

/// The URLs in the documents are unusable.
#[test]
fn an_unusable_url_is_recorded_as_failed() {
    let table = [
        ("/x.mp3", "invalid URL"),
        ("x.mp3", "invalid URL"),
        ("http://", "invalid URL"),
        ("http://a b/", "invalid URL"),
        ("not an address", "invalid URL"),
        ("ftp://127.0.0.2/x.mp3", "unsupported URL scheme: ftp"),
        ("file:///etc/passwd", "unsupported URL scheme: file"),
        ("data:audio/mpeg;base64,SUQz", "unsupported URL scheme: data"),
        ("javascript:alert(1)", "unsupported URL scheme: javascript"),
        ("C:\\music\\x.mp3", "unsupported URL scheme: c"),
    ];
    let env = library(FaultPlan::default(), [("t1", table.map(|(url, _)| song(url, url)).into())]);
    export(&env, &[]).expect_status(3);
    assert_media_intact(&env);
    let rows = audio_rows_by_clip(&env);
    for (url, text) in table {
        let row = &rows[url];
        assert_eq!([&row["status"], &row["url"], &row["attempts"]], ["failed", url, "0"]);
        assert!(row["error"].contains(text), "{row:?}");
    }
    assert_eq!((media_stats(&env).requests, env.archived_ids().len()), (0, 1));
}

/// The clips have no URL, or a placeholder URL such as `None.mp3`.
#[test]
fn a_url_without_an_asset_is_skipped_with_a_reason_and_not_counted_as_missing() {
    let clips = vec![
        (song("empty", ""), "no URL for this asset"),
        (song("blank", "  "), "no URL for this asset"),
        (song("null", Value::Null), "no URL for this asset"),
        (json!({ "id": "missing" }), "no URL for this asset"),
        (song("none", "{cdn}/None.mp3"), "the URL is a placeholder"),
        (song("none-too", "https://cdn1.suno.ai/None.mp3?x=1"), "the URL is a placeholder"),
        (song("bare", "None.mp3"), "the URL is a placeholder"),
    ];
    let text: Vec<&str> = clips.iter().map(|(_, text)| *text).collect();
    let env = library(FaultPlan::default(), [("t1", clips.into_iter().map(|(clip, _)| clip).collect())]);
    export(&env, &["--assets", "audio"]).expect_status(0);
    assert_media_intact(&env);
    for (row, text) in env.rows("assets").iter().zip(&text) {
        assert_eq!([&row["status"], &row["attempts"]], ["skipped", "0"], "{row:?}");
        assert!(row["error"].contains(text), "{row:?}");
    }
    assert_eq!((media_stats(&env).requests, env.rows("assets").len()), (0, text.len()));
    assert_eq!(env.summary()["assets"], json!({ "ok": 0, "failed": 0, "skipped": text.len(), "bytes": 0 }));
}

/// Returns the response for a task that completed at `completed_at` and has two clips: a complete clip and `clip`.
fn partly_complete_response(clip: &Value, completed_at: &str) -> String {
    let result = json!([song("made", "{cdn}/made.mp3"), clip]);
    let data = json!({ "task_id": "t1", "type": "music", "status": "success", "completed_at": completed_at,
        "created_at": "2025-01-15T12:00:00Z", "output": { "result": result } });
    json!({ "code": 200, "data": data }).to_string()
}

/// A task has just completed, but one of its clips is still being generated. A later run finds the clip complete.
#[test]
fn a_task_with_an_unfinished_clip_is_unfinished_until_the_clip_is_complete() {
    let now = Timestamp::now().to_string();
    let clips = [
        (json!({ "id": "c", "status": "streaming", "audio_url": "{cdn}/c.mp3" }), "its status is streaming"),
        (json!({ "id": "c", "status": "queued", "audio_url": "" }), "its status is queued"),
        (json!({ "id": "c", "status": "rendering", "audio_url": null }), "its status is rendering"),
        (song("c", "https://audiopipe.suno.ai/?item_id=7"), "a stream"),
        (song("c", "https://cdn1.suno.ai/c.m3u8?token=1"), "a stream"),
    ];
    for (clip, text) in clips {
        let first =
            Fault { kind: FaultKind::Body(partly_complete_response(&clip, &now)), filter: FaultFilter::first(2) };
        let document = partly_complete_response(&song("c", "{cdn}/c.mp3"), &now);
        let env = TestEnv::with_provider(SimulatedProvider {
            tasks: KnownTasks::Documents,
            documents: [("t1".into(), document)].into(),
            faults: FaultPlan { faults: vec![first], unfinished: Some(0.0), ..FaultPlan::default() },
            ..SimulatedProvider::default()
        });
        env.write_list(["t1"]);
        export(&env, &["--assets", "audio", "--wait", "0s"]).expect_status(3);
        assert_eq!(env.unfinished(), [("t1".to_owned(), "unfinished".to_owned())]);
        let list = files(&env.archive().join("runs"), "-unfinished.csv").pop().unwrap();
        assert!(fs::read_to_string(list).unwrap().contains(text));
        assert!(env.rows("tasks").is_empty() && media_stats(&env).requests == 0);
        export(&env, &["--assets", "audio", "--poll-interval", "1s"]).expect_status(0);
        assert_eq!(env.stats().requests, 3, "the second run must poll the task");
        assert!(env.rows("assets").iter().all(|row| row["status"] == "ok"), "{text}");
    }
}

/// A clip is still being generated a day after its task completed, and completes later.
#[test]
fn a_clip_that_never_finishes_fails_after_a_day_and_repair_requests_it_again() {
    let yesterday = (Timestamp::now() - jiff::SignedDuration::from_hours(25)).to_string();
    let clip = json!({ "id": "c", "status": "streaming", "audio_url": "{cdn}/c.mp3" });
    let provider = |clip: &Value| {
        let documents = [("t1".into(), partly_complete_response(clip, &yesterday))].into();
        TestEnv::with_provider(SimulatedProvider {
            tasks: KnownTasks::Documents,
            documents,
            ..SimulatedProvider::default()
        })
    };
    let env = provider(&clip);
    env.write_list(["t1"]);
    export(&env, &["--assets", "audio"]).expect_status(3).expect_output("its status is streaming");
    let rows = audio_rows_by_clip(&env);
    assert_eq!([&rows["made"]["status"], &rows["c"]["status"]], ["ok", "failed"]);
    let later = provider(&song("c", "{cdn}/c.mp3"));
    env.run(&["repair", "library", "--base-url", later.base_url()]).expect_status(0);
    assert_eq!(audio_rows_by_clip(&env)["c"]["status"], "ok");
    assert_eq!((env.stats().requests, later.stats().requests), (1, 1));
}

/// One clip is still being generated, and the run downloads no assets.
#[test]
fn an_unfinished_clip_does_not_affect_a_run_without_assets() {
    let clip = json!({ "id": "c", "status": "streaming", "audio_url": "{cdn}/c.mp3" });
    let document = partly_complete_response(&clip, &Timestamp::now().to_string());
    let documents = [("t1".into(), document)].into();
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents,
        ..SimulatedProvider::default()
    });
    env.write_list(["t1"]);
    env.export(&["--assets", "none"]).expect_status(0);
    assert_eq!(env.rows("clips").len(), 2);
}

/// Starts a web server that sends the nth response to the nth request, and repeats the last response. Returns the
/// server's address and a channel that receives the requests. After a response that ends with [`ENDLESS`], the server
/// sends zeros until the client closes the connection.
fn server(responses: Vec<Vec<u8>>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (request_sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") && stream.read_line(&mut request).is_ok_and(|read| read > 0) {}
            let _ = request_sender.send(request.to_lowercase());
            let response = &responses[n.min(responses.len() - 1)];
            let _ = stream.get_mut().write_all(response);
            while response.ends_with(ENDLESS) && stream.get_mut().write_all(&[0; 16 << 10]).is_ok() {}
        }
    });
    (address, requests)
}

const ENDLESS: &[u8] = b"(endless)";

/// Returns a response with the given status, headers and body, and with the header `Connection: close`.
fn http_response(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
}

/// Servers truncate a song, and respond correctly or incorrectly to the range request that follows.
#[test]
fn a_partial_response_is_accepted_only_if_it_continues_the_same_file() {
    let version = |seed| -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        b"ID3\x04".iter().copied().chain(std::iter::repeat_with(|| rng.u8(..))).take(100_000).collect()
    };
    let (old, new) = (version(1), version(2));
    let ok =
        |validator: &str, body: &[u8]| http_response(&format!("200 OK\r\n{validator}\r\nContent-Length: 100000"), body);
    let cut = |validator: &str| ok(validator, &old[..50_000]);
    let full = |validator: &str| ok(validator, &new);
    let part = |headers: &str, body: &[u8]| {
        http_response(&format!("206 Partial\r\n{headers}\r\nContent-Length: {}", body.len()), body)
    };
    let (etag, other, date) = ("ETag: \"a\"", "ETag: \"b\"", "Last-Modified: Wed, 15 Jan 2025 12:00:00 GMT");
    let rest = "Content-Range: bytes 50000-99999/100000";
    let table = [
        ("rest", vec![cut(etag), part(rest, &old[50_000..])], &old, 2),
        ("rest-by-date", vec![cut(date), part(rest, &old[50_000..])], &old, 2),
        ("whole", vec![cut(etag), full(other)], &new, 2),
        ("weak", vec![cut("ETag: W/\"a\""), full(other)], &new, 2),
        ("other-part", vec![cut(etag), part("Content-Range: bytes 1-99999/100000", &old[1..]), full(other)], &new, 3),
        ("whole-part", vec![cut(etag), part("Content-Range: bytes 0-99999/100000", &new)], &new, 2),
        ("no-part", vec![cut(etag), part("X: y", &old[50_000..]), full(other)], &new, 3),
        ("other-file", vec![cut(etag), part(&format!("{rest}\r\n{other}"), &new[50_000..]), full(other)], &new, 3),
        ("beyond", vec![cut(etag), http_response("416 No\r\nContent-Length: 0", b""), full(other)], &new, 3),
        (
            "piecemeal",
            vec![
                cut(etag),
                part("Content-Range: bytes 50000-59999/100000", &old[50_000..60_000]),
                part("Content-Range: bytes 60000-99999/100000", &old[60_000..]),
            ],
            &old,
            3,
        ),
    ];
    let servers: Vec<_> = table.iter().map(|(id, responses, ..)| (*id, server(responses.clone()))).collect();
    let env = library(
        FaultPlan::default(),
        servers.iter().map(|(id, (address, _))| (*id, vec![song(id, format!("http://{address}/x.mp3"))])),
    );
    export(&env, &["--retries", "2"]).expect_status(0);
    assert_media_intact(&env);
    let rows = audio_rows_by_clip(&env);
    for ((id, _, expected, attempts), (_, (_, requests))) in table.iter().zip(servers) {
        assert_eq!((&rows[*id]["sha256"], field(&rows[*id], "attempts")), (&sha256(expected), *attempts), "{id}");
        let requests: Vec<String> = requests.try_iter().collect();
        assert!(requests.iter().all(|request| request.contains("accept-encoding: identity\r\n")));
        let known = match *id {
            "weak" => None,
            "rest-by-date" => Some("wed, 15 jan 2025 12:00:00 gmt"),
            _ => Some("\"a\""),
        };
        let ranged = known.map(|known| format!("range: bytes=50000-\r\nif-range: {known}\r\n"));
        assert!(ranged.is_none_or(|ranged| requests[1].contains(&ranged)), "{}", requests[1]);
        assert_eq!(requests[1].contains("range: "), known.is_some());
    }
}

/// Servers compress media although the request does not accept compression, send the whole file with status 206, or
/// redirect to a URL with raw UTF-8. One clip has a URL without a scheme.
#[test]
fn a_file_that_browsers_and_curl_accept_is_accepted() {
    let mp3 = [b"ID3\x04".as_slice(), &[0x55; 5000]].concat();
    let gzip = || {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&mp3).unwrap();
        encoder.finish().unwrap()
    };
    let packed = |name: &str| {
        http_response(&format!("200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {}", gzip().len()), &gzip())
    };
    let full = http_response("206 Partial\r\nContent-Range: bytes 0-5003/5004\r\nContent-Length: 5004", &mp3);
    let (plain, _) = server(vec![http_response("200 OK\r\nContent-Length: 5004", &mp3)]);
    let moved = http_response(&format!("302 Found\r\nLocation: http://{plain}/夜.mp3\r\nContent-Length: 0"), b"");
    let table = [("gzip", packed("GZIP")), ("x-gzip", packed("x-gzip")), ("whole", full), ("moved", moved)];
    let servers = table.map(|(id, response)| (id, server(vec![response]).0));
    let clips = servers.iter().map(|(id, address)| song(id, format!("http://{address}/x.mp3")));
    let relative = song("relative", format!("//{plain}/x.mp3"));
    let env = library(FaultPlan::default(), [("t1", clips.chain([relative]).collect())]);
    export(&env, &["--retries", "0"]).expect_status(0);
    assert_media_intact(&env);
    for (id, row) in audio_rows_by_clip(&env) {
        assert_eq!([&row["status"], &row["sha256"]], ["ok", &sha256(&mp3)], "{id}");
    }
}

/// The type of a file is visible neither in its URL nor in the headers.
#[test]
fn only_common_media_types_are_accepted() {
    let mp4 = |brand: &str| [b"\0\0\0\x20ftyp", brand.as_bytes(), b"\0\0\x02\0isomiso2"].concat();
    let opus = b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x02".to_vec();
    let padded = [vec![0; 1500], b"\xff\xfb\x90\x64".to_vec()].concat();
    let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec();
    let accepted = [
        ("audio", opus, "opus"),
        ("audio", padded, "mp3"),
        ("audio", mp4("M4A "), "m4a"),
        ("audio", mp4("M4B "), "m4a"),
        ("audio", mp4("isom"), "mp4"),
        ("audio", mp4("dash"), "mp4"),
        ("audio", b"fLaC\0\0\0\x22".to_vec(), "flac"),
        ("video", mp4("iso5"), "mp4"),
        ("video", mp4("mp42"), "mp4"),
        ("image", jpeg.clone(), "jpeg"),
        ("image", b"RIFF\x20\0\0\0WEBPVP8 ".to_vec(), "webp"),
    ];
    let refused = [
        ("audio", b"not found".to_vec(), "not a recognized audio format"),
        ("audio", b"<!DOCTYPE html><html>".to_vec(), "HTML page"),
        ("image", b"<?xml version='1.0'?><Error><Code>Expired</Code></Error>".to_vec(), "XML document"),
        ("video", b"{\"detail\":\"gone\"}".to_vec(), "JSON document"),
        ("audio", b"PK\x03\x04\x14\0\0\0\x08\0song.mp3".to_vec(), "not a recognized audio format"),
        ("video", b"PK\x03\x04\x14\0\0\0\x08\0clip.mp4".to_vec(), "not a recognized video format"),
        ("audio", jpeg, "not a recognized audio format"),
        ("audio", mp4("avif"), "not a recognized audio format"),
        ("video", mp4("heic"), "not a recognized video format"),
        ("image", b"ID3\x04\0\0\0\0\0\x23TSSE".to_vec(), "not a recognized image format"),
        ("image", mp4("isom"), "not a recognized image format"),
        ("video", b"fLaC\0\0\0\x22".to_vec(), "not a recognized video format"),
    ];
    let kept = accepted.into_iter().map(|(kind, body, ending)| (kind, body, Ok(ending)));
    let table: Vec<_> = kept.chain(refused.into_iter().map(|(kind, body, text)| (kind, body, Err(text)))).collect();
    let clip = |n: usize, kind: &str, body: &[u8]| {
        let head = format!("200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}", body.len());
        let (address, _) = server(vec![http_response(&head, body)]);
        let mut clip = json!({ "id": format!("c{n}") });
        clip[format!("{kind}_url")] = format!("http://{address}/file").into();
        clip
    };
    let clips = table.iter().enumerate().map(|(n, (kind, body, _))| clip(n, kind, body)).collect();
    let env = library(FaultPlan::default(), [("t1", clips)]);
    export(&env, &["--assets", "all", "--retries", "0"]).expect_status(3);
    assert_media_intact(&env);
    let rows = env.rows("assets");
    for (n, (kind, body, expected)) in table.iter().enumerate() {
        let row = rows.iter().find(|row| row["clip_id"] == format!("c{n}") && row["kind"] == *kind).unwrap();
        match expected {
            Ok(ending) => assert!(row["status"] == "ok" && row["path"].ends_with(&format!(".{ending}")), "{row:?}"),
            Err(text) => assert!(row["status"] == "failed" && row["error"].contains(text), "{body:?}: {row:?}"),
        }
    }
}

/// The servers send responses that violate HTTP.
#[test]
fn an_invalid_media_response_fails_with_a_reason_and_a_usable_one_is_accepted() {
    let mp3 = [b"ID3\x04".as_slice(), &[0x55; 5000]].concat();
    let table = [
        ("without-length", http_response("200 OK", &mp3), ""),
        (
            "chunked",
            http_response("200 OK\r\nTransfer-Encoding: chunked", &[b"138c\r\n", &mp3[..], b"\r\n0\r\n\r\n"].concat()),
            "",
        ),
        ("mislabelled", http_response("200 OK\r\nContent-Type: text/html\r\nContent-Length: 5004", &mp3), ""),
        (
            "chunked-cut",
            http_response("200 OK\r\nTransfer-Encoding: chunked", &[b"138d\r\n", &mp3[..]].concat()),
            "the response is truncated",
        ),
        ("cut", http_response("200 OK\r\nContent-Length: 6000", &mp3), "the response is truncated"),
        (
            "unasked-part",
            http_response("206 Partial\r\nContent-Range: bytes 0-5003/9000\r\nContent-Length: 5004", &mp3),
            "a different range than requested",
        ),
        ("no-http", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), " "),
        ("silence", Vec::new(), " "),
        ("too-many-headers", http_response(&format!("200 OK{}", "\r\nX: y".repeat(10_000)), &mp3), " "),
    ];
    let address = |response: &Vec<u8>| format!("http://{}/x.mp3", server(vec![response.clone()]).0);
    let env =
        library(FaultPlan::default(), table.iter().map(|(id, response, _)| (*id, vec![song(id, address(response))])));
    export(&env, &["--retries", "1"]).expect_status(3);
    assert_media_intact(&env);
    let rows = audio_rows_by_clip(&env);
    for (id, _, error) in table {
        let row = &rows[id];
        assert_eq!(row["status"], if error.is_empty() { "ok" } else { "failed" }, "{row:?}");
        assert!(row["error"].contains(error) && (error.is_empty() || row["attempts"] == "2"), "{row:?}");
        assert!(error.is_empty() == row["error"].is_empty(), "{row:?}");
    }
    assert_eq!(rows["chunked"]["sha256"], sha256(&mp3));
}

/// Two songs exceed the size limit, one with and one without a `Content-Length`.
#[test]
fn a_file_over_the_size_limit_is_rejected_and_leaves_no_partial_file() {
    let (server, _requests) = server(vec![http_response("200 OK", &[b"ID3\x04", ENDLESS].concat())]);
    let env = library(
        FaultPlan { media_bytes: Some(20_000_000), ..FaultPlan::default() },
        [("t1", vec![clip("long"), song("endless", format!("http://{server}/x.mp3"))])],
    );
    let run = export(&env, &["--assets", "audio,image", "--max-asset-size", "1MB"]).expect_status(3);
    run.expect_output("larger than --max-asset-size");
    assert_media_intact(&env);
    for row in audio_rows_by_clip(&env).values() {
        assert_eq!([&row["status"], &row["attempts"], &row["http_status"]], ["failed", "1", "200"]);
    }
    assert_eq!(media_stats(&env).by_path, HashMap::from([("long.mp3".into(), 1), ("long.jpeg".into(), 1)]));
    assert!(media_stats(&env).bytes < 10_000_000, "the body was downloaded");
    // A file of exactly the maximum size is accepted.
    let env = music_env(["a"], FaultPlan::default());
    let size = env.download_from_cdn("a.mp3").len();
    export(&env, &["--max-asset-size", &size.to_string()]).expect_status(0);
    let env = music_env(["a"], FaultPlan::default());
    export(&env, &["--max-asset-size", &(size - 1).to_string()]).expect_status(3);
}

/// Each song takes a quarter of a second to download.
#[test]
fn concurrent_downloads_stay_within_the_limits_in_total_and_per_host() {
    let slow = || media([Fault { kind: FaultKind::Throttle(200_000), filter: FaultFilter::ALWAYS }]);
    for (allowed, limit) in [("1", 1), ("2", 2), ("4", 3), ("8", 6)] {
        let env = music_env(ids("s", 8), slow());
        export(&env, &["--asset-concurrency", allowed]).expect_status(0);
        assert_eq!(media_stats(&env).max_concurrent, limit, "--asset-concurrency {allowed}");
    }
    // A server with two addresses counts as two hosts. The second address needs IPv6.
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let cdn = music_env(["x"], slow());
        let other = cdn.cdn_url().replace("127.0.0.2", "[::ffff:127.0.0.2]");
        let of = |cdn: String, prefix| ids(prefix, 12).into_iter().map(move |id| song(&id, format!("{cdn}/{id}.mp3")));
        let clips = of(cdn.cdn_url().to_owned(), "s").chain(of(other, "o")).collect();
        let env = library(FaultPlan::default(), [("t1", clips)]);
        export(&env, &["--asset-concurrency", "8"]).expect_status(0);
        assert_eq!(media_stats(&cdn).max_concurrent, 8);
    }
}

/// Most clip IDs are not valid or safe file names.
#[test]
fn unusual_clip_ids_get_safe_file_names_and_stay_unchanged_in_the_tables() {
    let long = "x".repeat(300);
    let unusual = [
        "../../x",
        "../x.mp3",
        "/etc/passwd",
        "CON",
        "con",
        "nul.txt",
        &long,
        "🎸",
        "夜",
        "",
        "a/b",
        "a\\b",
        "Abc",
        "abc",
        "ABC",
        "-rf",
        ".",
        "..",
        "a b",
        "a%41",
        "line\nbreak",
        "\"quoted\",",
        "image_x",
        "plain-1_2",
    ];
    let file = |n: usize| format!("{{cdn}}/file{n}.mp3");
    let mut clips: Vec<Value> = unusual.iter().enumerate().map(|(n, id)| song(id, file(n))).collect();
    clips.push(json!({ "audio_url": file(unusual.len()) }));
    clips.push(json!({ "id": 7, "audio_url": file(unusual.len() + 1) }));
    let env = library(FaultPlan::default(), [("t1", clips)]);
    export(&env, &[]).expect_status(0);
    assert_media_intact(&env);
    let rows = env.rows("assets");
    let expected: Vec<&str> = unusual.iter().copied().chain(["", "7"]).collect();
    assert_eq!(rows.iter().map(|row| row["clip_id"].as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(env.rows("clips").iter().map(|row| row["clip_id"].clone()).collect::<Vec<_>>(), expected);
    let mut names = BTreeSet::new();
    for (n, row) in rows.iter().enumerate() {
        let parts: Vec<&str> = row["path"].split('/').collect();
        let ["media", "audio", folder, name] = parts[..] else { panic!("{row:?}") };
        assert_eq!(folder, &sha256(row["clip_id"].as_bytes())[..2]);
        assert!(
            name.len() < 150 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte)),
            "{name}"
        );
        assert!(!name.starts_with(['-', '.']) && !["con.mp3", "nul.mp3"].contains(&name), "{name}");
        assert!(names.insert(row["path"].to_lowercase()), "{name} occurs twice");
        assert_eq!(row["sha256"], sha256(&env.download_from_cdn(&format!("file{n}.mp3"))), "{name}");
    }
    assert!(rows.iter().any(|row| row["path"].ends_with("/plain-1_2.mp3")));
    // No file was created outside the archive: the folder contains only the list and the archive.
    assert_eq!(fs::read_dir(env.path("")).unwrap().count(), 2);
}

/// One clip occurs in three tasks, and a later run fetches the third task.
#[test]
fn a_clip_of_several_tasks_is_downloaded_once_and_has_a_row_in_each() {
    let tasks = ["t1", "t2", "t3"].map(|id| (id, vec![clip("shared"), clip(&format!("own-{id}"))]));
    let env = library(FaultPlan::default(), tasks);
    env.write_list(["t1", "t2"]);
    export(&env, &["--assets", "audio,image"]).expect_status(0);
    env.write_list(["t1", "t2", "t3"]);
    export(&env, &["--assets", "audio,image"]).expect_status(0);
    assert_media_intact(&env);
    assert!(media_stats(&env).by_path.values().all(|requests| *requests == 1));
    let rows = env.rows("assets");
    let shared: Vec<&Row> = rows.iter().filter(|row| row["clip_id"] == "shared" && row["kind"] == "audio").collect();
    assert_eq!(shared.iter().map(|row| &row["task_id"]).collect::<BTreeSet<_>>().len(), 3);
    for column in ["path", "sha256", "bytes", "content_type", "status"] {
        assert!(shared.iter().all(|row| row[column] == shared[0][column]), "{column}");
    }
    assert_eq!(shared.iter().map(|row| field(row, "attempts")).sum::<u64>(), 1);
}

/// The CDN serves the same bytes for both songs of a task, either once or on every request. Identical covers are
/// allowed.
#[test]
fn identical_audio_is_refetched_later_and_reported_if_still_identical() {
    let duplicates = |filter: FaultFilter| Fault { kind: FaultKind::Identical, filter };
    let once = |file: &str| duplicates(FaultFilter { task: Some(file.into()), ..FaultFilter::first(1) });
    let env = library(
        media([once("once"), duplicates(FaultFilter::task("ever")), duplicates(FaultFilter::task("jpeg"))]),
        [
            ("t1", vec![clip("once-1"), clip("once-2")]),
            ("t2", vec![clip("ever-1"), clip("ever-2")]),
            ("t3", vec![clip("fine-1"), clip("fine-2")]),
        ],
    );
    let run = export(&env, &["--assets", "audio,image"]).expect_status(0);
    let run = run.expect_output("t2: the CDN serves identical audio for different clips: ");
    assert!(!run.stderr.contains("t1: ") && !run.stderr.contains("t3: "), "{}", run.stderr);
    assert_media_intact(&env);
    let rows = audio_rows_by_clip(&env);
    assert!(rows.values().all(|row| row["status"] == "ok"));
    assert_ne!(rows["once-1"]["sha256"], rows["once-2"]["sha256"]);
    for id in ["once-1", "once-2"] {
        assert_eq!((&rows[id]["error"], field(&rows[id], "attempts")), (&String::new(), 2));
        assert_eq!(rows[id]["sha256"], sha256(&env.download_from_cdn(&format!("{id}.mp3"))));
    }
    assert_eq!(rows["ever-1"]["sha256"], rows["ever-2"]["sha256"]);
    for (id, other) in [("ever-1", "ever-2"), ("ever-2", "ever-1")] {
        let row = &rows[id];
        assert!(row["error"].contains(&format!("identical to clip {other}")), "{row:?}");
        assert_eq!(field(row, "attempts"), 2);
    }
    assert_eq!(field(&rows["fine-1"], "attempts"), 1);
}

/// The CDN resets every connection, or never responds.
#[test]
fn a_dead_cdn_does_not_delay_the_api() {
    let dead =
        |fault| FaultPlan { unfinished: Some(0.0), ..media([Fault { kind: fault, filter: FaultFilter::ALWAYS }]) };
    let env = TestEnv::with_faults(dead(FaultKind::Reset));
    env.write_list(ids("t", 60));
    export(&env, &["--retries", "1"]).expect_status(3).expect_output("Archived 60 of 60 tasks");
    assert_media_intact(&env);
    assert_eq!((env.archived_ids().len(), env.stats().requests), (60, 60));
    assert!(env.rows("assets").iter().any(|row| row["status"] == "failed" && row["attempts"] == "2"));

    let env = TestEnv::with_faults(dead(FaultKind::Stall(60.0)));
    env.write_list(ids("t", 60));
    let mut run = start_export(&env, &[]);
    wait_until(|| env.stats().requests == 60);
    run.kill().unwrap();
    run.wait().unwrap();
}

/// Returns the size in bytes of the largest download in progress.
fn largest_partial(env: &TestEnv) -> u64 {
    let partial = files(&env.archive().join(".sunor/partial"), ".part");
    partial.iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).max().unwrap_or(0)
}

/// Two songs download fast and two take six seconds. The export is killed with SIGKILL before the slow downloads end.
#[test]
fn downloads_resume_after_a_kill_where_they_stopped() {
    let drip = |id| first_fault(1, id, FaultKind::Throttle(1_000_000));
    let env = library(
        FaultPlan { media_bytes: Some(6_000_000), ..media([drip("slow"), drip("slower")]) },
        [("t1", vec![clip("a")]), ("t2", vec![clip("b"), clip("slow")]), ("t3", vec![clip("slower")])],
    );
    let mut run = start_export(&env, &[]);
    let full = |name: &str| media_stats(&env).completed.contains_key(name);
    let placed = || walk(&env.archive().join("media")).len();
    wait_until(|| full("a.mp3") && full("b.mp3") && placed() == 2 && largest_partial(&env) >= 1 << 20);
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(env.archived_ids(), [""; 0]);
    assert_eq!(placed(), 2);
    let killed = media_stats(&env);

    export(&env, &[]).expect_status(0).expect_output("resuming the downloads of").expect_output("no request was sent");
    assert_media_intact(&env);
    assert_eq!((env.archived_ids(), env.stats().requests), (ids("t", 3), 3));
    let stats = media_stats(&env);
    for name in ["a.mp3", "b.mp3"] {
        assert_eq!((stats.by_path[name], stats.completed[name]), (1, 1), "{name} was downloaded again");
    }
    assert_eq!(stats.range_requests, 2);
    let rows = audio_rows_by_clip(&env);
    let size: u64 = ["slow", "slower"].map(|id| field(&rows[id], "bytes")).iter().sum();
    assert!(stats.bytes - killed.bytes <= size - (1 << 20), "the bytes of partial files were sent again");
    for (id, row) in rows {
        assert_eq!(row["sha256"], sha256(&env.download_from_cdn(&format!("{id}.mp3"))));
    }
}

/// Half of the files download slowly, and the export is killed repeatedly with SIGKILL, at random times.
#[test]
fn after_any_kill_every_file_is_complete_and_only_requests_in_flight_are_repeated() {
    let slow =
        Fault { kind: FaultKind::Throttle(400_000), filter: FaultFilter { share: Some(0.5), ..FaultFilter::ALWAYS } };
    let env = TestEnv::with_faults(media([slow]));
    env.write_list(ids("t", 100));
    let mut rng = fastrand::Rng::with_seed(5);
    let arguments = ["--assets", "audio,image", "--rate", "60/s", "--concurrency", "4", "-q"];
    let mut kills = 0;
    for _ in 0..8 {
        let mut run = start_export(&env, &arguments);
        thread::sleep(Duration::from_millis(rng.u64(50..500)));
        kills += u64::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
    }
    export(&env, &arguments).expect_status(0);
    assert_media_intact(&env);
    assert_eq!(env.archived_ids().len(), 100);
    // A kill loses responses that are in flight or not yet synced, and their requests are repeated.
    assert!(kills > 0 && env.stats().repeated <= 4 * kills, "{}", env.stats().repeated);
    let kinds = |row: Row| (row["task_id"].clone(), row["clip_id"].clone(), row["kind"].clone());
    let rows: BTreeSet<_> = env.rows("assets").into_iter().map(kinds).collect();
    assert_eq!((rows.len(), env.rows("assets").len()), (2 * env.rows("clips").len(), rows.len()));
}

/// Creates a provider with three tasks, and a CDN that stalls in the middle of the first download of one song.
fn env_with_stalled_download() -> TestEnv {
    library(
        media([first_fault(1, "slow", FaultKind::StallBody(120.0))]),
        [("t1", vec![clip("a")]), ("t2", vec![clip("b"), clip("slow")]), ("t3", vec![clip("c")])],
    )
}

/// Asserts the state after a run that ended during the download of a song of `t2`: `t1` and `t3` are archived, and the
/// next run archives `t2` without an API request.
#[track_caller]
fn assert_resumes(env: &TestEnv) {
    assert_media_intact(env);
    assert_eq!(env.archived_ids(), ["t1", "t3"]);
    assert_eq!(env.unfinished(), [("t2".to_owned(), "interrupted".to_owned())]);
    assert_eq!(
        env.summary()["tasks"],
        json!({ "success": 2, "failure": 0, "timeout": 0, "not_found": 0, "unfinished": 1, "unreadable": 0, "errors": 0 })
    );
    export(env, &[]).expect_status(0).expect_output("no request was sent");
    assert_media_intact(env);
    assert_eq!((env.archived_ids(), env.stats().requests), (ids("t", 3), 3));
    assert!(audio_rows_by_clip(env).values().all(|row| row["status"] == "ok") && audio_rows_by_clip(env).len() == 4);
    let requested = media_stats(env).by_path;
    assert_eq!(["a.mp3", "b.mp3", "c.mp3", "slow.mp3"].map(|name| requested[name]), [1, 1, 1, 2]);
}

/// The download of one song stalls in the middle.
#[test]
fn a_signal_ends_stalled_downloads_and_their_tasks_stay_in_the_journal() {
    let started = [("-INT", 130), ("-TERM", 143)].map(|(name, status)| {
        let env = env_with_stalled_download();
        let run = start_export(&env, &[]);
        wait_until(|| media_stats(&env).by_path.len() == 4 && media_stats(&env).completed.len() == 3);
        signal(&run, name);
        (Instant::now(), status, run, env)
    });
    for (signalled, status, run, env) in started {
        CommandOutput::wait_for(run).expect_status(status).expect_output("fetched data is kept");
        assert!(signalled.elapsed() < Duration::from_secs(9), "{:?}", signalled.elapsed());
        assert_resumes(&env);
    }
}

/// The download of one song stalls in the middle.
#[test]
fn stop_after_ends_stalled_downloads_and_their_tasks_stay_in_the_journal() {
    let env = env_with_stalled_download();
    let started = Instant::now();
    export(&env, &["--stop-after", "1s"]).expect_status(3);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    assert_resumes(&env);
}

/// Every request for one song gets a 429 with a `Retry-After` of 60 seconds, so the run waits for most of the time.
#[test]
fn a_signal_interrupts_a_retry_backoff_at_once() {
    let env = music_env(["a", "b"], media([fault_for("b", FaultKind::RateLimited(60))]));
    let run = start_export(&env, &[]);
    wait_until(|| media_stats(&env).requests == 2 && media_stats(&env).completed.contains_key("a.mp3"));
    let started = Instant::now();
    signal(&run, "-INT");
    CommandOutput::wait_for(run).expect_status(130);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(env.unfinished(), [("b".to_owned(), "interrupted".to_owned())]);
}

/// The download of a song stalls in the middle. When the next run starts, the song's URL has expired.
#[test]
fn a_url_that_expires_between_runs_is_a_failed_asset_of_an_archived_task() {
    let env = music_env(
        ["a", "b"],
        media([first_fault(1, "b", FaultKind::StallBody(120.0)), fault_for("b", FaultKind::Status(403))]),
    );
    let mut run = start_export(&env, &[]);
    wait_until(|| media_stats(&env).requests == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    export(&env, &[]).expect_status(3).expect_output("1 asset failed in earlier runs");
    assert_media_intact(&env);
    let row = &audio_rows_by_clip(&env)["b"];
    assert_eq!(
        [&row["status"], &row["error"], &row["http_status"], &row["attempts"]],
        ["failed", "HTTP 403", "403", "3"]
    );
    assert_eq!((env.archived_ids(), env.stats().requests), (vec!["a".to_owned(), "b".to_owned()], 2));
    // Later exports do not retry the failed download.
    export(&env, &[]).expect_status(0);
    assert_eq!((media_stats(&env).by_path["b.mp3"], env.stats().requests), (4, 2));
}

#[test]
fn only_the_selected_assets_are_downloaded() {
    let env_with_video = || {
        let mut clip = clip("a");
        clip["video_url"] = "{cdn}/a.mp4".into();
        library(FaultPlan::default(), [("t1", vec![clip])])
    };
    for (kinds, names) in [
        ("video", &["a.mp4"][..]),
        ("image,audio", &["a.jpeg", "a.mp3"]),
        ("all", &["a.jpeg", "a.mp3", "a.mp4"]),
        ("none", &[]),
    ] {
        let env = env_with_video();
        export(&env, &["--assets", kinds]).expect_status(0);
        assert_media_intact(&env);
        assert_eq!(
            media_stats(&env).by_path.into_keys().collect::<BTreeSet<_>>(),
            names.iter().map(|name| (*name).to_owned()).collect()
        );
        assert_eq!(env.rows("assets").len(), names.len());
        assert_eq!(env.archive().join("assets").exists(), kinds != "none");
    }
    let env = env_with_video();
    export(&env, &["--assets", "video"]).expect_status(0);
    let row = &env.rows("assets")[0];
    assert_eq!([&row["kind"], &row["content_type"]], ["video", "video/mp4"]);
    assert!(row["path"].starts_with("media/video/") && row["path"].ends_with("/a.mp4"));
    for bad in ["", "cover", "audio,", "none,audio"] {
        let env = env_with_video();
        export(&env, &["--assets", bad]).expect_status(2).expect_output("--assets");
        assert!(env.stats().requests == 0 && !env.archive().exists());
    }
}

/// A file-size limit of 100 KiB is too small for the songs, but large enough for the journal.
#[test]
fn a_full_disk_during_a_download_stops_the_run_and_the_next_run_resumes() {
    let env = music_env(ids("s", 8), large_songs([]));
    let limited = command(&env, &["--assets", "audio,image", "--concurrency", "2"]);
    let mut run = Command::new("bash");
    run.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "bash"]);
    run.arg(limited.get_program()).args(limited.get_args());
    run.current_dir(env.path("")).envs(limited.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = CommandOutput::wait_for(run.spawn().unwrap()).expect_status(1);
    run.expect_output("cannot write").expect_output(".sunor/partial/audio-s").expect_output("Rerun the command");
    assert_media_intact(&env);
    assert!(walk(&env.archive().join("media")).iter().all(|path| !path.to_string_lossy().ends_with(".mp3")));
    let requested = env.stats().requests;
    assert_eq!((env.archived_ids().len(), env.unfinished().len()), (0, 8));
    let kept = env.unfinished().iter().filter(|(_, reason)| reason == "interrupted").count();
    assert_eq!(kept as u64, requested);

    export(&env, &["--assets", "audio,image"]).expect_status(0);
    assert_media_intact(&env);
    assert_eq!((env.archived_ids(), env.stats().requests, env.stats().repeated), (ids("s", 8), 8, 0));
    assert!(
        audio_rows_by_clip(&env)
            .iter()
            .all(|(id, row)| row["sha256"] == sha256(&env.download_from_cdn(&format!("{id}.mp3"))))
    );
}

/// The first two requests for one song stall.
#[test]
fn stop_after_ends_the_downloads_of_an_earlier_run_and_their_tasks_stay_in_the_journal() {
    let env = library(
        media([first_fault(2, "slow", FaultKind::Stall(120.0))]),
        [("t1", vec![clip("a")]), ("t2", vec![clip("slow")]), ("t3", vec![clip("c")])],
    );
    let mut run = start_export(&env, &[]);
    wait_until(|| media_stats(&env).by_path.len() == 3 && media_stats(&env).completed.len() == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    export(&env, &["--stop-after", "1s"]).expect_status(3).expect_output("-unfinished.csv");
    assert_eq!((env.archived_ids().len(), env.unfinished().len(), env.stats().requests), (0, 3, 3));
    export(&env, &[]).expect_status(0);
    assert_media_intact(&env);
    assert_eq!((env.archived_ids(), env.stats().requests), (ids("t", 3), 3));
}

/// The first requests for the songs stall, and the journal contains the segments of two killed runs.
#[test]
fn stop_after_publishes_no_task_whose_assets_are_not_settled() {
    let env = music_env(
        ["s1", "s2"],
        media([(2, "s1"), (1, "s2")].map(|(n, id)| first_fault(n, id, FaultKind::Stall(120.0)))),
    );
    for (n, name) in [(1, "s1"), (2, "s2")] {
        env.write_list([name]);
        let mut run = start_export(&env, &[]);
        wait_until(|| media_stats(&env).requests == n);
        run.kill().unwrap();
        run.wait().unwrap();
        // Moves the segment out of the archive until both runs are killed. Otherwise, the second run would recover it.
        let journal = env.archive().join(".sunor/journal");
        for segment in files(&journal, ".journal") {
            fs::rename(&segment, env.path(&format!("{name}-{}", segment.file_name().unwrap().display()))).unwrap();
        }
    }
    for path in files(&env.path(""), ".journal") {
        let name = path.file_name().unwrap().to_string_lossy()[3..].to_owned();
        fs::rename(&path, env.archive().join(".sunor/journal").join(name)).unwrap();
    }
    env.write_list(["s1", "s2"]);
    export(&env, &["--stop-after", "1s"]).expect_status(3);
    assert_eq!(env.archived_ids(), [""; 0]);
    export(&env, &["--retries", "2"]).expect_status(0);
    assert_media_intact(&env);
    assert_eq!((env.archived_ids(), env.rows("assets").len(), env.stats().requests), (ids("s", 2), 2, 2));
}

/// The songs download slowly, and the process may have at most 256 open files.
#[test]
fn queued_downloads_hold_no_open_file() {
    let slow = Fault { kind: FaultKind::Throttle(400_000), filter: FaultFilter::ALWAYS };
    let env = music_env(ids("s", 400), media([slow]));
    let limited = command(&env, &["--asset-concurrency", "16"]);
    let mut run = Command::new("bash");
    run.args(["-c", "ulimit -n 256; exec \"$@\"", "bash"]).arg(limited.get_program()).args(limited.get_args());
    run.current_dir(env.path("")).envs(limited.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run.stdout(Stdio::piped()).stderr(Stdio::piped());
    CommandOutput::wait_for(run.spawn().unwrap()).expect_status(0);
    assert_media_intact(&env);
}

/// The CDN first sends the same bytes for two clips of a task. One of the clips also occurs in a second task, which is
/// archived before, after or together with the first task.
#[test]
fn a_file_referenced_by_a_row_is_never_replaced() {
    for lists in [&["t1", "t2"][..], &["t2", "t1"], &["t1 t2"]] {
        let once = Fault {
            kind: FaultKind::Identical,
            filter: FaultFilter { task: Some("take".into()), ..FaultFilter::first(1) },
        };
        let tasks = [("t1", vec![clip("take-1"), clip("take-2")]), ("t2", vec![clip("take-1")])];
        let env = library(media([once]), tasks);
        for list in lists {
            env.write_list(list.split(' '));
            export(&env, &[]).expect_status(0);
            assert_media_intact(&env);
        }
    }
}

/// The host responds to every request with a `Retry-After` of zero seconds.
#[test]
fn a_retry_after_of_zero_does_not_cause_a_request_storm() {
    let env = music_env(["a"], media([fault_for("a", FaultKind::RateLimited(0))]));
    let started = Instant::now();
    export(&env, &["--retries", "1"]).expect_status(3);
    let (requests, took) = (media_stats(&env).requests, started.elapsed());
    assert!(took.as_secs_f64() > requests as f64 / 10.0, "{requests} requests in {took:?}");
}

/// The partial file of a killed export contains the complete song.
#[cfg(target_os = "linux")]
#[test]
fn a_download_complete_at_the_kill_is_not_restarted() {
    let env = music_env(
        ["a"],
        FaultPlan { media_bytes: Some(3_000_000), ..media([first_fault(1, "a", FaultKind::Throttle(1_000_000))]) },
    );
    let mut run = start_export(&env, &[]);
    wait_until(|| largest_partial(&env) >= 1 << 19);
    run.kill().unwrap();
    run.wait().unwrap();
    let partial = env.archive().join(".sunor/partial/audio-a.part");
    let song = env.download_from_cdn("a.mp3");
    assert!(song.starts_with(&fs::read(&partial).unwrap()));
    fs::write(&partial, &song).unwrap();
    let sent = media_stats(&env).bytes;
    export(&env, &["--retries", "0"]).expect_status(0);
    assert_media_intact(&env);
    assert!(media_stats(&env).bytes - sent < 100_000, "the whole song was sent again");
}

/// The CDN is unreachable during the first run, which is killed, and during the second run.
#[test]
fn files_from_an_earlier_run_survive_a_network_outage() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let env = library(FaultPlan::default(), [("t1", vec![song("a", format!("http://{free}/a.mp3"))])]);
    let mut run = start_export(&env, &["--retries", "20"]);
    wait_until(|| env.stats().requests == 1 && !walk(&env.archive().join(".sunor/partial")).is_empty());
    run.kill().unwrap();
    run.wait().unwrap();
    export(&env, &["--retries", "1"]).expect_status(3).expect_output("host unreachable");
    let mp3 = env.download_from_cdn("a.mp3");
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", mp3.len());
    let listener = TcpListener::bind(free).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(&[length.as_bytes(), &mp3].concat()).unwrap();
    });
    export(&env, &[]).expect_status(0);
    assert_media_intact(&env);
    assert_eq!((audio_rows_by_clip(&env)["a"]["status"].as_str(), env.stats().requests), ("ok", 1));
}

/// The first export downloads no assets, the second only covers, and the third all kinds of assets.
#[test]
fn kinds_selected_later_are_downloaded_without_a_request() {
    for format in ["parquet", "csv"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 30));
        env.export(&["--format", format, "--assets", "none"]).expect_status(0);
        let requested = env.stats().requests;
        let tasks = env.rows("tasks");
        env.export(&["--assets", "image", "--dry-run"]).expect_status(0).expect_output("stored responses");
        env.export(&["--assets", "image"]).expect_status(0).expect_output("archived tasks lack assets");
        env.export(&["--assets", "all"]).expect_status(0);
        assert_eq!(env.stats().requests, requested, "stored responses must not be requested again");
        assert!(env.rows("tasks") == tasks, "{format}: the tasks table must not change");

        let clips = env.rows("clips").len();
        for kind in ["audio", "image", "video"] {
            let rows = env.rows("assets").into_iter().filter(|row| row["kind"].contains(kind)).count();
            assert_eq!(rows, clips, "{format}: {kind}");
        }
        let rows = env.rows("assets");
        let count = |status: &str| rows.iter().filter(|row| row["status"].contains(status)).count();
        assert!(count("failed") == 0 && count("ok") > clips, "{format}");
        let media = env.stats().media.requests;
        env.export(&["--assets", "all"]).expect_status(0).expect_output("30 already archived");
        assert_eq!(env.stats().media.requests, media, "no asset is missing, so no asset must be requested");
        env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
    }
}

/// The URLs in the stored responses have expired, and the provider returns fresh URLs.
#[test]
fn an_expired_url_of_a_kind_selected_later_fails_and_repair_fetches_a_fresh_one() {
    let expired = Fault { kind: FaultKind::Status(403), filter: FaultFilter::first(1) };
    let env = TestEnv::with_faults(FaultPlan { media: vec![expired], ..FaultPlan::default() });
    env.write_list(ids("t", 10));
    env.export(&["--assets", "none"]).expect_status(0);
    let requested = env.stats().requests;
    env.export(&["--assets", "audio", "--retries", "0"]).expect_status(3).expect_output("HTTP 403");
    assert_eq!(env.stats().requests, requested);
    env.export(&["--assets", "audio"]).expect_status(0).expect_output("failed in earlier runs");
    env.run(&["repair", "library", "--rate", "unlimited", "--assets", "audio"])
        .expect_status(0)
        .expect_output("Repair complete");
    assert!(env.rows("assets").iter().all(|row| row["status"].contains("ok")));
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}

/// A run that downloads an additional kind of asset is killed, and the next run is stopped by SIGTERM.
#[test]
fn a_killed_download_of_additional_kinds_is_resumed_without_duplicate_rows() {
    let stall =
        Fault { kind: FaultKind::Stall(60.0), filter: FaultFilter { share: Some(0.5), ..FaultFilter::first(1) } };
    let env = TestEnv::with_faults(FaultPlan { media: vec![stall], ..FaultPlan::default() });
    env.write_list(ids("t", 20));
    env.export(&["--assets", "none"]).expect_status(0);
    for signal in ["-KILL", "-TERM"] {
        let run = env.export_command(&["--assets", "image"]).spawn().unwrap();
        let before = env.stats().media.requests;
        wait_until(|| env.stats().media.requests >= before + 4);
        assert!(Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        CommandOutput::wait_for(run);
    }
    env.export(&["--assets", "image", "--timeout", "1s"]).expect_status(0);
    let mut clips: Vec<String> = env.rows("assets").into_iter().map(|mut row| row.remove("clip_id").unwrap()).collect();
    let count = clips.len();
    clips.sort();
    clips.dedup();
    assert_eq!((clips.len(), count), (count, env.rows("clips").len()));
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}
