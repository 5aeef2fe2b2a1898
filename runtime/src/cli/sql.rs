//! `millrace sql`: statements, then a SELECT, without a manifest. Over bounded input the final rows are shown, else every change as
//! it comes. On a terminal, and without statements, there is a prompt.
//!
//! The query runs as an ordinary job in this process, whose sink is what is shown. Its state is in a folder that goes with it.

mod prompt;
mod shown;

use std::io::{IsTerminal, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_crds::v1alpha1::UpgradeSpec;
use millrace_sql::ShownQuery;
use millrace_sql::plan::{Operator, OperatorKind, Plan};
use tokio::sync::watch;

use super::Exit;
use super::embedded::{self, machine_random, runtime};
use super::job::{UserError, check_options};
use super::memory::StateArguments;
use crate::checkpoint::protocol::JobIdentity;
use crate::checkpoint::{BucketSettings, FolderStore, Store};
use crate::clock::Clock;
use crate::coordinator::failover::RestartStrategy;
use crate::coordinator::{self, CoordinatorContext, JobReport, JobSettings, Wish, Workers};
use crate::error::chain;
use crate::fault::Safeguards;
use crate::model::{Attempt, MaxParallelism};
use crate::outside::Outside;
use crate::source;
use crate::transport::{Tcp, Transport};
use shown::{Format, Shown};

/// Arguments of `sql`.
#[derive(clap::Args, Clone)]
pub struct SqlArguments {
    /// Read statements from these files, in order; `-` is standard input.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Statements, after those of the files.
    #[arg(short, long = "execute", value_name = "STATEMENTS")]
    execute: Vec<String>,
    /// How rows are shown: `table` is the final table of bounded input, and the changelog else.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Subtasks of each operator.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallelism: u32,
}

/// How rows are shown.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Changelog,
    Json,
    Csv,
}

/// The time between checkpoints: nothing is restored from them, they only make sources tell how far they are.
const CHECKPOINT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// Key groups of a query, whose state nobody will rescale.
const MAX_PARALLELISM: u32 = 128;

/// Shows the rows of a query, or of those that are asked for at a prompt.
pub fn sql(arguments: SqlArguments) -> Result<Exit, UserError> {
    let is_asked = arguments.files.is_empty() && arguments.execute.is_empty();
    if is_asked && std::io::stdin().is_terminal() {
        return prompt::prompt(&arguments);
    }
    let text = statements(&arguments)?;
    let query = millrace_sql::compile_query(&text).map_err(|mistakes| {
        let rendered: Vec<String> = mistakes.iter().map(|mistake| mistake.render(&text)).collect();
        UserError(rendered.join("\n"))
    })?;
    show(query, &text, &arguments)
}

fn show(query: ShownQuery, text: &str, arguments: &SqlArguments) -> Result<Exit, UserError> {
    let ShownQuery { plan, changes } = query;
    check_options(&sources(&plan), text).map_err(UserError)?;
    let format = format(arguments.output, is_bounded(&plan)?, changes)?;
    let services = runtime("service", 2)?;
    services.block_on(run(plan, format, arguments.parallelism))
}

/// The text of all files and arguments, or of standard input if there are none.
fn statements(arguments: &SqlArguments) -> Result<String, UserError> {
    let mut parts = Vec::new();
    let reads_input = arguments.files.is_empty() && arguments.execute.is_empty();
    let input = [PathBuf::from("-")];
    for file in if reads_input { &input[..] } else { &arguments.files[..] } {
        parts.push(ended(read(file)?));
    }
    parts.extend(arguments.execute.iter().cloned().map(ended));
    Ok(parts.join("\n"))
}

/// A statement of the next part must not run into the last one of this, whose last line may be a comment.
fn ended(text: String) -> String {
    if text.trim_end().ends_with(';') || text.trim().is_empty() { text } else { text + "\n;" }
}

fn read(file: &Path) -> Result<String, UserError> {
    let read = match file.to_str() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        _ => std::fs::read_to_string(file),
    };
    read.map_err(|error| UserError(format!("failed to read '{}': {error}", file.display())))
}

/// The plan without its sink, which no table describes.
fn sources(plan: &Plan) -> Plan {
    let is_source = |operator: &&Operator| matches!(operator.kind, Some(OperatorKind::Source(_)));
    Plan { operators: plan.operators.iter().filter(is_source).cloned().collect(), edges: Vec::new() }
}

