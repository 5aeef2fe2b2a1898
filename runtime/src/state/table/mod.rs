//! A keyed table: copy-on-write column chunks, an index over encoded keys, dirty bits.
//!
//! ```text
//! key ─▶ index ─▶ slot ─▶ chunk in memory: rows in columns                  ◀─┐ a row that is touched
//!                     └─▶ chunk on the local disk: hashes of its keys stay ───┘ gets a new slot in memory
//! ```
//! Chunks are filled one after the other and go to the disk in that order ([`StateTable::spill`]), but for rows that were written
//! since the last snapshot, which have a second chance. So what is used is near the end and in memory, as in a log whose tail is
//! changed in place (Chandramouli et al.: "FASTER: a concurrent key-value store with in-place updates", 2018). A slot is a key's
//! only until the next call that can move it: [`StateTable::slot`], [`StateTable::warm`], [`StateTable::spill`], [`StateTable::compact`].

mod restore;
mod room;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use hashbrown::HashTable;

use super::chunk::{CHUNK_SLOTS, Chunk, SlotSet};
use super::cold::{Shared, Stored};
use super::column::{StateColumn, StateType};
use super::disk::StateError;
pub use restore::RestoreError;
pub use snapshot::{Extent, RemovedKeys, TableImage, TableSnapshot};

/// Keys with their state.
#[derive(Debug, Clone)]
pub struct StateTable {
    layout: Arc<[StateType]>,
    /// Bytes of a row without its key; `None` if rows differ.
    row_bytes: Option<usize>,
    chunks: Vec<Held>,
    /// The chunk that takes new keys.
    tail: Option<u32>,
    /// Chunks in memory that take no more, the oldest first. Some may have left meanwhile.
    full: VecDeque<u32>,
    /// Chunks of which half or more has no key. Some may have left meanwhile.
    sparse: Vec<u32>,
    /// Numbers of chunks without any key.
    free: Vec<u32>,
    /// Keys that were removed since the last snapshot, and since those that [`Held`] tells of.
    removed: RemovedKeys,
    removed_since_merge: RemovedKeys,
    removed_since_base: RemovedKeys,
    index: HashTable<u32>,
    /// Slots of all chunks, vacant ones too.
    slots: usize,
    /// Bytes of all chunks, and of those in memory.
    bytes: usize,
    bytes_in_memory: usize,
    /// Chunks that are not in memory.
    cold: usize,
    /// From which slot to which keys were moved, if somebody asks for it.
    moves: Option<Vec<(u32, u32)>>,
}

/// A chunk of a table.
#[derive(Debug, Clone)]
struct Held {
    stored: Stored,
    /// Which slots were written since the last snapshot.
    dirty: Option<SlotSet>,
    /// Which slots snapshots have had since the last one of [`Extent::SinceMerge`], and since the last one of everything.
    since_merge: Option<SlotSet>,
    since_base: Option<SlotSet>,
    /// Which slots have lost their key.
    vacant: Option<SlotSet>,
    /// How many.
    vacated: usize,
    /// What snapshots hold of it, while it is the same.
    shared: Weak<Shared>,
    /// Of all rows, wherever they are.
    bytes: usize,
}

/// Keys of a chunk with their state, to be read at any later time.
#[derive(Debug, Clone)]
pub struct Part {
    layout: Arc<[StateType]>,
    stored: Stored,
    vacant: Option<SlotSet>,
}

/// Where a key is.
enum Place {
    Nowhere,
    Hot(u32),
    Cold(u32, Chunk),
}

impl Held {
    fn new(stored: Stored) -> Self {
        Held {
            stored,
            dirty: None,
            since_merge: None,
            since_base: None,
            vacant: None,
            vacated: 0,
            shared: Weak::new(),
            bytes: 0,
        }
    }

    /// The chunk, for writing; one on the disk has none.
    fn hot_mut(&mut self) -> Option<&mut Chunk> {
        match &mut self.stored {
            Stored::Hot(chunk) => {
                // Snapshots keep what it was.
                self.shared = Weak::new();
                Some(Arc::make_mut(chunk))
            }
            Stored::Cold(_) => None,
        }
    }

    fn is_vacant(&self, offset: usize) -> bool {
        self.vacant.as_ref().is_some_and(|vacant| vacant.has(offset))
    }

    /// The sets of slots that were written, the newest first.
    fn written(&self) -> [&Option<SlotSet>; 3] {
        [&self.dirty, &self.since_merge, &self.since_base]
    }
}

