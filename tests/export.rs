//! Tests of `export`: what it archives, requests and prints.

mod common;

use std::{fs, process::Stdio};

use common::{CommandOutput, TestEnv, files, ids, wait_until, walk};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan, SimulatedProvider, Window, WindowKind};

#[test]
fn every_task_is_archived_with_one_request_and_a_second_run_sends_none() {
    let env = TestEnv::new();
    let wanted = ids("t", 60);
    env.write_list(&wanted);
    env.export(&["--format", "csv"]).expect_status(0).expect_output("Archived 60 of 60 tasks");
    let mut expected = wanted;
    expected.sort();
    assert_eq!(env.archived_ids(), expected);
    assert_eq!((env.stats().requests, env.stats().repeated), (60, 0));

    env.export(&[]).expect_status(0).expect_output("no request was sent").expect_output("60 already archived");
    assert_eq!(env.stats().requests, 60);
    assert_eq!(files(&env.archive().join("tasks"), ".csv").len(), 1);
}

/// The provider allows 200 requests per 4 seconds, in either a fixed or a moving window.
#[test]
fn a_rate_equal_to_the_provider_limit_is_never_rate_limited() {
    for kind in [WindowKind::Fixed, WindowKind::Moving] {
        let window = Window { limit: 200, seconds: 4.0, kind };
        let env = TestEnv::with_faults(FaultPlan { window: Some(window), ..FaultPlan::default() });
        env.write_list(ids("t", 360));
        env.export(&["--rate", "50/s"]).expect_status(0);
        let stats = env.stats();
        assert_eq!((stats.requests, stats.rate_limited), (360, 0), "{kind:?}");
    }
}

/// Every task is unfinished at first, for at most three seconds.
#[test]
fn unfinished_tasks_are_polled_after_the_first_pass_until_they_end() {
    let env = TestEnv::with_faults(FaultPlan {
        unfinished: Some(1.0),
        unfinished_seconds: Some(3.0),
        ..FaultPlan::default()
    });
    env.write_list(ids("t", 20));
    env.export(&["--format", "csv", "--poll-interval", "1s", "--wait", "30s"]).expect_status(0);
    assert_eq!(env.archived_ids().len(), 20);
    let summary = env.summary();
    let requests = &summary["requests"];
    assert!(requests["polls"].as_u64().unwrap() > 0, "{requests}");
    assert_eq!(requests["total"], requests["polls"].as_u64().unwrap() + 20);
    assert_eq!(env.stats().repeated, 0);
}

/// Every task is unfinished for at least 15 minutes.
#[test]
fn wait_zero_requests_each_task_once_and_lists_the_unfinished() {
    let env = TestEnv::with_faults(FaultPlan {
        unfinished: Some(1.0),
        unfinished_seconds: Some(3000.0),
        ..FaultPlan::default()
    });
    env.write_list(ids("t", 10));
    env.export(&["--wait", "0s"]).expect_status(3).expect_output("-unfinished.csv");
    assert_eq!(env.stats().requests, 10);
    assert!(env.stats().by_task.values().all(|requested| *requested == 1));
    let missing = env.unfinished().len();
    assert!(missing > 5, "{missing}");
    assert!(env.unfinished().iter().all(|(_, reason)| reason == "unfinished"));
    assert!(files(&env.archive().join("tasks"), ".parquet").is_empty());

    let list = files(&env.archive().join("runs"), "-unfinished.csv").pop().unwrap();
    env.run(&["export", list.to_str().unwrap(), "--out", "library", "--wait", "0s", "--rate", "unlimited"])
        .expect_status(3);
    assert!(env.stats().by_task.values().all(|requested| *requested <= 2));
}

