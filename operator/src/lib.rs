//! The controller, in steps that do not know each other.
//!
//! ```text
//! watch ─▶ observe ─▶ decide (pure) ─▶ desired (pure) ─▶ apply ─▶ status (pure)
//! ```
//! This crate holds the pure steps so far: what a job's spec and observed state mean, which objects it should have, and what
//! its status says. It holds no job state and no storage credentials; it issues attempt numbers and nothing else.

pub mod decide;
pub mod desired;
pub mod labels;
pub mod model;
pub mod names;
pub mod status;
