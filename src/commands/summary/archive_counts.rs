//! Counts the contents of an archive from its tables and run files. To save memory, reads one part at a time, and only
//! the required columns.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

use super::parse_run;
use crate::{
    archive::{Archive, RunFile},
    asset::{AssetKind, AssetStatus},
    error::Result,
    format::TableFormat,
    report::{ArchiveContents, ArchiveSummary, RunRow},
    rows,
    run_summary::{RunSummary, TaskCounts},
    status::FinalStatus,
    tables::{self, ASSETS, CLIPS, LYRICS, TASK_ID, TASKS},
    timestamp::MicrosTimestamp,
};

/// The number of credits per US dollar, at the provider's documented price of 0.01 USD per credit.
const CREDITS_PER_USD: f64 = 100.0;

/// The maximum number of recent runs to list.
const MAX_LISTED_RUNS: usize = 10;

/// The maximum number of types or models to count separately. The limit bounds memory usage, because the names of types
/// and models are untrusted input.
const MAX_COUNTED_NAMES: usize = 1000;

/// The name under which all types or models beyond [`MAX_COUNTED_NAMES`] are counted.
const OTHERS: &str = "(others)";

/// Summarizes the archive. The result is the summary of the last run, with the counts of the tables and with totals
/// over all exports and repairs.
pub(super) fn summarize(archive: &Archive) -> Result<ArchiveSummary> {
    let (mut runs, mut unreadable, mut last_runs) = (0, 0, VecDeque::new());
    let mut earlier: Option<RunSummary> = None;
    let mut started_at = None;
    for path in archive.run_files(RunFile::Summary)? {
        let Some(text) = archive.store.get(&path)? else { continue };
        // A damaged run summary is only counted as unreadable, because `verify` reports the damage in detail.
        let Ok(mut run) = parse_run(archive, &path, &text) else {
            unreadable += 1;
            continue;
        };
        last_runs.push_front(RunRow::from(&run));
        last_runs.truncate(MAX_LISTED_RUNS);
        if !run.command.is_archiving() {
            continue;
        }
        started_at = started_at.or(run.started_at);
        if let Some(earlier) = &earlier {
            run.input.add(&earlier.input);
            run.requests.add(&earlier.requests);
        }
        runs += 1;
        earlier = Some(run);
    }
    let mut last = earlier.unwrap_or_default();
    last.started_at = started_at;
    let mut contents = count_tables(archive, &mut last)?;
    unreadable += count_missing(archive, &mut last.tasks)?;
    (contents.last_runs, contents.unreadable_run_files) = (last_runs.into(), unreadable);
    Ok(ArchiveSummary { last, runs, archive: contents, account: None })
}

fn count_tables(archive: &Archive, summary: &mut RunSummary) -> Result<ArchiveContents> {
    let empty = RunSummary::default();
    (summary.tasks, summary.by_type, summary.rows) = (empty.tasks, empty.by_type, empty.rows);
    (summary.assets, summary.credits_cost) = (empty.assets, 0.0);
    let mut contents = ArchiveContents::default();
    count_tasks(archive, summary, &mut contents)?;
    contents.usd = summary.credits_cost / CREDITS_PER_USD;
    count_clips(archive, summary, &mut contents)?;
    summary.rows.lyrics = rows::count_rows(archive, LYRICS.name)?;
    let kinds = count_assets(archive, summary)?;
    let clips_lacking =
        |kind: &AssetKind| summary.rows.clips.saturating_sub(kinds.get(kind).copied().unwrap_or_default());
    let lacking = AssetKind::ALL.into_iter().map(|kind| (kind, clips_lacking(&kind)));
    contents.clips_lacking_assets = lacking.filter(|(_, clips)| *clips > 0).collect();
    Ok(contents)
}

