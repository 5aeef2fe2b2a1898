//! A keyed table: copy-on-write column chunks, an index over encoded keys, dirty bits.

use std::sync::Arc;

use hashbrown::HashTable;

use super::column::{StateColumn, StateType};
use crate::model::key_encoding::EncodedKeys;

/// Slots per chunk.
pub const CHUNK_SLOTS: usize = 4096;

/// 4096 consecutive slots.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub hashes: Vec<u64>,
    pub keys: EncodedKeys,
    pub columns: Vec<StateColumn>,
}

/// Which slots of a chunk were written since the last snapshot.
#[derive(Debug, Clone)]
pub struct DirtySlots {
    words: Box<[u64; CHUNK_SLOTS / 64]>,
}

/// Keys with their state.
#[derive(Debug)]
pub struct StateTable {
    layout: Arc<[StateType]>,
    chunks: Vec<Arc<Chunk>>,
    dirty: Vec<Option<DirtySlots>>,
    index: HashTable<u32>,
    len: usize,
}

/// A table as it was at a barrier. Shares its chunks with the table until either is written.
#[derive(Debug, Clone)]
pub struct TableSnapshot {
    pub layout: Arc<[StateType]>,
    /// Chunks with the slots to write; `None`: all of them.
    pub chunks: Vec<(Arc<Chunk>, Option<DirtySlots>)>,
}

impl DirtySlots {
    fn none() -> Self {
        DirtySlots { words: Box::new([0; CHUNK_SLOTS / 64]) }
    }

    fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    /// True if the slot was written.
    pub fn has(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }
}

impl Chunk {
    fn new(layout: &[StateType]) -> Self {
        Chunk {
            hashes: Vec::new(),
            keys: EncodedKeys::default(),
            columns: layout.iter().map(|state_type| StateColumn::new(*state_type)).collect(),
        }
    }

    /// Used slots.
    #[expect(clippy::len_without_is_empty, reason = "a chunk is made for its first slot")]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }
}

impl StateTable {
    /// An empty table with these columns.
    pub fn new(layout: Arc<[StateType]>) -> Self {
        StateTable { layout, chunks: Vec::new(), dirty: Vec::new(), index: HashTable::new(), len: 0 }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All chunks, in slot order.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// The slot of a key; a new key gets a new slot with NULL columns.
    pub fn slot(&mut self, hash: u64, key: &[u8]) -> u32 {
        let chunks = &self.chunks;
        let is_same = |slot: &u32| {
            let (chunk, offset) = (&chunks[*slot as usize / CHUNK_SLOTS], *slot as usize % CHUNK_SLOTS);
            chunk.hashes[offset] == hash && chunk.keys.key(offset) == key
        };
        if let Some(slot) = self.index.find(hash, is_same) {
            return *slot;
        }
        let slot = self.len as u32;
        self.append(hash, key);
        let chunks = &self.chunks;
        self.index.insert_unique(hash, slot, |slot| {
            chunks[*slot as usize / CHUNK_SLOTS].hashes[*slot as usize % CHUNK_SLOTS]
        });
        slot
    }

    fn append(&mut self, hash: u64, key: &[u8]) {
        if self.len.is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Arc::new(Chunk::new(&self.layout)));
            self.dirty.push(None);
        }
        let last = self.chunks.len() - 1;
        let chunk = Arc::make_mut(&mut self.chunks[last]);
        chunk.hashes.push(hash);
        chunk.keys.push(key);
        chunk.columns.iter_mut().for_each(StateColumn::push_null);
        self.len += 1;
    }

    /// A copy of some slots.
    pub fn gather(&self, slots: &[u32]) -> Chunk {
        let mut gathered = Chunk::new(&self.layout);
        for slot in slots {
            let (chunk, offset) = (&self.chunks[*slot as usize / CHUNK_SLOTS], *slot as usize % CHUNK_SLOTS);
            gathered.hashes.push(chunk.hashes[offset]);
            gathered.keys.push(chunk.keys.key(offset));
            for (to, from) in gathered.columns.iter_mut().zip(&chunk.columns) {
                to.push_from(from, offset);
            }
        }
        gathered
    }

    /// Lends the chunks of these slots for writing and marks the slots dirty.
    pub fn write(&mut self, slots: &[u32]) -> ChunksMut<'_> {
        for slot in slots {
            let (chunk, offset) = (*slot as usize / CHUNK_SLOTS, *slot as usize % CHUNK_SLOTS);
            self.dirty[chunk].get_or_insert_with(DirtySlots::none).set(offset);
        }
        let dirty = &self.dirty;
        let chunks = self.chunks.iter_mut().enumerate();
        // Chunks without a dirty slot were not asked for, and making them ours would copy them for nothing.
        let chunks = chunks.map(|(n, chunk)| dirty[n].is_some().then(|| Arc::make_mut(chunk))).collect();
        ChunksMut { chunks }
    }

    /// The state at a barrier: what was written since the last snapshot, or everything.
    pub fn snapshot(&mut self, is_full: bool) -> TableSnapshot {
        let dirty = self.dirty.iter_mut().map(Option::take);
        let chunks = self.chunks.iter().zip(dirty).filter_map(|(chunk, dirty)| match dirty {
            _ if is_full => Some((Arc::clone(chunk), None)),
            None => None,
            Some(dirty) => Some((Arc::clone(chunk), Some(dirty))),
        });
        TableSnapshot { layout: Arc::clone(&self.layout), chunks: chunks.collect() }
    }

    /// Sets a key's columns from a segment; the row is not dirty afterwards.
    pub fn restore(&mut self, hash: u64, key: &[u8], mut values: &[u8]) -> Option<()> {
        let slot = self.slot(hash, key) as usize;
        let chunk = Arc::make_mut(&mut self.chunks[slot / CHUNK_SLOTS]);
        chunk.columns.iter_mut().try_for_each(|column| column.read(slot % CHUNK_SLOTS, &mut values))?;
        values.is_empty().then_some(())
    }

    /// Bytes held, roughly.
    pub fn byte_len(&self) -> usize {
        let chunk_bytes = |chunk: &Arc<Chunk>| {
            let columns: usize = chunk.columns.iter().map(StateColumn::byte_len).sum();
            columns + chunk.keys.byte_len() + chunk.hashes.len() * 8
        };
        self.chunks.iter().map(chunk_bytes).sum::<usize>() + self.index.capacity() * 5
    }
}

