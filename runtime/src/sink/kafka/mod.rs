//! Kafka topics, at least once (rows are written as they come, and a checkpoint waits for their acknowledgement) or exactly once: rows are written in transactions that the checkpoint names, and committed after it by whoever
//! leads the job then.
//!
//! The protocol is Kafka's second generation of transactions (KIP-890): each transaction has an epoch of its own, so that a
//! commit can be repeated and never hits another one. Ids are
//! `millrace/<job uid>/<operator hash>/<generation>/<subtask>/<slot>`; only writers of a generation use its ids, and a slot is
//! used again only when a later complete checkpoint no longer names it.

mod by_key;
mod committer;
mod metadata;
mod producer;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::array::{AsArray, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Schema};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::Compression;
use millrace_sql::kafka_keys::{self, Keys};
use millrace_sql::plan::Table;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use xxhash_rust::xxh3::xxh3_64;

use super::{Committable, SinkCommitter, SinkConnector, SinkError, SinkIdentity, SinkWriter};
use crate::format::csv::CsvStyle;
use crate::format::json::JsonStyle;
use crate::format::{Encoder, OutputFormat};
use crate::kafka::{Client, KafkaError, Security, servers, topic};
use crate::model::{Batch, Epoch, Generation, Subtask};
use crate::options::TableOptions;
use crate::outside::Outside;
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
    /// Of values; `None`: the bytes of their one column.
    format: Option<OutputFormat>,
    /// Of batches of records.
    compression: Compression,
    bootstrap: Vec<String>,
    security: Arc<Security>,
    topic: String,
    partitioner: Partitioner,
    /// `None`: records have no keys.
    key: Option<RecordKey>,
    /// Without it rows are written as they come, and those after the last checkpoint once more after a failure.
    is_exactly_once: bool,
    /// What columns say of their records.
    metadata: Vec<(usize, Said)>,
    transaction_timeout_ms: u32,
    /// What all transactional ids of this sink of this job begin with.
    prefix: String,
}

impl Settings {
    fn client(&self, outside: &Outside) -> Client {
        let (bootstrap, security) = (self.bootstrap.clone(), Arc::clone(&self.security));
        Client::new(bootstrap, security, outside.clock, Arc::clone(&outside.transport))
    }
}

/// What of a row is the key of its record.
#[derive(Debug)]
struct RecordKey {
    columns: Vec<usize>,
    /// `None`: the bytes of its one column.
    format: Option<OutputFormat>,
    /// What names of columns begin with that names in the key do not.
    prefix: String,
    /// Columns that are in the value.
    value: Vec<usize>,
    /// A record takes the place of the one before with the same key, so that each must have one.
    replaces: bool,
}

impl RecordKey {
    /// The key that the options of a table name.
    fn of(
        options: &mut TableOptions<'_>,
        table: &Table,
        format: Option<&OutputFormat>,
    ) -> Result<Option<Self>, SinkError> {
        let given = options.optional(kafka_keys::FORMAT);
        for option in [kafka_keys::FIELDS, kafka_keys::PREFIX, kafka_keys::INCLUDE] {
            options.optional(option);
        }
        let (Some(Keys { columns, are_in_value, prefix }), Some(given)) = (Keys::of(table), given) else {
            return Ok(None);
        };
        let of_key = match (given.as_str(), format) {
            ("raw", _) => None,
            // Options of the format hold for keys, too.
            ("json", Some(OutputFormat::Json(_))) | ("csv", Some(OutputFormat::Csv(_))) => format.cloned(),
            ("json", _) => Some(OutputFormat::Json(JsonStyle::default())),
            ("csv", _) => Some(OutputFormat::Csv(CsvStyle::new(options)?)),
            _ => return Err(options.wrong(kafka_keys::FORMAT, "is none of 'json', 'csv' and 'raw'").into()),
        };
        let value = (0..physical(table)).filter(|column| are_in_value || !columns.contains(column)).collect();
        Ok(Some(RecordKey { columns, format: of_key, prefix, value, replaces: false }))
    }