fn count_tasks(archive: &Archive, summary: &mut RunSummary, contents: &mut ArchiveContents) -> Result<()> {
    let mut created: Option<(MicrosTimestamp, MicrosTimestamp)> = None;
    let columns = ["status", "type", "model", "credits_cost", "created_at"];
    rows::scan_table(archive, TASKS.name, &columns, &mut |cells| {
        let [status, kind, model, credits, created_at] = cells else { return };
        summary.rows.tasks += 1;
        increment_count(&mut summary.by_type, *kind);
        increment_count(&mut contents.by_model, *model);
        if let Some(at) = created_at.and_then(MicrosTimestamp::parse) {
            let (from, to) = created.unwrap_or((at, at));
            created = Some((from.min(at), to.max(at)));
        }
        let status = status.and_then(FinalStatus::parse);
        if let Some(status) = status {
            summary.tasks.add(status, 1);
        }
        if status == Some(FinalStatus::Success) {
            summary.credits_cost += credits.and_then(|credits| credits.parse().ok()).unwrap_or(0.0);
        }
    })?;
    contents.created_from = created.map(|(from, _)| from.to_string());
    contents.created_to = created.map(|(_, to)| to.to_string());
    Ok(())
}

fn increment_count(counts: &mut BTreeMap<String, u64>, name: Option<&str>) {
    let Some(name) = name else { return };
    let is_tracked = counts.len() < MAX_COUNTED_NAMES || counts.contains_key(name);
    *counts.entry(if is_tracked { name } else { OTHERS }.to_owned()).or_default() += 1;
}

fn count_clips(archive: &Archive, summary: &mut RunSummary, contents: &mut ArchiveContents) -> Result<()> {
    // Durations are added as integers (microseconds), so that the total does not depend on the order of the rows.
    let mut micros = 0_i128;
    rows::scan_table(archive, CLIPS.name, &["duration_seconds"], &mut |cells| {
        summary.rows.clips += 1;
        let seconds = cells.first().copied().flatten().and_then(|seconds| seconds.parse::<f64>().ok());
        micros = micros.saturating_add((seconds.unwrap_or(0.0) * 1e6).round() as i128);
    })?;
    contents.audio_seconds = micros as f64 / 1e6;
    Ok(())
}

/// Counts the assets by status. Returns the number of rows for each kind of asset.
fn count_assets(archive: &Archive, summary: &mut RunSummary) -> Result<BTreeMap<AssetKind, u64>> {
    let mut kinds = BTreeMap::new();
    // Two rows have the same path if a clip belongs to two tasks, but the size of each file is counted only once.
    let (hasher, mut files) = (RandomState::new(), HashSet::new());
    let assets = &mut summary.assets;
    rows::scan_table(archive, ASSETS.name, &["status", "path", "bytes", "kind"], &mut |cells| {
        let [Some(status), path, bytes, kind] = cells else { return };
        summary.rows.assets += 1;
        kind.and_then(AssetKind::parse).into_iter().for_each(|kind| *kinds.entry(kind).or_default() += 1);
        match AssetStatus::parse(status) {
            Some(AssetStatus::Ok) => assets.ok += 1,
            Some(AssetStatus::Failed) => assets.failed += 1,
            Some(AssetStatus::Skipped) => assets.skipped += 1,
            None => {}
        }
        if path.is_some_and(|path| files.insert(hasher.hash_one(path))) {
            assets.bytes += bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        }
    })?;
    Ok(kinds)
}

/// Counts the tasks that no run has archived so far, by the most recent reason recorded for each task. Returns the
/// number of lists of missing tasks that could not be read completely.
fn count_missing(archive: &Archive, tasks: &mut TaskCounts) -> Result<u64> {
    let (mut reasons, mut unreadable): (HashMap<String, String>, u64) = (HashMap::new(), 0);
    for path in archive.run_files(RunFile::Unfinished)? {
        let file = archive.store.open(&path)?;
        let mut on_row = |cells: &[Option<&str>]| {
            if let [Some(task_id), Some(reason)] = cells {
                reasons.insert((*task_id).to_owned(), (*reason).to_owned());
            }
        };
        unreadable += u64::from(tables::scan(file, TableFormat::Csv, &["task_id", "reason"], &mut on_row).is_err());
    }
    for path in archive.parts(TASKS.name)? {
        if reasons.is_empty() {
            break;
        }
        rows::scan_part(archive, &path, &[TASK_ID], &mut |cells| {
            if let [Some(task_id)] = cells {
                reasons.remove(*task_id);
            }
        })?;
    }
    for reason in reasons.values() {
        match reason.as_str() {
            "unreadable" => tasks.unreadable += 1,
            "error" => tasks.errors += 1,
            _ => tasks.unfinished += 1,
        }
    }
    Ok(unreadable)
}
