//! Our own front end for what Flink's SQL adds to the standard: statements, DDL and window table functions.
//!
//! ```text
//! text ─▶ tokens ─▶ statements ─▶ CREATE TABLE / CREATE VIEW: parsed here
//!                        └──────▶ queries: window functions replaced by names, the rest parsed by sqlparser
//! ```
//! Tokens keep their places, so that every mistake can be shown where it is.

mod constructors;
mod create_table;
mod cursor;
mod statement;
mod synonyms;
mod types;
mod window;

pub use create_table::{ColumnDeclaration, ColumnKind, CreateTable, WatermarkDeclaration};
pub use statement::{CreateView, Insert, Name, Query, SetOption, Statement, parse};
pub use synonyms::{ARRAY_PRESENT, OBJECT_ABSENT};
pub use window::{Cut, WindowCall, milliseconds, sessions, windows};
