//! What a user does to jobs on a cluster, and what a user does wrong: suspend, resume, scale, edit, delete; broken SQL, missing
//! buckets, Secrets and topics, poison records, state that is damaged or another job's. Every mistake must show as a condition with
//! reason, message and cure; once the cure is applied the job goes on by itself, and its rows are compared.

mod edits;
mod life;
mod mistakes;
mod transactions;

use std::path::{Path, PathBuf};

use serde_json::Value;
use snafu::{OptionExt, ResultExt, whatever};

use crate::compare;
use crate::outside::{self, Kafka, Outcome, apply, kubectl, records, run, wait};

/// How long a condition or phase may take to come: the kubelet writes a changed Secret within a minute and a half.
const SECONDS: u64 = 150;

/// Events of the generator, and the rate that keeps a job busy until it is told otherwise.
const EVENTS: u64 = 200_000;
const SLOW: u64 = 1_000;
/// Rates at which jobs come to their end by themselves soon after what happens to them: in two minutes, and in less than one.
const THROUGH_OUTAGE: u64 = 2_000;
const THROUGH_FULL_DISK: u64 = 4_000;
const FAST: u64 = 1_000_000;

/// A manifest's parts that the cases change.
#[derive(Clone)]
struct Job {
    name: &'static str,
    suspend: bool,
    parallelism: u32,
    /// Empty: the controller's default.
    location: String,
    /// Empty: not given.
    start_from: String,
    endpoint: String,
    secret: &'static str,
    sql: String,
}

/// Where the rows of an undisturbed run are kept while this program runs.
pub const UNDISTURBED: &str = "undisturbed";

/// A namespace with jobs.
pub struct Jobs<'a> {
    pub folder: &'a Path,
    pub namespace: &'a str,
    pub kafka: &'a Kafka,
    pub say: &'a (dyn Fn(&str) + Sync),
}

