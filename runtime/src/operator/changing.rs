//! Aggregates that keep one of their values, over rows that are taken back later: all values are kept, so that the next one is known
//! when the one that is shown goes.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use millrace_sql::plan::{Aggregate, AggregateFunction, Field};
use snafu::OptionExt;

use super::accumulator::Rows;
use super::kept::Kept;
use super::{OperatorError, PlanSnafu};
use crate::model::key_encoding::{EncodedKeys, decode, encode};
use crate::state::StateTable;
use crate::state::ordered::{Ordered, layout};

/// Name of the state table. Its namespaces are numbers of aggregates.
pub const VALUES: &str = "values";

/// In front of entries in the order of rows: a number of eight bytes and the value.
const BY_ORDER: u8 = 0;

/// In front of entries in the order of values: the value and the number of its row.
const BY_VALUE: u8 = 1;

const ORDER_BYTES: usize = 8;

/// All that is in order.
const ALL: Range<&[u8]> = &[]..&[0xff];

/// A value that is not there, as a key.
const NULL: &[u8] = &[0];

/// The values of one aggregate, per key.
pub struct ChangingValues {
    pub accumulator: usize,
    pub values: Kept,
    function: AggregateFunction,
    argument: usize,
    field: Field,
}

/// The keys of a batch's rows, by which state is found.
pub struct RowKeys<'a> {
    pub keys: &'a EncodedKeys,
    pub hashes: &'a [u64],
}

impl ChangingValues {
    /// The values of an aggregate, if it needs them.
    pub fn new(number: usize, aggregate: &Aggregate) -> Result<Option<Self>, OperatorError> {
        let function = aggregate.function();
        if !aggregate.is_changing || function == AggregateFunction::ListAgg {
            return Ok(None);
        }
        let argument =
            aggregate.argument.context(PlanSnafu { message: "an aggregate without an argument" })?;
        Ok(Some(ChangingValues {
            accumulator: number,
            values: Kept::new(StateTable::new(layout())),
            function,
            argument: argument as usize,
            field: Field::new("value", aggregate.argument_type.clone().unwrap_or_default()),
        }))
    }

    /// Adds and takes away the values of rows; returns the slots that they belong to, each once, and what each shows now.
    pub fn change(
        &mut self,
        columns: &[ArrayRef],
        keys: &RowKeys<'_>,
        rows: Rows<'_>,
    ) -> Result<(Vec<u32>, ArrayRef), OperatorError> {
        let values = &columns[self.argument];
        let nulls = values.logical_nulls();
        let encoded = encode(std::slice::from_ref(values), values.len())?;
        let mut touched = Vec::new();
        for (row, slot, sign) in rows.each() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            touched.push((slot, row));
            let table = &mut self.values.table;
            let mut of_key = Ordered::new(table, keys.hashes[row], keys.keys.key(row));
            match self.function {
                AggregateFunction::Min | AggregateFunction::Max => of_key.add(encoded.key(row), sign)?,
                _ if sign > 0 => put_last(&mut of_key, encoded.key(row))?,
                _ => take_first(&mut of_key, encoded.key(row))?,
            }
        }
        touched.sort_unstable();
        touched.dedup_by_key(|(slot, _)| *slot);
        let shown = touched.iter().map(|(_, row)| {
            let mut of_key = Ordered::new(&mut self.values.table, keys.hashes[*row], keys.keys.key(*row));
            shown(self.function, &mut of_key)
        });
        let shown = shown.collect::<Result<Vec<_>, OperatorError>>()?;
        self.values.table.compact()?;
        let shown = shown.iter().map(|value| value.as_deref().unwrap_or(NULL));
        let shown = decode(std::slice::from_ref(&self.field), shown)?;
        let shown = shown.into_iter().next().context(PlanSnafu { message: "a value without a column" })?;
        Ok((touched.into_iter().map(|(slot, _)| slot).collect(), shown))
    }
}

/// What an aggregate shows of the values of a key.
fn shown(function: AggregateFunction, of_key: &mut Ordered<'_>) -> Result<Option<Vec<u8>>, OperatorError> {
    let by_order = &[BY_ORDER][..]..&[BY_VALUE][..];
    let value = |entry: Vec<u8>| entry.get(1 + ORDER_BYTES..).map(<[u8]>::to_vec);
    Ok(match function {
        AggregateFunction::Min => of_key.first(ALL)?,
        AggregateFunction::Max => of_key.last(ALL)?,
        AggregateFunction::FirstValue => of_key.first(by_order)?.and_then(value),
        AggregateFunction::LastValue => of_key.last(by_order)?.and_then(value),
        _ => return PlanSnafu { message: "an aggregate whose values have no order" }.fail(),
    })
}

/// Puts a value behind all others.
fn put_last(of_key: &mut Ordered<'_>, value: &[u8]) -> Result<(), OperatorError> {
    let last = of_key.last(&[BY_ORDER]..&[BY_VALUE])?;
    let last = last.and_then(|entry| entry.get(1..)?.first_chunk().copied());
    let order = last.map_or(0, |last| u64::from_be_bytes(last) + 1).to_be_bytes();
    of_key.add(&[&[BY_ORDER], &order[..], value].concat(), 1)?;
    Ok(of_key.add(&[&[BY_VALUE], value, &order[..]].concat(), 1)?)
}

