//! What makes room: slots without keys are given up, and chunks that are used least go to the local disk.

use std::sync::Arc;

use super::super::chunk::CHUNK_SLOTS;
use super::super::cold::{ColdChunk, Stored};
use super::super::disk::{LocalDisk, StateError};
use super::{StateTable, bytes_in_memory};

/// Slots without a key are given up once they are the most, and at least this many.
const VACANT_MIN: usize = 1024;

/// Rows that are moved at a time when slots are given up: bounds how long a batch takes.
const MOVES_MAX: usize = 4 * CHUNK_SLOTS;

/// Chunks that are read from the disk at a time when slots are given up.
const LOADS_MAX: usize = 16;

/// One in so many rows of a chunk may stay in memory when it goes to the disk, because they were written lately.
const SECOND_CHANCES: usize = 4;

impl StateTable {
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
}
