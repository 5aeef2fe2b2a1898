//! The local half of a running aggregate: rows become partial states per key before the exchange, so that a key of many rows costs the
//! one who owns it no more than others.
//!
//! It holds nothing across a barrier, nor while its input has nothing more: everything is emitted before. Where keys hardly recur, each
//! row passes as a state of its own.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use millrace_sql::plan::{Aggregate, GroupAggregate as Plan};
use snafu::ResultExt;

use super::accumulator::{Accumulator, Rows, prepare};
use super::recurrence::Recurrence;
use super::{Collector, ComputeSnafu, Operator, OperatorError};
use crate::model::Batch;
use crate::model::key_encoding::{decode, encode};
use crate::model::key_group::hash_of;
use crate::state::{StateTable, StateType};

/// Rows that are added up before what came of them is emitted, at most: some milliseconds of a busy source.
const ROWS_MAX: usize = 64 * 1024;

/// More keys in ten rows than these cost more than they save: a hundred thousand keys at random do, which are seven in ten.
const KEYS_IN_TEN_MAX: usize = 3;

/// Adds rows up.
pub struct LocalGroupAggregate {
    plan: Plan,
    keys: Vec<usize>,
    /// The first counts rows.
    accumulators: Vec<Accumulator>,
    layout: Arc<[StateType]>,
    table: StateTable,
    recurrence: Recurrence,
    output: SchemaRef,
}

impl LocalGroupAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        let all: Vec<Aggregate> =
            std::iter::once(Aggregate::count_of_rows()).chain(plan.aggregates.iter().cloned()).collect();
        let (accumulators, layout) = prepare(&all)?;
        Ok(LocalGroupAggregate {
            keys: plan.keys.iter().map(|key| *key as usize).collect(),
            accumulators,
            table: StateTable::new(Arc::clone(&layout)),
            layout,
            recurrence: Recurrence::default(),
            output: plan.partial_schema().to_arrow(),
            plan: plan.clone(),
        })
    }

    fn add_up(&mut self, batch: &Batch, key_columns: &[ArrayRef]) -> Result<(), OperatorError> {
        let keys = encode(key_columns, batch.rows())?;
        let table = &mut self.table;
        let slots = (0..batch.rows()).map(|row| table.slot(hash_of(keys.key(row)), keys.key(row)));
        let slots = slots.collect::<Result<Vec<u32>, _>>()?;
        let rows: Vec<u32> = (0..batch.rows() as u32).collect();
        let sign = |kind: &crate::model::RowKind| if kind.is_retraction() { -1 } else { 1 };
        let signs: Option<Vec<i64>> = batch.kinds.as_ref().map(|kinds| kinds.iter().map(sign).collect());
        let mut chunks = self.table.write(&slots);
        for accumulator in &self.accumulators {
            let rows = Rows { rows: &rows, slots: &slots, signs: signs.as_deref() };
            accumulator.add(batch.records.columns(), rows, &mut chunks)?;
        }
        Ok(())
    }

    /// Each row as a state of its own.
    fn pass(
        &self,
        batch: &Batch,
        key_columns: Vec<ArrayRef>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let mut columns = key_columns;
        for accumulator in &self.accumulators {
            columns.extend(accumulator.states_of_rows(batch.records.columns(), batch.rows())?);
        }
        let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
        out.batch(Batch { records, kinds: None, hashes: None })
    }

    fn emit(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.recurrence.given_away();
        if self.table.is_empty() {
            return Ok(());
        }
        let table = std::mem::replace(&mut self.table, StateTable::new(Arc::clone(&self.layout)));
        for part in table.parts() {
            let chunk = part.load()?;
            let keys = (0..chunk.len()).map(|slot| chunk.keys.key(slot));
            let mut columns = decode(&self.plan.key_fields, keys)?;
            for accumulator in &self.accumulators {
                columns.extend(accumulator.states(&chunk)?);
            }
            let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
            out.batch(Batch { records, kinds: None, hashes: Some(chunk.hashes.as_slice().into()) })?;
        }
        Ok(())
    }
}

