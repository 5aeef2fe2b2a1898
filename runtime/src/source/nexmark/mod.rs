//! The events of the NEXMark benchmark (Tucker et al.; proportions and distributions as in its Beam and Flink forms).
//!
//! Of 50 events one is a person, three are auctions, 46 are bids. Every value is a function of seed, event number and
//! column, so that a column that nobody reads costs nothing, and any split can go on from any event.

mod columns;
mod random;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::connectors::SPLITS_MAX;
use millrace_sql::plan::Source as SourcePlan;
use prost::Message;

use super::{Read, SourceConnector, SourceError, Split, SplitReader, UNREADABLE};
use crate::clock::Clock;
use crate::format::leaf_schema;
use crate::options::TableOptions;
use columns::{Column, Events};

/// Events generated at a time.
const BATCH_EVENTS: u64 = 8192;

/// With a real-time rate, rows of this time are collected into a batch.
const BATCH_EVERY: Duration = Duration::from_millis(10);

/// Midnight before the leap day of 2024, so that examples show full dates.
const DEFAULT_START_MS: i64 = 1_709_164_800_000;

/// The generator as a source.
pub struct Nexmark {
    settings: Arc<Settings>,
    columns: Vec<Column>,
    schema: SchemaRef,
    clock: Clock,
}

#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    /// Number of events; `None`: endless.
    events: Option<u64>,
    splits: Option<u32>,
    /// Events a second of event time.
    event_rate: u64,
    start_ms: i64,
    /// Events a second of real time over all splits; `None`: as fast as possible.
    rows_per_second: Option<u64>,
}

/// Where a split goes on.
#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(uint32, tag = "1")]
    split: u32,
    #[prost(uint32, tag = "2")]
    splits: u32,
    /// Number of the next event, over all splits.
    #[prost(uint64, tag = "3")]
    next: u64,
}

impl Settings {
    /// Event time of an event.
    fn time_ms(&self, event: u64) -> i64 {
        self.start_ms + (u128::from(event) * 1000 / u128::from(self.event_rate)) as i64
    }
}

impl Nexmark {
    /// Reads the options and maps the leaves to generated columns.
    pub fn new(plan: &SourcePlan, options: &mut TableOptions<'_>, clock: Clock) -> Result<Self, SourceError> {
        let settings = Settings {
            seed: options.parsed("seed", "a number")?.unwrap_or(1),
            events: options.parsed("events", "a number of events")?,
            splits: options.parsed("splits", "a number of splits")?,
            event_rate: options.parsed("event-rate", "a number of events a second")?.unwrap_or(10_000),
            start_ms: match options.optional("start-time") {
                None => DEFAULT_START_MS,
                Some(text) => chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S")
                    .map_err(|_| options.wrong("start-time", "is not a time such as '2024-02-29 00:00:00'"))?
                    .and_utc()
                    .timestamp_millis(),
            },
            rows_per_second: options.parsed("rows-per-second", "a number of rows")?,
        };
        if settings.event_rate == 0 {
            return Err(options.wrong("event-rate", "must be at least 1").into());
        }
        if settings.rows_per_second == Some(0) {
            return Err(options.wrong("rows-per-second", "must be at least 1").into());
        }
        if settings.splits.is_some_and(|splits| splits == 0 || u64::from(splits) > SPLITS_MAX) {
            return Err(options.wrong("splits", &format!("must be from 1 to {SPLITS_MAX}")).into());
        }
        let columns = plan.leaves.iter().map(Column::of).collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|message| options.mistake(message))?;
        Ok(Nexmark { settings: Arc::new(settings), columns, schema: leaf_schema(&plan.leaves), clock })
    }
}

#[async_trait]
impl SourceConnector for Nexmark {
    async fn splits(&self, parallelism: u32) -> Result<Vec<Split>, SourceError> {
        let splits = self.settings.splits.unwrap_or(parallelism);
        let split = |split: u32| {
            let position = Position { split, splits, next: u64::from(split) };
            Split { id: format!("{split:05}"), position: position.encode_to_vec() }
        };
        Ok((0..splits).map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        self.settings.events.is_some()
    }

    fn position_text(&self, position: &[u8]) -> String {
        Position::decode(position)
            .map_or_else(|_| UNREADABLE.to_owned(), |position| format!("next event {}", position.next))
    }

    fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
        let position = Position::decode(split.position.as_slice()).map_err(|_| SourceError::Data {
            message: format!("the position of split '{}' is malformed", split.id),
        })?;
        Ok(Box::new(Generator {
            settings: Arc::clone(&self.settings),
            columns: self.columns.clone(),
            schema: self.schema.clone(),
            clock: self.clock,
            started: self.clock.elapsed(),
            first: position.next,
            position,
            waiting: None,
        }))
    }
}

struct Generator {
    settings: Arc<Settings>,
    columns: Vec<Column>,
    schema: SchemaRef,
    clock: Clock,
    /// When this reader was opened, and with which event: real-time rates count from here.
    started: Duration,
    first: u64,
    position: Position,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl Generator {
    /// How many events are due now, and if none, how long until one is.
    fn due(&self) -> Result<u64, Duration> {
        let step = u64::from(self.position.splits);
        let left = match self.settings.events {
            Some(events) => events.saturating_sub(self.position.next).div_ceil(step),
            None => u64::MAX,
        };
        let Some(rate) = self.settings.rows_per_second else { return Ok(left.min(BATCH_EVENTS)) };
        let elapsed = self.clock.elapsed().saturating_sub(self.started);
        let allowed = (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        let done = self.position.next - self.first;
        // At high rates some milliseconds' worth is waited for, so that batches are not single rows.
        let wanted = (rate * BATCH_EVERY.as_millis() as u64 / 1000)
            .min(BATCH_EVENTS * step)
            .min(left.saturating_mul(step));
        if left > 0 && done + wanted > allowed {
            let wait = u128::from(done + wanted - allowed) * 1_000_000_000 / u128::from(rate);
            return Err(Duration::from_nanos(wait as u64 + 1));
        }
        Ok(left.min((allowed.saturating_sub(done) / step).clamp(1, BATCH_EVENTS)))
    }

    fn generate(&mut self, count: u64) -> Result<RecordBatch, SourceError> {
        let step = u64::from(self.position.splits);
        let events = Events::new((0..count).map(|n| self.position.next + n * step).collect());
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| column.generate(&events, &self.settings)).collect();
        self.position.next += count * step;
        let options = RecordBatchOptions::new().with_row_count(Some(count as usize));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|error| {
            SourceError::Data { message: format!("the table does not fit the generator: {error}") }
        })
    }
}