/// Chunks lent for writing.
pub struct ChunksMut<'a> {
    chunks: Vec<Option<&'a mut Chunk>>,
}

impl ChunksMut<'_> {
    /// The chunk and offset of a slot.
    ///
    /// # Panics
    /// If the slot was not among those lent.
    pub fn at(&mut self, slot: u32) -> (&mut Chunk, usize) {
        let chunk = self.chunks[slot as usize / CHUNK_SLOTS].as_deref_mut();
        (chunk.expect("the slot was lent by write()"), slot as usize % CHUNK_SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> StateTable {
        StateTable::new(Arc::new([StateType::I64]))
    }

    fn set(table: &mut StateTable, key: u64, value: i64) {
        let slot = table.slot(key, &key.to_be_bytes());
        let mut chunks = table.write(&[slot]);
        let (chunk, offset) = chunks.at(slot);
        let StateColumn::I64(values, valid) = &mut chunk.columns[0] else { panic!("an I64 column") };
        values[offset] = value;
        valid[offset] = true;
    }

    fn written(snapshot: &TableSnapshot) -> Vec<(u64, i64)> {
        let mut rows = Vec::new();
        for (chunk, dirty) in &snapshot.chunks {
            let StateColumn::I64(values, _) = &chunk.columns[0] else { panic!("an I64 column") };
            let slots = (0..chunk.len()).filter(|slot| dirty.as_ref().is_none_or(|dirty| dirty.has(*slot)));
            rows.extend(slots.map(|slot| (chunk.hashes[slot], values[slot])));
        }
        rows
    }

    #[test]
    fn a_snapshot_holds_what_was_written_since_the_last_one() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, 1));
        assert_eq!(written(&table.snapshot(false)).len(), 5000);

        set(&mut table, 4500, 2);
        let delta = table.snapshot(false);
        let nothing = table.snapshot(false);
        let full = table.snapshot(true);

        assert_eq!(written(&delta), [(4500, 2)]);
        assert_eq!(written(&nothing), []);
        assert_eq!(written(&full).len(), 5000);
    }

    #[test]
    fn writing_after_a_snapshot_does_not_change_it() {
        let mut table = table();
        set(&mut table, 1, 10);
        let before = table.snapshot(false);

        set(&mut table, 1, 20);

        assert_eq!(written(&before), [(1, 10)]);
        assert_eq!(written(&table.snapshot(false)), [(1, 20)]);
    }

    #[test]
    fn keys_with_equal_hashes_are_told_apart() {
        let mut table = table();

        let slots = [table.slot(7, b"a"), table.slot(7, b"b"), table.slot(7, b"a")];

        assert_eq!(slots, [0, 1, 0]);
    }
}
