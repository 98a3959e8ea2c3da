//! Tests of `--metrics-file`: every run that started writes Prometheus metrics when it ends.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{collections::HashMap, fs, path::Path};

use common::{CommandOutput, TestEnv, files, ids, wait_until};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan};

/// Returns the samples in a metrics file. The key is the text before the value, such as `rows{table="tasks"}`.
fn read_metrics(file: &Path) -> HashMap<String, f64> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    lines.map(|line| sample(line).unwrap()).collect()
}

fn metric_value(metrics: &HashMap<String, f64>, name: &str) -> Option<f64> {
    metrics.get(&format!("sunor_archive_{name}")).copied()
}

/// Asserts that every metric equals the value in the run's summary.
#[track_caller]
fn assert_matches_summary(metrics: &HashMap<String, f64>, summary: &serde_json::Value) {
    for (part, label) in [("tasks", "status"), ("assets", "status"), ("rows", "table")] {
        for (word, count) in summary[part].as_object().unwrap().iter().filter(|(word, _)| *word != "bytes") {
            let metric = metric_value(metrics, &format!("{part}{{{label}=\"{word}\"}}"));
            assert_eq!(metric, count.as_f64(), "{part} {word}");
        }
    }
    let requests = |kind: &str| metric_value(metrics, &format!("requests{{kind=\"{kind}\"}}")).unwrap();
    let total = requests("first") + requests("poll") + requests("retry");
    assert_eq!(Some(total), summary["requests"]["total"].as_f64());
    assert_eq!(metric_value(metrics, "rate_limited_requests"), summary["requests"]["rate_limited"].as_f64());
    assert_eq!(metric_value(metrics, "asset_bytes"), summary["assets"]["bytes"].as_f64());
    assert_eq!(metric_value(metrics, "exit_code"), summary["exit_code"].as_f64());
    let finished: jiff::Timestamp = summary["finished_at"].as_str().unwrap().parse().unwrap();
    let known = metric_value(metrics, "finished_timestamp_seconds").unwrap();
    assert!((known - finished.as_second() as f64).abs() <= 2.0, "{known}");
}

/// The first run succeeds. In the second run, some tasks are unfinished, and some requests get a 429 or fail once.
#[test]
fn metrics_match_the_summary_and_the_last_success_survives_failed_runs() {
    let faults = vec![
        Fault {
            kind: FaultKind::Status(502),
            filter: FaultFilter { first: Some(1), share: Some(0.2), ..FaultFilter::ALWAYS },
        },
        Fault { kind: FaultKind::RateLimited(1), filter: FaultFilter { first: Some(1), ..FaultFilter::task("t3") } },
    ];
    let faults = FaultPlan { faults, unfinished: Some(0.3), unfinished_seconds: Some(3000.0), ..FaultPlan::default() };
    let env = TestEnv::with_faults(faults);
    let file = env.path("run.prom");
    let run = ["--metrics-file", "run.prom", "--assets", "image", "--wait", "0s"];
    env.write_list(["t1"]);
    env.export(&run).expect_status(0);
    let success = metric_value(&read_metrics(&file), "last_success_timestamp_seconds").unwrap();
    assert_eq!(Some(success), metric_value(&read_metrics(&file), "finished_timestamp_seconds"));

    env.write_list(ids("t", 40));
    env.export(&run).expect_status(3);
    let metrics = read_metrics(&file);
    assert_matches_summary(&metrics, &env.summary());
    assert_eq!(metric_value(&metrics, "last_success_timestamp_seconds"), Some(success));
    assert!(
        metric_value(&metrics, "rate_limited_requests") > Some(0.0)
            && metric_value(&metrics, "requests{kind=\"retry\"}") > Some(0.0)
    );
    assert_eq!(files(env.path("").as_path(), "").iter().filter(|path| path.to_string_lossy().contains('#')).count(), 0);
}

