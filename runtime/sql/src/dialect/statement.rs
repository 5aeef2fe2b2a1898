//! Cuts a SQL text into statements.

use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::constructors::replace_constructors;
use super::create_table::{CreateTable, create_table};
use super::cursor::{Cursor, Parsed, is_word, mistake};
use super::synonyms::replace_synonyms;
use super::window::{WindowCall, replace_window_calls};
use crate::diagnostic::Diagnostic;

/// A name of the user's and where it stands.
#[derive(Debug, Clone)]
pub struct Name {
    pub text: String,
    pub span: Span,
}

/// A statement that makes up a job.
#[derive(Debug, Clone)]
pub enum Statement {
    CreateTable(CreateTable),
    CreateView(CreateView),
    Insert(Insert),
    /// A query whose rows are shown.
    Select(Query),
    Set(SetOption),
}

/// SET 'key' = 'value'.
#[derive(Debug, Clone)]
pub struct SetOption {
    pub key: Name,
    pub value: Name,
}

/// CREATE VIEW name AS query.
#[derive(Debug, Clone)]
pub struct CreateView {
    pub name: Name,
    /// Left out if the name is taken.
    pub if_not_exists: bool,
    /// Other names than those of the query.
    pub columns: Option<Vec<Name>>,
    pub query: Query,
}

/// INSERT INTO table [(columns)] query.
#[derive(Debug, Clone)]
pub struct Insert {
    pub table: Name,
    pub columns: Option<Vec<Name>>,
    pub query: Query,
}

/// A query whose window table functions are replaced by names.
#[derive(Debug, Clone)]
pub struct Query {
    pub tokens: Vec<TokenWithSpan>,
    pub windows: Vec<WindowCall>,
}

impl Name {
    pub(super) fn parse(cursor: &mut Cursor<'_>, what: &str) -> Parsed<Self> {
        let (text, span) = cursor.name(what)?;
        Ok(Name { text, span })
    }
}

