//! Functions of arrays and maps. Elements are compared as values, NULL with NULL too; positions begin at 1.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DynComparator, Int32Array, ListArray, MapArray, StructArray,
    UInt64Array, make_comparator, new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, interleave, take};
use arrow::datatypes::{DataType, Field};
use datafusion_common::{Result, exec_err};
use datafusion_expr::type_coercion::binary::type_union_resolution;

use super::nested::{item, key_and_value, row_fields};
use super::scalar::{Argument, Scalar};
use super::shape::{text, texts};
use super::strings::{is_text, number};
use crate::plan;

/// A function of arrays, or of an array and values of its type, that gives an array of this type.
macro_rules! list {
    ($name:literal, $usage:literal, $accepts:expr, $lists:expr, $of_row:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: $accepts,
            returns: |given| given.iter().find(|given| is_list(given)).cloned().unwrap_or(DataType::Null),
            call: |arguments, rows| lists(&Lists::of(arguments, $lists)?, rows, $of_row),
        }
    };
}

/// So many arguments are arrays or maps: every one.
const ALL: usize = usize::MAX;

pub const FUNCTIONS: &[Scalar] = &[
    list!("array_append", "ARRAY_APPEND(array, element)", with_element, 1, |all, row, out| {
        out.extend(all.elements(0, row)?.map(|place| (0, place)));
        out.push(all.element(1, row));
        Some(())
    }),
    list!("array_prepend", "ARRAY_PREPEND(array, element)", with_element, 1, |all, row, out| {
        let elements = all.elements(0, row)?;
        out.push(all.element(1, row));
        out.extend(elements.map(|place| (0, place)));
        Some(())
    }),
    list!("array_concat", "ARRAY_CONCAT(array, …)", same_lists, ALL, |all, row, out| {
        for which in 0..all.sources.len() {
            out.extend(all.elements(which, row)?.map(|place| (which, place)));
        }
        Some(())
    }),
    list!("array_distinct", "ARRAY_DISTINCT(array)", one_list, ALL, |all, row, out| {
        let elements = all.elements(0, row)?;
        elements.for_each(|place| all.add_once((0, place), out));
        Some(())
    }),
    list!("array_union", "ARRAY_UNION(array, array)", two_lists, ALL, |all, row, out| {
        let (first, second) = (all.elements(0, row)?, all.elements(1, row)?);
        let places = first.map(|place| (0, place)).chain(second.map(|place| (1, place)));
        places.for_each(|place| all.add_once(place, out));
        Some(())
    }),
    list!("array_except", "ARRAY_EXCEPT(array, array)", two_lists, ALL, |all, row, out| {
        among(all, row, out, false)
    }),
    list!("array_intersect", "ARRAY_INTERSECT(array, array)", two_lists, ALL, |all, row, out| {
        among(all, row, out, true)
    }),
    list!("array_remove", "ARRAY_REMOVE(array, element)", with_element, 1, |all, row, out| {
        let wanted = all.element(1, row);
        out.extend(
            all.elements(0, row)?.map(|place| (0, place)).filter(|place| !all.are_same(*place, wanted)),
        );
        Some(())
    }),
    list!("array_reverse", "ARRAY_REVERSE(array)", one_list, ALL, |all, row, out| {
        out.extend(all.elements(0, row)?.rev().map(|place| (0, place)));
        Some(())
    }),
    Scalar {
        names: &["array_slice"],
        usage: "ARRAY_SLICE(array, first[, last])",
        accepts: |given| match given {
            [list, numbers @ ..] if is_list(list) && are_numbers(numbers, 1..=2) => {
                Some([vec![list.clone()], vec![DataType::Int64; numbers.len()]].concat())
            }
            _ => None,
        },
        returns: |given| given[0].clone(),
        call: slice,
    },
    Scalar {
        names: &["array_sort"],
        usage: "ARRAY_SORT(array[, is ascending[, NULL first]])",
        accepts: |given| match given {
            [list, flags @ ..]
                if is_list(list)
                    && flags.len() <= 2
                    && flags.iter().all(|flag| *flag == DataType::Boolean) =>
            {
                Some(given.to_vec())
            }
            _ => None,
        },
        returns: |given| given[0].clone(),
        call: sort,
    },
    Scalar {
        names: &["array_contains"],
        usage: "ARRAY_CONTAINS(array, element)",
        accepts: with_element,
        returns: |_| DataType::Boolean,
        call: |arguments, rows| {
            let all = Lists::of(arguments, 1)?;
            let is_there = |row: usize| Some(all.find(row)?.is_some());
            Ok(Arc::new((0..rows).map(is_there).collect::<BooleanArray>()))
        },
    },
    Scalar {
        names: &["array_position"],
        usage: "ARRAY_POSITION(array, element)",
        accepts: with_element,
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            let all = Lists::of(arguments, 1)?;
            let position = |row: usize| {
                let (_, wanted) = all.element(1, row);
                let found = all.find(row)?;
                arguments[1].values.is_valid(wanted).then(|| found.map_or(0, |position| position as i32 + 1))
            };
            Ok(Arc::new((0..rows).map(position).collect::<Int32Array>()))
        },
    },
    Scalar {
        names: &["array_max"],
        usage: "ARRAY_MAX(array)",
        accepts: one_list,
        returns: |given| element_type(&given[0]),
        call: |arguments, rows| extreme(arguments, rows, Ordering::Greater),
    },
    Scalar {
        names: &["array_min"],
        usage: "ARRAY_MIN(array)",
        accepts: one_list,
        returns: |given| element_type(&given[0]),
        call: |arguments, rows| extreme(arguments, rows, Ordering::Less),
    },
    Scalar {
        names: &["element"],
        usage: "ELEMENT(array of one element)",
        accepts: one_list,
        returns: |given| element_type(&given[0]),
        call: only_element,
    },
    Scalar {
        names: &["array_join"],
        usage: "ARRAY_JOIN(array of strings, separator[, instead of NULL])",
        accepts: |given| match given {
            [list, others @ ..]
                if is_list(list)
                    && is_text(&element_type(list))
                    && (1..=2).contains(&others.len())
                    && others.iter().all(is_text) =>
            {
                Some([vec![list_of(DataType::Utf8)], vec![DataType::Utf8; others.len()]].concat())
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: join,
    },
    Scalar {
        names: &["map_keys"],
        usage: "MAP_KEYS(map)",
        accepts: one_map,
        returns: |given| entry_types(&given[0]).map_or(DataType::Null, |(key, _)| list_of(key)),
        call: |arguments, rows| of_entries(arguments, rows, |maps| Ok(Arc::clone(maps.keys()))),
    },
    Scalar {
        names: &["map_values"],
        usage: "MAP_VALUES(map)",
        accepts: one_map,
        returns: |given| entry_types(&given[0]).map_or(DataType::Null, |(_, value)| list_of(value)),
        call: |arguments, rows| of_entries(arguments, rows, |maps| Ok(Arc::clone(maps.values()))),
    },
    Scalar {
        names: &["map_entries"],
        usage: "MAP_ENTRIES(map)",
        accepts: one_map,
        returns: |given| {
            let entry = |(key, value)| list_of(DataType::Struct(entry_fields(key, value)));
            entry_types(&given[0]).map_or(DataType::Null, entry)
        },
        call: |arguments, rows| {
            of_entries(arguments, rows, |maps| {
                let columns = vec![Arc::clone(maps.keys()), Arc::clone(maps.values())];
                let fields = entry_fields(columns[0].data_type().clone(), columns[1].data_type().clone());
                Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
            })
        },
    },
    Scalar {
        names: &["map_from_arrays"],
        usage: "MAP_FROM_ARRAYS(array of keys, array of values)",
        accepts: |given| (given.len() == 2 && given.iter().all(is_list)).then(|| given.to_vec()),
        returns: |given| plan::map_type(element_type(&given[0]), element_type(&given[1])),
        call: |arguments, rows| {
            maps(arguments, rows, |all, row, out| {
                let (keys, values) = (all.elements(0, row), all.elements(1, row));
                let (Some(keys), Some(values)) = (keys, values) else { return Ok(None) };
                if keys.len() != values.len() {
                    return exec_err!(
                        "MAP_FROM_ARRAYS: there are {} keys and {} values",
                        keys.len(),
                        values.len()
                    );
                }
                out.extend(keys.zip(values).map(|(key, value)| ((0, key), (1, value))));
                Ok(Some(()))
            })
        },
    },
    Scalar {
        names: &["map_union"],
        usage: "MAP_UNION(map, …)",
        accepts: |given| {
            let first = given.first().filter(|first| matches!(first, DataType::Map(..)))?;
            given.iter().all(|other| other == first).then(|| given.to_vec())
        },
        returns: |given| given[0].clone(),
        call: |arguments, rows| {
            maps(arguments, rows, |all, row, out| {
                for which in 0..all.sources.len() {
                    let Some(entries) = all.elements(which, row) else { return Ok(None) };
                    out.extend(entries.map(|entry| ((which, entry), (which, entry))));
                }
                Ok(Some(()))
            })
        },
    },
];

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_))
}

