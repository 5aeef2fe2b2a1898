//! What a user does wrong: broken manifests and SQL, missing buckets, Secrets and topics, poison records, state that is damaged or
//! another job's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, whatever};

use super::{FAST, Job, Jobs, SECONDS, SLOW, THROUGH_FULL_DISK, THROUGH_OUTAGE, bucket_folder, statements};
use crate::compare;
use crate::events;
use crate::outside::{self, Outcome, apply, kubectl, run, wait};
use crate::store::Way;

/// How long the store answers nothing but errors.
const OUTAGE: Duration = Duration::from_secs(60);

impl Jobs<'_> {
    /// The API server refuses what the schema and its rules do not allow, in words that name the field.
    pub(super) fn broken_manifests(&self) -> Outcome<()> {
        let good = self.manifest(&self.job("manifest", &self.sql("manifest", FAST)));
        let negative = json!({"resources": {"limits": {"cpu": -1}}});
        let too_little = json!({"resources": {"limits": {"memory": "lots"}}});
        let cases: [(&str, Value, &[&str]); 8] = [
            ("/spec/paralelism", 4.into(), &["unknown field \"spec.paralelism\""]),
            ("/spec/parallelism", "many".into(), &["spec.parallelism", "integer"]),
            ("/spec/parallelism", 2048.into(), &["spec.parallelism: at most spec.maxParallelism"]),
            ("/spec/maxParallelism", 1000.into(), &["spec.maxParallelism: a power of two"]),
            ("/spec/checkpoint/interval", "9ms".into(), &["spec.checkpoint.interval: at least 10ms"]),
            ("/spec/workers", negative, &["spec.workers.resources.limits.cpu", "greater than or equal to 0"]),
            ("/spec/workers", too_little, &["spec.workers.resources.limits.memory", "should match"]),
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

    /// What the schema allows and no job can be made of: the controller says so, and makes pods once it is right.
    pub(super) fn refused_by_the_controller(&self) -> Outcome<()> {
        let good = self.job("refused", &self.sql("refused", FAST));
        let too_much = json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}});
        let undeclared = self.job_with_topic().sql.replace("${secret:brokers}", "${secret:lucky}");
        let cases: [(&str, Value, &str, &[&str]); 4] = [
            (
                "/spec/checkpoint/location",
                "file:///state".into(),
                "LocationNotShared",
                &["spec.checkpoint.location: 'file:///state'", "use a bucket"],
            ),
            (
                "/spec/startFrom",
                "/saved/1".into(),
                "LocationNotShared",
                &["spec.startFrom: '/saved/1'", "name one, such as s3://"],
            ),
            (
                "/spec/workers",
                too_much,
                "InvalidResources",
                &["spec.workers.resources.requests.memory: 2Gi", "limit"],
            ),
            (
                "/spec/pipeline/sql",
                undeclared.into(),
                "SecretUndeclared",
                &["lucky", "spec.pipeline.secrets"],
            ),
        ];
        for (field, value, reason, parts) in cases {
            let mut manifest = self.manifest(&good);
            let (parent, name) = field.rsplit_once('/').unwrap_or_default();
            manifest.pointer_mut(parent).whatever_context("no such field")?[name] = value;
            apply(self.folder, "refused.json", &manifest.to_string())?;
            self.condition("refused", "Ready", "False", reason, parts)?;
            self.no_pods("refused")?;
        }
        self.apply(&good)?;
        self.finish(&good)?;
        (self.say)("specs that no job can be made of: refused with field and cure; ran once corrected");
        Ok(())
    }

    pub(super) fn broken_sql_and_foreign_state(&self) -> Outcome<()> {
        let good = self.job("sql", &self.sql("sql", FAST));
        let broken = Job { sql: good.sql.replace("COUNT(*)", "COUTN(*)"), ..good.clone() };
        self.apply(&broken)?;
        self.condition("sql", "Ready", "False", "InvalidSql", &["line ", "COUTN", "did you mean COUNT?"])?;
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

    pub(super) fn damaged_state(&self) -> Outcome<()> {
        let mut job = self.job("damaged", &self.sql("damaged", SLOW));
        self.apply(&job)?;
        self.checkpoint("damaged", 2)?;
        job.suspend = true;
        self.apply(&job)?;
        self.phase("damaged", "Suspended")?;
        self.no_pods("damaged")?;
        let state = bucket_folder()?.join(format!("{}/state/{}/damaged", self.namespace, self.namespace));
        // In the order in which they are read: each is found once the one before is whole. A job reads many segments at once, and
        // which one it finds first is its own affair.
        let damaged = [
            CutShort::newest(&state.join("epochs"))?,
            CutShort::newest(&state.join("manifests"))?,
            CutShort::all(&state.join("segments"))?,
        ];

        job.suspend = false;
        job.sql = self.sql("damaged", FAST);
        self.apply(&job)?;
        for objects in damaged {
            let parts = [objects.name.as_str(), "put it back from a copy"];
            let said = self.condition("damaged", "Ready", "False", "StateDamaged", &parts);
            objects.put_back()?;
            said?;
        }
        self.finish(&job)?;
        (self.say)("truncated objects of a checkpoint: each named; the job went on once they were put back");
        Ok(())
    }

    /// From now on the store answers a job nothing but errors: checkpoints fail, and it runs on.
    pub(super) fn store_goes_out(&self) -> Outcome<Outage> {
        let mut job = self.job("outage", &self.sql("outage", THROUGH_OUTAGE));
        let way = Way::new()?;
        job.endpoint = way.address().to_owned();
        self.apply(&job)?;
        self.checkpoint("outage", 2)?;
        let pods = self.pods("outage")?;
        way.set_out(true);
        let since = outside::now();
        self.condition(
            "outage",
            "Degraded",
            "True",
            "CheckpointFailed",
            &["The job runs on", "503", "s3://millrace/", "is asked again"],
        )?;
        Ok(Outage { job, way, pods, since })
    }

    /// After a minute at least.
    pub(super) fn store_comes_back(&self, outage: Outage) -> Outcome<()> {
        let Outage { job, way, pods, since } = outage;
        outside::pause(OUTAGE.saturating_sub(since.elapsed()));
        let (running, now) = (self.status("outage")?, self.pods("outage")?);
        way.set_out(false);
        let status = &running["status"];
        if status["phase"] != "Running" || status["restarts"].as_u64().unwrap_or(0) > 0 || now != pods {
            whatever!("the job has not run on through the outage: {now:?} were {pods:?}; {status}");
        }
        // A hundred checkpoints have failed for one cause, at a few places.
        let told = self.times_told("outage", "CheckpointFailed")?;
        if !(1..=10).contains(&told) {
            whatever!("one cause was told {told} times in a minute");
        }
        self.condition("outage", "Degraded", "False", "Healthy", &[])?;
        self.finish(&job)?;
        (self.say)("a store that answers errors for a minute: said; the job ran on, and its rows are right");
        Ok(())
    }

    /// A disk is full, of one job's state and of another one's results: both say so, run on, and need nobody once there is room.
    pub(super) fn full_disk(&self) -> Outcome<()> {
        let bucket = format!("{}-full", self.namespace);
        let folder = bucket_folder()?.with_file_name(&bucket);
        let disk = SmallDisk::mount(&folder)?;
        let mut state = self.job("full", &self.sql("full", THROUGH_FULL_DISK));
        state.location = format!("s3://{bucket}/state");
        let files =
            format!("'connector' = 'filesystem', 'path' = 's3://{bucket}/results', 'format' = 'json'");
        let rate = format!("'rows-per-second' = '{THROUGH_FULL_DISK}', ");
        let results = self.job("full-results", &statements(&rate, &files));
        for job in [&state, &results] {
            self.apply(job)?;
        }
        let pods = || Ok([self.pods("full")?, self.pods("full-results")?]);
        for job in [&state, &results] {
            self.checkpoint(job.name, 2)?;
        }
        let before = pods()?;
        disk.fill()?;
        let parts = ["The job runs on", bucket.as_str(), "make room"];
        self.condition("full", "Degraded", "True", "CheckpointFailed", &parts)?;
        self.condition("full-results", "Degraded", "True", "CheckpointFailed", &parts)?;
        if pods()? != before {
            whatever!("a full disk has replaced the pods {before:?}");
        }
        disk.make_room()?;
        for job in [&state, &results] {
            self.condition(job.name, "Degraded", "False", "Healthy", &[])?;
        }
        self.finish(&state)?;
        self.phase("full-results", "Succeeded")?;
        self.compare_bucket(&bucket)?;
        (self.say)("a full disk of state and of results: said; the jobs ran on, and their rows are right");
        Ok(())
    }

    /// The disk of the pods, for state beyond memory, is too small: said, and a larger one lets the job go on.
    pub(super) fn full_local_disk(&self) -> Outcome<()> {
        let good = self.job("local", &self.sql("local", FAST));
        let with_disk = |size: &str| {
            let mut manifest = self.manifest(&good);
            manifest["spec"]["workers"]["podTemplate"]["spec"] = json!({
                "volumes": [{"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": size}}],
                "containers": [{"name": "worker", "env": [{"name": "MILLRACE_STATE_MEMORY", "value": "0"}]}],
            });
            apply(self.folder, "local.json", &manifest.to_string())
        };
        with_disk("16Ki")?;
        let parts = ["No space left on device", "/var/lib/millrace", "make room"];
        self.condition("local", "Degraded", "True", "LocalDiskFailed", &parts)?;
        with_disk("64Mi")?;
        self.finish(&good)?;
        (self.say)("a full disk of a worker's own: named; the job went on with a larger one");
        Ok(())
    }

    pub(super) fn missing_files(&self) -> Outcome<()> {
        let (bucket, input) = (format!("{}-input", self.namespace), "late");
        let sql = format!(
            "CREATE TABLE numbers (id BIGINT, k BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://{bucket}/{input}', 'format' = 'json');
             CREATE TABLE copied (id BIGINT, k BIGINT) WITH ({});
             INSERT INTO copied SELECT id, k FROM numbers;",
            self.files("copied")
        );
        self.apply(&self.job("input", &sql))?;
        self.condition("input", "Degraded", "True", "SourceUnavailable", &[&bucket, "make the bucket"])?;
        let bucket_folder = bucket_folder()?.with_file_name(&bucket);
        std::fs::create_dir(&bucket_folder).whatever_context("failed to make a bucket")?;
        let parts = [bucket.as_str(), input, "put files there, or correct the option 'path'"];
        self.condition("input", "Degraded", "True", "SourceUnavailable", &parts)?;
        let (rows, folder) = (events::picked(1_000), bucket_folder.join(input));
        let aside = folder.with_extension("aside");
        std::fs::create_dir_all(&aside).whatever_context("failed to make a folder")?;
        std::fs::write(aside.join("rows.jsonl"), rows.join("\n")).whatever_context("failed to write rows")?;
        std::fs::rename(&aside, &folder).whatever_context("failed to show rows")?;
        self.phase("input", "Succeeded")?;
        self.compare("copied", &rows)?;
        (self.say)("a missing bucket of input, then its files: named; the job went on once they were there");
        Ok(())
    }

    pub(super) fn missing_bucket(&self) -> Outcome<()> {
        let mut job = self.job("bucket", &self.sql("bucket", FAST));
        let bucket = format!("{}-late", self.namespace);
        job.location = format!("s3://{bucket}/state");
        self.apply(&job)?;
        self.condition("bucket", "Degraded", "True", "StoreUnavailable", &[&bucket, "make the bucket"])?;
        let folder = bucket_folder()?.with_file_name(&bucket);
        std::fs::create_dir(folder).whatever_context("failed to make a bucket")?;
        self.finish(&job)?;

        let bucket = format!("{}-results", self.namespace);
        let sink = format!("'connector' = 'filesystem', 'path' = 's3://{bucket}/results', 'format' = 'json'");
        let sql = self.sql("bucket-results", FAST).replace(&self.files("bucket-results"), &sink);
        self.apply(&self.job("bucket-results", &sql))?;
        let parts = [bucket.as_str(), "make the bucket"];
        self.condition("bucket-results", "Degraded", "True", "SinkUnavailable", &parts)?;
        let folder = bucket_folder()?.with_file_name(&bucket);
        std::fs::create_dir(folder).whatever_context("failed to make a bucket")?;
        self.phase("bucket-results", "Succeeded")?;
        self.compare_bucket(&bucket)?;
        (self.say)("a missing bucket, of state and of results: named; the job went on once it was made");
        Ok(())
    }

    /// Compares the rows of files below `results/` in a bucket of their own.
    fn compare_bucket(&self, bucket: &str) -> Outcome<()> {
        let found = outside::rows_in(bucket, "results")?;
        let difference = compare::compare(found.iter().map(String::as_str), &self.expected()?);
        match difference.is_empty() {
            true => Ok(()),
            false => whatever!("{bucket}: {} rows; {}", found.len(), difference.describe()),
        }
    }

    fn job_with_secret(&self) -> Job {
        Job { secret: "late", ..self.job("secrets", &self.sql("secrets", FAST)) }
    }

    pub(super) fn missing_secret(&self) -> Outcome<()> {
        self.apply(&self.job_with_secret())?;
        let missing = ["the Secret 'late' does not exist or has no key AWS_ACCESS_KEY_ID", "add it"];
        self.condition("secrets", "Degraded", "True", "StoreUnavailable", &missing)?;
        self.secret("late", Some("wrong"))?;

        // A value that the SQL names, at a job that waits for more than that.
        self.apply(&self.job_with_topic())?;
        let missing = ["the secret 'brokers' cannot be read", "make the Secret"];
        self.condition("topic", "Degraded", "True", "SecretMissing", &missing)?;
        let secret = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "kafka", "namespace": self.namespace},
            "stringData": {"brokers": "kafka.infra.svc:9092"},
        });
        apply(self.folder, "secret-brokers.json", &secret.to_string())
    }

    fn job_with_topic(&self) -> Job {
        let sink = format!(
            "'connector' = 'kafka', 'properties.bootstrap.servers' = '${{secret:brokers}}', 'topic' = '{}-late', 'format' = 'json'",
            self.namespace
        );
        let mut job = self.job("topic", &self.sql("topic", FAST).replace(&self.files("topic"), &sink));
        job.location = String::new();
        job
    }

    pub(super) fn wrong_secret(&self) -> Outcome<()> {
        let wrong = ["correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret 'late'"];
        self.condition("secrets", "Degraded", "True", "StoreUnavailable", &wrong)?;
        self.secret("late", None)
    }

    pub(super) fn right_secret(&self) -> Outcome<()> {
        self.finish(&self.job_with_secret())?;
        (self.say)("a missing, then wrong Secret: named; the job went on once it was right");
        Ok(())
    }

    pub(super) fn missing_topic(&self) -> Outcome<()> {
        let topic = format!("{}-late", self.namespace);
        self.condition("topic", "Degraded", "True", "SinkUnavailable", &[&topic, "create it"])?;
        self.kafka.run("create", &topic, &["3"])?;
        self.phase("topic", "Succeeded")?;
        self.compare_topic(&topic, 3, &self.expected()?)?;
        let status = self.status("topic")?;
        let place = status.pointer("/status/checkpointLocation").and_then(Value::as_str).unwrap_or_default();
        let state = bucket_folder()?.join(format!("default/{}/topic/job.pb", self.namespace));
        if place != "s3://millrace/default" || !state.exists() {
            whatever!("the job's state is not at the controller's default: {status}");
        }
        (self.say)("a missing topic: named; the job went on once it was made");
        Ok(())
    }

    pub(super) fn missing_source_topic(&self) -> Outcome<()> {
        let (topic, rows) = (format!("{}-source", self.namespace), 5_000);
        let sql = format!(
            "CREATE TABLE events (id BIGINT, k BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', \
             'properties.bootstrap.servers' = 'kafka.infra.svc:9092');
             CREATE TABLE picked (id BIGINT, k BIGINT) WITH ({});
             INSERT INTO picked SELECT id, k FROM events WHERE MOD(k, 10) = 3;",
            self.files("source")
        );
        let mut job = self.job("source", &sql);
        self.apply(&job)?;
        self.condition("source", "Degraded", "True", "SourceUnavailable", &[&topic, "create it"])?;
        self.kafka.run("create", &topic, &["5"])?;
        self.phase("source", "Running")?;
        self.kafka.run("load", &topic, &[&rows.to_string(), "5000"])?;
        let expected = events::picked(rows);
        wait("all rows of the topic are in files", SECONDS, || {
            let found = outside::rows(&format!("{}/source", self.namespace))?;
            Ok((found.len() >= expected.len()).then_some(()))
        })?;
        // Its input has no end: a last checkpoint shows that nothing comes after.
        job.suspend = true;
        self.apply(&job)?;
        self.phase("source", "Suspended")?;
        self.compare("source", &expected)?;
        (self.say)("a missing topic of a source: named; the job ran once it was made");

        // Another job goes on from the state that this one has left; first from a place where there is none.
        kubectl(&["delete", "streamjob/source", "-n", self.namespace, "--timeout=60s"])?;
        let state = format!("{}/{}/source", job.location, self.namespace);
        let mut heir = Job { name: "heir", start_from: format!("{state}-gone"), suspend: false, ..job };
        self.apply(&heir)?;
        let parts = ["spec.startFrom: there is no state in", "-gone", "name a savepoint"];
        self.condition("heir", "Ready", "False", "StateRefused", &parts)?;
        heir.start_from = state;
        self.apply(&heir)?;
        self.phase("heir", "Running")?;
        self.kafka.run("load", &topic, &[&rows.to_string(), "5000"])?;
        let twice = [&expected[..], &expected[..]].concat();
        wait("all further rows of the topic are in files", SECONDS, || {
            let found = outside::rows(&format!("{}/source", self.namespace))?;
            Ok((found.len() >= twice.len()).then_some(()))
        })?;
        heir.suspend = true;
        self.apply(&heir)?;
        self.phase("heir", "Suspended")?;
        self.compare("source", &twice)?;
        (self.say)("another job went on from the state of one that was deleted");
        Ok(())
    }

    pub(super) fn poison(&self) -> Outcome<()> {
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
        let parts = ["at offset ", "partition 0", &topic, "oops", "'json.ignore-parse-errors' = 'true'"];
        self.condition("poison", "Ready", "False", "InvalidData", &parts)?;
        job.sql = sql.replacen("'format'", "'json.ignore-parse-errors' = 'true', 'format'", 1);
        self.apply(&job)?;
        self.phase("poison", "Succeeded")?;
        self.compare("poison", &events::picked(rows))?;
        (self.say)("a poison record: named with offset and cure; the job went on once it was to be left out");
        Ok(())
    }
}

