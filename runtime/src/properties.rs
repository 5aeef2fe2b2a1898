//! What must hold of any input, for the parts that everything stands on: gates, claims, keys, segments, frames.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;
use millrace_sql::plan::{DataType, Field};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::checkpoint::records::{EpochRecord, GenerationClaim};
use crate::checkpoint::resolve::{self, Claim};
use crate::exchange::frame;
use crate::exchange::gate::{Gate, Passed};
use crate::model::key_encoding::{decode, encode};
use crate::model::key_group::hash_of;
use crate::model::{
    Attempt, Barrier, Batch, Element, Epoch, EventTime, Generation, JobUid, MaxParallelism, RowKind,
};
use crate::state::segment::{SegmentReader, SegmentWriter};
use crate::state::{Extent, StateColumn, StateTable, StateType};

/// What a channel brings between two barriers.
#[derive(Debug, Clone)]
enum Sent {
    Row,
    Watermark(i64),
    Idle,
    Active,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        4 => Just(Sent::Row),
        2 => (0..100_i64).prop_map(Sent::Watermark),
        1 => Just(Sent::Idle),
        1 => Just(Sent::Active),
    ]
}

fn row(id: i64) -> Batch {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    Batch::inserts(RecordBatch::try_from_iter([("id", ids)]).unwrap())
}

