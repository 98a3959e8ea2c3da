//! Checks the small files: `archive.json`, `views.sql`, and the files in `runs/` and `.sunor/`.
//!
//! The checksum file contains the SHA-256 of each small file that a run writes. The contents of the files are validated
//! too, because an archive may have been copied without its checksum file: each file must be parseable, and a run
//! summary must contain its run ID and consistent counts.

use std::{io, path::Path};

use serde::Deserialize;

use super::{
    finding::{Finding, FindingKind, Findings, count_of},
    rows::TableCheck,
    snapshot::stale_staging_file,
};
use crate::{
    archive::{Archive, CHECKSUMS, ChecksumFile, Entry, METADATA, RUNS, RunFile, STATE, VIEWS, is_state_name},
    error::Result,
    journal::{self, SegmentReader},
    run_id::RunId,
    run_summary::RunSummary,
    tables,
    task::TaskId,
};

/// The valid reasons in an `-unfinished.csv` file.
const REASONS: [&str; 4] = ["unfinished", "error", "unreadable", "interrupted"];

/// The description of a finding about a file that does not match its checksum.
const CHECKSUM_MISMATCH: &str = "is damaged: its SHA-256 does not match";

/// Checks all small files.
pub(super) fn check(archive: &Archive, check: &TableCheck, findings: &mut Findings) -> Result<()> {
    let is_locked = check.snapshot.is_locked || archive.holder().is_some();
    let checksums = archive.checksum_file()?.unwrap_or_else(|error| {
        findings.add(Finding::file(FindingKind::ChecksumsDamaged, CHECKSUMS, error.to_string()));
        ChecksumFile::default()
    });
    check_metadata(archive, &checksums, findings)?;
    let last_version = check_run_files(archive, &checksums, findings)?;
    let top = archive.store.list("")?;
    let is_own_staging_file =
        |entry: &&Entry| [METADATA, VIEWS].iter().any(|file| entry.name().starts_with(&format!("{file}#")));
    let staging_files = top.iter().filter(is_own_staging_file).filter(|entry| entry.is_staging_file());
    findings.extend(staging_files.filter_map(|entry| stale_staging_file(archive, entry)));
    find_stray_state_files(archive, findings)?;
    if !is_locked {
        check_views(archive, last_version.as_deref(), check, findings)?;
        report_journal(archive, findings)?;
    }
    let quarantine = archive.quarantine_folder();
    let segments = archive.store.list(&archive.archive_path(&quarantine))?;
    for segment in segments.iter().filter(|entry| entry.name().rsplit('.').next() == Some("journal")) {
        findings.add(Finding::file(
            FindingKind::QuarantinedSegment,
            &segment.path,
            "has damaged records and was quarantined",
        ));
    }
    Ok(())
}

/// Compares a valid `archive.json` with its checksum. If a newer version of the program wrote the file, that version
/// also recorded the checksum, so a mismatch always indicates damage.
fn check_metadata(archive: &Archive, checksums: &ChecksumFile, findings: &mut Findings) -> Result<()> {
    let is_reported = findings.contains(FindingKind::MetadataDamaged) || findings.contains(FindingKind::NewerFormat);
    if !is_reported
        && let Ok(text) = archive.read_small_file(METADATA)?
        && checksum_differs(archive, checksums, METADATA, &text)?
    {
        findings.add(Finding::file(FindingKind::MetadataDamaged, METADATA, CHECKSUM_MISMATCH));
    }
    Ok(())
}

/// Whether a file fails to match its checksum. A mismatch is confirmed by reading the checksum file again, because a
/// run may have replaced both the file and its checksum in the meantime.
fn checksum_differs(archive: &Archive, checksums: &ChecksumFile, path: &str, text: &[u8]) -> Result<bool> {
    Ok(checksums.mismatches(path, text) && archive.checksum_file()?.is_ok_and(|now| now.mismatches(path, text)))
}

