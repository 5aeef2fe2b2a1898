//! Takes every value of every row and throws it away.

use std::hint::black_box;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Committable, SinkConnector, SinkError, SinkWriter};
use crate::model::{Batch, Epoch, Subtask};

/// The sink that keeps nothing.
pub struct Blackhole;

impl SinkConnector for Blackhole {
    fn writer(&self, _: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        Ok(Box::new(BlackholeWriter))
    }
}

struct BlackholeWriter;

impl SinkWriter for BlackholeWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        for column in batch.records.columns() {
            // Every buffer is read, so that no column is left uncomputed.
            for buffer in column.to_data().buffers() {
                black_box(
                    buffer.as_slice().iter().step_by(64).fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
                );
            }
        }
        Ok(())
    }

    fn prepare(&mut self, _: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}
