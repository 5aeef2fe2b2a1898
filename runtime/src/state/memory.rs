//! How much memory the state of a worker may take. What is beyond it goes to the local disk.
//!
//! No task waits for another: each tells what it has and puts its part of what is too much on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::info;

use super::disk::LocalDisk;

/// Once there is too much, one part in so many is made free, so that it is not the turn of the disk again at once.
const SPARE: u64 = 8;

/// What is fetched to restore state may take one part in so many of the budget, besides the state.
const BESIDES: u64 = 4;

/// So much always.
const BESIDES_MIN: u64 = 4 << 20;

/// State is measured after so many bytes of input, or less if the budget is small: it grows by a few times as much.
const UNMEASURED_MAX: u64 = 1 << 20;

/// So many bytes come into memory at a time.
const WARM_UP_MAX: u64 = 1 << 20;

/// The budget of a process and the disk beside it. Copies share them.
#[derive(Debug, Clone)]
pub struct StateMemory {
    budget: u64,
    in_use: Arc<AtomicU64>,
    /// The disk has been needed.
    is_small: Arc<AtomicBool>,
    disk: LocalDisk,
}

/// What a task has of it.
#[derive(Debug)]
pub struct TaskMemory {
    all: StateMemory,
    mine: u64,
}

impl StateMemory {
    /// So many bytes, and a disk for the rest.
    pub fn new(budget: u64, disk: LocalDisk) -> Self {
        StateMemory { budget, in_use: Arc::default(), is_small: Arc::default(), disk }
    }

    /// As much as there is.
    pub fn unlimited() -> Self {
        StateMemory::new(u64::MAX, LocalDisk::new(&std::env::temp_dir()))
    }

    /// The disk, if so many bytes, which are needed besides the state while it is restored, are better not in memory.
    pub fn disk_for(&self, bytes: u64) -> Option<&LocalDisk> {
        (bytes > self.budget / BESIDES).then_some(&self.disk)
    }

    /// True if so many bytes may be in memory while a state comes, besides it.
    pub fn has_room_besides(&self, bytes: u64) -> bool {
        bytes <= (self.budget / 2).max(BESIDES_MIN)
    }

    /// Where state is that is not in memory.
    pub fn disk(&self) -> &LocalDisk {
        &self.disk
    }

    /// For one more task.
    pub fn for_task(&self) -> TaskMemory {
        TaskMemory { all: self.clone(), mine: 0 }
    }
}

impl TaskMemory {
    /// The task has so many bytes of state in memory. Says how many it must put on the disk.
    pub fn holds(&mut self, bytes: usize) -> usize {
        let mine = bytes as u64;
        let in_use = &self.all.in_use;
        // Wraps where the task has less than before.
        let change = mine.wrapping_sub(self.mine);
        let total = in_use.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        self.mine = mine;
        let too_much = too_much(total, mine, self.all.budget);
        if too_much > 0 && !self.all.is_small.swap(true, Ordering::Relaxed) {
            let (budget, folder) = (self.all.budget, self.all.disk.folder().display());
            info!(budget, %folder, "state does not fit into memory; what is used least is on the local disk");
        }
        too_much as usize
    }

    /// How many bytes may come into memory at a time that are on the disk, because there is room. Nothing if there is little, so that
    /// they do not go back at once.
    pub fn room(&self) -> usize {
        let in_use = self.all.in_use.load(Ordering::Relaxed);
        let room = (self.all.budget / SPARE * (SPARE - 2)).saturating_sub(in_use);
        room.min(WARM_UP_MAX) as usize
    }

    /// Of how many bytes of input it should tell.
    pub fn unmeasured_max(&self) -> usize {
        (self.all.budget / 64).min(UNMEASURED_MAX) as usize
    }

    /// What it has told last.
    pub fn held(&self) -> usize {
        self.mine as usize
    }

    /// Where to put it.
    pub fn disk(&self) -> &LocalDisk {
        &self.all.disk
    }
}

impl Drop for TaskMemory {
    fn drop(&mut self) {
        self.all.in_use.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

/// How much of its state a task must give up: of what is too much the part that it has of everything.
fn too_much(in_use: u64, mine: u64, budget: u64) -> u64 {
    if in_use <= budget {
        return 0;
    }
    let wanted = in_use - (budget - budget / SPARE);
    (u128::from(wanted) * u128::from(mine) / u128::from(in_use)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gives_its_part_of_what_is_too_much() {
        let cases = [
            // In use, of which mine, budget; what I give up.
            (0, 0, 0, 0),
            (800, 800, 800, 0),
            (801, 801, 800, 101),
            (1600, 400, 800, 225),
            (1600, 0, 800, 0),
            (u64::MAX, 1, u64::MAX, 0),
            (10, 10, 0, 10),
        ];
        for (in_use, mine, budget, expected) in cases {
            assert_eq!(too_much(in_use, mine, budget), expected, "{in_use} {mine} {budget}");
        }
    }

    #[test]
    fn what_tasks_hold_is_counted_until_they_end() {
        let memory = StateMemory::new(1000, LocalDisk::new(std::path::Path::new("unused")));
        let (mut one, mut two) = (memory.for_task(), memory.for_task());

        assert_eq!((one.holds(600), two.holds(300), one.holds(500)), (0, 0, 0));
        assert!(two.holds(600) > 0);
        drop(one);
        assert_eq!(two.holds(900), 0);
        assert_eq!(memory.in_use.load(Ordering::Relaxed), 900);
    }
}
