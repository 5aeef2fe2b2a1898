//! Rows as bytes outside: how connectors read and write them.

pub mod json;
