//! Tests of killed runs: nothing is lost, and only requests in flight are repeated.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use common::{CommandOutput, TestEnv, files, ids, wait_until, walk};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan};

const TASKS: usize = 1500;
const CONCURRENCY: u64 = 8;

/// The export is killed repeatedly with SIGKILL, at random times.
#[test]
fn after_any_kill_each_task_is_archived_once_and_only_requests_in_flight_are_repeated() {
    let env = TestEnv::new();
    env.write_list(ids("t", TASKS));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut kills = 0;
    let arguments = ["--format", "csv", "--rate", "600/s", "--concurrency", "8", "-q"];
    for _ in 0..12 {
        let mut run = env.export_command(&arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rng.u64(20..400)));
        if run.try_wait().unwrap().is_none() {
            kills += 1;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        assert_parts_complete(&env);
    }
    env.export(&arguments).expect_status(0);
    let mut expected = ids("t", TASKS);
    expected.sort();
    assert_eq!(env.archived_ids(), expected);
    let stats = env.stats();
    assert!(kills > 0 && stats.repeated <= kills * CONCURRENCY, "{} repeats after {kills} kills", stats.repeated);
    assert_eq!(stats.requests, TASKS as u64 + stats.repeated);
    assert!(files(&env.archive().join(".sunor/journal"), "").is_empty());
    println!("{kills} kills survived, {} of {} requests repeated", stats.repeated, stats.requests);

    let undisturbed = TestEnv::new();
    undisturbed.write_list(ids("t", TASKS));
    undisturbed.export(&["--format", "csv"]).expect_status(0);
    for table in ["tasks", "clips", "lyrics"] {
        assert!(comparable_rows(&env, table) == comparable_rows(&undisturbed, table), "the rows of {table} differ");
    }
}

const SONGS: usize = 400;

/// The maximum number of bytes that a kill may waste per download in progress: the chunk that is not yet written to
/// disk, and the socket buffers.
const IN_FLIGHT_BYTES: u64 = 1 << 20;

/// Each song is 256 KiB long, and the export is killed repeatedly during the downloads.
#[test]
fn after_kills_during_downloads_every_asset_is_complete_and_stored_once() {
    let faults = FaultPlan { media_bytes: Some(256 << 10), ..FaultPlan::default() };
    let env = TestEnv::with_faults(faults);
    env.write_list(ids("t", SONGS));
    let mut rng = fastrand::Rng::with_seed(12);
    let arguments = ["--format", "csv", "--concurrency", "8", "-q", "--assets", "audio,image"];
    let mut kills = 0;
    for _ in 0..12 {
        let mut run = env.export_command(&arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rng.u64(40..400)));
        kills += u64::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
        assert_parts_complete(&env);
    }
    env.export(&arguments).expect_status(0);
    let mut expected = ids("t", SONGS);
    expected.sort();
    assert_eq!(env.archived_ids(), expected);
    assert!(files(&env.archive().join(".sunor/journal"), "").is_empty());
    assert!(!env.archive().join(".sunor/partial").exists());

    let assets = env.rows("assets");
    let count = |status: &str| assets.iter().filter(|row| row["status"] == status).count();
    assert!(count("ok") > SONGS && count("failed") == 0, "{} ok, {} failed", count("ok"), count("failed"));
    let manifests = "cat runs/*.sha256 | sha256sum --quiet -c";
    let check = std::process::Command::new("bash").args(["-c", manifests]).current_dir(env.archive()).output();
    assert!(check.is_ok_and(|check| check.status.success()));
    let stats = env.stats();
    let wanted: u64 = assets.iter().map(|row| row["bytes"].parse::<u64>().unwrap_or(0)).sum();
    let again = stats.media.bytes - wanted;
    assert!(kills > 0 && stats.repeated <= kills * CONCURRENCY, "{} repeats after {kills} kills", stats.repeated);
    assert!(again <= kills * CONCURRENCY * IN_FLIGHT_BYTES, "{again} bytes sent again after {kills} kills");
    println!("{kills} kills during downloads, {again} of {wanted} bytes sent again");
}

