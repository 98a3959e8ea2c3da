//! Reads rows from the tables of an archive, one part at a time. Only one batch of rows is held in memory. All
//! functions are blocking.

use crate::{
    archive::Archive,
    error::Result,
    tables::{self, RowCallback},
};

/// Calls `row` with the given columns of each row in a table.
pub(crate) fn scan_table(archive: &Archive, table: &str, columns: &[&str], row: RowCallback<'_>) -> Result<()> {
    archive.parts(table)?.iter().try_for_each(|path| scan_part(archive, path, columns, row))
}

/// Calls `row` with the given columns of each row in a part.
pub(crate) fn scan_part(archive: &Archive, path: &str, columns: &[&str], row: RowCallback<'_>) -> Result<()> {
    archive.read_part(path, |file| tables::scan(file, archive.format, columns, row))
}

/// Calls `row` with the given columns of each row that may match `filter`, which consists of a text column and the
/// values to find. Row groups that contain none of these values are skipped. `row` may also be called for rows that do
/// not match the filter.
pub(crate) fn search_table<'v>(
    archive: &Archive,
    table: &str,
    columns: &[&str],
    filter: &(&str, impl ExactSizeIterator<Item = &'v str> + Clone),
    row: RowCallback<'_>,
) -> Result<()> {
    archive.parts(table)?.iter().try_for_each(|path| search_part(archive, path, columns, filter, row))
}

/// Searches one part. See [`search_table`].
pub(crate) fn search_part<'v>(
    archive: &Archive,
    path: &str,
    columns: &[&str],
    filter: &(&str, impl ExactSizeIterator<Item = &'v str> + Clone),
    row: RowCallback<'_>,
) -> Result<()> {
    archive.read_part(path, |file| tables::scan_matching(file, archive.format, columns, filter.clone(), row))
}

/// The number of rows in a table.
pub(crate) fn count_rows(archive: &Archive, table: &str) -> Result<u64> {
    let count = |path: &String| archive.read_part(path, |file| tables::count_rows(file, archive.format));
    archive.parts(table)?.iter().map(count).sum()
}
