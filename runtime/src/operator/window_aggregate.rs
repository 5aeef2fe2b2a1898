//! The global half of a windowed aggregate: merges partial states into slices and fires windows.
//!
//! A window is a run of slices; tumbling windows have one. A window fires when the watermark reaches its last
//! millisecond, a slice is dropped with the last window that needs it (Li et al., "No pane, no gain"). No timer per key exists.
//! Hopping windows of many slices are merged in two stacks. Cumulating windows only grow, so what has fired is kept merged in the first slice, and each slice is merged once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use millrace_sql::plan::{Window, WindowAggregate as Plan};
use snafu::{OptionExt, ResultExt};

use super::slice::{Partial, Shape, Slice};
use super::stacks::Stacks;
use super::{
    Collector, ComputeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot, PlanSnafu, Progress,
    StateSnafu,
};
use crate::model::key_encoding::encode;
use crate::model::key_group::hash_of;
use crate::model::{Batch, EventTime};
use crate::state::{AwayRows, BlockRow, Chunk, ColdChunk, LocalDisk, Part, TableImage};

/// Chunks of results emitted before the driver may send them on and look at barriers.
const CHUNKS_PER_TURN: usize = 4;

/// Merges and fires.
pub struct WindowAggregate {
    window: Window,
    keys: usize,
    shape: Shape,
    slices: BTreeMap<i64, Slice>,
    /// What is merged of them beforehand.
    stacks: Stacks,
    /// Ends of windows that have rows and have not fired.
    pending: BTreeSet<i64>,
    /// Results of the window that fires now and are not emitted yet.
    firing: VecDeque<(i64, Part)>,
    /// Some of the state has gone to the disk.
    is_short_of_memory: bool,
    /// Slices have to be merged in the order of their times.
    minds_order: bool,
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
            stacks: Stacks::default(),
            pending: BTreeSet::new(),
            firing: VecDeque::new(),
            is_short_of_memory: false,
            minds_order: plan.aggregates.iter().any(|aggregate| aggregate.function().minds_order()),
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
        let pays = !self.is_short_of_memory
            && !self.minds_order
            && self.stacks.pay(&self.window, parts.iter().map(|slice| slice.len()).sum());
        if !pays {
            self.stacks.clear();
        }
        let fired: Vec<Part> = match parts.as_slice() {
            [] => Vec::new(),
            _ if pays => {
                let merged = self.stacks.merge(&self.shape, &self.window, window_end, &self.slices)?;
                self.stacks.fired(merged.len());
                merged.parts().collect()
            }
            [only] => only.parts().collect(),
            parts => {
                let mut merged = self.shape.slice();
                for part in parts {
                    self.shape.absorb(&mut merged, part)?;
                }
                self.stacks.fired(merged.len());
                merged.parts().collect()
            }
        };
        self.firing.extend(fired.into_iter().map(|part| (window_end, part)));
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

