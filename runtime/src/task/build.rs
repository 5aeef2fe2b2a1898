//! Makes the tasks of a slot from the plan and the restored state.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millrace_sql::evaluate::{EvaluateError, Evaluator};
use millrace_sql::plan::{
    Field, Leaf, Operator as OperatorPlan, OperatorKind, Plan, Schema, Source as SourcePlan,
};
use snafu::{OptionExt, Snafu};
use tokio::sync::{mpsc, watch};

use super::chain::{Branch, Branches, Chain, Flow, Step, Tail};
use super::discovery::Discovery;
use super::driver::{Head, Task};
use super::restored::Restored;
use super::source_head::{Idleness, SourceHead, Throttle};
use super::{Lags, TaskEvent, TaskFigures, TaskHandle};
use crate::checkpoint::records::SubtaskState;
use crate::exchange::{Gate, Inbox, Output};
use crate::fault::{CrashAfterRows, Safeguards};
use crate::model::{Epoch, Generation, JobUid, MaxParallelism, Subtask};
use crate::operator::calc::Calc;
use crate::operator::changelog_normalize::ChangelogNormalize;
use crate::operator::group_aggregate::GroupAggregate;
use crate::operator::local_aggregate::LocalAggregate;
use crate::operator::local_group_aggregate::LocalGroupAggregate;
use crate::operator::session_aggregate::SessionAggregate;
use crate::operator::window_aggregate::WindowAggregate;
use crate::operator::{Operator, OperatorError, OperatorFigures};
use crate::outside::Outside;
use crate::sink::{self, SinkError, SinkIdentity, Sinks};
use crate::source::{self, SourceConnector, SourceError, Split};
use crate::state::{SegmentError, StateMemory, TaskMemory};
use crate::topology::Topology;

/// Barriers and events queued between a worker and a task: more than one checkpoint is never under way.
const CONTROL_QUEUED_MAX: usize = 16;

/// A task cannot be made.
#[derive(Debug, Snafu)]
pub enum BuildError {
    #[snafu(transparent)]
    Source { source: SourceError },
    #[snafu(transparent)]
    Sink { source: SinkError },
    #[snafu(transparent)]
    Operator { source: OperatorError },
    #[snafu(transparent)]
    Evaluate { source: EvaluateError },
    #[snafu(display(
        "the segment '{key}' cannot be read; put it back from a copy, and the job goes on. To begin anew choose another checkpoint.location"
    ))]
    Segment { key: String, source: SegmentError },
    #[snafu(display("the segment '{key}' was not fetched"))]
    NotFetched { key: String },
    #[snafu(display("the plan is malformed: {message}"))]
    Plan { message: String },
}

impl BuildError {
    /// True if trying again gives the same.
    pub fn is_permanent(&self) -> bool {
        match self {
            BuildError::Source { source } => source.is_permanent(),
            BuildError::Sink { source } => source.is_permanent(),
            BuildError::Operator { source: OperatorError::Away { source } } => source.is_permanent(),
            _ => true,
        }
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            BuildError::Source { source } => source.kind(),
            BuildError::Sink { source } => source.kind(),
            BuildError::Segment { .. } | BuildError::NotFetched { .. } => "StateDamaged",
            BuildError::Operator { source: OperatorError::Away { source } } => source.kind(),
            BuildError::Operator { .. } | BuildError::Evaluate { .. } | BuildError::Plan { .. } => "Internal",
        }
    }
}

/// What all tasks of a generation share.
#[derive(Clone)]
pub struct TaskContext {
    pub plan: Arc<Plan>,
    pub topology: Arc<Topology>,
    pub parallelism: u32,
    pub max_parallelism: MaxParallelism,
    pub job: JobUid,
    pub generation: Generation,
    pub outside: Outside,
    pub events: mpsc::Sender<TaskEvent>,
    /// The newest complete checkpoint whose sinks have committed.
    pub completed: watch::Receiver<Epoch>,
    /// The first epoch of this generation.
    pub first_epoch: Epoch,
    pub sinks: Arc<dyn Sinks>,
    pub crash: Option<Arc<CrashAfterRows>>,
    pub safeguards: Safeguards,
    pub memory: StateMemory,
}

/// A task that can run.
pub struct BuiltTask {
    pub task: Task,
    pub handle: TaskHandle,
    /// Of the operators of all its chains, by their index.
    pub states: Vec<(usize, SubtaskState)>,
}

