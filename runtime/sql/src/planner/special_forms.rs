//! Functions with a grammar of their own, made into plain calls before they are planned; and constants in Flink's types.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, SelectItem, Spanned,
    TrimWhereField, Value,
};
use sqlparser::tokenizer::Span;

use crate::dialect::{ARRAY_PRESENT, OBJECT_ABSENT};
use crate::functions::{FIELD, clock, json_build};
use crate::plan::function;

/// Levels of an expression: planning takes the square of them in time, and workers go down into them on stacks of their own.
pub const DEPTH_MAX: usize = 300;

/// Rewrites every expression of a query or a part of one.
///
/// # Errors
/// How deep a chain of operators is that is too deep, and where it ends.
pub fn rewrite(parsed: &mut impl ast::VisitMut) -> Result<(), (usize, Span)> {
    match parsed.visit(&mut Forms) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(too_deep) => Err(too_deep),
    }
}

struct Forms;

impl ast::VisitorMut for Forms {
    type Break = (usize, Span);

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Self::Break> {
        name_columns(&mut select.projection);
        ControlFlow::Continue(())
    }

    /// Chains are seen whole from their top.
    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } = &*expression
            && let Some(flat) = balanced(expression, op)
        {
            *expression = flat;
        }
        match (chain(expression), &*expression) {
            (depth, Expr::BinaryOp { right, .. }) if depth > DEPTH_MAX => {
                ControlFlow::Break((depth, right.span()))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    /// Arguments come before the calls that they are in.
    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Self::Break> {
        if let Some(new) = rewritten(expression) {
            *expression = new;
        }
        ControlFlow::Continue(())
    }
}

/// How names of columns begin that the user has given none; their position follows.
pub const UNNAMED: &str = "EXPR$";

/// Gives every column a name of its own, as Flink does: expressions by their position, repeated columns by a number behind.
fn name_columns(columns: &mut [SelectItem]) {
    let mut known: Vec<String> = Vec::new();
    for (position, column) in columns.iter_mut().enumerate() {
        let expression = match column {
            SelectItem::ExprWithAlias { alias, .. } => {
                known.push(alias.value.clone());
                continue;
            }
            SelectItem::UnnamedExpr(expression) => expression.clone(),
            _ => continue,
        };
        let own_name = match &expression {
            Expr::Identifier(name) => Some(name.value.clone()),
            Expr::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()),
            _ => None,
        };
        let name = own_name.clone().unwrap_or_else(|| format!("{UNNAMED}{position}"));
        let mut free = name.clone();
        let mut number = 0;
        while known.contains(&free) {
            free = format!("{name}{number}");
            number += 1;
        }
        known.push(free.clone());
        if own_name.as_ref() != Some(&free) {
            let alias = Ident::with_quote('`', free);
            *column = SelectItem::ExprWithAlias { expr: expression, alias };
        }
    }
}

