//! DataFusion's sentences in words that a user of SQL understands.

use datafusion_common::SchemaError;

use crate::functions::{self, aggregates};
use crate::similar::closest;

/// What is said of a mistake.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// If its place is not known: it is at the first of these words or signs.
    pub keywords: &'static [&'static str],
}

impl Words {
    fn new(message: impl Into<String>) -> Self {
        Words { message: message.into(), ..Words::default() }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Words { hint: Some(hint.into()), ..self }
    }

    fn at(self, keywords: &'static [&'static str]) -> Self {
        Words { keywords, ..self }
    }
}

/// In the message of a conversion that there is none of.
pub const CANNOT_CAST: &str = "cannot be CAST to";

/// The message of one time minus another.
pub const DIFFERENCE: &str = "a difference of times is not supported yet";

/// How the message of a comparison of what is only equal or not begins.
pub const UNORDERED: &str = "there is no order of";

/// The message of a CASE that does not ask.
pub const CONDITION: &str = "a condition is BOOLEAN, and this is not";

/// What stands between an error of ours and what to write instead, in the planner's errors.
pub const HINT: &str = "\nhint: ";

/// Names that are not there, or not clear.
pub fn of_schema(error: &SchemaError) -> Words {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<_> = valid_fields.iter().map(|field| field.name.clone()).collect();
            let wanted = field.name();
            // The qualifier of a column may be what is wrong.
            let is_of = |field: &datafusion_common::Column, table: &str| {
                field.relation.as_ref().is_some_and(|relation| relation.table() == table)
            };
            if let Some(table) = field.relation.as_ref().map(|relation| relation.table())
                && !valid_fields.iter().any(|valid| is_of(valid, table))
                && names.iter().any(|name| name == wanted)
            {
                return Words::new(format!("there is no table '{table}' here that has a column '{wanted}'"))
                    .hint(format!("write `{wanted}` without it"));
            }
            Words::new(format!("there is no column '{wanted}'")).hint(match closest(wanted, &names) {
                Some(name) => format!("did you mean `{name}`?"),
                None if names.is_empty() => {
                    "without FROM there are none; a text has quotes: 'text'".to_owned()
                }
                None => format!("the columns are: {}", names.join(", ")),
            })
        }
        SchemaError::AmbiguousReference { field } => {
            Words::new(format!("the column '{}' is in more than one table", field.name()))
                .hint("put the table's name before it: table.column")
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            Words::new(format!("the column '{name}' occurs twice")).hint("rename one of them with AS")
        }
    }
}

/// Every other error.
pub fn of_text(text: &str) -> Words {
    if let Some(what) = text.strip_prefix("This feature is not implemented: ") {
        let first = what.lines().next().unwrap_or(what);
        let is_sentence = first.contains(" not ") || first.starts_with("Unsupported");
        return Words::new(if is_sentence { first.to_owned() } else { format!("{first} is not supported") });
    }
    let text = text.trim_start_matches("Error during planning: ").trim_start_matches("Execution error: ");
    if let Some((message, hint)) = text.split_once(HINT) {
        let keywords: &[&str] = match message {
            DIFFERENCE => &["-"],
            CONDITION => &["WHEN"],
            message if message.starts_with(UNORDERED) => &["BETWEEN", "<=", ">=", "<", ">"],
            message if message.contains(CANNOT_CAST) => &["CAST", "TRY_CAST"],
            _ => &[],
        };
        return Words::new(message).hint(hint).at(keywords);
    }
    let first = text.lines().next().unwrap_or(text);
    of_functions(first)
        .or_else(|| of_rows(first))
        .or_else(|| of_groups(first))
        .or_else(|| of_types(first))
        .or_else(|| of_pairs(first))
        .unwrap_or_else(|| Words::new(first))
}

