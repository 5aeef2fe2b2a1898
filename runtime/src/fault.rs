//! Crashes on request, for tests: where a power cut would hit is chosen exactly.

use std::sync::atomic::{AtomicI64, Ordering};

/// Variable that makes a process crash after its sources have given this many rows.
pub const CRASH_AFTER_ROWS: &str = "MILLRACE_TEST_CRASH_AFTER_ROWS";

/// Variable that makes a coordinator crash after it has published a checkpoint whose results are not committed yet.
pub const CRASH_BEFORE_COMMIT: &str = "MILLRACE_TEST_CRASH_BEFORE_COMMIT";

/// Ends the process without a goodbye after some rows.
#[derive(Debug)]
pub struct CrashAfterRows {
    left: AtomicI64,
}

impl CrashAfterRows {
    /// As the variable says; `None` if it is not set.
    ///
    /// # Errors
    /// The variable's value, if it is not a number.
    pub fn from_env() -> Result<Option<Self>, String> {
        match std::env::var(CRASH_AFTER_ROWS) {
            Ok(rows) => match rows.parse() {
                Ok(rows) => Ok(Some(CrashAfterRows { left: AtomicI64::new(rows) })),
                Err(_) => Err(rows),
            },
            Err(_) => Ok(None),
        }
    }

    /// Some rows were processed.
    pub fn rows(&self, rows: usize) {
        if self.left.fetch_sub(rows as i64, Ordering::Relaxed) <= rows as i64 {
            std::process::abort();
        }
    }
}

/// True if the process is to crash between a checkpoint and its commit.
pub fn crashes_before_commit() -> bool {
    std::env::var_os(CRASH_BEFORE_COMMIT).is_some()
}
