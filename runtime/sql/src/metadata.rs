//! What connectors know of a record besides its columns: METADATA columns.

use crate::connectors::Mistake;
use crate::functions::CastTo;
use crate::plan::{DataType, Field, TypeKind};
use crate::similar::closest;

/// A METADATA column as the connector gives it, before it is cast to the declared type.
///
/// # Errors
/// If the connector has no such metadata, or not in this type.
pub fn column(connector: &str, name: &str, key: &str, declared: &DataType) -> Result<Field, Mistake> {
    let known = of(connector);
    let mistake = |message: String, hint: String| Mistake { key: None, message, hint: Some(hint) };
    let Some(given) = known.iter().find(|given| given.name == key) else {
        let names: Vec<String> = known.iter().map(|given| given.name.clone()).collect();
        let hint = match (closest(key, &names), names.as_slice()) {
            (Some(similar), _) => format!("did you mean '{similar}'?"),
            (None, []) => "remove the column".to_owned(),
            (None, names) => format!("it has {}", names.join(", ")),
        };
        return Err(mistake(format!("'{connector}' has no metadata '{key}'"), hint));
    };
    let data_type = given.data_type();
    if !is_castable(&data_type, declared) {
        let message = format!(
            "the column '{name}' is {declared}, and the metadata '{key}' of '{connector}' is {data_type}"
        );
        return Err(mistake(message, format!("declare it {data_type}")));
    }
    Ok(Field { name: name.to_owned(), ..given.clone() })
}

/// What a source of rows by key says of each record: that it has no value, and takes the row of its key away. No column of a user's
/// can have it.
pub const IS_REMOVED: &str = "is-removed";

/// True if rows that are written can say this of their records.
pub fn is_written(connector: &str, key: &str) -> bool {
    connector == "kafka" && ["timestamp", "headers"].contains(&key)
}

fn is_castable(given: &DataType, declared: &DataType) -> bool {
    let is_nested =
        |data_type: &DataType| matches!(data_type.kind(), TypeKind::Row | TypeKind::Array | TypeKind::Map);
    let (from, to) = (given.to_arrow(), declared.to_arrow());
    match is_nested(given) || is_nested(declared) {
        true => from == to,
        false => CastTo::cure(&from, &to).is_none(),
    }
}

/// The metadata that tables of a connector can have, by key, each with the type it comes in.
pub fn of(connector: &str) -> Vec<Field> {
    let simple = DataType::simple;
    let known = |key: &str, data_type| Field { nullable: false, ..Field::new(key, data_type) };
    match connector {
        "kafka" | "upsert-kafka" => vec![
            known("topic", simple(TypeKind::String)),
            known("partition", simple(TypeKind::Int)),
            known("headers", map_of_bytes()),
            Field::new("leader-epoch", simple(TypeKind::Int)),
            known("offset", simple(TypeKind::BigInt)),
            known("timestamp", DataType::with_precision(TypeKind::TimestampLtz, 3)),
            known("timestamp-type", simple(TypeKind::String)),
        ],
        "filesystem" => vec![
            known("file.path", simple(TypeKind::String)),
            known("file.name", simple(TypeKind::String)),
            known("file.size", simple(TypeKind::BigInt)),
        ],
        _ => Vec::new(),
    }
}

/// MAP<STRING, BYTES>.
fn map_of_bytes() -> DataType {
    let fields = vec![
        Field { nullable: false, ..Field::new("key", DataType::simple(TypeKind::String)) },
        Field::new("value", DataType::simple(TypeKind::Bytes)),
    ];
    DataType { fields, ..DataType::simple(TypeKind::Map) }
}
