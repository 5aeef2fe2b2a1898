//! How records become rows, and what becomes of records that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, new_null_array};
use arrow::compute::{cast_with_options, concat_batches};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millrace_sql::connectors::kafka;
use millrace_sql::kafka_keys::{self, Keys};
use millrace_sql::plan::{Leaf, Source as SourcePlan};
use parking_lot::Mutex;
use tracing::warn;

use super::SourceError;
use super::layout::Layout;
use crate::clock::Clock;
use crate::format::csv::CsvStyle;
use crate::format::{Decoder, InputFormat, STRICT, leaf_schema};
use crate::options::{OptionError, TableOptions};

/// The format of a source's records.
#[derive(Debug, Clone)]
pub struct RecordFormat {
    format: InputFormat,
    /// Those that come out of records.
    leaves: Vec<Leaf>,
    layout: Layout,
    /// Records that are no rows are left out instead of failing the job.
    skips: bool,
    skipped: Arc<Skipped>,
    clock: Clock,
    key: Option<KeyFormat>,
    replaces: bool,
}

/// What was left out, by all readers of a source.
#[derive(Debug, Default)]
struct Skipped {
    records: AtomicU64,
    /// When it was logged last.
    said: Mutex<Option<Duration>>,
}

/// Records that are left out are logged no more often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Characters of a record that is shown.
const EXAMPLE_MAX: usize = 200;

/// The format of records' keys, and the leaves that come out of them.
#[derive(Debug, Clone)]
struct KeyFormat {
    /// `None`: the bytes are the value.
    format: Option<InputFormat>,
    leaves: Vec<Leaf>,
}

impl RecordFormat {
    /// Reads the options that say what a record without a key is.
    pub fn new(plan: &SourcePlan, options: &mut TableOptions<'_>, clock: Clock) -> Result<Self, OptionError> {
        let format = InputFormat::new(&plan.table.clone().unwrap_or_default(), options)?;
        let skips = options.flag(&format!("{}.ignore-parse-errors", format.name()))?;
        if skips && matches!(format, InputFormat::Json { needs_fields: true }) {
            let message =
                "cannot be together with 'json.ignore-parse-errors' = 'true': leave one of them out";
            return Err(options.wrong("json.fail-on-missing-field", message));
        }
        let leaves = plan.leaves.iter().filter(|leaf| leaf.metadata.is_empty()).cloned().collect();
        let layout = Layout::new(&plan.leaves, |_| false);
        Ok(RecordFormat {
            format,
            leaves,
            layout,
            skips,
            skipped: Arc::default(),
            clock,
            key: None,
            replaces: false,
        })
    }

    /// Reads the options that say what a record is, and what its key is.
    pub fn with_key(
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        clock: Clock,
    ) -> Result<Self, OptionError> {
        let whole = Self::new(plan, options, clock)?;
        let given = options.optional(kafka_keys::FORMAT);
        for option in [kafka_keys::FIELDS, kafka_keys::PREFIX, kafka_keys::INCLUDE] {
            options.optional(option);
        }
        let keys = plan.table.as_ref().and_then(Keys::of);
        let (Some(keys), true) = (keys, given.is_some()) else { return Ok(whole) };
        // What is in the value, too, is read from there.
        if keys.are_in_value { Ok(whole) } else { whole.keyed(plan, options, &keys, "") }
    }

    /// Reads the options of records that take the place of the one before with the same key, which is the table's primary key.
    pub fn by_key(
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        clock: Clock,
    ) -> Result<Self, OptionError> {
        let whole = options.under(kafka::VALUE, |options| Self::new(plan, options, clock))?;
        for option in [kafka_keys::PREFIX, kafka_keys::INCLUDE] {
            options.optional(option);
        }
        let keys = Keys::primary(&plan.table.clone().unwrap_or_default());
        let keyed = whole.keyed(plan, options, &keys, kafka::KEY)?;
        Ok(RecordFormat { replaces: true, ..keyed })
    }

    /// With keys whose columns come out of them; options of their format begin with `prefix`.
    fn keyed(
        self,
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        keys: &Keys,
        prefix: &str,
    ) -> Result<Self, OptionError> {
        let names = keyed_columns(plan, keys);
        let is_in_key = |leaf: &Leaf| is_of(leaf, &names);
        let format = match options.required(kafka_keys::FORMAT)?.as_str() {
            "raw" => None,
            "json" => Some(InputFormat::Json { needs_fields: false }),
            "csv" => {
                let columns = names.iter().map(|name| keys.name(name).to_owned()).collect();
                Some(InputFormat::Csv { style: options.under(prefix, CsvStyle::new)?, columns })
            }
            _ => return Err(options.wrong(kafka_keys::FORMAT, "is none of 'json', 'csv' and 'raw'")),
        };
        let bare = |leaf: &Leaf| {
            let mut leaf = leaf.clone();
            if let Some(name) = leaf.path.first_mut() {
                *name = keys.name(name).to_owned();
            }
            leaf
        };
        let of_key: Vec<Leaf> = plan.leaves.iter().filter(|leaf| is_in_key(leaf)).map(bare).collect();
        let leaves = self.leaves.iter().filter(|leaf| !is_in_key(leaf)).cloned().collect();
        let layout = Layout::new(&plan.leaves, is_in_key);
        let key = (!of_key.is_empty()).then_some(KeyFormat { format, leaves: of_key });
        let format = if keys.are_in_value { self.format } else { self.format.without(&names) };
        Ok(RecordFormat { format, leaves, layout, key, ..self })
    }

