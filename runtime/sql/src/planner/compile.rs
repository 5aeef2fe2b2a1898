//! From a text to a plan: statements in order, every mistake collected.

use std::ops::ControlFlow;

use datafusion_common::DFSchema;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use sqlparser::ast;
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};

use super::alignment;
use super::analysis::{analyse, plan_column};
use super::catalog::{Catalog, DeclaredTable, EventTime};
use super::declarations;
use super::group_windows;
use super::mistakes::{Compiled, at, find_name, from_parser, from_planner, placed};
use super::settings::{self, Setting};
use super::special_forms::{self, DEPTH_MAX};
use super::streams::StreamBuilder;
use super::unsupported;
use super::window_node::{WINDOW_COLUMNS, WindowNode};
use super::zones::Zone;
use crate::connectors::{self};
use crate::diagnostic::Diagnostic;
use crate::dialect::{self, ColumnKind, CreateTable, CreateView, Insert, Name, Query, Statement, WindowCall};
use crate::functions::clock;
use crate::metadata;
use crate::plan::{self, DataType, Plan, Schema, Table, TypeKind};
use crate::planner::expressions;
use crate::similar::closest;

/// Compiles the SQL of a job.
///
/// # Errors
/// All mistakes of the text, in the order of their statements.
pub fn compile(sql: &str) -> Compiled<Plan> {
    on_large_stack(|| compile_here(sql))
}

/// A query whose rows are shown.
#[derive(Debug)]
pub struct ShownQuery {
    /// Its one sink has the connector [`connectors::SHOWN`].
    pub plan: Plan,
    /// Rows that were given are taken back later.
    pub changes: bool,
}

/// Compiles declarations and the SELECT that they end with.
///
/// # Errors
/// All mistakes of the text, in the order of their statements.
pub fn compile_query(sql: &str) -> Compiled<ShownQuery> {
    on_large_stack(|| compile_query_here(sql))
}

/// What a text of statements is.
#[derive(Debug, PartialEq, Eq)]
pub enum Statements {
    /// It ends with a SELECT.
    Query,
    /// It declares these tables and views, or does something else that is no query.
    Declarations { names: Vec<String> },
}

/// Reads a text without compiling it.
///
/// # Errors
/// Mistakes of the grammar.
pub fn statements(sql: &str) -> Compiled<Statements> {
    let statements = dialect::parse(sql)?;
    if let Some(Statement::Select(_)) = statements.last() {
        return Ok(Statements::Query);
    }
    let name = |statement: &Statement| match statement {
        Statement::CreateTable(table) => Some(table.name.text.clone()),
        Statement::CreateView(view) => Some(view.name.text.clone()),
        _ => None,
    };
    Ok(Statements::Declarations { names: statements.iter().filter_map(name).collect() })
}

/// Compiles declarations, to be followed by queries.
///
/// # Errors
/// All mistakes of the text, in the order of their statements.
pub fn compile_declarations(sql: &str) -> Compiled<()> {
    on_large_stack(|| {
        let statements = dialect::parse(sql)?;
        let mut compiler = Compiler::new(&statements);
        let mut mistakes = compiler.declare(&statements);
        mistakes.extend(declarations::check(&statements));
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    })
}

/// True if a text ends with a whole statement.
pub fn is_complete(sql: &str) -> bool {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize();
    let is_blank = |token: &&Token| matches!(token, Token::Whitespace(_));
    tokens.is_ok_and(|tokens| {
        tokens.iter().rev().find(|token| !is_blank(token)).is_some_and(|token| *token == Token::SemiColon)
    })
}

/// Planning goes down into expressions, and SQL must not be able to end the process.
fn on_large_stack<T: Send>(compile: impl FnOnce() -> Compiled<T> + Send) -> Compiled<T> {
    std::thread::scope(|scope| {
        let compiling = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, compile);
        match compiling.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(vec![Diagnostic::nowhere(format!("failed to start a thread to compile in: {error}"))])
            }
        }
    })
}

