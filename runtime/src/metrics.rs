//! Every metric of the data plane: name, help, labels.
//!
//! Own labels are `streamjob`, `operator`, `subtask`; those of Prometheus (`job`, `namespace`, `pod`, `instance`) are never used.

use prometheus::{Counter, CounterVec, Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};

use crate::coordinator::JobReport;
use crate::coordinator::report::Phase;
use crate::model::EventTime;
use crate::worker::WorkerFigures;

/// Whether a metric only ever grows while its process lives.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter as COUNTER, Gauge as GAUGE};

/// The metrics of a job, in Prometheus' text form.
///
/// # Errors
/// If two metrics have the same name, which a test excludes.
pub fn job(report: &JobReport, source_chains: &[u32], now_ms: u64) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let public = &report.public;
    let set = |kind: Kind, name: &str, help: &str, value: f64| -> Result<(), prometheus::Error> {
        let options = Opts::new(name, help).const_label("streamjob", &public.name);
        match kind {
            COUNTER => {
                let counter = Counter::with_opts(options)?;
                counter.inc_by(value);
                registry.register(Box::new(counter))
            }
            GAUGE => {
                let gauge = Gauge::with_opts(options)?;
                gauge.set(value);
                registry.register(Box::new(gauge))
            }
        }
    };
    let totals = report.totals(source_chains);
    let is_running = f64::from(u8::from(public.phase == Phase::Running));
    let restarts = f64::from(public.restarts);
    let (late, failures) = (totals.late_rows as f64, public.failed_checkpoints as f64);
    let generation = public.generation as f64;
    let state = totals.state_bytes as f64;
    set(GAUGE, "millrace_job_running", "1 while all subtasks run", is_running)?;
    set(GAUGE, "millrace_job_generation", "Generation that leads the job", generation)?;
    set(GAUGE, "millrace_job_workers", "Workers that run the job's tasks", f64::from(public.workers))?;
    set(COUNTER, "millrace_job_restarts_total", "Recoveries led by this coordinator process", restarts)?;
    set(GAUGE, "millrace_job_state_bytes", "Keyed state, over all subtasks", state)?;
    let (in_memory, help) =
        (totals.state_memory_bytes as f64, "Keyed state in memory; the rest is on local disks");
    set(GAUGE, "millrace_job_state_memory_bytes", help, in_memory)?;
    set(COUNTER, "millrace_job_late_rows_total", "Rows dropped because their windows had fired", late)?;
    let (skipped, help) =
        (totals.skipped_records as f64, "Records that are no rows and were left out in this generation");
    set(COUNTER, "millrace_source_skipped_records_total", help, skipped)?;
    if let Some(lag) = totals.lag_records {
        let help = "Records of topics that are there and were not read yet, as the brokers have told last";
        set(GAUGE, "millrace_source_lag_records", help, lag as f64)?;
    }
    let rows_in = totals.rows_in as f64;
    set(COUNTER, "millrace_source_rows_total", "Rows read by all sources in this generation", rows_in)?;
    let (rows_out, help) = (totals.rows_out as f64, "Rows written by all sinks since the job's first start");
    set(COUNTER, "millrace_sink_rows_total", help, rows_out)?;
    if let Some(watermark) = totals.watermark_ms.filter(is_set) {
        let help = "Lowest watermark of all subtasks, in Unix time";
        set(GAUGE, "millrace_job_watermark_seconds", help, watermark as f64 / 1e3)?;
        let help = "Time from the lowest watermark to now; below 0 if events are of the future";
        let lag = (now_ms as f64 - watermark as f64) / 1e3;
        set(GAUGE, "millrace_job_watermark_lag_seconds", help, lag)?;
    }
    let help = "Checkpoints that failed or took too long";
    set(COUNTER, "millrace_checkpoint_failures_total", help, failures)?;
    let epoch = public.last_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
    set(GAUGE, "millrace_checkpoint_epoch", "Epoch of the newest complete checkpoint", epoch as f64)?;
    if let Some(checkpoint) = &public.last_checkpoint {
        let age = now_ms.saturating_sub(checkpoint.completed_at_ms) as f64 / 1e3;
        let duration = checkpoint.duration_ms as f64 / 1e3;
        let bytes = checkpoint.bytes as f64;
        set(GAUGE, "millrace_checkpoint_age_seconds", "Time since the newest checkpoint completed", age)?;
        set(GAUGE, "millrace_checkpoint_duration_seconds", "From trigger to completion", duration)?;
        set(GAUGE, "millrace_checkpoint_bytes", "Bytes written for the newest checkpoint", bytes)?;
        let help = "The longest time that a task stood still for the newest checkpoint";
        let stop = report.longest_stop_us as f64 / 1e6;
        set(GAUGE, "millrace_checkpoint_longest_stop_seconds", help, stop)?;
        let help = "Rows read by all sources up to the newest checkpoint, since the first start";
        set(GAUGE, "millrace_checkpoint_rows_in", help, checkpoint.rows_in as f64)?;
        let help = "Rows written by all sinks up to the newest checkpoint, since the first start";
        set(GAUGE, "millrace_checkpoint_rows_out", help, checkpoint.rows_out as f64)?;
    }
    text(&registry)
}

