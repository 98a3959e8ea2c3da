//! Tests of archives with third-party readers (DuckDB, pyarrow, Polars and pandas), through the scripts in
//! `tests/foreign`. `./tests/run.sh` installs the readers from PyPI and runs these tests.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Scene, documents, ids, judge, python, samples};
use sunor_archive::simulator::{FaultPlan, KnownTasks, SimulatedProvider};

/// Exports the sample documents in a table format, and checks the archive with the scripts. The simulator serves the
/// media, and the document in progress never finishes.
fn judged_in(format: &str) {
    let here = |document: &String| {
        let hosts = ["https://cdn1.suno.ai", "https://cdn2.suno.ai", "https://storage.udio.example"];
        hosts.iter().fold(document.clone(), |text, host| text.replace(host, "{cdn}"))
    };
    let documents: HashMap<String, String> = documents().iter().map(|(id, text)| (id.clone(), here(text))).collect();
    let scene = Scene::world(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents: documents.clone(),
        ..SimulatedProvider::default()
    });
    scene.list(documents.keys());
    scene.export(&["--format", format, "--wait", "0s", "--assets", "audio,image"]).expect(3);
    let served = scene.path("documents");
    fs::create_dir(&served).unwrap();
    for (id, text) in &documents {
        let name = served.join(id.trim_start_matches("doc-")).with_extension("json");
        fs::write(name, text.replace("{cdn}", scene.cdn_url())).unwrap();
    }
    judge("judge.py", &[&scene.archive(), &served]);
    judge("media.py", &[&scene.archive()]);
    let mut missing = scene.unfinished();
    missing.sort();
    let expected = [("doc-in-progress", "unfinished"), ("doc-unreadable-other-task", "unreadable")];
    assert_eq!(missing, expected.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
}

#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn parquet_parts_contain_every_document_value_by_value() {
    judged_in("parquet");
}

#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn csv_parts_contain_every_document_value_by_value() {
    judged_in("csv");
}

/// The archive has two runs, so that each table has more than one part.
#[test]
#[ignore = "needs Polars and pandas: ./tests/run.sh"]
fn polars_and_pandas_read_all_parts_of_a_table_together() {
    let scene = Scene::fair();
    for prefix in ["a", "b"] {
        scene.list(common::ids(prefix, 30));
        scene.export(&["--assets", "image"]).expect(0);
    }
    judge("readers.py", &[&scene.archive()]);
}

/// The provider rejects the key, so that no table has a part. The second run finds an outdated `views.sql`.
#[test]
#[ignore = "needs DuckDB: ./tests/run.sh"]
fn views_exist_before_the_first_part_and_are_rewritten_after_an_update() {
    let refuse = FaultPlan { revoke_after: Some(0), ..FaultPlan::default() };
    for format in ["parquet", "csv"] {
        let scene = Scene::faults(refuse.clone());
        scene.list(["t1"]);
        scene.export(&["--format", format]).expect(4);
        let shell = |query: &str| {
            let mut duckdb = Command::new(python().with_file_name("duckdb"));
            duckdb.current_dir(scene.archive()).args(["-bail", "-csv", "-init", "views.sql", "-c", query]);
            let answer = duckdb.output().unwrap();
            assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
            String::from_utf8(answer.stdout).unwrap()
        };
        let count = "SELECT count(*) AS n FROM songs UNION ALL SELECT count(*) FROM tasks";
        assert_eq!(shell(count).split_whitespace().collect::<Vec<_>>(), ["n", "0", "0"]);
        let types = shell("SELECT column_type FROM (DESCRIBE songs) WHERE column_name = 'created_at'");
        assert!(types.contains("TIMESTAMP WITH TIME ZONE"), "{types}");

        fs::write(scene.archive().join("views.sql"), "-- of an older version").unwrap();
        scene.export(&[]).expect(4);
        assert!(shell("SELECT count(*) AS n FROM songs").contains('0'));
    }
}

#[test]
#[ignore = "needs DuckDB: ./tests/run.sh"]
fn every_sample_query_runs_in_duckdb_and_returns_rows() {
    let scene = Scene::world(SimulatedProvider::default());
    let list = samples().join("tasks.csv");
    for format in ["parquet", "csv"] {
        let archive = scene.path(format);
        let (list, archive) = (list.to_str().unwrap(), archive.to_str().unwrap());
        scene
            .run(&[
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
            .expect(0);
        judge("queries.py", &[Path::new(archive), &samples().join("queries.sql")]);
        judge("media.py", &[Path::new(archive)]);
    }
}

/// Copies one night to all nights of a year, because a year of exports would take too long. The number of files
/// determines the cost of a query.
#[test]
#[ignore = "needs DuckDB and pyarrow: ./tests/run.sh"]
fn duckdb_queries_a_compacted_year_faster() {
    let scene = Scene::fair();
    scene.list(ids("t", 300));
    scene.export(&["-q"]).expect(0);
    judge("nights.py", &[&scene.archive(), Path::new("365")]);
    let before = scene.path("before");
    assert!(Command::new("cp").arg("-r").arg(scene.archive()).arg(&before).status().unwrap().success());
    scene.run(&["compact", "library"]).expect(0).says("365 parts of 109500 rows");
    print!("{}", judge("compact.py", &[&before, &scene.archive()]));
    print!("{}", judge("faster.py", &[&before, &scene.archive(), &samples().join("queries.sql")]));
}

/// The first run archives everything, the second has tasks that take an hour, and the third has a rejected key.
#[test]
#[ignore = "needs Prometheus' parser: ./tests/run.sh"]
fn prometheus_reads_the_metrics_and_the_samples_use_only_existing_metrics() {
    let mut scenes = Vec::new();
    for (faults, status) in [
        (FaultPlan::default(), 0),
        (FaultPlan { unfinished: Some(1.0), unfinished_seconds: Some(3600.0), ..FaultPlan::default() }, 3),
        (FaultPlan { revoke_after: Some(0), ..FaultPlan::default() }, 4),
    ] {
        let scene = Scene::faults(faults);
        scene.list(common::ids("t", 20));
        scene.export(&["--metrics-file", "run.prom", "--wait", "0s", "--assets", "image"]).expect(status);
        let text = fs::read_to_string(scene.path("run.prom")).unwrap();
        assert!(text.contains(&format!("\nsunor_archive_exit_code {status}\n")), "{text}");
        scenes.push(scene);
    }
    let files: Vec<PathBuf> = scenes.iter().map(|scene| scene.path("run.prom")).collect();
    let samples = samples();
    let arguments: Vec<&Path> = std::iter::once(samples.as_path()).chain(files.iter().map(PathBuf::as_path)).collect();
    judge("metrics.py", &arguments);
}
