//! Constructors of ROW, ARRAY and MAP, and access to what is inside of them.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, MapArray, StructArray, UInt64Array, make_comparator,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortOptions, interleave, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion_common::{Result, exec_err};
use datafusion_expr::type_coercion::binary::type_union_resolution;

use super::numbers::expand;
use super::scalar::{Argument, Scalar};
use crate::plan;
use crate::plan::function::{ARRAY, ELEMENT, MAP, ROW};

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &[ARRAY],
        usage: "ARRAY[value, …]",
        accepts: |given| Some(vec![type_union_resolution(given)?; given.len()]),
        returns: |given| DataType::List(item(&given[0])),
        call: array,
    },
    Scalar {
        names: &[MAP],
        usage: "MAP[key, value, …]",
        accepts: |given| {
            let keys: Vec<DataType> = given.iter().step_by(2).cloned().collect();
            let values: Vec<DataType> = given.iter().skip(1).step_by(2).cloned().collect();
            if keys.len() != values.len() {
                return None;
            }
            let (key, value) = (type_union_resolution(&keys)?, type_union_resolution(&values)?);
            Some((0..given.len()).map(|n| if n % 2 == 0 { key.clone() } else { value.clone() }).collect())
        },
        returns: |given| plan::map_type(given[0].clone(), given[1].clone()),
        call: map,
    },
    Scalar {
        names: &[ROW],
        usage: "ROW(value, …)",
        accepts: |given| (!given.is_empty()).then(|| given.to_vec()),
        returns: |given| DataType::Struct(row_fields(given.iter())),
        call: row,
    },
    Scalar {
        names: &[ELEMENT],
        usage: "array[position], map[key]",
        accepts: |given| match given {
            [DataType::List(_), position] if position.is_integer() => {
                Some(vec![given[0].clone(), DataType::Int64])
            }
            [DataType::Map(entries, _), _] => Some(vec![given[0].clone(), key_and_value(entries)?.0]),
            _ => None,
        },
        returns: |given| match &given[0] {
            DataType::List(item) => item.data_type().clone(),
            DataType::Map(entries, _) => key_and_value(entries).map_or(DataType::Null, |(_, value)| value),
            _ => DataType::Null,
        },
        call: element,
    },
    Scalar {
        names: &["cardinality"],
        usage: "CARDINALITY(array or map)",
        accepts: |given| matches!(given, [DataType::List(_) | DataType::Map(..)]).then(|| given.to_vec()),
        returns: |_| DataType::Int32,
        call: cardinality,
    },
];

pub fn item(data_type: &DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type.clone(), true))
}

/// Fields of a ROW that have no names are numbered.
pub fn row_fields<'a>(types: impl Iterator<Item = &'a DataType>) -> Fields {
    types
        .enumerate()
        .map(|(number, data_type)| Field::new(format!("EXPR${number}"), data_type.clone(), true))
        .collect()
}

pub fn key_and_value(entries: &FieldRef) -> Option<(DataType, DataType)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => {
            Some((fields[0].data_type().clone(), fields[1].data_type().clone()))
        }
        _ => None,
    }
}

fn array(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let values: Vec<&dyn Array> = arguments.iter().map(|argument| argument.values.as_ref()).collect();
    let each = (0..rows).flat_map(|row| (0..arguments.len()).map(move |argument| (argument, row)));
    let places: Vec<(usize, usize)> =
        each.map(|(argument, row)| (argument, arguments[argument].index(row))).collect();
    let items = interleave(&values, &places)?;
    let offsets = OffsetBuffer::from_repeated_length(arguments.len(), rows);
    Ok(Arc::new(ListArray::try_new(item(items.data_type()), offsets, items, None)?))
}

/// Of equal keys the last one counts.
fn map(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let pairs = arguments.len() / 2;
    let keys: Vec<&dyn Array> = arguments.iter().step_by(2).map(|key| key.values.as_ref()).collect();
    let values: Vec<&dyn Array> =
        arguments.iter().skip(1).step_by(2).map(|value| value.values.as_ref()).collect();
    let mut same = Vec::new();
    for one in 0..pairs {
        for other in one + 1..pairs {
            same.push(((one, other), make_comparator(keys[one], keys[other], SortOptions::default())?));
        }
    }
    let (mut key_places, mut value_places, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(rows));
    for row in 0..rows {
        let place = |pair: usize| (arguments[2 * pair].index(row), arguments[2 * pair + 1].index(row));
        let before = key_places.len();
        for (pair, of_pair) in keys.iter().enumerate() {
            let (key, value) = place(pair);
            if of_pair.is_null(key) {
                return exec_err!("MAP: a key is NULL");
            }
            let is_again = same.iter().any(|((one, other), compare)| {
                *one == pair && compare(key, place(*other).0) == Ordering::Equal
            });
            if !is_again {
                key_places.push((pair, key));
                value_places.push((pair, value));
            }
        }
        lengths.push(key_places.len() - before);
    }
    let columns = vec![interleave(&keys, &key_places)?, interleave(&values, &value_places)?];
    let map_type = plan::map_type(columns[0].data_type().clone(), columns[1].data_type().clone());
    let DataType::Map(entries, _) = &map_type else { return exec_err!("{map_type} is no MAP") };
    let DataType::Struct(fields) = entries.data_type() else { return exec_err!("{map_type} has no entries") };
    let rows = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, rows, None, false)?))
}

fn row(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let columns = arguments.iter().map(|argument| expand(argument, rows)).collect::<Result<Vec<_>>>()?;
    let fields = row_fields(columns.iter().map(|column| column.data_type()));
    Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
}

/// Positions begin at 1; what is not there is NULL.
fn element(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let (of, wanted) = (&arguments[0], &arguments[1]);
    if let Some(maps) = of.values.as_map_opt() {
        let same = make_comparator(maps.keys(), &wanted.values, SortOptions::default())?;
        let found = (0..rows).map(|row| {
            let (map, key) = (of.index(row), wanted.index(row));
            if maps.is_null(map) || wanted.values.is_null(key) {
                return None;
            }
            let mut entries = maps.value_offsets()[map] as usize..maps.value_offsets()[map + 1] as usize;
            entries.find(|entry| same(*entry, key) == Ordering::Equal).map(|entry| entry as u64)
        });
        return Ok(take(maps.values(), &found.collect::<UInt64Array>(), None)?);
    }
    let lists: &ListArray = of.values.as_list();
    let positions = wanted.values.as_primitive::<Int64Type>();
    let mut found = Vec::with_capacity(rows);
    for row in 0..rows {
        let (list, position) = (of.index(row), wanted.index(row));
        if lists.is_null(list) || positions.is_null(position) {
            found.push(None);
            continue;
        }
        let position = positions.value(position);
        if position < 1 {
            return exec_err!(
                "an element of an ARRAY is asked for by position {position}; positions begin at 1"
            );
        }
        let length = i64::from(lists.value_length(list));
        let start = lists.value_offsets()[list] as u64;
        found.push((position <= length).then_some(start + position as u64 - 1));
    }
    Ok(take(lists.values(), &UInt64Array::from(found), None)?)
}

fn cardinality(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let of = &arguments[0];
    let offsets = match of.values.as_map_opt() {
        Some(maps) => maps.value_offsets(),
        None => of.values.as_list::<i32>().value_offsets(),
    };
    let length = |row: usize| {
        let row = of.index(row);
        of.values.is_valid(row).then(|| offsets[row + 1] - offsets[row])
    };
    Ok(Arc::new((0..rows).map(length).collect::<Int32Array>()))
}
