//! Formats the closing message of a run: a table for stdout, and advice about missing tasks.

use std::{cmp::Reverse, fmt::Write, time::Duration};

use bytesize::ByteSize;

use crate::{
    archive::RunFile,
    config::RunConfig,
    event::{AssetCounts, Downloads, InputCounts, Progress, RowCounts},
    exit::ExitStatus,
    format::TableFormat,
    run_summary::RunSummary,
};

/// The maximum number of reasons listed for failed downloads.
const MAX_REASONS: usize = 5;

/// Formats a duration in whole seconds, for example `1h 2m 3s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0).round() as u64);
    humantime::format_duration(whole).to_string().replace("days", "d").replace("day", "d")
}

/// Formats the number of unfinished tasks and the estimated remaining time, for example `, 3 unfinished, 5m left`.
pub(super) fn format_remaining(progress: &Progress) -> String {
    let unfinished = Some(progress.unfinished).filter(|count| *count > 0).map(|count| format!(", {count} unfinished"));
    let remaining = progress.seconds_left.map(|remaining| format!(", {} left", duration(remaining)));
    unfinished.into_iter().chain(remaining).collect()
}

/// Formats the size and speed of the downloads, for example `, 12.3 MB, 1.2 MB/s`.
pub(super) fn format_transfer(downloads: &Downloads) -> String {
    format!(", {}, {}/s", size(downloads.bytes), size(downloads.bytes_per_second as u64))
}

/// Formats a size in bytes with SI units, for example `12.3 MB`.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// Data that the closing message needs, but that the run's summary does not contain.
pub(crate) struct ClosingNotes<'a> {
    /// The location of the archive, as specified by the user.
    pub(crate) archive: &'a str,
    pub(crate) format: TableFormat,
    /// Whether the provider responded but found none of the requested tasks.
    pub(crate) none_found: bool,
    /// Whether the list of missing tasks was written.
    pub(crate) missing_list_written: bool,
    /// The number of tasks that earlier runs fetched and whose downloads are still pending.
    pub(crate) still_journalled: u64,
    /// The number of assets that failed in earlier runs, and that an export does not retry.
    pub(crate) failed_before: u64,
    /// The number of tasks that were archived as not found and that this run requested again. If the provider
    /// still does not find these tasks, the API key is not necessarily wrong.
    pub(crate) refetched: u64,
}

/// Formats the closing message of a run.
pub(crate) fn run_table(run: &RunSummary, notes: &ClosingNotes<'_>) -> String {
    let mut text = String::new();
    let duration = run.duration_seconds().map_or_else(String::new, |seconds| format!(" in {}", duration(seconds)));
    let _ = writeln!(text, "{}{duration}", headline(run));
    text.push('\n');
    write_line(&mut text, "archive", notes.archive);
    write_line(&mut text, "input", &format_input(run));
    if run.input.selected > 0 {
        write_line(&mut text, "tasks", &format_tasks(run));
    }
    if run.input.selected + run.rows.assets > 0 {
        write_line(&mut text, "rows", &format_rows(run));
    }
    if run.rows.assets > 0 {
        write_line(&mut text, "assets", &format_assets(&run.assets));
    }
    if run.input.selected > 0 {
        write_line(&mut text, "credits", &format!("{} for successful tasks", credits(run.credits_cost)));
    }
    write_line(&mut text, "requests", &format_requests(run));
    if let Some(advice) = advice(run, notes) {
        let _ = write!(text, "\n{advice}");
    }
    if run.rows.tasks > 0 || run.input.already_archived > 0 {
        let _ = write!(text, "\nQuery it:\n  {}\n", duckdb_line(notes.archive, notes.format));
    }
    text
}

/// Formats the plan of a dry run, with the estimated time for its requests at the given rate.
pub(crate) fn plan_table(
    plan: &InputCounts,
    tasks_lacking_assets: u64,
    config: &RunConfig,
    requests_per_second: f64,
) -> String {
    let mut text = String::from("Dry run: nothing was sent, and nothing was written\n\n");
    let run = RunSummary { input: plan.clone(), ..RunSummary::default() };
    write_line(&mut text, "archive", &config.archive.to_string());
    write_line(&mut text, "input", &format_input(&run));
    write_line(&mut text, "requests", &format_request_plan(plan.selected, config, requests_per_second));
    if tasks_lacking_assets > 0 {
        let responses = if tasks_lacking_assets == 1 { "its stored response" } else { "their stored responses" };
        let tasks = plural(tasks_lacking_assets, "archived task");
        write_line(&mut text, "assets", &format!("to download for {tasks}, using the URLs in {responses}"));
    }
    text
}

