//! Whether to go on after a failure, and after how long. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// How often and how soon a job is restarted.
#[derive(Debug, Clone, PartialEq)]
pub enum RestartStrategy {
    /// Delays grow by `multiplier` from `initial` to `max` while failures follow each other, and start over once a restart was followed
    /// by `reset_after` without one. The first failure of a series restarts at once, and so many restarts a series may have.
    Exponential {
        initial: Duration,
        max: Duration,
        multiplier: f64,
        reset_after: Duration,
        jitter: f64,
        most: Option<u32>,
    },
    /// So many times in all.
    FixedDelay { delay: Duration, max: u32 },
    /// Unless there were more failures than `max` within `interval`.
    FailureRate { delay: Duration, max: u32, interval: Duration },
    /// Never.
    None,
}

/// Counts failures.
#[derive(Debug)]
pub struct Restart {
    strategy: RestartStrategy,
    count: u32,
    series: u32,
    /// When the job was to go on after its last failure.
    last: Option<Duration>,
    /// When the newest failures were, for those whose rate counts.
    failures: VecDeque<Duration>,
}

impl Restart {
    pub fn new(strategy: RestartStrategy) -> Self {
        Restart { strategy, count: 0, series: 0, last: None, failures: VecDeque::new() }
    }

    /// Restarts so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The delay before the next restart; `None`: give up. `random` is in [0, 1).
    pub fn next(&mut self, now: Duration, random: f64) -> Option<Duration> {
        let delay = match self.strategy.clone() {
            RestartStrategy::Exponential { initial, max, multiplier, reset_after, jitter, most } => {
                let series = self.in_series(now, reset_after);
                if most.is_some_and(|most| series >= most) {
                    return None;
                }
                let delay =
                    backoff(series, initial, max, multiplier).mul_f64(1.0 + jitter * (2.0 * random - 1.0));
                self.last = Some(now + delay);
                delay
            }
            RestartStrategy::FixedDelay { delay, max } if self.count < max => delay,
            RestartStrategy::FailureRate { delay, max, interval } if self.is_rare(now, max, interval) => {
                delay
            }
            _ => return None,
        };
        self.count += 1;
        Some(delay)
    }

    /// How many failures came before this one in its series.
    fn in_series(&mut self, now: Duration, reset_after: Duration) -> u32 {
        let is_quiet = self.last.is_none_or(|last| now.saturating_sub(last) > reset_after);
        self.series = if is_quiet { 0 } else { self.series + 1 };
        self.last = Some(now);
        self.series
    }

    /// Notes a failure, and tells whether it is one of at most `max` within an interval.
    fn is_rare(&mut self, now: Duration, max: u32, interval: Duration) -> bool {
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now.saturating_sub(*first) > interval) {
            self.failures.pop_front();
        }
        self.failures.len() <= max as usize
    }
}

/// The delay after a failure that so many of its series came before.
fn backoff(series: u32, initial: Duration, max: Duration, multiplier: f64) -> Duration {
    let Some(exponent) = series.checked_sub(1) else { return Duration::ZERO };
    let seconds = initial.as_secs_f64() * multiplier.powf(f64::from(exponent));
    Duration::try_from_secs_f64(seconds).map_or(max, |delay| delay.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_within_a_series_and_start_over_after_quiet() {
        let seconds = Duration::from_secs;
        let strategy = RestartStrategy::Exponential {
            initial: seconds(1),
            max: seconds(5),
            multiplier: 2.0,
            reset_after: seconds(60),
            jitter: 0.1,
            most: None,
        };
        let mut restart = Restart::new(strategy);
        let steps = [
            (0, 0.5, 0),
            (1, 0.5, 1000),
            (2, 0.5, 2000),
            (3, 0.0, 3600),
            (4, 0.5, 5000),
            // It went on at 9 s.
            (69, 0.5, 5000),
            (135, 0.5, 0),
            (136, 0.5, 1000),
        ];
        for (now, random, expected_ms) in steps {
            assert_eq!(
                restart.next(seconds(now), random),
                Some(Duration::from_millis(expected_ms)),
                "at {now} s"
            );
        }
        assert_eq!(restart.count(), 8);
        assert_eq!(Restart::new(RestartStrategy::None).next(seconds(1), 0.0), None);
    }

    #[test]
    fn a_series_of_failures_has_as_many_restarts_as_wanted_and_delays_of_its_own_growth() {
        let seconds = Duration::from_secs;
        let strategy = RestartStrategy::Exponential {
            initial: seconds(2),
            max: seconds(100),
            multiplier: 1.5,
            reset_after: seconds(60),
            jitter: 0.0,
            most: Some(4),
        };
        let mut restart = Restart::new(strategy);
        let delays =
            [0, 1, 2, 3, 4, 70, 71].map(|now| restart.next(seconds(now), 0.5).map(|delay| delay.as_millis()));
        assert_eq!(delays, [Some(0), Some(2000), Some(3000), Some(4500), None, Some(0), Some(2000)]);
        assert_eq!(backoff(5_000, seconds(1), seconds(60), 100.0), seconds(60), "and no overflow");
    }

    #[test]
    fn a_fixed_delay_ends_after_so_many_restarts_and_a_rate_once_failures_are_close() {
        let seconds = Duration::from_secs;
        let delays = |strategy: RestartStrategy, failures: &[u64]| -> Vec<Option<u64>> {
            let mut restart = Restart::new(strategy);
            failures.iter().map(|now| restart.next(seconds(*now), 0.5).map(|delay| delay.as_secs())).collect()
        };
        let fixed = RestartStrategy::FixedDelay { delay: seconds(3), max: 2 };
        assert_eq!(delays(fixed, &[0, 1000, 2000]), [Some(3), Some(3), None]);
        let rate = |max: u32| RestartStrategy::FailureRate { delay: seconds(3), max, interval: seconds(60) };
        assert_eq!(delays(rate(1), &[0, 60]), [Some(3), None]);
        assert_eq!(delays(rate(1), &[0, 61, 122]), [Some(3); 3]);
        assert_eq!(delays(rate(2), &[0, 30, 61, 92, 93]), [Some(3), Some(3), Some(3), Some(3), None]);
    }
}