    /// The key's columns, by their names in it.
    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let keys = rows.project(&self.columns).map_err(not_writable)?;
        let schema = keys.schema();
        let bare = schema.fields().iter().map(|field| {
            let name = field.name().strip_prefix(self.prefix.as_str()).unwrap_or(field.name());
            field.as_ref().clone().with_name(name)
        });
        let schema = Schema::new(bare.collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), keys.columns().to_vec()).map_err(not_writable)
    }
}

/// Values of one column as bytes; none for NULL.
fn raw(keys: &RecordBatch) -> Result<Vec<Option<Bytes>>, SinkError> {
    let bytes = cast(keys.column(0), &ArrowType::Binary).map_err(not_writable)?;
    let bytes: &BinaryArray = bytes.as_binary::<i32>();
    Ok(bytes.iter().map(|value| value.map(Bytes::copy_from_slice)).collect())
}

/// What a METADATA column that is written says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Timestamp,
    Headers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partitioner {
    /// One partition after the other, some rows each.
    Sticky,
    /// Each subtask always writes to one.
    Fixed,
    /// By the record's key, as Kafka's own producers do.
    ByKey,
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

/// The id that a slot of a writer of a generation writes with: `<prefix>/<generation>/<subtask>/<slot>`.
fn transactional_id(prefix: &str, generation: Generation, subtask: Subtask, slot: usize) -> String {
    format!("{prefix}/{generation}/{subtask}/{slot}")
}

impl Kafka {
    /// Reads the options of a topic that rows are added to.
    pub fn new(
        options: &mut TableOptions<'_>,
        table: &Table,
        identity: SinkIdentity,
    ) -> Result<Self, SinkError> {
        let partitioner = options.optional("sink.partitioner");
        let is_round_robin = partitioner.as_deref() == Some("round-robin");
        let partitioner = match partitioner.as_deref() {
            None | Some("default" | "round-robin") => Partitioner::Sticky,
            Some("fixed") => Partitioner::Fixed,
            Some(_) => {
                return Err(options
                    .wrong("sink.partitioner", "is not supported; use 'default', 'fixed' or 'round-robin'")
                    .into());
            }
        };
        let format = match options.required("format")?.as_str() {
            "raw" => None,
            _ => Some(OutputFormat::new(options)?),
        };
        let key = RecordKey::of(options, table, format.as_ref())?;
        let partitioner = match (partitioner, &key) {
            (Partitioner::Sticky, Some(_)) if !is_round_robin => Partitioner::ByKey,
            (given, _) => given,
        };
        Self::open(options, table, identity, partitioner, key, format)
    }

    /// Reads the options of a topic that holds the newest row of each key: a record takes the place of the one before, and one
    /// without a value takes that away (`upsert-kafka` of Flink; compacted topics of Kafka).
    pub fn by_key(
        options: &mut TableOptions<'_>,
        table: &Table,
        identity: SinkIdentity,
    ) -> Result<Self, SinkError> {
        is_one_of(options, "key.format", "json")?;
        is_one_of(options, "value.format", "json")?;
        if !matches!(options.optional("value.fields-include").as_deref(), None | Some("ALL")) {
            return Err(options.wrong("value.fields-include", "is not supported; use 'ALL'").into());
        }
        let format = Some(OutputFormat::Json(JsonStyle::default()));
        let columns = table.key_columns();
        let value = (0..physical(table)).collect();
        let key = RecordKey { columns, format: format.clone(), prefix: String::new(), value, replaces: true };
        Self::open(options, table, identity, Partitioner::ByKey, Some(key), format)
    }

    fn open(
        options: &mut TableOptions<'_>,
        table: &Table,
        identity: SinkIdentity,
        partitioner: Partitioner,
        key: Option<RecordKey>,
        format: Option<OutputFormat>,
    ) -> Result<Self, SinkError> {
        let settings = Settings {
            format,
            compression: compression(options)?,
            bootstrap: servers(options)?,
            security: Arc::new(Security::new(options)?),
            topic: topic(options)?,
            partitioner,
            key,
            is_exactly_once: match options.optional("sink.delivery-guarantee").as_deref() {
                None | Some("exactly-once") => true,
                Some("at-least-once") => false,
                Some(_) => {
                    return Err(options
                        .wrong("sink.delivery-guarantee", "is neither 'exactly-once' nor 'at-least-once'")
                        .into());
                }
            },
            metadata: said(table),
            transaction_timeout_ms: options
                .parsed("properties.transaction.timeout.ms", "a number of milliseconds")?
                .unwrap_or(DEFAULT_TRANSACTION_TIMEOUT_MS),
            prefix: format!("millrace/{}/{:016x}", identity.job, xxh3_64(identity.operator_id.as_bytes())),
        };
        if settings.transaction_timeout_ms == 0 {
            return Err(options.wrong("properties.transaction.timeout.ms", "must be at least 1").into());
        }
        Ok(Kafka { settings: Arc::new(settings), identity })
    }
}

/// How many columns are part of records; metadata come after them.
fn physical(table: &Table) -> usize {
    table.schema.as_ref().map_or(0, |schema| schema.fields.len())
}

fn said(table: &Table) -> Vec<(usize, Said)> {
    let said = (physical(table)..).zip(&table.metadata).map(|(column, metadata)| {
        let said = if metadata.key == "headers" { Said::Headers } else { Said::Timestamp };
        (column, said)
    });
    said.collect()
}

impl SinkConnector for Kafka {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        let shared = Arc::<Shared>::default();
        let (commands, receiver) = mpsc::unbounded_channel();
        let producer =
            Producer::new(Arc::clone(&self.settings), &self.identity, subtask, receiver, Arc::clone(&shared));
        let running = tokio::spawn(producer.run()).abort_handle();
        let settings = Arc::clone(&self.settings);
        Ok(Box::new(Writer { settings, commands, shared, running, encoders: None, text: String::new() }))
    }

    fn committer(&self) -> Option<Box<dyn SinkCommitter>> {
        let committer = || Committer::new(Arc::clone(&self.settings), &self.identity.outside);
        self.settings.is_exactly_once.then(|| Box::new(committer()) as Box<dyn SinkCommitter>)
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
    settings: Arc<Settings>,
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    running: AbortHandle,
    encoders: Option<Encoders>,
    text: String,
}

/// Of rows and of their keys.
struct Encoders {
    /// `None`: bytes as they are.
    row: Option<Encoder>,
    /// `None`: there are no keys, or they are bytes as they are.
    key: Option<Encoder>,
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Bytes>,
    /// Without one, the record takes the key's row away.
    pub value: Option<Bytes>,
    pub about: About,
}

/// What is said of a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// In milliseconds since 1970; `None`: the time of writing.
    pub timestamp: Option<i64>,
    pub headers: Vec<(StrBytes, Option<Bytes>)>,
}

