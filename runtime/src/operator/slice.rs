//! State of a slice of event time: aggregates per key, and the distinct values that some of them are about.
//!
//! Distinct values come one a row, beside the partial states of all other aggregates, and are kept in a table of their own per
//! column, under the hash of the key that they belong to, so that they move with it. An aggregate of distinct values takes a
//! value when it is seen first; slices are merged by doing that again.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use millrace_sql::plan::{Aggregate, Field, WindowAggregate as Plan};
use snafu::OptionExt;

use super::accumulator::{Accumulator, Rows, prepare};
use super::kept::Kept;
use super::{OperatorError, OperatorTable, PlanSnafu, StateSnafu, in_table};
use crate::model::key_encoding::{EncodedKeys, decode, encode};
use crate::model::key_group::{hash_of, hash_within};
use crate::state::{
    AwayRows, BlockRow, Chunk, ColdChunk, LocalDisk, Part, StateError, StateTable, StateType, TableImage,
};

/// Name of the table of aggregates; namespaces are slice ends.
const SLICES: &str = "slices";

/// Names of the tables of distinct values begin so; the number of the column follows.
const DISTINCT: &str = "distinct";

/// What all slices of an operator have in common.
pub struct Shape {
    key_fields: Vec<Field>,
    /// Those that merge partial states, then those of distinct values.
    accumulators: Vec<Accumulator>,
    /// How many merge partial states.
    plain: usize,
    /// Which accumulator has the result of each aggregate of the plan.
    order: Vec<usize>,
    distinct: Vec<DistinctColumn>,
    layout: Arc<[StateType]>,
}

struct DistinctColumn {
    field: Field,
    /// Position among the columns of partial states.
    position: usize,
    accumulators: Vec<usize>,
}

/// Aggregates per key over one slice, or over several that were merged. A copy shares its chunks until either is written.
#[derive(Clone)]
pub struct Slice {
    groups: Kept,
    /// Per distinct column: keys, each followed by a value.
    values: Vec<Kept>,
}

/// Rows of partial states that fall into one slice.
pub struct Partial<'a> {
    pub columns: &'a [ArrayRef],
    pub keys: &'a EncodedKeys,
    /// Hashes of the keys.
    pub hashes: &'a [u64],
    /// Of [`Shape::distinct_values`].
    pub values: &'a [EncodedKeys],
    /// Which rows.
    pub rows: &'a [u32],
}

