//! Aggregates per key and session: rows of a key are together while no gap between their times is longer than the session's.
//!
//! A session is a row of a state table, under its key and the time of its first row. Sessions of one key are linked, and those
//! that a row connects become one. Each session is noted once at a time that is not after its end; when the watermark comes
//! there, it has ended, or is noted again at the end that it has by then. So a row of an open session costs no timer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, NullArray, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};
use hashbrown::HashTable;
use millrace_sql::plan::SessionAggregate as Plan;
use snafu::{OptionExt, ResultExt, ensure};

use super::accumulator::{Accumulator, Rows, prepare_behind};
use super::kept::Kept;
use super::{
    Collector, ComputeSnafu, NoTimeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot,
    PlanSnafu, Progress, StateSnafu, in_table,
};
use crate::model::key_encoding::{decode, encode};
use crate::model::key_group::{hash_of, hash_within};
use crate::model::{Batch, EventTime};
use crate::state::{
    AwayRows, BlockRow, Chunk, ColdChunk, LocalDisk, StateColumn, StateTable, StateType, TableImage,
};

/// Name of the state table. Its columns are start and end, then the states of the aggregates.
const SESSIONS: &str = "sessions";
const BOUNDS: usize = 2;

/// Bytes behind a key: the time of the session's first row.
const ID_BYTES: usize = 8;

/// Sessions emitted before the driver may send them on and look at barriers.
const SESSIONS_PER_TURN: usize = 16 * 1024;

/// A key's entry is a session's slot, or this and the number of an index of many.
const MANY: u32 = 1 << 31;

/// Open sessions of one key, by their identities. They do not touch each other, and an identity is a time within its session: their
/// order is that of their starts, and of their ends.
type Index = BTreeMap<i64, u32>;

/// The hash of a key, and where its sessions are.
#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    of: u32,
}

/// Finds sessions and ends them.
pub struct SessionAggregate {
    plan: Plan,
    keys: Vec<usize>,
    accumulators: Vec<Accumulator>,
    sessions: Kept,
    /// The session of each key, or where all of them are.
    first: HashTable<Entry>,
    /// Of keys with several sessions; those that are empty are used again.
    many: Vec<Index>,
    unused: Vec<u32>,
    /// Sessions to look at when the watermark is there. Slots without a key are of sessions that became part of others.
    due: BTreeMap<i64, Vec<u32>>,
    /// The table was restored, and what finds its rows was not made anew.
    is_restored: bool,
    watermark: EventTime,
    late_rows: u64,
    output: SchemaRef,
}

/// Where a row belongs.
enum Home {
    Late,
    New,
    One(u32),
    /// The row closes the gap between two.
    Two(u32, u32),
}

impl SessionAggregate {
    /// Prepares the aggregates.
    pub fn new(plan: &Plan) -> Result<Self, OperatorError> {
        let (accumulators, layout) = prepare_behind(&[StateType::I64; BOUNDS], &plan.aggregates)?;
        if plan.gap_ms <= 0 {
            return PlanSnafu { message: "a session without a gap" }.fail();
        }
        Ok(SessionAggregate {
            keys: plan.keys.iter().map(|key| *key as usize).collect(),
            accumulators,
            sessions: Kept::new(StateTable::new(layout).noting_moves()),
            first: HashTable::new(),
            many: Vec::new(),
            unused: Vec::new(),
            due: BTreeMap::new(),
            is_restored: false,
            watermark: EventTime::MIN,
            late_rows: 0,
            output: plan.output_schema().to_arrow(),
            plan: plan.clone(),
        })
    }

    /// Bytes of what finds sessions, roughly.
    fn finding_bytes(&self) -> usize {
        let in_many: usize = self.many.iter().map(|index| index.len() * 16).sum();
        in_many + self.first.capacity() * 17 + self.sessions.table.len() * 8
    }

    fn is_ended(&self, end: i64) -> bool {
        end.saturating_sub(1) <= self.watermark.0
    }

