//! What a fetch brought: record batches, some of them of aborted transactions, some of them control records.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::{Buf, Bytes};
use kafka_protocol::records::{Record, RecordBatchDecoder, TimestampType};

/// Bytes of a batch's head up to its length, and up to the number of its last record.
const LENGTH_END: usize = 12;
const LAST_DELTA: Range<usize> = 23..27;
/// Its greatest time: when it was appended, if the topic keeps that time.
const LAST_TIME: Range<usize> = 35..43;

/// Key of the control record that ends an aborted transaction: version 0, type 0.
const ABORT: [u8; 4] = [0, 0, 0, 0];

/// A transaction that was aborted: its producer, and its first record's offset.
pub type Aborted = (i64, i64);

/// Batches not read yet.
pub struct Records {
    batches: Bytes,
    /// By first offset, the next one last.
    aborted: Vec<Aborted>,
    aborting: BTreeSet<i64>,
    /// Records of the batch at hand that were not asked for yet, the next one last.
    left: Vec<Record>,
    /// Offset after the batch at hand.
    after: i64,
}

impl Records {
    pub fn new(batches: Bytes, mut aborted: Vec<Aborted>) -> Self {
        aborted.sort_by_key(|(_, first)| std::cmp::Reverse(*first));
        Records { batches, aborted, aborting: BTreeSet::new(), left: Vec::new(), after: 0 }
    }

    /// True if everything was read.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty() && !has_batch(&self.batches)
    }

    /// Gives up to `most` records in a range of offsets, in order, and whole batches without any; returns the offset to go on
    /// from. Those without a value are left out unless `takes_removals`.
    pub fn read(
        &mut self,
        wanted: Range<i64>,
        most: usize,
        takes_removals: bool,
        mut give: impl FnMut(&Record),
    ) -> Result<i64, String> {
        let (mut given, mut next) = (0, wanted.start);
        while given < most {
            let Some(record) = self.left.pop() else {
                if given > 0 || !self.next_batch()? {
                    break;
                }
                if self.left.is_empty() {
                    next = self.after;
                }
                continue;
            };
            next = if self.left.is_empty() { self.after } else { record.offset + 1 };
            if wanted.contains(&record.offset) && (takes_removals || record.value.is_some()) {
                give(&record);
                given += 1;
            }
        }
        Ok(next)
    }

    /// Decodes the next batch; false if there is none.
    fn next_batch(&mut self) -> Result<bool, String> {
        if !has_batch(&self.batches) {
            self.batches.clear();
            return Ok(false);
        }
        let first = (&self.batches[..8]).get_i64();
        self.after = first + i64::from((&self.batches[LAST_DELTA]).get_i32()) + 1;
        let last_time = self.batches.get(LAST_TIME).map_or(-1, |mut bytes| bytes.get_i64());
        let decoded = RecordBatchDecoder::decode(&mut self.batches).map_err(|error| error.to_string())?;
        let mut records = decoded.records;
        while let Some((producer, _)) = self.aborted.pop_if(|(_, aborted)| *aborted <= first) {
            self.aborting.insert(producer);
        }
        let Some(head) = records.first() else { return Ok(true) };
        let producer = head.producer_id;
        if head.control {
            if head.key.as_deref() == Some(&ABORT) {
                self.aborting.remove(&producer);
            }
            return Ok(true);
        }
        if head.transactional && self.aborting.contains(&producer) {
            return Ok(true);
        }
        if head.timestamp_type == TimestampType::LogAppend {
            records.iter_mut().for_each(|record| record.timestamp = last_time);
        }
        records.reverse();
        self.left = records;
        Ok(true)
    }
}

/// True if there is a whole batch; brokers cut off the last one of an answer.
fn has_batch(batches: &[u8]) -> bool {
    batches.len() > LAST_DELTA.end
        && batches.len() >= LENGTH_END + (&batches[8..LENGTH_END]).get_i32().max(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use indexmap::IndexMap;
    use kafka_protocol::records::{Compression, RecordBatchEncoder, RecordEncodeOptions};

    fn batch(first: i64, values: &[&str], producer: i64, is_control: bool) -> Bytes {
        let record = |(index, value): (usize, &&str)| Record {
            transactional: producer >= 0,
            control: is_control,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: producer,
            producer_epoch: 0,
            timestamp_type: TimestampType::Creation,
            offset: first + index as i64,
            sequence: index as i32,
            timestamp: 0,
            key: is_control.then(|| Bytes::copy_from_slice(&[0, 0, 0, u8::from(*value == "commit")])),
            value: (*value != "-").then(|| Bytes::copy_from_slice(value.as_bytes())),
            headers: IndexMap::new(),
        };
        let records: Vec<Record> = values.iter().enumerate().map(record).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::Lz4 };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        bytes.freeze()
    }

    fn all(records: &mut Records, wanted: Range<i64>, most: usize) -> (Vec<(i64, String)>, i64) {
        let (mut given, mut next) = (Vec::new(), wanted.start);
        while !records.is_empty() {
            next = records
                .read(next..wanted.end, most, false, |record| {
                    let value = record.value.as_deref().unwrap();
                    given.push((record.offset, String::from_utf8(value.to_vec()).unwrap()));
                })
                .unwrap();
        }
        (given, next)
    }

    #[test]
    fn only_wanted_committed_records_are_given_in_order() {
        let log = [
            batch(10, &["a", "-", "c"], -1, false),
            batch(13, &["x", "y"], 7, false),
            batch(15, &["kept"], 8, false),
            batch(16, &["abort"], 7, true),
            batch(17, &["commit"], 8, true),
            batch(18, &["z"], 7, false),
            batch(19, &["end"], -1, false),
        ];
        let mut bytes = log.concat();
        bytes.truncate(bytes.len() - 3);
        for most in [1, 2, 100] {
            let mut records = Records::new(bytes.clone().into(), vec![(7, 13)]);

            let (given, next) = all(&mut records, 11..i64::MAX, most);

            let given: Vec<(i64, &str)> =
                given.iter().map(|(offset, value)| (*offset, value.as_str())).collect();
            assert_eq!(given, [(12, "c"), (15, "kept"), (18, "z")], "at most {most}");
            assert_eq!(next, 19, "the batch that was cut off is asked for again");
        }
    }

    #[test]
    fn records_of_a_topic_that_keeps_when_they_were_appended_have_that_time() {
        let mut bytes = batch(10, &["a", "b"], -1, false).to_vec();
        // The broker sets the type and the greatest time, and leaves the records as they are.
        bytes[22] |= 1 << 3;
        bytes[LAST_TIME].copy_from_slice(&5000_i64.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let mut times = Vec::new();

        let mut records = Records::new(bytes.into(), Vec::new());
        records.read(0..i64::MAX, 10, false, |record| times.push(record.timestamp)).unwrap();

        assert_eq!(times, [5000, 5000]);
    }
}
