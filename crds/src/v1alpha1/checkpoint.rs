//! How and where state is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

/// Checkpoints: what a job goes on from after a failure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CheckpointSpec {
    /// The folder or bucket that holds the state, such as `s3://bucket/prefix` or `file:///var/lib/millrace`. `<namespace>/<name>` is appended.
    /// Default: `./.millrace` when the job runs embedded, the controller's default on a cluster. Cannot be changed once there is state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,

    /// Time from the start of one checkpoint to the start of the next. Default: 10s. Results become visible with
    /// it.
    pub interval: Duration,

    /// A checkpoint that takes longer is given up and counted as failed. Default: 10m.
    pub timeout: Duration,

    /// How many complete checkpoints are kept; what older ones alone need is removed. Default: 3.
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,

    /// The epoch of a checkpoint whose results a broker has thrown away (SinkTransactionLost), or may have (SinkTransactionUndecided): its
    /// rows are given up, and the job goes on from there. Other checkpoints are not concerned. Default: none, and such a job waits.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_lost_results_of: Option<u64>,

    /// Retain: the state stays when the job is deleted. Delete: it goes with the job, but for its savepoints; a pod removes it, and
    /// the job is there until that is done, or has not been done within five minutes. Only on a cluster. Default: Retain.
    #[serde(skip_serializing_if = "is_default")]
    pub on_delete: OnDelete,
}

/// What becomes of a deleted job's state.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDelete {
    #[default]
    Retain,
    Delete,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec {
            location: None,
            interval: Duration::seconds(10),
            timeout: Duration::seconds(600),
            retain: 3,
            accept_lost_results_of: None,
            on_delete: OnDelete::Retain,
        }
    }
}
