//! Checks whether a part has the columns of its table and whether every value can be decoded. Decoders may panic on
//! damaged data, so panics are converted to errors.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
};

use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescriptor,
};

use super::{
    parquet::parquet_schema,
    schema::{ColumnType, TableSchema},
};
use crate::{format::TableFormat, ranged::RangedFile, timestamp::MicrosTimestamp};

/// The result of comparing the columns of a part with the columns of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ColumnDiff {
    Same,
    /// The number of missing columns at the end of a part that an older version of the program wrote.
    Missing(usize),
    /// The number of additional columns at the end of the part.
    Extra(usize),
    /// A description of the first column that does not match the table.
    Mismatch(String),
}

/// Compares the columns of a part with the columns of its table by name, order and, for Parquet, physical and logical
/// type.
pub(crate) fn compare_columns(file: RangedFile, format: TableFormat, schema: &TableSchema) -> io::Result<ColumnDiff> {
    catch_panic(|| match format {
        TableFormat::Parquet => parquet_columns(file, schema),
        TableFormat::Csv => csv_columns(file, schema),
    })
}

/// Decodes every value of a part, and returns the number of rows. The columns of the part must match the columns of its
/// table.
pub(crate) fn decode(file: RangedFile, format: TableFormat, schema: &TableSchema) -> io::Result<u64> {
    catch_panic(|| match format {
        TableFormat::Parquet => decode_parquet(file),
        TableFormat::Csv => decode_csv(file, schema),
    })
}

/// Calls `read`, which may panic on damaged data, and converts a panic to an error.
pub(crate) fn catch_panic<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(io::Error::other("its contents are invalid")))
}

fn parquet_columns(file: RangedFile, schema: &TableSchema) -> io::Result<ColumnDiff> {
    let expected = parquet_schema(schema).map_err(io::Error::other)?;
    let reader = SerializedFileReader::new(file).map_err(io::Error::other)?;
    let actual = reader.metadata().file_metadata().schema_descr();
    let mismatch =
        expected.columns().iter().zip(actual.columns()).find(|(expected, actual)| !is_same_column(expected, actual));
    Ok(match mismatch {
        Some((expected, actual)) => ColumnDiff::Mismatch(format!(
            "expected `{}` ({}), found `{}` ({})",
            expected.name(),
            type_name(expected),
            actual.name(),
            type_name(actual)
        )),
        None => compare_counts(schema.columns.len(), actual.num_columns()),
    })
}

fn is_same_column(one: &ColumnDescriptor, other: &ColumnDescriptor) -> bool {
    one.path() == other.path()
        && one.physical_type() == other.physical_type()
        && one.logical_type_ref() == other.logical_type_ref()
        && (one.max_def_level(), one.max_rep_level()) == (other.max_def_level(), other.max_rep_level())
}

fn type_name(column: &ColumnDescriptor) -> String {
    let logical = column.logical_type_ref().map(|logical| format!(", {logical:?}"));
    format!("{}{}", column.physical_type(), logical.unwrap_or_default())
}

fn csv_columns(file: RangedFile, schema: &TableSchema) -> io::Result<ColumnDiff> {
    let mut reader = csv::Reader::from_reader(file);
    let actual = reader.headers().map_err(io::Error::other)?;
    let mismatch = schema.columns.iter().zip(actual).find(|((expected, _), actual)| expected != actual);
    Ok(match mismatch {
        Some(((expected, _), actual)) => ColumnDiff::Mismatch(format!("expected `{expected}`, found `{actual}`")),
        None => compare_counts(schema.columns.len(), actual.len()),
    })
}

fn compare_counts(expected: usize, actual: usize) -> ColumnDiff {
    match actual {
        0 => ColumnDiff::Mismatch("no columns found".into()),
        actual if actual < expected => ColumnDiff::Missing(expected - actual),
        actual if actual > expected => ColumnDiff::Extra(actual - expected),
        _ => ColumnDiff::Same,
    }
}

fn decode_parquet(file: RangedFile) -> io::Result<u64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(io::Error::other)?;
    let footer_rows = reader.metadata().file_metadata().num_rows().unsigned_abs();
    let mut rows = 0;
    for batch in reader.build().map_err(io::Error::other)? {
        rows += batch.map_err(io::Error::other)?.num_rows() as u64;
    }
    if rows == footer_rows {
        Ok(rows)
    } else {
        Err(io::Error::other(format!("its footer declares {footer_rows} rows, but it contains {rows}")))
    }
}

