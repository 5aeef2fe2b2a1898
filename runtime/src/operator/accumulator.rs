//! Aggregate functions: how rows change their state, how states merge, what results from them.
//!
//! State layouts are those of `Aggregate::state_types` in the plan and never change for a function number. Integer
//! sums wrap as Java's do; all but COUNT ignore NULL and are NULL without a value.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, nullif};
use millrace_sql::plan::{Aggregate, AggregateFunction, DataType, TypeKind};
use snafu::ResultExt;

use super::{ComputeSnafu, OperatorError, PlanSnafu};
use crate::model::key_encoding::integers;
use crate::state::Chunk;
use crate::state::column::Values;
use crate::state::table::ChunksMut;
use crate::state::{StateColumn, StateType};

/// One aggregate call.
pub struct Accumulator {
    function: AggregateFunction,
    /// First state column.
    column: usize,
    /// A boolean column: only rows where it is true count.
    filter: Option<usize>,
    state_types: Vec<DataType>,
    argument: Option<usize>,
    argument_type: DataType,
    result_type: DataType,
    separator: String,
    /// Rows are taken back, and each text can be told from the others.
    is_list: bool,
}

/// Prepares all aggregates of an operator; returns them and the layout of their state table.
pub fn prepare(aggregates: &[Aggregate]) -> Result<(Vec<Accumulator>, Arc<[StateType]>), OperatorError> {
    prepare_behind(&[], aggregates)
}

/// Like [`prepare`], for a table that begins with columns of the operator's own.
pub fn prepare_behind(
    own: &[StateType],
    aggregates: &[Aggregate],
) -> Result<(Vec<Accumulator>, Arc<[StateType]>), OperatorError> {
    let mut layout = own.to_vec();
    let mut prepared = Vec::new();
    for aggregate in aggregates {
        let function = aggregate.function();
        if function == AggregateFunction::Unknown {
            return PlanSnafu { message: "an aggregate function of a newer release" }.fail();
        }
        let state_types = aggregate.state_types();
        prepared.push(Accumulator {
            function,
            column: layout.len(),
            filter: aggregate.filter.map(|filter| filter as usize),
            argument: aggregate.argument.map(|argument| argument as usize),
            argument_type: aggregate.argument_type.clone().unwrap_or_default(),
            result_type: aggregate.result_type.clone().unwrap_or_default(),
            separator: aggregate.separator.clone(),
            is_list: aggregate.is_changing && function == AggregateFunction::ListAgg,
            state_types: state_types.clone(),
        });
        layout.extend(state_types.iter().map(StateType::of));
    }
    Ok((prepared, layout.into()))
}

/// Some rows of a batch: row `rows[n]` belongs to slot `slots[n]`, and counts `signs[n]` times, or once.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub rows: &'a [u32],
    pub slots: &'a [u32],
    /// 1 for a row that comes, -1 for one that is taken back.
    pub signs: Option<&'a [i64]>,
}

impl Rows<'_> {
    /// Row, slot and sign of each.
    pub fn each(&self) -> impl Iterator<Item = (usize, u32, i64)> {
        let pairs = self.rows.iter().zip(self.slots).enumerate();
        pairs.map(|(n, (row, slot))| (*row as usize, *slot, self.signs.map_or(1, |signs| signs[n])))
    }
}

/// Rows that were chosen among others.
#[derive(Default)]
pub struct SomeRows {
    rows: Vec<u32>,
    slots: Vec<u32>,
    signs: Vec<i64>,
}

impl SomeRows {
    /// As rows to be added.
    pub fn view(&self) -> Rows<'_> {
        Rows { rows: &self.rows, slots: &self.slots, signs: Some(&self.signs) }
    }

    /// Adds one.
    pub fn push(&mut self, row: usize, slot: u32, sign: i64) {
        self.rows.push(row as u32);
        self.slots.push(slot);
        self.signs.push(sign);
    }
}

