//! Makes a worker's part of a checkpoint durable: one segment object for all its tasks, and what its sinks prepared.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use snafu::{ResultExt, Snafu};
use xxhash_rust::xxh3::xxh3_64;

use super::retained::Retained;
use crate::checkpoint::records::{Run, SubtaskState, TableState};
use crate::checkpoint::store::Created;
use crate::checkpoint::{Store, StoreError, paths};
use crate::fault::{CrashPoint, Safeguards, crash_at};
use crate::model::{Epoch, Generation, MaxParallelism, WorkerId};
use crate::operator::OperatorTable;
use crate::rpc::Snapshot;
use crate::sink::{Committable, SinkError, Trouble};
use crate::state::{
    Extent, SegmentError, SegmentReader, SegmentWriter, SortedRows, StateError, TableImage, WrittenRun,
};
use crate::task::{SinkSnapshot, SubtaskImage, SubtaskKey, TaskSnapshot};

/// A segment that has come to so many bytes is stored, and the next one begun: it is in memory until then, and again when it is read
/// back.
const SEGMENT_BYTES: usize = 16 << 20;

/// A worker's part of a checkpoint could not be made durable.
#[derive(Debug, Snafu)]
pub enum SnapshotError {
    #[snafu(transparent)]
    Store { source: StoreError },
    #[snafu(display("failed to encode state"))]
    Encode { source: SegmentError },
    #[snafu(display("the segment '{key}' was not stored as it was written"))]
    Verify { key: String, source: SegmentError },
    #[snafu(display("the segment '{key}' is there already or cannot be read back"))]
    Taken { key: String },
    #[snafu(transparent)]
    Sink { source: SinkError },
    #[snafu(transparent)]
    Disk { source: StateError },
    #[snafu(display("what a sink has prepared is not durable yet: {why}"))]
    Waiting { why: String },
    #[snafu(display("a task has skipped the barrier of epoch {epoch}"))]
    Skipped { epoch: Epoch },
    #[snafu(display("an earlier checkpoint was not stored, and this one holds only what has changed since"))]
    Incomplete,
}

impl SnapshotError {
    /// True if trying again gives the same.
    pub fn is_permanent(&self) -> bool {
        match self {
            SnapshotError::Sink { source } => source.is_permanent(),
            SnapshotError::Disk { source } => source.is_permanent(),
            _ => false,
        }
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            SnapshotError::Sink { source } => source.kind(),
            SnapshotError::Disk { source } => source.kind(),
            SnapshotError::Store { .. } => "StoreUnavailable",
            _ => "CheckpointFailed",
        }
    }
}

/// An operator and subtask, and the name and namespace of a table.
type TableKey = ((usize, u32), String, i64);

/// Collects the snapshots of a worker's tasks, and knows which runs make up each subtask's state.
///
/// What a sink has prepared is named by every checkpoint until one that names it is complete: a checkpoint that fails while
/// the job runs on loses no rows.
pub struct Snapshots {
    store: Arc<dyn Store>,
    generation: Generation,
    worker: WorkerId,
    groups: MaxParallelism,
    tasks: usize,
    safeguards: Safeguards,
    waiting: BTreeMap<Epoch, Vec<TaskSnapshot>>,
    states: HashMap<(usize, u32), SubtaskState>,
    /// Of each table how much each of the last runs holds, of this generation. Those before them stay until everything is written.
    extents: HashMap<TableKey, Vec<Extent>>,
    /// What was prepared and is not known to be covered by a complete checkpoint: by operator, subtask, and epoch.
    prepared: HashMap<(usize, u32), BTreeMap<Epoch, Vec<Committable>>>,
    /// What sinks are still preparing, the oldest first.
    preparing: VecDeque<(Epoch, (usize, u32), SinkSnapshot)>,
    /// An upload has failed: what it held is in no segment, and only a full snapshot holds it again.
    is_broken: bool,
    retained: Retained,
}

