//! Rows as bytes outside: how connectors read and write them.

pub mod csv;
pub mod json;
pub mod parquet;

use std::sync::Arc;

use ::parquet::errors::ParquetError;
use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;
use millrace_sql::plan::{Leaf, Table};
use snafu::Snafu;

use crate::options::{OptionError, TableOptions};
use csv::{CsvDecoder, CsvEncoder, CsvError, CsvStyle};
use json::{JsonDecoder, JsonEncoder, JsonError, JsonStyle};
use parquet::{ParquetEncoder, ParquetStyle};

/// Records cannot be read or written; which one is at fault is not known yet.
#[derive(Debug, Snafu)]
pub enum FormatError {
    #[snafu(transparent)]
    Json { source: JsonError },
    #[snafu(transparent)]
    Csv { source: CsvError },
    #[snafu(display("{source}"))]
    Together { source: ArrowError },
    #[snafu(transparent)]
    Parquet { source: ParquetError },
}

/// How records are read.
#[derive(Debug, Clone)]
pub enum InputFormat {
    Json {
        /// A field that is not there makes a record a bad one.
        needs_fields: bool,
    },
    Csv {
        style: CsvStyle,
        /// The table's columns, in order.
        columns: Vec<String>,
    },
    /// The bytes are the value of the one column.
    Raw,
}

impl InputFormat {
    /// Reads the option 'format' and those of the format.
    pub fn new(table: &Table, options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        match options.required("format")?.as_str() {
            "json" => {
                // Times are read in either form.
                options.optional("json.timestamp-format.standard");
                let needs_fields = options.flag("json.fail-on-missing-field")?;
                Ok(InputFormat::Json { needs_fields })
            }
            "raw" => Ok(InputFormat::Raw),
            "csv" => {
                let fields = table.schema.iter().flat_map(|schema| &schema.fields);
                let columns = fields.map(|field| field.name.clone()).collect();
                Ok(InputFormat::Csv { style: CsvStyle::new(options)?, columns })
            }
            _ => Err(unknown(options)),
        }
    }

    /// The same without some columns, which are not in the records.
    pub fn without(self, left_out: &[String]) -> Self {
        match self {
            InputFormat::Csv { style, mut columns } => {
                columns.retain(|column| !left_out.contains(column));
                InputFormat::Csv { style, columns }
            }
            other => other,
        }
    }

    /// Its name in options.
    pub fn name(&self) -> &'static str {
        match self {
            InputFormat::Json { .. } => "json",
            InputFormat::Csv { .. } => "csv",
            InputFormat::Raw => "raw",
        }
    }

    /// True if a record by itself may be another number of rows than one, although it is no mistake where lines are read.
    pub fn may_not_be_one_row(&self, record: &[u8]) -> bool {
        match self {
            InputFormat::Json { .. } => {
                let record = record.trim_ascii();
                !record.starts_with(b"{") || !record.ends_with(b"}")
            }
            InputFormat::Csv { style, .. } => {
                record.is_empty()
                    || record.contains(&b'\n')
                    || (style.has_comments() && record.starts_with(b"#"))
            }
            InputFormat::Raw => false,
        }
    }

    /// True if lines of a file have given as many rows as they should, each its own: a line of JSON is one object.
    pub fn is_a_row_a_line(&self, lines: &[u8], rows: usize) -> bool {
        let InputFormat::Json { .. } = self else { return true };
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let mut count = 0;
        lines.inspect(|_| count += 1).all(|line| !self.may_not_be_one_row(line)) && count == rows
    }

    /// A decoder of just these leaves of the table.
    ///
    /// # Errors
    /// If the format has no values of a leaf's type.
    pub fn decoder(&self, leaves: &[Leaf]) -> Result<Decoder, FormatError> {
        Ok(match self {
            InputFormat::Json { needs_fields } => {
                Decoder::Json(Box::new(JsonDecoder::new(leaves, *needs_fields)?))
            }
            InputFormat::Csv { style, columns } => {
                Decoder::Csv(CsvDecoder::new(leaves, columns, style.clone()))
            }
            InputFormat::Raw => Decoder::Raw(RawDecoder { schema: leaf_schema(leaves) }),
        })
    }
}

