//! Flink's type grammar.

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed, mistake};
use crate::plan::{DataType, Field, TypeKind};

/// Parses a type and its optional NOT NULL; returns the type and whether it is nullable.
pub fn data_type(cursor: &mut Cursor<'_>) -> Parsed<(DataType, bool)> {
    let data_type = bare_type(cursor)?;
    if cursor.take_words(&["NOT", "NULL"]) {
        return Ok((data_type, false));
    }
    cursor.take_word("NULL");
    Ok((data_type, true))
}

fn bare_type(cursor: &mut Cursor<'_>) -> Parsed<DataType> {
    let token = cursor.peek();
    let (name, _) = cursor.name("a type")?;
    let simple = |kind| Ok(DataType::simple(kind));
    match name.to_ascii_uppercase().as_str() {
        "BOOLEAN" => simple(TypeKind::Boolean),
        "TINYINT" => simple(TypeKind::TinyInt),
        "SMALLINT" => simple(TypeKind::SmallInt),
        "INT" | "INTEGER" => simple(TypeKind::Int),
        "BIGINT" => simple(TypeKind::BigInt),
        "FLOAT" => simple(TypeKind::Float),
        "DOUBLE" => {
            cursor.take_word("PRECISION");
            simple(TypeKind::Double)
        }
        "DECIMAL" | "DEC" | "NUMERIC" => decimal(cursor),
        "STRING" => simple(TypeKind::String),
        "VARCHAR" | "CHAR" => {
            length(cursor)?;
            simple(TypeKind::String)
        }
        "BYTES" => simple(TypeKind::Bytes),
        "VARBINARY" | "BINARY" => {
            length(cursor)?;
            simple(TypeKind::Bytes)
        }
        "DATE" => simple(TypeKind::Date),
        "TIME" => Ok(DataType::with_precision(TypeKind::Time, length(cursor)?.unwrap_or(0))),
        "TIMESTAMP" => timestamp(cursor),
        "TIMESTAMP_LTZ" => {
            Ok(DataType::with_precision(TypeKind::TimestampLtz, length(cursor)?.unwrap_or(6)))
        }
        "ROW" => row(cursor),
        "ARRAY" => {
            cursor.expect(&Token::Lt)?;
            let (element, nullable) = data_type(cursor)?;
            close_angle(cursor)?;
            let element = Field { nullable, ..Field::new("item", element) };
            Ok(DataType { kind: TypeKind::Array.into(), fields: vec![element], ..Default::default() })
        }
        "MAP" => {
            cursor.expect(&Token::Lt)?;
            let (key, _) = data_type(cursor)?;
            cursor.expect(&Token::Comma)?;
            let (value, _) = data_type(cursor)?;
            close_angle(cursor)?;
            Ok(DataType::map(key, value))
        }
        _ => Err(mistake(&token, format!("the type '{name}' is not supported")).hint(
            "use BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, BYTES, DATE, TIME, \
             TIMESTAMP(p), TIMESTAMP_LTZ(p), ROW<…>, ARRAY<…> or MAP<…>",
        )),
    }
}

fn length(cursor: &mut Cursor<'_>) -> Parsed<Option<u32>> {
    if !cursor.take(&Token::LParen) {
        return Ok(None);
    }
    let length = cursor.number("a length")?;
    cursor.expect(&Token::RParen)?;
    Ok(Some(length))
}

fn decimal(cursor: &mut Cursor<'_>) -> Parsed<DataType> {
    let place = cursor.peek();
    let (mut precision, mut scale) = (10, 0);
    if cursor.take(&Token::LParen) {
        precision = cursor.number("the number of digits")?;
        if cursor.take(&Token::Comma) {
            scale = cursor.number("the number of fraction digits")?;
        }
        cursor.expect(&Token::RParen)?;
    }
    if !(1..=38).contains(&precision) || scale > precision {
        return Err(mistake(&place, format!("DECIMAL({precision}, {scale}) does not exist"))
            .hint("DECIMAL(p, s) needs 1 ≤ p ≤ 38 and 0 ≤ s ≤ p"));
    }
    Ok(DataType::decimal(precision, scale as i32))
}

fn timestamp(cursor: &mut Cursor<'_>) -> Parsed<DataType> {
    let place = cursor.peek();
    let precision = length(cursor)?.unwrap_or(6);
    if precision > 9 {
        return Err(mistake(&place, "a TIMESTAMP has at most 9 fraction digits"));
    }
    if cursor.take_words(&["WITH", "LOCAL", "TIME", "ZONE"]) {
        return Ok(DataType::with_precision(TypeKind::TimestampLtz, precision));
    }
    if cursor.take_words(&["WITH", "TIME", "ZONE"]) {
        return Err(mistake(&place, "TIMESTAMP WITH TIME ZONE is not supported")
            .hint("use TIMESTAMP_LTZ, an instant shown in the job's time zone"));
    }
    cursor.take_words(&["WITHOUT", "TIME", "ZONE"]);
    Ok(DataType::with_precision(TypeKind::Timestamp, precision))
}

fn row(cursor: &mut Cursor<'_>) -> Parsed<DataType> {
    let is_angle = cursor.take(&Token::Lt);
    if !is_angle {
        cursor.expect(&Token::LParen)?;
    }
    let mut fields = Vec::new();
    loop {
        let (name, _) = cursor.name("a field name")?;
        let (field_type, nullable) = data_type(cursor)?;
        fields.push(Field { nullable, ..Field::new(name, field_type) });
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    if is_angle {
        close_angle(cursor)?
    } else {
        cursor.expect(&Token::RParen)?
    }
    Ok(DataType { kind: TypeKind::Row.into(), fields, ..Default::default() })
}

/// Takes one `>`. The statement parser has split `>>` into two before.
fn close_angle(cursor: &mut Cursor<'_>) -> Parsed<()> {
    cursor.expect(&Token::Gt)
}
