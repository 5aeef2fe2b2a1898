//! Many channels to one task: the minimum of their watermarks, the alignment of their barriers.
//!
//! Pure: elements in, what passes out. A channel whose barrier has come is blocked until all have come, so that the
//! state at the barrier holds exactly the rows before it (Chandy and Lamport; Carbone et al., Flink's snapshots).

use crate::model::{Barrier, Batch, Element, EventTime};

/// What comes out of the gate.
#[derive(Debug)]
pub enum Passed {
    Batch(Batch),
    Watermark(EventTime),
    Barrier(Barrier),
    /// All channels are idle.
    Idle,
    Active,
}

/// State of a task's channels.
#[derive(Debug)]
pub struct Gate {
    channels: Vec<Channel>,
    watermark: EventTime,
    is_idle: bool,
    aligning: Option<Barrier>,
    /// Without it a channel goes on after its barrier: only to show that tests notice.
    is_aligned: bool,
}

#[derive(Debug, Clone)]
struct Channel {
    watermark: EventTime,
    is_idle: bool,
    is_blocked: bool,
}

impl Gate {
    /// A gate over this many channels.
    pub fn new(channels: usize, is_aligned: bool) -> Self {
        let channel = Channel { watermark: EventTime::MIN, is_idle: false, is_blocked: false };
        Gate {
            channels: vec![channel; channels],
            watermark: EventTime::MIN,
            is_idle: false,
            aligning: None,
            is_aligned,
        }
    }

    /// True while a channel waits for the barriers of the others.
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.is_aligned && self.channels[channel].is_blocked
    }

    /// Takes an element of a channel; returns what passes.
    pub fn take(&mut self, channel: usize, element: Element) -> Option<Passed> {
        match element {
            Element::Batch(batch) => Some(Passed::Batch(batch)),
            Element::Watermark(time) => {
                let known = &mut self.channels[channel].watermark;
                *known = time.max(*known);
                self.advance()
            }
            Element::Barrier(barrier) => self.barrier(channel, barrier),
            Element::Idle => {
                self.channels[channel].is_idle = true;
                if self.channels.iter().all(|channel| channel.is_idle) {
                    self.is_idle = true;
                    return Some(Passed::Idle);
                }
                self.advance()
            }
            Element::Active => {
                self.channels[channel].is_idle = false;
                std::mem::take(&mut self.is_idle).then_some(Passed::Active)
            }
        }
    }

    fn advance(&mut self) -> Option<Passed> {
        let active = self.channels.iter().filter(|channel| !channel.is_idle);
        let lowest = active.map(|channel| channel.watermark).min()?;
        if lowest <= self.watermark {
            return None;
        }
        self.watermark = lowest;
        Some(Passed::Watermark(lowest))
    }

    fn barrier(&mut self, channel: usize, barrier: Barrier) -> Option<Passed> {
        // A newer barrier means that the older checkpoint was given up: its channels are freed.
        if self.aligning.is_some_and(|aligning| aligning.epoch < barrier.epoch) {
            self.unblock();
        }
        self.aligning = Some(barrier);
        self.channels[channel].is_blocked = true;
        if !self.channels.iter().all(|channel| channel.is_blocked) {
            return None;
        }
        self.unblock();
        self.aligning = None;
        Some(Passed::Barrier(barrier))
    }

    fn unblock(&mut self) {
        self.channels.iter_mut().for_each(|channel| channel.is_blocked = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn barrier(epoch: u64) -> Element {
        Element::Barrier(Barrier { epoch: Epoch(epoch) })
    }

    fn watermark(time: i64) -> Element {
        Element::Watermark(EventTime(time))
    }

    fn time_of(passed: Option<Passed>) -> Option<i64> {
        match passed {
            Some(Passed::Watermark(EventTime(time))) => Some(time),
            _ => None,
        }
    }

    #[test]
    fn the_watermark_is_the_minimum_and_never_goes_back() {
        let mut gate = Gate::new(2, true);

        assert_eq!(time_of(gate.take(0, watermark(5))), None);
        assert_eq!(time_of(gate.take(1, watermark(3))), Some(3));
        assert_eq!(time_of(gate.take(1, watermark(2))), None);
        assert_eq!(time_of(gate.take(1, watermark(9))), Some(5));
    }

    #[test]
    fn an_idle_channel_does_not_hold_the_watermark_back() {
        let mut gate = Gate::new(2, true);
        gate.take(0, watermark(7));

        assert_eq!(time_of(gate.take(1, Element::Idle)), Some(7));
        assert!(matches!(gate.take(0, Element::Idle), Some(Passed::Idle)));
        assert!(matches!(gate.take(1, Element::Active), Some(Passed::Active)));
        assert_eq!(time_of(gate.take(1, watermark(4))), None);
    }

    #[test]
    fn a_barrier_passes_when_all_channels_have_it() {
        let mut gate = Gate::new(2, true);

        assert!(gate.take(0, barrier(1)).is_none());
        assert!(gate.is_blocked(0) && !gate.is_blocked(1));
        assert!(matches!(gate.take(1, barrier(1)), Some(Passed::Barrier(b)) if b.epoch == Epoch(1)));
        assert!(!gate.is_blocked(0) && !gate.is_blocked(1));
    }

    #[test]
    fn a_newer_barrier_frees_the_channels_of_an_abandoned_one() {
        let mut gate = Gate::new(3, true);
        gate.take(0, barrier(1));

        assert!(gate.take(1, barrier(2)).is_none());
        assert!(!gate.is_blocked(0) && gate.is_blocked(1));
        assert!(gate.take(0, barrier(2)).is_none());
        assert!(matches!(gate.take(2, barrier(2)), Some(Passed::Barrier(b)) if b.epoch == Epoch(2)));
    }
}
