//! The event loop of a task: the only place where rows meet control messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::chain::{Branches, Tail};
use super::source_head::{SourceHead, SourceRead};
use super::{SinkSnapshot, SourceSnapshot, TaskControl, TaskError, TaskEvent, TaskFigures, TaskSnapshot};
use crate::clock::Clock;
use crate::exchange::{Gate, Inbox, Passed};
use crate::fault::CrashAfterRows;
use crate::model::{Barrier, Batch, Element, EventTime};
use crate::sink::checksum;
use crate::state::TaskMemory;

/// Where a task's rows come from.
pub enum Head {
    Source(Box<SourceHead>),
    Gate { inbox: Arc<Inbox>, gate: Gate },
}

/// A task ready to run.
pub struct Task {
    pub chain_index: usize,
    pub subtask: u32,
    pub head: Head,
    pub branches: Branches,
    pub control: mpsc::Receiver<TaskControl>,
    pub events: mpsc::Sender<TaskEvent>,
    pub figures: Arc<TaskFigures>,
    /// Set when a snapshot got lost: the next one must hold everything.
    pub needs_full_snapshot: Arc<AtomicBool>,
    pub crash: Option<Arc<CrashAfterRows>>,
    pub clock: Clock,
    pub memory: TaskMemory,
    /// Bytes of input since the state was measured last.
    pub unmeasured: usize,
}

enum Event {
    Control(TaskControl),
    Read(SourceRead),
    Passed(Passed),
}

impl Task {
    /// Runs until it fails or is dropped. Dropping is safe at any time: whatever it has done since the last complete
    /// checkpoint is done again by the next generation.
    pub async fn run(mut self) -> Result<(), TaskError> {
        self.figures.watermark_ms.store(EventTime::MIN.0, Ordering::Relaxed);
        let began = self.clock.elapsed().as_micros() as u64;
        self.figures.began_us.store(began.max(1), Ordering::Relaxed);
        if let Head::Source(source) = &mut self.head
            && source.begins_idle()
        {
            self.branches.control(Element::Idle).await?;
        }
        loop {
            match self.next().await? {
                Event::Control(TaskControl::Barrier(barrier)) => self.barrier(barrier).await?,
                Event::Read(SourceRead::Rows(rows)) => {
                    self.tell_idleness().await?;
                    let count = rows.num_rows();
                    self.batch(Batch::inserts(rows)).await?;
                    if let Some(crash) = &self.crash {
                        crash.rows(count);
                    }
                    self.source_watermark().await?;
                    // Lets the other tasks of this thread run; a source would never wait otherwise.
                    tokio::task::yield_now().await;
                }
                Event::Read(SourceRead::Quiet) => self.quiet().await?,
                Event::Read(SourceRead::Exhausted) => self.exhausted().await?,
                Event::Passed(passed) => self.passed(passed).await?,
            }
        }
    }

