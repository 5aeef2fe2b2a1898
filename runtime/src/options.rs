//! The WITH options of a table: read by name, each mistake named, none ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use millrace_sql::connectors::parse_duration;
use millrace_sql::plan::Table;
use snafu::Snafu;

use crate::secrets::{SecretError, Secrets};

/// An option of a table is missing or wrong.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("table '{table}': {message}"))]
pub struct OptionError {
    pub table: String,
    /// The option that is meant, if it is one.
    pub option: Option<String>,
    pub message: String,
}

/// Options of one table while a connector reads them.
pub struct TableOptions<'a> {
    table: &'a Table,
    /// Values with the secrets that they name; messages show those without.
    filled: BTreeMap<String, String>,
    used: BTreeSet<String>,
    /// What the options at hand begin with.
    prefix: String,
}

impl<'a> TableOptions<'a> {
    /// The options as they are written.
    pub fn new(table: &'a Table) -> Self {
        TableOptions { table, filled: BTreeMap::new(), used: BTreeSet::new(), prefix: String::new() }
    }

    /// The options with the values of the secrets that they name.
    ///
    /// # Errors
    /// If a secret cannot be read.
    pub fn with_secrets(table: &'a Table, secrets: &Secrets) -> Result<Self, SecretError> {
        let mut options = TableOptions::new(table);
        for (key, value) in &table.options {
            let filled = secrets.fill(value)?;
            if filled != *value {
                options.filled.insert(key.clone(), filled);
            }
        }
        Ok(options)
    }

    /// Reads options that all begin with a prefix, by their names without it.
    pub fn under<T>(&mut self, prefix: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.prefix, prefix.to_owned());
        let read = read(self);
        self.prefix = before;
        read
    }

    /// An option as text.
    pub fn optional(&mut self, key: &str) -> Option<String> {
        let key = format!("{}{key}", self.prefix);
        self.used.insert(key.clone());
        self.filled.get(&key).or_else(|| self.table.options.get(&key)).cloned()
    }

    /// Those of some options that are there.
    pub fn given<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) -> BTreeMap<String, String> {
        keys.into_iter().filter_map(|key| Some((key.to_owned(), self.optional(key)?))).collect()
    }

    /// An option that must be there.
    pub fn required(&mut self, key: &str) -> Result<String, OptionError> {
        self.optional(key)
            .ok_or_else(|| self.mistake(format!("the option '{}{key}' is missing", self.prefix)))
    }

    /// An option of a type with a text form, such as a number; `what` says what it is.
    pub fn parsed<T: FromStr>(&mut self, key: &str, what: &str) -> Result<Option<T>, OptionError> {
        let Some(text) = self.optional(key) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| self.wrong(key, &format!("is not {what}")))
    }

    /// An option that is 'true' or, if it is left out, 'false'.
    pub fn flag(&mut self, key: &str) -> Result<bool, OptionError> {
        Ok(self.parsed(key, "'true' or 'false'")?.unwrap_or(false))
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
        let key = format!("{}{key}", self.prefix);
        let value = self.table.options.get(&key).map_or("", String::as_str);
        let message = format!("the option '{key}' = '{value}' {message}");
        OptionError { option: Some(key), ..self.mistake(message) }
    }

    /// A mistake about the table.
    pub fn mistake(&self, message: String) -> OptionError {
        OptionError { table: self.table.name.clone(), option: None, message }
    }

    /// Checks that every option was used: none is silently ignored.
    pub fn finish(self) -> Result<(), OptionError> {
        let Some(unknown) = self.table.options.keys().find(|key| !self.used.contains(*key)) else {
            return Ok(());
        };
        let known: Vec<&str> = self.used.iter().map(String::as_str).collect();
        let message = format!("the option '{unknown}' is not known here; known are {}", known.join(", "));
        Err(OptionError { option: Some(unknown.clone()), ..self.mistake(message) })
    }
}

#[cfg(test)]
mod tests {
    use millrace_sql::connectors::{self, Role, Setting};
    use millrace_sql::plan::Source as SourcePlan;

    use super::*;
    use crate::{sink, source};

