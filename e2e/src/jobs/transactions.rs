//! A job that is down for longer than its transactions may be open: what is lost is named, and nothing goes on by itself.

use serde_json::Value;
use snafu::{OptionExt, whatever};

use super::{FAST, Job, Jobs, SLOW};
use crate::outside::{Outcome, kubectl, run};

/// The broker looks every ten seconds for transactions that are open for longer.
const TIMEOUT_MS: u64 = 3_000;

const ROWS: u64 = 100_000;

const KAFKA_PORT: &str = "9092";

/// A job whose coordinator cannot reach Kafka: checkpoints are recorded, and not committed.
pub(super) struct CutOff {
    job: Job,
    cut: Cut,
}

impl Jobs<'_> {
    fn job_with_time_out(&self, name: &'static str, topic: &str, rate: u64) -> Job {
        let sql = format!(
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '{rate}', \
             'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
             CREATE TABLE copied (n BIGINT) WITH ('connector' = 'kafka', 'format' = 'json', 'topic' = '{topic}', \
             'properties.bootstrap.servers' = 'kafka.infra.svc:{KAFKA_PORT}', \
             'properties.transaction.timeout.ms' = '{TIMEOUT_MS}');
             INSERT INTO copied SELECT n FROM numbers;",
            ROWS - 1
        );
        self.job(name, &sql)
    }

    pub(super) fn commits_are_cut_off(&self) -> Outcome<CutOff> {
        let topic = format!("{}-lost", self.namespace);
        self.kafka.run("create", &topic, &["3"])?;
        let job = self.job_with_time_out("lost", &topic, SLOW);
        self.apply(&job)?;
        self.checkpoint(job.name, 2)?;
        let selector = format!("millrace.dev/job={},app.kubernetes.io/component=coordinator", job.name);
        let address = "jsonpath={.items[0].status.podIP}";
        let address = kubectl(&["get", "pods", "-n", self.namespace, "-l", &selector, "-o", address])?;
        Ok(CutOff { job, cut: Cut::off(address.trim(), KAFKA_PORT)? })
    }

    pub(super) fn transaction_is_lost(&self, cut_off: CutOff) -> Outcome<()> {
        let CutOff { job, cut } = cut_off;
        let status = self.status(job.name)?;
        let uid = status.pointer("/metadata/uid").and_then(Value::as_str).whatever_context("no uid")?;
        self.kafka.run("settle", &format!("millrace/{uid}/"), &[])?;
        drop(cut);
        let topic = format!("the topic '{}-lost' are lost", self.namespace);
        let parts = [topic.as_str(), "CompleteAbort", "start over"];
        self.condition(job.name, "Ready", "False", "SinkTransactionLost", &parts)?;
        self.condition(job.name, "Stalled", "True", "SinkTransactionLost", &parts)?;
        let (before, pods) = (self.status(job.name)?, self.pods(job.name)?);

        // One of the cures that it names is to start over: a job of another name, and a topic of its own.
        let topic = format!("{}-found", self.namespace);
        self.kafka.run("create", &topic, &["3"])?;
        let now = self.status(job.name)?;
        if now["status"]["phase"] != "Failed" || self.pods(job.name)? != pods {
            whatever!("the job has gone on by itself: {before} became {now}");
        }
        kubectl(&["delete", "streamjob/lost", "-n", self.namespace, "--timeout=60s"])?;
        let job = self.job_with_time_out("found", &topic, FAST);
        self.apply(&job)?;
        self.phase(job.name, "Succeeded")?;
        let rows: Vec<String> = (0..ROWS).map(|n| format!("{{\"n\":{n}}}")).collect();
        self.compare_topic(&topic, 3, &rows)?;
        (self.say)(
            "transactions that the broker has ended before their commit: named, and nothing went on by itself",
        );
        Ok(())
    }
}

/// A pod that cannot reach a port of the control network, until this value goes. This program runs in that network.
struct Cut {
    rule: Vec<String>,
}

impl Cut {
    fn off(address: &str, port: &str) -> Outcome<Self> {
        let rule = ["INPUT", "-s", address, "-p", "tcp", "--dport", port, "-j", "REJECT"];
        let rule: Vec<String> =
            rule.into_iter().chain(["--reject-with", "tcp-reset"]).map(str::to_owned).collect();
        let cut = Cut { rule };
        cut.rule("-I")?;
        Ok(cut)
    }

    fn rule(&self, verb: &str) -> Outcome<()> {
        let arguments = ["--wait", "10", verb].into_iter().chain(self.rule.iter().map(String::as_str));
        run("iptables", &arguments.collect::<Vec<_>>()).map(|_| ())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = self.rule("-D") {
            eprintln!("{error}");
        }
    }
}
