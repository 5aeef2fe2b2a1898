//! The tasks of one generation in one worker: deployed, started, checkpointed, and ended all together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::data_plane::DataPlane;
use super::restore::{bring, fetch, inherited};
use super::retained::Retained;
use super::snapshots::{SnapshotError, Snapshots};
use super::{Names, WorkerContext};
use crate::checkpoint::paths;
use crate::checkpoint::records::{TableState, splits_of};
use crate::error::chain;
use crate::exchange::channel::CreditReturn;
use crate::exchange::frame::{Handshake, MAGIC, PROTOCOL_VERSION};
use crate::exchange::network::{Connection, Route, run_sender};
use crate::exchange::{ChannelSender, Credit, Inbox, Output};
use crate::model::{Barrier, Epoch, Generation, JobUid, MaxParallelism, Subtask, WorkerId};
use crate::rpc::{Deploy, Exhausted, Failed, Heartbeat, OperatorReport, Snapshot, TaskReport, WorkerSays};
use crate::task::{
    BuiltTask, OperatorFlow, Task, TaskContext, TaskControl, TaskError, TaskEvent, TaskHandle, TaskSnapshot,
    build,
};
use crate::topology::Topology;

/// Events of tasks queued for the worker: every task has at most a snapshot and an end under way.
const EVENTS_QUEUED_MAX: usize = 256;

/// Uploads queued: one checkpoint is under way, and one that was given up may still be uploading.
const UPLOADS_QUEUED_MAX: usize = 4;

/// A restored table with runs of more checkpoints is written whole with the next one.
const CHECKPOINTS_MAX: usize = 24;

/// The running generation.
pub struct GenerationRun {
    generation: Generation,
    names: Names,
    waiting: Option<Waiting>,
    handles: Vec<TaskHandle>,
    tasks: JoinSet<Result<(), TaskError>>,
    /// Connections to other workers, and the uploader.
    services: JoinSet<()>,
    events: mpsc::Receiver<TaskEvent>,
    broken: mpsc::Receiver<String>,
    broken_sender: mpsc::Sender<String>,
    /// State that cannot be had.
    undelivered: mpsc::Receiver<Failed>,
    uploads: mpsc::Sender<Upload>,
    uploaded: mpsc::Receiver<Result<Snapshot, Failed>>,
    completed: watch::Sender<Epoch>,
}

/// What the uploader is told, in order.
enum Upload {
    Snapshot(TaskSnapshot),
    Completed(Epoch),
}

/// Deployed and not started.
struct Waiting {
    tasks: Vec<Task>,
    outgoing: Vec<Outgoing>,
}

struct Outgoing {
    address: String,
    hello: Handshake,
    queue: mpsc::Receiver<Vec<u8>>,
    credits: HashMap<u32, Arc<Credit>>,
}

/// What happens in a generation.
pub enum Happened {
    Says(WorkerSays),
    Failed(Failed),
}

impl GenerationRun {
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What its operators and chains are known by.
    pub fn names(&self) -> Names {
        self.names.clone()
    }

