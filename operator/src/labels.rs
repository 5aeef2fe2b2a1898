//! Labels, selectors and owner references of a job's objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use millrace_crds::StreamJob;

use crate::names;

/// The part of a job that an object belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Coordinator,
    Worker,
    Job,
    /// Removes the state of a deleted job.
    Cleanup,
}

impl Component {
    /// As the label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Component::Coordinator => "coordinator",
            Component::Worker => "worker",
            Component::Job => "job",
            Component::Cleanup => "cleanup",
        }
    }
}

/// Who made an object.
pub const MANAGED_BY: &str = "millrace-operator";

/// All labels of an object.
pub fn all(job: &str, component: Component, attempt: u64) -> BTreeMap<String, String> {
    let mut labels = selector(job, component, attempt);
    labels.extend([
        ("app.kubernetes.io/name".to_owned(), "millrace".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), MANAGED_BY.to_owned()),
        ("millrace.dev/job".to_owned(), job.to_owned()),
    ]);
    labels
}

/// The labels that select a component's pods: these never change for a Deployment.
pub fn selector(job: &str, component: Component, attempt: u64) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/instance".to_owned(), job.to_owned()),
        ("app.kubernetes.io/component".to_owned(), component.as_str().to_owned()),
        ("millrace.dev/attempt".to_owned(), attempt.to_string()),
    ])
}

/// Makes Kubernetes delete an object with its job.
pub fn owner(job: &StreamJob) -> OwnerReference {
    OwnerReference {
        api_version: "millrace.dev/v1alpha1".to_owned(),
        kind: "StreamJob".to_owned(),
        name: names::job(job).to_owned(),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
