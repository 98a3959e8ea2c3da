//! Sorts the rows of many parts by time, so that the statistics of a row group cover a narrow time range.
//!
//! The algorithm is an external merge sort. Rows are collected up to a memory limit, sorted, and spilled to disk as a
//! sorted run. Finally, all sorted runs are merged. During a merge, one batch of each sorted run is held in memory.

use std::{cmp::Reverse, collections::BinaryHeap, fs::File, io, vec::IntoIter};

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use arrow_array::{RecordBatch, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::SchemaRef;
use arrow_select::interleave::interleave_record_batch;

use super::{
    parquet::{self, RowGroups},
    schema::TableSchema,
};
use crate::ranged::RangedFile;

/// The total size of the rows in memory, in bytes, at which these rows are sorted and spilled to disk.
const SORT_BUFFER_BYTES: usize = 256 << 20;

/// The maximum number of rows in a chunk.
const CHUNK_ROWS: usize = 4096;
/// The approximate maximum size of a chunk, in bytes.
const CHUNK_BYTES: usize = 16 << 20;

/// The maximum number of sorted runs in one merge. If there are more sorted runs than this limit, groups of runs are
/// merged first.
const MAX_MERGED_RUNS: usize = 64;

/// The maximum number of rows in a batch that is read from a sorted run.
const RUN_BATCH_ROWS: usize = 512;
/// The approximate maximum size, in bytes, of all batches that a merge holds in memory.
const MERGE_BUFFER_BYTES: usize = 128 << 20;

/// A batch of sorted rows to be written to a part.
#[derive(Debug)]
pub(crate) struct Chunk(pub(super) RecordBatch);

impl Chunk {
    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.num_rows()
    }

    /// Splits the chunk after the given number of rows. Returns the first rows and, if any are left, the remaining
    /// rows.
    pub(crate) fn split(self, rows: usize) -> (Self, Option<Self>) {
        match self.rows().checked_sub(rows) {
            None | Some(0) => (self, None),
            Some(rest) => (Self(self.0.slice(0, rows)), Some(Self(self.0.slice(rows, rest)))),
        }
    }
}

/// Sorts the rows of Parquet parts by time.
pub(crate) struct TimeSorter<S> {
    schema: TableSchema,
    /// Creates an empty temporary file for spilled rows.
    new_temp_file: S,
    memory_limit: usize,
    batches: Vec<RecordBatch>,
    bytes: usize,
    /// The largest mean row size, in bytes, of any batch added so far.
    row_bytes: usize,
    runs: Vec<File>,
}

impl<S: FnMut() -> io::Result<File>> TimeSorter<S> {
    pub(crate) fn new(schema: TableSchema, new_temp_file: S) -> Self {
        Self {
            schema,
            new_temp_file,
            memory_limit: SORT_BUFFER_BYTES,
            batches: Vec::new(),
            bytes: 0,
            row_bytes: 1,
            runs: Vec::new(),
        }
    }

    /// Adds the rows of a part. Columns that the part lacks are filled with nulls. Returns an error if the part has an
    /// unknown column.
    pub(crate) fn add(&mut self, part: RangedFile) -> io::Result<()> {
        let arrow_schema = parquet::arrow_schema(&self.schema);
        for batch in parquet::batches(part)? {
            let batch = parquet::project(&batch?, &arrow_schema)?;
            self.bytes += batch.get_array_memory_size();
            self.row_bytes = self.row_bytes.max(row_bytes(&batch));
            self.batches.push(batch);
            if self.bytes >= self.memory_limit {
                self.spill()?;
            }
        }
        Ok(())
    }

