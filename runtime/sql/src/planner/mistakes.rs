//! DataFusion's and sqlparser's errors, in words and places that a user understands.

use datafusion_common::{DataFusionError, SchemaError};
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::diagnostic::Diagnostic;
use crate::similar::closest;

/// What was compiled, or all mistakes in it.
pub type Compiled<T> = Result<T, Vec<Diagnostic>>;

/// A mistake where a word or sign stands.
pub fn at(span: Span, message: impl Into<String>) -> Diagnostic {
    let length =
        if span.start.line == span.end.line { span.end.column.saturating_sub(span.start.column) } else { 1 };
    Diagnostic::at(span.start.line, span.start.column, length, message)
}

/// Describes an error of planning that is about what stands here, if it says no other place itself.
pub fn placed(error: &DataFusionError, span: Span) -> Diagnostic {
    let mut mistake = from_planner(error, &[]);
    if mistake.line == 0 {
        let place = at(span, "");
        (mistake.line, mistake.column, mistake.length) = (place.line, place.column, place.length);
    }
    mistake
}

/// Describes an error of planning; `tokens` are those of the statement it came from.
pub fn from_planner(error: &DataFusionError, tokens: &[TokenWithSpan]) -> Diagnostic {
    let mut place = diagnostic_span(error);
    let root = root_of(error);
    let (message, hint) = match root {
        DataFusionError::SchemaError(schema, _) => schema_words(schema),
        other => plain_words(&other.strip_backtrace()),
    };
    if place.is_none() {
        place = quoted_name(&message).and_then(|name| find_name(tokens, name));
    }
    if place.is_none() && message.contains(CANNOT_CAST) {
        place = find_name(tokens, "CAST").or_else(|| find_name(tokens, "TRY_CAST"));
    }
    let (line, column, length) = place.unwrap_or_else(|| start_of(tokens));
    let mistake = Diagnostic::at(line, column, length, message);
    match hint {
        Some(hint) => mistake.hint(hint),
        None => mistake,
    }
}

/// Describes an error of the grammar.
pub fn from_parser(error: &ParserError, tokens: &[TokenWithSpan]) -> Diagnostic {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => "the query is nested too deeply".to_owned(),
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message.to_owned(), parse_place(place)),
        None => (text, None),
    };
    let (line, column) = place.unwrap_or_else(|| {
        let end = tokens.last().map_or(Span::empty().end, |token| token.span.end);
        (end.line, end.column)
    });
    let length = tokens
        .iter()
        .find(|token| token.span.start.line == line && token.span.start.column == column)
        .map_or(1, |token| width(token.span));
    Diagnostic::at(
        line,
        column,
        length,
        message.replace("Expected: ", "expected ").replace("found: ", "found "),
    )
}

fn parse_place(text: &str) -> Option<(u64, u64)> {
    let (line, column) = text.split_once(", Column: ")?;
    Some((line.trim().parse().ok()?, column.trim().parse().ok()?))
}

fn root_of(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => root_of(inner),
        DataFusionError::Shared(inner) => root_of(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, root_of),
        other => other,
    }
}

fn diagnostic_span(error: &DataFusionError) -> Option<(u64, u64, u64)> {
    let span = error.diagnostic()?.span?;
    let length =
        if span.start.line == span.end.line { span.end.column.saturating_sub(span.start.column) } else { 1 };
    Some((span.start.line, span.start.column, length))
}

/// Functions without parentheses that ask the clock: the planner takes them for columns.
const CLOCKS: [&str; 5] =
    ["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME"];

fn schema_words(error: &SchemaError) -> (String, Option<String>) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<_> = valid_fields.iter().map(|field| field.name.clone()).collect();
            let wanted = field.name();
            if CLOCKS.iter().any(|clock| wanted.eq_ignore_ascii_case(clock)) {
                let hint = "use the time of the rows: their event time, or a column of their table";
                return (format!("{} is not supported yet", wanted.to_uppercase()), Some(hint.to_owned()));
            }
            let hint = match closest(wanted, &names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the columns are: {}", names.join(", ")),
            };
            (format!("there is no column '{wanted}'"), Some(hint))
        }
        SchemaError::AmbiguousReference { field } => (
            format!("the column '{}' is in more than one table", field.name()),
            Some("put the table's name before it: table.column".to_owned()),
        ),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            (format!("the column '{name}' occurs twice"), Some("rename one of them with AS".to_owned()))
        }
    }
}

