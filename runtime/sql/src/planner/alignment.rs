//! Which columns of a query go to which of a sink, and whether their types fit.

use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::analysis::{analyse, plan_column};
use super::catalog::DeclaredTable;
use super::expressions;
use super::mistakes::{Compiled, at, find_name, from_planner, placed};
use super::special_forms::UNNAMED;
use super::zones::Zone;
use crate::diagnostic::Diagnostic;
use crate::dialect::{Insert, Name};
use crate::functions::CastTo;
use crate::metadata;
use crate::plan::{self, DataType, TypeKind};
use crate::similar::closest;

/// Projects a query to exactly the sink's columns and types.
///
/// # Errors
/// Columns that the sink does not have, too many or too few, and types that do not fit.
pub fn to_sink(
    insert: &Insert,
    sink: &DeclaredTable,
    query: LogicalPlan,
    zone: &Zone,
) -> Compiled<LogicalPlan> {
    let connector = sink.table.options.get("connector").map_or("", String::as_str);
    if let Some((name, key)) = sink.table.metadata.iter().find_map(|column| {
        let is_written = metadata::is_written(connector, &column.key);
        (!is_written).then(|| Some((&column.field.as_ref()?.name, &column.key)))?
    }) {
        let message = format!(
            "the METADATA column '{name}' of '{}' cannot be written: '{key}' is only read",
            sink.table.name
        );
        return Err(vec![at(insert.table.span, message).hint("declare it VIRTUAL")]);
    }
    let written = sink.written_fields();
    let targets = sink_columns(insert, sink, &written)?;
    let given = query.schema().fields().len();
    if given != targets.len() {
        let message = format!(
            "the query has {given} columns, and {} of '{}' are to be written",
            targets.len(),
            sink.table.name
        );
        let names: Vec<_> =
            targets.iter().map(|field| format!("{} {}", field.name, field.data_type())).collect();
        return Err(vec![at(insert.table.span, message).hint(format!("they are: {}", names.join(", ")))]);
    }
    let mut columns = Vec::new();
    for field in &sink.table.given_fields() {
        let is_metadata = sink.table.metadata.iter().any(|column| column.field.as_ref() == Some(field));
        let Some(position) = targets.iter().position(|target| target.name == field.name) else {
            if !field.nullable && !is_metadata {
                let message = format!(
                    "the column '{}' of '{}' is NOT NULL and not written",
                    field.name, sink.table.name
                );
                return Err(vec![at(insert.table.span, message).hint("add it to the query")]);
            }
            let null = datafusion_common::ScalarValue::try_from(&field.data_type().to_arrow());
            let null = null.map_err(|error| vec![placed(&error, insert.table.span)])?;
            columns.push(Expr::Literal(null, None).alias(&field.name));
            continue;
        };
        check_type(insert, field, &query, position)?;
        let column = plan_column(query.schema(), position);
        columns.push(datafusion_expr::cast(column, field.data_type().to_arrow()).alias(&field.name));
    }
    LogicalPlanBuilder::from(query)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .and_then(|plan| analyse(plan, zone))
        .map_err(|error| vec![from_planner(&error, &insert.query.tokens)])
}

/// Which sink column each query column goes to.
fn sink_columns<'a>(
    insert: &Insert,
    sink: &DeclaredTable,
    written: &'a [plan::Field],
) -> Compiled<Vec<&'a plan::Field>> {
    let fields = written.iter();
    let Some(names) = &insert.columns else { return Ok(fields.collect()) };
    let known: Vec<String> = fields.clone().map(|field| field.name.clone()).collect();
    let find = |name: &Name| {
        fields.clone().find(|field| field.name == name.text).ok_or_else(|| {
            let mistake = at(
                name.span,
                format!("the table '{}' has no column '{}' to write", sink.table.name, name.text),
            );
            match closest(&name.text, &known) {
                Some(similar) => mistake.hint(format!("did you mean `{similar}`?")),
                None => mistake.hint(format!("its columns are: {}", known.join(", "))),
            }
        })
    };
    for (index, name) in names.iter().enumerate() {
        if names[..index].iter().any(|before| before.text == name.text) {
            let message = format!("the column '{}' of '{}' is written twice", name.text, sink.table.name);
            return Err(vec![at(name.span, message).hint("name each column once")]);
        }
    }
    names.iter().map(|name| find(name).map_err(|mistake| vec![mistake])).collect()
}

fn check_type(insert: &Insert, field: &plan::Field, query: &LogicalPlan, position: usize) -> Compiled<()> {
    let from_field = query.schema().field(position);
    let from = expressions::data_type(from_field.data_type())
        .map_err(|error| vec![from_planner(&error, &insert.query.tokens)])?;
    let to = field.data_type();
    if is_implicit(&from, &to) {
        return Ok(());
    }
    let name = from_field.name();
    let span = find_name(&insert.query.tokens, name);
    let message =
        format!("the column '{}' of '{}' is {to}, the query gives {from}", field.name, insert.table.text);
    let mistake = match span {
        Some((line, column, length)) => Diagnostic::at(line, column, length, message),
        None => at(insert.table.span, message),
    };
    if let Some(cure) = CastTo::cure(from_field.data_type(), &to.to_arrow()) {
        return Err(vec![mistake.hint(cure)]);
    }
    Err(vec![match name.starts_with(UNNAMED) {
        true => mistake.hint(format!("write CAST(… AS {to}) around column {} of the query", position + 1)),
        false => mistake.hint(format!("write CAST({name} AS {to})")),
    }])
}

/// What is converted without being asked: to a type that holds the same values, or the same family.
fn is_implicit(from: &DataType, to: &DataType) -> bool {
    use TypeKind::{
        Array, BigInt, Date, Decimal, Double, Float, Int, Map, Null, Row, SmallInt, Timestamp, TimestampLtz,
        TinyInt,
    };
    let rank =
        |kind| [TinyInt, SmallInt, Int, BigInt, Decimal, Float, Double].iter().position(|k| *k == kind);
    match (from.kind(), to.kind()) {
        (Null, _) => true,
        (Row, Row) | (Array, Array) | (Map, Map) => {
            from.fields.len() == to.fields.len()
                && from
                    .fields
                    .iter()
                    .zip(&to.fields)
                    .all(|(from, to)| is_implicit(&from.data_type(), &to.data_type()))
        }
        (a, b) if a == b => true,
        (Date, Timestamp | TimestampLtz) | (Timestamp, TimestampLtz) | (TimestampLtz, Timestamp) => true,
        (a, b) => matches!((rank(a), rank(b)), (Some(a), Some(b)) if a <= b),
    }
}
