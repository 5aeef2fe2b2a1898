use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::MaxParallelism;
use crate::state::{
    Arrivals, AwayRows, LocalDisk, SegmentReader, SegmentWriter, SortedRows, StateColumn, Unit,
};

fn table() -> StateTable {
    StateTable::new(Arc::new([StateType::I64]))
}

fn set(table: &mut StateTable, key: u64, value: i64) {
    let slot = table.slot(key, &key.to_be_bytes()).unwrap();
    let mut chunks = table.write(&[slot]);
    let (chunk, offset) = chunks.at(slot);
    let StateColumn::I64(values, valid) = &mut chunk.columns[0] else { panic!("an I64 column") };
    values[offset] = value;
    valid[offset] = true;
}

fn written(snapshot: &TableSnapshot) -> Vec<(u64, i64)> {
    let mut rows = Vec::new();
    for (shared, dirty) in &snapshot.chunks {
        let chunk = shared.get().load().unwrap();
        let StateColumn::I64(values, _) = &chunk.columns[0] else { panic!("an I64 column") };
        let slots = (0..chunk.len()).filter(|slot| dirty.has(*slot));
        rows.extend(slots.map(|slot| (chunk.hashes[slot], values[slot])));
    }
    rows
}

#[test]
fn a_snapshot_holds_what_was_written_since_the_last_one() {
    let mut table = table();
    (0..5000).for_each(|key| set(&mut table, key, 1));
    assert_eq!(written(&table.snapshot(Extent::Changes).unwrap()).len(), 5000);

    set(&mut table, 4500, 2);
    let delta = table.snapshot(Extent::Changes).unwrap();
    let nothing = table.snapshot(Extent::Changes).unwrap();
    let full = table.snapshot(Extent::Everything).unwrap();

    assert_eq!(written(&delta), [(4500, 2)]);
    assert_eq!(written(&nothing), []);
    assert_eq!(written(&full).len(), 5000);
}

#[test]
fn writing_after_a_snapshot_does_not_change_it() {
    let mut table = table();
    set(&mut table, 1, 10);
    let before = table.snapshot(Extent::Changes).unwrap();

    set(&mut table, 1, 20);

    assert_eq!(written(&before), [(1, 10)]);
    assert_eq!(written(&table.snapshot(Extent::Changes).unwrap()), [(1, 20)]);
}

fn remove(table: &mut StateTable, key: u64) {
    let slot = table.slot(key, &key.to_be_bytes()).unwrap();
    table.remove(&[slot]);
}

#[test]
fn a_snapshot_names_what_was_removed_and_not_added_again() {
    let mut table = table();
    (0..3).for_each(|key| set(&mut table, key, 1));
    table.snapshot(Extent::Changes).unwrap();
    set(&mut table, 0, 2);
    for key in [0, 1, 2, 3] {
        remove(&mut table, key);
    }
    set(&mut table, 1, 5);
    remove(&mut table, 1);
    set(&mut table, 2, 7);

    let delta = table.snapshot(Extent::Changes).unwrap();

    assert_eq!(written(&delta), [(2, 7)]);
    assert_eq!(delta.removed.hashes, [0, 1, 3]);
    assert_eq!(table.len(), 1);
    assert!(table.snapshot(Extent::Changes).unwrap().removed.hashes.is_empty());
    let full = table.snapshot(Extent::Everything).unwrap();
    assert_eq!(written(&full), [(2, 7)]);
    assert!(full.removed.hashes.is_empty());
}

#[test]
fn a_table_without_its_vacant_slots_is_the_same() {
    let mut table = table();
    (0..5000).for_each(|key| set(&mut table, key, key as i64));
    table.snapshot(Extent::Changes).unwrap();
    (0..4900).for_each(|key| remove(&mut table, key));
    set(&mut table, 4950, -1);

    table.compact().unwrap();

    assert!(table.slots < 2 * CHUNK_SLOTS / 3, "{}", table.slots);
    assert_eq!(table.len(), 100);
    assert_eq!(occupied(&table), 100);
    let delta = table.snapshot(Extent::Changes).unwrap();
    assert_eq!(written(&delta), [(4950, -1)]);
    assert_eq!(delta.removed.hashes, (0..4900).collect::<Vec<u64>>());
    let mut rest: Vec<u64> =
        written(&table.snapshot(Extent::Everything).unwrap()).iter().map(|(key, _)| *key).collect();
    rest.sort_unstable();
    assert_eq!(rest, (4900..5000).collect::<Vec<u64>>());
}

