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

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use snafu::Snafu;

use super::block::check_of;
use super::chunk::{CHUNK_SLOTS, Chunk, SlotSet};
use super::cold::{AwayRows, ColdChunk, Shared, Stored};
use super::column::StateType;
use super::disk::{LocalDisk, StateError};
use crate::model::key_encoding::EncodedKeys;

/// Slots without a key are given up once they are the most, and at least this many.
const VACANT_MIN: usize = 1024;

/// Rows that are moved at a time when slots are given up: bounds how long a batch takes.
const MOVES_MAX: usize = 4 * CHUNK_SLOTS;

/// Chunks that are read from the disk at a time when slots are given up.
const LOADS_MAX: usize = 16;

/// One in so many rows of a chunk may stay in memory when it goes to the disk, because they were written lately.
const SECOND_CHANCES: usize = 4;

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

/// How much of a table a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What has changed since the last snapshot.
    Changes,
    /// What has changed since the last snapshot that was of this or a greater extent.
    SinceMerge,
    /// What has changed since the last snapshot of everything.
    SinceBase,
    Everything,
}

/// A row of a segment could not be put back.
#[derive(Debug, Snafu)]
pub enum RestoreError {
    #[snafu(display("a row is malformed"))]
    Malformed,
    #[snafu(transparent)]
    Disk { source: StateError },
}

/// A table as it was at a barrier. Shares its chunks with the table until either is written.
#[derive(Debug, Clone)]
pub struct TableSnapshot {
    pub layout: Arc<[StateType]>,
    /// Chunks with the slots to write.
    pub chunks: Vec<(Arc<Shared>, SlotSet)>,
    /// Keys that are no longer there and were, or may have been, at the snapshot before.
    pub removed: RemovedKeys,
    pub image: TableImage,
}

/// All of a table at a barrier, to roll back to without the store. Shares its chunks as a snapshot does: what it costs are the old
/// copies of chunks that were written since.
#[derive(Debug, Clone)]
pub struct TableImage {
    layout: Arc<[StateType]>,
    chunks: Vec<(Arc<Shared>, Option<SlotSet>)>,
}

impl TableImage {
    /// True if no row of it is still on its way.
    pub fn is_there(&self) -> bool {
        self.chunks.iter().all(|(shared, _)| match shared.get() {
            Stored::Hot(_) => true,
            Stored::Cold(cold) => cold.is_there(),
        })
    }
}

/// Keys of a chunk with their state, to be read at any later time.
#[derive(Debug, Clone)]
pub struct Part {
    layout: Arc<[StateType]>,
    stored: Stored,
    vacant: Option<SlotSet>,
}

/// Keys without state.
#[derive(Debug, Clone, Default)]
pub struct RemovedKeys {
    pub hashes: Vec<u64>,
    pub keys: EncodedKeys,
}

impl RemovedKeys {
    fn byte_len(&self) -> usize {
        self.hashes.len() * 8 + self.keys.byte_len()
    }

    fn add(&mut self, others: &RemovedKeys) {
        self.hashes.extend(&others.hashes);
        (0..others.keys.len()).for_each(|row| self.keys.push(others.keys.key(row)));
    }
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

    /// The slots that a snapshot has to hold, of those that have a key. They are not dirty afterwards.
    fn take_changed(&mut self, extent: Extent) -> Option<SlotSet> {
        let dirty = self.dirty.take();
        if let Some(dirty) = &dirty {
            for older in [&mut self.since_merge, &mut self.since_base] {
                older.get_or_insert_with(SlotSet::none).add(dirty);
            }
        }
        let changed = match extent {
            Extent::Changes => dirty,
            Extent::SinceMerge => self.since_merge.take(),
            Extent::SinceBase => {
                self.since_merge = None;
                self.since_base.clone()
            }
            Extent::Everything => {
                (self.since_merge, self.since_base) = (None, None);
                Some(SlotSet::none().complement())
            }
        };
        match (changed, &self.vacant) {
            (Some(changed), Some(vacant)) => Some(changed.without(vacant)),
            (changed, _) => changed,
        }
    }

