//! The tasks in the tasks table, with the expected and actual numbers of their rows in the other tables. A task takes
//! 24 bytes, so ten million tasks take 240 MB.
//!
//! A task is identified by a 64-bit hash with a random key for each check. With ten million tasks and ten million
//! rows without a task, the probability that one of these rows is not detected is 10⁷ · 10⁷ / 2⁶⁴, or one in 180,000.
//! The next check uses another key. A problem that is detected by hash is confirmed by comparing task IDs before it
//! is reported.

use std::hash::{BuildHasher, RandomState};

use crate::asset::AssetKind;

/// The value of `clips_due` if the number of clips is unknown.
pub(super) const ANY: i32 = -1;

/// The tasks of an archive.
#[derive(Debug, Default)]
pub(super) struct TaskSet {
    hasher: RandomState,
    /// The tasks, sorted by hash after [`TaskSet::finish`].
    tasks: Vec<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    hash: u64,
    clips_due: i32,
    clips_seen: i32,
    lyrics_seen: u8,
    /// The number of assets of each kind, in the order of [`AssetKind::ALL`].
    assets_seen: [u16; AssetKind::ALL.len()],
}

/// A row of a table other than `tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Clip,
    Lyrics,
    /// A row of `assets`, with the kind of the asset if the kind is valid.
    Asset(Option<AssetKind>),
}

impl TaskSet {
    /// Adds a task with the number of clips from its row.
    pub(super) fn add(&mut self, task_id: &str, clips_due: i32) {
        let hash = self.hash(task_id);
        self.tasks.push(Known { hash, clips_due, clips_seen: 0, lyrics_seen: 0, assets_seen: [0; _] });
    }

    /// Sorts the tasks and removes duplicates. Returns the sorted hashes of tasks that were added more than once.
    pub(super) fn finish(&mut self) -> Vec<u64> {
        self.tasks.sort_unstable_by_key(|task| task.hash);
        let mut repeated: Vec<u64> = Vec::new();
        self.tasks.dedup_by(|later, kept| {
            let same = later.hash == kept.hash;
            if same {
                kept.clips_due = ANY;
                if repeated.last() != Some(&later.hash) {
                    repeated.push(later.hash);
                }
            }
            same
        });
        repeated
    }

    /// Whether a task has a row in `tasks`.
    pub(super) fn has(&self, task_id: &str) -> bool {
        self.place(task_id).is_some()
    }

    /// Counts a row for its task. Returns `false` if the task has no row in `tasks`.
    pub(super) fn count(&mut self, task_id: &str, row: Row) -> bool {
        let Some(task) = self.place(task_id).and_then(|place| self.tasks.get_mut(place)) else { return false };
        match row {
            Row::Clip => task.clips_seen = task.clips_seen.saturating_add(1),
            Row::Lyrics => task.lyrics_seen = task.lyrics_seen.saturating_add(1),
            Row::Asset(kind) => {
                let place = AssetKind::ALL.iter().position(|known| Some(*known) == kind);
                if let Some(seen) = place.and_then(|place| task.assets_seen.get_mut(place)) {
                    *seen = seen.saturating_add(1);
                }
            }
        }
        true
    }

    /// Returns the sorted hashes of tasks that have more than one lyrics row, or more assets of one kind than clips.
    pub(super) fn overcounted(&self) -> Vec<u64> {
        let has_more = |task: &Known| {
            let most = task.assets_seen.into_iter().map(i32::from).max().unwrap_or_default();
            task.lyrics_seen > 1 || task.clips_due != ANY && most > task.clips_due
        };
        self.tasks.iter().filter(|task| has_more(task)).map(|task| task.hash).collect()
    }

    /// Returns the sorted hashes of tasks that have more or fewer clips than expected.
    pub(super) fn miscounted(&self) -> Vec<u64> {
        let odd = |task: &&Known| task.clips_due != ANY && task.clips_due != task.clips_seen;
        self.tasks.iter().filter(odd).map(|task| task.hash).collect()
    }

    /// Returns the hash that identifies a task.
    pub(super) fn hash(&self, task_id: &str) -> u64 {
        self.hasher.hash_one(task_id)
    }

    fn place(&self, task_id: &str) -> Option<usize> {
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
        for (id, clips) in [("a", 2), ("b", 0), ("c", 1), ("b", 0), ("d", ANY), ("b", 0)] {
            tasks.add(id, clips);
        }
        assert_eq!(tasks.finish(), [tasks.hash("b")]);
        assert!(["a", "c", "d"].iter().all(|task| tasks.count(task, Row::Clip)) && !tasks.count("e", Row::Clip));
        assert_eq!(tasks.miscounted(), [tasks.hash("a")]);

        assert!(tasks.has("b") && !tasks.has("e"));
        let audio = Row::Asset(Some(AssetKind::Audio));
        assert!(
            [audio, audio, Row::Asset(Some(AssetKind::Image)), Row::Lyrics].iter().all(|row| tasks.count("a", *row))
        );
        assert_eq!(tasks.overcounted(), [0; 0]);
        assert!(tasks.count("a", audio) && tasks.count("d", Row::Lyrics) && tasks.count("d", Row::Lyrics));
        let mut expected = ["a", "d"].map(|task| tasks.hash(task));
        expected.sort_unstable();
        assert_eq!(tasks.overcounted(), expected);
    }
}