/// Enough for the longest statement that is let through; only what is used of it costs memory.
const STACK_BYTES: usize = 128 << 20;

const DEEP_HINT: &str = "put parentheses so that both sides of long sums are about as long, or shorten it";

fn deep(levels: usize) -> String {
    format!("the expression is nested {levels} levels deep, and at most {DEPTH_MAX} are possible")
}

/// Expressions that are too deep for workers, at the INSERT that they are put together for.
fn too_deep(plan: &Plan, statements: &[Statement]) -> Option<Diagnostic> {
    let deepest = plan.operators.iter().filter_map(|operator| {
        let depth = match operator.kind.as_ref()? {
            plan::OperatorKind::Calc(calc) => {
                calc.filter.iter().chain(&calc.output).map(plan::Expr::depth).max()?
            }
            plan::OperatorKind::Source(source) => source.watermark.as_ref()?.depth(),
            _ => return None,
        };
        (depth > DEPTH_MAX).then_some((depth, operator))
    });
    let (depth, operator) = deepest.max_by_key(|(depth, _)| *depth)?;
    let sink = operator.id.split('/').next().unwrap_or_default();
    let place = statements.iter().find_map(|statement| match statement {
        Statement::Insert(insert) if insert.table.text == sink => Some(insert.table.span),
        Statement::Select(query) => Some(first_span(query)),
        _ => None,
    });
    let message = format!("'{}': {}", operator.id, deep(depth));
    Some(at(place.unwrap_or_else(Span::empty), message).hint(DEEP_HINT))
}

fn compile_here(sql: &str) -> Compiled<Plan> {
    let statements = dialect::parse(sql)?;
    let mut compiler = Compiler::new(&statements);
    let mut mistakes = Vec::new();
    for statement in &statements {
        if let Err(found) = compiler.statement(statement) {
            mistakes.extend(found);
        }
    }
    if mistakes.is_empty() && compiler.inserts == 0 {
        mistakes.push(
            Diagnostic::nowhere("the SQL has no INSERT INTO, so the job would do nothing")
                .hint("end it with INSERT INTO sink SELECT …"),
        );
    }
    let plan = compiler.plan.finish();
    mistakes.extend(too_deep(&plan, &statements));
    mistakes.extend(declarations::check(&statements));
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    if mistakes.is_empty() { Ok(plan) } else { Err(mistakes) }
}

fn compile_query_here(sql: &str) -> Compiled<ShownQuery> {
    let statements = dialect::parse(sql)?;
    let mut compiler = Compiler::new(&statements);
    let (last, declarations) = match statements.split_last() {
        Some((Statement::Select(query), declarations)) => (query, declarations),
        _ => {
            return Err(vec![
                Diagnostic::nowhere("the statements do not end with a SELECT, whose rows would be shown")
                    .hint("write SELECT … at the end; INSERT INTO runs in a job: `millrace run JOB.yaml`"),
            ]);
        }
    };
    let mut mistakes = compiler.declare(declarations);
    let shown = compiler.shown(last).map_err(|found| mistakes.extend(found));
    let plan = compiler.plan.finish();
    mistakes.extend(too_deep(&plan, &statements));
    mistakes.extend(declarations::check(&statements));
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    match shown {
        Ok(changes) if mistakes.is_empty() => Ok(ShownQuery { plan, changes }),
        _ => Err(mistakes),
    }
}

fn first_span(query: &Query) -> Span {
    query.tokens.first().map_or(Span::empty(), |token| token.span)
}

/// The name of the sink of a query that is shown.
const RESULT: &str = "result";

struct Compiler {
    catalog: Catalog,
    plan: StreamBuilder,
    inserts: usize,
    /// Windows of the older form so far.
    group_windows: usize,
    /// Of the whole job, wherever it is set.
    zone: Zone,
}

impl Compiler {
    fn new(statements: &[Statement]) -> Self {
        let (catalog, plan, zone) = (Catalog::new(), StreamBuilder::new(), settings::zone(statements));
        Compiler { catalog, plan, inserts: 0, group_windows: 0, zone }
    }
}

