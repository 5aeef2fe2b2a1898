//! Files in a bucket: uploaded in parts before the barrier is answered, made visible by the completion of the
//! upload when the checkpoint that covers them is complete.
//!
//! A file a subtask and checkpoint, or several if they grow large or old, and none without rows. A visible file never changes or disappears.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use super::partitions::{FolderWriter, Folders, Place};
use super::rolling::Rolling;
use super::{Committable, SinkCommitter, SinkError, SinkIdentity, SinkWriter, Trouble, file_prefix};
use crate::checkpoint::BucketSettings;
use crate::checkpoint::bucket::{explain, is_outage, open_bucket};
use crate::clock::Clock;
use crate::format::{FileEncoder, FileFormat, FormatError};
use crate::model::{Batch, Epoch, Subtask};
use crate::outside::Outside;

/// Bytes of a part; stores take none below 5 MiB except the last.
const PART_BYTES: usize = 8 << 20;

/// A writer with this much that is not uploaded yet takes no more rows.
const UNSENT_BYTES_MAX: usize = 3 * PART_BYTES;

/// Rows of all folders that one subtask holds; those of the fullest are uploaded then.
const HELD_BYTES_MAX: usize = 8 * PART_BYTES;

/// Requests that all writers of a sink in one process have under way.
const REQUESTS_MAX: usize = 32;

/// Bytes of a key in S3.
const KEY_MAX: usize = 1024;

/// What stands behind the name of a file: its epoch and its number.
const NUMBERS: usize = 2 * "-18446744073709551615".len();

/// A folder in a bucket as a sink.
pub struct BucketFiles {
    bucket: String,
    folder: Path,
    store: Arc<AmazonS3>,
    format: FileFormat,
    rolling: Rolling,
    identity: SinkIdentity,
    /// Of all writers.
    patience: Patience,
}

/// An upload that is complete except for its completion.
#[derive(Clone, PartialEq, prost::Message)]
struct StagedUpload {
    #[prost(string, tag = "1")]
    bucket: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    upload: String,
    #[prost(string, repeated, tag = "4")]
    parts: Vec<String>,
    #[prost(uint64, tag = "5")]
    bytes: u64,
    /// crc32c of the whole file.
    #[prost(fixed32, tag = "6")]
    checksum: u32,
}

impl BucketFiles {
    /// `s3://<bucket>/<folder>`.
    pub fn new(
        bucket: &str,
        folder: &str,
        format: FileFormat,
        rolling: Rolling,
        identity: SinkIdentity,
    ) -> Result<Self, SinkError> {
        let store = open_bucket(bucket, &identity.outside.buckets).map_err(|error| SinkError::Data {
            message: format!("failed to open the bucket '{bucket}': {}", error.reason),
        })?;
        Ok(BucketFiles {
            bucket: bucket.to_owned(),
            folder: Path::from(folder),
            store: Arc::new(store),
            format,
            rolling,
            patience: Patience::new(&identity.outside),
            identity,
        })
    }
}

impl Place for BucketFiles {
    fn folders(&self, subtask: Subtask) -> Box<dyn Folders> {
        Box::new(BucketFolders {
            bucket: self.bucket.clone(),
            folder: self.folder.to_string(),
            file: format!("{}-{subtask}", file_prefix(&self.identity)),
            store: Arc::clone(&self.store),
            patience: self.patience.clone(),
            begun: Arc::default(),
            format: self.format.clone(),
            rolling: self.rolling,
            shared: Arc::default(),
        })
    }

    fn committer(&self, _levels: usize) -> Box<dyn SinkCommitter> {
        let patience = Patience::new(&self.identity.outside);
        Box::new(BucketCommitter { store: Arc::clone(&self.store), patience })
    }

    fn trouble(&self) -> Option<Trouble> {
        Some(self.patience.trouble.subscribe())
    }
}

struct BucketFolders {
    bucket: String,
    folder: String,
    file: String,
    store: Arc<AmazonS3>,
    patience: Patience,
    begun: Arc<AtomicU64>,
    format: FileFormat,
    rolling: Rolling,
    shared: Arc<Shared>,
}

