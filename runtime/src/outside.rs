//! What connectors reach the world outside of the job with. Injected: they ask the machine for nothing themselves.

use std::fmt;
use std::sync::Arc;

use crate::checkpoint::BucketSettings;
use crate::clock::Clock;
use crate::secrets::Secrets;
use crate::transport::{Tcp, Transport};

/// Time, network and buckets, as connectors see them.
#[derive(Clone)]
pub struct Outside {
    pub clock: Clock,
    pub transport: Arc<dyn Transport>,
    /// How the buckets of tables are reached.
    pub buckets: BucketSettings,
    /// Passwords and keys that tables' options name.
    pub secrets: Secrets,
}

impl Outside {
    /// The machine's network.
    pub fn new(clock: Clock, buckets: BucketSettings) -> Self {
        Outside { clock, transport: Arc::new(Tcp), buckets, secrets: Secrets::of_process() }
    }

    /// For looking at a table's options: nothing is reached.
    pub fn unreached() -> Self {
        let outside = Outside::new(Clock::starting_at(0), BucketSettings::default());
        Outside { secrets: Secrets::Unread, ..outside }
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}
