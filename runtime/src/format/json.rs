//! Flink's `json` format: one object a row.
//!
//! A missing field is NULL, an unknown one is ignored. Times are SQL text (`2024-02-29 00:00:00.5`), decimals plain
//! numbers, bytes base64, NULLs written.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, RecordBatch, RecordBatchOptions,
    StructArray, new_null_array,
};
use arrow::compute::{cast, concat_batches, nullif};
use arrow::datatypes::{
    DataType as ArrowType, Decimal128Type, Field as ArrowField, Fields, Float32Type, Float64Type, Int64Type,
    Schema, SchemaRef, TimeUnit,
};
use arrow::error::ArrowError;
use arrow_json::reader::{Decoder, ReaderBuilder};
use chrono::DateTime;
use millrace_sql::plan::Leaf;
use snafu::{OptionExt, ResultExt, Snafu};

/// A batch could not be decoded; which line is at fault is not known yet.
#[derive(Debug, Snafu)]
pub enum JsonError {
    #[snafu(display("{source}"))]
    Decode { source: ArrowError },
    #[snafu(display("failed to prepare the JSON decoder"))]
    Prepare { source: ArrowError },
    #[snafu(display("the field '{field}' is missing, which 'json.fail-on-missing-field' does not allow"))]
    Missing { field: String },
    #[snafu(display("values of type {data_type} cannot be written as JSON"))]
    Unwritable { data_type: ArrowType },
}

/// Rows that the decoder makes room for at a time.
const ROWS_MAX: usize = 8192;

/// How rows are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonStyle {
    /// Times as in ISO 8601, `2024-02-29T00:00:00.5`, instead of SQL.
    pub is_iso: bool,
    /// Fields that are NULL are left out.
    pub omits_nulls: bool,
}

/// Decodes lines into the leaves of a table.
pub struct JsonDecoder {
    decoder: Decoder,
    nested: SchemaRef,
    /// The same with text where the reader is to leave base64 to us: of its own it takes bytes for hexadecimal.
    readable: SchemaRef,
    leaves: Vec<Leaf>,
    /// A field that is not there is a mistake, and not NULL.
    needs_fields: bool,
    output: SchemaRef,
}

impl JsonDecoder {
    /// A decoder that reads just these leaves.
    pub fn new(leaves: &[Leaf], needs_fields: bool) -> Result<Self, JsonError> {
        let nested = Arc::new(Schema::new(nested_fields(leaves, 0)));
        let readable = Arc::new(Schema::new(nested.fields().iter().map(as_text).collect::<Fields>()));
        let decoder = ReaderBuilder::new(Arc::clone(&readable))
            .with_batch_size(ROWS_MAX)
            .with_coerce_primitive(true)
            .build_decoder()
            .context(PrepareSnafu)?;
        Ok(JsonDecoder {
            decoder,
            nested,
            readable,
            leaves: leaves.to_vec(),
            needs_fields,
            output: leaf_schema(leaves),
        })
    }

    /// Decodes whole lines.
    ///
    /// # Errors
    /// If any line is not an object of the table's types; the decoder is then ready for other lines.
    pub fn decode(&mut self, lines: &[u8]) -> Result<RecordBatch, JsonError> {
        if self.needs_fields {
            self.check_fields(lines)?;
        }
        let decoded = self.decode_all(lines);
        if decoded.is_err() {
            *self = JsonDecoder::new(&self.leaves, self.needs_fields)?;
        }
        decoded.context(DecodeSnafu)
    }

    /// Decodes lines, each of which must be one row, and leaves out those that are not; returns how many.
    ///
    /// # Errors
    /// If rows cannot be put together, which no line causes.
    pub fn decode_good(&mut self, lines: &[&[u8]]) -> Result<(RecordBatch, u64), JsonError> {
        let mut rows = Vec::new();
        for line in lines {
            if let Ok(row) = self.decode(line)
                && row.num_rows() == 1
            {
                rows.push(row);
            }
        }
        let skipped = (lines.len() - rows.len()) as u64;
        Ok((concat_batches(&self.output, &rows).context(DecodeSnafu)?, skipped))
    }

    /// Looks whether each line has all fields. What is no JSON is left to the reader, which says why.
    fn check_fields(&self, lines: &[u8]) -> Result<(), JsonError> {
        for line in lines.split(|byte| *byte == b'\n') {
            let Ok(row) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
            for leaf in &self.leaves {
                let mut value = &row;
                for name in &leaf.path {
                    // Inside of a ROW that is NULL nothing is missing.
                    let serde_json::Value::Object(fields) = value else { break };
                    value = fields.get(name).context(MissingSnafu { field: leaf.path.join(".") })?;
                }
            }
        }
        Ok(())
    }

