//! Splits that appear while a job runs: partitions that were added to a topic, files that have come into a folder.
//!
//! Every subtask of a source looks for itself, and all agree without a word on whose a new split is: its name decides. What a
//! subtask has begun is in its next snapshot; what no checkpoint holds is found again after a failure, and read from its beginning.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Clock;
use crate::error::chain;
use crate::source::{SourceConnector, SourceError, Split};

/// Looks for new splits from time to time.
pub struct Discovery {
    connector: Arc<dyn SourceConnector>,
    clock: Clock,
    interval: Duration,
    subtask: u32,
    parallelism: u32,
    /// Names of the splits of all subtasks.
    known: Arc<BTreeSet<String>>,
    look: BoxFuture<'static, Result<Vec<Split>, SourceError>>,
}

impl Discovery {
    /// For a connector whose splits may become more; `None` for others.
    pub fn new(
        connector: &Arc<dyn SourceConnector>,
        known: BTreeSet<String>,
        subtask: u32,
        parallelism: u32,
        clock: Clock,
    ) -> Option<Self> {
        let interval = connector.discovery_interval()?;
        let (connector, known) = (Arc::clone(connector), Arc::new(known));
        let look = look(&connector, &known, interval, clock);
        Some(Discovery { connector, clock, interval, subtask, parallelism, known, look })
    }

    /// New splits of this subtask. A look that fails is repeated like any other: the job has something to read.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Split>> {
        loop {
            let found = std::task::ready!(self.look.poll_unpin(cx));
            let new = found.unwrap_or_else(|error| {
                warn!(error = %chain(&error), "failed to look for new splits");
                Vec::new()
            });
            let known = Arc::make_mut(&mut self.known);
            let new: Vec<Split> = new.into_iter().filter(|split| known.insert(split.id.clone())).collect();
            self.look = look(&self.connector, &self.known, self.interval, self.clock);
            let (subtask, parallelism) = (self.subtask, self.parallelism);
            let mine: Vec<Split> =
                new.into_iter().filter(|split| owner(&split.id, parallelism) == subtask).collect();
            if !mine.is_empty() {
                return Poll::Ready(mine);
            }
        }
    }
}

fn look(
    connector: &Arc<dyn SourceConnector>,
    known: &Arc<BTreeSet<String>>,
    interval: Duration,
    clock: Clock,
) -> BoxFuture<'static, Result<Vec<Split>, SourceError>> {
    let (connector, known) = (Arc::clone(connector), Arc::clone(known));
    async move {
        clock.sleep(interval).await;
        connector.discover(&known).await
    }
    .boxed()
}

/// The subtask that reads a new split.
fn owner(split: &str, parallelism: u32) -> u32 {
    (xxh3_64(split.as_bytes()) % u64::from(parallelism)) as u32
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;
    use crate::source::SplitReader;

    /// Finds one more split at each look, after one that fails.
    struct Growing(Mutex<u32>);

    #[async_trait]
    impl SourceConnector for Growing {
        async fn splits(&self, _: u32) -> Result<Vec<Split>, SourceError> {
            Ok(Vec::new())
        }

        fn open(&self, _: &Split) -> Result<Box<dyn SplitReader>, SourceError> {
            Err(SourceError::Data { message: "nothing is read here".to_owned() })
        }

        fn is_bounded(&self) -> bool {
            false
        }

        fn position_text(&self, _: &[u8]) -> String {
            String::new()
        }

        fn discovery_interval(&self) -> Option<Duration> {
            Some(Duration::from_millis(1))
        }

        async fn discover(&self, known: &BTreeSet<String>) -> Result<Vec<Split>, SourceError> {
            let mut looks = self.0.lock();
            *looks += 1;
            if *looks == 1 {
                return Err(SourceError::Data { message: "not now".to_owned() });
            }
            let all = (0..*looks).map(|number| Split { id: format!("s{number}"), position: Vec::new() });
            Ok(all.filter(|split| !known.contains(&split.id)).collect())
        }
    }

    #[tokio::test]
    async fn a_new_split_is_taken_once_and_by_one_subtask() {
        let known: BTreeSet<String> = ["s0".to_owned()].into();
        let mut taken = Vec::new();
        for subtask in 0..3 {
            let connector: Arc<dyn SourceConnector> = Arc::new(Growing(Mutex::default()));
            let mut discovery =
                Discovery::new(&connector, known.clone(), subtask, 3, Clock::system()).unwrap();
            let mut mine = Vec::new();
            while discovery.known.len() < 30 {
                let found = std::future::poll_fn(|cx| discovery.poll(cx)).await;
                mine.extend(found.into_iter().map(|split| split.id));
            }
            assert!(!mine.is_empty());
            // Beyond the thirtieth not all subtasks have looked.
            mine.retain(|id| id[1..].parse::<u32>().is_ok_and(|number| number < 30));
            taken.extend(mine);
        }
        taken.sort_by_key(|id| id[1..].parse::<u32>().ok());
        let all: Vec<String> = (1..30).map(|number| format!("s{number}")).collect();
        assert_eq!(taken, all);
    }
}
