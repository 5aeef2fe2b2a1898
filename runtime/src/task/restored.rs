//! What tasks begin with: the state of a checkpoint, from segments of the store or from what the process still has of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::build::BuildError;
use crate::checkpoint::records::{Run, SubtaskState, TableState};
use crate::model::{EventTime, KeyGroups, MaxParallelism};
use crate::operator::{Operator, OperatorError};
use crate::sink::checksum;
use crate::state::chunk::CHUNK_SLOTS;
use crate::state::{
    Arrivals, AwayRows, ColdChunk, IndexedBlock, SegmentReader, TableImage, TaskMemory, Unit,
};

/// The state is measured after so many restored rows.
const UNMEASURED_ROWS_MAX: u64 = 1 << 14;

/// An operator's id and the number of a subtask.
pub type SubtaskKey = (String, u32);

/// The state of a subtask at a barrier, as it was in memory, beside what the checkpoint calls it.
#[derive(Debug)]
pub struct SubtaskImage {
    pub groups: KeyGroups,
    pub tables: Vec<(TableState, TableImage)>,
}

impl SubtaskImage {
    /// Tables that a checkpoint has anything of.
    fn written(&self) -> impl Iterator<Item = &(TableState, TableImage)> {
        self.tables.iter().filter(|(table, _)| !table.runs.is_empty())
    }

    /// True if nothing of it is still on its way: it was to come in a generation that has ended.
    pub fn is_there(&self) -> bool {
        self.written().all(|(_, image)| image.is_there())
    }

    /// True if it is this state: the same runs of the same segments, for the same key groups. Segments are never written twice, so
    /// equal names are equal contents.
    pub fn is(&self, state: &SubtaskState) -> bool {
        let mut written: Vec<&TableState> = self.written().map(|(table, _)| table).collect();
        written.sort_unstable_by_key(|table| (&table.table, table.namespace));
        self.groups == (state.first_group..state.end_group) && written.into_iter().eq(&state.tables)
    }
}

/// The restored checkpoint: states of all old subtasks, and the segments that they name.
#[derive(Default)]
pub struct Restored {
    pub subtasks: Vec<SubtaskState>,
    /// What was fetched of each.
    pub segments: HashMap<String, SegmentReader<'static>>,
    /// What this process has in memory as the checkpoint has it.
    pub images: HashMap<SubtaskKey, Arc<SubtaskImage>>,
    /// Of the segments only the indexes are there, and the rows are still to come.
    pub awaited: Option<AwaitedState>,
}

/// [`Operator::attach`] of a table.
pub type Attach<'a> = dyn FnMut(AwayRows, &[(u64, u32)]) -> Result<Arc<ColdChunk>, OperatorError> + 'a;

/// State that comes after the tasks have begun.
pub struct AwaitedState {
    pub arrivals: Arc<Arrivals>,
    units: Mutex<Vec<Unit>>,
}

impl AwaitedState {
    /// Comes in these units, which are in the order of their segments and places.
    pub fn new(units: Vec<Unit>) -> Self {
        AwaitedState { arrivals: Arc::default(), units: Mutex::new(units) }
    }

    /// The units with what waits for them.
    pub fn into_units(self) -> Vec<Unit> {
        self.units.into_inner()
    }

    /// Puts rows of a block into a table that are still to come.
    pub fn attach(
        &self,
        attach: &mut Attach<'_>,
        segment: &str,
        block: &Arc<IndexedBlock>,
        is_mine: impl Fn(u64) -> bool,
    ) -> Result<(), BuildError> {
        let mut units = self.units.lock();
        let place = |unit: &Unit| (unit.segment.as_str(), unit.range.start) <= (segment, block.offset());
        let number = units.partition_point(place).checked_sub(1);
        let number = number.ok_or_else(|| BuildError::NotFetched { key: segment.to_owned() })?;
        let index = &block.index;
        let rows = (0..index.len()).filter(|row| is_mine(index.hashes[*row]));
        let (removed, rows): (Vec<usize>, Vec<usize>) = rows.partition(|row| index.is_removed(*row));
        let removed: Vec<(u64, u32)> =
            removed.into_iter().map(|row| (index.hashes[row], index.checks[row])).collect();
        let mut removed = removed.as_slice();
        // Also without rows, for those that were removed.
        for rows in
            std::iter::once(&rows[..rows.len().min(CHUNK_SLOTS)]).chain(rows.chunks(CHUNK_SLOTS).skip(1))
        {
            let away = AwayRows {
                hashes: rows.iter().map(|row| index.hashes[*row]).collect(),
                checks: rows.iter().map(|row| index.checks[*row]).collect(),
                bytes: rows.iter().map(|row| index.row_bytes(*row)).sum(),
                arrivals: Arc::clone(&self.arrivals),
                unit: number,
            };
            let chunk = attach(away, removed)?;
            removed = &[];
            units[number].await_rows(block, &chunk, rows.iter().map(|row| *row as u32).collect());
        }
        Ok(())
    }
}

