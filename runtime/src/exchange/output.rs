//! The sending side of an edge: rows are scattered by key group and leave as full batches, or at once if the consumer
//! is idle.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use snafu::{ResultExt, Snafu};

use super::channel::{ChannelClosed, ChannelSender};
use crate::model::key_encoding::{self, KeyError};
use crate::model::key_group::hash_of;
use crate::model::{Barrier, Batch, Element, EventTime, MaxParallelism, RowKind};

/// A batch leaves when it has this many rows …
const BATCH_ROWS: usize = 4096;
/// … or this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Rows could not be sent on.
#[derive(Debug, Snafu)]
pub enum OutputError {
    #[snafu(display("failed to encode the key of an exchange"))]
    Key { source: KeyError },
    #[snafu(display("failed to scatter rows"))]
    Scatter { source: ArrowError },
    #[snafu(transparent)]
    Closed { source: ChannelClosed },
}

/// One subtask's end of an edge.
pub struct Output {
    keys: Vec<usize>,
    groups: MaxParallelism,
    targets: Vec<Target>,
}

struct Target {
    sender: ChannelSender,
    pending: Vec<RecordBatch>,
    hashes: Vec<u64>,
    /// As many as rows; empty while all are inserts.
    kinds: Vec<RowKind>,
    bytes: usize,
    watermark: Option<EventTime>,
}

/// Some of the rows; of rows without columns only their number is left.
fn taken_rows(records: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch, ArrowError> {
    if records.num_columns() == 0 {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        return RecordBatch::try_new_with_options(records.schema(), Vec::new(), &options);
    }
    take_record_batch(records, &UInt32Array::from(rows))
}

impl Output {
    /// An edge to these receivers, in subtask order, partitioned by these columns.
    pub fn new(keys: Vec<usize>, groups: MaxParallelism, senders: Vec<ChannelSender>) -> Self {
        let target = |sender| Target {
            sender,
            pending: Vec::new(),
            hashes: Vec::new(),
            kinds: Vec::new(),
            bytes: 0,
            watermark: None,
        };
        Output { keys, groups, targets: senders.into_iter().map(target).collect() }
    }

    /// Scatters a batch into the pending rows of its targets.
    pub fn push(&mut self, batch: &Batch) -> Result<(), OutputError> {
        let rows = batch.rows();
        if rows == 0 {
            return Ok(());
        }
        let hashes = match &batch.hashes {
            Some(hashes) => Arc::clone(hashes),
            None => self.hashes(&batch.records)?,
        };
        let parallelism = self.targets.len() as u32;
        if parallelism == 1 {
            self.targets[0].append(batch.records.clone(), hashes.iter().copied(), batch.kinds.as_deref());
            return Ok(());
        }
        let mut indices: Vec<Vec<u32>> = vec![Vec::new(); self.targets.len()];
        for (row, hash) in hashes.iter().enumerate() {
            let owner = self.groups.owner_of(self.groups.group_of(*hash), parallelism);
            indices[owner.0 as usize].push(row as u32);
        }
        for (target, rows) in self.targets.iter_mut().zip(indices) {
            if rows.is_empty() {
                continue;
            }
            let taken: Vec<u64> = rows.iter().map(|row| hashes[*row as usize]).collect();
            let of_rows = |kinds: &Arc<[RowKind]>| rows.iter().map(|row| kinds[*row as usize]).collect();
            let kinds: Option<Vec<RowKind>> = batch.kinds.as_ref().map(of_rows);
            let records = taken_rows(&batch.records, rows).context(ScatterSnafu)?;
            target.append(records, taken.into_iter(), kinds.as_deref());
        }
        Ok(())
    }

    fn hashes(&self, records: &RecordBatch) -> Result<Arc<[u64]>, OutputError> {
        let columns: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(records.column(*key))).collect();
        let keys = key_encoding::encode(&columns, records.num_rows()).context(KeySnafu)?;
        Ok((0..records.num_rows()).map(|row| hash_of(keys.key(row))).collect())
    }

    /// Notes a watermark; it follows the rows that are pending now.
    pub fn watermark(&mut self, time: EventTime) {
        for target in &mut self.targets {
            target.watermark = Some(time);
        }
    }

    /// Sends what is due: full batches, and everything to idle consumers.
    pub async fn flush_due(&mut self) -> Result<(), OutputError> {
        for target in &mut self.targets {
            if target.is_due() {
                target.flush().await?;
            }
        }
        Ok(())
    }

    /// Sends everything.
    pub async fn flush(&mut self) -> Result<(), OutputError> {
        for target in &mut self.targets {
            target.flush().await?;
        }
        Ok(())
    }

    /// Sends everything, then the barrier.
    pub async fn barrier(&mut self, barrier: Barrier) -> Result<(), OutputError> {
        self.control(Element::Barrier(barrier)).await
    }

    /// Sends everything, then a control element.
    pub async fn control(&mut self, element: Element) -> Result<(), OutputError> {
        self.flush().await?;
        for target in &self.targets {
            target.sender.send(element.clone()).await?;
        }
        Ok(())
    }
}

impl Target {
    fn append(&mut self, records: RecordBatch, hashes: impl Iterator<Item = u64>, kinds: Option<&[RowKind]>) {
        if kinds.is_some() || !self.kinds.is_empty() {
            self.kinds.resize(self.hashes.len(), RowKind::Insert);
            match kinds {
                Some(kinds) => self.kinds.extend_from_slice(kinds),
                None => self.kinds.resize(self.hashes.len() + records.num_rows(), RowKind::Insert),
            }
        }
        self.hashes.extend(hashes);
        self.bytes += Batch::inserts(records.clone()).bytes();
        self.pending.push(records);
    }

    fn is_due(&self) -> bool {
        let is_full = self.hashes.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES;
        is_full || ((!self.hashes.is_empty() || self.watermark.is_some()) && self.sender.is_consumer_idle())
    }

    async fn flush(&mut self) -> Result<(), OutputError> {
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let records = match pending.as_slice() {
                [only] => only.clone(),
                many => concat_batches(&many[0].schema(), many).context(ScatterSnafu)?,
            };
            let hashes = std::mem::take(&mut self.hashes).into();
            let kinds =
                Some(std::mem::take(&mut self.kinds)).filter(|kinds| !kinds.is_empty()).map(Arc::from);
            self.bytes = 0;
            self.sender.send(Element::Batch(Batch { records, kinds, hashes: Some(hashes) })).await?;
        }
        if let Some(time) = self.watermark.take() {
            self.sender.send(Element::Watermark(time)).await?;
        }
        Ok(())
    }
}