    /// Returns all rows, sorted by time. The sort is stable.
    pub(crate) fn finish(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            return Sorted::in_memory(self.batches, &self.schema);
        }
        self.spill()?;
        while self.runs.len() > MAX_MERGED_RUNS {
            // Only adjacent runs are merged, which keeps the sort stable.
            let mut runs = std::mem::take(&mut self.runs).into_iter();
            while !runs.as_slice().is_empty() {
                let rows = self.merge_runs(runs.by_ref().take(MAX_MERGED_RUNS).collect())?;
                let run = self.write_run(rows)?;
                self.runs.push(run);
            }
        }
        let runs = std::mem::take(&mut self.runs);
        self.merge_runs(runs)
    }

    fn merge_runs(&self, runs: Vec<File>) -> io::Result<Sorted> {
        let rows = MERGE_BUFFER_BYTES / runs.len().max(1) / self.row_bytes;
        Sorted::spilled(runs, rows.clamp(1, RUN_BATCH_ROWS), &self.schema)
    }

    fn spill(&mut self) -> io::Result<()> {
        let rows = Sorted::in_memory(std::mem::take(&mut self.batches), &self.schema)?;
        self.bytes = 0;
        let run = self.write_run(rows)?;
        self.runs.push(run);
        Ok(())
    }

    /// Writes sorted rows to a new temporary file.
    fn write_run(&mut self, rows: Sorted) -> io::Result<File> {
        let run = parquet::writer(&self.schema, RowGroups::Small, (self.new_temp_file)()?);
        let mut run = run.map_err(io::Error::other)?;
        for chunk in rows {
            run.write(&chunk?.0).map_err(io::Error::other)?;
        }
        run.into_inner().map_err(io::Error::other)
    }
}

/// An iterator over chunks of rows, sorted by time.
pub(crate) enum Sorted {
    /// All rows are in memory.
    InMemory {
        batches: Vec<RecordBatch>,
        /// The batch index and row index of each remaining row, sorted by time.
        order: IntoIter<(usize, usize)>,
        /// The mean row size of each batch, in bytes.
        row_bytes: Vec<usize>,
    },
    /// The rows are on disk in sorted runs.
    Spilled {
        runs: Vec<Run>,
        /// The time of the next row of each sorted run, paired with the index of the run.
        heads: BinaryHeap<Reverse<(i64, usize)>>,
    },
}

impl Sorted {
    fn in_memory(batches: Vec<RecordBatch>, schema: &TableSchema) -> io::Result<Self> {
        let mut rows = Vec::new();
        for (batch, index) in batches.iter().zip(0..) {
            rows.extend(times(batch, schema.sort_column)?.into_iter().zip(0..).map(|(time, row)| (time, index, row)));
        }
        rows.sort_unstable();
        let order: Vec<(usize, usize)> = rows.into_iter().map(|(_, batch, row)| (batch, row)).collect();
        let row_bytes = batches.iter().map(row_bytes).collect();
        Ok(Self::InMemory { batches, order: order.into_iter(), row_bytes })
    }

    fn spilled(runs: Vec<File>, batch_rows: usize, schema: &TableSchema) -> io::Result<Self> {
        let runs = runs.into_iter().map(|file| Run::new(file, batch_rows, schema));
        let runs = runs.collect::<io::Result<Vec<_>>>()?;
        let heads = runs.iter().zip(0..).filter_map(|(run, index)| Some(Reverse((run.peek_time()?, index)))).collect();
        Ok(Self::Spilled { runs, heads })
    }

    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        match self {
            Self::InMemory { batches, order, row_bytes } => {
                let mut selection = Selection::default();
                while !selection.is_full()
                    && let Some((batch, row)) = order.next()
                {
                    selection.add(batch, row, row_bytes.get(batch).copied().unwrap_or_default());
                }
                interleave(batches.iter(), &selection)
            }
            Self::Spilled { runs, heads } => merge(runs, heads),
        }
    }
}

impl Iterator for Sorted {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

/// A sorted run that is being read.
pub(crate) struct Run {
    batches: ParquetRecordBatchReader,
    arrow_schema: SchemaRef,
    sort_column: &'static str,
    batch: RecordBatch,
    row_bytes: usize,
    times: Vec<i64>,
    row: usize,
}

impl Run {
    fn new(file: File, batch_rows: usize, schema: &TableSchema) -> io::Result<Self> {
        let (reader, arrow_schema) =
            (parquet::reader(RangedFile::new(file)).map_err(io::Error::other)?, parquet::arrow_schema(schema));
        let batches = reader.with_batch_size(batch_rows).build().map_err(io::Error::other)?;
        let batch = RecordBatch::new_empty(arrow_schema.clone());
        let mut run = Self {
            batches,
            arrow_schema,
            sort_column: schema.sort_column,
            batch,
            row_bytes: 0,
            times: Vec::new(),
            row: 0,
        };
        run.read()?;
        Ok(run)
    }

