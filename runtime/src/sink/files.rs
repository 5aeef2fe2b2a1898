//! Files in a folder: hidden until the checkpoint that covers them is complete, then renamed.
//!
//! A file a subtask and checkpoint, or several if they grow large or old, and none without rows. A visible file never changes or
//! disappears.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use snafu::{ResultExt, ensure};

use super::bucket_files::BucketFiles;
use super::partitions::{FolderWriter, Folders, Partitions, Place, PlacedFiles};
use super::rolling::Rolling;
use super::{
    Committable, IoSnafu, LostSnafu, SinkCommitter, SinkConnector, SinkError, SinkIdentity, SinkWriter,
    file_prefix,
};
use crate::clock::Clock;
use crate::fault::{CrashPoint, crash_at};
use crate::folders::{local_path, sync_folder, with_cure};
use crate::format::{FileEncoder, FileFormat, FormatError};
use crate::model::{Batch, Epoch, Generation, Led, Subtask};
use crate::options::TableOptions;
use millrace_sql::plan::Table;

/// Bytes collected before they are written to the file.
const BUFFER_BYTES: usize = 256 * 1024;

/// Files that one subtask has open at a time: processes have descriptors for about a thousand.
const OPEN_MAX: usize = 128;

/// Bytes of a name in the file systems of today.
const NAME_MAX: usize = 255;

/// A folder as a sink.
pub struct Files {
    folder: PathBuf,
    format: FileFormat,
    rolling: Rolling,
    identity: SinkIdentity,
}

/// A finished file that is not visible yet.
#[derive(Clone, PartialEq, prost::Message)]
struct StagedFile {
    #[prost(string, tag = "1")]
    folder: String,
    #[prost(string, tag = "2")]
    staged: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(uint64, tag = "4")]
    bytes: u64,
}

/// Opens the folder or bucket that the options 'path' and 'format' name.
pub fn open(
    options: &mut TableOptions<'_>,
    table: &Table,
    identity: SinkIdentity,
) -> Result<Box<dyn SinkConnector>, SinkError> {
    let path = options.required("path")?;
    let format = FileFormat::new(options)?;
    let (rolling, partitions) = (Rolling::new(options)?, Partitions::new(options, table));
    let first_epoch = identity.first_epoch;
    let placed =
        |place| Ok(Box::new(PlacedFiles { place, partitions, first_epoch }) as Box<dyn SinkConnector>);
    if let Some(rest) = path.strip_prefix("s3://") {
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || folder.trim_matches('/').is_empty() {
            return Err(options.wrong("path", "needs a bucket and a folder, s3://bucket/folder").into());
        }
        let folder = folder.trim_matches('/');
        return placed(Arc::new(BucketFiles::new(bucket, folder, format, rolling, identity)?));
    }
    match local_path(&path) {
        Some(folder) => placed(Arc::new(Files { folder, format, rolling, identity })),
        None => {
            Err(options.wrong("path", "is not supported; write to a folder or to s3://bucket/folder").into())
        }
    }
}

impl Place for Files {
    fn folders(&self, subtask: Subtask) -> Box<dyn Folders> {
        Box::new(FileFolders {
            folder: self.folder.clone(),
            prefix: format!("{}-{subtask}", file_prefix(&self.identity)),
            generation: self.identity.generation,
            format: self.format.clone(),
            rolling: self.rolling,
            clock: self.identity.outside.clock,
            begun: Arc::default(),
        })
    }

    fn committer(&self, levels: usize) -> Box<dyn SinkCommitter> {
        let prefix = file_prefix(&self.identity);
        Box::new(FileCommitter { folder: self.folder.clone(), prefix, levels })
    }
}

struct FileFolders {
    folder: PathBuf,
    prefix: String,
    generation: Generation,
    format: FileFormat,
    rolling: Rolling,
    clock: Clock,
    begun: Arc<AtomicU64>,
}