/// Returns the rows of a table without run-specific columns. A placeholder replaces the simulator's URL.
fn comparable_rows(env: &TestEnv, table: &str) -> Vec<BTreeMap<String, String>> {
    let same = |(column, value): (String, String)| {
        let is_own = column == "fetched_at" || column == "run_id";
        (!is_own).then(|| (column, value.replace(env.cdn_url(), "{cdn}")))
    };
    let rows = env.rows(table).into_iter();
    let mut rows: Vec<_> = rows.map(|row| row.into_iter().filter_map(same).collect()).collect();
    rows.sort();
    rows
}

/// The journal of a killed run loses its last bytes, and one bit in its middle is flipped.
#[test]
fn a_torn_journal_is_published_up_to_the_tear_and_damage_is_reported_and_quarantined() {
    let env = TestEnv::new();
    env.write_list(ids("t", TASKS));
    let arguments = ["--format", "csv", "--rate", "300/s"];
    let mut run = env.export_command(&arguments).spawn().unwrap();
    let journal = env.archive().join(".sunor/journal");
    wait_until(|| files(&journal, ".journal").first().is_some_and(|path| fs::metadata(path).unwrap().len() > 100_000));
    run.kill().unwrap();
    run.wait().unwrap();

    let segment = files(&journal, ".journal").pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes.truncate(bytes.len() - 7);
    bytes[50_000] ^= 1;
    fs::write(&segment, bytes).unwrap();

    env.export(&["--format", "csv"]).expect_status(0).expect_output("its journal has 1 damaged record");
    assert_eq!(env.archived_ids().len(), TASKS);
    assert_eq!(files(&env.archive().join(".sunor/damaged"), ".journal").len(), 1);
    assert_eq!(env.summary()["recovered"], true);
}

/// Asserts that every CSV part under a final name has rows, and that every row has all fields.
fn assert_parts_complete(env: &TestEnv) {
    for table in ["tasks", "clips", "lyrics", "assets"] {
        for path in files(&env.archive().join(table), ".csv") {
            let rows = csv::Reader::from_path(&path).unwrap().into_records().collect::<Result<Vec<_>, _>>();
            assert!(rows.is_ok_and(|rows| !rows.is_empty()), "{}", path.display());
        }
    }
}

/// Starts an export, and kills it after 20 requests, when its journal contains responses.
fn run_and_kill_export(env: &TestEnv) {
    let run = env.export_command(&["--rate", "unlimited", "--concurrency", "4"]).spawn().unwrap();
    wait_until(|| env.stats().requests >= 20);
    Command::new("kill").args(["-KILL", &run.id().to_string()]).status().unwrap();
    CommandOutput::wait_for(run);
}

/// Creates a provider that responds slowly enough for a test to kill a run before it ends.
fn env_with_slow_provider() -> TestEnv {
    let slow = Fault { kind: FaultKind::StallBody(0.2), filter: FaultFilter::ALWAYS };
    let env = TestEnv::with_faults(FaultPlan { faults: vec![slow], ..FaultPlan::default() });
    env.write_list(ids("t", 60));
    env
}

#[test]
fn a_killed_run_is_listed_first_in_the_summary_and_gets_a_record_on_recovery() {
    let env = env_with_slow_provider();
    run_and_kill_export(&env);
    let output = env.run(&["summary", "library"]).expect_status(0).stdout;
    let first = output.lines().next().unwrap_or_default();
    assert!(first.contains("did not finish") && first.contains("The next export recovers"), "{output}");
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&env.run(&[&["summary", "library", "--json"], arguments].concat()).expect_status(0).stdout)
            .unwrap()
    };
    let waiting = json(&[])["archive"]["waiting_runs"][0].clone();
    let responses = waiting["answers"].as_u64().unwrap();
    assert!(responses > 0 && waiting["has_ended"] == false, "{waiting}");

    env.export(&[]).expect_status(0);
    let killed = json(&["--run", waiting["run_id"].as_str().unwrap()]);
    assert_eq!((&killed["interrupted"], &killed["exit_code"]), (&true.into(), &137.into()));
    assert_eq!((&killed["rows"]["tasks"], &killed["input"]["selected"]), (&responses.into(), &responses.into()));
    let full = json(&[]);
    assert_eq!((&full["runs"], &full["rows"]["tasks"]), (&2.into(), &60.into()));
    let second = json(&["--run", full["run_id"].as_str().unwrap()]);
    assert_eq!(second["rows"]["tasks"].as_u64().unwrap() + responses, 60, "the runs must add up to the archive");
    assert!(!env.run(&["summary", "library"]).stdout.contains("did not finish"));
    env.run(&["verify", "library"]).expect_status(0);
}