    /// The same where some columns are not in the records, and are put in their places by whoever reads them.
    pub fn without(self, plan: &SourcePlan, names: &[String]) -> Self {
        let is_elsewhere = |leaf: &Leaf| is_of(leaf, names);
        let leaves = self.leaves.iter().filter(|leaf| !is_elsewhere(leaf)).cloned().collect();
        let layout = Layout::new(&plan.leaves, is_elsewhere);
        RecordFormat { format: self.format.without(names), leaves, layout, ..self }
    }

    /// True if a record takes the place of the one before with the same key, and one without a value takes it away.
    pub fn replaces(&self) -> bool {
        self.replaces
    }

    /// A decoder of the leaves that come out of keys; `None` if none does.
    pub fn key_decoder(&self) -> Result<Option<KeyDecoder>, SourceError> {
        let Some(key) = &self.key else { return Ok(None) };
        let decoder = match &key.format {
            Some(format) => Some(
                format
                    .decoder(&key.leaves)
                    .map_err(|error| SourceError::Data { message: error.to_string() })?,
            ),
            None => None,
        };
        Ok(Some(KeyDecoder { decoder, schema: leaf_schema(&key.leaves), must_be_there: self.replaces }))
    }

    /// True if records of which something is no value of its column are left out.
    pub fn skips(&self) -> bool {
        self.skips
    }

    /// Which metadata are read, and where they stand among the columns.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A decoder of the leaves that are read.
    pub fn decoder(&self) -> Result<Decoder, SourceError> {
        let decoder = self.format.decoder(&self.leaves);
        decoder.map_err(|error| SourceError::Data { message: error.to_string() })
    }

    /// What to do about a record that is no row, for messages.
    pub fn cure(&self) -> &'static str {
        if self.replaces {
            return match self.format {
                InputFormat::Raw => TAKE_BYTES,
                InputFormat::Json { .. } => {
                    "correct it, or leave such records out with 'value.json.ignore-parse-errors' = 'true'"
                }
                InputFormat::Csv { .. } => {
                    "correct it, or leave such records out with 'value.csv.ignore-parse-errors' = 'true'"
                }
            };
        }
        match self.format {
            InputFormat::Raw => TAKE_BYTES,
            InputFormat::Json { needs_fields: true } => {
                "correct it, or let missing fields be NULL: remove 'json.fail-on-missing-field'"
            }
            InputFormat::Json { .. } => {
                "correct it, or leave such records out with 'json.ignore-parse-errors' = 'true'"
            }
            InputFormat::Csv { .. } => {
                "correct it, or leave such records out with 'csv.ignore-parse-errors' = 'true'"
            }
        }
    }

    /// What one record holds, for messages about one that holds more or less than a row.
    pub fn noun(&self) -> &'static str {
        match self.format {
            InputFormat::Json { .. } => "JSON objects",
            InputFormat::Csv { .. } => "lines of CSV",
            InputFormat::Raw => "values",
        }
    }

    /// How many were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped.records.load(Ordering::Relaxed)
    }

    /// Lines of which one is wrong: the rows of the right ones; `None` if the others fail the job.
    pub fn decode_lines(&self, decoder: &mut Decoder, lines: &[&[u8]], place: &str) -> Option<RecordBatch> {
        if !self.skips {
            return None;
        }
        let (rows, wrong) = decoder.decode_right(lines).ok()?;
        if let Some(first) = wrong.first() {
            self.skip(wrong.len() as u64, place, lines[*first]);
        }
        Some(rows)
    }

    /// Records of which one may not be one row: the rows of those that are, and which they are; `None` if the others fail the job.
    pub fn decode_records(
        &self,
        decoder: &mut Decoder,
        records: &[&[u8]],
        place: &str,
    ) -> Option<(RecordBatch, Vec<u32>)> {
        let (rows, kept) = decoder.decode_good(records).ok()?;
        let wrong = (records.len() - kept.len()) as u64;
        if wrong > 0 && !self.skips {
            return None;
        }
        let first = (0..).zip(records).find(|(index, _)| kept.binary_search(index).is_err());
        if let Some((_, record)) = first {
            self.skip(wrong, place, record);
        }
        Some((rows, kept))
    }

    /// True if lines have given the rows that they should.
    pub fn is_a_row_a_line(&self, lines: &[u8], rows: &RecordBatch) -> bool {
        self.format.is_a_row_a_line(lines, rows.num_rows())
    }

    /// True if a record must be decoded by itself, to see whether it is one row.
    pub fn may_not_be_one_row(&self, record: &[u8]) -> bool {
        self.format.may_not_be_one_row(record)
    }

    /// Counts what was left out; once a minute it is logged, with one of the records.
    pub fn skip(&self, records: u64, place: &str, example: &[u8]) {
        let records = self.skipped.records.fetch_add(records, Ordering::Relaxed) + records;
        let (mut said, now) = (self.skipped.said.lock(), self.clock.elapsed());
        if said.is_some_and(|said| now.saturating_sub(said) < SAID_EVERY) {
            return;
        }
        *said = Some(now);
        let example = String::from_utf8_lossy(example);
        let example: String = example.trim_end().chars().take(EXAMPLE_MAX).collect();
        warn!(records, place, example, "records that are no rows are left out");
    }
}

