//! Aggregates: over windows, over sessions, and running ones.

use datafusion_common::{Column, DFSchemaRef, DataFusionError, Result, ScalarValue, not_impl_err, plan_err};
use datafusion_expr::expr::AggregateFunction as AggregateCall;
use datafusion_expr::{Aggregate as AggregateNode, Expr, ExprSchemable, LogicalPlan};

use super::expressions::{convert, data_type};
use super::streams::{
    Base, Branch, Conversion, PendingWindow, Refused, Stream, bare, convert_all, field_of, without_aggregate,
};
use super::window_node::WINDOW_COLUMNS;
use crate::dialect::Cut;
use crate::functions::aggregates;
use crate::plan::{
    self, Aggregate, AggregateFunction, DataType, Field, GroupAggregate, HashKeys, Node, OperatorKind,
    Schema, SessionAggregate, TypeKind, Window, WindowAggregate,
};

impl Conversion<'_> {
    pub(super) fn aggregate(&mut self, node: &AggregateNode) -> Result<Stream, Refused> {
        let mut stream = self.stream(&node.input)?;
        match stream.window.take() {
            Some(window) => self.window_aggregate(node, stream, &window),
            None => self.group_aggregate(&node.input, &node.group_expr, &node.aggr_expr, stream),
        }
    }

    /// Every distinct row is a group without aggregates.
    pub(super) fn distinct(&mut self, input: &LogicalPlan) -> Result<Stream, Refused> {
        let stream = self.stream(input)?;
        if let Some(window) = &stream.window {
            return Err(without_aggregate(window));
        }
        let columns =
            input.schema().iter().map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))));
        let columns: Vec<Expr> = columns.collect();
        self.group_aggregate(input, &columns, &[], stream)
    }

    fn group_aggregate(
        &mut self,
        input: &LogicalPlan,
        groups: &[Expr],
        calls: &[Expr],
        stream: Stream,
    ) -> Result<Stream, Refused> {
        let schema = input.schema();
        let is_single = stream.branches.len() == 1;
        let (mut above, mut aggregate) = (Vec::new(), GroupAggregate::default());
        for branch in stream.branches {
            let mut rows = AggregateRows::new(None, is_single);
            for (expression, group) in groups.iter().zip(convert_all(groups, schema, &branch.columns)?) {
                rows.key(group, key_of(expression, schema)?);
            }
            let calls = calls.iter().map(|call| aggregate_call(call, schema, &branch.columns, &mut rows));
            let mut aggregates = calls.collect::<Result<Vec<_>>>().map_err(bare)?;
            if stream.is_changing {
                // Which value is the least, or the first, is known once some were taken back only if all are kept.
                for aggregate in &mut aggregates {
                    aggregate.is_changing = !aggregate.function().takes_back();
                }
            }
            aggregate = GroupAggregate {
                keys: (0..groups.len() as u32).collect(),
                aggregates,
                key_fields: rows.fields[..groups.len()].to_vec(),
                takes_states: false,
            };
            above.push(self.calc(branch, rows.expressions, Schema { fields: rows.fields }, &stream.place)?);
        }
        let kind = if calls.is_empty() { "distinct" } else { "group" };
        // Distinct values and single ones that go again are told apart only where all rows of a key are.
        if aggregate.aggregates.iter().all(|aggregate| !aggregate.is_distinct && !aggregate.is_changing) {
            for above in &mut above {
                let half = OperatorKind::LocalGroupAggregate(aggregate.clone());
                let id = format!("{}/{}/{kind}-local", self.sink, stream.place);
                let half = self.builder.add(&id, aggregate.partial_schema(), half);
                self.builder.connect(std::mem::replace(above, half), half, None);
            }
            aggregate.takes_states = true;
        }
        let is_changing = stream.is_changing || !calls.is_empty();
        let width = groups.len() + calls.len();
        let (output, keys) = (aggregate.output_schema(), aggregate.keys.clone());
        let id = format!("{}/{}/{kind}", self.sink, stream.place);
        let index = self.builder.add(&id, output, OperatorKind::GroupAggregate(aggregate));
        for above in above {
            self.builder.connect(above, index, Some(HashKeys { columns: keys.clone() }));
        }
        let columns = (0..width).map(plan::Expr::column).collect();
        let branch = Branch { base: Base::Operator(index), filter: None, columns, time: None };
        Ok(Stream { branches: vec![branch], window: None, is_changing, place: stream.place })
    }

    fn window_aggregate(
        &mut self,
        node: &AggregateNode,
        stream: Stream,
        window: &PendingWindow,
    ) -> Result<Stream, Refused> {
        let schema = node.input.schema();
        let is_single = stream.branches.len() == 1;
        let (mut branches, mut positions, mut aggregates) = (Vec::new(), Vec::new(), Vec::new());
        for branch in stream.branches {
            let mut rows = AggregateRows::new(branch.time.as_ref(), is_single);
            positions = self.window_groups(node, &branch, window, &mut rows)?;
            let calls = node.aggr_expr.iter();
            let calls = calls.map(|call| aggregate_call(call, schema, &branch.columns, &mut rows));
            aggregates = calls.collect::<Result<Vec<_>>>().map_err(bare)?;
            branches.push((branch, rows));
        }
        let keys = positions.iter().filter(|group| matches!(group, Group::Key(_))).count();
        let operator = match window.cut {
            Cut::Windows(cut) => self.window_operators(branches, window, cut, keys, aggregates)?,
            Cut::Sessions { gap_ms } => self.session_operators(branches, window, gap_ms, keys, aggregates)?,
        };
        let columns = positions.iter().map(|group| match group {
            Group::Key(key) => plan::Expr::column(*key),
            Group::Window(part) => plan::Expr::column(keys + part),
        });
        let results = (0..node.aggr_expr.len()).map(|n| plan::Expr::column(keys + WINDOW_COLUMNS.len() + n));
        let columns = columns.chain(results).collect();
        let branch = Branch { base: Base::Operator(operator), filter: None, columns, time: None };
        Ok(Stream { branches: vec![branch], window: None, is_changing: false, place: stream.place })
    }

    /// What a windowed aggregate is grouped by: keys, which become columns of its rows, and the window's bounds.
    fn window_groups(
        &self,
        node: &AggregateNode,
        branch: &Branch,
        window: &PendingWindow,
        rows: &mut AggregateRows,
    ) -> Result<Vec<Group>, Refused> {
        let schema = node.input.schema();
        let groups = convert_all(&node.group_expr, schema, &branch.columns)?;
        let mut positions = Vec::new();
        for (expression, group) in node.group_expr.iter().zip(groups) {
            positions.push(match window_column(&group) {
                Some(part) => Group::Window(part),
                None if mentions_window(&group) => {
                    return not_impl_err!("an expression over a window's bounds in GROUP BY").map_err(bare);
                }
                None => Group::Key(rows.key(group, key_of(expression, schema)?)),
            });
        }
        if let Cut::Sessions { .. } = window.cut {
            self.check_partition(node, branch, window, rows, &positions)?;
        }
        for (part, name) in WINDOW_COLUMNS.iter().enumerate().take(2) {
            if !positions.iter().any(|group| matches!(group, Group::Window(p) if *p == part)) {
                let message = format!("GROUP BY over a {} needs {name}, too", window.kind.to_uppercase());
                return Err((DataFusionError::Plan(message), Some("GROUP".to_owned())));
            }
        }
        Ok(positions)
    }

    /// Sessions are per partition, and so are their aggregates.
    fn check_partition(
        &self,
        node: &AggregateNode,
        branch: &Branch,
        window: &PendingWindow,
        rows: &AggregateRows,
        positions: &[Group],
    ) -> Result<(), Refused> {
        let keys = positions.iter().filter(|group| matches!(group, Group::Key(_))).count();
        let keys = &rows.expressions[rows.first_key..rows.first_key + keys];
        let partition: Vec<&plan::Expr> =
            window.partition.iter().map(|column| &branch.columns[*column]).collect();
        let is_same = partition.iter().all(|column| keys.contains(column))
            && keys.iter().all(|key| partition.contains(&key));
        if is_same {
            return Ok(());
        }
        let names: Vec<String> =
            window.partition.iter().map(|column| node.input.schema().field(*column).name().clone()).collect();
        let message = match names.as_slice() {
            [] => "a SESSION without PARTITION BY is grouped by window_start and window_end alone; write \
                   SESSION(TABLE t PARTITION BY key, …) for sessions of each key"
                .to_owned(),
            names => format!(
                "a SESSION is grouped by the columns of its PARTITION BY ({}), window_start and window_end, and by no others",
                names.join(", ")
            ),
        };
        Err((DataFusionError::Plan(message), Some("GROUP".to_owned())))
    }

    /// Calc, local half, exchange by key, global half. The local half takes distinct values for keys, so that each comes once.
    fn window_operators(
        &mut self,
        branches: Vec<(Branch, AggregateRows)>,
        window: &PendingWindow,
        cut: Window,
        keys: usize,
        aggregates: Vec<Aggregate>,
    ) -> Result<usize, Refused> {
        let place = format!("{}/{}", self.sink, window.table);
        let fields = branches.first().map_or(&[][..], |(_, rows)| rows.fields.as_slice()).to_vec();
        let mut local = WindowAggregate {
            keys: (1..=keys as u32).collect(),
            time: 0,
            window: Some(cut),
            key_fields: fields.iter().skip(1).take(keys).cloned().collect(),
            ..Default::default()
        };
        let mut global = local.clone();
        for aggregate in aggregates {
            let Some(column) = aggregate.argument.filter(|_| aggregate.is_distinct) else {
                local.aggregates.push(aggregate.clone());
                global.aggregates.push(aggregate);
                continue;
            };
            let known = local.keys[keys..].iter().position(|known| *known == column);
            let position = known.unwrap_or_else(|| {
                local.keys.push(column);
                local.key_fields.push(fields[column as usize].clone());
                local.distinct_fields.push(fields[column as usize].clone());
                global.distinct_fields.push(fields[column as usize].clone());
                global.distinct_fields.len() - 1
            });
            global.aggregates.push(Aggregate { argument: Some(position as u32), ..aggregate });
        }
        local.rows_column = Some(local.column_of_rows());
        global.rows_column = local.rows_column;
        let mut locals = Vec::new();
        for (branch, rows) in branches {
            let above = self.calc(branch, rows.expressions, Schema { fields: rows.fields }, &window.table)?;
            let kind = OperatorKind::LocalAggregate(local.clone());
            let half =
                self.builder.add(&format!("{place}/{}-local", window.kind), local.partial_schema(), kind);
            self.builder.connect(above, half, None);
            locals.push(half);
        }
        let output = global.output_schema();
        let hash = HashKeys { columns: global.keys.clone() };
        let global = OperatorKind::WindowAggregate(global);
        let index = self.builder.add(&format!("{place}/{}", window.kind), output, global);
        for local in locals {
            self.builder.connect(local, index, Some(hash.clone()));
        }
        Ok(index)
    }

    /// Calc, exchange by key, aggregate.
    fn session_operators(
        &mut self,
        branches: Vec<(Branch, AggregateRows)>,
        window: &PendingWindow,
        gap_ms: i64,
        keys: usize,
        aggregates: Vec<Aggregate>,
    ) -> Result<usize, Refused> {
        if aggregates.iter().any(|aggregate| aggregate.is_distinct) {
            let message = "an aggregate of DISTINCT values in a SESSION is not supported yet".to_owned();
            return Err((DataFusionError::NotImplemented(message), Some("DISTINCT".to_owned())));
        }
        let fields = branches.first().map_or(&[][..], |(_, rows)| rows.fields.as_slice());
        let aggregate = SessionAggregate {
            keys: (1..=keys as u32).collect(),
            time: 0,
            gap_ms,
            aggregates,
            key_fields: fields.iter().skip(1).take(keys).cloned().collect(),
        };
        let hash = HashKeys { columns: aggregate.keys.clone() };
        let mut above = Vec::new();
        for (branch, rows) in branches {
            above.push(self.calc(branch, rows.expressions, Schema { fields: rows.fields }, &window.table)?);
        }
        let id = format!("{}/{}/{}", self.sink, window.table, window.kind);
        let output = aggregate.output_schema();
        let index = self.builder.add(&id, output, OperatorKind::SessionAggregate(aggregate));
        for above in above {
            self.builder.connect(above, index, Some(hash.clone()));
        }
        Ok(index)
    }
}