    /// Returns the time of the next row, or `None` at the end of the current batch.
    fn peek_time(&self) -> Option<i64> {
        self.times.get(self.row).copied()
    }

    fn read(&mut self) -> io::Result<()> {
        if let Some(batch) = self.batches.next() {
            self.batch = parquet::project(&batch.map_err(io::Error::other)?, &self.arrow_schema)?;
            (self.times, self.row, self.row_bytes) = (times(&self.batch, self.sort_column)?, 0, row_bytes(&self.batch));
        }
        Ok(())
    }
}

/// Merges several sorted runs and returns the next chunk of rows. If two rows have the same time, the row from the
/// earlier run comes first. The chunk ends when the current batch of any run is exhausted, because reading the next
/// batch replaces the current batch.
fn merge(runs: &mut [Run], heads: &mut BinaryHeap<Reverse<(i64, usize)>>) -> io::Result<Option<Chunk>> {
    let mut selection = Selection::default();
    while !selection.is_full()
        && let Some(Reverse((_, index))) = heads.pop()
        && let Some(run) = runs.get_mut(index)
    {
        selection.add(index, run.row, run.row_bytes);
        run.row += 1;
        let next = run.peek_time();
        heads.extend(next.map(|time| Reverse((time, index))));
        if next.is_none() {
            let chunk = interleave(runs.iter().map(|run| &run.batch), &selection)?;
            if let Some(run) = runs.get_mut(index) {
                run.read()?;
                heads.extend(run.peek_time().map(|time| Reverse((time, index))));
            }
            return Ok(chunk);
        }
    }
    interleave(runs.iter().map(|run| &run.batch), &selection)
}

/// The rows that are selected for a chunk, as pairs of batch index and row index, and the approximate total size of
/// these rows in bytes.
#[derive(Default)]
struct Selection {
    rows: Vec<(usize, usize)>,
    bytes: usize,
}

impl Selection {
    fn add(&mut self, batch: usize, row: usize, bytes: usize) {
        self.rows.push((batch, row));
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }
}

/// Returns the mean row size of a batch, in bytes.
fn row_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() / batch.num_rows().max(1)
}

fn interleave<'b>(batches: impl Iterator<Item = &'b RecordBatch>, selection: &Selection) -> io::Result<Option<Chunk>> {
    if selection.rows.is_empty() {
        return Ok(None);
    }
    let rows = interleave_record_batch(&batches.collect::<Vec<_>>(), &selection.rows);
    rows.map(|rows| Some(Chunk(rows))).map_err(io::Error::other)
}

