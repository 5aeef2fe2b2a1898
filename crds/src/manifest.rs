//! Reads a StreamJob from a YAML file, with the same checks as a cluster's.

use std::fmt;

use serde_json::Value;

use crate::StreamJob;

/// What is wrong with a manifest: each mistake with its place or field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    pub mistakes: Vec<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistakes.join("\n"))
    }
}

impl std::error::Error for ManifestError {}

/// Reads a manifest and checks all rules of the schema.
///
/// # Errors
/// Unknown fields, wrong types and broken rules, each with what to change.
pub fn read(yaml: &str) -> Result<StreamJob, ManifestError> {
    let value: Value = serde_saphyr::from_str(yaml).map_err(|error| refuse(error.to_string()))?;
    check_kind(&value)?;
    let unknown = unknown_fields(&value);
    if !unknown.is_empty() {
        return Err(ManifestError { mistakes: unknown });
    }
    let mut job: StreamJob = serde_saphyr::from_str(yaml).map_err(|error| {
        // The reader of YAML knows line and column, this one knows the field.
        match serde_path_to_error::deserialize::<_, StreamJob>(&value) {
            Err(at) if at.path().iter().next().is_some() => refuse(format!("{}: {error}", at.path())),
            _ => refuse(error.to_string()),
        }
    })?;
    if job.metadata.name.is_none() {
        return Err(refuse("metadata.name: is missing; give the job a name".to_owned()));
    }
    job.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let mut mistakes = ranges(&job);
    if let Err(errors) = job.validate_cel() {
        mistakes.extend(errors.iter().map(|error| error.message.clone()));
    }
    mistakes.sort();
    mistakes.dedup();
    if mistakes.is_empty() { Ok(job) } else { Err(ManifestError { mistakes }) }
}

/// Fields of every object of Kubernetes; others are refused by `kubectl apply`, too.
const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What stands beside and inside of `metadata` and does not belong there. Below `spec` the types know.
fn unknown_fields(value: &Value) -> Vec<String> {
    let at = |prefix: &str, value: Option<&Value>, known: &[&str]| -> Vec<String> {
        let fields = value.and_then(Value::as_object).into_iter().flat_map(|object| object.keys());
        let unknown = fields.filter(|field| !known.contains(&field.as_str()));
        unknown
            .map(|field| format!("{prefix}{field}: is not known; known are {}", known.join(", ")))
            .collect()
    };
    [at("", Some(value), TOP), at("metadata.", value.get("metadata"), METADATA)].concat()
}

/// Longest SQL, as in the schema: what is stored in a cluster has its bounds.
const SQL_CHARS_MAX: usize = 262_144;

/// Longest name of an object of Kubernetes.
const NAME_CHARS_MAX: usize = 253;

/// Longest name of a place of state.
const PLACE_CHARS_MAX: usize = 1024;

/// Longest name that SQL has for a secret, and most of them.
const SECRET_CHARS_MAX: usize = 63;
const SECRETS_MAX: usize = 64;

/// The schema's ranges, which the API server checks without CEL.
fn ranges(job: &StreamJob) -> Vec<String> {
    let spec = &job.spec;
    let mut mistakes = Vec::new();
    let mut check = |field: &str, value: u32, most: u32| {
        if !(1..=most).contains(&value) {
            mistakes.push(format!("{field}: {value} is not from 1 to {most}"));
        }
    };
    check("spec.parallelism", spec.parallelism, 32_768);
    check("spec.maxParallelism", spec.max_parallelism, 32_768);
    check("spec.workers.slots", spec.workers.slots, 64);
    check("spec.checkpoint.retain", spec.checkpoint.retain, 1000);
    check("spec.restart.maxRestarts", spec.restart.max_restarts.unwrap_or(1), 1_000_000);
    check("spec.restart.maxFailures", spec.restart.max_failures.unwrap_or(1), 1000);
    if let Some(credentials) = &spec.storage.credentials
        && !(1..=NAME_CHARS_MAX).contains(&credentials.secret_ref.name.chars().count())
    {
        mistakes.push(format!(
            "spec.storage.credentials.secretRef.name: has not 1 to {NAME_CHARS_MAX} characters"
        ));
    }
    for (index, secret) in spec.pipeline.secrets.iter().enumerate() {
        let reference = &secret.secret_key_ref;
        for (field, text, most) in [
            ("name", &secret.name, SECRET_CHARS_MAX),
            ("secretKeyRef.name", &reference.name, NAME_CHARS_MAX),
            ("secretKeyRef.key", &reference.key, NAME_CHARS_MAX),
        ] {
            if !(1..=most).contains(&text.chars().count()) {
                mistakes
                    .push(format!("spec.pipeline.secrets[{index}].{field}: has not 1 to {most} characters"));
            }
        }
    }
    if !(1..=PLACE_CHARS_MAX).contains(&spec.start_from.chars().count()) {
        mistakes.push(format!("spec.startFrom: has not 1 to {PLACE_CHARS_MAX} characters"));
    }
    mistakes.extend(spec.resource_mistakes());
    if spec.pipeline.secrets.len() > SECRETS_MAX {
        mistakes.push(format!("spec.pipeline.secrets: more than {SECRETS_MAX} of them"));
    }
    if spec.pipeline.sql.chars().count() > SQL_CHARS_MAX {
        mistakes.push(format!("spec.pipeline.sql: is longer than {SQL_CHARS_MAX} characters; divide the pipeline into several jobs"));
    }
    if spec.pipeline.sql.trim().is_empty() {
        mistakes
            .push("spec.pipeline.sql: is empty; write CREATE TABLE … and INSERT INTO … SELECT …".to_owned());
    }
    mistakes
}

fn check_kind(value: &Value) -> Result<(), ManifestError> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != "millrace.dev/v1alpha1" {
        return Err(refuse(format!("apiVersion: is {version}, write millrace.dev/v1alpha1")));
    }
    if kind != "StreamJob" {
        return Err(refuse(format!("kind: is {kind}, write StreamJob")));
    }
    Ok(())
}

fn refuse(mistake: String) -> ManifestError {
    ManifestError { mistakes: vec![mistake] }
}
