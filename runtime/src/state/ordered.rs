//! A multiset in order for each key, in a state table: what is the least, the greatest or the next of values that come and go.
//!
//! It is a B+ tree (Bayer and McCreight: "Organization and maintenance of large ordered indexes", 1972) whose nodes are rows of the
//! table, so that a change writes one small row, checkpoints take what has changed, and nodes that nobody uses go to the disk. Few
//! values of a key are one node, under the very key; others have the node's number behind it.
//!
//! ```text
//! key      ─▶ inner node: next number, (first value, number) …
//! key ‖ 1  ─▶ leaf: (value, how often) …
//! key ‖ 2  ─▶ leaf: (value, how often) …
//! ```

use std::ops::Range;
use std::sync::Arc;

use super::column::{StateColumn, StateType};
use super::disk::StateError;
use super::table::StateTable;
use crate::model::key_group::hash_within;

/// A node with more bytes becomes two. Small ones cost more levels, large ones more bytes that each change writes.
const NODE_BYTES_MAX: usize = 512;

/// A node with fewer bytes becomes one with a neighbour, if there is room.
const NODE_BYTES_MIN: usize = NODE_BYTES_MAX / 4;
const MERGED_BYTES_MAX: usize = NODE_BYTES_MAX * 3 / 4;

/// The number of the node that stands under the key itself.
const ROOT: u32 = 0;

/// The first byte of a node.
const LEAF: u8 = 0;
const INNER: u8 = 1;

/// Columns of a table of multisets.
pub fn layout() -> Arc<[StateType]> {
    [StateType::Bytes].into()
}

/// The multiset of one key.
pub struct Ordered<'a> {
    table: &'a mut StateTable,
    hash: u64,
    key: &'a [u8],
}

/// A node: its form, the number of the next new node (of the root), and entries in the order of their keys.
#[derive(Clone)]
struct Node {
    is_leaf: bool,
    next: u32,
    entries: Vec<u8>,
}

/// An entry of a node: a value and how often it is there, or the least value below another node and that node's number.
#[derive(Clone, Copy)]
struct Entry<'a> {
    at: usize,
    end: usize,
    key: &'a [u8],
    value: i64,
}

/// A node on the way down, and which of its entries leads on.
struct Step {
    number: u32,
    node: Node,
    entry: Range<usize>,
}

impl<'a> Ordered<'a> {
    /// The multiset of a key, which is in the key group of `hash`.
    pub fn new(table: &'a mut StateTable, hash: u64, key: &'a [u8]) -> Self {
        Ordered { table, hash, key }
    }

    /// Adds a value so many times; fewer than none takes it away.
    pub fn add(&mut self, value: &[u8], times: i64) -> Result<(), StateError> {
        let (mut path, number, mut leaf) = self.descend(value)?;
        let found = leaf.entries().take_while(|entry| entry.key <= value).last();
        let (place, before) = match found {
            Some(entry) if entry.key == value => (entry.at..entry.end, entry.value),
            Some(entry) => (entry.end..entry.end, 0),
            None => (0..0, 0),
        };
        leaf.replace(place, value, before + times);
        self.settle(&mut path, number, leaf)
    }

    /// The first value of a range that is there, in order or against it.
    pub fn first(&mut self, range: Range<&[u8]>) -> Result<Option<Vec<u8>>, StateError> {
        self.edge(ROOT, &range, false)
    }

    /// The last value of a range that is there.
    pub fn last(&mut self, range: Range<&[u8]>) -> Result<Option<Vec<u8>>, StateError> {
        self.edge(ROOT, &range, true)
    }

    /// The way from the root to the leaf of a value.
    fn descend(&mut self, value: &[u8]) -> Result<(Vec<Step>, u32, Node), StateError> {
        let (mut path, mut number) = (Vec::new(), ROOT);
        loop {
            let node = self.read(number)?.unwrap_or_else(Node::root);
            if node.is_leaf {
                return Ok((path, number, node));
            }
            let Some(entry) = node.child_of(value) else { return Ok((path, number, node)) };
            let (at, child) = (entry.at..entry.end, entry.value as u32);
            path.push(Step { number, node, entry: at });
            number = child;
        }
    }

