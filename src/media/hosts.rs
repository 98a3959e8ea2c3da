//! Limits per host: connection slots, pauses after 429, and outages. A slow host leaves slots for the others, and a
//! host that is down is not tried for every file.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

/// The shortest pause: "0 seconds" must not cause a storm of requests.
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);

/// A host that asks for a longer pause counts as down for this run.
const LONGEST_SILENCE: Duration = Duration::from_secs(15 * 60);

/// A host that asks for this many pauses without a file in between is down.
const SILENCES: u32 = 20;

/// After this many failed files in a row, each after all its retries, the host is down. At the default retries and
/// slots that is about five minutes of failures.
const FILES: u32 = 100;

/// All hosts of the run.
#[derive(Debug)]
pub(super) struct Hosts {
    everywhere: Arc<Semaphore>,
    places_each: usize,
    met: Mutex<HashMap<String, Arc<Host>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Host {
    places: Arc<Semaphore>,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    silent_until: Instant,
    /// In a row.
    silences: u32,
    /// In a row.
    given_up: u32,
    is_down: bool,
}

/// A slot: one request may be in progress as long as it is held.
#[derive(Debug)]
pub(super) struct Place {
    _here: OwnedSemaphorePermit,
    _everywhere: OwnedSemaphorePermit,
}

/// Whether a host has just been found to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    AsBefore,
    NowDown,
}

impl Hosts {
    /// This many slots in total, of which one host gets three quarters at most.
    pub(super) fn new(places: usize) -> Self {
        Self {
            everywhere: Arc::new(Semaphore::new(places)),
            places_each: (places * 3).div_ceil(4),
            met: Mutex::default(),
        }
    }

    /// The host of that name.
    pub(super) fn host(&self, name: &str) -> Arc<Host> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.entry(name.to_owned()).or_insert_with(|| Arc::new(Host::new(self.places_each))).clone()
    }

    /// Waits until the host's pause is over, and for a slot; `None` if it is down.
    pub(super) async fn enter(&self, host: &Host) -> Option<Place> {
        loop {
            let here = acquire(&host.places).await;
            let until = {
                let standing = host.standing();
                if standing.is_down {
                    return None;
                }
                standing.silent_until
            };
            if until <= Instant::now() {
                return Some(Place { _here: here, _everywhere: acquire(&self.everywhere).await });
            }
            drop(here);
            time::sleep_until(until).await;
        }
    }
}

impl Host {
    fn new(places: usize) -> Self {
        let standing = Standing { silent_until: Instant::now(), silences: 0, given_up: 0, is_down: false };
        Self { places: Arc::new(Semaphore::new(places)), standing: Mutex::new(standing) }
    }

    /// The host asked for a pause.
    pub(super) fn silence(&self, silence: Duration) -> Verdict {
        let mut standing = self.standing();
        // Requests in flight when the pause began get the same response; that counts as one pause.
        standing.silences += u32::from(standing.silent_until <= Instant::now());
        let silence = silence.max(SHORTEST_SILENCE);
        standing.silent_until = standing.silent_until.max(Instant::now() + silence.min(LONGEST_SILENCE));
        let is_too_much = silence > LONGEST_SILENCE || standing.silences > SILENCES;
        standing.take_down_if(is_too_much)
    }

    /// A file failed after all its retries.
    pub(super) fn gave_up(&self) -> Verdict {
        let mut standing = self.standing();
        standing.given_up += 1;
        let is_too_much = standing.given_up >= FILES;
        standing.take_down_if(is_too_much)
    }

    /// The host sent a file, or a final refusal.
    pub(super) fn answered(&self) {
        let mut standing = self.standing();
        (standing.silences, standing.given_up) = (0, 0);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn take_down_if(&mut self, is_too_much: bool) -> Verdict {
        if is_too_much && !self.is_down {
            self.is_down = true;
            return Verdict::NowDown;
        }
        Verdict::AsBefore
    }
}

async fn acquire(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.clone().acquire_owned().await.expect("it is never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_host_leaves_places_to_others() {
        let hosts = Hosts::new(8);
        let [a, b, c] = ["a", "b", "c"].map(|name| hosts.host(name));
        let mut held = Vec::new();
        while let Some(place) = hosts.enter(&a).now_or_never() {
            held.push(place);
        }
        assert_eq!(held.len(), 6);
        held.extend([hosts.enter(&b).await, hosts.enter(&b).await]);
        assert!(hosts.enter(&c).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_is_left_alone_and_no_other() {
        let hosts = Hosts::new(2);
        let [a, b] = ["a", "b"].map(|name| hosts.host(name));
        a.silence(Duration::from_secs(30));
        a.silence(Duration::from_secs(3));
        let start = Instant::now();
        drop(hosts.enter(&b).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(hosts.enter(&a).await);
        assert!(start.elapsed() >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_only_fails_or_only_asks_for_silence_is_down_in_the_end() {
        let hosts = Hosts::new(2);
        let [failing, asking, proud] = ["a", "b", "c"].map(|name| hosts.host(name));
        for _ in 1..FILES {
            assert_eq!(failing.gave_up(), Verdict::AsBefore);
        }
        failing.answered();
        let verdicts = (0..FILES + 5).map(|_| failing.gave_up());
        assert_eq!(verdicts.filter(|verdict| *verdict == Verdict::NowDown).count(), 1);
        assert!(hosts.enter(&failing).await.is_none());

        let mut silences = 0;
        while asking.silence(Duration::ZERO) == Verdict::AsBefore {
            silences += 1;
            assert_eq!(asking.silence(Duration::ZERO), Verdict::AsBefore, "told twice in one silence");
            time::sleep(SHORTEST_SILENCE).await;
        }
        assert_eq!(silences, SILENCES);
        assert_eq!(proud.silence(Duration::from_secs(3600)), Verdict::NowDown);
    }
}
