//! Flink's `json` format: one object a row.
//!
//! A missing field is NULL, an unknown one is ignored. Times are SQL text (`2024-02-29 00:00:00.5`), decimals plain
//! numbers, bytes base64, NULLs written.

mod decode;
mod encode;

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use snafu::Snafu;

pub use decode::{JsonDecoder, bytes};
pub use encode::{JsonColumn, JsonEncoder};

use crate::options::{OptionError, TableOptions};

/// A batch could not be decoded; which line is at fault is not known yet.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum JsonError {
    #[snafu(display("{source}"))]
    Decode { source: ArrowError },
    #[snafu(display("failed to prepare the JSON decoder"))]
    Prepare { source: ArrowError },
    #[snafu(display("the field '{field}' is missing, which 'json.fail-on-missing-field' does not allow"))]
    Missing { field: String },
    #[snafu(display("values of type {data_type} cannot be written as JSON"))]
    Unwritable { data_type: DataType },
}

/// How rows are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonStyle {
    /// Times as in ISO 8601, `2024-02-29T00:00:00.5`, instead of SQL.
    pub is_iso: bool,
    /// Fields that are NULL are left out.
    pub omits_nulls: bool,
    /// Times with all digits of their type, `2024-02-29 00:00:00.500`.
    pub pads_times: bool,
    /// Decimals as strings, which keep all digits in every reader.
    pub quotes_decimals: bool,
}

