//! Window table functions: found among the tokens of a query and replaced by names.
//!
//! `TABLE(TUMBLE(TABLE bid, DESCRIPTOR(ts), INTERVAL '10' SECOND))` is grammar that the SQL parser does not know.
//! It becomes one quoted name, under which the planner finds the windowed table.

use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Parsed, at_span, is_word, mistake};
use super::statement::Name;
use crate::plan::Window;

/// One call of a window table function.
#[derive(Debug, Clone)]
pub struct WindowCall {
    /// The name that stands for the call in the query.
    pub placeholder: String,
    /// `tumble`, `hop`, `cumulate` or `session`.
    pub kind: &'static str,
    /// What is windowed: a table, a view, or a part that WITH names.
    pub table: Name,
    /// The part of the query that is windowed in the place of the table: what is read of it.
    pub rows: Option<String>,
    pub time_column: Name,
    pub cut: Cut,
    /// PARTITION BY, which only sessions have.
    pub partition: Vec<Name>,
    pub span: Span,
}

impl WindowCall {
    /// The name of what is windowed.
    pub fn windowed(&self) -> &str {
        self.rows.as_deref().unwrap_or(&self.table.text)
    }
}

/// How a window function cuts event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Windows that are the same for all keys.
    Windows(Window),
    /// Windows of each key, from its first row to this long after its last.
    Sessions { gap_ms: i64 },
}

/// Replaces each window table function of a query by a name; `first` numbers the names.
pub fn replace_window_calls(
    tokens: &[TokenWithSpan],
    first: usize,
) -> Parsed<(Vec<TokenWithSpan>, Vec<WindowCall>)> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut calls = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        let Some(found) = find_call(&tokens[position..]) else {
            out.push(tokens[position].clone());
            position += 1;
            continue;
        };
        let call = window_call(&tokens[position..position + found.length], found, first + calls.len())?;
        let word = Word { value: call.placeholder.clone(), quote_style: Some('`'), keyword: no_keyword() };
        out.push(TokenWithSpan { token: Token::Word(word), span: call.span });
        position += found.length;
        calls.push(call);
    }
    Ok((out, calls))
}

fn no_keyword() -> sqlparser::keywords::Keyword {
    sqlparser::keywords::Keyword::NoKeyword
}

#[derive(Clone, Copy)]
struct Found {
    length: usize,
    is_wrapped: bool,
}

/// Sees whether `TABLE ( KIND (` or `KIND ( TABLE` starts here, and how many tokens the whole call has.
fn find_call(tokens: &[TokenWithSpan]) -> Option<Found> {
    let significant: Vec<usize> = (0..tokens.len())
        .filter(|index| !matches!(tokens[*index].token, Token::Whitespace(_)))
        .take(4)
        .collect();
    if significant.first() != Some(&0) {
        return None;
    }
    let token = |n: usize| significant.get(n).map(|index| &tokens[*index].token);
    let is = |n: usize, text: &str| matches!(token(n), Some(Token::Word(word)) if is_word(word, text));
    let is_kind = |n: usize| ["TUMBLE", "HOP", "CUMULATE", "SESSION"].iter().any(|kind| is(n, kind));
    let is_open = |n: usize| token(n) == Some(&Token::LParen);
    let is_wrapped = is(0, "TABLE") && is_open(1) && is_kind(2) && is_open(3);
    let is_bare = is_kind(0) && is_open(1) && (is(2, "TABLE") || is(2, "DATA"));
    if !is_wrapped && !is_bare {
        return None;
    }
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return Some(Found { length: index + 1, is_wrapped }),
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Some(Found { length: tokens.len(), is_wrapped })
}

fn window_call(tokens: &[TokenWithSpan], found: Found, number: usize) -> Parsed<WindowCall> {
    let span = tokens[0].span;
    let end = tokens[tokens.len() - 1].span;
    let mut cursor = Cursor::new(tokens, end);
    if found.is_wrapped {
        cursor.next();
        cursor.next();
    }
    let kind_token = cursor.next();
    let kind = match kind_token.token.to_string().to_ascii_uppercase().as_str() {
        "TUMBLE" => "tumble",
        "HOP" => "hop",
        "CUMULATE" => "cumulate",
        _ => "session",
    };
    cursor.expect(&Token::LParen)?;
    parameter(&mut cursor, "DATA");
    cursor.expect_word("TABLE")?;
    let table = Name::parse(&mut cursor, "the name of a table or view")?;
    let partition = if kind == "session" { partition_by(&mut cursor)? } else { Vec::new() };
    cursor.expect(&Token::Comma)?;
    parameter(&mut cursor, "TIMECOL");
    cursor.expect_word("DESCRIPTOR")?;
    cursor.expect(&Token::LParen)?;
    let time_column = Name::parse(&mut cursor, "the event-time column")?;
    cursor.expect(&Token::RParen)?;
    cursor.expect(&Token::Comma)?;
    let cut = if kind == "session" { session(&mut cursor)? } else { window_arguments(&mut cursor, kind)? };
    cursor.expect(&Token::RParen)?;
    if found.is_wrapped {
        cursor.expect(&Token::RParen)?;
    }
    let placeholder = format!("__window_{number}");
    Ok(WindowCall { placeholder, kind, table, rows: None, time_column, cut, partition, span })
}

