//! Functions over numbers: whole parts, powers, logarithms, angles, least and greatest.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int32Array};
use arrow::compute::kernels::cmp::{gt, lt};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, is_null, nullif, or};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type};
use datafusion_common::Result;
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;

use super::decimals::{Rounding, round};
use super::numbers::expand;
use super::scalar::{Argument, Scalar};

/// A function of one double.
macro_rules! of_double {
    ($name:literal, $usage:literal, $value:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: |given| matches!(given, [one] if one.is_numeric()).then(|| vec![DataType::Float64]),
            returns: |_| DataType::Float64,
            call: |arguments, rows| of_one(arguments, rows, $value),
        }
    };
}

/// A function of two doubles.
macro_rules! of_doubles {
    ($names:expr, $usage:literal, $value:expr) => {
        Scalar {
            names: $names,
            usage: $usage,
            accepts: |given| match given {
                [a, b] if a.is_numeric() && b.is_numeric() => Some(vec![DataType::Float64; 2]),
                _ => None,
            },
            returns: |_| DataType::Float64,
            call: |arguments, rows| of_two(arguments, rows, $value),
        }
    };
}

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["ceil", "ceiling"],
        usage: "CEIL(number), CEIL(timestamp TO unit)",
        accepts: one_number,
        returns: |given| whole_type(&given[0]),
        call: |arguments, rows| whole(arguments, rows, Rounding::Ceiling, f64::ceil),
    },
    Scalar {
        names: &["floor"],
        usage: "FLOOR(number), FLOOR(timestamp TO unit)",
        accepts: one_number,
        returns: |given| whole_type(&given[0]),
        call: |arguments, rows| whole(arguments, rows, Rounding::Floor, f64::floor),
    },
    Scalar {
        names: &["sign"],
        usage: "SIGN(number)",
        accepts: one_number,
        returns: |given| given[0].clone(),
        call: sign,
    },
    of_double!("sqrt", "SQRT(number)", f64::sqrt),
    of_double!("exp", "EXP(number)", f64::exp),
    of_double!("ln", "LN(number)", f64::ln),
    of_double!("log10", "LOG10(number)", f64::log10),
    of_double!("log2", "LOG2(number)", f64::log2),
    of_double!("sin", "SIN(number)", f64::sin),
    of_double!("cos", "COS(number)", f64::cos),
    of_double!("tan", "TAN(number)", f64::tan),
    of_double!("cot", "COT(number)", |value: f64| 1.0 / value.tan()),
    of_double!("asin", "ASIN(number)", f64::asin),
    of_double!("acos", "ACOS(number)", f64::acos),
    of_double!("atan", "ATAN(number)", f64::atan),
    of_double!("sinh", "SINH(number)", f64::sinh),
    of_double!("cosh", "COSH(number)", f64::cosh),
    of_double!("tanh", "TANH(number)", f64::tanh),
    of_double!("degrees", "DEGREES(number)", f64::to_degrees),
    of_double!("radians", "RADIANS(number)", f64::to_radians),
    of_doubles!(&["power"], "POWER(base, exponent)", f64::powf),
    of_doubles!(&["atan2"], "ATAN2(y, x)", f64::atan2),
    Scalar {
        names: &["log"],
        usage: "LOG(number), LOG(base, number)",
        accepts: |given| {
            let are_numbers = given.iter().all(DataType::is_numeric);
            (are_numbers && (1..=2).contains(&given.len())).then(|| vec![DataType::Float64; given.len()])
        },
        returns: |_| DataType::Float64,
        call: |arguments, rows| match arguments.len() {
            1 => of_one(arguments, rows, f64::ln),
            _ => of_two(arguments, rows, |base: f64, value: f64| value.ln() / base.ln()),
        },
    },
    Scalar {
        names: &["e"],
        usage: "E()",
        accepts: |given| given.is_empty().then(Vec::new),
        returns: |_| DataType::Float64,
        call: |_, rows| Ok(Arc::new(Float64Array::from(vec![std::f64::consts::E; rows]))),
    },
    Scalar {
        names: &["pi"],
        usage: "PI()",
        accepts: |given| given.is_empty().then(Vec::new),
        returns: |_| DataType::Float64,
        call: |_, rows| Ok(Arc::new(Float64Array::from(vec![std::f64::consts::PI; rows]))),
    },
    Scalar {
        names: &["greatest"],
        usage: "GREATEST(value, value, …)",
        accepts: comparable,
        returns: |given| given[0].clone(),
        call: |arguments, rows| extreme(arguments, rows, |a, b| Ok(gt(a, b)?)),
    },
    Scalar {
        names: &["least"],
        usage: "LEAST(value, value, …)",
        accepts: comparable,
        returns: |given| given[0].clone(),
        call: |arguments, rows| extreme(arguments, rows, |a, b| Ok(lt(a, b)?)),
    },
];