/// A job whose store answers errors.
pub(super) struct Outage {
    job: Job,
    way: Way,
    pods: Vec<String>,
    since: std::time::Instant,
}

/// A disk of its own for a bucket, so small that it can be filled. The S3 server must see it, and this program has mounts of its own.
struct SmallDisk {
    folder: PathBuf,
}

/// Enough for the state of a small job.
const DISK_SIZE: &str = "size=8m";

impl SmallDisk {
    fn mount(folder: &Path) -> Outcome<Self> {
        std::fs::create_dir(folder).whatever_context("failed to make a bucket")?;
        let disk = SmallDisk { folder: folder.to_owned() };
        let place = folder.display().to_string();
        beside_server(&["mount", "-t", "tmpfs", "-o", DISK_SIZE, "millrace-e2e", &place])?;
        Ok(disk)
    }

    fn ballast(&self) -> String {
        self.folder.join("ballast").display().to_string()
    }

    /// Leaves not one block.
    fn fill(&self) -> Outcome<()> {
        let ballast = self.ballast();
        beside_server(&[
            "sh",
            "-c",
            &format!("dd if=/dev/zero of='{ballast}' bs=4k 2>/dev/null; test -s '{ballast}'"),
        ])
    }

    fn make_room(&self) -> Outcome<()> {
        beside_server(&["rm", &self.ballast()])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = beside_server(&["umount", "--lazy", &self.folder.display().to_string()]) {
            eprintln!("{error}");
        }
    }
}