fn is_bounded(plan: &Plan) -> Result<bool, UserError> {
    let mut is_bounded = true;
    for operator in &plan.operators {
        if let Some(OperatorKind::Source(plan)) = &operator.kind {
            let connector = source::connector(plan, &Outside::unreached());
            is_bounded &= connector.map_err(|error| UserError(chain(&error)))?.is_bounded();
        }
    }
    Ok(is_bounded)
}

fn format(output: Output, is_bounded: bool, changes: bool) -> Result<Format, UserError> {
    Ok(match output {
        Output::Table if is_bounded => Format::FinalTable,
        Output::Table | Output::Changelog => Format::Changelog,
        Output::Json if is_bounded => Format::FinalJson,
        Output::Csv if is_bounded => Format::FinalCsv,
        Output::Json | Output::Csv if changes => {
            return Err(UserError(
                "--output: rows of this query change, and its input has no end: use --output changelog, or bounded input".to_owned(),
            ));
        }
        Output::Json => Format::LiveJson,
        Output::Csv => Format::LiveCsv,
    })
}

async fn run(plan: Plan, format: Format, parallelism: u32) -> Result<Exit, UserError> {
    let clock = Clock::system();
    let random = machine_random();
    let uid = embedded::new_uid(&random);
    let folder = Scratch(std::env::temp_dir().join(format!("millrace-sql-{}", uid.0)));
    let store: Arc<dyn Store> = Arc::new(FolderStore::new(&folder.0));
    let max_parallelism =
        MaxParallelism::new(MAX_PARALLELISM).ok_or_else(|| UserError("no key groups".to_owned()))?;
    let settings = JobSettings {
        identity: JobIdentity {
            uid: uid.clone(),
            name: "sql".to_owned(),
            attempt: Attempt(1),
            max_parallelism,
        },
        sql: String::new(),
        parallelism,
        checkpoint_interval: CHECKPOINT_INTERVAL,
        checkpoint_timeout: CHECKPOINT_INTERVAL * 60,
        checkpoints_kept: 1,
        accepts_lost_of: None,
        // What was shown cannot be taken back.
        restart: RestartStrategy::None,
        upgrade: UpgradeSpec::default(),
        is_patient: false,
        is_attended: true,
    };
    let listener = Tcp.listen("127.0.0.1:0").await;
    let listener = listener.map_err(|error| UserError(format!("failed to listen on loopback: {error}")))?;
    let address = format!("127.0.0.1:{}", listener.port());
    let workers = Workers::accept(listener, uid.clone(), Attempt(1), clock);
    let outside = Outside::new(clock, BucketSettings::default(), &random);
    let shown = Shown::new(format);
    let context = CoordinatorContext {
        clock,
        store: Arc::clone(&store),
        begins_from: None,
        random,
        outside: outside.clone(),
        sinks: Arc::new(shown.clone()),
        safeguards: Safeguards::default(),
    };
    let (_wish, wish) = watch::channel(Wish::Run);
    let (report, reported) = watch::channel(JobReport::new("sql", &uid.0, Attempt(1)));
    let worker = embedded::Inside {
        address,
        store,
        outside,
        sinks: Arc::new(shown.clone()),
        clock,
        memory: StateArguments::default().memory(1),
        lazy_from: u64::MAX,
    };
    let helpers = worker.start(&settings, parallelism).await?;
    let ended = tokio::select! {
        ended = coordinator::run(settings, plan, context, workers, wish, report) => Some(ended),
        // What was shown so far is all that is wanted.
        _ = tokio::signal::ctrl_c() => None,
    };
    helpers.end().await;
    drop(folder);
    if let Some(Err(error)) = ended {
        eprintln!("{}", chain(&error));
        return Ok(Exit::JobFailed);
    }
    shown.finish().map_err(|error| UserError(format!("failed to write: {error}")))?;
    let late = reported.borrow().public.last_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.late_rows);
    if late > 0 {
        eprintln!("{late} late rows dropped: their windows had fired");
    }
    Ok(Exit::Done)
}

/// A folder that goes with its value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("failed to remove '{}': {error}", self.0.display());
        }
    }
}