fn one_number(given: &[DataType]) -> Option<Vec<DataType>> {
    matches!(given, [one] if one.is_numeric()).then(|| given.to_vec())
}

fn of_one(arguments: &[Argument], rows: usize, value: fn(f64) -> f64) -> Result<ArrayRef> {
    let values = expand(&arguments[0], rows)?;
    Ok(Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(value)))
}

fn of_two(arguments: &[Argument], rows: usize, value: fn(f64, f64) -> f64) -> Result<ArrayRef> {
    let (left, right) = (expand(&arguments[0], rows)?, expand(&arguments[1], rows)?);
    let (left, right) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
    let all: Float64Array = arrow::compute::binary(left, right, value)?;
    Ok(Arc::new(all))
}

fn whole_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(precision, _) => DataType::Decimal128(*precision, 0),
        other => other.clone(),
    }
}

fn whole(arguments: &[Argument], rows: usize, how: Rounding, of_float: fn(f64) -> f64) -> Result<ArrayRef> {
    let values = expand(&arguments[0], rows)?;
    match values.data_type().clone() {
        DataType::Decimal128(precision, scale) => {
            let decimals = values.as_primitive::<Decimal128Type>().iter();
            let one = |value: Option<i128>| round(value?, scale, 0, how, (precision, 0));
            let all: Decimal128Array = decimals.map(one).collect();
            Ok(Arc::new(all.with_precision_and_scale(precision, 0)?))
        }
        of @ (DataType::Float32 | DataType::Float64) => {
            let wide = cast(&values, &DataType::Float64)?;
            let wide = wide.as_primitive::<Float64Type>().unary::<_, Float64Type>(of_float);
            Ok(cast(&wide, &of)?)
        }
        _ => Ok(values),
    }
}

fn sign(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let values = expand(&arguments[0], rows)?;
    // Java's `signum`: zeros of either sign and what is no number stay what they are.
    let of_fraction = |value: f64| if value == 0.0 || value.is_nan() { value } else { value.signum() };
    if values.data_type().is_floating() {
        let wide = cast(&values, &DataType::Float64)?;
        let signs: Float64Array = wide.as_primitive::<Float64Type>().unary(of_fraction);
        return Ok(cast(&signs, values.data_type())?);
    }
    let wide = cast(&values, &DataType::Float64)?;
    let one = |value: Option<f64>| value.map(|value| i32::from(value > 0.0) - i32::from(value < 0.0));
    let signs: Int32Array = wide.as_primitive::<Float64Type>().iter().map(one).collect();
    Ok(cast(&signs, values.data_type())?)
}

/// The type that all values can be compared in.
fn comparable(given: &[DataType]) -> Option<Vec<DataType>> {
    let (first, others) = given.split_first()?;
    let common = others.iter().try_fold(first.clone(), |common, other| {
        let (left, right) = BinaryTypeCoercer::new(&common, &Operator::Lt, other).get_input_types().ok()?;
        (left == right).then_some(left)
    })?;
    Some(vec![common; given.len()])
}

/// The value that is before all others; NULL if one of them is NULL.
fn extreme(
    arguments: &[Argument],
    rows: usize,
    is_before: fn(&ArrayRef, &ArrayRef) -> Result<arrow::array::BooleanArray>,
) -> Result<ArrayRef> {
    let mut best = expand(&arguments[0], rows)?;
    for argument in &arguments[1..] {
        let other = expand(argument, rows)?;
        let nulls = or(&is_null(&best)?, &is_null(&other)?)?;
        let chosen = zip(&is_before(&best, &other)?, &best, &other)?;
        best = nullif(&chosen, &nulls)?;
    }
    Ok(best)
}
