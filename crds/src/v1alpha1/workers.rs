//! The processes of a job.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{ResourcesSpec, is_default};

/// Workers of a job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkersSpec {
    /// How many subtasks of each operator one worker runs, each on a thread of its own. Default: 2.
    #[schemars(range(min = 1, max = 64))]
    pub slots: u32,

    /// What the container of each worker asks for and may use. Only on a cluster. May be changed: the job goes on from its last
    /// checkpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,

    /// What else the pods of workers have: node selectors, tolerations, labels, volumes, sidecars, … It is laid over the controller's
    /// own template, as `kubectl patch` does: objects field by field, containers, variables and volumes by name, `null` removes.
    /// The container is called `worker`. Only on a cluster. May be changed: the job goes on from its last checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<serde_json::Value>,
}

/// What Kubernetes knows, and this definition does not repeat.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The coordinator of a job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CoordinatorSpec {
    /// What its container asks for and may use. Only on a cluster. May be changed: the job goes on from its last checkpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,

    /// What else its pod has, as that of workers. The container is called `coordinator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<serde_json::Value>,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        WorkersSpec { slots: 2, resources: ResourcesSpec::default(), pod_template: None }
    }
}
