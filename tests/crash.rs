//! The program is killed, and nothing is lost or fetched twice.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{collections::BTreeMap, fs, time::Duration};

use common::{Scene, files, ids, wait_until};
use sunor_archive::simulator::FaultPlan;

const TASKS: usize = 1500;
const CONCURRENCY: u64 = 8;

/// No faults; the process is killed repeatedly with SIGKILL, at random times.
#[test]
fn after_any_kill_each_task_is_archived_once_and_only_requests_in_flight_are_repeated() {
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

const SONGS: usize = 400;

/// What a killed run may have to be sent again of each download in flight: the piece that was on its way to
/// the disk, and what the sockets held.
const IN_FLIGHT_BYTES: u64 = 1 << 20;

/// No faults; with songs of a quarter of a megabyte; the process is killed repeatedly.
#[test]
fn after_kills_during_downloads_every_asset_is_complete_and_stored_once() {
    let faults = FaultPlan { media_bytes: Some(256 << 10), ..FaultPlan::default() };
    let scene = Scene::faults(faults);
    scene.list(ids("t", SONGS));
    let mut chance = fastrand::Rng::with_seed(12);
    let arguments = ["--format", "csv", "--concurrency", "8", "-q", "--assets", "audio,image"];
    let mut kills = 0;
    for _ in 0..12 {
        let mut run = scene.export_command(&arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(chance.u64(40..400)));
        kills += u64::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
        assert_no_torn_file(&scene);
    }
    scene.export(&arguments).expect(0);
    let mut expected = ids("t", SONGS);
    expected.sort();
    assert_eq!(scene.archived(), expected);
    assert!(files(&scene.archive().join(".sunor/journal"), "").is_empty());
    assert!(!scene.archive().join(".sunor/partial").exists());

    let assets = scene.rows("assets");
    let count = |status: &str| assets.iter().filter(|row| row["status"] == status).count();
    assert!(count("ok") > SONGS && count("failed") == 0, "{} ok, {} failed", count("ok"), count("failed"));
    let manifests = "cat runs/*.sha256 | sha256sum --quiet -c";
    let check = std::process::Command::new("bash").args(["-c", manifests]).current_dir(scene.archive()).output();
    assert!(check.is_ok_and(|check| check.status.success()));
    let stats = scene.stats();
    let wanted: u64 = assets.iter().map(|row| row["bytes"].parse::<u64>().unwrap_or(0)).sum();
    let again = stats.media.bytes - wanted;
    assert!(kills > 0 && stats.asked_again <= kills * CONCURRENCY, "{} repeated in {kills} kills", stats.asked_again);
    assert!(again <= kills * CONCURRENCY * IN_FLIGHT_BYTES, "{again} bytes again in {kills} kills");
    println!("{kills} kills among downloads, {again} of {wanted} bytes sent again");
}

/// A table's rows without what is the run's own, or the simulator's.
fn content(scene: &Scene, table: &str) -> Vec<BTreeMap<String, String>> {
    let same = |(column, value): (String, String)| {
        let is_own = column == "fetched_at" || column == "run_id";
        (!is_own).then(|| (column, value.replace(scene.cdn_url(), "{cdn}")))
    };
    let rows = scene.rows(table).into_iter();
    let mut rows: Vec<_> = rows.map(|row| row.into_iter().filter_map(same).collect()).collect();
    rows.sort();
    rows
}

/// No faults; the journal of a killed run loses its last bytes, and one byte in its middle is flipped.
#[test]
fn a_torn_journal_is_published_up_to_the_tear_and_damage_is_reported_and_quarantined() {
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
    for table in ["tasks", "clips", "lyrics", "assets"] {
        for path in files(&scene.archive().join(table), ".csv") {
            let rows = csv::Reader::from_path(&path).unwrap().into_records().collect::<Result<Vec<_>, _>>();
            assert!(rows.is_ok_and(|rows| !rows.is_empty()), "{}", path.display());
        }
    }
}
