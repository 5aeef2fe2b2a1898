//! What outlives processes: the store, and what sinks have made visible. Both fail, delay and tear as the dice say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace::checkpoint::store::Created;
use millrace::checkpoint::{Store, StoreError};
use millrace::clock::Clock;
use millrace::format::json::{JsonEncoder, JsonStyle};
use millrace::model::{Batch, Epoch, Generation, Led, Subtask};
use millrace::sink::{Committable, SinkCommitter, SinkConnector, SinkError, SinkIdentity, SinkWriter, Sinks};
use millrace_sql::plan::Sink as SinkPlan;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::network::ProcessId;

/// Chance, by name: the same name gives the same number whatever else happens.
#[derive(Debug, Clone, Copy)]
pub struct Dice {
    /// `None`: nothing is delayed and nothing fails.
    pub seed: Option<u64>,
}

impl Dice {
    /// From 0 to below `limit`.
    pub fn below(&self, name: &str, limit: u64) -> u64 {
        self.seed.map_or(0, |seed| xxh3_64_with_seed(name.as_bytes(), seed) % limit)
    }

    /// Mostly little, now and then much.
    pub fn delay_ms(&self, name: &str) -> u64 {
        match self.below(name, 100) {
            0..60 => 0,
            60..95 => self.below(&format!("{name} some"), 5),
            _ => self.below(&format!("{name} much"), 150),
        }
    }

    /// True in one of `times`.
    pub fn one_in(&self, times: u64, name: &str) -> bool {
        self.seed.is_some() && self.below(name, times) == 0
    }
}

/// Everything that is durable.
#[derive(Clone)]
pub struct World {
    pub clock: Clock,
    pub dice: Dice,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    staged: BTreeMap<String, (Generation, Vec<String>)>,
    visible: BTreeMap<String, Vec<String>>,
    trace: Vec<String>,
    /// Processes whose segments cannot be stored at the moment.
    unwell: BTreeSet<ProcessId>,
    /// How often each thing was done, so that trying again rolls the dice again.
    counts: BTreeMap<String, u64>,
}

impl World {
    pub fn new(clock: Clock, dice: Dice) -> Self {
        World { clock, dice, state: Arc::default() }
    }

    pub fn note(&self, what: String) {
        let line = format!("{:>8} {what}", self.clock.elapsed().as_millis());
        self.state.lock().trace.push(line);
    }

    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }

    /// Makes the store fail for the segments of a process, or work again.
    pub fn set_unwell(&self, process: ProcessId, is_unwell: bool) {
        let mut state = self.state.lock();
        match is_unwell {
            true => state.unwell.insert(process),
            false => state.unwell.remove(&process),
        };
    }

    /// All visible rows, sorted.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.state.lock().visible.values().flatten().cloned().collect();
        rows.sort_unstable();
        rows
    }

    /// A name for the dice that is new each time.
    fn roll(&self, what: &str) -> String {
        let mut state = self.state.lock();
        let count = state.counts.entry(what.to_owned()).or_default();
        *count += 1;
        format!("{what} {count}")
    }

    async fn rest(&self, roll: &str) {
        let delay = self.dice.delay_ms(roll);
        self.clock.sleep(Duration::from_millis(delay)).await;
    }
}

/// The store as one process sees it.
pub struct SimulatedStore {
    pub world: World,
    pub process: ProcessId,
}

fn failed(action: &str, key: &str) -> StoreError {
    StoreError { action: format!("{action} '{key}'"), reason: "the store is not well".to_owned() }
}

async fn put(world: World, process: ProcessId, key: String, bytes: Vec<u8>) -> Result<Created, StoreError> {
    let roll = world.roll(&format!("create {process} {key}"));
    world.rest(&format!("{roll} before")).await;
    // The records that make checkpoints are the ones whose lateness matters most.
    if key.starts_with("epochs/") && world.dice.one_in(8, &format!("{roll} late")) {
        let late = world.dice.below(&format!("{roll} how late"), 1_500);
        world.note(format!("{process} create {key}: late by {late} ms"));
        world.clock.sleep(Duration::from_millis(late)).await;
    }
    let is_segment = key.starts_with("segments/");
    let is_unwell = is_segment && world.state.lock().unwell.contains(&process);
    if is_unwell || world.dice.one_in(60, &format!("{roll} fails")) {
        world.note(format!("{process} create {key}: failed"));
        return Err(failed("create", &key));
    }
    // Of a large object a crash of the store may leave a part.
    let is_large = is_segment || key.starts_with("manifests/");
    let is_torn = is_large && world.dice.one_in(60, &format!("{roll} torn"));
    let created = {
        let mut state = world.state.lock();
        match state.objects.contains_key(&key) {
            true => Created::Exists,
            false => {
                let length = if is_torn { bytes.len() / 2 } else { bytes.len() };
                state.objects.insert(key.clone(), bytes[..length].to_vec());
                Created::Yes
            }
        }
    };
    world.note(format!("{process} create {key}: {created:?}{}", if is_torn { " torn" } else { "" }));
    world.rest(&format!("{roll} after")).await;
    // A segment is read back, and so nobody need be told that it is torn.
    let is_told = !is_segment || world.dice.one_in(2, &format!("{roll} told"));
    if (is_torn && is_told) || world.dice.one_in(40, &format!("{roll} lost")) {
        return Err(failed("hear of the creation of", &key));
    }
    Ok(created)
}

