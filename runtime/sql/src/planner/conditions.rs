//! CASE asks conditions: the planner would take a number for one, and Flink does not.

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Diagnostic, Result};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion_optimizer::AnalyzerRule;

use super::words::{CONDITION, HINT};

/// Comes before the planner converts types by itself.
#[derive(Debug)]
pub struct Conditions;

impl AnalyzerRule for Conditions {
    fn name(&self) -> &str {
        "conditions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            node.apply_expressions(|expression| expression.apply(|inner| check(inner, &schema)))
        })?;
        Ok(plan)
    }
}

fn check(expression: &Expr, schema: &DFSchema) -> Result<TreeNodeRecursion> {
    if let Expr::AggregateFunction(call) = expression
        && let Some(filter) = &call.params.filter
        && !filter.get_type(schema).map_or(true, |of| matches!(of, DataType::Boolean | DataType::Null))
    {
        return Err(refused(filter));
    }
    let Expr::Case(case) = expression else { return Ok(TreeNodeRecursion::Continue) };
    // With an operand, what stands there are values that it is compared with.
    if case.expr.is_none() {
        for (when, _) in &case.when_then_expr {
            // A type that cannot be told is a mistake of its own, which the planner tells.
            let is_condition = when
                .get_type(schema)
                .map_or(true, |data_type| matches!(data_type, DataType::Boolean | DataType::Null));
            if !is_condition {
                return Err(refused(when));
            }
        }
    }
    Ok(TreeNodeRecursion::Continue)
}

fn refused(when: &Expr) -> DataFusionError {
    let place = when.column_refs().into_iter().filter_map(|column| column.spans.first()).min();
    let error = DataFusionError::Plan(format!("{CONDITION}{HINT}compare it with something: … <> 0"));
    match place {
        Some(place) => error.with_diagnostic(Diagnostic::new_error(CONDITION, Some(place))),
        None => error,
    }
}
