//! Tests of `repair`. The tests damage archives and run the built program on them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{CommandOutput, TestEnv, files, ids, seed, wait_until, walk};
use parquet::file::reader::{FileReader, SerializedFileReader};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan, KnownTasks, SimulatedProvider};

const FORMATS: [&str; 2] = ["parquet", "csv"];

const TABLES: [&str; 4] = ["tasks", "clips", "lyrics", "assets"];

/// Creates an archive that contains 30 tasks with their audio and covers.
fn create_archive(env: &TestEnv, format: &str) {
    env.write_list(ids("t", 30));
    env.export(&["--format", format, "--assets", "audio,image"]).expect_status(0);
}

fn repair(env: &TestEnv, arguments: &[&str]) -> CommandOutput {
    env.run(&[&["repair", "library", "--rate", "unlimited", "--retries", "1"], arguments].concat())
}

/// Returns the rows of all tables without run-specific columns, which a repair may change.
fn comparable_rows(env: &TestEnv) -> BTreeMap<&'static str, Vec<BTreeMap<String, String>>> {
    let own = ["run_id", "fetched_at", "attempts", "http_status", "downloaded_at"];
    let same = |(column, _): &(String, String)| !own.contains(&column.as_str());
    let rows = |table| {
        let mut rows: Vec<BTreeMap<_, _>> =
            env.rows(table).into_iter().map(|row| row.into_iter().filter(same).collect()).collect();
        rows.sort();
        (table, rows)
    };
    TABLES.map(rows).into()
}

fn part(env: &TestEnv, table: &str) -> PathBuf {
    files(&env.archive().join(table), "").pop().unwrap()
}