impl Snapshots {
    /// `states` by operator and subtask, as restored.
    pub fn new(
        store: Arc<dyn Store>,
        generation: Generation,
        worker: WorkerId,
        groups: MaxParallelism,
        tasks: usize,
        safeguards: Safeguards,
        states: HashMap<(usize, u32), SubtaskState>,
    ) -> Self {
        Snapshots {
            store,
            generation,
            worker,
            groups,
            tasks,
            safeguards,
            waiting: BTreeMap::new(),
            states,
            extents: HashMap::new(),
            prepared: HashMap::new(),
            preparing: VecDeque::new(),
            is_broken: false,
            retained: Retained::default(),
        }
    }

    /// Keeps images of the state where later generations find them.
    pub fn keeping(self, retained: Retained) -> Self {
        Snapshots { retained, ..self }
    }

    /// Adds a task's snapshot; returns all of the epoch once the last one is in.
    ///
    /// # Errors
    /// If some task has skipped an earlier epoch: what the others have given for it cannot be kept.
    pub fn add(
        &mut self,
        snapshot: TaskSnapshot,
    ) -> Result<Option<(Epoch, Vec<TaskSnapshot>)>, SnapshotError> {
        let epoch = snapshot.epoch;
        let of_epoch = self.waiting.entry(epoch).or_default();
        of_epoch.push(snapshot);
        if of_epoch.len() < self.tasks {
            return Ok(None);
        }
        let complete = self.waiting.remove(&epoch).unwrap_or_default();
        match self.waiting.keys().find(|older| **older < epoch) {
            Some(older) => SkippedSnafu { epoch: *older }.fail(),
            None => Ok(Some((epoch, complete))),
        }
    }

    /// A checkpoint is complete and its sinks have committed: what it names need not be named again.
    pub fn completed(&mut self, epoch: Epoch) {
        self.retained.completed(epoch);
        for prepared in self.prepared.values_mut() {
            *prepared = prepared.split_off(&epoch.next());
        }
    }

    /// Waits for what sinks prepare, unless one is in trouble: then it is waited for again with the next epoch.
    async fn prepare(&mut self) -> Result<(), SnapshotError> {
        while let Some((epoch, owner, sink)) = self.preparing.front_mut() {
            let committables = tokio::select! {
                biased;
                committables = &mut sink.prepared => committables?,
                why = in_trouble(&mut sink.trouble) => return WaitingSnafu { why }.fail(),
            };
            let all = self.prepared.entry(*owner).or_default();
            all.insert(*epoch, committables);
            if let Some(known) = self.states.get_mut(owner) {
                known.committables = all.values().flatten().cloned().collect();
                known.rows = sink.rows;
                known.checksums = std::mem::take(&mut sink.checksums);
            }
            self.preparing.pop_front();
        }
        Ok(())
    }

