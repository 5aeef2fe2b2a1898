//! `millrace checkpoints`: what is in the store of a job, whether it is whole, and removal of what is old.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::embedded::{machine_random, runtime};
use super::job::{self, UserError};
use super::{Exit, progress};
use crate::checkpoint::protocol::{self, CheckpointError};
use crate::checkpoint::records::Manifest;
use crate::checkpoint::retention::Kept;
use crate::checkpoint::{Store, erasure, paths, savepoint};
use crate::clock::Clock;
use crate::coordinator::report;
use crate::error::chain;
use crate::model::JobUid;
use crate::source;
use crate::state::verify_segment;

/// Arguments of `checkpoints`.
#[derive(clap::Args)]
pub struct CheckpointsArguments {
    /// The manifest.
    file: PathBuf,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show all complete checkpoints, newest first. The default.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one checkpoint: state by operator, and how far sources have read.
    Inspect {
        /// Its epoch; without it, of the newest one.
        epoch: Option<u64>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read every object of the checkpoints and compare checksums.
    Verify {
        /// Only of this epoch.
        epoch: Option<u64>,
    },
    /// Copy one checkpoint, with all that it needs, to a place of its own: `millrace run --from PLACE` begins a job from it.
    Savepoint {
        /// A folder, or s3://bucket/prefix, that is empty or not there yet.
        place: String,
        /// Its epoch; without it, the newest one.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Remove checkpoints that are older than one of them, and what they alone need; or the whole state of a job that is over.
    #[command(group(clap::ArgGroup::new("which").required(true)))]
    Delete {
        /// The oldest epoch that stays.
        #[arg(long, group = "which")]
        before: Option<u64>,
        /// All checkpoints: nothing is left that the job could go on from, but for its savepoints.
        #[arg(long, group = "which")]
        all: bool,
        /// Only if the state is that of the job with this uid.
        #[arg(long, env = "MILLRACE_UID")]
        uid: Option<String>,
    },
}

/// A line of the list.
#[derive(Serialize)]
struct Listed {
    epoch: u64,
    generation: u64,
    created_ms: u64,
    parallelism: u32,
    rows_in: u64,
    rows_out: u64,
    /// Bytes that this checkpoint has added.
    added_bytes: u64,
    /// Bytes of all segments that it needs.
    needed_bytes: u64,
    is_committed: bool,
    is_final: bool,
}

/// A checkpoint in detail.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    listed: Listed,
    operators: Vec<InspectedOperator>,
}

#[derive(Serialize)]
struct InspectedOperator {
    id: String,
    subtasks: usize,
    /// Rows read or written since the first start.
    rows: u64,
    /// Event time that windows have fired up to, of the slowest subtask.
    watermark_ms: Option<i64>,
    tables: Vec<InspectedTable>,
    splits: Vec<InspectedSplit>,
    /// Files or transactions that the checkpoint has made visible.
    committables: usize,
}

#[derive(Serialize)]
struct InspectedTable {
    name: String,
    /// Parts that are dropped as a whole, such as slices of windows.
    parts: usize,
    /// Rows written; a key that was written several times counts each time until its part is written whole.
    rows: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct InspectedSplit {
    id: String,
    position: String,
    is_done: bool,
}

/// Runs the verb.
pub fn checkpoints(arguments: &CheckpointsArguments) -> Result<Exit, UserError> {
    let manifest = job::read_manifest(&arguments.file)?;
    let store = job::store(&manifest)?;
    runtime("service", 1)?.block_on(async {
        if let Some(What::Delete { uid, all, .. }) = &arguments.what {
            let uid = uid.clone().map(JobUid);
            erasure::owner(store.as_ref(), uid.as_ref()).await.map_err(as_user)?;
            if *all {
                return delete_all(store.as_ref(), uid).await;
            }
        }
        let found = protocol::complete(store.as_ref()).await.map_err(as_user)?;
        if found.is_empty() {
            println!("there is no checkpoint in '{}'", store.location());
            return Ok(Exit::Done);
        }
        match arguments.what.as_ref().unwrap_or(&What::List { json: false }) {
            What::List { json } => list(store.as_ref(), found, *json).await,
            What::Inspect { epoch, json } => {
                let manifest = only(found, *epoch)?.manifest.map_err(as_user)?;
                inspect(store.as_ref(), manifest, *json).await
            }
            What::Verify { epoch: None } => verify(store.as_ref(), found).await,
            What::Verify { epoch } => verify(store.as_ref(), vec![only(found, *epoch)?]).await,
            What::Savepoint { place, epoch } => {
                let checkpoint = only(found, *epoch)?.manifest.map_err(as_user)?;
                let to = job::store_at(place, &manifest)?;
                let bytes = savepoint::save(store.as_ref(), &checkpoint, to.as_ref(), verify_segment)
                    .await
                    .map_err(as_user)?;
                println!(
                    "checkpoint {} is saved in '{}' ({} of state)",
                    checkpoint.epoch,
                    to.location(),
                    progress::bytes(bytes)
                );
                Ok(Exit::Done)
            }
            What::Delete { before, .. } => delete(store.as_ref(), found, before.unwrap_or_default()).await,
        }
    })
}

fn as_user(error: impl std::error::Error) -> UserError {
    UserError(chain(&error))
}

/// One checkpoint, or the newest.
fn only(found: Vec<protocol::Complete>, epoch: Option<u64>) -> Result<protocol::Complete, UserError> {
    let epochs: Vec<String> = found.iter().map(|one| one.epoch.to_string()).collect();
    let mut found = found.into_iter();
    let one = found.find(|one| epoch.is_none_or(|epoch| one.epoch.0 == epoch));
    one.ok_or_else(|| {
        let epoch = epoch.unwrap_or_default();
        UserError(format!("there is no checkpoint {epoch}; there are: {}", epochs.join(", ")))
    })
}

async fn list(store: &dyn Store, found: Vec<protocol::Complete>, is_json: bool) -> Result<Exit, UserError> {
    let mut lines = Vec::new();
    let mut damaged = Vec::new();
    for one in found {
        match one.manifest {
            Ok(manifest) => lines.push(listed(store, &manifest).await?),
            Err(error) => damaged.push(format!("checkpoint {}: {}", one.epoch, chain(&error))),
        }
    }
    if is_json {
        println!("{}", serde_json::to_string_pretty(&lines).map_err(as_user)?);
    } else {
        print!("{}", table(&lines, Clock::system().now_ms()));
    }
    damaged.iter().for_each(|line| eprintln!("{line}"));
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::WrongInput })
}

