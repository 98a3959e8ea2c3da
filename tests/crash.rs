//! The program is killed, and nothing is lost or asked twice.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{collections::BTreeMap, fs, time::Duration};

use common::{Scene, files, ids, wait_until};

const TASKS: usize = 1500;
const CONCURRENCY: u64 = 8;

/// Weather: fair; the process is killed with SIGKILL again and again, at instants of chance.
#[test]
fn killed_at_any_instant_each_task_is_archived_once_and_only_requests_in_flight_are_repeated() {
    let scene = Scene::fair();
    scene.list(ids("t", TASKS));
    let mut chance = fastrand::Rng::with_seed(11);
    let mut kills = 0;
    let arguments = ["--format", "csv", "--rate", "600/s", "--concurrency", "8", "-q"];
    for _ in 0..12 {
        let mut run = scene.export_command(&arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(chance.u64(20..400)));
        if run.try_wait().unwrap().is_none() {
            kills += 1;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        assert_no_torn_file(&scene);
    }
    scene.export(&arguments).expect(0);
    let mut expected = ids("t", TASKS);
    expected.sort();
    assert_eq!(scene.archived(), expected);
    let stats = scene.stats();
    assert!(kills > 0 && stats.asked_again <= kills * CONCURRENCY, "{} repeated in {kills} kills", stats.asked_again);
    assert_eq!(stats.requests, TASKS as u64 + stats.asked_again);
    assert!(files(&scene.archive().join(".sunor/journal"), "").is_empty());
    println!("{kills} kills survived, {} of {} requests repeated", stats.asked_again, stats.requests);

    let undisturbed = Scene::fair();
    undisturbed.list(ids("t", TASKS));
    undisturbed.export(&["--format", "csv"]).expect(0);
    for table in ["tasks", "clips", "lyrics"] {
        assert!(content(&scene, table) == content(&undisturbed, table), "{table} differ");
    }
}

/// A table's rows without what is the run's own.
fn content(scene: &Scene, table: &str) -> Vec<BTreeMap<String, String>> {
    let own = |(column, _): &(String, String)| column != "fetched_at" && column != "run_id";
    let mut rows: Vec<_> = scene.rows(table).into_iter().map(|row| row.into_iter().filter(own).collect()).collect();
    rows.sort();
    rows
}

/// Weather: fair; the journal of a killed run loses its last bytes, and one byte in its middle is flipped.
#[test]
fn a_torn_journal_is_published_up_to_the_tear_and_damage_is_said_and_kept_aside() {
    let scene = Scene::fair();
    scene.list(ids("t", TASKS));
    let arguments = ["--format", "csv", "--rate", "300/s"];
    let mut run = scene.export_command(&arguments).spawn().unwrap();
    let journal = scene.archive().join(".sunor/journal");
    wait_until(|| files(&journal, ".journal").first().is_some_and(|path| fs::metadata(path).unwrap().len() > 100_000));
    run.kill().unwrap();
    run.wait().unwrap();

    let segment = files(&journal, ".journal").pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes.truncate(bytes.len() - 7);
    bytes[50_000] ^= 1;
    fs::write(&segment, bytes).unwrap();

    scene.export(&["--format", "csv"]).expect(0).says("records of its journal are damaged (1)");
    assert_eq!(scene.archived().len(), TASKS);
    assert_eq!(files(&scene.archive().join(".sunor/damaged"), ".journal").len(), 1);
    assert_eq!(scene.summary()["recovered"], true);
}

/// Whatever stands under a final name is whole: every row has all its fields.
fn assert_no_torn_file(scene: &Scene) {
    for table in ["tasks", "clips", "lyrics"] {
        for path in files(&scene.archive().join(table), ".csv") {
            let rows = csv::Reader::from_path(&path).unwrap().into_records().collect::<Result<Vec<_>, _>>();
            assert!(rows.is_ok_and(|rows| !rows.is_empty()), "{}", path.display());
        }
    }
}
