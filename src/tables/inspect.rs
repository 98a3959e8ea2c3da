//! Checks whether a part has the columns of its table and whether every value can be decoded. A decoder may panic on
//! damaged bytes, so a panic is converted to an error.

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
    schema::{Kind, Outline},
};
use crate::{format::TableFormat, ranged::RangedFile, timestamp::Moment};

/// The result of comparing the columns of a part with those of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    Same,
    /// The part lacks this number of columns at the end, because an older version wrote it.
    Older(usize),
    /// The part has this number of additional columns at the end.
    More(usize),
    /// The columns differ. The text describes the difference.
    Other(String),
}

/// Compares the columns of a part with those of its table: names, order and, for Parquet, physical and logical types.
pub(crate) fn columns(file: RangedFile, format: TableFormat, outline: &Outline) -> io::Result<Columns> {
    guarded(|| match format {
        TableFormat::Parquet => parquet_columns(file, outline),
        TableFormat::Csv => csv_columns(file, outline),
    })
}

/// Decodes every value of a part whose columns match its table. Returns the number of rows.
pub(crate) fn decode(file: RangedFile, format: TableFormat, outline: &Outline) -> io::Result<u64> {
    guarded(|| match format {
        TableFormat::Parquet => decode_parquet(file),
        TableFormat::Csv => decode_csv(file, outline),
    })
}

/// Calls `read` on data that may be damaged, and converts a panic to an error.
pub(crate) fn guarded<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(io::Error::other("its contents are invalid")))
}

fn parquet_columns(file: RangedFile, outline: &Outline) -> io::Result<Columns> {
    let expected = parquet_schema(outline).map_err(io::Error::other)?;
    let reader = SerializedFileReader::new(file).map_err(io::Error::other)?;
    let there = reader.metadata().file_metadata().schema_descr();
    let odd = expected.columns().iter().zip(there.columns()).find(|(expected, there)| !are_alike(expected, there));
    Ok(match odd {
        Some((expected, there)) => Columns::Other(format!(
            "expected `{}` ({}), found `{}` ({})",
            expected.name(),
            kind_of(expected),
            there.name(),
            kind_of(there)
        )),
        None => by_number(outline.columns.len(), there.num_columns()),
    })
}

fn are_alike(one: &ColumnDescriptor, other: &ColumnDescriptor) -> bool {
    one.path() == other.path()
        && one.physical_type() == other.physical_type()
        && one.logical_type_ref() == other.logical_type_ref()
        && (one.max_def_level(), one.max_rep_level()) == (other.max_def_level(), other.max_rep_level())
}

fn kind_of(column: &ColumnDescriptor) -> String {
    let logical = column.logical_type_ref().map(|logical| format!(", {logical:?}"));
    format!("{}{}", column.physical_type(), logical.unwrap_or_default())
}

fn csv_columns(file: RangedFile, outline: &Outline) -> io::Result<Columns> {
    let mut reader = csv::Reader::from_reader(file);
    let there = reader.headers().map_err(io::Error::other)?;
    let odd = outline.columns.iter().zip(there).find(|((expected, _), there)| expected != there);
    Ok(match odd {
        Some(((expected, _), there)) => Columns::Other(format!("expected `{expected}`, found `{there}`")),
        None => by_number(outline.columns.len(), there.len()),
    })
}

fn by_number(expected: usize, there: usize) -> Columns {
    match there {
        0 => Columns::Other("it has none".into()),
        there if there < expected => Columns::Older(expected - there),
        there if there > expected => Columns::More(there - expected),
        _ => Columns::Same,
    }
}

fn decode_parquet(file: RangedFile) -> io::Result<u64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(io::Error::other)?;
    let told = reader.metadata().file_metadata().num_rows().unsigned_abs();
    let mut rows = 0;
    for batch in reader.build().map_err(io::Error::other)? {
        rows += batch.map_err(io::Error::other)?.num_rows() as u64;
    }
    if rows == told {
        Ok(rows)
    } else {
        Err(io::Error::other(format!("its footer states {told} rows, but it has {rows}")))
    }
}

fn decode_csv(file: RangedFile, outline: &Outline) -> io::Result<u64> {
    let mut reader = csv::Reader::from_reader(file);
    let mut record = csv::StringRecord::new();
    let mut rows = 0;
    while reader.read_record(&mut record).map_err(io::Error::other)? {
        rows += 1;
        let odd = outline.columns.iter().zip(&record).find(|((_, kind), cell)| !is_kind(*kind, cell));
        if let Some(((name, _), cell)) = odd {
            let cell: String = cell.chars().take(40).collect();
            return Err(io::Error::other(format!("row {rows}: invalid value `{cell}` in column `{name}`")));
        }
    }
    Ok(rows)
}

fn is_kind(kind: Kind, cell: &str) -> bool {
    match kind {
        _ if cell.is_empty() => true,
        Kind::Text | Kind::Json => true,
        Kind::Double => cell.parse::<f64>().is_ok(),
        Kind::Int32 => cell.parse::<i32>().is_ok(),
        Kind::Int64 => cell.parse::<i64>().is_ok(),
        Kind::Boolean => matches!(cell, "true" | "false"),
        Kind::Time => Moment::parse(cell).is_some(),
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
        let mut part = PartEncoder::new(&ASSETS, format, RowGroups::OfANight, Vec::new()).unwrap();
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
            assert_eq!(columns(file(&part), format, &ASSETS.outline()).unwrap(), Columns::Same);
            assert_eq!(decode(file(&part), format, &ASSETS.outline()).unwrap(), 1);
            for other in [TASKS.outline(), LYRICS.outline()] {
                assert!(matches!(columns(file(&part), format, &other).unwrap(), Columns::Other(_)), "{format}");
            }
            let mut shorter = ASSETS.outline();
            shorter.columns.pop();
            assert_eq!(columns(file(&part), format, &shorter).unwrap(), Columns::More(1));
            let mut longer = ASSETS.outline();
            longer.columns.push(("further", Kind::Text));
            assert_eq!(columns(file(&part), format, &longer).unwrap(), Columns::Older(1));
        }
    }

    #[test]
    fn a_column_of_another_type_is_detected() {
        let part = part(TableFormat::Parquet);
        for (kind, instead) in [(Kind::Text, Kind::Json), (Kind::Int32, Kind::Int64), (Kind::Time, Kind::Int64)] {
            let mut outline = ASSETS.outline();
            let column = outline.columns.iter_mut().find(|(_, known)| *known == kind).unwrap();
            column.1 = instead;
            let found = columns(file(&part), TableFormat::Parquet, &outline).unwrap();
            assert!(matches!(found, Columns::Other(_)), "{found:?}");
        }
    }

    #[test]
    fn reading_truncated_parts_ends_without_a_panic() {
        for format in [TableFormat::Parquet, TableFormat::Csv] {
            let whole = part(format);
            for length in 0..whole.len() {
                let cut = &whole[..length];
                let _ = columns(file(cut), format, &ASSETS.outline());
                let decoded = decode(file(cut), format, &ASSETS.outline());
                assert!(format == TableFormat::Csv || decoded.is_err(), "cut at {length}");
            }
        }
    }
}
