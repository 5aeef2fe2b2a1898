//! Files in folders by the values of columns: `day=2024-02-29/channel=web/part-…`, as Hive and Flink lay them out.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::functions::texts;
use millrace_sql::plan::Table;

use super::{Committable, SinkCommitter, SinkConnector, SinkError, SinkWriter, Trouble};
use crate::folders::escaped;
use crate::model::{Batch, Epoch, Subtask};
use crate::options::TableOptions;

/// Where files are, and who writes them.
pub trait Place: Send + Sync {
    /// The writers of a subtask.
    fn folders(&self, subtask: Subtask) -> Box<dyn Folders>;

    /// The committer of all folders, which are so many levels below the place.
    fn committer(&self, levels: usize) -> Box<dyn SinkCommitter>;

    /// As of [`SinkWriter::trouble`], for all writers.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// What the writers of one subtask share, whichever folder they write into.
pub trait Folders: Send {
    /// A writer into a folder below the place; with "" into the place itself. `epoch` is the one that its first rows belong to.
    ///
    /// # Errors
    /// If there can be no folder of this name.
    fn writer(&self, folder: &str, epoch: Epoch) -> Result<Box<dyn FolderWriter>, SinkError>;

    /// Bytes that all writers may hold together.
    fn held_max(&self) -> usize;

    /// As of [`SinkWriter::poll_ready`], for all writers.
    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes the rows of one folder.
pub trait FolderWriter: SinkWriter {
    /// Bytes of memory that the rows of the open file take.
    fn held(&self) -> usize;

    /// Gives them back; more rows may come.
    fn release(&mut self) -> Result<(), SinkError>;
}

/// The columns that name folders.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    columns: Vec<(usize, String)>,
    /// The columns of the files.
    rest: Vec<usize>,
    /// What NULL and empty texts are called.
    default_name: String,
}

impl Partitions {
    /// Reads what the table says of them.
    pub fn new(options: &mut TableOptions<'_>, table: &Table) -> Self {
        let default_name = options.optional("partition.default-name");
        let names = table.schema.iter().flat_map(|schema| &schema.fields).map(|field| field.name.as_str());
        let names: Vec<&str> = names.collect();
        let position = |name: &String| names.iter().position(|known| known == name);
        let columns: Vec<(usize, String)> =
            table.partitioned_by.iter().filter_map(|name| Some((position(name)?, name.clone()))).collect();
        let is_rest = |column: &usize| columns.iter().all(|(partition, _)| partition != column);
        Partitions {
            rest: (0..names.len()).filter(is_rest).collect(),
            columns,
            default_name: default_name.unwrap_or_else(|| "__DEFAULT_PARTITION__".to_owned()),
        }
    }

    /// Rows by the folders that they belong to, without the columns that say so.
    fn divide(&self, batch: &Batch) -> Result<BTreeMap<String, Batch>, SinkError> {
        let data = |error: &dyn std::fmt::Display| SinkError::Data { message: error.to_string() };
        let values = self.columns.iter().map(|(column, _)| texts(batch.records.column(*column)));
        let values: Vec<StringArray> = values.collect::<Result<_, _>>().map_err(|error| data(&error))?;
        let is_boolean: Vec<bool> = self
            .columns
            .iter()
            .map(|(column, _)| *batch.records.column(*column).data_type() == DataType::Boolean)
            .collect();
        let mut by_folder: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.rows() {
            let parts =
                self.columns.iter().zip(&values).zip(&is_boolean).map(|(((_, name), values), small)| {
                    let value =
                        values.is_valid(row).then(|| values.value(row)).filter(|value| !value.is_empty());
                    let value = escaped(value.unwrap_or(&self.default_name));
                    // CAST writes TRUE, and paths have true.
                    let value =
                        if *small && values.is_valid(row) { value.to_ascii_lowercase() } else { value };
                    format!("{}={value}", escaped(name))
                });
            by_folder.entry(parts.collect::<Vec<_>>().join("/")).or_default().push(row as u32);
        }
        let rest = batch.records.project(&self.rest).map_err(|error| data(&error))?;
        let of_folder = |(folder, rows): (String, Vec<u32>)| {
            let rows = match rows.len() == rest.num_rows() {
                true => rest.clone(),
                false => take_record_batch(&rest, &UInt32Array::from(rows)).map_err(|error| data(&error))?,
            };
            Ok((folder, Batch::inserts(rows)))
        };
        by_folder.into_iter().map(of_folder).collect()
    }
}

/// Writes all rows into one folder, or each into that of its partition.
pub struct PlacedFiles {
    pub place: Arc<dyn Place>,
    pub partitions: Partitions,
    pub first_epoch: Epoch,
}

impl SinkConnector for PlacedFiles {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        let folders = self.place.folders(subtask);
        if self.partitions.columns.is_empty() {
            return Ok(folders.writer("", self.first_epoch)?);
        }
        Ok(Box::new(PartitionedWriter {
            folders,
            trouble: self.place.trouble(),
            partitions: self.partitions.clone(),
            epoch: self.first_epoch,
            open: BTreeMap::new(),
            held: 0,
        }))
    }

    fn committer(&self) -> Option<Box<dyn SinkCommitter>> {
        Some(self.place.committer(self.partitions.columns.len()))
    }
}

struct PartitionedWriter {
    folders: Box<dyn Folders>,
    trouble: Option<Trouble>,
    partitions: Partitions,
    /// The epoch that the rows at hand belong to.
    epoch: Epoch,
    /// Writers of the folders that have rows in this epoch.
    open: BTreeMap<String, Box<dyn FolderWriter>>,
    /// Bytes that these hold.
    held: usize,
}

impl PartitionedWriter {
    /// The writers that hold most give it back, until half of what all may hold is free.
    fn release(&mut self) -> Result<(), SinkError> {
        let mut holding: Vec<_> = self.open.values_mut().map(|writer| (writer.held(), writer)).collect();
        holding.sort_unstable_by_key(|(held, _)| Reverse(*held));
        for (held, writer) in holding {
            if self.held <= self.folders.held_max() / 2 {
                break;
            }
            writer.release()?;
            self.held = self.held + writer.held() - held;
        }
        Ok(())
    }
}

impl SinkWriter for PartitionedWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        for (folder, rows) in self.partitions.divide(batch)? {
            let writer = match self.open.entry(folder) {
                Entry::Occupied(writer) => writer.into_mut(),
                Entry::Vacant(place) => {
                    let writer = self.folders.writer(place.key(), self.epoch)?;
                    place.insert(writer)
                }
            };
            let before = writer.held();
            writer.write(&rows)?;
            self.held = self.held + writer.held() - before;
            if self.held > self.folders.held_max() {
                self.release()?;
            }
        }
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.folders.poll_ready(cx)
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        self.epoch = epoch.next();
        self.held = 0;
        let writers = std::mem::take(&mut self.open).into_values();
        let prepared: Vec<_> = writers.map(|mut writer| writer.prepare(epoch)).collect();
        async move { Ok(futures::future::try_join_all(prepared).await?.concat()) }.boxed()
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.clone()
    }
}
