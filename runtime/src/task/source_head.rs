//! The source at the head of a chain: its splits, read in the order of event time, and its watermark.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType as ArrowType, TimeUnit, TimestampMillisecondType};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::evaluate::Evaluator;
use tracing::info;

use super::discovery::Discovery;
use super::{Lags, TaskError};
use crate::checkpoint::records::SplitState;
use crate::clock::Clock;
use crate::model::EventTime;
use crate::source::watermark::SplitWatermarks;
use crate::source::{Read, SourceConnector, Split, SplitReader};

/// Least time between two looks at whether splits are idle.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// What the source gives the driver.
pub enum SourceRead {
    Rows(RecordBatch),
    /// A split has become idle: the watermark may have advanced.
    Quiet,
    /// All splits are read.
    Exhausted,
}

/// When a split that is caught up stops to hold the watermark back.
pub struct Idleness {
    timeout: Duration,
    clock: Clock,
    next_look: Duration,
}

impl Idleness {
    /// After this time; the first look is due at once.
    pub fn new(timeout: Duration, clock: Clock) -> Self {
        Idleness { timeout, clock, next_look: Duration::ZERO }
    }
}

/// Keeps a subtask's rows to a rate.
pub struct Throttle {
    rows_per_second: f64,
    clock: Clock,
    started: Duration,
    rows: u64,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl Throttle {
    /// Counts from now on.
    pub fn new(rows_per_second: f64, clock: Clock) -> Self {
        Throttle { rows_per_second, clock, started: clock.elapsed(), rows: 0, waiting: None }
    }

    /// Ready when the next rows are due.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.poll_unpin(cx));
                self.waiting = None;
            }
            let due = self.started + Duration::from_secs_f64(self.rows as f64 / self.rows_per_second);
            let rest = due.saturating_sub(self.clock.elapsed());
            if rest.is_zero() {
                return Poll::Ready(());
            }
            let clock = self.clock;
            self.waiting = Some(async move { clock.sleep(rest).await }.boxed());
        }
    }
}

/// A source subtask.
pub struct SourceHead {
    /// The operators that it reads for, and how many rows each was given before.
    operators: Vec<(usize, u64)>,
    connector: Arc<dyn SourceConnector>,
    discovery: Option<Discovery>,
    splits: Vec<OpenSplit>,
    done: Vec<SplitState>,
    lags: Lags,
    watermarks: SplitWatermarks,
    watermark: Option<Evaluator>,
    /// Read by now.
    rows: u64,
    is_exhausted: bool,
    idleness: Option<Idleness>,
    throttle: Option<Throttle>,
    timer: Option<BoxFuture<'static, ()>>,
    /// It was told downstream that all splits are idle.
    is_idle_told: bool,
    /// Since when it has nothing to read, and whether it stopped to hold the watermark back then.
    empty_since: Option<Duration>,
    is_empty_idle: bool,
}

struct OpenSplit {
    split: Split,
    reader: Box<dyn SplitReader>,
    /// Since when it is caught up.
    quiet_since: Option<Duration>,
    is_idle: bool,
}

impl SourceHead {
    /// A source over these splits and their readers, which the connector has opened. `operators`: those that it reads for, and how
    /// many rows each was given before.
    pub fn new(
        operators: Vec<(usize, u64)>,
        connector: Arc<dyn SourceConnector>,
        discovery: Option<Discovery>,
        splits: Vec<(SplitState, Option<Box<dyn SplitReader>>)>,
        watermark: Option<Evaluator>,
        idleness: Option<Idleness>,
        throttle: Option<Throttle>,
    ) -> Self {
        let mut head = SourceHead {
            operators,
            connector,
            discovery,
            splits: Vec::new(),
            done: Vec::new(),
            lags: Lags::default(),
            watermarks: SplitWatermarks::default(),
            watermark,
            rows: 0,
            is_exhausted: false,
            idleness,
            throttle,
            timer: None,
            is_idle_told: false,
            empty_since: None,
            is_empty_idle: false,
        };
        for (state, reader) in splits {
            let time = if reader.is_some() { EventTime(state.watermark) } else { EventTime::MAX };
            // What has ended does not end the event time of a source that may get more.
            if reader.is_some() || head.discovery.is_none() {
                head.watermarks.add(&state.id, time);
            }
            match reader {
                Some(reader) => {
                    head.lags.add(reader.lag());
                    let split = Split { id: state.id, position: state.position };
                    head.splits.push(OpenSplit { split, reader, quiet_since: None, is_idle: false });
                }
                None => head.done.push(state),
            }
        }
        head
    }