/// Checks the files in `runs/`. Returns the program version from the last run summary.
fn check_run_files(archive: &Archive, checksums: &ChecksumFile, findings: &mut Findings) -> Result<Option<String>> {
    let mut last_version = None;
    for entry in archive.store.list(RUNS)? {
        if entry.is_staging_file() {
            findings.extend(stale_staging_file(archive, &entry));
            continue;
        }
        let Some((file, run)) = run_file(&entry) else {
            findings.add(Finding::file(FindingKind::StrayFile, &entry.path, "does not belong to any run"));
            continue;
        };
        let text = match (file, archive.read_small_file(&entry.path)?) {
            // Manifests are checked together with the files that they list.
            (RunFile::Manifest, _) => continue,
            (_, Ok(text)) => text,
            (_, Err(error)) => {
                findings.add(Finding::file(
                    FindingKind::RunFileDamaged,
                    &entry.path,
                    format!("cannot be read: {error}"),
                ));
                continue;
            }
        };
        if checksum_differs(archive, checksums, &entry.path, &text)? {
            findings.add(Finding::file(FindingKind::RunFileDamaged, &entry.path, CHECKSUM_MISMATCH));
            continue;
        }
        let checked = match file {
            RunFile::Summary => check_summary(&text, run.as_str()).map(|version| last_version = Some(version)),
            RunFile::Raw => check_raw_bodies(&text),
            _ => check_unfinished_list(&text),
        };
        if let Err(what) = checked {
            findings.add(Finding::file(FindingKind::RunFileDamaged, &entry.path, what));
        }
    }
    Ok(last_version)
}

/// Returns the kind of a run file and the ID of its run.
fn run_file(entry: &Entry) -> Option<(RunFile, RunId)> {
    RunFile::parse(entry.name()).filter(|_| !entry.is_folder)
}

/// Finds entries in the `.sunor` folder that the program did not create.
fn find_stray_state_files(archive: &Archive, findings: &mut Findings) -> Result<()> {
    let stray = |entry: &Entry| Finding::file(FindingKind::StrayFile, &entry.path, "was not created by the program");
    let state = archive.store.list(STATE)?;
    findings.extend(state.iter().filter(|entry| !is_state_name(entry.name())).map(stray));
    let journal = archive.store.list(&archive.archive_path(&archive.journal_folder()))?;
    findings.extend(journal.iter().filter(|entry| !journal::is_segment(Path::new(&entry.path))).map(stray));
    Ok(())
}

/// Checks a run summary. Returns the program version in the summary, or a description of the problem.
fn check_summary(text: &[u8], run: &str) -> Result<String, String> {
    let summary: RunSummary = serde_json::from_slice(text).map_err(|error| format!("cannot be read: {error}"))?;
    let (input, tasks) = (&summary.input, &summary.tasks);
    let rows = input.invalid + input.duplicates + input.other_shards + input.already_archived + input.selected;
    let accounted = tasks.archived() + tasks.missing();
    match () {
        () if summary.run_id != run => Err(format!("is the summary of another run, `{}`", summary.run_id)),
        () if rows != input.rows => Err(format!("states {} input rows, but its counts add up to {rows}", input.rows)),
        () if accounted != input.selected => {
            Err(format!("states {} tasks to fetch, but its counts add up to {accounted}", input.selected))
        }
        () => Ok(summary.version),
    }
}

/// Checks a `-raw.jsonl` file, which contains response bodies exactly as received.
fn check_raw_bodies(text: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        task_id: String,
        reason: String,
        #[serde(rename = "body")]
        _body: String,
    }
    if !text.ends_with(b"\n") {
        return Err("is truncated: its last line is incomplete".into());
    }
    for (number, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        let read = serde_json::from_slice::<Line>(line).ok();
        let known = |line: &Line| {
            TaskId::parse(&line.task_id).is_ok() && matches!(line.reason.as_str(), "unreadable" | "lone surrogates")
        };
        if !read.as_ref().is_some_and(known) {
            return Err(format!("is invalid at line {number}"));
        }
    }
    Ok(())
}

/// Checks an `-unfinished.csv` file, which lists the tasks that a run did not archive.
fn check_unfinished_list(text: &[u8]) -> Result<(), String> {
    let mut reader = csv::Reader::from_reader(text);
    let headers = reader.headers().map_err(|error| error.to_string())?;
    if headers != ["task_id", "reason", "detail"].as_slice() {
        return Err("has unexpected columns".into());
    }
    for row in reader.records() {
        let row = row.map_err(|error| format!("cannot be read: {error}"))?;
        let is_known = row.get(0).is_some_and(|id| TaskId::parse(id).is_ok_and(|parsed| parsed.as_str() == id))
            && row.get(1).is_some_and(|reason| REASONS.contains(&reason));
        if !is_known {
            let line = row.position().map_or(0, csv::Position::line);
            return Err(format!("is invalid at line {line}"));
        }
    }
    Ok(())
}

