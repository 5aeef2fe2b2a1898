//! From logical plans to operators and edges.
//!
//! A stream is an operator and, lazily, expressions over it: projections and filters are composed until a sink
//! or an aggregate needs rows, and then become one Calc. So a source reads only what is used, down to the fields
//! of its ROW columns, and views cost nothing. Aggregates are in their own file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::Field as ArrowField;
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, Result, not_impl_err, plan_err};
use datafusion_expr::{Distinct, Expr, ExprSchemable, LogicalPlan, Projection, Values};

use super::aggregates::mentions_window;
use super::catalog::{Catalog, DeclaredTable};
use super::expressions::{convert, data_type};
use super::window_node::{WINDOW_COLUMNS, WINDOW_TIME, WindowNode};
use crate::connectors::{self, Role};
use crate::dialect::Cut;
use crate::functions::clock;
use crate::metadata;
use crate::plan::{
    self, Calc, ChangelogNormalize, DataType, Edge, Field, HashKeys, Leaf, Node, Operator, OperatorKind,
    Plan, Schema, Sink, Source, Table, TypeKind, function,
};

/// An error and, where known, the user's name that it is about.
pub type Refused = (DataFusionError, Option<String>);

/// Collects the operators of all INSERTs.
pub struct StreamBuilder {
    plan: Plan,
    ids: HashMap<String, usize>,
    /// Options of sources that do not have them.
    of_sources: BTreeMap<String, String>,
    /// Columns that are event time of operators which only pass it on.
    times: HashMap<usize, Vec<usize>>,
}

/// Rows of one or several operators (UNION ALL), seen through expressions.
pub(super) struct Stream {
    pub(super) branches: Vec<Branch>,
    pub(super) window: Option<PendingWindow>,
    /// Rows are taken back and changed, and not only added.
    pub(super) is_changing: bool,
    /// The table or view of the user's that the rows are from.
    pub(super) place: String,
}

/// Rows of one operator, seen through expressions.
pub(super) struct Branch {
    pub(super) base: Base,
    pub(super) filter: Option<plan::Expr>,
    /// One expression a visible column, over the base's columns.
    pub(super) columns: Vec<plan::Expr>,
    /// Event time, where a window is pending.
    pub(super) time: Option<plan::Expr>,
}

pub(super) enum Base {
    /// A table's physical columns; the source operator is made when it is known what is read.
    Table(String),
    /// So many rows that the text itself has; the one column is their number, from 0.
    Written(usize),
    Operator(usize),
}

/// A window function whose aggregate has not been seen yet.
pub(super) struct PendingWindow {
    pub(super) kind: &'static str,
    pub(super) table: String,
    pub(super) cut: Cut,
    /// Visible columns that sessions are partitioned by.
    pub(super) partition: Vec<usize>,
}

/// Composes a plan of projections over one table into expressions over its physical columns.
pub fn over_physical_columns(plan: &LogicalPlan, table: &Table) -> Result<Vec<plan::Expr>> {
    match plan {
        LogicalPlan::TableScan(_) => Ok((0..table.given_fields().len()).map(plan::Expr::column).collect()),
        LogicalPlan::Projection(projection) => {
            let below = over_physical_columns(&projection.input, table)?;
            projection.expr.iter().map(|e| convert(e, projection.input.schema(), &below)).collect()
        }
        LogicalPlan::SubqueryAlias(alias) => over_physical_columns(&alias.input, table),
        other => plan_err!("{} is not an expression over columns", other.display()),
    }
}

impl StreamBuilder {
    pub fn new() -> Self {
        StreamBuilder {
            plan: Plan::default(),
            ids: HashMap::new(),
            of_sources: BTreeMap::new(),
            times: HashMap::new(),
        }
    }