impl Record {
    fn bytes(&self) -> usize {
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let header = |(name, value): &(StrBytes, Option<Bytes>)| name.len() + bytes(value);
        bytes(&self.key) + bytes(&self.value) + self.about.headers.iter().map(header).sum::<usize>()
    }
}

impl Writer {
    fn check(&self) -> Result<(), SinkError> {
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }

    fn records(&mut self, batch: &Batch) -> Result<Vec<Record>, SinkError> {
        let mut records = self.of_columns(batch)?;
        for (column, said) in self.metadata(batch) {
            metadata::say(*said, batch.records.column(*column), &mut records)?;
        }
        Ok(records)
    }

    /// Columns that say something of records. A plan of an earlier release names some that are only read, and gives no columns for
    /// them.
    fn metadata(&self, batch: &Batch) -> &[(usize, Said)] {
        let metadata = self.settings.metadata.as_slice();
        let is_there = metadata.last().is_none_or(|(column, _)| *column < batch.records.num_columns());
        if is_there { metadata } else { &[] }
    }

    /// A record for each row; of those of a key, one for each that is not replaced at once.
    fn of_columns(&mut self, batch: &Batch) -> Result<Vec<Record>, SinkError> {
        let Some(key) = &self.settings.key else {
            let format = &self.settings.format;
            let columns: Vec<usize> = (0..batch.records.num_columns() - self.metadata(batch).len()).collect();
            let rows = batch.records.project(&columns).map_err(not_writable)?;
            let encoder = || format.as_ref().map(|format| format.encoder(&rows.schema()));
            let encoders = self.encoders.get_or_insert_with(|| Encoders { row: encoder(), key: None });
            let values = values(encoders.row.as_ref(), &rows, &mut self.text)?;
            let record = |value| Record { key: None, value, about: About::default() };
            return Ok(values.into_iter().map(record).collect());
        };
        if key.replaces {
            by_key::check(&batch.records, &key.columns)?;
        }
        let keys = key.project(&batch.records)?;
        let rows = batch.records.project(&key.value).map_err(not_writable)?;
        let encoders = self.encoders.get_or_insert_with(|| Encoders {
            row: self.settings.format.as_ref().map(|format| format.encoder(&rows.schema())),
            key: key.format.as_ref().map(|format| format.encoder(&keys.schema())),
        });
        let of_rows = values(encoders.row.as_ref(), &rows, &mut self.text)?;
        let keys = values(encoders.key.as_ref(), &keys, &mut self.text)?;
        if key.replaces {
            // In JSON all of both are there.
            let (keys, of_rows) =
                (keys.into_iter().flatten().collect(), of_rows.into_iter().flatten().collect());
            return Ok(by_key::records(keys, of_rows, batch.kinds.as_deref()));
        }
        let records = keys.into_iter().zip(of_rows);
        let record = |(key, value)| Record { key, value, about: About::default() };
        Ok(records.map(record).collect())
    }
}