/// The `.sunor` folder is restored from a copy that is older than the tables.
#[test]
fn a_journal_restored_from_a_backup_adds_no_rows_or_counts_that_the_archive_already_has() {
    for (assets, is_compacted) in [("none", true), ("image", true), ("none", false), ("image", false)] {
        let env = env_with_slow_provider();
        run_and_kill_export(&env);
        let state = env.archive().join(".sunor");
        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        };
        copy(&state, &env.path("copy"));
        env.export(&["--assets", assets]).expect_status(0);
        let killed_record = files(&env.archive().join("runs"), ".json").remove(0);
        let recorded = fs::read_to_string(&killed_record).unwrap();
        if is_compacted {
            env.run(&["compact", "library"]).expect_status(0);
        }
        fs::remove_dir_all(&state).unwrap();
        copy(&env.path("copy"), &state);
        let again = env.export(&["--assets", assets]).expect_status(0);
        assert!(!again.stderr.contains("interrupted run"), "{}", again.stderr);
        let tasks: Vec<String> = env.rows("tasks").into_iter().map(|mut row| row.remove("task_id").unwrap()).collect();
        let distinct: BTreeSet<&String> = tasks.iter().collect();
        assert_eq!((tasks.len(), distinct.len()), (60, 60));
        assert_eq!(fs::read_to_string(&killed_record).unwrap(), recorded);
        assert!(files(&state.join("journal"), "").is_empty());
        env.run(&["verify", "library"]).expect_status(0);
    }
}

/// Media files are deleted or truncated between a killed run and the next run.
#[test]
fn files_lost_before_recovery_are_downloaded_again() {
    for kill_recovery in [false, true] {
        let env = TestEnv::new();
        env.write_list(ids("t", 60));
        let media = || walk(&env.archive().join("media"));
        let run = env.export_command(&["--rate", "40/s", "--assets", "audio"]).spawn().unwrap();
        wait_until(|| env.archive().join("media").exists() && media().len() >= 6);
        Command::new("kill").args(["-KILL", &run.id().to_string()]).status().unwrap();
        CommandOutput::wait_for(run);
        let media = media();
        let (cut, removed) = media.split_at(1);
        fs::write(&cut[0], b"ID3").unwrap();
        for file in removed {
            fs::remove_file(file).unwrap();
        }
        if kill_recovery {
            // The run that recovers the journal is also killed.
            run_and_kill_export(&env);
        }
        env.export(&["--assets", "audio"]).expect_status(0);
        env.run(&["verify", "library"]).expect_status(0);
        assert_eq!(env.archived_ids().len(), 60);
        let kept = files(&env.archive().join(".sunor/damaged"), "");
        assert_eq!(kept.len(), 1, "the truncated file must be quarantined: {kept:?}");
    }
}

/// Every request fails, and the run is killed before it receives a final response for any task.
#[test]
fn a_killed_run_without_a_final_response_is_recorded() {
    let busy = Fault { kind: FaultKind::Status(502), filter: FaultFilter::ALWAYS };
    let env = TestEnv::with_faults(FaultPlan { faults: vec![busy], ..FaultPlan::default() });
    env.write_list(ids("t", 60));
    let run = env.export_command(&["--rate", "unlimited"]).spawn().unwrap();
    wait_until(|| env.stats().requests >= 20);
    Command::new("kill").args(["-KILL", &run.id().to_string()]).status().unwrap();
    CommandOutput::wait_for(run);
    assert!(
        env.run(&["summary", "library"]).expect_status(0).stdout.lines().next().unwrap().contains("did not finish")
    );

    env.write_list(["t1"]);
    env.export(&["--rate", "unlimited", "--retries", "0"]).expect_status(3);
    let summary = env.run(&["summary", "library", "--json"]).expect_status(0).stdout;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&summary).unwrap()["runs"], 2);
    assert!(files(&env.archive().join(".sunor/journal"), "").is_empty());
    env.run(&["verify", "library"]).expect_status(0);
}
