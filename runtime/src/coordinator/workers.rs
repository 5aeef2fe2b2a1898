//! The workers that have registered: their connections, slots and signs of life.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tracing::{info, warn};

use super::assignment::Offer;
use crate::clock::Clock;
use crate::model::{Attempt, Generation, JobUid, WorkerId};
use crate::rpc::{
    CoordinatorSays, Empty, FromCoordinator, FromWorker, HEARTBEAT, MessageReceiver, MessageSender,
    PROTOCOL_VERSION, Register, RpcError, SILENCE_MAX, Welcome, WorkerSays, messages,
};
use crate::transport::{Listener, Stream};

/// Messages queued to a worker: a deployment, a start, some checkpoints.
const MESSAGES_QUEUED_MAX: usize = 64;

/// Events queued for the coordinator.
const EVENTS_QUEUED_MAX: usize = 1024;

/// How long a worker that has been silent is listened to once more.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// What happens to workers.
#[derive(Debug)]
pub enum WorkerEvent {
    Joined(WorkerId, Joined),
    Says(WorkerId, FromWorker),
    Gone(WorkerId, String),
}

/// A worker that has registered.
#[derive(Debug)]
pub struct Joined {
    pub slots: u32,
    pub data_address: String,
    pub process: u32,
    /// The slots that it runs or has run.
    pub held: Vec<u32>,
    sender: mpsc::Sender<FromCoordinator>,
}

/// All registered workers.
pub struct Workers {
    events: mpsc::Receiver<WorkerEvent>,
    members: BTreeMap<WorkerId, Joined>,
    accepting: tokio::task::AbortHandle,
    silent: broadcast::Sender<u32>,
    clock: Clock,
}

