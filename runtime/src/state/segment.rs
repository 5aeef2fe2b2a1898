//! Segments: state of one worker and epoch as bytes.
//!
//! ```text
//! magic │ block │ block │ … │ footer (prost) │ u32 footer length │ u32 footer crc32c │ magic
//! ```
//! A block holds rows of one operator, subtask and table, sorted by key group and key, zstd-compressed, with a
//! crc32c. The footer tells the key groups of each block, so that a reader fetches only those it owns. A row without values
//! says that its key was removed.

use std::borrow::Cow;
use std::ops::Range;

use prost::Message;
use snafu::{OptionExt, ResultExt, Snafu, ensure};

use super::column::take;
use super::table::TableSnapshot;
use crate::model::{KeyGroups, MaxParallelism};

const MAGIC: &[u8; 8] = b"MRSEG\0\0\x01";

/// Rows are cut into blocks of about this many uncompressed bytes: small enough to fetch by key group.
const BLOCK_BYTES: usize = 1 << 20;

/// In place of the number of a chunk: the row says that its key was removed.
const REMOVED: u32 = u32::MAX;

/// Level 1: nearly the speed of no compression at a third of the bytes.
const ZSTD_LEVEL: i32 = 1;

/// A segment could not be read or written.
#[derive(Debug, Snafu)]
pub enum SegmentError {
    #[snafu(display("the segment is cut short: {bytes} bytes"))]
    Truncated { bytes: usize },
    #[snafu(display("the segment's {part} does not have its checksum"))]
    Checksum { part: String },
    #[snafu(display("the segment's {part} is malformed"))]
    Malformed { part: String },
    #[snafu(display("failed to compress a block"))]
    Compress { source: std::io::Error },
    #[snafu(display("failed to decompress a block"))]
    Decompress { source: std::io::Error },
}

/// Footer of a segment.
#[derive(Clone, PartialEq, prost::Message)]
struct Footer {
    #[prost(message, repeated, tag = "1")]
    blocks: Vec<Block>,
}

/// Where rows of a run of key groups are.
#[derive(Clone, PartialEq, prost::Message)]
struct Block {
    /// Which run of the segment the block belongs to; runs are numbered from 0.
    #[prost(uint32, tag = "1")]
    run: u32,
    #[prost(uint32, tag = "2")]
    first_group: u32,
    #[prost(uint32, tag = "3")]
    last_group: u32,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(uint64, tag = "5")]
    length: u64,
    #[prost(uint64, tag = "6")]
    raw_length: u64,
    #[prost(uint32, tag = "7")]
    crc32c: u32,
    #[prost(uint64, tag = "8")]
    rows: u64,
}

/// Collects the runs of a worker's subtasks into one segment.
pub struct SegmentWriter {
    bytes: Vec<u8>,
    footer: Footer,
    runs: u32,
}

/// A run in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRun {
    pub run: u32,
    pub rows: u64,
    /// Its first byte.
    pub offset: u64,
    pub length: u64,
}

/// One row of a segment.
pub struct BlockRow<'a> {
    pub hash: u64,
    pub key: &'a [u8],
    /// The columns, in the form of [`StateColumn::write`](super::StateColumn::write); nothing for a key that was removed.
    pub values: &'a [u8],
}

impl SegmentWriter {
    pub fn new() -> Self {
        SegmentWriter { bytes: MAGIC.to_vec(), footer: Footer::default(), runs: 0 }
    }

