//! The global half of a windowed aggregate: merges partial states into slices and fires windows.
//!
//! A window is a run of slices; tumbling windows have one. A window fires when the watermark reaches its last
//! millisecond, a slice is dropped with the last window that needs it (Li et al., "No pane, no gain"). No timer per key exists.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use millrace_sql::plan::{Window, WindowAggregate as Plan};
use snafu::{OptionExt, ResultExt};

use super::accumulator::{Accumulator, prepare};
use super::{
    Collector, ComputeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot, OperatorTable,
    PlanSnafu, Progress, StateSnafu,
};
use crate::model::key_encoding::{decode, encode};
use crate::model::key_group::hash_of;
use crate::model::{Batch, EventTime};
use crate::state::table::Chunk;
use crate::state::{BlockRow, StateTable, StateType};

/// Name of the state table; its namespaces are slice ends.
const SLICES: &str = "slices";

/// Chunks of results emitted before the driver may send them on and look at barriers.
const CHUNKS_PER_TURN: usize = 4;

/// A part is written whole again after this many snapshots of changes, so that a restore reads few runs.
const DELTAS_MAX: u32 = 8;

/// Merges and fires.
pub struct WindowAggregate {
    plan: Plan,
    window: Window,
    accumulators: Vec<Accumulator>,
    layout: Arc<[StateType]>,
    slices: BTreeMap<i64, Slice>,
    /// Ends of windows that have rows and have not fired.
    pending: BTreeSet<i64>,
    /// Results of the window that fires now and are not emitted yet.
    firing: VecDeque<(i64, Arc<Chunk>)>,
    watermark: EventTime,
    late_rows: u64,
    output: SchemaRef,
}

struct Slice {
    table: StateTable,
    deltas: u32,
    is_written: bool,
}

impl WindowAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        let (accumulators, layout) = prepare(&plan.aggregates)?;
        Ok(WindowAggregate {
            window: plan.window.context(PlanSnafu { message: "a window aggregate without window" })?,
            accumulators,
            layout,
            slices: BTreeMap::new(),
            pending: BTreeSet::new(),
            firing: VecDeque::new(),
            watermark: EventTime::MIN,
            late_rows: 0,
            output: plan.output_schema().to_arrow(),
            plan: plan.clone(),
        })
    }

    fn is_fired(&self, window_end: i64) -> bool {
        window_end.saturating_sub(1) <= self.watermark.0
    }

    /// Makes a slice unless it is there, and notes the windows that need it.
    fn add_slice(&mut self, slice_end: i64) {
        if self.slices.contains_key(&slice_end) {
            return;
        }
        let ends: Vec<i64> = self.window.window_ends(slice_end).filter(|end| !self.is_fired(*end)).collect();
        self.pending.extend(ends);
        let table = StateTable::new(Arc::clone(&self.layout));
        self.slices.insert(slice_end, Slice { table, deltas: 0, is_written: false });
    }

    /// Computes the results of a window and queues them.
    fn fire(&mut self, window_end: i64) -> Result<(), OperatorError> {
        let start = window_end - self.window.size_ms;
        let parts: Vec<i64> = self.slices.range(start + 1..=window_end).map(|(end, _)| *end).collect();
        match parts.as_slice() {
            [] => {}
            [only] => {
                let chunks = self.slices[only].table.chunks().iter().cloned();
                self.firing.extend(chunks.map(|chunk| (window_end, chunk)));
            }
            parts => {
                let mut merged = StateTable::new(Arc::clone(&self.layout));
                for part in parts {
                    merge(&mut merged, &self.slices[part].table, &self.accumulators)?;
                }
                self.firing.extend(merged.chunks().iter().cloned().map(|chunk| (window_end, chunk)));
            }
        }
        let window = self.window;
        self.slices.retain(|slice_end, _| window.window_ends(*slice_end).any(|end| end > window_end));
        Ok(())
    }

    fn emit(&self, window_end: i64, chunk: &Chunk, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let rows = chunk.len();
        let times = |time: i64| Arc::new(TimestampMillisecondArray::from(vec![time; rows])) as ArrayRef;
        let mut columns = decode(&self.plan.key_fields, (0..rows).map(|slot| chunk.keys.key(slot)))?;
        columns.extend([times(window_end - self.window.size_ms), times(window_end), times(window_end - 1)]);
        for accumulator in &self.accumulators {
            columns.push(accumulator.results(chunk)?);
        }
        let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
        out.batch(Batch { records, kinds: None, hashes: None })
    }
}

