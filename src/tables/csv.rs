//! Encodes rows as CSV according to RFC 4180, with a header. Times are written in RFC 3339 format with the suffix `Z`,
//! and JSON is written as text.
//!
//! A null is written as an empty field, and an empty string as `""`. The `csv` crate does not distinguish nulls from
//! empty strings, so this module formats the fields itself.

use std::{
    fmt::Write as _,
    io::{self, BufRead, Write},
};

use super::schema::{TableSchema, Value};

/// Encodes the rows of one part.
pub(super) struct CsvEncoder<W: Write> {
    sink: W,
    line: String,
}

impl<W: Write> CsvEncoder<W> {
    pub(super) fn new(schema: &TableSchema, sink: W) -> io::Result<Self> {
        let mut encoder = Self { sink, line: String::new() };
        encoder.push(schema.columns.iter().map(|(name, _)| Value::Text(name)))?;
        Ok(encoder)
    }

    pub(super) fn push<'a>(&mut self, values: impl Iterator<Item = Value<'a>>) -> io::Result<()> {
        self.line.clear();
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.line.push(',');
            }
            write_field(&mut self.line, value);
        }
        self.line.push_str("\r\n");
        self.sink.write_all(self.line.as_bytes())
    }

    pub(super) fn finish(self) -> W {
        self.sink
    }
}

/// Reads raw records without their line endings. The fields are not parsed, because parsing would lose the distinction
/// between null and an empty string.
pub(super) struct RawRecords<R: BufRead> {
    source: R,
    columns: usize,
}

impl<R: BufRead> RawRecords<R> {
    /// Opens a part of a table. A part that was written by an older version of the program may lack the last columns of
    /// the table.
    pub(super) fn new(source: R, schema: &TableSchema) -> io::Result<Self> {
        let mut records = Self { source, columns: schema.columns.len() };
        let mut header = Vec::new();
        let read = records.read(&mut header)?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let names: Vec<&str> = header.split(',').collect();
        let expected: Vec<&str> = schema.columns.iter().map(|(name, _)| *name).take(names.len()).collect();
        if !read || names != expected {
            return Err(io::Error::other(format!("its columns do not match the table {}: {header}", schema.name)));
        }
        records.columns = names.len();
        Ok(records)
    }

    /// The number of fields in each record.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Reads the next record. Returns `false` at the end of the part.
    pub(super) fn read_record(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
        let read = self.read(record)?;
        match raw_fields(record).count() {
            found if read && found != self.columns => {
                Err(io::Error::other(format!("a record has {found} fields instead of {}", self.columns)))
            }
            _ => Ok(read),
        }
    }

    fn read(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
        record.clear();
        let mut is_quoted = false;
        loop {
            let start = record.len();
            if self.source.read_until(b'\n', record)? == 0 {
                return if record.is_empty() {
                    Ok(false)
                } else {
                    Err(io::Error::other("its last record is truncated"))
                };
            }
            is_quoted = record.iter().skip(start).fold(is_quoted, |is_quoted, byte| is_quoted ^ (*byte == b'"'));
            if !is_quoted && record.pop_if(|byte| *byte == b'\n').is_some() {
                record.pop_if(|byte| *byte == b'\r');
                return Ok(true);
            }
        }
    }
}

/// Splits a record into its raw fields, including their quotes.
pub(super) fn raw_fields(record: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    record.split(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    })
}

/// Returns the text of a raw field, with the quotes removed.
pub(super) fn unquote(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) => text.replace("\"\"", "\""),
        None => text.into_owned(),
    }
}

fn write_field(line: &mut String, value: Value<'_>) {
    match value {
        Value::Null => {}
        Value::Text(text) => write_quoted(line, text),
        // `Debug` formats the number 1 as `1.0`, so readers that infer column types recognize the number as a double.
        Value::Double(number) => write_display(line, format_args!("{number:?}")),
        Value::Int32(number) => write_display(line, format_args!("{number}")),
        Value::Int64(number) => write_display(line, format_args!("{number}")),
        Value::Boolean(truth) => write_display(line, format_args!("{truth}")),
        Value::Time(time) => write_display(line, format_args!("{time}")),
    }
}

fn write_display(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("writing to memory cannot fail");
}

/// Appends a string, quoted if necessary. NUL characters are replaced with U+FFFD, because some CSV readers stop at
/// NUL.
fn write_quoted(line: &mut String, text: &str) {
    if !text.is_empty() && !text.contains(['"', ',', '\r', '\n', '\0']) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\"\""),
            '\0' => line.push('\u{fffd}'),
            other => line.push(other),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::schema::ColumnType, *};
    use crate::timestamp::MicrosTimestamp;

    fn encoded(values: &[Value<'_>]) -> String {
        let schema = TableSchema {
            name: "x",
            sort_column: "b",
            columns: vec![("a", ColumnType::Text), ("b", ColumnType::Double)],
        };
        let mut encoder = CsvEncoder::new(&schema, Vec::new()).unwrap();
        encoder.push(values.iter().copied()).unwrap();
        String::from_utf8(encoder.finish()).unwrap()
    }

    #[test]
    fn null_is_an_empty_field_and_an_empty_string_is_quoted() {
        assert_eq!(encoded(&[Value::Null, Value::Text("")]), "a,b\r\n,\"\"\r\n");
    }

    #[test]
    fn each_kind_of_value_is_formatted() {
        let time = MicrosTimestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
        for (value, expected) in [
            (Value::Text("plain"), "plain"),
            (Value::Text("a,\"b\"\r\n\0"), "\"a,\"\"b\"\"\r\n\u{fffd}\""),
            (Value::Double(10.0), "10.0"),
            (Value::Double(128.92), "128.92"),
            (Value::Int32(-1), "-1"),
            (Value::Boolean(true), "true"),
            (Value::Time(time), "2026-01-02T03:04:05.678Z"),
        ] {
            assert_eq!(encoded(&[value]), format!("a,b\r\n{expected}\r\n"));
        }
    }

    proptest! {
        #[test]
        fn values_round_trip_through_csv(first in any::<String>(), second in any::<String>()) {
            let text = encoded(&[Value::Text(&first), Value::Text(&second)]);
            let mut reader = ::csv::Reader::from_reader(text.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            prop_assert_eq!(&record[0], first.replace('\0', "\u{fffd}"));
            prop_assert_eq!(&record[1], second.replace('\0', "\u{fffd}"));
        }
    }
}
