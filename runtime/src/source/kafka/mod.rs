//! Kafka topics: a split is a partition, its position an offset kept in the checkpoint. Consumer groups are not used.
//!
//! Reading is `read_committed`, unless the table says otherwise: rows of aborted transactions do not exist.

mod fetcher;
mod metadata;
mod offsets;
mod records;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter, filter_record_batch, take_record_batch};
use arrow::error::ArrowError;
use async_trait::async_trait;
use bytes::Bytes;
use millrace_sql::plan::Source as SourcePlan;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;

use super::{
    KeyDecoder, Lag, Read, RecordFormat, SourceConnector, SourceError, Split, SplitReader, UNREADABLE,
    excerpt,
};
use crate::clock::Clock;
use crate::format::Decoder;
use crate::kafka::{Client, KafkaError, Security, Topics, servers};
use crate::options::TableOptions;
use crate::outside::Outside;
use fetcher::{Fetched, Fetcher, KnownEnd};
use metadata::Metadata;
use offsets::{End, Start};
use records::Records;

/// Rows decoded at a time.
const BATCH_RECORDS: usize = 8192;

/// How often new partitions are looked for, as in Flink.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(300);

/// Topics as a source.
pub struct Kafka {
    settings: Settings,
    format: RecordFormat,
    outside: Outside,
    /// Shared by all readers of a subtask; made when the first is opened.
    fetcher: Mutex<Option<Arc<Fetcher>>>,
}

#[derive(Debug, Clone)]
struct Settings {
    bootstrap: Vec<String>,
    security: Arc<Security>,
    topics: Topics,
    start: Start,
    end: End,
    is_committed_only: bool,
    /// How often new partitions are looked for; never if it is zero.
    discovery_interval: Duration,
}

impl Settings {
    fn new(options: &mut TableOptions<'_>, start: Start) -> Result<Self, SourceError> {
        Ok(Settings {
            bootstrap: servers(options)?,
            security: Arc::new(Security::new(options)?),
            topics: Topics::new(options)?,
            start,
            end: End::new(options)?,
            is_committed_only: match options.optional("properties.isolation.level").as_deref() {
                None | Some("read_committed") => true,
                Some("read_uncommitted") => false,
                Some(_) => {
                    return Err(options
                        .wrong(
                            "properties.isolation.level",
                            "is neither 'read_committed' nor 'read_uncommitted'",
                        )
                        .into());
                }
            },
            discovery_interval: options
                .duration("scan.topic-partition-discovery.interval")?
                .unwrap_or(DISCOVERY_INTERVAL),
        })
    }

    fn client(&self, outside: &Outside) -> Client {
        Client::new(
            self.bootstrap.clone(),
            Arc::clone(&self.security),
            outside.clock,
            Arc::clone(&outside.transport),
        )
    }
}

/// Where a partition goes on.
#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(int32, tag = "1")]
    partition: i32,
    #[prost(int64, tag = "2")]
    next: i64,
    /// Reading ends before this offset.
    #[prost(int64, optional, tag = "3")]
    end: Option<i64>,
    /// Empty in state of earlier releases, which had one topic.
    #[prost(string, tag = "4")]
    topic: String,
}

impl Kafka {
    /// Reads the options.
    pub fn new(
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        outside: &Outside,
    ) -> Result<Self, SourceError> {
        let start = Start::new(options)?;
        let settings = Settings::new(options, start)?;
        let format = RecordFormat::with_key(plan, options, outside.clock)?;
        Ok(Kafka { settings, format, outside: outside.clone(), fetcher: Mutex::new(None) })
    }

    /// Reads the options of a topic that holds the newest row of each key (`upsert-kafka` of Flink). It is read from its beginning:
    /// what takes another record's place must have come after it.
    pub fn by_key(
        plan: &SourcePlan,
        options: &mut TableOptions<'_>,
        outside: &Outside,
    ) -> Result<Self, SourceError> {
        let settings = Settings::new(options, Start::Earliest)?;
        let format = RecordFormat::by_key(plan, options, outside.clock)?;
        Ok(Kafka { settings, format, outside: outside.clone(), fetcher: Mutex::new(None) })
    }

    async fn topics(&self, client: &mut Client) -> Result<Vec<String>, SourceError> {
        let names = self.settings.topics.names(client).await;
        names.map_err(|error| failed(error, &self.settings.topics.to_string()))
    }
}

fn split_id(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition:06}")
}

fn split(position: Position) -> Split {
    Split { id: split_id(&position.topic, position.partition), position: position.encode_to_vec() }
}