impl Part {
    /// The keys with their state, in memory.
    pub fn load(&self) -> Result<Arc<Chunk>, StateError> {
        let chunk = self.stored.load()?;
        let Some(vacant) = &self.vacant else { return Ok(chunk) };
        let mut live = Chunk::new(&self.layout);
        (0..chunk.len())
            .filter(|offset| !vacant.has(*offset))
            .for_each(|offset| live.push_from(&chunk, offset));
        Ok(Arc::new(live))
    }
}

impl StateTable {
    /// An empty table with these columns.
    pub fn new(layout: Arc<[StateType]>) -> Self {
        StateTable {
            row_bytes: Chunk::row_bytes(&layout),
            layout,
            chunks: Vec::new(),
            tail: None,
            full: VecDeque::new(),
            sparse: Vec::new(),
            free: Vec::new(),
            removed: RemovedKeys::default(),
            removed_since_merge: RemovedKeys::default(),
            removed_since_base: RemovedKeys::default(),
            index: HashTable::new(),
            slots: 0,
            bytes: 0,
            bytes_in_memory: 0,
            cold: 0,
            moves: None,
        }
    }

    /// The same, noting what it moves for [`Self::take_moves`].
    pub fn noting_moves(self) -> Self {
        StateTable { moves: Some(Vec::new()), ..self }
    }

    /// From which slot to which keys were moved since this was asked for last, in order. All keys were in memory then.
    pub fn take_moves(&mut self) -> Vec<(u32, u32)> {
        self.moves.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// True if the slot has lost its key.
    pub fn is_vacant(&self, slot: u32) -> bool {
        let (chunk, offset) = place(slot);
        self.chunks.get(chunk).is_none_or(|held| offset >= held.stored.len() || held.is_vacant(offset))
    }

    /// Chunk and offset of a slot that [`Self::slot`] or [`Self::warm`] has given.
    ///
    /// # Panics
    /// If the slot is on the disk.
    pub fn at(&self, slot: u32) -> (&Chunk, usize) {
        let (chunk, offset) = place(slot);
        match &self.chunks[chunk].stored {
            Stored::Hot(chunk) => (chunk, offset),
            Stored::Cold(_) => panic!("slot {slot} is on the disk and was not warmed"),
        }
    }

    /// Looks at a slot, wherever it is.
    pub fn read<T>(&self, slot: u32, look: impl FnOnce(&Chunk, usize) -> T) -> Result<T, StateError> {
        let (chunk, offset) = place(slot);
        match &self.chunks[chunk].stored {
            Stored::Hot(chunk) => Ok(look(chunk, offset)),
            Stored::Cold(cold) => Ok(look(&cold.row(offset)?, 0)),
        }
    }

    /// All keys with their state.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let filled = self.chunks.iter().filter(|held| held.stored.len() > held.vacated);
        filled.map(|held| Part {
            layout: Arc::clone(&self.layout),
            stored: held.stored.clone(),
            vacant: held.vacant.clone(),
        })
    }

    /// Calls `each` for all slots that hold a key, with the chunk and the offset that it has there.
    pub fn each_slot(&self, mut each: impl FnMut(u32, &Chunk, usize)) -> Result<(), StateError> {
        for (number, held) in
            self.chunks.iter().enumerate().filter(|(_, held)| held.stored.len() > held.vacated)
        {
            let chunk = held.stored.load()?;
            for offset in (0..chunk.len()).filter(|offset| !held.is_vacant(*offset)) {
                each((number * CHUNK_SLOTS + offset) as u32, &chunk, offset);
            }
        }
        Ok(())
    }

    /// The slot of a key, in memory; a new key gets a new slot with NULL columns.
    pub fn slot(&mut self, hash: u64, key: &[u8]) -> Result<u32, StateError> {
        match self.find(hash, key)? {
            Place::Hot(slot) => Ok(slot),
            Place::Cold(slot, row) => Ok(self.move_row(slot, &row, 0)),
            Place::Nowhere => {
                let slot = self.append(|chunk| chunk.push(hash, key));
                self.enter(hash, slot);
                Ok(slot)
            }
        }
    }

    /// The slot of a key, in memory, if it is there.
    pub fn known(&mut self, hash: u64, key: &[u8]) -> Result<Option<u32>, StateError> {
        Ok(match self.find(hash, key)? {
            Place::Hot(slot) => Some(slot),
            Place::Cold(slot, row) => Some(self.move_row(slot, &row, 0)),
            Place::Nowhere => None,
        })
    }

    /// A slot for a row of its own, whatever its key: it is among the [`Self::parts`], and no key finds it.
    pub fn push(&mut self, hash: u64, key: &[u8]) -> u32 {
        self.append(|chunk| chunk.push(hash, key))
    }

