//! Tracks the provider's rate-limit window and computes the required pauses. This module performs no I/O, and the
//! caller provides the current time.
//!
//! Every response reports how many requests remain in the window, and may also report when the window is reset. The
//! program's own rate limit leaves part of each window unused. If few requests remain, other users of the key must also
//! have sent requests in the window. The program pauses when no requests remain, or when the remaining requests are
//! reserved for other users.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap};
use tokio::time::Instant;

/// The maximum rounding error of a reset time. Reset times are in whole seconds, and may be rounded up or down.
const ROUNDING: Duration = Duration::from_secs(1);

/// The length of the pause that follows a pause that was too short, as a multiple of the window length. Successive
/// pauses of exactly one window length would always end at the same point in a window, possibly after other users have
/// exhausted the window.
const PAUSE_FACTOR: f64 = 1.618;

/// The minimum pause for slowing down before a window is exhausted. A shorter pause is ignored, because the rate
/// limiter already spaces requests.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The maximum time until a reset. A later reset time is ignored, because the provider's window is one minute long.
const MAX_RESET: Duration = Duration::from_secs(120);

/// The state of the rate-limit window, as reported by one response. A value that the response does not report is
/// `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateLimitStatus {
    /// The number of requests left in the window.
    pub(crate) remaining: Option<u32>,
    /// The time until the window is reset.
    pub(crate) reset: Option<Duration>,
}

impl RateLimitStatus {
    /// Reads `X-RateLimit-Remaining` and `X-RateLimit-Reset`. The reset value is either a Unix time according to the
    /// server's clock or a number of seconds.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let now = date.unwrap_or_else(std::time::SystemTime::now);
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let reset =
            number("x-ratelimit-reset").map(|reset| if reset < 1_000_000 { reset } else { reset.saturating_sub(now) });
        Self {
            remaining: number("x-ratelimit-remaining").and_then(|number| u32::try_from(number).ok()),
            // Ignore a reset time in the past, because it only means that the clocks differ.
            reset: reset.map(Duration::from_secs).filter(|reset| !reset.is_zero() && *reset <= MAX_RESET),
        }
    }
}

/// Tracks the provider's rate-limit window across responses.
#[derive(Debug)]
pub(super) struct WindowTracker {
    reserve: u32,
    length: Duration,
    /// The latest possible start of the current window.
    started_at: Option<Instant>,
    last_remaining: u32,
    max_remaining: u32,
    paused_until: Option<Instant>,
}

impl WindowTracker {
    pub(super) fn new(reserve: u32, length: Duration) -> Self {
        Self { reserve, length, started_at: None, last_remaining: 0, max_remaining: 0, paused_until: None }
    }

    /// Returns the required pause after a response that reports `rate_limit`, if any.
    pub(super) fn required_pause(&mut self, rate_limit: &RateLimitStatus, now: Instant) -> Option<Duration> {
        let remaining = rate_limit.remaining?;
        let started_at = self.window_start(remaining, now);
        let pause = match (remaining.checked_sub(self.reserve).filter(|remaining| *remaining > 0), rate_limit.reset) {
            // If requests are reserved, wait until the window has certainly been reset, because a request sent before
            // the reset would use up quota that is reserved for other users.
            (None, Some(reset)) if self.reserve > 0 => Some(reset + ROUNDING),
            (None, Some(reset)) => Some(reset),
            (None, None) if self.paused_until.is_some_and(|end| end <= now) => Some(self.length.mul_f64(PAUSE_FACTOR)),
            // If the response reports no reset time, wait until the latest possible end of the window.
            (None, None) => Some((started_at + self.length).saturating_duration_since(now)),
            // Slow down before the window is exhausted: spread the remaining requests over the remaining time.
            (Some(remaining), Some(reset)) => {
                Some(reset.saturating_sub(ROUNDING) / remaining).filter(|pause| *pause > MIN_PAUSE)
            }
            (Some(_), None) => None,
        };
        self.paused_until = pause.map(|pause| now + pause);
        pause
    }

