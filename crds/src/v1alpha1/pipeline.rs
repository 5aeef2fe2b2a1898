//! What to run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a job computes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineSpec {
    /// SQL statements, separated by semicolons: CREATE TABLE, CREATE VIEW, and at least one INSERT INTO.
    #[schemars(length(min = 1, max = 262144))]
    pub sql: String,
}
