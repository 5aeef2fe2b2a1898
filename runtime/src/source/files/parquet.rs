//! Rows of Parquet files: a split has the row groups that begin in its range of bytes, and its position counts their rows.
//!
//! Columns are found by their names. One that a file does not have is NULL; types that hold other values than the table's are refused.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray,
    new_null_array,
};
use arrow::compute::{can_cast_types, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use millrace_sql::functions::at_or_before;
use millrace_sql::plan::{DataType, Field, Leaf};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, RowGroupMetaData,
};
use parquet::schema::types::ColumnDescPtr;
use prost::Message;

use super::super::layout::Layout;
use super::super::{Read, SourceError, SplitReader, is_of};
use super::{File, Position};
use crate::format::{STRICT, leaf_schema};

/// Of a column or a field that the table declares NOT NULL.
const WITHOUT_VALUES: &str =
    "is NULL in some rows, and the table declares it NOT NULL; declare it without NOT NULL";

/// Bytes of a file at any place.
pub trait Ranges: Send {
    /// The bytes of these ranges; asked for the same ones until they are there.
    fn poll_ranges(
        &mut self,
        cx: &mut Context<'_>,
        ranges: &[Range<u64>],
    ) -> Poll<Result<Vec<Bytes>, SourceError>>;

    /// Bytes that are under way.
    fn asked(&self) -> usize {
        0
    }

    /// Forgets what was asked for.
    fn forget(&mut self) {}
}

/// Reads one split.
pub struct ParquetReader {
    file: File,
    input: Box<dyn Ranges>,
    position: Position,
    /// Those that come out of files.
    leaves: Vec<Leaf>,
    layout: Layout,
    batch_rows: usize,
    /// Rows of the split that were given, and how many it has as far as that is known.
    given: u64,
    rows: Option<u64>,
    state: State,
    /// What the state waits for.
    needed: Vec<Range<u64>>,
    /// Bytes that the state was given last: those of a group of rows, which are given all at once.
    held: usize,
}

enum State {
    Head(ParquetMetaDataPushDecoder),
    Rows(Box<ParquetPushDecoder>),
    End,
}

impl State {
    /// Of a file that nothing is known of but its length.
    fn of_length(length: u64) -> Result<Self, ParquetError> {
        let head = ParquetMetaDataPushDecoder::try_new(length)?;
        Ok(State::Head(head.with_page_index_policy(PageIndexPolicy::Skip)))
    }
}

impl ParquetReader {
    /// Reads what `input` gives, from the position on; columns that folders name are not in the file.
    ///
    /// # Errors
    /// If the file is too short to be one.
    pub fn new(
        file: File,
        input: Box<dyn Ranges>,
        position: Position,
        leaves: &[Leaf],
        of_folders: &[String],
        batch_rows: usize,
    ) -> Result<Self, SourceError> {
        let state = State::of_length(position.length).map_err(|error| not_readable(&file.url, &error))?;
        let is_in_file = |leaf: &&Leaf| leaf.metadata.is_empty() && !is_of(leaf, of_folders);
        Ok(ParquetReader {
            state,
            file,
            input,
            given: position.next.unwrap_or(0),
            position,
            leaves: leaves.iter().filter(is_in_file).cloned().collect(),
            layout: Layout::new(leaves, |leaf| is_of(leaf, of_folders)),
            batch_rows,
            rows: None,
            needed: Vec::new(),
            held: 0,
        })
    }

    /// The decoder of the split's row groups, without the rows that were given.
    fn begin(&mut self, head: ParquetMetaData) -> Result<State, SourceError> {
        let failed = |error: &ParquetError| not_readable(&self.file.url, error);
        let is_here = |group: &RowGroupMetaData| {
            let begins = group.columns().iter().map(|column| column.byte_range().0).min();
            begins.is_some_and(|begins| (self.position.start..self.position.end).contains(&begins))
        };
        let groups = head.row_groups().iter().enumerate().filter(|(_, group)| is_here(group));
        let groups: Vec<usize> = groups.map(|(number, _)| number).collect();
        let rows = groups.iter().map(|group| head.row_group(*group).num_rows() as u64).sum();
        self.rows = Some(rows);
        if self.given >= rows {
            return Ok(State::End);
        }
        // Whoever wrote it, types are those of the file.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let head = ArrowReaderMetadata::try_new(Arc::new(head), options).map_err(|error| failed(&error))?;
        // By the parts of their paths, as names may have dots in them.
        let is_read = |column: &ColumnDescPtr| {
            self.leaves.iter().any(|leaf| column.path().parts().starts_with(&leaf.path))
        };
        let columns = head.parquet_schema().columns().iter().enumerate();
        let read = columns.filter(|(_, column)| is_read(column)).map(|(number, _)| number);
        let mask = ProjectionMask::leaves(head.parquet_schema(), read.collect::<Vec<_>>());
        let decoder = ParquetPushDecoderBuilder::new_with_metadata(head)
            .with_projection(mask)
            .with_row_groups(groups)
            .with_offset(self.given as usize)
            .with_batch_size(self.batch_rows)
            .build();
        Ok(State::Rows(Box::new(decoder.map_err(|error| failed(&error))?)))
    }

