//! A running aggregate: results per key over all rows so far. A result that changes is taken back and given anew.
//!
//! Rows are taken batch by batch, and a key's result is emitted at most once a batch, however many of its rows are in it. Distinct
//! values are counted in a table of their own, under the hash of the key that they belong to, so that they move with it; so are values
//! of which one is shown and any can be taken back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, concat, take};
use arrow::datatypes::SchemaRef;
use millrace_sql::plan::{Aggregate, GroupAggregate as Plan};
use snafu::{OptionExt, ResultExt};

use super::accumulator::{Accumulator, Rows, SomeRows, prepare};
use super::changing::{ChangingValues, RowKeys, VALUES};
use super::kept::Kept;
use super::{
    Collector, ComputeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot, PlanSnafu,
    StateSnafu, in_table,
};
use crate::model::key_encoding::{EncodedKeys, decode, encode};
use crate::model::key_group::{hash_of, hash_within};
use crate::model::{Batch, RowKind};
use crate::state::{
    AwayRows, BlockRow, Chunk, ColdChunk, LocalDisk, StateColumn, StateTable, StateType, TableImage,
};

/// Names of the state tables, beside that of values. The namespaces of the second are numbers of aggregates.
const GROUPS: &str = "groups";
const DISTINCT: &str = "distinct";

/// Aggregates per key.
pub struct GroupAggregate {
    plan: Plan,
    keys: Vec<usize>,
    /// The first counts rows: a key without rows is not in the result.
    accumulators: Vec<Accumulator>,
    groups: Kept,
    distinct: Vec<Distinct>,
    changing: Vec<ChangingValues>,
    output: SchemaRef,
}

/// How often each value of an aggregate of distinct values is there, per key.
struct Distinct {
    accumulator: usize,
    argument: usize,
    counts: Kept,
    /// Slots of values whose count came to 0 in the batch.
    gone: Vec<u32>,
}

/// The rows of a batch, prepared.
struct Input<'a> {
    columns: &'a [ArrayRef],
    keys: EncodedKeys,
    hashes: Vec<u64>,
    slots: Vec<u32>,
    /// 1 for a row that comes, -1 for one that is taken back.
    signs: Vec<i64>,
}

