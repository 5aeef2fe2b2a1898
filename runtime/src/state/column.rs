//! Columns of state: growable, typed, each value present or NULL.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, Float64Array, Int64Array, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Decimal128Type, Float64Type, Int64Type};
use arrow::error::ArrowError;
use millrace_sql::plan::{DataType, TypeKind};

use crate::model::key_encoding::{KeyError, integers};

/// In which of four forms a type is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StateType {
    /// Integers, booleans, dates, times, timestamps.
    I64 = 1,
    /// Decimals.
    I128 = 2,
    /// Floating point.
    F64 = 3,
    /// Strings and bytes.
    Bytes = 4,
}

/// Values of one state column.
#[derive(Debug, Clone)]
pub enum StateColumn {
    I64(Vec<i64>, Vec<bool>),
    I128(Vec<i128>, Vec<bool>),
    F64(Vec<f64>, Vec<bool>),
    Bytes(Vec<Option<Arc<[u8]>>>),
}

impl StateType {
    /// The form of a SQL type.
    pub fn of(data_type: &DataType) -> Self {
        match data_type.kind() {
            TypeKind::Decimal => StateType::I128,
            TypeKind::Float | TypeKind::Double => StateType::F64,
            TypeKind::String | TypeKind::Bytes => StateType::Bytes,
            _ => StateType::I64,
        }
    }

    /// Bytes of a value and whether it is there; `None` if values differ.
    pub fn value_bytes(self) -> Option<usize> {
        match self {
            StateType::I64 | StateType::F64 => Some(9),
            StateType::I128 => Some(17),
            StateType::Bytes => None,
        }
    }

    /// Brings an array into the form, so that a state column can read it.
    pub fn physical(self, values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match (self, values.data_type()) {
            (StateType::I64, ArrowType::Int64)
            | (StateType::I128, ArrowType::Decimal128(..))
            | (StateType::F64, ArrowType::Float64)
            | (StateType::Bytes, ArrowType::Binary) => Ok(Arc::clone(values)),
            (StateType::I64, _) => cast(values, &ArrowType::Int64),
            (StateType::F64, _) => cast(values, &ArrowType::Float64),
            (StateType::Bytes, _) => cast(values, &ArrowType::Binary),
            (StateType::I128, other) => {
                Err(ArrowError::CastError(format!("{other} is not kept as a decimal")))
            }
        }
    }
}

impl StateColumn {
    /// An empty column.
    pub fn new(state_type: StateType) -> Self {
        match state_type {
            StateType::I64 => StateColumn::I64(Vec::new(), Vec::new()),
            StateType::I128 => StateColumn::I128(Vec::new(), Vec::new()),
            StateType::F64 => StateColumn::F64(Vec::new(), Vec::new()),
            StateType::Bytes => StateColumn::Bytes(Vec::new()),
        }
    }

    /// Appends NULL.
    pub fn push_null(&mut self) {
        match self {
            StateColumn::I64(values, valid) => {
                values.push(0);
                valid.push(false);
            }
            StateColumn::I128(values, valid) => {
                values.push(0);
                valid.push(false);
            }
            StateColumn::F64(values, valid) => {
                values.push(0.0);
                valid.push(false);
            }
            StateColumn::Bytes(values) => values.push(None),
        }
    }

    /// The same values, and NULL where a count is 0.
    pub fn only_where(&self, counts: &StateColumn) -> StateColumn {
        let StateColumn::I64(counts, _) = counts else { return self.clone() };
        let mut only = self.clone();
        match &mut only {
            StateColumn::I64(_, valid) | StateColumn::I128(_, valid) | StateColumn::F64(_, valid) => {
                valid.iter_mut().zip(counts).for_each(|(valid, count)| *valid &= *count != 0);
            }
            StateColumn::Bytes(values) => {
                let without = values.iter_mut().zip(counts).filter(|(_, count)| **count == 0);
                without.for_each(|(value, _)| *value = None);
            }
        }
        only
    }

    /// Appends a value of another column of the same form.
    pub fn push_from(&mut self, other: &StateColumn, slot: usize) {
        match (self, other) {
            (StateColumn::I64(values, valid), StateColumn::I64(from, from_valid)) => {
                values.push(from[slot]);
                valid.push(from_valid[slot]);
            }
            (StateColumn::I128(values, valid), StateColumn::I128(from, from_valid)) => {
                values.push(from[slot]);
                valid.push(from_valid[slot]);
            }
            (StateColumn::F64(values, valid), StateColumn::F64(from, from_valid)) => {
                values.push(from[slot]);
                valid.push(from_valid[slot]);
            }
            (StateColumn::Bytes(values), StateColumn::Bytes(from)) => values.push(from[slot].clone()),
            // Columns of one layout have one form.
            (this, _) => this.push_null(),
        }
    }

