//! Tests of `verify`: it reports every kind of damage, and no damage in an intact archive.

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
    time::SystemTime,
};

use common::{Finished, Scene, documents, files, ids, seed, wait_until};
use serde_json::Value;
use sunor_archive::{
    simulator::{Fault, FaultFilter, FaultKind, FaultPlan, SimulatedProvider},
    verify::{self, Depth, Report},
};

const FORMATS: [&str; 2] = ["parquet", "csv"];

/// Creates an archive with two runs, with audio and covers.
fn archived(format: &str) -> Scene {
    let scene = Scene::faults(FaultPlan { media_seconds: Some(1.0), ..FaultPlan::default() });
    for first in [1, 21] {
        scene.list(ids("t", 40).split_off(first - 1).iter().take(20));
        scene.export(&["--format", format, "--assets", "audio,image", "-q"]).expect(0);
    }
    scene
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    files(folder, "").into_iter().flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Lists the files in an archive by relative path. Of the `.sunor` folder, the list includes only `checksums`.
fn contents(archive: &Path) -> Vec<String> {
    let relative = |path: PathBuf| path.strip_prefix(archive).unwrap().to_str().unwrap().to_owned();
    walk(archive)
        .into_iter()
        .map(relative)
        .filter(|path| !path.starts_with(".sunor") || path == ".sunor/checksums")
        .collect()
}

/// Lists the files in a folder of an archive whose names end with `ending`.
fn of(archive: &Path, folder: &str, ending: &str) -> Vec<String> {
    contents(archive).into_iter().filter(|path| path.starts_with(folder) && path.ends_with(ending)).collect()
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
fn checked(scene: &Scene, archive: &str, arguments: &[&str], status: i32) -> Value {
    let run = scene.run(&[&["verify", archive, "--json"], arguments].concat()).expect(status);
    serde_json::from_str(&run.stdout).unwrap()
}

/// Returns the kind and the path of each finding.
fn found(report: &Value) -> Vec<(String, String)> {
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
        let scene = archived(format);
        for depth in [&[][..], &["--quick"], &["--sample", "30%"], &["--slice", "2/3"]] {
            let report = checked(&scene, "library", depth, 0);
            assert_eq!((found(&report), &report["exit_code"]), (vec![], &0.into()), "{format} {depth:?}");
            assert_eq!((&report["damage"], &report["notes"]), (&0.into(), &0.into()));
            assert_eq!(report["checked"]["rows"]["tasks"], 40);
        }
        let all = checked(&scene, "library", &[], 0);
        let archive = scene.archive();
        let parts: Vec<String> =
            ["tasks/", "clips/", "lyrics/", "assets/"].iter().flat_map(|table| of(&archive, table, "")).collect();
        let media = of(&archive, "media/", "");
        let size = |path: &String| fs::metadata(archive.join(path)).unwrap().len();
        assert_eq!(all["checked"]["parts"], parts.len());
        assert_eq!(all["checked"]["files"], media.len());
        assert_eq!(all["checked"]["bytes"], parts.iter().chain(&media).map(size).sum::<u64>());
        assert_eq!(checked(&scene, "library", &["--quick"], 0)["checked"]["bytes"], 0);

        scene.run(&["verify", "library"]).expect(0).says("No damage was found.").says("40 tasks");
        let quiet = scene.run(&["verify", "library", "-q"]).expect(0);
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
        let told = scene.run(&["verify", "library", "--progress", "json"]).expect(0).stderr;
        let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let checked = events.iter().filter(|event| event["event"] == "checked").count();
        assert_eq!(checked, parts.len() + media.len());
        assert_eq!(events.last().unwrap()["event"], "finished");
    }
}

/// Damage to an archive, and the kinds and paths of the findings that `verify` must report.
struct Mishap {
    name: &'static str,
    happen: fn(&Path) -> Vec<(&'static str, String)>,
    /// Whether `verify --quick` finds the damage.
    quick: bool,
}

fn first(archive: &Path, folder: &str, ending: &str) -> String {
    of(archive, folder, ending).remove(0)
}

const MISHAPS: &[Mishap] = &[
    Mishap {
        name: "a clips part is deleted",
        happen: |archive| {
            let part = first(archive, "clips/", "");
            fs::remove_file(archive.join(&part)).unwrap();
            vec![("part_missing", part.clone()), ("clip_count", part.replace("clips", "tasks"))]
        },
        quick: true,
    },
    Mishap {
        name: "a tasks part is deleted",
        happen: |archive| {
            let part = first(archive, "tasks/", "");
            fs::remove_file(archive.join(&part)).unwrap();
            let orphans = |table: &str| ("rows_without_task", part.replace("tasks", table));
            vec![("part_missing", part.clone()), orphans("clips"), orphans("lyrics"), orphans("assets")]
        },
        quick: true,
    },
    Mishap {
        name: "a part is truncated",
        happen: |archive| {
            let part = first(archive, "lyrics/", "");
            truncate(&archive.join(&part));
            vec![("part_damaged", part)]
        },
        // A CSV part that is truncated at the end of a line looks complete without its checksum.
        quick: false,
    },
    Mishap {
        name: "a byte in a part is changed",
        happen: |archive| {
            let part = first(archive, "assets/", "");
            let middle = fs::metadata(archive.join(&part)).unwrap().len() / 2;
            flip(&archive.join(&part), middle as usize, 1);
            vec![("part_damaged", part)]
        },
        quick: false,
    },
    Mishap {
        name: "a song is deleted",
        happen: |archive| {
            let song = first(archive, "media/audio/", "");
            fs::remove_file(archive.join(&song)).unwrap();
            vec![("media_missing", song)]
        },
        quick: true,
    },
    Mishap {
        name: "a song is truncated",
        happen: |archive| {
            let song = first(archive, "media/audio/", "");
            truncate(&archive.join(&song));
            vec![("media_damaged", song)]
        },
        quick: true,
    },
    Mishap {
        name: "a byte in a cover is changed",
        happen: |archive| {
            let cover = first(archive, "media/image/", "");
            flip(&archive.join(&cover), 100, 0x80);
            vec![("media_damaged", cover)]
        },
        quick: false,
    },
    Mishap {
        name: "a manifest has a different digest for a part",
        happen: |archive| {
            let manifest = first(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap();
            let line = text.lines().find(|line| line.contains("  tasks/")).unwrap();
            let digit = if line.starts_with('0') { "1" } else { "0" };
            fs::write(archive.join(&manifest), text.replace(line, &format!("{digit}{}", &line[1..]))).unwrap();
            vec![("part_damaged", line.split_once("  ").unwrap().1.to_owned())]
        },
        quick: false,
    },
    Mishap {
        name: "a manifest has a different digest for a song",
        happen: |archive| {
            let manifest = first(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap();
            let line = text.lines().find(|line| line.contains("  media/")).unwrap();
            let digit = if line.starts_with('0') { "1" } else { "0" };
            fs::write(archive.join(&manifest), text.replace(line, &format!("{digit}{}", &line[1..]))).unwrap();
            vec![("manifest_damaged", manifest)]
        },
        quick: true,
    },
    Mishap {
        name: "a manifest has an invalid line",
        happen: |archive| {
            let manifest = first(archive, "runs/", ".sha256");
            let text = fs::read_to_string(archive.join(&manifest)).unwrap() + "and so on\n";
            fs::write(archive.join(&manifest), text).unwrap();
            vec![("manifest_damaged", manifest)]
        },
        quick: true,
    },
    Mishap {
        name: "a part is duplicated",
        happen: |archive| {
            let part = first(archive, "tasks/", "");
            let twin = part.replace("-0001.", "-0002.");
            fs::copy(archive.join(&part), archive.join(&twin)).unwrap();
            vec![("part_unlisted", twin.clone()), ("task_repeated", twin)]
        },
        quick: true,
    },
    Mishap {
        name: "a part in the wrong table",
        happen: |archive| {
            let part = first(archive, "clips/", "");
            let odd = part.replace("clips/", "lyrics/").replace("-0001.", "-0007.");
            fs::copy(archive.join(&part), archive.join(&odd)).unwrap();
            vec![("part_columns", odd.clone()), ("part_unlisted", odd)]
        },
        quick: true,
    },
    Mishap {
        name: "a file of the other format among the parts",
        happen: |archive| {
            let is_csv = first(archive, "tasks/", "").ends_with(".csv");
            let stray = format!("tasks/mine.{}", if is_csv { "parquet" } else { "csv" });
            fs::write(archive.join(&stray), "task_id\n").unwrap();
            vec![("part_unlisted", stray)]
        },
        quick: true,
    },
    Mishap {
        name: "leftover staging files",
        happen: |archive| {
            let half = ["assets/a.parquet#1", "runs/r.json#2", "views.sql#3", "media/audio/x.mp3#0"];
            for path in half {
                fs::write(archive.join(path), "x").unwrap();
            }
            half.map(|path| ("half_finished", path.to_owned())).into()
        },
        quick: true,
    },
    Mishap {
        name: "the metadata is not JSON",
        happen: |archive| {
            truncate(&archive.join("archive.json"));
            vec![("metadata_damaged", "archive.json".into())]
        },
        quick: true,
    },
    Mishap {
        name: "a run's summary does not add up, and a list has an unknown reason",
        happen: |archive| {
            let summary = first(archive, "runs/", ".json");
            let text = fs::read_to_string(archive.join(&summary)).unwrap();
            fs::write(archive.join(&summary), text.replace("\"selected\": 20", "\"selected\": 30")).unwrap();
            let list = first(archive, "runs/", "-unfinished.csv");
            fs::write(archive.join(&list), "task_id,reason,detail\nx,lost,y\n").unwrap();
            vec![("run_file_damaged", list), ("run_file_damaged", summary)]
        },
        quick: true,
    },
    Mishap {
        name: "the views are changed",
        happen: |archive| {
            flip(&archive.join("views.sql"), 200, 1);
            vec![("views_damaged", "views.sql".into())]
        },
        quick: true,
    },
];

#[test]
fn every_kind_of_damage_is_located() {
    for format in FORMATS {
        let scene = archived(format);
        for (number, mishap) in MISHAPS.iter().enumerate() {
            let name = format!("copy{number}");
            let damaged = scene.path(&name);
            copy(&scene.archive(), &damaged);
            let mut expected = (mishap.happen)(&damaged);
            expected.sort();
            let report = checked(&scene, &name, &[], 3);
            let mut all = found(&report);
            all.sort();
            for (kind, path) in &expected {
                let is_there = all.iter().any(|(found, at)| found == kind && at == path);
                assert!(is_there, "{format}, {}: {kind} {path} is not among {all:#?}", mishap.name);
            }
            // Damage to one file is reported only for that file, and for files whose rows depend on it.
            let files: Vec<&String> = expected.iter().map(|(_, path)| path).collect();
            let depend = ["rows_without_task", "clip_count", "media_unlisted", "stray_media"];
            let beside = all.iter().find(|(kind, path)| !files.contains(&path) && !depend.contains(&kind.as_str()));
            assert_eq!(beside, None, "{format}, {}", mishap.name);
            if mishap.quick {
                checked(&scene, &name, &["--quick"], 3);
            }
            let words = scene.run(&["verify", &name, "-q"]).expect(3);
            words.says(&expected[0].1).says("Damage was found in");
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

#[test]
fn a_finding_identifies_what_to_repair() {
    let scene = archived("csv");
    let archive = scene.archive();
    let song = first(&archive, "media/audio/", "");
    fs::remove_file(archive.join(&song)).unwrap();
    let tasks = first(&archive, "tasks/", "");
    fs::remove_file(archive.join(&tasks)).unwrap();
    let report = checked(&scene, "library", &["--quick"], 3);
    let of_kind = |kind: &str| {
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind).collect::<Vec<_>>()
    };
    let about = &of_kind("media_missing")[0]["about"]["asset"];
    let row = scene.rows("assets").into_iter().find(|row| row["path"] == song).unwrap();
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
    let scene = archived("parquet");
    let archive = scene.archive();
    for stray in ["media/audio/notes.txt", "tasks/README", "runs/mine.txt", "own-notes.md"] {
        fs::write(archive.join(stray), "mine").unwrap();
    }
    fs::create_dir_all(archive.join(".sunor/damaged")).unwrap();
    fs::write(archive.join(".sunor/damaged/r-0001.journal"), "x\n").unwrap();
    fs::write(archive.join(".sunor/journal/20260102T030405000Z-abcdef-0001.journal"), "damaged\n").unwrap();
    let report = checked(&scene, "library", &[], 0);
    let kinds: Vec<String> = found(&report).into_iter().map(|(kind, _)| kind).collect();
    // While the journal has segments, a media file without a row is not reported. Its row may be published later.
    assert_eq!(kinds, ["stray_file", "stray_file", "journal_left", "damaged_kept"]);
    fs::remove_file(archive.join(".sunor/journal/20260102T030405000Z-abcdef-0001.journal")).unwrap();
    let newer = fs::read_to_string(archive.join("archive.json")).unwrap().replace("version\": 1", "version\": 2");
    fs::write(archive.join("archive.json"), newer).unwrap();
    let kinds: Vec<String> = found(&checked(&scene, "library", &[], 0)).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["newer_format", "stray_media", "stray_file", "stray_file", "damaged_kept"]);
    scene.run(&["verify", "library"]).expect(0).says("No damage was found, 5 notes");
    let quiet = scene.run(&["verify", "library", "-q"]).expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

/// The export receives responses of every shape, including unfinished tasks, bodies that are not tasks, and invalid
/// JSON.
#[test]
fn a_changed_byte_is_found_anywhere() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    for format in FORMATS {
        let faults = FaultPlan { media_seconds: Some(1.0), unfinished: Some(0.0), ..FaultPlan::default() };
        let scene = Scene::world(SimulatedProvider { documents: documents(), faults, ..SimulatedProvider::default() });
        scene.list(documents().into_keys().chain(ids("t", 10)));
        scene.export(&["--format", format, "--assets", "audio,image", "--wait", "0s"]).expect(3);
        let archive = scene.archive();
        for path in contents(&archive) {
            let (file, whole) = (archive.join(&path), fs::read(archive.join(&path)).unwrap());
            for _ in 0..if path.starts_with("media/") { 1 } else { 12 } {
                let (at, bits) = (rng.usize(..whole.len()), rng.u8(1..));
                flip(&file, at, bits);
                let report = verify::check(&archive.clone().into(), Depth::Full, &mut |_| ()).unwrap();
                let said = format!("{format}: byte {at} of {path} ^ {bits}, seed {seed}: {:#?}", report.findings);
                assert!(report.damage > 0, "{said}");
                // A changed digest in a manifest is reported for the part. Any other change is reported for the changed
                // file.
                assert!(path.ends_with(".sha256") || names(&report, &path), "{said}");
                fs::write(&file, &whole).unwrap();
            }
        }
        for ending in [".json", ".sha256", "-raw.jsonl", "-unfinished.csv"] {
            assert_eq!(of(&archive, "runs/", ending).len(), 1, "{ending}");
        }
        assert!(verify::check(&archive.clone().into(), Depth::Full, &mut |_| ()).unwrap().findings.is_empty());
    }
}

fn names(report: &Report, path: &str) -> bool {
    report.findings.iter().any(|finding| finding.path == path)
}

#[test]
fn the_slices_together_find_what_a_full_check_finds() {
    let scene = archived("parquet");
    let archive = scene.archive();
    for path in of(&archive, "media/", "").iter().step_by(3).chain(&of(&archive, "clips/", "")) {
        flip(&archive.join(path), 60, 0x10);
    }
    let mut full = found(&checked(&scene, "library", &[], 3));
    full.sort();
    let (mut sliced, mut bytes) = (Vec::new(), 0);
    for index in 1..=7 {
        let slice = format!("{index}/7");
        let run = scene.run(&["verify", "library", "--json", "--slice", &slice]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        bytes += report["checked"]["bytes"].as_u64().unwrap();
        sliced.extend(found(&report));
    }
    sliced.sort();
    // Every slice repeats the checks that read no file contents, so their findings occur several times.
    sliced.dedup();
    assert_eq!(sliced, full);
    assert_eq!(checked(&scene, "library", &[], 3)["checked"]["bytes"], bytes);
    checked(&scene, "library", &["--sample", "100%"], 3);
}

#[cfg(unix)]
#[test]
fn a_read_only_archive_is_verified_and_left_unchanged() {
    use std::os::unix::fs::PermissionsExt;

    let scene = archived("parquet");
    fs::remove_file(scene.archive().join(".sunor/lock")).unwrap();
    fs::remove_dir(scene.archive().join(".sunor/journal")).unwrap();
    let may_write = |yes: bool| {
        let mut paths = vec![scene.archive()];
        while let Some(path) = paths.pop() {
            let mode = if path.is_dir() { 0o555 } else { 0o444 };
            paths.extend(files(&path, ""));
            fs::set_permissions(&path, fs::Permissions::from_mode(if yes { 0o755 } else { mode })).unwrap();
        }
    };
    may_write(false);
    let before = standing(&scene.archive());
    for arguments in [&["verify", "library"][..], &["verify", "library", "--quick"]] {
        scene.run(arguments).expect(0).says("No damage was found.");
    }
    let after = standing(&scene.archive());
    may_write(true);
    assert_eq!(before, after);
}

/// Returns the modification time of every file and folder.
fn standing(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::from([(folder.to_owned(), fs::metadata(folder).unwrap().modified().unwrap())]);
    for path in files(folder, "") {
        if path.is_dir() {
            all.extend(standing(&path));
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
        when: FaultFilter { task: Some(".mp3".into()), ..FaultFilter::ALWAYS },
    };
    let scene = Scene::faults(FaultPlan { media: vec![slow], media_seconds: Some(1.0), ..FaultPlan::default() });
    for round in 0..4 {
        scene.list(ids(&format!("r{round}x"), 30));
        let mut run = scene.export_command(&["--assets", "audio,image", "--rate", "100/s", "-q"]).spawn().unwrap();
        wait_until(|| scene.archive().join("archive.json").exists());
        while run.try_wait().unwrap().is_none() {
            let report = checked(&scene, "library", &[], 0);
            assert_eq!(found(&report), [], "round {round}");
        }
        Finished::of(run).expect(0);
    }
    assert_eq!(checked(&scene, "library", &[], 0)["checked"]["rows"]["tasks"], 120);
}

/// The first request for each song stalls until the run is killed.
#[test]
fn remains_of_a_killed_run_are_a_note_until_the_next_run() {
    let stall =
        Fault { kind: FaultKind::Stall(60.0), when: FaultFilter { first: Some(1), ..FaultFilter::task(".mp3") } };
    let scene = Scene::faults(FaultPlan { media: vec![stall], media_seconds: Some(1.0), ..FaultPlan::default() });
    scene.list(ids("t", 12));
    let many = ["--assets", "audio,image", "--timeout", "50s", "--asset-concurrency", "100"];
    let mut run = scene.export_command(&many).spawn().unwrap();
    wait_until(|| of(&scene.archive(), "media/image/", "").len() > 5);
    run.kill().unwrap();
    run.wait().unwrap();
    let report = checked(&scene, "library", &[], 0);
    assert_eq!(found(&report).iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["journal_left"]);
    scene.export(&["--assets", "audio,image"]).expect(0);
    assert_eq!(found(&checked(&scene, "library", &[], 0)), []);
}
