//! Puts Flink's comparisons of FLOAT and DOUBLE in the place of the planner's own, before it folds constants or turns conditions round:
//! with NaN, `NOT a < b` is not `a >= b`, and `a = a` is not always true.

use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result};
use datafusion_expr::expr::{Between, BinaryExpr, InList};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF};
use datafusion_optimizer::AnalyzerRule;

use super::analysis::in_every_expression;
use crate::functions::{CompareFractions, InFractions};

/// Comes after the types of all expressions are known.
#[derive(Debug)]
pub struct Fractions;

impl AnalyzerRule for Fractions {
    fn name(&self) -> &str {
        "fractions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        in_every_expression(plan, in_expression)
    }
}

fn in_expression(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => compare(left, *op, right, schema)?,
        Expr::Between(Between { expr, negated, low, high }) => {
            let low = compare(expr, Operator::GtEq, low, schema)?;
            let high = compare(expr, Operator::LtEq, high, schema)?;
            low.zip(high).map(|(low, high)| low.and(high)).map(|is| if *negated { !is } else { is })
        }
        Expr::InList(InList { expr, list, negated }) => {
            let values = || std::iter::once(expr.as_ref()).chain(list);
            let types = values().map(|value| value.get_type(schema)).collect::<Result<Vec<_>>>()?;
            InFractions::of(*negated, types.into_iter())
                .map(|function| ScalarUDF::from(function).call(values().cloned().collect()))
        }
        Expr::Case(case) => {
            let mut searched = case.clone();
            let operand = searched.expr.take();
            let mut is_changed = operand.is_some();
            for (when, _) in &mut searched.when_then_expr {
                match operand.as_deref().map(|operand| compare(operand, Operator::Eq, when, schema)) {
                    Some(is_equal) => match is_equal? {
                        Some(is_equal) => **when = is_equal,
                        None => is_changed = false,
                    },
                    None => break,
                }
            }
            is_changed.then_some(Expr::Case(searched))
        }
        _ => None,
    };
    Ok(changed.map_or_else(|| Transformed::no(expression), Transformed::yes))
}

fn compare(left: &Expr, operator: Operator, right: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let function = CompareFractions::of(operator, &left.get_type(schema)?, &right.get_type(schema)?);
    Ok(function.map(|function| ScalarUDF::from(function).call(vec![left.clone(), right.clone()])))
}
