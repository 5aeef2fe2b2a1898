//! The job over HTTP: what it does and how it fares, savepoints, its end.
//!
//! `GET /api/v1/job`: report, dataflow and figures. `POST /api/v1/job/savepoints` takes a checkpoint and answers once a copy of it is
//! whole. `POST /api/v1/job/stop` takes a last checkpoint and ends the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_crds::contract::{Report, ReportedCheckpoint, ReportedPhase as Phase};
use millrace_sql::plan::Plan;
use serde::Serialize;

use super::CoordinatorState;
use crate::checkpoint::store::Below;
use crate::checkpoint::{Store, paths, protocol, savepoint};
use crate::coordinator::{JobReport, Wish};
use crate::error::chain;
use crate::explain::{Explained, explain};
use crate::model::{Epoch, EventTime};
use crate::rpc::TaskReport;
use crate::state::verify_segment;

/// How long a savepoint's checkpoint is waited for.
const CHECKPOINT_MAX: Duration = Duration::from_secs(600);

/// Answer of `GET /api/v1/job`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobView {
    #[serde(flatten)]
    report: Report,
    /// The newest ones that this coordinator has seen, newest first.
    checkpoints: Vec<ReportedCheckpoint>,
    graph: Explained,
    /// Over all tasks of this generation.
    totals: FiguresView,
    /// In the order of the graph, over all subtasks of this generation.
    operators: Vec<OperatorView>,
    tasks: Vec<TaskView>,
}

/// What an operator has taken and given, as it runs in its chain.
#[derive(Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct OperatorView {
    id: String,
    rows_in: u64,
    /// Memory of the rows.
    bytes_in: u64,
    rows_out: u64,
    bytes_out: u64,
    late_rows: u64,
    /// Keyed state, as of the newest barriers.
    state_bytes: u64,
}

/// What one task has done, or all of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FiguresView {
    rows_in: u64,
    rows_out: u64,
    /// A second, between the last two signs of life.
    rows_in_per_second: f64,
    /// Into sinks.
    rows_out_per_second: f64,
    /// Unset before the first one.
    watermark_ms: Option<i64>,
    late_rows: u64,
    skipped_records: u64,
    /// Of sources that know it.
    lag_records: Option<u64>,
    state_bytes: u64,
    /// Of it in memory; the rest is on local disks.
    state_memory_bytes: u64,
}

/// A task: one subtask of the operators of a chain.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskView {
    worker: u32,
    chain: u32,
    subtask: u32,
    #[serde(flatten)]
    figures: FiguresView,
    /// Memory of the rows that came in, and what left the chain, in this generation.
    bytes_in: u64,
    sent_rows: u64,
    sent_bytes: u64,
    /// How it has spent its time in this generation.
    idle_ms: u64,
    backpressured_ms: u64,
    busy_ms: u64,
}

/// Answer of `POST /api/v1/job/savepoints`.
#[derive(Serialize)]
struct Saved {
    epoch: u64,
    /// What `millrace run --from` takes.
    location: String,
    bytes: u64,
}

pub async fn show(State(state): State<CoordinatorState>) -> Response {
    let report = state.report.borrow().clone();
    Json(view(&report, &state)).into_response()
}

fn view(report: &JobReport, state: &CoordinatorState) -> JobView {
    let totals = report.totals(&state.source_chains);
    let time = |millis: i64| (millis != EventTime::MIN.0 && millis != EventTime::MAX.0).then_some(millis);
    let tasks = report.tasks.iter().flat_map(|(worker, tasks)| tasks.iter().map(move |task| (worker, task)));
    let rates =
        |task: &TaskReport| report.rates.get(&(task.chain, task.subtask)).copied().unwrap_or_default();
    let tasks = tasks.map(|(worker, task)| TaskView {
        worker: worker.0,
        chain: task.chain,
        subtask: task.subtask,
        figures: FiguresView {
            rows_in: task.rows_in,
            rows_out: task.rows_out,
            rows_in_per_second: rates(task).rows_in,
            rows_out_per_second: rates(task).rows_out,
            watermark_ms: time(task.watermark_ms),
            late_rows: task.late_rows,
            skipped_records: task.skipped_records,
            lag_records: task.lag_records,
            state_bytes: task.state_bytes,
            state_memory_bytes: task.state_memory_bytes,
        },
        bytes_in: task.bytes_in,
        sent_rows: task.sent_rows,
        sent_bytes: task.sent_bytes,
        idle_ms: task.idle_ms,
        backpressured_ms: task.backpressured_ms,
        busy_ms: task.busy_ms,
    });
    let in_order: BTreeMap<(u32, u32), TaskView> =
        tasks.map(|task| ((task.chain, task.subtask), task)).collect();
    let plan = report.plan.as_deref().unwrap_or(&state.plan);
    JobView {
        report: report.public.clone(),
        checkpoints: report.recent.iter().cloned().collect(),
        graph: explain(plan),
        operators: operators(plan, report.tasks.values().flatten()),
        totals: FiguresView {
            rows_in: totals.rows_in,
            rows_out: totals.rows_out,
            rows_in_per_second: totals.rates.rows_in,
            rows_out_per_second: totals.rates.rows_out,
            watermark_ms: totals.watermark_ms.and_then(time),
            late_rows: totals.late_rows,
            skipped_records: totals.skipped_records,
            lag_records: totals.lag_records,
            state_bytes: totals.state_bytes,
            state_memory_bytes: totals.state_memory_bytes,
        },
        tasks: in_order.into_values().collect(),
    }
}