/// Parses a whole text. All statements are looked at; every mistake found is returned.
pub fn parse(sql: &str) -> Result<Vec<Statement>, Vec<Diagnostic>> {
    let tokens = tokenize(sql).map_err(|mistake| vec![mistake])?;
    let mut statements = Vec::new();
    let mut mistakes = Vec::new();
    let mut windows = 0;
    let mut set = StatementSet::default();
    for part in tokens.split(|token| token.token == Token::SemiColon) {
        match set.part(part).and_then(|rest| rest.map(|rest| statement(rest, &mut windows)).transpose()) {
            Ok(statement) => statements.extend(statement),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    mistakes.extend(set.end());
    if mistakes.is_empty() { Ok(statements) } else { Err(mistakes) }
}

/// The grammar below takes a comma at the end of a list, which Flink's does not.
fn comma_before_nothing(part: &[TokenWithSpan]) -> Option<Diagnostic> {
    const ENDS: &[Keyword] = &[
        Keyword::FROM,
        Keyword::WHERE,
        Keyword::GROUP,
        Keyword::HAVING,
        Keyword::UNION,
        Keyword::ORDER,
        Keyword::LIMIT,
    ];
    let mut words = part.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).peekable();
    while let Some(token) = words.next() {
        if token.token != Token::Comma {
            continue;
        }
        let is_end = match words.peek().map(|next| &next.token) {
            None | Some(Token::RParen | Token::RBracket | Token::RBrace) => true,
            Some(Token::Word(word)) => word.quote_style.is_none() && ENDS.contains(&word.keyword),
            Some(_) => false,
        };
        if is_end {
            let next = words.peek().map_or("the end".to_owned(), |next| next.token.to_string());
            let message = format!("a comma before {next}, where something of the list should come");
            return Some(mistake(token, message).hint("remove the comma, or write what is missing"));
        }
    }
    None
}

/// Words and signs of one statement: planning goes down into expressions, and must come up again.
const WORDS_MAX: usize = 20_000;

/// EXECUTE STATEMENT SET BEGIN …; END, or BEGIN STATEMENT SET; …; END. All INSERTs of a text are one job anyway, so a set adds
/// nothing to them.
#[derive(Default)]
struct StatementSet {
    /// Where the set that has no END yet begins.
    open: Option<TokenWithSpan>,
}

impl StatementSet {
    /// The statement in a part of a text between semicolons; `None`: there is none.
    fn part<'a>(&mut self, part: &'a [TokenWithSpan]) -> Parsed<Option<&'a [TokenWithSpan]>> {
        let mut cursor = Cursor::new(part, Span::empty());
        let first = cursor.peek();
        if cursor.is_done() {
            return Ok(None);
        }
        let words = part.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).count();
        if words > WORDS_MAX {
            let message =
                format!("the statement has {words} words and signs, and at most {WORDS_MAX} are possible");
            return Err(
                mistake(&first, message).hint("read long lists from a table, and divide long expressions")
            );
        }
        let begins = cursor.take_words(&["EXECUTE", "STATEMENT", "SET"])
            || cursor.take_words(&["BEGIN", "STATEMENT", "SET"]);
        if begins {
            cursor.take_word("BEGIN");
            if self.open.is_some() {
                return Err(
                    mistake(&first, "a statement set within another one").hint("end the first one with END;")
                );
            }
            self.open = Some(first);
            return if cursor.is_done() { Ok(None) } else { self.part(cursor.rest()) };
        }
        if cursor.take_word("END") && cursor.is_done() {
            return match self.open.take() {
                Some(_) => Ok(None),
                None => Err(mistake(&first, "END without a statement set")
                    .hint("begin one with EXECUTE STATEMENT SET BEGIN, or remove END")),
            };
        }
        if self.open.is_some() && !first.token.to_string().eq_ignore_ascii_case("INSERT") {
            let word = first.token.to_string().to_uppercase();
            return Err(mistake(
                &first,
                format!("a statement set consists of INSERT INTO, and {word} is none"),
            )
            .hint("put it before the set"));
        }
        Ok(Some(part))
    }

    fn end(self) -> Option<Diagnostic> {
        Some(mistake(&self.open?, "the statement set has no END").hint("add END; after its last INSERT"))
    }
}

fn tokenize(sql: &str) -> Parsed<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| Diagnostic::at(error.location.line, error.location.column, 1, error.message))?;
    let tokens = tokens.into_iter().filter(|t| t.token != Token::EOF).flat_map(split_double_angle);
    Ok(replace_constructors(replace_synonyms(tokens.collect())))
}

/// `ROW<a ARRAY<INT>>` ends with what the tokenizer takes for a shift; the planner knows no shifts.
fn split_double_angle(token: TokenWithSpan) -> Vec<TokenWithSpan> {
    if token.token != Token::ShiftRight {
        return vec![token];
    }
    let Span { start, end } = token.span;
    let middle = Location { line: start.line, column: start.column + 1 };
    vec![
        TokenWithSpan { token: Token::Gt, span: Span { start, end: middle } },
        TokenWithSpan { token: Token::Gt, span: Span { start: middle, end } },
    ]
}

fn statement(tokens: &[TokenWithSpan], windows: &mut usize) -> Parsed<Statement> {
    let end =
        tokens.last().map_or(Span::empty(), |token| Span { start: token.span.end, end: token.span.end });
    let mut cursor = Cursor::new(tokens, end);
    if cursor.take_word("CREATE") {
        cursor.take_word("TEMPORARY");
        if cursor.take_word("TABLE") {
            let table = create_table(&mut cursor)?;
            return expect_end(&cursor).map(|()| Statement::CreateTable(table));
        }
        if cursor.take_word("VIEW") {
            return create_view(&mut cursor, windows).map(Statement::CreateView);
        }
        return Err(not_created(&mut cursor));
    }
    if cursor.take_words(&["INSERT", "INTO"]) {
        return insert(&mut cursor, windows).map(Statement::Insert);
    }
    let first = cursor.peek();
    if cursor.take_words(&["INSERT", "OVERWRITE"]) {
        return Err(mistake(&first, "INSERT OVERWRITE is not supported yet")
            .hint("write INSERT INTO: what a job writes is added to what is there"));
    }
    if ["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.at_word(word)) {
        return query(&mut cursor, windows).map(Statement::Select);
    }
    if cursor.take_word("SET") {
        return set_option(&mut cursor).map(Statement::Set);
    }
    let word = first.token.to_string().to_uppercase();
    Err(mistake(&first, format!("the statement {word} is not supported"))
        .hint("there are CREATE TABLE, CREATE VIEW, SET, INSERT INTO … SELECT, and SELECT in `millrace sql`"))
}

