//! From statements to a plan.
//!
//! ```text
//! statements ─▶ catalog (tables, views) ─▶ logical plan, types resolved ─▶ streams ─▶ operators and edges
//! ```

mod aggregates;
mod alignment;
mod analysis;
mod casts;
mod catalog;
mod compile;
mod decimal_arithmetic;
mod declarations;
mod expressions;
mod group_windows;
mod mistakes;
mod special_forms;
mod streams;
mod unsupported;
mod window_node;

pub use compile::{ShownQuery, compile, compile_query};
