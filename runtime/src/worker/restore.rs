//! Fetches what this worker's slots need of a checkpoint: of each segment the blocks with their key groups.
//!
//! Of a large state first only what tells which keys there are: tasks begin with that, and the rows come while they run ([`bring`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use tracing::info;

use super::generation::failed;
use crate::checkpoint::Store;
use crate::checkpoint::records::SubtaskState;
use crate::error::chain;
use crate::model::{KeyGroups, MaxParallelism, Subtask};
use crate::rpc::{Deploy, Failed};
use crate::state::{
    Arrivals, DeliverError, FetchedPart, LOCAL_DISK_FAILED, LocalDisk, NotFetched, SegmentError,
    SegmentIndex, SegmentReader, SegmentTail, StateMemory, Unit,
};
use crate::task::{AwaitedState, BuildError, Restored, SubtaskImage, SubtaskKey};

/// Segments that are fetched at a time.
const FETCHES: usize = 8;

/// A segment of at most so many bytes is fetched whole: another request takes as long as these do.
const WHOLE_BYTES: u64 = 1 << 20;

/// To the disk so many bytes are fetched at a time, unless a block is longer.
const PIECE_BYTES: u64 = 8 << 20;

/// Rows of a state that comes while tasks run are fetched so many bytes at a time, unless a block is longer.
const UNIT_BYTES: u64 = 2 << 20;

/// What is in memory for each row of a state that comes while tasks run, besides the state: its part of indexes as they are fetched
/// and as they are used, and what waits for it.
const LAZY_ROW_BYTES: u64 = 40;

/// The index is looked for in so many bytes from the end.
const TAIL_BYTES: u64 = 64 << 10;

/// What is needed of a segment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Of the segment; 0 if the checkpoint does not say it.
    bytes: u64,
    /// Of these runs, those of other key groups too.
    rows: u64,
    runs: Vec<(u32, KeyGroups)>,
}

/// Fetches the state of a worker's slots.
pub async fn fetch(
    deploy: &Deploy,
    mine: &[u32],
    groups: MaxParallelism,
    store: &dyn Store,
    images: HashMap<SubtaskKey, Arc<SubtaskImage>>,
    memory: &StateMemory,
    lazy_from: u64,
) -> Result<Restored, Failed> {
    let owned: Vec<(u32, KeyGroups)> =
        mine.iter().map(|slot| (*slot, groups.owned_by(Subtask(*slot), deploy.parallelism))).collect();
    let wanted = wanted(deploy, &owned, &images);
    let bytes: u64 = wanted.values().map(|wanted| wanted.bytes).sum();
    let rows: u64 = wanted.values().map(|wanted| wanted.rows).sum();
    if bytes >= lazy_from
        && memory.has_room_besides(rows * LAZY_ROW_BYTES)
        && let Some((segments, units)) = indexes(store, &wanted).await
    {
        let awaited = Some(AwaitedState::new(units));
        return Ok(Restored { subtasks: deploy.restored.clone(), segments, images, awaited });
    }
    let disk = memory.disk_for(bytes);
    let fetched =
        futures::stream::iter(wanted)
            .map(|(key, wanted)| async move {
                segment(store, &key, &wanted, disk).await.map(|reader| (key, reader))
            })
            .buffered(FETCHES);
    let segments = fetched.try_collect().await?;
    Ok(Restored { subtasks: deploy.restored.clone(), segments, images, awaited: None })
}

/// The states that this worker's subtasks are to have.
pub fn inherited(deploy: &Deploy, mine: &[u32], groups: MaxParallelism) -> Vec<SubtaskState> {
    let restored = Restored { subtasks: deploy.restored.clone(), ..Restored::default() };
    let operators: BTreeSet<&str> = restored.subtasks.iter().map(|state| state.operator.as_str()).collect();
    let of_slot = |slot: &u32| {
        let owned = groups.owned_by(Subtask(*slot), deploy.parallelism);
        operators
            .iter()
            .map(|id| restored.inherited(id, *slot, deploy.parallelism, &owned))
            .collect::<Vec<_>>()
    };
    mine.iter().flat_map(of_slot).collect()
}