impl Restored {
    /// The names of the splits of a source.
    pub fn splits(&self, operator: &str) -> BTreeSet<String> {
        let states = self.subtasks.iter().filter(|state| state.operator == operator);
        states.flat_map(|state| &state.splits).map(|split| split.id.clone()).collect()
    }

    /// The state of a new subtask, gathered from the old ones whatever their number: key groups by range, splits and
    /// counts by turn.
    pub fn inherited(
        &self,
        operator: &str,
        subtask: u32,
        parallelism: u32,
        groups: &KeyGroups,
    ) -> SubtaskState {
        let old: Vec<&SubtaskState> =
            self.subtasks.iter().filter(|state| state.operator == operator).collect();
        let mut splits: Vec<_> = old.iter().flat_map(|state| &state.splits).cloned().collect();
        splits.sort_by(|a, b| a.id.cmp(&b.id));
        let mine = |index: usize| index as u32 % parallelism == subtask;
        let mut tables: BTreeMap<(&str, i64), Vec<Run>> = BTreeMap::new();
        for table in old.iter().flat_map(|state| &state.tables) {
            for run in &table.runs {
                let run = Run {
                    first_group: run.first_group.max(groups.start),
                    end_group: run.end_group.min(groups.end),
                    ..run.clone()
                };
                if run.first_group < run.end_group {
                    tables.entry((&table.table, table.namespace)).or_default().push(run);
                }
            }
        }
        let table = |((table, namespace), runs): ((&str, i64), Vec<Run>)| TableState {
            table: table.to_owned(),
            namespace,
            runs,
        };
        let counted = |count: fn(&SubtaskState) -> u64| {
            old.iter().filter(|state| mine(state.subtask as usize)).map(|state| count(state)).sum()
        };
        SubtaskState {
            operator: operator.to_owned(),
            subtask,
            first_group: groups.start,
            end_group: groups.end,
            watermark: old.iter().filter_map(|state| state.watermark).max(),
            tables: tables.into_iter().map(table).collect(),
            splits: splits
                .into_iter()
                .enumerate()
                .filter(|(index, _)| mine(*index))
                .map(|(_, split)| split)
                .collect(),
            committables: Vec::new(),
            rows: counted(|state| state.rows),
            late_rows: counted(|state| state.late_rows),
            checksums: checksum::sum(
                old.iter()
                    .filter(|state| mine(state.subtask as usize))
                    .map(|state| state.checksums.as_slice()),
            ),
        }
    }

