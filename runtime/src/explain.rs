//! A plan for a reader: operators with their ids, what they do, what they keep, and how rows get from one to the next. Pure.

use std::fmt::Write as _;

use millrace_sql::plan::{AggregateFunction, Expr, Node, Operator, OperatorKind, Plan, Schema, Table, text};
use serde::Serialize;

use crate::topology::Topology;

/// A job's dataflow.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub operators: Vec<ExplainedOperator>,
    pub edges: Vec<ExplainedEdge>,
}

/// One operator.
#[derive(Debug, Serialize)]
pub struct ExplainedOperator {
    /// Stable: state, files and transactions are named by it.
    pub id: String,
    /// What kind of operator it is.
    pub kind: &'static str,
    /// Operators of one chain run fused, in one task per slot.
    pub chain: usize,
    /// What it does, a line each.
    pub does: Vec<String>,
    /// Columns that come out, or go into a sink.
    pub columns: Vec<ExplainedColumn>,
    /// Names of its state tables; empty: it keeps nothing.
    pub state: Vec<String>,
    /// `append` or `changelog`: whether rows are only added, or also taken back.
    pub mode: &'static str,
}

/// A column.
#[derive(Debug, Serialize)]
pub struct ExplainedColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
}

/// How rows get from one operator to another.
#[derive(Debug, Serialize)]
pub struct ExplainedEdge {
    pub from: String,
    pub to: String,
    /// `forward`: to the subtask of the same number. `hash`: to the one that owns the key. `single`: to one subtask.
    pub partitioning: &'static str,
    /// Columns of the key.
    pub keys: Vec<String>,
}

/// Explains a plan.
pub fn explain(plan: &Plan) -> Explained {
    // As it begins: all sources of a table stand at the same place.
    let topology = Topology::of(plan, 1).reading_once(plan, |_| ());
    let chain_of = |operator: usize| topology.chains.iter().position(|chain| chain.contains(&operator));
    let mut changes = Vec::new();
    for (index, operator) in plan.operators.iter().enumerate() {
        let from_above = plan.inputs(index).any(|edge| changes.get(edge.from as usize) == Some(&true));
        changes.push(match &operator.kind {
            Some(OperatorKind::GroupAggregate(aggregate)) => from_above || !aggregate.aggregates.is_empty(),
            Some(OperatorKind::ChangelogNormalize(_)) => true,
            _ => from_above,
        });
    }
    let operators = plan.operators.iter().enumerate().map(|(index, operator)| ExplainedOperator {
        id: operator.id.clone(),
        kind: kind(operator),
        chain: chain_of(index).unwrap_or_default(),
        does: does(plan, index).into_iter().chain(read_with(&topology, plan, index)).collect(),
        columns: columns(operator.output.as_ref()),
        state: state(operator),
        mode: if changes[index] { "changelog" } else { "append" },
    });
    let edges = plan.edges.iter().map(|edge| {
        let from = &plan.operators[edge.from as usize];
        let keys = edge.hash.iter().flat_map(|hash| &hash.columns);
        let keys: Vec<String> = keys.map(|column| name(from.output.as_ref(), *column)).collect();
        let partitioning = match &edge.hash {
            None => "forward",
            Some(_) if keys.is_empty() => "single",
            Some(_) => "hash",
        };
        let to = plan.operators[edge.to as usize].id.clone();
        ExplainedEdge { from: from.id.clone(), to, partitioning, keys }
    });
    Explained { operators: operators.collect(), edges: edges.collect() }
}

/// Says of a source that another one reads its rows, too.
fn read_with(topology: &Topology, plan: &Plan, index: usize) -> Option<String> {
    let chain = topology.chains.iter().position(|chain| chain.first() == Some(&index))?;
    let with = topology.run_by(chain)?;
    let id = &plan.operators[*topology.chains[with].first()?].id;
    Some(format!("read together with '{id}', while both are at the same place"))
}

fn columns(schema: Option<&Schema>) -> Vec<ExplainedColumn> {
    let fields = schema.map_or(&[][..], |schema| &schema.fields).iter();
    let column = |name: String, data_type: String| ExplainedColumn { name, data_type };
    fields.map(|field| column(field.name.clone(), field.data_type().to_string())).collect()
}

fn names(schema: Option<&Schema>) -> Vec<String> {
    schema.map_or(&[][..], |schema| &schema.fields).iter().map(|field| field.name.clone()).collect()
}

fn name(schema: Option<&Schema>, column: u32) -> String {
    names(schema).get(column as usize).cloned().unwrap_or_else(|| format!("column {column}"))
}

