//! State that is still on its way: rows flow as soon as it is known which keys there are, and whoever needs a row that is not there
//! waits for it. What is waited for is fetched next.
//!
//! ```text
//! fetching (async) ─ deliver ─▶ unit of blocks ─▶ rows on the local disk ─▶ chunk
//!        ▲                                                                   │
//!        └──────────── urgent units ◀─ Arrivals ◀─ a task waits ◀────────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use snafu::{OptionExt, Snafu};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::block::BlockRow;
use super::cold::ColdChunk;
use super::disk::{LocalDisk, NotFetchedSnafu, StateError};
use super::segment::{IndexedBlock, MalformedSnafu, SegmentError};

/// What is waited for.
#[derive(Debug, Default)]
pub struct Arrivals {
    state: Mutex<State>,
    /// Something has arrived, or nothing more will.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Units that somebody waits for, the first one first.
    urgent: Vec<usize>,
    failure: Option<NotFetched>,
}

/// Why nothing more arrives.
#[derive(Debug, Clone)]
pub struct NotFetched {
    pub message: String,
    pub kind: &'static str,
    pub is_permanent: bool,
}

/// Blocks of a segment that are fetched together.
pub struct Unit {
    pub segment: String,
    /// Where in the segment.
    pub range: std::ops::Range<u64>,
    /// By where their rows begin.
    blocks: BTreeMap<u64, AwaitedBlock>,
}

struct AwaitedBlock {
    block: Arc<IndexedBlock>,
    /// Each with the rows of the block that are its own.
    chunks: Vec<(Weak<ColdChunk>, Vec<u32>)>,
}

impl Arrivals {
    /// Waits until something is there; `unit` is to be fetched for it.
    pub fn wait(&self, unit: usize, is_there: impl Fn() -> bool) -> Result<(), StateError> {
        let wait = || {
            let mut state = self.state.lock();
            if !state.urgent.contains(&unit) {
                state.urgent.push(unit);
            }
            loop {
                if is_there() {
                    return Ok(());
                }
                if let Some(failure) = &state.failure {
                    return NotFetchedSnafu { failure: failure.clone() }.fail();
                }
                self.changed.wait(&mut state);
            }
        };
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            // Others of the thread go on meanwhile.
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }

    /// A unit that somebody waits for, the first one first.
    pub fn urgent(&self) -> Option<usize> {
        let mut state = self.state.lock();
        (!state.urgent.is_empty()).then(|| state.urgent.remove(0))
    }

    /// Something is there.
    pub fn arrived(&self) {
        // Who looks now, looks again: it holds the lock until it waits.
        drop(self.state.lock());
        self.changed.notify_all();
    }

    /// Nothing more will be there.
    pub fn fail(&self, failure: NotFetched) {
        self.state.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }
}

impl Unit {
    /// Without blocks.
    pub fn new(segment: &str, range: std::ops::Range<u64>) -> Self {
        Unit { segment: segment.to_owned(), range, blocks: BTreeMap::new() }
    }

    /// A chunk waits for rows of a block.
    pub fn await_rows(&mut self, block: &Arc<IndexedBlock>, chunk: &Arc<ColdChunk>, rows: Vec<u32>) {
        let awaited = self.blocks.entry(block.offset());
        let awaited =
            awaited.or_insert_with(|| AwaitedBlock { block: Arc::clone(block), chunks: Vec::new() });
        awaited.chunks.push((Arc::downgrade(chunk), rows));
    }

    /// True if somebody still has a chunk of it: all rows may have been replaced by newer ones.
    pub fn is_needed(&self) -> bool {
        let mut chunks = self.blocks.values().flat_map(|awaited| &awaited.chunks);
        chunks.any(|(chunk, _)| chunk.strong_count() > 0)
    }

    /// Gives the chunks their rows, out of the bytes of the range.
    pub fn deliver(&self, bytes: &[u8], disk: &LocalDisk) -> Result<(), DeliverError> {
        for awaited in self.blocks.values() {
            let mut raw = None;
            for (chunk, rows) in &awaited.chunks {
                let Some(chunk) = chunk.upgrade() else { continue };
                let raw = match &raw {
                    Some(raw) => raw,
                    None => raw.insert(awaited.block.read(self.range.start, bytes)?),
                };
                let index = &awaited.block.index;
                let found: Option<Vec<BlockRow<'_>>> =
                    rows.iter().map(|row| index.row(*row as usize, raw)).collect();
                chunk.fill(&found.context(MalformedSnafu { part: "block" })?, disk)?;
            }
        }
        Ok(())
    }
}

/// A unit could not be delivered.
#[derive(Debug, Snafu)]
pub enum DeliverError {
    #[snafu(transparent)]
    Segment { source: SegmentError },
    #[snafu(transparent)]
    Disk { source: StateError },
}
