//! Flink's `csv` format: one line a row, the columns by position.
//!
//! An empty field is the empty text of a STRING, and NULL of every other type; `csv.null-literal` names another NULL. Numbers and
//! times are read as CAST reads texts, BYTES are base64.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, StringBuilder, new_null_array,
};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use arrow::error::ArrowError;
use millrace_sql::connectors::parse_character;
use millrace_sql::functions::{TextError, of_texts};
use millrace_sql::plan::{DataType, Leaf, TypeKind};
use snafu::{OptionExt, ResultExt, Snafu, ensure};

use super::json::{JsonColumn, JsonError, JsonStyle, bytes};
use super::leaf_schema;
use crate::options::{OptionError, TableOptions};

/// A batch could not be decoded or encoded; which line is at fault is not known yet.
#[derive(Debug, Snafu)]
pub enum CsvError {
    #[snafu(display("it has {given} fields, and the table {wanted} columns"))]
    Width { given: usize, wanted: usize },
    #[snafu(display(
        "its field for the column '{column}' has a quote that nothing closes on this line, or something behind the closing one"
    ))]
    Quote { column: String },
    #[snafu(display("its field for the column '{column}' is not UTF-8"))]
    Encoding { column: String },
    #[snafu(display("'{text}' is not a value of the column '{column}', which is {data_type}"))]
    Value { text: String, column: String, data_type: DataType },
    #[snafu(display("the column '{column}': {source}"))]
    Column { column: String, source: ArrowError },
    #[snafu(display("{source}"))]
    Batch { source: ArrowError },
    #[snafu(transparent)]
    Text { source: JsonError },
    #[snafu(display(
        "'{text}' can only be written in quotes, which 'csv.disable-quote-character' does not allow"
    ))]
    NeedsQuotes { text: String },
    #[snafu(display("a row of nothing but NULL is an empty line, which is no row; set 'csv.null-literal'"))]
    Alone,
    #[snafu(display(
        "'{text}' has a line break in it, which cannot be written as CSV yet; REPLACE it, or use 'format' = 'json'"
    ))]
    LineBreak { text: String },
}

/// How rows look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvStyle {
    delimiter: u8,
    /// `None`: quotes are letters like others.
    quote: Option<u8>,
    escape: Option<u8>,
    /// Lines that begin with `#` are none.
    has_comments: bool,
    /// What stands for NULL.
    null: Option<String>,
}

impl CsvStyle {
    /// Reads the options of the format.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let has_quotes = !options.flag("csv.disable-quote-character")?;
        let quote = character(options, "csv.quote-character")?;
        if quote.is_some() && !has_quotes {
            return Err(options.wrong(
                "csv.quote-character",
                "cannot be together with 'csv.disable-quote-character' = 'true'",
            ));
        }
        let style = CsvStyle {
            delimiter: character(options, "csv.field-delimiter")?.unwrap_or(b','),
            quote: has_quotes.then_some(quote.unwrap_or(b'"')),
            escape: character(options, "csv.escape-character")?,
            has_comments: options.flag("csv.allow-comments")?,
            null: options.optional("csv.null-literal"),
        };
        let special = [Some(style.delimiter), style.quote, style.escape];
        let is_twice = |(index, one): (usize, &Option<u8>)| one.is_some() && special[..index].contains(one);
        if style.has_comments && special.contains(&Some(b'#')) {
            return Err(
                options.mistake("with 'csv.allow-comments' no special character can be '#'".to_owned())
            );
        }
        match special.iter().enumerate().any(is_twice) {
            true => Err(options.mistake(
                "'csv.field-delimiter', 'csv.quote-character' and 'csv.escape-character' must be different characters".to_owned(),
            )),
            false => Ok(style),
        }
    }
}

impl CsvStyle {
    /// True if lines that begin with `#` are none.
    pub fn has_comments(&self) -> bool {
        self.has_comments
    }
}

fn character(options: &mut TableOptions<'_>, key: &str) -> Result<Option<u8>, OptionError> {
    let Some(text) = options.optional(key) else { return Ok(None) };
    parse_character(&text)
        .map(Some)
        .ok_or_else(|| options.wrong(key, "is not one ASCII character, such as ';' or '\\t'"))
}