fn of_functions(text: &str) -> Option<Words> {
    if let Some(rest) = text.strip_prefix("Invalid function '") {
        let name = rest.split('\'').next().unwrap_or(rest);
        let known: Vec<String> = functions::names().chain(aggregates::NAMES).map(str::to_owned).collect();
        let hint = match closest(&name.to_lowercase(), &known) {
            Some(similar) => format!("did you mean {}?", similar.to_uppercase()),
            None => "docs/reference/functions.md lists the functions".to_owned(),
        };
        return Some(Words::new(format!("there is no function '{}'", name.to_uppercase())).hint(hint));
    }
    if let Some(rest) = text.strip_prefix("Internal error: Function '") {
        let name = rest.split('\'').next().unwrap_or(rest).to_uppercase();
        let hint = match name.as_str() {
            "COUNT" => "COUNT takes one value; of several, write COUNT(DISTINCT CONCAT_WS(',', a, b))",
            _ => "docs/reference/functions.md says what it takes",
        };
        return Some(Words::new(format!("the arguments of '{name}' do not fit")).hint(hint));
    }
    if let Some((name, _)) = text.split_once("' does not take values of the type ") {
        let hint = match name {
            "'SUM" | "'AVG" => "CAST it to a number",
            _ => "take a part of it that has an order: a number, a text, a time",
        };
        return Some(Words::new(text).hint(hint));
    }
    // Of our own functions, within the planner's words.
    let (name, usage) = text.split_once("the arguments of ")?.1.split_once(" do not fit; usage: ")?;
    let usage = usage.split_once(". No function matches").map_or(usage, |(usage, _)| usage);
    let message = format!("the arguments of '{}' do not fit", name.to_uppercase());
    Some(Words::new(message).hint(format!("write {usage}")))
}

/// Rows of VALUES of different lengths.
fn of_rows(text: &str) -> Option<Words> {
    let rest = text.strip_prefix("Inconsistent data length across values list: got ")?;
    let (found, rest) = rest.split_once(" values in row ")?;
    let (row, expected) = rest.split_once(" but expected ")?;
    let row: usize = row.parse().ok()?;
    let message = format!("row {} of VALUES has {found} values, and the first one has {expected}", row + 1);
    Some(Words::new(message).hint("give every row as many; NULL where there is none"))
}

fn of_groups(text: &str) -> Option<Words> {
    if let Some(name) = text.strip_prefix("Invalid qualifier ") {
        let words = Words::new(format!(
            "there is no table '{name}' here, and {name}.* of a ROW is not supported yet"
        ));
        return Some(words.hint(format!("name the fields of a ROW: {name}.field, …")));
    }
    let last = |column: &str| column.rsplit('.').next().unwrap_or(column).to_owned();
    let quoted = |rest: &str| rest.split_once('"').map(|(column, _)| column.to_owned());
    if let Some(rest) = text.strip_prefix("Projections require unique expression names but the expression \"")
    {
        let column = quoted(rest)?;
        let name = column.rsplit_once(" AS ").map_or_else(|| last(&column), |(_, name)| name.to_owned());
        let hint = "rename one of them with AS; `*` has all columns already";
        return Some(Words::new(format!("the column '{name}' occurs twice")).hint(hint));
    }
    if let Some((_, rest)) = text.split_once("While expanding wildcard, column \"") {
        let name = last(&quoted(rest)?);
        let hint = format!("add it to GROUP BY, or say which one is meant: MAX({name})");
        return Some(Words::new(format!("the column '{name}' is neither grouped nor aggregated")).hint(hint));
    }
    if text.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        let words = Words::new("an aggregate cannot be in WHERE: rows are chosen before they are counted");
        return Some(words.hint("filter groups with HAVING, after GROUP BY").at(&["WHERE"]));
    }
    if text.starts_with("Aggregate function calls cannot be nested") {
        let words = Words::new("an aggregate cannot be inside of another one").at(&aggregates::NAMES);
        return Some(words.hint("compute the inner one in a view, and the outer one over it"));
    }
    if text.starts_with("HAVING clause references") {
        let words = Words::new(
            "HAVING is about groups, and this is of a column that is neither grouped nor aggregated",
        );
        return Some(
            words.hint("use WHERE for conditions on rows, or add the column to GROUP BY").at(&["HAVING"]),
        );
    }
    None
}

