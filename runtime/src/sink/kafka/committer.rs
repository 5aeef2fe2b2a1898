//! Ends transactions: commits those that a complete checkpoint names, aborts what dead generations have left open.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, EndTxnRequest, ListTransactionsRequest, ProducerId,
};
use kafka_protocol::protocol::StrBytes;
use prost::Message;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::producer::{Retry, initialise, transactional};
use super::slots::SLOTS;
use super::{Settings, Transaction, failed, transactional_id};
use crate::clock::Clock;
use crate::error::chain;
use crate::fault::{CrashPoint, crash_at};
use crate::kafka::{
    CONCURRENT_TRANSACTIONS, Client, INVALID_PRODUCER_ID_MAPPING, INVALID_TXN_STATE, KafkaError,
    PRODUCER_FENCED, TRANSACTIONAL_ID_NOT_FOUND, checked,
};
use crate::model::{Generation, Led, Subtask};
use crate::outside::Outside;
use crate::sink::{Committable, SinkCommitter, SinkError};

/// The version whose answer can be filtered by the broker.
const LIST_VERSION: i16 = 2;
const DESCRIBE_VERSION: i16 = 0;

/// A worker that was cut off may begin a transaction after leftovers were removed, and it holds back readers: they are looked
/// for again, often until it must have noticed that it is alone, and then from time to time.
const SWEEP_EARLY: Duration = Duration::from_secs(30);
const SWEEP_OFTEN: Duration = Duration::from_secs(2);
const SWEEP_RARELY: Duration = Duration::from_secs(300);

/// Ends the transactions of one sink.
pub struct Committer {
    settings: Arc<Settings>,
    clock: Clock,
    state: Mutex<State>,
    made: Duration,
}

struct State {
    client: Client,
    generation: Generation,
    next_sweep: Duration,
    /// Something was committed by this value already.
    has_committed: bool,
}

impl Committer {
    pub fn new(settings: Arc<Settings>, outside: &Outside) -> Self {
        let clock = outside.clock;
        let client = settings.client(outside);
        let state = Mutex::new(State {
            client,
            generation: Generation(0),
            next_sweep: clock.elapsed() + SWEEP_OFTEN,
            has_committed: false,
        });
        Committer { settings, clock, state, made: clock.elapsed() }
    }

    /// Commits all that can be committed, whatever becomes of the others; they would only expire meanwhile.
    async fn commit_all(&self, client: &mut Client, mut left: Vec<Transaction>) -> Result<(), SinkError> {
        let mut retry = Retry::new(self.clock);
        let (mut lost, mut undecided) = (Vec::new(), Vec::new());
        loop {
            let (mut again, mut passing) = (Vec::new(), None);
            for transaction in left {
                match end(client, &transaction).await {
                    Ok(()) => crash_at(CrashPoint::TransactionCommitted),
                    Err(error) if error.code() == Some(INVALID_TXN_STATE) => {
                        match describe(client, &transaction.id).await {
                            Ok((state, _)) if state == ABORTED => {
                                lost.push(not_committed(&transaction, &error))
                            }
                            Ok((state, _)) => undecided.push(contradicted(&transaction, &state, &error)),
                            // Nothing is said before it is known.
                            Err(error) if error.is_passing() => {
                                again.push(transaction);
                                passing = Some(error);
                            }
                            Err(error) => return Err(failed(error, &transaction.topic)),
                        }
                    }
                    Err(error)
                        if matches!(error.code(), Some(PRODUCER_FENCED | INVALID_PRODUCER_ID_MAPPING)) =>
                    {
                        undecided.push(undecidable(&transaction, &error));
                    }
                    Err(error)
                        if error.code() == Some(CONCURRENT_TRANSACTIONS)
                            && is_decided(client, &transaction).await => {}
                    Err(error) if error.is_passing() => {
                        again.push(transaction);
                        passing = Some(error);
                    }
                    Err(error) => return Err(failed(error, &transaction.topic)),
                }
            }
            let Some(error) = passing else { break };
            left = again;
            retry.wait(error, &self.settings.topic).await?;
        }
        let kind = match (lost.is_empty(), undecided.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => "SinkTransactionUndecided",
            (false, _) => "SinkTransactionLost",
        };
        lost.append(&mut undecided);
        Err(SinkError::Lost { kind, message: lost.join("; ") })
    }

