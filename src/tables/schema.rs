//! Defines the columns of every table: their names, types, order and values. New columns may only be appended to a
//! table. Existing columns are never renamed or moved, and their types never change.

use crate::{
    asset::{Asset, AssetKind, AssetStatus},
    run_id::RunId,
    status::FinalStatus,
    timestamp::MicrosTimestamp,
};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Text,
    /// JSON text, as sent by the provider.
    Json,
    Double,
    Int32,
    Int64,
    Boolean,
    /// A time in UTC with microsecond precision.
    Time,
}

/// The value of one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    /// A value of a text or JSON column.
    Text(&'a str),
    Double(f64),
    Int32(i32),
    Int64(i64),
    Boolean(bool),
    Time(MicrosTimestamp),
}

/// A column of a table whose rows have the type `R`.
pub(crate) struct Column<R: 'static> {
    pub(crate) name: &'static str,
    pub(crate) data_type: ColumnType,
    pub(crate) value: fn(&R) -> Value<'_>,
}

/// A table whose rows have the type `R`.
pub(crate) struct Table<R: 'static> {
    /// The name of the table. The table's folder, its DuckDB view, and its row count in a run summary have the same
    /// name.
    pub(crate) name: &'static str,
    /// The column by which the rows of large parts are sorted.
    pub(crate) sort_column: &'static str,
    pub(crate) columns: &'static [Column<R>],
}

impl<R> Table<R> {
    /// Returns the schema of the table, which is independent of the row type `R`.
    pub(crate) fn schema(&self) -> TableSchema {
        let columns = self.columns.iter().map(|column| (column.name, column.data_type)).collect();
        TableSchema { name: self.name, sort_column: self.sort_column, columns }
    }
}

/// The name, sort column and columns of a table, independent of the row type.
#[derive(Clone)]
pub(crate) struct TableSchema {
    pub(crate) name: &'static str,
    pub(crate) sort_column: &'static str,
    pub(crate) columns: Vec<(&'static str, ColumnType)>,
}

/// A row of the tasks table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskRow {
    pub(crate) task_id: String,
    pub(crate) model: Option<String>,
    pub(crate) r#type: Option<String>,
    pub(crate) status: FinalStatus,
    pub(crate) credits_cost: Option<f64>,
    pub(crate) prompt: Option<String>,
    pub(crate) instrumental: Option<bool>,
    pub(crate) error: Option<String>,
    pub(crate) progress: Option<String>,
    pub(crate) clip_count: i32,
    pub(crate) created_at: Option<MicrosTimestamp>,
    pub(crate) completed_at: Option<MicrosTimestamp>,
    pub(crate) fetched_at: MicrosTimestamp,
    pub(crate) run_id: RunId,
    pub(crate) input: Option<String>,
    pub(crate) response: Option<String>,
}

/// A row of the clips table, created from the `result` of a music, upload or concat task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClipRow {
    pub(crate) clip_id: Option<String>,
    pub(crate) task_id: String,
    pub(crate) clip_index: i32,
    pub(crate) model: Option<String>,
    pub(crate) r#type: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) duration_seconds: Option<f64>,
    pub(crate) tags: Option<String>,
    pub(crate) lyrics: Option<String>,
    pub(crate) model_version: Option<String>,
    pub(crate) audio_url: Option<String>,
    pub(crate) image_url: Option<String>,
    pub(crate) video_url: Option<String>,
    pub(crate) created_at: Option<MicrosTimestamp>,
    pub(crate) completed_at: Option<MicrosTimestamp>,
    pub(crate) fetched_at: MicrosTimestamp,
    pub(crate) run_id: RunId,
    pub(crate) metadata: Option<String>,
    pub(crate) clip: String,
}

/// A row of the lyrics table, created from the `result` of a lyrics task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LyricsRow {
    pub(crate) task_id: String,
    pub(crate) model: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) created_at: Option<MicrosTimestamp>,
    pub(crate) completed_at: Option<MicrosTimestamp>,
    pub(crate) fetched_at: MicrosTimestamp,
    pub(crate) run_id: RunId,
    pub(crate) result: String,
}

/// A row of the assets table: the audio, cover or video of a clip.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AssetRow {
    pub(crate) task_id: String,
    pub(crate) clip_id: Option<String>,
    pub(crate) kind: AssetKind,
    pub(crate) url: Option<String>,
    pub(crate) status: AssetStatus,
    pub(crate) path: Option<String>,
    pub(crate) bytes: Option<i64>,
    pub(crate) sha256: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) http_status: Option<i32>,
    pub(crate) attempts: i32,
    pub(crate) error: Option<String>,
    pub(crate) downloaded_at: Option<MicrosTimestamp>,
    pub(crate) run_id: RunId,
}

impl AssetRow {
    /// Creates the row for an asset of a task.
    pub(crate) fn new(task_id: String, run_id: RunId, asset: Asset) -> Self {
        Self {
            task_id,
            clip_id: asset.clip_id,
            kind: asset.kind,
            url: asset.url,
            status: asset.status,
            path: asset.path,
            bytes: asset.bytes.and_then(|bytes| i64::try_from(bytes).ok()),
            sha256: asset.sha256,
            content_type: asset.content_type,
            http_status: asset.http_status.map(i32::from),
            attempts: i32::try_from(asset.attempts).unwrap_or(i32::MAX),
            error: asset.error,
            downloaded_at: asset.downloaded_at.map(MicrosTimestamp::from),
            run_id,
        }
    }
}

/// Defines columns with the same names as the fields of the row type.
macro_rules! columns {
    ($row:ty { $($field:ident: $kind:ident,)* }) => {
        &[$(Column::<$row> {
            name: name(stringify!($field)),
            data_type: ColumnType::$kind,
            value: |row| row.$field.value(),
        },)*]
    };
}

