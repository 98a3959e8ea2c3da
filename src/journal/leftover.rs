//! Journal segments that were left behind by interrupted runs.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    reader::{SegmentReader, segments},
    record::Record,
    segment::{ClosedSegment, OpenSegment, segment_path},
    split,
};
use crate::{
    asset::{Asset, AssetKind},
    error::Result,
    run_id::RunId,
};

/// A segment that was left behind by an interrupted run.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) segment: ClosedSegment,
    /// The tasks with pending assets. The segment cannot be published until no asset is pending.
    pub(crate) unsettled: Vec<Unsettled>,
    /// The total length of the complete records, in bytes.
    complete_bytes: u64,
}

/// A task with pending assets, whose response is in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) task_id: String,
    /// The time at which the response was received.
    pub(crate) fetched_at: Timestamp,
    pub(crate) data: String,
    /// The requested kinds of assets.
    pub(crate) assets: Vec<AssetKind>,
}

/// Returns the segments that were left behind by earlier runs, oldest first. The caller must hold the archive lock,
/// because this function also completes interrupted splits.
pub(crate) fn leftovers(folder: &Path) -> Result<Vec<Leftover>> {
    for path in segments(folder)? {
        let (leftover, split_target) = Leftover::read(path)?;
        if let Some((run_id, part)) = split_target {
            split::write_split_segment(&leftover.segment, &run_id, part)?;
        }
    }
    let read = segments(folder)?.into_iter().map(|path| Leftover::read(path).map(|(leftover, _)| leftover));
    let mut leftovers = read.collect::<Result<Vec<_>>>()?;
    // If the `Moved` record of a split segment is damaged, the tasks with pending assets are found in both the old and
    // the new segment, and the tasks in the old segment are ignored.
    let mut later = HashSet::new();
    for leftover in leftovers.iter_mut().rev() {
        let (duplicates, unique) = leftover.unsettled.drain(..).partition(|task| later.contains(&task.task_id));
        leftover.unsettled = unique;
        leftover.segment.excluded.extend(Vec::into_iter(duplicates).map(|task: Unsettled| task.task_id));
        later.extend(leftover.unsettled.iter().map(|task| task.task_id.clone()));
    }
    Ok(leftovers)
}

impl Leftover {
    /// Reads a segment. If the segment was split, the run ID and the part number of the new segment are also returned.
    fn read(path: PathBuf) -> Result<(Self, Option<(RunId, u32)>)> {
        let mut segment = SegmentReader::open(&path)?;
        let (mut unsettled, mut moved, mut split_target) = (Vec::new(), HashSet::new(), None);
        let mut outcomes = HashMap::new();
        while let Some(record) = segment.next_record()? {
            match record {
                Record::Task { task_id, fetched_at, data, assets, .. } if !assets.is_empty() => {
                    unsettled.push(Unsettled { task_id, fetched_at, data, assets });
                }
                Record::Assets { task_id, .. } => {
                    *outcomes.entry(task_id.clone()).or_insert(0_u32) += 1;
                    let index = unsettled.iter().position(|task| task.task_id == task_id);
                    index.map(|index| unsettled.remove(index));
                }
                Record::Moved { part, tasks } => {
                    unsettled.retain(|task| !tasks.contains(&task.task_id));
                    (moved, split_target) = (tasks, Some((segment.run_id.clone(), part)));
                }
                _ => {}
            }
        }
        let complete_bytes = segment.complete_bytes;
        let superseded_outcomes =
            outcomes.into_iter().filter(|(_, outcomes)| *outcomes > 1).map(|(id, outcomes)| (id, outcomes - 1));
        let segment = ClosedSegment { path, excluded: moved, superseded_outcomes: superseded_outcomes.collect() };
        Ok((Self { segment, unsettled, complete_bytes }, split_target))
    }

    /// Adds a task to `unsettled` again if any of its asset files is lost. If any file of a [`Record::AddedAssets`]
    /// record is lost, the record is ignored, and a later run adds the assets of the task again.
    pub(crate) fn mark_unsettled_if_lost(&mut self, mut is_lost: impl FnMut(&Asset) -> Result<bool>) -> Result<()> {
        let mut any_lost = |assets: &[Asset]| assets.iter().try_fold(false, |lost, asset| Ok(is_lost(asset)? || lost));
        let mut lost = HashMap::new();
        let mut segment = SegmentReader::open(&self.segment.path)?;
        while let Some(record) = segment.next_record()? {
            match record {
                // If a task has several `Assets` records, the last record is used.
                Record::Assets { task_id, assets } if !self.segment.excluded.contains(&task_id) => {
                    lost.insert(task_id, any_lost(&assets)?);
                }
                Record::AddedAssets { task_id, assets } if any_lost(&assets)? => {
                    self.segment.excluded.insert(task_id);
                }
                _ => {}
            }
        }
        lost.retain(|_, is_lost| *is_lost);
        if lost.is_empty() {
            return Ok(());
        }
        let mut segment = SegmentReader::open(&self.segment.path)?;
        while let Some(record) = segment.next_record()? {
            if let Record::Task { task_id, fetched_at, data, assets, .. } = record
                && lost.remove(&task_id).is_some()
            {
                *self.segment.superseded_outcomes.entry(task_id.clone()).or_default() += 1;
                self.unsettled.push(Unsettled { task_id, fetched_at, data, assets });
            }
        }
        Ok(())
    }