fn id_of(batch: &Batch) -> i64 {
    batch.records.column(0).as_primitive::<Int64Type>().value(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever the channels bring, in whatever order: rows pass once and in order, each barrier passes once, and between two
    /// barriers exactly the rows that were sent between them; watermarks only rise.
    #[test]
    fn a_gate_cuts_all_channels_at_the_same_place(
        epochs in 1..4_usize,
        channels in vec(vec(vec(sent(), 0..6), 3), 1..5),
        order in vec(any::<prop::sample::Index>(), 200),
    ) {
        let mut queues: Vec<VecDeque<Element>> = Vec::new();
        let mut expected: BTreeMap<(usize, u64), Vec<i64>> = BTreeMap::new();
        let mut next = 0;
        for (channel, parts) in channels.iter().enumerate() {
            let mut queue = VecDeque::new();
            for (epoch, part) in parts.iter().take(epochs).enumerate() {
                for sent in part {
                    queue.push_back(match sent {
                        Sent::Row => {
                            next += 1;
                            expected.entry((channel, epoch as u64)).or_default().push(next);
                            Element::Batch(row(next))
                        }
                        Sent::Watermark(time) => Element::Watermark(EventTime(*time)),
                        Sent::Idle => Element::Idle,
                        Sent::Active => Element::Active,
                    });
                }
                queue.push_back(Element::Barrier(Barrier { epoch: Epoch(epoch as u64 + 1) }));
            }
            queues.push(queue);
        }
        let mut gate = Gate::new(channels.len(), true);
        let mut found: BTreeMap<(usize, u64), Vec<i64>> = BTreeMap::new();
        let (mut passed, mut watermark, mut turn) = (0, i64::MIN, 0);
        loop {
            let open: Vec<usize> =
                (0..queues.len()).filter(|channel| !queues[*channel].is_empty() && !gate.is_blocked(*channel)).collect();
            if open.is_empty() {
                break;
            }
            let channel = open[order[turn % order.len()].index(open.len())];
            turn += 1;
            let element = queues[channel].pop_front().unwrap();
            match gate.take(channel, element) {
                Some(Passed::Batch(batch)) => found.entry((channel, passed)).or_default().push(id_of(&batch)),
                Some(Passed::Barrier(barrier)) => {
                    passed += 1;
                    prop_assert_eq!(barrier.epoch, Epoch(passed));
                }
                Some(Passed::Watermark(EventTime(time))) => {
                    prop_assert!(time > watermark);
                    watermark = time;
                }
                Some(Passed::Idle | Passed::Active) | None => {}
            }
        }
        prop_assert!(queues.iter().all(VecDeque::is_empty), "a channel is blocked for ever");
        prop_assert_eq!(passed, epochs as u64);
        prop_assert_eq!(found, expected);
    }

    /// Whoever claims after whom: generations only rise, and an older attempt of a job never claims after a newer one.
    #[test]
    fn claims_rise_and_no_older_attempt_comes_back(claims in vec((0..2_u8, 1..6_u64), 1..30)) {
        let mut newest: Option<(Generation, GenerationClaim)> = None;
        for (job, attempt) in claims {
            let uid = JobUid(format!("job-{job}"));
            match resolve::next_claim(newest.as_ref(), &uid, Attempt(attempt)) {
                Claim::Next(generation) => {
                    let before = newest.as_ref().map_or(0, |(generation, _)| generation.0);
                    prop_assert_eq!(generation.0, before + 1);
                    if let Some((_, claim)) = newest.as_ref().filter(|(_, claim)| claim.uid == uid.0) {
                        prop_assert!(claim.attempt <= attempt);
                    }
                    newest = Some((generation, GenerationClaim { uid: uid.0, attempt, ..Default::default() }));
                }
                Claim::Superseded { by } => {
                    prop_assert!(by.0 > attempt);
                    prop_assert!(newest.as_ref().is_some_and(|(_, claim)| claim.attempt == by.0 && claim.uid == uid.0));
                }
            }
        }
    }

    /// In whatever order records are listed: the newest checkpoint is the highest that is no seal, and the seal comes after all.
    #[test]
    fn the_newest_checkpoint_does_not_depend_on_the_listing(
        records in btree_map(1..40_u64, any::<bool>(), 0..20),
        seed in any::<prop::sample::Index>(),
    ) {
        let record = |is_seal| EpochRecord {
            manifest: if is_seal { String::new() } else { "m".to_owned() },
            ..Default::default()
        };
        let mut listed: Vec<(Epoch, EpochRecord)> =
            records.iter().map(|(epoch, is_seal)| (Epoch(*epoch), record(*is_seal))).collect();
        if !listed.is_empty() {
            let by = seed.index(listed.len());
            listed.rotate_left(by);
        }
        let expected = records.iter().filter(|(_, is_seal)| !**is_seal).map(|(epoch, _)| Epoch(*epoch)).max();
        prop_assert_eq!(resolve::newest_checkpoint(&listed).map(|(epoch, _)| *epoch), expected);
        let highest = records.keys().max().copied().unwrap_or(0);
        prop_assert_eq!(resolve::epoch_to_seal(listed.iter().map(|(epoch, _)| *epoch)), Epoch(highest + 1));
    }

    /// Keys come back as they were, and are ordered and equal as their values are.
    #[test]
    fn keys_keep_values_and_their_order(
        rows in vec((option::of(any::<i64>()), option::of("[a-c\0\u{e9}]{0,4}"), option::of(any::<i64>())), 1..20),
        floats in vec(option::of(any::<f64>().prop_filter("one NaN", |value| !value.is_nan())), 20),
    ) {
        let integers: Vec<Option<i64>> = rows.iter().map(|row| row.0).collect();
        let texts: Vec<Option<String>> = rows.iter().map(|row| row.1.clone()).collect();
        let decimals: Vec<Option<i128>> = rows.iter().map(|row| row.2.map(i128::from)).collect();
        let floats: Vec<Option<f64>> = floats.iter().take(rows.len()).map(|value| value.map(|value| value + 0.0)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(integers)),
            Arc::new(StringArray::from(texts)),
            Arc::new(Decimal128Array::from(decimals).with_precision_and_scale(38, 3).unwrap()),
            Arc::new(Float64Array::from(floats)),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new("k", DataType::from_arrow(column.data_type()).unwrap()))
            .collect();
        let keys = encode(&columns, rows.len()).unwrap();
        let decoded = decode(&fields, (0..rows.len()).map(|row| keys.key(row))).unwrap();
        prop_assert_eq!(&decoded, &columns);
        let first_two = encode(&columns[..2], rows.len()).unwrap();
        for left in 0..rows.len() {
            for right in 0..rows.len() {
                let values = |row: usize| (&rows[row].0, &rows[row].1);
                prop_assert_eq!(
                    first_two.key(left).cmp(first_two.key(right)),
                    values(left).cmp(&values(right)),
                    "{:?} and {:?}", values(left), values(right)
                );
            }
        }
    }

    /// A table that is cut into any ranges of key groups comes back whole, and each row within the range of its group.
    #[test]
    fn segments_keep_every_row_in_its_group(
        rows in btree_map(vec(any::<u8>(), 0..12), (option::of(any::<i64>()), option::of(vec(any::<u8>(), 0..20))), 0..60),
        cuts in vec(0..64_u32, 0..4),
    ) {
        let groups = MaxParallelism::new(64).unwrap();
        let layout: Arc<[StateType]> = Arc::new([StateType::I64, StateType::Bytes]);
        let mut table = StateTable::new(Arc::clone(&layout));
        for (key, (number, bytes)) in &rows {
            let slot = table.slot(hash_of(key), key).unwrap();
            let mut chunks = table.write(&[slot]);
            let (chunk, offset) = chunks.at(slot);
            if let StateColumn::I64(values, valid) = &mut chunk.columns[0] {
                (values[offset], valid[offset]) = (number.unwrap_or(0), number.is_some());
            }
            if let StateColumn::Bytes(values) = &mut chunk.columns[1] {
                values[offset] = bytes.as_deref().map(Arc::from);
            }
        }
        let write = |table: &mut StateTable| {
            let mut writer = SegmentWriter::new();
            writer.add(&table.snapshot(Extent::Everything).unwrap(), groups).unwrap();
            writer.finish()
        };
        let bytes = write(&mut table);
        let mut bounds: Vec<u32> = [0, 64].into_iter().chain(cuts).collect();
        bounds.sort_unstable();
        let mut restored = StateTable::new(layout);
        // Without rows there is no run to be read.
        if !rows.is_empty() {
            let reader = SegmentReader::open(&bytes).unwrap();
            for range in bounds.windows(2).map(|pair| pair[0]..pair[1]) {
                reader
                    .read(0, &range, groups, |row| {
                        assert!(range.contains(&groups.group_of(row.hash)));
                        restored.restore(row.hash, row.key, row.values).ok()
                    })
                    .unwrap();
            }
        }
        prop_assert_eq!(restored.len(), rows.len());
        prop_assert_eq!(write(&mut restored), bytes);
    }

    /// What goes into a frame comes out of it, and a frame that was cut or changed is no frame.
    #[test]
    fn frames_keep_what_they_carry(
        rows in vec((option::of(any::<i64>()), option::of(".{0,8}"), 0..4_u8, any::<u64>()), 1..30),
        (has_kinds, has_hashes) in any::<(bool, bool)>(),
        channel in any::<u32>(),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let kinds = [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete];
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("a", Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()), true),
            ("b", Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()), true),
        ];
        let records = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let batch = Batch {
            kinds: has_kinds.then(|| rows.iter().map(|row| kinds[usize::from(row.2)]).collect()),
            hashes: has_hashes.then(|| rows.iter().map(|row| row.3).collect()),
            records,
        };
        let bytes = frame::encode_element(channel, &Element::Batch(batch.clone())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = |bytes: &[u8]| runtime.block_on(async { frame::read(&mut &*bytes).await });
        let received = read(&bytes).unwrap();
        prop_assert_eq!(received.channel, channel);
        let Element::Batch(received) = received.element(&batch.records.schema()).unwrap() else {
            return Err(TestCaseError::fail("no batch"));
        };
        prop_assert_eq!(&received.records, &batch.records);
        prop_assert_eq!(&received.kinds, &batch.kinds);
        prop_assert_eq!(&received.hashes, &batch.hashes);

        prop_assert!(read(&bytes[..place.index(bytes.len())]).is_err(), "cut");
        // The body has a checksum; it begins after the header.
        let mut changed = bytes.clone();
        let position = 14 + place.index(bytes.len() - 14);
        changed[position] ^= 1 << bit;
        prop_assert!(read(&changed).is_err(), "changed at {}", position);
    }
}