impl Folders for FileFolders {
    fn writer(&self, folder: &str, _epoch: Epoch) -> Result<Box<dyn FolderWriter>, SinkError> {
        if let Some(long) = folder.split('/').find(|name| name.len() > NAME_MAX) {
            return Err(SinkError::Data {
                message: format!(
                    "a value of a column of PARTITIONED BY is too long: the folder's name '{}…' would have {} bytes, and file \
                     systems take {NAME_MAX}; shorten the value, or leave the column out of PARTITIONED BY",
                    long.chars().take(40).collect::<String>(),
                    long.len()
                ),
            });
        }
        Ok(Box::new(FileWriter {
            root: self.folder.clone(),
            folder: if folder.is_empty() { self.folder.clone() } else { self.folder.join(folder) },
            prefix: self.prefix.clone(),
            generation: self.generation,
            format: self.format.clone(),
            rolling: self.rolling,
            clock: self.clock,
            begun: Arc::clone(&self.begun),
            ended: Vec::new(),
            open: None,
            bytes: Vec::new(),
        }))
    }

    fn held_max(&self) -> usize {
        OPEN_MAX * BUFFER_BYTES
    }
}

struct FileWriter {
    /// The table's folder, and that of this writer's files: the same, or one in it.
    root: PathBuf,
    folder: PathBuf,
    prefix: String,
    generation: Generation,
    format: FileFormat,
    rolling: Rolling,
    clock: Clock,
    /// Files staged so far; keeps the hidden names of one generation apart.
    begun: Arc<AtomicU64>,
    /// Files of this epoch that were large or old enough.
    ended: Vec<EndedFile>,
    open: Option<OpenFile>,
    /// Taken again and again.
    bytes: Vec<u8>,
}

/// A file that takes no more rows, and is written.
struct EndedFile {
    staged: String,
    bytes: u64,
}

struct OpenFile {
    staged: String,
    /// `None`: closed until more rows come.
    file: Option<BufWriter<File>>,
    encoder: FileEncoder,
    bytes: u64,
    began: Duration,
}

impl FileWriter {
    /// The file at hand, a new one if there is none.
    fn open(&mut self, batch: &Batch) -> Result<OpenFile, SinkError> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        make_folders(&self.root, &self.folder)
            .map_err(with_cure)
            .context(self.action("create the folder"))?;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let staged = format!(".{}-g{}-{number}", self.prefix, self.generation);
        let file = File::create(self.folder.join(&staged))
            .map_err(with_cure)
            .context(self.action("create a file in"))?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        let encoder = self.format.encoder(&batch.records.schema()).map_err(not_writable)?;
        Ok(OpenFile { staged, file, encoder, bytes: 0, began: self.clock.elapsed() })
    }

    /// Writes bytes of a file, which is opened again if it is closed.
    fn append(&self, open: &mut OpenFile, bytes: &[u8]) -> Result<(), SinkError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match &mut open.file {
            Some(file) => file,
            closed => {
                let file = File::options().append(true).open(self.folder.join(&open.staged));
                let file = file.map_err(with_cure).context(self.action("open a file again in"))?;
                closed.insert(BufWriter::with_capacity(BUFFER_BYTES, file))
            }
        };
        file.write_all(bytes).map_err(with_cure).context(self.action("write a file in"))?;
        open.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes all of a file.
    fn end(&self, mut open: OpenFile) -> Result<EndedFile, SinkError> {
        let mut bytes = Vec::new();
        open.encoder.finish(&mut bytes).map_err(not_writable)?;
        self.append(&mut open, &bytes)?;
        if let Some(mut file) = open.file {
            file.flush().map_err(with_cure).context(self.action("write a file in"))?;
        }
        Ok(EndedFile { staged: open.staged, bytes: open.bytes })
    }

    fn action(&self, what: &str) -> IoSnafu<String> {
        IoSnafu { action: format!("{what} '{}'", self.folder.display()) }
    }
}

impl FolderWriter for FileWriter {
    fn held(&self) -> usize {
        let Some(open) = &self.open else { return 0 };
        open.encoder.held() + open.file.as_ref().map_or(0, |_| BUFFER_BYTES)
    }

    fn release(&mut self) -> Result<(), SinkError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let mut bytes = Vec::new();
        open.encoder.flush(&mut bytes).map_err(not_writable)?;
        self.append(&mut open, &bytes)?;
        self.bytes = Vec::new();
        if let Some(mut file) = open.file.take() {
            file.flush().map_err(with_cure).context(self.action("write a file in"))?;
        }
        self.open = Some(open);
        Ok(())
    }
}