    /// Makes the tasks of this worker's slots, ready to receive.
    pub async fn deploy(
        generation: Generation,
        worker: WorkerId,
        deploy: Deploy,
        context: &WorkerContext,
        data_plane: &DataPlane,
        retained: &Retained,
        job: &JobUid,
    ) -> Result<Self, Failed> {
        let Some((plan, groups)) = deploy.plan.clone().zip(MaxParallelism::new(deploy.max_parallelism))
        else {
            return Err(failed("the deployment is malformed", "Internal", true));
        };
        let topology = Topology::of(&plan, deploy.parallelism)
            .reading_once(&plan, |source| splits_of(&deploy.restored, source));
        let id = |operator: usize| plan.operators[operator].id.clone();
        let names = Names {
            operators: (0..plan.operators.len()).map(id).collect(),
            chains: topology.chains.iter().map(|chain| id(chain[0])).collect(),
        };
        let (events_sender, events) = mpsc::channel(EVENTS_QUEUED_MAX);
        let (completed, completed_seen) = watch::channel(Epoch(0));
        let task_context = TaskContext {
            topology: Arc::new(topology),
            plan: Arc::new(plan),
            parallelism: deploy.parallelism,
            max_parallelism: groups,
            job: job.clone(),
            generation,
            events: events_sender,
            completed: completed_seen,
            first_epoch: Epoch(deploy.first_epoch),
            outside: context.outside.clone(),
            sinks: Arc::clone(&context.sinks),
            crash: context.crash.clone(),
            safeguards: context.safeguards,
            memory: context.memory.clone(),
        };
        let mine: Vec<u32> =
            (0..deploy.parallelism).filter(|slot| deploy.slots[*slot as usize] == worker.0).collect();
        let images =
            retained.roll_back(inherited(&deploy, &mine, groups).iter(), context.safeguards.compares_images);
        let restored =
            fetch(&deploy, &mine, groups, context.store.as_ref(), images, &context.memory, context.lazy_from)
                .await?;
        let restored = Arc::new(restored);
        let (rolled_back, segments) = (restored.images.len(), restored.segments.len());
        let is_lazy = restored.awaited.is_some();
        let mut wiring = Wiring::new(&task_context, &deploy, worker, &mine);
        let (mut tasks, mut handles, mut states) = (Vec::new(), Vec::new(), HashMap::new());
        for chain_index in task_context.topology.tasks() {
            for slot in &mine {
                let inbox = wiring.inboxes.get(&(chain_index, *slot)).cloned();
                let chains = task_context.topology.in_task_of(chain_index).into_iter();
                let mut outputs: HashMap<usize, Vec<Output>> =
                    chains.map(|chain| (chain, wiring.outputs(&task_context, chain, *slot))).collect();
                let (context, restored, subtask) =
                    (task_context.clone(), Arc::clone(&restored), Subtask(*slot));
                let built = apart(move || {
                    let outputs = |chain| outputs.remove(&chain).unwrap_or_default();
                    build(&context, chain_index, subtask, &restored, inbox, outputs)
                });
                let built = built.await?;
                let BuiltTask { task, handle, states: of_operators } =
                    built.map_err(|error| failed(&chain(&error), error.kind(), error.is_permanent()))?;
                // Generations that are short add to the runs of a table without ever writing it whole.
                let tables = of_operators.iter().flat_map(|(_, state)| &state.tables);
                let is_scattered =
                    tables.map(checkpoints_of).any(|checkpoints| checkpoints > CHECKPOINTS_MAX);
                handle.needs_full_snapshot.store(is_scattered, Ordering::Relaxed);
                let of_slot = |(operator, state)| ((operator, *slot), state);
                states.extend(of_operators.into_iter().map(of_slot));
                tasks.push(task);
                handles.push(handle);
            }
        }
        let mut services = JoinSet::new();
        let (undelivered_sender, undelivered) = mpsc::channel(1);
        // Nobody builds any more.
        let Some(restored) = Arc::into_inner(restored) else {
            return Err(failed("what was restored is still in use", "Internal", false));
        };
        if let Some(awaited) = restored.awaited {
            let (store, memory) = (Arc::clone(&context.store), context.memory.clone());
            // Made here: who waits is told even if it never begins.
            let brought = bring(awaited, store, memory);
            services.spawn(async move {
                if let Err(failed) = brought.await {
                    // The generation may have ended meanwhile.
                    let _ = undelivered_sender.send(failed).await;
                }
            });
        }
        let (broken_sender, broken) = mpsc::channel(EVENTS_QUEUED_MAX);
        data_plane.expect(generation, std::mem::take(&mut wiring.routes), broken_sender.clone());
        let outgoing = wiring.outgoing(job, generation, worker);
        let snapshots = Snapshots::new(
            Arc::clone(&context.store),
            generation,
            worker,
            groups,
            tasks.len(),
            context.safeguards,
            states,
        );
        let snapshots = snapshots.keeping(retained.clone());
        let (uploads, upload_queue) = mpsc::channel(UPLOADS_QUEUED_MAX * tasks.len().max(1));
        let (uploaded_sender, uploaded) = mpsc::channel(UPLOADS_QUEUED_MAX);
        let full: Vec<_> = handles.iter().map(|handle| Arc::clone(&handle.needs_full_snapshot)).collect();
        services.spawn(run_uploads(snapshots, upload_queue, uploaded_sender, move || {
            full.iter().for_each(|needs_full| needs_full.store(true, Ordering::Relaxed));
        }));
        info!(%generation, slots = ?mine, tasks = tasks.len(), rolled_back, segments, is_lazy, "deployed");
        Ok(GenerationRun {
            generation,
            names,
            waiting: Some(Waiting { tasks, outgoing }),
            handles,
            tasks: JoinSet::new(),
            services,
            events,
            broken,
            broken_sender,
            undelivered,
            uploads,
            uploaded,
            completed,
        })
    }