/// Figures of each operator of a plan, of which tasks tell by its place in it.
fn operators<'a>(plan: &Plan, tasks: impl Iterator<Item = &'a TaskReport>) -> Vec<OperatorView> {
    let mut views: Vec<OperatorView> = plan
        .operators
        .iter()
        .map(|operator| OperatorView { id: operator.id.clone(), ..OperatorView::default() })
        .collect();
    for told in tasks.flat_map(|task| &task.operators) {
        // One of a plan before this one is not told of any more.
        let Some(view) = views.get_mut(told.operator as usize) else { continue };
        view.rows_in += told.rows_in;
        view.bytes_in += told.bytes_in;
        view.rows_out += told.rows_out;
        view.bytes_out += told.bytes_out;
        view.late_rows += told.late_rows;
        view.state_bytes += told.state_bytes;
    }
    views
}

pub async fn stop(State(state): State<CoordinatorState>) -> StatusCode {
    state.wish.send_replace(Wish::Stop);
    StatusCode::ACCEPTED
}

/// Beside other work of this process: a copy goes on although nobody waits for the answer any more.
pub async fn save(State(state): State<CoordinatorState>) -> Response {
    match tokio::spawn(save_now(state)).await {
        Ok(Ok(saved)) => (StatusCode::CREATED, Json(saved)).into_response(),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn save_now(mut state: CoordinatorState) -> Result<Saved, String> {
    let Some(store) = state.store.clone() else { return Err("the job cannot start".to_owned()) };
    let before = state.report.borrow().public.clone();
    if before.phase != Phase::Running {
        return Err(format!("the job is {:?}, and takes no checkpoint", before.phase));
    }
    let is_asked = state.wish.send_if_modified(|wish| {
        let next = match wish {
            Wish::Stop => return false,
            Wish::Run => 1,
            Wish::Checkpoint(number) => *number + 1,
        };
        *wish = Wish::Checkpoint(next);
        true
    });
    if !is_asked {
        return Err("the job is being stopped; its last checkpoint stays".to_owned());
    }
    let epoch = tokio::select! {
        epoch = newer(&mut state.report, &before) => epoch?,
        () = state.clock.sleep(CHECKPOINT_MAX) => return Err("no checkpoint was complete in time".to_owned()),
    };
    copy(&store, epoch).await
}

/// Waits for a checkpoint.
async fn newer(report: &mut tokio::sync::watch::Receiver<JobReport>, before: &Report) -> Result<u64, String> {
    let known = before.last_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
    let epoch = |report: &Report| {
        report.last_checkpoint.as_ref().map(|checkpoint| checkpoint.epoch).filter(|epoch| *epoch > known)
    };
    let changed = report.wait_for(|report| {
        let report = &report.public;
        epoch(report).is_some()
            || report.failed_checkpoints > before.failed_checkpoints
            || report.phase != Phase::Running
    });
    let now = changed.await.map_err(|_| "the job has ended".to_owned())?.public.clone();
    epoch(&now).ok_or_else(|| match now.last_checkpoint_failure {
        Some(why) => format!("the checkpoint has failed: {why}"),
        None => format!("the job is {:?}, and takes no checkpoint", now.phase),
    })
}

/// Copies a checkpoint to a place of its own beside the job's state.
async fn copy(store: &Arc<dyn Store>, epoch: u64) -> Result<Saved, String> {
    let told = |error: protocol::CheckpointError| chain(&error);
    let found = protocol::complete(store.as_ref()).await.map_err(told)?;
    let found = found.into_iter().find(|found| found.epoch == Epoch(epoch));
    let Some(found) = found else {
        return Err(format!("checkpoint {epoch} is gone already: raise spec.checkpoint.retain"));
    };
    let to = Below::new(Arc::clone(store), paths::savepoint(Epoch(epoch)));
    let manifest = found.manifest.map_err(told)?;
    let bytes = savepoint::save(store.as_ref(), &manifest, &to, verify_segment).await.map_err(told)?;
    Ok(Saved { epoch, location: to.location(), bytes })
}
