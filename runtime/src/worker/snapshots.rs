//! Makes a worker's part of a checkpoint durable: one segment object for all its tasks, and what its sinks prepared.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use snafu::{ResultExt, Snafu};

use crate::checkpoint::records::{Run, SubtaskState, TableState};
use crate::checkpoint::store::Created;
use crate::checkpoint::{Store, StoreError, paths};
use crate::model::{Epoch, Generation, MaxParallelism, WorkerId};
use crate::operator::OperatorTable;
use crate::rpc::Snapshot;
use crate::sink::SinkError;
use crate::state::{SegmentError, SegmentReader, SegmentWriter};
use crate::task::TaskSnapshot;

/// A worker's part of a checkpoint could not be made durable.
#[derive(Debug, Snafu)]
pub enum SnapshotError {
    #[snafu(transparent)]
    Store { source: StoreError },
    #[snafu(display("failed to encode state"))]
    Encode { source: SegmentError },
    #[snafu(display("the segment '{key}' was not stored as it was written"))]
    Verify { key: String, source: SegmentError },
    #[snafu(display("the segment '{key}' is there already or cannot be read back"))]
    Taken { key: String },
    #[snafu(transparent)]
    Sink { source: SinkError },
}

/// Collects the snapshots of a worker's tasks, and knows which runs make up each subtask's state.
pub struct Snapshots {
    store: Arc<dyn Store>,
    generation: Generation,
    worker: WorkerId,
    groups: MaxParallelism,
    tasks: usize,
    waiting: BTreeMap<Epoch, Vec<TaskSnapshot>>,
    states: HashMap<(usize, u32), SubtaskState>,
}

impl Snapshots {
    /// `states` by operator and subtask, as restored.
    pub fn new(
        store: Arc<dyn Store>,
        generation: Generation,
        worker: WorkerId,
        groups: MaxParallelism,
        tasks: usize,
        states: HashMap<(usize, u32), SubtaskState>,
    ) -> Self {
        Snapshots { store, generation, worker, groups, tasks, waiting: BTreeMap::new(), states }
    }

    /// Adds a task's snapshot; returns all of the epoch once the last one is in.
    pub fn add(&mut self, snapshot: TaskSnapshot) -> Option<(Epoch, Vec<TaskSnapshot>)> {
        let epoch = snapshot.epoch;
        let of_epoch = self.waiting.entry(epoch).or_default();
        of_epoch.push(snapshot);
        if of_epoch.len() < self.tasks {
            return None;
        }
        let complete = self.waiting.remove(&epoch)?;
        // Older epochs were given up: a newer barrier has overtaken them.
        self.waiting = self.waiting.split_off(&epoch);
        Some((epoch, complete))
    }

    /// Uploads an epoch.
    ///
    /// # Errors
    /// The states are then unknown to the store in part, and the next snapshot must be full.
    pub async fn upload(
        &mut self,
        epoch: Epoch,
        snapshots: Vec<TaskSnapshot>,
    ) -> Result<Snapshot, SnapshotError> {
        let key = paths::segment(epoch, self.generation, self.worker, 0);
        let mut writer = SegmentWriter::new();
        let mut prepared = Vec::new();
        for snapshot in snapshots {
            for (operator, state) in snapshot.operators {
                let Some(known) = self.states.get_mut(&(operator, snapshot.subtask)) else { continue };
                known.watermark = state.watermark.map(|time| time.0);
                let earlier = std::mem::take(&mut known.tables);
                for table in state.tables {
                    let state = add_table(&mut writer, &key, table, &earlier, known, self.groups)?;
                    known.tables.push(state);
                }
            }
            if let Some(source) = snapshot.source
                && let Some(known) = self.states.get_mut(&(source.operator, snapshot.subtask))
            {
                known.splits = source.splits;
                known.rows = source.rows;
            }
            if let Some(sink) = snapshot.sink {
                prepared.push((sink.operator, snapshot.subtask, sink.rows, sink.prepared));
            }
        }
        let bytes = if writer.is_empty() {
            0
        } else {
            store_segment(self.store.as_ref(), &key, writer.finish()).await?
        };
        for (operator, subtask, rows, prepared) in prepared {
            let committables = prepared.await?;
            if let Some(known) = self.states.get_mut(&(operator, subtask)) {
                known.committables = committables;
                known.rows = rows;
            }
        }
        let mut subtasks: Vec<SubtaskState> = self.states.values().cloned().collect();
        subtasks.sort_by(|a, b| (&a.operator, a.subtask).cmp(&(&b.operator, b.subtask)));
        Ok(Snapshot { epoch: epoch.0, subtasks, bytes, failure: String::new() })
    }
}

/// Writes the segment and reads it once back: a checkpoint that cannot be restored is none.
async fn store_segment(store: &dyn Store, key: &str, bytes: Vec<u8>) -> Result<u64, SnapshotError> {
    let length = bytes.len() as u64;
    let created = store.create(key, bytes.clone()).await?;
    let Some(stored) = store.get(key).await? else { return TakenSnafu { key }.fail() };
    if created == Created::Exists && stored != bytes {
        return TakenSnafu { key }.fail();
    }
    SegmentReader::open(&stored).and_then(|reader| reader.verify()).context(VerifySnafu { key })?;
    Ok(length)
}

fn add_table(
    writer: &mut SegmentWriter,
    key: &str,
    table: OperatorTable,
    earlier: &[TableState],
    owner: &SubtaskState,
    groups: MaxParallelism,
) -> Result<TableState, SnapshotError> {
    let known = earlier.iter().find(|state| state.table == table.name && state.namespace == table.namespace);
    let mut runs = match known {
        Some(known) if !table.is_full => known.runs.clone(),
        _ => Vec::new(),
    };
    if let Some((run, rows)) = writer.add(&table.snapshot, groups).context(EncodeSnafu)? {
        let (first_group, end_group) = (owner.first_group, owner.end_group);
        runs.push(Run { segment: key.to_owned(), run, rows, first_group, end_group });
    }
    Ok(TableState { table: table.name.to_owned(), namespace: table.namespace, runs })
}