fn of_types(text: &str) -> Option<Words> {
    if let Some(rest) = text.strip_prefix("Cannot create filter with non-boolean predicate '") {
        let (condition, data_type) = rest.rsplit_once("' returning ")?;
        let name = condition.rsplit('.').next().unwrap_or(condition);
        let words = Words::new(format!("a condition is BOOLEAN, and '{name}' is {}", in_sql(data_type)));
        return Some(
            words.hint("compare it with something, such as IS NOT NULL or <> 0").at(&["WHERE", "HAVING"]),
        );
    }
    if let Some(rest) = text.strip_prefix("Unary operator 'NOT' requires a boolean expression, got ") {
        let words = Words::new(format!("there is no NOT {}", in_sql(rest)));
        return Some(words.hint("it is for conditions, such as NOT (a = b)"));
    }
    if text.starts_with("Unary operator '-' only") {
        let words = Words::new("only numbers and intervals have a - before them");
        return Some(words.hint("CAST it to a number"));
    }
    if text == "UNION queries have different number of columns" {
        let words = Words::new("the queries of a UNION have different numbers of columns").at(&["UNION"]);
        return Some(words.hint("select the same columns in all of them"));
    }
    if let Some(rest) = text.strip_prefix("Cannot coerce arithmetic expression ") {
        let types = in_sql(rest.strip_suffix(" to valid types")?);
        let hint = match types.contains("TIMESTAMP") || types.contains("DATE") {
            true => "times go with intervals: … + INTERVAL '1' SECOND",
            false => "CAST one of them",
        };
        return Some(Words::new(format!("there is no {types}")).hint(hint));
    }
    let types = text.strip_prefix("Cannot infer common argument type for comparison operation ")?;
    let words = Words::new(format!("there is no comparison {}", in_sql(types)));
    let operators: [&'static [&'static str]; 6] = [&["="], &["<>"], &["<="], &[">="], &["<"], &[">"]];
    let operator = operators.into_iter().find(|operator| types.contains(&format!(" {} ", operator[0])));
    Some(words.hint("CAST one of them to the type of the other").at(operator.unwrap_or_default()))
}

/// Two types that do not go together: how the planner's sentence begins, what stands between the types, how it ends, what they are
/// said to be, what to do, and the word it is at.
type Pair = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const PAIRS: &[Pair] = &[
    (
        "There isn't a common type to coerce ",
        " and ",
        " in LIKE expression",
        "there is no {} LIKE {}",
        "both are texts: CAST(… AS STRING)",
        &["LIKE"],
    ),
    (
        "Internal error: Failed to coerce types ",
        " and ",
        " in BETWEEN expression.",
        "there is no {} BETWEEN {}",
        "CAST one of them to the type of the other",
        &["BETWEEN"],
    ),
    (
        "Can not find compatible types to compare ",
        " with [",
        "]",
        "there is no {} IN ({})",
        "CAST one of them to the type of the other",
        &["IN"],
    ),
    (
        "Failed to coerce then (",
        ") and else (",
        ") to common types in CASE WHEN expression",
        "{} and {} cannot be results of one expression: they have no common type",
        "CAST one of them to the type of the other",
        &["CASE", "COALESCE", "IF", "NULLIF", "IFNULL"],
    ),
    (
        "Incompatible inputs for Union: Previous inputs were of type ",
        ", but got incompatible type ",
        "",
        "{} and {} cannot be in one column of a UNION",
        "CAST one of them to the type of the other",
        &["UNION"],
    ),
    (
        "Cannot infer common argument type for logical boolean operation ",
        " AND ",
        "",
        "there is no {} AND {}",
        "compare it with something, such as <> 0",
        &["AND"],
    ),
    (
        "Cannot infer common argument type for logical boolean operation ",
        " OR ",
        "",
        "there is no {} OR {}",
        "compare it with something, such as <> 0",
        &["OR"],
    ),
];