/// In the message of a conversion that there is none of.
pub const CANNOT_CAST: &str = "cannot be CAST to";

/// What stands between an error of ours and what to write instead, in the planner's errors.
pub const HINT: &str = "\nhint: ";

fn plain_words(text: &str) -> (String, Option<String>) {
    if let Some(what) = text.strip_prefix("This feature is not implemented: ") {
        let first = what.lines().next().unwrap_or(what);
        let is_sentence = first.contains(" not ") || first.starts_with("Unsupported");
        return (if is_sentence { first.to_owned() } else { format!("{first} is not supported") }, None);
    }
    let text = text.trim_start_matches("Error during planning: ").trim_start_matches("Execution error: ");
    if let Some((message, hint)) = text.split_once(HINT) {
        return (message.to_owned(), Some(hint.to_owned()));
    }
    let first = text.lines().next().unwrap_or(text);
    if let Some(rest) = first.strip_prefix("Invalid function '") {
        let name = rest.split('\'').next().unwrap_or(rest);
        let known: Vec<String> =
            crate::functions::names().chain(crate::functions::aggregates::NAMES).map(str::to_owned).collect();
        let hint = match closest(&name.to_lowercase(), &known) {
            Some(similar) => format!("did you mean {}?", similar.to_uppercase()),
            None => "docs/reference/functions.md lists the functions".to_owned(),
        };
        return (format!("there is no function '{}'", name.to_uppercase()), Some(hint));
    }
    if let Some(rest) = first.strip_prefix("Internal error: Function '") {
        let name = rest.split('\'').next().unwrap_or(rest).to_uppercase();
        let hint = match name.as_str() {
            "COUNT" => {
                "COUNT takes one value; of several, write COUNT(DISTINCT CONCAT_WS(',', a, b))".to_owned()
            }
            _ => "docs/reference/functions.md says what it takes".to_owned(),
        };
        return (format!("the arguments of '{name}' do not fit"), Some(hint));
    }
    if let Some(rest) =
        first.strip_prefix("Projections require unique expression names but the expression \"")
        && let Some((column, _)) = rest.split_once('"')
    {
        let name = column.rsplit('.').next().unwrap_or(column);
        let hint = "rename one of them with AS; `*` has all columns already";
        return (format!("the column '{name}' occurs twice"), Some(hint.to_owned()));
    }
    // Of our own functions, within the planner's words.
    if let Some((_, rest)) = first.split_once("the arguments of ")
        && let Some((name, usage)) = rest.split_once(" do not fit; usage: ")
    {
        let usage = usage.split_once(". No function matches").map_or(usage, |(usage, _)| usage);
        return (
            format!("the arguments of '{}' do not fit", name.to_uppercase()),
            Some(format!("write {usage}")),
        );
    }
    if let Some((_, rest)) = first.split_once("While expanding wildcard, column \"")
        && let Some((column, _)) = rest.split_once('"')
    {
        let name = column.rsplit('.').next().unwrap_or(column);
        let message = format!("the column '{name}' is neither grouped nor aggregated");
        return (message, Some(format!("add it to GROUP BY, or say which one is meant: MAX({name})")));
    }
    (first.to_owned(), None)
}

fn quoted_name(message: &str) -> Option<&str> {
    let mut parts = message.split('\'');
    parts.next()?;
    parts.next()
}

/// The place of the first word that is this name, or the last part of it, or of the text that it is.
pub fn find_name(tokens: &[TokenWithSpan], name: &str) -> Option<(u64, u64, u64)> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let token = tokens.iter().find(|token| match &token.token {
        Token::Word(word) => word.value.eq_ignore_ascii_case(name) || word.value == last,
        Token::SingleQuotedString(text) => text == name,
        _ => false,
    })?;
    Some((token.span.start.line, token.span.start.column, width(token.span)))
}

fn start_of(tokens: &[TokenWithSpan]) -> (u64, u64, u64) {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    first.map_or((0, 0, 1), |token| (token.span.start.line, token.span.start.column, width(token.span)))
}

fn width(span: Span) -> u64 {
    if span.start.line == span.end.line {
        span.end.column.saturating_sub(span.start.column).max(1)
    } else {
        1
    }
}
