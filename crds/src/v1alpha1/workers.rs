//! The processes that do the work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Workers of a job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkersSpec {
    /// How many subtasks of each operator one worker runs, each on a thread of its own. Default: 2.
    #[schemars(range(min = 1, max = 64))]
    pub slots: u32,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        WorkersSpec { slots: 2 }
    }
}
