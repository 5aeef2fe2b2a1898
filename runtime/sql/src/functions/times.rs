//! Functions over dates and times.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringBuilder, TimestampMillisecondArray};
use arrow::compute::{DatePart, cast, date_part};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMillisecondType};
use chrono::{DateTime, Datelike, NaiveDateTime, Timelike};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::cast::at_or_before;
use super::numbers::expand;
use super::scalar::{Argument, Scalar};
use super::strings::{Text, is_text, number};

pub const MILLISECONDS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

macro_rules! part_of_day {
    ($name:literal, $usage:literal, $part:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: |given| match given {
                [DataType::Time32(_) | DataType::Time64(_)] => {
                    Some(vec![DataType::Time32(TimeUnit::Millisecond)])
                }
                [one] if is_time(one) => Some(vec![MILLISECONDS]),
                _ => None,
            },
            returns: |_| DataType::Int64,
            call: |arguments, rows| part(arguments, rows, $part),
        }
    };
}

macro_rules! part {
    ($name:literal, $usage:literal, $part:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: |given| matches!(given, [one] if is_time(one)).then(|| vec![MILLISECONDS]),
            returns: |_| DataType::Int64,
            call: |arguments, rows| part(arguments, rows, $part),
        }
    };
}

pub const FUNCTIONS: &[Scalar] = &[
    part!("year", "YEAR(timestamp)", DatePart::Year),
    part!("quarter", "QUARTER(timestamp)", DatePart::Quarter),
    part!("month", "MONTH(timestamp)", DatePart::Month),
    part!("week", "WEEK(timestamp)", DatePart::Week),
    part!("dayofyear", "DAYOFYEAR(timestamp)", DatePart::DayOfYear),
    part!("dayofmonth", "DAYOFMONTH(timestamp)", DatePart::Day),
    part_of_day!("hour", "HOUR(timestamp or time)", DatePart::Hour),
    part_of_day!("minute", "MINUTE(timestamp or time)", DatePart::Minute),
    part_of_day!("second", "SECOND(timestamp or time)", DatePart::Second),
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
    // ISO counts from Monday, Flink from Sunday, which is 1.
    Scalar {
        names: &["dayofweek"],
        usage: "DAYOFWEEK(timestamp)",
        accepts: |given| matches!(given, [one] if is_time(one)).then(|| vec![MILLISECONDS]),
        returns: |_| DataType::Int64,
        call: |arguments, rows| {
            let days = part(arguments, rows, DatePart::DayOfWeekSunday0)?;
            Ok(Arc::new(days.as_primitive::<Int64Type>().unary::<_, Int64Type>(|day| day + 1)))
        },
    },
    Scalar {
        names: &["floor_to"],
        usage: "FLOOR(timestamp TO unit)",
        accepts: time_and_unit,
        returns: |given| given[0].clone(),
        call: |arguments, rows| times(arguments, rows, floor),
    },
    Scalar {
        names: &["ceil_to"],
        usage: "CEIL(timestamp TO unit)",
        accepts: time_and_unit,
        returns: |given| given[0].clone(),
        call: |arguments, rows| {
            times(arguments, rows, |time, unit| {
                let start = floor(time, unit)?;
                if start == time { Some(time) } else { add(start, unit, 1) }
            })
        },
    },
    // Digits of a second behind these are left out.
    Scalar {
        names: &["time_cut"],
        usage: "time_cut(timestamp, digits)",
        accepts: |given| match given {
            [time @ DataType::Timestamp(..), digits] if digits.is_integer() => {
                Some(vec![time.clone(), DataType::Int64])
            }
            _ => None,
        },
        returns: |given| given[0].clone(),
        call: time_cut,
    },
    Scalar {
        names: &["timestampdiff"],
        usage: "TIMESTAMPDIFF(unit, timestamp, timestamp)",
        accepts: |given| match given {
            [unit, from, to] if is_text(unit) && is_time(from) && is_time(to) => {
                Some(vec![DataType::Utf8, MILLISECONDS, MILLISECONDS])
            }
            _ => None,
        },
        returns: |_| DataType::Int32,
        call: timestampdiff,
    },
    Scalar {
        names: &["timestampadd"],
        usage: "TIMESTAMPADD(unit, number, timestamp)",
        accepts: |given| match given {
            [unit, number, time] if is_text(unit) && number.is_integer() && is_time(time) => {
                let zone = match time {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                let time = DataType::Timestamp(TimeUnit::Millisecond, zone);
                Some(vec![DataType::Utf8, DataType::Int64, time])
            }
            _ => None,
        },
        returns: |given| given[2].clone(),
        call: timestampadd,
    },
];

fn time_cut(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let to = arguments[0].values.data_type().clone();
    let DataType::Timestamp(unit, _) = &to else { return exec_err!("only times have digits of a second") };
    let held: u32 = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    let times = cast(&expand(&arguments[0], rows)?, &DataType::Int64)?;
    let digits = number(&arguments[1], 0).and_then(|digits| u32::try_from(digits).ok()).unwrap_or(held);
    let step = 10_i64.pow(held.saturating_sub(digits));
    let cut = times.as_primitive::<Int64Type>().unary::<_, Int64Type>(|time| time - time.rem_euclid(step));
    Ok(cast(&cut, &to)?)
}

fn time_and_unit(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [DataType::Date32, unit] if is_text(unit) => Some(vec![DataType::Date32, DataType::Utf8]),
        [time, unit] if is_time(time) && is_text(unit) => Some(vec![MILLISECONDS, DataType::Utf8]),
        _ => None,
    }
}

