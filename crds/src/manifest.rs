//! Reads a StreamJob from a YAML file, with the same checks as a cluster's.

use std::fmt;

use serde_json::Value;

use crate::StreamJob;

/// What is wrong with a manifest: each mistake with its place or field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    pub mistakes: Vec<String>,
    /// The SQL of the pipeline, whose own mistakes can be shown with these.
    pub sql: Option<String>,
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
    let mut value: Value = serde_saphyr::from_str(yaml).map_err(|error| refuse(error.to_string()))?;
    let has_nulls = without_nulls(&mut value);
    let mut mistakes = check_kind(&value)?;
    // Only the text knows lines, and only the value has no nulls.
    match checked((!has_nulls).then_some(yaml), &value) {
        Ok(job) if mistakes.is_empty() => return Ok(job),
        Ok(_) => {}
        // Without a version nothing else is a mistake of its own.
        Err(found) => mistakes.extend(found.into_iter().filter(|found| !found.contains("`apiVersion`"))),
    }
    let sql = value.pointer("/spec/pipeline/sql").and_then(Value::as_str);
    Err(ManifestError { mistakes, sql: sql.map(str::to_owned) })
}

/// Takes fields without a value out, as an API server does: they have their defaults then. True if there were some.
fn without_nulls(value: &mut Value) -> bool {
    let mut has_nulls = false;
    match value {
        Value::Object(fields) => {
            let before = fields.len();
            fields.retain(|_, value| !value.is_null());
            has_nulls = fields.len() < before;
            fields.values_mut().for_each(|value| has_nulls |= without_nulls(value));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| has_nulls |= without_nulls(value)),
        _ => {}
    }
    has_nulls
}

fn checked(yaml: Option<&str>, value: &Value) -> Result<StreamJob, Vec<String>> {
    let mut mistakes = unknown_fields(value);
    let job = typed(yaml, value).map_err(|found| mistakes.extend(found)).ok();
    let (Some(mut job), true) = (job, mistakes.is_empty()) else { return Err(mistakes) };
    if job.metadata.name.is_none() {
        mistakes.push("metadata.name: is missing; give the job a name".to_owned());
    }
    job.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    mistakes.extend(ranges(&job));
    if let Err(errors) = job.validate_cel() {
        mistakes.extend(errors.iter().map(|error| error.message.clone()));
    }
    if mistakes.iter().any(|mistake| mistake.starts_with(NO_SQL)) {
        // It is said already.
        mistakes.retain(|mistake| !mistake.starts_with("spec.pipeline: exactly one"));
    }
    mistakes.sort();
    mistakes.dedup();
    if mistakes.is_empty() { Ok(job) } else { Err(mistakes) }
}

/// The job, or all fields that are unknown or of a wrong type.
fn typed(yaml: Option<&str>, value: &Value) -> Result<StreamJob, Vec<String>> {
    let mut rest = value.clone();
    let mut mistakes: Vec<(Vec<Segment>, String)> = Vec::new();
    loop {
        let (place, said) = match serde_path_to_error::deserialize::<_, StreamJob>(&rest) {
            Ok(job) if mistakes.is_empty() && yaml.is_none() => return Ok(job),
            Ok(_) => break,
            Err(error) => (place(error.path()), error.inner().to_string()),
        };
        // A field that is missing may be one that was wrong, and was taken out.
        if !mistakes.is_empty() && said.starts_with("missing field") {
            break;
        }
        let is_out = take_out(&mut rest, &place);
        mistakes.push((place, said));
        if !is_out {
            break;
        }
    }
    // The reader of YAML knows line and column, of the first mistake that it meets.
    match yaml.map(typed_text) {
        Some(Ok(job)) => return Ok(job),
        Some(Err((place, said))) => match mistakes.iter_mut().find(|(other, _)| *other == place) {
            Some(mistake) => mistake.1 = said,
            None => mistakes.push((place, said)),
        },
        None => {}
    }
    let described = |(place, said): (Vec<Segment>, String)| match place.is_empty() {
        true => said,
        false => format!("{}: {said}", path(&place)),
    };
    Err(mistakes.into_iter().map(described).collect())
}

/// The job as its text says it, or the first mistake and its place.
fn typed_text(yaml: &str) -> Result<StreamJob, (Vec<Segment>, String)> {
    let mut at = Vec::new();
    let read = serde_saphyr::with_deserializer_from_str(yaml, |text| {
        serde_path_to_error::deserialize(text).map_err(|error| {
            at = place(error.path());
            error.into_inner()
        })
    });
    read.map_err(|error| (at, error.to_string()))
}

/// A step to a field or an item.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Field(String),
    Item(usize),
}

