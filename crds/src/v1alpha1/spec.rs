//! The top level of a StreamJob, in the order a user reads it.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    CheckpointSpec, CoordinatorSpec, PipelineSpec, RestartSpec, StorageSpec, StreamJobStatus, UpgradeSpec,
    WorkersSpec, is_default,
};

/// A streaming job: a pipeline that runs until it is deleted, or until its bounded inputs end.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    plural = "streamjobs",
    shortname = "sj",
    category = "all",
    namespaced,
    status = "StreamJobStatus",
    scale(spec_replicas_path = ".spec.parallelism", status_replicas_path = ".status.parallelism", label_selector_path = ".status.selector"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Parallelism", type_ = "integer", json_path = ".status.parallelism"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "Checkpoint", type_ = "date", json_path = ".status.lastCheckpoint.completedAt"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel,
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40").message("metadata.name: at most 40 lower-case letters, digits and hyphens, beginning with a letter: names of pods are made from it").reason(Reason::FieldValueInvalid)
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.parallelism <= self.maxParallelism").message("spec.parallelism: at most spec.maxParallelism; key groups cannot be divided"),
    validation = Rule::new("!has(self.checkpoint) || !has(self.checkpoint.interval) || duration(self.checkpoint.interval) >= duration('10ms')").message("spec.checkpoint.interval: at least 10ms; every checkpoint makes objects in the store"),
    validation = Rule::new("!has(self.checkpoint) || !has(self.checkpoint.timeout) || duration(self.checkpoint.timeout) >= duration('100ms')").message("spec.checkpoint.timeout: at least 100ms; no checkpoint would ever be complete"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.initialDelay) || duration(self.restart.initialDelay) >= duration('10ms')").message("spec.restart.initialDelay: at least 10ms; a job that fails at once would do nothing but restart"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.maxDelay) || duration(self.restart.maxDelay) >= duration(has(self.restart.initialDelay) ? self.restart.initialDelay : '1s')").message("spec.restart.maxDelay: at least spec.restart.initialDelay; they are 1m and 1s unless they are given"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.delay) || (has(self.restart.strategy) && self.restart.strategy in ['FixedDelay', 'FailureRate'])").message("spec.restart.delay: only with spec.restart.strategy FixedDelay and FailureRate; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.maxRestarts) || !has(self.restart.strategy) || self.restart.strategy in ['FixedDelay', 'Exponential']").message("spec.restart.maxRestarts: only with spec.restart.strategy FixedDelay and Exponential; set one of them, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.backoffMultiplier) || !has(self.restart.strategy) || self.restart.strategy in ['Exponential']").message("spec.restart.backoffMultiplier: only with spec.restart.strategy Exponential; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.jitter) || !has(self.restart.strategy) || self.restart.strategy in ['Exponential']").message("spec.restart.jitter: only with spec.restart.strategy Exponential; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.resetAfter) || !has(self.restart.strategy) || self.restart.strategy in ['Exponential']").message("spec.restart.resetAfter: only with spec.restart.strategy Exponential; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.maxFailures) || (has(self.restart.strategy) && self.restart.strategy in ['FailureRate'])").message("spec.restart.maxFailures: only with spec.restart.strategy FailureRate; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.interval) || (has(self.restart.strategy) && self.restart.strategy in ['FailureRate'])").message("spec.restart.interval: only with spec.restart.strategy FailureRate; set that, or remove it"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.delay) || duration(self.restart.delay) >= duration('10ms')").message("spec.restart.delay: at least 10ms; a job that fails at once would do nothing but restart"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.resetAfter) || duration(self.restart.resetAfter) >= duration('1s')").message("spec.restart.resetAfter: at least 1s; a job that fails as soon as it runs would have no delays, and no end"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.interval) || duration(self.restart.interval) > duration(has(self.restart.delay) ? self.restart.delay : '1s')").message("spec.restart.interval: longer than spec.restart.delay, which is 1s unless it is given; no failure would ever be within it of another one"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.initialDelay) || !has(self.restart.strategy) || self.restart.strategy in ['Exponential'] || duration(self.restart.initialDelay) == duration('1s')").message("spec.restart.initialDelay: only with spec.restart.strategy Exponential; FixedDelay and FailureRate have spec.restart.delay"),
    validation = Rule::new("!has(self.restart) || !has(self.restart.maxDelay) || !has(self.restart.strategy) || self.restart.strategy in ['Exponential'] || duration(self.restart.maxDelay) == duration('60s')").message("spec.restart.maxDelay: only with spec.restart.strategy Exponential; FixedDelay and FailureRate have spec.restart.delay"),
    validation = Rule::new("self.maxParallelism == oldSelf.maxParallelism").message("spec.maxParallelism: cannot be changed after the job was made; state is divided by it")
)]
pub struct StreamJobSpec {
    /// What the job computes.
    pub pipeline: PipelineSpec,

    /// How many subtasks each operator runs as. Default: 1. May be changed: the job goes on from its last checkpoint.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32768))]
    pub parallelism: u32,

