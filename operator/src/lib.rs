//! The controller, in steps that do not know each other.
//!
//! ```text
//! watch ─▶ observe ─▶ decide (pure) ─▶ desired (pure) ─▶ apply ─▶ status (pure)
//! ```
//! A reconcile is level-triggered: it starts from what is observed, never from an event, and doing it twice changes nothing.
//! The controller holds no job state and no storage credentials; it issues attempt numbers, recorded in status before they are
//! acted on. Jobs go on while it is away.

pub mod apply;
pub mod context;
pub mod decide;
pub mod deletion;
pub mod desired;
pub mod labels;
pub mod leader;
pub mod metrics;
pub mod model;
pub mod names;
pub mod observe;
pub mod pipeline;
pub mod reconcile;
pub mod refusal;
pub mod reports;
pub mod status;
