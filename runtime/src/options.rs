//! The WITH options of a table: read by name, each mistake named, none ignored.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use millrace_sql::plan::Table;
use snafu::Snafu;

/// An option of a table is missing or wrong.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("table '{table}': {message}"))]
pub struct OptionError {
    table: String,
    message: String,
}

/// Options of one table while a connector reads them.
pub struct TableOptions<'a> {
    table: &'a Table,
    used: BTreeSet<String>,
}

impl<'a> TableOptions<'a> {
    pub fn new(table: &'a Table) -> Self {
        TableOptions { table, used: BTreeSet::new() }
    }

    /// An option as text.
    pub fn optional(&mut self, key: &str) -> Option<String> {
        self.used.insert(key.to_owned());
        self.table.options.get(key).cloned()
    }

    /// An option that must be there.
    pub fn required(&mut self, key: &str) -> Result<String, OptionError> {
        self.optional(key).ok_or_else(|| self.mistake(format!("the option '{key}' is missing")))
    }

    /// An option of a type with a text form, such as a number; `what` says what it is.
    pub fn parsed<T: FromStr>(&mut self, key: &str, what: &str) -> Result<Option<T>, OptionError> {
        let Some(text) = self.optional(key) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| self.wrong(key, &format!("is not {what}")))
    }

    /// A duration such as `10 s` or `500ms`.
    pub fn duration(&mut self, key: &str) -> Result<Option<Duration>, OptionError> {
        let Some(text) = self.optional(key) else { return Ok(None) };
        parse_duration(&text)
            .map(Some)
            .ok_or_else(|| self.wrong(key, "is not a duration such as '10 s' or '500 ms'"))
    }

    /// A mistake about an option's value.
    pub fn wrong(&self, key: &str, message: &str) -> OptionError {
        let value = self.table.options.get(key).map_or("", String::as_str);
        self.mistake(format!("the option '{key}' = '{value}' {message}"))
    }

    /// A mistake about the table.
    pub fn mistake(&self, message: String) -> OptionError {
        OptionError { table: self.table.name.clone(), message }
    }

    /// Checks that every option was used: none is silently ignored.
    pub fn finish(self) -> Result<(), OptionError> {
        let Some(unknown) = self.table.options.keys().find(|key| !self.used.contains(*key)) else {
            return Ok(());
        };
        let known: Vec<&str> = self.used.iter().map(String::as_str).collect();
        Err(self.mistake(format!("the option '{unknown}' is not known here; known are {}", known.join(", "))))
    }
}

/// Parses durations as Flink writes them.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match text[digits..].trim() {
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" | "" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(options: &[(&str, &str)]) -> Table {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Table { name: "t".to_owned(), schema: None, options }
    }

    #[test]
    fn mistakes_name_the_table_the_option_and_the_cure() {
        let table = table(&[("rows", "many"), ("wait", "1 fortnight"), ("typo", "x")]);
        let mut options = TableOptions::new(&table);

        assert_eq!(
            options.required("path").unwrap_err().to_string(),
            "table 't': the option 'path' is missing"
        );
        assert_eq!(
            options.parsed::<u64>("rows", "a number").unwrap_err().to_string(),
            "table 't': the option 'rows' = 'many' is not a number"
        );
        assert_eq!(
            options.duration("wait").unwrap_err().to_string(),
            "table 't': the option 'wait' = '1 fortnight' is not a duration such as '10 s' or '500 ms'"
        );
        assert_eq!(
            options.finish().unwrap_err().to_string(),
            "table 't': the option 'typo' is not known here; known are path, rows, wait"
        );
    }

    #[test]
    fn durations_are_read_as_flink_reads_them() {
        let cases = [("10 s", 10_000), ("500ms", 500), ("2 min", 120_000), ("1h", 3_600_000), ("7", 7)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("s"), None);
        assert_eq!(parse_duration("-1 s"), None);
    }
}
