//! Tests of `compact`, which merges small parts into large ones, and of `rebuild`, which regenerates the clips and
//! lyrics tables. Both commands preserve all rows, even if they are interrupted.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{CommandOutput, TestEnv, files, ids, wait_until};
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
};
use sunor_archive::simulator::{FaultFilter, FaultKind};

const TABLES: [&str; 4] = ["tasks", "clips", "lyrics", "assets"];

/// Creates an archive with `count` nightly exports. The list grows by `tasks` tasks per night.
fn archive_with_parts(format: &str, count: usize, tasks: usize, assets: &str) -> TestEnv {
    let env = TestEnv::new();
    for run in 1..=count {
        env.write_list(ids("t", run * tasks));
        env.export(&["--format", format, "--assets", assets, "-q"]).expect_status(0);
    }
    env
}

/// Returns the rows of a table for comparisons: the sorted Parquet rows, or the concatenated text of all CSV parts
/// without their headers.
fn comparable_rows(archive: &Path, table: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for path in files(&archive.join(table), "") {
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
            rows.extend(reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()));
        } else {
            // The CSV text is compared unparsed, because only quotes distinguish an empty string from null.
            let text = fs::read_to_string(path).unwrap();
            rows.push(text.split_once("\r\n").unwrap().1.to_owned());
        }
    }
    rows.sort_by_key(|row| if row.ends_with('\n') { String::new() } else { row.clone() });
    if rows.iter().any(|row| row.ends_with('\n')) { vec![rows.concat()] } else { rows }
}

/// Returns the creation times of the tasks in a Parquet part, in row order. Null becomes `i64::MAX`.
fn creation_times(part: &Path) -> Vec<i64> {
    let reader = SerializedFileReader::new(fs::File::open(part).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    let time = |row: Row| match row.get_column_iter().find(|(name, _)| *name == "created_at") {
        Some((_, Field::TimestampMicros(time))) => *time,
        Some((_, Field::Null)) => i64::MAX,
        other => panic!("{other:?}"),
    };
    rows.map(time).collect()
}

fn all_rows(archive: &Path) -> Vec<Vec<String>> {
    TABLES.iter().map(|table| comparable_rows(archive, table)).collect()
}

#[track_caller]
fn assert_manifests_match(archive: &Path) {
    let check = Command::new("bash").args(["-c", "sha256sum --quiet -c runs/*.sha256"]).current_dir(archive).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// Copies an archive to a sibling folder with the given name, and returns its path.
fn copy(archive: &Path, name: &str) -> PathBuf {
    let to = archive.with_file_name(name);
    let copied = Command::new("cp").arg("-r").arg(archive).arg(&to).status();
    assert!(copied.unwrap().success());
    to
}

fn compact_command(env: &TestEnv, archive: &Path) -> Command {
    let mut command = env.program();
    command.arg("compact").arg(archive);
    command
}

/// The archive contains 30 nightly exports.
#[test]
fn thirty_parts_become_one_part_per_table_with_the_same_rows() {
    for format in ["parquet", "csv"] {
        let env = archive_with_parts(format, 30, 4, "audio,image");
        let before = all_rows(&env.archive());
        assert!(before.iter().all(|table| !table.is_empty()));
        env.run(&["compact", "library", "--dry-run"])
            .expect_status(0)
            .expect_output("30 parts of 120 rows")
            .expect_output("→ 1 part, at most");
        assert_eq!(files(&env.archive().join("tasks"), format).len(), 30);

        let run = env.run(&["compact", "library"]).expect_status(0).expect_output("30 parts of 120 rows");
        assert!(run.stderr.contains("tasks: merged 30 parts into 1 part"), "{}", run.stderr);
        for table in TABLES {
            assert_eq!(files(&env.archive().join(table), "").len(), 1, "{table}");
        }
        assert!(all_rows(&env.archive()) == before, "{format}");
        if format == "parquet" {
            assert!(creation_times(&files(&env.archive().join("tasks"), "")[0]).is_sorted());
        }
        assert_manifests_match(&env.archive());
        assert!(files(&env.archive().join(".sunor"), "").iter().all(|path| !path.to_string_lossy().contains("swap")));

        let requested = env.stats().requests;
        env.export(&["--assets", "audio,image"]).expect_status(0).expect_output("120 already archived");
        assert_eq!(env.stats().requests, requested);
        env.run(&["compact", "library"]).expect_status(0).expect_output("Nothing to compact");
        let quiet = env.run(&["compact", "library", "-q"]).expect_status(0);
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
        env.run(&["summary", "library"]).expect_status(0).expect_output("120 tasks");
    }
}

/// The compaction is killed repeatedly, at random times and during the swap of parts.
#[test]
fn a_kill_at_any_point_leaves_the_same_rows_and_valid_manifests() {
    for format in ["parquet", "csv"] {
        let env = archive_with_parts(format, 15, 60, "none");
        let before = all_rows(&env.archive());
        let trial = copy(&env.archive(), "trial");
        let started = Instant::now();
        CommandOutput::wait_for(compact_command(&env, &trial).spawn().unwrap()).expect_status(0);
        let full = started.elapsed();
        let mut rng = fastrand::Rng::with_seed(13);
        let mut swapping = 0;
        for kill in 0..12 {
            let archive = copy(&env.archive(), &format!("kill{kill}"));
            let mut run = compact_command(&env, &archive).spawn().unwrap();
            let plan = archive.join(".sunor/swap.json");
            if kill % 2 == 0 {
                thread::sleep(full.mul_f64(rng.f64()));
            } else {
                let started = Instant::now();
                while !plan.exists() && started.elapsed() < full * 4 {
                    thread::sleep(Duration::from_micros(200));
                }
                thread::sleep(Duration::from_micros(rng.u64(0..4000)));
            }
            run.kill().unwrap();
            run.wait().unwrap();
            swapping += usize::from(plan.exists());
            assert_manifests_match(&archive);
            assert!(all_rows(&archive) == before, "{format}, kill {kill}: the rows differ before recovery");

            let next = if kill % 4 < 2 {
                env.run(&["compact", &archive.to_string_lossy()])
            } else {
                let list = env.write_list(ids("t", 900));
                env.run(&["export", &list.to_string_lossy(), "--out", &archive.to_string_lossy(), "--assets", "none"])
            };
            next.expect_status(0);
            assert_manifests_match(&archive);
            assert!(all_rows(&archive) == before, "{format}, kill {kill}: the rows differ after recovery");
            assert!(!archive.join(".sunor/swap").exists() && !plan.exists());
            fs::remove_dir_all(archive).unwrap();
        }
        println!("12 kills, {swapping} of them during a swap of parts");
        assert_eq!(env.stats().repeated, 0);
    }
}

/// `summary` runs repeatedly during the swap of parts.
#[test]
fn a_summary_counts_all_rows_during_a_swap() {
    let env = archive_with_parts("csv", 20, 10, "none");
    for round in 0..6 {
        let archive = copy(&env.archive(), &format!("round{round}"));
        let mut compaction = compact_command(&env, &archive).spawn().unwrap();
        while compaction.try_wait().unwrap().is_none() {
            let summary = env.run(&["summary", archive.to_str().unwrap(), "--json"]).expect_status(0).stdout;
            let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
            assert_eq!(summary["rows"]["tasks"], 200);
        }
        fs::remove_dir_all(archive).unwrap();
    }
}

/// A reader counts rows during the compaction.
#[test]
fn a_reader_sees_all_old_parts_or_all_new_parts() {
    for format in ["parquet", "csv"] {
        let env = archive_with_parts(format, 20, 10, "none");
        let before: Vec<usize> = TABLES.iter().map(|table| count_rows(&env.archive().join(table)).unwrap()).collect();
        for round in 0..5 {
            let archive = copy(&env.archive(), &format!("round{round}"));
            let is_done = AtomicBool::new(false);
            let reads = thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut reads = 0;
                    while !is_done.load(Ordering::SeqCst) {
                        for (table, rows) in TABLES.iter().zip(&before) {
                            if let Some(found) = count_rows(&archive.join(table)) {
                                assert_eq!(found, *rows, "{table}");
                                reads += 1;
                            }
                        }
                    }
                    reads
                });
                CommandOutput::wait_for(compact_command(&env, &archive).spawn().unwrap()).expect_status(0);
                is_done.store(true, Ordering::SeqCst);
                reading.join().unwrap()
            });
            assert!(reads > 10, "{reads}");
        }
    }
}