fn kind(operator: &Operator) -> &'static str {
    match &operator.kind {
        None => "Unknown",
        Some(OperatorKind::Source(_)) => "Source",
        Some(OperatorKind::Calc(_)) => "Calc",
        Some(OperatorKind::LocalAggregate(_)) => "LocalWindowAggregate",
        Some(OperatorKind::WindowAggregate(_)) => "WindowAggregate",
        Some(OperatorKind::SessionAggregate(_)) => "SessionAggregate",
        Some(OperatorKind::GroupAggregate(_)) => "GroupAggregate",
        Some(OperatorKind::LocalGroupAggregate(_)) => "LocalGroupAggregate",
        Some(OperatorKind::ChangelogNormalize(_)) => "ChangelogNormalize",
        Some(OperatorKind::Sink(_)) => "Sink",
    }
}

/// Names of the state tables, as they are in checkpoints.
fn state(operator: &Operator) -> Vec<String> {
    match &operator.kind {
        Some(OperatorKind::Source(_)) => vec!["splits".to_owned()],
        Some(OperatorKind::WindowAggregate(window)) => {
            let distinct = (0..window.distinct_fields.len()).map(|number| format!("distinct{number}"));
            std::iter::once("slices".to_owned()).chain(distinct).collect()
        }
        Some(OperatorKind::SessionAggregate(_)) => vec!["sessions".to_owned()],
        Some(OperatorKind::ChangelogNormalize(_)) => vec!["rows".to_owned()],
        Some(OperatorKind::GroupAggregate(group)) => {
            let has_distinct = group.aggregates.iter().any(|aggregate| aggregate.is_distinct);
            let distinct = has_distinct.then(|| "distinct".to_owned());
            let keeps_values = group
                .aggregates
                .iter()
                .any(|aggregate| aggregate.is_changing && aggregate.function() != AggregateFunction::ListAgg);
            let values = keeps_values.then(|| "values".to_owned());
            std::iter::once("groups".to_owned()).chain(distinct).chain(values).collect()
        }
        _ => Vec::new(),
    }
}

fn table(table: Option<&Table>) -> String {
    let Some(table) = table else { return "no table".to_owned() };
    let connector = table.options.get("connector").map_or("", String::as_str);
    let key = match table.primary_key.as_slice() {
        [] => String::new(),
        key => format!(", PRIMARY KEY ({})", key.join(", ")),
    };
    format!("table {} ({connector}{key})", table.name)
}

fn does(plan: &Plan, index: usize) -> Vec<String> {
    let operator = &plan.operators[index];
    let above = |index: usize| plan.inputs(index).next().map(|edge| edge.from as usize);
    let input = |index: Option<usize>| names(index.and_then(|above| plan.operators[above].output.as_ref()));
    let given = names(operator.output.as_ref());
    let per = |keys: Vec<String>| match keys.is_empty() {
        true => "over all rows".to_owned(),
        false => format!("per {}", keys.join(", ")),
    };
    let key_names =
        |fields: &[millrace_sql::plan::Field]| fields.iter().map(|field| field.name.clone()).collect();
    let calls = |aggregates: &[millrace_sql::plan::Aggregate], names: &[String]| {
        aggregates.iter().map(|call| text::aggregate(call, names)).collect::<Vec<_>>().join(", ")
    };
    match &operator.kind {
        None => vec!["an operator of a newer release".to_owned()],
        Some(OperatorKind::Source(source)) => {
            let mut lines = vec![format!("reads {}", table(source.table.as_ref()))];
            if let Some(watermark) = &source.watermark {
                lines.push(format!("watermark {}", text::expression(watermark, &given)));
            }
            lines
        }
        Some(OperatorKind::Calc(calc)) => {
            let names = input(above(index));
            let filter =
                calc.filter.iter().map(|filter| format!("where {}", text::expression(filter, &names)));
            let read = above(index).and_then(|above| plan.operators[above].output.as_ref());
            let values = calc.output.iter().zip(&given).map(|(value, name)| {
                let value = text::expression(without_needless_cast(value, read), &names);
                if value == *name { value } else { format!("{value} AS {name}") }
            });
            let gives = format!("gives {}", values.collect::<Vec<_>>().join(", "));
            filter.chain([gives]).collect()
        }
        Some(OperatorKind::LocalAggregate(aggregate)) => {
            let slice = aggregate.window.as_ref().map(|window| text::duration(window.slice_ms()));
            vec![
                format!(
                    "{}, in slices of {}",
                    per(key_names(&aggregate.key_fields)),
                    slice.unwrap_or_default()
                ),
                format!("partly {}", calls(&aggregate.aggregates, &input(above(index)))),
            ]
        }
        Some(OperatorKind::WindowAggregate(aggregate)) => {
            // Its aggregates name the columns of what its local half reads, or the distinct ones beside them.
            let of_rows = input(above(index).and_then(above));
            let distinct: Vec<String> = key_names(&aggregate.distinct_fields);
            let call = |call: &millrace_sql::plan::Aggregate| {
                text::aggregate(call, if call.is_distinct { &distinct } else { &of_rows })
            };
            let window = aggregate.window.as_ref().map(text::window).unwrap_or_default();
            vec![
                format!("{} {window}", per(key_names(&aggregate.key_fields))),
                aggregate.aggregates.iter().map(call).collect::<Vec<_>>().join(", "),
            ]
        }
        Some(OperatorKind::SessionAggregate(aggregate)) => vec![
            format!(
                "{} SESSION(gap {})",
                per(key_names(&aggregate.key_fields)),
                text::duration(aggregate.gap_ms)
            ),
            calls(&aggregate.aggregates, &input(above(index))),
        ],
        Some(OperatorKind::GroupAggregate(aggregate)) => {
            let keys = per(key_names(&aggregate.key_fields));
            match aggregate.aggregates.as_slice() {
                [] => vec![format!("the distinct rows, {keys}")],
                aggregates if aggregate.takes_states => {
                    vec![keys, calls(aggregates, &input(above(index).and_then(above)))]
                }
                aggregates => vec![keys, calls(aggregates, &input(above(index)))],
            }
        }
        Some(OperatorKind::LocalGroupAggregate(aggregate)) => {
            let keys = per(key_names(&aggregate.key_fields));
            match aggregate.aggregates.as_slice() {
                [] => vec![format!("the distinct rows of some, {keys}")],
                aggregates => vec![keys, format!("partly {}", calls(aggregates, &input(above(index))))],
            }
        }
        Some(OperatorKind::ChangelogNormalize(normalize)) => {
            let keys = normalize.keys.iter().map(|key| name(operator.output.as_ref(), *key));
            vec![format!("keeps the newest row {}", per(keys.collect()))]
        }
        Some(OperatorKind::Sink(sink)) => vec![format!("writes {}", table(sink.table.as_ref()))],
    }
}