    /// The leaves of the file's columns.
    fn leaves_of(&self, records: &RecordBatch) -> Result<RecordBatch, SourceError> {
        let columns = self.leaves.iter().map(|leaf| self.leaf_of(leaf, records));
        let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        let columns = columns.collect::<Result<_, _>>()?;
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(|error| {
            SourceError::Data {
                message: format!("'{}' has a row that is none of the table's: {error}", self.file.url),
            }
        })
    }

    fn schema(&self) -> SchemaRef {
        leaf_schema(&self.leaves)
    }

    fn leaf_of(&self, leaf: &Leaf, records: &RecordBatch) -> Result<ArrayRef, SourceError> {
        let to = leaf.data_type.clone().unwrap_or_default();
        let wrong = |why: String| SourceError::Data {
            message: format!("the column '{}' of '{}' {why}", leaf.path.join("."), self.file.url),
        };
        let mut names = leaf.path.iter();
        let mut found = names.next().and_then(|name| records.column_by_name(name)).cloned();
        for name in names {
            let Some(row) = &found else { break };
            let Some(row) = row.as_struct_opt() else {
                return Err(wrong(format!("has no fields, and the table declares '{name}' in it")));
            };
            found = row.column_by_name(name).cloned();
        }
        match found {
            Some(found) if !leaf.nullable && found.is_nullable() => Err(wrong(WITHOUT_VALUES.to_owned())),
            Some(found) => read_as(&found, &to).map_err(wrong),
            None if !leaf.nullable && records.num_rows() > 0 => Err(wrong(WITHOUT_VALUES.to_owned())),
            None => Ok(new_null_array(&to.to_arrow(), records.num_rows())),
        }
    }
}

/// Values of a file as the table's type; the fields of a ROW by their names, at any depth.
///
/// # Errors
/// What is wrong with them.
fn read_as(found: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let wanted = to.to_arrow();
    let inner = |index: usize| to.fields.get(index).map(Field::data_type).unwrap_or_default();
    let broken = |error: ArrowError| error.to_string();
    match (found.data_type(), &wanted) {
        (from, wanted) if from == wanted => Ok(Arc::clone(found)),
        (ArrowType::Struct(_), ArrowType::Struct(fields)) => {
            let row = found.as_struct();
            let is_lacking = |found: Option<&ArrayRef>| match found {
                Some(found) => found.is_nullable() && found.logical_null_count() > row.null_count(),
                None => row.null_count() < row.len(),
            };
            let columns = to.fields.iter().map(|field| match row.column_by_name(&field.name) {
                found if !field.nullable && is_lacking(found) => {
                    Err(format!("has a field '{}' that {WITHOUT_VALUES}", field.name))
                }
                Some(found) => read_as(found, &field.data_type())
                    .map_err(|why| format!("has a field '{}' that {why}", field.name)),
                None => Ok(new_null_array(&field.data_type().to_arrow(), row.len())),
            });
            let columns = columns.collect::<Result<_, _>>()?;
            let nulls = row.nulls().cloned();
            Ok(Arc::new(
                StructArray::try_new_with_length(fields.clone(), columns, nulls, row.len())
                    .map_err(broken)?,
            ))
        }
        (ArrowType::List(_), ArrowType::List(element)) => {
            let lists = found.as_list::<i32>();
            let values =
                read_as(lists.values(), &inner(0)).map_err(|why| format!("has an element that {why}"))?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls).map_err(broken)?))
        }
        (ArrowType::Map(..), ArrowType::Map(entries, is_sorted)) => {
            let maps = found.as_map();
            let part = |column: &ArrayRef, index: usize, name: &str| {
                read_as(column, &inner(index)).map_err(|why| format!("has a {name} that {why}"))
            };
            let columns = vec![part(maps.keys(), 0, "key")?, part(maps.values(), 1, "value")?];
            let ArrowType::Struct(fields) = entries.data_type() else {
                return Err("is a map without entries".to_owned());
            };
            let rows = StructArray::try_new(fields.clone(), columns, None).map_err(broken)?;
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            let maps = MapArray::try_new(Arc::clone(entries), offsets, rows, nulls, *is_sorted);
            Ok(Arc::new(maps.map_err(broken)?))
        }
        (from, wanted) if !is_read_as(from, wanted) => {
            let of_file =
                DataType::from_arrow(from).map_or_else(|| from.to_string(), |known| known.to_string());
            Err(format!("is {of_file} there, and the table declares {to}; declare it {of_file}"))
        }
        (ArrowType::Timestamp(..), ArrowType::Timestamp(unit, _)) => {
            let times = at_or_before(found, *unit).map_err(broken)?;
            cast_with_options(&times, &wanted, &STRICT).map_err(broken)
        }
        (_, wanted) => cast_with_options(found, wanted, &STRICT)
            .map_err(|error| format!("has a value that is no {to}: {error}")),
    }
}

