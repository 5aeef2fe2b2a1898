//! Parts of texts that are JSON, found by paths such as `$.a.b[0]` (RFC 9535). `lax` and `strict` before a path are taken; what is not
//! there, and a text that is not JSON, give NULL, as Flink does by default.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder};
use arrow::datatypes::DataType;
use datafusion_common::{Result, plan_err};
use serde_json::Value;
use serde_json_path::JsonPath;

use super::scalar::{Argument, Scalar};
use super::shape::{text, texts};
use super::strings::strings;

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["json_value"],
        usage: "JSON_VALUE(json, path)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| of_texts(arguments, rows, scalar_text),
    },
    Scalar {
        names: &["json_query"],
        usage: "JSON_QUERY(json, path)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| of_texts(arguments, rows, nested_text),
    },
    Scalar {
        names: &["json_exists"],
        usage: "JSON_EXISTS(json, path)",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Boolean,
        call: exists,
    },
];

/// # Errors
/// If a path is none.
pub fn check_path(text: &str) -> Result<()> {
    parse(text).map(|_| ())
}

fn parse(text: &str) -> Result<JsonPath> {
    let path = text.trim_start();
    let path = path.strip_prefix("lax ").or_else(|| path.strip_prefix("strict ")).unwrap_or(path).trim();
    match JsonPath::parse(path) {
        Ok(_) if has_several_results(path) => {
            plan_err!(
                "the path '{text}' may have several results, which is not supported yet; name one: '$.list[0]'"
            )
        }
        Ok(path) => Ok(path),
        Err(error) => plan_err!(
            "'{text}' is not a path of JSON, such as '$.name' or '$.list[0].name': {}",
            error.message()
        ),
    }
}

/// Wildcards, filters, slices, unions and descendants, outside of quotes.
fn has_several_results(path: &str) -> bool {
    let mut quote = None;
    path.contains("..")
        || path.chars().any(|letter| {
            match (quote, letter) {
                (None, '\'' | '"') => quote = Some(letter),
                (Some(open), letter) if open == letter => quote = None,
                _ => {}
            }
            quote.is_none() && ['*', '?', ',', ':'].contains(&letter)
        })
}

/// The paths of one call over a batch: mostly one.
#[derive(Default)]
struct Paths(HashMap<String, JsonPath>);

impl Paths {
    fn get(&mut self, text: &str) -> Result<&JsonPath> {
        if !self.0.contains_key(text) {
            self.0.insert(text.to_owned(), parse(text)?);
        }
        Ok(&self.0[text])
    }
}

fn of_texts(
    arguments: &[Argument],
    rows: usize,
    value: impl Fn(&JsonPath, &Value) -> Option<String>,
) -> Result<ArrayRef> {
    let mut found = Vec::with_capacity(rows);
    let mut paths = Paths::default();
    for row in 0..rows {
        let (Some(json), Some(path)) = (text(arguments, 0, row), text(arguments, 1, row)) else {
            found.push(None);
            continue;
        };
        let path = paths.get(path)?;
        found.push(serde_json::from_str(json).ok().and_then(|json| value(path, &json)));
    }
    texts(rows, |row| found[row].clone())
}

/// A number, text or boolean as text.
fn scalar_text(path: &JsonPath, json: &Value) -> Option<String> {
    match path.query(json).exactly_one().ok()? {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// An object or an array as JSON.
fn nested_text(path: &JsonPath, json: &Value) -> Option<String> {
    match path.query(json).exactly_one().ok()? {
        nested @ (Value::Array(_) | Value::Object(_)) => Some(nested.to_string()),
        _ => None,
    }
}

fn exists(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let mut out = BooleanBuilder::with_capacity(rows);
    let mut paths = Paths::default();
    for row in 0..rows {
        let (Some(json), Some(path)) = (text(arguments, 0, row), text(arguments, 1, row)) else {
            out.append_null();
            continue;
        };
        let path = paths.get(path)?;
        let json: Option<Value> = serde_json::from_str(json).ok();
        // A null is as good as nothing, as in Flink.
        let is_there = |json: Value| path.query(&json).first().is_some_and(|found| !found.is_null());
        out.append_value(json.is_some_and(is_there));
    }
    Ok(Arc::new(out.finish()))
}