/// Merges all keys of a table into another.
fn merge(
    into: &mut StateTable,
    from: &StateTable,
    accumulators: &[Accumulator],
) -> Result<(), OperatorError> {
    for chunk in from.chunks() {
        let slots: Vec<u32> =
            (0..chunk.len()).map(|slot| into.slot(chunk.hashes[slot], chunk.keys.key(slot))).collect();
        let rows: Vec<u32> = (0..chunk.len() as u32).collect();
        let mut states = Vec::new();
        for accumulator in accumulators {
            states.extend(accumulator.states(chunk)?);
        }
        let mut chunks = into.write(&slots);
        for accumulator in accumulators {
            accumulator.merge(&states, &rows, &slots, &mut chunks)?;
        }
    }
    Ok(())
}

impl Operator for WindowAggregate {
    fn process(&mut self, batch: Batch, _: &mut dyn Collector) -> Result<(), OperatorError> {
        let columns = batch.records.columns();
        let ends: &Int64Array = columns[0].as_primitive::<Int64Type>();
        let key_count = self.plan.key_fields.len();
        let keys = encode(&columns[1..=key_count], batch.rows())?;
        let states = &columns[key_count + 1..];
        let mut by_slice: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.rows() {
            by_slice.entry(ends.value(row)).or_default().push(row as u32);
        }
        for (slice_end, rows) in by_slice {
            let last = self.window.window_ends(slice_end).last().unwrap_or(slice_end);
            if self.is_fired(last) {
                self.late_rows += rows.len() as u64;
                continue;
            }
            self.add_slice(slice_end);
            let Some(Slice { table, .. }) = self.slices.get_mut(&slice_end) else { continue };
            let slots: Vec<u32> = rows
                .iter()
                .map(|row| {
                    let key = keys.key(*row as usize);
                    let hash =
                        batch.hashes.as_ref().map_or_else(|| hash_of(key), |hashes| hashes[*row as usize]);
                    table.slot(hash, key)
                })
                .collect();
            let mut chunks = table.write(&slots);
            for accumulator in &self.accumulators {
                accumulator.merge(states, &rows, &slots, &mut chunks)?;
            }
        }
        Ok(())
    }

    fn watermark(&mut self, time: EventTime, out: &mut dyn Collector) -> Result<Progress, OperatorError> {
        self.watermark = self.watermark.max(time);
        for _ in 0..CHUNKS_PER_TURN {
            if self.firing.is_empty() {
                match self.pending.first().copied() {
                    Some(end) if self.is_fired(end) => {
                        self.pending.pop_first();
                        self.fire(end)?;
                    }
                    _ => return Ok(Progress::Done),
                }
            }
            if let Some((window_end, chunk)) = self.firing.pop_front() {
                self.emit(window_end, &chunk, out)?;
            }
        }
        Ok(Progress::More)
    }

    fn snapshot(&mut self, is_full: bool) -> OperatorSnapshot {
        let tables = self.slices.iter_mut().map(|(slice_end, slice)| {
            let is_full = is_full || !slice.is_written || slice.deltas >= DELTAS_MAX;
            slice.deltas = if is_full { 0 } else { slice.deltas + 1 };
            slice.is_written = true;
            OperatorTable {
                name: SLICES,
                namespace: *slice_end,
                snapshot: slice.table.snapshot(is_full),
                is_full,
            }
        });
        OperatorSnapshot { tables: tables.collect(), watermark: Some(self.watermark) }
    }

    fn restore_watermark(&mut self, time: EventTime) {
        self.watermark = self.watermark.max(time);
    }

    fn restore(&mut self, table: &str, namespace: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        self.add_slice(namespace);
        let slice = self.slices.get_mut(&namespace).context(StateSnafu { table })?;
        slice.is_written = true;
        slice.table.restore(row.hash, row.key, row.values).context(StateSnafu { table })
    }

    fn figures(&self) -> OperatorFigures {
        let state_bytes = self.slices.values().map(|slice| slice.table.byte_len() as u64).sum();
        OperatorFigures { late_rows: self.late_rows, state_bytes }
    }
}