impl Compiler {
    /// Adds what comes before a query; returns the mistakes in it.
    fn declare(&mut self, declarations: &[Statement]) -> Vec<Diagnostic> {
        let mut mistakes = Vec::new();
        for statement in declarations {
            let found = match statement {
                Statement::Select(query) => Err(vec![
                    at(first_span(query), "a SELECT before the last statement")
                        .hint("show one query at a time"),
                ]),
                Statement::Insert(insert) => Err(vec![
                    at(insert.table.span, "an INSERT INTO among the declarations of a query")
                        .hint("it runs in a job: `millrace run JOB.yaml`"),
                ]),
                declaration => self.statement(declaration),
            };
            mistakes.extend(found.err().into_iter().flatten());
        }
        mistakes
    }

    fn statement(&mut self, statement: &Statement) -> Compiled<()> {
        match statement {
            Statement::CreateTable(table) if table.if_not_exists && self.catalog.has(&table.name.text) => {
                Ok(())
            }
            Statement::CreateView(view) if view.if_not_exists && self.catalog.has(&view.name.text) => Ok(()),
            Statement::CreateTable(table) => self.create_table(table),
            Statement::CreateView(view) => self.create_view(view),
            Statement::Insert(insert) => {
                self.inserts += 1;
                self.insert(insert)
            }
            Statement::Set(set) => match settings::read(set).map_err(|mistake| vec![mistake])? {
                Setting::OfSources(option, value) => {
                    self.plan.set_for_sources(option, value);
                    Ok(())
                }
                Setting::Given => Ok(()),
            },
            Statement::Select(query) => Err(vec![
                at(first_span(query), "a job has no place for the rows of a SELECT")
                    .hint("write INSERT INTO a table, or see them by `millrace sql`"),
            ]),
        }
    }

    /// Adds a query whose rows are shown. True if rows change.
    fn shown(&mut self, query: &Query) -> Compiled<bool> {
        let planned = self.query(query)?;
        let fields = planned.schema().fields().iter().map(|field| {
            let data_type =
                expressions::data_type(field.data_type()).map(|data_type| match data_type.kind() {
                    // Shown as the clock of the job's zone shows it.
                    TypeKind::TimestampLtz => {
                        DataType::with_precision(TypeKind::Timestamp, data_type.precision)
                    }
                    _ => data_type,
                });
            data_type.map(|data_type| plan::Field::new(field.name(), data_type))
        });
        let fields = fields.collect::<Result<_, _>>();
        let fields = fields.map_err(|error| vec![from_planner(&error, &query.tokens)])?;
        let table = Table {
            name: RESULT.to_owned(),
            schema: Some(Schema { fields }),
            options: [("connector".to_owned(), connectors::SHOWN.to_owned())].into(),
            ..Table::default()
        };
        let written = table.given_fields().into_iter().map(|field| field.name).collect();
        let sink = DeclaredTable { table, event_time: None, written };
        let into = Insert {
            table: Name { text: RESULT.to_owned(), span: first_span(query) },
            columns: None,
            query: query.clone(),
        };
        self.connect(&into, &sink, planned)
    }

    fn new_name(&self, name: &Name) -> Compiled<()> {
        if self.catalog.has(&name.text) {
            return Err(vec![at(name.span, format!("'{}' is declared twice", name.text))]);
        }
        Ok(())
    }

