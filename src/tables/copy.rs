//! Copies rows of existing parts into a new part of the same table. Only the task ID of each row is examined.
//!
//! For Parquet, the row group being written and the batch being read are held in memory. For CSV, only a single record
//! is held in memory.

use std::io::{self, BufReader, Write};

use ::parquet::arrow::ArrowWriter;
use arrow_array::{Array, cast::AsArray};

use super::{
    csv::{CsvEncoder, RawRecords, raw_fields, unquote},
    parquet::{self, RowGroups},
    schema::{TASK_ID, TableSchema},
    sort::Chunk,
};
use crate::{format::TableFormat, ranged::RangedFile};

/// Writes one new part from rows of existing parts.
pub(crate) struct PartCopier<W: Write + Send> {
    schema: TableSchema,
    writer: FormatWriter<W>,
    rows: u64,
}

enum FormatWriter<W: Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    Csv(CsvWriter<W>),
}

struct CsvWriter<W> {
    sink: W,
    bytes: u64,
}

impl<W: Write + Send> PartCopier<W> {
    /// Creates a copier for a new part with large row groups.
    pub(crate) fn new(schema: TableSchema, format: TableFormat, sink: W) -> io::Result<Self> {
        let writer = match format {
            TableFormat::Parquet => FormatWriter::Parquet(Box::new(
                parquet::writer(&schema, RowGroups::Large, sink).map_err(io::Error::other)?,
            )),
            TableFormat::Csv => {
                FormatWriter::Csv(CsvWriter { sink: CsvEncoder::new(&schema, sink)?.finish(), bytes: 0 })
            }
        };
        Ok(Self { schema, writer, rows: 0 })
    }

    /// Copies each row of `part` if `keep` returns `true` for the task ID of the row. The order of the rows is
    /// preserved. Returns the number of rows copied. Columns that `part` lacks are filled with nulls. Returns an error
    /// if `part` has an unknown column.
    pub(crate) fn copy(&mut self, part: RangedFile, keep: &mut dyn FnMut(&str) -> bool) -> io::Result<u64> {
        let copied = match &mut self.writer {
            FormatWriter::Parquet(writer) => copy_parquet(part, &self.schema, writer, keep),
            FormatWriter::Csv(csv) => csv.copy(part, &self.schema, keep),
        };
        self.rows += copied.as_ref().copied().unwrap_or_default();
        copied
    }

    /// Adds a chunk of rows. The chunk must have all columns of the table. Returns an error if the new part is a CSV
    /// file.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> io::Result<()> {
        match &mut self.writer {
            FormatWriter::Parquet(writer) => writer.write(&chunk.0).map_err(io::Error::other)?,
            FormatWriter::Csv(_) => return Err(io::Error::other("cannot write Parquet rows to a CSV part")),
        }
        self.rows += chunk.rows() as u64;
        Ok(())
    }

    /// The number of rows added so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The approximate number of bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.writer {
            FormatWriter::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            FormatWriter::Csv(csv) => csv.bytes,
        }
    }

    /// Completes the part. Writes all remaining bytes to the sink, and returns the sink and the number of rows.
    pub(crate) fn finish(self) -> io::Result<(W, u64)> {
        let sink = match self.writer {
            FormatWriter::Parquet(writer) => writer.into_inner().map_err(io::Error::other)?,
            FormatWriter::Csv(csv) => csv.sink,
        };
        Ok((sink, self.rows))
    }
}