fn format_request_plan(selected: u64, config: &RunConfig, requests_per_second: f64) -> String {
    if selected == 0 {
        return "none".into();
    }
    let mut text = format!("at least {selected}, ");
    if requests_per_second.is_finite() {
        let _ = write!(text, "about {} at {}", duration(selected as f64 / requests_per_second), config.rate);
    } else {
        text.push_str("with no rate limit");
    }
    if config.reserve > 0 {
        let _ = write!(text, " with {} per minute reserved", plural(config.reserve.into(), "request"));
    }
    if !config.poll_limit.is_zero() {
        let _ =
            write!(text, ", plus up to {} of polling for unfinished tasks", duration(config.poll_limit.as_secs_f64()));
    }
    if let Some(limit) = config.stop_after {
        let _ = write!(text, "; the run stops after {}", duration(limit.as_secs_f64()));
    }
    text
}

pub(super) fn write_line(output: &mut String, name: &str, text: &str) {
    let _ = writeln!(output, "  {name:<10}{text}");
}

/// The exit status of a run whose API key the provider refused.
const KEY_REFUSED: u8 = ExitStatus::KeyRejected as u8;

fn headline(run: &RunSummary) -> String {
    let archived = run.rows.tasks;
    let selected = plural(run.input.selected, "task");
    match run.exit_code {
        129.. => format!("Interrupted: archived {archived} of {selected}"),
        1 => format!("Stopped by an error: archived {archived} of {selected}"),
        4 => format!("The provider refused the API key: archived {archived} of {selected}"),
        _ if run.input.selected == 0 && run.rows.assets > 0 => {
            "Nothing to fetch: downloaded assets of archived tasks".into()
        }
        _ if run.input.selected == 0 => "Nothing to fetch: no request was sent".into(),
        _ => format!("Archived {archived} of {selected}"),
    }
}

fn format_input(run: &RunSummary) -> String {
    let input = &run.input;
    let parts = [
        (input.selected, "to fetch"),
        (input.already_archived, "already archived"),
        (input.duplicates, if input.duplicates == 1 { "duplicate" } else { "duplicates" }),
        (input.invalid, "with an invalid ID"),
        (input.other_shards, "for other shards"),
    ];
    format!("{}: {}", plural(input.rows, "row"), join_counts(&parts))
}

pub(super) fn format_tasks(run: &RunSummary) -> String {
    let tasks = &run.tasks;
    join_counts(&[
        (tasks.success, "success"),
        (tasks.failure, "failure"),
        (tasks.timeout, "timeout"),
        (tasks.not_found, "not found"),
        (tasks.unfinished, "unfinished"),
        (tasks.unreadable, "unreadable"),
        (tasks.errors, "with errors"),
    ])
}

pub(super) fn format_rows(run: &RunSummary) -> String {
    format_row_counts(&run.rows)
}

