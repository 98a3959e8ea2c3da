//! A run's manifest: the SHA-256 of every file it added, as `sha256sum -c` reads it from inside the archive.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
};

use super::store::StoredFile;

/// Writes a manifest anew, with these files added; a file that is there already is replaced. Memory holds
/// what is added, and a line of what is known: its lines are in the order of their paths, as written here.
pub(super) fn merge(known: impl BufRead, files: &[StoredFile], out: &mut impl Write) -> io::Result<()> {
    let added: BTreeMap<&str, &str> = files.iter().map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
    let mut added = added.into_iter().peekable();
    for line in known.lines() {
        let line = line?;
        let Some((digest, path)) = line.split_once("  ") else { continue };
        while let Some((path, digest)) = added.next_if(|(added, _)| *added < path) {
            writeln!(out, "{digest}  {path}")?;
        }
        let (path, digest) = added.next_if(|(added, _)| *added == path).unwrap_or((path, digest));
        writeln!(out, "{digest}  {path}")?;
    }
    added.try_for_each(|(path, digest)| writeln!(out, "{digest}  {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(known: &str, files: &[(&str, &str)]) -> String {
        let file = |(path, sha256): &(&str, &str)| StoredFile { path: (*path).into(), sha256: (*sha256).into() };
        let files: Vec<StoredFile> = files.iter().map(file).collect();
        let mut out = Vec::new();
        merge(known.as_bytes(), &files, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn files_are_added_once_and_in_order() {
        let first = with("", &[("tasks/b", "02"), ("clips/a", "01")]);
        assert_eq!(first, "01  clips/a\n02  tasks/b\n");
        assert_eq!(with(&first, &[("tasks/b", "03")]), "01  clips/a\n03  tasks/b\n");
        assert_eq!(
            with(&first, &[("d", "04"), ("z", "05"), ("a", "06")]),
            "06  a\n01  clips/a\n04  d\n02  tasks/b\n05  z\n"
        );
        assert_eq!(with(&first, &[]), first);
    }
}
