//! The record of a run whose journal a later run recovers. A killed run could not leave one: it is made from
//! the parts under its name. One that ended in good order, and left tasks whose assets were not settled, gets
//! them added.

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
    tables::{ASSETS, CLIPS, LYRICS, Row, TASK_ID, TASKS},
};

/// The exit status that a shell reports for a process ended by SIGKILL, which is how most such runs end.
const KILLED: u8 = 128 + 9;

/// Writes the record of a run that did not write one itself, or adds what was published now. Returns false if the
/// record counts the part already.
pub(super) fn record(held: &Arc<LockedArchive>, publication: &Publication) -> Result<bool> {
    let Publication { run_id, published, command, .. } = publication;
    let archive = &held.archive;
    let path = RunFile::Summary.path(run_id);
    let written = archive.store.get(&path)?;
    let mut summary = match written.map(|text| serde_json::from_slice::<RunSummary>(&text)) {
        Some(Ok(known)) if known.recovered_parts.contains(&published.part) => return Ok(false),
        Some(Ok(known)) => known.with_recovered(published),
        // A damaged record is evidence; `verify` reports it.
        Some(Err(_)) => return Ok(true),
        None => {
            let mut summary = killed(run_id, *command).with_recovered(&count_parts(archive, run_id)?);
            summary.recovered_parts = own_parts(archive, run_id, TASKS.name)?.iter().filter_map(part_number).collect();
            summary
        }
    };
    summary.recovered_parts.insert(published.part);
    let mut text = serde_json::to_vec_pretty(&summary).expect("a summary has string keys only");
    text.push(b'\n');
    held.put_with_checksum(&path, &text)?;
    Ok(true)
}

/// The record of a run that was killed, without its counts. When it ended is unknown.
fn killed(run_id: &RunId, command: RunCommand) -> RunSummary {
    RunSummary {
        run_id: run_id.to_string(),
        command,
        started_at: run_id.start(),
        exit_code: KILLED,
        interrupted: true,
        ..RunSummary::default()
    }
}

/// Counts the parts that a run has published.
fn count_parts(archive: &Archive, run_id: &RunId) -> Result<Published> {
    let mut counts = Published::default();
    each_row(archive, run_id, TASKS.name, &["status", "type", "credits_cost"], &mut |cells| {
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
    each_row(archive, run_id, CLIPS.name, &[TASK_ID], &mut |_| counts.rows.clips += 1)?;
    each_row(archive, run_id, LYRICS.name, &[TASK_ID], &mut |_| counts.rows.lyrics += 1)?;
    each_row(archive, run_id, ASSETS.name, &["status", "bytes"], &mut |cells| {
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

fn each_row(archive: &Archive, run_id: &RunId, table: &str, columns: &[&str], row: Row<'_>) -> Result<()> {
    for path in own_parts(archive, run_id, table)? {
        rows::scan_part(archive, &path, columns, row)?;
    }
    Ok(())
}

/// The parts of a table with the name of a run.
fn own_parts(archive: &Archive, run_id: &RunId, table: &str) -> Result<Vec<String>> {
    let prefix = format!("{table}/{run_id}-");
    Ok(archive.parts(table)?.into_iter().filter(|path| path.starts_with(&prefix)).collect())
}

/// The number in the name of a part, `tasks/<run_id>-<number>.parquet`.
fn part_number(path: &String) -> Option<u32> {
    path.rsplit_once('-')?.1.split_once('.')?.0.parse().ok()
}