    /// True if the subtask was given no split at all; it is idle then.
    pub fn begins_idle(&mut self) -> bool {
        let is_unused = self.splits.is_empty() && self.done.is_empty();
        if is_unused && self.discovery.is_some() {
            (self.is_idle_told, self.is_empty_idle) = (true, true);
        }
        is_unused
    }

    /// Opens splits that have come; true if there are some.
    fn take_new_splits(&mut self, cx: &mut Context<'_>) -> Result<bool, TaskError> {
        let Some(discovery) = &mut self.discovery else { return Ok(false) };
        let Poll::Ready(found) = discovery.poll(cx) else { return Ok(false) };
        for split in found {
            info!(split = split.id, "a new split is read");
            let reader = self.connector.open(&split)?;
            self.watermarks.add(&split.id, EventTime::MIN);
            self.lags.add(reader.lag());
            self.splits.push(OpenSplit { split, reader, quiet_since: None, is_idle: false });
        }
        (self.empty_since, self.is_empty_idle) = (None, false);
        Ok(true)
    }

    /// The next rows, from the split that lies furthest behind in event time among those that have some.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<SourceRead, TaskError>> {
        loop {
            if self.take_new_splits(cx)? {
                return Poll::Ready(Ok(SourceRead::Quiet));
            }
            if self.splits.is_empty() {
                if self.discovery.is_some() {
                    return self.poll_idle(cx).map(|()| Ok(SourceRead::Quiet));
                }
                if self.is_exhausted {
                    return Poll::Pending;
                }
                self.is_exhausted = true;
                return Poll::Ready(Ok(SourceRead::Exhausted));
            }
            if let Some(throttle) = &mut self.throttle {
                std::task::ready!(throttle.poll_due(cx));
            }
            if self.is_look_due() && self.look_for_idle() == Some(None) {
                return Poll::Ready(Ok(SourceRead::Quiet));
            }
            let mut order: Vec<usize> = (0..self.splits.len()).collect();
            order.sort_by_key(|index| self.watermarks.of(&self.splits[*index].split.id));
            let mut ended = None;
            for index in order {
                match self.splits[index].reader.poll_read(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Ready(Ok(Read::Rows(rows))) => {
                        return Poll::Ready(self.advance(index, &rows).map(|()| SourceRead::Rows(rows)));
                    }
                    Poll::Ready(Ok(Read::End)) => {
                        ended = Some(index);
                        break;
                    }
                }
            }
            let Some(index) = ended else { return self.poll_idle(cx).map(|()| Ok(SourceRead::Quiet)) };
            let split = self.splits.remove(index);
            match self.discovery {
                Some(_) => self.watermarks.remove(&split.split.id),
                None => self.watermarks.advance(&split.split.id, EventTime::MAX),
            }
            self.done.push(SplitState {
                position: split.reader.position(),
                id: split.split.id,
                watermark: EventTime::MAX.0,
                is_done: true,
            });
            if self.discovery.is_some() {
                // The others may let the watermark advance now.
                return Poll::Ready(Ok(SourceRead::Quiet));
            }
        }
    }

    /// Ready when a split has become idle, or is not any more.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(look_again) = self.look_for_idle() else { return Poll::Pending };
            let Some(wait) = look_again else { return Poll::Ready(()) };
            let Some(idleness) = &self.idleness else { return Poll::Pending };
            let clock = idleness.clock;
            let timer = self.timer.get_or_insert_with(|| async move { clock.sleep(wait).await }.boxed());
            std::task::ready!(timer.poll_unpin(cx));
            self.timer = None;
        }
    }

    /// Looks which splits are idle. `None`: none can ever be. Otherwise when to look again; nothing: now, for it has changed.
    fn look_for_idle(&mut self) -> Option<Option<Duration>> {
        let idleness = self.idleness.as_mut()?;
        let now = idleness.clock.elapsed();
        // A reader that catches up does not say so.
        let often = (idleness.timeout / 4).max(LOOK_MIN);
        idleness.next_look = now + often;
        if self.splits.is_empty() {
            let empty = now.saturating_sub(*self.empty_since.get_or_insert(now));
            let is_idle = self.is_empty_idle || empty >= idleness.timeout;
            let is_changed = std::mem::replace(&mut self.is_empty_idle, is_idle) != is_idle;
            return Some((!is_changed).then_some(often));
        }
        let mut look_again = often;
        let mut is_changed = false;
        for open in &mut self.splits {
            let quiet = match open.reader.is_caught_up() {
                true => now.saturating_sub(*open.quiet_since.get_or_insert(now)),
                false => {
                    open.quiet_since = None;
                    Duration::ZERO
                }
            };
            let left = idleness.timeout.saturating_sub(quiet);
            if open.is_idle != left.is_zero() {
                open.is_idle = left.is_zero();
                is_changed = true;
                self.watermarks.set_idle(&open.split.id, open.is_idle);
            }
            if !open.is_idle {
                look_again = look_again.min(left);
            }
        }
        Some((!is_changed).then_some(look_again))
    }

    /// True if it is time to look for idle splits although others have rows.
    fn is_look_due(&self) -> bool {
        self.idleness.as_ref().is_some_and(|idleness| idleness.clock.elapsed() >= idleness.next_look)
    }

    /// Whether all splits are idle, if that is not what was told downstream before.
    pub fn idle_change(&mut self) -> Option<bool> {
        let are_idle = match self.splits.is_empty() {
            true => self.is_empty_idle,
            false => self.watermarks.are_all_idle(),
        };
        (are_idle != self.is_idle_told).then(|| {
            self.is_idle_told = are_idle;
            are_idle
        })
    }

    fn advance(&mut self, index: usize, rows: &RecordBatch) -> Result<(), TaskError> {
        self.rows += rows.num_rows() as u64;
        if let Some(throttle) = &mut self.throttle {
            throttle.rows += rows.num_rows() as u64;
        }
        let open = &mut self.splits[index];
        open.quiet_since = None;
        if std::mem::take(&mut open.is_idle) {
            self.watermarks.set_idle(&open.split.id, false);
        }
        let Some(watermark) = &self.watermark else { return Ok(()) };
        let times = watermark.evaluate(rows).map_err(crate::operator::OperatorError::from)?;
        let millis = ArrowType::Timestamp(TimeUnit::Millisecond, None);
        let times =
            cast(&times, &millis).map_err(|source| crate::operator::OperatorError::Compute { source })?;
        if let Some(highest) = max(times.as_primitive::<TimestampMillisecondType>()) {
            self.watermarks.advance(&self.splits[index].split.id, EventTime(highest));
        }
        Ok(())
    }

    /// The subtask's watermark if it has advanced.
    pub fn advanced_watermark(&mut self) -> Option<EventTime> {
        self.watermarks.advanced()
    }

    /// How many rows each operator that it reads for was given since the job's first start.
    pub fn rows_of_operators(&self) -> impl Iterator<Item = (usize, u64)> + use<'_> {
        self.operators.iter().map(|(operator, before)| (*operator, before + self.rows))
    }

    /// Where all splits stand.
    pub fn snapshot(&self) -> Vec<SplitState> {
        let open = self.splits.iter().map(|open| SplitState {
            id: open.split.id.clone(),
            position: open.reader.position(),
            watermark: self.watermarks.of(&open.split.id).0,
            is_done: false,
        });
        open.chain(self.done.iter().cloned()).collect()
    }

    /// How many records that are no rows were left out.
    pub fn skipped(&self) -> u64 {
        self.connector.skipped()
    }

    /// How far its splits are behind.
    pub fn lags(&self) -> Lags {
        self.lags.clone()
    }

    /// How much of a bounded input has been read, in millionths.
    pub fn progress_ppm(&self) -> Option<u64> {
        if self.discovery.is_some() {
            return None;
        }
        let open = self.splits.iter().map(|open| open.reader.progress()).collect::<Option<Vec<f64>>>()?;
        let all = (open.len() + self.done.len()).max(1);
        Some(((open.iter().sum::<f64>() + self.done.len() as f64) / all as f64 * 1e6) as u64)
    }
}