impl FromIterator<(usize, u32, i64)> for SomeRows {
    fn from_iter<I: IntoIterator<Item = (usize, u32, i64)>>(rows: I) -> Self {
        let mut some = SomeRows::default();
        rows.into_iter().for_each(|(row, slot, sign)| some.push(row, slot, sign));
        some
    }
}

impl Accumulator {
    /// Adds rows. Those that keep one value do not mind what is taken back: it is kept apart, and [`Self::show`] tells of it.
    pub fn add(
        &self,
        columns: &[ArrayRef],
        rows: Rows<'_>,
        chunks: &mut ChunksMut<'_>,
    ) -> Result<(), OperatorError> {
        match self.counted(columns, rows) {
            Some(counted) => self.add_all(columns, counted.view(), chunks),
            None => self.add_all(columns, rows, chunks),
        }
    }

    /// The rows that its filter lets through, if it has one.
    pub fn counted(&self, columns: &[ArrayRef], rows: Rows<'_>) -> Option<SomeRows> {
        let filter = columns[self.filter?].as_boolean();
        let counts = |(row, ..): &(usize, u32, i64)| filter.is_valid(*row) && filter.value(*row);
        Some(rows.each().filter(counts).collect())
    }

    /// Puts values, or none, in the place of those that are kept for some slots.
    pub fn show(
        &self,
        values: &ArrayRef,
        slots: &[u32],
        chunks: &mut ChunksMut<'_>,
    ) -> Result<(), OperatorError> {
        let state_type = StateType::of(&self.state_types[0]);
        let values = state_type.physical(values).context(ComputeSnafu)?;
        let values = Values::of(state_type, &values);
        for (row, slot) in slots.iter().enumerate() {
            let (chunk, offset) = chunks.at(*slot);
            match (&mut chunk.columns[self.column], &values) {
                (StateColumn::I64(kept, valid), Values::I64(values)) => {
                    (kept[offset], valid[offset]) = (values.value(row), values.is_valid(row));
                }
                (StateColumn::I128(kept, valid), Values::I128(values)) => {
                    (kept[offset], valid[offset]) = (values.value(row), values.is_valid(row));
                }
                (StateColumn::F64(kept, valid), Values::F64(values)) => {
                    (kept[offset], valid[offset]) = (values.value(row), values.is_valid(row));
                }
                (StateColumn::Bytes(kept), Values::Bytes(values)) => {
                    kept[offset] = values.is_valid(row).then(|| values.value(row).into());
                }
                _ => return malformed(),
            }
        }
        Ok(())
    }

