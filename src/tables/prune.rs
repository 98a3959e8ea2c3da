//! Selects the row groups of a part that may contain given values, based on their statistics and Bloom filters. A
//! lookup of a few tasks, or of the assets with a given status, reads only the selected row groups.

use std::{collections::HashSet, io};

use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    errors::{ParquetError, Result},
    file::statistics::Statistics,
};

use super::parquet::reader;
use crate::{format::TableFormat, ranged::RangedFile};

/// Returns the indexes of the row groups that may contain a row with one of `values` in the text column `column`. A row
/// group that has no more rows than there are values is always selected, because reading the row group is then cheaper
/// than looking up each value.
pub(super) fn matching_row_groups<'v>(
    part: &ParquetRecordBatchReaderBuilder<RangedFile>,
    column: &str,
    values: &(impl ExactSizeIterator<Item = &'v str> + Clone),
) -> Result<Vec<usize>> {
    let index = column_index(part, column)?;
    let mut groups = Vec::new();
    for (group, metadata) in part.metadata().row_groups().iter().enumerate() {
        let use_index = i64::try_from(values.len()).is_ok_and(|values| values < metadata.num_rows());
        if !use_index || may_contain(part, group, index, values.clone())? {
            groups.push(group);
        }
    }
    Ok(groups)
}

/// Returns the values that a part does not contain, according to the Bloom filters of the part. Returns an empty set if
/// the part has no Bloom filters.
///
/// # Errors
/// Returns an error if the part cannot be read.
pub(crate) fn absent_values(
    file: RangedFile,
    format: TableFormat,
    column: &str,
    mut values: HashSet<&str>,
) -> io::Result<HashSet<String>> {
    if format == TableFormat::Csv {
        return Ok(HashSet::new());
    }
    let part = reader(file).map_err(io::Error::other)?;
    let index = column_index(&part, column).map_err(io::Error::other)?;
    for group in 0..part.metadata().num_row_groups() {
        let filter = part.get_row_group_column_bloom_filter(group, index).map_err(io::Error::other)?;
        values.retain(|value| filter.as_ref().is_some_and(|filter| !filter.check(*value)));
    }
    Ok(values.into_iter().map(str::to_owned).collect())
}

fn column_index(part: &ParquetRecordBatchReaderBuilder<RangedFile>, column: &str) -> Result<usize> {
    let mut columns = part.parquet_schema().columns().iter();
    let index = columns.position(|known| known.name() == column);
    index.ok_or_else(|| ParquetError::General(format!("it has no column `{column}`")))
}

fn may_contain<'v>(
    part: &ParquetRecordBatchReaderBuilder<RangedFile>,
    group: usize,
    column: usize,
    values: impl Iterator<Item = &'v str>,
) -> Result<bool> {
    let chunk = part.metadata().row_group(group).column(column);
    let mut within = values.filter(|value| is_within(chunk.statistics(), value.as_bytes())).peekable();
    if within.peek().is_none() {
        return Ok(false);
    }
    let filter = part.get_row_group_column_bloom_filter(group, column)?;
    Ok(within.any(|value| filter.as_ref().is_none_or(|filter| filter.check(value))))
}

/// Whether a value is within the bounds in a column's statistics. Truncated bounds are safe to use, because they are
/// never narrower than the exact bounds.
fn is_within(statistics: Option<&Statistics>, value: &[u8]) -> bool {
    let lowest = statistics.and_then(Statistics::min_bytes_opt);
    let highest = statistics.and_then(Statistics::max_bytes_opt);
    lowest.is_none_or(|lowest| lowest <= value) && highest.is_none_or(|highest| value <= highest)
}

#[cfg(test)]
mod tests {
    use parquet::{
        arrow::ArrowWriter,
        file::properties::{EnabledStatistics, WriterProperties},
    };
    use proptest::prelude::*;

