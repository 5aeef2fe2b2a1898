//! An older checkpoint in the place of one that cannot be restored, where that loses nothing that was written.

use std::collections::BTreeMap;

use crate::checkpoint::records::Manifest;
use crate::checkpoint::{CheckpointError, Store, protocol};
use crate::error::chain;
use crate::model::Epoch;
use crate::state::verify_segment;

/// What is known of segments, so that each is read once: what is wrong with them, if something is.
#[derive(Debug, Default)]
pub struct Looked(BTreeMap<String, Option<String>>);

impl Looked {
    /// What was found damaged may have been put back meanwhile, and is looked at anew.
    pub fn again(&mut self) {
        self.0.retain(|_, damage| damage.is_none());
    }

    /// What is wrong with the segments of a checkpoint.
    async fn damage_of(
        &mut self,
        store: &dyn Store,
        manifest: &Manifest,
    ) -> Result<Option<String>, CheckpointError> {
        for key in manifest.segments().into_keys() {
            if !self.0.contains_key(key) {
                self.0.insert(key.to_owned(), damage_of(store, key).await?);
            }
            if let Some(damage) = self.0.get(key).cloned().flatten() {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }
}

/// What is wrong with a segment.
async fn damage_of(store: &dyn Store, key: &str) -> Result<Option<String>, CheckpointError> {
    let Some(bytes) = store.get(key).await? else {
        return Ok(Some(format!("the segment '{key}' is missing")));
    };
    Ok(verify_segment(&bytes).err().map(|damage| format!("the segment '{key}' cannot be read: {damage}")))
}

/// The checkpoint to go on from: the newest one, if nothing is wrong with it, or the newest whole one before it. Between them no
/// results may have been written: a job that goes back behind those would write them again.
///
/// # Errors
/// If there is none: what is damaged, and why no other checkpoint can take its place.
pub async fn whole(
    store: &dyn Store,
    newest: &Manifest,
    looked: &mut Looked,
) -> Result<Manifest, CheckpointError> {
    let Some(damage) = looked.damage_of(store, newest).await? else { return Ok(newest.clone()) };
    let refused = |why: String| {
        let (damage, location) = (damage.clone(), store.location());
        Err(CheckpointError::Irreplaceable { damage, location, why })
    };
    let mut above = newest.clone();
    for older in protocol::complete(store).await? {
        if older.epoch >= Epoch(newest.epoch) {
            continue;
        }
        if has_results(&above) {
            let why = "has results that are written already, and an older one would write them again";
            return refused(format!("checkpoint {} {why}", above.epoch));
        }
        let manifest = match older.manifest {
            Ok(manifest) => manifest,
            Err(CheckpointError::Store { source }) => return Err(source.into()),
            Err(error) => {
                return refused(format!("checkpoint {} is damaged, too: {}", older.epoch, chain(&error)));
            }
        };
        if looked.damage_of(store, &manifest).await?.is_none() {
            return Ok(manifest);
        }
        above = manifest;
    }
    refused("there is no older one that is whole".to_owned())
}

/// True if something becomes visible with a checkpoint.
fn has_results(manifest: &Manifest) -> bool {
    manifest.subtasks.iter().any(|state| !state.committables.is_empty())
}