    /// Which sessions of a key a row at this time is in. Sessions that touch are one, as in Flink.
    fn home(&mut self, hash: u64, key: &[u8], time: i64) -> Result<Home, OperatorError> {
        let end = time.saturating_add(self.plan.gap_ms);
        // Of all sessions only the last one before the row and the first one after it can be near: a third would be farther than
        // one of them is long.
        let near = match self.entry_of(hash, key)? {
            None => [None, None],
            Some(entry) if entry & MANY == 0 => [Some(entry), None],
            Some(entry) => {
                let index = &self.many[(entry & !MANY) as usize];
                let before = index.range(..=time).next_back();
                let after = index.range((Bound::Excluded(time), Bound::Unbounded)).next();
                [before.map(|(_, slot)| *slot), after.map(|(_, slot)| *slot)]
            }
        };
        let mut found = Home::New;
        for slot in near.into_iter().flatten() {
            let slot = self.warm(slot)?;
            let (start, until) = bounds(&self.sessions.table, slot);
            if start <= end && until >= time {
                found = match found {
                    Home::One(other) => Home::Two(other, slot),
                    _ => Home::One(slot),
                };
            }
        }
        Ok(if matches!(found, Home::New) && self.is_ended(end) { Home::Late } else { found })
    }

    /// Where the sessions of a key are.
    fn entry_of(&self, hash: u64, key: &[u8]) -> Result<Option<u32>, OperatorError> {
        for entry in self.first.iter_hash(hash).filter(|entry| entry.hash == hash) {
            let is_key = |chunk: &Chunk, offset| without_id(chunk.keys.key(offset)) == key;
            if self.sessions.table.read(any(&self.many, entry.of), is_key)? {
                return Ok(Some(entry.of));
            }
        }
        Ok(None)
    }

    /// A session in memory: its slot, or a new one.
    fn warm(&mut self, slot: u32) -> Result<u32, OperatorError> {
        let warm = self.sessions.table.warm(slot)?;
        self.note_moves();
        Ok(warm)
    }

    /// Sessions have other slots than before.
    fn note_moves(&mut self) {
        for (from, to) in self.sessions.table.take_moves() {
            self.relocate(from, to);
            let (_, end) = bounds(&self.sessions.table, to);
            self.due.entry(end).or_default().push(to);
        }
    }

    fn relocate(&mut self, from: u32, to: u32) {
        let hash = hash_of(key_of(&self.sessions.table, to));
        let id = id_of(&self.sessions.table, to);
        let many = &mut self.many;
        let is_of = |entry: &Entry| entry.hash == hash && is_of(many, entry.of, id, from);
        let Some(entry) = self.first.find_mut(hash, is_of) else { return };
        if entry.of & MANY == 0 {
            entry.of = to;
        } else {
            many[(entry.of & !MANY) as usize].insert(id, to);
        }
    }

    /// Begins a session.
    fn open(&mut self, hash: u64, key: &[u8], time: i64) -> Result<u32, OperatorError> {
        let mut name = key.to_vec();
        name.extend(time.to_be_bytes());
        let slot = self.sessions.table.slot(hash_within(hash, &name), &name)?;
        self.note_moves();
        let end = time.saturating_add(self.plan.gap_ms);
        set_bounds(&mut self.sessions.table, slot, time, end);
        self.link(hash, slot, time)?;
        self.due.entry(end).or_default().push(slot);
        Ok(slot)
    }

    fn link(&mut self, hash: u64, slot: u32, id: i64) -> Result<(), OperatorError> {
        let mut entry = None;
        if self.first.iter_hash(hash).any(|entry| entry.hash == hash) {
            let key = |chunk: &Chunk, offset: usize| without_id(chunk.keys.key(offset)).to_vec();
            entry = self.entry_of(hash, &self.sessions.table.read(slot, key)?)?;
        }
        let Some(of) = entry else {
            self.first.insert_unique(hash, Entry { hash, of: slot }, |entry| entry.hash);
            return Ok(());
        };
        let many = &mut self.many;
        if of & MANY == 0 {
            let other = self.sessions.table.read(of, |chunk, offset| id_in(chunk.keys.key(offset)))?;
            let number = self.unused.pop().unwrap_or_else(|| {
                many.push(Index::new());
                many.len() as u32 - 1
            });
            many[number as usize] = Index::from([(other, of), (id, slot)]);
            if let Some(entry) = self.first.find_mut(hash, |entry| entry.hash == hash && entry.of == of) {
                entry.of = number | MANY;
            }
        } else {
            many[(of & !MANY) as usize].insert(id, slot);
        }
        Ok(())
    }

