//! Seals: the SHA-256 of each small file that no manifest lists, so that no byte of it can be another
//! unnoticed. They stand in the program's own folder, in lines as a manifest has them; the last line seals
//! those before it.
//!
//! A file is sealed before it is put in place, and is whole if it matches any of its seals: a crash between
//! the two leaves nothing that seems damaged. A file without a seal, of an archive that was copied without the
//! program's folder, say, is taken as it is.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::Path,
};

use super::{Archive, SEALS, inspect::manifest_line, layout, swap};
use crate::{
    checksum,
    error::{Error, Result},
};

/// The seals of an archive.
#[derive(Debug, Default)]
pub(crate) struct DocumentChecksums(HashMap<String, Vec<String>>);

impl DocumentChecksums {
    /// Whether a file of that content has other seals only.
    pub(crate) fn are_broken(&self, path: &str, content: &[u8]) -> bool {
        let seals = self.0.get(path);
        seals.is_some_and(|seals| !seals.contains(&checksum::sha256(content)))
    }
}

impl Archive {
    /// Reads the seals: none if there are none yet, or an error if they are damaged themselves.
    pub(crate) fn seals(&self) -> Result<io::Result<DocumentChecksums>> {
        let path = self.folder.join(SEALS);
        match fs::read(&path) {
            Ok(text) => Ok(read(&text).ok_or_else(|| io::Error::other("is not what was written"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(DocumentChecksums::default())),
            Err(error) => Err(Error::io("read", &path, &error)),
        }
    }
}

/// Seals a file that is about to be put in place. Damaged seals stay as they are until they are repaired, so
/// that they are found. Blocks.
pub(super) fn add(folder: &Path, path: &str, sha256: &str) -> Result<()> {
    let seals = folder.join(SEALS);
    swap::rewrite(&seals, |known, out| {
        let mut text = Vec::new();
        known.read_to_end(&mut text)?;
        let line = format!("{sha256}  {path}\n");
        let mut lines = match sealed_lines(&text) {
            Some(lines) => lines.to_owned(),
            None if text.is_empty() => String::new(),
            None => return out.write_all(&text).map(|()| 1),
        };
        if !lines.contains(&line) {
            lines += &line;
        }
        writeln!(out, "{lines}{}  {SEALS}", checksum::sha256(&lines))?;
        Ok(1)
    })?;
    layout::sync(seals.parent().unwrap_or(folder))
}

fn read(text: &[u8]) -> Option<DocumentChecksums> {
    let mut seals = DocumentChecksums::default();
    for line in sealed_lines(text)?.lines() {
        let (digest, path) = manifest_line(line)?;
        seals.0.entry(path.to_owned()).or_default().push(digest.to_owned());
    }
    Some(seals)
}

/// The lines before the last, if that seals them.
fn sealed_lines(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let last = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (lines, own) = text.split_at(last);
    (own == format!("{}  {SEALS}\n", checksum::sha256(lines))).then_some(lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(files: &[(&str, &str)]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".sunor")).unwrap();
        for (path, content) in files {
            add(folder.path(), path, &checksum::sha256(content)).unwrap();
        }
        fs::read(folder.path().join(SEALS)).unwrap()
    }

    #[test]
    fn a_file_is_whole_by_any_of_its_seals_or_without_one() {
        let seals = read(&sealed(&[("runs/a.json", "1"), ("runs/b.json", "2"), ("runs/a.json", "3")])).unwrap();
        let broken = [("runs/a.json", "1"), ("runs/a.json", "3"), ("runs/a.json", "2"), ("runs/c.json", "2")];
        assert_eq!(broken.map(|(path, text)| seals.are_broken(path, text.as_bytes())), [false, false, true, false]);
    }

    #[test]
    fn a_file_that_is_sealed_twice_has_one_line() {
        assert_eq!(sealed(&[("a", "1"), ("a", "1")]), sealed(&[("a", "1")]));
    }

    #[test]
    fn damaged_seals_stay_so_that_they_are_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".sunor")).unwrap();
        let mut text = sealed(&[("a", "1")]);
        text[0] ^= 1;
        fs::write(folder.path().join(SEALS), &text).unwrap();
        add(folder.path(), "b", &checksum::sha256("2")).unwrap();
        assert_eq!(fs::read(folder.path().join(SEALS)).unwrap(), text);
    }

    proptest! {
        #[test]
        fn seals_with_another_byte_are_none(at: prop::sample::Index, bit in 0..8_u32) {
            let mut text = sealed(&[("archive.json", "{}"), ("runs/a-raw.jsonl", "x")]);
            let place = at.index(text.len());
            text[place] ^= 1 << bit;
            prop_assert!(read(&text).is_none(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