impl Operator for LocalGroupAggregate {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let columns = batch.records.columns();
        let key_columns: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(&columns[*key])).collect();
        if !self.recurrence.is_looked_up(batch.rows()) && batch.kinds.is_none() {
            // What was added up before comes first: who asks for the last of values minds the order.
            self.emit(out)?;
            return self.pass(&batch, key_columns, out);
        }
        self.add_up(&batch, &key_columns)?;
        if self.recurrence.rows() >= ROWS_MAX {
            self.recurrence.judge(self.table.len(), KEYS_IN_TEN_MAX);
            self.emit(out)?;
        }
        Ok(())
    }

    fn quiet(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.emit(out)
    }

    fn flush(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.emit(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{BooleanArray, Int64Array, StringArray};
    use millrace_sql::plan::{AggregateFunction, DataType, Field, TypeKind};

    use super::super::group_aggregate::GroupAggregate;
    use super::super::recurrence::PASSED_ROWS;
    use super::super::testing::Given;
    use super::*;
    use crate::model::RowKind;

    fn plan(aggregates: &[(AggregateFunction, Option<u32>)]) -> Plan {
        let of = |argument| match argument {
            2 => TypeKind::String,
            _ => TypeKind::BigInt,
        };
        let aggregate = |(function, argument): &(AggregateFunction, Option<u32>)| Aggregate {
            function: (*function).into(),
            argument: *argument,
            argument_type: argument.map(|argument| DataType::simple(of(argument))),
            result_type: Some(DataType::simple(argument.map_or(TypeKind::BigInt, of))),
            filter: (*function == AggregateFunction::Min).then_some(3),
            ..Default::default()
        };
        Plan {
            keys: vec![0],
            aggregates: aggregates.iter().map(aggregate).collect(),
            key_fields: vec![Field::new("k", DataType::simple(TypeKind::BigInt))],
            takes_states: false,
        }
    }

    /// Rows with these keys: k, a number or none, a text, and whether the number is even.
    fn batch(keys: impl Iterator<Item = i64>, kinds: Option<Vec<RowKind>>) -> Batch {
        let keys: Vec<i64> = keys.collect();
        let number = |row: usize| (!row.is_multiple_of(5)).then_some(keys[row] * 3 % 1_000 + row as i64 % 7);
        let numbers: Int64Array = (0..keys.len()).map(number).collect();
        let texts: StringArray = (0..keys.len()).map(|row| Some(format!("t{}", row % 11))).collect();
        let even: BooleanArray = (0..keys.len()).map(|row| Some(row.is_multiple_of(2))).collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("k", Arc::new(Int64Array::from(keys))),
            ("v", Arc::new(numbers)),
            ("s", Arc::new(texts)),
            ("e", Arc::new(even)),
        ];
        Batch { kinds: kinds.map(Into::into), ..Batch::inserts(RecordBatch::try_from_iter(columns).unwrap()) }
    }

    /// Hands what it gets to the other half, and counts it.
    struct Other<'a> {
        half: &'a mut GroupAggregate,
        given: &'a mut Given,
        rows: usize,
    }

    impl Collector for Other<'_> {
        fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
            self.rows += batch.rows();
            self.half.process(batch, self.given)
        }
    }

    /// What is left of changes.
    fn table(given: Given) -> BTreeMap<String, String> {
        let mut rows = BTreeMap::new();
        given.apply_to(&mut rows);
        rows
    }

    /// Results of both ways, and how many rows came to the one who owns the keys.
    fn both(plan: &Plan, batches: Vec<Batch>) -> (BTreeMap<String, String>, BTreeMap<String, String>, usize) {
        let mut straight = GroupAggregate::new(plan).unwrap();
        let mut half = LocalGroupAggregate::new(plan).unwrap();
        let of_states = Plan { takes_states: true, ..plan.clone() };
        let mut other = GroupAggregate::new(&of_states).unwrap();
        let (mut of_straight, mut of_halves, mut rows) = (Given::default(), Given::default(), 0);
        for batch in batches {
            straight.process(batch.clone(), &mut of_straight).unwrap();
            let mut out = Other { half: &mut other, given: &mut of_halves, rows: 0 };
            half.process(batch, &mut out).unwrap();
            rows += out.rows;
        }
        let mut out = Other { half: &mut other, given: &mut of_halves, rows: 0 };
        half.quiet(&mut out).unwrap();
        rows += out.rows;
        (table(of_straight), table(of_halves), rows)
    }

    #[test]
    fn keys_that_recur_are_added_up_and_others_pass() {
        use AggregateFunction::{Avg, Count, FirstValue, LastValue, Max, Min, Sum};
        let plan = plan(&[
            (Count, None),
            (Count, Some(1)),
            (Sum, Some(1)),
            (Avg, Some(1)),
            (Min, Some(1)),
            (Max, Some(2)),
            (FirstValue, Some(1)),
            (LastValue, Some(2)),
        ]);
        let recurring = (0..20).map(|_| batch((0..4_096).map(|row| row % 7), None));
        let (straight, halves, rows) = both(&plan, recurring.collect());
        assert_eq!((straight.len(), rows), (7, 14), "they are given away once they are many, and in the end");
        assert_eq!(halves, straight);

        let many = ROWS_MAX as i64 / 4_096;
        let fresh = (0..many + 2).map(|n| batch((n * 4_096..).take(4_096), None));
        let again = [batch((0..4_096).map(|row| row % 7), None)];
        let (straight, halves, rows) = both(&plan, fresh.chain(again).collect());
        assert_eq!(rows, (many as usize + 3) * 4_096, "each passed, also where keys recur for a while");
        assert!(rows < PASSED_ROWS);
        assert_eq!(halves, straight);
    }

    #[test]
    fn what_is_taken_back_is_added_up_too() {
        let plan = plan(&[(AggregateFunction::Count, Some(1)), (AggregateFunction::Sum, Some(1))]);
        let kinds = |kind| Some(vec![kind; 1_000]);
        let some = |from: i64| (from..from + 1_000).map(|row| row % 300);
        let batches = vec![
            batch(some(0), kinds(RowKind::Insert)),
            batch(some(0), kinds(RowKind::UpdateBefore)),
            batch(some(100), kinds(RowKind::UpdateAfter)),
            batch((0..10).map(|_| 299), None),
        ];
        let (straight, halves, _) = both(&plan, batches.clone());
        assert_eq!(halves, straight);
        assert_eq!(halves.len(), 300);

        let (straight, halves, _) = both(&plan, batches[..2].to_vec());
        assert_eq!((straight.len(), halves.len()), (0, 0), "nothing is left");
    }
}
