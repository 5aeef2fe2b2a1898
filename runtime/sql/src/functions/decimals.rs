//! Flink's decimal arithmetic where it differs from the kernels': division, rounding, and the types of their results.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int8Array};
use arrow::datatypes::{DataType, Decimal128Type, i256};
use datafusion_common::{Result, exec_err};
use datafusion_expr::Operator;

use super::numbers::expand;
use super::scalar::{Argument, Scalar};
use crate::plan::function;

/// Digits that a decimal can have.
const DIGITS_MAX: u8 = 38;

/// Digits behind the point that a quotient keeps, at least, if it cannot keep all.
const SCALE_KEPT: u8 = 6;

/// What is said of a division by zero.
pub const DIVISION_BY_ZERO: &str = "division by zero; NULLIF(divisor, 0) makes the result NULL";

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &[function::DECIMAL_COMPARE],
        usage: "decimal < decimal",
        accepts: two_decimals,
        returns: |_| DataType::Int8,
        call: compare,
    },
    Scalar {
        names: &[function::DECIMAL_DIVIDE],
        usage: "decimal / decimal",
        accepts: two_decimals,
        returns: |given| quotient(&given[0], &given[1]),
        call: divide,
    },
    Scalar {
        names: &[function::DECIMAL_PLUS],
        usage: "decimal + decimal",
        accepts: two_decimals,
        returns: |given| sum(&given[0], &given[1]).0,
        call: |arguments, rows| compute(arguments, rows, sum, |left, right| left.checked_add(right)),
    },
    Scalar {
        names: &[function::DECIMAL_MINUS],
        usage: "decimal - decimal",
        accepts: two_decimals,
        returns: |given| sum(&given[0], &given[1]).0,
        call: |arguments, rows| compute(arguments, rows, sum, |left, right| left.checked_sub(right)),
    },
    Scalar {
        names: &[function::DECIMAL_TIMES],
        usage: "decimal * decimal",
        accepts: two_decimals,
        returns: |given| product(&given[0], &given[1]).0,
        call: |arguments, rows| compute(arguments, rows, product, |left, right| left.checked_mul(right)),
    },
];

fn two_decimals(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [DataType::Decimal128(..), DataType::Decimal128(..)] => Some(given.to_vec()),
        _ => None,
    }
}

/// How a result is held: its type, and the scales that both sides have, and the result has, before it is rounded.
type Shape = (DataType, [i32; 3]);

/// The function that does an operation of which the result may have too many digits; `None`: the kernels' never fails.
pub fn careful(operator: Operator, left: &DataType, right: &DataType) -> Option<&'static str> {
    let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = (left, right) else { return None };
    let (p1, s1, p2, s2) = (i32::from(*p1), i32::from(*s1), i32::from(*p2), i32::from(*s2));
    let of_sum = (p1 - s1).max(p2 - s2) + s1.max(s2) + 1;
    let (name, digits) = match operator {
        Operator::Plus => (function::DECIMAL_PLUS, of_sum),
        Operator::Minus => (function::DECIMAL_MINUS, of_sum),
        Operator::Multiply => (function::DECIMAL_TIMES, p1 + p2 + 1),
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
            (function::DECIMAL_COMPARE, of_sum - 1)
        }
        _ => return None,
    };
    (digits > i32::from(DIGITS_MAX)).then_some(name)
}

/// The type of a sum (Flink's `LogicalTypeMerging.findAdditionDecimalType`).
fn sum(left: &DataType, right: &DataType) -> Shape {
    let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = (left, right) else {
        return (DataType::Null, [0; 3]);
    };
    let (p1, s1, p2, s2) = (i32::from(*p1), i32::from(*s1), i32::from(*p2), i32::from(*s2));
    let scale = s1.max(s2);
    (adjusted((p1 - s1).max(p2 - s2) + scale + 1, scale), [scale; 3])
}

/// The type of a product (Flink's `LogicalTypeMerging.findMultiplicationDecimalType`).
fn product(left: &DataType, right: &DataType) -> Shape {
    let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = (left, right) else {
        return (DataType::Null, [0; 3]);
    };
    let (s1, s2) = (i32::from(*s1), i32::from(*s2));
    (adjusted(i32::from(*p1) + i32::from(*p2) + 1, s1 + s2), [s1, s2, s1 + s2])
}

/// A type with at most as many digits as there can be: those behind the point go first, but for some.
fn adjusted(precision: i32, scale: i32) -> DataType {
    let most = i32::from(DIGITS_MAX);
    if precision <= most {
        return DataType::Decimal128(precision as u8, scale as i8);
    }
    let whole = precision - scale;
    let scale = (most - whole).max(scale.min(i32::from(SCALE_KEPT)));
    DataType::Decimal128(DIGITS_MAX, scale as i8)
}