/// Decodes lines into the leaves of a table.
pub struct CsvDecoder {
    style: CsvStyle,
    /// The table's columns: a line has as many fields.
    columns: Vec<String>,
    /// Where each leaf stands in a line.
    positions: Vec<usize>,
    leaves: Vec<Leaf>,
    output: SchemaRef,
}

impl CsvDecoder {
    /// A decoder that reads just these leaves of a table with these columns.
    pub fn new(leaves: &[Leaf], columns: &[String], style: CsvStyle) -> Self {
        let position = |leaf: &Leaf| columns.iter().position(|column| leaf.path.first() == Some(column));
        CsvDecoder {
            style,
            // A column that the table does not have is beyond every line's end.
            positions: leaves.iter().map(|leaf| position(leaf).unwrap_or(columns.len())).collect(),
            columns: columns.to_vec(),
            leaves: leaves.to_vec(),
            output: leaf_schema(leaves),
        }
    }

    /// The schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.output
    }

    /// Decodes whole lines.
    ///
    /// # Errors
    /// If any line is not a row of the table.
    pub fn decode(&mut self, lines: &[u8]) -> Result<RecordBatch, CsvError> {
        let mut columns: Vec<StringBuilder> = self.leaves.iter().map(|_| StringBuilder::new()).collect();
        let (mut fields, mut rows) = (Fields::default(), 0);
        for line in lines.split(|byte| *byte == b'\n') {
            // A carriage return alone ends no line: files are cut at line feeds.
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || (self.style.has_comments && line.starts_with(b"#")) {
                continue;
            }
            if fields.split(line, &self.style).is_err() {
                let column = self.columns.get(fields.ends.len()).map_or("", String::as_str);
                return QuoteSnafu { column }.fail();
            }
            self.append(&fields, &mut columns)?;
            rows += 1;
        }
        let columns = columns.iter_mut().zip(&self.leaves);
        let columns =
            columns.map(|(texts, leaf)| of_column(&texts.finish(), leaf)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options).context(BatchSnafu)
    }

    fn append(&self, fields: &Fields, columns: &mut [StringBuilder]) -> Result<(), CsvError> {
        let (given, wanted) = (fields.ends.len(), self.columns.len());
        ensure!(given == wanted, WidthSnafu { given, wanted });
        for ((column, leaf), position) in columns.iter_mut().zip(&self.leaves).zip(&self.positions) {
            let name = || leaf.path.join(".");
            let (field, is_quoted) = fields.get(*position).context(WidthSnafu { given, wanted })?;
            let text = std::str::from_utf8(field).ok().context(EncodingSnafu { column: name() })?;
            let is_text = leaf.data_type.as_ref().is_some_and(|kind| kind.kind() == TypeKind::String);
            // What stands in quotes is never what stands for NULL.
            let is_null = !is_quoted
                && (self.style.null.as_ref().is_some_and(|null| null == text)
                    || (text.is_empty() && !is_text));
            column.append_option((!is_null).then_some(text));
        }
        Ok(())
    }
}

/// The fields of one line.
#[derive(Default)]
struct Fields {
    text: Vec<u8>,
    /// Where each ends in the text, and whether it stood in quotes.
    ends: Vec<(usize, bool)>,
}

/// A quote that nothing closes, or something between a closing one and the delimiter.
struct Broken;

impl Fields {
    fn get(&self, index: usize) -> Option<(&[u8], bool)> {
        let (end, is_quoted) = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
        Some((&self.text[start..end], is_quoted))
    }

    /// Takes the fields of a line, which has no line break.
    fn split(&mut self, line: &[u8], style: &CsvStyle) -> Result<(), Broken> {
        self.text.clear();
        self.ends.clear();
        let mut rest = line;
        loop {
            let is_quoted = style.quote.is_some() && rest.first().copied() == style.quote;
            rest = if is_quoted { self.quoted(&rest[1..], style)? } else { self.bare(rest, style)? };
            self.ends.push((self.text.len(), is_quoted));
            match rest.split_first() {
                None => return Ok(()),
                Some((delimiter, after)) if *delimiter == style.delimiter => rest = after,
                Some(_) => {
                    self.ends.pop();
                    return Err(Broken);
                }
            }
        }
    }