fn failed(error: KafkaError, topic: &str) -> SourceError {
    match error {
        KafkaError::NoTopic { .. } => {
            SourceError::Io { action: "read from Kafka".to_owned(), source: error.into_io() }
        }
        error if error.may_be_cured() => {
            SourceError::Io { action: format!("read the topic '{topic}'"), source: error.into_io() }
        }
        error => SourceError::Data { message: format!("failed to read the topic '{topic}': {error}") },
    }
}

#[async_trait]
impl SourceConnector for Kafka {
    async fn splits(&self, _parallelism: u32) -> Result<Vec<Split>, SourceError> {
        let mut client = self.settings.client(&self.outside);
        let Settings { start, end, is_committed_only, .. } = &self.settings;
        let mut splits = Vec::new();
        for topic in &self.topics(&mut client).await? {
            let positions = offsets::positions(&mut client, topic, start, end, *is_committed_only).await;
            let positions = positions.map_err(|error| failed(error, topic))?;
            splits.extend(positions.into_iter().map(split));
        }
        Ok(splits)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        let interval = self.settings.discovery_interval;
        (!self.is_bounded() && !interval.is_zero()).then_some(interval)
    }

    async fn discover(&self, known: &BTreeSet<String>) -> Result<Vec<Split>, SourceError> {
        let mut client = self.settings.client(&self.outside);
        let mut splits = Vec::new();
        for topic in &self.topics(&mut client).await? {
            let partitions = client.partitions(topic).await.map_err(|error| failed(error, topic))?;
            if partitions.iter().all(|partition| known.contains(&split_id(topic, partition.index))) {
                continue;
            }
            let committed = self.settings.is_committed_only;
            // Whatever the table says of the first start: this partition's rows are all new.
            let positions =
                offsets::positions(&mut client, topic, &Start::Earliest, &End::Never, committed).await;
            let positions = positions.map_err(|error| failed(error, topic))?;
            splits.extend(positions.into_iter().map(split).filter(|split| !known.contains(&split.id)));
        }
        Ok(splits)
    }

    fn is_bounded(&self) -> bool {
        self.settings.end != End::Never
    }

    fn position_text(&self, position: &[u8]) -> String {
        Position::decode(position).map_or_else(
            |_| UNREADABLE.to_owned(),
            |position| {
                let end = position.end.map(|end| format!(", to {end}")).unwrap_or_default();
                format!("next offset {}{end}", position.next)
            },
        )
    }

    fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
        let mut position = Position::decode(split.position.as_slice()).map_err(|_| SourceError::Data {
            message: format!("the position of split '{}' is malformed", split.id),
        })?;
        if let Topics::Named(names) = &self.settings.topics
            && position.topic.is_empty()
        {
            position.topic = names.first().cloned().unwrap_or_default();
        }
        let topic: Arc<str> = position.topic.as_str().into();
        let decoder = self.format.decoder()?;
        let key_decoder = self.format.key_decoder()?;
        let mut fetcher = self.fetcher.lock();
        let fetcher = fetcher.get_or_insert_with(|| Arc::new(Fetcher::start(&self.settings, &self.outside)));
        let (queued, end) = (Arc::<AtomicUsize>::default(), Arc::<KnownEnd>::default());
        let queue =
            fetcher.add((topic, position.partition), position.next, Arc::clone(&queued), Arc::clone(&end));
        Ok(Box::new(PartitionReader {
            first: position.next,
            next: Arc::new(AtomicI64::new(position.next)),
            position,
            decoder,
            key_decoder,
            format: self.format.clone(),
            fetcher: Arc::clone(fetcher),
            queue,
            queued,
            end,
            clock: self.outside.clock,
            current: None,
        }))
    }

    fn skipped(&self) -> u64 {
        self.format.skipped()
    }
}

/// Rows of the values of records, with a row of nothing for each record without a value; and which of the records are rows, if not all.
fn with_removals(
    rows: RecordBatch,
    kept: Option<UInt32Array>,
    has_value: &[bool],
) -> Result<(RecordBatch, Option<UInt32Array>), SourceError> {
    if has_value.iter().all(|has_value| *has_value) {
        return Ok((rows, kept));
    }
    // Which row each value has become.
    let mut row_of_value = vec![None; has_value.len()];
    match &kept {
        None => (0..rows.num_rows() as u32).for_each(|row| row_of_value[row as usize] = Some(row)),
        Some(kept) => {
            (0..).zip(kept.values()).for_each(|(row, value)| row_of_value[*value as usize] = Some(row))
        }
    }
    let mut of_values = row_of_value.into_iter();
    let (mut places, mut records) = (Vec::new(), Vec::new());
    for (record, has_value) in (0..).zip(has_value) {
        let row = if *has_value { of_values.next().flatten() } else { None };
        if row.is_some() || !has_value {
            places.push(row);
            records.push(record);
        }
    }
    let rows = match rows.num_columns() {
        0 => {
            let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
            RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options)
        }
        _ => take_record_batch(&rows, &UInt32Array::from(places)),
    };
    Ok((rows.map_err(malformed)?, Some(records.into())))
}

