//! Tests that read archives with third-party readers (DuckDB, pyarrow, Polars and pandas), through the scripts in
//! `tests/foreign`. `./tests/run.sh` installs the readers from PyPI and runs these tests.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{TestEnv, ids, python, run_checker, sample_documents, samples};
use sunor_archive::simulator::{FaultPlan, KnownTasks, SimulatedProvider};

/// Exports the sample documents in the given table format, and checks the archive with the scripts. The simulator
/// serves the media files. The task in progress never finishes.
fn check_format(format: &str) {
    let local_url = |document: &String| {
        let hosts = ["https://cdn1.suno.ai", "https://cdn2.suno.ai", "https://storage.udio.example"];
        hosts.iter().fold(document.clone(), |text, host| text.replace(host, "{cdn}"))
    };
    let documents: HashMap<String, String> =
        sample_documents().iter().map(|(id, text)| (id.clone(), local_url(text))).collect();
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents: documents.clone(),
        ..SimulatedProvider::default()
    });
    env.write_list(documents.keys());
    env.export(&["--format", format, "--wait", "0s", "--assets", "audio,image"]).expect_status(3);
    let served = env.path("documents");
    fs::create_dir(&served).unwrap();
    for (id, text) in &documents {
        let name = served.join(id.trim_start_matches("doc-")).with_extension("json");
        fs::write(name, text.replace("{cdn}", env.cdn_url())).unwrap();
    }
    run_checker("judge.py", &[&env.archive(), &served]);
    run_checker("media.py", &[&env.archive()]);
    let mut missing = env.unfinished();
    missing.sort();
    let expected = [("doc-in-progress", "unfinished"), ("doc-unreadable-other-task", "unreadable")];
    assert_eq!(missing, expected.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
}

#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn parquet_parts_contain_every_document_value_by_value() {
    check_format("parquet");
}

#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn csv_parts_contain_every_document_value_by_value() {
    check_format("csv");
}

/// The archive contains two runs, so each table has more than one part.
#[test]
#[ignore = "needs Polars and pandas: ./tests/run.sh"]
fn polars_and_pandas_read_multiple_parts() {
    let env = TestEnv::new();
    for prefix in ["a", "b"] {
        env.write_list(common::ids(prefix, 30));
        env.export(&["--assets", "image"]).expect_status(0);
    }
    run_checker("readers.py", &[&env.archive()]);
}

/// The provider rejects the key, so the tables have no parts. The second run finds an outdated `views.sql`.
#[test]
#[ignore = "needs DuckDB: ./tests/run.sh"]
fn views_exist_before_the_first_part_and_are_rewritten_after_an_update() {
    let refuse = FaultPlan { revoke_after: Some(0), ..FaultPlan::default() };
    for format in ["parquet", "csv"] {
        let env = TestEnv::with_faults(refuse.clone());
        env.write_list(["t1"]);
        env.export(&["--format", format]).expect_status(4);
        let shell = |query: &str| {
            let mut duckdb = Command::new(python().with_file_name("duckdb"));
            duckdb.current_dir(env.archive()).args(["-bail", "-csv", "-init", "views.sql", "-c", query]);
            let response = duckdb.output().unwrap();
            assert!(response.status.success(), "{}", String::from_utf8_lossy(&response.stderr));
            String::from_utf8(response.stdout).unwrap()
        };
        let count = "SELECT count(*) AS n FROM songs UNION ALL SELECT count(*) FROM tasks";
        assert_eq!(shell(count).split_whitespace().collect::<Vec<_>>(), ["n", "0", "0"]);
        let types = shell("SELECT column_type FROM (DESCRIBE songs) WHERE column_name = 'created_at'");
        assert!(types.contains("TIMESTAMP WITH TIME ZONE"), "{types}");

        fs::write(env.archive().join("views.sql"), "-- of an older version").unwrap();
        env.export(&[]).expect_status(4);
        assert!(shell("SELECT count(*) AS n FROM songs").contains('0'));
    }
}

