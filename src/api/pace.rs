//! When the next request may leave this process.
//!
//! Two things stand side by side. The limiter (`governor`) spaces requests evenly, so that no span of
//! the allowance's length ever sees more than the allowance, wherever the provider's window begins and
//! whether it moves or not. The gate is shut by a 429 and holds everyone back until it opens.
//!
//! `governor`'s own waiting ignores tokio's paused time; here time is tokio's, so that tests run in
//! virtual time.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::config::Rate;

/// How much longer than even the spacing is: 0.6 % leaves 0.36 s of a minute for requests that arrive
/// closer together than they left, and uses 99.4 % of the allowance.
const SLACK: f64 = 1.006;

/// Timers tick in milliseconds. Above this many requests a second a late tick has to be caught up by a
/// burst, which grows with the rate: 10 ms worth of it, 0.02 % of a minute's.
const EVEN_PER_SECOND: f64 = 50.0;

/// Lets requests through, one at a time.
#[derive(Debug)]
pub(crate) struct Pace {
    limiter: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>>,
    gate: watch::Sender<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

impl Pace {
    /// The pace of `rate`.
    pub(crate) fn new(rate: Rate) -> Self {
        let limiter = quota(rate).map(|quota| RateLimiter::direct_with_clock(quota, TokioClock));
        Self { limiter, gate: watch::Sender::new(None) }
    }

    /// Waits until one request may be sent, and counts it as sent. Dropped before it is ready, it has
    /// counted nothing.
    pub(crate) async fn permit(&self) {
        let mut gate = self.gate.subscribe();
        loop {
            let opens = *gate.borrow_and_update();
            let wait = match opens.filter(|opens| *opens > Instant::now()) {
                Some(opens) => opens,
                None => match self.limiter.as_ref().map(RateLimiter::check) {
                    None | Some(Ok(())) => return,
                    Some(Err(not_yet)) => Instant::now() + not_yet.wait_time_from(TokioClock.now()),
                },
            };
            tokio::select! {
                () = time::sleep_until(wait) => {}
                _ = gate.changed() => {}
            }
        }
    }

    /// Lets nothing through for `silence` from now. A longer silence that is under way stays.
    pub(crate) fn silence(&self, silence: Duration) {
        // A provider may name any number; what is longer than a year is for ever all the same.
        let until = Instant::now() + silence.min(Duration::from_secs(365 * 24 * 3600));
        self.gate.send_if_modified(|opens| {
            let later = opens.is_none_or(|opens| opens < until);
            if later {
                *opens = Some(until);
            }
            later
        });
    }

    /// How much longer nothing is let through.
    pub(crate) fn silent_for(&self) -> Duration {
        self.gate.borrow().map_or(Duration::ZERO, |opens| opens.saturating_duration_since(Instant::now()))
    }
}

/// The spacing and burst that keep every span of the rate's length at or below its count.
fn quota(rate: Rate) -> Option<Quota> {
    let Rate::Limited { count, span } = rate else { return None };
    let burst = 1 + (rate.per_second() / EVEN_PER_SECOND / 2.0) as u32;
    let burst = burst.min(count.get() / 2).max(1);
    let refilled = f64::from(count.get() - (burst - 1));
    let spacing = span.mul_f64(SLACK / refilled);
    Quota::with_period(spacing).map(|quota| quota.allow_burst(NonZeroU32::MIN.saturating_add(burst - 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The moments at which requests leave within `length`, if nothing else holds them up.
    async fn departures(pace: &Pace, length: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut moments = Vec::new();
        while start.elapsed() < length {
            pace.permit().await;
            moments.push(start.elapsed());
        }
        moments
    }

    fn most_in_any(span: Duration, moments: &[Duration]) -> usize {
        let until = |end: Duration| moments.partition_point(|moment| *moment < end);
        moments.iter().enumerate().map(|(place, start)| until(*start + span) - place).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_sees_more_than_the_allowance_and_99_percent_of_it_is_used() {
        let pace = Pace::new("120/m".parse().unwrap());
        let moments = departures(&pace, Duration::from_secs(600)).await;
        assert_eq!(most_in_any(Duration::from_secs(60), &moments), 120);
        assert!(moments.len() >= 1188, "{}", moments.len());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_evenly_spaced() {
        let pace = Pace::new("120/m".parse().unwrap());
        let moments = departures(&pace, Duration::from_secs(30)).await;
        for pair in moments.windows(2) {
            let gap = pair[1].saturating_sub(pair[0]);
            assert!((500..=505).contains(&gap.as_millis()), "{gap:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_holds_back_those_who_wait_already() {
        let pace = Pace::new(Rate::Unlimited);
        pace.silence(Duration::from_secs(5));
        let start = Instant::now();
        let waiting = pace.permit();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        pace.silence(Duration::from_secs(30));
        pace.silence(Duration::from_secs(1));
        waiting.await;
        assert_eq!(start.elapsed().as_secs(), 30);
        assert_eq!(pace.silent_for(), Duration::ZERO);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_rate_is_ever_exceeded(count in 1u32..3000, unit in prop::sample::select(vec!["s", "m", "h"])) {
            let rate: Rate = format!("{count}/{unit}").parse().unwrap();
            let Rate::Limited { span, .. } = rate else { unreachable!() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let moments = runtime.block_on(departures(&Pace::new(rate), span * 2));
            prop_assert!(most_in_any(span, &moments) <= count as usize);
        }
    }
}
