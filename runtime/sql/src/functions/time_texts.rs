//! Texts that become times, and seconds since 1970 that become texts, by patterns as DATE_FORMAT has them. All in UTC.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array, Int64Array, StringBuilder, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike as _};
use datafusion_common::Result;

use super::scalar::{Argument, Scalar};
use super::strings::{Text, is_text, number};
use super::times::{MILLISECONDS, Piece, compile};

/// What is meant without a pattern; the time of day, and a fraction of its seconds, may be left out of a text.
/// The pattern of times as they are usually written.
pub const USUAL: &str = "yyyy-MM-dd HH:mm:ss";

/// What UNIX_TIMESTAMP gives for a text that is no time, as in Flink.
pub const NO_TIME: i64 = i64::MIN;

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["to_timestamp"],
        usage: "TO_TIMESTAMP(string[, 'yyyy-MM-dd HH:mm:ss'])",
        accepts: texts,
        returns: |_| MILLISECONDS,
        call: |arguments, rows| {
            let times =
                parsed(arguments, rows)?.map(|time| time.map(|time| time.and_utc().timestamp_millis()));
            Ok(Arc::new(times.collect::<TimestampMillisecondArray>()))
        },
    },
    Scalar {
        names: &["to_date"],
        usage: "TO_DATE(string[, 'yyyy-MM-dd'])",
        accepts: texts,
        returns: |_| DataType::Date32,
        call: |arguments, rows| {
            let days = parsed(arguments, rows)?
                .map(|time| Some(time?.and_utc().timestamp().div_euclid(86_400) as i32));
            Ok(Arc::new(days.collect::<Date32Array>()))
        },
    },
    Scalar {
        names: &["unix_timestamp"],
        usage: "UNIX_TIMESTAMP([string[, 'yyyy-MM-dd HH:mm:ss']])",
        accepts: texts,
        returns: |_| DataType::Int64,
        call: shown_seconds,
    },
    Scalar {
        names: &[SHOWN_SECONDS],
        usage: "shown_seconds(string[, 'yyyy-MM-dd HH:mm:ss'])",
        accepts: texts,
        returns: |_| DataType::Int64,
        call: shown_seconds,
    },
    Scalar {
        names: &["from_unixtime"],
        usage: "FROM_UNIXTIME(seconds[, 'yyyy-MM-dd HH:mm:ss'])",
        accepts: |given| match given {
            [seconds, rest @ ..] if seconds.is_integer() && rest.len() < 2 && rest.iter().all(is_text) => {
                Some([vec![DataType::Int64], vec![DataType::Utf8; rest.len()]].concat())
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: from_unixtime,
    },
    Scalar {
        names: &["to_timestamp_ltz"],
        usage: "TO_TIMESTAMP_LTZ(number[, 3 for milliseconds, or 0 for seconds])",
        accepts: |given| match given {
            [time] | [time, _] if time.is_integer() && given.iter().all(DataType::is_integer) => {
                Some(vec![DataType::Int64; given.len()])
            }
            _ => None,
        },
        returns: |_| DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        call: to_timestamp_ltz,
    },
];

/// Seconds from 1970 to a text's time on the same clock.
pub const SHOWN_SECONDS: &str = "shown_seconds";

fn shown_seconds(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let given = Text::of(&arguments[0]);
    let seconds = parsed(arguments, rows)?.enumerate().map(|(row, time)| {
        given.get(row)?;
        Some(time.map_or(NO_TIME, |time| time.and_utc().timestamp()))
    });
    Ok(Arc::new(seconds.collect::<Int64Array>()))
}

fn texts(given: &[DataType]) -> Option<Vec<DataType>> {
    ((1..=2).contains(&given.len()) && given.iter().all(is_text)).then(|| vec![DataType::Utf8; given.len()])
}

/// The time of each row's text; NULL if it is none.
fn parsed<'a>(
    arguments: &'a [Argument],
    rows: usize,
) -> Result<impl Iterator<Item = Option<NaiveDateTime>> + 'a> {
    let texts = Text::of(&arguments[0]);
    let mut times = Vec::with_capacity(rows);
    let Some(patterns) = arguments.get(1).map(Text::of) else {
        return Ok((0..rows).map(|row| usual(texts.get(row)?)).collect::<Vec<_>>().into_iter());
    };
    let mut compiled: Option<(&str, Vec<Piece>)> = None;
    for row in 0..rows {
        let (Some(text), Some(pattern)) = (texts.get(row), patterns.get(row)) else {
            times.push(None);
            continue;
        };
        if compiled.as_ref().is_none_or(|(known, _)| *known != pattern) {
            compiled = Some((pattern, compile(pattern)?));
        }
        times.push(compiled.as_ref().and_then(|(_, pieces)| by_pattern(text, pieces)));
    }
    Ok(times.into_iter())
}

