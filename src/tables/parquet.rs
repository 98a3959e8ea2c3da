//! Encodes rows as Parquet files with zstd compression. Text columns contain UTF-8, time columns have the type
//! `TIMESTAMP(MICROS, UTC)`, and JSON columns have the JSON logical type.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::Arc,
};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        ArrayBuilder, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
        TimestampMicrosecondBuilder,
    },
    new_null_array,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit, extension::Json};
use parquet::{
    arrow::{
        ArrowSchemaConverter, ArrowWriter, add_encoded_arrow_schema_to_metadata,
        arrow_reader::ParquetRecordBatchReaderBuilder, arrow_writer::ArrowWriterOptions,
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::{ColumnPath, SchemaDescriptor},
};

use super::schema::{ColumnType, TASK_ID, TableSchema, Value};
use crate::ranged::RangedFile;

/// The size of the row groups of a part. The writer keeps a row group in memory until the row group is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowGroups {
    /// At most 4 MiB per row group. This is enough for about 10,000 typical tasks, which is more than most nightly runs
    /// archive. The four tables are written at the same time, so larger row groups need much more memory: an export of
    /// 20,000 tasks uses 66 MB with row groups of 4 MiB, and 107 MB with row groups of 16 MiB. `compact` writes large
    /// row groups.
    Small,
    /// At most 122,880 rows and 256 MiB per row group.
    Large,
}

impl RowGroups {
    /// Returns the maximum number of rows in a row group, and the maximum encoded size of a row group in bytes.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Small => (1 << 20, 4 << 20),
            Self::Large => (LARGE_ROWS, 256 << 20),
        }
    }
}

/// The maximum number of rows in a large row group. DuckDB assigns this number of rows to a thread at a time.
const LARGE_ROWS: usize = 122_880;

/// The approximate maximum size of a batch that is read from a part, in bytes.
const READ_BYTES: i64 = 8 << 20;

/// The size of the buffered text, in bytes, at which the buffered rows are passed to the Parquet writer.
const BATCH_BYTES: usize = 1 << 20;

/// The maximum number of rows in a batch, both when reading and when writing a part.
const BATCH_ROWS: usize = 2048;

/// The false positive rate of the Bloom filters. The rate is low, because some nightly runs look up hundreds of tasks
/// that no row group contains. A Bloom filter uses two bytes per task, whereas a task ID uses twenty bytes.
const BLOOM_FILTER_FPP: f64 = 0.001;

/// Encodes the rows of one part.
pub(super) struct ParquetEncoder<W: Write + Send> {
    writer: ArrowWriter<W>,
    arrow_schema: SchemaRef,
    builders: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> ParquetEncoder<W> {
    pub(super) fn new(schema: &TableSchema, row_groups: RowGroups, sink: W) -> Result<Self, ParquetError> {
        let writer = writer(schema, row_groups, sink)?;
        let arrow_schema = arrow_schema(schema);
        let builders = schema.columns.iter().map(|(_, kind)| Builder::new(*kind)).collect();
        Ok(Self { writer, arrow_schema, builders, rows: 0, bytes: 0 })
    }

    pub(super) fn push<'a>(&mut self, values: impl Iterator<Item = Value<'a>>) -> Result<(), ParquetError> {
        for (builder, value) in self.builders.iter_mut().zip(values) {
            if let Value::Text(text) = value {
                self.bytes += text.len();
            }
            builder.append(value);
        }
        self.rows += 1;
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.write_batch() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> Result<W, ParquetError> {
        self.write_batch()?;
        self.writer.into_inner()
    }

    fn write_batch(&mut self) -> Result<(), ParquetError> {
        let columns: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        (self.rows, self.bytes) = (0, 0);
        self.writer.write(&RecordBatch::try_new(self.arrow_schema.clone(), columns)?)
    }
}

/// Creates a writer with the properties that all Parquet parts share.
pub(super) fn writer<W: Write + Send>(
    schema: &TableSchema,
    row_groups: RowGroups,
    sink: W,
) -> Result<ArrowWriter<W>, ParquetError> {
    let options =
        ArrowWriterOptions::new().with_properties(properties(schema, row_groups)?).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(sink, arrow_schema(schema), options)
}

/// Returns the Arrow schema of a table.
pub(super) fn arrow_schema(schema: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.columns.iter().map(field).collect::<Vec<_>>()))
}

/// Opens a part for reading. The larger the rows of the part are, the fewer rows a batch contains.
pub(super) fn reader(file: RangedFile) -> Result<ParquetRecordBatchReaderBuilder<RangedFile>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let groups = builder.metadata().row_groups().iter();
    let row = groups.map(|group| group.total_byte_size() / group.num_rows().max(1)).max().unwrap_or(0);
    let rows = usize::try_from(READ_BYTES / row.max(1)).unwrap_or(1).clamp(1, BATCH_ROWS);
    Ok(builder.with_batch_size(rows))
}

/// Returns the Parquet schema that is expected in the footer of a part.
pub(super) fn parquet_schema(schema: &TableSchema) -> Result<SchemaDescriptor, ParquetError> {
    ArrowSchemaConverter::new().convert(&arrow_schema(schema))
}

/// Returns all rows of a part in batches.
pub(super) fn batches(file: RangedFile) -> io::Result<impl Iterator<Item = io::Result<RecordBatch>>> {
    let batches = reader(file).and_then(ParquetRecordBatchReaderBuilder::build).map_err(io::Error::other)?;
    Ok(batches.map(|batch| batch.map_err(io::Error::other)))
}

