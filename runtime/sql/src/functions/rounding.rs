//! ROUND and TRUNCATE: of a decimal the type depends on how many digits stay, which is known if it is a constant.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type};
use datafusion_common::{Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::decimals::{Rounding, round, rounded_type};

/// The functions of this file.
pub const NAMES: [&str; 2] = ["round", "truncate"];

/// More digits than any number has.
const DIGITS_MAX: i64 = 38;

/// `ROUND(number[, digits])` or `TRUNCATE(number[, digits])`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct RoundTo {
    name: &'static str,
    signature: Signature,
}

impl RoundTo {
    /// The function of a name, in lower case.
    pub fn by_name(name: &str) -> Option<Self> {
        let name = NAMES.into_iter().find(|known| *known == name)?;
        Some(RoundTo { name, signature: Signature::user_defined(Volatility::Immutable) })
    }

    fn rounding(&self) -> Rounding {
        if self.name == "round" { Rounding::HalfUp } else { Rounding::Down }
    }
}

impl ScalarUDFImpl for RoundTo {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [number] if number.is_numeric() => Ok(given.to_vec()),
            [number, digits] if number.is_numeric() && digits.is_integer() => {
                Ok(vec![number.clone(), DataType::Int64])
            }
            _ => {
                let name = self.name.to_uppercase();
                plan_err!("the arguments of {name} do not fit; usage: {name}(number[, digits])")
            }
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of a rounded number depends on its digits")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let digits = match args.scalar_arguments.get(1) {
            None => Some(0),
            Some(Some(ScalarValue::Int64(digits))) => *digits,
            Some(_) => None,
        };
        let result = rounded_type(args.arg_fields[0].data_type(), digits);
        Ok(Arc::new(Field::new(self.name, result, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let values = args.args[0].to_array(rows)?;
        let digits = match args.args.get(1) {
            Some(digits) => digits.to_array(rows)?,
            None => Arc::new(Int64Array::from(vec![0; rows])),
        };
        let digits = digits.as_primitive::<Int64Type>();
        let to = args.return_field.data_type();
        Ok(ColumnarValue::Array(rounded(&values, digits, self.rounding(), to)?))
    }
}

fn rounded(values: &ArrayRef, digits: &Int64Array, how: Rounding, to: &DataType) -> Result<ArrayRef> {
    let digits_of =
        |row: usize| digits.is_valid(row).then(|| digits.value(row).clamp(-DIGITS_MAX, DIGITS_MAX));
    match (values.data_type(), to) {
        (DataType::Decimal128(_, scale), DataType::Decimal128(p, s)) => {
            let decimals = values.as_primitive::<Decimal128Type>();
            let one = |row: usize| {
                let value = decimals.is_valid(row).then(|| decimals.value(row))?;
                round(value, *scale, digits_of(row)?, how, (*p, *s))
            };
            let all: Decimal128Array = (0..values.len()).map(one).collect();
            Ok(Arc::new(all.with_precision_and_scale(*p, *s)?))
        }
        (DataType::Float32 | DataType::Float64, _) => {
            let wide = cast(values, &DataType::Float64)?;
            let wide = wide.as_primitive::<Float64Type>();
            let one = |row: usize| {
                wide.is_valid(row).then(|| Some(round_float(wide.value(row), digits_of(row)?, how))).flatten()
            };
            let all: Float64Array = (0..values.len()).map(one).collect();
            Ok(cast(&all, to)?)
        }
        _ => {
            let wide = cast(values, &DataType::Int64)?;
            let wide = wide.as_primitive::<Int64Type>();
            let one = |row: usize| {
                let value = wide.is_valid(row).then(|| i128::from(wide.value(row)))?;
                round(value, 0, digits_of(row)?, how, (38, 0)).and_then(|value| i64::try_from(value).ok())
            };
            let all: Int64Array = (0..values.len()).map(one).collect();
            Ok(cast(&all, to)?)
        }
    }
}

/// Rounds the shortest text of a number, as Flink does by way of Java's `BigDecimal`.
fn round_float(value: f64, digits: i64, how: Rounding) -> f64 {
    let text = format!("{value}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let unscaled = format!("{whole}{fraction}").parse::<i128>();
    let (Ok(unscaled), Ok(scale)) = (unscaled, i8::try_from(fraction.len())) else { return value };
    match round(unscaled, scale, digits, how, (38, scale)) {
        Some(rounded) => format!("{rounded}e-{scale}").parse().unwrap_or(value),
        None => value,
    }
}
