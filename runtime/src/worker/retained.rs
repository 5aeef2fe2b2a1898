//! What this process still has of the newest checkpoints: after a failure its own part is rolled back in memory, and only what was
//! lost with other workers is fetched.
//!
//! Two checkpoints at most: the newest complete one, and the one after it, whose record may be there although nobody has said so yet.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::checkpoint::records::SubtaskState;
use crate::model::Epoch;
use crate::task::{SubtaskImage, SubtaskKey};

type Images = HashMap<SubtaskKey, Arc<SubtaskImage>>;

/// Shared by the generations of a worker.
#[derive(Clone, Default)]
pub struct Retained(Arc<Mutex<Layers>>);

#[derive(Default)]
struct Layers {
    complete: Images,
    newest: Option<(Epoch, Images)>,
}

impl Retained {
    /// The state of all subtasks at a checkpoint that is under way. What was kept of one before it that has failed is given up.
    pub fn keep(&self, epoch: Epoch, images: Images) {
        self.0.lock().newest = Some((epoch, images));
    }

    /// A checkpoint is complete: nothing rolls back beyond it.
    pub fn completed(&self, epoch: Epoch) {
        let mut layers = self.0.lock();
        if let Some((_, images)) = layers.newest.take_if(|(newest, _)| *newest == epoch) {
            layers.complete = images;
        }
    }

    /// Gives everything up.
    pub fn forget(&self) {
        *self.0.lock() = Layers::default();
    }

    /// Which slots it has something of.
    pub fn slots(&self) -> BTreeSet<u32> {
        let layers = self.0.lock();
        let newest = layers.newest.iter().flat_map(|(_, images)| images.keys());
        layers.complete.keys().chain(newest).map(|(_, subtask)| *subtask).collect()
    }

    /// The images that are the states of a restored checkpoint; others are given up. `is_exact` asks for nothing but that state.
    pub fn roll_back<'a>(&self, states: impl Iterator<Item = &'a SubtaskState>, is_exact: bool) -> Images {
        let mut layers = self.0.lock();
        let newest = layers.newest.take().map(|(_, images)| images).unwrap_or_default();
        let found = states.filter_map(|state| {
            let key = (state.operator.clone(), state.subtask);
            let all = [newest.get(&key), layers.complete.get(&key)];
            let image =
                all.into_iter().flatten().find(|image| image.is_there() && (!is_exact || image.is(state)))?;
            Some((key, Arc::clone(image)))
        });
        let found: Images = found.collect();
        layers.complete = found.clone();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::records::{Run, TableState};
    use crate::state::Extent;
    use crate::state::{StateTable, StateType};

    fn state(epoch: u64) -> SubtaskState {
        let run = Run { segment: format!("segments/{epoch}"), end_group: 8, ..Run::default() };
        let tables = vec![TableState { table: "t".to_owned(), namespace: 0, runs: vec![run] }];
        SubtaskState { operator: "o".to_owned(), subtask: 3, end_group: 8, tables, ..SubtaskState::default() }
    }

    fn images(epoch: u64) -> Images {
        let table = state(epoch).tables.remove(0);
        let image = StateTable::new([StateType::I64].into()).snapshot(Extent::Everything).unwrap().image;
        let image = SubtaskImage { groups: 0..8, tables: vec![(table, image)] };
        HashMap::from([(("o".to_owned(), 3), Arc::new(image))])
    }

    /// The first epoch whose state is found.
    fn found(retained: &Retained, epoch: u64) -> bool {
        let copy = Retained::default();
        let layers = retained.0.lock();
        *copy.0.lock() = Layers { complete: layers.complete.clone(), newest: layers.newest.clone() };
        !copy.roll_back([state(epoch)].iter(), true).is_empty()
    }

    #[test]
    fn the_complete_checkpoint_and_the_one_after_it_are_kept() {
        let retained = Retained::default();
        retained.keep(Epoch(1), images(1));
        retained.completed(Epoch(1));
        retained.keep(Epoch(2), images(2));
        assert!(found(&retained, 1) && found(&retained, 2));
        // The second one has failed.
        retained.keep(Epoch(3), images(3));
        assert!(found(&retained, 1) && !found(&retained, 2) && found(&retained, 3));
        retained.completed(Epoch(3));
        assert!(!found(&retained, 1) && found(&retained, 3));
        retained.keep(Epoch(4), images(4));
        assert_eq!(retained.slots(), BTreeSet::from([3]));

        assert_eq!(retained.roll_back([state(3)].iter(), true).len(), 1);

        assert!(found(&retained, 3) && !found(&retained, 4), "what was rolled back over is given up");
        assert_eq!(retained.roll_back([state(9)].iter(), true).len(), 0);
        assert!(retained.slots().is_empty());
        retained.keep(Epoch(5), images(5));
        retained.forget();
        assert!(retained.slots().is_empty());
    }

    #[test]
    fn an_image_is_only_the_state_of_its_runs_and_key_groups() {
        let image = Arc::clone(&images(1)[&("o".to_owned(), 3)]);
        assert!(image.is(&state(1)));
        assert!(!image.is(&state(2)));
        assert!(!image.is(&SubtaskState { end_group: 4, ..state(1) }));
        let mut more = state(1);
        more.tables.push(TableState { namespace: 1, ..more.tables[0].clone() });
        assert!(!image.is(&more));
        let mut less = state(1);
        less.tables[0].runs[0].end_group = 4;
        assert!(!image.is(&less));
    }
}