impl SinkWriter for FileWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        if batch.rows() == 0 {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut open = self.open(batch)?;
        open.encoder.encode(&batch.records, &mut bytes).map_err(not_writable)?;
        self.append(&mut open, &bytes)?;
        self.bytes = bytes;
        match self.rolling.ends(open.bytes + open.encoder.pending() as u64, open.began, self.clock) {
            true => {
                // Its descriptor and buffer are given back; it is made durable with the checkpoint.
                let ended = self.end(open)?;
                self.ended.push(ended);
            }
            false => self.open = Some(open),
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        if let Some(open) = self.open.take() {
            match self.end(open) {
                Ok(ended) => self.ended.push(ended),
                Err(error) => return async { Err(error) }.boxed(),
            }
        }
        let files = std::mem::take(&mut self.ended);
        if files.is_empty() {
            return async { Ok(Vec::new()) }.boxed();
        }
        let staged = files.iter().enumerate().map(|(number, file)| StagedFile {
            folder: self.folder.display().to_string(),
            staged: file.staged.clone(),
            name: format!("{}-{epoch}-{number}", self.prefix),
            bytes: file.bytes,
        });
        let staged: Vec<Committable> = staged.map(|staged| staged.encode_to_vec()).collect();
        let (action, folder) = (self.action("sync a file in"), self.folder.clone());
        let sync = move || -> std::io::Result<()> {
            for file in files {
                File::open(folder.join(file.staged))?.sync_all()?;
            }
            // A checkpoint may name the files as soon as it is complete: their names must be there, too.
            sync_folder(&folder)
        };
        async move {
            blocking(sync).await.map_err(with_cure).context(action)?;
            Ok(staged)
        }
        .boxed()
    }
}

fn not_writable(error: FormatError) -> SinkError {
    SinkError::Data { message: error.to_string() }
}

/// Makes a folder and all above it, as far as the table's, whose names survive a crash of the machine.
fn make_folders(root: &Path, folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let made = folder.ancestors().skip(1).take_while(|above| above.starts_with(root));
    made.into_iter().try_for_each(sync_folder)
}

struct FileCommitter {
    folder: PathBuf,
    prefix: String,
    /// How many levels of folders are below it.
    levels: usize,
}

#[async_trait]
impl SinkCommitter for FileCommitter {
    async fn commit(&self, committables: &[Committable]) -> Result<(), SinkError> {
        let staged = decode(committables)?;
        blocking_result(move || {
            for file in &staged {
                show(file)?;
                crash_at(CrashPoint::FileShown);
            }
            for folder in staged.iter().map(|file| &file.folder).collect::<std::collections::BTreeSet<_>>() {
                sync_folder(Path::new(folder))
                    .map_err(with_cure)
                    .context(IoSnafu { action: format!("sync the folder '{folder}'") })?;
            }
            Ok(())
        })
        .await
    }

    async fn clean_up(
        &self,
        generation: Generation,
        _earlier: &[Led],
        named: &[Committable],
    ) -> Result<(), SinkError> {
        let named = decode(named)?;
        let (folder, levels) = (self.folder.clone(), self.levels);
        let left = Left { prefix: format!(".{}-", self.prefix), generation, named };
        blocking_result(move || left.remove(&folder, levels)).await
    }
}

/// What earlier generations have left.
struct Left {
    prefix: String,
    generation: Generation,
    named: Vec<StagedFile>,
}

impl Left {
    fn remove(&self, folder: &Path, levels: usize) -> Result<(), SinkError> {
        let action = || IoSnafu { action: format!("clean up the folder '{}'", folder.display()) };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(with_cure).context(action())?,
        };
        for entry in entries {
            let entry = entry.context(action())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_left = generation_of(&name, &self.prefix).is_some_and(|left| left < self.generation);
            if is_left && !self.named.iter().any(|file| file.staged == name) {
                match fs::remove_file(entry.path()) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed.context(action())?,
                }
            }
            // Other folders are nobody's of ours, and may not let us in.
            if levels > 0 && !name.starts_with('.') && name.contains('=') && entry.path().is_dir() {
                self.remove(&entry.path(), levels - 1)?;
            }
        }
        Ok(())
    }
}

