//! One StreamJob on a real cluster, through faults, its outputs compared row by row with an independent computation.
//!
//! Run by `make e2e` inside of the test cluster's network (`e2e/cluster/enter`), with the controller installed.

mod compare;
mod events;
mod jobs;
#[cfg(test)]
mod layering;
mod outside;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use jobs::Jobs;
use outside::{FollowedLogs, Kafka, Outcome, Process, Watched, kubectl, records, run, wait};
use serde_json::Value;
use snafu::{OptionExt, ResultExt, Whatever, whatever};

/// The controller's namespace, as `e2e/install` makes it.
const SYSTEM: &str = "millrace-system";

/// How long the job may take to be right again after a fault.
const RECOVERY_SECONDS: u64 = 90;

#[derive(Parser)]
struct Arguments {
    /// Fewer faults and rows: a worker, the coordinator, and everything while the controller is away.
    #[arg(long)]
    short: bool,
    /// Only what users do to jobs, and do wrong; no faults.
    #[arg(long)]
    life: bool,
    /// Keeps the namespace.
    #[arg(long)]
    keep: bool,
    /// Fails once it has run for this long; 8 with --short, 60 without.
    #[arg(long)]
    minutes: Option<u64>,
    /// Where manifests, outputs and, after a failure, logs go.
    #[arg(long)]
    folder: PathBuf,
}

/// What the job's coordinator has logged of its newest generation.
#[derive(Debug, Clone, Copy, Default)]
struct Led {
    generation: u64,
    restored_epoch: u64,
    restored_rows: u64,
    /// Of the newest complete checkpoint since.
    epoch: u64,
    rows_in: u64,
    rows_out: u64,
}

struct Test {
    arguments: Arguments,
    name: String,
    kafka: Kafka,
    started: std::time::Instant,
}