    /// True if an operator takes rows back that it has given.
    fn gives_changes(&self, operator: usize) -> bool {
        match &self.plan.operators[operator].kind {
            Some(OperatorKind::GroupAggregate(group)) if !group.aggregates.is_empty() => true,
            Some(OperatorKind::ChangelogNormalize(_)) => true,
            Some(
                OperatorKind::GroupAggregate(_)
                | OperatorKind::LocalGroupAggregate(_)
                | OperatorKind::Calc(_),
            ) => self.plan.inputs(operator).any(|edge| self.gives_changes(edge.from as usize)),
            _ => false,
        }
    }

    /// Gives an option to the sources that are added from now on and do not have it.
    pub fn set_for_sources(&mut self, option: &str, value: String) {
        self.of_sources.insert(option.to_owned(), value);
    }

    /// The plan of all INSERTs, with what they have in common once.
    pub fn finish(self) -> Plan {
        plan::share(&self.plan)
    }

    /// Adds the dataflow of one INSERT; the plan's columns are the sink's. True if rows change that were given before.
    pub fn insert(
        &mut self,
        catalog: &Catalog,
        sink: &DeclaredTable,
        query: LogicalPlan,
    ) -> Result<bool, Refused> {
        let name = sink.table.name.clone();
        let mut conversion = Conversion { builder: self, catalog, sink: name.clone() };
        let stream = conversion.stream(&query)?;
        if let Some(window) = stream.window {
            return Err(without_aggregate(&window));
        }
        if stream.is_changing && !connectors::takes_changes(connector(&sink.table)) {
            return Err(only_appends(&sink.table));
        }
        let schema = Schema { fields: sink.table.given_fields() };
        let changes = stream.is_changing;
        if connectors::uses_key(connector(&sink.table)) {
            return self.insert_by_key(catalog, sink, schema, stream).map(|()| changes);
        }
        for branch in stream.branches {
            let mut conversion = Conversion { builder: self, catalog, sink: name.clone() };
            let columns = branch.columns.clone();
            let above = conversion.calc(branch, columns, schema.clone(), &name)?;
            let kind = OperatorKind::Sink(Sink { table: Some(sink.table.clone()) });
            let index = self.add(&format!("{name}/{name}/sink"), schema.clone(), kind);
            self.connect(above, index, None);
        }
        Ok(changes)
    }

    /// Rows of one key must come to one writer, and in order. What changes comes so from where it is grouped by the key; what is
    /// only added is brought there.
    fn insert_by_key(
        &mut self,
        catalog: &Catalog,
        sink: &DeclaredTable,
        schema: Schema,
        stream: Stream,
    ) -> Result<(), Refused> {
        let name = &sink.table.name;
        let key = sink.table.key_columns();
        if stream.is_changing && !self.is_grouped_by(catalog, &key, &stream.branches) {
            let message = format!(
                "the query changes rows that it has given before, and '{name}' has to find them by its PRIMARY KEY ({}); make \
                 the key the very columns of GROUP BY, or of the PRIMARY KEY that is read, and select those as they are",
                sink.table.primary_key.join(", ")
            );
            return Err((DataFusionError::Plan(message), Some(name.clone())));
        }
        let hash = HashKeys { columns: key.iter().map(|column| *column as u32).collect() };
        let hash = (!stream.is_changing).then_some(hash);
        let mut above = Vec::new();
        for branch in stream.branches {
            let mut conversion = Conversion { builder: self, catalog, sink: name.clone() };
            let columns = branch.columns.clone();
            above.push(conversion.calc(branch, columns, schema.clone(), name)?);
        }
        let kind = OperatorKind::Sink(Sink { table: Some(sink.table.clone()) });
        let index = self.add(&format!("{name}/{name}/sink"), schema, kind);
        for above in above {
            self.connect(above, index, hash.clone());
        }
        Ok(())
    }

