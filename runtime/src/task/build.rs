//! Makes the tasks of a slot from the plan and the restored state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millrace_sql::evaluate::{EvaluateError, Evaluator};
use millrace_sql::plan::{Operator as OperatorPlan, OperatorKind, Plan, Source as SourcePlan};
use snafu::{OptionExt, Snafu};
use tokio::sync::{mpsc, watch};

use super::chain::{Chain, Step, Tail};
use super::discovery::Discovery;
use super::driver::{Head, Task};
use super::source_head::{Idleness, SourceHead, Throttle};
use super::{TaskEvent, TaskHandle};
use crate::checkpoint::records::{Run, SubtaskState, TableState};
use crate::exchange::{Gate, Inbox, Output};
use crate::fault::{CrashAfterRows, Safeguards};
use crate::model::{Epoch, EventTime, Generation, JobUid, KeyGroups, MaxParallelism, Subtask};
use crate::operator::calc::Calc;
use crate::operator::group_aggregate::GroupAggregate;
use crate::operator::local_aggregate::LocalAggregate;
use crate::operator::session_aggregate::SessionAggregate;
use crate::operator::window_aggregate::WindowAggregate;
use crate::operator::{Operator, OperatorError};
use crate::outside::Outside;
use crate::sink::{self, SinkError, SinkIdentity, Sinks, checksum};
use crate::source::{self, SourceConnector, SourceError, Split};
use crate::state::{SegmentError, SegmentReader};
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
            _ => true,
        }
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            BuildError::Source { source } => source.kind(),
            BuildError::Sink { source } => source.kind(),
            BuildError::Segment { .. } | BuildError::NotFetched { .. } => "StateDamaged",
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
}

/// The restored checkpoint: states of all old subtasks, and the segments that they name.
#[derive(Default)]
pub struct Restored {
    pub subtasks: Vec<SubtaskState>,
    /// What was fetched of each.
    pub segments: HashMap<String, SegmentReader<'static>>,
}

impl Restored {
    /// The names of the splits of a source.
    fn splits(&self, operator: &str) -> BTreeSet<String> {
        let states = self.subtasks.iter().filter(|state| state.operator == operator);
        states.flat_map(|state| &state.splits).map(|split| split.id.clone()).collect()
    }

    /// The state of a new subtask, gathered from the old ones whatever their number: key groups by range, splits and
    /// counts by turn.
    pub fn inherited(
        &self,
        operator: &str,
        subtask: u32,
        parallelism: u32,
        groups: &KeyGroups,
    ) -> SubtaskState {
        let old: Vec<&SubtaskState> =
            self.subtasks.iter().filter(|state| state.operator == operator).collect();
        let mut splits: Vec<_> = old.iter().flat_map(|state| &state.splits).cloned().collect();
        splits.sort_by(|a, b| a.id.cmp(&b.id));
        let mine = |index: usize| index as u32 % parallelism == subtask;
        let mut tables: BTreeMap<(&str, i64), Vec<Run>> = BTreeMap::new();
        for table in old.iter().flat_map(|state| &state.tables) {
            for run in &table.runs {
                let run = Run {
                    first_group: run.first_group.max(groups.start),
                    end_group: run.end_group.min(groups.end),
                    ..run.clone()
                };
                if run.first_group < run.end_group {
                    tables.entry((&table.table, table.namespace)).or_default().push(run);
                }
            }
        }
        let table = |((table, namespace), runs): ((&str, i64), Vec<Run>)| TableState {
            table: table.to_owned(),
            namespace,
            runs,
        };
        let counted = |count: fn(&SubtaskState) -> u64| {
            old.iter().filter(|state| mine(state.subtask as usize)).map(|state| count(state)).sum()
        };
        SubtaskState {
            operator: operator.to_owned(),
            subtask,
            first_group: groups.start,
            end_group: groups.end,
            watermark: old.iter().filter_map(|state| state.watermark).max(),
            tables: tables.into_iter().map(table).collect(),
            splits: splits
                .into_iter()
                .enumerate()
                .filter(|(index, _)| mine(*index))
                .map(|(_, split)| split)
                .collect(),
            committables: Vec::new(),
            rows: counted(|state| state.rows),
            late_rows: counted(|state| state.late_rows),
            checksums: checksum::sum(
                old.iter()
                    .filter(|state| mine(state.subtask as usize))
                    .map(|state| state.checksums.as_slice()),
            ),
        }
    }
}