/// Which key groups of which runs of which segments hold state of these slots, but for what there are images of.
fn wanted(
    deploy: &Deploy,
    owned: &[(u32, KeyGroups)],
    images: &HashMap<SubtaskKey, Arc<SubtaskImage>>,
) -> BTreeMap<String, Wanted> {
    let mut segments: BTreeMap<String, Wanted> = BTreeMap::new();
    for state in &deploy.restored {
        let missing = owned.iter().filter(|(slot, _)| !images.contains_key(&(state.operator.clone(), *slot)));
        let missing: Vec<&KeyGroups> = missing.map(|(_, range)| range).collect();
        for run in state.tables.iter().flat_map(|table| &table.runs) {
            for range in &missing {
                let groups = run.first_group.max(range.start)..run.end_group.min(range.end);
                if !groups.is_empty() {
                    let wanted = segments.entry(run.segment.clone()).or_default();
                    wanted.bytes = run.segment_bytes;
                    // Operators that were one have the same runs.
                    if !wanted.runs.contains(&(run.run, groups.clone())) {
                        wanted.rows += run.rows;
                        wanted.runs.push((run.run, groups));
                    }
                }
            }
        }
    }
    segments
}

async fn segment(
    store: &dyn Store,
    key: &str,
    wanted: &Wanted,
    disk: Option<&LocalDisk>,
) -> Result<SegmentReader<'static>, Failed> {
    if (wanted.bytes > WHOLE_BYTES || (disk.is_some() && wanted.bytes > 0))
        && let Some(parts) = parts(store, key, wanted, disk).await?
    {
        return Ok(parts);
    }
    let bytes = store.get(key).await.map_err(|error| failed(&chain(&error), "StoreUnavailable", false))?;
    let Some(bytes) = bytes else { return Err(failed(&missing(store, key), "StateDamaged", true)) };
    SegmentReader::open(bytes).map_err(|source| {
        let error = BuildError::Segment { key: key.to_owned(), source };
        failed(&chain(&error), error.kind(), error.is_permanent())
    })
}

fn missing(store: &dyn Store, key: &str) -> String {
    format!(
        "the segment '{key}' is missing from {}; put it back from a copy, and the job goes on. To begin anew choose another \
         checkpoint.location",
        store.location()
    )
}

/// Of all segments what tells which keys there are, and in which units the rows are to come; `None` if some segment does not tell it,
/// or cannot be read: fetched whole it tells why.
async fn indexes(
    store: &dyn Store,
    wanted: &BTreeMap<String, Wanted>,
) -> Option<(HashMap<String, SegmentReader<'static>>, Vec<Unit>)> {
    let fetched: Vec<_> = wanted.iter().map(|(key, wanted)| index_and_units(store, key, wanted)).collect();
    let fetched: Vec<Option<_>> = futures::stream::iter(fetched).buffered(FETCHES).collect().await;
    let (mut segments, mut units) = (HashMap::new(), Vec::new());
    for (key, (reader, of_segment)) in wanted.keys().zip(fetched.into_iter().collect::<Option<Vec<_>>>()?) {
        segments.insert(key.clone(), reader);
        units.extend(of_segment);
    }
    Some((segments, units))
}

async fn index_and_units(
    store: &dyn Store,
    key: &str,
    wanted: &Wanted,
) -> Option<(SegmentReader<'static>, Vec<Unit>)> {
    let index = index_of(store, key, wanted.bytes).await?;
    if !index.has_indexes(&wanted.runs) {
        return None;
    }
    let units = index.ranges_of_rows(&wanted.runs, UNIT_BYTES);
    let units = units.into_iter().map(|range| Unit::new(key, range)).collect();
    let mut parts = Vec::new();
    for range in index.ranges_of_indexes(&wanted.runs) {
        let start = range.start;
        parts.push((start, FetchedPart::InMemory(read(store, key, range).await?.into())));
    }
    Some((SegmentReader::of_parts(index, parts), units))
}

