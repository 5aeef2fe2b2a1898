//! Lowers expressions of the plan to DataFusion's physical expressions and evaluates them over batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, IntervalMonthDayNano, Schema, SchemaRef, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, ScalarValue, internal_err};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::expressions;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use snafu::Snafu;

use crate::functions;
use crate::plan::{self, Node, TypeKind, Value, function};

/// An expression could not be prepared or a row could not be computed.
#[derive(Debug, Snafu)]
#[snafu(display("{message}"))]
pub struct EvaluateError {
    message: String,
}

impl From<DataFusionError> for EvaluateError {
    fn from(error: DataFusionError) -> Self {
        EvaluateError { message: error.strip_backtrace() }
    }
}

/// An expression ready to be evaluated over batches of one schema.
#[derive(Debug, Clone)]
pub struct Evaluator {
    expression: Arc<dyn PhysicalExpr>,
}

impl Evaluator {
    /// Prepares an expression over a schema.
    pub fn new(expression: &plan::Expr, input: &SchemaRef) -> Result<Self, EvaluateError> {
        Ok(Evaluator { expression: lower(expression, input)? })
    }

    /// One value a row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvaluateError> {
        Ok(self.expression.evaluate(batch)?.into_array(batch.num_rows())?)
    }

    /// Which rows a condition holds for; NULL counts as false. `None`: for all.
    pub fn matches(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>, EvaluateError> {
        let values = match self.expression.evaluate(batch)? {
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))) => return Ok(None),
            value => value.into_array(batch.num_rows())?,
        };
        let Some(matches) = values.as_any().downcast_ref::<BooleanArray>() else {
            return Err(EvaluateError { message: format!("a condition of type {}", values.data_type()) });
        };
        let mask = if matches.null_count() > 0 { prep_null_mask_filter(matches) } else { matches.clone() };
        Ok(Some(mask).filter(|mask| mask.true_count() < mask.len()))
    }
}

fn lower(expression: &plan::Expr, input: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    match &expression.node {
        None => internal_err!("an empty expression"),
        Some(Node::Column(index)) => {
            let index = *index as usize;
            if index >= input.fields().len() {
                return internal_err!("column {index} of {}", input.fields().len());
            }
            Ok(Arc::new(expressions::Column::new(input.field(index).name(), index)))
        }
        Some(Node::Literal(literal)) => Ok(Arc::new(expressions::Literal::new(scalar(literal)?))),
        Some(Node::Call(call)) => lower_call(call, input),
        Some(Node::Cast(cast)) => lower_cast(cast, input),
        Some(Node::Case(case)) => lower_case(case, input),
        Some(Node::Field(access)) => {
            let row = lower_boxed(access.expr.as_deref(), input)?;
            let name = expressions::Literal::new(ScalarValue::from(access.field.as_str()));
            scalar_function(functions::FIELD, vec![row, Arc::new(name)], input)
        }
    }
}

fn lower_boxed(expression: Option<&plan::Expr>, input: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    match expression {
        Some(expression) => lower(expression, input),
        None => internal_err!("a missing operand"),
    }
}

fn lower_cast(cast: &plan::Cast, input: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let inner = lower_boxed(cast.expr.as_deref(), input)?;
    let to = cast.to.clone().unwrap_or_default().to_arrow();
    if cast.is_try { expressions::try_cast(inner, input, to) } else { expressions::cast(inner, input, to) }
}

fn lower_case(case: &plan::Case, input: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let operand = case.operand.as_deref().map(|operand| lower(operand, input)).transpose()?;
    let otherwise = case.otherwise.as_deref().map(|otherwise| lower(otherwise, input)).transpose()?;
    let branches = case
        .branches
        .iter()
        .map(|branch| {
            Ok((lower_boxed(branch.when.as_ref(), input)?, lower_boxed(branch.then.as_ref(), input)?))
        })
        .collect::<Result<_>>()?;
    expressions::case(operand, branches, otherwise)
}

