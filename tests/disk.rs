//! Tests of failed writes. After a failed write, the archive must be consistent, the counts must be correct, and the
//! next run must resume. A file-size limit simulates a full disk.

#![expect(clippy::indexing_slicing, reason = "a test")]

mod common;

use std::{collections::HashMap, fs, process::Command};

use common::{CommandOutput, TestEnv, files, ids, wait_until};
use sunor_archive::simulator::{KnownTasks, SimulatedProvider};

const TASKS: usize = 60;

/// Creates a provider whose documents contain a long prompt. The prompt is stored in three columns, which makes the
/// parts larger than the journal.
fn env_with_large_documents() -> TestEnv {
    let document = |id: &String| {
        let prompt = "la ".repeat(3000);
        let text = format!(
            r#"{{"code":200,"data":{{"task_id":"{id}","type":"music","status":"success","input":{{"prompt":"{prompt}"}},"output":{{"result":{{}}}}}}}}"#
        );
        (id.clone(), text)
    };
    let documents: HashMap<String, String> = ids("t", TASKS).iter().map(document).collect();
    let env = TestEnv::with_provider(SimulatedProvider {
        tasks: KnownTasks::Documents,
        documents,
        ..SimulatedProvider::default()
    });
    env.write_list(ids("t", TASKS));
    env
}

/// Runs an export that cannot write files larger than `kib` KiB.
fn export_with_size_limit(env: &TestEnv, kib: u32) -> CommandOutput {
    let export = env.export_command(&["--format", "csv", "--concurrency", "4"]);
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"")).arg("bash");
    command.arg(export.get_program()).args(export.get_args());
    command.current_dir(env.path("")).envs(export.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.spawn().map(CommandOutput::wait_for).expect("bash should start")
}

fn assert_counts_add_up(env: &TestEnv) {
    let summary = env.summary();
    let tasks: u64 = summary["tasks"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    assert_eq!(summary["input"]["selected"], tasks);
    assert_eq!(env.archived_ids().len() + env.unfinished().len(), TASKS);
}

#[test]
fn a_full_disk_for_the_journal_stops_the_run_and_the_next_run_resumes() {
    let env = env_with_large_documents();
    export_with_size_limit(&env, 200).expect_status(1).expect_output("cannot write").expect_output(".journal");
    assert_counts_add_up(&env);
    let requested = env.stats().requests;
    let kept = env.unfinished().iter().filter(|(_, reason)| reason == "interrupted").count();
    assert!(requested < TASKS as u64 && kept > 10, "{kept} of {requested} responses kept");
    env.export(&[]).expect_status(0).expect_output("from interrupted run");
    assert_eq!(env.archived_ids().len(), TASKS);
    // The next run repeats only requests that were in flight when the write failed. It may not need to repeat all of
    // them, because it also recovers complete records of a truncated batch that was never acknowledged.
    let repeated = env.stats().requests - TASKS as u64;
    assert!(
        repeated <= requested - kept as u64,
        "{repeated} requests repeated, {requested} sent, {kept} responses kept"
    );
    assert!(requested - kept as u64 <= 8, "{requested} requests sent, {kept} responses kept");
}

#[test]
fn an_unwritable_part_is_published_by_the_next_run_without_a_request() {
    let env = env_with_large_documents();
    export_with_size_limit(&env, 900).expect_status(1).expect_output("cannot write").expect_output("tasks/");
    assert_counts_add_up(&env);
    assert_eq!((env.archived_ids().len(), env.stats().requests), (0, TASKS as u64));
    assert!(files(&env.archive().join("tasks"), ".csv").is_empty());
    env.export(&[]).expect_status(0).expect_output("no request was sent");
    assert_eq!((env.archived_ids().len(), env.stats().requests), (TASKS, TASKS as u64));
    assert!(files(&env.archive().join("tasks"), "").iter().all(|path| !path.to_string_lossy().contains('#')));
}

#[test]
fn an_unusable_folder_stops_the_run_with_its_name_and_loses_nothing() {
    let env = env_with_large_documents();
    let blocked = env.archive().join("clips");
    let run = env.export_command(&["--format", "csv"]).spawn();
    wait_until(|| env.archive().join(".sunor").exists());
    let placed = fs::write(&blocked, "not a folder");
    run.map(CommandOutput::wait_for).expect("the program should start").expect_status(1).expect_output("library/clips");
    assert!(placed.is_ok() && fs::remove_file(&blocked).is_ok());
    env.export(&[]).expect_status(0);
    assert_eq!((env.archived_ids().len(), env.stats().repeated), (TASKS, 0));
}
