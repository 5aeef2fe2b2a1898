//! Where rows come from: connectors cut a table into splits, readers read splits in order.
//!
//! A split's position is part of the checkpoint; reading on from a position gives the same rows again in the same
//! order. Watermarks are kept per split by the caller ([`watermark`]).

pub mod files;
pub mod generated;
pub mod kafka;
mod layout;
mod record_format;
pub mod watermark;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use millrace_sql::plan::{Operator, OperatorKind, Source as SourcePlan};
use snafu::Snafu;

use crate::options::OptionError;
use crate::outside::Outside;
use crate::secrets::SecretError;
pub use record_format::{KeyDecoder, RecordFormat, is_of};

/// A source cannot be opened or read.
#[derive(Debug, Snafu)]
pub enum SourceError {
    /// The user's table options are wrong.
    #[snafu(transparent)]
    Options { source: OptionError },
    /// A password or key is not there; it may come.
    #[snafu(display("failed to read the options of the table '{table}'"))]
    Secret { table: String, source: SecretError },
    /// The data are wrong; reading them again gives the same.
    #[snafu(display("{message}"))]
    Data { message: String },
    /// The outside failed; trying again may help.
    #[snafu(display("failed to {action}"))]
    Io { action: String, source: std::io::Error },
}

impl SourceError {
    /// True if trying again gives the same.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, SourceError::Io { .. } | SourceError::Secret { .. })
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            SourceError::Options { .. } => "InvalidOptions",
            SourceError::Secret { .. } => "SecretMissing",
            SourceError::Data { .. } => "InvalidData",
            SourceError::Io { .. } => "SourceUnavailable",
        }
    }
}

/// A part of a source that one subtask reads in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Stable for the life of the job; splits are ordered by it.
    pub id: String,
    /// Where reading goes on, in the connector's own form.
    pub position: Vec<u8>,
}

/// What a reader gives.
#[derive(Debug)]
pub enum Read {
    /// Rows of the source's leaves.
    Rows(RecordBatch),
    /// The split is bounded and has been read.
    End,
}

/// Tells how many records of a split are there and were not read yet, as far as the outside has told.
pub type Lag = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Reads one split.
pub trait SplitReader: Send {
    /// The next rows, or a wake-up when there may be some.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, SourceError>>;

    /// Where the row after the last one given is.
    fn position(&self) -> Vec<u8>;

    /// True if nothing more can be read now, as far as the outside has told. Only then a split can become idle: one that is
    /// merely slow to read must hold the watermark back.
    fn is_caught_up(&self) -> bool {
        false
    }

    /// How far it is behind, for those who ask at any time.
    fn lag(&self) -> Option<Lag> {
        None
    }

    /// Bytes that it has fetched, or is fetching, and that it would fetch again after [`SplitReader::release`]; `None`: it has
    /// nothing of the kind, and is read whatever others hold.
    fn held(&self) -> Option<usize> {
        None
    }

    /// Gives up what it holds: others are to be read first.
    fn release(&mut self) {}

    /// How much of a bounded split has been read, from 0 to 1; `None`: it is not known, or not yet.
    fn progress(&self) -> Option<f64> {
        None
    }
}

/// Reads tables of one kind from outside.
#[async_trait]
pub trait SourceConnector: Send + Sync {
    /// Cuts the table into splits, at the job's first start.
    async fn splits(&self, parallelism: u32) -> Result<Vec<Split>, SourceError>;

    /// Opens a split at its position.
    fn open(&self, split: &Split) -> Result<Box<dyn SplitReader>, SourceError>;

    /// True if its input has an end.
    fn is_bounded(&self) -> bool;

    /// A position for a reader: how far a split was read.
    fn position_text(&self, position: &[u8]) -> String;

    /// How often it looks for splits that have come since; `None`: never.
    fn discovery_interval(&self) -> Option<Duration> {
        None
    }