fn copy_parquet(
    part: RangedFile,
    schema: &TableSchema,
    writer: &mut ArrowWriter<impl Write + Send>,
    keep: &mut dyn FnMut(&str) -> bool,
) -> io::Result<u64> {
    let arrow_schema = parquet::arrow_schema(schema);
    let mut copied = 0;
    for batch in parquet::batches(part)? {
        let batch = parquet::project(&batch?, &arrow_schema)?;
        let ids = batch.column_by_name(TASK_ID).and_then(|ids| ids.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| io::Error::other(format!("it has no text column `{TASK_ID}`")))?;
        let kept: Vec<bool> =
            (0..ids.len()).map(|index| keep(if ids.is_valid(index) { ids.value(index) } else { "" })).collect();
        // Consecutive rows that are kept are copied as a single slice.
        let mut index = 0;
        for run in kept.chunk_by(|one, other| one == other) {
            if run.first() == Some(&true) {
                writer.write(&batch.slice(index, run.len())).map_err(io::Error::other)?;
                copied += run.len() as u64;
            }
            index += run.len();
        }
    }
    Ok(copied)
}

impl<W: Write> CsvWriter<W> {
    fn copy(&mut self, part: RangedFile, schema: &TableSchema, keep: &mut dyn FnMut(&str) -> bool) -> io::Result<u64> {
        let mut records = RawRecords::new(BufReader::with_capacity(1 << 16, part), schema)?;
        let index = schema.columns.iter().position(|(name, _)| *name == TASK_ID).unwrap_or_default();
        let end = format!("{}\r\n", ",".repeat(schema.columns.len() - records.columns()));
        let (mut record, mut copied) = (Vec::new(), 0);
        while records.read_record(&mut record)? {
            if keep(&raw_fields(&record).nth(index).map(unquote).unwrap_or_default()) {
                self.sink.write_all(&record)?;
                self.sink.write_all(end.as_bytes())?;
                self.bytes += (record.len() + end.len()) as u64;
                copied += 1;
            }
        }
        Ok(copied)
    }
}

#[cfg(test)]
mod tests {

    use arrow_array::RecordBatch;

    use super::{
        super::{Digest, PartEncoder, schema::*},
        *,
    };
    use crate::{run_id::RunId, status::FinalStatus, timestamp::MicrosTimestamp};

    const FORMATS: [TableFormat; 2] = [TableFormat::Parquet, TableFormat::Csv];

    fn task(id: &str, prompt: Option<&str>) -> TaskRow {
        let time = MicrosTimestamp::parse("2026-01-02T03:04:05.678901Z");
        TaskRow {
            task_id: id.into(),
            model: Some("su,no \"x\"\r\n".into()),
            r#type: None,
            status: FinalStatus::Success,
            credits_cost: Some(0.1),
            prompt: prompt.map(str::to_owned),
            instrumental: Some(false),
            error: None,
            progress: None,
            clip_count: -1,
            created_at: time,
            completed_at: None,
            fetched_at: time.unwrap(),
            run_id: RunId::example(),
            input: Some("{}".into()),
            response: None,
        }
    }

    fn part(format: TableFormat, rows: &[TaskRow]) -> RangedFile {
        let mut encoder = PartEncoder::new(&TASKS, format, RowGroups::Small, Vec::new()).unwrap();
        for row in rows {
            encoder.push(row).unwrap();
        }
        RangedFile::new(encoder.finish().unwrap().0)
    }

    fn copied(format: TableFormat, parts: Vec<RangedFile>, keep: &mut dyn FnMut(&str) -> bool) -> (RangedFile, u64) {
        let mut copier = PartCopier::new(TASKS.schema(), format, Vec::new()).unwrap();
        for part in parts {
            copier.copy(part, keep).unwrap();
        }
        let (file, rows) = copier.finish().unwrap();
        (RangedFile::new(file), rows)
    }

    fn digest(format: TableFormat, file: &RangedFile) -> Digest {
        let mut digest = Digest::default();
        digest.add(file.clone(), format, &TASKS.schema()).unwrap();
        digest
    }

