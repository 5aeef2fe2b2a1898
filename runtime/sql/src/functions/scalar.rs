//! The shape of a scalar function and its adapter to DataFusion.

use std::hash::{Hash, Hasher};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion_common::{Result, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// A function as a row of a table.
#[derive(Debug)]
pub struct Scalar {
    /// SQL names in lower case; plans store the first.
    pub names: &'static [&'static str],
    /// How a user writes a call; shown when arguments don't fit.
    pub usage: &'static str,
    /// The types that arguments are converted to, or `None` if they cannot be.
    pub accepts: fn(&[DataType]) -> Option<Vec<DataType>>,
    /// The result's type for accepted arguments.
    pub returns: fn(&[DataType]) -> DataType,
    /// The values. Arguments have the accepted types; constants are not expanded.
    pub call: fn(&[Argument], usize) -> Result<ArrayRef>,
}

/// An argument of one call over a batch.
pub struct Argument {
    /// A single value when the argument is a constant, else one value a row.
    pub values: ArrayRef,
    pub is_constant: bool,
}

impl Argument {
    /// Which element holds the value of a row.
    pub fn index(&self, row: usize) -> usize {
        if self.is_constant { 0 } else { row }
    }
}

/// Adapter that lets DataFusion plan and evaluate a [`Scalar`].
#[derive(Debug)]
pub struct Function {
    scalar: &'static Scalar,
    signature: Signature,
}

impl Function {
    pub fn new(scalar: &'static Scalar) -> Self {
        Function { scalar, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.scalar.names == other.scalar.names
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scalar.names.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.scalar.names[0]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match (self.scalar.accepts)(given) {
            Some(types) => Ok(types),
            None => plan_err!("the arguments of {} do not fit; usage: {}", self.name(), self.scalar.usage),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok((self.scalar.returns)(arguments))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let are_constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let arguments = args.args.into_iter().map(argument).collect::<Result<Vec<_>>>()?;
        let count = if are_constant { 1 } else { rows };
        let values = (self.scalar.call)(&arguments, count)?;
        if are_constant {
            return datafusion_common::ScalarValue::try_from_array(&values, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(values))
    }
}

fn argument(value: ColumnarValue) -> Result<Argument> {
    Ok(match value {
        ColumnarValue::Array(values) => Argument { values, is_constant: false },
        ColumnarValue::Scalar(value) => Argument { values: value.to_array_of_size(1)?, is_constant: true },
    })
}
