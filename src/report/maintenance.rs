//! The closing messages of `compact` and `rebuild`, the commands that rewrite tables.

use std::fmt::Write;

use super::messages::{plural, size, write_line};

/// The result of compacting one table or, in a dry run, an estimate of the result.
#[derive(Clone, Debug)]
pub(crate) struct CompactedTable {
    pub(crate) table: &'static str,
    /// The number of merged parts.
    pub(crate) merged: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The number of new parts. In a dry run, `parts_after` is an estimate and `bytes_after` is an upper bound.
    pub(crate) parts_after: u64,
    pub(crate) bytes_after: u64,
    /// The number of parts that stay unchanged.
    pub(crate) unchanged: u64,
}

/// Formats the result of a compaction or of its dry run.
pub(crate) fn compact_table(tables: &[CompactedTable], archive: &str, is_dry_run: bool) -> String {
    if tables.iter().all(|table| table.merged == 0) {
        return format!("Nothing to compact in {archive}: no table has two or more small parts\n");
    }
    let mut text = headline("Compacted", archive, is_dry_run);
    for table in tables {
        write_line(&mut text, table.table, &format_compacted(table, is_dry_run));
    }
    text
}

fn format_compacted(table: &CompactedTable, is_dry_run: bool) -> String {
    let mut text = if table.merged == 0 {
        "nothing to do".to_owned()
    } else {
        let qualifier = if is_dry_run { "at most " } else { "" };
        format!(
            "{} of {}, {} → {}, {qualifier}{}",
            plural(table.merged, "part"),
            plural(table.rows, "row"),
            size(table.bytes),
            plural(table.parts_after, "part"),
            size(table.bytes_after)
        )
    };
    if table.unchanged > 0 {
        let _ = write!(text, "; {} unchanged", plural(table.unchanged, "part"));
    }
    text
}

/// The number of rows in a table before and after a rebuild.
#[derive(Clone, Debug)]
pub(crate) struct RebuiltTable {
    pub(crate) table: &'static str,
    pub(crate) rows: u64,
    pub(crate) rows_after: u64,
}

/// Formats the result of a rebuild or of its dry run.
pub(crate) fn rebuild_table(tables: &[RebuiltTable], archive: &str, tasks: u64, is_dry_run: bool) -> String {
    let mut text = headline("Rebuilt", archive, is_dry_run);
    write_line(&mut text, "from", &format!("the responses of {}", plural(tasks, "task")));
    for table in tables {
        write_line(
            &mut text,
            table.table,
            &format!("{} → {}", plural(table.rows, "row"), plural(table.rows_after, "row")),
        );
    }
    text
}

fn headline(done: &str, archive: &str, is_dry_run: bool) -> String {
    if is_dry_run { format!("Dry run: nothing was written to {archive}\n\n") } else { format!("{done} {archive}\n\n") }
}