fn lower_call(call: &plan::Call, input: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let mut arguments =
        call.arguments.iter().map(|argument| lower(argument, input)).collect::<Result<Vec<_>>>()?;
    match (call.function.as_str(), arguments.len()) {
        (function::NOT, 1) => expressions::not(arguments.remove(0)),
        (function::NEGATE, 1) => expressions::negative(arguments.remove(0), input),
        (function::IS_NULL, 1) => expressions::is_null(arguments.remove(0)),
        (function::IS_NOT_NULL, 1) => expressions::is_not_null(arguments.remove(0)),
        (name @ (function::IN | function::NOT_IN), 2..) => {
            let value = arguments.remove(0);
            expressions::in_list(value, arguments, &(name == function::NOT_IN), input)
        }
        (name @ (function::LIKE | function::NOT_LIKE), 2) => {
            let pattern = arguments.remove(1);
            expressions::like(name == function::NOT_LIKE, false, arguments.remove(0), pattern, input)
        }
        (name, 2) if operator(name).is_some() => {
            if matches!(name, function::PLUS | function::MINUS)
                && let Some(duration) = duration(&call.arguments[1], &arguments[0].data_type(input)?)
            {
                arguments[1] = Arc::new(expressions::Literal::new(duration));
            }
            let right = arguments.remove(1);
            let operator = operator(name).unwrap_or(Operator::Eq);
            expressions::binary(arguments.remove(0), operator, right, input)
        }
        (name, _) => scalar_function(name, arguments, input),
    }
}

fn scalar_function(
    name: &str,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    input: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(function) = functions::scalar(name) else {
        return internal_err!("the plan names the unknown function '{name}'; a newer release may know it");
    };
    let options = Arc::new(ConfigOptions::default());
    Ok(Arc::new(ScalarFunctionExpr::try_new(function, arguments, input, options)?))
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        function::AND => Operator::And,
        function::OR => Operator::Or,
        function::EQ => Operator::Eq,
        function::NOT_EQ => Operator::NotEq,
        function::LT => Operator::Lt,
        function::LT_EQ => Operator::LtEq,
        function::GT => Operator::Gt,
        function::GT_EQ => Operator::GtEq,
        function::PLUS => Operator::Plus,
        function::MINUS => Operator::Minus,
        function::TIMES => Operator::Multiply,
        function::DIVIDE => Operator::Divide,
        function::MODULO => Operator::Modulo,
        function::CONCAT => Operator::StringConcat,
        function::IS_DISTINCT_FROM => Operator::IsDistinctFrom,
        function::IS_NOT_DISTINCT_FROM => Operator::IsNotDistinctFrom,
        _ => return None,
    })
}

fn scalar(literal: &plan::Literal) -> Result<ScalarValue> {
    let data_type = literal.data_type.clone().unwrap_or_default();
    let arrow = data_type.to_arrow();
    let Some(value) = &literal.value else {
        return ScalarValue::try_from(&arrow);
    };
    Ok(match (value, data_type.kind()) {
        (Value::Boolean(value), _) => ScalarValue::Boolean(Some(*value)),
        (Value::Integer(value), TypeKind::Timestamp | TypeKind::TimestampLtz) => {
            ScalarValue::Int64(Some(*value)).cast_to(&arrow)?
        }
        (Value::Integer(value), TypeKind::Date | TypeKind::Time) => {
            ScalarValue::Int32(i32::try_from(*value).ok()).cast_to(&arrow)?
        }
        (Value::Integer(value), _) => ScalarValue::Int64(Some(*value)).cast_to(&arrow)?,
        (Value::Double(value), TypeKind::Float) => ScalarValue::Float32(Some(*value as f32)),
        (Value::Double(value), _) => ScalarValue::Float64(Some(*value)),
        (Value::String(value), _) => ScalarValue::Utf8(Some(value.clone())),
        (Value::Bytes(value), TypeKind::Interval) => interval(value)?,
        (Value::Bytes(value), _) => ScalarValue::Binary(Some(value.clone())),
        (Value::Decimal(value), _) => {
            let Ok(bytes) = value.as_slice().try_into() else {
                return internal_err!("a decimal of {} bytes", value.len());
            };
            let (precision, scale) = (data_type.precision as u8, data_type.scale as i8);
            ScalarValue::Decimal128(Some(i128::from_be_bytes(bytes)), precision, scale)
        }
    })
}

