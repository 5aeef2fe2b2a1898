//! The events of the NEXMark benchmark (Tucker et al.; proportions and distributions as in its Beam and Flink forms).
//!
//! Of 50 events one is a person, three are auctions, 46 are bids. Every value is a function of seed, event number and
//! column, so that a column that nobody reads costs nothing, and any split can go on from any event.

mod columns;

use arrow::array::ArrayRef;
use millrace_sql::plan::Source as SourcePlan;

use super::super::SourceError;
use super::random;
use super::{Generated, Pace, Rows};
use crate::clock::Clock;
use crate::format::leaf_schema;
use crate::options::TableOptions;
use columns::{Column, Events};

/// Midnight before the leap day of 2024, so that examples show full dates.
const DEFAULT_START_MS: i64 = 1_709_164_800_000;

/// The generator's rows.
struct Nexmark {
    settings: Settings,
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    /// Number of events; `None`: endless.
    events: Option<u64>,
    /// Events a second of event time.
    event_rate: u64,
    start_ms: i64,
}

impl Settings {
    /// Event time of an event.
    fn time_ms(&self, event: u64) -> i64 {
        self.start_ms + (u128::from(event) * 1000 / u128::from(self.event_rate)) as i64
    }
}

/// Reads the options and maps the leaves to generated columns.
pub fn connector(
    plan: &SourcePlan,
    options: &mut TableOptions<'_>,
    clock: Clock,
) -> Result<Generated, SourceError> {
    let pace = Pace {
        splits: options.parsed("splits", "a number of splits")?,
        rows_per_second: options.parsed("rows-per-second", "a number of rows")?,
    };
    let settings = Settings {
        seed: options.parsed("seed", "a number")?.unwrap_or(1),
        events: options.parsed("events", "a number of events")?,
        event_rate: options.parsed("event-rate", "a number of events a second")?.unwrap_or(10_000),
        start_ms: match options.optional("start-time") {
            None => DEFAULT_START_MS,
            Some(text) => chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S")
                .map_err(|_| options.wrong("start-time", "is not a time such as '2024-02-29 00:00:00'"))?
                .and_utc()
                .timestamp_millis(),
        },
    };
    if settings.event_rate == 0 {
        return Err(options.wrong("event-rate", "must be at least 1").into());
    }
    let columns = plan.leaves.iter().map(Column::of).collect::<Result<Vec<_>, _>>();
    let columns = columns.map_err(|message| options.mistake(message))?;
    pace.check(options)?;
    Ok(Generated::new(Nexmark { settings, columns }, pace, leaf_schema(&plan.leaves), clock))
}

impl Rows for Nexmark {
    fn count(&self) -> Option<u64> {
        self.settings.events
    }

    fn columns(&self, numbers: Vec<u64>, _began_ms: i64) -> Vec<ArrayRef> {
        let events = Events::new(numbers);
        self.columns.iter().map(|column| column.generate(&events, &self.settings)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};
    use std::time::Duration;

    use super::*;
    use crate::source::{Read, SourceConnector, Split};
    use arrow::array::{Array, AsArray, RecordBatch};
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

    fn source() -> Generated {
        let plan = millrace_sql::compile(TABLE).unwrap();
        let Some(OperatorKind::Source(source)) = &plan.operators[0].kind else { panic!("a source") };
        let table: Table = source.table.clone().unwrap();
        let mut options = TableOptions::new(&table);
        options.required("connector").unwrap();
        connector(source, &mut options, Clock::starting_at(0)).unwrap()
    }

    fn read(source: &Generated, split: &Split, batches: usize) -> (Vec<RecordBatch>, Vec<u8>) {
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
        let source = connector(plan, &mut options, clock).unwrap();
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
