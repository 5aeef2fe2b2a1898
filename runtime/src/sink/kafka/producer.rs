//! Writes rows to their transactions, one request at a time: while it is under way the next rows collect.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    EndTxnRequest, InitProducerIdRequest, ProduceRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{self, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::slots::{Identity, Slots};
use super::{
    Partitioner, Record, Settings, Shared, SinkIdentity, Transaction, by_key, failed, transactional_id,
};
use crate::clock::Clock;
use crate::error::chain;
use crate::kafka::{
    Client, INVALID_TRANSACTION_TIMEOUT, KafkaError, LEADER_NOT_AVAILABLE, MESSAGE_TOO_LARGE, Partition,
    checked, name,
};
use crate::model::{Epoch, Generation, Subtask};
use crate::sink::{Committable, SinkError};

/// Versions of Kafka's second generation of transactions; what ends a transaction is saved with it.
pub const PRODUCE_VERSION: i16 = 12;
pub const INIT_VERSION: i16 = 5;
pub const END_VERSION: i16 = 5;
/// The cluster's level of the feature `transaction.version` that they need.
const TRANSACTION_LEVEL: i16 = 2;

/// Bytes of one batch: brokers take 1 MiB by default.
const BATCH_BYTES: usize = 512 << 10;
/// Bytes that a record adds to its value, at most.
const RECORD_BYTES: usize = 20;

/// Between tries after an error, at first and at most.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// An error that lasts longer ends the generation.
const PATIENCE: Duration = Duration::from_secs(60);
const ALL_REPLICAS: i16 = -1;
const REPLICAS_WAIT_MS: i32 = 10_000;

/// What the writer asks of its producer.
pub enum Command {
    Rows {
        records: Vec<Record>,
        bytes: usize,
    },
    /// Everything so far belongs to this epoch.
    Prepare {
        epoch: Epoch,
        done: oneshot::Sender<Vec<Committable>>,
    },
}

/// The transaction that is written at the moment.
struct Open {
    slot: usize,
    id: String,
    identity: Identity,
    first_write_ms: u64,
    rows: u64,
    /// Next sequence of each partition.
    sequences: HashMap<i32, i32>,
}

/// Writes what one subtask's writer is given.
pub struct Producer {
    settings: Arc<Settings>,
    clock: Clock,
    client: Client,
    commands: mpsc::UnboundedReceiver<Command>,
    completed: watch::Receiver<Epoch>,
    shared: Arc<Shared>,
    generation: Generation,
    subtask: Subtask,
    partitions: Vec<Partition>,
    turn: usize,
    slots: Slots,
    open: Option<Open>,
}

impl Producer {
    pub fn new(
        settings: Arc<Settings>,
        identity: &SinkIdentity,
        subtask: Subtask,
        commands: mpsc::UnboundedReceiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        Producer {
            client: settings.client(&identity.outside),
            generation: identity.generation,
            settings,
            clock: identity.outside.clock,
            commands,
            completed: identity.completed.clone(),
            shared,
            subtask,
            partitions: Vec::new(),
            turn: subtask.0 as usize,
            slots: Slots::default(),
            open: None,
        }
    }

    /// Works until the writer is dropped or something fails, which the writer is told.
    pub async fn run(mut self) {
        if let Err(error) = self.work().await {
            warn!(topic = self.settings.topic, error = %chain(&error), "writing has failed");
            *self.shared.failure.lock() = Some(error);
            // Dropping the commands tells a waiting checkpoint.
            self.commands.close();
            while self.commands.try_recv().is_ok() {}
            self.shared.waker.wake();
        }
    }

