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