/// Compares `views.sql` with the views that this version of the program writes. Any table may or may not have parts, so
/// all possible contents are compared. If another version wrote the last run summary, a mismatch is reported only as a
/// note.
fn check_views(
    archive: &Archive,
    last_version: Option<&str>,
    check: &TableCheck,
    findings: &mut Findings,
) -> Result<()> {
    let written = match archive.read_small_file(VIEWS)? {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let description = format!("cannot be read: {error}; move it out of the archive");
            findings.add(Finding::file(FindingKind::ViewsDamaged, VIEWS, description));
            return Ok(());
        }
    };
    let views_for = |subset: u32| {
        let has_parts =
            |table: &str| (0..).zip(tables::TABLES).any(|(bit, name)| name == table && subset >> bit & 1 == 1);
        tables::views_sql(archive.format, has_parts).into_bytes()
    };
    if (0..1 << tables::TABLES.len()).any(|subset| written.as_deref() == Some(views_for(subset).as_slice())) {
        return Ok(());
    }
    let finding = match (written, last_version) {
        (None, _) if check.parts == 0 => return Ok(()),
        (None, _) => Finding::file(FindingKind::ViewsDamaged, VIEWS, "is missing"),
        (Some(_), Some(env!("CARGO_PKG_VERSION"))) => Finding::file(
            FindingKind::ViewsDamaged,
            VIEWS,
            "is damaged: it does not match the views that this version writes",
        ),
        (Some(_), _) => {
            Finding::file(FindingKind::OutdatedViews, VIEWS, "does not match the views that this version writes")
        }
    };
    findings.add(finding);
    Ok(())
}

/// Reports the journal segments of interrupted runs.
fn report_journal(archive: &Archive, findings: &mut Findings) -> Result<()> {
    for path in journal::segments(&archive.journal_folder())? {
        let what = match read_segment(&path) {
            Ok((records, 0)) => format!("contains {} of an interrupted run", count_of(records, "record")),
            Ok((records, damaged)) => {
                format!(
                    "contains {} of an interrupted run, and {}",
                    count_of(records, "record"),
                    count_of(damaged, "damaged record")
                )
            }
            Err(error) => error.to_string(),
        };
        findings.add(Finding::file(FindingKind::PendingJournal, &archive.archive_path(&path), what));
    }
    Ok(())
}

fn read_segment(path: &Path) -> Result<(u64, u64)> {
    let mut segment = SegmentReader::open(path)?;
    let mut records = 0;
    while segment.next_record()?.is_some() {
        records += 1;
    }
    Ok((records, segment.damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_summary_contains_its_run_id_and_consistent_counts() {
        let mut run = RunSummary { run_id: "r".into(), ..RunSummary::default() };
        let text = |run: &RunSummary| serde_json::to_vec_pretty(run).unwrap();
        assert_eq!(check_summary(&text(&run), "r").as_deref(), Ok(env!("CARGO_PKG_VERSION")));
        assert!(check_summary(&text(&run), "s").unwrap_err().contains("summary of another run, `r`"));
        run.input.rows = 3;
        run.input.selected = 3;
        assert!(check_summary(&text(&run), "r").unwrap_err().contains("tasks to fetch"));
        run.tasks.errors = 3;
        assert!(check_summary(&text(&run), "r").is_ok());
        run.input.rows = 7;
        assert!(check_summary(&text(&run), "r").unwrap_err().contains("input rows"));
        assert!(check_summary(b"{}", "r").is_err());
    }

    #[test]
    fn invalid_unfinished_lists_and_raw_bodies_are_detected() {
        for (text, good) in [
            ("task_id,reason,detail\n", true),
            ("task_id,reason,detail\nt,error,\"a\nb\"\n", true),
            ("task_id,reason,detail\nt,eror,x\n", false),
            ("task_id,reason,detail\na/b,error,x\n", false),
            ("task_id,reason,detail\nt,error\n", false),
            ("task_id;reason;detail\n", false),
        ] {
            assert_eq!(check_unfinished_list(text.as_bytes()).is_ok(), good, "{text}");
        }
        let line = r#"{"task_id":"t","reason":"unreadable","body":"x"}"#;
        for (text, good) in [
            (format!("{line}\n{line}\n"), true),
            (line.to_owned(), false),
            (format!("{line}{line}\n"), false),
            (line.replace("unr", "anr") + "\n", false),
        ] {
            assert_eq!(check_raw_bodies(text.as_bytes()).is_ok(), good, "{text}");
        }
    }
}