async fn listed(store: &dyn Store, manifest: &Manifest) -> Result<Listed, UserError> {
    let reported = report::checkpoint(manifest, manifest.plan.as_ref().unwrap_or(&Default::default()));
    let commit = store.get(&paths::commit(crate::model::Epoch(manifest.epoch))).await.map_err(as_user)?;
    Ok(Listed {
        epoch: manifest.epoch,
        generation: manifest.generation,
        created_ms: manifest.created_ms,
        parallelism: manifest.parallelism,
        rows_in: reported.rows_in,
        rows_out: reported.rows_out,
        added_bytes: manifest.bytes,
        needed_bytes: manifest.segments().values().sum(),
        is_committed: commit.is_some(),
        is_final: manifest.is_final,
    })
}

fn table(lines: &[Listed], now_ms: u64) -> String {
    let mut text = format!(
        "{:>10}  {:>12}  {:>4}  {:>14}  {:>14}  {:>10}  {:>10}  {}\n",
        "EPOCH", "AGE", "GEN", "ROWS IN", "ROWS OUT", "ADDED", "NEEDED", "STATE"
    );
    for line in lines {
        let age = Duration::from_millis(now_ms.saturating_sub(line.created_ms));
        let state = match (line.is_final, line.is_committed) {
            (true, _) => "final",
            (_, true) => "committed",
            (_, false) => "commit not marked",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>10}  {:>12}  {:>4}  {:>14}  {:>14}  {:>10}  {:>10}  {state}",
            line.epoch,
            progress::length(age),
            line.generation,
            line.rows_in,
            line.rows_out,
            progress::bytes(line.added_bytes),
            progress::bytes(line.needed_bytes),
        );
    }
    text
}

async fn inspect(store: &dyn Store, manifest: Manifest, is_json: bool) -> Result<Exit, UserError> {
    let listed = listed(store, &manifest).await?;
    let plan = manifest.plan.clone().unwrap_or_default();
    let operators = plan.operators.iter().map(|operator| {
        let states: Vec<_> = manifest.subtasks.iter().filter(|state| state.operator == operator.id).collect();
        let mut tables: BTreeMap<&str, InspectedTable> = BTreeMap::new();
        for part in states.iter().flat_map(|state| &state.tables) {
            let name = part.table.clone();
            let table = tables.entry(&part.table);
            let table = table.or_insert(InspectedTable { name, parts: 0, rows: 0, bytes: 0 });
            table.parts += 1;
            table.rows += part.runs.iter().map(|run| run.rows).sum::<u64>();
            table.bytes += part.runs.iter().map(|run| run.length).sum::<u64>();
        }
        let splits = states.iter().flat_map(|state| &state.splits).map(|split| InspectedSplit {
            id: split.id.clone(),
            position: source::position_text(operator, &split.position),
            is_done: split.is_done,
        });
        InspectedOperator {
            id: operator.id.clone(),
            subtasks: states.len(),
            rows: states.iter().map(|state| state.rows).sum(),
            watermark_ms: states.iter().filter_map(|state| state.watermark).min(),
            tables: tables.into_values().collect(),
            splits: splits.collect(),
            committables: states.iter().map(|state| state.committables.len()).sum(),
        }
    });
    let inspected = Inspected { operators: operators.collect(), listed };
    if is_json {
        println!("{}", serde_json::to_string_pretty(&inspected).map_err(as_user)?);
    } else {
        print!("{}", details(&inspected));
    }
    Ok(Exit::Done)
}