    /// Takes what stands in quotes; returns what follows the closing one.
    fn quoted<'l>(&mut self, mut rest: &'l [u8], style: &CsvStyle) -> Result<&'l [u8], Broken> {
        loop {
            let (byte, after) = rest.split_first().ok_or(Broken)?;
            if Some(*byte) == style.escape || (Some(*byte) == style.quote && after.first() == Some(byte)) {
                let (escaped, after) = after.split_first().ok_or(Broken)?;
                self.text.push(*escaped);
                rest = after;
            } else if Some(*byte) == style.quote {
                return Ok(after);
            } else {
                self.text.push(*byte);
                rest = after;
            }
        }
    }

    /// Takes a field without quotes; returns the delimiter behind it, and what follows.
    fn bare<'l>(&mut self, mut rest: &'l [u8], style: &CsvStyle) -> Result<&'l [u8], Broken> {
        while let Some((byte, after)) = rest.split_first().filter(|(byte, _)| **byte != style.delimiter) {
            let (byte, after) = match Some(*byte) == style.escape {
                true => after.split_first().ok_or(Broken)?,
                false => (byte, after),
            };
            self.text.push(*byte);
            rest = after;
        }
        Ok(rest)
    }
}

/// Texts as values of a column.
fn of_column(texts: &StringArray, leaf: &Leaf) -> Result<ArrayRef, CsvError> {
    let data_type = leaf.data_type.clone().unwrap_or_default();
    let column = || leaf.path.join(".");
    match data_type.to_arrow() {
        ArrowType::Utf8 => Ok(Arc::new(texts.clone())),
        ArrowType::Binary => bytes(texts).context(ColumnSnafu { column: column() }),
        // CAST cuts fractions; a record with one is not of the table.
        wanted if wanted.is_integer() && texts.iter().flatten().any(|text| text.contains('.')) => {
            let text = texts.iter().flatten().find(|text| text.contains('.')).unwrap_or_default().to_owned();
            ValueSnafu { text, column: column(), data_type }.fail()
        }
        wanted if texts.null_count() == texts.len() => Ok(new_null_array(&wanted, texts.len())),
        wanted => of_texts(texts, &wanted).map_err(|error| match error {
            TextError::NotAValue { text } => CsvError::Value { text, column: column(), data_type },
            TextError::Kernel { source } => {
                let source = ArrowError::CastError(source.to_string());
                CsvError::Column { column: column(), source }
            }
        }),
    }
}

/// Encodes batches, a line a row.
pub struct CsvEncoder {
    style: CsvStyle,
}

impl CsvEncoder {
    pub fn new(style: CsvStyle) -> Self {
        CsvEncoder { style }
    }

    /// Appends the rows as lines; `each` is told where a row ends.
    ///
    /// # Errors
    /// If a text cannot be written so that it is read as it was.
    pub fn encode(
        &self,
        records: &RecordBatch,
        out: &mut String,
        mut each: impl FnMut(usize),
    ) -> Result<(), CsvError> {
        let columns = records.columns().iter().map(JsonColumn::new).collect::<Result<Vec<_>, _>>()?;
        let null = self.style.null.as_deref().unwrap_or_default();
        let mut text = String::new();
        for row in 0..records.num_rows() {
            for (index, (column, values)) in columns.iter().zip(records.columns()).enumerate() {
                if index > 0 {
                    out.push(char::from(self.style.delimiter));
                }
                let field = match values.data_type() {
                    _ if values.is_null(row) => "",
                    ArrowType::Utf8 => values.as_string::<i32>().value(row),
                    _ => {
                        text.clear();
                        column.write(row, JsonStyle::default(), &mut text);
                        text.trim_matches('"')
                    }
                };
                if values.is_null(row) {
                    // A line without anything is no row, and in quotes nothing is NULL.
                    ensure!(columns.len() > 1 || !null.is_empty(), AloneSnafu);
                    out.push_str(null);
                    continue;
                }
                let is_alone = columns.len() == 1 && field.is_empty();
                let is_comment = self.style.has_comments && index == 0 && field.starts_with('#');
                let is_null = if field.is_empty() {
                    self.style.null.as_deref() == Some("") || *values.data_type() != ArrowType::Utf8
                } else {
                    field == null
                };
                self.write_field(field, is_alone || is_comment || is_null, out)?;
            }
            out.push('\n');
            each(out.len());
        }
        Ok(())
    }

