//! Which objects no kept checkpoint needs. Pure: a plan first, deletion second.
//!
//! A coordinator that was cut off may still act on what it knew. What is removed is therefore older than a complete checkpoint, and
//! named by none that is kept: a newer generation goes on from that checkpoint or a later one, and needs nothing else. The claims of
//! generations go that were over before the oldest kept checkpoint. The place of an epoch or a generation becomes free again with its
//! object, so whoever takes one looks once more whether it still leads (`protocol`).

use std::collections::BTreeSet;

use super::paths;
use super::records::Manifest;
use crate::model::{Epoch, Generation};

/// A checkpoint that is kept, and the segments that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub epoch: Epoch,
    generation: Generation,
    segments: BTreeSet<String>,
}

impl Kept {
    /// What a manifest needs.
    pub fn of(manifest: &Manifest) -> Self {
        let segments = manifest.segments().into_keys().map(str::to_owned);
        let (epoch, generation) = (Epoch(manifest.epoch), Generation(manifest.generation));
        Kept { epoch, generation, segments: segments.collect() }
    }
}

/// What to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    /// Written first: from then on records below it count no more.
    pub floor: Epoch,
    /// Keys to delete.
    pub keys: Vec<String>,
}

/// The checkpoints to keep, newest first, when one more is complete.
pub fn keep(kept: &mut Vec<Kept>, newest: Kept, retain: usize) {
    kept.insert(0, newest);
    kept.truncate(retain.max(1));
}

/// Plans the removal of what `kept`, newest first, does not need, from the keys that are there. `None`: nothing is kept yet.
pub fn plan(kept: &[Kept], keys: &[String]) -> Option<Removal> {
    let (newest, oldest, led_by) = (kept.first()?.epoch, kept.last()?.epoch, kept.last()?.generation);
    let is_needed = |key: &str| kept.iter().any(|kept| kept.segments.contains(key));
    let is_old = |key: &str| {
        if let Some(generation) = paths::number_of(key, paths::GENERATIONS) {
            return generation < led_by.0;
        }
        // Asked before there was anything.
        if key.starts_with(paths::PROBES) {
            return true;
        }
        let of = |prefix| paths::epoch_of(key, prefix);
        let record = of(paths::EPOCHS).or(of(paths::MANIFESTS)).or(of(paths::COMMITS)).or(of(paths::FLOORS));
        match (record, of(paths::SEGMENTS)) {
            (Some(epoch), _) => epoch < oldest,
            // One of a later epoch belongs to a checkpoint that is being taken.
            (_, Some(epoch)) => epoch <= newest && !is_needed(key),
            _ => false,
        }
    };
    Some(Removal { floor: oldest, keys: keys.iter().filter(|key| is_old(key)).cloned().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::records::{Run, SubtaskState, TableState};
    use crate::model::{JobUid, WorkerId};

    fn segment(epoch: u64) -> String {
        paths::segment(Epoch(epoch), Generation(2), WorkerId(1), 0)
    }

    fn manifest(epoch: u64, segments: &[u64]) -> Manifest {
        let runs = segments.iter().map(|epoch| Run { segment: segment(*epoch), ..Default::default() });
        let table = TableState { runs: runs.collect(), ..Default::default() };
        let state = SubtaskState { tables: vec![table], ..Default::default() };
        Manifest { epoch, generation: 4, subtasks: vec![state], ..Default::default() }
    }

    #[test]
    fn what_no_kept_checkpoint_needs_is_removed_and_nothing_else() {
        let mut kept = Vec::new();
        for (epoch, segments) in [(3, &[1, 3][..]), (5, &[1, 5]), (6, &[5, 6])] {
            keep(&mut kept, Kept::of(&manifest(epoch, segments)), 2);
        }
        let of_epochs = |make: fn(u64) -> String| (1..=7).map(make);
        let probe = paths::probe(&JobUid("a".to_owned()));
        let all: Vec<String> = [paths::JOB.to_owned(), paths::FINISHED.to_owned(), probe.clone()]
            .into_iter()
            .chain((1..=6).map(|generation| paths::generation(Generation(generation))))
            .chain(of_epochs(|epoch| paths::epoch(Epoch(epoch))))
            .chain(of_epochs(|epoch| paths::manifest(Epoch(epoch), Generation(2))))
            .chain(of_epochs(|epoch| paths::commit(Epoch(epoch))))
            .chain(of_epochs(segment))
            .chain([paths::floor(Epoch(2)), paths::floor(Epoch(5))])
            .collect();

        let removal = plan(&kept, &all).unwrap();

        let mut expected: Vec<String> = Vec::new();
        for epoch in 1..=4 {
            let epoch = Epoch(epoch);
            expected.extend([
                paths::epoch(epoch),
                paths::manifest(epoch, Generation(2)),
                paths::commit(epoch),
            ]);
        }
        expected.extend([2, 3, 4].map(segment));
        expected.extend([1, 2, 3].map(|generation| paths::generation(Generation(generation))));
        expected.extend([paths::floor(Epoch(2)), probe]);
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        assert_eq!(removal.floor, Epoch(5));
        assert_eq!(sorted(removal.keys), sorted(expected));
        assert_eq!(plan(&[], &all), None);
    }
}