    /// The slice that something is restored of.
    fn restored(&mut self, table: &str, slice_end: i64) -> Result<&mut Slice, OperatorError> {
        self.add_slice(slice_end);
        self.slices.get_mut(&slice_end).context(StateSnafu { table })
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
            let partial = Partial { columns, keys: &keys, hashes, values: &values, rows: &rows };
            self.shape.add(slice, &partial)?;
            self.stacks.add(&self.shape, slice_end, &partial)?;
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
            if let Some((window_end, part)) = self.firing.pop_front() {
                let chunk = part.load()?;
                self.emit(window_end, &chunk, out)?;
            }
        }
        Ok(Progress::More)
    }

    fn snapshot(&mut self, is_full: bool) -> Result<OperatorSnapshot, OperatorError> {
        let mut tables = Vec::new();
        for (end, slice) in &mut self.slices {
            tables.extend(slice.snapshot(*end, is_full)?);
        }
        Ok(OperatorSnapshot { tables, watermark: Some(self.watermark), late_rows: self.late_rows })
    }

    fn restore_watermark(&mut self, time: EventTime, late_rows: u64) {
        self.watermark = self.watermark.max(time);
        self.late_rows = late_rows;
    }

    fn restore(&mut self, table: &str, namespace: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        self.restored(table, namespace)?.restore(table, &row)
    }

    fn attach(
        &mut self,
        table: &str,
        namespace: i64,
        rows: AwayRows,
        removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        self.restored(table, namespace)?.attach(table, rows, removed)
    }

    fn roll_back(&mut self, table: &str, namespace: i64, image: &TableImage) -> Result<(), OperatorError> {
        self.restored(table, namespace)?.roll_back(table, image)
    }

    fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<(), OperatorError> {
        // What is merged beforehand is in memory, too, and is made anew at the price of a merge.
        self.stacks.clear();
        self.is_short_of_memory = true;
        let mut given_up = 0;
        // Rows come to the newest slices.
        for slice in self.slices.values_mut() {
            if given_up >= bytes {
                break;
            }
            given_up += slice.spill(bytes - given_up, disk)?;
        }
        Ok(())
    }

    fn warm_up(&mut self, bytes: usize) -> Result<(), OperatorError> {
        // The others are read when they fire, all at once.
        let newest = self.slices.values_mut().next_back();
        newest.map_or(Ok(()), |slice| Ok(slice.warm_up(bytes)?))
    }

    fn memory_bytes(&self) -> usize {
        self.slices.values().map(Slice::memory_len).sum::<usize>() + self.stacks.memory_len()
    }

    fn figures(&self) -> OperatorFigures {
        let slices: usize = self.slices.values().map(Slice::byte_len).sum();
        OperatorFigures { late_rows: self.late_rows, state_bytes: slices as u64 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::Int64Array;
    use millrace_sql::plan::{Aggregate, AggregateFunction, DataType, Field, TypeKind};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Rows of key, end of the window, sum, and number of distinct values.
    #[derive(Default)]
    struct Given(Vec<(i64, i64, i64, i64)>);

    impl Collector for Given {
        fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
            let column = |index: usize| batch.records.column(index).as_primitive::<Int64Type>().clone();
            let ends = batch.records.column(2).as_primitive::<arrow::datatypes::TimestampMillisecondType>();
            let (keys, sums, distinct) = (column(0), column(4), column(5));
            let row = |row| (keys.value(row), ends.value(row), sums.value(row), distinct.value(row));
            self.0.extend((0..batch.rows()).map(row));
            Ok(())
        }
    }

    fn operator(window: Window) -> WindowAggregate {
        let bigint = || DataType::simple(TypeKind::BigInt);
        let aggregate = |function: AggregateFunction, argument, is_distinct| Aggregate {
            function: function.into(),
            argument: Some(argument),
            argument_type: Some(bigint()),
            result_type: Some(bigint()),
            is_distinct,
            ..Default::default()
        };
        let plan = Plan {
            keys: vec![1],
            window: Some(window),
            aggregates: vec![
                aggregate(AggregateFunction::Sum, 0, false),
                aggregate(AggregateFunction::Count, 0, true),
            ],
            key_fields: vec![Field::new("k", bigint())],
            distinct_fields: vec![Field::new("v", bigint())],
            ..Default::default()
        };
        WindowAggregate::new(&plan).unwrap()
    }

    /// Random rows, some of them late for some of their windows, some for all; each window's results against those that are counted
    /// here row by row.
    #[test]
    fn windows_merged_in_stacks_are_those_merged_slice_by_slice() {
        for (size_ms, slide_ms, keys) in [(12, 1, 5), (24, 3, 5), (20, 2, 40), (4, 2, 5), (12, 1, 2000)] {
            let window = Window { size_ms, slide_ms, offset_ms: 1, is_cumulating: false };
            let mut random = StdRng::seed_from_u64(size_ms as u64 + keys as u64);
            let mut operator = operator(window);
            let (mut given, mut used) = (Given::default(), 0);
            let mut expected: HashMap<(i64, i64), (i64, Vec<i64>)> = HashMap::new();
            for now in 0..120 {
                let rows: Vec<(i64, i64, i64)> = (0..60)
                    .map(|_| {
                        let oldest = if random.random_bool(0.1) { 35 } else { 5 };
                        let time: i64 = (now + 3 - random.random_range(0..oldest)).max(0);
                        (window.slice_end(time), random.random_range(0..keys), random.random_range(0..9))
                    })
                    .collect();
                for (slice_end, key, value) in &rows {
                    for end in window.window_ends(*slice_end).filter(|end| !operator.is_fired(*end)) {
                        let (sum, values) = expected.entry((end, *key)).or_default();
                        *sum += value;
                        values.push(*value);
                    }
                }
                let column = |of: &dyn Fn(&(i64, i64, i64)) -> i64| -> ArrayRef {
                    Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>())
                };
                let records = RecordBatch::try_from_iter_with_nullable([
                    ("slice_end", column(&|row| row.0), true),
                    ("k", column(&|row| row.1), true),
                    ("v", column(&|row| row.2), true),
                    ("sum", column(&|row| row.2), true),
                    ("count", column(&|_| 1), true),
                ]);
                operator
                    .process(Batch { records: records.unwrap(), kinds: None, hashes: None }, &mut given)
                    .unwrap();
                while operator.watermark(EventTime(now), &mut given).unwrap() == Progress::More {}
                used += usize::from(operator.stacks.is_used());
            }
            while operator.watermark(EventTime::MAX, &mut given).unwrap() == Progress::More {}

            let mut expected: Vec<(i64, i64, i64, i64)> = expected
                .into_iter()
                .map(|((end, key), (sum, mut values))| {
                    values.sort_unstable();
                    values.dedup();
                    (key, end, sum, values.len() as i64)
                })
                .collect();
            expected.sort_unstable();
            given.0.sort_unstable();
            assert_eq!(given.0, expected, "size {size_ms}, slide {slide_ms}, {keys} keys");
            let pays = size_ms / slide_ms >= 8 && keys < 100;
            assert_eq!(used > 50, pays, "size {size_ms}, slide {slide_ms}, {keys} keys: {used}");
        }
    }
}
