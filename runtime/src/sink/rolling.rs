//! When a file is ended before the checkpoint that ends all files.

use std::time::Duration;

use millrace_sql::connectors::parse_size;

use crate::clock::Clock;
use crate::options::{OptionError, TableOptions};

/// Flink's sizes and times, of files that a checkpoint has not ended before.
const SIZE: u64 = 128 << 20;
const AGE: Duration = Duration::from_secs(1800);

/// How large and how old a file gets.
#[derive(Debug, Clone, Copy)]
pub struct Rolling {
    bytes: u64,
    age: Duration,
}

impl Rolling {
    /// Reads the options `sink.rolling-policy.*`.
    ///
    /// # Errors
    /// If a size or a time is none.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let (size, interval) = ("sink.rolling-policy.file-size", "sink.rolling-policy.rollover-interval");
        let bytes = match options.optional(size) {
            None => SIZE,
            Some(text) => match parse_size(&text) {
                Some(bytes) if bytes > 0 => bytes,
                _ => return Err(options.wrong(size, "is not a size such as '128 MB'")),
            },
        };
        Ok(Rolling { bytes, age: options.duration(interval)?.unwrap_or(AGE) })
    }

    /// True if a file that has so many bytes and was begun then is ended.
    pub fn ends(&self, bytes: u64, began: Duration, clock: Clock) -> bool {
        bytes >= self.bytes || clock.elapsed().saturating_sub(began) >= self.age
    }
}

#[cfg(test)]
impl Rolling {
    /// Files of at most about so many bytes.
    pub fn of_bytes(bytes: u64) -> Self {
        Rolling { bytes, age: AGE }
    }
}

#[cfg(test)]
mod tests {
    use millrace_sql::plan::Table;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_ended_when_it_is_large_or_old() {
        let options = [("file-size", "1 kb"), ("rollover-interval", "5 s")];
        let options = options.map(|(key, value)| (format!("sink.rolling-policy.{key}"), value.to_owned()));
        let table = Table { options: options.into_iter().collect(), ..Table::default() };
        let mut read = TableOptions::new(&table);
        let (given, default) = (
            Rolling::new(&mut read).unwrap(),
            Rolling::new(&mut TableOptions::new(&Table::default())).unwrap(),
        );
        let clock = Clock::starting_at(0);
        let began = clock.elapsed();

        assert!(!given.ends(1023, began, clock) && given.ends(1024, began, clock));
        clock.sleep(Duration::from_millis(4_999)).await;
        assert!(!given.ends(1, began, clock));
        clock.sleep(Duration::from_millis(1)).await;
        assert!(given.ends(1, began, clock) && !default.ends(1 << 20, began, clock));
    }
}
