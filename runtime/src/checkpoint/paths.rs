//! Keys of all objects, relative to a job's prefix. Numbers have 20 digits, so that keys sort as numbers do.

use crate::model::{Epoch, Generation, JobUid, WorkerId};

/// Identity and fixed settings of the job.
pub const JOB: &str = "job.pb";

/// Prefix of what shows that a store is fit for states.
pub const PROBES: &str = "probes/";

/// Shows, before a job's first start, that the store creates objects only if they are absent.
pub fn probe(uid: &JobUid) -> String {
    format!("{PROBES}{uid}")
}

/// A bounded job's end.
pub const FINISHED: &str = "finished";
/// Prefix of generation claims.
pub const GENERATIONS: &str = "generations/";
/// Prefix of epoch records.
pub const EPOCHS: &str = "epochs/";

/// Prefix of manifests.
pub const MANIFESTS: &str = "manifests/";
/// Prefix of segments.
pub const SEGMENTS: &str = "segments/";
/// Prefix of marks of commits.
pub const COMMITS: &str = "commits/";
/// Prefix of floors.
pub const FLOORS: &str = "floors/";

/// Where savepoints are.
pub const SAVEPOINTS: &str = "savepoints/";

/// The savepoint of an epoch.
pub fn savepoint(epoch: Epoch) -> String {
    format!("{SAVEPOINTS}{:020}", epoch.0)
}

/// Records below this epoch are about to be removed, and count no more.
pub fn floor(epoch: Epoch) -> String {
    format!("{FLOORS}{:020}", epoch.0)
}

/// The epoch that any object's key begins with under its prefix.
pub fn epoch_of(key: &str, prefix: &str) -> Option<Epoch> {
    key.strip_prefix(prefix)?.split('-').next()?.parse().ok().map(Epoch)
}

/// The claim of a generation.
pub fn generation(generation: Generation) -> String {
    format!("{GENERATIONS}{generation:020}", generation = generation.0)
}

/// The record that makes an epoch's checkpoint.
pub fn epoch(epoch: Epoch) -> String {
    format!("{EPOCHS}{epoch:020}", epoch = epoch.0)
}

/// The manifest of an epoch, by one generation.
pub fn manifest(epoch: Epoch, generation: Generation) -> String {
    format!("{MANIFESTS}{:020}-{:020}", epoch.0, generation.0)
}

/// State of one worker and epoch.
pub fn segment(epoch: Epoch, generation: Generation, worker: WorkerId, number: u64) -> String {
    format!("{SEGMENTS}{:020}-{:020}-{:020}-{number:020}", epoch.0, generation.0, worker.0)
}

/// The mark that an epoch's sinks have committed.
pub fn commit(epoch: Epoch) -> String {
    format!("{COMMITS}{:020}", epoch.0)
}

/// The number at the end of a key under a prefix.
pub fn number_of(key: &str, prefix: &str) -> Option<u64> {
    key.strip_prefix(prefix)?.parse().ok()
}
