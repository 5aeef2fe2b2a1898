//! Compares rows with what they should be. Pure.

use std::collections::BTreeMap;

/// Rows shown of each kind of difference.
const SHOWN_MAX: usize = 5;

/// How rows differ from what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Expected and not there.
    pub lost: Vec<String>,
    /// There more often than expected, with how often too much.
    pub doubled: Vec<(String, u64)>,
    /// There and not expected at all.
    pub strange: Vec<String>,
}

impl Difference {
    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.strange.is_empty()
    }

    /// In words, with some rows.
    pub fn describe(&self) -> String {
        let first = |rows: &[String]| rows.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n    ");
        let doubled: Vec<String> =
            self.doubled.iter().map(|(row, times)| format!("{row} ({times} too often)")).collect();
        format!(
            "lost {}\n    {}\n  doubled {}\n    {}\n  strange {}\n    {}",
            self.lost.len(),
            first(&self.lost),
            doubled.len(),
            first(&doubled),
            self.strange.len(),
            first(&self.strange)
        )
    }
}

/// Compares rows, in any order, with the expected ones.
pub fn compare<'a>(found: impl IntoIterator<Item = &'a str>, expected: &'a [String]) -> Difference {
    let mut balance: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for row in expected {
        balance.entry(row).or_default().0 += 1;
    }
    for row in found {
        balance.entry(row).or_default().1 += 1;
    }
    let mut difference = Difference::default();
    for (row, (wanted, there)) in balance {
        match (wanted, there) {
            (0, _) => difference.strange.push(row.to_owned()),
            (wanted, there) if there < wanted => difference.lost.push(row.to_owned()),
            (wanted, there) if there > wanted => difference.doubled.push((row.to_owned(), there - wanted)),
            _ => {}
        }
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_a_doubled_and_a_changed_row_are_each_seen() {
        let expected: Vec<String> = ["a", "b", "b", "c"].map(str::to_owned).to_vec();
        let of = |rows: &[&'static str]| compare(rows.iter().copied(), &expected);

        assert!(of(&["c", "b", "a", "b"]).is_empty());
        assert_eq!(of(&["a", "b", "c"]).lost, ["b"]);
        assert_eq!(of(&["a", "b", "b", "b", "c"]).doubled, [("b".to_owned(), 1)]);
        let changed = of(&["a", "b", "b", "x"]);
        assert_eq!((changed.lost, changed.strange), (vec!["c".to_owned()], vec!["x".to_owned()]));
        assert!(of(&["a", "b", "b", "x"]).describe().contains("lost 1"));
    }
}