fn occupied(table: &StateTable) -> usize {
    let mut count = 0;
    table.each_slot(|_, _, _| count += 1).unwrap();
    assert_eq!(table.parts().map(|part| part.load().unwrap().len()).sum::<usize>(), count);
    count
}

/// What a table holds, by all ways to it.
fn contents(table: &mut StateTable) -> BTreeMap<u64, i64> {
    let mut found = BTreeMap::new();
    let value = |chunk: &Chunk, offset: usize| {
        let StateColumn::I64(values, _) = &chunk.columns[0] else { panic!("an I64 column") };
        values[offset]
    };
    for part in table.parts() {
        let chunk = part.load().unwrap();
        for offset in 0..chunk.len() {
            assert!(found.insert(chunk.hashes[offset], value(&chunk, offset)).is_none(), "a key twice");
        }
    }
    assert_eq!(found.len(), table.len());
    found
}

/// Any calls in any order, beside a map; with checkpoints, of which any can be gone back to.
#[test]
fn a_table_that_is_larger_than_memory_is_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = LocalDisk::new(folder.path());
        let (mut table, mut expected) = (table().noting_moves(), BTreeMap::new());
        // What snapshots hold: of everything, of those that took the place of smaller ones, and of changes since.
        let (mut stored, mut images) = ([const { BTreeMap::new() }; 4], Vec::new());
        let (mut spilled, mut moves) = (0, 0);
        for _ in 0..400 {
            let keys = random.random_range(1..20_000_u64);
            match random.random_range(0..10) {
                0..=4 => {
                    for _ in 0..random.random_range(1..400) {
                        let (key, value) = (random.random_range(0..keys), random.random());
                        set(&mut table, key, value);
                        expected.insert(key, value);
                    }
                }
                5 | 6 => {
                    for _ in 0..random.random_range(1..700) {
                        let key = random.random_range(0..keys);
                        remove(&mut table, key);
                        expected.remove(&key);
                    }
                    moves += table.take_moves().len();
                    table.compact().unwrap();
                }
                7 => {
                    let extent = [Extent::Changes, Extent::SinceMerge, Extent::SinceBase, Extent::Everything]
                        [random.random_range(0..4)];
                    let snapshot = table.snapshot(extent).unwrap();
                    // Written later: chunks may have gone to the disk meanwhile.
                    table.spill(random.random_range(0..100_000), &disk).unwrap();
                    // Layers, the greatest extent first: each takes the place of those after it, and of itself unless it adds.
                    let layer = match extent {
                        Extent::Everything => 0,
                        Extent::SinceBase => 1,
                        Extent::SinceMerge => 2,
                        Extent::Changes => 3,
                    };
                    let replaced = if layer < 2 { layer } else { layer + 1 };
                    stored[replaced..].iter_mut().for_each(BTreeMap::clear);
                    let changes = written(&snapshot).into_iter().map(|(key, value)| (key, Some(value)));
                    stored[layer].extend(snapshot.removed.hashes.iter().map(|key| (*key, None)));
                    stored[layer].extend(changes);
                    let mut all: BTreeMap<u64, Option<i64>> = BTreeMap::new();
                    stored.iter().for_each(|layer| all.extend(layer));
                    let all: BTreeMap<u64, i64> =
                        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
                    assert_eq!(all, expected, "seed {seed} {extent:?}");
                    images.push((snapshot.image, expected.clone()));
                }
                8 if !images.is_empty() => {
                    let (image, then) = &images[random.random_range(0..images.len())];
                    table.roll_back(image).unwrap();
                    expected = then.clone();
                    stored = [const { BTreeMap::new() }; 4];
                    stored[0] = then.iter().map(|(key, value)| (*key, Some(*value))).collect();
                }
                _ => spilled += table.spill(random.random_range(0..300_000), &disk).unwrap(),
            }
            for (from, to) in table.take_moves() {
                moves += 1;
                assert!(from != to && !table.is_vacant(to));
                table.at(to);
            }
            assert_eq!(table.len(), expected.len());
            let held: usize = table.chunks.iter().map(|held| held.stored.len()).sum();
            assert_eq!(table.slots, held);
            assert_eq!(table.bytes_in_memory, table.chunks.iter().map(bytes_in_memory).sum::<usize>());
            assert_eq!(table.bytes, table.chunks.iter().map(|held| held.bytes).sum::<usize>());
            let is_cold = |held: &&Held| matches!(held.stored, Stored::Cold(_));
            assert_eq!(table.cold, table.chunks.iter().filter(is_cold).count());
            let listed: HashSet<u32> = table.full.iter().copied().collect();
            assert_eq!(listed.len(), table.full.len(), "a chunk twice among the full ones");
            for (number, held) in table.chunks.iter().enumerate() {
                let (number, length) = (number as u32, held.stored.len());
                assert_eq!(
                    length == 0,
                    table.free.contains(&number) || (table.tail == Some(number) && length == 0)
                );
                // Nothing is left without a chance to be used again.
                let is_sparse = length > 0 && held.vacated * 2 >= length && table.tail != Some(number);
                assert!(!is_sparse || table.sparse.contains(&number), "chunk {number} is forgotten");
                assert!(held.vacated < length || length == 0 || table.tail == Some(number));
            }
            if random.random_range(0..20) == 0 {
                assert_eq!(contents(&mut table), expected, "seed {seed}");
            }
        }
        assert_eq!(contents(&mut table), expected, "seed {seed}");
        assert!(spilled > 100_000 && moves > 1_000, "{spilled} {moves}");
        assert!(disk.used() > 0);
        drop((table, images));
        assert_eq!(disk.used(), 0, "nobody needs the disk any more");
    }
}

