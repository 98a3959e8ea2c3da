//! Reads rows of an archive's tables, one part after another. Memory holds a batch of rows. All of it blocks.

use crate::{
    archive::Archive,
    error::Result,
    tables::{self, Row},
};

/// Calls `row` with these columns of each row of a table.
pub(crate) fn scan_table(archive: &Archive, table: &str, columns: &[&str], row: Row<'_>) -> Result<()> {
    archive.parts(table)?.iter().try_for_each(|path| scan_part(archive, path, columns, row))
}

/// Calls `row` with these columns of each row of a part.
pub(crate) fn scan_part(archive: &Archive, path: &str, columns: &[&str], row: Row<'_>) -> Result<()> {
    archive.read_part(path, |file| tables::scan(file, archive.format, columns, row))
}

/// The same for the rows of a table with one of these values in a column of texts: row groups without them are skipped.
/// Other rows are passed too.
pub(crate) fn search_table<'v>(
    archive: &Archive,
    table: &str,
    columns: &[&str],
    sought: &(&str, impl ExactSizeIterator<Item = &'v str> + Clone),
    row: Row<'_>,
) -> Result<()> {
    archive.parts(table)?.iter().try_for_each(|path| search_part(archive, path, columns, sought, row))
}

/// The same for the rows of a part.
pub(crate) fn search_part<'v>(
    archive: &Archive,
    path: &str,
    columns: &[&str],
    sought: &(&str, impl ExactSizeIterator<Item = &'v str> + Clone),
    row: Row<'_>,
) -> Result<()> {
    archive.read_part(path, |file| tables::scan_for(file, archive.format, columns, sought.clone(), row))
}

/// The number of rows of a table.
pub(crate) fn count_rows(archive: &Archive, table: &str) -> Result<u64> {
    let count = |path: &String| archive.read_part(path, |file| tables::count_rows(file, archive.format));
    archive.parts(table)?.iter().map(count).sum()
}
