//! A state table with what is needed to write it to checkpoints.

use std::borrow::Cow;
use std::sync::Arc;

use super::OperatorTable;
use crate::state::{AwayRows, BlockRow, ColdChunk, Extent, RestoreError, StateError, StateTable, TableImage};

/// After so many snapshots of changes one takes the place of all of them, so that a restore reads few runs.
const DELTAS_MAX: u32 = 8;

/// After so many of these one takes the place of all since the last snapshot of everything. Each row is thus written a few times and
/// not with every eighth checkpoint, as long as most rows do not change.
const MERGES_MAX: u32 = 8;

/// A table and how it was written last.
#[derive(Clone)]
pub struct Kept {
    pub table: StateTable,
    /// Since the last snapshot of a greater extent.
    deltas: u32,
    merges: u32,
    is_written: bool,
}

impl Kept {
    /// A table that no checkpoint knows.
    pub fn new(table: StateTable) -> Self {
        Kept { table, deltas: 0, merges: 0, is_written: false }
    }

    /// The table at a barrier.
    pub fn snapshot(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        namespace: i64,
        is_full: bool,
    ) -> Result<OperatorTable, StateError> {
        let extent = if is_full { Extent::Everything } else { self.extent() };
        (self.deltas, self.merges) = match extent {
            Extent::Changes => (self.deltas + 1, self.merges),
            Extent::SinceMerge => (0, self.merges + 1),
            Extent::SinceBase | Extent::Everything => (0, 0),
        };
        self.is_written = true;
        Ok(OperatorTable { name: name.into(), namespace, snapshot: self.table.snapshot(extent)?, extent })
    }

    fn extent(&self) -> Extent {
        if !self.is_written || self.table.removed_since_base() > self.table.len() {
            // Everything is less than the names of what is gone.
            Extent::Everything
        } else if self.deltas < DELTAS_MAX {
            Extent::Changes
        } else if self.table.changed_since_base() * 2 >= self.table.len() {
            // The changes would take half the place of everything.
            Extent::Everything
        } else if self.merges < MERGES_MAX {
            Extent::SinceMerge
        } else {
            Extent::SinceBase
        }
    }

    /// Puts a row of a snapshot back.
    pub fn restore(&mut self, row: &BlockRow<'_>) -> Result<(), RestoreError> {
        self.is_written = true;
        self.table.restore(row.hash, row.key, row.values)
    }

    /// Takes rows that are still to come, and gives up keys that were removed.
    pub fn attach(&mut self, rows: AwayRows, removed: &[(u64, u32)]) -> Arc<ColdChunk> {
        self.is_written = true;
        removed.iter().for_each(|(hash, check)| self.table.detach(*hash, *check));
        self.table.attach(rows)
    }

    /// Makes the table what it was; `None` if that was another kind of table.
    pub fn roll_back(&mut self, image: &TableImage) -> Option<()> {
        self.is_written = true;
        self.table.roll_back(image)
    }
}
