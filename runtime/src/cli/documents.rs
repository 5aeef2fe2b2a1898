//! Files of several YAML documents: a job, and what it needs beside it. Pure.

use std::collections::BTreeMap;

use millrace_crds::StreamJob;
use serde_json::Value;

/// The only StreamJob of a file, in its lines; the others are blank. A file of one document is left as it is.
///
/// # Errors
/// If there is none, or several.
pub fn job_in(text: &str) -> Result<String, String> {
    let documents = documents(text);
    if documents.len() < 2 {
        return Ok(text.to_owned());
    }
    let is_job = |document: &&String| kind(document).is_some_and(|(kind, _)| kind == "StreamJob");
    let jobs: Vec<&String> = documents.iter().filter(is_job).collect();
    match jobs.as_slice() {
        [job] => Ok((*job).clone()),
        [] => Err("there is no StreamJob among its documents".to_owned()),
        jobs => {
            let names = jobs.iter().filter_map(|job| Some(kind(job)?.1));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(format!("there are several StreamJobs in it ({names}); give each a file of its own"))
        }
    }
}

/// Puts the text of a ConfigMap that is in the same file into a job that names it.
///
/// # Errors
/// If it is not there.
pub fn resolve(job: &mut StreamJob, text: &str) -> Result<(), String> {
    let Some(from) = &job.spec.pipeline.sql_from else { return Ok(()) };
    let reference = &from.config_map_key_ref;
    let config = documents(text).into_iter().filter_map(|document| value(&document)).find(|document| {
        let field = |path: &str| document.pointer(path).and_then(Value::as_str);
        let namespace = job.metadata.namespace.as_deref();
        field("/kind") == Some("ConfigMap")
            && field("/metadata/name") == Some(reference.name.as_str())
            && field("/metadata/namespace").is_none_or(|of| Some(of) == namespace)
    });
    let Some(config) = config else {
        return Err(format!(
            "spec.pipeline.sqlFrom: there are no ConfigMaps outside of a cluster; put '{}' into this file, behind a line ---, or write \
             the text as spec.pipeline.sql",
            reference.name
        ));
    };
    let data: BTreeMap<&str, &str> = config["data"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, text)| Some((key.as_str(), text.as_str()?)))
        .collect();
    let Some(sql) = data.get(reference.key.as_str()).filter(|sql| !sql.trim().is_empty()) else {
        let keys: Vec<&str> = data.keys().copied().collect();
        return Err(format!(
            "spec.pipeline.sqlFrom: the ConfigMap '{}' has no text for the key '{}'; its keys are: {}",
            reference.name,
            reference.key,
            keys.join(", ")
        ));
    };
    job.spec.pipeline.sql = (*sql).to_owned();
    job.spec.pipeline.sql_from = None;
    Ok(())
}

/// Each document at its place in the file: what is around it are blank lines, so that mistakes are told by the file's lines.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        let is_mark =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if is_mark {
            documents.push("\n".repeat(number + 1));
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let has_content = |document: &String| {
        document.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
    };
    documents.retain(has_content);
    documents
}

fn value(document: &str) -> Option<Value> {
    serde_saphyr::from_str(document).ok()
}

/// Kind and name of an object. Of one that is no YAML the kind is looked for in its lines, so that what is wrong is told.
fn kind(document: &str) -> Option<(String, String)> {
    let Some(value) = value(document) else {
        let is_job = document.lines().any(|line| line.trim_end() == "kind: StreamJob");
        return is_job.then(|| ("StreamJob".to_owned(), String::new()));
    };
    let field = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((field("/kind"), field("/metadata/name")))
}

#[cfg(test)]
mod tests {
    use millrace_crds::manifest;

    use super::*;

    const JOB: &str = "apiVersion: millrace.dev/v1alpha1\nkind: StreamJob\nmetadata: {name: a}\n";

    #[test]
    fn the_job_is_found_among_documents_at_its_lines() {
        let one = format!("# a job\n{JOB}spec: {{}}\n");
        assert_eq!(job_in(&one), Ok(one.clone()));
        let two = format!("kind: Secret\n--- # next\n{JOB}spec:\n  x: |\n   ---\n---\n");
        let expected = format!("\n\n{JOB}spec:\n  x: |\n   ---\n");
        assert_eq!(job_in(&two), Ok(expected));
        let none = job_in("kind: Secret\n---\nkind: ConfigMap\n").unwrap_err();
        assert!(none.contains("no StreamJob"), "{none}");
        let several = format!("{JOB}---\n{}", JOB.replace("name: a", "name: b"));
        assert!(job_in(&several).unwrap_err().contains("several StreamJobs in it (a, b)"));
        let broken = format!("kind: Secret\n---\n{JOB}spec: [\n");
        assert!(job_in(&broken).unwrap().contains("spec: ["), "its own mistake is told");
    }

    #[test]
    fn the_text_of_a_config_map_of_the_same_file_is_the_jobs() {
        let job =
            format!("{JOB}spec: {{pipeline: {{sqlFrom: {{configMapKeyRef: {{name: q, key: a.sql}}}}}}}}\n");
        let resolved = |config: &str| {
            let text = format!("{job}---\n{config}");
            let mut job = manifest::read(&job_in(&text).unwrap()).unwrap();
            resolve(&mut job, &text).map(|()| job.spec.pipeline)
        };
        let config = |data: &str| format!("kind: ConfigMap\nmetadata: {{name: q}}\ndata:\n  {data}\n");
        let pipeline = resolved(&config("a.sql: |\n    INSERT")).unwrap();
        assert_eq!((pipeline.sql.as_str(), pipeline.sql_from), ("INSERT\n", None));
        let other = resolved(&config("b.sql: INSERT")).unwrap_err();
        assert!(other.contains("no text for the key 'a.sql'; its keys are: b.sql"), "{other}");
        let others = "kind: ConfigMap\nmetadata: {name: q, namespace: another}\ndata: {a.sql: x}\n";
        assert!(resolved(others).is_err(), "it is of another namespace");
        let none = resolved("kind: ConfigMap\nmetadata: {name: other}\n").unwrap_err();
        assert!(none.contains("put 'q' into this file, behind a line ---"), "{none}");
    }
}
