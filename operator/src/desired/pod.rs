//! What all pods of a job share: security, probes, spread, storage access.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection,
    SecretVolumeSource, SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::{Amounts, PipelineSecret, ResourcesSpec};

use super::variable;
use crate::labels::{self, Component};
use crate::model::Settings;
use crate::names;

/// How long a pod stays on a node that does not answer: as short as the coordinator's own detection.
const UNREACHABLE_SECONDS: i64 = 5;

/// User and group of the processes.
const USER: i64 = 65532;

/// Where the manifest is mounted.
const CONFIG_FOLDER: &str = "/etc/millrace";
pub const MANIFEST_FILE: &str = "/etc/millrace/job.yaml";

/// Where the Secret `spec.storage.credentials` is mounted: files, and not variables, so that running pods see it corrected or
/// rotated.
const CREDENTIALS_FOLDER: &str = "/etc/millrace-credentials";

/// Where the values of `spec.pipeline.secrets` are mounted.
const SECRETS_FOLDER: &str = "/etc/millrace-secrets";

/// Where a worker keeps state that does not fit into its memory.
const STATE_FOLDER: &str = "/var/lib/millrace";

/// The pods of a component.
pub fn template(
    job: &StreamJob,
    component: Component,
    attempt: u64,
    config: &str,
    env: Vec<EnvVar>,
    ports: &[(&str, i32)],
    settings: &Settings,
) -> PodTemplateSpec {
    let name = names::job(job);
    let tolerate = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(UNREACHABLE_SECONDS),
        ..Default::default()
    };
    let spread = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::selector(name, component, attempt)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let credentials_volume = job.spec.storage.credentials.as_ref().map(|credentials| Volume {
        name: "credentials".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(credentials.secret_ref.name.clone()),
            // The pods start without it and say what is missing; it appears in them once it is made.
            optional: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    });
    let secrets_volume = (!job.spec.pipeline.secrets.is_empty()).then(|| secrets_volume(job));
    let config_volume = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: config.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    // State that does not fit into a worker's memory. A new pod begins with an empty one: what must stay is in the checkpoints.
    let state_volume = (component == Component::Worker).then(|| Volume {
        name: "state".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Default::default()
    });
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::all(name, component, attempt)),
            ..Default::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container(job, component, attempt, env, ports, settings)],
            service_account_name: Some(names::service_account(name)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            tolerations: Some(vec![
                tolerate("node.kubernetes.io/not-ready"),
                tolerate("node.kubernetes.io/unreachable"),
            ]),
            topology_spread_constraints: Some(vec![spread]),
            volumes: Some(
                [Some(config_volume), credentials_volume, secrets_volume, state_volume]
                    .into_iter()
                    .flatten()
                    .collect(),
            ),
            ..Default::default()
        }),
    }
}

/// A file for each secret that SQL can name. Like the credentials they may come later, and be corrected while pods run.
fn secrets_volume(job: &StreamJob) -> Volume {
    let source = |secret: &PipelineSecret| VolumeProjection {
        secret: Some(SecretProjection {
            name: secret.secret_key_ref.name.clone(),
            items: Some(vec![KeyToPath {
                key: secret.secret_key_ref.key.clone(),
                path: secret.name.clone(),
                ..Default::default()
            }]),
            optional: Some(true),
        }),
        ..Default::default()
    };
    let sources = job.spec.pipeline.secrets.iter().map(source).collect();
    Volume {
        name: "secrets".to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), ..Default::default() }),
        ..Default::default()
    }
}

fn container(
    job: &StreamJob,
    component: Component,
    attempt: u64,
    mut env: Vec<EnvVar>,
    ports: &[(&str, i32)],
    settings: &Settings,
) -> Container {
    env.extend([
        variable("MILLRACE_JOB", MANIFEST_FILE.to_owned()),
        variable("MILLRACE_UID", job.metadata.uid.clone().unwrap_or_default()),
        variable("MILLRACE_ATTEMPT", attempt.to_string()),
    ]);
    let mount = |name: &str, folder: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: folder.to_owned(),
        read_only: Some(true),
        ..Default::default()
    };
    let mut mounts = vec![mount("config", CONFIG_FOLDER)];
    if job.spec.storage.credentials.is_some() {
        env.push(variable("MILLRACE_CREDENTIALS", CREDENTIALS_FOLDER.to_owned()));
        mounts.push(mount("credentials", CREDENTIALS_FOLDER));
    }
    if !job.spec.pipeline.secrets.is_empty() {
        env.push(variable("MILLRACE_SECRETS", SECRETS_FOLDER.to_owned()));
        mounts.push(mount("secrets", SECRETS_FOLDER));
    }
    if component == Component::Worker {
        env.push(variable("MILLRACE_STATE_FOLDER", STATE_FOLDER.to_owned()));
        mounts.push(VolumeMount { read_only: None, ..mount("state", STATE_FOLDER) });
    }
    let port = |(name, port): &(&str, i32)| ContainerPort {
        name: Some((*name).to_owned()),
        container_port: *port,
        ..Default::default()
    };
    let resources = match component {
        Component::Worker => &job.spec.workers.resources,
        Component::Coordinator | Component::Job | Component::Cleanup => &job.spec.coordinator.resources,
    };
    Container {
        name: component.as_str().to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(vec![component.as_str().to_owned(), "--log-format".to_owned(), "json".to_owned()]),
        env: Some(env),
        ports: Some(ports.iter().map(port).collect()),
        startup_probe: Some(Probe {
            failure_threshold: Some(60),
            period_seconds: Some(1),
            ..probe("/livez")
        }),
        liveness_probe: Some(Probe {
            failure_threshold: Some(3),
            period_seconds: Some(10),
            ..probe("/livez")
        }),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz") }),
        resources: Some(requirements(resources)),
        security_context: Some(container_security()),
        // What a process that ends with an error said last is read in `kubectl describe`.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

/// As the spec says. What it neither asks for nor limits is little; what it only limits is asked for as much, as Kubernetes does it.
fn requirements(spec: &ResourcesSpec) -> ResourceRequirements {
    let amounts = |amounts: &Amounts| -> BTreeMap<String, Quantity> {
        let named = [
            ("cpu", &amounts.cpu),
            ("memory", &amounts.memory),
            ("ephemeral-storage", &amounts.ephemeral_storage),
        ];
        let given = named.into_iter().filter_map(|(name, amount)| Some((name, amount.as_ref()?)));
        given.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_string()))).collect()
    };
    let (mut requests, limits) = (amounts(&spec.requests), amounts(&spec.limits));
    for (name, little) in [("cpu", "100m"), ("memory", "128Mi")] {
        if !limits.contains_key(name) {
            requests.entry(name.to_owned()).or_insert_with(|| Quantity(little.to_owned()));
        }
    }
    let limits = (!limits.is_empty()).then_some(limits);
    ResourceRequirements { requests: Some(requests), limits, ..Default::default() }
}

fn probe(path: &str) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String("http".to_owned()),
        ..Default::default()
    };
    Probe { http_get: Some(get), timeout_seconds: Some(2), ..Default::default() }
}

/// A variable from a field of the pod.
pub fn field_variable(name: &str, field: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: field.to_owned(), ..Default::default() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..Default::default() }),
        ..Default::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Default::default() }),
        ..Default::default()
    }
}
