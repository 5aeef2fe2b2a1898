//! Everything that one job owns, rendered from its spec. Pure.
//!
//! Coordinator and workers are Deployments, so that they heal while the controller is away; their pods run in the restricted
//! profile and have no rights and no token.

mod cleanup;
mod overlay;
mod pod;
mod protection;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{ConfigMap, EnvVar, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::OnDelete;
use xxhash_rust::xxh3::xxh3_64;

use crate::labels::{self, Component};
use crate::model::{Desired, Settings};
use crate::names;

pub use cleanup::{cleanup, is_cleanup, is_cleanup_of};

/// Where workers register.
pub const CONTROL_PORT: i32 = 6121;
/// Where workers reach each other.
pub const DATA_PORT: i32 = 6122;
/// Probes, metrics, report.
pub const HTTP_PORT: i32 = 6123;

/// Form of the Deployments; grows whenever their pods would be replaced. Attempts of another form are left as they are.
pub const RENDERING: u32 = 2;

/// The objects of a job that runs as this attempt.
pub fn running(job: &StreamJob, attempt: u64, settings: &Settings) -> Desired {
    let status = job.status.as_ref();
    let pinned = status.map(|status| status.image.clone()).filter(|image| !image.is_empty());
    let settings = &Settings { image: pinned.unwrap_or_else(|| settings.image.clone()), ..settings.clone() };
    let keeps_deployments = status.is_some_and(|status| ![0, RENDERING].contains(&status.rendering));
    let config = config(job);
    let config_name = config.metadata.name.clone().unwrap_or_default();
    Desired {
        account: Some(account(job)),
        service: Some(service(job, attempt)),
        network: Some(protection::network(job)),
        budget: Some(protection::budget(job)),
        deployments: vec![
            coordinator(job, attempt, &config_name, settings),
            workers(job, attempt, &config_name, settings),
        ],
        config: Some(config),
        // Deployments that stay as they are mount what they have mounted.
        keeps_config: keeps_deployments,
        keeps_deployments,
    }
}

/// The objects of a job that has ended: the coordinator stays to be read, the workers go.
pub fn ended(job: &StreamJob, attempt: u64, settings: &Settings) -> Desired {
    let mut desired = running(job, attempt, settings);
    desired.deployments.truncate(1);
    desired
}

fn metadata(job: &StreamJob, name: String, component: Component, attempt: u64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(names::namespace(job).to_owned()),
        labels: Some(labels::all(names::job(job), component, attempt)),
        owner_references: Some(vec![labels::owner(job)]),
        ..Default::default()
    }
}

/// What is wrong with the templates that a spec lays over those of its pods.
pub fn template_mistake(job: &StreamJob) -> Option<String> {
    let wrong = job.spec.template_mistakes();
    if !wrong.is_empty() {
        return Some(wrong.join("; "));
    }
    [(Component::Coordinator, "coordinator"), (Component::Worker, "workers")].into_iter().find_map(
        |(component, of)| {
            let overlay = template_of(job, component)?;
            let own = pod::template(job, component, 1, "", Vec::new(), &[], &Settings::default());
            overlay::laid_over(&own, overlay).err().map(|mistake| format!("spec.{of}.podTemplate.{mistake}"))
        },
    )
}

fn template_of(job: &StreamJob, component: Component) -> Option<&serde_json::Value> {
    match component {
        Component::Worker => job.spec.workers.pod_template.as_ref(),
        Component::Coordinator | Component::Job | Component::Cleanup => {
            job.spec.coordinator.pod_template.as_ref()
        }
    }
}

/// SQL and settings as a manifest that the runtime reads; named by its content, and never a plan. It is made before an attempt is
/// recorded, so that the spec of every attempt can be found as long as the attempt lasts.
pub fn config(job: &StreamJob) -> ConfigMap {
    // Writing plain data to memory cannot fail.
    let mut spec = job.spec.clone();
    // Pods have nothing to do with it.
    spec.checkpoint.on_delete = OnDelete::default();
    let spec = spec.without_defaults().unwrap_or_default();
    let manifest = serde_json::json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": names::job(job), "namespace": names::namespace(job)},
        "spec": spec,
    });
    let text = format!("{manifest:#}\n");
    let hash = format!("{:08x}", xxh3_64(text.as_bytes()) as u32);
    let mut metadata = metadata(job, names::pipeline(names::job(job), &hash), Component::Job, 0);
    metadata.labels.get_or_insert_default().remove("millrace.dev/attempt");
    ConfigMap {
        metadata,
        // JSON is YAML, and needs no further library here.
        data: Some(BTreeMap::from([("job.yaml".to_owned(), text)])),
        immutable: Some(true),
        ..Default::default()
    }
}

