//! Where an archive is.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::store::Store;
use crate::error::{Error, Result};

/// Where an archive is, or will be.
#[derive(Clone, Debug)]
pub struct Location(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Folder(PathBuf),
    /// Any store, for tests.
    #[cfg(test)]
    Store(Store),
}

impl Location {
    /// Its files.
    pub(super) fn store(&self) -> Store {
        match &self.0 {
            Kind::Folder(folder) => Store::local(folder),
            #[cfg(test)]
            Kind::Store(store) => store.clone(),
        }
    }

    /// Refuses a path that cannot be an archive.
    pub(super) fn check(&self) -> Result<()> {
        let obstacle = match &self.0 {
            Kind::Folder(folder) => folder.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()),
            #[cfg(test)]
            Kind::Store(_) => None,
        };
        let is_file = |file: &Path| format!("--out {self}: {} is a file; an archive is a folder", file.display());
        obstacle.map_or(Ok(()), |file| Err(Error::usage(is_file(file))))
    }
}

impl From<PathBuf> for Location {
    fn from(folder: PathBuf) -> Self {
        Self(Kind::Folder(folder))
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
        Self(Kind::Store(store))
    }
}

impl fmt::Display for Location {
    /// As the user named it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Folder(folder) => folder.display().fmt(f),
            #[cfg(test)]
            Kind::Store(store) => f.write_str(&store.display("")),
        }
    }
}
