//! What happens after a failure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// How soon and how often a failed job is restarted from its last checkpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RestartSpec {
    /// Exponential: at once after the first failure, then with delays that double while failures follow each other.
    /// FixedDelay: after `delay`, and `maxRestarts` times in all.
    /// FailureRate: after `delay`, unless there were more than `maxFailures` failures within `interval`.
    /// None: a failure ends the job. Default: Exponential, which also tries a job again that would fail for the same reason, such
    /// as a bad record: it waits for its cure. With the others such a failure ends the job at once.
    pub strategy: RestartStrategy,

    /// Exponential: the delay after the second failure in a row. Default: 1s.
    pub initial_delay: Duration,

    /// Exponential: the longest delay. Default: 1m.
    pub max_delay: Duration,

    /// FixedDelay, FailureRate: from a failure to the restart. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,

    /// FixedDelay: restarts of one coordinator process; the failure after them ends the job. Default: 1.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,

    /// FailureRate: as many failures within `interval` are followed by a restart; one more ends the job. Default: 1.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,

    /// FailureRate: the time in which failures are counted. Default: 1m.
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
            delay: None,
            max_restarts: None,
            max_failures: None,
            interval: None,
        }
    }
}