    /// The splits that are there now, but for those that are known by their ids; they are read from their beginning.
    async fn discover(&self, _known: &BTreeSet<String>) -> Result<Vec<Split>, SourceError> {
        Ok(Vec::new())
    }

    /// How many records that are no rows its readers have left out, as `json.ignore-parse-errors` wants.
    fn skipped(&self) -> u64 {
        0
    }
}

/// The beginning of a record, for messages.
pub fn excerpt(record: &[u8]) -> String {
    String::from_utf8_lossy(record).trim_end().chars().take(EXCERPT_CHARS).collect()
}

/// Longest excerpt of a record in a message.
const EXCERPT_CHARS: usize = 200;

/// In place of a position that cannot be read.
const UNREADABLE: &str = "a position of another release";

/// Opens the connector of a source table.
pub fn connector(plan: &SourcePlan, outside: &Outside) -> Result<Box<dyn SourceConnector>, SourceError> {
    let table = plan.table.clone().unwrap_or_default();
    let options = crate::options::TableOptions::with_secrets(&table, &outside.secrets);
    let mut options = options.map_err(|source| SourceError::Secret { table: table.name.clone(), source })?;
    let kind = options.required("connector")?;
    let connector: Box<dyn SourceConnector> = match kind.as_str() {
        "nexmark" => Box::new(generated::nexmark::connector(plan, &mut options, outside.clock)?),
        "datagen" => Box::new(generated::datagen::connector(plan, &mut options, outside.clock)?),
        "filesystem" => Box::new(files::Files::new(plan, &mut options, outside)?),
        "kafka" => Box::new(kafka::Kafka::new(plan, &mut options, outside)?),
        "upsert-kafka" => Box::new(kafka::Kafka::by_key(plan, &mut options, outside)?),
        "print" | "blackhole" => {
            return Err(options
                .wrong(
                    "connector",
                    "can only be written to; read from 'kafka', 'upsert-kafka', 'filesystem', 'nexmark' or 'datagen'",
                )
                .into());
        }
        _ => {
            return Err(options
                .wrong(
                    "connector",
                    "is not known; use 'kafka', 'upsert-kafka', 'filesystem', 'nexmark' or 'datagen'",
                )
                .into());
        }
    };
    idle_timeout(&mut options)?;
    rows_per_second(&mut options)?;
    options.finish()?;
    Ok(connector)
}

/// How far a split of an operator was read, for a reader.
pub fn position_text(operator: &Operator, position: &[u8]) -> String {
    let text = match &operator.kind {
        Some(OperatorKind::Source(plan)) => {
            connector(plan, &Outside::unreached()).ok().map(|connector| connector.position_text(position))
        }
        _ => None,
    };
    text.unwrap_or_else(|| format!("{} bytes of another release", position.len()))
}

/// How long a split that is caught up holds the watermark back; `None`: for ever.
pub fn idle_timeout_of(plan: &SourcePlan) -> Result<Option<Duration>, SourceError> {
    let table = plan.table.clone().unwrap_or_default();
    Ok(idle_timeout(&mut crate::options::TableOptions::new(&table))?)
}

/// How many rows a second all subtasks together may read; `None`: as many as they can.
pub fn rows_per_second_of(plan: &SourcePlan) -> Result<Option<u64>, SourceError> {
    let table = plan.table.clone().unwrap_or_default();
    Ok(rows_per_second(&mut crate::options::TableOptions::new(&table))?)
}

fn rows_per_second(options: &mut crate::options::TableOptions<'_>) -> Result<Option<u64>, OptionError> {
    match options.parsed("scan.rows-per-second", "a number of rows")? {
        Some(0) => Err(options.wrong("scan.rows-per-second", "must be at least 1")),
        rate => Ok(rate),
    }
}

fn idle_timeout(options: &mut crate::options::TableOptions<'_>) -> Result<Option<Duration>, OptionError> {
    Ok(options.duration("scan.watermark.idle-timeout")?.filter(|timeout| !timeout.is_zero()))
}
