//! Limits downloads to one at a time per media file name. A clip that belongs to two tasks is downloaded once, and
//! the second task uses the existing file.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::archive::MediaName;

type KeyedLocks = HashMap<MediaName, Arc<AsyncMutex<()>>>;

/// The locks on the media file names in use, one lock per name.
#[derive(Debug, Default)]
pub(super) struct KeyedMutex(Arc<Mutex<KeyedLocks>>);

/// A guard for the lock on one media file name. The lock is released when the guard is dropped.
#[derive(Debug)]
pub(super) struct KeyedMutexGuard {
    names: Arc<Mutex<KeyedLocks>>,
    name: MediaName,
    _guard: OwnedMutexGuard<()>,
}

impl KeyedMutex {
    /// Locks a media file name. Waits while another download holds the lock on the same name.
    pub(super) async fn lock(&self, name: &MediaName) -> KeyedMutexGuard {
        let lock = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            names.entry(name.clone()).or_default().clone()
        };
        KeyedMutexGuard { names: self.0.clone(), name: name.clone(), _guard: lock.lock_owned().await }
    }
}

impl Drop for KeyedMutexGuard {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // The map and this guard each hold one reference to the lock. Any other reference belongs to a download that is
        // waiting for the lock.
        if names.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::asset::AssetKind;

    #[tokio::test]
    async fn a_lock_is_exclusive_and_removed_after_use() {
        let names = KeyedMutex::default();
        let [a, b] = ["a", "b"].map(|id| MediaName::new(AssetKind::Audio, Some(id), "t", 0));
        let first = names.lock(&a).await;
        let mut second = Box::pin(names.lock(&a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(names.lock(&b).await);
        drop(first);
        drop(second.await);
        assert!(names.0.lock().unwrap().is_empty());
    }
}
