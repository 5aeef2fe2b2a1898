//! Chunks in memory, on the local disk, or on their way there.
//!
//! Of a chunk on the disk the hashes of its keys stay in memory: they tell nearly all other keys apart from its own, so that the
//! disk is read only for keys that are there. A row is read by itself.
//!
//! ```text
//! row: u32 crc32c of the rest │ u32 key length │ key │ columns in the segment's form
//! ```

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::arrival::Arrivals;
use super::block::BlockRow;
use super::chunk::Chunk;
use super::column::{StateType, take};
use super::disk::{LocalDisk, Piece, StateError};

/// A chunk, wherever it is.
#[derive(Debug, Clone)]
pub enum Stored {
    Hot(Arc<Chunk>),
    Cold(Arc<ColdChunk>),
}

/// A chunk on the local disk, or on its way there. Its rows never change.
#[derive(Debug)]
pub struct ColdChunk {
    layout: Arc<[StateType]>,
    hashes: Box<[u64]>,
    /// Of all rows.
    bytes: usize,
    body: OnceLock<Body>,
    /// Until the body is there.
    awaited: Mutex<Option<Awaited>>,
}

/// The rows on the disk.
#[derive(Debug)]
struct Body {
    /// Where each row ends.
    ends: Box<[u32]>,
    piece: Piece,
}

#[derive(Debug, Clone)]
struct Awaited {
    /// Of the keys, see [`check_of`](super::block::check_of).
    checks: Arc<[u32]>,
    arrivals: Arc<Arrivals>,
    unit: usize,
}

/// Rows that are still to come, for a chunk.
pub struct AwayRows {
    pub hashes: Vec<u64>,
    pub checks: Vec<u32>,
    /// Of all rows.
    pub bytes: usize,
    pub arrivals: Arc<Arrivals>,
    /// Which unit brings them.
    pub unit: usize,
}

/// A chunk that snapshots and images hold. When the table puts it on the disk, they have it there, too: what they hold keeps no memory
/// in use that the table has given up.
#[derive(Debug)]
pub struct Shared(Mutex<Stored>);

impl Stored {
    /// Hashes of the keys.
    pub fn hashes(&self) -> &[u64] {
        match self {
            Stored::Hot(chunk) => &chunk.hashes,
            Stored::Cold(cold) => &cold.hashes,
        }
    }

    /// Used slots.
    pub fn len(&self) -> usize {
        self.hashes().len()
    }

    /// Bytes of its rows, roughly, wherever they are.
    pub fn byte_len(&self) -> usize {
        match self {
            Stored::Hot(chunk) => chunk.byte_len(),
            Stored::Cold(cold) => cold.bytes,
        }
    }

    /// All of the chunk, in memory.
    pub fn load(&self) -> Result<Arc<Chunk>, StateError> {
        match self {
            Stored::Hot(chunk) => Ok(Arc::clone(chunk)),
            Stored::Cold(cold) => cold.load().map(Arc::new),
        }
    }
}

/// From one row in so many on all bytes of a chunk are read at once: that is quicker than many reads of a few.
const WHOLE: usize = 32;

impl ColdChunk {
    /// Writes a chunk to the disk.
    pub fn write(chunk: &Chunk, layout: &Arc<[StateType]>, disk: &LocalDisk) -> Result<Self, StateError> {
        let mut rows = RowsDraft::default();
        for offset in 0..chunk.len() {
            rows.push(chunk.keys.key(offset), |out| chunk.write(offset, out));
        }
        let body = rows.write(disk)?;
        let bytes = body.ends.last().map_or(0, |end| *end as usize);
        let (layout, hashes) = (Arc::clone(layout), chunk.hashes.as_slice().into());
        Ok(ColdChunk { layout, hashes, bytes, body: body.into(), awaited: Mutex::default() })
    }

    /// A chunk whose rows are still to come.
    pub fn away(rows: AwayRows, layout: &Arc<[StateType]>) -> Self {
        let AwayRows { hashes, checks, bytes, arrivals, unit } = rows;
        let awaited = Awaited { checks: checks.into(), arrivals, unit };
        ColdChunk {
            layout: Arc::clone(layout),
            hashes: hashes.into(),
            bytes,
            body: OnceLock::new(),
            awaited: Mutex::new(Some(awaited)),
        }
    }