    /// Returns the latest possible start of the current window. A window ends after its known length, or when the
    /// number of remaining requests rises sharply. A small increase is ignored, because responses can arrive out of
    /// order.
    fn window_start(&mut self, remaining: u32, now: Instant) -> Instant {
        self.max_remaining = self.max_remaining.max(remaining);
        let is_new_window = remaining > self.last_remaining.saturating_add(self.max_remaining / 2);
        self.last_remaining = remaining;
        let started_at = match self.started_at {
            Some(started_at) if !is_new_window && now.duration_since(started_at) < self.length => started_at,
            _ => now,
        };
        *self.started_at.insert(started_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_with_remaining(remaining: u32) -> RateLimitStatus {
        RateLimitStatus { remaining: Some(remaining), reset: None }
    }

    fn seconds(pause: Option<Duration>) -> Option<u64> {
        pause.map(|pause| pause.as_secs())
    }

    #[test]
    fn rate_limit_headers_are_interpreted_by_the_server_clock() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let reported = RateLimitStatus::from_headers(&headers(&[
            ("x-ratelimit-remaining", "7"),
            ("x-ratelimit-reset", "784111817"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]));
        assert_eq!(reported, RateLimitStatus { remaining: Some(7), reset: Some(Duration::from_secs(40)) });
        assert_eq!(
            RateLimitStatus::from_headers(&headers(&[("x-ratelimit-reset", "30")])).reset,
            Some(Duration::from_secs(30))
        );
        for nothing in
            [("x-ratelimit-remaining", "many"), ("x-ratelimit-reset", "0"), ("x-ratelimit-reset", "784111817")]
        {
            assert_eq!(RateLimitStatus::from_headers(&headers(&[nothing])), RateLimitStatus::default());
        }
    }

    #[test]
    fn nothing_is_sent_while_only_the_reserve_remains() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tracker = WindowTracker::new(10, Duration::from_secs(60));
        assert_eq!(tracker.required_pause(&status_with_remaining(119), at(0)), None);
        assert_eq!(tracker.required_pause(&status_with_remaining(11), at(20)), None);
        assert_eq!(seconds(tracker.required_pause(&status_with_remaining(10), at(20))), Some(40));
        assert_eq!(tracker.required_pause(&status_with_remaining(119), at(60)), None);
        assert_eq!(seconds(tracker.required_pause(&status_with_remaining(3), at(70))), Some(50));
        let reported = RateLimitStatus { remaining: Some(0), reset: Some(Duration::from_secs(5)) };
        assert_eq!(seconds(tracker.required_pause(&reported, at(71))), Some(6));
    }

    #[test]
    fn a_pause_that_was_too_short_is_followed_by_a_longer_one() {
        let start = Instant::now();
        let mut tracker = WindowTracker::new(50, Duration::from_secs(60));
        assert_eq!(seconds(tracker.required_pause(&status_with_remaining(44), start)), Some(60));
        assert_eq!(
            seconds(tracker.required_pause(&status_with_remaining(44), start + Duration::from_secs(1))),
            Some(59)
        );
        assert_eq!(
            seconds(tracker.required_pause(&status_with_remaining(44), start + Duration::from_secs(60))),
            Some(97)
        );
    }

    #[test]
    fn requests_slow_down_before_the_window_is_exhausted() {
        let mut tracker = WindowTracker::new(0, Duration::from_secs(60));
        let now = Instant::now();
        let reported = |remaining| RateLimitStatus { remaining: Some(remaining), reset: Some(Duration::from_secs(31)) };
        assert_eq!(tracker.required_pause(&reported(60), now), None);
        assert_eq!(seconds(tracker.required_pause(&reported(10), now)), Some(3));
    }

    #[test]
    fn out_of_order_responses_do_not_start_a_new_window() {
        let start = Instant::now();
        let mut tracker = WindowTracker::new(0, Duration::from_secs(60));
        for remaining in [100, 98, 99, 50, 51, 49] {
            tracker.required_pause(&status_with_remaining(remaining), start);
        }
        assert_eq!(
            seconds(tracker.required_pause(&status_with_remaining(0), start + Duration::from_secs(30))),
            Some(30)
        );
    }
}
