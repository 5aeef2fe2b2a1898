//! DataFusion's and sqlparser's errors, in words and places that a user understands.

use datafusion_common::DataFusionError;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::words::{self, Words};
use crate::diagnostic::Diagnostic;

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
    let Words { message, hint, keywords } = match root {
        DataFusionError::SchemaError(schema, _) => words::of_schema(schema),
        other => words::of_text(&other.strip_backtrace()),
    };
    if place.is_none() {
        place = quoted_name(&message).and_then(|name| find_name(tokens, name));
    }
    if place.is_none() {
        let sign = |sign: &str| tokens.iter().find(|token| token.token.to_string() == sign);
        let placed =
            |token: &TokenWithSpan| (token.span.start.line, token.span.start.column, width(token.span));
        let find = |keyword: &&str| find_name(tokens, keyword).or_else(|| sign(keyword).map(placed));
        place = keywords.iter().find_map(find);
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
    let token =
        tokens.iter().find(|token| token.span.start.line == line && token.span.start.column == column);
    let length = token.map_or(1, |token| width(token.span));
    if let Some(token) = token.filter(|_| message.starts_with("No infix parser for token ")) {
        let message = format!("'{}' is no operator", token.token);
        return Diagnostic::at(line, column, length, message)
            .hint("put a comma or an operator before it, or AS if it is a name");
    }
    let message = message.replace("Expected: ", "expected ").replace("found: ", "found ");
    Diagnostic::at(line, column, length, message)
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
