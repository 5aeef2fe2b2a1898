//! Every derived object name. A job's name has at most 40 characters (a CEL rule), so all of these fit into 63.

use millrace_crds::StreamJob;

/// Name of a job; the API server does not admit an object without one.
pub fn job(job: &StreamJob) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// Namespace of a job.
pub fn namespace(job: &StreamJob) -> &str {
    job.metadata.namespace.as_deref().unwrap_or("default")
}

/// The coordinator's Deployment and Service.
pub fn coordinator(job: &str) -> String {
    format!("{job}-coordinator")
}

/// The workers' Deployment of an attempt.
pub fn workers(job: &str, attempt: u64) -> String {
    format!("{job}-worker-{attempt}")
}

/// The ConfigMap of a pipeline with this hash.
pub fn pipeline(job: &str, hash: &str) -> String {
    format!("{job}-pipeline-{hash}")
}

/// The service account of a job's pods.
pub fn service_account(job: &str) -> String {
    format!("{job}-runtime")
}

/// The Job that removes a deleted job's state.
pub fn cleanup(job: &str) -> String {
    format!("{job}-cleanup")
}

/// What protects a job's pods.
pub fn protection(job: &str) -> String {
    format!("{job}-pods")
}
