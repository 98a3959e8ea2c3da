//! The tasks of an archive, with their expected numbers of clips and their actual numbers of rows in `clips`, `lyrics`
//! and `assets`. Each task takes 24 bytes of memory, so ten million tasks take 240 MB.
//!
//! A task is identified by a 64-bit hash of its ID. Each check uses a random hash key. With ten million tasks and ten
//! million rows whose task does not exist, the probability that a hash collision hides one of these rows is 10⁷ · 10⁷ /
//! 2⁶⁴, or one in 180,000. The next check uses a different hash key, so it would detect the hidden row. Tasks with
//! equal hashes are reported as duplicates only if their task IDs are equal too.

use std::hash::{BuildHasher, RandomState};

use crate::asset::AssetKind;

/// The value of `expected_clips` if the expected number of clips is unknown.
pub(super) const UNKNOWN_CLIP_COUNT: i32 = -1;

/// The tasks of an archive.
#[derive(Debug, Default)]
pub(super) struct TaskSet {
    hasher: RandomState,
    /// The tasks, which [`TaskSet::finish`] sorts by hash.
    tasks: Vec<TaskEntry>,
}

#[derive(Clone, Copy, Debug)]
struct TaskEntry {
    hash: u64,
    expected_clips: i32,
    clip_rows: i32,
    lyrics_rows: u8,
    /// The number of asset rows of each kind, in the order of [`AssetKind::ALL`].
    asset_rows: [u16; AssetKind::ALL.len()],
}

/// The kind of a row in a table other than `tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    Clip,
    Lyrics,
    /// A row of `assets`, with the kind of the asset if the kind is valid.
    Asset(Option<AssetKind>),
}

impl TaskSet {
    /// Adds a task and its expected number of clips.
    pub(super) fn add(&mut self, task_id: &str, expected_clips: i32) {
        let hash = self.hash(task_id);
        self.tasks.push(TaskEntry { hash, expected_clips, clip_rows: 0, lyrics_rows: 0, asset_rows: [0; _] });
    }

    /// Sorts the tasks and removes duplicates. Returns the sorted hashes of tasks that were added more than once.
    pub(super) fn finish(&mut self) -> Vec<u64> {
        self.tasks.sort_unstable_by_key(|task| task.hash);
        let mut duplicates: Vec<u64> = Vec::new();
        self.tasks.dedup_by(|later, earlier| {
            let is_duplicate = later.hash == earlier.hash;
            if is_duplicate {
                earlier.expected_clips = UNKNOWN_CLIP_COUNT;
                if duplicates.last() != Some(&later.hash) {
                    duplicates.push(later.hash);
                }
            }
            is_duplicate
        });
        duplicates
    }

    /// Whether a task has a row in `tasks`.
    pub(super) fn contains(&self, task_id: &str) -> bool {
        self.index_of(task_id).is_some()
    }

    /// Counts a row of a task. Returns `false` if the task has no row in `tasks`.
    pub(super) fn count(&mut self, task_id: &str, row: RowKind) -> bool {
        let Some(task) = self.index_of(task_id).and_then(|index| self.tasks.get_mut(index)) else { return false };
        match row {
            RowKind::Clip => task.clip_rows = task.clip_rows.saturating_add(1),
            RowKind::Lyrics => task.lyrics_rows = task.lyrics_rows.saturating_add(1),
            RowKind::Asset(kind) => {
                let index = AssetKind::ALL.iter().position(|known| Some(*known) == kind);
                if let Some(seen) = index.and_then(|index| task.asset_rows.get_mut(index)) {
                    *seen = seen.saturating_add(1);
                }
            }
        }
        true
    }

    /// Returns the sorted hashes of tasks that have more than one lyrics row, or more assets of one kind than clips.
    pub(super) fn with_duplicate_rows(&self) -> Vec<u64> {
        let has_duplicates = |task: &TaskEntry| {
            let max_rows = task.asset_rows.into_iter().map(i32::from).max().unwrap_or_default();
            task.lyrics_rows > 1 || task.expected_clips != UNKNOWN_CLIP_COUNT && max_rows > task.expected_clips
        };
        self.tasks.iter().filter(|task| has_duplicates(task)).map(|task| task.hash).collect()
    }

    /// Returns the sorted hashes of tasks that have more or fewer clips than expected.
    pub(super) fn with_wrong_clip_count(&self) -> Vec<u64> {
        let mismatched =
            |task: &&TaskEntry| task.expected_clips != UNKNOWN_CLIP_COUNT && task.expected_clips != task.clip_rows;
        self.tasks.iter().filter(mismatched).map(|task| task.hash).collect()
    }

    /// Returns the hash that identifies a task.
    pub(super) fn hash(&self, task_id: &str) -> u64 {
        self.hasher.hash_one(task_id)
    }

    fn index_of(&self, task_id: &str) -> Option<usize> {
        let hash = self.hash(task_id);
        self.tasks.binary_search_by_key(&hash, |task| task.hash).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_their_task() {
        let mut tasks = TaskSet::default();
        for (id, clips) in [("a", 2), ("b", 0), ("c", 1), ("b", 0), ("d", UNKNOWN_CLIP_COUNT), ("b", 0)] {
            tasks.add(id, clips);
        }
        assert_eq!(tasks.finish(), [tasks.hash("b")]);
        assert!(
            ["a", "c", "d"].iter().all(|task| tasks.count(task, RowKind::Clip)) && !tasks.count("e", RowKind::Clip)
        );
        assert_eq!(tasks.with_wrong_clip_count(), [tasks.hash("a")]);

        assert!(tasks.contains("b") && !tasks.contains("e"));
        let audio = RowKind::Asset(Some(AssetKind::Audio));
        assert!(
            [audio, audio, RowKind::Asset(Some(AssetKind::Image)), RowKind::Lyrics]
                .iter()
                .all(|row| tasks.count("a", *row))
        );
        assert_eq!(tasks.with_duplicate_rows(), [0; 0]);
        assert!(tasks.count("a", audio) && tasks.count("d", RowKind::Lyrics) && tasks.count("d", RowKind::Lyrics));
        let mut expected = ["a", "d"].map(|task| tasks.hash(task));
        expected.sort_unstable();
        assert_eq!(tasks.with_duplicate_rows(), expected);
    }
}
