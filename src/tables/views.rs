//! `views.sql`: DuckDB views over the tables, of the same types in either format.

use super::schema::{ASSETS, CLIPS, Kind, LYRICS, Outline, TASKS};
use crate::format::TableFormat;

/// The text of `views.sql`, its paths relative to the archive. `has_parts` tells which tables have any:
/// DuckDB refuses a pattern that nothing matches, so the others are views of no rows.
pub(crate) fn views_sql(format: TableFormat, has_parts: impl Fn(&str) -> bool) -> String {
    let outlines = [TASKS.outline(), CLIPS.outline(), LYRICS.outline(), ASSETS.outline()];
    let views: Vec<String> = outlines.iter().map(|outline| view(outline, format, has_parts(outline.name))).collect();
    format!("-- From inside this folder: duckdb -init views.sql\n\n{}", views.join("\n"))
}

fn view(outline: &Outline, format: TableFormat, has_parts: bool) -> String {
    let name = outline.name;
    let column = |(column, kind): &(&str, Kind)| {
        let source = if has_parts { format!("\"{column}\"") } else { "NULL".into() };
        format!("  {source}::{} AS \"{column}\"", sql_type(*kind))
    };
    let columns: Vec<String> = outline.columns.iter().map(column).collect();
    let rows = match format {
        _ if !has_parts => "WHERE false".into(),
        TableFormat::Parquet => format!("FROM read_parquet('{name}/*.parquet')"),
        TableFormat::Csv => format!(
            "FROM read_csv('{name}/*.csv', header = true, all_varchar = true, allow_quoted_nulls = false, max_line_size = 134217728)"
        ),
    };
    format!("CREATE OR REPLACE VIEW {name} AS SELECT\n{}\n{rows};\n", columns.join(",\n"))
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "VARCHAR",
        Kind::Json => "JSON",
        Kind::Double => "DOUBLE",
        Kind::Int32 => "INTEGER",
        Kind::Int64 => "BIGINT",
        Kind::Boolean => "BOOLEAN",
        Kind::Time => "TIMESTAMPTZ",
    }
}
