//! Files in a folder or a bucket, cut by bytes: a split holds the lines, or the groups of rows, that begin in its range.

mod bucket;
mod lines;
mod local;
mod parquet;
mod partitions;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use millrace_sql::plan::{Leaf, Source as SourcePlan};
use prost::Message;

use super::layout::Layout;
use super::{RecordFormat, SourceConnector, SourceError, Split, SplitReader, UNREADABLE};
use crate::folders::local_path;
use crate::options::TableOptions;
use crate::outside::Outside;
use bucket::Bucket;
use lines::LineReader;
use local::LocalFile;
use parquet::{ParquetReader, Ranges};
use partitions::{FolderColumns, OfFile, repeated};

/// Splits are about this long: enough of them for any parallelism, and few for large inputs.
const SPLIT_BYTES: RangeInclusive<u64> = 256 * 1024..=64 * 1024 * 1024;

/// The same of Parquet files, whose groups of rows are large: each split reads the end of the file to find its own.
const COLUMNAR_SPLIT_BYTES: RangeInclusive<u64> = 8 * 1024 * 1024..=64 * 1024 * 1024;

/// How many splits a file is cut into at least, size permitting.
const SPLITS_PER_SUBTASK: u64 = 4;

/// Bytes read at a time: a batch of some thousand rows.
const READ_BYTES: usize = 1 << 20;

/// With a limited rate: some rows at a time.
const READ_BYTES_SLOW: usize = 8 << 10;

/// Rows of a Parquet file that are read at a time, and with a limited rate.
const BATCH_ROWS: usize = 8192;
const BATCH_ROWS_SLOW: usize = 128;

/// Where the files are.
enum Place {
    Folder(PathBuf),
    Bucket { name: String, bucket: Bucket, folder: String },
}

/// A file that is there.
pub struct Found {
    pub path: String,
    pub length: u64,
    /// Tells this object of a bucket from another one of its name.
    pub tag: Option<String>,
}

/// Bytes of a file, in order.
pub trait Input: Send {
    /// Appends at most this many bytes to the buffer, and says how many; 0: the file has ended.
    fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Poll<Result<usize, SourceError>>;

    /// Bytes that it has fetched, or is fetching, and has not given yet.
    fn held(&self) -> usize {
        0
    }

    /// Forgets them, and goes on at this byte.
    fn go_on_at(&mut self, next: u64);
}

/// What is in the files.
enum Format {
    Lines(Box<RecordFormat>),
    Parquet { leaves: Vec<Leaf> },
}

/// Of a split that was read.
struct NoInput;

impl Input for NoInput {
    fn poll_append(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Vec<u8>,
        _: usize,
    ) -> Poll<Result<usize, SourceError>> {
        Poll::Ready(Ok(0))
    }

    fn go_on_at(&mut self, _: u64) {}
}

/// Files as a source.
pub struct Files {
    place: Place,
    format: Format,
    folders: FolderColumns,
    /// Some rows at a time, because of a limited rate.
    is_slow: bool,
    /// How often new files are looked for; `None`: the files that are there at first are all.
    monitor_interval: Option<Duration>,
}

/// Where reading of a split goes on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Position {
    #[prost(string, tag = "1")]
    path: String,
    /// The split's first byte.
    #[prost(uint64, tag = "2")]
    start: u64,
    /// Lines that begin at or after this byte belong to the next split.
    #[prost(uint64, tag = "3")]
    end: u64,
    /// First byte of the next line, or how many rows of a Parquet file were read; unset: the split has not begun.
    #[prost(uint64, optional, tag = "4")]
    next: Option<u64>,
    /// The file's length when it was found.
    #[prost(uint64, tag = "5")]
    length: u64,
    #[prost(string, optional, tag = "6")]
    tag: Option<String>,
}

fn place(path: &str, options: &TableOptions<'_>, outside: &Outside) -> Result<Place, SourceError> {
    if let Some(rest) = path.strip_prefix("s3://") {
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(options.wrong("path", "needs a bucket, s3://bucket/folder").into());
        }
        let name = bucket.to_owned();
        let bucket = Bucket::open(bucket, &outside.buckets)?;
        return Ok(Place::Bucket { name, bucket, folder: folder.trim_matches('/').to_owned() });
    }
    match local_path(path) {
        Some(path) => Ok(Place::Folder(path)),
        None => {
            Err(options.wrong("path", "is not supported; read from a folder or s3://bucket/folder").into())
        }
    }
}

impl Files {
    /// Reads the options 'path' and 'format'.
    pub fn new(
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        outside: &Outside,
    ) -> Result<Self, SourceError> {
        let path = options.required("path")?;
        let folders = FolderColumns::new(plan, options);
        let format = match options.required("format")?.as_str() {
            "parquet" => Format::Parquet { leaves: plan.leaves.clone() },
            _ => {
                let format = RecordFormat::new(plan, options, outside.clock)?;
                Format::Lines(Box::new(format.without(plan, &folders.names)))
            }
        };
        let place = place(&path, options, outside)?;
        let is_slow = options.optional("scan.rows-per-second").is_some();
        let monitor_interval = options.duration("source.monitor-interval")?;
        if monitor_interval.is_some_and(|interval| interval.is_zero()) {
            return Err(options.wrong("source.monitor-interval", "must be above 0").into());
        }
        Ok(Files { place, format, folders, is_slow, monitor_interval })
    }

