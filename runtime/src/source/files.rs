//! Files of JSON lines in a folder, cut by bytes: a split holds the lines that begin in its range.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use async_trait::async_trait;
use millrace_sql::plan::{Leaf, Source as SourcePlan};
use prost::Message;
use snafu::ResultExt;

use super::{
    BAD_RECORD_CURE, BadRecords, IoSnafu, Read, SourceConnector, SourceError, Split, SplitReader, excerpt,
};
use crate::folders::local_path;
use crate::format::json::JsonDecoder;
use crate::options::TableOptions;

/// Splits are about this long: enough of them for any parallelism, and few for large inputs.
const SPLIT_BYTES: std::ops::RangeInclusive<u64> = 256 * 1024..=64 * 1024 * 1024;

/// How many splits a file is cut into at least, size permitting.
const SPLITS_PER_SUBTASK: u64 = 4;

/// Bytes read at a time: a batch of some thousand rows.
const READ_BYTES: usize = 1 << 20;

/// With a limited rate: some rows at a time.
const READ_BYTES_SLOW: usize = 8 << 10;

/// A line longer than this is refused instead of filling the memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Files as a source.
pub struct Files {
    path: PathBuf,
    leaves: Vec<Leaf>,
    read_bytes: usize,
    bad_records: BadRecords,
}

/// Where reading of a split goes on.
#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(string, tag = "1")]
    path: String,
    /// The split's first byte.
    #[prost(uint64, tag = "2")]
    start: u64,
    /// Lines that begin at or after this byte belong to the next split.
    #[prost(uint64, tag = "3")]
    end: u64,
    /// First byte of the next line; unset: the split has not begun.
    #[prost(uint64, optional, tag = "4")]
    next: Option<u64>,
}

impl Files {
    /// Reads the options 'path' and 'format'.
    pub fn new(plan: &SourcePlan, options: &mut TableOptions<'_>) -> Result<Self, SourceError> {
        let path = options.required("path")?;
        let format = options.required("format")?;
        if format != "json" {
            return Err(options.wrong("format", "is not supported; use 'json'").into());
        }
        let Some(path) = local_path(&path) else {
            return Err(options
                .wrong("path", "is not a local path; read from a folder or 'file:' address")
                .into());
        };
        let is_slow = options.optional("scan.rows-per-second").is_some();
        let read_bytes = if is_slow { READ_BYTES_SLOW } else { READ_BYTES };
        let bad_records = BadRecords::new(options)?;
        Ok(Files { path, leaves: plan.leaves.clone(), read_bytes, bad_records })
    }

    fn files(&self) -> Result<Vec<(String, u64)>, SourceError> {
        let found = fs::metadata(&self.path)
            .context(IoSnafu { action: format!("read '{}'", self.path.display()) })?;
        if found.is_file() {
            return Ok(vec![(self.path.display().to_string(), found.len())]);
        }
        let mut files = Vec::new();
        collect(&self.path, &mut files)
            .context(IoSnafu { action: format!("list the folder '{}'", self.path.display()) })?;
        files.sort();
        Ok(files)
    }
}

/// Hidden files are unfinished output and not read.
fn collect(folder: &Path, files: &mut Vec<(String, u64)>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        let metadata = fs::metadata(entry.path())?;
        if metadata.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push((entry.path().display().to_string(), metadata.len()));
        }
    }
    Ok(())
}

#[async_trait]
impl SourceConnector for Files {
    async fn splits(&self, parallelism: u32) -> Result<Vec<Split>, SourceError> {
        let mut splits = Vec::new();
        for (path, length) in self.files()? {
            let wanted = length / (u64::from(parallelism) * SPLITS_PER_SUBTASK);
            let step = wanted.clamp(*SPLIT_BYTES.start(), *SPLIT_BYTES.end());
            let mut start = 0;
            while start < length {
                let end = if length - start < 2 * step { length } else { start + step };
                let position = Position { path: path.clone(), start, end, next: None };
                splits.push(Split { id: format!("{path}@{start:020}"), position: position.encode_to_vec() });
                start = end;
            }
        }
        Ok(splits)
    }

    fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
        let position = Position::decode(split.position.as_slice()).map_err(|_| SourceError::Data {
            message: format!("the position of split '{}' is malformed", split.id),
        })?;
        let action = format!("open '{}'", position.path);
        let mut file = File::open(&position.path).context(IoSnafu { action: action.clone() })?;
        // A split that has not begun looks at the byte before it, to see whether a line begins with it.
        let from = position.next.unwrap_or(position.start.saturating_sub(1));
        file.seek(SeekFrom::Start(from)).context(IoSnafu { action })?;
        let skips_partial_line = position.next.is_none() && position.start > 0;
        let decoder = JsonDecoder::new(&self.leaves)
            .map_err(|error| SourceError::Data { message: error.to_string() })?;
        Ok(Box::new(LineReader {
            file,
            decoder,
            bad_records: self.bad_records.clone(),
            read_bytes: self.read_bytes,
            next: from,
            skips_partial_line,
            buffer: Vec::new(),
            is_at_end: false,
            position,
        }))
    }

    fn skipped(&self) -> u64 {
        self.bad_records.skipped()
    }
}

