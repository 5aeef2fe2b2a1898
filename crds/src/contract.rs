//! What controller and runtime agree on: the coordinator's report. Unknown fields and phases are accepted, so that a release
//! talks to the one before it.

use serde::{Deserialize, Serialize};

/// Version of this form.
pub const VERSION: u32 = 1;

/// Where a job is in its life, as its coordinator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReportedPhase {
    #[default]
    Starting,
    Running,
    Recovering,
    Suspended,
    Succeeded,
    Failed,
    /// Of a later release.
    #[serde(other)]
    Unknown,
}

/// Answer of `GET /report`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Version of this form: 1.
    pub contract: u32,
    /// Grows with every change; `GET /report?after=VERSION` waits for a newer one.
    pub version: u64,
    pub name: String,
    /// The job's uid, which tells it from a namesake that was deleted; empty in reports of releases that did not say it.
    pub uid: String,
    pub attempt: u64,
    pub phase: ReportedPhase,
    /// It has failed and is tried again all the same: what a checkpoint has left to be done may still be done. Not said by
    /// releases that did not know it.
    pub tries_again: bool,
    pub generation: u64,
    pub restored_epoch: u64,
    pub restarts: u32,
    pub parallelism: u32,
    pub last_checkpoint: Option<ReportedCheckpoint>,
    pub failed_checkpoints: u64,
    /// Why the newest checkpoint was not complete, unless one was complete since.
    pub last_checkpoint_failure: Option<String>,
    pub last_failure: Option<String>,
    /// Its kind, in PascalCase, such as `WorkerLost`: the reason of conditions.
    pub last_failure_kind: Option<String>,
    /// Failures since the newest complete checkpoint: a job that fails again and again may run for a moment in between.
    pub failures_since_checkpoint: u32,
    pub workers: u32,
}

impl Report {
    /// Why it cannot be read: its form is of a later release. `None`: it can be.
    pub fn refusal(&self) -> Option<String> {
        (self.contract > VERSION).then(|| {
            format!(
                "the coordinator reports in form {}, and this controller reads forms up to {VERSION}: upgrade the controller to \
                 the release of the job's image, or start the job with the controller's own image",
                self.contract
            )
        })
    }
}

/// The newest complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedCheckpoint {
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub completed_at_ms: u64,
    pub duration_ms: u64,
    pub bytes: u64,
    /// Rows read by all sources since the job's first start.
    pub rows_in: u64,
    /// Rows written by all sinks since the job's first start.
    pub rows_out: u64,
    /// Rows that came after their windows had fired and were dropped, since the job's first start.
    pub late_rows: u64,
    /// Of sinks that keep some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checksums: Vec<ColumnChecksum>,
}

/// What all values that a sink has taken in a column since the job's first start add up to, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ColumnChecksum {
    pub sink: String,
    pub column: String,
    /// Sixteen hexadecimal digits: numbers of this size do not survive every reader of JSON.
    pub checksum: String,
}
