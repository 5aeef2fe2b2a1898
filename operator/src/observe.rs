//! Asks the world about one job; the only step that does. Read-only.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams, PostParams};
use millrace_crds::StreamJob;
use millrace_crds::contract::Report;
use millrace_crds::v1alpha1::{Phase, StreamJobSpec};

use crate::context::Context;
use crate::decide::{self, is_changed};
use crate::model::{Observed, Obstacle, Refusal};
use crate::refusal::Running;
use crate::{desired, names, refusal};

/// Gathers what is known about a job. `missing`: why its spec has no text, if it has none.
///
/// # Errors
/// If the API server does not answer.
pub async fn observe(
    job: &StreamJob,
    missing: Option<Refusal>,
    context: &Context,
    now: Timestamp,
) -> Result<Observed, kube::Error> {
    let namespace = names::namespace(job);
    let of_job = ListParams::default().labels(&format!("millrace.dev/job={}", names::job(job)));
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), namespace).list(&of_job).await?;
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace).list(&of_job).await?;
    let component = |deployment: &Deployment, component: &str| {
        deployment
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("app.kubernetes.io/component"))
            .is_some_and(|found| found == component)
    };
    let attempt = |deployment: &Deployment| -> Option<u64> {
        deployment.metadata.labels.as_ref()?.get("millrace.dev/attempt")?.parse().ok()
    };
    let workers = deployments.items.iter().filter(|deployment| component(deployment, "worker"));
    let coordinator = deployments.items.iter().find(|deployment| component(deployment, "coordinator"));
    // A job that has none is not asked every second.
    match coordinator.is_some() {
        true => context.reports.watch(namespace, names::job(job)).await,
        false => context.reports.forget(namespace, names::job(job)),
    }
    let report = context.reports.latest(namespace, names::job(job)).filter(|report| is_of(report, job));
    let unreadable = report.as_ref().and_then(Report::refusal);
    let report = report.filter(|_| unreadable.is_none());
    let unreadable = unreadable.map(|message| Obstacle { reason: "ReportUnknown", message });
    let pods = || pods.items.iter().find_map(obstacle);
    let not_running = deployments.items.iter().find_map(refused).or_else(pods);
    let not_running = not_running.map(|message| Obstacle { reason: "PodsNotRunning", message });
    let (refusal, last_good) = match is_changed(job) {
        true => {
            let configs =
                Api::<ConfigMap>::namespaced(context.client.clone(), namespace).list(&of_job).await?;
            // A job that has never completed a checkpoint has no state that another pipeline could not read.
            let has_state = job.status.as_ref().is_some_and(|status| status.last_checkpoint.is_some())
                || report.as_ref().is_some_and(|report| report.last_checkpoint.is_some());
            let running = running(job, &configs.items, coordinator).filter(|_| has_state);
            let running = running.as_ref().map(|(sql, location)| Running { sql, location });
            let last_good = decide::last_good(job, configs.items.iter().filter_map(spec_of));
            let placed = decide::placed(job, context.settings.checkpoint_location.as_deref());
            let refusal = match missing.or_else(|| refusal::refusal(&placed, running)) {
                None => refused_template(&placed, context).await?,
                refusal => refusal,
            };
            (refusal, last_good)
        }
        false => (None, None),
    };
    Ok(Observed {
        report,
        worker_attempts: workers.filter_map(attempt).collect(),
        coordinator_attempt: coordinator.and_then(attempt),
        is_coordinator_ready: coordinator
            .and_then(|deployment| deployment.status.as_ref()?.ready_replicas)
            .is_some_and(|ready| ready > 0),
        obstacle: unreadable.or(not_running),
        is_old: is_old(job, context.settings.keeps_finished, now),
        refusal,
        last_good,
    })
}

