//! Whether to go on after a failure, and after how long. Pure.

use std::time::Duration;

/// How often and how soon a job is restarted.
#[derive(Debug, Clone, PartialEq)]
pub enum RestartStrategy {
    /// Delays double from `initial` to `max` while failures follow each other, and start over after `reset_after` without
    /// one. The first failure of a series restarts at once.
    Exponential { initial: Duration, max: Duration, reset_after: Duration, jitter: f64 },
    /// Never.
    None,
}

/// Counts failures.
#[derive(Debug)]
pub struct Restart {
    strategy: RestartStrategy,
    count: u32,
    series: u32,
    last: Option<Duration>,
}

impl Restart {
    pub fn new(strategy: RestartStrategy) -> Self {
        Restart { strategy, count: 0, series: 0, last: None }
    }

    /// Restarts so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The delay before the next restart; `None`: give up. `random` is in [0, 1).
    pub fn next(&mut self, now: Duration, random: f64) -> Option<Duration> {
        let RestartStrategy::Exponential { initial, max, reset_after, jitter } = &self.strategy else {
            return None;
        };
        let is_quiet = self.last.is_none_or(|last| now.saturating_sub(last) > *reset_after);
        self.series = if is_quiet { 0 } else { self.series + 1 };
        self.last = Some(now);
        self.count += 1;
        if self.series == 0 {
            return Some(Duration::ZERO);
        }
        let doubled = initial.saturating_mul(1 << (self.series - 1).min(20));
        let delay = doubled.min(*max);
        Some(delay.mul_f64(1.0 + jitter * (2.0 * random - 1.0)))
    }
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
            reset_after: seconds(60),
            jitter: 0.1,
        };
        let mut restart = Restart::new(strategy);
        let steps = [
            (0, 0.5, 0),
            (1, 0.5, 1000),
            (2, 0.5, 2000),
            (3, 0.0, 3600),
            (4, 0.5, 5000),
            (70, 0.5, 0),
            (71, 0.5, 1000),
        ];
        for (now, random, expected_ms) in steps {
            assert_eq!(
                restart.next(seconds(now), random),
                Some(Duration::from_millis(expected_ms)),
                "at {now} s"
            );
        }
        assert_eq!(restart.count(), 7);
        assert_eq!(Restart::new(RestartStrategy::None).next(seconds(1), 0.0), None);
    }
}