    /// A slot's key in memory: the slot itself, or a new one.
    pub fn warm(&mut self, slot: u32) -> Result<u32, StateError> {
        let (chunk, offset) = place(slot);
        match &self.chunks[chunk].stored {
            Stored::Hot(_) => Ok(slot),
            Stored::Cold(cold) => {
                let row = cold.row(offset)?;
                Ok(self.move_row(slot, &row, 0))
            }
        }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Result<Place, StateError> {
        let mut may_be_cold = false;
        let is_same = |slot: &u32| {
            let (chunk, offset) = place(*slot);
            match &self.chunks[chunk].stored {
                Stored::Hot(chunk) => chunk.hashes[offset] == hash && chunk.keys.key(offset) == key,
                Stored::Cold(cold) => {
                    may_be_cold |= cold.hashes()[offset] == hash;
                    false
                }
            }
        };
        if let Some(slot) = self.index.find(hash, is_same) {
            return Ok(Place::Hot(*slot));
        }
        if may_be_cold { self.find_cold(hash, key) } else { Ok(Place::Nowhere) }
    }

    fn find_cold(&self, hash: u64, key: &[u8]) -> Result<Place, StateError> {
        for slot in self.index.iter_hash(hash) {
            let (chunk, offset) = place(*slot);
            if let Stored::Cold(cold) = &self.chunks[chunk].stored
                && cold.hashes()[offset] == hash
            {
                let row = cold.row(offset)?;
                if row.keys.key(0) == key {
                    return Ok(Place::Cold(*slot, row));
                }
            }
        }
        Ok(Place::Nowhere)
    }

    fn enter(&mut self, hash: u64, slot: u32) {
        let chunks = &self.chunks;
        self.index.insert_unique(hash, slot, |slot| {
            let (chunk, offset) = place(*slot);
            chunks[chunk].stored.hashes()[offset]
        });
    }

    /// Fills the next slot.
    fn append(&mut self, fill: impl FnOnce(&mut Chunk)) -> u32 {
        let number = self.tail.unwrap_or_else(|| self.open());
        let held = &mut self.chunks[number as usize];
        let chunk = held.hot_mut().expect("the tail is in memory");
        let offset = chunk.len();
        fill(chunk);
        let is_full = chunk.len() == CHUNK_SLOTS;
        let row_bytes = match self.row_bytes {
            Some(fixed) => fixed + chunk.keys.key(offset).len(),
            None => chunk.row_byte_len(offset),
        };
        held.bytes += row_bytes;
        self.bytes += row_bytes;
        self.bytes_in_memory += row_bytes;
        self.slots += 1;
        if is_full {
            self.close();
        }
        number * CHUNK_SLOTS as u32 + offset as u32
    }

    /// Makes a new tail.
    fn open(&mut self) -> u32 {
        let number = match self.free.pop() {
            Some(number) => {
                self.forget_number(number);
                number
            }
            None => {
                self.chunks.push(Held::new(Stored::Hot(Arc::new(Chunk::new(&self.layout)))));
                self.chunks.len() as u32 - 1
            }
        };
        self.tail = Some(number);
        number
    }

    /// What is known of a chunk that has gone is not of the one that gets its number.
    fn forget_number(&mut self, number: u32) {
        self.full.retain(|known| *known != number);
        self.sparse.retain(|known| *known != number);
    }

    /// The tail takes no more.
    fn close(&mut self) {
        if let Some(number) = self.tail.take() {
            self.full.push_back(number);
            self.note_if_sparse(number);
        }
    }

    /// Gives a key another slot, at the end. It stays as dirty as it was.
    fn move_row(&mut self, from: u32, row: &Chunk, offset: usize) -> u32 {
        let to = self.append(|chunk| chunk.push_from(row, offset));
        let ((old, old_offset), (new, new_offset)) = (place(from), place(to));
        let written =
            self.chunks[old].written().map(|set| set.as_ref().is_some_and(|set| set.has(old_offset)));
        let held = &mut self.chunks[new];
        for (set, _) in [&mut held.dirty, &mut held.since_merge, &mut held.since_base]
            .into_iter()
            .zip(written)
            .filter(|(_, written)| *written)
        {
            set.get_or_insert_with(SlotSet::none).set(new_offset);
        }
        if let Ok(mut entry) = self.index.find_entry(row.hashes[offset], |known| *known == from) {
            *entry.get_mut() = to;
        }
        self.leave(from);
        if let Some(moves) = &mut self.moves {
            moves.push((from, to));
        }
        to
    }

    fn mark_dirty(&mut self, slot: u32) {
        let (chunk, offset) = place(slot);
        self.chunks[chunk].dirty.get_or_insert_with(SlotSet::none).set(offset);
    }

    /// Removes the keys of slots that are in memory. The slots are nobody's from then on.
    pub fn remove(&mut self, slots: &[u32]) {
        // A slot may be named twice.
        for slot in slots {
            if self.is_vacant(*slot) {
                continue;
            }
            let (chunk, offset) = self.at(*slot);
            let hash = chunk.hashes[offset];
            let Ok(entry) = self.index.find_entry(hash, |known| known == slot) else { continue };
            entry.remove();
            let (number, offset) = place(*slot);
            let Stored::Hot(chunk) = &self.chunks[number].stored else { continue };
            self.removed.hashes.push(hash);
            self.removed.keys.push(chunk.keys.key(offset));
            self.leave(*slot);
        }
    }

    /// The slot is nobody's. A chunk without any key is used again.
    fn leave(&mut self, slot: u32) {
        let (number, offset) = place(slot);
        let held = &mut self.chunks[number];
        held.vacant.get_or_insert_with(SlotSet::none).set(offset);
        held.vacated += 1;
        if self.tail == Some(number as u32) {
            return;
        }
        if held.vacated == held.stored.len() {
            self.give_up(number);
        } else if held.vacated == held.stored.len().div_ceil(2) {
            self.sparse.push(number as u32);
        }
    }

    fn note_if_sparse(&mut self, number: u32) {
        let held = &self.chunks[number as usize];
        if held.vacated == held.stored.len() {
            self.give_up(number as usize);
        } else if held.vacated * 2 >= held.stored.len() {
            self.sparse.push(number);
        }
    }

    fn give_up(&mut self, number: usize) {
        let empty = Held::new(Stored::Hot(Arc::new(Chunk::new(&self.layout))));
        let held = std::mem::replace(&mut self.chunks[number], empty);
        self.slots -= held.stored.len();
        self.bytes -= held.bytes;
        self.bytes_in_memory -= bytes_in_memory(&held);
        self.cold -= usize::from(matches!(held.stored, Stored::Cold(_)));
        self.free.push(number as u32);
    }

    /// A copy of some slots that are in memory.
    pub fn gather(&self, slots: &[u32]) -> Chunk {
        let mut gathered = Chunk::new(&self.layout);
        for slot in slots {
            let (chunk, offset) = self.at(*slot);
            gathered.push_from(chunk, offset);
        }
        gathered
    }

    /// Lends the chunks of these slots, which are in memory, for writing and marks the slots dirty.
    pub fn write(&mut self, slots: &[u32]) -> ChunksMut<'_> {
        slots.iter().for_each(|slot| self.mark_dirty(*slot));
        // Chunks without a dirty slot were not asked for, and making them ours would copy them for nothing.
        let chunks = self.chunks.iter_mut();
        let chunks = chunks.map(|held| if held.dirty.is_some() { held.hot_mut() } else { None });
        ChunksMut { chunks: chunks.collect() }
    }