    /// Forgets where a session is.
    fn unlink(&mut self, slot: u32) {
        let hash = hash_of(key_of(&self.sessions.table, slot));
        let id = id_of(&self.sessions.table, slot);
        let many = &mut self.many;
        let is_of = |entry: &Entry| entry.hash == hash && is_of(many, entry.of, id, slot);
        let Ok(mut found) = self.first.find_entry(hash, is_of) else { return };
        let of = found.get().of;
        if of & MANY == 0 {
            found.remove();
            return;
        }
        let index = &mut many[(of & !MANY) as usize];
        index.remove(&id);
        if index.len() == 1
            && let Some((_, last)) = index.pop_first()
        {
            found.get_mut().of = last;
            self.unused.push(of & !MANY);
        }
    }

    /// Makes two sessions one, in the place of the first.
    fn join(&mut self, into: u32, from: u32) -> Result<(), OperatorError> {
        let table = &mut self.sessions.table;
        let other = table.gather(&[from]);
        let ((start, end), (other_start, other_end)) = (bounds(table, into), bounds(table, from));
        set_bounds(table, into, start.min(other_start), end.max(other_end));
        // Accumulators look for their states behind the bounds.
        let bounds: ArrayRef = Arc::new(NullArray::new(1));
        let mut states = vec![bounds; BOUNDS];
        for accumulator in &self.accumulators {
            states.extend(accumulator.states(&other)?);
        }
        let mut chunks = table.write(&[into]);
        for accumulator in &self.accumulators {
            accumulator.merge(&states, &[0], &[into], &mut chunks)?;
        }
        self.unlink(from);
        self.sessions.table.remove(&[from]);
        Ok(())
    }

    fn add(
        &mut self,
        columns: &[ArrayRef],
        rows: &mut Vec<u32>,
        slots: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        let mut chunks = self.sessions.table.write(slots);
        for accumulator in &self.accumulators {
            accumulator.add(columns, Rows { rows, slots, signs: None }, &mut chunks)?;
        }
        rows.clear();
        slots.clear();
        Ok(())
    }

    /// Takes sessions that have ended out of those that are due, each once.
    fn ended(&mut self) -> Result<Vec<u32>, OperatorError> {
        let mut ended = Vec::new();
        while ended.len() < SESSIONS_PER_TURN
            && let Some(entry) = self.due.first_entry()
            && entry.key().saturating_sub(1) <= self.watermark.0
        {
            let mut slots = entry.remove();
            // A slot that was another session's before may be due for both.
            slots.sort_unstable();
            slots.dedup();
            for slot in slots {
                if self.sessions.table.is_vacant(slot) {
                    continue;
                }
                let warm = self.sessions.table.warm(slot)?;
                for (from, to) in self.sessions.table.take_moves() {
                    self.relocate(from, to);
                }
                let (_, end) = bounds(&self.sessions.table, warm);
                if self.is_ended(end) {
                    ended.push(warm);
                } else {
                    self.due.entry(end).or_default().push(warm);
                }
            }
        }
        ended.sort_unstable();
        ended.dedup();
        Ok(ended)
    }

    fn emit(&self, slots: &[u32], out: &mut dyn Collector) -> Result<(), OperatorError> {
        let chunk = self.sessions.table.gather(slots);
        let keys = (0..chunk.len()).map(|slot| chunk.keys.key(slot)).map(|key| &key[..key.len() - ID_BYTES]);
        let mut columns = decode(&self.plan.key_fields, keys)?;
        let (StateColumn::I64(starts, _), StateColumn::I64(ends, _)) = (&chunk.columns[0], &chunk.columns[1])
        else {
            return StateSnafu { table: SESSIONS }.fail();
        };
        let times = |times: Vec<i64>| Arc::new(TimestampMillisecondArray::from(times)) as ArrayRef;
        let last = ends.iter().map(|end| end - 1).collect();
        columns.extend([times(starts.clone()), times(ends.clone()), times(last)]);
        for accumulator in &self.accumulators {
            columns.push(accumulator.results(&chunk)?);
        }
        let records = RecordBatch::try_new(self.output.clone(), columns).context(ComputeSnafu)?;
        out.batch(Batch { records, kinds: None, hashes: None })
    }