/// Returns the time of each row as a sort key. Rows without a time are sorted last.
fn times(batch: &RecordBatch, column: &str) -> io::Result<Vec<i64>> {
    let times = batch.column_by_name(column).and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(|| io::Error::other(format!("it has no timestamp column `{column}`")))?;
    Ok(times.iter().map(|time| time.unwrap_or(i64::MAX)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            part::PartEncoder,
            schema::{ASSETS, AssetRow},
        },
        *,
    };
    use crate::{
        asset::{Asset, AssetKind, AssetStatus},
        format::TableFormat,
        run_id::RunId,
        timestamp::MicrosTimestamp,
    };

    /// Creates a part with one row for each element of `times`. The task IDs are consecutive numbers starting at
    /// `first`.
    fn part(first: usize, times: &[Option<i64>]) -> RangedFile {
        let sink = Vec::new();
        let mut part = PartEncoder::new(&ASSETS, TableFormat::Parquet, RowGroups::Small, sink).unwrap();
        for (index, time) in (first..).zip(times) {
            let asset = Asset::new(Some("c".repeat(index % 50)), AssetKind::Audio, None, AssetStatus::Ok);
            let row = AssetRow::new(index.to_string(), RunId::example(), asset);
            part.push(&AssetRow { downloaded_at: time.map(MicrosTimestamp::from_microsecond), ..row }).unwrap();
        }
        RangedFile::new(part.finish().unwrap().0)
    }

    /// Sorts the rows of `parts`. Returns the row numbers in sorted order, and the number of temporary files written.
    fn sorted(parts: &[Vec<Option<i64>>], memory_limit: usize) -> (Vec<usize>, usize) {
        let mut temp_files = 0;
        let new_temp_file = || {
            temp_files += 1;
            tempfile::tempfile()
        };
        let mut sorter = TimeSorter { memory_limit, ..TimeSorter::new(ASSETS.schema(), new_temp_file) };
        let mut first = 0;
        for times in parts {
            sorter.add(part(first, times)).unwrap();
            first += times.len();
        }
        let mut row_numbers = Vec::new();
        for chunk in sorter.finish().unwrap() {
            let ids = chunk.unwrap().0.column_by_name("task_id").unwrap().as_string::<i32>().clone();
            row_numbers.extend(ids.iter().map(|id| id.unwrap().parse::<usize>().unwrap()));
        }
        (row_numbers, temp_files)
    }

    #[test]
    fn rows_beyond_the_limit_are_spilled() {
        let times: Vec<Vec<Option<i64>>> =
            (0..6).map(|n| (0..3000).map(|row| Some(row * 7 % 3000 + n)).collect()).collect();
        let (in_memory, runs) = sorted(&times, usize::MAX);
        assert_eq!(runs, 0);
        let (in_runs, runs) = sorted(&times, 1 << 20);
        assert!(runs > 2, "{runs}");
        assert!(in_memory == in_runs && in_memory.len() == 18_000);
        // With a memory limit of one byte, each part becomes one sorted run, which results in too many runs for a
        // single merge.
        let times: Vec<Vec<Option<i64>>> = (0..100).map(|n| vec![Some(n % 7); 3]).collect();
        let (in_runs, runs) = sorted(&times, 1);
        assert!(runs > times.len() && times.len() > MAX_MERGED_RUNS, "{runs}");
        assert_eq!(in_runs, sorted(&times, usize::MAX).0);
    }

    #[test]
    fn a_chunk_ends_at_its_size_in_bytes() {
        let sink = Vec::new();
        let mut large = PartEncoder::new(&ASSETS, TableFormat::Parquet, RowGroups::Small, sink).unwrap();
        for n in 0..8 {
            let asset = Asset::new(Some(n.to_string().repeat(3 << 20)), AssetKind::Audio, None, AssetStatus::Ok);
            large.push(&AssetRow::new("t".into(), RunId::example(), asset)).unwrap();
        }
        let file = RangedFile::new(large.finish().unwrap().0);
        let mut sorter = TimeSorter::new(ASSETS.schema(), tempfile::tempfile);
        sorter.add(file).unwrap();
        let chunks: Vec<usize> = sorter.finish().unwrap().map(|chunk| chunk.unwrap().rows()).collect();
        assert!(chunks.len() > 1 && chunks.iter().sum::<usize>() == 8, "{chunks:?}");
    }

    #[test]
    fn a_chunk_is_split_at_a_row_count() {
        let mut sorter = TimeSorter::new(ASSETS.schema(), tempfile::tempfile);
        sorter.add(part(0, &[Some(1); 5])).unwrap();
        let chunk = sorter.finish().unwrap().next().unwrap().unwrap();
        let (first, rest) = chunk.split(3);
        assert_eq!((first.rows(), rest.as_ref().map(Chunk::rows)), (3, Some(2)));
        assert!(rest.unwrap().split(2).1.is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rows_are_sorted_by_time_and_stable_whether_spilled_or_not(
            parts in prop::collection::vec(prop::collection::vec(prop::option::of(0..20_i64), 0..40), 0..6),
            memory_limit in prop::sample::select(vec![1, 1 << 14, usize::MAX])
        ) {
            let times: Vec<Option<i64>> = parts.concat();
            let mut expected: Vec<usize> = (0..times.len()).collect();
            expected.sort_by_key(|index| times[*index].unwrap_or(i64::MAX));
            prop_assert_eq!(sorted(&parts, memory_limit).0, expected);
        }
    }
}
