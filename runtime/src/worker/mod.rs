//! A worker: offers slots to the coordinator, runs the tasks it is given, hands in its part of each checkpoint.
//!
//! Replaceable at any instruction: it owns nothing that is not in the store. It follows one coordinator at a time and runs
//! tasks of one generation at a time; a newer generation ends those of the older one, and begins with what is left of its state.

mod data_plane;
mod generation;
mod restore;
mod retained;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use snafu::{ResultExt, Snafu};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::checkpoint::Store;
use crate::clock::Clock;
use crate::fault::{CrashAfterRows, CrashPoint, Safeguards, crash_at};
use crate::model::{Attempt, Epoch, Generation, JobUid, WorkerId};
use crate::outside::Outside;
use crate::rpc::{
    CoordinatorSays, Empty, Failed, FromCoordinator, FromWorker, HEARTBEAT, Heartbeat, MessageReceiver,
    MessageSender, PROTOCOL_VERSION, Register, RpcError, SILENCE_MAX, TaskReport, WorkerSays, messages,
};
use crate::sink::Sinks;
use crate::state::{LOCAL_DISK_FAILED, StateMemory};
use crate::transport::{Stream, Transport};
use data_plane::DataPlane;
use generation::{GenerationRun, Happened};
use retained::Retained;

/// What a worker needs to know.
#[derive(Clone)]
pub struct WorkerSettings {
    pub job: JobUid,
    pub attempt: Attempt,
    pub slots: u32,
    /// Where to listen for other workers, such as `0.0.0.0:0`.
    pub listen: String,
    /// The host that other workers reach this one at.
    pub host: String,
}

/// What a worker works with; injected, so that the simulation runs the same code.
#[derive(Clone)]
pub struct WorkerContext {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub transport: Arc<dyn Transport>,
    /// Where tasks run: apart from heartbeats and uploads, so that a busy operator cannot starve them.
    pub tasks: Handle,
    /// What sources and sinks reach the world with.
    pub outside: Outside,
    pub sinks: Arc<dyn Sinks>,
    /// Tests make the process crash.
    pub crash: Option<Arc<CrashAfterRows>>,
    pub safeguards: Safeguards,
    /// For the state of all tasks.
    pub memory: StateMemory,
    /// A state of at least so many bytes in the store comes while tasks run already.
    pub lazy_from: u64,
}

/// A session with a coordinator ended.
#[derive(Debug, Snafu)]
pub enum WorkerError {
    #[snafu(display("failed to listen at {address}"))]
    Listen { address: String, source: std::io::Error },
    #[snafu(transparent)]
    Rpc { source: RpcError },
    #[snafu(display("the coordinator was silent for {} s", SILENCE_MAX.as_secs()))]
    Silent,
    #[snafu(display("{reason}"))]
    Dismissed { reason: String },
}

/// What a worker's tasks have done, as of its newest sign of life.
#[derive(Debug, Clone, Default)]
pub struct WorkerFigures {
    /// The generation that runs; 0: none.
    pub generation: u64,
    pub names: Names,
    pub tasks: Vec<TaskReport>,
}

/// What the operators of a plan are called, and the chains that they run in.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Ids, in the order of the plan.
    pub operators: Arc<[String]>,
    /// The id of each chain's first operator, which the chain is known by outside.
    pub chains: Arc<[String]>,
}

/// A worker that listens for other workers.
pub struct Worker {
    settings: WorkerSettings,
    context: WorkerContext,
    data_plane: DataPlane,
    retained: Retained,
    figures: watch::Sender<WorkerFigures>,
}

impl Worker {
    /// Gives up what it has of checkpoints if that may be on a disk that does not serve; the store has all of it.
    fn forget_after(&self, failed: &Failed) {
        if failed.kind == LOCAL_DISK_FAILED {
            self.retained.forget();
        }
    }

    /// Starts listening.
    pub async fn new(settings: WorkerSettings, context: WorkerContext) -> Result<Self, WorkerError> {
        let listener = context.transport.listen(&settings.listen).await;
        let listener = listener.context(ListenSnafu { address: settings.listen.clone() })?;
        let data_plane = DataPlane::new(listener, settings.job.clone());
        Ok(Worker {
            settings,
            context,
            data_plane,
            retained: Retained::default(),
            figures: watch::Sender::default(),
        })
    }

    /// What its tasks do, renewed with every sign of life.
    pub fn figures(&self) -> watch::Receiver<WorkerFigures> {
        self.figures.subscribe()
    }

    /// Follows a coordinator over one connection until either ends it. All tasks end with it.
    pub async fn follow(&mut self, stream: Stream) -> Result<(), WorkerError> {
        let (mut sender, mut receiver) = messages(stream);
        let register = Register {
            protocol: PROTOCOL_VERSION,
            job_uid: self.settings.job.0.clone(),
            attempt: self.settings.attempt.0,
            slots: self.settings.slots,
            data_address: format!("{}:{}", self.settings.host, self.data_plane.port()),
            process: std::process::id(),
            held: self.retained.slots().into_iter().collect(),
        };
        sender.send(&FromWorker { generation: 0, says: Some(WorkerSays::Register(register)) }).await?;
        let welcome: FromCoordinator = receiver.receive().await?;
        match welcome.says {
            Some(CoordinatorSays::Welcome(welcome)) => {
                let id = WorkerId(welcome.worker);
                self.data_plane.set_worker(id);
                let ended = Session { id, worker: self, run: None, silent: Duration::ZERO }
                    .run(&mut sender, &mut receiver);
                let ended = ended.await;
                self.data_plane.clear();
                self.figures.send_replace(WorkerFigures::default());
                ended
            }
            Some(CoordinatorSays::Leave(reason)) => DismissedSnafu { reason }.fail(),
            _ => DismissedSnafu { reason: "the coordinator did not answer the registration" }.fail(),
        }
    }
}

