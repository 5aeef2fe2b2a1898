//! Event time of a source subtask: the minimum over its splits, each split's own maximum.
//!
//! Pure. A split that has not begun holds the minimum back, so that what is read later is not late.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::EventTime;

/// Watermarks of the splits of one subtask.
#[derive(Debug, Default)]
pub struct SplitWatermarks {
    splits: BTreeMap<String, EventTime>,
    /// Splits that do not hold the minimum back.
    idle: BTreeSet<String>,
    emitted: Option<EventTime>,
    /// How far the splits that were taken out had come.
    ended: Option<EventTime>,
}

impl SplitWatermarks {
    /// Adds a split that has come this far.
    pub fn add(&mut self, split: &str, time: EventTime) {
        self.splits.insert(split.to_owned(), time);
    }

    /// A split has seen this watermark; it never goes back.
    pub fn advance(&mut self, split: &str, time: EventTime) {
        if let Some(known) = self.splits.get_mut(split) {
            *known = time.max(*known);
        }
    }

    /// Takes a split that was read out for good. Once there is none left, the one that came furthest counts.
    pub fn remove(&mut self, split: &str) {
        self.ended = self.ended.max(self.splits.remove(split));
        self.idle.remove(split);
    }

    /// How far a split has come.
    pub fn of(&self, split: &str) -> EventTime {
        self.splits.get(split).copied().unwrap_or(EventTime::MIN)
    }

    /// Takes a split out of the minimum, or in again.
    pub fn set_idle(&mut self, split: &str, is_idle: bool) {
        if is_idle {
            self.idle.insert(split.to_owned());
        } else {
            self.idle.remove(split);
        }
    }

    /// True if no split counts.
    pub fn are_all_idle(&self) -> bool {
        self.splits.keys().all(|split| self.idle.contains(split))
    }

    /// The subtask's watermark if it has advanced since the last call.
    pub fn advanced(&mut self) -> Option<EventTime> {
        let active = self.splits.iter().filter(|(split, _)| !self.idle.contains(*split));
        let lowest = match self.splits.is_empty() {
            true => self.ended?,
            false => active.map(|(_, time)| *time).min()?,
        };
        if lowest == EventTime::MIN || self.emitted.is_some_and(|emitted| lowest <= emitted) {
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
        watermarks.add("a", EventTime::MIN);
        watermarks.add("b", EventTime::MIN);
        watermarks.advance("a", EventTime(5));
        assert_eq!(watermarks.advanced(), None);

        watermarks.advance("b", EventTime(3));
        assert_eq!(watermarks.advanced(), Some(EventTime(3)));
        watermarks.advance("b", EventTime(2));
        assert_eq!(watermarks.advanced(), None);
        watermarks.advance("b", EventTime::MAX);
        assert_eq!(watermarks.advanced(), Some(EventTime(5)));
    }

    #[test]
    fn splits_that_were_read_let_the_others_advance_and_the_furthest_counts_in_the_end() {
        let mut watermarks = SplitWatermarks::default();
        for (split, time) in [("a", 5), ("b", 9), ("c", 7)] {
            watermarks.add(split, EventTime::MIN);
            watermarks.advance(split, EventTime(time));
        }
        assert_eq!(watermarks.advanced(), Some(EventTime(5)));
        watermarks.remove("b");
        assert_eq!(watermarks.advanced(), None);
        watermarks.remove("a");
        assert_eq!(watermarks.advanced(), Some(EventTime(7)));
        watermarks.remove("c");
        assert_eq!(watermarks.advanced(), Some(EventTime(9)));
        watermarks.add("d", EventTime::MIN);
        watermarks.advance("d", EventTime(8));
        assert_eq!(watermarks.advanced(), None, "it is late, and the watermark stays");
    }

    #[test]
    fn an_idle_split_does_not_count_until_it_is_active_again() {
        let mut watermarks = SplitWatermarks::default();
        watermarks.add("a", EventTime(5));
        watermarks.add("b", EventTime::MIN);
        watermarks.set_idle("b", true);
        assert_eq!((watermarks.advanced(), watermarks.are_all_idle()), (Some(EventTime(5)), false));

        watermarks.set_idle("a", true);
        assert_eq!((watermarks.advanced(), watermarks.are_all_idle()), (None, true));
        watermarks.set_idle("b", false);
        watermarks.advance("b", EventTime(3));
        assert_eq!(watermarks.advanced(), None, "it never goes back");
        watermarks.advance("b", EventTime(9));
        assert_eq!(watermarks.advanced(), Some(EventTime(9)));
    }
}
