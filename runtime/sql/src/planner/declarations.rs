//! Whether the options and columns of tables are what their connectors take, judged by what is done with each table.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::mistakes::at;
use crate::connectors::{self, Mistake, Role};
use crate::diagnostic::Diagnostic;
use crate::dialect::{self, ColumnDeclaration, ColumnKind, CreateTable, Query, Statement};
use crate::kafka_keys;
use crate::metadata;
use crate::nexmark;
use crate::plan::{DataType, TypeKind};
use crate::similar::closest;

/// Mistakes in the options of all tables, judged by what is done with each.
pub fn check(statements: &[Statement]) -> Vec<Diagnostic> {
    let mut mistakes = Vec::new();
    for statement in statements {
        let Statement::CreateTable(declaration) = statement else { continue };
        let name = &declaration.name;
        let roles = roles_of(&name.text, statements);
        let found = roles.into_iter().flat_map(|role| connectors::check(&declaration.options, role));
        let key = connectors::check_key(&declaration.options, !declaration.primary_key.is_empty());
        for mistake in found.chain(key).chain(keys_of_records(declaration)) {
            let span = mistake.key.as_ref().and_then(|key| declaration.option_spans.get(key));
            let message = format!("table '{}': {}", name.text, mistake.message);
            let mut diagnostic = at(*span.unwrap_or(&name.span), message);
            diagnostic.hint = mistake.hint;
            if !mistakes.contains(&diagnostic) {
                mistakes.push(diagnostic);
            }
        }
        mistakes.extend(wrong_partitions(declaration));
        mistakes.extend(wrong_changes(declaration, statements));
        mistakes.extend(wrong_columns(declaration));
        mistakes.extend(wrong_fields(declaration));
    }
    mistakes
}

/// Partitions are folders, which only files have.
fn wrong_partitions(declaration: &CreateTable) -> Option<Diagnostic> {
    let first = declaration.partitioned_by.first()?;
    let connector = declaration.options.get("connector").map_or("", String::as_str);
    let name = &declaration.name.text;
    if connector != "filesystem" {
        let message =
            format!("table '{name}': '{connector}' has no partitions that PARTITIONED BY could make");
        return Some(at(first.span, message).hint("remove PARTITIONED BY"));
    }
    None
}

/// A mistake in a table that was found when its connector was opened: at the option, or at the table's name.
pub fn mistake_of_table(sql: &str, table: &str, option: Option<&str>, message: &str) -> Diagnostic {
    let statements = dialect::parse(sql).unwrap_or_default();
    let declared = statements.iter().find_map(|statement| match statement {
        Statement::CreateTable(declaration) if declaration.name.text == table => Some(declaration),
        _ => None,
    });
    let Some(declaration) = declared else { return Diagnostic::nowhere(message) };
    let span = option.and_then(|option| declaration.option_spans.get(option));
    at(*span.unwrap_or(&declaration.name.span), message)
}

/// The mistake of the key of a table's records in Kafka.
fn keys_of_records(declaration: &CreateTable) -> Option<Mistake> {
    let physical = declaration.columns.iter().filter_map(|column| match &column.kind {
        ColumnKind::Physical { data_type, .. } => Some((column.name.text.as_str(), data_type)),
        ColumnKind::Computed { .. } | ColumnKind::Metadata { .. } => None,
    });
    let physical: Vec<(&str, &DataType)> = physical.collect();
    match declaration.options.get("connector")?.as_str() {
        "kafka" => kafka_keys::check(&declaration.options, &physical),
        "upsert-kafka" => {
            let is_key = |name: &str| declaration.primary_key.iter().any(|key| key.text == name);
            let key: Vec<_> = physical.into_iter().filter(|(name, _)| is_key(name)).collect();
            kafka_keys::check_primary(&declaration.options, &key)
        }
        _ => None,
    }
}

/// What a table whose rows take each other's place cannot have while it is read.
fn wrong_changes(declaration: &CreateTable, statements: &[Statement]) -> Vec<Diagnostic> {
    let connector = declaration.options.get("connector").map_or("", String::as_str);
    let name = &declaration.name.text;
    if !connectors::gives_changes(connector) || !roles_of(name, statements).contains(&Some(Role::Source)) {
        return Vec::new();
    }
    let map = |column: &&ColumnDeclaration| matches!(&column.kind, ColumnKind::Physical { data_type, .. } | ColumnKind::Metadata { data_type, .. } if has_map(data_type));
    let maps = declaration.columns.iter().filter(map).map(|column| {
        let message = format!(
            "table '{name}': reading the MAP '{}' of '{connector}' is not supported yet",
            column.name.text
        );
        at(column.name.span, message).hint("leave the column out, or read it as a STRING")
    });
    let time = declaration.watermark.as_ref().map(|watermark| {
        let message =
            format!("table '{name}': a WATERMARK of '{connector}', whose rows change, is not supported yet");
        at(watermark.column.span, message).hint("remove it: windows are made over rows that are only added")
    });
    maps.chain(time).collect()
}