/// The field of what rows are grouped by.
fn key_of(expression: &Expr, schema: &DFSchemaRef) -> Result<Field, Refused> {
    let field = field_of(expression, schema)?;
    let data_type = field.data_type();
    let is_key = !has_map(&data_type) && !matches!(data_type.kind(), TypeKind::Null | TypeKind::Interval);
    let message = format!("a key of the type {data_type} is not supported");
    is_key.then_some(field).ok_or((DataFusionError::NotImplemented(message), Some("GROUP".to_owned())))
}

fn has_map(data_type: &DataType) -> bool {
    data_type.kind() == TypeKind::Map || data_type.fields.iter().any(|field| has_map(&field.data_type()))
}

enum Group {
    /// Which key column.
    Key(usize),
    /// Which of [`WINDOW_COLUMNS`].
    Window(usize),
}

/// The rows that an aggregate reads: event time if it has a window, keys, arguments.
struct AggregateRows {
    expressions: Vec<plan::Expr>,
    fields: Vec<Field>,
    first_key: usize,
    /// Equal arguments share a column; not where several branches must have the same columns.
    shares: bool,
}

impl AggregateRows {
    fn new(time: Option<&plan::Expr>, shares: bool) -> Self {
        let millis = DataType::with_precision(TypeKind::Timestamp, 3);
        let time = time.map(|time| plan::Expr::cast(time.clone(), millis.clone(), false));
        AggregateRows {
            first_key: usize::from(time.is_some()),
            fields: time.iter().map(|_| Field::new("time", millis.clone())).collect(),
            expressions: time.into_iter().collect(),
            shares,
        }
    }