/// Rounded half away from zero; NULL if the result has too many digits.
fn compute(
    arguments: &[Argument],
    rows: usize,
    shape: fn(&DataType, &DataType) -> Shape,
    of: fn(i256, i256) -> Option<i256>,
) -> Result<ArrayRef> {
    let (left, right) = (expand(&arguments[0], rows)?, expand(&arguments[1], rows)?);
    let (result, [of_left, of_right, before]) = shape(left.data_type(), right.data_type());
    let DataType::Decimal128(precision, scale) = result else {
        return exec_err!("{} and {}", left.data_type(), right.data_type());
    };
    let (left, right) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
    let factor = |to: i32, from: i8| ten_to(to.abs_diff(i32::from(from)));
    let (of_left, of_right) = (factor(of_left, left.scale()), factor(of_right, right.scale()));
    let gone = ten_to(before.abs_diff(i32::from(scale)));
    let one = |row: usize| {
        let left = i256::from_i128(left.is_valid(row).then(|| left.value(row))?).checked_mul(of_left?)?;
        let right = i256::from_i128(right.is_valid(row).then(|| right.value(row))?).checked_mul(of_right?)?;
        let value = rounded_quotient(of(left, right)?, gone?).to_i128()?;
        fits(value, precision).then_some(value)
    };
    let values: Decimal128Array = (0..rows).map(one).collect();
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

fn compare(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let (left, right) = (expand(&arguments[0], rows)?, expand(&arguments[1], rows)?);
    let (left, right) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
    let scale = left.scale().max(right.scale());
    let factor = |from: i8| ten_to(u32::from(scale.abs_diff(from)));
    let (Some(of_left), Some(of_right)) = (factor(left.scale()), factor(right.scale())) else {
        return exec_err!("{} and {}", left.data_type(), right.data_type());
    };
    // 38 digits and 38 more are as many as there is room for.
    let one = |row: usize| {
        let left = i256::from_i128(left.is_valid(row).then(|| left.value(row))?).checked_mul(of_left)?;
        let right = i256::from_i128(right.is_valid(row).then(|| right.value(row))?).checked_mul(of_right)?;
        Some(left.cmp(&right) as i8)
    };
    Ok(Arc::new((0..rows).map(one).collect::<Int8Array>()))
}

/// A whole number's type as a decimal.
pub fn of_integer(data_type: &DataType) -> Option<DataType> {
    let digits = match data_type {
        DataType::Int8 => 3,
        DataType::Int16 => 5,
        DataType::Int32 => 10,
        DataType::Int64 => 19,
        _ => return None,
    };
    Some(DataType::Decimal128(digits, 0))
}

/// The type of a quotient (Flink's `LogicalTypeMerging.findDivisionDecimalType`).
fn quotient(left: &DataType, right: &DataType) -> DataType {
    let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = (left, right) else {
        return DataType::Null;
    };
    let (p1, s1, p2, s2) = (i32::from(*p1), i32::from(*s1), i32::from(*p2), i32::from(*s2));
    let scale = i32::from(SCALE_KEPT).max(s1 + p2 + 1);
    adjusted(p1 - s1 + s2 + scale, scale)
}

/// Rounded half away from zero; NULL if the result has too many digits.
fn divide(arguments: &[Argument], rows: usize) -> Result<ArrayRef> {
    let (left, right) = (expand(&arguments[0], rows)?, expand(&arguments[1], rows)?);
    let result = quotient(left.data_type(), right.data_type());
    let DataType::Decimal128(precision, scale) = result else {
        return exec_err!("a quotient of {} and {}", left.data_type(), right.data_type());
    };
    let (left, right) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
    let shift = i32::from(scale) - i32::from(left.scale()) + i32::from(right.scale());
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        if left.is_null(row) || right.is_null(row) {
            values.push(None);
            continue;
        }
        if right.value(row) == 0 {
            return exec_err!("{DIVISION_BY_ZERO}");
        }
        let (above, below) = (i256::from_i128(left.value(row)), i256::from_i128(right.value(row)));
        let (above, below) = match ten_to(shift.unsigned_abs()) {
            Some(factor) if shift >= 0 => (above.checked_mul(factor), Some(below)),
            Some(factor) => (Some(above), below.checked_mul(factor)),
            None => (None, None),
        };
        let rounded = above.zip(below).map(|(above, below)| rounded_quotient(above, below));
        values.push(rounded.and_then(i256::to_i128).filter(|value| fits(*value, precision)));
    }
    Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale)?))
}

