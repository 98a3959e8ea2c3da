//! Formats the report of a check: the numbers of checked files and rows, the findings, and advice.

use std::fmt::Write;

use super::messages::{duration, line, listed, plural, size};
use crate::verify::{Checked, Depth, Finding, Kind, Report, Severity};

/// The maximum number of findings of one kind to list.
const NAMED: usize = 20;

/// Formats the report of a check as text.
pub(crate) fn verify_table(report: &Report) -> String {
    let checked = &report.checked;
    let mut text = format!("Checked {} in {}\n\n", report.archive, duration(checked.seconds));
    line(&mut text, "bytes", &depth_words(checked));
    let rows = &checked.rows;
    let rows =
        listed(&[(rows.tasks, "tasks"), (rows.clips, "clips"), (rows.lyrics, "lyrics"), (rows.assets, "assets")]);
    line(&mut text, "parts", &format!("{}, rows: {rows}", checked.parts));
    line(&mut text, "files", &checked.files.to_string());
    for (severity, title) in [(Severity::Damage, "Damage"), (Severity::Note, "Notes")] {
        section(&mut text, report, severity, title);
    }
    let _ = writeln!(text, "\n{}", closing(report));
    text
}

fn depth_words(checked: &Checked) -> String {
    let read = size(checked.bytes);
    match checked.depth {
        Depth::Full => format!("{read}, all of them"),
        Depth::Quick => "none: whether files are there, and their sizes".into(),
        Depth::Sample(share) => format!("{read}, {} % of the files, chosen at random", share.percent()),
        Depth::Slice(slice) => format!("{read}, slice {} of {}", slice.index, slice.of),
    }
}

fn section(text: &mut String, report: &Report, severity: Severity, title: &str) {
    let kinds = report.kinds.iter().filter(|(kind, _)| kind.severity() == severity);
    for (place, (kind, count)) in kinds.enumerate() {
        if place == 0 {
            let _ = writeln!(text, "\n{title}:");
        }
        group(text, report.findings.iter().filter(|finding| finding.kind == *kind), *kind, *count);
    }
}

fn group<'a>(text: &mut String, findings: impl Iterator<Item = &'a Finding>, kind: Kind, count: u64) {
    let mut named = 0;
    for finding in findings.take(NAMED) {
        named += 1;
        let _ = writeln!(text, "  {} {}", finding.path, finding.what);
    }
    if count > named {
        let _ = writeln!(text, "  and {} more of this kind, named with --json", count - named);
    }
    let _ = writeln!(text, "    → {}", kind.advice());
}

fn closing(report: &Report) -> String {
    let notes = match report.notes {
        0 => String::new(),
        notes => format!(", {}", plural(notes, "note")),
    };
    match report.damage {
        0 => format!("No damage was found{notes}."),
        1 => format!("Damage was found in 1 place{notes}."),
        damage => format!("Damage was found in {damage} places{notes}."),
    }
}