fn list_of(data_type: DataType) -> DataType {
    DataType::List(item(&data_type))
}

fn element_type(list: &DataType) -> DataType {
    match list {
        DataType::List(item) => item.data_type().clone(),
        _ => DataType::Null,
    }
}

fn entry_types(map: &DataType) -> Option<(DataType, DataType)> {
    match map {
        DataType::Map(entries, _) => key_and_value(entries),
        _ => None,
    }
}

/// As Flink names them.
fn entry_fields(key: DataType, value: DataType) -> arrow::datatypes::Fields {
    let fields = row_fields([&key, &value].into_iter());
    let named = fields.iter().zip(["key", "value"]);
    named.map(|(field, name)| Field::new(name, field.data_type().clone(), true)).collect()
}

fn are_numbers(given: &[DataType], many: std::ops::RangeInclusive<usize>) -> bool {
    many.contains(&given.len()) && given.iter().all(DataType::is_integer)
}

fn one_list(given: &[DataType]) -> Option<Vec<DataType>> {
    matches!(given, [DataType::List(_)]).then(|| given.to_vec())
}

fn one_map(given: &[DataType]) -> Option<Vec<DataType>> {
    matches!(given, [DataType::Map(..)]).then(|| given.to_vec())
}

fn two_lists(given: &[DataType]) -> Option<Vec<DataType>> {
    if given.len() == 2 { same_lists(given) } else { None }
}

