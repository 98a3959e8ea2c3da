//! Tracks the connection slots, pauses and outages of each host. A slow host cannot occupy all slots, and a host that
//! is marked as down receives no more requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

/// The minimum pause. A `Retry-After` of 0 seconds must not cause a request storm.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The maximum pause. A host that requests a longer pause is marked as down.
const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);

/// The maximum number of consecutive pauses. A host that requests another pause is marked as down.
const MAX_PAUSES: u32 = 20;

/// The number of consecutive failed files after which a host is marked as down. A file counts as failed when all its
/// retries have failed. With the default number of retries and slots, a host is marked as down after about five minutes
/// of failures.
const MAX_FAILURES: u32 = 100;

/// The hosts that a run contacts.
#[derive(Debug)]
pub(super) struct Hosts {
    total: Arc<Semaphore>,
    slots_per_host: usize,
    by_name: Mutex<HashMap<String, Arc<Host>>>,
}

/// The slots and state of one host.
#[derive(Debug)]
pub(super) struct Host {
    slots: Arc<Semaphore>,
    state: Mutex<HostState>,
}

#[derive(Debug)]
struct HostState {
    paused_until: Instant,
    /// The number of consecutive pauses.
    pauses: u32,
    /// The number of consecutive failures.
    failures: u32,
    is_down: bool,
}

/// A connection slot, which allows one request at a time.
#[derive(Debug)]
pub(super) struct Slot {
    _host_permit: OwnedSemaphorePermit,
    _total_permit: OwnedSemaphorePermit,
}

/// Whether a host has just been marked as down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostStatusChange {
    Unchanged,
    MarkedDown,
}

impl Hosts {
    /// Creates `slots` connection slots in total. A single host can use at most three quarters of the slots.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(slots)),
            slots_per_host: (slots * 3).div_ceil(4),
            by_name: Mutex::default(),
        }
    }

    /// Returns the host with this name, and adds the host on first use.
    pub(super) fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(name.to_owned()).or_insert_with(|| Arc::new(Host::new(self.slots_per_host))).clone()
    }

    /// Waits until the host's pause has ended and a slot is free. Returns `None` if the host is down.
    pub(super) async fn acquire_slot(&self, host: &Host) -> Option<Slot> {
        loop {
            let host_permit = acquire(&host.slots).await;
            let until = {
                let state = host.state();
                if state.is_down {
                    return None;
                }
                state.paused_until
            };
            if until <= Instant::now() {
                return Some(Slot { _host_permit: host_permit, _total_permit: acquire(&self.total).await });
            }
            drop(host_permit);
            time::sleep_until(until).await;
        }
    }
}

impl Host {
    fn new(slots: usize) -> Self {
        let state = HostState { paused_until: Instant::now(), pauses: 0, failures: 0, is_down: false };
        Self { slots: Arc::new(Semaphore::new(slots)), state: Mutex::new(state) }
    }

    /// Records that the host requested a pause.
    pub(super) fn record_pause(&self, pause: Duration) -> HostStatusChange {
        let mut state = self.state();
        // Requests that are in flight when a pause begins also receive a 429. A 429 response during a pause does not
        // count as another pause.
        state.pauses += u32::from(state.paused_until <= Instant::now());
        let pause = pause.max(MIN_PAUSE);
        state.paused_until = state.paused_until.max(Instant::now() + pause.min(MAX_PAUSE));
        let limit_exceeded = pause > MAX_PAUSE || state.pauses > MAX_PAUSES;
        state.mark_down_if(limit_exceeded)
    }

    /// Records that a file failed after all its retries.
    pub(super) fn record_failure(&self) -> HostStatusChange {
        let mut state = self.state();
        state.failures += 1;
        let limit_exceeded = state.failures >= MAX_FAILURES;
        state.mark_down_if(limit_exceeded)
    }

    /// Records that the host sent a file or permanently refused a request.
    pub(super) fn record_success(&self) {
        let mut state = self.state();
        (state.pauses, state.failures) = (0, 0);
    }

    fn state(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostState {
    fn mark_down_if(&mut self, limit_exceeded: bool) -> HostStatusChange {
        if limit_exceeded && !self.is_down {
            self.is_down = true;
            return HostStatusChange::MarkedDown;
        }
        HostStatusChange::Unchanged
    }
}

async fn acquire(slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    slots.clone().acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_host_leaves_slots_to_others() {
        let hosts = Hosts::new(8);
        let [a, b, c] = ["a", "b", "c"].map(|name| hosts.host(name));
        let mut slots = Vec::new();
        while let Some(slot) = hosts.acquire_slot(&a).now_or_never() {
            slots.push(slot);
        }
        assert_eq!(slots.len(), 6);
        slots.extend([hosts.acquire_slot(&b).await, hosts.acquire_slot(&b).await]);
        assert!(hosts.acquire_slot(&c).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_affects_only_its_host() {
        let hosts = Hosts::new(2);
        let [a, b] = ["a", "b"].map(|name| hosts.host(name));
        a.record_pause(Duration::from_secs(30));
        a.record_pause(Duration::from_secs(3));
        let start = Instant::now();
        drop(hosts.acquire_slot(&b).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(hosts.acquire_slot(&a).await);
        assert!(start.elapsed() >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_keeps_failing_or_requesting_pauses_is_marked_down() {
        let hosts = Hosts::new(2);
        let [failing, pausing, long_pause] = ["a", "b", "c"].map(|name| hosts.host(name));
        for _ in 1..MAX_FAILURES {
            assert_eq!(failing.record_failure(), HostStatusChange::Unchanged);
        }
        failing.record_success();
        let statuses = (0..MAX_FAILURES + 5).map(|_| failing.record_failure());
        assert_eq!(statuses.filter(|status| *status == HostStatusChange::MarkedDown).count(), 1);
        assert!(hosts.acquire_slot(&failing).await.is_none());

        let mut pauses = 0;
        while pausing.record_pause(Duration::ZERO) == HostStatusChange::Unchanged {
            pauses += 1;
            assert_eq!(
                pausing.record_pause(Duration::ZERO),
                HostStatusChange::Unchanged,
                "a second 429 during a pause does not count"
            );
            time::sleep(MIN_PAUSE).await;
        }
        assert_eq!(pauses, MAX_PAUSES);
        assert_eq!(long_pause.record_pause(Duration::from_secs(3600)), HostStatusChange::MarkedDown);
    }
}
