//! Ends transactions: commits those that a complete checkpoint names, aborts what dead generations have left open.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, EndTxnRequest, ListTransactionsRequest, ProducerId,
};
use kafka_protocol::protocol::StrBytes;
use prost::Message;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::producer::{Retry, initialise, transactional};
use super::{Settings, Transaction};
use crate::clock::Clock;
use crate::error::chain;
use crate::kafka::{Client, INVALID_TXN_STATE, KafkaError, checked};
use crate::model::Generation;
use crate::sink::{Committable, SinkCommitter, SinkError};

/// The version whose answer can be filtered by the broker.
const LIST_VERSION: i16 = 2;
const DESCRIBE_VERSION: i16 = 0;

/// A worker that was cut off may have begun a transaction after leftovers were removed, and it holds back readers: they are
/// looked for again after the first commits, by when it has noticed that it is alone.
const SWEEPS: u32 = 3;

/// Ends the transactions of one sink.
pub struct Committer {
    settings: Arc<Settings>,
    clock: Clock,
    state: Mutex<State>,
    sweeps_left: AtomicU32,
}

struct State {
    client: Client,
    generation: Generation,
}

impl Committer {
    pub fn new(settings: Arc<Settings>, clock: Clock) -> Self {
        let client = Client::new(settings.bootstrap.clone(), clock);
        let state = Mutex::new(State { client, generation: Generation(0) });
        Committer { settings, clock, state, sweeps_left: AtomicU32::new(SWEEPS) }
    }

    async fn commit_one(&self, client: &mut Client, transaction: &Transaction) -> Result<(), SinkError> {
        let mut retry = Retry::new(self.clock);
        loop {
            match end(client, transaction).await {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Some(INVALID_TXN_STATE) => {
                    return Err(self.lost(client, transaction, &error).await);
                }
                Err(error) if error.is_passing() => retry.wait(error, &transaction.topic).await?,
                Err(error) => {
                    let message = format!(
                        "SinkTransactionLost: whether the {} rows of epoch {} for the topic '{}' were committed cannot be told: the \
                         transaction '{}' was superseded or has expired ({error}); compare the topic with the job's input, then \
                         start over, or from another checkpoint",
                        transaction.rows, transaction.epoch, transaction.topic, transaction.id
                    );
                    return Err(SinkError::Lost { message });
                }
            }
        }
    }

    /// Says what is lost, in full.
    async fn lost(&self, client: &mut Client, transaction: &Transaction, error: &KafkaError) -> SinkError {
        let state = match describe(client, &transaction.id).await {
            Ok(state) => state,
            Err(error) => format!("unknown: {}", chain(&error)),
        };
        let first_write = chrono::DateTime::from_timestamp_millis(transaction.first_write_ms as i64);
        let message = format!(
            "SinkTransactionLost: {} rows of epoch {} for the topic '{}' are lost: the broker has ended the transaction '{}' \
             (producer {}, epoch {}, first write {}, time-out {} ms, state {state}) before it was committed ({error}); the job was \
             down for longer than the time-out. Write these rows by other means, or start over; then keep \
             'properties.transaction.timeout.ms' above the longest outage",
            transaction.rows,
            transaction.epoch,
            transaction.topic,
            transaction.id,
            transaction.producer_id,
            transaction.producer_epoch,
            first_write.unwrap_or_default().format("%Y-%m-%d %H:%M:%S UTC"),
            transaction.timeout_ms,
        );
        SinkError::Lost { message }
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
                    info!(id, "aborting a transaction that an earlier generation has left open");
                    initialise(client, &id, self.settings.transaction_timeout_ms).await?;
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
        for transaction in &transactions {
            self.commit_one(&mut state.client, transaction).await?;
        }
        if state.generation > Generation(0) && self.sweeps_left.load(Ordering::Relaxed) > 0 {
            self.sweeps_left.fetch_sub(1, Ordering::Relaxed);
            let generation = state.generation;
            if let Err(error) = self.sweep(&mut state.client, generation, &HashSet::new()).await {
                warn!(error = %chain(&error), "failed to look for transactions of earlier generations");
            }
        }
        Ok(())
    }

    async fn clean_up(&self, generation: Generation, named: &[Committable]) -> Result<(), SinkError> {
        let named = decode(named)?.into_iter().map(|transaction| transaction.id).collect();
        let mut state = self.state.lock().await;
        state.generation = generation;
        let mut retry = Retry::new(self.clock);
        while let Err(error) = self.sweep(&mut state.client, generation, &named).await {
            retry.wait(error, &self.settings.topic).await?;
        }
        Ok(())
    }
}

fn decode(committables: &[Committable]) -> Result<Vec<Transaction>, SinkError> {
    let decoded =
        committables.iter().map(|bytes| Transaction::decode(bytes.as_slice())).collect::<Result<_, _>>();
    decoded.map_err(|_| SinkError::Lost {
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
    let answer = client.call(&coordinator, &request, transaction.end_version as i16).await?;
    checked(answer.error_code, &format!("commit the transaction '{}'", transaction.id), &coordinator)
}

async fn describe(client: &mut Client, id: &str) -> Result<String, KafkaError> {
    let coordinator = client.coordinator(id).await?;
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
    let answer = client.call(&coordinator, &request, DESCRIBE_VERSION).await?;
    let state = answer.transaction_states.first();
    Ok(state.map_or_else(|| "unknown".to_owned(), |state| state.transaction_state.to_string()))
}

/// Ids with a prefix whose transactions are open, of those that a broker coordinates.
async fn open_ids(client: &mut Client, broker: &str, prefix: &str) -> Result<Vec<String>, KafkaError> {
    let request = ListTransactionsRequest::default()
        .with_state_filters(vec![StrBytes::from_static_str("Ongoing")])
        .with_duration_filter(-1)
        .with_transactional_id_pattern(Some(StrBytes::from_string(format!("{prefix}/.*"))));
    let answer = client.call(broker, &request, LIST_VERSION).await?;
    checked(answer.error_code, "list transactions", broker)?;
    Ok(answer.transaction_states.iter().map(|state| state.transactional_id.0.to_string()).collect())
}

/// The generation in an id `<prefix>/<generation>/<subtask>/<slot>`.
fn generation_of(id: &str, prefix: &str) -> Option<Generation> {
    id.strip_prefix(prefix)?.strip_prefix('/')?.split('/').next()?.parse().ok().map(Generation)
}

#[cfg(test)]
mod tests {
    use super::*;

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