/// Arrays whose elements have a type in common.
fn same_lists(given: &[DataType]) -> Option<Vec<DataType>> {
    if given.is_empty() || !given.iter().all(is_list) {
        return None;
    }
    let elements: Vec<DataType> = given.iter().map(element_type).collect();
    Some(vec![list_of(type_union_resolution(&elements)?); given.len()])
}

/// An array and a value whose type goes with its elements.
fn with_element(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [list, element] if is_list(list) => {
            let common = type_union_resolution(&[element_type(list), element.clone()])?;
            Some(vec![list_of(common.clone()), common])
        }
        _ => None,
    }
}

/// An element: of which argument, and which of its values.
type Place = (usize, usize);

/// The arguments of a call: arrays, maps, and values of the elements' type.
struct Lists<'a> {
    arguments: &'a [Argument],
    /// The elements of each argument, or the argument itself.
    sources: Vec<ArrayRef>,
    /// By two sources; none of those whose types differ.
    comparators: Vec<Vec<Option<DynComparator>>>,
}

impl<'a> Lists<'a> {
    /// The first so many arguments are arrays or maps, and the others values.
    fn of(arguments: &'a [Argument], lists: usize) -> Result<Self> {
        let source = |(number, argument): (usize, &Argument)| match number < lists {
            true => elements_of(&argument.values),
            false => Arc::clone(&argument.values),
        };
        let sources: Vec<ArrayRef> = arguments.iter().enumerate().map(source).collect();
        let mut comparators = Vec::with_capacity(sources.len());
        for one in &sources {
            let mut of_one = Vec::with_capacity(sources.len());
            for other in &sources {
                // Keys and values are not compared with each other.
                let may_be = one.data_type() == other.data_type();
                let compare = may_be.then(|| make_comparator(one, other, SortOptions::default()));
                of_one.push(compare.transpose()?);
            }
            comparators.push(of_one);
        }
        Ok(Lists { arguments, sources, comparators })
    }

    /// The elements of a row's array or map; none if it is NULL.
    fn elements(&self, which: usize, row: usize) -> Option<Range<usize>> {
        let argument = &self.arguments[which];
        let at = argument.index(row);
        let offsets = match argument.values.as_map_opt() {
            Some(maps) => maps.value_offsets(),
            None => argument.values.as_list::<i32>().value_offsets(),
        };
        argument.values.is_valid(at).then(|| offsets[at] as usize..offsets[at + 1] as usize)
    }

    /// A row's value.
    fn element(&self, which: usize, row: usize) -> Place {
        (which, self.arguments[which].index(row))
    }

    fn compare(&self, one: Place, other: Place) -> Ordering {
        self.comparators[one.0][other.0].as_ref().map_or(Ordering::Less, |compare| compare(one.1, other.1))
    }

    fn are_same(&self, one: Place, other: Place) -> bool {
        self.compare(one, other) == Ordering::Equal
    }

    fn add_once(&self, place: Place, out: &mut Vec<Place>) {
        if !out.iter().any(|other| self.are_same(*other, place)) {
            out.push(place);
        }
    }