fn rewritten(expression: &Expr) -> Option<Expr> {
    match expression {
        Expr::Value(value) => match &value.value {
            // Whole numbers are INT if they fit, as in Flink; the planner takes all for BIGINT.
            Value::Number(digits, false) if digits.parse::<i32>().is_ok() => Some(Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(expression.clone()),
                data_type: ast::DataType::Int(None),
                array: false,
                format: None,
            }),
            Value::Number(digits, false) if digits.contains(['e', 'E']) => Some(Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(text(digits)),
                data_type: ast::DataType::Double(ast::ExactNumberInfo::None),
                array: false,
                format: None,
            }),
            _ => None,
        },
        Expr::Cast { kind, expr, data_type, .. } if is_bytes(data_type) => {
            let bytes = Expr::Cast {
                kind: kind.clone(),
                expr: expr.clone(),
                data_type: ast::DataType::Bytea,
                array: false,
                format: None,
            };
            Some(match length_of_bytes(data_type) {
                Some((length, true)) => call("bytes_padded", vec![bytes, Expr::value(number(length))]),
                Some((length, false)) => call("bytes_cut", vec![bytes, Expr::value(number(length))]),
                None => bytes,
            })
        }
        Expr::Cast { kind, expr, data_type: ast::DataType::Timestamp(digits, zone), .. } => {
            to_time(kind, expr, *digits, *zone)
        }
        Expr::Cast { kind, expr, data_type, .. } if digits_of_point(data_type).is_some() => {
            to_time(kind, expr, digits_of_point(data_type), ast::TimezoneInfo::WithTimeZone)
        }
        Expr::Cast { kind, expr, data_type, .. } => {
            let (length, is_padded) = length(data_type)?;
            let text = Expr::Cast {
                kind: kind.clone(),
                expr: expr.clone(),
                data_type: ast::DataType::String(None),
                array: false,
                format: None,
            };
            let length = Expr::value(number(length));
            Some(match is_padded {
                true => call("rpad", vec![text, length, self::text(" ")]),
                false => call("left", vec![text, length]),
            })
        }
        // A literal has as many digits as it is written with.
        Expr::TypedString(ast::TypedString {
            data_type: ast::DataType::Timestamp(None, zone),
            value,
            ..
        }) => {
            let fraction =
                value.value.clone().into_string()?.rsplit_once('.').map_or(0, |(_, digits)| digits.len());
            let digits = match fraction {
                0..=3 => 3,
                4..=6 => 6,
                _ => 9,
            };
            Some(Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(Expr::Value(value.clone())),
                data_type: ast::DataType::Timestamp(Some(digits), *zone),
                array: false,
                format: None,
            })
        }
        // Words of Flink's that are no columns.
        Expr::Identifier(name) if name.quote_style.is_none() && clock::is_bare(&name.value) => {
            Some(call(&name.value.to_ascii_lowercase(), Vec::new()))
        }
        Expr::Function(function) if is_unix_timestamp_now(function) => {
            Some(call(clock::UNIX_SECONDS, Vec::new()))
        }
        // A row by its parentheses alone.
        Expr::Tuple(values) if values.len() > 1 => Some(call(function::ROW, values.clone())),
        Expr::Position { expr, r#in } => Some(call("position", vec![(**expr).clone(), (**r#in).clone()])),
        Expr::Trim { trim_where, trim_what, expr, .. } => {
            let name = match trim_where {
                None | Some(TrimWhereField::Both) => "btrim",
                Some(TrimWhereField::Leading) => "ltrim",
                Some(TrimWhereField::Trailing) => "rtrim",
            };
            let what = trim_what.iter().map(|what| (**what).clone());
            Some(call(name, std::iter::once((**expr).clone()).chain(what).collect()))
        }
        Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
            let length = overlay_for.iter().map(|length| (**length).clone());
            let first = [expr, overlay_what, overlay_from].map(|argument| (**argument).clone());
            Some(call("overlay", first.into_iter().chain(length).collect()))
        }
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let from = substring_from.as_deref().cloned().unwrap_or_else(|| Expr::value(number(1)));
            let length = substring_for.iter().map(|length| (**length).clone());
            Some(call("substring", [(**expr).clone(), from].into_iter().chain(length).collect()))
        }
        Expr::Extract { field, expr, .. } => Some(call(extracted(field)?, vec![(**expr).clone()])),
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(field) } => to_unit("ceil_to", expr, field),
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(field) } => to_unit("floor_to", expr, field),
        Expr::Function(function) => rewritten_call(function),
        Expr::CompoundFieldAccess { root, access_chain } => accessed(root, access_chain),
        _ => None,
    }
}

/// `table.column[n].field`: a column, then calls for what is inside of it.
fn accessed(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let mut names: Vec<Ident> = match root {
        Expr::Identifier(name) => vec![name.clone()],
        _ => Vec::new(),
    };
    let mut rest = chain.iter().peekable();
    while let Some(AccessExpr::Dot(Expr::Identifier(name))) = rest.peek()
        && !names.is_empty()
    {
        names.push(name.clone());
        rest.next();
    }
    let mut value = match names.len() {
        0 | 1 => root.clone(),
        _ => Expr::CompoundIdentifier(names),
    };
    for access in rest {
        value = match access {
            AccessExpr::Subscript(ast::Subscript::Index { index }) => {
                call(function::ELEMENT, vec![value, index.clone()])
            }
            AccessExpr::Dot(Expr::Identifier(name)) => call(FIELD, vec![value, text(&name.value)]),
            _ => return None,
        };
    }
    Some(value)
}

/// A conversion to a time of so many digits of a second; without them it has six, as in Flink.
fn to_time(kind: &ast::CastKind, value: &Expr, digits: Option<u64>, zone: ast::TimezoneInfo) -> Option<Expr> {
    let digits = digits.unwrap_or(6);
    // The planner counts in thousands.
    let held = match digits {
        0..=3 => 3,
        4..=6 => 6,
        7..=9 => 9,
        _ => return None,
    };
    let time = Expr::Cast {
        kind: kind.clone(),
        expr: Box::new(value.clone()),
        data_type: ast::DataType::Timestamp(Some(held), zone),
        array: false,
        format: None,
    };
    Some(match digits == held {
        true => time,
        false => call("time_cut", vec![time, Expr::value(number(digits as i64))]),
    })
}

