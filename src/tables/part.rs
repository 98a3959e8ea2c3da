//! Encodes one part of a table in the table format of the archive.

use std::io::{self, Write};

use super::{
    csv::CsvEncoder,
    parquet::{ParquetEncoder, RowGroups},
    schema::Table,
};
use crate::format::TableFormat;

/// Encodes rows of one table and writes them to a sink.
pub(crate) struct PartEncoder<R: 'static, W: Write + Send> {
    table: &'static Table<R>,
    encoder: Encoder<W>,
    rows: u64,
}

enum Encoder<W: Write + Send> {
    Parquet(Box<ParquetEncoder<W>>),
    Csv(CsvEncoder<W>),
}

impl<R, W: Write + Send> PartEncoder<R, W> {
    /// Creates an encoder for a new part.
    pub(crate) fn new(
        table: &'static Table<R>,
        format: TableFormat,
        row_groups: RowGroups,
        sink: W,
    ) -> io::Result<Self> {
        let schema = table.schema();
        let encoder = match format {
            TableFormat::Parquet => {
                Encoder::Parquet(Box::new(ParquetEncoder::new(&schema, row_groups, sink).map_err(io::Error::other)?))
            }
            TableFormat::Csv => Encoder::Csv(CsvEncoder::new(&schema, sink)?),
        };
        Ok(Self { table, encoder, rows: 0 })
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: &R) -> io::Result<()> {
        let values = self.table.columns.iter().map(|column| (column.value)(row));
        self.rows += 1;
        match &mut self.encoder {
            Encoder::Parquet(encoder) => encoder.push(values).map_err(io::Error::other),
            Encoder::Csv(encoder) => encoder.push(values),
        }
    }

    /// The number of rows added so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Completes the part. Writes all remaining bytes to the sink, and returns the sink and the number of rows.
    pub(crate) fn finish(self) -> io::Result<(W, u64)> {
        let sink = match self.encoder {
            Encoder::Parquet(encoder) => encoder.finish().map_err(io::Error::other)?,
            Encoder::Csv(encoder) => encoder.finish(),
        };
        Ok((sink, self.rows))
    }
}
