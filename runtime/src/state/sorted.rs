//! The rows of a snapshot in the order of segments, by key group and key, some key groups at a time: of chunks on the local disk only
//! the rows of these are in memory.

use std::ops::Range;
use std::sync::Arc;

use super::chunk::Chunk;
use super::cold::Stored;
use super::disk::StateError;
use super::table::{RemovedKeys, TableSnapshot};
use crate::model::MaxParallelism;

/// Rows of one turn, at least: most tables have one.
const TURN_ROWS_MIN: u64 = 1 << 18;

/// Turns at most: each looks at the hashes of all rows.
const TURNS_MAX: u64 = 64;

/// In place of the number of a chunk: the row says that its key was removed.
const REMOVED: u32 = u32::MAX;

/// Rows of a snapshot, by turns.
pub struct SortedRows<'a> {
    snapshot: &'a TableSnapshot,
    groups: MaxParallelism,
    /// Key groups of the turns to come, the last one first.
    turns: Vec<Range<u32>>,
}

/// Rows of some key groups, sorted.
pub struct Turn<'a> {
    rows: Vec<Place>,
    chunks: Vec<Arc<Chunk>>,
    removed: &'a RemovedKeys,
}

/// A row: its key group, and where it is.
#[derive(Clone, Copy)]
struct Place {
    group: u32,
    chunk: u32,
    offset: u32,
}

/// A row of a snapshot.
pub struct SortedRow<'a> {
    pub group: u32,
    pub hash: u64,
    pub key: &'a [u8],
    chunk: Option<(&'a Chunk, usize)>,
}

impl<'a> SortedRows<'a> {
    /// Divides the key groups into turns of about as many rows.
    pub fn new(snapshot: &'a TableSnapshot, groups: MaxParallelism) -> Self {
        let mut rows = SortedRows { snapshot, groups, turns: Vec::new() };
        let mut counts = vec![0; groups.groups() as usize];
        rows.each(|place| counts[place.group as usize] += 1);
        rows.turns = turns(&counts);
        rows
    }

    /// The same in turns of these key groups, the last ones first.
    #[cfg(test)]
    pub fn in_turns(self, turns: Vec<Range<u32>>) -> Self {
        SortedRows { turns, ..self }
    }

    /// The next turn.
    pub fn next_turn(&mut self) -> Result<Option<Turn<'a>>, StateError> {
        let Some(range) = self.turns.pop() else { return Ok(None) };
        let mut rows = Vec::new();
        self.each(|place| {
            if range.contains(&place.group) {
                rows.push(place);
            }
        });
        let mut turn = Turn { rows, chunks: Vec::new(), removed: &self.snapshot.removed };
        turn.load(self.snapshot)?;
        turn.sort();
        Ok(Some(turn))
    }

    /// All rows, chunk by chunk.
    fn each(&self, mut each: impl FnMut(Place)) {
        for (number, (shared, slots)) in self.snapshot.chunks.iter().enumerate() {
            let stored = shared.get();
            for (offset, hash) in stored.hashes().iter().enumerate() {
                if slots.has(offset) {
                    let group = self.groups.group_of(*hash);
                    each(Place { group, chunk: number as u32, offset: offset as u32 });
                }
            }
        }
        for (number, hash) in self.snapshot.removed.hashes.iter().enumerate() {
            each(Place { group: self.groups.group_of(*hash), chunk: REMOVED, offset: number as u32 });
        }
    }
}

/// Consecutive key groups with about as many rows each, the last ones first; none without rows.
fn turns(counts: &[u64]) -> Vec<Range<u32>> {
    let total: u64 = counts.iter().sum();
    let wanted = TURN_ROWS_MIN.max(total / TURNS_MAX);
    let (mut turns, mut start, mut rows) = (Vec::new(), 0, 0);
    for (group, count) in counts.iter().enumerate() {
        rows += count;
        let end = group as u32 + 1;
        if rows >= wanted || (end as usize == counts.len() && rows > 0) {
            turns.push(start..end);
            (start, rows) = (end, 0);
        }
    }
    turns.reverse();
    turns
}

impl<'a> Turn<'a> {
    /// Brings what is on the disk into memory. Rows of one chunk are together.
    fn load(&mut self, snapshot: &TableSnapshot) -> Result<(), StateError> {
        let mut start = 0;
        while start < self.rows.len() {
            let number = self.rows[start].chunk;
            let count = self.rows[start..].iter().take_while(|place| place.chunk == number).count();
            let rows = &mut self.rows[start..start + count];
            start += count;
            if number == REMOVED {
                continue;
            }
            let chunk = match snapshot.chunks[number as usize].0.get() {
                Stored::Cold(cold) => {
                    let offsets: Vec<usize> = rows.iter().map(|place| place.offset as usize).collect();
                    rows.iter_mut().enumerate().for_each(|(offset, place)| place.offset = offset as u32);
                    Arc::new(cold.rows(&offsets)?)
                }
                Stored::Hot(chunk) => chunk,
            };
            let loaded = self.chunks.len() as u32;
            rows.iter_mut().for_each(|row| row.chunk = loaded);
            self.chunks.push(chunk);
        }
        Ok(())
    }

    fn sort(&mut self) {
        let Turn { rows, chunks, removed } = self;
        let key = |place: &Place| match place.chunk {
            REMOVED => removed.keys.key(place.offset as usize),
            chunk => chunks[chunk as usize].keys.key(place.offset as usize),
        };
        rows.sort_unstable_by(|a, b| a.group.cmp(&b.group).then_with(|| key(a).cmp(key(b))));
    }

    /// Rows that are in memory for it.
    #[cfg(test)]
    pub fn rows_in_memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = SortedRow<'_>> {
        self.rows.iter().map(|place| {
            let (group, offset) = (place.group, place.offset as usize);
            if place.chunk == REMOVED {
                let (hash, key) = (self.removed.hashes[offset], self.removed.keys.key(offset));
                return SortedRow { group, hash, key, chunk: None };
            }
            let chunk = self.chunks[place.chunk as usize].as_ref();
            let (hash, key) = (chunk.hashes[offset], chunk.keys.key(offset));
            SortedRow { group, hash, key, chunk: Some((chunk, offset)) }
        })
    }
}

impl SortedRow<'_> {
    /// Appends the columns; nothing for a key that was removed.
    pub fn write_values(&self, out: &mut Vec<u8>) {
        if let Some((chunk, offset)) = self.chunk {
            chunk.write(offset, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_have_about_as_many_rows_and_all_groups_with_any() {
        let many = TURN_ROWS_MIN * 3 / 4;
        let cases: [(&[u64], &[Range<u32>]); 5] = [
            (&[0, 0, 0], &[]),
            (&[0, TURN_ROWS_MIN, 3], &[0..2, 2..3]),
            (&[many, many, many, many, 1], &[0..2, 2..4, 4..5]),
            (&[0, TURN_ROWS_MIN * 5, 1, 0], &[0..2, 2..4]),
            (&[TURN_ROWS_MIN * TURNS_MAX * 2; 128], &[]),
        ];
        for (counts, expected) in cases {
            let mut turns = turns(counts);

            turns.reverse();
            if expected.is_empty() && counts.len() == 128 {
                assert_eq!(turns.len(), TURNS_MAX as usize);
                continue;
            }
            assert_eq!(turns, expected, "{counts:?}");
        }
    }
}
