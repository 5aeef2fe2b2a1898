//! Options of Kafka's connectors that say where and how much is read and written; security and keys have files of their own.

use std::collections::BTreeMap;

use super::ValueKind::{Any, Character, Duration, Number, Offsets, OneOf, Text};
use super::{FORMAT, Mistake, Role, Setting, connection, kafka_security, meaning, required};

pub const SERVERS: Setting = connection("properties.bootstrap.servers", Text("broker-1:9092,broker-2:9092"));
pub const SERVERS_SHORT: Setting = connection("bootstrap.servers", Text("broker-1:9092,broker-2:9092"));

/// Stores of other types belong to Java.
const PEM: &[&str] = &["PEM"];

/// How Kafka's brokers are spoken to, as Kafka's clients call it.
pub const SECURITY: &[Setting] = &[
    connection(kafka_security::PROTOCOL, OneOf(kafka_security::PROTOCOLS)),
    connection(kafka_security::MECHANISM, OneOf(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])),
    connection(kafka_security::JAAS, Text(kafka_security::JAAS_EXAMPLE)),
    connection(kafka_security::AUTHORITY_TYPE, OneOf(PEM)),
    connection(kafka_security::AUTHORITY, Text("${secret:kafka-ca}")),
    connection(kafka_security::AUTHORITY_FILE, Text("/etc/kafka/ca.pem")),
    connection(kafka_security::KEY_TYPE, OneOf(PEM)),
    connection(kafka_security::CHAIN, Text("${secret:kafka-certificate}")),
    connection(kafka_security::KEY, Text("${secret:kafka-key}")),
];

/// What the columns of keys are left out of values by.
pub const EXCEPT_KEY: &str = "EXCEPT_KEY";

pub const KEY_FORMAT: Setting = meaning("key.format", OneOf(&["json", "csv", "raw"]));
pub const KEY_FIELDS: Setting = meaning("key.fields", Text("id;region"));
pub const KEY_PREFIX: Setting = meaning("key.fields-prefix", Text("key_"));
pub const VALUE_FIELDS: Setting = meaning("value.fields-include", OneOf(&["ALL", EXCEPT_KEY]));

const BOUNDED_MODE: Setting =
    meaning("scan.bounded.mode", OneOf(&["unbounded", "latest-offset", "timestamp", "specific-offsets"]));
const BOUNDED_TIME: Setting = meaning("scan.bounded.timestamp-millis", Number(0));
const BOUNDED_OFFSETS: Setting = meaning("scan.bounded.specific-offsets", Offsets);
const DISCOVERY: Setting = connection("scan.topic-partition-discovery.interval", Duration);
const ISOLATION: Setting =
    meaning("properties.isolation.level", OneOf(&["read_committed", "read_uncommitted"]));

pub const SOURCE: &[Setting] = &[
    meaning("topic", Text("orders")),
    meaning(PATTERN, Text("orders-.*")),
    SERVERS,
    SERVERS_SHORT,
    FORMAT,
    meaning(
        "scan.startup.mode",
        OneOf(&["earliest-offset", "latest-offset", "timestamp", "specific-offsets"]),
    ),
    meaning("scan.startup.timestamp-millis", Number(0)),
    meaning("scan.startup.specific-offsets", Offsets),
    BOUNDED_MODE,
    BOUNDED_TIME,
    BOUNDED_OFFSETS,
    DISCOVERY,
    KEY_FORMAT,
    KEY_FIELDS,
    KEY_PREFIX,
    VALUE_FIELDS,
    ISOLATION,
];

/// What the options of a record's value begin with in a table of rows by key; those of its key begin with `key.`.
pub const VALUE: &str = "value.";
pub const KEY: &str = "key.";

pub const UPSERT_SOURCE: &[Setting] = &[
    meaning("topic", Text("totals")),
    meaning(PATTERN, Text("totals-.*")),
    SERVERS,
    SERVERS_SHORT,
    Setting { is_required: true, ..KEY_FORMAT },
    required("value.format", OneOf(super::RECORD_FORMATS)),
    KEY_PREFIX,
    VALUE_FIELDS,
    BOUNDED_MODE,
    BOUNDED_TIME,
    BOUNDED_OFFSETS,
    DISCOVERY,
    ISOLATION,
    connection("value.json.ignore-parse-errors", OneOf(&["true", "false"])),
    connection("value.json.fail-on-missing-field", OneOf(&["true", "false"])),
    connection("value.json.timestamp-format.standard", OneOf(&["SQL", "ISO-8601"])),
    connection("value.csv.ignore-parse-errors", OneOf(&["true", "false"])),
    connection("value.csv.field-delimiter", Character(";")),
    connection("value.csv.quote-character", Character("'")),
    connection("value.csv.disable-quote-character", OneOf(&["true", "false"])),
    connection("value.csv.escape-character", Character("\\")),
    connection("value.csv.allow-comments", OneOf(&["true", "false"])),
    connection("value.csv.null-literal", Any("NULL")),
    connection("key.csv.field-delimiter", Character(";")),
    connection("key.csv.quote-character", Character("'")),
    connection("key.csv.disable-quote-character", OneOf(&["true", "false"])),
    connection("key.csv.escape-character", Character("\\")),
    connection("key.csv.allow-comments", OneOf(&["true", "false"])),
    connection("key.csv.null-literal", Any("NULL")),
];

const COMPRESSION: Setting =
    connection("properties.compression.type", OneOf(&["none", "gzip", "snappy", "lz4", "zstd"]));

