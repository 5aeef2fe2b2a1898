//! What the grammar allows and this release does not run, refused by name where it stands.

use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, GroupByExpr, Query,
    Select, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, visit_expressions,
};
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::like::{escape_of, like_pattern, text_of};
use super::special_forms::extracted;
use crate::diagnostic::Diagnostic;
use crate::dialect::Query as Source;
use crate::functions::aggregates;
use crate::plan::{AggregateFunction, function};

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
        self.tell(format!("{what} is not supported yet"), hint, span, keywords);
    }

    fn tell(&mut self, message: String, hint: &str, span: Span, keywords: &[&str]) {
        let (line, column, length) =
            self.keyword(keywords, span).unwrap_or((span.start.line, span.start.column, 1));
        self.mistakes.push(Diagnostic::at(line, column, length, message).hint(hint));
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
            for table in &with.cte_tables {
                if table.materialized.is_some() || table.from.is_some() {
                    self.refuse("MATERIALIZED", "remove it", span, &["MATERIALIZED", "FROM"]);
                }
                self.query(&table.query);
            }
        }
        if query.order_by.is_some() {
            self.refuse("ORDER BY", "a stream has no end to sort at; remove it", span, &["ORDER"]);
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            self.refuse("LIMIT", "a stream has no end; remove it", span, &["LIMIT", "OFFSET", "FETCH"]);
        }
        if !query.locks.is_empty() || query.for_clause.is_some() {
            self.refuse("FOR UPDATE", "remove it: nothing is locked", span, &["FOR"]);
        }
        if query.settings.is_some() {
            self.refuse("SETTINGS", "remove it", span, &["SETTINGS"]);
        }
        if query.format_clause.is_some() {
            self.refuse("FORMAT", "the sink's table says its format", span, &["FORMAT"]);
        }
        if !query.pipe_operators.is_empty() {
            self.refuse("|>", "write SELECT … FROM …", span, &[]);
        }
        self.body(&query.body);
    }

    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::Values(values) => {
                if values.value_keyword {
                    let hint = "write VALUES (…), (…)";
                    self.refuse("this form of VALUES", hint, body.span(), &["VALUE"]);
                }
            }
            SetExpr::SetOperation {
                op: SetOperator::Union,
                set_quantifier: SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None,
                left,
                right,
            } => {
                self.body(left);
                self.body(right);
            }
            SetExpr::SetOperation { op, .. } => {
                let name = op.to_string();
                self.refuse(&name, "use UNION and a filter", body.span(), &[&name]);
            }
            other => self.refuse("this kind of query", "write SELECT … FROM …", other.span(), &["TABLE"]),
        }
    }

    fn select(&mut self, select: &Select) {
        let span = select.span();
        if let Some(ast::Distinct::On(_)) = select.distinct {
            self.refuse("SELECT DISTINCT ON", "use GROUP BY", span, &["DISTINCT"]);
        }
        if select.from.len() > 1 {
            self.refuse("a join", "read from one table or view", span, &["FROM"]);
        }
        for (is_there, what) in [
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "INTO"),
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.connect_by.is_empty(), "CONNECT"),
            (!select.cluster_by.is_empty(), "CLUSTER"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE"),
            (!select.sort_by.is_empty(), "SORT"),
            (!select.lateral_views.is_empty(), "LATERAL"),
            (!select.named_window.is_empty(), "WINDOW"),
            (select.exclude.is_some(), "EXCLUDE"),
            (matches!(select.value_table_mode, Some(ast::ValueTableMode::AsStruct)), "STRUCT"),
            (select.value_table_mode.is_some(), "AS VALUE"),
        ] {
            if is_there {
                self.refuse(what, "remove it", span, &[what]);
            }
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
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
        for modifier in modifiers {
            let hint = "write one INSERT INTO for each set";
            self.refuse(&modifier.to_string(), hint, span, &["ROLLUP", "CUBE", "TOTALS", "SETS"]);
        }
        if let GroupByExpr::Expressions(keys, _) = &select.group_by
            && let Some(values) = keys.iter().find_map(values_of_row)
        {
            let (what, hint) = match values {
                0 => ("GROUP BY ()", "remove it: without GROUP BY aggregates are of all rows"),
                _ => ("a list in parentheses in GROUP BY", "write GROUP BY a, b"),
            };
            self.refuse(what, hint, span, &["GROUP"]);
        }
        if let GroupByExpr::Expressions(keys, _) = &select.group_by
            && let Some(name) = keys.iter().find_map(aggregate_in)
        {
            let message = format!("the aggregate {name} cannot be in GROUP BY: it is of what is grouped");
            self.tell(message, "group by columns, or group a view that has it", span, &["GROUP"]);
        }
        if select.qualify.is_some() {
            self.refuse("QUALIFY", "remove it", span, &["QUALIFY"]);
        }
        self.wildcards(select);
        self.expressions(select);
    }

    /// What other systems say of `*`: the planner drops some of it.
    fn wildcards(&mut self, select: &Select) {
        for item in &select.projection {
            let (ast::SelectItem::Wildcard(options) | ast::SelectItem::QualifiedWildcard(_, options)) = item
            else {
                continue;
            };
            for (is_there, what) in [
                (options.opt_ilike.is_some(), "ILIKE"),
                (options.opt_exclude.is_some(), "EXCLUDE"),
                (options.opt_except.is_some(), "EXCEPT"),
                (options.opt_replace.is_some(), "REPLACE"),
                (options.opt_rename.is_some(), "RENAME"),
                (options.opt_alias.is_some(), "AS"),
            ] {
                if is_there {
                    self.refuse(&format!("* {what}"), "name the columns", item.span(), &[what]);
                }
            }
        }
    }

    fn table(&mut self, table: &TableFactor) {
        match table {
            TableFactor::Table { args: None, .. } => self.plain_table(table),
            TableFactor::MatchRecognize { .. } => {
                self.refuse("MATCH_RECOGNIZE", "use a window", table.span(), &["MATCH_RECOGNIZE"]);
            }
            TableFactor::Derived { subquery, lateral: false, sample, .. } => {
                if sample.is_some() {
                    self.refuse("TABLESAMPLE", "filter with WHERE", table.span(), &["TABLESAMPLE", "SAMPLE"]);
                }
                self.query(subquery);
            }
            TableFactor::Derived { lateral: true, .. } | TableFactor::Function { lateral: true, .. } => {
                self.refuse("LATERAL", "read from one table or view", Span::empty(), &["LATERAL"]);
            }
            TableFactor::UNNEST { .. } => {
                self.refuse("UNNEST", "take single elements: array[1]", Span::empty(), &["UNNEST"]);
            }
            TableFactor::Pivot { .. } => {
                self.refuse("PIVOT", "use SUM(…) FILTER (WHERE …) and GROUP BY", table.span(), &["PIVOT"]);
            }
            TableFactor::Unpivot { .. } => {
                self.refuse("UNPIVOT", "use UNION ALL", table.span(), &["UNPIVOT"]);
            }
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

    /// A table that is named: the planner drops what else is said of it.
    fn plain_table(&mut self, table: &TableFactor) {
        let TableFactor::Table {
            with_hints, version, with_ordinality, partitions, sample, index_hints, ..
        } = table
        else {
            return;
        };
        let span = table.span();
        let names: Vec<String> = match table {
            TableFactor::Table { name, .. } => name.0.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let qualifiers = names.len().saturating_sub(1);
        if !["default_catalog", "default_database"]
            .ends_with(&names[..qualifiers].iter().map(|name| name.trim_matches('`')).collect::<Vec<_>>())
        {
            let message = format!(
                "there is no table '{}': catalogs and databases are not supported yet",
                names.join(".")
            );
            self.tell(message, "name the table alone", span, &[]);
        }
        for (is_there, what, hint, keywords) in [
            (!with_hints.is_empty(), "a table hint", "remove it", &["WITH"][..]),
            (!index_hints.is_empty(), "an index hint", "remove it", &["USE", "FORCE", "IGNORE"]),
            (version.is_some(), "FOR SYSTEM_TIME AS OF", "read the table as it is", &["FOR"]),
            (*with_ordinality, "WITH ORDINALITY", "remove it", &["WITH"]),
            (!partitions.is_empty(), "PARTITION", "filter with WHERE", &["PARTITION"]),
            (sample.is_some(), "TABLESAMPLE", "filter with WHERE", &["TABLESAMPLE", "SAMPLE"]),
        ] {
            if is_there {
                self.refuse(what, hint, span, keywords);
            }
        }
    }

    fn expressions(&mut self, select: &Select) {
        if select.projection.is_empty() {
            let hint = "name what to select, or write * for all columns";
            self.refuse("a SELECT without columns", hint, select.select_token.0.span, &["SELECT"]);
        }
        let mut refused: Vec<Refusal> = Vec::new();
        let (mut units, mut without_unit) = (Vec::new(), Vec::new());
        let _ = visit_expressions(select, |expression| {
            match expression {
                Expr::Function(function) => {
                    function_parts(function, expression.span(), &mut refused);
                    refused.extend(repeated(function).map(|name| of_chance(&name, expression.span())));
                }
                Expr::Between { expr, .. } if has_chance(expr) => {
                    refused.push(of_chance("BETWEEN", expression.span()));
                }
                Expr::Extract { field, .. } if extracted(field).is_none() => units.push(field.to_string()),
                Expr::Interval(interval) if interval.leading_field.is_none() => {
                    without_unit.push(expression.span());
                }
                Expr::BinaryOp { op, .. } if !is_known(op) => refused.push((
                    format!("the operator {op}"),
                    "use operators and functions of Flink",
                    expression.span(),
                    &[],
                )),
                Expr::Cast { kind: ast::CastKind::DoubleColon | ast::CastKind::SafeCast, .. } => refused
                    .push((
                        "this form of a cast".to_owned(),
                        "write CAST(value AS type), or TRY_CAST",
                        expression.span(),
                        &["SAFE_CAST"],
                    )),
                Expr::JsonAccess { .. }
                | Expr::IsNormalized { .. }
                | Expr::InUnnest { .. }
                | Expr::AnyOp { .. }
                | Expr::AllOp { .. }
                | Expr::Convert { .. }
                | Expr::Prefixed { .. }
                | Expr::Struct { .. }
                | Expr::Dictionary(_)
                | Expr::MatchAgainst { .. }
                | Expr::Lambda(_)
                | Expr::MemberOf(_) => refused.push((
                    format!("the expression {}", shortened(&expression.to_string())),
                    "use operators and functions of Flink",
                    expression.span(),
                    &[],
                )),
                Expr::Value(value) if is_other_literal(&value.value) => refused.push((
                    format!("the literal {}", shortened(&value.value.to_string())),
                    "write a text in single quotes, a number, TRUE, FALSE or NULL",
                    expression.span(),
                    &[],
                )),
                Expr::Cast { format: Some(_), .. } => refused.push((
                    "CAST with a FORMAT".to_owned(),
                    "use DATE_FORMAT, TO_DATE or TO_TIMESTAMP",
                    expression.span(),
                    &["FORMAT"],
                )),
                Expr::Cast {
                    data_type:
                        ast::DataType::Timestamp(_, ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz),
                    ..
                } => refused.push((
                    "CAST to TIMESTAMP WITH TIME ZONE".to_owned(),
                    "use TIMESTAMP_LTZ, a point in time",
                    expression.span(),
                    &["TIMESTAMP"],
                )),
                Expr::Cast { data_type: ast::DataType::Timestamp(Some(digits), _), .. } if *digits > 9 => {
                    refused.push((
                        format!("CAST to TIMESTAMP({digits})"),
                        "give 0 to 9 digits of a second",
                        expression.span(),
                        &["TIMESTAMP"],
                    ))
                }
                Expr::Cast { data_type: ast::DataType::Binary(Some(length)), .. }
                    if !(1..=BINARY_MAX).contains(length) =>
                {
                    refused.push((
                        format!("CAST to BINARY({length})"),
                        "give 1 to 65536 bytes, or use BYTES",
                        expression.span(),
                        &["BINARY"],
                    ))
                }
                Expr::Cast { array: true, .. } => refused.push((
                    "CAST to an array of a key".to_owned(),
                    "write CAST(value AS type)",
                    expression.span(),
                    &["ARRAY"],
                )),
                Expr::AtTimeZone { .. } => refused.push((
                    "AT TIME ZONE".to_owned(),
                    "the time zone of a job is UTC; add an INTERVAL",
                    Span::empty(),
                    &["AT"],
                )),
                Expr::Collate { .. } => {
                    refused.push(("COLLATE".to_owned(), "remove it", expression.span(), &["COLLATE"]));
                }
                Expr::Trim { trim_characters: Some(_), .. } => refused.push((
                    "TRIM with a second argument".to_owned(),
                    "write TRIM(BOTH 'characters' FROM value), or BTRIM(value, 'characters')",
                    Span::empty(),
                    &["TRIM"],
                )),
                Expr::SimilarTo { .. } => refused.push((
                    "SIMILAR TO".to_owned(),
                    "use REGEXP(value, 'pattern') with a Java regular expression",
                    Span::empty(),
                    &["SIMILAR"],
                )),
                Expr::ILike { .. } => {
                    refused.push((
                        "ILIKE".to_owned(),
                        "use LOWER(value) LIKE 'pattern'",
                        Span::empty(),
                        &["ILIKE"],
                    ));
                }
                Expr::RLike { .. } => {
                    refused.push((
                        "RLIKE".to_owned(),
                        "use REGEXP(value, 'pattern')",
                        Span::empty(),
                        &["RLIKE", "REGEXP"],
                    ));
                }
                Expr::Like { pattern, escape_char: Some(escape), .. } => {
                    let fits = escape_of(escape).and_then(|escape| match text_of(pattern) {
                        Some(pattern) => like_pattern(pattern, Some(escape)).map(drop),
                        None => Err("write the pattern in quotes, or leave ESCAPE out"),
                    });
                    if let Err(cure) = fits {
                        refused.push(("this LIKE … ESCAPE".to_owned(), cure, Span::empty(), &["ESCAPE"]));
                    }
                }
                Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                    refused.push((
                        "a subquery in an expression".to_owned(),
                        "use a view",
                        expression.span(),
                        &["SELECT"],
                    ));
                }
                Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                    refused.push((
                        "GROUPING SETS".to_owned(),
                        "write one INSERT INTO for each set",
                        Span::empty(),
                        &["GROUPING", "CUBE", "ROLLUP"],
                    ));
                }
                _ => {}
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
        for span in without_unit {
            let message = "an INTERVAL has a unit".to_owned();
            self.tell(message, "write such as INTERVAL '1' SECOND", span, &["INTERVAL"]);
        }
        for unit in units {
            let hint = "the units are YEAR, QUARTER, MONTH, WEEK, DAY, DOW, DOY, HOUR, MINUTE and SECOND";
            // The expression's own place is that of what it is taken from.
            self.refuse(&format!("EXTRACT of {unit}"), hint, Span::empty(), &[&unit]);
        }
        for (what, hint, span, keywords) in refused {
            self.refuse(&what, hint, span, keywords);
        }
    }
}

/// Operators of Flink's.
fn is_known(op: &ast::BinaryOperator) -> bool {
    use ast::BinaryOperator::{
        And, Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Or, Plus, StringConcat,
    };
    matches!(
        op,
        And | Divide
            | Eq
            | Gt
            | GtEq
            | Lt
            | LtEq
            | Minus
            | Modulo
            | Multiply
            | NotEq
            | Or
            | Plus
            | StringConcat
    )
}

/// Bytes of a value that is filled up: a batch of them must fit into memory.
const BINARY_MAX: u64 = 65536;

/// Literals of other systems.
fn is_other_literal(value: &ast::Value) -> bool {
    use ast::Value::{Boolean, HexStringLiteral, Null, Number, Placeholder, SingleQuotedString};
    !matches!(
        value,
        Boolean(_) | HexStringLiteral(_) | Null | Number(..) | Placeholder(_) | SingleQuotedString(_)
    )
}

/// As much of a text as a message needs.
fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    match text.chars().count() > MOST {
        true => text.chars().take(MOST).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// How many values a row has that is written in parentheses alone.
fn values_of_row(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Tuple(values) => Some(values.len()),
        _ => None,
    }
}

/// An aggregate within an expression.
fn aggregate_in(expression: &Expr) -> Option<String> {
    let found = visit_expressions(expression, |inner| match inner {
        Expr::Function(function) if is_aggregate(function) => {
            std::ops::ControlFlow::Break(function.name.to_string().to_uppercase())
        }
        _ => std::ops::ControlFlow::Continue(()),
    });
    found.break_value()
}

/// What makes several of its argument, each of which would have another value.
fn of_chance(name: &str, span: Span) -> Refusal {
    let hint = "give the value a name in a subquery: … FROM (SELECT RAND() AS r FROM …) AS t";
    (format!("{name} of a value of chance"), hint, span, &[])
}

/// The name of a function that is made of others which take its argument several times, if that is a value of chance.
fn repeated(function: &ast::Function) -> Option<String> {
    let name = function.name.to_string().to_uppercase();
    let is_made = ["COALESCE", "IFNULL", "NULLIF"].contains(&name.as_str())
        || aggregates::spread(&name.to_lowercase()).is_some();
    let ast::FunctionArguments::List(list) = &function.args else { return None };
    let is_of_chance = |argument: &ast::FunctionArg| match argument {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(value)) => has_chance(value),
        _ => false,
    };
    (is_made && list.args.iter().any(is_of_chance)).then_some(name)
}

fn has_chance(expression: &Expr) -> bool {
    let found = visit_expressions(expression, |inner| match inner {
        Expr::Function(function)
            if function::CHANCES.contains(&function.name.to_string().to_ascii_lowercase().as_str()) =>
        {
            std::ops::ControlFlow::Break(())
        }
        _ => std::ops::ControlFlow::Continue(()),
    });
    found.is_break()
}

fn is_aggregate(function: &ast::Function) -> bool {
    let name = function.name.to_string();
    aggregates::NAMES.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

/// What is refused, what to do instead, and from where on which of the words is meant.
type Refusal = (String, &'static str, Span, &'static [&'static str]);

/// Parts of a call that the planner would leave out without a word.
fn function_parts(function: &ast::Function, span: Span, refused: &mut Vec<Refusal>) {
    let name = function.name.to_string().to_uppercase();
    let is_aggregate = is_aggregate(function);
    let mut refuse = |what: String, hint: &'static str, keywords: &'static [&'static str]| {
        refused.push((what, hint, span, keywords));
    };
    if function.parameters != FunctionArguments::None {
        refuse(format!("a second list of arguments of {name}"), "write one list", &[]);
    }
    if name == "UNNEST" {
        refuse(name.clone(), "take single elements: array[1]", &["UNNEST"]);
    }
    if function.over.is_some() {
        refuse("OVER".to_owned(), "use GROUP BY with a window table function", &["OVER"]);
    }
    if function.filter.is_some() && !is_aggregate {
        refuse(format!("FILTER of {name}"), "only aggregates have it; use CASE WHEN … THEN …", &["FILTER"]);
    }
    if !function.within_group.is_empty() {
        refuse(format!("WITHIN GROUP of {name}"), "remove it: rows are taken as they come", &["WITHIN"]);
    }
    let FunctionArguments::List(list) = &function.args else { return };
    if list.duplicate_treatment.is_some() {
        let is_of_all = list
            .args
            .iter()
            .any(|argument| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Wildcard)));
        if !is_aggregate {
            refuse(format!("DISTINCT in {name}"), "only aggregates have it", &["DISTINCT", "ALL"]);
        } else if is_of_all {
            let hint = "name the columns: COUNT(DISTINCT CONCAT_WS(',', a, b))";
            refuse(format!("{name}(DISTINCT *)"), hint, &["DISTINCT", "ALL"]);
        }
    }
    if function.null_treatment.is_some() {
        refuse(format!("IGNORE NULLS of {name}"), "filter with FILTER or WHERE", &["IGNORE", "RESPECT"]);
    }
    for clause in &list.clauses {
        match clause {
            FunctionArgumentClause::OrderBy(_) => {
                let hint = match aggregates::by_name(&name).is_some_and(AggregateFunction::minds_order) {
                    true => "remove it: rows are taken as they come",
                    false => "its result does not depend on an order",
                };
                refuse(format!("ORDER BY in {name}"), hint, &["ORDER"]);
            }
            FunctionArgumentClause::Limit(_) => refuse(format!("LIMIT in {name}"), "remove it", &["LIMIT"]),
            FunctionArgumentClause::Having(_) => {
                refuse(format!("HAVING in {name}"), "use FILTER", &["HAVING"])
            }
            FunctionArgumentClause::IgnoreOrRespectNulls(_) => {
                refuse(
                    format!("IGNORE NULLS in {name}"),
                    "filter with FILTER or WHERE",
                    &["IGNORE", "RESPECT"],
                );
            }
            other => refuse(format!("{other} in {name}"), "remove it", &[]),
        }
    }
}
