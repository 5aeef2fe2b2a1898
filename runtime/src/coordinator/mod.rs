//! The coordinator: one per job. Claims a generation, assigns slots, triggers and publishes checkpoints, detects failures,
//! and leads every recovery.
//!
//! ```text
//! claim ─▶ replay commit ─▶ wait for slots ─▶ deploy ─▶ run (checkpoints) ─▶ final checkpoint ─▶ finished
//!   ▲                                                     │ failure
//!   └──────────────── back off, new generation ◀──────────┘
//! ```
//! Restartable at any instruction: everything it knows is in the store or is told to it again.

pub mod assignment;
pub mod checkpointing;
mod commits;
pub mod failover;
mod generation;
mod older;
pub mod report;
mod upgrade;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use millrace_crds::v1alpha1::UpgradeSpec;
use millrace_sql::plan::{OperatorKind, Plan, Table};
use parking_lot::Mutex;
use snafu::Snafu;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::checkpoint::protocol::{self, JobIdentity};
use crate::checkpoint::records::{Manifest, SplitState, SubtaskState};
use crate::checkpoint::store::Below;
use crate::checkpoint::{CheckpointError, Checkpoints, Claimant, Store, TakenOver, paths, savepoint};
use crate::clock::Clock;
use crate::error::chain;
use crate::fault::Safeguards;
use crate::model::{Epoch, EventTime, Generation, Led};
use crate::outside::Outside;
use crate::sink::{SinkError, Sinks};
use crate::source::{self, SourceError};
use crate::state::verify_segment;
use commits::{Committers, committers, replay};
use failover::{Restart, RestartStrategy};
use generation::{GenerationEnd, RunningJob};
use older::Looked;
pub use report::{JobReport, Phase};
use upgrade::Upgrade;
pub use workers::Workers;

/// Settings of a job's run.
#[derive(Debug, Clone)]
pub struct JobSettings {
    pub identity: JobIdentity,
    pub sql: String,
    pub parallelism: u32,
    pub checkpoint_interval: Duration,
    pub checkpoint_timeout: Duration,
    /// So many complete checkpoints stay in the store.
    pub checkpoints_kept: usize,
    /// Results of this checkpoint that are lost for good are given up.
    pub accepts_lost_of: Option<Epoch>,
    pub restart: RestartStrategy,
    /// What becomes of the state when the SQL is another one.
    pub upgrade: UpgradeSpec,
    /// A failure that would come again is tried again all the same, with the delays of `restart`: on a cluster the cure (an object
    /// put back, a topic mended) comes from outside, and nobody is there to start the job anew.
    pub is_patient: bool,
    /// Somebody waits for its end, on the command line.
    pub is_attended: bool,
}

/// What a coordinator works with; injected.
#[derive(Clone)]
pub struct CoordinatorContext {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    /// A savepoint, or another job's state, that a job without a checkpoint begins from.
    pub begins_from: Option<Arc<dyn Store>>,
    /// Seeds nonces and jitter.
    pub random: Arc<Mutex<rand::rngs::StdRng>>,
    /// What sources and sinks reach the world with.
    pub outside: Outside,
    pub sinks: Arc<dyn Sinks>,
    pub safeguards: Safeguards,
}

/// How a job's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// A bounded job is done.
    Finished,
    /// It was asked to stop, and a last checkpoint was taken.
    Stopped,
}

/// The job cannot go on.
#[derive(Debug, Snafu)]
pub enum JobError {
    /// This process must end; another one runs the job.
    #[snafu(display("this coordinator is no longer in charge: {source}"))]
    Fenced { source: CheckpointError },
    /// The user must act.
    #[snafu(display("{message}"))]
    Failed { kind: String, message: String },
    /// The restart strategy gives up.
    #[snafu(display("{}{message}", after(*restarts)))]
    GaveUp { restarts: u32, message: String },
}

