//! Blocks of segments: rows of some key groups, sorted, in two sections that are compressed each for itself.
//!
//! ```text
//! index: hashes (u64 each) │ checks (u32) │ lengths of keys (u32) │ where rows end (u32)
//! rows:  key │ columns │ key │ columns │ …
//! ```
//! The index tells which keys are there without the rows, so that a restore can begin with it. Two keys with one hash and one check
//! are taken for the same then: 96 bits, which of a thousand million keys two share once in 160 thousand million restores.

use super::sorted::SortedRow;

/// Bytes of a row's index.
const INDEX_BYTES: usize = 8 + 3 * 4;

/// One row of a segment.
pub struct BlockRow<'a> {
    pub hash: u64,
    pub key: &'a [u8],
    /// The columns, in the form of [`StateColumn::write`](super::StateColumn::write); nothing for a key that was removed.
    pub values: &'a [u8],
}

/// Rows of a block that is written.
#[derive(Default)]
pub struct BlockDraft {
    pub index: BlockIndex,
    pub rows: Vec<u8>,
}

/// Which rows are in a block, and where.
#[derive(Debug, Default, Clone)]
pub struct BlockIndex {
    pub hashes: Vec<u64>,
    pub checks: Vec<u32>,
    key_lengths: Vec<u32>,
    ends: Vec<u32>,
}

/// Beside the hash, what a key is known by.
pub fn check_of(key: &[u8]) -> u32 {
    crc32c::crc32c(key)
}

impl BlockDraft {
    /// Appends a row.
    pub fn push(&mut self, row: &SortedRow<'_>) {
        self.rows.extend_from_slice(row.key);
        row.write_values(&mut self.rows);
        self.index.hashes.push(row.hash);
        self.index.checks.push(check_of(row.key));
        self.index.key_lengths.push(row.key.len() as u32);
        self.index.ends.push(self.rows.len() as u32);
    }
}

impl BlockIndex {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The section.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * INDEX_BYTES);
        bytes.extend(self.hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        for numbers in [&self.checks, &self.key_lengths, &self.ends] {
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        bytes
    }

    /// The index in a section of so many rows; `None` if it is malformed.
    pub fn decode(bytes: &[u8], rows: usize) -> Option<Self> {
        let (hashes, rest) = bytes.split_at_checked(rows.checked_mul(8)?)?;
        let hashes: Vec<u64> = hashes.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
        let numbers: Vec<u32> = rest.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
        if rest.len() != rows.checked_mul(12)? {
            return None;
        }
        let (checks, rest) = numbers.split_at(rows);
        let (key_lengths, ends) = rest.split_at(rows);
        let index =
            BlockIndex { hashes, checks: checks.into(), key_lengths: key_lengths.into(), ends: ends.into() };
        let fit = |row: usize| {
            (index.start(row) as u64 + u64::from(index.key_lengths[row])) <= u64::from(index.ends[row])
        };
        (0..rows).all(fit).then_some(index)
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// True if the row says that its key was removed.
    pub fn is_removed(&self, row: usize) -> bool {
        self.start(row) + self.key_lengths[row] as usize == self.ends[row] as usize
    }

    /// Bytes of a row.
    pub fn row_bytes(&self, row: usize) -> usize {
        self.ends[row] as usize - self.start(row)
    }

    /// A row in the section of rows; `None` if that is shorter.
    pub fn row<'a>(&self, row: usize, rows: &'a [u8]) -> Option<BlockRow<'a>> {
        let row_bytes = rows.get(self.start(row)..self.ends[row] as usize)?;
        let (key, values) = row_bytes.split_at(self.key_lengths[row] as usize);
        Some(BlockRow { hash: self.hashes[row], key, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_cannot_be_is_refused() {
        let index =
            BlockIndex { hashes: vec![7, 8], checks: vec![1, 2], key_lengths: vec![3, 2], ends: vec![5, 7] };
        let bytes = index.encode();
        let read = BlockIndex::decode(&bytes, 2).unwrap();
        assert_eq!((read.hashes.as_slice(), read.ends.as_slice()), (&[7, 8][..], &[5, 7][..]));
        assert!(!read.is_removed(0) && read.is_removed(1), "a row without values");
        let row = read.row(0, b"keyvv").unwrap();
        assert_eq!((row.key, row.values), (&b"key"[..], &b"vv"[..]));
        assert!(read.row(1, b"keyvv").is_none());

        assert!(BlockIndex::decode(&bytes[1..], 2).is_none());
        assert!(BlockIndex::decode(&bytes, 3).is_none());
        for wrong in [
            BlockIndex { ends: vec![5, 4], ..index.clone() },
            BlockIndex { key_lengths: vec![6, 2], ..index.clone() },
            BlockIndex { key_lengths: vec![3, u32::MAX], ..index },
        ] {
            assert!(BlockIndex::decode(&wrong.encode(), 2).is_none(), "{wrong:?}");
        }
    }
}