fn details(inspected: &Inspected) -> String {
    let Listed { epoch, generation, parallelism, created_ms, rows_in, rows_out, needed_bytes, .. } =
        inspected.listed;
    let mut text = format!(
        "checkpoint {epoch} of generation {generation}, parallelism {parallelism}, taken {}\n{rows_in} rows in, {rows_out} rows out, {} \
         in segments\n",
        progress::time(created_ms as i64),
        progress::bytes(needed_bytes)
    );
    for operator in &inspected.operators {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}", operator.id);
        if operator.rows > 0 {
            let _ = write!(text, "  {} rows", operator.rows);
        }
        if let Some(watermark) = operator.watermark_ms.filter(|watermark| *watermark > i64::MIN) {
            let _ = write!(text, "  watermark {}", progress::time(watermark));
        }
        if operator.committables > 0 {
            let _ = write!(text, "  {} prepared and made visible with it", operator.committables);
        }
        text.push('\n');
        for table in &operator.tables {
            let InspectedTable { name, parts, rows, bytes } = table;
            let _ = writeln!(text, "  {name}: {parts} parts, {rows} rows, {}", progress::bytes(*bytes));
        }
        for split in &operator.splits {
            let done = if split.is_done { ", read to its end" } else { "" };
            let _ = writeln!(text, "  {}: {}{done}", split.id, split.position);
        }
    }
    text
}

async fn verify(store: &dyn Store, found: Vec<protocol::Complete>) -> Result<Exit, UserError> {
    let mut is_whole = true;
    // Checkpoints share segments: each is read once.
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for one in found {
        let mut damage = Vec::new();
        match &one.manifest {
            Err(error) => damage.push(chain(error)),
            Ok(manifest) => {
                for key in manifest.segments().into_keys() {
                    if !known.contains_key(key) {
                        known.insert(key.to_owned(), damage_of(store, key).await?);
                    }
                    damage.extend(known[key].clone());
                }
            }
        }
        is_whole &= damage.is_empty();
        match damage.as_slice() {
            [] => println!("checkpoint {}: whole", one.epoch),
            damage => println!("checkpoint {}: damaged\n  {}", one.epoch, damage.join("\n  ")),
        }
    }
    Ok(if is_whole { Exit::Done } else { Exit::WrongInput })
}

/// What is wrong with a segment.
async fn damage_of(store: &dyn Store, key: &str) -> Result<Option<String>, UserError> {
    let Some(bytes) = store.get(key).await.map_err(as_user)? else {
        return Ok(Some(format!("the object '{key}' is missing")));
    };
    Ok(verify_segment(&bytes).err().map(|damage| format!("the object '{key}': {damage}")))
}

async fn delete_all(store: &dyn Store, uid: Option<JobUid>) -> Result<Exit, UserError> {
    let nonce = rand::Rng::random(&mut *machine_random().lock());
    let removed = erasure::erase(store, uid.as_ref(), nonce).await.map_err(as_user)?;
    println!("removed the state in '{}', {removed} objects", store.location());
    Ok(Exit::Done)
}

async fn delete(store: &dyn Store, found: Vec<protocol::Complete>, before: u64) -> Result<Exit, UserError> {
    let epochs: BTreeSet<u64> = found.iter().map(|one| one.epoch.0).collect();
    let mut kept = Vec::new();
    for one in found.into_iter().filter(|one| one.epoch.0 >= before) {
        // What a checkpoint that cannot be read needs is not known, and must not be removed.
        let manifest = one.manifest.map_err(|error: CheckpointError| {
            UserError(format!("nothing was removed: checkpoint {}: {}", one.epoch, chain(&error)))
        })?;
        kept.push(Kept::of(&manifest));
    }
    if kept.is_empty() {
        let newest = epochs.last().copied().unwrap_or_default();
        return Err(UserError(format!(
            "--before {before}: nothing would be left of the job's state; the newest checkpoint is {newest}. To remove the whole state in '{}' say \
             --all",
            store.location()
        )));
    }
    let removed = protocol::remove(store, &kept).await.map_err(as_user)?;
    let gone = epochs.iter().filter(|epoch| **epoch < before).count();
    println!("removed {gone} checkpoints, {removed} objects");
    Ok(Exit::Done)
}
