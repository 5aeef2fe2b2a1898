//! What is, as the controller has seen it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UpgradeSpec, is_default};

/// The observed state of a job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamJobStatus {
    /// Generation of the spec that this status is about.
    pub observed_generation: i64,
    /// Where the job is in its life.
    pub phase: Phase,
    /// Since when the job is in this phase, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Number of the newest set of pods.
    pub attempt: u64,
    /// Hash of the spec that the attempt was made for.
    pub spec_hash: String,
    /// Image that the attempt's pods run; another default of a newer controller is taken with the next attempt.
    pub image: String,
    /// Where the attempt keeps its state: what the spec says or, if it says nothing, what the controller's default was when the job
    /// was made. Another default of a newer controller moves no job.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub checkpoint_location: String,
    /// What the attempt's pods were told to do with the state of edited SQL; what the spec says now is for the next attempt.
    #[serde(skip_serializing_if = "is_default")]
    pub upgrade: UpgradeSpec,
    /// Form of the attempt's objects; a newer controller leaves those of an older form as they are.
    pub rendering: u32,
    /// Generation of the coordinator that leads the job.
    pub generation: u64,
    /// How often the job was started again by itself: recoveries, and coordinators that took the place of another.
    pub restarts: u32,
    /// Of those restarts how many the present coordinator has counted; none before it is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_restarts: Option<u32>,
    /// Parallelism of the running tasks.
    pub parallelism: u32,
    /// Labels of the job's worker pods, for the scale subresource.
    pub selector: String,
    /// Address of the coordinator.
    pub address: String,
    /// The newest complete checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<CheckpointStatus>,
    /// The newest failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureStatus>,
    /// Ready, Progressing, Degraded, Stalled, Succeeded.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a job is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Pending,
    Starting,
    Running,
    Recovering,
    Suspending,
    Suspended,
    Succeeded,
    Failed,
}

/// A complete checkpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckpointStatus {
    /// Number of the checkpoint.
    pub epoch: u64,
    /// When it was complete, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub completed_at: Option<String>,
    /// From trigger to completion, such as `31ms`.
    pub duration: String,
    /// Bytes written for it.
    pub bytes: u64,
    /// Where the job's checkpoints are.
    pub location: String,
}

/// A failure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureStatus {
    /// When it was seen, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub at: Option<String>,
    /// What kind of failure it is, such as `WorkerLost`, `StoreUnavailable` or `SinkTransactionLost`.
    pub kind: String,
    /// What has failed, in words; at most 1,024 characters.
    pub message: String,
}