impl Folders for BucketFolders {
    fn writer(&self, folder: &str, epoch: Epoch) -> Result<Box<dyn FolderWriter>, SinkError> {
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let prefix = format!("{}/{folder}{}", self.folder, self.file);
        if prefix.len() + NUMBERS > KEY_MAX {
            return Err(SinkError::Data {
                message: format!(
                    "the key of a file in the bucket, '{}…', would have {} bytes, and buckets take {KEY_MAX}; shorten the values \
                     of the columns of PARTITIONED BY, or leave one out",
                    prefix.chars().take(self.folder.chars().count() + 40).collect::<String>(),
                    prefix.len() + NUMBERS
                ),
            });
        }
        Ok(Box::new(BucketWriter {
            bucket: self.bucket.clone(),
            prefix,
            store: Arc::clone(&self.store),
            patience: self.patience.clone(),
            runtime: Handle::current(),
            epoch,
            begun: Arc::clone(&self.begun),
            encoder: None,
            format: self.format.clone(),
            rolling: self.rolling,
            rows: Vec::new(),
            bytes: 0,
            began: Duration::ZERO,
            ended: Vec::new(),
            upload: None,
            shared: Arc::clone(&self.shared),
        }))
    }

    fn held_max(&self) -> usize {
        HELD_BYTES_MAX
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.shared.poll_ready(cx)
    }
}

struct BucketWriter {
    bucket: String,
    /// What the keys of this writer begin with.
    prefix: String,
    store: Arc<AmazonS3>,
    patience: Patience,
    /// Where uploads run: not on the threads of tasks.
    runtime: Handle,
    /// The epoch that the rows at hand belong to.
    epoch: Epoch,
    begun: Arc<AtomicU64>,
    /// Of the file at hand.
    encoder: Option<FileEncoder>,
    format: FileFormat,
    rolling: Rolling,
    /// Bytes that are not uploaded yet.
    rows: Vec<u8>,
    /// Of the file at hand that are uploaded, and when it was begun.
    bytes: u64,
    began: Duration,
    /// Files of this epoch that were large or old enough.
    ended: Vec<Upload>,
    upload: Option<Upload>,
    shared: Arc<Shared>,
}

/// What the writers of a subtask and their uploads share.
#[derive(Default)]
struct Shared {
    unsent: AtomicUsize,
    /// Why an upload has ended, until it is told.
    failure: Mutex<Option<SinkError>>,
    waker: AtomicWaker,
}

