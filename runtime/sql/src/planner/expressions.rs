//! DataFusion's analysed expressions as expressions of the plan.

use arrow::array::{Array, ArrayRef};
use datafusion_common::{DFSchema, Result, ScalarValue, not_impl_err, plan_err};
use datafusion_expr::expr::{Alias, Between, BinaryExpr, Case, Cast, InList, Like, ScalarFunction, TryCast};
use datafusion_expr::{Expr, ExprSchemable, Operator};

use super::like::KERNELS;
use super::words::{DIFFERENCE, HINT, UNORDERED};
use crate::functions::{self, CastTo, CompareFractions, FIELD, InFractions};
use crate::plan::{self, Branch, DataType, TypeKind, Value, function};

/// Converts an expression. Columns are looked up in `schema` and replaced by the expression that computes them.
pub fn convert(expression: &Expr, schema: &DFSchema, columns: &[plan::Expr]) -> Result<plan::Expr> {
    let to = |expression: &Expr| convert(expression, schema, columns);
    Ok(match expression {
        Expr::Alias(Alias { expr, .. }) => to(expr)?,
        Expr::Column(column) => columns[schema.index_of_column(column)?].clone(),
        Expr::Literal(value, _) => literal(value)?,
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if [Operator::Lt, Operator::LtEq, Operator::Gt, Operator::GtEq].contains(op) {
                ordered(left, schema)?;
            }
            plan::Expr::call(operator(*op)?, vec![to(left)?, to(right)?])
        }
        Expr::Not(inner) => plan::Expr::call(function::NOT, vec![to(inner)?]),
        Expr::Negative(inner) => plan::Expr::call(function::NEGATE, vec![to(inner)?]),
        Expr::IsNull(inner) | Expr::IsUnknown(inner) => plan::Expr::call(function::IS_NULL, vec![to(inner)?]),
        Expr::IsNotNull(inner) | Expr::IsNotUnknown(inner) => {
            plan::Expr::call(function::IS_NOT_NULL, vec![to(inner)?])
        }
        Expr::IsTrue(inner) => compare(function::IS_NOT_DISTINCT_FROM, to(inner)?, true),
        Expr::IsNotTrue(inner) => compare(function::IS_DISTINCT_FROM, to(inner)?, true),
        Expr::IsFalse(inner) => compare(function::IS_NOT_DISTINCT_FROM, to(inner)?, false),
        Expr::IsNotFalse(inner) => compare(function::IS_DISTINCT_FROM, to(inner)?, false),
        Expr::Like(Like { negated, expr, pattern, escape_char: Some(KERNELS), case_insensitive: false }) => {
            let name = if *negated { function::NOT_LIKE } else { function::LIKE };
            plan::Expr::call(name, vec![to(expr)?, to(pattern)?])
        }
        Expr::Between(between) => {
            ordered(&between.expr, schema)?;
            convert_between(between, to)?
        }
        Expr::InList(InList { expr, list, negated }) => {
            let name = if *negated { function::NOT_IN } else { function::IN };
            let arguments = std::iter::once(expr.as_ref()).chain(list).map(to).collect::<Result<_>>()?;
            plan::Expr::call(name, arguments)
        }
        Expr::Case(case) => convert_case(case, to)?,
        Expr::Cast(Cast { expr, field }) => plan::Expr::cast(to(expr)?, data_type(field.data_type())?, false),
        Expr::TryCast(TryCast { expr, field }) => {
            plan::Expr::cast(to(expr)?, data_type(field.data_type())?, true)
        }
        Expr::ScalarFunction(call) => convert_call(call, to)?,
        other => return not_impl_err!("the expression {other}"),
    })
}

/// Refuses values of which none is smaller than another one.
fn ordered(value: &Expr, schema: &DFSchema) -> Result<()> {
    let of = data_type(&value.get_type(schema)?)?;
    if matches!(of.kind(), TypeKind::Row | TypeKind::Array | TypeKind::Map) {
        return plan_err!("{UNORDERED} {of}{HINT}compare what is inside of it");
    }
    Ok(())
}

