//! What becomes of state when the pipeline is edited.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// How a job goes on whose SQL was edited. Other changes, such as of the parallelism, always keep the state.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UpgradeSpec {
    /// LastState: from the last checkpoint, which a running job takes before it stops; SQL that the state does not fit is refused.
    /// Savepoint: the same, and a savepoint of that checkpoint is kept beside the job's state as `savepoints/<epoch>`, from which
    /// another job can begin by `startFrom`.
    /// Stateless: with nothing, if the SQL does something else than before: sources begin where their tables say, and what is
    /// written already is written again. A job that was edited in other ways goes on from its state.
    /// Default: LastState.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: UpgradeMode,

    /// State of sources, aggregates and sinks that the edited SQL does not have any more is let go, instead of the edit being
    /// refused. What their last checkpoint has prepared is still made visible. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_non_restored_state: bool,
}

/// Where an edited pipeline begins.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpgradeMode {
    #[default]
    LastState,
    Savepoint,
    Stateless,
}