fn malformed(error: ArrowError) -> SourceError {
    SourceError::Data { message: error.to_string() }
}

struct PartitionReader {
    /// Where this reader began; for progress.
    first: i64,
    /// As in the position, for those who ask how far it is behind.
    next: Arc<AtomicI64>,
    position: Position,
    decoder: Decoder,
    /// If some columns come out of keys.
    key_decoder: Option<KeyDecoder>,
    format: RecordFormat,
    fetcher: Arc<Fetcher>,
    queue: mpsc::UnboundedReceiver<Result<Fetched, SourceError>>,
    /// Bytes in the queue.
    queued: Arc<AtomicUsize>,
    end: Arc<KnownEnd>,
    clock: Clock,
    current: Option<Records>,
}

impl PartitionReader {
    /// Decodes the next records at hand; `None` if they hold no rows.
    fn decode(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        let Some(records) = &mut self.current else { return Ok(None) };
        let (mut lines, mut ends, mut is_countable) = (Vec::new(), Vec::new(), true);
        let (mut offsets, mut has_value) = (Vec::new(), Vec::new());
        let keys = self.format.layout().metadata();
        let mut metadata = Metadata::new(keys);
        let (mut record_keys, has_key_columns) = (Vec::new(), self.key_decoder.is_some());
        let (end, format) = (self.position.end.unwrap_or(i64::MAX), &self.format);
        let wanted = self.position.next..end;
        let next = records.read(wanted, BATCH_RECORDS, format.replaces(), |record| {
            if let Some(value) = &record.value {
                // As many rows as records is no proof, if one may be none and another one two.
                is_countable &= !format.may_not_be_one_row(value);
                lines.extend_from_slice(value);
                lines.push(b'\n');
                ends.push((record.offset, lines.len()));
            }
            offsets.push(record.offset);
            has_value.push(record.value.is_some());
            if !keys.is_empty() {
                metadata.push(record);
            }
            if has_key_columns {
                record_keys.push(record.key.clone());
            }
        });
        let is_read = records.is_empty();
        let next = next.map_err(|message| self.wrong(self.position.next, &message))?;
        if is_read {
            self.current = None;
        }
        self.position.next = next.max(self.position.next);
        self.next.store(self.position.next, Ordering::Relaxed);
        if offsets.is_empty() {
            return Ok(None);
        }
        let (rows, kept) = self.decode_values(&lines, &ends, is_countable)?;
        let (rows, kept) = with_removals(rows, kept, &has_value)?;
        let columns = metadata.columns(
            self.format.layout().metadata(),
            &self.position.topic,
            self.position.partition,
            kept.as_ref(),
        )?;
        if let Some(kept) = &kept {
            let of_kept = kept.values().iter().filter_map(|index| record_keys.get(*index as usize).cloned());
            record_keys = of_kept.collect();
        }
        let offset = |row: usize| {
            let record = kept.as_ref().map_or(row, |kept| kept.value(row) as usize);
            offsets.get(record).copied().unwrap_or_default()
        };
        let (of_keys, good) = self.key_columns(&record_keys, offset)?;
        let layout = self.format.layout();
        let rows = match &good {
            None => layout.join(rows, &columns, &of_keys)?,
            Some(good) => {
                let of_good = |column: &ArrayRef| filter(column, good);
                let columns: Result<Vec<_>, _> = columns.iter().map(of_good).collect();
                let rows = filter_record_batch(&rows, good).and_then(|rows| Ok((rows, columns?)));
                let (rows, columns) = rows.map_err(malformed)?;
                layout.join(rows, &columns, &of_keys)?
            }
        };
        Ok(Some(rows).filter(|rows| rows.num_rows() > 0))
    }

    /// The rows of values that end there, and which of them are rows; `None`: all.
    fn decode_values(
        &mut self,
        lines: &[u8],
        ends: &[(i64, usize)],
        is_countable: bool,
    ) -> Result<(RecordBatch, Option<UInt32Array>), SourceError> {
        let starts = || std::iter::once(0).chain(ends.iter().map(|(_, end)| *end));
        let decoded = match &mut self.decoder {
            // Bytes as they are may have line breaks in them.
            Decoder::Raw(decoder) => {
                decoder.decode(starts().zip(ends).map(|(start, (_, end))| &lines[start..*end - 1]))
            }
            decoder => decoder.decode(lines),
        };
        match decoded {
            Ok(rows) if is_countable && rows.num_rows() == ends.len() => return Ok((rows, None)),
            _ => {}
        }
        let records: Vec<&[u8]> = starts().zip(ends).map(|(start, (_, end))| &lines[start..*end]).collect();
        let place = format!("'{}', partition {}", self.position.topic, self.position.partition);
        match self.format.decode_records(&mut self.decoder, &records, &place) {
            Some((rows, kept)) => Ok((rows, Some(UInt32Array::from(kept)))),
            None => Err(self.poison(lines, ends)),
        }
    }