/// The digits of TIMESTAMP_LTZ, which the planner knows as a TIMESTAMP in a zone.
fn digits_of_point(data_type: &ast::DataType) -> Option<u64> {
    let ast::DataType::Custom(name, arguments) = data_type else { return None };
    let digits = arguments.first().map_or(Some(6), |digits| digits.parse().ok())?;
    name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ").then_some(digits)
}

/// Flink's names of what the planner knows by another one.
fn is_bytes(data_type: &ast::DataType) -> bool {
    use ast::DataType::{Binary, Custom, Varbinary};
    match data_type {
        Binary(_) | Varbinary(_) => true,
        Custom(name, _) => name.to_string().eq_ignore_ascii_case("BYTES"),
        other => other.to_string().eq_ignore_ascii_case("BYTES"),
    }
}

/// The length of a type of bytes that has one, and whether shorter ones are filled up.
fn length_of_bytes(data_type: &ast::DataType) -> Option<(i64, bool)> {
    match data_type {
        // BINARY is BINARY(1), and VARBINARY one that is as long as it likes.
        ast::DataType::Binary(length) => {
            Some((length.map_or(1, |length| i64::try_from(length).unwrap_or(i64::MAX)), true))
        }
        ast::DataType::Varbinary(Some(ast::BinaryLength::IntegerLength { length })) => {
            Some((i64::try_from(*length).unwrap_or(i64::MAX), false))
        }
        _ => None,
    }
}

/// The length of a type of texts that has one, and whether shorter ones are filled up.
fn length(data_type: &ast::DataType) -> Option<(i64, bool)> {
    use ast::DataType::{Char, CharVarying, Character, CharacterVarying, Varchar};
    let (length, is_padded) = match data_type {
        Char(length) | Character(length) => (length, true),
        Varchar(length) | CharVarying(length) | CharacterVarying(length) => (length, false),
        _ => return None,
    };
    match length {
        Some(ast::CharacterLength::IntegerLength { length, .. }) => {
            Some((i64::try_from(*length).unwrap_or(i64::MAX), is_padded))
        }
        // CHAR is CHAR(1), and VARCHAR one that is as long as it likes.
        None if is_padded => Some((1, true)),
        _ => None,
    }
}

/// How many operators follow each other without parentheses.
fn chain(expression: &Expr) -> usize {
    let (mut depth, mut rest) = (0, expression);
    while let Expr::BinaryOp { left, .. } = rest {
        depth += 1;
        rest = left;
    }
    depth
}

/// A chain of AND or OR as a tree that is as flat as can be: the parser makes it as deep as it is long.
fn balanced(expression: &Expr, op: &BinaryOperator) -> Option<Expr> {
    let mut terms = Vec::new();
    let mut rest = expression;
    while let Expr::BinaryOp { left, op: found, right } = rest
        && found == op
    {
        terms.push((**right).clone());
        rest = left;
    }
    // Short chains are flat enough.
    if terms.len() < BALANCED_MIN {
        return None;
    }
    terms.push(rest.clone());
    terms.reverse();
    while terms.len() > 1 {
        let pairs = std::mem::take(&mut terms);
        let mut pairs = pairs.into_iter();
        while let Some(left) = pairs.next() {
            terms.push(match pairs.next() {
                Some(right) => {
                    let (left, right) =
                        (Box::new(Expr::Nested(Box::new(left))), Box::new(Expr::Nested(Box::new(right))));
                    Expr::BinaryOp { left, op: op.clone(), right }
                }
                None => left,
            });
        }
    }
    terms.pop()
}

/// Chains of so many terms are made flat.
const BALANCED_MIN: usize = 16;

