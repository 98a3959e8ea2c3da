//! Renders each event as a sentence.

use super::messages::{duration, plural, rest, size, transfer};
use crate::{
    asset::{AssetKind, AssetStatus},
    event::{Checking, Event, Rewriting},
    http,
};

/// The importance of a sentence, which determines the users who see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Shown to every user.
    Warning,
    /// Shown to users who follow the run.
    Milestone,
    /// Shown to users who want a line per task.
    Detail,
}

/// Returns the sentence for an event, or `None` if the event is only counted.
pub(super) fn sentence(event: &Event) -> Option<(Weight, String)> {
    use Weight::{Detail, Milestone, Warning};
    Some(match event {
        Event::DoubtfulHeader => {
            (Warning, "the first row is taken as the header; if it is a task ID, add --no-headers".into())
        }
        Event::Delimiter { delimiter: '\t' } => (Warning, "the list's fields are delimited by tabs".into()),
        Event::Delimiter { delimiter } => (Warning, format!("the list's fields are delimited by `{delimiter}`")),
        Event::EmptyList => (Warning, "the list is empty: it has no row but the header".into()),
        Event::TrailingGarbage => {
            (Warning, "ignored trailing garbage after the end of the gzip stream, as `gzip -d` does".into())
        }
        Event::BadRow { line, reason } => (Warning, format!("skipped line {line}: {reason}")),
        Event::Started { run_id, archive, .. } => (Milestone, format!("run {run_id} into {archive}")),
        Event::Resuming { run_id, tasks } => {
            (Milestone, format!("run {run_id} was cut short: downloading the files of {}", plural(*tasks, "task")))
        }
        Event::Recovered { run_id, tasks, damaged: 0, .. } => (
            Milestone,
            format!("archived {} that run {run_id} had fetched before it was cut short", plural(*tasks, "task")),
        ),
        Event::Recovered { run_id, tasks, damaged, .. } => (
            Warning,
            format!(
                "archived {} that run {run_id} had fetched; records of its journal are damaged ({damaged}): \
                 their tasks are fetched again, and the journal is quarantined in .sunor/damaged",
                plural(*tasks, "task")
            ),
        ),
        Event::Planned(planned) => (
            Milestone,
            format!("{} to fetch, {} already archived", plural(planned.selected, "task"), planned.already_archived),
        ),
        Event::Requested { .. } | Event::Published(_) | Event::Finished { .. } => return None,
        Event::Answered { task_id, status } => (Detail, format!("{task_id}: {status}")),
        Event::Unfinished { task_id, status } => {
            (Detail, format!("{task_id}: unfinished, {}", status.as_deref().unwrap_or("no status")))
        }
        Event::AssetSettled { task_id, clip_id, kind, status: AssetStatus::Failed, error, .. } => {
            let why = error.as_deref().unwrap_or_default();
            (Warning, format!("{}: {why}", asset(task_id, clip_id.as_deref(), *kind)))
        }
        Event::AssetSettled { task_id, clip_id, kind, status, .. } => {
            (Detail, format!("{}: {}", asset(task_id, clip_id.as_deref(), *kind), status.as_str()))
        }
        Event::AssetRetrying { task_id, clip_id, kind, reason, wait_seconds } => {
            (Detail, format!("{}: {reason}; retrying in {wait_seconds:.1}s", asset(task_id, clip_id.as_deref(), *kind)))
        }
        Event::HostDown { host, reason } => {
            (Warning, format!("{host} is down ({reason}): its files are left to the next run"))
        }
        Event::IdenticalTakes { task_id, clips } => (
            Warning,
            format!(
                "{task_id}: the CDN serves the same bytes for different takes: {}",
                http::excerpt(&clips.join(", "))
            ),
        ),
        Event::Retrying { task_id, reason, wait_seconds } => {
            (Detail, format!("{task_id}: {reason}; retrying in {wait_seconds:.1}s"))
        }
        Event::RateLimited { wait_seconds } => (
            Warning,
            format!("the provider's rate limit is reached (429): nothing is sent for {}", duration(*wait_seconds)),
        ),
        Event::NoneFound { answers } => {
            (Warning, format!("none of {answers} tasks was found so far. Does the key belong to a different account?"))
        }
        Event::StillNotFound { tasks } => (Milestone, format!("still not found: {}", plural(*tasks, "task"))),
        Event::AssetsLacking { tasks: 1 } => {
            (Milestone, "1 archived task lacks assets: its stored response has the URLs".into())
        }
        Event::AssetsLacking { tasks } => {
            (Milestone, format!("{tasks} archived tasks lack assets: their stored responses have the URLs"))
        }
        Event::Salvaged { task_id, reason } => (Detail, format!("{task_id}: salvaged from a damaged part, {reason}")),
        Event::Stopping { reason } => (Warning, reason.clone()),
        Event::Missing { task_id, reason, detail } => (Detail, format!("{task_id}: {}, {detail}", reason.as_str())),
        Event::Checked { path } => (Detail, format!("{path}: checked")),
        Event::Checking(Checking { what, done, of, bytes }) => {
            (Milestone, format!("{done} of {of} {what} checked, {}", size(*bytes)))
        }
        Event::Rewriting(Rewriting { table, what, done, of }) => (Milestone, format!("{table}: {done} of {of} {what}")),
        Event::Rewritten { table, removed, parts } => (Milestone, format!("{table}: {removed} parts are {parts} now")),
        Event::Progress(progress) => {
            let percent = 100 * progress.settled / progress.selected.max(1);
            let tasks = format!("{} of {} tasks ({percent} %){}", progress.settled, progress.selected, rest(progress));
            let downloads = &progress.downloads;
            let files = format!("{} of {} files{}", downloads.settled, downloads.wanted, transfer(downloads));
            let line = match (progress.selected, downloads.wanted) {
                (0, _) => files,
                (_, 0) => tasks,
                _ => format!("{tasks}; {files}"),
            };
            (Milestone, line)
        }
    })
}

fn asset(task_id: &str, clip_id: Option<&str>, kind: AssetKind) -> String {
    format!("{task_id}: {kind} of clip {}", http::excerpt(clip_id.unwrap_or("without an ID")))
}
