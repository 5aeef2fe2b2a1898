//! Plans as a reader sees them: expressions as SQL, aggregates and windows as they were written.

use super::expr::function;
use super::{Aggregate, AggregateFunction, Expr, Literal, Node, TypeKind, Value, Window};

/// An expression as SQL over columns of these names.
pub fn expression(expression: &Expr, names: &[String]) -> String {
    let below = |inner: &Expr| self::expression(inner, names);
    let maybe = |inner: &Option<Box<Expr>>| inner.as_deref().map(below).unwrap_or_default();
    match &expression.node {
        None => "?".to_owned(),
        Some(Node::Column(index)) => column(names, *index),
        Some(Node::Literal(value)) => literal(value),
        Some(Node::Cast(cast)) => {
            let name = if cast.is_try { "TRY_CAST" } else { "CAST" };
            format!("{name}({} AS {})", maybe(&cast.expr), cast.to.clone().unwrap_or_default())
        }
        Some(Node::Field(access)) => format!("{}.{}", maybe(&access.expr), access.field),
        Some(Node::Case(case)) => {
            let mut text = "CASE".to_owned();
            let optional = |inner: &Option<Expr>| inner.as_ref().map(below).unwrap_or_default();
            if case.operand.is_some() {
                text.push_str(&format!(" {}", maybe(&case.operand)));
            }
            for branch in &case.branches {
                text.push_str(&format!(" WHEN {} THEN {}", optional(&branch.when), optional(&branch.then)));
            }
            if case.otherwise.is_some() {
                text.push_str(&format!(" ELSE {}", maybe(&case.otherwise)));
            }
            text + " END"
        }
        Some(Node::Call(call)) => {
            let arguments: Vec<String> = call.arguments.iter().map(below).collect();
            call_text(&call.function, &arguments)
        }
    }
}

fn column(names: &[String], index: u32) -> String {
    names.get(index as usize).cloned().unwrap_or_else(|| format!("column {index}"))
}

fn call_text(name: &str, arguments: &[String]) -> String {
    let rest = || arguments.get(1..).unwrap_or_default().join(", ");
    match (name, arguments) {
        (function::NOT, [one]) => format!("NOT {one}"),
        (function::NEGATE, [one]) => format!("-{one}"),
        (function::IS_NULL, [one]) => format!("{one} IS NULL"),
        (function::IS_NOT_NULL, [one]) => format!("{one} IS NOT NULL"),
        (function::IN, [one, ..]) => format!("{one} IN ({})", rest()),
        (function::NOT_IN, [one, ..]) => format!("{one} NOT IN ({})", rest()),
        (function::IS_DISTINCT_FROM | function::IS_NOT_DISTINCT_FROM, [a, b]) => {
            format!("({a} {} {b})", name.replace('_', " ").to_uppercase())
        }
        (function::LIKE, [a, b]) => format!("{a} LIKE {b}"),
        (function::NOT_LIKE, [a, b]) => format!("{a} NOT LIKE {b}"),
        (function::AND | function::OR, [a, b]) => format!("({a} {} {b})", name.to_uppercase()),
        (function::ELEMENT, [a, b]) => format!("{a}[{b}]"),
        (function::ARRAY | function::MAP, parts) => format!("{}[{}]", name.to_uppercase(), parts.join(", ")),
        (function::DECIMAL_COMPARE, [a, b]) => format!("COMPARE({a}, {b})"),
        (
            function::DECIMAL_DIVIDE
            | function::DECIMAL_PLUS
            | function::DECIMAL_MINUS
            | function::DECIMAL_TIMES,
            [a, b],
        ) => {
            format!("({a} {} {b})", name.trim_start_matches("decimal"))
        }
        (operator, [a, b]) if !operator.starts_with(char::is_alphabetic) => format!("({a} {operator} {b})"),
        (name, arguments) => format!("{}({})", name.to_uppercase(), arguments.join(", ")),
    }
}