    /// Adds a key; returns which key it is.
    fn key(&mut self, expression: plan::Expr, field: Field) -> usize {
        self.expressions.push(expression);
        self.fields.push(field);
        self.fields.len() - 1 - self.first_key
    }

    /// Adds an argument unless it is there; returns its column.
    fn argument(&mut self, expression: plan::Expr, field: Field) -> usize {
        let mut known = self.expressions.iter().enumerate().skip(self.first_key);
        let known = known.find(|(_, known)| self.shares && **known == expression);
        known.map(|(index, _)| index).unwrap_or_else(|| {
            self.expressions.push(expression);
            self.fields.push(field);
            self.expressions.len() - 1
        })
    }
}

/// What LISTAGG puts between texts.
fn separator(function: AggregateFunction, arguments: &[Expr]) -> Result<String> {
    match (function, arguments) {
        (AggregateFunction::ListAgg, [_, Expr::Literal(ScalarValue::Utf8(Some(text)), _)]) => {
            Ok(text.clone())
        }
        (AggregateFunction::ListAgg, [_, _]) => {
            plan_err!("the separator of LISTAGG is a text in quotes, such as ', '")
        }
        // As in Flink.
        (AggregateFunction::ListAgg, _) => Ok(",".to_owned()),
        _ => Ok(String::new()),
    }
}