impl GroupAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        let rows = Aggregate::count_of_rows();
        let all: Vec<Aggregate> = std::iter::once(rows).chain(plan.aggregates.iter().cloned()).collect();
        let (accumulators, layout) = prepare(&all)?;
        let mut distinct = Vec::new();
        for (number, aggregate) in all.iter().enumerate().filter(|(_, aggregate)| aggregate.is_distinct) {
            let argument =
                aggregate.argument.context(PlanSnafu { message: "DISTINCT without an argument" })?;
            distinct.push(Distinct {
                accumulator: number,
                argument: argument as usize,
                counts: Kept::new(StateTable::new([StateType::I64].into())),
                gone: Vec::new(),
            });
        }
        let changing =
            all.iter().enumerate().map(|(number, aggregate)| ChangingValues::new(number, aggregate));
        let changing: Vec<Option<ChangingValues>> = changing.collect::<Result<_, _>>()?;
        Ok(GroupAggregate {
            changing: changing.into_iter().flatten().collect(),
            keys: plan.keys.iter().map(|key| *key as usize).collect(),
            accumulators,
            groups: Kept::new(StateTable::new(layout)),
            distinct,
            output: plan.output_schema().to_arrow(),
            plan: plan.clone(),
        })
    }

    fn prepare<'a>(&mut self, batch: &'a Batch) -> Result<Input<'a>, OperatorError> {
        let columns = batch.records.columns();
        let key_columns: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(&columns[*key])).collect();
        let keys = encode(&key_columns, batch.rows())?;
        let hash =
            |row: usize| batch.hashes.as_ref().map_or_else(|| hash_of(keys.key(row)), |hashes| hashes[row]);
        let hashes: Vec<u64> = (0..batch.rows()).map(hash).collect();
        let table = &mut self.groups.table;
        let slots = hashes.iter().enumerate().map(|(row, hash)| table.slot(*hash, keys.key(row)));
        let slots = slots.collect::<Result<_, _>>()?;
        let sign = |kind: &RowKind| if kind.is_retraction() { -1 } else { 1 };
        let signs = match &batch.kinds {
            Some(kinds) => kinds.iter().map(sign).collect(),
            None => vec![1; batch.rows()],
        };
        Ok(Input { columns, keys, hashes, slots, signs })
    }

    fn add(&mut self, input: &Input<'_>, touched: &[u32]) -> Result<(), OperatorError> {
        if self.plan.takes_states {
            let rows: Vec<u32> = (0..input.slots.len() as u32).collect();
            let states = &input.columns[self.keys.len()..];
            let mut chunks = self.groups.table.write(touched);
            let mut all = self.accumulators.iter();
            return all.try_for_each(|one| one.merge(states, &rows, &input.slots, &mut chunks));
        }
        let effective =
            self.distinct.iter_mut().map(|distinct| Ok((distinct.accumulator, distinct.add(input)?)));
        let effective: Vec<(usize, SomeRows)> = effective.collect::<Result<_, OperatorError>>()?;
        let rows: Vec<u32> = (0..input.slots.len() as u32).collect();
        let all = Rows { rows: &rows, slots: &input.slots, signs: Some(&input.signs) };
        let shown = self.change(input, all)?;
        let mut chunks = self.groups.table.write(touched);
        for (number, accumulator) in self.accumulators.iter().enumerate() {
            if let Some((_, slots, values)) = shown.iter().find(|(changing, ..)| *changing == number) {
                accumulator.show(values, slots, &mut chunks)?;
                continue;
            }
            match effective.iter().find(|(distinct, _)| *distinct == number) {
                Some((_, rows)) => accumulator.add(input.columns, rows.view(), &mut chunks)?,
                None => accumulator.add(input.columns, all, &mut chunks)?,
            }
        }
        Ok(())
    }

    /// Changes the values of which one is shown: for each such aggregate the slots that have another one now, perhaps, and which.
    fn change(
        &mut self,
        input: &Input<'_>,
        all: Rows<'_>,
    ) -> Result<Vec<(usize, Vec<u32>, ArrayRef)>, OperatorError> {
        let keys = RowKeys { keys: &input.keys, hashes: &input.hashes };
        let shown = self.changing.iter_mut().map(|changing| {
            let counted = self.accumulators[changing.accumulator].counted(input.columns, all);
            let rows = counted.as_ref().map_or(all, SomeRows::view);
            let (slots, values) = changing.change(input.columns, &keys, rows)?;
            Ok((changing.accumulator, slots, values))
        });
        shown.collect()
    }

    /// Drops the keys that have no rows any more, and values that none of their rows has.
    fn forget(&mut self, touched: &[u32], after: &Chunk) -> Result<(), OperatorError> {
        let counts = row_counts(after)?;
        let gone = touched.iter().zip(counts).filter(|(_, count)| **count == 0).map(|(slot, _)| *slot);
        self.groups.table.remove(&gone.collect::<Vec<_>>());
        self.groups.table.compact()?;
        for distinct in &mut self.distinct {
            let (table, mut gone) = (&mut distinct.counts.table, std::mem::take(&mut distinct.gone));
            // A later row of the batch may have brought the value back.
            gone.retain(|slot| matches!(table.at(*slot), (chunk, at) if is_zero(&chunk.columns[0], at)));
            table.remove(&gone);
            table.compact()?;
        }
        Ok(())
    }

    /// Emits what has changed between two states of the same keys.
    fn emit(&self, before: &Chunk, after: &Chunk, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let (old, new) = (self.results(before)?, self.results(after)?);
        let same = same_rows(&old[self.keys.len()..], &new[self.keys.len()..], after.len())?;
        let (was, is) = (row_counts(before)?, row_counts(after)?);
        let (mut rows, mut kinds) = (Vec::new(), Vec::new());
        let mut give = |row: usize, kind: RowKind| {
            rows.push(row as u32);
            kinds.push(kind);
        };
        let length = after.len();
        for key in 0..length {
            // Rows of the new state follow those of the old one.
            match (was[key] > 0, is[key] > 0) {
                (false, true) => give(length + key, RowKind::Insert),
                (true, false) => give(key, RowKind::Delete),
                (true, true) if !same.value(key) => {
                    give(key, RowKind::UpdateBefore);
                    give(length + key, RowKind::UpdateAfter);
                }
                _ => {}
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(rows);
        let column = |(old, new): (&ArrayRef, &ArrayRef)| {
            let both = concat(&[old.as_ref(), new.as_ref()])?;
            take(&both, &rows, None)
        };
        let columns = old.iter().zip(&new).map(column).collect::<Result<_, _>>().context(ComputeSnafu)?;
        let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
        let are_inserts = kinds.iter().all(|kind| *kind == RowKind::Insert);
        out.batch(Batch { records, kinds: (!are_inserts).then(|| kinds.into()), hashes: None })
    }

    /// Keys and results of a chunk.
    fn results(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns = decode(&self.plan.key_fields, (0..chunk.len()).map(|slot| chunk.keys.key(slot)))?;
        for accumulator in &self.accumulators[1..] {
            columns.push(accumulator.results(chunk)?);
        }
        Ok(columns)
    }
}

/// Which rows are equal in all columns, NULL being equal to NULL.
fn same_rows(old: &[ArrayRef], new: &[ArrayRef], rows: usize) -> Result<BooleanArray, OperatorError> {
    let mut same = BooleanArray::from(vec![true; rows]);
    for (old, new) in old.iter().zip(new) {
        same = and(&same, &not_distinct(old, new).context(ComputeSnafu)?).context(ComputeSnafu)?;
    }
    Ok(same)
}

fn row_counts(chunk: &Chunk) -> Result<&[i64], OperatorError> {
    match chunk.columns.first() {
        Some(StateColumn::I64(counts, _)) => Ok(counts),
        _ => PlanSnafu { message: "the first column of a group's state counts its rows" }.fail(),
    }
}

fn is_zero(counts: &StateColumn, slot: usize) -> bool {
    matches!(counts, StateColumn::I64(counts, _) if counts[slot] == 0)
}

impl Distinct {
    /// Counts values; returns the rows that change what the aggregate is about: the first of a value, and the last that is taken back.
    fn add(&mut self, input: &Input<'_>) -> Result<SomeRows, OperatorError> {
        let values = &input.columns[self.argument];
        let nulls = values.logical_nulls();
        let counts = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let encoded = encode(std::slice::from_ref(values), values.len())?;
        let mut effective = SomeRows::default();
        let mut key = Vec::new();
        for row in (0..values.len()).filter(|row| counts(*row)) {
            key.clear();
            key.extend_from_slice(input.keys.key(row));
            key.extend_from_slice(encoded.key(row));
            let table = &mut self.counts.table;
            let slot = table.slot(hash_within(input.hashes[row], &key), &key)?;
            let (chunk, offset) = table.write_one(slot);
            let StateColumn::I64(times, valid) = &mut chunk.columns[0] else {
                return StateSnafu { table: DISTINCT }.fail();
            };
            let (sign, was) = (input.signs[row], times[offset]);
            times[offset] = was + sign;
            valid[offset] = true;
            if was + sign == 0 {
                self.gone.push(slot);
            }
            if (was > 0) != (was + sign > 0) {
                effective.push(row, input.slots[row], sign);
            }
        }
        Ok(effective)
    }
}

impl GroupAggregate {
    pub(super) fn tables(&self) -> impl Iterator<Item = &StateTable> {
        let distinct = self.distinct.iter().map(|distinct| &distinct.counts);
        let changing = self.changing.iter().map(|changing| &changing.values);
        std::iter::once(&self.groups).chain(distinct).chain(changing).map(|kept| &kept.table)
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut StateTable> {
        let distinct = self.distinct.iter_mut().map(|distinct| &mut distinct.counts);
        let changing = self.changing.iter_mut().map(|changing| &mut changing.values);
        std::iter::once(&mut self.groups).chain(distinct).chain(changing).map(|kept| &mut kept.table)
    }

    fn kept(&mut self, table: &str, namespace: i64) -> Option<&mut Kept> {
        match table {
            GROUPS => Some(&mut self.groups),
            DISTINCT => {
                let mut all = self.distinct.iter_mut();
                all.find(|distinct| distinct.accumulator as i64 == namespace)
                    .map(|distinct| &mut distinct.counts)
            }
            VALUES => {
                let mut all = self.changing.iter_mut();
                all.find(|changing| changing.accumulator as i64 == namespace)
                    .map(|changing| &mut changing.values)
            }
            _ => None,
        }
    }
}

impl Operator for GroupAggregate {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let input = self.prepare(&batch)?;
        let mut touched = input.slots.clone();
        touched.sort_unstable();
        touched.dedup();
        let before = self.groups.table.gather(&touched);
        self.add(&input, &touched)?;
        let after = self.groups.table.gather(&touched);
        self.emit(&before, &after, out)?;
        self.forget(&touched, &after)
    }

    fn snapshot(&mut self, is_full: bool) -> Result<OperatorSnapshot, OperatorError> {
        let mut tables = vec![self.groups.snapshot(GROUPS, 0, is_full)?];
        for distinct in &mut self.distinct {
            tables.push(distinct.counts.snapshot(DISTINCT, distinct.accumulator as i64, is_full)?);
        }
        for changing in &mut self.changing {
            tables.push(changing.values.snapshot(VALUES, changing.accumulator as i64, is_full)?);
        }
        Ok(OperatorSnapshot { tables, ..Default::default() })
    }

    fn restore(&mut self, table: &str, namespace: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        let kept = self.kept(table, namespace).context(StateSnafu { table })?;
        kept.restore(&row).map_err(in_table(table))
    }

    fn attach(
        &mut self,
        table: &str,
        namespace: i64,
        rows: AwayRows,
        removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        let kept = self.kept(table, namespace).context(StateSnafu { table })?;
        Ok(kept.attach(rows, removed))
    }

    fn roll_back(&mut self, table: &str, namespace: i64, image: &TableImage) -> Result<(), OperatorError> {
        self.kept(table, namespace).and_then(|kept| kept.roll_back(image)).context(StateSnafu { table })
    }

    fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<(), OperatorError> {
        // Each table gives as much of what is asked for as it has of what there is.
        let all = self.memory_bytes().max(1) as u128;
        for table in self.tables_mut() {
            let part = bytes as u128 * table.memory_len() as u128 / all;
            table.spill(part as usize, disk)?;
        }
        Ok(())
    }

    fn warm_up(&mut self, bytes: usize) -> Result<(), OperatorError> {
        self.tables_mut().try_for_each(|table| Ok(table.warm_up(bytes)?))
    }

    fn memory_bytes(&self) -> usize {
        self.tables().map(StateTable::memory_len).sum()
    }

    fn figures(&self) -> OperatorFigures {
        let state_bytes: usize = self.tables().map(StateTable::byte_len).sum();
        OperatorFigures { late_rows: 0, state_bytes: state_bytes as u64 }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use millrace_sql::plan::{AggregateFunction, DataType, Field, TypeKind};

    use super::super::testing::Given;
    use super::*;

    fn plan() -> Plan {
        let bigint = || Some(DataType::simple(TypeKind::BigInt));
        let aggregate = |function: AggregateFunction, is_distinct| Aggregate {
            function: function.into(),
            argument: Some(1),
            argument_type: bigint(),
            result_type: bigint(),
            is_distinct,
            ..Default::default()
        };
        Plan {
            keys: vec![0],
            aggregates: vec![
                aggregate(AggregateFunction::Sum, false),
                aggregate(AggregateFunction::Count, true),
            ],
            key_fields: vec![Field::new("k", DataType::simple(TypeKind::String))],
            takes_states: false,
        }
    }

    fn rows(rows: &[(RowKind, &str, Option<i64>)]) -> Batch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, key, _)| *key)));
        let values: ArrayRef = Arc::new(rows.iter().map(|(_, _, value)| *value).collect::<Int64Array>());
        let records =
            RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("v", values, true)]).unwrap();
        Batch { records, kinds: Some(rows.iter().map(|(kind, ..)| *kind).collect()), hashes: None }
    }

    /// A value that comes and goes twice in a batch is the last one of its chunk.
    #[test]
    fn a_slot_that_is_given_up_twice_is_given_up_once() {
        let mut table = StateTable::new([StateType::I64].into());
        let slots: Vec<u32> =
            (0..5_000_u64).map(|key| table.slot(key, &key.to_be_bytes()).unwrap()).collect();
        table.remove(&slots[..4_095]);

        table.remove(&[slots[4_095], slots[4_095]]);

        assert_eq!(table.len(), 904);
    }

    #[test]
    fn changes_are_taken_back_and_given_anew_once_a_batch() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let mut operator = GroupAggregate::new(&plan()).unwrap();
        type Step<'a> = (&'a [(RowKind, &'a str, Option<i64>)], &'a [(RowKind, &'a str)]);
        let steps: &[Step<'_>] = &[
            (
                &[(Insert, "a", Some(1)), (Insert, "a", Some(1)), (Insert, "b", None)],
                &[(Insert, "a,2,1"), (Insert, "b,,0")],
            ),
            (&[(Insert, "a", Some(5))], &[(UpdateBefore, "a,2,1"), (UpdateAfter, "a,7,2")]),
            // Nothing has changed in the end.
            (&[(UpdateBefore, "a", Some(1)), (UpdateAfter, "a", Some(1))], &[]),
            // The second of two equal values stays.
            (&[(Delete, "a", Some(1))], &[(UpdateBefore, "a,7,2"), (UpdateAfter, "a,6,2")]),
            (&[(Delete, "a", Some(1)), (Delete, "a", Some(5))], &[(Delete, "a,6,2")]),
            (
                &[(Delete, "b", None), (Insert, "b", Some(3))],
                &[(UpdateBefore, "b,,0"), (UpdateAfter, "b,3,1")],
            ),
            (
                &[(UpdateBefore, "b", Some(3)), (UpdateAfter, "b", None)],
                &[(UpdateBefore, "b,3,1"), (UpdateAfter, "b,,0")],
            ),
            (&[(Delete, "b", None)], &[(Delete, "b,,0")]),
        ];
        for (given, expected) in steps {
            let mut out = Given::default();
            operator.process(rows(given), &mut out).unwrap();

            let expected: Vec<(RowKind, String)> =
                expected.iter().map(|(kind, row)| (*kind, (*row).to_owned())).collect();
            assert_eq!(out.0, expected, "{given:?}");
        }
        assert!(operator.groups.table.is_empty(), "a key without rows has no state");
        assert!(operator.distinct[0].counts.table.is_empty(), "nor have its values");
    }

    #[test]
    fn distinct_values_are_in_the_key_group_of_their_key() {
        let all = crate::model::MaxParallelism::new(32_768).unwrap();
        for key in [&b"a"[..], b"some key"] {
            let hash = hash_of(key);
            let within = [&b"1"[..], b"2"].map(|value| hash_within(hash, value));
            assert_ne!(within[0], within[1]);
            assert!(within.iter().all(|hash_of_value| all.group_of(*hash_of_value) == all.group_of(hash)));
        }
    }

    #[test]
    fn results_are_read_by_column() {
        let mut operator = GroupAggregate::new(&plan()).unwrap();
        let mut out = Given::default();
        operator.process(rows(&[(RowKind::Insert, "a", Some(1))]), &mut out).unwrap();
        let results = operator.results(&operator.groups.table.gather(&[0])).unwrap();
        assert_eq!(results[1].as_primitive::<Int64Type>().value(0), 1);
    }
}
