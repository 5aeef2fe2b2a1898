//! The contents of the objects. Tags are never reused; every earlier form stays readable.
//!
//! ```text
//! magic │ u32 length │ u32 crc32c │ message (prost)
//! ```
//! Numbers are little-endian. Without length and checksum an object that is cut short would be another message: of an epoch's
//! record nothing would be left, which is a seal.

use std::collections::BTreeMap;

use millrace_sql::plan::Plan;
use prost::Message;
use snafu::{OptionExt, Snafu, ensure};

/// Version of these forms. Version 3 has removed keys in segments, and more operators in plans; version 4 metadata columns.
pub const FORMAT_VERSION: u32 = 5;
/// The oldest form that is read. Those before were of builds that were never released.
pub const OLDEST_FORMAT_VERSION: u32 = 3;

const MAGIC: &[u8; 8] = b"MRREC\0\0\x02";
const HEADER_BYTES: usize = MAGIC.len() + 4 + 4;

/// The bytes of an object.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(crc32c::crc32c(&body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Why an object cannot be read, with what tells a short object from a changed one.
#[derive(Debug, Clone, PartialEq, Eq, Snafu)]
pub enum Damage {
    #[snafu(display("it is empty"))]
    Empty,
    #[snafu(display("it is cut short: {length} bytes of {expected}"))]
    Short { length: usize, expected: usize },
    #[snafu(display("it has {length} bytes, and {expected} were written"))]
    Long { length: usize, expected: usize },
    #[snafu(display("its {length} bytes do not start as an object of Millrace does"))]
    Foreign { length: usize },
    #[snafu(display("the checksum of its {length} bytes is wrong"))]
    Checksum { length: usize },
    #[snafu(display("its {length} bytes are whole, and say something else than expected there"))]
    Other { length: usize },
}

/// What an object says, or what is wrong with it.
pub fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T, Damage> {
    let length = bytes.len();
    ensure!(length > 0, EmptySnafu);
    let start = length.min(MAGIC.len());
    ensure!(bytes[..start] == MAGIC[..start], ForeignSnafu { length });
    let short = ShortSnafu { length, expected: HEADER_BYTES };
    let (expected, rest) = bytes[start..].split_first_chunk::<4>().context(short)?;
    let (checksum, body) = rest.split_first_chunk::<4>().context(short)?;
    // A length that was changed itself is told as one that does not fit.
    let expected = (u32::from_le_bytes(*expected) as usize).saturating_add(HEADER_BYTES);
    ensure!(length >= expected, ShortSnafu { length, expected });
    ensure!(length <= expected, LongSnafu { length, expected });
    ensure!(crc32c::crc32c(body) == u32::from_le_bytes(*checksum), ChecksumSnafu { length });
    T::decode(body).ok().context(OtherSnafu { length })
}

/// `job.pb`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobRecord {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(uint32, tag = "2")]
    pub format: u32,
    #[prost(uint32, tag = "3")]
    pub max_parallelism: u32,
    #[prost(uint32, tag = "4")]
    pub key_encoding: u32,
    /// `<namespace>/<name>`, for messages.
    #[prost(string, tag = "5")]
    pub name: String,
}

/// `generations/<g>`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GenerationClaim {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(uint64, tag = "2")]
    pub attempt: u64,
    /// Random: tells our own claim from a competitor's after a doubtful answer.
    #[prost(fixed64, tag = "3")]
    pub nonce: u64,
    /// How many subtasks it may start, from which the names follow of what they begin outside. 0 in records of earlier releases.
    #[prost(uint32, tag = "4")]
    pub parallelism: u32,
}

/// `epochs/<e>`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EpochRecord {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// Key of the manifest; empty: a seal, no checkpoint.
    #[prost(string, tag = "2")]
    pub manifest: String,
    #[prost(fixed64, tag = "3")]
    pub nonce: u64,
}

/// `commits/<e>` and `finished`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Marker {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
}

/// `manifests/<e>-<g>`: a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    #[prost(uint64, tag = "5")]
    pub attempt: u64,
    #[prost(uint32, tag = "6")]
    pub parallelism: u32,
    #[prost(uint32, tag = "7")]
    pub max_parallelism: u32,
    #[prost(message, optional, tag = "8")]
    pub plan: Option<Plan>,
    /// The SQL that the plan was compiled from.
    #[prost(string, tag = "9")]
    pub sql: String,
    #[prost(message, repeated, tag = "10")]
    pub subtasks: Vec<SubtaskState>,
    #[prost(uint64, tag = "11")]
    pub created_ms: u64,
    /// All sources have ended and everything has been emitted.
    #[prost(bool, tag = "12")]
    pub is_final: bool,
    /// Bytes written for this checkpoint.
    #[prost(uint64, tag = "13")]
    pub bytes: u64,
    /// The place of the state that the job began from; empty if it began with nothing.
    #[prost(string, tag = "14")]
    pub begun_from: String,
}