fn literal(literal: &Literal) -> String {
    let data_type = literal.data_type.clone().unwrap_or_default();
    match &literal.value {
        None => "NULL".to_owned(),
        Some(Value::Boolean(value)) => value.to_string().to_uppercase(),
        Some(Value::String(text)) => format!("'{}'", text.replace('\'', "''")),
        Some(Value::Double(value)) => value.to_string(),
        Some(Value::Bytes(bytes)) if data_type.kind() == TypeKind::Interval => interval(bytes),
        Some(Value::Bytes(bytes)) => {
            format!("X'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Some(Value::Decimal(bytes)) => match <[u8; 16]>::try_from(bytes.as_slice()) {
            Ok(bytes) => decimal(i128::from_be_bytes(bytes), data_type.scale),
            Err(_) => "?".to_owned(),
        },
        Some(Value::Integer(value)) => match data_type.kind() {
            TypeKind::TinyInt | TypeKind::SmallInt | TypeKind::Int | TypeKind::BigInt => value.to_string(),
            kind => format!("{} {value}", format!("{kind:?}").to_uppercase()),
        },
    }
}

/// Months, days and nanoseconds, as the plan keeps them.
fn interval(bytes: &[u8]) -> String {
    let Ok(bytes) = <[u8; 16]>::try_from(bytes) else { return "?".to_owned() };
    let all = i128::from_be_bytes(bytes);
    let (months, days, nanos) = ((all >> 96) as i32, (all >> 64) as i32, all as i64);
    let mut parts = Vec::new();
    parts.extend((months != 0).then(|| format!("{months} months")));
    parts.extend((days != 0).then(|| format!("{days} d")));
    parts.extend((nanos != 0 || parts.is_empty()).then(|| match nanos % 1_000_000 {
        0 => duration(nanos / 1_000_000),
        _ => format!("{nanos} ns"),
    }));
    format!("INTERVAL {}", parts.join(" "))
}

fn decimal(unscaled: i128, scale: i32) -> String {
    let scale = scale.max(0) as usize;
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// An aggregate call over columns of these names.
pub fn aggregate(aggregate: &Aggregate, names: &[String]) -> String {
    let name = aggregate.function().sql_name();
    let argument = aggregate.argument.map_or("*".to_owned(), |argument| column(names, argument));
    let distinct = if aggregate.is_distinct { "DISTINCT " } else { "" };
    let filter = aggregate.filter.map(|filter| format!(" FILTER (WHERE {})", column(names, filter)));
    let separator = match aggregate.function() {
        AggregateFunction::ListAgg => format!(", '{}'", aggregate.separator.replace('\'', "''")),
        _ => String::new(),
    };
    format!("{name}({distinct}{argument}{separator}){}", filter.unwrap_or_default())
}

/// A window as the function that makes it.
pub fn window(window: &Window) -> String {
    let (size, step) = (duration(window.size_ms), duration(window.slide_ms));
    let offset = match window.offset_ms {
        0 => String::new(),
        offset => format!(", offset {}", duration(offset)),
    };
    match () {
        () if window.is_cumulating => format!("CUMULATE(step {step}, size {size}{offset})"),
        () if window.slide_ms == window.size_ms => format!("TUMBLE(size {size}{offset})"),
        () => format!("HOP(slide {step}, size {size}{offset})"),
    }
}

/// A length of time in its largest whole unit.
pub fn duration(ms: i64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let unit = units.iter().find(|(length, _)| ms != 0 && ms % length == 0);
    unit.map_or_else(|| format!("{ms} ms"), |(length, unit)| format!("{} {unit}", ms / length))
}

#[cfg(test)]
mod tests {
    use super::super::DataType;
    use super::*;

    #[test]
    fn expressions_read_as_they_were_written() {
        let names = ["a".to_owned(), "b.c".to_owned()];
        let int = |value| Expr::literal(DataType::simple(TypeKind::Int), Some(Value::Integer(value)));
        let text = |text: &str| {
            Expr::literal(DataType::simple(TypeKind::String), Some(Value::String(text.to_owned())))
        };
        let interval = |bits: i128| {
            let bytes = Value::Bytes(bits.to_be_bytes().to_vec());
            Expr::literal(DataType::simple(TypeKind::Interval), Some(bytes))
        };
        let price = Value::Decimal((-1234_i128).to_be_bytes().to_vec());
        let cases = [
            (Expr::column(1), "b.c"),
            (Expr::column(7), "column 7"),
            (Expr::call("+", vec![Expr::column(0), int(1)]), "(a + 1)"),
            (
                Expr::call("and", vec![Expr::call("=", vec![Expr::column(0), int(2)]), Expr::column(1)]),
                "((a = 2) AND b.c)",
            ),
            (Expr::call("in", vec![Expr::column(0), int(1), int(2)]), "a IN (1, 2)"),
            (Expr::call("is_not_null", vec![Expr::column(0)]), "a IS NOT NULL"),
            (Expr::call("upper", vec![text("it's")]), "UPPER('it''s')"),
            (Expr::literal(DataType::decimal(10, 3), Some(price)), "-1.234"),
            (Expr::literal(DataType::simple(TypeKind::Int), None), "NULL"),
            (interval(4_000_000_000), "INTERVAL 4 s"),
            (interval((14 << 96) + (3 << 64)), "INTERVAL 14 months 3 d"),
            (Expr::cast(Expr::column(0), DataType::simple(TypeKind::BigInt), true), "TRY_CAST(a AS BIGINT)"),
            (Expr::field(Expr::column(0), "x"), "a.x"),
        ];
        for (given, expected) in cases {
            assert_eq!(expression(&given, &names), expected);
        }
    }

    #[test]
    fn windows_read_as_the_functions_that_make_them() {
        let cases = [
            (10_000, 10_000, 0, false, "TUMBLE(size 10 s)"),
            (3_600_000, 60_000, 0, false, "HOP(slide 1 min, size 1 h)"),
            (20_000, 5_000, 1_500, true, "CUMULATE(step 5 s, size 20 s, offset 1500 ms)"),
        ];
        for (size_ms, slide_ms, offset_ms, is_cumulating, expected) in cases {
            assert_eq!(window(&Window { size_ms, slide_ms, offset_ms, is_cumulating }), expected);
        }
    }
}
