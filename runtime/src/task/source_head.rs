//! The source at the head of a chain: its splits, read in the order of event time, and its watermark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{TimeUnit, TimestampMillisecondType};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::evaluate::Evaluator;
use millrace_sql::functions::at_or_before;
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

/// Bytes that the splits of a subtask hold ahead of what was read, beyond which those that are furthest ahead in event time give up
/// theirs.
const HELD_BYTES_MAX: usize = 128 << 20;

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
    /// By their numbers, which are given in the order of their coming.
    splits: BTreeMap<u64, OpenSplit>,
    next_number: u64,
    /// In the order of event time, in which they are read.
    order: BTreeSet<(EventTime, u64)>,
    /// Those of them that hold something, and how much all of them do.
    holders: BTreeSet<(EventTime, u64)>,
    held: usize,
    done: Vec<SplitState>,
    /// The sum of what has been read of the open splits, each from 0 to 1; unset: none tells.
    progress: Option<f64>,
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
    /// As it is among those in order.
    time: EventTime,
    held: usize,
    progress: f64,
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
            splits: BTreeMap::new(),
            next_number: 0,
            order: BTreeSet::new(),
            holders: BTreeSet::new(),
            held: 0,
            done: Vec::new(),
            progress: None,
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
            match reader {
                Some(reader) => {
                    let split = Split { id: state.id, position: state.position };
                    head.add(split, reader, EventTime(state.watermark));
                }
                None => {
                    // What has ended does not end the event time of a source that may get more.
                    if head.discovery.is_none() {
                        let number = head.number();
                        head.watermarks.add(number, EventTime::MAX);
                    }
                    head.done.push(state);
                }
            }
        }
        head
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn add(&mut self, split: Split, reader: Box<dyn SplitReader>, time: EventTime) {
        let number = self.number();
        self.watermarks.add(number, time);
        self.lags.add(reader.lag());
        self.order.insert((time, number));
        let (held, progress) = (0, 0.0);
        let open = OpenSplit { split, reader, quiet_since: None, is_idle: false, time, held, progress };
        self.splits.insert(number, open);
        self.note(number);
    }

    /// Counts what a split holds and has read by now.
    fn note(&mut self, number: u64) {
        let Some(open) = self.splits.get_mut(&number) else { return };
        if let Some(progress) = open.reader.progress() {
            let before = std::mem::replace(&mut open.progress, progress);
            self.progress = Some(self.progress.unwrap_or(0.0) + progress - before);
        }
        let held = open.reader.held().unwrap_or(0);
        self.held = self.held + held - std::mem::replace(&mut open.held, held);
        match held {
            0 => self.holders.remove(&(open.time, number)),
            _ => self.holders.insert((open.time, number)),
        };
    }

    /// Makes room for what the next split will hold, at the cost of those that are read after it; false if there is none.
    fn make_room(&mut self, next: (EventTime, u64)) -> bool {
        while self.held >= HELD_BYTES_MAX {
            let Some(last) = self.holders.last().copied().filter(|last| *last > next) else { return false };
            if let Some(open) = self.splits.get_mut(&last.1) {
                open.reader.release();
            }
            self.note(last.1);
            // One that does not give up what it holds is not asked again.
            self.holders.remove(&last);
        }
        true
    }

    /// The split that comes after one in the order of event time.
    fn after(&self, place: Option<(EventTime, u64)>) -> Option<(EventTime, u64)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.order.range((place.map_or(Unbounded, Excluded), Unbounded)).next().copied()
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
            self.add(split, reader, EventTime::MIN);
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
            let (mut place, mut ended) = (None, None);
            while let Some(next) = self.after(place) {
                let (_, number) = next;
                place = Some(next);
                let begins = |open: &OpenSplit| open.held == 0 && open.reader.held().is_some();
                if self.splits.get(&number).is_some_and(begins) && !self.make_room(next) {
                    // Those that come before it have asked for as much as there may be.
                    break;
                }
                let Some(open) = self.splits.get_mut(&number) else { continue };
                let read = open.reader.poll_read(cx);
                self.note(number);
                match read {
                    Poll::Pending => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Ready(Ok(Read::Rows(rows))) => {
                        return Poll::Ready(self.advance(number, &rows).map(|()| SourceRead::Rows(rows)));
                    }
                    Poll::Ready(Ok(Read::End)) => {
                        ended = Some(number);
                        break;
                    }
                }
            }
            let Some(number) = ended else { return self.poll_idle(cx).map(|()| Ok(SourceRead::Quiet)) };
            self.end(number);
            if self.discovery.is_some() {
                // The others may let the watermark advance now.
                return Poll::Ready(Ok(SourceRead::Quiet));
            }
        }
    }

    /// A split has been read.
    fn end(&mut self, number: u64) {
        let Some(open) = self.splits.remove(&number) else { return };
        self.order.remove(&(open.time, number));
        self.holders.remove(&(open.time, number));
        self.held -= open.held;
        self.progress = self.progress.map(|sum| sum - open.progress);
        match self.discovery {
            Some(_) => self.watermarks.remove(number),
            None => self.watermarks.advance(number, EventTime::MAX),
        }
        self.done.push(SplitState {
            position: open.reader.position(),
            id: open.split.id,
            watermark: EventTime::MAX.0,
            is_done: true,
        });
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
        for (number, open) in &mut self.splits {
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
                self.watermarks.set_idle(*number, open.is_idle);
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

    fn advance(&mut self, number: u64, rows: &RecordBatch) -> Result<(), TaskError> {
        self.rows += rows.num_rows() as u64;
        if let Some(throttle) = &mut self.throttle {
            throttle.rows += rows.num_rows() as u64;
        }
        let Some(open) = self.splits.get_mut(&number) else { return Ok(()) };
        open.quiet_since = None;
        if std::mem::take(&mut open.is_idle) {
            self.watermarks.set_idle(number, false);
        }
        let Some(watermark) = &self.watermark else { return Ok(()) };
        let times = watermark.evaluate(rows).map_err(crate::operator::OperatorError::from)?;
        let times = at_or_before(&times, TimeUnit::Millisecond)
            .map_err(|source| crate::operator::OperatorError::Compute { source })?;
        if let Some(highest) = max(times.as_primitive::<TimestampMillisecondType>()) {
            self.watermarks.advance(number, EventTime(highest));
            let before = std::mem::replace(&mut open.time, self.watermarks.of(number));
            for places in [&mut self.order, &mut self.holders] {
                if places.remove(&(before, number)) {
                    places.insert((open.time, number));
                }
            }
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
        let open = self.splits.values().map(|open| SplitState {
            id: open.split.id.clone(),
            position: open.reader.position(),
            watermark: open.time.0,
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
        let all = (self.splits.len() + self.done.len()).max(1);
        let of_open = self.progress.or(self.splits.is_empty().then_some(0.0))?;
        Some(((of_open + self.done.len() as f64) / all as f64 * 1e6) as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, TimestampMillisecondArray};
    use async_trait::async_trait;
    use millrace_sql::plan::Expr;

    use super::*;
    use crate::source::SourceError;

    /// So many bytes are fetched at a time.
    const FETCHED: usize = HELD_BYTES_MAX / 4;

    /// What all splits hold, and the most that they did.
    #[derive(Default)]
    struct Held {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    /// Fetches, and then gives two rows a time, until it has none.
    struct Fetcher {
        times: Vec<i64>,
        held: Arc<Held>,
        has_fetched: bool,
    }

    impl Fetcher {
        fn hold(&mut self, is_held: bool) {
            match (std::mem::replace(&mut self.has_fetched, is_held), is_held) {
                (false, true) => {
                    let now = self.held.now.fetch_add(FETCHED, Ordering::Relaxed) + FETCHED;
                    self.held.most.fetch_max(now, Ordering::Relaxed);
                }
                (true, false) => {
                    self.held.now.fetch_sub(FETCHED, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    impl SplitReader for Fetcher {
        fn poll_read(&mut self, _: &mut Context<'_>) -> Poll<Result<Read, SourceError>> {
            if !self.has_fetched {
                self.hold(true);
                return Poll::Pending;
            }
            if self.times.is_empty() {
                self.hold(false);
                return Poll::Ready(Ok(Read::End));
            }
            let rest = self.times.split_off(self.times.len().min(2));
            let times: ArrayRef =
                Arc::new(TimestampMillisecondArray::from(std::mem::replace(&mut self.times, rest)));
            Poll::Ready(Ok(Read::Rows(RecordBatch::try_from_iter([("ts", times)]).unwrap())))
        }

        fn position(&self) -> Vec<u8> {
            Vec::new()
        }

        fn held(&self) -> Option<usize> {
            Some(if self.has_fetched { FETCHED } else { 0 })
        }

        fn release(&mut self) {
            self.hold(false);
        }
    }

    struct NoConnector;

    #[async_trait]
    impl SourceConnector for NoConnector {
        async fn splits(&self, _: u32) -> Result<Vec<Split>, SourceError> {
            Ok(Vec::new())
        }

        fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
            Err(SourceError::Data { message: format!("there is no split '{}'", split.id) })
        }

        fn is_bounded(&self) -> bool {
            true
        }

        fn position_text(&self, _: &[u8]) -> String {
            String::new()
        }
    }

    /// The times that are read, in order, and how many bytes were held at most.
    fn read(splits: Vec<Vec<i64>>, has_watermark: bool) -> (Vec<i64>, usize) {
        let held = Arc::new(Held::default());
        let splits = splits.into_iter().enumerate().map(|(number, times)| {
            let state = SplitState {
                id: number.to_string(),
                position: Vec::new(),
                watermark: EventTime::MIN.0,
                is_done: false,
            };
            let reader = Fetcher { times, held: Arc::clone(&held), has_fetched: false };
            (state, Some(Box::new(reader) as Box<dyn SplitReader>))
        });
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0]));
        let schema = RecordBatch::try_from_iter([("ts", times)]).unwrap().schema();
        let column = Expr::column(0);
        let watermark = has_watermark.then(|| Evaluator::new(&column, &schema).unwrap());
        let mut head =
            SourceHead::new(Vec::new(), Arc::new(NoConnector), None, splits.collect(), watermark, None, None);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut read = Vec::new();
        for _ in 0..100_000 {
            match head.poll_read(&mut cx) {
                Poll::Ready(Ok(SourceRead::Rows(rows))) => {
                    read.extend(rows.column(0).as_primitive::<TimestampMillisecondType>().values());
                }
                Poll::Ready(Ok(SourceRead::Exhausted)) => {
                    assert_eq!(held.now.load(Ordering::Relaxed), 0);
                    assert_eq!(head.progress_ppm(), Some(1_000_000));
                    return (read, held.most.load(Ordering::Relaxed));
                }
                Poll::Ready(Ok(SourceRead::Quiet)) | Poll::Pending => {}
                Poll::Ready(Err(error)) => panic!("{error}"),
            }
        }
        panic!("not read after 100000 turns: {read:?}")
    }

    #[test]
    fn splits_are_read_in_the_order_of_event_time_and_hold_no_more_than_they_may() {
        let splits = || (0..100).map(|day| (0..10).map(|hour| day * 10 + hour).collect()).collect();
        let all: Vec<i64> = (0..1000).collect();
        // Without a watermark they come one after the other.
        assert_eq!(read(splits(), false), (all.clone(), HELD_BYTES_MAX));

        // With one, all begin, and those that are later than others wait and hold nothing.
        let (mut rows, most) = read(splits(), true);
        let begins: Vec<i64> = (0..100).flat_map(|day| [day * 10, day * 10 + 1]).collect();
        let (begun, rest) = rows.split_at(begins.len());
        assert_eq!(begun, begins);
        assert!(rest.is_sorted(), "{rest:?}");
        rows.sort_unstable();
        assert_eq!((rows, most), (all, HELD_BYTES_MAX));
    }
}