/// A unit of time, by its SQL name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// So many months.
    Months(u32),
    /// So many milliseconds.
    Millis(i64),
}

const WEEK_MS: i64 = 7 * 86_400_000;

/// Days from a Sunday to 1970-01-01, a Thursday.
const WEEK_OFFSET_MS: i64 = 4 * 86_400_000;

fn unit(name: &str) -> Result<Unit> {
    Ok(match name.to_ascii_uppercase().trim_end_matches('S') {
        "YEAR" => Unit::Months(12),
        "QUARTER" => Unit::Months(3),
        "MONTH" => Unit::Months(1),
        "WEEK" => Unit::Millis(WEEK_MS),
        "DAY" => Unit::Millis(86_400_000),
        "HOUR" => Unit::Millis(3_600_000),
        "MINUTE" => Unit::Millis(60_000),
        "SECOND" => Unit::Millis(1_000),
        "MILLISECOND" => Unit::Millis(1),
        _ => {
            return exec_err!(
                "'{name}' is not a unit of time; use YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE or SECOND"
            );
        }
    })
}

/// A time for each row, from a time and a unit.
fn times(arguments: &[Argument], rows: usize, value: fn(i64, Unit) -> Option<i64>) -> Result<ArrayRef> {
    let of = arguments[0].values.data_type();
    let given = match of {
        DataType::Timestamp(..) => at_or_before(&arguments[0].values, TimeUnit::Millisecond)?,
        _ => cast(&arguments[0].values, &MILLISECONDS)?,
    };
    let given: &TimestampMillisecondArray = given.as_primitive::<TimestampMillisecondType>();
    let units = Text::of(&arguments[1]);
    let mut out = Vec::with_capacity(rows);
    for row in 0..rows {
        let index = arguments[0].index(row);
        out.push(match units.get(row).filter(|_| given.is_valid(index)) {
            Some(name) => value(given.value(index), unit(name)?),
            None => None,
        });
    }
    Ok(cast(&TimestampMillisecondArray::from(out), of)?)
}

fn at(time_ms: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_millis(time_ms).map(|time| time.naive_utc())
}

/// The start of the unit that a time is in. Weeks begin on Sundays, as in Flink.
fn floor(time_ms: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Millis(WEEK_MS) => Some(time_ms - (time_ms + WEEK_OFFSET_MS).rem_euclid(WEEK_MS)),
        Unit::Millis(length) => Some(time_ms - time_ms.rem_euclid(length)),
        Unit::Months(months) => {
            let date = at(time_ms)?.date();
            let month = date.month0() - date.month0() % months;
            let start = chrono::NaiveDate::from_ymd_opt(date.year(), month + 1, 1)?;
            Some(start.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis())
        }
    }
}

/// A time so many units later; a day that the month does not have becomes its last.
fn add(time_ms: i64, unit: Unit, count: i64) -> Option<i64> {
    match unit {
        Unit::Millis(length) => time_ms.checked_add(count.checked_mul(length)?),
        Unit::Months(months) => {
            let (time, all) = (at(time_ms)?, count.checked_mul(i64::from(months))?);
            let by = chrono::Months::new(u32::try_from(all.unsigned_abs()).ok()?);
            let moved = if all >= 0 { time.checked_add_months(by) } else { time.checked_sub_months(by) };
            Some(moved?.and_utc().timestamp_millis())
        }
    }
}

