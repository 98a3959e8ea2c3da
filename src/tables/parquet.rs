//! Rows to Parquet: zstd, UTF-8, `TIMESTAMP(MICROS, UTC)`, JSON columns with the JSON logical type.

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

use super::schema::{Kind, Outline, TASK_ID, Value};
use crate::ranged::RangedFile;

/// The size of row groups. A row group is held in memory until it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowGroups {
    /// 4 MiB: some 10,000 ordinary tasks, more than most nights archive. Four tables are written at once, and with
    /// 16 MiB each an export of 20,000 tasks took 105 MiB of memory instead of 70. `compact` writes large row groups.
    OfANight,
    /// 122,880 rows, or 256 MiB if that comes first.
    Large,
}

impl RowGroups {
    /// The rows and the encoded bytes at which a row group ends.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::OfANight => (1 << 20, 4 << 20),
            Self::Large => (LARGE_ROWS, 256 << 20),
        }
    }
}

/// The rows that DuckDB gives a thread at a time.
const LARGE_ROWS: usize = 122_880;

/// A batch that is read has about this many bytes.
const READ_BYTES: i64 = 8 << 20;

/// Rows are passed to the writer once they have this many bytes of text.
const BATCH_BYTES: usize = 1 << 20;

/// Rows are passed to the writer after at most this many.
const BATCH_ROWS: usize = 2048;

/// The false positive rate of the Bloom filters: some nights look up hundreds of tasks that no row group has. A filter
/// takes two bytes a task, where an ID takes twenty.
const FALSE_POSITIVES: f64 = 0.001;

/// Writes one part.
pub(super) struct ParquetEncoder<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
    builders: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> ParquetEncoder<W> {
    pub(super) fn new(outline: &Outline, row_groups: RowGroups, sink: W) -> Result<Self, ParquetError> {
        let schema = schema(outline);
        let writer = writer(outline, row_groups, sink)?;
        let builders = outline.columns.iter().map(|(_, kind)| Builder::new(*kind)).collect();
        Ok(Self { writer, schema, builders, rows: 0, bytes: 0 })
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
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// The writer that every Parquet part is written with.
pub(super) fn writer<W: Write + Send>(
    outline: &Outline,
    row_groups: RowGroups,
    sink: W,
) -> Result<ArrowWriter<W>, ParquetError> {
    let options =
        ArrowWriterOptions::new().with_properties(properties(outline, row_groups)?).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(sink, schema(outline), options)
}

/// The Arrow schema of a table.
pub(super) fn schema(outline: &Outline) -> SchemaRef {
    Arc::new(Schema::new(outline.columns.iter().map(field).collect::<Vec<_>>()))
}

/// Opens a part, to be read in batches that are small if its rows are large.
pub(super) fn reader(file: RangedFile) -> Result<ParquetRecordBatchReaderBuilder<RangedFile>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let groups = builder.metadata().row_groups().iter();
    let row = groups.map(|group| group.total_byte_size() / group.num_rows().max(1)).max().unwrap_or(0);
    let rows = usize::try_from(READ_BYTES / row.max(1)).unwrap_or(1).clamp(1, BATCH_ROWS);
    Ok(builder.with_batch_size(rows))
}

/// The schema that a part's footer should have.
pub(super) fn parquet_schema(outline: &Outline) -> Result<SchemaDescriptor, ParquetError> {
    ArrowSchemaConverter::new().convert(&schema(outline))
}

/// Reads a whole part.
pub(super) fn batches(file: RangedFile) -> io::Result<impl Iterator<Item = io::Result<RecordBatch>>> {
    let batches = reader(file).and_then(ParquetRecordBatchReaderBuilder::build).map_err(io::Error::other)?;
    Ok(batches.map(|batch| batch.map_err(io::Error::other)))
}

/// The same rows, with the columns of the table.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> io::Result<RecordBatch> {
    if let Some(unknown) = batch.schema().fields().iter().find(|field| schema.column_with_name(field.name()).is_none())
    {
        return Err(io::Error::other(format!("it has a column `{}` that this version does not know", unknown.name())));
    }
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => {
            Err(io::Error::other(format!("its column `{}` is of type {}", field.name(), column.data_type())))
        }
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let columns = schema.fields().iter().map(column).collect::<io::Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(io::Error::other)
}

fn field((name, kind): &(&'static str, Kind)) -> Field {
    let data_type = match kind {
        Kind::Text | Kind::Json => DataType::Utf8,
        Kind::Double => DataType::Float64,
        Kind::Int32 => DataType::Int32,
        Kind::Int64 => DataType::Int64,
        Kind::Boolean => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    };
    let field = Field::new(*name, data_type, true);
    if *kind == Kind::Json { field.with_extension_type(Json::default()) } else { field }
}

/// The Arrow schema in the footer, in which a JSON column is plain text: Polars does not know Parquet's JSON type, and
/// would read the column as bytes without it.
fn plain_schema(outline: &Outline) -> Schema {
    let plain = |column| field(column).with_metadata(HashMap::new());
    Schema::new(outline.columns.iter().map(plain).collect::<Vec<_>>())
}

fn properties(outline: &Outline, row_groups: RowGroups) -> Result<WriterProperties, ParquetError> {
    let (rows, bytes) = row_groups.limits();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(rows))
        .set_max_row_group_bytes(Some(bytes))
        .set_column_bloom_filter_fpp(ColumnPath::from(TASK_ID), FALSE_POSITIVES)
        // A filter starts with room for this many, and is folded to size.
        .set_column_bloom_filter_max_ndv(ColumnPath::from(TASK_ID), LARGE_ROWS as u64);
    for (name, _) in outline.columns.iter().filter(|(_, kind)| *kind == Kind::Json) {
        // Whole documents rarely repeat, and no query needs their minimum.
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(*name), false)
            .set_column_statistics_enabled(ColumnPath::from(*name), EnabledStatistics::None);
    }
    let mut properties = properties.build();
    add_encoded_arrow_schema_to_metadata(&plain_schema(outline), &mut properties);
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
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Text | Kind::Json => Self::Text(StringBuilder::new()),
            Kind::Double => Self::Double(Float64Builder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
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
            Self::Text(builder) => ArrayBuilder::finish(builder),
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
    fn the_footer_has_json_and_utc_microseconds() {
        let mut sink = Vec::new();
        ParquetEncoder::new(&TASKS.outline(), RowGroups::OfANight, &mut sink).unwrap().finish().unwrap();
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
