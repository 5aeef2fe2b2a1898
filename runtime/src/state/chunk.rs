//! Chunks: keys and columns of consecutive slots, and sets of their slots.

use super::column::{StateColumn, StateType};
use crate::model::key_encoding::EncodedKeys;

/// Slots per chunk.
pub const CHUNK_SLOTS: usize = 4096;

/// A row's hash, and the end of its key.
const ROW_BYTES: usize = 12;

/// Up to 4096 consecutive slots.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub hashes: Vec<u64>,
    pub keys: EncodedKeys,
    pub columns: Vec<StateColumn>,
}

/// Some slots of a chunk.
#[derive(Debug, Clone)]
pub struct SlotSet {
    words: Box<[u64; CHUNK_SLOTS / 64]>,
}

impl Chunk {
    /// Without slots.
    pub fn new(layout: &[StateType]) -> Self {
        Chunk {
            hashes: Vec::new(),
            keys: EncodedKeys::default(),
            columns: layout.iter().map(|state_type| StateColumn::new(*state_type)).collect(),
        }
    }

    /// Appends a key with NULL columns.
    pub fn push(&mut self, hash: u64, key: &[u8]) {
        self.hashes.push(hash);
        self.keys.push(key);
        self.columns.iter_mut().for_each(StateColumn::push_null);
    }

    /// Appends a slot of another chunk of the same layout.
    pub fn push_from(&mut self, from: &Chunk, offset: usize) {
        self.hashes.push(from.hashes[offset]);
        self.keys.push(from.keys.key(offset));
        for (to, from) in self.columns.iter_mut().zip(&from.columns) {
            to.push_from(from, offset);
        }
    }

    /// Appends a key with columns in the segment's form; `None` if they are malformed.
    pub fn push_read(&mut self, hash: u64, key: &[u8], values: &[u8]) -> Option<()> {
        self.push(hash, key);
        self.read(self.len() - 1, values)
    }

    /// Sets the columns of a slot from the segment's form; `None` if the bytes are malformed.
    pub fn read(&mut self, offset: usize, mut values: &[u8]) -> Option<()> {
        self.columns.iter_mut().try_for_each(|column| column.read(offset, &mut values))?;
        values.is_empty().then_some(())
    }

    /// Appends the columns of a slot in the segment's form.
    pub fn write(&self, offset: usize, out: &mut Vec<u8>) {
        self.columns.iter().for_each(|column| column.write(offset, out));
    }

    /// Used slots.
    #[expect(clippy::len_without_is_empty, reason = "a chunk is made for its first slot")]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Bytes of a row but for its key, roughly; `None` if rows differ.
    pub fn row_bytes(layout: &[StateType]) -> Option<usize> {
        let columns = layout.iter().map(|state_type| state_type.value_bytes());
        columns.sum::<Option<usize>>().map(|columns| columns + ROW_BYTES)
    }

    /// Bytes of a row, roughly.
    pub fn row_byte_len(&self, offset: usize) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.value_byte_len(offset)).sum();
        columns + self.keys.key(offset).len() + ROW_BYTES
    }

    /// Bytes held, roughly.
    pub fn byte_len(&self) -> usize {
        let columns: usize = self.columns.iter().map(StateColumn::byte_len).sum();
        columns + self.keys.byte_len() + self.hashes.len() * 8
    }
}

impl SlotSet {
    /// None of them.
    pub fn none() -> Self {
        SlotSet { words: Box::new([0; CHUNK_SLOTS / 64]) }
    }

    /// Adds a slot.
    pub fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    /// True if the slot is among them.
    pub fn has(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Those that are not among others.
    pub fn without(mut self, other: &SlotSet) -> SlotSet {
        self.words.iter_mut().zip(other.words.iter()).for_each(|(word, other)| *word &= !other);
        self
    }

    /// Adds all of others.
    pub fn add(&mut self, others: &SlotSet) {
        self.words.iter_mut().zip(others.words.iter()).for_each(|(word, other)| *word |= other);
    }

    /// All others.
    pub fn complement(&self) -> SlotSet {
        SlotSet { words: Box::new([u64::MAX; CHUNK_SLOTS / 64]) }.without(self)
    }
}
