//! Functions that give a string another shape: trimmed, padded, turned, cut, joined. Lengths and positions count characters, from 1.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::Result;

use super::scalar::{Argument, Scalar};
use super::strings::{Text, is_text, number, strings};

/// A function that gives a string for each row, or NULL.
macro_rules! text {
    ($name:literal, $usage:literal, $accepts:expr, |$arguments:ident, $row:ident| $value:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: $accepts,
            returns: |_| DataType::Utf8,
            call: |$arguments, rows| texts(rows, |$row| $value),
        }
    };
}

pub const FUNCTIONS: &[Scalar] = &[
    text!(
        "btrim",
        "BTRIM(string[, characters]), TRIM([BOTH|LEADING|TRAILING] [characters FROM] string)",
        |given| strings(given, 1, 2),
        |arguments, row| {
            let (text, set) = trimmed(arguments, row)?;
            Some(text.trim_matches(set.as_slice()).to_owned())
        }
    ),
    text!("ltrim", "LTRIM(string[, characters])", |given| strings(given, 1, 2), |arguments, row| {
        let (text, set) = trimmed(arguments, row)?;
        Some(text.trim_start_matches(set.as_slice()).to_owned())
    }),
    text!("rtrim", "RTRIM(string[, characters])", |given| strings(given, 1, 2), |arguments, row| {
        let (text, set) = trimmed(arguments, row)?;
        Some(text.trim_end_matches(set.as_slice()).to_owned())
    }),
    text!("reverse", "REVERSE(string)", |given| strings(given, 1, 1), |arguments, row| {
        Some(text(arguments, 0, row)?.chars().rev().collect())
    }),
    text!("initcap", "INITCAP(string)", |given| strings(given, 1, 1), |arguments, row| {
        Some(initcap(text(arguments, 0, row)?))
    }),
    text!("lpad", "LPAD(string, length, padding)", padded, |arguments, row| {
        let (text, missing) = pad(arguments, row)?;
        Some(missing + &text)
    }),
    text!("rpad", "RPAD(string, length, padding)", padded, |arguments, row| {
        let (text, missing) = pad(arguments, row)?;
        Some(text + &missing)
    }),
    text!("left", "LEFT(string, length)", text_and_number, |arguments, row| {
        let length = usize::try_from(number(&arguments[1], row)?).unwrap_or(0);
        Some(text(arguments, 0, row)?.chars().take(length).collect())
    }),
    text!("right", "RIGHT(string, length)", text_and_number, |arguments, row| {
        let (text, length) = (text(arguments, 0, row)?, number(&arguments[1], row)?);
        let skip = text.chars().count().saturating_sub(usize::try_from(length).unwrap_or(0));
        Some(text.chars().skip(skip).collect())
    }),
    text!("repeat", "REPEAT(string, times)", text_and_number, |arguments, row| {
        let times = usize::try_from(number(&arguments[1], row)?).unwrap_or(0);
        Some(text(arguments, 0, row)?.repeat(times))
    }),
    text!(
        "overlay",
        "OVERLAY(string PLACING replacement FROM start [FOR length])",
        |given| match given {
            [text, replacement, numbers @ ..]
                if is_text(text)
                    && is_text(replacement)
                    && (1..=2).contains(&numbers.len())
                    && numbers.iter().all(DataType::is_integer) =>
            {
                let numbers = vec![DataType::Int64; numbers.len()];
                Some([vec![DataType::Utf8, DataType::Utf8], numbers].concat())
            }
            _ => None,
        },
        |arguments, row| overlay(arguments, row)
    ),
    Scalar {
        names: &["concat_ws"],
        usage: "CONCAT_WS(separator, string, …)",
        accepts: |given| strings(given, 1, usize::MAX),
        returns: |_| DataType::Utf8,
        call: concat_ws,
    },
];

/// A string for each row.
/// Strings made row by row; `None` is NULL.
pub fn texts(rows: usize, value: impl Fn(usize) -> Option<String>) -> Result<ArrayRef> {
    let mut out = StringBuilder::new();
    (0..rows).for_each(|row| out.append_option(value(row)));
    Ok(Arc::new(out.finish()))
}

/// A string argument of a row.
pub fn text(arguments: &[Argument], which: usize, row: usize) -> Option<&str> {
    Text::of(&arguments[which]).get(row)
}

/// A string and a whole number.
pub fn text_and_number(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [text, number] if is_text(text) && number.is_integer() => Some(vec![DataType::Utf8, DataType::Int64]),
        _ => None,
    }
}

fn padded(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [text, length, padding] if is_text(text) && length.is_integer() && is_text(padding) => {
            Some(vec![DataType::Utf8, DataType::Int64, DataType::Utf8])
        }
        _ => None,
    }
}

/// The string, and the characters to take off its ends: blanks, unless others are given.
fn trimmed(arguments: &[Argument], row: usize) -> Option<(&str, Vec<char>)> {
    let set = match arguments.get(1) {
        Some(_) => text(arguments, 1, row)?.chars().collect(),
        None => vec![' '],
    };
    Some((text(arguments, 0, row)?, set))
}

/// Words begin with a capital and go on in small letters; what is neither letter nor digit divides them.
fn initcap(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_inside = false;
    for letter in text.chars() {
        match (letter.is_alphanumeric(), is_inside) {
            (true, false) => out.extend(letter.to_uppercase()),
            (true, true) => out.extend(letter.to_lowercase()),
            (false, _) => out.push(letter),
        }
        is_inside = letter.is_alphanumeric();
    }
    out
}

/// The string cut to a length, and what is missing to it. NULL for a negative length, or if there is nothing to pad with.
fn pad(arguments: &[Argument], row: usize) -> Option<(String, String)> {
    let (text, padding) = (text(arguments, 0, row)?, text(arguments, 2, row)?);
    let length = usize::try_from(number(&arguments[1], row)?).ok()?;
    if padding.is_empty() {
        return None;
    }
    let missing = length.saturating_sub(text.chars().count());
    Some((text.chars().take(length).collect(), padding.chars().cycle().take(missing).collect()))
}

/// A start outside of the string changes nothing. Without a length as many characters go as come.
fn overlay(arguments: &[Argument], row: usize) -> Option<String> {
    let (text, replacement) = (text(arguments, 0, row)?, text(arguments, 1, row)?);
    let start = number(&arguments[2], row)?;
    let length = match arguments.get(3) {
        Some(length) => number(length, row)?,
        None => replacement.chars().count() as i64,
    };
    let letters: Vec<char> = text.chars().collect();
    if start < 1 || start > letters.len() as i64 {
        return Some(text.to_owned());
    }
    let mut out: String = letters[..start as usize - 1].iter().collect();
    out.push_str(replacement);
    if length > 0 {
        let rest = (start - 1).saturating_add(length) as usize;
        out.extend(letters.iter().skip(rest));
    }
    Some(out)
}

/// NULLs are left out; without a separator there is no result.
fn concat_ws(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    texts(rows, |row| {
        let separator = text(arguments, 0, row)?;
        let parts: Vec<&str> = (1..arguments.len()).filter_map(|part| text(arguments, part, row)).collect();
        Some(parts.join(separator))
    })
}