fn has_map(data_type: &DataType) -> bool {
    data_type.kind() == TypeKind::Map || data_type.fields.iter().any(|field| has_map(&field.data_type()))
}

/// Mistakes in the columns of a table whose connector has its own, or whose format has not all types.
fn wrong_columns(declaration: &CreateTable) -> Vec<Diagnostic> {
    let option = |key: &str| declaration.options.get(key).map_or("", String::as_str);
    let mistakes = declaration.columns.iter().flat_map(|column| {
        let name = &column.name.text;
        let (data_type, nullable) = match &column.kind {
            ColumnKind::Physical { data_type, nullable } => (data_type, *nullable),
            ColumnKind::Metadata { data_type, key, .. } => {
                let found = metadata::column(option("connector"), name, key, data_type).err();
                return found.map(|found| placed(declaration, column, found)).into_iter().collect();
            }
            ColumnKind::Computed { .. } => return Vec::new(),
        };
        let found = match (option("connector"), option("format")) {
            ("nexmark", _) => nexmark::check_column(name, data_type, nullable),
            ("datagen", _) if is_nested(data_type) => vec![Mistake {
                key: None,
                message: format!(
                    "the column '{name}' is {data_type}, and such values cannot be generated yet"
                ),
                hint: Some("make columns of its parts, and a ROW of them in a view".to_owned()),
            }],
            (_, "csv") => no_field(name, data_type).into_iter().collect(),
            _ => Vec::new(),
        };
        found.into_iter().map(|found| placed(declaration, column, found)).collect()
    });
    mistakes.collect()
}

/// Options of columns that the table does not have.
fn wrong_fields(declaration: &CreateTable) -> Vec<Diagnostic> {
    let connector = declaration.options.get("connector").map_or("", String::as_str);
    let names: Vec<String> = declaration.columns.iter().map(|column| column.name.text.clone()).collect();
    let wrong = declaration.option_spans.iter().filter_map(|(key, span)| {
        let (name, _) = connectors::field_option(connector, key)?;
        if names.iter().any(|known| known == name) {
            return None;
        }
        let message =
            format!("table '{}': it has no column '{name}' for the option '{key}'", declaration.name.text);
        Some(at(*span, message).hint(match closest(name, &names) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => format!("its columns are: {}", names.join(", ")),
        }))
    });
    wrong.collect()
}

/// A mistake where a column is declared.
fn placed(declaration: &CreateTable, column: &ColumnDeclaration, mistake: Mistake) -> Diagnostic {
    let message = format!("table '{}': {}", declaration.name.text, mistake.message);
    Diagnostic { hint: mistake.hint, ..at(column.name.span, message) }
}

fn is_nested(data_type: &DataType) -> bool {
    matches!(data_type.kind(), TypeKind::Row | TypeKind::Array | TypeKind::Map)
}

/// The mistake of a column that no field of a line can be.
fn no_field(name: &str, data_type: &DataType) -> Option<Mistake> {
    is_nested(data_type).then(|| Mistake {
        key: None,
        message: format!(
            "the column '{name}' is {data_type}, which is not supported yet in the format 'csv'"
        ),
        hint: Some("make columns of its parts, or use 'format' = 'json'".to_owned()),
    })
}

/// What is done with a table, as the texts of the statements say it: they may have mistakes of their own.
fn roles_of(name: &str, statements: &[Statement]) -> Vec<Option<Role>> {
    let mut roles = Vec::new();
    for statement in statements {
        let query = match statement {
            Statement::CreateTable(_) | Statement::Set(_) => continue,
            Statement::CreateView(view) => &view.query,
            Statement::Select(query) => query,
            Statement::Insert(insert) => {
                if insert.table.text == name {
                    roles.push(Some(Role::Sink));
                }
                &insert.query
            }
        };
        if reads(query, name) {
            roles.push(Some(Role::Source));
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        roles.push(None);
    }
    roles
}

/// True if a name follows FROM, or is what a window is made over.
fn reads(query: &Query, name: &str) -> bool {
    let words = query.tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let pairs = words.clone().zip(words.skip(1));
    let follows_from = |(first, second): (&TokenWithSpan, &TokenWithSpan)| {
        let is_from = matches!(&first.token, Token::Word(word) if word.keyword == Keyword::FROM);
        is_from && matches!(&second.token, Token::Word(word) if word.value == name)
    };
    query.windows.iter().any(|window| window.table.text == name) || pairs.into_iter().any(follows_from)
}
