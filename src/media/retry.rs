//! Determines when a download is retried after a failed attempt. This module performs no I/O.

use std::time::Duration;

use super::client::{Failure, RetryDecision};
use crate::backoff::Backoff;

/// The number of new bytes after which the failure count is reset. Without the reset, an unreliable connection could
/// make the download of a large file impossible.
const MIN_PROGRESS: u64 = 1 << 20;

/// The maximum number of retries after a 401 or 403.
const MAX_REFUSAL_RETRIES: u32 = 2;

/// The number of attempts and the number of received bytes of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// The number of attempts.
    pub(crate) attempts: u32,
    /// The number of bytes received, including discarded bytes.
    pub(crate) received: u64,
}

/// The retry state of one download.
#[derive(Debug)]
pub(super) struct RetryState {
    backoff: Backoff,
    failures: u32,
    refusals: u32,
    /// The maximum length that the partial file has reached, in bytes.
    max_length: u64,
    pub(super) traffic: Traffic,
}

impl RetryState {
    /// Creates the retry state of a download with at most `retries` retries.
    pub(super) fn new(retries: u32) -> Self {
        let backoff = Backoff::new(retries, fastrand::Rng::new());
        Self { backoff, failures: 0, refusals: 0, max_length: 0, traffic: Traffic::default() }
    }

    /// Returns the time to wait before the next attempt, or `None` if no attempts remain. `length` is the current
    /// length of the partial file, in bytes. A pause that the host requests does not count as a failure.
    pub(super) fn next_wait(&mut self, failure: &Failure, length: u64) -> Option<Duration> {
        if length >= self.max_length + MIN_PROGRESS {
            self.failures = 0;
        }
        self.max_length = self.max_length.max(length);
        match failure.retry_decision {
            RetryDecision::GiveUp => None,
            RetryDecision::RetryAfter(_) => Some(Duration::ZERO),
            RetryDecision::RetryLimited if self.refusals == MAX_REFUSAL_RETRIES => None,
            decision => {
                self.refusals += u32::from(decision == RetryDecision::RetryLimited);
                self.failures += 1;
                self.backoff.wait(self.failures)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts_before_giving_up(decision: RetryDecision, length: impl Fn(u64) -> u64) -> u64 {
        let mut retry_state = RetryState::new(5);
        (1..50).find(|n| retry_state.next_wait(&Failure::new(decision, ""), length(*n)).is_none()).unwrap_or(50)
    }

    #[test]
    fn the_number_of_retries_depends_on_the_failure() {
        assert_eq!(attempts_before_giving_up(RetryDecision::Retry, |_| 0), 6);
        assert_eq!(attempts_before_giving_up(RetryDecision::RetryLimited, |_| 0), 3);
        assert_eq!(attempts_before_giving_up(RetryDecision::GiveUp, |_| 0), 1);
        assert_eq!(attempts_before_giving_up(RetryDecision::RetryAfter(Duration::from_secs(1)), |_| 0), 50);
    }

    #[test]
    fn new_progress_resets_the_retry_count() {
        assert_eq!(attempts_before_giving_up(RetryDecision::Retry, |n| n * MIN_PROGRESS), 50);
        assert_eq!(attempts_before_giving_up(RetryDecision::Retry, |_| 3 * MIN_PROGRESS), 6);
        assert_eq!(attempts_before_giving_up(RetryDecision::Retry, |n| n), 6);
    }
}
