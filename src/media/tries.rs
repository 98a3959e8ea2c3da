//! Determines when to retry a file after a failed attempt. This module performs no I/O.

use std::time::Duration;

use super::client::{Failure, Next};
use crate::backoff::Backoff;

/// The number of additional bytes that resets the count of failures. An unreliable connection must not make the
/// download of a large file impossible.
const PROGRESS: u64 = 1 << 20;

/// The maximum number of retries after a refusal.
const DENIALS: u32 = 2;

/// The number of attempts and received bytes for a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The number of attempts.
    pub(crate) attempts: u32,
    /// The number of bytes received, including discarded bytes.
    pub(crate) received: u64,
}

/// The retry state of one file.
#[derive(Debug)]
pub(super) struct RetryState {
    backoff: Backoff,
    failures: u32,
    denials: u32,
    /// The largest number of bytes reached so far.
    reached: u64,
    pub(super) sent: Sent,
}

impl RetryState {
    /// Creates the state for a file with this maximum number of retries.
    pub(super) fn new(retries: u32) -> Self {
        let backoff = Backoff::new(retries, fastrand::Rng::new());
        Self { backoff, failures: 0, denials: 0, reached: 0, sent: Sent::default() }
    }

    /// The time to wait before the next attempt, or `None` after the last attempt. `length` is the number of bytes
    /// received so far. A pause of the host does not count as a failure of the file.
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
    fn the_number_of_retries_depends_on_the_failure() {
        assert_eq!(tries_until_the_end(Next::Again, |_| 0), 6);
        assert_eq!(tries_until_the_end(Next::Twice, |_| 0), 3);
        assert_eq!(tries_until_the_end(Next::GiveUp, |_| 0), 1);
        assert_eq!(tries_until_the_end(Next::After(Duration::from_secs(1)), |_| 0), 50);
    }

    #[test]
    fn new_progress_resets_the_retry_count() {
        assert_eq!(tries_until_the_end(Next::Again, |n| n * PROGRESS), 50);
        assert_eq!(tries_until_the_end(Next::Again, |_| 3 * PROGRESS), 6);
        assert_eq!(tries_until_the_end(Next::Again, |n| n), 6);
    }
}