    /// Uploads an epoch.
    ///
    /// # Errors
    /// The states are then unknown to the store in part, and the next snapshot must be full. After an error of a sink rows
    /// are lost in this generation, which must end.
    pub async fn upload(
        &mut self,
        epoch: Epoch,
        snapshots: Vec<TaskSnapshot>,
    ) -> Result<Snapshot, SnapshotError> {
        let stops = snapshots.iter().map(|snapshot| snapshot.stop.as_micros() as u64);
        let longest_stop_us = stops.max().unwrap_or_default();
        // First of all: what sinks have prepared must be known even if what follows fails and the job runs on.
        let mut snapshots = snapshots;
        for snapshot in &mut snapshots {
            for sink in snapshot.sinks.drain(..) {
                self.preparing.push_back((epoch, (sink.operator, snapshot.subtask), sink));
            }
        }
        if let Err(error) = self.prepare().await {
            self.is_broken = true;
            return Err(error);
        }
        crash_at(CrashPoint::SinksPrepared);
        let is_full = |snapshot: &TaskSnapshot| {
            snapshot
                .operators
                .iter()
                .all(|(_, state)| state.tables.iter().all(|table| table.extent == Extent::Everything))
        };
        if self.is_broken && !snapshots.iter().all(is_full) {
            return IncompleteSnafu.fail();
        }
        self.is_broken = true;
        let mut operators = Vec::new();
        for snapshot in snapshots {
            operators.extend(
                snapshot.operators.into_iter().map(|(operator, state)| ((operator, snapshot.subtask), state)),
            );
            for source in snapshot.sources {
                if let Some(known) = self.states.get_mut(&(source.operator, snapshot.subtask)) {
                    known.splits = source.splits;
                    known.rows = source.rows;
                }
            }
        }
        // Whatever order tasks have answered in.
        operators.sort_unstable_by_key(|(owner, _)| *owner);
        let mut images = HashMap::new();
        let mut segments = self.segments(epoch);
        let mut earlier_extents = std::mem::take(&mut self.extents);
        for (owner, state) in operators {
            let Some(known) = self.states.get_mut(&owner) else { continue };
            known.watermark = state.watermark.map(|time| time.0);
            known.late_rows = state.late_rows;
            let earlier = std::mem::take(&mut known.tables);
            let of_owner: &mut Vec<TableImage> = images.entry(owner).or_default();
            for table in state.tables {
                of_owner.push(table.snapshot.image.clone());
                let is_it =
                    |state: &&TableState| state.table == table.name && state.namespace == table.namespace;
                let mut runs = earlier.iter().find(is_it).map(|state| state.runs.clone()).unwrap_or_default();
                let key = (owner, table.name.to_string(), table.namespace);
                let mut extents = earlier_extents.remove(&key).unwrap_or_default();
                replace(&mut runs, &mut extents, table.extent);
                let new = segments.add(&table, known).await?;
                extents.resize(extents.len() + new.len(), table.extent);
                runs.extend(new);
                self.extents.insert(key, extents);
                known.tables.push(TableState {
                    table: table.name.into_owned(),
                    namespace: table.namespace,
                    runs,
                });
            }
        }
        segments.store().await?;
        crash_at(CrashPoint::StateStored);
        let runs = self.states.values_mut().flat_map(|state| &mut state.tables);
        for run in runs.flat_map(|table| &mut table.runs) {
            if let Some(bytes) = segments.stored.get(&run.segment) {
                run.segment_bytes = *bytes;
            }
        }
        let bytes = segments.stored.values().sum();
        self.is_broken = false;
        self.retained.keep(epoch, self.named(images));
        let mut subtasks: Vec<SubtaskState> = self.states.values().cloned().collect();
        subtasks.sort_by(|a, b| (&a.operator, a.subtask).cmp(&(&b.operator, b.subtask)));
        Ok(Snapshot { epoch: epoch.0, subtasks, bytes, failure: String::new(), longest_stop_us })
    }

    fn segments(&self, epoch: Epoch) -> Segments {
        Segments {
            store: Arc::clone(&self.store),
            key: Box::new({
                let (generation, worker) = (self.generation, self.worker);
                move |number| paths::segment(epoch, generation, worker, number)
            }),
            groups: self.groups,
            verifies: self.safeguards.verifies_segments,
            writer: SegmentWriter::new(),
            stored: BTreeMap::new(),
        }
    }

    /// Images beside what the checkpoint calls their tables.
    fn named(
        &self,
        images: HashMap<(usize, u32), Vec<TableImage>>,
    ) -> HashMap<SubtaskKey, Arc<SubtaskImage>> {
        let named = images.into_iter().filter_map(|(owner, images)| {
            let state = self.states.get(&owner)?;
            let tables = state.tables.iter().cloned().zip(images).collect();
            let image = SubtaskImage { groups: state.first_group..state.end_group, tables };
            Some(((state.operator.clone(), state.subtask), Arc::new(image)))
        });
        named.collect()
    }
}

/// Why a sink is in trouble, as soon as it is.
async fn in_trouble(trouble: &mut Option<Trouble>) -> String {
    if let Some(trouble) = trouble
        && let Ok(why) = trouble.wait_for(Option::is_some).await
    {
        return why.clone().unwrap_or_default();
    }
    std::future::pending().await
}