    fn table(options: &[(&str, &str)]) -> Table {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Table { name: "t".to_owned(), options, ..Table::default() }
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
    /// Opens a table's connector without reaching for anything outside.
    fn open(role: Role, options: &[(&str, &str)]) -> Result<(), String> {
        let table = table(options);
        match role {
            Role::Source => {
                let plan = SourcePlan { table: Some(table), ..SourcePlan::default() };
                source::connector(&plan, &crate::outside::Outside::unreached())
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            Role::Sink => sink::check(&table).map_err(|error| error.to_string()),
        }
    }

    #[test]
    fn the_compiler_and_the_connectors_know_the_same_options() {
        let mut opened = 0;
        for role in [Role::Source, Role::Sink] {
            for connector in connectors::names(Some(role)) {
                let settings = connectors::settings(&connector, role).unwrap();
                let examples = |setting: &Setting| match setting.key {
                    "path" => vec!["folder".to_owned()],
                    _ => setting.value.examples(),
                };
                let mut least = vec![("connector", connector.clone())];
                for setting in settings.iter().filter(|setting| setting.is_required) {
                    least.push((setting.key, examples(setting).swap_remove(0)));
                }
                let is_kafka_source = connector.ends_with("kafka") && role == Role::Source;
                if connector.ends_with("kafka") {
                    least.push(("bootstrap.servers", "localhost:9092".to_owned()));
                }
                for setting in &settings {
                    for value in examples(setting) {
                        let mut options: BTreeMap<&str, String> = least.iter().cloned().collect();
                        options.insert(setting.key, value.clone());
                        if is_kafka_source && setting.key != "topic-pattern" {
                            options.entry("topic").or_insert("t".to_owned());
                        }
                        for (prefix, key, format) in [
                            ("csv.", "format", "csv"),
                            ("parquet.", "format", "parquet"),
                            ("value.csv.", "value.format", "csv"),
                            ("key.csv.", "key.format", "csv"),
                        ] {
                            if setting.key.starts_with(prefix) {
                                options.insert(key, format.to_owned());
                            }
                        }
                        if setting.key.starts_with("properties.sasl.") || value.starts_with("SASL_") {
                            options.entry("properties.security.protocol").or_insert("SASL_SSL".to_owned());
                            let jaas = "x required username=\"user\" password=\"p\";".to_owned();
                            options.entry("properties.sasl.jaas.config").or_insert(jaas);
                        }
                        if setting.key.starts_with("properties.ssl.") {
                            options.insert("properties.security.protocol", "SSL".to_owned());
                        }
                        if setting.key.starts_with("properties.ssl.keystore.c")
                            || setting.key.ends_with("keystore.key")
                        {
                            for key in ["certificate.chain", "key"] {
                                let key = if key == "key" {
                                    "properties.ssl.keystore.key"
                                } else {
                                    "properties.ssl.keystore.certificate.chain"
                                };
                                options.insert(key, value.clone());
                            }
                        }
                        for (mode, wanted, companion) in connectors::kafka::MODES {
                            if (setting.key == mode && value == wanted) || setting.key == companion {
                                options.insert(mode, wanted.to_owned());
                                let examples = settings.iter().find(|setting| setting.key == companion);
                                let value = examples.unwrap().value.examples().remove(0);
                                options.entry(companion).or_insert(value);
                            }
                        }
                        let options: Vec<_> =
                            options.iter().map(|(key, value)| (*key, value.as_str())).collect();
                        assert_eq!(open(role, &options), Ok(()), "{options:?}");
                        opened += 1;
                    }
                }
                least.push(("no-such-option", String::new()));
                if is_kafka_source {
                    least.push(("topic", "t".to_owned()));
                }
                for (format, other) in [("json", "csv."), ("csv", "json.")] {
                    let mut known: Vec<&str> = settings.iter().map(|setting| setting.key).collect();
                    known.retain(|key| !key.contains(other) && !key.starts_with("parquet."));
                    known.push("connector");
                    known.sort_unstable();
                    let mut options: BTreeMap<&str, &str> =
                        least.iter().map(|(key, value)| (*key, value.as_str())).collect();
                    for key in ["format", "value.format", "key.format"] {
                        let setting = settings.iter().find(|setting| setting.key == key);
                        if setting
                            .is_some_and(|setting| setting.value.examples().contains(&format.to_owned()))
                        {
                            options.entry(key).and_modify(|value| *value = format);
                        }
                    }
                    let options: Vec<_> = options.into_iter().collect();
                    let refused = open(role, &options).unwrap_err();

                    let expected = format!(
                        "the option 'no-such-option' is not known here; known are {}",
                        known.join(", ")
                    );
                    assert!(refused.ends_with(&expected), "{connector}, {role:?}: {refused}");
                }
            }
        }
        assert!(opened > 20, "{opened}");
    }
}