/// Of what follows CREATE and is neither a table nor a view.
fn not_created(cursor: &mut Cursor<'_>) -> Diagnostic {
    const KINDS: &[&str] =
        &["FUNCTION", "CATALOG", "DATABASE", "MODEL", "CONNECTION", "MATERIALIZED", "SYSTEM"];
    let first = cursor.peek();
    if cursor.take_words(&["OR", "REPLACE"]) {
        return mistake(&first, "CREATE OR REPLACE is not supported yet")
            .hint("remove OR REPLACE: the text of a job declares everything once");
    }
    match KINDS.iter().find(|kind| cursor.at_word(kind)) {
        Some(kind) => mistake(&first, format!("CREATE {kind} is not supported yet"))
            .hint("there are CREATE TABLE and CREATE VIEW"),
        None => cursor.unexpected("TABLE or VIEW"),
    }
}

fn set_option(cursor: &mut Cursor<'_>) -> Parsed<SetOption> {
    let (text, span) =
        cursor.string("the name of a setting in quotes, as in SET 'table.local-time-zone' = 'UTC'")?;
    let key = Name { text, span };
    cursor.expect(&Token::Eq)?;
    let (text, span) = cursor.string("the value of the setting in quotes")?;
    let value = Name { text, span };
    expect_end(cursor)?;
    Ok(SetOption { key, value })
}

fn create_view(cursor: &mut Cursor<'_>, windows: &mut usize) -> Parsed<CreateView> {
    let if_not_exists = cursor.take_words(&["IF", "NOT", "EXISTS"]);
    let name = Name::parse(cursor, "a view name")?;
    let columns = column_list(cursor)?;
    if cursor.take_word("COMMENT") {
        cursor.string("a comment in quotes")?;
    }
    cursor.expect_word("AS")?;
    let query = query(cursor, windows)?;
    Ok(CreateView { name, if_not_exists, columns, query })
}

fn insert(cursor: &mut Cursor<'_>, windows: &mut usize) -> Parsed<Insert> {
    let table = Name::parse(cursor, "a table name")?;
    if cursor.at_word("PARTITION") {
        return Err(mistake(&cursor.peek(), "INSERT INTO … PARTITION is not supported yet")
            .hint("select the values of the columns"));
    }
    let columns = column_list(cursor)?;
    let query = query(cursor, windows)?;
    Ok(Insert { table, columns, query })
}

/// `(a, b)`, if there is one.
fn column_list(cursor: &mut Cursor<'_>) -> Parsed<Option<Vec<Name>>> {
    if !cursor.take(&Token::LParen) {
        return Ok(None);
    }
    let mut names = Vec::new();
    loop {
        names.push(Name::parse(cursor, "a column name")?);
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    cursor.expect(&Token::RParen)?;
    Ok(Some(names))
}

/// `/*+ … */`: Flink's hints look like comments, and would be left out without a word.
fn is_hint(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Whitespace(Whitespace::MultiLineComment(text)) if text.starts_with('+'))
}

/// Where `FOR SYSTEM_TIME` begins.
fn as_of(tokens: &[TokenWithSpan]) -> Option<&TokenWithSpan> {
    let is =
        |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(word) if is_word(word, text));
    let mut significant = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let mut before = significant.next()?;
    significant.find_map(|token| {
        let first = std::mem::replace(&mut before, token);
        (is(first, "FOR") && is(token, "SYSTEM_TIME")).then_some(first)
    })
}

