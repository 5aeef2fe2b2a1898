//! Values as Flink writes them into texts: what CAST to STRING gives.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, TimeUnit};
use chrono::DateTime;
use datafusion_common::{Result, exec_err};

/// Appends the value of a row that is not NULL.
type Writer = Box<dyn Fn(usize, &mut String)>;

/// The texts of a column.
///
/// # Errors
/// If its type has no text.
pub fn of_column(values: &ArrayRef) -> Result<StringArray> {
    if values.data_type().is_integer() || matches!(values.data_type(), DataType::Decimal128(..)) {
        return Ok(cast(values, &DataType::Utf8)?.as_string().clone());
    }
    let write = writer(values)?;
    let (mut texts, mut text) = (StringBuilder::new(), String::new());
    for row in 0..values.len() {
        if values.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        write(row, &mut text);
        texts.append_value(&text);
    }
    Ok(texts.finish())
}

// Writing to a String cannot fail.
fn writer(values: &ArrayRef) -> Result<Writer> {
    Ok(match values.data_type() {
        DataType::Null => Box::new(|_, out| out.push_str("NULL")),
        DataType::Boolean => {
            let values = values.as_boolean().clone();
            Box::new(move |row, out| out.push_str(if values.value(row) { "TRUE" } else { "FALSE" }))
        }
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>().clone();
            Box::new(move |row, out| {
                let value = values.value(row);
                write_float(f64::from(value), &value.to_string(), &format!("{value:e}"), out);
            })
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>().clone();
            Box::new(move |row, out| {
                let value = values.value(row);
                write_float(value, &value.to_string(), &format!("{value:e}"), out);
            })
        }
        DataType::Utf8 => {
            let values = values.as_string::<i32>().clone();
            Box::new(move |row, out| out.push_str(values.value(row)))
        }
        DataType::Binary => {
            let values = values.as_binary::<i32>().clone();
            Box::new(move |row, out| out.push_str(&String::from_utf8_lossy(values.value(row))))
        }
        DataType::Timestamp(unit, _) => times(values, *unit)?,
        DataType::Time32(TimeUnit::Millisecond) => {
            let millis = wide(values)?;
            Box::new(move |row, out| write_time_of_day(millis.value(row), out))
        }
        DataType::List(_) => {
            let lists = values.as_list::<i32>().clone();
            let elements = element(lists.values())?;
            Box::new(move |row, out| {
                let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
                write_all('[', range.map(|index| (index, &elements)), ']', out);
            })
        }
        DataType::Map(..) => {
            let maps = values.as_map().clone();
            let (keys, parts) = (element(maps.keys())?, element(maps.values())?);
            Box::new(move |row, out| {
                let range = maps.value_offsets()[row] as usize..maps.value_offsets()[row + 1] as usize;
                out.push('{');
                for (number, entry) in range.enumerate() {
                    out.push_str(if number > 0 { ", " } else { "" });
                    keys(entry, out);
                    out.push('=');
                    parts(entry, out);
                }
                out.push('}');
            })
        }
        DataType::Struct(_) => {
            let fields = values.as_struct().columns().iter().map(element).collect::<Result<Vec<_>>>()?;
            Box::new(move |row, out| write_all('(', fields.iter().map(|field| (row, field)), ')', out))
        }
        other if other.is_integer() || matches!(other, DataType::Decimal128(..) | DataType::Date32) => {
            let texts = cast(values, &DataType::Utf8)?.as_string::<i32>().clone();
            Box::new(move |row, out| out.push_str(texts.value(row)))
        }
        other => return exec_err!("values of type {other} have no text"),
    })
}

/// A part of another value, which writes its NULLs.
fn element(values: &ArrayRef) -> Result<Writer> {
    let (values, write) = (values.clone(), writer(values)?);
    Ok(Box::new(move |row, out| match values.is_null(row) {
        true => out.push_str("NULL"),
        false => write(row, out),
    }))
}

fn write_all<'a>(
    open: char,
    parts: impl Iterator<Item = (usize, &'a Writer)>,
    close: char,
    out: &mut String,
) {
    out.push(open);
    for (number, (row, write)) in parts.enumerate() {
        if number > 0 {
            out.push_str(", ");
        }
        write(row, out);
    }
    out.push(close);
}

fn wide(values: &ArrayRef) -> Result<arrow::array::Int64Array> {
    let whole = match values.data_type() {
        DataType::Time32(_) => cast(values, &DataType::Int32)?,
        _ => values.clone(),
    };
    Ok(cast(&whole, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// `2024-02-29 13:14:15.678`, with all digits of the type.
fn times(values: &ArrayRef, unit: TimeUnit) -> Result<Writer> {
    let values = wide(values)?;
    let (per_second, digits): (i64, usize) = match unit {
        TimeUnit::Second => (1, 0),
        TimeUnit::Millisecond => (1_000, 3),
        TimeUnit::Microsecond => (1_000_000, 6),
        TimeUnit::Nanosecond => (1_000_000_000, 9),
    };
    Ok(Box::new(move |row, out| {
        let value = values.value(row);
        let (second, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
        match DateTime::from_timestamp(second, 0) {
            Some(time) => drop(write!(out, "{}", time.format("%Y-%m-%d %H:%M:%S"))),
            // Beyond the years that have a calendar.
            None => drop(write!(out, "{second}")),
        }
        if digits > 0 {
            let _ = write!(out, ".{rest:0digits$}");
        }
    }))
}

/// `13:14:15`, with the digits of a fraction if there is one.
fn write_time_of_day(millis: i64, out: &mut String) {
    let (second, rest) = (millis / 1_000, millis % 1_000);
    let _ = write!(out, "{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    if rest > 0 {
        let digits = format!(".{rest:03}");
        out.push_str(digits.trim_end_matches('0'));
    }
}

/// A number as Java writes it, from its shortest texts without and with an exponent.
fn write_float(value: f64, plain: &str, scientific: &str, out: &mut String) {
    let size = value.abs();
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else if value == 0.0 || (1e-3..1e7).contains(&size) {
        out.push_str(plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
    } else {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
        out.push_str(mantissa);
        if !mantissa.contains('.') {
            out.push_str(".0");
        }
        out.push('E');
        out.push_str(exponent);
    }
}
