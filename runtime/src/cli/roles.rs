//! The roles that pods run: `millrace coordinator` and `millrace worker`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::embedded::{machine_random, runtime};
use super::job::{self, UserError};
use super::memory::StateArguments;
use super::{Exit, progress};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::{Store, protocol};
use crate::clock::Clock;
use crate::coordinator::failover::RestartStrategy;
use crate::coordinator::{self, CoordinatorContext, JobError, JobReport, Phase, Wish, Workers};
use crate::error::chain;
use crate::fault::Safeguards;
use crate::http::{self, CoordinatorState, HttpError, WorkerState};
use crate::model::{Attempt, JobUid};
use crate::outside::Outside;
use crate::sink::StandardSinks;
use crate::transport::{Tcp, Transport};
use crate::worker::{Worker, WorkerContext, WorkerError, WorkerSettings};

/// Delay between tries to reach the coordinator: it may be restarting.
const RECONNECT: Duration = Duration::from_millis(200);

/// How often a coordinator that stands by looks whether the leader goes on, and for how long it must not have, at least.
const STAND_BY_LOOK: Duration = Duration::from_secs(2);
const STAND_BY_MIN: Duration = Duration::from_secs(15);

/// Delay before a dismissed worker offers itself again.
const DISMISSED_REST: Duration = Duration::from_secs(1);

/// Arguments of `coordinator`.
#[derive(clap::Args)]
pub struct CoordinatorArguments {
    /// The manifest.
    #[arg(env = "MILLRACE_JOB")]
    file: PathBuf,
    /// The job's uid.
    #[arg(long, env = "MILLRACE_UID")]
    uid: String,
    /// Number of this set of processes.
    #[arg(long, env = "MILLRACE_ATTEMPT", default_value_t = 1)]
    attempt: u64,
    /// Where workers register.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "0.0.0.0:6121")]
    listen: String,
    /// Where probes, metrics and the report are served.
    #[arg(long, env = "MILLRACE_HTTP", default_value = "0.0.0.0:6123")]
    http: SocketAddr,
}

/// Arguments of `worker`.
#[derive(clap::Args)]
pub struct WorkerArguments {
    /// The manifest.
    #[arg(env = "MILLRACE_JOB")]
    file: PathBuf,
    /// The coordinator's address.
    #[arg(long, env = "MILLRACE_COORDINATOR")]
    coordinator: String,
    /// The job's uid.
    #[arg(long, env = "MILLRACE_UID")]
    uid: String,
    /// Number of this set of processes.
    #[arg(long, env = "MILLRACE_ATTEMPT", default_value_t = 1)]
    attempt: u64,
    /// How many slots to offer.
    #[arg(long, env = "MILLRACE_SLOTS", default_value_t = 2)]
    slots: u32,
    /// Where to listen for other workers.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "0.0.0.0:6122")]
    listen: String,
    /// The host that other workers reach this one at.
    #[arg(long, env = "MILLRACE_HOST")]
    host: String,
    /// Where probes and metrics are served; without it they are not.
    #[arg(long, env = "MILLRACE_HTTP")]
    http: Option<SocketAddr>,
    /// End when standard input closes.
    #[arg(long)]
    end_with_parent: bool,
    /// How many workers share this machine's memory.
    #[arg(long, default_value_t = 1, hide = true)]
    workers_beside: u64,
    #[command(flatten)]
    state: StateArguments,
}

