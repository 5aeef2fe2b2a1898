//! What an operator remembers, and how it becomes bytes in a checkpoint.
//!
//! ```text
//! operator ─▶ StateTable (chunks, dirty bits) ─▶ TableSnapshot (shared chunks) ─▶ segment (sorted blocks)
//!                    ▲                                                                 │
//!                    └───────────────────────── restore, by key groups ◀───────────────┘
//! ```
//! Taking a snapshot shares the chunks and clears the dirty bits, which takes microseconds; a chunk is copied only
//! if the operator writes to it while the snapshot is still being encoded.

mod arrival;
mod block;
pub mod chunk;
mod cold;
pub mod column;
mod disk;
mod memory;
pub mod ordered;
pub mod segment;
mod sorted;
pub mod table;

pub use arrival::{Arrivals, DeliverError, NotFetched, Unit};
pub use block::BlockRow;
pub use chunk::Chunk;
pub use cold::{AwayRows, ColdChunk, Shared};
pub use column::{StateColumn, StateType};
pub use disk::{LOCAL_DISK_FAILED, LocalDisk, StateError};
pub use memory::{StateMemory, TaskMemory};
pub use segment::{
    FetchedPart, IndexedBlock, SegmentError, SegmentIndex, SegmentReader, SegmentTail, SegmentWriter,
    WrittenRun, verify_segment,
};
pub use sorted::SortedRows;
pub use table::{Extent, Part, RestoreError, StateTable, TableImage, TableSnapshot};
