//! Keys of records in Kafka: which columns of a table they hold, and how. Options as Flink's.

use std::collections::BTreeMap;

use crate::connectors::Mistake;
use crate::connectors::kafka::{self, EXCEPT_KEY};
use crate::plan::{DataType, Table, TypeKind};
use crate::similar::closest;

pub const FORMAT: &str = kafka::KEY_FORMAT.key;
pub const FIELDS: &str = kafka::KEY_FIELDS.key;
pub const PREFIX: &str = kafka::KEY_PREFIX.key;
pub const INCLUDE: &str = kafka::VALUE_FIELDS.key;

/// The key of a table's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Positions of its columns, in its own order.
    pub columns: Vec<usize>,
    /// The same columns are fields of the value, too.
    pub are_in_value: bool,
    /// What names of columns begin with that names in the key do not.
    pub prefix: String,
}

impl Keys {
    /// The key that the options of a table name.
    pub fn of(table: &Table) -> Option<Keys> {
        let names = fields(&table.options);
        let schema = table.schema.as_ref()?;
        let position = |name: &&str| schema.fields.iter().position(|field| field.name == **name);
        (!names.is_empty()).then(|| Keys {
            columns: names.iter().filter_map(position).collect(),
            are_in_value: table.options.get(INCLUDE).is_none_or(|include| include != EXCEPT_KEY),
            prefix: table.options.get(PREFIX).cloned().unwrap_or_default(),
        })
    }

    /// The key of a table of rows by key: its primary key.
    pub fn primary(table: &Table) -> Keys {
        Keys {
            columns: table.key_columns(),
            are_in_value: table.options.get(INCLUDE).is_none_or(|include| include != EXCEPT_KEY),
            prefix: table.options.get(PREFIX).cloned().unwrap_or_default(),
        }
    }

    /// The name in the key of a column.
    pub fn name<'a>(&self, column: &'a str) -> &'a str {
        column.strip_prefix(self.prefix.as_str()).unwrap_or(column)
    }
}

fn fields(options: &BTreeMap<String, String>) -> Vec<&str> {
    let listed = options.get(FIELDS).map_or("", String::as_str).split(';').map(str::trim);
    listed.filter(|name| !name.is_empty()).collect()
}

/// Options of keys that do not fit together, or not the columns of the table.
pub fn check(options: &BTreeMap<String, String>, columns: &[(&str, &DataType)]) -> Option<Mistake> {
    let mistake = |key: &str, message: String, hint: String| {
        Some(Mistake { key: Some(key.to_owned()), message, hint: Some(hint) })
    };
    let has = |key: &str| options.contains_key(key);
    let needs = |key: &str, other: &str| {
        mistake(key, format!("the option '{key}' needs '{other}'"), format!("add '{other}', or remove it"))
    };
    let is_apart = options.get(INCLUDE).is_some_and(|include| include == EXCEPT_KEY);
    match () {
        () if has(FIELDS) && !has(FORMAT) => return needs(FIELDS, FORMAT),
        () if has(FORMAT) && !has(FIELDS) => return needs(FORMAT, FIELDS),
        () if is_apart && !has(FIELDS) => return needs(INCLUDE, FIELDS),
        () if has(PREFIX) && !is_apart => {
            let message = format!("the option '{PREFIX}' needs '{INCLUDE}' = '{EXCEPT_KEY}'");
            return mistake(
                PREFIX,
                message,
                "names in values have no prefix; add it, or remove the prefix".to_owned(),
            );
        }
        () => {}
    }
    let names = fields(options);
    if has(FIELDS) && names.is_empty() {
        return mistake(
            FIELDS,
            format!("the option '{FIELDS}' names no column"),
            "write such as 'id;region'".to_owned(),
        );
    }
    let known: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let prefix = options.get(PREFIX).map_or("", String::as_str);
    for (number, name) in names.iter().enumerate() {
        let message = if !known.iter().any(|known| known == name) {
            format!("the option '{FIELDS}' names '{name}', which is no physical column of the table")
        } else if names[..number].contains(name) {
            format!("the option '{FIELDS}' names '{name}' twice")
        } else if !name.starts_with(prefix) {
            format!("the option '{FIELDS}' names '{name}', which does not begin with '{PREFIX}' = '{prefix}'")
        } else {
            continue;
        };
        let hint = match closest(name, &known) {
            Some(similar) if similar != name => format!("did you mean '{similar}'?"),
            _ => format!("its columns are: {}", known.join(", ")),
        };
        return mistake(FIELDS, message, hint);
    }
    if is_apart && names.len() == columns.len() {
        let message =
            format!("with '{INCLUDE}' = '{EXCEPT_KEY}' the key has all columns, and values have none");
        return mistake(
            INCLUDE,
            message,
            "leave a column out of the key, or let values include all".to_owned(),
        );
    }
    let type_of =
        |name: &&str| columns.iter().find(|(known, _)| known == name).map(|(_, data_type)| *data_type);
    wrong_types(options, &names.iter().filter_map(type_of).collect::<Vec<_>>())
        .or_else(|| wrong_value(options, columns, if is_apart { &names } else { &[] }))
}