    /// Writes a node that has changed, and whatever changes above it.
    fn settle(&mut self, path: &mut Vec<Step>, number: u32, mut node: Node) -> Result<(), StateError> {
        let Some(mut parent) = path.pop() else { return self.settle_root(node) };
        if node.entries.is_empty() {
            self.remove(number)?;
            parent.node.entries.drain(parent.entry);
        } else if node.byte_len() > NODE_BYTES_MAX
            && let Some((separator, right)) = node.split()
        {
            let new = self.new_number(path, &mut parent)?;
            self.write(new, &right)?;
            self.write(number, &node)?;
            parent.node.insert(parent.entry.end, &separator, i64::from(new));
        } else if node.byte_len() < NODE_BYTES_MIN
            && let Some((left, right)) = parent.node.neighbours(&parent.entry)
            && let Some(merged) = self.merged(number, &node, &parent.node, &left, &right)?
        {
            let right_number = parent.node.entry(right.start).value as u32;
            let left_number = parent.node.entry(left.start).value as u32;
            self.write(left_number, &merged)?;
            self.remove(right_number)?;
            parent.node.entries.drain(right);
        } else {
            // Nothing changes above it.
            return self.write(number, &node);
        }
        self.settle(path, parent.number, parent.node)
    }

    fn settle_root(&mut self, mut root: Node) -> Result<(), StateError> {
        if root.entries.is_empty() {
            return self.remove(ROOT);
        }
        if root.byte_len() > NODE_BYTES_MAX {
            let next = root.next;
            if let Some((separator, right)) = root.split() {
                let mut above = Node { is_leaf: false, next: next + 2, entries: Vec::new() };
                above.insert(0, &[], i64::from(next));
                above.insert(above.entries.len(), &separator, i64::from(next + 1));
                self.write(next, &root)?;
                self.write(next + 1, &right)?;
                return self.write(ROOT, &above);
            }
        }
        // A root with one child is one level too many.
        while !root.is_leaf && root.entry(0).end == root.entries.len() {
            let child = root.entry(0).value as u32;
            let Some(only) = self.read(child)? else { break };
            self.remove(child)?;
            root = Node { next: root.next, ..only };
        }
        self.write(ROOT, &root)
    }

    /// A number for a new node: the root, which is on the way or the parent itself, counts them.
    fn new_number(&mut self, path: &mut [Step], parent: &mut Step) -> Result<u32, StateError> {
        match path.first_mut() {
            None => Ok(parent.node.take_number()),
            Some(root) => {
                let number = root.node.take_number();
                let root = root.node.clone();
                self.write(ROOT, &root)?;
                Ok(number)
            }
        }
    }

    /// A node and its neighbour as one, if they are small.
    fn merged(
        &mut self,
        number: u32,
        node: &Node,
        parent: &Node,
        left: &Range<usize>,
        right: &Range<usize>,
    ) -> Result<Option<Node>, StateError> {
        let (of_left, of_right) = (parent.entry(left.start), parent.entry(right.start));
        let is_left = of_left.value == i64::from(number);
        let other = if is_left { of_right.value } else { of_left.value } as u32;
        let Some(other) = self.read(other)? else { return Ok(None) };
        if node.byte_len() + other.byte_len() + of_right.key.len() > MERGED_BYTES_MAX {
            return Ok(None);
        }
        let (mut merged, mut behind) = if is_left { (node.clone(), other) } else { (other, node.clone()) };
        if !behind.is_leaf {
            // The first entry of a node stands for all that is less: what that ends at is known above.
            let first = behind.entry(0);
            let (place, child) = (first.at..first.end, first.value);
            behind.entries.splice(place, encoded(of_right.key, child));
        }
        merged.entries.append(&mut behind.entries);
        Ok(Some(merged))
    }

