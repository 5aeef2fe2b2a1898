//! What a job's status says, from the decision and what was seen. Pure; times come in as values.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use millrace_crds::StreamJob;
use millrace_crds::contract::{Report, ReportedPhase};
use millrace_crds::v1alpha1::{CheckpointStatus, FailureStatus, Phase, StreamJobStatus};

use crate::decide::{Decision, Why};
use crate::desired;
use crate::labels::{self, Component};
use crate::model::Observed;
use crate::names;

/// Longest message of a failure.
const MESSAGE_MAX: usize = 1024;

/// A checkpoint is written into the status at most this often, unless something else has changed.
const CHECKPOINT_EVERY_MS: i64 = 60_000;

/// How often the job was started again by itself since it was seen last. A coordinator counts its own recoveries, and begins with
/// none; each start that leads has a generation of its own, and the first one of an attempt is no restart.
fn restarts_since(old: &StreamJobStatus, report: &Report) -> u32 {
    // Nothing was heard of the attempt before.
    let Some(known) = old.reported_restarts else { return report.restarts };
    let counted = match report.restarts.checked_sub(known) {
        Some(more) => more,
        // Another coordinator.
        None => report.restarts.saturating_add(1),
    };
    let led = report.generation.saturating_sub(old.generation);
    counted.max(u32::try_from(led).unwrap_or(u32::MAX))
}

/// The status after a reconcile; the job has a place for its state.
pub fn compute(
    job: &StreamJob,
    decision: &Decision,
    observed: &Observed,
    image: &str,
    now: Timestamp,
) -> StreamJobStatus {
    let old = job.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = job.metadata.generation.unwrap_or_default();
    let report = observed.report.as_ref().filter(|report| report.attempt == old.attempt);
    if let Decision::RecordAttempt { attempt, spec_hash } = decision {
        status.attempt = *attempt;
        status.spec_hash = spec_hash.clone();
        status.reported_restarts = None;
        // Another release of the controller restarts nothing: its image is for the next attempt.
        status.image = job.spec.image.clone().unwrap_or_else(|| image.to_owned());
        status.checkpoint_location = job.spec.checkpoint.location.clone().unwrap_or_default();
        status.rendering = desired::RENDERING;
        status.upgrade = job.spec.upgrade.clone();
    }
    status.phase = phase(decision, status.attempt > 0, old.phase, report.map(|report| report.phase));
    if let Some(report) = report {
        status.generation = report.generation;
        let again = restarts_since(&old, report);
        status.restarts = old.restarts.saturating_add(again);
        // What an attempt that is over has counted says nothing of the next one.
        status.reported_restarts = (status.attempt == report.attempt).then_some(report.restarts);
        status.parallelism = report.parallelism;
        if let Some(message) = &report.last_failure {
            let message: String = message.chars().take(MESSAGE_MAX).collect();
            let is_new = again > 0 || report.generation > old.generation;
            if is_new || old.last_failure.as_ref().is_none_or(|known| known.message != message) {
                let kind = report.last_failure_kind.clone().unwrap_or_default();
                status.last_failure = Some(FailureStatus { at: Some(seconds(now)), kind, message });
            }
        }
        if let Some(checkpoint) = &report.last_checkpoint {
            let completed_at = Timestamp::from_millisecond(checkpoint.completed_at_ms as i64).unwrap_or(now);
            status.last_checkpoint = Some(CheckpointStatus {
                epoch: checkpoint.epoch,
                completed_at: Some(seconds(completed_at)),
                duration: format!("{}ms", checkpoint.duration_ms),
                bytes: checkpoint.bytes,
                location: observed
                    .last_good
                    .as_ref()
                    .unwrap_or(&job.spec)
                    .checkpoint
                    .location
                    .clone()
                    .unwrap_or_default(),
            });
        }
    }
    let name = names::job(job);
    let selector = labels::selector(name, Component::Worker, status.attempt);
    status.selector =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    status.address = match decision {
        Decision::Finish { keeps_coordinator: false } => String::new(),
        _ => format!("{}.{}.svc:6123", names::coordinator(name), names::namespace(job)),
    };
    if status.phase != old.phase || old.since.is_none() {
        status.since = Some(seconds(now));
    }
    status.conditions = conditions(&old.conditions, &status, decision, observed, now);
    keep_checkpoint_quiet(&old, &mut status);
    status
}

