//! Estimates the remaining time of a run. This module performs no I/O.

use std::time::Duration;

use crate::event::Downloads;

/// The expected number of polls per unfinished task. Most tasks have finished by the second poll.
const POLLS_PER_TASK: f64 = 2.0;

/// The estimate uses the observed request rate only after the run has lasted this long.
const MIN_OBSERVATION_TIME: Duration = Duration::from_secs(3);

/// The inputs for an estimate of the remaining time.
#[derive(Clone, Copy, Debug)]
pub(super) struct EtaInputs {
    /// The number of requests to send, excluding polls.
    pub(super) requests: usize,
    /// The number of unfinished tasks that are waiting for a poll.
    pub(super) unfinished: usize,
    /// The time until the next request can be sent, including any pause after a 429 response.
    pub(super) wait: Duration,
    /// The maximum number of requests per second.
    pub(super) rate: f64,
    /// The number of responses received so far.
    pub(super) responses: u64,
    /// The time since the run started.
    pub(super) elapsed: Duration,
    /// The time until polling ends, or `None` if the polling deadline is not set yet.
    pub(super) polling_remaining: Option<Duration>,
}

impl EtaInputs {
    /// Estimates the time until the last request: the number of remaining requests divided by the maximum rate or the
    /// observed rate, whichever is lower. Returns `None` if the rate cannot be estimated yet.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let requests = self.requests as f64 + self.unfinished as f64 * POLLS_PER_TASK;
        let speed = self.speed().filter(|speed| speed.is_finite() || requests == 0.0)?;
        let remaining = self.wait + Duration::try_from_secs_f64(requests / speed).unwrap_or_default();
        Some(match self.polling_remaining {
            Some(limit) if self.requests == 0 => remaining.min(limit),
            _ => remaining,
        })
    }

    fn speed(&self) -> Option<f64> {
        let observed = self.responses as f64 / self.elapsed.as_secs_f64();
        match self.elapsed >= MIN_OBSERVATION_TIME {
            true if self.responses == 0 => None,
            true => Some(self.rate.min(observed)),
            false => Some(self.rate),
        }
    }
}

/// Estimates the time until the last download is complete, based on the average time per completed or failed download
/// so far. Returns `None` if no download has completed or failed yet.
pub(super) fn remaining_downloads(downloads: &Downloads, elapsed: Duration) -> Option<Duration> {
    let remaining = downloads.expected.saturating_sub(downloads.settled);
    match (remaining, downloads.settled) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        (remaining, settled) => Some(elapsed.mul_f64(remaining as f64 / settled as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate() -> EtaInputs {
        EtaInputs {
            requests: 240,
            unfinished: 0,
            wait: Duration::ZERO,
            rate: 2.0,
            responses: 0,
            elapsed: Duration::ZERO,
            polling_remaining: None,
        }
    }

    #[test]
    fn the_estimate_divides_requests_and_polls_by_the_rate() {
        assert_eq!(estimate().remaining(), Some(Duration::from_secs(120)));
        assert_eq!(EtaInputs { unfinished: 10, ..estimate() }.remaining(), Some(Duration::from_secs(130)));
        assert_eq!(EtaInputs { rate: f64::INFINITY, ..estimate() }.remaining(), None);
    }

    #[test]
    fn a_slow_provider_lowers_the_rate() {
        let slow = EtaInputs { responses: 10, elapsed: Duration::from_secs(10), ..estimate() };
        assert_eq!(slow.remaining(), Some(Duration::from_secs(240)));
        assert_eq!(EtaInputs { responses: 0, ..slow }.remaining(), None);
    }

    #[test]
    fn the_estimate_is_capped_by_the_polling_deadline() {
        let polling =
            EtaInputs { requests: 0, unfinished: 100, polling_remaining: Some(Duration::from_secs(7)), ..estimate() };
        assert_eq!(polling.remaining(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_download_estimate_uses_the_observed_speed() {
        let downloads = |settled, expected| Downloads { settled, expected, ..Downloads::default() };
        let elapsed = Duration::from_secs(10);
        assert_eq!(remaining_downloads(&downloads(0, 0), elapsed), Some(Duration::ZERO));
        assert_eq!(remaining_downloads(&downloads(0, 5), elapsed), None);
        assert_eq!(remaining_downloads(&downloads(5, 15), elapsed), Some(Duration::from_secs(20)));
    }
}