impl Shape {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        // The end of the slice and the keys come first.
        let first = 1 + plan.key_fields.len();
        let (plain, of_distinct): (Vec<_>, Vec<_>) =
            plan.aggregates.iter().enumerate().partition(|(_, aggregate)| !aggregate.is_distinct);
        let mut all: Vec<Aggregate> = plain.iter().map(|(_, aggregate)| (*aggregate).clone()).collect();
        let mut order = vec![0; plan.aggregates.len()];
        let mut distinct: Vec<DistinctColumn> = plan
            .distinct_fields
            .iter()
            .enumerate()
            .map(|(n, field)| DistinctColumn {
                field: field.clone(),
                position: first + n,
                accumulators: vec![],
            })
            .collect();
        for (accumulator, (number, _)) in plain.iter().enumerate() {
            order[*number] = accumulator;
        }
        for (number, aggregate) in of_distinct {
            let column = aggregate.argument.and_then(|argument| distinct.get_mut(argument as usize));
            let column = column.context(PlanSnafu { message: "DISTINCT over a column that is not there" })?;
            column.accumulators.push(all.len());
            order[number] = all.len();
            all.push(Aggregate { argument: Some(column.position as u32), ..aggregate.clone() });
        }
        let (accumulators, mut layout) = prepare(&all)?;
        if layout.is_empty() {
            // A row without columns says in a segment that its key was removed.
            layout = [StateType::I64].into();
        }
        let key_fields = plan.key_fields.clone();
        Ok(Shape { key_fields, accumulators, plain: plain.len(), order, distinct, layout })
    }

    /// A slice without rows.
    pub fn slice(&self) -> Slice {
        let values = || Kept::new(StateTable::new([StateType::I64].into()));
        Slice {
            groups: Kept::new(StateTable::new(Arc::clone(&self.layout))),
            values: self.distinct.iter().map(|_| values()).collect(),
        }
    }

    /// Keys of a chunk.
    pub fn keys(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(decode(&self.key_fields, (0..chunk.len()).map(|slot| chunk.keys.key(slot)))?)
    }

    /// Results of a chunk, in the order of the plan.
    pub fn results(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>, OperatorError> {
        self.order.iter().map(|accumulator| self.accumulators[*accumulator].results(chunk)).collect()
    }

    /// The encoded values of each column of distinct values, of a batch of partial states.
    pub fn distinct_values(&self, columns: &[ArrayRef]) -> Result<Vec<EncodedKeys>, OperatorError> {
        let encoded = |column: &DistinctColumn| {
            let values = &columns[column.position];
            Ok(encode(std::slice::from_ref(values), values.len())?)
        };
        self.distinct.iter().map(encoded).collect()
    }

    /// Merges rows into a slice.
    pub fn add(&self, slice: &mut Slice, partial: &Partial<'_>) -> Result<(), OperatorError> {
        let Partial { columns, keys, hashes, values: encoded_values, rows } = *partial;
        let states = &columns[1 + self.key_fields.len() + self.distinct.len()..];
        let table = &mut slice.groups.table;
        let slots = rows.iter().map(|row| table.slot(hashes[*row as usize], keys.key(*row as usize)));
        let slots: Vec<u32> = slots.collect::<Result<_, _>>()?;
        let mut chunks = table.write(&slots);
        for accumulator in &self.accumulators[..self.plain] {
            accumulator.merge(states, rows, &slots, &mut chunks)?;
        }
        for ((column, encoded), kept) in self.distinct.iter().zip(encoded_values).zip(&mut slice.values) {
            let nulls = columns[column.position].logical_nulls();
            let (mut first_rows, mut first_slots, mut new) = (Vec::new(), Vec::new(), Vec::new());
            let mut key = Vec::new();
            for (row, slot) in rows.iter().zip(&slots) {
                let index = *row as usize;
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(index)) {
                    continue;
                }
                key.clear();
                key.extend_from_slice(keys.key(index));
                key.extend_from_slice(encoded.key(index));
                let before = kept.table.len();
                let value = kept.table.slot(hash_within(hashes[index], &key), &key)?;
                if kept.table.len() > before {
                    new.push(value);
                    first_rows.push(*row);
                    first_slots.push(*slot);
                }
            }
            kept.table.write(&new);
            let first = Rows { rows: &first_rows, slots: &first_slots, signs: None };
            for accumulator in &column.accumulators {
                self.accumulators[*accumulator].add(columns, first, &mut chunks)?;
            }
        }
        Ok(())
    }

    /// Merges all of a slice into another.
    pub fn absorb(&self, into: &mut Slice, from: &Slice) -> Result<(), OperatorError> {
        let table = &mut into.groups.table;
        for part in from.groups.table.parts() {
            let chunk = part.load()?;
            let rows: Vec<u32> = (0..chunk.len() as u32).collect();
            let slots = (0..chunk.len()).map(|slot| table.slot(chunk.hashes[slot], chunk.keys.key(slot)));
            let slots: Vec<u32> = slots.collect::<Result<_, _>>()?;
            let mut states = Vec::new();
            for accumulator in &self.accumulators[..self.plain] {
                states.extend(accumulator.states(&chunk)?);
            }
            let mut chunks = table.write(&slots);
            for accumulator in &self.accumulators[..self.plain] {
                accumulator.merge(&states, &rows, &slots, &mut chunks)?;
            }
        }
        for (number, column) in self.distinct.iter().enumerate() {
            let new = add_new(&mut into.values[number].table, &from.values[number].table)?;
            self.take_values(&mut into.groups.table, column, &new)?;
        }
        Ok(())
    }

    /// Lets the aggregates of a column take values, which stand behind their keys.
    fn take_values(
        &self,
        groups: &mut StateTable,
        column: &DistinctColumn,
        new: &EncodedKeys,
    ) -> Result<(), OperatorError> {
        let mut fields = self.key_fields.clone();
        fields.push(column.field.clone());
        let mut columns = decode(&fields, (0..new.len()).map(|row| new.key(row)))?;
        let Some(values) = columns.pop() else { return Ok(()) };
        let keys = encode(&columns, new.len())?;
        let slots = (0..new.len()).map(|row| groups.slot(hash_of(keys.key(row)), keys.key(row)));
        let slots: Vec<u32> = slots.collect::<Result<_, _>>()?;
        let rows: Vec<u32> = (0..new.len() as u32).collect();
        // The accumulators look for the values at their position among partial states, and nowhere else.
        let columns = vec![values; column.position + 1];
        let mut chunks = groups.write(&slots);
        for accumulator in &column.accumulators {
            let all = Rows { rows: &rows, slots: &slots, signs: None };
            self.accumulators[*accumulator].add(&columns, all, &mut chunks)?;
        }
        Ok(())
    }
}

