//! Filter and projection over batches.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use millrace_sql::evaluate::Evaluator;
use millrace_sql::functions::chance::Chance;
use millrace_sql::functions::clock::BatchTime;
use millrace_sql::plan::Calc as CalcPlan;
use snafu::ResultExt;

use super::{Collector, ComputeSnafu, Operator, OperatorError};
use crate::clock::Clock;
use crate::model::{Batch, RowKind};

/// Evaluates a condition and expressions.
pub struct Calc {
    filter: Option<Evaluator>,
    columns: Vec<Evaluator>,
    output: SchemaRef,
    /// If some expression asks for the time.
    clock: Option<(Clock, BatchTime)>,
}

impl Calc {
    /// Prepares the expressions over the input's schema.
    pub fn new(
        plan: &CalcPlan,
        input: &SchemaRef,
        output: SchemaRef,
        clock: Clock,
        chance: &Chance,
    ) -> Result<Self, OperatorError> {
        let time = BatchTime::default();
        let evaluator = |expression| Evaluator::at(expression, input, &time, chance);
        let filter = plan.filter.as_ref().map(evaluator).transpose()?;
        let columns = plan.output.iter().map(evaluator).collect::<Result<_, _>>()?;
        let asks = plan.filter.iter().chain(&plan.output).any(|expression| expression.clock().is_some());
        Ok(Calc { filter, columns, output, clock: asks.then_some((clock, time)) })
    }
}

impl Operator for Calc {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        if let Some((clock, time)) = &self.clock {
            time.set(clock.now_ms());
        }
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
