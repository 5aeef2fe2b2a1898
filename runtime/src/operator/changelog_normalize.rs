//! Rows that each take the place of the one before with their key, or take it away, as changes of a table: what was there is taken back.
//!
//! The newest row of each key is kept as it is encoded for keys, which tells equal rows apart from others. A key changes at most once a
//! batch, however many of its rows are in it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use millrace_sql::plan::{ChangelogNormalize as Plan, Field};
use snafu::{OptionExt, ResultExt};

use super::kept::Kept;
use super::{
    Collector, ComputeSnafu, Operator, OperatorError, OperatorFigures, OperatorSnapshot, PlanSnafu,
    StateSnafu, in_table,
};
use crate::model::key_encoding::{EncodedKeys, decode, encode};
use crate::model::key_group::hash_of;
use crate::model::{Batch, RowKind};
use crate::state::{
    AwayRows, BlockRow, Chunk, ColdChunk, LocalDisk, StateColumn, StateTable, StateType, TableImage,
};

/// Name of the state table.
const ROWS: &str = "rows";

/// The newest row of each key.
pub struct ChangelogNormalize {
    keys: Vec<usize>,
    /// Columns that are not part of the key.
    values: Vec<usize>,
    fields: Vec<Field>,
    /// A row is the encoded columns of `values`.
    rows: Kept,
}

/// A row that comes or goes: its key and its values, encoded.
type Change<'a> = (RowKind, &'a [u8], &'a [u8]);

impl ChangelogNormalize {
    /// Without any row.
    pub fn new(plan: &Plan) -> Self {
        let keys: Vec<usize> = plan.keys.iter().map(|key| *key as usize).collect();
        let values = (0..plan.fields.len()).filter(|column| !keys.contains(column)).collect();
        let rows = Kept::new(StateTable::new([StateType::Bytes].into()));
        ChangelogNormalize { keys, values, fields: plan.fields.clone(), rows }
    }

    fn encoded(&self, batch: &Batch, columns: &[usize]) -> Result<EncodedKeys, OperatorError> {
        let columns: Vec<ArrayRef> =
            columns.iter().map(|column| Arc::clone(batch.records.column(*column))).collect();
        Ok(encode(&columns, batch.rows())?)
    }

    /// Puts the newest row of each key of the batch in its place.
    fn replace(
        &mut self,
        touched: &[u32],
        last: &HashMap<u32, usize>,
        rows: &EncodedKeys,
        is_removed: &BooleanArray,
    ) {
        let mut chunks = self.rows.table.write(touched);
        for slot in touched {
            let (chunk, at) = chunks.at(*slot);
            if let (StateColumn::Bytes(rows_of), Some(row)) = (&mut chunk.columns[0], last.get(slot)) {
                rows_of[at] = (!is_removed.value(*row)).then(|| rows.key(*row).into());
            }
        }
    }

    fn emit(&self, changes: &[Change<'_>], out: &mut dyn Collector) -> Result<(), OperatorError> {
        if changes.is_empty() {
            return Ok(());
        }
        let fields =
            |columns: &[usize]| columns.iter().map(|column| self.fields[*column].clone()).collect::<Vec<_>>();
        let keys = decode(&fields(&self.keys), changes.iter().map(|(_, key, _)| *key))?;
        let values = decode(&fields(&self.values), changes.iter().map(|(.., row)| *row))?;
        let mut columns: Vec<_> = self.keys.iter().zip(keys).chain(self.values.iter().zip(values)).collect();
        columns.sort_by_key(|(place, _)| **place);
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        let schema = Plan { fields: self.fields.clone(), ..Plan::default() }.output_schema().to_arrow();
        let records = RecordBatch::try_new(schema, columns).context(ComputeSnafu)?;
        let are_inserts = changes.iter().all(|(kind, ..)| *kind == RowKind::Insert);
        let kinds = (!are_inserts).then(|| changes.iter().map(|(kind, ..)| *kind).collect());
        out.batch(Batch { records, kinds, hashes: None })
    }
}

/// What has changed between two states of the same keys.
fn changes<'a>(before: &'a Chunk, after: &'a Chunk) -> Result<Vec<Change<'a>>, OperatorError> {
    let rows = |chunk: &'a Chunk| match chunk.columns.first() {
        Some(StateColumn::Bytes(rows)) => Ok(rows),
        _ => StateSnafu { table: ROWS }.fail(),
    };
    let mut changes = Vec::new();
    for (index, (was, is)) in rows(before)?.iter().zip(rows(after)?).enumerate() {
        let key = after.keys.key(index);
        match (was, is) {
            (None, Some(row)) => changes.push((RowKind::Insert, key, &row[..])),
            (Some(row), None) => changes.push((RowKind::Delete, key, &row[..])),
            (Some(was), Some(is)) if was != is => {
                changes.push((RowKind::UpdateBefore, key, &was[..]));
                changes.push((RowKind::UpdateAfter, key, &is[..]));
            }
            _ => {}
        }
    }
    Ok(changes)
}

