//! Operators fused in one task, and the end of the chain.

use crate::exchange::Output;
use crate::exchange::output::OutputError;
use crate::model::{Barrier, Batch, Element, EventTime};
use crate::operator::{Collector, Operator, OperatorError, OperatorFigures, Progress};
use crate::sink::SinkWriter;
use crate::state::TaskMemory;

use super::TaskError;

/// An operator and its index in the plan.
pub struct Step {
    pub index: usize,
    pub operator: Box<dyn Operator>,
    pub taken: Flow,
    /// As of the newest barrier.
    pub figures: OperatorFigures,
}

/// Rows that have come to a place in this generation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub rows: u64,
    pub bytes: u64,
}

/// What an operator has done in this generation; of a source what it has given, of a sink what it has taken.
#[derive(Debug, Default, Clone, Copy)]
pub struct OperatorFlow {
    pub index: usize,
    pub taken: Flow,
    pub given: Flow,
    pub figures: OperatorFigures,
}

/// Where rows leave the chain.
pub enum Tail {
    /// To other tasks, and to chains of this one, which all get the same rows.
    Outputs { outputs: Vec<Output>, chains: Vec<Chain> },
    /// `rows` and `restored_checksums` count from the job's first start.
    Sink { index: usize, writer: Box<dyn SinkWriter>, rows: u64, restored_checksums: Vec<u64> },
}

/// Operators in order and the tail, which may be further chains: operators of a task are a tree.
pub struct Chain {
    /// The source that it begins with, if it does.
    pub source: Option<usize>,
    pub steps: Vec<Step>,
    pub tail: Tail,
    /// What its last operator has given.
    pub given: Flow,
}

/// All chains of a task: each gets every row that the task reads, and sees the columns that it asked for.
pub struct Branches(pub Vec<Branch>);

/// A chain, and which of the task's columns it gets; `None`: all, in order.
pub struct Branch {
    pub columns: Option<Vec<usize>>,
    pub chain: Chain,
}

/// The rest of a chain, as the operator before it sees it.
struct Rest<'a> {
    steps: &'a mut [Step],
    tail: &'a mut Tail,
    given: &'a mut Flow,
}

impl Collector for Rest<'_> {
    fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
        match self.steps.split_first_mut() {
            Some((step, steps)) => {
                step.taken.add(&batch);
                step.operator.process(batch, &mut Rest { steps, tail: self.tail, given: self.given })
            }
            None => {
                self.given.add(&batch);
                self.tail.take(&batch)
            }
        }
    }
}

impl Flow {
    fn add(&mut self, batch: &Batch) {
        self.rows += batch.rows() as u64;
        self.bytes += batch.bytes() as u64;
    }
}

impl Tail {
    /// True if rows leave the task here.
    fn is_outside(&self) -> bool {
        match self {
            Tail::Outputs { outputs, .. } => !outputs.is_empty(),
            Tail::Sink { .. } => true,
        }
    }

    fn take(&mut self, batch: &Batch) -> Result<(), OperatorError> {
        match self {
            Tail::Outputs { outputs, chains } => {
                let pushed = outputs.iter_mut().try_for_each(|output| output.push(batch));
                pushed.map_err(|error| refused(&error, "WorkerLost", false))?;
                chains.iter_mut().try_for_each(|chain| chain.batch(batch.clone()))
            }
            Tail::Sink { writer, rows, .. } => {
                *rows += batch.rows() as u64;
                writer.write(batch).map_err(|error| refused(&error, error.kind(), error.is_permanent()))
            }
        }
    }
}

impl Branches {
    pub fn batch(&mut self, batch: Batch) -> Result<(), TaskError> {
        for branch in &mut self.0 {
            let records = match &branch.columns {
                None => batch.records.clone(),
                Some(columns) => {
                    let projected = batch.records.project(columns);
                    projected.map_err(|source| OperatorError::Compute { source })?
                }
            };
            branch.chain.batch(Batch { records, ..batch.clone() })?;
        }
        Ok(())
    }