    /// Appends a field, in quotes if it has to be.
    fn write_field(&self, field: &str, must_be_quoted: bool, out: &mut String) -> Result<(), CsvError> {
        let CsvStyle { delimiter, quote, escape, .. } = self.style;
        let shown = || field.chars().take(SHOWN_MAX).collect::<String>();
        ensure!(!field.contains('\n'), LineBreakSnafu { text: shown() });
        let special = [Some(delimiter), quote, escape, Some(b'\r')];
        if !must_be_quoted && !field.bytes().any(|byte| special.contains(&Some(byte))) {
            out.push_str(field);
            return Ok(());
        }
        let quote = quote.context(NeedsQuotesSnafu { text: shown() })?;
        let (quote, escape) = (char::from(quote), escape.map(char::from));
        out.push(quote);
        for letter in field.chars() {
            if letter == quote || Some(letter) == escape {
                out.push(escape.unwrap_or(quote));
            }
            out.push(letter);
        }
        out.push(quote);
        Ok(())
    }
}

/// Longest part of a text in messages.
const SHOWN_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use millrace_sql::plan::Table;

    use super::*;

    fn style(options: &[(&str, &str)]) -> Result<CsvStyle, String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let table = Table { name: "t".to_owned(), options, ..Table::default() };
        CsvStyle::new(&mut TableOptions::new(&table)).map_err(|error| error.to_string())
    }

    fn leaf(name: &str, data_type: DataType) -> Leaf {
        Leaf { path: vec![name.to_owned()], data_type: Some(data_type), nullable: true, ..Leaf::default() }
    }

    fn leaves() -> Vec<Leaf> {
        vec![
            leaf("n", DataType::simple(TypeKind::BigInt)),
            leaf("s", DataType::simple(TypeKind::String)),
            leaf("d", DataType::decimal(10, 2)),
            leaf("t", DataType::with_precision(TypeKind::Timestamp, 3)),
            leaf("b", DataType::simple(TypeKind::Boolean)),
            leaf("raw", DataType::simple(TypeKind::Bytes)),
        ]
    }

    fn lines_of(texts: &[&str]) -> RecordBatch {
        let leaves = [leaf("s", DataType::simple(TypeKind::String))];
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        RecordBatch::try_new(leaf_schema(&leaves), vec![column]).unwrap()
    }

    fn round_trip(options: &[(&str, &str)], lines: &str) -> Result<String, CsvError> {
        let style = style(options).unwrap();
        let columns: Vec<String> = leaves().iter().map(|leaf| leaf.path[0].clone()).collect();
        let rows = CsvDecoder::new(&leaves(), &columns, style.clone()).decode(lines.as_bytes())?;
        let mut out = String::new();
        let mut ends = Vec::new();
        CsvEncoder::new(style).encode(&rows, &mut out, |end| ends.push(end))?;
        assert_eq!((ends.len(), ends.last()), (rows.num_rows(), Some(&out.len())));
        Ok(out)
    }

    #[test]
    fn rows_are_read_and_written_by_position() {
        let lines = "1,plain,1.005,2024-02-29 00:00:00.500,true,AAE=\r\n\
                     -2,\"with, comma and \"\"quotes\"\"\",3,2024-02-29T01:02:03,0,\n\
                     ,,,,,\n";

        assert_eq!(
            round_trip(&[], lines).unwrap(),
            "1,plain,1.01,2024-02-29 00:00:00.5,true,AAE=\n\
             -2,\"with, comma and \"\"quotes\"\"\",3.00,2024-02-29 01:02:03,false,\n\
             ,,,,,\n"
        );
    }

    #[test]
    fn the_options_say_how_rows_look() {
        let tabs =
            [("csv.field-delimiter", "\\t"), ("csv.null-literal", "\\N"), ("csv.quote-character", "'")];
        let lines = "1\t\\N\t\\N\t\\N\t\\N\t\\N\n2\t'a\tb'\t0.50\t\\N\t\\N\t\\N\n";
        assert_eq!(round_trip(&tabs, lines).unwrap(), lines);

        let comments = [("csv.allow-comments", "true"), ("csv.disable-quote-character", "true")];
        let lines = "# n,s,d,t,b,raw\n1,\"a,,,,\n";
        assert_eq!(round_trip(&comments, lines).unwrap(), "1,\"a,,,,\n");

        let escape = [("csv.escape-character", "\\")];
        let lines = "1,\"a \\\"word\\\", b\",,,,\n2,\"C:\\\\temp\\\\\",,,,\n";
        assert_eq!(round_trip(&escape, lines).unwrap(), lines);

        for (options, part) in [
            (vec![("csv.field-delimiter", "#"), ("csv.allow-comments", "true")], "can be '#'"),
            (vec![("csv.field-delimiter", "\"")], "must be different characters"),
            (vec![("csv.quote-character", "\n")], "is not one ASCII character"),
            (vec![("csv.field-delimiter", ";;")], "'csv.field-delimiter' = ';;' is not one ASCII character"),
            (
                vec![("csv.quote-character", "'"), ("csv.disable-quote-character", "true")],
                "cannot be together with",
            ),
        ] {
            assert!(style(&options).unwrap_err().contains(part), "{options:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let leaves = [leaf("s", DataType::simple(TypeKind::String))];
        let values = ["", "#1", "a;b", "a\"b", "C:\\temp\\", "\\", "é", " x ", "'", "#"];
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let rows = RecordBatch::try_new(leaf_schema(&leaves), vec![column]).unwrap();
        let with_null = {
            let column: ArrayRef =
                Arc::new(StringArray::from(vec![Some("\\N"), None, Some(""), Some("NULL")]));
            RecordBatch::try_new(leaf_schema(&leaves), vec![column]).unwrap()
        };
        for options in [
            vec![],
            vec![("csv.escape-character", "\\")],
            vec![("csv.allow-comments", "true"), ("csv.field-delimiter", ";")],
            vec![
                ("csv.quote-character", "'"),
                ("csv.escape-character", "\\"),
                ("csv.allow-comments", "true"),
            ],
        ] {
            let style = style(&options).unwrap();
            let mut text = String::new();
            CsvEncoder::new(style.clone()).encode(&rows, &mut text, |_| {}).unwrap();

            let read = CsvDecoder::new(&leaves, &["s".to_owned()], style).decode(text.as_bytes()).unwrap();

            assert_eq!(read, rows, "{options:?}: {text}");
        }
        for null in ["\\N", "NULL"] {
            let style = style(&[("csv.null-literal", null)]).unwrap();
            let mut text = String::new();
            CsvEncoder::new(style.clone()).encode(&with_null, &mut text, |_| {}).unwrap();
            let read = CsvDecoder::new(&leaves, &["s".to_owned()], style).decode(text.as_bytes()).unwrap();
            assert_eq!(read, with_null, "{text}");
        }
        for (options, rows, part) in [
            (vec![], &with_null, "set 'csv.null-literal'"),
            (vec![], &lines_of(&["a\nb"]), "'a\nb' has a line break in it"),
        ] {
            let style = style(&options).unwrap();
            let refused =
                CsvEncoder::new(style).encode(rows, &mut String::new(), |_| {}).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
        let bare = style(&[("csv.disable-quote-character", "true")]).unwrap();
        let refused =
            CsvEncoder::new(bare).encode(&rows, &mut String::new(), |_| {}).unwrap_err().to_string();
        assert!(refused.contains("'' can only be written in quotes"), "{refused}");
    }

    #[test]
    fn what_is_no_row_is_told() {
        for (line, part) in [
            ("1,a\n", "it has 2 fields, and the table 6 columns"),
            ("1,a,,,,,\n", "it has 7 fields"),
            ("1.9,a,,,,\n", "'1.9' is not a value of the column 'n', which is BIGINT"),
            ("1,a,,,,\r2,b,,,,\n", "it has 11 fields"),
            ("x,a,,,,\n", "'x' is not a value of the column 'n', which is BIGINT"),
            ("1,a,,soon,,\n", "'soon' is not a value of the column 't', which is TIMESTAMP(3)"),
            ("1,a,,,maybe,\n", "'maybe' is not a value of the column 'b', which is BOOLEAN"),
            ("1,a,,,,?\n", "'?' is not base64"),
            ("1,a,,,,\"AA", "the column 'raw' has a quote that nothing closes"),
            ("1,\"a\nb\",,,,\n", "the column 's' has a quote that nothing closes"),
            ("1,\"a\"b,,,,\n", "or something behind the closing one"),
        ] {
            let refused = round_trip(&[], line).unwrap_err().to_string();
            assert!(refused.contains(part), "{line}: {refused}");
        }
    }

    #[test]
    fn lines_count_even_if_no_column_is_read() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let mut decoder = CsvDecoder::new(&[], &columns, style(&[]).unwrap());

        assert_eq!(decoder.decode(b"1,2\n3,4\n").unwrap().num_rows(), 2);
    }
}
