//! What a reconcile works with.

use kube::Client;
use kube::runtime::events::Reporter;

use crate::metrics::Metrics;
use crate::model::Settings;
use crate::reports::Reports;

/// Client, name of events, reports, settings.
pub struct Context {
    pub client: Client,
    pub reporter: Reporter,
    pub reports: Reports,
    pub metrics: Metrics,
    pub settings: Settings,
}
