//! Where rows go: writers collect what belongs to an epoch, a committer makes it visible once the epoch's record
//! exists.
//!
//! Writing, preparing and committing are apart, as in two-phase commit: a prepared epoch can be committed by any
//! process that knows its committables, any number of times, and never half.

pub mod blackhole;
pub mod bucket_files;
pub mod checksum;
pub mod files;
pub mod kafka;
pub mod partitions;
mod print;
mod rolling;

use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use millrace_sql::plan::{Operator, Sink as SinkPlan, Table};
use snafu::Snafu;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Batch, Epoch, Generation, JobUid, Led, Subtask};
use crate::options::{OptionError, TableOptions};
use crate::outside::Outside;
use crate::secrets::SecretError;

/// A sink cannot be opened, written or committed.
#[derive(Debug, Snafu)]
pub enum SinkError {
    /// The user's table options are wrong.
    #[snafu(transparent)]
    Options { source: OptionError },
    /// A password or key is not there; it may come.
    #[snafu(display("failed to read the options of the table '{table}'"))]
    Secret { table: String, source: SecretError },
    /// The rows cannot be written in the sink's format.
    #[snafu(display("{message}"))]
    Data { message: String },
    /// The outside failed; trying again may help.
    #[snafu(display("failed to {action}"))]
    Io { action: String, source: std::io::Error },
    /// What was prepared is gone: results would be lost. `kind` is the reason that conditions name.
    #[snafu(display("{kind}: {message}"))]
    Lost { kind: &'static str, message: String },
}

impl SinkError {
    /// True if trying again gives the same.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, SinkError::Io { .. } | SinkError::Secret { .. })
    }

    /// The kind of failure, as conditions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            SinkError::Options { .. } => "InvalidOptions",
            SinkError::Secret { .. } => "SecretMissing",
            SinkError::Data { .. } => "SinkRejected",
            SinkError::Io { .. } => "SinkUnavailable",
            SinkError::Lost { kind, .. } => kind,
        }
    }
}

/// What one subtask has prepared, in the connector's own form.
pub type Committable = Vec<u8>;

/// Why something has to wait that will go on by itself; `None` while nothing is wrong.
pub type Trouble = watch::Receiver<Option<String>>;

/// Writes rows of one subtask.
pub trait SinkWriter: Send {
    /// Takes rows.
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Waits until more rows can be taken.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        Poll::Ready(Ok(()))
    }

    /// Ends the epoch: what was written since the last call becomes durable but not visible. Rows of the next epoch may
    /// be written while this goes on.
    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>>;

    /// What keeps prepared rows from becoming durable at the moment; `None`: whatever it is ends the job's run.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// What the values that this writer has taken add up to, a column each; nothing for sinks that keep no checksums.
    fn checksums(&self) -> &[u64] {
        &[]
    }
}

/// Makes prepared results visible.
#[async_trait]
pub trait SinkCommitter: Send + Sync {
    /// Commits; what is committed already counts as success.
    async fn commit(&self, committables: &[Committable]) -> Result<(), SinkError>;

    /// Refuses what can no longer be committed, before a checkpoint names it for good: the rows can still be read again.
    async fn check(&self, _committables: &[Committable]) -> Result<(), SinkError> {
        Ok(())
    }

    /// How long what was prepared can wait for its commit; `None`: for ever.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Removes what generations before this one left behind: `earlier` are those that may have; `named` are the committables of the
    /// restored checkpoint.
    async fn clean_up(
        &self,
        _generation: Generation,
        _earlier: &[Led],
        _named: &[Committable],
    ) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Whose results a sink writes.
#[derive(Debug, Clone)]
pub struct SinkIdentity {
    pub job: JobUid,
    /// The sink operator as it stands in names of files: its table, and a number among equals.
    pub operator: String,
    /// The sink operator's id in the plan: unlike its name in files it is unique whatever the letters.
    pub operator_id: String,
    pub generation: Generation,
    /// For writers: the newest complete checkpoint whose sinks have committed.
    pub completed: watch::Receiver<Epoch>,
    /// For writers: the first epoch of this generation.
    pub first_epoch: Epoch,
    pub outside: Outside,
}

/// Writes tables of one kind.
pub trait SinkConnector: Send + Sync {
    /// A writer for one subtask.
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError>;

    /// The committer; sinks without transactions have none.
    fn committer(&self) -> Option<Box<dyn SinkCommitter>> {
        None
    }
}

/// The name of a sink operator in file names, from its id `<table>/<table>/sink[/<n>]`.
pub fn operator_name(operator: &Operator) -> String {
    let mut parts = operator.id.split('/');
    let table = parts.next().unwrap_or_default();
    let name: String = table.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let numbered = match parts.nth(2) {
        Some(number) => format!("{name}_{number}"),
        None => name,
    };
    // Another table may have this very name, or one that differs only in letters that file names do not have.
    match numbered == table {
        true => numbered,
        false => format!("{numbered}_{:08x}", xxh3_64(operator.id.as_bytes()) as u32),
    }
}

/// `part-<job>-<operator>`: what all files of this sink of this job begin with.
pub fn file_prefix(identity: &SinkIdentity) -> String {
    let job: String = identity.job.0.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("part-{job}-{}", identity.operator)
}

/// Opens sinks; injected, so that the simulation sees what becomes visible.
pub trait Sinks: Send + Sync {
    /// The connector of a sink table.
    fn connector(&self, plan: &SinkPlan, identity: SinkIdentity)
    -> Result<Box<dyn SinkConnector>, SinkError>;
}

/// The connectors that jobs can name.
#[derive(Debug, Clone, Copy)]
pub struct StandardSinks;

impl Sinks for StandardSinks {
    fn connector(
        &self,
        plan: &SinkPlan,
        identity: SinkIdentity,
    ) -> Result<Box<dyn SinkConnector>, SinkError> {
        connector(plan, identity)
    }
}

/// Opens the connector of a sink table.
pub fn connector(plan: &SinkPlan, identity: SinkIdentity) -> Result<Box<dyn SinkConnector>, SinkError> {
    let table = plan.table.clone().unwrap_or_default();
    let options = TableOptions::with_secrets(&table, &identity.outside.secrets);
    let mut options = options.map_err(|source| SinkError::Secret { table: table.name.clone(), source })?;
    let kind = options.required("connector")?;
    let connector: Box<dyn SinkConnector> = match kind.as_str() {
        "filesystem" => files::open(&mut options, &table, identity)?,
        "kafka" => Box::new(kafka::Kafka::new(&mut options, &table, identity)?),
        "upsert-kafka" => Box::new(kafka::Kafka::by_key(&mut options, &table, identity)?),
        "print" => Box::new(print::Print::new(&mut options, &table)),
        "blackhole" => Box::new(blackhole::Blackhole),
        "nexmark" => return Err(options.wrong("connector", "can only be read from").into()),
        _ => {
            return Err(options
                .wrong(
                    "connector",
                    "is not known; use 'kafka', 'upsert-kafka', 'filesystem', 'print' or 'blackhole'",
                )
                .into());
        }
    };
    options.finish()?;
    Ok(connector)
}

/// Checks the options of a sink table without opening anything.
pub fn check(table: &Table) -> Result<(), SinkError> {
    let identity = SinkIdentity {
        job: JobUid(String::new()),
        operator: String::new(),
        operator_id: String::new(),
        generation: Generation(0),
        completed: watch::channel(Epoch(0)).1,
        first_epoch: Epoch(0),
        outside: Outside::unreached(),
    };
    connector(&SinkPlan { table: Some(table.clone()) }, identity).map(|_| ())
}
