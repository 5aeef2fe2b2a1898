//! Records that take the place of the one before with the same key. Pure.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use bytes::Bytes;

use super::{About, Record};
use crate::model::RowKind;
use crate::sink::SinkError;

/// Refuses rows without a key.
pub fn check(rows: &RecordBatch, key: &[usize]) -> Result<(), SinkError> {
    match key.iter().find(|column| rows.column(**column).logical_null_count() > 0) {
        None => Ok(()),
        Some(column) => {
            let name = rows.schema().field(*column).name().clone();
            let message = format!(
                "a row to be written has NULL in '{name}', a column of the PRIMARY KEY; leave such rows out with WHERE … IS NOT \
                 NULL, or give them a value with COALESCE"
            );
            Err(SinkError::Data { message })
        }
    }
}

/// A record for each row that is given, and one without a value for each that is taken back and not given anew at once.
pub fn records(keys: Vec<Bytes>, values: Vec<Bytes>, kinds: Option<&[RowKind]>) -> Vec<Record> {
    let kind = |row: usize| kinds.map_or(RowKind::Insert, |kinds| kinds[row]);
    let mut records = Vec::with_capacity(keys.len());
    for (row, value) in values.into_iter().enumerate() {
        let is_replaced = kind(row) == RowKind::UpdateBefore
            && keys.get(row + 1).is_some_and(|next| *next == keys[row])
            && !kind(row + 1).is_retraction();
        if !is_replaced {
            let value = (!kind(row).is_retraction()).then_some(value);
            records.push(Record { key: Some(keys[row].clone()), value, about: About::default() });
        }
    }
    records
}

/// Records by their partition, each in order.
pub fn by_partition(records: Vec<Record>, partitions: usize) -> BTreeMap<usize, Vec<Record>> {
    let mut all = BTreeMap::<usize, Vec<Record>>::new();
    for record in records {
        let hash = murmur2(record.key.as_deref().unwrap_or_default());
        all.entry((hash & 0x7fff_ffff) as usize % partitions).or_default().push(record);
    }
    all
}

/// Murmur 2 with the seed of Kafka's producers, so that records of a key lie where those of other producers do.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        let mixed = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        let mixed = (mixed ^ (mixed >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ mixed;
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafkas_producers() {
        // The values of Kafka's own tests.
        let cases: &[(&str, i32)] = &[
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, *hash, "{text}");
        }
    }

    #[test]
    fn a_row_that_is_taken_back_leaves_no_value_unless_it_is_given_anew() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        type Case<'a> = (&'a [(RowKind, &'a str, &'a str)], &'a [(&'a str, Option<&'a str>)]);
        let cases: &[Case<'_>] = &[
            (&[(Insert, "a", "1"), (Insert, "b", "2")], &[("a", Some("1")), ("b", Some("2"))]),
            (&[(UpdateBefore, "a", "1"), (UpdateAfter, "a", "2")], &[("a", Some("2"))]),
            (&[(Delete, "a", "1")], &[("a", None)]),
            // HAVING has left out what would take its place.
            (&[(UpdateBefore, "a", "1"), (UpdateAfter, "b", "2")], &[("a", None), ("b", Some("2"))]),
            (&[(UpdateBefore, "a", "1"), (UpdateBefore, "a", "2")], &[("a", None), ("a", None)]),
            (&[(UpdateBefore, "a", "1")], &[("a", None)]),
        ];
        for (rows, expected) in cases {
            let column = |part: fn(&(RowKind, &'static str, &'static str)) -> &'static str| -> Vec<Bytes> {
                rows.iter().map(|row| Bytes::from_static(part(row).as_bytes())).collect()
            };
            let kinds: Vec<RowKind> = rows.iter().map(|(kind, ..)| *kind).collect();

            let found = records(column(|row| row.1), column(|row| row.2), Some(&kinds));

            let record = |(key, value): &(&'static str, Option<&'static str>)| Record {
                key: Some(Bytes::from_static(key.as_bytes())),
                value: value.map(|value| Bytes::from_static(value.as_bytes())),
                about: About::default(),
            };
            assert_eq!(found, expected.iter().map(record).collect::<Vec<_>>(), "{rows:?}");
        }
    }

    #[test]
    fn records_of_a_key_keep_their_order_in_one_partition() {
        let record = |number: u8| Record {
            key: Some(Bytes::from(format!("{}", number % 5))),
            value: Some(Bytes::from(vec![number])),
            about: About::default(),
        };

        let found = by_partition((0..100).map(record).collect(), 3);

        assert!(found.len() > 1 && found.keys().all(|place| *place < 3), "{:?}", found.keys());
        assert_eq!(found.values().map(Vec::len).sum::<usize>(), 100);
        let mut seen = BTreeMap::new();
        for (place, records) in &found {
            for Record { key, value, .. } in records {
                let (first, last) = seen.entry(key.clone()).or_insert((*place, None));
                assert!(first == place && *last < *value);
                last.clone_from(value);
            }
        }
    }
}