    fn create_table(&mut self, declaration: &CreateTable) -> Compiled<()> {
        self.new_name(&declaration.name)?;
        let physical = declaration.columns.iter().filter_map(|column| match &column.kind {
            ColumnKind::Physical { data_type, nullable } => Some(plan::Field {
                nullable: *nullable,
                ..plan::Field::new(&column.name.text, data_type.clone())
            }),
            ColumnKind::Computed { .. } | ColumnKind::Metadata { .. } => None,
        });
        let connector = declaration.options.get("connector").map_or("", String::as_str);
        let metadata = declaration.columns.iter().filter_map(|column| {
            let ColumnKind::Metadata { key, data_type, .. } = &column.kind else { return None };
            let name = &column.name.text;
            // What is wrong with it is told with the other mistakes of the declaration.
            let field = metadata::column(connector, name, key, data_type)
                .unwrap_or_else(|_| plan::Field::new(name, data_type.clone()));
            Some(plan::MetadataColumn { field: Some(field), key: key.clone() })
        });
        let table = Table {
            name: declaration.name.text.clone(),
            schema: Some(Schema { fields: physical.collect() }),
            options: declaration.options.clone(),
            primary_key: declaration.primary_key.iter().map(|name| name.text.clone()).collect(),
            metadata: metadata.collect(),
            partitioned_by: declaration.partitioned_by.iter().map(|name| name.text.clone()).collect(),
        };
        let plan = self.table_plan(declaration, &table)?;
        let event_time = self.event_time(declaration, &table, &plan)?;
        let written = declaration.columns.iter().filter(|column| {
            matches!(
                column.kind,
                ColumnKind::Physical { .. } | ColumnKind::Metadata { is_virtual: false, .. }
            )
        });
        let written = written.map(|column| column.name.text.clone()).collect();
        self.catalog.add_table(DeclaredTable { table, event_time, written }, plan);
        Ok(())
    }

    /// All columns, in the places where they were declared.
    fn table_plan(&self, declaration: &CreateTable, table: &Table) -> Compiled<LogicalPlan> {
        let scan = Catalog::scan(table).map_err(|error| vec![placed(&error, declaration.name.span)])?;
        let mut columns = Vec::new();
        for column in &declaration.columns {
            let name = &column.name.text;
            columns.push(match &column.kind {
                ColumnKind::Physical { .. } => Expr::Column(datafusion_common::Column::new_unqualified(name)),
                ColumnKind::Metadata { data_type, .. } => {
                    let column = Expr::Column(datafusion_common::Column::new_unqualified(name));
                    datafusion_expr::cast(column, data_type.to_arrow()).alias(name)
                }
                ColumnKind::Computed { expression } => {
                    self.expression(expression, scan.schema())?.alias(name)
                }
            });
        }
        let tokens = all_tokens(declaration);
        LogicalPlanBuilder::from(scan)
            .project(columns)
            .and_then(LogicalPlanBuilder::build)
            .and_then(|plan| analyse(plan, &self.zone))
            .map_err(|error| vec![from_planner(&error, &tokens)])
    }

