//! What flows between operators: rows in batches, and control in band between them.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::ids::Epoch;

/// Event time in milliseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before all rows: no watermark has been seen.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// After all rows: a bounded input has ended.
    pub const MAX: EventTime = EventTime(i64::MAX);
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            EventTime::MIN => f.write_str("-"),
            EventTime::MAX => f.write_str("end"),
            EventTime(ms) => match chrono::DateTime::from_timestamp_millis(ms) {
                Some(time) => write!(f, "{}", time.format("%Y-%m-%d %H:%M:%S%.3f")),
                None => write!(f, "{ms} ms"),
            },
        }
    }
}

/// What a row means for the table that the stream describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    Insert = 0,
    UpdateBefore = 1,
    UpdateAfter = 2,
    Delete = 3,
}

impl RowKind {
    /// From its number.
    pub fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => RowKind::Insert,
            1 => RowKind::UpdateBefore,
            2 => RowKind::UpdateAfter,
            3 => RowKind::Delete,
            _ => return None,
        })
    }

    /// True if the row was in the table and is taken out.
    pub fn is_retraction(self) -> bool {
        matches!(self, RowKind::UpdateBefore | RowKind::Delete)
    }

    /// As Flink writes it.
    pub fn sign(self) -> &'static str {
        match self {
            RowKind::Insert => "+I",
            RowKind::UpdateBefore => "-U",
            RowKind::UpdateAfter => "+U",
            RowKind::Delete => "-D",
        }
    }
}

/// Rows of one schema.
#[derive(Debug, Clone)]
pub struct Batch {
    pub records: RecordBatch,
    /// One kind a row; `None`: all are inserts.
    pub kinds: Option<Arc<[RowKind]>>,
    /// Hash of each row's encoded key, once an exchange has computed it.
    pub hashes: Option<Arc<[u64]>>,
}

impl Batch {
    /// Rows that are all inserts.
    pub fn inserts(records: RecordBatch) -> Self {
        Batch { records, kinds: None, hashes: None }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.records.num_rows()
    }

    /// Memory that the rows hold, in bytes. A slice counts as its own part of the buffers.
    pub fn bytes(&self) -> usize {
        let columns = self.records.columns().iter();
        let values: usize = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum();
        let kinds = self.kinds.as_ref().map_or(0, |kinds| kinds.len());
        values + kinds + self.hashes.as_ref().map_or(0, |hashes| hashes.len() * 8)
    }
}

/// Divides the rows before it from those after it; all state taken at one barrier is one checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    pub epoch: Epoch,
}

/// One thing that flows.
#[derive(Debug, Clone)]
pub enum Element {
    Batch(Batch),
    /// No row at or before this time will follow, except late ones.
    Watermark(EventTime),
    Barrier(Barrier),
    /// Nothing is expected for a while: the channel does not hold the watermark back.
    Idle,
    /// Ends [`Element::Idle`].
    Active,
}