impl JsonStyle {
    /// Reads the options of the format that say how rows are written.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let key = "json.timestamp-format.standard";
        let is_iso = match options.optional(key).as_deref() {
            None | Some("SQL") => false,
            Some("ISO-8601") => true,
            Some(_) => return Err(options.wrong(key, "is neither 'SQL' nor 'ISO-8601'")),
        };
        Ok(JsonStyle {
            is_iso,
            omits_nulls: options.flag("json.encode.ignore-null-fields")?,
            ..JsonStyle::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use millrace_sql::plan::{DataType, Field, Leaf, TypeKind};

    use super::*;

    fn leaf(path: &[&str], data_type: DataType) -> Leaf {
        Leaf {
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            data_type: Some(data_type),
            nullable: true,
            ..Leaf::default()
        }
    }

    fn round_trip(leaves: &[Leaf], lines: &str) -> Result<String, JsonError> {
        let records = JsonDecoder::new(leaves, false)?.decode(lines.as_bytes())?;
        let mut out = String::new();
        JsonEncoder::new(&records.schema(), JsonStyle::default()).encode(&records, &mut out)?;
        Ok(out)
    }

    #[test]
    fn values_are_written_as_flink_writes_them() {
        let bigint = DataType::simple(TypeKind::BigInt);
        let leaves = [
            leaf(&["n"], bigint.clone()),
            leaf(&["t"], DataType::with_precision(TypeKind::Timestamp, 3)),
            leaf(&["d"], DataType::decimal(10, 3)),
            leaf(&["row", "inner"], bigint),
            leaf(&["text"], DataType::simple(TypeKind::String)),
            leaf(&["x"], DataType::simple(TypeKind::Double)),
        ];
        let lines = concat!(
            r#"{"n":1,"t":"2024-02-29 00:00:00.500","d":-0.05,"row":{"inner":7,"other":1},"text":"a\"\\\u0001é","x":2,"u":0}"#,
            "\n",
            r#"{"t":"2024-02-29 00:00:01","row":null,"d":12}"#,
            "\n"
        );

        let written = round_trip(&leaves, lines).unwrap();

        assert_eq!(
            written,
            concat!(
                r#"{"n":1,"t":"2024-02-29 00:00:00.5","d":-0.050,"row.inner":7,"text":"a\"\\\u0001é","x":2.0}"#,
                "\n",
                r#"{"n":null,"t":"2024-02-29 00:00:01","d":12.000,"row.inner":null,"text":null,"x":null}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_field_that_is_missing_is_a_mistake_if_the_table_says_so() {
        let bigint = || DataType::simple(TypeKind::BigInt);
        let leaves = [leaf(&["n"], bigint()), leaf(&["row", "inner"], bigint())];
        let decode = |line: &str| {
            let decoded = JsonDecoder::new(&leaves, true).unwrap().decode(line.as_bytes());
            decoded.map(|rows| rows.num_rows()).map_err(|error| error.to_string())
        };

        assert_eq!(decode("{\"n\":1,\"row\":{\"inner\":2}}\n"), Ok(1));
        assert_eq!(decode("{\"n\":null,\"row\":null}\n"), Ok(1));
        for (line, field) in
            [("{\"row\":null}\n", "n"), ("{\"n\":1}\n", "row.inner"), ("{\"n\":1,\"row\":{}}\n", "row.inner")]
        {
            let refused = decode(line).unwrap_err();
            assert!(refused.starts_with(&format!("the field '{field}' is missing")), "{line}: {refused}");
        }
    }

    #[test]
    fn nulls_and_times_are_written_in_the_style_of_the_table() {
        let leaves = [
            leaf(&["n"], DataType::simple(TypeKind::BigInt)),
            leaf(&["t"], DataType::with_precision(TypeKind::Timestamp, 3)),
            leaf(&["z"], DataType::with_precision(TypeKind::TimestampLtz, 3)),
        ];
        let lines = "{\"t\":\"2024-02-29T01:02:03.5\",\"z\":\"2024-02-29T01:02:03Z\"}\n{\"n\":1}\n";
        let rows = JsonDecoder::new(&leaves, false).unwrap().decode(lines.as_bytes()).unwrap();
        let mut out = String::new();
        let style = JsonStyle { is_iso: true, omits_nulls: true, ..JsonStyle::default() };

        JsonEncoder::new(&rows.schema(), style).encode(&rows, &mut out).unwrap();

        assert_eq!(out, "{\"t\":\"2024-02-29T01:02:03.5\",\"z\":\"2024-02-29T01:02:03Z\"}\n{\"n\":1}\n");
    }

    #[test]
    fn bytes_are_base64_in_and_out() {
        let bytes = || Field::new("b", DataType::simple(TypeKind::Bytes));
        let nested = |kind, field| DataType { kind: kind as i32, fields: vec![field], ..Default::default() };
        let leaves = [
            leaf(&["b"], bytes().data_type()),
            leaf(&["row"], nested(TypeKind::Row, bytes())),
            leaf(&["all"], nested(TypeKind::Array, bytes())),
        ];
        // The first one would also be hexadecimal.
        let lines = concat!(
            r#"{"b":"abcd","row":{"b":"AAE="},"all":["/w==",null,""]}"#,
            "\n",
            r#"{"b":null,"row":null,"all":null}"#,
            "\n"
        );

        assert_eq!(round_trip(&leaves, lines).unwrap(), lines);
        let refused = round_trip(&leaves, "{\"b\":\"a?\"}\n").unwrap_err().to_string();
        assert!(refused.contains("'a?' is not base64"), "{refused}");
    }

    #[test]
    fn decimals_are_rounded_and_null_if_they_do_not_fit() {
        let leaves = [leaf(&["d"], DataType::decimal(5, 2))];
        let lines = "{\"d\":1.005}\n{\"d\":\"-1.005\"}\n{\"d\":2e2}\n{\"d\":12345}\n";

        assert_eq!(
            round_trip(&leaves, lines).unwrap(),
            "{\"d\":1.01}\n{\"d\":-1.01}\n{\"d\":200.00}\n{\"d\":null}\n"
        );
        let refused = round_trip(&leaves, "{\"d\":\"x\"}\n").unwrap_err().to_string();
        assert!(refused.contains("'x' is not a number"), "{refused}");
    }

    #[test]
    fn a_wrong_line_is_refused_and_the_next_one_read() {
        let mut decoder =
            JsonDecoder::new(&[leaf(&["n"], DataType::simple(TypeKind::BigInt))], false).unwrap();

        assert!(decoder.decode(b"{\"n\":\"x\"}\n").is_err());
        assert!(decoder.decode(b"{\"n\":\n").is_err());
        assert_eq!(decoder.decode(b"{\"n\":5}\n").unwrap().num_rows(), 1);
    }

    #[test]
    fn lines_count_even_if_no_column_is_read() {
        let mut decoder = JsonDecoder::new(&[], false).unwrap();

        assert_eq!(decoder.decode(b"{\"n\":5}\n{}\n").unwrap().num_rows(), 2);
    }
}