/// Where the strategy wants no restart at all, the failure says it all.
fn after(restarts: u32) -> String {
    match restarts {
        0 => String::new(),
        1 => "gave up after 1 restart: ".to_owned(),
        restarts => format!("gave up after {restarts} restarts: "),
    }
}

/// Rest before the next generation when a worker went away before its tasks had started.
const AGAIN_REST: Duration = Duration::from_millis(200);

impl JobError {
    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &str {
        match self {
            JobError::Fenced { .. } => "Fenced",
            JobError::Failed { kind, .. } => kind,
            JobError::GaveUp { .. } => "GaveUp",
        }
    }
}

/// What stops one generation: whether and how to go on is decided from it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub message: String,
    /// As conditions name it, in PascalCase.
    pub kind: String,
    pub is_permanent: bool,
}

/// What the outside asks of a running job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Run,
    /// Take a checkpoint now, and run on. Another number is another wish.
    Checkpoint(u64),
    /// Take a last checkpoint and end.
    Stop,
}

/// Runs a job to its end.
pub async fn run(
    settings: JobSettings,
    plan: Plan,
    context: CoordinatorContext,
    mut workers: Workers,
    wish: watch::Receiver<Wish>,
    report: watch::Sender<JobReport>,
) -> Result<JobEnd, JobError> {
    let mut restart = Restart::new(settings.restart.clone());
    let nonce = rand::Rng::random(&mut *context.random.lock());
    let mut claimant = Claimant::new(nonce, settings.parallelism);
    let mut looks_before = false;
    // Of segments, while the newest checkpoint cannot be restored: to look at all of them is to read the whole state.
    let mut looked: Option<Looked> = None;
    let job = Job { settings: &settings, plan: &plan, context: &context, report: &report };
    // Failures since the job was asked to stop; and whether it is given up, and only what is prepared has to become visible.
    let (mut failed_stopping, mut leaves) = (0, false);
    loop {
        let ended = async {
            if looks_before {
                look_before(&settings, &plan, &context).await?;
            }
            one_generation(job, &mut workers, wish.clone(), &mut claimant, looked.as_mut(), leaves).await
        };
        let failure = match ended.await {
            Ok(end) => {
                workers.dismiss("the job has ended").await;
                let phase = if end == JobEnd::Finished { Phase::Succeeded } else { Phase::Suspended };
                JobReport::change(&report, |report| report.phase = phase);
                return Ok(end);
            }
            Err(Stop::Error(JobError::Failed { kind, message })) if goes_on(&settings, true, &kind) => {
                Failure { message, kind, is_permanent: true }
            }
            Err(Stop::Error(error)) => {
                workers.dismiss("the job has failed").await;
                JobReport::change(&report, |report| {
                    report.phase = Phase::Failed;
                    report.tries_again = false;
                    report.last_failure = Some(error.to_string());
                    report.last_failure_kind = Some(error.kind().to_owned());
                });
                return Err(error);
            }
            Err(Stop::Again { reason }) => {
                info!(%reason, "a worker was lost before its tasks had started");
                workers.cancel().await;
                workers.watch_for(AGAIN_REST).await;
                continue;
            }
            Err(Stop::Failure(failure)) => failure,
        };
        let has_run = report.borrow().public.phase == Phase::Running;
        let is_stop_wished = *wish.borrow() == Wish::Stop;
        failed_stopping = if is_stop_wished { failed_stopping + 1 } else { 0 };
        // One that has run is tried once more, for its last checkpoint.
        let is_stopping = is_stop_wished && (!has_run || failed_stopping > 1);
        leaves = is_stopping;
        // What fails for good may fail before any seal, each time.
        let is_still =
            claimant.is_sealed || (failure.is_permanent && !has_run) || !context.safeguards.rests_sealed;
        if is_stopping && may_stop(&settings, &context, &claimant, is_still).await {
            // There is nothing that a last checkpoint could hold.
            info!(error = %failure.message, "stopped while recovering");
            workers.dismiss("the job has been stopped").await;
            JobReport::change(&report, |report| {
                report.phase = Phase::Suspended;
                report.last_failure = Some(failure.message.clone());
                report.last_failure_kind = Some(failure.kind.clone());
            });
            return Ok(JobEnd::Stopped);
        }
        workers.cancel().await;
        if failure.kind == STATE_DAMAGED && looked.is_none() {
            warn!(error = %failure.message, "looking for a checkpoint that is whole");
            looked = Some(Looked::default());
            continue;
        }
        if failure.kind != STATE_DAMAGED {
            looked = None;
        }
        JobReport::change(&report, |report| {
            report.phase = if failure.is_permanent { Phase::Failed } else { Phase::Recovering };
            report.tries_again = goes_on(&settings, failure.is_permanent, &failure.kind);
            report.restarts += 1;
            report.failures_since_checkpoint += 1;
            report.last_failure = Some(failure.message.clone());
            report.last_failure_kind = Some(failure.kind.clone());
        });
        looks_before = failure.is_permanent;
        if !goes_on(&settings, failure.is_permanent, &failure.kind) {
            error!(error = %failure.message, "the job has failed");
            workers.dismiss("the job has failed").await;
            JobReport::change(&report, |report| report.phase = Phase::Failed);
            return FailedSnafu { kind: failure.kind, message: failure.message }.fail();
        }
        let jitter = rand::Rng::random_range(&mut *context.random.lock(), 0.0..1.0);
        match restart.next(context.clock.elapsed(), jitter) {
            Some(delay) => {
                warn!(error = %failure.message, delay_ms = delay.as_millis() as u64, "recovering");
                tokio::select! {
                    () = workers.watch_for(delay) => {}
                    () = stop_wished(wish.clone()), if !is_stopping && failed_stopping <= 1 => {}
                }
            }
            None => {
                JobReport::change(&report, |report| {
                    report.phase = Phase::Failed;
                    report.tries_again = false;
                });
                return GaveUpSnafu { restarts: restart.count(), message: failure.message }.fail();
            }
        }
    }
}

