//! What an operator remembers, and how it becomes bytes in a checkpoint.
//!
//! ```text
//! operator ─▶ StateTable (chunks, dirty bits) ─▶ TableSnapshot (shared chunks) ─▶ segment (sorted blocks)
//!                    ▲                                                                 │
//!                    └───────────────────────── restore, by key groups ◀───────────────┘
//! ```
//! Taking a snapshot shares the chunks and clears the dirty bits, which takes microseconds; a chunk is copied only
//! if the operator writes to it while the snapshot is still being encoded.

pub mod chunk;
mod cold;
pub mod column;
mod disk;
mod memory;
pub mod segment;
mod sorted;
pub mod table;

pub use chunk::Chunk;
pub use cold::Shared;
pub use column::{StateColumn, StateType};
pub use disk::{DiskError, LocalDisk};
pub use memory::{StateMemory, TaskMemory};
pub use segment::{
    BlockRow, FetchedPart, SegmentError, SegmentIndex, SegmentReader, SegmentTail, SegmentWriter, WrittenRun,
    verify_segment,
};
pub use sorted::SortedRows;
pub use table::{Part, RestoreError, StateTable, TableImage, TableSnapshot};
