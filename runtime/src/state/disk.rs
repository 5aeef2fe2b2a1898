//! The local disk, for state that is larger than memory. Nothing on it outlives the process: what a job remembers is in its
//! checkpoints, and the file has no name, so that the kernel frees it however the process ends.
//!
//! Pieces of the file are given in a few sizes and used again, so that the file does not grow beyond what was on it at one time
//! by more than an eighth.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use snafu::{ResultExt, Snafu};

use super::arrival::NotFetched;
use crate::folders::with_cure;

/// The kind of failure when the local disk does not serve, as conditions name it.
pub const LOCAL_DISK_FAILED: &str = "LocalDiskFailed";

/// Pieces begin at multiples of it.
const ALIGN: u64 = 512;

/// State that is not in memory cannot be read, or put where it is to be.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum StateError {
    #[snafu(display("failed to make a file for state in '{}'", folder.display()))]
    Open { folder: PathBuf, source: io::Error },
    #[snafu(display("failed to write state to the local disk, in '{}'", folder.display()))]
    Write { folder: PathBuf, source: io::Error },
    #[snafu(display("failed to read state from the local disk, in '{}'", folder.display()))]
    Read { folder: PathBuf, source: io::Error },
    #[snafu(display("the state on the local disk, in '{}', is not as it was written", folder.display()))]
    Damaged { folder: PathBuf },
    #[snafu(display("{}", failure.message))]
    NotFetched { failure: NotFetched },
}

impl StateError {
    /// True if trying again gives the same.
    pub fn is_permanent(&self) -> bool {
        matches!(self, StateError::NotFetched { failure } if failure.is_permanent)
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            StateError::NotFetched { failure } => failure.kind,
            _ => LOCAL_DISK_FAILED,
        }
    }
}

/// A file without a name. Copies share it.
#[derive(Debug, Clone)]
pub struct LocalDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    space: Mutex<Space>,
}

#[derive(Debug, Default)]
struct Space {
    /// Made when it is needed first.
    file: Option<Arc<File>>,
    end: u64,
    /// Where pieces of a size were.
    free: HashMap<u64, Vec<u64>>,
    used: u64,
}

/// A part of the file; it is given back when this goes away.
#[derive(Debug)]
pub struct Piece {
    disk: LocalDisk,
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl LocalDisk {
    /// A file in a folder, which is not touched before something is written.
    pub fn new(folder: &Path) -> Self {
        LocalDisk(Arc::new(Inner { folder: folder.to_owned(), space: Mutex::default() }))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If the file cannot be made, or the disk is full.
    pub fn write(&self, bytes: &[u8]) -> Result<Piece, StateError> {
        let size = size_of_piece(bytes.len() as u64);
        let folder = &self.0.folder;
        let (file, offset) = self.0.space.lock().take(folder, size).context(OpenSnafu { folder })?;
        let piece = Piece { disk: self.clone(), file, offset, size };
        let written = piece.file.write_all_at(bytes, offset);
        written.map_err(with_cure).context(WriteSnafu { folder })?;
        Ok(piece)
    }

    /// Makes the file, before there is anything to write.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn check(&self) -> Result<(), StateError> {
        let folder = &self.0.folder;
        self.0.space.lock().file(folder).map(drop).context(OpenSnafu { folder })
    }

    /// Where the file is.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Bytes that are in use.
    #[cfg(test)]
    pub fn used(&self) -> u64 {
        self.0.space.lock().used
    }
}

impl Space {
    fn take(&mut self, folder: &Path, size: u64) -> io::Result<(Arc<File>, u64)> {
        let file = self.file(folder)?;
        let offset = self.free.get_mut(&size).and_then(Vec::pop).unwrap_or_else(|| {
            self.end += size;
            self.end - size
        });
        self.used += size;
        Ok((file, offset))
    }

    fn file(&mut self, folder: &Path) -> io::Result<Arc<File>> {
        Ok(match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(nameless(folder)?))),
        })
    }
}

impl Piece {
    /// Reads `length` bytes.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, self.offset + offset);
        read.context(ReadSnafu { folder: &self.disk.0.folder })?;
        Ok(bytes)
    }

    /// What is said of bytes that are not those that were written.
    pub fn damaged(&self) -> StateError {
        StateError::Damaged { folder: self.disk.0.folder.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut space = self.disk.0.space.lock();
        space.used -= self.size;
        space.free.entry(self.size).or_default().push(self.offset);
    }
}

/// A file that nobody else finds.
fn nameless(folder: &Path) -> io::Result<File> {
    let make = |number: u32| -> io::Result<File> {
        let path = folder.join(format!(".millrace-state-{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    // Names are taken for a moment only: by another worker of this process, or by one that was killed in that moment.
    let mut made = make(0);
    for number in 1..1000 {
        match &made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => made = make(number),
            _ => break,
        }
    }
    made.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => error,
        _ => with_cure(error),
    })
}

/// The size of the piece for so many bytes: eight sizes between a power of two and the next.
fn size_of_piece(bytes: u64) -> u64 {
    let step = (bytes.max(1).next_power_of_two() / 16).max(ALIGN);
    bytes.max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_space_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(folder.path());
        let pieces: Vec<Piece> = (0..10_u8).map(|n| disk.write(&[n; 100_000]).unwrap()).collect();
        for (n, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.read(99_990, 10).unwrap(), [n as u8; 10]);
        }
        let end = disk.0.space.lock().end;
        assert_eq!(disk.used(), end);

        drop(pieces);
        assert_eq!(disk.used(), 0);
        let again: Vec<Piece> = (0..10_u8).map(|n| disk.write(&[n; 99_000]).unwrap()).collect();

        assert_eq!(disk.0.space.lock().end, end, "the file has not grown");
        assert_eq!(again[3].read(0, 3).unwrap(), [3; 3]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn sizes_of_pieces_are_few_and_waste_an_eighth_at_most() {
        for bytes in [0, 1, 512, 513, 4_096, 100_000, 1 << 20, (1 << 20) + 1, 7_777_777] {
            let size = size_of_piece(bytes);

            assert!(size >= bytes && size.is_multiple_of(ALIGN), "{bytes}: {size}");
            assert!(size - bytes <= (bytes / 8).max(ALIGN), "{bytes}: {size}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = LocalDisk::new(Path::new("/nowhere/at/all")).write(b"x").unwrap_err();

        assert!(crate::error::chain(&error).contains("'/nowhere/at/all'"), "{}", crate::error::chain(&error));
    }
}
