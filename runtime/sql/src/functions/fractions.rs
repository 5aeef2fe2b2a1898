//! Comparisons of FLOAT and DOUBLE as Java's, and so Flink's: NaN equals nothing and is neither below nor above anything, and −0 is 0.
//! The kernels order all bit patterns instead.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion_common::{DataFusionError, Result, exec_datafusion_err, internal_err};
use datafusion_expr::{ColumnarValue, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// A comparison of two fractions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CompareFractions {
    operator: Operator,
    signature: Signature,
}

impl CompareFractions {
    /// `None` if the operator compares nothing, or if the sides have no fractions.
    pub fn of(operator: Operator, left: &DataType, right: &DataType) -> Option<Self> {
        use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        let is_one = matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq);
        (is_one && left.is_floating() && right.is_floating())
            .then(|| CompareFractions { operator, signature: Signature::any(2, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for CompareFractions {
    /// It is no identifier, so that only comparisons give it.
    fn name(&self) -> &str {
        "compare fractions"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let compare: fn(f64, f64) -> bool = match self.operator {
            Operator::Eq => |left, right| left == right,
            Operator::NotEq => |left, right| left != right,
            Operator::Lt => |left, right| left < right,
            Operator::LtEq => |left, right| left <= right,
            Operator::Gt => |left, right| left > right,
            Operator::GtEq => |left, right| left >= right,
            other => return internal_err!("{other} compares nothing"),
        };
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} sides are compared", args.args.len());
        };
        let compared = match (left, right) {
            // The usual one: a column and a constant.
            (ColumnarValue::Array(column), ColumnarValue::Scalar(constant)) => {
                match one(&constant.to_array()?)? {
                    Some(constant) => {
                        let column = doubles(column)?;
                        let column = column.as_primitive::<Float64Type>();
                        BooleanArray::from_unary(column, |value| compare(value, constant))
                    }
                    None => BooleanArray::new_null(column.len()),
                }
            }
            _ => {
                let rows = args.number_rows;
                let (left, right) = (doubles(&left.to_array(rows)?)?, doubles(&right.to_array(rows)?)?);
                let (left, right) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
                BooleanArray::from_binary(left, right, compare)
            }
        };
        Ok(ColumnarValue::Array(Arc::new(compared)))
    }
}

/// A FLOAT is compared as the DOUBLE that has its value.
fn doubles(values: &ArrayRef) -> Result<ArrayRef> {
    match values.data_type() == &Float64Type::DATA_TYPE {
        true => Ok(Arc::clone(values)),
        false => Ok(cast(values, &Float64Type::DATA_TYPE)?),
    }
}

fn one(values: &ArrayRef) -> Result<Option<f64>, DataFusionError> {
    let values = doubles(values)?;
    let values = values.as_primitive_opt::<Float64Type>();
    let values = values.ok_or_else(|| exec_datafusion_err!("a constant that is no fraction"))?;
    Ok(values.iter().next().flatten())
}
