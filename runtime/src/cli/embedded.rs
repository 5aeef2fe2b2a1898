//! `millrace run`: a coordinator here, and workers in this process or in processes that it starts.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_sql::plan::Plan;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::process::{Child, Command};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tracing::{info, warn};

use super::job::{Job, UserError};
use super::{Exit, From, Logging, RunArguments, job, progress};
use crate::checkpoint::protocol;
use crate::checkpoint::records::JobRecord;
use crate::checkpoint::records::Manifest;
use crate::checkpoint::{CheckpointError, Store, savepoint};
use crate::clock::Clock;
use crate::coordinator::{self, CoordinatorContext, JobEnd, JobError, JobReport, JobSettings, Wish, Workers};
use crate::error::chain;
use crate::fault::Safeguards;
use crate::http::{self, CoordinatorState};
use crate::model::{Attempt, JobUid};
use crate::outside::Outside;
use crate::sink::{Sinks, StandardSinks};
use crate::state::StateMemory;
use crate::transport::{Tcp, Transport};
use crate::worker::{Worker, WorkerContext, WorkerError, WorkerSettings};

/// Delay between tries of a worker inside of this process to reach its coordinator.
const RECONNECT: Duration = Duration::from_millis(200);

/// Threads of the runtime for heartbeats, uploads and control; tasks have their own.
const SERVICE_THREADS: usize = 2;

/// Least time between two starts of a worker process.
const RESPAWN_MIN: Duration = Duration::from_secs(1);

/// Runs a job to its end.
pub fn run(arguments: RunArguments, logging: &Logging) -> Result<Exit, UserError> {
    let services = runtime("service", SERVICE_THREADS)?;
    let job = match job::read(&arguments.file) {
        Ok(job) => job,
        Err(error) => services.block_on(job::stored(&arguments.file)).ok_or(error)?,
    };
    job::check_embedded(&job.manifest)?;
    services.block_on(run_job(job, arguments, logging))
}

/// A runtime with named threads.
pub fn runtime(name: &str, threads: usize) -> Result<Runtime, UserError> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(format!("millrace-{name}"))
        .enable_all()
        .build()
        .map_err(|error| UserError(format!("failed to start threads: {error}")))
}

/// A generator seeded by the machine; the only place where it is asked for randomness.
#[expect(clippy::disallowed_methods, reason = "this is where the machine is asked")]
pub fn machine_random() -> Arc<Mutex<StdRng>> {
    Arc::new(Mutex::new(StdRng::from_os_rng()))
}