fn compression(options: &mut TableOptions<'_>) -> Result<Compression, SinkError> {
    let key = "properties.compression.type";
    Ok(match options.optional(key).as_deref() {
        None | Some("none") => Compression::None,
        Some("gzip") => Compression::Gzip,
        Some("snappy") => Compression::Snappy,
        Some("lz4") => Compression::Lz4,
        Some("zstd") => Compression::Zstd,
        Some(_) => {
            return Err(options
                .wrong(key, "is not known; use 'none', 'gzip', 'snappy', 'lz4' or 'zstd'")
                .into());
        }
    })
}

fn not_writable(error: impl std::fmt::Display) -> SinkError {
    SinkError::Data { message: error.to_string() }
}

/// Rows as records: encoded, or the bytes of their one column, of which NULL is none.
fn values(
    encoder: Option<&Encoder>,
    rows: &RecordBatch,
    text: &mut String,
) -> Result<Vec<Option<Bytes>>, SinkError> {
    match encoder {
        Some(encoder) => Ok(lines(encoder, rows, text)?.into_iter().map(Some).collect()),
        None => raw(rows),
    }
}

/// Rows as records, without the line break at their end.
fn lines(encoder: &Encoder, rows: &RecordBatch, text: &mut String) -> Result<Vec<Bytes>, SinkError> {
    text.clear();
    let ends = encoder.encode_each(rows, text).map_err(not_writable)?;
    let all = Bytes::copy_from_slice(text.as_bytes());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(&ends).map(|(start, end)| all.slice(start..end - 1)).collect())
}

/// Refuses all values of an option but one.
fn is_one_of(options: &mut TableOptions<'_>, key: &str, value: &str) -> Result<(), SinkError> {
    match options.required(key)? == value {
        true => Ok(()),
        false => Err(options.wrong(key, &format!("is not supported; use '{value}'")).into()),
    }
}

impl SinkWriter for Writer {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.check()?;
        if batch.rows() == 0 {
            return Ok(());
        }
        let records = self.records(batch)?;
        let bytes = records.iter().map(Record::bytes).sum();
        self.shared.unsent.fetch_add(bytes, Ordering::Relaxed);
        // If the producer is gone, its failure is told by the next call.
        let _ = self.commands.send(Command::Rows { records, bytes });
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
    match error.may_be_cured() {
        true => SinkError::Io { action: format!("write to the topic '{topic}'"), source: error.into_io() },
        false => SinkError::Data { message: format!("failed to write to the topic '{topic}': {error}") },
    }
}
