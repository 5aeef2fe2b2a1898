//! Reads the partitions of one subtask from their leaders: one request a leader under way, for all its partitions that have room.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tracing::warn;

use super::records::Aborted;
use super::{Settings, failed};
use crate::clock::Clock;
use crate::error::chain;
use crate::kafka::{
    Client, Connection, KafkaError, LEADER_NOT_AVAILABLE, OFFSET_OUT_OF_RANGE, checked, name,
};
use crate::source::SourceError;

/// Newest version that names topics instead of giving their ids.
const FETCH_VERSION: i16 = 12;
/// How long a broker holds an answer back while there is nothing to read.
const WAIT_MS: i32 = 500;
/// Bytes asked for at a time: of one partition, and of one broker.
const PARTITION_BYTES: i32 = 1 << 20;
const ANSWER_BYTES: i32 = 16 << 20;
/// A partition with this much in its queue is not asked for.
const QUEUED_BYTES_MAX: usize = 2 << 20;
/// Between tries after an error.
const RETRY: Duration = Duration::from_millis(200);
/// The job is told of errors that last longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records of one partition.
pub struct Fetched {
    pub records: Bytes,
    pub aborted: Vec<Aborted>,
}

type Queue = mpsc::UnboundedSender<Result<Fetched, SourceError>>;

/// Reads partitions until dropped.
pub struct Fetcher {
    shared: Arc<Shared>,
    running: AbortHandle,
}

#[derive(Default)]
struct Shared {
    partitions: Mutex<BTreeMap<i32, Wanted>>,
    changed: Notify,
}

struct Wanted {
    next: i64,
    queue: Queue,
    queued: Arc<AtomicUsize>,
    stable: Arc<AtomicI64>,
}

impl Fetcher {
    pub fn start(settings: &Settings, clock: Clock) -> Self {
        let shared = Arc::<Shared>::default();
        let fetching = Fetching {
            settings: settings.clone(),
            clock,
            client: Client::new(settings.bootstrap.clone(), clock),
            shared: Arc::clone(&shared),
            leaders: HashMap::new(),
            busy: HashSet::new(),
            partitions_busy: HashSet::new(),
            failing_since: None,
        };
        Fetcher { shared, running: tokio::spawn(fetching.run()).abort_handle() }
    }

    /// Reads a partition from an offset on.
    pub fn add(
        &self,
        partition: i32,
        next: i64,
        queued: Arc<AtomicUsize>,
        stable: Arc<AtomicI64>,
    ) -> mpsc::UnboundedReceiver<Result<Fetched, SourceError>> {
        let (queue, receiver) = mpsc::unbounded_channel();
        self.shared.partitions.lock().insert(partition, Wanted { next, queue, queued, stable });
        self.shared.changed.notify_one();
        receiver
    }

    /// A reader has taken something from its queue.
    pub fn has_room(&self) {
        self.shared.changed.notify_one();
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.running.abort();
    }
}

type Answer = (String, Vec<i32>, Result<(Connection, FetchResponse), KafkaError>);

struct Fetching {
    settings: Settings,
    clock: Clock,
    client: Client,
    shared: Arc<Shared>,
    leaders: HashMap<i32, String>,
    /// Leaders that are asked at the moment.
    busy: HashSet<String>,
    /// Their partitions: none is asked for twice at a time, not even while it moves to another leader.
    partitions_busy: HashSet<i32>,
    /// When the first of a row of errors happened.
    failing_since: Option<Duration>,
}