    /// Puts state on the local disk if there is more of it than may be in memory.
    pub fn fit_into(&mut self, memory: &mut TaskMemory) -> Result<(), TaskError> {
        let held = self.memory_bytes();
        let (too_much, room) = (memory.holds(held), memory.room());
        self.each_chain_mut(&mut |chain| {
            for operator in chain.steps.iter_mut().map(|step| &mut step.operator) {
                if too_much > 0 {
                    // Each as much of it as it has of what there is.
                    let part = too_much as u128 * operator.memory_bytes() as u128 / held.max(1) as u128;
                    operator.spill(part as usize, memory.disk())?;
                } else if room > 0 {
                    operator.warm_up(room)?;
                }
            }
            Ok(())
        })?;
        memory.holds(self.memory_bytes());
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        let mut bytes = 0;
        self.each_chain(&mut |chain| {
            bytes += chain.steps.iter().map(|step| step.operator.memory_bytes()).sum::<usize>();
        });
        bytes
    }

    /// Looks at all chains, each before those that it gives its rows to.
    pub fn each_chain<'a>(&'a self, look: &mut impl FnMut(&'a Chain)) {
        self.0.iter().for_each(|branch| branch.chain.each(look));
    }

    /// The same, for changes.
    pub fn each_chain_mut(
        &mut self,
        change: &mut impl FnMut(&mut Chain) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        self.0.iter_mut().try_for_each(|branch| branch.chain.each_mut(change))
    }

    pub async fn watermark(&mut self, time: EventTime) -> Result<(), TaskError> {
        for branch in &mut self.0 {
            branch.chain.watermark(time).await?;
        }
        Ok(())
    }

    pub fn flush_operators(&mut self) -> Result<(), TaskError> {
        self.0.iter_mut().try_for_each(|branch| branch.chain.flush_operators())
    }

    /// The input has nothing more for now.
    pub fn quiet(&mut self) -> Result<(), TaskError> {
        self.0.iter_mut().try_for_each(|branch| branch.chain.quiet())
    }

