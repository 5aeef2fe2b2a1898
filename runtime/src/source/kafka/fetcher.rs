//! Reads the partitions of one subtask from their leaders: one request a leader under way, for all its partitions that have room.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::records::Aborted;
use super::{Settings, failed, offsets};
use crate::clock::Clock;
use crate::error::chain;
use crate::kafka::{
    Client, Connection, KafkaError, LEADER_NOT_AVAILABLE, OFFSET_OUT_OF_RANGE, checked, name,
};
use crate::outside::Outside;
use crate::source::SourceError;

/// Newest version that names topics instead of giving their ids.
const FETCH_VERSION: i16 = 12;
/// How long a broker holds an answer back while there is nothing to read.
const WAIT_MS: i32 = 500;
/// How long what a broker has said of a partition's end counts.
const FRESH_MS: u64 = 3 * WAIT_MS as u64;
/// Bytes asked for at a time: of one partition, and of one broker.
const PARTITION_BYTES: i32 = 2 << 20;
const ANSWER_BYTES: i32 = 16 << 20;
/// A partition with this much in its queue is not asked for.
const QUEUED_BYTES_MAX: usize = 2 << 20;
/// Between tries after an error.
const RETRY: Duration = Duration::from_millis(200);
/// The job is told of errors that last longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between looks at the ends of partitions without room.
const LOOK: Duration = Duration::from_secs(5);

/// Records of one partition.
pub struct Fetched {
    pub records: Bytes,
    pub aborted: Vec<Aborted>,
}

/// A partition of a topic.
pub type Place = (Arc<str>, i32);

type Queue = mpsc::UnboundedSender<Result<Fetched, SourceError>>;

/// Reads partitions until dropped.
pub struct Fetcher {
    shared: Arc<Shared>,
    running: AbortHandle,
}

#[derive(Default)]
struct Shared {
    partitions: Mutex<BTreeMap<Place, Wanted>>,
    changed: Notify,
}

struct Wanted {
    next: i64,
    queue: Queue,
    queued: Arc<AtomicUsize>,
    end: Arc<KnownEnd>,
    /// When the first of a row of errors of this partition happened.
    failing_since: Option<Duration>,
}

/// Where a partition ends for a reader, as the broker has said last.
#[derive(Debug)]
pub struct KnownEnd {
    /// [`UNHEARD`] at first.
    offset: AtomicI64,
    /// When, in milliseconds of the clock.
    heard_ms: AtomicU64,
}

/// Beyond every offset.
const UNHEARD: i64 = i64::MAX;

impl Default for KnownEnd {
    fn default() -> Self {
        KnownEnd { offset: AtomicI64::new(UNHEARD), heard_ms: AtomicU64::new(0) }
    }
}

