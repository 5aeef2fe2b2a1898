//! Files of a folder of the machine.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;
use snafu::ResultExt;

use super::super::{IoSnafu, SourceError};
use super::{Found, Input, Ranges};
use crate::folders::with_cure;

/// Files below a path, which may be a file itself. Hidden ones are unfinished output and not found.
pub fn list(path: &Path) -> Result<Vec<Found>, SourceError> {
    let metadata = fs::metadata(path).map_err(with_cure);
    let metadata = metadata.context(IoSnafu { action: format!("read '{}'", path.display()) })?;
    let found = |path: &Path, length| Found { path: path.display().to_string(), length, tag: None };
    if metadata.is_file() {
        return Ok(vec![found(path, metadata.len())]);
    }
    let mut files = Vec::new();
    collect(path, &mut files)
        .map_err(with_cure)
        .context(IoSnafu { action: format!("list the folder '{}'", path.display()) })?;
    files.sort();
    Ok(files.iter().map(|(path, length)| found(Path::new(path), *length)).collect())
}

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

/// A file, read in order. It is opened for each read: there may be more files than a process can have open, and what is read at a time
/// is much.
pub struct LocalFile {
    path: String,
    /// The next byte.
    next: u64,
    /// What it was when it was found.
    length: u64,
}

impl LocalFile {
    /// A file from a byte on.
    ///
    /// # Errors
    /// If it is not there, or shorter than it was.
    pub fn new(path: &str, from: u64, length: u64) -> Result<Self, SourceError> {
        let file = LocalFile { path: path.to_owned(), next: from, length };
        file.open()?;
        Ok(file)
    }

    fn open(&self) -> Result<File, SourceError> {
        let (path, length) = (&self.path, self.length);
        let action = || IoSnafu { action: format!("open '{path}'") };
        let file = File::open(path).map_err(with_cure).context(action())?;
        let now = file.metadata().context(action())?.len();
        if now < length {
            let message = format!(
                "the file '{path}' has {now} bytes, and had {length} when the job began to read it: what is missing was not read \
                 yet, or is to be read again; put the file back, and the job goes on"
            );
            return Err(SourceError::Data { message });
        }
        Ok(file)
    }
}

impl Ranges for LocalFile {
    fn poll_ranges(
        &mut self,
        _: &mut Context<'_>,
        ranges: &[Range<u64>],
    ) -> Poll<Result<Vec<Bytes>, SourceError>> {
        let file = self.open()?;
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        };
        let read: std::io::Result<Vec<Bytes>> = ranges.iter().map(read).collect();
        Poll::Ready(read.context(IoSnafu { action: format!("read '{}'", self.path) }))
    }
}

impl Input for LocalFile {
    fn poll_append(
        &mut self,
        _: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Poll<Result<usize, SourceError>> {
        let file = self.open()?;
        let start = buffer.len();
        buffer.resize(start + most, 0);
        let read = loop {
            match file.read_at(&mut buffer[start..], self.next) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.context(IoSnafu { action: format!("read '{}'", self.path) }),
            }
        };
        let given = read.as_ref().copied().unwrap_or(0);
        self.next += given as u64;
        buffer.truncate(start + given);
        Poll::Ready(read)
    }

    fn go_on_at(&mut self, next: u64) {
        self.next = next;
    }
}