/// Takes the first of equal values away.
fn take_first(of_key: &mut Ordered<'_>, value: &[u8]) -> Result<(), OperatorError> {
    let from = [&[BY_VALUE], value].concat();
    let to = [&from[..], &[0xff; ORDER_BYTES]].concat();
    let Some(entry) = of_key.first(&from[..]..&to[..])? else { return Ok(()) };
    let order = &entry[from.len()..];
    of_key.add(&[&[BY_ORDER], order, value].concat(), -1)?;
    Ok(of_key.add(&entry, -1)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use millrace_sql::plan::{DataType, GroupAggregate as Plan, TypeKind};
    use proptest::prelude::*;

    use super::super::Operator;
    use super::super::group_aggregate::GroupAggregate;
    use super::super::testing::Given;
    use super::*;
    use crate::model::{Batch, RowKind};

    fn plan() -> Plan {
        use AggregateFunction::{FirstValue, LastValue, ListAgg, Max, Min};
        let aggregate = |(function, argument, of): (AggregateFunction, u32, TypeKind)| Aggregate {
            function: function.into(),
            argument: Some(argument),
            argument_type: Some(DataType::simple(of)),
            result_type: Some(DataType::simple(of)),
            separator: "+".to_owned(),
            is_changing: true,
            ..Default::default()
        };
        let (bigint, string) = (TypeKind::BigInt, TypeKind::String);
        let calls = [
            (Min, 1, bigint),
            (Max, 1, bigint),
            (FirstValue, 1, bigint),
            (LastValue, 2, string),
            (Max, 2, string),
            (ListAgg, 2, string),
        ];
        Plan {
            keys: vec![0],
            aggregates: calls.map(aggregate).to_vec(),
            key_fields: vec![Field::new("k", DataType::simple(TypeKind::String))],
            takes_states: false,
        }
    }

    type Row = (String, Option<i64>);

    fn batch(rows: &[(RowKind, Row)]) -> Batch {
        let keys = StringArray::from_iter_values(rows.iter().map(|(_, (key, _))| key));
        let numbers: Int64Array = rows.iter().map(|(_, (_, value))| *value).collect();
        let texts: StringArray =
            rows.iter().map(|(_, (_, value))| value.map(|value| format!("<{value}>"))).collect();
        let columns: [(&str, ArrayRef, bool); 3] =
            [("k", Arc::new(keys), false), ("v", Arc::new(numbers), true), ("s", Arc::new(texts), true)];
        let records = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        Batch { records, kinds: Some(rows.iter().map(|(kind, _)| *kind).collect()), hashes: None }
    }

    /// What is shown for a key whose rows have these values, in the order in which they came.
    fn expected(key: &str, rows: &[Option<i64>]) -> String {
        let numbers: Vec<i64> = rows.iter().flatten().copied().collect();
        let texts: Vec<String> = numbers.iter().map(|number| format!("<{number}>")).collect();
        let number = |number: Option<&i64>| number.map(i64::to_string).unwrap_or_default();
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        format!(
            "{key},{},{},{},{},{},{}",
            number(numbers.iter().min()),
            number(numbers.iter().max()),
            number(numbers.first()),
            text(texts.last()),
            text(texts.iter().max()),
            texts.join("+")
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Rows of three keys come and go, some without a value and some several times, until none is left.
        #[test]
        fn what_is_shown_is_that_of_the_rows_that_are_there(
            steps in prop::collection::vec((0_usize..3, prop::option::weighted(0.9, 0_i64..300), 0_usize..1000, 0_u8..9), 1..900),
            length in 1_usize..40,
        ) {
            let mut operator = GroupAggregate::new(&plan()).unwrap();
            let mut there: BTreeMap<String, Vec<Option<i64>>> = BTreeMap::new();
            let mut table: BTreeMap<String, String> = BTreeMap::new();
            let mut changes: Vec<Vec<(RowKind, Row)>> = Vec::new();
            // Few come at first and more go in the end.
            let steps: Vec<_> = steps.iter().enumerate().map(|(n, step)| (*step, n * 2 > steps.len())).collect();
            let mut rows: BTreeMap<String, Vec<Option<i64>>> = BTreeMap::new();
            let mut flat = Vec::new();
            for ((key, value, which, dice), is_late) in steps {
                let key = ["a", "b", "c"][key].to_owned();
                let of_key = rows.entry(key.clone()).or_default();
                let goes = dice < if is_late { 6 } else { 3 };
                if goes && !of_key.is_empty() {
                    let value = of_key[which % of_key.len()];
                    let first = of_key.iter().position(|other| *other == value).unwrap();
                    of_key.remove(first);
                    flat.push((RowKind::Delete, (key, value)));
                } else {
                    of_key.push(value);
                    flat.push((RowKind::Insert, (key, value)));
                }
            }
            changes.extend(flat.chunks(length).map(<[_]>::to_vec));
            let rest = rows.iter().flat_map(|(key, values)| values.iter().map(|value| (RowKind::Delete, (key.clone(), *value))));
            changes.push(rest.collect());
            for changes in changes {
                for (kind, (key, value)) in &changes {
                    let of_key = there.entry(key.clone()).or_default();
                    match kind {
                        RowKind::Insert => of_key.push(*value),
                        _ => { of_key.remove(of_key.iter().position(|other| other == value).unwrap()); }
                    }
                }
                let mut out = Given::default();
                operator.process(batch(&changes), &mut out).unwrap();
                out.apply_to(&mut table);
                let of_rows = there.iter().filter(|(_, values)| !values.is_empty());
                let of_rows = of_rows.map(|(key, values)| (key.clone(), expected(key, values)));
                prop_assert_eq!(&table, &of_rows.collect::<BTreeMap<_, _>>());
            }
            prop_assert!(table.is_empty());
            prop_assert!(operator.tables().all(StateTable::is_empty), "a key without rows has no state");
        }
    }
}
