//! Whether rows are added up before an exchange: where keys hardly recur, looking each of them up costs more than it saves. Pure.

/// Rows that pass one by one before it is tried again whether keys recur.
pub const PASSED_ROWS: usize = 2 * 1024 * 1024;

/// What is known of keys that have come lately.
#[derive(Debug, Default)]
pub struct Recurrence {
    /// Rows since what was added up was given away.
    rows: usize,
    /// Rows that are still to pass one by one.
    passing: usize,
}

impl Recurrence {
    /// True if the keys of the next rows are to be looked up.
    pub fn is_looked_up(&mut self, rows: usize) -> bool {
        let is_looked_up = self.passing == 0;
        self.passing = self.passing.saturating_sub(rows);
        self.rows += rows;
        is_looked_up
    }

    /// Rows since what was added up was given away.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Judges by the keys of all those rows: more than so many in ten rows are too many.
    pub fn judge(&mut self, keys: usize, most_in_ten: usize) {
        if keys * 10 > self.rows * most_in_ten {
            self.passing = PASSED_ROWS;
        }
    }

    /// What was added up is given away.
    pub fn given_away(&mut self) {
        self.rows = 0;
    }
}
