//! Exponential backoff.

use std::time::Duration;

/// The upper bound of the first wait.
const INITIAL_BOUND: Duration = Duration::from_millis(500);

/// The maximum wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Exponential backoff with full jitter. Each wait is uniformly distributed between zero and a bound that doubles with
/// each failure. Requests that fail at the same time are therefore not all retried at the same time.
#[derive(Debug)]
pub(crate) struct Backoff {
    retries: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Creates a backoff with this many retries. The random generator is a parameter so that tests can fix its seed.
    pub(crate) fn new(retries: u32, rng: fastrand::Rng) -> Self {
        Self { retries, rng }
    }

    /// Returns the time to wait after this many failed attempts, or `None` if no retries are left.
    pub(crate) fn wait(&mut self, failures: u32) -> Option<Duration> {
        (failures <= self.retries).then(|| bound(failures).mul_f64(self.rng.f64()))
    }
}

fn bound(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    INITIAL_BOUND.saturating_mul(1 << doublings).min(MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_from_half_a_second_to_thirty() {
        let bounds: Vec<f64> = (1..=8).map(|failures| bound(failures).as_secs_f64()).collect();
        assert_eq!(bounds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(bound(u32::MAX), MAX_WAIT);
    }

    #[test]
    fn waits_are_distributed_from_zero_to_their_bound_and_limited_in_number() {
        let mut backoff = Backoff::new(5, fastrand::Rng::with_seed(1));
        let waits: Vec<Duration> = (0..1000).filter_map(|_| backoff.wait(3)).collect();
        assert!(waits.iter().all(|wait| *wait <= bound(3)));
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!((0.9..1.1).contains(&mean.as_secs_f64()), "{mean:?}");
        assert_eq!(backoff.wait(6), None);
        assert_eq!(Backoff::new(0, fastrand::Rng::new()).wait(1), None);
    }
}