    /// True if no run was added.
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Adds the rows of a snapshot; says where they are, or `None` if there are no rows.
    pub fn add(
        &mut self,
        snapshot: &TableSnapshot,
        groups: MaxParallelism,
    ) -> Result<Option<WrittenRun>, SegmentError> {
        let mut rows = Vec::new();
        for (number, (chunk, dirty)) in snapshot.chunks.iter().enumerate() {
            let slots = (0..chunk.len()).filter(|slot| dirty.as_ref().is_none_or(|dirty| dirty.has(*slot)));
            rows.extend(slots.map(|slot| (groups.group_of(chunk.hashes[slot]), number as u32, slot as u32)));
        }
        let removed = &snapshot.removed;
        let gone = removed.hashes.iter().enumerate();
        rows.extend(gone.map(|(number, hash)| (groups.group_of(*hash), REMOVED, number as u32)));
        if rows.is_empty() {
            return Ok(None);
        }
        let key = |row: &(u32, u32, u32)| match row.1 {
            REMOVED => removed.keys.key(row.2 as usize),
            chunk => snapshot.chunks[chunk as usize].0.keys.key(row.2 as usize),
        };
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a).cmp(key(b))));
        let run = self.runs;
        let offset = self.bytes.len() as u64;
        self.runs += 1;
        let mut raw = Vec::new();
        let mut first = 0;
        for (index, row) in rows.iter().enumerate() {
            let slot = row.2 as usize;
            match row.1 {
                REMOVED => write_row(removed.hashes[slot], removed.keys.key(slot), |_| {}, &mut raw),
                chunk => {
                    let chunk = &snapshot.chunks[chunk as usize].0;
                    let values =
                        |out: &mut Vec<u8>| chunk.columns.iter().for_each(|column| column.write(slot, out));
                    write_row(chunk.hashes[slot], chunk.keys.key(slot), values, &mut raw);
                }
            }
            let is_last = index + 1 == rows.len();
            // A key group is never cut in two, so that a reader's range decides whole blocks.
            let is_boundary = is_last || rows[index + 1].0 != row.0;
            if is_last || (raw.len() >= BLOCK_BYTES && is_boundary) {
                self.block(run, rows[first].0, row.0, (index + 1 - first) as u64, &raw)?;
                raw.clear();
                first = index + 1;
            }
        }
        let length = self.bytes.len() as u64 - offset;
        Ok(Some(WrittenRun { run, rows: rows.len() as u64, offset, length }))
    }

    fn block(
        &mut self,
        run: u32,
        first_group: u32,
        last_group: u32,
        rows: u64,
        raw: &[u8],
    ) -> Result<(), SegmentError> {
        let compressed = zstd::bulk::compress(raw, ZSTD_LEVEL).context(CompressSnafu)?;
        self.footer.blocks.push(Block {
            run,
            first_group,
            last_group,
            offset: self.bytes.len() as u64,
            length: compressed.len() as u64,
            raw_length: raw.len() as u64,
            crc32c: crc32c::crc32c(&compressed),
            rows,
        });
        self.bytes.extend_from_slice(&compressed);
        Ok(())
    }

    /// The finished object.
    pub fn finish(mut self) -> Vec<u8> {
        let footer = self.footer.encode_to_vec();
        self.bytes.extend_from_slice(&footer);
        self.bytes.extend((footer.len() as u32).to_le_bytes());
        self.bytes.extend(crc32c::crc32c(&footer).to_le_bytes());
        self.bytes.extend_from_slice(MAGIC);
        self.bytes
    }
}

impl Default for SegmentWriter {
    fn default() -> Self {
        SegmentWriter::new()
    }
}