async fn run_job(job: Job, arguments: RunArguments, logging: &Logging) -> Result<Exit, UserError> {
    arguments.state.check()?;
    let clock = Clock::system();
    let random = machine_random();
    if arguments.from == Some(From::None) {
        let nonce = rand::Rng::random(&mut *random.lock());
        job.remove_state(nonce).await?;
        for (table, folder) in job.old_files() {
            eprintln!(
                "{}: the table '{table}' writes into '{}', where files of earlier runs stay beside the new ones; remove them if they \
                 are not wanted",
                job.name(),
                folder.display()
            );
        }
    }
    let store = job.store()?;
    let stored = match stored(store.as_ref()).await {
        Ok(stored) => stored,
        // What is there is damaged, which no edit of the manifest cures.
        Err(error @ (CheckpointError::Malformed { .. } | CheckpointError::Missing { .. })) => {
            eprintln!("{}: {}", job.name(), chain(&error));
            return Ok(Exit::JobFailed);
        }
        Err(error) => return Err(UserError(chain(&error))),
    };
    let uid = match stored {
        Stored::Finished { at_ms, plan } => return finished_before(&job, at_ms, plan.as_ref()),
        Stored::Unfinished(found) => {
            job::not_of_cluster(&found, store.as_ref())?;
            JobUid(found.uid)
        }
        Stored::Nothing => new_uid(&random),
    };
    let settings = job.settings(uid.clone(), Attempt(1))?;
    let begins_from = match (&arguments.from, job.manifest.spec.start_place()) {
        (Some(From::Place(place)), _) => {
            match goes_on(place, &job, store.as_ref()).await? {
                // The same command again, after a crash.
                true => None,
                false => Some(begins_from(place, "--from", &job, &settings).await?),
            }
        }
        (None, Some(place)) if newest(store.as_ref()).await?.is_none() => {
            Some(begins_from(place, "spec.startFrom", &job, &settings).await?)
        }
        _ => None,
    };
    let listener = Tcp.listen("127.0.0.1:0").await;
    let listener = listener.map_err(|error| UserError(format!("failed to listen on loopback: {error}")))?;
    let address = format!("127.0.0.1:{}", listener.port());
    let workers = Workers::accept(listener, uid.clone(), Attempt(1), clock);
    let outside = Outside::new(clock, job::buckets(&job.manifest), &random);
    let context = CoordinatorContext {
        clock,
        store: Arc::clone(&store),
        begins_from,
        random,
        outside: outside.clone(),
        sinks: Arc::new(StandardSinks),
        safeguards: Safeguards::default(),
    };
    let (wish_sender, wish) = watch::channel(Wish::Run);
    let (report_sender, report) = watch::channel(JobReport::new(job.name(), &uid.0, Attempt(1)));

    let wish_sender = Arc::new(wish_sender);
    if let Some(address) = arguments.http {
        let listener = http::listen(address).await;
        let listener = listener.map_err(|error| UserError(format!("--http: {}", chain(&error))))?;
        let state = CoordinatorState {
            report: report.clone(),
            wish: Arc::clone(&wish_sender),
            source_chains: progress::source_chains(&job.plan).into(),
            plan: Arc::new(job.plan.clone()),
            store: Some(Arc::clone(&context.store)),
            clock,
            is_in_charge: Arc::new(AtomicBool::new(true)),
        };
        tokio::spawn(http::serve_coordinator(listener, state));
    }
    let slots = job.manifest.spec.parallelism;
    let helpers = match arguments.workers {
        None => {
            let sinks = Arc::new(StandardSinks);
            let (memory, lazy_from) = (arguments.state.memory(1), arguments.state.state_lazy_from);
            Inside { address, store, outside, sinks, clock, memory, lazy_from }
                .start(&settings, slots)
                .await?
        }
        Some(count) => {
            let silent = workers.silent();
            Helpers::processes(&arguments, logging, &address, &settings, clock, (count, silent))?
        }
    };
    tokio::spawn(listen_for_stop(wish_sender));
    let form = progress::Shown::fitting(logging.is_json());
    let shown =
        tokio::spawn(progress::show(job.name().to_owned(), job.plan.clone(), report.clone(), clock, form));
    let ended = coordinator::run(settings, job.plan.clone(), context, workers, wish, report_sender).await;
    shown.abort();
    helpers.end().await;
    finish(&job, ended, &report.borrow(), clock)
}

/// The place that a job is to begin from, as an argument or a field names it.
async fn begins_from(
    place: &str,
    named_by: &str,
    job: &Job,
    settings: &JobSettings,
) -> Result<Arc<dyn Store>, UserError> {
    let told = |why: String| UserError(format!("{named_by}: {why}"));
    let from = job::store_at(place, &job.manifest).map_err(|UserError(why)| told(why))?;
    // Before the job has a place of its own, which would hold it to what is wrong now.
    match savepoint::read(from.as_ref(), &settings.identity).await {
        Err(error @ CheckpointError::Refused { .. }) => Err(told(chain(&error))),
        // What is damaged or does not answer is told as it is of any job.
        _ => Ok(from),
    }
}