    /// The next event. When none is there at once, everything held back is sent before waiting.
    async fn next(&mut self) -> Result<Event, TaskError> {
        if let Some(event) = self.try_next()? {
            return Ok(event);
        }
        self.branches.quiet()?;
        self.note_rows_out();
        self.figures.backpressured.until(self.clock, self.branches.flush()).await?;
        let (clock, idle) = (self.clock, &self.figures.idle);
        let control = &mut self.control;
        match &mut self.head {
            Head::Source(source) => {
                let next = async {
                    tokio::select! {
                        biased;
                        Some(control) = control.recv() => Ok(Event::Control(control)),
                        read = std::future::poll_fn(|cx| source.poll_read(cx)) => Ok(Event::Read(read?)),
                    }
                };
                idle.until(clock, next).await
            }
            Head::Gate { inbox, gate } => loop {
                let (channel, element) =
                    idle.until(clock, inbox.next(|channel| gate.is_blocked(channel))).await;
                if let Some(passed) = gate.take(channel, element) {
                    return Ok(Event::Passed(passed));
                }
            },
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, TaskError> {
        match &mut self.head {
            Head::Source(source) => {
                if let Ok(control) = self.control.try_recv() {
                    return Ok(Some(Event::Control(control)));
                }
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                match source.poll_read(&mut cx) {
                    std::task::Poll::Ready(read) => Ok(Some(Event::Read(read?))),
                    std::task::Poll::Pending => Ok(None),
                }
            }
            Head::Gate { inbox, gate } => {
                while let Some((channel, element)) = inbox.try_next(|channel| gate.is_blocked(channel)) {
                    if let Some(passed) = gate.take(channel, element) {
                        return Ok(Some(Event::Passed(passed)));
                    }
                }
                Ok(None)
            }
        }
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), TaskError> {
        let bytes = batch.bytes();
        self.figures.rows_in.fetch_add(batch.rows() as u64, Ordering::Relaxed);
        self.figures.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        self.branches.batch(batch)?;
        self.unmeasured += bytes;
        if self.unmeasured > self.memory.unmeasured_max() {
            self.fit_into_memory()?;
        }
        self.note_rows_out();
        self.flush_due().await
    }

    fn fit_into_memory(&mut self) -> Result<(), TaskError> {
        self.unmeasured = 0;
        self.branches.fit_into(&mut self.memory)?;
        self.figures.state_memory_bytes.store(self.memory.held() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn flush_due(&mut self) -> Result<(), TaskError> {
        self.figures.backpressured.until(self.clock, self.branches.flush_due()).await
    }

    fn note_rows_out(&self) {
        let (mut sent_rows, mut sent_bytes, mut written) = (0, 0, 0);
        let mut operators = self.figures.operators.lock();
        operators.clear();
        self.branches.each_chain(&mut |chain| {
            operators.extend(chain.operators());
            sent_rows += chain.sent().rows;
            sent_bytes += chain.sent().bytes;
            if let Tail::Sink { rows, .. } = &chain.tail {
                written += rows;
            }
        });
        drop(operators);
        let figures = &self.figures;
        figures.sent_rows.store(sent_rows, Ordering::Relaxed);
        figures.sent_bytes.store(sent_bytes, Ordering::Relaxed);
        figures.rows_out.store(written, Ordering::Relaxed);
    }

    async fn source_watermark(&mut self) -> Result<(), TaskError> {
        let Head::Source(source) = &mut self.head else { return Ok(()) };
        let time = source.advanced_watermark();
        self.figures.skipped_records.store(source.skipped(), Ordering::Relaxed);
        if let Some(progress) = source.progress_ppm() {
            self.figures.progress_ppm.store(progress, Ordering::Relaxed);
        }
        match time {
            Some(time) => self.watermark(time).await,
            None => Ok(()),
        }
    }

    async fn watermark(&mut self, time: EventTime) -> Result<(), TaskError> {
        self.branches.watermark(time).await?;
        self.note_rows_out();
        self.figures.watermark_ms.store(time.0, Ordering::Relaxed);
        self.flush_due().await
    }

    async fn quiet(&mut self) -> Result<(), TaskError> {
        self.source_watermark().await?;
        self.tell_idleness().await
    }

    /// Tells downstream when all splits have become idle, and when one is active again.
    async fn tell_idleness(&mut self) -> Result<(), TaskError> {
        let Head::Source(source) = &mut self.head else { return Ok(()) };
        match source.idle_change() {
            Some(true) => {
                self.branches.flush_operators()?;
                self.branches.control(Element::Idle).await?;
            }
            Some(false) => self.branches.control(Element::Active).await?,
            None => {}
        }
        Ok(())
    }

    async fn exhausted(&mut self) -> Result<(), TaskError> {
        // The last watermark of an idle channel would not count.
        self.tell_idleness().await?;
        self.source_watermark().await?;
        self.branches.flush_operators()?;
        self.branches.flush().await?;
        let event = TaskEvent::Exhausted { chain: self.chain_index, subtask: self.subtask };
        tell(&self.events, event).await;
        Ok(())
    }

    async fn passed(&mut self, passed: Passed) -> Result<(), TaskError> {
        match passed {
            Passed::Batch(batch) => self.batch(batch).await,
            Passed::Watermark(time) => self.watermark(time).await,
            Passed::Barrier(barrier) => self.barrier(barrier).await,
            Passed::Idle => Ok(self.branches.control(Element::Idle).await?),
            Passed::Active => Ok(self.branches.control(Element::Active).await?),
        }
    }

    async fn barrier(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        self.branches.flush_operators()?;
        self.note_rows_out();
        let snapshot = self.snapshot(barrier)?;
        self.fit_into_memory()?;
        // The snapshot goes first: the barrier may wait for credit, and the upload need not.
        tell(&self.events, TaskEvent::Snapshot(snapshot)).await;
        self.figures.backpressured.until(self.clock, self.branches.barrier(barrier)).await?;
        Ok(())
    }

    fn snapshot(&mut self, barrier: Barrier) -> Result<TaskSnapshot, TaskError> {
        let began = self.clock.elapsed();
        let is_full = self.needs_full_snapshot.swap(false, Ordering::Relaxed);
        let (mut late, mut bytes) = (0, 0);
        let (mut operators, mut sinks) = (Vec::new(), Vec::new());
        self.branches.each_chain_mut(&mut |chain| {
            for step in &mut chain.steps {
                step.figures = step.operator.figures();
                late += step.figures.late_rows;
                bytes += step.figures.state_bytes;
                operators.push((step.index, step.operator.snapshot(is_full)?));
            }
            if let Tail::Sink { index, writer, rows, restored_checksums } = &mut chain.tail {
                let checksums =
                    checksum::sum([restored_checksums.as_slice(), writer.checksums()].into_iter());
                sinks.push(SinkSnapshot {
                    operator: *index,
                    prepared: writer.prepare(barrier.epoch),
                    trouble: writer.trouble(),
                    rows: *rows,
                    checksums,
                });
            }
            Ok(())
        })?;
        self.figures.late_rows.store(late, Ordering::Relaxed);
        self.figures.state_bytes.store(bytes, Ordering::Relaxed);
        let sources = match &self.head {
            Head::Source(source) => {
                let splits = source.snapshot();
                let of_operator =
                    |(operator, rows)| SourceSnapshot { operator, splits: splits.clone(), rows };
                source.rows_of_operators().map(of_operator).collect()
            }
            Head::Gate { .. } => Vec::new(),
        };
        Ok(TaskSnapshot {
            epoch: barrier.epoch,
            chain: self.chain_index,
            subtask: self.subtask,
            operators,
            sources,
            sinks,
            stop: self.clock.elapsed().saturating_sub(began),
        })
    }
}

async fn tell(events: &mpsc::Sender<TaskEvent>, event: TaskEvent) {
    // The worker only goes away together with its tasks.
    let _ = events.send(event).await;
}