    /// Connects to the other workers and runs the tasks.
    pub fn start(&mut self, context: &WorkerContext) {
        let Some(waiting) = self.waiting.take() else { return };
        for outgoing in waiting.outgoing {
            let (transport, broken) = (Arc::clone(&context.transport), self.broken_sender.clone());
            self.services.spawn(async move {
                let to = outgoing.hello.to;
                let reason = match transport.connect(&outgoing.address).await {
                    Err(error) => {
                        format!("failed to connect to worker {to} at {}: {error}", outgoing.address)
                    }
                    Ok(stream) => {
                        match run_sender(stream, outgoing.hello, outgoing.queue, outgoing.credits).await {
                            Ok(()) => return,
                            Err(error) => format!("lost the connection to worker {to}: {}", chain(&error)),
                        }
                    }
                };
                // The generation may have ended meanwhile.
                let _ = broken.try_send(reason);
            });
        }
        for task in waiting.tasks {
            self.tasks.spawn_on(task.run(), &context.tasks);
        }
    }

    /// Makes the sources inject a barrier.
    pub fn checkpoint(&self, epoch: u64) {
        for source in self.handles.iter().filter(|handle| handle.is_source) {
            let barrier = Barrier { epoch: Epoch(epoch) };
            if source.control.try_send(TaskControl::Barrier(barrier)).is_err() {
                // The task has ended, which is reported, or is stuck: then this checkpoint times out.
                warn!(
                    epoch,
                    chain = source.chain,
                    subtask = source.subtask,
                    "a source does not take barriers"
                );
            }
        }
    }

    /// A checkpoint is complete and its sinks have committed.
    pub fn completed(&self, epoch: Epoch) {
        self.completed.send_replace(epoch);
        if self.uploads.try_send(Upload::Completed(epoch)).is_err() {
            // The next complete checkpoint says the same and more; naming a committed result again is harmless.
            warn!(%epoch, "the uploader is too busy to hear of a complete checkpoint");
        }
    }

    /// The next thing that happens. Safe to drop while waiting.
    pub async fn next(&mut self) -> Happened {
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => return Happened::Failed(match ended {
                    Ok(Ok(())) => failed("a task ended by itself", "TaskFailed", false),
                    Ok(Err(error)) => failed(&chain(&error), error.kind(), error.is_permanent()),
                    Err(panic) => failed(&format!("a task panicked: {panic}"), "TaskFailed", false),
                }),
                Some(failed) = self.undelivered.recv() => return Happened::Failed(failed),
                Some(reason) = self.broken.recv() => return Happened::Failed(failed(&reason, "WorkerLost", false)),
                Some(uploaded) = self.uploaded.recv() => return match uploaded {
                    Ok(snapshot) => Happened::Says(WorkerSays::Snapshot(snapshot)),
                    Err(failed) => Happened::Failed(failed),
                },
                Some(event) = self.events.recv() => match event {
                    TaskEvent::Exhausted { chain, subtask } => {
                        let exhausted = Exhausted { chain: chain as u32, subtask };
                        return Happened::Says(WorkerSays::Exhausted(exhausted));
                    }
                    TaskEvent::Snapshot(snapshot) => {
                        if self.uploads.try_send(Upload::Snapshot(snapshot)).is_err() {
                            return Happened::Failed(failed("uploads of checkpoints cannot keep up", "CheckpointFailed", false));
                        }
                    }
                },
            }
        }
    }

    /// Figures of all tasks.
    pub fn report(&self, now: Duration) -> Heartbeat {
        let tasks = self.handles.iter().map(|handle| {
            let figures = &handle.figures;
            let began = match figures.began_us.load(Ordering::Relaxed) {
                0 => now,
                began => Duration::from_micros(began),
            };
            let (idle, backpressured) = (figures.idle.total(now), figures.backpressured.total(now));
            let busy = now.saturating_sub(began).saturating_sub(idle + backpressured);
            TaskReport {
                chain: handle.chain as u32,
                subtask: handle.subtask,
                rows_in: figures.rows_in.load(Ordering::Relaxed),
                rows_out: figures.rows_out.load(Ordering::Relaxed),
                watermark_ms: figures.watermark_ms.load(Ordering::Relaxed),
                late_rows: figures.late_rows.load(Ordering::Relaxed),
                state_bytes: figures.state_bytes.load(Ordering::Relaxed),
                state_memory_bytes: figures.state_memory_bytes.load(Ordering::Relaxed),
                progress_ppm: figures.progress_ppm.load(Ordering::Relaxed),
                skipped_records: figures.skipped_records.load(Ordering::Relaxed),
                idle_ms: idle.as_millis() as u64,
                backpressured_ms: backpressured.as_millis() as u64,
                busy_ms: busy.as_millis() as u64,
                lag_records: figures.lags.records(),
                bytes_in: figures.bytes_in.load(Ordering::Relaxed),
                sent_rows: figures.sent_rows.load(Ordering::Relaxed),
                sent_bytes: figures.sent_bytes.load(Ordering::Relaxed),
                operators: figures.operators.lock().iter().map(operator_report).collect(),
            }
        });
        Heartbeat { tasks: tasks.collect() }
    }
}

