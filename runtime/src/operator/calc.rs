//! Filter and projection over batches.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use millrace_sql::evaluate::Evaluator;
use millrace_sql::plan::Calc as CalcPlan;
use snafu::ResultExt;

use super::{Collector, ComputeSnafu, Operator, OperatorError};
use crate::model::{Batch, RowKind};

/// Evaluates a condition and expressions.
pub struct Calc {
    filter: Option<Evaluator>,
    columns: Vec<Evaluator>,
    output: SchemaRef,
}

impl Calc {
    /// Prepares the expressions over the input's schema.
    pub fn new(plan: &CalcPlan, input: &SchemaRef, output: SchemaRef) -> Result<Self, OperatorError> {
        let filter = plan.filter.as_ref().map(|filter| Evaluator::new(filter, input)).transpose()?;
        let columns =
            plan.output.iter().map(|column| Evaluator::new(column, input)).collect::<Result<_, _>>()?;
        Ok(Calc { filter, columns, output })
    }
}

impl Operator for Calc {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let (mut records, mut kinds) = (batch.records, batch.kinds);
        if let Some(filter) = &self.filter
            && let Some(matches) = filter.matches(&records)?
        {
            records = filter_record_batch(&records, &matches).context(ComputeSnafu)?;
            // A filter has no NULLs here, and keeps the order.
            let kept = |kinds: Arc<[RowKind]>| {
                kinds
                    .iter()
                    .zip(matches.values())
                    .filter(|(_, keeps)| *keeps)
                    .map(|(kind, _)| *kind)
                    .collect()
            };
            kinds = kinds.map(kept);
        }
        let rows = records.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let columns =
            self.columns.iter().map(|column| column.evaluate(&records)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let records = RecordBatch::try_new_with_options(self.output.clone(), columns, &options)
            .context(ComputeSnafu)?;
        out.batch(Batch { records, kinds, hashes: None })
    }
}