fn main() -> ExitCode {
    match Test::new(Arguments::parse()).and_then(|test| test.all()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the log of a coordinator says.
fn led(log: &str) -> Led {
    let mut led = Led::default();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let fields = &line["fields"];
        let number = |name: &str| match &fields[name] {
            // Ids are logged as text.
            Value::String(text) => text.parse().unwrap_or_default(),
            other => other.as_u64().unwrap_or_default(),
        };
        match fields["message"].as_str() {
            Some("leading the job") => {
                led = Led {
                    generation: number("generation"),
                    restored_epoch: number("restored_epoch"),
                    restored_rows: number("restored_rows_in"),
                    ..Default::default()
                };
            }
            Some("checkpoint complete") => {
                led.epoch = number("epoch");
                led.rows_in = number("rows_in");
                led.rows_out = number("rows_out");
            }
            _ => {}
        }
    }
    led
}

impl Test {
    #[expect(clippy::disallowed_methods, reason = "the edge: names a run and times it")]
    fn new(arguments: Arguments) -> Outcome<Self> {
        std::fs::create_dir_all(&arguments.folder).whatever_context("failed to make the folder")?;
        // Rows of another build are nothing to compare with.
        let undisturbed = arguments.folder.join(jobs::UNDISTURBED);
        if undisturbed.exists() {
            std::fs::remove_dir_all(&undisturbed)
                .whatever_context("failed to remove the rows of an earlier run")?;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let started = std::time::Instant::now();
        let minutes = arguments.minutes.unwrap_or(if arguments.short { 8 } else { 60 });
        outside::end_after(std::time::Duration::from_secs(minutes * 60));
        Ok(Test { arguments, name: format!("e2e-{}", now.as_secs()), kafka: Kafka::new()?, started })
    }

    fn say(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn all(&self) -> Outcome<()> {
        let passed = self.pass();
        if let Err(error) = &passed {
            self.say(&format!("failed: {error}"));
            let folder = &self.arguments.folder;
            self.collect(folder);
            println!(
                "objects, events and logs are in {}, those of all pods, also of those that are gone, in its folder pods",
                folder.display()
            );
        }
        if !self.arguments.keep {
            kubectl(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"])?;
        }
        passed
    }

    /// Where the records are that a reader has seen as they came.
    fn reader(&self) -> PathBuf {
        self.arguments.folder.join("totals.tsv")
    }

    fn topic(&self, table: &str) -> String {
        format!("{}-{table}", self.name)
    }

    /// Where the logs of all pods are followed into.
    fn logs(&self) -> PathBuf {
        self.arguments.folder.join("pods")
    }

    fn pass(&self) -> Outcome<()> {
        self.make_namespace()?;
        let logs = self.logs();
        let _logs =
            (FollowedLogs::start(&self.name, &logs)?, FollowedLogs::start(SYSTEM, &logs.join(SYSTEM))?);
        if !self.arguments.life {
            self.faults()?;
        }
        self.are_restricted()?;
        let say = |what: &str| self.say(what);
        Jobs { folder: &self.arguments.folder, namespace: &self.name, kafka: &self.kafka, say: &say }
            .all()?;
        self.would_be_found_out()
    }

    /// What is collected when something is wrong tells of it.
    fn would_be_found_out(&self) -> Outcome<()> {
        let folder = self.arguments.folder.join("collected");
        std::fs::create_dir_all(&folder).whatever_context("failed to make a folder")?;
        self.collect(&folder);
        for (file, word) in [
            ("objects.yaml", "kind: StreamJob"),
            ("wide.txt", "Warning"),
            ("describe.txt", "Last Checkpoint"),
            ("operator.log", "\"timestamp\""),
        ] {
            let text =
                std::fs::read_to_string(folder.join(file)).with_whatever_context(|_| file.to_owned())?;
            if !text.contains(word) {
                whatever!("'{word}' is not in {file}, which is collected when something is wrong");
            }
        }
        let logs = std::fs::read_dir(self.logs()).whatever_context("failed to list the logs of pods")?;
        let mut texts = logs.filter_map(|log| std::fs::read_to_string(log.ok()?.path()).ok());
        match texts.any(|text| text.contains("leading the job")) {
            true => Ok(()),
            false => whatever!("no log of a pod, also of one that is gone, tells of a coordinator"),
        }
    }

    /// The namespace admits only restricted pods; this shows that it is what refuses others.
    fn are_restricted(&self) -> Outcome<()> {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unrestricted", "namespace": self.name},
            "spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": true}}]},
        });
        match outside::apply(&self.arguments.folder, "pod.json", &pod.to_string()) {
            Err(error) if error.to_string().contains("violates PodSecurity \"restricted") => Ok(()),
            other => whatever!("a privileged pod was to be refused: {other:?}"),
        }
    }

    fn faults(&self) -> Outcome<()> {
        let seconds = if self.arguments.short { 75 } else { 300 };
        let rows = seconds * events::RATE;
        let (events, totals) = (self.topic("events"), self.topic("totals"));
        self.kafka.run("create", &events, &["5"])?;
        self.kafka.run("create", &totals, &["3"])?;
        let reader = self.reader();
        let _reader = self.kafka.start("read", &totals, &[], &reader)?;
        let watched = Watched::start(&format!("{}/picked", self.name))?;
        self.apply_job(4)?;
        self.say(&format!("applied; loading {rows} rows, {} a second", events::RATE));
        let load = [rows.to_string(), events::RATE.to_string()];
        let log = self.arguments.folder.join("loader.log");
        let mut loader = self.kafka.start("load", &events, &[&load[0], &load[1]], &log)?;

        self.fault("kill -9 of a worker's process", &mut loader, || self.signal(&self.pod("worker")?))?;
        self.fault("deletion of the coordinator's pod", &mut loader, || {
            kubectl(&["delete", "pod", &self.pod("coordinator")?, "-n", &self.name, "--wait=false"])
                .map(|_| ())
        })?;
        self.fault("death of the controller, and of all pods while it is away", &mut loader, || {
            self.kill_all()
        })?;
        if !self.arguments.short {
            self.fault("death of the coordinator's node", &mut loader, || {
                self.lose_node("node-kill", "node-start")
            })?;
            self.fault("cut of the coordinator's node", &mut loader, || {
                self.lose_node("node-cut", "node-join")
            })?;
            self.rescale(7)?;
            self.fault("kill -9 of a worker's process", &mut loader, || self.signal(&self.pod("worker")?))?;
        }

        self.finish_loading(&mut loader, &events)?;
        let led = self.compare(rows, &reader)?;
        self.look_at_status(&led)?;
        let looks = watched.end()?;
        self.say(&format!("no file changed or disappeared in {looks} looks"));
        self.delete()
    }

    /// A running job that is deleted takes everything that was made for it along.
    fn delete(&self) -> Outcome<()> {
        let all = [
            "get",
            "deployments,services,configmaps,networkpolicies,poddisruptionbudgets,pods",
            "-n",
            &self.name,
            "-o",
            "name",
            "-l",
        ];
        let left = || kubectl(&[&all[..], &["app.kubernetes.io/instance=totals"]].concat());
        if left()?.lines().count() < 7 {
            whatever!("the running job has fewer objects than there should be: {}", left()?);
        }
        kubectl(&["delete", "streamjob", "totals", "-n", &self.name])?;
        wait("nothing is left of the deleted job", RECOVERY_SECONDS, || {
            Ok(left()?.trim().is_empty().then_some(()))
        })?;
        self.say("deleted while it ran: nothing is left of it");
        Ok(())
    }

    fn make_namespace(&self) -> Outcome<()> {
        let name = &self.name;
        let around = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
             pod-security.kubernetes.io/enforce: restricted\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s3\n  \
             namespace: {name}\nstringData:\n  AWS_ACCESS_KEY_ID: {}\n  AWS_SECRET_ACCESS_KEY: {}\n",
            std::env::var("AWS_ACCESS_KEY_ID").whatever_context("AWS_ACCESS_KEY_ID is not set")?,
            std::env::var("AWS_SECRET_ACCESS_KEY").whatever_context("AWS_SECRET_ACCESS_KEY is not set")?,
        );
        outside::apply(&self.arguments.folder, "namespace.yaml", &around)
    }

    fn apply_job(&self, parallelism: u32) -> Outcome<()> {
        let name = &self.name;
        let job = include_str!("../job.yaml").replace("NAMESPACE", name).replace("RUN", name);
        let job = job.replace("PARALLELISM", &parallelism.to_string());
        outside::apply(&self.arguments.folder, "job.yaml", &job)
    }

    /// A running pod of a component of the newest attempt.
    fn pod(&self, component: &str) -> Outcome<String> {
        let selector = format!("app.kubernetes.io/instance=totals,app.kubernetes.io/component={component}");
        let pods = kubectl(&["get", "pods", "-n", &self.name, "-l", &selector, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods).whatever_context("kubectl's answer is malformed")?;
        let is_ready = |pod: &&Value| {
            let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
            let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            pod.pointer("/metadata/deletionTimestamp").is_none()
                && conditions.is_some_and(|c| c.iter().any(is_ready))
        };
        let found = pods["items"].as_array().and_then(|pods| pods.iter().find(is_ready));
        let name = found.and_then(|pod| pod.pointer("/metadata/name")?.as_str());
        Ok(name.with_whatever_context(|| format!("no {component} is ready"))?.to_owned())
    }

    /// What the present coordinator has logged.
    fn led(&self) -> Outcome<Led> {
        let pod = self.pod("coordinator")?;
        Ok(led(&kubectl(&["logs", "-n", &self.name, &pod])?))
    }

    /// Causes a fault while rows are in flight and after a checkpoint, and waits until the job has gone on from it.
    fn fault(&self, what: &str, loader: &mut Process, cause: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let before = wait("a checkpoint holds rows", RECOVERY_SECONDS, || {
            let led = self.led()?;
            Ok((led.epoch > led.restored_epoch && led.rows_in > led.restored_rows).then_some(led))
        })?;
        self.say(&format!("{what}: at epoch {}, {} rows read", before.epoch, before.rows_in));
        if loader.has_ended()? {
            whatever!("no rows are in flight any more before the {what}: the loader has ended");
        }
        let at = self.started.elapsed();
        cause()?;
        let after = wait(&format!("the job goes on after the {what}"), RECOVERY_SECONDS, || {
            let led = self.led()?;
            Ok((led.generation > before.generation && led.epoch > 0).then_some(led))
        })?;
        let took = (self.started.elapsed() - at).as_secs_f64();
        if after.restored_epoch == 0 || after.restored_rows == 0 {
            whatever!("after the {what} the job began from nothing: {after:?}");
        }
        if after.restored_epoch < before.epoch || after.restored_rows < before.rows_in {
            whatever!(
                "after the {what} the job has gone back behind a checkpoint that was complete: {before:?} {after:?}"
            );
        }
        self.say(&format!(
            "  restored epoch {} with {} rows, which are not read again, as generation {}; the next checkpoint was complete after {took:.1} s",
            after.restored_epoch, after.restored_rows, after.generation
        ));
        // What a reader has seen before the fault must still be there, the same, after it.
        self.read_again()
    }

    fn signal(&self, pod: &str) -> Outcome<()> {
        run(&script("container-signal"), &["KILL", &self.name, pod]).map(|_| ())
    }

    fn kill_all(&self) -> Outcome<()> {
        let operator = ["deployment/millrace-operator", "-n", SYSTEM];
        let lease = ["get", "lease/millrace-operator", "-n", SYSTEM, "-o", "jsonpath={.spec.holderIdentity}"];
        let leader = kubectl(&lease)?;
        let pod = leader.rsplit_once('_').map_or("", |(pod, _)| pod);
        run(&script("container-signal"), &["KILL", SYSTEM, pod])?;
        // The kubelet would start it again.
        kubectl(&[&["scale"], &operator[..], &["--replicas=0"]].concat())?;
        wait("the controller is gone", RECOVERY_SECONDS, || {
            let pods = kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"])?;
            Ok(pods.trim().is_empty().then_some(()))
        })?;
        kubectl(&["delete", "pods", "--all", "-n", &self.name, "--grace-period=0", "--force"])?;
        // The job must heal without the controller.
        wait("a coordinator is back without the controller", RECOVERY_SECONDS, || {
            Ok(self.led().ok().filter(|led| led.epoch > led.restored_epoch))
        })?;
        kubectl(&[&["scale"], &operator[..], &["--replicas=2"]].concat()).map(|_| ())
    }

    /// Loses the node of the coordinator by one script, until another one brings it back.
    fn lose_node(&self, lose: &str, bring_back: &str) -> Outcome<()> {
        let pod = self.pod("coordinator")?;
        let node = kubectl(&["get", "pod", &pod, "-n", &self.name, "-o", "jsonpath={.spec.nodeName}"])?;
        let number = node.trim_start_matches(|c: char| !c.is_ascii_digit()).to_owned();
        run(&script(lose), &[&number])?;
        wait("the job has left the lost node", RECOVERY_SECONDS, || {
            Ok(self.led().ok().filter(|led| led.epoch > led.restored_epoch))
        })?;
        run(&script(bring_back), &[&number]).map(|_| ())
    }

    /// Changes the parallelism: a last checkpoint, then new pods that go on from it.
    fn rescale(&self, parallelism: u32) -> Outcome<()> {
        let (before, pod) = (self.led()?, self.pod("coordinator")?);
        let job = "streamjob/totals";
        kubectl(&["scale", job, "-n", &self.name, &format!("--replicas={parallelism}")])?;
        let after = wait("the job runs at another parallelism", RECOVERY_SECONDS, || {
            let running = self.status("{.status.phase} {.status.parallelism} {.status.attempt}")?;
            let led = self.led()?;
            let is_right = running == format!("Running {parallelism} 2") && led.epoch > 0;
            Ok(is_right.then_some(led).filter(|led| led.generation > before.generation))
        })?;
        // The old pods have taken a last checkpoint, and the new ones begin from that very one.
        let log = self.logs().join(format!("{pod}.0.log"));
        let last =
            led(&std::fs::read_to_string(&log)
                .whatever_context("the log of the old coordinator is missing")?);
        if after.restored_epoch != last.epoch
            || after.restored_rows != last.rows_in
            || last.epoch <= before.epoch
        {
            whatever!(
                "the change of parallelism did not begin from a last checkpoint: {before:?} {last:?} {after:?}"
            );
        }
        self.say(&format!("parallelism {parallelism}: restored epoch {}", after.restored_epoch));
        Ok(())
    }

    fn status(&self, path: &str) -> Outcome<String> {
        kubectl(&["get", "sj", "totals", "-n", &self.name, "-o", &format!("jsonpath={path}")])
    }

    fn finish_loading(&self, loader: &mut Process, events: &str) -> Outcome<()> {
        wait("the loader ends", 400, || {
            let ended = loader.0.try_wait().whatever_context("failed to wait for the loader")?;
            Ok(ended)
        })
        .and_then(|ended| match ended.success() {
            true => Ok(()),
            false => whatever!("the loader ended with {ended}"),
        })?;
        self.kafka.run("close", events, &[])?;
        self.say("loaded; all windows are closed");
        Ok(())
    }

    /// Waits for all results, and compares them.
    fn compare(&self, rows: u64, reader: &Path) -> Outcome<Led> {
        let (totals, picked) = (events::totals(rows), events::picked(rows));
        let folder = format!("{}/picked", self.name);
        let results = (totals.len() + picked.len()) as u64;
        let read = wait("a checkpoint covers all results", RECOVERY_SECONDS, || {
            let led = self.led()?;
            Ok((led.rows_out >= results).then_some(led))
        })?;
        wait("the reader has them all", RECOVERY_SECONDS, || {
            Ok((records(reader)?.len() >= totals.len()).then_some(()))
        })?;
        // Whatever comes too much has time to come.
        let led = wait("another checkpoint", RECOVERY_SECONDS, || {
            Ok(Some(self.led()?).filter(|led| led.epoch > read.epoch + 1))
        })?;
        let found = records(reader)?;
        let difference = compare::compare(found.values().map(String::as_str), &totals);
        self.verdict("Kafka", found.len(), &difference)?;
        let found = outside::rows(&folder)?;
        let difference = compare::compare(found.iter().map(String::as_str), &picked);
        self.verdict("files", found.len(), &difference)?;
        self.read_again()?;
        // Both INSERTs read together every row that was loaded, and one row in each of four partitions that closes the windows.
        if led.rows_in != rows + 4 {
            whatever!("the checkpoint counts {} rows in, and {rows} and 4 were loaded", led.rows_in);
        }
        if led.rows_out != results {
            whatever!("the checkpoint counts {} rows out, and {results} are there", led.rows_out);
        }
        Ok(led)
    }

    fn verdict(&self, what: &str, rows: usize, difference: &compare::Difference) -> Outcome<()> {
        if !difference.is_empty() {
            whatever!("{what}: {}", difference.describe());
        }
        self.say(&format!("{what}: {rows} rows, lost 0, doubled 0"));
        Ok(())
    }

    /// A new reader must see the very records that the first one saw as they came.
    fn read_again(&self) -> Outcome<()> {
        let first = records(&self.reader())?;
        let again = self.arguments.folder.join("totals-again.tsv");
        let _reader = self.kafka.start("read", &self.topic("totals"), &[], &again)?;
        let second = wait("a second reader has them all", RECOVERY_SECONDS, || {
            Ok(Some(records(&again)?).filter(|second| second.len() >= first.len()))
        })?;
        let changed = first.iter().find(|(place, row)| second.get(*place) != Some(*row));
        match changed {
            None => Ok(()),
            Some(changed) => whatever!("{changed:?} was read before, and is not there any more"),
        }
    }

    /// What `kubectl get sj` says of the job: one line that tells whether it runs, and when its last checkpoint was.
    fn is_shown(&self, shown: &str) -> Outcome<()> {
        let mut lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (titles, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let expected = ["NAME", "PHASE", "READY", "PARALLELISM", "ATTEMPT", "RESTARTS", "CHECKPOINT", "AGE"];
        let (parallelism, attempt) = if self.arguments.short { ("4", "1") } else { ("7", "2") };
        let ages = values.iter().skip(6).filter(|age| age.starts_with(|c: char| c.is_ascii_digit()));
        let is_right = titles == expected
            && values.len() == expected.len()
            && values[..5] == ["totals", "Running", "True", parallelism, attempt]
            // Two of the faults before have ended a worker, and a coordinator.
            && values[5].parse().is_ok_and(|restarts: u32| restarts >= 2)
            && ages.count() == 2;
        match is_right {
            true => Ok(()),
            false => whatever!("kubectl get sj shows something else:\n{shown}"),
        }
    }

    /// What a user and a scraper see.
    fn look_at_status(&self, led: &Led) -> Outcome<()> {
        let phase = self.status("{.status.phase} {.status.conditions[?(@.type=='Ready')].status}")?;
        if phase != "Running True" {
            whatever!("the job is {phase}, and should be Running True");
        }
        let shown = kubectl(&["get", "sj", "-n", &self.name])?;
        println!("{}", shown.trim_end());
        self.is_shown(&shown)?;
        let described = kubectl(&["describe", "sj", "totals", "-n", &self.name])?;
        for word in ["Running", "WorkerLost", "Last Checkpoint", "Last Failure"] {
            if !described.contains(word) {
                whatever!("kubectl describe does not say '{word}':\n{described}");
            }
        }
        let metrics = scrape(&self.name, &self.pod("coordinator")?)?;
        let metric = |name: &str| -> Outcome<u64> {
            let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            Ok(value.with_whatever_context(|| format!("the metric {name} is missing"))? as u64)
        };
        let (rows_in, rows_out) =
            (metric("millrace_checkpoint_rows_in")?, metric("millrace_checkpoint_rows_out")?);
        if (rows_in, rows_out) != (led.rows_in, led.rows_out) {
            whatever!("metrics say {rows_in} rows in and {rows_out} out, the log {led:?}");
        }
        if metric("millrace_job_late_rows_total")? != 0 {
            whatever!("rows were late");
        }
        let of_worker = scrape(&self.name, &self.pod("worker")?)?;
        let rows = of_worker.lines().filter(|line| line.starts_with("millrace_task_rows_total{"));
        if !rows.clone().any(|line| line.contains("operator=") && !line.ends_with("} 0")) {
            whatever!("a worker's metrics count no rows:\n{of_worker}");
        }
        let of_filter =
            of_worker.lines().filter(|line| line.starts_with("millrace_task_operator_rows_out_total{"));
        let given: Vec<&str> =
            of_filter.filter(|line| line.contains("calc") && !line.ends_with("} 0")).collect();
        if given.is_empty() {
            whatever!("a worker's metrics count no rows of its operators:\n{of_worker}");
        }
        // Half of what job.yaml gives the container, which the worker has found out by itself.
        let log = kubectl(&["logs", "-n", &self.name, &self.pod("worker")?])?;
        let memory = log.lines().find(|line| line.contains("memory for state"));
        if !memory.is_some_and(|line| line.contains("268435456") && line.contains("/var/lib/millrace")) {
            whatever!("the worker does not say what memory it has for state: {memory:?}");
        }
        let operators = ["get", "pods", "-n", SYSTEM, "-o", "jsonpath={.items[0].metadata.name}"];
        let of_controller = scrape(SYSTEM, kubectl(&operators)?.trim())?;
        if !of_controller.contains("millrace_operator_reconciles_total ") {
            whatever!("the controller's metrics count no reconciles:\n{of_controller}");
        }
        self.say(&format!("metrics: {rows_in} rows in, {rows_out} rows out at epoch {}", led.epoch));
        Ok(())
    }

    /// Objects, events and logs, for whoever has to find out.
    fn collect(&self, folder: &Path) {
        let all = ["get", "all,sj,configmaps,events", "-n", &self.name, "-o", "yaml"];
        let wide = ["get", "pods,events", "-n", &self.name, "-o", "wide"];
        let describe = ["describe", "sj", "-n", &self.name];
        let operator =
            ["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=millrace-operator", "--prefix", "--tail=-1"];
        let files: [(&str, &[&str]); 4] = [
            ("objects.yaml", &all),
            ("wide.txt", &wide),
            ("describe.txt", &describe),
            ("operator.log", &operator),
        ];
        for (file, arguments) in files {
            save(folder, file, kubectl(arguments));
        }
    }
}

/// A pod's metrics.
fn scrape(namespace: &str, pod: &str) -> Outcome<String> {
    kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{namespace}/pods/{pod}:6123/proxy/metrics")])
}

fn save(folder: &Path, file: &str, text: Outcome<String>) {
    let text = text.unwrap_or_else(|error: Whatever| error.to_string());
    if let Err(error) = std::fs::write(folder.join(file), text) {
        eprintln!("failed to write {file}: {error}");
    }
}

/// A command of the test cluster.
fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name).display().to_string()
}