    /// True if the columns of a key are the columns that an aggregate groups by, or that the rows of a table are found by, all of
    /// them.
    fn is_grouped_by(&self, catalog: &Catalog, key: &[usize], branches: &[Branch]) -> bool {
        let [branch] = branches else { return false };
        let (fields, mut by) = match &branch.base {
            Base::Operator(base) => match &self.plan.operators[*base].kind {
                Some(OperatorKind::GroupAggregate(aggregate)) => {
                    (aggregate.key_fields.clone(), (0..aggregate.keys.len()).collect::<Vec<_>>())
                }
                _ => return false,
            },
            Base::Table(name) => match catalog.table(name) {
                Some(table) => (table.table.given_fields(), table.table.key_columns()),
                None => return false,
            },
            Base::Written(_) => return false,
        };
        let group = |column: &usize| same_values(&branch.columns[*column], &fields);
        let mut grouped: Vec<_> = key.iter().map(group).collect();
        grouped.sort_unstable();
        grouped.dedup();
        by.sort_unstable();
        grouped == by.into_iter().map(Some).collect::<Vec<_>>()
    }

    pub(super) fn add(&mut self, path: &str, output: Schema, kind: OperatorKind) -> usize {
        let count = self.ids.entry(path.to_owned()).or_insert(0);
        *count += 1;
        let id = if *count == 1 { path.to_owned() } else { format!("{path}/{count}") };
        self.plan.operators.push(Operator { id, output: Some(output), kind: Some(kind), twins: Vec::new() });
        self.plan.operators.len() - 1
    }

    pub(super) fn connect(&mut self, from: usize, to: usize, hash: Option<HashKeys>) {
        self.plan.edges.push(Edge { from: from as u32, to: to as u32, hash, twin: String::new() });
    }
}

pub(super) fn without_aggregate(window: &PendingWindow) -> Refused {
    let name = window.kind.to_uppercase();
    let error = DataFusionError::NotImplemented(format!(
        "{name} without GROUP BY window_start, window_end is not supported yet"
    ));
    (error, Some(window.table.clone()))
}

/// The column whose values an expression gives unchanged: itself, or as a type that holds each of them as another one.
fn same_values(expression: &plan::Expr, fields: &[Field]) -> Option<usize> {
    let Some(Node::Cast(cast)) = &expression.node else { return expression.as_column() };
    let column = cast.expr.as_ref()?.as_column()?;
    let (from, to) = (fields.get(column)?.data_type(), cast.to.as_ref()?);
    let whole = [TypeKind::TinyInt, TypeKind::SmallInt, TypeKind::Int, TypeKind::BigInt];
    let width = |data_type: &DataType| whole.iter().position(|kind| *kind == data_type.kind());
    let is_wider = width(&from).is_some_and(|narrow| width(to).is_some_and(|wide| wide >= narrow));
    (from == *to || is_wider).then_some(column)
}

fn connector(table: &Table) -> &str {
    table.options.get("connector").map_or("", String::as_str)
}

fn only_appends(table: &Table) -> Refused {
    let able: Vec<String> = connectors::names(Some(Role::Sink))
        .into_iter()
        .filter(|name| connectors::takes_changes(name))
        .collect();
    let message = format!(
        "the query changes rows that it has given before, and '{}' can only add rows; group by a window, or write to {}",
        table.name,
        able.join(", ")
    );
    (DataFusionError::Plan(message), Some(table.name.clone()))
}

pub(super) struct Conversion<'a> {
    pub(super) builder: &'a mut StreamBuilder,
    pub(super) catalog: &'a Catalog,
    pub(super) sink: String,
}

