//! When to retry one file after a failed attempt. Pure.

use std::time::Duration;

use super::client::{Failure, Next};
use crate::backoff::Backoff;

/// An attempt that adds this many bytes costs no retry: an unreliable connection must not make a long file
/// impossible.
const PROGRESS: u64 = 1 << 20;

/// How often a refusal is retried before it is final.
const DENIALS: u32 = 2;

/// The cost of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Attempts.
    pub(crate) attempts: u32,
    /// Bytes received, discarded ones included.
    pub(crate) received: u64,
}

/// Counts the failures of one file.
#[derive(Debug)]
pub(super) struct RetryState {
    backoff: Backoff,
    failures: u32,
    denials: u32,
    /// The most bytes so far.
    reached: u64,
    pub(super) sent: Sent,
}

impl RetryState {
    /// The number of retries.
    pub(super) fn new(retries: u32) -> Self {
        let backoff = Backoff::new(retries, fastrand::Rng::new());
        Self { backoff, failures: 0, denials: 0, reached: 0, sent: Sent::default() }
    }

    /// How long to wait before the next attempt; `None` if there is none. `length` is the number of bytes so far. A
    /// pause of the host is not this file's concern.
    pub(super) fn wait(&mut self, failure: &Failure, length: u64) -> Option<Duration> {
        if length >= self.reached + PROGRESS {
            self.failures = 0;
        }
        self.reached = self.reached.max(length);
        match failure.next {
            Next::GiveUp => None,
            Next::After(_) => Some(Duration::ZERO),
            Next::Twice if self.denials == DENIALS => None,
            next => {
                self.denials += u32::from(next == Next::Twice);
                self.failures += 1;
                self.backoff.wait(self.failures)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries_until_the_end(next: Next, length: impl Fn(u64) -> u64) -> u64 {
        let mut tries = RetryState::new(5);
        (1..50).find(|n| tries.wait(&Failure::new(next, ""), length(*n)).is_none()).unwrap_or(50)
    }

    #[test]
    fn a_file_is_given_up_after_its_retries_or_at_once_or_never() {
        assert_eq!(tries_until_the_end(Next::Again, |_| 0), 6);
        assert_eq!(tries_until_the_end(Next::Twice, |_| 0), 3);
        assert_eq!(tries_until_the_end(Next::GiveUp, |_| 0), 1);
        assert_eq!(tries_until_the_end(Next::After(Duration::from_secs(1)), |_| 0), 50);
    }

    #[test]
    fn only_progress_beyond_what_was_reached_before_costs_nothing() {
        assert_eq!(tries_until_the_end(Next::Again, |n| n * PROGRESS), 50);
        assert_eq!(tries_until_the_end(Next::Again, |_| 3 * PROGRESS), 6);
        assert_eq!(tries_until_the_end(Next::Again, |n| n), 6);
    }
}
