//! Estimates the remaining time of a run. This module performs no I/O.

use std::time::Duration;

use crate::event::Downloads;

/// The expected number of polls per unfinished task. Most tasks have finished by the second poll.
const POLLS_A_TASK: f64 = 2.0;

/// The elapsed time after which the observed request rate is used.
const OBSERVED_AFTER: Duration = Duration::from_secs(3);

/// The inputs for an estimate of the remaining time.
#[derive(Clone, Copy, Debug)]
pub(super) struct EtaEstimate {
    /// The number of requests to send, excluding polls.
    pub(super) requests: usize,
    /// The number of tasks that wait for a poll.
    pub(super) unfinished: usize,
    /// The time until the next request can be sent, including a pause after a 429.
    pub(super) idle: Duration,
    /// The maximum number of requests per second.
    pub(super) pace: f64,
    /// The number of responses received so far.
    pub(super) answers: u64,
    /// The time since the run started.
    pub(super) elapsed: Duration,
    /// The time until polling ends, or `None` if the end is not known yet.
    pub(super) polling_left: Option<Duration>,
}

impl EtaEstimate {
    /// Estimates the time until the last request. The number of remaining requests is divided by the pace, or by the
    /// observed rate if the provider is slower. Returns `None` while no rate is known.
    pub(super) fn left(&self) -> Option<Duration> {
        let requests = self.requests as f64 + self.unfinished as f64 * POLLS_A_TASK;
        let speed = self.speed().filter(|speed| speed.is_finite() || requests == 0.0)?;
        let left = self.idle + Duration::try_from_secs_f64(requests / speed).unwrap_or_default();
        Some(match self.polling_left {
            Some(limit) if self.requests == 0 => left.min(limit),
            _ => left,
        })
    }

    fn speed(&self) -> Option<f64> {
        let observed = self.answers as f64 / self.elapsed.as_secs_f64();
        match self.elapsed >= OBSERVED_AFTER {
            true if self.answers == 0 => None,
            true => Some(self.pace.min(observed)),
            false => Some(self.pace),
        }
    }
}

/// Estimates the time until the last download at the observed speed. Returns `None` until the first file is settled.
pub(super) fn downloads_left(downloads: &Downloads, elapsed: Duration) -> Option<Duration> {
    let left = downloads.wanted.saturating_sub(downloads.settled);
    match (left, downloads.settled) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        (left, settled) => Some(elapsed.mul_f64(left as f64 / settled as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate() -> EtaEstimate {
        EtaEstimate {
            requests: 240,
            unfinished: 0,
            idle: Duration::ZERO,
            pace: 2.0,
            answers: 0,
            elapsed: Duration::ZERO,
            polling_left: None,
        }
    }

    #[test]
    fn the_estimate_divides_requests_and_polls_by_the_pace() {
        assert_eq!(estimate().left(), Some(Duration::from_secs(120)));
        assert_eq!(EtaEstimate { unfinished: 10, ..estimate() }.left(), Some(Duration::from_secs(130)));
        assert_eq!(EtaEstimate { pace: f64::INFINITY, ..estimate() }.left(), None);
    }

    #[test]
    fn a_slow_provider_lowers_the_rate() {
        let slow = EtaEstimate { answers: 10, elapsed: Duration::from_secs(10), ..estimate() };
        assert_eq!(slow.left(), Some(Duration::from_secs(240)));
        assert_eq!(EtaEstimate { answers: 0, ..slow }.left(), None);
    }

    #[test]
    fn the_estimate_is_capped_by_the_polling_deadline() {
        let polling =
            EtaEstimate { requests: 0, unfinished: 100, polling_left: Some(Duration::from_secs(7)), ..estimate() };
        assert_eq!(polling.left(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_download_estimate_uses_the_observed_speed() {
        let downloads = |settled, wanted| Downloads { settled, wanted, ..Downloads::default() };
        let elapsed = Duration::from_secs(10);
        assert_eq!(downloads_left(&downloads(0, 0), elapsed), Some(Duration::ZERO));
        assert_eq!(downloads_left(&downloads(0, 5), elapsed), None);
        assert_eq!(downloads_left(&downloads(5, 15), elapsed), Some(Duration::from_secs(20)));
    }
}
