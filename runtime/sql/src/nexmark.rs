//! The columns that the connector 'nexmark' generates, and what tables may declare of them.

use crate::connectors::Mistake;
use crate::plan::{DataType, Field, TypeKind};
use crate::similar::closest;

use TypeKind::{BigInt, Int, String as Text, Timestamp};

/// Every generated column: its path, and its type. Of an event, all rows but one are NULL.
pub const COLUMNS: &[(&str, TypeKind)] = &[
    ("event_type", Int),
    ("person.id", BigInt),
    ("person.name", Text),
    ("person.emailAddress", Text),
    ("person.creditCard", Text),
    ("person.city", Text),
    ("person.state", Text),
    ("person.dateTime", Timestamp),
    ("person.extra", Text),
    ("auction.id", BigInt),
    ("auction.itemName", Text),
    ("auction.description", Text),
    ("auction.initialBid", BigInt),
    ("auction.reserve", BigInt),
    ("auction.dateTime", Timestamp),
    ("auction.expires", Timestamp),
    ("auction.seller", BigInt),
    ("auction.category", BigInt),
    ("auction.extra", Text),
    ("bid.auction", BigInt),
    ("bid.bidder", BigInt),
    ("bid.price", BigInt),
    ("bid.channel", Text),
    ("bid.url", Text),
    ("bid.dateTime", Timestamp),
    ("bid.extra", Text),
];

/// The type that a column is generated with, as it is declared.
pub fn declared(kind: TypeKind) -> DataType {
    match kind {
        Timestamp => DataType::with_precision(kind, 3),
        kind => DataType::simple(kind),
    }
}

/// Mistakes in a declared column: names and types that are not generated.
pub fn check_column(name: &str, data_type: &DataType, nullable: bool) -> Vec<Mistake> {
    let is_row = |row: &str| {
        COLUMNS.iter().any(|(path, _)| path.strip_prefix(row).is_some_and(|rest| rest.starts_with('.')))
    };
    if !nullable && is_row(name) {
        let message = format!("the column '{name}' is NOT NULL, and NULL in the rows of other events");
        return vec![Mistake { key: None, message, hint: Some("remove NOT NULL".to_owned()) }];
    }
    if data_type.kind() == TypeKind::Row && is_row(name) {
        let of_field = |field: &Field| check_path(&format!("{name}.{}", field.name), &field.data_type());
        return data_type.fields.iter().filter_map(of_field).collect();
    }
    check_path(name, data_type).into_iter().collect()
}

fn check_path(path: &str, data_type: &DataType) -> Option<Mistake> {
    let mistake = |message: String, hint: String| Some(Mistake { key: None, message, hint: Some(hint) });
    let Some((_, kind)) = COLUMNS.iter().find(|(known, _)| *known == path) else {
        let names: Vec<String> = COLUMNS.iter().map(|(known, _)| (*known).to_owned()).collect();
        let hint = match closest(path, &names) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => "they are event_type INT, and the fields of the ROWs person, auction and bid".to_owned(),
        };
        return mistake(format!("the generator has no column '{path}'"), hint);
    };
    let given = declared(*kind);
    let fits = data_type.kind() == *kind && (*kind != Timestamp || data_type.precision <= given.precision);
    match fits {
        true => None,
        false => mistake(
            format!("the column '{path}' is {data_type}, the generator gives {given}"),
            format!("declare it {given}, and CAST it where it is used"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_not_generated_are_named() {
        let bid = |field: &str, kind| {
            let fields = vec![Field::new(field, DataType::simple(kind))];
            DataType { fields, ..DataType::simple(TypeKind::Row) }
        };
        let cases = [
            ("event_type", DataType::simple(Int), None),
            ("bid", bid("price", BigInt), None),
            ("bid", bid("prise", BigInt), Some(("no column 'bid.prise'", "did you mean `bid.price`?"))),
            (
                "bid",
                bid("price", Text),
                Some(("'bid.price' is STRING, the generator gives BIGINT", "declare it BIGINT")),
            ),
            ("bid", DataType::with_precision(Timestamp, 3), Some(("no column 'bid'", "the ROWs person"))),
            ("colour", DataType::simple(Text), Some(("no column 'colour'", "event_type INT"))),
            ("event_type", DataType::simple(BigInt), Some(("the generator gives INT", "declare it INT"))),
        ];
        for (name, data_type, expected) in cases {
            let found = check_column(name, &data_type, true);

            assert_eq!(found.len(), usize::from(expected.is_some()), "{name}: {found:?}");
            for (mistake, (message, hint)) in found.iter().zip(expected) {
                assert!(mistake.message.contains(message), "{name}: {mistake:?}");
                assert!(
                    mistake.hint.as_ref().is_some_and(|found| found.contains(hint)),
                    "{name}: {mistake:?}"
                );
            }
        }
        let found = check_column("bid", &bid("price", BigInt), false);
        assert_eq!(found[0].message, "the column 'bid' is NOT NULL, and NULL in the rows of other events");
    }
}
