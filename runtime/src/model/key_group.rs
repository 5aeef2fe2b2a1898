//! From a key's hash to its key group, and from there to the subtask that owns it.
//!
//! State depends on these numbers for ever (key encoding 1).

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::ids::Subtask;

/// Number of key groups of a job: a power of two up to 32768, fixed at the first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxParallelism(u32);

/// A contiguous range of key groups.
pub type KeyGroups = Range<u32>;

impl MaxParallelism {
    /// Accepts powers of two from 1 to 32768.
    pub fn new(groups: u32) -> Option<Self> {
        (groups.is_power_of_two() && groups <= 32_768).then_some(MaxParallelism(groups))
    }

    /// The number of key groups.
    pub fn groups(self) -> u32 {
        self.0
    }

    /// The key group of a hash: its top bits.
    pub fn group_of(self, hash: u64) -> u32 {
        let bits = self.0.trailing_zeros();
        if bits == 0 { 0 } else { (hash >> (64 - bits)) as u32 }
    }

    /// The key groups that a subtask owns, of `parallelism` subtasks.
    pub fn owned_by(self, subtask: Subtask, parallelism: u32) -> KeyGroups {
        let first =
            |subtask: u32| (u64::from(subtask) * u64::from(self.0)).div_ceil(u64::from(parallelism)) as u32;
        first(subtask.0)..first(subtask.0 + 1)
    }

    /// The subtask that owns a key group.
    pub fn owner_of(self, group: u32, parallelism: u32) -> Subtask {
        Subtask((u64::from(group) * u64::from(parallelism) / u64::from(self.0)) as u32)
    }
}

/// Hash of an encoded key.
pub fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Bits of a hash that choose the key group, at most.
const GROUP_BITS: u32 = 15;

/// Hash of a key that belongs to another one and must be in its key group wherever that goes: the group's bits of the owner's
/// hash, and the others of its own. Stored with state, as all hashes are.
pub fn hash_within(owner: u64, key: &[u8]) -> u64 {
    let own = u64::MAX >> GROUP_BITS;
    (owner & !own) | (xxh3_64(key) & own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_one_owner_and_ranges_are_contiguous() {
        for groups in [1, 2, 8, 1024, 32_768] {
            let all = MaxParallelism::new(groups).unwrap();
            for parallelism in [1, 2, 3, 5, 7, 64].into_iter().filter(|p| *p <= groups) {
                let mut next = 0;
                for subtask in 0..parallelism {
                    let range = all.owned_by(Subtask(subtask), parallelism);

                    assert_eq!(range.start, next, "{groups} groups, subtask {subtask} of {parallelism}");
                    assert!(range.clone().all(|group| all.owner_of(group, parallelism) == Subtask(subtask)));
                    next = range.end;
                }
                assert_eq!(next, groups);
            }
        }
    }

    #[test]
    fn the_group_is_the_top_bits_of_the_hash() {
        let all = MaxParallelism::new(1024).unwrap();

        assert_eq!(all.group_of(0), 0);
        assert_eq!(all.group_of(u64::MAX), 1023);
        assert_eq!(all.group_of(1 << 54), 1);
        assert_eq!(MaxParallelism::new(1).unwrap().group_of(u64::MAX), 0);
        assert_eq!(MaxParallelism::new(1000), None);
    }

    #[test]
    fn hashes_are_those_of_the_first_release() {
        assert_eq!(hash_of(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash_of(&[1, 0x80, 0, 0, 0, 0, 0, 0, 1]), 0x8245_2dc3_791a_853e);
    }
}
