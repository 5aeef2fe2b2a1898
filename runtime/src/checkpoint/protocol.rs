//! The protocol over a store: claim, seal, publish, mark. Every step may be repeated after a doubtful answer.

use std::sync::Arc;

use futures::StreamExt;
use millrace_sql::plan::Plan;
use parking_lot::Mutex;
use prost::Message;
use snafu::{OptionExt, Snafu};

use super::paths;
use super::records::{
    self, EpochRecord, FORMAT_VERSION, GenerationClaim, JobRecord, Manifest, Marker, OLDEST_FORMAT_VERSION,
};
use super::resolve::{self, Claim, Owner};
use super::retention::{self, Kept, Removal};
use super::store::{Created, Store, StoreError};
use crate::fault::{CrashPoint, Safeguards, crash_at};
use crate::model::key_encoding::KEY_ENCODING_VERSION;
use crate::model::{Attempt, Epoch, Generation, JobUid, Led, MaxParallelism};

/// The checkpoint store cannot be used, or says that this process must not.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum CheckpointError {
    #[snafu(transparent)]
    Store { source: StoreError },
    /// A newer coordinator has taken over: this one ends itself.
    #[snafu(display("generation {by} has taken over"))]
    Fenced { by: Generation },
    /// Its state was removed while it ran: what it published now would be taken for that of whoever begins there.
    #[snafu(display("the job's state in '{location}' was removed meanwhile"))]
    Removed { location: String },
    /// A newer attempt of the job has started: this process ends itself.
    #[snafu(display("attempt {by} of the job has started"))]
    Superseded { by: Attempt },
    /// The user must choose another place.
    #[snafu(display("{message}"))]
    Refused { message: String },
    #[snafu(display(
        "the object '{key}' in '{location}' is malformed or cut short ({damage}); put it back from a copy of the bucket, and the job \
         goes on. Without it the job cannot know what it has written already; to begin anew choose another checkpoint.location"
    ))]
    Malformed { key: String, location: String, damage: String },
    /// Nothing names the object yet: an earlier checkpoint is the newest.
    #[snafu(display(
        "the store at '{location}' has confirmed the object '{key}', and gives something else than was written; the rows since the \
         checkpoint before are read again. A store must keep what it confirms"
    ))]
    NotKept { key: String, location: String },
    #[snafu(display(
        "the object '{key}' in '{location}' is missing, and a checkpoint refers to it; put it back from a copy of the bucket, and the job \
         goes on. To begin anew choose another checkpoint.location"
    ))]
    Missing { key: String, location: String },
    #[snafu(display(
        "{damage}, in '{location}'; put it back from a copy, and the job goes on. No older checkpoint can take the place of the newest: \
         {why}. To begin anew choose another checkpoint.location"
    ))]
    Irreplaceable { damage: String, location: String, why: String },
}

/// Which job a store is used for.
#[derive(Debug, Clone)]
pub struct JobIdentity {
    pub uid: JobUid,
    /// `<namespace>/<name>`.
    pub name: String,
    pub attempt: Attempt,
    pub max_parallelism: MaxParallelism,
}

impl JobIdentity {
    /// The job whose state a record is; `None` if it is of no job that this release knows.
    pub fn of(record: &JobRecord, attempt: Attempt) -> Option<JobIdentity> {
        let max_parallelism = MaxParallelism::new(record.max_parallelism)?;
        Some(JobIdentity {
            uid: JobUid(record.uid.clone()),
            name: record.name.clone(),
            attempt,
            max_parallelism,
        })
    }
}

/// A coordinator process that claims generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Random: tells its claims from those of others.
    pub nonce: u64,
    /// The last generation that it has claimed.
    pub own: Option<Generation>,
    /// How many subtasks it starts of each operator.
    pub parallelism: u32,
    /// It has sealed an epoch since its tasks have last run: no record of what was published before can still arrive.
    pub is_sealed: bool,
}

impl Claimant {
    /// One that has claimed nothing yet.
    pub fn new(nonce: u64, parallelism: u32) -> Self {
        Claimant { nonce, own: None, parallelism, is_sealed: false }
    }
}

/// A generation's hold on the store.
pub struct Checkpoints {
    store: Arc<dyn Store>,
    identity: JobIdentity,
    generation: Generation,
    nonce: u64,
    safeguards: Safeguards,
    /// The newest epoch that has a record. Records have no gaps: whoever writes one competes with a newer generation's seal for
    /// the same place, however late the write arrives.
    last_record: Mutex<Epoch>,
    /// The place of the state that the job began from; empty if it began with nothing.
    begun_from: String,
}

/// What a new generation found.
pub struct TakenOver {
    pub checkpoints: Checkpoints,
    /// The newest checkpoint.
    pub restored: Option<Manifest>,
    /// The restored checkpoint's commit has no mark: it must be replayed before sources start.
    pub replays_commit: bool,
    /// The first epoch that this generation may publish.
    pub next_epoch: Epoch,
    /// Generations before this one, from that of the restored checkpoint on: what they have begun outside may be open still. Of very
    /// many only the last ones.
    pub earlier: Vec<Led>,
}