/// Counts the rows of a table like a reader that expands a glob pattern. Returns `None` if a listed file no longer
/// exists when the reader opens it.
fn count_rows(folder: &Path) -> Option<usize> {
    let mut open = Vec::new();
    for path in files(folder, "") {
        match fs::File::open(&path) {
            Ok(file) => open.push((path, file)),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => panic!("{error}"),
        }
    }
    let rows = open.into_iter().map(|(path, file)| {
        if path.extension().is_some_and(|extension| extension == "csv") {
            return csv::Reader::from_reader(file).into_records().collect::<Result<Vec<_>, _>>().unwrap().len();
        }
        let reader = SerializedFileReader::new(file).unwrap();
        usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap()
    });
    Some(rows.sum())
}

#[test]
fn clips_and_lyrics_are_regenerated_unchanged_from_the_responses() {
    for format in ["parquet", "csv"] {
        let env = archive_with_parts(format, 3, 40, "none");
        let before = all_rows(&env.archive());
        let requested = env.stats().requests;
        let plan = env.run(&["rebuild", "library", "--dry-run"]).expect_status(0);
        assert_eq!(all_rows(&env.archive()), before);
        env.run(&["rebuild", "library"]).expect_status(0).expect_output("the responses of 120 tasks");
        assert!(all_rows(&env.archive()) == before, "{format}");
        assert_manifests_match(&env.archive());

        fs::remove_dir_all(env.archive().join("clips")).unwrap();
        fs::remove_file(files(&env.archive().join("lyrics"), "").pop().unwrap()).unwrap();
        env.run(&["rebuild", "library", "-q"]).expect_status(0);
        assert!(all_rows(&env.archive()) == before, "{format}");
        assert_manifests_match(&env.archive());
        assert!(env.run(&["rebuild", "library", "--dry-run"]).stdout == plan.stdout);
        assert_eq!(env.stats().requests, requested);
    }
}