/// The generation in a hidden name `.part-…-<subtask>-g<generation>-<n>`.
fn generation_of(name: &str, prefix: &str) -> Option<Generation> {
    let mut parts = name.strip_prefix(prefix)?.rsplit('-');
    parts.next()?;
    parts.next()?.strip_prefix('g')?.parse().ok().map(Generation)
}

fn decode(committables: &[Committable]) -> Result<Vec<StagedFile>, SinkError> {
    let decoded =
        committables.iter().map(|bytes| StagedFile::decode(bytes.as_slice())).collect::<Result<_, _>>();
    decoded.map_err(|_| SinkError::Lost {
        kind: "SinkFileLost",
        message: "a checkpoint names a staged file in an unknown form".to_owned(),
    })
}

/// Renames a staged file; one that is visible already is done.
fn show(file: &StagedFile) -> Result<(), SinkError> {
    let folder = Path::new(&file.folder);
    let (from, to) = (folder.join(&file.staged), folder.join(&file.name));
    let length = |path: &Path| fs::metadata(path).map(|found| found.len());
    if length(&from).is_ok_and(|bytes| bytes == file.bytes) {
        return fs::rename(&from, &to)
            .map_err(with_cure)
            .context(IoSnafu { action: format!("show '{}'", to.display()) });
    }
    match length(&to) {
        Ok(bytes) => {
            let message = format!("'{}' has {bytes} bytes, and {} were committed", to.display(), file.bytes);
            ensure!(bytes == file.bytes, LostSnafu { kind: "SinkFileLost", message });
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!(
                "the staged file '{}' is gone, its {} bytes of results are lost",
                from.display(),
                file.bytes
            );
            LostSnafu { kind: "SinkFileLost", message }.fail()
        }
        Err(source) => Err(SinkError::Io { action: format!("read '{}'", to.display()), source }),
    }
}

