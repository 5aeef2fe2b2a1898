//! Hopping windows of many slices, merged in two stacks (Tangwongsan, Hirzel, Schneider: "In-order sliding-window aggregation in
//! worst-case constant time", 2017): of the older slices what each of the next windows still needs of them is merged beforehand, of
//! the newer ones all are merged as they come. A window is then one of the former and the latter, however many slices it has.
//!
//! All of it follows from the slices: it is in no checkpoint and is made anew after a restore.

use std::collections::BTreeMap;

use millrace_sql::plan::Window;

use super::OperatorError;
use super::slice::{Partial, Shape, Slice};

/// Windows of fewer slices are merged as they are.
const SLICES_MIN: i64 = 8;

/// What is merged beforehand.
#[derive(Default)]
pub struct Stacks {
    /// By the start of a window that is still to fire: all of its slices up to `front_end`.
    front: BTreeMap<i64, Slice>,
    front_end: i64,
    /// All slices after `front_end`, up to `back_end`.
    back: Option<Slice>,
    back_end: i64,
    /// Keys of the last window that fired.
    results: usize,
}

impl Stacks {
    /// Whether it pays for the next window. In memory what is merged beforehand is about half as many rows as a window has keys, for
    /// each slice; so most keys have to be in most slices.
    pub fn pay(&self, window: &Window, rows_in_slices: usize) -> bool {
        let count = window.size_ms / window.slice_ms();
        let is_sliding = !window.is_cumulating && window.slide_ms < window.size_ms;
        is_sliding
            && count >= SLICES_MIN
            && self.results > 0
            && rows_in_slices >= self.results * count as usize / 4
    }

    /// Notes how many keys a window had. Without stacks nothing else is known.
    pub fn fired(&mut self, results: usize) {
        self.results = results;
    }

    /// Forgets all but that.
    pub fn clear(&mut self) {
        *self = Stacks { results: self.results, ..Stacks::default() };
    }

    /// A window's slices, merged. Windows come in the order of their ends.
    pub fn merge(
        &mut self,
        shape: &Shape,
        window: &Window,
        window_end: i64,
        slices: &BTreeMap<i64, Slice>,
    ) -> Result<Slice, OperatorError> {
        let start = window.window_start(window_end);
        self.front.retain(|of, _| *of >= start);
        let Some(mut merged) = self.front.remove(&start) else {
            return self.turn(shape, window, window_end, slices);
        };
        for (_, slice) in slices.range(self.back_end + 1..=window_end) {
            shape.absorb(self.back.get_or_insert_with(|| shape.slice()), slice)?;
        }
        self.back_end = self.back_end.max(window_end);
        if let Some(back) = &self.back {
            shape.absorb(&mut merged, back)?;
        }
        Ok(merged)
    }

    /// Merges the slices of a window from its end on, and keeps what each later window needs of them.
    fn turn(
        &mut self,
        shape: &Shape,
        window: &Window,
        window_end: i64,
        slices: &BTreeMap<i64, Slice>,
    ) -> Result<Slice, OperatorError> {
        self.clear();
        (self.front_end, self.back_end) = (window_end, window_end);
        let first = window.window_start(window_end);
        let mut merged = shape.slice();
        let mut end = window_end;
        let starts =
            (0..).map(|number| first + number * window.slide_ms).take_while(|start| *start < window_end);
        for start in starts.collect::<Vec<_>>().into_iter().rev() {
            for (_, slice) in slices.range(start + 1..=end) {
                shape.absorb(&mut merged, slice)?;
            }
            if start > first {
                self.front.insert(start, merged.clone());
            }
            end = start;
        }
        Ok(merged)
    }

    /// Adds rows that come to a slice that is merged already: late for some of its windows, and not for all.
    pub fn add(&mut self, shape: &Shape, slice_end: i64, partial: &Partial<'_>) -> Result<(), OperatorError> {
        if slice_end <= self.front_end {
            for merged in self.front.range_mut(..slice_end).map(|(_, merged)| merged) {
                shape.add(merged, partial)?;
            }
        } else if slice_end <= self.back_end {
            shape.add(self.back.get_or_insert_with(|| shape.slice()), partial)?;
        }
        Ok(())
    }

    /// Bytes of what is merged beforehand, roughly.
    pub fn memory_len(&self) -> usize {
        self.front.values().chain(&self.back).map(Slice::memory_len).sum()
    }

    /// True if anything is merged beforehand.
    #[cfg(test)]
    pub fn is_used(&self) -> bool {
        !self.front.is_empty()
    }
}
