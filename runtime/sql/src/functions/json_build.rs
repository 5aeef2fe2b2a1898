//! JSON made of values.
//!
//! Names and forms are those of Flink's JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_QUOTE and JSON_UNQUOTE.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion_common::Result;
use serde_json::Value;

use super::scalar::{Argument, Scalar};
use super::shape::{text, texts};
use super::strings::{is_text, strings};
use super::text::of_column;

/// What JSON_OBJECT and JSON_ARRAY become: a call whose first argument says for each value what it is ([`RAW`] or [`VALUE`]), and
/// before that whether values that are NULL are left out ([`ABSENT`] or [`PRESENT`]).
pub const OBJECT: &str = "json_object";
pub const ARRAY: &str = "json_array";
pub const ABSENT: char = 'a';
pub const PRESENT: char = 'p';
/// A text that is JSON already.
pub const RAW: char = 'r';
pub const VALUE: char = 'v';

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &[OBJECT],
        usage: "JSON_OBJECT([KEY] 'key' VALUE value, … [NULL ON NULL | ABSENT ON NULL])",
        accepts: |given| {
            let keys_are_texts = given.iter().skip(1).step_by(2).all(is_text);
            (given.len() % 2 == 1 && keys_are_texts).then(|| {
                let of = |(at, data_type): (usize, &DataType)| match at == 0 || at % 2 == 1 {
                    true => DataType::Utf8,
                    false => data_type.clone(),
                };
                given.iter().enumerate().map(of).collect()
            })
        },
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let writers = writers(arguments, 2)?;
            build(arguments, rows, ['{', '}'], |row, out, is_left_out, separate| {
                for (number, write) in writers.iter().enumerate() {
                    let index = arguments[2 * number + 2].index(row);
                    if is_left_out && write.is_null(index) {
                        continue;
                    }
                    separate(out);
                    out.push_str(&quoted(text(arguments, 2 * number + 1, row).unwrap_or("null")));
                    out.push(':');
                    write.write(index, out);
                }
            })
        },
    },
    Scalar {
        names: &[ARRAY],
        usage: "JSON_ARRAY(value, … [NULL ON NULL | ABSENT ON NULL])",
        accepts: |given| {
            let (_, values) = given.split_first()?;
            Some([vec![DataType::Utf8], values.to_vec()].concat())
        },
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let writers = writers(arguments, 1)?;
            build(arguments, rows, ['[', ']'], |row, out, is_left_out, separate| {
                for (number, write) in writers.iter().enumerate() {
                    let index = arguments[number + 1].index(row);
                    if !(is_left_out && write.is_null(index)) {
                        separate(out);
                        write.write(index, out);
                    }
                }
            })
        },
    },
    Scalar {
        names: &["json_string"],
        usage: "JSON_STRING(value)",
        accepts: |given| (given.len() == 1).then(|| given.to_vec()),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let write = Json::new(&arguments[0].values, false)?;
            texts(rows, |row| {
                let index = arguments[0].index(row);
                (!write.is_null(index)).then(|| write.text(index))
            })
        },
    },
    Scalar {
        names: &["json_quote"],
        usage: "JSON_QUOTE(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            // A slash is quoted, too.
            texts(rows, |row| Some(quoted(text(arguments, 0, row)?).replace('/', "\\/")))
        },
    },
    Scalar {
        names: &["json_unquote"],
        usage: "JSON_UNQUOTE(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            // What is no JSON string stays as it is.
            let unquoted = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| text.to_owned());
            texts(rows, |row| text(arguments, 0, row).map(unquoted))
        },
    },
];

/// The writers of values, of which every `step`th argument from there on is one.
fn writers(arguments: &[Argument], step: usize) -> Result<Vec<Json>> {
    let kinds = text(arguments, 0, 0).unwrap_or_default().chars().skip(1);
    let values = arguments.iter().skip(step).step_by(step);
    values.zip(kinds).map(|(value, kind)| Json::new(&value.values, kind == RAW)).collect()
}