/// The first run ends because the key is revoked. The later runs are stopped by a signal or cannot reach the provider.
#[test]
fn a_run_writes_metrics_for_every_outcome() {
    let revoked = TestEnv::with_faults(FaultPlan { revoke_after: Some(5), ..FaultPlan::default() });
    revoked.write_list(ids("t", 20));
    revoked.export(&["--metrics-file", "run.prom"]).expect_status(4);
    assert_matches_summary(&read_metrics(&revoked.path("run.prom")), &revoked.summary());
    assert_eq!(metric_value(&read_metrics(&revoked.path("run.prom")), "last_success_timestamp_seconds"), None);

    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut env = TestEnv::with_fault(FaultKind::Stall(1.0), FaultFilter::ALWAYS);
        env.write_list(ids("t", 100));
        let run = env.export_command(&["--metrics-file", "run.prom"]).spawn().unwrap();
        wait_until(|| env.stats().requests > 0);
        assert!(std::process::Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        CommandOutput::wait_for(run).expect_status(status);
        assert_matches_summary(&read_metrics(&env.path("run.prom")), &env.summary());

        env.stop_simulator();
        env.export(&["--metrics-file", "run.prom", "--retries", "0"])
            .expect_status(1)
            .expect_output("check the network");
        assert_matches_summary(&read_metrics(&env.path("run.prom")), &env.summary());
    }
}

/// The run fails before its first request, because `views.sql` is a folder.
#[test]
fn a_run_that_fails_before_its_first_request_writes_metrics_too() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.export(&[]).expect_status(0);
    let views = env.archive().join("views.sql");
    fs::remove_file(&views).unwrap();
    fs::create_dir_all(views.join("x")).unwrap();
    env.export(&["--metrics-file", "run.prom"]).expect_status(1).expect_output("views.sql");
    let metrics = read_metrics(&env.path("run.prom"));
    assert_eq!(metric_value(&metrics, "exit_code"), Some(1.0));
    assert_eq!(metric_value(&metrics, "requests{kind=\"first\"}"), Some(0.0));
    assert!(
        metric_value(&metrics, "last_success_timestamp_seconds") < metric_value(&metrics, "finished_timestamp_seconds")
    );
}

/// While the request for the only task stalls, a second run finds the archive locked.
#[test]
fn a_run_that_never_started_does_not_change_the_metrics_file() {
    let env = TestEnv::with_fault(FaultKind::Stall(60.0), FaultFilter::task("slow"));
    env.write_file("run.prom", b"# of another run\n");
    env.write_list(["slow"]);
    let mut first = env.export_command(&[]).spawn().unwrap();
    wait_until(|| env.stats().requests == 1);
    env.export(&["--metrics-file", "run.prom"]).expect_status(5);
    env.export(&["--metrics-file", "run.prom", "--dry-run"]).expect_status(0);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(fs::read(env.path("run.prom")).unwrap(), b"# of another run\n");
}

#[test]
fn an_invalid_metrics_path_is_rejected_and_a_write_failure_does_not_affect_the_archive() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    fs::create_dir(env.path("folder")).unwrap();
    std::os::unix::fs::symlink("/dev/null", env.path("link")).unwrap();
    for (file, text) in [
        ("absent/run.prom", "the folder absent does not exist"),
        ("tasks.csv/run.prom", "the folder tasks.csv does not exist"),
        ("folder", "not a regular file"),
        ("link", "not a regular file"),
        ("..", "not a regular file"),
    ] {
        env.export(&["--metrics-file", file]).expect_status(2).expect_output(text);
    }
    assert!(!env.archive().exists());
    assert_eq!(env.stats().requests, 0);

    // No file system supports a file name of this length.
    let long = "x".repeat(300);
    env.export(&["--metrics-file", &long])
        .expect_status(1)
        .expect_output("cannot write")
        .expect_output("Archived 1 of 1 task in");
    assert_eq!(env.summary()["exit_code"], 0);
    env.export(&["--metrics-file", "run.prom"]).expect_status(0).expect_output("1 already archived");
}