    fn decode_all(&mut self, mut lines: &[u8]) -> Result<RecordBatch, ArrowError> {
        let mut parts = Vec::new();
        while !lines.is_empty() {
            let used = self.decoder.decode(lines)?;
            lines = &lines[used..];
            parts.extend(self.decoder.flush()?.map(|records| self.leaves_of(&records)).transpose()?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => concat_batches(&self.output, &parts),
        }
    }

    fn leaves_of(&self, records: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let rows = records.num_rows();
        let fields = self.nested.fields().clone();
        let columns = match self.readable == self.nested {
            true => records.columns().to_vec(),
            false => {
                let columns = records.columns().iter().zip(&fields);
                columns
                    .map(|(column, field)| from_text(column, field.data_type()))
                    .collect::<Result<_, _>>()?
            }
        };
        let root = StructArray::try_new_with_length(fields, columns, None, rows)?;
        let columns =
            self.leaves.iter().map(|leaf| extract(&root, &leaf.path)).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
    }
}

/// A field whose bytes, also inside of rows and arrays, are text.
fn as_text(field: &Arc<ArrowField>) -> Arc<ArrowField> {
    let data_type = match field.data_type() {
        ArrowType::Binary => ArrowType::Utf8,
        ArrowType::Struct(fields) => ArrowType::Struct(fields.iter().map(as_text).collect()),
        ArrowType::List(element) => ArrowType::List(as_text(element)),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// Turns the base64 of [`as_text`] into bytes.
fn from_text(column: &ArrayRef, wanted: &ArrowType) -> Result<ArrayRef, ArrowError> {
    use base64::Engine;
    if column.data_type() == wanted {
        return Ok(Arc::clone(column));
    }
    match wanted {
        ArrowType::Struct(fields) => {
            let (rows, nulls) = (column.as_struct(), column.nulls().cloned());
            let columns = rows.columns().iter().zip(fields);
            let columns = columns
                .map(|(column, field)| from_text(column, field.data_type()))
                .collect::<Result<_, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, rows.len())?))
        }
        ArrowType::List(element) => {
            let lists: &ListArray = column.as_list();
            let values = from_text(lists.values(), element.data_type())?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        _ => {
            let decode = |text: &str| {
                base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| {
                    ArrowError::JsonError(format!(
                        "'{text}' is not base64, which BYTES are written in: {error}"
                    ))
                })
            };
            let texts = column.as_string::<i32>().iter();
            let bytes = texts.map(|text| text.map(decode).transpose()).collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(bytes.iter().map(Option::as_deref).collect::<BinaryArray>()))
        }
    }
}

/// The schema of a batch of leaves.
pub fn leaf_schema(leaves: &[Leaf]) -> SchemaRef {
    let field = |leaf: &Leaf| {
        ArrowField::new(
            leaf.path.join("."),
            leaf.data_type.clone().unwrap_or_default().to_arrow(),
            leaf.nullable,
        )
    };
    Arc::new(Schema::new(leaves.iter().map(field).collect::<Vec<_>>()))
}

/// Rows of just the parts that the leaves need, in their order.
fn nested_fields(leaves: &[Leaf], depth: usize) -> Fields {
    let mut names: Vec<&String> = Vec::new();
    for leaf in leaves {
        if !names.contains(&&leaf.path[depth]) {
            names.push(&leaf.path[depth]);
        }
    }
    let field = |name: &String| {
        let below: Vec<Leaf> = leaves.iter().filter(|leaf| leaf.path[depth] == *name).cloned().collect();
        // A leaf that is a whole ROW covers every leaf inside of it.
        match below.iter().find(|leaf| leaf.path.len() == depth + 1) {
            Some(leaf) => {
                ArrowField::new(name, leaf.data_type.clone().unwrap_or_default().to_arrow(), leaf.nullable)
            }
            None => ArrowField::new(name, ArrowType::Struct(nested_fields(&below, depth + 1)), true),
        }
    };
    names.into_iter().map(field).collect()
}

fn extract(row: &StructArray, path: &[String]) -> Result<ArrayRef, ArrowError> {
    let Some((name, rest)) = path.split_first() else {
        return Err(ArrowError::SchemaError("an empty path".to_owned()));
    };
    let Some(column) = row.column_by_name(name) else {
        return Err(ArrowError::SchemaError(format!("no field '{name}'")));
    };
    if rest.is_empty() {
        return Ok(Arc::clone(column));
    }
    let Some(inner) = column.as_struct_opt() else {
        return Ok(new_null_array(column.data_type(), row.len()));
    };
    let values = extract(inner, rest)?;
    match inner.nulls() {
        Some(nulls) if nulls.null_count() > 0 => nullif(&values, &BooleanArray::new(!nulls.inner(), None)),
        _ => Ok(values),
    }
}

