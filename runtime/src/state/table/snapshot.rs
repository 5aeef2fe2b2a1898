//! What a table gives to checkpoints, and what it is brought back to in memory.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::chunk::{CHUNK_SLOTS, SlotSet};
use super::super::cold::{Shared, Stored};
use super::super::column::StateType;
use super::super::disk::StateError;
use super::{Held, Place, StateTable, bytes_in_memory};
use crate::model::key_encoding::EncodedKeys;

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

/// Keys without state.
#[derive(Debug, Clone, Default)]
pub struct RemovedKeys {
    pub hashes: Vec<u64>,
    pub keys: EncodedKeys,
}

impl RemovedKeys {
    pub(super) fn byte_len(&self) -> usize {
        self.hashes.len() * 8 + self.keys.byte_len()
    }

    fn add(&mut self, others: &RemovedKeys) {
        self.hashes.extend(&others.hashes);
        (0..others.keys.len()).for_each(|row| self.keys.push(others.keys.key(row)));
    }
}

impl Held {
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

impl StateTable {
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
}
