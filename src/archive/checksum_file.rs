//! The checksum file `.sunor/checksums` contains the SHA-256 of every small file that no manifest lists, so that
//! `verify` can detect any change to such a file. The checksum file has the same line format as a manifest. The last
//! line of the checksum file contains the checksum of all preceding lines.
//!
//! When a file is replaced, the checksum of the new file is recorded before the new file is moved to its final path. A
//! crash can occur before the file is moved, so a file counts as intact if it matches any checksum that is recorded for
//! its path. A file without a recorded checksum also counts as intact, because an archive that was copied without
//! `.sunor` has no recorded checksums.

use std::{collections::HashMap, io};

use super::{Archive, CHECKSUMS, inspect::parse_manifest_line, layout::STATE, store::Store};
use crate::{checksum, error::Result};

/// The recorded checksums of small files, by path.
#[derive(Debug, Default)]
pub(crate) struct ChecksumFile(HashMap<String, Vec<String>>);

impl ChecksumFile {
    /// Returns whether checksums are recorded for `path` but none of them matches `content`.
    pub(crate) fn mismatches(&self, path: &str, content: &[u8]) -> bool {
        let expected = self.0.get(path);
        expected.is_some_and(|expected| !expected.contains(&checksum::sha256(content)))
    }
}

impl Archive {
    /// Reads the checksum file. Returns an empty [`ChecksumFile`] if the checksum file does not exist. The inner result
    /// is an error if the checksum file is damaged.
    pub(crate) fn checksum_file(&self) -> Result<io::Result<ChecksumFile>> {
        Ok(match self.store.get(CHECKSUMS)? {
            Some(text) => read(&text).ok_or_else(|| io::Error::other("does not match its own checksum")),
            None => Ok(ChecksumFile::default()),
        })
    }
}

/// Records the checksum of a file before the file is moved to its final path. Leaves a damaged checksum file unchanged,
/// so that `verify` can report the damage. This function blocks.
pub(super) fn add(store: &Store, path: &str, sha256: &str) -> Result<()> {
    store.rewrite(CHECKSUMS, |existing, out| {
        let mut text = Vec::new();
        existing.read_to_end(&mut text)?;
        let line = format!("{sha256}  {path}\n");
        let mut lines = match intact_lines(&text) {
            Some(lines) => lines.to_owned(),
            None if text.is_empty() => String::new(),
            None => return out.write_all(&text).map(|()| 1),
        };
        if !lines.contains(&line) {
            lines += &line;
        }
        writeln!(out, "{lines}{}  {CHECKSUMS}", checksum::sha256(&lines))?;
        Ok(1)
    })?;
    store.sync(STATE)
}

fn read(text: &[u8]) -> Option<ChecksumFile> {
    let mut checksums = ChecksumFile::default();
    for line in intact_lines(text)?.lines() {
        let (digest, path) = parse_manifest_line(line)?;
        checksums.0.entry(path.to_owned()).or_default().push(digest.to_owned());
    }
    Some(checksums)
}

/// Verifies the checksum in the last line and returns all preceding lines. Returns `None` if the checksum does not
/// match.
fn intact_lines(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let last = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (lines, own_line) = text.split_at(last);
    (own_line == format!("{}  {CHECKSUMS}\n", checksum::sha256(lines))).then_some(lines)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn recorded(files: &[(&str, &str)]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".sunor")).unwrap();
        for (path, content) in files {
            add(&Store::local(folder.path()), path, &checksum::sha256(content)).unwrap();
        }
        fs::read(folder.path().join(CHECKSUMS)).unwrap()
    }

    #[test]
    fn a_file_without_checksums_or_with_a_matching_checksum_is_intact() {
        let checksums = read(&recorded(&[("runs/a.json", "1"), ("runs/b.json", "2"), ("runs/a.json", "3")])).unwrap();
        let cases = [("runs/a.json", "1"), ("runs/a.json", "3"), ("runs/a.json", "2"), ("runs/c.json", "2")];
        assert_eq!(cases.map(|(path, text)| checksums.mismatches(path, text.as_bytes())), [false, false, true, false]);
    }

    #[test]
    fn recording_a_checksum_twice_adds_one_line() {
        assert_eq!(recorded(&[("a", "1"), ("a", "1")]), recorded(&[("a", "1")]));
    }

    #[test]
    fn a_damaged_checksum_file_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".sunor")).unwrap();
        let mut text = recorded(&[("a", "1")]);
        text[0] ^= 1;
        fs::write(folder.path().join(CHECKSUMS), &text).unwrap();
        add(&Store::local(folder.path()), "b", &checksum::sha256("2")).unwrap();
        assert_eq!(fs::read(folder.path().join(CHECKSUMS)).unwrap(), text);
    }

    proptest! {
        #[test]
        fn a_checksum_file_with_a_changed_byte_is_damaged(at: prop::sample::Index, bit in 0..8_u32) {
            let mut text = recorded(&[("archive.json", "{}"), ("runs/a-raw.jsonl", "x")]);
            let position = at.index(text.len());
            text[position] ^= 1 << bit;
            prop_assert!(read(&text).is_none(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