/// Encodes batches of one schema, a line a row.
pub struct JsonEncoder {
    names: Vec<String>,
    style: JsonStyle,
}

impl JsonEncoder {
    /// An encoder for a schema.
    pub fn new(schema: &Schema, style: JsonStyle) -> Self {
        JsonEncoder { names: schema.fields().iter().map(quoted).collect(), style }
    }

    /// Appends the rows as lines.
    pub fn encode(&self, records: &RecordBatch, out: &mut String) -> Result<(), JsonError> {
        let columns = records.columns().iter().map(JsonColumn::new).collect::<Result<Vec<_>, _>>()?;
        for row in 0..records.num_rows() {
            let fields = self.names.iter().zip(&columns);
            write_fields(fields, row, self.style, out);
            out.push('\n');
        }
        Ok(())
    }
}

/// A field's name as it stands in an object.
fn quoted(field: &Arc<ArrowField>) -> String {
    let mut name = String::new();
    write_text(field.name(), &mut name);
    name.push(':');
    name
}

/// Writes an object, whose names are quoted and have their colon.
fn write_fields<'a>(
    fields: impl Iterator<Item = (&'a String, &'a JsonColumn)>,
    row: usize,
    style: JsonStyle,
    out: &mut String,
) {
    out.push('{');
    let mut is_first = true;
    for (name, column) in fields {
        if style.omits_nulls && column.is_null(row) {
            continue;
        }
        if !is_first {
            out.push(',');
        }
        is_first = false;
        out.push_str(name);
        column.write(row, style, out);
    }
    out.push('}');
}

/// A column viewed for writing.
enum JsonColumn {
    Null,
    Boolean(BooleanArray),
    Integer(arrow::array::Int64Array),
    Float(arrow::array::Float32Array),
    Double(arrow::array::Float64Array),
    Decimal(arrow::array::Decimal128Array, i8),
    Text(arrow::array::StringArray),
    Bytes(arrow::array::BinaryArray),
    Date(arrow::array::Int64Array),
    Time(arrow::array::Int64Array),
    Timestamp(arrow::array::Int64Array, TimeUnit, bool),
    Row(StructArray, Vec<(String, JsonColumn)>),
    Array(arrow::array::ListArray, Box<JsonColumn>),
}