#[test]
fn a_run_leaves_a_summary_a_manifest_and_no_partial_files() {
    let env = TestEnv::new();
    env.write_list(ids("t", 30).iter().chain(&["t1".into(), "a/b".into()]));
    env.export(&[])
        .expect_status(3)
        .expect_output("skipped line 33: the ID contains `/`")
        .expect_output("Skipped 1 row with an invalid ID")
        .expect_output("30 of 30");

    let summary = env.summary();
    let input = &summary["input"];
    let sum: u64 = ["invalid", "duplicates", "other_shards", "already_archived", "selected"]
        .iter()
        .map(|key| input[key].as_u64().unwrap())
        .sum();
    assert_eq!((input["rows"].as_u64().unwrap(), sum), (32, 32));
    let tasks = summary["tasks"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>();
    assert_eq!((tasks, summary["rows"]["tasks"].as_u64().unwrap()), (30, 30));
    assert_eq!((summary["exit_code"].as_u64(), summary["interrupted"].as_bool()), (Some(3), Some(false)));

    let manifest = files(&env.archive().join("runs"), ".sha256").pop().unwrap();
    let text = fs::read_to_string(&manifest).unwrap();
    assert_eq!(text.lines().count(), 3);
    let check = std::process::Command::new("sha256sum")
        .args(["-c"])
        .arg(&manifest)
        .current_dir(env.archive())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert!(files(&env.archive().join(".sunor/journal"), "").is_empty());
}

/// The list contains no IDs.
#[test]
fn an_empty_run_writes_no_parts_and_no_manifest() {
    let env = TestEnv::new();
    env.write_list(Vec::<String>::new());
    env.export(&[]).expect_status(0);
    for table in ["tasks", "clips", "lyrics"] {
        assert!(!env.archive().join(table).exists());
    }
    let names: Vec<_> = files(&env.archive().join("runs"), "");
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn progress_is_plain_json_or_off_as_requested() {
    let env = TestEnv::new();
    env.write_list(ids("t", 5));
    let quiet = env.export(&["-q"]).expect_status(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let unusual = env.write_file("unusual.csv", b"song\nt1\n");
    let quiet = env.run(&["export", unusual.to_str().unwrap(), "--out", "library", "-q"]).expect_status(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    env.write_list(["t1", "a/b"]);
    env.export(&["-q"]).expect_status(3).expect_output("skipped line 3");

    env.write_list(ids("u", 5));
    let machine = env.export(&["--progress", "json"]).expect_status(0);
    let events: Vec<serde_json::Value> =
        machine.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("planned"), count("requested"), count("answered"), count("finished")), (1, 5, 5, 1));

    env.write_list(ids("v", 5));
    let plain = env.export(&["-v"]).expect_status(0);
    assert_eq!(plain.stderr.lines().filter(|line| line.starts_with('v')).count(), 5, "{}", plain.stderr);
}

#[test]
fn the_embedded_simulator_needs_no_key_and_accepts_any_list() {
    let env = TestEnv::new();
    env.write_list(["whatever", "there is"]);
    let mut command = env.export_command(&["--simulate", "--wait", "30s", "--poll-interval", "1s"]);
    CommandOutput::wait_for(command.env_remove("SUNOR_API_KEY").spawn().unwrap())
        .expect_status(0)
        .expect_output("Archived 2 of 2 tasks");
    assert_eq!(env.stats().requests, 0);
}

/// The first dry run is started without an archive and without an API key.
#[test]
fn a_dry_run_sends_and_writes_nothing_and_shows_an_estimate() {
    let env = TestEnv::new();
    env.write_list(ids("t", 1190));
    let mut command = env.export_command(&["--dry-run", "--rate", "120/m"]);
    let plan = CommandOutput::wait_for(command.env_remove("SUNOR_API_KEY").spawn().unwrap()).expect_status(0);
    plan.expect_output("1190 rows: 1190 to fetch").expect_output("at least 1190, about 10m at 120/m");
    assert!(!env.archive().exists());
    env.write_list(ids("t", 10));
    env.export(&[]).expect_status(0);
    env.write_list(ids("t", 15));
    env.export(&["--dry-run"]).expect_status(0).expect_output("5 to fetch, 10 already archived");
    assert_eq!(env.stats().requests, 10);
}

/// `--stop-after` stops the run before it has fetched all tasks.
#[test]
fn stop_after_stops_the_run_cleanly_and_the_next_run_completes_it() {
    let env = TestEnv::new();
    env.write_list(ids("t", 200));
    env.export(&["--format", "csv", "--rate", "50/s", "--stop-after", "1s"])
        .expect_status(3)
        .expect_output("the --stop-after limit was reached");
    let first = env.archived_ids().len();
    assert!((1..200).contains(&first), "{first}");
    assert_eq!(first + env.unfinished().len(), 200);
    assert_eq!(env.summary()["tasks"]["unfinished"], 200 - first);
    env.export(&["--stop-after", "10m"]).expect_status(0);
    assert_eq!((env.archived_ids().len(), env.stats().repeated), (200, 0));
}

/// The request for the only task stalls while the first export holds the lock.
#[test]
fn a_concurrent_export_is_refused_and_shows_the_lock_holder() {
    let env = TestEnv::with_fault(FaultKind::Stall(60.0), FaultFilter::task("slow"));
    env.write_list(["slow"]);
    let mut first = env.export_command(&["--progress", "json"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| env.stats().requests == 1);
    let second = env.export(&[]).expect_status(5);
    second.expect_output(&format!("process {}", first.id())).expect_output("since 20");
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock is released when the process that holds it ends.
    env.write_list(["other"]);
    env.export(&[]).expect_status(0);
}

/// Requests for half of the tasks stall for a second, so some requests are in flight when the signal arrives.
#[cfg(unix)]
#[test]
fn a_signal_keeps_fetched_tasks_and_lists_the_rest() {
    for (signal, status) in [("-HUP", 129), ("-INT", 130), ("-TERM", 143)] {
        let stall =
            Fault { kind: FaultKind::Stall(1.0), filter: FaultFilter { share: Some(0.5), ..FaultFilter::ALWAYS } };
        let env = TestEnv::with_faults(FaultPlan { faults: vec![stall], ..FaultPlan::default() });
        env.write_list(ids("t", 400));
        let export = env.export_command(&["--format", "csv", "--rate", "50/s"]);
        // Child processes inherit ignored signals, and SIGHUP may be ignored, for example under `nohup`.
        let mut command = std::process::Command::new("env");
        command.arg("--default-signal=HUP").arg(export.get_program()).args(export.get_args());
        command.envs(export.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(env.path(""));
        let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(|| env.stats().requests >= 20);
        assert!(std::process::Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        CommandOutput::wait_for(run)
            .expect_status(status)
            .expect_output("fetched data is kept")
            .expect_output("Interrupted: archived");
        env.run(&["summary", "library"]).expect_status(0).expect_output("stopped by a signal");

        let summary = env.summary();
        assert_eq!(
            (summary["interrupted"].as_bool(), summary["exit_code"].as_i64()),
            (Some(true), Some(status.into()))
        );
        let archived = env.archived_ids();
        assert_eq!(archived.len() + env.unfinished().len(), 400);
        assert!(env.unfinished().iter().all(|(_, reason)| reason == "interrupted"));

        env.export(&["--concurrency", "200"]).expect_status(0);
        assert_eq!((env.archived_ids().len(), env.stats().repeated), (400, 0));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_ignored_sighup_stays_ignored_as_under_nohup() {
    let env = TestEnv::new();
    env.write_list(ids("t", 60));
    let export = env.export_command(&["--rate", "50/s"]);
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(export.get_program()).args(export.get_args()).current_dir(export.get_current_dir().unwrap());
    nohup.envs(export.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let run = nohup.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until(|| env.stats().requests >= 10);
    assert!(std::process::Command::new("kill").args(["-HUP", &run.id().to_string()]).status().unwrap().success());
    CommandOutput::wait_for(run).expect_status(0);
    assert_eq!(env.archived_ids().len(), 60);
}

/// The request for the only task stalls, so the first signal does not end the process at once.
#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_or_an_early_signal_ends_the_process_at_once() {
    let env = TestEnv::with_fault(FaultKind::Stall(60.0), FaultFilter::ALWAYS);
    env.write_list(["t1"]);
    let interrupt = |pid: u32| {
        assert!(std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
    };
    let mut run = env.export_command(&[]).spawn().unwrap();
    wait_until(|| env.stats().requests == 1);
    interrupt(run.id());
    // A second signal of the same kind is lost while the first is pending, so the test waits until the first is
    // handled.
    let stderr = std::io::BufReader::new(run.stderr.take().unwrap());
    assert!(std::io::BufRead::lines(stderr).any(|line| line.unwrap().contains("no more requests will be sent")));
    interrupt(run.id());
    CommandOutput::wait_for(run).expect_status(130);
    assert!(files(&env.archive().join("runs"), "").is_empty(), "the process did not end at once");

    let mut reading = env.program();
    reading.args(["export", "-", "--out", "other"]).stdin(Stdio::piped());
    let mut reading = reading.spawn().unwrap();
    let list = reading.stdin.take();
    wait_until(|| handles_sigint(reading.id()));
    interrupt(reading.id());
    CommandOutput::wait_for(reading).expect_status(130);
    drop(list);
}

/// Whether the process has installed its SIGINT handler.
#[cfg(target_os = "linux")]
fn handles_sigint(pid: u32) -> bool {
    signals(pid, "SigCgt:")
}

#[cfg(target_os = "linux")]
fn signals(pid: u32, mask: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
}

/// The provider repeats the key in an error message.
#[test]
fn the_key_appears_in_no_output() {
    for code in [400, 401, 404, 500] {
        let echo = format!(r#"{{"code":{code},"message":"bad key {}"}}"#, common::API_KEY);
        let env = TestEnv::with_fault(FaultKind::Body(echo), FaultFilter::task("t2"));
        env.write_list(["t1", "t2"]);
        let run = env.export(&["-v", "--concurrency", "1", "--retries", "1"]);
        assert!(run.stderr.contains("t1: "), "{}", run.stderr);
        assert!(!run.stdout.contains(common::API_KEY) && !run.stderr.contains(common::API_KEY), "{}", run.stderr);
        for file in walk(&env.archive()) {
            assert!(
                !String::from_utf8_lossy(&fs::read(&file).unwrap()).contains(common::API_KEY),
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn a_key_file_passed_as_the_list_is_not_quoted() {
    let env = TestEnv::new();
    env.write_file("key", common::API_KEY.as_bytes());
    let run = env.run(&["export", "key", "--out", "library", "-v"]).expect_status(0).expect_output("use --no-headers");
    assert!(!run.stdout.contains(common::API_KEY) && !run.stderr.contains(common::API_KEY), "{}", run.stderr);
    assert_eq!(env.stats().requests, 0);
}

/// The response for the task contains a lone surrogate.
#[test]
fn lone_surrogates_are_replaced_and_the_original_body_is_stored() {
    let document = common::sample_documents().remove("doc-lone-surrogate").unwrap();
    let given = [("doc-lone-surrogate".to_owned(), document.clone())];
    let env = TestEnv::with_provider(SimulatedProvider { documents: given.into(), ..SimulatedProvider::default() });
    env.write_list(["doc-lone-surrogate"]);
    env.export(&["--format", "csv"]).expect_status(0);
    assert_eq!(env.rows("clips")[0]["title"], "half \u{fffd} of it");
    let raw = fs::read_to_string(files(&env.archive().join("runs"), "-raw.jsonl").pop().unwrap()).unwrap();
    let line: serde_json::Value = serde_json::from_str(raw.trim_end()).unwrap();
    assert_eq!(
        (line["task_id"].as_str(), line["body"].as_str()),
        (Some("doc-lone-surrogate"), Some(document.as_str()))
    );
}

/// At first, the provider does not have two of the tasks. Later, the provider has one of these two tasks.
#[test]
fn not_found_tasks_are_refetched_only_on_request_and_their_rows_replaced() {
    let missing = |task, first| Fault {
        kind: FaultKind::Body(r#"{"code":404,"message":"Task not found"}"#.into()),
        filter: FaultFilter { task: Some(task), first, ..FaultFilter::ALWAYS },
    };
    let faults = vec![missing("late".into(), Some(1)), missing("never".into(), None)];
    let env = TestEnv::with_faults(FaultPlan { faults, ..FaultPlan::default() });
    env.write_list(["t1", "late", "never", "t2"]);
    env.export(&["--format", "csv"]).expect_status(0);
    env.export(&[]).expect_status(0).expect_output("no request was sent");

    env.export(&["--retry-not-found"])
        .expect_status(0)
        .expect_output("2 to fetch, 2 already archived")
        .expect_output("Archived 2 of 2 tasks");
    assert_eq!(env.archived_ids(), ["late", "never", "t1", "t2"]);
    let rows = env.rows("tasks");
    let status = |task: &str| rows.iter().find(|row| row["task_id"] == task).map(|row| row["status"].as_str());
    assert_ne!(status("late"), Some("not_found"));
    assert_eq!(status("never"), Some("not_found"));
    assert_eq!(env.stats().by_task["t1"], 1);
    let check = "sha256sum --quiet --strict -c runs/*.sha256";
    let check = std::process::Command::new("bash").args(["-c", check]).current_dir(env.archive()).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// Times with offsets such as `+05` are parsed, in both table formats. A time outside the years 1 to 9999 becomes null.
#[test]
fn times_with_short_offsets_are_parsed_and_unsupported_years_are_null() {
    let table = [
        ("colon", "2025-01-15T10:30:00+05:30", "2025-01-15T05:00:00Z", "2025-01-15 05:00:00.000000 +00:00"),
        ("basic", "2025-01-15T10:30:00-0530", "2025-01-15T16:00:00Z", "2025-01-15 16:00:00.000000 +00:00"),
        ("hours", "2025-01-15 10:30:00+05", "2025-01-15T05:30:00Z", "2025-01-15 05:30:00.000000 +00:00"),
        ("none", "2025-01-15T10:30:00", "2025-01-15T10:30:00Z", "2025-01-15 10:30:00.000000 +00:00"),
        ("before", "0000-01-01T00:00:00+08:00", "", "null"),
        ("edge", "0001-01-01T00:00:00+08:00", "", "null"),
        ("after", "9999-12-31T23:59:59-08:00", "", "null"),
    ];
    let document = |(id, time, ..): &(&str, &str, &str, &str)| {
        let data = serde_json::json!({ "task_id": id, "status": "success", "type": "upload", "created_at": time });
        ((*id).to_owned(), serde_json::json!({ "code": 200, "data": data }).to_string())
    };
    for format in ["csv", "parquet"] {
        let documents = table.iter().map(document).collect();
        let env = TestEnv::with_provider(SimulatedProvider { documents, ..SimulatedProvider::default() });
        env.write_list(table.map(|(id, ..)| id));
        env.export(&["--format", format]).expect_status(0);
        let rows = env.rows("tasks");
        for (id, _, text, cell) in table {
            let (id, expected) = if format == "csv" { (id.to_owned(), text) } else { (format!("{id:?}"), cell) };
            let row = rows.iter().find(|row| row["task_id"] == id).unwrap();
            assert_eq!(row["created_at"], expected, "{format}: {id}");
        }
        env.run(&["verify", "library"]).expect_status(0).expect_output("No damage was found");
    }
}