fn operator_report(flow: &OperatorFlow) -> OperatorReport {
    OperatorReport {
        operator: flow.index as u32,
        rows_in: flow.taken.rows,
        bytes_in: flow.taken.bytes,
        rows_out: flow.given.rows,
        bytes_out: flow.given.bytes,
        state_bytes: flow.figures.state_bytes,
        late_rows: flow.figures.late_rows,
    }
}

/// Does what may take long on another thread: signs of life are sent meanwhile. A simulation has one thread only.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => {
            tokio::task::yield_now().await;
            Ok(work())
        }
        _ => tokio::task::spawn_blocking(work).await.map_err(|panic| {
            failed(&format!("a task panicked while it was made: {panic}"), "TaskFailed", false)
        }),
    }
}

/// How many checkpoints a table's rows are from.
fn checkpoints_of(table: &TableState) -> usize {
    let epochs: BTreeSet<Option<Epoch>> =
        table.runs.iter().map(|run| paths::epoch_of(&run.segment, paths::SEGMENTS)).collect();
    epochs.len()
}

pub(super) fn failed(message: &str, kind: &str, is_permanent: bool) -> Failed {
    Failed { message: message.to_owned(), is_permanent, kind: kind.to_owned() }
}

/// Uploads epochs in order; each answer is told.
async fn run_uploads(
    mut snapshots: Snapshots,
    mut queue: mpsc::Receiver<Upload>,
    uploaded: mpsc::Sender<Result<Snapshot, Failed>>,
    need_full: impl Fn() + Send,
) {
    while let Some(upload) = queue.recv().await {
        let snapshot = match upload {
            Upload::Snapshot(snapshot) => snapshot,
            Upload::Completed(epoch) => {
                snapshots.completed(epoch);
                continue;
            }
        };
        let (epoch, complete) = match snapshots.add(snapshot) {
            Ok(Some(complete)) => complete,
            Ok(None) => continue,
            Err(error) => {
                // The worker only goes away together with this.
                let _ = uploaded.send(Err(failed(&chain(&error), "CheckpointFailed", false))).await;
                return;
            }
        };
        let answer = match snapshots.upload(epoch, complete).await {
            Ok(answer) => Ok(answer),
            // Rows of the state that cannot be read are not in the next one either.
            Err(error @ (SnapshotError::Sink { .. } | SnapshotError::Disk { .. })) => {
                Err(failed(&chain(&error), error.kind(), error.is_permanent()))
            }
            Err(error) => {
                warn!(%epoch, error = %chain(&error), "failed to store a checkpoint");
                need_full();
                Ok(Snapshot { epoch: epoch.0, failure: chain(&error), ..Default::default() })
            }
        };
        if uploaded.send(answer).await.is_err() {
            return;
        }
    }
}

/// A connection to another worker that is not made yet.
struct Wire {
    connection: Connection,
    queue: mpsc::Receiver<Vec<u8>>,
    credits: HashMap<u32, Arc<Credit>>,
}

