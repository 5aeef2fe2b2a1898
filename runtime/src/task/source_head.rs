//! The source at the head of a chain: its splits, read in the order of event time, and its watermark.

use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType as ArrowType, TimeUnit, TimestampMillisecondType};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::evaluate::Evaluator;

use super::TaskError;
use crate::checkpoint::records::SplitState;
use crate::clock::Clock;
use crate::model::EventTime;
use crate::source::watermark::SplitWatermarks;
use crate::source::{Read, Split, SplitReader};

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
    pub timeout: Duration,
    pub clock: Clock,
}

/// A source subtask.
pub struct SourceHead {
    pub index: usize,
    splits: Vec<OpenSplit>,
    done: Vec<SplitState>,
    watermarks: SplitWatermarks,
    watermark: Option<Evaluator>,
    pub rows: u64,
    is_exhausted: bool,
    idleness: Option<Idleness>,
    timer: Option<BoxFuture<'static, ()>>,
    /// It was told downstream that all splits are idle.
    is_idle_told: bool,
}

struct OpenSplit {
    split: Split,
    reader: Box<dyn SplitReader>,
    /// Since when it is caught up.
    quiet_since: Option<Duration>,
    is_idle: bool,
}

impl SourceHead {
    /// A source over these splits and their readers; `rows` were read before.
    pub fn new(
        index: usize,
        splits: Vec<(SplitState, Option<Box<dyn SplitReader>>)>,
        watermark: Option<Evaluator>,
        rows: u64,
        idleness: Option<Idleness>,
    ) -> Self {
        let mut head = SourceHead {
            index,
            splits: Vec::new(),
            done: Vec::new(),
            watermarks: SplitWatermarks::default(),
            watermark,
            rows,
            is_exhausted: false,
            idleness,
            timer: None,
            is_idle_told: false,
        };
        for (state, reader) in splits {
            let time = if reader.is_some() { EventTime(state.watermark) } else { EventTime::MAX };
            head.watermarks.add(&state.id, time);
            match reader {
                Some(reader) => {
                    let split = Split { id: state.id, position: state.position };
                    head.splits.push(OpenSplit { split, reader, quiet_since: None, is_idle: false });
                }
                None => head.done.push(state),
            }
        }
        head
    }

    /// True if the subtask was given no split at all.
    pub fn is_unused(&self) -> bool {
        self.splits.is_empty() && self.done.is_empty()
    }

    /// The next rows, from the split that lies furthest behind in event time among those that have some.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<SourceRead, TaskError>> {
        loop {
            if self.splits.is_empty() {
                if self.is_exhausted {
                    return Poll::Pending;
                }
                self.is_exhausted = true;
                return Poll::Ready(Ok(SourceRead::Exhausted));
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
            self.watermarks.advance(&split.split.id, EventTime::MAX);
            self.done.push(SplitState {
                position: split.reader.position(),
                id: split.split.id,
                watermark: EventTime::MAX.0,
                is_done: true,
            });
        }
    }

    /// Ready when a split has become idle.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idleness) = &self.idleness else { return Poll::Pending };
        loop {
            let now = idleness.clock.elapsed();
            let mut look_again = None;
            let mut is_any_new = false;
            for open in self.splits.iter_mut().filter(|open| !open.is_idle) {
                let quiet = match open.reader.is_caught_up() {
                    true => now.saturating_sub(*open.quiet_since.get_or_insert(now)),
                    false => {
                        open.quiet_since = None;
                        Duration::ZERO
                    }
                };
                let left = idleness.timeout.saturating_sub(quiet);
                if left.is_zero() {
                    open.is_idle = true;
                    is_any_new = true;
                    self.watermarks.set_idle(&open.split.id, true);
                } else {
                    look_again = Some(look_again.map_or(left, |known: Duration| known.min(left)));
                }
            }
            if is_any_new {
                return Poll::Ready(());
            }
            let Some(wait) = look_again else { return Poll::Pending };
            let clock = idleness.clock;
            // A reader that catches up does not say so.
            let wait = wait.min((idleness.timeout / 4).max(LOOK_MIN));
            let timer = self.timer.get_or_insert_with(|| async move { clock.sleep(wait).await }.boxed());
            std::task::ready!(timer.poll_unpin(cx));
            self.timer = None;
        }
    }

    /// True once after all splits have become idle.
    pub fn became_idle(&mut self) -> bool {
        let became = !self.is_idle_told && self.watermarks.are_all_idle();
        self.is_idle_told |= became;
        became
    }

    /// True once after there are rows again.
    pub fn became_active(&mut self) -> bool {
        std::mem::take(&mut self.is_idle_told)
    }

    fn advance(&mut self, index: usize, rows: &RecordBatch) -> Result<(), TaskError> {
        self.rows += rows.num_rows() as u64;
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

    /// How much of a bounded input has been read, in millionths.
    pub fn progress_ppm(&self) -> Option<u64> {
        let open = self.splits.iter().map(|open| open.reader.progress()).collect::<Option<Vec<f64>>>()?;
        let all = (open.len() + self.done.len()).max(1);
        Some(((open.iter().sum::<f64>() + self.done.len() as f64) / all as f64 * 1e6) as u64)
    }
}