/// Whether a job that does not run can be left as it is: not while a checkpoint is complete whose results are not visible yet, or while
/// it is not still and one may become so, by a record that was sent and has not arrived. Kafka would throw them away after a while.
async fn may_stop(
    settings: &JobSettings,
    context: &CoordinatorContext,
    claimant: &Claimant,
    is_still: bool,
) -> bool {
    // A run on the command line that has come nowhere has begun nothing, and somebody waits for its end.
    let has_begun = !settings.is_attended || claimant.own.is_some();
    if has_begun && !is_still {
        return false;
    }
    match protocol::is_committed(context.store.as_ref()).await {
        Ok(is_committed) => is_committed,
        Err(error) => {
            warn!(error = %chain(&error), "it is not known whether the results of the last checkpoint are visible");
            !has_begun
        }
    }
}

/// Ends once the job is to stop.
async fn stop_wished(mut wish: watch::Receiver<Wish>) {
    if wish.wait_for(|wish| *wish == Wish::Stop).await.is_err() {
        std::future::pending().await
    }
}

/// Of a checkpoint that cannot be restored.
const STATE_DAMAGED: &str = "StateDamaged";

/// Results that the broker has thrown away, or may have: to go on would be to pretend that they were written. Somebody has to decide.
const LOST_FOR_GOOD: [&str; 2] = ["SinkTransactionLost", "SinkTransactionUndecided"];

/// Whether a failure is followed by another try.
fn goes_on(settings: &JobSettings, is_permanent: bool, kind: &str) -> bool {
    !is_permanent || (settings.is_patient && !LOST_FOR_GOOD.contains(&kind))
}

