//! Functions over numbers.

use arrow::array::ArrayRef;
use arrow::compute::kernels::numeric;
use arrow::compute::{cast, take};
use arrow::datatypes::DataType;
use datafusion_common::Result;
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;

use super::scalar::{Argument, Scalar};

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["mod"],
        usage: "MOD(number, number)",
        accepts: |given| match given {
            [left, right] if left.is_numeric() && right.is_numeric() => {
                let wide = BinaryTypeCoercer::new(left, &Operator::Modulo, right).get_input_types().ok()?;
                // Of whole numbers the result is of the divisor's type, which it always fits.
                let keeps = left.is_integer() && right.is_integer();
                Some(if keeps { vec![left.clone(), right.clone()] } else { vec![wide.0, wide.1] })
            }
            _ => None,
        },
        returns: |given| match given {
            [left, right] if left.is_integer() && right.is_integer() => right.clone(),
            _ => BinaryTypeCoercer::new(&given[0], &Operator::Modulo, &given[1])
                .get_result_type()
                .unwrap_or_else(|_| given[0].clone()),
        },
        call: |arguments, rows| {
            let (left, right) = (expand(&arguments[0], rows)?, expand(&arguments[1], rows)?);
            if !right.data_type().is_integer() {
                return Ok(numeric::rem(&left, &right)?);
            }
            let wide = |values: &ArrayRef| cast(values, &DataType::Int64);
            Ok(cast(&numeric::rem(&wide(&left)?, &wide(&right)?)?, right.data_type())?)
        },
    },
    Scalar {
        names: &["abs"],
        usage: "ABS(number)",
        accepts: |given| matches!(given, [one] if one.is_numeric()).then(|| given.to_vec()),
        returns: |given| given[0].clone(),
        call: |arguments, rows| absolute(&expand(&arguments[0], rows)?),
    },
];

/// One value a row.
pub fn expand(argument: &Argument, rows: usize) -> Result<ArrayRef> {
    if !argument.is_constant || rows == 1 {
        return Ok(argument.values.clone());
    }
    let zeros = arrow::array::UInt32Array::from(vec![0; rows]);
    Ok(take(&argument.values, &zeros, None)?)
}

fn absolute(values: &ArrayRef) -> Result<ArrayRef> {
    let zero = datafusion_common::ScalarValue::new_zero(values.data_type())?.to_scalar()?;
    let is_negative = arrow::compute::kernels::cmp::lt(values, &zero)?;
    let negated = match values.data_type() {
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => values.clone(),
        _ => numeric::neg_wrapping(values)?,
    };
    Ok(arrow::compute::kernels::zip::zip(&is_negative, &negated, values)?)
}