    fn event_time(
        &self,
        declaration: &CreateTable,
        table: &Table,
        plan: &LogicalPlan,
    ) -> Compiled<Option<EventTime>> {
        let Some(watermark) = &declaration.watermark else { return Ok(None) };
        let name = &watermark.column.text;
        let Ok(index) = plan.schema().index_of_column(&datafusion_common::Column::new_unqualified(name))
        else {
            let names: Vec<String> =
                declaration.columns.iter().map(|column| column.name.text.clone()).collect();
            let mistake =
                at(watermark.column.span, format!("there is no column '{name}' to make a watermark from"));
            return Err(vec![match closest(name, &names) {
                Some(similar) => mistake.hint(format!("did you mean `{similar}`?")),
                None => mistake,
            }]);
        };
        let column_type = expressions::data_type(plan.schema().field(index).data_type())
            .map_err(|error| vec![from_planner(&error, &watermark.expression)])?;
        if !matches!(column_type.kind(), TypeKind::Timestamp | TypeKind::TimestampLtz) {
            let message = format!("the event-time column '{name}' is {column_type}, not a timestamp");
            return Err(vec![
                at(watermark.column.span, message)
                    .hint("declare it TIMESTAMP(3), or compute one: ts AS CAST(… AS TIMESTAMP(3))"),
            ]);
        }
        let expression = self.expression(&watermark.expression, plan.schema())?;
        let both = LogicalPlanBuilder::from(plan.clone())
            .project(vec![plan_column(plan.schema(), index), expression.alias("__watermark")])
            .and_then(LogicalPlanBuilder::build)
            .and_then(|plan| analyse(plan, &self.zone))
            .map_err(|error| vec![from_planner(&error, &watermark.expression)])?;
        let of_watermark = expressions::data_type(both.schema().field(1).data_type())
            .map_err(|error| vec![from_planner(&error, &watermark.expression)])?;
        let span_of_watermark =
            watermark.expression.first().map_or(watermark.column.span, |token| token.span);
        if !matches!(of_watermark.kind(), TypeKind::Timestamp | TypeKind::TimestampLtz) {
            let message = format!("the watermark of '{name}' is {of_watermark}, not a timestamp");
            let hint = format!("write such as {name} - INTERVAL '5' SECOND");
            return Err(vec![at(span_of_watermark, message).hint(hint)]);
        }
        let columns = super::streams::over_physical_columns(&both, table)
            .map_err(|error| vec![from_planner(&error, &watermark.expression)])?;
        let [column, watermark] = columns.as_slice() else { return Ok(None) };
        if let Some(clock) = columns.iter().find_map(plan::Expr::clock) {
            let message = format!("the event time of '{name}' asks the clock ({})", clock::shown(clock));
            return Err(vec![
                at(span_of_watermark, message)
                    .hint("event time is in the rows: use a column that they bring"),
            ]);
        }
        let millis = DataType::with_precision(column_type.kind(), 3);
        let watermark = plan::Expr::cast(watermark.clone(), millis, false);
        Ok(Some(EventTime { column: column.clone(), watermark }))
    }

    fn create_view(&mut self, view: &CreateView) -> Compiled<()> {
        self.new_name(&view.name)?;
        let mut plan = self.query(&view.query)?;
        if let Some(names) = &view.columns {
            plan = renamed(plan, view, names)?;
        }
        self.catalog.add_view(view.name.text.clone(), plan);
        Ok(())
    }

    fn insert(&mut self, insert: &Insert) -> Compiled<()> {
        let query = self.query(&insert.query)?;
        let Some(sink) = self.catalog.table(&insert.table.text).cloned() else {
            return Err(vec![self.unknown_table(&insert.table, "INSERT INTO needs a table")]);
        };
        self.connect(insert, &sink, query).map(|_| ())
    }

    fn connect(&mut self, insert: &Insert, sink: &DeclaredTable, query: LogicalPlan) -> Compiled<bool> {
        let sink = sink.as_sink();
        let aligned = alignment::to_sink(insert, &sink, query, &self.zone)?;
        self.plan.insert(&self.catalog, &sink, aligned).map_err(|(error, place)| {
            let mut mistake = from_planner(&error, &insert.query.tokens);
            let place = place.and_then(|name| {
                let windows = insert.query.windows.iter();
                let mut names = windows.flat_map(|window| [&window.time_column, &window.table]);
                let in_window = names.find(|found| found.text == name).map(|found| at(found.span, ""));
                let in_window = in_window.map(|found| (found.line, found.column, found.length));
                let is_sink = name == insert.table.text;
                let in_sink = is_sink.then(|| at(insert.table.span, ""));
                let in_sink = in_sink.map(|found| (found.line, found.column, found.length));
                in_sink.or_else(|| find_name(&insert.query.tokens, &name)).or(in_window)
            });
            if let Some(place) = place {
                (mistake.line, mistake.column, mistake.length) = place;
            }
            vec![mistake]
        })
    }

    fn unknown_table(&self, name: &Name, why: &str) -> Diagnostic {
        let mistake = if self.catalog.has(&name.text) {
            at(name.span, format!("{why}, and '{}' is a view", name.text))
        } else {
            at(name.span, format!("there is no table or view '{}'", name.text))
        };
        match closest(&name.text, &self.catalog.names()) {
            Some(similar) if *similar != name.text => mistake.hint(format!("did you mean `{similar}`?")),
            _ => mistake.hint("declare it before with CREATE TABLE"),
        }
    }