/// True if the job has begun from a place already, and has a checkpoint of its own since. One that has, and began elsewhere, is
/// refused.
async fn goes_on(place: &str, job: &Job, own: &dyn Store) -> Result<bool, UserError> {
    let Some(newest) = newest(own).await? else { return Ok(false) };
    let from =
        job::store_at(place, &job.manifest).map_err(|UserError(why)| UserError(format!("--from: {why}")))?;
    if newest.begun_from == from.location() {
        eprintln!(
            "{}: has begun from '{place}' already, and goes on from its own checkpoint {}",
            job.name(),
            newest.epoch
        );
        return Ok(true);
    }
    Err(UserError(format!(
        "--from: '{}' has a checkpoint of this job already ({}), and would go on from there; --from latest does so, and to begin \
         from '{place}' give the job another name or checkpoint.location",
        own.location(),
        newest.epoch
    )))
}

async fn newest(own: &dyn Store) -> Result<Option<Manifest>, UserError> {
    protocol::newest(own).await.map_err(|error| UserError(chain(&error)))
}

fn finish(
    job: &Job,
    ended: Result<JobEnd, JobError>,
    report: &JobReport,
    clock: Clock,
) -> Result<Exit, UserError> {
    match ended {
        Ok(end) => {
            progress::summary(job.name(), end, report, clock);
            Ok(Exit::Done)
        }
        Err(error) => {
            eprintln!("{}: {}", job.name(), chain(&error));
            Ok(if matches!(error, JobError::Fenced { .. }) { Exit::NotInCharge } else { Exit::JobFailed })
        }
    }
}

/// What an earlier run of the job has left.
enum Stored {
    Nothing,
    Unfinished(JobRecord),
    Finished { at_ms: u64, plan: Option<Plan> },
}

async fn stored(store: &dyn Store) -> Result<Stored, CheckpointError> {
    if let Some(end) = protocol::finished(store).await? {
        let last = protocol::newest(store).await?;
        return Ok(Stored::Finished { at_ms: end.at_ms, plan: last.and_then(|manifest| manifest.plan) });
    }
    Ok(protocol::owner(store).await?.map_or(Stored::Nothing, Stored::Unfinished))
}

/// Says that there is nothing left to do, unless the SQL was edited since.
fn finished_before(job: &Job, at_ms: u64, plan: Option<&Plan>) -> Result<Exit, UserError> {
    let at = chrono::DateTime::from_timestamp_millis(at_ms as i64).unwrap_or_default();
    let at = at.format("%Y-%m-%d %H:%M:%S UTC");
    let differences = match plan.map(|stored| millrace_sql::plan::succeed(stored, &job.plan, false)) {
        Some(Ok(succession)) => succession.changes,
        Some(Err(differences)) => differences,
        None => Vec::new(),
    };
    if !differences.is_empty() {
        return Err(UserError(format!(
            "{}: finished at {at} with other SQL: {}; --from none starts over with this one",
            job.name(),
            differences.join("; ")
        )));
    }
    println!("{}: finished at {at}; --from none starts over", job.name());
    Ok(Exit::Done)
}

/// A uid for a run that has none.
pub fn new_uid(random: &Arc<Mutex<StdRng>>) -> JobUid {
    let bits: u128 = rand::Rng::random(&mut *random.lock());
    JobUid(format!("{:08x}-{:04x}-{:04x}", bits >> 96, (bits >> 80) & 0xffff, (bits >> 64) & 0xffff))
}

/// First Ctrl-C or SIGTERM: a last checkpoint, then the end. Second: the end at once, which loses nothing either.
async fn listen_for_stop(wish: Arc<watch::Sender<Wish>>) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    if stop_signal(&mut terminate).await.is_none() {
        return;
    }
    eprintln!("stopping after a last checkpoint; Ctrl-C again stops at once");
    wish.send_replace(Wish::Stop);
    if let Some(number) = stop_signal(&mut terminate).await {
        std::process::exit(128 + number);
    }
}

/// The number of the next signal that asks to stop; `None` if there will be none.
async fn stop_signal(terminate: &mut Signal) -> Option<i32> {
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.is_ok().then_some(SignalKind::interrupt().as_raw_value()),
        terminated = terminate.recv() => terminated.map(|()| SignalKind::terminate().as_raw_value()),
    }
}

