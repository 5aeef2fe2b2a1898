//! Makes the cluster what was decided: server-side apply of what a job should have, then deletion of what it should not.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use millrace_crds::StreamJob;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::Desired;
use crate::names;

/// Our name as owner of fields.
pub const FIELD_MANAGER: &str = "millrace-operator";

/// Applies in the order in which objects need each other, then deletes the job's other Deployments and ConfigMaps.
///
/// # Errors
/// Of the API server, in its own words.
pub async fn apply(job: &StreamJob, desired: &Desired, client: &Client) -> Result<(), kube::Error> {
    let namespace = names::namespace(job);
    if let Some(account) = &desired.account {
        put(client, namespace, account).await?;
    }
    if let Some(config) = &desired.config {
        put(client, namespace, config).await?;
    }
    if let Some(service) = &desired.service {
        put(client, namespace, service).await?;
    }
    if let Some(network) = &desired.network {
        put(client, namespace, network).await?;
    }
    if let Some(budget) = &desired.budget {
        put(client, namespace, budget).await?;
    }
    for deployment in &desired.deployments {
        if is_free(namespace, deployment, desired.keeps_deployments, client).await? {
            put(client, namespace, deployment).await?;
        }
    }
    let kept: Vec<String> = desired.deployments.iter().map(ResourceExt::name_any).collect();
    prune::<Deployment>(job, client, &kept).await?;
    if desired.keeps_config {
        return Ok(());
    }
    let kept: Vec<String> = desired.config.iter().map(ResourceExt::name_any).collect();
    prune::<ConfigMap>(job, client, &kept).await
}

/// Makes the ConfigMap of a spec that is not acted on yet, beside those that are there.
///
/// # Errors
/// Of the API server, in its own words.
pub async fn keep_config(job: &StreamJob, config: &ConfigMap, client: &Client) -> Result<(), kube::Error> {
    put(client, names::namespace(job), config).await
}

async fn put<K>(client: &Client, namespace: &str, object: &K) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    Api::<K>::namespaced(client.clone(), namespace)
        .patch(&object.name_any(), &parameters, &Patch::Apply(object))
        .await?;
    Ok(())
}

/// True if a Deployment can be applied. A selector cannot be changed, so one of another attempt is deleted first, and its end causes
/// the next reconcile. Its pods are not waited for: those on a dead node would be waited for until it is back, and of two coordinators
/// the older attempt's is fenced.
async fn is_free(
    namespace: &str,
    deployment: &Deployment,
    is_kept: bool,
    client: &Client,
) -> Result<bool, kube::Error> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let name = deployment.name_any();
    let Some(found) = api.get_opt(&name).await? else { return Ok(true) };
    if found.metadata.deletion_timestamp.is_some() {
        return Ok(false);
    }
    let selector = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.selector.clone());
    if selector(&found) == selector(deployment) {
        return Ok(!is_kept);
    }
    api.delete(&name, &DeleteParams::background()).await?;
    Ok(false)
}

/// Deletes the job's objects of a kind that are not to be kept.
async fn prune<K>(job: &StreamJob, client: &Client, kept: &[String]) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let api = Api::<K>::namespaced(client.clone(), names::namespace(job));
    let of_job = ListParams::default().labels(&format!("millrace.dev/job={}", names::job(job)));
    for object in api.list(&of_job).await? {
        let is_ours =
            object.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref());
        if is_ours && !kept.contains(&object.name_any()) {
            match api.delete(&object.name_any(), &DeleteParams::background()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
        }
    }
    Ok(())
}
