//! A keyed table: copy-on-write column chunks, an index over encoded keys, dirty bits.

use std::collections::HashSet;
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

/// Slots without a key are given up once they are the most, and at least this many.
const VACANT_MIN: usize = 1024;

/// Some slots of a chunk.
#[derive(Debug, Clone)]
pub struct SlotSet {
    words: Box<[u64; CHUNK_SLOTS / 64]>,
}

/// Keys with their state.
#[derive(Debug, Clone)]
pub struct StateTable {
    layout: Arc<[StateType]>,
    chunks: Vec<Arc<Chunk>>,
    /// Which slots of a chunk were written since the last snapshot.
    dirty: Vec<Option<SlotSet>>,
    /// Which slots of a chunk have lost their key.
    vacant: Vec<Option<SlotSet>>,
    /// Keys that were removed since the last snapshot.
    removed: RemovedKeys,
    index: HashTable<u32>,
    /// Slots, vacant ones too.
    slots: usize,
}

/// A table as it was at a barrier. Shares its chunks with the table until either is written.
#[derive(Debug, Clone)]
pub struct TableSnapshot {
    pub layout: Arc<[StateType]>,
    /// Chunks with the slots to write; `None`: all of them.
    pub chunks: Vec<(Arc<Chunk>, Option<SlotSet>)>,
    /// Keys that are no longer there and were, or may have been, at the snapshot before.
    pub removed: RemovedKeys,
    pub image: TableImage,
}

/// All of a table at a barrier, to roll back to without the store. Shares its chunks as a snapshot does: what it costs are the old
/// copies of chunks that were written since.
#[derive(Debug, Clone)]
pub struct TableImage {
    layout: Arc<[StateType]>,
    chunks: Vec<Arc<Chunk>>,
    vacant: Vec<Option<SlotSet>>,
    slots: usize,
}

/// Keys without state.
#[derive(Debug, Clone, Default)]
pub struct RemovedKeys {
    pub hashes: Vec<u64>,
    pub keys: EncodedKeys,
}

impl SlotSet {
    fn none() -> Self {
        SlotSet { words: Box::new([0; CHUNK_SLOTS / 64]) }
    }

    fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    /// True if the slot is among them.
    pub fn has(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    fn without(mut self, other: &SlotSet) -> SlotSet {
        self.words.iter_mut().zip(other.words.iter()).for_each(|(word, other)| *word &= !other);
        self
    }

    /// All others.
    fn complement(&self) -> SlotSet {
        let mut all = SlotSet { words: Box::new([u64::MAX; CHUNK_SLOTS / 64]) };
        all = all.without(self);
        all
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

    /// Appends a slot of another chunk of the same layout.
    fn push_from(&mut self, from: &Chunk, offset: usize) {
        self.hashes.push(from.hashes[offset]);
        self.keys.push(from.keys.key(offset));
        for (to, from) in self.columns.iter_mut().zip(&from.columns) {
            to.push_from(from, offset);
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
        StateTable {
            layout,
            chunks: Vec::new(),
            dirty: Vec::new(),
            vacant: Vec::new(),
            removed: RemovedKeys::default(),
            index: HashTable::new(),
            slots: 0,
        }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All slots that hold a key, in order.
    pub fn occupied(&self) -> impl Iterator<Item = u32> {
        (0..self.slots as u32).filter(|slot| !self.is_vacant(*slot))
    }

    /// True if the slot has lost its key.
    pub fn is_vacant(&self, slot: u32) -> bool {
        let (chunk, offset) = place(slot);
        self.vacant[chunk].as_ref().is_some_and(|vacant| vacant.has(offset))
    }

    /// Chunk and offset of a slot.
    pub fn at(&self, slot: u32) -> (&Chunk, usize) {
        let (chunk, offset) = place(slot);
        (&self.chunks[chunk], offset)
    }

    /// All chunks, in slot order; of tables that no key was removed from.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// The slot of a key; a new key gets a new slot with NULL columns.
    pub fn slot(&mut self, hash: u64, key: &[u8]) -> u32 {
        if let Some(slot) = self.find(hash, key) {
            return slot;
        }
        let slot = self.slots as u32;
        let chunk = self.append();
        chunk.hashes.push(hash);
        chunk.keys.push(key);
        chunk.columns.iter_mut().for_each(StateColumn::push_null);
        self.enter(hash, slot);
        slot
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_same = |slot: &u32| {
            let (chunk, offset) = self.at(*slot);
            chunk.hashes[offset] == hash && chunk.keys.key(offset) == key
        };
        self.index.find(hash, is_same).copied()
    }

    fn enter(&mut self, hash: u64, slot: u32) {
        let chunks = &self.chunks;
        self.index.insert_unique(hash, slot, |slot| {
            let (chunk, offset) = place(*slot);
            chunks[chunk].hashes[offset]
        });
    }

    /// The chunk of the next slot, which the caller fills.
    fn append(&mut self) -> &mut Chunk {
        if self.slots.is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Arc::new(Chunk::new(&self.layout)));
            self.dirty.push(None);
            self.vacant.push(None);
        }
        self.slots += 1;
        let last = self.chunks.len() - 1;
        Arc::make_mut(&mut self.chunks[last])
    }

    /// Removes the keys of slots. The slots stay, and are nobody's, until [`Self::compact`].
    pub fn remove(&mut self, slots: &[u32]) {
        for slot in slots {
            let (chunk, offset) = place(*slot);
            let (hash, key) = (self.chunks[chunk].hashes[offset], self.chunks[chunk].keys.key(offset));
            self.removed.hashes.push(hash);
            self.removed.keys.push(key);
            self.vacate(*slot);
        }
    }

    fn vacate(&mut self, slot: u32) {
        let (chunk, offset) = place(slot);
        let hash = self.chunks[chunk].hashes[offset];
        if let Ok(entry) = self.index.find_entry(hash, |known| *known == slot) {
            entry.remove();
            self.vacant[chunk].get_or_insert_with(SlotSet::none).set(offset);
        }
    }

    /// Gives vacant slots up if they are many. True if it did: every key may then have another slot than before.
    pub fn compact(&mut self) -> bool {
        let vacant = self.slots - self.len();
        if vacant < VACANT_MIN || vacant * 2 < self.slots {
            return false;
        }
        let mut compacted = StateTable::new(Arc::clone(&self.layout));
        compacted.removed = std::mem::take(&mut self.removed);
        compacted.index.reserve(self.len(), |_| 0);
        for old in self.occupied() {
            let (from, offset) = self.at(old);
            let (hash, slot) = (from.hashes[offset], compacted.slots as u32);
            compacted.append().push_from(from, offset);
            compacted.enter(hash, slot);
            let (chunk, offset) = place(old);
            if self.dirty[chunk].as_ref().is_some_and(|dirty| dirty.has(offset)) {
                let (chunk, offset) = place(slot);
                compacted.dirty[chunk].get_or_insert_with(SlotSet::none).set(offset);
            }
        }
        *self = compacted;
        true
    }

    /// A copy of some slots.
    pub fn gather(&self, slots: &[u32]) -> Chunk {
        let mut gathered = Chunk::new(&self.layout);
        for slot in slots {
            let (chunk, offset) = self.at(*slot);
            gathered.push_from(chunk, offset);
        }
        gathered
    }

    /// Lends the chunks of these slots for writing and marks the slots dirty.
    pub fn write(&mut self, slots: &[u32]) -> ChunksMut<'_> {
        for slot in slots {
            let (chunk, offset) = place(*slot);
            self.dirty[chunk].get_or_insert_with(SlotSet::none).set(offset);
        }
        let dirty = &self.dirty;
        let chunks = self.chunks.iter_mut().enumerate();
        // Chunks without a dirty slot were not asked for, and making them ours would copy them for nothing.
        let chunks = chunks.map(|(n, chunk)| dirty[n].is_some().then(|| Arc::make_mut(chunk))).collect();
        ChunksMut { chunks }
    }

    /// The state at a barrier: what was written and removed since the last snapshot, or everything.
    pub fn snapshot(&mut self, is_full: bool) -> TableSnapshot {
        let mut chunks = Vec::new();
        for ((chunk, dirty), vacant) in self.chunks.iter().zip(&mut self.dirty).zip(&self.vacant) {
            let slots = match (dirty.take(), vacant) {
                (_, None) if is_full => None,
                (_, Some(vacant)) if is_full => Some(vacant.complement()),
                (None, _) => continue,
                (Some(dirty), None) => Some(dirty),
                (Some(dirty), Some(vacant)) => Some(dirty.without(vacant)),
            };
            if slots.as_ref().is_none_or(|slots| !slots.is_empty()) {
                chunks.push((Arc::clone(chunk), slots));
            }
        }
        let removed = std::mem::take(&mut self.removed);
        let removed = if is_full { RemovedKeys::default() } else { self.still_removed(removed) };
        TableSnapshot { layout: Arc::clone(&self.layout), chunks, removed, image: self.image() }
    }

    fn image(&self) -> TableImage {
        TableImage {
            layout: Arc::clone(&self.layout),
            chunks: self.chunks.clone(),
            vacant: self.vacant.clone(),
            slots: self.slots,
        }
    }

    /// Becomes what a table of the same columns was, with nothing dirty; `None` if the columns are others.
    pub fn roll_back(&mut self, image: &TableImage) -> Option<()> {
        if image.layout != self.layout {
            return None;
        }
        let mut table = StateTable {
            layout: Arc::clone(&self.layout),
            chunks: image.chunks.clone(),
            dirty: vec![None; image.chunks.len()],
            vacant: image.vacant.clone(),
            removed: RemovedKeys::default(),
            index: HashTable::with_capacity(image.slots),
            slots: image.slots,
        };
        for slot in 0..image.slots as u32 {
            if !table.is_vacant(slot) {
                let (chunk, offset) = place(slot);
                table.enter(image.chunks[chunk].hashes[offset], slot);
            }
        }
        *self = table;
        Some(())
    }

    /// Those that were not added again, each once.
    fn still_removed(&self, removed: RemovedKeys) -> RemovedKeys {
        let mut gone = RemovedKeys::default();
        let mut seen = HashSet::new();
        for (row, hash) in removed.hashes.iter().enumerate() {
            let key = removed.keys.key(row);
            if self.find(*hash, key).is_none() && seen.insert(key) {
                gone.hashes.push(*hash);
                gone.keys.push(key);
            }
        }
        gone
    }

    /// Does to a key what a segment says: sets its columns, or removes it if there are none, which is why every table has some. The row is not dirty afterwards.
    pub fn restore(&mut self, hash: u64, key: &[u8], mut values: &[u8]) -> Option<()> {
        if values.is_empty() {
            if let Some(slot) = self.find(hash, key) {
                self.vacate(slot);
            }
            return Some(());
        }
        let (chunk, offset) = place(self.slot(hash, key));
        let chunk = Arc::make_mut(&mut self.chunks[chunk]);
        chunk.columns.iter_mut().try_for_each(|column| column.read(offset, &mut values))?;
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

/// Number of the chunk of a slot, and the offset in it.
fn place(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS)
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
        let (chunk, offset) = place(slot);
        (self.chunks[chunk].as_deref_mut().expect("the slot was lent by write()"), offset)
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

    fn remove(table: &mut StateTable, key: u64) {
        let slot = table.slot(key, &key.to_be_bytes());
        table.remove(&[slot]);
    }

    #[test]
    fn a_snapshot_names_what_was_removed_and_not_added_again() {
        let mut table = table();
        (0..3).for_each(|key| set(&mut table, key, 1));
        table.snapshot(false);
        set(&mut table, 0, 2);
        for key in [0, 1, 2, 3] {
            remove(&mut table, key);
        }
        set(&mut table, 1, 5);
        remove(&mut table, 1);
        set(&mut table, 2, 7);

        let delta = table.snapshot(false);

        assert_eq!(written(&delta), [(2, 7)]);
        assert_eq!(delta.removed.hashes, [0, 1, 3]);
        assert_eq!(table.len(), 1);
        assert!(table.snapshot(false).removed.hashes.is_empty());
        let full = table.snapshot(true);
        assert_eq!(written(&full), [(2, 7)]);
        assert!(full.removed.hashes.is_empty());
    }

    #[test]
    fn a_table_without_its_vacant_slots_is_the_same() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, key as i64));
        table.snapshot(false);
        (0..4900).for_each(|key| remove(&mut table, key));
        set(&mut table, 4950, -1);