/// What a worker in this process works with.
pub struct Inside {
    /// Of its coordinator.
    pub address: String,
    pub store: Arc<dyn Store>,
    pub outside: Outside,
    pub sinks: Arc<dyn Sinks>,
    pub clock: Clock,
    pub memory: StateMemory,
    pub lazy_from: u64,
}

/// The workers of an embedded run.
pub enum Helpers {
    Inside { task: tokio::task::JoinHandle<()>, tasks: Option<Runtime>, ended: watch::Sender<bool> },
    Processes { task: tokio::task::JoinHandle<()>, ended: watch::Sender<bool> },
}

impl Inside {
    /// One worker in this process.
    pub async fn start(self, settings: &JobSettings, slots: u32) -> Result<Helpers, UserError> {
        let Inside { address, store, outside, sinks, clock, memory, lazy_from } = self;
        let tasks = runtime("task", slots as usize)?;
        let context = WorkerContext {
            clock,
            store,
            transport: Arc::new(Tcp),
            tasks: tasks.handle().clone(),
            outside,
            sinks,
            crash: job::crash()?,
            safeguards: Safeguards::default(),
            memory,
            lazy_from,
        };
        let worker_settings = WorkerSettings {
            job: settings.identity.uid.clone(),
            attempt: settings.identity.attempt,
            slots,
            listen: "127.0.0.1:0".to_owned(),
            host: "127.0.0.1".to_owned(),
        };
        let mut worker =
            Worker::new(worker_settings, context).await.map_err(|error| UserError(chain(&error)))?;
        let (ended, watched) = watch::channel(false);
        let task = tokio::spawn(async move { work(&mut worker, &address, clock, watched).await });
        Ok(Helpers::Inside { task, tasks: Some(tasks), ended })
    }
}

impl Helpers {
    /// Worker processes, each started again when it dies.
    fn processes(
        arguments: &RunArguments,
        logging: &Logging,
        address: &str,
        settings: &JobSettings,
        clock: Clock,
        (count, silent): (u32, broadcast::Receiver<u32>),
    ) -> Result<Self, UserError> {
        let slots = settings.parallelism;
        let program = std::env::current_exe()
            .map_err(|error| UserError(format!("failed to find this program: {error}")))?;
        let (ended, watched) = watch::channel(false);
        let mut command = std::process::Command::new(program);
        command
            .args(logging.arguments())
            .arg("worker")
            .arg(&arguments.file)
            .args(["--coordinator", address, "--uid", &settings.identity.uid.0])
            .args(["--attempt", &settings.identity.attempt.to_string(), "--end-with-parent"])
            .args([
                "--slots",
                &slots.div_ceil(count).to_string(),
                "--host",
                "127.0.0.1",
                "--listen",
                "127.0.0.1:0",
                "--workers-beside",
                &count.to_string(),
            ])
            .args(arguments.state.arguments());
        let command = Arc::new(Mutex::new(Command::from(command)));
        // Ctrl-C is for this process: the workers take their part in the last checkpoint.
        command.lock().stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
        let task = tokio::spawn(async move {
            let each = (0..count)
                .map(|_| keep_running(Arc::clone(&command), watched.clone(), silent.resubscribe(), clock));
            futures::future::join_all(each).await;
        });
        Ok(Helpers::Processes { task, ended })
    }

    /// Ends the workers.
    pub async fn end(self) {
        match self {
            Helpers::Inside { task, tasks, ended } => {
                // The worker was dismissed, or finds nobody any more.
                ended.send_replace(true);
                let _ = task.await;
                if let Some(tasks) = tasks {
                    tasks.shutdown_background();
                }
            }
            Helpers::Processes { task, ended } => {
                ended.send_replace(true);
                // Panics of the supervisor are logged by the runtime.
                let _ = task.await;
            }
        }
    }
}