/// Brings the rows that tasks have begun without, those first that somebody waits for.
///
/// # Errors
/// If some cannot be had. All who wait are told.
pub fn bring(
    awaited: AwaitedState,
    store: Arc<dyn Store>,
    memory: StateMemory,
) -> impl Future<Output = Result<(), Failed>> {
    // Also if it is never polled.
    let waiting = Waiting(Arc::clone(&awaited.arrivals));
    async move {
        let brought = bring_all(awaited, store, memory).await;
        drop(waiting);
        brought
    }
}

async fn bring_all(awaited: AwaitedState, store: Arc<dyn Store>, memory: StateMemory) -> Result<(), Failed> {
    let arrivals = &awaited.arrivals.clone();
    let mut units: Vec<Option<Unit>> = awaited.into_units().into_iter().map(Some).collect();
    let mut under_way = FuturesUnordered::new();
    let (mut first, mut count) = (0, 0);
    loop {
        while under_way.len() < FETCHES && first < units.len() {
            let number = arrivals.urgent().filter(|number| *number < units.len()).unwrap_or_else(|| {
                first += 1;
                first - 1
            });
            // It may have been urgent before.
            if let Some(unit) = units[number].take().filter(Unit::is_needed) {
                under_way.push(fetch_unit(unit, Arc::clone(&store), memory.disk().clone()));
            }
        }
        match under_way.next().await {
            Some(Ok(())) => count += 1,
            Some(Err(failed)) => {
                let known = ["StateDamaged", "StoreUnavailable", LOCAL_DISK_FAILED];
                let kind = known.into_iter().find(|kind| failed.kind == *kind).unwrap_or("TaskFailed");
                let (message, is_permanent) = (failed.message.clone(), failed.is_permanent);
                arrivals.fail(NotFetched { message, kind, is_permanent });
                return Err(failed);
            }
            None if first >= units.len() => break,
            None => {}
        }
        arrivals.arrived();
    }
    info!(units = count, "all of the state is here");
    Ok(())
}

/// Ends all waiting when nobody brings anything any more.
struct Waiting(Arc<Arrivals>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let message = "the generation has ended".to_owned();
        self.0.fail(NotFetched { message, kind: "WorkerLost", is_permanent: false });
    }
}

async fn fetch_unit(unit: Unit, store: Arc<dyn Store>, disk: LocalDisk) -> Result<(), Failed> {
    let (key, range) = (unit.segment.clone(), unit.range.clone());
    let wanted = range.end - range.start;
    let bytes = store.get_range(&key, range).await;
    let bytes = bytes.map_err(|error| failed(&chain(&error), "StoreUnavailable", false))?;
    let Some(bytes) = bytes else { return Err(failed(&missing(store.as_ref(), &key), "StateDamaged", true)) };
    let damaged = |source| {
        let error = BuildError::Segment { key: key.clone(), source };
        failed(&chain(&error), error.kind(), error.is_permanent())
    };
    if bytes.len() as u64 != wanted {
        return Err(damaged(SegmentError::Truncated { bytes: bytes.len() }));
    }
    // Signs of life are sent on the threads of this task.
    let delivered = tokio::task::spawn_blocking(move || unit.deliver(&bytes, &disk)).await;
    match delivered {
        Ok(Ok(())) => Ok(()),
        Ok(Err(DeliverError::Segment { source })) => Err(damaged(source)),
        Ok(Err(DeliverError::Disk { source })) => Err(failed(&chain(&source), source.kind(), false)),
        Err(panic) => Err(failed(&format!("a task panicked: {panic}"), "TaskFailed", false)),
    }
}

