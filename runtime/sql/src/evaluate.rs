//! Lowers expressions of the plan to DataFusion's physical expressions and evaluates them over batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, IntervalMonthDayNano, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DataFusionError, Result, ScalarValue, internal_err};
use datafusion_expr::{ColumnarValue, Operator, ScalarUDF};
use datafusion_physical_expr::expressions;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use snafu::Snafu;

use crate::functions;
use crate::functions::chance::{ByChance, Chance};
use crate::functions::clock::{AtTime, BatchTime};
use crate::plan::{self, Node, TypeKind, Value, function};

/// An expression could not be prepared or a row could not be computed.
#[derive(Debug, Snafu)]
#[snafu(display("{message}"))]
pub struct EvaluateError {
    message: String,
}

impl From<DataFusionError> for EvaluateError {
    fn from(error: DataFusionError) -> Self {
        let message = match error.find_root() {
            // Of our own functions, and whole without a word of whose error it is.
            DataFusionError::Execution(message) => message.clone(),
            DataFusionError::ArrowError(error, _) if matches!(**error, ArrowError::DivideByZero) => {
                functions::decimals::DIVISION_BY_ZERO.to_owned()
            }
            _ => error.strip_backtrace(),
        };
        EvaluateError { message }
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

    /// The same, of which functions that ask the clock get this time, and those of chance these bits.
    pub fn at(
        expression: &plan::Expr,
        input: &SchemaRef,
        time: &BatchTime,
        chance: &Chance,
    ) -> Result<Self, EvaluateError> {
        let lowered = lower(expression, input)?;
        let timed = lowered.transform_up(|inner| {
            let Some(call) = inner.downcast_ref::<ScalarFunctionExpr>() else {
                return Ok(Transformed::no(inner));
            };
            if let Some(by_chance) = ByChance::by_name(call.name(), chance) {
                let arguments = call.args().to_vec();
                return call_of(Arc::new(ScalarUDF::from(by_chance)), arguments, input).map(Transformed::yes);
            }
            let Some(clock) = AtTime::by_name(call.name(), time) else { return Ok(Transformed::no(inner)) };
            call_of(Arc::new(ScalarUDF::from(clock)), Vec::new(), input).map(Transformed::yes)
        });
        Ok(Evaluator { expression: timed?.data })
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
    if functions::CastTo::is_needed(&inner.data_type(input)?, &to) {
        let function = Arc::new(ScalarUDF::from(functions::CastTo::new(to, cast.is_try)));
        return call_of(function, vec![inner], input);
    }
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
        .collect::<Result<Vec<_>>>()?;
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
            let is_negated = name == function::NOT_IN;
            let types = arguments.iter().map(|value| value.data_type(input)).collect::<Result<Vec<_>>>()?;
            if let Some(function) = functions::InFractions::of(is_negated, types.into_iter()) {
                return call_of(Arc::new(ScalarUDF::from(function)), arguments, input);
            }
            let value = arguments.remove(0);
            expressions::in_list(value, arguments, &is_negated, input)
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
            binary(arguments.remove(0), operator, right, input)
        }
        (name, _) => scalar_function(name, arguments, input),
    }
}