async fn blocking(run: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> std::io::Result<()> {
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

async fn blocking_result(
    run: impl FnOnce() -> Result<(), SinkError> + Send + 'static,
) -> Result<(), SinkError> {
    let joined = tokio::task::spawn_blocking(run).await;
    joined.unwrap_or_else(|error| {
        Err(SinkError::Lost { kind: "SinkFileLost", message: format!("a commit ended early: {error}") })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::format::OutputFormat;
    use crate::model::JobUid;
    use crate::outside::Outside;

    fn files(folder: &Path, generation: u64) -> Files {
        let job = JobUid("4f2c9a1e-77".to_owned());
        let identity = SinkIdentity {
            job,
            operator: "out".to_owned(),
            operator_id: "out/out/sink".to_owned(),
            generation: Generation(generation),
            completed: tokio::sync::watch::channel(Epoch(0)).1,
            first_epoch: Epoch(1),
            outside: Outside::unreached(),
        };
        Files {
            folder: folder.to_owned(),
            format: FileFormat::Lines(OutputFormat::Json(crate::format::json::JsonStyle::default())),
            rolling: Rolling::of_bytes(20),
            identity,
        }
    }

    #[tokio::test]
    async fn rows_of_more_folders_than_files_may_be_open_reach_one_file_each() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = files(folder.path(), 1);
        sink.rolling = Rolling::of_bytes(1 << 20);
        let table = millrace_sql::plan::Table {
            schema: Some(millrace_sql::plan::Schema {
                fields: ["k", "n"]
                    .map(|name| millrace_sql::plan::Field::new(name, Default::default()))
                    .to_vec(),
            }),
            partitioned_by: vec!["k".to_owned()],
            ..Default::default()
        };
        let partitions = Partitions::new(&mut TableOptions::new(&table), &table);
        let placed = PlacedFiles { place: Arc::new(sink), partitions, first_epoch: Epoch(1) };
        let mut writer = placed.writer(Subtask(0)).unwrap();
        let keys = 3 * OPEN_MAX as i64;
        for n in 0..3 {
            let k: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys));
            let n: ArrayRef = Arc::new(Int64Array::from_iter_values((0..keys).map(|_| n)));
            writer.write(&Batch::inserts(RecordBatch::try_from_iter([("k", k), ("n", n)]).unwrap())).unwrap();
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let open =
                open.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.starts_with(folder.path())));
            let open = open.count();
            assert!(open > 0 && open <= OPEN_MAX, "{open} files are open");
        }
        let prepared = writer.prepare(Epoch(1)).await.unwrap();
        placed.committer().unwrap().commit(&prepared).await.unwrap();

        for k in 0..keys {
            let folder = folder.path().join(format!("k={k}"));
            let names = visible(&folder);
            assert_eq!(names.len(), 1, "{names:?}");
            assert_eq!(
                fs::read_to_string(folder.join(&names[0])).unwrap(),
                "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n"
            );
        }
    }

    #[test]
    fn a_folder_whose_name_is_too_long_is_refused_for_good() {
        let folders = files(Path::new("/nowhere"), 1).folders(Subtask(0));
        let refused = folders.writer(&format!("k={}", "ü".repeat(130)), Epoch(1)).err().unwrap();
        assert!(refused.is_permanent() && refused.to_string().contains("'k=üüü"), "{refused}");
        assert!(refused.to_string().contains("262 bytes"), "{refused}");
        assert!(folders.writer(&format!("k={}/l={}", "x".repeat(253), "y".repeat(253)), Epoch(1)).is_ok());
    }

    fn rows(n: i64) -> Batch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![n]));
        Batch::inserts(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    fn visible(folder: &Path) -> Vec<String> {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_visible_after_commit_and_commit_can_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let sink = files(folder.path(), 1);
        let mut writer = sink.folders(Subtask(3)).writer("", Epoch(1)).unwrap();
        writer.write(&rows(1)).unwrap();
        let prepared = writer.prepare(Epoch(7)).await.unwrap();
        assert_eq!(visible(folder.path()), [""; 0]);

        let committer = files(folder.path(), 2).committer(0);
        for _ in 0..2 {
            committer.commit(&prepared).await.unwrap();
        }

        assert_eq!(visible(folder.path()), ["part-4f2c9a1e-out-3-7-0"]);
        assert_eq!(fs::read_to_string(folder.path().join("part-4f2c9a1e-out-3-7-0")).unwrap(), "{\"n\":1}\n");
        assert!(writer.prepare(Epoch(8)).await.unwrap().is_empty(), "no empty files");
    }

    #[tokio::test]
    async fn a_file_that_is_large_enough_is_ended_and_all_are_shown_together() {
        let folder = tempfile::tempdir().unwrap();
        let sink = files(folder.path(), 1);
        let mut writer = sink.folders(Subtask(0)).writer("day=1", Epoch(1)).unwrap();
        // Two rows of eight bytes fit, and the third ends the file.
        (0..7).for_each(|n| writer.write(&rows(n)).unwrap());
        let prepared = writer.prepare(Epoch(1)).await.unwrap();
        assert_eq!(prepared.len(), 3);
        assert_eq!(visible(&folder.path().join("day=1")), [""; 0]);

        sink.committer(1).commit(&prepared).await.unwrap();

        let shown = visible(&folder.path().join("day=1"));
        assert_eq!(shown, [0, 1, 2].map(|number| format!("part-4f2c9a1e-out-0-1-{number}")));
        // What a later generation finds of an earlier one below the folder goes away.
        writer.write(&rows(8)).unwrap();
        let hidden = || fs::read_dir(folder.path().join("day=1")).unwrap().count() - shown.len();
        assert_eq!(hidden(), 1);
        files(folder.path(), 2).committer(1).clean_up(Generation(2), &[], &[]).await.unwrap();
        assert_eq!(hidden(), 0);
    }

    #[tokio::test]
    async fn leftovers_are_removed_and_named_files_kept() {
        let folder = tempfile::tempdir().unwrap();
        let sink = files(folder.path(), 1);
        let mut writer = sink.folders(Subtask(0)).writer("", Epoch(1)).unwrap();
        writer.write(&rows(1)).unwrap();
        let named = writer.prepare(Epoch(1)).await.unwrap();
        writer.write(&rows(2)).unwrap();
        let left = writer.prepare(Epoch(2)).await.unwrap();
        let committer = files(folder.path(), 2).committer(0);

        committer.clean_up(Generation(2), &[], &named).await.unwrap();

        committer.commit(&named).await.unwrap();
        let error = committer.commit(&left).await.unwrap_err();
        assert!(error.to_string().contains("are lost"), "{error}");
    }
}
