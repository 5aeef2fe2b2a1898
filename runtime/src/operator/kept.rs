//! A state table with what is needed to write it to checkpoints.

use std::borrow::Cow;
use std::sync::Arc;

use super::OperatorTable;
use crate::state::{AwayRows, BlockRow, ColdChunk, RestoreError, StateError, StateTable, TableImage};

/// A table is written whole again after this many snapshots of changes, so that a restore reads few runs.
const DELTAS_MAX: u32 = 8;

/// A table and how it was written last.
#[derive(Clone)]
pub struct Kept {
    pub table: StateTable,
    deltas: u32,
    is_written: bool,
}

impl Kept {
    /// A table that no checkpoint knows.
    pub fn new(table: StateTable) -> Self {
        Kept { table, deltas: 0, is_written: false }
    }

    /// The table at a barrier.
    pub fn snapshot(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        namespace: i64,
        is_full: bool,
    ) -> Result<OperatorTable, StateError> {
        let is_full = is_full || !self.is_written || self.deltas >= DELTAS_MAX;
        self.deltas = if is_full { 0 } else { self.deltas + 1 };
        self.is_written = true;
        let snapshot = self.table.snapshot(is_full)?;
        Ok(OperatorTable { name: name.into(), namespace, snapshot, is_full })
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