/// A run is killed after its parts are published and before its segment is removed.
#[test]
fn parts_that_the_journal_will_republish_are_not_compacted() {
    let env = TestEnv::new();
    env.write_list(ids("t", 300));
    let journal = env.archive().join(".sunor/journal");
    let mut run = env.export_command(&["--format", "csv", "--rate", "200/s"]).spawn().unwrap();
    wait_until(|| files(&journal, ".journal").first().is_some_and(|path| fs::metadata(path).unwrap().len() > 50_000));
    run.kill().unwrap();
    run.wait().unwrap();
    let segment = files(&journal, ".journal").pop().unwrap();
    let kept = fs::read(&segment).unwrap();
    env.export(&["-q"]).expect_status(0);
    for run in 4..7 {
        env.write_list(ids("t", run * 100));
        env.export(&["-q"]).expect_status(0);
    }
    fs::write(&segment, &kept).unwrap();
    let stem = segment.file_stem().unwrap().to_string_lossy().into_owned();

    env.run(&["compact", "library"]).expect_status(0).expect_output("1 part unchanged");
    env.run(&["rebuild", "library"]).expect_status(0);
    assert_eq!(fs::read(&segment).unwrap(), kept);
    assert!(env.archive().join(format!("tasks/{stem}.csv")).exists());
    assert!(env.archive().join(format!("clips/{stem}.csv")).exists());
    env.export(&["-q"]).expect_status(0);
    let mut expected = ids("t", 600);
    expected.sort();
    assert_eq!(env.archived_ids(), expected);
    let clips = env.rows("clips");
    let expected_clips: usize = env.rows("tasks").iter().map(|task| task["clip_count"].parse::<usize>().unwrap()).sum();
    assert_eq!(clips.len(), expected_clips);
    assert_manifests_match(&env.archive());
    assert_eq!(env.stats().repeated, env.stats().requests - 600);
}

/// One letter of a document in a part is changed, and the part stays readable.
#[test]
fn a_damaged_part_gets_no_new_checksum() {
    let env = archive_with_parts("csv", 3, 10, "none");
    let part = files(&env.archive().join("tasks"), ".csv").remove(1);
    let text = fs::read_to_string(&part).unwrap();
    let damaged = text.replacen("task_type", "task_tape", 1);
    assert!(damaged != text);
    fs::write(&part, damaged).unwrap();
    let before = comparable_rows(&env.archive(), "tasks");
    for verb in ["compact", "rebuild"] {
        env.run(&[verb, "library"])
            .expect_status(1)
            .expect_output("damaged")
            .expect_output(&part.file_name().unwrap().to_string_lossy());
        assert_eq!(comparable_rows(&env.archive(), "tasks"), before);
        assert_eq!(files(&env.archive().join("tasks"), "").len(), 3);
    }
}

/// A full disk is simulated by a file-size limit that is smaller than the merged part.
#[test]
fn a_full_disk_leaves_everything_unchanged() {
    let env = archive_with_parts("csv", 6, 10, "none");
    let before = all_rows(&env.archive());
    let size = files(&env.archive().join("tasks"), "").iter().map(|path| fs::metadata(path).unwrap().len()).max();
    for verb in ["compact", "rebuild"] {
        let mut command = Command::new("bash");
        let kib = if verb == "compact" { size.unwrap() / 512 } else { 4 };
        command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"")).arg("bash");
        command.arg(env.program().get_program()).args([verb, "library"]).current_dir(env.path(""));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        CommandOutput::wait_for(command.spawn().unwrap()).expect_status(1).expect_output("cannot ");
        assert!(env.archive().join(".sunor/swap").read_dir().is_err(), "the command left temporary files");
        assert_manifests_match(&env.archive());
        assert!(all_rows(&env.archive()) == before);
        env.run(&[verb, "library"]).expect_status(0);
    }
}

/// The request for the only task stalls while the export holds the lock.
#[test]
fn a_locked_or_missing_archive_is_rejected() {
    let env = TestEnv::with_fault(FaultKind::Stall(60.0), FaultFilter::task("slow"));
    for verb in ["compact", "rebuild"] {
        env.run(&[verb, "library"]).expect_status(2).expect_output("is not an archive");
        assert!(!env.archive().exists());
    }
    env.write_list(["slow"]);
    let mut export = env.export_command(&[]).spawn().unwrap();
    wait_until(|| env.stats().requests == 1);
    for verb in ["compact", "rebuild"] {
        env.run(&[verb, "library"]).expect_status(5).expect_output(&format!("process {}", export.id()));
        env.run(&[verb, "library", "--dry-run"]).expect_status(0);
    }
    export.kill().unwrap();
    export.wait().unwrap();
}
