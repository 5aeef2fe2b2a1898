//! What a job looks like from outside: the source of live progress, status and metrics.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use millrace_crds::contract::ReportedPhase as Phase;
use millrace_crds::contract::{ColumnChecksum, Report, ReportedCheckpoint, VERSION};
use millrace_sql::plan::{OperatorKind, Plan, Sink, Table};
use tokio::sync::watch;

use crate::checkpoint::records::Manifest;
use crate::model::{Attempt, WorkerId};
use crate::rpc::TaskReport;
use crate::sink::checksum;

/// What a manifest says of its checkpoint; how long it took is not in it.
pub fn checkpoint(manifest: &Manifest, plan: &Plan) -> ReportedCheckpoint {
    let states_of = |is_wanted: fn(&OperatorKind) -> bool| {
        let operators =
            plan.operators.iter().filter(move |operator| operator.kind.as_ref().is_some_and(is_wanted));
        let ids: BTreeSet<&str> = operators.map(|operator| operator.id.as_str()).collect();
        manifest.subtasks.iter().filter(move |state| ids.contains(state.operator.as_str()))
    };
    let rows = |is_wanted| states_of(is_wanted).map(|state| state.rows).sum();
    ReportedCheckpoint {
        epoch: manifest.epoch,
        completed_at_ms: manifest.created_ms,
        duration_ms: 0,
        bytes: manifest.bytes,
        rows_in: rows_in(manifest, plan),
        rows_out: rows(|kind| matches!(kind, OperatorKind::Sink(_))),
        late_rows: manifest.subtasks.iter().map(|state| state.late_rows).sum(),
        checksums: checksums(manifest, plan),
    }
}

/// Rows that were read, of each table by the INSERT that has read the most of them: others have read the same ones.
fn rows_in(manifest: &Manifest, plan: &Plan) -> u64 {
    let mut read: Vec<(&Option<Table>, u64)> = Vec::new();
    for operator in &plan.operators {
        let Some(OperatorKind::Source(source)) = &operator.kind else { continue };
        let states = manifest.subtasks.iter().filter(|state| state.operator == operator.id);
        let rows: u64 = states.map(|state| state.rows).sum();
        match read.iter_mut().find(|(table, _)| **table == source.table) {
            Some((_, known)) => *known = rows.max(*known),
            None => read.push((&source.table, rows)),
        }
    }
    read.into_iter().map(|(_, rows)| rows).sum()
}

/// The checksums of the columns of all sinks that keep some, over all subtasks.
fn checksums(manifest: &Manifest, plan: &Plan) -> Vec<ColumnChecksum> {
    let mut all = Vec::new();
    for operator in &plan.operators {
        let Some(OperatorKind::Sink(Sink { table: Some(table) })) = &operator.kind else { continue };
        let states = manifest.subtasks.iter().filter(|state| state.operator == operator.id);
        let sums = checksum::sum(states.map(|state| state.checksums.as_slice()));
        let columns = table.schema.iter().flat_map(|schema| &schema.fields);
        let named = columns.zip(sums).map(|(column, sum)| ColumnChecksum {
            sink: table.name.clone(),
            column: column.name.clone(),
            checksum: format!("{sum:016x}"),
        });
        all.extend(named);
    }
    all
}

/// A job as its coordinator sees it.
#[derive(Debug, Clone, Default)]
pub struct JobReport {
    /// What the controller reads.
    pub public: Report,
    /// The plan that this generation runs, which may be another than that of the manifest's SQL: a stored one.
    pub plan: Option<Arc<Plan>>,
    /// What sinks had written by the checkpoint that this generation began with.
    pub restored_rows_out: u64,
    /// The longest time that a task stood still for the newest checkpoint whose state was written, in microseconds.
    pub longest_stop_us: u64,
    /// Figures of the tasks, by worker.
    pub tasks: BTreeMap<WorkerId, Vec<TaskReport>>,
    /// What they did between their last two signs of life, by chain and subtask.
    pub rates: BTreeMap<(u32, u32), Rates>,
    /// When workers have told their figures last.
    told: BTreeMap<WorkerId, Duration>,
    /// The newest checkpoints that this coordinator has seen, newest first.
    pub recent: VecDeque<ReportedCheckpoint>,
}

/// Checkpoints that are remembered to be shown.
const RECENT: usize = 10;

/// Rows a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    pub rows_in: f64,
    /// Into sinks.
    pub rows_out: f64,
}