/// What would fail for the same reason again is seen without taking a generation, so that a job which waits for its cure leaves no
/// traces in the store.
async fn look_before(settings: &JobSettings, plan: &Plan, context: &CoordinatorContext) -> Result<(), Stop> {
    // Before the job has a place of its own, which would hold it to what is wrong now.
    if let Some(from) = &context.begins_from
        && protocol::newest(context.store.as_ref()).await?.is_none()
    {
        let manifest = match savepoint::read(from.as_ref(), &settings.identity).await {
            // On the command line the argument or field was looked at before.
            Err(CheckpointError::Refused { message }) if !settings.is_attended => {
                return Err(CheckpointError::Refused { message: format!("spec.startFrom: {message}") }.into());
            }
            read => read?,
        };
        upgrade(Some(&manifest), settings, plan)?;
    }
    protocol::check_owner(context.store.as_ref(), &settings.identity).await?;
    protocol::check_records(context.store.as_ref()).await?;
    let newest = protocol::newest(context.store.as_ref()).await?;
    upgrade(newest.as_ref(), settings, plan).map(|_| ())
}

/// Why a generation did not reach the job's end.
#[derive(Debug)]
pub(crate) enum Stop {
    Failure(Failure),
    /// A worker went away before the tasks had started: part of the failure before, and no new one.
    Again {
        reason: String,
    },
    Error(JobError),
}

impl From<CheckpointError> for Stop {
    fn from(source: CheckpointError) -> Self {
        match source {
            CheckpointError::Fenced { .. }
            | CheckpointError::Superseded { .. }
            | CheckpointError::Removed { .. } => Stop::Error(JobError::Fenced { source }),
            CheckpointError::Store { .. } | CheckpointError::NotKept { .. } => Stop::Failure(Failure {
                message: chain(&source),
                kind: "StoreUnavailable".to_owned(),
                is_permanent: false,
            }),
            CheckpointError::Refused { .. } => {
                Stop::Error(JobError::Failed { kind: "StateRefused".to_owned(), message: chain(&source) })
            }
            CheckpointError::Malformed { .. }
            | CheckpointError::Missing { .. }
            | CheckpointError::Irreplaceable { .. } => {
                Stop::Error(JobError::Failed { kind: STATE_DAMAGED.to_owned(), message: chain(&source) })
            }
        }
    }
}

impl From<SinkError> for Stop {
    fn from(error: SinkError) -> Self {
        let (kind, is_permanent) = (error.kind().to_owned(), error.is_permanent());
        Stop::Failure(Failure { message: chain(&error), kind, is_permanent })
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        let (kind, is_permanent) = (error.kind().to_owned(), error.is_permanent());
        Stop::Failure(Failure { message: chain(&error), kind, is_permanent })
    }
}

/// What all generations of a job have in common.
#[derive(Clone, Copy)]
struct Job<'a> {
    settings: &'a JobSettings,
    plan: &'a Plan,
    context: &'a CoordinatorContext,
    report: &'a watch::Sender<JobReport>,
}

