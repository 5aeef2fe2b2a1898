//! Which transactional id is used when. Pure.
//!
//! new ▶ writing ▶ prepared ▶ committed ▶ free. A prepared transaction is committed by the first complete checkpoint that names
//! it; its id is free once another one, which does not name it any more, is complete. Until then a repeated commit of the
//! former must still find it.

use crate::model::Epoch;

/// An epoch from which on an id gets a new identity before it is used again: near the end of its range a repeated commit could
/// no longer be told from a lost one.
const LAST_EPOCH: i16 = 32_766;

/// As many slots as a writer needs while checkpoints succeed: one is written, one waits for its commit, and one for a checkpoint
/// that does not name it any more. One more is there for a checkpoint that fails.
pub const SLOTS: usize = 4;

/// What a producer writes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub producer_id: i64,
    pub epoch: i16,
}

/// A slot taken for a new transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub slot: usize,
    /// Where the last commit has left the id; `None`: it must be initialised first.
    pub identity: Option<Identity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    Prepared(Epoch, Identity),
    Committed(Epoch, Identity),
    Free(Identity),
}

/// The slots of one writer; as many as are needed, which is three while checkpoints succeed.
#[derive(Debug, Default)]
pub struct Slots {
    states: Vec<State>,
}

impl Slots {
    /// Takes a slot to write with.
    pub fn take(&mut self) -> Taken {
        let free = self.states.iter().enumerate().find_map(|(slot, state)| match state {
            State::Free(identity) => Some((slot, *identity)),
            _ => None,
        });
        match free {
            Some((slot, used)) => {
                self.states[slot] = State::Writing;
                // A commit moves the epoch on by one.
                let next = Identity { epoch: used.epoch.saturating_add(1), ..used };
                Taken { slot, identity: (next.epoch < LAST_EPOCH).then_some(next) }
            }
            None => {
                self.states.push(State::Writing);
                Taken { slot: self.states.len() - 1, identity: None }
            }
        }
    }

    /// A slot's rows belong to this epoch, written with this identity.
    pub fn prepared(&mut self, slot: usize, epoch: Epoch, identity: Identity) {
        self.states[slot] = State::Prepared(epoch, identity);
    }

    /// A checkpoint is complete and committed.
    pub fn completed(&mut self, epoch: Epoch) {
        for state in &mut self.states {
            *state = match *state {
                State::Committed(by, identity) if by < epoch => State::Free(identity),
                State::Prepared(of, identity) if of <= epoch => State::Committed(epoch, identity),
                other => other,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(epoch: i16) -> Identity {
        Identity { producer_id: 5, epoch }
    }

    #[test]
    fn a_slot_is_used_again_when_a_later_checkpoint_does_not_name_it() {
        let mut slots = Slots::default();
        let mut used = Vec::new();
        for epoch in 1..=6 {
            let taken = slots.take();
            used.push(taken.slot);
            slots.prepared(taken.slot, Epoch(epoch), taken.identity.unwrap_or(identity(0)));
            slots.completed(Epoch(epoch));
        }
        assert_eq!(used, [0, 1, 0, 1, 0, 1]);

        let taken = slots.take();
        assert_eq!(
            taken,
            Taken { slot: 0, identity: Some(identity(3)) },
            "the fourth transaction of this id"
        );
    }

    #[test]
    fn failed_checkpoints_keep_their_slots_and_skipped_notices_free_nothing_early() {
        let mut slots = Slots::default();
        for epoch in 1..=3 {
            let taken = slots.take();
            assert_eq!(taken.slot, epoch as usize - 1, "no checkpoint is complete");
            slots.prepared(taken.slot, Epoch(epoch), identity(0));
        }
        slots.completed(Epoch(3));
        assert_eq!(slots.take().slot, 3, "the complete checkpoint names all three");
        slots.completed(Epoch(4));
        assert_eq!(slots.take().slot, 0);
    }

    #[test]
    fn an_id_at_the_end_of_its_epochs_is_initialised_anew() {
        for (used, expected) in [(32_764, Some(identity(32_765))), (32_765, None), (32_766, None)] {
            let mut slots = Slots::default();
            let slot = slots.take().slot;
            slots.prepared(slot, Epoch(1), identity(used));
            slots.completed(Epoch(1));
            slots.completed(Epoch(2));

            assert_eq!(slots.take(), Taken { slot, identity: expected }, "after epoch {used}");
        }
    }
}
