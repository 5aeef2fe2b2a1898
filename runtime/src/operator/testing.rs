//! What operators' tests look at.

use arrow::util::display::array_value_to_string;

use super::{Collector, OperatorError};
use crate::model::{Batch, RowKind};

/// Rows as texts, as they are given.
#[derive(Default)]
pub struct Given(pub Vec<(RowKind, String)>);

impl Collector for Given {
    fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
        for row in 0..batch.rows() {
            let values =
                batch.records.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            let kind = batch.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[row]);
            self.0.push((kind, values.collect::<Vec<_>>().join(",")));
        }
        Ok(())
    }
}
