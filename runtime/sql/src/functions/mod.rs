//! Flink's scalar functions, with Flink's meaning, as functions that DataFusion can call.
//!
//! Names and NULL handling follow Flink's documentation of its built-in functions.

pub mod aggregates;
mod arrays;
mod cast;
pub mod chance;
mod charsets;
pub mod clock;
pub mod decimals;
mod encodings;
mod field;
mod fractions;
mod json;
pub mod json_build;
mod math;
pub mod nested;
mod numbers;
mod pieces;
mod regex_cache;
mod rounding;
mod scalar;
mod search;
mod shape;
mod strings;
mod text;
mod time_texts;
mod times;
pub mod zones;

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_expr::ScalarUDF;

pub use cast::{CastTo, NotANumber, TextError, at_or_before, decimal, of_texts};
pub use field::FIELD;
pub use fractions::{CompareFractions, InFractions};
use scalar::Scalar;
pub use text::of_column as texts;
pub use time_texts::{SHOWN_SECONDS, USUAL as USUAL_TIME};

/// Every function by its SQL names; the first is the one that plans store.
pub fn names() -> impl Iterator<Item = &'static str> {
    let tables = tables().into_iter().flatten().flat_map(|function| function.names.iter().copied());
    tables.chain(rounding::NAMES).chain(clock::names()).chain(chance::names())
}

/// Looks a scalar function up by its SQL name, in any case.
pub fn scalar(name: &str) -> Option<Arc<ScalarUDF>> {
    if name == FIELD {
        return Some(Arc::new(ScalarUDF::from(field::FieldOf::new())));
    }
    let name = name.to_ascii_lowercase();
    if let Some(round) = rounding::RoundTo::by_name(&name) {
        return Some(Arc::new(ScalarUDF::from(round)));
    }
    if let Some(clock) = clock::AtTime::by_name(&name, &clock::BatchTime::default()) {
        return Some(Arc::new(ScalarUDF::from(clock)));
    }
    if let Some(chance) = chance::ByChance::by_name(&name, &chance::Chance::default()) {
        return Some(Arc::new(ScalarUDF::from(chance)));
    }
    let function = tables().into_iter().flatten().find(|function| function.names.contains(&name.as_str()))?;
    Some(Arc::new(ScalarUDF::from(scalar::Function::new(function))))
}

/// Looks at those arguments of a call that are constant texts, so that a mistake in them is found before the job runs.
///
/// # Errors
/// What is wrong with one.
pub fn check_constants(name: &str, constants: &[Option<&str>]) -> Result<()> {
    match (name, constants) {
        (
            "date_format" | "to_timestamp" | "to_date" | "unix_timestamp" | "from_unixtime",
            [_, Some(pattern)],
        ) => times::check_pattern(pattern),
        ("timestampdiff" | "timestampadd", [Some(unit), ..]) => times::check_unit(unit),
        ("floor_to" | "ceil_to", [_, Some(unit)]) => times::check_unit(unit),
        ("convert_tz", zones) => {
            zones.iter().skip(1).flatten().try_for_each(|name| zones::zone(name).map(drop))
        }
        ("encode" | "decode", [_, Some(charset)]) => charsets::check_name(name, charset),
        ("json_value" | "json_query" | "json_exists", [_, Some(path)]) => json::check_path(path),
        ("regexp" | "regexp_extract" | "regexp_replace", [_, Some(pattern), ..]) => {
            regex_cache::RegexCache::default().get(pattern).map(drop)
        }
        _ => Ok(()),
    }
}

/// What others are made of.
const INNER: &[&str] = &[
    "floor_to",
    "ceil_to",
    "bytes_cut",
    "bytes_padded",
    "time_cut",
    crate::plan::function::ELEMENT,
    SHOWN_SECONDS,
    zones::IN_ZONE,
    zones::OF_ZONE,
    zones::SECONDS_OF_ZONE,
];

