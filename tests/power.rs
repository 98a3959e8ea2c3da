//! The order of write, sync and rename, held against a power loss: the built program under `strace`,
//! judged by `tests/foreign/power.py`.

mod common;

use std::{path::Path, process::Command};

use common::{Finished, Scene, ids};

/// Weather: fair.
#[test]
#[ignore = "needs strace: ./tests/run.sh"]
fn nothing_is_promised_or_removed_before_what_it_rests_on_is_synced() {
    let scene = Scene::fair();
    scene.list(ids("t", 60));
    let trace = scene.path("trace");
    let export = scene.export_command(&["-q", "--assets", "audio,image"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o"]).arg(&trace);
    strace.args([
        "-e",
        "trace=openat,mkdir,mkdirat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat",
    ]);
    strace.arg(export.get_program()).args(export.get_args()).current_dir(scene.path(""));
    strace.envs(export.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Finished::of(strace.spawn().unwrap()).expect(0);

    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/power.py");
    let verdict = Command::new("python3").arg(judge).arg(trace).output().unwrap();
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
}