/// The metrics of a worker's tasks, in Prometheus' text form. A chain is known by its first operator.
///
/// # Errors
/// If two metrics have the same name, which a test excludes.
pub fn worker(job: &str, figures: &WorkerFigures) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let options = |name: &str, help: &str| Opts::new(name, help).const_label("streamjob", job);
    let labels = ["operator", "subtask"];
    let generation =
        Gauge::with_opts(options("millrace_worker_generation", "Generation that this worker runs; 0: none"))?;
    generation.set(figures.generation as f64);
    registry.register(Box::new(generation))?;
    let counter = |name: &str, help: &str| -> Result<CounterVec, prometheus::Error> {
        let counter = CounterVec::new(options(name, help), &labels)?;
        registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    };
    let gauge = |name: &str, help: &str| -> Result<GaugeVec, prometheus::Error> {
        let gauge = GaugeVec::new(options(name, help), &labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    let rows = counter("millrace_task_rows_total", "Rows that came into the chain in this generation")?;
    let help = "Memory of the rows that came into the chain in this generation";
    let bytes = counter("millrace_task_bytes_total", help)?;
    let help = "Rows that left the chain in this generation, to other tasks or a sink";
    let sent_rows = counter("millrace_task_sent_rows_total", help)?;
    let sent_bytes = counter("millrace_task_sent_bytes_total", "Memory of the rows that left the chain")?;
    let help = "Records of the subtask's partitions that are there and were not read yet";
    let lag = gauge("millrace_task_lag_records", help)?;
    let late = counter("millrace_task_late_rows_total", "Rows dropped because their windows had fired")?;
    let idle =
        counter("millrace_task_idle_seconds_total", "Time in this generation that the task waited for rows")?;
    let help = "Time in this generation that the task waited for those who take its rows";
    let backpressured = counter("millrace_task_backpressured_seconds_total", help)?;
    let busy =
        counter("millrace_task_busy_seconds_total", "The rest of the time in this generation: it worked")?;
    let state = gauge("millrace_task_state_bytes", "Keyed state of the subtask")?;
    let help = "Keyed state of the subtask in memory; the rest is on the local disk";
    let in_memory = gauge("millrace_task_state_memory_bytes", help)?;
    let watermark = gauge("millrace_task_watermark_seconds", "Watermark of the subtask, in Unix time")?;
    let of_operator = [
        ("rows_in", "Rows that came to the operator in this generation, as it runs in its chain"),
        ("bytes_in", "Memory of the rows that came to the operator in this generation"),
        ("rows_out", "Rows that the operator has given in this generation"),
        ("bytes_out", "Memory of the rows that the operator has given in this generation"),
        ("late_rows", "Rows that the operator dropped because their windows had fired"),
    ];
    let of_operator =
        of_operator.map(|(what, help)| counter(&format!("millrace_task_operator_{what}_total"), help));
    let of_operator = of_operator.into_iter().collect::<Result<Vec<_>, _>>()?;
    let help = "Keyed state of the operator in the subtask, as of the newest barrier";
    let state_of_operator = gauge("millrace_task_operator_state_bytes", help)?;
    for task in &figures.tasks {
        for flow in &task.operators {
            let operator = figures.names.operators.get(flow.operator as usize).map_or("", String::as_str);
            let values = [operator, &task.subtask.to_string()];
            let counts = [flow.rows_in, flow.bytes_in, flow.rows_out, flow.bytes_out, flow.late_rows];
            for (counter, count) in of_operator.iter().zip(counts) {
                counter.with_label_values(&values).inc_by(count as f64);
            }
            state_of_operator.with_label_values(&values).set(flow.state_bytes as f64);
        }
        let operator = figures.names.chains.get(task.chain as usize).map_or("", String::as_str);
        let subtask = task.subtask.to_string();
        let values = [operator, subtask.as_str()];
        for (counter, count) in [
            (&rows, task.rows_in),
            (&bytes, task.bytes_in),
            (&sent_rows, task.sent_rows),
            (&sent_bytes, task.sent_bytes),
            (&late, task.late_rows),
        ] {
            counter.with_label_values(&values).inc_by(count as f64);
        }
        if let Some(records) = task.lag_records {
            lag.with_label_values(&values).set(records as f64);
        }
        for (counter, millis) in
            [(&idle, task.idle_ms), (&backpressured, task.backpressured_ms), (&busy, task.busy_ms)]
        {
            counter.with_label_values(&values).inc_by(millis as f64 / 1e3);
        }
        state.with_label_values(&values).set(task.state_bytes as f64);
        in_memory.with_label_values(&values).set(task.state_memory_bytes as f64);
        if is_set(&task.watermark_ms) {
            watermark.with_label_values(&values).set(task.watermark_ms as f64 / 1e3);
        }
    }
    text(&registry)
}

/// False for the watermarks before the first row and after the last.
fn is_set(watermark_ms: &i64) -> bool {
    *watermark_ms > EventTime::MIN.0 && *watermark_ms < EventTime::MAX.0
}

fn text(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attempt;
    use crate::rpc::{OperatorReport, TaskReport};
    use crate::worker::Names;
    use millrace_crds::contract::ReportedCheckpoint;

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_job_has_its_metrics() {
        let last_checkpoint =
            Some(ReportedCheckpoint { epoch: 7, completed_at_ms: 1_000, rows_out: 5, ..Default::default() });
        let mut report = JobReport::new("totals", "", Attempt(1));
        report.public.last_checkpoint = last_checkpoint;
        report.public.restarts = 2;

        let text = job(&report, &[], 4_000).unwrap();

        assert_lines(
            &text,
            &[
                "millrace_checkpoint_age_seconds{streamjob=\"totals\"} 3",
                "millrace_checkpoint_epoch{streamjob=\"totals\"} 7",
                "millrace_checkpoint_rows_out{streamjob=\"totals\"} 5",
                "millrace_job_running{streamjob=\"totals\"} 0",
                "# TYPE millrace_job_restarts_total counter",
                "millrace_job_restarts_total{streamjob=\"totals\"} 2",
            ],
        );
        let counters = text.lines().filter(|line| line.ends_with(" counter"));
        assert!(counters.clone().all(|line| line.contains("_total ")), "{text}");
        assert_eq!(counters.count(), text.matches("_total{").count(), "{text}");
    }

    #[test]
    fn a_worker_has_the_metrics_of_its_tasks() {
        let task = |chain, subtask, rows_in, watermark_ms| TaskReport {
            chain,
            subtask,
            rows_in,
            watermark_ms,
            state_bytes: 64,
            lag_records: (chain == 0).then_some(17),
            sent_bytes: 5,
            ..Default::default()
        };
        let figures = WorkerFigures {
            generation: 3,
            names: Names {
                chains: ["a/source".to_owned(), "b/window".to_owned()].into(),
                operators: ["a/source".to_owned(), "a/calc".to_owned(), "b/window".to_owned()].into(),
            },
            tasks: vec![
                TaskReport {
                    operators: vec![OperatorReport {
                        operator: 1,
                        rows_in: 9,
                        rows_out: 7,
                        ..Default::default()
                    }],
                    ..task(0, 1, 9, 2_500)
                },
                task(1, 1, 4, EventTime::MIN.0),
            ],
        };

        let text = worker("totals", &figures).unwrap();

        assert_lines(
            &text,
            &[
                "millrace_worker_generation{streamjob=\"totals\"} 3",
                "# TYPE millrace_task_rows_total counter",
                "millrace_task_rows_total{operator=\"a/source\",streamjob=\"totals\",subtask=\"1\"} 9",
                "millrace_task_rows_total{operator=\"b/window\",streamjob=\"totals\",subtask=\"1\"} 4",
                "millrace_task_state_bytes{operator=\"b/window\",streamjob=\"totals\",subtask=\"1\"} 64",
                "millrace_task_watermark_seconds{operator=\"a/source\",streamjob=\"totals\",subtask=\"1\"} 2.5",
                "millrace_task_lag_records{operator=\"a/source\",streamjob=\"totals\",subtask=\"1\"} 17",
                "millrace_task_sent_bytes_total{operator=\"b/window\",streamjob=\"totals\",subtask=\"1\"} 5",
                "millrace_task_operator_rows_in_total{operator=\"a/calc\",streamjob=\"totals\",subtask=\"1\"} 9",
                "millrace_task_operator_rows_out_total{operator=\"a/calc\",streamjob=\"totals\",subtask=\"1\"} 7",
            ],
        );
        for unknown in
            ["millrace_task_watermark_seconds{operator=\"b", "millrace_task_lag_records{operator=\"b"]
        {
            assert!(!text.contains(unknown), "{text}");
        }
    }

    /// A row of the reference for each metric of a text.
    fn described(text: &str) -> String {
        let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        let row = |(name, help): (&str, &str)| {
            let head = format!("# TYPE {name} ");
            let kind = text.lines().find_map(|line| line.strip_prefix(head.as_str())).unwrap();
            format!("| `{name}` | {kind} | {help} |\n")
        };
        helps.map(row).collect()
    }

    #[test]
    fn the_list_of_metrics_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        let mut report = JobReport::new("totals", "", Attempt(1));
        report.public.last_checkpoint = Some(ReportedCheckpoint::default());
        let operators = vec![OperatorReport::default()];
        let task = TaskReport { watermark_ms: 1, lag_records: Some(0), operators, ..Default::default() };
        report.tasks = [(crate::model::WorkerId(1), vec![task.clone()])].into();
        let names = Names { chains: ["a".to_owned()].into(), operators: ["a".to_owned()].into() };
        let figures = WorkerFigures { generation: 1, names, tasks: vec![task] };
        let head = "| metric | kind | meaning |\n|---|---|---|\n";
        let tables = format!(
            "## Coordinator\n\nOf the job, with the label `streamjob`.\n\n{head}{}\n## Workers\n\nOf each chain of operators, named by its first one; INSERTs that read a table together count as one, under the name of the first. What is of an operator (`millrace_task_operator_…`) is named by itself. Labels `streamjob`, `operator`, `subtask`.\n\n{head}{}\n",
            described(&job(&report, &[0], 0).unwrap()),
            described(&worker("totals", &figures).unwrap()),
        );
        let written = std::fs::read_to_string(path).unwrap();
        let (before, rest) = written.split_once("## Coordinator").unwrap();
        let (_, after) = rest.split_once("## Controller").unwrap();
        let current = format!("{before}{tables}## Controller{after}");
        if std::env::var_os("MILLRACE_REGENERATE").is_some() {
            std::fs::write(path, &current).unwrap();
        }

        assert_eq!(std::fs::read_to_string(path).unwrap(), current, "run `make generate`");
    }
}