    /// Number of key groups, a power of two up to 32768: the highest parallelism the job can ever have. Default: 1024.
    /// Cannot be changed.
    #[serde(default = "key_groups")]
    #[schemars(range(min = 1, max = 32768))]
    #[x_kube(validation = Rule::new("self in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]").message("spec.maxParallelism: a power of two from 1 to 32768"))]
    pub max_parallelism: u32,

    /// Where a job begins that has no checkpoint of its own. `Latest` (default) and `None`: at the beginning of its input. Otherwise
    /// the place of a savepoint or of another job's state, such as `s3://bucket/folder/namespace/name`, whose newest checkpoint is
    /// copied; it is reached as `spec.storage` says. Once the job has a checkpoint this is not looked at any more.
    #[serde(default = "latest")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self in ['Latest', 'None'] || self.contains('/')").message("spec.startFrom: Latest, None, or the place of a savepoint or of a job's state, such as s3://bucket/folder/namespace/name"))]
    pub start_from: String,

    /// Stops the job after a last checkpoint; false lets it go on from there. Default: false.
    #[serde(default)]
    pub suspend: bool,

    /// How the buckets that the job uses are reached.
    #[serde(default)]
    pub storage: StorageSpec,

    /// How and where the job's state is kept.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,

    /// What happens after a failure.
    #[serde(default)]
    pub restart: RestartSpec,

    /// What becomes of the state when the SQL is edited.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upgrade: UpgradeSpec,

    /// The processes that do the work.
    #[serde(default)]
    pub workers: WorkersSpec,

    /// The process that leads them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub coordinator: CoordinatorSpec,

    /// The image of the job's pods. Default: the one that the controller has been given, when the job was started or changed last.
    /// Only on a cluster. May be changed: the job goes on from its last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,

    /// Another number than before starts the job's pods anew, from a last checkpoint, and with the controller's newest image unless
    /// `image` is given. Only on a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_nonce: Option<i64>,
}

/// Without another place's state.
const LATEST: &str = "Latest";

fn latest() -> String {
    LATEST.to_owned()
}

fn one() -> u32 {
    1
}

fn key_groups() -> u32 {
    1024
}

impl StreamJobSpec {
    /// The place whose checkpoint a job without one begins from, if there is such a place.
    pub fn start_place(&self) -> Option<&str> {
        Some(self.start_from.as_str()).filter(|place| ![LATEST, "None"].contains(place))
    }

    /// Templates of pods that are no objects.
    pub fn template_mistakes(&self) -> Vec<String> {
        let templates =
            [("workers", &self.workers.pod_template), ("coordinator", &self.coordinator.pod_template)];
        let wrong =
            templates.into_iter().filter(|(_, template)| template.as_ref().is_some_and(|t| !t.is_object()));
        let mistake = |(of, _)| {
            format!("spec.{of}.podTemplate: is no object; write it as the template of a Deployment")
        };
        wrong.map(mistake).collect()
    }

    /// Requests of containers beyond their limits.
    pub fn resource_mistakes(&self) -> Vec<String> {
        [
            self.workers.resources.mistakes("spec.workers.resources"),
            self.coordinator.resources.mistakes("spec.coordinator.resources"),
        ]
        .concat()
    }

    /// The spec as JSON without the fields that have their default value. A release that adds fields gives the same for a manifest
    /// that does not use them: what is named or recognised by it stays as it is.
    ///
    /// # Errors
    /// If it cannot be written as JSON, which no spec that was read causes.
    pub fn without_defaults(&self) -> serde_json::Result<serde_json::Value> {
        let defaults = serde_json::json!({"pipeline": {"sql": ""}});
        let defaults: StreamJobSpec = serde_json::from_value(defaults)?;
        let (mut spec, defaults) = (serde_json::to_value(self)?, serde_json::to_value(defaults)?);
        remove_equal(&mut spec, &defaults);
        // Always there, whatever it is.
        if self.pipeline.sql_from.is_none() {
            spec["pipeline"]["sql"] = serde_json::Value::String(self.pipeline.sql.clone());
        }
        spec.sort_all_objects();
        Ok(spec)
    }
}

/// Removes the fields that are the same in another value, and rows that have none left.
fn remove_equal(value: &mut serde_json::Value, other: &serde_json::Value) {
    let (serde_json::Value::Object(fields), serde_json::Value::Object(others)) = (value, other) else {
        return;
    };
    fields.retain(|name, field| {
        let Some(other) = others.get(name) else { return true };
        remove_equal(field, other);
        let is_empty = field.as_object().is_some_and(serde_json::Map::is_empty);
        field != other && !is_empty
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_defaults_is_the_same_spec() {
        let text = serde_json::json!({
            "pipeline": {"sql": "x"}, "parallelism": 4, "maxParallelism": 1024,
            "checkpoint": {"interval": "10s", "location": "s3://a/b"}, "restart": {"strategy": "Exponential"}
        });
        let spec: StreamJobSpec = serde_json::from_value(text).unwrap();

        let short = spec.without_defaults().unwrap();

        let expected = serde_json::json!({
            "pipeline": {"sql": "x"}, "parallelism": 4, "checkpoint": {"location": "s3://a/b"}
        });
        assert_eq!(short, expected);
        assert_eq!(serde_json::from_value::<StreamJobSpec>(short).unwrap(), spec);
    }
}
