//! One job from what is wanted to what is: the only place that knows the order of the steps.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};
use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::{Phase, StreamJobStatus};
use regex::Regex;
use snafu::{ResultExt, Snafu};
use tracing::{info, warn};

use crate::apply::{self, FIELD_MANAGER, apply};
use crate::context::Context;
use crate::decide::deletion::Farewell;
use crate::decide::{Decision, decide};
use crate::model::{Desired, Observed};
use crate::{decide, deletion, desired, names, observe, pipeline, status};

/// When to look again at a job that is on its way; a settled one is looked at when something changes.
const SOON: Duration = Duration::from_secs(5);

/// When to look again at a job that is being deleted.
const PARTING: Duration = Duration::from_secs(1);

/// The API server takes no event with a longer note; it counts bytes.
const NOTE_MAX: usize = 1_000;

/// A step failed.
#[derive(Debug, Snafu)]
pub enum ReconcileError {
    #[snafu(display("failed to observe the job"))]
    Observe { source: kube::Error },
    #[snafu(display("failed to write the job's status"))]
    Status { source: kube::Error },
    #[snafu(display("failed to apply the job's objects"))]
    Apply { source: kube::Error },
    #[snafu(display("failed to set what the job's deletion waits for"))]
    Hold { source: kube::Error },
    #[snafu(display("failed to remove the state of the deleted job"))]
    Part { source: kube::Error },
}

/// Reconciles one job.
pub async fn reconcile(job: Arc<StreamJob>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let _timer = context.metrics.duration.start_timer();
    context.metrics.reconciles.inc();
    let (namespace, name) = (names::namespace(&job), names::job(&job));
    if job.meta().deletion_timestamp.is_some() {
        context.reports.forget(namespace, name);
        return part(&job, &context).await;
    }
    deletion::hold(&job, &context).await.context(HoldSnafu)?;
    let (wanted, missing) = pipeline::resolved(&job, &context.client).await.context(ObserveSnafu)?;
    let mut observed = observe::observe(&wanted, missing, &context, now()).await.context(ObserveSnafu)?;
    observed.refusal = observed.refusal.map(|refusal| pipeline::of_place(refusal, &job));
    let job = wanted;
    let decision = decide(&job, &observed);
    let mut placed = decide::placed(&job, context.settings.checkpoint_location.as_deref());
    if let Decision::RecordAttempt { .. } = &decision {
        placed.spec.upgrade = job.spec.upgrade.clone();
    }
    let new = status::compute(&placed, &decision, &observed, &context.settings.image, now());
    if let Decision::RecordAttempt { .. } = &decision {
        // An edit may be refused before the attempt has pods: they are made from this then.
        match apply::keep_config(&job, &desired::config(&placed), &context.client).await {
            Err(error) if is_terminating(&error) => return Ok(Action::await_change()),
            kept => kept.context(ApplySnafu)?,
        }
    }
    // Recorded before it is acted on: an attempt that was made is never forgotten.
    write_status(&job, &new, &context).await?;
    match &decision {
        // The change of the status causes the next reconcile, which acts on it.
        Decision::RecordAttempt { .. } => {}
        Decision::Refuse(_) => {
            // What runs, runs on, and is put back like that of any other job.
            if let Some(desired) = last_good(&job, &new, &observed, &context) {
                match apply(&job, &desired, &context.client).await {
                    Err(error) if is_terminating(&error) => return Ok(Action::await_change()),
                    applied => applied.context(ApplySnafu)?,
                }
            }
        }
        Decision::Stop { .. } => {
            if let Err(error) = context.reports.stop(namespace, name).await {
                warn!(%namespace, job = %name, %error, "failed to ask the coordinator to stop");
            }
        }
        _ => {
            // The wish to stop was taken back before the last checkpoint was complete.
            let was_stopping = job.status.as_ref().is_some_and(|status| status.phase == Phase::Suspending);
            if was_stopping
                && let Decision::Run { .. } | Decision::Fail { .. } = decision
                && let Err(error) = context.reports.go_on(namespace, name).await
            {
                warn!(%namespace, job = %name, %error, "failed to tell the coordinator to go on");
            }
            let made_for = match (&decision, &observed.last_good) {
                // An edit came before the attempt was up: it is for the next one.
                (Decision::Run { .. } | Decision::Finish { .. } | Decision::Fail { .. }, Some(spec))
                    if decide::is_changed(&job) =>
                {
                    &StreamJob { spec: spec.clone(), ..placed.clone() }
                }
                _ => &placed,
            };
            let desired = objects(made_for, &decision, &context);
            match apply(&job, &desired, &context.client).await {
                // Nothing can be made there any more, and the job goes with it.
                Err(error) if is_terminating(&error) => return Ok(Action::await_change()),
                applied => applied.context(ApplySnafu)?,
            }
        }
    }
    let is_settled =
        matches!(new.phase, Phase::Running | Phase::Suspended | Phase::Succeeded | Phase::Failed);
    Ok(match decision {
        Decision::Finish { keeps_coordinator: true } => Action::requeue(context.settings.keeps_finished),
        _ if is_settled => Action::await_change(),
        _ => Action::requeue(SOON),
    })
}