impl Fetching {
    async fn run(mut self) {
        let mut asked: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        loop {
            if let Err(error) = self.ask(&mut asked).await {
                self.failed(error).await;
                // Nothing else would wake this up if no leader is asked.
                continue;
            }
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                Some((leader, partitions, answer)) = asked.next() => {
                    self.busy.remove(&leader);
                    self.partitions_busy.retain(|partition| !partitions.contains(partition));
                    let taken = match answer {
                        Ok((connection, answer)) => {
                            self.client.put(connection);
                            self.take(&leader, answer)
                        }
                        Err(error) => Err(error),
                    };
                    match taken {
                        Ok(()) => self.failing_since = None,
                        Err(error) => self.failed(error).await,
                    }
                }
                () = shared.changed.notified() => {}
            }
        }
    }

    /// Asks every leader that is not asked already for its partitions with room.
    async fn ask(
        &mut self,
        asked: &mut FuturesUnordered<BoxFuture<'static, Answer>>,
    ) -> Result<(), KafkaError> {
        let wanted: Vec<(i32, i64)> = {
            let partitions = self.shared.partitions.lock();
            let wanted = partitions.iter().filter(|(_, wanted)| {
                wanted.queued.load(Ordering::Relaxed) < QUEUED_BYTES_MAX && !wanted.queue.is_closed()
            });
            let wanted = wanted.filter(|(partition, _)| !self.partitions_busy.contains(partition));
            wanted.map(|(partition, wanted)| (*partition, wanted.next)).collect()
        };
        if wanted.iter().any(|(partition, _)| !self.leaders.contains_key(partition)) {
            let partitions = self.client.partitions(&self.settings.topic).await?;
            let leaders = partitions.into_iter().filter_map(|found| Some((found.index, found.leader?)));
            self.leaders = leaders.collect();
        }
        let mut leaderless = None;
        let mut by_leader: BTreeMap<&String, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, next) in wanted {
            let Some(leader) = self.leaders.get(&partition) else {
                leaderless = Some(partition);
                continue;
            };
            if self.busy.contains(leader) {
                continue;
            }
            let fetch = FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_fetch_offset(next)
                .with_partition_max_bytes(PARTITION_BYTES);
            by_leader.entry(leader).or_default().push(fetch);
        }
        for (leader, partitions) in by_leader {
            let indexes: Vec<i32> = partitions.iter().map(|fetch| fetch.partition).collect();
            let topic =
                FetchTopic::default().with_topic(name(&self.settings.topic)).with_partitions(partitions);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(WAIT_MS)
                .with_min_bytes(1)
                .with_max_bytes(ANSWER_BYTES)
                .with_isolation_level(i8::from(self.settings.is_committed_only))
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let mut connection = self.client.take(leader).await?;
            let leader = leader.clone();
            self.busy.insert(leader.clone());
            self.partitions_busy.extend(&indexes);
            asked.push(Box::pin(async move {
                let answer = connection.call(&request, FETCH_VERSION).await;
                (leader, indexes, answer.map(|answer| (connection, answer)))
            }));
        }
        match leaderless {
            Some(partition) => checked(
                LEADER_NOT_AVAILABLE,
                &format!("read partition {partition} of '{}'", self.settings.topic),
                "the cluster",
            ),
            None => Ok(()),
        }
    }

    /// Puts what a leader has answered into the queues.
    fn take(&mut self, leader: &str, answer: FetchResponse) -> Result<(), KafkaError> {
        checked(answer.error_code, "read", leader)?;
        let mut failure = Ok(());
        for found in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let mut partitions = self.shared.partitions.lock();
            let Some(wanted) = partitions.get_mut(&found.partition_index) else { continue };
            if found.error_code == OFFSET_OUT_OF_RANGE {
                let message = format!(
                    "offset {} of partition {} of the topic '{}' is not there: the broker has {} to {}; records that were not \
                     read yet have been deleted, or the topic was made anew; start over, or give the table another start",
                    wanted.next,
                    found.partition_index,
                    self.settings.topic,
                    found.log_start_offset,
                    found.high_watermark
                );
                // A reader that is gone does not need to know.
                let _ = wanted.queue.send(Err(SourceError::Data { message }));
                partitions.remove(&found.partition_index);
                continue;
            }
            let action = format!("read partition {} of '{}'", found.partition_index, self.settings.topic);
            if let Err(error) = checked(found.error_code, &action, leader) {
                failure = Err(error);
                continue;
            }
            let records = found.records.unwrap_or_default();
            let stable = match self.settings.is_committed_only {
                true => found.last_stable_offset,
                false => found.high_watermark,
            };
            if let Some(next) = end_of(&records) {
                wanted.next = next;
                wanted.queued.fetch_add(records.len(), Ordering::Relaxed);
                let aborted = found.aborted_transactions.unwrap_or_default().into_iter();
                let aborted = aborted.map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
                let _ = wanted.queue.send(Ok(Fetched { records, aborted }));
            }
            wanted.stable.store(stable, Ordering::Relaxed);
        }
        failure
    }

    /// Waits and looks for leaders anew; errors that last are the job's.
    async fn failed(&mut self, error: KafkaError) {
        self.leaders.clear();
        // Whether there is more to read is not known any more: no partition may become idle because of an outage.
        for wanted in self.shared.partitions.lock().values() {
            wanted.stable.store(-1, Ordering::Relaxed);
        }
        let now = self.clock.elapsed();
        let failing = now.saturating_sub(*self.failing_since.get_or_insert(now));
        if !error.is_passing() || failing > PATIENCE {
            let (topic, text) = (&self.settings.topic, chain(&error));
            let partitions = std::mem::take(&mut *self.shared.partitions.lock());
            let mut error = Some(failed(error, topic));
            for wanted in partitions.into_values() {
                let told = error.take().unwrap_or_else(|| SourceError::Data { message: text.clone() });
                let _ = wanted.queue.send(Err(told));
            }
            return;
        }
        warn!(topic = self.settings.topic, error = %chain(&error), "reading is delayed");
        self.clock.sleep(RETRY).await;
    }
}

/// Offset after the last whole batch; `None` if there is none.
fn end_of(mut records: &[u8]) -> Option<i64> {
    let mut end = None;
    while records.len() > 27 {
        let first = (&records[..8]).get_i64();
        let length = 12 + (&records[8..12]).get_i32().max(0) as usize;
        if records.len() < length {
            break;
        }
        end = Some(first + i64::from((&records[23..27]).get_i32()) + 1);
        records = &records[length..];
    }
    end
}
