//! The type that rows of VALUES and the inputs of a UNION have in common: where one has a binary fraction (FLOAT, DOUBLE), the decimals
//! of the others become DOUBLE, as in Flink. The planner would make decimals of all, which have neither their range nor their digits.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result};
use datafusion_expr::expr::Cast;
use datafusion_expr::type_coercion::binary::type_union_resolution;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Projection, Union, Values, cast};
use datafusion_optimizer::AnalyzerRule;

use super::analysis::plan_column;

/// Comes before the planner converts types by itself.
#[derive(Debug)]
pub struct CommonTypes;

impl AnalyzerRule for CommonTypes {
    fn name(&self) -> &str {
        "common_types"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut is_changed = false;
        let plan = plan.transform_up_with_subqueries(|node| {
            let changed = match node {
                LogicalPlan::Values(values) => of_values(values)?,
                LogicalPlan::Union(union) => of_inputs(union, is_changed)?,
                node => Transformed::no(node),
            };
            is_changed |= changed.transformed;
            // What stands above has columns of other types then.
            if is_changed && !changed.transformed {
                return changed.map_data(LogicalPlan::recompute_schema);
            }
            Ok(changed)
        })?;
        Ok(plan.data)
    }
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(..))
}

/// Takes back the casts that were put in when the rows were read.
fn of_values(values: Values) -> Result<Transformed<LogicalPlan>> {
    let nothing = DFSchema::empty();
    let Values { schema, values: mut rows } = values;
    let mut fields: Vec<_> =
        schema.iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect();
    let mut is_changed = false;
    for (index, (_, field)) in fields.iter_mut().enumerate() {
        let common = field.data_type().clone();
        let added = |value: &Expr| match value {
            Expr::Cast(Cast { expr, field }) if *field.data_type() == common => expr.get_type(&nothing).ok(),
            _ => None,
        };
        let of_column = || rows.iter().filter_map(|row| row.get(index));
        let given: Vec<DataType> = of_column().filter_map(added).filter(|of| !of.is_null()).collect();
        // What the user has cast comes to another type than all that stands below the casts.
        let is_added = given.iter().any(DataType::is_floating)
            && type_union_resolution(&given).is_some_and(|resolved| resolved == common);
        if !is_decimal(&common) || !is_added {
            continue;
        }
        for value in rows.iter_mut().filter_map(|row| row.get_mut(index)) {
            if added(value).is_some_and(|of| of.is_numeric())
                && let Expr::Cast(Cast { expr, .. }) = std::mem::take(value)
            {
                *value = cast(*expr, DataType::Float64);
            }
        }
        *field = Arc::new(Field::new(field.name(), DataType::Float64, field.is_nullable()));
        is_changed = true;
    }
    if !is_changed {
        return Ok(Transformed::no(LogicalPlan::Values(Values { schema, values: rows })));
    }
    let schema = Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?);
    Ok(Transformed::yes(LogicalPlan::Values(Values { schema, values: rows })))
}

/// Puts a projection over those inputs whose decimals meet a binary fraction.
fn of_inputs(union: Union, is_changed_below: bool) -> Result<Transformed<LogicalPlan>> {
    let type_of = |input: &LogicalPlan, index: usize| {
        input.schema().fields().get(index).map(|field| field.data_type().clone())
    };
    let is_double = |index: &usize| {
        let types = || union.inputs.iter().filter_map(|input| type_of(input, *index));
        types().any(|of| of.is_floating()) && types().any(|of| is_decimal(&of))
    };
    let doubles: Vec<usize> = (0..union.schema.fields().len()).filter(is_double).collect();
    if doubles.is_empty() && !is_changed_below {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let mut inputs = Vec::with_capacity(union.inputs.len());
    for input in union.inputs {
        if !doubles.iter().any(|index| type_of(&input, *index).is_some_and(|of| is_decimal(&of))) {
            inputs.push(input);
            continue;
        }
        let schema = Arc::clone(input.schema());
        let columns = schema.iter().enumerate().map(|(index, (table, field))| {
            let column = plan_column(&schema, index);
            match doubles.contains(&index) && is_decimal(field.data_type()) {
                true => cast(column, DataType::Float64).alias_qualified(table.cloned(), field.name()),
                false => column,
            }
        });
        let projection = Projection::try_new(columns.collect(), input)?;
        inputs.push(Arc::new(LogicalPlan::Projection(projection)));
    }
    Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
}
