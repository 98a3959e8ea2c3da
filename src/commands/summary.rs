//! `summary`: what an archive holds, and how its runs went.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    path::Path,
};

use jiff::Timestamp;

use crate::{
    archive::{Archive, RUNS, RunFile},
    asset::AssetStatus,
    error::{Error, Result},
    format::TableFormat,
    report::{self, ArchiveSummary, RunNotes, RunSummary, Tasks},
    run_id::RunId,
    status::FinalStatus,
    tables::{self, ASSETS, CLIPS, LYRICS, TASKS},
};

/// What to summarise, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A table to read.
    Words,
    /// A JSON document.
    Json,
}

/// One run, or with `run` absent the archive as it stands, as the text to print.
///
/// # Errors
/// [`Error::Usage`] if there is no such archive or run, [`Error::Storage`] if it cannot be read.
pub async fn summary(folder: &Path, run: Option<&str>, style: Style) -> Result<String> {
    let archive = Archive::open(folder)?;
    let name = folder.display().to_string();
    match (run, style) {
        (Some(run), style) => {
            let summary = read_run(&archive, run).await?;
            let notes = RunNotes {
                archive: &name,
                format: archive.format,
                none_found: false,
                missing_named: true,
                left: 0,
                failed_before: 0,
            };
            Ok(match style {
                Style::Words => report::run_table(&summary, &notes),
                Style::Json => json(&summary),
            })
        }
        (None, style) => {
            let standing = standing(&archive).await?;
            Ok(match style {
                Style::Words => {
                    let mut words = report::archive_table(&standing, &name, archive.format, Timestamp::now());
                    let under_way = archive.holder().map(|holder| format!("\nA run is under way: {holder}\n"));
                    words.extend(under_way);
                    words
                }
                Style::Json => json(&standing),
            })
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a summary has string keys only") + "\n"
}

async fn read_run(archive: &Archive, run: &str) -> Result<RunSummary> {
    let known = RunId::parse(run).map(|id| RunFile::Summary.path(&id));
    let text = match &known {
        Some(path) => archive.store.get(path).await?,
        None => None,
    };
    match (known, text) {
        (Some(path), Some(text)) => parse_run(archive, &path, &text),
        _ => Err(Error::usage(format!(
            "{} has no run `{run}`; its runs are the files {RUNS}/*.json",
            archive.folder.display()
        ))),
    }
}

fn parse_run(archive: &Archive, path: &str, text: &[u8]) -> Result<RunSummary> {
    serde_json::from_slice(text).map_err(|error| archive.store.failed("read", path, &error))
}

/// The archive as it stands: the last run's words, with counts from the tables and sums over the runs.
async fn standing(archive: &Archive) -> Result<ArchiveSummary> {
    let mut standing = ArchiveSummary { last: RunSummary::default(), runs: 0 };
    let mut before: Option<RunSummary> = None;
    let mut started_at = None;
    for path in archive.store.list(RUNS, RunFile::Summary.ending()).await? {
        let Some(text) = archive.store.get(&path).await? else { continue };
        let mut run = parse_run(archive, &path, &text)?;
        started_at = started_at.or(run.started_at);
        if let Some(before) = &before {
            run.input.add(&before.input);
            run.requests.add(&before.requests);
        }
        standing.runs += 1;
        before = Some(run);
    }
    let mut last = before.unwrap_or_default();
    last.started_at = started_at;
    count_tables(archive, &mut last).await?;
    count_missing(archive, &mut last.tasks).await?;
    standing.last = last;
    Ok(standing)
}

async fn count_tables(archive: &Archive, summary: &mut RunSummary) -> Result<()> {
    let fresh = RunSummary::default();
    (summary.tasks, summary.by_type, summary.rows) = (fresh.tasks, fresh.by_type, fresh.rows);
    (summary.assets, summary.credits_cost) = (fresh.assets, 0.0);
    for path in archive.parts(TASKS.name).await? {
        let file = archive.store.open(&path).await?;
        let mut count = |cells: &[Option<&str>]| {
            let [status, kind, credits] = cells else { return };
            summary.rows.tasks += 1;
            let status = status.and_then(FinalStatus::parse);
            if let Some(status) = status {
                summary.tasks.add(status, 1);
            }
            if let Some(kind) = kind {
                *summary.by_type.entry((*kind).to_owned()).or_default() += 1;
            }
            if status == Some(FinalStatus::Success) {
                summary.credits_cost += credits.and_then(|credits| credits.parse().ok()).unwrap_or(0.0);
            }
        };
        tables::scan(file, archive.format, &["status", "type", "credits_cost"], &mut count)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    summary.rows.clips = count_rows(archive, CLIPS.name).await?;
    summary.rows.lyrics = count_rows(archive, LYRICS.name).await?;
    count_assets(archive, summary).await
}

async fn count_assets(archive: &Archive, summary: &mut RunSummary) -> Result<()> {
    // A clip that stands in two tasks has one file. Memory holds a hash a file.
    let (hasher, mut files) = (RandomState::new(), HashSet::new());
    let assets = &mut summary.assets;
    for path in archive.parts(ASSETS.name).await? {
        let file = archive.store.open(&path).await?;
        let mut count = |cells: &[Option<&str>]| {
            let [Some(status), path, bytes] = cells else { return };
            summary.rows.assets += 1;
            match AssetStatus::parse(status) {
                Some(AssetStatus::Ok) => assets.ok += 1,
                Some(AssetStatus::Failed) => assets.failed += 1,
                Some(AssetStatus::Skipped) => assets.skipped += 1,
                None => {}
            }
            if path.is_some_and(|path| files.insert(hasher.hash_one(path))) {
                assets.bytes += bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
            }
        };
        tables::scan(file, archive.format, &["status", "path", "bytes"], &mut count)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(())
}

async fn count_rows(archive: &Archive, table: &str) -> Result<u64> {
    let mut rows = 0;
    for path in archive.parts(table).await? {
        let file = archive.store.open(&path).await?;
        rows +=
            tables::count_rows(file, archive.format).map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    Ok(rows)
}

/// What runs left unarchived and no later run archived: each task counts by the last reason it got.
async fn count_missing(archive: &Archive, tasks: &mut Tasks) -> Result<()> {
    let mut reasons: HashMap<String, String> = HashMap::new();
    for path in archive.store.list(RUNS, RunFile::Unfinished.ending()).await? {
        let file = archive.store.open(&path).await?;
        let mut note = |cells: &[Option<&str>]| {
            if let [Some(task_id), Some(reason)] = cells {
                reasons.insert((*task_id).to_owned(), (*reason).to_owned());
            }
        };
        tables::scan(file, TableFormat::Csv, &["task_id", "reason"], &mut note)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    for path in archive.parts(TASKS.name).await? {
        if reasons.is_empty() {
            break;
        }
        let file = archive.store.open(&path).await?;
        let mut forget = |cells: &[Option<&str>]| {
            if let [Some(task_id)] = cells {
                reasons.remove(*task_id);
            }
        };
        tables::scan(file, archive.format, &["task_id"], &mut forget)
            .map_err(|error| archive.store.failed("read", &path, &error))?;
    }
    for reason in reasons.values() {
        match reason.as_str() {
            "unreadable" => tasks.unreadable += 1,
            "error" => tasks.errors += 1,
            _ => tasks.unfinished += 1,
        }
    }
    Ok(())
}