fn media(env: &TestEnv) -> PathBuf {
    walk(&env.archive().join("media/audio")).pop().unwrap()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// One file in the archive is damaged, missing or duplicated.
#[test]
fn repair_restores_lost_files_and_changes_nothing_else() {
    type Damage = (&'static str, fn(&TestEnv));
    let damages: [Damage; 9] = [
        ("a clips part is missing", |env| fs::remove_file(part(env, "clips")).unwrap()),
        ("a lyrics part is damaged", |env| flip(&part(env, "lyrics"))),
        ("an assets part is missing", |env| fs::remove_file(part(env, "assets")).unwrap()),
        ("an assets part is damaged", |env| flip(&part(env, "assets"))),
        ("a song is missing", |env| fs::remove_file(media(env)).unwrap()),
        ("a song is damaged", |env| flip(&media(env))),
        ("a song is truncated", |env| fs::write(media(env), b"ID3").unwrap()),
        ("a tasks part is duplicated", |env| {
            let path = part(env, "tasks");
            let name = Path::new("20260101T000000000Z-aaaaaa-0001").with_extension(path.extension().unwrap());
            fs::copy(&path, path.with_file_name(name)).unwrap();
        }),
        ("a manifest is missing", |env| {
            fs::remove_file(files(&env.archive().join("runs"), ".sha256").pop().unwrap()).unwrap();
        }),
    ];
    for ((what, damage), format) in damages.iter().flat_map(|damage| FORMATS.map(|format| (damage, format))) {
        let env = TestEnv::new();
        create_archive(&env, format);
        let (before, requested) = (comparable_rows(&env), env.stats().requests);
        damage(&env);
        env.run(&["verify", "library"]).expect_status(3);
        repair(&env, &["--dry-run"]).expect_status(0).expect_output("nothing was sent");
        env.run(&["verify", "library"]).expect_status(3);
        repair(&env, &[]).expect_status(0);
        env.run(&["verify", "library"]).expect_status(0);
        assert!(comparable_rows(&env) == before, "{format}: {what}");
        assert_eq!(env.stats().requests, requested, "{format}: {what}: a repair must send no request");
    }
}

/// The archive contains a video for each song, but the repair selects only audio.
#[test]
fn lost_asset_rows_are_restored_for_the_kinds_that_have_files() {
    let document = |n| {
        let clip = format!(r#"{{"id":"c{n}","audio_url":"{{cdn}}/c{n}.mp3","video_url":"{{cdn}}/c{n}.mp4"}}"#);
        let task = format!(r#"{{"task_id":"t{n}","type":"music","status":"success","output":{{"result":[{clip}]}}}}"#);
        (format!("t{n}"), format!(r#"{{"code":200,"data":{task}}}"#))
    };
    let documents = (0..8).map(document).collect();
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents,
        ..SimulatedProvider::default()
    });
    env.write_list((0..8).map(|n| format!("t{n}")));
    env.export(&["--format", "csv", "--assets", "audio,video"]).expect_status(0);
    let before = comparable_rows(&env);
    fs::remove_file(part(&env, "assets")).unwrap();
    repair(&env, &["--assets", "audio"]).expect_status(0);
    assert!(comparable_rows(&env) == before);
    assert!(env.stats().media.completed.values().all(|sent| *sent == 1));
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}

/// The only part of the tasks table is missing or damaged.
#[test]
fn tasks_with_lost_rows_are_refetched() {
    let damages: [fn(&Path); 2] = [|path| fs::remove_file(path).unwrap(), flip];
    for (damage, format) in damages.iter().flat_map(|damage| FORMATS.map(|format| (damage, format))) {
        let env = TestEnv::new();
        create_archive(&env, format);
        let before = comparable_rows(&env);
        damage(&part(&env, "tasks"));
        // The exit status is 3 if some lost tasks have no rows in other tables, because their IDs are then unknown.
        let repaired = repair(&env, &[]).expect_output("to fetch");
        assert!(matches!(repaired.status, Some(0 | 3)), "{}", repaired.stderr);
        env.run(&["verify", "library"]).expect_status(0);
        let clips = |content: &BTreeMap<_, Vec<BTreeMap<String, String>>>| content["clips"].clone();
        assert_eq!(clips(&comparable_rows(&env)), clips(&before));
        // `repair` cannot identify lost tasks without rows in other tables. An export of the list archives these tasks
        // again.
        env.export(&["--assets", "audio,image"]).expect_status(0);
        assert!(comparable_rows(&env) == before);
        assert!(env.stats().by_task.values().all(|requested| *requested <= 2));
    }
}

/// Creates an archive without media, and deletes the only part of the `tasks` table. The exit status of `repair` is 3,
/// because `repair` cannot identify lost tasks that have no rows in other tables.
fn env_with_lost_tasks(count: usize) -> TestEnv {
    let env = TestEnv::new();
    env.write_list(ids("t", count));
    env.export(&["--format", "csv"]).expect_status(0);
    fs::remove_file(part(&env, "tasks")).unwrap();
    env
}

/// Returns a command that repairs the archive in `env` with responses from `provider`. Without `--assets`, the command
/// downloads no assets.
fn repair_command(provider: &TestEnv, env: &TestEnv, arguments: &[&str]) -> Command {
    let mut command = env.program();
    command.args(["repair", "library", "--rate", "unlimited", "--base-url", provider.base_url()]);
    if !arguments.contains(&"--assets") {
        command.args(["--assets", "none"]);
    }
    command.args(arguments);
    command
}

/// Requests for half of the tasks stall, and a signal or `--stop-after` stops the repair.
#[test]
fn an_interrupted_repair_keeps_its_progress_and_the_next_one_resumes() {
    for (signal, status, expected) in [("-INT", 130, "SIGINT"), ("-TERM", 143, "SIGTERM"), ("", 3, "--stop-after")] {
        let env = env_with_lost_tasks(80);
        let stall =
            Fault { kind: FaultKind::Stall(60.0), filter: FaultFilter { share: Some(0.5), ..FaultFilter::ALWAYS } };
        let slow = TestEnv::with_faults(FaultPlan { faults: vec![stall], ..FaultPlan::default() });
        let time = if signal.is_empty() { vec!["--stop-after", "4s"] } else { vec![] };
        let run = repair_command(&slow, &env, &time).spawn().unwrap();
        if !signal.is_empty() {
            wait_until(|| slow.stats().requests >= 20);
            assert!(Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        }
        let stopped = CommandOutput::wait_for(run)
            .expect_status(status)
            .expect_output(&format!("Stopped by {expected}"))
            .expect_output("rerun `repair` for the rest");
        let kept = env.archived_ids();
        assert!(kept.len() < 80 && (signal.is_empty() || !kept.is_empty()), "{}", kept.len());
        stopped.expect_output(&format!("repaired  {} task", kept.len()));

        let requested = env.stats().by_task;
        CommandOutput::wait_for(repair_command(&env, &env, &[]).spawn().unwrap())
            .expect_status(3)
            .expect_output("cannot be identified");
        let now = env.stats().by_task;
        assert!(kept.iter().all(|task| now[task] == requested[task]), "kept tasks must not be requested again");
        env.export(&[]).expect_status(0);
        assert_eq!(env.archived_ids().len(), 80);
        env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
    }
}

/// The first request for half of the covers stalls, and a signal stops the repair during the downloads.
#[test]
fn a_repair_stopped_during_downloads_fetches_no_task_twice() {
    let env = TestEnv::new();
    env.write_list(ids("t", 40));
    env.export(&["--assets", "image"]).expect_status(0);
    fs::remove_file(part(&env, "tasks")).unwrap();
    fs::remove_dir_all(env.archive().join("media")).unwrap();
    let stall =
        Fault { kind: FaultKind::Stall(60.0), filter: FaultFilter { share: Some(0.5), ..FaultFilter::first(1) } };
    let slow = TestEnv::with_faults(FaultPlan { media: vec![stall], ..FaultPlan::default() });
    let run = repair_command(&slow, &env, &["--assets", "image"]).spawn().unwrap();
    wait_until(|| slow.stats().media.requests >= 6);
    assert!(Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap().success());
    CommandOutput::wait_for(run).expect_status(143).expect_output("Stopped by SIGTERM");

    let next = repair_command(&slow, &env, &["--assets", "image", "--timeout", "1s"]).spawn().unwrap();
    CommandOutput::wait_for(next).expect_status(3).expect_output("cannot be identified");
    assert_eq!(slow.stats().repeated, 0);
    env.export(&["--assets", "image"]).expect_status(0);
    let status = |row: &HashMap<String, String>| row["status"].trim_matches('"').to_owned();
    assert!(env.rows("assets").iter().all(|row| ["ok", "skipped"].contains(&status(row).as_str())));
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}

/// The provider no longer has some of the lost tasks, and returns a less complete response for another lost task.
#[test]
fn remaining_rows_are_kept_if_the_provider_has_no_better_response() {
    for format in FORMATS {
        let env = TestEnv::new();
        create_archive(&env, format);
        fs::remove_file(part(&env, "tasks")).unwrap();
        let left = |content: BTreeMap<&'static str, Vec<BTreeMap<String, String>>>| {
            ["clips", "lyrics", "assets"].map(|table| content[table].clone())
        };
        let before = left(comparable_rows(&env));
        let task = |row: &HashMap<String, String>| row["task_id"].trim_matches('"').to_owned();
        let mut lost: Vec<String> = env.rows("clips").iter().map(task).collect();
        lost.dedup();
        let less_complete = format!(
            r#"{{"code":200,"data":{{"task_id":"{}","type":"music","status":"success","output":null}}}}"#,
            lost[0]
        );
        let less_complete = Fault { kind: FaultKind::Body(less_complete), filter: FaultFilter::task(&lost[0]) };
        let deleted =
            Fault { kind: FaultKind::Status(404), filter: FaultFilter { share: Some(0.4), ..FaultFilter::ALWAYS } };
        let provider = TestEnv::with_faults(FaultPlan { faults: vec![less_complete, deleted], ..FaultPlan::default() });
        let run = repair_command(&provider, &env, &["--assets", "audio,image"]).spawn().unwrap();
        let run = CommandOutput::wait_for(run)
            .expect_status(3)
            .expect_output("archived as not found, with its remaining rows");
        run.expect_output("the provider's response has fewer clips than the archive still contains");
        let counts = |left: &[Vec<BTreeMap<String, String>>; 3]| left.each_ref().map(Vec::len);
        assert_eq!(counts(&left(comparable_rows(&env))), counts(&before), "{format}");
        // The task with the less complete response is not archived, and `verify` reports its rows.
        let expected = env.run(&["verify", "library"]).expect_status(3).stdout;
        assert!(expected.contains("whose task is not in `tasks`") && expected.contains(&lost[0]), "{expected}");
        repair(&env, &["--assets", "audio,image"]).expect_status(3);
        env.run(&["verify", "library"]).expect_status(0);
        assert_eq!(counts(&left(comparable_rows(&env))), counts(&before), "{format}");
    }
}

/// A part is copied within the folder of its table.
#[test]
fn duplicate_rows_are_found_and_removed() {
    for (format, table) in FORMATS.iter().flat_map(|format| TABLES.map(|table| (format, table))) {
        let env = TestEnv::new();
        create_archive(&env, format);
        let before = comparable_rows(&env);
        let path = part(&env, table);
        fs::copy(&path, path.with_file_name(Path::new("backup").with_extension(format))).unwrap();
        env.run(&["verify", "library"]).expect_status(3);
        repair(&env, &[]).expect_status(0).expect_output("Repair complete");
        env.run(&["verify", "library"]).expect_status(0);
        assert!(comparable_rows(&env) == before, "{format}: {table}");
    }
}

/// The test damages a run summary and then a list of unfinished tasks.
#[test]
fn a_damaged_run_file_is_quarantined_and_reported_and_the_summary_ignores_it() {
    let env = TestEnv::new();
    create_archive(&env, "csv");
    for ending in [".json", "-unfinished.csv"] {
        let file = files(&env.archive().join("runs"), ending).pop().unwrap();
        fs::write(&file, "{\"").unwrap();
        env.run(&["summary", "library"])
            .expect_status(0)
            .expect_output("30 tasks")
            .expect_output("1 run file cannot be read");
        let name = file.file_name().unwrap().to_str().unwrap();
        repair(&env, &[]).expect_status(3).expect_output(name).expect_output("1 run file");
        assert!(env.archive().join(format!(".sunor/damaged/runs_{name}")).exists());
        env.run(&["verify", "library"]).expect_status(0);
        repair(&env, &[]).expect_status(0).expect_output("Nothing to repair");
    }
}

/// During the first repair, the requests for three tasks fail.
#[test]
fn unavailable_tasks_do_not_prevent_the_repair_of_others() {
    let env = env_with_lost_tasks(80);
    let mut lost: Vec<String> = env.rows("clips").into_iter().map(|mut row| row.remove("task_id").unwrap()).collect();
    lost.dedup();
    let bad = &lost[5..8];
    let faults =
        bad.iter().map(|task| Fault { kind: FaultKind::Status(500), filter: FaultFilter::task(task) }).collect();
    let provider = TestEnv::with_faults(FaultPlan { faults, ..FaultPlan::default() });
    let run = repair_command(&provider, &env, &["--retries", "1", "--concurrency", "2"]).spawn().unwrap();
    CommandOutput::wait_for(run)
        .expect_status(3)
        .expect_output("Not repaired: 3 tasks")
        .expect_output(&format!("{}: HTTP 500", bad[0]));
    assert!(lost.iter().all(|task| env.archived_ids().contains(task) != bad.contains(task)));

    let named: BTreeSet<String> = env.unfinished().into_iter().map(|(task, _)| task).collect();
    assert_eq!(named, bad.iter().cloned().collect());
    env.run(&["summary", "library"]).expect_status(0).expect_output("3 with errors");

    // The next repair requests only the three unavailable tasks.
    let before = env.stats().requests;
    CommandOutput::wait_for(repair_command(&env, &env, &[]).spawn().unwrap())
        .expect_status(3)
        .expect_output("repaired  3 tasks");
    assert_eq!(env.stats().requests, before + 3);
    assert!(lost.iter().all(|task| env.archived_ids().contains(task)));
    repair(&env, &[]).expect_status(0).expect_output("Nothing to repair");
}

/// The first request for each task gets a 429, and the second a 502. Later responses report the task as unfinished for
/// up to ten seconds.
#[test]
fn repair_waits_retries_and_polls_like_export() {
    let faults = [FaultKind::RateLimited(1), FaultKind::Status(502)];
    let faults =
        (1..).zip(faults).map(|(first, fault)| Fault { kind: fault, filter: FaultFilter::first(first) }).collect();
    let slow = FaultPlan { faults, unfinished: Some(1.0), unfinished_seconds: Some(10.0), ..FaultPlan::default() };
    let env = env_with_lost_tasks(30);
    let slow = TestEnv::with_faults(slow);
    let arguments = ["--poll-interval", "1s", "--wait", "60s", "--metrics-file", "run.prom"];
    let run = CommandOutput::wait_for(repair_command(&slow, &env, &arguments).spawn().unwrap()).expect_status(3);
    assert!(!run.stdout.contains("Not repaired"), "{}", run.stdout);
    let lost = slow.stats().by_task.len() as u64;
    let figures = fs::read_to_string(env.path("run.prom")).unwrap();
    let figure = |name: &str| {
        let line = figures.lines().find_map(|line| line.strip_prefix(&format!("sunor_archive_{name} ")));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((figure("exit_code"), figure(r#"rows{table="tasks"}"#)), (3, lost));
    assert_eq!((figure(r#"requests{kind="first"}"#), figure("rate_limited_requests")), (lost, lost));
    assert!(figure(r#"requests{kind="retry"}"#) >= 2 * lost && figure(r#"requests{kind="poll"}"#) > 0, "{figures}");

    let never = FaultPlan { unfinished: Some(1.0), unfinished_seconds: Some(3600.0), ..FaultPlan::default() };
    let (never, env) = (TestEnv::with_faults(never), env_with_lost_tasks(10));
    let run = repair_command(&never, &env, &["--wait", "0s"]).spawn().unwrap();
    CommandOutput::wait_for(run).expect_status(3).expect_output("its status is pending");
}

/// More tasks are lost than fit into one journal segment.
#[test]
fn a_repair_publishes_incrementally_and_writes_a_run_record() {
    let env = env_with_lost_tasks(9_000);
    let requested = env.stats().requests;
    CommandOutput::wait_for(repair_command(&env, &env, &[]).spawn().unwrap()).expect_status(3);
    let sent = env.stats().requests - requested;
    assert!(sent > 5_000, "{sent}");
    assert_eq!(files(&env.archive().join("tasks"), ".csv").len(), 2);

    let run = files(&env.archive().join("runs"), ".json").pop().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(run).unwrap()).unwrap();
    assert_eq!((&record["command"], &record["exit_code"]), (&"repair".into(), &3.into()));
    assert_eq!((&record["requests"]["total"], &record["rows"]["tasks"]), (&sent.into(), &sent.into()));
    assert_eq!((&record["input"]["selected"], &record["tasks"]["success"]), (&sent.into(), &sent.into()));
    let expected = env.run(&["summary", "library"]).expect_status(0).stdout;
    assert!(expected.contains("repair") && expected.contains(&sent.to_string()), "{expected}");
}

/// In the damaged part of the `tasks` table, the task IDs are readable but the responses are not. The provider no
/// longer has one of these tasks.
#[test]
fn a_lost_task_unknown_to_the_provider_is_archived_as_not_found_and_reported() {
    let env = TestEnv::new();
    create_archive(&env, "parquet");
    let before = comparable_rows(&env);
    let path = part(&env, "tasks");
    let reader = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let columns = reader.metadata().row_group(0).columns();
    let response = columns.iter().find(|column| column.column_path().string() == "response").unwrap();
    let (start, length) = response.byte_range();
    let mut bytes = fs::read(&path).unwrap();
    bytes[start as usize..(start + length) as usize].fill(0);
    fs::write(&path, bytes).unwrap();

    let expected = "the provider no longer has this task; archived as not found";
    repair(&env, &[]).expect_status(3).expect_output("Not repaired: 1 task").expect_output(expected);
    assert!(comparable_rows(&env) == before);
    env.run(&["verify", "library"]).expect_status(0);
    env.export(&["--assets", "audio,image"]).expect_status(0).expect_output("30 already archived");
}

/// Some media files are unavailable, either temporarily or permanently.
#[test]
fn failed_downloads_are_retried_and_listed_if_they_fail_again() {
    let not_found = |first| Fault {
        kind: FaultKind::Status(404),
        filter: FaultFilter { first, share: Some(0.3), ..FaultFilter::ALWAYS },
    };
    let env = TestEnv::with_faults(FaultPlan { media: vec![not_found(Some(1))], ..FaultPlan::default() });
    env.write_list(ids("t", 30));
    env.export(&["--format", "csv", "--assets", "audio,image"]).expect_status(3);
    env.export(&["--assets", "audio,image"]).expect_status(0).expect_output("repair");
    repair(&env, &[]).expect_status(0).expect_output("Repair complete");
    assert!(env.rows("assets").iter().all(|row| row["status"] != "failed"));
    env.run(&["verify", "library"]).expect_status(0);

    let env = TestEnv::with_faults(FaultPlan { media: vec![not_found(None)], ..FaultPlan::default() });
    env.write_list(ids("t", 30));
    env.export(&["--format", "csv", "--assets", "audio,image"]).expect_status(3);
    let before = comparable_rows(&env);
    repair(&env, &[]).expect_status(3).expect_output("Not repaired").expect_output("HTTP 404");
    assert!(comparable_rows(&env) == before);
    env.run(&["verify", "library"]).expect_status(0);
}

/// `repair` is killed repeatedly, at random times.
#[test]
fn a_killed_repair_loses_nothing_and_the_next_one_completes_it() {
    let env = TestEnv::new();
    create_archive(&env, "csv");
    let before = comparable_rows(&env);
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..6 {
        for song in walk(&env.archive().join("media/audio")).into_iter().step_by(3) {
            fs::remove_file(song).unwrap();
        }
        let mut command = env.program();
        let mut run = command.args(["repair", "library", "--rate", "unlimited", "-q"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(20..500)));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    repair(&env, &[]).expect_status(0);
    env.run(&["verify", "library"]).expect_status(0);
    assert!(comparable_rows(&env) == before);
}

/// A repair is killed while it fetches tasks whose rows are lost.
#[test]
fn a_killed_repair_is_recorded_as_a_repair_when_it_is_recovered() {
    let env = TestEnv::new();
    env.write_list(ids("t", 40));
    env.export(&["--assets", "none"]).expect_status(0);
    fs::remove_file(files(&env.archive().join("tasks"), ".parquet").pop().unwrap()).unwrap();
    let mut command = env.program();
    command.args(["repair", "library", "--rate", "20/s", "-q"]);
    let mut run = command.spawn().unwrap();
    common::wait_until(|| env.stats().requests >= 50);
    run.kill().unwrap();
    run.wait().unwrap();
    env.export(&["--assets", "none"]);
    let summaries = files(&env.archive().join("runs"), ".json");
    let summaries = summaries.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
    let killed: Vec<serde_json::Value> = summaries.filter(|run: &serde_json::Value| run["exit_code"] == 137).collect();
    assert_eq!((killed.len(), &killed[0]["command"]), (1, &"repair".into()));
    assert_eq!(env.archived_ids().len(), 40);
}

/// The only part of the `tasks` table is missing, and the provider rejects the key.
#[test]
fn a_rejected_key_and_a_missing_archive_are_reported() {
    let env = TestEnv::new();
    create_archive(&env, "parquet");
    fs::remove_file(files(&env.archive().join("tasks"), ".parquet").pop().unwrap()).unwrap();
    let refusing = TestEnv::with_faults(FaultPlan { key: Some("another".into()), ..FaultPlan::default() });
    repair(&env, &["--base-url", refusing.base_url()]).expect_status(4).expect_output("refused the API key");
    repair(&env, &[]).expect_status(3).expect_output("cannot be identified");
    env.run(&["repair", "nowhere"]).expect_status(2);
    assert!(!env.path("nowhere").exists());
}

/// One bit of one file in the archive is flipped.
#[test]
fn every_bit_flip_is_detected_and_every_reported_repair_is_correct() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut repairs = 0;
    for round in 0..24 {
        let env = TestEnv::new();
        env.write_list(ids("t", 12));
        env.export(&["--format", FORMATS[round % 2], "--assets", "audio,image"]).expect_status(0);
        let before = comparable_rows(&env);
        let damaged: Vec<PathBuf> = match round % 8 / 2 {
            0 => walk(&env.archive().join("media")),
            1 => vec![files(&env.archive().join("runs"), ".sha256").remove(0), env.archive().join(".sunor/checksums")],
            _ => TABLES.map(|table| part(&env, table)).into(),
        };
        let path = rng.choice(&damaged).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let (at, bit) = (rng.usize(..bytes.len()), rng.u8(..8));
        let around = String::from_utf8_lossy(&bytes[at.saturating_sub(20)..bytes.len().min(at + 20)]).into_owned();
        bytes[at] ^= 1 << bit;
        fs::write(path, bytes).unwrap();
        let what = format!("seed {seed}, round {round}: bit {bit} of byte {at} of {}: {around:?}", path.display());

        assert_eq!(env.run(&["verify", "library"]).status, Some(3), "{what}");
        let repaired = repair(&env, &[]);
        assert!(matches!(repaired.status, Some(0 | 3)), "{what}: {}", repaired.stderr);
        let verified = env.run(&["verify", "library"]);
        assert_eq!(verified.status, Some(0), "{what}:\n{}\n{}", repaired.stdout, verified.stdout);
        if repaired.status == Some(0) {
            repairs += 1;
            assert!(comparable_rows(&env) == before, "{what}");
        }
    }
    assert!(repairs >= 10, "seed {seed}: only {repairs} complete repairs");
}

/// A song is lost, the program rejects its stored URL, and the provider now returns a less complete response for the
/// task.
#[test]
fn a_less_complete_response_never_replaces_a_more_complete_one() {
    let task = |status, result| {
        format!(
            r#"{{"code":200,"data":{{"task_id":"t1","type":"music","status":"{status}","output":{{"result":{result}}}}}}}"#
        )
    };
    let clips = r#"[{"id":"a","audio_url":"{cdn}/a.mp3"},{"id":"b","audio_url":"{cdn}/b.mp3"}]"#;
    let less_complete = Fault { kind: FaultKind::Body(task("failure", "null")), filter: FaultFilter::ALWAYS };
    let complete_provider =
        SimulatedProvider { documents: [("t1".into(), task("success", clips))].into(), ..SimulatedProvider::default() };
    let env = TestEnv::with_provider(complete_provider);
    env.write_list(["t1"]);
    env.export(&["--format", "csv", "--assets", "audio"]).expect_status(0);
    let before = comparable_rows(&env)["clips"].clone();
    fs::remove_file(media(&env)).unwrap();
    let incomplete_provider = TestEnv::with_faults(FaultPlan { faults: vec![less_complete], ..FaultPlan::default() });
    let arguments = ["--base-url", incomplete_provider.base_url(), "--allow-private-hosts=false"];
    repair(&env, &arguments).expect_status(3).expect_output("Not repaired");
    assert_eq!(comparable_rows(&env)["clips"], before);
    assert_eq!(env.rows("tasks")[0]["status"], "success");
    repair(&env, &[]).expect_status(0);
    env.run(&["verify", "library"]).expect_status(0);
}

/// Two bytes in the only part of the `tasks` table have changed. The provider rejects the key or no longer has any of
/// the tasks.
#[test]
fn readable_rows_are_kept_if_the_provider_has_no_better_response() {
    for faults in [
        FaultPlan { key: Some("another".into()), ..FaultPlan::default() },
        FaultPlan {
            faults: vec![Fault { kind: FaultKind::Body(r#"{"code":404}"#.into()), filter: FaultFilter::ALWAYS }],
            ..FaultPlan::default()
        },
    ] {
        let env = TestEnv::new();
        create_archive(&env, "csv");
        let before = env.archived_ids();
        // The change of two letters leaves all rows readable.
        let path = part(&env, "tasks");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("progress", "qrogress", 2)).unwrap();
        let provider = TestEnv::with_faults(faults);
        let repaired = repair(&env, &["--base-url", provider.base_url()]);
        assert!(matches!(repaired.status, Some(3 | 4)), "{}", repaired.stdout);
        assert_eq!(env.archived_ids(), before, "{}", repaired.stdout);
    }
}

/// The only part of the `tasks` table is missing.
#[test]
fn a_lost_tasks_part_is_reported_and_blocks_rebuild() {
    let env = TestEnv::new();
    create_archive(&env, "csv");
    fs::remove_file(part(&env, "tasks")).unwrap();
    let clips = env.rows("clips").len();
    env.run(&["rebuild", "library"]).expect_status(1).expect_output("run `repair` first");
    assert_eq!(env.rows("clips").len(), clips);
    repair(&env, &[]).expect_status(3).expect_output("cannot be identified").expect_output("Export your lists again");
}
