//! The text of a pipeline that is kept in a ConfigMap of the user's: pods get it as if it were in the spec.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::ConfigMapKeyReference;

use crate::model::Refusal;
use crate::names;

/// The job with the text of its pipeline, or as it is and why there is no text.
///
/// # Errors
/// If the API server does not answer.
pub async fn resolved(job: &StreamJob, client: &Client) -> Result<(StreamJob, Option<Refusal>), kube::Error> {
    let Some(from) = &job.spec.pipeline.sql_from else { return Ok((job.clone(), None)) };
    let namespace = names::namespace(job);
    let reference = &from.config_map_key_ref;
    let config = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&reference.name).await?;
    Ok(with_text(job, text(config.as_ref(), reference, namespace)))
}

/// True if a job's text is in a ConfigMap of this name.
pub fn is_in(job: &StreamJob, namespace: &str, config: &str) -> bool {
    let from = job.spec.pipeline.sql_from.as_ref();
    names::namespace(job) == namespace && from.is_some_and(|from| from.config_map_key_ref.name == config)
}

/// What is said of the text, said of the place where the user finds it.
pub fn of_place(refusal: Refusal, job: &StreamJob) -> Refusal {
    let Some(from) = &job.spec.pipeline.sql_from else { return refusal };
    let reference = &from.config_map_key_ref;
    let place = format!("spec.pipeline.sqlFrom: ConfigMap '{}', key '{}':", reference.name, reference.key);
    let message = match refusal.message.strip_prefix("spec.pipeline.sql:") {
        Some(rest) => format!("{place}{rest}"),
        None => refusal.message,
    };
    Refusal { message, ..refusal }
}

fn with_text(job: &StreamJob, text: Result<String, String>) -> (StreamJob, Option<Refusal>) {
    let mut job = job.clone();
    match text {
        Ok(sql) => {
            job.spec.pipeline.sql = sql;
            job.spec.pipeline.sql_from = None;
            (job, None)
        }
        Err(message) => (job, Some(Refusal { reason: "SqlMissing", message })),
    }
}

fn text(
    config: Option<&ConfigMap>,
    reference: &ConfigMapKeyReference,
    namespace: &str,
) -> Result<String, String> {
    let ConfigMapKeyReference { name, key } = reference;
    let Some(config) = config else {
        return Err(format!(
            "spec.pipeline.sqlFrom: there is no ConfigMap '{name}' in the namespace '{namespace}'; make it with kubectl create \
             configmap {name} --namespace {namespace} --from-file {key}=FILE"
        ));
    };
    let data = config.data.iter().flatten();
    let Some(text) = data.clone().find_map(|(found, text)| (found == key).then_some(text)) else {
        let keys: Vec<&str> = data.map(|(key, _)| key.as_str()).collect();
        let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        return Err(format!(
            "spec.pipeline.sqlFrom: the ConfigMap '{name}' has no key '{key}'; its keys are: {keys}"
        ));
    };
    match text.trim().is_empty() {
        true => Err(format!(
            "spec.pipeline.sqlFrom: the key '{key}' of the ConfigMap '{name}' is empty; write CREATE TABLE … and INSERT INTO … \
             SELECT … there"
        )),
        false => Ok(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::manifest;

    #[test]
    fn the_text_of_a_config_map_is_the_jobs_or_it_is_told_what_is_missing() {
        let job = manifest::read(
            "{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {name: a, namespace: shop}, spec: {pipeline: {sqlFrom: \
             {configMapKeyRef: {name: queries, key: a.sql}}}}}",
        )
        .unwrap();
        let config = |data: &[(&str, &str)]| ConfigMap {
            data: Some(data.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()),
            ..Default::default()
        };
        let cases = [
            (None, Err("no ConfigMap 'queries' in the namespace 'shop'; make it with kubectl create")),
            (Some(config(&[])), Err("has no key 'a.sql'; its keys are: none")),
            (Some(config(&[("b.sql", "x"), ("c.sql", "x")])), Err("its keys are: b.sql, c.sql")),
            (Some(config(&[("a.sql", " \n")])), Err("is empty; write CREATE TABLE")),
            (Some(config(&[("a.sql", "INSERT")])), Ok("INSERT")),
        ];
        for (config, expected) in cases {
            let reference = &job.spec.pipeline.sql_from.as_ref().unwrap().config_map_key_ref;
            let (resolved, missing) = with_text(&job, text(config.as_ref(), reference, "shop"));
            match (expected, missing) {
                (Ok(sql), None) => {
                    assert_eq!(resolved.spec.pipeline.sql, sql);
                    assert_eq!(
                        resolved.spec.pipeline.sql_from, None,
                        "it is as one that has the text itself"
                    );
                }
                (Err(part), Some(missing)) => assert!(missing.message.contains(part), "{missing:?}"),
                (expected, missing) => panic!("{expected:?}: {missing:?}"),
            }
        }
        assert!(
            is_in(&job, "shop", "queries") && !is_in(&job, "shop", "others") && !is_in(&job, "b", "queries")
        );
        let refusal = |message: &str| Refusal { reason: "InvalidSql", message: message.to_owned() };
        let told = of_place(refusal("spec.pipeline.sql:\nline 1"), &job);
        assert_eq!(told.message, "spec.pipeline.sqlFrom: ConfigMap 'queries', key 'a.sql':\nline 1");
        assert_eq!(of_place(refusal("spec.image: x"), &job), refusal("spec.image: x"));
    }
}
