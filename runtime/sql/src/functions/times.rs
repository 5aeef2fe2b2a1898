//! Functions over dates and times.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, TimestampMillisecondArray};
use arrow::compute::{DatePart, cast, date_part};
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use chrono::{DateTime, Datelike, NaiveDateTime, Timelike};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::numbers::expand;
use super::scalar::{Argument, Scalar};
use super::strings::Text;

const MILLISECONDS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

macro_rules! part {
    ($name:literal, $part:expr) => {
        Scalar {
            names: &[$name],
            usage: concat!($name, "(timestamp)"),
            accepts: |given| matches!(given, [one] if is_time(one)).then(|| vec![MILLISECONDS]),
            returns: |_| DataType::Int64,
            call: |arguments, rows| part(arguments, rows, $part),
        }
    };
}

pub const FUNCTIONS: &[Scalar] = &[
    part!("year", DatePart::Year),
    part!("quarter", DatePart::Quarter),
    part!("month", DatePart::Month),
    part!("week", DatePart::Week),
    part!("dayofyear", DatePart::DayOfYear),
    part!("dayofmonth", DatePart::Day),
    part!("hour", DatePart::Hour),
    part!("minute", DatePart::Minute),
    part!("second", DatePart::Second),
    Scalar {
        names: &["date_format"],
        usage: "DATE_FORMAT(timestamp, 'yyyy-MM-dd HH:mm:ss')",
        accepts: |given| match given {
            [time, DataType::Utf8 | DataType::Utf8View | DataType::Null] if is_time(time) => {
                Some(vec![MILLISECONDS, DataType::Utf8])
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: date_format,
    },
];

fn is_time(given: &DataType) -> bool {
    matches!(given, DataType::Timestamp(..) | DataType::Date32 | DataType::Null)
}

fn part(arguments: &[Argument], rows: usize, which: DatePart) -> Result<ArrayRef> {
    let values = date_part(&expand(&arguments[0], rows)?, which)?;
    Ok(cast(&values, &DataType::Int64)?)
}

fn date_format(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let times: &TimestampMillisecondArray = arguments[0].values.as_primitive::<TimestampMillisecondType>();
    let patterns = Text::of(&arguments[1]);
    let mut out = StringBuilder::new();
    let mut text = String::new();
    let mut compiled: Option<(&str, Vec<Piece>)> = None;
    for row in 0..rows {
        let index = arguments[0].index(row);
        let Some(pattern) = patterns.get(row).filter(|_| times.is_valid(index)) else {
            out.append_null();
            continue;
        };
        if compiled.as_ref().is_none_or(|(known, _)| *known != pattern) {
            compiled = Some((pattern, compile(pattern)?));
        }
        let time = DateTime::from_timestamp_millis(times.value(index))
            .ok_or_else(|| exec_datafusion_err!("the time {} is out of range", times.value(index)))?
            .naive_utc();
        text.clear();
        for piece in compiled.iter().flat_map(|(_, pieces)| pieces) {
            piece.write(&time, &mut text);
        }
        out.append_value(&text);
    }
    Ok(Arc::new(out.finish()))
}

/// A piece of a pattern of Java's `DateTimeFormatter`.
enum Piece {
    Literal(String),
    Number { letter: char, width: usize },
}

fn compile(pattern: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter == '\'' {
            pieces.push(Piece::Literal(quoted(&mut rest)));
        } else if letter.is_ascii_alphabetic() {
            let mut width = 1;
            while rest.next_if_eq(&letter).is_some() {
                width += 1;
            }
            if !"yuMdHhmsS".contains(letter) {
                return exec_err!("DATE_FORMAT does not know the letter '{letter}' in '{pattern}'");
            }
            pieces.push(Piece::Number { letter, width });
        } else {
            pieces.push(Piece::Literal(letter.to_string()));
        }
    }
    Ok(pieces)
}

fn quoted(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    if rest.next_if_eq(&'\'').is_some() {
        return "'".to_owned();
    }
    let mut text = String::new();
    while let Some(letter) = rest.next() {
        match letter {
            '\'' if rest.next_if_eq(&'\'').is_some() => text.push('\''),
            '\'' => break,
            letter => text.push(letter),
        }
    }
    text
}

impl Piece {
    fn write(&self, time: &NaiveDateTime, out: &mut String) {
        use std::fmt::Write;
        let (letter, width) = match self {
            Piece::Literal(text) => return out.push_str(text),
            Piece::Number { letter, width } => (*letter, *width),
        };
        let number = match letter {
            'y' | 'u' if width == 2 => i64::from(time.year().rem_euclid(100)),
            'y' | 'u' => i64::from(time.year()),
            'M' => i64::from(time.month()),
            'd' => i64::from(time.day()),
            'H' => i64::from(time.hour()),
            'h' => i64::from(time.hour12().1),
            'm' => i64::from(time.minute()),
            's' => i64::from(time.second()),
            _ => {
                let digits = format!("{:09}", time.nanosecond());
                return out.extend(digits.chars().chain(std::iter::repeat('0')).take(width));
            }
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "{number:0width$}");
    }
}
