//! Plain data between the steps.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};

/// What the controller is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of coordinators and workers.
    pub image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
}

/// What the coordinator reported, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    pub attempt: u64,
    pub phase: String,
    pub restarts: u32,
    pub last_failure: Option<String>,
}

/// The world as one reconcile sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The coordinator's report; `None`: it does not answer.
    pub report: Option<Report>,
    /// Attempts whose worker Deployments exist.
    pub worker_attempts: Vec<u64>,
}

/// All objects that a job should have now; others of the job are deleted after these were applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    pub config: Option<ConfigMap>,
    pub account: Option<ServiceAccount>,
    pub service: Option<Service>,
    pub deployments: Vec<Deployment>,
}
