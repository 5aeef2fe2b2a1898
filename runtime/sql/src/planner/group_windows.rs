//! Windows of the older form: `GROUP BY k, TUMBLE(ts, INTERVAL '1' MINUTE)`, with TUMBLE_START, TUMBLE_END and TUMBLE_ROWTIME.
//!
//! What such a query reads and filters becomes a part with a name of its own, over which a window table function is put; the calls
//! become its columns. The rest of the planner knows one form of windows.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Cte, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Select,
    SelectItem, SetExpr, Spanned, TableFactor, TableWithJoins, Value, visit_expressions_mut,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Span;

use super::special_forms::UNNAMED;
use super::window_node::WINDOW_COLUMNS;
use crate::dialect::{self, Cut, Name, WindowCall};

/// What is wrong, how to cure it, and where.
pub struct Mistake {
    pub message: String,
    pub hint: &'static str,
    pub span: Span,
}

type Found<T> = Result<T, Mistake>;

fn mistake<T>(span: Span, message: impl Into<String>, hint: &'static str) -> Found<T> {
    Err(Mistake { message: message.into(), hint, span })
}

/// Rewrites all such windows of a query, and returns their calls. `first` numbers the names that are made.
///
/// # Errors
/// A window that cannot be.
pub fn rewrite(query: &mut ast::Query, first: usize) -> Found<Vec<WindowCall>> {
    let mut rewriting = Rewriting { first, calls: Vec::new(), parts: Vec::new() };
    let earlier = query.with.as_mut().map(|with| std::mem::take(&mut with.cte_tables)).unwrap_or_default();
    let mut parts = Vec::new();
    for mut part in earlier {
        rewriting.query(&mut part.query)?;
        // A part stands before those that read it.
        parts.append(&mut rewriting.parts);
        parts.push(part);
    }
    rewriting.body(&mut query.body)?;
    parts.append(&mut rewriting.parts);
    if query.with.is_none() && !parts.is_empty() {
        query.with = parsed("WITH a AS (SELECT 1) SELECT 1")?.with;
    }
    if let Some(with) = &mut query.with {
        with.cte_tables = parts;
    }
    Ok(rewriting.calls)
}

struct Rewriting {
    first: usize,
    calls: Vec<WindowCall>,
    /// Made since they were taken last.
    parts: Vec<Cte>,
}

impl Rewriting {
    fn query(&mut self, query: &mut ast::Query) -> Found<()> {
        for part in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            self.query(&mut part.query)?;
        }
        self.body(&mut query.body)
    }

    fn body(&mut self, body: &mut SetExpr) -> Found<()> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left)?;
                self.body(right)
            }
            _ => Ok(()),
        }
    }

    fn select(&mut self, select: &mut Select) -> Found<()> {
        for from in &mut select.from {
            if let TableFactor::Derived { subquery, .. } = &mut from.relation {
                self.query(subquery)?;
            }
        }
        let GroupByExpr::Expressions(groups, _) = &mut select.group_by else { return Ok(()) };
        let Some(position) = groups.iter().position(|group| GroupWindow::of(group).is_some()) else {
            return Ok(());
        };
        let Some(window) = GroupWindow::of(&groups.remove(position)) else { return Ok(()) };
        if let Some(second) = groups.iter().find(|group| GroupWindow::of(group).is_some()) {
            return mistake(second.span(), "a second window in GROUP BY", "rows are grouped by one window");
        }
        let is_session = window.kind == "session";
        let partition = if is_session { columns_of(groups)? } else { Vec::new() };
        let (cut, time_column) = (window.cut()?, window.time_column()?);
        let number = self.first + self.calls.len();
        let (placeholder, rows) = (format!("__window_g{number}"), format!("__rows_{number}"));
        let (label, alias) = names_of(&select.from, window.span);
        self.parts.push(part(&rows, select)?);
        select.from = from_of(&placeholder, &alias)?;
        let uses_time = window.replace_parts(select)?;
        if let GroupByExpr::Expressions(groups, _) = &mut select.group_by {
            let columns = &WINDOW_COLUMNS[..if uses_time { 3 } else { 2 }];
            groups.extend(columns.iter().map(|column| Expr::Identifier(Ident::new(*column))));
        }
        let (kind, span) = (window.kind, window.span);
        let rows = Some(rows);
        self.calls.push(WindowCall {
            placeholder,
            kind,
            table: label,
            rows,
            time_column,
            cut,
            partition,
            span,
        });
        Ok(())
    }
}

