//! The connectors and their options: what may stand in WITH, what it may say, and what may be edited while a job has state.

pub mod kafka;
pub mod kafka_security;

use std::collections::BTreeMap;

use crate::secrets;
use crate::similar::closest;

/// What is done with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Source,
    Sink,
}

impl Role {
    fn other(self) -> Self {
        match self {
            Role::Source => Role::Sink,
            Role::Sink => Role::Source,
        }
    }
}

/// An option of a connector.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub key: &'static str,
    pub value: ValueKind,
    pub is_required: bool,
    /// It says how the outside is reached, or what becomes of bad records, and not what is read or written: it may be edited while
    /// the job has state.
    pub is_connection: bool,
}

/// What an option may say.
#[derive(Debug, Clone, Copy)]
pub enum ValueKind {
    /// Anything; with an example.
    Text(&'static str),
    /// A whole number from here on.
    Number(u64),
    /// A whole number from 1 to here.
    UpTo(u64),
    /// Such as `10 s`.
    Duration,
    /// Such as `128 MB`.
    Size,
    OneOf(&'static [&'static str]),
    /// One ASCII character, or `\t`; with an example.
    Character(&'static str),
    /// Anything, also nothing; with an example.
    Any(&'static str),
    /// Such as `partition:0,offset:42;partition:1,offset:7`.
    Offsets,
}

impl ValueKind {
    /// Values that are right: every choice, or one of many.
    pub fn examples(self) -> Vec<String> {
        match self {
            Text(example) | Character(example) | Any(example) => vec![example.to_owned()],
            Number(least) => vec![least.max(1).to_string()],
            UpTo(_) => vec!["1".to_owned()],
            Duration => vec!["10 s".to_owned()],
            Size => vec!["128 MB".to_owned()],
            Offsets => vec![OFFSETS_EXAMPLE.to_owned()],
            OneOf(choices) => choices.iter().map(|choice| (*choice).to_owned()).collect(),
        }
    }
}

/// A mistake in a table's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The option it is about, unless that is missing.
    pub key: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

use ValueKind::{Any, Character, Duration, Number, Offsets, OneOf, Size, Text, UpTo};

const OFFSETS_EXAMPLE: &str = "partition:0,offset:42;partition:1,offset:7";

/// Splits of one generated table: each is kept in memory and in every checkpoint.
pub const SPLITS_MAX: u64 = 32_768;

const fn meaning(key: &'static str, value: ValueKind) -> Setting {
    Setting { key, value, is_required: false, is_connection: false }
}

const fn required(key: &'static str, value: ValueKind) -> Setting {
    Setting { is_required: true, ..meaning(key, value) }
}

const fn connection(key: &'static str, value: ValueKind) -> Setting {
    Setting { is_connection: true, ..meaning(key, value) }
}

const FORMAT: Setting = required("format", OneOf(FORMATS));

/// Formats of records; the options of each begin with its name.
const FORMATS: &[&str] = &["json", "csv", "raw"];

/// Formats that have any number of columns.
const RECORD_FORMATS: &[&str] = &["json", "csv"];

/// Formats of files.
const FILE_FORMATS: &[&str] = &["json", "csv", "parquet"];

const ALL_FORMATS: &[&str] = &["json", "csv", "parquet", "raw"];
const FILE_FORMAT: Setting = Setting { value: OneOf(FILE_FORMATS), ..FORMAT };

const BOOLEAN: ValueKind = OneOf(&["true", "false"]);
const DELIMITER: Setting = connection("csv.field-delimiter", Character(";"));
const QUOTE: Setting = connection("csv.quote-character", Character("'"));
const NO_QUOTES: Setting = connection("csv.disable-quote-character", BOOLEAN);
const ESCAPE: Setting = connection("csv.escape-character", Character("\\"));
const COMMENTS: Setting = connection("csv.allow-comments", BOOLEAN);
const NULL_LITERAL: Setting = connection("csv.null-literal", Any("NULL"));
const TIMES: Setting = connection("json.timestamp-format.standard", OneOf(&["SQL", "ISO-8601"]));

/// Options of the formats of connectors that have the option 'format'.
const INPUT_FORMATS: &[Setting] = &[
    connection("json.ignore-parse-errors", BOOLEAN),
    connection("json.fail-on-missing-field", BOOLEAN),
    TIMES,
    DELIMITER,
    QUOTE,
    NO_QUOTES,
    ESCAPE,
    COMMENTS,
    NULL_LITERAL,
    connection("csv.ignore-parse-errors", BOOLEAN),
];
const OUTPUT_FORMATS: &[Setting] = &[
    TIMES,
    connection("json.encode.ignore-null-fields", BOOLEAN),
    DELIMITER,
    QUOTE,
    NO_QUOTES,
    ESCAPE,
    COMMENTS,
    NULL_LITERAL,
];

/// Options of every source.
const SOURCE: &[Setting] =
    &[connection("scan.watermark.idle-timeout", Duration), connection("scan.rows-per-second", Number(1))];

const FILES_SOURCE: &[Setting] = &[
    required("path", Text("folder")),
    FILE_FORMAT,
    PARTITION_NAME,
    meaning("source.monitor-interval", Duration),
];

const PARTITION_NAME: Setting = meaning("partition.default-name", Text("__DEFAULT_PARTITION__"));

const FILES_SINK: &[Setting] = &[
    required("path", Text("s3://bucket/folder")),
    FILE_FORMAT,
    connection("parquet.compression", OneOf(&["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "LZ4_RAW"])),
    connection("sink.rolling-policy.file-size", Size),
    connection("sink.rolling-policy.rollover-interval", Duration),
    PARTITION_NAME,
];

const NEXMARK: &[Setting] = &[
    meaning("events", Number(0)),
    meaning("event-rate", Number(1)),
    meaning("start-time", Text("2024-02-29 00:00:00")),
    meaning("splits", UpTo(SPLITS_MAX)),
    meaning("seed", Number(0)),
    connection("rows-per-second", Number(1)),
];

const DATAGEN: &[Setting] = &[
    meaning("number-of-rows", Number(0)),
    meaning("splits", UpTo(SPLITS_MAX)),
    meaning("seed", Number(0)),
    // Rows' times are made from it.
    meaning("rows-per-second", Number(1)),
];

/// Options of each column of 'datagen': `fields.<column>.<option>`.
const DATAGEN_FIELD: &[Setting] = &[
    meaning("kind", OneOf(&["random", "sequence"])),
    meaning("min", Text("0")),
    meaning("max", Text("100")),
    meaning("max-past", Duration),
    meaning("length", Number(1)),
    meaning("var-len", BOOLEAN),
    meaning("null-rate", Text("0.1")),
    meaning("start", Text("1")),
    meaning("end", Text("1000")),
];

/// The column and the option of it that a key of 'datagen' is about.
pub fn field_option<'a>(connector: &str, key: &'a str) -> Option<(&'a str, &'a str)> {
    key.strip_prefix("fields.").filter(|_| connector == "datagen")?.rsplit_once('.')
}

const PRINT: &[Setting] = &[connection("print-identifier", Text("totals"))];

/// What a connector takes in one role; `None` if it cannot have that role.
type Settings = Option<&'static [Setting]>;

/// The connectors, each as a source and as a sink.
const CONNECTORS: &[(&str, Settings, Settings)] = &[
    ("kafka", Some(kafka::SOURCE), Some(kafka::SINK)),
    ("upsert-kafka", Some(kafka::UPSERT_SOURCE), Some(kafka::UPSERT_SINK)),
    ("filesystem", Some(FILES_SOURCE), Some(FILES_SINK)),
    ("nexmark", Some(NEXMARK), None),
    ("datagen", Some(DATAGEN), None),
    ("print", None, Some(PRINT)),
    ("blackhole", None, Some(&[])),
];

/// Names of the connectors that can have a role, or any.
pub fn names(role: Option<Role>) -> Vec<String> {
    let has = |source: bool, sink: bool| match role {
        Some(Role::Source) => source,
        Some(Role::Sink) => sink,
        None => true,
    };
    let able = CONNECTORS.iter().filter(|(_, source, sink)| has(source.is_some(), sink.is_some()));
    able.map(|(name, ..)| (*name).to_owned()).collect()
}

/// The options of a connector in a role; `None` if there is no such connector, or it cannot.
pub fn settings(connector: &str, role: Role) -> Option<Vec<Setting>> {
    let (name, source, sink) = CONNECTORS.iter().find(|(name, ..)| *name == connector)?;
    let security = if is_kafka(name) { kafka::SECURITY } else { &[] };
    let (own, others, formats): (_, &[Setting], _) = match role {
        Role::Source => ((*source)?, SOURCE, INPUT_FORMATS),
        Role::Sink => ((*sink)?, &[], OUTPUT_FORMATS),
    };
    let formats = if own.iter().any(|setting| setting.key == FORMAT.key) { formats } else { &[] };
    Some([own, formats, others, security].concat())
}

/// The connector of the rows of a query that is shown; no table can have it.
pub const SHOWN: &str = "(shown)";

/// True if a sink of this connector takes rows that change, and not only rows that are added.
pub fn takes_changes(connector: &str) -> bool {
    matches!(connector, "print" | "blackhole" | SHOWN) || uses_key(connector)
}

/// True if a sink of this connector writes by the table's primary key: a row takes the place of the one with its key.
pub fn uses_key(connector: &str) -> bool {
    connector == "upsert-kafka"
}

/// True if a source of this connector gives rows by the table's primary key, of which each takes the place of the one before.
pub fn gives_changes(connector: &str) -> bool {
    uses_key(connector)
}

/// The mistake of a primary key that a table lacks, or has in vain.
pub fn check_key(options: &BTreeMap<String, String>, has_key: bool) -> Option<Mistake> {
    let connector = options.get("connector").map_or("", String::as_str);
    let (message, hint) = match (uses_key(connector), has_key) {
        (true, false) => (
            format!("'{connector}' needs a PRIMARY KEY"),
            "add PRIMARY KEY (…) NOT ENFORCED after the columns".to_owned(),
        ),
        (false, true) if names(None).iter().any(|name| name == connector) => (
            format!("'{connector}' has no use for a PRIMARY KEY"),
            "remove it, or write to 'upsert-kafka'".to_owned(),
        ),
        _ => return None,
    };
    Some(Mistake { key: None, message, hint: Some(hint) })
}

/// True if the option may be edited while a job has state.
pub fn is_connection(connector: &str, role: Role, key: &str) -> bool {
    settings(connector, role)
        .is_some_and(|settings| settings.iter().any(|setting| setting.key == key && setting.is_connection))
}

/// The options of a table without those that its connector has in its other role alone: one table may be written and read.
pub fn of_role(options: &BTreeMap<String, String>, role: Role) -> BTreeMap<String, String> {
    let connector = options.get("connector").map_or("", String::as_str);
    let has = |role, key: &str| {
        settings(connector, role).is_some_and(|settings| settings.iter().any(|setting| setting.key == key))
    };
    let is_kept = |(key, _): &(&String, &String)| has(role, key) || !has(role.other(), key);
    options.iter().filter(is_kept).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// All mistakes in the options of a table. A table that nothing reads or writes has no role.
pub fn check(options: &BTreeMap<String, String>, role: Option<Role>) -> Vec<Mistake> {
    let Some(connector) = options.get("connector") else {
        return vec![Mistake {
            key: None,
            message: "the option 'connector' is missing".to_owned(),
            hint: Some(format!("use {}", listed(&names(role)))),
        }];
    };
    if let Some(mistake) = check_connector(connector, role) {
        return vec![mistake];
    }
    let Some(role) = role else { return Vec::new() };
    let Some(settings) = settings(connector, role) else { return Vec::new() };
    let of_other_role = self::settings(connector, role.other()).unwrap_or_default();
    let fits = |setting: &&Setting| other_format(options, setting.key).is_none();
    let known: Vec<String> = settings.iter().filter(fits).map(|setting| setting.key.to_owned()).collect();
    let missing = settings.iter().filter(|setting| setting.is_required && !options.contains_key(setting.key));
    let mut mistakes: Vec<Mistake> = missing.map(|setting| is_missing(setting.key, setting.value)).collect();
    if known.iter().any(|key| key == kafka::SERVERS.key)
        && !options.contains_key(kafka::SERVERS.key)
        && !options.contains_key(kafka::SERVERS_SHORT.key)
    {
        mistakes.push(is_missing(kafka::SERVERS.key, kafka::SERVERS.value));
    }
    for (key, value) in options {
        if key == "connector" {
            continue;
        }
        if let Some((_, option)) = field_option(connector, key)
            && let Some(setting) = DATAGEN_FIELD.iter().find(|setting| setting.key == option)
        {
            mistakes.extend(check_value(key, value, setting.value));
            continue;
        }
        match settings.iter().chain(&of_other_role).find(|setting| setting.key == key) {
            Some(_) if other_format(options, key).is_some() => mistakes.extend(other_format(options, key)),
            Some(setting) if !setting.is_connection && !secrets::names(value).is_empty() => {
                mistakes.push(Mistake {
                    key: Some(key.clone()),
                    message: format!("the option '{key}' cannot be a secret: what is read or written must not change unseen"),
                    hint: Some("write the value itself; secrets are for how the outside is reached".to_owned()),
                });
            }
            Some(setting) => mistakes.extend(check_value(key, value, setting.value)),
            None => mistakes.push(Mistake {
                key: Some(key.clone()),
                message: format!("the option '{key}' is not known here"),
                hint: Some(match closest(key, &known) {
                    _ if key == "value.format" && known.iter().any(|known| known == FORMAT.key) => {
                        "write 'format', and its options without 'value.' before them".to_owned()
                    }
                    Some(similar) => format!("did you mean '{similar}'?"),
                    None if known.is_empty() => format!("take it out: '{connector}' has no options"),
                    None => format!("known are {}", known.join(", ")),
                }),
            }),
        }
    }
    // What does not fit together is told once each value is right.
    if is_kafka(connector) && mistakes.is_empty() {
        mistakes.extend(kafka_security::check(options));
        mistakes.extend(kafka::check_modes(options));
        mistakes.extend(kafka::check_topics(options, Some(role)));
    }
    mistakes
}

fn is_kafka(connector: &str) -> bool {
    connector.ends_with("kafka")
}

/// The mistake of an option of a format that the table does not have.
fn other_format(options: &BTreeMap<String, String>, key: &str) -> Option<Mistake> {
    let prefix = [kafka::VALUE, kafka::KEY].into_iter().find(|prefix| key.starts_with(prefix)).unwrap_or("");
    let name_of_format = format!("{prefix}format");
    let format = options.get(&name_of_format).filter(|format| ALL_FORMATS.contains(&format.as_str()))?;
    let bare = key.strip_prefix(prefix)?;
    let of = ALL_FORMATS
        .iter()
        .find(|name| bare.strip_prefix(**name).is_some_and(|rest| rest.starts_with('.')))?;
    (of != format).then(|| Mistake {
        key: Some(key.to_owned()),
        message: format!("the option '{key}' is one of '{of}', and the format is '{format}'"),
        hint: Some(format!("remove it, or write '{name_of_format}' = '{of}'")),
    })
}

fn check_connector(connector: &str, role: Option<Role>) -> Option<Mistake> {
    let able = names(role);
    if able.iter().any(|name| name == connector) {
        return None;
    }
    let why = match (names(None).iter().any(|name| name == connector), role) {
        (true, Some(Role::Source)) => "can only be written to",
        (true, _) => "can only be read from",
        (false, _) => "is not known",
    };
    Some(Mistake {
        key: Some("connector".to_owned()),
        message: format!("the option 'connector' = '{connector}' {why}"),
        hint: Some(format!("use {}", listed(&able))),
    })
}

fn is_missing(key: &str, value: ValueKind) -> Mistake {
    let example = value.examples().into_iter().next().unwrap_or_default();
    Mistake {
        key: None,
        message: format!("the option '{key}' is missing"),
        hint: Some(format!("add '{key}' = '{example}'")),
    }
}

fn check_value(key: &str, value: &str, kind: ValueKind) -> Option<Mistake> {
    // A value that is put in later cannot be judged now.
    if value.contains("${") {
        return secrets::mistake(value).map(|message| Mistake {
            key: Some(key.to_owned()),
            message: format!("the option '{key}' has a secret that cannot be one: {message}"),
            hint: Some("write '${secret:name}', and declare the name in spec.pipeline.secrets".to_owned()),
        });
    }
    let wrong = |why: String, hint: String| {
        let message = format!("the option '{key}' = '{value}' {why}");
        Some(Mistake { key: Some(key.to_owned()), message, hint: Some(hint) })
    };
    match kind {
        Text(example) if value.trim().is_empty() => {
            wrong("is empty".to_owned(), format!("write a value such as '{example}'"))
        }
        Text(_) | Any(_) => None,
        Character(example) => match parse_character(value) {
            Some(_) => None,
            None => wrong(
                "is not one ASCII character".to_owned(),
                format!("write one such as '{example}', or '\\t' for a tab"),
            ),
        },
        Number(least) => match value.trim().parse::<u64>() {
            Ok(number) if number >= least => None,
            _ => wrong(
                "is not a number that can be used".to_owned(),
                format!("write a whole number from {least}"),
            ),
        },
        UpTo(most) => match value.trim().parse::<u64>() {
            Ok(number) if (1..=most).contains(&number) => None,
            _ => wrong(
                "is not a number that can be used".to_owned(),
                format!("write a whole number from 1 to {most}"),
            ),
        },
        Duration => match parse_duration(value) {
            Some(_) => None,
            None => wrong("is not a duration".to_owned(), "write one such as '10 s' or '500 ms'".to_owned()),
        },
        Size => match parse_size(value) {
            Some(size) if size > 0 => None,
            _ => wrong("is not a size".to_owned(), "write one such as '128 MB' or '512 kb'".to_owned()),
        },
        OneOf(choices) if choices.contains(&value) => None,
        Offsets => match parse_offsets(value) {
            Some(_) => None,
            None => {
                wrong("are not offsets by partition".to_owned(), format!("write such as '{OFFSETS_EXAMPLE}'"))
            }
        },
        OneOf(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| (*choice).to_owned()).collect();
            wrong("is not supported".to_owned(), format!("use {}", listed(&choices)))
        }
    }
}

fn listed(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

/// Parses offsets by partition: `partition:0,offset:42;partition:1,offset:7`; `None` if it is something else, or names a partition twice.
pub fn parse_offsets(text: &str) -> Option<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (partition, offset) = part.split_once(',')?;
        let partition: i32 = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
        let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
        if partition < 0 || offset < 0 || offsets.insert(partition, offset).is_some() {
            return None;
        }
    }
    (!offsets.is_empty()).then_some(offsets)
}

/// One ASCII character; `\t` is a tab, as in Flink.
pub fn parse_character(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && ![b'\n', b'\r'].contains(byte) => Some(*byte),
        b"\\t" => Some(b'\t'),
        _ => None,
    }
}

/// Parses durations as Flink writes them: `10 s`, `500ms`; a bare number is milliseconds.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
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
    number.checked_mul(millis).map(std::time::Duration::from_millis)
}

/// Bytes as Flink writes them: `128 MB`, `512kb`, `1024`. Units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let power = match text[digits..].trim() {
        "" | "b" | "bytes" => 0,
        "k" | "kb" | "kibibytes" => 1,
        "m" | "mb" | "mebibytes" => 2,
        "g" | "gb" | "gibibytes" => 3,
        "t" | "tb" | "tebibytes" => 4,
        _ => return None,
    };
    number.checked_mul(1024_u64.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in
            [("1024", 1024), ("128 MB", 128 << 20), ("512kb", 512 << 10), ("1 g", 1 << 30), ("7 bytes", 7)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "1.5 MB", "-1", "1 fortnight"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn every_option_is_in_the_reference() {
        let reference = include_str!("../../../docs/connectors.md");
        let mut known = 0;
        for role in [Role::Source, Role::Sink] {
            for connector in names(Some(role)) {
                for setting in settings(&connector, role).unwrap() {
                    let is_there = [format!("`{}`", setting.key), format!("`{}` =", setting.key)]
                        .iter()
                        .any(|written| reference.contains(written));
                    assert!(
                        is_there,
                        "docs/connectors.md does not say what '{}' of '{connector}' is",
                        setting.key
                    );
                    known += 1;
                }
            }
        }
        assert!(known > 50, "{known}");
    }

    #[test]
    fn every_mistake_is_named_with_its_cure() {
        type Case = (&'static str, Option<Role>, &'static [(&'static str, &'static str)]);
        let cases: &[Case] = &[
            ("connector=nexmark events=5", Some(Role::Source), &[]),
            ("connector=kafka topic=a bootstrap.servers=b format=json", Some(Role::Sink), &[]),
            (
                "path=a",
                None,
                &[(
                    "'connector' is missing",
                    "'kafka', 'upsert-kafka', 'filesystem', 'nexmark', 'datagen', 'print' or 'blackhole'",
                )],
            ),
            ("connector=kafak", None, &[("'kafak' is not known", "use 'kafka'")]),
            ("connector=print", Some(Role::Source), &[("can only be written to", "'nexmark' or 'datagen'")]),
            ("connector=nexmark", Some(Role::Sink), &[("can only be read from", "'print' or 'blackhole'")]),
            (
                "connector=filesystem format=xml pth=a",
                Some(Role::Sink),
                &[
                    ("'path' is missing", "add 'path' = 's3://bucket/folder'"),
                    ("'format' = 'xml' is not supported", "use 'json', 'csv' or 'parquet'"),
                    ("'pth' is not known here", "did you mean 'path'?"),
                ],
            ),
            (
                "connector=filesystem path=a format=csv csv.field-delimiter=;; json.ignore-parse-errors=true",
                Some(Role::Source),
                &[
                    ("'csv.field-delimiter' = ';;' is not one ASCII character", "'\\t' for a tab"),
                    (
                        "'json.ignore-parse-errors' is one of 'json', and the format is 'csv'",
                        "'format' = 'json'",
                    ),
                ],
            ),
            (
                "connector=kafka topic=a format=json",
                Some(Role::Source),
                &[("'properties.bootstrap.servers' is missing", "add")],
            ),
            (
                "connector=kafka topic=a bootstrap.servers=b format=json scan.startup.mode=timestamp scan.bounded.specific-offsets=partition:0,offset:4",
                Some(Role::Source),
                &[
                    (
                        "'timestamp' needs 'scan.startup.timestamp-millis'",
                        "add 'scan.startup.timestamp-millis'",
                    ),
                    (
                        "'scan.bounded.specific-offsets' needs 'scan.bounded.mode' = 'specific-offsets'",
                        "add 'scan.bounded.mode'",
                    ),
                ],
            ),
            (
                "connector=kafka topic=a;b bootstrap.servers=b format=json scan.startup.mode=specific-offsets scan.startup.specific-offsets=partition:0,offset:4",
                Some(Role::Source),
                &[("is of one topic", "UNION ALL")],
            ),
            (
                "connector=kafka topic=a bootstrap.servers=b format=json scan.startup.mode=specific-offsets scan.startup.specific-offsets=0:4",
                Some(Role::Source),
                &[("are not offsets by partition", "write such as 'partition:0,offset:42")],
            ),
            (
                "connector=kafka topic=a,b bootstrap.servers=b format=json",
                Some(Role::Source),
                &[("'a,b' is not the name of a topic", "have ';' between")],
            ),
            (
                "connector=kafka topic=a;b bootstrap.servers=b format=json",
                Some(Role::Sink),
                &[("rows are written to one", "an INSERT INTO for each")],
            ),
            ("connector=nexmark events=many", Some(Role::Source), &[("'many' is not a number", "from 0")]),
            (
                "connector=nexmark splits=1000000000",
                Some(Role::Source),
                &[("is not a number", "from 1 to 32768")],
            ),
            ("connector=nexmark rows-per-second=0", Some(Role::Source), &[("'0' is not a number", "from 1")]),
            (
                "connector=nexmark scan.watermark.idle-timeout=soon",
                Some(Role::Source),
                &[("'soon' is not a duration", "'10 s' or '500 ms'")],
            ),
            ("connector=nexmark rows-per-second=${secret:n}", Some(Role::Source), &[]),
            (
                "connector=nexmark events=${secret:n}",
                Some(Role::Source),
                &[("'events' cannot be a secret", "write the value itself")],
            ),
            // One table may be written and read.
            (
                "connector=filesystem path=a format=json sink.rolling-policy.file-size=1mb",
                Some(Role::Source),
                &[],
            ),
            (
                "connector=filesystem path=a format=json sink.rolling-policy.file-size=much",
                Some(Role::Source),
                &[("'much' is not a size", "'128 MB'")],
            ),
            (
                "connector=blackhole colour=dark",
                Some(Role::Sink),
                &[("'colour' is not known here", "has no options")],
            ),
        ];
        for (options, role, expected) in cases {
            let options = options.split(' ').filter_map(|option| option.split_once('='));
            let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();

            let found = check(&options, *role);

            assert_eq!(found.len(), expected.len(), "{options:?}: {found:?}");
            for (mistake, (message, hint)) in found.iter().zip(*expected) {
                assert!(mistake.message.contains(message), "{options:?}: {mistake:?}");
                assert!(
                    mistake.hint.as_ref().is_some_and(|found| found.contains(hint)),
                    "{options:?}: {mistake:?}"
                );
            }
        }
    }

    #[test]
    fn durations_are_read_as_flink_reads_them() {
        let cases = [("10 s", 10_000), ("500ms", 500), ("2 min", 120_000), ("1h", 3_600_000), ("7", 7)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(std::time::Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("s"), None);
        assert_eq!(parse_duration("-1 s"), None);
    }
}