    fn edge(
        &mut self,
        number: u32,
        range: &Range<&[u8]>,
        is_last: bool,
    ) -> Result<Option<Vec<u8>>, StateError> {
        let Some(node) = self.read(number)? else { return Ok(None) };
        let entries: Vec<Entry<'_>> = node.entries().collect();
        let in_order: Vec<usize> =
            if is_last { (0..entries.len()).rev().collect() } else { (0..entries.len()).collect() };
        for index in in_order {
            let entry = entries[index];
            if node.is_leaf {
                if entry.value > 0 && range.contains(&entry.key) {
                    return Ok(Some(entry.key.to_vec()));
                }
                continue;
            }
            let begins_behind = index > 0 && entry.key >= range.end;
            let ends_before = entries.get(index + 1).is_some_and(|next| next.key <= range.start);
            if !begins_behind
                && !ends_before
                && let Some(found) = self.edge(entry.value as u32, range, is_last)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The key of a node's row.
    fn row_key(&self, number: u32) -> Vec<u8> {
        let number = number.to_be_bytes();
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        [self.key, &number[zeros..]].concat()
    }

    fn read(&mut self, number: u32) -> Result<Option<Node>, StateError> {
        let key = self.row_key(number);
        let Some(slot) = self.table.known(hash_within(self.hash, &key), &key)? else { return Ok(None) };
        let (chunk, offset) = self.table.at(slot);
        match &chunk.columns[0] {
            StateColumn::Bytes(nodes) => Ok(nodes[offset].as_deref().and_then(Node::decode)),
            _ => Ok(None),
        }
    }

    fn write(&mut self, number: u32, node: &Node) -> Result<(), StateError> {
        let key = self.row_key(number);
        let slot = self.table.slot(hash_within(self.hash, &key), &key)?;
        self.table.write_bytes(slot, 0, node.encode(number));
        Ok(())
    }

    fn remove(&mut self, number: u32) -> Result<(), StateError> {
        let key = self.row_key(number);
        if let Some(slot) = self.table.known(hash_within(self.hash, &key), &key)? {
            self.table.remove(&[slot]);
        }
        Ok(())
    }
}

impl Node {
    fn root() -> Self {
        Node { is_leaf: true, next: 1, entries: Vec::new() }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (form, rest) = bytes.split_first()?;
        let (next, entries) = rest.split_first_chunk::<4>()?;
        Some(Node { is_leaf: *form == LEAF, next: u32::from_be_bytes(*next), entries: entries.to_vec() })
    }

    fn encode(&self, number: u32) -> Arc<[u8]> {
        let form = if self.is_leaf { LEAF } else { INNER };
        let next = if number == ROOT { self.next } else { 0 };
        [&[form][..], &next.to_be_bytes(), &self.entries].concat().into()
    }

    fn byte_len(&self) -> usize {
        self.entries.len()
    }

    fn take_number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            (at < self.entries.len()).then(|| {
                let entry = self.entry(at);
                at = entry.end;
                entry
            })
        })
    }

    fn entry(&self, at: usize) -> Entry<'_> {
        let (length, key_at) = read_number(&self.entries, at);
        let key_end = key_at + length as usize;
        let (value, end) = read_number(&self.entries, key_end);
        Entry { at, end, key: &self.entries[key_at..key_end], value: unfold(value) }
    }

    /// The entry of the child that has a value, if anything below has it.
    fn child_of(&self, value: &[u8]) -> Option<Entry<'_>> {
        let mut entries = self.entries();
        let first = entries.next();
        entries.take_while(|entry| entry.key <= value).last().or(first)
    }

    /// Puts an entry in the place of what is there; none if its number is 0.
    fn replace(&mut self, place: Range<usize>, key: &[u8], value: i64) {
        let entry = if value == 0 { Vec::new() } else { encoded(key, value) };
        self.entries.splice(place, entry);
    }

    fn insert(&mut self, at: usize, key: &[u8], value: i64) {
        self.entries.splice(at..at, encoded(key, value));
    }

    /// Gives its second half away, with what is greater than all that stays and not greater than anything that goes; `None` if it has
    /// too few entries.
    fn split(&mut self) -> Option<(Vec<u8>, Node)> {
        // Inner nodes of few long values would become levels of one child each.
        if !self.is_leaf && self.entries().nth(3).is_none() {
            return None;
        }
        let half = self.entries.len() / 2;
        let mut last = self.entry(0);
        let first = self.entries().skip(1).find(|entry| {
            let is_half = entry.end > half || entry.end == self.entries.len();
            if !is_half {
                last = *entry;
            }
            is_half
        })?;
        let separator = if self.is_leaf { shortest_between(last.key, first.key) } else { first.key.to_vec() };
        let entries = self.entries.split_off(first.at);
        Some((separator, Node { is_leaf: self.is_leaf, next: 0, entries }))
    }

    /// An entry and one beside it, in order.
    fn neighbours(&self, entry: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        if entry.end < self.entries.len() {
            return Some((entry.clone(), entry.end..self.entry(entry.end).end));
        }
        let before = self.entries().take_while(|other| other.at < entry.start).last()?;
        Some((before.at..before.end, entry.clone()))
    }
}

/// The shortest text that is greater than one and not greater than another, which is greater.
fn shortest_between(less: &[u8], greater: &[u8]) -> Vec<u8> {
    let common = less.iter().zip(greater).take_while(|(less, greater)| less == greater).count();
    greater[..(common + 1).min(greater.len())].to_vec()
}

fn encoded(key: &[u8], value: i64) -> Vec<u8> {
    let mut entry = Vec::with_capacity(key.len() + 4);
    write_number(key.len() as u64, &mut entry);
    entry.extend_from_slice(key);
    write_number(fold(value), &mut entry);
    entry
}