    /// Returns the run ID of a segment and the number of its responses. Responses that were moved to another segment
    /// are not counted. The segment is not modified.
    pub(crate) fn count_responses(path: &Path) -> Result<(RunId, u64)> {
        let mut segment = SegmentReader::open(path)?;
        let (folder, run_id) = (path.parent().unwrap_or(Path::new(".")), segment.run_id.clone());
        let (mut responses, mut moved) = (0_u64, 0);
        while let Some(record) = segment.next_record()? {
            match record {
                Record::Task { .. } | Record::NotFound { .. } => responses += 1,
                // On a full disk, the other segment may not exist.
                Record::Moved { part, tasks } if segment_path(folder, &run_id, part).exists() => {
                    moved = tasks.len() as u64;
                }
                _ => {}
            }
        }
        Ok((segment.run_id, responses.saturating_sub(moved)))
    }

    /// Reopens the segment, so that the outcomes of pending assets can be appended.
    pub(crate) fn reopen(&self) -> Result<OpenSegment> {
        OpenSegment::reopen(&self.segment.path, self.complete_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::writer::*, *};
    use crate::{run_summary::RunCommand, status::FinalStatus};

    fn unreadable() -> Record {
        Record::Unreadable { task_id: "t".into(), body: "x\n".into() }
    }

    fn read(segment: &ClosedSegment) -> (Vec<Record>, u64) {
        let mut reader = SegmentReader::open(&segment.path).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            records.push(record);
        }
        (records, reader.damaged)
    }

    fn task(id: &str) -> Record {
        let fetched_at = "2026-01-02T03:04:05Z".parse().unwrap();
        let (status, data) = (FinalStatus::Success, format!("{{\"task_id\":\"{id}\"}}"));
        let (task_id, assets) = (id.into(), vec![AssetKind::Audio]);
        Record::Task { task_id, status, fetched_at, data, original_body: None, assets, replaces: false }
    }

    fn settled(id: &str) -> Record {
        Record::Assets { task_id: id.into(), assets: Vec::new() }
    }

    fn ids(leftover: &Leftover) -> Vec<&str> {
        leftover.unsettled.iter().map(|task| task.task_id.as_str()).collect()
    }

    #[test]
    fn a_full_segment_waits_for_its_assets_while_the_next_segment_fills() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SegmentLimits { responses: 2, bytes: u64::MAX };
        let mut writer = JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, limits);
        assert_eq!(writer.append(&[task("a"), task("b")]).unwrap(), 1);
        assert_eq!(writer.append(&[task("c")]).unwrap(), 2);
        writer.append_to(1, &[settled("b")]).unwrap();
        assert_eq!(writer.take_settled_segments(), []);
        writer.append_to(1, &[settled("a")]).unwrap();
        assert_eq!(writer.take_settled_segments().len(), 1);
    }

    #[test]
    fn unsettled_tasks_move_to_a_new_segment_even_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer =
            JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, SegmentLimits::default());
        writer.append(&[task("a"), task("b"), unreadable()]).unwrap();
        writer.append_to(1, &[settled("a")]).unwrap();
        let closed = writer.close().unwrap();
        assert_eq!((closed.len(), &closed[0].excluded), (1, &["b".to_owned()].into()));
        let new = folder.path().join("20260101T000000000Z-abcdef-0002.journal");
        let content = fs::read(&new).unwrap();
        for crashed in [None, Some(0), Some(content.len() / 2)] {
            match crashed {
                None => fs::remove_file(&new).unwrap(),
                Some(length) => fs::write(&new, &content[..length]).unwrap(),
            }
            let remaining = leftovers(folder.path()).unwrap();
            assert_eq!((ids(&remaining[0]), ids(&remaining[1])), (vec![], vec!["b"]));
            assert_eq!((remaining[0].segment.excluded.len(), fs::read(&new).unwrap() == content), (1, true));
        }
        assert_eq!(
            read(&ClosedSegment { path: new, excluded: HashSet::new(), superseded_outcomes: HashMap::new() }),
            (vec![task("b")], 0)
        );
    }

    #[test]
    fn a_segment_without_settled_tasks_is_left_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer =
            JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, SegmentLimits::default());
        writer.append(&[task("a")]).unwrap();
        assert_eq!(writer.close().unwrap(), []);
        assert_eq!(ids(&leftovers(folder.path()).unwrap()[0]), ["a"]);
    }

    #[test]
    fn a_torn_segment_is_resumed_after_its_last_complete_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer =
            JournalWriter::new(folder.path(), RunId::example(), RunCommand::Export, SegmentLimits::default());
        writer.append(&[task("a"), task("b")]).unwrap();
        let path = segments(folder.path()).unwrap().remove(0);
        let torn = fs::read(&path).unwrap();
        fs::write(&path, &torn[..torn.len() - 5]).unwrap();
        let remaining = leftovers(folder.path()).unwrap().remove(0);
        assert_eq!(ids(&remaining), ["a"]);
        remaining.reopen().unwrap().append(&[settled("a")]).unwrap();
        assert_eq!(read(&remaining.segment), (vec![task("a"), settled("a")], 0));
    }
}