/// Where a mistake is. The name of a variant is the value itself, and no step.
fn place(path: &serde_path_to_error::Path) -> Vec<Segment> {
    let segment = |segment: &serde_path_to_error::Segment| match segment {
        serde_path_to_error::Segment::Map { key } => Some(Segment::Field(key.clone())),
        serde_path_to_error::Segment::Seq { index } => Some(Segment::Item(*index)),
        serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
    };
    path.iter().filter_map(segment).collect()
}

fn path(place: &[Segment]) -> String {
    let mut path = String::new();
    for segment in place {
        match segment {
            Segment::Item(index) => path.push_str(&format!("[{index}]")),
            Segment::Field(name) if path.is_empty() => path.push_str(name),
            Segment::Field(name) => path.push_str(&format!(".{name}")),
        }
    }
    path
}

/// Removes the field or item at a place; false if there is none.
fn take_out(value: &mut Value, place: &[Segment]) -> bool {
    let Some((last, parents)) = place.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, segment| match segment {
        Segment::Field(name) => value.get_mut(name),
        Segment::Item(index) => value.get_mut(index),
    });
    match (parent, last) {
        (Some(Value::Object(fields)), Segment::Field(name)) => fields.remove(name).is_some(),
        (Some(Value::Array(items)), Segment::Item(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
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

const NO_SQL: &str = "spec.pipeline.sql: is empty";

/// Longest name of an object of Kubernetes.
const NAME_CHARS_MAX: usize = 253;

/// Longest name of a place of state.
const PLACE_CHARS_MAX: usize = 1024;

/// Longest name of an image.
const IMAGE_CHARS_MAX: usize = 500;

/// Longest name that SQL has for a secret, and most of them.
const SECRET_CHARS_MAX: usize = 63;
const SECRETS_MAX: usize = 64;

/// The schema's ranges, which the API server checks without CEL.
fn ranges(job: &StreamJob) -> Vec<String> {
    let spec = &job.spec;
    let mut mistakes = Vec::new();
    if spec.checkpoint.accept_lost_results_of == Some(0) {
        mistakes.push("spec.checkpoint.acceptLostResultsOf: 0 is no epoch: they begin at 1".to_owned());
    }
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
    for (field, value, least, most) in [
        ("backoffMultiplier", spec.restart.backoff_multiplier, 1.0, 100.0),
        ("jitter", spec.restart.jitter, 0.0, 1.0),
    ] {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            mistakes.push(format!("spec.restart.{field}: {value} is not from {least} to {most}"));
        }
    }
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
    mistakes.extend(spec.template_mistakes());
    if spec.image.as_ref().is_some_and(|image| !(1..=IMAGE_CHARS_MAX).contains(&image.chars().count())) {
        mistakes.push(format!("spec.image: has not 1 to {IMAGE_CHARS_MAX} characters"));
    }
    if spec.pipeline.secrets.len() > SECRETS_MAX {
        mistakes.push(format!("spec.pipeline.secrets: more than {SECRETS_MAX} of them"));
    }
    if spec.pipeline.sql.chars().count() > SQL_CHARS_MAX {
        mistakes.push(format!("spec.pipeline.sql: is longer than {SQL_CHARS_MAX} characters; divide the pipeline into several jobs"));
    }
    if let Some(from) = &spec.pipeline.sql_from {
        let reference = &from.config_map_key_ref;
        for (field, text) in [("name", &reference.name), ("key", &reference.key)] {
            if !(1..=NAME_CHARS_MAX).contains(&text.chars().count()) {
                mistakes.push(format!(
                    "spec.pipeline.sqlFrom.configMapKeyRef.{field}: has not 1 to {NAME_CHARS_MAX} characters"
                ));
            }
        }
    } else if spec.pipeline.sql.trim().is_empty() {
        mistakes.push(format!("{NO_SQL}; write CREATE TABLE … and INSERT INTO … SELECT …"));
    }
    mistakes
}

/// The mistakes of what kind of object it is. One of another kind has other fields, and nothing more is said of it.
fn check_kind(value: &Value) -> Result<Vec<String>, ManifestError> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let mut mistakes = Vec::new();
    if version != "millrace.dev/v1alpha1" {
        mistakes.push(format!("apiVersion: is {version}, write millrace.dev/v1alpha1"));
    }
    if kind != "StreamJob" {
        mistakes.push(format!("kind: is {kind}, write StreamJob"));
        return Err(ManifestError { mistakes, sql: None });
    }
    Ok(mistakes)
}

fn refuse(mistake: String) -> ManifestError {
    ManifestError { mistakes: vec![mistake], sql: None }
}