/// Makes the task of a chain in a slot, which runs all chains that begin with the same rows. `inbox` has a channel per sender,
/// `outputs` gives one per exchange out of a chain.
pub fn build(
    context: &TaskContext,
    chain_index: usize,
    subtask: Subtask,
    restored: &Restored,
    inbox: Option<Arc<Inbox>>,
    mut outputs: impl FnMut(usize) -> Vec<Output>,
) -> Result<BuiltTask, BuildError> {
    let mut states = Vec::new();
    let (mut sources, mut chains) = (Vec::new(), Vec::new());
    let mut memory = context.memory.for_task();
    for chain in context.topology.run_with(chain_index) {
        let mut making = Making { context, subtask, restored, states: &mut states, memory: &mut memory };
        let built = making.chain_of(chain, None, &mut outputs)?;
        sources.extend(built.source);
        chains.push(built.chain);
    }
    let (head, columns) = match inbox {
        None => {
            let (head, columns) = source_head(context, subtask, &sources, restored)?;
            (Head::Source(Box::new(head)), columns)
        }
        Some(inbox) => {
            let channels = context.topology.inputs(chain_index).count() * context.parallelism as usize;
            let gate = Gate::new(channels, context.safeguards.aligns_barriers);
            (Head::Gate { inbox, gate }, vec![None])
        }
    };
    let lags = match &head {
        Head::Source(source) => source.lags(),
        Head::Gate { .. } => Lags::default(),
    };
    let (control, receiver) = mpsc::channel(CONTROL_QUEUED_MAX);
    let handle = TaskHandle {
        chain: chain_index,
        subtask: subtask.0,
        is_source: matches!(head, Head::Source(_)),
        control,
        figures: Arc::new(TaskFigures { lags, ..TaskFigures::default() }),
        needs_full_snapshot: Arc::default(),
    };
    let branches = columns.into_iter().zip(chains).map(|(columns, chain)| Branch { columns, chain });
    let task = Task {
        chain_index,
        subtask: subtask.0,
        head,
        branches: Branches(branches.collect()),
        control: receiver,
        events: context.events.clone(),
        figures: Arc::clone(&handle.figures),
        needs_full_snapshot: Arc::clone(&handle.needs_full_snapshot),
        crash: context.crash.clone(),
        clock: context.outside.clock,
        memory,
        unmeasured: 0,
    };
    Ok(BuiltTask { task, handle, states })
}

/// A chain, and the source that it begins with, if it begins with one.
struct Built<'a> {
    source: Option<SourceOf<'a>>,
    chain: Chain,
}

/// A source operator and its state.
struct SourceOf<'a> {
    index: usize,
    plan: &'a SourcePlan,
    state: SubtaskState,
}

/// What the chains of a task are made from.
struct Making<'a, 'm> {
    context: &'a TaskContext,
    subtask: Subtask,
    restored: &'m Restored,
    states: &'m mut Vec<(usize, SubtaskState)>,
    memory: &'m mut TaskMemory,
}

impl<'a> Making<'a, '_> {
    /// A chain with those that it gives its rows to. `input`: what comes to it, if that is known.
    fn chain_of(
        &mut self,
        chain: usize,
        mut input: Option<SchemaRef>,
        outputs: &mut impl FnMut(usize) -> Vec<Output>,
    ) -> Result<Built<'a>, BuildError> {
        let context = self.context;
        let groups = context.max_parallelism.owned_by(self.subtask, context.parallelism);
        let (mut source, mut steps, mut sink) = (None, Vec::new(), None);
        for index in &context.topology.chains[chain] {
            let operator = &context.plan.operators[*index];
            let state = self.restored.inherited(&operator.id, self.subtask.0, context.parallelism, &groups);
            let output = operator.output.clone().unwrap_or_default().to_arrow();
            let above = input.clone().or_else(|| input_schema(&context.plan, *index));
            match &operator.kind {
                Some(OperatorKind::Source(plan)) => {
                    source = Some(SourceOf { index: *index, plan, state: state.clone() });
                }
                Some(OperatorKind::Sink(plan)) => {
                    let connector = context.sinks.connector(plan, sink_identity(context, operator))?;
                    sink = Some(Tail::Sink {
                        index: *index,
                        writer: connector.writer(self.subtask)?,
                        rows: state.rows,
                        restored_checksums: state.checksums.clone(),
                    });
                }
                Some(kind) => {
                    let input =
                        above.context(PlanSnafu { message: format!("'{}' has no input", operator.id) })?;
                    let mut step = make_operator(kind, &input, output.clone(), &context.outside)?;
                    self.restored.restore(step.as_mut(), &state, context.max_parallelism, self.memory)?;
                    let (taken, figures) = (Flow::default(), OperatorFigures::default());
                    steps.push(Step { index: *index, operator: step, taken, figures });
                }
                None => {
                    return PlanSnafu { message: format!("'{}' is of an unknown kind", operator.id) }.fail();
                }
            }
            self.states.push((*index, state));
            input = Some(output);
        }
        let tail = match sink {
            Some(sink) => sink,
            None => {
                let fed = context.topology.fed_by(chain);
                let chains = fed.map(|fed| Ok(self.chain_of(fed, input.clone(), outputs)?.chain));
                Tail::Outputs { chains: chains.collect::<Result<_, BuildError>>()?, outputs: outputs(chain) }
            }
        };
        let index = source.as_ref().map(|source| source.index);
        Ok(Built { source, chain: Chain { source: index, steps, tail, given: Flow::default() } })
    }
}

