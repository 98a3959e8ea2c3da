//! Reads selected columns of a part as text. Only one batch of rows is held in memory, regardless of the size of the
//! part.

use std::io;

use arrow_array::{
    Array, StringArray,
    cast::AsArray,
    types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use arrow_schema::{DataType, TimeUnit};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
};

use super::{parquet::reader as parquet_reader, prune::matching_row_groups};
use crate::{format::TableFormat, ranged::RangedFile, timestamp::MicrosTimestamp};

/// A callback that receives the cells of a row. A null cell is passed as `None`.
pub(crate) type RowCallback<'a> = &'a mut dyn FnMut(&[Option<&str>]);

/// For each row of a part, calls `row` with the cells of the given columns, in the given order.
pub(crate) fn scan(file: RangedFile, format: TableFormat, columns: &[&str], row: RowCallback<'_>) -> io::Result<()> {
    match format {
        TableFormat::Parquet => scan_parquet(parquet_reader(file).map_err(to_io_error)?, columns, row),
        TableFormat::Csv => scan_csv(file, columns, row),
    }
}

/// Calls `row` for every row that has one of the given values in a text column, and possibly for rows with other
/// values. Row groups that cannot contain any of the given values are skipped.
pub(crate) fn scan_matching<'v>(
    file: RangedFile,
    format: TableFormat,
    columns: &[&str],
    (column, values): (&str, impl ExactSizeIterator<Item = &'v str> + Clone),
    row: RowCallback<'_>,
) -> io::Result<()> {
    match format {
        TableFormat::Parquet => {
            let part = parquet_reader(file).map_err(to_io_error)?;
            let groups = matching_row_groups(&part, column, &values).map_err(to_io_error)?;
            scan_parquet(part.with_row_groups(groups), columns, row)
        }
        TableFormat::Csv => scan_csv(file, columns, row),
    }
}

/// Returns the number of rows in a part.
pub(crate) fn count_rows(file: RangedFile, format: TableFormat) -> io::Result<u64> {
    match format {
        TableFormat::Parquet => {
            let reader = SerializedFileReader::new(file).map_err(to_io_error)?;
            Ok(reader.metadata().file_metadata().num_rows().unsigned_abs())
        }
        TableFormat::Csv => {
            let mut rows = 0;
            scan_csv(file, &[], &mut |_| rows += 1)?;
            Ok(rows)
        }
    }
}

fn scan_parquet(
    part: ParquetRecordBatchReaderBuilder<RangedFile>,
    columns: &[&str],
    row: RowCallback<'_>,
) -> io::Result<()> {
    let mask = ProjectionMask::columns(part.parquet_schema(), columns.iter().copied());
    for batch in part.with_projection(mask).build().map_err(to_io_error)? {
        let batch = batch.map_err(io::Error::other)?;
        let texts =
            columns.iter().map(|name| to_text_column(batch.column_by_name(name).ok_or_else(|| missing_column(name))?));
        let texts = texts.collect::<io::Result<Vec<StringArray>>>()?;
        let mut cells = Vec::with_capacity(texts.len());
        for index in 0..batch.num_rows() {
            cells.clear();
            cells.extend(texts.iter().map(|column| column.is_valid(index).then(|| column.value(index))));
            row(&cells);
        }
    }
    Ok(())
}

fn to_text_column(column: &dyn Array) -> io::Result<StringArray> {
    fn to_text_array<T: ToString>(values: impl Iterator<Item = Option<T>>) -> StringArray {
        values.map(|value| value.map(|value| value.to_string())).collect()
    }
    match column.data_type() {
        DataType::Utf8 => Ok(column.as_string::<i32>().clone()),
        DataType::Float64 => Ok(to_text_array(column.as_primitive::<Float64Type>().iter())),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let times = column.as_primitive::<TimestampMicrosecondType>().iter();
            Ok(to_text_array(times.map(|time| time.map(MicrosTimestamp::from_microsecond))))
        }
        DataType::Boolean => Ok(to_text_array(column.as_boolean().iter())),
        DataType::Int32 => Ok(to_text_array(column.as_primitive::<Int32Type>().iter())),
        DataType::Int64 => Ok(to_text_array(column.as_primitive::<Int64Type>().iter())),
        other => Err(io::Error::other(format!("unsupported column type {other}"))),
    }
}

fn scan_csv(file: RangedFile, columns: &[&str], row: RowCallback<'_>) -> io::Result<()> {
    let mut reader = csv::Reader::from_reader(file);
    let headers = reader.headers().map_err(io::Error::other)?;
    let indices =
        columns.iter().map(|name| headers.iter().position(|title| title == *name).ok_or_else(|| missing_column(name)));
    let indices = indices.collect::<io::Result<Vec<usize>>>()?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(io::Error::other)? {
        let cells: Vec<Option<&str>> =
            indices.iter().map(|index| record.get(*index).filter(|text| !text.is_empty())).collect();
        row(&cells);
    }
    Ok(())
}

fn missing_column(column: &str) -> io::Error {
    io::Error::other(format!("it has no column `{column}`"))
}

fn to_io_error(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
