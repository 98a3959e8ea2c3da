//! Rows to Parquet: zstd, UTF-8, `TIMESTAMP(MICROS, UTC)`, JSON columns with the JSON logical type.

use std::{io::Write, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        ArrayBuilder, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
        TimestampMicrosecondBuilder,
    },
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit, extension::Json};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

use super::schema::{Kind, Outline, Value};

/// A row group ends at this many encoded bytes, since it is held in memory until then. That is some
/// 40,000 ordinary tasks: less than DuckDB likes best in a large part, and more than a night brings.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Rows are handed to the writer once they hold this many bytes of text.
const BATCH_BYTES: usize = 2 << 20;

/// Rows are handed to the writer at the latest after this many.
const BATCH_ROWS: usize = 4096;

/// Writes one part.
pub(super) struct ParquetEncoder<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
    builders: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> ParquetEncoder<W> {
    pub(super) fn new(outline: &Outline, sink: W) -> Result<Self, ParquetError> {
        let schema: SchemaRef = Arc::new(Schema::new(outline.columns.iter().map(field).collect::<Vec<_>>()));
        // Arrow's own schema in the footer would say nothing that Parquet's types do not.
        let options = ArrowWriterOptions::new().with_properties(properties(outline)?).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, schema.clone(), options)?;
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

fn properties(outline: &Outline) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(concat!("sunor-archive ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    for (name, _) in outline.columns.iter().filter(|(_, kind)| *kind == Kind::Json) {
        // Whole documents hardly repeat, and nobody asks for the smallest of them.
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(*name), false)
            .set_column_statistics_enabled(ColumnPath::from(*name), EnabledStatistics::None);
    }
    Ok(properties.build())
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
    fn the_footer_says_json_and_utc_microseconds() {
        let mut sink = Vec::new();
        ParquetEncoder::new(&TASKS.outline(), &mut sink).unwrap().finish().unwrap();
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