impl Conversion<'_> {
    pub(super) fn stream(&mut self, plan: &LogicalPlan) -> Result<Stream, Refused> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let count = scan.source.schema().fields().len();
                let all = 0..count;
                let columns = match &scan.projection {
                    Some(kept) => kept.iter().map(|index| plan::Expr::column(*index)).collect(),
                    None => all.map(plan::Expr::column).collect(),
                };
                let place = scan.table_name.table().to_owned();
                let branch = Branch { base: Base::Table(place.clone()), filter: None, columns, time: None };
                let table = self.catalog.table(&place);
                let is_changing =
                    table.is_some_and(|table| connectors::gives_changes(connector(&table.table)));
                Ok(Stream { branches: vec![branch], window: None, is_changing, place })
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let mut stream = self.stream(&alias.input)?;
                let name = alias.alias.table();
                if self.catalog.names().iter().any(|known| known == name) {
                    stream.place = name.to_owned();
                }
                Ok(stream)
            }
            LogicalPlan::Projection(projection) => {
                let mut stream = self.stream(&projection.input)?;
                let schema = projection.input.schema();
                for branch in &mut stream.branches {
                    branch.columns = convert_all(&projection.expr, schema, &branch.columns)?;
                }
                self.settled(stream, projection)
            }
            LogicalPlan::Filter(filter) => self.filter(&filter.predicate, &filter.input),
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<WindowNode>() {
                Some(node) => self.window(node),
                None => not_impl_err!("{}", extension.node.name()).map_err(bare),
            },
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Union(union) => self.union(&union.inputs),
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Ok(written(1, Vec::new())),
            LogicalPlan::Values(values) => values_of(values),
            other => not_impl_err!("{}", other.display()).map_err(bare),
        }
    }

    /// Makes rows of what has a value of chance in it: who reads it twice must read the same.
    fn settled(&mut self, mut stream: Stream, projection: &Projection) -> Result<Stream, Refused> {
        let chance =
            |branch: &Branch| branch.columns.iter().find_map(plan::Expr::chance).map(str::to_uppercase);
        let Some(name) = stream.branches.iter().find_map(chance) else { return Ok(stream) };
        if stream.window.is_some() {
            let message = format!("{name} between a window function and its GROUP BY is not supported yet");
            return Err((DataFusionError::NotImplemented(message), Some(name)));
        }
        let schema = projection.input.schema();
        let fields = projection.expr.iter().map(|expression| field_of(expression, schema));
        let schema = Schema { fields: fields.collect::<Result<_, _>>()? };
        let mut branches = Vec::with_capacity(stream.branches.len());
        for mut branch in stream.branches {
            let columns = std::mem::take(&mut branch.columns);
            let is_time = |(_, column): &(usize, &plan::Expr)| self.is_event_time(&branch.base, column);
            let times: Vec<usize> =
                columns.iter().enumerate().filter(is_time).map(|(index, _)| index).collect();
            let operator = self.calc(branch, columns, schema.clone(), &stream.place)?;
            self.builder.times.insert(operator, times);
            let columns = (0..schema.fields.len()).map(plan::Expr::column).collect();
            branches.push(Branch { base: Base::Operator(operator), filter: None, columns, time: None });
        }
        stream.branches = branches;
        Ok(stream)
    }

    fn filter(&mut self, predicate: &Expr, input: &LogicalPlan) -> Result<Stream, Refused> {
        let mut stream = self.stream(input)?;
        for branch in &mut stream.branches {
            let condition = convert(predicate, input.schema(), &branch.columns).map_err(bare)?;
            if stream.window.is_some() && mentions_window(&condition) {
                return not_impl_err!("a condition on a window's bounds before GROUP BY").map_err(bare);
            }
            branch.filter = Some(match branch.filter.take() {
                Some(first) => plan::Expr::call(function::AND, vec![first, condition]),
                None => condition,
            });
        }
        Ok(stream)
    }

    /// Rows of all inputs, each on its own way to whatever needs them.
    fn union(&mut self, inputs: &[Arc<LogicalPlan>]) -> Result<Stream, Refused> {
        let mut all: Option<Stream> = None;
        for input in inputs {
            let stream = self.stream(input)?;
            if let Some(window) = &stream.window {
                return Err(without_aggregate(window));
            }
            match &mut all {
                None => all = Some(stream),
                Some(all) => {
                    all.branches.extend(stream.branches);
                    all.is_changing |= stream.is_changing;
                }
            }
        }
        all.ok_or_else(|| bare(DataFusionError::Plan("a union of nothing".to_owned())))
    }

    fn window(&mut self, node: &WindowNode) -> Result<Stream, Refused> {
        let mut stream = self.stream(&node.input)?;
        if stream.window.is_some() {
            return not_impl_err!("a window over a window without GROUP BY").map_err(bare);
        }
        let name = node.input.schema().field(node.time).name().clone();
        for branch in &mut stream.branches {
            let time = branch.columns[node.time].clone();
            if !self.is_event_time(&branch.base, &time) {
                let message = format!(
                    "'{name}' is not an event-time column of '{}': no WATERMARK is declared on it",
                    node.table
                );
                return Err((DataFusionError::Plan(message), Some(name)));
            }
            branch.columns.extend(WINDOW_COLUMNS.map(|name| plan::Expr::call(name, Vec::new())));
            branch.time = Some(time);
        }
        if stream.is_changing {
            let message = format!("a window over '{}', whose rows change, is not supported yet", node.table);
            return Err((DataFusionError::NotImplemented(message), Some(node.table.clone())));
        }
        let WindowNode { kind, table, cut, partition, .. } = node.clone();
        stream.window = Some(PendingWindow { kind, table, cut, partition });
        Ok(stream)
    }

    fn is_event_time(&self, base: &Base, expression: &plan::Expr) -> bool {
        match base {
            Base::Table(name) => {
                let event_time = self.catalog.table(name).and_then(|table| table.event_time.as_ref());
                event_time.is_some_and(|event_time| event_time.column == *expression)
            }
            Base::Written(_) => false,
            // A window's rows are as late as its last millisecond, and the watermark follows them.
            Base::Operator(index) if self.builder.times.contains_key(index) => {
                expression.as_column().is_some_and(|column| self.builder.times[index].contains(&column))
            }
            Base::Operator(index) => {
                let keys = match &self.builder.plan.operators[*index].kind {
                    Some(OperatorKind::WindowAggregate(window)) => Some(window.key_fields.len()),
                    Some(OperatorKind::SessionAggregate(session)) => Some(session.key_fields.len()),
                    _ => None,
                };
                keys.is_some_and(|keys| expression.as_column() == Some(keys + WINDOW_TIME))
            }
        }
    }

    /// Makes rows of a stream: the source if there is none yet, then one Calc unless it would change nothing.
    pub(super) fn calc(
        &mut self,
        branch: Branch,
        mut output: Vec<plan::Expr>,
        schema: Schema,
        place: &str,
    ) -> Result<usize, Refused> {
        let mut filter = branch.filter;
        let base = match branch.base {
            Base::Operator(index) => index,
            Base::Table(name) => self.source(&name, filter.iter_mut().chain(&mut output))?,
            Base::Written(rows) => self.written(rows),
        };
        self.check_clocks(base, filter.iter().chain(&output))?;
        let width = self.builder.plan.operators[base].output.as_ref().map_or(0, |schema| schema.fields.len());
        let is_same =
            output.iter().enumerate().all(|(index, expression)| expression.as_column() == Some(index));
        if filter.is_none() && is_same && output.len() == width {
            return Ok(base);
        }
        let kind = OperatorKind::Calc(Calc { filter, output });
        let index = self.builder.add(&format!("{}/{place}/calc", self.sink), schema, kind);
        self.builder.connect(base, index, None);
        Ok(index)
    }

    /// A row that is taken back must be the one that was given: at another time, or by chance, it would be another one.
    fn check_clocks<'e>(
        &self,
        base: usize,
        mut all: impl Iterator<Item = &'e plan::Expr>,
    ) -> Result<(), Refused> {
        let asked = |expression: &'e plan::Expr| expression.clock().or_else(|| expression.chance());
        let Some(name) = all.find_map(asked).filter(|_| self.builder.gives_changes(base)) else {
            return Ok(());
        };
        let name = clock::shown(name);
        let message = format!("{name} over rows that change is not supported yet");
        Err((DataFusionError::NotImplemented(message), Some(name)))
    }

    /// Adds the source of rows that the text itself has.
    fn written(&mut self, rows: usize) -> usize {
        let number = Field { nullable: false, ..Field::new(NUMBER, DataType::simple(TypeKind::BigInt)) };
        let options = [
            ("connector", "datagen".to_owned()),
            ("splits", "1".to_owned()),
            ("fields.n.kind", "sequence".to_owned()),
            ("fields.n.start", "0".to_owned()),
            ("fields.n.end", (rows - 1).to_string()),
        ];
        let schema = Schema { fields: vec![number.clone()] };
        let table = Table {
            name: WRITTEN.to_owned(),
            schema: Some(schema.clone()),
            options: options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Table::default()
        };
        let path = vec![number.name.clone()];
        let leaf = Leaf { path, data_type: number.data_type, nullable: false, metadata: String::new() };
        let kind = OperatorKind::Source(Source { table: Some(table), leaves: vec![leaf], watermark: None });
        self.builder.add(&format!("{}/{WRITTEN}/source", self.sink), schema, kind)
    }

    /// Adds the source of a table that delivers just what the expressions need, and points them to it.
    fn source<'e>(
        &mut self,
        name: &str,
        expressions: impl Iterator<Item = &'e mut plan::Expr>,
    ) -> Result<usize, Refused> {
        let Some(table) = self.catalog.table(name) else {
            return plan_err!("there is no table '{name}'").map_err(bare);
        };
        let mut watermark = table.event_time.as_ref().map(|event_time| event_time.watermark.clone());
        let mut leaves = Leaves { table: &table.table, leaves: Vec::new(), paths: HashMap::new() };
        let changes = connectors::gives_changes(connector(&table.table));
        if changes {
            // What rows are found by, and so the first columns.
            for column in table.table.key_columns() {
                leaves.leaf(column, Vec::new()).map_err(bare)?;
            }
        }
        for expression in expressions {
            leaves.replace(expression).map_err(bare)?;
        }
        watermark.iter_mut().try_for_each(|watermark| leaves.replace(watermark)).map_err(bare)?;
        let mut leaves = leaves.leaves;
        if changes {
            // A record that takes a row away has nothing but the key.
            leaves.iter_mut().for_each(|leaf| leaf.nullable = true);
            leaves.push(is_removed());
        }
        let fields = leaves.iter().map(|leaf| Field {
            name: leaf.path.join("."),
            data_type: leaf.data_type.clone(),
            nullable: leaf.nullable,
        });
        let schema = Schema { fields: fields.collect() };
        let mut table = table.table.clone();
        table.options = connectors::of_role(&table.options, Role::Source);
        for (option, value) in &self.builder.of_sources {
            table.options.entry(option.clone()).or_insert_with(|| value.clone());
        }
        let keys: Vec<u32> = (0..table.primary_key.len() as u32).collect();
        let mut fields = schema.fields.clone();
        let kind = OperatorKind::Source(Source { table: Some(table), leaves, watermark });
        let source = self.builder.add(&format!("{}/{name}/source", self.sink), schema, kind);
        if !changes {
            return Ok(source);
        }
        fields.pop();
        let normalize = ChangelogNormalize { keys: keys.clone(), fields };
        let output = normalize.output_schema();
        let kind = OperatorKind::ChangelogNormalize(normalize);
        let index = self.builder.add(&format!("{}/{name}/normalize", self.sink), output, kind);
        self.builder.connect(source, index, Some(HashKeys { columns: keys }));
        Ok(index)
    }
}