/// Works for the coordinator at an address until dismissed, or until all has ended. A pause of the whole process may break the
/// connection: then the worker offers itself again.
async fn work(worker: &mut Worker, address: &str, clock: Clock, mut ended: watch::Receiver<bool>) {
    while !*ended.borrow() {
        match Tcp.connect(address).await {
            Ok(stream) => {
                let Err(error) = worker.follow(stream).await else { continue };
                info!(reason = %chain(&error), "the worker has ended");
                if matches!(error, WorkerError::Dismissed { .. }) {
                    return;
                }
            }
            Err(error) => warn!(%error, "the worker cannot reach its coordinator"),
        }
        tokio::select! {
            _ = ended.changed() => {}
            () = clock.sleep(RECONNECT) => {}
        }
    }
}

/// Runs a worker process, again and again until the job has ended.
async fn keep_running(
    command: Arc<Mutex<Command>>,
    mut ended: watch::Receiver<bool>,
    mut silent: broadcast::Receiver<u32>,
    clock: Clock,
) {
    let mut started: Option<Duration> = None;
    while !*ended.borrow() {
        // A worker that dies at once is not started faster than this.
        let rest = started.map(|started| (started + RESPAWN_MIN).saturating_sub(clock.elapsed()));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            clock.sleep(rest).await;
        }
        started = Some(clock.elapsed());
        let spawned = command.lock().spawn();
        let mut child: Child = match spawned {
            Ok(child) => child,
            Err(error) => {
                warn!(%error, "failed to start a worker process; trying again");
                continue;
            }
        };
        // Waiting for a child closes its standard input unless it is taken out before.
        let open_while_it_is_needed = child.stdin.take();
        let process = child.id();
        info!(process, "started a worker process");
        tokio::select! {
            status = child.wait() => {
                if !*ended.borrow() {
                    warn!(status = %status.map(|status| status.to_string()).unwrap_or_default(), "a worker process has ended");
                }
            }
            () = is_silent(&mut silent, process) => {
                warn!(process, "a worker process does not answer any more, and is ended");
                // It may have ended by itself meanwhile.
                let _ = child.start_kill();
                let _ = child.wait().await;
            }
            _ = ended.changed() => {
                // Dismissed workers end by themselves, and one that has just been started finds nobody who could dismiss it.
                drop(open_while_it_is_needed);
                let _ = child.wait().await;
                return;
            }
        }
    }
}

/// Waits until a process is reported as silent.
async fn is_silent(silent: &mut broadcast::Receiver<u32>, process: Option<u32>) {
    loop {
        match silent.recv().await {
            Ok(found) if Some(found) == process => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{BucketSettings, FolderStore};
    use crate::rpc::{FromWorker, WorkerSays, messages};

    #[tokio::test]
    async fn a_worker_that_has_lost_its_coordinator_offers_itself_again() {
        let clock = Clock::system();
        let context = WorkerContext {
            clock,
            store: Arc::new(FolderStore::new(std::path::Path::new("unused"))),
            transport: Arc::new(Tcp),
            tasks: tokio::runtime::Handle::current(),
            outside: Outside::new(clock, BucketSettings::default(), &machine_random()),
            sinks: Arc::new(StandardSinks),
            crash: None,
            safeguards: Safeguards::default(),
            memory: StateMemory::unlimited(),
            lazy_from: u64::MAX,
        };
        let settings = WorkerSettings {
            job: JobUid("uid".to_owned()),
            attempt: Attempt(1),
            slots: 1,
            listen: "127.0.0.1:0".to_owned(),
            host: "127.0.0.1".to_owned(),
        };
        let mut worker = Worker::new(settings, context).await.unwrap();
        let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.1:{}", listener.port());
        let (ended, watched) = watch::channel(false);
        let work = tokio::spawn(async move { work(&mut worker, &address, clock, watched).await });

        for _ in 0..2 {
            // The connection is dropped as soon as the worker has told who it is.
            let (_, mut receiver) = messages(listener.accept().await.unwrap());
            let first = receiver.receive::<FromWorker>().await.unwrap();
            assert!(matches!(first.says, Some(WorkerSays::Register(_))));
        }
        ended.send_replace(true);
        work.await.unwrap();
    }
}
