//! Formats the report of `verify`: the numbers of checked files and rows, the findings, and advice.

use std::fmt::Write;

use super::messages::{duration, format_row_counts, plural, size, write_line};
use crate::verify::{Checked, Depth, Finding, FindingKind, Report, Severity};

/// The maximum number of findings of one kind to list.
const MAX_LISTED: usize = 20;

/// Formats the report of `verify` as text.
pub(crate) fn verify_table(report: &Report) -> String {
    let checked = &report.checked;
    let mut text = format!("Checked {} in {}\n\n", report.archive, duration(checked.seconds));
    write_line(&mut text, "bytes", &format_depth(checked));
    let rows = &checked.rows;
    write_line(&mut text, "parts", &format!("{}, rows: {}", checked.parts, format_row_counts(rows)));
    write_line(&mut text, "files", &checked.files.to_string());
    for (severity, title) in [(Severity::Damage, "Damage"), (Severity::Note, "Notes")] {
        write_section(&mut text, report, severity, title);
    }
    let _ = writeln!(text, "\n{}", closing_line(report));
    text
}

fn format_depth(checked: &Checked) -> String {
    let read = size(checked.bytes);
    match checked.depth {
        Depth::Full => format!("{read} (all files)"),
        Depth::Quick => "none (checked only the presence and size of files)".into(),
        Depth::Sample(share) => format!("{read} ({} % of the files, chosen at random)", share.percent()),
        Depth::Slice(slice) => format!("{read} (slice {} of {})", slice.index, slice.count),
    }
}

fn write_section(text: &mut String, report: &Report, severity: Severity, title: &str) {
    let kinds = report.kinds.iter().filter(|(kind, _)| kind.severity() == severity);
    for (index, (kind, count)) in kinds.enumerate() {
        if index == 0 {
            let _ = writeln!(text, "\n{title}:");
        }
        write_findings(text, report.findings.iter().filter(|finding| finding.kind == *kind), *kind, *count);
    }
}

fn write_findings<'a>(text: &mut String, findings: impl Iterator<Item = &'a Finding>, kind: FindingKind, count: u64) {
    let mut listed = 0;
    for finding in findings.take(MAX_LISTED) {
        listed += 1;
        let _ = writeln!(text, "  {} {}", finding.path, finding.description);
    }
    if count > listed {
        let _ = writeln!(text, "  and {} more of this kind; use --json to list them", count - listed);
    }
    let _ = writeln!(text, "    → {}", kind.advice());
}

fn closing_line(report: &Report) -> String {
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