/// Whether a record takes the row of its key away.
fn is_removed() -> Leaf {
    Leaf {
        path: vec![format!("${}", metadata::IS_REMOVED)],
        data_type: Some(DataType::simple(TypeKind::Boolean)),
        nullable: false,
        metadata: metadata::IS_REMOVED.to_owned(),
    }
}

/// What stands for the table of rows that the text itself has, and its column.
const WRITTEN: &str = "values";
const NUMBER: &str = "n";

/// Rows that the text itself has, whose columns are expressions over their number.
fn written(rows: usize, columns: Vec<plan::Expr>) -> Stream {
    let branch = Branch { base: Base::Written(rows), filter: None, columns, time: None };
    Stream { branches: vec![branch], window: None, is_changing: false, place: WRITTEN.to_owned() }
}

/// The rows of VALUES: each column chooses by the row's number.
fn values_of(values: &Values) -> Result<Stream, Refused> {
    let nothing = Arc::new(DFSchema::empty());
    let rows = values.values.iter().map(|row| convert_all(row, &nothing, &[]));
    let rows: Vec<Vec<plan::Expr>> = rows.collect::<Result<_, _>>()?;
    let column = |(index, field): (usize, &Arc<ArrowField>)| -> Result<plan::Expr, Refused> {
        let to = data_type(field.data_type()).map_err(bare)?;
        let value = |row: &Vec<plan::Expr>| {
            row.get(index).map(|value| plan::Expr::cast(value.clone(), to.clone(), false))
        };
        let branches = rows.iter().enumerate().map(|(number, row)| plan::Branch {
            when: Some(plan::Expr::literal(
                DataType::simple(TypeKind::BigInt),
                Some(plan::Value::Integer(number as i64)),
            )),
            then: value(row),
        });
        Ok(plan::Expr {
            node: Some(Node::Case(Box::new(plan::Case {
                operand: Some(Box::new(plan::Expr::column(0))),
                branches: branches.collect(),
                otherwise: None,
            }))),
        })
    };
    let columns = values.schema.fields().iter().enumerate().map(column).collect::<Result<_, _>>()?;
    Ok(written(rows.len(), columns))
}