/// Runs one generation; `looked` is set if state could not be read. If it `leaves`, no task is started any more: a job that only fails
/// could otherwise complete a checkpoint with each try, and never be seen at rest.
async fn one_generation(
    job: Job<'_>,
    workers: &mut Workers,
    wish: watch::Receiver<Wish>,
    claimant: &mut Claimant,
    looked: Option<&mut Looked>,
    leaves: bool,
) -> Result<JobEnd, Stop> {
    let Job { settings, plan, context, report: sender } = job;
    // Whose state it is comes first: the end of a namesake is not the end of this job.
    protocol::check_owner(context.store.as_ref(), &settings.identity).await?;
    if protocol::finished(context.store.as_ref()).await?.is_some() {
        let last = protocol::newest(context.store.as_ref()).await?;
        JobReport::change(sender, |report| {
            report.generation = last.as_ref().map_or(0, |manifest| manifest.generation);
            report.parallelism = last.as_ref().map_or(0, |manifest| manifest.parallelism);
            report.last_checkpoint = last.map(|manifest| report::checkpoint(&manifest, plan));
        });
        return Ok(JobEnd::Finished);
    }
    let mut taken = Checkpoints::take_over(
        Arc::clone(&context.store),
        settings.identity.clone(),
        claimant,
        context.safeguards,
    )
    .await?;
    let generation = taken.checkpoints.generation();
    claimant.own = Some(generation);
    if let (Some(from), None) = (&context.begins_from, &taken.restored) {
        begin_from(from.as_ref(), settings, plan, &mut taken).await?;
    }
    if let (Some(looked), Some(newest)) = (looked, &taken.restored)
        && !newest.is_final
    {
        looked.again();
        let whole = older::whole(context.store.as_ref(), newest, looked).await?;
        if whole.epoch < newest.epoch {
            warn!(
                damaged_epoch = newest.epoch,
                epoch = whole.epoch,
                "an older checkpoint takes the place of the newest, which cannot be read; nothing was committed since"
            );
            taken.go_back(whole).await?;
        }
    }
    claimant.is_sealed = true;
    let upgrade = upgrade(taken.restored.as_ref(), settings, plan)?;
    let committers = take_leave(&upgrade, &mut taken, settings, context).await?;
    let (plan, restored_epoch) =
        (&upgrade.plan, taken.restored.as_ref().map_or(0, |manifest| manifest.epoch));
    let restored_checkpoint = taken.restored.as_ref().map(|manifest| report::checkpoint(manifest, plan));
    info!(
        %generation,
        restored_epoch,
        restored_rows_in = restored_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.rows_in),
        attempt = %settings.identity.attempt,
        "leading the job"
    );
    let restored_rows_out = restored_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.rows_out);
    sender.send_modify(|report| {
        report.restored_rows_out = restored_rows_out;
        report.plan = Some(Arc::new(plan.clone()));
    });
    JobReport::change(sender, |report| {
        report.generation = generation.0;
        report.restored_epoch = restored_epoch;
        if report.last_checkpoint.is_none() {
            report.last_checkpoint = restored_checkpoint;
        }
        report.phase = match report.phase {
            // It has failed until it runs.
            Phase::Failed => Phase::Failed,
            _ if report.restarts > 0 => Phase::Recovering,
            _ => Phase::Starting,
        };
    });
    if let Some(manifest) = &taken.restored
        && manifest.is_final
    {
        taken.checkpoints.mark_finished(Epoch(manifest.epoch), context.clock.now_ms()).await?;
        return Ok(JobEnd::Finished);
    }
    if leaves && *wish.borrow() == Wish::Stop {
        return Ok(JobEnd::Stopped);
    }
    let state = upgrade.state(taken.restored.as_ref());
    let state = with_first_splits(state, plan, settings, &context.outside).await?;
    let job = RunningJob { settings, plan, context, taken, committers, state, report: sender };
    claimant.is_sealed = false;
    let end = job.run(workers, wish).await?;
    if end == GenerationEnd::Stopped {
        // Rows after the last checkpoint are read again later; what sinks have begun with them must not stand in the way.
        workers.cancel().await;
        let led = [Led { generation, parallelism: settings.parallelism }];
        for (operator, committer) in &job.committers {
            if let Err(error) = committer.clean_up(Generation(generation.0 + 1), &led, &[]).await {
                warn!(%operator, error = %chain(&error), "failed to remove what was begun after the last checkpoint");
            }
        }
    }
    Ok(match end {
        GenerationEnd::Finished => JobEnd::Finished,
        GenerationEnd::Stopped => JobEnd::Stopped,
    })
}

