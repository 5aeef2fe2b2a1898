//! Times on the clock of a time zone, and points in time.
//!
//! Where a clock is put back a time comes twice, and the first is meant; where it is put forward the times that it leaves out are
//! taken for those after them, by the length of the gap: as Java's `ZonedDateTime` has it.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone};
use datafusion_common::{Result, exec_err};

use super::numbers::expand;
use super::scalar::{Argument, Scalar};
use super::shape::text;
use super::strings::is_text;
use super::time_texts::{self, NO_TIME};

/// What a clock in a zone shows at a point in time.
pub const IN_ZONE: &str = "in_zone";
/// The point in time at which a clock in a zone shows this.
pub const OF_ZONE: &str = "of_zone";
/// The same of seconds since 1970 on such a clock.
pub const SECONDS_OF_ZONE: &str = "seconds_of_zone";

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &[IN_ZONE],
        usage: "in_zone(timestamp_ltz, 'zone')",
        accepts: |given| match given {
            [DataType::Timestamp(unit, Some(zone)), name] if is_text(name) => {
                Some(vec![DataType::Timestamp(*unit, Some(Arc::clone(zone))), DataType::Utf8])
            }
            _ => None,
        },
        returns: |given| DataType::Timestamp(unit_of(&given[0]), None),
        call: |arguments, rows| {
            let unit = unit_of(arguments[0].values.data_type());
            moved(arguments, rows, DataType::Timestamp(unit, None), offset_at)
        },
    },
    Scalar {
        names: &[OF_ZONE],
        usage: "of_zone(timestamp, 'zone')",
        accepts: |given| match given {
            [DataType::Timestamp(unit, None), name] if is_text(name) => {
                Some(vec![DataType::Timestamp(*unit, None), DataType::Utf8])
            }
            _ => None,
        },
        returns: |given| DataType::Timestamp(unit_of(&given[0]), Some("UTC".into())),
        call: |arguments, rows| {
            let unit = unit_of(arguments[0].values.data_type());
            moved(arguments, rows, DataType::Timestamp(unit, Some("UTC".into())), to_point)
        },
    },
    Scalar {
        names: &[SECONDS_OF_ZONE],
        usage: "seconds_of_zone(seconds, 'zone')",
        accepts: |given| match given {
            [seconds, name] if seconds.is_integer() && is_text(name) => {
                Some(vec![DataType::Int64, DataType::Utf8])
            }
            _ => None,
        },
        returns: |_| DataType::Int64,
        call: |arguments, rows| moved(arguments, rows, DataType::Int64, to_point),
    },
    Scalar {
        names: &["convert_tz"],
        usage: "CONVERT_TZ('yyyy-MM-dd HH:mm:ss', 'from zone', 'to zone')",
        accepts: |given| (given.len() == 3 && given.iter().all(is_text)).then(|| vec![DataType::Utf8; 3]),
        returns: |_| DataType::Utf8,
        call: convert_tz,
    },
];

fn unit_of(data_type: &DataType) -> TimeUnit {
    match data_type {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Second,
    }
}

/// A time zone by its name in the tz database, or as a difference such as `+02:00` or `GMT-08:00`.
///
/// # Errors
/// If there is none.
pub fn zone(name: &str) -> Result<Tz> {
    let difference = name.strip_prefix("GMT").filter(|rest| rest.starts_with(['+', '-']));
    match difference.unwrap_or(name).parse() {
        Ok(zone) => Ok(zone),
        Err(_) => exec_err!(
            "there is no time zone '{name}'; it is a name such as 'Europe/Berlin', or a difference such as 'GMT+02:00'"
        ),
    }
}

/// How many seconds a zone's clock is before that of UTC.
fn offset_at(zone: &Tz, seconds: i64) -> i64 {
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    i64::from(zone.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc())
}

/// What is to be added to the seconds since 1970 that a zone's clock shows.
fn to_point(zone: &Tz, seconds: i64) -> i64 {
    DateTime::from_timestamp(seconds, 0).map_or(0, |time| -offset_of(zone, time.naive_utc()))
}

fn offset_of(zone: &Tz, time: NaiveDateTime) -> i64 {
    // No clock is put forward by more than a day.
    const BEFORE: TimeDelta = TimeDelta::days(2);
    let offset = match zone.offset_from_local_datetime(&time) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(offset, _) => offset.fix(),
        LocalResult::None => {
            zone.offset_from_utc_datetime(&time.checked_sub_signed(BEFORE).unwrap_or(time)).fix()
        }
    };
    i64::from(offset.local_minus_utc())
}

/// Adds seconds to times, as many as a function of each time says; what is no time stays what it is.
fn moved(
    arguments: &[Argument],
    rows: usize,
    to: DataType,
    difference: fn(&Tz, i64) -> i64,
) -> Result<ArrayRef> {
    let per_second = match unit_of(arguments[0].values.data_type()) {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let times = cast(&expand(&arguments[0], rows)?, &DataType::Int64)?;
    let times = times.as_primitive::<Int64Type>();
    let moved = |zone: &Tz, time: i64| match time {
        NO_TIME => NO_TIME,
        time => time.saturating_add(difference(zone, time.div_euclid(per_second)) * per_second),
    };
    let mut known: Option<(String, Tz)> = None;
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        let time = times.is_valid(row).then(|| times.value(row));
        let (Some(name), Some(time)) = (text(arguments, 1, row), time) else {
            values.push(None);
            continue;
        };
        if known.as_ref().is_none_or(|(known, _)| known != name) {
            known = Some((name.to_owned(), zone(name)?));
        }
        values.push(known.as_ref().map(|(_, zone)| moved(zone, time)));
    }
    Ok(cast(&Int64Array::from(values), &to)?)
}

fn convert_tz(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let mut out = StringBuilder::new();
    for row in 0..rows {
        let given = [0, 1, 2].map(|argument| text(arguments, argument, row));
        let [Some(time), Some(from), Some(to)] = given else {
            out.append_null();
            continue;
        };
        let (from, to) = (zone(from)?, zone(to)?);
        let shown = time_texts::usual(time).and_then(|time| {
            let at = time.checked_sub_signed(TimeDelta::seconds(offset_of(&from, time)))?;
            at.checked_add_signed(TimeDelta::seconds(offset_at(&to, at.and_utc().timestamp())))
        });
        out.append_option(shown.map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string()));
    }
    Ok(Arc::new(out.finish()))
}
