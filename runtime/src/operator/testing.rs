//! What operators' tests look at.

use std::collections::BTreeMap;

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

impl Given {
    /// Makes a table, by the first column, what it is after these changes: each takes back what is there, and adds where nothing is.
    pub fn apply_to(self, table: &mut BTreeMap<String, String>) {
        for (kind, row) in self.0 {
            let key = row.split(',').next().unwrap().to_owned();
            if kind.is_retraction() {
                assert_eq!(table.remove(&key), Some(row));
            } else {
                assert_eq!(table.insert(key, row), None);
            }
        }
    }
}
