//! Formats the closing message of a repair or of its dry run.

use std::fmt::Write;

use super::messages::{line, listed, plural, request_words, row_words, size};
use crate::{
    repair::{Interruption, Plan, RepairOutcome},
    run_summary::RunSummary,
    verify::Finding,
};

/// The maximum number of tasks or findings to list.
const NAMED: usize = 20;

/// Formats the plan of a repair, for a dry run.
pub(crate) fn repair_plan_table(plan: &Plan, archive: &str) -> String {
    let mut text = String::from("Dry run: nothing was sent, and nothing was changed\n\n");
    line(&mut text, "archive", archive);
    plan_lines(&mut text, plan);
    line(&mut text, "requests", &planned_requests(plan));
    beyond(&mut text, &plan.beyond);
    lost(&mut text, plan);
    text
}

/// Formats the outcome of a repair.
pub(crate) fn repair_table(outcome: &RepairOutcome, run: &RunSummary, archive: &str) -> String {
    let RepairOutcome { plan, restored, failed, recovered, downloaded: (files, bytes), left, interruption, list } =
        outcome;
    let more = usize::from(plan.has_more) + plan.unknown.len() + plan.run_files.len() + usize::from(*left > 0);
    let mut text = match (interruption, plan.is_empty(), failed.len() + plan.beyond.len() + more) {
        (Some(interruption), ..) => {
            let by = match interruption {
                Interruption::Signal(signal) => signal.to_string(),
                Interruption::TimeIsUp => "--stop-after".into(),
            };
            format!("Stopped by {by}: completed repairs are kept; run repair again for the rest\n\n")
        }
        (None, true, 0) => String::from("Nothing to repair\n\n"),
        (None, _, 0) => String::from("Repair complete\n\n"),
        (None, _, left) => format!("Repair incomplete: {} left\n\n", plural(left as u64, "problem")),
    };
    line(&mut text, "archive", archive);
    plan_lines(&mut text, plan);
    if *recovered > 0 {
        let recovered = plural(*recovered, "task");
        line(&mut text, "recovered", &format!("{recovered} that a run which was cut short had fetched"));
    }
    if !plan.tasks.is_empty() {
        line(&mut text, "repaired", &plural(*restored, "task"));
        line(&mut text, "rows", &row_words(run));
        line(&mut text, "downloads", &format!("{}, {}", plural(*files, "file"), size(*bytes)));
    }
    line(&mut text, "requests", &request_words(run));
    if !failed.is_empty() {
        let _ = writeln!(text, "\nNot repaired: {}", plural(failed.len() as u64, "task"));
        for (task, reason) in failed.iter().take(NAMED) {
            let _ = writeln!(text, "  {task}: {reason}");
        }
        if failed.len() > NAMED {
            let _ = writeln!(text, "  and {} more", failed.len() - NAMED);
        }
        text.push_str("Run repair again later.\n");
    }
    if let Some(list) = list {
        let _ = writeln!(text, "\nTasks that are still lost are listed in\n  {archive}/{list}");
    }
    beyond(&mut text, &plan.beyond);
    lost(&mut text, plan);
    if plan.has_more {
        text.push_str("\nMore was found than one repair takes: run it again.\n");
    }
    if *left > 0 {
        let _ =
            writeln!(text, "\nIn the journal {} of an earlier run still wait for their files.", plural(*left, "task"));
    }
    text
}

fn plan_lines(text: &mut String, plan: &Plan) {
    let parts = plan.parts.values().map(|parts| parts.len() as u64).sum();
    let (media, run_files) = (plan.media.len() as u64, plan.run_files.len() as u64);
    let strays = plan.strays.len() as u64;
    let aside = [(parts, "part"), (media, "media file"), (run_files, "run file"), (strays, "stray file")];
    let moved = match aside.iter().map(|(count, _)| count).sum() {
        0 => "none".into(),
        1.. => format!("{} → .sunor/damaged", counted(&aside)),
    };
    line(text, "damaged", &moved);
    let manifests = plan.manifests.len() as u64;
    line(text, "manifests", &listed(&[(plan.unlisted.len() as u64, "files to list"), (manifests, "to rewrite")]));
    if plan.checksums {
        line(text, "checksums", "to rewrite");
    }
    let tasks = plan.tasks.len() as u64;
    let lost = plan.lost.len() as u64;
    line(text, "tasks", &listed(&[(tasks - lost, "from stored responses"), (lost, "to fetch")]));
    if plan.failed_assets > 0 {
        line(text, "assets", &format!("{} that failed in earlier runs", plan.failed_assets));
    }
}

fn planned_requests(plan: &Plan) -> String {
    let at_most = plan.tasks.len();
    match (plan.lost.len(), at_most) {
        (_, 0) => "none".into(),
        (lost, at_most) if lost == at_most => lost.to_string(),
        (0, at_most) => format!("up to {at_most}, if URLs have expired"),
        (lost, at_most) => format!("{lost} at least, {at_most} if every URL has expired"),
    }
}

fn beyond(text: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    text.push_str("\nCannot be repaired here:\n");
    for finding in findings.iter().take(NAMED) {
        let _ = writeln!(text, "  {} {}\n    → {}", finding.path, finding.what, finding.advice);
    }
    if findings.len() > NAMED {
        let _ = writeln!(text, "  and {} more, named by verify --json", findings.len() - NAMED);
    }
}

/// Lists the counts that are not zero, with singular or plural nouns.
fn counted(counts: &[(u64, &str)]) -> String {
    let some: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| plural(*n, word)).collect();
    if some.is_empty() { "none".into() } else { some.join(", ") }
}

fn lost(text: &mut String, plan: &Plan) {
    if !plan.run_files.is_empty() {
        text.push_str("\nCannot be regenerated, and nothing depends on it; moved to .sunor/damaged:\n");
        for path in plan.run_files.iter().take(NAMED) {
            let _ = writeln!(text, "  {path}");
        }
    }
    for part in &plan.unknown {
        let _ = writeln!(
            text,
            "\n{part} could not be read to its end: tasks that only it knew cannot be named. Export your lists again."
        );
    }
}
