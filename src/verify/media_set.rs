//! The files listed in rows and manifests, mainly media files, with their sizes and checksums. Each file takes about 30
//! bytes of memory.
//!
//! A file is identified by a 64-bit hash of its path. Each check uses a random hash key. With ten million files, the
//! probability of a hash collision is 10¹⁴ / 2⁶⁵, or one in 370,000. If two paths have the same hash, one of the files
//! is not checked, or the rows of both files are reported as contradictory. The next check uses a different hash key.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
};

use super::finding::Subject;
use crate::{
    archive::{self, MEDIA},
    asset::{AssetKind, AssetStatus},
};

/// A row of an asset that has a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct MediaRow<'a> {
    pub(super) task_id: &'a str,
    pub(super) clip_id: Option<&'a str>,
    pub(super) kind: AssetKind,
    pub(super) path: &'a str,
    pub(super) bytes: u64,
    pub(super) sha256: &'a str,
}

impl<'a> MediaRow<'a> {
    /// Parses the cells of a row, in the order of [`super::rows::ASSET_COLUMNS`]. Returns `None` if the status of the
    /// asset is not `ok`. Returns an error if the status is `ok`, but the row lacks a valid path or another required
    /// value.
    pub(super) fn from_cells(cells: &[Option<&'a str>]) -> Option<Result<Self, String>> {
        let [task_id, clip_id, kind, status, path, bytes, sha256] = *cells else { return None };
        if !is_ok(status) {
            return None;
        }
        let clip = clip_id.map_or_else(|| "of a clip without an ID".into(), |id| format!("of clip {id}"));
        let missing = |what: &str| format!("has a row without {what} ({clip})");
        let row = || {
            Ok(Self {
                task_id: task_id.ok_or_else(|| missing("a task ID"))?,
                clip_id,
                kind: kind.and_then(AssetKind::parse).ok_or_else(|| missing("a valid kind"))?,
                path: path.filter(|path| is_media(path)).ok_or_else(|| missing("a path under media/"))?,
                bytes: bytes.and_then(|bytes| bytes.parse().ok()).ok_or_else(|| missing("a valid size"))?,
                sha256: sha256.filter(|digest| digest.len() == 64).ok_or_else(|| missing("a valid SHA-256"))?,
            })
        };
        Some(row())
    }

    pub(super) fn subject(&self) -> Subject {
        let (task_id, clip_id) = (self.task_id.to_owned(), self.clip_id.map(str::to_owned));
        Subject::Asset { task_id, clip_id, kind: self.kind }
    }
}

/// Whether a path is under `media/`.
pub(super) fn is_media(path: &str) -> bool {
    archive::is_inside(path) && path.split('/').next() == Some(MEDIA) && path.contains('/')
}

/// The files listed in the rows and manifests of an archive, mainly media files.
#[derive(Debug, Default)]
pub(super) struct MediaSet {
    hasher: RandomState,
    files: HashMap<u64, MediaEntry>,
}

#[derive(Clone, Copy, Debug)]
struct MediaEntry {
    /// A 64-bit hash of the file's SHA-256, computed by [`short_hash`].
    digest: u64,
    bytes: u64,
    in_manifest: bool,
    queued: bool,
}

/// The result of comparing the checksum in a manifest line with rows and earlier manifest lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChecksumMatch {
    /// The checksum matches the checksum in a row or an earlier manifest line.
    Same,
    /// The checksum does not match the checksum in a row or an earlier manifest line.
    Different,
    /// No row and no earlier manifest line lists the file.
    Unknown,
}

impl MediaSet {
    /// Adds a row. Returns `false` if another row has a different size or checksum for the same file.
    pub(super) fn add(&mut self, row: &MediaRow<'_>) -> bool {
        let entry = MediaEntry { digest: short_hash(row.sha256), bytes: row.bytes, in_manifest: false, queued: false };
        let existing = self.files.entry(self.hasher.hash_one(row.path)).or_insert(entry);
        (existing.digest, existing.bytes) == (entry.digest, entry.bytes)
    }

    /// Records that a file is listed in a manifest. This method must be called only after all rows have been added.
    pub(super) fn add_manifest_line(&mut self, path: &str, sha256: &str) -> ChecksumMatch {
        let digest = short_hash(sha256);
        match self.files.entry(self.hasher.hash_one(path)) {
            Entry::Vacant(slot) => {
                slot.insert(MediaEntry { digest, bytes: 0, in_manifest: true, queued: true });
                ChecksumMatch::Unknown
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().in_manifest = true;
                if entry.get().digest == digest { ChecksumMatch::Same } else { ChecksumMatch::Different }
            }
        }
    }

    /// Whether a manifest lists the file.
    pub(super) fn is_listed(&self, path: &str) -> bool {
        self.files.get(&self.hasher.hash_one(path)).is_some_and(|entry| entry.in_manifest)
    }

    /// Whether a row or a manifest lists the file.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.files.contains_key(&self.hasher.hash_one(path))
    }

    /// Marks a file as queued. Returns `false` if the file is unknown or has already been queued.
    pub(super) fn mark_queued(&mut self, path: &str) -> bool {
        let entry = self.files.get_mut(&self.hasher.hash_one(path));
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.queued, true))
    }

    /// The number of files.
    pub(super) fn len(&self) -> u64 {
        self.files.len() as u64
    }
}

/// Whether the status of a row is `ok`, which means that the asset has a file.
fn is_ok(status: Option<&str>) -> bool {
    status.and_then(AssetStatus::parse) == Some(AssetStatus::Ok)
}

/// Returns a 64-bit hash of a checksum. All hexadecimal digits are hashed, because any digit may be damaged.
fn short_hash(sha256: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    sha256.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(path: &'a str, sha256: &'a str) -> MediaRow<'a> {
        MediaRow { task_id: "t", clip_id: None, kind: AssetKind::Audio, path, bytes: 7, sha256 }
    }

    #[test]
    fn rows_and_manifests_that_disagree_about_a_file_are_detected() {
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        let mut set = MediaSet::default();
        assert!(set.add(&row("media/a", &one)) && set.add(&row("media/a", &one)) && set.add(&row("media/b", &one)));
        assert!(!set.add(&row("media/a", &other)));
        let matches = [("media/a", &one), ("media/b", &other), ("media/c", &one)];
        assert_eq!(
            matches.map(|(path, digest)| set.add_manifest_line(path, digest)),
            [ChecksumMatch::Same, ChecksumMatch::Different, ChecksumMatch::Unknown]
        );
        assert!(set.is_listed("media/a") && !set.is_listed("media/d") && set.contains("media/b"));
        assert!(set.mark_queued("media/a") && !set.mark_queued("media/a") && !set.mark_queued("media/c"));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn a_row_with_status_ok_requires_a_path_size_and_checksum() {
        let digest = "a".repeat(64);
        let complete =
            [Some("t"), None, Some("audio"), Some("ok"), Some("media/audio/ab/c.mp3"), Some("7"), Some(&digest)];
        assert!(MediaRow::from_cells(&complete).unwrap().is_ok());
        for (index, cell) in
            [(2, None), (4, None), (4, Some("../x")), (4, Some("tasks/x")), (5, Some("-1")), (6, Some("a"))]
        {
            let mut cells = complete;
            cells[index] = cell;
            assert!(MediaRow::from_cells(&cells).unwrap().is_err(), "{index}");
        }
        let mut failed = complete;
        failed[3] = Some("failed");
        assert!(MediaRow::from_cells(&failed).is_none());
    }
}