fn rounded_quotient(above: i256, below: i256) -> i256 {
    let (whole, rest) = (above.wrapping_div(below), above.wrapping_rem(below));
    let two = i256::from_i128(2);
    let is_half = rest.wrapping_abs().wrapping_mul(two) >= below.wrapping_abs();
    let is_negative = (above < i256::ZERO) != (below < i256::ZERO);
    match (is_half, is_negative) {
        (false, _) => whole,
        (true, false) => whole.wrapping_add(i256::ONE),
        (true, true) => whole.wrapping_sub(i256::ONE),
    }
}

fn ten_to(exponent: u32) -> Option<i256> {
    i256::from_i128(10).checked_pow(exponent)
}

fn fits(value: i128, precision: u8) -> bool {
    10_i128.checked_pow(u32::from(precision)).is_none_or(|limit| value.unsigned_abs() < limit.unsigned_abs())
}

/// The type of a decimal that is rounded to so many digits behind the point (Flink's `findRoundDecimalType`).
pub fn rounded_type(data_type: &DataType, digits: Option<i64>) -> DataType {
    let DataType::Decimal128(precision, scale) = data_type else { return data_type.clone() };
    let Some(digits) = digits.filter(|digits| *digits < i64::from(*scale)) else { return data_type.clone() };
    let whole = i64::from(*precision) - i64::from(*scale) + 1;
    let digits = digits.max(0);
    DataType::Decimal128((whole + digits).clamp(1, i64::from(DIGITS_MAX)) as u8, digits as i8)
}

/// How the digits that go change those that stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    HalfUp,
    Down,
    Floor,
    Ceiling,
}

/// A decimal with so many digits behind the point, which may be negative, as another type.
pub fn round(value: i128, scale: i8, digits: i64, rounding: Rounding, to: (u8, i8)) -> Option<i128> {
    let gone = i64::from(scale) - digits;
    let kept = match u32::try_from(gone) {
        Ok(gone) if gone > 0 => {
            // With more digits gone than there are, nothing is left.
            let unit = 10_i128.checked_pow(gone)?;
            let (whole, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
            let rounded = match rounding {
                Rounding::Floor => whole,
                Rounding::Ceiling => whole + i128::from(rest > 0),
                Rounding::Down => whole + i128::from(value < 0 && rest > 0),
                Rounding::HalfUp => {
                    let twice = rest.checked_mul(2)?;
                    // Half goes away from zero.
                    whole + i128::from(twice > unit || (twice == unit && value >= 0))
                }
            };
            rounded.checked_mul(unit)?
        }
        _ => value,
    };
    let moved = i32::from(to.1) - i32::from(scale);
    let factor = 10_i128.checked_pow(moved.unsigned_abs())?;
    let moved = if moved >= 0 { kept.checked_mul(factor)? } else { kept / factor };
    fits(moved, to.0).then_some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_quotients_and_rounded_decimals_are_flinks() {
        let decimal = DataType::Decimal128;
        let cases = [
            (decimal(12, 2), decimal(10, 0), decimal(23, 13)),
            (decimal(12, 3), decimal(10, 0), decimal(23, 14)),
            (decimal(38, 10), decimal(38, 10), decimal(38, 6)),
            (decimal(5, 2), decimal(3, 1), decimal(10, 6)),
        ];
        for (left, right, expected) in cases {
            assert_eq!(quotient(&left, &right), expected, "{left} / {right}");
        }
        assert_eq!(rounded_type(&decimal(23, 14), Some(2)), decimal(12, 2));
        assert_eq!(rounded_type(&decimal(10, 2), Some(5)), decimal(10, 2));
        assert_eq!(rounded_type(&decimal(10, 2), Some(-1)), decimal(9, 0));
        assert_eq!(rounded_type(&decimal(10, 2), None), decimal(10, 2));
    }

    #[test]
    fn digits_go_as_flink_lets_them_go() {
        use Rounding::{Ceiling, Down, Floor, HalfUp};
        let cases = [
            // value, scale, digits, how, what stays with two digits behind the point
            (12_345, 3, 2, HalfUp, 1_235),
            (-12_345, 3, 2, HalfUp, -1_235),
            (12_344, 3, 2, HalfUp, 1_234),
            (-12_349, 3, 2, Down, -1_234),
            (-12_341, 3, 0, Floor, -1_300),
            (-12_341, 3, 0, Ceiling, -1_200),
            (12_341, 3, 0, Ceiling, 1_300),
            (15_000, 2, -2, HalfUp, 20_000),
        ];
        for (value, scale, digits, how, expected) in cases {
            assert_eq!(round(value, scale, digits, how, (20, 2)), Some(expected), "{value} to {digits}");
        }
        assert_eq!(round(99_999, 2, 0, HalfUp, (3, 0)), None, "it does not fit");
    }
}