/// Adds all keys of a table to another; returns those that were not there.
fn add_new(into: &mut StateTable, from: &StateTable) -> Result<EncodedKeys, StateError> {
    let (mut new, mut slots) = (EncodedKeys::default(), Vec::new());
    for part in from.parts() {
        let chunk = part.load()?;
        for slot in 0..chunk.len() {
            let before = into.len();
            let added = into.slot(chunk.hashes[slot], chunk.keys.key(slot))?;
            if into.len() > before {
                new.push(chunk.keys.key(slot));
                slots.push(added);
            }
        }
    }
    into.write(&slots);
    Ok(new)
}

impl Slice {
    /// How many keys.
    pub fn len(&self) -> usize {
        self.groups.table.len()
    }

    /// Aggregates per key.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.groups.table.parts()
    }

    /// All tables at a barrier.
    pub fn snapshot(&mut self, end: i64, is_full: bool) -> Result<Vec<OperatorTable>, StateError> {
        let mut tables = vec![self.groups.snapshot(SLICES, end, is_full)?];
        for (number, values) in self.values.iter_mut().enumerate() {
            tables.push(values.snapshot(format!("{DISTINCT}{number}"), end, is_full)?);
        }
        Ok(tables)
    }

    /// Puts a row of a snapshot back.
    pub fn restore(&mut self, table: &str, row: &BlockRow<'_>) -> Result<(), OperatorError> {
        self.kept(table).context(StateSnafu { table })?.restore(row).map_err(in_table(table))
    }

    /// Puts rows of a snapshot back that are still to come.
    pub fn attach(
        &mut self,
        table: &str,
        rows: AwayRows,
        removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        Ok(self.kept(table).context(StateSnafu { table })?.attach(rows, removed))
    }

    /// Brings about so many bytes of each table into memory that are on the disk.
    pub fn warm_up(&mut self, bytes: usize) -> Result<(), StateError> {
        let mut tables = std::iter::once(&mut self.groups).chain(&mut self.values);
        tables.try_for_each(|kept| kept.table.warm_up(bytes))
    }

    /// Makes a table what it was.
    pub fn roll_back(&mut self, table: &str, image: &TableImage) -> Result<(), OperatorError> {
        self.kept(table).and_then(|kept| kept.roll_back(image)).context(StateSnafu { table })
    }

    fn kept(&mut self, table: &str) -> Option<&mut Kept> {
        match table {
            SLICES => Some(&mut self.groups),
            _ => self.values.get_mut(table.strip_prefix(DISTINCT)?.parse::<usize>().ok()?),
        }
    }

    fn tables(&self) -> impl Iterator<Item = &StateTable> {
        std::iter::once(&self.groups).chain(&self.values).map(|kept| &kept.table)
    }

    /// Puts about so many bytes on the disk; returns how many.
    pub fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<usize, StateError> {
        let mut given_up = 0;
        for kept in std::iter::once(&mut self.groups).chain(&mut self.values) {
            if given_up < bytes {
                given_up += kept.table.spill(bytes - given_up, disk)?;
            }
            // Keys that came back have left their old slots.
            kept.table.compact()?;
        }
        Ok(given_up)
    }

    /// Bytes of state, roughly.
    pub fn byte_len(&self) -> usize {
        self.tables().map(StateTable::byte_len).sum()
    }

    /// Bytes in memory, roughly.
    pub fn memory_len(&self) -> usize {
        self.tables().map(StateTable::memory_len).sum()
    }
}
