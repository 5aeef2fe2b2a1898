//! Puts Flink's CAST in the place of the planner's own, also of those that the planner has added by itself.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::Result;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::expr::{Cast, TryCast};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF};
use datafusion_optimizer::AnalyzerRule;

use crate::functions::CastTo;

/// Comes after the types of all expressions are known.
#[derive(Debug)]
pub struct FlinkCasts;

impl AnalyzerRule for FlinkCasts {
    fn name(&self) -> &str {
        "flink_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(in_node).map(|changed| changed.data)
    }
}

fn in_node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = match &node {
        LogicalPlan::TableScan(_) => return Ok(Transformed::no(node)),
        node => merge_schema(&node.inputs()),
    };
    let names = NamePreserver::new(&node);
    let changed = node.map_expressions(|expression| {
        let name = names.save(&expression);
        let changed = expression.transform_up(|inner| {
            let (value, to, is_try) = match &inner {
                Expr::Cast(Cast { expr, field }) => (expr, field.data_type(), false),
                Expr::TryCast(TryCast { expr, field }) => (expr, field.data_type(), true),
                _ => return Ok(Transformed::no(inner)),
            };
            // The planner's TIME has nanoseconds, Flink's has milliseconds at most.
            let is_time = *to == DataType::Time64(TimeUnit::Nanosecond);
            let to = if is_time { &DataType::Time32(TimeUnit::Millisecond) } else { to };
            if !is_time && !CastTo::is_needed(&value.get_type(&schema)?, to) {
                return Ok(Transformed::no(inner));
            }
            let function = ScalarUDF::from(CastTo::new(to.clone(), is_try));
            Ok(Transformed::yes(function.call(vec![(**value).clone()])))
        })?;
        Ok(changed.update_data(|changed| name.restore(changed)))
    })?;
    changed.map_data(LogicalPlan::recompute_schema)
}