    /// Lends the chunk of a slot, which is in memory, for writing and marks the slot dirty.
    ///
    /// # Panics
    /// If the slot is on the disk.
    pub fn write_one(&mut self, slot: u32) -> (&mut Chunk, usize) {
        self.mark_dirty(slot);
        let (chunk, offset) = place(slot);
        (self.chunks[chunk].hot_mut().expect("the slot is in memory"), offset)
    }

    /// Writes bytes into a column of a slot, which is in memory, and counts them at once.
    pub fn write_bytes(&mut self, slot: u32, column: usize, bytes: Arc<[u8]>) {
        let (chunk, offset) = self.write_one(slot);
        let StateColumn::Bytes(values) = &mut chunk.columns[column] else { return };
        let (after, before) = (bytes.len(), values[offset].as_ref().map_or(0, |before| before.len()));
        values[offset] = Some(bytes);
        let held = &mut self.chunks[place(slot).0];
        for counted in [&mut held.bytes, &mut self.bytes, &mut self.bytes_in_memory] {
            *counted = *counted + after - before;
        }
    }

    /// Bytes of state, roughly, wherever they are.
    pub fn byte_len(&self) -> usize {
        self.bytes + self.index.capacity() * 5
    }

    /// Bytes in memory, roughly.
    pub fn memory_len(&self) -> usize {
        let removed = [&self.removed, &self.removed_since_merge, &self.removed_since_base];
        let removed: usize = removed.map(RemovedKeys::byte_len).iter().sum();
        self.bytes_in_memory + self.index.capacity() * 5 + removed
    }
}

fn bytes_in_memory(held: &Held) -> usize {
    match &held.stored {
        Stored::Hot(_) => held.bytes,
        Stored::Cold(cold) => cold.byte_len(),
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
