//! The rate limiter for API requests.
//!
//! Two mechanisms control the request rate. The first mechanism, a rate limiter (`governor`), spaces requests evenly.
//! Whether the provider's window is fixed or sliding, the number of requests in a window therefore never exceeds the
//! rate limit. The second mechanism pauses all requests after a 429 response, or when other users of the key have
//! exhausted the rate-limit window.
//!
//! `governor` waits in real time even if tokio's clock is paused. This module waits with tokio's timers instead, so
//! that tests run in virtual time.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::{self, Instant};

use super::window::{RateLimitStatus, WindowTracker};
use crate::config::Rate;

/// The length of the window in which the provider counts requests.
const WINDOW: Duration = Duration::from_secs(60);

/// The provider's documented rate limit for a key, in requests per minute.
const PROVIDER_PER_MINUTE: f64 = 120.0;

/// The maximum burst, as a fraction of the requests per minute.
const BURST_FRACTION: f64 = 0.02;

/// The assumed delay of a timer. Timers have a resolution of one millisecond and may fire late. A small burst
/// compensates for the delay.
const TIMER_DELAY: Duration = Duration::from_millis(10);

/// A factor that widens the spacing between requests, so that rounding errors never allow an extra request.
const SPACING_MARGIN: f64 = 1.0004;

/// The maximum pause: one year.
const MAX_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A rate limiter that grants one permit per request.
#[derive(Debug)]
pub(crate) struct RequestLimiter {
    rate_limiter: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>>,
    /// The end of the pause after a 429.
    paused_until: Instant,
    /// The end of the pause that was derived from rate-limit headers. The next 429 overrides this pause.
    window_paused_until: Instant,
    window: WindowTracker,
}

#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

impl RequestLimiter {
    /// Creates a rate limiter for `rate`. In each rate-limit window, `reserve` requests are left for other users of the
    /// key.
    pub(crate) fn new(rate: Rate, reserve: u32) -> Self {
        let limiter = quota(rate, reserve).map(|quota| {
            let limiter = RateLimiter::direct_with_clock(quota, TokioClock);
            // Use up the initial burst, because a burst is only meant to compensate for late timers.
            for _ in 1..quota.burst_size().get() {
                let _ = limiter.check();
            }
            limiter
        });
        Self {
            rate_limiter: limiter,
            paused_until: Instant::now(),
            window_paused_until: Instant::now(),
            window: WindowTracker::new(reserve, WINDOW),
        }
    }

    /// The maximum number of requests per second, or infinity if there is no limit.
    pub(crate) fn requests_per_second(rate: Rate, reserve: u32) -> f64 {
        quota(rate, reserve).map_or(f64::INFINITY, |quota| quota.replenish_interval().as_secs_f64().recip())
    }

    /// Waits until one request may be sent, and counts the request as sent. If the future is dropped before completion,
    /// no request is counted.
    pub(crate) async fn permit(&self) {
        loop {
            time::sleep_until(self.paused_until.max(self.window_paused_until)).await;
            match self.rate_limiter.as_ref().map(RateLimiter::check) {
                None | Some(Ok(())) => return,
                Some(Err(not_yet)) => time::sleep(not_yet.wait_time_from(TokioClock.now())).await,
            }
        }
    }

    /// Pauses all requests for `pause` after a 429. A longer pause from an earlier 429 remains in effect. The new pause
    /// replaces a pause that was derived from rate-limit headers.
    pub(crate) fn pause(&mut self, pause: Duration) {
        let now = Instant::now();
        self.paused_until = self.paused_until.max(now + pause.min(MAX_PAUSE));
        self.window_paused_until = now;
    }

    /// Updates the rate-limit window from the headers of a response, and pauses if too few requests remain in the
    /// window. During the pause after a 429, rate-limit headers do not start another pause.
    pub(crate) fn observe(&mut self, rate_limit: &RateLimitStatus) {
        let now = Instant::now();
        if let Some(pause) = self.window.required_pause(rate_limit, now)
            && now >= self.paused_until
        {
            self.window_paused_until = self.window_paused_until.max(now + pause.min(MAX_PAUSE));
        }
    }

    /// The remaining time of the current pause.
    pub(crate) fn remaining_pause(&self) -> Duration {
        self.paused_until.max(self.window_paused_until).saturating_duration_since(Instant::now())
    }
}

/// The part of the provider's rate limit that is not reserved, in requests per minute. If the configured rate is above
/// the documented limit, the key is assumed to have a higher limit.
pub(crate) fn available_per_minute(rate: Rate, reserve: u32) -> f64 {
    (rate.per_second() * 60.0).max(PROVIDER_PER_MINUTE) - f64::from(reserve)
}