/// A page that lists all functions, for readers.
pub fn reference() -> String {
    // These do other functions' work, and are not called by name.
    let is_inner =
        |function: &&Scalar| function.names[0].starts_with("decimal") || INNER.contains(&function.names[0]);
    let functions = tables().into_iter().flatten().filter(|function| !is_inner(function));
    let mut lines: Vec<String> = functions.map(listed).collect();
    lines.extend(
        rounding::NAMES.map(|name| format!("| `{0}` | `{0}(number[, digits])` |", name.to_uppercase())),
    );
    lines.extend(chance::listed().map(|(name, usage)| format!("| `{name}` | `{usage}` |")));
    lines.extend(clock::listed().map(|(name, usage)| format!("| `{name}` | `{usage}` |")));
    lines.extend(special().map(|(name, usage)| format!("| `{name}` | `{usage}` |")));
    lines.extend(aggregates::NAMES.map(|name| {
        let distinct = if aggregates::spread(name).is_some() { "" } else { "[DISTINCT] " };
        let name = name.to_uppercase();
        let value = if name == "LISTAGG" { "text[, separator]" } else { "value" };
        format!("| `{name}` | `{name}({distinct}{value}) [FILTER (WHERE condition)]` |")
    }));
    lines.sort();
    format!(
        "# Functions\n\nNames, NULLs, types and rounding are Flink's. This page is made from the code (`make generate`).\n\n| function | \
         call |\n|---|---|\n{}\n{OPERATORS}",
        lines.join("\n")
    )
}

/// What is no function and has a meaning in expressions all the same.
const OPERATORS: &str = "
## Operators, conversions and types

- `+`, `-`, `*`, `/`, `%`, and `||` for strings; `=`, `<>`, `<`, `<=`, `>`, `>=`; `AND`, `OR`, `NOT`.
- `IS [NOT] NULL`, `IS [NOT] TRUE`, `IS [NOT] DISTINCT FROM`, `[NOT] BETWEEN`, `[NOT] IN (…)`, `[NOT] LIKE 'pattern' [ESCAPE 'character']`.
- `row.field`, `array[position]` from 1 on, `map[key]`.
- A time `+` or `-` `INTERVAL 'n' unit`.
- `CAST(value AS type)` fails on a text that is no value of the type, `TRY_CAST` makes NULL of it. Dates and times may be short, as in Flink: `2024-1-5`, `2024-1`, `2024-1-5 3:4:5.6`, `12:30`, `12`.
- Types: BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), CHAR(n), VARCHAR(n), STRING, BYTES, DATE, TIME, TIMESTAMP(p), TIMESTAMP_LTZ(p), ROW<…>, ARRAY<…>, MAP<…>.
";

fn listed(function: &Scalar) -> String {
    let names: Vec<String> = function.names.iter().map(|name| format!("`{}`", name.to_uppercase())).collect();
    format!("| {} | `{}` |", names.join(", "), function.usage.replace('|', "\\|"))
}

/// Functions that become other expressions when they are read.
fn special() -> [(&'static str, &'static str); 6] {
    [
        ("COALESCE", "COALESCE(value, …)"),
        ("IFNULL", "IFNULL(value, instead)"),
        ("NULLIF", "NULLIF(value, value)"),
        ("IF", "IF(condition, then, otherwise)"),
        ("EXTRACT", "EXTRACT(unit FROM timestamp)"),
        ("CASE", "CASE WHEN condition THEN value … [ELSE value] END"),
    ]
}

fn tables() -> [&'static [Scalar]; 16] {
    [
        numbers::FUNCTIONS,
        math::FUNCTIONS,
        decimals::FUNCTIONS,
        strings::FUNCTIONS,
        shape::FUNCTIONS,
        search::FUNCTIONS,
        times::FUNCTIONS,
        nested::FUNCTIONS,
        arrays::FUNCTIONS,
        pieces::FUNCTIONS,
        time_texts::FUNCTIONS,
        zones::FUNCTIONS,
        charsets::FUNCTIONS,
        encodings::FUNCTIONS,
        json::FUNCTIONS,
        json_build::FUNCTIONS,
    ]
}