/// The mistake of a value that is bytes as they are, and should hold another number of columns than one.
fn wrong_value(
    options: &BTreeMap<String, String>,
    columns: &[(&str, &DataType)],
    in_key: &[&str],
) -> Option<Mistake> {
    let of_value: Vec<_> = columns.iter().filter(|(name, _)| !in_key.contains(name)).collect();
    let is_right = matches!(of_value.as_slice(), [(_, one)] if is_raw(one));
    let is_wrong = options.get("format").is_some_and(|format| format == "raw") && !is_right;
    is_wrong.then(|| Mistake {
        key: Some("format".to_owned()),
        message: "the option 'format' = 'raw' takes one column that is STRING or BYTES in the value".to_owned(),
        hint: Some(format!(
            "declare one such column, beside those of 'key.fields' with '{INCLUDE}' = '{EXCEPT_KEY}', or use 'json'"
        )),
    })
}

/// Options of the keys of a table of rows by key that do not fit its primary key.
pub fn check_primary(options: &BTreeMap<String, String>, key: &[(&str, &DataType)]) -> Option<Mistake> {
    let prefix = options.get(PREFIX).map_or("", String::as_str);
    let is_apart = options.get(INCLUDE).is_some_and(|include| include == EXCEPT_KEY);
    let mistake = |message: String, hint: String| {
        Some(Mistake { key: Some(PREFIX.to_owned()), message, hint: Some(hint) })
    };
    if !prefix.is_empty() && !is_apart {
        let message = format!("the option '{PREFIX}' needs '{INCLUDE}' = '{EXCEPT_KEY}'");
        return mistake(message, "names in values have no prefix; add it, or remove the prefix".to_owned());
    }
    if let Some((name, _)) = key.iter().find(|(name, _)| !name.starts_with(prefix)) {
        let message =
            format!("the column '{name}' of the PRIMARY KEY does not begin with '{PREFIX}' = '{prefix}'");
        return mistake(message, format!("name it '{prefix}{name}'"));
    }
    wrong_types(options, &key.iter().map(|(_, data_type)| *data_type).collect::<Vec<_>>())
}

/// The mistake of a key whose format has not the types of its columns.
fn wrong_types(options: &BTreeMap<String, String>, types: &[&DataType]) -> Option<Mistake> {
    let mistake = |key: &str, message: String, hint: String| {
        Some(Mistake { key: Some(key.to_owned()), message, hint: Some(hint) })
    };
    match options.get(FORMAT).map(String::as_str) {
        Some("raw") if !matches!(types, [one] if is_raw(one)) => mistake(
            FORMAT,
            format!("the option '{FORMAT}' = 'raw' takes one column that is STRING or BYTES"),
            match options.contains_key(FIELDS) {
                true => "name one such column in 'key.fields', or use 'json'".to_owned(),
                false => "make one such column the PRIMARY KEY, or use 'json'".to_owned(),
            },
        ),
        Some("csv") if types.iter().any(|data_type| !data_type.fields.is_empty()) => mistake(
            FORMAT,
            format!("the option '{FORMAT}' = 'csv' takes no nested columns"),
            "use 'json'".to_owned(),
        ),
        _ => None,
    }
}

/// True if the bytes of a key are the value.
fn is_raw(data_type: &DataType) -> bool {
    matches!(data_type.kind(), TypeKind::String | TypeKind::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_do_not_fit_are_named_with_their_cure() {
        let text = DataType::simple(TypeKind::String);
        let number = DataType::simple(TypeKind::BigInt);
        let columns = [("k_id", &number), ("k_name", &text), ("v", &number)];
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (&[], None),
            (&[(FORMAT, "json"), (FIELDS, "k_id;k_name")], None),
            (&[(FORMAT, "raw"), (FIELDS, "k_name")], None),
            (&[(FORMAT, "json"), (FIELDS, "k_id"), (INCLUDE, "EXCEPT_KEY"), (PREFIX, "k_")], None),
            (&[(FIELDS, "k_id")], Some("needs 'key.format'")),
            (&[(FORMAT, "json")], Some("needs 'key.fields'")),
            (&[(INCLUDE, "EXCEPT_KEY")], Some("needs 'key.fields'")),
            (
                &[(FORMAT, "json"), (FIELDS, "k_id"), (PREFIX, "k_")],
                Some("needs 'value.fields-include' = 'EXCEPT_KEY'"),
            ),
            (&[(FORMAT, "json"), (FIELDS, ";")], Some("names no column")),
            (&[(FORMAT, "json"), (FIELDS, "k_ib")], Some("'k_ib', which is no physical column")),
            (&[(FORMAT, "json"), (FIELDS, "v;v")], Some("names 'v' twice")),
            (
                &[(FORMAT, "json"), (FIELDS, "v"), (INCLUDE, "EXCEPT_KEY"), (PREFIX, "k_")],
                Some("which does not begin with 'key.fields-prefix' = 'k_'"),
            ),
            (
                &[(FORMAT, "json"), (FIELDS, "v;k_id;k_name"), (INCLUDE, "EXCEPT_KEY")],
                Some("values have none"),
            ),
            (&[("format", "raw")], Some("'format' = 'raw' takes one column")),
            (&[("format", "raw"), (FORMAT, "json"), (FIELDS, "k_id;v"), (INCLUDE, "EXCEPT_KEY")], None),
            (&[(FORMAT, "raw"), (FIELDS, "k_id")], Some("takes one column that is STRING or BYTES")),
            (&[(FORMAT, "raw"), (FIELDS, "k_name;v")], Some("takes one column that is STRING or BYTES")),
        ];
        for (options, expected) in cases {
            let options =
                options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();

            let found = check(&options, &columns);

            match (&found, expected) {
                (None, None) => {}
                (Some(found), Some(words)) => {
                    assert!(found.message.contains(words) && found.hint.is_some(), "{found:?}");
                }
                _ => panic!("{options:?}: {found:?}"),
            }
        }
    }
}