    fn query(&mut self, query: &Query) -> Compiled<LogicalPlan> {
        let mut parsed = parse_query(query)?;
        let refused = unsupported::check(&parsed, query);
        if !refused.is_empty() {
            return Err(refused);
        }
        let of_groups = group_windows::rewrite(&mut parsed, self.group_windows)
            .map_err(|mistake| vec![at(mistake.span, mistake.message).hint(mistake.hint)])?;
        self.group_windows += of_groups.len();
        special_forms::rewrite(&mut parsed)
            .map_err(|(depth, span)| vec![at(span, deep(depth)).hint(DEEP_HINT)])?;
        let mut waiting: Vec<&WindowCall> = query.windows.iter().chain(&of_groups).collect();
        while !waiting.is_empty() {
            // A window over a part comes after the windows that the part reads.
            let part_of = |window: &WindowCall| named_part(&parsed, window.windowed());
            let is_ready =
                |window: &&WindowCall| part_of(window).is_none_or(|part| self.knows_windows(&part));
            let window = waiting.remove(waiting.iter().position(is_ready).unwrap_or(0));
            let part = part_of(window).map(|part| self.plan_query(part, query));
            self.add_window(window, part.transpose()?)?;
        }
        self.plan_query(*parsed, query)
    }

    /// True if all windows are known that a query reads.
    fn knows_windows(&self, query: &ast::Query) -> bool {
        ast::visit_relations(query, |name| {
            let name = name.0.last().and_then(|part| part.as_ident()).map_or("", |name| name.value.as_str());
            match name.starts_with("__window_") && !self.catalog.has(name) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .is_continue()
    }

    fn plan_query(&self, parsed: ast::Query, source: &Query) -> Compiled<LogicalPlan> {
        SqlToRel::new_with_options(&self.catalog, parser_options())
            .sql_statement_to_plan(ast::Statement::Query(Box::new(parsed)))
            .and_then(|plan| analyse(plan, &self.zone))
            .map_err(|error| vec![from_planner(&error, &source.tokens)])
    }

    /// `part`: what is windowed, if it is not a table or view but a part of the query.
    fn add_window(&mut self, call: &WindowCall, part: Option<LogicalPlan>) -> Compiled<()> {
        let planned = match part {
            Some(part) => part,
            None if self.catalog.has(&call.table.text) => self
                .catalog
                .plan_of(&call.table.text)
                .map_err(|error| vec![placed(&error, call.table.span)])?,
            None => return Err(vec![self.unknown_table(&call.table, "a window needs a table or view")]),
        };
        let position = |name: &Name| {
            let column = datafusion_common::Column::new_unqualified(&name.text);
            planned.schema().index_of_column(&column).map_err(|_| {
                let names: Vec<String> =
                    planned.schema().fields().iter().map(|field| field.name().clone()).collect();
                let mistake = at(name.span, format!("'{}' has no column '{}'", call.table.text, name.text));
                vec![match closest(&name.text, &names) {
                    Some(similar) => mistake.hint(format!("did you mean `{similar}`?")),
                    None => mistake.hint(format!("its columns are: {}", names.join(", "))),
                }]
            })
        };
        let time = position(&call.time_column)?;
        if let (Some(zone), arrow::datatypes::DataType::Timestamp(_, Some(_))) =
            (self.zone.name(), planned.schema().field(time).data_type())
        {
            let name = &call.time_column.text;
            let message = format!(
                "a window over the TIMESTAMP_LTZ column '{name}' in the time zone {zone} is not supported yet"
            );
            let hint = format!(
                "let the event time be what the clock shows: local AS CAST({name} AS TIMESTAMP(3)), WATERMARK FOR local AS …"
            );
            return Err(vec![at(call.time_column.span, message).hint(hint)]);
        }
        let partition = call.partition.iter().map(position).collect::<Compiled<Vec<_>>>()?;
        if let Some(taken) =
            WINDOW_COLUMNS.iter().find(|name| planned.schema().has_column_with_unqualified_name(name))
        {
            let message =
                format!("'{}' has a column '{taken}' already, which the window adds", call.table.text);
            return Err(vec![
                at(call.table.span, message).hint("make the window over a view in which it has another name"),
            ]);
        }
        let windowed = WindowNode::plan(planned, call, time, partition)
            .map_err(|error| vec![placed(&error, call.table.span)])?;
        self.catalog.add_view(call.placeholder.clone(), windowed);
        Ok(())
    }

    fn expression(&self, tokens: &[TokenWithSpan], schema: &DFSchema) -> Compiled<Expr> {
        let dialect = GenericDialect {};
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
        let mut parsed = parser.parse_expr().map_err(|error| vec![from_parser(&error, tokens)])?;
        let left = parser.peek_token();
        if left.token != sqlparser::tokenizer::Token::EOF {
            return Err(vec![at(left.span, format!("'{}' does not belong to the expression", left.token))]);
        }
        special_forms::rewrite(&mut parsed)
            .map_err(|(depth, span)| vec![at(span, deep(depth)).hint(DEEP_HINT)])?;
        SqlToRel::new_with_options(&self.catalog, parser_options())
            .sql_to_expr(parsed, schema, &mut PlannerContext::new())
            .map_err(|error| vec![from_planner(&error, tokens)])
    }
}

/// A part of a query that WITH names, as a query of its own: with the parts before it, which it may read.
fn named_part(query: &ast::Query, name: &str) -> Option<ast::Query> {
    let with = query.with.as_ref()?;
    let position = with.cte_tables.iter().position(|part| part.alias.name.value == name)?;
    let mut part = (*with.cte_tables[position].query).clone();
    let mut before = ast::With { cte_tables: with.cte_tables[..position].to_vec(), ..with.clone() };
    before.cte_tables.extend(part.with.take().into_iter().flat_map(|own| own.cte_tables));
    part.with = (!before.cte_tables.is_empty()).then_some(before);
    Some(part)
}

fn parser_options() -> ParserOptions {
    ParserOptions::new()
        .with_parse_float_as_decimal(true)
        .with_enable_ident_normalization(false)
        .with_map_string_types_to_utf8view(false)
        .with_collect_spans(true)
}

fn parse_query(query: &Query) -> Compiled<Box<ast::Query>> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(query.tokens.clone());
    let parsed = parser.parse_query().map_err(|error| vec![from_parser(&error, &query.tokens)])?;
    let left = parser.peek_token();
    if left.token != sqlparser::tokenizer::Token::EOF {
        return Err(vec![at(
            left.span,
            format!("expected the end of the statement, found '{}'", left.token),
        )]);
    }
    Ok(parsed)
}

/// A view's query with the names of its column list.
fn renamed(query: LogicalPlan, view: &CreateView, names: &[Name]) -> Compiled<LogicalPlan> {
    let given = query.schema().fields().len();
    if given != names.len() {
        let message = format!(
            "the query has {given} columns, and the list of '{}' names {}",
            view.name.text,
            names.len()
        );
        return Err(vec![at(view.name.span, message).hint("name them all, or leave the list out")]);
    }
    let columns: Vec<Expr> = names
        .iter()
        .enumerate()
        .map(|(index, name)| plan_column(query.schema(), index).alias(&name.text))
        .collect();
    LogicalPlanBuilder::from(query)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| vec![from_planner(&error, &view.query.tokens)])
}

/// The tokens of all expressions of a declaration, to find names in.
fn all_tokens(declaration: &CreateTable) -> Vec<TokenWithSpan> {
    let computed = declaration.columns.iter().filter_map(|column| match &column.kind {
        ColumnKind::Computed { expression } => Some(expression),
        ColumnKind::Physical { .. } | ColumnKind::Metadata { .. } => None,
    });
    computed.flatten().cloned().collect()
}