impl SplitReader for Generator {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.poll_unpin(cx));
                self.waiting = None;
            }
            match self.due() {
                Ok(0) => return Poll::Ready(Ok(Read::End)),
                Ok(count) => return Poll::Ready(self.generate(count).map(Read::Rows)),
                Err(wait) => {
                    let clock = self.clock;
                    self.waiting = Some(async move { clock.sleep(wait).await }.boxed());
                }
            }
        }
    }

    fn position(&self) -> Vec<u8> {
        self.position.encode_to_vec()
    }

    fn progress(&self) -> Option<f64> {
        let events = self.settings.events?;
        Some((self.position.next as f64 / events.max(1) as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type};
    use millrace_sql::plan::{Field, OperatorKind, Table};

    const TABLE: &str = "
        CREATE TABLE events (
          event_type INT,
          person ROW<id BIGINT, name STRING, emailAddress STRING, creditCard STRING, city STRING, state STRING, `dateTime` TIMESTAMP(3), extra STRING>,
          auction ROW<id BIGINT, itemName STRING, description STRING, initialBid BIGINT, reserve BIGINT, `dateTime` TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra STRING>,
          bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, `dateTime` TIMESTAMP(3), extra STRING>
        ) WITH ('connector' = 'nexmark', 'events' = '100000');
        CREATE TABLE out (a INT, b BIGINT, c BIGINT, d STRING, e BIGINT, f STRING, g BIGINT) WITH ('connector' = 'blackhole');
        INSERT INTO out SELECT event_type, bid.auction, bid.price, bid.channel, person.id, person.name, auction.seller FROM events;";

    fn source() -> Nexmark {
        let plan = millrace_sql::compile(TABLE).unwrap();
        let Some(OperatorKind::Source(source)) = &plan.operators[0].kind else { panic!("a source") };
        let table: Table = source.table.clone().unwrap();
        let mut options = TableOptions::new(&table);
        options.required("connector").unwrap();
        Nexmark::new(source, &mut options, Clock::starting_at(0)).unwrap()
    }

    fn read(source: &Nexmark, split: &Split, batches: usize) -> (Vec<RecordBatch>, Vec<u8>) {
        let mut reader = source.open(split).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Vec::new();
        while out.len() < batches {
            match reader.poll_read(&mut cx) {
                Poll::Ready(Ok(Read::Rows(rows))) => out.push(rows),
                Poll::Ready(Ok(Read::End)) => break,
                other => panic!("{other:?}"),
            }
        }
        (out, reader.position())
    }

    #[tokio::test]
    async fn events_have_the_benchmarks_proportions() {
        let source = source();
        let (batches, _) = read(&source, &source.splits(1).await.unwrap()[0], usize::MAX);
        let (mut kinds, mut hot, mut bids) = ([0_u32; 3], 0, 0);
        for batch in &batches {
            let types = batch.column(0).as_primitive::<Int32Type>();
            let auctions = batch.column(1).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                kinds[types.value(row) as usize] += 1;
                if auctions.is_valid(row) {
                    bids += 1;
                    hot += u32::from(auctions.value(row) % 100 == 0);
                }
            }
        }

        assert_eq!(kinds, [2_000, 6_000, 92_000]);
        assert_eq!(bids, 92_000);
        assert!((45_000..49_000).contains(&hot), "about half of the bids go to hot auctions: {hot}");
        let _ = Field::default();
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_generator_keeps_its_rate() {
        let sql = TABLE.replace("'events' = '100000'", "'rows-per-second' = '1000'");
        let plan = millrace_sql::compile(&sql).unwrap();
        let Some(OperatorKind::Source(plan)) = &plan.operators[0].kind else { panic!("a source") };
        let table: Table = plan.table.clone().unwrap();
        let mut options = TableOptions::new(&table);
        options.required("connector").unwrap();
        let clock = Clock::starting_at(0);
        let source = Nexmark::new(plan, &mut options, clock).unwrap();
        let mut reader = source.open(&source.splits(2).await.unwrap()[0]).unwrap();

        let mut rows = 0;
        while clock.elapsed() < Duration::from_secs(2) {
            match std::future::poll_fn(|cx| reader.poll_read(cx)).await {
                Ok(Read::Rows(read)) => rows += read.num_rows(),
                other => panic!("{other:?}"),
            }
        }

        assert!((950..1_050).contains(&rows), "half of 1,000 a second for two seconds: {rows}");
    }

    #[tokio::test]
    async fn a_reader_goes_on_where_another_stopped() {
        let source = source();
        let split = source.splits(3).await.unwrap().remove(1);
        let (straight, _) = read(&source, &split, 4);

        let (first, position) = read(&source, &split, 2);
        let (second, _) = read(&source, &Split { position, ..split }, 2);

        assert_eq!([first, second].concat(), straight);
    }
}
