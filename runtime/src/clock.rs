//! The only file that asks the machine for time.
//!
//! Wall-clock time is the time at start plus tokio's clock since then, so that a runtime with paused time (the
//! simulation, tests) sees one consistent, virtual clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the time and waits for it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall_at_start: Duration,
    start: Instant,
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is where the machine is asked")]
    pub fn system() -> Self {
        let wall_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall_at_start, start: Instant::now() }
    }

    /// A clock that starts at a given wall-clock time.
    #[expect(clippy::disallowed_methods, reason = "tokio's clock, which a test may have paused")]
    pub fn starting_at(wall_ms: u64) -> Self {
        Clock { wall_at_start: Duration::from_millis(wall_ms), start: Instant::now() }
    }

    /// Time since the clock was made; never goes back.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub fn now_ms(&self) -> u64 {
        (self.wall_at_start + self.elapsed()).as_millis() as u64
    }

    /// Waits.
    #[expect(clippy::disallowed_methods, reason = "this is where waiting is done")]
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
