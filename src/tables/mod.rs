//! Defines the tables: their columns, the conversion of responses to rows, and the encoding of rows as files.
//!
//! The columns of each table are defined only in [`schema`]. The CSV and Parquet encoders, the views and the readers
//! all use these definitions. The `archive` module decides where and when a file is written.

mod copy;
mod csv;
mod digest;
mod flatten;
mod inspect;
mod parquet;
mod part;
mod prune;
mod reader;
mod schema;
mod sort;
mod views;

pub(crate) use copy::PartCopier;
pub(crate) use digest::Digest;
pub(crate) use flatten::{ClipUrls, FetchInfo, Rows, clip_urls, flatten, not_found_row, task_times};
pub(crate) use inspect::{ColumnDiff, catch_panic, compare_columns, decode};
pub(crate) use parquet::RowGroups;
pub(crate) use part::PartEncoder;
pub(crate) use prune::absent_values;
pub(crate) use reader::{RowCallback, count_rows, scan, scan_matching};
pub(crate) use schema::{ASSETS, CLIPS, LYRICS, TABLES, TASK_ID, TASKS, Table, TableSchema, schemas};
pub(crate) use schema::{AssetRow, ClipRow, LyricsRow, TaskRow};
pub(crate) use sort::{Chunk, TimeSorter};
pub(crate) use views::views_sql;
