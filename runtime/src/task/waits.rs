//! How long a task waits, and so how long it works: what tells a slow operator from a starved or a blocked one.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use parking_lot::Mutex;

use crate::clock::Clock;

/// Time that a task has waited for one reason.
#[derive(Debug, Default)]
pub struct Waits(Mutex<Waited>);

#[derive(Debug, Default)]
struct Waited {
    ended: Duration,
    /// When the wait that goes on has begun.
    since: Option<Duration>,
}

impl Waits {
    /// Counts the time until a future is ready; one that is ready at once costs nothing.
    pub async fn until<T>(&self, clock: Clock, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        if let Poll::Ready(value) = poll!(future.as_mut()) {
            return value;
        }
        self.0.lock().since = Some(clock.elapsed());
        let value = future.await;
        let mut waited = self.0.lock();
        let since = waited.since.take();
        waited.ended += since.map_or(Duration::ZERO, |since| clock.elapsed().saturating_sub(since));
        value
    }

    /// All of it, with the wait that goes on.
    pub fn total(&self, now: Duration) -> Duration {
        let waited = self.0.lock();
        waited.ended + waited.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_has_to_be_waited_for_counts_and_a_wait_counts_while_it_goes_on() {
        let (clock, waits) = (Clock::starting_at(0), Waits::default());
        let seconds = Duration::from_secs;

        waits.until(clock, async {}).await;
        assert_eq!(waits.total(clock.elapsed()), Duration::ZERO);
        waits.until(clock, clock.sleep(seconds(2))).await;
        clock.sleep(seconds(3)).await;
        assert_eq!(waits.total(clock.elapsed()), seconds(2));
        let goes_on = waits.until(clock, clock.sleep(seconds(10)));
        tokio::select! {
            () = goes_on => panic!("it is longer"),
            () = clock.sleep(seconds(4)) => {}
        }
        assert_eq!(waits.total(clock.elapsed()), seconds(6));
    }
}
