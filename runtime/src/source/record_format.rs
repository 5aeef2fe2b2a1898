//! How records become rows, and what becomes of records that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use millrace_sql::plan::{Leaf, Source as SourcePlan};
use tracing::warn;

use super::SourceError;
use super::layout::Layout;
use crate::format::{Decoder, InputFormat};
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
    skipped: Arc<AtomicU64>,
}

impl RecordFormat {
    /// Reads the options that say what a record is.
    pub fn new(plan: &SourcePlan, options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let format = InputFormat::new(&plan.table.clone().unwrap_or_default(), options)?;
        let skips = options.flag(&format!("{}.ignore-parse-errors", format.name()))?;
        if skips && matches!(format, InputFormat::Json { needs_fields: true }) {
            let message =
                "cannot be together with 'json.ignore-parse-errors' = 'true': leave one of them out";
            return Err(options.wrong("json.fail-on-missing-field", message));
        }
        let leaves = plan.leaves.iter().filter(|leaf| leaf.metadata.is_empty()).cloned().collect();
        let layout = Layout::new(&plan.leaves);
        Ok(RecordFormat { format, leaves, layout, skips, skipped: Arc::default() })
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
        match self.format {
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
        }
    }

    /// How many were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Lines of which one is wrong: the rows of the right ones; `None` if the others fail the job.
    pub fn decode_lines(&self, decoder: &mut Decoder, lines: &[&[u8]], place: &str) -> Option<RecordBatch> {
        if !self.skips {
            return None;
        }
        let (rows, wrong) = decoder.decode_right(lines).ok()?;
        self.skip(wrong, place);
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
        self.skip(wrong, place);
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

    /// Counts what was left out; the first time it is logged.
    fn skip(&self, records: u64, place: &str) {
        if records > 0 && self.skipped.fetch_add(records, Ordering::Relaxed) == 0 {
            warn!(place, "records that are no rows are left out and counted; this is logged once");
        }
    }
}
