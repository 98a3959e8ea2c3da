//! Writes the summary of an earlier run after segments of its journal are recovered. A killed run leaves no summary, so
//! its summary is created from the run's parts. If a run ended cleanly but left pending assets, the recovered counts
//! are added to the run's existing summary.

use std::sync::Arc;

use super::publish::Publication;
use crate::{
    archive::{Archive, LockedArchive, RunFile},
    asset::AssetStatus,
    error::Result,
    event::Published,
    rows,
    run_id::RunId,
    run_summary::{RunCommand, RunSummary},
    status::FinalStatus,
    tables::{ASSETS, CLIPS, LYRICS, RowCallback, TASK_ID, TASKS},
};

/// The exit status that a shell reports for a process killed by SIGKILL. Most runs without a summary were killed by
/// SIGKILL.
const SIGKILL_STATUS: u8 = 128 + 9;

/// Creates a summary for a run that has none, or adds the recovered counts to an existing summary. Returns `false` if
/// the existing summary already includes the recovered part.
pub(super) fn write_summary(archive: &Arc<LockedArchive>, publication: &Publication) -> Result<bool> {
    let Publication { run_id, published, command, .. } = publication;
    let path = RunFile::Summary.path(run_id);
    let written = archive.store.get(&path)?;
    let mut summary = match written.map(|text| serde_json::from_slice::<RunSummary>(&text)) {
        Some(Ok(existing)) if existing.recovered_parts.contains(&published.part) => return Ok(false),
        Some(Ok(existing)) => existing.with_recovered(published),
        // A damaged summary is kept as evidence, and `verify` reports it.
        Some(Err(_)) => return Ok(true),
        None => {
            let mut summary =
                killed_run_summary(run_id, *command).with_recovered(&count_published_rows(archive, run_id)?);
            summary.recovered_parts =
                run_parts(archive, run_id, TASKS.name)?.iter().filter_map(|path| part_number(path)).collect();
            summary
        }
    };
    summary.recovered_parts.insert(published.part);
    let mut text = serde_json::to_vec_pretty(&summary).expect("a summary has string keys only");
    text.push(b'\n');
    archive.put_with_checksum(&path, &text)?;
    Ok(true)
}

/// Returns the summary of a killed run, without counts and without the end time, which is unknown.
fn killed_run_summary(run_id: &RunId, command: RunCommand) -> RunSummary {
    RunSummary {
        run_id: run_id.to_string(),
        command,
        started_at: run_id.start(),
        exit_code: SIGKILL_STATUS,
        interrupted: true,
        ..RunSummary::default()
    }
}

/// Counts the rows in the parts that a run has published.
fn count_published_rows(archive: &Archive, run_id: &RunId) -> Result<Published> {
    let mut counts = Published::default();
    for_each_row(archive, run_id, TASKS.name, &["status", "type", "credits_cost"], &mut |cells| {
        let [status, kind, credits] = cells else { return };
        let status = status.and_then(FinalStatus::parse);
        counts.rows.tasks += 1;
        if let Some(status) = status {
            *counts.by_status.entry(status).or_default() += 1;
        }
        if let Some(kind) = kind {
            *counts.by_type.entry((*kind).to_owned()).or_default() += 1;
        }
        if status == Some(FinalStatus::Success) {
            counts.credits_cost += credits.and_then(|credits| credits.parse().ok()).unwrap_or(0.0);
        }
    })?;
    for_each_row(archive, run_id, CLIPS.name, &[TASK_ID], &mut |_| counts.rows.clips += 1)?;
    for_each_row(archive, run_id, LYRICS.name, &[TASK_ID], &mut |_| counts.rows.lyrics += 1)?;
    for_each_row(archive, run_id, ASSETS.name, &["status", "bytes"], &mut |cells| {
        let [status, bytes] = cells else { return };
        counts.rows.assets += 1;
        counts.assets.bytes += bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        match status.and_then(AssetStatus::parse) {
            Some(AssetStatus::Ok) => counts.assets.ok += 1,
            Some(AssetStatus::Failed) => counts.assets.failed += 1,
            Some(AssetStatus::Skipped) => counts.assets.skipped += 1,
            None => {}
        }
    })?;
    Ok(counts)
}

fn for_each_row(archive: &Archive, run_id: &RunId, table: &str, columns: &[&str], row: RowCallback<'_>) -> Result<()> {
    let own_prefix = format!("{table}/{run_id}-");
    for path in archive.parts(table)?.into_iter().filter(|path| path.starts_with(&own_prefix)) {
        rows::scan_part(archive, &path, columns, row)?;
    }
    Ok(())
}

/// Returns the parts of a table that a run has published.
fn run_parts(archive: &Archive, run_id: &RunId, table: &str) -> Result<Vec<String>> {
    let prefix = format!("{table}/{run_id}-");
    Ok(archive.parts(table)?.into_iter().filter(|path| path.starts_with(&prefix)).collect())
}

/// Returns the part number from the path of a part, such as `tasks/<run_id>-<number>.parquet`.
fn part_number(path: &str) -> Option<u32> {
    path.rsplit_once('-')?.1.split_once('.')?.0.parse().ok()
}