/// Leaves the old checkpoint in place if nothing else has changed and it is not old: an idle job costs no request.
fn keep_checkpoint_quiet(old: &StreamJobStatus, status: &mut StreamJobStatus) {
    let quiet = StreamJobStatus { last_checkpoint: old.last_checkpoint.clone(), ..status.clone() };
    let time = |status: &StreamJobStatus| -> Option<i64> {
        let text = status.last_checkpoint.as_ref()?.completed_at.as_ref()?;
        Some(text.parse::<Timestamp>().ok()?.as_millisecond())
    };
    if quiet == *old
        && let (Some(known), Some(new)) = (time(old), time(status))
        && new - known < CHECKPOINT_EVERY_MS
    {
        *status = quiet;
    }
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn phase(decision: &Decision, has_attempt: bool, old: Phase, reported: Option<ReportedPhase>) -> Phase {
    match decision {
        Decision::RecordAttempt { .. } => Phase::Pending,
        Decision::Stop { .. } => Phase::Suspending,
        Decision::Suspend => Phase::Suspended,
        Decision::Finish { .. } => Phase::Succeeded,
        Decision::Fail { .. } => Phase::Failed,
        Decision::Refuse(_) if !has_attempt => Phase::Failed,
        Decision::Refuse(_) if old == Phase::Succeeded => Phase::Succeeded,
        // It has no pods, and gets none for a spec that is refused.
        Decision::Refuse(_) if old == Phase::Suspended && reported.is_none() => Phase::Suspended,
        Decision::Refuse(_) | Decision::Run { .. } => match reported {
            Some(ReportedPhase::Running) => Phase::Running,
            Some(ReportedPhase::Recovering) => Phase::Recovering,
            Some(ReportedPhase::Suspended) => Phase::Suspended,
            Some(ReportedPhase::Failed) => Phase::Failed,
            // It has run before, so its coordinator is being replaced.
            None if matches!(old, Phase::Running | Phase::Recovering) => Phase::Recovering,
            _ => Phase::Starting,
        },
    }
}

/// Why the newest checkpoint has failed, and what that means; empty: it has not.
fn checkpoint_failure(phase: Phase, observed: &Observed) -> String {
    let report = observed.report.as_ref();
    let Some(why) = report.and_then(|report| report.last_checkpoint_failure.as_ref()) else {
        return String::new();
    };
    match phase {
        Phase::Suspending => {
            format!("the last checkpoint has failed: {why}. The job runs on, and it is tried again")
        }
        Phase::Running => {
            format!("a checkpoint has failed: {why}. The job runs on, and the next one is tried in time")
        }
        _ => String::new(),
    }
}

fn conditions(
    old: &[Condition],
    status: &StreamJobStatus,
    decision: &Decision,
    observed: &Observed,
    now: Timestamp,
) -> Vec<Condition> {
    let failure = status.last_failure.as_ref().map_or("", |failure| failure.message.as_str());
    let failure_kind = status.last_failure.as_ref().map(|failure| failure.kind.as_str());
    let failure_kind = failure_kind.filter(|kind| !kind.is_empty()).unwrap_or("Failed");
    let obstacle = observed.obstacle.as_ref();
    let checkpoint_failure = checkpoint_failure(status.phase, observed);
    let is_down = observed
        .report
        .as_ref()
        .is_some_and(|report| matches!(report.phase, ReportedPhase::Recovering | ReportedPhase::Failed));
    // It runs, as it did before it failed the last times: that says nothing until a checkpoint is complete.
    let fails_again = status.phase == Phase::Running
        && observed.report.as_ref().is_some_and(|report| report.failures_since_checkpoint > 1);
    let suspended = match &status.last_checkpoint {
        Some(checkpoint) => format!(
            "spec.suspend is true; the job will go on from checkpoint {} or a later one",
            checkpoint.epoch
        ),
        None => "spec.suspend is true; the job has no checkpoint yet".to_owned(),
    };
    let refusal = match decision {
        Decision::Refuse(refusal) => Some((false, refusal.reason, refusal.message.as_str())),
        _ => None,
    };
    let ready = match (status.phase, obstacle) {
        (Phase::Running, _) if fails_again => (false, failure_kind, failure),
        (Phase::Running, _) => (true, "Running", "all subtasks run"),
        (Phase::Succeeded, _) => (true, "Succeeded", "the bounded input has been processed"),
        (Phase::Suspended, _) => refusal.unwrap_or((false, "Suspended", suspended.as_str())),
        (Phase::Failed, _) if status.attempt == 0 && refusal.is_some() => refusal.unwrap_or_default(),
        (Phase::Failed, _) => match decision {
            Decision::Fail { kind, message } => (false, kind.as_str(), message.as_str()),
            // A refused edit does not hide why the pods of the last good spec have failed.
            _ => (false, failure_kind, failure),
        },
        (_, Some(obstacle)) => (false, obstacle.reason, obstacle.message.as_str()),
        (Phase::Recovering, _) if observed.report.is_none() => {
            (false, "CoordinatorSilent", "the coordinator does not answer; the job goes on when it is back")
        }
        (Phase::Recovering, _) => (false, failure_kind, failure),
        (Phase::Suspending, _) if !checkpoint_failure.is_empty() => {
            (false, "CheckpointFailed", checkpoint_failure.as_str())
        }
        (Phase::Suspending, _) if observed.report.is_none() => (
            false,
            "CoordinatorSilent",
            "the coordinator does not answer; the job is suspended when it is back and all results of its last checkpoint are visible",
        ),
        (Phase::Suspending, _) if is_down => (false, failure_kind, failure),
        (Phase::Suspending, _) => (false, "Stopping", "a last checkpoint is being taken"),
        (Phase::Pending | Phase::Starting, _) => (false, "Starting", "the pods are being started"),
    };
    let progressing = match decision {
        Decision::RecordAttempt { .. } => (true, "NewAttempt", "new pods are made"),
        Decision::Stop { why: Why::Suspended, .. } => {
            (true, "Suspending", "a last checkpoint is being taken")
        }
        Decision::Stop { why: Why::SpecChanged, .. } => {
            (true, "SpecChanged", "a last checkpoint is taken, then new pods are made")
        }
        _ if matches!(status.phase, Phase::Starting | Phase::Recovering) => (true, ready.1, ready.2),
        _ => (false, "Settled", "nothing is being changed"),
    };
    let is_held_up =
        status.phase == Phase::Suspending && !["Stopping", "CheckpointFailed"].contains(&ready.1);
    let is_bad = fails_again || matches!(status.phase, Phase::Recovering | Phase::Failed);
    let degraded = if is_bad || is_held_up || obstacle.is_some() {
        (true, ready.1, ready.2)
    } else if !checkpoint_failure.is_empty() {
        (true, "CheckpointFailed", checkpoint_failure.as_str())
    } else {
        (false, "Healthy", "nothing is wrong")
    };
    let stalled = match decision {
        Decision::Fail { kind, message } => (true, kind.as_str(), message.as_str()),
        Decision::Refuse(refusal) => (true, refusal.reason, refusal.message.as_str()),
        _ => (false, "NotStalled", "nothing waits for you"),
    };
    let succeeded = match status.phase {
        Phase::Succeeded => (true, "Succeeded", "the bounded input has been processed"),
        _ => (false, "NotFinished", "the job has not ended"),
    };
    let all = [
        ("Ready", ready),
        ("Progressing", progressing),
        ("Degraded", degraded),
        ("Stalled", stalled),
        ("Succeeded", succeeded),
    ];
    let condition = |(kind, (holds, reason, message)): (&str, (bool, &str, &str))| {
        let status_text = if holds { "True" } else { "False" };
        let known = old.iter().find(|condition| condition.type_ == kind && condition.status == status_text);
        Condition {
            type_: kind.to_owned(),
            status: status_text.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(MESSAGE_MAX).collect(),
            observed_generation: Some(status.observed_generation),
            last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    };
    all.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::contract::ReportedCheckpoint;
    use millrace_crds::manifest;

    use crate::model::{Obstacle, Refusal};

    fn job() -> StreamJob {
        let yaml = "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a}, spec: {pipeline: {sql: x}}}";
        let mut job = manifest::read(yaml).unwrap();
        job.status = Some(StreamJobStatus { attempt: 1, ..Default::default() });
        job
    }

    fn seen(phase: ReportedPhase, epoch: u64, at_ms: u64) -> Observed {
        let last_checkpoint =
            Some(ReportedCheckpoint { epoch, completed_at_ms: at_ms, ..Default::default() });
        let report = Report { attempt: 1, phase, last_checkpoint, ..Default::default() };
        Observed { report: Some(report), ..Default::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn holds(status: &StreamJobStatus, kind: &str) -> (bool, String) {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status == "True", condition.reason.clone())
    }

    #[test]
    fn a_healthy_job_writes_its_checkpoint_once_a_minute() {
        let run = Decision::Run { attempt: 1 };
        let mut job = job();
        job.status = Some(compute(&job, &run, &seen(ReportedPhase::Running, 1, 1_000), "image:1", at(1)));

        let soon = compute(&job, &run, &seen(ReportedPhase::Running, 2, 11_000), "image:1", at(11));
        let later = compute(&job, &run, &seen(ReportedPhase::Running, 7, 61_000), "image:1", at(61));

        assert_eq!(Some(&soon), job.status.as_ref());
        assert_eq!(later.last_checkpoint.unwrap().epoch, 7);
    }

    #[test]
    fn conditions_say_what_is_and_since_when() {
        let run = Decision::Run { attempt: 1 };
        let mut job = job();
        let running = compute(&job, &run, &seen(ReportedPhase::Running, 1, 1_000), "image:1", at(1));
        assert_eq!(holds(&running, "Ready"), (true, "Running".to_owned()));
        job.status = Some(running.clone());

        let obstacle = Obstacle { reason: "PodsNotRunning", message: "0/2 nodes are available".to_owned() };
        let stuck = Observed { obstacle: Some(obstacle), ..seen(ReportedPhase::Recovering, 1, 1_000) };
        let recovering = compute(&job, &run, &stuck, "image:1", at(5));

        assert_eq!(holds(&recovering, "Ready"), (false, "PodsNotRunning".to_owned()));
        assert_eq!(recovering.conditions[0].message, "0/2 nodes are available");
        assert!(holds(&recovering, "Degraded").0);
        assert_eq!(recovering.conditions[0].last_transition_time.0, at(5));
        assert_eq!(recovering.conditions[3].last_transition_time.0, at(1), "Stalled has not changed");
        // The coordinator of a later release runs, and cannot be understood.
        let obstacle = Obstacle { reason: "ReportUnknown", message: "it reports in form 2".to_owned() };
        let unread = Observed { report: None, obstacle: Some(obstacle), ..stuck };
        let unread = compute(&job, &run, &unread, "image:1", at(5));
        assert_eq!(holds(&unread, "Ready"), (false, "ReportUnknown".to_owned()));
        assert_eq!(holds(&unread, "Degraded"), (true, "ReportUnknown".to_owned()));
        let failed = compute(
            &job,
            &Decision::Fail { kind: "InvalidData".to_owned(), message: "x".to_owned() },
            &seen(ReportedPhase::Failed, 1, 1_000),
            "image:1",
            at(6),
        );
        assert_eq!(holds(&failed, "Ready"), (false, "InvalidData".to_owned()));
        assert_eq!((failed.phase, holds(&failed, "Stalled").0), (Phase::Failed, true));
        assert_eq!(holds(&failed, "Degraded"), (true, "InvalidData".to_owned()));
    }

    #[test]
    fn a_refused_edit_of_a_suspended_job_leaves_it_suspended() {
        let refusal = Refusal { reason: "InvalidSql", message: "line 1".to_owned() };
        let mut job = job();
        job.status.as_mut().unwrap().phase = Phase::Suspended;

        let status = compute(&job, &Decision::Refuse(refusal), &Observed::default(), "image:1", at(1));

        assert_eq!(status.phase, Phase::Suspended);
        assert_eq!(holds(&status, "Ready"), (false, "InvalidSql".to_owned()));
        assert_eq!(holds(&status, "Stalled"), (true, "InvalidSql".to_owned()));
    }

    #[test]
    fn while_an_edit_is_refused_checkpoints_are_where_the_running_job_takes_them() {
        let refusal = Refusal { reason: "LocationChanged", message: "put it back".to_owned() };
        let mut job = job();
        job.spec.checkpoint.location = Some("s3://new".to_owned());
        let mut seen = seen(ReportedPhase::Running, 1, 1_000);
        let mut good = job.spec.clone();
        good.checkpoint.location = Some("s3://old".to_owned());
        seen.last_good = Some(good);

        let status = compute(&job, &Decision::Refuse(refusal), &seen, "image:1", at(1));

        assert_eq!(status.last_checkpoint.unwrap().location, "s3://old");
    }

    #[test]
    fn restarts_are_counted_beyond_the_end_of_a_coordinator() {
        let mut job = job();
        let mut restarts_at = |attempt: u64, generation: u64, reported: u32| {
            let mut seen = seen(ReportedPhase::Running, 1, 1_000);
            let before = job.status.clone().unwrap();
            if before.attempt != attempt {
                // The coordinator of the attempt that is over is still there.
                let report = seen.report.as_mut().unwrap();
                (report.attempt, report.generation) = (before.attempt, before.generation);
                report.restarts = before.reported_restarts.unwrap_or_default();
                let record = Decision::RecordAttempt { attempt, spec_hash: String::new() };
                job.status = Some(compute(&job, &record, &seen, "image:1", at(1)));
            }
            let report = seen.report.as_mut().unwrap();
            (report.attempt, report.generation, report.restarts) = (attempt, generation, reported);
            job.status = Some(compute(&job, &Decision::Run { attempt }, &seen, "image:1", at(1)));
            job.status.as_ref().unwrap().restarts
        };

        assert_eq!(restarts_at(1, 1, 0), 0);
        assert_eq!(restarts_at(1, 3, 2), 2, "two recoveries");
        assert_eq!(restarts_at(1, 3, 2), 2, "seen again");
        assert_eq!(restarts_at(1, 4, 0), 3, "another coordinator");
        assert_eq!(restarts_at(1, 5, 0), 4, "and another one");
        assert_eq!(restarts_at(2, 6, 0), 4, "a new attempt is none");
        assert_eq!(restarts_at(2, 6, 9), 13, "tries without a generation");
        assert_eq!(restarts_at(2, 7, 1), 15, "a coordinator that had to try twice");
        assert_eq!(restarts_at(5, 1, 0), 15, "a state elsewhere, after attempts that never led");
        assert_eq!(restarts_at(5, 2, 1), 16);
        assert_eq!(restarts_at(5, 3, 0), 17);
    }

    #[test]
    fn a_failure_that_comes_again_has_a_new_time() {
        let run = Decision::Run { attempt: 1 };
        let with_failure = |restarts: u32| {
            let mut seen = seen(ReportedPhase::Recovering, 1, 1_000);
            let report = seen.report.as_mut().unwrap();
            (report.restarts, report.last_failure) = (restarts, Some("no store".to_owned()));
            seen
        };
        let mut job = job();
        let mut failed_at = |restarts, second| {
            job.status = Some(compute(&job, &run, &with_failure(restarts), "image:1", at(second)));
            job.status.clone().unwrap().last_failure.unwrap().at
        };

        let first = failed_at(1, 1);
        assert_eq!(failed_at(1, 5), first, "the same failure, seen again");
        assert_eq!(failed_at(2, 9), Some(seconds(at(9))));
    }

    #[test]
    fn a_job_that_fails_again_and_again_is_not_well_until_a_checkpoint_is_complete() {
        let run = Decision::Run { attempt: 1 };
        let conditions = |failures: u32| {
            let mut seen = seen(ReportedPhase::Running, 1, 1_000);
            let report = seen.report.as_mut().unwrap();
            report.failures_since_checkpoint = failures;
            (report.last_failure, report.last_failure_kind) =
                (Some("no topic".to_owned()), Some("SinkUnavailable".to_owned()));
            let status = compute(&job(), &run, &seen, "image:1", at(1));
            (holds(&status, "Ready"), holds(&status, "Degraded"))
        };
        let well = ((true, "Running".to_owned()), (false, "Healthy".to_owned()));
        let failing = ((false, "SinkUnavailable".to_owned()), (true, "SinkUnavailable".to_owned()));

        for (failures, expected) in [(0, &well), (1, &well), (2, &failing), (9, &failing)] {
            assert_eq!(conditions(failures), *expected, "{failures}");
        }
    }

    #[test]
    fn a_job_that_cannot_be_suspended_yet_says_why() {
        let stop = Decision::Stop { attempt: 1, why: Why::Suspended };
        let ready = |seen: &Observed| {
            let status = compute(&job(), &stop, seen, "image:1", at(1));
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").cloned();
            ready.map(|ready| (ready.reason, ready.message)).unwrap()
        };
        let mut seen = seen(ReportedPhase::Recovering, 1, 1_000);
        let report = seen.report.as_mut().unwrap();
        (report.last_failure, report.last_failure_kind) =
            (Some("no broker".to_owned()), Some("SinkUnavailable".to_owned()));

        assert_eq!(ready(&seen), ("SinkUnavailable".to_owned(), "no broker".to_owned()));
        seen.report.as_mut().unwrap().phase = ReportedPhase::Failed;
        assert_eq!(ready(&seen), ("SinkUnavailable".to_owned(), "no broker".to_owned()), "tried again");
        seen.report = None;
        assert_eq!(ready(&seen).0, "CoordinatorSilent");
    }

    #[test]
    fn a_checkpoint_that_fails_is_told_while_the_job_runs_and_while_it_is_to_stop() {
        let mut seen = seen(ReportedPhase::Running, 1, 1_000);
        seen.report.as_mut().unwrap().last_checkpoint_failure = Some("no room".to_owned());

        let running = compute(&job(), &Decision::Run { attempt: 1 }, &seen, "image:1", at(1));
        let stopping =
            compute(&job(), &Decision::Stop { attempt: 1, why: Why::Suspended }, &seen, "image:1", at(1));

        assert_eq!(holds(&running, "Ready"), (true, "Running".to_owned()));
        assert_eq!(holds(&running, "Degraded"), (true, "CheckpointFailed".to_owned()));
        assert_eq!(holds(&stopping, "Ready"), (false, "CheckpointFailed".to_owned()));
        assert!(stopping.conditions[0].message.contains("no room. The job runs on"), "{stopping:?}");
    }
}