#[async_trait]
impl Store for SimulatedStore {
    async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        // What was sent arrives even if the sender dies meanwhile.
        let sent = tokio::spawn(put(self.world.clone(), self.process, key.to_owned(), bytes));
        sent.await.map_err(|error| StoreError { action: "create".to_owned(), reason: error.to_string() })?
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let roll = self.world.roll(&format!("get {} {key}", self.process));
        self.world.rest(&roll).await;
        if self.world.dice.one_in(150, &format!("{roll} fails")) {
            return Err(failed("read", key));
        }
        Ok(self.world.state.lock().objects.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let roll = self.world.roll(&format!("list {} {prefix}", self.process));
        self.world.rest(&roll).await;
        let state = self.world.state.lock();
        Ok(state.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let roll = self.world.roll(&format!("delete {}", self.process));
        self.world.rest(&roll).await;
        // It may fail half-way.
        let fails = self.world.dice.one_in(20, &format!("{roll} fails"));
        let count = if fails { keys.len() / 2 } else { keys.len() };
        keys[..count].iter().for_each(|key| drop(self.world.state.lock().objects.remove(key)));
        self.world.note(format!("{} delete {count} of {}", self.process, keys.len()));
        if fails { Err(failed("remove", "old objects")) } else { Ok(()) }
    }

    fn location(&self) -> String {
        "simulated".to_owned()
    }
}

/// Sinks as one process sees them.
pub struct SimulatedSinks {
    pub world: World,
    pub process: ProcessId,
}

impl Sinks for SimulatedSinks {
    fn connector(&self, _: &SinkPlan, identity: SinkIdentity) -> Result<Box<dyn SinkConnector>, SinkError> {
        Ok(Box::new(Connector { world: self.world.clone(), process: self.process, identity }))
    }
}

struct Connector {
    world: World,
    process: ProcessId,
    identity: SinkIdentity,
}

impl SinkConnector for Connector {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        Ok(Box::new(Writer {
            world: self.world.clone(),
            name: format!("{}-g{}-{subtask}", self.identity.operator, self.identity.generation),
            generation: self.identity.generation,
            text: String::new(),
        }))
    }

    fn committer(&self) -> Option<Box<dyn SinkCommitter>> {
        Some(Box::new(Committer { world: self.world.clone(), process: self.process }))
    }
}

struct Writer {
    world: World,
    name: String,
    generation: Generation,
    text: String,
}

impl SinkWriter for Writer {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let encoder = JsonEncoder::new(&batch.records.schema(), JsonStyle::default());
        let encoded = encoder.encode(&batch.records, &mut self.text);
        encoded.map_err(|error| SinkError::Data { message: error.to_string() })
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        let rows: Vec<String> = std::mem::take(&mut self.text).lines().map(str::to_owned).collect();
        let (world, id, generation) = (self.world.clone(), format!("{}-{epoch}", self.name), self.generation);
        async move {
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            world.rest(&world.roll(&format!("stage {id}"))).await;
            world.state.lock().staged.insert(id.clone(), (generation, rows));
            Ok(vec![id.into_bytes()])
        }
        .boxed()
    }
}

struct Committer {
    world: World,
    process: ProcessId,
}

#[async_trait]
impl SinkCommitter for Committer {
    async fn commit(&self, committables: &[Committable]) -> Result<(), SinkError> {
        for committable in committables {
            let id = String::from_utf8_lossy(committable).into_owned();
            let roll = self.world.roll(&format!("commit {} {id}", self.process));
            self.world.rest(&format!("{roll} before")).await;
            let unwell = |action: &str| SinkError::Io {
                action: format!("{action} '{id}'"),
                source: std::io::Error::other("the outside is not well"),
            };
            if self.world.dice.one_in(60, &format!("{roll} fails")) {
                return Err(unwell("commit"));
            }
            {
                let mut state = self.world.state.lock();
                match state.staged.remove(&id) {
                    Some((_, rows)) => drop(state.visible.insert(id.clone(), rows)),
                    None if state.visible.contains_key(&id) => {}
                    None => return Err(SinkError::Lost { kind: "SinkFileLost", message: id }),
                }
            }
            self.world.note(format!("{} commit {id}", self.process));
            if self.world.dice.one_in(60, &format!("{roll} lost")) {
                return Err(unwell("hear of the commit of"));
            }
        }
        Ok(())
    }

    async fn clean_up(
        &self,
        generation: Generation,
        _earlier: &[Led],
        named: &[Committable],
    ) -> Result<(), SinkError> {
        let named: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
        let mut state = self.world.state.lock();
        state.staged.retain(|id, (of, _)| *of >= generation || named.contains(&id.as_bytes()));
        Ok(())
    }
}
