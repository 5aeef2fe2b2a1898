//! Batches as lines of JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType as ArrowType, Decimal128Type, Field as ArrowField, Float32Type, Float64Type, Int64Type, Schema,
    TimeUnit,
};
use chrono::DateTime;
use snafu::ResultExt;

use super::{JsonError, JsonStyle, PrepareSnafu, UnwritableSnafu};

/// Encodes batches of one schema, a line a row.
pub struct JsonEncoder {
    names: Vec<String>,
    style: JsonStyle,
}

impl JsonEncoder {
    /// An encoder for a schema.
    pub fn new(schema: &Schema, style: JsonStyle) -> Self {
        JsonEncoder { names: schema.fields().iter().map(quoted).collect(), style }
    }

    /// Appends the rows as lines.
    pub fn encode(&self, records: &RecordBatch, out: &mut String) -> Result<(), JsonError> {
        let columns = records.columns().iter().map(JsonColumn::new).collect::<Result<Vec<_>, _>>()?;
        for row in 0..records.num_rows() {
            let fields = self.names.iter().zip(&columns);
            write_fields(fields, row, self.style, out);
            out.push('\n');
        }
        Ok(())
    }
}

/// A field's name as it stands in an object.
fn quoted(field: &Arc<ArrowField>) -> String {
    let mut name = String::new();
    write_text(field.name(), &mut name);
    name.push(':');
    name
}

/// Writes an object, whose names are quoted and have their colon.
fn write_fields<'a>(
    fields: impl Iterator<Item = (&'a String, &'a JsonColumn)>,
    row: usize,
    style: JsonStyle,
    out: &mut String,
) {
    out.push('{');
    let mut is_first = true;
    for (name, column) in fields {
        if style.omits_nulls && column.is_null(row) {
            continue;
        }
        if !is_first {
            out.push(',');
        }
        is_first = false;
        out.push_str(name);
        column.write(row, style, out);
    }
    out.push('}');
}

/// A column viewed for writing.
pub enum JsonColumn {
    Null,
    Boolean(BooleanArray),
    Integer(arrow::array::Int64Array),
    Float(arrow::array::Float32Array),
    Double(arrow::array::Float64Array),
    Decimal(arrow::array::Decimal128Array, i8),
    Text(arrow::array::StringArray),
    Bytes(arrow::array::BinaryArray),
    Date(arrow::array::Int64Array),
    Time(arrow::array::Int64Array),
    Timestamp(arrow::array::Int64Array, TimeUnit, bool),
    Row(StructArray, Vec<(String, JsonColumn)>),
    Array(arrow::array::ListArray, Box<JsonColumn>),
    /// Keys are texts.
    Map(arrow::array::MapArray, Box<JsonColumn>),
}