/// Returns the spacing and burst that limit the number of requests in every `period` to `count`.
///
/// A burst of `b` requests and a spacing of just over `period / (count - b + 1)` allow at most `b + (count - b) =
/// count` requests in any `period`. At 120 requests per minute, the burst is 2 and the sustained rate is 119 requests
/// per minute, 99.1 % of the limit. The one unused request per minute is a margin for requests that arrive closer
/// together than they were sent.
fn quota(rate: Rate, reserve: u32) -> Option<Quota> {
    let Rate::Limited { count, period } = rate else { return None };
    let minutes = period.as_secs_f64() / WINDOW.as_secs_f64();
    let count = f64::from(count.get()).min(available_per_minute(rate, reserve) * minutes).max(f64::MIN_POSITIVE);
    let extra = (count / period.as_secs_f64() * TIMER_DELAY.as_secs_f64()).ceil();
    let max_burst = (count / minutes * BURST_FRACTION).floor().min(count - 1.0);
    let burst = (1.0 + extra).min(max_burst).max(1.0);
    let spacing = Duration::try_from_secs_f64(period.as_secs_f64() * SPACING_MARGIN / (count - burst + 1.0))
        .unwrap_or(Duration::MAX);
    Quota::with_period(spacing).map(|quota| quota.allow_burst(NonZeroU32::new(burst as u32).unwrap_or(NonZeroU32::MIN)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the times at which requests are sent within `length` if only the rate limiter delays them.
    async fn send_times(limiter: &RequestLimiter, length: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < length {
            limiter.permit().await;
            times.push(start.elapsed());
        }
        times
    }

    fn max_in_any(period: Duration, times: &[Duration]) -> usize {
        let until = |end: Duration| times.partition_point(|timestamp| *timestamp < end);
        times.iter().enumerate().map(|(index, start)| until(*start + period) - index).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_limit_is_never_exceeded_and_99_percent_is_used() {
        let limiter = RequestLimiter::new("120/m".parse().unwrap(), 0);
        let times = send_times(&limiter, Duration::from_secs(600)).await;
        assert!(max_in_any(Duration::from_secs(60), &times) <= 120);
        assert!(times.len() >= 1188, "{}", times.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_is_left_to_other_users() {
        for (rate, reserve, limit) in [("120/m", 30, 90), ("60/m", 30, 60), ("600/m", 30, 570)] {
            let limiter = RequestLimiter::new(rate.parse().unwrap(), reserve);
            let times = send_times(&limiter, Duration::from_secs(600)).await;
            assert!(max_in_any(Duration::from_secs(60), &times) <= limit, "{rate}");
            assert!(times.len() >= limit * 98 / 10, "{rate}: {}", times.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_evenly_spaced() {
        let limiter = RequestLimiter::new("120/m".parse().unwrap(), 0);
        let times = send_times(&limiter, Duration::from_secs(30)).await;
        for pair in times.windows(2) {
            let gap = pair[1].saturating_sub(pair[0]);
            assert!((500..=508).contains(&gap.as_millis()), "{gap:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_pause_applies_and_requests_then_resume() {
        let mut limiter = RequestLimiter::new("2/s".parse().unwrap(), 0);
        for seconds in [5, 30, 1] {
            limiter.pause(Duration::from_secs(seconds));
        }
        let start = Instant::now();
        limiter.permit().await;
        assert_eq!(start.elapsed().as_secs(), 30);
        assert_eq!(limiter.remaining_pause(), Duration::ZERO);
        limiter.permit().await;
        assert!(start.elapsed() >= Duration::from_millis(30_500));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_overrides_rate_limit_headers() {
        let exhausted = RateLimitStatus { remaining: Some(0), ..RateLimitStatus::default() };
        let mut limiter = RequestLimiter::new(Rate::Unlimited, 0);
        limiter.observe(&exhausted);
        limiter.pause(Duration::from_secs(3));
        limiter.observe(&exhausted);
        let start = Instant::now();
        limiter.permit().await;
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_rate_is_ever_exceeded(count in 1u32..3000, unit in prop::sample::select(vec!["s", "m", "h"])) {
            let rate: Rate = format!("{count}/{unit}").parse().unwrap();
            let Rate::Limited { period, .. } = rate else { unreachable!() };
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            let times = runtime.block_on(send_times(&RequestLimiter::new(rate, 0), period * 2));
            prop_assert!(max_in_any(period, &times) <= count as usize);
        }
    }
}
