//! Functions that cut a string into an array or a map.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, MapArray, StringArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use datafusion_common::{Result, exec_err};

use super::regex_cache::RegexCache;
use super::scalar::{Argument, Scalar};
use super::shape::text;
use super::strings::{is_text, number, strings};
use crate::plan;

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["split"],
        usage: "SPLIT(string, delimiter)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| texts_type(),
        call: |arguments, rows| {
            lists(rows, |row| {
                let (text, delimiter) = (text(arguments, 0, row)?, text(arguments, 1, row)?);
                Some(match delimiter.is_empty() {
                    true => text.chars().map(|letter| Some(letter.to_string())).collect(),
                    false => text.split(delimiter).map(|piece| Some(piece.to_owned())).collect(),
                })
            })
        },
    },
    Scalar {
        names: &["regexp_extract_all"],
        usage: "REGEXP_EXTRACT_ALL(string, pattern[, group])",
        accepts: |given| match given {
            [text, pattern] if is_text(text) && is_text(pattern) => Some(vec![DataType::Utf8; 2]),
            [text, pattern, group] if is_text(text) && is_text(pattern) && group.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => None,
        },
        returns: |_| texts_type(),
        call: |arguments, rows| {
            let mut cache = RegexCache::default();
            lists(rows, |row| {
                let group = arguments.get(2).map_or(Some(1), |group| number(group, row))?;
                let (text, pattern) = (text(arguments, 0, row)?, text(arguments, 1, row)?);
                let pattern = cache.get(pattern).ok()?;
                let group = usize::try_from(group).ok().filter(|group| *group < pattern.captures_len())?;
                let piece =
                    |found: regex::Captures<'_>| found.get(group).map(|piece| piece.as_str().to_owned());
                Some(pattern.captures_iter(text).map(piece).collect())
            })
        },
    },
    Scalar {
        names: &["str_to_map"],
        usage: "STR_TO_MAP(string[, between pairs, between key and value])",
        accepts: |given| strings(given, 1, 3).filter(|given| given.len() != 2),
        returns: |_| plan::map_type(DataType::Utf8, DataType::Utf8),
        call: str_to_map,
    },
];

/// ARRAY<STRING>.
fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

/// An array of strings for each row; `None` is NULL.
fn lists(rows: usize, mut pieces: impl FnMut(usize) -> Option<Vec<Option<String>>>) -> Result<ArrayRef> {
    let (mut items, mut lengths, mut is_there) = (StringBuilder::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let pieces = pieces(row);
        is_there.push(pieces.is_some());
        let pieces = pieces.unwrap_or_default();
        lengths.push(pieces.len());
        pieces.into_iter().for_each(|piece| items.append_option(piece));
    }
    let DataType::List(item) = texts_type() else { return exec_err!("an array is no list") };
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(
        item,
        offsets,
        Arc::new(items.finish()),
        Some(NullBuffer::from(is_there)),
    )?))
}

/// Pairs between `,` of keys and values between `=`, unless other regular expressions are given. Of equal keys the last one counts.
fn str_to_map(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let mut cache = RegexCache::default();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let (mut lengths, mut is_there) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let delimiter = |which: usize, usual: &'static str| match arguments.len() {
            1 => Some(usual),
            _ => text(arguments, which, row),
        };
        let all = (text(arguments, 0, row), delimiter(1, ","), delimiter(2, "="));
        let (Some(text), Some(pairs), Some(within)) = all else {
            is_there.push(false);
            lengths.push(0);
            continue;
        };
        let mut pairs: Vec<String> = cache.get(pairs)?.split(text).map(str::to_owned).collect();
        // As Java splits: what is empty at the end is nothing.
        while pairs.last().is_some_and(String::is_empty) {
            pairs.pop();
        }
        let within = cache.get(within)?;
        let mut entries: Vec<(String, Option<String>)> = Vec::new();
        for pair in pairs {
            let mut parts = within.splitn(&pair, 2);
            let key = parts.next().unwrap_or_default().to_owned();
            let value = parts.next().map(str::to_owned);
            entries.retain(|(known, _)| *known != key);
            entries.push((key, value));
        }
        is_there.push(true);
        lengths.push(entries.len());
        for (key, value) in entries {
            keys.push(key);
            values.push(value);
        }
    }
    let DataType::Map(entries, _) = plan::map_type(DataType::Utf8, DataType::Utf8) else {
        return exec_err!("a map is no map");
    };
    let DataType::Struct(fields) = entries.data_type() else { return exec_err!("a map has no entries") };
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(keys)), Arc::new(StringArray::from(values))];
    let pairs = StructArray::try_new(fields.clone(), columns, None)?;
    let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), NullBuffer::from(is_there));
    Ok(Arc::new(MapArray::try_new(Arc::clone(&entries), offsets, pairs, Some(nulls), false)?))
}
