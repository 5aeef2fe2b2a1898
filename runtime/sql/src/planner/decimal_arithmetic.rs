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
        if let Some(doubles) = as_doubles(&expr, schema)? {
            return Ok(Transformed::yes(doubles));
        }
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

/// Values that are compared, or of which one is taken: where one of them is a fraction in binary (FLOAT, DOUBLE), the decimals among
/// them become such, as in Flink. The planner would make decimals of all, which have neither their range nor their digits.
fn as_doubles(expr: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let mut expr = expr.clone();
    let is_changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            doubles([left.as_mut(), right.as_mut()], schema)?
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            doubles([expr.as_mut(), low.as_mut(), high.as_mut()], schema)?
        }
        Expr::InList(list) => doubles(std::iter::once(list.expr.as_mut()).chain(&mut list.list), schema)?,
        Expr::Case(case) => {
            let (mut compared, mut given) = (Vec::new(), Vec::new());
            compared.extend(case.expr.as_deref_mut());
            let has_base = !compared.is_empty();
            for (when, then) in &mut case.when_then_expr {
                if has_base {
                    compared.push(when.as_mut());
                }
                given.push(then.as_mut());
            }
            given.extend(case.else_expr.as_deref_mut());
            doubles(compared, schema)? | doubles(given, schema)?
        }
        Expr::ScalarFunction(call) => match call.func.name() {
            "coalesce" | "nvl" | "ifnull" | "nullif" | "greatest" | "least" | function::ARRAY => {
                doubles(&mut call.args, schema)?
            }
            function::MAP => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for (index, arg) in call.args.iter_mut().enumerate() {
                    if index % 2 == 0 { keys.push(arg) } else { values.push(arg) }
                }
                doubles(keys, schema)? | doubles(values, schema)?
            }
            _ => false,
        },
        _ => false,
    };
    Ok(is_changed.then_some(expr))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom | Lt | LtEq | NotEq)
}

/// Makes the decimals among expressions doubles if there is a binary fraction among them; true if there was something to make.
fn doubles<'a>(exprs: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> Result<bool> {
    let mut exprs: Vec<&mut Expr> = exprs.into_iter().collect();
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    if !types.iter().any(DataType::is_floating) {
        return Ok(false);
    }
    let mut is_changed = false;
    for (expr, data_type) in exprs.iter_mut().zip(types) {
        if matches!(data_type, DataType::Decimal128(..)) {
            let decimal = std::mem::take(*expr);
            **expr = cast(decimal, DataType::Float64);
            is_changed = true;
        }
    }
    Ok(is_changed)
}

/// A product; the planner has no type for one of decimals with too many digits behind the point.
pub fn times(left: &Expr, right: &Expr, schema: &DFSchema) -> Result<Expr> {
    let ours = operation(left, Operator::Multiply, right, schema)?;
    Ok(ours.unwrap_or_else(|| binary_expr(left.clone(), Operator::Multiply, right.clone())))
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
