//! What a user does to jobs on a cluster, and what a user does wrong: suspend, resume, scale, edit, delete; broken SQL, missing
//! buckets, Secrets and topics, poison records, state that is damaged or another job's. Every mistake must show as a condition with
//! reason, message and cure; once the cure is applied the job goes on by itself, and its rows are compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use snafu::{OptionExt, ResultExt, whatever};

use crate::compare;
use crate::events;
use crate::outside::{self, Kafka, Outcome, apply, kubectl, records, run, wait};

/// How long a condition or phase may take to come: the kubelet writes a changed Secret within a minute and a half.
const SECONDS: u64 = 150;

/// How long the store answers nothing but errors.
const OUTAGE: Duration = Duration::from_secs(60);

/// Events of the generator, and the rate that keeps a job busy until it is told otherwise.
const EVENTS: u64 = 200_000;
const SLOW: u64 = 1_000;
const FAST: u64 = 1_000_000;

/// A manifest's parts that the cases change.
#[derive(Clone)]
struct Job {
    name: &'static str,
    suspend: bool,
    parallelism: u32,
    location: String,
    secret: &'static str,
    sql: String,
}

/// Where the rows of an undisturbed run are kept while this program runs.
pub const UNDISTURBED: &str = "undisturbed";

/// One namespace with one job after the other.
pub struct Life<'a> {
    pub folder: &'a Path,
    pub namespace: &'a str,
    pub kafka: &'a Kafka,
    pub say: &'a dyn Fn(&str),
}

