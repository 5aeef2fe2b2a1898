//! Lines of a split: those that begin in its range, whole ones at a time.

use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use prost::Message;

use super::super::{Read, RecordFormat, SourceError, SplitReader, excerpt};
use super::{File, Input, Position};
use crate::format::Decoder;

/// A line longer than this is refused instead of filling the memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Reads one split.
pub struct LineReader {
    file: File,
    input: Box<dyn Input>,
    decoder: Decoder,
    format: RecordFormat,
    read_bytes: usize,
    position: Position,
    /// Place in the file of the buffer's first byte.
    next: u64,
    skips_partial_line: bool,
    buffer: Vec<u8>,
    is_at_end: bool,
}

impl LineReader {
    /// Reads what `input` gives from byte `from` on: see [`LineReader::first_byte`].
    pub fn new(
        file: File,
        input: Box<dyn Input>,
        position: Position,
        decoder: Decoder,
        format: RecordFormat,
        read_bytes: usize,
    ) -> Self {
        LineReader {
            file,
            input,
            decoder,
            format,
            read_bytes,
            next: Self::first_byte(&position),
            skips_partial_line: position.next.is_none() && position.start > 0,
            buffer: Vec::new(),
            is_at_end: false,
            position,
        }
    }

    /// Where the input of a split begins: one that has not begun looks at the byte before it, to see whether a line begins with it.
    pub fn first_byte(position: &Position) -> u64 {
        position.next.unwrap_or(position.start.saturating_sub(1))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SourceError>> {
        if self.buffer.len() > LINE_BYTES_MAX {
            let message = format!(
                "'{}' has a line of more than {LINE_BYTES_MAX} bytes at byte {}",
                self.file.url, self.next
            );
            return Poll::Ready(Err(SourceError::Data { message }));
        }
        let read = ready!(self.input.poll_append(cx, &mut self.buffer, self.read_bytes))?;
        self.is_at_end = read == 0;
        Poll::Ready(Ok(()))
    }

    /// Whole lines of the split, or `None` at its end.
    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, SourceError>> {
        loop {
            if self.skips_partial_line {
                if let Some(newline) = self.buffer.iter().position(|byte| *byte == b'\n') {
                    self.consume(newline + 1);
                    self.skips_partial_line = false;
                } else if self.is_at_end {
                    return Poll::Ready(Ok(None));
                }
            }
            if !self.skips_partial_line {
                if self.next >= self.position.end {
                    return Poll::Ready(Ok(None));
                }
                let length = self.complete_lines();
                if length > 0 {
                    return Poll::Ready(Ok(Some(self.consume(length))));
                }
                if self.is_at_end {
                    return Poll::Ready(Ok(None));
                }
            }
            ready!(self.poll_fill(cx))?;
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
            let why = match self.decoder.decode(line) {
                Ok(rows) if rows.num_rows() <= 1 => None,
                Ok(rows) => {
                    Some(format!("it holds {} {} instead of one", rows.num_rows(), self.format.noun()))
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = why {
                let message = format!(
                    "'{}' has a line at byte {offset} that is not a row of the table: {why}; the line: {}; {}",
                    self.file.url,
                    excerpt(line),
                    self.format.cure()
                );
                return SourceError::Data { message };
            }
            offset += line.len() as u64;
        }
        SourceError::Data { message: format!("'{}' cannot be decoded at byte {start}", self.file.url) }
    }

    fn rows(&mut self, lines: &[u8]) -> Result<Read, SourceError> {
        let start = self.next - lines.len() as u64;
        if let Ok(records) = self.decoder.decode(lines)
            && self.format.is_a_row_a_line(lines, &records)
        {
            return self.with_metadata(records);
        }
        let place = format!("'{}' from byte {start}", self.file.url);
        let each: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        match self.format.decode_lines(&mut self.decoder, &each, &place) {
            Some(rows) => self.with_metadata(rows),
            None => Err(self.poison(lines, start)),
        }
    }

    fn with_metadata(&self, records: RecordBatch) -> Result<Read, SourceError> {
        let layout = self.format.layout();
        Ok(Read::Rows(self.file.complete(records, layout, self.position.length)?))
    }
}

impl SplitReader for LineReader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
        let Some(lines) = ready!(self.poll_lines(cx))? else { return Poll::Ready(Ok(Read::End)) };
        Poll::Ready(self.rows(&lines))
    }

    fn position(&self) -> Vec<u8> {
        let next = (!self.skips_partial_line).then_some(self.next);
        Position { next, ..self.position.clone() }.encode_to_vec()
    }

    fn held(&self) -> Option<usize> {
        Some(self.buffer.len() + self.input.held())
    }

    fn release(&mut self) {
        self.buffer = Vec::new();
        self.is_at_end = false;
        self.input.go_on_at(self.next);
    }

    fn progress(&self) -> Option<f64> {
        let length = (self.position.end - self.position.start).max(1);
        Some((self.next.saturating_sub(self.position.start) as f64 / length as f64).min(1.0))
    }
}
