//! Generated rows: every value is a function of the row's number and its column, so that a column that nobody reads costs nothing,
//! and any split can go on from any row.

pub mod datagen;
pub mod nexmark;
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
use prost::Message;

use super::{Read, SourceConnector, SourceError, Split, SplitReader, UNREADABLE};
use crate::clock::Clock;
use crate::options::{OptionError, TableOptions};

/// Rows generated at a time.
const BATCH_ROWS: u64 = 8192;

/// With a real-time rate, rows of this time are collected into a batch.
const BATCH_EVERY: Duration = Duration::from_millis(10);

/// What rows there are.
pub trait Rows: Send + Sync + 'static {
    /// How many; `None`: endless.
    fn count(&self) -> Option<u64>;

    /// The columns of the rows of these numbers. `began_ms`: when the job was started first.
    fn columns(&self, numbers: Vec<u64>, began_ms: i64) -> Vec<ArrayRef>;
}

/// How fast rows come, and in how many splits.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// `None`: the parallelism of the first start.
    pub splits: Option<u32>,
    /// Rows a second of real time over all splits; `None`: as fast as possible.
    pub rows_per_second: Option<u64>,
}

impl Pace {
    fn check(&self, options: &TableOptions<'_>) -> Result<(), OptionError> {
        if self.rows_per_second == Some(0) {
            return Err(options.wrong("rows-per-second", "must be at least 1"));
        }
        if self.splits.is_some_and(|splits| splits == 0 || u64::from(splits) > SPLITS_MAX) {
            return Err(options.wrong("splits", &format!("must be from 1 to {SPLITS_MAX}")));
        }
        Ok(())
    }
}

/// Generated rows as a source.
pub struct Generated {
    rows: Arc<dyn Rows>,
    pace: Pace,
    schema: SchemaRef,
    clock: Clock,
}

/// Where a split goes on.
#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(uint32, tag = "1")]
    split: u32,
    #[prost(uint32, tag = "2")]
    splits: u32,
    /// Number of the next row, over all splits.
    #[prost(uint64, tag = "3")]
    next: u64,
    /// When the job was started first.
    #[prost(int64, tag = "4")]
    began_ms: i64,
}

impl Generated {
    /// A source of these rows.
    pub fn new(rows: impl Rows, pace: Pace, schema: SchemaRef, clock: Clock) -> Self {
        Generated { rows: Arc::new(rows), pace, schema, clock }
    }
}

#[async_trait]
impl SourceConnector for Generated {
    async fn splits(&self, parallelism: u32) -> Result<Vec<Split>, SourceError> {
        let splits = self.pace.splits.unwrap_or(parallelism);
        let began_ms = self.clock.now_ms() as i64;
        let split = |split: u32| {
            let position = Position { split, splits, next: u64::from(split), began_ms };
            Split { id: format!("{split:05}"), position: position.encode_to_vec() }
        };
        Ok((0..splits).map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        self.rows.count().is_some()
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
            rows: Arc::clone(&self.rows),
            rows_per_second: self.pace.rows_per_second,
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
    rows: Arc<dyn Rows>,
    rows_per_second: Option<u64>,
    schema: SchemaRef,
    clock: Clock,
    /// When this reader was opened, and with which row: real-time rates count from here.
    started: Duration,
    first: u64,
    position: Position,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl Generator {
    /// How many rows are due now, and if none, how long until one is.
    fn due(&self) -> Result<u64, Duration> {
        let step = u64::from(self.position.splits);
        let left = match self.rows.count() {
            Some(rows) => rows.saturating_sub(self.position.next).div_ceil(step),
            None => u64::MAX,
        };
        let Some(rate) = self.rows_per_second else { return Ok(left.min(BATCH_ROWS)) };
        let elapsed = self.clock.elapsed().saturating_sub(self.started);
        let allowed = (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        let done = self.position.next - self.first;
        // At high rates some milliseconds' worth is waited for, so that batches are not single rows.
        let wanted = (rate * BATCH_EVERY.as_millis() as u64 / 1000)
            .min(BATCH_ROWS * step)
            .min(left.saturating_mul(step));
        if left > 0 && done + wanted > allowed {
            let wait = u128::from(done + wanted - allowed) * 1_000_000_000 / u128::from(rate);
            return Err(Duration::from_nanos(wait as u64 + 1));
        }
        Ok(left.min((allowed.saturating_sub(done) / step).clamp(1, BATCH_ROWS)))
    }

    fn generate(&mut self, count: u64) -> Result<RecordBatch, SourceError> {
        let step = u64::from(self.position.splits);
        let numbers = (0..count).map(|n| self.position.next + n * step).collect();
        let columns = self.rows.columns(numbers, self.position.began_ms);
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
        let rows = self.rows.count()?;
        Some((self.position.next as f64 / rows.max(1) as f64).min(1.0))
    }
}