impl TakenOver {
    /// Goes on from an older checkpoint than the newest.
    pub async fn go_back(&mut self, to: Manifest) -> Result<(), CheckpointError> {
        let store = self.checkpoints.store.as_ref();
        self.replays_commit = store.get(&paths::commit(Epoch(to.epoch))).await?.is_none();
        self.earlier = led(store, to.generation, self.checkpoints.generation).await?;
        self.restored = Some(to);
        Ok(())
    }
}

/// Whether a bounded job has ended; its end is the last epoch.
pub async fn finished(store: &dyn Store) -> Result<Option<Marker>, CheckpointError> {
    match store.get(paths::FINISHED).await? {
        Some(bytes) => decode(store, paths::FINISHED, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Whose state it is; `None`: nobody's yet.
pub async fn owner(store: &dyn Store) -> Result<Option<JobRecord>, CheckpointError> {
    match store.get(paths::JOB).await? {
        Some(bytes) => decode(store, paths::JOB, &bytes).map(Some),
        None => Ok(None),
    }
}

/// A complete checkpoint in the store.
pub struct Complete {
    pub epoch: Epoch,
    /// What it holds, or why that cannot be read.
    pub manifest: Result<Manifest, CheckpointError>,
}

/// All complete checkpoints, newest first, without claiming anything.
pub async fn complete(store: &dyn Store) -> Result<Vec<Complete>, CheckpointError> {
    let mut complete = Vec::new();
    for (epoch, key) in record_keys(store).await?.into_iter().rev() {
        let manifest = match read::<EpochRecord>(store, &key).await {
            // A seal, or an epoch that was given up.
            Ok(record) if record.manifest.is_empty() => continue,
            Ok(record) => read_manifest(store, epoch, &record.manifest).await,
            Err(CheckpointError::Store { source }) => return Err(source.into()),
            Err(error) => Err(error),
        };
        complete.push(Complete { epoch, manifest });
    }
    Ok(complete)
}

/// Removes what none of these checkpoints, newest first, needs; returns how many objects. No generation need be claimed: a
/// coordinator that runs meanwhile keeps only newer ones.
pub async fn remove(store: &dyn Store, kept: &[Kept]) -> Result<usize, CheckpointError> {
    let Some(removal) = removal(store, kept).await? else { return Ok(0) };
    remove_all(store, &removal).await?;
    Ok(removal.keys.len())
}

async fn removal(store: &dyn Store, kept: &[Kept]) -> Result<Option<Removal>, CheckpointError> {
    let prefixes = [
        paths::EPOCHS,
        paths::MANIFESTS,
        paths::COMMITS,
        paths::SEGMENTS,
        paths::FLOORS,
        paths::GENERATIONS,
        paths::PROBES,
    ];
    let mut keys = Vec::new();
    for prefix in prefixes {
        keys.extend(store.list(prefix).await?);
    }
    Ok(retention::plan(kept, &keys).filter(|removal| !removal.keys.is_empty()))
}

async fn remove_all(store: &dyn Store, removal: &Removal) -> Result<(), CheckpointError> {
    let marker = Marker { epoch: removal.floor.0, at_ms: 0 };
    create_or_own(store, &paths::floor(removal.floor), records::encode(&marker)).await?;
    crash_at(CrashPoint::FloorRaised);
    store.delete(&removal.keys).await?;
    Ok(())
}

/// Newest generation and epoch: they grow while a coordinator leads the job.
pub async fn progress(store: &dyn Store) -> Result<(Option<Generation>, Option<u64>), StoreError> {
    let keys = store.list(paths::EPOCHS).await?;
    let epoch = keys.iter().filter_map(|key| paths::number_of(key, paths::EPOCHS)).max();
    Ok((newest_generation(store).await?, epoch))
}

/// The newest checkpoint, without claiming anything.
pub async fn newest(store: &dyn Store) -> Result<Option<Manifest>, CheckpointError> {
    let records = epoch_records(store).await?;
    match resolve::newest_checkpoint(&records) {
        Some((epoch, record)) => read_manifest(store, *epoch, &record.manifest).await.map(Some),
        None => Ok(None),
    }
}

/// Refuses a store that has lost the record of a checkpoint whose results are visible: to go on from an earlier one would be to
/// write them again.
pub async fn check_records(store: &dyn Store) -> Result<(), CheckpointError> {
    let keys = store.list(paths::COMMITS).await?;
    let Some(newest) = keys.iter().filter_map(|key| paths::number_of(key, paths::COMMITS)).max() else {
        return Ok(());
    };
    let key = paths::epoch(Epoch(newest));
    match store.get(&key).await? {
        Some(_) => Ok(()),
        None => MissingSnafu { key, location: store.location() }.fail(),
    }
}

/// Whether the results of the newest checkpoint are visible, so that nothing is left to be done for it.
pub async fn is_committed(store: &dyn Store) -> Result<bool, CheckpointError> {
    match resolve::newest_checkpoint(&epoch_records(store).await?) {
        Some((epoch, _)) => Ok(store.get(&paths::commit(*epoch)).await?.is_some()),
        None => Ok(true),
    }
}

impl Checkpoints {
    /// Claims the next generation, seals the next epoch and reads the newest checkpoint. `own` is the last generation that this
    /// process has claimed: if another process has claimed one after it, this one is not in charge any more. `nonce` is
    /// random, and the same for all claims of a process.
    pub async fn take_over(
        store: Arc<dyn Store>,
        identity: JobIdentity,
        claimant: &Claimant,
        safeguards: Safeguards,
    ) -> Result<TakenOver, CheckpointError> {
        check_owner(store.as_ref(), &identity).await?;
        let nonce = claimant.nonce;
        let generation = claim(store.as_ref(), &identity, claimant).await?;
        crash_at(CrashPoint::GenerationClaimed);
        // Before a seal takes the place of what is missing.
        check_records(store.as_ref()).await?;
        let last_record = Mutex::new(Epoch(0));
        let begun_from = String::new();
        let mut checkpoints =
            Checkpoints { store, identity, generation, nonce, safeguards, last_record, begun_from };
        let sealed = checkpoints.seal().await?;
        *checkpoints.last_record.lock() = sealed;
        crash_at(CrashPoint::EpochSealed);
        let records = epoch_records(checkpoints.store.as_ref()).await?;
        let (mut restored, mut replays_commit) = (None, false);
        if let Some((epoch, record)) = resolve::newest_checkpoint(&records) {
            let manifest = read_manifest(checkpoints.store.as_ref(), *epoch, &record.manifest).await?;
            if manifest.uid != checkpoints.identity.uid.0 {
                let message = format!(
                    "checkpoint {epoch} in '{}' is of another job (uid {}); remove what is there, or choose another \
                     checkpoint.location",
                    checkpoints.store.location(),
                    manifest.uid
                );
                return RefusedSnafu { message }.fail();
            }
            replays_commit = checkpoints.store.get(&paths::commit(*epoch)).await?.is_none();
            checkpoints.begun_from.clone_from(&manifest.begun_from);
            restored = Some(manifest);
        }
        let first = restored.as_ref().map_or(1, |manifest| manifest.generation);
        let earlier = led(checkpoints.store.as_ref(), first, generation).await?;
        Ok(TakenOver { checkpoints, restored, replays_commit, next_epoch: sealed.next(), earlier })
    }

    /// The claimed generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Every checkpoint tells where the job began from.
    pub fn begin_from(&mut self, place: String) {
        self.begun_from = place;
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Takes the next epoch's place with a seal, so that no earlier generation can publish any more.
    async fn seal(&self) -> Result<Epoch, CheckpointError> {
        loop {
            let keys = self.store.list(paths::EPOCHS).await?;
            let epochs = keys.iter().filter_map(|key| paths::number_of(key, paths::EPOCHS)).map(Epoch);
            let epoch = resolve::epoch_to_seal(epochs);
            if !self.safeguards.seals {
                return Ok(Epoch(epoch.0 - 1));
            }
            // Lost the place to a checkpoint that was published meanwhile: it is the newest one then.
            if self.create_record(epoch, String::new()).await? {
                return Ok(epoch);
            }
            self.check_fence().await?;
        }
    }

    /// Publishes a checkpoint; it exists when this returns. Epochs that were given up before it get an empty record each.
    pub async fn publish(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        self.check_fence().await?;
        let epoch = Epoch(manifest.epoch);
        let key = paths::manifest(epoch, self.generation);
        let bytes = records::encode(manifest);
        match self.safeguards.verifies_manifests {
            true => create_once(self.store.as_ref(), &key, bytes).await?,
            false => create_or_own(self.store.as_ref(), &key, bytes).await.map(drop)?,
        }
        crash_at(CrashPoint::ManifestWritten);
        loop {
            let newest = *self.last_record.lock();
            if newest >= epoch {
                // Its record is there. Its place may have been free because a newer generation has removed its own record from it.
                return self.check_fence().await;
            }
            let next = if self.safeguards.fills_gaps { newest.next() } else { epoch };
            let of_record = if next < epoch { String::new() } else { key.clone() };
            if !self.create_record(next, of_record).await? && self.safeguards.checks_fence {
                break;
            }
            *self.last_record.lock() = next;
        }
        self.check_fence().await?;
        // Nobody newer has claimed, and yet the place is taken: only a newer claim under way explains it.
        FencedSnafu { by: Generation(self.generation.0 + 1) }.fail()
    }

    /// Removes what none of these checkpoints, newest first, needs.
    pub async fn remove_old(&self, kept: &[Kept]) -> Result<(), CheckpointError> {
        let Some(removal) = removal(self.store.as_ref(), kept).await? else { return Ok(()) };
        self.check_fence().await?;
        remove_all(self.store.as_ref(), &removal).await
    }

    /// Marks that an epoch's sinks have committed.
    pub async fn mark_committed(&self, epoch: Epoch, at_ms: u64) -> Result<(), CheckpointError> {
        self.mark(&paths::commit(epoch), epoch, at_ms).await
    }

    /// Marks that a bounded job has ended.
    pub async fn mark_finished(&self, epoch: Epoch, at_ms: u64) -> Result<(), CheckpointError> {
        self.mark(paths::FINISHED, epoch, at_ms).await
    }

    /// Creates a mark; another process may have made it, at another time.
    async fn mark(&self, key: &str, epoch: Epoch, at_ms: u64) -> Result<(), CheckpointError> {
        let marker = Marker { epoch: epoch.0, at_ms };
        if create_or_own(self.store.as_ref(), key, records::encode(&marker)).await? {
            return Ok(());
        }
        read::<Marker>(self.store.as_ref(), key).await.map(|_| ())
    }

    /// Fails if a newer generation has claimed.
    async fn check_fence(&self) -> Result<(), CheckpointError> {
        if !self.safeguards.checks_fence {
            return Ok(());
        }
        if let Some(newest) =
            newest_generation(self.store.as_ref()).await?.filter(|newest| *newest > self.generation)
        {
            return FencedSnafu { by: newest }.fail();
        }
        // Once its claim is gone, so is all that it knows of; who has begun there since may have come to the same generation.
        let key = paths::generation(self.generation);
        let claim = match self.store.get(&key).await? {
            Some(bytes) => Some(decode::<GenerationClaim>(self.store.as_ref(), &key, &bytes)?),
            None => None,
        };
        match claim.is_some_and(|claim| claim.nonce == self.nonce) {
            true => Ok(()),
            false => RemovedSnafu { location: self.store.location() }.fail(),
        }
    }

    /// Creates an epoch's record; false if another's is there.
    async fn create_record(&self, epoch: Epoch, manifest: String) -> Result<bool, CheckpointError> {
        let record = EpochRecord { generation: self.generation.0, manifest, nonce: self.nonce };
        create_or_own(self.store.as_ref(), &paths::epoch(epoch), records::encode(&record)).await
    }

    /// A manifest of this generation, to be filled.
    pub fn manifest(&self, epoch: Epoch, parallelism: u32, plan: Plan, sql: String) -> Manifest {
        Manifest {
            format: FORMAT_VERSION,
            uid: self.identity.uid.0.clone(),
            epoch: epoch.0,
            generation: self.generation.0,
            attempt: self.identity.attempt.0,
            parallelism,
            max_parallelism: self.identity.max_parallelism.groups(),
            plan: Some(plan),
            sql,
            begun_from: self.begun_from.clone(),
            ..Default::default()
        }
    }
}

/// Creates an object under a key that nobody else uses, and reads it back: a record that names it is for good.
pub(super) async fn create_once(store: &dyn Store, key: &str, bytes: Vec<u8>) -> Result<(), CheckpointError> {
    create_or_own(store, key, bytes.clone()).await?;
    match store.get(key).await? == Some(bytes) {
        true => Ok(()),
        false => NotKeptSnafu { key, location: store.location() }.fail(),
    }
}

/// Creates an object; true also if it exists with exactly these bytes, from a try whose answer was lost.
pub(super) async fn create_or_own(
    store: &dyn Store,
    key: &str,
    bytes: Vec<u8>,
) -> Result<bool, CheckpointError> {
    loop {
        match store.create(key, bytes.clone()).await? {
            Created::Yes => return Ok(true),
            Created::Exists => {}
            Created::Unsupported => return unconditional(store),
        }
        // Absent after "exists": a race inside of the store; the create did not count and is tried again.
        if let Some(found) = store.get(key).await? {
            return Ok(found == bytes);
        }
    }
}

fn unconditional<T>(store: &dyn Store) -> Result<T, CheckpointError> {
    let message = format!(
        "'{}' cannot create an object only if it is absent (If-None-Match), which checkpoints need so that two coordinators never \
         overwrite each other; choose a checkpoint.location in a store that can",
        store.location()
    );
    RefusedSnafu { message }.fail()
}

/// Refuses a store that replaces an object although it was asked to create it only if absent. Asked once, before a job's first
/// start.
async fn probe(store: &dyn Store, uid: &JobUid) -> Result<(), CheckpointError> {
    let key = paths::probe(uid);
    let first = store.create(&key, b"first".to_vec()).await?;
    let second = match first {
        Created::Unsupported => return unconditional(store),
        Created::Yes => store.create(&key, b"second".to_vec()).await?,
        // Another coordinator of this job asks the same, or has been cut short: what it has created is not there twice.
        Created::Exists => Created::Exists,
    };
    match (second, store.get(&key).await?.as_deref()) {
        (Created::Exists, Some(b"first")) => {}
        // The other one has its answer, or it is a race inside of the store.
        (Created::Exists, None) => return Ok(()),
        _ => return unconditional(store),
    }
    // Only by whoever made it: another one may be between its two questions.
    if first == Created::Yes {
        store.delete(&[key]).await?;
    }
    Ok(())
}

/// Fails if a location holds another job's state, or this job's in a form that it cannot go on from.
pub async fn check_owner(store: &dyn Store, identity: &JobIdentity) -> Result<(), CheckpointError> {
    let ours = JobRecord {
        uid: identity.uid.0.clone(),
        format: FORMAT_VERSION,
        max_parallelism: identity.max_parallelism.groups(),
        key_encoding: KEY_ENCODING_VERSION,
        name: identity.name.clone(),
    };
    if store.get(paths::JOB).await?.is_none() {
        probe(store, &identity.uid).await?;
    }
    if create_or_own(store, paths::JOB, records::encode(&ours)).await? {
        return Ok(());
    }
    let stored: JobRecord = read(store, paths::JOB).await?;
    let location = store.location();
    let message = match resolve::owner(&stored, &ours) {
        Owner::Ours => return Ok(()),
        Owner::Other { name, uid } => format!(
            "'{location}' holds the state of the job '{name}' (uid {uid}), not of '{}' (uid {}); choose another \
             checkpoint.location, or remove what is there; a job elsewhere goes on from this state with spec.startFrom: {location}",
            ours.name, ours.uid
        ),
        Owner::OtherMaxParallelism { stored } => format!(
            "the state in '{location}' has maxParallelism {stored}, the manifest says {}; it cannot be changed after the \
             first start: set it back to {stored}",
            ours.max_parallelism
        ),
        Owner::NewerFormat { format } => newer_format(&location, format),
        Owner::OlderFormat { format } => format!(
            "the state in '{location}' has format {format}, and this release reads {OLDEST_FORMAT_VERSION} and later ones; choose \
             another checkpoint.location, or remove what is there"
        ),
    };
    RefusedSnafu { message }.fail()
}

fn newer_format(location: &str, format: u32) -> String {
    format!(
        "the state in '{location}' has format {format}, this release reads up to {FORMAT_VERSION}; use a newer release"
    )
}

/// The attempt of who removes a state: nobody takes it over any more.
pub const ERASES: Attempt = Attempt(u64::MAX);

/// Claims a generation, so that all earlier ones publish nothing any more.
pub async fn fence_off(
    store: &dyn Store,
    identity: &JobIdentity,
    claimant: &Claimant,
) -> Result<Generation, CheckpointError> {
    claim(store, identity, claimant).await
}

async fn claim(
    store: &dyn Store,
    identity: &JobIdentity,
    claimant: &Claimant,
) -> Result<Generation, CheckpointError> {
    let Claimant { nonce, own, parallelism, .. } = *claimant;
    loop {
        let newest = match newest_generation(store).await? {
            Some(generation) => {
                let claim: GenerationClaim = read(store, &paths::generation(generation)).await?;
                Some((generation, claim))
            }
            None => None,
        };
        if let Some((by, claim)) = &newest
            && own.is_some_and(|own| *by > own)
            && claim.nonce != nonce
        {
            return FencedSnafu { by: *by }.fail();
        }
        let next = match resolve::next_claim(newest.as_ref(), &identity.uid, identity.attempt) {
            Claim::Next(next) => next,
            Claim::Superseded { by } if by == ERASES => {
                let message = format!(
                    "the state in '{}' is being removed; if that was cut short, repeat it: millrace checkpoints JOB.yaml delete --all",
                    store.location()
                );
                return RefusedSnafu { message }.fail();
            }
            Claim::Superseded { by } => return SupersededSnafu { by }.fail(),
        };
        let (uid, attempt) = (identity.uid.0.clone(), identity.attempt.0);
        let ours = GenerationClaim { uid, attempt, nonce, parallelism };
        if !create_or_own(store, &paths::generation(next), records::encode(&ours)).await? {
            continue;
        }
        // The place may have been free because a newer generation has removed the claim that was there.
        if newest_generation(store).await? <= Some(next) {
            return Ok(next);
        }
    }
}

/// Of so many generations before this one the parallelism is looked up.
const EARLIER_MAX: u64 = 64;

/// Which generations have led the job from `first` on until `until`.
async fn led(store: &dyn Store, first: u64, until: Generation) -> Result<Vec<Led>, CheckpointError> {
    let first = first.max(until.0.saturating_sub(EARLIER_MAX)).max(1);
    let claims = (first..until.0).map(|generation| async move {
        let claim: GenerationClaim = read(store, &paths::generation(Generation(generation))).await?;
        Ok(Led { generation: Generation(generation), parallelism: claim.parallelism })
    });
    futures::future::try_join_all(claims).await
}

async fn newest_generation(store: &dyn Store) -> Result<Option<Generation>, StoreError> {
    let keys = store.list(paths::GENERATIONS).await?;
    Ok(keys.iter().filter_map(|key| paths::number_of(key, paths::GENERATIONS)).max().map(Generation))
}

/// Keys of the epoch records, in order. Those below the newest floor do not count: some may be removed already.
async fn record_keys(store: &dyn Store) -> Result<Vec<(Epoch, String)>, StoreError> {
    let floors = store.list(paths::FLOORS).await?;
    let floor = floors.iter().filter_map(|key| paths::number_of(key, paths::FLOORS)).max().unwrap_or(0);
    let keys = store.list(paths::EPOCHS).await?.into_iter();
    let numbered = keys.filter_map(|key| Some((paths::number_of(&key, paths::EPOCHS)?, key)));
    Ok(numbered.filter(|(epoch, _)| *epoch >= floor).map(|(epoch, key)| (Epoch(epoch), key)).collect())
}

/// Records that are read at a time: a job that could not start for long has left many without a checkpoint.
const RECORDS_AT_ONCE: usize = 16;

/// The epoch records from the newest checkpoint on.
async fn epoch_records(store: &dyn Store) -> Result<Vec<(Epoch, EpochRecord)>, CheckpointError> {
    let keys = record_keys(store).await?.into_iter().rev();
    let read = keys.map(|(epoch, key)| async move { (epoch, read::<EpochRecord>(store, &key).await) });
    let mut read = futures::stream::iter(read).buffered(RECORDS_AT_ONCE);
    let mut records = Vec::new();
    // Only the newest checkpoint matters: read backwards until one is found.
    while let Some((epoch, record)) = read.next().await {
        let record = record?;
        let is_checkpoint = !record.manifest.is_empty();
        records.push((epoch, record));
        if is_checkpoint {
            break;
        }
    }
    Ok(records)
}

/// The manifest of a checkpoint; one of another epoch under its key is as good as none.
async fn read_manifest(store: &dyn Store, epoch: Epoch, key: &str) -> Result<Manifest, CheckpointError> {
    let manifest: Manifest = read(store, key).await?;
    if manifest.format > FORMAT_VERSION {
        let (location, format) = (store.location(), manifest.format);
        return RefusedSnafu { message: newer_format(&location, format) }.fail();
    }
    match manifest.epoch == epoch.0 {
        true => Ok(manifest),
        false => {
            let damage = format!("it is the manifest of epoch {}", manifest.epoch);
            MalformedSnafu { key, location: store.location(), damage }.fail()
        }
    }
}

async fn read<T: Message + Default>(store: &dyn Store, key: &str) -> Result<T, CheckpointError> {
    let bytes = store.get(key).await?.context(MissingSnafu { key, location: store.location() })?;
    decode(store, key, &bytes)
}

fn decode<T: Message + Default>(store: &dyn Store, key: &str, bytes: &[u8]) -> Result<T, CheckpointError> {
    records::decode(bytes).map_err(|damage| {
        let (key, location) = (key.to_owned(), store.location());
        CheckpointError::Malformed { key, location, damage: damage.to_string() }
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::checkpoint::FolderStore;

    fn identity(uid: &str, attempt: u64) -> JobIdentity {
        JobIdentity {
            uid: JobUid(uid.to_owned()),
            name: format!("default/{uid}"),
            attempt: Attempt(attempt),
            max_parallelism: MaxParallelism::new(1024).unwrap(),
        }
    }

    async fn take_over(store: &Arc<dyn Store>, nonce: u64) -> TakenOver {
        Checkpoints::take_over(
            Arc::clone(store),
            identity("a", 1),
            &Claimant::new(nonce, 1),
            Safeguards::default(),
        )
        .await
        .unwrap()
    }

    fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
        (folder, store)
    }

    async fn publish(taken: &TakenOver, epoch: Epoch) -> Result<(), CheckpointError> {
        let manifest = taken.checkpoints.manifest(epoch, 1, Plan::default(), String::new());
        taken.checkpoints.publish(&manifest).await
    }

    type Create = Box<
        dyn Fn(Arc<dyn Store>, String, Vec<u8>) -> BoxFuture<'static, Result<Created, StoreError>>
            + Send
            + Sync,
    >;

    /// A store whose creates do what a test says.
    struct Careless {
        inner: Arc<dyn Store>,
        create: Create,
    }

    #[async_trait::async_trait]
    impl Store for Careless {
        async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
            (self.create)(Arc::clone(&self.inner), key.to_owned(), bytes).await
        }

        async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            self.inner.get(key).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
            self.inner.list(prefix).await
        }

        async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
            self.inner.delete(keys).await
        }

        fn location(&self) -> String {
            "s3://careless".to_owned()
        }
    }

    #[tokio::test]
    async fn a_late_claim_whose_place_was_made_free_leads_nothing() {
        let (_folder, inner) = store();
        let first = take_over(&inner, 1).await;
        publish(&first, Epoch(2)).await.unwrap();
        let is_late = Arc::new(Mutex::new(true));
        // While the second claim is under way others lead the job, and remove the claims before theirs.
        let create: Create = Box::new(move |inner, key, bytes| {
            let is_late = key == paths::generation(Generation(2)) && std::mem::take(&mut *is_late.lock());
            async move {
                if is_late {
                    take_over(&inner, 3).await;
                    let third = take_over(&inner, 3).await;
                    publish(&third, third.next_epoch).await.unwrap();
                    let manifest = newest(inner.as_ref()).await.unwrap().unwrap();
                    third.checkpoints.remove_old(&[Kept::of(&manifest)]).await.unwrap();
                    let claims = inner.list(paths::GENERATIONS).await.unwrap();
                    assert_eq!(claims, [paths::generation(Generation(3))]);
                }
                inner.create(&key, bytes).await
            }
            .boxed()
        });

        let late = take_over(&(Arc::new(Careless { inner: Arc::clone(&inner), create }) as _), 2).await;

        assert_eq!(late.checkpoints.generation(), Generation(4));
        assert_eq!(late.restored.unwrap().generation, 3);
        assert_eq!(late.earlier.iter().map(|led| led.generation.0).collect::<Vec<_>>(), [3]);
        assert!(matches!(publish(&first, Epoch(5)).await, Err(CheckpointError::Fenced { .. })));
    }

    #[tokio::test]
    async fn a_manifest_that_a_store_does_not_keep_is_no_checkpoint() {
        let (_folder, inner) = store();
        // It confirms the manifests of the third epoch, and keeps a part of them.
        let create: Create = Box::new(|inner, key, mut bytes| {
            if key.starts_with(&format!("{}{:020}-", paths::MANIFESTS, 3)) {
                bytes.truncate(20);
            }
            async move { inner.create(&key, bytes).await }.boxed()
        });
        let store: Arc<dyn Store> = Arc::new(Careless { inner, create });
        let first = take_over(&store, 1).await;
        publish(&first, Epoch(2)).await.unwrap();

        let refused = publish(&first, Epoch(3)).await;

        assert!(matches!(refused, Err(CheckpointError::NotKept { .. })), "{refused:?}");
        let second = take_over(&store, 2).await;
        assert_eq!((second.restored.unwrap().epoch, second.next_epoch), (2, Epoch(4)));
    }

    #[tokio::test]
    async fn epochs_that_were_given_up_leave_no_gap_for_a_late_record() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;
        publish(&first, Epoch(2)).await.unwrap();
        publish(&first, Epoch(5)).await.unwrap();
        // After an answer that was lost it is tried again.
        publish(&first, Epoch(5)).await.unwrap();
        assert_eq!(
            store.list(paths::EPOCHS).await.unwrap().len(),
            5,
            "the seal, two checkpoints, two given up"
        );

        let second = take_over(&store, 2).await;

        assert_eq!((second.restored.unwrap().epoch, second.next_epoch), (5, Epoch(7)));
        assert!(matches!(publish(&first, Epoch(9)).await, Err(CheckpointError::Fenced { .. })));
    }

    #[tokio::test]
    async fn a_process_that_was_superseded_does_not_take_the_job_back() {
        let (_folder, store) = store();
        let claim = async |own: Option<u64>, nonce: u64| {
            Checkpoints::take_over(
                Arc::clone(&store),
                identity("a", 1),
                &Claimant { own: own.map(Generation), ..Claimant::new(nonce, 1) },
                Safeguards::default(),
            )
            .await
        };

        assert_eq!(claim(None, 1).await.unwrap().checkpoints.generation(), Generation(1));
        assert_eq!(claim(Some(1), 1).await.unwrap().checkpoints.generation(), Generation(2));
        // Its own claim whose answer was lost does not stand in its way.
        assert_eq!(claim(Some(1), 1).await.unwrap().checkpoints.generation(), Generation(3));
        assert_eq!(claim(None, 2).await.unwrap().checkpoints.generation(), Generation(4));
        let refused = claim(Some(3), 1).await;
        assert!(matches!(refused, Err(CheckpointError::Fenced { by: Generation(4) })));
    }

    #[tokio::test]
    async fn a_newer_generation_restores_what_the_older_one_published() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;
        assert_eq!((first.checkpoints.generation(), first.next_epoch), (Generation(1), Epoch(2)));
        assert!(first.restored.is_none());
        publish(&first, Epoch(2)).await.unwrap();
        publish(&first, Epoch(3)).await.unwrap();
        first.checkpoints.mark_committed(Epoch(2), 0).await.unwrap();

        let second = take_over(&store, 2).await;

        assert_eq!(second.checkpoints.generation(), Generation(2));
        assert_eq!(second.restored.as_ref().unwrap().epoch, 3);
        assert!(second.replays_commit);
        assert_eq!(second.next_epoch, Epoch(5));
        second.checkpoints.mark_committed(Epoch(3), 0).await.unwrap();
        assert!(!take_over(&store, 3).await.replays_commit);
    }

    #[tokio::test]
    async fn an_older_generation_cannot_publish_after_a_takeover() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;
        publish(&first, Epoch(2)).await.unwrap();
        let second = take_over(&store, 2).await;

        for epoch in [3, 4, 5] {
            let refused = publish(&first, Epoch(epoch)).await;
            assert!(matches!(refused, Err(CheckpointError::Fenced { by: Generation(2) })), "{refused:?}");
        }
        publish(&second, second.next_epoch).await.unwrap();
    }

    #[tokio::test]
    async fn the_seal_holds_even_if_the_fence_was_read_before_the_takeover() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;
        publish(&first, Epoch(2)).await.unwrap();
        let second = take_over(&store, 2).await;

        // What a stalled process does that had passed its fence check before the takeover.
        let won = first.checkpoints.create_record(Epoch(3), "manifests/x".to_owned()).await.unwrap();

        assert!(!won);
        assert_eq!(second.restored.unwrap().epoch, 2);
    }

    #[tokio::test]
    async fn another_jobs_state_is_refused_with_the_cure() {
        let (_folder, store) = store();
        take_over(&store, 1).await;

        let refused = Checkpoints::take_over(
            Arc::clone(&store),
            identity("b", 1),
            &Claimant::new(2, 1),
            Safeguards::default(),
        )
        .await;

        let text = refused.err().unwrap().to_string();
        let asked = check_owner(store.as_ref(), &identity("b", 1)).await;
        assert!(matches!(asked, Err(CheckpointError::Refused { .. })));
        assert!(
            text.contains("'default/a'")
                && text.contains("'default/b'")
                && text.contains("remove what is there"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_checkpoint_of_a_newer_release_is_refused_with_the_cure() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;
        let mut manifest = first.checkpoints.manifest(first.next_epoch, 1, Plan::default(), String::new());
        manifest.format = FORMAT_VERSION + 1;
        first.checkpoints.publish(&manifest).await.unwrap();

        let refused = Checkpoints::take_over(
            Arc::clone(&store),
            identity("a", 1),
            &Claimant::new(2, 1),
            Safeguards::default(),
        )
        .await;

        let text = refused.err().unwrap().to_string();
        let expected = format!("has format {}, this release reads up to", FORMAT_VERSION + 1);
        assert!(text.contains(&expected) && text.contains("use a newer release"), "{text}");
    }

    #[tokio::test]
    async fn a_store_that_cannot_create_only_if_absent_is_refused_with_the_cure() {
        let cases = [(true, Created::Yes), (true, Created::Exists), (false, Created::Unsupported)];
        for (overwrites, answer) in cases {
            let (_folder, inner) = store();
            let create: Create = Box::new(move |inner, key, bytes| {
                async move {
                    if answer == Created::Unsupported {
                        return Ok(answer);
                    }
                    let was_there = inner.get(&key).await?.is_some();
                    if overwrites {
                        inner.delete(std::slice::from_ref(&key)).await?;
                    }
                    let created = inner.create(&key, bytes).await?;
                    Ok(if was_there { answer } else { created })
                }
                .boxed()
            });
            let store: Arc<dyn Store> = Arc::new(Careless { inner, create });

            let refused =
                Checkpoints::take_over(store, identity("a", 1), &Claimant::new(1, 1), Safeguards::default())
                    .await;

            let Err(CheckpointError::Refused { message }) = refused else {
                panic!("{overwrites} {answer:?} was not refused")
            };
            assert!(
                message.contains("'s3://careless' cannot create an object only if it is absent")
                    && message.contains("choose a checkpoint.location in a store that can"),
                "{message}"
            );
        }
    }

    #[tokio::test]
    async fn a_mark_that_another_process_has_made_is_as_good() {
        let (_folder, store) = store();
        let first = take_over(&store, 1).await;

        first.checkpoints.mark_finished(Epoch(2), 10).await.unwrap();
        first.checkpoints.mark_finished(Epoch(2), 20).await.unwrap();

        assert_eq!(finished(store.as_ref()).await.unwrap().map(|marker| marker.at_ms), Some(10));
    }

    #[tokio::test]
    async fn an_older_attempt_ends_itself() {
        let (_folder, store) = store();
        Checkpoints::take_over(
            Arc::clone(&store),
            identity("a", 2),
            &Claimant::new(1, 1),
            Safeguards::default(),
        )
        .await
        .unwrap();

        let refused = Checkpoints::take_over(
            Arc::clone(&store),
            identity("a", 1),
            &Claimant::new(2, 1),
            Safeguards::default(),
        )
        .await;

        assert!(matches!(refused, Err(CheckpointError::Superseded { by: Attempt(2) })));
    }
}