/// Runs of changes, of which only the indexes are there at first.
#[test]
fn a_table_that_is_still_on_its_way_is_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let groups = MaxParallelism::new(16).unwrap();
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut table, mut expected) = (table(), BTreeMap::new());
        let mut segments = Vec::new();
        for run in 0..5 {
            for _ in 0..random.random_range(1..9_000) {
                let (key, value) = (random.random_range(0..12_000_u64), random.random());
                set(&mut table, key.rotate_right(4), value);
                expected.insert(key.rotate_right(4), value);
            }
            for _ in 0..random.random_range(0..1_000) {
                let key = random.random_range(0..12_000_u64).rotate_right(4);
                remove(&mut table, key);
                expected.remove(&key);
            }
            let mut writer = SegmentWriter::new();
            let extent = if run == 0 { Extent::Everything } else { Extent::Changes };
            writer.add(&table.snapshot(extent).unwrap(), groups).unwrap();
            segments.push(writer.finish());
        }

        let arrivals = Arc::new(Arrivals::default());
        let mut units = Vec::new();
        let mut restored = self::table();
        for segment in &segments {
            let reader = SegmentReader::open(segment).unwrap();
            for block in reader.indexed(0, &(0..16)).unwrap() {
                let (index, block) = (block.index.clone(), Arc::new(block));
                let mut unit = Unit::new("s", 0..segment.len() as u64);
                let (removed, rows): (Vec<usize>, Vec<usize>) =
                    (0..index.len()).partition(|row| index.is_removed(*row));
                removed.iter().for_each(|row| restored.detach(index.hashes[*row], index.checks[*row]));
                for rows in rows.chunks(CHUNK_SLOTS) {
                    let chunk = restored.attach(AwayRows {
                        hashes: rows.iter().map(|row| index.hashes[*row]).collect(),
                        checks: rows.iter().map(|row| index.checks[*row]).collect(),
                        bytes: rows.iter().map(|row| index.row_bytes(*row)).sum(),
                        arrivals: Arc::clone(&arrivals),
                        unit: units.len(),
                    });
                    unit.await_rows(&block, &chunk, rows.iter().map(|row| *row as u32).collect());
                }
                units.push((unit, segment.clone()));
            }
        }
        assert_eq!(restored.len(), expected.len(), "seed {seed}");
        let needed = units.iter().filter(|(unit, _)| unit.is_needed()).count();
        assert!(needed > 0);

        let disk = LocalDisk::new(folder.path());
        let bringing = {
            let (arrivals, disk) = (Arc::clone(&arrivals), disk.clone());
            std::thread::spawn(move || {
                for (unit, segment) in units {
                    unit.deliver(&segment, &disk).unwrap();
                    arrivals.arrived();
                }
            })
        };
        // Meanwhile rows come.
        for _ in 0..3_000 {
            let (key, value) = (random.random_range(0..15_000_u64).rotate_right(4), random.random());
            if random.random() {
                set(&mut restored, key, value);
                expected.insert(key, value);
            } else {
                remove(&mut restored, key);
                expected.remove(&key);
            }
        }
        restored.compact().unwrap();
        assert_eq!(contents(&mut restored), expected, "seed {seed}");
        bringing.join().unwrap();
        restored.warm_up(usize::MAX / 2).unwrap();
        assert_eq!(restored.bytes, restored.bytes_in_memory);
        assert_eq!(contents(&mut restored), expected, "seed {seed}");
        drop(restored);
        assert_eq!(disk.used(), 0);
    }
}

