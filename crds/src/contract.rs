//! What controller and runtime agree on: the coordinator's report. Unknown fields are ignored, so that a release talks to the
//! one before it.

use serde::{Deserialize, Serialize};

/// Answer of `GET /report`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Version of this form: 1.
    pub contract: u32,
    /// Grows with every change; `GET /report?after=VERSION` waits for a newer one.
    pub version: u64,
    pub name: String,
    pub attempt: u64,
    /// Starting, Running, Recovering, Suspended, Succeeded or Failed.
    pub phase: String,
    pub generation: u64,
    pub restored_epoch: u64,
    pub restarts: u32,
    pub parallelism: u32,
    pub last_checkpoint: Option<ReportedCheckpoint>,
    pub failed_checkpoints: u64,
    pub last_failure: Option<String>,
    /// Its kind, in PascalCase, such as `WorkerLost`: the reason of conditions.
    pub last_failure_kind: Option<String>,
    pub workers: u32,
}

/// The newest complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedCheckpoint {
    pub epoch: u64,
    pub completed_at_ms: u64,
    pub duration_ms: u64,
    pub bytes: u64,
    pub rows_in: u64,
    pub rows_out: u64,
}