/// Puts what is inside between brackets, with commas.
fn build(
    arguments: &[Argument],
    rows: usize,
    [open, close]: [char; 2],
    inside: impl Fn(usize, &mut String, bool, &mut dyn FnMut(&mut String)),
) -> Result<ArrayRef> {
    let is_left_out = text(arguments, 0, 0).is_some_and(|kinds| kinds.starts_with(ABSENT));
    texts(rows, |row| {
        let (mut out, mut is_first) = (String::from(open), true);
        inside(row, &mut out, is_left_out, &mut |out| {
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
        });
        out.push(close);
        Some(out)
    })
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Writes the values of a column as JSON.
struct Json {
    values: ArrayRef,
    form: Form,
}

enum Form {
    Null,
    Raw,
    Boolean,
    /// As its text is.
    Plain(arrow::array::StringArray),
    Quoted(arrow::array::StringArray),
    Bytes,
    /// A text of a time, with what stands behind it.
    Time(arrow::array::StringArray, &'static str),
    List(Box<Json>),
    Map(arrow::array::StringArray, Box<Json>),
    Row(Vec<(String, Json)>),
}

impl Json {
    fn new(values: &ArrayRef, is_raw: bool) -> Result<Self> {
        let form = match values.data_type() {
            DataType::Null => Form::Null,
            DataType::Utf8 if is_raw => Form::Raw,
            DataType::Boolean => Form::Boolean,
            DataType::Utf8 | DataType::Date32 | DataType::Time32(TimeUnit::Millisecond) => {
                Form::Quoted(of_column(values)?)
            }
            DataType::Binary => Form::Bytes,
            DataType::Timestamp(_, zone) => {
                Form::Time(of_column(values)?, if zone.is_some() { "Z" } else { "" })
            }
            DataType::List(_) => Form::List(Box::new(Json::new(values.as_list::<i32>().values(), false)?)),
            DataType::Map(..) => {
                let maps = values.as_map();
                Form::Map(of_column(maps.keys())?, Box::new(Json::new(maps.values(), false)?))
            }
            DataType::Struct(fields) => {
                let columns = values.as_struct().columns().iter();
                let parts = fields.iter().zip(columns);
                let part = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| {
                    Ok((quoted(field.name()), Json::new(column, false)?))
                };
                Form::Row(parts.map(part).collect::<Result<_>>()?)
            }
            _ => Form::Plain(of_column(values)?),
        };
        Ok(Json { values: Arc::clone(values), form })
    }

    fn is_null(&self, index: usize) -> bool {
        matches!(self.form, Form::Null) || self.values.is_null(index)
    }

    fn text(&self, index: usize) -> String {
        let mut text = String::new();
        self.write(index, &mut text);
        text
    }

    // Writing to a String cannot fail.
    fn write(&self, index: usize, out: &mut String) {
        if self.is_null(index) {
            return out.push_str("null");
        }
        match &self.form {
            Form::Null => {}
            Form::Raw => out.push_str(self.values.as_string::<i32>().value(index)),
            Form::Boolean => {
                out.push_str(if self.values.as_boolean().value(index) { "true" } else { "false" });
            }
            Form::Plain(texts) => match texts.value(index) {
                // JSON has no such numbers.
                text @ ("NaN" | "Infinity" | "-Infinity") => {
                    let _ = write!(out, "\"{text}\"");
                }
                text => out.push_str(text),
            },
            Form::Quoted(texts) => out.push_str(&quoted(texts.value(index))),
            Form::Bytes => {
                let _ = write!(out, "\"{}\"", STANDARD.encode(self.values.as_binary::<i32>().value(index)));
            }
            Form::Time(texts, zone) => {
                let text = texts.value(index).replacen(' ', "T", 1);
                let text = match text.contains('.') {
                    true => text.trim_end_matches('0').trim_end_matches('.'),
                    false => text.as_str(),
                };
                let _ = write!(out, "\"{text}{zone}\"");
            }
            Form::List(elements) => {
                let offsets = self.values.as_list::<i32>().value_offsets();
                out.push('[');
                for (number, element) in (offsets[index] as usize..offsets[index + 1] as usize).enumerate() {
                    out.push_str(if number > 0 { "," } else { "" });
                    elements.write(element, out);
                }
                out.push(']');
            }
            Form::Map(keys, parts) => {
                let offsets = self.values.as_map().value_offsets();
                out.push('{');
                for (number, entry) in (offsets[index] as usize..offsets[index + 1] as usize).enumerate() {
                    out.push_str(if number > 0 { "," } else { "" });
                    out.push_str(&quoted(keys.value(entry)));
                    out.push(':');
                    parts.write(entry, out);
                }
                out.push('}');
            }
            Form::Row(parts) => {
                out.push('{');
                for (number, (name, part)) in parts.iter().enumerate() {
                    out.push_str(if number > 0 { "," } else { "" });
                    out.push_str(name);
                    out.push(':');
                    part.write(index, out);
                }
                out.push('}');
            }
        }
    }
}
