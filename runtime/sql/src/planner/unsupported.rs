//! What the grammar allows and this release does not run, refused by name where it stands.

use sqlparser::ast::{
    self, Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Spanned, TableFactor, visit_expressions,
};
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::diagnostic::Diagnostic;
use crate::dialect::Query as Source;

/// Finds every construct of a query that cannot run.
pub fn check(query: &Query, source: &Source) -> Vec<Diagnostic> {
    let mut found = Found { source, mistakes: Vec::new() };
    found.query(query);
    found.mistakes
}

struct Found<'a> {
    source: &'a Source,
    mistakes: Vec<Diagnostic>,
}

impl Found<'_> {
    fn refuse(&mut self, what: &str, hint: &str, span: Span, keywords: &[&str]) {
        let (line, column, length) =
            self.keyword(keywords, span).unwrap_or((span.start.line, span.start.column, 1));
        self.mistakes
            .push(Diagnostic::at(line, column, length, format!("{what} is not supported yet")).hint(hint));
    }

    /// The first of the keywords at or after a place.
    fn keyword(&self, keywords: &[&str], from: Span) -> Option<(u64, u64, u64)> {
        let is_wanted = |token: &&TokenWithSpan| {
            let Token::Word(word) = &token.token else { return false };
            let is_after =
                (token.span.start.line, token.span.start.column) >= (from.start.line, from.start.column);
            is_after && keywords.iter().any(|keyword| word.value.eq_ignore_ascii_case(keyword))
        };
        let token = self.source.tokens.iter().find(is_wanted)?;
        let (start, end) = (token.span.start, token.span.end);
        Some((start.line, start.column, end.column.saturating_sub(start.column)))
    }

    fn query(&mut self, query: &Query) {
        let span = query.span();
        if let Some(with) = &query.with {
            if with.recursive {
                self.refuse("WITH RECURSIVE", "write the query without recursion", span, &["RECURSIVE"]);
            }
            with.cte_tables.iter().for_each(|table| self.query(&table.query));
        }
        if query.order_by.is_some() {
            self.refuse("ORDER BY", "a stream has no end to sort at; remove it", span, &["ORDER"]);
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            self.refuse("LIMIT", "a stream has no end; remove it", span, &["LIMIT", "OFFSET", "FETCH"]);
        }
        self.body(&query.body);
    }

    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { op, .. } => {
                let name = op.to_string();
                self.refuse(&name, "use one INSERT INTO for each of the queries", body.span(), &[&name]);
            }
            other => {
                self.refuse("this kind of query", "write SELECT … FROM …", other.span(), &["VALUES", "TABLE"])
            }
        }
    }

    fn select(&mut self, select: &Select) {
        let span = select.span();
        if select.distinct.is_some() {
            self.refuse("SELECT DISTINCT", "group by the columns inside of a window", span, &["DISTINCT"]);
        }
        if select.from.len() > 1 {
            self.refuse("a join", "read from one table or view", span, &["FROM"]);
        }
        for from in &select.from {
            if !from.joins.is_empty() {
                self.refuse("JOIN", "read from one table or view", span, &["JOIN"]);
            }
            self.table(&from.relation);
        }
        if let GroupByExpr::All(_) = &select.group_by {
            self.refuse("GROUP BY ALL", "name the columns", span, &["GROUP"]);
        }
        if select.qualify.is_some() {
            self.refuse("QUALIFY", "remove it", span, &["QUALIFY"]);
        }
        for item in &select.projection {
            if let SelectItem::QualifiedWildcard(..) = item {
                self.refuse("table.*", "name the columns", item.span(), &[]);
            }
        }
        self.expressions(select);
    }

    fn table(&mut self, table: &TableFactor) {
        match table {
            TableFactor::Table { args: None, .. } => {}
            TableFactor::Derived { subquery, lateral: false, .. } => self.query(subquery),
            TableFactor::NestedJoin { .. } => {
                self.refuse("JOIN", "read from one table or view", table.span(), &["JOIN"])
            }
            other => self.refuse(
                "this table expression",
                "read from a table, view or window function",
                other.span(),
                &[],
            ),
        }
    }

    fn expressions(&mut self, select: &Select) {
        let mut refused: Vec<(&str, &str, Span, &[&str])> = Vec::new();
        let _ = visit_expressions(select, |expression| {
            match expression {
                Expr::Function(function) => function_parts(function, expression.span(), &mut refused),
                Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                    refused.push((
                        "a subquery in an expression",
                        "use a view",
                        expression.span(),
                        &["SELECT"],
                    ));
                }
                Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                    refused.push((
                        "GROUPING SETS",
                        "write one INSERT INTO for each set",
                        expression.span(),
                        &[],
                    ));
                }
                _ => {}
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
        for (what, hint, span, keywords) in refused {
            self.refuse(what, hint, span, keywords);
        }
    }
}

fn function_parts<'a>(
    function: &ast::Function,
    span: Span,
    refused: &mut Vec<(&'a str, &'a str, Span, &'a [&'a str])>,
) {
    if function.over.is_some() {
        refused.push(("OVER", "use GROUP BY with a window table function", span, &["OVER"]));
    }
    if function.filter.is_some() {
        refused.push(("FILTER", "aggregate a CASE expression instead", span, &["FILTER"]));
    }
    if let ast::FunctionArguments::List(list) = &function.args
        && list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct)
    {
        refused.push(("an aggregate of DISTINCT values", "remove DISTINCT", span, &["DISTINCT"]));
    }
}
