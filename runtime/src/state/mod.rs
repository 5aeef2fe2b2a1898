//! What an operator remembers, and how it becomes bytes in a checkpoint.
//!
//! ```text
//! operator ─▶ StateTable (chunks, dirty bits) ─▶ TableSnapshot (shared chunks) ─▶ segment (sorted blocks)
//!                    ▲                                                                 │
//!                    └───────────────────────── restore, by key groups ◀───────────────┘
//! ```
//! Taking a snapshot shares the chunks and clears the dirty bits, which takes microseconds; a chunk is copied only
//! if the operator writes to it while the snapshot is still being encoded.

pub mod column;
pub mod segment;
pub mod table;

pub use column::{StateColumn, StateType};
pub use segment::{
    BlockRow, SegmentError, SegmentIndex, SegmentReader, SegmentTail, SegmentWriter, verify_segment,
};
pub use table::{StateTable, TableImage, TableSnapshot};
