//! Tests of `verify`: every kind of damage is reported, and no damage is reported for an intact archive.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test; the program chose the file names"
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use common::{CommandOutput, TestEnv, files, ids, sample_documents, seed, wait_until};
use serde_json::Value;
use sunor_archive::{
    simulator::{Fault, FaultFilter, FaultKind, FaultPlan, SimulatedProvider},
    verify::{self, Depth, FindingKind, Report},
};

const FORMATS: [&str; 2] = ["parquet", "csv"];

/// Creates an archive that contains two runs, with audio and covers.
fn archive_of_two_runs(format: &str) -> TestEnv {
    let env = TestEnv::with_faults(FaultPlan { media_seconds: Some(1.0), ..FaultPlan::default() });
    for first in [1, 21] {
        env.write_list(ids("t", 40).split_off(first - 1).iter().take(20));
        env.export(&["--format", format, "--assets", "audio,image", "-q"]).expect_status(0);
    }
    env
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    files(folder, "").into_iter().flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Lists the relative paths of the files in an archive. In the `.sunor` folder, only `checksums` is listed.
fn contents(archive: &Path) -> Vec<String> {
    let relative = |path: PathBuf| path.strip_prefix(archive).unwrap().to_str().unwrap().to_owned();
    walk(archive)
        .into_iter()
        .map(relative)
        .filter(|path| !path.starts_with(".sunor") || path == ".sunor/checksums")
        .collect()
}

/// Lists the relative paths of the files in a folder of an archive whose names end with `suffix`.
fn list_files(archive: &Path, folder: &str, suffix: &str) -> Vec<String> {
    contents(archive).into_iter().filter(|path| path.starts_with(folder) && path.ends_with(suffix)).collect()
}

fn copy(from: &Path, to: &Path) {
    for path in walk(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

/// Runs `verify --json`, checks its exit status, and returns the report.
#[track_caller]
fn verify_json(env: &TestEnv, archive: &str, arguments: &[&str], status: i32) -> Value {
    let run = env.run(&[&["verify", archive, "--json"], arguments].concat()).expect_status(status);
    serde_json::from_str(&run.stdout).unwrap()
}

/// Returns the kind and the path of each finding.
fn finding_paths(report: &Value) -> Vec<(String, String)> {
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| (word(finding, "kind"), word(finding, "path"))).collect()
}

fn flip(path: &Path, at: usize, bits: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= bits;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_clean_archive_passes_at_every_depth_and_reports_what_was_checked() {
    for format in FORMATS {
        let env = archive_of_two_runs(format);
        for depth in [&[][..], &["--quick"], &["--sample", "30%"], &["--slice", "2/3"]] {
            let report = verify_json(&env, "library", depth, 0);
            assert_eq!((finding_paths(&report), &report["exit_code"]), (vec![], &0.into()), "{format} {depth:?}");
            assert_eq!((&report["damage"], &report["notes"]), (&0.into(), &0.into()));
            assert_eq!(report["checked"]["rows"]["tasks"], 40);
        }
        let all = verify_json(&env, "library", &[], 0);
        let archive = env.archive();
        let parts: Vec<String> = ["tasks/", "clips/", "lyrics/", "assets/"]
            .iter()
            .flat_map(|table| list_files(&archive, table, ""))
            .collect();
        let media = list_files(&archive, "media/", "");
        let size = |path: &String| fs::metadata(archive.join(path)).unwrap().len();
        assert_eq!(all["checked"]["parts"], parts.len());
        assert_eq!(all["checked"]["files"], media.len());
        assert_eq!(all["checked"]["bytes"], parts.iter().chain(&media).map(size).sum::<u64>());
        assert_eq!(verify_json(&env, "library", &["--quick"], 0)["checked"]["bytes"], 0);

        env.run(&["verify", "library"])
            .expect_status(0)
            .expect_output("No damage was found.")
            .expect_output("40 tasks");
        let quiet = env.run(&["verify", "library", "-q"]).expect_status(0);
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
        let stderr = env.run(&["verify", "library", "--progress", "json"]).expect_status(0).stderr;
        let events: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let checked = events.iter().filter(|event| event["event"] == "checked").count();
        assert_eq!(checked, parts.len() + media.len());
        assert_eq!(events.last().unwrap()["event"], "finished");
    }
}

/// Damage to an archive. `apply` damages the archive, and returns the kinds and paths of the findings that `verify`
/// must report.
struct DamageCase {
    name: &'static str,
    apply: fn(&Path) -> Vec<(&'static str, String)>,
    /// Whether `verify --quick` finds the damage.
    quick: bool,
}

fn first_file(archive: &Path, folder: &str, suffix: &str) -> String {
    list_files(archive, folder, suffix).remove(0)
}

const DAMAGE_CASES: &[DamageCase] = &[
    DamageCase {
        name: "a clips part is deleted",
        apply: |archive| {
            let part = first_file(archive, "clips/", "");
            fs::remove_file(archive.join(&part)).unwrap();
            vec![("part_missing", part.clone()), ("clip_count", part.replace("clips", "tasks"))]
        },
        quick: true,
    },
    DamageCase {
        name: "a tasks part is deleted",
        apply: |archive| {
            let part = first_file(archive, "tasks/", "");
            fs::remove_file(archive.join(&part)).unwrap();
            let orphans = |table: &str| ("rows_without_task", part.replace("tasks", table));
            vec![("part_missing", part.clone()), orphans("clips"), orphans("lyrics"), orphans("assets")]
        },
        quick: true,
    },
    DamageCase {
        name: "a part is truncated",
        apply: |archive| {
            let part = first_file(archive, "lyrics/", "");
            truncate(&archive.join(&part));
            vec![("part_damaged", part)]
        },
        // If a CSV part is truncated at the end of a line, only the checksum reveals the damage.
        quick: false,
    },
    DamageCase {
        name: "a byte in a part is changed",
        apply: |archive| {
            let part = first_file(archive, "assets/", "");
            let middle = fs::metadata(archive.join(&part)).unwrap().len() / 2;
            flip(&archive.join(&part), middle as usize, 1);
            vec![("part_damaged", part)]
        },
        quick: false,
    },
    DamageCase {
        name: "a song is deleted",
        apply: |archive| {
            let song = first_file(archive, "media/audio/", "");
            fs::remove_file(archive.join(&song)).unwrap();
            vec![("media_missing", song)]
        },
        quick: true,
    },
    DamageCase {
        name: "a song is truncated",
        apply: |archive| {
            let song = first_file(archive, "media/audio/", "");
            truncate(&archive.join(&song));
            vec![("media_damaged", song)]
        },
        quick: true,
    },
    DamageCase {
        name: "a byte in a cover is changed",
        apply: |archive| {
            let cover = first_file(archive, "media/image/", "");
            flip(&archive.join(&cover), 100, 0x80);
            vec![("media_damaged", cover)]
        },
        quick: false,
    },
    DamageCase {
        name: "a manifest has a different digest for a part",
        apply: |archive| {
            let manifest = first_file(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap();
            let line = text.lines().find(|line| line.contains("  tasks/")).unwrap();
            let digit = if line.starts_with('0') { "1" } else { "0" };
            fs::write(archive.join(&manifest), text.replace(line, &format!("{digit}{}", &line[1..]))).unwrap();
            vec![("part_damaged", line.split_once("  ").unwrap().1.to_owned())]
        },
        quick: false,
    },
    DamageCase {
        name: "a manifest has a different digest for a song",
        apply: |archive| {
            let manifest = first_file(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap();
            let line = text.lines().find(|line| line.contains("  media/")).unwrap();
            let digit = if line.starts_with('0') { "1" } else { "0" };
            fs::write(archive.join(&manifest), text.replace(line, &format!("{digit}{}", &line[1..]))).unwrap();
            vec![("manifest_damaged", manifest)]
        },
        quick: true,
    },
    DamageCase {
        name: "a manifest has an invalid line",
        apply: |archive| {
            let manifest = first_file(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap() + "and so on\n";
            fs::write(archive.join(&manifest), text).unwrap();
            vec![("manifest_damaged", manifest)]
        },
        quick: true,
    },
    DamageCase {
        name: "a part is duplicated",
        apply: |archive| {
            let part = first_file(archive, "tasks/", "");
            let duplicate = part.replace("-0001.", "-0002.");
            fs::copy(archive.join(&part), archive.join(&duplicate)).unwrap();
            vec![("part_unlisted", duplicate.clone()), ("task_repeated", duplicate)]
        },
        quick: true,
    },
    DamageCase {
        name: "a part in the wrong table",
        apply: |archive| {
            let part = first_file(archive, "clips/", "");
            let unusual = part.replace("clips/", "lyrics/").replace("-0001.", "-0007.");
            fs::copy(archive.join(&part), archive.join(&unusual)).unwrap();
            vec![("part_columns", unusual.clone()), ("part_unlisted", unusual)]
        },
        quick: true,
    },
    DamageCase {
        name: "a file of the other format among the parts",
        apply: |archive| {
            let is_csv = first_file(archive, "tasks/", "").ends_with(".csv");
            let stray = format!("tasks/mine.{}", if is_csv { "parquet" } else { "csv" });
            fs::write(archive.join(&stray), "task_id\n").unwrap();
            vec![("part_unlisted", stray)]
        },
        quick: true,
    },
    DamageCase {
        name: "leftover staging files",
        apply: |archive| {
            let staging_files = ["assets/a.parquet#1", "runs/r.json#2", "views.sql#3", "media/audio/x.mp3#0"];
            for path in staging_files {
                fs::write(archive.join(path), "x").unwrap();
            }
            staging_files.map(|path| ("half_finished", path.to_owned())).into()
        },
        quick: true,
    },
    DamageCase {
        name: "the metadata is not JSON",
        apply: |archive| {
            truncate(&archive.join("archive.json"));
            vec![("metadata_damaged", "archive.json".into())]
        },
        quick: true,
    },
    DamageCase {
        name: "a run's summary does not add up, and a list has an unknown reason",
        apply: |archive| {
            let summary = first_file(archive, "runs/", ".json");
            let text = fs::read_to_string(archive.join(&summary)).unwrap();
            fs::write(archive.join(&summary), text.replace("\"selected\": 20", "\"selected\": 30")).unwrap();
            let list = first_file(archive, "runs/", "-unfinished.csv");
            fs::write(archive.join(&list), "task_id,reason,detail\nx,lost,y\n").unwrap();
            vec![("run_file_damaged", list), ("run_file_damaged", summary)]
        },
        quick: true,
    },
    DamageCase {
        name: "the views are changed",
        apply: |archive| {
            flip(&archive.join("views.sql"), 200, 1);
            vec![("views_damaged", "views.sql".into())]
        },
        quick: true,
    },
];

#[test]
fn every_kind_of_damage_is_reported_for_the_right_file() {
    for format in FORMATS {
        let env = archive_of_two_runs(format);
        for (number, case) in DAMAGE_CASES.iter().enumerate() {
            let name = format!("copy{number}");
            let damaged = env.path(&name);
            copy(&env.archive(), &damaged);
            let mut expected = (case.apply)(&damaged);
            expected.sort();
            let report = verify_json(&env, &name, &[], 3);
            let mut all = finding_paths(&report);
            all.sort();
            for (kind, path) in &expected {
                let exists = all.iter().any(|(found, at)| found == kind && at == path);
                assert!(exists, "{format}, {}: {kind} {path} is not among {all:#?}", case.name);
            }
            // Only the damaged file and files whose rows depend on its contents may have findings.
            let files: Vec<&String> = expected.iter().map(|(_, path)| path).collect();
            let dependent_kinds = ["rows_without_task", "clip_count", "media_unlisted", "stray_media"];
            let unexpected =
                all.iter().find(|(kind, path)| !files.contains(&path) && !dependent_kinds.contains(&kind.as_str()));
            assert_eq!(unexpected, None, "{format}, {}", case.name);
            if case.quick {
                verify_json(&env, &name, &["--quick"], 3);
            }
            let text = env.run(&["verify", &name, "-q"]).expect_status(3);
            text.expect_output(&expected[0].1).expect_output("Damage was found in");
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

#[test]
fn a_finding_identifies_what_to_repair() {
    let env = archive_of_two_runs("csv");
    let archive = env.archive();
    let song = first_file(&archive, "media/audio/", "");
    fs::remove_file(archive.join(&song)).unwrap();
    let tasks = first_file(&archive, "tasks/", "");
    fs::remove_file(archive.join(&tasks)).unwrap();
    let report = verify_json(&env, "library", &["--quick"], 3);
    let of_kind = |kind: &str| {
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind).collect::<Vec<_>>()
    };
    let about = &of_kind("media_missing")[0]["about"]["asset"];
    let row = env.rows("assets").into_iter().find(|row| row["path"] == song).unwrap();
    assert_eq!(
        (&about["task_id"], &about["clip_id"]),
        (&row["task_id"].as_str().into(), &row["clip_id"].as_str().into())
    );
    assert_eq!(about["kind"], "audio");
    assert_eq!(of_kind("part_missing")[0]["about"]["part"]["table"], "tasks");
    let orphans = &of_kind("rows_without_task").into_iter().find(|it| it["about"]["rows"]["table"] == "clips").unwrap();
    let orphans = &orphans["about"]["rows"];
    let lost = ids("t", 20);
    assert!(orphans["task_ids"].as_array().unwrap().iter().all(|id| lost.iter().any(|lost| *id == **lost)));
    assert!(orphans["rows"].as_u64().unwrap() >= orphans["task_ids"].as_array().unwrap().len() as u64);
}

#[test]
fn a_harmless_anomaly_is_a_note_and_not_damage() {
    let env = archive_of_two_runs("parquet");
    let archive = env.archive();
    for stray in ["media/audio/notes.txt", "tasks/README", "runs/mine.txt", "own-notes.md"] {
        fs::write(archive.join(stray), "mine").unwrap();
    }
    fs::create_dir_all(archive.join(".sunor/damaged")).unwrap();
    fs::write(archive.join(".sunor/damaged/r-0001.journal"), "x\n").unwrap();
    fs::write(archive.join(".sunor/journal/20260102T030405000Z-abcdef-0001.journal"), "damaged\n").unwrap();
    let report = verify_json(&env, "library", &[], 0);
    let kinds: Vec<String> = finding_paths(&report).into_iter().map(|(kind, _)| kind).collect();
    // While the journal has segments, media files without a row are not reported, because their rows may be in the
    // journal.
    assert_eq!(kinds, ["stray_file", "stray_file", "journal_left", "damaged_kept"]);
    fs::remove_file(archive.join(".sunor/journal/20260102T030405000Z-abcdef-0001.journal")).unwrap();
    let newer = fs::read_to_string(archive.join("archive.json")).unwrap().replace("version\": 1", "version\": 2");
    fs::write(archive.join("archive.json"), newer).unwrap();
    let kinds: Vec<String> =
        finding_paths(&verify_json(&env, "library", &[], 0)).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["newer_format", "stray_media", "stray_file", "stray_file", "damaged_kept"]);
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage was found, 5 notes");
    let quiet = env.run(&["verify", "library", "-q"]).expect_status(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

/// The export receives all kinds of responses, including unfinished tasks, bodies that are not tasks, and invalid JSON.
#[test]
fn a_changed_byte_in_any_file_is_found() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    for format in FORMATS {
        let faults = FaultPlan { media_seconds: Some(1.0), unfinished: Some(0.0), ..FaultPlan::default() };
        let env = TestEnv::with_provider(SimulatedProvider {
            documents: sample_documents(),
            faults,
            ..SimulatedProvider::default()
        });
        env.write_list(sample_documents().into_keys().chain(ids("t", 10)));
        env.export(&["--format", format, "--assets", "audio,image", "--wait", "0s"]).expect_status(3);
        let archive = env.archive();
        for path in contents(&archive) {
            let (file, full) = (archive.join(&path), fs::read(archive.join(&path)).unwrap());
            for _ in 0..if path.starts_with("media/") { 1 } else { 12 } {
                let (at, bits) = (rng.usize(..full.len()), rng.u8(1..));
                flip(&file, at, bits);
                let report = verify::check(&archive.clone().into(), Depth::Full, &mut |_| ()).unwrap();
                let context = format!("{format}: byte {at} of {path} ^ {bits}, seed {seed}: {:#?}", report.findings);
                // A changed digit can be a valid newer format version, which is only a note.
                let is_newer = report.findings.iter().any(|finding| finding.kind == FindingKind::NewerFormat);
                assert!(report.damage > 0 || is_newer, "{context}");
                // If a digest in a manifest changes, the finding refers to the part. If any other byte changes, the
                // finding refers to the changed file.
                assert!(path.ends_with(".sha256") || has_finding(&report, &path), "{context}");
                fs::write(&file, &full).unwrap();
            }
        }
        for suffix in [".json", ".sha256", "-raw.jsonl", "-unfinished.csv"] {
            assert_eq!(list_files(&archive, "runs/", suffix).len(), 1, "{suffix}");
        }
        assert!(verify::check(&archive.clone().into(), Depth::Full, &mut |_| ()).unwrap().findings.is_empty());
    }
}

fn has_finding(report: &Report, path: &str) -> bool {
    report.findings.iter().any(|finding| finding.path == path)
}

#[test]
fn the_slices_together_find_what_a_full_check_finds() {
    let env = archive_of_two_runs("parquet");
    let archive = env.archive();
    for path in list_files(&archive, "media/", "").iter().step_by(3).chain(&list_files(&archive, "clips/", "")) {
        flip(&archive.join(path), 60, 0x10);
    }
    for path in list_files(&archive, "media/", "").iter().skip(1).step_by(3) {
        fs::remove_file(archive.join(path)).unwrap();
    }
    fs::write(archive.join("tasks/copy (conflict).parquet"), "x").unwrap();
    let mut full = finding_paths(&verify_json(&env, "library", &[], 3));
    full.sort();
    let (mut sliced, mut bytes) = (Vec::new(), 0);
    for index in 1..=7 {
        let slice = format!("{index}/7");
        let run = env.run(&["verify", "library", "--json", "--slice", &slice]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        bytes += report["checked"]["bytes"].as_u64().unwrap();
        sliced.extend(finding_paths(&report));
    }
    sliced.sort();
    assert_eq!(sliced, full);
    assert_eq!(verify_json(&env, "library", &[], 3)["checked"]["bytes"], bytes);
    verify_json(&env, "library", &["--sample", "100%"], 3);
}

#[cfg(unix)]
#[test]
fn a_read_only_archive_is_verified_and_left_unchanged() {
    use std::os::unix::fs::PermissionsExt;

    let env = archive_of_two_runs("parquet");
    fs::remove_file(env.archive().join(".sunor/lock")).unwrap();
    fs::remove_dir(env.archive().join(".sunor/journal")).unwrap();
    let set_writable = |yes: bool| {
        let mut paths = vec![env.archive()];
        while let Some(path) = paths.pop() {
            let mode = if path.is_dir() { 0o555 } else { 0o444 };
            paths.extend(files(&path, ""));
            fs::set_permissions(&path, fs::Permissions::from_mode(if yes { 0o755 } else { mode })).unwrap();
        }
    };
    set_writable(false);
    let before = modification_times(&env.archive());
    for arguments in [&["verify", "library"][..], &["verify", "library", "--quick"]] {
        env.run(arguments).expect_status(0).expect_output("No damage was found.");
    }
    let after = modification_times(&env.archive());
    set_writable(true);
    assert_eq!(before, after);
}

/// Returns the modification times of a folder and of all files and folders in it.
fn modification_times(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::from([(folder.to_owned(), fs::metadata(folder).unwrap().modified().unwrap())]);
    for path in files(folder, "") {
        if path.is_dir() {
            all.extend(modification_times(&path));
        } else {
            all.insert(path.clone(), fs::metadata(path).unwrap().modified().unwrap());
        }
    }
    all
}

/// Songs download slowly, and covers download fast.
#[test]
fn files_not_yet_listed_by_a_running_export_are_not_damage() {
    let slow = Fault {
        kind: FaultKind::StallBody(0.3),
        filter: FaultFilter { task: Some(".mp3".into()), ..FaultFilter::ALWAYS },
    };
    let env = TestEnv::with_faults(FaultPlan { media: vec![slow], media_seconds: Some(1.0), ..FaultPlan::default() });
    for round in 0..4 {
        env.write_list(ids(&format!("r{round}x"), 30));
        let mut run = env.export_command(&["--assets", "audio,image", "--rate", "100/s", "-q"]).spawn().unwrap();
        wait_until(|| env.archive().join("archive.json").exists());
        while run.try_wait().unwrap().is_none() {
            let report = verify_json(&env, "library", &[], 0);
            assert_eq!(finding_paths(&report), [], "round {round}");
        }
        CommandOutput::wait_for(run).expect_status(0);
    }
    assert_eq!(verify_json(&env, "library", &[], 0)["checked"]["rows"]["tasks"], 120);
}

/// The first request for each song stalls until the run is killed.
#[test]
fn leftovers_of_a_killed_run_are_a_note_until_the_next_run() {
    let stall =
        Fault { kind: FaultKind::Stall(60.0), filter: FaultFilter { first: Some(1), ..FaultFilter::task(".mp3") } };
    let env = TestEnv::with_faults(FaultPlan { media: vec![stall], media_seconds: Some(1.0), ..FaultPlan::default() });
    env.write_list(ids("t", 12));
    let many = ["--assets", "audio,image", "--timeout", "50s", "--asset-concurrency", "100"];
    let mut run = env.export_command(&many).spawn().unwrap();
    wait_until(|| list_files(&env.archive(), "media/image/", "").len() > 5);
    run.kill().unwrap();
    run.wait().unwrap();
    let report = verify_json(&env, "library", &[], 0);
    assert_eq!(finding_paths(&report).iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["journal_left"]);
    env.export(&["--assets", "audio,image"]).expect_status(0);
    assert_eq!(finding_paths(&verify_json(&env, "library", &[], 0)), []);
}

/// The limit on open files is too low for the process, so the errors say nothing about the state of the archive.
#[cfg(unix)]
#[test]
fn a_system_error_is_not_damage() {
    let env = archive_of_two_runs("parquet");
    for arguments in ["verify library", "repair library --dry-run"] {
        let mut failures = 0;
        // The number of files that are open at the same time depends on the timing of threads.
        for limit in 8..=11 {
            let script = format!("ulimit -n {limit}; exec {} {arguments}", env!("CARGO_BIN_EXE_sunor-archive"));
            let mut limited = Command::new("bash");
            limited.args(["-c", &script]).env("SUNOR_API_KEY", "key").current_dir(env.path(""));
            let run = CommandOutput::wait_for(limited.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
            assert!(!run.stdout.contains("Damage:") && !run.stdout.contains(".sunor/damaged"), "{run:?}");
            if run.status != Some(0) {
                assert!(run.status == Some(1) && run.stderr.contains("Too many open files"), "{run:?}");
                failures += 1;
            }
        }
        assert!(failures > 0, "{arguments}");
    }
    env.run(&["verify", "library"]).expect_status(0);
}