impl Shared {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.waker.register(cx.waker());
        if let Some(failure) = self.failure.lock().take() {
            return Poll::Ready(Err(failure));
        }
        match self.unsent.load(Ordering::Relaxed) < UNSENT_BYTES_MAX {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

/// Between tries to reach a store that does not work, and for how long it is tried.
const AGAIN: Duration = Duration::from_secs(1);
const OUTAGE_MAX: Duration = Duration::from_secs(600);

/// Asks a store again that does not work at the moment.
#[derive(Clone)]
struct Patience {
    clock: Clock,
    settings: BucketSettings,
    trouble: watch::Sender<Option<String>>,
    /// Requests at a time.
    requests: Arc<Semaphore>,
}

impl Patience {
    fn new(outside: &Outside) -> Self {
        Patience {
            clock: outside.clock,
            settings: outside.buckets.clone(),
            trouble: watch::Sender::default(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }
    }

    async fn until_done<T, F>(&self, request: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let since = self.clock.elapsed();
        loop {
            let ended = {
                // It is never closed.
                let _permit = self.requests.acquire().await;
                request().await
            };
            match ended {
                Err(error)
                    if is_outage(&error) && self.clock.elapsed().saturating_sub(since) < OUTAGE_MAX =>
                {
                    self.trouble.send_replace(Some(explain(&error, &self.settings)));
                    self.clock.sleep(AGAIN).await;
                }
                ended => {
                    self.trouble.send_replace(None);
                    return ended;
                }
            }
        }
    }
}

struct Upload {
    parts: mpsc::UnboundedSender<Part>,
    /// `None` if it has failed, which the writers of the subtask tell.
    done: JoinHandle<Option<StagedUpload>>,
}

enum Part {
    Middle(Vec<u8>),
    Last(Vec<u8>),
}

impl BucketWriter {
    /// Sends the text at hand as a part of the open upload, which is begun if there is none.
    fn send(&mut self, is_last: bool) -> &mut Upload {
        let bytes = std::mem::take(&mut self.rows);
        self.bytes += bytes.len() as u64;
        self.shared.unsent.fetch_add(bytes.len(), Ordering::Relaxed);
        let part = if is_last { Part::Last(bytes) } else { Part::Middle(bytes) };
        let action = self.action();
        let upload = self.upload.get_or_insert_with(|| {
            let (sender, parts) = mpsc::unbounded_channel();
            let staged = StagedUpload {
                bucket: self.bucket.clone(),
                key: format!("{}-{}-{}", self.prefix, self.epoch, self.begun.fetch_add(1, Ordering::Relaxed)),
                ..Default::default()
            };
            let (store, shared) = (Arc::clone(&self.store), Arc::clone(&self.shared));
            let (patience, action) = (self.patience.clone(), action);
            let done = self.runtime.spawn(async move {
                let failed = match upload(store, staged, parts, &shared, &patience).await {
                    Ok(staged) => return Some(staged),
                    Err(error) => SinkError::Io { action, source: explained(&error, &patience.settings) },
                };
                *shared.failure.lock() = Some(failed);
                shared.waker.wake();
                None
            });
            Upload { parts: sender, done }
        });
        // An upload that has failed says so when it is waited for.
        let _ = upload.parts.send(part);
        upload
    }

    /// Ends the file at hand, if there is one.
    fn end(&mut self) -> Result<(), SinkError> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        encoder.finish(&mut self.rows).map_err(not_writable)?;
        self.send(true);
        self.ended.extend(self.upload.take());
        Ok(())
    }

    fn action(&self) -> String {
        format!("upload a file to 's3://{}/{}'", self.bucket, self.prefix)
    }
}

impl FolderWriter for BucketWriter {
    fn held(&self) -> usize {
        self.rows.capacity() + self.encoder.as_ref().map_or(0, FileEncoder::held)
    }

    /// Ends the file, whatever its size: stores take no small parts but the last.
    fn release(&mut self) -> Result<(), SinkError> {
        self.end()
    }
}

fn not_writable(error: FormatError) -> SinkError {
    SinkError::Data { message: error.to_string() }
}

impl SinkWriter for BucketWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        if batch.rows() == 0 {
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => {
                (self.bytes, self.began) = (0, self.patience.clock.elapsed());
                none.insert(self.format.encoder(&batch.records.schema()).map_err(not_writable)?)
            }
        };
        encoder.encode(&batch.records, &mut self.rows).map_err(not_writable)?;
        let bytes = self.bytes + (self.rows.len() + encoder.pending()) as u64;
        if self.rolling.ends(bytes, self.began, self.patience.clock) {
            self.end()?;
        } else if self.rows.len() >= PART_BYTES {
            self.send(false);
        }
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.shared.poll_ready(cx)
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        // Barriers come in order, so that rows at hand belong to this epoch even if an earlier one was given up.
        self.epoch = epoch;
        if let Err(error) = self.end() {
            return async { Err(error) }.boxed();
        }
        self.epoch = epoch.next();
        let (action, shared) = (self.action(), Arc::clone(&self.shared));
        let uploads = std::mem::take(&mut self.ended);
        async move {
            let mut committables = Vec::with_capacity(uploads.len());
            for upload in uploads {
                let source = match upload.done.await {
                    Ok(Some(staged)) => {
                        committables.push(staged.encode_to_vec());
                        continue;
                    }
                    Ok(None) => std::io::Error::other("an upload has failed"),
                    Err(panic) => std::io::Error::other(panic),
                };
                let told = shared.failure.lock().take();
                return Err(told.unwrap_or(SinkError::Io { action, source }));
            }
            Ok(committables)
        }
        .boxed()
    }

    fn trouble(&self) -> Option<Trouble> {
        Some(self.patience.trouble.subscribe())
    }
}

