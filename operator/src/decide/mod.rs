//! What to do, from what is wanted and what is seen. Total and deterministic: no client, no clock.

pub mod deletion;
pub mod lease;

use millrace_crds::StreamJob;
use millrace_crds::contract::{Report, ReportedPhase};
use millrace_crds::v1alpha1::{OnDelete, Phase, StreamJobSpec, UpgradeSpec};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Observed, Refusal};

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Record this attempt in status, then look again: it is acted on only once it is recorded.
    RecordAttempt { attempt: u64, spec_hash: String },
    /// Ask the coordinator for a last checkpoint; the pods run on until it is taken.
    Stop { attempt: u64, why: Why },
    /// Keep the pods of this attempt.
    Run { attempt: u64 },
    /// Keep no pods: suspended.
    Suspend,
    /// Keep no workers: the job is done. Its coordinator stays to be read for a while.
    Finish { keeps_coordinator: bool },
    /// The job has failed and waits for the user; its coordinator stays to be read.
    Fail { kind: String, message: String },
    /// The spec cannot be acted on and waits for the user; what runs, runs on.
    Refuse(Refusal),
}

/// Why a running attempt is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Suspended,
    SpecChanged,
}

/// Hash of the user's spec, without what does not concern the pods' work. It does not depend on fields that the user does not use,
/// so that a release which adds some restarts no job.
pub fn spec_hash(job: &StreamJob) -> String {
    hash_of_spec(&job.spec)
}

