//! Functions that look for something in a string. Positions count characters, from 1; 0 is nowhere.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::Result;
use regex::Regex;

use super::regex_cache::RegexCache;
use super::scalar::{Argument, Scalar};
use super::shape::text;
use super::strings::{is_text, number, strings};

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["position", "locate"],
        usage: "POSITION(searched IN string), LOCATE(searched, string[, start])",
        accepts: |given| match given {
            [searched, text] if is_text(searched) && is_text(text) => {
                Some(vec![DataType::Utf8, DataType::Utf8])
            }
            [searched, text, start] if is_text(searched) && is_text(text) && start.is_integer() => {
                Some(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => None,
        },
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            positions(rows, |row| {
                let start = arguments.get(2).map_or(Some(1), |start| number(start, row))?;
                locate(text(arguments, 0, row)?, text(arguments, 1, row)?, start)
            })
        },
    },
    Scalar {
        names: &["instr"],
        usage: "INSTR(string, searched)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            positions(rows, |row| locate(text(arguments, 1, row)?, text(arguments, 0, row)?, 1))
        },
    },
    Scalar {
        names: &["ascii"],
        usage: "ASCII(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            positions(rows, |row| Some(text(arguments, 0, row)?.bytes().next().map_or(0, i32::from)))
        },
    },
    Scalar {
        names: &["startswith"],
        usage: "STARTSWITH(string, beginning)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Boolean,
        call: |arguments, rows| {
            answers(rows, |row| Some(text(arguments, 0, row)?.starts_with(text(arguments, 1, row)?)))
        },
    },
    Scalar {
        names: &["endswith"],
        usage: "ENDSWITH(string, end)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Boolean,
        call: |arguments, rows| {
            answers(rows, |row| Some(text(arguments, 0, row)?.ends_with(text(arguments, 1, row)?)))
        },
    },
    Scalar {
        names: &["regexp"],
        usage: "REGEXP(string, pattern)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Boolean,
        call: regexp,
    },
    Scalar {
        names: &["regexp_count"],
        usage: "REGEXP_COUNT(string, pattern)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            let mut cache = RegexCache::default();
            positions(rows, |row| {
                Some(matcher(&mut cache, arguments, row)?.find_iter(text(arguments, 0, row)?).count() as i32)
            })
        },
    },
    Scalar {
        names: &["regexp_instr"],
        usage: "REGEXP_INSTR(string, pattern)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Int32,
        call: |arguments, rows| {
            let mut cache = RegexCache::default();
            positions(rows, |row| {
                let text = text(arguments, 0, row)?;
                let found = matcher(&mut cache, arguments, row)?.find(text);
                Some(found.map_or(0, |found| text[..found.start()].chars().count() as i32 + 1))
            })
        },
    },
    Scalar {
        names: &["regexp_substr"],
        usage: "REGEXP_SUBSTR(string, pattern)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let mut cache = RegexCache::default();
            let found = (0..rows).map(|row| {
                let text = text(arguments, 0, row)?;
                Some(matcher(&mut cache, arguments, row)?.find(text)?.as_str().to_owned())
            });
            Ok(Arc::new(found.collect::<StringArray>()))
        },
    },
    Scalar {
        names: &["is_alpha"],
        usage: "IS_ALPHA(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Boolean,
        call: |arguments, rows| consists_of(arguments, rows, char::is_alphabetic),
    },
    Scalar {
        names: &["is_digit"],
        usage: "IS_DIGIT(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Boolean,
        call: |arguments, rows| consists_of(arguments, rows, char::is_numeric),
    },
    Scalar {
        names: &["is_decimal"],
        usage: "IS_DECIMAL(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Boolean,
        call: |arguments, rows| answers(rows, |row| Some(text(arguments, 0, row).is_some_and(is_decimal))),
    },
    Scalar {
        names: &["regexp_replace"],
        usage: "REGEXP_REPLACE(string, pattern, replacement)",
        accepts: |given| strings(given, 3, 3),
        returns: |_| DataType::Utf8,
        call: regexp_replace,
    },
];

/// The pattern of a row, which is the second argument. NULL and what is no pattern match nothing and give NULL, as in Flink.
fn matcher<'c>(cache: &'c mut RegexCache, arguments: &[Argument], row: usize) -> Option<&'c Regex> {
    cache.get(text(arguments, 1, row)?).ok()
}

/// True for a string that is not empty and has only such letters; NULL has none.
fn consists_of(arguments: &[Argument], rows: usize, is: fn(char) -> bool) -> Result<ArrayRef> {
    answers(rows, |row| {
        Some(text(arguments, 0, row).is_some_and(|text| !text.is_empty() && text.chars().all(is)))
    })
}

/// Digits with at most one point among them, and a sign or none before them.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    !(whole.is_empty() && fraction.is_empty()) && are_digits(whole) && are_digits(fraction)
}

fn positions(rows: usize, value: impl FnMut(usize) -> Option<i32>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Int32Array>()))
}

fn answers(rows: usize, value: impl Fn(usize) -> Option<bool>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<BooleanArray>()))
}

fn locate(searched: &str, text: &str, start: i64) -> Option<i32> {
    let skipped = usize::try_from(start - 1).ok();
    let Some(first) =
        skipped.and_then(|skipped| text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(skipped))
    else {
        return Some(0);
    };
    let found = text[first..].find(searched);
    Some(found.map_or(0, |found| text[..first + found].chars().count() as i32 + 1))
}

fn regexp(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let mut cache = RegexCache::default();
    let mut matches = Vec::with_capacity(rows);
    for row in 0..rows {
        matches.push(match (text(arguments, 0, row), text(arguments, 1, row)) {
            (Some(text), Some(pattern)) => Some(cache.get(pattern)?.is_match(text)),
            _ => None,
        });
    }
    Ok(Arc::new(BooleanArray::from(matches)))
}

fn regexp_replace(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let mut cache = RegexCache::default();
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let all = (text(arguments, 0, row), text(arguments, 1, row), text(arguments, 2, row));
        let (Some(text), Some(pattern), Some(replacement)) = all else {
            out.append_null();
            continue;
        };
        out.append_value(cache.get(pattern)?.replace_all(text, groups(replacement).as_str()));
    }
    Ok(Arc::new(out.finish()))
}

/// A replacement as Java writes it, where `$1` is a group of one digit and `\\` takes the meaning from what follows.
fn groups(replacement: &str) -> String {
    let mut out = String::new();
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('$') => out.push_str("$$"),
                Some(other) => out.push(other),
                None => {}
            },
            '$' => match letters.next_if(char::is_ascii_digit) {
                Some(digit) => out.push_str(&format!("${{{digit}}}")),
                None => out.push_str("$$"),
            },
            letter => out.push(letter),
        }
    }
    out
}
