//! The pod that removes a deleted job's state.
//!
//! It belongs to nobody and brings its manifest with it: what belongs to a job may be gone before the job is.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use millrace_crds::StreamJob;

use super::{overlay, pod, template_of};
use crate::labels::{self, Component};
use crate::model::Settings;
use crate::names;

/// Holds the manifest, which the pod sees as a file.
const MANIFEST: &str = "millrace.dev/manifest";

/// How often it is tried.
const RETRIES: i32 = 3;

/// If nobody looks after it, it goes by itself.
const STAYS_SECONDS: i32 = 600;

/// The Job that removes a job's state.
pub fn cleanup(job: &StreamJob, settings: &Settings) -> Job {
    let status = job.status.as_ref();
    let pinned = status.map(|status| status.image.clone()).filter(|image| !image.is_empty());
    let settings = Settings { image: pinned.unwrap_or_else(|| settings.image.clone()), ..settings.clone() };
    let mut job = job.clone();
    job.spec.pipeline.secrets.clear();
    let own = pod::template(&job, Component::Coordinator, 0, "", Vec::new(), &[], &settings);
    // Where pods may run and how images are pulled is the same for this one.
    let laid_over =
        template_of(&job, Component::Coordinator).map(|overlay| overlay::laid_over(&own, overlay));
    let template = for_cleanup(&job, laid_over.and_then(Result::ok).unwrap_or(own));
    let metadata = ObjectMeta {
        name: Some(names::cleanup(names::job(&job))),
        namespace: Some(names::namespace(&job).to_owned()),
        labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
        ..Default::default()
    };
    let spec = JobSpec {
        backoff_limit: Some(RETRIES),
        ttl_seconds_after_finished: Some(STAYS_SECONDS),
        template,
        ..Default::default()
    };
    Job { metadata, spec: Some(spec), ..Default::default() }
}

/// True if it is one that removes a job's state.
pub fn is_cleanup(made: &Job) -> bool {
    let labels = made.metadata.labels.iter().flatten();
    let is = |key: &str, value: &str| labels.clone().any(|(known, of)| known == key && of == value);
    is("app.kubernetes.io/managed-by", labels::MANAGED_BY)
        && is("app.kubernetes.io/component", Component::Cleanup.as_str())
}

/// True if it removes the state of this very job, and not of a namesake's.
pub fn is_cleanup_of(made: &Job, job: &StreamJob) -> bool {
    let pod = made.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let env =
        pod.into_iter().flat_map(|pod| &pod.containers).flat_map(|container| container.env.iter().flatten());
    env.filter(|env| env.name == "MILLRACE_UID").any(|env| env.value == job.metadata.uid)
}

fn for_cleanup(job: &StreamJob, mut template: PodTemplateSpec) -> PodTemplateSpec {
    let metadata = template.metadata.get_or_insert_default();
    let mut labels = labels::all(names::job(job), Component::Cleanup, 0);
    labels.remove("millrace.dev/attempt");
    metadata.labels = Some(labels);
    metadata.annotations.get_or_insert_default().insert(MANIFEST.to_owned(), manifest(job));
    let Some(spec) = &mut template.spec else { return template };
    // That of the job may be gone. It has no token of this one either.
    spec.service_account_name = None;
    spec.topology_spread_constraints = None;
    spec.restart_policy = Some("Never".to_owned());
    for volume in spec.volumes.iter_mut().flatten().filter(|volume| volume.name == "config") {
        *volume = Volume { name: volume.name.clone(), downward_api: Some(file()), ..Default::default() };
    }
    // What runs beside a coordinator may never end.
    spec.containers.retain(|container| container.name == "coordinator");
    spec.init_containers = None;
    for container in &mut spec.containers {
        let arguments = ["checkpoints", pod::MANIFEST_FILE, "delete", "--all", "--log-format", "json"];
        container.args = Some(arguments.map(str::to_owned).to_vec());
        container.ports = None;
        (container.startup_probe, container.liveness_probe, container.readiness_probe) = (None, None, None);
    }
    template
}

/// The annotation as a file.
fn file() -> DownwardAPIVolumeSource {
    let field = format!("metadata.annotations['{MANIFEST}']");
    let item = DownwardAPIVolumeFile {
        path: "job.yaml".to_owned(),
        field_ref: Some(ObjectFieldSelector { field_path: field, ..Default::default() }),
        ..Default::default()
    };
    DownwardAPIVolumeSource { items: Some(vec![item]), ..Default::default() }
}

/// What tells where the state is, and how it is reached.
fn manifest(job: &StreamJob) -> String {
    let manifest = serde_json::json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": names::job(job), "namespace": names::namespace(job)},
        "spec": {
            "pipeline": {"sql": "its state is removed"},
            "checkpoint": {"location": job.spec.checkpoint.location},
            "storage": job.spec.storage,
        },
    });
    manifest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::manifest;

    #[test]
    fn the_pod_that_removes_state_needs_nothing_of_the_job_but_its_credentials() {
        let mut job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: totals, namespace: shop}, spec: {pipeline: {sql: x, \
             secrets: [{name: pw, secretKeyRef: {name: kafka, key: password}}]}, checkpoint: {location: 's3://a/b'}, \
             storage: {region: eu-1, credentials: {secretRef: {name: s3}}}, \
             coordinator: {podTemplate: {spec: {nodeSelector: {disk: ssd}, imagePullSecrets: [{name: pull}], containers: [{name: beside, image: b}]}}}}}",
        )
        .unwrap();
        job.metadata.uid = Some("u-1".to_owned());
        let made = cleanup(&job, &Settings { image: "millrace:dev".to_owned(), ..Settings::default() });

        assert_eq!(made.metadata.name.as_deref(), Some("totals-cleanup"));
        assert_eq!(made.metadata.owner_references, None);
        let mut namesake = job.clone();
        namesake.metadata.uid = Some("u-2".to_owned());
        assert!(is_cleanup(&made) && is_cleanup_of(&made, &job) && !is_cleanup_of(&made, &namesake));
        assert!(!is_cleanup(&Job::default()));
        let template = made.spec.unwrap().template;
        let labels = template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
        assert_eq!(labels["app.kubernetes.io/component"], "cleanup");
        let read =
            manifest::read(&template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()[MANIFEST])
                .unwrap();
        assert_eq!(read.spec.checkpoint.location.as_deref(), Some("s3://a/b"));
        assert_eq!(read.spec.storage, job.spec.storage);
        assert_eq!(read.metadata.namespace.as_deref(), Some("shop"));
        let pod = template.spec.unwrap();
        assert_eq!(pod.node_selector.unwrap()["disk"], "ssd");
        assert_eq!(pod.service_account_name, None);
        assert_eq!(
            (pod.automount_service_account_token, pod.restart_policy.as_deref()),
            (Some(false), Some("Never"))
        );
        let volumes: Vec<String> = pod.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
        assert_eq!(volumes, ["config", "credentials"]);
        let [container] = pod.containers.as_slice() else { panic!("one container") };
        assert_eq!(
            container.args.as_ref().unwrap()[..4],
            ["checkpoints", "/etc/millrace/job.yaml", "delete", "--all"]
        );
        let uid = container.env.iter().flatten().find(|env| env.name == "MILLRACE_UID").unwrap();
        assert_eq!(uid.value.as_deref(), Some("u-1"));
        assert!(container.liveness_probe.is_none() && container.readiness_probe.is_none());
        assert_eq!(container.security_context.as_ref().unwrap().read_only_root_filesystem, Some(true));
    }
}