    /// Puts the state of a subtask into its operator.
    pub fn restore(
        &self,
        operator: &mut dyn Operator,
        state: &SubtaskState,
        all: MaxParallelism,
        memory: &mut TaskMemory,
    ) -> Result<(), BuildError> {
        let before = memory.held();
        if let Some(watermark) = state.watermark {
            operator.restore_watermark(EventTime(watermark), state.late_rows);
        }
        if let Some(image) = self.images.get(&(state.operator.clone(), state.subtask)) {
            for (table, image) in image.written() {
                operator.roll_back(&table.table, table.namespace, image)?;
            }
            return Ok(fit_into(operator, memory, before)?);
        }
        for table in &state.tables {
            for run in &table.runs {
                let not_fetched = || BuildError::NotFetched { key: run.segment.clone() };
                let reader = self.segments.get(&run.segment).ok_or_else(not_fetched)?;
                let in_segment = |source| BuildError::Segment { key: run.segment.clone(), source };
                let groups = run.first_group..run.end_group;
                if let Some(awaited) = &self.awaited {
                    for block in reader.indexed(run.run, &groups).map_err(in_segment)? {
                        let is_mine = |hash| groups.contains(&all.group_of(hash));
                        let mut attach = |rows: AwayRows, removed: &[(u64, u32)]| {
                            operator.attach(&table.table, table.namespace, rows, removed)
                        };
                        awaited.attach(&mut attach, &run.segment, &Arc::new(block), is_mine)?;
                    }
                    continue;
                }
                let (mut failure, mut rows) = (None, 0_u64);
                let read = reader.read(run.run, &groups, all, |row| {
                    rows += 1;
                    let mut restored = operator.restore(&table.table, table.namespace, row);
                    if rows.is_multiple_of(UNMEASURED_ROWS_MAX) {
                        restored = restored.and_then(|()| fit_into(operator, memory, before));
                    }
                    restored.map_err(|error| failure = Some(error)).ok()
                });
                if let Some(error) = failure {
                    return Err(error.into());
                }
                read.map_err(in_segment)?;
            }
        }
        Ok(fit_into(operator, memory, before)?)
    }
}

/// Puts state of an operator on the local disk if there is more than may be in memory; other operators of the task hold `others`.
fn fit_into(
    operator: &mut dyn Operator,
    memory: &mut TaskMemory,
    others: usize,
) -> Result<(), OperatorError> {
    let too_much = memory.holds(others + operator.memory_bytes());
    if too_much > 0 {
        operator.spill(too_much, memory.disk())?;
        memory.holds(others + operator.memory_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::records::SplitState;
    use crate::model::Subtask;

    fn old(subtask: u32, groups: KeyGroups) -> SubtaskState {
        let split = |n: u32| SplitState { id: format!("s{n}"), ..Default::default() };
        let run = Run {
            segment: format!("seg{subtask}"),
            run: 0,
            rows: 1,
            first_group: groups.start,
            end_group: groups.end,
            ..Default::default()
        };
        SubtaskState {
            operator: "o".to_owned(),
            subtask,
            first_group: groups.start,
            end_group: groups.end,
            watermark: Some(5),
            tables: vec![TableState { table: "t".to_owned(), namespace: 1, runs: vec![run] }],
            splits: vec![split(subtask * 2), split(subtask * 2 + 1)],
            committables: Vec::new(),
            rows: 10 + u64::from(subtask),
            late_rows: 3 + u64::from(subtask),
            checksums: vec![5, u64::MAX - u64::from(subtask)],
        }
    }

    #[test]
    fn another_parallelism_inherits_everything_once() {
        let all = MaxParallelism::new(16).unwrap();
        let restored = Restored { subtasks: vec![old(0, 0..8), old(1, 8..16)], ..Restored::default() };
        for parallelism in [1, 2, 3, 5, 16] {
            let mine = |subtask| {
                restored.inherited("o", subtask, parallelism, &all.owned_by(Subtask(subtask), parallelism))
            };
            let states: Vec<SubtaskState> = (0..parallelism).map(mine).collect();

            let mut splits: Vec<&str> =
                states.iter().flat_map(|s| &s.splits).map(|split| split.id.as_str()).collect();
            splits.sort_unstable();
            assert_eq!(splits, ["s0", "s1", "s2", "s3"]);
            assert_eq!(states.iter().map(|state| state.rows).sum::<u64>(), 21);
            assert_eq!(states.iter().map(|state| state.late_rows).sum::<u64>(), 7);
            let checksums = checksum::sum(states.iter().map(|state| state.checksums.as_slice()));
            assert_eq!(checksums, [10, u64::MAX - 2]);
            let runs = states.iter().flat_map(|state| &state.tables).flat_map(|table| &table.runs);
            let mut groups: Vec<u32> = runs.flat_map(|run| run.first_group..run.end_group).collect();
            groups.sort_unstable();
            assert_eq!(groups, (0..16).collect::<Vec<_>>(), "parallelism {parallelism}");
        }
    }
}
