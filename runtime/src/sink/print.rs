//! Prints rows as they come, for trying things out. At least once: after a failure rows may be printed again.

use std::io::Write as _;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::plan::Table;
use snafu::ResultExt;

use super::{Committable, IoSnafu, SinkConnector, SinkError, SinkWriter};
use crate::model::{Batch, Epoch, RowKind, Subtask};
use crate::options::TableOptions;

/// Standard output as a sink.
pub struct Print {
    prefix: String,
}

impl Print {
    /// Reads the option 'print-identifier'; without it the table's name stands before each row.
    pub fn new(options: &mut TableOptions<'_>, table: &Table) -> Self {
        Print { prefix: options.optional("print-identifier").unwrap_or_else(|| table.name.clone()) }
    }
}

impl SinkConnector for Print {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        Ok(Box::new(PrintWriter { prefix: format!("{}:{}> ", self.prefix, subtask.0 + 1) }))
    }
}

struct PrintWriter {
    prefix: String,
}

impl SinkWriter for PrintWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let options =
            FormatOptions::default().with_null("NULL").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
        let columns = batch.records.columns().iter();
        let columns = columns
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|error| SinkError::Data { message: error.to_string() })?;
        let mut text = String::new();
        for row in 0..batch.rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            let kind = batch.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[row]);
            text.push_str(&format!("{}{}[{}]\n", self.prefix, kind.sign(), values.join(", ")));
        }
        std::io::stdout().lock().write_all(text.as_bytes()).context(IoSnafu { action: "print" })
    }

    fn prepare(&mut self, _: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}