/// A call in GROUP BY.
struct GroupWindow {
    kind: &'static str,
    arguments: Vec<Expr>,
    span: Span,
}

impl GroupWindow {
    fn of(expression: &Expr) -> Option<Self> {
        let Expr::Function(function) = expression else { return None };
        let kind = match function.name.to_string().to_ascii_uppercase().as_str() {
            "TUMBLE" => "tumble",
            "HOP" => "hop",
            "SESSION" => "session",
            _ => return None,
        };
        Some(GroupWindow { kind, arguments: arguments(function)?, span: expression.span() })
    }

    fn time_column(&self) -> Found<Name> {
        match self.arguments.first().and_then(column) {
            Some(name) => Ok(name),
            None => mistake(
                self.span,
                format!("{} begins with the event-time column", self.kind.to_uppercase()),
                "write TUMBLE(ts, INTERVAL '1' MINUTE); compute other times in a column of the table",
            ),
        }
    }

    fn cut(&self) -> Found<Cut> {
        let lengths: Option<Vec<i64>> = self.arguments.iter().skip(1).map(milliseconds).collect();
        let lengths = lengths.unwrap_or_default();
        let usage = match self.kind {
            "tumble" => "write TUMBLE(ts, INTERVAL '1' MINUTE), with the size",
            "hop" => "write HOP(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE), with slide and size",
            _ => "write SESSION(ts, INTERVAL '1' MINUTE), with the gap",
        };
        let cut = match (self.kind, lengths.as_slice()) {
            ("tumble", [size]) => dialect::windows(*size, *size),
            ("hop", [slide, size]) => dialect::windows(*slide, *size),
            ("session", [gap]) => dialect::sessions(*gap),
            _ => {
                let message = format!("{} does not take these arguments", self.kind.to_uppercase());
                return mistake(self.span, message, usage);
            }
        };
        cut.or_else(|(message, _)| mistake(self.span, message, usage))
    }

