//! Channels: a queue per channel at the receiver, and credits that bound it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use snafu::Snafu;
use tokio::sync::Notify;

use super::network::Connection;
use crate::model::Element;

/// Bytes of batches that may be under way in one channel. Enough to cover a round trip at full speed, small enough
/// that a barrier does not wait long behind them.
pub const CHANNEL_CREDIT_BYTES: usize = 512 * 1024;

/// The other end is gone; a new generation will follow.
#[derive(Debug, Snafu)]
#[snafu(display("the channel to another task is closed"))]
pub struct ChannelClosed;

/// Bytes a sender may still send. Shared by both ends within a worker; each end has its own between workers.
#[derive(Debug)]
pub struct Credit {
    under_way: AtomicUsize,
    returned: Notify,
}

impl Credit {
    pub fn new() -> Arc<Self> {
        Arc::new(Credit { under_way: AtomicUsize::new(0), returned: Notify::new() })
    }

    /// Waits until the channel has room, then takes it. One batch may exceed what is left, so that any size passes.
    pub async fn take(&self, bytes: usize) {
        loop {
            let returned = self.returned.notified();
            if self.has_room() {
                self.under_way.fetch_add(bytes, Ordering::AcqRel);
                return;
            }
            returned.await;
        }
    }

    /// Gives back what the consumer has taken.
    pub fn give_back(&self, bytes: usize) {
        self.under_way.fetch_sub(bytes, Ordering::AcqRel);
        self.returned.notify_one();
    }

    fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Acquire) < CHANNEL_CREDIT_BYTES
    }

    /// True if the consumer has taken everything.
    pub fn is_unused(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }
}

/// To whom credits of consumed batches go back.
pub enum CreditReturn {
    /// The sender is in this worker.
    Local(Arc<Credit>),
    /// The sender is at the other end of a connection.
    Remote(Connection, u32),
}

/// The receiving end of all channels of one task.
pub struct Inbox {
    state: Mutex<InboxState>,
    arrived: Notify,
}

struct InboxState {
    channels: Vec<Queue>,
    /// Where the search for the next element starts, so that no channel starves.
    next: usize,
}

struct Queue {
    elements: VecDeque<(Element, usize)>,
    credit: Option<CreditReturn>,
}

impl Inbox {
    /// An inbox with this many channels.
    pub fn new(channels: usize) -> Arc<Self> {
        let queues = (0..channels).map(|_| Queue { elements: VecDeque::new(), credit: None }).collect();
        Arc::new(Inbox {
            state: Mutex::new(InboxState { channels: queues, next: 0 }),
            arrived: Notify::new(),
        })
    }

    /// Sets where credits of a channel go.
    pub fn set_credit(&self, channel: usize, credit: CreditReturn) {
        self.state.lock().channels[channel].credit = Some(credit);
    }

    /// Appends an element; the sender has taken the credit for `bytes`.
    pub fn push(&self, channel: usize, element: Element, bytes: usize) {
        let mut state = self.state.lock();
        let queue = &mut state.channels[channel].elements;
        // A newer watermark replaces an older one that was not taken yet: bounds the queue of an idle consumer.
        if let (Element::Watermark(_), Some((last @ Element::Watermark(_), _))) = (&element, queue.back_mut())
        {
            *last = element;
        } else {
            queue.push_back((element, bytes));
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// The next element of a channel that is not blocked. Safe to drop while waiting.
    pub async fn next(&self, is_blocked: impl Fn(usize) -> bool) -> (usize, Element) {
        loop {
            let arrived = self.arrived.notified();
            if let Some(found) = self.try_next(&is_blocked) {
                return found;
            }
            arrived.await;
        }
    }

    /// The next element if one is there.
    pub fn try_next(&self, is_blocked: impl Fn(usize) -> bool) -> Option<(usize, Element)> {
        let mut state = self.state.lock();
        let count = state.channels.len();
        for step in 0..count {
            let channel = (state.next + step) % count;
            if is_blocked(channel) {
                continue;
            }
            if let Some((element, bytes)) = state.channels[channel].elements.pop_front() {
                state.next = (channel + 1) % count;
                if bytes > 0 {
                    match &state.channels[channel].credit {
                        Some(CreditReturn::Local(credit)) => credit.give_back(bytes),
                        Some(CreditReturn::Remote(connection, id)) => connection.return_credit(*id, bytes),
                        None => {}
                    }
                }
                return Some((channel, element));
            }
        }
        None
    }
}

/// The sending end of one channel.
pub enum ChannelSender {
    Local { inbox: Arc<Inbox>, channel: usize, credit: Arc<Credit> },
    Remote { connection: Connection, channel: u32, credit: Arc<Credit> },
}

impl ChannelSender {
    /// Sends an element; batches wait for credit. Not safe to drop half-way: the element may be lost.
    pub async fn send(&self, element: Element) -> Result<(), ChannelClosed> {
        let bytes = match &element {
            // Even an empty batch takes some room, so that a flood of them is bounded.
            Element::Batch(batch) => batch.bytes().max(64),
            _ => 0,
        };
        match self {
            ChannelSender::Local { inbox, channel, credit } => {
                if bytes > 0 {
                    credit.take(bytes).await;
                }
                inbox.push(*channel, element, bytes);
                Ok(())
            }
            ChannelSender::Remote { connection, channel, credit } => {
                if bytes > 0 {
                    credit.take(bytes).await;
                }
                connection.send(*channel, element, bytes).await
            }
        }
    }

    /// True if the consumer has taken all that was sent: it is waiting, so rows should leave at once.
    pub fn is_consumer_idle(&self) -> bool {
        match self {
            ChannelSender::Local { credit, .. } | ChannelSender::Remote { credit, .. } => credit.is_unused(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Barrier, Epoch, EventTime};

    #[tokio::test]
    async fn a_blocked_channel_is_skipped_and_keeps_its_order() {
        let inbox = Inbox::new(2);
        inbox.push(0, Element::Barrier(Barrier { epoch: Epoch(1) }), 0);
        inbox.push(0, Element::Idle, 0);
        inbox.push(1, Element::Active, 0);

        let (first, _) = inbox.next(|channel| channel == 0).await;
        assert!(inbox.try_next(|channel| channel == 0).is_none());
        let (_, second) = inbox.next(|_| false).await;

        assert_eq!(first, 1);
        assert!(matches!(second, Element::Barrier(_)));
    }

    #[tokio::test]
    async fn watermarks_nobody_took_are_merged() {
        let inbox = Inbox::new(1);
        (1..=1000).for_each(|time| inbox.push(0, Element::Watermark(EventTime(time)), 0));

        assert!(matches!(inbox.try_next(|_| false), Some((0, Element::Watermark(EventTime(1000))))));
        assert!(inbox.try_next(|_| false).is_none());
    }

    #[tokio::test]
    async fn a_sender_waits_until_the_consumer_has_taken() {
        let credit = Credit::new();
        credit.take(CHANNEL_CREDIT_BYTES).await;
        let mut waiting = std::pin::pin!(credit.take(1));
        assert!(futures::poll!(&mut waiting).is_pending());

        credit.give_back(1);

        assert!(futures::poll!(&mut waiting).is_ready());
    }
}