/// The end of a deleted job.
async fn part(job: &StreamJob, context: &Context) -> Result<Action, ReconcileError> {
    if !deletion::is_held(job) {
        return Ok(Action::await_change());
    }
    let mut placed = decide::placed(job, context.settings.checkpoint_location.as_deref());
    if let Some(status) = job.status.as_ref().filter(|status| !status.checkpoint_location.is_empty()) {
        // Where its attempts were, whatever an edit that was refused says.
        placed.spec.checkpoint.location = Some(status.checkpoint_location.clone());
    }
    let location = placed.spec.checkpoint.location.clone().unwrap_or_default();
    let (namespace, name) = (names::namespace(job), names::job(job));
    let place = format!("{}/{namespace}/{name}", location.trim_end_matches('/'));
    let step = deletion::part(&placed, context, now()).await.context(PartSnafu)?;
    let is_over = matches!(step, Farewell::LetGo | Farewell::GiveUp { .. });
    let (type_, reason, note) = match step {
        Farewell::Wait | Farewell::RemovePods => return Ok(Action::requeue(PARTING)),
        Farewell::LetGo if !decide::deletion::is_wanted(job) => return Ok(Action::await_change()),
        Farewell::Clean => {
            let note = format!("a pod removes the state in {place}; the job goes once that is done");
            (EventType::Normal, "DeletingState", note)
        }
        Farewell::LetGo => {
            let note = format!("the state in {place} was removed with the job, but for its savepoints");
            (EventType::Normal, "StateDeleted", note)
        }
        Farewell::GiveUp { why } => {
            let note = format!("the state in {place} is still there, remove it by hand: {why}");
            (EventType::Warning, "StateNotDeleted", note)
        }
    };
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(short(note)),
        action: "Delete".to_owned(),
        secondary: None,
    };
    info!(%namespace, job = %name, reason = event.reason, "{}", event.note.as_deref().unwrap_or_default());
    publish(job, event, context).await;
    Ok(if is_over { Action::await_change() } else { Action::requeue(PARTING) })
}

/// The objects of the last good spec, while an edit is refused; none of a job that does not run.
fn last_good(
    job: &StreamJob,
    status: &StreamJobStatus,
    observed: &Observed,
    context: &Context,
) -> Option<Desired> {
    let is_running = matches!(
        status.phase,
        Phase::Pending | Phase::Starting | Phase::Running | Phase::Recovering | Phase::Suspending
    );
    let spec = observed.last_good.clone().filter(|_| is_running && status.attempt > 0)?;
    let good = StreamJob { spec, ..job.clone() };
    Some(desired::running(&good, status.attempt, &context.settings))
}