/// Uploads parts as they come; aborts if the writer goes away before the last one.
async fn upload(
    store: Arc<AmazonS3>,
    mut staged: StagedUpload,
    mut parts: mpsc::UnboundedReceiver<Part>,
    shared: &Shared,
    patience: &Patience,
) -> Result<StagedUpload, Error> {
    let key = path_of(&staged.key);
    staged.upload = patience.until_done(|| store.create_multipart(&key)).await?;
    let uploaded = async {
        while let Some(part) = parts.recv().await {
            let (bytes, is_last) = match part {
                Part::Middle(bytes) => (bytes, false),
                Part::Last(bytes) => (bytes, true),
            };
            let length = bytes.len();
            // The last part of several may be empty, and is then left out.
            if length > 0 || staged.parts.is_empty() {
                staged.checksum = crc32c::crc32c_append(staged.checksum, &bytes);
                staged.bytes += length as u64;
                let index = staged.parts.len();
                let payload = PutPayload::from(bytes);
                let part = patience
                    .until_done(|| store.put_part(&key, &staged.upload, index, payload.clone()))
                    .await?;
                staged.parts.push(part.content_id);
            }
            shared.unsent.fetch_sub(length, Ordering::Relaxed);
            shared.waker.wake();
            if is_last {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match uploaded.await {
        Ok(true) => Ok(staged),
        ended => {
            if let Err(error) = store.abort_multipart(&key, &staged.upload).await {
                warn!(key = staged.key, %error, "failed to abort an upload; the bucket may keep its parts");
            }
            ended.map(|_| staged)
        }
    }
}

struct BucketCommitter {
    store: Arc<AmazonS3>,
    patience: Patience,
}

#[async_trait]
impl SinkCommitter for BucketCommitter {
    async fn commit(&self, committables: &[Committable]) -> Result<(), SinkError> {
        let mut staged = Vec::new();
        for bytes in committables {
            let upload = StagedUpload::decode(bytes.as_slice()).map_err(|_| SinkError::Lost {
                kind: "SinkFileLost",
                message: "a checkpoint names an upload in an unknown form".to_owned(),
            })?;
            staged.push(upload);
        }
        futures::future::try_join_all(staged.iter().map(|upload| self.complete(upload))).await.map(|_| ())
    }
}

impl BucketCommitter {
    /// Makes an upload visible; one that is visible already is done.
    async fn complete(&self, staged: &StagedUpload) -> Result<(), SinkError> {
        let key = path_of(&staged.key);
        let former = Path::from(staged.key.as_str());
        match self.complete_at(staged, &key).await {
            // Of earlier releases, whose keys were escaped once more.
            Err(lost @ SinkError::Lost { .. }) if former != key => {
                self.complete_at(staged, &former).await.map_err(|_| lost)
            }
            ended => ended,
        }
    }

    async fn complete_at(&self, staged: &StagedUpload, key: &Path) -> Result<(), SinkError> {
        let parts: Vec<PartId> =
            staged.parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
        let request = || self.store.complete_multipart(key, &staged.upload, parts.clone());
        match self.patience.until_done(request).await {
            Ok(_) => Ok(()),
            Err(error @ Error::NotFound { .. }) => self.check(staged, key, &error).await,
            Err(error) => Err(self.failed(staged, &error)),
        }
    }

    fn failed(&self, staged: &StagedUpload, error: &Error) -> SinkError {
        let action = format!("complete the upload of 's3://{}/{}'", staged.bucket, staged.key);
        SinkError::Io { action, source: explained(error, &self.patience.settings) }
    }

    /// Reads back what an upload that is gone has left.
    async fn check(&self, staged: &StagedUpload, key: &Path, gone: &Error) -> Result<(), SinkError> {
        let found = async { self.store.get(key).await?.bytes().await }.await;
        let address = format!("s3://{}/{}", staged.bucket, staged.key);
        match found {
            Ok(bytes) if bytes.len() as u64 == staged.bytes && crc32c::crc32c(&bytes) == staged.checksum => {
                Ok(())
            }
            Ok(bytes) => Err(SinkError::Lost {
                kind: "SinkFileLost",
                message: format!(
                    "'{address}' has {} bytes and is not what was uploaded with {}; something else has \
                     written it",
                    bytes.len(),
                    staged.bytes
                ),
            }),
            Err(Error::NotFound { .. }) => Err(SinkError::Lost {
                kind: "SinkFileLost",
                message: format!(
                    "the upload of '{address}' is gone with its {} bytes of results ({gone}); a lifecycle rule that \
                     aborts unfinished uploads must leave them alone for longer than the job may be down",
                    staged.bytes
                ),
            }),
            Err(error) => Err(self.failed(staged, &error)),
        }
    }
}

/// A key as it is: names of partitions may be escaped already.
fn path_of(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

fn explained(error: &Error, settings: &BucketSettings) -> std::io::Error {
    std::io::Error::other(explain(error, settings))
}
