//! What survives: objects in the checkpoint store, created only if absent.
//!
//! ```text
//! claim generations/<g> ─▶ seal epochs/<newest+1> ─▶ restore the newest record ─▶ replay its commit if unmarked
//!        │
//!        └─▶ per checkpoint: segments ─▶ manifests/<e>-<g> ─▶ epochs/<e> (the checkpoint exists) ─▶ sinks commit ─▶ commits/<e>
//! ```
//! Only the coordinator of the newest generation can create an epoch's record: a newer one seals the next epoch before it
//! starts anything, so a stalled predecessor's record finds its place taken. Records have no gaps, so that there is only one
//! such place. Everything can be repeated. What no kept checkpoint needs is removed, after a floor has said so.

pub mod bucket;
pub mod erasure;
pub mod paths;
pub mod protocol;
pub mod records;
pub mod resolve;
pub mod retention;
pub mod savepoint;
pub mod store;

pub use bucket::{BucketSettings, BucketStore, MountedCredentials};
pub use protocol::{CheckpointError, Checkpoints, Claimant, TakenOver};
pub use store::{FolderStore, Store, StoreError};
