//! What happens after a failure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// How soon and how often a failed job is restarted from its last checkpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RestartSpec {
    /// Exponential: at once after the first failure, then with delays that double while failures follow each other.
    /// None: a failure ends the job. Default: Exponential.
    pub strategy: RestartStrategy,

    /// The delay after the second failure in a row. Default: 1s.
    pub initial_delay: Duration,

    /// The longest delay. Default: 1m.
    pub max_delay: Duration,
}

/// Names of the strategies.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartStrategy {
    #[default]
    Exponential,
    None,
}

impl Default for RestartSpec {
    fn default() -> Self {
        RestartSpec {
            strategy: RestartStrategy::default(),
            initial_delay: Duration::seconds(1),
            max_delay: Duration::seconds(60),
        }
    }
}