    /// Where in a row's array its value is, from 0; none if the array is NULL.
    fn find(&self, row: usize) -> Option<Option<usize>> {
        let wanted = self.element(1, row);
        Some(self.elements(0, row)?.position(|place| self.are_same((0, place), wanted)))
    }

    fn gathered(&self, places: &[Place]) -> Result<ArrayRef> {
        gathered(&self.sources, places, 0)
    }
}

/// Values of sources, all of the type of one of them.
fn gathered(sources: &[ArrayRef], places: &[Place], like: usize) -> Result<ArrayRef> {
    let like = &sources[like];
    if places.is_empty() {
        return Ok(new_empty_array(like.data_type()));
    }
    // Nothing is taken of those whose type is another one.
    let source = |source: &ArrayRef| {
        if source.data_type() == like.data_type() { source.clone() } else { like.clone() }
    };
    let sources: Vec<ArrayRef> = sources.iter().map(source).collect();
    let sources: Vec<&dyn Array> = sources.iter().map(AsRef::as_ref).collect();
    Ok(interleave(&sources, places)?)
}

fn elements_of(values: &ArrayRef) -> ArrayRef {
    match values.as_list_opt::<i32>() {
        Some(lists) => Arc::clone(lists.values()),
        // What maps are compared by is their keys.
        None => values.as_map_opt().map_or_else(|| Arc::clone(values), |maps| Arc::clone(maps.keys())),
    }
}