impl JsonColumn {
    fn new(column: &ArrayRef) -> Result<Self, JsonError> {
        let wide = |column: &ArrayRef| -> Result<arrow::array::Int64Array, JsonError> {
            let values = cast(column, &ArrowType::Int64).context(PrepareSnafu)?;
            Ok(values.as_primitive::<Int64Type>().clone())
        };
        Ok(match column.data_type() {
            ArrowType::Null => JsonColumn::Null,
            ArrowType::Boolean => JsonColumn::Boolean(column.as_boolean().clone()),
            data_type if data_type.is_integer() => JsonColumn::Integer(wide(column)?),
            ArrowType::Float32 => JsonColumn::Float(column.as_primitive::<Float32Type>().clone()),
            ArrowType::Float64 => JsonColumn::Double(column.as_primitive::<Float64Type>().clone()),
            ArrowType::Decimal128(_, scale) => {
                JsonColumn::Decimal(column.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            ArrowType::Utf8 => JsonColumn::Text(column.as_string().clone()),
            ArrowType::Binary => JsonColumn::Bytes(column.as_binary().clone()),
            ArrowType::Date32 => JsonColumn::Date(wide(column)?),
            ArrowType::Time32(TimeUnit::Millisecond) => JsonColumn::Time(wide(column)?),
            ArrowType::Timestamp(unit, zone) => JsonColumn::Timestamp(wide(column)?, *unit, zone.is_some()),
            ArrowType::Struct(fields) => {
                let rows = column.as_struct();
                let parts = fields
                    .iter()
                    .zip(rows.columns())
                    .map(|(field, column)| Ok((quoted(field), JsonColumn::new(column)?)));
                JsonColumn::Row(rows.clone(), parts.collect::<Result<_, _>>()?)
            }
            ArrowType::List(_) => {
                let lists: &arrow::array::ListArray = column.as_list();
                JsonColumn::Array(lists.clone(), Box::new(JsonColumn::new(lists.values())?))
            }
            other => return UnwritableSnafu { data_type: other.clone() }.fail(),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            JsonColumn::Null => true,
            JsonColumn::Boolean(values) => values.is_null(row),
            JsonColumn::Integer(values) | JsonColumn::Date(values) | JsonColumn::Time(values) => {
                values.is_null(row)
            }
            JsonColumn::Timestamp(values, ..) => values.is_null(row),
            JsonColumn::Float(values) => values.is_null(row),
            JsonColumn::Double(values) => values.is_null(row),
            JsonColumn::Decimal(values, _) => values.is_null(row),
            JsonColumn::Text(values) => values.is_null(row),
            JsonColumn::Bytes(values) => values.is_null(row),
            JsonColumn::Row(values, _) => values.is_null(row),
            JsonColumn::Array(values, _) => values.is_null(row),
        }
    }

    fn write(&self, row: usize, style: JsonStyle, out: &mut String) {
        if self.is_null(row) {
            return out.push_str("null");
        }
        // Writing to a String cannot fail.
        let _ = match self {
            JsonColumn::Null => Ok(()),
            JsonColumn::Boolean(values) => write!(out, "{}", values.value(row)),
            JsonColumn::Integer(values) => write!(out, "{}", values.value(row)),
            JsonColumn::Float(values) => write_float(f64::from(values.value(row)), &values.value(row), out),
            JsonColumn::Double(values) => write_float(values.value(row), &values.value(row), out),
            JsonColumn::Decimal(values, scale) => {
                write_decimal(values.value(row), *scale, out);
                Ok(())
            }
            JsonColumn::Text(values) => {
                write_text(values.value(row), out);
                Ok(())
            }
            JsonColumn::Bytes(values) => {
                use base64::Engine;
                write!(out, "\"{}\"", base64::engine::general_purpose::STANDARD.encode(values.value(row)))
            }
            JsonColumn::Date(values) => {
                let date =
                    DateTime::from_timestamp_millis(values.value(row) * 86_400_000).unwrap_or_default();
                write!(out, "\"{}\"", date.format("%Y-%m-%d"))
            }
            JsonColumn::Time(values) => {
                let time = DateTime::from_timestamp_millis(values.value(row)).unwrap_or_default();
                let nanos = time.timestamp_subsec_nanos();
                write!(out, "\"{}{}\"", time.format("%H:%M:%S"), fraction(nanos))
            }
            JsonColumn::Timestamp(values, unit, is_instant) => {
                out.push('"');
                write_timestamp(values.value(row), *unit, style, out);
                out.push_str(if *is_instant { "Z\"" } else { "\"" });
                Ok(())
            }
            JsonColumn::Row(_, fields) => {
                write_fields(fields.iter().map(|(name, field)| (name, field)), row, style, out);
                Ok(())
            }
            JsonColumn::Array(lists, elements) => {
                let offsets = lists.value_offsets();
                out.push('[');
                for element in offsets[row]..offsets[row + 1] {
                    if element > offsets[row] {
                        out.push(',');
                    }
                    elements.write(element as usize, style, out);
                }
                out.push(']');
                Ok(())
            }
        };
    }
}

/// JSON has no NaN and no infinity; like Jackson, they are written as strings.
fn write_float(value: f64, shown: &dyn std::fmt::Display, out: &mut String) -> std::fmt::Result {
    if value.is_nan() {
        out.write_str("\"NaN\"")
    } else if value.is_infinite() {
        out.write_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" })
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        write!(out, "{shown}.0")
    } else {
        write!(out, "{shown}")
    }
}

/// Appends a decimal without exponent, with all its fraction digits.
pub fn write_decimal(value: i128, scale: i8, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let digits = value.unsigned_abs().to_string();
    let scale = usize::try_from(scale).unwrap_or(0);
    if scale == 0 {
        return out.push_str(&digits);
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.push_str(whole);
    out.push('.');
    out.push_str(fraction);
}

/// Appends `yyyy-MM-dd HH:mm:ss` and as many fraction digits as there are.
fn write_timestamp(value: i64, unit: TimeUnit, style: JsonStyle, out: &mut String) {
    let time = match unit {
        TimeUnit::Second => DateTime::from_timestamp(value, 0),
        TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
        TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
        TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
    };
    let time = time.unwrap_or_default();
    let format = if style.is_iso { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    let _ = write!(out, "{}{}", time.format(format), fraction(time.timestamp_subsec_nanos()));
}

fn fraction(nanos: u32) -> String {
    if nanos == 0 {
        return String::new();
    }
    format!(".{}", format!("{nanos:09}").trim_end_matches('0'))
}

/// Appends a JSON string.
pub fn write_text(text: &str, out: &mut String) {
    out.push('"');
    let mut clean = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[clean..index]);
        if escaped.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escaped);
        }
        clean = index + 1;
    }
    out.push_str(&text[clean..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_sql::plan::{DataType, Field, TypeKind};

    fn leaf(path: &[&str], data_type: DataType) -> Leaf {
        Leaf {
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            data_type: Some(data_type),
            nullable: true,
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
        let style = JsonStyle { is_iso: true, omits_nulls: true };

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