    #[test]
    fn copied_rows_are_equal_and_null_differs_from_empty() {
        for format in FORMATS {
            let rows = [task("a", None), task("b", Some("")), task("c \"q\", r", Some("x"))];
            let (all, count) = copied(format, vec![part(format, &rows[..1]), part(format, &rows[1..])], &mut |_| true);
            assert_eq!(count, 3);
            assert_eq!(digest(format, &all), digest(format, &part(format, &rows)));
            let other = [task("a", Some("")), task("b", None), rows[2].clone()];
            assert_ne!(digest(format, &all), digest(format, &part(format, &other)), "{format}");

            let mut keep = |id: &str| id != "b";
            let (some, count) = copied(format, vec![part(format, &rows)], &mut keep);
            assert_eq!(count, 2);
            assert_eq!(digest(format, &some), digest(format, &part(format, &[rows[2].clone(), rows[0].clone()])));
        }
    }

    #[test]
    fn a_csv_part_is_copied_byte_for_byte() {
        let rows = [task("a", None), task("b", Some("")), task("c \"q\", r", Some("x"))];
        let text = |file: RangedFile| io::read_to_string(file).unwrap();
        let (all, _) = copied(TableFormat::Csv, vec![part(TableFormat::Csv, &rows)], &mut |_| true);
        assert_eq!(text(all), text(part(TableFormat::Csv, &rows)));
    }

    #[test]
    fn a_part_of_an_older_version_gains_the_missing_columns() {
        let shorter_schema =
            || TableSchema { columns: TASKS.schema().columns.into_iter().take(15).collect(), ..TASKS.schema() };
        for format in FORMATS {
            let mut old = PartCopier::new(shorter_schema(), format, Vec::new()).unwrap();
            let truncated = match format {
                TableFormat::Csv => {
                    let text = io::read_to_string(part(format, &[task("a", None)])).unwrap();
                    let truncated = text.replace(",response\r\n", "\r\n").replace("{},\r\n", "{}\r\n");
                    RangedFile::new(truncated.into_bytes())
                }
                TableFormat::Parquet => {
                    let FormatWriter::Parquet(writer) = &mut old.writer else { panic!() };
                    let all = part(format, &[task("a", None)]);
                    let batch = parquet::batches(all).unwrap().next().unwrap().unwrap();
                    let columns = batch.columns()[..15].to_vec();
                    writer
                        .write(&RecordBatch::try_new(parquet::arrow_schema(&shorter_schema()), columns).unwrap())
                        .unwrap();
                    RangedFile::new(old.finish().unwrap().0)
                }
            };
            let (all, rows) = copied(format, vec![truncated], &mut |_| true);
            assert_eq!(rows, 1);
            assert_eq!(digest(format, &all), digest(format, &part(format, &[task("a", None)])), "{format}");

            let mut newer = PartCopier::new(shorter_schema(), format, Vec::new()).unwrap();
            let error = newer.copy(part(format, &[task("a", None)]), &mut |_| true).unwrap_err().to_string();
            assert!(error.contains("response"), "{error}");
        }
    }

    #[test]
    fn a_truncated_csv_part_is_an_error() {
        let all = io::read_to_string(part(TableFormat::Csv, &[task("a", None), task("b", None)])).unwrap();
        for truncated in [all.len() - 1, all.len() - 30, 20] {
            let file = RangedFile::new(all.as_bytes()[..truncated].to_vec());
            let mut copier = PartCopier::new(TASKS.schema(), TableFormat::Csv, io::sink()).unwrap();
            assert!(copier.copy(file, &mut |_| true).is_err(), "{truncated}");
        }
    }

    #[test]
    fn a_large_part_has_large_row_groups() {
        let rows: Vec<TaskRow> = (0..50_000).map(|n| task(&n.to_string(), None)).collect();
        let parts = (0..3).map(|_| part(TableFormat::Parquet, &rows)).collect();
        let (all, _) = copied(TableFormat::Parquet, parts, &mut |_| true);
        let metadata = parquet::reader(all).unwrap().metadata().clone();
        let groups: Vec<i64> =
            metadata.row_groups().iter().map(::parquet::file::metadata::RowGroupMetaData::num_rows).collect();
        assert_eq!(groups, [122_880, 27_120]);
    }
}
