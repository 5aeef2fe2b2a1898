//! What a checkpoint's sinks have prepared, made visible: once it is recorded, and again by whoever leads next.

use std::time::Duration;

use millrace_sql::plan::{OperatorKind, Plan};
use tokio::sync::watch;
use tracing::warn;

use super::failover::RestartStrategy;
use super::{CoordinatorContext, JobSettings, LOST_FOR_GOOD, Stop};
use crate::checkpoint::TakenOver;
use crate::checkpoint::records::Manifest;
use crate::error::chain;
use crate::fault::{CrashPoint, crash_at};
use crate::model::{Epoch, Generation};
use crate::sink::{self, SinkCommitter, SinkError, SinkIdentity};

/// A committer and the operator that it commits for.
pub(super) type Committers = Vec<(String, Box<dyn SinkCommitter>)>;

/// The committers of a plan's sinks.
pub(super) fn committers(
    plan: &Plan,
    settings: &JobSettings,
    generation: Generation,
    context: &CoordinatorContext,
) -> Result<Committers, SinkError> {
    let mut committers = Vec::new();
    for operator in &plan.operators {
        let Some(OperatorKind::Sink(sink)) = &operator.kind else { continue };
        let identity = SinkIdentity {
            job: settings.identity.uid.clone(),
            operator: sink::operator_name(operator),
            operator_id: operator.id.clone(),
            generation,
            outside: context.outside.clone(),
            completed: watch::channel(Epoch(0)).1,
            first_epoch: Epoch(0),
        };
        if let Some(committer) = context.sinks.connector(sink, identity)?.committer() {
            if let Some(patience) = committer.patience().filter(|patience| is_tight(settings, *patience)) {
                warn!(
                    operator = operator.id,
                    transaction_timeout_ms = patience.as_millis() as u64,
                    "rows may have to be written again, or be lost, after an outage: raise 'properties.transaction.timeout.ms' of the \
                     sink above twice the sum of spec.checkpoint.interval and spec.restart.maxDelay"
                );
            }
            committers.push((operator.id.clone(), committer));
        }
    }
    Ok(committers)
}

/// True if the next checkpoint and the longest rest after a failure may use up half of the time that a transaction has.
fn is_tight(settings: &JobSettings, patience: Duration) -> bool {
    let rest = match &settings.restart {
        RestartStrategy::Exponential { max, .. } => *max,
        RestartStrategy::FixedDelay { delay, .. } | RestartStrategy::FailureRate { delay, .. } => *delay,
        RestartStrategy::None => Duration::ZERO,
    };
    settings.checkpoint_interval + rest > patience / 2
}

/// Commits what a checkpoint has prepared.
pub(super) async fn commit(committers: &Committers, manifest: &Manifest) -> Result<(), SinkError> {
    worst(commit_each(committers, manifest).await)
}

async fn commit_each(committers: &Committers, manifest: &Manifest) -> Vec<SinkError> {
    let mut failures = Vec::new();
    for (operator, committer) in committers {
        // One sink in trouble must not keep the others' results until they expire.
        failures.extend(committer.commit(&committables(manifest, operator)).await.err());
    }
    failures
}

fn worst(mut failures: Vec<SinkError>) -> Result<(), SinkError> {
    failures.sort_by_key(|failure| !failure.is_permanent());
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Those failures that are not of results which the user has given up.
fn not_accepted(failures: Vec<SinkError>, epoch: Epoch, accepts_lost_of: Option<Epoch>) -> Vec<SinkError> {
    let (accepted, left): (Vec<_>, Vec<_>) = failures.into_iter().partition(|failure| {
        accepts_lost_of == Some(epoch)
            && matches!(failure, SinkError::Lost { kind, .. } if LOST_FOR_GOOD.contains(kind))
    });
    for failure in accepted {
        warn!(%epoch, error = %chain(&failure), "results are given up, as spec.checkpoint.acceptLostResultsOf says");
    }
    left
}

/// Refuses to publish a checkpoint whose results can no longer be committed.
pub(super) async fn check(committers: &Committers, manifest: &Manifest) -> Result<(), SinkError> {
    for (operator, committer) in committers {
        committer.check(&committables(manifest, operator)).await?;
    }
    Ok(())
}

fn committables(manifest: &Manifest, operator: &str) -> Vec<Vec<u8>> {
    let states = manifest.subtasks.iter().filter(|state| state.operator == operator);
    states.flat_map(|state| state.committables.clone()).collect()
}

/// Before anything starts: commits the restored checkpoint again unless it is marked, then removes leftovers.
///
/// The first so many committers are of sinks that are given up: what is left over of theirs may stay.
pub(super) async fn replay(
    taken: &TakenOver,
    committers: &Committers,
    given_up: usize,
    context: &CoordinatorContext,
    accepts_lost_of: Option<Epoch>,
) -> Result<(), Stop> {
    let generation = taken.checkpoints.generation();
    let (clock, replays) = (context.clock, context.safeguards.replays_commits);
    if let Some(manifest) = &taken.restored
        && taken.replays_commit
        && replays
    {
        let epoch = Epoch(manifest.epoch);
        worst(not_accepted(commit_each(committers, manifest).await, epoch, accepts_lost_of))?;
        crash_at(CrashPoint::CommitReplayed);
        taken.checkpoints.mark_committed(epoch, clock.now_ms()).await?;
    }
    let nothing = Manifest::default();
    let manifest = taken.restored.as_ref().unwrap_or(&nothing);
    for (number, (operator, committer)) in committers.iter().enumerate() {
        match committer.clean_up(generation, &taken.earlier, &committables(manifest, operator)).await {
            Err(error) if number < given_up => {
                warn!(%operator, error = %chain(&error), "failed to remove what a sink that is given up has left over");
            }
            cleaned => cleaned?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lost_of_the_very_checkpoint_is_given_up() {
        let lost = |kind: &'static str| SinkError::Lost { kind, message: String::new() };
        let passing =
            SinkError::Io { action: "commit".to_owned(), source: std::io::Error::other("not well") };
        let failures = || vec![lost("SinkTransactionLost"), lost("SinkTransactionUndecided")];
        let left =
            |failures, accepts: Option<u64>| not_accepted(failures, Epoch(7), accepts.map(Epoch)).len();
        assert_eq!(left(failures(), Some(7)), 0);
        assert_eq!(left(failures(), Some(6)), 2);
        assert_eq!(left(failures(), None), 2);
        assert_eq!(left(vec![passing, lost("SinkFileLost")], Some(7)), 2);
    }
}
