//! The local half of a windowed aggregate: rows become partial states per slice and key before the exchange.
//!
//! It holds nothing across a barrier: everything is emitted before it, so there is no state to restore. Where keys hardly recur,
//! looking each of them up costs more than it saves: then rows pass one by one for a while, as partial states of one row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};
use millrace_sql::plan::{Aggregate, Window, WindowAggregate};
use snafu::{OptionExt, ResultExt, ensure};

use super::accumulator::{Accumulator, Rows, prepare};
use super::recurrence::Recurrence;
use super::{Collector, ComputeSnafu, NoTimeSnafu, Operator, OperatorError, PlanSnafu, Progress};
use crate::model::key_encoding::{decode, encode};
use crate::model::key_group::hash_of;
use crate::model::{Batch, EventTime};
use crate::state::{StateTable, StateType};

/// Keys held over all slices before they are emitted: bounds memory, and keeps the tables in the cache.
const KEYS_MAX: usize = 64 * 1024;

/// More keys in ten rows than these cost more than they save.
const KEYS_IN_TEN_MAX: usize = 8;

/// Pre-aggregates.
pub struct LocalAggregate {
    plan: WindowAggregate,
    window: Window,
    keys: Vec<usize>,
    accumulators: Vec<Accumulator>,
    layout: Arc<[StateType]>,
    slices: BTreeMap<i64, StateTable>,
    recurrence: Recurrence,
    output: SchemaRef,
}

impl LocalAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &WindowAggregate) -> Result<Self, OperatorError> {
        let mut aggregates = plan.aggregates.clone();
        aggregates.extend(plan.counts_rows_apart().then(Aggregate::count_of_rows));
        let (accumulators, layout) = prepare(&aggregates)?;
        Ok(LocalAggregate {
            window: plan.window.context(PlanSnafu { message: "a window aggregate without window" })?,
            keys: plan.keys.iter().map(|key| *key as usize).collect(),
            accumulators,
            layout,
            slices: BTreeMap::new(),
            recurrence: Recurrence::default(),
            output: plan.partial_schema().to_arrow(),
            plan: plan.clone(),
        })
    }

    fn emit(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.recurrence.given_away();
        for (slice_end, table) in std::mem::take(&mut self.slices) {
            for part in table.parts() {
                let chunk = part.load()?;
                let rows = chunk.len();
                let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![slice_end; rows]))];
                columns.extend(decode(&self.plan.key_fields, (0..rows).map(|slot| chunk.keys.key(slot)))?);
                for accumulator in &self.accumulators {
                    columns.extend(accumulator.states(&chunk)?);
                }
                let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
                // With distinct values among the keys the hashes are not those of the global half's keys.
                let hashes = self.plan.distinct_fields.is_empty().then(|| chunk.hashes.as_slice().into());
                out.batch(Batch { records, kinds: None, hashes })?;
            }
        }
        Ok(())
    }
}

/// Groups the rows of a batch by the end of the slice they fall into.
fn rows_by_slice(times: &ArrayRef, window: &Window) -> Result<BTreeMap<i64, Vec<u32>>, OperatorError> {
    ensure!(times.null_count() == 0, NoTimeSnafu);
    let times = times.as_primitive::<TimestampMillisecondType>();
    let mut slices: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    let (mut start, mut end) = (0, 0);
    let mut run: Vec<u32> = Vec::new();
    for row in 0..times.len() {
        let time = times.value(row);
        if time < start || time >= end {
            if !run.is_empty() {
                slices.entry(end).or_default().append(&mut run);
            }
            end = window.slice_end(time);
            start = end - window.slice_ms();
        }
        run.push(row as u32);
    }
    if !run.is_empty() {
        slices.entry(end).or_default().append(&mut run);
    }
    Ok(slices)
}