/// True if values of a file's type are values of the table's, or are looked at one by one whether they are.
fn is_read_as(from: &ArrowType, to: &ArrowType) -> bool {
    use ArrowType::{
        Binary, Date32, Decimal128, FixedSizeBinary, LargeBinary, LargeUtf8, Time32, Time64, Timestamp, Utf8,
    };
    let is_kin = match (from, to) {
        (Decimal128(_, scale), Decimal128(_, wanted)) => scale <= wanted,
        (Timestamp(..), Timestamp(..)) | (Time32(_) | Time64(_), Time32(_)) | (Date32, Date32) => true,
        // Writers that know no texts write bytes.
        (Binary | LargeBinary | FixedSizeBinary(_) | LargeUtf8 | Utf8, Utf8 | Binary) => true,
        (from, to) => from.is_integer() && to.is_integer() || from.is_floating() && *to == ArrowType::Float64,
    };
    is_kin && can_cast_types(from, to)
}

fn not_readable(url: &str, error: &ParquetError) -> SourceError {
    SourceError::Data { message: format!("'{url}' is not a Parquet file that can be read: {error}") }
}

impl SplitReader for ParquetReader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
        loop {
            let bytes = match self.needed.is_empty() {
                true => Vec::new(),
                false => ready!(self.input.poll_ranges(cx, &self.needed))?,
            };
            let ranges = std::mem::take(&mut self.needed);
            if !bytes.is_empty() {
                self.held = bytes.iter().map(Bytes::len).sum();
            }
            let failed = |url: &str, error: ParquetError| Poll::Ready(Err(not_readable(url, &error)));
            match &mut self.state {
                State::End => {
                    self.held = 0;
                    return Poll::Ready(Ok(Read::End));
                }
                State::Head(head) => {
                    let decoded = head.push_ranges(ranges, bytes).and_then(|()| head.try_decode());
                    match decoded {
                        Ok(DecodeResult::NeedsData(needed)) => self.needed = needed,
                        Ok(DecodeResult::Data(head)) => self.state = self.begin(head)?,
                        Ok(DecodeResult::Finished) => self.state = State::End,
                        Err(error) => return failed(&self.file.url, error),
                    }
                }
                State::Rows(rows) => {
                    let decoded = rows.push_ranges(ranges, bytes).and_then(|()| rows.try_decode());
                    match decoded {
                        Ok(DecodeResult::NeedsData(needed)) => self.needed = needed,
                        Ok(DecodeResult::Data(records)) => {
                            let rows = self.leaves_of(&records)?;
                            self.given += rows.num_rows() as u64;
                            let rows = self.file.complete(rows, &self.layout, self.position.length)?;
                            return Poll::Ready(Ok(Read::Rows(rows)));
                        }
                        Ok(DecodeResult::Finished) => self.state = State::End,
                        Err(error) => return failed(&self.file.url, error),
                    }
                }
            }
        }
    }

    fn position(&self) -> Vec<u8> {
        Position { next: Some(self.given), ..self.position.clone() }.encode_to_vec()
    }

    fn held(&self) -> Option<usize> {
        Some(self.held + self.input.asked())
    }

    fn release(&mut self) {
        self.input.forget();
        // A file that was long enough once is so again.
        if let Ok(anew) = State::of_length(self.position.length)
            && !matches!(self.state, State::End)
        {
            (self.state, self.held) = (anew, 0);
            self.needed.clear();
        }
    }

    fn progress(&self) -> Option<f64> {
        let rows = self.rows?;
        Some((self.given as f64 / rows.max(1) as f64).min(1.0))
    }
}