fn write_row(hash: u64, key: &[u8], values: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend(hash.to_le_bytes());
    out.extend((key.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    let place = out.len();
    out.extend([0; 4]);
    values(out);
    let length = (out.len() - place - 4) as u32;
    out[place..place + 4].copy_from_slice(&length.to_le_bytes());
}

/// What a segment holds where.
#[derive(Clone)]
pub struct SegmentIndex {
    footer: Footer,
}

/// The last bytes of a segment.
pub enum SegmentTail {
    Index(SegmentIndex),
    /// The index begins before them: so many bytes from the end are needed.
    Longer(usize),
}

/// Reads runs out of a segment, or out of the parts of it that were fetched.
pub struct SegmentReader<'a> {
    /// Each with where it begins.
    parts: Vec<(u64, Cow<'a, [u8]>)>,
    index: SegmentIndex,
}

/// Reads a whole segment and compares its checksums; says what is wrong.
///
/// # Errors
/// What is wrong.
pub fn verify_segment(bytes: &[u8]) -> Result<(), String> {
    let verified = SegmentReader::open(bytes).and_then(|reader| reader.verify());
    verified.map_err(|error| crate::error::chain(&error))
}

impl SegmentIndex {
    /// Looks for it in the last bytes of a segment.
    pub fn in_tail(bytes: &[u8]) -> Result<SegmentTail, SegmentError> {
        let tail_len = 8 + MAGIC.len();
        ensure!(bytes.len() >= tail_len, TruncatedSnafu { bytes: bytes.len() });
        let (body, mut tail) = bytes.split_at(bytes.len() - tail_len);
        ensure!(tail.ends_with(MAGIC), TruncatedSnafu { bytes: bytes.len() });
        let malformed = MalformedSnafu { part: "footer" };
        let length = u32::from_le_bytes(take(&mut tail).context(malformed)?) as usize;
        let crc = u32::from_le_bytes(take(&mut tail).context(MalformedSnafu { part: "footer" })?);
        if length > body.len() {
            return Ok(SegmentTail::Longer(length + tail_len));
        }
        let footer = &body[body.len() - length..];
        ensure!(crc32c::crc32c(footer) == crc, ChecksumSnafu { part: "footer" });
        let footer = Footer::decode(footer).ok().context(MalformedSnafu { part: "footer" })?;
        Ok(SegmentTail::Index(SegmentIndex { footer }))
    }

    /// The bytes that hold these key groups of these runs, without what is between.
    pub fn ranges(&self, wanted: &[(u32, KeyGroups)]) -> Vec<Range<u64>> {
        let is_wanted =
            |block: &&Block| wanted.iter().any(|(run, groups)| block.run == *run && block.overlaps(groups));
        let mut ranges: Vec<Range<u64>> = Vec::new();
        // Blocks are listed in their order in the segment.
        for block in self.footer.blocks.iter().filter(is_wanted) {
            let end = block.offset.saturating_add(block.length);
            match ranges.last_mut() {
                Some(last) if last.end == block.offset => last.end = end,
                _ => ranges.push(block.offset..end),
            }
        }
        ranges
    }
}

impl Block {
    fn overlaps(&self, groups: &KeyGroups) -> bool {
        self.first_group < groups.end && self.last_group >= groups.start
    }
}

impl<'a> SegmentReader<'a> {
    /// Checks the frame and the footer of a whole segment; blocks are checked when they are read.
    pub fn open(bytes: impl Into<Cow<'a, [u8]>>) -> Result<Self, SegmentError> {
        let bytes = bytes.into();
        ensure!(bytes.len() >= MAGIC.len() + 8 + MAGIC.len(), TruncatedSnafu { bytes: bytes.len() });
        ensure!(bytes.starts_with(MAGIC), MalformedSnafu { part: "start" });
        match SegmentIndex::in_tail(&bytes)? {
            SegmentTail::Index(index) => Ok(SegmentReader { parts: vec![(0, bytes)], index }),
            SegmentTail::Longer(_) => MalformedSnafu { part: "footer" }.fail(),
        }
    }

    /// Of parts that were fetched, each with where it begins.
    pub fn of_parts(index: SegmentIndex, parts: Vec<(u64, Vec<u8>)>) -> SegmentReader<'static> {
        let parts = parts.into_iter().map(|(start, bytes)| (start, Cow::Owned(bytes))).collect();
        SegmentReader { parts, index }
    }

    /// Checks every block.
    pub fn verify(&self) -> Result<(), SegmentError> {
        self.index.footer.blocks.iter().try_for_each(|block| self.raw(block).map(|_| ()))
    }

    /// Calls `each` for every row of a run whose key group is in `groups`.
    pub fn read(
        &self,
        run: u32,
        groups: &KeyGroups,
        all: MaxParallelism,
        mut each: impl FnMut(BlockRow<'_>) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let is_wanted = |block: &&Block| block.run == run && block.overlaps(groups);
        for block in self.index.footer.blocks.iter().filter(is_wanted) {
            let raw = self.raw(block)?;
            let mut rest = raw.as_slice();
            for _ in 0..block.rows {
                let row = read_row(&mut rest).context(MalformedSnafu { part: "block" })?;
                if groups.contains(&all.group_of(row.hash)) {
                    each(row).context(MalformedSnafu { part: "row" })?;
                }
            }
        }
        Ok(())
    }

    fn raw(&self, block: &Block) -> Result<Vec<u8>, SegmentError> {
        let holds = |part: &&(u64, Cow<'_, [u8]>)| part.0 <= block.offset;
        let (start, bytes) = self.parts.iter().rfind(holds).context(TruncatedSnafu { bytes: 0_usize })?;
        let from = (block.offset - start) as usize;
        let to = from.checked_add(block.length as usize).context(MalformedSnafu { part: "footer" })?;
        let compressed = bytes.get(from..to).context(TruncatedSnafu { bytes: bytes.len() })?;
        let part = || format!("block at byte {}", block.offset);
        ensure!(crc32c::crc32c(compressed) == block.crc32c, ChecksumSnafu { part: part() });
        zstd::bulk::decompress(compressed, block.raw_length as usize).context(DecompressSnafu)
    }
}

fn read_row<'a>(rest: &mut &'a [u8]) -> Option<BlockRow<'a>> {
    let hash = u64::from_le_bytes(take(rest)?);
    let key = sized(rest)?;
    let values = sized(rest)?;
    Some(BlockRow { hash, key, values })
}

fn sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::key_group::hash_of;
    use crate::state::{StateColumn, StateTable, StateType};

    fn filled(keys: u64) -> StateTable {
        let mut table = StateTable::new(Arc::new([StateType::I64, StateType::Bytes]));
        for key in 0..keys {
            let bytes = key.to_be_bytes();
            let slot = table.slot(hash_of(&bytes), &bytes);
            let mut chunks = table.write(&[slot]);
            let (chunk, offset) = chunks.at(slot);
            if let StateColumn::I64(values, valid) = &mut chunk.columns[0] {
                values[offset] = key as i64 * 3;
                valid[offset] = key % 2 == 0;
            }
            if let StateColumn::Bytes(values) = &mut chunk.columns[1] {
                values[offset] = (key % 3 == 0).then(|| Arc::from(bytes.as_slice()));
            }
        }
        table
    }

    fn segment(table: &mut StateTable, groups: MaxParallelism) -> Vec<u8> {
        let mut writer = SegmentWriter::new();
        writer.add(&table.snapshot(true), groups).unwrap();
        writer.finish()
    }

    #[test]
    fn disjoint_ranges_restore_the_whole_table() {
        let groups = MaxParallelism::new(64).unwrap();
        let mut table = filled(10_000);
        let bytes = segment(&mut table, groups);
        let reader = SegmentReader::open(&bytes).unwrap();
        let mut restored = StateTable::new(Arc::new([StateType::I64, StateType::Bytes]));

        for range in [0..10, 10..11, 11..64] {
            reader.read(0, &range, groups, |row| restored.restore(row.hash, row.key, row.values)).unwrap();
        }

        assert_eq!(restored.len(), 10_000);
        assert_eq!(segment(&mut restored, groups), bytes);
    }

    #[test]
    fn changes_bring_a_table_to_where_it_was() {
        let groups = MaxParallelism::new(8).unwrap();
        let mut table = filled(1000);
        let first = segment(&mut table, groups);
        let gone: Vec<u32> = (0..1000).filter(|slot| slot % 3 == 0).collect();
        table.remove(&gone);
        let mut writer = SegmentWriter::new();
        let run = writer.add(&table.snapshot(false), groups).unwrap().unwrap();
        let second = writer.finish();

        let mut restored = StateTable::new(Arc::new([StateType::I64, StateType::Bytes]));
        for bytes in [&first, &second] {
            let reader = SegmentReader::open(bytes).unwrap();
            reader.read(0, &(0..8), groups, |row| restored.restore(row.hash, row.key, row.values)).unwrap();
        }

        assert_eq!(run.rows, 334);
        assert_eq!(restored.len(), 666);
        assert_eq!(segment(&mut restored, groups), segment(&mut table, groups));
    }

    #[test]
    fn any_flipped_or_missing_byte_is_found() {
        let groups = MaxParallelism::new(8).unwrap();
        let bytes = segment(&mut filled(100), groups);
        let is_sound = |bytes: &[u8]| SegmentReader::open(bytes).and_then(|reader| reader.verify()).is_ok();
        assert!(is_sound(&bytes));

        for position in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[position] ^= 0x40;

            assert!(!is_sound(&broken), "byte {position} flipped");
            assert!(!is_sound(&bytes[..position]), "cut at {position}");
        }
    }
}
