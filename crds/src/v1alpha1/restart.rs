//! What happens after a failure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// How soon and how often a failed job is restarted from its last checkpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RestartSpec {
    /// Exponential: at once after the first failure, then with delays that grow while failures follow each other.
    /// FixedDelay: after `delay`, and `maxRestarts` times in all.
    /// FailureRate: after `delay`, unless there were more than `maxFailures` failures within `interval`.
    /// None: a failure ends the job. Default: Exponential, which also tries a job again that would fail for the same reason, such
    /// as a bad record: it waits for its cure. With the others, with `maxRestarts`, and by `millrace run`, which somebody looks at,
    /// such a failure ends the job at once.
    pub strategy: RestartStrategy,

    /// Exponential: the delay after the second failure in a row. Default: 1s.
    pub initial_delay: Duration,

    /// Exponential: the longest delay. Default: 1m.
    pub max_delay: Duration,

    /// Exponential: by how much each delay is longer than the one before, from 1 to 100. Default: 2.
    #[schemars(range(min = 1.0, max = 100.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_multiplier: Option<f64>,

    /// Exponential: a delay is longer or shorter by up to this part of it, by chance, from 0 to 1: jobs that failed together do not
    /// come back together. Default: 0.1.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,

    /// Exponential: if a job has run for so long since its restart, the next failure is the first again; at least 1s.
    /// Default: twice `maxDelay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_after: Option<Duration>,

    /// FixedDelay, FailureRate: from a failure to the restart. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,

    /// FixedDelay: restarts of one coordinator process; the failure after them ends the job. Default: 1.
    /// Exponential: the same, of failures that follow each other within `resetAfter`. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,

    /// FailureRate: as many failures within `interval` are followed by a restart; one more ends the job. Default: 1.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,

    /// FailureRate: the time in which failures are counted, longer than `delay`. As long as it is no longer than `maxFailures` times
    /// `delay`, there are never more than those. Default: 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

/// Names of the strategies.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartStrategy {
    #[default]
    Exponential,
    FixedDelay,
    FailureRate,
    None,
}

impl Default for RestartSpec {
    fn default() -> Self {
        RestartSpec {
            strategy: RestartStrategy::default(),
            initial_delay: Duration::seconds(1),
            max_delay: Duration::seconds(60),
            backoff_multiplier: None,
            jitter: None,
            reset_after: None,
            delay: None,
            max_restarts: None,
            max_failures: None,
            interval: None,
        }
    }
}

impl RestartSpec {
    /// True if no failure ends the job: it is tried again until its cause is mended.
    pub fn is_endless(&self) -> bool {
        self.strategy == RestartStrategy::Exponential && self.max_restarts.is_none()
    }
}
