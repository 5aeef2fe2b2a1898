//! What a job looks like from outside: the source of live progress, status and metrics.

use std::collections::{BTreeMap, BTreeSet};

use millrace_sql::plan::{OperatorKind, Plan};
use serde::Serialize;
use tokio::sync::watch;

use crate::checkpoint::records::Manifest;
use crate::model::WorkerId;
use crate::rpc::TaskReport;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Phase {
    #[default]
    Starting,
    Running,
    Recovering,
    Suspended,
    Succeeded,
    Failed,
}

/// The newest complete checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReport {
    pub epoch: u64,
    pub completed_at_ms: u64,
    pub duration_ms: u64,
    pub bytes: u64,
    /// Rows read by all sources since the job's first start.
    pub rows_in: u64,
    /// Rows written by all sinks since the job's first start.
    pub rows_out: u64,
}

impl CheckpointReport {
    /// What a manifest says of its checkpoint; how long it took is not in it.
    pub fn of(manifest: &Manifest, plan: &Plan) -> Self {
        let rows = |is_wanted: fn(&OperatorKind) -> bool| -> u64 {
            let operators =
                plan.operators.iter().filter(|operator| operator.kind.as_ref().is_some_and(is_wanted));
            let ids: BTreeSet<&str> = operators.map(|operator| operator.id.as_str()).collect();
            let states = manifest.subtasks.iter().filter(|state| ids.contains(state.operator.as_str()));
            states.map(|state| state.rows).sum()
        };
        CheckpointReport {
            epoch: manifest.epoch,
            completed_at_ms: manifest.created_ms,
            duration_ms: 0,
            bytes: manifest.bytes,
            rows_in: rows(|kind| matches!(kind, OperatorKind::Source(_))),
            rows_out: rows(|kind| matches!(kind, OperatorKind::Sink(_))),
        }
    }
}

/// A job as its coordinator sees it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReport {
    pub contract: u32,
    /// Grows with every change but those of the tasks' figures.
    pub version: u64,
    pub name: String,
    pub attempt: u64,
    pub phase: Phase,
    pub generation: u64,
    pub restored_epoch: u64,
    pub restarts: u32,
    pub parallelism: u32,
    pub last_checkpoint: Option<CheckpointReport>,
    pub failed_checkpoints: u64,
    pub last_failure: Option<String>,
    /// Its kind, in PascalCase.
    pub last_failure_kind: Option<String>,
    pub workers: u32,
    #[serde(skip)]
    pub tasks: BTreeMap<WorkerId, Vec<TaskReport>>,
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
    pub state_bytes: u64,
    /// Of a bounded input, from 0 to 1.
    pub progress: f64,
}

impl JobReport {
    /// Changes a report; its version grows if anything but the tasks' figures has changed.
    pub fn change(sender: &watch::Sender<JobReport>, change: impl FnOnce(&mut JobReport)) {
        sender.send_modify(|report| {
            let tasks = std::mem::take(&mut report.tasks);
            let before = report.clone();
            report.tasks = tasks;
            change(report);
            let is_changed = before.phase != report.phase
                || before.generation != report.generation
                || before.restarts != report.restarts
                || before.parallelism != report.parallelism
                || before.workers != report.workers
                || before.last_checkpoint != report.last_checkpoint
                || before.failed_checkpoints != report.failed_checkpoints
                || before.last_failure != report.last_failure;
            report.version += u64::from(is_changed);
        });
    }

    /// Adds up the tasks' figures. Sources are the tasks of chain 0 of each input.
    pub fn totals(&self, source_chains: &[u32]) -> Totals {
        let mut totals = Totals::default();
        let (mut progress, mut sources) = (0, 0);
        for task in self.tasks.values().flatten() {
            if source_chains.contains(&task.chain) {
                totals.rows_in += task.rows_in;
                progress += task.progress_ppm;
                sources += 1;
            }
            totals.rows_out += task.rows_out;
            totals.late_rows += task.late_rows;
            totals.state_bytes += task.state_bytes;
            let lowest =
                totals.watermark_ms.map_or(task.watermark_ms, |lowest| lowest.min(task.watermark_ms));
            totals.watermark_ms = Some(lowest);
        }
        totals.progress = if sources == 0 { 0.0 } else { progress as f64 / 1e6 / f64::from(sources) };
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::contract::Report;

    #[test]
    fn the_controller_reads_what_is_reported() {
        let checkpoint = CheckpointReport { epoch: 3, completed_at_ms: 5, rows_out: 7, ..Default::default() };
        let report = JobReport {
            contract: 1,
            attempt: 2,
            phase: Phase::Recovering,
            restarts: 4,
            last_checkpoint: Some(checkpoint),
            last_failure: Some("lost worker 2".to_owned()),
            ..Default::default()
        };

        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();

        assert_eq!(
            (read.contract, read.attempt, read.phase.as_str(), read.restarts),
            (1, 2, "Recovering", 4)
        );
        assert_eq!(read.last_checkpoint.unwrap().rows_out, 7);
        assert_eq!(read.last_failure.as_deref(), Some("lost worker 2"));
    }
}
