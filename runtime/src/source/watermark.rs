//! Event time of a source subtask: the minimum over its splits, each split's own maximum.
//!
//! Pure. A split that has not begun holds the minimum back, so that what is read later is not late.

use std::collections::BTreeMap;

use crate::model::EventTime;

/// Watermarks of the splits of one subtask.
#[derive(Debug, Default)]
pub struct SplitWatermarks {
    splits: BTreeMap<String, EventTime>,
    emitted: Option<EventTime>,
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

    /// How far a split has come.
    pub fn of(&self, split: &str) -> EventTime {
        self.splits.get(split).copied().unwrap_or(EventTime::MIN)
    }

    /// The subtask's watermark if it has advanced since the last call.
    pub fn advanced(&mut self) -> Option<EventTime> {
        let lowest = self.splits.values().copied().min()?;
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
}