pub(super) fn format_row_counts(rows: &RowCounts) -> String {
    let lyrics = format!("{} lyrics", rows.lyrics);
    let counts = [
        (rows.tasks, plural(rows.tasks, "task")),
        (rows.clips, plural(rows.clips, "clip")),
        (rows.lyrics, lyrics),
        (rows.assets, plural(rows.assets, "asset")),
    ];
    let words: Vec<String> = counts.into_iter().filter(|(count, _)| *count > 0).map(|(_, words)| words).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

pub(super) fn format_assets(assets: &AssetCounts) -> String {
    let ok = format!("ok ({})", size(assets.bytes));
    let mut text =
        join_counts(&[(assets.ok, &ok), (assets.failed, "failed"), (assets.skipped, "skipped: nothing to download")]);
    if assets.discarded_bytes > 0 {
        let _ = write!(text, "; {} discarded", size(assets.discarded_bytes));
    }
    text
}

pub(super) fn format_requests(run: &RunSummary) -> String {
    let requests = &run.requests;
    let first = requests.total - requests.retries - requests.polls;
    let kinds = [
        (first, "initial"),
        (requests.polls, if requests.polls == 1 { "poll" } else { "polls" }),
        (requests.retries, if requests.retries == 1 { "retry" } else { "retries" }),
    ];
    let limited = match requests.rate_limited {
        0 => String::new(),
        count => format!("; {count} rate limited (HTTP 429)"),
    };
    if requests.total == 0 { "none".into() } else { format!("{}: {}{limited}", requests.total, join_counts(&kinds)) }
}

/// Lists the nonzero counts, for example `3 success, 1 failure`. Returns `none` if all counts are zero.
pub(super) fn join_counts(counts: &[(u64, &str)]) -> String {
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if counts.is_empty() { "none".into() } else { counts.join(", ") }
}

pub(super) fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Formats a number of credits, with two decimals unless the number is an integer.
pub(super) fn credits(cost: f64) -> String {
    if cost.fract() == 0.0 { format!("{cost:.0}") } else { format!("{cost:.2}") }
}

fn advice(run: &RunSummary, notes: &ClosingNotes<'_>) -> Option<String> {
    let mut text = String::new();
    if notes.none_found {
        text.push_str("None of the tasks was found. Does the key belong to a different account? No task was archived as not found.\n");
    } else if run.tasks.not_found.saturating_sub(notes.refetched) * 2 > run.input.selected {
        let _ = writeln!(
            text,
            "More than half of the tasks were not found. Are the list and the key from the same account?"
        );
    }
    if run.input.invalid > 0 {
        let _ =
            writeln!(text, "Skipped {} with an invalid ID. Fix the list and rerun.", plural(run.input.invalid, "row"));
    }
    if run.missing() > 0 {
        let _ = write!(text, "Not archived: {}", plural(run.missing(), "task"));
        if notes.missing_list_written {
            let _ = write!(text, ", listed with reasons in\n  {}", unfinished_file(run, notes));
        }
        text.push_str(if run.exit_code == KEY_REFUSED {
            "\nCheck the key in SUNOR_API_KEY or --api-key-file, then rerun the command.\n"
        } else {
            "\nRerun the command to fetch what is missing.\n"
        });
    }
    if run.assets.failed > 0 {
        let _ = writeln!(text, "Not downloaded: {}", plural(run.assets.failed, "asset"));
        let mut reasons: Vec<_> = run.assets.reasons.iter().collect();
        reasons.sort_by_key(|(reason, count)| (Reverse(**count), *reason));
        for (reason, count) in reasons.into_iter().take(MAX_REASONS) {
            let _ = writeln!(text, "  {count} × {reason}");
        }
        text.push_str("Each has a row with status = 'failed' in the assets table. Run `repair` to retry them.\n");
    }
    if notes.still_journalled > 0 {
        let _ = writeln!(
            text,
            "Still in the journal: {} from earlier runs with incomplete downloads (time limit reached or host unreachable). The next run resumes them.",
            plural(notes.still_journalled, "task")
        );
    }
    if notes.failed_before > 0 {
        let _ = writeln!(
            text,
            "{} failed in earlier runs. Run `repair` to retry them.",
            plural(notes.failed_before, "asset")
        );
    }
    (!text.is_empty()).then_some(text)
}

fn unfinished_file(run: &RunSummary, notes: &ClosingNotes<'_>) -> String {
    format!("{}/runs/{}{}", notes.archive.trim_end_matches('/'), run.run_id, RunFile::Unfinished.suffix())
}

/// Returns a DuckDB command that the user can paste into a shell in the current folder.
pub(super) fn duckdb_line(archive: &str, format: TableFormat) -> String {
    // The path of the archive is escaped for SQL, for DuckDB's glob patterns, and for the shell.
    let mut folder = archive.trim_end_matches('/').replace('\'', "''");
    for special in ['[', '*', '?'] {
        folder = folder.replace(special, &format!("[{special}]"));
    }
    for special in ['\\', '"', '$', '`'] {
        folder = folder.replace(special, &format!("\\{special}"));
    }
    format!("duckdb -c \"SELECT status, type, count(*) FROM '{folder}/tasks/*.{format}' GROUP BY ALL\"")
}
