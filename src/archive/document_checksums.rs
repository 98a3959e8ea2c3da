//! The checksum file: the SHA-256 of each small file that no manifest lists, so that no byte of it changes
//! unnoticed. It is in the program's own folder, with lines like a manifest's; the last line is the checksum of
//! those before it.
//!
//! A checksum is recorded before its file is put in place, and a file is intact if it matches any of its
//! checksums: a crash between the two leaves nothing that looks damaged. A file without a checksum, as in an
//! archive that was copied without the program's folder, counts as intact.

use std::{collections::HashMap, io};

use super::{Archive, CHECKSUMS, inspect::manifest_line, layout::STATE, store::Store};
use crate::{checksum, error::Result};

/// The checksums of an archive's small files, by path.
#[derive(Debug, Default)]
pub(crate) struct DocumentChecksums(HashMap<String, Vec<String>>);

impl DocumentChecksums {
    /// Whether a file has checksums, and its content matches none of them.
    pub(crate) fn are_broken(&self, path: &str, content: &[u8]) -> bool {
        let known = self.0.get(path);
        known.is_some_and(|known| !known.contains(&checksum::sha256(content)))
    }
}

impl Archive {
    /// Reads the checksum file: no checksums if there is none yet, an error if it is damaged itself.
    pub(crate) fn document_checksums(&self) -> Result<io::Result<DocumentChecksums>> {
        Ok(match self.store.get(CHECKSUMS)? {
            Some(text) => read(&text).ok_or_else(|| io::Error::other("is not what was written")),
            None => Ok(DocumentChecksums::default()),
        })
    }
}

/// Records the checksum of a file that is about to be put in place. A damaged checksum file stays as it is
/// until it is repaired, so that `verify` finds it. Blocks.
pub(super) fn add(store: &Store, path: &str, sha256: &str) -> Result<()> {
    store.rewrite(CHECKSUMS, |known, out| {
        let mut text = Vec::new();
        known.read_to_end(&mut text)?;
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

fn read(text: &[u8]) -> Option<DocumentChecksums> {
    let mut checksums = DocumentChecksums::default();
    for line in intact_lines(text)?.lines() {
        let (digest, path) = manifest_line(line)?;
        checksums.0.entry(path.to_owned()).or_default().push(digest.to_owned());
    }
    Some(checksums)
}

/// The lines before the last, if the last one is their checksum.
fn intact_lines(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let last = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (lines, own) = text.split_at(last);
    (own == format!("{}  {CHECKSUMS}\n", checksum::sha256(lines))).then_some(lines)
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
    fn a_file_is_intact_if_any_of_its_checksums_matches_or_it_has_none() {
        let checksums = read(&recorded(&[("runs/a.json", "1"), ("runs/b.json", "2"), ("runs/a.json", "3")])).unwrap();
        let broken = [("runs/a.json", "1"), ("runs/a.json", "3"), ("runs/a.json", "2"), ("runs/c.json", "2")];
        assert_eq!(broken.map(|(path, text)| checksums.are_broken(path, text.as_bytes())), [false, false, true, false]);
    }

    #[test]
    fn recording_a_checksum_twice_adds_one_line() {
        assert_eq!(recorded(&[("a", "1"), ("a", "1")]), recorded(&[("a", "1")]));
    }

    #[test]
    fn a_damaged_checksum_file_stays_so_that_it_is_found() {
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
            let place = at.index(text.len());
            text[place] ^= 1 << bit;
            prop_assert!(read(&text).is_none(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