/// Begins a job that has no checkpoint with another place's.
async fn begin_from(
    from: &dyn Store,
    settings: &JobSettings,
    plan: &Plan,
    taken: &mut TakenOver,
) -> Result<(), Stop> {
    let manifest = savepoint::read(from, &settings.identity).await?;
    // Before it is the job's own: SQL that does not fit it is refused.
    upgrade(Some(&manifest), settings, plan)?;
    info!(from = from.location(), epoch = manifest.epoch, "beginning from there");
    taken.checkpoints.begin_from(from.location());
    let adopted =
        savepoint::adopt(&taken.checkpoints, from, &manifest, taken.next_epoch, verify_segment).await?;
    taken.next_epoch = taken.next_epoch.next();
    taken.restored = Some(adopted);
    Ok(())
}

fn upgrade(restored: Option<&Manifest>, settings: &JobSettings, compiled: &Plan) -> Result<Upgrade, Stop> {
    Upgrade::of(restored, &settings.sql, compiled, &settings.upgrade)
}

/// Brings what the plan of the restored checkpoint has begun to its end; returns the committers of the one that goes on.
async fn take_leave(
    upgrade: &Upgrade,
    taken: &mut TakenOver,
    settings: &JobSettings,
    context: &CoordinatorContext,
) -> Result<Committers, Stop> {
    let generation = taken.checkpoints.generation();
    let restored_epoch = taken.restored.as_ref().map_or(0, |manifest| manifest.epoch);
    if !upgrade.changes.is_empty() {
        let changes = upgrade.changes.join("; ");
        match upgrade.is_anew {
            false => info!(restored_epoch, changes, "the SQL has changed, and goes on from the state"),
            true => warn!(restored_epoch, changes, "the SQL has changed, and begins without the state"),
        }
    }
    let owes = taken.restored.is_some() && taken.replays_commit;
    let mut all = match committers(&upgrade.given_up, settings, generation, context) {
        Ok(former) => former,
        Err(error) if owes => return Err(error.into()),
        Err(error) => {
            warn!(error = %chain(&error), "a sink that is given up cannot be reached, and nothing is left to be done for it");
            Vec::new()
        }
    };
    let given_up = all.len();
    if upgrade.is_anew {
        replay(taken, &all, given_up, context, settings.accepts_lost_of).await?;
        taken.restored = None;
        all.clear();
    }
    let former = all.len();
    all.extend(committers(&upgrade.plan, settings, generation, context)?);
    replay(taken, &all, former, context, settings.accepts_lost_of).await?;
    if upgrade.keeps_savepoint
        && let Some(manifest) = &taken.restored
    {
        let store = taken.checkpoints.store();
        let to = Below::new(Arc::clone(store), paths::savepoint(Epoch(restored_epoch)));
        let bytes = savepoint::save(store.as_ref(), manifest, &to, verify_segment).await?;
        info!(location = to.location(), bytes, "kept a savepoint of the state before the SQL changed");
    }
    Ok(if upgrade.is_anew { all } else { all.split_off(given_up) })
}