/// A column that is cast to the type that it has is the column.
fn without_needless_cast<'a>(value: &'a Expr, schema: Option<&Schema>) -> &'a Expr {
    let Some(Node::Cast(cast)) = &value.node else { return value };
    let (Some(inner), Some(schema)) = (cast.expr.as_deref(), schema) else { return value };
    let field = inner.as_column().and_then(|column| schema.fields.get(column));
    let is_needless = field.is_some_and(|field| Some(field.data_type()) == cast.to);
    if is_needless { inner } else { value }
}

impl Explained {
    /// Chains with their operators, for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let chains = self.operators.iter().map(|operator| operator.chain).max().map_or(0, |last| last + 1);
        for chain in 0..chains {
            let of_chain = || self.operators.iter().filter(move |operator| operator.chain == chain);
            let Some(first) = of_chain().next() else { continue };
            let inputs = self.edges.iter().filter(|edge| edge.to == first.id);
            let inputs: Vec<String> =
                inputs.map(|edge| format!("{} from {}", way(edge), edge.from)).collect();
            let inputs = if inputs.is_empty() { String::new() } else { format!(": {}", inputs.join("; ")) };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "chain {}{inputs}", chain + 1);
            for operator in of_chain() {
                let changes = if operator.mode == "changelog" { ", gives changes" } else { "" };
                let state = match operator.state.as_slice() {
                    [] => String::new(),
                    tables => format!(", keeps {}", tables.join(", ")),
                };
                let _ = writeln!(text, "  {}  [{}{state}{changes}]", operator.id, operator.kind);
                for line in &operator.does {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        text
    }

    /// A graph in the language of Graphviz.
    pub fn to_dot(&self) -> String {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut text = "digraph job {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
        for operator in &self.operators {
            let lines: Vec<&str> =
                [operator.id.as_str()].into_iter().chain(operator.does.iter().map(String::as_str)).collect();
            let label = quote(&lines.join("\n")).replace('\n', "\\n");
            let _ = writeln!(text, "  {} [label={label}];", quote(&operator.id));
        }
        for edge in &self.edges {
            let (from, to) = (quote(&edge.from), quote(&edge.to));
            let _ = writeln!(text, "  {from} -> {to} [label={}];", quote(&way(edge)));
        }
        text + "}\n"
    }
}

fn way(edge: &ExplainedEdge) -> String {
    match edge.keys.is_empty() {
        true => edge.partitioning.to_owned(),
        false => format!("{} by {}", edge.partitioning, edge.keys.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_of_a_key_are_named_among_its_state_where_they_are_kept() {
        let state = |sql: &str| {
            let plan = millrace_sql::compile(&format!(
                "CREATE TABLE t (k BIGINT, x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/t', 'format' = 'json');
                 CREATE TABLE o (n BIGINT) WITH ('connector' = 'blackhole');
                 INSERT INTO o {sql};"
            ));
            let operators = explain(&plan.unwrap()).operators;
            operators.into_iter().rfind(|operator| operator.kind == "GroupAggregate").unwrap().state
        };
        assert_eq!(state("SELECT MAX(x) FROM t"), ["groups"]);
        assert_eq!(
            state("SELECT MAX(n) FROM (SELECT k, COUNT(*) AS n FROM t GROUP BY k) AS c"),
            ["groups", "values"]
        );
    }
}
