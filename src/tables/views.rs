//! Generates `views.sql`, which defines DuckDB views of the tables. The views of Parquet and CSV archives have the same
//! column types.

use super::schema::{ASSETS, CLIPS, ColumnType, LYRICS, TASKS, TableSchema};
use crate::format::TableFormat;

/// The comment at the beginning of `views.sql`.
const USAGE: &str = "\
-- From inside this folder: duckdb -init views.sql
-- From anywhere: SET VARIABLE archive = '<path or URL of this folder>'; before reading this file
";

/// The prefix of all paths, as a DuckDB expression: the variable `archive` if it is set, or else the current folder.
const PREFIX: &str = "coalesce(getvariable('archive')::VARCHAR || '/', '')";

/// Returns the contents of `views.sql`. `has_parts` returns whether a table has
/// parts. DuckDB rejects a glob pattern that matches no file, so the view of a table without parts reads no files.
pub(crate) fn views_sql(format: TableFormat, has_parts: impl Fn(&str) -> bool) -> String {
    let schemas = [TASKS.schema(), CLIPS.schema(), LYRICS.schema(), ASSETS.schema()];
    let views: Vec<String> = schemas.iter().map(|schema| view(schema, format, has_parts(schema.name))).collect();
    format!("{USAGE}\n{}\n{SONGS}", views.join("\n"))
}

/// Defines the view `songs`, which joins the views of the tables. A clip without an ID is matched with its assets by
/// task and URL. Clips of the same task with the same ID share their files.
const SONGS: &str = "\
CREATE OR REPLACE VIEW songs AS
WITH files AS (
  SELECT task_id, clip_id, kind, CASE WHEN coalesce(clip_id, '') = '' THEN url END AS url, max(path) AS path
  FROM assets WHERE status = 'ok' GROUP BY ALL
)
SELECT
  clips.clip_id,
  clips.title,
  clips.duration_seconds,
  clips.tags,
  clips.model,
  clips.created_at,
  clips.task_id,
  tasks.prompt,
  clips.lyrics,
  audio.path AS audio_path,
  cover.path AS cover_path
FROM clips
LEFT JOIN tasks ON tasks.task_id = clips.task_id
LEFT JOIN files AS audio ON audio.kind = 'audio' AND audio.task_id = clips.task_id
  AND audio.clip_id IS NOT DISTINCT FROM clips.clip_id
  AND audio.url IS NOT DISTINCT FROM CASE WHEN coalesce(clips.clip_id, '') = '' THEN clips.audio_url END
LEFT JOIN files AS cover ON cover.kind = 'image' AND cover.task_id = clips.task_id
  AND cover.clip_id IS NOT DISTINCT FROM clips.clip_id
  AND cover.url IS NOT DISTINCT FROM CASE WHEN coalesce(clips.clip_id, '') = '' THEN clips.image_url END;
";

fn view(schema: &TableSchema, format: TableFormat, has_parts: bool) -> String {
    let name = schema.name;
    let column = |(column, kind): &(&str, ColumnType)| {
        let source = if has_parts { format!("\"{column}\"") } else { "NULL".into() };
        format!("  {source}::{} AS \"{column}\"", sql_type(*kind))
    };
    let columns: Vec<String> = schema.columns.iter().map(column).collect();
    let rows = match format {
        _ if !has_parts => "WHERE false".into(),
        TableFormat::Parquet => format!("FROM read_parquet({PREFIX} || '{name}/*.parquet')"),
        TableFormat::Csv => format!(
            "FROM read_csv({PREFIX} || '{name}/*.csv', header = true, all_varchar = true, allow_quoted_nulls = false, max_line_size = 134217728)"
        ),
    };
    format!("CREATE OR REPLACE VIEW {name} AS SELECT\n{}\n{rows};\n", columns.join(",\n"))
}

fn sql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text => "VARCHAR",
        ColumnType::Json => "JSON",
        ColumnType::Double => "DOUBLE",
        ColumnType::Int32 => "INTEGER",
        ColumnType::Int64 => "BIGINT",
        ColumnType::Boolean => "BOOLEAN",
        ColumnType::Time => "TIMESTAMPTZ",
    }
}