    /// Makes anew what finds sessions, after a restore.
    fn find_all(&mut self) -> Result<(), OperatorError> {
        self.first.clear();
        self.many.clear();
        self.unused.clear();
        self.due.clear();
        self.sessions.table.take_moves();
        let mut all = Vec::with_capacity(self.sessions.table.len());
        self.sessions.table.each_slot(|slot, chunk, offset| {
            let key = chunk.keys.key(offset);
            all.push((slot, hash_of(without_id(key)), id_in(key), bounds_in(chunk, offset)));
        })?;
        for (slot, hash, id, (_, end)) in all {
            self.link(hash, slot, id)?;
            self.due.entry(end).or_default().push(slot);
        }
        self.is_restored = false;
        Ok(())
    }
}

/// The newest of the sessions of an entry, which is the likeliest to be in memory.
fn any(many: &[Index], of: u32) -> u32 {
    match of & MANY {
        0 => of,
        // An index has two sessions at least.
        _ => many[(of & !MANY) as usize].last_key_value().map_or(0, |(_, slot)| *slot),
    }
}

/// True if a session is one of an entry.
fn is_of(many: &[Index], of: u32, id: i64, slot: u32) -> bool {
    match of & MANY {
        0 => of == slot,
        _ => many[(of & !MANY) as usize].get(&id) == Some(&slot),
    }
}

/// The identity of a session among those of its key: the time of its first row.
fn id_of(table: &StateTable, slot: u32) -> i64 {
    let (chunk, offset) = table.at(slot);
    id_in(chunk.keys.key(offset))
}

/// The key of a session, without its time.
fn key_of(table: &StateTable, slot: u32) -> &[u8] {
    let (chunk, offset) = table.at(slot);
    without_id(chunk.keys.key(offset))
}

