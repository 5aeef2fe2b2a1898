//! One generation of a job: slots are found, tasks deployed, checkpoints taken, until the job ends or something fails.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_crds::contract::ReportedCheckpoint;
use millrace_sql::plan::{OperatorKind, Plan};
use tokio::sync::watch;
use tracing::{info, warn};

use super::checkpointing::{Answered, Pending};
use super::commits::{Committers, check, commit};
use super::report::{self, JobReport, Phase};
use super::workers::{WorkerEvent, Workers};
use super::{CoordinatorContext, Failure, JobSettings, Stop, Wish, assignment};
use crate::checkpoint::records::{Manifest, SubtaskState, splits_of};
use crate::checkpoint::retention::{self, Kept};
use crate::checkpoint::{CheckpointError, TakenOver};
use crate::fault::{CrashPoint, crash_at};
use crate::model::{Epoch, Generation, WorkerId};
use crate::rpc::{CoordinatorSays, Deploy, Empty, FromWorker, Peer, WorkerSays};
use crate::sink::SinkError;
use crate::topology::Topology;

/// How a generation ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationEnd {
    Finished,
    Stopped,
}

/// A generation about to run.
pub struct RunningJob<'a> {
    pub settings: &'a JobSettings,
    pub plan: &'a Plan,
    pub context: &'a CoordinatorContext,
    pub taken: TakenOver,
    pub committers: Committers,
    pub state: Vec<SubtaskState>,
    pub report: &'a watch::Sender<JobReport>,
}

/// Publishing of one checkpoint: the manifest once its sinks have committed, and how the checkpoint began.
type Publishing<'a> = BoxFuture<'a, Result<(Manifest, Duration), Stop>>;

/// What is going on in a running generation.
struct Run<'a> {
    slots: Vec<WorkerId>,
    members: BTreeSet<WorkerId>,
    sources_left: BTreeSet<(u32, u32)>,
    pending: Option<Pending>,
    publishing: Option<(Publishing<'a>, bool)>,
    /// The complete checkpoints that are kept, newest first.
    kept: Vec<Kept>,
    /// How many were complete since the last removal.
    complete: usize,
    /// Removal of what they do not need; beside checkpoints, which it must not delay.
    removing: Option<BoxFuture<'a, Result<(), CheckpointError>>>,
    next_epoch: Epoch,
    next_at: Duration,
    /// After a checkpoint that has failed a last one is not tried again before this.
    retry_at: Duration,
    wish: Wish,
}

impl Run<'_> {
    /// True if the next checkpoint is the last of this generation.
    fn is_ending(&self) -> bool {
        self.sources_left.is_empty() || self.wish == Wish::Stop
    }

    /// When the next checkpoint is to be taken.
    fn due_at(&self) -> Duration {
        if self.is_ending() { self.retry_at } else { self.next_at }
    }
}

/// Between tries of a last checkpoint.
const RETRY_MAX: Duration = Duration::from_secs(1);

