//! What the values of a column add up to: equal for equal multisets of rows, in whatever order and batches they came.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Batch, RowKind};

/// What a NULL counts.
const NULL: u64 = 0x6e75_6c6c_6e75_6c6c;

/// Sums of the columns of the rows taken so far. A retracted row is taken out again.
#[derive(Debug, Default)]
pub struct Checksums {
    columns: Vec<u64>,
}

impl Checksums {
    /// Adds rows.
    ///
    /// # Errors
    /// If a column is of a type that has no text form.
    pub fn add(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        self.columns.resize(batch.records.num_columns(), 0);
        let kinds = batch.kinds.as_deref();
        for (sum, column) in self.columns.iter_mut().zip(batch.records.columns()) {
            *sum = sum.wrapping_add(column_sum(column, kinds)?);
        }
        Ok(())
    }

    /// One sum a column; nothing before the first row.
    pub fn columns(&self) -> &[u64] {
        &self.columns
    }
}

/// The sums of several parts; parts without rows have none.
pub fn sum<'a>(parts: impl Iterator<Item = &'a [u64]>) -> Vec<u64> {
    parts.fold(Vec::new(), |mut all, part| {
        all.resize(all.len().max(part.len()), 0);
        all.iter_mut().zip(part).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
        all
    })
}

fn column_sum(column: &ArrayRef, kinds: Option<&[RowKind]>) -> Result<u64, ArrowError> {
    macro_rules! numbers {
        ($type:ty) => {{
            let values = column.as_primitive::<$type>().values();
            total(column.logical_nulls(), kinds, values.iter().map(|value| mix(*value as u64)))
        }};
    }
    Ok(match column.data_type() {
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::Date32 => numbers!(Date32Type),
        DataType::Timestamp(TimeUnit::Millisecond, _) => numbers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => numbers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => numbers!(TimestampNanosecondType),
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            total(column.logical_nulls(), kinds, values.iter().map(|value| mix(u64::from(value.to_bits()))))
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            total(column.logical_nulls(), kinds, values.iter().map(|value| mix(value.to_bits())))
        }
        DataType::Decimal128(_, _) => {
            let values = column.as_primitive::<Decimal128Type>().values();
            let mixed = values.iter().map(|value| mix(*value as u64 ^ mix((*value >> 64) as u64)));
            total(column.logical_nulls(), kinds, mixed)
        }
        DataType::Boolean => {
            let values = column.as_boolean().values();
            total(column.logical_nulls(), kinds, values.iter().map(|value| mix(u64::from(value))))
        }
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            let (offsets, bytes) = (texts.value_offsets(), texts.value_data());
            let hashes = offsets.windows(2).map(|ends| xxh3_64(&bytes[ends[0] as usize..ends[1] as usize]));
            total(column.logical_nulls(), kinds, hashes)
        }
        DataType::Utf8View => {
            let texts = column.as_string_view();
            let hashes = texts.iter().map(|text| text.map_or(0, |text| xxh3_64(text.as_bytes())));
            total(column.logical_nulls(), kinds, hashes)
        }
        _ => {
            let options = FormatOptions::default().with_null("NULL");
            let texts = ArrayFormatter::try_new(column.as_ref(), &options)?;
            let hashes = (0..column.len()).map(|row| xxh3_64(texts.value(row).to_string().as_bytes()));
            total(column.logical_nulls(), kinds, hashes)
        }
    })
}

fn total(nulls: Option<NullBuffer>, kinds: Option<&[RowKind]>, hashes: impl Iterator<Item = u64>) -> u64 {
    match (nulls.filter(|nulls| nulls.null_count() > 0), kinds) {
        (None, None) => hashes.fold(0, u64::wrapping_add),
        (nulls, kinds) => hashes.enumerate().fold(0, |sum: u64, (row, hash)| {
            let hash = if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) { NULL } else { hash };
            match kinds.map_or(RowKind::Insert, |kinds| kinds[row]) {
                RowKind::Insert | RowKind::UpdateAfter => sum.wrapping_add(hash),
                RowKind::UpdateBefore | RowKind::Delete => sum.wrapping_sub(hash),
            }
        }),
    }
}

/// Spreads a number over all bits: the finalizer of SplitMix64 (Steele et al.).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch, StringArray, StringViewArray};
    use std::sync::Arc;

    fn rows(numbers: &[Option<i64>], texts: &[&str]) -> Batch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        Batch::inserts(RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap())
    }

    fn of(batches: &[Batch]) -> Vec<u64> {
        let mut sums = Checksums::default();
        batches.iter().for_each(|batch| sums.add(batch).unwrap());
        sums.columns().to_vec()
    }

    #[test]
    fn order_and_batches_do_not_count_and_every_value_does() {
        let all = of(&[rows(&[Some(1), None, Some(3)], &["a", "b", "c"])]);
        assert_eq!(all, of(&[rows(&[Some(3)], &["c"]), rows(&[Some(1), None], &["a", "b"])]));
        let parts = [of(&[rows(&[Some(3)], &["c"])]), Vec::new(), of(&[rows(&[None, Some(1)], &["b", "a"])])];
        assert_eq!(all, sum(parts.iter().map(Vec::as_slice)));

        for (what, other) in [
            ("a row lost", rows(&[Some(1), Some(3)], &["a", "c"])),
            ("a row doubled", rows(&[Some(1), Some(1), None, Some(3)], &["a", "a", "b", "c"])),
            ("values changed", rows(&[Some(1), Some(0), Some(3)], &["a", "b", "d"])),
        ] {
            let other = of(&[other]);
            assert!(other[0] != all[0] && other[1] != all[1], "{what}");
        }
    }

    #[test]
    fn a_retracted_row_is_taken_out() {
        let mut changes = rows(&[Some(1), Some(2), Some(1)], &["a", "b", "a"]);
        changes.kinds = Some([RowKind::Insert, RowKind::Insert, RowKind::Delete].into());
        assert_eq!(of(&[changes]), of(&[rows(&[Some(2)], &["b"])]));
    }

    #[test]
    fn the_form_in_memory_does_not_count() {
        let views: ArrayRef =
            Arc::new(StringViewArray::from(vec!["a", "a text that is not kept in the view itself"]));
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec!["a", "a text that is not kept in the view itself"]));
        let of = |column| of(&[Batch::inserts(RecordBatch::try_from_iter([("t", column)]).unwrap())]);
        assert_eq!(of(views), of(texts));
    }
}
