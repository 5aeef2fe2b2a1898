//! The processes of a job.

use schemars::JsonSchema;
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
}

/// The coordinator of a job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CoordinatorSpec {
    /// What its container asks for and may use. Only on a cluster. May be changed: the job goes on from its last checkpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: ResourcesSpec,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        WorkersSpec { slots: 2, resources: ResourcesSpec::default() }
    }
}
