//! What keeps a spec from becoming pods at all. Pure: the spec is judged before an attempt is recorded, and the pods of the last
//! good spec run on.

use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::{StreamJobSpec, UpgradeMode};
use millrace_sql::plan::{Plan, misfit, succeed};

use crate::desired;
use crate::model::Refusal;

/// What the job's state was made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running<'a> {
    pub sql: &'a str,
    pub location: &'a str,
}

/// Judges a spec that is not the one the pods were made for. `running` is what they run or ran, if the job has state.
pub fn refusal(job: &StreamJob, running: Option<Running<'_>>) -> Option<Refusal> {
    location(job)
        .or_else(|| resources(job))
        .or_else(|| templates(job))
        .or_else(|| moved(job, running?))
        .or_else(|| sql(&job.spec, running.map(|running| running.sql)))
}

/// At another place the job would begin from nothing, and write everything again.
fn moved(job: &StreamJob, running: Running<'_>) -> Option<Refusal> {
    let wanted = job.spec.checkpoint.location.as_deref().unwrap_or_default();
    (wanted != running.location).then(|| Refusal {
        reason: "LocationChanged",
        message: format!(
            "spec.checkpoint.location: the job's state is at '{}', and the running job goes on there; put it back, or give the job \
             another name to start over at '{wanted}'",
            running.location
        ),
    })
}

fn location(job: &StreamJob) -> Option<Refusal> {
    let (reason, message) = match job.spec.checkpoint.location.as_deref() {
        None => (
            "LocationMissing",
            "spec.checkpoint.location: set it to a bucket, such as s3://bucket/prefix: on a cluster state must outlive pods. A \
             default for all jobs is checkpointLocation in the values of the chart"
                .to_owned(),
        ),
        Some(location) if !location.starts_with("s3://") => (
            "LocationNotShared",
            format!(
                "spec.checkpoint.location: '{location}' is inside of a pod and would be lost with it; use a bucket, such as \
                 s3://bucket/prefix"
            ),
        ),
        Some(_) => {
            let place = job.spec.start_place().filter(|place| !place.starts_with("s3://"))?;
            (
                "LocationNotShared",
                format!(
                    "spec.startFrom: '{place}' is not in a bucket, and pods have nothing else in common; name one, such as \
                     s3://bucket/folder/namespace/name"
                ),
            )
        }
    };
    Some(Refusal { reason, message })
}

fn resources(job: &StreamJob) -> Option<Refusal> {
    let mistakes = job.spec.resource_mistakes();
    (!mistakes.is_empty()).then(|| Refusal { reason: "InvalidResources", message: mistakes.join("; ") })
}

fn templates(job: &StreamJob) -> Option<Refusal> {
    desired::template_mistake(job).map(|message| Refusal { reason: "InvalidPodTemplate", message })
}

fn sql(spec: &StreamJobSpec, running: Option<&str>) -> Option<Refusal> {
    let (pipeline, upgrade) = (&spec.pipeline, &spec.upgrade);
    let plan = match compile(&pipeline.sql) {
        Ok(plan) => plan,
        // What runs was compiled once, and its plan is in its checkpoints: it does not depend on what this release makes of the text.
        Err(_) if running == Some(pipeline.sql.as_str()) => return None,
        Err(message) => return Some(Refusal { reason: "InvalidSql", message }),
    };
    let named = plan.secrets();
    let named = named.iter().map(|named| (named.table.as_str(), named.option.as_str(), named.name.as_str()));
    if let Some(message) = pipeline.undeclared(named) {
        return Some(Refusal { reason: "SecretUndeclared", message });
    }
    let running =
        running.filter(|running| *running != pipeline.sql && upgrade.mode != UpgradeMode::Stateless)?;
    // What runs was compiled once; if this release cannot compile it any more, the texts are all that can be compared.
    let differences = match compile(running) {
        Ok(running) => {
            let differences = succeed(&running, &plan, upgrade.allow_non_restored_state).err()?;
            misfit(&running, &plan, &differences)
        }
        Err(_) => "this release cannot compile the old text any more; put it back, or begin without state with spec.upgrade.mode: \
                   Stateless"
            .to_owned(),
    };
    Some(Refusal {
        reason: "PlanChanged",
        message: format!(
            "spec.pipeline.sql: the running job goes on unchanged, for its state does not fit: {differences}"
        ),
    })
}