fn decode_csv(file: RangedFile, schema: &TableSchema) -> io::Result<u64> {
    let mut reader = csv::Reader::from_reader(file);
    let mut record = csv::StringRecord::new();
    let mut rows = 0;
    while reader.read_record(&mut record).map_err(io::Error::other)? {
        rows += 1;
        let mismatch = schema.columns.iter().zip(&record).find(|((_, kind), cell)| !is_valid_cell(*kind, cell));
        if let Some(((name, _), cell)) = mismatch {
            let cell: String = cell.chars().take(40).collect();
            return Err(io::Error::other(format!("row {rows}: invalid value `{cell}` in column `{name}`")));
        }
    }
    Ok(rows)
}

fn is_valid_cell(kind: ColumnType, cell: &str) -> bool {
    match kind {
        _ if cell.is_empty() => true,
        ColumnType::Text | ColumnType::Json => true,
        ColumnType::Double => cell.parse::<f64>().is_ok(),
        ColumnType::Int32 => cell.parse::<i32>().is_ok(),
        ColumnType::Int64 => cell.parse::<i64>().is_ok(),
        ColumnType::Boolean => matches!(cell, "true" | "false"),
        ColumnType::Time => MicrosTimestamp::parse(cell).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{ASSETS, LYRICS, PartEncoder, RowGroups, TASKS, schema::AssetRow};

    fn asset() -> AssetRow {
        let asset = crate::asset::Asset::new(
            Some("c".into()),
            crate::asset::AssetKind::Audio,
            None,
            crate::asset::AssetStatus::Skipped,
        );
        AssetRow::new("t".into(), crate::run_id::RunId::example(), asset)
    }

    /// Creates a part of the assets table with one row.
    fn part(format: TableFormat) -> Vec<u8> {
        let mut part = PartEncoder::new(&ASSETS, format, RowGroups::Small, Vec::new()).unwrap();
        part.push(&asset()).unwrap();
        part.finish().unwrap().0
    }

    fn file(bytes: &[u8]) -> RangedFile {
        RangedFile::new(bytes.to_vec())
    }

    #[test]
    fn a_part_matches_only_the_columns_of_its_table() {
        for format in [TableFormat::Parquet, TableFormat::Csv] {
            let part = part(format);
            assert_eq!(compare_columns(file(&part), format, &ASSETS.schema()).unwrap(), ColumnDiff::Same);
            assert_eq!(decode(file(&part), format, &ASSETS.schema()).unwrap(), 1);
            for other in [TASKS.schema(), LYRICS.schema()] {
                assert!(
                    matches!(compare_columns(file(&part), format, &other).unwrap(), ColumnDiff::Mismatch(_)),
                    "{format}"
                );
            }
            let mut shorter = ASSETS.schema();
            shorter.columns.pop();
            assert_eq!(compare_columns(file(&part), format, &shorter).unwrap(), ColumnDiff::Extra(1));
            let mut longer = ASSETS.schema();
            longer.columns.push(("extra", ColumnType::Text));
            assert_eq!(compare_columns(file(&part), format, &longer).unwrap(), ColumnDiff::Missing(1));
        }
    }

    #[test]
    fn a_column_of_another_type_is_detected() {
        let part = part(TableFormat::Parquet);
        for (kind, wrong) in [
            (ColumnType::Text, ColumnType::Json),
            (ColumnType::Int32, ColumnType::Int64),
            (ColumnType::Time, ColumnType::Int64),
        ] {
            let mut schema = ASSETS.schema();
            let column = schema.columns.iter_mut().find(|(_, known)| *known == kind).unwrap();
            column.1 = wrong;
            let found = compare_columns(file(&part), TableFormat::Parquet, &schema).unwrap();
            assert!(matches!(found, ColumnDiff::Mismatch(_)), "{found:?}");
        }
    }

    #[test]
    fn a_truncated_part_never_causes_a_panic() {
        for format in [TableFormat::Parquet, TableFormat::Csv] {
            let full = part(format);
            for length in 0..full.len() {
                let truncated = &full[..length];
                let _ = compare_columns(file(truncated), format, &ASSETS.schema());
                let decoded = decode(file(truncated), format, &ASSETS.schema());
                assert!(format == TableFormat::Csv || decoded.is_err(), "truncated to {length} bytes");
            }
        }
    }
}
