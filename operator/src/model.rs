//! Plain data between the steps.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use millrace_crds::contract::Report;
use millrace_crds::v1alpha1::StreamJobSpec;

/// What the controller is configured with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Image of coordinators and workers.
    pub image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    /// Where jobs that name no place keep their state: a bucket.
    pub checkpoint_location: Option<String>,
    /// How long the coordinator of a finished job stays to be read.
    pub keeps_finished: Duration,
}

/// The world as one reconcile sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The coordinator's report; `None`: it does not answer.
    pub report: Option<Report>,
    /// Attempts whose worker Deployments exist.
    pub worker_attempts: Vec<u64>,
    /// The attempt that the coordinator's Deployment belongs to.
    pub coordinator_attempt: Option<u64>,
    /// The coordinator's pod is ready: if it does not answer now, it will.
    pub is_coordinator_ready: bool,
    /// It is long since the job has finished: nobody is expected to read its coordinator any more.
    pub is_old: bool,
    pub obstacle: Option<Obstacle>,
    /// Why the wanted spec cannot become pods; only judged if it is not the one that the attempt was made for.
    pub refusal: Option<Refusal>,
    /// The spec that the attempt was made for, if it is not the wanted one.
    pub last_good: Option<StreamJobSpec>,
}

/// What keeps the job from running, or from being seen to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Of the conditions; PascalCase, one of a closed set.
    pub reason: &'static str,
    /// Kubernetes' own words, if it is about pods.
    pub message: String,
}

/// Why a spec is not acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of the conditions; PascalCase, one of a closed set.
    pub reason: &'static str,
    /// What is wrong where, and what to do.
    pub message: String,
}

/// All objects that a job should have now; others of the job are deleted after these were applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    pub config: Option<ConfigMap>,
    pub account: Option<ServiceAccount>,
    pub service: Option<Service>,
    pub network: Option<NetworkPolicy>,
    pub budget: Option<PodDisruptionBudget>,
    pub deployments: Vec<Deployment>,
    /// The ConfigMap of an earlier spec stays: a suspended job is compared with it when it is resumed.
    pub keeps_config: bool,
    /// The attempt's Deployments are of another release's form: those that are there are left as they are.
    pub keeps_deployments: bool,
}