    fn open_lines(
        &self,
        position: Position,
        format: &RecordFormat,
    ) -> Result<Box<dyn SplitReader>, SourceError> {
        let from = LineReader::first_byte(&position);
        let path = position.path.clone();
        // Nothing is left to be read of it, and it may be gone.
        let is_read = position.next.is_some_and(|next| next >= position.end);
        let (url, input): (String, Box<dyn Input>) = match &self.place {
            _ if is_read => (path, Box::new(NoInput)),
            Place::Folder(_) => {
                let file = LocalFile::new(&path, from, position.length)?;
                (path, Box::new(file))
            }
            Place::Bucket { name, bucket, .. } => {
                let (length, tag) = (position.length, position.tag.clone());
                (format!("s3://{name}/{path}"), Box::new(bucket.read(Found { path, length, tag }, from)))
            }
        };
        let (decoder, format) = (format.decoder()?, format.clone());
        let read_bytes = if self.is_slow { READ_BYTES_SLOW } else { READ_BYTES };
        let file = File { of_folders: self.of_folders(&url, &position.path)?, url };
        Ok(Box::new(LineReader::new(file, input, position, decoder, format, read_bytes)))
    }

    fn open_parquet(&self, position: Position, leaves: &[Leaf]) -> Result<Box<dyn SplitReader>, SourceError> {
        let path = position.path.clone();
        let (url, input): (String, Box<dyn Ranges>) = match &self.place {
            Place::Folder(_) => {
                let file = LocalFile::new(&path, 0, position.length)?;
                (path, Box::new(file))
            }
            Place::Bucket { name, bucket, .. } => {
                let (length, tag) = (position.length, position.tag.clone());
                (format!("s3://{name}/{path}"), Box::new(bucket.read(Found { path, length, tag }, 0)))
            }
        };
        let batch_rows = if self.is_slow { BATCH_ROWS_SLOW } else { BATCH_ROWS };
        let file = File { of_folders: self.of_folders(&url, &position.path)?, url };
        let names = &self.folders.names;
        Ok(Box::new(ParquetReader::new(file, input, position, leaves, names, batch_rows)?))
    }

    fn of_folders(&self, url: &str, path: &str) -> Result<OfFile, SourceError> {
        let root = match &self.place {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Bucket { folder, .. } => folder.clone(),
        };
        self.folders.of_file(url, path.strip_prefix(&root).unwrap_or(path))
    }

    async fn find(&self) -> Result<Vec<Found>, SourceError> {
        match &self.place {
            Place::Folder(path) => local::list(path),
            Place::Bucket { bucket, folder, .. } => bucket.list(folder).await,
        }
    }
}

/// What is known of a file besides its rows.
pub struct File {
    /// As a user names it.
    url: String,
    of_folders: OfFile,
}

impl File {
    /// Adds it to rows.
    fn complete(
        &self,
        records: RecordBatch,
        layout: &Layout,
        length: u64,
    ) -> Result<RecordBatch, SourceError> {
        let (rows, url) = (records.num_rows(), self.url.as_str());
        let column = |key: &String| -> Result<ArrayRef, SourceError> {
            let text = |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)));
            Ok(match key.as_str() {
                "file.path" => text(url),
                "file.name" => text(url.rsplit('/').next().unwrap_or(url)),
                "file.size" => Arc::new(Int64Array::from_value(length as i64, rows)),
                _ => return Err(SourceError::Data { message: format!("files have no metadata '{key}'") }),
            })
        };
        let columns = layout.metadata().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        layout.join(records, &columns, &repeated(&self.of_folders, rows)?)
    }
}

fn split_id(path: &str, start: u64) -> String {
    format!("{path}@{start:020}")
}

/// Cuts a file by bytes, so that so many subtasks have something to do; one that is empty has no part.
fn cut(Found { path, length, tag }: Found, parallelism: u32, bytes: RangeInclusive<u64>) -> Vec<Split> {
    let wanted = length / (u64::from(parallelism) * SPLITS_PER_SUBTASK);
    let step = wanted.clamp(*bytes.start(), *bytes.end());
    let mut splits = Vec::new();
    let mut start = 0;
    while start < length {
        let end = if length - start < 2 * step { length } else { start + step };
        let position = Position { path: path.clone(), start, end, next: None, length, tag: tag.clone() };
        splits.push(Split { id: split_id(&path, start), position: position.encode_to_vec() });
        start = end;
    }
    splits
}

#[async_trait]
impl SourceConnector for Files {
    async fn splits(&self, parallelism: u32) -> Result<Vec<Split>, SourceError> {
        let found = self.find().await?;
        let bytes = match self.format {
            Format::Lines(_) => SPLIT_BYTES,
            Format::Parquet { .. } => COLUMNAR_SPLIT_BYTES,
        };
        Ok(found.into_iter().flat_map(|found| cut(found, parallelism, bytes.clone())).collect())
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.monitor_interval
    }