/// One connection to a coordinator.
struct Session<'a> {
    id: WorkerId,
    worker: &'a mut Worker,
    run: Option<GenerationRun>,
    /// How long nothing was heard.
    silent: Duration,
}

impl Session<'_> {
    async fn run(
        mut self,
        sender: &mut MessageSender,
        receiver: &mut MessageReceiver,
    ) -> Result<(), WorkerError> {
        let clock = self.worker.context.clock;
        // Receiving is not safe to drop half-way, so one future lives until it is done.
        let mut incoming = Box::pin(receive(receiver));
        let mut beat = Box::pin(clock.sleep(HEARTBEAT));
        loop {
            let says = tokio::select! {
                biased;
                (message, receiver) = &mut incoming => {
                    incoming.set(receive(receiver));
                    self.silent = Duration::ZERO;
                    self.handle(message?, sender).await?
                }
                happened = happened(&mut self.run) => self.happened(happened),
                () = &mut beat => {
                    beat.set(clock.sleep(HEARTBEAT));
                    self.silent += HEARTBEAT;
                    if self.silent > SILENCE_MAX {
                        return SilentSnafu.fail();
                    }
                    Some(self.heartbeat())
                }
            };
            if let Some(message) = says {
                sender.send(&message).await?;
            }
        }
    }

    async fn handle(
        &mut self,
        message: FromCoordinator,
        sender: &mut MessageSender,
    ) -> Result<Option<FromWorker>, WorkerError> {
        let generation = Generation(message.generation);
        let current = self.run.as_ref().map(GenerationRun::generation);
        if current.is_some_and(|current| generation < current) {
            // A late message of a coordinator's earlier generation.
            return Ok(None);
        }
        let says = match message.says {
            Some(CoordinatorSays::Deploy(deploy)) => {
                self.end_run();
                let deployed = GenerationRun::deploy(
                    generation,
                    self.id,
                    *deploy,
                    &self.worker.context,
                    &self.worker.data_plane,
                    &self.worker.retained,
                    &self.worker.settings.job,
                );
                match alive_while(deployed, self.worker.context.clock, sender).await? {
                    Ok(run) => {
                        self.run = Some(run);
                        crash_at(CrashPoint::TasksDeployed);
                        Some(WorkerSays::Deployed(Empty {}))
                    }
                    Err(failed) => {
                        self.worker.forget_after(&failed);
                        Some(WorkerSays::Failed(failed))
                    }
                }
            }
            Some(CoordinatorSays::Start(_)) => {
                if let Some(run) = &mut self.run {
                    run.start(&self.worker.context);
                }
                None
            }
            Some(CoordinatorSays::Checkpoint(epoch)) => {
                if let Some(run) = &self.run {
                    run.checkpoint(epoch);
                }
                None
            }
            Some(CoordinatorSays::Completed(epoch)) => {
                match &self.run {
                    Some(run) => run.completed(Epoch(epoch)),
                    // The job goes on without this worker.
                    None => self.worker.retained.forget(),
                }
                None
            }
            Some(CoordinatorSays::Cancel(_)) => {
                self.end_run();
                None
            }
            Some(CoordinatorSays::Leave(reason)) => return DismissedSnafu { reason }.fail(),
            Some(CoordinatorSays::Alive(_) | CoordinatorSays::Welcome(_)) | None => None,
        };
        Ok(says.map(|says| FromWorker { generation: generation.0, says: Some(says) }))
    }

    fn end_run(&mut self) {
        self.run = None;
        self.worker.data_plane.clear();
    }

    fn happened(&mut self, happened: Happened) -> Option<FromWorker> {
        let generation = self.run.as_ref()?.generation();
        let says = match happened {
            Happened::Says(says) => says,
            Happened::Failed(failed) => {
                self.end_run();
                self.worker.forget_after(&failed);
                WorkerSays::Failed(failed)
            }
        };
        Some(FromWorker { generation: generation.0, says: Some(says) })
    }

    fn heartbeat(&self) -> FromWorker {
        let generation = self.run.as_ref().map_or(0, |run| run.generation().0);
        let heartbeat =
            self.run.as_ref().map(|run| run.report(self.worker.context.clock.elapsed())).unwrap_or_default();
        self.worker.figures.send_replace(WorkerFigures {
            generation,
            names: self.run.as_ref().map(GenerationRun::names).unwrap_or_default(),
            tasks: heartbeat.tasks.clone(),
        });
        FromWorker { generation, says: Some(WorkerSays::Heartbeat(heartbeat)) }
    }
}

/// Sends signs of life while something is done that may take long: a large state is fetched.
async fn alive_while<T>(
    work: impl Future<Output = T>,
    clock: Clock,
    sender: &mut MessageSender,
) -> Result<T, WorkerError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = clock.sleep(HEARTBEAT) => {
                let says = Some(WorkerSays::Heartbeat(Heartbeat::default()));
                sender.send(&FromWorker { generation: 0, says }).await?;
            }
        }
    }
}

async fn receive(
    receiver: &mut MessageReceiver,
) -> (Result<FromCoordinator, RpcError>, &mut MessageReceiver) {
    (receiver.receive().await, receiver)
}

/// The next thing that happens in the running generation; never, if there is none.
async fn happened(run: &mut Option<GenerationRun>) -> Happened {
    match run {
        Some(run) => run.next().await,
        None => std::future::pending().await,
    }
}
