//! Functions over strings. Positions and lengths count characters.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Builder, Int64Array, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::Result;

use super::regex_cache::RegexCache;
use super::scalar::{Argument, Scalar};

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["lower"],
        usage: "LOWER(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| map_text(&arguments[0], rows, |text| text.to_lowercase()),
    },
    Scalar {
        names: &["upper"],
        usage: "UPPER(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| map_text(&arguments[0], rows, |text| text.to_uppercase()),
    },
    Scalar {
        names: &["char_length", "character_length"],
        usage: "CHAR_LENGTH(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Int32,
        call: char_length,
    },
    Scalar {
        names: &["replace"],
        usage: "REPLACE(string, search, replacement)",
        accepts: |given| strings(given, 3, 3),
        returns: |_| DataType::Utf8,
        call: replace,
    },
    Scalar {
        names: &["concat"],
        usage: "CONCAT(string, …)",
        accepts: |given| strings(given, 1, usize::MAX),
        returns: |_| DataType::Utf8,
        call: concat,
    },
    Scalar {
        names: &["substring", "substr"],
        usage: "SUBSTRING(string, start[, length])",
        accepts: |given| match given {
            [text, start] if is_text(text) && start.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Int64])
            }
            [text, start, length] if is_text(text) && start.is_integer() && length.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Int64, DataType::Int64])
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: substring,
    },
    Scalar {
        names: &["regexp_extract"],
        usage: "REGEXP_EXTRACT(string, pattern[, group])",
        accepts: |given| match given {
            [text, pattern] if is_text(text) && is_text(pattern) => {
                Some(vec![DataType::Utf8, DataType::Utf8])
            }
            [text, pattern, group] if is_text(text) && is_text(pattern) && group.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: regexp_extract,
    },
    Scalar {
        names: &["split_index"],
        usage: "SPLIT_INDEX(string, separator, index from 0)",
        accepts: |given| match given {
            [text, separator, index] if is_text(text) && is_text(separator) && index.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: split_index,
    },
];

/// True for a type that is read as a string.
pub fn is_text(given: &DataType) -> bool {
    matches!(given, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// So many strings.
pub fn strings(given: &[DataType], least: usize, most: usize) -> Option<Vec<DataType>> {
    let fits = (least..=most).contains(&given.len()) && given.iter().all(is_text);
    fits.then(|| vec![DataType::Utf8; given.len()])
}

/// A string argument, read row by row.
pub struct Text<'a> {
    values: &'a StringArray,
    is_constant: bool,
}

impl<'a> Text<'a> {
    pub fn of(argument: &'a Argument) -> Self {
        Text { values: argument.values.as_string(), is_constant: argument.is_constant }
    }

    /// The value of a row; `None` is NULL.
    pub fn get(&self, row: usize) -> Option<&'a str> {
        let index = if self.is_constant { 0 } else { row };
        self.values.is_valid(index).then(|| self.values.value(index))
    }
}

/// A number argument of a row; `None` is NULL.
pub fn number(argument: &Argument, row: usize) -> Option<i64> {
    let values: &Int64Array = argument.values.as_primitive::<Int64Type>();
    let index = argument.index(row);
    values.is_valid(index).then(|| values.value(index))
}

fn map_text(argument: &Argument, rows: usize, change: impl Fn(&str) -> String) -> Result<ArrayRef> {
    let text = Text::of(argument);
    Ok(Arc::new((0..rows).map(|row| text.get(row).map(&change)).collect::<StringArray>()))
}

fn char_length(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let text = Text::of(&arguments[0]);
    let mut out = Int32Builder::with_capacity(rows);
    for row in 0..rows {
        out.append_option(text.get(row).map(|text| characters(text) as i32));
    }
    Ok(Arc::new(out.finish()))
}

fn characters(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn replace(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let [text, search, replacement] = [0, 1, 2].map(|n| Text::of(&arguments[n]));
    let mut out = StringBuilder::new();
    for row in 0..rows {
        out.append_option(match (text.get(row), search.get(row), replacement.get(row)) {
            (Some(text), Some(""), Some(_)) => Some(text.to_owned()),
            (Some(text), Some(search), Some(replacement)) => Some(text.replace(search, replacement)),
            _ => None,
        });
    }
    Ok(Arc::new(out.finish()))
}

fn concat(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let parts: Vec<Text<'_>> = arguments.iter().map(Text::of).collect();
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let joined: Option<String> = parts.iter().map(|part| part.get(row)).collect();
        out.append_option(joined);
    }
    Ok(Arc::new(out.finish()))
}

/// The first character is number 1; a negative start counts from the end; 0 counts as 1.
fn substring(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let text = Text::of(&arguments[0]);
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let length = arguments.get(2).map(|argument| number(argument, row));
        out.append_option(match (text.get(row), number(&arguments[1], row), length) {
            (None, ..) | (_, None, _) | (.., Some(None)) => None,
            (Some(text), Some(start), length) => slice(text, start, length.flatten()),
        });
    }
    Ok(Arc::new(out.finish()))
}

fn slice(text: &str, start: i64, length: Option<i64>) -> Option<String> {
    let count = characters(text) as i64;
    let skip = match start {
        0 => 0,
        1.. => start - 1,
        _ => count + start,
    };
    if skip < 0 || skip >= count {
        return Some(String::new());
    }
    let take = length.unwrap_or(i64::MAX);
    if take < 0 {
        return None;
    }
    Some(text.chars().skip(skip as usize).take(take as usize).collect())
}

fn regexp_extract(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let [text, pattern] = [0, 1].map(|n| Text::of(&arguments[n]));
    let mut cache = RegexCache::default();
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let group = arguments.get(2).map_or(Some(0), |argument| number(argument, row));
        let (Some(text), Some(pattern), Some(group)) = (text.get(row), pattern.get(row), group) else {
            out.append_null();
            continue;
        };
        let found = usize::try_from(group).ok().zip(cache.get(pattern)?.captures(text));
        out.append_option(
            found.and_then(|(group, captures)| captures.get(group)).map(|found| found.as_str()),
        );
    }
    Ok(Arc::new(out.finish()))
}

fn split_index(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let [text, separator] = [0, 1].map(|n| Text::of(&arguments[n]));
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let index = number(&arguments[2], row).and_then(|index| usize::try_from(index).ok());
        out.append_option(match (text.get(row), separator.get(row), index) {
            (Some(""), ..) => None,
            (Some(text), Some(""), Some(index)) => text.split_whitespace().nth(index),
            (Some(text), Some(separator), Some(index)) => text.split(separator).nth(index),
            _ => None,
        });
    }
    Ok(Arc::new(out.finish()))
}
