//! What protects a job's pods: from others in the network, and from being taken away all at once.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crds::StreamJob;

use super::HTTP_PORT;
use crate::labels::Component;
use crate::names;

/// All pods of the job, of whatever attempt.
fn pods(job: &StreamJob) -> LabelSelector {
    let labels = BTreeMap::from([("millrace.dev/job".to_owned(), names::job(job).to_owned())]);
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

fn metadata(job: &StreamJob) -> ObjectMeta {
    let mut metadata = super::metadata(job, names::protection(names::job(job)), Component::Job, 0);
    metadata.labels.get_or_insert_default().remove("millrace.dev/attempt");
    metadata
}

/// Only the job's own pods reach its pods, but for metrics, report and probes, which anybody may read. What they reach is not limited:
/// stores and brokers have no names to select.
pub fn network(job: &StreamJob) -> NetworkPolicy {
    let own = NetworkPolicyPeer { pod_selector: Some(pods(job)), ..Default::default() };
    let http = NetworkPolicyPort {
        port: Some(IntOrString::Int(HTTP_PORT)),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    NetworkPolicy {
        metadata: metadata(job),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods(job)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { from: Some(vec![own]), ports: None },
                NetworkPolicyIngressRule { from: None, ports: Some(vec![http]) },
            ]),
            egress: None,
        }),
    }
}

/// A node that is drained takes one pod at a time, and the next one once its successor is ready: one recovery after the other. Pods
/// that are not ready anyhow may always go.
pub fn budget(job: &StreamJob) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(job),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pods(job)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::manifest;

    use super::*;

    #[test]
    fn pods_of_all_attempts_are_protected_and_only_metrics_and_reports_are_open() {
        let job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a}, spec: {pipeline: {sql: x}}}",
        )
        .unwrap();
        let (network, budget) = (network(&job), budget(&job));
        let (policy, spec) = (network.spec.unwrap(), budget.spec.unwrap());
        let selected =
            |selector: LabelSelector| selector.match_labels.unwrap().into_iter().collect::<Vec<_>>();
        let of_job = vec![("millrace.dev/job".to_owned(), "a".to_owned())];
        assert_eq!(selected(policy.pod_selector.unwrap()), of_job);
        assert_eq!(selected(spec.selector.unwrap()), of_job);
        let rules = policy.ingress.unwrap();
        let [own, open] = rules.as_slice() else { panic!("two rules") };
        assert_eq!(selected(own.from.clone().unwrap()[0].pod_selector.clone().unwrap()), of_job);
        assert_eq!((own.ports.is_none(), open.from.is_none()), (true, true));
        assert_eq!(open.ports.as_ref().unwrap()[0].port, Some(IntOrString::Int(6123)));
        assert!(!network.metadata.labels.unwrap().contains_key("millrace.dev/attempt"));
        assert_eq!(budget.metadata.name.as_deref(), Some("a-pods"));
    }
}