fn rewritten_call(function: &Function) -> Option<Expr> {
    let [ast::ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else { return None };
    let arguments = arguments(function)?;
    match (name.value.to_ascii_uppercase().as_str(), arguments.as_slice()) {
        ("COALESCE" | "IFNULL", [.., last]) => {
            let (values, last) = (&arguments[..arguments.len() - 1], last.clone());
            let whens = values.iter().map(|value| (Expr::IsNotNull(Box::new(value.clone())), value.clone()));
            let whens: Vec<_> = whens.collect();
            Some(if whens.is_empty() { last } else { case(whens, last) })
        }
        ("NULLIF", [value, other]) => {
            let is_equal = Expr::BinaryOp {
                left: Box::new(value.clone()),
                op: ast::BinaryOperator::Eq,
                right: Box::new(other.clone()),
            };
            Some(case(vec![(is_equal, null())], value.clone()))
        }
        ("IF", [condition, then, otherwise]) => {
            Some(case(vec![(condition.clone(), then.clone())], otherwise.clone()))
        }
        ("JSON_OBJECT", values) => Some(json(json_build::OBJECT, json_build::PRESENT, values)),
        (OBJECT_ABSENT, values) => Some(json(json_build::OBJECT, json_build::ABSENT, values)),
        ("JSON_ARRAY", values) => Some(json(json_build::ARRAY, json_build::ABSENT, values)),
        (ARRAY_PRESENT, values) => Some(json(json_build::ARRAY, json_build::PRESENT, values)),
        // A unit is a word, and no column.
        ("TIMESTAMPDIFF" | "TIMESTAMPADD", [Expr::Identifier(unit), rest @ ..]) => {
            let rest = rest.iter().cloned();
            let arguments = std::iter::once(text(&unit.value)).chain(rest).collect();
            Some(call(&name.value, arguments))
        }
        // The type of the result depends on a constant, which must be one when the type is asked for.
        ("ROUND" | "TRUNCATE", [value, Expr::Cast { expr, .. }]) if matches!(**expr, Expr::Value(_)) => {
            Some(call(&name.value, vec![value.clone(), (**expr).clone()]))
        }
        _ => None,
    }
}

/// A call that makes JSON. What its values are is told with it: the texts of other such calls are JSON already.
fn json(name: &str, nulls: char, arguments: &[Expr]) -> Expr {
    let is_json = |value: &Expr| match value {
        Expr::Function(function) => {
            let name = function.name.to_string();
            [json_build::OBJECT, json_build::ARRAY].contains(&name.as_str())
        }
        _ => false,
    };
    let step = if name == json_build::OBJECT { 2 } else { 1 };
    let values = arguments.iter().skip(step - 1).step_by(step);
    let kinds = values.map(|value| if is_json(value) { json_build::RAW } else { json_build::VALUE });
    let kinds: String = std::iter::once(nulls).chain(kinds).collect();
    call(name, std::iter::once(text(&kinds)).chain(arguments.iter().cloned()).collect())
}

/// The function that gives a part of a time.
pub fn extracted(field: &DateTimeField) -> Option<&'static str> {
    Some(match field {
        DateTimeField::Year | DateTimeField::Years => "year",
        DateTimeField::Quarter => "quarter",
        DateTimeField::Month | DateTimeField::Months => "month",
        DateTimeField::Week(None) | DateTimeField::Weeks => "week",
        DateTimeField::Day | DateTimeField::Days => "dayofmonth",
        DateTimeField::DayOfWeek | DateTimeField::Dow => "dayofweek",
        DateTimeField::DayOfYear | DateTimeField::Doy => "dayofyear",
        DateTimeField::Hour | DateTimeField::Hours => "hour",
        DateTimeField::Minute | DateTimeField::Minutes => "minute",
        DateTimeField::Second | DateTimeField::Seconds => "second",
        _ => return None,
    })
}

fn to_unit(name: &str, value: &Expr, field: &DateTimeField) -> Option<Expr> {
    match field {
        DateTimeField::NoDateTime => None,
        field => Some(call(name, vec![value.clone(), text(&field.to_string())])),
    }
}

/// Plain arguments of a call; `None` if there are others.
fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

/// UNIX_TIMESTAMP without arguments.
fn is_unix_timestamp_now(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.args.is_empty() && function.name.to_string().eq_ignore_ascii_case("unix_timestamp")
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn case(whens: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    let when = |(condition, result)| CaseWhen { condition, result };
    Expr::Case {
        case_token: ast::helpers::attached_token::AttachedToken::empty(),
        end_token: ast::helpers::attached_token::AttachedToken::empty(),
        operand: None,
        conditions: whens.into_iter().map(when).collect(),
        else_result: Some(Box::new(otherwise)),
    }
}

fn text(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_owned()))
}

fn number(number: i64) -> Value {
    Value::Number(number.to_string(), false)
}

fn null() -> Expr {
    Expr::value(Value::Null)
}