/// A value or the begin or the end of one, and no word of the grammar's.
fn is_operand(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(word) => word.quote_style.is_some() || word.keyword == Keyword::NoKeyword,
        other => matches!(other, Token::Number(..) | Token::LParen | Token::RParen | Token::RBracket),
    }
}

/// What the grammar below does not know, or takes for something else, by its name.
fn unknown_to_the_grammar(tokens: &[TokenWithSpan]) -> Option<Diagnostic> {
    let is =
        |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(word) if is_word(word, text));
    let words: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    // X'10' has an X and two quotes around its digits, and 0x10 two letters before them.
    let number = words.iter().find(|token| {
        let Token::HexStringLiteral(digits) = &token.token else { return false };
        let width = token.span.end.column.saturating_sub(token.span.start.column);
        width == digits.chars().count() as u64 + 2
    });
    if let Some(token) = number {
        let hint = "write the number in decimal digits, or the bytes as X'10'";
        return Some(mistake(token, "numbers in hexadecimal digits are not supported").hint(hint));
    }
    words.windows(3).find_map(|three| {
        let [first, second, third] = three else { return None };
        if is(second, "SYMMETRIC") && is(first, "BETWEEN") {
            let hint = "write BETWEEN LEAST(a, b) AND GREATEST(a, b)";
            return Some(mistake(second, "BETWEEN SYMMETRIC is not supported yet").hint(hint));
        }
        if is(second, "DIV") && is_operand(first) && is_operand(third) {
            let hint = "write /: the quotient of whole numbers is a whole number";
            return Some(mistake(second, "the operator DIV is not supported").hint(hint));
        }
        let begins_type = matches!(third.token, Token::Lt | Token::LParen);
        let to_nested = ["MAP", "ROW", "MULTISET"].iter().find(|name| is(second, name) && begins_type);
        let to = to_nested.or(["INTERVAL"].iter().find(|name| is(second, name)));
        if let Some(name) = to.filter(|_| is(first, "AS")) {
            let hint =
                "declare the column in this type, or put the value together with ROW(…), ARRAY[…] or MAP[…]";
            return Some(mistake(second, format!("CAST to {name} is not supported yet")).hint(hint));
        }
        let case = ["EMPTY", "ERROR"].iter().find(|case| is(third, case));
        let case = case.filter(|_| is(second, "ON") && !is(first, "JOIN"))?;
        Some(mistake(second, format!("ON {case} is not supported yet")).hint("use COALESCE(…, value)"))
    })
}

fn query(cursor: &mut Cursor<'_>, windows: &mut usize) -> Parsed<Query> {
    let begins = ["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.at_word(word));
    if !begins && cursor.peek().token != Token::LParen {
        return Err(cursor.unexpected("SELECT"));
    }
    let rest = cursor.rest();
    if let Some(token) = rest.iter().find(|token| is_hint(token)) {
        return Err(mistake(token, "a hint is not supported yet")
            .hint("remove it; options belong to CREATE TABLE … WITH"));
    }
    if let Some(mistake) = comma_before_nothing(rest).or_else(|| unknown_to_the_grammar(rest)) {
        return Err(mistake);
    }
    if let Some(token) = as_of(rest) {
        return Err(
            mistake(token, "FOR SYSTEM_TIME AS OF is not supported yet").hint("read the table as it is")
        );
    }
    let (tokens, calls) = replace_window_calls(rest, *windows)?;
    *windows += calls.len();
    if let Some(token) = tokens.iter().find(|token| is_double_quoted(token)) {
        return Err(mistake(token, "a name in double quotes").hint("quote names with back quotes: `name`"));
    }
    Ok(Query { tokens, windows: calls })
}

fn is_double_quoted(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Word(Word { quote_style: Some('"'), .. }))
}

fn expect_end(cursor: &Cursor<'_>) -> Parsed<()> {
    if cursor.is_done() { Ok(()) } else { Err(cursor.unexpected("the end of the statement")) }
}