    /// Makes columns of the calls that ask for parts of the window. True if one asks for its event time.
    fn replace_parts(&self, select: &mut Select) -> Found<bool> {
        for (position, item) in select.projection.iter_mut().enumerate() {
            if let SelectItem::UnnamedExpr(expression) = item
                && self.part_of(expression).is_some()
            {
                let (expr, alias) =
                    (expression.clone(), Ident::with_quote('`', format!("{UNNAMED}{position}")));
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        let mut uses_time = false;
        let mut replace = |expression: &mut Expr| {
            match self.part_of(expression) {
                Some(Ok(part)) => {
                    uses_time |= part == WINDOW_COLUMNS[2];
                    *expression = Expr::Identifier(Ident::new(part));
                }
                Some(Err(mistake)) => return ControlFlow::Break(mistake),
                None => {}
            }
            ControlFlow::Continue(())
        };
        for replaced in [
            visit_expressions_mut(&mut select.projection, &mut replace),
            visit_expressions_mut(&mut select.having, &mut replace),
        ] {
            if let ControlFlow::Break(mistake) = replaced {
                return Err(mistake);
            }
        }
        Ok(uses_time)
    }

    /// Which column a call asks for; `None`: it asks for no part of a window.
    fn part_of(&self, expression: &Expr) -> Option<Found<&'static str>> {
        let Expr::Function(function) = expression else { return None };
        let name = function.name.to_string().to_ascii_uppercase();
        let (kind, part) = name.split_once('_')?;
        if !["TUMBLE", "HOP", "SESSION"].contains(&kind) {
            return None;
        }
        let column = match part {
            "START" => WINDOW_COLUMNS[0],
            "END" => WINDOW_COLUMNS[1],
            "ROWTIME" => WINDOW_COLUMNS[2],
            "PROCTIME" => {
                let hint = "windows are of event time; use the window's ROWTIME";
                return Some(mistake(expression.span(), format!("{name} is not supported"), hint));
            }
            _ => return None,
        };
        let is_same =
            kind.eq_ignore_ascii_case(self.kind) && arguments(function).as_ref() == Some(&self.arguments);
        Some(match is_same {
            true => Ok(column),
            false => mistake(
                expression.span(),
                format!("{name} is of another window than GROUP BY has"),
                "give it the same arguments as there",
            ),
        })
    }
}

fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

fn milliseconds(expression: &Expr) -> Option<i64> {
    let Expr::Interval(interval) = expression else { return None };
    let Expr::Value(value) = interval.value.as_ref() else { return None };
    let Value::SingleQuotedString(number) = &value.value else { return None };
    if interval.last_field.is_some() {
        return None;
    }
    dialect::milliseconds(number.trim().parse().ok()?, &interval.leading_field.as_ref()?.to_string())
}

/// A column that is named, with or without its table.
fn column(expression: &Expr) -> Option<Name> {
    let name = match expression {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(names) => names.last()?,
        _ => return None,
    };
    Some(Name { text: name.value.clone(), span: name.span })
}

/// The columns that sessions are of.
fn columns_of(groups: &[Expr]) -> Found<Vec<Name>> {
    let name = |group: &Expr| match column(group) {
        Some(name) => Ok(name),
        None => mistake(
            group.span(),
            "a SESSION in GROUP BY stands beside columns, and not beside expressions",
            "compute the expression in a view, and group by its column",
        ),
    };
    groups.iter().map(name).collect()
}

/// What the windowed rows are called: in operator ids, and by the rest of the query.
fn names_of(from: &[TableWithJoins], span: Span) -> (Name, String) {
    let rows = || Name { text: "rows".to_owned(), span };
    match from.first().map(|from| &from.relation) {
        Some(TableFactor::Table { name, alias, .. }) => {
            let name = name.0.last().and_then(|part| part.as_ident());
            let own = name.map_or_else(rows, |name| Name { text: name.value.clone(), span: name.span });
            let alias = alias.as_ref().map_or_else(|| own.text.clone(), |alias| alias.name.value.clone());
            // What stands for a window table function is no name of the user's.
            (if own.text.starts_with("__window_") { rows() } else { own }, alias)
        }
        Some(TableFactor::Derived { alias: Some(alias), .. }) => {
            (Name { text: alias.name.value.clone(), span }, alias.name.value.clone())
        }
        _ => (rows(), rows().text),
    }
}

/// The part that holds what a query reads and filters.
fn part(name: &str, select: &mut Select) -> Found<Cte> {
    let mut with = parsed(&format!("WITH `{name}` AS (SELECT * FROM t) SELECT 1"))?.with;
    let part = with.as_mut().and_then(|with| with.cte_tables.pop());
    let Some(mut part) = part else { return internal() };
    let SetExpr::Select(inner) = part.query.body.as_mut() else { return internal() };
    inner.from = std::mem::take(&mut select.from);
    inner.selection = select.selection.take();
    Ok(part)
}

fn from_of(name: &str, alias: &str) -> Found<Vec<TableWithJoins>> {
    match *parsed(&format!("SELECT * FROM `{name}` AS `{}`", alias.replace('`', "``")))?.body {
        SetExpr::Select(select) => Ok(select.from),
        _ => internal(),
    }
}

fn parsed(sql: &str) -> Found<Box<ast::Query>> {
    let parsed =
        Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut parser| parser.parse_query());
    parsed.or_else(|error| mistake(Span::empty(), error.to_string(), ""))
}

fn internal<T>() -> Found<T> {
    mistake(
        Span::empty(),
        "the window cannot be rewritten",
        "write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), …))",
    )
}