#[test]
#[ignore = "needs DuckDB: ./tests/run.sh"]
fn views_work_from_anywhere_after_the_variable_archive_is_set() {
    for format in ["parquet", "csv"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 6));
        env.export(&["--format", format]).expect_status(0);
        let archive = env.archive();
        let init = format!("SET VARIABLE archive = '{0}';\n.read '{0}/views.sql'\n", archive.display());
        let init = env.write_file("init.sql", init.as_bytes());
        let elsewhere = env.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let mut duckdb = Command::new(python().with_file_name("duckdb"));
        duckdb
            .current_dir(elsewhere)
            .args(["-bail", "-csv", "-init"])
            .arg(init)
            .args(["-c", "SELECT count(*) AS n FROM tasks"]);
        let response = duckdb.output().unwrap();
        let rows = String::from_utf8(response.stdout).unwrap();
        assert_eq!(
            rows.split_whitespace().collect::<Vec<_>>(),
            ["n", "6"],
            "{}",
            String::from_utf8_lossy(&response.stderr)
        );
    }
}

#[test]
#[ignore = "needs DuckDB: ./tests/run.sh"]
fn every_sample_query_runs_in_duckdb_and_returns_rows() {
    let env = TestEnv::with_provider(SimulatedProvider::default());
    let list = samples().join("tasks.csv");
    for format in ["parquet", "csv"] {
        let archive = env.path(format);
        let (list, archive) = (list.to_str().unwrap(), archive.to_str().unwrap());
        env.run(&[
            "export",
            list,
            "--out",
            archive,
            "--format",
            format,
            "--rate",
            "unlimited",
            "--poll-interval",
            "1s",
        ])
        .expect_status(0);
        run_checker("queries.py", &[Path::new(archive), &samples().join("queries.sql")]);
        run_checker("media.py", &[Path::new(archive)]);
    }
}

/// The parts of one export are copied for each night of a year, which is faster than 365 exports. Query times depend on
/// the number of files.
#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn duckdb_queries_a_compacted_year_faster() {
    let env = TestEnv::new();
    env.write_list(ids("t", 300));
    env.export(&["-q"]).expect_status(0);
    run_checker("nights.py", &[&env.archive(), Path::new("365")]);
    let before = env.path("before");
    assert!(Command::new("cp").arg("-r").arg(env.archive()).arg(&before).status().unwrap().success());
    env.run(&["compact", "library"]).expect_status(0).expect_output("365 parts of 109500 rows");
    print!("{}", run_checker("compact.py", &[&before, &env.archive()]));
    print!("{}", run_checker("faster.py", &[&before, &env.archive(), &samples().join("queries.sql")]));
}

/// The first run archives all tasks. In the second run, tasks take an hour. In the third run, the key is rejected.
#[test]
#[ignore = "needs Prometheus' parser: ./tests/run.sh"]
fn prometheus_reads_the_metrics_and_the_samples_use_only_existing_metrics() {
    let mut envs = Vec::new();
    for (faults, status) in [
        (FaultPlan::default(), 0),
        (FaultPlan { unfinished: Some(1.0), unfinished_seconds: Some(3600.0), ..FaultPlan::default() }, 3),
        (FaultPlan { revoke_after: Some(0), ..FaultPlan::default() }, 4),
    ] {
        let env = TestEnv::with_faults(faults);
        env.write_list(common::ids("t", 20));
        env.export(&["--metrics-file", "run.prom", "--wait", "0s", "--assets", "image"]).expect_status(status);
        let text = fs::read_to_string(env.path("run.prom")).unwrap();
        assert!(text.contains(&format!("\nsunor_archive_exit_code {status}\n")), "{text}");
        envs.push(env);
    }
    let files: Vec<PathBuf> = envs.iter().map(|env| env.path("run.prom")).collect();
    let samples = samples();
    let arguments: Vec<&Path> = std::iter::once(samples.as_path()).chain(files.iter().map(PathBuf::as_path)).collect();
    run_checker("metrics.py", &arguments);
}
