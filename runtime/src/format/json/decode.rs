//! Lines of JSON as batches of just the columns and fields that are read.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, ListArray, MapArray, RecordBatch,
    RecordBatchOptions, StringArray, StructArray, new_null_array,
};
use arrow::compute::{concat_batches, nullif};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_json::reader::{Decoder, ReaderBuilder};
use millrace_sql::functions::decimal;
use millrace_sql::plan::Leaf;
use snafu::{OptionExt, ResultExt};

use super::super::leaf_schema;
use super::{DecodeSnafu, JsonError, MissingSnafu, PrepareSnafu};

/// Rows that the decoder makes room for at a time.
const ROWS_MAX: usize = 8192;

/// Decodes lines into the leaves of a table.
pub struct JsonDecoder {
    decoder: Decoder,
    nested: SchemaRef,
    /// The same with text where the reader would read otherwise: it takes bytes for hexadecimal, and cuts decimals.
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

    /// The schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.output
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

/// A field whose bytes and decimals, also inside of rows and arrays, are text.
fn as_text(field: &Arc<ArrowField>) -> Arc<ArrowField> {
    let data_type = match field.data_type() {
        ArrowType::Binary | ArrowType::Decimal128(..) => ArrowType::Utf8,
        ArrowType::Struct(fields) => ArrowType::Struct(fields.iter().map(as_text).collect()),
        ArrowType::List(element) => ArrowType::List(as_text(element)),
        ArrowType::Map(entries, is_sorted) => ArrowType::Map(as_text(entries), *is_sorted),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// Turns the texts of [`as_text`] into what they stand for.
fn from_text(column: &ArrayRef, wanted: &ArrowType) -> Result<ArrayRef, ArrowError> {
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
        ArrowType::Map(entries, is_sorted) => {
            let maps = column.as_map();
            let rows: ArrayRef = Arc::new(maps.entries().clone());
            let rows = from_text(&rows, entries.data_type())?.as_struct().clone();
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, rows, nulls, *is_sorted)?))
        }
        ArrowType::Decimal128(precision, scale) => decimals(column.as_string(), *precision, *scale),
        _ => bytes(column.as_string()),
    }
}

/// Rounded half up; NULL if there are too many digits.
fn decimals(texts: &StringArray, precision: u8, scale: i8) -> Result<ArrayRef, ArrowError> {
    let parse = |text: &str| {
        decimal(text.trim(), precision, scale)
            .map_err(|_| ArrowError::JsonError(format!("'{text}' is not a number, which a DECIMAL needs")))
    };
    let parsed = texts.iter().map(|text| Ok(text.map(parse).transpose()?.flatten()));
    let values: Decimal128Array = parsed.collect::<Result<Vec<_>, ArrowError>>()?.into();
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

/// The bytes of base64.
pub fn bytes(texts: &StringArray) -> Result<ArrayRef, ArrowError> {
    use base64::Engine;
    let decode = |text: &str| {
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| {
            ArrowError::JsonError(format!("'{text}' is not base64, which BYTES are written in: {error}"))
        })
    };
    let bytes = texts.iter().map(|text| text.map(decode).transpose()).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(bytes.iter().map(Option::as_deref).collect::<BinaryArray>()))
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