/// Decodes records into the leaves of a table.
pub enum Decoder {
    Json(Box<JsonDecoder>),
    Csv(CsvDecoder),
    Raw(RawDecoder),
}

impl Decoder {
    /// Decodes whole lines.
    ///
    /// # Errors
    /// If any line is no row of the table; the decoder is then ready for other lines.
    pub fn decode(&mut self, lines: &[u8]) -> Result<RecordBatch, FormatError> {
        Ok(match self {
            Decoder::Json(decoder) => decoder.decode(lines)?,
            Decoder::Csv(decoder) => decoder.decode(lines)?,
            Decoder::Raw(decoder) => {
                decoder.decode([lines.strip_suffix(b"\n").unwrap_or(lines)].into_iter())?
            }
        })
    }

    /// Decodes lines of a file one by one, and leaves out those that are wrong; returns which. One without a row, such as a
    /// comment, is not wrong.
    ///
    /// # Errors
    /// If rows cannot be put together, which no line causes.
    pub fn decode_right(&mut self, lines: &[&[u8]]) -> Result<(RecordBatch, Vec<usize>), FormatError> {
        let (mut rows, mut wrong) = (Vec::new(), Vec::new());
        for (index, line) in lines.iter().enumerate() {
            match self.decode(line) {
                Ok(row) if row.num_rows() <= 1 => rows.push(row),
                _ => wrong.push(index),
            }
        }
        Ok((self.join(&rows)?, wrong))
    }

    /// Decodes records, each of which must be one row, and leaves out those that are not; says which are rows.
    ///
    /// # Errors
    /// If rows cannot be put together, which no line causes.
    pub fn decode_good(&mut self, lines: &[&[u8]]) -> Result<(RecordBatch, Vec<u32>), FormatError> {
        let (mut rows, mut kept) = (Vec::new(), Vec::new());
        for (index, line) in (0..).zip(lines) {
            if let Ok(row) = self.decode(line)
                && row.num_rows() == 1
            {
                rows.push(row);
                kept.push(index);
            }
        }
        Ok((self.join(&rows)?, kept))
    }

    fn join(&self, rows: &[RecordBatch]) -> Result<RecordBatch, FormatError> {
        concat_batches(self.schema(), rows).map_err(|source| FormatError::Together { source })
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            Decoder::Json(decoder) => decoder.schema(),
            Decoder::Csv(decoder) => decoder.schema(),
            Decoder::Raw(decoder) => &decoder.schema,
        }
    }
}

/// Takes bytes for values of the one column that there is, if it is read.
pub struct RawDecoder {
    schema: SchemaRef,
}

impl RawDecoder {
    /// A row of each record.
    ///
    /// # Errors
    /// If one is no UTF-8, and the column a STRING.
    pub fn decode<'a>(&self, records: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, FormatError> {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(records));
        let options = RecordBatchOptions::new().with_row_count(Some(bytes.len()));
        let column = |field: &Arc<Field>| cast_with_options(&bytes, field.data_type(), &STRICT);
        let columns = self.schema.fields().iter().map(column).collect::<Result<_, _>>();
        let rows = columns.and_then(|columns| {
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
        });
        rows.map_err(|source| FormatError::Together { source })
    }
}

/// Bytes that are no UTF-8 are no text.
pub const STRICT: CastOptions<'_> = CastOptions { safe: false, format_options: FormatOptions::new() };

/// The schema of a batch of leaves.
pub fn leaf_schema(leaves: &[Leaf]) -> SchemaRef {
    let field = |leaf: &Leaf| {
        let data_type = leaf.data_type.clone().unwrap_or_default().to_arrow();
        Field::new(leaf.path.join("."), data_type, leaf.nullable)
    };
    Arc::new(Schema::new(leaves.iter().map(field).collect::<Vec<_>>()))
}

/// How rows are written.
#[derive(Debug, Clone)]
pub enum OutputFormat {
    Json(JsonStyle),
    Csv(CsvStyle),
}