/// Whole units between two times.
fn difference(from_ms: i64, to_ms: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Millis(length) => Some((to_ms - from_ms) / length),
        Unit::Months(months) => {
            let (from, to) = (at(from_ms)?, at(to_ms)?);
            let number = |time: &NaiveDateTime| i64::from(time.year()) * 12 + i64::from(time.month0());
            let mut between = number(&to) - number(&from);
            // The last month is not whole.
            if between > 0 && add(from_ms, Unit::Months(1), between)? > to_ms {
                between -= 1;
            } else if between < 0 && add(from_ms, Unit::Months(1), between)? < to_ms {
                between += 1;
            }
            Some(between / i64::from(months))
        }
    }
}

fn timestampdiff(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let units = Text::of(&arguments[0]);
    let time = |which: usize, row: usize| {
        let times: &TimestampMillisecondArray =
            arguments[which].values.as_primitive::<TimestampMillisecondType>();
        let index = arguments[which].index(row);
        times.is_valid(index).then(|| times.value(index))
    };
    let mut out = Vec::with_capacity(rows);
    for row in 0..rows {
        out.push(match (units.get(row), time(1, row), time(2, row)) {
            (Some(name), Some(from), Some(to)) => difference(from, to, unit(name)?).map(|whole| whole as i32),
            _ => None,
        });
    }
    Ok(Arc::new(Int32Array::from(out)))
}

fn timestampadd(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let units = Text::of(&arguments[0]);
    let times: &TimestampMillisecondArray = arguments[2].values.as_primitive::<TimestampMillisecondType>();
    let mut out = Vec::with_capacity(rows);
    for row in 0..rows {
        let index = arguments[2].index(row);
        out.push(match (units.get(row), number(&arguments[1], row)) {
            (Some(name), Some(count)) if times.is_valid(index) => add(times.value(index), unit(name)?, count),
            _ => None,
        });
    }
    Ok(cast(&TimestampMillisecondArray::from(out), arguments[2].values.data_type())?)
}

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

/// Looks whether a pattern is one.
pub fn check_pattern(pattern: &str) -> Result<()> {
    compile(pattern).map(drop)
}

/// Looks whether a name is one of a unit of time.
pub fn check_unit(name: &str) -> Result<()> {
    unit(name).map(drop)
}

/// A piece of a pattern of Java's `DateTimeFormatter`.
pub enum Piece {
    Literal(String),
    Field { letter: char, width: usize },
}

/// The letters that stand for a part of a time.
const LETTERS: &str = "yuQMdDEaHkKhmsS";

/// The pieces of a pattern.
pub fn compile(pattern: &str) -> Result<Vec<Piece>> {
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
            if !LETTERS.contains(letter) {
                return exec_err!(
                    "'{pattern}' has the letter '{letter}', which patterns of times do not know; they know {LETTERS}, and texts in quotes"
                );
            }
            pieces.push(Piece::Field { letter, width });
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
    /// Appends what it stands for.
    pub fn write(&self, time: &NaiveDateTime, out: &mut String) {
        use std::fmt::Write;
        let (letter, width) = match self {
            Piece::Literal(text) => return out.push_str(text),
            Piece::Field { letter, width } => (*letter, *width),
        };
        let name = match (letter, width) {
            ('M', 3) => Some("%b"),
            ('M', 4) => Some("%B"),
            ('E', ..=3) => Some("%a"),
            ('E', _) => Some("%A"),
            ('a', _) => Some("%p"),
            _ => None,
        };
        if let Some(name) = name {
            let _ = write!(out, "{}", time.format(name));
            return;
        }
        let number = match letter {
            'y' | 'u' if width == 2 => i64::from(time.year().rem_euclid(100)),
            'y' | 'u' => i64::from(time.year()),
            'Q' => i64::from(time.month0() / 3 + 1),
            'M' => i64::from(time.month()),
            'D' => i64::from(time.ordinal()),
            'k' => i64::from((time.hour() + 23) % 24 + 1),
            'K' => i64::from(time.hour() % 12),
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