fn id_in(name: &[u8]) -> i64 {
    name.last_chunk::<ID_BYTES>().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn without_id(name: &[u8]) -> &[u8] {
    &name[..name.len().saturating_sub(ID_BYTES)]
}

fn bounds(table: &StateTable, slot: u32) -> (i64, i64) {
    let (chunk, offset) = table.at(slot);
    bounds_in(chunk, offset)
}

fn bounds_in(chunk: &Chunk, offset: usize) -> (i64, i64) {
    match (&chunk.columns[0], &chunk.columns[1]) {
        (StateColumn::I64(starts, _), StateColumn::I64(ends, _)) => (starts[offset], ends[offset]),
        // The layout begins with both.
        _ => (i64::MAX, i64::MIN),
    }
}

fn set_bounds(table: &mut StateTable, slot: u32, start: i64, end: i64) {
    let (chunk, offset) = table.write_one(slot);
    for (column, value) in chunk.columns.iter_mut().zip([start, end]) {
        if let StateColumn::I64(values, valid) = column {
            values[offset] = value;
            valid[offset] = true;
        }
    }
}

impl Operator for SessionAggregate {
    fn process(&mut self, batch: Batch, _: &mut dyn Collector) -> Result<(), OperatorError> {
        if self.is_restored {
            self.find_all()?;
        }
        let columns = batch.records.columns();
        let key_columns: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(&columns[*key])).collect();
        let keys = encode(&key_columns, batch.rows())?;
        let times = columns[self.plan.time as usize].as_primitive::<TimestampMillisecondType>();
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        ensure!(times.null_count() == 0, NoTimeSnafu);
        for row in 0..batch.rows() {
            let (key, time) = (keys.key(row), times.value(row));
            let hash = batch.hashes.as_ref().map_or_else(|| hash_of(key), |hashes| hashes[row]);
            let end = time.saturating_add(self.plan.gap_ms);
            let slot = match self.home(hash, key, time)? {
                Home::Late => {
                    self.late_rows += 1;
                    continue;
                }
                Home::New => self.open(hash, key, time)?,
                Home::One(slot) => slot,
                Home::Two(into, from) => {
                    self.add(columns, &mut rows, &mut slots)?;
                    self.join(into, from)?;
                    into
                }
            };
            let (start, until) = bounds(&self.sessions.table, slot);
            if time < start || end > until {
                set_bounds(&mut self.sessions.table, slot, start.min(time), until.max(end));
            }
            rows.push(row as u32);
            slots.push(slot);
        }
        self.add(columns, &mut rows, &mut slots)
    }

    fn watermark(&mut self, time: EventTime, out: &mut dyn Collector) -> Result<Progress, OperatorError> {
        if self.is_restored {
            self.find_all()?;
        }
        self.watermark = self.watermark.max(time);
        let ended = self.ended()?;
        if ended.is_empty() {
            return Ok(Progress::Done);
        }
        self.emit(&ended, out)?;
        ended.iter().for_each(|slot| self.unlink(*slot));
        self.sessions.table.remove(&ended);
        self.sessions.table.compact()?;
        self.note_moves();
        Ok(Progress::More)
    }

    fn snapshot(&mut self, is_full: bool) -> Result<OperatorSnapshot, OperatorError> {
        let tables = vec![self.sessions.snapshot(SESSIONS, 0, is_full)?];
        Ok(OperatorSnapshot { tables, watermark: Some(self.watermark), late_rows: self.late_rows })
    }

    fn restore_watermark(&mut self, time: EventTime, late_rows: u64) {
        self.watermark = self.watermark.max(time);
        self.late_rows = late_rows;
    }

    fn restore(&mut self, table: &str, _: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        self.is_restored = true;
        ensure!(table == SESSIONS && row.key.len() >= ID_BYTES, StateSnafu { table });
        self.sessions.restore(&row).map_err(in_table(table))
    }

    fn attach(
        &mut self,
        table: &str,
        _: i64,
        rows: AwayRows,
        removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        self.is_restored = true;
        ensure!(table == SESSIONS, StateSnafu { table });
        Ok(self.sessions.attach(rows, removed))
    }

    fn roll_back(&mut self, table: &str, _: i64, image: &TableImage) -> Result<(), OperatorError> {
        self.is_restored = true;
        let kept = (table == SESSIONS).then_some(&mut self.sessions);
        kept.and_then(|kept| kept.roll_back(image)).context(StateSnafu { table })
    }

    fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<(), OperatorError> {
        self.sessions.table.spill(bytes, disk)?;
        if !self.is_restored {
            self.note_moves();
        }
        Ok(())
    }

    fn warm_up(&mut self, bytes: usize) -> Result<(), OperatorError> {
        Ok(self.sessions.table.warm_up(bytes)?)
    }

    fn memory_bytes(&self) -> usize {
        self.sessions.table.memory_len() + self.finding_bytes()
    }

    fn figures(&self) -> OperatorFigures {
        let state_bytes = (self.sessions.table.byte_len() + self.finding_bytes()) as u64;
        OperatorFigures { late_rows: self.late_rows, state_bytes }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use millrace_sql::plan::{Aggregate, AggregateFunction, DataType, Field, TypeKind};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::model::{KeyGroups, MaxParallelism};
    use crate::state::{SegmentReader, SegmentWriter};

    #[derive(Default)]
    struct Given(Vec<String>);

    impl Collector for Given {
        fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
            let text = |column: &ArrayRef, row| match column.data_type() {
                arrow::datatypes::DataType::Timestamp(..) => {
                    column.as_primitive::<TimestampMillisecondType>().value(row).to_string()
                }
                _ => arrow::util::display::array_value_to_string(column, row).unwrap(),
            };
            for row in 0..batch.rows() {
                let values: Vec<String> =
                    batch.records.columns().iter().map(|column| text(column, row)).collect();
                self.0.push(values.join(","));
            }
            self.0.sort();
            Ok(())
        }
    }

    fn operator() -> SessionAggregate {
        let bigint = || Some(DataType::simple(TypeKind::BigInt));
        let sum = Aggregate {
            function: AggregateFunction::Sum.into(),
            argument: Some(2),
            argument_type: bigint(),
            result_type: bigint(),
            ..Default::default()
        };
        let plan = Plan {
            keys: vec![1],
            time: 0,
            gap_ms: GAP,
            aggregates: vec![sum],
            key_fields: vec![Field::new("k", DataType::simple(TypeKind::String))],
        };
        SessionAggregate::new(&plan).unwrap()
    }

    const GAP: i64 = 10;

    fn rows(rows: &[(i64, &str, i64)]) -> Batch {
        let times: ArrayRef =
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|(time, ..)| *time)));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, key, _)| *key)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., value)| *value)));
        let records = RecordBatch::try_from_iter([("t", times), ("k", keys), ("v", values)]).unwrap();
        Batch { records, kinds: None, hashes: None }
    }

    fn advance(operator: &mut SessionAggregate, time: i64) -> Vec<String> {
        let mut given = Given::default();
        while operator.watermark(EventTime(time), &mut given).unwrap() == Progress::More {}
        given.0
    }

    /// What a checkpoint makes of an operator: its whole state and then changes, put into a new one.
    fn restored(snapshots: Vec<OperatorSnapshot>) -> SessionAggregate {
        let groups = MaxParallelism::new(4).unwrap();
        let mut operator = operator();
        for snapshot in snapshots {
            operator.restore_watermark(snapshot.watermark.unwrap(), snapshot.late_rows);
            let mut writer = SegmentWriter::new();
            let Some(run) = writer.add(&snapshot.tables[0].snapshot, groups).unwrap() else { continue };
            let bytes = writer.finish();
            let all: KeyGroups = 0..4;
            let put = |row: BlockRow<'_>| operator.restore(SESSIONS, 0, row).ok();
            SegmentReader::open(&bytes).unwrap().read(run.run, &all, groups, put).unwrap();
        }
        operator
    }

    #[test]
    fn rows_are_together_while_no_gap_is_longer() {
        type Step<'a> = (&'a [(i64, &'a str, i64)], i64, &'a [&'a str]);
        let steps: &[Step<'_>] = &[
            // Rows; the watermark that follows; sessions that end then: key, start, end, end - 1, sum.
            (&[(100, "a", 1), (105, "a", 2), (103, "b", 4)], 112, &["b,103,113,112,4"]),
            // As long as the gap is not longer: still the same session.
            (&[(115, "a", 4)], 123, &[]),
            (&[], 124, &["a,100,125,124,7"]),
            // Two sessions that a third row makes one, in one batch and over several.
            (&[(150, "a", 1), (170, "a", 2), (160, "a", 4), (200, "b", 1), (219, "b", 2)], 150, &[]),
            (&[(210, "b", 4)], 230, &["a,150,180,179,7", "b,200,229,228,7"]),
            // Too late to begin a session, and not too late for one that is open.
            (&[(219, "a", 1), (235, "b", 1)], 230, &[]),
            (&[(226, "b", 2)], 244, &["b,226,245,244,3"]),
        ];
        let mut operator = operator();
        for (batch, watermark, ended) in steps {
            if !batch.is_empty() {
                operator.process(rows(batch), &mut Given::default()).unwrap();
            }

            assert_eq!(advance(&mut operator, *watermark), *ended, "{batch:?} to {watermark}");
        }
        assert_eq!(operator.figures().late_rows, 1);
        assert!(operator.sessions.table.is_empty());
        assert!(operator.first.is_empty() && operator.due.is_empty());
    }

    #[test]
    fn sessions_go_on_after_a_restore_from_changes() {
        let mut operator = operator();
        operator
            .process(rows(&[(1, "a", 1), (20, "a", 2), (5, "b", 4), (40, "c", 1)]), &mut Given::default())
            .unwrap();
        let first = operator.snapshot(false).unwrap();
        operator.process(rows(&[(11, "a", 8), (45, "c", 2)]), &mut Given::default()).unwrap();
        assert_eq!(advance(&mut operator, 14), ["b,5,15,14,4"]);
        let second = operator.snapshot(false).unwrap();

        let mut restored = restored(vec![first, second]);
        restored.process(rows(&[(12, "b", 1), (30, "a", 16)]), &mut Given::default()).unwrap();

        let ended = advance(&mut restored, i64::MAX);
        assert_eq!(ended, ["a,1,40,39,27", "b,12,22,21,1", "c,40,55,54,3"]);
    }

    #[test]
    fn many_sessions_leave_nothing_behind() {
        let mut operator = operator();
        let mut sums = 0;
        for round in 0..20 {
            let names: Vec<String> = (0..500).map(|n| format!("{}", n + round % 3)).collect();
            let batch: Vec<(i64, &str, i64)> =
                names.iter().map(|name| (round * 100, name.as_str(), 1)).collect();
            operator.process(rows(&batch), &mut Given::default()).unwrap();
            sums += advance(&mut operator, round * 100 + 9).len();
        }

        assert_eq!(sums, 20 * 500);
        assert!(operator.sessions.table.is_empty());
        assert!(operator.first.is_empty() && operator.many.is_empty());
    }

    /// Rows of many keys, and keys of many sessions, beside a plain computation, while chunks go to the disk and slots are given up.
    #[test]
    fn sessions_are_the_same_wherever_their_rows_are() {
        let folder = tempfile::tempdir().unwrap();
        for seed in 0..4 {
            let mut random = StdRng::seed_from_u64(seed);
            let disk = LocalDisk::new(folder.path());
            let mut operator = operator();
            let mut expected: BTreeMap<String, Vec<(i64, i64, i64)>> = BTreeMap::new();
            let (mut found, mut now) = (Vec::new(), 0);
            let mut is_spilled = false;
            for round in 0..60 {
                // Few keys come for long, and many once; now and then nearly all sessions end together.
                let keys = [40, 3_000, 30_000][random.random_range(0..3)];
                let batch: Vec<(i64, String, i64)> = (0..random.random_range(1..4_000))
                    .map(|_| {
                        let key = format!("k{}", random.random_range(0..keys));
                        // No row touches a session that has ended.
                        (now + random.random_range(1..300), key, random.random_range(0..10))
                    })
                    .collect();
                for (time, key, value) in &batch {
                    expected.entry(key.clone()).or_default().push((*time, *time + GAP, *value));
                }
                let borrowed: Vec<_> = batch.iter().map(|(t, key, v)| (*t, key.as_str(), *v)).collect();
                operator.process(rows(&borrowed), &mut Given::default()).unwrap();
                if random.random_range(0..3) != 0 {
                    let before = operator.memory_bytes();
                    operator.spill(random.random_range(0..2_000_000), &disk).unwrap();
                    is_spilled |= operator.memory_bytes() < before;
                }
                if random.random_range(0..4) == 0 {
                    operator.warm_up(100_000).unwrap();
                }
                now += [0, 50, 100, 400][random.random_range(0..4)];
                found.extend(advance(&mut operator, now - 1));
                if round % 7 == 0 {
                    operator.snapshot(false).unwrap();
                }
            }
            found.extend(advance(&mut operator, i64::MAX));
            let mut sessions = Vec::new();
            for (key, mut of_key) in expected {
                of_key.sort_unstable();
                let mut merged: Vec<(i64, i64, i64)> = Vec::new();
                for (start, end, value) in of_key {
                    match merged.last_mut().filter(|(_, until, _)| *until >= start) {
                        Some((_, until, sum)) => (*until, *sum) = (end.max(*until), *sum + value),
                        None => merged.push((start, end, value)),
                    }
                }
                let row =
                    |(start, end, sum): (i64, i64, i64)| format!("{key},{start},{end},{},{sum}", end - 1);
                sessions.extend(merged.into_iter().map(row));
            }
            sessions.sort();
            found.sort();
            let differs = sessions.iter().zip(&found).find(|(expected, found)| expected != found);
            assert_eq!((found.len(), differs), (sessions.len(), None), "seed {seed}");
            assert!(is_spilled && found.len() > 10_000 && operator.late_rows == 0);
            assert!(operator.first.is_empty() && operator.sessions.table.is_empty());
        }
    }

    /// Of one key in any order, with gaps to be closed, beside all sessions that a plain computation finds.
    #[test]
    fn many_sessions_of_one_key_are_those_of_its_sorted_rows() {
        let mut operator = operator();
        // Far apart, then between, so that some are joined by rows that come last.
        let mut times: Vec<i64> = (0..4_000).map(|n| (n * 7_919 % 4_000) * 21 + n % 3).collect();
        times.extend((0..500).flat_map(|n| [n * 84 + 15, n * 84 + 10]));
        for part in times.chunks(97) {
            let batch: Vec<(i64, &str, i64)> = part.iter().map(|time| (*time, "k", 1)).collect();
            operator.process(rows(&batch), &mut Given::default()).unwrap();
        }
        let ended = advance(&mut operator, i64::MAX);

        times.sort_unstable();
        let mut expected: Vec<(i64, i64, i64)> = Vec::new();
        for time in times {
            match expected.last_mut().filter(|(_, end, _)| *end >= time) {
                Some((_, end, rows)) => (*end, *rows) = (time + GAP, *rows + 1),
                None => expected.push((time, time + GAP, 1)),
            }
        }
        let mut expected: Vec<String> =
            expected.iter().map(|(start, end, rows)| format!("k,{start},{end},{},{rows}", end - 1)).collect();
        expected.sort();
        let mut ended = ended;
        ended.sort();
        assert!(expected.len() > 100 && expected.len() < 4_000, "{}", expected.len());
        assert_eq!(ended, expected);
        assert!(operator.first.is_empty());
    }
}