/// Converts a field name to a column name. The field `r#type` becomes the column `type`.
const fn name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// The tasks table, with one row per task.
pub(crate) static TASKS: Table<TaskRow> = Table {
    name: "tasks",
    sort_column: "created_at",
    columns: columns!(TaskRow {
        task_id: Text,
        model: Text,
        r#type: Text,
        status: Text,
        credits_cost: Double,
        prompt: Text,
        instrumental: Boolean,
        error: Text,
        progress: Text,
        clip_count: Int32,
        created_at: Time,
        completed_at: Time,
        fetched_at: Time,
        run_id: Text,
        input: Json,
        response: Json,
    }),
};

/// The clips table, with one row per clip.
pub(crate) static CLIPS: Table<ClipRow> = Table {
    name: "clips",
    sort_column: "created_at",
    columns: columns!(ClipRow {
        clip_id: Text,
        task_id: Text,
        clip_index: Int32,
        model: Text,
        r#type: Text,
        title: Text,
        duration_seconds: Double,
        tags: Text,
        lyrics: Text,
        model_version: Text,
        audio_url: Text,
        image_url: Text,
        video_url: Text,
        created_at: Time,
        completed_at: Time,
        fetched_at: Time,
        run_id: Text,
        metadata: Json,
        clip: Json,
    }),
};

/// The lyrics table, with one row per lyrics task that has a result.
pub(crate) static LYRICS: Table<LyricsRow> = Table {
    name: "lyrics",
    sort_column: "created_at",
    columns: columns!(LyricsRow {
        task_id: Text,
        model: Text,
        title: Text,
        text: Text,
        created_at: Time,
        completed_at: Time,
        fetched_at: Time,
        run_id: Text,
        result: Json,
    }),
};

/// The assets table, with one row per asset of a clip.
pub(crate) static ASSETS: Table<AssetRow> = Table {
    name: "assets",
    sort_column: "downloaded_at",
    columns: columns!(AssetRow {
        task_id: Text,
        clip_id: Text,
        kind: Text,
        url: Text,
        status: Text,
        path: Text,
        bytes: Int64,
        sha256: Text,
        content_type: Text,
        http_status: Int32,
        attempts: Int32,
        error: Text,
        downloaded_at: Time,
        run_id: Text,
    }),
};

/// The name of the task ID column, which every table has.
pub(crate) const TASK_ID: &str = "task_id";

/// The names of all tables, in the order in which parts are published. `tasks` is last, because a task counts as
/// archived as soon as its row in `tasks` exists.
pub(crate) const TABLES: [&str; 4] = ["lyrics", "clips", "assets", "tasks"];

/// Returns the schemas of all tables, in the order of [`TABLES`].
pub(crate) fn schemas() -> [TableSchema; 4] {
    [LYRICS.schema(), CLIPS.schema(), ASSETS.schema(), TASKS.schema()]
}

/// A field type that can be converted to a cell value.
trait Cell {
    fn value(&self) -> Value<'_>;
}

impl Cell for String {
    fn value(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl Cell for RunId {
    fn value(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
}

impl Cell for FinalStatus {
    fn value(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
}

impl Cell for AssetKind {
    fn value(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
}

impl Cell for AssetStatus {
    fn value(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
}

impl Cell for f64 {
    fn value(&self) -> Value<'_> {
        Value::Double(*self)
    }
}

impl Cell for i32 {
    fn value(&self) -> Value<'_> {
        Value::Int32(*self)
    }
}

impl Cell for i64 {
    fn value(&self) -> Value<'_> {
        Value::Int64(*self)
    }
}

impl Cell for bool {
    fn value(&self) -> Value<'_> {
        Value::Boolean(*self)
    }
}

impl Cell for MicrosTimestamp {
    fn value(&self) -> Value<'_> {
        Value::Time(*self)
    }
}

impl<T: Cell> Cell for Option<T> {
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the documented columns of a table, each with its name, Parquet type and CSV type.
    fn documented(table: &str) -> Vec<[String; 3]> {
        let text = include_str!("../../docs/archive-format.md");
        let (_, section) = text.split_once(&format!("\n### {table}\n")).unwrap();
        let rows = section.lines().skip_while(|line| !line.starts_with("| --- ")).skip(1);
        rows.take_while(|line| line.starts_with('|'))
            .map(|row| {
                let mut cells = row.split('|').skip(1).map(|cell| cell.trim().to_owned());
                [(); 3].map(|()| cells.next().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_documentation_lists_every_column_with_its_types() {
        for schema in [TASKS.schema(), CLIPS.schema(), LYRICS.schema(), ASSETS.schema()] {
            let expected_cells = |(name, kind): &(&str, ColumnType)| {
                let (parquet, csv) = match kind {
                    ColumnType::Text => ("`BYTE_ARRAY` (String)", "text"),
                    ColumnType::Json => ("`BYTE_ARRAY` (JSON)", "JSON"),
                    ColumnType::Double => ("`DOUBLE`", "decimal"),
                    ColumnType::Int32 => ("`INT32`", "integer"),
                    ColumnType::Int64 => ("`INT64`", "integer"),
                    ColumnType::Boolean => ("`BOOLEAN`", "`true`, `false`"),
                    ColumnType::Time => ("`INT64` (Timestamp, µs, UTC)", "time"),
                };
                [format!("`{name}`"), parquet.into(), csv.into()]
            };
            let expected: Vec<_> = schema.columns.iter().map(expected_cells).collect();
            assert_eq!(documented(schema.name), expected, "{}", schema.name);
        }
    }
}