        assert!(table.compact());

        assert!(!table.compact());
        assert_eq!(table.len(), 100);
        assert_eq!(table.occupied().count(), 100);
        let delta = table.snapshot(false);
        assert_eq!(written(&delta), [(4950, -1)]);
        assert_eq!(delta.removed.hashes, (0..4900).collect::<Vec<u64>>());
        let rest: Vec<u64> = written(&table.snapshot(true)).iter().map(|(key, _)| *key).collect();
        assert_eq!(rest, (4900..5000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_table_that_is_rolled_back_is_the_one_of_the_snapshot() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, 1));
        table.snapshot(false);
        for key in 10..20 {
            remove(&mut table, key);
        }
        let image = table.snapshot(false).image;
        let rows = |table: &StateTable| {
            let mut rows = written(&table.clone().snapshot(true));
            rows.sort_unstable();
            rows
        };
        let before = rows(&table);
        (0..6000).for_each(|key| set(&mut table, key, 2));
        (100..200).for_each(|key| remove(&mut table, key));
        let after = rows(&table);

        let mut back = StateTable::new([StateType::I64].into());
        back.roll_back(&image).unwrap();

        assert_eq!(rows(&back), before);
        assert_eq!((back.len(), back.occupied().count()), (4990, 4990));
        assert_eq!(written(&back.snapshot(false)), [], "nothing is dirty");
        // It goes on by itself, finds its keys, and changes neither the image nor the table that went on.
        set(&mut back, 4999, 7);
        remove(&mut back, 0);
        set(&mut back, 15, 7);
        let delta = back.snapshot(false);
        assert_eq!(written(&delta), [(4999, 7), (15, 7)]);
        assert_eq!(delta.removed.hashes, [0]);
        assert_eq!(rows(&table), after);
        let mut again = StateTable::new([StateType::I64].into());
        again.roll_back(&image).unwrap();
        assert_eq!(rows(&again), before);
        assert!(StateTable::new([StateType::F64].into()).roll_back(&image).is_none());
    }

    #[test]
    fn keys_with_equal_hashes_are_told_apart() {
        let mut table = table();

        let slots = [table.slot(7, b"a"), table.slot(7, b"b"), table.slot(7, b"a")];

        assert_eq!(slots, [0, 1, 0]);
    }
}
