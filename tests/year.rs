//! A test that simulates a year of nightly exports.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use common::{TestEnv, files, ids, run_checker, samples};
use serde_json::Value;
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan};

const RUNS: usize = 365;

/// The average number of new tasks per night.
const TASKS_PER_RUN: usize = 4;

const CONCURRENCY: u64 = 8;

/// Some media URLs have expired, and some API requests fail once with 502. In about one night in eight, the process is
/// killed. Every 30 nights, the archive is compacted, repaired and verified.
#[test]
#[ignore = "takes minutes: ./tests/run.sh"]
fn after_a_year_every_task_is_archived_once_and_fetched_once() {
    let expired =
        Fault { kind: FaultKind::Status(403), filter: FaultFilter { share: Some(0.05), ..FaultFilter::first(3) } };
    let bad_gateway =
        Fault { kind: FaultKind::Status(502), filter: FaultFilter { share: Some(0.02), ..FaultFilter::first(1) } };
    let (media, faults) = (vec![expired], vec![bad_gateway]);
    let env = TestEnv::with_faults(FaultPlan { media, faults, media_seconds: Some(1.0), ..FaultPlan::default() });
    let mut rng = fastrand::Rng::with_seed(365);
    let (mut tasks, mut kills, mut runs) = (0, 0, UncompactedParts::default());
    for night in 1..=RUNS {
        tasks += rng.usize(0..=2 * TASKS_PER_RUN);
        // The list always contains all tasks, because archived tasks cost no request.
        env.write_list(ids("t", tasks));
        let arguments = ["-q", "--assets", "audio,image", "--concurrency", "8"];
        let mut run = env.export_command(&arguments).spawn().unwrap();
        if rng.u8(0..8) == 0 {
            std::thread::sleep(Duration::from_millis(rng.u64(10..250)));
            kills += u64::from(run.try_wait().unwrap().is_none());
            run.kill().unwrap();
        }
        run.wait().unwrap();
        if night % 30 == 0 {
            env.export(&arguments);
            runs.link_new_parts(&env);
            env.run(&["compact", "library", "-q"]).expect_status(0);
            env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(0);
            env.run(&["verify", "library"]).expect_status(0);
            runs.mark_as_compacted(&env);
        }
    }
    env.export(&["--assets", "audio,image"]);
    runs.link_new_parts(&env);
    env.run(&["compact", "library", "-q"]).expect_status(0);
    env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(0);
    let report = env.run(&["verify", "library", "--json"]).expect_status(0).stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((report["checked"]["rows"]["tasks"].as_u64(), report["damage"].as_u64()), (Some(tasks as u64), Some(0)));
    let check = "cat runs/*.sha256 | sha256sum --quiet --strict -c";
    let check = Command::new("bash").args(["-c", check]).current_dir(env.archive()).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    let stats = env.stats();
    let requested: &HashMap<String, u32> = &stats.by_task;
    assert_eq!(requested.len(), tasks);
    // Tasks are requested again if `repair` needs a fresh URL, or if a kill lost their responses.
    let again = stats.repeated;
    println!("{tasks} tasks in {RUNS} nights, {kills} kills, {} requests, {again} of them repeated", stats.requests);
    fs::copy(env.archive().join("views.sql"), env.path("nights/views.sql")).unwrap();
    print!("{}", run_checker("faster.py", &[&env.path("nights"), &env.archive(), &samples().join("queries.sql")]));
    assert!(again <= kills * CONCURRENCY + tasks as u64 / 5, "{again} repeated requests after {kills} kills");
}

/// The tables without compaction: hard links to the parts of all nights, in a folder outside the archive.
#[derive(Default)]
struct UncompactedParts {
    /// The parts that `compact` or `repair` wrote, which are not linked.
    compacted: HashSet<PathBuf>,
}

impl UncompactedParts {
    /// Creates links to the parts that were added since the last compaction.
    fn link_new_parts(&self, env: &TestEnv) {
        for (table, part) in Self::parts(env).filter(|(_, part)| !self.compacted.contains(part)) {
            let folder = env.path("nights").join(table);
            fs::create_dir_all(&folder).unwrap();
            fs::hard_link(&part, folder.join(part.file_name().unwrap())).unwrap();
        }
    }

    /// Marks all existing parts as compacted. Their rows are in parts that are already linked.
    fn mark_as_compacted(&mut self, env: &TestEnv) {
        self.compacted = Self::parts(env).map(|(_, part)| part).collect();
    }

    fn parts(env: &TestEnv) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let parts = |table| files(&env.archive().join(table), ".parquet").into_iter().map(move |part| (table, part));
        ["tasks", "clips", "lyrics", "assets"].into_iter().flat_map(parts)
    }
}
