//! One checkpoint from trigger to completion. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checkpoint::records::SubtaskState;
use crate::model::{Epoch, WorkerId};

/// A checkpoint that workers are taking.
#[derive(Debug)]
pub struct Pending {
    pub epoch: Epoch,
    pub started: Duration,
    /// After it the job ends, or stops if that is still wanted.
    pub is_last: bool,
    /// Nothing was left to read when it was triggered: it holds everything. What sources say later does not change that, for rows
    /// that they give after the barrier are in no checkpoint yet.
    pub is_final: bool,
    waiting: Vec<WorkerId>,
    states: BTreeMap<WorkerId, Vec<SubtaskState>>,
    bytes: u64,
    /// The longest time that a task stood still for it, of those that are known.
    pub longest_stop_us: u64,
}

/// What an answer means for a checkpoint.
#[derive(Debug, PartialEq)]
pub enum Answered {
    /// Others are missing, or it was for an older checkpoint.
    Waiting,
    /// All have answered.
    Complete { subtasks: Vec<SubtaskState>, bytes: u64 },
}

impl Pending {
    /// Waits for all of these workers.
    pub fn new(epoch: Epoch, started: Duration, workers: Vec<WorkerId>) -> Self {
        Pending {
            epoch,
            started,
            is_last: false,
            is_final: false,
            waiting: workers,
            states: BTreeMap::new(),
            bytes: 0,
            longest_stop_us: 0,
        }
    }

    /// The same as a checkpoint that may end the job.
    pub fn ending(self, is_last: bool, is_final: bool) -> Self {
        Pending { is_last, is_final, ..self }
    }

    /// Takes a worker's answer.
    pub fn answer(
        &mut self,
        worker: WorkerId,
        epoch: Epoch,
        states: Vec<SubtaskState>,
        bytes: u64,
    ) -> Answered {
        if epoch != self.epoch || !self.waiting.contains(&worker) {
            return Answered::Waiting;
        }
        self.waiting.retain(|waiting| *waiting != worker);
        self.states.insert(worker, states);
        self.bytes += bytes;
        if !self.waiting.is_empty() {
            return Answered::Waiting;
        }
        let mut subtasks: Vec<SubtaskState> =
            std::mem::take(&mut self.states).into_values().flatten().collect();
        subtasks.sort_by(|a, b| (&a.operator, a.subtask).cmp(&(&b.operator, b.subtask)));
        Answered::Complete { subtasks, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_complete_when_every_worker_has_answered_it() {
        let state =
            |operator: &str| vec![SubtaskState { operator: operator.to_owned(), ..Default::default() }];
        let mut pending = Pending::new(Epoch(5), Duration::ZERO, vec![WorkerId(1), WorkerId(2)]);

        assert_eq!(pending.answer(WorkerId(1), Epoch(4), state("old"), 1), Answered::Waiting);
        assert_eq!(pending.answer(WorkerId(2), Epoch(5), state("b"), 10), Answered::Waiting);
        assert_eq!(pending.answer(WorkerId(2), Epoch(5), state("again"), 10), Answered::Waiting);
        assert_eq!(pending.answer(WorkerId(3), Epoch(5), state("stranger"), 10), Answered::Waiting);
        let subtasks = [state("a"), state("b")].concat();
        assert_eq!(
            pending.answer(WorkerId(1), Epoch(5), state("a"), 7),
            Answered::Complete { subtasks, bytes: 17 }
        );
    }
}