/// The schema of what an operator receives.
pub fn input_schema(plan: &Plan, operator: usize) -> Option<SchemaRef> {
    let edge = plan.inputs(operator).next()?;
    Some(plan.operators[edge.from as usize].output.clone()?.to_arrow())
}

/// Whose results a sink operator writes.
pub fn sink_identity(context: &TaskContext, operator: &OperatorPlan) -> SinkIdentity {
    SinkIdentity {
        job: context.job.clone(),
        operator: sink::operator_name(operator),
        operator_id: operator.id.clone(),
        generation: context.generation,
        outside: context.outside.clone(),
        completed: context.completed.clone(),
        first_epoch: context.first_epoch,
    }
}

/// Which of the task's columns a chain gets; `None`: all, in order.
type Columns = Option<Vec<usize>>;

/// The source at the head of a task: it reads what all of these sources read, which is the same rows, once. For each of them its
/// columns.
fn source_head(
    context: &TaskContext,
    subtask: Subtask,
    sources: &[SourceOf<'_>],
    restored: &Restored,
) -> Result<(SourceHead, Vec<Columns>), BuildError> {
    let [first, others @ ..] = sources else {
        return PlanSnafu { message: "a chain without input" }.fail();
    };
    let mut plan = first.plan.clone();
    for leaf in others.iter().flat_map(|source| &source.plan.leaves) {
        if !plan.leaves.contains(leaf) {
            plan.leaves.push(leaf.clone());
        }
    }
    let place = |leaf: &Leaf| plan.leaves.iter().position(|read| read == leaf);
    let columns = |source: &SourceOf<'_>| -> Columns {
        let columns: Vec<usize> = source.plan.leaves.iter().filter_map(place).collect();
        (columns.len() < plan.leaves.len() || !columns.is_sorted()).then_some(columns)
    };
    let columns: Vec<Columns> = sources.iter().map(columns).collect();
    let fields = plan.leaves.iter().map(|leaf| Field {
        name: leaf.path.join("."),
        data_type: leaf.data_type.clone(),
        nullable: leaf.nullable,
    });
    let output = Schema { fields: fields.collect() }.to_arrow();
    let connector: Arc<dyn SourceConnector> = source::connector(&plan, &context.outside)?.into();
    let clock = context.outside.clock;
    let known = restored.splits(&context.plan.operators[first.index].id);
    let discovery = Discovery::new(&connector, known, subtask.0, context.parallelism, clock);
    // The watermark is of the first one's leaves, which are the first ones.
    let watermark =
        plan.watermark.as_ref().map(|watermark| Evaluator::new(watermark, &output)).transpose()?;
    let mut splits = Vec::new();
    for split in &first.state.splits {
        let reader = if split.is_done {
            None
        } else {
            Some(connector.open(&Split { id: split.id.clone(), position: split.position.clone() })?)
        };
        splits.push((split.clone(), reader));
    }
    let idleness = source::idle_timeout_of(&plan)?.map(|timeout| Idleness::new(timeout, clock));
    let throttle = source::rows_per_second_of(&plan)?;
    let throttle = throttle.map(|rate| Throttle::new(rate as f64 / f64::from(context.parallelism), clock));
    let operators = sources.iter().map(|source| (source.index, source.state.rows)).collect();
    let head = SourceHead::new(operators, connector, discovery, splits, watermark, idleness, throttle);
    Ok((head, columns))
}

fn make_operator(
    kind: &OperatorKind,
    input: &SchemaRef,
    output: SchemaRef,
    outside: &Outside,
) -> Result<Box<dyn Operator>, BuildError> {
    Ok(match kind {
        OperatorKind::Calc(plan) => Box::new(Calc::new(plan, input, output, outside.clock, &outside.chance)?),
        OperatorKind::LocalAggregate(plan) => Box::new(LocalAggregate::new(plan)?),
        OperatorKind::WindowAggregate(plan) => Box::new(WindowAggregate::new(plan)?),
        OperatorKind::SessionAggregate(plan) => Box::new(SessionAggregate::new(plan)?),
        OperatorKind::GroupAggregate(plan) => Box::new(GroupAggregate::new(plan)?),
        OperatorKind::LocalGroupAggregate(plan) => Box::new(LocalGroupAggregate::new(plan)?),
        OperatorKind::ChangelogNormalize(plan) => Box::new(ChangelogNormalize::new(plan)),
        OperatorKind::Source(_) | OperatorKind::Sink(_) => {
            return PlanSnafu { message: "a source or sink in the middle of a chain" }.fail();
        }
    })
}
