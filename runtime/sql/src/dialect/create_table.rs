//! CREATE TABLE: columns, computed columns, watermark, primary key, options.

use std::collections::BTreeMap;

use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::cursor::{Cursor, Parsed, at_span, mistake};
use super::statement::Name;
use super::types::data_type;
use crate::plan::DataType;

/// A table as the user declared it.
#[derive(Debug, Clone)]
pub struct CreateTable {
    pub name: Name,
    /// Left out if the name is taken.
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDeclaration>,
    pub watermark: Option<WatermarkDeclaration>,
    /// Columns of PRIMARY KEY; without one, none.
    pub primary_key: Vec<Name>,
    /// Columns of PARTITIONED BY; without one, none.
    pub partitioned_by: Vec<Name>,
    pub options: BTreeMap<String, String>,
    /// Where each option's key stands.
    pub option_spans: BTreeMap<String, Span>,
}

/// One column of a table.
#[derive(Debug, Clone)]
pub struct ColumnDeclaration {
    pub name: Name,
    pub kind: ColumnKind,
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
pub enum ColumnKind {
    /// Read from or written to the outside.
    Physical { data_type: DataType, nullable: bool },
    /// What the connector knows of each record, by this key.
    Metadata { data_type: DataType, key: String, is_virtual: bool },
    /// An expression over the other columns.
    Computed { expression: Vec<TokenWithSpan> },
}

/// WATERMARK FOR column AS expression.
#[derive(Debug, Clone)]
pub struct WatermarkDeclaration {
    pub column: Name,
    pub expression: Vec<TokenWithSpan>,
}

/// Parses what follows CREATE TABLE.
pub fn create_table(cursor: &mut Cursor<'_>) -> Parsed<CreateTable> {
    let if_not_exists = cursor.take_words(&["IF", "NOT", "EXISTS"]);
    let name = Name::parse(cursor, "a table name")?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        partitioned_by: Vec::new(),
        options: BTreeMap::new(),
        option_spans: BTreeMap::new(),
    };
    refuse_clauses(cursor, &[("LIKE", LIKE_HINT), ("AS", AS_HINT)])?;
    cursor.expect(&Token::LParen)?;
    loop {
        item(cursor, &mut table)?;
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    cursor.expect(&Token::RParen)?;
    check_key(&table)?;
    if cursor.take_word("COMMENT") {
        cursor.string("a comment in quotes")?;
    }
    if cursor.take_word("PARTITIONED") {
        partitioned_by(cursor, &mut table)?;
    }
    refuse_clauses(cursor, &[("DISTRIBUTED", "remove it"), ("LIKE", LIKE_HINT), ("AS", AS_HINT)])?;
    cursor.expect_word("WITH")?;
    options(cursor, &mut table)?;
    refuse_clauses(cursor, &[("LIKE", LIKE_HINT), ("AS", AS_HINT)])?;
    Ok(table)
}

const LIKE_HINT: &str = "repeat the columns and options of the other table";
const AS_HINT: &str = "declare the columns and the connector, and write INSERT INTO the table SELECT …";

/// Clauses of Flink's that are not there yet.
fn refuse_clauses(cursor: &Cursor<'_>, clauses: &[(&str, &str)]) -> Parsed<()> {
    match clauses.iter().find(|(word, _)| cursor.at_word(word)) {
        Some((word, hint)) => {
            Err(mistake(&cursor.peek(), format!("CREATE TABLE … {word} is not supported yet")).hint(*hint))
        }
        None => Ok(()),
    }
}

/// `BY (a, b)`: columns of the table, not all of them.
fn partitioned_by(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Parsed<()> {
    cursor.expect_word("BY")?;
    cursor.expect(&Token::LParen)?;
    loop {
        let name = Name::parse(cursor, "a column's name")?;
        let column = table.columns.iter().find(|column| column.name.text == name.text);
        let is_simple = |data_type: &DataType| data_type.fields.is_empty();
        match column.map(|column| &column.kind) {
            Some(ColumnKind::Physical { data_type, .. }) if is_simple(data_type) => {}
            Some(ColumnKind::Physical { data_type, .. }) => {
                let message =
                    format!("the column '{}' is {data_type}, by which nothing can be partitioned", name.text);
                return Err(at_span(name.span, message).hint("partition by a column of a simple type"));
            }
            Some(_) => {
                let message = format!(
                    "the column '{}' is not written, and nothing can be partitioned by it",
                    name.text
                );
                return Err(
                    at_span(name.span, message).hint("partition by a column that has a type of its own")
                );
            }
            None => {
                let names: Vec<&str> = table.columns.iter().map(|column| column.name.text.as_str()).collect();
                return Err(at_span(
                    name.span,
                    format!("there is no column '{}' to partition by", name.text),
                )
                .hint(format!("its columns are: {}", names.join(", "))));
            }
        }
        if table.partitioned_by.iter().any(|before| before.text == name.text) {
            return Err(at_span(name.span, format!("'{}' is in PARTITIONED BY twice", name.text))
                .hint("name it once"));
        }
        table.partitioned_by.push(name);
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    let physical = table.columns.iter().filter(|column| matches!(column.kind, ColumnKind::Physical { .. }));
    if physical.count() == table.partitioned_by.len()
        && let Some(first) = table.partitioned_by.first()
    {
        return Err(at_span(
            first.span,
            "all columns are in PARTITIONED BY, and nothing is left for the files",
        )
        .hint("leave one out, or add a column"));
    }
    cursor.expect(&Token::RParen)
}

fn item(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Parsed<()> {
    let token = cursor.peek();
    let is_quoted = matches!(&token.token, Token::Word(word) if word.quote_style.is_some());
    if !is_quoted && cursor.at_word("WATERMARK") && !is_type_next(cursor) {
        return watermark(cursor, table);
    }
    if !is_quoted && (cursor.at_word("PRIMARY") || cursor.at_word("CONSTRAINT") || is_unique(cursor)) {
        if cursor.take_word("CONSTRAINT") {
            Name::parse(cursor, "the constraint's name")?;
        }
        let place = cursor.peek();
        primary_key(cursor)?;
        cursor.expect(&Token::LParen)?;
        let mut key = Vec::new();
        loop {
            key.push(Name::parse(cursor, "a column's name")?);
            if !cursor.take(&Token::Comma) {
                break;
            }
        }
        cursor.expect(&Token::RParen)?;
        not_enforced(cursor)?;
        return set_key(table, key, &place);
    }
    column(cursor, table)
}

fn primary_key(cursor: &mut Cursor<'_>) -> Parsed<()> {
    if cursor.at_word("UNIQUE") {
        return Err(
            mistake(&cursor.peek(), "UNIQUE is not supported").hint("use PRIMARY KEY (…) NOT ENFORCED")
        );
    }
    cursor.expect_word("PRIMARY")?;
    cursor.expect_word("KEY")
}

/// A column may be called `unique`; then a type follows and no list.
fn is_unique(cursor: &Cursor<'_>) -> bool {
    cursor.at_word("UNIQUE") && cursor.peek_second() == Token::LParen
}

/// Nothing outside is looked at to see that keys are unique, and the text has to say so, as in Flink.
fn not_enforced(cursor: &mut Cursor<'_>) -> Parsed<()> {
    if cursor.take_words(&["NOT", "ENFORCED"]) {
        return Ok(());
    }
    let message = "a PRIMARY KEY is not checked against what is outside, and must say so";
    Err(mistake(&cursor.peek(), message).hint("write NOT ENFORCED after it"))
}

fn set_key(table: &mut CreateTable, key: Vec<Name>, place: &TokenWithSpan) -> Parsed<()> {
    if !table.primary_key.is_empty() {
        return Err(mistake(place, "a table has one PRIMARY KEY at most").hint("name all its columns in one"));
    }
    table.primary_key = key;
    Ok(())
}

/// A key is of physical columns, each once.
fn check_key(table: &CreateTable) -> Parsed<()> {
    for (index, name) in table.primary_key.iter().enumerate() {
        if table.primary_key[..index].iter().any(|before| before.text == name.text) {
            return Err(at_span(name.span, format!("'{}' is in the PRIMARY KEY twice", name.text)));
        }
        match table.columns.iter().find(|column| column.name.text == name.text) {
            None => {
                let names: Vec<&str> = table.columns.iter().map(|column| column.name.text.as_str()).collect();
                return Err(at_span(
                    name.span,
                    format!("there is no column '{}' for the PRIMARY KEY", name.text),
                )
                .hint(format!("its columns are: {}", names.join(", "))));
            }
            Some(column) => {
                let what = match column.kind {
                    ColumnKind::Computed { .. } => "computed",
                    ColumnKind::Metadata { .. } => "METADATA",
                    ColumnKind::Physical { .. } => continue,
                };
                let message = format!("'{}' is {what}, and cannot be in the PRIMARY KEY", name.text);
                return Err(at_span(name.span, message).hint("use columns that are written"));
            }
        }
    }
    Ok(())
}

/// A column may be called `watermark`; then a type follows and not FOR.
fn is_type_next(cursor: &Cursor<'_>) -> bool {
    !matches!(cursor.peek_second(), Token::Word(word) if word.value.eq_ignore_ascii_case("FOR"))
}

fn column(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Parsed<()> {
    let name = Name::parse(cursor, "a column name")?;
    if table.columns.iter().any(|column| column.name.text == name.text) {
        return Err(at_span(name.span, format!("the column '{}' is declared twice", name.text)));
    }
    let kind = if cursor.take_word("AS") {
        ColumnKind::Computed { expression: cursor.until_end_of_item().to_vec() }
    } else {
        let (data_type, nullable) = data_type(cursor)?;
        if cursor.take_word("METADATA") {
            let key = match cursor.take_word("FROM") {
                true => cursor.string("the metadata's key in single quotes")?.0,
                false => name.text.clone(),
            };
            let is_virtual = cursor.take_word("VIRTUAL");
            let kind = ColumnKind::Metadata { data_type, key, is_virtual };
            return finish_column(cursor, table, name, kind);
        }
        if cursor.at_word("PRIMARY") {
            let place = cursor.peek();
            primary_key(cursor)?;
            not_enforced(cursor)?;
            set_key(table, vec![name.clone()], &place)?;
        }
        ColumnKind::Physical { data_type, nullable }
    };
    finish_column(cursor, table, name, kind)
}

fn finish_column(
    cursor: &mut Cursor<'_>,
    table: &mut CreateTable,
    name: Name,
    kind: ColumnKind,
) -> Parsed<()> {
    if cursor.take_word("COMMENT") {
        cursor.string("a comment in quotes")?;
    }
    table.columns.push(ColumnDeclaration { name, kind });
    Ok(())
}

fn watermark(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Parsed<()> {
    let place = cursor.next();
    cursor.expect_word("FOR")?;
    let column = Name::parse(cursor, "the name of the event-time column")?;
    cursor.expect_word("AS")?;
    let expression = cursor.until_end_of_item().to_vec();
    if table.watermark.is_some() {
        return Err(mistake(&place, "a table has one WATERMARK at most"));
    }
    table.watermark = Some(WatermarkDeclaration { column, expression });
    Ok(())
}

fn options(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Parsed<()> {
    cursor.expect(&Token::LParen)?;
    loop {
        let (key, span) = cursor.string("an option's name in single quotes")?;
        cursor.expect(&Token::Eq)?;
        let (value, _) = cursor.string("an option's value in single quotes")?;
        if table.options.insert(key.clone(), value).is_some() {
            return Err(at_span(span, format!("the option '{key}' is given twice")));
        }
        table.option_spans.insert(key, span);
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    other_names(table);
    cursor.expect(&Token::RParen)
}

/// Of Kafka's tables `value.format`, and its options with `value.` before them, are other names of `format` and its options.
fn other_names(table: &mut CreateTable) {
    let is_kafka = table.options.get("connector").is_some_and(|connector| connector == "kafka");
    let Some(format) = table.options.get("value.format").filter(|_| is_kafka).cloned() else { return };
    let options = format!("value.{format}.");
    let is_other = |key: &String| *key == "value.format" || key.starts_with(&options);
    let others: Vec<String> = table.options.keys().filter(|key| is_other(key)).cloned().collect();
    for key in others {
        let name = key.trim_start_matches("value.").to_owned();
        if table.options.contains_key(&name) {
            continue;
        }
        if let (Some(value), Some(span)) = (table.options.remove(&key), table.option_spans.remove(&key)) {
            table.options.insert(name.clone(), value);
            table.option_spans.insert(name, span);
        }
    }
}