/// Writes the segment and reads it once back: a checkpoint that cannot be restored is none.
async fn store_segment(
    store: &dyn Store,
    key: &str,
    bytes: Vec<u8>,
    verifies: bool,
) -> Result<u64, SnapshotError> {
    // Not the bytes themselves: a large segment would be in memory twice.
    let (length, hash) = (bytes.len() as u64, xxh3_64(&bytes));
    let created = store.create(key, bytes).await?;
    if !verifies {
        return Ok(length);
    }
    let Some(stored) = store.get(key).await? else { return TakenSnafu { key }.fail() };
    if created == Created::Exists && (stored.len() as u64, xxh3_64(&stored)) != (length, hash) {
        return TakenSnafu { key }.fail();
    }
    SegmentReader::open(&stored).and_then(|reader| reader.verify()).context(VerifySnafu { key })?;
    Ok(length)
}

/// The segments of a worker and epoch, one after the other.
struct Segments {
    store: Arc<dyn Store>,
    /// Of a number.
    key: Box<dyn Fn(u64) -> String + Send + Sync>,
    groups: MaxParallelism,
    verifies: bool,
    /// The one that is being written.
    writer: SegmentWriter,
    /// Bytes of each that is stored.
    stored: BTreeMap<String, u64>,
}

impl Segments {
    /// Adds the rows of a table; gives its runs.
    async fn add(&mut self, table: &OperatorTable, owner: &SubtaskState) -> Result<Vec<Run>, SnapshotError> {
        let (mut runs, mut run) = (Vec::new(), None);
        let mut rows = SortedRows::new(&table.snapshot, self.groups);
        while let Some(turn) = rows.next_turn()? {
            let written = self.writer.add_turn(&turn, run).context(EncodeSnafu)?;
            run = Some(written);
            if self.writer.len() >= SEGMENT_BYTES {
                runs.push(self.run(written, owner));
                run = None;
                self.store().await?;
            }
            // Signs of life are sent on the same threads.
            tokio::task::yield_now().await;
        }
        runs.extend(run.map(|run| self.run(run, owner)));
        Ok(runs)
    }

    fn run(&self, written: WrittenRun, owner: &SubtaskState) -> Run {
        Run {
            segment: (self.key)(self.stored.len() as u64),
            run: written.run,
            rows: written.rows,
            first_group: owner.first_group,
            end_group: owner.end_group,
            offset: written.offset,
            length: written.length,
            // Known once the segment is finished.
            segment_bytes: 0,
        }
    }

    /// Stores what was written so far, if there is anything.
    async fn store(&mut self) -> Result<(), SnapshotError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let key = (self.key)(self.stored.len() as u64);
        let segment = std::mem::take(&mut self.writer).finish();
        let bytes = store_segment(self.store.as_ref(), &key, segment, self.verifies).await?;
        self.stored.insert(key, bytes);
        Ok(())
    }
}