impl Manifest {
    /// Keys of the segments that the checkpoint needs, and their bytes.
    pub fn segments(&self) -> BTreeMap<&str, u64> {
        let tables = self.subtasks.iter().flat_map(|state| &state.tables);
        tables.flat_map(|table| &table.runs).map(|run| (run.segment.as_str(), run.segment_bytes)).collect()
    }
}

/// State of one subtask of one operator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubtaskState {
    #[prost(string, tag = "1")]
    pub operator: String,
    #[prost(uint32, tag = "2")]
    pub subtask: u32,
    /// Owned key groups: from here …
    #[prost(uint32, tag = "3")]
    pub first_group: u32,
    /// … to before here.
    #[prost(uint32, tag = "4")]
    pub end_group: u32,
    /// Event time up to which the operator's windows have fired.
    #[prost(int64, optional, tag = "5")]
    pub watermark: Option<i64>,
    #[prost(message, repeated, tag = "6")]
    pub tables: Vec<TableState>,
    #[prost(message, repeated, tag = "7")]
    pub splits: Vec<SplitState>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub committables: Vec<Vec<u8>>,
    /// Rows read by a source or written by a sink since the job's first start.
    #[prost(uint64, tag = "9")]
    pub rows: u64,
    /// What the values of each column that a sink has taken add up to, since the job's first start.
    #[prost(fixed64, repeated, tag = "10")]
    pub checksums: Vec<u64>,
    /// Rows that an operator with windows has dropped because they came too late, since the job's first start.
    #[prost(uint64, tag = "11")]
    pub late_rows: u64,
}

/// One part of a table: its runs, oldest first. A later run's row replaces an earlier one's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TableState {
    #[prost(string, tag = "1")]
    pub table: String,
    #[prost(int64, tag = "2")]
    pub namespace: i64,
    #[prost(message, repeated, tag = "3")]
    pub runs: Vec<Run>,
}

/// Rows in a segment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Run {
    /// Key of the segment.
    #[prost(string, tag = "1")]
    pub segment: String,
    /// Number of the run in the segment.
    #[prost(uint32, tag = "2")]
    pub run: u32,
    #[prost(uint64, tag = "3")]
    pub rows: u64,
    /// Key groups that are valid in it: from here …
    #[prost(uint32, tag = "4")]
    pub first_group: u32,
    /// … to before here.
    #[prost(uint32, tag = "5")]
    pub end_group: u32,
    /// Where in the segment: from this byte …
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// … as many, with the index of its rows, which is further behind.
    #[prost(uint64, tag = "7")]
    pub length: u64,
    /// Length of the whole segment, whose footer is at its end.
    #[prost(uint64, tag = "8")]
    pub segment_bytes: u64,
}

/// Where a source stands: its splits over all subtasks, in the order of their ids.
pub fn splits_of(states: &[SubtaskState], operator: &str) -> Vec<SplitState> {
    let of_operator = states.iter().filter(|state| state.operator == operator);
    let mut splits: Vec<SplitState> = of_operator.flat_map(|state| &state.splits).cloned().collect();
    splits.sort_by(|a, b| a.id.cmp(&b.id));
    splits
}

/// A source split.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SplitState {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub position: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub watermark: i64,
    /// The split was read to its end.
    #[prost(bool, tag = "4")]
    pub is_done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_or_missing_byte_of_an_object_is_found() {
        let record = EpochRecord { generation: 3, manifest: "manifests/7-3".to_owned(), nonce: 9 };
        let bytes = encode(&record);
        assert_eq!(decode::<EpochRecord>(&bytes), Ok(record));

        for position in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[position] ^= 0x40;
            assert!(decode::<EpochRecord>(&broken).is_err(), "byte {position} flipped");
            assert!(decode::<EpochRecord>(&bytes[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_object_is_told() {
        let bytes = encode(&EpochRecord { generation: 3, manifest: "manifests/7-3".to_owned(), nonce: 9 });
        let length = bytes.len();
        let mut changed = bytes.clone();
        changed[length - 1] ^= 1;
        let body = b"\xff\xff";
        let other = [&MAGIC[..], &2_u32.to_le_bytes(), &crc32c::crc32c(body).to_le_bytes(), body].concat();
        let cases = [
            (vec![], Damage::Empty),
            (bytes[..length - 1].to_vec(), Damage::Short { length: length - 1, expected: length }),
            (
                bytes[..HEADER_BYTES - 1].to_vec(),
                Damage::Short { length: HEADER_BYTES - 1, expected: HEADER_BYTES },
            ),
            (bytes[..3].to_vec(), Damage::Short { length: 3, expected: HEADER_BYTES }),
            ([&bytes[..], &[0]].concat(), Damage::Long { length: length + 1, expected: length }),
            (b"<Error><Code>".to_vec(), Damage::Foreign { length: 13 }),
            (changed, Damage::Checksum { length }),
            (other, Damage::Other { length: HEADER_BYTES + 2 }),
        ];
        for (bytes, damage) in cases {
            assert_eq!(decode::<EpochRecord>(&bytes), Err(damage));
        }
    }
}
