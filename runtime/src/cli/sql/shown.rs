//! A sink that shows rows on standard output: each change as it comes, or the rows that are left at the end.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, StringArray};
use comfy_table::{CellAlignment, Table, presets};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_sql::functions::texts;
use millrace_sql::plan::Sink as SinkPlan;
use parking_lot::Mutex;

use crate::format::json::{JsonEncoder, JsonStyle};
use crate::model::{Batch, Epoch, RowKind, Subtask};
use crate::sink::{Committable, SinkConnector, SinkError, SinkIdentity, SinkWriter, Sinks};

/// What is shown of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    FinalTable,
    FinalJson,
    FinalCsv,
    Changelog,
    LiveJson,
    LiveCsv,
}

impl Format {
    fn is_final(self) -> bool {
        matches!(self, Format::FinalTable | Format::FinalJson | Format::FinalCsv)
    }
}

/// Shows the rows of one query; cloned for its coordinator and its worker.
#[derive(Clone)]
pub struct Shown {
    format: Format,
    rows: Arc<Mutex<Rows>>,
}

/// The rows that are left, in the order in which they came first.
#[derive(Default)]
struct Rows {
    columns: Vec<Column>,
    /// How many of each row there are, and which one it is in order.
    left: HashMap<Row, (i64, u64)>,
    next: u64,
    has_title: bool,
}

/// A row as it is shown: a cell a column, or one line of JSON.
type Row = Vec<Option<String>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    is_number: bool,
}

impl Shown {
    pub fn new(format: Format) -> Self {
        Shown { format, rows: Arc::default() }
    }

    /// Shows what is left at the end, if it was not shown as it came.
    pub fn finish(&self) -> std::io::Result<()> {
        if !self.format.is_final() {
            return Ok(());
        }
        let mut rows = self.rows.lock();
        let mut left: Vec<(Row, (i64, u64))> = std::mem::take(&mut rows.left).into_iter().collect();
        left.sort_by_key(|(_, (_, place))| *place);
        let all = left
            .into_iter()
            .flat_map(|(row, (count, _))| std::iter::repeat_n(row, usize::try_from(count).unwrap_or(0)));
        let text = match self.format {
            Format::FinalTable => table(&rows.columns, all),
            Format::FinalCsv => {
                let title = if rows.has_title { String::new() } else { title(&rows.columns) };
                title + &all.map(|row| csv(&row)).collect::<String>()
            }
            _ => all.flatten().flatten().map(|line| line + "\n").collect(),
        };
        std::io::stdout().lock().write_all(text.as_bytes())
    }

    fn take(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut rows = self.rows.lock();
        if rows.columns.is_empty() {
            rows.columns = columns(batch);
        }
        let shown = match self.format {
            Format::FinalJson | Format::LiveJson => json(batch)?,
            _ => cells(batch)?,
        };
        let kind = |row: usize| batch.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[row]);
        if self.format.is_final() {
            for (index, row) in shown.into_iter().enumerate() {
                rows.change(row, kind(index));
            }
            return Ok(());
        }
        let mut text = String::new();
        if self.format == Format::LiveCsv && !std::mem::replace(&mut rows.has_title, true) {
            text.push_str(&title(&rows.columns));
        }
        for (index, row) in shown.iter().enumerate() {
            match self.format {
                Format::Changelog => {
                    let values: Vec<&str> =
                        row.iter().map(|cell| cell.as_deref().unwrap_or("NULL")).collect();
                    text.push_str(&format!("{}[{}]\n", kind(index).sign(), values.join(", ")));
                }
                Format::LiveCsv => text.push_str(&csv(row)),
                _ => row.iter().flatten().for_each(|line| text.push_str(&format!("{line}\n"))),
            }
        }
        let written = std::io::stdout().lock().write_all(text.as_bytes());
        written.map_err(|source| SinkError::Io { action: "show rows".to_owned(), source })
    }
}

impl Rows {
    fn change(&mut self, row: Row, kind: RowKind) {
        let change = if kind.is_retraction() { -1 } else { 1 };
        let place = self.next;
        self.next += 1;
        let entry = self.left.entry(row.clone()).or_insert((0, place));
        entry.0 += change;
        if entry.0 == 0 {
            self.left.remove(&row);
        }
    }
}

fn columns(batch: &Batch) -> Vec<Column> {
    let schema = batch.records.schema();
    let column = |field: &Arc<arrow::datatypes::Field>| Column {
        name: field.name().clone(),
        is_number: field.data_type().is_numeric(),
    };
    schema.fields().iter().map(column).collect()
}

fn data_error(error: &impl std::error::Error) -> SinkError {
    SinkError::Data { message: crate::error::chain(error) }
}

fn cells(batch: &Batch) -> Result<Vec<Row>, SinkError> {
    let columns = batch.records.columns().iter().map(texts).collect::<Result<Vec<StringArray>, _>>();
    let columns = columns.map_err(|error| data_error(&error))?;
    let cell = |column: &StringArray, row: usize| column.is_valid(row).then(|| column.value(row).to_owned());
    Ok((0..batch.rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect())
}

fn json(batch: &Batch) -> Result<Vec<Row>, SinkError> {
    let style = JsonStyle { pads_times: true, quotes_decimals: true, ..JsonStyle::default() };
    let mut text = String::new();
    let encoder = JsonEncoder::new(&batch.records.schema(), style);
    encoder.encode(&batch.records, &mut text).map_err(|error| data_error(&error))?;
    Ok(text.lines().map(|line| vec![Some(line.to_owned())]).collect())
}

fn table(columns: &[Column], rows: impl Iterator<Item = Row>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(columns.iter().map(|column| &column.name));
    let mut count = 0;
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".to_owned())));
        count += 1;
    }
    for (index, _) in columns.iter().enumerate().filter(|(_, column)| column.is_number) {
        if let Some(shown) = table.column_mut(index) {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    match count {
        0 => "no rows\n".to_owned(),
        1 => format!("{table}\n1 row\n"),
        _ => format!("{table}\n{count} rows\n"),
    }
}

fn title(columns: &[Column]) -> String {
    csv(&columns.iter().map(|column| Some(column.name.clone())).collect::<Row>())
}

/// A line of RFC 4180; NULL is an empty value, and an empty text is quoted.
fn csv(row: &[Option<String>]) -> String {
    let cell = |cell: &Option<String>| match cell {
        None => String::new(),
        Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => text.clone(),
    };
    row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n"
}

impl Sinks for Shown {
    fn connector(&self, _: &SinkPlan, _: SinkIdentity) -> Result<Box<dyn SinkConnector>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

impl SinkConnector for Shown {
    fn writer(&self, _: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

impl SinkWriter for Shown {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.take(batch)
    }

    fn prepare(&mut self, _: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}