    fn add_all(
        &self,
        columns: &[ArrayRef],
        rows: Rows<'_>,
        chunks: &mut ChunksMut<'_>,
    ) -> Result<(), OperatorError> {
        let argument = self.argument.map(|index| &columns[index]);
        match (self.function, argument) {
            (AggregateFunction::Count, None) => self.count(rows, chunks, |_| true),
            (AggregateFunction::Count, Some(values)) => {
                let nulls = values.logical_nulls();
                self.count(rows, chunks, |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)));
            }
            (_, None) => return PlanSnafu { message: "an aggregate without an argument" }.fail(),
            (AggregateFunction::Sum | AggregateFunction::Avg, Some(values)) => {
                let state_type = StateType::of(&self.state_types[0]);
                let values = state_type.physical(values).context(ComputeSnafu)?;
                self.sum(&Values::of(state_type, &values), None, rows, chunks);
            }
            (_, Some(values)) => {
                let state_type = StateType::of(&self.state_types[0]);
                let values = state_type.physical(values).context(ComputeSnafu)?;
                self.take(&Values::of(state_type, &values), rows, chunks);
            }
        }
        Ok(())
    }

    /// The states that single rows make, which come and are not taken back.
    pub fn states_of_rows(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, OperatorError> {
        let counted = self.filter.map(|filter| columns[filter].as_boolean());
        let counts = |row: usize, nulls: Option<&NullBuffer>| {
            let is_counted = counted.is_none_or(|counted| counted.is_valid(row) && counted.value(row));
            i64::from(is_counted && nulls.is_none_or(|nulls| nulls.is_valid(row)))
        };
        let argument = self.argument.map(|index| &columns[index]);
        let nulls = argument.and_then(Array::logical_nulls);
        let counts: ArrayRef =
            Arc::new(Int64Array::from_iter_values((0..rows).map(|row| counts(row, nulls.as_ref()))));
        let value = |argument: &ArrayRef| -> Result<ArrayRef, OperatorError> {
            let value = cast(argument, &self.state_types[0].to_arrow()).context(ComputeSnafu)?;
            let Some(counted) = counted else { return Ok(value) };
            let left_out = BooleanArray::from_iter(counted.iter().map(|counted| Some(counted != Some(true))));
            nullif(&value, &left_out).context(ComputeSnafu)
        };
        match (self.function, argument) {
            (AggregateFunction::Count, _) => Ok(vec![counts]),
            (_, None) => PlanSnafu { message: "an aggregate without an argument" }.fail(),
            (AggregateFunction::Sum | AggregateFunction::Avg, Some(argument)) => {
                Ok(vec![value(argument)?, counts])
            }
            (_, Some(argument)) => Ok(vec![value(argument)?]),
        }
    }

    /// Merges partial states, which stand in `states` from this aggregate's first state column on.
    pub fn merge(
        &self,
        states: &[ArrayRef],
        rows: &[u32],
        slots: &[u32],
        chunks: &mut ChunksMut<'_>,
    ) -> Result<(), OperatorError> {
        let part = |n: usize| -> Result<ArrayRef, OperatorError> {
            StateType::of(&self.state_types[n]).physical(&states[self.column + n]).context(ComputeSnafu)
        };
        let first = part(0)?;
        let values = Values::of(StateType::of(&self.state_types[0]), &first);
        match self.function {
            AggregateFunction::Count => {
                let counts = if let Values::I64(counts) = values { counts } else { return malformed() };
                for (row, slot) in rows.iter().zip(slots) {
                    add_i64(chunks, *slot, self.column, counts.value(*row as usize));
                }
            }
            AggregateFunction::Sum | AggregateFunction::Avg => {
                let counts = part(1)?;
                let Values::I64(counts) = Values::of(StateType::I64, &counts) else { return malformed() };
                self.sum(&values, Some(counts), Rows { rows, slots, signs: None }, chunks);
            }
            _ => self.take(&values, Rows { rows, slots, signs: None }, chunks),
        }
        Ok(())
    }

    fn count(&self, rows: Rows<'_>, chunks: &mut ChunksMut<'_>, counts: impl Fn(usize) -> bool) {
        for (row, slot, sign) in rows.each() {
            add_i64(chunks, slot, self.column, if counts(row) { sign } else { 0 });
        }
    }

    fn sum(
        &self,
        values: &Values<'_>,
        counts: Option<&Int64Array>,
        rows: Rows<'_>,
        chunks: &mut ChunksMut<'_>,
    ) {
        for (row, slot, sign) in rows.each() {
            let (chunk, offset) = chunks.at(slot);
            let is_added = match (&mut chunk.columns[self.column], values) {
                (StateColumn::I64(sums, valid), Values::I64(values)) if values.is_valid(row) => {
                    sums[offset] = sums[offset].wrapping_add(values.value(row).wrapping_mul(sign));
                    valid[offset] = true;
                    true
                }
                (StateColumn::I128(sums, valid), Values::I128(values)) if values.is_valid(row) => {
                    // What is too large for any decimal stays so, and shows as NULL.
                    sums[offset] =
                        sums[offset].saturating_add(values.value(row).saturating_mul(i128::from(sign)));
                    valid[offset] = true;
                    true
                }
                (StateColumn::F64(sums, valid), Values::F64(values)) if values.is_valid(row) => {
                    sums[offset] += values.value(row) * sign as f64;
                    valid[offset] = true;
                    true
                }
                _ => false,
            };
            let count = counts.map_or(if is_added { sign } else { 0 }, |counts| counts.value(row));
            add_i64(chunks, slot, self.column + 1, count);
        }
    }

    fn take(&self, values: &Values<'_>, rows: Rows<'_>, chunks: &mut ChunksMut<'_>) {
        match self.function {
            AggregateFunction::ListAgg => self.append(values, rows, chunks),
            _ => self.keep(values, rows, chunks),
        }
    }

    /// Keeps one of the values: the least, the greatest, the first or the last.
    fn keep(&self, values: &Values<'_>, rows: Rows<'_>, chunks: &mut ChunksMut<'_>) {
        for (row, slot, _) in rows.each() {
            let (chunk, offset) = chunks.at(slot);
            match (&mut chunk.columns[self.column], values) {
                (StateColumn::I64(kept, valid), Values::I64(values)) if values.is_valid(row) => {
                    let value = values.value(row);
                    if self.takes(valid[offset], || value.cmp(&kept[offset])) {
                        (kept[offset], valid[offset]) = (value, true);
                    }
                }
                (StateColumn::I128(kept, valid), Values::I128(values)) if values.is_valid(row) => {
                    let value = values.value(row);
                    if self.takes(valid[offset], || value.cmp(&kept[offset])) {
                        (kept[offset], valid[offset]) = (value, true);
                    }
                }
                (StateColumn::F64(kept, valid), Values::F64(values)) if values.is_valid(row) => {
                    let value = values.value(row);
                    if self.takes(valid[offset], || value.total_cmp(&kept[offset])) {
                        (kept[offset], valid[offset]) = (value, true);
                    }
                }
                (StateColumn::Bytes(kept), Values::Bytes(values)) if values.is_valid(row) => {
                    let (value, kept) = (values.value(row), &mut kept[offset]);
                    if self.takes(kept.is_some(), || value.cmp(kept.as_deref().unwrap_or_default())) {
                        *kept = Some(Arc::from(value));
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a value takes the place of the one that is kept.
    fn takes(&self, has_value: bool, order: impl FnOnce() -> Ordering) -> bool {
        match self.function {
            AggregateFunction::LastValue => true,
            _ if !has_value => true,
            AggregateFunction::Min => order().is_lt(),
            AggregateFunction::Max => order().is_gt(),
            _ => false,
        }
    }

    /// Appends texts.
    fn append(&self, values: &Values<'_>, rows: Rows<'_>, chunks: &mut ChunksMut<'_>) {
        let Values::Bytes(values) = values else { return };
        for (row, slot, sign) in rows.each().filter(|(row, ..)| values.is_valid(*row)) {
            let (chunk, offset) = chunks.at(slot);
            let StateColumn::Bytes(texts) = &mut chunk.columns[self.column] else { continue };
            let (text, value) = (&mut texts[offset], values.value(row));
            *text = match &text {
                before if self.is_list => list::changed(before.as_deref().unwrap_or_default(), value, sign),
                Some(before) => Some([before, self.separator.as_bytes(), value].concat().into()),
                None => Some(value.into()),
            };
        }
    }

    /// The states of a chunk's slots, as columns for the exchange.
    pub fn states(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>, OperatorError> {
        let columns = self.state_types.iter().enumerate();
        columns.map(|(n, data_type)| Ok(chunk.columns[self.column + n].to_array(data_type)?)).collect()
    }

    /// The results of a chunk's slots.
    pub fn results(&self, chunk: &Chunk) -> Result<ArrayRef, OperatorError> {
        let value = &chunk.columns[self.column];
        match self.function {
            AggregateFunction::Count => count_results(value),
            AggregateFunction::Avg => self.average(value, &chunk.columns[self.column + 1]),
            AggregateFunction::Sum => {
                // Without a value, or after all were taken back, there is no sum.
                let value = &value.only_where(&chunk.columns[self.column + 1]);
                let sums = value.to_array(&self.state_types[0])?;
                // Sums of narrow integers are kept wide and wrap into their type.
                if let StateColumn::I64(values, valid) = value {
                    return narrow(values, valid, &self.result_type);
                }
                if let StateColumn::I128(values, valid) = value {
                    let fits =
                        values.iter().zip(valid).map(|(sum, valid)| decimal_sum(*sum).filter(|_| *valid));
                    let fits = fits.collect::<Decimal128Array>();
                    return Ok(Arc::new(fits.with_data_type(self.result_type.to_arrow())));
                }
                cast(&sums, &self.result_type.to_arrow()).context(ComputeSnafu)
            }
            AggregateFunction::ListAgg if self.is_list => {
                let StateColumn::Bytes(lists) = value else { return malformed() };
                let joined = lists.iter().map(|texts| {
                    texts.as_deref().map(|texts| list::joined(texts, self.separator.as_bytes()))
                });
                Ok(StateColumn::Bytes(joined.collect()).to_array(&self.argument_type)?)
            }
            _ => Ok(value.to_array(&self.argument_type)?),
        }
    }

    /// Integer averages truncate; decimal ones round half up at the result's scale.
    fn average(&self, sums: &StateColumn, counts: &StateColumn) -> Result<ArrayRef, OperatorError> {
        let StateColumn::I64(counts, _) = counts else { return malformed() };
        let rows = 0..counts.len();
        let defined = |row: usize| (counts[row] > 0).then_some(counts[row]);
        Ok(match sums {
            StateColumn::I64(sums, _) => {
                let averages: Int64Array =
                    rows.map(|row| defined(row).map(|count| sums[row] / count)).collect();
                integers(averages, &self.result_type.to_arrow())?
            }
            StateColumn::F64(sums, _) => {
                let averages = rows.map(|row| defined(row).map(|count| sums[row] / count as f64));
                let averages: ArrayRef = Arc::new(averages.collect::<Float64Array>());
                cast(&averages, &self.result_type.to_arrow()).context(ComputeSnafu)?
            }
            StateColumn::I128(sums, _) => {
                let shift = (self.result_type.scale - self.state_types[0].scale).max(0) as u32;
                let averages = rows.map(|row| {
                    let sum = decimal_sum(sums[row])?.checked_mul(10_i128.pow(shift));
                    defined(row).and_then(|count| Some(divide_half_up(sum?, i128::from(count))))
                });
                Arc::new(averages.collect::<Decimal128Array>().with_data_type(self.result_type.to_arrow()))
            }
            StateColumn::Bytes(_) => return malformed(),
        })
    }
}

/// Texts of which each can be taken away: the length of each as four bytes, and the text.
mod list {
    use std::sync::Arc;

    const LENGTH: usize = 4;

    /// The texts of a list, and where each begins.
    fn texts(list: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (length, rest) = list.get(at..)?.split_first_chunk::<LENGTH>()?;
            let (begin, length) = (at, u32::from_be_bytes(*length) as usize);
            at += LENGTH + length;
            Some((begin, &rest[..length]))
        })
    }

    /// With one text more, or without the first that is equal; `None` without any.
    pub fn changed(list: &[u8], text: &[u8], sign: i64) -> Option<Arc<[u8]>> {
        let list = if sign > 0 {
            [list, &(text.len() as u32).to_be_bytes(), text].concat()
        } else {
            match texts(list).find(|(_, known)| *known == text) {
                Some((at, _)) => [&list[..at], &list[at + LENGTH + text.len()..]].concat(),
                None => list.to_vec(),
            }
        };
        (!list.is_empty()).then(|| list.into())
    }

    /// All texts with what stands between them.
    pub fn joined(list: &[u8], separator: &[u8]) -> Arc<[u8]> {
        texts(list).map(|(_, text)| text).collect::<Vec<_>>().join(separator).into()
    }
}

fn malformed<T>() -> Result<T, OperatorError> {
    PlanSnafu { message: "an aggregate's state has another type than its plan" }.fail()
}

fn add_i64(chunks: &mut ChunksMut<'_>, slot: u32, column: usize, value: i64) {
    let (chunk, offset) = chunks.at(slot);
    if let StateColumn::I64(values, valid) = &mut chunk.columns[column] {
        values[offset] = values[offset].wrapping_add(value);
        valid[offset] = true;
    }
}

/// A count without a row is 0 and never NULL.
fn count_results(counts: &StateColumn) -> Result<ArrayRef, OperatorError> {
    match counts {
        StateColumn::I64(counts, _) => Ok(Arc::new(Int64Array::from(counts.clone()))),
        _ => malformed(),
    }
}

fn narrow(values: &[i64], valid: &[bool], to: &DataType) -> Result<ArrayRef, OperatorError> {
    let wrap = |value: i64| match to.kind() {
        TypeKind::TinyInt => i64::from(value as i8),
        TypeKind::SmallInt => i64::from(value as i16),
        TypeKind::Int => i64::from(value as i32),
        _ => value,
    };
    let wrapped = values.iter().zip(valid).map(|(value, is_valid)| is_valid.then(|| wrap(*value)));
    Ok(integers(wrapped.collect::<Int64Array>(), &to.to_arrow())?)
}

/// A sum, if it has no more digits than a decimal can have.
fn decimal_sum(sum: i128) -> Option<i128> {
    const LIMIT: u128 = 10_u128.pow(38);
    (sum.unsigned_abs() < LIMIT).then_some(sum)
}

fn divide_half_up(value: i128, by: i128) -> i128 {
    let (quotient, remainder) = (value / by, value % by);
    if remainder.abs() * 2 >= by { quotient + value.signum() } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateTable;
    use arrow::array::{Int32Array, StringArray};

    fn aggregate(function: AggregateFunction, argument: DataType, result: DataType) -> Aggregate {
        Aggregate {
            function: function.into(),
            argument: Some(0),
            argument_type: Some(argument),
            result_type: Some(result),
            separator: "-".to_owned(),
            ..Default::default()
        }
    }

    /// Each row is a state of its own, and all of them are merged.
    fn result_of_single_rows(aggregate: &Aggregate, values: &ArrayRef) -> ArrayRef {
        let (prepared, layout) = prepare(std::slice::from_ref(aggregate)).unwrap();
        let mut merged = StateTable::new(layout);
        let slots = vec![merged.slot(1, b"k").unwrap(); values.len()];
        let states = prepared[0].states_of_rows(std::slice::from_ref(values), values.len()).unwrap();
        let rows: Vec<u32> = (0..values.len() as u32).collect();
        prepared[0].merge(&states, &rows, &slots, &mut merged.write(&slots)).unwrap();
        prepared[0].results(&merged.gather(&slots[..1])).unwrap()
    }

    /// Rows 0.. go to slot 0, added in two halves that are merged.
    fn result_of(aggregate: &Aggregate, values: ArrayRef) -> ArrayRef {
        let (prepared, layout) = prepare(std::slice::from_ref(aggregate)).unwrap();
        let half = values.len() / 2;
        let mut merged = StateTable::new(Arc::clone(&layout));
        let slot = merged.slot(1, b"k").unwrap();
        for rows in [0..half, half..values.len()] {
            let mut part = StateTable::new(Arc::clone(&layout));
            let slots = vec![part.slot(1, b"k").unwrap(); rows.len()];
            let rows: Vec<u32> = rows.map(|row| row as u32).collect();
            let rows = Rows { rows: &rows, slots: &slots, signs: None };
            prepared[0].add(std::slice::from_ref(&values), rows, &mut part.write(&slots)).unwrap();
            let states = prepared[0].states(&part.gather(&[0])).unwrap();
            prepared[0].merge(&states, &[0], &[slot], &mut merged.write(&[slot])).unwrap();
        }
        prepared[0].results(&merged.gather(&[0])).unwrap()
    }

    #[test]
    fn results_are_flinks() {
        use AggregateFunction::{Avg, Count, FirstValue, LastValue, ListAgg, Max, Min, Sum};
        let bigint = || DataType::simple(TypeKind::BigInt);
        let int = || DataType::simple(TypeKind::Int);
        let string = || DataType::simple(TypeKind::String);
        let longs = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
        let decimals = |values: Vec<Option<i128>>, p, s| {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(p, s).unwrap()) as ArrayRef
        };
        let cases: Vec<(AggregateFunction, DataType, DataType, ArrayRef, ArrayRef)> = vec![
            (Count, bigint(), bigint(), longs(vec![Some(1), None, Some(3)]), longs(vec![Some(2)])),
            (Count, bigint(), bigint(), longs(vec![None, None]), longs(vec![Some(0)])),
            (Sum, bigint(), bigint(), longs(vec![Some(1), None, Some(3)]), longs(vec![Some(4)])),
            (Sum, bigint(), bigint(), longs(vec![Some(i64::MAX), Some(1)]), longs(vec![Some(i64::MIN)])),
            (Sum, bigint(), bigint(), longs(vec![None, None]), longs(vec![None])),
            (
                Sum,
                int(),
                int(),
                Arc::new(Int32Array::from(vec![i32::MAX, 1])),
                Arc::new(Int32Array::from(vec![i32::MIN])),
            ),
            (Avg, bigint(), bigint(), longs(vec![Some(-1), Some(-2), None]), longs(vec![Some(-1)])),
            (Avg, bigint(), bigint(), longs(vec![None, None]), longs(vec![None])),
            (
                Avg,
                DataType::decimal(10, 2),
                DataType::decimal(38, 6),
                decimals(vec![Some(100), Some(100), Some(101)], 10, 2),
                decimals(vec![Some(1_003_333)], 38, 6),
            ),
            (
                Sum,
                DataType::decimal(38, 0),
                DataType::decimal(38, 0),
                decimals(vec![Some(6 * 10_i128.pow(37)); 2], 38, 0),
                decimals(vec![None], 38, 0),
            ),
            (
                Avg,
                DataType::decimal(38, 0),
                DataType::decimal(38, 6),
                decimals(vec![Some(6 * 10_i128.pow(37)); 9], 38, 0),
                decimals(vec![None], 38, 6),
            ),
            (Min, bigint(), bigint(), longs(vec![Some(5), Some(-5), None]), longs(vec![Some(-5)])),
            (Max, bigint(), bigint(), longs(vec![None, Some(-5), Some(-6)]), longs(vec![Some(-5)])),
            (Max, string(), string(), texts(vec![Some("b"), Some("a"), None]), texts(vec![Some("b")])),
            (Min, string(), string(), texts(vec![None, None]), texts(vec![None])),
            (
                FirstValue,
                bigint(),
                bigint(),
                longs(vec![None, Some(7), Some(-5), None]),
                longs(vec![Some(7)]),
            ),
            (
                LastValue,
                bigint(),
                bigint(),
                longs(vec![None, Some(7), Some(-5), None]),
                longs(vec![Some(-5)]),
            ),
            (FirstValue, string(), string(), texts(vec![None, Some("b"), Some("a")]), texts(vec![Some("b")])),
            (LastValue, string(), string(), texts(vec![None, None]), texts(vec![None])),
            (
                ListAgg,
                string(),
                string(),
                texts(vec![Some("b"), None, Some(""), Some("a")]),
                texts(vec![Some("b--a")]),
            ),
            (ListAgg, string(), string(), texts(vec![None]), texts(vec![None])),
        ];
        for (function, argument, result, values, expected) in cases {
            let aggregate = aggregate(function, argument, result);
            assert_eq!(&result_of_single_rows(&aggregate, &values), &expected, "{function:?} of {values:?}");
            let found = result_of(&aggregate, values.clone());

            assert_eq!(&found, &expected, "{function:?} of {values:?}");
        }
    }
}
