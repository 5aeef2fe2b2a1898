//! The global half of a windowed aggregate: merges partial states into slices and fires windows.
//!
//! A window is a run of slices; tumbling windows have one. A window fires when the watermark reaches its last
//! millisecond, a slice is dropped with the last window that needs it (Li et al., "No pane, no gain"). No timer per key exists.
//! Cumulating windows only grow, so what has fired is kept merged in the first slice, and each slice is merged once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use millrace_sql::plan::{Window, WindowAggregate as Plan};
use snafu::{OptionExt, ResultExt};

use super::slice::{Partial, Shape, Slice};
use super::{
    Collector, ComputeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot, PlanSnafu, Progress,
    StateSnafu,
};
use crate::model::key_encoding::encode;
use crate::model::key_group::hash_of;
use crate::model::{Batch, EventTime};
use crate::state::BlockRow;
use crate::state::table::Chunk;

/// Chunks of results emitted before the driver may send them on and look at barriers.
const CHUNKS_PER_TURN: usize = 4;

/// Merges and fires.
pub struct WindowAggregate {
    window: Window,
    keys: usize,
    shape: Shape,
    slices: BTreeMap<i64, Slice>,
    /// Ends of windows that have rows and have not fired.
    pending: BTreeSet<i64>,
    /// Results of the window that fires now and are not emitted yet.
    firing: VecDeque<(i64, Arc<Chunk>)>,
    watermark: EventTime,
    /// Column of partial states that counts the rows behind each.
    rows_column: Option<usize>,
    late_rows: u64,
    output: SchemaRef,
}

impl WindowAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        Ok(WindowAggregate {
            window: plan.window.context(PlanSnafu { message: "a window aggregate without window" })?,
            keys: plan.key_fields.len(),
            shape: Shape::new(plan)?,
            slices: BTreeMap::new(),
            pending: BTreeSet::new(),
            firing: VecDeque::new(),
            watermark: EventTime::MIN,
            rows_column: plan.rows_column.map(|column| column as usize),
            late_rows: 0,
            output: plan.output_schema().to_arrow(),
        })
    }

    fn is_fired(&self, window_end: i64) -> bool {
        window_end.saturating_sub(1) <= self.watermark.0
    }

    /// How many rows are behind partial states.
    fn behind(&self, columns: &[ArrayRef], partial: &[u32]) -> u64 {
        let Some(column) = self.rows_column else { return partial.len() as u64 };
        let counts: &Int64Array = columns[column].as_primitive::<Int64Type>();
        partial.iter().map(|row| counts.value(*row as usize) as u64).sum()
    }

    /// Makes a slice unless it is there, and notes the windows that need it.
    fn add_slice(&mut self, slice_end: i64) {
        if self.slices.contains_key(&slice_end) {
            return;
        }
        let ends: Vec<i64> = self.window.window_ends(slice_end).filter(|end| !self.is_fired(*end)).collect();
        self.pending.extend(ends);
        self.slices.insert(slice_end, self.shape.slice());
    }

    /// Computes the results of a window and queues them.
    fn fire(&mut self, window_end: i64) -> Result<(), OperatorError> {
        let start = self.window.window_start(window_end);
        if self.window.is_cumulating {
            self.gather_into_first(start, window_end)?;
        }
        let parts: Vec<&Slice> = self.slices.range(start + 1..=window_end).map(|(_, slice)| slice).collect();
        let chunks = match parts.as_slice() {
            [] => Vec::new(),
            [only] => only.chunks().to_vec(),
            parts => {
                let mut merged = self.shape.slice();
                for part in parts {
                    self.shape.absorb(&mut merged, part)?;
                }
                merged.chunks().to_vec()
            }
        };
        self.firing.extend(chunks.into_iter().map(|chunk| (window_end, chunk)));
        let window = self.window;
        self.slices.retain(|slice_end, _| window.window_ends(*slice_end).any(|end| end > window_end));
        Ok(())
    }

    /// Merges the slices of a window into its first one, which is as good for all windows that are still to fire.
    fn gather_into_first(&mut self, start: i64, window_end: i64) -> Result<(), OperatorError> {
        let parts: Vec<i64> = self.slices.range(start + 1..=window_end).map(|(end, _)| *end).collect();
        let Some((first, others)) = parts.split_first() else { return Ok(()) };
        for other in others {
            let Some(from) = self.slices.remove(other) else { continue };
            let Some(into) = self.slices.get_mut(first) else { continue };
            self.shape.absorb(into, &from)?;
        }
        Ok(())
    }

    fn emit(&self, window_end: i64, chunk: &Chunk, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let rows = chunk.len();
        let times = |time: i64| Arc::new(TimestampMillisecondArray::from(vec![time; rows])) as ArrayRef;
        let mut columns = self.shape.keys(chunk)?;
        let window_start = self.window.window_start(window_end);
        columns.extend([times(window_start), times(window_end), times(window_end - 1)]);
        columns.extend(self.shape.results(chunk)?);
        let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
        out.batch(Batch { records, kinds: None, hashes: None })
    }
}

impl Operator for WindowAggregate {
    fn process(&mut self, batch: Batch, _: &mut dyn Collector) -> Result<(), OperatorError> {
        let columns = batch.records.columns();
        let ends: &Int64Array = columns[0].as_primitive::<Int64Type>();
        let keys = encode(&columns[1..=self.keys], batch.rows())?;
        let computed: Vec<u64>;
        let hashes = match &batch.hashes {
            Some(hashes) => &hashes[..],
            None => {
                computed = (0..batch.rows()).map(|row| hash_of(keys.key(row))).collect();
                &computed
            }
        };
        let values = self.shape.distinct_values(columns)?;
        let mut by_slice: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.rows() {
            by_slice.entry(ends.value(row)).or_default().push(row as u32);
        }
        for (slice_end, rows) in by_slice {
            let last = self.window.window_ends(slice_end).last().unwrap_or(slice_end);
            if self.is_fired(last) {
                self.late_rows += self.behind(columns, &rows);
                continue;
            }
            self.add_slice(slice_end);
            let Some(slice) = self.slices.get_mut(&slice_end) else { continue };
            self.shape.add(slice, &Partial { columns, keys: &keys, hashes, values: &values, rows: &rows })?;
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
        let tables = self.slices.iter_mut().flat_map(|(end, slice)| slice.snapshot(*end, is_full));
        OperatorSnapshot {
            tables: tables.collect(),
            watermark: Some(self.watermark),
            late_rows: self.late_rows,
        }
    }

    fn restore_watermark(&mut self, time: EventTime, late_rows: u64) {
        self.watermark = self.watermark.max(time);
        self.late_rows = late_rows;
    }

    fn restore(&mut self, table: &str, namespace: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        self.add_slice(namespace);
        let slice = self.slices.get_mut(&namespace).context(StateSnafu { table })?;
        slice.restore(table, &row)
    }

    fn figures(&self) -> OperatorFigures {
        let state_bytes = self.slices.values().map(|slice| slice.byte_len() as u64).sum();
        OperatorFigures { late_rows: self.late_rows, state_bytes }
    }
}