pub const SINK: &[Setting] = &[
    COMPRESSION,
    required("topic", Text("totals")),
    SERVERS,
    SERVERS_SHORT,
    FORMAT,
    KEY_FORMAT,
    KEY_FIELDS,
    KEY_PREFIX,
    VALUE_FIELDS,
    connection("sink.partitioner", OneOf(&["default", "fixed", "round-robin"])),
    GUARANTEE,
    connection("properties.transaction.timeout.ms", Number(1)),
];

const GUARANTEE: Setting = meaning("sink.delivery-guarantee", OneOf(&["exactly-once", "at-least-once"]));

pub const UPSERT_SINK: &[Setting] = &[
    COMPRESSION,
    required("topic", Text("totals")),
    SERVERS,
    SERVERS_SHORT,
    required("key.format", OneOf(&["json"])),
    required("value.format", OneOf(&["json"])),
    meaning("value.fields-include", OneOf(&["ALL"])),
    GUARANTEE,
    connection("properties.transaction.timeout.ms", Number(1)),
];

/// Modes of Kafka's sources that go with another option, and that option.
pub const MODES: [(&str, &str, &str); 4] = [
    ("scan.startup.mode", "timestamp", "scan.startup.timestamp-millis"),
    ("scan.startup.mode", "specific-offsets", "scan.startup.specific-offsets"),
    ("scan.bounded.mode", "timestamp", "scan.bounded.timestamp-millis"),
    ("scan.bounded.mode", "specific-offsets", "scan.bounded.specific-offsets"),
];

pub fn check_modes(options: &BTreeMap<String, String>) -> Vec<Mistake> {
    let mistake = |(mode, value, companion): (&str, &str, &str)| {
        let is_so = options.get(mode).is_some_and(|given| given == value);
        let (key, message, hint) = match (is_so, options.contains_key(companion)) {
            (true, false) => {
                (mode, format!("'{mode}' = '{value}' needs '{companion}'"), format!("add '{companion}'"))
            }
            (false, true) => (
                companion,
                format!("the option '{companion}' needs '{mode}' = '{value}'"),
                format!("add '{mode}' = '{value}', or remove it"),
            ),
            _ => return None,
        };
        Some(Mistake { key: Some(key.to_owned()), message, hint: Some(hint) })
    };
    MODES.into_iter().filter_map(mistake).collect()
}

/// Names topics by a regular expression.
pub const PATTERN: &str = "topic-pattern";

/// The mistake of a source's topics if they are named twice, or not at all.
fn check_names(options: &BTreeMap<String, String>) -> Option<Mistake> {
    let mistake = |key: Option<&str>, message: &str, hint: &str| {
        Some(Mistake {
            key: key.map(str::to_owned),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        })
    };
    match (options.get("topic"), options.get(PATTERN)) {
        (None, None) => mistake(
            None,
            "the option 'topic' is missing",
            "add 'topic' = 'orders', or 'topic-pattern' = 'orders-.*' for all topics with such names",
        ),
        (Some(_), Some(_)) => mistake(
            Some(PATTERN),
            "the options 'topic' and 'topic-pattern' are both there, and each says what is read",
            "remove one of them",
        ),
        (None, Some(pattern)) => match regex::Regex::new(pattern) {
            Ok(_) => offsets_option(options).and_then(|key| {
                mistake(
                    Some(key),
                    &format!("the option '{key}' is of one topic, and 'topic-pattern' names several"),
                    "name the topic by 'topic'",
                )
            }),
            Err(_) => mistake(
                Some(PATTERN),
                &format!("the option 'topic-pattern' = '{pattern}' is not a regular expression"),
                "write one such as 'orders-.*'",
            ),
        },
        (Some(_), None) => None,
    }
}

/// An option that says offsets, which are of one topic.
fn offsets_option(options: &BTreeMap<String, String>) -> Option<&'static str> {
    MODES
        .iter()
        .map(|(.., companion)| *companion)
        .find(|key| key.ends_with("offsets") && options.contains_key(*key))
}

pub fn check_topics(options: &BTreeMap<String, String>, role: Option<Role>) -> Option<Mistake> {
    if role == Some(Role::Source)
        && let Some(mistake) = check_names(options)
    {
        return Some(mistake);
    }
    let topics: Vec<&str> =
        options.get("topic")?.split(';').map(str::trim).filter(|topic| !topic.is_empty()).collect();
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&letter);
    if let Some(wrong) = topics.iter().find(|topic| !topic.chars().all(is_letter)) {
        return Some(Mistake {
            key: Some("topic".to_owned()),
            message: format!("the option 'topic': '{wrong}' is not the name of a topic"),
            hint: Some(
                "its letters are a-z, A-Z, 0-9, '.', '_' and '-'; several topics have ';' between".to_owned(),
            ),
        });
    }
    let topics = topics.len();
    let with_offsets = offsets_option(options);
    let (key, message, hint) = match (topics, role, with_offsets) {
        (0 | 1, ..) => return None,
        (_, Some(Role::Sink), _) => (
            "topic",
            "the option 'topic' names several topics, and rows are written to one".to_owned(),
            "write an INSERT INTO for each, in one EXECUTE STATEMENT SET",
        ),
        (_, _, Some(key)) => (
            key,
            format!("the option '{key}' is of one topic, and 'topic' names several"),
            "declare a table for each topic, and read them with UNION ALL",
        ),
        _ => return None,
    };
    Some(Mistake { key: Some(key.to_owned()), message, hint: Some(hint.to_owned()) })
}