/// Runs the coordinator of a job.
pub fn coordinator(arguments: CoordinatorArguments) -> Result<Exit, UserError> {
    let services = runtime("service", 2)?;
    let job = match job::read(&arguments.file) {
        Ok(job) => job,
        Err(error) => match services.block_on(job::stored(&arguments.file)) {
            Some(job) => job,
            // Not the end of the process: it would only be started again, and the mistake would be seen in a log at best.
            None => return services.block_on(show_failure(&arguments, error)),
        },
    };
    let place = job.manifest.spec.start_place().map(|place| job::store_at(place, &job.manifest));
    let begins_from = match place.transpose() {
        Ok(begins_from) => begins_from,
        // Of a job with a checkpoint it is not looked at.
        Err(_) if services.block_on(has_checkpoint(&job)) => None,
        Err(UserError(why)) => {
            let error = UserError(format!("spec.startFrom: {why}"));
            return services.block_on(show_failure(&arguments, error));
        }
    };
    services.block_on(async move {
        let clock = Clock::system();
        let (uid, attempt) = (JobUid(arguments.uid), Attempt(arguments.attempt));
        let mut settings = job.settings(uid.clone(), attempt)?;
        settings.is_attended = false;
        settings.is_patient = matches!(settings.restart, RestartStrategy::Exponential { most: None, .. });
        let listener = Tcp.listen(&arguments.listen).await;
        let listener = listener
            .map_err(|error| UserError(format!("failed to listen at {}: {error}", arguments.listen)))?;
        info!(port = listener.port(), "taking registrations of workers");
        let workers = Workers::accept(listener, uid.clone(), attempt, clock);
        let (store, is_in_charge) = (job.store()?, Arc::new(AtomicBool::new(true)));
        let random = machine_random();
        let context = CoordinatorContext {
            clock,
            store: Arc::clone(&store),
            begins_from,
            outside: Outside::new(clock, job::buckets(&job.manifest), &random),
            random,
            sinks: Arc::new(StandardSinks),
            safeguards: Safeguards::default(),
        };
        let (wish_sender, wish) = watch::channel(Wish::Run);
        let (report_sender, report) = watch::channel(JobReport::new(job.name(), &uid.0, attempt));
        let state = CoordinatorState {
            report: report.clone(),
            wish: Arc::new(wish_sender),
            source_chains: progress::source_chains(&job.plan).into(),
            plan: Arc::new(job.plan.clone()),
            store: Some(Arc::clone(&store)),
            clock,
            is_in_charge: Arc::clone(&is_in_charge),
        };
        let patience = STAND_BY_MIN.max(settings.checkpoint_interval * 3);
        let job_run = async {
            let ended =
                coordinator::run(settings, job.plan.clone(), context, workers, wish, report_sender).await;
            match &ended {
                Ok(end) => progress::log_summary(*end, &report.borrow()),
                Err(error) => error!(error = %chain(error), "the job has failed"),
            }
            if let Err(JobError::Fenced { source }) = ended {
                if matches!(source, CheckpointError::Superseded { .. }) {
                    return Exit::NotInCharge;
                }
                is_in_charge.store(false, Ordering::Relaxed);
                stand_by(store.as_ref(), clock, patience).await;
                return Exit::NotInCharge;
            }
            // How the job ended stays to be read until someone has read it and ends this process.
            std::future::pending().await
        };
        tokio::select! {
            exit = job_run => Ok(exit),
            served = serve(arguments.http, state) => {
                served.map_err(|error| UserError(chain(&error))).map(|()| Exit::Done)
            }
            // At once: everything that must survive is in the store, and another coordinator takes over.
            () = terminated() => Ok(Exit::Done),
        }
    })
}

async fn has_checkpoint(job: &job::Job) -> bool {
    let Ok(store) = job.store() else { return false };
    matches!(protocol::newest(store.as_ref()).await, Ok(Some(_)))
}

/// Waits while another coordinator leads the job: to claim it back at once would only mean to fence each other in turn, which two
/// pods of one attempt would do while a node is cut off. Ends once the leader has done nothing for so long.
async fn stand_by(store: &dyn Store, clock: Clock, patience: Duration) {
    info!("another coordinator leads the job; waiting for as long as it does");
    let mut known = None;
    let mut since = clock.elapsed();
    while clock.elapsed().saturating_sub(since) < patience {
        // A store that does not answer says nothing about the leader.
        match protocol::progress(store).await {
            Ok(found) if known.replace(found) == Some(found) => {}
            Ok(_) => since = clock.elapsed(),
            Err(error) => {
                warn!(error = %chain(&error), "failed to look after the leader");
                since = clock.elapsed();
            }
        }
        clock.sleep(STAND_BY_LOOK).await;
    }
    info!("the leader is silent; starting anew");
}

/// Reports that the job cannot start until someone has corrected it and ends this process.
async fn show_failure(arguments: &CoordinatorArguments, error: UserError) -> Result<Exit, UserError> {
    error!(%error, "the job cannot start");
    let (wish, _) = watch::channel(Wish::Run);
    let mut report = JobReport::new("", &arguments.uid, Attempt(arguments.attempt));
    report.public.phase = Phase::Failed;
    report.public.last_failure = Some(error.to_string());
    report.public.last_failure_kind = Some("InvalidManifest".to_owned());
    let (_sender, report) = watch::channel(report);
    let state = CoordinatorState {
        report,
        wish: Arc::new(wish),
        source_chains: [].into(),
        plan: Arc::default(),
        store: None,
        clock: Clock::system(),
        is_in_charge: Arc::new(AtomicBool::new(true)),
    };
    tokio::select! {
        served = serve(arguments.http, state) => {
            served.map_err(|error| UserError(chain(&error))).map(|()| Exit::Done)
        }
        () = terminated() => Ok(Exit::WrongInput),
    }
}

async fn serve(address: SocketAddr, state: CoordinatorState) -> Result<(), HttpError> {
    http::serve_coordinator(http::listen(address).await?, state).await
}

/// Ends on SIGTERM or Ctrl-C.
async fn terminated() {
    let signal = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = signal => {}
    }
}