/// True if a leaf is one of these columns, or a part of one.
pub fn is_of(leaf: &Leaf, names: &[String]) -> bool {
    leaf.metadata.is_empty() && leaf.path.first().is_some_and(|name| names.contains(name))
}

const TAKE_BYTES: &str = "correct it, or declare the column BYTES";

/// Names of the columns that come out of keys, in the key's order.
fn keyed_columns(plan: &SourcePlan, keys: &Keys) -> Vec<String> {
    let schema = plan.table.as_ref().and_then(|table| table.schema.as_ref());
    let name = |column: &usize| schema?.fields.get(*column).map(|field| field.name.clone());
    keys.columns.iter().filter_map(name).collect()
}

/// Decodes keys of records.
pub struct KeyDecoder {
    /// `None`: the bytes are the value.
    decoder: Option<Decoder>,
    schema: SchemaRef,
    /// A record without a key is wrong.
    must_be_there: bool,
}

impl KeyDecoder {
    /// The columns of these keys: of a record without one all are NULL.
    ///
    /// # Errors
    /// The first one that is wrong, and why.
    pub fn decode(&mut self, keys: &[Option<Bytes>]) -> Result<Vec<ArrayRef>, (usize, String)> {
        if let Some(missing) = keys.iter().position(Option::is_none).filter(|_| self.must_be_there) {
            return Err((missing, "it has none".to_owned()));
        }
        if let Some(columns) = self.decode_together(keys) {
            return Ok(columns);
        }
        let rows = keys
            .iter()
            .enumerate()
            .map(|(index, key)| self.decode_one(key.as_ref()).map_err(|why| (index, why)));
        let rows: Vec<RecordBatch> = rows.collect::<Result<_, _>>()?;
        let joined = concat_batches(&self.schema, &rows).map_err(|error| (0, error.to_string()))?;
        Ok(joined.columns().to_vec())
    }

    /// All at once, which is fast; `None` if it is not certain that each is one row.
    fn decode_together(&mut self, keys: &[Option<Bytes>]) -> Option<Vec<ArrayRef>> {
        let Some(decoder) = &mut self.decoder else {
            let bytes: ArrayRef =
                Arc::new(BinaryArray::from_opt_vec(keys.iter().map(Option::as_deref).collect()));
            return Some(vec![cast_with_options(&bytes, self.schema.field(0).data_type(), &STRICT).ok()?]);
        };
        let mut lines = Vec::new();
        for key in keys {
            let key = key.as_ref().filter(|key| !key.contains(&b'\n') && key.starts_with(b"{"))?;
            lines.extend_from_slice(key);
            lines.push(b'\n');
        }
        let rows = decoder.decode(&lines).ok()?;
        (rows.num_rows() == keys.len()).then(|| rows.columns().to_vec())
    }

    fn decode_one(&mut self, key: Option<&Bytes>) -> Result<RecordBatch, String> {
        let row = match (key, &mut self.decoder) {
            (None, _) => {
                let nulls = self.schema.fields().iter().map(|field| new_null_array(field.data_type(), 1));
                RecordBatch::try_new(Arc::clone(&self.schema), nulls.collect())
                    .map_err(|error| error.to_string())?
            }
            (Some(key), None) => {
                let column = self.schema.field(0).data_type();
                let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![key]));
                let value = cast_with_options(&bytes, column, &STRICT).map_err(|error| error.to_string())?;
                RecordBatch::try_new(Arc::clone(&self.schema), vec![value])
                    .map_err(|error| error.to_string())?
            }
            (Some(key), Some(decoder)) => {
                let line = [key, &b"\n"[..]].concat();
                decoder.decode(&line).map_err(|error| error.to_string())?
            }
        };
        match row.num_rows() {
            1 => Ok(row),
            rows => Err(format!("the key holds {rows} rows instead of one")),
        }
    }
}