impl Workers {
    /// Takes registrations of workers of a job and attempt until dropped.
    pub fn accept(listener: Box<dyn Listener>, job: JobUid, attempt: Attempt, clock: Clock) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_QUEUED_MAX);
        let silent = broadcast::Sender::new(EVENTS_QUEUED_MAX);
        let door = Arc::new(Door { job, attempt, clock, events: sender, silent: silent.clone() });
        let accepting = tokio::spawn(door.accept(listener)).abort_handle();
        Workers { events, members: BTreeMap::new(), accepting, silent, clock }
    }

    /// Process ids of workers that were silent for too long: whoever has started them may end them, for they do not end themselves.
    pub fn silent(&self) -> broadcast::Receiver<u32> {
        self.silent.subscribe()
    }

    /// The next message or change. Safe to drop while waiting.
    pub async fn next(&mut self) -> WorkerEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Only keeps the list of members for a while.
    pub async fn watch_for(&mut self, duration: Duration) {
        let clock = self.clock;
        let mut over = Box::pin(clock.sleep(duration));
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                event = self.next() => match event {
                    WorkerEvent::Joined(worker, joined) => self.joined(worker, joined),
                    WorkerEvent::Gone(worker, _) => drop(self.gone(worker)),
                    WorkerEvent::Says(..) => {}
                },
            }
        }
    }

    /// Notes a change of the members.
    pub fn joined(&mut self, worker: WorkerId, joined: Joined) {
        info!(%worker, slots = joined.slots, process = joined.process, "a worker has registered");
        self.members.insert(worker, joined);
    }

    /// Notes that a worker is gone.
    pub fn gone(&mut self, worker: WorkerId) -> bool {
        self.members.remove(&worker).is_some()
    }

    /// What all members offer.
    pub fn offers(&self) -> Vec<Offer> {
        let offer = |(worker, joined): (&WorkerId, &Joined)| Offer {
            worker: *worker,
            slots: joined.slots,
            held: joined.held.clone(),
        };
        self.members.iter().map(offer).collect()
    }

    /// All members.
    pub fn all(&self) -> Vec<WorkerId> {
        self.members.keys().copied().collect()
    }

    /// Notes who runs which slot.
    pub fn assigned(&mut self, slots: &[WorkerId]) {
        for (worker, joined) in &mut self.members {
            let mine = (0..).zip(slots).filter(|(_, of)| *of == worker);
            joined.held = mine.map(|(slot, _)| slot).collect();
        }
    }

    /// Where a worker listens for others.
    pub fn address(&self, worker: WorkerId) -> String {
        self.members.get(&worker).map(|joined| joined.data_address.clone()).unwrap_or_default()
    }

    /// Tells some workers something.
    pub async fn tell<'a>(
        &self,
        to: impl Iterator<Item = &'a WorkerId>,
        generation: Generation,
        says: &CoordinatorSays,
    ) {
        for member in to.filter_map(|worker| self.members.get(worker)) {
            let message = FromCoordinator { generation: generation.0, says: Some(says.clone()) };
            // A worker that is gone is reported as such.
            let _ = member.sender.send(message).await;
        }
    }

    /// Ends the tasks of all workers.
    pub async fn cancel(&mut self) {
        let all = self.all();
        self.tell(all.iter(), Generation(u64::MAX >> 1), &CoordinatorSays::Cancel(Empty {})).await;
    }

    /// Lets all workers go; their processes end.
    pub async fn dismiss(&mut self, reason: &str) {
        let all = self.all();
        self.tell(all.iter(), Generation(u64::MAX >> 1), &CoordinatorSays::Leave(reason.to_owned())).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Door {
    job: JobUid,
    attempt: Attempt,
    clock: Clock,
    events: mpsc::Sender<WorkerEvent>,
    silent: broadcast::Sender<u32>,
}

impl Door {
    async fn accept(self: Arc<Self>, listener: Box<dyn Listener>) {
        let mut next = 1;
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let door = Arc::clone(&self);
                    tokio::spawn(async move { door.serve(stream, WorkerId(next)).await });
                    next += 1;
                }
                Err(error) => {
                    warn!(%error, "failed to accept a worker");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn serve(&self, stream: Stream, id: WorkerId) {
        let (mut sender, mut receiver) = messages(stream);
        let Ok(first) = receiver.receive::<FromWorker>().await else { return };
        let Some(WorkerSays::Register(register)) = first.says else { return };
        if let Some(reason) = self.refusal(&register) {
            warn!(process = register.process, %reason, "refused a worker");
            let leave = FromCoordinator { generation: 0, says: Some(CoordinatorSays::Leave(reason)) };
            // The worker may be gone already.
            let _ = sender.send(&leave).await;
            return;
        }
        let welcome = CoordinatorSays::Welcome(Welcome { worker: id.0 });
        if sender.send(&FromCoordinator { generation: 0, says: Some(welcome) }).await.is_err() {
            return;
        }
        let (queue_sender, queue) = mpsc::channel(MESSAGES_QUEUED_MAX);
        let process = register.process;
        let joined = Joined {
            slots: register.slots,
            data_address: register.data_address,
            process,
            held: register.held,
            sender: queue_sender,
        };
        if self.events.send(WorkerEvent::Joined(id, joined)).await.is_err() {
            return;
        }
        let reason = tokio::select! {
            biased;
            reason = self.send_all(&mut sender, queue) => reason,
            reason = self.receive_all(&mut receiver, id, process) => reason,
        };
        // The coordinator may have ended.
        let _ = self.events.send(WorkerEvent::Gone(id, reason)).await;
    }

    fn refusal(&self, register: &Register) -> Option<String> {
        if register.protocol != PROTOCOL_VERSION {
            return Some(format!("protocol {} instead of {PROTOCOL_VERSION}", register.protocol));
        }
        if register.job_uid != self.job.0 {
            return Some(format!("it is for the job {} instead of {}", register.job_uid, self.job));
        }
        (register.attempt != self.attempt.0)
            .then(|| format!("attempt {} instead of {}", register.attempt, self.attempt))
    }

    /// Sends what is queued, and a sign of life every second.
    async fn send_all(
        &self,
        sender: &mut MessageSender,
        mut queue: mpsc::Receiver<FromCoordinator>,
    ) -> String {
        loop {
            let message = tokio::select! {
                biased;
                queued = queue.recv() => match queued {
                    Some(message) => message,
                    None => return "dismissed".to_owned(),
                },
                () = self.clock.sleep(HEARTBEAT) => {
                    FromCoordinator { generation: 0, says: Some(CoordinatorSays::Alive(Empty {})) }
                }
            };
            if let Err(error) = sender.send(&message).await {
                return crate::error::chain(&error);
            }
        }
    }

    async fn receive_all(&self, receiver: &mut MessageReceiver, id: WorkerId, process: u32) -> String {
        loop {
            let mut received = Box::pin(receiver.receive::<FromWorker>());
            let in_time = match within(self.clock, SILENCE_MAX, received.as_mut()).await {
                // If this process stood still itself, what has been said is there, and was not looked at yet.
                None => within(self.clock, SECOND_LOOK, received.as_mut()).await,
                in_time => in_time,
            };
            match in_time {
                None => {
                    // On a cluster nobody listens: there the kubelet ends what does not answer.
                    let _ = self.silent.send(process);
                    return format!("it was silent for {} s", SILENCE_MAX.as_secs());
                }
                Some(Err(RpcError::Closed)) => return "its connection was closed".to_owned(),
                Some(Err(error)) => return crate::error::chain(&error),
                Some(Ok(message)) => {
                    if self.events.send(WorkerEvent::Says(id, message)).await.is_err() {
                        return "the coordinator has ended".to_owned();
                    }
                }
            }
        }
    }
}

/// The future's result, or `None` if it takes too long.
async fn within<T>(clock: Clock, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock.sleep(limit) => None,
    }
}
