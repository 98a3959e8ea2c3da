//! The names of media files, and the functions that store media files in the archive.
//!
//! Clip IDs are untrusted input and can contain any characters. An ID that is a safe file name on every file system is
//! used unchanged as the file name. For an unsafe ID, the file name consists of a few safe characters from the ID and a
//! hash of the ID. Two different IDs therefore never share a file name, even on case-insensitive file systems (Windows,
//! macOS).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{LockedArchive, layout, local};
use crate::{
    asset::AssetKind,
    checksum,
    error::{Error, Result},
    ranged::RangedFile,
};

/// The maximum length, in bytes, of an ID that is used unchanged as a file name. Even with an extension, such a file
/// name is shorter than 255 bytes, the limit of most file systems.
const MAX_UNCHANGED_ID_LENGTH: usize = 100;

/// The number of hex digits in the hash of an ID that is not a safe file name.
const HASH_DIGITS: usize = 32;

/// File names that Windows reserves, regardless of the extension.
const RESERVED_NAMES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// The path of a clip's audio, cover or video file, without the extension. The extension depends on the file contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MediaName {
    folder: String,
    name: String,
    kind: AssetKind,
}

impl MediaName {
    /// Creates the media name for an asset of a clip. A clip without an ID is identified by the task ID and the index
    /// of the clip in the task.
    pub(crate) fn new(kind: AssetKind, clip_id: Option<&str>, task_id: &str, clip_index: i32) -> Self {
        let id = clip_id.unwrap_or_default();
        let folder = format!("{}/{kind}/{}", layout::MEDIA, hex(id, 2));
        let name = match id {
            "" => format!("clip~{}", hex(&format!("{task_id}/{clip_index}"), HASH_DIGITS)),
            id if is_safe_file_name(id) => id.to_owned(),
            id => format!("{}~{}", safe_prefix(id), hex(id, HASH_DIGITS)),
        };
        Self { folder, name, kind }
    }

    /// Returns the path of the file with the given extension, relative to the archive.
    pub(crate) fn path(&self, extension: &str) -> String {
        format!("{}/{}.{extension}", self.folder, self.name)
    }

    /// Returns the file name of the partial download.
    fn partial(&self) -> String {
        format!("{}-{}.part", self.kind, self.name)
    }
}

fn is_safe_file_name(id: &str) -> bool {
    id.len() <= MAX_UNCHANGED_ID_LENGTH
        && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && !id.starts_with('-')
        && !RESERVED_NAMES.contains(&id)
}

/// Returns up to 20 safe characters of an ID, so that a user can recognize the file.
fn safe_prefix(id: &str) -> String {
    let lower = id.chars().map(|character| character.to_ascii_lowercase());
    let plain: String = lower.filter(char::is_ascii_alphanumeric).take(20).collect();
    if plain.is_empty() { "clip".into() } else { plain }
}

/// Returns the first `digits` hex digits of the SHA-256 of a string.
fn hex(text: &str, digits: usize) -> String {
    let mut hex = checksum::sha256(text);
    hex.truncate(digits);
    hex
}

impl LockedArchive {
    /// Opens the media file that has the given name and one of the given extensions. Returns the path and the open
    /// file, or `None` if no such file can be opened. A file at its final path is complete, unless the user created the
    /// file. This function blocks.
    pub(crate) fn open_media(&self, name: &MediaName, extensions: &[&str]) -> Option<(String, RangedFile)> {
        let store = &self.store;
        extensions.iter().find_map(|extension| {
            let path = name.path(extension);
            let is_file = store.try_size(&path).is_ok_and(|size| size.is_some());
            // A file that cannot be opened counts as missing and is replaced.
            is_file.then(|| store.try_open(&path).ok()).flatten().map(|file| (path, file))
        })
    }

    /// Returns the local path of the partial file for a media name.
    pub(crate) fn partial(&self, name: &MediaName) -> PathBuf {
        self.store.state_path(layout::PARTIAL).join(name.partial())
    }

    /// Moves a complete download to its final path. The contents are durable before the file appears at its final path.
    /// This function blocks.
    pub(crate) fn store_media(&self, partial: &Path, path: &str) -> Result<()> {
        self.store.move_in(partial, path)
    }

    /// Creates the folder for downloads in progress.
    pub(crate) fn create_partial_folder(&self) -> Result<()> {
        let folder = self.store.state_path(layout::PARTIAL);
        local::create_folder(&folder).map_err(|error| Error::io("create", &folder, &error))
    }

    /// Removes all partial files. The caller must ensure that no download still needs its partial file.
    pub(crate) fn remove_partials(&self) -> Result<()> {
        let folder = self.store.state_path(layout::PARTIAL);
        let removed = local::none_if_missing(fs::remove_dir_all(&folder));
        removed.map(drop).map_err(|error| Error::io("remove", &folder, &error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(id: &str) -> String {
        MediaName::new(AssetKind::Audio, Some(id), "t", 0).path("mp3")
    }

    #[test]
    fn an_ordinary_id_is_used_as_the_file_name() {
        assert_eq!(path("0a1b2c3d-e4f5"), format!("media/audio/{}/0a1b2c3d-e4f5.mp3", hex("0a1b2c3d-e4f5", 2)));
        // The SHA-256 of an empty input starts with `e3`.
        assert_eq!(hex("", 2), "e3");
    }

    #[test]
    fn an_unsafe_id_becomes_a_safe_name() {
        let long = "x".repeat(300);
        for id in ["../../x", "CON", "con", "nul", "a/b", "a\\b", "🎸", ".", "-rf", "A", "a b", "a\n", "%41", &long] {
            let path = path(id);
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(path.matches('/').count(), 3, "{path}");
            assert!(name.len() < 120 && name.contains('~'), "{path}");
        }
        let nameless = |index| MediaName::new(AssetKind::Audio, None, "t", index).path("mp3");
        assert_ne!(nameless(0), nameless(1));
    }

    proptest! {
        #[test]
        fn two_ids_never_share_a_file_on_case_insensitive_file_systems(a in "\\PC{0,8}", b in "\\PC{0,8}") {
            prop_assume!(a != b && !a.is_empty() && !b.is_empty());
            prop_assert_ne!(path(&a).to_lowercase(), path(&b).to_lowercase());
            prop_assert_ne!(path(&a).to_lowercase(), path(&a.to_uppercase()).to_lowercase() + if a == a.to_uppercase() { "!" } else { "" });
            prop_assert!(path(&a).is_ascii() && !path(&a).contains(['\r', '\n', '%', '\\']));
        }
    }
}