fn convert_between(between: &Between, to: impl Fn(&Expr) -> Result<plan::Expr>) -> Result<plan::Expr> {
    let value = to(&between.expr)?;
    let low = plan::Expr::call(function::GT_EQ, vec![value.clone(), to(&between.low)?]);
    let high = plan::Expr::call(function::LT_EQ, vec![value, to(&between.high)?]);
    let both = plan::Expr::call(function::AND, vec![low, high]);
    Ok(if between.negated { plan::Expr::call(function::NOT, vec![both]) } else { both })
}

fn convert_case(case: &Case, to: impl Fn(&Expr) -> Result<plan::Expr>) -> Result<plan::Expr> {
    let operand = case.expr.as_deref().map(&to).transpose()?.map(Box::new);
    let otherwise = case.else_expr.as_deref().map(&to).transpose()?.map(Box::new);
    let branches = case
        .when_then_expr
        .iter()
        .map(|(when, then)| Ok(Branch { when: Some(to(when)?), then: Some(to(then)?) }))
        .collect::<Result<_>>()?;
    let case = plan::Case { operand, branches, otherwise };
    Ok(plan::Expr { node: Some(plan::Node::Case(Box::new(case))) })
}

fn convert_call(call: &ScalarFunction, to: impl Fn(&Expr) -> Result<plan::Expr>) -> Result<plan::Expr> {
    if call.func.name() == FIELD
        && let [row, Expr::Literal(ScalarValue::Utf8(Some(name)), _)] = call.args.as_slice()
    {
        return Ok(plan::Expr::field(to(row)?, name));
    }
    if let (Some(cast), [value]) = (call.func.inner().downcast_ref::<CastTo>(), call.args.as_slice()) {
        if let (Expr::Literal(constant, _), false) = (value, cast.is_try) {
            // It would have been computed while planning if that were possible.
            cast.check(constant)?;
        }
        return Ok(plan::Expr::cast(to(value)?, data_type(&cast.to)?, cast.is_try));
    }
    if let Some(name) = comparison(call)? {
        return Ok(plan::Expr::call(name, call.args.iter().map(to).collect::<Result<_>>()?));
    }
    let constants = call.args.iter().map(|argument| match argument {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text.as_str()),
        _ => None,
    });
    functions::check_constants(call.func.name(), &constants.collect::<Vec<_>>())?;
    let arguments = call.args.iter().map(to).collect::<Result<_>>()?;
    Ok(plan::Expr::call(call.func.name(), arguments))
}

/// The name that plans store for a comparison of fractions.
fn comparison(call: &ScalarFunction) -> Result<Option<&'static str>> {
    let function = call.func.inner();
    if let Some(function) = function.downcast_ref::<CompareFractions>() {
        return operator(function.operator).map(Some);
    }
    let found = function.downcast_ref::<InFractions>();
    Ok(found.map(|found| if found.is_negated { function::NOT_IN } else { function::IN }))
}

fn compare(name: &str, inner: plan::Expr, with: bool) -> plan::Expr {
    let with = plan::Expr::literal(DataType::simple(TypeKind::Boolean), Some(Value::Boolean(with)));
    plan::Expr::call(name, vec![inner, with])
}

fn operator(operator: Operator) -> Result<&'static str> {
    Ok(match operator {
        Operator::Eq => function::EQ,
        Operator::NotEq => function::NOT_EQ,
        Operator::Lt => function::LT,
        Operator::LtEq => function::LT_EQ,
        Operator::Gt => function::GT,
        Operator::GtEq => function::GT_EQ,
        Operator::Plus => function::PLUS,
        Operator::Minus => function::MINUS,
        Operator::Multiply => function::TIMES,
        Operator::Divide => function::DIVIDE,
        Operator::Modulo => function::MODULO,
        Operator::And => function::AND,
        Operator::Or => function::OR,
        Operator::IsDistinctFrom => function::IS_DISTINCT_FROM,
        Operator::IsNotDistinctFrom => function::IS_NOT_DISTINCT_FROM,
        Operator::StringConcat => function::CONCAT,
        other => return not_impl_err!("the operator {other}"),
    })
}

/// The SQL type of a planner's type.
pub fn data_type(arrow: &arrow::datatypes::DataType) -> Result<DataType> {
    match DataType::from_arrow(arrow) {
        Some(data_type) => Ok(data_type),
        None if matches!(arrow, arrow::datatypes::DataType::Duration(_)) => {
            plan_err!("{DIFFERENCE}{HINT}write TIMESTAMPDIFF(SECOND, earlier, later)")
        }
        None => not_impl_err!("values of type {arrow}"),
    }
}