/// Figures over all tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Rows that sources have read in this generation.
    pub rows_in: u64,
    /// Rows that sinks have written since the job's first start.
    pub rows_out: u64,
    /// Lowest watermark of the last chain's tasks.
    pub watermark_ms: Option<i64>,
    pub late_rows: u64,
    /// Records that are no rows and were left out in this generation.
    pub skipped_records: u64,
    /// Records that are there and were not read yet, of the sources that know it.
    pub lag_records: Option<u64>,
    pub state_bytes: u64,
    /// Of them in memory.
    pub state_memory_bytes: u64,
    /// Of a bounded input, from 0 to 1.
    pub progress: f64,
    /// Rows a second that sources read and sinks take.
    pub rates: Rates,
}

impl JobReport {
    /// The report of a job that has not begun.
    pub fn new(name: &str, uid: &str, attempt: Attempt) -> Self {
        let public = Report {
            contract: VERSION,
            name: name.to_owned(),
            uid: uid.to_owned(),
            attempt: attempt.0,
            ..Default::default()
        };
        JobReport { public, ..Default::default() }
    }

    /// Changes what the controller reads; its version grows if anything has changed.
    pub fn change(sender: &watch::Sender<JobReport>, change: impl FnOnce(&mut Report)) {
        sender.send_modify(|report| {
            let before = report.public.clone();
            change(&mut report.public);
            report.public.tries_again &= report.public.phase == Phase::Failed;
            report.public.version += u64::from(before != report.public);
            let newest = report.recent.front().map_or(0, |checkpoint| checkpoint.epoch);
            if let Some(last) = report.public.last_checkpoint.as_ref().filter(|last| last.epoch > newest) {
                report.recent.push_front(last.clone());
                report.recent.truncate(RECENT);
            }
        });
    }

    /// Takes the figures that a worker has told.
    pub fn take(&mut self, worker: WorkerId, tasks: Vec<TaskReport>, now: Duration) {
        let since = self.told.insert(worker, now).map(|told| now.saturating_sub(told).as_secs_f64());
        let before = self.tasks.insert(worker, tasks).unwrap_or_default();
        let Some(since) = since.filter(|since| *since > 0.0) else { return };
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / since;
        for task in self.tasks.get(&worker).into_iter().flatten() {
            let key = (task.chain, task.subtask);
            let Some(before) = before.iter().find(|before| (before.chain, before.subtask) == key) else {
                continue;
            };
            let rates = Rates {
                rows_in: rate(task.rows_in, before.rows_in),
                rows_out: rate(task.rows_out, before.rows_out),
            };
            self.rates.insert(key, rates);
        }
    }

    /// Forgets the figures of a worker that is gone.
    pub fn forget(&mut self, worker: WorkerId) {
        self.told.remove(&worker);
        for task in self.tasks.remove(&worker).unwrap_or_default() {
            self.rates.remove(&(task.chain, task.subtask));
        }
    }

    /// Forgets the figures of all workers.
    pub fn forget_all(&mut self) {
        self.tasks.clear();
        self.rates.clear();
        self.told.clear();
    }

    /// Adds up the tasks' figures. Sources are the tasks of chain 0 of each input.
    pub fn totals(&self, source_chains: &[u32]) -> Totals {
        let mut totals = Totals::default();
        let (mut progress, mut sources) = (0, 0);
        for task in self.tasks.values().flatten() {
            let rates = self.rates.get(&(task.chain, task.subtask)).copied().unwrap_or_default();
            if source_chains.contains(&task.chain) {
                totals.rows_in += task.rows_in;
                totals.rates.rows_in += rates.rows_in;
                progress += task.progress_ppm;
                sources += 1;
            }
            totals.rows_out += task.rows_out;
            totals.rates.rows_out += rates.rows_out;
            totals.late_rows += task.late_rows;
            totals.skipped_records += task.skipped_records;
            totals.lag_records = match (totals.lag_records, task.lag_records) {
                (None, None) => None,
                (sum, lag) => Some(sum.unwrap_or(0) + lag.unwrap_or(0)),
            };
            totals.state_bytes += task.state_bytes;
            totals.state_memory_bytes += task.state_memory_bytes;
            let lowest =
                totals.watermark_ms.map_or(task.watermark_ms, |lowest| lowest.min(task.watermark_ms));
            totals.watermark_ms = Some(lowest);
        }
        totals.progress = if sources == 0 { 0.0 } else { progress as f64 / 1e6 / f64::from(sources) };
        totals
    }
}