    async fn work(&mut self) -> Result<(), SinkError> {
        let mut held: Option<Command> = None;
        loop {
            let command = match held.take() {
                Some(command) => command,
                None => match self.commands.recv().await {
                    Some(command) => command,
                    None => return Ok(()),
                },
            };
            match command {
                Command::Rows { mut records, mut bytes } => {
                    while bytes < BATCH_BYTES {
                        match self.commands.try_recv() {
                            Ok(Command::Rows { records: more, bytes: more_bytes }) => {
                                records.extend(more);
                                bytes += more_bytes;
                            }
                            Ok(prepare) => {
                                held = Some(prepare);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.write(records).await?;
                    self.shared.unsent.fetch_sub(bytes, Ordering::Relaxed);
                    self.shared.waker.wake();
                }
                Command::Prepare { epoch, done } => {
                    let prepared = self.prepare(epoch);
                    // The checkpoint may have been given up.
                    let _ = done
                        .send(prepared.into_iter().map(|transaction| transaction.encode_to_vec()).collect());
                }
            }
        }
    }

    /// Ends the open transaction's writing: every row of it was acknowledged.
    fn prepare(&mut self, epoch: Epoch) -> Option<Transaction> {
        if !self.settings.is_exactly_once {
            return None;
        }
        let open = self.open.take()?;
        self.slots.prepared(open.slot, epoch, open.identity);
        Some(Transaction {
            id: open.id,
            producer_id: open.identity.producer_id,
            producer_epoch: i32::from(open.identity.epoch),
            end_version: i32::from(END_VERSION),
            first_write_ms: open.first_write_ms,
            timeout_ms: self.settings.transaction_timeout_ms,
            topic: self.settings.topic.clone(),
            rows: open.rows,
            epoch: epoch.0,
        })
    }

    async fn write(&mut self, records: Vec<Record>) -> Result<(), SinkError> {
        if self.partitions.is_empty() {
            self.partitions = self.find_partitions().await?;
            self.partitions.sort_by_key(|partition| partition.index);
        }
        if self.settings.partitioner == Partitioner::ByKey {
            // In the order of the partitions: with what is written, requests are the same from run to run.
            for (place, records) in by_key::by_partition(records, self.partitions.len()) {
                self.write_to(Some(self.partitions[place].index), &records).await?;
            }
            return Ok(());
        }
        self.write_to(None, &records).await
    }

    /// Writes records to a partition, or each batch of them to the next one.
    async fn write_to(&mut self, partition: Option<i32>, records: &[Record]) -> Result<(), SinkError> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                bytes += record.bytes() + RECORD_BYTES;
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (batch, after) = rest.split_at(count);
            let partition = partition.unwrap_or_else(|| self.next_partition());
            self.write_batch(partition, batch).await?;
            rest = after;
        }
        Ok(())
    }

    fn next_partition(&mut self) -> i32 {
        let turn = match self.settings.partitioner {
            Partitioner::Fixed => self.subtask.0 as usize,
            Partitioner::Sticky | Partitioner::ByKey => self.turn,
        };
        self.turn = self.turn.wrapping_add(1);
        self.partitions[turn % self.partitions.len()].index
    }

    /// Writes a batch; one that is too large for the topic in halves.
    async fn write_batch(&mut self, partition: i32, records: &[Record]) -> Result<(), SinkError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin().await?,
        };
        let mut left = vec![records];
        while let Some(batch) = left.pop() {
            let sequence = open.sequences.entry(partition).or_insert(0);
            let now = self.clock.now_ms();
            let records = encode(batch, open.identity, *sequence, now as i64, &self.settings)
                .map_err(|error| SinkError::Data { message: format!("failed to encode a batch: {error}") })?;
            if open.rows == 0 {
                open.first_write_ms = now;
            }
            if self.produce(&open.id, partition, records, batch.len()).await? {
                // As brokers count: after the largest number comes 0.
                *sequence = sequence.wrapping_add(batch.len() as i32) & i32::MAX;
                open.rows += batch.len() as u64;
            } else {
                let (first, second) = batch.split_at(batch.len() / 2);
                left.extend([second, first]);
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// Sends a batch until it is acknowledged; brokers know it by its sequence and keep it once. False if it is too large and
    /// can be divided.
    async fn produce(
        &mut self,
        id: &str,
        partition: i32,
        records: Bytes,
        count: usize,
    ) -> Result<bool, SinkError> {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
        let topic =
            TopicProduceData::default().with_name(name(&self.settings.topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(self.settings.is_exactly_once.then(|| transactional(id)))
            .with_acks(ALL_REPLICAS)
            .with_timeout_ms(REPLICAS_WAIT_MS)
            .with_topic_data(vec![topic]);
        let mut retry = Retry::new(self.clock);
        loop {
            let found = self.partitions.iter().find(|found| found.index == partition);
            let leader = found.and_then(|found| found.leader.clone());
            let sent = match &leader {
                Some(leader) => self.send(leader, &request, partition).await,
                None => checked(LEADER_NOT_AVAILABLE, &format!("lead partition {partition}"), "no broker"),
            };
            let Err(error) = sent else { return Ok(true) };
            if error.code() == Some(MESSAGE_TOO_LARGE) {
                if count > 1 {
                    return Ok(false);
                }
                let message = format!(
                    "a row is larger than the topic '{}' allows; raise its max.message.bytes: {error}",
                    self.settings.topic
                );
                return Err(SinkError::Data { message });
            }
            // Fenced or aborted: this generation cannot go on with its rows, a new one writes them again.
            if !error.is_passing() {
                let action = format!("write to the topic '{}'", self.settings.topic);
                return Err(SinkError::Io { action, source: error.into_io() });
            }
            retry.wait(error, &self.settings.topic).await?;
            if let Ok(partitions) = self.client.partitions(&self.settings.topic).await {
                self.partitions = partitions;
                self.partitions.sort_by_key(|partition| partition.index);
            }
        }
    }

    async fn send(
        &mut self,
        leader: &str,
        request: &ProduceRequest,
        partition: i32,
    ) -> Result<(), KafkaError> {
        let answer = self.client.call(leader, request, PRODUCE_VERSION).await?;
        let found = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let code = found.map_or(-1, |found| found.error_code);
        checked(code, &format!("write to partition {partition} of '{}'", self.settings.topic), leader)
    }

    async fn find_partitions(&mut self) -> Result<Vec<Partition>, SinkError> {
        let mut retry = Retry::new(self.clock);
        loop {
            match self.client.partitions(&self.settings.topic).await {
                Ok(partitions) => return Ok(partitions),
                Err(error) => retry.wait(error, &self.settings.topic).await?,
            }
        }
    }

    /// Begins a transaction: the broker learns of it with the first batch.
    async fn begin(&mut self) -> Result<Open, SinkError> {
        if !self.settings.is_exactly_once {
            return self.begin_without_transaction().await;
        }
        let completed = *self.completed.borrow_and_update();
        self.slots.completed(completed);
        let taken = self.slots.take();
        let id = transactional_id(&self.settings.prefix, self.generation, self.subtask, taken.slot);
        let identity = match taken.identity {
            Some(identity) => identity,
            None => self.initialise(&id).await?,
        };
        Ok(Open { slot: taken.slot, id, identity, first_write_ms: 0, rows: 0, sequences: HashMap::new() })
    }

    /// Begins to write rows that readers see at once. Brokers know each batch by its sequence all the same, so that one whose
    /// acknowledgement was lost is not written twice.
    async fn begin_without_transaction(&mut self) -> Result<Open, SinkError> {
        let mut retry = Retry::new(self.clock);
        loop {
            match identity(&mut self.client).await {
                Ok(identity) => {
                    let (id, sequences) = (String::new(), HashMap::new());
                    return Ok(Open { slot: 0, id, identity, first_write_ms: 0, rows: 0, sequences });
                }
                Err(error) => retry.wait(error, &self.settings.topic).await?,
            }
        }
    }

    /// What the broker of an id says of the longest time-out, as part of a message.
    async fn longest_transaction(&mut self, id: &str) -> String {
        let setting = async {
            let broker = self.client.coordinator(id).await?;
            self.client.broker_setting(&broker, "transaction.max.timeout.ms").await
        };
        setting.await.ok().flatten().map(|most| format!(" = {most}")).unwrap_or_default()
    }

    async fn initialise(&mut self, id: &str) -> Result<Identity, SinkError> {
        let mut retry = Retry::new(self.clock);
        loop {
            match initialise(&mut self.client, id, self.settings.transaction_timeout_ms).await {
                Ok(identity) => {
                    info!(
                        id,
                        producer = identity.producer_id,
                        epoch = identity.epoch,
                        "a transactional id is ready"
                    );
                    return Ok(identity);
                }
                Err(error) if error.code() == Some(INVALID_TRANSACTION_TIMEOUT) => {
                    let most = self.longest_transaction(id).await;
                    let message = format!(
                        "'properties.transaction.timeout.ms' = {} is above the brokers' transaction.max.timeout.ms{most}; lower \
                         the one or raise the other",
                        self.settings.transaction_timeout_ms
                    );
                    return Err(SinkError::Data { message });
                }
                Err(error) => retry.wait(error, &self.settings.topic).await?,
            }
        }
    }
}

/// Makes this client the only one that may write with an id; an open transaction of it is aborted.
pub async fn initialise(client: &mut Client, id: &str, timeout_ms: u32) -> Result<Identity, KafkaError> {
    let coordinator = client.coordinator(id).await?;
    let mut connection = client.take(&coordinator).await?;
    if connection.transaction_level() < TRANSACTION_LEVEL
        || connection.version_of::<ProduceRequest>(PRODUCE_VERSION) < PRODUCE_VERSION
        || connection.version_of::<EndTxnRequest>(END_VERSION) < END_VERSION
    {
        let message = format!(
            "writing exactly once needs Kafka 4.0 or newer with the feature transaction.version at {TRANSACTION_LEVEL}, and it \
             is at {}; upgrade it with kafka-features.sh",
            connection.transaction_level()
        );
        return Err(KafkaError::Unsupported { address: coordinator, message });
    }
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional(id)))
        .with_transaction_timeout_ms(timeout_ms as i32)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let answer = connection.call(&request, INIT_VERSION).await?;
    client.put(connection);
    checked(answer.error_code, &format!("initialise the transactional id '{id}'"), &coordinator)?;
    Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
}

/// An identity for rows outside of transactions.
async fn identity(client: &mut Client) -> Result<Identity, KafkaError> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let (address, answer) = client.call_any(&request, INIT_VERSION).await?;
    checked(answer.error_code, "give out a producer id", &address)?;
    Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
}

/// A transactional id in requests.
pub fn transactional(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

fn encode(
    written: &[Record],
    identity: Identity,
    sequence: i32,
    time_ms: i64,
    settings: &Settings,
) -> Result<Bytes, String> {
    let record = |(index, Record { key, value, about }): (usize, &Record)| records::Record {
        transactional: settings.is_exactly_once,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: identity.producer_id,
        producer_epoch: identity.epoch,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        sequence: sequence.wrapping_add(index as i32),
        timestamp: about.timestamp.unwrap_or(time_ms),
        key: key.clone(),
        value: value.clone(),
        headers: about.headers.iter().cloned().collect::<IndexMap<_, _>>(),
    };
    let records: Vec<records::Record> = written.iter().enumerate().map(record).collect();
    let options = RecordEncodeOptions { version: 2, compression: settings.compression };
    let mut bytes = BytesMut::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &options).map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// Waits longer and longer between tries, and gives up in the end.
pub struct Retry {
    clock: Clock,
    since: Duration,
    delay: Duration,
}

impl Retry {
    pub fn new(clock: Clock) -> Self {
        Retry { clock, since: clock.elapsed(), delay: RETRY }
    }

    /// Waits after an error that may pass.
    ///
    /// # Errors
    /// The error itself, if it does not pass.
    pub async fn wait(&mut self, error: KafkaError, topic: &str) -> Result<(), SinkError> {
        if !error.is_passing() || self.clock.elapsed().saturating_sub(self.since) > PATIENCE {
            return Err(failed(error, topic));
        }
        if self.delay >= RETRY_MAX {
            warn!(topic, error = %chain(&error), "writing is delayed");
        }
        self.clock.sleep(self.delay).await;
        self.delay = (self.delay * 2).min(RETRY_MAX);
        Ok(())
    }
}