/// Parses `PARTITION BY a, b` or `PARTITION BY (a, b)`, if it is there.
fn partition_by(cursor: &mut Cursor<'_>) -> Parsed<Vec<Name>> {
    let mut columns = Vec::new();
    if !cursor.take_words(&["PARTITION", "BY"]) {
        return Ok(columns);
    }
    let is_enclosed = cursor.take(&Token::LParen);
    loop {
        columns.push(Name::parse(cursor, "a column to partition by")?);
        // The comma before DESCRIPTOR ends the list.
        let is_more = cursor.peek().token == Token::Comma && !ends_partition(&cursor.peek_second());
        if !is_more {
            break;
        }
        cursor.next();
    }
    if is_enclosed {
        cursor.expect(&Token::RParen)?;
    }
    Ok(columns)
}

fn ends_partition(token: &Token) -> bool {
    matches!(token, Token::Word(word) if is_word(word, "DESCRIPTOR") || is_word(word, "TIMECOL"))
}

fn session(cursor: &mut Cursor<'_>) -> Parsed<Cut> {
    let place = cursor.peek();
    parameter(cursor, "GAP");
    sessions(interval(cursor)?).map_err(|(message, hint)| mistake(&place, message).hint(hint))
}

/// Why there are no such windows, and how to write what was meant.
type Impossible = (&'static str, &'static str);

/// Sessions with this gap.
pub fn sessions(gap_ms: i64) -> Result<Cut, Impossible> {
    match gap_ms > 0 {
        true => Ok(Cut::Sessions { gap_ms }),
        false => Err((
            "the gap between sessions is longer than zero",
            "write a length such as INTERVAL '10' SECOND",
        )),
    }
}

/// Tumbling windows, or hopping ones if the slide is not the size.
pub fn windows(slide_ms: i64, size_ms: i64) -> Result<Cut, Impossible> {
    possible(Window { size_ms, slide_ms, offset_ms: 0, is_cumulating: false })
}

fn possible(window: Window) -> Result<Cut, Impossible> {
    impossible(&window).map_or(Ok(Cut::Windows(window)), Err)
}

fn parameter(cursor: &mut Cursor<'_>, name: &str) {
    if cursor.at_word(name) && cursor.peek_second() == Token::RArrow {
        cursor.next();
        cursor.next();
    }
}

fn window_arguments(cursor: &mut Cursor<'_>, kind: &str) -> Parsed<Cut> {
    let place = cursor.peek();
    let is_cumulating = kind == "cumulate";
    let slide_ms = if kind == "tumble" {
        None
    } else {
        parameter(cursor, if is_cumulating { "STEP" } else { "SLIDE" });
        let slide = interval(cursor)?;
        cursor.expect(&Token::Comma)?;
        Some(slide)
    };
    parameter(cursor, "SIZE");
    let size_ms = interval(cursor)?;
    let mut offset_ms = 0;
    if cursor.take(&Token::Comma) {
        parameter(cursor, "OFFSET");
        offset_ms = interval(cursor)?;
    }
    let window = Window { size_ms, slide_ms: slide_ms.unwrap_or(size_ms), offset_ms, is_cumulating };
    possible(window).map_err(|(message, hint)| mistake(&place, message).hint(hint))
}

fn impossible(window: &Window) -> Option<Impossible> {
    let Window { size_ms, slide_ms, is_cumulating, .. } = *window;
    let order = "the order is HOP(TABLE t, DESCRIPTOR(ts), slide, size)";
    let steps = "the order is CUMULATE(TABLE t, DESCRIPTOR(ts), step, size)";
    match () {
        () if size_ms <= 0 || slide_ms <= 0 => Some((
            "a window's size, and the step to the next one, are longer than zero",
            "write a length such as INTERVAL '10' SECOND",
        )),
        () if is_cumulating && size_ms % slide_ms != 0 => {
            Some(("the size of a CUMULATE window is a multiple of its step", steps))
        }
        () if slide_ms > size_ms => Some(("a HOP window slides by at most its size", order)),
        () => None,
    }
}

/// Parses `INTERVAL 'n' UNIT` into milliseconds.
fn interval(cursor: &mut Cursor<'_>) -> Parsed<i64> {
    cursor.expect_word("INTERVAL")?;
    let is_negative = cursor.take(&Token::Minus);
    let (text, span) = cursor.string("a number in single quotes")?;
    let unit_token = cursor.peek();
    let (unit, _) = cursor.name("a unit such as SECOND")?;
    if unit_ms(&unit).is_none() {
        return Err(mistake(&unit_token, format!("'{unit}' is not a unit of time for windows"))
            .hint("use MILLISECOND, SECOND, MINUTE, HOUR, DAY or WEEK"));
    }
    let fraction = unit_ms(&unit).filter(|ms| *ms == 1_000).and_then(|_| seconds(text.trim()));
    let length = match (fraction, text.trim().parse()) {
        (Some(length), _) => Some(length),
        (None, Ok(number)) => milliseconds(number, &unit),
        (None, Err(_)) => {
            let mistake = at_span(span, format!("'{text}' is not a whole number"));
            return Err(mistake.hint("write INTERVAL '10' SECOND, or '0.5' SECOND"));
        }
    };
    let length = length.ok_or_else(|| at_span(span, format!("the interval '{text}' {unit} is too long")))?;
    Ok(if is_negative { -length } else { length })
}

/// Seconds with up to three digits behind the point, in milliseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(millis)
}

/// So many units of time in milliseconds; `None`: windows have no such unit, or it is too long.
pub fn milliseconds(number: i64, unit: &str) -> Option<i64> {
    number.checked_mul(unit_ms(unit)?)
}

fn unit_ms(unit: &str) -> Option<i64> {
    Some(match unit.to_ascii_uppercase().trim_end_matches('S') {
        "MILLISECOND" => 1,
        "SECOND" => 1_000,
        "MINUTE" => 60_000,
        "HOUR" => 3_600_000,
        "DAY" => 86_400_000,
        "WEEK" => 604_800_000,
        _ => return None,
    })
}
