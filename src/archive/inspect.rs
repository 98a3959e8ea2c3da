//! Read-only access to an archive that may be damaged, for `verify`.

use std::{
    io,
    path::{Component, Path},
};

use super::{Archive, ArchiveMetadata, FORMAT_VERSION, FormatVersion, Location, layout::METADATA, store::Store};
use crate::{error::Result, filesystem, format::TableFormat, ranged::RangedFile};

/// The state of `archive.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetadataState {
    /// `archive.json` is intact.
    Intact,
    /// `archive.json` has a format version that is newer than `FORMAT_VERSION`.
    Unsupported(u32),
    /// `archive.json` is damaged. The string describes the damage.
    Damaged(String),
}

/// A file or a subfolder in an archive folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path of the entry in the archive.
    pub(crate) path: String,
    pub(crate) is_folder: bool,
}

impl Entry {
    /// Returns the name of the entry, without its parent folder.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns whether the entry is a staging file, which was created by a write in progress or left behind by a
    /// crashed process.
    pub(crate) fn is_staging_file(&self) -> bool {
        let number = self.name().rsplit_once('#').map(|(_, number)| number);
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        !self.is_folder && number.is_some_and(is_number)
    }
}

impl Archive {
    /// Opens an archive whose `archive.json` may be damaged. If `archive.json` is damaged, the table format is inferred
    /// from the file extensions of the parts.
    ///
    /// # Errors
    /// Returns [`Error::Usage`](crate::error::Error::Usage) if the location is not an archive, or if the archive has a
    /// newer format version that this program cannot read.
    pub(crate) fn open_for_verify(location: &Location) -> Result<(Self, MetadataState)> {
        let (opened, store) = (Self::open(location), location.store());
        let state = match (store.try_read(METADATA), &opened) {
            (Ok(text), _) => metadata_state(&text),
            (Err(_), Err(_)) => return opened.map(|archive| (archive, MetadataState::Intact)),
            (Err(error), Ok(_)) => return Err(store.storage_error("read", METADATA, &error)),
        };
        match (opened, state) {
            (Err(_), MetadataState::Damaged(reason)) => {
                Ok((Self::with_format(location, infer_format(&store)?), MetadataState::Damaged(reason)))
            }
            (opened, state) => Ok((opened?, state)),
        }
    }

    /// Returns the size of a file in bytes, or `None` if the file does not exist.
    pub(crate) fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.store.try_size(path)
    }

    /// Opens a file that may be damaged.
    pub(crate) fn read(&self, path: &str) -> io::Result<RangedFile> {
        self.store.try_open(path)
    }

    /// Reads a small file that may be damaged.
    ///
    /// # Errors
    /// Returns [`Error::Storage`](crate::error::Error::Storage) if the read fails for a reason other than damage.
    pub(crate) fn read_small_file(&self, path: &str) -> Result<io::Result<Vec<u8>>> {
        self.separate_damage(path, self.store.try_read(path))
    }

    /// Returns a read error as the inner error if the error indicates damage. Returns any other read error as the outer
    /// error, which stops the command.
    pub(crate) fn separate_damage<T>(&self, path: &str, read: io::Result<T>) -> Result<io::Result<T>> {
        match read {
            Err(error) if !filesystem::is_damage(&error) => Err(self.store.storage_error("read", path, &error)),
            read => Ok(read),
        }
    }

    /// Converts the local path of a file in `.sunor` to its path in the archive.
    pub(crate) fn archive_path(&self, path: &Path) -> String {
        self.store.archive_path(path)
    }
}

/// Returns whether an untrusted path stays inside the archive.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|piece| matches!(piece, Component::Normal(_)))
}

/// Parses a manifest line, without its line feed, into the digest and the path. Returns `None` if the line is invalid.
pub(crate) fn parse_manifest_line(line: &str) -> Option<(&str, &str)> {
    let (digest, path) = line.split_once("  ")?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_digest && is_inside(path) && !path.contains('\r')).then_some((digest, path))
}

fn metadata_state(text: &[u8]) -> MetadataState {
    let metadata: ArchiveMetadata = match serde_json::from_slice(text) {
        Ok(metadata) => metadata,
        Err(error) => {
            let unsupported =
                serde_json::from_slice::<FormatVersion>(text).ok().filter(|it| it.format_version > FORMAT_VERSION);
            return unsupported.map_or_else(
                || MetadataState::Damaged(error.to_string()),
                |version| MetadataState::Unsupported(version.format_version),
            );
        }
    };
    match metadata.format_version {
        0 => MetadataState::Damaged("invalid format version 0".into()),
        1..=FORMAT_VERSION if !is_valid_created_by(&metadata.created_by) => {
            MetadataState::Damaged(format!("invalid `created_by` value `{}`", metadata.created_by))
        }
        1..=FORMAT_VERSION => MetadataState::Intact,
        unsupported => MetadataState::Unsupported(unsupported),
    }
}

fn is_valid_created_by(created_by: &str) -> bool {
    let version = created_by.strip_prefix("sunor-archive ");
    version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

fn infer_format(store: &Store) -> Result<TableFormat> {
    for table in ["tasks", "clips", "lyrics", "assets"] {
        if store.list(table)?.iter().any(|entry| Path::new(entry.name()).extension().is_some_and(|it| it == "csv")) {
            return Ok(TableFormat::Csv);
        }
    }
    Ok(TableFormat::Parquet)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Error;

    const INTACT: &str = r#"{"format_version":1,"table_format":"csv","created_at":"2026-01-02T03:04:05Z","created_by":"sunor-archive 0.1.0"}"#;

    #[test]
    fn metadata_is_intact_unsupported_or_damaged() {
        let state = |from: &str, to: &str| metadata_state(INTACT.replace(from, to).as_bytes());
        assert_eq!(state("", ""), MetadataState::Intact);
        assert_eq!(state(":1,", ":2,"), MetadataState::Unsupported(2));
        for (from, to) in [(":1,", ":0,"), ("csv", "css"), ("created_at", "cre4ted_at"), ("sunor", "tunor"), ("}", "")]
        {
            assert!(matches!(state(from, to), MetadataState::Damaged(_)), "{from} to {to}");
        }
        assert_eq!(metadata_state(br#"{"format_version":7}"#), MetadataState::Unsupported(7));
    }

    #[test]
    fn an_archive_with_damaged_metadata_can_be_checked() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::from(folder.path());
        assert!(matches!(Archive::open_for_verify(&location), Err(Error::Usage(_))));
        fs::write(folder.path().join("archive.json"), "{").unwrap();
        fs::create_dir(folder.path().join("tasks")).unwrap();
        fs::write(folder.path().join("tasks/a.csv"), "").unwrap();
        let (archive, state) = Archive::open_for_verify(&location).unwrap();
        assert_eq!(archive.format, TableFormat::Csv);
        assert!(matches!(state, MetadataState::Damaged(_)));
    }

    #[test]
    fn a_manifest_line_is_a_digest_and_a_path_inside_the_archive() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(parse_manifest_line(&format!("{digest}  tasks/a b")), Some((digest.as_str(), "tasks/a b")));
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a\r"] {
            assert_eq!(parse_manifest_line(&format!("{digest}  {path}")), None, "{path}");
        }
        for line in [format!("{digest} *a"), format!("{}  a", digest.to_uppercase()), format!("{}  a", &digest[1..])] {
            assert_eq!(parse_manifest_line(&line), None, "{line}");
        }
    }
}
