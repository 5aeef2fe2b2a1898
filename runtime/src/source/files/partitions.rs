//! Columns that folders name: `day=2024-02-29/channel=web/part-…`, as sinks with PARTITIONED BY write them.

use arrow::array::{ArrayRef, StringArray, UInt32Array, new_null_array};
use arrow::compute::take;
use millrace_sql::functions::of_texts;
use millrace_sql::plan::{Leaf, Source as SourcePlan};

use super::super::{SourceError, is_of};
use crate::folders::{escaped, unescaped};
use crate::options::TableOptions;

/// The columns of a source that are not in its files.
#[derive(Debug, Clone, Default)]
pub struct FolderColumns {
    /// All that folders name.
    pub names: Vec<String>,
    /// Those that are read.
    leaves: Vec<Leaf>,
    /// What NULL and empty texts are called.
    default_name: String,
}

/// The values of one file's rows.
pub type OfFile = Vec<ArrayRef>;

impl FolderColumns {
    /// Reads what the table says of them.
    pub fn new(plan: &SourcePlan, options: &mut TableOptions<'_>) -> Self {
        let default_name = options.optional("partition.default-name");
        let names = plan.table.as_ref().map_or_else(Vec::new, |table| table.partitioned_by.clone());
        FolderColumns {
            leaves: plan.leaves.iter().filter(|leaf| is_of(leaf, &names)).cloned().collect(),
            names,
            default_name: default_name.unwrap_or_else(|| "__DEFAULT_PARTITION__".to_owned()),
        }
    }

    /// The values that a file's folders name, each once. `path`: below the table's.
    ///
    /// # Errors
    /// If a folder is not there, or if its name is no value of the column.
    pub fn of_file(&self, url: &str, path: &str) -> Result<OfFile, SourceError> {
        self.leaves.iter().map(|leaf| self.value(leaf, url, path)).collect()
    }

    fn value(&self, leaf: &Leaf, url: &str, path: &str) -> Result<ArrayRef, SourceError> {
        let to = leaf.data_type.clone().unwrap_or_default();
        let name = leaf.path.first().map_or("", String::as_str);
        let begins = format!("{}=", escaped(name));
        let Some(value) = path.split('/').rev().skip(1).find_map(|folder| folder.strip_prefix(&begins))
        else {
            let folders: Vec<String> = self.names.iter().map(|name| format!("{}=…", escaped(name))).collect();
            return Err(SourceError::Data {
                message: format!(
                    "'{url}' is in no folder '{begins}…': files of a table with PARTITIONED BY are below '{}'; move it there, or \
                     take '{name}' out of PARTITIONED BY",
                    folders.join("/")
                ),
            });
        };
        let value = unescaped(value);
        if value == self.default_name {
            return Ok(new_null_array(&to.to_arrow(), 1));
        }
        of_texts(&StringArray::from(vec![value.as_str()]), &to.to_arrow()).map_err(|_| SourceError::Data {
            message: format!(
                "the folder '{begins}{value}' of '{url}' names no {to}, which the column '{name}' is"
            ),
        })
    }
}

/// As many of them as there are rows.
///
/// # Errors
/// If the values cannot be repeated, which no input causes.
pub fn repeated(of_file: &OfFile, rows: usize) -> Result<Vec<ArrayRef>, SourceError> {
    let first = UInt32Array::from(vec![0; rows]);
    let columns = of_file.iter().map(|value| take(value, &first, None));
    columns.collect::<Result<_, _>>().map_err(|error| SourceError::Data { message: error.to_string() })
}
