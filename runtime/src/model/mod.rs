//! The nouns of the data plane, in the order a reader meets them.

pub mod element;
pub mod ids;
pub mod key_encoding;
pub mod key_group;

pub use element::{Barrier, Batch, Element, EventTime, RowKind};
pub use ids::{Attempt, Epoch, Generation, JobUid, Led, Subtask, WorkerId};
pub use key_group::{KeyGroups, MaxParallelism};
