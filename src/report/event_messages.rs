//! Renders events as messages for the user.

use super::messages::{duration, format_remaining, format_transfer, plural, size};
use crate::{
    asset::{AssetKind, AssetStatus},
    event::{Checking, Event, Progress, Rewriting},
    http,
};

/// The importance of a message, which determines whether the message is shown at a given verbosity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Importance {
    /// Shown even with `--progress off`.
    Warning,
    /// Shown in plain progress output.
    Milestone,
    /// Shown only with `--verbose`.
    Verbose,
}

/// Returns the message for an event and its importance, or `None` for an event without a message.
pub(super) fn render(event: &Event) -> Option<(Importance, String)> {
    use Importance::{Milestone, Verbose, Warning};
    Some(match event {
        Event::AmbiguousHeader => {
            (Warning, "treating the first row as a header; if it is a task ID, use --no-headers".into())
        }
        Event::Delimiter { delimiter: '\t' } => (Warning, "field delimiter of the list: tab".into()),
        Event::Delimiter { delimiter } => (Warning, format!("field delimiter of the list: `{delimiter}`")),
        Event::EmptyList => (Warning, "the list is empty: it has only a header".into()),
        Event::TrailingGarbage => {
            (Warning, "ignored trailing garbage after the end of the gzip stream, as `gzip -d` does".into())
        }
        Event::InvalidRow { line, reason } => (Warning, format!("skipped line {line}: {reason}")),
        Event::Started { run_id, archive, .. } => (Milestone, format!("run {run_id} started in {archive}")),
        Event::Resuming { run_id, tasks } => {
            (Milestone, format!("resuming the downloads of {} from interrupted run {run_id}", plural(*tasks, "task")))
        }
        Event::Recovered { run_id, tasks, damaged: 0, .. } => {
            (Milestone, format!("archived {} from interrupted run {run_id}", plural(*tasks, "task")))
        }
        Event::Recovered { run_id, tasks, damaged, .. } => (
            Warning,
            format!(
                "archived {} from interrupted run {run_id}; its journal has {} and is quarantined in .sunor/damaged; \
                 the affected tasks will be fetched again",
                plural(*tasks, "task"),
                plural(*damaged, "damaged record")
            ),
        ),
        Event::Planned(planned) => (
            Milestone,
            format!("{} to fetch, {} already archived", plural(planned.selected, "task"), planned.already_archived),
        ),
        Event::Requested { .. } | Event::Published(_) | Event::Finished { .. } => return None,
        Event::ResponseReceived { task_id, status } => (Verbose, format!("{task_id}: {status}")),
        Event::Unfinished { task_id, status } => {
            (Verbose, format!("{task_id}: unfinished, {}", status.as_deref().unwrap_or("no status")))
        }
        Event::AssetSettled { task_id, clip_id, kind, status: AssetStatus::Failed, error, .. } => {
            let reason = error.as_deref().unwrap_or_default();
            (Warning, format!("{}: {reason}", format_asset(task_id, clip_id.as_deref(), *kind)))
        }
        Event::AssetSettled { task_id, clip_id, kind, status, .. } => {
            (Verbose, format!("{}: {}", format_asset(task_id, clip_id.as_deref(), *kind), status.as_str()))
        }
        Event::AssetRetrying { task_id, clip_id, kind, reason, wait_seconds } => (
            Verbose,
            format!("{}: {reason}; retrying in {wait_seconds:.1}s", format_asset(task_id, clip_id.as_deref(), *kind)),
        ),
        Event::HostDown { host, reason } => {
            (Warning, format!("{host} is down ({reason}); the next run will download its files"))
        }
        Event::IdenticalAudio { task_id, clips } => (
            Warning,
            format!(
                "{task_id}: the CDN serves identical audio for different clips: {}",
                http::excerpt(&clips.join(", "))
            ),
        ),
        Event::Retrying { task_id, reason, wait_seconds } => {
            (Verbose, format!("{task_id}: {reason}; retrying in {wait_seconds:.1}s"))
        }
        Event::RateLimited { wait_seconds } => {
            (Warning, format!("rate limited (HTTP 429); pausing API requests for {}", duration(*wait_seconds)))
        }
        Event::NoneFound { responses } => (
            Warning,
            format!("0 of {} found so far; does the key belong to a different account?", plural(*responses, "task")),
        ),
        Event::StillNotFound { tasks } => (Milestone, format!("still not found: {}", plural(*tasks, "task"))),
        Event::MissingAssets { tasks: 1 } => {
            (Milestone, "1 archived task lacks assets; its stored response contains the URLs".into())
        }
        Event::MissingAssets { tasks } => {
            (Milestone, format!("{tasks} archived tasks lack assets; their stored responses contain the URLs"))
        }
        Event::Salvaged { task_id, reason } => (Verbose, format!("{task_id}: {reason}; salvaged from a damaged part")),
        Event::Stopping { reason } => (Warning, reason.clone()),
        Event::Missing { task_id, reason, detail } => (Verbose, format!("{task_id}: {}, {detail}", reason.as_str())),
        Event::Checked { path } => (Verbose, format!("{path}: checked")),
        Event::Checking(Checking { phase, done, total, bytes }) => {
            (Milestone, format!("{done} of {total} {phase} checked, {}", size(*bytes)))
        }
        Event::Rewriting(Rewriting { table, label, done, total }) => {
            (Milestone, format!("{table}: {done} of {total} {label}"))
        }
        Event::Rewritten { table, removed, parts } => {
            (Milestone, format!("{table}: merged {} into {}", plural(*removed, "part"), plural(*parts, "part")))
        }
        Event::Progress(progress) => (Milestone, progress_line(progress)),
    })
}

/// Formats the progress of tasks and downloads, for example
/// `3 of 40 tasks (7 %), 5m left; 2 of 9 files, 12.3 MB, 1.2 MB/s`.
fn progress_line(progress: &Progress) -> String {
    let percent = 100 * progress.settled / progress.selected.max(1);
    let tasks = format!(
        "{} of {} ({percent} %){}",
        progress.settled,
        plural(progress.selected, "task"),
        format_remaining(progress)
    );
    let downloads = &progress.downloads;
    let files =
        format!("{} of {}{}", downloads.settled, plural(downloads.expected, "file"), format_transfer(downloads));
    match (progress.selected, downloads.expected) {
        (0, _) => files,
        (_, 0) => tasks,
        _ => format!("{tasks}; {files}"),
    }
}

fn format_asset(task_id: &str, clip_id: Option<&str>, kind: AssetKind) -> String {
    format!("{task_id}: {kind} of clip {}", http::excerpt(clip_id.unwrap_or("without an ID")))
}