fn aggregate_call(
    expression: &Expr,
    schema: &DFSchemaRef,
    columns: &[plan::Expr],
    rows: &mut AggregateRows,
) -> Result<Aggregate> {
    let call = match expression {
        Expr::Alias(alias) => return aggregate_call(&alias.expr, schema, columns, rows),
        Expr::AggregateFunction(call) => call,
        other => return not_impl_err!("the aggregate {other}"),
    };
    let AggregateCall { func, params } = call;
    let Some(function) = aggregates::by_name(func.name()) else {
        return not_impl_err!("the aggregate function {}", func.name());
    };
    let result_type = Some(data_type(&expression.get_type(schema)?)?);
    // Once or twice, the least and the greatest are the same, and so are the first and the last.
    let is_distinct = params.distinct && (function.takes_back() || function == AggregateFunction::ListAgg);
    let condition =
        params.filter.as_ref().map(|condition| convert(condition, schema, columns)).transpose()?;
    if condition.as_ref().is_some_and(mentions_window) {
        return not_impl_err!("a filter over a window's bounds");
    }
    let filter = |condition: Option<plan::Expr>, rows: &mut AggregateRows| {
        let field = Field::new("filter", DataType::simple(TypeKind::Boolean));
        condition.map(|condition| rows.argument(condition, field) as u32)
    };
    // A constant counts every row, unless it is NULL, which counts none.
    #[expect(deprecated, reason = "the planner still writes COUNT(*) with a wildcard")]
    let counts_rows = |argument: &&Expr| match argument {
        Expr::Wildcard { .. } => true,
        Expr::Literal(value, _) => {
            function == AggregateFunction::Count && !value.is_null() && !params.distinct
        }
        _ => false,
    };
    if params.distinct && params.args.iter().all(|argument| counts_rows(&argument)) {
        return not_impl_err!("COUNT(DISTINCT *)");
    }
    let Some(argument) = params.args.iter().find(|argument| !counts_rows(argument)) else {
        let (function, filter) = (function.into(), filter(condition, rows));
        return Ok(Aggregate { function, result_type, filter, ..Default::default() });
    };
    if is_distinct && has_map(&data_type(&argument.get_type(schema)?)?) {
        return not_impl_err!("DISTINCT of a MAP");
    }
    let value = convert(argument, schema, columns)?;
    if mentions_window(&value) {
        return not_impl_err!("an aggregate over a window's bounds");
    }
    let field = field_of(argument, schema).map_err(|(error, _)| error)?;
    let argument_type = field.data_type.clone();
    // Of distinct values those count that some row has for which the condition holds: for all others there is no value.
    let (value, field, filter) = match condition {
        Some(condition) if is_distinct => {
            (only_where(condition, value), Field { nullable: true, ..field }, None)
        }
        condition => (value, field, filter(condition, rows)),
    };
    let column = rows.argument(value, field) as u32;
    let separator = separator(function, &params.args)?;
    let (function, argument) = (function.into(), Some(column));
    Ok(Aggregate {
        function,
        argument,
        argument_type,
        result_type,
        filter,
        is_distinct,
        separator,
        is_changing: false,
    })
}

/// CASE WHEN condition THEN value END.
fn only_where(condition: plan::Expr, value: plan::Expr) -> plan::Expr {
    let branch = plan::Branch { when: Some(condition), then: Some(value) };
    plan::Expr {
        node: Some(Node::Case(Box::new(plan::Case {
            operand: None,
            branches: vec![branch],
            otherwise: None,
        }))),
    }
}

/// Which of the window's columns an expression is, if it is one.
fn window_column(expression: &plan::Expr) -> Option<usize> {
    match &expression.node {
        Some(Node::Call(call)) if call.arguments.is_empty() => {
            WINDOW_COLUMNS.iter().position(|name| *name == call.function)
        }
        _ => None,
    }
}

/// True if an expression uses a window's bounds.
pub(super) fn mentions_window(expression: &plan::Expr) -> bool {
    let mut expression = expression.clone();
    window_column(&expression).is_some()
        || expression.children_mut().into_iter().any(|child| mentions_window(child))
}