    /// Bytes held, roughly.
    pub fn byte_len(&self) -> usize {
        match self {
            StateColumn::I64(values, _) => values.len() * 9,
            StateColumn::I128(values, _) => values.len() * 17,
            StateColumn::F64(values, _) => values.len() * 9,
            StateColumn::Bytes(values) => values.iter().map(|value| bytes_len(value.as_deref())).sum(),
        }
    }

    /// Bytes of one value, roughly.
    pub fn value_byte_len(&self, slot: usize) -> usize {
        match self {
            StateColumn::I64(..) | StateColumn::F64(..) => 9,
            StateColumn::I128(..) => 17,
            StateColumn::Bytes(values) => bytes_len(values[slot].as_deref()),
        }
    }

    /// Appends one value in the segment's form: presence, then the value.
    pub fn write(&self, slot: usize, out: &mut Vec<u8>) {
        match self {
            StateColumn::I64(values, valid) => write_fixed(valid[slot], &values[slot].to_le_bytes(), out),
            StateColumn::I128(values, valid) => write_fixed(valid[slot], &values[slot].to_le_bytes(), out),
            StateColumn::F64(values, valid) => write_fixed(valid[slot], &values[slot].to_le_bytes(), out),
            StateColumn::Bytes(values) => match &values[slot] {
                None => out.push(0),
                Some(bytes) => {
                    out.push(1);
                    out.extend((bytes.len() as u32).to_le_bytes());
                    out.extend_from_slice(bytes);
                }
            },
        }
    }

    /// Sets a slot from the segment's form; `None` if the bytes are malformed.
    pub fn read(&mut self, slot: usize, rest: &mut &[u8]) -> Option<()> {
        let is_present = take::<1>(rest)?[0] == 1;
        match self {
            StateColumn::I64(values, valid) => {
                valid[slot] = is_present;
                values[slot] = if is_present { i64::from_le_bytes(take(rest)?) } else { 0 };
            }
            StateColumn::I128(values, valid) => {
                valid[slot] = is_present;
                values[slot] = if is_present { i128::from_le_bytes(take(rest)?) } else { 0 };
            }
            StateColumn::F64(values, valid) => {
                valid[slot] = is_present;
                values[slot] = if is_present { f64::from_le_bytes(take(rest)?) } else { 0.0 };
            }
            StateColumn::Bytes(values) => {
                values[slot] = None;
                if is_present {
                    let length = u32::from_le_bytes(take(rest)?) as usize;
                    let (bytes, tail) = rest.split_at_checked(length)?;
                    values[slot] = Some(Arc::from(bytes));
                    *rest = tail;
                }
            }
        }
        Some(())
    }

    /// The values as an array of a SQL type.
    pub fn to_array(&self, data_type: &DataType) -> Result<ArrayRef, KeyError> {
        let arrow = data_type.to_arrow();
        Ok(match self {
            StateColumn::I64(values, valid) => {
                let array = Int64Array::new(values.clone().into(), Some(valid.clone().into()));
                if let ArrowType::Boolean = arrow {
                    let booleans: arrow::array::BooleanArray =
                        array.iter().map(|v| v.map(|v| v != 0)).collect();
                    return Ok(Arc::new(booleans));
                }
                integers(array, &arrow)?
            }
            StateColumn::I128(values, valid) => {
                let array = Decimal128Array::new(values.clone().into(), Some(valid.clone().into()));
                Arc::new(array.with_data_type(arrow))
            }
            StateColumn::F64(values, valid) => {
                let array: ArrayRef =
                    Arc::new(Float64Array::new(values.clone().into(), Some(valid.clone().into())));
                cast(&array, &arrow).map_err(|source| KeyError::Convert { source })?
            }
            StateColumn::Bytes(values) if arrow == ArrowType::Utf8 => {
                let texts =
                    values.iter().map(|value| value.as_deref().and_then(|b| std::str::from_utf8(b).ok()));
                Arc::new(texts.collect::<StringArray>())
            }
            StateColumn::Bytes(values) => {
                Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>())
            }
        })
    }
}

/// A physical array, read by row.
pub enum Values<'a> {
    I64(&'a Int64Array),
    I128(&'a Decimal128Array),
    F64(&'a Float64Array),
    Bytes(&'a BinaryArray),
}

impl<'a> Values<'a> {
    /// Views an array that [`StateType::physical`] has made.
    pub fn of(state_type: StateType, array: &'a ArrayRef) -> Self {
        match state_type {
            StateType::I64 => Values::I64(array.as_primitive::<Int64Type>()),
            StateType::I128 => Values::I128(array.as_primitive::<Decimal128Type>()),
            StateType::F64 => Values::F64(array.as_primitive::<Float64Type>()),
            StateType::Bytes => Values::Bytes(array.as_binary()),
        }
    }
}

/// With the pointer, and the counts that a shared slice has.
fn bytes_len(value: Option<&[u8]>) -> usize {
    16 + value.map_or(0, |bytes| bytes.len() + 16)
}

fn write_fixed(is_valid: bool, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(u8::from(is_valid));
    if is_valid {
        out.extend_from_slice(bytes);
    }
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}
