//! The table that `summary` prints for an archive.

use std::{collections::BTreeMap, fmt::Write};

use jiff::Timestamp;

use super::{
    contents::{Account, ArchiveSummary, RunRow, WaitingRun},
    messages::{
        asset_words, credits, duckdb_line, duration, line, listed, plural, request_words, row_words, task_words,
    },
};
use crate::{
    asset::AssetKind,
    format::TableFormat,
    run_summary::{RunCommand, RunSummary},
};

/// Formats the summary of a whole archive as a table.
pub(crate) fn archive_table(archive: &ArchiveSummary, folder: &str, format: TableFormat, now: Timestamp) -> String {
    let (run, held) = (&archive.last, &archive.archive);
    let mut text = waiting_words(&held.waiting_runs);
    let _ = write!(text, "{folder}: {}\n\n", row_words(run));
    line(&mut text, "tasks", &task_words(run));
    line(&mut text, "by type", &counted(&run.by_type));
    line(&mut text, "by model", &counted(&held.by_model));
    if let (Some(from), Some(to)) = (day(held.created_from.as_deref()), day(held.created_to.as_deref())) {
        line(&mut text, "created", &format!("from {from} to {to}"));
    }
    line(&mut text, "audio", &format!("{:.2} hours", held.audio_seconds / 3600.0));
    if run.rows.assets > 0 {
        line(&mut text, "assets", &asset_words(&run.assets));
    }
    if !held.lacking_assets.is_empty() {
        line(&mut text, "lacking", &lacking_words(&held.lacking_assets));
    }
    let spent = credits(run.credits_cost);
    line(&mut text, "credits", &format!("{spent} for successful tasks, worth {:.2} USD", held.usd));
    if let Some(account) = &archive.account {
        line(&mut text, "account", &account_words(account));
    }
    line(&mut text, "requests", &request_words(run));
    line(&mut text, "missing", &missing_words(run));
    if let Some(end) = run.finished_at {
        let ago = duration(now.duration_since(end).as_secs_f64());
        line(&mut text, "last run", &format!("{}, {ago} ago: {}", run.run_id, ending(run.command, run.exit_code)));
    }
    let unreadable = match held.unreadable_run_files {
        0 => String::new(),
        files => format!("; {} of runs cannot be read: run verify", plural(files, "file")),
    };
    line(&mut text, "runs", &format!("{}{unreadable}", archive.runs));
    text.push_str(&runs_table(&held.last_runs));
    if run.rows.tasks > 0 {
        let _ = write!(text, "\nQuery it:\n  {}\n", duckdb_line(folder, format));
    }
    text
}

/// The first lines of the summary, which report runs with unpublished responses in the journal.
fn waiting_words(runs: &[WaitingRun]) -> String {
    let mut text = String::new();
    for run in runs {
        let name = run.started_at.map_or_else(|| run.run_id.clone(), |start| format!("of {start:.0}"));
        let answers = plural(run.answers, "answer");
        let _ = if run.has_ended {
            writeln!(text, "The run {name} left {answers} in the journal, whose downloads the next export resumes.")
        } else {
            writeln!(text, "The run {name} did not finish: {answers} in its journal; the next export recovers them.")
        };
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Lists the kinds of assets that some clips lack, with the number of these clips.
fn lacking_words(lacking: &BTreeMap<AssetKind, u64>) -> String {
    let kinds: Vec<String> =
        lacking.iter().map(|(kind, clips)| format!("{kind} of {}", plural(*clips, "clip"))).collect();
    format!("{} (never requested; export with --assets to download)", kinds.join(", "))
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    listed(&counts.iter().map(|(name, count)| (*count, name.as_str())).collect::<Vec<_>>())
}

fn day(time: Option<&str>) -> Option<&str> {
    time?.get(.."2025-01-15".len())
}

/// Describes the share of the account that is archived, and the credits of the account.
fn account_words(account: &Account) -> String {
    let archived = account.archived;
    let mut words = match (account.tasks_created, account.coverage) {
        (Some(created), Some(coverage)) => {
            format!("{archived} of {} that it has created archived: {coverage} %", plural(created, "task"))
        }
        (Some(_), None) => format!("it has created no task, and {archived} are archived"),
        (None, _) => format!("{archived} tasks archived; the provider does not say how many it has created"),
    };
    if account.coverage.is_some_and(|coverage| coverage > 100.0) {
        words.push_str(" (are other accounts' tasks in the archive too?)");
    }
    if let Some(used) = account.credits_used {
        let _ = write!(words, "; {} credits used", credits(used));
    }
    if let Some(topped_up) = account.credits_topped_up {
        let _ = write!(words, "; {} topped up", credits(topped_up));
    }
    words
}

fn missing_words(run: &RunSummary) -> String {
    let tasks = plural(run.missing(), "task");
    let assets = plural(run.assets.failed, "asset");
    match (run.missing(), run.assets.failed) {
        (0, 0) => "none".into(),
        (_, 0) => format!("{tasks}, named in runs/*-unfinished.csv"),
        (0, _) => format!("{assets}, status = 'failed' in the assets table"),
        _ => format!("{tasks}, named in runs/*-unfinished.csv; {assets}, status = 'failed' in the assets table"),
    }
}

fn ending(command: RunCommand, exit_code: u8) -> String {
    let words = match exit_code {
        0 if command == RunCommand::Repair => "the repair is complete",
        0 => "everything was archived",
        1 => "an error stopped it",
        3 => "something was missing",
        4 => "the provider refused the key",
        137 => "it was killed",
        129.. => "a signal stopped it",
        _ => "it exited abnormally",
    };
    format!("{words} (exit status {exit_code})")
}

fn runs_table(runs: &[RunRow]) -> String {
    let mut text = String::new();
    if runs.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\n  {:<20}  {:<7}  {:>12}  {:>4}  {:>9}  {:>9}",
        "run", "command", "took", "exit", "archived", "requests"
    );
    for run in runs {
        let began = run.started_at.map_or_else(|| run.run_id.clone(), |start| format!("{start:.0}"));
        let took = run.run_seconds.map_or_else(|| "?".into(), duration);
        let (command, exit, tasks, requests) = (run.command.as_str(), run.exit_code, run.tasks, run.requests);
        let _ = writeln!(text, "  {began:<20}  {command:<7}  {took:>12}  {exit:>4}  {tasks:>9}  {requests:>9}");
    }
    text
}