/// The first splits of sources that have never run, beside the state of all that has.
async fn with_first_splits(
    mut states: Vec<SubtaskState>,
    plan: &Plan,
    settings: &JobSettings,
    outside: &Outside,
) -> Result<Vec<SubtaskState>, SourceError> {
    // Those that begin together begin at the same place, and so can read together.
    let mut begun: Vec<(&Option<Table>, Vec<source::Split>)> = Vec::new();
    for operator in &plan.operators {
        let Some(OperatorKind::Source(source)) = &operator.kind else { continue };
        if states.iter().any(|state| state.operator == operator.id) {
            continue;
        }
        let splits = match begun.iter().find(|(table, _)| **table == source.table) {
            Some((_, splits)) => splits.clone(),
            None => {
                let splits = source::connector(source, outside)?.splits(settings.parallelism).await?;
                begun.push((&source.table, splits.clone()));
                splits
            }
        };
        let split = |split: source::Split| SplitState {
            id: split.id,
            position: split.position,
            watermark: EventTime::MIN.0,
            is_done: false,
        };
        states.push(SubtaskState {
            operator: operator.id.clone(),
            end_group: settings.identity.max_parallelism.groups(),
            splits: splits.into_iter().map(split).collect(),
            ..Default::default()
        });
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{FolderStore, paths};
    use crate::model::{Attempt, JobUid, MaxParallelism};
    use crate::sink::StandardSinks;
    use crate::transport::{Tcp, Transport};

    fn settings(is_patient: bool) -> JobSettings {
        JobSettings {
            identity: JobIdentity {
                uid: JobUid("uid".to_owned()),
                name: "default/a".to_owned(),
                attempt: Attempt(1),
                max_parallelism: MaxParallelism::new(8).unwrap(),
            },
            sql: "new".to_owned(),
            parallelism: 1,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_timeout: Duration::from_secs(1),
            checkpoints_kept: 1,
            accepts_lost_of: None,
            restart: RestartStrategy::Exponential {
                initial: Duration::from_millis(10),
                max: Duration::from_millis(10),
                multiplier: 2.0,
                reset_after: Duration::from_secs(10),
                jitter: 0.0,
                most: None,
            },
            upgrade: UpgradeSpec::default(),
            is_patient,
            is_attended: !is_patient,
        }
    }

    #[test]
    fn what_is_tried_again_depends_on_who_is_there_and_on_what_is_lost() {
        let cases = [
            (false, false, "WorkerLost", true),
            (false, true, "InvalidData", false),
            (true, true, "InvalidData", true),
            (true, true, "StateDamaged", true),
            (true, true, "SinkTransactionLost", false),
            (true, true, "SinkTransactionUndecided", false),
            (false, true, "SinkTransactionLost", false),
        ];
        for (is_patient, is_permanent, kind, expected) in cases {
            assert_eq!(goes_on(&settings(is_patient), is_permanent, kind), expected, "{is_patient} {kind}");
        }
    }

    #[tokio::test]
    async fn a_job_that_waits_for_its_cure_takes_no_generation_at_every_try() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
        let clock = Clock::system();
        let settings = settings(true);
        let claimant = Claimant::new(1, 1);
        let first = Checkpoints::take_over(
            Arc::clone(&store),
            settings.identity.clone(),
            &claimant,
            Safeguards::default(),
        );
        let first = first.await.unwrap();
        let operators = vec![millrace_sql::plan::Operator { id: "gone".to_owned(), ..Default::default() }];
        let stored = Plan { operators, edges: Vec::new() };
        let manifest = first.checkpoints.manifest(first.next_epoch, 1, stored, "old".to_owned());
        first.checkpoints.publish(&manifest).await.unwrap();
        let random = Arc::new(Mutex::new(rand::SeedableRng::seed_from_u64(1)));
        let context = CoordinatorContext {
            clock,
            store: Arc::clone(&store),
            begins_from: None,
            outside: Outside::new(clock, crate::checkpoint::BucketSettings::default(), &random),
            random,
            sinks: Arc::new(StandardSinks),
            safeguards: Safeguards::default(),
        };
        let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
        let workers =
            Workers::accept(listener, settings.identity.uid.clone(), settings.identity.attempt, clock);
        let (sender, mut report) = watch::channel(JobReport::default());
        let (_wish, wish) = watch::channel(Wish::Run);
        let run = tokio::spawn(run(settings, Plan::default(), context, workers, wish, sender));

        let tried = report.wait_for(|report| report.public.restarts >= 5).await.unwrap().public.clone();
        run.abort();

        assert_eq!(tried.last_failure_kind.as_deref(), Some("PlanChanged"));
        assert_eq!(tried.failures_since_checkpoint, tried.restarts, "no checkpoint was complete since");
        assert_eq!(
            store.list(paths::GENERATIONS).await.unwrap().len(),
            2,
            "the first one, and one to find out"
        );
    }
}
