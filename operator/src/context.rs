//! What a reconcile works with.

use kube::Client;
use kube::runtime::events::Recorder;

use crate::metrics::Metrics;
use crate::model::Settings;
use crate::reports::Reports;

/// Client, recorder, reports, settings.
pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub reports: Reports,
    pub metrics: Metrics,
    pub settings: Settings,
}