/// The blocks that are needed; `None` if they are most of the segment and may be in memory, or anything is not as the checkpoint says:
/// fetched whole it tells what.
async fn parts(
    store: &dyn Store,
    key: &str,
    wanted: &Wanted,
    disk: Option<&LocalDisk>,
) -> Result<Option<SegmentReader<'static>>, Failed> {
    let Some(index) = index_of(store, key, wanted.bytes).await else { return Ok(None) };
    let ranges = index.ranges(&wanted.runs, disk.map_or(u64::MAX, |_| PIECE_BYTES));
    let needed: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if disk.is_none() && needed > wanted.bytes / 2 {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for range in ranges {
        let start = range.start;
        let Some(bytes) = read(store, key, range).await else { return Ok(None) };
        let part = match disk {
            None => FetchedPart::InMemory(bytes.into()),
            Some(disk) => {
                let piece = disk.write(&bytes);
                let piece = piece.map_err(|error| failed(&chain(&error), "LocalDiskFailed", false))?;
                FetchedPart::OnDisk(piece, bytes.len())
            }
        };
        parts.push((start, part));
    }
    Ok(Some(SegmentReader::of_parts(index, parts)))
}

async fn read(store: &dyn Store, key: &str, range: Range<u64>) -> Option<Vec<u8>> {
    let length = range.end - range.start;
    let part = store.get_range(key, range).await.ok().flatten()?;
    (part.len() as u64 == length).then_some(part)
}

