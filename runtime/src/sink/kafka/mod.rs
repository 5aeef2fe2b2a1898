//! Kafka topics, exactly once: rows are written in transactions that the checkpoint names, and committed after it by whoever
//! leads the job then.
//!
//! The protocol is Kafka's second generation of transactions (KIP-890): each transaction has an epoch of its own, so that a
//! commit can be repeated and never hits another one. Ids are
//! `millrace/<job uid>/<operator hash>/<generation>/<subtask>/<slot>`; only writers of a generation use its ids, and a slot is
//! used again only when a later complete checkpoint no longer names it.

mod committer;
mod producer;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use xxhash_rust::xxh3::xxh3_64;

use super::{Committable, SinkCommitter, SinkConnector, SinkError, SinkIdentity, SinkWriter};
use crate::format::json::JsonEncoder;
use crate::kafka::{KafkaError, servers, topic};
use crate::model::{Batch, Epoch, Subtask};
use crate::options::TableOptions;
use committer::Committer;
use producer::{Command, Producer};

/// A writer with this much unsent takes no more rows.
const UNSENT_BYTES_MAX: usize = 4 << 20;

/// What Kafka's brokers allow by default, and the most they do: from the first row to the commit.
const DEFAULT_TRANSACTION_TIMEOUT_MS: u32 = 900_000;

/// A topic as a sink.
pub struct Kafka {
    settings: Arc<Settings>,
    identity: SinkIdentity,
}

#[derive(Debug)]
struct Settings {
    bootstrap: Vec<String>,
    topic: String,
    partitioner: Partitioner,
    transaction_timeout_ms: u32,
    /// What all transactional ids of this sink of this job begin with.
    prefix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partitioner {
    /// One partition after the other, some rows each.
    Sticky,
    /// Each subtask always writes to one.
    Fixed,
}

/// A transaction that holds an epoch's rows, as a checkpoint names it.
#[derive(Clone, PartialEq, prost::Message)]
struct Transaction {
    #[prost(string, tag = "1")]
    id: String,
    /// Identity that the rows were written with. A commit is repeated with it, never with the one that a commit returns.
    #[prost(int64, tag = "2")]
    producer_id: i64,
    #[prost(int32, tag = "3")]
    producer_epoch: i32,
    /// Version of EndTxn that it must be ended with.
    #[prost(int32, tag = "4")]
    end_version: i32,
    #[prost(uint64, tag = "5")]
    first_write_ms: u64,
    #[prost(uint32, tag = "6")]
    timeout_ms: u32,
    #[prost(string, tag = "7")]
    topic: String,
    #[prost(uint64, tag = "8")]
    rows: u64,
    #[prost(uint64, tag = "9")]
    epoch: u64,
}

impl Kafka {
    /// Reads the options.
    pub fn new(options: &mut TableOptions<'_>, identity: SinkIdentity) -> Result<Self, SinkError> {
        let settings = Settings {
            bootstrap: servers(options)?,
            topic: topic(options)?,
            partitioner: match options.optional("sink.partitioner").as_deref() {
                None | Some("default" | "round-robin") => Partitioner::Sticky,
                Some("fixed") => Partitioner::Fixed,
                Some(_) => {
                    return Err(options
                        .wrong(
                            "sink.partitioner",
                            "is not supported; use 'default', 'fixed' or 'round-robin'",
                        )
                        .into());
                }
            },
            transaction_timeout_ms: options
                .parsed("properties.transaction.timeout.ms", "a number of milliseconds")?
                .unwrap_or(DEFAULT_TRANSACTION_TIMEOUT_MS),
            prefix: format!("millrace/{}/{:016x}", identity.job, xxh3_64(identity.operator_id.as_bytes())),
        };
        if settings.transaction_timeout_ms == 0 {
            return Err(options.wrong("properties.transaction.timeout.ms", "must be at least 1").into());
        }
        if options.required("format")? != "json" {
            return Err(options.wrong("format", "is not supported; use 'json'").into());
        }
        if !matches!(options.optional("sink.delivery-guarantee").as_deref(), None | Some("exactly-once")) {
            return Err(options
                .wrong("sink.delivery-guarantee", "is not supported; every row is written 'exactly-once'")
                .into());
        }
        Ok(Kafka { settings: Arc::new(settings), identity })
    }
}

impl SinkConnector for Kafka {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        let shared = Arc::<Shared>::default();
        let (commands, receiver) = mpsc::unbounded_channel();
        let producer =
            Producer::new(Arc::clone(&self.settings), &self.identity, subtask, receiver, Arc::clone(&shared));
        let running = tokio::spawn(producer.run()).abort_handle();
        Ok(Box::new(Writer { commands, shared, running, encoder: None, text: String::new() }))
    }

    fn committer(&self) -> Option<Box<dyn SinkCommitter>> {
        Some(Box::new(Committer::new(Arc::clone(&self.settings), &self.identity.outside)))
    }
}

/// What a writer and its producer share.
#[derive(Default)]
struct Shared {
    unsent: AtomicUsize,
    /// Wakes the writer when there is room again, or when the producer has failed.
    waker: AtomicWaker,
    failure: Mutex<Option<SinkError>>,
}

/// The half of a writer that the task calls; the other half, [`Producer`], talks to brokers.
struct Writer {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    running: AbortHandle,
    encoder: Option<JsonEncoder>,
    text: String,
}

impl Writer {
    fn check(&self) -> Result<(), SinkError> {
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }
}

impl SinkWriter for Writer {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.check()?;
        if batch.rows() == 0 {
            return Ok(());
        }
        self.text.clear();
        let encoder = self.encoder.get_or_insert_with(|| JsonEncoder::new(&batch.records.schema()));
        encoder
            .encode(&batch.records, &mut self.text)
            .map_err(|error| SinkError::Data { message: error.to_string() })?;
        let text = Bytes::copy_from_slice(self.text.as_bytes());
        let mut values = Vec::with_capacity(batch.rows());
        let mut rest = text;
        // A row is a line; line breaks in values are escaped.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            values.push(rest.split_to(end));
            drop(rest.split_to(1));
        }
        self.shared.unsent.fetch_add(self.text.len(), Ordering::Relaxed);
        // If the producer is gone, its failure is told by the next call.
        let _ = self.commands.send(Command::Rows { values, bytes: self.text.len() });
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.shared.waker.register(cx.waker());
        self.check()?;
        match self.shared.unsent.load(Ordering::Relaxed) < UNSENT_BYTES_MAX {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        let (done, prepared) = oneshot::channel();
        let _ = self.commands.send(Command::Prepare { epoch, done });
        let shared = Arc::clone(&self.shared);
        async move {
            match prepared.await {
                Ok(committables) => Ok(committables),
                Err(_) => Err(shared.failure.lock().take().unwrap_or_else(|| SinkError::Io {
                    action: "write to Kafka".to_owned(),
                    source: std::io::Error::other("the writer has ended"),
                })),
            }
        }
        .boxed()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// An error of the protocol as one of the sink: those that pass are worth a restart of the job.
fn failed(error: KafkaError, topic: &str) -> SinkError {
    let is_passing = error.is_passing() || matches!(error, KafkaError::NoTopic { .. });
    match is_passing {
        true => SinkError::Io { action: format!("write to the topic '{topic}'"), source: error.into_io() },
        false => SinkError::Data { message: format!("failed to write to the topic '{topic}': {error}") },
    }
}