/// All channels of a worker's tasks.
struct Wiring {
    inboxes: HashMap<(usize, u32), Arc<Inbox>>,
    routes: HashMap<WorkerId, HashMap<u32, Route>>,
    connections: BTreeMap<WorkerId, Wire>,
    addresses: HashMap<WorkerId, String>,
    slots: Vec<WorkerId>,
    worker: WorkerId,
}

impl Wiring {
    fn new(context: &TaskContext, deploy: &Deploy, worker: WorkerId, mine: &[u32]) -> Self {
        let mut wiring = Wiring {
            inboxes: HashMap::new(),
            routes: HashMap::new(),
            connections: BTreeMap::new(),
            addresses: deploy
                .peers
                .iter()
                .map(|peer| (WorkerId(peer.worker), peer.address.clone()))
                .collect(),
            slots: deploy.slots.iter().map(|worker| WorkerId(*worker)).collect(),
            worker,
        };
        let parallelism = context.parallelism;
        for chain_index in 0..context.topology.chains.len() {
            let edges = context.topology.inputs(chain_index).count();
            for slot in mine.iter().filter(|_| edges > 0) {
                wiring.inboxes.insert((chain_index, *slot), Inbox::new(edges * parallelism as usize));
            }
        }
        for chain_index in 0..context.topology.chains.len() {
            for (number, edge) in context.topology.inputs(chain_index).enumerate() {
                let last = context.topology.chains[edge.from].last().copied().unwrap_or_default();
                let schema = context.plan.operators[last].output.clone().unwrap_or_default().to_arrow();
                for (from, to) in (0..parallelism).flat_map(|from| mine.iter().map(move |to| (from, *to))) {
                    let sender = wiring.slots[from as usize];
                    if sender == worker {
                        continue;
                    }
                    let route = Route {
                        inbox: Arc::clone(&wiring.inboxes[&(chain_index, to)]),
                        channel: number * parallelism as usize + from as usize,
                        schema: schema.clone(),
                    };
                    wiring.routes.entry(sender).or_default().insert(edge.channel(from, to), route);
                }
            }
        }
        wiring
    }

    /// The outputs of a task, one per exchange out of its chain.
    fn outputs(&mut self, context: &TaskContext, chain_index: usize, slot: u32) -> Vec<Output> {
        let topology = Arc::clone(&context.topology);
        let outputs = topology.outputs(chain_index).map(|edge| {
            let number = topology.inputs(edge.to).position(|input| input == edge).unwrap_or_default();
            let channel = number * context.parallelism as usize + slot as usize;
            let senders =
                (0..context.parallelism).map(|to| self.sender(edge.to, channel, edge.channel(slot, to), to));
            Output::new(edge.keys.clone(), context.max_parallelism, senders.collect())
        });
        outputs.collect()
    }

    fn sender(&mut self, to_chain: usize, channel: usize, id: u32, to: u32) -> ChannelSender {
        let credit = Credit::new();
        let receiver = self.slots[to as usize];
        if receiver == self.worker {
            let inbox = Arc::clone(&self.inboxes[&(to_chain, to)]);
            inbox.set_credit(channel, CreditReturn::Local(Arc::clone(&credit)));
            return ChannelSender::Local { inbox, channel, credit };
        }
        let wire = self.connections.entry(receiver).or_insert_with(|| {
            let (connection, queue) = Connection::new();
            Wire { connection, queue, credits: HashMap::new() }
        });
        wire.credits.insert(id, Arc::clone(&credit));
        ChannelSender::Remote { connection: wire.connection.clone(), channel: id, credit }
    }

    fn outgoing(self, job: &JobUid, generation: Generation, worker: WorkerId) -> Vec<Outgoing> {
        let addresses = self.addresses;
        let outgoing = self.connections.into_iter().map(|(to, wire)| {
            let hello = Handshake {
                magic: MAGIC,
                protocol: PROTOCOL_VERSION,
                job_uid: job.0.clone(),
                generation: generation.0,
                from: worker.0,
                to: to.0,
            };
            let address = addresses.get(&to).cloned().unwrap_or_default();
            Outgoing { address, hello, queue: wire.queue, credits: wire.credits }
        });
        outgoing.collect()
    }
}