/// An array a row, of these elements; NULL where there is none.
fn lists(
    all: &Lists<'_>,
    rows: usize,
    of_row: impl Fn(&Lists<'_>, usize, &mut Vec<Place>) -> Option<()>,
) -> Result<ArrayRef> {
    let (mut places, mut lengths, mut is_valid) =
        (Vec::new(), Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut of_this: Vec<Place> = Vec::new();
    for row in 0..rows {
        of_this.clear();
        let is_there = of_row(all, row, &mut of_this).is_some();
        if !is_there {
            of_this.clear();
        }
        lengths.push(of_this.len());
        is_valid.push(is_there);
        places.append(&mut of_this);
    }
    let items = all.gathered(&places)?;
    let nulls = Some(NullBuffer::from(is_valid));
    Ok(Arc::new(ListArray::try_new(
        item(items.data_type()),
        OffsetBuffer::from_lengths(lengths),
        items,
        nulls,
    )?))
}

/// Elements of the first array that are in the second, or are not, each once.
fn among(all: &Lists<'_>, row: usize, out: &mut Vec<Place>, is_in: bool) -> Option<()> {
    let (first, second) = (all.elements(0, row)?, all.elements(1, row)?);
    for place in first {
        let is_there = second.clone().any(|other| all.are_same((0, place), (1, other)));
        if is_there == is_in {
            all.add_once((0, place), out);
        }
    }
    Some(())
}

/// From one position to another, both included; positions below 0 count from the end, and 0 is the beginning.
fn slice(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    lists(&Lists::of(&arguments[..1], ALL)?, rows, |all, row, out| {
        let elements = all.elements(0, row)?;
        let length = elements.len() as i64;
        let place = |position: i64| if position < 0 { length + position + 1 } else { position };
        let first = place(number(&arguments[1], row)?).max(1);
        let last = match arguments.get(2) {
            Some(last) => place(number(last, row)?).min(length),
            None => length,
        };
        // As in Flink a last position of 0 is the beginning, too.
        let last = if arguments.get(2).is_some_and(|last| number(last, row) == Some(0)) {
            1.min(length)
        } else {
            last
        };
        let kept = (first..=last).map(|position| (0, elements.start + position as usize - 1));
        out.extend(kept);
        Some(())
    })
}

/// By default NULL comes before all others in ascending order, and after them in descending order.
fn sort(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let flag = |which: usize, row: usize, otherwise: bool| -> Option<bool> {
        let Some(argument) = arguments.get(which) else { return Some(otherwise) };
        let (values, at) = (argument.values.as_boolean(), argument.index(row));
        values.is_valid(at).then(|| values.value(at))
    };
    lists(&Lists::of(&arguments[..1], ALL)?, rows, |all, row, out| {
        let elements = all.elements(0, row)?;
        let is_ascending = flag(1, row, true)?;
        let has_nulls_first = flag(2, row, is_ascending)?;
        let (nulls, mut values): (Vec<usize>, Vec<usize>) =
            elements.partition(|place| all.sources[0].is_null(*place));
        values.sort_by(|one, other| {
            let order = all.compare((0, *one), (0, *other));
            if is_ascending { order } else { order.reverse() }
        });
        let (first, second) = if has_nulls_first { (nulls, values) } else { (values, nulls) };
        out.extend(first.into_iter().chain(second).map(|place| (0, place)));
        Some(())
    })
}

/// The greatest or least element that is not NULL.
fn extreme(arguments: &[Argument], rows: usize, wanted: Ordering) -> Result<ArrayRef> {
    let all = Lists::of(arguments, ALL)?;
    let found = (0..rows).map(|row| {
        let places = all.elements(0, row)?.filter(|place| all.sources[0].is_valid(*place));
        let further = |best: usize, place: usize| match all.compare((0, place), (0, best)) == wanted {
            true => place,
            false => best,
        };
        places.reduce(further).map(|place| place as u64)
    });
    Ok(take(&all.sources[0], &found.collect::<UInt64Array>(), None)?)
}

fn only_element(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let all = Lists::of(arguments, ALL)?;
    let mut found = Vec::with_capacity(rows);
    for row in 0..rows {
        let elements = all.elements(0, row).unwrap_or_default();
        if elements.len() > 1 {
            return exec_err!("ELEMENT: the array has {} elements, and not one", elements.len());
        }
        found.push(elements.map(|place| place as u64).next());
    }
    Ok(take(&all.sources[0], &UInt64Array::from(found), None)?)
}

/// Elements that are NULL are left out, unless there is something in their place.
fn join(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let all = Lists::of(&arguments[..1], ALL)?;
    let words = all.sources[0].as_string::<i32>();
    texts(rows, |row| {
        let separator = text(arguments, 1, row)?;
        let instead = match arguments.get(2) {
            Some(_) => Some(text(arguments, 2, row)?),
            None => None,
        };
        let word = |place: usize| if words.is_valid(place) { Some(words.value(place)) } else { instead };
        let words: Vec<&str> = all.elements(0, row)?.filter_map(word).collect();
        Some(words.join(separator))
    })
}

/// What is made of the entries of maps, as arrays.
fn of_entries(
    arguments: &[Argument],
    rows: usize,
    elements: impl Fn(&MapArray) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    let argument = &arguments[0];
    let maps = argument.values.as_map();
    let items = elements(maps)?;
    let lists =
        ListArray::try_new(item(items.data_type()), maps.offsets().clone(), items, maps.nulls().cloned())?;
    let wanted: UInt64Array = (0..rows).map(|row| Some(argument.index(row) as u64)).collect();
    Ok(take(&lists, &wanted, None)?)
}

/// A map a row, of these keys and values; of equal keys the last one counts. NULL where there is none.
fn maps(
    arguments: &[Argument],
    rows: usize,
    of_row: impl Fn(&Lists<'_>, usize, &mut Vec<(Place, Place)>) -> Result<Option<()>>,
) -> Result<ArrayRef> {
    let all = Lists::of(arguments, ALL)?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let (mut lengths, mut is_valid) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut entries: Vec<(Place, Place)> = Vec::new();
    for row in 0..rows {
        entries.clear();
        is_valid.push(of_row(&all, row, &mut entries)?.is_some());
        let before = keys.len();
        for (number, (key, value)) in entries.iter().enumerate() {
            if all.sources[key.0].is_null(key.1) {
                return exec_err!("a key of a MAP is NULL");
            }
            if !entries[number + 1..].iter().any(|(later, _)| all.are_same(*later, *key)) {
                keys.push(*key);
                values.push(*value);
            }
        }
        lengths.push(keys.len() - before);
    }
    let of_values: Vec<ArrayRef> = arguments.iter().map(values_of).collect();
    let values = gathered(&of_values, &values, of_values.len() - 1)?;
    let columns = vec![all.gathered(&keys)?, values];
    let map_type = plan::map_type(columns[0].data_type().clone(), columns[1].data_type().clone());
    let DataType::Map(entries, _) = &map_type else { return exec_err!("{map_type} is no MAP") };
    let DataType::Struct(fields) = entries.data_type() else { return exec_err!("{map_type} has no entries") };
    let of_rows = StructArray::try_new(fields.clone(), columns, None)?;
    let nulls = Some(NullBuffer::from(is_valid));
    Ok(Arc::new(MapArray::try_new(
        Arc::clone(entries),
        OffsetBuffer::from_lengths(lengths),
        of_rows,
        nulls,
        false,
    )?))
}

/// The values of maps, or the elements of arrays.
fn values_of(argument: &Argument) -> ArrayRef {
    match argument.values.as_map_opt() {
        Some(maps) => Arc::clone(maps.values()),
        None => elements_of(&argument.values),
    }
}
