//! Every metric of the data plane: name, help, labels.
//!
//! Own labels are `streamjob`, `operator`, `subtask`; those of Prometheus (`job`, `namespace`, `pod`, `instance`) are never used.

use prometheus::{Encoder, Gauge, IntGauge, Opts, Registry, TextEncoder};

use crate::coordinator::JobReport;
use crate::coordinator::report::Phase;
use crate::model::EventTime;

/// The metrics of a job, in Prometheus' text form.
///
/// # Errors
/// If two metrics have the same name, which a test excludes.
pub fn job(report: &JobReport, source_chains: &[u32], now_ms: u64) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let public = &report.public;
    let set = |name: &str, help: &str, value: f64| -> Result<(), prometheus::Error> {
        let gauge = Gauge::with_opts(Opts::new(name, help).const_label("streamjob", &public.name))?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    let totals = report.totals(source_chains);
    let checkpoint = public.last_checkpoint.clone().unwrap_or_default();
    let is_running = public.phase == Phase::Running;
    set("millrace_job_running", "1 while all subtasks run", f64::from(u8::from(is_running)))?;
    set(
        "millrace_job_restarts_total",
        "Recoveries led by this coordinator process",
        f64::from(public.restarts),
    )?;
    set("millrace_job_workers", "Workers that run the job's tasks", f64::from(public.workers))?;
    set(
        "millrace_job_state_bytes",
        "Keyed state held in memory, over all subtasks",
        totals.state_bytes as f64,
    )?;
    set(
        "millrace_job_late_rows_total",
        "Rows dropped because their windows had fired",
        totals.late_rows as f64,
    )?;
    set("millrace_source_rows_total", "Rows read by all sources in this generation", totals.rows_in as f64)?;
    set(
        "millrace_sink_rows_total",
        "Rows written by all sinks since the job's first start",
        totals.rows_out as f64,
    )?;
    if let Some(watermark) =
        totals.watermark_ms.filter(|time| *time > EventTime::MIN.0 && *time < EventTime::MAX.0)
    {
        set(
            "millrace_job_watermark_seconds",
            "Lowest watermark of all subtasks, in Unix time",
            watermark as f64 / 1e3,
        )?;
    }
    set(
        "millrace_checkpoint_failures_total",
        "Checkpoints that failed or took too long",
        public.failed_checkpoints as f64,
    )?;
    set("millrace_checkpoint_epoch", "Epoch of the newest complete checkpoint", checkpoint.epoch as f64)?;
    if public.last_checkpoint.is_some() {
        let age = now_ms.saturating_sub(checkpoint.completed_at_ms) as f64 / 1e3;
        set("millrace_checkpoint_age_seconds", "Time since the newest checkpoint completed", age)?;
        set(
            "millrace_checkpoint_duration_seconds",
            "From trigger to completion",
            checkpoint.duration_ms as f64 / 1e3,
        )?;
        set("millrace_checkpoint_bytes", "Bytes written for the newest checkpoint", checkpoint.bytes as f64)?;
        set(
            "millrace_checkpoint_rows_in",
            "Rows read by all sources up to the newest checkpoint, since the first start",
            checkpoint.rows_in as f64,
        )?;
        set(
            "millrace_checkpoint_rows_out",
            "Rows written by all sinks up to the newest checkpoint, since the first start",
            checkpoint.rows_out as f64,
        )?;
    }
    let generation = IntGauge::with_opts(
        Opts::new("millrace_job_generation", "Generation that leads the job")
            .const_label("streamjob", &public.name),
    )?;
    generation.set(public.generation as i64);
    registry.register(Box::new(generation))?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attempt;
    use millrace_crds::contract::ReportedCheckpoint;

    #[test]
    fn a_job_has_its_metrics() {
        let last_checkpoint =
            Some(ReportedCheckpoint { epoch: 7, completed_at_ms: 1_000, rows_out: 5, ..Default::default() });
        let mut report = JobReport::new("totals", Attempt(1));
        report.public.last_checkpoint = last_checkpoint;

        let text = job(&report, &[], 4_000).unwrap();

        for line in [
            "millrace_checkpoint_age_seconds{streamjob=\"totals\"} 3",
            "millrace_checkpoint_epoch{streamjob=\"totals\"} 7",
            "millrace_checkpoint_rows_out{streamjob=\"totals\"} 5",
            "millrace_job_running{streamjob=\"totals\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