fn compile(sql: &str) -> Result<Plan, String> {
    millrace_sql::compile(sql).map_err(|mistakes| {
        let rendered: Vec<String> = mistakes.iter().map(|mistake| mistake.render(sql)).collect();
        format!("spec.pipeline.sql:\n{}", rendered.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::manifest;
    use millrace_crds::v1alpha1::UpgradeSpec;

    const SQL: &str = "CREATE TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');\n\
                       CREATE TABLE b (x BIGINT) WITH ('connector' = 'blackhole');\n\
                       INSERT INTO b SELECT x FROM a WHERE x > 1;";

    fn upgraded(sql: &str, mode: UpgradeMode, allow_non_restored_state: bool) -> StreamJob {
        let mut job = job("s3://b/j", sql);
        job.spec.upgrade = UpgradeSpec { mode, allow_non_restored_state };
        job
    }

    fn with_resources() -> StreamJob {
        let mut job = job("s3://a/b", SQL);
        job.spec.workers.resources.requests.memory = "2Gi".parse().ok();
        job.spec.workers.resources.limits.memory = "1Gi".parse().ok();
        job
    }

    fn with_template(template: serde_json::Value) -> StreamJob {
        let mut job = job("s3://a/b", SQL);
        job.metadata.uid = Some("u-1".to_owned());
        job.spec.workers.pod_template = Some(template);
        job
    }

    fn job(location: &str, sql: &str) -> StreamJob {
        let spec = serde_json::json!({"pipeline": {"sql": sql}, "checkpoint": {"location": location}});
        let manifest = serde_json::json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "a"}, "spec": spec});
        manifest::read(&manifest.to_string()).unwrap()
    }

    #[test]
    fn a_spec_is_refused_by_reason_and_field() {
        let started = |place: &str| {
            let mut started = job("s3://bucket/jobs", SQL);
            started.spec.start_from = place.to_owned();
            started
        };
        let mut nowhere = job("s3://bucket/jobs", SQL);
        nowhere.spec.checkpoint.location = None;
        let commented = format!("-- the same\n{SQL}");
        let changed = SQL.replace("x > 1", "x > 2");
        let two = format!("{SQL} INSERT INTO b SELECT x + 1 FROM a;");
        let formerly = SQL.replace("SELECT x", "SELECT FORMERLY(x)");
        let running = Some(Running { sql: SQL, location: "s3://b/j" });
        let with_secret =
            SQL.replace("'path' = '/a'", "'path' = '/a', 'scan.rows-per-second' = '${secret:place}'");
        let mut declared = job("s3://bucket/jobs", &with_secret);
        let place = serde_json::json!([{"name": "place", "secretKeyRef": {"name": "s", "key": "k"}}]);
        declared.spec.pipeline.secrets = serde_json::from_value(place).unwrap();
        let cases = [
            ("a declared secret", declared, None, None),
            (
                "an undeclared secret",
                job("s3://bucket/jobs", &with_secret),
                None,
                Some((
                    "SecretUndeclared",
                    "the option 'scan.rows-per-second' of the table 'a' names the secret 'place'",
                )),
            ),
            ("a bucket and good SQL", job("s3://bucket/jobs", SQL), None, None),
            ("no location", nowhere, None, Some(("LocationMissing", "spec.checkpoint.location"))),
            (
                "resources",
                with_resources(),
                None,
                Some(("InvalidResources", "spec.workers.resources.requests.memory: 2Gi")),
            ),
            (
                "a template with a field that pods do not have",
                with_template(serde_json::json!({"spec": {"nodeSelektor": {"disk": "ssd"}}})),
                None,
                Some((
                    "InvalidPodTemplate",
                    "spec.workers.podTemplate.spec.nodeSelektor: a pod has no such field",
                )),
            ),
            (
                "a template",
                with_template(serde_json::json!({"spec": {"nodeSelector": {"disk": "ssd"}}})),
                None,
                None,
            ),
            ("a folder", job("file:///state", SQL), None, Some(("LocationNotShared", "file:///state"))),
            (
                "a wrong column",
                job("s3://b/j", &SQL.replace("SELECT x", "SELECT y")),
                None,
                Some(("InvalidSql", "line 3")),
            ),
            (
                "a text that was compiled once",
                job("s3://b/j", &SQL.replace("SELECT x", "SELECT FORMERLY(x)")),
                Some(Running { sql: formerly.as_str(), location: "s3://b/j" }),
                None,
            ),
            ("a start in a bucket", started("s3://bucket/saved/1"), None, None),
            (
                "a start in a folder",
                started("/saved/1"),
                None,
                Some(("LocationNotShared", "spec.startFrom: '/saved/1' is not in a bucket")),
            ),
            ("the same text", job("s3://b/j", SQL), running, None),
            (
                "another source without state",
                upgraded(&SQL.replace("'/a'", "'/c'"), UpgradeMode::Stateless, false),
                running,
                None,
            ),
            (
                "an INSERT less",
                upgraded(SQL, UpgradeMode::LastState, false),
                Some(Running { sql: &two, location: "s3://b/j" }),
                Some(("PlanChanged", "or let its state go with spec.upgrade.allowNonRestoredState")),
            ),
            (
                "an INSERT less, and its state",
                upgraded(SQL, UpgradeMode::LastState, true),
                Some(Running { sql: &two, location: "s3://b/j" }),
                None,
            ),
            ("a comment more", job("s3://b/j", &commented), running, None),
            ("another filter", job("s3://b/j", &changed), running, None),
            (
                "another source",
                job("s3://b/j", &SQL.replace("'/a'", "'/c'")),
                running,
                Some(("PlanChanged", "the option 'path' was '/a' and is '/c'")),
            ),
            (
                "another rate",
                job("s3://b/j", &SQL.replace("'path'", "'scan.rows-per-second' = '5', 'path'")),
                running,
                None,
            ),
            (
                "another place",
                job("s3://b/other", SQL),
                running,
                Some(("LocationChanged", "is at 's3://b/j'")),
            ),
        ];
        for (case, job, running, expected) in cases {
            let found = refusal(&job, running);

            assert_eq!(
                found.as_ref().map(|refusal| refusal.reason),
                expected.map(|(reason, _)| reason),
                "{case}: {found:?}"
            );
            if let (Some(found), Some((_, words))) = (found, expected) {
                assert!(found.message.contains(words), "{case}: {}", found.message);
            }
        }
    }
}