fn of_pairs(text: &str) -> Option<Words> {
    PAIRS.iter().find_map(|(begin, between, end, message, hint, keywords)| {
        let types = text.strip_prefix(begin)?.strip_suffix(end)?;
        let (left, right) = types.split_once(between)?;
        // Of which column it is, the planner's sentence says behind.
        let right = right.split_once(" on column ").map_or(right, |(right, _)| right);
        let message = message.replacen("{}", &in_sql(left), 1).replacen("{}", &in_sql(right), 1);
        Some(Words::new(message).hint(*hint).at(keywords))
    })
}

/// Types as they are held in memory, and what SQL calls them; longer names first.
const TYPES: &[(&str, &str)] = &[
    ("Timestamp(ms, \"UTC\")", "TIMESTAMP_LTZ(3)"),
    ("Timestamp(µs, \"UTC\")", "TIMESTAMP_LTZ(6)"),
    ("Timestamp(ns, \"UTC\")", "TIMESTAMP_LTZ(9)"),
    ("Timestamp(ms)", "TIMESTAMP(3)"),
    ("Timestamp(µs)", "TIMESTAMP(6)"),
    ("Timestamp(ns)", "TIMESTAMP(9)"),
    ("Interval(MonthDayNano)", "INTERVAL"),
    ("Decimal128(", "DECIMAL("),
    ("Time32(ms)", "TIME"),
    ("Time64(ns)", "TIME"),
    ("Float64", "DOUBLE"),
    ("Float32", "FLOAT"),
    ("UInt64", "BIGINT"),
    ("Int64", "BIGINT"),
    ("Int32", "INT"),
    ("Int16", "SMALLINT"),
    ("Int8", "TINYINT"),
    ("LargeUtf8", "STRING"),
    ("Utf8View", "STRING"),
    ("Utf8", "STRING"),
    ("Boolean", "BOOLEAN"),
    ("Date32", "DATE"),
    ("Binary", "BYTES"),
];

/// A text about types in memory, with SQL's names of them.
fn in_sql(text: &str) -> String {
    let text = TYPES.iter().fold(text.to_owned(), |text, (held, sql)| text.replace(held, sql));
    nested(text)
}

/// `List(…)` as ARRAY<…>, and `Struct("a": …)` as ROW<a …>; those within others first.
fn nested(text: String) -> String {
    let last = [("List(", "ARRAY<"), ("Struct(", "ROW<")]
        .into_iter()
        .filter_map(|(held, sql)| Some((text.rfind(held)?, held, sql)))
        .max();
    let Some((start, held, sql)) = last else { return text };
    let inside = &text[start + held.len()..];
    let mut depth = 1;
    let end = inside.char_indices().find_map(|(at, letter)| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (depth == 0).then_some(at)
    });
    let Some(end) = end else { return text };
    let parts = inside[..end].replace("\": ", " ").replace(['"', '\''], "");
    nested(format!("{}{sql}{parts}>{}", &text[..start], &inside[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_their_names_of_sql() {
        for (text, expected) in [
            ("Int32 + Utf8", "INT + STRING"),
            ("Timestamp(ms) > Int64", "TIMESTAMP(3) > BIGINT"),
            ("Timestamp(ms, \"UTC\") = Decimal128(10, 2)", "TIMESTAMP_LTZ(3) = DECIMAL(10, 2)"),
            ("Interval(MonthDayNano) * Float64", "INTERVAL * DOUBLE"),
            ("Struct(\"x\": Int32, \"y\": List(Utf8)) = Int64", "ROW<x INT, y ARRAY<STRING>> = BIGINT"),
            ("List(List(Decimal128(10, 2))) > Int32", "ARRAY<ARRAY<DECIMAL(10, 2)>> > INT"),
        ] {
            assert_eq!(in_sql(text), expected);
        }
    }
}