    pub async fn flush_due(&mut self) -> Result<(), TaskError> {
        for branch in &mut self.0 {
            branch.chain.flush_due().await?;
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> Result<(), TaskError> {
        for branch in &mut self.0 {
            branch.chain.flush().await?;
        }
        Ok(())
    }

    pub async fn barrier(&mut self, barrier: Barrier) -> Result<(), OutputError> {
        for branch in &mut self.0 {
            branch.chain.barrier(barrier).await?;
        }
        Ok(())
    }

    pub async fn control(&mut self, element: Element) -> Result<(), OutputError> {
        for branch in &mut self.0 {
            branch.chain.control(element.clone()).await?;
        }
        Ok(())
    }
}

fn refused(error: &impl std::error::Error, kind: &'static str, is_permanent: bool) -> OperatorError {
    OperatorError::Refused { message: crate::error::chain(error), kind, is_permanent }
}

impl Chain {
    fn each<'a>(&'a self, look: &mut impl FnMut(&'a Chain)) {
        look(self);
        self.chains().iter().for_each(|chain| chain.each(look));
    }

    fn each_mut(
        &mut self,
        change: &mut impl FnMut(&mut Chain) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        change(self)?;
        self.chains_mut().iter_mut().try_for_each(|chain| chain.each_mut(change))
    }

    /// What has left the task here.
    pub fn sent(&self) -> Flow {
        if self.tail.is_outside() { self.given } else { Flow::default() }
    }

    /// What each of its operators has done.
    pub fn operators(&self) -> impl Iterator<Item = OperatorFlow> {
        let given = |next: usize| self.steps.get(next).map_or(self.given, |step| step.taken);
        let source = self.source.map(|index| OperatorFlow { index, given: given(0), ..Default::default() });
        let steps = self.steps.iter().enumerate().map(move |(number, step)| OperatorFlow {
            index: step.index,
            taken: step.taken,
            given: given(number + 1),
            figures: step.figures,
        });
        let sink = match &self.tail {
            Tail::Sink { index, .. } => {
                Some(OperatorFlow { index: *index, taken: self.given, ..Default::default() })
            }
            Tail::Outputs { .. } => None,
        };
        source.into_iter().chain(steps).chain(sink)
    }

    /// Chains of this task that it gives its rows to.
    fn chains(&self) -> &[Chain] {
        match &self.tail {
            Tail::Outputs { chains, .. } => chains,
            Tail::Sink { .. } => &[],
        }
    }

    fn chains_mut(&mut self) -> &mut [Chain] {
        match &mut self.tail {
            Tail::Outputs { chains, .. } => chains,
            Tail::Sink { .. } => &mut [],
        }
    }

    fn outputs_mut(&mut self) -> &mut [Output] {
        match &mut self.tail {
            Tail::Outputs { outputs, .. } => outputs,
            Tail::Sink { .. } => &mut [],
        }
    }

    /// Pushes rows through all operators.
    fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
        Rest { steps: &mut self.steps, tail: &mut self.tail, given: &mut self.given }.batch(batch)
    }

    /// Takes a watermark through all operators; each may emit more than fits and is then asked again.
    async fn watermark(&mut self, time: EventTime) -> Result<(), TaskError> {
        for first in 0..self.steps.len() {
            while let Some((step, steps)) = self.steps[first..].split_first_mut() {
                let progress = step
                    .operator
                    .watermark(time, &mut Rest { steps, tail: &mut self.tail, given: &mut self.given })?;
                if progress == Progress::Done {
                    break;
                }
                self.flush_due().await?;
            }
        }
        self.outputs_mut().iter_mut().for_each(|output| output.watermark(time));
        for chain in self.chains_mut() {
            Box::pin(chain.watermark(time)).await?;
        }
        Ok(())
    }

    /// Makes all operators emit what they hold back.
    fn flush_operators(&mut self) -> Result<(), TaskError> {
        self.ask(&mut |operator, rest| operator.flush(rest))
    }

    /// Makes all operators emit what is waited for.
    fn quiet(&mut self) -> Result<(), TaskError> {
        self.ask(&mut |operator, rest| operator.quiet(rest))
    }

    /// Asks each operator, in order, for what it gives to those behind it.
    fn ask(
        &mut self,
        ask: &mut impl FnMut(&mut dyn Operator, &mut Rest<'_>) -> Result<(), OperatorError>,
    ) -> Result<(), TaskError> {
        for first in 0..self.steps.len() {
            if let Some((step, steps)) = self.steps[first..].split_first_mut() {
                let rest = &mut Rest { steps, tail: &mut self.tail, given: &mut self.given };
                ask(step.operator.as_mut(), rest)?;
            }
        }
        self.chains_mut().iter_mut().try_for_each(|chain| chain.ask(ask))
    }

    /// Sends what is due and waits until the tail can take more.
    async fn flush_due(&mut self) -> Result<(), TaskError> {
        match &mut self.tail {
            Tail::Outputs { outputs, chains } => {
                for output in outputs {
                    output.flush_due().await?;
                }
                for chain in chains {
                    Box::pin(chain.flush_due()).await?;
                }
            }
            Tail::Sink { writer, .. } => std::future::poll_fn(|cx| writer.poll_ready(cx)).await?,
        }
        Ok(())
    }

    /// Sends everything: the input has nothing more for now.
    async fn flush(&mut self) -> Result<(), TaskError> {
        for output in self.outputs_mut() {
            output.flush().await?;
        }
        for chain in self.chains_mut() {
            Box::pin(chain.flush()).await?;
        }
        Ok(())
    }

    /// Sends a barrier on.
    async fn barrier(&mut self, barrier: Barrier) -> Result<(), OutputError> {
        for output in self.outputs_mut() {
            output.barrier(barrier).await?;
        }
        for chain in self.chains_mut() {
            Box::pin(chain.barrier(barrier)).await?;
        }
        Ok(())
    }

    /// Sends Idle or Active on.
    async fn control(&mut self, element: Element) -> Result<(), OutputError> {
        for output in self.outputs_mut() {
            output.control(element.clone()).await?;
        }
        for chain in self.chains_mut() {
            Box::pin(chain.control(element.clone())).await?;
        }
        Ok(())
    }
}
