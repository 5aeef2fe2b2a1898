//! What the loader writes, and what a job must make of it, computed here by other means. Pure.

use std::collections::BTreeMap;

/// As in `kafka/Kafka.java`.
const KEYS: u64 = 100;

/// Events a second of the loader, in event time as well as in real time.
pub const RATE: u64 = 2_000;

/// Rows that go into files: those of one key in ten.
pub fn is_picked(id: u64) -> bool {
    id % KEYS % 10 == 3
}

/// Rows of the files, sorted.
pub fn picked(rows: u64) -> Vec<String> {
    let picked = (0..rows).filter(|id| is_picked(*id));
    let mut picked: Vec<String> = picked.map(|id| format!("{{\"id\":{id},\"k\":{}}}", id % KEYS)).collect();
    picked.sort_unstable();
    picked
}

/// Rows of the totals, sorted: count and sum of ids per key and second.
pub fn totals(rows: u64) -> Vec<String> {
    let mut totals: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for id in 0..rows {
        let total = totals.entry((id / RATE, id % KEYS)).or_default();
        *total = (total.0 + 1, total.1 + id);
    }
    let row = |((second, key), (count, sum)): ((u64, u64), (u64, u64))| {
        let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
        let start = format!("2026-01-01 {hours:02}:{minutes:02}:{seconds:02}");
        format!("{{\"k\":{key},\"window_start\":\"{start}\",\"n\":{count},\"total\":{sum}}}")
    };
    let mut totals: Vec<String> = totals.into_iter().map(row).collect();
    totals.sort_unstable();
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_cover_every_row_once() {
        let totals = totals(RATE * 61);

        assert_eq!(totals.len(), 61 * KEYS as usize);
        // 20 rows a second and key: 0, 100, …, 1900.
        assert_eq!(totals[0], "{\"k\":0,\"window_start\":\"2026-01-01 00:00:00\",\"n\":20,\"total\":19000}");
        assert!(totals.iter().any(|row| row.contains("00:01:00")));
    }

    #[test]
    fn one_row_in_ten_is_picked() {
        assert_eq!(picked(1_000).len(), 100);
        assert!(picked(1_000).contains(&"{\"id\":903,\"k\":3}".to_owned()));
    }
}