/// The index at the end of a segment of so many bytes.
async fn index_of(store: &dyn Store, key: &str, bytes: u64) -> Option<SegmentIndex> {
    let mut tail_bytes = TAIL_BYTES.min(bytes);
    loop {
        let tail = read(store, key, bytes - tail_bytes..bytes).await?;
        match SegmentIndex::in_tail(&tail).ok()? {
            SegmentTail::Index(index) => return Some(index),
            SegmentTail::Longer(needed) => {
                let longer = (needed as u64).min(bytes);
                if longer <= tail_bytes {
                    return None;
                }
                tail_bytes = longer;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::Extent;
    use parking_lot::Mutex;

    use super::*;
    use crate::checkpoint::records::{Run, TableState};
    use crate::checkpoint::store::Created;
    use crate::checkpoint::{FolderStore, StoreError};
    use crate::state::{AwayRows, SegmentWriter, StateTable, StateType};

    /// Counts the bytes that are read.
    struct Counting(FolderStore, Mutex<u64>);

    #[async_trait::async_trait]
    impl Store for Counting {
        async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
            self.0.create(key, bytes).await
        }

        async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            let bytes = self.0.get(key).await?;
            *self.1.lock() += bytes.as_ref().map_or(0, Vec::len) as u64;
            Ok(bytes)
        }

        async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
            let bytes = self.0.get_range(key, range).await?;
            *self.1.lock() += bytes.as_ref().map_or(0, Vec::len) as u64;
            Ok(bytes)
        }

        async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
            self.0.list(prefix).await
        }

        async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
            self.0.delete(keys).await
        }

        fn location(&self) -> String {
            self.0.location()
        }
    }

    /// Keys that do not compress, in a segment with many blocks.
    fn segment_of(keys: u64, groups: MaxParallelism) -> (Vec<u8>, Run) {
        let mut table = StateTable::new([StateType::I64].into());
        for number in 0..keys {
            let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let key: Vec<u8> =
                (0..16).flat_map(|n| hash.rotate_left(n * 7).wrapping_mul(hash | 1).to_le_bytes()).collect();
            table.slot(hash, &key).unwrap();
        }
        let mut writer = SegmentWriter::new();
        let written = writer.add(&table.snapshot(Extent::Everything).unwrap(), groups).unwrap().unwrap();
        let bytes = writer.finish();
        let run = Run {
            segment: "segments/a".to_owned(),
            run: written.run,
            rows: written.rows,
            end_group: groups.groups(),
            offset: written.offset,
            length: written.length,
            segment_bytes: bytes.len() as u64,
            ..Run::default()
        };
        (bytes, run)
    }

    /// All there is, and none.
    fn memories(folder: &std::path::Path) -> [StateMemory; 2] {
        [StateMemory::unlimited(), StateMemory::new(0, LocalDisk::new(folder))]
    }

    fn deploy(run: Run, parallelism: u32) -> Deploy {
        let tables = vec![TableState { table: "t".to_owned(), namespace: 0, runs: vec![run] }];
        let restored = vec![SubtaskState { tables, ..SubtaskState::default() }];
        Deploy { restored, parallelism, ..Deploy::default() }
    }

    #[tokio::test]
    async fn only_the_blocks_of_the_slots_are_read_after_a_change_of_parallelism() {
        let groups = MaxParallelism::new(1024).unwrap();
        let (bytes, run) = segment_of(100_000, groups);
        let all = bytes.len() as u64;
        assert!(all > 8 << 20, "{all}");
        let folder = tempfile::tempdir().unwrap();
        let store = Counting(FolderStore::new(folder.path()), Mutex::new(0));
        store.create(&run.segment, bytes).await.unwrap();
        let mut seen = 0;
        for (slot, memory) in (0..8).flat_map(|slot| memories(folder.path()).map(|memory| (slot, memory))) {
            *store.1.lock() = 0;

            let restored =
                fetch(&deploy(run.clone(), 8), &[slot], groups, &store, HashMap::new(), &memory, u64::MAX)
                    .await
                    .unwrap();

            let read = *store.1.lock();
            assert!(read < all / 3, "slot {slot}: {read} of {all} bytes");
            let mine = groups.owned_by(Subtask(slot), 8);
            let count = |row: crate::state::BlockRow<'_>| {
                assert!(mine.contains(&groups.group_of(row.hash)));
                seen += 1;
                Some(())
            };
            restored.segments[&run.segment].read(run.run, &mine, groups, count).unwrap();
        }
        assert_eq!(seen, 2 * run.rows);
        for memory in memories(folder.path()) {
            *store.1.lock() = 0;
            let restored =
                fetch(&deploy(run.clone(), 1), &[0], groups, &store, HashMap::new(), &memory, u64::MAX)
                    .await
                    .unwrap();
            assert!(*store.1.lock() <= all + TAIL_BYTES, "all of it is read once");
            restored.segments[&run.segment].verify().unwrap();
        }
    }

    /// A table that begins with what is known of a segment's keys, and what is to bring their rows.
    async fn begun(store: &dyn Store, run: &Run, groups: MaxParallelism) -> (StateTable, AwaitedState) {
        let memory = StateMemory::unlimited();
        let deploy = deploy(run.clone(), 1);
        let restored = fetch(&deploy, &[0], groups, store, HashMap::new(), &memory, 1).await.unwrap();
        let (reader, awaited) = (&restored.segments[&run.segment], restored.awaited.unwrap());
        let mut table = StateTable::new([StateType::I64].into());
        let state = TableState { table: "t".to_owned(), namespace: 0, runs: vec![run.clone()] };
        for block in reader.indexed(run.run, &(0..groups.groups())).unwrap() {
            let mut attach = |rows: AwayRows, _: &[(u64, u32)]| Ok(table.attach(rows));
            awaited.attach(&mut attach, &state.runs[0].segment, &Arc::new(block), |_| true).unwrap();
        }
        (table, awaited)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keys_are_known_before_their_rows_are_there_and_who_needs_one_waits_for_it() {
        let groups = MaxParallelism::new(1024).unwrap();
        let (bytes, run) = segment_of(100_000, groups);
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderStore::new(folder.path()));
        store.create(&run.segment, bytes.clone()).await.unwrap();

        let (mut table, awaited) = begun(store.as_ref(), &run, groups).await;
        assert_eq!(table.len() as u64, run.rows);
        // Nobody brings anything yet.
        let asked = tokio::task::spawn_blocking(move || {
            let new = table.slot(7, b"none has this key").unwrap();
            let last = table.parts().last().unwrap().load().unwrap();
            let waited = table.read(0, |chunk, _| chunk.len()).unwrap();
            assert_eq!(waited, 1, "one row is read, once it is there");
            (table, new, last)
        });
        bring(awaited, store.clone(), StateMemory::unlimited()).await.unwrap();
        let (mut table, new, last) = asked.await.unwrap();
        assert!(!table.is_vacant(new) && last.len() == 1, "the new key is in a chunk of its own");

        table.remove(&[new]);
        let mut writer = SegmentWriter::new();
        writer.add(&table.snapshot(Extent::Everything).unwrap(), groups).unwrap();
        assert!(writer.finish() == bytes, "the same rows");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_waits_for_rows_that_cannot_be_had_is_told_why() {
        let groups = MaxParallelism::new(1024).unwrap();
        let (mut bytes, run) = segment_of(100_000, groups);
        bytes[1000] ^= 1;
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderStore::new(folder.path()));
        store.create(&run.segment, bytes).await.unwrap();
        let (table, awaited) = begun(store.as_ref(), &run, groups).await;
        let first = tokio::task::spawn_blocking(move || table.read(0, |_, _| ()));

        let failed = bring(awaited, store.clone(), StateMemory::unlimited()).await.unwrap_err();

        assert_eq!(failed.kind, "StateDamaged");
        assert!(failed.message.contains("segments/a") && failed.message.contains("checksum"), "{failed:?}");
        let error = first.await.unwrap().unwrap_err();
        assert_eq!(
            (error.to_string(), error.kind(), error.is_permanent()),
            (failed.message, "StateDamaged", true)
        );

        let (table, awaited) = begun(store.as_ref(), &run, groups).await;
        let waits = tokio::task::spawn_blocking(move || table.read(0, |_, _| ()));
        let missing = tempfile::tempdir().unwrap();
        let gone = Arc::new(FolderStore::new(missing.path()));
        let failed = bring(awaited, gone, StateMemory::unlimited()).await.unwrap_err();
        assert!(failed.kind == "StateDamaged" && failed.message.contains("is missing"), "{failed:?}");
        assert!(waits.await.unwrap().is_err());

        let (table, awaited) = begun(store.as_ref(), &run, groups).await;
        let waits = tokio::task::spawn_blocking(move || table.read(0, |_, _| ()));
        // The generation ends.
        drop(bring(awaited, store.clone(), StateMemory::unlimited()));
        let error = waits.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("has ended") && !error.is_permanent(), "{error}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_segment_is_told_whatever_is_needed_of_it() {
        let groups = MaxParallelism::new(1024).unwrap();
        let (bytes, run) = segment_of(20_000, groups);
        let cases = [
            ("cut", bytes[..bytes.len() / 2].to_vec(), "cut short"),
            ("nearly nothing left", bytes[..3].to_vec(), "cut short"),
            ("another end", [&bytes[..bytes.len() - 30], &[7; 30][..]].concat(), "cut short"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let memories = memories(folder.path());
        for ((what, damaged, words), memory) in
            cases.iter().flat_map(|case| memories.iter().map(move |memory| (case, memory)))
        {
            let folder = tempfile::tempdir().unwrap();
            let store = FolderStore::new(folder.path());
            store.create(&run.segment, damaged.clone()).await.unwrap();

            let failed =
                fetch(&deploy(run.clone(), 8), &[3], groups, &store, HashMap::new(), memory, u64::MAX)
                    .await
                    .err()
                    .unwrap();

            assert_eq!(failed.kind, "StateDamaged", "{what}: {failed:?}");
            assert!(
                failed.message.contains("segments/a") && failed.message.contains(words),
                "{what}: {failed:?}"
            );
        }
    }
}
