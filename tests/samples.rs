//! Tests of the sample files, and of the test names in the documentation.

mod common;

use std::{collections::BTreeSet, fs};

use common::{TestEnv, ids, samples};
use sunor_archive::simulator::{FaultPlan, SimulatedProvider};

/// Some tasks are still in progress when the export starts.
#[test]
fn the_sample_list_has_every_type_model_and_status() {
    let env = TestEnv::with_provider(SimulatedProvider::default());
    let list = samples().join("tasks.csv");
    let run = [
        "export",
        list.to_str().unwrap(),
        "--out",
        "library",
        "--format",
        "csv",
        "--rate",
        "unlimited",
        "--poll-interval",
        "1s",
    ];
    env.run(&run).expect_status(0).expect_output("Archived 24 of 24 tasks");
    let rows = env.rows("tasks");
    let distinct = |column: &str| rows.iter().map(|row| row[column].as_str()).collect::<BTreeSet<_>>();
    assert_eq!(distinct("status"), BTreeSet::from(["failure", "not_found", "success", "timeout"]));
    assert_eq!(distinct("type"), BTreeSet::from(["", "concat", "lyrics", "music", "upload"]));
    assert_eq!(distinct("model"), BTreeSet::from(["", "suno", "udio"]));
    assert!(env.summary()["requests"]["polls"].as_u64().unwrap() > 0, "no task was polled");
}

#[test]
fn an_export_completes_with_every_sample_fault_plan() {
    let plans = common::files(&samples().join("faults"), ".toml");
    assert!(!plans.is_empty());
    for path in plans {
        let faults: FaultPlan = fs::read_to_string(&path).unwrap().parse().unwrap();
        let env = TestEnv::with_faults(faults);
        env.write_list(ids("t", 16));
        let arguments = ["--poll-interval", "1s", "--timeout", "5s", "--assets", "audio,image"];
        env.export(&arguments).expect_status(0).expect_output("Archived 16 of 16 tasks");
    }
}

/// Checks that every test named in the tables of `docs/reliability.md` exists.
#[test]
fn the_failure_mode_tables_list_tests_that_exist() {
    let root = samples().join("..");
    let table = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let named: Vec<(&str, &str)> =
        table.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    assert!(named.len() > 20);
    for (file, test) in named {
        let source = fs::read_to_string(root.join(format!("tests/{file}.rs"))).unwrap();
        assert!(source.contains(&format!("fn {test}(")), "{file}::{test}");
    }
}

/// Checks that the `--help` output lists every option that the crontab and the systemd unit use.
#[test]
fn scheduler_samples_use_options_that_exist() {
    let env = TestEnv::with_provider(SimulatedProvider::default());
    let mut jobs = 0;
    for name in ["crontab", "sunor-archive.service"] {
        let text = fs::read_to_string(samples().join(name)).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((_, job)) = line.split_once("sunor-archive ") else { continue };
            let mut words = job.split_whitespace();
            let help = env.run(&[words.next().unwrap(), "--help"]).expect_status(0).stdout;
            for option in words.filter(|word| word.starts_with('-')) {
                assert!(
                    help.contains(&format!("{option} ")) || help.contains(&format!("{option},")),
                    "{name}: {option}"
                );
            }
            jobs += 1;
        }
    }
    assert_eq!(jobs, 3);
}
