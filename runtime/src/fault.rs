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

/// What keeps results exact. All of it always holds; each can be taken away only to show that tests notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safeguards {
    /// A coordinator looks for newer generations before it publishes, and ends when its record's place is taken.
    pub checks_fence: bool,
    /// A new generation takes the next epoch's place before it starts.
    pub seals: bool,
    /// A new generation commits the restored checkpoint again unless it is marked.
    pub replays_commits: bool,
    /// A channel whose barrier has come waits for the others.
    pub aligns_barriers: bool,
    /// A segment is read once after it was written.
    pub verifies_segments: bool,
    /// What a worker still has in memory is used only if it is exactly the state of the restored checkpoint.
    pub compares_images: bool,
}

impl Default for Safeguards {
    fn default() -> Self {
        Safeguards {
            checks_fence: true,
            seals: true,
            replays_commits: true,
            aligns_barriers: true,
            verifies_segments: true,
            compares_images: true,
        }
    }
}
