//! What every logical plan goes through before it becomes streams.

use std::sync::Arc;

use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_optimizer::AnalyzerRule;
use datafusion_optimizer::analyzer::Analyzer;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{Optimizer, OptimizerContext};

use super::casts::{FlinkCasts, short_times};
use super::common_types::CommonTypes;
use super::conditions::Conditions;
use super::decimal_arithmetic::DecimalArithmetic;
use super::fractions::Fractions;
use super::like::FlinkLike;
use super::spreads::Spreads;
use super::zones::{InZone, Zone};

/// Resolves types, inserts casts, folds constants. `zone`: that of the job.
pub fn analyse(plan: LogicalPlan, zone: &Zone) -> Result<LogicalPlan, DataFusionError> {
    // Before anything asks for types.
    let plan = short_times(plan)?;
    let plan = CommonTypes.analyze(plan, &ConfigOptions::default())?;
    let plan = Spreads.analyze(plan, &ConfigOptions::default())?;
    let mut analyzer = Analyzer::new();
    analyzer.add_function_rewrite(Arc::new(DecimalArithmetic));
    analyzer.rules.insert(0, Arc::new(Conditions));
    analyzer.rules.push(Arc::new(FlinkLike));
    analyzer.rules.push(Arc::new(InZone(zone.clone())));
    analyzer.rules.push(Arc::new(FlinkCasts));
    analyzer.rules.push(Arc::new(Fractions));
    let plan = analyzer.execute_and_check(plan, &ConfigOptions::default(), |_, _| {})?;
    let optimizer = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    optimizer.optimize(plan, &OptimizerContext::new(), |_, _| {})
}

/// Changes every expression of a plan, each with the columns that it is over, and the types that follow from that. Columns keep their
/// names.
pub fn in_every_expression(
    plan: LogicalPlan,
    change: impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>, DataFusionError>,
) -> Result<LogicalPlan, DataFusionError> {
    let in_node = |node: LogicalPlan| {
        let schema = match &node {
            LogicalPlan::TableScan(_) => return Ok(Transformed::no(node)),
            node => merge_schema(&node.inputs()),
        };
        let names = NamePreserver::new(&node);
        let changed = node.map_expressions(|expression| {
            let name = names.save(&expression);
            let changed = expression.transform_up(|inner| change(inner, &schema))?;
            Ok(changed.update_data(|changed| name.restore(changed)))
        })?;
        changed.map_data(LogicalPlan::recompute_schema)
    };
    plan.transform_up_with_subqueries(in_node).map(|changed| changed.data)
}

/// A column by its place.
pub fn plan_column(schema: &DFSchema, index: usize) -> Expr {
    let (qualifier, field) = schema.qualified_field(index);
    Expr::Column(datafusion_common::Column::from((qualifier, field)))
}