    fn share(&mut self) -> Arc<Shared> {
        self.shared.upgrade().unwrap_or_else(|| {
            let shared = Arc::new(Shared::new(self.stored.clone()));
            self.shared = Arc::downgrade(&shared);
            shared
        })
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

    /// Gives vacant slots up if they are many, some at a time.
    pub fn compact(&mut self) -> Result<(), StateError> {
        if !self.has_many_vacant() {
            return Ok(());
        }
        // No row is moved twice: what takes rows is not among those that give them up.
        if let Some(tail) = self.tail.map(|number| &self.chunks[number as usize])
            && tail.vacated * 2 >= tail.stored.len()
        {
            self.close();
        }
        let (mut moved, mut loaded, mut later) = (0, 0, Vec::new());
        while moved < MOVES_MAX && loaded < LOADS_MAX && self.has_many_vacant() {
            let Some(number) = self.sparse.pop() else { break };
            let held = &self.chunks[number as usize];
            if held.vacated * 2 < held.stored.len() || held.stored.len() == 0 {
                // It has been used again.
                continue;
            }
            if matches!(&held.stored, Stored::Cold(cold) if !cold.is_there()) {
                later.push(number);
                continue;
            }
            loaded += usize::from(matches!(held.stored, Stored::Cold(_)));
            let (chunk, vacant) = (held.stored.load()?, held.vacant.clone());
            for offset in 0..chunk.len() {
                if vacant.as_ref().is_none_or(|vacant| !vacant.has(offset)) {
                    self.move_row(number * CHUNK_SLOTS as u32 + offset as u32, &chunk, offset);
                    moved += 1;
                }
            }
        }
        self.sparse.append(&mut later);
        Ok(())
    }

    fn has_many_vacant(&self) -> bool {
        let vacant = self.slots - self.len();
        vacant >= VACANT_MIN && vacant * 2 >= self.slots
    }

    /// Puts about so many bytes of the oldest chunks on the disk; returns how many. What was written since the last snapshot stays
    /// if it is little.
    pub fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<usize, StateError> {
        let before = self.bytes_in_memory;
        let given_up = |table: &Self| before.saturating_sub(table.bytes_in_memory);
        // Chunks that are filled meanwhile are the newest.
        let mut has_moved = false;
        for _ in 0..self.full.len() {
            if given_up(self) >= bytes {
                break;
            }
            let Some(number) = self.full.pop_front() else { break };
            match self.spill_chunk(number, disk) {
                Ok(moved) => has_moved |= moved,
                Err(error) => {
                    self.full.push_front(number);
                    return Err(error);
                }
            }
        }
        // Rows that were moved to the tail stay.
        if given_up(self) < bytes && self.full.is_empty() && !has_moved {
            self.close();
            if let Some(tail) = self.full.pop_back()
                && let Err(error) = self.spill_chunk(tail, disk)
            {
                self.full.push_back(tail);
                return Err(error);
            }
        }
        Ok(given_up(self))
    }

    /// True if it has moved rows to the tail.
    fn spill_chunk(&mut self, number: u32, disk: &LocalDisk) -> Result<bool, StateError> {
        let held = &mut self.chunks[number as usize];
        let Stored::Hot(chunk) = &held.stored else { return Ok(false) };
        if chunk.len() == 0 || self.tail == Some(number) {
            // It has been used again.
            return Ok(false);
        }
        let chunk = Arc::clone(chunk);
        let cold = Arc::new(ColdChunk::write(&chunk, &self.layout, disk)?);
        if let Some(shared) = held.shared.upgrade() {
            shared.moved(&cold);
        }
        let in_memory = bytes_in_memory(held);
        held.stored = Stored::Cold(cold);
        self.cold += 1;
        self.bytes_in_memory -= in_memory - bytes_in_memory(held);
        if let Some(dirty) = &held.dirty
            && dirty.len() * SECOND_CHANCES <= chunk.len()
        {
            let written: Vec<usize> =
                (0..chunk.len()).filter(|offset| dirty.has(*offset) && !held.is_vacant(*offset)).collect();
            for offset in &written {
                self.move_row(number * CHUNK_SLOTS as u32 + *offset as u32, &chunk, *offset);
            }
            return Ok(!written.is_empty());
        }
        Ok(false)
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

    /// The state at a barrier.
    pub fn snapshot(&mut self, extent: Extent) -> Result<TableSnapshot, StateError> {
        let removed = self.take_removed(extent)?;
        self.recount();
        let (mut chunks, mut all) = (Vec::new(), Vec::with_capacity(self.chunks.len()));
        for held in &mut self.chunks {
            let shared = held.share();
            all.push((Arc::clone(&shared), held.vacant.clone()));
            if let Some(slots) = held.take_changed(extent).filter(|slots| !slots.is_empty()) {
                chunks.push((shared, slots));
            }
        }
        let image = TableImage { layout: Arc::clone(&self.layout), chunks: all };
        Ok(TableSnapshot { layout: Arc::clone(&self.layout), chunks, removed, image })
    }

    /// How many keys were written or removed since the last snapshot of everything, as of the last snapshot; a key may count twice.
    pub fn changed_since_base(&self) -> usize {
        let written = self.chunks.iter().filter_map(|held| held.since_base.as_ref());
        written.map(SlotSet::len).sum::<usize>() + self.removed_since_base.hashes.len()
    }

    /// How many keys were removed since the last snapshot of everything; a key may count twice.
    pub fn removed_since_base(&self) -> usize {
        self.removed_since_base.hashes.len()
    }

    fn take_removed(&mut self, extent: Extent) -> Result<RemovedKeys, StateError> {
        let removed = std::mem::take(&mut self.removed);
        let removed = self.still_removed(removed)?;
        self.removed_since_merge.add(&removed);
        self.removed_since_base.add(&removed);
        let removed = match extent {
            Extent::Changes => return Ok(removed),
            Extent::SinceMerge => std::mem::take(&mut self.removed_since_merge),
            Extent::SinceBase => {
                self.removed_since_merge = RemovedKeys::default();
                self.removed_since_base.clone()
            }
            Extent::Everything => {
                self.removed_since_merge = RemovedKeys::default();
                self.removed_since_base = RemovedKeys::default();
                RemovedKeys::default()
            }
        };
        self.still_removed(removed)
    }

    /// Counts the bytes of what has changed; only strings and bytes change their size.
    fn recount(&mut self) {
        if !self.layout.contains(&StateType::Bytes) {
            return;
        }
        for held in self.chunks.iter_mut().filter(|held| held.dirty.is_some()) {
            if let Stored::Hot(chunk) = &held.stored {
                let bytes = chunk.byte_len();
                self.bytes = self.bytes - held.bytes + bytes;
                self.bytes_in_memory = self.bytes_in_memory - held.bytes + bytes;
                held.bytes = bytes;
            }
        }
    }

    /// Becomes what a table of the same columns was, with nothing dirty; `None` if the columns are others.
    pub fn roll_back(&mut self, image: &TableImage) -> Option<()> {
        if image.layout != self.layout {
            return None;
        }
        let mut table = StateTable { moves: self.moves.take(), ..StateTable::new(Arc::clone(&self.layout)) };
        for (number, (shared, vacant)) in image.chunks.iter().enumerate() {
            let stored = shared.get();
            let vacated = vacant.as_ref().map_or(0, SlotSet::len);
            let bytes = stored.byte_len();
            let shared = Arc::downgrade(shared);
            let held = Held { vacant: vacant.clone(), vacated, shared, bytes, ..Held::new(stored) };
            table.slots += held.stored.len();
            table.bytes += bytes;
            table.bytes_in_memory += bytes_in_memory(&held);
            match &held.stored {
                stored if stored.len() == 0 => table.free.push(number as u32),
                Stored::Hot(_) => table.full.push_back(number as u32),
                Stored::Cold(_) => table.cold += 1,
            }
            table.chunks.push(held);
        }
        table.index.reserve(table.slots, |_| 0);
        for number in 0..table.chunks.len() as u32 {
            for offset in 0..table.chunks[number as usize].stored.len() {
                let held = &table.chunks[number as usize];
                if !held.is_vacant(offset) {
                    let hash = held.stored.hashes()[offset];
                    table.enter(hash, number * CHUNK_SLOTS as u32 + offset as u32);
                }
            }
            if table.chunks[number as usize].stored.len() > 0 {
                table.note_if_sparse(number);
            }
        }
        *self = table;
        Some(())
    }

    /// Those that were not added again, each once.
    fn still_removed(&self, removed: RemovedKeys) -> Result<RemovedKeys, StateError> {
        let mut gone = RemovedKeys::default();
        let mut seen = HashSet::new();
        for (row, hash) in removed.hashes.iter().enumerate() {
            let key = removed.keys.key(row);
            if seen.insert(key) && matches!(self.find(*hash, key)?, Place::Nowhere) {
                gone.hashes.push(*hash);
                gone.keys.push(key);
            }
        }
        Ok(gone)
    }

    /// Does to a key what a segment says: sets its columns, or removes it if there are none, which is why every table has some. The
    /// row is not dirty afterwards.
    pub fn restore(&mut self, hash: u64, key: &[u8], values: &[u8]) -> Result<(), RestoreError> {
        if values.is_empty() {
            match self.find(hash, key)? {
                Place::Nowhere => {}
                Place::Hot(slot) | Place::Cold(slot, _) => {
                    if let Ok(entry) = self.index.find_entry(hash, |known| *known == slot) {
                        entry.remove();
                        self.leave(slot);
                    }
                }
            }
            return Ok(());
        }
        let (number, offset) = place(self.slot(hash, key)?);
        let held = &mut self.chunks[number];
        let chunk = held.hot_mut().ok_or(RestoreError::Malformed)?;
        if self.row_bytes.is_some() {
            return chunk.read(offset, values).ok_or(RestoreError::Malformed);
        }
        let before = chunk.row_byte_len(offset);
        chunk.read(offset, values).ok_or(RestoreError::Malformed)?;
        let after = chunk.row_byte_len(offset);
        for bytes in [&mut held.bytes, &mut self.bytes, &mut self.bytes_in_memory] {
            *bytes = *bytes + after - before;
        }
        Ok(())
    }

    /// Takes rows that are still to come, instead of those that it has of the same keys; nothing is dirty afterwards. Says which chunk
    /// waits for them.
    pub fn attach(&mut self, rows: AwayRows) -> Arc<ColdChunk> {
        let checks = rows.checks.clone();
        let chunk = Arc::new(ColdChunk::away(rows, &self.layout));
        if checks.is_empty() {
            return chunk;
        }
        let mut held = Held::new(Stored::Cold(Arc::clone(&chunk)));
        held.bytes = held.stored.byte_len();
        self.bytes += held.bytes;
        self.bytes_in_memory += bytes_in_memory(&held);
        self.slots += held.stored.len();
        self.cold += 1;
        let number = self.free.pop().unwrap_or(self.chunks.len() as u32);
        self.forget_number(number);
        match self.chunks.get_mut(number as usize) {
            Some(free) => *free = held,
            None => self.chunks.push(held),
        }
        for (offset, (hash, check)) in chunk.hashes().iter().zip(checks).enumerate() {
            let slot = number * CHUNK_SLOTS as u32 + offset as u32;
            match self.known_by(*hash, check) {
                None => self.enter(*hash, slot),
                Some(older) => {
                    if let Ok(mut entry) = self.index.find_entry(*hash, |known| *known == older) {
                        *entry.get_mut() = slot;
                    }
                    self.leave(older);
                }
            }
        }
        chunk
    }

    /// Removes a key that is known by its hash and check, as [`Self::attach`] does.
    pub fn detach(&mut self, hash: u64, check: u32) {
        let Some(slot) = self.known_by(hash, check) else { return };
        if let Ok(entry) = self.index.find_entry(hash, |known| *known == slot) {
            entry.remove();
            self.leave(slot);
        }
    }

    fn known_by(&self, hash: u64, check: u32) -> Option<u32> {
        let is_it = |slot: &u32| {
            let (chunk, offset) = place(*slot);
            match &self.chunks[chunk].stored {
                Stored::Hot(chunk) => {
                    chunk.hashes[offset] == hash && check_of(chunk.keys.key(offset)) == check
                }
                Stored::Cold(cold) => cold.hashes()[offset] == hash && cold.check(offset) == Some(check),
            }
        };
        self.index.find(hash, is_it).copied()
    }

    /// Brings chunks into memory that are on the disk and not on their way there, about so many bytes. Slots stay.
    pub fn warm_up(&mut self, bytes: usize) -> Result<(), StateError> {
        if self.cold == 0 {
            return Ok(());
        }
        let enough = self.bytes_in_memory + bytes;
        for number in 0..self.chunks.len() {
            let held = &mut self.chunks[number];
            let Stored::Cold(cold) = &held.stored else { continue };
            if self.bytes_in_memory >= enough {
                break;
            }
            if !cold.is_there() {
                continue;
            }
            let (before, chunk) = (bytes_in_memory(held), held.stored.load()?);
            self.bytes = self.bytes - held.bytes + chunk.byte_len();
            held.bytes = chunk.byte_len();
            held.stored = Stored::Hot(chunk);
            held.shared = Weak::new();
            self.cold -= 1;
            self.bytes_in_memory = self.bytes_in_memory - before + held.bytes;
            self.full.push_back(number as u32);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::model::MaxParallelism;
    use crate::state::{Arrivals, SegmentReader, SegmentWriter, StateColumn, Unit};

    fn table() -> StateTable {
        StateTable::new(Arc::new([StateType::I64]))
    }

    fn set(table: &mut StateTable, key: u64, value: i64) {
        let slot = table.slot(key, &key.to_be_bytes()).unwrap();
        let mut chunks = table.write(&[slot]);
        let (chunk, offset) = chunks.at(slot);
        let StateColumn::I64(values, valid) = &mut chunk.columns[0] else { panic!("an I64 column") };
        values[offset] = value;
        valid[offset] = true;
    }

    fn written(snapshot: &TableSnapshot) -> Vec<(u64, i64)> {
        let mut rows = Vec::new();
        for (shared, dirty) in &snapshot.chunks {
            let chunk = shared.get().load().unwrap();
            let StateColumn::I64(values, _) = &chunk.columns[0] else { panic!("an I64 column") };
            let slots = (0..chunk.len()).filter(|slot| dirty.has(*slot));
            rows.extend(slots.map(|slot| (chunk.hashes[slot], values[slot])));
        }
        rows
    }

    #[test]
    fn a_snapshot_holds_what_was_written_since_the_last_one() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, 1));
        assert_eq!(written(&table.snapshot(Extent::Changes).unwrap()).len(), 5000);

        set(&mut table, 4500, 2);
        let delta = table.snapshot(Extent::Changes).unwrap();
        let nothing = table.snapshot(Extent::Changes).unwrap();
        let full = table.snapshot(Extent::Everything).unwrap();

        assert_eq!(written(&delta), [(4500, 2)]);
        assert_eq!(written(&nothing), []);
        assert_eq!(written(&full).len(), 5000);
    }

    #[test]
    fn writing_after_a_snapshot_does_not_change_it() {
        let mut table = table();
        set(&mut table, 1, 10);
        let before = table.snapshot(Extent::Changes).unwrap();

        set(&mut table, 1, 20);

        assert_eq!(written(&before), [(1, 10)]);
        assert_eq!(written(&table.snapshot(Extent::Changes).unwrap()), [(1, 20)]);
    }

    fn remove(table: &mut StateTable, key: u64) {
        let slot = table.slot(key, &key.to_be_bytes()).unwrap();
        table.remove(&[slot]);
    }

    #[test]
    fn a_snapshot_names_what_was_removed_and_not_added_again() {
        let mut table = table();
        (0..3).for_each(|key| set(&mut table, key, 1));
        table.snapshot(Extent::Changes).unwrap();
        set(&mut table, 0, 2);
        for key in [0, 1, 2, 3] {
            remove(&mut table, key);
        }
        set(&mut table, 1, 5);
        remove(&mut table, 1);
        set(&mut table, 2, 7);

        let delta = table.snapshot(Extent::Changes).unwrap();

        assert_eq!(written(&delta), [(2, 7)]);
        assert_eq!(delta.removed.hashes, [0, 1, 3]);
        assert_eq!(table.len(), 1);
        assert!(table.snapshot(Extent::Changes).unwrap().removed.hashes.is_empty());
        let full = table.snapshot(Extent::Everything).unwrap();
        assert_eq!(written(&full), [(2, 7)]);
        assert!(full.removed.hashes.is_empty());
    }

    #[test]
    fn a_table_without_its_vacant_slots_is_the_same() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, key as i64));
        table.snapshot(Extent::Changes).unwrap();
        (0..4900).for_each(|key| remove(&mut table, key));
        set(&mut table, 4950, -1);

        table.compact().unwrap();

        assert!(table.slots < 2 * CHUNK_SLOTS / 3, "{}", table.slots);
        assert_eq!(table.len(), 100);
        assert_eq!(occupied(&table), 100);
        let delta = table.snapshot(Extent::Changes).unwrap();
        assert_eq!(written(&delta), [(4950, -1)]);
        assert_eq!(delta.removed.hashes, (0..4900).collect::<Vec<u64>>());
        let mut rest: Vec<u64> =
            written(&table.snapshot(Extent::Everything).unwrap()).iter().map(|(key, _)| *key).collect();
        rest.sort_unstable();
        assert_eq!(rest, (4900..5000).collect::<Vec<u64>>());
    }

    fn occupied(table: &StateTable) -> usize {
        let mut count = 0;
        table.each_slot(|_, _, _| count += 1).unwrap();
        assert_eq!(table.parts().map(|part| part.load().unwrap().len()).sum::<usize>(), count);
        count
    }

    /// What a table holds, by all ways to it.
    fn contents(table: &mut StateTable) -> BTreeMap<u64, i64> {
        let mut found = BTreeMap::new();
        let value = |chunk: &Chunk, offset: usize| {
            let StateColumn::I64(values, _) = &chunk.columns[0] else { panic!("an I64 column") };
            values[offset]
        };
        for part in table.parts() {
            let chunk = part.load().unwrap();
            for offset in 0..chunk.len() {
                assert!(found.insert(chunk.hashes[offset], value(&chunk, offset)).is_none(), "a key twice");
            }
        }
        assert_eq!(found.len(), table.len());
        found
    }

    /// Any calls in any order, beside a map; with checkpoints, of which any can be gone back to.
    #[test]
    fn a_table_that_is_larger_than_memory_is_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        for seed in 0..6 {
            let mut random = StdRng::seed_from_u64(seed);
            let disk = LocalDisk::new(folder.path());
            let (mut table, mut expected) = (table().noting_moves(), BTreeMap::new());
            // What snapshots hold: of everything, of those that took the place of smaller ones, and of changes since.
            let (mut stored, mut images) = ([const { BTreeMap::new() }; 4], Vec::new());
            let (mut spilled, mut moves) = (0, 0);
            for _ in 0..400 {
                let keys = random.random_range(1..20_000_u64);
                match random.random_range(0..10) {
                    0..=4 => {
                        for _ in 0..random.random_range(1..400) {
                            let (key, value) = (random.random_range(0..keys), random.random());
                            set(&mut table, key, value);
                            expected.insert(key, value);
                        }
                    }
                    5 | 6 => {
                        for _ in 0..random.random_range(1..700) {
                            let key = random.random_range(0..keys);
                            remove(&mut table, key);
                            expected.remove(&key);
                        }
                        moves += table.take_moves().len();
                        table.compact().unwrap();
                    }
                    7 => {
                        let extent =
                            [Extent::Changes, Extent::SinceMerge, Extent::SinceBase, Extent::Everything]
                                [random.random_range(0..4)];
                        let snapshot = table.snapshot(extent).unwrap();
                        // Written later: chunks may have gone to the disk meanwhile.
                        table.spill(random.random_range(0..100_000), &disk).unwrap();
                        // Layers, the greatest extent first: each takes the place of those after it, and of itself unless it adds.
                        let layer = match extent {
                            Extent::Everything => 0,
                            Extent::SinceBase => 1,
                            Extent::SinceMerge => 2,
                            Extent::Changes => 3,
                        };
                        let replaced = if layer < 2 { layer } else { layer + 1 };
                        stored[replaced..].iter_mut().for_each(BTreeMap::clear);
                        let changes = written(&snapshot).into_iter().map(|(key, value)| (key, Some(value)));
                        stored[layer].extend(snapshot.removed.hashes.iter().map(|key| (*key, None)));
                        stored[layer].extend(changes);
                        let mut all: BTreeMap<u64, Option<i64>> = BTreeMap::new();
                        stored.iter().for_each(|layer| all.extend(layer));
                        let all: BTreeMap<u64, i64> =
                            all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
                        assert_eq!(all, expected, "seed {seed} {extent:?}");
                        images.push((snapshot.image, expected.clone()));
                    }
                    8 if !images.is_empty() => {
                        let (image, then) = &images[random.random_range(0..images.len())];
                        table.roll_back(image).unwrap();
                        expected = then.clone();
                        stored = [const { BTreeMap::new() }; 4];
                        stored[0] = then.iter().map(|(key, value)| (*key, Some(*value))).collect();
                    }
                    _ => spilled += table.spill(random.random_range(0..300_000), &disk).unwrap(),
                }
                for (from, to) in table.take_moves() {
                    moves += 1;
                    assert!(from != to && !table.is_vacant(to));
                    table.at(to);
                }
                assert_eq!(table.len(), expected.len());
                let held: usize = table.chunks.iter().map(|held| held.stored.len()).sum();
                assert_eq!(table.slots, held);
                assert_eq!(table.bytes_in_memory, table.chunks.iter().map(bytes_in_memory).sum::<usize>());
                assert_eq!(table.bytes, table.chunks.iter().map(|held| held.bytes).sum::<usize>());
                let is_cold = |held: &&Held| matches!(held.stored, Stored::Cold(_));
                assert_eq!(table.cold, table.chunks.iter().filter(is_cold).count());
                let listed: HashSet<u32> = table.full.iter().copied().collect();
                assert_eq!(listed.len(), table.full.len(), "a chunk twice among the full ones");
                for (number, held) in table.chunks.iter().enumerate() {
                    let (number, length) = (number as u32, held.stored.len());
                    assert_eq!(
                        length == 0,
                        table.free.contains(&number) || (table.tail == Some(number) && length == 0)
                    );
                    // Nothing is left without a chance to be used again.
                    let is_sparse = length > 0 && held.vacated * 2 >= length && table.tail != Some(number);
                    assert!(!is_sparse || table.sparse.contains(&number), "chunk {number} is forgotten");
                    assert!(held.vacated < length || length == 0 || table.tail == Some(number));
                }
                if random.random_range(0..20) == 0 {
                    assert_eq!(contents(&mut table), expected, "seed {seed}");
                }
            }
            assert_eq!(contents(&mut table), expected, "seed {seed}");
            assert!(spilled > 100_000 && moves > 1_000, "{spilled} {moves}");
            assert!(disk.used() > 0);
            drop((table, images));
            assert_eq!(disk.used(), 0, "nobody needs the disk any more");
        }
    }

    /// Runs of changes, of which only the indexes are there at first.
    #[test]
    fn a_table_that_is_still_on_its_way_is_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let groups = MaxParallelism::new(16).unwrap();
        for seed in 0..4 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut table, mut expected) = (table(), BTreeMap::new());
            let mut segments = Vec::new();
            for run in 0..5 {
                for _ in 0..random.random_range(1..9_000) {
                    let (key, value) = (random.random_range(0..12_000_u64), random.random());
                    set(&mut table, key.rotate_right(4), value);
                    expected.insert(key.rotate_right(4), value);
                }
                for _ in 0..random.random_range(0..1_000) {
                    let key = random.random_range(0..12_000_u64).rotate_right(4);
                    remove(&mut table, key);
                    expected.remove(&key);
                }
                let mut writer = SegmentWriter::new();
                let extent = if run == 0 { Extent::Everything } else { Extent::Changes };
                writer.add(&table.snapshot(extent).unwrap(), groups).unwrap();
                segments.push(writer.finish());
            }

            let arrivals = Arc::new(Arrivals::default());
            let mut units = Vec::new();
            let mut restored = self::table();
            for segment in &segments {
                let reader = SegmentReader::open(segment).unwrap();
                for block in reader.indexed(0, &(0..16)).unwrap() {
                    let (index, block) = (block.index.clone(), Arc::new(block));
                    let mut unit = Unit::new("s", 0..segment.len() as u64);
                    let (removed, rows): (Vec<usize>, Vec<usize>) =
                        (0..index.len()).partition(|row| index.is_removed(*row));
                    removed.iter().for_each(|row| restored.detach(index.hashes[*row], index.checks[*row]));
                    for rows in rows.chunks(CHUNK_SLOTS) {
                        let chunk = restored.attach(AwayRows {
                            hashes: rows.iter().map(|row| index.hashes[*row]).collect(),
                            checks: rows.iter().map(|row| index.checks[*row]).collect(),
                            bytes: rows.iter().map(|row| index.row_bytes(*row)).sum(),
                            arrivals: Arc::clone(&arrivals),
                            unit: units.len(),
                        });
                        unit.await_rows(&block, &chunk, rows.iter().map(|row| *row as u32).collect());
                    }
                    units.push((unit, segment.clone()));
                }
            }
            assert_eq!(restored.len(), expected.len(), "seed {seed}");
            let needed = units.iter().filter(|(unit, _)| unit.is_needed()).count();
            assert!(needed > 0);

            let disk = LocalDisk::new(folder.path());
            let bringing = {
                let (arrivals, disk) = (Arc::clone(&arrivals), disk.clone());
                std::thread::spawn(move || {
                    for (unit, segment) in units {
                        unit.deliver(&segment, &disk).unwrap();
                        arrivals.arrived();
                    }
                })
            };
            // Meanwhile rows come.
            for _ in 0..3_000 {
                let (key, value) = (random.random_range(0..15_000_u64).rotate_right(4), random.random());
                if random.random() {
                    set(&mut restored, key, value);
                    expected.insert(key, value);
                } else {
                    remove(&mut restored, key);
                    expected.remove(&key);
                }
            }
            restored.compact().unwrap();
            assert_eq!(contents(&mut restored), expected, "seed {seed}");
            bringing.join().unwrap();
            restored.warm_up(usize::MAX / 2).unwrap();
            assert_eq!(restored.bytes, restored.bytes_in_memory);
            assert_eq!(contents(&mut restored), expected, "seed {seed}");
            drop(restored);
            assert_eq!(disk.used(), 0);
        }
    }

    #[test]
    fn what_was_written_lately_stays_in_memory_if_it_is_little() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(folder.path());
        let mut table = table();
        (0..10_000).for_each(|key| set(&mut table, key, 1));
        table.snapshot(Extent::Changes).unwrap();
        (0..100).for_each(|key| set(&mut table, key * 30, 2));

        let spilled = table.spill(usize::MAX, &disk).unwrap();

        assert!(spilled > 100_000, "{spilled}");
        for key in 0..100 {
            let Place::Hot(_) = table.find(key * 30, &(key * 30).to_be_bytes()).unwrap() else {
                panic!("key {} is on the disk", key * 30)
            };
        }
        assert!(matches!(table.find(31, &31_u64.to_be_bytes()).unwrap(), Place::Cold(..)));
        let mut delta = written(&table.snapshot(Extent::Changes).unwrap());
        delta.sort_unstable();
        assert_eq!(delta, (0..100).map(|key| (key * 30, 2)).collect::<Vec<_>>());
    }

    #[test]
    fn a_table_that_is_rolled_back_is_the_one_of_the_snapshot() {
        let mut table = table();
        (0..5000).for_each(|key| set(&mut table, key, 1));
        table.snapshot(Extent::Changes).unwrap();
        for key in 10..20 {
            remove(&mut table, key);
        }
        let image = table.snapshot(Extent::Changes).unwrap().image;
        let rows = |table: &StateTable| {
            let mut rows = written(&table.clone().snapshot(Extent::Everything).unwrap());
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
        assert_eq!((back.len(), occupied(&back)), (4990, 4990));
        assert_eq!(written(&back.snapshot(Extent::Changes).unwrap()), [], "nothing is dirty");
        // It goes on by itself, finds its keys, and changes neither the image nor the table that went on.
        set(&mut back, 4999, 7);
        remove(&mut back, 0);
        set(&mut back, 15, 7);
        let delta = back.snapshot(Extent::Changes).unwrap();
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

        let slots = [b"a", b"b", b"a"].map(|key| table.slot(7, key).unwrap());

        assert_eq!(slots, [0, 1, 0]);
    }
}
