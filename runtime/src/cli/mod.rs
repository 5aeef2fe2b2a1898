//! The command line: verbs, settings, exit codes.
//!
//! Exit codes: 0 done or stopped in good order; 1 the input is wrong (manifest, SQL, options); 2 wrong arguments; 3 the
//! job failed; 4 another process runs the job.

mod checkpoints;
mod documents;
mod embedded;
mod job;
mod memory;
mod progress;
mod roles;
mod sql;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::explain::explain;
use job::UserError;
use memory::StateArguments;

/// Streams, exactly once, from one manifest on a laptop and on a cluster.
#[derive(Parser)]
#[command(name = "millrace", version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    logging: Logging,
}

/// How and where logs are written.
#[derive(clap::Args, Clone)]
pub struct Logging {
    /// Log format: text or json.
    #[arg(long, global = true, default_value = "text")]
    log_format: LogFormat,
    /// Write logs into this file; progress and messages stay on standard error.
    #[arg(long, global = true)]
    log_file: Option<PathBuf>,
}

impl Logging {
    /// True if others read the log.
    fn is_json(&self) -> bool {
        matches!(self.log_format, LogFormat::Json)
    }

    /// As arguments of another process of this program.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let file = self.log_file.iter().flat_map(|file| ["--log-file".into(), file.clone().into_os_string()]);
        ["--log-format".into(), format.into()].into_iter().chain(file).collect()
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a job here until its input ends or Ctrl-C is pressed. A later run goes on where this one was.
    Run(RunArguments),
    /// Check a job's manifest and SQL without running it.
    Validate(ValidateArguments),
    /// Show a job's dataflow: operators with their ids, what they do and keep, and how rows get from one to the next.
    Explain(ExplainArguments),
    /// Show, check and remove the checkpoints of a job.
    Checkpoints(checkpoints::CheckpointsArguments),
    /// Show the rows of a query, without a manifest.
    Sql(sql::SqlArguments),
    /// Coordinate a job; workers connect to it.
    Coordinator(roles::CoordinatorArguments),
    /// Work for a job's coordinator.
    Worker(roles::WorkerArguments),
}

/// Worker processes of one run: more than any machine has use for.
const WORKERS_MAX: i64 = 256;

/// Arguments of `run`.
#[derive(clap::Args, Clone)]
pub struct RunArguments {
    /// The manifest.
    pub file: PathBuf,
    /// Run the tasks in this many worker processes instead of in this one.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub workers: Option<u32>,
    /// Where to begin: latest (the newest checkpoint, or empty if there is none), none (start over), or the place of a savepoint or
    /// of another job's state, such as s3://bucket/savepoints/7 (which a job without a checkpoint takes over). Without it
    /// spec.startFrom counts for a job without a checkpoint.
    #[arg(long, value_name = "latest|none|PATH")]
    pub from: Option<From>,
    /// Where the job's figures, metrics and savepoints are served, such as 127.0.0.1:6123; without it they are not.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<SocketAddr>,
    #[command(flatten)]
    pub state: StateArguments,
}

/// Where a run begins.
#[derive(Clone, PartialEq, Eq)]
pub enum From {
    Latest,
    None,
    Place(String),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(From::Latest),
            "none" => Ok(From::None),
            // A word is more likely a mistake than a folder.
            place if place.contains(['/', '.']) || Path::new(place).is_dir() => {
                Ok(From::Place(place.to_owned()))
            }
            _ => {
                Err("write latest, none, or a place such as ./savepoint or s3://bucket/savepoint".to_owned())
            }
        }
    }
}

#[derive(clap::Args)]
struct ValidateArguments {
    /// The manifest.
    file: PathBuf,
}

#[derive(clap::Args)]
struct ExplainArguments {
    /// The manifest.
    file: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// As a graph for Graphviz.
    #[arg(long, conflicts_with = "json")]
    dot: bool,
}

/// How a verb ended; docs/reference/exit-codes.md says more. A wrong command line is 2.
pub enum Exit {
    Done = 0,
    WrongInput = 1,
    JobFailed = 3,
    NotInCharge = 4,
}

/// Runs the verb of the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Rows are what is wanted of a query, and not how it came to them.
    let level = if matches!(arguments.verb, Verb::Sql(_)) { "error" } else { "info" };
    if let Err(error) = start_logging(&arguments.logging, level) {
        eprintln!("{error}");
        return ExitCode::from(Exit::WrongInput as u8);
    }
    let exit = match arguments.verb {
        Verb::Run(run) => embedded::run(run, &arguments.logging),
        Verb::Validate(validate) => validate_job(&validate),
        Verb::Explain(explain) => explain_job(&explain),
        Verb::Checkpoints(arguments) => checkpoints::checkpoints(&arguments),
        Verb::Sql(arguments) => sql::sql(arguments),
        Verb::Coordinator(coordinator) => roles::coordinator(coordinator),
        Verb::Worker(worker) => roles::worker(worker),
    };
    match exit {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(Exit::WrongInput as u8)
        }
    }
}

fn start_logging(logging: &Logging, level: &str) -> Result<(), UserError> {
    let filter = EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let (writer, has_colours) = match &logging.log_file {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            let file = file.map_err(|error| {
                UserError(format!("--log-file: failed to open '{}': {error}", path.display()))
            })?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::IsTerminal::is_terminal(&std::io::stderr())),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(has_colours);
    match logging.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn validate_job(arguments: &ValidateArguments) -> Result<Exit, UserError> {
    let job = job::read(&arguments.file)?;
    let name = job.manifest.metadata.name.unwrap_or_default();
    println!("{name}: valid, {} operators", job.plan.operators.len());
    Ok(Exit::Done)
}

fn explain_job(arguments: &ExplainArguments) -> Result<Exit, UserError> {
    let job = job::read(&arguments.file)?;
    let explained = explain(&job.plan);
    if arguments.json {
        let text = serde_json::to_string_pretty(&explained);
        println!("{}", text.map_err(|error| UserError(format!("failed to write JSON: {error}")))?);
    } else if arguments.dot {
        print!("{}", explained.to_dot());
    } else {
        print!("{}", explained.to_text());
    }
    Ok(Exit::Done)
}
