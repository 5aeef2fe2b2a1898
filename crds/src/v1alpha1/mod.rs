//! Version v1alpha1 of the API.

mod checkpoint;
mod duration;
mod pipeline;
mod resources;
mod restart;
mod spec;
mod status;
mod storage;
mod upgrade;
mod workers;

pub use checkpoint::{CheckpointSpec, OnDelete};
pub use duration::Duration;
pub use pipeline::{ConfigMapKeyReference, PipelineSecret, PipelineSpec, SecretKeyReference, SqlSource};
pub use resources::{Amount, Amounts, ResourcesSpec};
pub use restart::{RestartSpec, RestartStrategy};
pub use spec::{StreamJob, StreamJobSpec};
pub use status::{CheckpointStatus, FailureStatus, Phase, StreamJobStatus};
pub use storage::{CredentialsSpec, SecretReference, StorageSpec};
pub use upgrade::{UpgradeMode, UpgradeSpec};
pub use workers::{CoordinatorSpec, WorkersSpec};

/// Fields that nobody has written are not shown.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
