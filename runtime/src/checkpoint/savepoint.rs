//! Copies of a checkpoint that need nothing else: savepoints. A job begins from one, also under another name and elsewhere.
//!
//! A savepoint has the form of a job's state: `job.pb`, segments, one manifest and its record; the mark of its commit comes last and
//! says that the copy is whole. So the state of any job serves as well as one.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::paths;
use super::protocol::{
    self, CheckpointError, Checkpoints, JobIdentity, MalformedSnafu, MissingSnafu, RefusedSnafu,
};
use super::records::{self, EpochRecord, FORMAT_VERSION, Manifest, Marker};
use super::store::Store;
use crate::model::key_encoding::KEY_ENCODING_VERSION;
use crate::model::{Epoch, Generation, WorkerId};

/// Segments that are copied at a time: each is in memory.
const COPIES: usize = 4;

/// In the keys of segments that came from elsewhere; no worker has this number.
const NO_WORKER: WorkerId = WorkerId(0);

/// Reads a whole segment and compares its checksums; says what is wrong.
pub type Verify = fn(&[u8]) -> Result<(), String>;

/// The newest checkpoint of a savepoint or of a job's state, which a job is to begin from.
///
/// # Errors
/// If there is none, its results are not all visible, or it is of another maxParallelism or a newer release.
pub async fn read(from: &dyn Store, identity: &JobIdentity) -> Result<Manifest, CheckpointError> {
    let location = from.location();
    let refused = |message: String| RefusedSnafu { message }.fail();
    let Some(owner) = protocol::owner(from).await? else {
        return refused(format!(
            "there is no state in '{location}' to begin from; name a savepoint, or the folder of a job: <location>/<namespace>/<name>"
        ));
    };
    let wanted = identity.max_parallelism.groups();
    if owner.max_parallelism != wanted {
        return refused(format!(
            "the state in '{location}' has maxParallelism {}, the manifest says {wanted}; set spec.maxParallelism to {}, on a \
             cluster by making the job anew",
            owner.max_parallelism, owner.max_parallelism
        ));
    }
    if owner.format > FORMAT_VERSION || owner.key_encoding != KEY_ENCODING_VERSION {
        return refused(format!(
            "the state in '{location}' is of a release that this one does not know; use a newer release"
        ));
    }
    // Without the record of what is visible an earlier checkpoint would be the newest.
    protocol::check_records(from).await?;
    let Some(manifest) = protocol::newest(from).await? else {
        return refused(format!("there is no checkpoint in '{location}' to begin from"));
    };
    if !protocol::is_committed(from).await? {
        return refused(not_committed(&location, Epoch(manifest.epoch)));
    }
    Ok(manifest)
}

fn not_committed(location: &str, epoch: Epoch) -> String {
    format!(
        "the results of checkpoint {epoch} in '{location}' are not all visible yet, and would be lost; let its job run until they are"
    )
}

/// Copies a checkpoint into an empty place, or one that holds this very copy or a part of it; returns how many bytes of state it has.
///
/// # Errors
/// If its results are not all visible, something is damaged, something else is there, or either store fails.
pub async fn save(
    from: &dyn Store,
    manifest: &Manifest,
    to: &dyn Store,
    verify: Verify,
) -> Result<u64, CheckpointError> {
    protocol::check_records(from).await?;
    let epoch = Epoch(manifest.epoch);
    let location = from.location();
    if from.get(&paths::commit(epoch)).await?.is_none() {
        return RefusedSnafu { message: not_committed(&location, epoch) }.fail();
    }
    let Some(owner) = protocol::owner(from).await? else {
        return MissingSnafu { key: paths::JOB, location }.fail();
    };
    let is_other = |key: &String| *key != paths::epoch(epoch);
    if to.list(paths::EPOCHS).await?.iter().any(is_other)
        || !protocol::create_or_own(to, paths::JOB, records::encode(&owner)).await?
    {
        let message = format!("there is something in '{}' already; choose another place", to.location());
        return RefusedSnafu { message }.fail();
    }
    let same_keys = segments(manifest).into_iter().map(|key| (key.clone(), key)).collect();
    let bytes = copy(from, to, &same_keys, verify).await?;
    let mut saved = manifest.clone();
    saved.subtasks.iter_mut().for_each(|state| state.committables.clear());
    let key = paths::manifest(epoch, Generation(manifest.generation));
    protocol::create_once(to, &key, records::encode(&saved)).await?;
    let record = EpochRecord { generation: manifest.generation, manifest: key, nonce: 0 };
    protocol::create_once(to, &paths::epoch(epoch), records::encode(&record)).await?;
    let mark = Marker { epoch: epoch.0, at_ms: manifest.created_ms };
    protocol::create_once(to, &paths::commit(epoch), records::encode(&mark)).await?;
    Ok(bytes)
}

/// Makes another place's checkpoint the first one of a job that has none.
///
/// # Errors
/// If either store fails, or a newer generation has taken over.
pub async fn adopt(
    checkpoints: &Checkpoints,
    from: &dyn Store,
    manifest: &Manifest,
    epoch: Epoch,
    verify: Verify,
) -> Result<Manifest, CheckpointError> {
    let generation = checkpoints.generation();
    // Keys of this job's own: it numbers its epochs and generations anew.
    let own =
        |(number, key): (usize, String)| (key, paths::segment(epoch, generation, NO_WORKER, number as u64));
    let keys: BTreeMap<String, String> = segments(manifest).into_iter().enumerate().map(own).collect();
    copy(from, checkpoints.store().as_ref(), &keys, verify).await?;
    let plan = manifest.plan.clone().unwrap_or_default();
    let mut adopted = Manifest {
        subtasks: manifest.subtasks.clone(),
        created_ms: manifest.created_ms,
        is_final: manifest.is_final,
        bytes: manifest.bytes,
        ..checkpoints.manifest(epoch, manifest.parallelism, plan, manifest.sql.clone())
    };
    for state in &mut adopted.subtasks {
        state.committables.clear();
        for run in state.tables.iter_mut().flat_map(|table| &mut table.runs) {
            if let Some(key) = keys.get(&run.segment) {
                run.segment.clone_from(key);
            }
        }
    }
    checkpoints.publish(&adopted).await?;
    checkpoints.mark_committed(epoch, manifest.created_ms).await?;
    Ok(adopted)
}

/// Keys of the segments that a checkpoint needs.
fn segments(manifest: &Manifest) -> BTreeSet<String> {
    let tables = manifest.subtasks.iter().flat_map(|state| &state.tables);
    tables.flat_map(|table| &table.runs).map(|run| run.segment.clone()).collect()
}

/// Copies objects under other keys; returns their bytes.
async fn copy(
    from: &dyn Store,
    to: &dyn Store,
    keys: &BTreeMap<String, String>,
    verify: Verify,
) -> Result<u64, CheckpointError> {
    let one = |(key, new): (String, String)| async move {
        let bytes = from.get(&key).await?;
        let Some(bytes) = bytes else { return MissingSnafu { key, location: from.location() }.fail() };
        if let Err(damage) = verify(&bytes) {
            return MalformedSnafu { key, location: from.location(), damage }.fail();
        }
        let length = bytes.len() as u64;
        protocol::create_once(to, &new, bytes).await?;
        Ok(length)
    };
    let copies = stream::iter(keys.clone()).map(one).buffer_unordered(COPIES);
    copies.try_fold(0, |sum, length| async move { Ok(sum + length) }).await
}
