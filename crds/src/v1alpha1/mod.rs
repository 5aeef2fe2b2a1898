//! Version v1alpha1 of the API.

mod checkpoint;
mod duration;
mod pipeline;
mod restart;
mod spec;
mod status;
mod storage;
mod workers;

pub use checkpoint::CheckpointSpec;
pub use duration::Duration;
pub use pipeline::{PipelineSecret, PipelineSpec, SecretKeyReference};
pub use restart::{RestartSpec, RestartStrategy};
pub use spec::{StreamJob, StreamJobSpec};
pub use status::{CheckpointStatus, FailureStatus, Phase, StreamJobStatus};
pub use storage::{CredentialsSpec, SecretReference, StorageSpec};
pub use workers::WorkersSpec;