    /// Aborts those of these transactions that are open.
    async fn abort_open(&self, client: &mut Client, ids: &[String]) -> Result<(), KafkaError> {
        for (coordinator, ids) in client.coordinators(ids).await? {
            for id in open_among(client, &coordinator, &ids).await? {
                self.abort(client, &id).await?;
            }
        }
        Ok(())
    }

    async fn abort(&self, client: &mut Client, id: &str) -> Result<(), KafkaError> {
        info!(id, "aborting a transaction that an earlier generation has left open");
        initialise(client, id, self.settings.transaction_timeout_ms).await.map(|_| ())
    }

    /// Aborts open transactions of generations before this one that no checkpoint names.
    async fn sweep(
        &self,
        client: &mut Client,
        generation: Generation,
        named: &HashSet<String>,
    ) -> Result<(), KafkaError> {
        for broker in client.brokers().await? {
            for id in open_ids(client, &broker, &self.settings.prefix).await? {
                let is_older = generation_of(&id, &self.settings.prefix).is_some_and(|of| of < generation);
                if is_older && !named.contains(&id) {
                    self.abort(client, &id).await?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SinkCommitter for Committer {
    async fn commit(&self, committables: &[Committable]) -> Result<(), SinkError> {
        let transactions = decode(committables)?;
        let mut state = self.state.lock().await;
        // The first ones may be of the generation before, which did not come to commit them.
        let is_first = !std::mem::replace(&mut state.has_committed, true);
        for transaction in &transactions {
            let timeout = u64::from(transaction.timeout_ms);
            let left_ms = (transaction.first_write_ms + timeout).saturating_sub(self.clock.now_ms());
            if is_first {
                info!(id = transaction.id, left_ms, "committing what a checkpoint has prepared");
            }
            if left_ms < timeout / 2 {
                warn!(
                    id = transaction.id,
                    left_ms, "a transaction is committed late; the broker would soon have ended it"
                );
            }
        }
        self.commit_all(&mut state.client, transactions).await?;
        let now = self.clock.elapsed();
        if state.generation > Generation(0) && now >= state.next_sweep {
            let early = now.saturating_sub(self.made) < SWEEP_EARLY;
            state.next_sweep = now + if early { SWEEP_OFTEN } else { SWEEP_RARELY };
            let generation = state.generation;
            // Of this generation's own ids none is older, and those that the checkpoint names are committed.
            if let Err(error) = self.sweep(&mut state.client, generation, &HashSet::new()).await {
                warn!(error = %chain(&error), "failed to look for transactions of earlier generations");
            }
        }
        Ok(())
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_millis(u64::from(self.settings.transaction_timeout_ms)))
    }

    async fn check(&self, committables: &[Committable]) -> Result<(), SinkError> {
        let now = self.clock.now_ms();
        for transaction in decode(committables)? {
            let timeout = u64::from(transaction.timeout_ms);
            if now > transaction.first_write_ms + timeout - timeout / 10 {
                let message = format!(
                    "the transaction of epoch {} is about to be ended by the broker, {timeout} ms after its first row, before a \
                     checkpoint was complete; its rows are written again. If this goes on, raise \
                     'properties.transaction.timeout.ms' or lower spec.checkpoint.interval",
                    transaction.epoch
                );
                let action = format!("commit to the topic '{}' in time", transaction.topic);
                return Err(SinkError::Io { action, source: std::io::Error::other(message) });
            }
        }
        Ok(())
    }

    async fn clean_up(
        &self,
        generation: Generation,
        earlier: &[Led],
        named: &[Committable],
    ) -> Result<(), SinkError> {
        let named = decode(named)?.into_iter().map(|transaction| transaction.id).collect();
        let ids = ids_of(&self.settings.prefix, earlier, &named);
        let mut state = self.state.lock().await;
        state.generation = generation;
        let mut retry = Retry::new(self.clock);
        loop {
            // Each id is asked for where it is coordinated, wherever that moves to; lists find those that cannot be computed.
            let ended = match self.abort_open(&mut state.client, &ids).await {
                Ok(()) => self.sweep(&mut state.client, generation, &named).await,
                failed => failed,
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) => retry.wait(error, &self.settings.topic).await?,
            }
        }
    }
}

fn decode(committables: &[Committable]) -> Result<Vec<Transaction>, SinkError> {
    let decoded =
        committables.iter().map(|bytes| Transaction::decode(bytes.as_slice())).collect::<Result<_, _>>();
    decoded.map_err(|_| SinkError::Lost {
        kind: "SinkTransactionLost",
        message: "a checkpoint names a transaction in an unknown form".to_owned(),
    })
}

/// Commits with the identity that the rows were written with. A coordinator that has moved is found anew by every try.
async fn end(client: &mut Client, transaction: &Transaction) -> Result<(), KafkaError> {
    let coordinator = client.coordinator(&transaction.id).await?;
    let request = EndTxnRequest::default()
        .with_transactional_id(transactional(&transaction.id))
        .with_producer_id(ProducerId(transaction.producer_id))
        .with_producer_epoch(transaction.producer_epoch as i16)
        .with_committed(true);
    let mut connection = client.take(&coordinator).await?;
    let version = transaction.end_version as i16;
    if connection.version_of::<EndTxnRequest>(version) != version {
        // Ended in another version, a transaction that was committed before would look lost.
        let message = format!("the broker does not end transactions in version {version} any more");
        return Err(KafkaError::Unsupported { address: coordinator, message });
    }
    let answer = connection.call(&request, version).await?;
    client.put(connection);
    checked(answer.error_code, &format!("commit the transaction '{}'", transaction.id), &coordinator)
}

/// State and epoch of an id's last transaction.
async fn describe(client: &mut Client, id: &str) -> Result<(String, i16), KafkaError> {
    let coordinator = client.coordinator(id).await?;
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
    let answer = client.call(&coordinator, &request, DESCRIBE_VERSION).await?;
    let state = answer.transaction_states.first();
    Ok(state.map_or(("unknown".to_owned(), -1), |state| {
        (state.transaction_state.to_string(), state.producer_epoch)
    }))
}

/// True if a commit is decided and only its markers are not written yet, because a partition has no leader.
async fn is_decided(client: &mut Client, transaction: &Transaction) -> bool {
    let committed = ["PrepareCommit", "CompleteCommit"];
    describe(client, &transaction.id).await.is_ok_and(|(state, epoch)| {
        committed.contains(&state.as_str()) && i32::from(epoch) == transaction.producer_epoch + 1
    })
}

/// What the broker says of a transaction that it has thrown away.
const ABORTED: &str = "CompleteAbort";

/// What is lost, in full.
fn not_committed(transaction: &Transaction, error: &KafkaError) -> String {
    let Transaction { rows, epoch, topic, id, .. } = transaction;
    let first_write = chrono::DateTime::from_timestamp_millis(transaction.first_write_ms as i64);
    format!(
        "{rows} rows of epoch {epoch} for the topic '{topic}' are lost: the broker has ended the transaction '{id}' \
         (producer {}, epoch {}, first write {}, time-out {} ms, state {ABORTED}) before it was committed ({error}); the job was \
         down for longer than the time-out. Write these rows by other means, or do without them, and let the job go on with \
         spec.checkpoint.acceptLostResultsOf: {epoch}; or start over. Then keep 'properties.transaction.timeout.ms' above the longest \
         outage",
        transaction.producer_id,
        transaction.producer_epoch,
        first_write.unwrap_or_default().format("%Y-%m-%d %H:%M:%S UTC"),
        transaction.timeout_ms,
    )
}

/// A state that a transaction cannot have which was not committed, by the rules of this sink.
fn contradicted(transaction: &Transaction, state: &str, error: &KafkaError) -> String {
    let Transaction { rows, epoch, topic, id, .. } = transaction;
    format!(
        "whether the {rows} rows of epoch {epoch} for the topic '{topic}' were committed cannot be told: the broker has no open \
         transaction '{id}' (state {state}; {error}), which cannot be by this sink's own rules; please report it with the log, \
         and compare the topic with the job's input before starting over, or going on with \
         spec.checkpoint.acceptLostResultsOf: {epoch}"
    )
}

fn undecidable(transaction: &Transaction, error: &KafkaError) -> String {
    format!(
        "whether the {} rows of epoch {} for the topic '{}' were committed cannot be told: the transaction \
         '{}' was superseded or has expired ({error}); compare the topic with the job's input, write what is missing by other means, and \
         let the job go on with spec.checkpoint.acceptLostResultsOf: {}; or start over, or from another checkpoint",
        transaction.rows, transaction.epoch, transaction.topic, transaction.id, transaction.epoch
    )
}

/// Ids with a prefix whose transactions are open, of those that a broker coordinates.
async fn open_ids(client: &mut Client, broker: &str, prefix: &str) -> Result<Vec<String>, KafkaError> {
    let mut connection = client.take(broker).await?;
    let mut request = ListTransactionsRequest::default()
        .with_state_filters(vec![StrBytes::from_static_str("Ongoing")])
        .with_duration_filter(-1);
    let prefix = format!("{prefix}/");
    if connection.version_of::<ListTransactionsRequest>(LIST_VERSION) >= LIST_VERSION {
        request = request.with_transactional_id_pattern(Some(StrBytes::from_string(format!("{prefix}.*"))));
    }
    let answer = connection.call(&request, LIST_VERSION).await?;
    client.put(connection);
    checked(answer.error_code, "list transactions", broker)?;
    let ids = answer.transaction_states.iter().map(|state| state.transactional_id.0.to_string());
    Ok(ids.filter(|id| id.starts_with(&prefix)).collect())
}

/// All ids that writers of these generations use while checkpoints succeed, but those that a checkpoint names: it commits them.
fn ids_of(prefix: &str, earlier: &[Led], named: &HashSet<String>) -> Vec<String> {
    let writers =
        earlier.iter().flat_map(|led| (0..led.parallelism).map(|subtask| (led.generation, subtask)));
    let ids = writers.flat_map(|(generation, subtask)| {
        (0..SLOTS).map(move |slot| transactional_id(prefix, generation, Subtask(subtask), slot))
    });
    ids.filter(|id| !named.contains(id)).collect()
}

/// Those of some ids whose transactions are open. A broker makes none of those that it does not know.
async fn open_among(
    client: &mut Client,
    coordinator: &str,
    ids: &[String],
) -> Result<Vec<String>, KafkaError> {
    let asked = ids.iter().map(|id| transactional(id)).collect();
    let request = DescribeTransactionsRequest::default().with_transactional_ids(asked);
    let answer = client.call(coordinator, &request, DESCRIBE_VERSION).await?;
    let mut open = Vec::new();
    for state in answer.transaction_states {
        let id = state.transactional_id.0.to_string();
        if state.error_code == TRANSACTIONAL_ID_NOT_FOUND {
            continue;
        }
        checked(state.error_code, &format!("describe the transaction '{id}'"), coordinator)?;
        if state.transaction_state.as_str() == "Ongoing" {
            open.push(id);
        }
    }
    Ok(open)
}

/// The generation in an id `<prefix>/<generation>/<subtask>/<slot>`.
fn generation_of(id: &str, prefix: &str) -> Option<Generation> {
    id.strip_prefix(prefix)?.strip_prefix('/')?.split('/').next()?.parse().ok().map(Generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_broker_has_aborted_is_called_lost() {
        let transaction = Transaction { id: "t-1".to_owned(), rows: 7, ..Transaction::default() };
        let error = checked(INVALID_TXN_STATE, "commit", "b:9092").unwrap_err();

        let lost = not_committed(&transaction, &error);
        assert!(
            lost.contains("7 rows of epoch 0 for the topic '' are lost") && lost.contains("CompleteAbort")
        );
        for state in ["CompleteCommit", "Empty"] {
            let said = contradicted(&transaction, state, &error);
            assert!(said.contains("were committed cannot be told") && said.contains(state), "{said}");
            assert!(said.contains("please report it") && !said.contains("lost"), "{said}");
        }
    }

    #[test]
    fn ids_of_earlier_writers_are_computed_but_those_that_are_named() {
        let led = |generation, parallelism| Led { generation: Generation(generation), parallelism };
        let id =
            |generation, subtask, slot| transactional_id("p", Generation(generation), Subtask(subtask), slot);
        let named = HashSet::from([id(4, 0, 1)]);

        // What an earlier release has claimed does not say its parallelism.
        let ids = ids_of("p", &[led(3, 0), led(4, 1), led(5, 2)], &named);

        let mut expected: Vec<String> = [0, 2, 3].map(|slot| id(4, 0, slot)).into();
        expected.extend((0..2).flat_map(|subtask| (0..4).map(move |slot| id(5, subtask, slot))));
        assert_eq!(ids, expected);
        assert_eq!(generation_of(&ids[0], "p"), Some(Generation(4)));
    }

    #[test]
    fn the_generation_is_read_from_an_id() {
        let cases = [
            ("millrace/u/ab/00000000000000000007/2/0", Some(Generation(7))),
            ("millrace/u/ab/7/2/0", Some(Generation(7))),
            ("millrace/u/abc/7/2/0", None),
            ("millrace/u/ab/x/2/0", None),
        ];
        for (id, expected) in cases {
            assert_eq!(generation_of(id, "millrace/u/ab"), expected, "{id}");
        }
    }
}
