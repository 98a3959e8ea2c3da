//! Places at each host, and its silence: no host is stormed, one that is slow leaves room for the
//! others, and one that asks to be left alone is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

/// All hosts that were met.
#[derive(Debug)]
pub(super) struct Hosts {
    everywhere: Arc<Semaphore>,
    places_each: usize,
    met: Mutex<HashMap<String, Arc<Host>>>,
}

#[derive(Debug)]
struct Host {
    places: Arc<Semaphore>,
    silent_until: Mutex<Instant>,
}

/// A place: one request may be under way as long as it is held.
#[derive(Debug)]
pub(super) struct Place {
    _here: OwnedSemaphorePermit,
    _everywhere: OwnedSemaphorePermit,
}

impl Hosts {
    /// So many places everywhere, of which one host gets three quarters at most.
    pub(super) fn new(places: usize) -> Self {
        Self {
            everywhere: Arc::new(Semaphore::new(places)),
            places_each: (places * 3).div_ceil(4),
            met: Mutex::default(),
        }
    }

    /// Waits until the host may be asked, and for a place.
    pub(super) async fn enter(&self, host: &str) -> Place {
        let host = self.host(host);
        loop {
            let here = acquire(&host.places).await;
            let until = host.silent_until();
            if until <= Instant::now() {
                return Place { _here: here, _everywhere: acquire(&self.everywhere).await };
            }
            drop(here);
            time::sleep_until(until).await;
        }
    }

    /// Leaves the host alone for a while.
    pub(super) fn silence(&self, host: &str, silence: Duration) {
        let host = self.host(host);
        let mut until = host.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Instant::now() + silence);
    }

    fn host(&self, name: &str) -> Arc<Host> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Host {
                places: Arc::new(Semaphore::new(self.places_each)),
                silent_until: Mutex::new(Instant::now()),
            })
        };
        met.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

impl Host {
    fn silent_until(&self) -> Instant {
        *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn acquire(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.clone().acquire_owned().await.expect("nobody closes it")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_host_leaves_places_to_others() {
        let hosts = Hosts::new(8);
        let mut held = Vec::new();
        while let Some(place) = hosts.enter("a").now_or_never() {
            held.push(place);
        }
        assert_eq!(held.len(), 6);
        held.extend([hosts.enter("b").await, hosts.enter("b").await]);
        assert!(hosts.enter("c").now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_is_left_alone_and_no_other() {
        let hosts = Hosts::new(2);
        hosts.silence("a", Duration::from_secs(30));
        hosts.silence("a", Duration::from_secs(3));
        let start = Instant::now();
        drop(hosts.enter("b").await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(hosts.enter("a").await);
        assert!(start.elapsed() >= Duration::from_secs(30));
    }
}