/// Works for a coordinator until dismissed.
pub fn worker(arguments: WorkerArguments) -> Result<Exit, UserError> {
    let manifest = job::read_manifest(&arguments.file)?;
    arguments.state.check()?;
    let services = runtime("service", 2)?;
    let tasks = runtime("task", arguments.slots.max(1) as usize)?;
    let ended = services.block_on(async {
        let clock = Clock::system();
        let context = WorkerContext {
            clock,
            store: job::store(&manifest)?,
            transport: Arc::new(Tcp),
            tasks: tasks.handle().clone(),
            outside: Outside::new(clock, job::buckets(&manifest), &machine_random()),
            sinks: Arc::new(StandardSinks),
            crash: job::crash()?,
            safeguards: Safeguards::default(),
            memory: arguments.state.memory(arguments.workers_beside),
            lazy_from: arguments.state.state_lazy_from,
        };
        let settings = WorkerSettings {
            job: JobUid(arguments.uid.clone()),
            attempt: Attempt(arguments.attempt),
            slots: arguments.slots,
            listen: arguments.listen.clone(),
            host: arguments.host.clone(),
        };
        let worker = Worker::new(settings, context).await.map_err(|error| UserError(chain(&error)))?;
        let follows = Arc::new(AtomicBool::new(false));
        let state = WorkerState {
            name: manifest.metadata.name.clone().unwrap_or_default(),
            follows: Arc::clone(&follows),
            figures: worker.figures(),
        };
        tokio::select! {
            exit = follow(worker, &arguments, clock, &follows) => Ok(exit),
            served = serve_worker(arguments.http, state) => served.map(|()| Exit::Done),
            () = parent_gone(arguments.end_with_parent) => Ok(Exit::Done),
            () = terminated() => Ok(Exit::Done),
        }
    });
    // Tasks hold nothing that must be saved; a busy one is not waited for.
    tasks.shutdown_background();
    services.shutdown_background();
    ended
}

async fn serve_worker(address: Option<SocketAddr>, state: WorkerState) -> Result<(), UserError> {
    match address {
        Some(address) => http::serve_worker(address, state).await.map_err(|error| UserError(chain(&error))),
        None => std::future::pending().await,
    }
}

/// Follows one coordinator after another.
async fn follow(mut worker: Worker, arguments: &WorkerArguments, clock: Clock, follows: &AtomicBool) -> Exit {
    let coordinator = &arguments.coordinator;
    let (mut is_quiet, mut is_dismissed) = (false, false);
    loop {
        match Tcp.connect(coordinator).await {
            Ok(stream) => {
                is_quiet = false;
                follows.store(true, Ordering::Relaxed);
                let ended = worker.follow(stream).await;
                follows.store(false, Ordering::Relaxed);
                match ended {
                    Err(WorkerError::Dismissed { reason }) => {
                        if arguments.end_with_parent {
                            info!(%reason, "dismissed");
                            return Exit::Done;
                        }
                        // Whoever started this process ends it; until then, ending would only mean to be started again.
                        if !is_dismissed {
                            info!(%reason, "dismissed; waiting to be ended or needed again");
                        }
                        is_dismissed = true;
                        clock.sleep(DISMISSED_REST).await;
                        continue;
                    }
                    Err(error) => warn!(error = %chain(&error), "lost the coordinator"),
                    Ok(()) => {}
                }
            }
            Err(error) => {
                if !is_quiet {
                    warn!(%error, coordinator, "cannot reach the coordinator; trying again");
                }
                is_quiet = true;
            }
        }
        clock.sleep(RECONNECT).await;
    }
}

/// Ends when standard input closes, which it does when the process that started this one is gone.
async fn parent_gone(is_wanted: bool) {
    if !is_wanted {
        return std::future::pending().await;
    }
    let mut input = tokio::io::stdin();
    let mut byte = [0];
    while input.read(&mut byte).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::protocol::JobIdentity;
    use crate::checkpoint::{Checkpoints, Claimant, FolderStore};
    use crate::model::MaxParallelism;

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_stands_by_for_as_long_as_another_one_leads() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
        let identity = JobIdentity {
            uid: JobUid("uid".to_owned()),
            name: "default/a".to_owned(),
            attempt: Attempt(1),
            max_parallelism: MaxParallelism::new(8).unwrap(),
        };
        let leader =
            Checkpoints::take_over(Arc::clone(&store), identity, &Claimant::new(1, 1), Safeguards::default())
                .await
                .unwrap();
        let clock = Clock::starting_at(0);
        let patience = Duration::from_secs(20);
        let waiting = stand_by(store.as_ref(), clock, patience);
        tokio::pin!(waiting);

        for number in 0..6 {
            tokio::select! {
                () = &mut waiting => panic!("it has not waited for the leader"),
                () = clock.sleep(Duration::from_secs(10)) => {}
            }
            let epoch = crate::model::Epoch(leader.next_epoch.0 + number);
            let manifest = leader.checkpoints.manifest(epoch, 1, Default::default(), String::new());
            leader.checkpoints.publish(&manifest).await.unwrap();
        }
        let last = clock.elapsed();
        waiting.await;
        assert!(clock.elapsed() - last >= patience, "{:?} after {last:?}", clock.elapsed());
    }
}
