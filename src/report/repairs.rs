//! Formats the closing message of a repair or of its dry run.

use std::fmt::Write;

use super::messages::{format_requests, format_rows, join_counts, plural, size, write_line};
use crate::{
    repair::{Interruption, Plan, RepairOutcome},
    run_summary::RunSummary,
    verify::Finding,
};

/// The maximum number of tasks or findings to list.
const MAX_LISTED: usize = 20;

/// Formats the plan of a repair, for a dry run.
pub(crate) fn repair_plan_table(plan: &Plan, archive: &str) -> String {
    let mut text = String::from("Dry run: nothing was sent, and nothing was changed\n\n");
    write_line(&mut text, "archive", archive);
    write_plan(&mut text, plan);
    write_line(&mut text, "requests", &planned_requests(plan));
    write_unrepairable(&mut text, &plan.unrepairable);
    write_lost(&mut text, plan, "to be moved");
    text
}

/// Formats the outcome of a repair.
pub(crate) fn repair_table(outcome: &RepairOutcome, run: &RunSummary, archive: &str) -> String {
    let RepairOutcome {
        plan,
        restored,
        failed,
        recovered,
        downloaded: (files, bytes),
        still_journalled: problems,
        interruption,
        missing_list_path: list,
    } = outcome;
    let other_problems =
        usize::from(plan.has_more) + plan.truncated_parts.len() + plan.run_files.len() + usize::from(*problems > 0);
    let mut text = match (interruption, plan.is_empty(), failed.len() + plan.unrepairable.len() + other_problems) {
        (Some(interruption), ..) => {
            let cause = match interruption {
                Interruption::Signal(signal) => signal.to_string(),
                Interruption::DeadlineReached => "--stop-after".into(),
            };
            format!("Stopped by {cause}: completed repairs are kept; rerun `repair` for the rest\n\n")
        }
        (None, true, 0) => String::from("Nothing to repair\n\n"),
        (None, _, 0) => String::from("Repair complete\n\n"),
        (None, _, problems) => format!("Repair incomplete: {} left\n\n", plural(problems as u64, "problem")),
    };
    write_line(&mut text, "archive", archive);
    write_plan(&mut text, plan);
    if *recovered > 0 {
        let recovered = plural(*recovered, "task");
        write_line(&mut text, "recovered", &format!("{recovered} from an interrupted run"));
    }
    if !plan.tasks.is_empty() {
        write_line(&mut text, "repaired", &plural(*restored, "task"));
        write_line(&mut text, "rows", &format_rows(run));
        write_line(&mut text, "downloads", &format!("{}, {}", plural(*files, "file"), size(*bytes)));
        let rest = (plan.tasks.len() as u64).saturating_sub(restored + failed.len() as u64);
        if rest > 0 {
            write_line(&mut text, "remaining", &plural(rest, "task"));
        }
    }
    write_line(&mut text, "requests", &format_requests(run));
    if !failed.is_empty() {
        let _ = writeln!(text, "\nNot repaired: {}", plural(failed.len() as u64, "task"));
        for (task, reason) in failed.iter().take(MAX_LISTED) {
            let _ = writeln!(text, "  {task}: {reason}");
        }
        if failed.len() > MAX_LISTED {
            let _ = writeln!(text, "  and {} more", failed.len() - MAX_LISTED);
        }
        text.push_str("Rerun `repair` later.\n");
    }
    if let Some(list) = list {
        let _ = writeln!(text, "\nTasks that are still lost are listed in\n  {archive}/{list}");
    }
    write_unrepairable(&mut text, &plan.unrepairable);
    write_lost(&mut text, plan, "moved");
    if plan.has_more {
        text.push_str("\nThere are more findings than one repair can handle. Rerun `repair`.\n");
    }
    if *problems > 0 {
        let _ = writeln!(
            text,
            "\nStill in the journal: {} from earlier runs with incomplete downloads. The next run resumes them.",
            plural(*problems, "task")
        );
    }
    text
}

fn write_plan(text: &mut String, plan: &Plan) {
    let parts = plan.parts.values().map(|parts| parts.len() as u64).sum();
    let (media, run_files) = (plan.media.len() as u64, plan.run_files.len() as u64);
    let strays = plan.strays.len() as u64;
    let to_quarantine = [(parts, "part"), (media, "media file"), (run_files, "run file"), (strays, "stray file")];
    let moved = match to_quarantine.iter().map(|(count, _)| count).sum() {
        0 => "none".into(),
        1.. => format!("{} → .sunor/damaged", join_plural_counts(&to_quarantine)),
    };
    write_line(text, "damaged", &moved);
    let (manifests, unlisted) = (plan.manifests.len() as u64, plan.unlisted.len() as u64);
    let to_list = if unlisted == 1 { "file to list" } else { "files to list" };
    write_line(text, "manifests", &join_counts(&[(unlisted, to_list), (manifests, "to rewrite")]));
    if plan.rewrite_checksums {
        write_line(text, "checksums", "to rewrite");
    }
    let tasks = plan.tasks.len() as u64;
    let lost = plan.lost.len() as u64;
    write_line(text, "tasks", &join_counts(&[(tasks - lost, "from stored responses"), (lost, "to fetch")]));
    if plan.failed_assets > 0 {
        write_line(text, "assets", &format!("{} to retry (failed in earlier runs)", plan.failed_assets));
    }
}

fn planned_requests(plan: &Plan) -> String {
    let at_most = plan.tasks.len();
    match (plan.lost.len(), at_most) {
        (_, 0) => "none".into(),
        (lost, at_most) if lost == at_most => lost.to_string(),
        (0, at_most) => format!("up to {at_most}, if URLs have expired"),
        (lost, at_most) => format!("at least {lost}, up to {at_most} if URLs have expired"),
    }
}

fn write_unrepairable(text: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    text.push_str("\nCannot be repaired automatically:\n");
    for finding in findings.iter().take(MAX_LISTED) {
        let _ = writeln!(text, "  {} {}\n    → {}", finding.path, finding.description, finding.advice);
    }
    if findings.len() > MAX_LISTED {
        let _ = writeln!(text, "  and {} more; run `verify --json` to list them", findings.len() - MAX_LISTED);
    }
}

/// Lists the nonzero counts, each with its noun in the singular or plural.
fn join_plural_counts(counts: &[(u64, &str)]) -> String {
    let texts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| plural(*n, word)).collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

fn write_lost(text: &mut String, plan: &Plan, moved: &str) {
    if !plan.run_files.is_empty() {
        let _ = writeln!(
            text,
            "\nThese files cannot be regenerated, but nothing depends on them ({moved} to .sunor/damaged):"
        );
        for path in plan.run_files.iter().take(MAX_LISTED) {
            let _ = writeln!(text, "  {path}");
        }
    }
    for part in &plan.truncated_parts {
        let _ = writeln!(
            text,
            "\n{part} could not be read completely, so some lost tasks cannot be identified. Export your lists again."
        );
    }
}
