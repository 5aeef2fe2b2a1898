//! Turns the SQL of a job into a dataflow plan, and plan expressions into something that evaluates.
//!
//! ```text
//! text ─▶ dialect (tokens, DDL) ─▶ planner (DataFusion's analysis) ─▶ plan (ours) ─▶ evaluate (in the worker)
//!                      └──────────────┴─ mistakes: line, column, hint
//! ```
//! No type of DataFusion leaves this crate except as an opaque evaluator; none is ever stored or sent.

pub mod connectors;
pub mod diagnostic;
pub mod dialect;
pub mod evaluate;
pub mod functions;
pub mod kafka_keys;
pub mod metadata;
pub mod nexmark;
pub mod plan;
pub mod planner;
pub mod secrets;
mod similar;

pub use diagnostic::Diagnostic;
pub use planner::{
    ShownQuery, Statements, compile, compile_declarations, compile_query, is_complete, mistake_of_table,
    statements,
};
