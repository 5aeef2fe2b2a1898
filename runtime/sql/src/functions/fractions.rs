//! Comparisons of FLOAT and DOUBLE as Java's, and so Flink's: NaN equals nothing and is neither below nor above anything, and −0 is 0.
//! The kernels order all bit patterns instead.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion_common::{DataFusionError, Result, exec_datafusion_err, internal_err};
use datafusion_expr::{
    ColumnarValue, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// A comparison of two fractions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CompareFractions {
    /// One of those that [`CompareFractions::of`] takes.
    pub operator: Operator,
    signature: Signature,
}

impl CompareFractions {
    /// `None` if the operator compares nothing, or if the sides have no fractions.
    pub fn of(operator: Operator, left: &DataType, right: &DataType) -> Option<Self> {
        use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
        let is_one =
            matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom);
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

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let is_total = matches!(self.operator, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
        Ok(truth(self.name(), !is_total && args.arg_fields.iter().any(|field| field.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let compare: fn(f64, f64) -> bool = match self.operator {
            Operator::Eq | Operator::IsNotDistinctFrom => |left, right| left == right,
            Operator::NotEq | Operator::IsDistinctFrom => |left, right| left != right,
            Operator::Lt => |left, right| left < right,
            Operator::LtEq => |left, right| left <= right,
            Operator::Gt => |left, right| left > right,
            Operator::GtEq => |left, right| left >= right,
            other => return internal_err!("{other} compares nothing"),
        };
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} sides are compared", args.args.len());
        };
        let is_distinct = match self.operator {
            Operator::IsDistinctFrom => Some(true),
            Operator::IsNotDistinctFrom => Some(false),
            _ => None,
        };
        let compared = match (left, right, is_distinct) {
            // The usual one: a column and a constant.
            (ColumnarValue::Array(column), ColumnarValue::Scalar(constant), None) => {
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
                match is_distinct {
                    None => BooleanArray::from_binary(left, right, compare),
                    Some(is_distinct) => (left.iter().zip(right))
                        .map(|sides| match sides {
                            (Some(left), Some(right)) => Some(compare(left, right)),
                            (left, right) => Some((left.is_none() != right.is_none()) == is_distinct),
                        })
                        .collect(),
                }
            }
        };
        Ok(ColumnarValue::Array(Arc::new(compared)))
    }
}

/// Whether the first fraction equals one of the others.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct InFractions {
    /// NOT IN.
    pub is_negated: bool,
    signature: Signature,
}

impl InFractions {
    /// `None` if there is something else than fractions among the values.
    pub fn of(is_negated: bool, mut values: impl Iterator<Item = DataType>) -> Option<Self> {
        values
            .all(|of| of.is_floating())
            .then(|| InFractions { is_negated, signature: Signature::variadic_any(Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for InFractions {
    /// It is no identifier, so that only IN gives it.
    fn name(&self) -> &str {
        "in fractions"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(truth(self.name(), args.arg_fields.iter().any(|field| field.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((value, list)) = args.args.split_first() else {
            return internal_err!("IN of nothing");
        };
        // Constants are looked up, and what differs from row to row is compared one by one.
        let (mut constants, mut has_null, mut columns) = (HashSet::new(), false, Vec::new());
        for item in list {
            match item {
                ColumnarValue::Scalar(constant) => match one(&constant.to_array()?)? {
                    Some(constant) if constant.is_nan() => {}
                    Some(constant) => drop(constants.insert(bits(constant))),
                    None => has_null = true,
                },
                ColumnarValue::Array(column) => columns.push(doubles(column)?),
            }
        }
        let columns: Vec<&Float64Array> = columns.iter().map(|column| column.as_primitive()).collect();
        let values = doubles(&value.to_array(args.number_rows)?)?;
        let found = values.as_primitive::<Float64Type>().iter().enumerate().map(|(row, value)| {
            let value = value?;
            let is_found = constants.contains(&bits(value))
                || columns.iter().any(|column| column.is_valid(row) && column.value(row) == value);
            let is_unknown = !is_found && (has_null || columns.iter().any(|column| column.is_null(row)));
            (!is_unknown).then_some(is_found != self.is_negated)
        });
        Ok(ColumnarValue::Array(Arc::new(found.collect::<BooleanArray>())))
    }
}

/// Equal numbers have equal bits then; NaN is none of them.
fn bits(value: f64) -> u64 {
    (value + 0.0).to_bits()
}

fn truth(name: &str, is_nullable: bool) -> FieldRef {
    Arc::new(Field::new(name, DataType::Boolean, is_nullable))
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
