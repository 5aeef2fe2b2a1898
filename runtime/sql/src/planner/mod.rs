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
mod common_types;
mod compile;
mod conditions;
mod decimal_arithmetic;
mod declarations;
mod expressions;
mod fractions;
mod group_windows;
mod like;
mod mistakes;
mod settings;
mod special_forms;
mod spreads;
mod streams;
mod unsupported;
mod window_node;
mod words;
mod zones;

pub use compile::{
    ShownQuery, Statements, compile, compile_declarations, compile_query, is_complete, statements,
};
pub use declarations::mistake_of_table;