fn objects(job: &StreamJob, decision: &Decision, context: &Context) -> Desired {
    let attempt = job.status.as_ref().map_or(0, |status| status.attempt);
    match decision {
        Decision::Run { attempt } => desired::running(job, *attempt, &context.settings),
        // Its coordinator looks again and again whether the cause was mended, and needs workers then.
        Decision::Fail { .. } if job.spec.restart.is_endless() => {
            desired::running(job, attempt, &context.settings)
        }
        Decision::Finish { keeps_coordinator: true } | Decision::Fail { .. } => {
            desired::ended(job, attempt, &context.settings)
        }
        Decision::Finish { keeps_coordinator: false } | Decision::Suspend => {
            Desired { keeps_config: true, ..Default::default() }
        }
        Decision::RecordAttempt { .. } | Decision::Stop { .. } | Decision::Refuse(_) => Desired::default(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: times go into the pure steps as values")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or_default()
}

async fn write_status(
    job: &StreamJob,
    new: &StreamJobStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if job.status.as_ref() == Some(new) {
        return Ok(());
    }
    let patch = serde_json::json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "StreamJob",
        "status": new,
    });
    let api = Api::<StreamJob>::namespaced(context.client.clone(), names::namespace(job));
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&job.name_any(), &parameters, &Patch::Apply(&patch)).await.context(StatusSnafu)?;
    tell(job, new, context).await;
    Ok(())
}

/// True if the API server has refused an object because its namespace is being deleted.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What is told on a transition: reason, note, and whether it is a warning. Pure.
fn news(old: &StreamJobStatus, new: &StreamJobStatus) -> Vec<(String, String, bool)> {
    let find = |status: &StreamJobStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
    };
    let mut news = Vec::new();
    let is_bad = matches!(new.phase, Phase::Failed | Phase::Recovering);
    let said = |status: &StreamJobStatus| find(status, "Ready").map(|ready| ready.message);
    // What is wrong may become something else while the phase stays: a missing Secret a wrong one.
    let is_other = |before: Option<String>, now: Option<String>| match new.phase {
        // What is wrong with a spec is at a line and a column.
        Phase::Failed => before != now,
        _ => before.as_deref().map(cause) != now.as_deref().map(cause),
    };
    let is_transition =
        old.phase != new.phase || old.attempt != new.attempt || is_bad && is_other(said(old), said(new));
    if is_transition {
        let message = find(new, "Ready").map_or(String::new(), |ready| ready.message);
        let reason =
            find(new, "Ready").filter(|_| is_bad).map_or(format!("{:?}", new.phase), |ready| ready.reason);
        news.push((reason, format!("attempt {}: {message}", new.attempt), is_bad));
    }
    // Something may be wrong in any phase.
    if let Some(degraded) = find(new, "Degraded").filter(|degraded| degraded.status == "True")
        && !(is_transition && is_bad)
        && find(old, "Degraded").is_none_or(|before| cause(&before.message) != cause(&degraded.message))
    {
        news.push((degraded.reason, degraded.message, true));
    }
    // An edit that is refused while the job runs on changes no phase.
    if let Some(stalled) = find(new, "Stalled").filter(|stalled| stalled.status == "True")
        && new.phase != Phase::Failed
        && find(old, "Stalled").is_none_or(|before| before.message != stalled.message)
    {
        news.push((stalled.reason, stalled.message, true));
    }
    news
}

/// What counts on in a message while one cause lasts: numbers in keys, ids of uploads and parts, times, and who leads or works.
static COUNTS: LazyLock<Regex> = LazyLock::new(|| {
    let uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
    let of_run = r"(epoch|generation|attempt|worker) [0-9]+";
    Regex::new(&format!(r"[0-9]{{20}}|{uuid}|part-[0-9a-f]{{8}}-\S+|[0-9.]+(ns|µs|us|ms|s)\b|{of_run}"))
        .expect("the pattern is well formed")
});

/// A message without that. Names stay: another topic is another cause.
fn cause(message: &str) -> Cow<'_, str> {
    COUNTS.replace_all(message, "")
}

