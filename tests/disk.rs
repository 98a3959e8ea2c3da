//! Tests of failed writes. The archive must stay consistent, the counts must be correct, and the next run must resume.
//! A file-size limit simulates a full disk, because it makes the same writes fail.

#![expect(clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{collections::HashMap, fs, process::Command};

use common::{Finished, Scene, files, ids, wait_until};
use sunor_archive::simulator::{KnownTasks, SimulatedProvider};

const TASKS: usize = 60;

/// Creates a provider whose documents repeat a long prompt in three columns, so that parts are larger than the journal.
fn wordy() -> Scene {
    let document = |id: &String| {
        let prompt = "la ".repeat(3000);
        let text = format!(
            r#"{{"code":200,"data":{{"task_id":"{id}","type":"music","status":"success","input":{{"prompt":"{prompt}"}},"output":{{"result":{{}}}}}}}}"#
        );
        (id.clone(), text)
    };
    let documents: HashMap<String, String> = ids("t", TASKS).iter().map(document).collect();
    let scene =
        Scene::world(SimulatedProvider { tasks: KnownTasks::Documents, documents, ..SimulatedProvider::default() });
    scene.list(ids("t", TASKS));
    scene
}

/// Runs an export that cannot write files larger than `kib` KiB.
fn limited(scene: &Scene, kib: u32) -> Finished {
    let export = scene.export_command(&["--format", "csv", "--concurrency", "4"]);
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"")).arg("bash");
    command.arg(export.get_program()).args(export.get_args());
    command.current_dir(scene.path("")).envs(export.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.spawn().map(Finished::of).expect("bash should start")
}

fn assert_books(scene: &Scene) {
    let summary = scene.summary();
    let tasks: u64 = summary["tasks"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    assert_eq!(summary["input"]["selected"], tasks);
    assert_eq!(scene.archived().len() + scene.unfinished().len(), TASKS);
}

#[test]
fn a_full_disk_for_the_journal_stops_the_run_and_the_next_run_resumes() {
    let scene = wordy();
    limited(&scene, 200).expect(1).says("cannot write").says(".journal");
    assert_books(&scene);
    let asked = scene.stats().requests;
    let kept = scene.unfinished().iter().filter(|(_, reason)| reason == "interrupted").count();
    assert!(asked < TASKS as u64 && kept > 10, "{kept} of {asked} responses kept");
    scene.export(&[]).expect(0).says("from interrupted run");
    assert_eq!(scene.archived().len(), TASKS);
    // The next run repeats at most the requests that were in flight when the write failed. Complete records of a
    // truncated batch are recovered, although they were never acknowledged.
    let repeated = scene.stats().requests - TASKS as u64;
    assert!(repeated <= asked - kept as u64, "{repeated} requests repeated, {asked} sent, {kept} responses kept");
    assert!(asked - kept as u64 <= 8, "{asked} requests sent, {kept} responses kept");
}

#[test]
fn an_unwritable_part_is_published_by_the_next_run_without_a_request() {
    let scene = wordy();
    limited(&scene, 900).expect(1).says("cannot write").says("tasks/");
    assert_books(&scene);
    assert_eq!((scene.archived().len(), scene.stats().requests), (0, TASKS as u64));
    assert!(files(&scene.archive().join("tasks"), ".csv").is_empty());
    scene.export(&[]).expect(0).says("no request was sent");
    assert_eq!((scene.archived().len(), scene.stats().requests), (TASKS, TASKS as u64));
    assert!(files(&scene.archive().join("tasks"), "").iter().all(|path| !path.to_string_lossy().contains('#')));
}

#[test]
fn an_unusable_folder_stops_the_run_with_its_name_and_loses_nothing() {
    let scene = wordy();
    let blocked = scene.archive().join("clips");
    let run = scene.export_command(&["--format", "csv"]).spawn();
    wait_until(|| scene.archive().join(".sunor").exists());
    let placed = fs::write(&blocked, "not a folder");
    run.map(Finished::of).expect("the program should start").expect(1).says("library/clips");
    assert!(placed.is_ok() && fs::remove_file(&blocked).is_ok());
    scene.export(&[]).expect(0);
    assert_eq!((scene.archived().len(), scene.stats().repeated), (TASKS, 0));
}
