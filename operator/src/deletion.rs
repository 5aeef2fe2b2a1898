//! The end of a job whose state goes with it: its pods are taken away, then a pod removes the state, then the job goes.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use millrace_crds::StreamJob;

use crate::context::Context;
use crate::decide::deletion::{Cleanup, FINALIZER, Farewell, Seen, farewell, is_wanted};
use crate::{desired, names, observe};

/// So long after its end is due a pod is taken for one of a dead node.
const ENDING_SECONDS: i64 = 30;

/// Makes the job wait for its state when it is deleted, or not any more.
///
/// # Errors
/// Of the API server, in its own words.
pub async fn hold(job: &StreamJob, context: &Context) -> Result<(), kube::Error> {
    let is_held = is_held(job);
    if is_held == is_wanted(job) {
        return Ok(());
    }
    let others = job.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let finalizers: Vec<String> = others.chain((!is_held).then(|| FINALIZER.to_owned())).collect();
    set_finalizers(job, finalizers, context).await
}

pub fn is_held(job: &StreamJob) -> bool {
    job.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Takes the next step of a deleted job that is held, and tells which one.
///
/// # Errors
/// Of the API server, in its own words.
pub async fn part(job: &StreamJob, context: &Context, now: Timestamp) -> Result<Farewell, kube::Error> {
    let namespace = names::namespace(job);
    let jobs = Api::<Job>::namespaced(context.client.clone(), namespace);
    let cleanup = names::cleanup(names::job(job));
    let mut step = farewell(job, &seen(job, context, &jobs, now).await?);
    match &step {
        Farewell::Wait => {}
        Farewell::RemovePods => {
            let deployments = Api::<Deployment>::namespaced(context.client.clone(), namespace);
            for deployment in deployments.list(&of_job(job)).await? {
                ignore_missing(
                    deployments.delete(&deployment.name_any(), &DeleteParams::background()).await,
                )?;
            }
        }
        Farewell::Clean => {
            match jobs.create(&PostParams::default(), &desired::cleanup(job, &context.settings)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    step = match jobs.get_opt(&cleanup).await? {
                        Some(other) if !desired::is_cleanup(&other) => {
                            let why = format!("there is a Job '{cleanup}' of somebody else's");
                            Farewell::GiveUp { why }
                        }
                        Some(_) => {
                            // A namesake's, which was deleted before.
                            ignore_missing(jobs.delete(&cleanup, &DeleteParams::background()).await)?;
                            Farewell::Wait
                        }
                        None => Farewell::Wait,
                    };
                }
                // Nothing can be made in a namespace that is being deleted, or beyond a quota: its end must not wait for that.
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                    step = Farewell::GiveUp { why: status.message.clone() };
                }
                Err(error) => return Err(error),
            }
        }
        Farewell::LetGo | Farewell::GiveUp { .. } => {}
    }
    if !matches!(step, Farewell::LetGo | Farewell::GiveUp { .. }) {
        return Ok(step);
    }
    if jobs.get_opt(&cleanup).await?.is_some_and(|made| desired::is_cleanup_of(&made, job)) {
        ignore_missing(jobs.delete(&cleanup, &DeleteParams::background()).await)?;
    }
    let others = job.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    set_finalizers(job, others, context).await?;
    Ok(step)
}

async fn seen(
    job: &StreamJob,
    context: &Context,
    jobs: &Api<Job>,
    now: Timestamp,
) -> Result<Seen, kube::Error> {
    let pods =
        Api::<Pod>::namespaced(context.client.clone(), names::namespace(job)).list(&of_job(job)).await?;
    let is_cleanup =
        |pod: &&Pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|of| of == "cleanup");
    // Their time is when they should have ended; those of a dead node do not.
    let may_run = |pod: &Pod| {
        let end = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        end.is_none_or(|end| now.duration_since(end) < SignedDuration::from_secs(ENDING_SECONDS))
    };
    let has_pods = pods.items.iter().any(|pod| !is_cleanup(&pod) && may_run(pod));
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), names::namespace(job));
    let has_deployments = !deployments.list(&of_job(job)).await?.items.is_empty();
    let made = jobs.get_opt(&names::cleanup(names::job(job))).await?;
    // One of a namesake that was deleted before is none of ours.
    let made = made.filter(|made| desired::is_cleanup_of(made, job));
    let obstacle = || pods.items.iter().filter(is_cleanup).find_map(observe::obstacle);
    let made_at = |made: &Job| made.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let elapsed = |made: &Job| Duration::try_from(now.duration_since(made_at(made))).unwrap_or_default();
    let cleanup =
        made.map_or(Cleanup::Absent, |made| progress(&made, &pods.items, elapsed(&made), obstacle()));
    Ok(Seen { has_deployments, has_pods, cleanup })
}

/// How far the removal has come. What its pods said last is why it has failed.
fn progress(made: &Job, pods: &[Pod], elapsed: Duration, obstacle: Option<String>) -> Cleanup {
    let status = made.status.clone().unwrap_or_default();
    if status.succeeded.unwrap_or(0) > 0 {
        return Cleanup::Done;
    }
    let mut said = pods.iter().filter_map(|pod| {
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        containers.iter().find_map(|container| container.state.as_ref()?.terminated.as_ref()?.message.clone())
    });
    let said = said.next_back().map(|said| said.trim().to_owned());
    let failed = status.conditions.iter().flatten().find(|one| one.type_ == "Failed" && one.status == "True");
    match failed {
        Some(failed) => Cleanup::Failed { why: said.or(failed.message.clone()).unwrap_or_default() },
        None => Cleanup::Running { elapsed, obstacle: said.or(obstacle) },
    }
}

fn of_job(job: &StreamJob) -> ListParams {
    ListParams::default().labels(&format!("millrace.dev/job={}", names::job(job)))
}

async fn set_finalizers(
    job: &StreamJob,
    finalizers: Vec<String>,
    context: &Context,
) -> Result<(), kube::Error> {
    let api = Api::<StreamJob>::namespaced(context.client.clone(), names::namespace(job));
    // Of this very version: a list is replaced whole, and others may have changed it.
    let metadata = serde_json::json!({"finalizers": finalizers, "resourceVersion": job.resource_version()});
    let patch = Patch::Merge(serde_json::json!({ "metadata": metadata }));
    ignore_missing(api.patch(&job.name_any(), &PatchParams::default(), &patch).await)
}

fn ignore_missing<T>(done: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done.map(drop),
    }
}
