//! A test backend that simulates a crash: after a given number of changes, every further change fails.

use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Entry,
    backend::{Backend, StagingFile},
};
use crate::ranged::RangedFile;

/// The number of changes that succeed before all further changes fail.
#[derive(Clone, Debug)]
pub(crate) struct FaultBudget(Arc<AtomicUsize>);

impl FaultBudget {
    pub(crate) fn new(changes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(changes)))
    }

    fn consume(&self) -> io::Result<()> {
        let remaining = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |remaining| remaining.checked_sub(1));
        remaining.map(drop).map_err(|_| io::Error::other("injected fault"))
    }
}

/// A backend that rejects every change once its [`FaultBudget`] is used up. Folders can be exchanged only if
/// `can_exchange` is set and the inner backend supports the exchange of folders.
#[derive(Debug)]
pub(crate) struct FailingBackend {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) budget: FaultBudget,
    pub(crate) can_exchange: bool,
}

impl Backend for FailingBackend {
    fn display(&self, path: &str) -> String {
        self.backend.display(path)
    }

    fn open(&self, path: &str) -> io::Result<RangedFile> {
        self.backend.open(path)
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.backend.size(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        self.backend.list(folder)
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>> {
        self.budget.consume()?;
        Ok(Box::new(FailingStagingFile { file: self.backend.create(path)?, budget: self.budget.clone() }))
    }

    fn move_in(&self, from: &Path, path: &str) -> io::Result<()> {
        self.budget.consume()?;
        self.backend.move_in(from, path)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        self.budget.consume()?;
        self.backend.copy_out(path, to)
    }

    fn move_out(&self, path: &str, to: &Path) -> io::Result<()> {
        self.budget.consume()?;
        self.backend.move_out(path, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.budget.consume()?;
        self.backend.remove(path)
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        self.backend.sync(folder)
    }

    fn copy_folder_attributes(&self, folder: &str, to: &Path) {
        self.backend.copy_folder_attributes(folder, to);
    }

    fn exchange(&self, folder: &str, staging: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        self.budget.consume()?;
        if self.can_exchange { self.backend.exchange(folder, staging, keep) } else { Ok(false) }
    }
}

struct FailingStagingFile {
    file: Box<dyn StagingFile>,
    budget: FaultBudget,
}

impl Write for FailingStagingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagingFile for FailingStagingFile {
    fn publish(self: Box<Self>) -> io::Result<()> {
        self.budget.consume()?;
        self.file.publish()
    }
}
