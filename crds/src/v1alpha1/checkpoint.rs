//! How and where state is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Checkpoints: what a job goes on from after a failure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CheckpointSpec {
    /// The folder or bucket that holds the state, such as `s3://bucket/prefix` or `file:///var/lib/millrace`. `<namespace>/<name>` is appended.
    /// Default: `./.millrace` when the job runs embedded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,

    /// Time from the start of one checkpoint to the start of the next. Default: 10s. Results become visible once a
    /// checkpoint.
    pub interval: Duration,

    /// A checkpoint that takes longer is given up and counted as failed. Default: 10m.
    pub timeout: Duration,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec { location: None, interval: Duration::seconds(10), timeout: Duration::seconds(600) }
    }
}
