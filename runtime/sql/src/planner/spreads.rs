//! Variances and deviations as counts and sums of values and of their squares, which can be added up in parts and taken back, as in
//! Flink (Calcite's rule for these functions).

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue, internal_err, not_impl_err};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, Operator, Projection, binary_expr, cast, lit, when,
};
use datafusion_optimizer::AnalyzerRule;

use super::analysis::plan_column;
use super::decimal_arithmetic::times;
use crate::functions;
use crate::functions::aggregates::{self, Spread};

/// Comes before the planner converts types by itself.
#[derive(Debug)]
pub struct Spreads;

impl AnalyzerRule for Spreads {
    fn name(&self) -> &str {
        "spreads"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(node) if node.aggr_expr.iter().any(|call| spread_of(call).is_some()) => {
                Ok(Transformed::yes(rewritten(node)?))
            }
            node => Ok(Transformed::no(node)),
        })
        .map(|changed| changed.data)
    }
}

fn spread_of(expression: &Expr) -> Option<(Spread, &AggregateFunction)> {
    match expression {
        Expr::Alias(alias) => spread_of(&alias.expr),
        Expr::AggregateFunction(call) => aggregates::spread(call.func.name()).map(|spread| (spread, call)),
        _ => None,
    }
}

/// An aggregate of counts and sums, below a projection with the columns of the given one.
fn rewritten(node: Aggregate) -> Result<LogicalPlan> {
    let groups = node.group_expr.len();
    let mut calls = Vec::new();
    let mut place = |call: Expr| match calls.iter().position(|known| *known == call) {
        Some(known) => known,
        None => {
            calls.push(call);
            calls.len() - 1
        }
    };
    let places = node.aggr_expr.iter().map(|expression| match spread_of(expression) {
        None => Ok(Parts::Kept(place(expression.clone()))),
        Some((spread, call)) => {
            let data_type = expression.get_type(node.input.schema())?;
            let [values, squares, count] = parts(call, &data_type, node.input.schema())?.map(&mut place);
            Ok(Parts::Spread { spread, data_type, values, squares, count })
        }
    });
    let places = places.collect::<Result<Vec<_>>>()?;
    let below = Aggregate::try_new(node.input, node.group_expr, calls)?;
    let schema = below.schema.clone();
    let column = |call: usize| plan_column(&schema, groups + call);
    let mut columns: Vec<Expr> = (0..groups).map(|group| plan_column(&schema, group)).collect();
    for (index, parts) in places.into_iter().enumerate() {
        columns.push(match parts {
            Parts::Kept(call) => column(call),
            Parts::Spread { spread, data_type, values, squares, count } => {
                let name = node.schema.field(groups + index).name();
                of_parts(spread, &data_type, [values, squares, count].map(column), &schema)?.alias(name)
            }
        });
    }
    Ok(LogicalPlan::Projection(Projection::try_new(columns, LogicalPlan::Aggregate(below).into())?))
}

enum Parts {
    Kept(usize),
    Spread { spread: Spread, data_type: DataType, values: usize, squares: usize, count: usize },
}

/// The sum of the values, that of their squares, and their number. Values are taken as the result's type first.
fn parts(call: &AggregateFunction, data_type: &DataType, schema: &DFSchema) -> Result<[Expr; 3]> {
    let name = call.func.name().to_uppercase();
    if call.params.distinct {
        return not_impl_err!("DISTINCT in {name}");
    }
    let [value] = call.params.args.as_slice() else {
        return Err(DataFusionError::Plan(format!("{name} takes one argument")));
    };
    let value = cast(value.clone(), data_type.clone());
    let square = times(&value, &value, schema)?;
    let of = |name: &str, argument: Expr| {
        let Some(function) = aggregates::aggregate(name) else { return internal_err!("no aggregate {name}") };
        let params = AggregateFunctionParams { args: vec![argument], ..call.params.clone() };
        Ok(Expr::AggregateFunction(AggregateFunction { func: function, params }))
    };
    Ok([of("sum", value.clone())?, of("sum", square)?, of("count", value)?])
}

/// The squares' sum without what the mean has of it, divided by the number of values.
fn of_parts(
    spread: Spread,
    data_type: &DataType,
    [values, squares, count]: [Expr; 3],
    schema: &DFSchema,
) -> Result<Expr> {
    let divide = |left, right| binary_expr(left, Operator::Divide, right);
    let of_mean = divide(times(&values, &values, schema)?, count.clone());
    let mut distances = binary_expr(squares, Operator::Minus, of_mean);
    if data_type.is_floating() {
        // What rounding leaves of nothing may be below it, and has no root.
        let zero = ScalarValue::new_zero(data_type)?;
        distances = when(binary_expr(distances.clone(), Operator::Lt, lit(zero.clone())), lit(zero))
            .otherwise(distances)?;
    }
    let divisor = match spread.is_sample {
        false => count,
        // A single value tells nothing of the others.
        true => when(binary_expr(count.clone(), Operator::Eq, lit(1_i64)), lit(ScalarValue::Int64(None)))
            .otherwise(binary_expr(count, Operator::Minus, lit(1_i64)))?,
    };
    let mean = divide(distances, divisor);
    let result = match (spread.is_root, functions::scalar("power")) {
        (false, _) => mean,
        (true, Some(power)) => power.call(vec![mean, lit(0.5)]),
        (true, None) => return internal_err!("no function POWER"),
    };
    Ok(cast(result, data_type.clone()))
}