/// Takes the runs away that a snapshot of an extent takes the place of. `extents` are those of the last runs; the ones before them are
/// in the place of everything.
fn replace(runs: &mut Vec<Run>, extents: &mut Vec<Extent>, by: Extent) {
    if by == Extent::Everything {
        runs.clear();
        extents.clear();
    }
    let is_replaced = |last: &mut Extent| match by {
        Extent::Changes | Extent::Everything => false,
        Extent::SinceMerge => *last == Extent::Changes,
        Extent::SinceBase => *last != Extent::Everything,
    };
    while extents.pop_if(is_replaced).is_some() {
        runs.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::OperatorSnapshot;
    use crate::state::{StateTable, StateType};
    use crate::task::SinkSnapshot;
    use async_trait::async_trait;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Refuses to create objects while it is told to.
    #[derive(Default)]
    struct Moody {
        fails: AtomicBool,
        objects: parking_lot::Mutex<BTreeMap<String, Vec<u8>>>,
    }

    #[async_trait]
    impl Store for Moody {
        async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(StoreError { action: "create".to_owned(), reason: "moody".to_owned() });
            }
            self.objects.lock().insert(key.to_owned(), bytes);
            Ok(Created::Yes)
        }

        async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.objects.lock().get(key).cloned())
        }

        async fn list(&self, _prefix: &str) -> Result<Vec<String>, StoreError> {
            Ok(Vec::new())
        }

        async fn delete(&self, _keys: &[String]) -> Result<(), StoreError> {
            Ok(())
        }

        fn location(&self) -> String {
            "memory".to_owned()
        }
    }

    fn snapshot(epoch: u64, is_full: bool) -> TaskSnapshot {
        let mut table = StateTable::new([StateType::I64].into());
        table.slot(epoch, b"key").unwrap();
        let extent = if is_full { Extent::Everything } else { Extent::Changes };
        let operator = OperatorSnapshot {
            watermark: None,
            late_rows: 0,
            tables: vec![OperatorTable {
                name: "t".into(),
                namespace: 0,
                snapshot: table.snapshot(extent).unwrap(),
                extent,
            }],
        };
        let prepared = async move { Ok(vec![vec![epoch as u8]]) }.boxed();
        TaskSnapshot {
            stop: std::time::Duration::ZERO,
            epoch: Epoch(epoch),
            chain: 0,
            subtask: 0,
            operators: vec![(0, operator)],
            sources: Vec::new(),
            sinks: vec![SinkSnapshot {
                operator: 1,
                prepared,
                trouble: None,
                rows: epoch,
                checksums: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_greater_extent_takes_the_place_of_smaller_ones_since_the_last_of_everything() {
        use Extent::{Changes, Everything, SinceBase, SinceMerge};
        let cases: &[(&[Extent], Extent, &[Extent])] = &[
            (&[], Changes, &[]),
            (&[Changes, Changes], Changes, &[Changes, Changes]),
            (&[SinceMerge, Changes, Changes], SinceMerge, &[SinceMerge]),
            (
                &[Everything, Everything, SinceBase, SinceMerge, Changes],
                SinceMerge,
                &[Everything, Everything, SinceBase, SinceMerge],
            ),
            (&[Everything, SinceBase, SinceMerge, Changes], SinceBase, &[Everything]),
            (&[SinceBase, SinceMerge, Changes], SinceBase, &[]),
            (&[Everything, SinceBase], Everything, &[]),
        ];
        for (extents, by, expected) in cases {
            // Two runs are of earlier generations.
            let named = |number: usize| Run { segment: number.to_string(), ..Run::default() };
            let mut runs: Vec<Run> = (0..2 + extents.len()).map(named).collect();
            let mut left = extents.to_vec();

            replace(&mut runs, &mut left, *by);

            assert_eq!(left, *expected, "{extents:?} by {by:?}");
            let kept = if *by == Everything { 0 } else { 2 + left.len() };
            assert_eq!(runs, (0..kept).map(named).collect::<Vec<_>>(), "{extents:?} by {by:?}");
        }
    }

    #[tokio::test]
    async fn a_sink_in_trouble_fails_checkpoints_until_it_is_well_and_loses_no_rows() {
        let states =
            (0..2).map(|operator| ((operator, 0), SubtaskState { end_group: 16, ..Default::default() }));
        let groups = MaxParallelism::new(16).unwrap();
        let (store, safeguards) = (Arc::new(Moody::default()), Safeguards::default());
        let mut snapshots =
            Snapshots::new(store, Generation(1), WorkerId(1), groups, 1, safeguards, states.collect());
        let (well, mut is_well) = tokio::sync::watch::channel(false);
        let (trouble, in_trouble) = tokio::sync::watch::channel(Some("503".to_owned()));
        let mut first = snapshot(1, true);
        let sink = first.sinks.first_mut().unwrap();
        sink.prepared = async move {
            is_well.wait_for(|is_well| *is_well).await.unwrap();
            Ok(vec![vec![1]])
        }
        .boxed();
        sink.trouble = Some(in_trouble);
        let add = |snapshots: &mut Snapshots, snapshot| snapshots.add(snapshot).unwrap().unwrap();
        let (epoch, complete) = add(&mut snapshots, first);

        let waiting = snapshots.upload(epoch, complete).await;
        assert!(waiting.as_ref().is_err_and(|error| error.to_string().contains("503")), "{waiting:?}");
        let (epoch, complete) = add(&mut snapshots, snapshot(2, true));
        assert!(snapshots.upload(epoch, complete).await.is_err(), "the first one is still not ready");

        trouble.send_replace(None);
        well.send_replace(true);
        let (epoch, complete) = add(&mut snapshots, snapshot(3, true));
        let complete = snapshots.upload(epoch, complete).await.unwrap();
        let state = complete.subtasks.iter().find(|state| !state.committables.is_empty()).unwrap();
        assert_eq!((state.committables.as_slice(), state.rows), (&[vec![1], vec![2], vec![3]][..], 3));
    }

    #[tokio::test]
    async fn an_error_of_a_sink_is_told_whatever_failed_before() {
        let states = [((1, 0), SubtaskState { end_group: 16, ..Default::default() })];
        let groups = MaxParallelism::new(16).unwrap();
        let (store, safeguards) = (Arc::new(Moody::default()), Safeguards::default());
        store.fails.store(true, Ordering::Relaxed);
        let mut snapshots =
            Snapshots::new(store, Generation(1), WorkerId(1), groups, 1, safeguards, states.into());
        snapshots.is_broken = true;
        let mut failing = snapshot(1, false);
        let error = SinkError::Data { message: "refused".to_owned() };
        failing.sinks[0].prepared = async move { Err(error) }.boxed();
        let (epoch, complete) = snapshots.add(failing).unwrap().unwrap();

        let ended = snapshots.upload(epoch, complete).await;

        assert!(matches!(ended, Err(SnapshotError::Sink { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_failed_checkpoint_loses_neither_prepared_rows_nor_state() {
        let store = Arc::new(Moody::default());
        let states =
            (0..2).map(|operator| ((operator, 0), SubtaskState { end_group: 16, ..Default::default() }));
        let groups = MaxParallelism::new(16).unwrap();
        let mut snapshots = Snapshots::new(
            store.clone(),
            Generation(1),
            WorkerId(1),
            groups,
            1,
            Safeguards::default(),
            states.collect(),
        );
        let named = |answer: Snapshot| -> Vec<Vec<u8>> {
            answer.subtasks.iter().flat_map(|state| state.committables.clone()).collect()
        };
        let upload = async |snapshots: &mut Snapshots, epoch: u64, is_full: bool| {
            let (epoch, complete) = snapshots.add(snapshot(epoch, is_full)).unwrap().unwrap();
            snapshots.upload(epoch, complete).await
        };

        store.fails.store(true, Ordering::Relaxed);
        assert!(upload(&mut snapshots, 1, true).await.is_err());
        store.fails.store(false, Ordering::Relaxed);
        // It was taken before anybody knew that the first one would fail.
        let incomplete = upload(&mut snapshots, 2, false).await;
        assert!(matches!(incomplete, Err(SnapshotError::Incomplete)), "{incomplete:?}");
        let complete = upload(&mut snapshots, 3, true).await.unwrap();
        let tables = complete.subtasks.iter().flat_map(|state| &state.tables);
        let segments: Vec<&str> =
            tables.flat_map(|table| &table.runs).map(|run| run.segment.as_str()).collect();
        assert_eq!(segments, [paths::segment(Epoch(3), Generation(1), WorkerId(1), 0)]);
        assert_eq!(named(complete), [[1], [2], [3]]);
        snapshots.completed(Epoch(3));
        assert_eq!(named(upload(&mut snapshots, 4, false).await.unwrap()), [[4]]);
    }
}