/// Publishes events on transitions.
async fn tell(job: &StreamJob, new: &StreamJobStatus, context: &Context) {
    let old = job.status.clone().unwrap_or_default();
    for (reason, note, is_warning) in news(&old, new) {
        let note = short(note);
        info!(namespace = names::namespace(job), job = names::job(job), phase = ?new.phase, reason, "{note}");
        let event = Event {
            type_: if is_warning { EventType::Warning } else { EventType::Normal },
            reason,
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        publish(job, event, context).await;
    }
}

fn short(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(NOTE_MAX));
    note
}

async fn publish(job: &StreamJob, event: Event, context: &Context) {
    // One recorder an event: it would count events of one reason under the text of the first.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    if let Err(error) = recorder.publish(&event, &job.object_ref(&())).await {
        warn!(%error, "failed to publish an event");
    }
}

/// What follows a failed reconcile: another try, soon.
pub fn on_error(job: Arc<StreamJob>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.errors.inc();
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    warn!(namespace = names::namespace(&job), job = names::job(&job), %error, %cause, "reconcile failed");
    Action::requeue(SOON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    fn status(phase: Phase, stalled: Option<&str>) -> StreamJobStatus {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::default()),
        };
        let why = stalled.unwrap_or_default().to_owned();
        let stalled = stalled.map_or_else(
            || condition("Stalled", "False", "NotStalled", "nothing waits for you"),
            |message| condition("Stalled", "True", "PlanChanged", message),
        );
        let ready = match phase {
            Phase::Recovering => condition("Ready", "False", "WorkerLost", "lost worker 1"),
            Phase::Failed => condition("Ready", "False", "InvalidSql", &why),
            _ => condition("Ready", "True", "Running", "all subtasks run"),
        };
        let conditions = vec![ready, stalled];
        StreamJobStatus { phase, attempt: 1, conditions, ..Default::default() }
    }

    #[test]
    fn transitions_and_refused_edits_are_told_once() {
        let cases = [
            ("nothing new", status(Phase::Running, None), vec![]),
            ("a phase", status(Phase::Recovering, None), vec![("WorkerLost", true)]),
            ("a refused edit", status(Phase::Running, Some("a")), vec![("PlanChanged", true)]),
        ];
        let old = status(Phase::Running, None);
        for (case, new, expected) in cases {
            let told = news(&old, &new);
            let told: Vec<(&str, bool)> =
                told.iter().map(|(reason, _, bad)| (reason.as_str(), *bad)).collect();
            assert_eq!(told, expected, "{case}");
            assert!(news(&new, &new).is_empty(), "{case}, again");
        }
        let degraded = |message: &str| {
            let mut status = status(Phase::Running, None);
            status.conditions[1].type_ = "Degraded".to_owned();
            (status.conditions[1].status, status.conditions[1].message) =
                ("True".to_owned(), message.to_owned());
            status
        };
        let first = "failed to write 'segments/00000000000000000003-00000000000000000001' in 's3://a/b': PUT \
                     http://s3/part-fa6a39a3-totals-1-14-0?uploadId=836963cd-2642-4b3a-a664-e676899b3ddc in 326.25ms: status 503";
        let other = |from: &str, to: &str| first.replace(from, to);
        assert_eq!(news(&old, &degraded(first)).len(), 1);
        for (from, to, count) in [
            ("00003-", "00004-", 0),
            ("fa6a39a3-totals-1-14-0", "0b6a39a3-totals-0-15-1", 0),
            ("836963cd-2642", "936963cd-beef", 0),
            ("326.25ms", "1.5s", 0),
            ("s3://a/b", "s3://a/b2", 1),
            ("503", "507", 1),
        ] {
            assert_eq!(news(&degraded(first), &degraded(&other(from, to))).len(), count, "{to}");
        }
        let failed = |why| status(Phase::Failed, Some(why));
        assert_eq!(news(&failed("line 1"), &failed("line 2")).len(), 1, "another mistake");
    }
}