/// Small numbers of either sign as small numbers.
fn fold(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unfold(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Seven bits a byte, the lowest first.
fn write_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number and where it ends.
fn read_number(bytes: &[u8], mut at: usize) -> (u64, usize) {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[at];
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return (value, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    const ALL: Range<&[u8]> = &[]..&[0xff; 64];

    /// What is between, and how often.
    fn edges(ordered: &mut Ordered<'_>, range: Range<&[u8]>) -> [Option<Vec<u8>>; 2] {
        [ordered.first(range.clone()).unwrap(), ordered.last(range).unwrap()]
    }

    fn expected(values: &BTreeMap<Vec<u8>, i64>, range: &Range<&[u8]>) -> [Option<Vec<u8>>; 2] {
        let bounds = (Bound::Included(range.start.to_vec()), Bound::Excluded(range.end.to_vec()));
        let mut there = values.range(bounds).filter(|(_, times)| **times > 0).map(|(value, _)| value.clone());
        let first = there.next();
        [first.clone(), there.next_back().or(first)]
    }

    proptest! {
        /// Values of few and of many bytes come and go at random, and then all of them go.
        #[test]
        fn edges_are_those_of_a_sorted_map(
            steps in prop::collection::vec((0_u16..400, 0_usize..60, -1_i64..3), 1..1_500),
            bounds in prop::collection::vec((0_u16..400, 0_u16..400), 8),
        ) {
            let value = |number: u16, length: usize| {
                [&number.to_be_bytes()[..], &vec![7; if number.is_multiple_of(5) { length * 9 } else { 0 }]].concat()
            };
            let mut table = StateTable::new(layout());
            let mut values = BTreeMap::new();
            for (step, (number, length, times)) in steps.iter().enumerate() {
                let value = value(*number, *length);
                Ordered::new(&mut table, 5, b"k").add(&value, *times).unwrap();
                *values.entry(value).or_insert(0) += times;
                if step % 100 == 0 {
                    table.compact().unwrap();
                }
                let mut ordered = Ordered::new(&mut table, 5, b"k");
                prop_assert_eq!(edges(&mut ordered, ALL), expected(&values, &ALL));
            }
            for (from, to) in bounds {
                let (from, to) = (from.min(to).to_be_bytes(), from.max(to).to_be_bytes());
                let range = &from[..]..&to[..];
                let mut ordered = Ordered::new(&mut table, 5, b"k");
                prop_assert_eq!(edges(&mut ordered, range.clone()), expected(&values, &range));
            }
            for (value, times) in values {
                Ordered::new(&mut table, 5, b"k").add(&value, -times).unwrap();
            }
            prop_assert!(table.is_empty(), "{} nodes are left", table.len());
        }
    }

    /// Rows of a table: nodes.
    fn with_values(values: impl Iterator<Item = u32>) -> StateTable {
        let mut table = StateTable::new(layout());
        for value in values {
            Ordered::new(&mut table, 5, b"k").add(&value.to_be_bytes(), 1).unwrap();
        }
        table
    }

    #[test]
    fn few_values_are_one_node_and_many_are_well_filled_ones() {
        assert_eq!(with_values(0..40).len(), 1);

        for table in [with_values(0..10_000), with_values((0..10_000).map(|n| n * 7_919 % 10_000))] {
            // Six bytes each.
            let full = 10_000 * 6 / NODE_BYTES_MAX;
            assert!((full..full * 5 / 2).contains(&table.len()), "{} nodes for {full}", table.len());
        }
    }

    /// Values that come at one end and go at the other, as times do: what is left is small.
    #[test]
    fn nodes_go_when_their_values_do() {
        let mut table = with_values(0..5_000);
        for value in 0..4_990_u32 {
            Ordered::new(&mut table, 5, b"k").add(&value.to_be_bytes(), -1).unwrap();
        }
        let mut ordered = Ordered::new(&mut table, 5, b"k");

        assert_eq!(
            edges(&mut ordered, ALL),
            [4_990_u32, 4_999].map(|value| Some(value.to_be_bytes().to_vec()))
        );
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn keys_are_apart_from_each_other_and_together_with_their_group() {
        let mut table = StateTable::new(layout());
        for value in 0..1_000_u32 {
            Ordered::new(&mut table, 5 << 60, b"a").add(&value.to_be_bytes(), 1).unwrap();
            Ordered::new(&mut table, 6 << 60, b"b").add(&(value + 5_000).to_be_bytes(), 1).unwrap();
        }

        let first = Ordered::new(&mut table, 6 << 60, b"b").first(ALL).unwrap();
        assert_eq!(first, Some(5_000_u32.to_be_bytes().to_vec()));
        let mut groups = Vec::new();
        table.each_slot(|_, chunk, offset| groups.push(chunk.hashes[offset] >> 60)).unwrap();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups, [5, 6]);
    }
}
