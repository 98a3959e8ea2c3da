//! The location of an archive.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::store::Store;
use crate::error::{Error, Result};

/// The location of an existing or new archive.
#[derive(Clone, Debug)]
pub struct Location(LocationKind);

#[derive(Clone, Debug)]
enum LocationKind {
    Folder(PathBuf),
    /// A store with an arbitrary backend, for tests.
    #[cfg(test)]
    Store(Store),
}

impl Location {
    /// Returns the store of the archive at this location.
    pub(super) fn store(&self) -> Store {
        match &self.0 {
            LocationKind::Folder(folder) => Store::local(folder),
            #[cfg(test)]
            LocationKind::Store(store) => store.clone(),
        }
    }

    /// Returns an error if the location or one of its parent paths is a file.
    pub(super) fn check(&self) -> Result<()> {
        let obstacle = match &self.0 {
            LocationKind::Folder(folder) => folder.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()),
            #[cfg(test)]
            LocationKind::Store(_) => None,
        };
        let is_file = |file: &Path| format!("--out {self}: {} is a file, not a folder", file.display());
        obstacle.map_or(Ok(()), |file| Err(Error::usage(is_file(file))))
    }
}

impl From<PathBuf> for Location {
    fn from(folder: PathBuf) -> Self {
        Self(LocationKind::Folder(folder))
    }
}

impl From<&Path> for Location {
    fn from(folder: &Path) -> Self {
        folder.to_owned().into()
    }
}

#[cfg(test)]
impl From<Store> for Location {
    fn from(store: Store) -> Self {
        Self(LocationKind::Store(store))
    }
}

impl fmt::Display for Location {
    /// Formats the location as the user specified it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LocationKind::Folder(folder) => folder.display().fmt(f),
            #[cfg(test)]
            LocationKind::Store(store) => f.write_str(&store.display("")),
        }
    }
}
