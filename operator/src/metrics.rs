//! Every metric of the controller: name, help, labels.

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder};

/// Counters of the controller.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    pub reconciles: IntCounter,
    pub errors: IntCounter,
    pub duration: Histogram,
    pub leads: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let reconciles = IntCounter::new("millrace_operator_reconciles_total", "Reconciles of StreamJobs")?;
        let errors = IntCounter::new(
            "millrace_operator_reconcile_errors_total",
            "Reconciles that ended with an error",
        )?;
        let duration = Histogram::with_opts(HistogramOpts::new(
            "millrace_operator_reconcile_seconds",
            "Time of one reconcile",
        ))?;
        let leads = IntGauge::new("millrace_operator_leads", "1: this controller leads; 0: it stands by")?;
        registry.register(Box::new(leads.clone()))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Metrics { registry, reconciles, errors, duration, leads })
    }

    /// All metrics in Prometheus' text form.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        let reference = std::fs::read_to_string(path).unwrap();
        let text = Metrics::new().unwrap().text();

        let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        for (name, help) in helps {
            let row = reference.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            assert!(row.is_some_and(|row| row.ends_with(&format!("| {help} |"))), "{name}: {row:?}");
        }
    }
}