#[test]
fn of_chunks_on_the_disk_only_the_rows_of_a_turn_are_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(folder.path());
    let mut table = table();
    // The hash of a key is the key.
    (0..20_000_u64).for_each(|key| set(&mut table, key.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1));
    table.snapshot(Extent::Changes).unwrap();
    table.spill(usize::MAX, &disk).unwrap();
    let snapshot = table.snapshot(Extent::Everything).unwrap();
    let groups = MaxParallelism::new(1024).unwrap();
    // Few rows of each chunk, and most of them.
    let turns = vec![8..1024, 0..8];

    let mut sorted = SortedRows::new(&snapshot, groups).in_turns(turns);

    let mut counts = Vec::new();
    while let Some(turn) = sorted.next_turn().unwrap() {
        assert_eq!(turn.rows_in_memory(), turn.rows().len());
        counts.push(turn.rows().len());
    }
    assert!(counts[0] > 50 && counts[1] > 10_000, "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 20_000);
}

#[test]
fn what_was_written_lately_stays_in_memory_if_it_is_little() {
    let folder = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(folder.path());
    let mut table = table();
    (0..10_000).for_each(|key| set(&mut table, key, 1));
    table.snapshot(Extent::Changes).unwrap();
    (0..100).for_each(|key| set(&mut table, key * 30, 2));

    let spilled = table.spill(usize::MAX, &disk).unwrap();

    assert!(spilled > 100_000, "{spilled}");
    for key in 0..100 {
        let Place::Hot(_) = table.find(key * 30, &(key * 30).to_be_bytes()).unwrap() else {
            panic!("key {} is on the disk", key * 30)
        };
    }
    assert!(matches!(table.find(31, &31_u64.to_be_bytes()).unwrap(), Place::Cold(..)));
    let mut delta = written(&table.snapshot(Extent::Changes).unwrap());
    delta.sort_unstable();
    assert_eq!(delta, (0..100).map(|key| (key * 30, 2)).collect::<Vec<_>>());
}

#[test]
fn a_table_that_is_rolled_back_is_the_one_of_the_snapshot() {
    let mut table = table();
    (0..5000).for_each(|key| set(&mut table, key, 1));
    table.snapshot(Extent::Changes).unwrap();
    for key in 10..20 {
        remove(&mut table, key);
    }
    let image = table.snapshot(Extent::Changes).unwrap().image;
    let rows = |table: &StateTable| {
        let mut rows = written(&table.clone().snapshot(Extent::Everything).unwrap());
        rows.sort_unstable();
        rows
    };
    let before = rows(&table);
    (0..6000).for_each(|key| set(&mut table, key, 2));
    (100..200).for_each(|key| remove(&mut table, key));
    let after = rows(&table);

    let mut back = StateTable::new([StateType::I64].into());
    back.roll_back(&image).unwrap();

    assert_eq!(rows(&back), before);
    assert_eq!((back.len(), occupied(&back)), (4990, 4990));
    assert_eq!(written(&back.snapshot(Extent::Changes).unwrap()), [], "nothing is dirty");
    // It goes on by itself, finds its keys, and changes neither the image nor the table that went on.
    set(&mut back, 4999, 7);
    remove(&mut back, 0);
    set(&mut back, 15, 7);
    let delta = back.snapshot(Extent::Changes).unwrap();
    assert_eq!(written(&delta), [(4999, 7), (15, 7)]);
    assert_eq!(delta.removed.hashes, [0]);
    assert_eq!(rows(&table), after);
    let mut again = StateTable::new([StateType::I64].into());
    again.roll_back(&image).unwrap();
    assert_eq!(rows(&again), before);
    assert!(StateTable::new([StateType::F64].into()).roll_back(&image).is_none());
}

#[test]
fn keys_with_equal_hashes_are_told_apart() {
    let mut table = table();

    let slots = [b"a", b"b", b"a"].map(|key| table.slot(7, key).unwrap());

    assert_eq!(slots, [0, 1, 0]);
}