impl RunningJob<'_> {
    fn generation(&self) -> Generation {
        self.taken.checkpoints.generation()
    }

    /// Runs to the end of the job or to a failure.
    pub async fn run(
        &self,
        workers: &mut Workers,
        mut wish: watch::Receiver<Wish>,
    ) -> Result<GenerationEnd, Stop> {
        let slots = self.wait_for_slots(workers, &mut wish).await?;
        let Some(slots) = slots else { return Ok(GenerationEnd::Stopped) };
        let mut run = self.deploy(workers, slots).await?;
        crash_at(CrashPoint::WorkersReady);
        workers.tell(run.members.iter(), self.generation(), &CoordinatorSays::Start(Empty {})).await;
        info!(generation = %self.generation(), workers = run.members.len(), "running");
        JobReport::change(self.report, |report| {
            // Its next try may fail as the one before: what has failed for good runs again once it has taken a checkpoint.
            if report.phase != Phase::Failed {
                report.phase = Phase::Running;
            }
            report.parallelism = self.settings.parallelism;
            report.workers = run.members.len() as u32;
        });
        loop {
            self.trigger(workers, &mut run).await;
            let due = run.due_at().saturating_sub(self.context.clock.elapsed());
            tokio::select! {
                biased;
                event = workers.next() => self.event(workers, &mut run, event)?,
                published = published(&mut run.publishing) => {
                    let is_last = run.publishing.take().is_some_and(|(_, is_last)| is_last);
                    let (manifest, started) = published?;
                    self.complete(&manifest, started);
                    retention::keep(&mut run.kept, Kept::of(&manifest), self.settings.checkpoints_kept);
                    self.remove_old(&mut run);
                    let completed = CoordinatorSays::Completed(manifest.epoch);
                    // Those without a slot, too, which need not keep what they have of older ones.
                    workers.tell(workers.all().iter(), self.generation(), &completed).await;
                    // A stop may have been taken back meanwhile.
                    if manifest.is_final || (is_last && run.wish == Wish::Stop) {
                        return self.end(&manifest).await;
                    }
                }
                removed = removed(&mut run.removing) => {
                    run.removing = None;
                    if let Err(error) = removed {
                        // The next removal takes what this one has left.
                        warn!(error = %crate::error::chain(&error), "failed to remove what no kept checkpoint needs");
                    }
                }
                changed = wish.changed() => {
                    run.wish = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Stop };
                    if let Wish::Checkpoint(_) = run.wish {
                        run.next_at = self.context.clock.elapsed();
                    }
                }
                () = self.context.clock.sleep(due), if !due.is_zero() => {}
            }
        }
    }

    async fn wait_for_slots(
        &self,
        workers: &mut Workers,
        wish: &mut watch::Receiver<Wish>,
    ) -> Result<Option<Vec<WorkerId>>, Stop> {
        let mut known = None;
        loop {
            if let Some(slots) = assignment::assign(&workers.offers(), self.settings.parallelism) {
                return Ok(Some(slots));
            }
            let offered: u32 = workers.offers().iter().map(|offer| offer.slots).sum();
            if known.replace(offered) != Some(offered) {
                info!(offered, needed = self.settings.parallelism, "waiting for workers with enough slots");
            }
            if *wish.borrow() == Wish::Stop {
                return Ok(None);
            }
            tokio::select! {
                biased;
                event = workers.next() => match event {
                    WorkerEvent::Joined(worker, joined) => workers.joined(worker, joined),
                    WorkerEvent::Gone(worker, reason) => {
                        workers.gone(worker);
                        warn!(%worker, %reason, "a worker is gone");
                    }
                    WorkerEvent::Says(..) => {}
                },
                _ = wish.changed() => {}
            }
        }
    }

    /// Deploys to all workers and waits until all are ready to receive.
    async fn deploy(&self, workers: &mut Workers, slots: Vec<WorkerId>) -> Result<Run<'_>, Stop> {
        let members: BTreeSet<WorkerId> = slots.iter().copied().collect();
        workers.assigned(&slots);
        // Some of those that they are of may be gone without a word.
        self.report.send_modify(JobReport::forget_all);
        let peers = members.iter().map(|worker| Peer { worker: worker.0, address: workers.address(*worker) });
        let deploy = Deploy {
            plan: Some(self.plan.clone()),
            parallelism: self.settings.parallelism,
            max_parallelism: self.settings.identity.max_parallelism.groups(),
            slots: slots.iter().map(|worker| worker.0).collect(),
            peers: peers.collect(),
            restored: self.state.clone(),
            first_epoch: self.taken.next_epoch.0,
        };
        let deploy = CoordinatorSays::Deploy(Box::new(deploy));
        workers.tell(members.iter(), self.generation(), &deploy).await;
        let mut waiting = members.clone();
        while !waiting.is_empty() {
            match workers.next().await {
                WorkerEvent::Joined(worker, joined) => workers.joined(worker, joined),
                WorkerEvent::Gone(worker, reason) => {
                    workers.gone(worker);
                    if members.contains(&worker) {
                        return Err(Stop::Again { reason: format!("lost worker {worker}: {reason}") });
                    }
                }
                WorkerEvent::Says(worker, FromWorker { generation, says: Some(says) })
                    if generation == self.generation().0 =>
                {
                    match says {
                        WorkerSays::Deployed(_) => drop(waiting.remove(&worker)),
                        WorkerSays::Failed(failed) => {
                            return Err(failure(failed.message, failed.kind, failed.is_permanent));
                        }
                        _ => {}
                    }
                }
                WorkerEvent::Says(..) => {}
            }
        }
        // As the workers see it.
        let topology = Topology::of(self.plan, self.settings.parallelism)
            .reading_once(self.plan, |source| splits_of(&self.state, source));
        let first = |chain: &usize| &self.plan.operators[topology.chains[*chain][0]];
        let sources =
            topology.tasks().filter(|chain| matches!(first(chain).kind, Some(OperatorKind::Source(_))));
        let sources_left = sources
            .flat_map(|chain| (0..self.settings.parallelism).map(move |subtask| (chain as u32, subtask)))
            .collect();
        Ok(Run {
            slots,
            members,
            sources_left,
            pending: None,
            publishing: None,
            kept: self.taken.restored.iter().map(Kept::of).collect(),
            complete: 0,
            removing: None,
            next_epoch: self.taken.next_epoch,
            next_at: self.context.clock.elapsed() + self.settings.checkpoint_interval,
            retry_at: Duration::ZERO,
            wish: Wish::Run,
        })
    }

    /// Starts a checkpoint if one is due and none is under way; gives up one that takes too long.
    async fn trigger(&self, workers: &Workers, run: &mut Run<'_>) {
        let now = self.context.clock.elapsed();
        if let Some(pending) = &run.pending
            && now.saturating_sub(pending.started) > self.settings.checkpoint_timeout
        {
            warn!(epoch = %pending.epoch, "gave up a checkpoint that took too long");
            let limit = self.settings.checkpoint_timeout.as_secs_f64();
            self.failed(run, &format!("it took longer than spec.checkpoint.timeout, {limit} s"));
        }
        let is_last = run.is_ending();
        let is_due = now >= run.due_at();
        if !is_due || run.pending.is_some() || run.publishing.is_some() {
            if now >= run.next_at {
                run.next_at = now + self.settings.checkpoint_interval.min(Duration::from_secs(1));
            }
            return;
        }
        let epoch = run.next_epoch;
        run.next_epoch = epoch.next();
        run.next_at = now + self.settings.checkpoint_interval;
        let members = run.members.iter().copied().collect();
        let is_final = run.sources_left.is_empty();
        run.pending = Some(Pending::new(epoch, now, members).ending(is_last, is_final));
        workers.tell(run.members.iter(), self.generation(), &CoordinatorSays::Checkpoint(epoch.0)).await;
        crash_at(CrashPoint::CheckpointBegun);
    }

    fn event<'r>(&'r self, workers: &mut Workers, run: &mut Run<'r>, event: WorkerEvent) -> Result<(), Stop> {
        match event {
            WorkerEvent::Joined(worker, joined) => workers.joined(worker, joined),
            WorkerEvent::Gone(worker, reason) => {
                workers.gone(worker);
                self.report.send_modify(|report| report.forget(worker));
                if run.slots.contains(&worker) {
                    return Err(lost(worker, &reason));
                }
            }
            WorkerEvent::Says(worker, FromWorker { generation, says: Some(says) }) => {
                if generation == self.generation().0 {
                    return self.says(run, worker, says);
                }
            }
            WorkerEvent::Says(..) => {}
        }
        Ok(())
    }

    fn says<'r>(&'r self, run: &mut Run<'r>, worker: WorkerId, says: WorkerSays) -> Result<(), Stop> {
        match says {
            WorkerSays::Heartbeat(heartbeat) => {
                let now = self.context.clock.elapsed();
                self.report.send_modify(|report| report.take(worker, heartbeat.tasks, now));
            }
            WorkerSays::Exhausted(exhausted) => {
                run.sources_left.remove(&(exhausted.chain, exhausted.subtask));
            }
            WorkerSays::Failed(failed) => {
                return Err(failure(failed.message, failed.kind, failed.is_permanent));
            }
            WorkerSays::Snapshot(snapshot) => {
                let Some(pending) = &mut run.pending else { return Ok(()) };
                let epoch = Epoch(snapshot.epoch);
                if epoch == pending.epoch && !snapshot.failure.is_empty() {
                    warn!(%epoch, %worker, error = %snapshot.failure, "a checkpoint has failed");
                    self.failed(run, &snapshot.failure);
                    return Ok(());
                }
                if epoch == pending.epoch {
                    pending.longest_stop_us = pending.longest_stop_us.max(snapshot.longest_stop_us);
                }
                let answered = pending.answer(worker, epoch, snapshot.subtasks, snapshot.bytes);
                if let Answered::Complete { subtasks, bytes } = answered {
                    let Pending { started, is_last, is_final, longest_stop_us, .. } = *pending;
                    self.report.send_modify(|report| report.longest_stop_us = longest_stop_us);
                    run.pending = None;
                    run.publishing = Some((self.publish(epoch, subtasks, bytes, started, is_final), is_last));
                }
            }
            WorkerSays::Register(_) | WorkerSays::Deployed(_) => {}
        }
        Ok(())
    }

    /// Gives the pending checkpoint up; the job runs on.
    fn failed(&self, run: &mut Run<'_>, why: &str) {
        run.pending = None;
        run.retry_at = self.context.clock.elapsed() + self.settings.checkpoint_interval.min(RETRY_MAX);
        JobReport::change(self.report, |report| {
            report.failed_checkpoints += 1;
            report.last_checkpoint_failure = Some(why.to_owned());
        });
    }

    /// Writes into the store until it takes it, which may be done any number of times: the job runs on meanwhile, as when a snapshot
    /// cannot be stored.
    async fn until_stored<F>(&self, write: impl Fn() -> F + Send) -> Result<(), Stop>
    where
        F: Future<Output = Result<Result<(), CheckpointError>, SinkError>> + Send,
    {
        loop {
            let error = match write().await? {
                Err(error @ CheckpointError::Store { .. }) => error,
                stored => return Ok(stored?),
            };
            let why = crate::error::chain(&error);
            warn!(error = %why, "a checkpoint cannot be recorded; trying again");
            JobReport::change(self.report, |report| {
                report.failed_checkpoints += 1;
                report.last_checkpoint_failure = Some(why);
            });
            self.context.clock.sleep(self.settings.checkpoint_interval.min(RETRY_MAX)).await;
        }
    }

    /// Publishes a checkpoint, commits its sinks, marks it.
    fn publish(
        &self,
        epoch: Epoch,
        subtasks: Vec<SubtaskState>,
        bytes: u64,
        started: Duration,
        is_final: bool,
    ) -> Publishing<'_> {
        let checkpoints = &self.taken.checkpoints;
        let settings = self.settings;
        let mut manifest =
            checkpoints.manifest(epoch, settings.parallelism, self.plan.clone(), settings.sql.clone());
        manifest.subtasks = subtasks;
        manifest.bytes = bytes;
        manifest.is_final = is_final;
        manifest.created_ms = self.context.clock.now_ms();
        async move {
            let (committers, recorded) = (&self.committers, &manifest);
            self.until_stored(|| async move {
                // Each time: while the store is out, a broker may throw away what is to be committed.
                check(committers, recorded).await?;
                Ok(checkpoints.publish(recorded).await)
            })
            .await?;
            let has_results = manifest.subtasks.iter().any(|state| !state.committables.is_empty());
            if has_results {
                crash_at(CrashPoint::RecordWritten);
            }
            commit(&self.committers, &manifest).await?;
            if has_results {
                crash_at(CrashPoint::ResultsCommitted);
            }
            self.until_stored(|| async move {
                Ok(checkpoints.mark_committed(epoch, self.context.clock.now_ms()).await)
            })
            .await?;
            crash_at(CrashPoint::CommitMarked);
            Ok((manifest, started))
        }
        .boxed()
    }

    fn complete(&self, manifest: &Manifest, started: Duration) {
        let done = ReportedCheckpoint {
            completed_at_ms: self.context.clock.now_ms(),
            duration_ms: self.context.clock.elapsed().saturating_sub(started).as_millis() as u64,
            ..report::checkpoint(manifest, self.plan)
        };
        info!(
            epoch = done.epoch,
            duration_ms = done.duration_ms,
            longest_stop_us = self.report.borrow().longest_stop_us,
            bytes = done.bytes,
            rows_in = done.rows_in,
            rows_out = done.rows_out,
            "checkpoint complete"
        );
        JobReport::change(self.report, |report| {
            report.last_checkpoint = Some(done);
            report.last_checkpoint_failure = None;
            report.failures_since_checkpoint = 0;
            if report.phase == Phase::Failed {
                report.phase = Phase::Running;
            }
        });
    }

    /// Every time that so many checkpoints are complete as are kept, what older ones alone need goes: to list the store costs money.
    fn remove_old<'r>(&'r self, run: &mut Run<'r>) {
        run.complete += 1;
        if run.removing.is_none() && run.complete >= self.settings.checkpoints_kept {
            run.complete = 0;
            let kept = run.kept.clone();
            run.removing = Some(async move { self.taken.checkpoints.remove_old(&kept).await }.boxed());
        }
    }

    async fn end(&self, manifest: &Manifest) -> Result<GenerationEnd, Stop> {
        if !manifest.is_final {
            return Ok(GenerationEnd::Stopped);
        }
        self.taken.checkpoints.mark_finished(Epoch(manifest.epoch), self.context.clock.now_ms()).await?;
        crash_at(CrashPoint::JobFinished);
        Ok(GenerationEnd::Finished)
    }
}

fn lost(worker: WorkerId, reason: &str) -> Stop {
    failure(format!("lost worker {worker}: {reason}"), "WorkerLost".to_owned(), false)
}

fn failure(message: String, kind: String, is_permanent: bool) -> Stop {
    Stop::Failure(Failure { message, kind, is_permanent })
}

/// The result of the removal under way; never, if there is none.
async fn removed(
    removing: &mut Option<BoxFuture<'_, Result<(), CheckpointError>>>,
) -> Result<(), CheckpointError> {
    match removing {
        Some(removing) => removing.await,
        None => std::future::pending().await,
    }
}

/// The result of the publishing under way; never, if there is none.
async fn published(publishing: &mut Option<(Publishing<'_>, bool)>) -> Result<(Manifest, Duration), Stop> {
    match publishing {
        Some((publishing, _)) => publishing.await,
        None => std::future::pending().await,
    }
}
