//! Segments: state of one worker and epoch as bytes.
//!
//! ```text
//! magic │ rows │ rows │ … │ index │ index │ … │ footer (prost) │ u32 footer length │ u32 footer crc32c │ magic
//! ```
//! Rows and index are the sections of a block ([`BlockIndex`]), zstd-compressed, each with a crc32c. The footer tells the key groups
//! of each block, so that a reader fetches only those it owns. Blocks that earlier releases have written have no index: their rows
//! are hash, key and columns, the last two with their lengths before them. A row without columns says that its key was removed.

use std::borrow::Cow;
use std::ops::Range;

use prost::Message;
use snafu::{OptionExt, ResultExt, Snafu, ensure};

use super::block::{BlockDraft, BlockIndex, BlockRow};
use super::column::take;
use super::disk::{Piece, StateError};
use super::sorted::Turn;
#[cfg(test)]
use super::{sorted::SortedRows, table::TableSnapshot};
use crate::model::{KeyGroups, MaxParallelism};

const MAGIC: &[u8; 8] = b"MRSEG\0\0\x01";

/// Rows are cut into blocks of about this many uncompressed bytes: small enough to fetch by key group.
const BLOCK_BYTES: usize = 1 << 20;

/// No block is longer, by much: places in it have 32 bits.
const BLOCK_BYTES_MAX: usize = 64 << 20;

/// Level 1: nearly the speed of no compression at a third of the bytes.
const ZSTD_LEVEL: i32 = 1;

/// A segment could not be read or written.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
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
    #[snafu(transparent)]
    Disk { source: StateError },
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
    /// The index; nothing in blocks of earlier releases.
    #[prost(message, optional, tag = "9")]
    index: Option<Section>,
}

/// Where a section is.
#[derive(Clone, PartialEq, prost::Message)]
struct Section {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint64, tag = "2")]
    length: u64,
    #[prost(uint64, tag = "3")]
    raw_length: u64,
    #[prost(uint32, tag = "4")]
    crc32c: u32,
}

/// Collects the runs of a worker's subtasks into one segment.
pub struct SegmentWriter {
    bytes: Vec<u8>,
    /// Of the blocks so far, compressed, one after the other.
    indexes: Vec<u8>,
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
    /// Of its rows and their index.
    pub length: u64,
}

impl SegmentWriter {
    pub fn new() -> Self {
        SegmentWriter { bytes: MAGIC.to_vec(), indexes: Vec::new(), footer: Footer::default(), runs: 0 }
    }

    /// True if no run was added.
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Bytes so far, without the footer.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.indexes.len()
    }

    /// Adds the rows of a snapshot as one run; says where they are, or `None` if there are no rows.
    #[cfg(test)]
    pub fn add(
        &mut self,
        snapshot: &TableSnapshot,
        groups: MaxParallelism,
    ) -> Result<Option<WrittenRun>, SegmentError> {
        let mut rows = SortedRows::new(snapshot, groups);
        let mut run: Option<WrittenRun> = None;
        while let Some(turn) = rows.next_turn().unwrap() {
            run = Some(self.add_turn(&turn, run)?);
        }
        Ok(run)
    }

    /// Adds rows to the last run, if that is given, or as a new run.
    pub fn add_turn(&mut self, turn: &Turn<'_>, to: Option<WrittenRun>) -> Result<WrittenRun, SegmentError> {
        let mut run = to.unwrap_or_else(|| {
            self.runs += 1;
            WrittenRun { run: self.runs - 1, rows: 0, offset: self.bytes.len() as u64, length: 0 }
        });
        let mut draft = BlockDraft::default();
        let mut first_group = 0;
        let mut rows = turn.rows().peekable();
        while let Some(row) = rows.next() {
            if draft.index.len() == 0 {
                first_group = row.group;
            }
            run.rows += 1;
            draft.push(&row);
            let next = rows.peek().map(|next| next.group);
            // A key group is not cut in two if it is not very large, so that a reader's range decides whole blocks.
            let is_long = draft.rows.len() >= BLOCK_BYTES && next != Some(row.group);
            if next.is_none() || is_long || draft.rows.len() >= BLOCK_BYTES_MAX {
                run.length += self.block(run.run, first_group..row.group + 1, &std::mem::take(&mut draft))?;
            }
        }
        Ok(run)
    }

    /// Returns the bytes of the block.
    fn block(&mut self, run: u32, groups: KeyGroups, draft: &BlockDraft) -> Result<u64, SegmentError> {
        let rows = section(&draft.rows, &mut self.bytes)?;
        let index = section(&draft.index.encode(), &mut self.indexes)?;
        self.footer.blocks.push(Block {
            run,
            first_group: groups.start,
            last_group: groups.end - 1,
            offset: rows.offset,
            length: rows.length,
            raw_length: rows.raw_length,
            crc32c: rows.crc32c,
            rows: draft.index.len() as u64,
            index: Some(index.clone()),
        });
        Ok(rows.length + index.length)
    }

    /// The finished object.
    pub fn finish(mut self) -> Vec<u8> {
        let indexes_start = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&self.indexes);
        for index in self.footer.blocks.iter_mut().filter_map(|block| block.index.as_mut()) {
            index.offset += indexes_start;
        }
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

