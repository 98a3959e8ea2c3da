//! Which tasks have their row, and how many clips each should have: 16 bytes a task, so that ten million
//! tasks take 160 MB.
//!
//! A task is known by 64 bits of a hash whose key is drawn anew for each check. Of ten million tasks and as
//! many rows without a task, the chance that one of those goes unnoticed is 10⁷ · 10⁷ / 2⁶⁴, one in 180,000,
//! and the next check draws another key. What is suspected because of its hash is looked up by name before
//! it is said, so nothing is found that is not there.

use std::hash::{BuildHasher, RandomState};

/// A task whose number of clips cannot be told yet.
pub(super) const ANY: i32 = -1;

/// The tasks of an archive.
#[derive(Debug, Default)]
pub(super) struct TaskSet {
    hasher: RandomState,
    /// In the order of their hashes once it is [`TaskSet::seal`]ed.
    tasks: Vec<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    hash: u64,
    clips_due: i32,
    clips_seen: i32,
}

impl TaskSet {
    /// Adds the row of a task, and how many clips it says the task has.
    pub(super) fn add(&mut self, task_id: &str, clips_due: i32) {
        self.tasks.push(Known { hash: self.hash(task_id), clips_due, clips_seen: 0 });
    }

    /// Ends the adding: the hashes, sorted, of tasks that were added more than once.
    pub(super) fn seal(&mut self) -> Vec<u64> {
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

    /// Whether a task has its row.
    pub(super) fn has(&self, task_id: &str) -> bool {
        self.place(task_id).is_some()
    }

    /// Counts a clip for its task; `false` if the task has no row.
    pub(super) fn count_clip(&mut self, task_id: &str) -> bool {
        let task = self.place(task_id).and_then(|place| self.tasks.get_mut(place));
        task.is_some_and(|task| {
            task.clips_seen = task.clips_seen.saturating_add(1);
            true
        })
    }

    /// The hashes, sorted, of tasks that have more or fewer clips than they should.
    pub(super) fn miscounted(&self) -> Vec<u64> {
        let odd = |task: &&Known| task.clips_due != ANY && task.clips_due != task.clips_seen;
        self.tasks.iter().filter(odd).map(|task| task.hash).collect()
    }

    /// What a task is known by.
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
        assert_eq!(tasks.seal(), [tasks.hash("b")]);
        assert!(tasks.has("a") && tasks.has("b") && !tasks.has("e"));
        assert!(tasks.count_clip("a") && tasks.count_clip("c") && tasks.count_clip("d") && !tasks.count_clip("e"));
        assert_eq!(tasks.miscounted(), [tasks.hash("a")]);
    }
}