/// An interval of fixed length that is added to times without a zone: whole units of theirs need no calendar.
fn duration(expression: &plan::Expr, times: &DataType) -> Option<ScalarValue> {
    let (Some(Node::Literal(literal)), DataType::Timestamp(TimeUnit::Millisecond, None)) =
        (&expression.node, times)
    else {
        return None;
    };
    let Ok(ScalarValue::IntervalMonthDayNano(Some(interval))) = scalar(literal) else { return None };
    let is_whole = interval.months == 0 && interval.nanoseconds % 1_000_000 == 0;
    let millis = i64::from(interval.days) * 86_400_000 + interval.nanoseconds / 1_000_000;
    is_whole.then_some(ScalarValue::DurationMillisecond(Some(millis)))
}

fn interval(bytes: &[u8]) -> Result<ScalarValue> {
    let Ok(bytes) = <[u8; 16]>::try_from(bytes) else {
        return internal_err!("an interval of {} bytes", bytes.len());
    };
    let bits = u128::from_be_bytes(bytes);
    let value = IntervalMonthDayNano {
        months: (bits >> 96) as i32,
        days: (bits >> 64) as i32,
        nanoseconds: bits as i64,
    };
    Ok(ScalarValue::IntervalMonthDayNano(Some(value)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use arrow::array::{AsArray, TimestampMillisecondArray};
    use arrow::datatypes::{Field, TimestampMillisecondType};

    use super::*;
    use crate::plan::OperatorKind;

    fn millis(text: &str) -> i64 {
        chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
            .unwrap()
            .and_utc()
            .timestamp_millis()
    }

    #[test]
    fn intervals_are_added_to_times() {
        let times = ["2024-02-28 23:59:59.5", "2024-01-31 00:00:00"].map(millis);
        let column: ArrayRef =
            Arc::new(TimestampMillisecondArray::from(vec![Some(times[0]), Some(times[1]), None]));
        let schema = Arc::new(Schema::new(vec![Field::new("ts", column.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        for (sum, expected) in [
            ("ts - INTERVAL '4' SECOND", ["2024-02-28 23:59:55.5", "2024-01-30 23:59:56"]),
            ("ts + INTERVAL '1.250' SECOND", ["2024-02-29 00:00:00.75", "2024-01-31 00:00:01.25"]),
            ("ts + INTERVAL '2' DAY", ["2024-03-01 23:59:59.5", "2024-02-02 00:00:00"]),
            ("ts + INTERVAL '1' MONTH", ["2024-03-28 23:59:59.5", "2024-02-29 00:00:00"]),
        ] {
            let sql = format!(
                "CREATE TABLE times (ts TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
                 CREATE TABLE sums (ts TIMESTAMP(3)) WITH ('connector' = 'print');
                 INSERT INTO sums SELECT {sum} FROM times;"
            );
            let plan = crate::compile(&sql).unwrap();
            let calc = plan.operators.iter().find_map(|operator| match &operator.kind {
                Some(OperatorKind::Calc(calc)) => Some(&calc.output[0]),
                _ => None,
            });

            let sums = Evaluator::new(calc.unwrap(), &schema).unwrap().evaluate(&batch).unwrap();

            let sums = sums.as_primitive::<TimestampMillisecondType>().iter().collect::<Vec<_>>();
            assert_eq!(sums, [Some(millis(expected[0])), Some(millis(expected[1])), None], "{sum}");
        }
    }
}