    use super::{
        super::{
            parquet::{RowGroups, arrow_schema, batches, reader, writer},
            part::PartEncoder,
            schema::{ASSETS, AssetRow},
        },
        *,
    };
    use crate::{
        asset::{Asset, AssetKind, AssetStatus},
        format::TableFormat,
        run_id::RunId,
    };

    fn rows(tasks: &[String], status: AssetStatus) -> RangedFile {
        let sink = Vec::new();
        let mut part = PartEncoder::new(&ASSETS, TableFormat::Parquet, RowGroups::Small, sink).unwrap();
        for task in tasks {
            let asset = Asset::new(None, AssetKind::Audio, None, status);
            part.push(&AssetRow::new(task.clone(), RunId::example(), asset)).unwrap();
        }
        RangedFile::new(part.finish().unwrap().0)
    }

    /// Creates a part with one row group for each element of `groups`.
    fn part(groups: &[(Vec<String>, AssetStatus)]) -> ParquetRecordBatchReaderBuilder<RangedFile> {
        let mut encoder = writer(&ASSETS.schema(), RowGroups::Large, Vec::new()).unwrap();
        for (tasks, status) in groups {
            for batch in batches(rows(tasks, *status)).unwrap() {
                encoder.write(&batch.unwrap()).unwrap();
            }
            encoder.flush().unwrap();
        }
        reader(RangedFile::new(encoder.into_inner().unwrap())).unwrap()
    }

    fn matching(part: &ParquetRecordBatchReaderBuilder<RangedFile>, column: &str, values: &[&str]) -> Vec<usize> {
        matching_row_groups(part, column, &values.iter().copied()).unwrap()
    }

    #[test]
    fn row_groups_are_pruned_only_for_few_values() {
        let tasks = |group: u32| (0..500).map(|n| format!("{}-{group}", n * 7919 % 500)).collect();
        let part =
            part(&[(tasks(0), AssetStatus::Ok), (tasks(1), AssetStatus::Failed), (tasks(2), AssetStatus::Skipped)]);
        // Row groups are selected by status based on their statistics. The ranges of task IDs in the row groups
        // overlap, so row groups can be selected by task ID only with the Bloom filters.
        assert_eq!(matching(&part, "status", &["failed"]), [1]);
        assert_eq!(matching(&part, "task_id", &["123-0", "77-2"]), [0, 2]);
        assert_eq!(matching(&part, "task_id", &["zzz", ""]), [0; 0]);
        assert_eq!(matching(&part, "task_id", &["zzz"; 500]), [0, 1, 2]);
        assert!(matching_row_groups(&part, "no such column", &["x"].into_iter()).is_err());
    }

    #[test]
    fn a_part_without_statistics_is_not_pruned() {
        let properties = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build();
        let rows: Vec<_> = batches(rows(&["a".into(), "b".into()], AssetStatus::Ok)).unwrap().collect();
        let sink = Vec::new();
        let mut plain = ArrowWriter::try_new(sink, arrow_schema(&ASSETS.schema()), Some(properties)).unwrap();
        plain.write(rows[0].as_ref().unwrap()).unwrap();
        let part = reader(RangedFile::new(plain.into_inner().unwrap())).unwrap();
        assert_eq!(matching(&part, "task_id", &["x"]), [0]);
        // Row groups are also selected if the column contains only nulls and has no statistics.
        assert_eq!(matching(&part, "url", &["x"]), [0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_row_group_that_contains_a_value_is_never_pruned(
            groups in prop::collection::vec(prop::collection::vec("\\PC{0,80}", 1..30), 1..4), at: prop::sample::Index
        ) {
            let groups: Vec<_> = groups.into_iter().map(|tasks| (tasks, AssetStatus::Ok)).collect();
            let part = part(&groups);
            for (index, (tasks, _)) in groups.iter().enumerate() {
                prop_assert!(matching(&part, "task_id", &[at.get(tasks).as_str()]).contains(&index));
            }
        }
    }
}