impl OutputFormat {
    /// Reads the option 'format' and those of the format.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        match options.required("format")?.as_str() {
            "json" => Ok(OutputFormat::Json(JsonStyle::new(options)?)),
            "csv" => Ok(OutputFormat::Csv(CsvStyle::new(options)?)),
            _ => Err(unknown(options)),
        }
    }

    /// An encoder for batches of a schema.
    pub fn encoder(&self, schema: &Schema) -> Encoder {
        match self {
            OutputFormat::Json(style) => Encoder::Json(JsonEncoder::new(schema, *style)),
            OutputFormat::Csv(style) => Encoder::Csv(CsvEncoder::new(style.clone())),
        }
    }
}

/// Encodes batches of one schema, a line a row.
pub enum Encoder {
    Json(JsonEncoder),
    Csv(CsvEncoder),
}

impl Encoder {
    /// Appends the rows as lines.
    pub fn encode(&self, records: &RecordBatch, out: &mut String) -> Result<(), FormatError> {
        match self {
            Encoder::Json(encoder) => encoder.encode(records, out)?,
            Encoder::Csv(encoder) => encoder.encode(records, out, |_| {})?,
        }
        Ok(())
    }

    /// Appends the rows as lines, and says where each ends, behind its line break.
    pub fn encode_each(&self, records: &RecordBatch, out: &mut String) -> Result<Vec<usize>, FormatError> {
        let start = out.len();
        let mut ends = Vec::with_capacity(records.num_rows());
        match self {
            Encoder::Json(encoder) => {
                encoder.encode(records, out)?;
                // Line breaks in values are escaped.
                let breaks = out.bytes().enumerate().skip(start).filter(|(_, byte)| *byte == b'\n');
                ends.extend(breaks.map(|(index, _)| index + 1));
            }
            Encoder::Csv(encoder) => encoder.encode(records, out, |end| ends.push(end))?,
        }
        Ok(ends)
    }
}

/// How files are written.
#[derive(Debug, Clone)]
pub enum FileFormat {
    Lines(OutputFormat),
    Parquet(ParquetStyle),
}

impl FileFormat {
    /// Reads the option 'format' and those of the format.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        match options.required("format")?.as_str() {
            "parquet" => Ok(FileFormat::Parquet(ParquetStyle::new(options)?)),
            _ => Ok(FileFormat::Lines(OutputFormat::new(options)?)),
        }
    }

    /// An encoder of one file with rows of a schema.
    ///
    /// # Errors
    /// If the format has no values of a column's type.
    pub fn encoder(&self, schema: &Schema) -> Result<FileEncoder, FormatError> {
        Ok(match self {
            FileFormat::Lines(format) => {
                FileEncoder::Lines { encoder: format.encoder(schema), text: String::new() }
            }
            FileFormat::Parquet(style) => FileEncoder::Parquet(Box::new(style.encoder(schema)?)),
        })
    }
}

/// Encodes the rows of one file, and hands out what is ready to be written.
pub enum FileEncoder {
    Lines { encoder: Encoder, text: String },
    Parquet(Box<ParquetEncoder>),
}

impl FileEncoder {
    /// Takes rows, and appends what is ready.
    pub fn encode(&mut self, records: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match self {
            FileEncoder::Lines { encoder, text } => {
                text.clear();
                encoder.encode(records, text)?;
                out.extend_from_slice(text.as_bytes());
            }
            FileEncoder::Parquet(encoder) => encoder.encode(records, out)?,
        }
        Ok(())
    }

    /// Appends all rows so far.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match self {
            FileEncoder::Lines { text, .. } => *text = String::new(),
            FileEncoder::Parquet(encoder) => encoder.flush(out)?,
        }
        Ok(())
    }

    /// Appends all rows and what ends the file.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match self {
            FileEncoder::Lines { .. } => {}
            FileEncoder::Parquet(encoder) => encoder.finish(out)?,
        }
        Ok(())
    }

    /// Bytes of memory for rows that were not handed out.
    pub fn held(&self) -> usize {
        match self {
            FileEncoder::Lines { .. } => 0,
            FileEncoder::Parquet(encoder) => encoder.held(),
        }
    }

    /// How many bytes those rows will be in the file, about.
    pub fn pending(&self) -> usize {
        match self {
            FileEncoder::Lines { .. } => 0,
            FileEncoder::Parquet(encoder) => encoder.pending(),
        }
    }
}

fn unknown(options: &TableOptions<'_>) -> OptionError {
    options.wrong("format", "is not supported; use 'json' or 'csv'")
}
