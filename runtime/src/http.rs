//! What a coordinator and a worker answer over HTTP: probes, metrics, and the coordinator's report.
//!
//! `/livez`: the process answers. `/readyz`: a coordinator takes registrations, a worker follows a coordinator. A coordinator that
//! another one has taken over from answers nothing but `/livez`.
//! `GET /report?after=VERSION` answers once the report's version is above, or after half a minute. `POST /stop` asks for a
//! last checkpoint and the end of the job's run; `POST /go-on` takes that back while the checkpoint is not complete.
//! What people ask is below `/api/v1/job`.

mod job;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use millrace_crds::contract::Report;
use millrace_sql::plan::Plan;
use serde::Deserialize;
use snafu::{ResultExt, Snafu};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::checkpoint::Store;
use crate::clock::Clock;
use crate::coordinator::{JobReport, Wish};
use crate::metrics;
use crate::worker::WorkerFigures;

/// How long a report is waited for; below the idle time-outs of proxies.
const LONG_POLL_MAX: Duration = Duration::from_secs(30);

/// The server could not run.
#[derive(Debug, Snafu)]
#[snafu(display("failed to serve HTTP at {address}"))]
pub struct HttpError {
    address: SocketAddr,
    source: std::io::Error,
}

/// What a coordinator's answers come from.
#[derive(Clone)]
pub struct CoordinatorState {
    pub report: watch::Receiver<JobReport>,
    pub wish: Arc<watch::Sender<Wish>>,
    pub source_chains: Arc<[u32]>,
    pub plan: Arc<Plan>,
    /// Of the job's state; none if the job cannot start.
    pub store: Option<Arc<dyn Store>>,
    pub clock: Clock,
    /// False while another coordinator leads the job: what this one knows is old, and nobody must read it.
    pub is_in_charge: Arc<AtomicBool>,
}

/// Listens at an address.
///
/// # Errors
/// If somebody else does, or it is no address of this machine.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.context(HttpSnafu { address })
}

/// Serves a coordinator until dropped.
pub async fn serve_coordinator(listener: TcpListener, state: CoordinatorState) -> Result<(), HttpError> {
    let routes = Router::new()
        .route("/readyz", get(|| async { "ok" }))
        .route("/metrics", get(coordinator_metrics))
        .route("/report", get(report))
        .route("/stop", post(job::stop))
        .route("/go-on", post(go_on))
        .route("/api/v1/job", get(job::show))
        .route("/api/v1/job/stop", post(job::stop))
        .route("/api/v1/job/savepoints", post(job::save))
        .layer(from_fn_with_state(state.clone(), only_in_charge))
        .route("/livez", get(|| async { "ok" }))
        .with_state(state);
    serve(listener, routes).await
}

/// What a worker's answers come from.
#[derive(Clone)]
pub struct WorkerState {
    /// The job's name.
    pub name: String,
    /// True while it has a coordinator.
    pub follows: Arc<AtomicBool>,
    pub figures: watch::Receiver<WorkerFigures>,
}

/// Serves a worker until dropped.
pub async fn serve_worker(address: SocketAddr, state: WorkerState) -> Result<(), HttpError> {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(worker_ready))
        .route("/metrics", get(worker_metrics))
        .with_state(state);
    serve(listen(address).await?, routes).await
}

async fn only_in_charge(State(state): State<CoordinatorState>, request: Request, next: Next) -> Response {
    match state.is_in_charge.load(Ordering::Relaxed) {
        true => next.run(request).await,
        false => (StatusCode::SERVICE_UNAVAILABLE, "another coordinator leads the job").into_response(),
    }
}

async fn worker_ready(State(state): State<WorkerState>) -> impl IntoResponse {
    match state.follows.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no coordinator"),
    }
}

async fn worker_metrics(State(state): State<WorkerState>) -> impl IntoResponse {
    let figures = state.figures.borrow().clone();
    answer(metrics::worker(&state.name, &figures))
}

async fn serve(listener: TcpListener, routes: Router) -> Result<(), HttpError> {
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    info!(%address, "serving HTTP");
    axum::serve(listener, routes).await.context(HttpSnafu { address })
}

async fn coordinator_metrics(State(state): State<CoordinatorState>) -> impl IntoResponse {
    let report = state.report.borrow().clone();
    answer(metrics::job(&report, &state.source_chains, state.clock.now_ms()))
}

fn answer(metrics: Result<String, prometheus::Error>) -> (StatusCode, String) {
    match metrics {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn report(
    State(mut state): State<CoordinatorState>,
    Query(After { after }): Query<After>,
) -> Json<Report> {
    if let Some(after) = after {
        let newer = state.report.wait_for(|report| report.public.version > after);
        tokio::select! {
            // Once the job has ended there is nothing newer to come: an answer at once would be asked for again at once.
            Ok(_) = newer => {}
            () = state.clock.sleep(LONG_POLL_MAX) => {}
        }
    }
    Json(state.report.borrow().public.clone())
}

async fn go_on(State(state): State<CoordinatorState>) -> StatusCode {
    state.wish.send_replace(Wish::Run);
    StatusCode::ACCEPTED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attempt;

    #[tokio::test(start_paused = true)]
    async fn a_report_that_nothing_follows_is_answered_as_late_as_any() {
        let (sender, report) = watch::channel(JobReport::new("totals", "uid", Attempt(1)));
        JobReport::change(&sender, |report| report.restarts += 1);
        drop(sender);
        let (wish, clock) = (Arc::new(watch::channel(Wish::Run).0), Clock::starting_at(0));
        let is_in_charge = Arc::new(AtomicBool::new(true));
        let state = CoordinatorState {
            report,
            wish,
            source_chains: [].into(),
            plan: Arc::default(),
            store: None,
            clock,
            is_in_charge,
        };
        let asked = |after| super::report(State(state.clone()), Query(After { after }));
        let Json(known) = asked(Some(0)).await;
        assert_eq!(clock.elapsed(), Duration::ZERO);
        let Json(again) = asked(Some(known.version)).await;
        assert_eq!((again.version, clock.elapsed()), (known.version, LONG_POLL_MAX));
    }
}