impl KnownEnd {
    fn hear(&self, offset: i64, clock: Clock) {
        self.offset.store(offset, Ordering::Relaxed);
        self.heard_ms.store(clock.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The end as it was heard last.
    pub fn heard(&self) -> Option<i64> {
        Some(self.offset.load(Ordering::Relaxed)).filter(|offset| *offset != UNHEARD)
    }

    /// True if there is nothing at or after this offset, and that was heard just now: during an outage nobody knows.
    pub fn is_reached(&self, next: i64, clock: Clock) -> bool {
        let age = (clock.elapsed().as_millis() as u64).saturating_sub(self.heard_ms.load(Ordering::Relaxed));
        next >= self.offset.load(Ordering::Relaxed) && age < FRESH_MS
    }
}

impl Fetcher {
    pub fn start(settings: &Settings, outside: &Outside) -> Self {
        let shared = Arc::<Shared>::default();
        let fetching = Fetching {
            settings: settings.clone(),
            clock: outside.clock,
            client: settings.client(outside),
            shared: Arc::clone(&shared),
            leaders: HashMap::new(),
            busy: HashSet::new(),
            partitions_busy: HashSet::new(),
            retry_at: Duration::ZERO,
            look_at: Duration::ZERO,
            turn: 0,
        };
        Fetcher { shared, running: tokio::spawn(fetching.run()).abort_handle() }
    }

    /// Reads a partition from an offset on.
    pub fn add(
        &self,
        place: Place,
        next: i64,
        queued: Arc<AtomicUsize>,
        end: Arc<KnownEnd>,
    ) -> mpsc::UnboundedReceiver<Result<Fetched, SourceError>> {
        let (queue, receiver) = mpsc::unbounded_channel();
        self.shared.partitions.lock().insert(place, Wanted { next, queue, queued, end, failing_since: None });
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

type Answer = (String, Vec<Place>, Result<(Connection, FetchResponse), KafkaError>);

struct Fetching {
    settings: Settings,
    clock: Clock,
    client: Client,
    shared: Arc<Shared>,
    leaders: HashMap<Place, String>,
    /// Leaders that are asked at the moment.
    busy: HashSet<String>,
    /// Their partitions: none is asked for twice at a time, not even while it moves to another leader.
    partitions_busy: HashSet<Place>,
    /// After an error nobody is asked before this time.
    retry_at: Duration,
    /// When the ends of partitions are asked for whose records are not.
    look_at: Duration,
    /// Grows with each request, so that no partition is always the last of a full answer.
    turn: usize,
}

impl Fetching {
    async fn run(mut self) {
        let mut asked: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        loop {
            let rest = self.retry_at.saturating_sub(self.clock.elapsed());
            if rest.is_zero()
                && let Err(error) = self.ask(&mut asked).await
            {
                self.failed(None, error);
            }
            let rest = self.retry_at.saturating_sub(self.clock.elapsed());
            let shared = Arc::clone(&self.shared);
            let look = self.look_at.saturating_sub(self.clock.elapsed());
            let full = self.full();
            tokio::select! {
                Some((leader, partitions, answer)) = asked.next() => {
                    self.busy.remove(&leader);
                    self.partitions_busy.retain(|partition| !partitions.contains(partition));
                    match answer {
                        Ok((connection, answer)) => {
                            self.client.put(connection);
                            self.take(&leader, answer);
                        }
                        Err(error) => self.failed(Some(&partitions), error),
                    }
                }
                () = shared.changed.notified() => {}
                () = self.clock.sleep(rest), if !rest.is_zero() => {}
                () = self.clock.sleep(look), if !full.is_empty() => self.look_at_ends(full).await,
            }
        }
    }

    /// Partitions without room.
    fn full(&self) -> Vec<Place> {
        let partitions = self.shared.partitions.lock();
        let full =
            partitions.iter().filter(|(_, wanted)| wanted.queued.load(Ordering::Relaxed) >= QUEUED_BYTES_MAX);
        full.map(|(place, _)| place.clone()).collect()
    }

    /// Whoever is slow wants to know how far behind it is.
    async fn look_at_ends(&mut self, full: Vec<Place>) {
        let topics: BTreeSet<&Arc<str>> = full.iter().map(|(topic, _)| topic).collect();
        for topic in topics {
            let ends = offsets::ends(&mut self.client, topic, self.settings.is_committed_only).await;
            let ends = match ends {
                Ok(ends) => ends,
                // The next fetch finds the same, and the job is told if it lasts.
                Err(error) => {
                    debug!(error = %chain(&error), "it is not known where partitions end");
                    continue;
                }
            };
            let partitions = self.shared.partitions.lock();
            for place in full.iter().filter(|(of, _)| of == topic) {
                if let Some((wanted, end)) = partitions.get(place).zip(ends.get(&place.1)) {
                    wanted.end.hear(*end, self.clock);
                }
            }
        }
        self.look_at = self.clock.elapsed() + LOOK;
    }

    /// Asks every leader that is not asked already for its partitions with room.
    async fn ask(
        &mut self,
        asked: &mut FuturesUnordered<BoxFuture<'static, Answer>>,
    ) -> Result<(), KafkaError> {
        let wanted: Vec<(Place, i64)> = {
            let partitions = self.shared.partitions.lock();
            let wanted = partitions.iter().filter(|(_, wanted)| {
                wanted.queued.load(Ordering::Relaxed) < QUEUED_BYTES_MAX && !wanted.queue.is_closed()
            });
            let wanted = wanted.filter(|(partition, _)| !self.partitions_busy.contains(partition));
            wanted.map(|(place, wanted)| (place.clone(), wanted.next)).collect()
        };
        let unknown = wanted.iter().filter(|(place, _)| !self.leaders.contains_key(place));
        let unknown: BTreeSet<Arc<str>> = unknown.map(|((topic, _), _)| Arc::clone(topic)).collect();
        for topic in unknown {
            let partitions = self.client.partitions(&topic).await?;
            let leaders = partitions
                .into_iter()
                .filter_map(|found| Some(((Arc::clone(&topic), found.index), found.leader?)));
            self.leaders.extend(leaders);
        }
        let mut leaderless = None;
        let mut by_leader: BTreeMap<&String, Vec<(Arc<str>, FetchPartition)>> = BTreeMap::new();
        for (place, next) in wanted {
            let Some(leader) = self.leaders.get(&place) else {
                leaderless = Some(place);
                continue;
            };
            if self.busy.contains(leader) {
                continue;
            }
            let (topic, partition) = place;
            let fetch = FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_fetch_offset(next)
                .with_partition_max_bytes(PARTITION_BYTES);
            by_leader.entry(leader).or_default().push((topic, fetch));
        }
        for (leader, partitions) in by_leader {
            let mut partitions = partitions;
            let first = self.turn % partitions.len();
            partitions.rotate_left(first);
            self.turn += 1;
            let places: Vec<Place> =
                partitions.iter().map(|(topic, fetch)| (Arc::clone(topic), fetch.partition)).collect();
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(WAIT_MS)
                .with_min_bytes(1)
                .with_max_bytes(ANSWER_BYTES)
                .with_isolation_level(i8::from(self.settings.is_committed_only))
                .with_session_epoch(-1)
                .with_topics(by_topic(partitions));
            let mut connection = self.client.take(leader).await?;
            let leader = leader.clone();
            self.busy.insert(leader.clone());
            self.partitions_busy.extend(places.iter().cloned());
            asked.push(Box::pin(async move {
                let answer = connection.call(&request, FETCH_VERSION).await;
                (leader, places, answer.map(|answer| (connection, answer)))
            }));
        }
        match leaderless {
            Some((topic, partition)) => checked(
                LEADER_NOT_AVAILABLE,
                &format!("read partition {partition} of '{topic}'"),
                "the cluster",
            ),
            None => Ok(()),
        }
    }

    /// Puts what a leader has answered into the queues.
    fn take(&mut self, leader: &str, answer: FetchResponse) {
        if let Err(error) = checked(answer.error_code, "read", leader) {
            return self.failed(None, error);
        }
        let found = answer.responses.into_iter().flat_map(|topic| {
            let name: Arc<str> = topic.topic.as_str().into();
            topic.partitions.into_iter().map(move |found| ((Arc::clone(&name), found.partition_index), found))
        });
        for (place, found) in found {
            let action = format!("read partition {} of '{}'", place.1, place.0);
            let error = match found.error_code {
                OFFSET_OUT_OF_RANGE => {
                    self.out_of_range(&place, &found);
                    continue;
                }
                code => checked(code, &action, leader),
            };
            if let Err(error) = error {
                self.failed(Some(&[place]), error);
                continue;
            }
            let mut partitions = self.shared.partitions.lock();
            let Some(wanted) = partitions.get_mut(&place) else { continue };
            let records = found.records.unwrap_or_default();
            if let Some(next) = end_of(&records) {
                wanted.next = next;
                wanted.queued.fetch_add(records.len(), Ordering::Relaxed);
                let aborted = found.aborted_transactions.unwrap_or_default().into_iter();
                let aborted = aborted.map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
                // A reader that is gone does not need it.
                let _ = wanted.queue.send(Ok(Fetched { records, aborted }));
            }
            let end = match self.settings.is_committed_only {
                true => found.last_stable_offset,
                false => found.high_watermark,
            };
            wanted.end.hear(end, self.clock);
            wanted.failing_since = None;
        }
    }

    fn out_of_range(&self, place: &Place, found: &PartitionData) {
        let Some(wanted) = self.shared.partitions.lock().remove(place) else { return };
        let message = format!(
            "offset {} of partition {} of the topic '{}' is not there: the broker has {} to {}; records that were not read yet \
             have been deleted, or the topic was made anew; start over, or give the table another start",
            wanted.next, place.1, place.0, found.log_start_offset, found.high_watermark
        );
        // A reader that is gone does not need to know.
        let _ = wanted.queue.send(Err(SourceError::Data { message }));
    }

    /// Looks for leaders anew after a while; errors that last are the job's. `None`: all partitions are concerned.
    fn failed(&mut self, concerned: Option<&[Place]>, error: KafkaError) {
        let now = self.clock.elapsed();
        self.leaders.clear();
        self.retry_at = now + RETRY;
        let topics = self.settings.topics.to_string();
        warn!(topics, error = %chain(&error), "reading is delayed");
        let text = chain(&error);
        let may_pass = matches!(failed(error, &topics), SourceError::Io { .. });
        let mut partitions = self.shared.partitions.lock();
        partitions.retain(|place, wanted| {
            if concerned.is_some_and(|concerned| !concerned.contains(place)) {
                return true;
            }
            let failing = now.saturating_sub(*wanted.failing_since.get_or_insert(now));
            if may_pass && failing <= PATIENCE {
                return true;
            }
            let topic = &place.0;
            let told = match may_pass {
                true => SourceError::Io {
                    action: format!("read the topic '{topic}'"),
                    source: std::io::Error::other(text.clone()),
                },
                false => SourceError::Data { message: format!("failed to read the topic '{topic}': {text}") },
            };
            let _ = wanted.queue.send(Err(told));
            false
        });
    }
}

/// Partitions by their topics, in their order: a topic is named once in a request.
fn by_topic(partitions: Vec<(Arc<str>, FetchPartition)>) -> Vec<FetchTopic> {
    let mut topics: Vec<(Arc<str>, Vec<FetchPartition>)> = Vec::new();
    for (topic, fetch) in partitions {
        match topics.iter_mut().find(|(known, _)| *known == topic) {
            Some((_, partitions)) => partitions.push(fetch),
            None => topics.push((topic, vec![fetch])),
        }
    }
    let topic = |(topic, partitions): (Arc<str>, Vec<FetchPartition>)| {
        FetchTopic::default().with_topic(name(&topic)).with_partitions(partitions)
    };
    topics.into_iter().map(topic).collect()
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