    async fn discover(&self, known: &BTreeSet<String>) -> Result<Vec<Split>, SourceError> {
        let new = self.find().await?.into_iter().filter(|found| !known.contains(&split_id(&found.path, 0)));
        // One split a file: subtasks that saw different lengths of one that grows would not agree on where to cut it.
        let whole = |Found { path, length, tag }: Found| {
            let id = split_id(&path, 0);
            let position = Position { path, start: 0, end: length, next: None, length, tag };
            Split { id, position: position.encode_to_vec() }
        };
        Ok(new.filter(|found| found.length > 0).map(whole).collect())
    }

    fn is_bounded(&self) -> bool {
        self.monitor_interval.is_none()
    }

    fn position_text(&self, position: &[u8]) -> String {
        Position::decode(position).map_or_else(
            |_| UNREADABLE.to_owned(),
            |position| {
                let range = format!("of bytes {} to {}", position.start, position.end);
                match self.format {
                    Format::Lines(_) => {
                        format!("read to byte {}, {range}", position.next.unwrap_or(position.start))
                    }
                    Format::Parquet { .. } => format!("{} rows read, {range}", position.next.unwrap_or(0)),
                }
            },
        )
    }

    fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
        let position = Position::decode(split.position.as_slice()).map_err(|_| SourceError::Data {
            message: format!("the position of split '{}' is malformed", split.id),
        })?;
        match &self.format {
            Format::Lines(format) => self.open_lines(position, format),
            Format::Parquet { leaves } => self.open_parquet(position, leaves),
        }
    }

    fn skipped(&self) -> u64 {
        match &self.format {
            Format::Lines(format) => format.skipped(),
            Format::Parquet { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::Read;
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use millrace_sql::plan::{DataType, Leaf, Table, TypeKind};

    fn source(path: &Path) -> Files {
        let leaf = Leaf {
            path: vec!["n".to_owned()],
            data_type: Some(DataType::simple(TypeKind::BigInt)),
            nullable: true,
            ..Leaf::default()
        };
        let options = [("format".to_owned(), "json".to_owned())].into();
        let table = Table { options, ..Table::default() };
        let plan = SourcePlan { table: Some(table.clone()), leaves: vec![leaf], ..SourcePlan::default() };
        let clock = Outside::unreached().clock;
        let format = RecordFormat::new(&plan, &mut TableOptions::new(&table), clock).unwrap();
        Files {
            place: Place::Folder(path.to_owned()),
            format: Format::Lines(Box::new(format)),
            folders: FolderColumns::default(),
            is_slow: false,
            monitor_interval: None,
        }
    }

    fn read_all(source: &Files, mut split: Split, restart_every: usize) -> Vec<i64> {
        let mut numbers = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut reader = source.open(&split).unwrap();
        for turn in 1.. {
            match reader.poll_read(&mut cx) {
                Poll::Ready(Ok(Read::Rows(rows))) => {
                    numbers.extend(rows.column(0).as_primitive::<Int64Type>().values());
                }
                Poll::Ready(Ok(Read::End)) => break,
                other => panic!("{other:?}"),
            }
            if turn % restart_every == 0 {
                split.position = reader.position();
                reader = source.open(&split).unwrap();
            }
        }
        numbers
    }

    #[test]
    fn every_line_is_in_exactly_one_split_wherever_the_cuts_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        let text: String = (0..400).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        for text in [text.clone(), text.trim_end().to_owned()] {
            fs::write(&path, &text).unwrap();
            let source = source(&path);
            let length = text.len() as u64;
            for step in [1, 2, 7, 9, 10, 11, 100, 5000] {
                let mut numbers = Vec::new();
                for start in (0..length).step_by(step) {
                    let end = (start + step as u64).min(length);
                    let position =
                        Position { path: path.display().to_string(), start, end, ..Default::default() };
                    let split = Split { id: String::new(), position: position.encode_to_vec() };
                    numbers.extend(read_all(&source, split, 1));
                }
                assert_eq!(numbers, (0..400).collect::<Vec<_>>(), "cuts every {step} bytes");
            }
        }
    }

    #[tokio::test]
    async fn a_poison_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        for (line, why) in [
            ("{\"n\":oops}", "unexpected 'o'"),
            ("{\"n\":2}{\"n\":3}", "it holds 2 JSON objects instead of one"),
            ("{\"n\":\n2}{\"n\":3}", ""),
        ] {
            fs::write(&path, format!("{{\"n\":1}}\n{line}\n")).unwrap();
            let source = source(&path);
            let split = source.splits(1).await.unwrap().remove(0);
            let mut reader = source.open(&split).unwrap();

            let Poll::Ready(Err(error)) =
                reader.poll_read(&mut Context::from_waker(std::task::Waker::noop()))
            else {
                panic!("an error")
            };

            let (text, first) = (error.to_string(), line.lines().next().unwrap());
            assert!(text.contains("at byte 8") && text.contains(first) && text.contains(why), "{text}");
        }
    }
}
