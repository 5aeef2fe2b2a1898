//! Event time of a source subtask: the minimum over its splits, each split's own maximum.
//!
//! Pure. A split that has not begun holds the minimum back, so that what is read later is not late.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::EventTime;

/// Watermarks of the splits of one subtask, which are known by numbers. Each call takes the logarithm of their number.
#[derive(Debug, Default)]
pub struct SplitWatermarks {
    splits: BTreeMap<u64, EventTime>,
    /// Those that hold the minimum back.
    active: BTreeSet<(EventTime, u64)>,
    emitted: Option<EventTime>,
    /// How far the splits that were taken out had come.
    ended: Option<EventTime>,
}

impl SplitWatermarks {
    /// Adds a split that has come this far.
    pub fn add(&mut self, split: u64, time: EventTime) {
        self.splits.insert(split, time);
        self.active.insert((time, split));
    }

    /// A split has seen this watermark; it never goes back.
    pub fn advance(&mut self, split: u64, time: EventTime) {
        if let Some(known) = self.splits.get_mut(&split)
            && time > *known
        {
            if self.active.remove(&(*known, split)) {
                self.active.insert((time, split));
            }
            *known = time;
        }
    }

    /// Takes a split that was read out for good. Once there is none left, the one that came furthest counts.
    pub fn remove(&mut self, split: u64) {
        let time = self.splits.remove(&split);
        self.ended = self.ended.max(time);
        self.active.remove(&(time.unwrap_or(EventTime::MIN), split));
    }

    /// How far a split has come.
    pub fn of(&self, split: u64) -> EventTime {
        self.splits.get(&split).copied().unwrap_or(EventTime::MIN)
    }

    /// Takes a split out of the minimum, or in again.
    pub fn set_idle(&mut self, split: u64, is_idle: bool) {
        let Some(time) = self.splits.get(&split) else { return };
        if is_idle {
            self.active.remove(&(*time, split));
        } else {
            self.active.insert((*time, split));
        }
    }

    /// True if no split counts.
    pub fn are_all_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// The subtask's watermark if it has advanced since the last call.
    pub fn advanced(&mut self) -> Option<EventTime> {
        let lowest = match self.splits.is_empty() {
            true => self.ended?,
            false => self.active.first()?.0,
        };
        // Those that have ended do not end the event time of the ones that are idle.
        let is_of_ended = lowest == EventTime::MAX && self.active.len() < self.splits.len();
        if lowest == EventTime::MIN || is_of_ended || self.emitted.is_some_and(|emitted| lowest <= emitted) {
            return None;
        }
        self.emitted = Some(lowest);
        Some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_that_has_not_begun_holds_the_watermark_back() {
        let mut watermarks = SplitWatermarks::default();
        watermarks.add(1, EventTime::MIN);
        watermarks.add(2, EventTime::MIN);
        watermarks.advance(1, EventTime(5));
        assert_eq!(watermarks.advanced(), None);

        watermarks.advance(2, EventTime(3));
        assert_eq!(watermarks.advanced(), Some(EventTime(3)));
        watermarks.advance(2, EventTime(2));
        assert_eq!(watermarks.advanced(), None);
        watermarks.advance(2, EventTime::MAX);
        assert_eq!(watermarks.advanced(), Some(EventTime(5)));
    }

    #[test]
    fn splits_that_were_read_let_the_others_advance_and_the_furthest_counts_in_the_end() {
        let mut watermarks = SplitWatermarks::default();
        for (split, time) in [(1, 5), (2, 9), (3, 7)] {
            watermarks.add(split, EventTime::MIN);
            watermarks.advance(split, EventTime(time));
        }
        assert_eq!(watermarks.advanced(), Some(EventTime(5)));
        watermarks.remove(2);
        assert_eq!(watermarks.advanced(), None);
        watermarks.remove(1);
        assert_eq!(watermarks.advanced(), Some(EventTime(7)));
        watermarks.remove(3);
        assert_eq!(watermarks.advanced(), Some(EventTime(9)));
        watermarks.add(4, EventTime::MIN);
        watermarks.advance(4, EventTime(8));
        assert_eq!(watermarks.advanced(), None, "it is late, and the watermark stays");
    }

    #[test]
    fn an_idle_split_does_not_count_until_it_is_active_again() {
        let mut watermarks = SplitWatermarks::default();
        watermarks.add(1, EventTime(5));
        watermarks.add(2, EventTime::MIN);
        watermarks.set_idle(2, true);
        assert_eq!((watermarks.advanced(), watermarks.are_all_idle()), (Some(EventTime(5)), false));

        watermarks.set_idle(1, true);
        assert_eq!((watermarks.advanced(), watermarks.are_all_idle()), (None, true));
        watermarks.set_idle(2, false);
        watermarks.advance(2, EventTime(3));
        assert_eq!(watermarks.advanced(), None, "it never goes back");
        watermarks.advance(2, EventTime(9));
        assert_eq!(watermarks.advanced(), Some(EventTime(9)));
    }
    #[test]
    fn what_has_ended_does_not_end_the_time_of_what_is_idle() {
        let mut watermarks = SplitWatermarks::default();
        watermarks.add(1, EventTime(5));
        watermarks.add(2, EventTime(7));
        watermarks.set_idle(1, true);
        watermarks.advance(2, EventTime::MAX);
        assert_eq!(watermarks.advanced(), None);

        watermarks.set_idle(1, false);
        watermarks.advance(1, EventTime(8));
        assert_eq!(watermarks.advanced(), Some(EventTime(8)));
        watermarks.advance(1, EventTime::MAX);
        assert_eq!(watermarks.advanced(), Some(EventTime::MAX));
    }
}