impl JsonColumn {
    /// Views a column.
    ///
    /// # Errors
    /// If values of its type cannot be written.
    pub fn new(column: &ArrayRef) -> Result<Self, JsonError> {
        let wide = |column: &ArrayRef| -> Result<arrow::array::Int64Array, JsonError> {
            let values = cast(column, &ArrowType::Int64).context(PrepareSnafu)?;
            Ok(values.as_primitive::<Int64Type>().clone())
        };
        Ok(match column.data_type() {
            ArrowType::Null => JsonColumn::Null,
            ArrowType::Boolean => JsonColumn::Boolean(column.as_boolean().clone()),
            data_type if data_type.is_integer() => JsonColumn::Integer(wide(column)?),
            ArrowType::Float32 => JsonColumn::Float(column.as_primitive::<Float32Type>().clone()),
            ArrowType::Float64 => JsonColumn::Double(column.as_primitive::<Float64Type>().clone()),
            ArrowType::Decimal128(_, scale) => {
                JsonColumn::Decimal(column.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            ArrowType::Utf8 => JsonColumn::Text(column.as_string().clone()),
            ArrowType::Binary => JsonColumn::Bytes(column.as_binary().clone()),
            ArrowType::Date32 => JsonColumn::Date(wide(column)?),
            ArrowType::Time32(TimeUnit::Millisecond) => JsonColumn::Time(wide(column)?),
            ArrowType::Timestamp(unit, zone) => JsonColumn::Timestamp(wide(column)?, *unit, zone.is_some()),
            ArrowType::Struct(fields) => {
                let rows = column.as_struct();
                let parts = fields
                    .iter()
                    .zip(rows.columns())
                    .map(|(field, column)| Ok((quoted(field), JsonColumn::new(column)?)));
                JsonColumn::Row(rows.clone(), parts.collect::<Result<_, _>>()?)
            }
            ArrowType::List(_) => {
                let lists: &arrow::array::ListArray = column.as_list();
                JsonColumn::Array(lists.clone(), Box::new(JsonColumn::new(lists.values())?))
            }
            ArrowType::Map(..) if *column.as_map().key_type() == ArrowType::Utf8 => {
                let maps = column.as_map();
                JsonColumn::Map(maps.clone(), Box::new(JsonColumn::new(maps.values())?))
            }
            other => return UnwritableSnafu { data_type: other.clone() }.fail(),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            JsonColumn::Null => true,
            JsonColumn::Boolean(values) => values.is_null(row),
            JsonColumn::Integer(values) | JsonColumn::Date(values) | JsonColumn::Time(values) => {
                values.is_null(row)
            }
            JsonColumn::Timestamp(values, ..) => values.is_null(row),
            JsonColumn::Float(values) => values.is_null(row),
            JsonColumn::Double(values) => values.is_null(row),
            JsonColumn::Decimal(values, _) => values.is_null(row),
            JsonColumn::Text(values) => values.is_null(row),
            JsonColumn::Bytes(values) => values.is_null(row),
            JsonColumn::Row(values, _) => values.is_null(row),
            JsonColumn::Array(values, _) => values.is_null(row),
            JsonColumn::Map(values, _) => values.is_null(row),
        }
    }

    /// Appends a value as JSON.
    pub fn write(&self, row: usize, style: JsonStyle, out: &mut String) {
        if self.is_null(row) {
            return out.push_str("null");
        }
        // Writing to a String cannot fail.
        let _ = match self {
            JsonColumn::Null => Ok(()),
            JsonColumn::Boolean(values) => write!(out, "{}", values.value(row)),
            JsonColumn::Integer(values) => write!(out, "{}", values.value(row)),
            JsonColumn::Float(values) => write_float(f64::from(values.value(row)), &values.value(row), out),
            JsonColumn::Double(values) => write_float(values.value(row), &values.value(row), out),
            JsonColumn::Decimal(values, scale) => {
                let quote = if style.quotes_decimals { "\"" } else { "" };
                out.push_str(quote);
                write_decimal(values.value(row), *scale, out);
                out.push_str(quote);
                Ok(())
            }
            JsonColumn::Text(values) => {
                write_text(values.value(row), out);
                Ok(())
            }
            JsonColumn::Bytes(values) => {
                use base64::Engine;
                write!(out, "\"{}\"", base64::engine::general_purpose::STANDARD.encode(values.value(row)))
            }
            JsonColumn::Date(values) => {
                let date =
                    DateTime::from_timestamp_millis(values.value(row) * 86_400_000).unwrap_or_default();
                write!(out, "\"{}\"", date.format("%Y-%m-%d"))
            }
            JsonColumn::Time(values) => {
                let time = DateTime::from_timestamp_millis(values.value(row)).unwrap_or_default();
                let nanos = time.timestamp_subsec_nanos();
                write!(out, "\"{}{}\"", time.format("%H:%M:%S"), fraction(nanos))
            }
            JsonColumn::Timestamp(values, unit, is_instant) => {
                out.push('"');
                write_timestamp(values.value(row), *unit, style, out);
                out.push_str(if *is_instant { "Z\"" } else { "\"" });
                Ok(())
            }
            JsonColumn::Row(_, fields) => {
                write_fields(fields.iter().map(|(name, field)| (name, field)), row, style, out);
                Ok(())
            }
            JsonColumn::Map(maps, values) => {
                let (offsets, keys) = (maps.value_offsets(), maps.keys().as_string::<i32>());
                out.push('{');
                for entry in offsets[row]..offsets[row + 1] {
                    if entry > offsets[row] {
                        out.push(',');
                    }
                    write_text(keys.value(entry as usize), out);
                    out.push(':');
                    values.write(entry as usize, style, out);
                }
                out.push('}');
                Ok(())
            }
            JsonColumn::Array(lists, elements) => {
                let offsets = lists.value_offsets();
                out.push('[');
                for element in offsets[row]..offsets[row + 1] {
                    if element > offsets[row] {
                        out.push(',');
                    }
                    elements.write(element as usize, style, out);
                }
                out.push(']');
                Ok(())
            }
        };
    }
}

/// JSON has no NaN and no infinity; like Jackson, they are written as strings.
fn write_float(value: f64, shown: &dyn std::fmt::Display, out: &mut String) -> std::fmt::Result {
    if value.is_nan() {
        out.write_str("\"NaN\"")
    } else if value.is_infinite() {
        out.write_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" })
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        write!(out, "{shown}.0")
    } else {
        write!(out, "{shown}")
    }
}

/// Appends a decimal without exponent, with all its fraction digits.
fn write_decimal(value: i128, scale: i8, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let digits = value.unsigned_abs().to_string();
    let scale = usize::try_from(scale).unwrap_or(0);
    if scale == 0 {
        return out.push_str(&digits);
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.push_str(whole);
    out.push('.');
    out.push_str(fraction);
}

/// Appends `yyyy-MM-dd HH:mm:ss` and as many fraction digits as there are.
fn write_timestamp(value: i64, unit: TimeUnit, style: JsonStyle, out: &mut String) {
    let time = match unit {
        TimeUnit::Second => DateTime::from_timestamp(value, 0),
        TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
        TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
        TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
    };
    let time = time.unwrap_or_default();
    let format = if style.is_iso { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    let nanos = time.timestamp_subsec_nanos();
    let _ = match (style.pads_times, unit) {
        (true, TimeUnit::Millisecond) => write!(out, "{}.{:03}", time.format(format), nanos / 1_000_000),
        (true, TimeUnit::Microsecond) => write!(out, "{}.{:06}", time.format(format), nanos / 1_000),
        (true, TimeUnit::Nanosecond) => write!(out, "{}.{nanos:09}", time.format(format)),
        _ => write!(out, "{}{}", time.format(format), fraction(nanos)),
    };
}

fn fraction(nanos: u32) -> String {
    if nanos == 0 {
        return String::new();
    }
    format!(".{}", format!("{nanos:09}").trim_end_matches('0'))
}

/// Appends a JSON string.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    let mut clean = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[clean..index]);
        if escaped.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escaped);
        }
        clean = index + 1;
    }
    out.push_str(&text[clean..]);
    out.push('"');
}
