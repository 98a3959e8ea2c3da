//! Computes a digest of a table's rows that depends neither on the row order nor on the division into parts. Before
//! rewritten parts replace the old parts of a table, the digests of the old and the new rows are compared.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufReader},
};

use arrow_array::{
    Array, ArrayRef,
    cast::AsArray,
    types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use arrow_schema::DataType;

use super::{csv::RawRecords, parquet, schema::TableSchema};
use crate::{format::TableFormat, ranged::RangedFile};

/// The number of rows and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    sum: u64,
}

impl Digest {
    /// Adds the rows of a part. A column that is missing from the part is treated as null.
    pub(crate) fn add(&mut self, part: RangedFile, format: TableFormat, schema: &TableSchema) -> io::Result<()> {
        match format {
            TableFormat::Parquet => self.add_parquet(part, schema),
            TableFormat::Csv => self.add_csv(part, schema),
        }
    }

    fn add_parquet(&mut self, part: RangedFile, schema: &TableSchema) -> io::Result<()> {
        let arrow_schema = parquet::arrow_schema(schema);
        for batch in parquet::batches(part)? {
            let batch = parquet::project(&batch?, &arrow_schema)?;
            let mut rows = vec![DefaultHasher::new(); batch.num_rows()];
            for column in batch.columns() {
                hash_cells(column, &mut rows)?;
            }
            for row in &rows {
                self.add_row(row);
            }
        }
        Ok(())
    }

    fn add_csv(&mut self, part: RangedFile, schema: &TableSchema) -> io::Result<()> {
        let mut records = RawRecords::new(BufReader::with_capacity(1 << 16, part), schema)?;
        let missing = vec![b','; schema.columns.len() - records.columns()];
        let mut record = Vec::new();
        while records.read_record(&mut record)? {
            let mut row = DefaultHasher::new();
            row.write(&record);
            row.write(&missing);
            self.add_row(&row);
        }
        Ok(())
    }

    fn add_row(&mut self, row: &DefaultHasher) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row.finish());
    }
}

/// Adds each cell of a column to the hash of its row.
fn hash_cells(column: &ArrayRef, rows: &mut [DefaultHasher]) -> io::Result<()> {
    fn all<T: Hash>(cells: impl Iterator<Item = Option<T>>, rows: &mut [DefaultHasher]) {
        rows.iter_mut().zip(cells).for_each(|(row, cell)| cell.hash(row));
    }
    match column.data_type() {
        DataType::Utf8 => all(column.as_string::<i32>().iter(), rows),
        DataType::Float64 => {
            all(column.as_primitive::<Float64Type>().iter().map(|cell| cell.map(f64::to_bits)), rows);
        }
        DataType::Int32 => all(column.as_primitive::<Int32Type>().iter(), rows),
        DataType::Int64 => all(column.as_primitive::<Int64Type>().iter(), rows),
        DataType::Boolean => all(column.as_boolean().iter(), rows),
        DataType::Timestamp(..) => all(column.as_primitive::<TimestampMicrosecondType>().iter(), rows),
        other => return Err(io::Error::other(format!("unsupported column type {other}"))),
    }
    Ok(())
}