impl Operator for ChangelogNormalize {
    fn process(&mut self, batch: Batch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let is_removed = batch.records.columns().last().and_then(|column| column.as_boolean_opt());
        let is_removed =
            is_removed.context(PlanSnafu { message: "no column says which rows are taken away" })?;
        let (keys, rows) = (self.encoded(&batch, &self.keys)?, self.encoded(&batch, &self.values)?);
        let mut last = HashMap::new();
        for row in 0..batch.rows() {
            let hash = batch.hashes.as_ref().map_or_else(|| hash_of(keys.key(row)), |hashes| hashes[row]);
            last.insert(self.rows.table.slot(hash, keys.key(row))?, row);
        }
        let mut touched: Vec<u32> = last.keys().copied().collect();
        touched.sort_unstable();
        let before = self.rows.table.gather(&touched);
        self.replace(&touched, &last, &rows, is_removed);
        let after = self.rows.table.gather(&touched);
        self.emit(&changes(&before, &after)?, out)?;
        let is_gone = |slot: &u32| last.get(slot).is_some_and(|row| is_removed.value(*row));
        let gone: Vec<u32> = touched.iter().copied().filter(is_gone).collect();
        self.rows.table.remove(&gone);
        Ok(self.rows.table.compact()?)
    }

    fn snapshot(&mut self, is_full: bool) -> Result<OperatorSnapshot, OperatorError> {
        Ok(OperatorSnapshot { tables: vec![self.rows.snapshot(ROWS, 0, is_full)?], ..Default::default() })
    }

    fn restore(&mut self, table: &str, _namespace: i64, row: BlockRow<'_>) -> Result<(), OperatorError> {
        snafu::ensure!(table == ROWS, StateSnafu { table });
        self.rows.restore(&row).map_err(in_table(table))
    }

    fn attach(
        &mut self,
        table: &str,
        _namespace: i64,
        rows: AwayRows,
        removed: &[(u64, u32)],
    ) -> Result<Arc<ColdChunk>, OperatorError> {
        snafu::ensure!(table == ROWS, StateSnafu { table });
        Ok(self.rows.attach(rows, removed))
    }

    fn roll_back(&mut self, table: &str, _namespace: i64, image: &TableImage) -> Result<(), OperatorError> {
        self.rows.roll_back(image).filter(|()| table == ROWS).context(StateSnafu { table })
    }

    fn spill(&mut self, bytes: usize, disk: &LocalDisk) -> Result<(), OperatorError> {
        self.rows.table.spill(bytes, disk)?;
        Ok(())
    }

    fn warm_up(&mut self, bytes: usize) -> Result<(), OperatorError> {
        Ok(self.rows.table.warm_up(bytes)?)
    }

    fn memory_bytes(&self) -> usize {
        self.rows.table.memory_len()
    }

    fn figures(&self) -> OperatorFigures {
        OperatorFigures { late_rows: 0, state_bytes: self.rows.table.byte_len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use millrace_sql::plan::{DataType, TypeKind};

    use super::super::testing::Given;
    use super::*;

    /// `None`: the row of the key is taken away.
    fn rows(rows: &[(&str, Option<Option<i64>>)]) -> Batch {
        let values: ArrayRef =
            Arc::new(rows.iter().map(|(_, value)| value.flatten()).collect::<Int64Array>());
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| *key)));
        let removed: ArrayRef =
            Arc::new(rows.iter().map(|(_, value)| Some(value.is_none())).collect::<BooleanArray>());
        let columns = [("v", values, true), ("k", keys, true), ("removed", removed, true)];
        Batch::inserts(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_before_with_its_key() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let fields = vec![
            Field::new("v", DataType::simple(TypeKind::BigInt)),
            Field::new("k", DataType::simple(TypeKind::String)),
        ];
        let mut operator = ChangelogNormalize::new(&Plan { keys: vec![1], fields });
        type Step<'a> = (&'a [(&'a str, Option<Option<i64>>)], &'a [(RowKind, &'a str)]);
        let steps: &[Step<'_>] = &[
            (&[("a", Some(Some(1))), ("b", Some(None))], &[(Insert, "1,a"), (Insert, ",b")]),
            // The same again changes nothing, and of several the last one counts.
            (&[("a", Some(Some(1)))], &[]),
            (
                &[("a", Some(Some(5))), ("a", None), ("a", Some(Some(2)))],
                &[(UpdateBefore, "1,a"), (UpdateAfter, "2,a")],
            ),
            (&[("b", Some(Some(3)))], &[(UpdateBefore, ",b"), (UpdateAfter, "3,b")]),
            (&[("b", None), ("c", None), ("d", Some(Some(4))), ("d", None)], &[(Delete, "3,b")]),
            (&[("b", None)], &[]),
            (&[("b", Some(Some(6)))], &[(Insert, "6,b")]),
            (&[("a", None), ("b", None)], &[(Delete, "2,a"), (Delete, "6,b")]),
        ];
        for (given, expected) in steps {
            let mut out = Given::default();
            operator.process(rows(given), &mut out).unwrap();

            let expected: Vec<(RowKind, String)> =
                expected.iter().map(|(kind, row)| (*kind, (*row).to_owned())).collect();
            assert_eq!(out.0, expected, "{given:?}");
        }
        assert!(operator.rows.table.is_empty(), "a key without a row has no state");
    }
}