impl Life<'_> {
    /// Runs all cases.
    ///
    /// # Errors
    /// What was not as it should be.
    pub fn all(&self) -> Outcome<()> {
        self.secret("s3", None)?;
        // The kubelet takes a minute or more to write a changed Secret; other cases go on meanwhile.
        self.missing_secret()?;
        self.broken_manifests()?;
        self.life()?;
        self.broken_sql_and_foreign_state()?;
        self.damaged_state()?;
        self.store_errors()?;
        self.missing_files()?;
        self.wrong_secret()?;
        self.missing_bucket()?;
        self.missing_topic()?;
        self.poison()?;
        self.right_secret()
    }

    /// The API server refuses what the schema and its rules do not allow, in words that name the field.
    fn broken_manifests(&self) -> Outcome<()> {
        let good = self.manifest(&self.job("manifest", &self.sql("manifest", FAST)));
        let cases: [(&str, Value, &[&str]); 6] = [
            ("/spec/paralelism", 4.into(), &["unknown field \"spec.paralelism\""]),
            ("/spec/parallelism", "many".into(), &["spec.parallelism", "integer"]),
            ("/spec/parallelism", 2048.into(), &["spec.parallelism: at most spec.maxParallelism"]),
            ("/spec/maxParallelism", 1000.into(), &["spec.maxParallelism: a power of two"]),
            ("/spec/checkpoint/interval", "9ms".into(), &["spec.checkpoint.interval: at least 10ms"]),
            ("/metadata/name", "Totals".into(), &["metadata.name", "lower"]),
        ];
        for (field, value, parts) in cases {
            let mut broken = good.clone();
            let (parent, name) = field.rsplit_once('/').unwrap_or_default();
            broken.pointer_mut(parent).whatever_context("no such field")?[name] = value;
            let refused = match apply(self.folder, "broken.json", &broken.to_string()) {
                Ok(()) => whatever!("{field} was accepted"),
                Err(error) => error.to_string(),
            };
            if let Some(part) = parts.iter().find(|part| !refused.contains(**part)) {
                whatever!("'{part}' is not in the refusal of {field}: {refused}");
            }
        }
        let job = self.job("manifest", &self.sql("manifest", FAST));
        self.apply(&job)?;
        self.finish(&job)?;
        (self.say)("broken manifests: refused by kubectl apply with field and cure; ran once corrected");
        Ok(())
    }

    /// From suspended to finished, through every kind of edit.
    fn life(&self) -> Outcome<()> {
        let mut job = self.job("life", &self.sql("life", SLOW));
        // State at a place of its own, which can be taken away without its results.
        let bucket = bucket_folder()?.with_file_name(format!("{}-life", self.namespace));
        let aside = bucket.with_extension("aside");
        std::fs::create_dir(&bucket).whatever_context("failed to make a bucket")?;
        job.location = format!("s3://{}-life/state", self.namespace);
        job.suspend = true;
        self.apply(&job)?;
        self.phase("life", "Suspended")?;
        self.no_pods("life")?;

        job.suspend = false;
        self.apply(&job)?;
        self.phase("life", "Running")?;
        self.checkpoint("life", 2)?;
        self.pods_have_no_rights("life")?;

        // The bucket is away: a last checkpoint cannot be taken, which is said, and the job runs on until it can.
        std::fs::rename(&bucket, &aside).whatever_context("failed to take the bucket away")?;
        job.suspend = true;
        self.apply(&job)?;
        let said = self.condition(
            "life",
            "Ready",
            "False",
            "CheckpointFailed",
            &["The job runs on", "NoSuchBucket"],
        );
        let runs = self.pods("life").map(|pods| !pods.is_empty());
        std::fs::rename(&aside, &bucket).whatever_context("failed to put the bucket back")?;
        said?;
        if !runs? {
            whatever!("the job has lost its pods without a last checkpoint");
        }
        self.phase("life", "Suspended")?;
        self.no_pods("life")?;
        let suspended = self.number("life", "/status/lastCheckpoint/epoch")?;
        job.suspend = false;
        self.apply(&job)?;
        self.restored("life", suspended)?;
        (self.say)(&format!("life: suspended at epoch {suspended}, resumed from it"));

        let before = self.checkpoint("life", suspended + 2)?;
        job.parallelism = 3;
        kubectl(&["scale", "streamjob/life", "-n", self.namespace, "--replicas=3"])?;
        self.wait_for("life", "it runs with parallelism 3", |status| {
            status["parallelism"] == 3 && status["phase"] == "Running"
        })?;
        self.restored("life", before)?;
        (self.say)("life: scaled to 3");

        let pods = self.pods("life")?;
        let good = job.sql.clone();
        for (sql, reason, part) in [
            (good.replace("event_type = 2", "event_type = 1"), "PlanChanged", "does something else"),
            (good.replace("/life'", "/elsewhere'"), "PlanChanged", "the option 'path' was"),
            (good.replace("event_type = 2", "event_typ = 2"), "InvalidSql", "line "),
        ] {
            job.sql = sql;
            self.apply(&job)?;
            self.condition("life", "Stalled", "True", reason, &[part])?;
            self.phase("life", "Running")?;
        }
        // While an edit is refused, what runs is kept up like any other job.
        let service = "service/life-coordinator";
        kubectl(&["delete", service, "-n", self.namespace])?;
        wait("the Service is back", SECONDS, || {
            Ok(kubectl(&["get", service, "-n", self.namespace, "-o", "name"]).ok())
        })?;
        job.sql = good;
        self.apply(&job)?;
        self.condition("life", "Stalled", "False", "NotStalled", &[])?;
        if self.pods("life")? != pods {
            whatever!("a refused edit has replaced the pods {pods:?}");
        }
        (self.say)("life: edits that mean something else are refused, and the job runs on");

        // How the outside is reached may change: the rest of the input comes at full speed.
        job.sql = self.sql("life", FAST);
        self.apply(&job)?;
        self.finish(&job)?;

        job.parallelism = 1;
        self.apply(&job)?;
        self.condition("life", "Stalled", "True", "JobFinished", &["another name"])?;
        kubectl(&["delete", "streamjob/life", "-n", self.namespace, "--timeout=60s"])?;
        wait("nothing of the job is left", SECONDS, || {
            let kinds = "deployments,services,configmaps,serviceaccounts,pods";
            let left =
                kubectl(&["get", kinds, "-n", self.namespace, "-l", "millrace.dev/job=life", "-o", "name"])?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
        (self.say)("life: finished, and deleted with all that belonged to it");
        Ok(())
    }

    /// A job runs code of its users: its pods can ask nothing of the API server, and have nothing to ask with.
    fn pods_have_no_rights(&self, job: &str) -> Outcome<()> {
        let of_job = format!("millrace.dev/job={job}");
        let pods = kubectl(&["get", "pods", "-n", self.namespace, "-l", &of_job, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods).whatever_context("kubectl's answer is malformed")?;
        let pods = pods["items"].as_array().whatever_context("kubectl's answer is malformed")?;
        let mut accounts: Vec<&str> = Vec::new();
        for pod in pods {
            let spec = &pod["spec"];
            let mounts_token = spec["volumes"].as_array().into_iter().flatten().any(|volume| {
                let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
                sources.is_some_and(|sources| {
                    sources.iter().any(|source| source.get("serviceAccountToken").is_some())
                })
            });
            if mounts_token || spec["automountServiceAccountToken"] != false {
                whatever!("a pod of {job} has a token: {spec}");
            }
            accounts.extend(spec["serviceAccountName"].as_str());
        }
        let account = accounts.first().whatever_context("the job has no pods")?;
        let account = format!("system:serviceaccount:{}:{account}", self.namespace);
        for (verb, what) in
            [("get", "secrets"), ("create", "pods"), ("list", "configmaps"), ("patch", "streamjobs")]
        {
            // kubectl ends with 1 if the answer is no.
            let asked = ["auth", "can-i", verb, what, "-n", self.namespace, "--as", &account];
            // Whoever runs this can: so a refusal is about the account.
            kubectl(&asked[..6])?;
            if let Ok(answer) = kubectl(&asked) {
                whatever!("{account} can {verb} {what}: {answer}");
            }
        }
        (self.say)("life: its pods have neither rights nor a token");
        Ok(())
    }

    fn broken_sql_and_foreign_state(&self) -> Outcome<()> {
        let good = self.job("sql", &self.sql("sql", FAST));
        let broken = Job { sql: good.sql.replace("COUNT(*)", "COUTN(*)"), ..good.clone() };
        self.apply(&broken)?;
        self.condition("sql", "Ready", "False", "InvalidSql", &["line ", "COUTN"])?;
        self.no_pods("sql")?;
        self.apply(&good)?;
        self.finish(&good)?;
        (self.say)("broken SQL: refused with its line; ran once it was corrected");

        kubectl(&["delete", "streamjob/sql", "-n", self.namespace, "--timeout=60s"])?;
        let mut again = self.job("sql", &self.sql("sql-again", FAST));
        self.apply(&again)?;
        let whose = format!("holds the state of the job '{}/sql'", self.namespace);
        let refused = [whose.as_str(), "choose another checkpoint.location, or remove what is there"];
        self.condition("sql", "Ready", "False", "StateRefused", &refused)?;
        again.location = format!("{}-again", again.location);
        self.apply(&again)?;
        self.finish(&again)?;
        (self.say)("the state of another job: refused; ran at a place of its own");
        Ok(())
    }

    fn damaged_state(&self) -> Outcome<()> {
        let mut job = self.job("damaged", &self.sql("damaged", SLOW));
        self.apply(&job)?;
        self.checkpoint("damaged", 2)?;
        job.suspend = true;
        self.apply(&job)?;
        self.phase("damaged", "Suspended")?;
        self.no_pods("damaged")?;
        let state = bucket_folder()?.join(format!("{}/state/{}/damaged", self.namespace, self.namespace));
        let objects = run("find", &[&state.display().to_string(), "-type", "f", "-path", "*/epochs/*"])?;
        let newest = objects.lines().max().whatever_context("there are no epoch records")?.to_owned();
        let whole = std::fs::read(&newest).whatever_context("failed to read an epoch record")?;
        std::fs::write(&newest, &whole[..whole.len() / 2])
            .whatever_context("failed to cut an epoch record")?;

        job.suspend = false;
        job.sql = self.sql("damaged", FAST);
        self.apply(&job)?;
        let name = Path::new(&newest).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let cure = "put it back from a copy of the bucket";
        self.condition("damaged", "Ready", "False", "StateDamaged", &[name, cure])?;
        std::fs::write(&newest, &whole).whatever_context("failed to put an epoch record back")?;
        self.finish(&job)?;
        (self.say)("a truncated checkpoint object: named; the job went on once it was put back");
        Ok(())
    }

    /// The store answers nothing but errors for a minute: checkpoints fail, and the job runs on.
    fn store_errors(&self) -> Outcome<()> {
        let mut job = self.job("outage", &self.sql("outage", SLOW));
        let bucket = bucket_folder()?.with_file_name(format!("{}-outage", self.namespace));
        std::fs::create_dir(&bucket).whatever_context("failed to make a bucket")?;
        job.location = format!("s3://{}-outage/state", self.namespace);
        self.apply(&job)?;
        self.checkpoint("outage", 2)?;
        let (pods, aside) = (self.pods("outage")?, bucket.with_extension("aside"));
        std::fs::rename(&bucket, &aside).whatever_context("failed to take the bucket away")?;
        let said = self.condition(
            "outage",
            "Degraded",
            "True",
            "CheckpointFailed",
            &["The job runs on", "make the bucket"],
        );
        outside::pause(OUTAGE);
        let running = self.status("outage");
        std::fs::rename(&aside, &bucket).whatever_context("failed to put the bucket back")?;
        said?;
        let (running, now) = (running?, self.pods("outage")?);
        if running["status"]["phase"] != "Running" || now != pods {
            whatever!(
                "the job has not run on through the outage: {now:?} were {pods:?}; {}",
                running["status"]
            );
        }
        self.condition("outage", "Degraded", "False", "Healthy", &[])?;
        job.sql = self.sql("outage", FAST);
        self.apply(&job)?;
        self.finish(&job)?;
        (self.say)("a store that answers errors for a minute: said; the job ran on, and its rows are right");
        Ok(())
    }

    fn missing_files(&self) -> Outcome<()> {
        let input = format!("{}/late-input", self.namespace);
        let sql = format!(
            "CREATE TABLE numbers (id BIGINT, k BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://millrace/{input}', 'format' = 'json');
             CREATE TABLE copied (id BIGINT, k BIGINT) WITH ({});
             INSERT INTO copied SELECT id, k FROM numbers;",
            self.files("copied")
        );
        self.apply(&self.job("input", &sql))?;
        let parts = [input.as_str(), "put files there, or correct the option 'path'"];
        self.condition("input", "Degraded", "True", "SourceUnavailable", &parts)?;
        let (rows, folder) = (events::picked(1_000), bucket_folder()?.join(&input));
        let aside = folder.with_extension("aside");
        std::fs::create_dir_all(&aside).whatever_context("failed to make a folder")?;
        std::fs::write(aside.join("rows.jsonl"), rows.join("\n")).whatever_context("failed to write rows")?;
        std::fs::rename(&aside, &folder).whatever_context("failed to show rows")?;
        self.phase("input", "Succeeded")?;
        self.compare("copied", &rows)?;
        (self.say)("missing input files: named; the job went on once they were there");
        Ok(())
    }

    fn missing_bucket(&self) -> Outcome<()> {
        let mut job = self.job("bucket", &self.sql("bucket", FAST));
        let bucket = format!("{}-late", self.namespace);
        job.location = format!("s3://{bucket}/state");
        self.apply(&job)?;
        self.condition("bucket", "Degraded", "True", "StoreUnavailable", &[&bucket, "make the bucket"])?;
        let folder = bucket_folder()?.with_file_name(&bucket);
        std::fs::create_dir(folder).whatever_context("failed to make a bucket")?;
        self.finish(&job)?;
        (self.say)("a missing bucket: named; the job went on once it was made");
        Ok(())
    }

    fn job_with_secret(&self) -> Job {
        Job { secret: "late", ..self.job("secrets", &self.sql("secrets", FAST)) }
    }

    fn missing_secret(&self) -> Outcome<()> {
        self.apply(&self.job_with_secret())?;
        let missing = ["the Secret 'late' does not exist or has no key AWS_ACCESS_KEY_ID", "add it"];
        self.condition("secrets", "Degraded", "True", "StoreUnavailable", &missing)?;
        self.secret("late", Some("wrong"))
    }

    fn wrong_secret(&self) -> Outcome<()> {
        let wrong = ["correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret 'late'"];
        self.condition("secrets", "Degraded", "True", "StoreUnavailable", &wrong)?;
        self.secret("late", None)
    }

    fn right_secret(&self) -> Outcome<()> {
        self.finish(&self.job_with_secret())?;
        (self.say)("a missing, then wrong Secret: named; the job went on once it was right");
        Ok(())
    }

    fn missing_topic(&self) -> Outcome<()> {
        let topic = format!("{}-late", self.namespace);
        let sink = format!(
            "'connector' = 'kafka', 'properties.bootstrap.servers' = 'kafka.infra.svc:9092', 'topic' = '{topic}', 'format' = 'json'"
        );
        let job = self.job("topic", &self.sql("topic", FAST).replace(&self.files("topic"), &sink));
        self.apply(&job)?;
        self.condition("topic", "Degraded", "True", "SinkUnavailable", &[&topic, "create it"])?;
        self.kafka.run("create", &topic, &["3"])?;
        self.phase("topic", "Succeeded")?;
        let expected = self.expected()?;
        let file = self.folder.join("late.tsv");
        let _reader = self.kafka.start("read", &topic, &[], &file)?;
        let found = wait("all rows are in the topic", SECONDS, || {
            Ok(Some(records(&file)?).filter(|found| found.len() >= expected.len()))
        })?;
        let difference = compare::compare(found.values().map(String::as_str), &expected);
        if !difference.is_empty() {
            whatever!("topic: {}", difference.describe());
        }
        (self.say)("a missing topic: named; the job went on once it was made");
        Ok(())
    }

    fn poison(&self) -> Outcome<()> {
        let topic = format!("{}-poison", self.namespace);
        let rows = 5_000;
        self.kafka.run("create", &topic, &["5"])?;
        self.kafka.run("load", &topic, &[&rows.to_string(), "5000"])?;
        self.kafka.run("poison", &topic, &[])?;
        let sql = format!(
            "CREATE TABLE events (id BIGINT, k BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', \
             'properties.bootstrap.servers' = 'kafka.infra.svc:9092', 'scan.bounded.mode' = 'latest-offset');
             CREATE TABLE picked (id BIGINT, k BIGINT) WITH ({});
             INSERT INTO picked SELECT id, k FROM events WHERE MOD(k, 10) = 3;",
            self.files("poison")
        );
        let mut job = self.job("poison", &sql);
        self.apply(&job)?;
        let parts = ["partition 0", &topic, "oops", "'json.ignore-parse-errors' = 'true'"];
        self.condition("poison", "Ready", "False", "InvalidData", &parts)?;
        job.sql = sql.replacen("'format'", "'json.ignore-parse-errors' = 'true', 'format'", 1);
        self.apply(&job)?;
        self.phase("poison", "Succeeded")?;
        self.compare("poison", &events::picked(rows))?;
        (self.say)("a poison record: named with offset and cure; the job went on once it was to be left out");
        Ok(())
    }

    fn files(&self, folder: &str) -> String {
        format!(
            "'connector' = 'filesystem', 'path' = 's3://millrace/{}/{folder}', 'format' = 'json'",
            self.namespace
        )
    }

    /// Bids per auction in windows of event time, into files.
    fn sql(&self, folder: &str, rate: u64) -> String {
        statements(&format!("'rows-per-second' = '{rate}', "), &self.files(folder))
    }

    fn job(&self, name: &'static str, sql: &str) -> Job {
        Job {
            name,
            suspend: false,
            parallelism: 2,
            location: format!("s3://millrace/{}/state", self.namespace),
            secret: "s3",
            sql: sql.to_owned(),
        }
    }

    fn apply(&self, job: &Job) -> Outcome<()> {
        apply(self.folder, &format!("{}.json", job.name), &self.manifest(job).to_string())
    }

    fn manifest(&self, job: &Job) -> Value {
        serde_json::json!({
            "apiVersion": "millrace.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": job.name, "namespace": self.namespace},
            "spec": {
                "suspend": job.suspend,
                "parallelism": job.parallelism,
                "checkpoint": {"location": job.location, "interval": "1s"},
                "restart": {"maxDelay": "5s"},
                "storage": {
                    "endpoint": "http://s3.infra.svc:7070", "pathStyle": true, "allowHttp": true,
                    "credentials": {"secretRef": {"name": job.secret}},
                },
                "pipeline": {"sql": job.sql},
            },
        })
    }

    /// Makes or corrects a Secret of the right keys, or with another secret key.
    fn secret(&self, name: &str, wrong: Option<&str>) -> Outcome<()> {
        let variable =
            |name: &str| std::env::var(name).with_whatever_context(|_| format!("{name} is not set"));
        let secret_key = variable("AWS_SECRET_ACCESS_KEY")?;
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": self.namespace},
            "stringData": {
                "AWS_ACCESS_KEY_ID": variable("AWS_ACCESS_KEY_ID")?,
                "AWS_SECRET_ACCESS_KEY": wrong.unwrap_or(&secret_key),
            },
        });
        apply(self.folder, "secret.json", &text.to_string())
    }

    fn status(&self, job: &str) -> Outcome<Value> {
        let text = kubectl(&["get", "sj", job, "-n", self.namespace, "-o", "json"])?;
        serde_json::from_str(&text).whatever_context("kubectl's answer is malformed")
    }

    /// Waits until a status that belongs to the newest spec holds.
    fn wait_for(&self, job: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Outcome<Value> {
        let found = wait(&format!("{job}: {what}"), SECONDS, || {
            let object = self.status(job)?;
            let is_new = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            Ok(Some(object).filter(|object| is_new && holds(&object["status"])))
        });
        found.or_else(|error| {
            let status = self.status(job).map(|object| object["status"].to_string()).unwrap_or_default();
            whatever!("{error}; its status is {status}")
        })
    }

    fn phase(&self, job: &str, phase: &str) -> Outcome<()> {
        self.wait_for(job, &format!("its phase is {phase}"), |status| status["phase"] == phase).map(|_| ())
    }

    /// Waits until a condition says what it should, and, if something is wrong, an event says so as well.
    fn condition(&self, job: &str, kind: &str, is: &str, reason: &str, parts: &[&str]) -> Outcome<()> {
        self.is_said(job, kind, is, reason, parts)?;
        let is_wrong = matches!((kind, is), ("Ready", "False") | ("Degraded" | "Stalled", "True"));
        if !is_wrong {
            return Ok(());
        }
        let of_reason = format!("involvedObject.name={job},type=Warning,reason={reason}");
        let place = ["get", "events", "-n", self.namespace, "-o", "json", "--field-selector", &of_reason];
        wait(&format!("{job}: {reason} is an event that says {parts:?}"), SECONDS, || {
            let events: Value =
                serde_json::from_str(&kubectl(&place)?).whatever_context("kubectl's answer is malformed")?;
            let said = events["items"].as_array().into_iter().flatten().any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                parts.iter().all(|part| message.contains(part))
            });
            Ok(said.then_some(()))
        })
    }

    fn is_said(&self, job: &str, kind: &str, is: &str, reason: &str, parts: &[&str]) -> Outcome<()> {
        self.wait_for(job, &format!("{kind} is {is} as {reason}, with {parts:?}"), |status| {
            let conditions = status["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                let message = condition["message"].as_str().unwrap_or_default();
                condition["type"] == kind
                    && condition["status"] == is
                    && condition["reason"] == reason
                    && parts.iter().all(|part| message.contains(part))
            })
        })
        .map(|_| ())
    }

    /// Waits for a checkpoint, and returns its epoch. The status tells of one a minute, the coordinator of all.
    fn checkpoint(&self, job: &str, least: u64) -> Outcome<u64> {
        self.phase(job, "Running")?;
        wait(&format!("{job}: checkpoint {least}"), SECONDS, || {
            let metrics = self.metrics(job)?;
            let epoch = metrics.lines().find(|line| line.starts_with("millrace_checkpoint_epoch{"));
            let epoch =
                epoch.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
            Ok(Some(epoch as u64).filter(|epoch| *epoch >= least))
        })
    }

    fn metrics(&self, job: &str) -> Outcome<String> {
        let pods = self.pods(job)?;
        let pod = pods.iter().find(|pod| pod.contains("-coordinator-")).whatever_context("no coordinator")?;
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:6123/proxy/metrics", self.namespace);
        kubectl(&["get", "--raw", &path])
    }

    /// Waits until the job runs from this epoch or a later one.
    fn restored(&self, job: &str, epoch: u64) -> Outcome<()> {
        self.phase(job, "Running")?;
        let deployment = format!("deployment/{job}-coordinator");
        let restored = wait(&format!("{job}: it has been restored"), SECONDS, || {
            let log = kubectl(&["logs", "-n", self.namespace, &deployment])?;
            let line = log.lines().rfind(|line| line.contains("leading the job")).unwrap_or_default();
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            Ok(line["fields"]["restored_epoch"].as_u64())
        })?;
        match restored >= epoch {
            true => Ok(()),
            false => whatever!("{job} was restored from epoch {restored}, and had taken {epoch}"),
        }
    }

    fn number(&self, job: &str, path: &str) -> Outcome<u64> {
        let object = self.status(job)?;
        let number = object.pointer(path).and_then(Value::as_u64);
        number.with_whatever_context(|| format!("{job} has no {path}: {object}"))
    }

    fn pods(&self, job: &str) -> Outcome<Vec<String>> {
        let selector = format!("millrace.dev/job={job}");
        let names = "jsonpath={.items[*].metadata.name}";
        let pods = kubectl(&["get", "pods", "-n", self.namespace, "-l", &selector, "-o", names])?;
        Ok(pods.split_whitespace().map(str::to_owned).collect())
    }

    fn no_pods(&self, job: &str) -> Outcome<()> {
        wait(&format!("{job}: its pods are gone"), SECONDS, || Ok(self.pods(job)?.is_empty().then_some(())))
    }

    /// Waits until a job is done, and compares the rows of its files.
    fn finish(&self, job: &Job) -> Outcome<()> {
        self.phase(job.name, "Succeeded")?;
        self.condition(job.name, "Ready", "True", "Succeeded", &[])?;
        let folder = job.sql.split(&format!("s3://millrace/{}/", self.namespace)).nth(1);
        let folder = folder.and_then(|rest| rest.split('\'').next()).unwrap_or_default();
        self.compare(folder, &self.expected()?)
    }

    fn compare(&self, folder: &str, expected: &[String]) -> Outcome<()> {
        let found = outside::rows(&format!("{}/{folder}", self.namespace))?;
        let difference = compare::compare(found.iter().map(String::as_str), expected);
        match difference.is_empty() && !expected.is_empty() {
            true => Ok(()),
            false => whatever!("{folder}: {} rows; {}", found.len(), difference.describe()),
        }
    }

    /// The rows of an undisturbed run in this process's own machine.
    fn expected(&self) -> Outcome<Vec<String>> {
        let place = self.folder.join(UNDISTURBED);
        let result = place.join("result");
        if !result.exists() {
            std::fs::create_dir_all(&place).whatever_context("failed to make a folder")?;
            let files =
                format!("'connector' = 'filesystem', 'path' = '{}', 'format' = 'json'", result.display());
            let text = serde_json::json!({
                "apiVersion": "millrace.dev/v1alpha1",
                "kind": "StreamJob",
                "metadata": {"name": "undisturbed"},
                "spec": {
                    "checkpoint": {"location": place.join("state")},
                    "pipeline": {"sql": statements("", &files)},
                },
            });
            let job = place.join("job.json");
            std::fs::write(&job, text.to_string()).whatever_context("failed to write a manifest")?;
            let program = std::env::current_exe().whatever_context("failed to find this program")?;
            let program = program.with_file_name("millrace").display().to_string();
            run(&program, &["run", "--from", "none", &job.display().to_string()])?;
        }
        let mut rows = Vec::new();
        for file in std::fs::read_dir(&result).whatever_context("failed to list the undisturbed rows")? {
            let file = file.whatever_context("failed to list the undisturbed rows")?.path();
            if !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                let text =
                    std::fs::read_to_string(file).whatever_context("failed to read undisturbed rows")?;
                rows.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(rows)
    }
}

fn statements(rate: &str, sink: &str) -> String {
    format!(
        "CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>, \
         ts AS bid.`dateTime`, WATERMARK FOR ts AS ts - INTERVAL '4' SECOND)
         WITH ('connector' = 'nexmark', {rate}'splits' = '4', 'events' = '{EVENTS}');
         CREATE TABLE totals (auction BIGINT, window_end TIMESTAMP(3), bids BIGINT, total BIGINT) WITH ({sink});
         CREATE VIEW bids AS SELECT bid.auction, bid.price, ts FROM events WHERE event_type = 2;
         INSERT INTO totals SELECT auction, window_end, COUNT(*), SUM(price)
         FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY auction, window_start, window_end;"
    )
}

/// The S3 server keeps a bucket as a folder.
fn bucket_folder() -> Outcome<PathBuf> {
    let config = std::env::var("KUBECONFIG").whatever_context("KUBECONFIG is not set")?;
    let folder = Path::new(&config).parent().map(|folder| folder.join("s3/millrace"));
    folder.filter(|folder| folder.is_dir()).whatever_context("the bucket's folder is not beside KUBECONFIG")
}
