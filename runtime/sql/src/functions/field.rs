//! Access to a field of a ROW, `row.field`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// The internal name of the function; not reachable from SQL because it is no identifier.
pub const FIELD: &str = ".";

/// `field(row, 'name')`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FieldOf {
    signature: Signature,
}

impl FieldOf {
    pub fn new() -> Self {
        FieldOf { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FieldOf {
    fn name(&self) -> &str {
        FIELD
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of a field depends on its name")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let Some(Some(ScalarValue::Utf8(Some(name)))) = args.scalar_arguments.get(1) else {
            return internal_err!("a field is named by a constant");
        };
        let DataType::Struct(fields) = args.arg_fields[0].data_type() else {
            return plan_err!("'{}' is not a ROW and has no field '{name}'", args.arg_fields[0].name());
        };
        match fields.find(name) {
            Some((_, field)) => Ok(Arc::new(Field::new(name, field.data_type().clone(), true))),
            None => plan_err!("the row has no field '{name}'"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))) = &args.args[1] else {
            return exec_err!("a field is named by a constant");
        };
        let rows = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(field_values(&rows, name)?))
    }
}

/// The values of one field; NULL where the row itself is NULL.
fn field_values(rows: &ArrayRef, name: &str) -> Result<ArrayRef> {
    let Some(rows) = rows.as_struct_opt() else {
        return exec_err!("a value of type {} has no fields", rows.data_type());
    };
    let Some(values) = rows.column_by_name(name) else {
        return exec_err!("the row has no field '{name}'");
    };
    match rows.nulls() {
        Some(nulls) if nulls.null_count() > 0 => {
            let is_null = arrow::array::BooleanArray::new(!nulls.inner(), None);
            Ok(nullif(values, &is_null)?)
        }
        _ => Ok(Arc::clone(values)),
    }
}
