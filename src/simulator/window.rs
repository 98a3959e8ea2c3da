//! The provider's rate limit, with a fixed or a moving window.

use std::{collections::VecDeque, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;

/// A rate limit: the maximum number of requests in a time window.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// The maximum number of requests in a window.
    #[serde(rename = "allowance")]
    pub limit: u32,
    /// The length of a window in seconds.
    pub seconds: f64,
    /// The kind of window, fixed or moving.
    pub kind: WindowKind,
}

/// The kind of rate-limit window. The provider does not document which kind it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// The count is reset at the end of each window. The first window starts with the first request.
    Fixed,
    /// The window moves with time: it always ends at the current time.
    Moving,
}

impl Default for Window {
    /// Returns the documented limit of the provider: 120 requests per minute.
    fn default() -> Self {
        Self { limit: 120, seconds: 60.0, kind: WindowKind::Fixed }
    }
}

/// Whether a request is granted or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted { remaining: u32, reset: Duration },
    Refused { retry_after: Duration },
}

/// Counts the requests of one API key against the rate limit.
#[derive(Debug, Default)]
pub(super) struct WindowCounter {
    admitted: VecDeque<Instant>,
    first_request_at: Option<Instant>,
}

impl WindowCounter {
    pub(super) fn admit(&mut self, window: &Window, now: Instant) -> Admission {
        let length = Duration::from_secs_f64(window.seconds);
        let start = self.start(window, now, length);
        while self.admitted.front().is_some_and(|timestamp| *timestamp < start) {
            self.admitted.pop_front();
        }
        let ends = match window.kind {
            WindowKind::Fixed => start + length,
            WindowKind::Moving => self.admitted.front().copied().unwrap_or(now) + length,
        };
        let used = u32::try_from(self.admitted.len()).unwrap_or(u32::MAX);
        let reset = ends.saturating_duration_since(now);
        if used >= window.limit {
            return Admission::Refused { retry_after: reset };
        }
        self.admitted.push_back(now);
        Admission::Granted { remaining: window.limit - used - 1, reset }
    }

    fn start(&mut self, window: &Window, now: Instant, length: Duration) -> Instant {
        match window.kind {
            WindowKind::Moving => now.checked_sub(length).unwrap_or(now),
            WindowKind::Fixed => {
                let first_request_at = *self.first_request_at.get_or_insert(now);
                let windows = (now.duration_since(first_request_at).as_secs_f64() / window.seconds).floor();
                first_request_at + length.mul_f64(windows)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(counter: &mut WindowCounter, window: &Window, now: Instant) -> bool {
        matches!(counter.admit(window, now), Admission::Granted { .. })
    }

    #[test]
    fn a_fixed_window_resets_at_once_and_a_moving_one_gradually() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        for (kind, expected) in [(WindowKind::Fixed, [true, false]), (WindowKind::Moving, [false, true])] {
            let window = Window { limit: 2, seconds: 60.0, kind };
            let mut counter = WindowCounter::default();
            assert!(granted(&mut counter, &window, at(0)));
            assert!(granted(&mut counter, &window, at(40)));
            assert_eq!(counter.admit(&window, at(50)), Admission::Refused { retry_after: Duration::from_secs(10) });
            assert!(granted(&mut counter, &window, at(61)));
            assert_eq!(
                [granted(&mut counter, &window, at(62)), granted(&mut counter, &window, at(101))],
                expected,
                "{kind:?}"
            );
        }
    }
}