/// `2024-02-29`, `2024-02-29 13:14:15`, `2024-02-29 13:14:15.678`.
pub fn usual(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00"));
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    chrono::NaiveTime::parse_from_str(time, "%H:%M:%S%.f").ok().map(|time| date.and_time(time))
}

/// The date that CAST reads: `2024-02-29`, `2024-2-9`, `2024-2`, `2024`; what stands behind a blank does not matter.
pub fn date(text: &str) -> Option<NaiveDate> {
    let text = text.split(' ').next()?;
    let mut numbers = text.splitn(3, '-').map(digits::<4>);
    let year = numbers.next()??;
    let (month, day) = (numbers.next().unwrap_or(Some(1))?, numbers.next().unwrap_or(Some(1))?);
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
}

/// The milliseconds since midnight that CAST reads: `13:14:15.678`, `13:14:15`, `3:4`, `13`; a fourth digit of the fraction is rounded.
pub fn time_of_day(text: &str) -> Option<i32> {
    let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
    let parts = time.split(':').map(digits::<2>).collect::<Option<Vec<u32>>>()?;
    let is_whole = fraction.is_empty() && !text.ends_with('.');
    let (hour, minute, second) = match *parts.as_slice() {
        [hour, minute, second] => (hour, minute, second),
        [hour, minute] if is_whole => (hour, minute, 0),
        [hour] if is_whole => (hour, 0, 0),
        _ => return None,
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digit = |at: usize| fraction.as_bytes().get(at).map_or(0, |byte| i32::from(byte - b'0'));
    let milli = digit(0) * 100 + digit(1) * 10 + digit(2) + i32::from(digit(3) >= 5);
    let seconds = chrono::NaiveTime::from_hms_opt(hour, minute, second)?.num_seconds_from_midnight();
    i32::try_from(seconds).ok().map(|seconds| (seconds * 1000 + milli).min(LAST_OF_DAY_MS))
}

/// The last millisecond before midnight: what is rounded stays on its day.
const LAST_OF_DAY_MS: i32 = 86_399_999;

/// A number of one to so many digits, and of nothing else.
fn digits<const MOST: usize>(text: &str) -> Option<u32> {
    let is_number = (1..=MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The parts of a time, as far as a text names them.
struct Parts {
    year: i32,
    month: u32,
    day: u32,
    hour: u32,
    is_afternoon: Option<bool>,
    minute: u32,
    second: u32,
    nano: u32,
}

fn by_pattern(text: &str, pieces: &[Piece]) -> Option<NaiveDateTime> {
    let mut parts =
        Parts { year: 1970, month: 1, day: 1, hour: 0, is_afternoon: None, minute: 0, second: 0, nano: 0 };
    let mut rest = text;
    for (number, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
            Piece::Field { letter, width } => {
                let is_followed = matches!(pieces.get(number + 1), Some(Piece::Field { .. }));
                rest = parts.read(*letter, *width, is_followed, rest)?;
            }
        }
    }
    if !rest.is_empty() {
        return None;
    }
    let hour = match parts.is_afternoon {
        Some(is_afternoon) => parts.hour % 12 + if is_afternoon { 12 } else { 0 },
        None => parts.hour,
    };
    NaiveDate::from_ymd_opt(parts.year, parts.month, parts.day)?.and_hms_nano_opt(
        hour,
        parts.minute,
        parts.second,
        parts.nano,
    )
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Parts {
    /// Reads one field from the beginning of a text, and gives the rest.
    fn read<'a>(&mut self, letter: char, width: usize, is_followed: bool, text: &'a str) -> Option<&'a str> {
        if letter == 'M' && width > 2 {
            let matches = |name: &str| {
                let name = if width == 3 { &name[..3] } else { name };
                text.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
            };
            let month = MONTHS.iter().position(|name| matches(name))?;
            self.month = month as u32 + 1;
            return Some(&text[if width == 3 { 3 } else { MONTHS[month].len() }..]);
        }
        if letter == 'a' {
            let (half, rest) = (text.get(..2)?, text.get(2..)?);
            let is_afternoon = half.eq_ignore_ascii_case("PM");
            self.is_afternoon = (is_afternoon || half.eq_ignore_ascii_case("AM")).then_some(is_afternoon);
            return self.is_afternoon.map(|_| rest);
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        // As many digits as letters; a single letter, and a whole year, stand for as many as there are.
        let most = match (letter, width) {
            (_, 1) if !is_followed => digits,
            ('y' | 'u', 4..) if !is_followed => digits,
            _ => width,
        };
        if digits < width || most == 0 || digits < most {
            return None;
        }
        let (number, rest) = text.split_at(most);
        let value: u32 = number.parse().ok()?;
        match letter {
            'y' | 'u' if width == 2 => self.year = 2000 + value as i32,
            'y' | 'u' => self.year = i32::try_from(value).ok()?,
            'M' => self.month = value,
            'd' => self.day = value,
            'H' | 'k' => self.hour = if letter == 'k' { value % 24 } else { value },
            'h' | 'K' => self.hour = value,
            'm' => self.minute = value,
            's' => self.second = value,
            'S' => self.nano = format!("{number:0<9}").get(..9)?.parse().ok()?,
            // Days of the week and of the year, and quarters, say nothing that the others do not.
            _ => {}
        }
        Some(rest)
    }
}

fn from_unixtime(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let patterns = arguments.get(1).map(Text::of);
    let (mut out, mut text) = (StringBuilder::new(), String::new());
    let mut compiled: Option<(String, Vec<Piece>)> = None;
    for row in 0..rows {
        let pattern = match &patterns {
            Some(patterns) => patterns.get(row),
            None => Some(USUAL),
        };
        let time = number(&arguments[0], row).and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let (Some(pattern), Some(time)) = (pattern, time) else {
            out.append_null();
            continue;
        };
        if compiled.as_ref().is_none_or(|(known, _)| known != pattern) {
            compiled = Some((pattern.to_owned(), compile(pattern)?));
        }
        text.clear();
        compiled
            .iter()
            .flat_map(|(_, pieces)| pieces)
            .for_each(|piece| piece.write(&time.naive_utc(), &mut text));
        out.append_value(&text);
    }
    Ok(Arc::new(out.finish()))
}

fn to_timestamp_ltz(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let times = arguments[0].values.as_primitive::<Int64Type>();
    let mut out = Vec::with_capacity(rows);
    for row in 0..rows {
        let digits = arguments.get(1).map_or(Some(3), |digits| number(digits, row));
        let index = arguments[0].index(row);
        let time = arrow::array::Array::is_valid(times, index).then(|| times.value(index));
        out.push(match (time, digits) {
            (Some(seconds), Some(0)) => seconds.checked_mul(1_000),
            (Some(millis), Some(3)) => Some(millis),
            (Some(_), Some(digits)) => {
                return datafusion_common::exec_err!(
                    "TO_TIMESTAMP_LTZ: {digits} is not 0, for seconds, or 3, for milliseconds"
                );
            }
            _ => None,
        });
    }
    Ok(Arc::new(TimestampMillisecondArray::from(out).with_timezone("UTC")))
}
