//! LIKE as in Flink: without ESCAPE no character escapes others, unlike in the kernels, where the backslash does.

use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, ScalarValue, internal_err, not_impl_err, plan_err};
use datafusion_expr::expr::Like;
use datafusion_expr::{Expr as Planned, LogicalPlan, lit};
use datafusion_optimizer::AnalyzerRule;
use sqlparser::ast::{Expr, Value, ValueWithSpan};

use super::analysis::in_every_expression;
use crate::functions;

/// The escape character of the kernels, and of patterns that have been made theirs.
pub const KERNELS: char = '\\';

/// Makes patterns those of the kernels, before constants are computed.
#[derive(Debug)]
pub struct FlinkLike;

impl AnalyzerRule for FlinkLike {
    fn name(&self) -> &str {
        "flink_like"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        in_every_expression(plan, in_expression)
    }
}

fn in_expression(expression: Planned, _: &DFSchema) -> Result<Transformed<Planned>> {
    match expression {
        Planned::Like(like) if like.escape_char != Some(KERNELS) => {
            let pattern = Box::new(converted(*like.pattern, like.escape_char)?);
            Ok(Transformed::yes(Planned::Like(Like { pattern, escape_char: Some(KERNELS), ..like })))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn converted(pattern: Planned, escape: Option<char>) -> Result<Planned> {
    match (&pattern, escape) {
        (Planned::Literal(ScalarValue::Utf8(Some(given)), _), escape) => match like_pattern(given, escape) {
            Ok(pattern) => Ok(lit(pattern)),
            Err(cure) => plan_err!("a pattern of LIKE: {cure}"),
        },
        (_, Some(_)) => not_impl_err!("ESCAPE with a pattern that is not in quotes"),
        (_, None) => match functions::scalar("replace") {
            Some(replace) => Ok(replace.call(vec![pattern, lit("\\"), lit("\\\\")])),
            None => internal_err!("no function REPLACE"),
        },
    }
}

/// The text in quotes that an expression is.
pub fn text_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text),
        _ => None,
    }
}

/// The escape character of LIKE.
///
/// # Errors
/// What to write instead.
pub fn escape_of(escape: &ValueWithSpan) -> Result<char, &'static str> {
    let Value::SingleQuotedString(text) = &escape.value else { return Err("write a character in quotes") };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(escape), None) => Ok(escape),
        _ => Err("write one character"),
    }
}

/// A pattern of LIKE as the kernel takes it, whose escape character is the backslash.
///
/// # Errors
/// What to write instead, if an escape character stands before something that needs none.
pub fn like_pattern(pattern: &str, escape: Option<char>) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if Some(letter) == escape {
            match letters.next() {
                Some(escaped) if matches!(escaped, '%' | '_') || Some(escaped) == escape => {
                    out.extend(matches!(escaped, '%' | '_' | '\\').then_some('\\'));
                    out.push(escaped);
                }
                _ => return Err("an escape character stands before %, _ or itself"),
            }
            continue;
        }
        out.extend((letter == '\\').then_some('\\'));
        out.push(letter);
    }
    Ok(out)
}
