//! Dataflow operators: synchronous, vectorised, pushed by the task driver.
//!
//! An operator sees batches, watermarks and barriers in order. What it emits goes to a [`Collector`], which is the next
//! operator of the chain or the task's output. State belongs to the operator; only [`Operator::snapshot`] and
//! [`Operator::restore`] let it out and in.

pub mod accumulator;
pub mod calc;
pub mod changelog_normalize;
mod changing;
pub mod group_aggregate;
mod kept;
pub mod local_aggregate;
pub mod local_group_aggregate;
mod recurrence;
pub mod session_aggregate;
mod slice;
mod stacks;
#[cfg(test)]
mod testing;
pub mod window_aggregate;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::error::ArrowError;
use millrace_sql::evaluate::EvaluateError;
use snafu::Snafu;

use crate::model::key_encoding::KeyError;
use crate::model::{Batch, EventTime};
use crate::state::{
    AwayRows, BlockRow, ColdChunk, Extent, LocalDisk, RestoreError, StateError, TableImage, TableSnapshot,
};

/// A row could not be processed.
#[derive(Debug, Snafu)]
pub enum OperatorError {
    #[snafu(transparent)]
    Evaluate { source: EvaluateError },
    #[snafu(display("failed to compute over a batch"))]
    Compute { source: ArrowError },
    #[snafu(transparent)]
    Key { source: KeyError },
    /// As Flink, which lets no such row pass either.
    #[snafu(display(
        "the event time of a row is NULL, so that it belongs to no window; leave such rows out with WHERE … IS NOT NULL, or give them a time"
    ))]
    NoTime,
    #[snafu(display("the plan of the operator is malformed: {message}"))]
    Plan { message: String },
    #[snafu(display("the state of table '{table}' is malformed"))]
    State { table: String },
    #[snafu(transparent)]
    Away { source: StateError },
    /// The end of the chain does not take the rows.
    #[snafu(display("{message}"))]
    Refused { message: String, kind: &'static str, is_permanent: bool },
}

/// Takes what an operator emits.
pub trait Collector {
    /// Takes a batch.
    fn batch(&mut self, batch: Batch) -> Result<(), OperatorError>;
}

/// Whether an operator has emitted all that a watermark made due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// Call [`Operator::watermark`] again with the same time once the output has room.
    More,
}

/// State of one table at a barrier.
#[derive(Debug, Clone)]
pub struct OperatorTable {
    pub name: Cow<'static, str>,
    /// Divides a table into parts that are dropped as a whole, such as slices of windows.
    pub namespace: i64,
    pub snapshot: TableSnapshot,
    /// How much it holds: it takes the place of earlier snapshots of this part that hold no more.
    pub extent: Extent,
}

/// An operator's state at a barrier.
#[derive(Debug, Clone, Default)]
pub struct OperatorSnapshot {
    /// Event time up to which windows have fired; only of operators with timers.
    pub watermark: Option<EventTime>,
    /// Rows that came after their windows had fired, since the job's first start.
    pub late_rows: u64,
    /// Every part that lives, also if nothing in it changed; a part that is missing is dropped.
    pub tables: Vec<OperatorTable>,
}

impl OperatorError {
    /// True if the same row would fail again.
    pub fn is_permanent(&self) -> bool {
        match self {
            OperatorError::Refused { is_permanent, .. } => *is_permanent,
            OperatorError::Away { source } => source.is_permanent(),
            _ => true,
        }
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            OperatorError::Refused { kind, .. } => kind,
            OperatorError::Away { source } => source.kind(),
            _ => "InvalidData",
        }
    }
}

/// One step of a chain.
pub trait Operator: Send {
    /// Processes rows.
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError>;

    /// Event time has come to `time`. Emits what is due, some batches at a time.
    fn watermark(&mut self, _time: EventTime, _out: &mut dyn Collector) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// The input has nothing more for now: emits what is held back and waited for.
    fn quiet(&mut self, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Emits all that is held back for the sake of larger batches.
    fn flush(&mut self, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        Ok(())
    }

    /// The state at a barrier. `is_full` asks for everything instead of changes.
    fn snapshot(&mut self, _is_full: bool) -> Result<OperatorSnapshot, OperatorError> {
        Ok(OperatorSnapshot::default())
    }

    /// Sets the watermark up to which windows had fired, and how many rows had been late.
    fn restore_watermark(&mut self, _time: EventTime, _late_rows: u64) {}

    /// Puts a row of a snapshot back.
    fn restore(&mut self, table: &str, _namespace: i64, _row: BlockRow<'_>) -> Result<(), OperatorError> {
        StateSnafu { table }.fail()
    }

    /// Puts rows of a snapshot back that are still to come, and leaves out keys that it says are removed. Gives the chunk that waits for
    /// the rows.
    fn attach(
        &mut self,
        table: &str,
        _namespace: i64,
        _rows: AwayRows,
        _removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        StateSnafu { table }.fail()
    }

    /// Makes a table what it was at the barrier, instead of restoring its rows.
    fn roll_back(&mut self, table: &str, _namespace: i64, _image: &TableImage) -> Result<(), OperatorError> {
        StateSnafu { table }.fail()
    }

    /// Puts about so many bytes of state that is used least on the local disk.
    fn spill(&mut self, _bytes: usize, _disk: &LocalDisk) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Brings about so many bytes of state into memory that are on the disk.
    fn warm_up(&mut self, _bytes: usize) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Bytes of state in memory, roughly.
    fn memory_bytes(&self) -> usize {
        0
    }

    /// What is counted: late rows so far, bytes of state.
    fn figures(&self) -> OperatorFigures {
        OperatorFigures::default()
    }
}

/// What went wrong when a row of a table was put back.
fn in_table(table: &str) -> impl FnOnce(RestoreError) -> OperatorError + '_ {
    move |error| match error {
        RestoreError::Malformed => OperatorError::State { table: table.to_owned() },
        RestoreError::Disk { source } => source.into(),
    }
}

/// Figures of one operator for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperatorFigures {
    pub late_rows: u64,
    pub state_bytes: u64,
}
