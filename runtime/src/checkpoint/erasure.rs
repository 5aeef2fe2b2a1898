//! Removal of a job's whole state, for good. Savepoints stay: they belong to whoever asked for them.

use super::paths;
use super::protocol::{self, CheckpointError, Claimant, JobIdentity, RefusedSnafu};
use super::records::JobRecord;
use super::store::Store;
use crate::fault::{CrashPoint, crash_at};
use crate::model::JobUid;

/// Objects that are removed at a time.
const BATCH: usize = 1000;

/// Removes all objects of a job's state; returns how many. Repeated after a crash it removes the rest, and a job that begins
/// meanwhile is refused: records go first, and the newest of them last, so that what is left is damage and never an older state.
///
/// # Errors
/// If it is the state of another job, or the store fails.
pub async fn erase(store: &dyn Store, uid: Option<&JobUid>, nonce: u64) -> Result<usize, CheckpointError> {
    let Some(owner) = owner(store, uid).await? else { return Ok(0) };
    let Some(identity) = JobIdentity::of(&owner, protocol::ERASES) else {
        let message = format!(
            "'{}' holds the state of no job that this release knows; nothing was removed",
            store.location()
        );
        return RefusedSnafu { message }.fail();
    };
    // No coordinator publishes anything any more.
    protocol::fence_off(store, &identity, &Claimant::new(nonce, 0)).await?;
    let mut removed = 0;
    let mut epochs = store.list(paths::EPOCHS).await?;
    epochs.sort_unstable();
    let newest = epochs.pop();
    for keys in [epochs, newest.into_iter().collect()] {
        removed += delete(store, keys).await?;
        crash_at(CrashPoint::RecordsErased);
    }
    delete(store, vec![paths::FINISHED.to_owned()]).await?;
    for prefix in
        [paths::MANIFESTS, paths::SEGMENTS, paths::COMMITS, paths::FLOORS, paths::PROBES, paths::GENERATIONS]
    {
        removed += delete(store, store.list(prefix).await?).await?;
    }
    Ok(removed + delete(store, vec![paths::JOB.to_owned()]).await?)
}

/// Whose state is at a place.
///
/// # Errors
/// If it is not the job with this uid, or the store fails.
pub async fn owner(store: &dyn Store, uid: Option<&JobUid>) -> Result<Option<JobRecord>, CheckpointError> {
    let Some(owner) = protocol::owner(store).await? else { return Ok(None) };
    if let Some(uid) = uid.filter(|uid| uid.0 != owner.uid) {
        let message = format!(
            "'{}' holds the state of another job, '{}' (uid {}), and not of that with the uid {uid}; nothing was removed",
            store.location(),
            owner.name,
            owner.uid
        );
        return RefusedSnafu { message }.fail();
    }
    Ok(Some(owner))
}

async fn delete(store: &dyn Store, keys: Vec<String>) -> Result<usize, CheckpointError> {
    for batch in keys.chunks(BATCH) {
        store.delete(batch).await?;
    }
    Ok(keys.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::{Checkpoints, FolderStore};
    use crate::fault::Safeguards;
    use crate::model::{Attempt, Epoch, MaxParallelism};

    #[tokio::test]
    async fn a_state_is_removed_whole_and_whoever_led_it_publishes_nothing_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
        assert_eq!(erase(store.as_ref(), None, 7).await.unwrap(), 0, "there is nothing");
        let identity = JobIdentity {
            uid: JobUid("uid".to_owned()),
            name: "default/a".to_owned(),
            attempt: Attempt(3),
            max_parallelism: MaxParallelism::new(8).unwrap(),
        };
        let claimant = Claimant::new(1, 1);
        let safeguards = Safeguards::default();
        let taken = Checkpoints::take_over(Arc::clone(&store), identity.clone(), &claimant, safeguards)
            .await
            .unwrap();
        let publish = |epoch: u64| {
            let manifest = taken.checkpoints.manifest(Epoch(epoch), 1, Default::default(), String::new());
            let checkpoints = &taken.checkpoints;
            async move {
                checkpoints.publish(&manifest).await?;
                checkpoints.mark_committed(Epoch(epoch), 0).await
            }
        };
        publish(2).await.unwrap();
        store.create("savepoints/00000000000000000002/job.pb", vec![1]).await.unwrap();
        let other = erase(store.as_ref(), Some(&JobUid("other".to_owned())), 7).await.unwrap_err();
        assert!(other.to_string().contains("another job, 'default/a' (uid uid)"), "{other}");
        publish(3).await.unwrap();

        // Ended half-way: a job that begins now is refused.
        protocol::fence_off(
            store.as_ref(),
            &JobIdentity { attempt: protocol::ERASES, ..identity.clone() },
            &Claimant::new(9, 0),
        )
        .await
        .unwrap();
        assert!(matches!(publish(4).await, Err(CheckpointError::Fenced { .. })));
        store.delete(&store.list(paths::EPOCHS).await.unwrap()).await.unwrap();
        let begun =
            Checkpoints::take_over(Arc::clone(&store), identity.clone(), &Claimant::new(2, 1), safeguards)
                .await;
        assert!(matches!(begun, Err(CheckpointError::Refused { .. })));

        assert!(erase(store.as_ref(), Some(&identity.uid), 7).await.unwrap() > 5);
        assert_eq!(store.list("").await.unwrap(), ["savepoints/00000000000000000002/job.pb"]);
        // Whoever led it and does not know publishes nothing into the empty place.
        assert!(matches!(publish(5).await, Err(CheckpointError::Removed { .. })));
        let claimant = Claimant::new(3, 1);
        let begun = Checkpoints::take_over(Arc::clone(&store), identity, &claimant, safeguards).await;
        let begun = begun.unwrap();
        assert_eq!(begun.restored, None, "it begins as a new one");
        // It leads a generation of the same number, and is told apart all the same.
        assert_eq!(begun.checkpoints.generation(), taken.checkpoints.generation());
        assert!(matches!(publish(6).await, Err(CheckpointError::Removed { .. })));
        let manifest = begun.checkpoints.manifest(begun.next_epoch, 1, Default::default(), String::new());
        begun.checkpoints.publish(&manifest).await.unwrap();
    }
}