/// Converts a batch to the schema of its table. Missing columns are filled with nulls. Returns an error if a column is
/// unknown or has an unexpected type.
pub(super) fn project(batch: &RecordBatch, schema: &SchemaRef) -> io::Result<RecordBatch> {
    if let Some(unknown) = batch.schema().fields().iter().find(|field| schema.column_with_name(field.name()).is_none())
    {
        return Err(io::Error::other(format!(
            "it has an unknown column `{}`; it may have been written by a newer version of the program",
            unknown.name()
        )));
    }
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => Err(io::Error::other(format!(
            "its column `{}` has the unexpected type {}",
            field.name(),
            column.data_type()
        ))),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let columns = schema.fields().iter().map(column).collect::<io::Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(io::Error::other)
}

fn field((name, kind): &(&'static str, ColumnType)) -> Field {
    let data_type = match kind {
        ColumnType::Text | ColumnType::Json => DataType::Utf8,
        ColumnType::Double => DataType::Float64,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    };
    let field = Field::new(*name, data_type, true);
    if *kind == ColumnType::Json { field.with_extension_type(Json::default()) } else { field }
}

/// Returns the Arrow schema to embed in the footer. The schema declares JSON columns as text, because Polars does not
/// support Parquet's JSON type and would otherwise read these columns as bytes.
fn embedded_schema(schema: &TableSchema) -> Schema {
    let plain = |column| field(column).with_metadata(HashMap::new());
    Schema::new(schema.columns.iter().map(plain).collect::<Vec<_>>())
}

fn properties(schema: &TableSchema, row_groups: RowGroups) -> Result<WriterProperties, ParquetError> {
    let (rows, bytes) = row_groups.limits();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(rows))
        .set_max_row_group_bytes(Some(bytes))
        .set_column_bloom_filter_fpp(ColumnPath::from(TASK_ID), BLOOM_FILTER_FPP)
        // The writer allocates a Bloom filter for this number of distinct values, and then folds the filter to the
        // required size.
        .set_column_bloom_filter_max_ndv(ColumnPath::from(TASK_ID), LARGE_ROWS as u64);
    for (name, _) in schema.columns.iter().filter(|(_, kind)| *kind == ColumnType::Json) {
        // JSON columns have no dictionary, because JSON documents rarely repeat, and no statistics, because no query
        // needs the minimum or maximum of a JSON column.
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(*name), false)
            .set_column_statistics_enabled(ColumnPath::from(*name), EnabledStatistics::None);
    }
    let mut properties = properties.build();
    add_encoded_arrow_schema_to_metadata(&embedded_schema(schema), &mut properties);
    Ok(properties)
}

enum Builder {
    Text(StringBuilder),
    Double(Float64Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Boolean(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Text | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Double => Self::Double(Float64Builder::new()),
            ColumnType::Int32 => Self::Int32(Int32Builder::new()),
            ColumnType::Int64 => Self::Int64(Int64Builder::new()),
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
        }
    }

    fn append(&mut self, value: Value<'_>) {
        match (self, value) {
            (Self::Text(builder), Value::Text(text)) => builder.append_value(text),
            (Self::Double(builder), Value::Double(number)) => builder.append_value(number),
            (Self::Int32(builder), Value::Int32(number)) => builder.append_value(number),
            (Self::Int64(builder), Value::Int64(number)) => builder.append_value(number),
            (Self::Boolean(builder), Value::Boolean(truth)) => builder.append_value(truth),
            (Self::Time(builder), Value::Time(time)) => builder.append_value(time.as_microsecond()),
            (Self::Text(builder), _) => builder.append_null(),
            (Self::Double(builder), _) => builder.append_null(),
            (Self::Int32(builder), _) => builder.append_null(),
            (Self::Int64(builder), _) => builder.append_null(),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::Time(builder), _) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) => {
                // The next batch will be about the same size. Allocating its buffers at this size avoids copying the
                // text each time a buffer grows.
                let next = StringBuilder::with_capacity(builder.len(), builder.values_slice().len());
                ArrayBuilder::finish(&mut std::mem::replace(builder, next))
            }
            Self::Double(builder) => ArrayBuilder::finish(builder),
            Self::Int32(builder) => ArrayBuilder::finish(builder),
            Self::Int64(builder) => ArrayBuilder::finish(builder),
            Self::Boolean(builder) => ArrayBuilder::finish(builder),
            Self::Time(builder) => ArrayBuilder::finish(builder),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::{
        basic::LogicalType,
        file::reader::{FileReader, SerializedFileReader},
    };

    use super::{super::schema::*, *};

    #[test]
    fn the_footer_declares_json_and_utc_microsecond_types() {
        let mut sink = Vec::new();
        ParquetEncoder::new(&TASKS.schema(), RowGroups::Small, &mut sink).unwrap().finish().unwrap();
        let reader = SerializedFileReader::new(Bytes::from(sink)).unwrap();
        let schema = reader.metadata().file_metadata().schema_descr();
        let logical = |name: &str| {
            let column = schema.columns().iter().find(|column| column.name() == name).unwrap();
            column.logical_type_ref().cloned()
        };
        assert_eq!(logical("response"), Some(LogicalType::Json));
        assert_eq!(logical("input"), Some(LogicalType::Json));
        assert_eq!(logical("prompt"), Some(LogicalType::String));
        assert!(matches!(logical("created_at"), Some(LogicalType::Timestamp(time)) if time.is_adjusted_to_u_t_c));
    }
}
