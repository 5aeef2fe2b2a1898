//! The data plane: a coordinator and workers that run a plan, take checkpoints, and recover from them.
//!
//! ```text
//! source ─▶ exchange ─▶ operator ─▶ state ─▶ sink
//!               barriers ─▶ checkpoint ─▶ store
//! ```
//! A module imports only from layers below its own; a test checks it.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod error;
pub mod exchange;
pub mod explain;
pub mod fault;
pub mod folders;
pub mod format;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod model;
pub mod operator;
pub mod options;
pub mod outside;
#[cfg(test)]
mod properties;
pub mod rpc;
pub mod secrets;
pub mod sink;
pub mod source;
pub mod state;
pub mod task;
pub mod topology;
pub mod transport;
pub mod worker;