    /// The columns that come out of keys, and which records have good ones; `None`: all.
    fn key_columns(
        &mut self,
        keys: &[Option<Bytes>],
        offset: impl Fn(usize) -> i64,
    ) -> Result<(Vec<ArrayRef>, Option<BooleanArray>), SourceError> {
        let Some(decoder) = &mut self.key_decoder else { return Ok((Vec::new(), None)) };
        let (wrong, why) = match decoder.decode(keys) {
            Ok(columns) => return Ok((columns, None)),
            Err(wrong) => wrong,
        };
        if !self.format.skips() {
            let message = format!("its key is not what 'key.format' says: {why}; {}", self.format.cure());
            return Err(self.wrong(offset(wrong), &message));
        }
        let good: Vec<bool> =
            keys.iter().map(|key| decoder.decode(std::slice::from_ref(key)).is_ok()).collect();
        let left: Vec<Option<Bytes>> =
            keys.iter().zip(&good).filter(|(_, good)| **good).map(|(key, _)| key.clone()).collect();
        let columns = decoder.decode(&left).map_err(|(_, message)| SourceError::Data { message })?;
        let place = format!("'{}', partition {}", self.position.topic, self.position.partition);
        let example = keys.get(wrong).and_then(Option::as_deref).unwrap_or_default();
        self.format.skip((keys.len() - left.len()) as u64, &place, example);
        Ok((columns, Some(good.into())))
    }

    /// Names the first record that is not one row.
    fn poison(&mut self, lines: &[u8], ends: &[(i64, usize)]) -> SourceError {
        let mut start = 0;
        for (offset, end) in ends {
            let record = &lines[start..*end];
            let why = match self.decoder.decode(record) {
                Ok(rows) if rows.num_rows() == 1 => None,
                Ok(rows) => {
                    Some(format!("it holds {} {} instead of one", rows.num_rows(), self.format.noun()))
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = why {
                let message = format!("{why}; the record: {}; {}", excerpt(record), self.format.cure());
                return self.wrong(*offset, &message);
            }
            start = *end;
        }
        self.wrong(self.position.next, "its rows cannot be told apart")
    }

    fn wrong(&self, offset: i64, message: &str) -> SourceError {
        let (topic, partition) = (&self.position.topic, self.position.partition);
        SourceError::Data {
            message: format!(
                "the record at offset {offset} of partition {partition} of the topic '{topic}' cannot be read: {message}"
            ),
        }
    }
}

impl SplitReader for PartitionReader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
        loop {
            if self.position.end.is_some_and(|end| self.position.next >= end) {
                return Poll::Ready(Ok(Read::End));
            }
            while self.current.is_some() {
                if let Some(rows) = self.decode()? {
                    return Poll::Ready(Ok(Read::Rows(rows)));
                }
            }
            match std::task::ready!(self.queue.poll_recv(cx)) {
                Some(Ok(fetched)) => {
                    self.queued.fetch_sub(fetched.records.len(), Ordering::Relaxed);
                    self.fetcher.has_room();
                    self.current = Some(Records::new(fetched.records, fetched.aborted));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    let message = format!("reading the topic '{}' has ended by itself", self.position.topic);
                    let source = std::io::Error::other(message);
                    return Poll::Ready(Err(SourceError::Io {
                        action: "read from Kafka".to_owned(),
                        source,
                    }));
                }
            }
        }
    }

    fn position(&self) -> Vec<u8> {
        self.position.encode_to_vec()
    }

    fn progress(&self) -> Option<f64> {
        let end = self.position.end?;
        Some((self.position.next - self.first) as f64 / (end - self.first).max(1) as f64)
    }

    fn lag(&self) -> Option<Lag> {
        let (next, end) = (Arc::clone(&self.next), Arc::clone(&self.end));
        let last = self.position.end.unwrap_or(i64::MAX);
        let behind = move |end: i64| end.min(last).saturating_sub(next.load(Ordering::Relaxed)).max(0) as u64;
        Some(Arc::new(move || end.heard().map(&behind)))
    }

    fn is_caught_up(&self) -> bool {
        self.current.is_none() && self.end.is_reached(self.position.next, self.clock)
    }
}
