//! Which columns of a source come out of its records, and which the connector knows by itself.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millrace_sql::plan::Leaf;

use super::SourceError;
use crate::format::leaf_schema;

/// The order of a source's columns.
#[derive(Debug, Clone)]
pub struct Layout {
    schema: SchemaRef,
    places: Vec<Place>,
    metadata: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// So manieth column of the record.
    Record(usize),
    /// So manieth of the metadata.
    Metadata(usize),
    /// So manieth column of the record's key.
    Key(usize),
}

impl Layout {
    /// The layout of a source's leaves, of which some come out of keys.
    pub fn new(leaves: &[Leaf], is_in_key: impl Fn(&Leaf) -> bool) -> Self {
        let (mut of_record, mut of_key, mut metadata) = (0, 0, Vec::new());
        let place = |leaf: &Leaf| {
            if is_in_key(leaf) {
                of_key += 1;
                return Place::Key(of_key - 1);
            }
            if leaf.metadata.is_empty() {
                of_record += 1;
                return Place::Record(of_record - 1);
            }
            metadata.push(leaf.metadata.clone());
            Place::Metadata(metadata.len() - 1)
        };
        let places = leaves.iter().map(place).collect();
        Layout { schema: leaf_schema(leaves), places, metadata }
    }

    /// Keys of the metadata that are read, in order.
    pub fn metadata(&self) -> &[String] {
        &self.metadata
    }

    /// Puts the columns of records, of their metadata and of their keys together.
    ///
    /// # Errors
    /// If they are not of the table's types, or not as many as there are rows.
    pub fn join(
        &self,
        records: RecordBatch,
        metadata: &[ArrayRef],
        keys: &[ArrayRef],
    ) -> Result<RecordBatch, SourceError> {
        if self.metadata.is_empty() && keys.is_empty() {
            return Ok(records);
        }
        let column = |place: &Place| match place {
            Place::Key(index) => keys.get(*index).cloned(),
            Place::Record(index) => records.columns().get(*index).cloned(),
            Place::Metadata(index) => metadata.get(*index).cloned(),
        };
        let columns = self.places.iter().filter_map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|error| {
            SourceError::Data { message: format!("the metadata or keys do not fit the table: {error}") }
        })
    }
}