/// Makes the task of a chain in a slot. `inbox` has a channel per sender, `outputs` one per exchange out of the chain.
pub fn build(
    context: &TaskContext,
    chain_index: usize,
    subtask: Subtask,
    restored: &Restored,
    inbox: Option<Arc<Inbox>>,
    outputs: Vec<Output>,
) -> Result<(Task, TaskHandle, Vec<SubtaskState>), BuildError> {
    let groups = context.max_parallelism.owned_by(subtask, context.parallelism);
    let mut head = None;
    let mut steps = Vec::new();
    let mut tail = Tail::Outputs(outputs);
    let mut input: Option<SchemaRef> = None;
    let mut states = Vec::new();
    for index in &context.topology.chains[chain_index] {
        let operator = &context.plan.operators[*index];
        let state = restored.inherited(&operator.id, subtask.0, context.parallelism, &groups);
        let output = operator.output.clone().unwrap_or_default().to_arrow();
        let above = input.clone().or_else(|| input_schema(&context.plan, *index));
        match &operator.kind {
            Some(OperatorKind::Source(plan)) => {
                let known = restored.splits(&operator.id);
                head =
                    Some(Head::Source(Box::new(source_head(context, *index, plan, &output, &state, known)?)));
            }
            Some(OperatorKind::Sink(plan)) => {
                let connector = context.sinks.connector(plan, sink_identity(context, operator))?;
                tail = Tail::Sink {
                    index: *index,
                    writer: connector.writer(subtask)?,
                    rows: state.rows,
                    restored_checksums: state.checksums.clone(),
                };
            }
            Some(kind) => {
                let input =
                    above.context(PlanSnafu { message: format!("'{}' has no input", operator.id) })?;
                let mut step = make_operator(kind, &input, output.clone())?;
                restore(step.as_mut(), &state, restored, context.max_parallelism)?;
                steps.push(Step { index: *index, operator: step });
            }
            None => return PlanSnafu { message: format!("'{}' is of an unknown kind", operator.id) }.fail(),
        }
        states.push(state);
        input = Some(output);
    }
    let head = match (head, inbox) {
        (Some(head), _) => head,
        (None, Some(inbox)) => {
            let channels = context.topology.inputs(chain_index).count() * context.parallelism as usize;
            Head::Gate { inbox, gate: Gate::new(channels, context.safeguards.aligns_barriers) }
        }
        (None, None) => return PlanSnafu { message: "a chain without input" }.fail(),
    };
    let (control, receiver) = mpsc::channel(CONTROL_QUEUED_MAX);
    let handle = TaskHandle {
        chain: chain_index,
        subtask: subtask.0,
        is_source: matches!(head, Head::Source(_)),
        control,
        figures: Arc::default(),
        needs_full_snapshot: Arc::default(),
    };
    let task = Task {
        chain_index,
        subtask: subtask.0,
        head,
        chain: Chain { steps, tail },
        control: receiver,
        events: context.events.clone(),
        figures: Arc::clone(&handle.figures),
        needs_full_snapshot: Arc::clone(&handle.needs_full_snapshot),
        crash: context.crash.clone(),
        clock: context.outside.clock,
    };
    Ok((task, handle, states))
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

fn source_head(
    context: &TaskContext,
    index: usize,
    plan: &SourcePlan,
    output: &SchemaRef,
    state: &SubtaskState,
    known: BTreeSet<String>,
) -> Result<SourceHead, BuildError> {
    let connector: Arc<dyn SourceConnector> = source::connector(plan, &context.outside)?.into();
    let clock = context.outside.clock;
    let discovery = Discovery::new(&connector, known, state.subtask, context.parallelism, clock);
    let watermark = plan.watermark.as_ref().map(|watermark| Evaluator::new(watermark, output)).transpose()?;
    let mut splits = Vec::new();
    for split in &state.splits {
        let reader = if split.is_done {
            None
        } else {
            Some(connector.open(&Split { id: split.id.clone(), position: split.position.clone() })?)
        };
        splits.push((split.clone(), reader));
    }
    let idleness =
        source::idle_timeout_of(plan)?.map(|timeout| Idleness::new(timeout, context.outside.clock));
    let throttle = source::rows_per_second_of(plan)?;
    let throttle = throttle
        .map(|rate| Throttle::new(rate as f64 / f64::from(context.parallelism), context.outside.clock));
    Ok(SourceHead::new(index, connector, discovery, splits, watermark, state.rows, idleness, throttle))
}

fn make_operator(
    kind: &OperatorKind,
    input: &SchemaRef,
    output: SchemaRef,
) -> Result<Box<dyn Operator>, BuildError> {
    Ok(match kind {
        OperatorKind::Calc(plan) => Box::new(Calc::new(plan, input, output)?),
        OperatorKind::LocalAggregate(plan) => Box::new(LocalAggregate::new(plan)?),
        OperatorKind::WindowAggregate(plan) => Box::new(WindowAggregate::new(plan)?),
        OperatorKind::SessionAggregate(plan) => Box::new(SessionAggregate::new(plan)?),
        OperatorKind::GroupAggregate(plan) => Box::new(GroupAggregate::new(plan)?),
        OperatorKind::Source(_) | OperatorKind::Sink(_) => {
            return PlanSnafu { message: "a source or sink in the middle of a chain" }.fail();
        }
    })
}

fn restore(
    operator: &mut dyn Operator,
    state: &SubtaskState,
    restored: &Restored,
    all: MaxParallelism,
) -> Result<(), BuildError> {
    if let Some(watermark) = state.watermark {
        operator.restore_watermark(EventTime(watermark), state.late_rows);
    }
    for table in &state.tables {
        for run in &table.runs {
            let reader =
                restored.segments.get(&run.segment).context(NotFetchedSnafu { key: &run.segment })?;
            let in_segment = |source| BuildError::Segment { key: run.segment.clone(), source };
            let groups = run.first_group..run.end_group;
            let mut failure = None;
            let read = reader.read(run.run, &groups, all, |row| {
                let restored = operator.restore(&table.table, table.namespace, row);
                restored.map_err(|error| failure = Some(error)).ok()
            });
            if let Some(error) = failure {
                return Err(error.into());
            }
            read.map_err(in_segment)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::records::SplitState;

    fn old(subtask: u32, groups: KeyGroups) -> SubtaskState {
        let split = |n: u32| SplitState { id: format!("s{n}"), ..Default::default() };
        let run = Run {
            segment: format!("seg{subtask}"),
            run: 0,
            rows: 1,
            first_group: groups.start,
            end_group: groups.end,
            ..Default::default()
        };
        SubtaskState {
            operator: "o".to_owned(),
            subtask,
            first_group: groups.start,
            end_group: groups.end,
            watermark: Some(5),
            tables: vec![TableState { table: "t".to_owned(), namespace: 1, runs: vec![run] }],
            splits: vec![split(subtask * 2), split(subtask * 2 + 1)],
            committables: Vec::new(),
            rows: 10 + u64::from(subtask),
            late_rows: 3 + u64::from(subtask),
            checksums: vec![5, u64::MAX - u64::from(subtask)],
        }
    }

    #[test]
    fn another_parallelism_inherits_everything_once() {
        let all = MaxParallelism::new(16).unwrap();
        let restored = Restored { subtasks: vec![old(0, 0..8), old(1, 8..16)], segments: HashMap::new() };
        for parallelism in [1, 2, 3, 5, 16] {
            let mine = |subtask| {
                restored.inherited("o", subtask, parallelism, &all.owned_by(Subtask(subtask), parallelism))
            };
            let states: Vec<SubtaskState> = (0..parallelism).map(mine).collect();

            let mut splits: Vec<&str> =
                states.iter().flat_map(|s| &s.splits).map(|split| split.id.as_str()).collect();
            splits.sort_unstable();
            assert_eq!(splits, ["s0", "s1", "s2", "s3"]);
            assert_eq!(states.iter().map(|state| state.rows).sum::<u64>(), 21);
            assert_eq!(states.iter().map(|state| state.late_rows).sum::<u64>(), 7);
            let checksums = checksum::sum(states.iter().map(|state| state.checksums.as_slice()));
            assert_eq!(checksums, [10, u64::MAX - 2]);
            let runs = states.iter().flat_map(|state| &state.tables).flat_map(|table| &table.runs);
            let mut groups: Vec<u32> = runs.flat_map(|run| run.first_group..run.end_group).collect();
            groups.sort_unstable();
            assert_eq!(groups, (0..16).collect::<Vec<_>>(), "parallelism {parallelism}");
        }
    }
}
