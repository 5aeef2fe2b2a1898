//! Compiled regular expressions: a constant pattern is compiled once per batch, a varying one once per value.

use std::collections::HashMap;

use datafusion_common::{Result, exec_datafusion_err};
use regex::Regex;

/// Patterns compiled during one call.
#[derive(Default)]
pub struct RegexCache {
    compiled: HashMap<String, Regex>,
}

/// Bound on distinct patterns kept during one call; beyond it the cache starts anew.
const PATTERNS_MAX: usize = 64;

impl RegexCache {
    /// The compiled pattern.
    pub fn get(&mut self, pattern: &str) -> Result<&Regex> {
        if !self.compiled.contains_key(pattern) {
            if self.compiled.len() >= PATTERNS_MAX {
                self.compiled.clear();
            }
            let regex = Regex::new(pattern).map_err(|error| {
                let error = error.to_string();
                // The reason comes after a drawing.
                let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                exec_datafusion_err!("'{pattern}' is not a regular expression: {reason}")
            })?;
            self.compiled.insert(pattern.to_owned(), regex);
        }
        Ok(&self.compiled[pattern])
    }
}
