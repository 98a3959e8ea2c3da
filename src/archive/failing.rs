//! A test backend that fails after a given number of changes, which simulates a crash of the process.

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

/// The number of changes that still succeed before every change fails.
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<AtomicUsize>);

impl Life {
    pub(crate) fn new(changes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(changes)))
    }

    fn spend(&self) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("injected fault"))
    }
}

/// A backend that fails every change once its [`Life`] is used up. This backend can exchange folders only if
/// `can_exchange` is set and the inner backend supports the exchange.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) life: Life,
    pub(crate) can_exchange: bool,
}

impl Backend for Failing {
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
        self.life.spend()?;
        Ok(Box::new(FailingFile { file: self.backend.create(path)?, life: self.life.clone() }))
    }

    fn place(&self, from: &Path, path: &str) -> io::Result<()> {
        self.life.spend()?;
        self.backend.place(from, path)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        self.life.spend()?;
        self.backend.copy_out(path, to)
    }

    fn take(&self, path: &str, to: &Path) -> io::Result<()> {
        self.life.spend()?;
        self.backend.take(path, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.life.spend()?;
        self.backend.remove(path)
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        self.backend.sync(folder)
    }

    fn inherit(&self, folder: &str, to: &Path) {
        self.backend.inherit(folder, to);
    }

    fn exchange(&self, folder: &str, other: &Path, stays: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        self.life.spend()?;
        if self.can_exchange { self.backend.exchange(folder, other, stays) } else { Ok(false) }
    }
}

struct FailingFile {
    file: Box<dyn StagingFile>,
    life: Life,
}

impl Write for FailingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagingFile for FailingFile {
    fn publish(self: Box<Self>) -> io::Result<()> {
        self.life.spend()?;
        self.file.publish()
    }
}
