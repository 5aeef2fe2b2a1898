//! The logical node of a window table function: its input with window_start, window_end and window_time added.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion_common::{DFSchema, DFSchemaRef, Result};
use datafusion_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::dialect::{Cut, WindowCall};

/// Names of the added columns, in order.
pub const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Which of them is event time.
pub const WINDOW_TIME: usize = 2;

/// A windowed table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowNode {
    pub input: LogicalPlan,
    pub schema: DFSchemaRef,
    /// `tumble`, `hop`, `cumulate` or `session`.
    pub kind: &'static str,
    /// The table or view that the user named.
    pub table: String,
    /// Index of the event-time column in the input.
    pub time: usize,
    pub cut: Cut,
    /// Columns of the input that sessions are partitioned by.
    pub partition: Vec<usize>,
}

impl WindowNode {
    /// Wraps a table's plan.
    pub fn plan(
        input: LogicalPlan,
        call: &WindowCall,
        time: usize,
        partition: Vec<usize>,
    ) -> Result<LogicalPlan> {
        let schema = schema_over(&input)?;
        let (kind, table, cut) = (call.kind, call.table.text.clone(), call.cut);
        let node = WindowNode { input, schema, kind, table, time, cut, partition };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }
}

/// The columns of a table, and those of the window.
fn schema_over(input: &LogicalPlan) -> Result<DFSchemaRef> {
    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
    let mut fields: Vec<_> = input.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    fields.extend(WINDOW_COLUMNS.map(|name| (None, Arc::new(Field::new(name, millis.clone(), false)))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, Default::default())?))
}

impl UserDefinedLogicalNodeCore for WindowNode {
    fn name(&self) -> &str {
        "Window"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Window: {} {:?}", self.kind, self.cut)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut node = self.clone();
        if let Some(input) = inputs.pop() {
            node.schema = schema_over(&input)?;
            node.input = input;
        }
        Ok(node)
    }
}

impl Hash for WindowNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        (self.kind, &self.table, self.time, self.cut, &self.partition).hash(state);
    }
}

impl PartialOrd for WindowNode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (&self.table, self.time).partial_cmp(&(&other.table, other.time))
    }
}