/// Appends a section.
fn section(raw: &[u8], bytes: &mut Vec<u8>) -> Result<Section, SegmentError> {
    let compressed = zstd::bulk::compress(raw, ZSTD_LEVEL).context(CompressSnafu)?;
    let section = Section {
        offset: bytes.len() as u64,
        length: compressed.len() as u64,
        raw_length: raw.len() as u64,
        crc32c: crc32c::crc32c(&compressed),
    };
    bytes.extend_from_slice(&compressed);
    Ok(section)
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
    parts: Vec<(u64, FetchedPart<'a>)>,
    index: SegmentIndex,
}

/// Some bytes of a segment.
pub enum FetchedPart<'a> {
    InMemory(Cow<'a, [u8]>),
    /// On the local disk, so many bytes.
    OnDisk(Piece, usize),
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

    /// The bytes that hold these key groups of these runs, without what is between, in ranges of whole sections that are not longer
    /// than `longest` if they have more than one.
    pub fn ranges(&self, wanted: &[(u32, KeyGroups)], longest: u64) -> Vec<Range<u64>> {
        let mut ranges = self.ranges_of_rows(wanted, longest);
        ranges.extend(self.ranges_of_indexes(wanted));
        ranges
    }

    /// The same, of the rows alone.
    pub fn ranges_of_rows(&self, wanted: &[(u32, KeyGroups)], longest: u64) -> Vec<Range<u64>> {
        joined(self.blocks(wanted).map(Block::section_of_rows), longest)
    }

    /// The same, of what tells which rows there are.
    pub fn ranges_of_indexes(&self, wanted: &[(u32, KeyGroups)]) -> Vec<Range<u64>> {
        joined(self.blocks(wanted).filter_map(|block| block.index.clone()), u64::MAX)
    }

    /// True if the blocks with these key groups tell which rows they have.
    pub fn has_indexes(&self, wanted: &[(u32, KeyGroups)]) -> bool {
        self.blocks(wanted).all(|block| block.index.is_some())
    }

    /// Blocks are listed in their order in the segment.
    fn blocks(&self, wanted: &[(u32, KeyGroups)]) -> impl Iterator<Item = &Block> {
        let is_wanted =
            |block: &&Block| wanted.iter().any(|(run, groups)| block.run == *run && block.overlaps(groups));
        self.footer.blocks.iter().filter(is_wanted)
    }
}

/// The bytes of sections, joined where nothing is between them.
fn joined(sections: impl Iterator<Item = Section>, longest: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for section in sections {
        let end = section.offset.saturating_add(section.length);
        match ranges.last_mut() {
            Some(last) if last.end == section.offset && end - last.start <= longest => last.end = end,
            _ => ranges.push(section.offset..end),
        }
    }
    ranges
}

impl Block {
    fn overlaps(&self, groups: &KeyGroups) -> bool {
        self.first_group < groups.end && self.last_group >= groups.start
    }

    fn section_of_rows(&self) -> Section {
        Section { offset: self.offset, length: self.length, raw_length: self.raw_length, crc32c: self.crc32c }
    }
}

/// A block whose rows are still to come.
pub struct IndexedBlock {
    pub index: BlockIndex,
    rows: Section,
}

impl IndexedBlock {
    /// Where its rows begin in the segment.
    pub fn offset(&self) -> u64 {
        self.rows.offset
    }

    /// The rows, in bytes of the segment that begin at `start`.
    pub fn read(&self, start: u64, bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
        let part = FetchedPart::InMemory(Cow::Borrowed(bytes));
        self.rows.read(start, &part)
    }
}

impl Section {
    fn read(&self, start: u64, part: &FetchedPart<'_>) -> Result<Vec<u8>, SegmentError> {
        let from = self.offset.checked_sub(start).context(MalformedSnafu { part: "footer" })? as usize;
        let to = from.checked_add(self.length as usize).context(MalformedSnafu { part: "footer" })?;
        let compressed = part.bytes(from..to)?;
        let name = || format!("block at byte {}", self.offset);
        ensure!(crc32c::crc32c(&compressed) == self.crc32c, ChecksumSnafu { part: name() });
        zstd::bulk::decompress(&compressed, self.raw_length as usize).context(DecompressSnafu)
    }
}

impl<'a> SegmentReader<'a> {
    /// Checks the frame and the footer of a whole segment; blocks are checked when they are read.
    pub fn open(bytes: impl Into<Cow<'a, [u8]>>) -> Result<Self, SegmentError> {
        let bytes = bytes.into();
        ensure!(bytes.len() >= MAGIC.len() + 8 + MAGIC.len(), TruncatedSnafu { bytes: bytes.len() });
        ensure!(bytes.starts_with(MAGIC), MalformedSnafu { part: "start" });
        match SegmentIndex::in_tail(&bytes)? {
            SegmentTail::Index(index) => {
                Ok(SegmentReader { parts: vec![(0, FetchedPart::InMemory(bytes))], index })
            }
            SegmentTail::Longer(_) => MalformedSnafu { part: "footer" }.fail(),
        }
    }

    /// Of parts that were fetched, each with where it begins.
    pub fn of_parts(index: SegmentIndex, parts: Vec<(u64, FetchedPart<'static>)>) -> SegmentReader<'static> {
        SegmentReader { parts, index }
    }

    /// Checks every block.
    pub fn verify(&self) -> Result<(), SegmentError> {
        self.index.footer.blocks.iter().try_for_each(|block| {
            self.section(&block.section_of_rows())?;
            self.index_of(block).map(|_| ())
        })
    }

    /// Calls `each` for every row of a run whose key group is in `groups`.
    pub fn read(
        &self,
        run: u32,
        groups: &KeyGroups,
        all: MaxParallelism,
        mut each: impl FnMut(BlockRow<'_>) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let mut give = |row: BlockRow<'_>| match groups.contains(&all.group_of(row.hash)) {
            true => each(row).context(MalformedSnafu { part: "row" }),
            false => Ok(()),
        };
        for block in self.index.blocks(&[(run, groups.clone())]) {
            let raw = self.section(&block.section_of_rows())?;
            let malformed = MalformedSnafu { part: "block" };
            match self.index_of(block)? {
                Some(index) => {
                    for row in 0..index.len() {
                        give(index.row(row, &raw).context(malformed)?)?;
                    }
                }
                None => {
                    let mut rest = raw.as_slice();
                    for _ in 0..block.rows {
                        give(read_row(&mut rest).context(malformed)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The blocks with key groups of a run, without their rows.
    pub fn indexed(&self, run: u32, groups: &KeyGroups) -> Result<Vec<IndexedBlock>, SegmentError> {
        let indexed = |block: &Block| {
            let index = self.index_of(block)?.context(MalformedSnafu { part: "footer" })?;
            Ok(IndexedBlock { index, rows: block.section_of_rows() })
        };
        self.index.blocks(&[(run, groups.clone())]).map(indexed).collect()
    }

    /// The index of a block; earlier releases have written none.
    fn index_of(&self, block: &Block) -> Result<Option<BlockIndex>, SegmentError> {
        let Some(section) = &block.index else { return Ok(None) };
        let index = BlockIndex::decode(&self.section(section)?, block.rows as usize);
        index.map(Some).context(MalformedSnafu { part: "index" })
    }

    fn section(&self, section: &Section) -> Result<Vec<u8>, SegmentError> {
        let holds = |part: &&(u64, FetchedPart<'_>)| part.0 <= section.offset;
        let (start, part) = self.parts.iter().rfind(holds).context(TruncatedSnafu { bytes: 0_usize })?;
        section.read(*start, part)
    }
}

impl FetchedPart<'_> {
    fn bytes(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, SegmentError> {
        match self {
            FetchedPart::InMemory(bytes) => {
                let found = bytes.get(range).context(TruncatedSnafu { bytes: bytes.len() })?;
                Ok(Cow::Borrowed(found))
            }
            FetchedPart::OnDisk(piece, bytes) => {
                ensure!(range.end <= *bytes, TruncatedSnafu { bytes: *bytes });
                Ok(Cow::Owned(piece.read(range.start as u64, range.len())?))
            }
        }
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
    use crate::state::Extent;
    use std::sync::Arc;

    use super::*;
    use crate::model::key_group::hash_of;
    use crate::state::{StateColumn, StateTable, StateType};

    fn filled(keys: u64) -> StateTable {
        let mut table = StateTable::new(Arc::new([StateType::I64, StateType::Bytes]));
        for key in 0..keys {
            let bytes = key.to_be_bytes();
            let slot = table.slot(hash_of(&bytes), &bytes).unwrap();
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
        writer.add(&table.snapshot(Extent::Everything).unwrap(), groups).unwrap();
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
            reader
                .read(0, &range, groups, |row| restored.restore(row.hash, row.key, row.values).ok())
                .unwrap();
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
        let run = writer.add(&table.snapshot(Extent::Changes).unwrap(), groups).unwrap().unwrap();
        let second = writer.finish();

        let mut restored = StateTable::new(Arc::new([StateType::I64, StateType::Bytes]));
        for bytes in [&first, &second] {
            let reader = SegmentReader::open(bytes).unwrap();
            reader
                .read(0, &(0..8), groups, |row| restored.restore(row.hash, row.key, row.values).ok())
                .unwrap();
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
