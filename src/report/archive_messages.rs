//! Formats the table that `summary` prints for an archive.

use std::{collections::BTreeMap, fmt::Write};

use jiff::Timestamp;

use super::{
    contents::{Account, ArchiveSummary, RunRow, UnpublishedRun},
    messages::{
        credits, duckdb_line, duration, format_assets, format_requests, format_rows, format_tasks, join_counts, plural,
        write_line,
    },
};
use crate::{
    asset::AssetKind,
    format::TableFormat,
    run_summary::{RunCommand, RunSummary},
};

/// Formats the summary of a whole archive as a table.
pub(crate) fn archive_table(archive: &ArchiveSummary, folder: &str, format: TableFormat, now: Timestamp) -> String {
    let (run, contents) = (&archive.last, &archive.archive);
    let mut text = format_unpublished_runs(&contents.unpublished_runs);
    let _ = write!(text, "{folder}: {}\n\n", format_rows(run));
    write_line(&mut text, "tasks", &format_tasks(run));
    write_line(&mut text, "by type", &format_counts(&run.by_type));
    write_line(&mut text, "by model", &format_counts(&contents.by_model));
    if let (Some(from), Some(to)) = (day(contents.created_from.as_deref()), day(contents.created_to.as_deref())) {
        write_line(&mut text, "created", &format!("from {from} to {to}"));
    }
    write_line(&mut text, "audio", &format!("{:.2} hours", contents.audio_seconds / 3600.0));
    if run.rows.assets > 0 {
        write_line(&mut text, "assets", &format_assets(&run.assets));
    }
    if !contents.clips_lacking_assets.is_empty() {
        write_line(&mut text, "optional", &format_missing_assets(&contents.clips_lacking_assets));
    }
    let spent = credits(run.credits_cost);
    write_line(&mut text, "credits", &format!("{spent} for successful tasks ({:.2} USD)", contents.usd));
    if let Some(account) = &archive.account {
        write_line(&mut text, "account", &format_account(account));
    }
    write_line(&mut text, "requests", &format_requests(run));
    write_line(&mut text, "missing", &format_missing(run));
    if let Some(end) = run.finished_at {
        let elapsed = duration(now.duration_since(end).as_secs_f64());
        write_line(
            &mut text,
            "last run",
            &format!("{}, {elapsed} ago: {}", run.run_id, describe_exit(run.command, run.exit_code)),
        );
    }
    let unreadable = match contents.unreadable_run_files {
        0 => String::new(),
        files => format!("; {} cannot be read; run `verify`", plural(files, "run file")),
    };
    write_line(&mut text, "runs", &format!("{}{unreadable}", archive.runs));
    text.push_str(&runs_table(&contents.last_runs));
    if run.rows.tasks > 0 {
        let _ = write!(text, "\nQuery it:\n  {}\n", duckdb_line(folder, format));
    }
    text
}

/// Formats the first lines of the archive summary, which report the runs with unpublished responses in the journal.
fn format_unpublished_runs(runs: &[UnpublishedRun]) -> String {
    let mut text = String::new();
    for run in runs {
        let name = run.started_at.map_or_else(|| run.run_id.clone(), |start| format!("of {start:.0}"));
        let responses = plural(run.responses, "response");
        let _ = if run.responses == 0 && !run.has_ended {
            writeln!(
                text,
                "The run {name} did not finish and archived no responses. The next export will write its run summary."
            )
        } else if run.has_ended {
            writeln!(
                text,
                "The run {name} left {responses} with unfinished downloads in the journal. The next export resumes them."
            )
        } else {
            writeln!(text, "The run {name} did not finish. The next export recovers {responses} from its journal.")
        };
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Lists each kind of asset that some clips lack, with the number of clips that lack it.
fn format_missing_assets(missing: &BTreeMap<AssetKind, u64>) -> String {
    let kinds: Vec<String> =
        missing.iter().map(|(kind, clips)| format!("{kind} of {}", plural(*clips, "clip"))).collect();
    let options: Vec<String> = missing.keys().map(ToString::to_string).collect();
    format!("{} (never selected; download with export --assets {})", kinds.join(", "), options.join(","))
}

fn format_counts(counts: &BTreeMap<String, u64>) -> String {
    join_counts(&counts.iter().map(|(name, count)| (*count, name.as_str())).collect::<Vec<_>>())
}

fn day(time: Option<&str>) -> Option<&str> {
    time?.get(.."2025-01-15".len())
}

/// Formats the share of the account's tasks that are archived, and the numbers of credits used and topped up.
fn format_account(account: &Account) -> String {
    let archived = account.archived;
    let mut text = match (account.tasks_created, account.coverage) {
        (Some(created), Some(coverage)) => {
            format!("{archived} of {} archived ({coverage} %)", plural(created, "created task"))
        }
        (Some(_), None) => format!("no tasks created; {} archived", plural(archived, "task")),
        (None, _) => {
            format!("{} archived; the provider does not report the number of created tasks", plural(archived, "task"))
        }
    };
    if account.coverage.is_some_and(|coverage| coverage > 100.0) {
        text.push_str(" (does the archive contain tasks from other accounts?)");
    }
    if let Some(used) = account.credits_used {
        let _ = write!(text, "; {} credits used", credits(used));
    }
    if let Some(topped_up) = account.credits_topped_up {
        let _ = write!(text, "; {} topped up", credits(topped_up));
    }
    text
}

fn format_missing(run: &RunSummary) -> String {
    let tasks = plural(run.missing(), "task");
    let assets = plural(run.assets.failed, "asset");
    match (run.missing(), run.assets.failed) {
        (0, 0) => "none".into(),
        (_, 0) => format!("{tasks}, listed in runs/*-unfinished.csv"),
        (0, _) => format!("{assets}, status = 'failed' in the assets table"),
        _ => format!("{tasks}, listed in runs/*-unfinished.csv; {assets}, status = 'failed' in the assets table"),
    }
}

fn describe_exit(command: RunCommand, exit_code: u8) -> String {
    let text = match exit_code {
        0 if command == RunCommand::Repair => "repair complete",
        0 => "complete",
        1 => "stopped by an error",
        3 => "incomplete",
        4 => "the provider refused the API key",
        137 => "killed",
        129.. => "stopped by a signal",
        _ => "exited abnormally",
    };
    format!("{text} (exit status {exit_code})")
}

fn runs_table(runs: &[RunRow]) -> String {
    let mut text = String::new();
    if runs.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\n  {:<20}  {:<7}  {:>12}  {:>4}  {:>9}  {:>9}",
        "run", "command", "duration", "exit", "archived", "requests"
    );
    for run in runs {
        let started = run.started_at.map_or_else(|| run.run_id.clone(), |start| format!("{start:.0}"));
        let duration = run.run_seconds.map_or_else(|| "?".into(), duration);
        let (command, exit, tasks, requests) = (run.command.as_str(), run.exit_code, run.tasks, run.requests);
        let _ = writeln!(text, "  {started:<20}  {command:<7}  {duration:>12}  {exit:>4}  {tasks:>9}  {requests:>9}");
    }
    text
}