/// A constant ROW, ARRAY or MAP as the call that makes it.
fn parts_of(value: &ScalarValue) -> Result<Option<plan::Expr>> {
    let (name, columns, rows): (&str, Vec<ArrayRef>, usize) = match value {
        ScalarValue::Struct(row) => (function::ROW, row.columns().to_vec(), 1),
        ScalarValue::List(list) => (function::ARRAY, vec![list.value(0)], list.value(0).len()),
        ScalarValue::Map(map) => {
            let entries = map.value(0);
            (function::MAP, entries.columns().to_vec(), entries.len())
        }
        _ => return Ok(None),
    };
    let mut arguments = Vec::new();
    for row in 0..rows {
        for column in &columns {
            arguments.push(literal(&ScalarValue::try_from_array(column, row)?)?);
        }
    }
    Ok(Some(plan::Expr::call(name, arguments)))
}

fn is_empty(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::List(list) => list.value(0).is_empty(),
        ScalarValue::Map(map) => map.value(0).is_empty(),
        _ => false,
    }
}

/// An ARRAY or MAP without elements: the constructors have no type without one.
fn nothing_of(data_type: &DataType) -> Result<plan::Expr> {
    let array_of = |element: DataType| {
        let one = plan::Expr::call(function::ARRAY, vec![plan::Expr::literal(element, None)]);
        let behind = plan::Expr::literal(DataType::simple(TypeKind::BigInt), Some(Value::Integer(2)));
        plan::Expr::call("array_slice", vec![one, behind])
    };
    let nothing = match data_type.fields.as_slice() {
        [element] => array_of(element.data_type()),
        [key, value] => {
            plan::Expr::call("map_from_arrays", vec![array_of(key.data_type()), array_of(value.data_type())])
        }
        _ => return not_impl_err!("the constant of the type {data_type}"),
    };
    Ok(plan::Expr::cast(nothing, data_type.clone(), false))
}

fn literal(value: &ScalarValue) -> Result<plan::Expr> {
    let data_type = data_type(&value.data_type())?;
    if value.is_null() {
        return Ok(plan::Expr::literal(data_type, None));
    }
    if is_empty(value) {
        return nothing_of(&data_type);
    }
    if let Some(parts) = parts_of(value)? {
        return Ok(plan::Expr::cast(parts, data_type, false));
    }
    let value = match value {
        ScalarValue::Boolean(Some(v)) => Value::Boolean(*v),
        ScalarValue::Int8(Some(v)) => Value::Integer(i64::from(*v)),
        ScalarValue::Int16(Some(v)) => Value::Integer(i64::from(*v)),
        ScalarValue::Int32(Some(v))
        | ScalarValue::Date32(Some(v))
        | ScalarValue::Time32Millisecond(Some(v)) => Value::Integer(i64::from(*v)),
        ScalarValue::Int64(Some(v))
        | ScalarValue::TimestampMillisecond(Some(v), _)
        | ScalarValue::TimestampMicrosecond(Some(v), _)
        | ScalarValue::TimestampNanosecond(Some(v), _) => Value::Integer(*v),
        ScalarValue::Float32(Some(v)) => Value::Double(f64::from(*v)),
        ScalarValue::Float64(Some(v)) => Value::Double(*v),
        ScalarValue::Utf8(Some(v)) | ScalarValue::LargeUtf8(Some(v)) | ScalarValue::Utf8View(Some(v)) => {
            Value::String(v.clone())
        }
        ScalarValue::Binary(Some(v)) => Value::Bytes(v.clone()),
        ScalarValue::Decimal128(Some(v), ..) => Value::Decimal(v.to_be_bytes().to_vec()),
        ScalarValue::IntervalMonthDayNano(Some(v)) => {
            let mut bytes = Vec::with_capacity(16);
            bytes.extend(v.months.to_be_bytes());
            bytes.extend(v.days.to_be_bytes());
            bytes.extend(v.nanoseconds.to_be_bytes());
            Value::Bytes(bytes)
        }
        other => return not_impl_err!("the constant {other}"),
    };
    Ok(plan::Expr::literal(data_type, Some(value)))
}
