//! Arithmetic of decimals by Flink's rules, put in the place of the planner's own: division, and what may have too many digits.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, plan_err};
use datafusion_expr::expr_rewriter::FunctionRewrite;
use datafusion_expr::{Between, BinaryExpr, Expr, ExprSchemable, Operator, binary_expr, cast, lit};

use crate::functions::{self, decimals};
use crate::plan::function;

/// Replaces operations of which one side is a decimal and the other one a decimal or a whole number.
#[derive(Debug)]
pub struct DecimalArithmetic;

impl FunctionRewrite for DecimalArithmetic {
    fn name(&self) -> &str {
        "decimal_arithmetic"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let rewritten = match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => operation(left, *op, right, schema)?,
            Expr::Between(Between { expr, negated, low, high }) => {
                let (least, most) = match negated {
                    false => (Operator::GtEq, Operator::LtEq),
                    true => (Operator::Lt, Operator::Gt),
                };
                let sides = (operation(expr, least, low, schema)?, operation(expr, most, high, schema)?);
                let other = |side: &Expr, op| binary_expr((**expr).clone(), op, side.clone());
                match sides {
                    (None, None) => None,
                    (low_side, high_side) => {
                        let low = low_side.unwrap_or_else(|| other(low, least));
                        let high = high_side.unwrap_or_else(|| other(high, most));
                        Some(if *negated { low.or(high) } else { low.and(high) })
                    }
                }
            }
            _ => None,
        };
        Ok(rewritten.map_or_else(|| Transformed::no(expr), Transformed::yes))
    }
}

/// An operation as a call of ours; `None`: the planner's own is right.
fn operation(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    use Operator::{Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Multiply, NotEq, Plus};
    if !matches!(op, Divide | Plus | Minus | Multiply | Eq | NotEq | Lt | LtEq | Gt | GtEq) {
        return Ok(None);
    }
    let (of_left, of_right) = (left.get_type(schema)?, right.get_type(schema)?);
    let is_decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..));
    if !is_decimal(&of_left) && !is_decimal(&of_right) {
        return Ok(None);
    }
    let as_decimal = |side: &Expr, data_type: &DataType| match decimals::of_integer(data_type) {
        Some(decimal) => Some(cast(side.clone(), decimal)),
        None => is_decimal(data_type).then(|| side.clone()),
    };
    let (Some(left), Some(right)) = (as_decimal(left, &of_left), as_decimal(right, &of_right)) else {
        return Ok(None);
    };
    let name = match op {
        Divide => Some(function::DECIMAL_DIVIDE),
        op => decimals::careful(op, &left.get_type(schema)?, &right.get_type(schema)?),
    };
    let Some(name) = name else { return Ok(None) };
    let Some(function) = functions::scalar(name) else { return plan_err!("decimals have no {op}") };
    let call = Arc::unwrap_or_clone(function).call(vec![left, right]);
    Ok(Some(if name == function::DECIMAL_COMPARE { binary_expr(call, op, lit(0_i8)) } else { call }))
}