/// The leaves of a table that expressions use.
struct Leaves<'a> {
    table: &'a Table,
    leaves: Vec<Leaf>,
    paths: HashMap<Vec<String>, usize>,
}

impl Leaves<'_> {
    /// Replaces columns and chains of field accesses by leaves, adding those that are new.
    fn replace(&mut self, expression: &mut plan::Expr) -> Result<()> {
        if let Some((column, path)) = expression.as_path() {
            *expression = plan::Expr::column(self.leaf(column, path)?);
            return Ok(());
        }
        expression.children_mut().into_iter().try_for_each(|child| self.replace(child))
    }

    fn leaf(&mut self, column: usize, inner: Vec<String>) -> Result<usize> {
        let Some(mut field) = self.table.given_fields().get(column).cloned() else {
            return plan_err!("the table '{}' has no column {column}", self.table.name);
        };
        let physical = self.table.schema.as_ref().map_or(0, |schema| schema.fields.len());
        let metadata = column.checked_sub(physical).and_then(|index| self.table.metadata.get(index));
        let metadata = metadata.map(|column| column.key.clone()).unwrap_or_default();
        let mut path = vec![field.name.clone()];
        let mut nullable = field.nullable;
        for name in inner {
            let row = field.data_type();
            let Some(found) = row.fields.iter().find(|field| field.name == name) else {
                return plan_err!("'{}' has no field '{name}'", path.join("."));
            };
            field = found.clone();
            nullable |= field.nullable;
            path.push(name);
        }
        if let Some(known) = self.paths.get(&path) {
            return Ok(*known);
        }
        self.paths.insert(path.clone(), self.leaves.len());
        self.leaves.push(Leaf { path, data_type: field.data_type, nullable, metadata });
        Ok(self.leaves.len() - 1)
    }
}

pub(super) fn convert_all(
    expressions: &[Expr],
    schema: &DFSchemaRef,
    columns: &[plan::Expr],
) -> Result<Vec<plan::Expr>, Refused> {
    expressions
        .iter()
        .map(|expression| convert(expression, schema, columns))
        .collect::<Result<_>>()
        .map_err(bare)
}

pub(super) fn field_of(expression: &Expr, schema: &DFSchemaRef) -> Result<Field, Refused> {
    let (_, field) = expression.to_field(schema).map_err(bare)?;
    let data_type = data_type(field.data_type()).map_err(bare)?;
    Ok(Field { name: field.name().clone(), data_type: Some(data_type), nullable: field.is_nullable() })
}

pub(super) fn bare(error: DataFusionError) -> Refused {
    (error, None)
}