    /// The rows have come.
    pub fn fill(&self, all: &[BlockRow<'_>], disk: &LocalDisk) -> Result<(), StateError> {
        let mut rows = RowsDraft::default();
        for row in all {
            rows.push(row.key, |out| out.extend_from_slice(row.values));
        }
        // Who fills it first is right, and so are all others.
        let _ = self.body.set(rows.write(disk)?);
        *self.awaited.lock() = None;
        Ok(())
    }

    /// True if the rows are there.
    pub fn is_there(&self) -> bool {
        self.body.get().is_some()
    }

    /// What is known of a key beside its hash while its row is still to come.
    pub fn check(&self, offset: usize) -> Option<u32> {
        self.awaited.lock().as_ref().map(|awaited| awaited.checks[offset])
    }

    fn body(&self) -> Result<&Body, StateError> {
        if let Some(body) = self.body.get() {
            return Ok(body);
        }
        let awaited = self.awaited.lock().clone();
        if let Some(awaited) = awaited {
            awaited.arrivals.wait(awaited.unit, || self.body.get().is_some())?;
        }
        Ok(self.body.get().expect("who ends the waiting has brought the rows before"))
    }

    /// Hashes of the keys.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The row of a slot: a chunk of one.
    pub fn row(&self, offset: usize) -> Result<Chunk, StateError> {
        self.rows(&[offset])
    }

    /// The rows of some slots, in their order. No others are in memory once they are read.
    pub fn rows(&self, offsets: &[usize]) -> Result<Chunk, StateError> {
        let body = self.body()?;
        let mut rows = Chunk::new(&self.layout);
        if offsets.len() * WHOLE > self.hashes.len() {
            let bytes = body.piece.read(0, body.ends.last().map_or(0, |end| *end as usize))?;
            for offset in offsets {
                self.read_into(*offset, &bytes[body.range(*offset)], &mut rows)?;
            }
            return Ok(rows);
        }
        for offset in offsets {
            let range = body.range(*offset);
            let bytes = body.piece.read(range.start as u64, range.len())?;
            self.read_into(*offset, &bytes, &mut rows)?;
        }
        Ok(rows)
    }

    fn load(&self) -> Result<Chunk, StateError> {
        self.rows(&(0..self.hashes.len()).collect::<Vec<_>>())
    }

    fn read_into(&self, offset: usize, mut row: &[u8], chunk: &mut Chunk) -> Result<(), StateError> {
        let mut read = || {
            let checksum = u32::from_le_bytes(take(&mut row)?);
            (crc32c::crc32c(row) == checksum).then_some(())?;
            let length = u32::from_le_bytes(take(&mut row)?) as usize;
            let (key, values) = row.split_at_checked(length)?;
            chunk.push_read(self.hashes[offset], key, values)
        };
        match read() {
            Some(()) => Ok(()),
            None => Err(self.body()?.piece.damaged()),
        }
    }

    /// Bytes that stay in memory.
    pub fn byte_len(&self) -> usize {
        self.hashes.len() * 12
    }
}

/// Rows on their way to the disk.
#[derive(Default)]
struct RowsDraft {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl RowsDraft {
    fn push(&mut self, key: &[u8], values: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        let bytes = &mut self.bytes;
        bytes.extend([0; 4]);
        bytes.extend((key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        values(bytes);
        let checksum = crc32c::crc32c(&bytes[start + 4..]);
        bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        self.ends.push(bytes.len() as u32);
    }

    fn write(self, disk: &LocalDisk) -> Result<Body, StateError> {
        Ok(Body { piece: disk.write(&self.bytes)?, ends: self.ends.into() })
    }
}

impl Body {
    fn range(&self, offset: usize) -> std::ops::Range<usize> {
        let start = offset.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        start..self.ends[offset] as usize
    }
}

impl Shared {
    /// Holds a chunk.
    pub fn new(stored: Stored) -> Self {
        Shared(Mutex::new(stored))
    }

    /// The chunk, where it is now.
    pub fn get(&self) -> Stored {
        self.0.lock().clone()
    }

    /// The chunk is on the disk from now on.
    pub fn moved(&self, cold: &Arc<ColdChunk>) {
        *self.0.lock() = Stored::Cold(Arc::clone(cold));
    }
}
