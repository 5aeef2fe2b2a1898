//! Chunks in memory or on the local disk.
//!
//! Of a chunk on the disk the hashes of its keys stay in memory: they tell nearly all other keys apart from its own, so that the
//! disk is read only for keys that are there. A row is read by itself.
//!
//! ```text
//! row: u32 crc32c of the rest │ u32 key length │ key │ columns in the segment's form
//! ```

use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::Chunk;
use super::column::{StateType, take};
use super::disk::{DiskError, LocalDisk, Piece};

/// A chunk, wherever it is.
#[derive(Debug, Clone)]
pub enum Stored {
    Hot(Arc<Chunk>),
    Cold(Arc<ColdChunk>),
}

/// A chunk on the local disk. Never changes.
#[derive(Debug)]
pub struct ColdChunk {
    layout: Arc<[StateType]>,
    hashes: Box<[u64]>,
    /// Where each row ends.
    ends: Box<[u32]>,
    piece: Piece,
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
            Stored::Cold(cold) => cold.ends.last().map_or(0, |end| *end as usize),
        }
    }

    /// All of the chunk, in memory.
    pub fn load(&self) -> Result<Arc<Chunk>, DiskError> {
        match self {
            Stored::Hot(chunk) => Ok(Arc::clone(chunk)),
            Stored::Cold(cold) => cold.load().map(Arc::new),
        }
    }
}

impl ColdChunk {
    /// Writes a chunk to the disk.
    pub fn write(chunk: &Chunk, layout: &Arc<[StateType]>, disk: &LocalDisk) -> Result<Self, DiskError> {
        let mut bytes = Vec::with_capacity(chunk.byte_len() + chunk.len() * 8);
        let mut ends = Vec::with_capacity(chunk.len());
        for offset in 0..chunk.len() {
            let start = bytes.len();
            let key = chunk.keys.key(offset);
            bytes.extend([0; 4]);
            bytes.extend((key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
            chunk.write(offset, &mut bytes);
            let checksum = crc32c::crc32c(&bytes[start + 4..]);
            bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
            ends.push(bytes.len() as u32);
        }
        let piece = disk.write(&bytes)?;
        let hashes = chunk.hashes.as_slice().into();
        Ok(ColdChunk { layout: Arc::clone(layout), hashes, ends: ends.into(), piece })
    }

    /// Hashes of the keys.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The row of a slot: a chunk of one.
    pub fn row(&self, offset: usize) -> Result<Chunk, DiskError> {
        self.rows(&[offset])
    }

    /// The rows of some slots, in their order.
    pub fn rows(&self, offsets: &[usize]) -> Result<Chunk, DiskError> {
        let mut rows = Chunk::new(&self.layout);
        for offset in offsets {
            let range = self.range(*offset);
            let bytes = self.piece.read(range.start as u64, range.len())?;
            self.read_into(*offset, &bytes, &mut rows)?;
        }
        Ok(rows)
    }

    fn load(&self) -> Result<Chunk, DiskError> {
        let bytes = self.piece.read(0, self.ends.last().map_or(0, |end| *end as usize))?;
        let mut chunk = Chunk::new(&self.layout);
        for offset in 0..self.hashes.len() {
            self.read_into(offset, &bytes[self.range(offset)], &mut chunk)?;
        }
        Ok(chunk)
    }

    fn range(&self, offset: usize) -> std::ops::Range<usize> {
        let start = offset.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        start..self.ends[offset] as usize
    }

    fn read_into(&self, offset: usize, mut row: &[u8], chunk: &mut Chunk) -> Result<(), DiskError> {
        let mut read = || {
            let checksum = u32::from_le_bytes(take(&mut row)?);
            (crc32c::crc32c(row) == checksum).then_some(())?;
            let length = u32::from_le_bytes(take(&mut row)?) as usize;
            let (key, values) = row.split_at_checked(length)?;
            chunk.push_read(self.hashes[offset], key, values)
        };
        read().ok_or_else(|| self.piece.damaged())
    }

    /// Bytes that stay in memory.
    pub fn byte_len(&self) -> usize {
        self.hashes.len() * 12
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