/// Runs a program among the mounts of the S3 server.
fn beside_server(program: &[&str]) -> Outcome<()> {
    let record = bucket_folder()?.join("../../run/s3");
    let record = std::fs::read_to_string(record).whatever_context("the S3 server is not recorded")?;
    let process = record.split_whitespace().next().whatever_context("the S3 server's record is empty")?;
    run("nsenter", &[&["--target", process, "--mount", "--"], program].concat()).map(|_| ())
}

/// Objects of which the second half is missing.
struct CutShort {
    /// As messages name them, or as they name all of them.
    name: String,
    whole: Vec<(PathBuf, Vec<u8>)>,
}

impl CutShort {
    fn newest(folder: &Path) -> Outcome<Self> {
        let newest = files(folder)?.pop().whatever_context("there is nothing to be cut short")?;
        let file = newest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::cut(format!("{}/{file}", name_of(folder)), vec![newest])
    }

    fn all(folder: &Path) -> Outcome<Self> {
        Self::cut(format!("{}/", name_of(folder)), files(folder)?)
    }

    fn cut(name: String, paths: Vec<PathBuf>) -> Outcome<Self> {
        let cut = |path: PathBuf| {
            let whole = std::fs::read(&path).whatever_context("failed to read an object")?;
            std::fs::write(&path, &whole[..whole.len() / 2]).whatever_context("failed to cut an object")?;
            Ok((path, whole))
        };
        Ok(CutShort { name, whole: paths.into_iter().map(cut).collect::<Outcome<_>>()? })
    }

    fn put_back(&self) -> Outcome<()> {
        for (path, whole) in &self.whole {
            std::fs::write(path, whole).whatever_context("failed to put an object back")?;
        }
        Ok(())
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// All files of a folder, in the order of their names.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let found = run("find", &[&folder.display().to_string(), "-type", "f"])?;
    let mut files: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    files.sort();
    Ok(files)
}
