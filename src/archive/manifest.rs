//! A run's manifest: the SHA-256 of every file it added, as `sha256sum -c` reads it from inside the archive.

use std::collections::BTreeMap;

use super::store::StoredFile;

/// The manifest's text with these files added; a file that is there already is replaced.
pub(super) fn with(text: &str, files: &[StoredFile]) -> String {
    let known = text.lines().filter_map(|line| line.split_once("  ")).map(|(digest, path)| (path, digest));
    let added = files.iter().map(|file| (file.path.as_str(), file.sha256.as_str()));
    let digests: BTreeMap<&str, &str> = known.chain(added).collect();
    let lines: Vec<String> = digests.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, sha256: &str) -> StoredFile {
        StoredFile { path: path.into(), sha256: sha256.into() }
    }

    #[test]
    fn files_are_added_once_and_in_order() {
        let first = with("", &[file("tasks/b", "02"), file("clips/a", "01")]);
        assert_eq!(first, "01  clips/a\n02  tasks/b\n");
        assert_eq!(with(&first, &[file("tasks/b", "03")]), "01  clips/a\n03  tasks/b\n");
    }
}
