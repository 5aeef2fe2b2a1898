//! What connectors reach the world outside of the job with. Injected: they ask the machine for nothing themselves.

use std::fmt;
use std::sync::Arc;

use millrace_sql::functions::chance::Chance;
use parking_lot::Mutex;
use rand::rngs::StdRng;

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
    /// What functions such as UUID make their values of.
    pub chance: Chance,
}

impl Outside {
    /// The machine's network.
    pub fn new(clock: Clock, buckets: BucketSettings, random: &Arc<Mutex<StdRng>>) -> Self {
        let random = Arc::clone(random);
        let chance = Chance::new(move || rand::Rng::random(&mut *random.lock()));
        Outside { clock, transport: Arc::new(Tcp), buckets, secrets: Secrets::of_process(), chance }
    }

    /// For looking at a table's options: nothing is reached.
    pub fn unreached() -> Self {
        Outside {
            clock: Clock::starting_at(0),
            transport: Arc::new(Tcp),
            buckets: BucketSettings::default(),
            secrets: Secrets::Unread,
            chance: Chance::default(),
        }
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}
