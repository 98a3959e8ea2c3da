//! Tests that the order of writes, syncs and renames protects an archive from power loss. The built program runs under
//! `strace`, and `tests/foreign/power.py` and `tests/foreign/power_swap.py` check the trace.

mod common;

use std::{path::Path, process::Command};

use common::{CommandOutput, TestEnv, ids};

#[test]
#[ignore = "needs strace: ./tests/run.sh"]
fn nothing_is_acknowledged_or_removed_before_its_dependencies_are_synced() {
    let env = TestEnv::new();
    env.write_list(ids("t", 60));
    check_trace(&env, &env.export_command(&["-q", "--assets", "audio,image"]), "power.py");
}

#[test]
#[ignore = "needs strace: ./tests/run.sh"]
fn parts_are_swapped_only_after_their_dependencies_are_synced() {
    let env = TestEnv::new();
    for night in 1..4 {
        env.write_list(ids("t", 60 * night));
        env.export(&["-q", "--assets", "image"]).expect_status(0);
    }
    let mut compact = env.program();
    compact.args(["compact", "library"]);
    check_trace(&env, &compact, "power_swap.py");
}

/// Runs a command under `strace`, and checks the trace with a script from `tests/foreign`.
fn check_trace(env: &TestEnv, command: &Command, checker: &str) {
    let trace = env.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o"]).arg(&trace);
    strace.args([
        "-e",
        "trace=openat,mkdir,mkdirat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat",
    ]);
    strace.arg(command.get_program()).args(command.get_args()).current_dir(env.path(""));
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    CommandOutput::wait_for(strace.spawn().expect("strace should start")).expect_status(0);

    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(checker);
    let output = Command::new("python3").arg(checker).arg(trace).output().expect("python3 should start");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
