//! The data plane: a coordinator and workers that run a plan, take checkpoints, and recover from them.
//!
//! ```text
//! source ─▶ exchange ─▶ operator ─▶ state ─▶ sink
//!               barriers ─▶ checkpoint ─▶ store
//! ```
//! Layers, from the top: `cli`; `coordinator`, `worker`; `rpc`, `task`; `source`, `exchange`, `operator`, `sink`; `state`;
//! `checkpoint`, `topology`, `format`, `kafka`; `model`, `clock`, `error`, `options`, `transport`.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod error;
pub mod exchange;
pub mod fault;
pub mod format;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod model;
pub mod operator;
pub mod options;
pub mod rpc;
pub mod sink;
pub mod source;
pub mod state;
pub mod task;
pub mod topology;
pub mod transport;
pub mod worker;