fn account(job: &StreamJob) -> ServiceAccount {
    let mut metadata = metadata(job, names::service_account(names::job(job)), Component::Job, 0);
    metadata.labels.get_or_insert_default().remove("millrace.dev/attempt");
    ServiceAccount { metadata, automount_service_account_token: Some(false), ..Default::default() }
}

/// Reaches the coordinator of the attempt, ready or not: workers must find it while it starts.
fn service(job: &StreamJob, attempt: u64) -> Service {
    let port = |name: &str, port: i32| ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        ..Default::default()
    };
    Service {
        metadata: metadata(job, names::coordinator(names::job(job)), Component::Coordinator, attempt),
        spec: Some(ServiceSpec {
            selector: Some(labels::selector(names::job(job), Component::Coordinator, attempt)),
            ports: Some(vec![port("control", CONTROL_PORT), port("http", HTTP_PORT)]),
            publish_not_ready_addresses: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn deployment(
    job: &StreamJob,
    name: String,
    component: Component,
    attempt: u64,
    replicas: u32,
    template: k8s_openapi::api::core::v1::PodTemplateSpec,
) -> Deployment {
    let selector = labels::selector(names::job(job), component, attempt);
    // What cannot be laid over it was refused before the attempt was recorded.
    let overlay = template_of(job, component);
    let laid_over = overlay.and_then(|overlay| overlay::laid_over(&template, overlay).ok());
    let mut template = laid_over.unwrap_or(template);
    // They are how the pods are found.
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.extend(labels::all(names::job(job), component, attempt));
    // No surge: two coordinators would only fence each other. Not Recreate, which waits for the pods of a dead node.
    let rolling = RollingUpdateDeployment {
        max_surge: Some(IntOrString::Int(0)),
        max_unavailable: Some(IntOrString::Int(1)),
    };
    let strategy =
        DeploymentStrategy { rolling_update: Some(rolling), type_: Some("RollingUpdate".to_owned()) };
    Deployment {
        metadata: metadata(job, name, component, attempt),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas as i32),
            selector: LabelSelector { match_labels: Some(selector), ..Default::default() },
            strategy: Some(strategy),
            template,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn coordinator(job: &StreamJob, attempt: u64, config: &str, settings: &Settings) -> Deployment {
    let env = vec![
        variable("MILLRACE_LISTEN", format!("0.0.0.0:{CONTROL_PORT}")),
        variable("MILLRACE_HTTP", format!("0.0.0.0:{HTTP_PORT}")),
    ];
    let ports = [("control", CONTROL_PORT), ("http", HTTP_PORT)];
    let template = pod::template(job, Component::Coordinator, attempt, config, env, &ports, settings);
    // It keeps its name over attempts. Its selector carries the attempt and cannot change, so applying another attempt
    // means to delete it first.
    deployment(job, names::coordinator(names::job(job)), Component::Coordinator, attempt, 1, template)
}

fn workers(job: &StreamJob, attempt: u64, config: &str, settings: &Settings) -> Deployment {
    let slots = job.spec.workers.slots.max(1);
    let coordinator = names::coordinator(names::job(job));
    let mut env = vec![
        variable("MILLRACE_COORDINATOR", format!("{coordinator}:{CONTROL_PORT}")),
        variable("MILLRACE_SLOTS", slots.to_string()),
        variable("MILLRACE_LISTEN", format!("0.0.0.0:{DATA_PORT}")),
        variable("MILLRACE_HTTP", format!("0.0.0.0:{HTTP_PORT}")),
    ];
    env.push(pod::field_variable("MILLRACE_HOST", "status.podIP"));
    let ports = [("data", DATA_PORT), ("http", HTTP_PORT)];
    let template = pod::template(job, Component::Worker, attempt, config, env, &ports, settings);
    let replicas = job.spec.parallelism.div_ceil(slots);
    deployment(job, names::workers(names::job(job), attempt), Component::Worker, attempt, replicas, template)
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use millrace_crds::manifest;

    fn settings(image: &str) -> Settings {
        Settings {
            image: image.to_owned(),
            image_pull_policy: "Never".to_owned(),
            checkpoint_location: None,
            keeps_finished: std::time::Duration::ZERO,
        }
    }

    fn rendered(parallelism: u32) -> Desired {
        let mut job = manifest::read(&format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {{name: totals, namespace: shop, uid: u-1}}, \
             spec: {{pipeline: {{sql: x, secrets: [{{name: pw, secretKeyRef: {{name: kafka, key: password}}}}]}}, parallelism: {parallelism}, \
             storage: {{credentials: {{secretRef: {{name: s3}}}}}}}}}}"
        ))
        .unwrap();
        job.metadata.uid = Some("u-1".to_owned());
        running(&job, 3, &settings("millrace:dev"))
    }

    #[test]
    fn the_runtime_reads_back_the_manifest_of_the_config_map() {
        let desired = rendered(5);
        let text = desired.config.unwrap().data.unwrap().remove("job.yaml").unwrap();

        let job = manifest::read(&text).unwrap();

        assert_eq!((job.spec.parallelism, job.metadata.name.as_deref()), (5, Some("totals")));
    }

    #[test]
    fn containers_ask_for_what_the_spec_says_and_for_little_otherwise() {
        let mut job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: totals}, spec: {pipeline: {sql: x}, workers: \
             {resources: {requests: {cpu: 2}, limits: {memory: 1Gi, ephemeral-storage: 5Gi}}}}}",
        )
        .unwrap();
        job.metadata.uid = Some("u-1".to_owned());
        let asked = running(&job, 1, &settings("millrace:dev")).deployments.into_iter().map(|deployment| {
            let pod = deployment.spec.unwrap().template.spec.unwrap();
            let resources = pod.containers[0].resources.clone().unwrap();
            let texts = |amounts: Option<BTreeMap<String, Quantity>>| -> Vec<String> {
                amounts.into_iter().flatten().map(|(name, amount)| format!("{name} {}", amount.0)).collect()
            };
            (texts(resources.requests), texts(resources.limits))
        });
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
        assert_eq!(
            asked.collect::<Vec<_>>(),
            [
                (texts(&["cpu 100m", "memory 128Mi"]), vec![]),
                (texts(&["cpu 2"]), texts(&["ephemeral-storage 5Gi", "memory 1Gi"])),
            ]
        );
    }

    #[test]
    fn a_users_template_is_laid_over_the_pods_and_its_image_is_for_the_next_attempt() {
        let mut job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: totals}, spec: {pipeline: {sql: x}, workers: \
             {podTemplate: {metadata: {labels: {team: streams, millrace.dev/attempt: '9'}}, spec: {nodeSelector: {disk: ssd}}}}}}",
        )
        .unwrap();
        job.metadata.uid = Some("u-1".to_owned());
        let desired = running(&job, 3, &settings("millrace:dev"));
        let [coordinator, workers] = desired.deployments.as_slice() else { panic!("two deployments") };
        let template = &workers.spec.as_ref().unwrap().template;
        let labels = template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
        assert_eq!(labels["team"], "streams");
        assert_eq!(labels["millrace.dev/attempt"], "3", "what finds the pods stays");
        assert_eq!(template.spec.as_ref().unwrap().node_selector.as_ref().unwrap()["disk"], "ssd");
        assert!(coordinator.spec.as_ref().unwrap().template.spec.as_ref().unwrap().node_selector.is_none());
        assert_eq!(template_mistake(&job), None);
    }

    #[test]
    fn a_worker_has_a_folder_that_it_may_write_to_and_the_coordinator_has_none() {
        let desired = rendered(2);
        let folders = desired.deployments.into_iter().map(|deployment| {
            let pod = deployment.spec.unwrap().template.spec.unwrap();
            let container = &pod.containers[0];
            let told = container.env.iter().flatten().find(|env| env.name == "MILLRACE_STATE_FOLDER");
            let mount = container.volume_mounts.iter().flatten().find(|mount| mount.read_only.is_none());
            let volume = pod.volumes.iter().flatten().find(|volume| volume.empty_dir.is_some());
            assert_eq!(volume.map(|volume| &volume.name), mount.map(|mount| &mount.name));
            assert_eq!(told.and_then(|env| env.value.as_ref()), mount.map(|mount| &mount.mount_path));
            mount.is_some()
        });
        assert_eq!(folders.collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn workers_offer_enough_slots_and_pods_are_restricted() {
        for (parallelism, replicas) in [(1, 1), (2, 1), (5, 3), (7, 4)] {
            let desired = rendered(parallelism);
            let [_, workers] = desired.deployments.as_slice() else { panic!("two deployments") };

            assert_eq!(workers.spec.as_ref().unwrap().replicas, Some(replicas), "parallelism {parallelism}");
        }
        for deployment in rendered(2).deployments {
            let pod = deployment.spec.unwrap().template.spec.unwrap();
            let security = pod.security_context.unwrap();
            let container = &pod.containers[0];
            let own = container.security_context.as_ref().unwrap();

            assert_eq!(
                (security.run_as_non_root, security.seccomp_profile.unwrap().type_.as_str()),
                (Some(true), "RuntimeDefault")
            );
            assert_eq!(
                (own.allow_privilege_escalation, own.read_only_root_filesystem),
                (Some(false), Some(true))
            );
            assert_eq!(own.capabilities.as_ref().unwrap().drop.as_deref(), Some(&["ALL".to_owned()][..]));
            assert_eq!(pod.automount_service_account_token, Some(false));
            assert!(container.env_from.is_none(), "variables would not see a corrected Secret");
            let mount =
                container.volume_mounts.as_ref().unwrap().iter().find(|mount| mount.name == "credentials");
            let folder =
                container.env.iter().flatten().find(|env| env.name == "MILLRACE_CREDENTIALS").unwrap();
            assert_eq!(Some(&mount.unwrap().mount_path), folder.value.as_ref());
            let volumes = pod.volumes.as_ref().unwrap();
            let secret = volumes.iter().find_map(|volume| volume.secret.as_ref()).unwrap();
            assert_eq!((secret.secret_name.as_deref(), secret.optional), (Some("s3"), Some(true)));
            let mount =
                container.volume_mounts.as_ref().unwrap().iter().find(|mount| mount.name == "secrets");
            let folder = container.env.iter().flatten().find(|env| env.name == "MILLRACE_SECRETS").unwrap();
            assert_eq!(Some(&mount.unwrap().mount_path), folder.value.as_ref());
            let projected = volumes.iter().find_map(|volume| volume.projected.as_ref()).unwrap();
            let secret = projected.sources.as_ref().unwrap()[0].secret.as_ref().unwrap();
            let item = &secret.items.as_ref().unwrap()[0];
            assert_eq!((secret.name.as_str(), secret.optional), ("kafka", Some(true)));
            assert_eq!((item.key.as_str(), item.path.as_str()), ("password", "pw"));
        }
    }

    #[test]
    fn another_release_changes_no_pod_of_an_attempt() {
        let mut job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a}, spec: {pipeline: {sql: x}}}",
        )
        .unwrap();
        let image = |desired: &Desired| {
            let pod = desired.deployments[0].spec.as_ref().unwrap().template.spec.clone().unwrap();
            pod.containers[0].image.clone().unwrap()
        };
        assert_eq!(image(&running(&job, 1, &settings("millrace:1"))), "millrace:1");

        let status = millrace_crds::v1alpha1::StreamJobStatus {
            image: "millrace:1".to_owned(),
            rendering: RENDERING,
            ..Default::default()
        };
        job.status = Some(status);
        let upgraded = running(&job, 1, &settings("millrace:2"));
        assert_eq!((image(&upgraded).as_str(), upgraded.keeps_deployments), ("millrace:1", false));
        job.status.as_mut().unwrap().rendering = RENDERING - 1 + 2;
        assert!(running(&job, 1, &settings("millrace:2")).keeps_deployments);
    }

    #[test]
    fn every_object_belongs_to_its_job_and_selectors_carry_the_attempt() {
        let desired = rendered(2);
        let owners = [
            &desired.config.as_ref().unwrap().metadata,
            &desired.account.as_ref().unwrap().metadata,
            &desired.service.as_ref().unwrap().metadata,
            &desired.network.as_ref().unwrap().metadata,
            &desired.budget.as_ref().unwrap().metadata,
            &desired.deployments[0].metadata,
            &desired.deployments[1].metadata,
        ];
        for metadata in owners {
            assert_eq!(metadata.owner_references.as_ref().unwrap()[0].uid, "u-1");
            assert_eq!(metadata.namespace.as_deref(), Some("shop"));
        }
        let selector = desired.service.unwrap().spec.unwrap().selector.unwrap();
        assert_eq!(selector["millrace.dev/attempt"], "3");
        assert_eq!(desired.deployments[1].metadata.name.as_deref(), Some("totals-worker-3"));
    }
}