impl Jobs<'_> {
    /// Runs all cases.
    ///
    /// # Errors
    /// What was not as it should be.
    pub fn all(&self) -> Outcome<()> {
        let passed = self.cases();
        if passed.is_err() {
            self.keep_objects();
        }
        passed
    }

    /// Copies what jobs have written of state beside the logs, for whoever has to find out.
    fn keep_objects(&self) {
        let copy = |folder: PathBuf| {
            let to = self.folder.join("objects");
            std::fs::create_dir_all(&to).whatever_context("failed to make a folder")?;
            run("cp", &["-a", &folder.display().to_string(), &to.display().to_string()])
        };
        let bucket = bucket_folder().map(|bucket| bucket.join(format!("{}/state", self.namespace)));
        let of_life = bucket_folder().map(|bucket| bucket.with_file_name(format!("{}-life", self.namespace)));
        for copied in [bucket.and_then(copy), of_life.and_then(copy)] {
            if let Err(error) = copied {
                eprintln!("failed to keep the jobs' objects: {error}");
            }
        }
    }

    /// What the cases do is mostly to wait: three lines of them go on side by side.
    fn cases(&self) -> Outcome<()> {
        self.secret("s3", None)?;
        // For all lines, once.
        self.expected()?;
        let lines: [fn(&Self) -> Outcome<()>; 3] = [Self::of_lives, Self::of_stores, Self::of_topics];
        let failures: Vec<String> = std::thread::scope(|scope| {
            let running =
                lines.map(|line| scope.spawn(move || line(self).map_err(|error| error.to_string())));
            let ended = running.into_iter().map(|line| line.join().unwrap_or(Err("a panic".to_owned())));
            ended.filter_map(Result::err).collect()
        });
        if !failures.is_empty() {
            whatever!("{}", failures.join("; and "));
        }
        // Of all jobs.
        self.upgrade()?;
        self.leaders()
    }

    fn of_lives(&self) -> Outcome<()> {
        self.broken_manifests()?;
        self.refused_by_the_controller()?;
        self.life()?;
        self.broken_sql_and_foreign_state()?;
        self.damaged_state()
    }

    fn of_stores(&self) -> Outcome<()> {
        // The store answers errors for a minute, while other jobs reach it by another way.
        let outage = self.store_goes_out()?;
        self.missing_files()?;
        self.missing_bucket()?;
        self.full_local_disk()?;
        self.full_disk()?;
        self.edits()?;
        self.store_comes_back(outage)
    }

    fn of_topics(&self) -> Outcome<()> {
        // The kubelet takes a minute or more to write a changed Secret; other cases go on meanwhile.
        self.missing_secret()?;
        // The broker waits for a while before it ends a transaction, too.
        let cut_off = self.commits_are_cut_off()?;
        self.missing_source_topic()?;
        self.wrong_secret()?;
        self.poison()?;
        self.transaction_is_lost(cut_off)?;
        self.missing_topic()?;
        self.right_secret()
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
            start_from: String::new(),
            endpoint: "http://s3.infra.svc:7070".to_owned(),
            secret: "s3",
            sql: sql.to_owned(),
        }
    }

    fn apply(&self, job: &Job) -> Outcome<()> {
        apply(self.folder, &format!("{}.json", job.name), &self.manifest(job).to_string())
    }

    fn manifest(&self, job: &Job) -> Value {
        let mut manifest = serde_json::json!({
            "apiVersion": "millrace.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": job.name, "namespace": self.namespace},
            "spec": {
                "suspend": job.suspend,
                "parallelism": job.parallelism,
                "checkpoint": {"interval": "1s"},
                "restart": {"maxDelay": "5s"},
                "storage": {
                    "endpoint": job.endpoint, "pathStyle": true, "allowHttp": true,
                    "credentials": {"secretRef": {"name": job.secret}},
                },
                "pipeline": {"sql": job.sql},
            },
        });
        if !job.location.is_empty() {
            manifest["spec"]["checkpoint"]["location"] = job.location.as_str().into();
        }
        if !job.start_from.is_empty() {
            manifest["spec"]["startFrom"] = job.start_from.as_str().into();
        }
        if job.sql.contains("${secret:brokers}") {
            let reference = serde_json::json!({"name": "kafka", "key": "brokers"});
            manifest["spec"]["pipeline"]["secrets"] =
                serde_json::json!([{"name": "brokers", "secretKeyRef": reference}]);
        }
        manifest
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

    /// How often warnings for a reason were told of a job; those that are the same are one object, which counts.
    fn times_told(&self, job: &str, reason: &str) -> Outcome<u64> {
        let of_reason = format!("involvedObject.name={job},type=Warning,reason={reason}");
        let place = ["get", "events", "-n", self.namespace, "-o", "json", "--field-selector", &of_reason];
        let events: Value =
            serde_json::from_str(&kubectl(&place)?).whatever_context("kubectl's answer is malformed")?;
        let count = |event: &Value| {
            let counts = [&event["count"], &event["series"]["count"]];
            counts.into_iter().filter_map(Value::as_u64).fold(1, u64::max)
        };
        Ok(events["items"].as_array().into_iter().flatten().map(count).sum())
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
            let metrics = self.metrics(job, "coordinator")?;
            let epoch = metrics.lines().find(|line| line.starts_with("millrace_checkpoint_epoch{"));
            let epoch =
                epoch.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
            Ok(Some(epoch as u64).filter(|epoch| *epoch >= least))
        })
    }

    /// Waits until the first of a job's workers has taken further rows.
    fn rows_go_on(&self, job: &str) -> Outcome<()> {
        let taken = || -> Outcome<f64> {
            let metrics = self.metrics(job, "worker")?;
            let of_tasks = metrics.lines().filter(|line| line.starts_with("millrace_task_rows_total{"));
            Ok(of_tasks.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
        };
        let before = taken()?;
        wait(&format!("{job}: further rows"), SECONDS, || Ok((taken()? > before).then_some(())))
    }

    fn metrics(&self, job: &str, role: &str) -> Outcome<String> {
        let pods = self.pods(job)?;
        let pod = pods.iter().find(|pod| pod.contains(&format!("-{role}-")));
        let pod = pod.with_whatever_context(|| format!("{job} has no {role}"))?;
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

    /// Compares the committed rows of a topic, to its end.
    fn compare_topic(&self, topic: &str, partitions: usize, expected: &[String]) -> Outcome<()> {
        let file = self.folder.join(format!("{topic}.tsv"));
        self.kafka.run("mark", topic, &[])?;
        let _reader = self.kafka.start("read", topic, &[], &file)?;
        let is_mark = |row: &&str| *row == "mark";
        let found = wait("the ends of all partitions are read", SECONDS, || {
            let found = records(&file)?;
            let marks = found.values().map(String::as_str).filter(is_mark).count();
            Ok((marks == partitions).then_some(found))
        })?;
        let rows = found.values().map(String::as_str).filter(|row| !is_mark(row));
        let difference = compare::compare(rows, expected);
        match difference.is_empty() {
            true => Ok(()),
            false => whatever!("{topic}: {}", difference.describe()),
        }
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