/// What the API server says of pods that a user's templates are laid over: asked without making them.
async fn refused_template(job: &StreamJob, context: &Context) -> Result<Option<Refusal>, kube::Error> {
    let spec = &job.spec;
    if spec.workers.pod_template.is_none() && spec.coordinator.pod_template.is_none() {
        return Ok(None);
    }
    let attempt = job.status.as_ref().map_or(0, |status| status.attempt) + 1;
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), names::namespace(job));
    let only_asked = PostParams { dry_run: true, ..PostParams::default() };
    for mut deployment in desired::running(job, attempt, &context.settings).deployments {
        // The names of those that run are taken.
        let name = deployment.metadata.name.take().unwrap_or_default();
        deployment.metadata.name = Some(format!("{name}-asked"));
        match deployments.create(&only_asked, &deployment).await {
            Err(kube::Error::Api(status)) if [400, 422].contains(&status.code) => {
                let message =
                    format!("spec.*.podTemplate: the pods of '{name}' are refused: {}", status.message);
                return Ok(Some(Refusal { reason: "InvalidPodTemplate", message }));
            }
            // Whatever else is wrong is told when they are made.
            Err(kube::Error::Api(_)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// True once a job has been finished for so long.
fn is_old(job: &StreamJob, keeps_finished: Duration, now: Timestamp) -> bool {
    let since = job.status.as_ref().filter(|status| status.phase == Phase::Succeeded);
    let since = since.and_then(|status| status.since.as_ref()?.parse::<Timestamp>().ok());
    since.is_some_and(|since| {
        now.duration_since(since) >= SignedDuration::try_from(keeps_finished).unwrap_or(SignedDuration::MAX)
    })
}

/// The spec in a job's ConfigMap.
fn spec_of(config: &ConfigMap) -> Option<StreamJobSpec> {
    let manifest: serde_json::Value = serde_json::from_str(config.data.as_ref()?.get("job.yaml")?).ok()?;
    serde_json::from_value(manifest.get("spec")?.clone()).ok()
}

/// False for the report of a namesake that was deleted and whose coordinator still answers.
fn is_of(report: &Report, job: &StreamJob) -> bool {
    report.uid.is_empty() || Some(&report.uid) == job.metadata.uid.as_ref()
}

/// SQL and place of the state that the pods run with: of the ConfigMap that the coordinator mounts, or of the one that a suspended job has left.
fn running(
    job: &StreamJob,
    configs: &[ConfigMap],
    coordinator: Option<&Deployment>,
) -> Option<(String, String)> {
    let mounted = coordinator.and_then(|deployment| {
        let volumes = deployment.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
        volumes.iter().find_map(|volume| Some(volume.config_map.as_ref()?.name.clone()))
    });
    let config = match mounted {
        Some(name) => configs.iter().find(|config| config.metadata.name.as_deref() == Some(&name)),
        None => configs
            .iter()
            .find(|config| decide::last_good(job, spec_of(config)).is_some())
            .or_else(|| configs.first()),
    };
    let text = config?.data.as_ref()?.get("job.yaml")?;
    let manifest: serde_json::Value = serde_json::from_str(text).ok()?;
    let field = |path: &str| Some(manifest.pointer(path)?.as_str()?.to_owned());
    Some((field("/spec/pipeline/sql")?, field("/spec/checkpoint/location")?))
}

/// Why a Deployment cannot make pods: quota, pod security, admission.
fn refused(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    failure.message.clone()
}

/// Why a pod does not run: its place, its image, its settings.
pub fn obstacle(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return Some(format!("pod {name}: {}", condition.message.clone().unwrap_or_default()));
    }
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        // These two are the way of every pod, and not obstacles.
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason))?;
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref()?.message.clone());
        Some(format!("pod {name}: {reason}: {}", last.or(waiting.message.clone()).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::v1alpha1::StreamJobStatus;

    #[test]
    fn a_job_is_old_when_it_has_been_finished_for_long() {
        let yaml = "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a}, spec: {pipeline: {sql: x}}}";
        let mut job = millrace_crds::manifest::read(yaml).unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
        let hour = Duration::from_secs(3_600);
        assert!(!is_old(&job, hour, at(9_999)), "it has no status");
        for (phase, seconds, expected) in [
            (Phase::Succeeded, 3_599, false),
            (Phase::Succeeded, 3_600, true),
            (Phase::Running, 3_600, false),
        ] {
            job.status =
                Some(StreamJobStatus { phase, since: Some(at(0).to_string()), ..Default::default() });
            assert_eq!(is_old(&job, hour, at(seconds)), expected, "{phase:?} for {seconds} s");
        }
    }

    #[test]
    fn the_report_of_a_deleted_namesake_is_not_this_jobs() {
        let mut job = millrace_crds::manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a}, spec: {pipeline: {sql: x}}}",
        )
        .unwrap();
        job.metadata.uid = Some("new".to_owned());
        for (uid, expected) in [("new", true), ("old", false), ("", true)] {
            assert_eq!(is_of(&Report { uid: uid.to_owned(), ..Default::default() }, &job), expected, "{uid}");
        }
    }
}
