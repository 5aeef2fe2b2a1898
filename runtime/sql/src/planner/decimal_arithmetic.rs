//! Arithmetic of decimals by Flink's rules, put in the place of the planner's own: division, and what may have too many digits.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, plan_err};
use datafusion_expr::expr_rewriter::FunctionRewrite;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator, cast};

use crate::functions::{self, decimals};

/// Replaces operations of which one side is a decimal and the other one a decimal or a whole number.
#[derive(Debug)]
pub struct DecimalArithmetic;

impl FunctionRewrite for DecimalArithmetic {
    fn name(&self) -> &str {
        "decimal_arithmetic"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &expr else {
            return Ok(Transformed::no(expr));
        };
        if !matches!(op, Operator::Divide | Operator::Plus | Operator::Minus | Operator::Multiply) {
            return Ok(Transformed::no(expr));
        }
        let (of_left, of_right) = (left.get_type(schema)?, right.get_type(schema)?);
        let is_decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..));
        if !is_decimal(&of_left) && !is_decimal(&of_right) {
            return Ok(Transformed::no(expr));
        }
        let as_decimal = |side: &Expr, data_type: &DataType| match decimals::of_integer(data_type) {
            Some(decimal) => Some(cast(side.clone(), decimal)),
            None => is_decimal(data_type).then(|| side.clone()),
        };
        let (Some(left), Some(right)) = (as_decimal(left, &of_left), as_decimal(right, &of_right)) else {
            return Ok(Transformed::no(expr));
        };
        let name = match op {
            Operator::Divide => Some(decimals::DIVIDE),
            op => decimals::careful(*op, &left.get_type(schema)?, &right.get_type(schema)?),
        };
        let Some(name) = name else { return Ok(Transformed::no(expr)) };
        match functions::scalar(name) {
            Some(function) => Ok(Transformed::yes(Arc::unwrap_or_clone(function).call(vec![left, right]))),
            None => plan_err!("decimals have no {op}"),
        }
    }
}
