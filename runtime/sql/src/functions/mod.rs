//! Flink's scalar functions, with Flink's meaning, as functions that DataFusion can call.
//!
//! Names and NULL handling follow Flink's documentation of its built-in functions.

pub mod aggregates;
mod field;
mod numbers;
mod regex_cache;
mod scalar;
mod strings;
mod times;

use std::sync::Arc;

use datafusion_expr::ScalarUDF;

pub use field::FIELD;
use scalar::Scalar;

/// Every function by its SQL names; the first is the one that plans store.
pub fn names() -> impl Iterator<Item = &'static str> {
    tables().into_iter().flatten().flat_map(|function| function.names.iter().copied())
}

/// Looks a scalar function up by its SQL name, in any case.
pub fn scalar(name: &str) -> Option<Arc<ScalarUDF>> {
    if name == FIELD {
        return Some(Arc::new(ScalarUDF::from(field::FieldOf::new())));
    }
    let name = name.to_ascii_lowercase();
    let function = tables().into_iter().flatten().find(|function| function.names.contains(&name.as_str()))?;
    Some(Arc::new(ScalarUDF::from(scalar::Function::new(function))))
}

fn tables() -> [&'static [Scalar]; 3] {
    [numbers::FUNCTIONS, strings::FUNCTIONS, times::FUNCTIONS]
}
