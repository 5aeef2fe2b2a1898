//! A task: one subtask of a chain. Wires a source or a gate, operators, and a sink or outputs.
//!
//! Only the driver is asynchronous; operators run synchronously inside of it. Barriers, watermarks and rows are seen in
//! order, so a task's state at a barrier is exactly that of the rows before it.

mod build;
mod chain;
mod discovery;
mod driver;
mod restored;
mod source_head;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use snafu::Snafu;
use tokio::sync::mpsc;

pub use build::{BuildError, BuiltTask, TaskContext, build};
pub use chain::OperatorFlow;
pub use driver::Task;
pub use restored::{AwaitedState, Restored, SubtaskImage, SubtaskKey};

use waits::Waits;

use crate::checkpoint::records::SplitState;
use crate::exchange::output::OutputError;
use crate::model::{Barrier, Epoch};
use crate::operator::{OperatorError, OperatorSnapshot};
use crate::sink::{Committable, SinkError, Trouble};
use crate::source::{Lag, SourceError};

/// A task ended early.
#[derive(Debug, Snafu)]
pub enum TaskError {
    #[snafu(transparent)]
    Source { source: SourceError },
    #[snafu(transparent)]
    Operator { source: OperatorError },
    #[snafu(transparent)]
    Output { source: OutputError },
    #[snafu(transparent)]
    Sink { source: SinkError },
}

impl TaskError {
    /// True if the same rows would fail again: a restart does not help.
    pub fn is_permanent(&self) -> bool {
        match self {
            TaskError::Source { source } => source.is_permanent(),
            TaskError::Sink { source } => source.is_permanent(),
            TaskError::Operator { source } => source.is_permanent(),
            TaskError::Output { .. } => false,
        }
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            TaskError::Source { source } => source.kind(),
            TaskError::Sink { source } => source.kind(),
            TaskError::Operator { source } => source.kind(),
            TaskError::Output { .. } => "WorkerLost",
        }
    }
}

/// What a worker tells a task.
#[derive(Debug, Clone, Copy)]
pub enum TaskControl {
    /// Sources: put this barrier between the rows.
    Barrier(Barrier),
}

/// What a task tells its worker.
pub enum TaskEvent {
    Snapshot(TaskSnapshot),
    /// A source has read all its splits.
    Exhausted {
        chain: usize,
        subtask: u32,
    },
}

/// A task's state at a barrier.
pub struct TaskSnapshot {
    pub epoch: Epoch,
    pub chain: usize,
    pub subtask: u32,
    /// State by operator index.
    pub operators: Vec<(usize, OperatorSnapshot)>,
    /// One each for the sources that the task reads for, whose splits are the same.
    pub sources: Vec<SourceSnapshot>,
    pub sinks: Vec<SinkSnapshot>,
    /// For so long the task stood still to take it.
    pub stop: Duration,
}

/// A source's state at a barrier.
pub struct SourceSnapshot {
    pub operator: usize,
    pub splits: Vec<SplitState>,
    pub rows: u64,
}

/// A sink's part of an epoch, being made durable.
pub struct SinkSnapshot {
    pub operator: usize,
    pub prepared: BoxFuture<'static, Result<Vec<Committable>, SinkError>>,
    pub trouble: Option<Trouble>,
    pub rows: u64,
    pub checksums: Vec<u64>,
}

/// How far the splits of a source are behind.
#[derive(Clone, Default)]
pub struct Lags(Arc<Mutex<Vec<Lag>>>);

impl Lags {
    fn add(&self, lag: Option<Lag>) {
        self.0.lock().extend(lag);
    }

    /// Records that are there and were not read yet, of the splits of which that is known.
    pub fn records(&self) -> Option<u64> {
        let known = self.0.lock();
        known.iter().filter_map(|lag| lag()).reduce(|sum, lag| sum + lag)
    }
}

impl std::fmt::Debug for Lags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Lags({:?})", self.records())
    }
}

/// Figures of one task, read while it runs.
#[derive(Debug, Default)]
pub struct TaskFigures {
    pub rows_in: AtomicU64,
    pub bytes_in: AtomicU64,
    /// What left the chain in this generation, to other tasks or a sink.
    pub sent_rows: AtomicU64,
    pub sent_bytes: AtomicU64,
    /// The same of each operator.
    pub operators: Mutex<Vec<OperatorFlow>>,
    /// Written by a sink since the job's first start.
    pub rows_out: AtomicU64,
    pub lags: Lags,
    pub watermark_ms: AtomicI64,
    pub late_rows: AtomicU64,
    /// Records that are no rows and were left out.
    pub skipped_records: AtomicU64,
    pub state_bytes: AtomicU64,
    /// Of them in memory.
    pub state_memory_bytes: AtomicU64,
    /// Progress of a bounded source in millionths.
    pub progress_ppm: AtomicU64,
    /// When it began to run, in microseconds of the clock; 0: it has not.
    pub began_us: AtomicU64,
    /// Waits for rows, or for time to pass.
    pub idle: Waits,
    /// Waits for those who take its rows.
    pub backpressured: Waits,
}

/// The worker's handle of a running task.
pub struct TaskHandle {
    pub chain: usize,
    pub subtask: u32,
    pub is_source: bool,
    pub control: mpsc::Sender<TaskControl>,
    pub figures: Arc<TaskFigures>,
    /// Set to make the next snapshot hold everything.
    pub needs_full_snapshot: Arc<AtomicBool>,
}
