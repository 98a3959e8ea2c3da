//! What to do after a try that came to nothing, as far as one file is concerned. Pure.

use std::time::Duration;

use super::client::{Failure, Next};
use crate::backoff::Backoff;

/// A try that brings a file this much further costs nothing: a line that breaks now and then must not
/// make a long file impossible.
const PROGRESS: u64 = 1 << 20;

/// How often a file is refused at the first touch before that is an answer.
const DENIALS: u32 = 2;

/// What it took to get a file, or to learn that it is not to be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Tries.
    pub(crate) attempts: u32,
    /// Bytes that came, those of no use included.
    pub(crate) received: u64,
}

/// Counts what went wrong with one file.
#[derive(Debug)]
pub(super) struct RetryState {
    backoff: Backoff,
    failures: u32,
    denials: u32,
    /// The most of the file that was ever there.
    reached: u64,
    pub(super) sent: Sent,
}

impl RetryState {
    /// So many further tries after the first.
    pub(super) fn new(retries: u32) -> Self {
        let backoff = Backoff::new(retries, fastrand::Rng::new());
        Self { backoff, failures: 0, denials: 0, reached: 0, sent: Sent::default() }
    }

    /// How long to wait before the next try; `None` if there is none. `length` of the file is there. How
    /// long its host is to be left alone is not this file's business.
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