fn hash_of_spec(spec: &StreamJobSpec) -> String {
    let mut spec = StreamJobSpec { suspend: false, upgrade: UpgradeSpec::default(), ..spec.clone() };
    spec.checkpoint.on_delete = OnDelete::default();
    // Writing plain data to memory cannot fail.
    let text = spec.without_defaults().map(|spec| spec.to_string()).unwrap_or_default();
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// The job with a place for its state: what it says itself, or where its state is, or the controller's default. What it says of edits
/// is for the next attempt, and that of the present one stays in its pods.
pub fn placed(job: &StreamJob, default: Option<&str>) -> StreamJob {
    let pinned = job.status.as_ref().map(|status| status.upgrade.clone()).filter(|_| !is_changed(job));
    let known = job.status.as_ref().map(|status| status.checkpoint_location.as_str());
    let mut job = job.clone();
    let location = job.spec.checkpoint.location.take().filter(|location| !location.is_empty());
    let known = known.filter(|location| !location.is_empty());
    job.spec.checkpoint.location = location.or_else(|| known.or(default).map(str::to_owned));
    job.spec.upgrade = pinned.unwrap_or(job.spec.upgrade);
    job
}

/// The spec that the newest attempt was made for, with its place, if it is among these.
pub fn last_good(job: &StreamJob, specs: impl IntoIterator<Item = StreamJobSpec>) -> Option<StreamJobSpec> {
    let status = job.status.as_ref()?;
    // The user may have left the place to the controller.
    let without_place = |spec: &StreamJobSpec| {
        let mut spec = spec.clone();
        let location = spec.checkpoint.location.take();
        location.filter(|location| *location == status.checkpoint_location).map(|_| hash_of_spec(&spec))
    };
    specs.into_iter().find(|spec| {
        hash_of_spec(spec) == status.spec_hash || without_place(spec).as_ref() == Some(&status.spec_hash)
    })
}

/// True if the spec is not the one that the newest attempt was made for.
pub fn is_changed(job: &StreamJob) -> bool {
    job.status.as_ref().is_none_or(|status| status.attempt == 0 || status.spec_hash != spec_hash(job))
}

/// Decides on one job.
pub fn decide(job: &StreamJob, observed: &Observed) -> Decision {
    let status = job.status.clone().unwrap_or_default();
    let report = observed.report.as_ref().filter(|report| report.attempt == status.attempt);
    let phase = report.map(|report| report.phase);
    // Without its text nobody knows whether it was edited.
    let has_text = job.spec.pipeline.sql_from.is_none();
    if status.phase == Phase::Succeeded && is_changed(job) && has_text {
        return Decision::Refuse(Refusal {
            reason: "JobFinished",
            message: "spec: the job has processed its bounded input, and an edit changes nothing; give the new spec another name \
                      to process it again"
                .to_owned(),
        });
    }
    if phase == Some(ReportedPhase::Succeeded) || status.phase == Phase::Succeeded {
        return Decision::Finish { keeps_coordinator: !observed.is_old };
    }
    let has_attempt = status.attempt > 0;
    // Only a running job has a last checkpoint to take, and only one that has state needs it: any other goes on from its newest
    // checkpoint, if there is one, and nobody could answer when that is done.
    let has_state =
        status.last_checkpoint.is_some() || report.is_some_and(|report| report.last_checkpoint.is_some());
    let is_led = observed.coordinator_attempt == Some(status.attempt);
    // A coordinator that is well and has not answered just now is asked again; of one that is not, nobody knows when it will be.
    let may_run = match phase {
        None => observed.is_coordinator_ready,
        phase => phase == Some(ReportedPhase::Running),
    };
    let is_stopped = !may_run || !has_state || !is_led || observed.worker_attempts.is_empty();
    if job.spec.suspend {
        // Whoever takes the job's place commits what a checkpoint has left to be done, and of a suspended one nobody does: its
        // coordinator must have said that it has stopped, also if it has to come up for that.
        let is_at_rest = match phase {
            Some(ReportedPhase::Suspended) => true,
            Some(ReportedPhase::Failed) => !report.is_some_and(|report| report.tries_again),
            _ => false,
        };
        let attempt = status.attempt;
        return match is_at_rest || !has_state || !has_attempt || status.phase == Phase::Suspended {
            true => Decision::Suspend,
            false if is_led && !observed.worker_attempts.is_empty() => {
                Decision::Stop { attempt, why: Why::Suspended }
            }
            // It has just taken an earlier one's place, and has first to come up.
            false => Decision::Run { attempt },
        };
    }
    if is_changed(job) {
        if let Some(refusal) = &observed.refusal {
            return Decision::Refuse(refusal.clone());
        }
        return match is_stopped {
            true => Decision::RecordAttempt { attempt: status.attempt + 1, spec_hash: spec_hash(job) },
            false => Decision::Stop { attempt: status.attempt, why: Why::SpecChanged },
        };
    }
    // It was suspended and is to go on: the stopped processes are replaced by a new set.
    if status.phase == Phase::Suspended || phase == Some(ReportedPhase::Suspended) {
        return Decision::RecordAttempt { attempt: status.attempt + 1, spec_hash: spec_hash(job) };
    }
    // It was told what may become of its state, after it could not go on from it.
    let misfits = |report: &Report| {
        report.phase == ReportedPhase::Failed && report.last_failure_kind.as_deref() == Some("PlanChanged")
    };
    if report.is_some_and(misfits) && job.spec.upgrade != status.upgrade {
        return Decision::RecordAttempt { attempt: status.attempt + 1, spec_hash: spec_hash(job) };
    }
    match report {
        Some(report) if report.phase == ReportedPhase::Failed => {
            let message = report.last_failure.clone().unwrap_or_else(|| "the job has failed".to_owned());
            Decision::Fail {
                kind: report.last_failure_kind.clone().unwrap_or_else(|| "Failed".to_owned()),
                message,
            }
        }
        _ => Decision::Run { attempt: status.attempt },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::manifest;
    use millrace_crds::v1alpha1::{StreamJobStatus, UpgradeMode};

    fn job(suspend: bool, parallelism: u32) -> StreamJob {
        manifest::read(&format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {{name: a}}, \
             spec: {{pipeline: {{sql: x}}, suspend: {suspend}, parallelism: {parallelism}}}}}"
        ))
        .unwrap()
    }

    fn with_status(mut job: StreamJob, attempt: u64, of: &StreamJob) -> StreamJob {
        job.status = Some(StreamJobStatus { attempt, spec_hash: spec_hash(of), ..Default::default() });
        job
    }

    fn without_checkpoint(mut observed: Observed) -> Observed {
        observed.report.get_or_insert_default().last_checkpoint = None;
        observed
    }

    fn trying_again(mut observed: Observed) -> Observed {
        observed.report.get_or_insert_default().tries_again = true;
        observed
    }

    fn with_checkpoint(mut job: StreamJob) -> StreamJob {
        job.status.get_or_insert_default().last_checkpoint = Some(Default::default());
        job
    }

    fn with_phase(mut job: StreamJob, phase: Phase) -> StreamJob {
        job.status.get_or_insert_default().phase = phase;
        job
    }

    fn seen(attempt: u64, phase: ReportedPhase, workers: &[u64]) -> Observed {
        let last_checkpoint = Some(Default::default());
        let report = Report { attempt, phase, last_checkpoint, ..Default::default() };
        Observed {
            report: Some(report),
            worker_attempts: workers.to_vec(),
            coordinator_attempt: Some(attempt),
            ..Default::default()
        }
    }

    #[test]
    fn hashes_are_those_of_every_release() {
        let text = |spec: &str| {
            format!(
                "{{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {{name: a}}, spec: {spec}}}"
            )
        };
        let hash = |spec: &str| spec_hash(&manifest::read(&text(spec)).unwrap());

        // A job whose hash changes with a release is restarted by it: these stay as they are for ever.
        assert_eq!(hash("{pipeline: {sql: x}}"), "bddf8fbb67ae5f66");
        let full = "{pipeline: {sql: x}, parallelism: 4, checkpoint: {location: 's3://a/b', interval: 1s}, workers: {slots: 3}}";
        assert_eq!(hash(full), "07a2b2bc598b3f22");
        // What is for later edits restarts nothing.
        for more in [
            "suspend: true",
            "upgrade: {mode: Stateless, allowNonRestoredState: true}",
            "checkpoint: {onDelete: Delete}",
        ] {
            assert_eq!(hash(&format!("{{pipeline: {{sql: x}}, {more}}}")), "bddf8fbb67ae5f66", "{more}");
        }
        // And what restarts it is another.
        for more in ["restartNonce: 1", "image: 'm:2'", "workers: {podTemplate: {spec: {}}}"] {
            assert_ne!(hash(&format!("{{pipeline: {{sql: x}}, {more}}}")), "bddf8fbb67ae5f66", "{more}");
        }
    }

    #[test]
    fn the_last_good_spec_is_found_among_all() {
        let (old, new) = (job(false, 2), job(false, 4));
        let edited = with_status(new.clone(), 1, &old);

        assert_eq!(last_good(&edited, [new.spec.clone(), old.spec.clone()]), Some(old.spec));
        assert_eq!(last_good(&edited, [new.spec.clone()]), None);
        assert_eq!(last_good(&job(false, 2), [new.spec]), None);
    }

    #[test]
    fn a_job_without_a_place_gets_the_default_and_stays_there() {
        let (own, new) = (Some("s3://own".to_owned()), job(false, 2));
        let at = |job: &StreamJob, default| placed(job, default).spec.checkpoint.location;
        assert_eq!(at(&new, None), None);
        assert_eq!(at(&new, Some("s3://a")), Some("s3://a".to_owned()));
        let mut known = with_status(new.clone(), 1, &new);
        known.status.as_mut().unwrap().checkpoint_location = "s3://a".to_owned();
        assert_eq!(at(&known, Some("s3://b")), Some("s3://a".to_owned()), "another default moves nothing");
        assert!(!is_changed(&known), "and is no change");
        let spec = placed(&known, Some("s3://b")).spec;
        assert_eq!(last_good(&known, [spec.clone()]), Some(spec), "with the place that it was made with");
        known.spec.checkpoint.location = own.clone();
        assert_eq!(at(&known, Some("s3://b")), own);
    }

    #[test]
    fn a_job_whose_state_does_not_fit_tries_again_once_it_is_told_what_may_become_of_it() {
        let old = job(false, 2);
        let mut told = with_status(job(false, 2), 1, &old);
        told.spec.upgrade.allow_non_restored_state = true;
        let failed = |kind: &str| {
            let mut seen = seen(1, ReportedPhase::Failed, &[1]);
            seen.report.get_or_insert_default().last_failure_kind = Some(kind.to_owned());
            seen
        };
        let spec_hash = spec_hash(&old);
        assert_eq!(decide(&told, &failed("PlanChanged")), Decision::RecordAttempt { attempt: 2, spec_hash });
        assert!(matches!(decide(&told, &failed("InvalidData")), Decision::Fail { .. }));
        told.spec.upgrade = UpgradeSpec::default();
        assert!(matches!(decide(&told, &failed("PlanChanged")), Decision::Fail { .. }));
    }

    #[test]
    fn what_a_spec_says_of_edits_is_for_the_next_attempt() {
        let old = job(false, 2);
        let stateless = UpgradeSpec { mode: UpgradeMode::Stateless, ..UpgradeSpec::default() };
        for (parallelism, expected) in [(2, UpgradeMode::LastState), (4, UpgradeMode::Stateless)] {
            let mut edited = with_status(job(false, parallelism), 1, &old);
            edited.spec.upgrade = stateless.clone();
            assert_eq!(placed(&edited, None).spec.upgrade.mode, expected, "parallelism {parallelism}");
        }
    }

    #[test]
    fn every_sentence_about_a_jobs_life_holds() {
        let old = job(false, 2);
        let hash = spec_hash(&old);
        let record =
            |attempt: u64, of: &StreamJob| Decision::RecordAttempt { attempt, spec_hash: spec_hash(of) };
        let refusal = Refusal { reason: "InvalidSql", message: "line 1".to_owned() };
        let cases: Vec<(&str, StreamJob, Observed, Decision)> = vec![
            ("a new job gets attempt 1", old.clone(), Observed::default(), record(1, &old)),
            (
                "a recorded attempt is run",
                with_status(old.clone(), 1, &old),
                Observed::default(),
                Decision::Run { attempt: 1 },
            ),
            (
                "a running job runs on",
                with_status(old.clone(), 1, &old),
                seen(1, ReportedPhase::Running, &[1]),
                Decision::Run { attempt: 1 },
            ),
            (
                "a silent coordinator changes nothing",
                with_status(old.clone(), 3, &old),
                Observed { worker_attempts: vec![3], ..Default::default() },
                Decision::Run { attempt: 3 },
            ),
            (
                "the report of an older attempt changes nothing",
                with_status(old.clone(), 2, &old),
                seen(1, ReportedPhase::Failed, &[2]),
                Decision::Run { attempt: 2 },
            ),
            (
                "suspend stops the running attempt first",
                with_status(job(true, 2), 1, &old),
                seen(1, ReportedPhase::Running, &[1]),
                Decision::Stop { attempt: 1, why: Why::Suspended },
            ),
            (
                "a stopped job is suspended",
                with_status(job(true, 2), 1, &old),
                seen(1, ReportedPhase::Suspended, &[1]),
                Decision::Suspend,
            ),
            (
                "a job that never ran is suspended at once",
                job(true, 2),
                Observed::default(),
                Decision::Suspend,
            ),
            (
                "resuming makes a new attempt",
                with_status(old.clone(), 1, &old),
                seen(1, ReportedPhase::Suspended, &[1]),
                record(2, &old),
            ),
            (
                "another parallelism stops the running attempt first",
                with_status(job(false, 4), 1, &old),
                seen(1, ReportedPhase::Running, &[1]),
                Decision::Stop { attempt: 1, why: Why::SpecChanged },
            ),
            (
                "then it gets a new attempt",
                with_status(job(false, 4), 1, &old),
                seen(1, ReportedPhase::Suspended, &[1]),
                record(2, &job(false, 4)),
            ),
            (
                "a failed job waits for the user",
                with_status(old.clone(), 1, &old),
                seen(1, ReportedPhase::Failed, &[1]),
                Decision::Fail { kind: "Failed".to_owned(), message: "the job has failed".to_owned() },
            ),
            (
                "a changed spec restarts a failed job",
                with_status(job(false, 4), 1, &old),
                seen(1, ReportedPhase::Failed, &[1]),
                record(2, &job(false, 4)),
            ),
            (
                "resuming makes a new attempt when the pods are gone as well",
                with_phase(with_status(old.clone(), 1, &old), Phase::Suspended),
                Observed::default(),
                record(2, &old),
            ),
            (
                "another change while the pods are being replaced waits for nobody",
                with_status(job(false, 4), 2, &old),
                Observed { worker_attempts: vec![2], ..Default::default() },
                record(3, &job(false, 4)),
            ),
            (
                "a running job whose coordinator has not answered once is stopped before it is suspended",
                with_checkpoint(with_status(job(true, 2), 1, &old)),
                Observed {
                    report: None,
                    is_coordinator_ready: true,
                    ..seen(1, ReportedPhase::Running, &[1])
                },
                Decision::Stop { attempt: 1, why: Why::Suspended },
            ),
            (
                "a job whose coordinator is away is not suspended before it is back: a checkpoint may be complete and not committed",
                with_checkpoint(with_status(job(true, 2), 1, &old)),
                Observed { report: None, ..seen(1, ReportedPhase::Running, &[1]) },
                Decision::Stop { attempt: 1, why: Why::Suspended },
            ),
            (
                "nor one that recovers",
                with_checkpoint(with_status(job(true, 2), 1, &old)),
                seen(1, ReportedPhase::Recovering, &[1]),
                Decision::Stop { attempt: 1, why: Why::Suspended },
            ),
            (
                "a job whose coordinator is away is replaced at once: the next one commits",
                with_checkpoint(with_status(job(false, 4), 1, &old)),
                Observed { report: None, ..seen(1, ReportedPhase::Running, &[1]) },
                record(2, &job(false, 4)),
            ),
            (
                "a job that has no coordinator is replaced at once",
                with_status(job(false, 4), 1, &old),
                Observed { coordinator_attempt: None, ..seen(1, ReportedPhase::Running, &[1]) },
                record(2, &job(false, 4)),
            ),
            (
                "a job without a checkpoint is replaced at once",
                with_status(job(false, 4), 1, &old),
                without_checkpoint(seen(1, ReportedPhase::Running, &[1])),
                record(2, &job(false, 4)),
            ),
            (
                "a job that is recovering is replaced at once",
                with_status(job(false, 4), 1, &old),
                seen(1, ReportedPhase::Recovering, &[1]),
                record(2, &job(false, 4)),
            ),
            (
                "a job that does not come up is suspended at once",
                with_status(job(true, 2), 1, &old),
                without_checkpoint(seen(1, ReportedPhase::Starting, &[1])),
                Decision::Suspend,
            ),
            (
                "a job whose attempt is being replaced is not suspended before the new one has come up: it commits for the old one",
                with_checkpoint(with_status(job(true, 2), 2, &old)),
                Observed { worker_attempts: vec![1], coordinator_attempt: Some(1), ..Default::default() },
                Decision::Run { attempt: 2 },
            ),
            (
                "a suspended job stays suspended",
                with_phase(with_checkpoint(with_status(job(true, 2), 2, &old)), Phase::Suspended),
                Observed { worker_attempts: vec![2], coordinator_attempt: Some(2), ..Default::default() },
                Decision::Suspend,
            ),
            (
                "a failed job whose coordinator has ended its work is suspended at once",
                with_status(job(true, 2), 1, &old),
                seen(1, ReportedPhase::Failed, &[1]),
                Decision::Suspend,
            ),
            (
                "a failed job that is tried again is stopped first: a checkpoint may be complete and not committed",
                with_status(job(true, 2), 1, &old),
                trying_again(seen(1, ReportedPhase::Failed, &[1])),
                Decision::Stop { attempt: 1, why: Why::Suspended },
            ),
            (
                "and gets a new attempt at once when its spec is changed: the next one commits",
                with_status(job(false, 4), 1, &old),
                trying_again(seen(1, ReportedPhase::Failed, &[1])),
                record(2, &job(false, 4)),
            ),
            (
                "a spec that cannot work gets no attempt",
                old.clone(),
                Observed { refusal: Some(refusal.clone()), ..Default::default() },
                Decision::Refuse(refusal.clone()),
            ),
            (
                "a changed spec that cannot work leaves the running attempt alone",
                with_status(job(false, 4), 1, &old),
                Observed { refusal: Some(refusal.clone()), ..seen(1, ReportedPhase::Running, &[1]) },
                Decision::Refuse(refusal.clone()),
            ),
            (
                "a bounded job finishes",
                with_status(old.clone(), 1, &old),
                seen(1, ReportedPhase::Succeeded, &[1]),
                Decision::Finish { keeps_coordinator: true },
            ),
        ];
        for (sentence, job, observed, expected) in cases {
            assert_eq!(decide(&job, &observed), expected, "{sentence}");
            assert_eq!(decide(&job, &observed), expected, "{sentence}, again");
        }
        let mut finished = with_status(old.clone(), 1, &old);
        finished.status.as_mut().unwrap().phase = Phase::Succeeded;
        for is_old in [false, true] {
            let expected = Decision::Finish { keeps_coordinator: !is_old };
            assert_eq!(
                decide(&finished, &Observed { is_old, ..Default::default() }),
                expected,
                "it stays finished"
            );
        }
        finished.spec.parallelism = 7;
        let edited = decide(&finished, &Observed::default());
        assert!(matches!(edited, Decision::Refuse(Refusal { reason: "JobFinished", .. })), "{edited:?}");
        assert_eq!(spec_hash(&job(true, 2)), hash, "suspending is no change of the work");
        assert_ne!(spec_hash(&job(false, 3)), hash);
    }
}