struct LineReader {
    file: File,
    decoder: JsonDecoder,
    bad_records: BadRecords,
    read_bytes: usize,
    position: Position,
    /// Place in the file of the buffer's first byte.
    next: u64,
    skips_partial_line: bool,
    buffer: Vec<u8>,
    is_at_end: bool,
}

impl LineReader {
    fn fill(&mut self) -> Result<(), SourceError> {
        let start = self.buffer.len();
        if start > LINE_BYTES_MAX {
            let message = format!(
                "'{}' has a line of more than {LINE_BYTES_MAX} bytes at byte {}",
                self.position.path, self.next
            );
            return Err(SourceError::Data { message });
        }
        self.buffer.resize(start + self.read_bytes, 0);
        let read = loop {
            match self.file.read(&mut self.buffer[start..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.context(IoSnafu { action: format!("read '{}'", self.position.path) })?,
            }
        };
        self.buffer.truncate(start + read);
        self.is_at_end = read == 0;
        Ok(())
    }

    /// Whole lines of the split, or `None` at its end.
    fn lines(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        loop {
            if self.skips_partial_line {
                if let Some(newline) = self.buffer.iter().position(|byte| *byte == b'\n') {
                    self.consume(newline + 1);
                    self.skips_partial_line = false;
                } else if self.is_at_end {
                    return Ok(None);
                }
            }
            if !self.skips_partial_line {
                if self.next >= self.position.end {
                    return Ok(None);
                }
                let length = self.complete_lines();
                if length > 0 {
                    return Ok(Some(self.consume(length)));
                }
                if self.is_at_end {
                    return Ok(None);
                }
            }
            self.fill()?;
        }
    }

    /// Length of the buffered lines that are complete and begin inside of the split.
    fn complete_lines(&self) -> usize {
        let room = usize::try_from(self.position.end - self.next).unwrap_or(usize::MAX);
        let end = match self.buffer.get(..room) {
            // The last line that begins in the split may end beyond it.
            Some(inside) if inside.ends_with(b"\n") => Some(room),
            Some(_) => {
                self.buffer[room..].iter().position(|byte| *byte == b'\n').map(|found| room + found + 1)
            }
            None => self.buffer.iter().rposition(|byte| *byte == b'\n').map(|found| found + 1),
        };
        match end {
            Some(end) => end,
            // The last line of a file may have no newline.
            None if self.is_at_end => self.buffer.len(),
            None => {
                let inside = &self.buffer[..room.min(self.buffer.len())];
                inside.iter().rposition(|byte| *byte == b'\n').map_or(0, |found| found + 1)
            }
        }
    }

    fn consume(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        self.next += length as u64;
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Names the line that cannot be decoded.
    fn poison(&mut self, lines: &[u8], start: u64) -> SourceError {
        let mut offset = start;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if let Err(error) = self.decoder.decode(line) {
                let message = format!(
                    "'{}' has a line at byte {offset} that is not a row of the table: {error}; the line: {}; {BAD_RECORD_CURE}",
                    self.position.path,
                    excerpt(line)
                );
                return SourceError::Data { message };
            }
            offset += line.len() as u64;
        }
        SourceError::Data { message: format!("'{}' cannot be decoded at byte {start}", self.position.path) }
    }
}

impl SplitReader for LineReader {
    fn poll_read(&mut self, _: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
        Poll::Ready((|| {
            let Some(lines) = self.lines()? else { return Ok(Read::End) };
            let start = self.next - lines.len() as u64;
            match self.decoder.decode(&lines) {
                Ok(records) => Ok(Read::Rows(records)),
                Err(_) => {
                    let place = format!("'{}' from byte {start}", self.position.path);
                    let each: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
                    match self.bad_records.decode(&mut self.decoder, &each, &place) {
                        Some(rows) => Ok(Read::Rows(rows)),
                        None => Err(self.poison(&lines, start)),
                    }
                }
            }
        })())
    }

    fn position(&self) -> Vec<u8> {
        let next = (!self.skips_partial_line).then_some(self.next);
        Position { next, ..self.position.clone() }.encode_to_vec()
    }

    fn progress(&self) -> Option<f64> {
        let length = (self.position.end - self.position.start).max(1);
        Some((self.next.saturating_sub(self.position.start) as f64 / length as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use millrace_sql::plan::{DataType, TypeKind};

    fn source(path: &Path) -> Files {
        let leaf = Leaf {
            path: vec!["n".to_owned()],
            data_type: Some(DataType::simple(TypeKind::BigInt)),
            nullable: true,
        };
        Files {
            path: path.to_owned(),
            leaves: vec![leaf],
            read_bytes: READ_BYTES,
            bad_records: BadRecords::default(),
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
                    let position = Position { path: path.display().to_string(), start, end, next: None };
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
        fs::write(&path, "{\"n\":1}\n{\"n\":oops}\n").unwrap();
        let source = source(&path);
        let split = source.splits(1).await.unwrap().remove(0);
        let mut reader = source.open(&split).unwrap();

        let Poll::Ready(Err(error)) = reader.poll_read(&mut Context::from_waker(std::task::Waker::noop()))
        else {
            panic!("an error")
        };

        let text = error.to_string();
        assert!(text.contains("at byte 8") && text.contains("{\"n\":oops}"), "{text}");
    }
}