impl Operator for LocalAggregate {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let columns = batch.records.columns();
        let slices = rows_by_slice(&columns[self.plan.time as usize], &self.window)?;
        let key_columns: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(&columns[*key])).collect();
        let keys = encode(&key_columns, batch.rows())?;
        let is_looked_up = self.recurrence.is_looked_up(batch.rows());
        let mut slots = Vec::new();
        for (slice_end, rows) in slices {
            let table =
                self.slices.entry(slice_end).or_insert_with(|| StateTable::new(Arc::clone(&self.layout)));
            slots.clear();
            for row in &rows {
                let key = keys.key(*row as usize);
                let hash = hash_of(key);
                slots.push(if is_looked_up { table.slot(hash, key)? } else { table.push(hash, key) });
            }
            let mut chunks = table.write(&slots);
            for accumulator in &self.accumulators {
                accumulator.add(columns, Rows { rows: &rows, slots: &slots, signs: None }, &mut chunks)?;
            }
        }
        if !is_looked_up {
            return self.emit(out);
        }
        let keys = self.slices.values().map(StateTable::len).sum::<usize>();
        if keys >= KEYS_MAX {
            self.recurrence.judge(keys, KEYS_IN_TEN_MAX);
            self.emit(out)?;
        }
        Ok(())
    }

    fn watermark(&mut self, time: EventTime, out: &mut dyn Collector) -> Result<Progress, OperatorError> {
        // Only a watermark that closes a slice can make a window fire; until then partial states may grow here.
        let closes = self.slices.keys().next().is_some_and(|slice_end| slice_end.saturating_sub(1) <= time.0);
        if closes {
            self.emit(out)?;
        }
        Ok(Progress::Done)
    }

    fn flush(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.emit(out)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMillisecondArray;
    use arrow::datatypes::Int64Type;
    use millrace_sql::plan::{AggregateFunction, DataType, Field, TypeKind};

    use super::super::recurrence::PASSED_ROWS;
    use super::*;

    /// Partial rows, and what the sums in them add up to.
    #[derive(Default)]
    struct Given {
        rows: usize,
        sum: i64,
    }

    impl Collector for Given {
        fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
            self.rows += batch.rows();
            self.sum += batch.records.column(2).as_primitive::<Int64Type>().values().iter().sum::<i64>();
            Ok(())
        }
    }

    fn operator() -> LocalAggregate {
        let bigint = || DataType::simple(TypeKind::BigInt);
        let sum = Aggregate {
            function: AggregateFunction::Sum.into(),
            argument: Some(2),
            argument_type: Some(bigint()),
            result_type: Some(bigint()),
            ..Default::default()
        };
        let window = Window { size_ms: 1_000, slide_ms: 1_000, offset_ms: 0, is_cumulating: false };
        let plan = WindowAggregate {
            time: 0,
            keys: vec![1],
            window: Some(window),
            aggregates: vec![sum],
            key_fields: vec![Field::new("k", bigint())],
            ..Default::default()
        };
        LocalAggregate::new(&plan).unwrap()
    }

    fn rows(keys: impl Iterator<Item = i64>) -> Batch {
        let keys: Vec<i64> = keys.collect();
        let times = TimestampMillisecondArray::from(vec![5; keys.len()]);
        let ones = Int64Array::from(vec![1; keys.len()]);
        let columns: [(&str, ArrayRef); 3] =
            [("t", Arc::new(times)), ("k", Arc::new(Int64Array::from(keys))), ("v", Arc::new(ones))];
        Batch::inserts(RecordBatch::try_from_iter(columns).unwrap())
    }

    #[test]
    fn rows_pass_one_by_one_while_keys_do_not_recur_and_are_added_up_again_when_they_do() {
        let mut operator = operator();
        let mut given = Given::default();
        let batch = 8 * 1024;
        let mut sent = 0;
        let mut send = |operator: &mut LocalAggregate, given: &mut Given, batches: usize, keys: i64| {
            for _ in 0..batches {
                operator.process(rows((0..batch).map(|row| (sent + row) % keys)), given).unwrap();
                sent += batch;
            }
            sent
        };
        send(&mut operator, &mut given, KEYS_MAX / batch as usize, i64::MAX);
        assert_eq!(given.rows, KEYS_MAX, "the tables are full, of keys that do not recur");

        // Each batch passes at once, though its keys recur.
        let sent_by_then = send(&mut operator, &mut given, 1, 7);
        assert_eq!(given.rows as i64, sent_by_then);
        send(&mut operator, &mut given, PASSED_ROWS / batch as usize, i64::MAX);
        operator.flush(&mut given).unwrap();
        let before = given.rows;

        let all = send(&mut operator, &mut given, 20, 7);
        operator.flush(&mut given).unwrap();
        assert_eq!(given.rows - before, 7);
        assert_eq!(given.sum, all, "each row counts once");
    }
}
