//! Puts Flink's CAST in the place of the planner's own, also of those that the planner has added by itself.

use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, DataFusionError, Diagnostic, Result};
use datafusion_expr::expr::{Cast, TryCast};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF, cast, try_cast};
use datafusion_optimizer::AnalyzerRule;

use super::analysis::in_every_expression;
use super::words::{CANNOT_CAST, HINT};
use crate::functions::CastTo;
use crate::plan;

/// The planner's TIME has nanoseconds, Flink's has milliseconds at most, as columns have. Comes before types are compared.
pub fn short_times(plan: LogicalPlan) -> Result<LogicalPlan> {
    in_every_expression(plan, |inner, _| Ok(short_time(inner)))
}

/// The same of one expression.
pub fn short_time(inner: Expr) -> Transformed<Expr> {
    let is_long = |field: &FieldRef| *field.data_type() == DataType::Time64(TimeUnit::Nanosecond);
    let to = DataType::Time32(TimeUnit::Millisecond);
    match inner {
        Expr::Cast(Cast { expr, field }) if is_long(&field) => Transformed::yes(cast(*expr, to)),
        Expr::TryCast(TryCast { expr, field }) if is_long(&field) => Transformed::yes(try_cast(*expr, to)),
        other => Transformed::no(other),
    }
}

/// Comes after the types of all expressions are known.
#[derive(Debug)]
pub struct FlinkCasts;

impl AnalyzerRule for FlinkCasts {
    fn name(&self) -> &str {
        "flink_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        in_every_expression(plan, in_expression)
    }
}

fn in_expression(inner: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (value, to, is_try) = match &inner {
        Expr::Cast(Cast { expr, field }) => (expr, field.data_type(), false),
        Expr::TryCast(TryCast { expr, field }) => (expr, field.data_type(), true),
        _ => return Ok(Transformed::no(inner)),
    };
    let from = value.get_type(schema)?;
    if let Some(cure) = CastTo::cure(&from, to) {
        return Err(refused(value, &from, to, cure));
    }
    let is_time = *to == DataType::Time32(TimeUnit::Millisecond) && from != *to;
    if !is_time && !CastTo::is_needed(&from, to) {
        return Ok(Transformed::no(inner));
    }
    let function = ScalarUDF::from(CastTo::new(to.clone(), is_try));
    Ok(Transformed::yes(function.call(vec![(**value).clone()])))
}

/// A conversion that there is none of, at the first column that it is of.
fn refused(value: &Expr, from: &DataType, to: &DataType, cure: &str) -> DataFusionError {
    let name =
        |data_type| plan::DataType::from_arrow(data_type).map(|name| name.to_string()).unwrap_or_default();
    let message = format!("a value of the type {} {CANNOT_CAST} {}", name(from), name(to));
    let place = value.column_refs().into_iter().filter_map(|column| column.spans.first()).min();
    let error = DataFusionError::Plan(format!("{message}{HINT}{cure}"));
    error.with_diagnostic(Diagnostic::new_error(message, place))
}
