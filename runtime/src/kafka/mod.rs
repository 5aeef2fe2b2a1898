//! A thin client of Kafka's wire protocol: connections, leaders, coordinators. What requests mean is up to source and sink.
//!
//! Requests and answers are those of crate `kafka-protocol`. Versions are chosen per request, because with transactions the
//! versions of requests decide how a broker behaves.

mod client;
mod connection;
mod scram;
mod security;

use std::collections::BTreeSet;
use std::{fmt, io};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use millrace_sql::connectors::kafka::PATTERN;
use regex::Regex;
use snafu::Snafu;

use crate::options::{OptionError, TableOptions};

pub use client::{Client, Partition};
pub use connection::Connection;
pub use security::Security;

/// The topic or the partition is not known to the broker that was asked.
pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// The asked offset is before the first or after the last one.
pub const OFFSET_OUT_OF_RANGE: i16 = 1;
/// A partition has no leader at the moment.
pub const LEADER_NOT_AVAILABLE: i16 = 5;
/// A batch is larger than the topic allows.
pub const MESSAGE_TOO_LARGE: i16 = 10;
/// The coordinator is starting, is not known yet, or is another broker.
pub const COORDINATOR_MOVES: [i16; 3] = [14, 15, 16];
/// The transaction is not in a state for this.
pub const INVALID_TXN_STATE: i16 = 48;
/// The transaction's time-out is above what the broker allows.
pub const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
/// The identity is not known: the id has expired.
pub const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
/// The broker knows no such transactional id.
pub const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
/// A newer transaction of the id has begun.
pub const PRODUCER_FENCED: i16 = 90;
/// An earlier transaction of the id is not quite over.
pub const CONCURRENT_TRANSACTIONS: i16 = 51;

/// Errors of partitions that go away by themselves: leaders move, replicas catch up, disks are replaced.
const PASSING: [i16; 16] = [-1, 2, 3, 5, 6, 7, 8, 9, 13, 19, 20, 56, 74, 75, 76, 78];

/// A broker cannot be reached or does not do what was asked.
#[derive(Debug, Snafu)]
pub enum KafkaError {
    /// The connection failed; trying again may help.
    #[snafu(display("failed to {action} at {address}"))]
    Network { action: String, address: String, source: io::Error },
    /// The broker answered with an error.
    #[snafu(display("{address} refused to {action}: {reason} (error {code})"))]
    Refused { action: String, address: String, code: i16, reason: String },
    /// The topic is not there.
    #[snafu(display("the topic '{topic}' does not exist at {brokers}; create it"))]
    NoTopic { topic: String, brokers: String },
    /// The broker does not let this user in.
    #[snafu(display(
        "{address} refused the login of '{user}': {message}; correct 'properties.sasl.jaas.config' or 'properties.sasl.mechanism'"
    ))]
    Login { address: String, user: String, message: String },
    /// The broker is too old or speaks something else.
    #[snafu(display("{address}: {message}"))]
    Unsupported { address: String, message: String },
    /// A broker has answered what cannot be understood.
    #[snafu(display("the answer of {address} to {action} is malformed: {message}"))]
    Malformed { action: String, address: String, message: String },
}

impl KafkaError {
    /// The broker's error code, if it has answered one.
    pub fn code(&self) -> Option<i16> {
        match self {
            KafkaError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True if the same request may succeed in a while, perhaps at another broker.
    pub fn is_passing(&self) -> bool {
        match self {
            KafkaError::Network { .. } => true,
            KafkaError::Refused { code, .. } => {
                PASSING.contains(code) || COORDINATOR_MOVES.contains(code) || *code == CONCURRENT_TRANSACTIONS
            }
            _ => false,
        }
    }

    /// True if somebody may cure it from outside while the job waits, or if it passes by itself.
    pub fn may_be_cured(&self) -> bool {
        self.is_passing() || matches!(self, KafkaError::NoTopic { .. } | KafkaError::Login { .. })
    }

    /// As the cause of a failure that is worth a restart of the job.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// `Ok` for code 0.
pub fn checked(code: i16, action: &str, address: &str) -> Result<(), KafkaError> {
    let Some(error) = ResponseError::try_from_code(code) else { return Ok(()) };
    RefusedSnafu { action, address, code, reason: error.to_string() }.fail()
}

/// Brokers of a table: Flink's name of the option, and the short one.
pub fn servers(options: &mut TableOptions<'_>) -> Result<Vec<String>, OptionError> {
    let short = options.optional("bootstrap.servers");
    let servers = match options.optional("properties.bootstrap.servers").or(short) {
        Some(servers) => bootstrap(&servers),
        None => bootstrap(&options.required("properties.bootstrap.servers")?),
    };
    match servers.is_empty() {
        true => Err(options.wrong("properties.bootstrap.servers", "names no broker")),
        false => Ok(servers),
    }
}

/// The one topic of a sink.
pub fn topic(options: &mut TableOptions<'_>) -> Result<String, OptionError> {
    let mut topics = topics(options)?;
    match topics.len() {
        1 => Ok(topics.remove(0)),
        _ => Err(options.wrong("topic", "names several topics; rows are written to one")),
    }
}

/// The topics of a source, each once.
pub fn topics(options: &mut TableOptions<'_>) -> Result<Vec<String>, OptionError> {
    let text = options.required("topic")?;
    let topics: BTreeSet<&str> = text.split(';').map(str::trim).filter(|topic| !topic.is_empty()).collect();
    match topics.is_empty() {
        true => Err(options.wrong("topic", "names no topic")),
        false => Ok(topics.into_iter().map(str::to_owned).collect()),
    }
}

/// Which topics a source reads.
#[derive(Debug, Clone)]
pub enum Topics {
    /// By their names, each once.
    Named(Vec<String>),
    /// All that there are with such names, also those that come later.
    Matching(Regex),
}

impl Topics {
    /// Reads the options 'topic' and 'topic-pattern'.
    ///
    /// # Errors
    /// If neither is there, or both.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let Some(pattern) = options.optional(PATTERN) else { return topics(options).map(Topics::Named) };
        if options.optional("topic").is_some() {
            return Err(options.wrong(PATTERN, "cannot be together with 'topic': remove one of them"));
        }
        // The whole name has to match.
        let whole = Regex::new(&format!("^(?:{pattern})$"));
        whole.map(Topics::Matching).map_err(|_| options.wrong(PATTERN, "is not a regular expression"))
    }

    /// The topics that there are now.
    ///
    /// # Errors
    /// If no broker tells.
    pub async fn names(&self, client: &mut Client) -> Result<Vec<String>, KafkaError> {
        match self {
            Topics::Named(names) => Ok(names.clone()),
            Topics::Matching(pattern) => {
                let mut names = client.topics().await?;
                names.retain(|name| pattern.is_match(name));
                names.sort_unstable();
                Ok(names)
            }
        }
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topics::Named(names) => f.write_str(&names.join(";")),
            Topics::Matching(pattern) => f.write_str(pattern.as_str()),
        }
    }
}

/// A topic's name in requests.
pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The brokers named in 'properties.bootstrap.servers'.
fn bootstrap(servers: &str) -> Vec<String> {
    let servers = servers.split(',').map(str::trim).filter(|server| !server.is_empty());
    servers
        .map(|server| if server.contains(':') { server.to_owned() } else { format!("{server}:9092") })
        .collect()
}
