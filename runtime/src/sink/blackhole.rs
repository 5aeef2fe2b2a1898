//! Takes every value of every row, keeps a checksum of each column, and throws the rows away.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::checksum::Checksums;
use super::{Committable, SinkConnector, SinkError, SinkWriter};
use crate::model::{Batch, Epoch, Subtask};

/// The sink that keeps nothing but checksums.
pub struct Blackhole;

impl SinkConnector for Blackhole {
    fn writer(&self, _: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        Ok(Box::new(BlackholeWriter { checksums: Checksums::default() }))
    }
}

struct BlackholeWriter {
    checksums: Checksums,
}

impl SinkWriter for BlackholeWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.checksums.add(batch).map_err(|error| SinkError::Data { message: error.to_string() })
    }

    fn prepare(&mut self, _: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn checksums(&self) -> &[u64] {
        self.checksums.columns()
    }
}