fn binary(
    left: Arc<dyn PhysicalExpr>,
    operator: Operator,
    right: Arc<dyn PhysicalExpr>,
    input: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    match functions::CompareFractions::of(operator, &left.data_type(input)?, &right.data_type(input)?) {
        Some(compare) => call_of(Arc::new(ScalarUDF::from(compare)), vec![left, right], input),
        None => expressions::binary(left, operator, right, input),
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
    call_of(function, arguments, input)
}

fn call_of(
    function: Arc<ScalarUDF>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    input: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
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

    /// The value of an expression over one row: n 7, m -7, d 12.345, x 2.5, s 'Hello World', e 'a-b_c', nil NULL, t a leap day.
    fn value(expression: &str, data_type: &str) -> Result<String, String> {
        use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray};
        let sql = format!(
            "CREATE TABLE one (n BIGINT, m BIGINT, d DECIMAL(10, 3), x DOUBLE, s STRING, e STRING, nil STRING, t TIMESTAMP(3))
               WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
             CREATE TABLE result (v {data_type}) WITH ('connector' = 'print');
             INSERT INTO result SELECT {expression} FROM one;"
        );
        let plan = crate::compile(&sql).map_err(|mistakes| mistakes[0].message.clone())?;
        let Some(OperatorKind::Source(source)) = &plan.operators[0].kind else {
            return Err("a source".to_owned());
        };
        let column = |name: &str| -> ArrayRef {
            match name {
                "n" => Arc::new(Int64Array::from(vec![7])),
                "m" => Arc::new(Int64Array::from(vec![-7])),
                "d" => Arc::new(Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 3).unwrap()),
                "x" => Arc::new(Float64Array::from(vec![2.5])),
                "s" => Arc::new(StringArray::from(vec!["Hello World"])),
                "e" => Arc::new(StringArray::from(vec!["a-b_c"])),
                "nil" => Arc::new(StringArray::from(vec![None::<&str>])),
                _ => Arc::new(TimestampMillisecondArray::from(vec![millis("2024-02-29 13:14:15.678")])),
            }
        };
        let columns: Vec<ArrayRef> = source.leaves.iter().map(|leaf| column(&leaf.path[0])).collect();
        let fields: Vec<Field> = columns
            .iter()
            .zip(&source.leaves)
            .map(|(column, leaf)| Field::new(&leaf.path[0], column.data_type().clone(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options).unwrap();
        let Some(OperatorKind::Calc(calc)) = &plan.operators[1].kind else { return Err("a calc".to_owned()) };
        let evaluator = Evaluator::new(&calc.output[0], &schema).map_err(|error| error.to_string())?;
        let values = evaluator.evaluate(&batch).map_err(|error| error.to_string())?;
        if values.is_null(0) {
            return Ok("NULL".to_owned());
        }
        arrow::util::display::array_value_to_string(&values, 0).map_err(|error| error.to_string())
    }

    #[test]
    fn functions_of_arrays_and_maps_give_what_flink_gives() {
        const LIST: &str = "ARRAY<BIGINT>";
        let cases = [
            ("ARRAY_APPEND(ARRAY[n, m], 1)", LIST, "[7, -7, 1]"),
            ("ARRAY_APPEND(ARRAY[n], CAST(NULL AS BIGINT))", LIST, "[7, ]"),
            ("ARRAY_PREPEND(ARRAY[n, m], 1)", LIST, "[1, 7, -7]"),
            ("ARRAY_CONCAT(ARRAY[n], ARRAY[1, 2], ARRAY[m])", LIST, "[7, 1, 2, -7]"),
            ("ARRAY_CONCAT(ARRAY[n], CAST(NULL AS ARRAY<BIGINT>))", LIST, "NULL"),
            ("ARRAY_DISTINCT(ARRAY[2, n, 2, NULL, n, NULL])", LIST, "[2, 7, ]"),
            ("ARRAY_UNION(ARRAY[n, 1, n], ARRAY[m, 1, NULL])", LIST, "[7, 1, -7, ]"),
            ("ARRAY_EXCEPT(ARRAY[1, 2, 2, n, NULL], ARRAY[n, 1])", LIST, "[2, ]"),
            ("ARRAY_INTERSECT(ARRAY[1, n, n, NULL], ARRAY[n, NULL, 3])", LIST, "[7, ]"),
            ("ARRAY_INTERSECT(ARRAY[1], ARRAY[n])", LIST, "[]"),
            ("ARRAY_REMOVE(ARRAY[n, 1, n], 7)", LIST, "[1]"),
            ("ARRAY_REMOVE(ARRAY['x'], 'x')", "ARRAY<STRING>", "[]"),
            ("CARDINALITY(ARRAY_EXCEPT(ARRAY[1.5], ARRAY[1.5]))", "INT", "0"),
            (
                "MAP_FROM_ARRAYS(ARRAY_REMOVE(ARRAY['x'], 'x'), ARRAY_REMOVE(ARRAY[n - n + 1], 1))",
                "MAP<STRING, BIGINT>",
                "{}",
            ),
            (
                "MAP_FROM_ARRAYS(ARRAY_REMOVE(ARRAY['x'], 'x'), ARRAY_REMOVE(ARRAY[1], 1))",
                "MAP<STRING, INT>",
                "{}",
            ),
            ("ARRAY_REMOVE(ARRAY[n, NULL], CAST(NULL AS BIGINT))", LIST, "[7]"),
            ("ARRAY_REVERSE(ARRAY[1, 2, n])", LIST, "[7, 2, 1]"),
            ("ARRAY_SLICE(ARRAY[1, 2, 3, n], 2, 3)", LIST, "[2, 3]"),
            ("ARRAY_SLICE(ARRAY[1, 2, 3, n], -2)", LIST, "[3, 7]"),
            ("ARRAY_SLICE(ARRAY[1, 2, 3, n], 0, -3)", LIST, "[1, 2]"),
            ("ARRAY_SLICE(ARRAY[1, 2, n], 3, 2)", LIST, "[]"),
            ("ARRAY_SLICE(ARRAY[1, 2, n], CAST(NULL AS INT))", LIST, "NULL"),
            ("ARRAY_SORT(ARRAY[n, NULL, m])", LIST, "[, -7, 7]"),
            ("ARRAY_SORT(ARRAY[m, NULL, n], FALSE)", LIST, "[7, -7, ]"),
            ("ARRAY_SORT(ARRAY[m, NULL, n], FALSE, TRUE)", LIST, "[, 7, -7]"),
            ("ARRAY_CONTAINS(ARRAY[n, m], -7)", "BOOLEAN", "true"),
            ("ARRAY_CONTAINS(ARRAY[s], 'x')", "BOOLEAN", "false"),
            ("ARRAY_CONTAINS(ARRAY[s, nil], CAST(NULL AS STRING))", "BOOLEAN", "true"),
            ("ARRAY_CONTAINS(ARRAY[ARRAY[n], ARRAY[m]], ARRAY[7])", "BOOLEAN", "true"),
            ("ARRAY_POSITION(ARRAY[n, m], m)", "INT", "2"),
            ("ARRAY_POSITION(ARRAY[n, m], 1)", "INT", "0"),
            ("ARRAY_POSITION(ARRAY[n, NULL], CAST(NULL AS BIGINT))", "INT", "NULL"),
            ("ARRAY_MAX(ARRAY[m, NULL, n])", "BIGINT", "7"),
            ("ARRAY_MIN(ARRAY[s, e, nil])", "STRING", "Hello World"),
            ("ARRAY_MAX(ARRAY[nil])", "STRING", "NULL"),
            ("ELEMENT(ARRAY[n])", "BIGINT", "7"),
            ("ARRAY_JOIN(ARRAY[s, nil, e], ', ')", "STRING", "Hello World, a-b_c"),
            ("ARRAY_JOIN(ARRAY[s, nil, e], ', ', '?')", "STRING", "Hello World, ?, a-b_c"),
            ("CARDINALITY(MAP_KEYS(MAP[s, n, e, m]))", "INT", "2"),
            ("MAP_KEYS(MAP[s, n, e, m])", "ARRAY<STRING>", "[Hello World, a-b_c]"),
            ("MAP_VALUES(MAP[s, n, e, m])", LIST, "[7, -7]"),
            ("MAP_ENTRIES(MAP[s, n])[1].`value`", "BIGINT", "7"),
            ("MAP_FROM_ARRAYS(ARRAY[s, e, s], ARRAY[1, 2, n])[s]", "BIGINT", "7"),
            ("CARDINALITY(MAP_FROM_ARRAYS(ARRAY[s, e, s], ARRAY[1, 2, n]))", "INT", "2"),
            ("MAP_UNION(MAP[s, n, e, n], MAP[s, m])[s]", "BIGINT", "-7"),
            ("MAP_UNION(MAP[s, n, e, n], MAP[s, m])[e]", "BIGINT", "7"),
        ];
        for (expression, data_type, expected) in cases {
            assert_eq!(value(expression, data_type), Ok(expected.to_owned()), "{expression}");
        }
        for (expression, part) in [
            ("ELEMENT(ARRAY[n, m])", "the array has 2 elements, and not one"),
            ("MAP_FROM_ARRAYS(ARRAY[s], ARRAY[n, m])[s]", "there are 1 keys and 2 values"),
            ("ARRAY_CONTAINS(n, 7)", "the arguments of 'ARRAY_CONTAINS' do not fit"),
        ] {
            let error = value(expression, "BIGINT").unwrap_err();
            assert!(error.to_lowercase().contains(&part.to_lowercase()), "{expression}: {error}");
        }
    }

    #[test]
    fn functions_give_what_flink_gives() {
        let cases = [
            ("n / 2", "BIGINT", "3"),
            ("'100%' LIKE '100!%' ESCAPE '!' AND NOT '1000' LIKE '100!%' ESCAPE '!'", "BOOLEAN", "true"),
            ("'a!_b' LIKE 'a!!!_b' ESCAPE '!' AND e LIKE 'a%b|_c' ESCAPE '|'", "BOOLEAN", "true"),
            // Without ESCAPE nothing escapes.
            (r"'a\_b' LIKE 'a\_b' AND 'a\xb' LIKE 'a\_b' AND NOT 'a_b' LIKE 'a\_b'", "BOOLEAN", "true"),
            (r"'a\xb' LIKE CONCAT('a\', '_b') AND CONCAT(e, '\') LIKE CONCAT(e, '\')", "BOOLEAN", "true"),
            // Times lie in the millisecond that has begun, also before 1970.
            (
                "CAST(TIMESTAMP '1969-12-31 23:59:59.999999' AS TIMESTAMP(3))",
                "TIMESTAMP(3)",
                "1969-12-31T23:59:59.999",
            ),
            (
                "CAST(TIMESTAMP '1960-01-01 00:00:00.0000001' AS TIMESTAMP(6))",
                "TIMESTAMP(6)",
                "1960-01-01T00:00:00",
            ),
            (
                "TRY_CAST(TIMESTAMP '1969-12-31 23:59:59.9999' AS TIMESTAMP(3))",
                "TIMESTAMP(3)",
                "1969-12-31T23:59:59.999",
            ),
            ("CAST(TIMESTAMP '1969-12-31 23:59:59.9999' AS DATE)", "DATE", "1969-12-31"),
            ("FLOOR(TIMESTAMP '1969-12-31 23:59:59.9999' TO DAY)", "TIMESTAMP(3)", "1969-12-31T00:00:00"),
            (
                "DATE_FORMAT(TIMESTAMP '1969-12-31 23:59:59.9999', 'yyyy-MM-dd HH:mm:ss.SSS')",
                "STRING",
                "1969-12-31 23:59:59.999",
            ),
            ("EXTRACT(SECOND FROM TIMESTAMP '1969-12-31 23:59:59.9999')", "BIGINT", "59"),
            (
                "CAST(ARRAY[TIMESTAMP '1969-12-31 23:59:59.999999'] AS ARRAY<TIMESTAMP(3)>)[1]",
                "TIMESTAMP(3)",
                "1969-12-31T23:59:59.999",
            ),
            ("SIGN(CAST('NaN' AS DOUBLE))", "DOUBLE", "NaN"),
            ("SIGN(CAST('-0.0' AS DOUBLE))", "DOUBLE", "-0.0"),
            ("SIGN(-x)", "DOUBLE", "-1.0"),
            ("CAST(d AS DECIMAL(38, 20)) * CAST(2 AS DECIMAL(38, 20))", "DECIMAL(38, 6)", "24.690000"),
            (
                "(CAST(d AS DECIMAL(38, 20)) * CAST(2 AS DECIMAL(38, 20)) + 1) * CAST(d AS DECIMAL(38, 36))",
                "DECIMAL(38, 6)",
                "317.143050",
            ),
            ("m / 2", "BIGINT", "-3"),
            ("d / 3", "DECIMAL(23, 14)", "4.11500000000000"),
            ("m / d", "DECIMAL(38, 11)", "-0.56703118672"),
            ("d / CAST(7 AS BIGINT)", "DECIMAL(38, 6)", "1.763571"),
            ("MOD(m, 3)", "INT", "-1"),
            ("ROUND(d, 2)", "DECIMAL(10, 2)", "12.35"),
            ("ROUND(-d, 2)", "DECIMAL(10, 2)", "-12.35"),
            ("ROUND(d)", "DECIMAL(8, 0)", "12"),
            ("ROUND(x)", "DOUBLE", "3.0"),
            ("ROUND(1.005E0, 2)", "DOUBLE", "1.01"),
            ("ROUND(n, -1)", "BIGINT", "10"),
            ("TRUNCATE(d, 2)", "DECIMAL(10, 2)", "12.34"),
            ("TRUNCATE(-d, 1)", "DECIMAL(9, 1)", "-12.3"),
            ("CEIL(d)", "DECIMAL(10, 0)", "13"),
            ("CEIL(-d)", "DECIMAL(10, 0)", "-12"),
            ("FLOOR(-d)", "DECIMAL(10, 0)", "-13"),
            ("FLOOR(x)", "DOUBLE", "2.0"),
            ("CEILING(n)", "BIGINT", "7"),
            ("SIGN(m)", "BIGINT", "-1"),
            ("ABS(m)", "BIGINT", "7"),
            ("POWER(2, 10)", "DOUBLE", "1024.0"),
            ("SQRT(16)", "DOUBLE", "4.0"),
            ("LOG(2, 8)", "DOUBLE", "3.0"),
            ("LOG10(1000)", "DOUBLE", "3.0"),
            ("DEGREES(PI())", "DOUBLE", "180.0"),
            ("RADIANS(180) = PI()", "BOOLEAN", "true"),
            ("LOG2(8)", "DOUBLE", "3.0"),
            ("ROUND(LN(10), 6)", "DOUBLE", "2.302585"),
            ("ROUND(EXP(1), 6)", "DOUBLE", "2.718282"),
            ("ROUND(SIN(1), 6)", "DOUBLE", "0.841471"),
            ("ROUND(COS(1), 6)", "DOUBLE", "0.540302"),
            ("ROUND(TAN(1), 6)", "DOUBLE", "1.557408"),
            ("ROUND(SINH(1), 6)", "DOUBLE", "1.175201"),
            ("ROUND(COSH(1), 6)", "DOUBLE", "1.543081"),
            ("ROUND(TANH(1), 6)", "DOUBLE", "0.761594"),
            ("ROUND(ASIN(0.5), 6)", "DOUBLE", "0.523599"),
            ("ROUND(ACOS(0.5), 6)", "DOUBLE", "1.047198"),
            ("ROUND(ATAN(1), 6)", "DOUBLE", "0.785398"),
            ("ROUND(ATAN2(1, -1), 6)", "DOUBLE", "2.356194"),
            // Without any chance.
            ("UUID()", "STRING", "00000000-0000-4000-8000-000000000000"),
            ("RAND(7)", "DOUBLE", "0.7306990420600421"),
            ("RAND_INTEGER(7, 100)", "INT", "36"),
            ("RAND_INTEGER(CAST(NULL AS INT))", "INT", "NULL"),
            ("RAND() < 1 AND RAND_INTEGER(CAST(n AS INT)) < 7", "BOOLEAN", "true"),
            // As in Java whole numbers go round.
            ("n + 9223372036854775807", "BIGINT", "-9223372036854775802"),
            ("m - 9223372036854775807 - 2", "BIGINT", "9223372036854775800"),
            ("n * 9223372036854775807", "BIGINT", "9223372036854775801"),
            ("CAST(n AS INT) + 2147483647", "INT", "-2147483642"),
            ("DAYOFMONTH(DATE '2024-02-29')", "BIGINT", "29"),
            ("CHARACTER_LENGTH(s)", "INT", "11"),
            ("SUBSTR(s, 1, 4)", "STRING", "Hell"),
            ("SHA224(s)", "STRING", "c4890faffdb0105d991a461e668e276685401b02eab1ef4372795047"),
            (
                "SHA384(s)",
                "STRING",
                "99514329186b2f6ae4a1329e7ee6c610a729636335174ac6b740f9028396fcc803d0e93863a7c3d90f86beee782f4f3f",
            ),
            (
                "SHA512(s)",
                "STRING",
                "2c74fd17edafd80e8447b0d46741ee243b7eb74dd2149a0ab1b9246fb30382f27e853d8585719e0e67cbda0daa8f51671064615d645ae27acb15bfb1447f459b",
            ),
            ("GREATEST(n, m, 3)", "BIGINT", "7"),
            ("LEAST(n, m, 3)", "BIGINT", "-7"),
            ("GREATEST(s, nil)", "STRING", "NULL"),
            ("COALESCE(nil, s, 'x')", "STRING", "Hello World"),
            ("IFNULL(nil, 'x')", "STRING", "x"),
            ("NULLIF(n, 7)", "BIGINT", "NULL"),
            ("NULLIF(n, 8)", "BIGINT", "7"),
            ("IF(n > 3, 'more', 'less')", "STRING", "more"),
            ("UPPER(s)", "STRING", "HELLO WORLD"),
            ("SUBSTRING(s, -5, 3)", "STRING", "Wor"),
            ("SUBSTRING(s FROM 7)", "STRING", "World"),
            ("SUBSTRING(s FROM 1 FOR 4)", "STRING", "Hell"),
            ("POSITION('o' IN s)", "INT", "5"),
            ("POSITION('z' IN s)", "INT", "0"),
            ("LOCATE('o', s, 6)", "INT", "8"),
            ("INSTR(s, 'World')", "INT", "7"),
            ("TRIM('  x ')", "STRING", "x"),
            ("TRIM(LEADING 'H' FROM s)", "STRING", "ello World"),
            ("TRIM(TRAILING 'dl' FROM s)", "STRING", "Hello Wor"),
            ("LTRIM(s, 'Hel')", "STRING", "o World"),
            ("RTRIM('x  ')", "STRING", "x"),
            ("LPAD(e, 7, '*+')", "STRING", "*+a-b_c"),
            ("LPAD(s, 3, '*')", "STRING", "Hel"),
            ("RPAD(e, 6, '')", "STRING", "NULL"),
            ("RPAD(e, 7, '*')", "STRING", "a-b_c**"),
            ("LEFT(s, 4)", "STRING", "Hell"),
            ("RIGHT(s, 3)", "STRING", "rld"),
            ("REPEAT('ab', 3)", "STRING", "ababab"),
            ("REVERSE(e)", "STRING", "c_b-a"),
            ("INITCAP(e)", "STRING", "A-B_C"),
            ("CONCAT_WS('-', s, nil, e)", "STRING", "Hello World-a-b_c"),
            ("CONCAT_WS(nil, s)", "STRING", "NULL"),
            ("MD5('abc')", "STRING", "900150983cd24fb0d6963f7d28e17f72"),
            ("SHA1('abc')", "STRING", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("SHA2('abc', 224)", "STRING", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("SHA256('abc')", "STRING", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("SHA2('abc', 1)", "STRING", "NULL"),
            ("TO_BASE64('hello')", "STRING", "aGVsbG8="),
            ("FROM_BASE64('aGVsbG8=')", "STRING", "hello"),
            ("FROM_BASE64('?')", "STRING", "NULL"),
            ("ENCODE('aé€', 'UTF-8')", "BYTES", "61c3a9e282ac"),
            ("ENCODE('aé€', 'iso-8859-1')", "BYTES", "61e93f"),
            ("ENCODE('aé€', 'US-ASCII')", "BYTES", "613f3f"),
            ("ENCODE('a😀', 'UTF-16BE')", "BYTES", "0061d83dde00"),
            ("ENCODE('a', 'UTF-16LE')", "BYTES", "6100"),
            ("ENCODE('a', 'UTF-16')", "BYTES", "feff0061"),
            ("ENCODE(s, CAST(NULL AS STRING))", "BYTES", "NULL"),
            ("DECODE(ENCODE('aé€😀', 'UTF-16'), 'UTF-16')", "STRING", "aé€😀"),
            ("DECODE(ENCODE('aé€😀', 'UTF-16LE'), 'UTF-16LE')", "STRING", "aé€😀"),
            ("DECODE(x'FFFE6100', 'UTF-16')", "STRING", "a"),
            ("DECODE(x'0061D8', 'UTF-16BE')", "STRING", "a\u{fffd}"),
            ("DECODE(x'61E9', 'ISO-8859-1')", "STRING", "aé"),
            ("DECODE(x'61E9', 'US-ASCII')", "STRING", "a\u{fffd}"),
            ("DECODE(CAST(s AS BYTES), 'UTF-8') = s", "BOOLEAN", "true"),
            ("HEX(n)", "STRING", "7"),
            ("HEX(-1)", "STRING", "FFFFFFFFFFFFFFFF"),
            ("HEX('hello,world')", "STRING", "68656C6C6F2C776F726C64"),
            ("CAST(UNHEX('68656C6C6F') AS STRING)", "STRING", "hello"),
            ("UNHEX('xyz') IS NULL", "BOOLEAN", "true"),
            ("HEX(CAST(UNHEX('141') AS STRING))", "STRING", "0041"),
            ("FROM_BASE64('aGVsbG8')", "STRING", "hello"),
            ("PARSE_URL('http://h/p?x=1&b=2', 'FILE', 'b')", "STRING", "NULL"),
            ("TRANSLATE(e, nil, 'x')", "STRING", "a-b_c"),
            ("TRANSLATE(e, '-', nil)", "STRING", "ab_c"),
            ("BIN(n)", "STRING", "111"),
            ("CHR(353)", "STRING", "a"),
            ("CHR(-1)", "STRING", ""),
            ("ELT(2, 'a', s)", "STRING", "Hello World"),
            ("ELT(3, 'a', s)", "STRING", "NULL"),
            ("TRANSLATE(e, '-_c', '+')", "STRING", "a+b"),
            ("URL_ENCODE('a b&c=ä*')", "STRING", "a+b%26c%3D%C3%A4*"),
            ("URL_DECODE('a+b%26c%3D%C3%A4')", "STRING", "a b&c=ä"),
            ("URL_DECODE('%4')", "STRING", "NULL"),
            ("PARSE_URL('http://me@host.example:80/a/b.php?k=v&l=w#r', 'HOST')", "STRING", "host.example"),
            ("PARSE_URL('http://me@h:80/a/b.php?k=v&l=w#r', 'AUTHORITY')", "STRING", "me@h:80"),
            ("PARSE_URL('http://h/a/b.php?k=v&l=w#r', 'FILE')", "STRING", "/a/b.php?k=v&l=w"),
            ("PARSE_URL('http://h/a?k=v&l=w#r', 'QUERY', 'l')", "STRING", "w"),
            ("PARSE_URL('http://h/a?k=v#r', 'REF')", "STRING", "r"),
            ("PARSE_URL('http://h/a', 'QUERY')", "STRING", "NULL"),
            ("PARSE_URL('nothing', 'HOST')", "STRING", "NULL"),
            ("JSON_VALUE('{\"a\": {\"b\": [1, 2.5]}}', '$.a.b[1]')", "STRING", "2.5"),
            ("JSON_VALUE('{\"a\": \"x\"}', 'lax $.a')", "STRING", "x"),
            ("JSON_VALUE('{\"a\": true}', '$.a')", "STRING", "true"),
            ("JSON_VALUE('{\"a\": {}}', '$.a')", "STRING", "NULL"),
            ("JSON_VALUE('no json', '$.a')", "STRING", "NULL"),
            ("JSON_QUERY('{\"a\": {\"b\": 1}}', '$.a')", "STRING", "{\"b\":1}"),
            ("JSON_QUERY('{\"a\": 1}', '$.a')", "STRING", "NULL"),
            ("JSON_EXISTS('{\"a\": null}', '$.a')", "BOOLEAN", "false"),
            ("JSON_EXISTS('{\"a, *\": 1}', '$[''a, *'']')", "BOOLEAN", "true"),
            ("JSON_EXISTS('{\"a\": null}', '$.b')", "BOOLEAN", "false"),
            ("OVERLAY(s PLACING 'xy' FROM 2)", "STRING", "Hxylo World"),
            ("OVERLAY(s PLACING 'xy' FROM 2 FOR 9)", "STRING", "Hxyd"),
            ("OVERLAY(s PLACING 'xy' FROM 99)", "STRING", "Hello World"),
            ("REGEXP_REPLACE(s, '(\\w+) (\\w+)', '$2 $1!')", "STRING", "World Hello!"),
            ("REGEXP(s, 'W.r')", "BOOLEAN", "true"),
            ("STARTSWITH(s, 'He')", "BOOLEAN", "true"),
            ("3e15 > 1.5", "BOOLEAN", "true"),
            ("CAST('NaN' AS DOUBLE) = CAST('NaN' AS DOUBLE)", "BOOLEAN", "false"),
            ("NOT CAST('NaN' AS DOUBLE) < x", "BOOLEAN", "true"),
            ("x NOT BETWEEN 0e0 AND CAST('NaN' AS DOUBLE)", "BOOLEAN", "true"),
            ("CAST('NaN' AS DOUBLE) IN (CAST('NaN' AS DOUBLE), 1e0)", "BOOLEAN", "false"),
            ("CAST('NaN' AS DOUBLE) IS DISTINCT FROM CAST('NaN' AS DOUBLE)", "BOOLEAN", "true"),
            ("x IS NOT DISTINCT FROM CAST(NULL AS DOUBLE)", "BOOLEAN", "false"),
            ("-0e0 IS NOT DISTINCT FROM 0e0", "BOOLEAN", "true"),
            ("-0e0 = 0e0", "BOOLEAN", "true"),
            ("CASE -0e0 WHEN 0e0 THEN 'zero' ELSE 'other' END", "STRING", "zero"),
            ("x IN (2.5, CAST(NULL AS DOUBLE))", "BOOLEAN", "true"),
            ("x NOT IN (1e0, CAST(NULL AS DOUBLE))", "BOOLEAN", "NULL"),
            ("x IN (1e0, x)", "BOOLEAN", "true"),
            ("1e-20 > 0.0", "BOOLEAN", "true"),
            ("0.1e0 + 0.2e0 = 0.3", "BOOLEAN", "false"),
            ("x * 1e300 <> 1.5", "BOOLEAN", "true"),
            ("x * 1e300 IN (1.5, 2.5)", "BOOLEAN", "false"),
            ("x BETWEEN 0.1 AND 3e15", "BOOLEAN", "true"),
            ("COALESCE(1e300, 0.0)", "DOUBLE", "1e300"),
            ("GREATEST(1e300, 0.0)", "DOUBLE", "1e300"),
            ("NULLIF(1e-20, 0.0)", "DOUBLE", "1e-20"),
            ("CASE WHEN x > 1.0 THEN 1e300 ELSE 0.0 END", "DOUBLE", "1e300"),
            ("ARRAY[1e300, 1.5][1]", "DOUBLE", "1e300"),
            ("REGEXP_COUNT(s, 'o')", "INT", "2"),
            ("REGEXP_COUNT(s, '(')", "INT", "NULL"),
            ("REGEXP_INSTR(s, 'W.')", "INT", "7"),
            ("REGEXP_INSTR(s, 'x')", "INT", "0"),
            ("REGEXP_SUBSTR(s, 'W..')", "STRING", "Wor"),
            ("REGEXP_SUBSTR(s, 'x')", "STRING", "NULL"),
            ("REGEXP_EXTRACT_ALL('a1b22', '([a-z])([0-9]+)', 2)[2]", "STRING", "22"),
            ("CARDINALITY(REGEXP_EXTRACT_ALL('a1b22', '([a-z])[0-9]+'))", "INT", "2"),
            ("CARDINALITY(REGEXP_EXTRACT_ALL('a1', 'a1', 5))", "INT", "NULL"),
            ("SPLIT('a,b,,c', ',')[4]", "STRING", "c"),
            ("CARDINALITY(SPLIT(',a,', ','))", "INT", "3"),
            ("SPLIT('añb', '')[2]", "STRING", "ñ"),
            ("SPLIT('abc', ';')[1]", "STRING", "abc"),
            ("STR_TO_MAP('a=1,b=2,a=3')['a']", "STRING", "3"),
            ("CARDINALITY(STR_TO_MAP('a=1,b=2,a=3'))", "INT", "2"),
            ("STR_TO_MAP('a:1;b', ';', ':')['a']", "STRING", "1"),
            ("STR_TO_MAP('a:1;b', ';', ':')['b']", "STRING", "NULL"),
            ("IS_ALPHA('añ')", "BOOLEAN", "true"),
            ("IS_ALPHA('a1')", "BOOLEAN", "false"),
            ("IS_ALPHA(CAST(NULL AS STRING))", "BOOLEAN", "false"),
            ("IS_DIGIT('12')", "BOOLEAN", "true"),
            ("IS_DIGIT('')", "BOOLEAN", "false"),
            ("IS_DECIMAL('-1.5')", "BOOLEAN", "true"),
            ("IS_DECIMAL('1.5.')", "BOOLEAN", "false"),
            ("IS_DECIMAL('.')", "BOOLEAN", "false"),
            ("LOG(E())", "DOUBLE", "1.0"),
            ("LOG(2, 8)", "DOUBLE", "3.0"),
            ("COT(PI() / 4) > 0.999", "BOOLEAN", "true"),
            ("ENDSWITH(s, 'He')", "BOOLEAN", "false"),
            ("ASCII(s)", "INT", "72"),
            ("EXTRACT(SECOND FROM t)", "BIGINT", "15"),
            ("EXTRACT(DAY FROM t)", "BIGINT", "29"),
            ("DAYOFWEEK(t)", "BIGINT", "5"),
            ("DAYOFYEAR(t)", "BIGINT", "60"),
            ("QUARTER(t)", "BIGINT", "1"),
            ("FLOOR(t TO MINUTE)", "TIMESTAMP(3)", "2024-02-29T13:14:00"),
            ("FLOOR(t TO MONTH)", "TIMESTAMP(3)", "2024-02-01T00:00:00"),
            ("FLOOR(t TO WEEK)", "TIMESTAMP(3)", "2024-02-25T00:00:00"),
            ("CEIL(t TO HOUR)", "TIMESTAMP(3)", "2024-02-29T14:00:00"),
            ("CEIL(t TO YEAR)", "TIMESTAMP(3)", "2025-01-01T00:00:00"),
            ("TIMESTAMPDIFF(DAY, t, TIMESTAMP '2024-03-02 13:14:15')", "INT", "1"),
            ("TIMESTAMPDIFF(MONTH, TIMESTAMP '2024-01-31 00:00:00', t)", "INT", "1"),
            ("TIMESTAMPDIFF(YEAR, t, TIMESTAMP '2023-03-01 00:00:00')", "INT", "0"),
            ("TIMESTAMPADD(MONTH, 12, t)", "TIMESTAMP(3)", "2025-02-28T13:14:15.678"),
            ("TIMESTAMPADD(HOUR, -14, t)", "TIMESTAMP(3)", "2024-02-28T23:14:15.678"),
            ("DATE_FORMAT(t, 'yyyyMMdd HH:mm')", "STRING", "20240229 13:14"),
            ("DATE_FORMAT(t, 'EEE, d MMM yyyy, h:mm a')", "STRING", "Thu, 29 Feb 2024, 1:14 PM"),
            ("DATE_FORMAT(t, 'EEEE MMMM D k K')", "STRING", "Thursday February 60 13 1"),
            ("CAST(t AS DATE)", "DATE", "2024-02-29"),
            ("CAST(CAST(t AS TIME) AS STRING)", "STRING", "13:14:15.678"),
            ("CAST(CAST('13:14:15' AS TIME) AS STRING)", "STRING", "13:14:15"),
            ("CAST(t AS STRING)", "STRING", "2024-02-29 13:14:15.678"),
            ("CAST(CAST(t AS TIMESTAMP(6)) AS STRING)", "STRING", "2024-02-29 13:14:15.678000"),
            ("CAST(CAST(t AS DATE) AS STRING)", "STRING", "2024-02-29"),
            ("CAST(x AS STRING)", "STRING", "2.5"),
            ("CAST(x * 4 AS STRING)", "STRING", "10.0"),
            ("CAST(x * 1e7 AS STRING)", "STRING", "2.5E7"),
            ("CAST(x * 4e-5 AS STRING)", "STRING", "1.0E-4"),
            ("CAST(1e2 AS STRING)", "STRING", "100.0"),
            ("CAST(n > 3 AS STRING)", "STRING", "TRUE"),
            ("CAST(TRUE AS STRING)", "STRING", "TRUE"),
            ("CAST(d AS STRING)", "STRING", "12.345"),
            ("CAST(n AS STRING)", "STRING", "7"),
            ("CAST(s AS VARCHAR(4))", "STRING", "Hell"),
            ("CONCAT('<', CAST(e AS CHAR(7)), '>')", "STRING", "<a-b_c  >"),
            ("CAST(s AS CHAR(3))", "STRING", "Hel"),
            ("CAST(nil AS VARCHAR(4))", "STRING", "NULL"),
            ("CAST('12.9' AS INT)", "INT", "12"),
            ("CAST(' 12 ' AS INT)", "INT", "12"),
            ("CAST('Yes' AS BOOLEAN)", "BOOLEAN", "true"),
            ("CAST('1.005' AS DECIMAL(10, 2))", "DECIMAL(10, 2)", "1.01"),
            ("CAST(d AS DECIMAL(10, 2))", "DECIMAL(10, 2)", "12.35"),
            ("CAST(-d AS DECIMAL(10, 1))", "DECIMAL(10, 1)", "-12.3"),
            ("CAST(d AS DECIMAL(3, 2))", "DECIMAL(3, 2)", "NULL"),
            ("CAST(n AS DECIMAL(2, 2))", "DECIMAL(2, 2)", "NULL"),
            ("CAST(x AS DECIMAL(3, 0))", "DECIMAL(3, 0)", "3"),
            ("CAST(-d AS INT)", "INT", "-12"),
            ("CAST(-x AS INT)", "INT", "-2"),
            ("CAST(x * 1e12 AS INT)", "INT", "2147483647"),
            ("CAST(n + 300 AS TINYINT)", "TINYINT", "51"),
            ("CAST(n > 3 AS DECIMAL(3, 1))", "DECIMAL(3, 1)", "1.0"),
            ("CAST(d AS BOOLEAN)", "BOOLEAN", "true"),
            ("CAST(CAST(s AS BYTES) AS STRING)", "STRING", "Hello World"),
            ("CAST(CAST(e AS VARBINARY(9)) AS STRING)", "STRING", "a-b_c"),
            ("CAST(CAST(e AS VARBINARY(2)) AS STRING)", "STRING", "a-"),
            ("CAST(CAST(e AS BINARY(3)) AS STRING)", "STRING", "a-b"),
            ("CAST(X'41' AS BINARY(3)) = X'410000'", "BOOLEAN", "true"),
            ("TRY_CAST(s AS INT)", "INT", "NULL"),
            (
                "CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) + n",
                "DECIMAL(38, 0)",
                "NULL",
            ),
            (
                "CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) * d",
                "DECIMAL(38, 6)",
                "NULL",
            ),
            (
                "CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) - n",
                "DECIMAL(38, 0)",
                "99999999999999999999999999999999999992",
            ),
            (
                "CAST('12345678901234567890.123456789012345678' AS DECIMAL(38, 18)) * CAST('1.123456789012345678' AS DECIMAL(38, 18))",
                "DECIMAL(38, 6)",
                "13869836776558451554.046639",
            ),
            ("d + 1", "DECIMAL(14, 3)", "13.345"),
            (
                "HOUR(TIME '12:30:15') * 10000 + MINUTE(CAST(t AS TIME)) * 100 + SECOND(CAST('10:20:30' AS TIME))",
                "BIGINT",
                "121430",
            ),
            ("CAST(t AS TIME) > TIME '13:14:15'", "BOOLEAN", "true"),
            ("CAST(t AS TIME) = TIME '13:14:15.678'", "BOOLEAN", "true"),
            ("FLOOR(CAST(t AS DATE) TO MONTH)", "DATE", "2024-02-01"),
            ("CEIL(CAST(t AS DATE) TO YEAR)", "DATE", "2025-01-01"),
            ("TO_TIMESTAMP('2024-02-29 13:14:15')", "TIMESTAMP(3)", "2024-02-29T13:14:15"),
            ("TO_TIMESTAMP('2024-02-29 13:14:15.678')", "TIMESTAMP(3)", "2024-02-29T13:14:15.678"),
            ("TO_TIMESTAMP('2024-02-29')", "TIMESTAMP(3)", "2024-02-29T00:00:00"),
            ("TO_TIMESTAMP('2024-02-30 00:00:00')", "TIMESTAMP(3)", "NULL"),
            ("TO_TIMESTAMP(nil)", "TIMESTAMP(3)", "NULL"),
            ("TO_TIMESTAMP('29/02/24 1:05 PM', 'dd/MM/yy h:mm a')", "TIMESTAMP(3)", "2024-02-29T13:05:00"),
            (
                "TO_TIMESTAMP('20240229131415678', 'yyyyMMddHHmmssSSS')",
                "TIMESTAMP(3)",
                "2024-02-29T13:14:15.678",
            ),
            ("TO_TIMESTAMP('29 Feb 2024', 'dd MMM yyyy')", "TIMESTAMP(3)", "2024-02-29T00:00:00"),
            ("TO_TIMESTAMP('2024-2-29', 'yyyy-MM-dd')", "TIMESTAMP(3)", "NULL"),
            ("TO_TIMESTAMP('2024-02-29x', 'yyyy-MM-dd')", "TIMESTAMP(3)", "NULL"),
            ("TO_DATE('2024-02-29')", "DATE", "2024-02-29"),
            ("TO_DATE('29.2.2024', 'd.M.yyyy')", "DATE", "2024-02-29"),
            ("UNIX_TIMESTAMP('1970-01-02 00:00:01')", "BIGINT", "86401"),
            ("UNIX_TIMESTAMP('02.01.1970', 'dd.MM.yyyy')", "BIGINT", "86400"),
            ("UNIX_TIMESTAMP('no time')", "BIGINT", "-9223372036854775808"),
            ("FROM_UNIXTIME(86401)", "STRING", "1970-01-02 00:00:01"),
            ("FROM_UNIXTIME(n * 86400, 'dd.MM.yy')", "STRING", "08.01.70"),
            ("CAST(TO_TIMESTAMP_LTZ(n, 0) AS STRING)", "STRING", "1970-01-01 00:00:07.000"),
            ("CAST(TO_TIMESTAMP_LTZ(1500) AS STRING)", "STRING", "1970-01-01 00:00:01.500"),
            ("CAST(ARRAY[n, m, 3] AS STRING)", "STRING", "[7, -7, 3]"),
            ("CAST(ARRAY['a', nil] AS STRING)", "STRING", "[a, NULL]"),
            ("CAST(ROW(n, s, ARRAY[1]) AS STRING)", "STRING", "(7, Hello World, [1])"),
            ("(n, s) IN ((8, 'x'), (7, 'Hello World'))", "BOOLEAN", "true"),
            ("(n, s) = (7, 'x')", "BOOLEAN", "false"),
            ("JSON_OBJECT()", "STRING", "{}"),
            ("JSON_OBJECT('a' VALUE n, KEY 'b' VALUE nil)", "STRING", r#"{"a":7,"b":null}"#),
            (
                "JSON_OBJECT(KEY 'a' VALUE nil, 'b' VALUE s ABSENT ON NULL)",
                "STRING",
                r#"{"b":"Hello World"}"#,
            ),
            (
                "JSON_OBJECT(KEY (s) VALUE (n), (e) VALUE CAST(m AS STRING))",
                "STRING",
                r#"{"Hello World":7,"a-b_c":"-7"}"#,
            ),
            ("JSON_OBJECT(s VALUE x NULL ON NULL)", "STRING", r#"{"Hello World":2.5}"#),
            (
                "JSON_OBJECT('o' VALUE JSON_OBJECT('l' VALUE JSON_ARRAY(1, '2', nil)), 't' VALUE '{}')",
                "STRING",
                r#"{"o":{"l":[1,"2"]},"t":"{}"}"#,
            ),
            ("JSON_ARRAY()", "STRING", "[]"),
            ("JSON_ARRAY(nil, n NULL ON NULL)", "STRING", "[null,7]"),
            (
                "JSON_ARRAY(n > 3, d, X'cafe', CAST('NaN' AS DOUBLE), 1e10)",
                "STRING",
                r#"[true,12.345,"yv4=","NaN",1.0E10]"#,
            ),
            (
                "JSON_ARRAY(t, CAST(t AS DATE), CAST('10:30:00' AS TIME), TO_TIMESTAMP_LTZ(1000, 3))",
                "STRING",
                r#"["2024-02-29T13:14:15.678","2024-02-29","10:30:00","1970-01-01T00:00:01Z"]"#,
            ),
            (
                "JSON_STRING(ARRAY[ROW(n, s), ROW(m, 'a\"b')])",
                "STRING",
                r#"[{"EXPR$0":7,"EXPR$1":"Hello World"},{"EXPR$0":-7,"EXPR$1":"a\"b"}]"#,
            ),
            ("JSON_STRING(MAP['k', n, 'l', m])", "STRING", r#"{"k":7,"l":-7}"#),
            ("JSON_STRING(nil)", "STRING", "NULL"),
            ("JSON_STRING(s)", "STRING", r#""Hello World""#),
            ("JSON_VALUE(JSON_OBJECT('a' VALUE JSON_ARRAY(n)), '$.a[0]')", "STRING", "7"),
            (r#"JSON_QUOTE('a"b/c')"#, "STRING", r#""a\"b\/c""#),
            (r#"JSON_UNQUOTE('"a\"bé"')"#, "STRING", "a\"b\u{e9}"),
            ("JSON_UNQUOTE('{}')", "STRING", "{}"),
            ("CAST('10:00:00' AS TIME) = TIME '10:00:00'", "BOOLEAN", "true"),
            (
                "CAST('10:00:00' AS TIME) < CURRENT_TIME OR CURRENT_TIME <= TRY_CAST('10:00:00' AS TIME)",
                "BOOLEAN",
                "true",
            ),
            ("n BETWEEN ASYMMETRIC 7 AND 9", "BOOLEAN", "true"),
            ("CAST(MAP['a', n, e, m] AS STRING)", "STRING", "{a=7, a-b_c=-7}"),
            ("CAST(MAP['a', 1, 'a', 2] AS STRING)", "STRING", "{a=2}"),
            ("ARRAY[n, m][2]", "BIGINT", "-7"),
            ("ARRAY[n, m][3]", "BIGINT", "NULL"),
            ("ARRAY[ARRAY[1, 2], ARRAY[n]][2][1]", "BIGINT", "7"),
            ("MAP[s, x]['Hello World']", "DOUBLE", "2.5"),
            ("MAP[s, x]['no']", "DOUBLE", "NULL"),
            ("MAP[1, 'a', 2, s][n - 5]", "STRING", "Hello World"),
            ("CARDINALITY(ARRAY[1, 2, 3]) + CARDINALITY(MAP['k', n])", "INT", "4"),
            ("CAST('1' AS DECIMAL(38, 0)) > CAST('0.5' AS DECIMAL(38, 38))", "BOOLEAN", "true"),
            (
                "CAST('-99999999999999999999999999999999999999' AS DECIMAL(38, 0)) < CAST(d AS DECIMAL(38, 30))",
                "BOOLEAN",
                "true",
            ),
            ("n = CAST(7 AS DECIMAL(38, 30))", "BOOLEAN", "true"),
            ("CAST(7 AS DECIMAL(38, 30)) BETWEEN n AND n + 1", "BOOLEAN", "true"),
            ("CAST(8 AS DECIMAL(38, 30)) NOT BETWEEN m AND n", "BOOLEAN", "true"),
            ("CAST(nil AS DECIMAL(38, 0)) = CAST(d AS DECIMAL(38, 30))", "BOOLEAN", "NULL"),
            ("CAST(TIMESTAMP '2024-02-29 12:00:00' AS STRING)", "STRING", "2024-02-29 12:00:00.000"),
            ("t < TIMESTAMP '9999-12-31 00:00:00'", "BOOLEAN", "true"),
            ("TRY_CAST(s AS DECIMAL(5, 2))", "DECIMAL(5, 2)", "NULL"),
            ("TRY_CAST(s AS TIMESTAMP(3))", "TIMESTAMP(3)", "NULL"),
            ("CAST('2024-02-29 13:14:15' AS TIMESTAMP(3))", "TIMESTAMP(3)", "2024-02-29T13:14:15"),
            ("CAST('2024-2-9 3:4:5.6' AS TIMESTAMP(3))", "TIMESTAMP(3)", "2024-02-09T03:04:05.600"),
            ("CAST('2024-2-9' AS TIMESTAMP(6))", "TIMESTAMP(6)", "2024-02-09T00:00:00"),
            ("CAST('2024-1-5' AS DATE)", "DATE", "2024-01-05"),
            ("CAST(' 2024-1 ' AS DATE)", "DATE", "2024-01-01"),
            ("CAST('2024' AS DATE)", "DATE", "2024-01-01"),
            ("CAST('2024-1-5 13:14:15' AS DATE)", "DATE", "2024-01-05"),
            ("TRY_CAST('2024-2-30' AS DATE)", "DATE", "NULL"),
            ("TRY_CAST('2024-2-' AS DATE)", "DATE", "NULL"),
            ("TRY_CAST('2024-2-9 25:00:00' AS TIMESTAMP(3))", "TIMESTAMP(3)", "NULL"),
            ("CAST(CAST('12' AS TIME) AS STRING)", "STRING", "12:00:00"),
            ("CAST(CAST('3:4' AS TIME) AS STRING)", "STRING", "03:04:00"),
            ("CAST(CAST('3:4:5.6785' AS TIME) AS STRING)", "STRING", "03:04:05.679"),
            ("TRY_CAST('25:00' AS TIME)", "TIME", "NULL"),
            ("TRY_CAST('12:30:' AS TIME)", "TIME", "NULL"),
        ];
        let mut wrong = Vec::new();
        for (expression, data_type, expected) in cases {
            let found = value(expression, data_type);
            if found.as_deref() != Ok(expected) {
                wrong.push(format!("{expression}: {found:?} instead of {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let found = value("ARRAY[n][m]", "BIGINT");
        assert!(
            found.as_ref().is_err_and(|error| error.contains("position -7; positions begin at 1")),
            "{found:?}"
        );
        for (division, data_type) in [("d / 0", "DECIMAL(23, 14)"), ("n / 0", "BIGINT"), ("MOD(n, 0)", "INT")]
        {
            let expected = "division by zero; NULLIF(divisor, 0) makes the result NULL";
            assert_eq!(value(division, data_type), Err(expected.to_owned()), "{division}");
        }
        for (cast, to) in [
            ("CAST(s AS INT)", "INT"),
            ("CAST(s AS DECIMAL(5, 2))", "DECIMAL(5, 2)"),
            ("CAST(s AS DATE)", "DATE"),
        ] {
            let message = format!("CAST: 'Hello World' is not a value of the type {to}; TRY_CAST");
            let found = value(cast, to);
            assert!(found.as_ref().is_err_and(|error| error.starts_with(&message)), "{found:?}");
        }
        assert_eq!(value("LPAD(s)", "STRING"), Err("the arguments of 'LPAD' do not fit".to_owned()));
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
