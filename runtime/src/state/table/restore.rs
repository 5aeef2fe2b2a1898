//! How rows of segments come back into a table: one by one, or as chunks whose rows are still on their way.

use std::sync::{Arc, Weak};

use snafu::Snafu;

use super::super::block::check_of;
use super::super::chunk::CHUNK_SLOTS;
use super::super::cold::{AwayRows, ColdChunk, Stored};
use super::super::disk::StateError;
use super::{Held, Place, StateTable, bytes_in_memory, place};

/// A row of a segment could not be put back.
#[derive(Debug, Snafu)]
pub enum RestoreError {
    #[snafu(display("a row is malformed"))]
    Malformed,
    #[snafu(transparent)]
    Disk { source: StateError },
}

impl StateTable {
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
}
