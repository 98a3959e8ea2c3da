//! One at a time for each name: a clip that stands in two tasks is downloaded once, and found there by
//! whoever comes second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::archive::MediaName;

type KeyedLocks = HashMap<MediaName, Arc<AsyncMutex<()>>>;

/// The names that somebody is busy with.
#[derive(Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<KeyedLocks>>);

/// A turn; the next begins when it is dropped.
#[derive(Debug)]
pub(super) struct KeyedLock {
    names: Arc<Mutex<KeyedLocks>>,
    name: MediaName,
    _guard: OwnedMutexGuard<()>,
}

impl InFlight {
    /// Waits until nobody else is busy with the name.
    pub(super) async fn turn(&self, name: &MediaName) -> KeyedLock {
        let turn = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            names.entry(name.clone()).or_default().clone()
        };
        KeyedLock { names: self.0.clone(), name: name.clone(), _guard: turn.lock_owned().await }
    }
}

impl Drop for KeyedLock {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // One is the map's and one is this turn's; any other waits for it.
        if names.get(&self.name).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
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
    async fn one_waits_for_the_other_and_nothing_is_left_behind() {
        let names = InFlight::default();
        let [a, b] = ["a", "b"].map(|id| MediaName::new(AssetKind::Audio, Some(id), "t", 0));
        let first = names.turn(&a).await;
        let mut second = Box::pin(names.turn(&a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(names.turn(&b).await);
        drop(first);
        drop(second.await);
        assert!(names.0.lock().unwrap().is_empty());
    }
}
